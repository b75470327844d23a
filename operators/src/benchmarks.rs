//! benchmarks: images of evaluation sets, and copies of them, are turned away like those outside a
//! limit. What matches is known of a message before register hears of it: sha256 and perceptual hash
//! from decode, vectors by encoding here, once, for embed takes over what was found.
//!
//! ```text
//!  arrivals ─► same bytes? near hash? ─► encode, score (beside the dataflow) ─► arrivals, rejects
//! ```
//!
//! A set counts from the epoch that has its row of `blocked`, for every message of that epoch. What
//! is live already was compared before that by whoever brings the row, and register takes it down.

#![expect(clippy::result_large_err, reason = "`Err` is the other stream here, not an error")]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use kernels::encoders::ImageEncoder;
use schemas::{
    ContentId, Epoch,
    benchmark::CHANNELS,
    limits,
    reject::Reason,
    shard_of,
    tables::{BlockedRow, RejectRow},
};
use serde::{Deserialize, Serialize};
use timely::dataflow::{
    StreamVec,
    channels::pact::Exchange,
    operators::{Capability, Concat, generic::Operator, vec::Map},
};

use crate::{
    embed::Encoders,
    epochs::{Stash, split},
    flow::{Arrival, Outcome, Picture},
    offload::{Offload, Pool},
};

pub use set::{Match, Set};

mod set;

/// `blocked.kind` of a row that names a set.
pub const KIND: &str = "benchmark";

/// What the process holds of benchmarks, by `blocked.value`. A row of a value that is not held has no
/// effect, so whoever sends the row puts its set here before that.
#[derive(Default)]
pub struct Benchmarks(RwLock<BTreeMap<String, Entry>>);

#[derive(Clone)]
struct Entry {
    set: Arc<Set>,
    /// In force since the start.
    known: bool,
    /// Live contents that are of the set, with the words for `rejects`.
    live: Arc<HashMap<ContentId, String>>,
}

impl Benchmarks {
    /// Holds a set that is in force since before the start: no live image is of it.
    pub fn know(&self, set: Set) {
        self.put(set, true, HashMap::new());
    }

    /// Holds a set before its row goes in. `live` are the contents that are live before the epoch of
    /// that row and are of the set, with the words for `rejects`.
    pub fn add(&self, set: Set, live: HashMap<ContentId, String>) {
        self.put(set, false, live);
    }

    fn put(&self, set: Set, known: bool, live: HashMap<ContentId, String>) {
        let entry = Entry { set: Arc::new(set), known, live: Arc::new(live) };
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        held.insert(entry.set.value().to_owned(), entry);
    }

    fn get(&self, value: &str) -> Option<Entry> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.get(value).cloned()
    }

    /// Whether a value's set is held.
    pub fn holds(&self, value: &str) -> bool {
        self.get(value).is_some()
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The live contents that a value's row takes down.
    pub(crate) fn live(&self, row: &BlockedRow) -> Option<Arc<HashMap<ContentId, String>>> {
        if row.kind == KIND { Some(self.get(&row.value)?.live) } else { None }
    }

    fn known(&self) -> BTreeMap<String, Arc<Set>> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = held.iter().filter(|(_, entry)| entry.known);
        known.map(|(value, entry)| (value.clone(), entry.set.clone())).collect()
    }
}

/// Turns away what is of a set in force. `blocks` are the rows that register gets as well.
pub fn benchmarks<'s>(
    arrivals: StreamVec<'s, Epoch, Arrival>,
    blocks: StreamVec<'s, Epoch, BlockedRow>,
    held: Arc<Benchmarks>,
    encoders: Arc<Encoders>,
    pool: Arc<Pool>,
) -> (StreamVec<'s, Epoch, Arrival>, StreamVec<'s, Epoch, RejectRow>) {
    let scope = arrivals.scope();
    let peers = scope.peers() as u64;
    let sets = blocks.flat_map(move |row| {
        let value = (row.kind == KIND).then_some(row.value);
        value
            .into_iter()
            .flat_map(move |value| (0..peers).map(move |worker| (worker, Told::Set(value.clone()))))
    });
    // By content, so that one worker knows what it has seen of it.
    let told = arrivals.map(|arrival| {
        let to = match &arrival.outcome {
            Outcome::Live(picture, _) => picture.content_id.hash64(),
            Outcome::Gone => shard_of(&arrival.image_id),
        };
        (to, Told::Arrived(arrival))
    });
    let route = Exchange::new(|(to, _): &(u64, Told)| *to);
    let compared = told.concat(sets).unary_frontier(route, "Benchmarks", move |_, info| {
        let wake = scope.worker().sync_activator_for(info.address.to_vec());
        let mut offload: Offload<usize, Vec<Found>> = Offload::new(pool, wake);
        let mut known = Comparer::new(held, encoders);
        let mut stash = Stash::default();
        let mut running: Option<(Capability<Epoch>, Running)> = None;
        move |(input, frontier), output| {
            input.for_each_stamp(|capability, data| {
                if let Some(capability) = capability.retain_least(output.output_index()) {
                    stash.rows(capability).extend(data.flat_map(|rows| rows.drain(..)));
                }
            });
            loop {
                let Some((_, epoch)) = &mut running else {
                    let Some((capability, told)) = stash.next_closed(frontier) else { break };
                    let told = told.into_iter().map(|(_, told)| told);
                    running = Some((capability, known.hear(told, &mut offload)));
                    continue;
                };
                while let Some((channel, found)) = offload.next_answer() {
                    epoch.take(channel, found);
                }
                if !offload.is_idle() {
                    break;
                }
                let (capability, epoch) = running.take().expect("it is running");
                output.session(&capability).give_iterator(known.end(epoch).into_iter());
            }
        }
    });
    split(compared, |arrival_or_reject| arrival_or_reject)
}

/// What one worker hears.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Told {
    /// From this epoch on this set is in force.
    Set(String),
    Arrived(Arrival),
}

/// A content, its vector, and what that is like.
struct Found {
    content_id: ContentId,
    vector: Option<Arc<[i16]>>,
    detail: Option<String>,
}

/// An epoch that is being compared.
struct Running {
    arrivals: Vec<(Arrival, Option<String>)>,
    /// By channel of [`CHANNELS`].
    found: [HashMap<ContentId, Found>; 2],
}

impl Running {
    fn take(&mut self, channel: usize, found: Vec<Found>) {
        self.found[channel].extend(found.into_iter().map(|found| (found.content_id, found)));
    }
}

/// The sets in force, and what one worker remembers.
struct Comparer {
    held: Arc<Benchmarks>,
    encoders: Arc<Encoders>,
    /// By value, so that it does not matter in which order they came.
    sets: BTreeMap<String, Arc<Set>>,
    /// Contents that were compared with all of them but for given vectors, and are of none.
    clean: HashSet<ContentId>,
}

impl Comparer {
    fn new(held: Arc<Benchmarks>, encoders: Arc<Encoders>) -> Comparer {
        let sets = held.known();
        Comparer { held, encoders, sets, clean: HashSet::new() }
    }

    /// Compares what can be compared at once, and has the rest encoded.
    fn hear(
        &mut self,
        told: impl Iterator<Item = Told>,
        offload: &mut Offload<usize, Vec<Found>>,
    ) -> Running {
        let mut arrivals = Vec::new();
        for told in told {
            match told {
                Told::Arrived(arrival) => arrivals.push((arrival, None)),
                Told::Set(value) => {
                    if let Some(entry) = self.held.get(&value) {
                        self.sets.insert(value, entry.set);
                        self.clean.clear();
                    }
                }
            }
        }
        let mut wanted: BTreeMap<ContentId, Arc<Picture>> = BTreeMap::new();
        for (arrival, detail) in arrivals.iter_mut().filter(|_| !self.sets.is_empty()) {
            let Outcome::Live(picture, _) = &arrival.outcome else { continue };
            let is_clean = self.clean.contains(&picture.content_id);
            *detail = self.compare(picture, is_clean);
            if detail.is_none() && !is_clean {
                wanted.insert(picture.content_id, picture.clone());
            }
        }
        let wanted: Vec<Arc<Picture>> = wanted.into_values().collect();
        for channel in 0..CHANNELS.len() {
            self.encode(channel, &wanted, offload);
        }
        Running { arrivals, found: Default::default() }
    }

    /// By bytes, by hash, and by the vectors that came along.
    fn compare(&self, picture: &Picture, is_clean: bool) -> Option<String> {
        let sets = || self.sets.values();
        if !is_clean {
            let id = picture.content_id;
            let phash = u64::from_str_radix(&picture.content.phash, 16).ok();
            let same = sets().find_map(|set| Some(set.words(set.by_content(id)?)));
            let near = || sets().find_map(|set| Some(set.words(set.by_phash(phash?)?)));
            if let Some(detail) = same.or_else(near) {
                return Some(detail);
            }
        }
        CHANNELS.into_iter().find_map(|channel| {
            self.encoders.given[channel.index()]?;
            let vector = picture.given[channel.index()].as_deref()?;
            best_of(sets(), channel.index(), &[vector]).pop().flatten()
        })
    }

    fn encode(
        &self,
        channel: usize,
        wanted: &[Arc<Picture>],
        offload: &mut Offload<usize, Vec<Found>>,
    ) {
        let Some(encoder) = &self.encoders.image[channel] else { return };
        let sets: Vec<Arc<Set>> =
            self.sets.values().filter(|set| set.compares(channel)).cloned().collect();
        if sets.is_empty() {
            return;
        }
        for batch in wanted.chunks(limits::ENCODE_BATCH) {
            let (encoder, sets, batch) = (encoder.clone(), sets.clone(), batch.to_vec());
            offload.submit(channel, move || encoded(&*encoder, channel, &batch, &sets));
        }
    }

    /// What leaves of an epoch, once all of it is encoded.
    fn end(&mut self, epoch: Running) -> Vec<Result<Arrival, RejectRow>> {
        let Running { arrivals, found } = epoch;
        let mut out = Vec::with_capacity(arrivals.len());
        for (mut arrival, mut detail) in arrivals {
            if let Outcome::Live(picture, _) = &mut arrival.outcome
                && !self.sets.is_empty()
                && detail.is_none()
            {
                let id = picture.content_id;
                let mine = || found.iter().map(|of_channel| of_channel.get(&id));
                detail = mine().flatten().find_map(|found| found.detail.clone());
                if detail.is_none() {
                    for (channel, found) in mine().enumerate() {
                        let Some(vector) = found.and_then(|found| found.vector.clone()) else {
                            continue;
                        };
                        // Embed need not encode it again. Nobody else holds the picture by now.
                        Arc::make_mut(picture).given[channel] = Some(vector);
                    }
                    if self.clean.len() >= limits::BENCHMARK_CLEAN_MAX {
                        self.clean.clear();
                    }
                    self.clean.insert(id);
                }
            }
            if let Some(detail) = detail {
                let (id, at) = (Some(&*arrival.image_id), &arrival.position);
                out.push(Err(RejectRow::message(Reason::Benchmark, detail, id, at)));
                arrival.outcome = Outcome::Gone;
            }
            out.push(Ok(arrival));
        }
        out
    }
}

/// Of each vector the words about the first set that has a near one.
fn best_of<'a>(
    sets: impl Iterator<Item = &'a Arc<Set>>,
    channel: usize,
    vectors: &[&[i16]],
) -> Vec<Option<String>> {
    let mut details = vec![None; vectors.len()];
    for set in sets {
        for (detail, found) in details.iter_mut().zip(set.by_vectors(channel, vectors)) {
            if detail.is_none() {
                *detail = found.map(|found| set.words(found));
            }
        }
    }
    details
}

fn encoded(
    encoder: &dyn ImageEncoder,
    channel: usize,
    pictures: &[Arc<Picture>],
    sets: &[Arc<Set>],
) -> Vec<Found> {
    let vectors = Picture::encode(pictures, encoder, channel);
    assert_eq!(vectors.len(), pictures.len(), "an encoder answers for each of a batch");
    let there: Vec<&[i16]> = vectors.iter().flatten().map(|vector| &**vector).collect();
    let mut details = best_of(sets.iter(), channel, &there).into_iter();
    let found = pictures.iter().zip(&vectors).map(|(picture, vector)| Found {
        content_id: picture.content_id,
        vector: vector.as_deref().map(Arc::from),
        detail: vector.as_ref().and_then(|_| details.next().flatten()),
    });
    found.collect()
}
