//! Vectors on a device: themselves, their codes, and what the codes leave open.

use std::sync::Arc;

use super::super::Error;
use super::super::device::Device;
use super::super::memory::{Buffer, Pinned};
use crate::codes::{Coder, DIM_MAX};

/// Components of vectors that are staged at once for a copy to the device.
const STAGED_COMPONENTS: usize = 4 << 20;
/// Vectors are padded to a multiple of as many components, 64 bytes.
pub(super) const LANE: usize = 32;

/// Room for vectors of one dimension, their codes and slacks.
pub(super) struct Coded {
    pub(super) coder: Coder,
    /// Components from one vector to the next.
    pub(super) stride: usize,
    pub(super) capacity: usize,
    pub(super) vectors: Buffer<i16>,
    pub(super) codes: Buffer<i8>,
    pub(super) slacks: Buffer<i32>,
    staged: Staged,
}

/// The same, on the way there.
struct Staged {
    len: usize,
    vectors: Pinned<i16>,
    codes: Pinned<i8>,
    slacks: Pinned<i32>,
}

/// Bytes of device memory that a vector takes.
pub(super) fn bytes_each(dim: usize) -> usize {
    2 * dim.next_multiple_of(LANE) + Coder::new(dim).width() + 4
}

impl Coded {
    pub(super) fn new(device: &Device, dim: usize, capacity: usize) -> Result<Coded, Error> {
        if !(1..=DIM_MAX).contains(&dim) {
            return Err(Error::Shape(format!("a dimension of 1 to {DIM_MAX}, not {dim}")));
        }
        if u32::try_from(capacity).is_err() {
            return Err(Error::Shape(format!("{capacity} vectors: an index has 32 bits")));
        }
        let coder = Coder::new(dim);
        let (stride, width) = (dim.next_multiple_of(LANE), coder.width());
        let staged = (STAGED_COMPONENTS / stride).clamp(1, capacity.max(1));
        Ok(Coded {
            coder,
            stride,
            capacity,
            vectors: device.buffer(capacity * stride)?,
            codes: device.buffer(capacity * width)?,
            slacks: device.buffer(capacity)?,
            staged: Staged {
                len: staged,
                vectors: device.pinned(staged * stride)?,
                codes: device.pinned(staged * width)?,
                slacks: device.pinned(staged)?,
            },
        })
    }

    /// Codes these vectors and copies them to the places from `at` on. [`Error::OutOfMemory`], and
    /// nothing written, if they do not all fit there.
    pub(super) fn write(&mut self, at: usize, vectors: &[&[i16]]) -> Result<(), Error> {
        let left = self.capacity - at;
        if vectors.len() > left {
            let each = bytes_each(self.coder.dim());
            let (wanted, left) = (vectors.len().saturating_mul(each), left * each);
            return Err(Error::OutOfMemory { wanted, left });
        }
        let (stride, width) = (self.stride, self.coder.width());
        for (turn, part) in vectors.chunks(self.staged.len).enumerate() {
            let at = at + turn * self.staged.len;
            let padded = &mut self.staged.vectors.as_mut_slice()?[..part.len() * stride];
            let codes = &mut self.staged.codes.as_mut_slice()?[..part.len() * width];
            let slacks = &mut self.staged.slacks.as_mut_slice()?[..part.len()];
            for (i, vector) in part.iter().enumerate() {
                slacks[i] = self.coder.encode(vector, &mut codes[i * width..][..width]);
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

/// Queries on a device: coded and copied once, scanned for as often as wanted.
pub struct Queries {
    pub(super) device: Arc<Device>,
    pub(super) coded: Coded,
    len: usize,
}

impl Queries {
    /// Room for `capacity` queries of `dim` components (1 to [`DIM_MAX`]), none yet.
    pub fn new(device: Arc<Device>, dim: usize, capacity: usize) -> Result<Queries, Error> {
        Ok(Queries { coded: Coded::new(&device, dim, capacity)?, device, len: 0 })
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts these queries in the place of all that were there. [`Error::OutOfMemory`] if there is
    /// not room for as many: then there are none. Panics if one has not the dimension.
    pub fn load(&mut self, queries: &[&[i16]]) -> Result<(), Error> {
        self.len = 0;
        self.coded.write(0, queries)?;
        self.len = queries.len();
        Ok(())
    }
}
