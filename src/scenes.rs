//! Pictures to try Everpair with: coloured shapes in arrangements, with captions.
//!
//! Scenes come in families. A family is one scene, and its members are that scene with another
//! colour, shape, ground, number or size, so that "the same, but with stars" is true of many pairs:
//! near, but not the same, is what pairs are mined from. As in any corpus some images come twice,
//! some nearly so, and some without a caption; [`bad_files`] are wrong in ways of their own.
//!
//! A scene is a function of the seed and its index alone, on every processor: `scenes(100, seed)` is
//! the beginning of `scenes(200, seed)`.

use kernels::decode::Pixels;
use kernels::resize::encode_jpeg;

mod bad;
mod draw;
mod place;
mod png;
mod random;
mod spec;

pub use bad::{BadFile, bad_files};
use random::Random;
use spec::Spec;

/// One image, as a message would carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The image id.
    pub id: String,
    /// A JPEG file, or a PNG file for one in twenty; long side at most 208 pixels.
    pub jpeg_or_png: Vec<u8>,
    /// One short English sentence; `None` or blank for a few.
    pub caption: Option<String>,
}

/// In a thousand scenes: the bytes of another one under an id of its own.
pub const DUPLICATES: usize = 30;
/// In a thousand scenes: another one, encoded again with a slightly other brightness.
pub const NEAR_DUPLICATES: usize = 30;
/// In a thousand scenes: no caption.
pub const WITHOUT_CAPTION: usize = 50;
/// In a thousand scenes: a blank caption.
pub const BLANK_CAPTION: usize = 10;
/// In a thousand scenes: PNG files.
pub const PNGS: usize = 50;

/// Neighbouring scenes that draw from the same few families.
const BLOCK: usize = 64;
const FAMILIES_PER_BLOCK: usize = 6;

/// The first `count` scenes of a seed.
pub fn scenes(count: usize, seed: u64) -> impl Iterator<Item = Scene> {
    (0..count).map(move |index| scene(index, seed))
}

/// One scene of a seed.
pub fn scene(index: usize, seed: u64) -> Scene {
    let id = format!("scene-{index:05}");
    let (of, origin) = original(index, seed);
    match origin {
        Origin::Own => build(id, seed, FIRST, index as u64, Spec::family(seed, family(seed, of))),
        Origin::Duplicate => Scene { id, ..scene(of, seed) },
        Origin::NearDuplicate => {
            let source = scene(of, seed);
            let mut pixels = picture_of(seed, of);
            let mut random = Random::of(&[seed, 3, index as u64]);
            let lighter = random.pick(&[-5i16, -3, 3, 5]);
            for c in &mut pixels.rgb {
                *c = (i16::from(*c) + lighter).clamp(0, 255) as u8;
            }
            Scene { id, jpeg_or_png: encode_jpeg(&pixels, 70), caption: source.caption }
        }
    }
}

/// Scenes that arrive later, of the families of the first `corpus` scenes: nearer to some of them
/// than what they were paired with before.
pub fn late_arrivals(corpus: usize, count: usize, seed: u64) -> impl Iterator<Item = Scene> {
    (0..count).map(move |index| {
        let mut random = Random::of(&[seed, 4, index as u64]);
        let near = random.below(corpus.max(1));
        let spec = Spec::family(seed, family(seed, near));
        build(format!("late-{index:05}"), seed, LATE, index as u64, spec)
    })
}

/// Another picture for the id of a scene that exists, of the same family; `round` counts from 0 how
/// often that id is replaced.
pub fn replacement(index: usize, round: u64, seed: u64) -> Scene {
    let spec = Spec::family(seed, family(seed, index));
    build(format!("scene-{index:05}"), seed, REPLACED + round, index as u64, spec)
}

/// Streams of randomness for scenes that come first, late, and in place of others.
const FIRST: u64 = 100;
const LATE: u64 = 101;
const REPLACED: u64 = 1_000;

enum Origin {
    Own,
    Duplicate,
    NearDuplicate,
}

/// Which scene's picture one shows: its own, or that of an earlier one of its block.
fn original(index: usize, seed: u64) -> (usize, Origin) {
    let mut random = Random::of(&[seed, 5, index as u64]);
    let kind = random.below(1000);
    let origin = match kind {
        _ if index.is_multiple_of(BLOCK) => return (index, Origin::Own),
        ..DUPLICATES => Origin::Duplicate,
        k if k < DUPLICATES + NEAR_DUPLICATES => Origin::NearDuplicate,
        _ => return (index, Origin::Own),
    };
    // The first of a block always shows its own, so this ends.
    let mut of = index - 1 - random.below(index % BLOCK);
    while !matches!(original(of, seed).1, Origin::Own) {
        of -= 1;
    }
    (of, origin)
}

/// Which family a scene is of: one of the few of its block.
fn family(seed: u64, index: usize) -> u64 {
    let within = Random::of(&[seed, FIRST, 6, index as u64]).below(FAMILIES_PER_BLOCK);
    (index / BLOCK * FAMILIES_PER_BLOCK + within) as u64
}

/// The pixels of a scene that shows its own picture.
fn picture_of(seed: u64, index: usize) -> Pixels {
    let mut random = Random::of(&[seed, FIRST, index as u64]);
    let spec = Spec::family(seed, family(seed, index)).member(&mut random);
    draw::draw(&spec, &mut random)
}

fn build(id: String, seed: u64, stream: u64, index: u64, family: Spec) -> Scene {
    let mut random = Random::of(&[seed, stream, index]);
    let spec = family.member(&mut random);
    let pixels = draw::draw(&spec, &mut random);
    let caption = match random.below(1000) {
        ..WITHOUT_CAPTION => None,
        k if k < WITHOUT_CAPTION + BLANK_CAPTION => Some("   ".into()),
        _ => Some(spec.caption()),
    };
    let jpeg_or_png =
        if random.permille(PNGS) { png::encode(&pixels) } else { encode_jpeg(&pixels, 88) };
    Scene { id, jpeg_or_png, caption }
}

#[cfg(test)]
mod tests;
