//! `builtin:edges`: where in the picture edges run, and in which direction (after Dalal and Triggs).

use super::{ImageEncoder, center, digest_of, weigh};
use crate::decode::Pixels;
use crate::measure::grey;
use crate::resize::resize;
use crate::vector::quantize_raw;

pub(super) const NAME: &str = "builtin:edges";
const DESCRIPTION: &str = "edges 1: bilinear to 64x64; grey; central differences; 8 unsigned directions \
    by the largest projection; 8x8 cells, each over the norm of its 3x3 neighbourhood; per cell \
    directions less their mean, and the norm; per component less its mean over cells";

const CELLS: usize = 8;
const CELL_PIXELS: usize = 8;
const SIDE: usize = CELLS * CELL_PIXELS;
const DIRECTIONS: usize = 8;
const PER_CELL: usize = DIRECTIONS + 1;
/// What a cell's neighbourhood must hold, in sums of gradient, before it counts as more than noise.
const NOISE: f64 = 2000.0;
/// `4096·(cos, sin)` of 0°, 22.5°, …, 157.5°.
const UNITS: [(i64, i64); DIRECTIONS] = [
    (4096, 0),
    (3784, 1567),
    (2896, 2896),
    (1567, 3784),
    (0, 4096),
    (-1567, 3784),
    (-2896, 2896),
    (-3784, 1567),
];

pub(super) struct Edges;

impl ImageEncoder for Edges {
    fn name(&self) -> &str {
        NAME
    }

    fn digest(&self) -> String {
        digest_of(DESCRIPTION)
    }

    fn dim(&self) -> usize {
        CELLS * CELLS * PER_CELL
    }

    fn encode(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        batch.iter().map(|p| quantize_raw(&features(p))).collect()
    }

    fn default_bands(&self) -> &[(f64, f64)] {
        &[(0.50, 0.93)]
    }
}

type Histograms = [[f64; DIRECTIONS]; CELLS * CELLS];

fn features(p: &Pixels) -> [f64; CELLS * CELLS * PER_CELL] {
    let cells = histograms(&grey(&resize(p, SIDE as u32, SIDE as u32)));
    let energies = cells.map(|cell| cell.iter().map(|x| x * x).sum::<f64>());
    let mut features = [0.0; CELLS * CELLS * PER_CELL];
    for (i, out) in features.as_chunks_mut::<PER_CELL>().0.iter_mut().enumerate() {
        let norm = (neighborhood(&energies, i) + NOISE * NOISE).sqrt();
        let (directions, strength) = out.split_at_mut(DIRECTIONS);
        for (x, sum) in directions.iter_mut().zip(cells[i]) {
            *x = sum / norm;
        }
        center(directions);
        strength[0] = energies[i].sqrt() / norm;
    }
    // Horizontal and vertical edges are common everywhere; what is everywhere tells nothing.
    for component in 0..PER_CELL {
        let column = || (0..CELLS * CELLS).map(|cell| cell * PER_CELL + component);
        let mean = column().map(|i| features[i]).sum::<f64>() / (CELLS * CELLS) as f64;
        column().for_each(|i| features[i] -= mean);
    }
    weigh(&mut features, 1.0);
    features
}

/// Per cell and direction the sum of gradients, in 1/4096 of half a grey level.
fn histograms(grey: &[u8]) -> Histograms {
    let at = |x: usize, y: usize| i64::from(grey[y.min(SIDE - 1) * SIDE + x.min(SIDE - 1)]);
    let mut sums = [[0i64; DIRECTIONS]; CELLS * CELLS];
    for y in 0..SIDE {
        for x in 0..SIDE {
            let dx = at(x + 1, y) - at(x.saturating_sub(1), y);
            let dy = at(x, y + 1) - at(x, y.saturating_sub(1));
            let projections = UNITS.map(|(cos, sin)| (cos * dx + sin * dy).abs());
            // Of equal projections the first counts.
            let (direction, length) = projections
                .into_iter()
                .enumerate()
                .fold((0, 0), |best, next| if next.1 > best.1 { next } else { best });
            sums[y / CELL_PIXELS * CELLS + x / CELL_PIXELS][direction] += length;
        }
    }
    sums.map(|cell| cell.map(|sum| sum as f64 / 4096.0))
}

fn neighborhood(energies: &[f64; CELLS * CELLS], i: usize) -> f64 {
    let near = |c: usize| c.saturating_sub(1)..=(c + 1).min(CELLS - 1);
    near(i / CELLS).flat_map(|y| near(i % CELLS).map(move |x| energies[y * CELLS + x])).sum()
}
