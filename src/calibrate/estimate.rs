//! From a sample to a corpus: how many pairs a band would give.
//!
//! Counted is, for each image of the sample, how many others of the sample lie in the band. The
//! number of such others is taken to be Poisson with a rate of the image's own, and the rates to be
//! gamma distributed: counts are negative binomial. Its two parameters are set by what was counted,
//! the mean and the share of images with none, so that at the sample's own size it says what was
//! seen. At `f` times the size every rate is `f` times as high.
//!
//! On 2,218 generated scenes, estimated from tenths of them with three seeds, the pairs per image of
//! the bands in force came within 4 % and the share of images with a pair within 3 points; the share
//! with a near-duplicate, of which a tenth holds few or none, came at anything from none to 1.6
//! times. Where a sample has seen none, the estimate is none. And it takes a corpus that grows by
//! more of the same: other images come with other rates.
//!
//! How wrong that can be is measured each time: the same is estimated from a tenth of the sample
//! for the whole, and stands beside what the whole has.

use serde::Serialize;

/// What a band, or all of them together, give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Yield {
    /// Rows of `pairs` per mined image, at most `targets_per_query`.
    pub pairs_per_image: f64,
    /// Share of mined images that are the query of at least one pair.
    pub share_with_pair: f64,
    /// Share of mined images with a near-duplicate: a score of at least the upper edge.
    pub share_near_duplicates: f64,
}

/// A yield at the sizes that matter, and the check of the method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Yields {
    /// In the sample itself, counted.
    pub sample: Yield,
    /// At the corpus's size: counted if the sample is the corpus, else estimated.
    pub corpus: Yield,
    /// At ten times the corpus, estimated.
    pub tenfold: Yield,
    /// The sample's yield as estimated from a tenth of the sample: to be held against `sample`.
    pub from_a_tenth: Yield,
}

/// Negative binomial counts.
#[derive(Clone, Copy, Debug)]
struct Counts {
    mean: f64,
    /// The gamma's shape; infinite where all rates are equal.
    shape: f64,
}

impl Counts {
    /// The counts with this mean and this share of zeros; `share_zero` above 0.
    fn fit(mean: f64, share_zero: f64) -> Counts {
        let wanted = -share_zero.ln();
        // -ln P(0) grows with the shape, from 0 to the mean.
        if wanted >= mean {
            return Counts { mean: wanted, shape: f64::INFINITY };
        }
        let (mut low, mut high) = (1e-9f64.ln(), 1e9f64.ln());
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            let shape = middle.exp();
            if shape * (mean / shape).ln_1p() < wanted { low = middle } else { high = middle }
        }
        Counts { mean, shape: low.exp() }
    }

    /// Probabilities of 0, 1, 2, … at `scale` times the rates.
    fn probabilities(self, scale: f64) -> impl Iterator<Item = f64> {
        let mean = self.mean * scale;
        let (first, shape) = match self.shape.is_finite() {
            true => ((-self.shape * (mean / self.shape).ln_1p()).exp(), self.shape),
            false => ((-mean).exp(), f64::INFINITY),
        };
        let mut at = (0.0, first);
        std::iter::from_fn(move || {
            let (count, probability) = at;
            let factor = match shape.is_finite() {
                true => (shape + count) / (count + 1.0) * mean / (shape + mean),
                false => mean / (count + 1.0),
            };
            at = (count + 1.0, probability * factor);
            Some(probability)
        })
    }
}

/// Mean of `min(count, most)`, and share of counts above zero, at `scale` times the sample.
pub fn capped(counts: &[u32], most: usize, scale: f64) -> (f64, f64) {
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    if total == 0 {
        return (0.0, 0.0);
    }
    let number = counts.len() as f64;
    let zeros = counts.iter().filter(|count| **count == 0).count() as f64;
    // That nothing was seen without any does not mean that there is none: half a one.
    let fitted = Counts::fit(total as f64 / number, zeros.max(0.5) / number);
    let (mut below, mut mean, mut share) = (0.0, 0.0, 0.0);
    for (count, probability) in fitted.probabilities(scale).take(most).enumerate() {
        below += probability;
        // The mean of min(K, most) is the sum of P(K > 0), P(K > 1), … up to most.
        mean += (1.0 - below).max(0.0);
        if count == 0 {
            share = (1.0 - probability).max(0.0);
        }
    }
    (mean, share)
}

/// Mean of `min(count, most)`, and share of counts above zero, as counted.
pub fn counted(counts: &[u32], most: usize) -> (f64, f64) {
    let number = counts.len().max(1) as f64;
    let sum: u64 = counts.iter().map(|count| u64::from(*count).min(most as u64)).sum();
    let some = counts.iter().filter(|count| **count > 0).count();
    (sum as f64 / number, some as f64 / number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_sample_s_size_it_says_what_was_counted() {
        for counts in
            [vec![0, 0, 0, 1, 5], vec![0, 1, 1, 1, 0, 1], vec![0, 0, 0, 0, 100], vec![3, 0, 2, 1]]
        {
            let (_, seen) = counted(&counts, 3);
            let (_, said) = capped(&counts, 3, 1.0);
            assert!((seen - said).abs() < 1e-6, "{counts:?}: {said} for {seen}");
        }
        assert_eq!(capped(&[0; 9], 3, 10.0), (0.0, 0.0));
        let (mean, share) = capped(&[50; 100], 3, 1.0);
        assert!(mean > 2.8 && share > 0.99, "{mean} {share}");
    }

    #[test]
    fn rates_that_differ_are_scaled_one_by_one() {
        // Nine of ten images have no relative at all, one has a rate of 2: ten times the corpus
        // gives that one its pairs and the others none.
        let poisson = [14, 27, 27, 18, 9, 4, 1];
        let mut counts = vec![0; 900];
        for (count, times) in poisson.into_iter().enumerate() {
            counts.extend(vec![count as u32; times]);
        }
        let (mean, share) = capped(&counts, 3, 10.0);
        assert!((0.09..0.2).contains(&share), "{share}");
        assert!((0.25..0.5).contains(&mean), "{mean}");
        // The same rate for all: nearly every image has a pair then.
        let counts: Vec<u32> = (0..1_000).map(|i| u32::from(i % 4 == 0)).collect();
        let (_, share) = capped(&counts, 3, 10.0);
        assert!(share > 0.9, "{share}");
    }
}
