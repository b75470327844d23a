//! What is pushed is what is read; what cannot be pushed is named.

mod inputs;
mod options;
mod program;
mod same;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use clap::Parser;
use everpair::{
    push::{self, Named, PushArgs, Report, Target},
    source::{self, Offsets, Polled},
};
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use schemas::{config, limits, message::Record};

const PATIENCE: Duration = Duration::from_secs(60);

/// `push`, as a person would call it.
#[derive(Parser)]
struct Words {
    #[command(flatten)]
    args: PushArgs,
}

fn args(words: &[&str]) -> PushArgs {
    Words::try_parse_from([&["push"][..], words].concat()).expect("words that parse").args
}

/// Pushes to a file log in `log`; gives the report and what was said.
fn push_to(log: &Path, words: &[&str]) -> (Report, String) {
    let log = log.display().to_string();
    let args = args(&[words, &["--to", &log]].concat());
    let mut said = Vec::new();
    let report = push::push(&args, None, &mut said).expect("a push that begins");
    (report, String::from_utf8(said).expect("UTF-8"))
}

/// What was pushed to a new log: the report, what was said, and the records by key.
fn pushed(words: &[&str]) -> (Report, String, BTreeMap<String, Record>) {
    let log = tempfile::tempdir().unwrap();
    let (report, said) = push_to(log.path(), words);
    let records = read(&in_log(log.path()));
    assert!(records.len() as u64 <= report.sent);
    let landed: u64 = report.landed.values().map(|landed| landed.count).sum();
    assert_eq!(landed, report.sent, "{said}");
    (report, said, records)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// An envelope's fields.
fn envelope(record: &Record) -> serde_json::Value {
    serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON")
}

/// Images in folders, captions, and things that are neither. The bytes need not be images here.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("a.jpg", b"a");
    write("a.txt", "  ein Häuschen \nsecond line".as_bytes());
    write("deep/er/b.PNG", b"b");
    write("deep/c.webp", b"c");
    write("deep/c.txt", b"\n");
    write("d.gif", b"d");
    write("empty.jpg", b"");
    write("bad.jpg", b"x");
    write("bad.txt", b"\xff");
    write("huge.jpg", &vec![0; limits::ENCODED_BYTES_MAX + 1]);
    write("notes.md", b"");
    write("lonely.txt", b"");
    dir
}

/// The records of a source up to its end, by key.
fn read(config: &config::Source) -> BTreeMap<String, Record> {
    let mut source = source::open(config, &Offsets::new()).unwrap();
    let count: i64 = source.end_offsets().unwrap().values().sum();
    let (begun, mut records) = (Instant::now(), BTreeMap::new());
    for _ in 0..count {
        let record = loop {
            assert!(begun.elapsed() < PATIENCE);
            if let Polled::Record(record) = source.poll(Duration::from_millis(50)).unwrap() {
                break record;
            }
        };
        let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
        records.insert(key, record);
    }
    records
}

fn in_log(dir: &Path) -> config::Source {
    config::Source {
        files: vec![format!("{}/*.jsonl", dir.display())],
        ..config::Source::default()
    }
}

fn headers(record: &Record) -> Vec<(&str, &str)> {
    let text = |v| std::str::from_utf8(v).unwrap();
    let mut headers: Vec<_> = record.headers.iter().map(|(k, v)| (k.as_str(), text(v))).collect();
    headers.sort();
    headers
}

fn names(failed: &Named) -> Vec<&str> {
    failed.list.iter().map(|(name, _)| name.rsplit('/').next().unwrap()).collect()
}

#[test]
fn a_folder_in_a_file_log_reads_back_the_same() {
    let (images, log) = (folder(), tempfile::tempdir().unwrap());
    let log = log.path().join("new");
    let (report, out) = push_to(&log, &[text(images.path()), "--licence", "CC0-1.0"]);
    assert_eq!((report.sent, report.bytes, report.left_alone), (4, 4, 2));
    assert_eq!(names(&report.failed), ["bad.jpg", "empty.jpg", "huge.jpg"]);
    assert!(out.contains("not sent") && out.contains("huge.jpg: more than 33554432"), "{out}");
    assert!(out.contains("4 images sent") && out.contains("3 failed; 2 other files"), "{out}");

    let records = read(&in_log(&log));
    let ids = ["a.jpg", "d.gif", "deep/c.webp", "deep/er/b.PNG"];
    assert_eq!(records.keys().collect::<Vec<_>>(), ids);
    assert_eq!(records["deep/er/b.PNG"].value.as_deref(), Some(&b"b"[..]));
    assert_eq!(headers(&records["a.jpg"]), [("caption", "ein Häuschen"), ("licence", "CC0-1.0")]);
    assert_eq!(headers(&records["deep/c.webp"]), [("licence", "CC0-1.0")], "a blank caption");
    assert!(records["a.jpg"].position.timestamp_us > 1_600_000_000_000_000);

    let ids = ["a.jpg".to_owned(), "d.gif".to_owned()];
    let mut target = Target::Files(in_log(&log).files);
    assert_eq!(push::takedown(&ids, &mut target).unwrap(), 2);
    let records = read(&in_log(&log));
    assert_eq!(records["a.jpg"].value, None);
    assert_eq!(records["deep/c.webp"].value.as_deref(), Some(&b"c"[..]));

    // Offsets go on where the log is, whoever wrote there.
    let (report, out) = push_to(&log, &[text(images.path())]);
    let ends = report.landed.values().map(|landed| landed.last + 1).sum::<i64>();
    assert_eq!(ends, 4 + 2 + 4, "{out}");
}

#[test]
fn a_folder_in_a_topic_reads_back_the_same_and_what_is_too_large_is_named() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
    cluster.create_topic("images", 3, 1).unwrap();
    let source = config::Source {
        brokers: cluster.bootstrap_servers(),
        topics: vec!["images".into()],
        ..config::Source::default()
    };
    let images = folder();
    std::fs::write(images.path().join("e.jpg"), vec![1; 1_500_000]).unwrap();
    let words =
        [text(images.path()), "--brokers", &source.brokers, "--topic", "images", "--source", "s"];
    let report = push::push(&args(&words), None, &mut Vec::new()).unwrap();
    assert_eq!(report.sent, 4);
    let offsets: i64 = report.landed.values().map(|landed| landed.last + 1).sum();
    assert_eq!(offsets, 4, "{:?}", report.landed);
    assert_eq!(names(&report.failed), ["bad.jpg", "e.jpg", "empty.jpg", "huge.jpg"]);
    let why = &report.failed.list[1].1;
    for words in ["1500", "at most 1000000", "--oversize fit", "skip", "store:", "max.message"] {
        assert!(why.contains(words), "{why}");
    }
    let records = read(&source);
    let ids = ["a.jpg", "d.gif", "deep/c.webp", "deep/er/b.PNG"];
    assert_eq!(records.keys().collect::<Vec<_>>(), ids);
    assert_eq!(headers(&records["a.jpg"]), [("caption", "ein Häuschen"), ("source", "s")]);
    assert_eq!(headers(&records["d.gif"]), [("source", "s")]);

    let mut target = Target::Topic { source: source.clone(), topic: "images".into() };
    assert_eq!(push::takedown(&["a.jpg".into()], &mut target).unwrap(), 1);
    let records = read(&source);
    assert_eq!(records["a.jpg"].value, None);
    assert_eq!(records["d.gif"].value.as_deref(), Some(&b"d"[..]));
}
