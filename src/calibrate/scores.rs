//! Every score of a sample, counted: rule 2's integers, on all cores, the same for every cut.

use std::ops::Range;

use kernels::{
    similarity::{Rows, scan},
    vector::UNIT,
};

/// Counts of scores, in steps of 2¹⁵ of a score, which is 0.00003 of a cosine.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

const STEP_BITS: u32 = 15;
/// Steps below a score of 0.
const HALF: i64 = 1 << (30 - STEP_BITS);
/// One more on each side: rounding may put equal vectors a hair past 1.
const STEPS: usize = 2 * HALF as usize + 2;

/// As a number: s / 2³⁰.
pub fn cosine(score: i32) -> f64 {
    f64::from(score) / f64::from(UNIT)
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; STEPS], total: 0 }
    }
}

impl Histogram {
    /// Counts a score.
    pub fn add(&mut self, score: i32) {
        let step = (i64::from(score) >> STEP_BITS) + HALF;
        self.counts[step.clamp(0, STEPS as i64 - 1) as usize] += 1;
        self.total += 1;
    }

    /// Counts everything that `other` counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// Scores counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The cosine that `share` of the scores are below, to the step; `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let step = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(edge(step))
    }

    /// How many scores lie in `range` of cosines, to the step.
    pub fn within(&self, range: Range<f64>) -> u64 {
        let step = |cosine: f64| {
            let step = (cosine * HALF as f64).floor() as i64 + HALF;
            step.clamp(0, STEPS as i64) as usize
        };
        let (from, to) = (step(range.start), step(range.end));
        self.counts[from..to.max(from)].iter().sum()
    }
}

fn edge(step: usize) -> f64 {
    ((step as i64 - HALF) as f64 / HALF as f64).clamp(-1.0, 1.0)
}

/// Queries that are scanned at once: they and a block of rows stay in the caches.
const QUERIES_AT_ONCE: usize = 64;

/// Runs `work` over all blocks of `count` things, block after block on each core, and gives what
/// each core made. Whoever adds these up must not care for their order.
pub fn on_all_cores<T: Send>(
    count: usize,
    start: impl Fn() -> T + Sync,
    work: impl Fn(&mut T, Range<usize>) + Sync,
) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let run = || {
        let mut made = start();
        loop {
            let from = next.fetch_add(QUERIES_AT_ONCE, std::sync::atomic::Ordering::Relaxed);
            if from >= count {
                return made;
            }
            work(&mut made, from..count.min(from + QUERIES_AT_ONCE));
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..cores).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|core| core.join().expect("counting cannot fail")).collect()
    })
}

/// Scores of all pairs of rows, each once per direction, and of each row with its nearest other.
pub fn pairs(rows: &Rows) -> (Histogram, Histogram) {
    let start = || (Histogram::default(), Histogram::default());
    let parts = on_all_cores(rows.len(), start, |(all, nearest), block| {
        let queries: Vec<&[i16]> = block.clone().map(|row| rows.row(row)).collect();
        let mut best = vec![i32::MIN; queries.len()];
        scan(&queries, rows, 0..rows.len(), i32::MIN, &mut |query, row, score| {
            if block.start + query != row {
                all.add(score);
                best[query] = best[query].max(score);
            }
        });
        best.into_iter().filter(|score| *score > i32::MIN).for_each(|score| nearest.add(score));
    });
    let mut sum = start();
    for (all, nearest) in &parts {
        sum.0.merge(all);
        sum.1.merge(nearest);
    }
    sum
}

#[cfg(test)]
mod tests {
    use kernels::vector::{dot_naive, quantize_raw};

    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_scores() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        let scores: Vec<i32> = (0..1_000).map(|i| (i - 200) * 1_000_003).collect();
        scores.iter().rev().for_each(|score| histogram.add(*score));
        for share in [0.001, 0.05, 0.5, 0.995, 1.0] {
            let rank = (share * 1_000.0f64).ceil() as usize - 1;
            let found = histogram.quantile(share).unwrap();
            assert!((found - cosine(scores[rank])).abs() < 1e-4, "{share}: {found}");
        }
        assert_eq!(histogram.within(-1.0..1.01), 1_000);
        let below_zero = histogram.within(-1.0..0.0);
        assert_eq!(below_zero, 200);
        histogram.add(i32::MAX);
        histogram.add(i32::MIN);
        assert_eq!(histogram.total(), 1_002);
    }

    #[test]
    fn every_pair_is_counted_once_per_direction() {
        let mut rows = Rows::new(3);
        let mut vectors = Vec::new();
        for i in 0..150u32 {
            let x = f64::from(i);
            let vector = quantize_raw(&[x.sin(), (2.0 * x).cos(), 0.3 * (x * x).sin()]).unwrap();
            rows.push(&vector);
            vectors.push(vector);
        }
        let (all, nearest) = pairs(&rows);
        let (mut want, mut want_nearest) = (Histogram::default(), Histogram::default());
        for (q, query) in vectors.iter().enumerate() {
            let others = vectors.iter().enumerate().filter(|(t, _)| *t != q);
            let scores: Vec<i32> = others.map(|(_, t)| dot_naive(query, t)).collect();
            scores.iter().for_each(|score| want.add(*score));
            want_nearest.add(*scores.iter().max().unwrap());
        }
        assert_eq!((&all.counts, all.total), (&want.counts, 150 * 149));
        assert_eq!(nearest.counts, want_nearest.counts);
    }
}
