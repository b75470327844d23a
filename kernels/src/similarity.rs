//! Exact similarity of many vectors with many rows: where mining spends its time.
//!
//! [`scan`] walks the rows in blocks that stay in the second-level cache and, for each block, the
//! queries four at a time (they stay in the first-level cache). Tiles of queries × rows accumulate
//! in registers; their sums are transposed into one register and compared with the threshold there,
//! so a score below it is never written anywhere. Scores wrap in `i32`, hence every path gives the
//! same ones (see [`crate::vector`]).
#![allow(unsafe_code)]

use std::ops::Range;

use crate::vector::dot_naive;

/// Components per [`Lane`]; a row is padded to a multiple.
const LANE: usize = 32;
/// Queries in a register tile.
const QUERY_TILE: usize = 4;
/// Bytes of rows scanned for all queries before moving on; half of a small second-level cache.
const BLOCK_BYTES: usize = 256 << 10;

/// One cache line, so that no load of a row straddles two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Lane([i16; LANE]);

/// A growable matrix of rows of `dim` components, in one aligned piece of memory, each row padded
/// with zeros.
pub struct Rows {
    dim: usize,
    lanes_per_row: usize,
    len: usize,
    lanes: Vec<Lane>,
}

impl Rows {
    /// No rows yet, of `dim` components each.
    pub fn new(dim: usize) -> Rows {
        Rows { dim, lanes_per_row: dim.div_ceil(LANE), len: 0, lanes: Vec::new() }
    }

    /// Appends a row and returns its index. Panics if it has not `dim` components.
    pub fn push(&mut self, row: &[i16]) -> usize {
        let i = self.len;
        self.lanes.resize((i + 1) * self.lanes_per_row, Lane([0; LANE]));
        self.len += 1;
        self.set(i, row);
        i
    }

    /// Replaces row `i`. Panics if it is not there or `row` has not `dim` components.
    pub fn set(&mut self, i: usize, row: &[i16]) {
        assert_eq!(row.len(), self.dim, "a row has the matrix's dimension");
        let dim = self.dim;
        self.padded_mut(i)[..dim].copy_from_slice(row);
    }

    /// Sets row `i` to zero, so that its score with anything is 0. A scan with `lo <= 0` still hits
    /// it: whoever clears rows knows which ones live.
    pub fn clear(&mut self, i: usize) {
        self.padded_mut(i).fill(0);
    }

    /// Row `i`, without padding.
    pub fn row(&self, i: usize) -> &[i16] {
        &self.padded(i)[..self.dim]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Components of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Components from the beginning of one row to that of the next: `dim` rounded up.
    pub fn stride(&self) -> usize {
        self.lanes_per_row * LANE
    }

    /// Bytes held for rows, spare capacity included.
    pub fn bytes(&self) -> usize {
        self.lanes.capacity() * size_of::<Lane>()
    }

    pub(crate) fn padded(&self, i: usize) -> &[i16] {
        assert!(i < self.len, "row {i} of {}", self.len);
        let lanes = &self.lanes[i * self.lanes_per_row..][..self.lanes_per_row];
        // SAFETY: `Lane` is exactly `LANE` components without padding (its size is its alignment).
        unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * LANE) }
    }

    fn padded_mut(&mut self, i: usize) -> &mut [i16] {
        assert!(i < self.len, "row {i} of {}", self.len);
        let lanes = &mut self.lanes[i * self.lanes_per_row..][..self.lanes_per_row];
        // SAFETY: as in `padded`; the exclusive borrow of `lanes` is handed on.
        unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * LANE) }
    }

    fn as_ptr(&self) -> *const i16 {
        self.lanes.as_ptr().cast()
    }
}

const _: () = assert!(size_of::<Lane>() == LANE * size_of::<i16>());

/// Queries laid out for a scan: padded like rows, and to whole tiles with zeros.
pub struct Packed {
    queries: Rows,
    live: usize,
}

impl Packed {
    /// Packs these queries. Panics if one has not `dim` components.
    pub fn new(dim: usize, queries: &[&[i16]]) -> Packed {
        let mut packed = Rows::new(dim);
        let lanes = queries.len().next_multiple_of(QUERY_TILE) * packed.lanes_per_row;
        packed.lanes.reserve_exact(lanes);
        for query in queries {
            packed.push(query);
        }
        let zero = vec![0; dim];
        while !packed.len().is_multiple_of(QUERY_TILE) {
            packed.push(&zero);
        }
        Packed { queries: packed, live: queries.len() }
    }

    /// Query `q` with its padding, as long as a row with its.
    pub(crate) fn query(&self, q: usize) -> &[i16] {
        self.queries.padded(q)
    }
}

/// The form of each path of [`scan`].
pub type ScanFn = fn(&Packed, &Rows, Range<usize>, i32, &mut dyn FnMut(usize, usize, i32));

/// Calls `hit(query, row, score)` once for every query and every row of `range` whose score is at
/// least `lo`.
///
/// The order is fixed for a given input and processor but is not part of the contract: rows come
/// block by block, within a block queries tile by tile. Panics if a query's dimension is not that
/// of the rows, or `range` is not within them.
pub fn scan(
    queries: &[&[i16]],
    rows: &Rows,
    range: Range<usize>,
    lo: i32,
    hit: &mut dyn FnMut(usize, usize, i32),
) {
    let (_, fastest) = paths()[0];
    fastest(&Packed::new(rows.dim, queries), rows, range, lo, hit);
}

/// Every path this processor can take, by name, fastest first; the last is `portable`. All do what
/// [`scan`] does.
pub fn paths() -> Vec<(&'static str, ScanFn)> {
    let mut paths: Vec<(&'static str, ScanFn)> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            if is_x86_feature_detected!("avx512vnni") {
                paths.push(("avx512vnni", x86::scan_avx512vnni));
            }
            paths.push(("avx512bw", x86::scan_avx512bw));
        }
        if is_x86_feature_detected!("avx2") {
            paths.push(("avx2", x86::scan_avx2));
        }
    }
    paths.push(("portable", scan_portable));
    paths
}

/// [`scan`] as it is defined: the oracle.
pub fn scan_naive(
    queries: &[&[i16]],
    rows: &Rows,
    range: Range<usize>,
    lo: i32,
    hit: &mut dyn FnMut(usize, usize, i32),
) {
    for (q, query) in queries.iter().enumerate() {
        for r in range.clone() {
            let score = dot_naive(query, rows.row(r));
            if score >= lo {
                hit(q, r, score);
            }
        }
    }
}

fn scan_portable(
    queries: &Packed,
    rows: &Rows,
    range: Range<usize>,
    lo: i32,
    hit: &mut dyn FnMut(usize, usize, i32),
) {
    in_blocks(queries, rows, range, &mut |packed, first, live, block| {
        for r in block {
            let row = rows.padded(r);
            for q in first..first + live {
                let score = packed
                    .padded(q)
                    .iter()
                    .zip(row)
                    .fold(0i32, |sum, (&a, &b)| sum.wrapping_add(i32::from(a) * i32::from(b)));
                if score >= lo {
                    hit(q, r, score);
                }
            }
        }
    });
}

/// What a path does with one tile of queries and one block of rows.
type TileFn<'a> = &'a mut dyn FnMut(&Rows, usize, usize, Range<usize>);

/// Checks every bound that the paths rely on, and calls
/// `tile(packed, first query, queries that are real, rows)` in cache order.
fn in_blocks(queries: &Packed, rows: &Rows, range: Range<usize>, tile: TileFn<'_>) {
    assert!(range.end <= rows.len(), "rows {range:?} of {}", rows.len());
    assert_eq!(queries.queries.dim, rows.dim, "queries have the rows' dimension");
    let row_bytes = rows.stride().max(1) * size_of::<i16>();
    let rows_per_block = (BLOCK_BYTES / row_bytes).max(QUERY_TILE);
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min(start + rows_per_block);
        for first in (0..queries.live).step_by(QUERY_TILE) {
            tile(&queries.queries, first, QUERY_TILE.min(queries.live - first), start..end);
        }
        start = end;
    }
}

#[cfg(target_arch = "x86_64")]
#[path = "similarity/x86.rs"]
mod x86;

#[cfg(test)]
mod tests;
