//! Options: images too large, references, journals, targets.

use std::{fs, path::Path, time::Instant};

use everpair::{push, scenes};
use kernels::{decode, resize};
use schemas::ContentId;
use serde_json::json;
use url::Url;

use super::{PATIENCE, args, envelope, in_log, names, push_to, pushed, read, text};

/// A folder with `small.jpg` and a `large.jpg` of more than 100,000 bytes.
fn two_sizes() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("small.jpg"), scenes::scene(0, 1).jpeg_or_png).unwrap();
    let (mut state, mut noise) = (7u32, Vec::new());
    for _ in 0..300 * 400 * 3 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.push((state >> 24) as u8);
    }
    let pixels = decode::Pixels { width: 300, height: 400, rgb: noise };
    let large = resize::encode_jpeg(&pixels, 95);
    assert!(large.len() > 100_000);
    fs::write(dir.path().join("large.jpg"), large).unwrap();
    fs::write(dir.path().join("large.txt"), "noise").unwrap();
    dir
}

#[test]
fn an_image_too_large_for_a_message() {
    let images = two_sizes();
    let at = text(images.path());
    let limit = ["--max-message-bytes", "60000"];
    let large = fs::read(images.path().join("large.jpg")).unwrap();

    let (report, said, records) = pushed(&[&[at][..], &limit].concat());
    assert_eq!((names(&report.failed), records.len()), (vec!["large.jpg"], 1));
    for words in ["--oversize fit", "--oversize skip", "store:URI", "at most 60000"] {
        assert!(said.contains(words), "{said}");
    }

    let (report, said, records) = pushed(&[&[at, "--oversize", "skip"][..], &limit].concat());
    assert_eq!((names(&report.skipped), report.failed.count), (vec!["large.jpg"], 0));
    assert!(said.contains("1 skipped") && records.len() == 1, "{said}");

    for more in [vec![], vec!["--attributes"]] {
        fs::write(images.path().join("large.json"), r#"{"more": 1}"#).unwrap();
        let words = [&[at, "--oversize", "fit"][..], &limit, &more].concat();
        let (report, said, records) = pushed(&words);
        assert_eq!((names(&report.resized), report.sent), (vec!["large.jpg"], 2));
        assert!(said.contains("300 x 400, became") && said.contains("1 resized to fit"), "{said}");
        let record = &records["large.jpg"];
        assert!((30_000..60_000).contains(&record.value.as_ref().unwrap().len()));
        let message =
            schemas::message::parse(record.clone(), &schemas::message::KeySource::Message);
        let schemas::message::Body::Bytes(bytes) = message.unwrap().body else { panic!("bytes") };
        let small = decode::decode(&bytes, &Default::default()).unwrap();
        assert!(small.width < 300 && (small.height * 3).abs_diff(small.width * 4) <= 4);
    }
    fs::remove_file(images.path().join("large.json")).unwrap();

    let shelf = tempfile::tempdir().unwrap();
    let store = format!("store:{}", text(shelf.path()));
    let (report, said, records) = pushed(&[&[at, "--oversize", &store][..], &limit].concat());
    assert_eq!((names(&report.stored), report.sent, report.referenced), (vec!["large.jpg"], 2, 1));
    assert!(said.contains("must be allowed"), "{said}");
    let sent = envelope(&records["large.jpg"]);
    assert_eq!(sent["caption"], "noise");
    let uri = sent["uri"].as_str().unwrap();
    assert!(uri.ends_with(&format!("{}.jpeg", ContentId::of(&large).hex())), "{uri}");
    let kept = Url::parse(uri).unwrap().to_file_path().unwrap();
    assert_eq!(fs::read(kept).unwrap(), large);

    let text_alone = ["--max-message-bytes", "300", "--by", "reference"];
    fs::write(images.path().join("large.txt"), "word ".repeat(100)).unwrap();
    let (report, said, _) = pushed(&[&[at][..], &text_alone].concat());
    assert_eq!(names(&report.failed), ["large.jpg"], "{said}");
    assert!(said.contains("without the image"), "{said}");
}

#[test]
fn by_reference_a_folder_sends_where_its_files_are() {
    let images = two_sizes();
    fs::write(images.path().join("with blank ü.png"), "p").unwrap();
    let (report, _, records) = pushed(&[text(images.path()), "--by", "reference"]);
    assert_eq!((report.sent, report.referenced), (3, 3));
    for (id, record) in &records {
        let sent = envelope(record);
        assert!(!sent.as_object().unwrap().contains_key("image"));
        let uri = Url::parse(sent["uri"].as_str().unwrap()).unwrap();
        assert_eq!(uri.scheme(), "file");
        assert_eq!(uri.to_file_path().unwrap(), images.path().join(id));
        let message = schemas::message::parse(record.clone(), &Default::default()).unwrap();
        assert_eq!(message.body, schemas::message::Body::Reference);
    }
    assert_eq!(envelope(&records["large.jpg"])["caption"], "noise");
}

#[test]
fn attributes_keep_what_else_is_said() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.jpg"), "a").unwrap();
    let list = dir.path().join("l.jsonl");
    let row = json!({ "path": "a.jpg", "caption": "c", "vectors": 1, "n": {"m": [1, null]} });
    fs::write(&list, row.to_string()).unwrap();
    let (_, _, records) = pushed(&[text(&list), "--attributes"]);
    let message = schemas::message::parse(records["a.jpg"].clone(), &Default::default()).unwrap();
    let attributes: serde_json::Value =
        serde_json::from_str(&message.description.attributes.unwrap()).unwrap();
    assert_eq!(attributes, json!({ "column.vectors": 1, "n": { "m": [1, null] } }));
    assert_eq!(message.description.caption.as_deref(), Some("c"));
}

#[test]
fn a_push_goes_on_where_it_was() {
    let (images, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for number in 0..40 {
        fs::write(images.path().join(format!("{number:02}.jpg")), [number]).unwrap();
    }
    let bad = images.path().join("17.jpg");
    fs::write(&bad, "").unwrap();
    let journal = log.path().join("journal");
    let words = [text(images.path()), "--resume", text(&journal)];
    let (report, _) = push_to(log.path(), &words);
    assert_eq!((report.sent, report.failed.count), (39, 1));

    // Nothing changed: only what failed is tried again.
    let (report, said) = push_to(log.path(), &words);
    assert_eq!((report.sent, report.failed.count, report.before), (0, 1, 39), "{said}");
    assert!(said.contains("39 images were acknowledged before"), "{said}");

    // Sent in another way, or another folder by now: all of it.
    let (report, said) = push_to(log.path(), &[&words[..], &["--licence", "MIT"]].concat());
    assert_eq!((report.sent, report.before), (39, 0), "{said}");
    assert!(said.contains("changed since it was pushed"), "{said}");
    fs::write(&bad, "x").unwrap();
    let (report, _) = push_to(log.path(), &words);
    assert_eq!((report.sent, report.before), (40, 0));
    let (report, _) = push_to(log.path(), &words);
    assert_eq!((report.sent, report.before), (0, 40));

    let elsewhere = tempfile::tempdir().unwrap();
    let words = [&words[..], &["--to", text(elsewhere.path())]].concat();
    let error = push::push(&args(&words), None, &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").contains("name another file"), "{error:#}");
    let inside = images.path().join("journal");
    let words = [text(images.path()), "--resume", text(&inside), "--to", text(log.path())];
    let error = push::push(&args(&words), None, &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").contains("must not lie in"), "{error:#}");
    let words = ["-", "--resume", text(&journal), "--to", text(log.path())];
    let error = push::push(&args(&words), None, &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").contains("cannot be read again"), "{error:#}");
}

/// What a journal says is done is left out, of inputs of every kind.
#[test]
fn a_journal_in_the_middle_of_an_input() {
    let (dir, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let members: Vec<(String, Vec<u8>)> =
        (0..30u8).map(|n| (format!("{n:02}.jpg"), vec![n, 1])).collect();
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let tar = dir.path().join("x.tar");
    super::inputs::write_tar(&tar, &members);
    let parquet = dir.path().join("y.parquet");
    let bytes = members.iter().map(|(_, bytes)| *bytes);
    let column: arrow_array::ArrayRef =
        std::sync::Arc::new(arrow_array::BinaryArray::from_iter_values(bytes));
    super::inputs::write_parquet(&parquet, vec![("image", column)]);
    for input in [&tar, &parquet] {
        let journal = log.path().join(input.file_name().unwrap()).with_extension("journal");
        let to = log.path().join(input.file_stem().unwrap());
        let words = [text(input), "--resume", text(&journal)];
        assert_eq!(push_to(&to, &words).0.sent, 30);
        let mut page: serde_json::Value =
            serde_json::from_slice(&fs::read(&journal).unwrap()).unwrap();
        assert_eq!(page["inputs"][0]["done"], json!([[0, 30]]));
        page["inputs"][0]["done"] = json!([[0, 9], [12, 20]]);
        page["inputs"][0]["images"] = 17.into();
        fs::write(&journal, page.to_string()).unwrap();
        let again = log.path().join("again").join(input.file_stem().unwrap());
        fs::create_dir_all(again.parent().unwrap()).unwrap();
        fs::rename(&to, &again).unwrap();
        let (report, said) = push_to(&to, &words);
        assert_eq!((report.sent, report.before), (13, 17), "{said}");
        let values = read(&in_log(&to)).into_values().map(|r| r.value.unwrap()[0]);
        let mut values: Vec<u8> = values.collect();
        values.sort_unstable();
        assert_eq!(values, (9..12).chain(20..30).collect::<Vec<u8>>());
        fs::remove_dir_all(&again).unwrap();
    }
}

#[test]
fn a_target_that_is_none_or_does_not_answer() {
    let images = two_sizes();
    let at = text(images.path());
    let error = push::push(&args(&[at]), None, &mut Vec::new()).unwrap_err();
    for words in ["--to", "--config", "--brokers", "--topic"] {
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
    let begun = Instant::now();
    let words = [at, "--brokers", "127.0.0.1:1", "--topic", "t", "--timeout", "2"];
    let error = push::push(&args(&words), None, &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").contains("no broker of 127.0.0.1:1 answers"), "{error:#}");
    assert!(begun.elapsed() < PATIENCE);
    for words in [["--rate", "0"], ["--bytes-rate", "nan"]] {
        let words = [&[at, "--to", "unused"][..], &words].concat();
        assert!(push::push(&args(&words), None, &mut Vec::new()).is_err());
    }
    assert!(!Path::new("unused").exists());
}
