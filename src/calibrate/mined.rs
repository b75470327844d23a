//! What bands would mine in a sample: rules 3 and 4, counted for every image, and pairs to look at.

use std::{collections::BTreeMap, ops::Range};

use kernels::{similarity::scan, vector::Band};
use schemas::Channel;

use super::{sample::Sample, scores::on_all_cores};

/// Pairs shown per level.
pub const SHOWN_PER_LEVEL: usize = 4;
/// Pairs kept per level, to choose some of that share no image.
const KEPT_PER_LEVEL: usize = 64;

/// A way to set one channel's bands.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Ascending, without overlap, at least one.
    pub bands: Vec<Band>,
}

impl Candidate {
    fn lo(&self) -> i32 {
        self.bands[0].lo
    }

    fn hi(&self) -> i32 {
        self.bands[self.bands.len() - 1].hi
    }

    fn holds(&self, score: i32) -> bool {
        self.bands.iter().any(|band| band.contains(score))
    }
}

/// What is asked of a sample.
pub struct Question<'a> {
    pub sample: &'a Sample,
    pub seed: u64,
    /// Per channel: each is counted by itself; the first one also together with the other
    /// channels' first.
    pub candidates: [Vec<Candidate>; 3],
    /// Neighbours per band.
    pub neighbors: [usize; 3],
    /// Per channel: lower edges of levels, ascending, and one more edge at the end.
    pub levels: [Vec<i32>; 3],
}

/// How many other images each image has, by image; zero where it has no vector.
#[derive(Clone, Default)]
pub struct Others {
    /// In the band.
    pub within: Vec<u32>,
    /// At or above its upper edge.
    pub above: Vec<u32>,
    /// In the band, for the first tenth of the images, of that tenth alone.
    pub tenth: Vec<u32>,
}

impl Others {
    fn new(images: usize) -> Others {
        let zeros = vec![0; images];
        Others { within: zeros.clone(), above: zeros, tenth: vec![0; images / 10] }
    }
}

/// A pair to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    order: u64,
    pub query: usize,
    pub target: usize,
    pub score: i32,
}

/// The answer.
pub struct Found {
    /// Per channel and candidate.
    pub alone: [Vec<Others>; 3],
    /// |R(q)| for the first candidates, as if `neighbors` had no limit.
    pub together: Others,
    /// |R(q)| as rule 4 has it.
    pub capped: Vec<u32>,
    /// Per channel and level: pairs, few and by chance, with no image twice where it can be helped.
    pub picks: [Vec<Vec<Pick>>; 3],
    /// Pairs per channel and level in the sample, each once.
    pub level_pairs: [Vec<u64>; 3],
}

struct Part {
    first: usize,
    alone: [Vec<Others>; 3],
    together: Others,
    capped: Vec<u32>,
}

struct Core {
    parts: Vec<Part>,
    picks: [Vec<Vec<Pick>>; 3],
    level_pairs: [Vec<u64>; 3],
}

/// Scans every image against all others, once.
pub fn look(question: &Question) -> Found {
    let images = question.sample.images.len();
    let start = || Core {
        parts: Vec::new(),
        picks: levels(question).map(|number| vec![Vec::new(); number]),
        level_pairs: levels(question).map(|number| vec![0; number]),
    };
    let cores = on_all_cores(images, start, |core, block| look_at(question, core, block));
    let empty = |c: usize| vec![Others::new(images); question.candidates[c].len()];
    let mut found = Found {
        alone: [0, 1, 2].map(empty),
        together: Others::new(images),
        capped: vec![0; images],
        picks: levels(question).map(|number| vec![Vec::new(); number]),
        level_pairs: levels(question).map(|number| vec![0; number]),
    };
    for core in cores {
        for part in core.parts {
            for (all, some) in found.alone.iter_mut().flatten().zip(part.alone.iter().flatten()) {
                place(all, some, part.first);
            }
            place(&mut found.together, &part.together, part.first);
            found.capped[part.first..][..part.capped.len()].copy_from_slice(&part.capped);
        }
        for channel in 0..3 {
            for (level, picks) in core.picks[channel].iter().enumerate() {
                found.picks[channel][level].extend(picks);
                found.level_pairs[channel][level] += core.level_pairs[channel][level];
            }
        }
    }
    for picks in found.picks.iter_mut().flatten() {
        *picks = chosen(std::mem::take(picks));
    }
    found
}

fn levels(question: &Question) -> [usize; 3] {
    [0, 1, 2].map(|channel| question.levels[channel].len().saturating_sub(1))
}

fn place(all: &mut Others, part: &Others, first: usize) {
    all.within[first..][..part.within.len()].copy_from_slice(&part.within);
    all.above[first..][..part.above.len()].copy_from_slice(&part.above);
    // The tenth ends somewhere within a block.
    let end = all.tenth.len();
    let from = first.min(end);
    let length = part.tenth.len().min(end - from);
    all.tenth[from..][..length].copy_from_slice(&part.tenth[..length]);
}

type Hits = Vec<(usize, usize, i32)>;

fn look_at(question: &Question, core: &mut Core, block: Range<usize>) {
    let sample = question.sample;
    let tenth = sample.images.len() / 10;
    let others = || Others { tenth: vec![0; block.len()], ..Others::new(block.len()) };
    let mut part = Part {
        first: block.start,
        alone: [0, 1, 2].map(|c| vec![others(); question.candidates[c].len()]),
        together: others(),
        capped: vec![0; block.len()],
    };
    // Target, channel, score, of what the first candidates propose or call a near-duplicate.
    let mut hits: Vec<Hits> = vec![Vec::new(); block.len()];
    for channel in Channel::ALL {
        let c = channel.index();
        let Some(vectors) = &sample.vectors[c] else { continue };
        let (candidates, edges) = (&question.candidates[c], &question.levels[c]);
        let lows = candidates.iter().map(Candidate::lo).chain(edges.first().copied());
        let Some(lo) = lows.min() else { continue };
        let asked: Vec<usize> = block.clone().filter(|i| vectors.row_of[*i].is_some()).collect();
        let queries: Vec<&[i16]> = asked.iter().filter_map(|i| vectors.of(*i)).collect();
        let (picks, level_pairs) = (&mut core.picks[c], &mut core.level_pairs[c]);
        let part_alone = &mut part.alone[c];
        scan(&queries, &vectors.rows, 0..vectors.rows.len(), lo, &mut |query, row, score| {
            let (query, target) = (asked[query], vectors.image_of[row] as usize);
            if query == target {
                return;
            }
            let at = query - block.start;
            for (candidate, counts) in candidates.iter().zip(part_alone.iter_mut()) {
                if score >= candidate.hi() {
                    counts.above[at] += 1;
                } else if candidate.holds(score) {
                    counts.within[at] += 1;
                    counts.tenth[at] += u32::from(query < tenth && target < tenth);
                }
            }
            if candidates.first().is_some_and(|first| score >= first.lo()) {
                hits[at].push((target, c, score));
            }
            let level = edges.partition_point(|edge| *edge <= score);
            if query < target && level > 0 && level < edges.len() {
                level_pairs[level - 1] += 1;
                let shown = |i: usize| sample.images[i].thumb.is_some();
                if shown(query) && shown(target) {
                    let order = mix(question.seed, query, target);
                    keep(&mut picks[level - 1], Pick { order, query, target, score });
                }
            }
        });
    }
    for (at, hits) in hits.iter().enumerate() {
        part.capped[at] = related(question, hits, true).0.len() as u32;
        let (all, near_duplicates) = related(question, hits, false);
        part.together.within[at] = all.len() as u32;
        part.together.above[at] = near_duplicates;
        if block.start + at < tenth {
            part.together.tenth[at] = all.iter().filter(|target| **target < tenth).count() as u32;
        }
    }
    core.parts.push(part);
}

/// R(q) of rule 4, with lists of `neighbors` if `limited`, and how many near-duplicates the query
/// has. Ties at the end of a list are broken by the sample's order, not by id: that moves a count by
/// one at most, where the lists of two channels overlap.
fn related(question: &Question, hits: &Hits, limited: bool) -> (Vec<usize>, u32) {
    let mut by_list: BTreeMap<(usize, usize), Vec<(i32, usize)>> = BTreeMap::new();
    let mut near: Vec<usize> = Vec::new();
    for &(target, c, score) in hits {
        let first = &question.candidates[c][0];
        if let Some(band) = first.bands.iter().position(|band| band.contains(score)) {
            by_list.entry((c, band)).or_default().push((score, target));
        }
        if score >= first.hi() && c != Channel::Caption.index() {
            near.push(target);
        }
    }
    near.sort_unstable();
    near.dedup();
    let mut all = Vec::new();
    for ((c, _), mut list) in by_list {
        if limited && list.len() > question.neighbors[c] {
            list.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            list.truncate(question.neighbors[c]);
        }
        all.extend(list.into_iter().map(|(_, target)| target));
    }
    all.sort_unstable();
    all.dedup();
    all.retain(|target| near.binary_search(target).is_err());
    (all, near.len() as u32)
}

/// A number by chance for a pair, the same whenever it is asked for.
fn mix(seed: u64, query: usize, target: usize) -> u64 {
    let mut x = seed ^ (query as u64) << 32 ^ target as u64;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        x = (x ^ x >> 33).wrapping_mul(factor);
    }
    x ^ x >> 33
}

fn keep(picks: &mut Vec<Pick>, pick: Pick) {
    if picks.len() < KEPT_PER_LEVEL {
        picks.push(pick);
        picks.sort_unstable();
    } else if pick.order < picks[KEPT_PER_LEVEL - 1].order {
        picks[KEPT_PER_LEVEL - 1] = pick;
        picks.sort_unstable();
    }
}

/// The first few, by score from below; pairs that show an image again come only if they must.
fn chosen(mut picks: Vec<Pick>) -> Vec<Pick> {
    picks.sort_unstable();
    picks.truncate(KEPT_PER_LEVEL);
    let (mut first, mut again) = (Vec::<Pick>::new(), Vec::new());
    for pick in picks {
        let shown = |i: usize| first.iter().any(|p| p.query == i || p.target == i);
        match shown(pick.query) || shown(pick.target) {
            true => again.push(pick),
            false => first.push(pick),
        }
    }
    first.extend(again);
    first.truncate(SHOWN_PER_LEVEL);
    first.sort_by_key(|pick| pick.score);
    first
}
