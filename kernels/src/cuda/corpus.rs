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
use crate::codes::Coder;

/// Queries of one pass: enough for the tensor cores to outweigh reading the rows, see
/// `kernels/README.md`.
pub const QUERIES_PER_PASS: usize = 2048;
/// Candidates of one pass: 80 MiB of device memory for them and their scores.
pub const CANDIDATES_PER_PASS: usize = 4 << 20;
/// With so few rows not even a pass that keeps every pair can overflow.
const ROWS_PER_PASS_MIN: usize = CANDIDATES_PER_PASS / QUERIES_PER_PASS;
/// Components of vectors that are staged at once for a copy to the device.
const STAGED_COMPONENTS: usize = 4 << 20;
/// Vectors are padded to a multiple of as many components, 64 bytes.
const LANE: usize = 32;

/// What the kernels' files say.
const THREADS: u32 = 256;
const TILE: usize = 128;
const CANDIDATES_PER_BLOCK: usize = 256;
/// Blocks per multiprocessor in a launch whose threads take turns at the work.
const BLOCKS_PER_MULTIPROCESSOR: usize = 8;

/// A growable set of rows of one dimension, in memory reserved on a device.
pub struct Corpus {
    device: Arc<Device>,
    coder: Coder,
    stride: usize,
    capacity: usize,
    len: usize,
    rows: Coded,
    queries: Coded,
    candidates: Buffer<u32>,
    found: Buffer<u32>,
    count: Buffer<u64>,
    results: Pinned<u32>,
}

/// Vectors, their codes and slacks, on the device.
struct Coded {
    vectors: Buffer<i16>,
    codes: Buffer<i8>,
    slacks: Buffer<i32>,
    staged: Staged,
}

/// The same, on the way there.
struct Staged {
    len: usize,
    vectors: Pinned<i16>,
    codes: Pinned<i8>,
    slacks: Pinned<i32>,
}

/// Bytes of device memory that a corpus of `capacity` rows takes.
pub fn bytes(dim: usize, capacity: usize) -> usize {
    let coder = Coder::new(dim);
    let row = 2 * dim.next_multiple_of(LANE) + coder.width() + 4;
    (capacity + QUERIES_PER_PASS) * row + CANDIDATES_PER_PASS * (8 + 12) + 8
}

impl Corpus {
    /// Room for `capacity` rows of `dim` components (1 to [`crate::codes::DIM_MAX`]), none yet.
    pub fn new(device: Arc<Device>, dim: usize, capacity: usize) -> Result<Corpus, Error> {
        if !(1..=crate::codes::DIM_MAX).contains(&dim) {
            let most = crate::codes::DIM_MAX;
            return Err(Error::Shape(format!("a dimension of 1 to {most}, not {dim}")));
        }
        if u32::try_from(capacity).is_err() {
            return Err(Error::Shape(format!("{capacity} rows: a row's index has 32 bits")));
        }
        let coder = Coder::new(dim);
        let stride = dim.next_multiple_of(LANE);
        let staged = (STAGED_COMPONENTS / stride).clamp(1, capacity.max(1));
        Ok(Corpus {
            rows: Coded::new(&device, &coder, stride, capacity, staged)?,
            queries: Coded::new(&device, &coder, stride, QUERIES_PER_PASS, staged)?,
            candidates: device.buffer(2 * CANDIDATES_PER_PASS)?,
            found: device.buffer(3 * CANDIDATES_PER_PASS)?,
            count: device.buffer(1)?,
            results: device.pinned(3 * CANDIDATES_PER_PASS)?,
            device,
            coder,
            stride,
            capacity,
            len: 0,
        })
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
        let left = self.capacity - self.len;
        if rows.len() > left {
            let row = 2 * self.stride + self.coder.width() + 4;
            let (wanted, left) = (rows.len().saturating_mul(row), left * row);
            return Err(Error::OutOfMemory { wanted, left });
        }
        self.rows.write(&self.coder, self.stride, self.len, rows)?;
        self.len += rows.len();
        Ok(())
    }

    /// Replaces row `i`. Panics if it is not there or `row` has not the corpus's dimension.
    pub fn set(&mut self, i: usize, row: &[i16]) -> Result<(), Error> {
        assert!(i < self.len, "row {i} of {}", self.len);
        self.rows.write(&self.coder, self.stride, i, &[row])
    }

    /// Sets row `i` to zero, so that its score with anything is 0.
    pub fn clear(&mut self, i: usize) -> Result<(), Error> {
        self.set(i, &vec![0; self.coder.dim()])
    }

    /// Calls `hit(query, row, score)` once for every query and every row of `range` whose score is
    /// within `scores`, in no particular order. On an error some hits may have been handed out.
    /// Panics if a query has not the corpus's dimension, or `range` is not within the rows.
    pub fn scan(
        &mut self,
        queries: &[&[i16]],
        range: Range<usize>,
        scores: RangeInclusive<i32>,
        hit: &mut dyn FnMut(usize, usize, i32),
    ) -> Result<(), Error> {
        assert!(range.end <= self.len, "rows {range:?} of {}", self.len);
        if scores.is_empty() {
            return Ok(());
        }
        for (pass, batch) in queries.chunks(QUERIES_PER_PASS).enumerate() {
            self.queries.write(&self.coder, self.stride, 0, batch)?;
            let first_query = pass * QUERIES_PER_PASS;
            in_passes(range.clone(), ROWS_PER_PASS_MIN, |rows| {
                let kept = self.filter(batch.len(), rows, &scores)?;
                if kept > CANDIDATES_PER_PASS as u64 {
                    return Ok(false);
                }
                self.decide(kept as usize, &scores, first_query, hit)?;
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Leaves the candidates among `rows` on the device and returns how many there are, which may
    /// be more than there was room for.
    fn filter(
        &mut self,
        n_queries: usize,
        rows: Range<usize>,
        scores: &RangeInclusive<i32>,
    ) -> Result<u64, Error> {
        let width = self.coder.width();
        let (at_least, at_most) = self.coder.thresholds(scores);
        let (n_queries, n_rows) = (n_queries as u32, rows.len() as u32);
        let (first_row, width_bytes) = (rows.start as u32, width as u32);
        let capacity = CANDIDATES_PER_PASS as u64;
        self.count.clear()?;
        let codes = self.rows.codes.slice.slice(rows.start * width..rows.end * width);
        let slacks = self.rows.slacks.slice.slice(rows.clone());
        let blocks = blocks_of_candidates(n_queries as usize, n_rows as usize);
        let mut launch = self.device.prepare(&self.device.candidates);
        launch.arg(&self.queries.codes.slice).arg(&self.queries.slacks.slice).arg(&n_queries);
        launch.arg(&codes).arg(&slacks).arg(&n_rows).arg(&width_bytes);
        launch.arg(&at_least).arg(&at_most).arg(&first_row);
        launch.arg(&mut self.candidates.slice).arg(&capacity).arg(&mut self.count.slice);
        // SAFETY: arguments as candidates.cu lists them: codes and slacks of `n_queries` queries
        // and `n_rows` rows, of `width` bytes each; room for `capacity` pairs of words; one count.
        unsafe { self.device.launch(&mut launch, blocks, THREADS)? };
        self.counted()
    }

    /// Scores the candidates and hands out those within the range.
    fn decide(
        &mut self,
        candidates: usize,
        scores: &RangeInclusive<i32>,
        first_query: usize,
        hit: &mut dyn FnMut(usize, usize, i32),
    ) -> Result<(), Error> {
        if candidates == 0 {
            return Ok(());
        }
        let (lo, hi) = (*scores.start(), *scores.end());
        let (stride, n) = (self.stride as u32, candidates as u64);
        self.count.clear()?;
        let multiprocessors = self.device.description().multiprocessors;
        let blocks = blocks_of_rescore(candidates, multiprocessors);
        let mut launch = self.device.prepare(&self.device.rescore);
        launch.arg(&self.queries.vectors.slice).arg(&self.rows.vectors.slice).arg(&stride);
        launch.arg(&self.candidates.slice).arg(&n).arg(&lo).arg(&hi);
        launch.arg(&mut self.found.slice).arg(&mut self.count.slice);
        // SAFETY: arguments as rescore.cu lists them. The candidates are the `n` that the filter
        // wrote, so they name rows and queries that are there; `found` has room for as many.
        unsafe { self.device.launch(&mut launch, blocks, THREADS)? };
        let found = self.counted()? as usize;
        let results = &mut self.results.as_mut_slice()?[..3 * found];
        self.found.download(0..3 * found, results)?;
        for triple in results.chunks_exact(3) {
            hit(first_query + triple[0] as usize, triple[1] as usize, triple[2] as i32);
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

impl Coded {
    fn new(
        device: &Device,
        coder: &Coder,
        stride: usize,
        capacity: usize,
        staged: usize,
    ) -> Result<Coded, Error> {
        let staged = staged.min(capacity.max(1));
        Ok(Coded {
            vectors: device.buffer(capacity * stride)?,
            codes: device.buffer(capacity * coder.width())?,
            slacks: device.buffer(capacity)?,
            staged: Staged {
                len: staged,
                vectors: device.pinned(staged * stride)?,
                codes: device.pinned(staged * coder.width())?,
                slacks: device.pinned(staged)?,
            },
        })
    }

    /// Codes these vectors and copies them to the places from `at` on.
    fn write(
        &mut self,
        coder: &Coder,
        stride: usize,
        at: usize,
        vectors: &[&[i16]],
    ) -> Result<(), Error> {
        let width = coder.width();
        for (turn, part) in vectors.chunks(self.staged.len).enumerate() {
            let at = at + turn * self.staged.len;
            let padded = &mut self.staged.vectors.as_mut_slice()?[..part.len() * stride];
            let codes = &mut self.staged.codes.as_mut_slice()?[..part.len() * width];
            let slacks = &mut self.staged.slacks.as_mut_slice()?[..part.len()];
            for (i, vector) in part.iter().enumerate() {
                slacks[i] = coder.encode(vector, &mut codes[i * width..][..width]);
                // What pads a vector was zero at first and is never written.
                padded[i * stride..][..vector.len()].copy_from_slice(vector);
            }
            self.vectors.upload(at * stride, padded)?;
            self.codes.upload(at * width, codes)?;
            self.slacks.upload(at, slacks)?;
        }
        Ok(())
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
