//! The six rules as they are written, for all images at once: the oracle.
//!
//! Nothing here is incremental, indexed or shared with the boxes: every score is
//! [`kernels::vector::dot_naive`], every list a filter and a sort. Tests and `verify` compare the
//! stream's `pairs` with what this gives.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kernels::vector::dot_naive;
use schemas::{Channel, ContentId};

use crate::{flow::Pair, neighbors::Mining};

/// One vector per channel, where there is one (rule 2).
pub type Vectors = [Option<Arc<[i16]>>; 3];

/// A live image.
#[derive(Clone, Debug)]
pub struct NaiveImage {
    /// Its id.
    pub image_id: Arc<str>,
    /// What it shows.
    pub content_id: ContentId,
    /// Its own vectors: the caption's is of its own caption.
    pub vectors: Vectors,
}

/// Rule 1: the mined images, by id.
pub fn mined(images: &[NaiveImage]) -> Vec<(Arc<str>, Vectors)> {
    let smallest_of_content = |image: &NaiveImage| {
        !images.iter().any(|other| {
            other.content_id == image.content_id
                && other.image_id.as_bytes() < image.image_id.as_bytes()
        })
    };
    // The same in one pass, for corpora of thousands; the line above says what is meant.
    let mut first: BTreeMap<ContentId, &NaiveImage> = BTreeMap::new();
    for image in images {
        let held = first.entry(image.content_id).or_insert(image);
        if image.image_id.as_bytes() < held.image_id.as_bytes() {
            *held = image;
        }
    }
    debug_assert!(images.len() > 200 || first.values().all(|image| smallest_of_content(image)));
    let mut mined: Vec<_> =
        first.values().map(|image| (Arc::clone(&image.image_id), image.vectors.clone())).collect();
    mined.sort_by(|a, b| a.0.cmp(&b.0));
    mined
}

/// Rule 2's score in a channel, where both have a vector.
fn score(a: &Vectors, b: &Vectors, channel: usize) -> Option<i32> {
    Some(dot_naive(a[channel].as_deref()?, b[channel].as_deref()?))
}

/// Rule 3: N_c(q) for `mined[q]`, as index and rank; with several bands each fills its own.
fn nearest(
    mined: &[(Arc<str>, Vectors)],
    mining: &Mining,
    q: usize,
    channel: usize,
) -> Vec<(usize, i32)> {
    let mut union = Vec::new();
    for band in &mining.bands[channel] {
        let mut within: Vec<(i32, usize)> = (0..mined.len())
            .filter(|&t| t != q)
            .filter_map(|t| Some((score(&mined[q].1, &mined[t].1, channel)?, t)))
            .filter(|&(score, _)| band.lo <= score && score < band.hi)
            .collect();
        within.sort_by_key(|&(score, t)| (Reverse(score), mined[t].0.as_bytes()));
        within.truncate(mining.neighbors[channel]);
        union.extend(within.into_iter().map(|(_, t)| t).zip(1..));
    }
    union
}

/// Whether some of `channels` calls the two near-duplicates.
fn too_alike(mining: &Mining, a: &Vectors, b: &Vectors, channels: &[Channel]) -> bool {
    channels.iter().any(|channel| {
        let highest = mining.bands[channel.index()].iter().map(|band| band.hi).max();
        let score = score(a, b, channel.index());
        score.zip(highest).is_some_and(|(score, hi)| score >= hi)
    })
}

/// Rules 3 to 6 for one query, `mined[q]`: its rows of `pairs`, and those of `watched` pairs
/// (targets of `q`) that are not in `pairs`. Ids in `mined` are unique.
pub fn pairs_of(
    mined: &[(Arc<str>, Vectors)],
    mining: &Mining,
    q: usize,
    watched: &BTreeSet<Arc<str>>,
) -> Vec<Pair> {
    let (query_id, query) = &mined[q];
    let mut ranks: BTreeMap<usize, [Option<i32>; 3]> = BTreeMap::new();
    for channel in Channel::ALL {
        for (t, rank) in nearest(mined, mining, q, channel.index()) {
            ranks.entry(t).or_default()[channel.index()] = Some(rank);
        }
    }
    // Rule 4.
    let image_channels = [Channel::Semantic, Channel::Pattern];
    let mut related: Vec<usize> = ranks
        .keys()
        .copied()
        .filter(|&t| !too_alike(mining, query, &mined[t].1, &image_channels))
        .collect();
    related.sort_by_key(|t| {
        let ranks = ranks[t];
        let best = ranks.iter().flatten().min();
        let holders = ranks.iter().flatten().count();
        let by_precedence = [Channel::Caption, Channel::Pattern, Channel::Semantic];
        let first = by_precedence.iter().position(|c| ranks[c.index()].as_ref() == best);
        (best.copied(), Reverse(holders), first, mined[*t].0.as_bytes())
    });
    let pair = |t: usize, is_mined: bool| {
        let (target_id, target) = &mined[t];
        // Rule 6.
        let hard_negatives = related
            .iter()
            .filter(|&&h| h != t && !too_alike(mining, &mined[h].1, target, &Channel::ALL))
            .take(mining.hard_negatives)
            .map(|&h| Arc::clone(&mined[h].0))
            .collect();
        Pair {
            query_id: Arc::clone(query_id),
            target_id: Arc::clone(target_id),
            mined: is_mined,
            ranks: ranks.get(&t).copied().unwrap_or_default(),
            scores: std::array::from_fn(|c| score(query, target, c)),
            hard_negatives,
        }
    };
    // Rule 5.
    let targets: Vec<usize> = related.iter().copied().take(mining.targets_per_query).collect();
    let mut pairs: Vec<Pair> = targets.iter().map(|&t| pair(t, true)).collect();
    let watched = (0..mined.len()).filter(|&t| t != q && watched.contains(&mined[t].0));
    pairs.extend(watched.filter(|t| !targets.contains(t)).map(|t| pair(t, false)));
    pairs
}

/// [`pairs_of`] every query.
pub fn pairs(
    mined: &[(Arc<str>, Vectors)],
    mining: &Mining,
    watched: &BTreeSet<(Arc<str>, Arc<str>)>,
) -> BTreeSet<Pair> {
    let mut all = BTreeSet::new();
    for (q, (query_id, _)) in mined.iter().enumerate() {
        let watched = watched.iter().filter(|(query, _)| query == query_id);
        let targets = watched.map(|(_, target)| Arc::clone(target)).collect();
        all.extend(pairs_of(mined, mining, q, &targets));
    }
    all
}
