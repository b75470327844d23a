//! What is pushed is what is read; what cannot be pushed is named.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use everpair::{
    push::{self, PushArgs, Target},
    source::{self, Offsets, Polled},
};
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use schemas::{config, limits, message::Record};

const PATIENCE: Duration = Duration::from_secs(60);

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

fn names(failed: &[(String, String)]) -> Vec<&str> {
    failed.iter().map(|(name, _)| name.rsplit('/').next().unwrap()).collect()
}

#[test]
fn a_folder_in_a_file_log_reads_back_the_same() {
    let (images, log) = (folder(), tempfile::tempdir().unwrap());
    let log = log.path().join("new");
    let args = PushArgs {
        images: images.path().to_owned(),
        to: Some(log.clone()),
        licence: Some("CC0-1.0".into()),
        ..PushArgs::default()
    };
    let mut out = Vec::new();
    let report = push::push(&args, None, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert_eq!(report.ids, ["a.jpg", "d.gif", "deep/c.webp", "deep/er/b.PNG"]);
    assert_eq!((report.bytes, report.left_alone), (4, 2));
    assert_eq!(names(&report.failed), ["bad.jpg", "empty.jpg", "huge.jpg"]);
    assert!(out.contains("not sent") && out.contains("huge.jpg: more than 33554432"), "{out}");
    assert!(out.contains("4 images sent") && out.contains("3 failed; 2 other files"), "{out}");

    let records = read(&in_log(&log));
    assert_eq!(records.keys().collect::<Vec<_>>(), report.ids.iter().collect::<Vec<_>>());
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
}

#[test]
fn lists_say_what_a_folder_cannot() {
    let (images, log) = (folder(), tempfile::tempdir().unwrap());
    let jsonl = images.path().join("list.jsonl");
    let lines = [
        r#"{"path": "a.jpg", "id": "one", "caption": "said here", "source": "s", "licence": "l"}"#,
        "",
        r#"{"path": "deep/c.webp", "more": 1}"#,
        r#"{"id": "no path"}"#,
        r#"{"path": "not there.jpg"}"#,
    ];
    std::fs::write(&jsonl, lines.join("\n")).unwrap();
    let csv = images.path().join("list.csv");
    std::fs::write(&csv, "id,path,caption,license\nsecond,d.gif,\"with, comma\",MIT\n,a.jpg,,\n")
        .unwrap();
    let mut target = Target::Files(in_log(log.path()).files);
    let report = push::push_folder(&jsonl, &mut target).unwrap();
    assert_eq!(report.ids, ["one", "deep/c.webp"]);
    assert_eq!(names(&report.failed), ["list.jsonl line 4", "not there.jpg"]);
    let report = push::push_folder(&csv, &mut target).unwrap();
    assert_eq!((report.ids, report.failed), (vec!["second".into(), "a.jpg".into()], vec![]));
    let records = read(&in_log(log.path()));
    assert_eq!(
        headers(&records["one"]),
        [("caption", "said here"), ("licence", "l"), ("source", "s")]
    );
    assert_eq!(headers(&records["second"]), [("caption", "with, comma"), ("licence", "MIT")]);
    assert_eq!(headers(&records["deep/c.webp"]), []);

    assert!(push::push_folder(&images.path().join("notes.md"), &mut target).is_err());
    std::fs::write(&csv, "id,caption\nx,y\n").unwrap();
    assert!(push::push_folder(&csv, &mut target).is_err());
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
    let args = PushArgs {
        images: images.path().to_owned(),
        brokers: Some(source.brokers.clone()),
        topic: Some("images".into()),
        source: Some("a test".into()),
        ..PushArgs::default()
    };
    let mut report = push::push(&args, None, &mut Vec::new()).unwrap();
    report.ids.sort();
    assert_eq!(report.ids, ["a.jpg", "d.gif", "deep/c.webp", "deep/er/b.PNG"]);
    assert_eq!(names(&report.failed), ["bad.jpg", "e.jpg", "empty.jpg", "huge.jpg"]);
    assert!(report.failed[1].1.contains("max.message.bytes"), "{:?}", report.failed[1]);
    let records = read(&source);
    assert_eq!(records.keys().collect::<Vec<_>>(), report.ids.iter().collect::<Vec<_>>());
    assert_eq!(headers(&records["a.jpg"]), [("caption", "ein Häuschen"), ("source", "a test")]);
    assert_eq!(headers(&records["d.gif"]), [("source", "a test")]);

    let mut target = Target::Topic { source: source.clone(), topic: "images".into() };
    assert_eq!(push::takedown(&["a.jpg".into()], &mut target).unwrap(), 1);
    let records = read(&source);
    assert_eq!(records["a.jpg"].value, None);
    assert_eq!(records["d.gif"].value.as_deref(), Some(&b"d"[..]));
}
