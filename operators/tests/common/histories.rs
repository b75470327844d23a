//! What the tests of mining share.

use std::collections::BTreeMap;

use kernels::vector::Band;
use operators::neighbors::Mining;
use proptest::prelude::*;
use schemas::Epoch;

/// Rows that come (1) and go (-1), in any order.
pub type Changes<T> = Vec<(T, Epoch, isize)>;

/// The rows that hold at the end of each epoch.
pub fn by_epoch<T: Ord + Clone>(changes: &Changes<T>, epochs: Epoch) -> Vec<BTreeMap<T, isize>> {
    let mut held: BTreeMap<T, isize> = BTreeMap::new();
    (0..epochs)
        .map(|epoch| {
            for (row, _, diff) in changes.iter().filter(|change| change.1 == epoch) {
                *held.entry(row.clone()).or_default() += diff;
            }
            held.retain(|_, count| *count != 0);
            held.clone()
        })
        .collect()
}

/// None, one or several bands for scores of [`pool`]'s vectors, with gaps between them or without.
fn bands() -> impl Strategy<Value = Vec<Band>> {
    // Scores of these vectors are about -20 to 20.
    let edges = prop_oneof![1 => 0..2usize, 6 => 2..5usize]
        .prop_flat_map(|n| prop::collection::btree_set(-6i32..14, n..n + 1));
    (edges, any::<bool>()).prop_map(|(edges, gaps)| {
        let edges: Vec<i32> = edges.into_iter().collect();
        let bands = edges.windows(2).step_by(if gaps { 2 } else { 1 });
        bands.map(|edge| Band { lo: edge[0], hi: edge[1] }).collect()
    })
}

/// Rules in small numbers, so that every limit is met.
pub fn mining() -> impl Strategy<Value = Mining> {
    let neighbors = [1usize..5, 1..5, 1..5];
    ([bands(), bands(), bands()], neighbors, 0usize..3, 1usize..4, 0usize..4).prop_map(
        |(bands, neighbors, slack, targets_per_query, hard_negatives)| Mining {
            bands,
            neighbors,
            slack,
            targets_per_query,
            hard_negatives,
        },
    )
}

/// Vectors of one dimension, a few small integers each: their scores tie and hit the edges of bands.
pub fn pool() -> impl Strategy<Value = Vec<Vec<i16>>> {
    (3usize..9)
        .prop_flat_map(|dim| prop::collection::vec(prop::collection::vec(-2i16..3, dim), 2..10))
}
