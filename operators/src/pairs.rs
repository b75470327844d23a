//! From lists to pairs: rules 4 to 6, re-evaluated for exactly the queries that something changed.
//!
//! A query's rows depend on its own lists and on the vectors of the images in them. Lists name
//! versions, so an image that was replaced changes every list that held it, and with it every guard
//! it took part in. What lists do not name are the targets of watched pairs: those are found by an
//! index from target to queries.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use schemas::{Epoch, shard_of};
use timely::dataflow::{
    StreamVec,
    channels::pact::Pipeline,
    operators::{
        Concatenate, Exchange,
        generic::Operator,
        vec::{Broadcast, Map},
    },
};

use crate::{
    flow::{Pair, RowId, VersionChange},
    neighbors::{Counters, Lists, Mining, Neighbor, Stash, VectorBook},
};

mod rules;

use rules::Rules;

/// A query and a target that have an answer.
pub type Watched = (Arc<str>, Arc<str>);

/// Whatever makes a query worth another look.
enum Cause {
    /// Its lists changed, or it left.
    Lists(Lists),
    /// The image has another version, or none.
    Version(Arc<str>),
    /// A pair is watched, or no longer.
    Watched(Watched, Epoch, isize),
}

/// The box: changes of the rows of pairs. `lists` and `versions` are what the neighbors box gave
/// and took; of `watched`, the pairs that have an answer, those that are not mined are rows too
/// (`mined` is false), as long as both images are. At any time there is one row per pair at most.
pub fn pairs<'s>(
    lists: StreamVec<'s, Epoch, Lists>,
    versions: StreamVec<'s, Epoch, VersionChange>,
    watched: StreamVec<'s, Epoch, (Watched, Epoch, isize)>,
    mining: Arc<Mining>,
    book: Arc<VectorBook>,
    counters: Arc<Counters>,
) -> StreamVec<'s, Epoch, (Pair, Epoch, isize)> {
    let scope = lists.scope();
    let (index, peers) = (scope.index(), scope.peers());
    // Every worker looks whether it watches an image; the lists are where their query is.
    let versions = versions.map(|change| Arc::clone(change.image_id())).broadcast();
    let watched = watched.exchange(|((query, _), _, _)| shard_of(query));
    let causes = scope.concatenate([
        lists.map(Cause::Lists),
        versions.map(Cause::Version),
        watched.map(|(pair, epoch, diff)| Cause::Watched(pair, epoch, diff)),
    ]);
    let rules = Rules { mining, book, counters };
    causes.unary_frontier(Pipeline, "Pairs", move |_, _| {
        let mut stash = Stash::new();
        let mut state = State::default();
        move |(input, frontier), output| {
            input.for_each_stamp(|cap, data| {
                let Some(cap) = cap.retain_least(0) else { return };
                for cause in data.flat_map(|causes| causes.drain(..)) {
                    // A record of a differential collection may be later than its message.
                    let epoch =
                        if let Cause::Watched(_, epoch, _) = cause { epoch } else { *cap.time() };
                    stash.put(&cap, epoch, cause);
                }
            });
            while let Some((cap, causes)) = stash.closed(&frontier.frontier()) {
                let epoch = *cap.time();
                let changes = state.apply(causes, &rules, epoch);
                let updates = changes.into_iter().map(|(pair, diff)| (pair, epoch, diff));
                output.session(&cap).give_iterator(updates);
                rules.book.closed(index, peers, epoch);
            }
        }
    })
}

/// The queries of one worker.
#[derive(Default)]
struct State {
    queries: HashMap<Arc<str>, Query>,
    /// Queries that watch a target.
    watchers: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

#[derive(Default)]
struct Query {
    /// The version that is mined now, and its N_c.
    listed: Option<(RowId, [Vec<Neighbor>; 3])>,
    /// How often each target is watched; never 0.
    watched: BTreeMap<Arc<str>, isize>,
    /// The rows that hold now, by target: few, and a map of few has room for many.
    pairs: Box<[Pair]>,
}

impl State {
    /// All that one epoch changes, and what that makes of the pairs.
    fn apply(&mut self, causes: Vec<Cause>, rules: &Rules, epoch: Epoch) -> Vec<(Pair, isize)> {
        let mut queries = Vec::new();
        let mut versions = Vec::new();
        for cause in causes {
            match cause {
                Cause::Lists(Lists { image_id, row, channels }) => {
                    let query = self.queries.entry(Arc::clone(&image_id)).or_default();
                    query.listed = channels.map(|channels| (row, channels));
                    queries.push(image_id);
                }
                Cause::Version(image_id) => versions.push(image_id),
                Cause::Watched((query_id, target_id), _, diff) => {
                    self.watch(&query_id, target_id, diff);
                    queries.push(query_id);
                }
            }
        }
        for image_id in versions {
            queries.extend(self.watchers.get(&image_id).into_iter().flatten().map(Arc::clone));
        }
        queries.sort_unstable();
        queries.dedup();
        let mut changes = Vec::new();
        for query_id in queries {
            self.evaluate(&query_id, rules, epoch, &mut changes);
        }
        changes
    }

    fn watch(&mut self, query_id: &Arc<str>, target_id: Arc<str>, diff: isize) {
        let query = self.queries.entry(Arc::clone(query_id)).or_default();
        let count = query.watched.entry(Arc::clone(&target_id)).or_insert(0);
        *count += diff;
        if *count != 0 {
            self.watchers.entry(target_id).or_default().insert(Arc::clone(query_id));
            return;
        }
        query.watched.remove(&target_id);
        if let Some(watchers) = self.watchers.get_mut(&target_id) {
            watchers.remove(query_id);
            if watchers.is_empty() {
                self.watchers.remove(&target_id);
            }
        }
    }

    fn evaluate(
        &mut self,
        query_id: &Arc<str>,
        rules: &Rules,
        epoch: Epoch,
        changes: &mut Vec<(Pair, isize)>,
    ) {
        let Some(query) = self.queries.get_mut(query_id) else { return };
        let pairs = match &query.listed {
            Some((row, channels)) => rules.pairs(*row, channels, &query.watched, epoch),
            None => BTreeMap::new(),
        };
        let before = std::mem::replace(&mut query.pairs, pairs.into_values().collect());
        changes.extend(missing(&before, &query.pairs).map(|pair| (pair.clone(), -1)));
        changes.extend(missing(&query.pairs, &before).map(|pair| (pair.clone(), 1)));
        if query.listed.is_none() && query.watched.is_empty() {
            self.queries.remove(query_id);
        }
    }
}

/// The pairs of `held` that `other` has not; both are by target.
fn missing<'a>(held: &'a [Pair], other: &'a [Pair]) -> impl Iterator<Item = &'a Pair> {
    held.iter().filter(|pair| {
        let at = other.binary_search_by(|other| other.target_id.cmp(&pair.target_id));
        at.map(|at| &other[at]) != Ok(pair)
    })
}
