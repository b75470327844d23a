//! Times by upper bound, for writers that never wait.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets, seconds; above the last one is only `+Inf`.
pub const BOUNDS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// Observed times.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Observations by bucket, not added up; the last one is above all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// A histogram as it stood at one moment, or nearly: writers do not wait for readers.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Observations at or below each of [`BOUNDS`].
    pub cumulative: [u64; BOUNDS.len()],
    /// All observations.
    pub count: u64,
    /// Their sum, seconds.
    pub seconds: f64,
}

impl Histogram {
    /// Something took so long.
    pub fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// What was observed so far.
    pub fn observed(&self) -> Observed {
        let mut cumulative = [0; BOUNDS.len()];
        let mut count = 0;
        for (bucket, held) in self.counts.iter().enumerate() {
            count += held.load(Ordering::Relaxed);
            if let Some(cumulative) = cumulative.get_mut(bucket) {
                *cumulative = count;
            }
        }
        let nanoseconds = self.nanoseconds.load(Ordering::Relaxed);
        Observed { cumulative, count, seconds: nanoseconds as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let held = Histogram::default();
        for ms in [1, 2, 1_000, 1_001, 500_000] {
            held.observe(Duration::from_millis(ms));
        }
        let observed = held.observed();
        assert_eq!(observed.count, 5);
        assert_eq!(observed.cumulative, [1, 2, 2, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4]);
        assert!((observed.seconds - 502.004).abs() < 1e-9);
    }
}
