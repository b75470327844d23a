//! Arrangements: where the shapes of a scene stand.

use super::draw::Placed;
use super::random::Random;
use super::spec::{Arrangement, Size, Spec};

/// Cosines of 0° to 90° in steps of 15°: libraries differ in the last bit of theirs.
const COSINES: [f32; 7] = [1.0, 0.965_925_8, 0.866_025_4, 0.707_106_77, 0.5, 0.258_819_04, 0.0];

/// The shapes of a scene, back to front.
pub(super) fn place(spec: &Spec, jitter: &mut Random) -> Vec<Placed> {
    let (w, h) = (spec.canvas.0 as f32, spec.canvas.1 as f32);
    let side = w.min(h);
    let n = spec.count;
    let scale = match spec.size {
        Size::Small => 0.72,
        Size::Ordinary => 1.0,
        Size::Large => 1.25,
    };
    let (dx, dy) = (jitter.spread(0.022) * side, jitter.spread(0.022) * side);
    let mut placed = Vec::with_capacity(n + 1);
    let mut put = |second: bool, x: f32, y: f32, radius: f32| {
        let thing = if second { &spec.second } else { &spec.first };
        // Shapes wobble a little, as if set down by hand.
        let (wx, wy) = (jitter.spread(0.05) * radius, jitter.spread(0.05) * radius);
        let (x, y) = (x * w + dx + wx, y * h + dy + wy);
        placed.push(Placed { shape: thing.shape, color: thing.color.rgb, x, y, radius });
    };
    match spec.arrangement {
        Arrangement::Alone => put(false, 0.5, 0.52, 0.29 * side * scale),
        Arrangement::Row => {
            let radius = (0.4 / n as f32 * w).min(0.27 * side) * scale.min(1.1);
            for k in 0..n {
                put(false, (k as f32 + 0.5) / n as f32, 0.53, radius);
            }
        }
        Arrangement::Stack => {
            let radius = (0.4 / n as f32 * h).min(0.27 * side) * scale.min(1.1);
            for k in 0..n {
                put(false, 0.5, (k as f32 + 0.5) / n as f32, radius);
            }
        }
        Arrangement::Diagonal => {
            for k in 0..n {
                let at = (k as f32 + 0.6) / (n as f32 + 0.2);
                put(false, at, at, (0.42 / n as f32 * side).min(0.24 * side) * scale.min(1.15));
            }
        }
        Arrangement::Grid => {
            let columns = if n == 4 { 2 } else { 3 };
            let rows = n.div_ceil(columns);
            let radius = (0.4 / columns as f32 * w).min(0.4 / rows as f32 * h) * scale.min(1.1);
            for k in 0..n {
                let (column, row) = (k % columns, k / columns);
                let x = (column as f32 + 0.5) / columns as f32;
                put(false, x, (row as f32 + 0.5) / rows as f32, radius);
            }
        }
        Arrangement::Scattered => {
            let radius = (0.3 - 0.022 * n as f32) * 0.55 * side * scale;
            for (x, y) in scatter(n, spec.layout, radius / w, radius / h) {
                put(false, x, y, radius);
            }
        }
        Arrangement::Around => {
            put(true, 0.5, 0.5, 0.2 * side);
            for k in 0..n {
                let (cos, sin) = direction(k * 24 / n);
                let radius = 0.082 * side * scale;
                put(false, 0.5 + 0.37 * side / w * cos, 0.5 + 0.37 * side / h * sin, radius);
            }
        }
        Arrangement::Beside => {
            put(false, 0.28, 0.52, 0.21 * side * scale);
            put(true, 0.72, 0.52, 0.21 * side);
        }
        Arrangement::Above => {
            put(false, 0.5, 0.27, 0.19 * side * scale);
            put(true, 0.5, 0.73, 0.19 * side);
        }
        Arrangement::InFront => {
            put(true, 0.5, 0.51, 0.42 * side);
            put(false, 0.5, 0.51, 0.17 * side * scale);
        }
    }
    placed
}

/// The cosine and sine of so many steps of 15°.
fn direction(steps: usize) -> (f32, f32) {
    let cos = |steps: usize| match steps % 24 {
        s @ 0..=6 => COSINES[s],
        s @ 7..=12 => -COSINES[12 - s],
        s @ 13..=18 => -COSINES[s - 12],
        s => COSINES[24 - s],
    };
    (cos(steps), cos(steps + 18))
}

/// Places apart from each other, the same ones for all scenes of a family; where there is no room
/// after 60 tries, the last try stands.
fn scatter(n: usize, layout: u64, rx: f32, ry: f32) -> Vec<(f32, f32)> {
    let mut random = Random::of(&[layout, 2]);
    let mut places: Vec<(f32, f32)> = Vec::with_capacity(n);
    for _ in 0..n {
        let mut at = (0.5, 0.5);
        for _ in 0..60 {
            at = (0.5 + random.spread(0.5 - rx), 0.5 + random.spread(0.5 - ry));
            let apart = |&(x, y): &(f32, f32)| {
                let (dx, dy) = ((x - at.0) / rx, (y - at.1) / ry);
                dx * dx + dy * dy > 4.6
            };
            if places.iter().all(apart) {
                break;
            }
        }
        places.push(at);
    }
    places
}
