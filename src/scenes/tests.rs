use std::collections::{BTreeMap, BTreeSet};

use kernels::decode::{Decoded, decode};
use kernels::measure::measure;
use schemas::config::Screen;
use schemas::message::{KeySource, Position, Record, parse};
use schemas::reject::Reason;
use sha2::{Digest, Sha256};

use super::*;

fn pixels(file: &[u8]) -> Decoded {
    decode(file, &Default::default()).expect("a scene is an image")
}

#[test]
fn the_same_everywhere() {
    let mut hash = Sha256::new();
    for index in 0..256 {
        if let (_, Origin::Own) = original(index, 7) {
            hash.update(picture_of(7, index).rgb);
        }
        hash.update(scene(index, 7).caption.unwrap_or_default());
        hash.update([0]);
    }
    assert_eq!(
        format!("{:x}", hash.finalize()),
        "ffefc880f5f308045975f11bd04d437375a0647928599a15829d66215c31cabb"
    );
    assert!(scenes(70, 7).eq(scenes(90, 7).take(70)));
    assert!(scenes(9, 7).zip(scenes(9, 8)).all(|(a, b)| a.jpeg_or_png != b.jpeg_or_png));
}

#[test]
fn captions_read_as_sentences() {
    let captions: Vec<String> =
        scenes(800, 1).filter_map(|s| s.caption).filter(|c| !c.trim().is_empty()).collect();
    for caption in &captions {
        assert!((20..120).contains(&caption.len()), "{caption}");
        assert!(!caption.contains("  ") && !caption.contains(" one red circles"), "{caption}");
        assert!(!caption.contains(" a orange") && !caption.contains("There are a"), "{caption}");
    }
    let different: BTreeSet<_> = captions.iter().collect();
    assert!(different.len() > 500, "{}", different.len());
    for words in ["in a row", "in front of a big", "around a big", "under a night sky"] {
        assert!(captions.iter().any(|c| c.contains(words)), "{words}");
    }
}

#[test]
fn shares_are_as_stated() {
    let scenes: Vec<Scene> = scenes(2000, 3).collect();
    let ids: BTreeSet<&str> = scenes.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids.len(), scenes.len());
    let share = |n: usize| n * 1000 / scenes.len();
    let close = |n: usize, permille: usize| {
        assert!(
            share(n) > permille / 2 && share(n) < permille * 2,
            "{n} of 2000, not {permille} ‰"
        );
    };
    let contents: BTreeSet<&[u8]> = scenes.iter().map(|s| s.jpeg_or_png.as_slice()).collect();
    close(scenes.len() - contents.len(), DUPLICATES);
    let origins = |wanted: fn(&Origin) -> bool| {
        (0..scenes.len()).filter(|&index| wanted(&original(index, 3).1)).count()
    };
    close(origins(|o| matches!(o, Origin::NearDuplicate)), NEAR_DUPLICATES);
    close(scenes.iter().filter(|s| s.caption.is_none()).count(), WITHOUT_CAPTION);
    let blank = |s: &&Scene| s.caption.as_deref().is_some_and(|c| c.trim().is_empty());
    close(scenes.iter().filter(blank).count(), BLANK_CAPTION);
    close(scenes.iter().filter(|s| s.jpeg_or_png.starts_with(b"\x89PNG")).count(), PNGS);
}

/// The reasons that the default rules give; a picture is turned away for the first of them.
fn screened(file: &[u8]) -> BTreeSet<Reason> {
    let rules = Screen::default();
    let decoded = pixels(file);
    let measures = measure(&decoded.pixels);
    let mut reasons = BTreeSet::new();
    let mut unless = |fine: bool, reason| {
        if !fine {
            reasons.insert(reason);
        }
    };
    unless(decoded.width.min(decoded.height) >= rules.side_min, Reason::SideTooShort);
    unless(measures.aspect <= rules.aspect_max, Reason::TooElongated);
    unless(measures.blur >= rules.blur_min, Reason::Blurry);
    unless(measures.entropy >= rules.entropy_min, Reason::LowEntropy);
    unless(measures.brightness_p99 >= rules.bright_end_min, Reason::TooDark);
    unless(measures.brightness_p05 <= rules.dark_end_max, Reason::TooBright);
    reasons
}

#[test]
fn every_scene_passes_the_default_rules() {
    for scene in scenes(400, 5).chain(late_arrivals(400, 50, 5)) {
        let decoded = pixels(&scene.jpeg_or_png);
        assert!(decoded.width.max(decoded.height) <= 224, "{}", scene.id);
        assert_eq!(screened(&scene.jpeg_or_png), BTreeSet::new(), "{}", scene.id);
    }
}

#[test]
fn bad_files_are_bad_in_the_way_they_say() {
    let files = bad_files(5);
    let reasons: BTreeSet<_> = files.iter().filter_map(|f| f.reason).collect();
    assert_eq!(reasons.len(), files.len() - 1, "each its own");
    for file in files {
        let position = Position { topic: "t".into(), partition: 0, offset: 0, timestamp_us: 0 };
        let caption = file.caption.iter().map(|c| ("caption".to_string(), c.clone().into_bytes()));
        let key = Some(file.id.clone().into_bytes());
        let record = Record::new(position, key, file.value.clone(), caption.collect());
        let Some(reason) = file.reason else {
            assert_eq!(
                parse(record, &KeySource::Message).unwrap().body,
                schemas::message::Body::Tombstone
            );
            continue;
        };
        let parsed = parse(record, &KeySource::Message);
        let value = file.value.unwrap();
        match reason.stage().as_str() {
            "ingest" if reason == Reason::UriNotAllowed => {
                assert_eq!(parsed.unwrap().body, schemas::message::Body::Reference);
            }
            "ingest" => assert_eq!(parsed.unwrap_err().reason, reason),
            "decode" => {
                use kernels::decode::DecodeError as E;
                let found = match decode(&value, &Default::default()).unwrap_err() {
                    E::UnknownFormat(_) => Reason::UnknownFormat,
                    E::TooManyPixels { .. } => Reason::TooManyPixels,
                    E::Corrupt(_) => Reason::Corrupt,
                    other => panic!("{}: {other}", file.id),
                };
                assert_eq!(found, reason, "{}", file.id);
            }
            _ => assert_eq!(screened(&value).first(), Some(&reason), "{}", file.id),
        }
    }
}

#[test]
fn png_and_pixels_agree() {
    let picture = picture_of(1, 0);
    let decoded = pixels(&png::encode(&picture));
    assert_eq!((decoded.width, decoded.height), (picture.width, picture.height));
    assert!(decoded.pixels.rgb == picture.rgb);
}

#[test]
fn late_arrivals_and_replacements_are_new() {
    let corpus: BTreeMap<Vec<u8>, String> = scenes(300, 2).map(|s| (s.jpeg_or_png, s.id)).collect();
    for scene in late_arrivals(300, 40, 2) {
        assert!(scene.id.starts_with("late-"));
        assert_eq!(corpus.get(&scene.jpeg_or_png), None);
    }
    for index in [0, 17, 299] {
        let [old, new, newer] =
            [scene(index, 2), replacement(index, 0, 2), replacement(index, 1, 2)];
        assert_eq!((&new.id, &newer.id), (&old.id, &old.id));
        assert_eq!(corpus.get(&new.jpeg_or_png), None);
        assert!(new.jpeg_or_png != newer.jpeg_or_png);
    }
}

/// Members of a family are near enough to be paired, and not the same.
#[test]
fn families_fill_the_bands() {
    let scenes: Vec<Scene> = scenes(384, 7).collect();
    let pictures: Vec<_> = scenes.iter().map(|s| pixels(&s.jpeg_or_png).pixels).collect();
    for name in ["builtin:layout", "builtin:edges"] {
        let encoder = kernels::encoders::image_encoder(name).unwrap();
        let vectors = encoder.encode(&pictures.iter().collect::<Vec<_>>());
        let (low, high) = encoder.default_bands()[0];
        let cosine = |a: &[i16], b: &[i16]| {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() / 2f64.powi(30)
        };
        let in_band = |i: usize| {
            let Some(q) = &vectors[i] else { return 0 };
            let near = |t: &&[i16]| (low..high).contains(&cosine(q, t));
            vectors
                .iter()
                .enumerate()
                .filter(|&(j, _)| j != i)
                .filter_map(|(_, v)| v.as_deref())
                .filter(near)
                .count()
        };
        let counts: Vec<usize> = (0..vectors.len()).map(in_band).collect();
        let some = counts.iter().filter(|&&n| n > 0).count();
        assert!(some * 10 > counts.len() * 8, "{name}: {some} of {}", counts.len());
    }
}
