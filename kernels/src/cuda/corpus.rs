//! Rows on the device, and the scan of many queries over them: what [`crate::similarity::scan`]
//! does, to the bit.
//!
//! Two passes. The filter ([`compile::CANDIDATES`]) multiplies 8-bit codes and keeps what may score
//! within the range; the decision ([`compile::RESCORE`]) computes those scores from the vectors. As
//! many rows are filtered at once as leave no more candidates than there is room for: on overflow
//! the rows are halved and filtered again, which is safe because nothing was handed out.
//!
//! [`compile::CANDIDATES`]: super::compile::CANDIDATES
//! [`compile::RESCORE`]: super::compile::RESCORE

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use cudarc::driver::PushKernelArg;

use super::Error;
use super::device::Device;
use super::memory::{Buffer, Pinned};

mod coded;

pub use coded::Queries;
use coded::{Coded, bytes_each};

/// Queries of one pass: enough for the tensor cores to outweigh reading the rows, see
/// `kernels/README.md`.
pub const QUERIES_PER_PASS: usize = 2048;
/// Candidates of one pass: 80 MiB of device memory for them and their scores.
pub const CANDIDATES_PER_PASS: usize = 4 << 20;
/// With so few rows not even a pass that keeps every pair can overflow.
const ROWS_PER_PASS_MIN: usize = CANDIDATES_PER_PASS / QUERIES_PER_PASS;

/// What the kernels' files say.
const THREADS: u32 = 256;
const TILE: usize = 128;
const CANDIDATES_PER_BLOCK: usize = 256;
/// Blocks per multiprocessor in a launch whose threads take turns at the work.
const BLOCKS_PER_MULTIPROCESSOR: usize = 8;

/// A growable set of rows of one dimension, in memory reserved on a device.
pub struct Corpus {
    device: Arc<Device>,
    len: usize,
    rows: Coded,
    candidates: Buffer<u32>,
    found: Buffer<u32>,
    count: Buffer<u64>,
    results: Pinned<u32>,
}

/// Bytes of device memory that a corpus of `capacity` rows takes.
pub fn bytes(dim: usize, capacity: usize) -> usize {
    capacity * bytes_each(dim) + CANDIDATES_PER_PASS * (8 + 12) + 8
}

impl Corpus {
    /// Room for `capacity` rows of `dim` components (1 to [`crate::codes::DIM_MAX`]), none yet.
    pub fn new(device: Arc<Device>, dim: usize, capacity: usize) -> Result<Corpus, Error> {
        Ok(Corpus {
            rows: Coded::new(&device, dim, capacity)?,
            candidates: device.buffer(2 * CANDIDATES_PER_PASS)?,
            found: device.buffer(3 * CANDIDATES_PER_PASS)?,
            count: device.buffer(1)?,
            results: device.pinned(3 * CANDIDATES_PER_PASS)?,
            device,
            len: 0,
        })
    }

    /// Components of a row.
    pub fn dim(&self) -> usize {
        self.rows.coder.dim()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends rows; the first gets the index that [`Corpus::len`] was. [`Error::OutOfMemory`] if
    /// they do not all fit: then none is appended. Panics if one has not the corpus's dimension.
    pub fn extend(&mut self, rows: &[&[i16]]) -> Result<(), Error> {
        self.rows.write(self.len, rows)?;
        self.len += rows.len();
        Ok(())
    }

    /// Replaces row `i`. Panics if it is not there or `row` has not the corpus's dimension.
    pub fn set(&mut self, i: usize, row: &[i16]) -> Result<(), Error> {
        assert!(i < self.len, "row {i} of {}", self.len);
        self.rows.write(i, &[row])
    }

    /// Sets row `i` to zero, so that its score with anything is 0.
    pub fn clear(&mut self, i: usize) -> Result<(), Error> {
        self.set(i, &vec![0; self.dim()])
    }

    /// Calls `hit(query, row, score)` once for every query and every row of `range` whose score is
    /// within `scores`, in no particular order. On an error some hits may have been handed out.
    /// Panics if the queries are of another device or dimension, or `range` is not within the rows.
    pub fn scan(
        &mut self,
        queries: &Queries,
        range: Range<usize>,
        scores: RangeInclusive<i32>,
        hit: &mut dyn FnMut(usize, usize, i32),
    ) -> Result<(), Error> {
        assert!(range.end <= self.len, "rows {range:?} of {}", self.len);
        assert!(Arc::ptr_eq(&queries.device, &self.device), "queries of another device");
        assert_eq!(queries.coded.coder, self.rows.coder, "queries of another dimension");
        if scores.is_empty() {
            return Ok(());
        }
        for first in (0..queries.len()).step_by(QUERIES_PER_PASS) {
            let batch = first..queries.len().min(first + QUERIES_PER_PASS);
            in_passes(range.clone(), ROWS_PER_PASS_MIN, |rows| {
                let kept = self.filter(queries, batch.clone(), rows, &scores)?;
                if kept > CANDIDATES_PER_PASS as u64 {
                    return Ok(false);
                }
                self.decide(queries, first, kept as usize, &scores, hit)?;
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Leaves the candidates among `rows`, with queries counted from the first of `batch`, on the
    /// device and returns how many there are, which may be more than there was room for.
    fn filter(
        &mut self,
        queries: &Queries,
        batch: Range<usize>,
        rows: Range<usize>,
        scores: &RangeInclusive<i32>,
    ) -> Result<u64, Error> {
        let width = self.rows.coder.width();
        let (at_least, at_most) = self.rows.coder.thresholds(scores);
        let (n_queries, n_rows) = (batch.len() as u32, rows.len() as u32);
        let (first_row, width_bytes) = (rows.start as u32, width as u32);
        let capacity = CANDIDATES_PER_PASS as u64;
        self.count.clear()?;
        let codes = self.rows.codes.slice.slice(rows.start * width..rows.end * width);
        let slacks = self.rows.slacks.slice.slice(rows.clone());
        let query_codes = queries.coded.codes.slice.slice(batch.start * width..batch.end * width);
        let query_slacks = queries.coded.slacks.slice.slice(batch.clone());
        let blocks = blocks_of_candidates(batch.len(), rows.len());
        let mut launch = self.device.prepare(&self.device.candidates);
        launch.arg(&query_codes).arg(&query_slacks).arg(&n_queries);
        launch.arg(&codes).arg(&slacks).arg(&n_rows).arg(&width_bytes);
        launch.arg(&at_least).arg(&at_most).arg(&first_row);
        launch.arg(&mut self.candidates.slice).arg(&capacity).arg(&mut self.count.slice);
        // SAFETY: arguments as candidates.cu lists them: codes and slacks of `n_queries` queries
        // and `n_rows` rows, of `width` bytes each; room for `capacity` pairs of words; one count.
        unsafe { self.device.launch(&mut launch, blocks, THREADS)? };
        self.counted()
    }

    /// Scores the candidates, whose queries are counted from `first` on, and hands out those within
    /// the range.
    fn decide(
        &mut self,
        queries: &Queries,
        first: usize,
        candidates: usize,
        scores: &RangeInclusive<i32>,
        hit: &mut dyn FnMut(usize, usize, i32),
    ) -> Result<(), Error> {
        if candidates == 0 {
            return Ok(());
        }
        let (lo, hi) = (*scores.start(), *scores.end());
        let (stride, n) = (self.rows.stride as u32, candidates as u64);
        let vectors = queries.coded.vectors.slice.slice(first * self.rows.stride..);
        self.count.clear()?;
        let multiprocessors = self.device.description().multiprocessors;
        let blocks = blocks_of_rescore(candidates, multiprocessors);
        let mut launch = self.device.prepare(&self.device.rescore);
        launch.arg(&vectors).arg(&self.rows.vectors.slice).arg(&stride);
        launch.arg(&self.candidates.slice).arg(&n).arg(&lo).arg(&hi);
        launch.arg(&mut self.found.slice).arg(&mut self.count.slice);
        // SAFETY: arguments as rescore.cu lists them. The candidates are the `n` that the filter
        // wrote, so they name rows and queries that are there; `found` has room for as many.
        unsafe { self.device.launch(&mut launch, blocks, THREADS)? };
        let found = self.counted()? as usize;
        let results = &mut self.results.as_mut_slice()?[..3 * found];
        self.found.download(0..3 * found, results)?;
        for triple in results.chunks_exact(3) {
            hit(first + triple[0] as usize, triple[1] as usize, triple[2] as i32);
        }
        Ok(())
    }

    /// Waits for the kernel before and reads its count.
    fn counted(&self) -> Result<u64, Error> {
        let mut count = [0];
        self.device.synchronize()?;
        self.count.download(0..1, &mut count)?;
        Ok(count[0])
    }
}

/// Blocks of candidates.cu for so many queries and rows.
pub(super) fn blocks_of_candidates(queries: usize, rows: usize) -> usize {
    queries.div_ceil(TILE) * rows.div_ceil(TILE)
}

/// Blocks of rescore.cu: no more than there is work for, no more than the device holds.
pub(super) fn blocks_of_rescore(candidates: usize, multiprocessors: u32) -> usize {
    let most = BLOCKS_PER_MULTIPROCESSOR * multiprocessors as usize;
    candidates.div_ceil(CANDIDATES_PER_BLOCK).min(most)
}

/// Calls `pass` for consecutive parts that make up `rows`. A part for which it says `false` is
/// halved and tried again, down to `least` rows, for which it never does; after each success the
/// parts grow again.
fn in_passes(
    rows: Range<usize>,
    least: usize,
    mut pass: impl FnMut(Range<usize>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let (mut start, mut size) = (rows.start, rows.len());
    while start < rows.end {
        let end = rows.end.min(start.saturating_add(size));
        if pass(start..end)? {
            start = end;
            size = size.saturating_mul(2);
        } else if end - start <= least {
            let what = format!("{} rows overflowed, which {least} cannot", end - start);
            return Err(Error::Shape(what));
        } else {
            size = ((end - start) / 2).max(least);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
