//! Device memory under a budget, and host memory that the device copies from directly.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DeviceRepr, DriverError, PinnedHostSlice, ValidAsZeroBits,
    sys,
};

use super::Error;

/// Bytes that may be used, and those that are.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0) })
    }

    pub(super) fn left(&self) -> usize {
        self.limit - self.used.load(Ordering::Acquire)
    }

    /// Takes `wanted` bytes until the share is dropped, all or none.
    pub(super) fn take(self: &Arc<Budget>, wanted: usize) -> Result<Share, Error> {
        let fits = |used: usize| used.checked_add(wanted).filter(|&sum| sum <= self.limit);
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(Share { budget: self.clone(), bytes: wanted }),
            Err(used) => Err(Error::OutOfMemory { wanted, left: self.limit - used }),
        }
    }
}

/// A part of a budget.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What a buffer can hold: numbers as the device has them, for which all bits zero is a value.
pub trait Number: DeviceRepr + ValidAsZeroBits + Copy + Default {}
impl<T: DeviceRepr + ValidAsZeroBits + Copy + Default> Number for T {}

/// Memory on the device, zero at first. Dropping it gives its bytes back to the budget.
pub struct Buffer<T> {
    // Declared first: memory is free before the budget says so.
    pub(super) slice: CudaSlice<T>,
    _share: Share,
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer of {}", self.slice.len())
    }
}

impl<T: Number> Buffer<T> {
    pub(super) fn new(
        stream: &Arc<CudaStream>,
        budget: &Arc<Budget>,
        len: usize,
    ) -> Result<Buffer<T>, Error> {
        // The driver refuses allocations of nothing.
        let len = len.max(1);
        let bytes = len
            .checked_mul(size_of::<T>())
            .ok_or(Error::OutOfMemory { wanted: usize::MAX, left: budget.left() })?;
        let share = budget.take(bytes)?;
        match stream.alloc_zeros(len) {
            Ok(slice) => Ok(Buffer { slice, _share: share }),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let free = stream.context().mem_get_info().map_or(0, |(free, _)| free);
                Err(Error::OutOfMemory { wanted: bytes, left: free })
            }
            Err(error) => Err(Error::driver("allocating memory")(error)),
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether there are none, which is never so.
    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// Copies `from` to the elements from `at` on, in the order of the buffer's stream, and waits.
    pub fn upload(&mut self, at: usize, from: &[T]) -> Result<(), Error> {
        let len = self.len();
        let stream = self.slice.stream().clone();
        let range = at..at.saturating_add(from.len());
        let Some(mut to) = self.slice.try_slice_mut(range) else {
            let wanted = from.len();
            return Err(Error::Shape(format!("{wanted} elements at {at} of a buffer of {len}")));
        };
        if from.is_empty() {
            return Ok(());
        }
        stream.memcpy_htod(from, &mut to).map_err(Error::driver("copying to the device"))?;
        // Pinned memory is read after the call has returned; the caller may change it then.
        stream.synchronize().map_err(Error::driver("copying to the device"))
    }

    /// Copies the elements of `range` to `to`, of the same length, and waits for them.
    pub fn download(&self, range: Range<usize>, to: &mut [T]) -> Result<(), Error> {
        let (start, end, len) = (range.start, range.end, self.len());
        let from = self.slice.try_slice(range).filter(|from| from.len() == to.len());
        let Some(from) = from else {
            let room = to.len();
            let what = format!("elements {start} to {end} of a buffer of {len}, into {room}");
            return Err(Error::Shape(what));
        };
        if to.is_empty() {
            return Ok(());
        }
        let stream = self.slice.stream();
        stream.memcpy_dtoh(&from, to).map_err(Error::driver("copying from the device"))?;
        stream.synchronize().map_err(Error::driver("waiting for the device"))
    }

    /// Sets every element to zero, in the order of the buffer's stream.
    pub fn clear(&mut self) -> Result<(), Error> {
        let stream = self.slice.stream().clone();
        stream.memset_zeros(&mut self.slice).map_err(Error::driver("clearing memory"))
    }
}

/// Host memory that stays where it is, so that the device copies from and to it at the bus's full
/// rate. Zero at first.
pub struct Pinned<T>(PinnedHostSlice<T>);

impl<T: Number> Pinned<T> {
    pub(super) fn new(context: &Arc<CudaContext>, len: usize) -> Result<Pinned<T>, Error> {
        // SAFETY: the elements are set below, before anyone reads them. No flags: write-combined
        // memory would be slow to read here.
        let allocated = unsafe { context.alloc_pinned_with_flags(len.max(1), 0) };
        let mut pinned = allocated.map_err(Error::driver("pinning host memory"))?;
        let slice = pinned.as_mut_slice().map_err(Error::driver("pinning host memory"))?;
        slice.fill(T::default());
        Ok(Pinned(pinned))
    }

    /// The elements.
    pub fn as_mut_slice(&mut self) -> Result<&mut [T], Error> {
        self.0.as_mut_slice().map_err(Error::driver("waiting for a copy"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept_and_given_back() {
        let budget = Budget::new(100);
        let first = budget.take(60).unwrap();
        let refused = budget.take(41).unwrap_err();
        assert_eq!(refused, Error::OutOfMemory { wanted: 41, left: 40 });
        assert!(refused.to_string().contains("smaller batches"));
        let second = budget.take(40).unwrap();
        assert_eq!(budget.left(), 0);
        assert!(budget.take(usize::MAX).is_err(), "a sum that overflows does not fit");
        drop(first);
        assert_eq!(budget.left(), 60);
        drop(second);
        assert_eq!(budget.left(), 100);
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let budget = Budget::new(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for wanted in 0..2000 {
                        if let Ok(share) = budget.take(wanted % 700) {
                            assert!(budget.used.load(Ordering::Acquire) <= 1000);
                            drop(share);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.left(), 1000);
    }
}
