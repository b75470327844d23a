//! A perceptual hash of 64 bits.

use crate::decode::Pixels;
use crate::measure::grey;
use crate::resize::resize;

/// Pixels a side of the grey picture that is transformed.
const SIDE: usize = 32;
/// Low frequencies kept in each direction.
const KEPT: usize = 8;

/// The DCT hash as imagehash lays it out: grey, 32 × 32, DCT-II in both directions, the 8 × 8 lowest
/// frequencies (the mean included); a bit is 1 where a coefficient is above their median; row by
/// row, the first bit is the highest. Written as 16 hex digits it compares with imagehash up to a
/// few bits (the reduction's filter differs).
///
/// Cosines are rounded to 14 bits, so the transform is exact in integers and the hash the same on
/// every processor.
pub fn phash(p: &Pixels) -> u64 {
    let small = grey(&resize(p, SIDE as u32, SIDE as u32));
    let cosines = cosines();
    // Rows first, then columns: only the frequencies that are kept.
    let mut rows = [[0i64; KEPT]; SIDE];
    for (y, row) in rows.iter_mut().enumerate() {
        for (u, sum) in row.iter_mut().enumerate() {
            *sum = (0..SIDE).map(|x| cosines[u][x] * i64::from(small[y * SIDE + x])).sum();
        }
    }
    let coefficients: [i64; KEPT * KEPT] = std::array::from_fn(|i| {
        let (v, u) = (i / KEPT, i % KEPT);
        (0..SIDE).map(|y| cosines[v][y] * rows[y][u]).sum()
    });
    let mut sorted = coefficients;
    sorted.sort_unstable();
    let twice_median = sorted[31] + sorted[32];
    coefficients.iter().fold(0, |hash, &c| hash << 1 | u64::from(2 * c > twice_median))
}

/// In how many bits two hashes differ: 0 to 64. Up to about 6 usually means the same picture.
pub fn hamming(a: u64, b: u64) -> u32 {
    (a ^ b).count_ones()
}

fn cosines() -> [[i64; SIDE]; KEPT] {
    std::array::from_fn(|u| {
        std::array::from_fn(|x| {
            let angle = std::f64::consts::PI * (u * (2 * x + 1)) as f64 / (2 * SIDE) as f64;
            (angle.cos() * f64::from(1 << 14)).round() as i64
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resize::encode_jpeg;

    fn picture(seed: u32) -> Pixels {
        let (width, height) = (200, 150);
        let pixel = |i: u32| {
            let (x, y) = ((i % width) as f64, (i / width) as f64);
            let s = f64::from(seed);
            let wave = (x * (0.02 + 0.013 * s) + s).sin() + (y * (0.05 - 0.007 * s)).cos();
            let c = (127.0 + 60.0 * wave) as u8;
            [c, c.wrapping_add(20), 255 - c]
        };
        Pixels { width, height, rgb: (0..width * height).flat_map(pixel).collect() }
    }

    #[test]
    fn copies_are_near_and_others_far() {
        for seed in 0..5 {
            let p = picture(seed);
            let hash = phash(&p);
            assert!(hamming(hash, phash(&resize(&p, 90, 70))) <= 4);
            let jpeg = crate::decode::decode(&encode_jpeg(&p, 50), &Default::default()).unwrap();
            assert!(hamming(hash, phash(&jpeg.pixels)) <= 6);
            for other in 0..seed {
                assert!(hamming(hash, phash(&picture(other))) > 10, "{seed} {other}");
            }
        }
    }

    #[test]
    fn a_flat_picture_has_only_its_mean() {
        let flat = |c| Pixels { width: 10, height: 10, rgb: vec![c; 300] };
        assert_eq!(phash(&flat(200)), 1 << 63);
        assert_eq!(phash(&flat(0)), 0);
    }

    #[test]
    fn bits_that_differ() {
        assert_eq!(hamming(0, 0), 0);
        assert_eq!(hamming(0b1011, 0b0001), 2);
        assert_eq!(hamming(0, u64::MAX), 64);
    }
}
