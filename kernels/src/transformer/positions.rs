//! Position embeddings for another grid than the one they were learnt on, as PyTorch computes them.

use super::Rotation;

/// Bicubic interpolation of `[from.0][from.1][width]` to `[to.0][to.1][width]`: what PyTorch's
/// `interpolate(mode="bicubic", align_corners=False)` does, with or without antialiasing. Without, the
/// kernel has a = -0.75 and always four taps; with, a = -0.5 and it is as wide as the reduction asks
/// for.
pub(crate) fn interpolate(
    positions: &[f32],
    from: [usize; 2],
    to: [usize; 2],
    width: usize,
    antialias: bool,
) -> Vec<f32> {
    assert_eq!(positions.len(), from[0] * from[1] * width, "a grid of rows");
    if from == to {
        return positions.to_vec();
    }
    let taps = |axis: usize| -> Vec<Vec<(usize, f64)>> {
        (0..to[axis])
            .map(|at| match antialias {
                true => taps_antialiased(at, from[axis], to[axis]),
                false => taps(at, from[axis], to[axis]),
            })
            .collect()
    };
    let (rows, columns) = (taps(0), taps(1));
    let mut out = Vec::with_capacity(to[0] * to[1] * width);
    for row in &rows {
        for column in &columns {
            let mut sums = vec![0.0f64; width];
            for &(y, down) in row {
                for &(x, across) in column {
                    let token = &positions[(y * from[1] + x) * width..][..width];
                    let weight = down * across;
                    sums.iter_mut().zip(token).for_each(|(s, &p)| *s += weight * f64::from(p));
                }
            }
            out.extend(sums.into_iter().map(|sum| sum as f32));
        }
    }
    out
}

/// Keys' cubic kernel at distance `x`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

fn taps(at: usize, from: usize, to: usize) -> Vec<(usize, f64)> {
    let source = (at as f64 + 0.5) * (from as f64 / to as f64) - 0.5;
    let first = source.floor();
    let tap = |i: i64| {
        let place = first as i64 + i;
        (place.clamp(0, from as i64 - 1) as usize, cubic(source - place as f64, -0.75))
    };
    (-1..=2).map(tap).collect()
}

fn taps_antialiased(at: usize, from: usize, to: usize) -> Vec<(usize, f64)> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let center = (at as f64 + 0.5) * scale;
    let begin = ((center - 2.0 * stretch + 0.5) as i64).max(0);
    let end = ((center + 2.0 * stretch + 0.5) as i64).min(from as i64);
    let weigh = |i: i64| cubic((i as f64 - center + 0.5) / stretch, -0.5);
    let total: f64 = (begin..end).map(weigh).sum();
    (begin..end).map(|i| (i as usize, weigh(i) / total)).collect()
}

/// The rotary embedding of EVA-02: bands `1/10000^(j/n)`, n = `dim / 4`, for a patch's row and then
/// for its column, each twice; places are counted in the grid that was learnt on, `reference`.
pub(crate) fn rotation(grid: [usize; 2], reference: [usize; 2], dim: usize) -> Rotation {
    let bands = dim / 4;
    let (mut cosines, mut sines) = (Vec::new(), Vec::new());
    for token in 0..grid[0] * grid[1] {
        for (axis, at) in [token / grid[1], token % grid[1]].into_iter().enumerate() {
            let place = at as f32 / grid[axis] as f32 * reference[axis] as f32;
            for band in 0..bands {
                let angle = place * (1.0 / 10_000f32.powf(band as f32 / bands as f32));
                let (sine, cosine) = f64::from(angle).sin_cos();
                cosines.extend([cosine as f32; 2]);
                sines.extend([sine as f32; 2]);
            }
        }
    }
    Rotation { cosines, sines }
}
