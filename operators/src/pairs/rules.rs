//! Rules 4, 5 and 6 for one query.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use kernels::vector::dot;
use schemas::{Channel, Epoch};

use crate::{
    flow::{Pair, RowId, Version},
    neighbors::{Counters, Mining, Neighbor, VectorBook},
    quick::QuickMap,
};

/// What the rules read.
pub(super) struct Rules {
    pub mining: Arc<Mining>,
    pub book: Arc<VectorBook>,
    pub counters: Arc<Counters>,
}

/// An image that some channel proposes for the query, or that is watched.
struct Related {
    version: Arc<Version>,
    ranks: [Option<i32>; 3],
}

impl Rules {
    /// The query's rows: its pairs, and its watched pairs that are none, by target.
    pub fn pairs(
        &self,
        query: RowId,
        channels: &[Vec<Neighbor>; 3],
        watched: &BTreeMap<Arc<str>, isize>,
        epoch: Epoch,
    ) -> BTreeMap<Arc<str>, Pair> {
        let query = self.version(query);
        let (related, excluded) = self.related(&query, channels);
        let mut pairs = BTreeMap::new();
        for target in related.iter().take(self.mining.targets_per_query) {
            let pair = self.pair(&query, target, &related, true);
            pairs.insert(Arc::clone(&pair.target_id), pair);
        }
        for (target_id, &count) in watched {
            if count <= 0 || *target_id == query.image_id || pairs.contains_key(target_id) {
                continue;
            }
            let Some(version) = self.book.live_at(target_id, epoch) else { continue };
            let mut proposed = related.iter().chain(&excluded);
            let held = proposed.find(|related| related.version.row == version.row);
            let target = Related { version, ranks: held.map_or([None; 3], |held| held.ranks) };
            let pair = self.pair(&query, &target, &related, false);
            pairs.insert(Arc::clone(target_id), pair);
        }
        pairs
    }

    fn version(&self, row: RowId) -> Arc<Version> {
        self.book.version(row).expect("a live version is in the book of its process")
    }

    /// R(q) in order, and the near-duplicates left out of it.
    fn related(
        &self,
        query: &Version,
        channels: &[Vec<Neighbor>; 3],
    ) -> (Vec<Related>, Vec<Related>) {
        let mut ranks: QuickMap<RowId, [Option<i32>; 3]> = QuickMap::default();
        for (c, neighbors) in channels.iter().enumerate() {
            for neighbor in neighbors {
                ranks.entry(neighbor.row).or_default()[c] = Some(neighbor.rank);
            }
        }
        let of_images = [Channel::Semantic, Channel::Pattern];
        let all = ranks.into_iter();
        let (excluded, mut related): (Vec<_>, Vec<_>) = all
            .map(|(row, ranks)| Related { version: self.version(row), ranks })
            .partition(|t| self.too_alike(query, &t.version, &of_images, &t.ranks));
        related.sort_unstable_by(|a, b| {
            let ids = (a.version.image_id.as_bytes(), b.version.image_id.as_bytes());
            strength(&a.ranks).cmp(&strength(&b.ranks)).then_with(|| ids.0.cmp(ids.1))
        });
        (related, excluded)
    }

    /// Whether the two are near-duplicates in one of the channels. A channel that ranks them has
    /// found them in band, hence below.
    fn too_alike(
        &self,
        a: &Version,
        b: &Version,
        channels: &[Channel],
        ranks: &[Option<i32>; 3],
    ) -> bool {
        channels.iter().map(|channel| channel.index()).any(|c| {
            ranks[c].is_none()
                && self
                    .mining
                    .near_duplicate(c)
                    .is_some_and(|hi| self.score(a, b, c).is_some_and(|score| score >= hi))
        })
    }

    fn score(&self, a: &Version, b: &Version, channel: usize) -> Option<i32> {
        let (a, b) = (a.vectors[channel].as_deref()?, b.vectors[channel].as_deref()?);
        self.counters.guard_checks.fetch_add(1, Relaxed);
        Some(dot(a, b))
    }

    fn pair(&self, query: &Version, target: &Related, related: &[Related], mined: bool) -> Pair {
        let hard_negatives = related
            .iter()
            .filter(|h| h.version.row != target.version.row)
            .filter(|h| !self.too_alike(&h.version, &target.version, &Channel::ALL, &[None; 3]))
            .take(self.mining.hard_negatives)
            .map(|h| Arc::clone(&h.version.image_id))
            .collect();
        Pair {
            query_id: Arc::clone(&query.image_id),
            target_id: Arc::clone(&target.version.image_id),
            mined,
            ranks: target.ranks,
            scores: std::array::from_fn(|c| self.score(query, &target.version, c)),
            hard_negatives,
        }
    }
}

/// Rule 4's order, less the image id: best rank, more channels first, then the precedence of the
/// first channel that gives the best rank.
fn strength(ranks: &[Option<i32>; 3]) -> (i32, Reverse<usize>, u8) {
    let held = || Channel::ALL.into_iter().filter_map(|c| Some((ranks[c.index()]?, c)));
    let (best, precedence) =
        held().map(|(rank, c)| (rank, c.precedence())).min().expect("some channel proposed it");
    (best, Reverse(held().count()), precedence)
}
