//! Which rows score within a range with which queries: filter and re-score.
//!
//! Rows are held twice, as vectors of 16 bits and as codes of 8 with a certificate
//! ([`crate::codes`]). A search multiplies codes, stage by stage, and stops where the certificate
//! says that no pair of a tile can reach what is asked for any more: a product of codes costs half
//! of one of vectors, and where the range begins far above most scores it is seldom finished. What
//! passes the last stage is decided by the exact product, so a search finds what a
//! [scan](crate::similarity::scan) finds.
//!
//! What is asked for falls as lists fill: each query and each row has a *floor*, the score below
//! which it has no use for the other side, and a hit is what reaches one of both. Whoever takes the
//! hits answers with new floors, and the next tile is filtered by them; so a cluster in which all
//! are within the range of all costs products, and no lists.
//!
//! # Why nothing is lost
//!
//! A pair is a hit if its score `s` is within `lo..=hi` and `s ≥ floor_q` or `s ≥ floor_r`. Let
//! `want(x)` be the least product of codes that certifies a score of `x` up to the slacks
//! (`Coder::thresholds`), so that `s ≥ x` gives `c_q·c_r + slack_q + slack_r ≥ want(x)`. By the
//! inequality of the means the stages behind the first `j` give at most what [`Coder::reaches`]
//! adds to the slacks, hence for the `sum` of those `j` stages, with `x` either floor,
//!
//! ```text
//! s ≥ x   ⟹   sum + reach_q(j) + reach_r(j) ≥ want(x)
//! ```
//!
//! A pair is dropped at stage `j` only if this fails for `want(floor_q)` *and* for `want(floor_r)`;
//! then `s` reaches neither. At the last stage it is dropped too if `sum − slack_q − slack_r` is
//! more than `hi` allows. Floors only rise, and a filter that still has an older one drops less.
//! All of it is integers, and none can overflow: see the bounds at [`NEVER_WANTED`].
//!
//! Codes of rows are kept as bytes `c + 128`, because the instructions multiply unsigned by signed
//! ones; `Σ (c_r + 128)·c_q = c_r·c_q + 128·Σ c_q`, and the last term, which only the query knows,
//! is part of what its products are compared with.
#![allow(unsafe_code)]

use std::ops::{Range, RangeInclusive};

use crate::similarity::{self, Rows};
use crate::vector::dot;

mod coded;
mod portable;
mod queries;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use coded::CodedRows;
pub use queries::Queries;

use coded::{PANEL, Pair};
use queries::Tile;

/// The floor of a side that has no use for any score.
pub const NEVER: i32 = i32::MAX;

/// What no product of codes and reaches comes to. Codes have at most 2^13 bytes, so with offset a
/// product is below 2^28, without it at most 2^27, and the correction between both at most 2^27; a
/// reach is at most 2^26 + 2^28, a `want` below 2^27 in amount or this. Hence
/// `product + reach_q + reach_r ≤ 2^27 + 2·(2^26 + 2^28) < 2^30`, and no partial sum of them and of
/// two of these passes 2^31.
const NEVER_WANTED: i32 = 1 << 30;

/// Rows of which both panels are worked on at once.
const PAIR: usize = 2 * PANEL;
/// Where more than one in so many pairs of a tile survives the filter, 16-bit products of the whole
/// tile are cheaper than those of the survivors.
const DENSE: usize = 4;
/// After a dense tile so many are multiplied without asking the filter.
const DENSE_RUN: usize = 7;

/// What each side of a pair is still looking for, once it has seen a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floors {
    /// The least score that the query has a use for.
    pub query: i32,
    /// The same for the row. Ignored unless the search is for both.
    pub row: i32,
}

/// Who looks for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// Queries look for rows.
    Queries,
    /// Queries look for rows and rows for queries.
    Both,
}

/// Takes a query, a row and their score, and says what both are still looking for.
pub type Hit<'a> = &'a mut dyn FnMut(usize, usize, i32) -> Floors;

/// A pair that passed the filter: query, and which of a pair of panels' rows.
type Survivor = (u32, u32);

/// The form of each path of the filter: adds the survivors of a tile of queries and a pair of
/// panels, tests from stage `check` on, and says whether the tile ended there.
type FilterFn = fn(&Tile, &Pair<'_>, usize, &mut Vec<Survivor>) -> bool;

/// A way to search that this processor has.
#[derive(Clone, Copy)]
pub struct Path {
    /// What it is called.
    pub name: &'static str,
    filter: FilterFn,
    exact: similarity::ScanFn,
}

/// Every path this processor can take, fastest first; the last is `portable`. All give the same
/// hits.
pub fn paths() -> Vec<Path> {
    let exact = similarity::paths();
    let exact =
        |wanted: &str| exact.iter().find(|(name, _)| *name == wanted).map(|(_, path)| *path);
    let mut paths = Vec::new();
    let mut add = |name, filter: FilterFn| {
        paths.extend(exact(name).map(|exact| Path { name, filter, exact }));
    };
    #[cfg(target_arch = "x86_64")]
    {
        add("avx512vnni", x86::filter_avx512vnni);
        add("avx2", x86::filter_avx2);
    }
    add("portable", portable::filter);
    paths
}

/// Calls `hit` once for every query and every row of `range` whose score is within `scores` and
/// reaches the query's floor or, where `sides` says both, the row's.
///
/// Floors may rise while it searches (by what `hit` answers): a pair is a hit if it reaches them as
/// they are at the end, and may be one if it reached them before. The order is not part of the
/// contract. Panics if the queries' dimension is not that of the rows, or `range` is not within
/// them.
pub fn search(
    queries: &mut Queries,
    rows: &mut CodedRows,
    range: Range<usize>,
    scores: RangeInclusive<i32>,
    sides: Sides,
    hit: Hit<'_>,
) {
    search_by(paths()[0], queries, rows, range, scores, sides, hit);
}

/// [`search`] by a path of one's choice.
pub fn search_by(
    path: Path,
    queries: &mut Queries,
    rows: &mut CodedRows,
    range: Range<usize>,
    scores: RangeInclusive<i32>,
    sides: Sides,
    hit: Hit<'_>,
) {
    assert!(range.end <= rows.len(), "rows {range:?} of {}", rows.len());
    assert_eq!(queries.dim(), rows.dim(), "queries have the rows' dimension");
    if queries.is_empty() || range.is_empty() || scores.is_empty() {
        return;
    }
    queries.look_for(rows.coder(), &scores);
    let gathered = Rows::new(rows.dim());
    let mut work = Work { path, queries, rows, scores, sides, hit, gathered };
    let (mut survivors, mut dense_left) = (Vec::new(), 0usize);
    let mut pace = Pace::new(work.rows.check());
    for first in (range.start / PAIR * PAIR..range.end).step_by(PAIR) {
        let block = range.start.max(first)..range.end.min(first + PAIR);
        if dense_left > 0 {
            dense_left -= 1;
            work.all(block);
            continue;
        }
        let pair = work.rows.pair(block.clone(), sides);
        for tile in work.queries.tiles() {
            let ended = (path.filter)(tile, &pair, pace.check, &mut survivors);
            pace.note(ended, pair.stages);
        }
        if survivors.len() * DENSE > block.len() * work.queries.len() {
            survivors.clear();
            dense_left = DENSE_RUN;
            work.all(block);
        } else {
            work.rescore(first, &mut survivors);
        }
    }
    let check = pace.check;
    rows.set_check(check);
}

/// The exact half of a search.
struct Work<'a> {
    path: Path,
    queries: &'a mut Queries,
    rows: &'a mut CodedRows,
    scores: RangeInclusive<i32>,
    sides: Sides,
    hit: Hit<'a>,
    /// The vectors of one block, side by side, once a block has been multiplied whole.
    gathered: Rows,
}

impl Work<'_> {
    /// Decides the survivors of the pair of panels that begins at row `first`.
    fn rescore(&mut self, first: usize, survivors: &mut Vec<Survivor>) {
        for (q, lane) in survivors.drain(..) {
            let (q, r) = (q as usize, first + lane as usize);
            let query = &self.queries.vectors().query(q)[..self.rows.dim()];
            let score = dot(query, self.rows.row(r));
            self.decide(q, r, score);
        }
    }

    /// Decides every pair of the rows of `block`, without a filter.
    fn all(&mut self, block: Range<usize>) {
        let mut lowest = self.queries.lowest_floor();
        if self.sides == Sides::Both {
            lowest = lowest.min(block.clone().map(|r| self.rows.floor(r)).min().unwrap_or(NEVER));
        }
        let lo = lowest.max(*self.scores.start());
        let mut found = Vec::new();
        let (first, count, hi) = (block.start, block.len(), *self.scores.end());
        for (i, r) in block.enumerate() {
            if i == self.gathered.len() {
                self.gathered.push(self.rows.row(r));
            } else {
                self.gathered.set(i, self.rows.row(r));
            }
        }
        let vectors = self.queries.vectors();
        (self.path.exact)(vectors, &self.gathered, 0..count, lo, &mut |q, i, score| {
            if score <= hi {
                found.push((q, first + i, score));
            }
        });
        for (q, r, score) in found {
            self.decide(q, r, score);
        }
    }

    fn decide(&mut self, q: usize, r: usize, score: i32) {
        let both = self.sides == Sides::Both;
        let (of_query, of_row) = (self.queries.floor(q), self.rows.floor(r));
        if !self.scores.contains(&score) || (score < of_query && !(both && score >= of_row)) {
            return;
        }
        let floors = (self.hit)(q, r, score);
        if floors.query != of_query {
            self.queries.set_floor(self.rows.coder(), q, floors.query);
        }
        if both && floors.row != of_row {
            self.rows.set_floor(r, floors.row);
        }
    }
}

/// At which stage it pays to ask whether a tile can end: asked too early, the answer is no; too
/// late, what came before was multiplied for nothing. It makes no difference to what is found.
struct Pace {
    check: usize,
    tiles: u32,
    ended: u32,
}

impl Pace {
    const WINDOW: u32 = 64;

    fn new(check: usize) -> Pace {
        Pace { check, tiles: 0, ended: 0 }
    }

    fn note(&mut self, ended: bool, stages: usize) {
        self.tiles += 1;
        self.ended += u32::from(ended);
        if self.tiles < Pace::WINDOW {
            return;
        }
        // Asking costs about a tenth of a stage.
        if 10 * self.ended > 8 * self.tiles {
            self.check = self.check.saturating_sub(1);
        } else if 10 * self.ended < 2 * self.tiles && self.check + 1 < stages {
            self.check += 1;
        }
        (self.tiles, self.ended) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
