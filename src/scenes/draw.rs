//! Scenes to pixels.
//!
//! Shapes are distances to their outline, so edges are smooth without sampling a pixel twice. Only
//! operations that IEEE 754 rounds correctly are used, so pixels are the same on every processor.

use kernels::decode::Pixels;

use super::random::Random;
use super::spec::{Ground, Rgb, Shape, Spec, Surface};

/// One shape where it stands: centre and radius in pixels.
pub(super) struct Placed {
    pub shape: Shape,
    pub color: Rgb,
    pub x: f32,
    pub y: f32,
    pub radius: f32,
}

/// Draws a scene; `jitter` moves what no caption speaks of.
pub(super) fn draw(spec: &Spec, jitter: &mut Random) -> Pixels {
    let (width, height) = spec.canvas;
    let mut canvas = Pixels { width, height, rgb: vec![0; 3 * (width * height) as usize] };
    fill(&mut canvas, &spec.ground, spec.layout);
    for placed in super::place::place(spec, jitter) {
        shadow(&mut canvas, &placed);
        paint(&mut canvas, &placed);
    }
    canvas
}

/// Runs over the pixels around a shape, giving each its distance to the outline (negative inside).
fn around(
    canvas: &mut Pixels,
    (shape, x, y, radius): (Shape, f32, f32, f32),
    margin: f32,
    mut with: impl FnMut(&mut [u8; 3], f32, f32),
) {
    let reach = radius * 1.1 + margin;
    let columns = span(x, reach, canvas.width);
    let stride = canvas.width as usize;
    let pixels = canvas.rgb.as_chunks_mut::<3>().0;
    for row in span(y, reach, canvas.height) {
        let dy = row as f32 + 0.5 - y;
        for column in columns.clone() {
            let dx = column as f32 + 0.5 - x;
            let distance = distance(shape, dx / radius, dy / radius) * radius;
            with(&mut pixels[row * stride + column], distance, dy / radius);
        }
    }
}

fn span(center: f32, reach: f32, side: u32) -> std::ops::Range<usize> {
    let low = (center - reach).max(0.0) as usize;
    low..((center + reach).max(0.0) as usize + 1).min(side as usize)
}

fn paint(canvas: &mut Pixels, p: &Placed) {
    around(canvas, (p.shape, p.x, p.y, p.radius), 1.0, |pixel, distance, dy| {
        let coverage = (0.5 - distance).clamp(0.0, 1.0);
        if coverage > 0.0 {
            // Lit from above: a tenth lighter at the top, a tenth darker at the foot. A darker rim
            // tells a shape from a ground of the same brightness.
            let rim = (2.0 + distance).clamp(0.0, 1.0);
            let light = (1.0 - 0.1 * dy) * (1.0 - 0.34 * rim);
            let lit = p.color.map(|c| (f32::from(c) * light + 6.0).clamp(0.0, 255.0));
            blend(pixel, lit, coverage);
        }
    });
}

fn shadow(canvas: &mut Pixels, p: &Placed) {
    let soft = p.radius * 0.18;
    let at = (p.shape, p.x + p.radius * 0.06, p.y + p.radius * 0.12, p.radius);
    around(canvas, at, soft, |pixel, distance, _| {
        let strength = (0.5 - distance / (2.0 * soft)).clamp(0.0, 1.0);
        if strength > 0.0 {
            blend(pixel, [20.0, 22.0, 40.0], 0.28 * strength);
        }
    });
}

fn blend(pixel: &mut [u8; 3], color: [f32; 3], share: f32) {
    for (c, over) in pixel.iter_mut().zip(color) {
        let below = f32::from(*c);
        *c = (below + (over - below) * share + 0.5) as u8;
    }
}

fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// Distance to a box of half sides `w` and `h`, exact only near its edges, which is where it counts.
fn bar(x: f32, y: f32, w: f32, h: f32) -> f32 {
    (x.abs() - w).max(y.abs() - h)
}

/// Directions of a pentagon's corners, from the top.
const FIVE: [(f32, f32); 5] = [
    (0.0, -1.0),
    (0.951_056_5, -0.309_017),
    (0.587_785_25, 0.809_017),
    (-0.587_785_25, 0.809_017),
    (-0.951_056_5, -0.309_017),
];

/// About the distance to the outline of a shape of radius 1 around the origin, y downwards.
fn distance(shape: Shape, x: f32, y: f32) -> f32 {
    const ROOT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
    match shape {
        Shape::Circle => length(x, y) - 0.92,
        Shape::Square => bar(x, y, 0.8, 0.8),
        Shape::Triangle => {
            let y = y - 0.18;
            (x.abs() * 0.866_025_4 - y * 0.5).max(y) - 0.52
        }
        Shape::Diamond => (x.abs() * 1.25 + y.abs() - 1.0) * 0.625,
        Shape::Hexagon => (x.abs() * 0.866_025_4 + y.abs() * 0.5).max(y.abs()) - 0.82,
        // A point is in the star if it is beyond at most one of the pentagon's five sides.
        Shape::Star => {
            let (mut most, mut second) = (f32::MIN, f32::MIN);
            for (cos, sin) in FIVE {
                let beyond = x * cos + y * sin - 0.309;
                (most, second) =
                    if beyond > most { (beyond, most) } else { (most, second.max(beyond)) };
            }
            second
        }
        Shape::Ring => (length(x, y) - 0.7).abs() - 0.22,
        Shape::Cross => bar(x, y, 0.9, 0.3).min(bar(x, y, 0.3, 0.9)),
        Shape::Heart => {
            let y = y + 0.05;
            // A square on its corner, and a half disc on each of its upper sides.
            let (u, v) = ((x + y - 0.08) * ROOT_HALF, (y - x - 0.08) * ROOT_HALF);
            let disc = length(x.abs() - 0.4, y + 0.32) - 0.566;
            bar(u, v, 0.566, 0.566).min(disc)
        }
        Shape::Crescent => (length(x + 0.05, y) - 0.92).max(0.75 - length(x - 0.42, y + 0.08)),
    }
}

fn fill(canvas: &mut Pixels, ground: &Ground, layout: u64) {
    let (width, height) = (canvas.width as usize, canvas.height as usize);
    let base = ground.tint.rgb.map(f32::from);
    let other = ground.tint.partner.map(f32::from);
    let soft = |share: f32| mix(base, other, share);
    let rows = canvas.rgb.as_chunks_mut::<3>().0.chunks_exact_mut(width);
    for (y, row) in rows.enumerate() {
        let down = y as f32 / height as f32;
        for (x, pixel) in row.iter_mut().enumerate() {
            let color = match ground.surface {
                // Nothing real is of one colour: a light that falls off towards a corner.
                Surface::Plain => soft(0.08 * (down + x as f32 / width as f32)),
                Surface::Faded => soft(down),
                Surface::Striped => soft(edge(wave(x + y, 28)) * 0.55 + 0.05 * down),
                Surface::Dotted => soft(dot(x, y) * 0.6 + 0.05 * down),
                Surface::Checked => {
                    let odd = (x / 24 + y / 24) % 2;
                    soft(odd as f32 * 0.45 + 0.05 * down)
                }
                Surface::Night => mix([14.0, 18.0, 46.0], [52.0, 58.0, 110.0], down * down),
                Surface::Day if down < 0.68 => {
                    mix([118.0, 186.0, 240.0], [214.0, 236.0, 252.0], down / 0.68)
                }
                Surface::Day => {
                    mix([134.0, 196.0, 98.0], [84.0, 152.0, 70.0], (down - 0.68) / 0.32)
                }
            };
            *pixel = color.map(|c| (c + 0.5) as u8);
        }
    }
    let (w, h) = (width as f32, height as f32);
    let mut light = |shape, color, x, y, radius| {
        paint(canvas, &Placed { shape, color, x, y, radius });
    };
    match ground.surface {
        Surface::Night => {
            let mut random = Random::of(&[layout, 1]);
            for _ in 0..26 {
                let (x, y) = (random.spread(0.5) + 0.5, random.spread(0.45) + 0.45);
                let radius = 0.8 + random.spread(0.4);
                light(Shape::Circle, [226, 228, 250], x * w, y * h, radius);
            }
            light(Shape::Crescent, [248, 240, 200], 0.88 * w, 0.14 * h, 0.085 * w);
        }
        Surface::Day => light(Shape::Circle, [255, 226, 110], 0.88 * w, 0.15 * h, 0.09 * w),
        _ => {}
    }
}

fn mix(a: [f32; 3], b: [f32; 3], share: f32) -> [f32; 3] {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

/// A triangle wave from 0 to `period` / 2 and back.
fn wave(at: usize, period: usize) -> f32 {
    let at = at % period;
    at.min(period - at) as f32
}

/// 0 on the low half of a stripe, 1 on the high one, with a smooth step of two pixels.
fn edge(wave: f32) -> f32 {
    ((wave - 7.0) * 0.5 + 0.5).clamp(0.0, 1.0)
}

/// 1 inside dots that stand on a lattice, 0 between them.
fn dot(x: usize, y: usize) -> f32 {
    let row = y / 20;
    let (x, y) = ((x + 10 * (row % 2)) % 20, y % 20);
    let distance = length(x as f32 - 9.5, y as f32 - 9.5);
    (4.8 - distance).clamp(0.0, 1.0)
}
