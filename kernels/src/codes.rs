//! Vectors as 8-bit codes with a certificate: a cheap product that says which pairs can score in a
//! range, and never loses one.
//!
//! A vector `v` of `dim` components (16-bit, see [`crate::vector`]) is padded to `width`, its signs
//! are flipped by a fixed pattern, and each run of `block` components goes through a Walsh–Hadamard
//! transform: `w`, exact in `i32`, with `w_q·w_t = block·(v_q·v_t)`. The rotation spreads what sits
//! in few components over all, so that one step `g` serves every component of every vector:
//! `w = g·c + r`, where `c` is the code, −127 to 127, and `r` what is left. By Cauchy–Schwarz
//!
//! ```text
//! |block·(v_q·v_t) − g²·(c_q·c_t)| = |r_q·w_t + w_q·r_t − r_q·r_t| ≤ g²·(slack_q + slack_t)
//! slack = ⌈(M·|r| + |r|²/2) / g²⌉,   M ≥ |w| of every quantized vector
//! ```
//!
//! (the product of both remainders is split by the inequality of the means, so that each vector has
//! a number of its own). Everything is an integer: codes, slacks and tests agree to the bit on
//! every processor and device. A vector that is longer than any quantized one gets [`ALWAYS`]: it
//! is a candidate of everything, and the exact score decides.

use std::ops::RangeInclusive;

/// The largest dimension that can be coded: sums of products of codes stay below `2^27`.
pub const DIM_MAX: usize = 8192;

/// The slack of a vector about which its code says nothing. Two of them and a sum of products stay
/// below `2^30`; one of them outweighs any sum and any threshold.
pub const ALWAYS: i32 = 1 << 28;

/// A row of codes is padded to a multiple of this many bytes.
const WIDTH_STEP: usize = 64;
/// A code reaches to this many standard deviations of a component of a random unit vector: beyond,
/// larger steps cost more than rarer clipping gains (4.0 and 3.5 have more than twice the largest
/// remainder, 5.0 a tenth more on average).
const REACH: f64 = 4.5;
const CODE_MAX: i32 = 127;
/// A code is cut into at most this many stages, see [`Coder::reaches`].
const STAGES_MAX: usize = 8;

/// How vectors of one dimension are coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coder {
    dim: usize,
    width: usize,
    block: usize,
    step: i64,
    longest_squared: i64,
    longest_rotated: i64,
}

impl Coder {
    /// The coder of vectors of `dim` components. Panics unless `dim` is within 1 to [`DIM_MAX`].
    pub fn new(dim: usize) -> Coder {
        assert!((1..=DIM_MAX).contains(&dim), "a dimension of 1 to {DIM_MAX}, not {dim}");
        let width = dim.next_multiple_of(WIDTH_STEP);
        let block = 1 << width.trailing_zeros();
        let deviation = 32768.0 * (block as f64 / width as f64).sqrt();
        let step = (REACH * deviation / f64::from(CODE_MAX)).ceil() as i64;
        // A rounded unit vector is at most this long, see `crate::vector`.
        let longest = 32768 + (0.5 * (dim as f64).sqrt()).ceil() as i64;
        let longest_squared = longest * longest;
        let longest_rotated = root_up(block as u64 * longest_squared as u64) as i64;
        Coder { dim, width, block, step, longest_squared, longest_rotated }
    }

    /// Components of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Bytes of a code: `dim` rounded up to a multiple of 64.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Writes the code of `v` and returns its slack, 0 to [`ALWAYS`]. Panics if `v` has not
    /// [`Coder::dim`] components or `code` not [`Coder::width`] bytes.
    pub fn encode(&self, v: &[i16], code: &mut [i8]) -> i32 {
        assert_eq!(v.len(), self.dim, "a vector of the coder's dimension");
        assert_eq!(code.len(), self.width, "room for one code");
        let length_squared: i64 = v.iter().map(|&x| i64::from(x) * i64::from(x)).sum();
        let mut rotated = vec![0i32; self.width];
        for (i, (to, &x)) in rotated.iter_mut().zip(v).enumerate() {
            *to = if flips(i) { -i32::from(x) } else { i32::from(x) };
        }
        rotated.chunks_exact_mut(self.block).for_each(walsh_hadamard);
        let mut left_squared = 0u64;
        for (to, &w) in code.iter_mut().zip(&rotated) {
            let w = i64::from(w);
            let c = (w + self.step / 2)
                .div_euclid(self.step)
                .clamp(-i64::from(CODE_MAX), i64::from(CODE_MAX));
            *to = c as i8;
            left_squared += (w - self.step * c).pow(2) as u64;
        }
        if length_squared > self.longest_squared {
            return ALWAYS;
        }
        let left = i128::from(root_up(left_squared));
        let twice = 2 * i128::from(self.longest_rotated) * left + left * left;
        let slack = (twice as u128).div_ceil(2 * (self.step as u128).pow(2));
        slack.min(ALWAYS as u128) as i32
    }

    /// What one step of a code stands for.
    #[cfg(test)]
    pub(crate) fn step(&self) -> i64 {
        self.step
    }

    /// Components that are rotated together.
    #[cfg(test)]
    pub(crate) fn block(&self) -> usize {
        self.block
    }

    /// Bytes of a stage, a multiple of 64; the last stage may be shorter.
    pub fn stage_width(&self) -> usize {
        (self.width / STAGES_MAX).next_multiple_of(WIDTH_STEP)
    }

    /// Stages of a code, at most 8: what a filter may multiply before it asks whether to go on.
    pub fn stages(&self) -> usize {
        self.width.div_ceil(self.stage_width())
    }

    /// Writes for each stage how much the stages behind it, and the slack, can still give to a pair
    /// of which this code is one side: with `sum` over the stages so far,
    ///
    /// ```text
    /// c_q·c_t = sum + rest_q·rest_t ≤ sum + ⌈|rest_q|²/2⌉ + ⌈|rest_t|²/2⌉
    /// reach = ⌈|rest|²/2⌉ + slack
    /// ```
    ///
    /// by the inequality of the means, so that `sum + reach_q + reach_t < at_least` says that the
    /// whole product will not reach it either ([`is_candidate`]). The last stage has no rest: there
    /// the reach is the slack, and the question is the last one. Panics if `code` has not
    /// [`Coder::width`] bytes or `reaches` not [`Coder::stages`] elements.
    pub fn reaches(&self, code: &[i8], slack: i32, reaches: &mut [i32]) {
        assert_eq!(code.len(), self.width, "one code");
        assert_eq!(reaches.len(), self.stages(), "a reach for each stage");
        let mut rest = 0;
        let stages = code.chunks(self.stage_width()).zip(reaches).rev();
        for (stage, reach) in stages {
            // At most 2^26 + 2^28.
            *reach = slack + (rest + 1) / 2;
            rest += stage.iter().map(|&c| i32::from(c) * i32::from(c)).sum::<i32>();
        }
    }

    /// What a sum of products of codes must reach, and what it must not pass, for a score within
    /// `scores` to be possible: see [`is_candidate`].
    pub fn thresholds(&self, scores: &RangeInclusive<i32>) -> (i32, i32) {
        let (block, square) = (self.block as i64, self.step * self.step);
        let at_least = -(-block * i64::from(*scores.start())).div_euclid(square);
        let at_most = (block * i64::from(*scores.end())).div_euclid(square);
        // `g²` is more than `block`, so both are smaller than the scores they stand for.
        (at_least as i32, at_most as i32)
    }
}

/// Whether a pair whose codes' product is `sum` and whose slacks add up to `slack` may score within
/// the range that gave these `thresholds`. What every filter on every device computes.
pub fn is_candidate(sum: i32, slack: i32, thresholds: (i32, i32)) -> bool {
    sum + slack >= thresholds.0 && sum - slack <= thresholds.1
}

/// The product of two codes.
pub fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// Whether component `i` changes its sign before the transform: one bit of the finaliser of
/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), which has no pattern that data would share.
fn flips(i: usize) -> bool {
    let mut z = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) & 1 == 1
}

/// Multiplies by the Walsh–Hadamard matrix of ±1, in place. The length is a power of two.
fn walsh_hadamard(x: &mut [i32]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// The square root, rounded up.
fn root_up(x: u64) -> u64 {
    let down = x.isqrt();
    down + u64::from(down * down < x)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vector::{UNIT, dot_naive, quantize};

    fn coded(coder: &Coder, v: &[i16]) -> (Vec<i8>, i32) {
        let mut code = vec![0; coder.width()];
        let slack = coder.encode(v, &mut code);
        (code, slack)
    }

    /// The inequality of the module's first lines.
    fn certificate(coder: &Coder, q: &[i16], t: &[i16]) -> Result<(), TestCaseError> {
        let ((q_code, q_slack), (t_code, t_slack)) = (coded(coder, q), coded(coder, t));
        let (sum, slack) = (dot(&q_code, &t_code), q_slack + t_slack);
        let score = dot_naive(q, t);
        if slack < ALWAYS {
            let exact = i128::from(score) * coder.block as i128;
            let square = i128::from(coder.step).pow(2);
            let off = (exact - square * i128::from(sum)).abs();
            prop_assert!(off <= square * i128::from(slack), "{off} > {square}·{slack}");
        }
        for range in [score..=score, score..=i32::MAX, i32::MIN..=score, i32::MIN..=i32::MAX] {
            prop_assert!(is_candidate(sum, slack, coder.thresholds(&range)), "{range:?}");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn no_pair_is_lost(
            pairs in proptest::collection::vec((-1f32..1.0, -1f32..1.0), 1..1100),
            spike in 0usize..1100, height in 0f32..100.0,
        ) {
            let (mut a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let spike = spike % a.len();
            a[spike] += height;
            let coder = Coder::new(a.len());
            if let (Some(q), Some(t)) = (quantize(&a), quantize(&b)) {
                certificate(&coder, &q, &t)?;
                certificate(&coder, &q, &q)?;
                // As near as two roundings of one vector get.
                let mut near = q.clone();
                near[spike] = near[spike].saturating_sub(1).max(-32767);
                certificate(&coder, &q, &near)?;
            }
        }

        #[test]
        fn not_even_of_vectors_that_no_rounding_produces(
            pairs in proptest::collection::vec((any::<i16>(), any::<i16>()), 1..300)
        ) {
            let (q, t): (Vec<i16>, Vec<i16>) = pairs.into_iter().unzip();
            let coder = Coder::new(q.len());
            certificate(&coder, &q, &t)?;
            certificate(&coder, &q, &q)?;
        }
    }

    #[test]
    fn few_pairs_are_kept_for_nothing() {
        // What the filter is for: of random pairs at 1,024 components none comes within the slack
        // of a band, and a pair's slack is 0.02 of a cosine, more only where a component was clipped.
        let coder = Coder::new(1024);
        let vector = |seed: usize| {
            let at = |i: usize| (0..12).filter(|k| flips(i * 977 + seed * 131 + k)).count();
            quantize(&(0..1024).map(|i| at(i) as f32 - 6.0).collect::<Vec<_>>()).unwrap()
        };
        let coded: Vec<_> = (0..60).map(|seed| coded(&coder, &vector(seed))).collect();
        let cosine = |x: i32| {
            f64::from(x) * (coder.step * coder.step) as f64 / coder.block as f64 / f64::from(UNIT)
        };
        let thresholds = coder.thresholds(&(UNIT / 2..=i32::MAX));
        for (i, (q, q_slack)) in coded.iter().enumerate() {
            for (t, t_slack) in &coded[..i] {
                assert!(!is_candidate(dot(q, t), q_slack + t_slack, thresholds));
            }
        }
        let mut slacks: Vec<f64> = coded.iter().map(|(_, slack)| 2.0 * cosine(*slack)).collect();
        slacks.sort_by(f64::total_cmp);
        assert!((0.015..0.022).contains(&slacks[30]), "the median is {}", slacks[30]);
        assert!(slacks[59] < 0.04, "the largest is {}", slacks[59]);
    }

    #[test]
    fn limits_hold_at_the_largest_dimension() {
        for dim in [1, 63, 64, 65, 768, 1000, 8128, DIM_MAX] {
            let coder = Coder::new(dim);
            let sum_max = CODE_MAX * CODE_MAX * coder.width() as i32;
            assert!(sum_max < 1 << 27);
            for range in [i32::MIN..=i32::MIN, i32::MAX..=i32::MAX] {
                let thresholds = coder.thresholds(&range);
                assert!(is_candidate(sum_max, ALWAYS, thresholds), "{dim} {range:?}");
                assert!(is_candidate(-sum_max, ALWAYS, thresholds), "{dim} {range:?}");
                assert!(is_candidate(sum_max, 2 * ALWAYS, thresholds), "{dim} {range:?}");
            }
            assert_eq!(coded(&coder, &vec![0; dim]), (vec![0; coder.width()], 0));
            assert_eq!(coded(&coder, &vec![i16::MIN; dim]).1 == ALWAYS, dim > 1);
        }
    }
}
