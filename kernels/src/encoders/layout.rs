//! `builtin:layout`: where in the picture which colours are.

use super::{ImageEncoder, center, digest_of, weigh};
use crate::decode::Pixels;
use crate::resize::resize;
use crate::vector::quantize_raw;

pub(super) const NAME: &str = "builtin:layout";
const DESCRIPTION: &str = "layout 1: bilinear to 32x32; 8x8 cells of mean R+G+B, R-G, (R+G)/2-B, each \
    less its mean over cells, the first also less its part along a centred pyramid; histogram of \
    4x4x4 colours, each capped at an eighth, square root, less its mean; layout and colours weigh 1 \
    and 1";

const CELLS: usize = 8;
const CELL_PIXELS: usize = 4;
const SIDE: usize = CELLS * CELL_PIXELS;
const LEVELS: usize = 4;
const LAYOUT: usize = 3 * CELLS * CELLS;
const COLORS: usize = LEVELS * LEVELS * LEVELS;

pub(super) struct Layout;

impl ImageEncoder for Layout {
    fn name(&self) -> &str {
        NAME
    }

    fn digest(&self) -> String {
        digest_of(DESCRIPTION)
    }

    fn dim(&self) -> usize {
        LAYOUT + COLORS
    }

    fn encode(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        batch.iter().map(|p| quantize_raw(&features(p))).collect()
    }

    fn default_bands(&self) -> &[(f64, f64)] {
        &[(0.60, 0.97)]
    }
}

fn features(p: &Pixels) -> [f64; LAYOUT + COLORS] {
    let small = resize(p, SIDE as u32, SIDE as u32);
    let mut cells = [0i32; LAYOUT];
    let mut counts = [0u32; COLORS];
    for (i, &[r, g, b]) in small.rgb.as_chunks().0.iter().enumerate() {
        let cell = i / SIDE / CELL_PIXELS * CELLS + i % SIDE / CELL_PIXELS;
        let level = |c: u8| usize::from(c) * LEVELS / 256;
        counts[(level(r) * LEVELS + level(g)) * LEVELS + level(b)] += 1;
        let [r, g, b] = [r, g, b].map(i32::from);
        // Opponent colours, doubled where they would have halves, with weights near their spread.
        for (channel, value) in [r + g + b, 2 * (r - g), r + g - 2 * b].into_iter().enumerate() {
            cells[channel * CELLS * CELLS + cell] += value;
        }
    }
    let mut features = [0.0; LAYOUT + COLORS];
    let (layout, colors) = features.split_at_mut(LAYOUT);
    for (x, &sum) in layout.iter_mut().zip(&cells) {
        *x = f64::from(sum);
    }
    layout.chunks_mut(CELLS * CELLS).for_each(center);
    remove_pyramid(&mut layout[..CELLS * CELLS]);
    for (x, &count) in colors.iter_mut().zip(&counts) {
        // The cap keeps a common background, such as white, from outweighing all else.
        *x = f64::from(count.min((SIDE * SIDE / 8) as u32)).sqrt();
    }
    center(colors);
    weigh(layout, 1.0);
    weigh(colors, 1.0);
    features
}

/// Takes out of the (centred) lightness its part along "something in the middle, nothing around it",
/// which most pictures have.
fn remove_pyramid(lightness: &mut [f64]) {
    let height = |i: usize| i.min(CELLS - 1 - i) as f64;
    let mut pyramid: [f64; CELLS * CELLS] =
        std::array::from_fn(|i| height(i / CELLS).min(height(i % CELLS)));
    center(&mut pyramid);
    let along: f64 = lightness.iter().zip(&pyramid).map(|(x, p)| x * p).sum();
    let squared: f64 = pyramid.iter().map(|p| p * p).sum();
    for (x, p) in lightness.iter_mut().zip(&pyramid) {
        *x -= along / squared * p;
    }
}
