//! The file log: what is written is read, in order, once, whatever happens to the files meanwhile.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use everpair::source::{
    Offsets, Polled, Source, SourceError,
    files::{FileLog, Files, TOPIC},
};
use schemas::{
    config::OnOffsetGone,
    limits,
    message::{KeySource, Record, parse},
    reject::Reason,
};

/// Longer than anything takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn patterns(folder: &Path) -> Vec<String> {
    vec![format!("{}/*.jsonl", folder.display())]
}

fn open(folder: &Path, next: &Offsets) -> Files {
    Files::open(&patterns(folder), OnOffsetGone::Fail, next).unwrap()
}

fn refusal(folder: &Path, next: &Offsets) -> SourceError {
    match Files::open(&patterns(folder), OnOffsetGone::Fail, next) {
        Ok(_) => panic!("must be refused"),
        Err(e) => e,
    }
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn line(key: &str) -> String {
    schemas::message::write_line(key, Some(key.as_bytes()), &[], 5) + "\n"
}

/// All that is there now, and the next offsets after it.
fn drain(source: &mut dyn Source, next: &mut Offsets) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        match source.poll(Duration::ZERO).unwrap() {
            Polled::Idle => return records,
            Polled::Progress { topic, partition, next_offset } => {
                next.insert((topic, partition), next_offset);
            }
            Polled::Record(record) => {
                let at = &record.position;
                let expected = next.get(&(at.topic.clone(), at.partition)).copied().unwrap_or(0);
                assert_eq!(at.offset, expected, "no offset is left out or repeated");
                next.insert((at.topic.clone(), at.partition), at.offset + 1);
                records.push(record);
            }
        }
    }
}

fn keys(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.key.clone().unwrap_or_default()).unwrap()).collect()
}

fn place(partition: i32) -> (Arc<str>, i32) {
    (TOPIC.into(), partition)
}

#[test]
fn what_is_written_is_read_and_a_key_stays_in_its_partition() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = FileLog::in_folder(&dir.path().join("log"), 2).unwrap();
    let headers = [("caption".to_owned(), "häuser\nund \"Tore\"".to_owned())];
    for i in 0..100 {
        log.append_at(&format!("k{i}"), Some(&[i, 0, 255]), &headers, 1_000 + i as i64).unwrap();
    }
    log.append_at("k7", None, &[], 2_000).unwrap();
    log.append_at("k7", Some(b"again"), &[], 2_001).unwrap();
    log.sync().unwrap();
    assert_eq!(log.partitions(), 2);

    let mut source = open(&dir.path().join("log"), &Offsets::new());
    let ends = source.end_offsets().unwrap();
    let mut next = Offsets::new();
    let records = drain(&mut source, &mut next);
    assert_eq!(records.len(), 102);
    assert_eq!(next, ends, "who has read all is at the end");
    assert!(next.values().all(|n| *n > 20), "both partitions are used: {next:?}");
    let of_7: Vec<_> = records.iter().filter(|r| r.key.as_deref() == Some(b"k7")).collect();
    assert!(of_7.windows(2).all(|w| w[0].position < w[1].position));
    assert_eq!(of_7[0].value.as_deref(), Some(&[7, 0, 255][..]));
    assert_eq!(of_7[0].headers, [("caption".into(), headers[0].1.clone().into_bytes())]);
    assert_eq!(of_7[0].position.timestamp_us, 1_007_000);
    assert_eq!(of_7[1].value, None, "a tombstone");
    assert_eq!(of_7[2].value.as_deref(), Some(&b"again"[..]));
}

#[test]
fn a_reader_follows_growing_and_new_files_and_waits_for_the_newline() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("part-00000.jsonl");
    append(&first, line("a").as_bytes());
    let (mut source, mut next) = (open(dir.path(), &Offsets::new()), Offsets::new());
    assert_eq!(keys(&drain(&mut source, &mut next)), ["a"]);

    let (text, half) = (line("b"), line("b").len() / 2);
    append(&first, &text.as_bytes()[..half]);
    assert_eq!(drain(&mut source, &mut next), [], "half a line is no line");
    assert_eq!(source.end_offsets().unwrap()[&place(0)], 1);
    append(&first, &text.as_bytes()[half..text.len() - 1]);
    assert_eq!(drain(&mut source, &mut next), [], "the newline is missing");
    append(&first, b"\n");
    assert_eq!(keys(&drain(&mut source, &mut next)), ["b"]);

    append(&dir.path().join("part-00002.jsonl"), (line("c") + &line("d")).as_bytes());
    append(&dir.path().join("notes.txt"), b"not a part of it");
    let begun = Instant::now();
    let mut found = Vec::new();
    while found.len() < 2 && begun.elapsed() < PATIENCE {
        found.extend(drain(&mut source, &mut next));
    }
    assert_eq!(keys(&found), ["c", "d"]);
    assert_eq!(next, Offsets::from([(place(0), 2), (place(2), 2)]));
    assert_eq!(source.end_offsets().unwrap(), next);
}

#[test]
fn a_reader_begins_where_the_tables_are() {
    let dir = tempfile::tempdir().unwrap();
    let part = |p: i32| dir.path().join(format!("part-{p:05}.jsonl"));
    for i in 0..10 {
        append(&part(0), line(&format!("a{i}")).as_bytes());
        append(&part(1), line(&format!("b{i}")).as_bytes());
    }
    let mut next = Offsets::from([(place(0), 7), (place(1), 10), (("other".into(), 0), 3)]);
    let mut source = open(dir.path(), &next);
    assert_eq!(keys(&drain(&mut source, &mut next)), ["a7", "a8", "a9"]);
    // A file that sorts before all others moves none of them.
    append(&dir.path().join("a-00005.jsonl"), line("c").as_bytes());
    let mut source = open(dir.path(), &next);
    assert_eq!(keys(&drain(&mut source, &mut next)), ["c"]);
    assert_eq!(next[&place(5)], 1);
}

#[test]
fn lines_that_cannot_be_read_are_rejects_and_nothing_else_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.jsonl");
    append(&path, b"not json\n\n  \r\n\xff\xfe\n{\"key\": 5, \"value\": null}\n");
    let long = vec![b'x'; limits::LOG_LINE_BYTES_MAX + 1];
    append(&path, &long);
    let (mut source, mut next) = (open(dir.path(), &Offsets::new()), Offsets::new());
    let mut records = drain(&mut source, &mut next);
    append(&path, &long);
    append(&path, b"\n");
    append(&path, line("good").as_bytes());
    records.extend(drain(&mut source, &mut next));
    let faults: Vec<(i64, Option<(Reason, String)>)> = records
        .into_iter()
        .map(|r| (r.position.offset, parse(r, &KeySource::Message).err()))
        .map(|(offset, fault)| (offset, fault.map(|f| (f.reason, f.detail))))
        .collect();
    assert_eq!(faults.iter().map(|f| f.0).collect::<Vec<_>>(), [0, 3, 4, 5, 6]);
    for ((_, fault), words) in faults.iter().zip(["expected", "UTF-8", "string", "bytes, at most"])
    {
        let (reason, detail) = fault.as_ref().unwrap();
        assert_eq!(*reason, Reason::BadEnvelope);
        assert!(detail.contains(words), "{detail}");
    }
    assert_eq!(faults[4].1, None, "the line after the long one is whole");
    assert_eq!(next[&place(0)], 7);
}

#[test]
fn a_log_that_lost_what_was_not_read_stops_the_reader_or_begins_again_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("part-00000.jsonl");
    append(&path, (line("a") + &line("b") + &line("c")).as_bytes());
    let (mut source, mut next) = (open(dir.path(), &Offsets::new()), Offsets::new());
    assert_eq!(drain(&mut source, &mut next).len(), 3);

    std::fs::write(&path, line("z")).unwrap();
    let begun = Instant::now();
    let error = loop {
        match source.poll(Duration::ZERO) {
            Ok(polled) => assert_eq!(polled, Polled::Idle),
            Err(error) => break error,
        }
        assert!(begun.elapsed() < PATIENCE, "a file that was cut must be seen");
    };
    let expected =
        SourceError::OffsetGone { place: path.display().to_string(), next: 3, earliest: 0, end: 1 };
    assert_eq!(error, expected);
    assert_eq!(refusal(dir.path(), &next), expected, "at the start too");
    assert!(error.to_string().contains("on_offset_gone = \"earliest\""));

    let mut source = Files::open(&patterns(dir.path()), OnOffsetGone::Earliest, &next).unwrap();
    assert_eq!(keys(&drain(&mut source, &mut Offsets::new())), ["z"]);

    std::fs::remove_file(&path).unwrap();
    assert!(matches!(refusal(dir.path(), &next), SourceError::OffsetGone { end: 0, .. }));
    let mut source = Files::open(&patterns(dir.path()), OnOffsetGone::Earliest, &next).unwrap();
    append(&path, line("y").as_bytes());
    let begun = Instant::now();
    let mut found = Vec::new();
    while found.is_empty() && begun.elapsed() < PATIENCE {
        found.extend(drain(&mut source, &mut Offsets::new()));
    }
    assert_eq!(keys(&found), ["y"]);
}

#[test]
fn a_file_that_an_editor_rewrote_is_read_on_at_the_same_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("part-00000.jsonl");
    append(&path, (line("a") + &line("b")).as_bytes());
    let (mut source, mut next) = (open(dir.path(), &Offsets::new()), Offsets::new());
    assert_eq!(drain(&mut source, &mut next).len(), 2);
    let copy = dir.path().join("copy");
    std::fs::write(&copy, line("a") + &line("b") + &line("c")).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    let begun = Instant::now();
    let mut found = Vec::new();
    while found.is_empty() && begun.elapsed() < PATIENCE {
        found.extend(drain(&mut source, &mut next));
    }
    assert_eq!(keys(&found), ["c"]);
}

#[test]
fn names_that_would_share_a_partition_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    append(&dir.path().join("a-1.jsonl"), b"");
    append(&dir.path().join("b-00001.jsonl"), b"");
    let error = refusal(dir.path(), &Offsets::new()).to_string();
    assert!(error.contains("a-1.jsonl") && error.contains("b-00001.jsonl"), "{error}");
    let folders = [format!("{}/*/x.jsonl", dir.path().display())];
    // A folder is what its name says; a config with a pattern there is refused.
    assert_eq!(everpair::source::files::partitions(&folders).expect("no folder"), [].into());
    assert!(FileLog::open(&[format!("{}/*.txt", dir.path().display())], 2).is_err());
}

#[test]
fn a_writer_goes_on_after_one_that_was_killed_in_the_middle_of_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = FileLog::in_folder(dir.path(), 1).unwrap();
    log.append("a", None, &[]).unwrap();
    log.sync().unwrap();
    append(&dir.path().join("part-00000.jsonl"), b"{\"key\": \"torn");
    // Another writer, while the first is still there. How many files there are is the log's own
    // matter once it exists.
    let mut log = FileLog::in_folder(dir.path(), 4).unwrap();
    assert_eq!(log.partitions(), 1);
    log.append("b", None, &[]).unwrap();
    log.sync().unwrap();
    let mut source = open(dir.path(), &Offsets::new());
    let records = drain(&mut source, &mut Offsets::new());
    assert_eq!(keys(&records), ["a", "", "b"]);
    assert!(parse(records[1].clone(), &KeySource::Message).is_err());
}
