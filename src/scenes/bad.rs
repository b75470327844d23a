//! What a real stream carries too: messages that must end in `rejects`, each for its own reason.

use kernels::decode::Pixels;
use kernels::resize::encode_jpeg;
use schemas::reject::Reason;

use super::random::Random;
use super::{picture_of, png};

/// A message that shall be turned away.
pub struct BadFile {
    /// The message's key.
    pub id: String,
    /// The message's value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The message's `caption` header.
    pub caption: Option<String>,
    /// Why it will be turned away under the default limits and rules; `None` for the tombstone of an
    /// id that never was, which is no error and changes nothing.
    pub reason: Option<Reason>,
}

/// One message per way to be wrong, the same for the same seed.
pub fn bad_files(seed: u64) -> Vec<BadFile> {
    let mut random = Random::of(&[seed, 21]);
    let good = encode_jpeg(&picture_of(seed, 0), 85);
    let bad = |name: &str, value: Vec<u8>, reason| BadFile {
        id: format!("bad-{name}"),
        value: Some(value),
        caption: None,
        reason: Some(reason),
    };
    let mut files = vec![
        bad("cut-short", good[..good.len() * 3 / 5].to_vec(), Reason::Corrupt),
        bad(
            "text",
            b"Three red circles in a row, but only in words.\n".to_vec(),
            Reason::UnknownFormat,
        ),
        bad("empty", Vec::new(), Reason::EmptyValue),
        bad("bomb", png::with_data(20_000, 20_000, &[]), Reason::TooManyPixels),
        bad("thumbnail", png::encode(&gradient(10, 10, &mut random)), Reason::SideTooShort),
        bad("panorama", encode_jpeg(&gradient(480, 96, &mut random), 85), Reason::TooElongated),
        bad("out-of-focus", encode_jpeg(&gradient(160, 120, &mut random), 90), Reason::Blurry),
        bad("lens-cap", png::encode(&lens_cap(&mut random)), Reason::TooDark),
        bad(
            "envelope",
            br#"{"image": "/9j/4AAQ", "caption": "a red cir"#.to_vec(),
            Reason::BadEnvelope,
        ),
        bad("base64", br#"{"image": "%%% this is no base64 %%%"}"#.to_vec(), Reason::BadBase64),
        bad("no-image", br#"{"caption": "an image was promised"}"#.to_vec(), Reason::NoImage),
        bad(
            "reference",
            br#"{"uri": "https://example.com/a.jpg"}"#.to_vec(),
            Reason::UriNotAllowed,
        ),
        bad("caption", good, Reason::BadText),
    ];
    for file in &mut files {
        if file.reason == Some(Reason::BadText) {
            file.caption = Some("a caption with a NUL\0in it".into());
        }
    }
    let id = "never-seen".into();
    files.push(BadFile { id, value: None, caption: None, reason: None });
    files
}

/// A smooth picture: what remains of a photograph that is out of focus.
fn gradient(width: u32, height: u32, random: &mut Random) -> Pixels {
    let tone = random.below(80) as u32;
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        let fade = 160 * (x * height + y * width) / (2 * width * height);
        [(80 + fade) as u8, (60 + tone + fade / 2) as u8, (200 - fade / 2) as u8]
    };
    Pixels { width, height, rgb: (0..width * height).flat_map(pixel).collect() }
}

/// All black but for the sensor's noise.
fn lens_cap(random: &mut Random) -> Pixels {
    let (width, height) = (128, 96);
    let noise = |_| random.below(9) as u8;
    Pixels { width, height, rgb: (0..3 * width * height).map(noise).collect() }
}
