//! Vectors of 16-bit integers and the arithmetic of scores.
//!
//! A component is `rint(32768·x)`, ties to even, clamped to ±32767, of a vector of length 1; a
//! score is the integer dot product of two such vectors, about `2^30` times their cosine. Partial
//! sums are bounded by Cauchy–Schwarz: the rounded vector's norm is at most
//! `32768 + 0.5·√dim`, so for any `dim` up to 2^20 each partial sum of products, in any order,
//! stays below `2^31`. Sums of `i32` are therefore exact and associative, and every code path on
//! every processor gives the same score to the bit.
#![allow(unsafe_code)]

use std::sync::Arc;

/// The score that stands for a cosine of 1: `2^30`.
pub const UNIT: i32 = 1 << 30;

/// Makes a vector of length 1 of `x` and rounds it.
///
/// The norm is `sqrt(Σ x²)` in double precision, summed in index order; each component is
/// `rint(32768·(x / norm))`, ties to even, clamped to ±32767. `None` if `x` is empty, is zero, has
/// a component that is not finite, or is so large or small that its squared norm is not a normal
/// double: such a vector is no vector.
pub fn quantize(x: &[f32]) -> Option<Box<[i16]>> {
    quantize_doubles(x.iter().map(|&x| f64::from(x)))
}

/// [`quantize`] for vectors that arrive as doubles, such as the numbers of a JSON message. They are
/// normalised too, so that a vector whose norm is only nearly 1 cannot overflow a score.
pub fn quantize_raw(x: &[f64]) -> Option<Box<[i16]>> {
    quantize_doubles(x.iter().copied())
}

fn quantize_doubles(x: impl Iterator<Item = f64> + Clone) -> Option<Box<[i16]>> {
    let squared_norm = x.clone().fold(0.0, |sum, x| sum + x * x);
    // Infinities and NaN end up in the sum, so this one test refuses them as well.
    if !squared_norm.is_normal() {
        return None;
    }
    let norm = squared_norm.sqrt();
    Some(
        x.map(|x| {
            let scaled = (32768.0 * (x / norm)).round_ties_even();
            scaled.clamp(-32767.0, 32767.0) as i16
        })
        .collect(),
    )
}

/// The score of two vectors of equal length, exact. Panics if the lengths differ.
///
/// Takes the fastest path this processor has; all give what [`dot_naive`] gives. Arithmetic wraps,
/// which vectors from [`quantize`] cannot make it do.
pub fn dot(a: &[i16], b: &[i16]) -> i32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions have no score");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
    {
        // SAFETY: the processor has the features and the lengths are equal.
        return unsafe { dot_avx512vnni(a, b) };
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2 and the lengths are equal.
        return unsafe { dot_avx2(a, b) };
    }
    dot_naive(a, b)
}

/// [`dot`] as it is defined: the oracle.
pub fn dot_naive(a: &[i16], b: &[i16]) -> i32 {
    assert_eq!(a.len(), b.len(), "vectors of different dimensions have no score");
    a.iter().zip(b).fold(0, |sum: i32, (&a, &b)| sum.wrapping_add(i32::from(a) * i32::from(b)))
}

/// # Safety
/// The processor has the features, and `a` and `b` are of equal length.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot_avx512vnni(a: &[i16], b: &[i16]) -> i32 {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_setzero_si512(); 4];
    let mut i = 0;
    let step = |i: usize, mask: u32, sum: &mut __m512i| {
        // SAFETY: callers pass a mask of lanes within both slices; the others are not read.
        let (x, y) = unsafe {
            (
                _mm512_maskz_loadu_epi16(mask, a.as_ptr().add(i)),
                _mm512_maskz_loadu_epi16(mask, b.as_ptr().add(i)),
            )
        };
        *sum = _mm512_dpwssd_epi32(*sum, x, y);
    };
    while i + 128 <= a.len() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            step(i + 32 * lane, u32::MAX, sum);
        }
        i += 128;
    }
    while i < a.len() {
        let rest = a.len() - i;
        step(i, if rest >= 32 { u32::MAX } else { (1 << rest) - 1 }, &mut sums[i / 32 % 4]);
        i += 32;
    }
    let [x, y, z, w] = sums;
    let sum = _mm512_add_epi32(_mm512_add_epi32(x, y), _mm512_add_epi32(z, w));
    _mm512_reduce_add_epi32(sum)
}

/// # Safety
/// The processor has AVX2, and `a` and `b` are of equal length.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn dot_avx2(a: &[i16], b: &[i16]) -> i32 {
    use std::arch::x86_64::*;
    let mut sums = [_mm256_setzero_si256(); 4];
    let mut i = 0;
    let step = |i: usize, sum: &mut __m256i| {
        // SAFETY: callers pass i with i + 16 <= len, so both unaligned loads are within the slices.
        let (x, y) = unsafe {
            (
                _mm256_loadu_si256(a.as_ptr().add(i).cast()),
                _mm256_loadu_si256(b.as_ptr().add(i).cast()),
            )
        };
        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, y));
    };
    while i + 64 <= a.len() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            step(i + 16 * lane, sum);
        }
        i += 64;
    }
    while i + 16 <= a.len() {
        step(i, &mut sums[0]);
        i += 16;
    }
    let sum =
        _mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3]));
    let mut parts = [0i32; 8];
    // SAFETY: `parts` is 32 bytes long and the store is unaligned.
    unsafe { _mm256_storeu_si256(parts.as_mut_ptr().cast(), sum) };
    parts.iter().fold(dot_naive(&a[i..], &b[i..]), |sum, &part| sum.wrapping_add(part))
}

/// The stored form: little-endian, `2·dim` bytes.
pub fn to_le_bytes(v: &[i16]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Reads the stored form. `None` for an odd number of bytes, none at all, or a component of −32768,
/// which no rounding produces.
pub fn from_le_bytes(b: &[u8]) -> Option<Box<[i16]>> {
    let (pairs, rest) = b.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&pair| Some(i16::from_le_bytes(pair)).filter(|&x| x != i16::MIN)).collect()
}

/// The same, shared.
pub fn arc_from_le_bytes(b: &[u8]) -> Option<Arc<[i16]>> {
    let (pairs, rest) = b.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    // In one piece, without one that is copied from.
    let vector: Arc<[i16]> = pairs.iter().map(|&pair| i16::from_le_bytes(pair)).collect();
    (!vector.contains(&i16::MIN)).then_some(vector)
}

/// A half-open interval of scores: `lo <= score < hi`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Band {
    /// The lowest score within.
    pub lo: i32,
    /// The lowest score above: from here on two images are near-duplicates.
    pub hi: i32,
}

impl Band {
    /// The band of cosines `low <= cosine < high`: edges are `⌈edge·2^30⌉`.
    ///
    /// `high` may pass 1 a little (up to 1.01), which lets equal vectors in; below that they are out
    /// or, by rounding, at the edge. `Err` says which edge is wrong.
    pub fn new(low: f64, high: f64) -> Result<Band, String> {
        if !(-1.0..=1.0).contains(&low) {
            return Err(format!(
                "the lower edge of a band is a cosine between -1 and 1, not {low}"
            ));
        }
        if !(-1.0..=1.01).contains(&high) {
            return Err(format!(
                "the upper edge of a band is a cosine between -1 and 1, not {high}"
            ));
        }
        if low >= high {
            return Err(format!(
                "a band's lower edge is below its upper edge, but {low} >= {high}"
            ));
        }
        // A double times a power of two is exact, and 1.01·2^30 fits an i32.
        let edge = |cosine: f64| (cosine * f64::from(UNIT)).ceil() as i32;
        Ok(Band { lo: edge(low), hi: edge(high) })
    }

    /// Whether `score` is within.
    pub fn contains(&self, score: i32) -> bool {
        self.lo <= score && score < self.hi
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounds_ties_to_even_and_clamps() {
        assert_eq!(quantize(&[2.0]).as_deref(), Some(&[32767][..]));
        assert_eq!(quantize(&[-0.5]).as_deref(), Some(&[-32767][..]));
        assert_eq!(quantize(&[3.0, -4.0]).as_deref(), Some(&[19661, -26214][..]));
        assert_eq!(quantize_raw(&[1.0; 4]).as_deref(), Some(&[16384; 4][..]));
        // The norm is exactly 65536, so odd numbers are ties: ½ to 0, 1½ to 2, 32767½ past the clamp.
        let ties = [1.0, -3.0, 65535.0, 362.0, 4.0, 1.0];
        assert_eq!(quantize_raw(&ties).as_deref(), Some(&[0, -2, 32767, 181, 2, 0][..]));
    }

    #[test]
    fn no_vector() {
        for x in
            [&[][..], &[0.0, 0.0], &[f32::NAN, 1.0], &[f32::INFINITY], &[1.0, f32::NEG_INFINITY]]
        {
            assert_eq!(quantize(x), None, "{x:?}");
        }
        assert_eq!(quantize_raw(&[1e200, 1.0]), None);
        assert_eq!(quantize_raw(&[1e-200]), None);
        assert!(quantize(&[f32::MAX, f32::MAX]).is_some());
        assert!(quantize(&[1e-38, 0.0]).is_some());
    }

    #[test]
    fn edges_of_bands() {
        let band = Band::new(0.8, 0.96).unwrap();
        assert_eq!(band, Band { lo: 858_993_460, hi: 1_030_792_152 });
        assert!(band.contains(band.lo) && !band.contains(band.lo - 1));
        assert!(band.contains(band.hi - 1) && !band.contains(band.hi));
        assert_eq!(Band::new(-1.0, 1.0).unwrap(), Band { lo: -UNIT, hi: UNIT });
        assert_eq!(Band::new(0.5, 1.01).unwrap().hi, 1_084_479_243);
        for (low, high) in
            [(0.5, 0.5), (0.9, 0.8), (f64::NAN, 1.0), (0.0, f64::NAN), (-1.1, 0.0), (0.0, 1.1)]
        {
            assert!(Band::new(low, high).is_err(), "{low} {high}");
        }
    }

    #[test]
    fn stored_form() {
        assert_eq!(to_le_bytes(&[1, -2]), [1, 0, 0xfe, 0xff]);
        assert_eq!(from_le_bytes(&[1, 0, 0xfe, 0xff]).as_deref(), Some(&[1, -2][..]));
        assert_eq!(from_le_bytes(&[]), None);
        assert_eq!(from_le_bytes(&[1]), None);
        assert_eq!(from_le_bytes(&[0, 0x80]), None);
    }

    proptest! {
        #[test]
        fn every_path_gives_the_naive_score(
            pairs in proptest::collection::vec((any::<i16>(), any::<i16>()), 0..300)
        ) {
            let (a, b): (Vec<i16>, Vec<i16>) = pairs.into_iter().unzip();
            prop_assert_eq!(dot(&a, &b), dot_naive(&a, &b));
        }

        #[test]
        fn scores_of_unit_vectors_are_cosines_and_cannot_overflow(
            pairs in proptest::collection::vec((-1f32..1.0, -1f32..1.0), 1..800)
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            if let (Some(p), Some(q)) = (quantize(&a), quantize(&b)) {
                let wide = |p: &[i16], q: &[i16]| {
                    p.iter().zip(q).map(|(&p, &q)| i64::from(p) * i64::from(q)).sum::<i64>()
                };
                prop_assert_eq!(i64::from(dot(&p, &q)), wide(&p, &q));
                prop_assert_eq!(i64::from(dot(&p, &p)), wide(&p, &p));
                let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                let products = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b));
                let cosine = products.sum::<f64>() / norm(&a) / norm(&b);
                prop_assert!((f64::from(dot(&p, &q)) / f64::from(UNIT) - cosine).abs() < 1e-3);
                prop_assert_eq!(from_le_bytes(&to_le_bytes(&p)), Some(p));
            }
        }

        #[test]
        fn both_entries_agree(x in proptest::collection::vec(-1e3f32..1e3, 1..50)) {
            let doubles: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            prop_assert_eq!(quantize(&x), quantize_raw(&doubles));
        }
    }
}
