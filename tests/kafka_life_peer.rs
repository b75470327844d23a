//! The service on topics that live: one whose cleaner takes what a later record of the key replaces,
//! and one with records around the largest that is taken.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use everpair::{
    scenes,
    source::{
        Offsets, Polled, Source,
        kafka::{Kafka, TopicWriter},
    },
};
use schemas::{config, limits};
use serde_json::Value;

use crate::peers::{
    kafka::Broker,
    pipeline::{PATIENCE, finish},
    readers,
};

const SEED: u64 = 91;
const TOPIC: &str = "images";

fn create(broker: &Broker, settings: &[&str]) {
    let mut words = vec!["--create", "--topic", TOPIC, "--partitions", "1"];
    settings.iter().for_each(|setting| words.extend(["--config", setting]));
    broker.admin("org.apache.kafka.tools.TopicCommand", &words, "");
}

fn send(broker: &Broker, messages: &[(String, Option<Vec<u8>>)]) {
    let settings = BTreeMap::from([("message.max.bytes".to_owned(), "60000000".to_owned())]);
    let mut writer = TopicWriter::open(&broker.address(), TOPIC, &settings).expect("a writer");
    for (tag, (key, value)) in messages.iter().enumerate() {
        writer.append(tag, key, value.as_deref(), &[], 0).expect("it is taken");
    }
    writer.flush().expect("they are sent");
    let failed = writer.fates().into_iter().find(|(_, fate)| fate.is_err());
    assert_eq!(failed, None);
}

/// Keys of what is there, from the first offset on, and where they stand.
fn records(broker: &Broker) -> Vec<(i64, String)> {
    let config = config::Source {
        brokers: broker.address(),
        topics: vec![TOPIC.into()],
        ..config::Source::default()
    };
    let mut source = Kafka::open(&config, &Offsets::new()).expect("it opens");
    let end = source.end_offsets().expect("it answers")[&(Arc::from(TOPIC), 0)];
    let (mut found, mut next, begun) = (Vec::new(), 0, Instant::now());
    while next < end {
        assert!(begun.elapsed() < PATIENCE, "{next} of {end}");
        match source.poll(Duration::from_millis(100)).expect("it is read") {
            Polled::Idle => {}
            Polled::Progress { next_offset, .. } => next = next_offset,
            Polled::Record(record) => {
                let key = String::from_utf8(record.key.expect("a key")).expect("UTF-8");
                found.push((record.position.offset, key));
                next = record.position.offset + 1;
            }
        }
    }
    found
}

struct Tables<'a> {
    folder: &'a Path,
}

impl Tables<'_> {
    fn everpair(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        command.args(words).arg("--config").arg(self.folder.join("everpair.toml"));
        let (code, out, err) = finish(&mut command);
        assert_eq!(code, Some(0), "{words:?}: {out}{err}");
        out
    }

    fn configure(&self, broker: &Broker) {
        let text = format!(
            "[source]\nbrokers = \"{}\"\ntopics = [\"{TOPIC}\"]\n[tables]\nroot = \"tables\"\n\
             [epoch]\nrows = 20\n[triplets]\nkeep = \"mined\"\n",
            broker.address()
        );
        fs::write(self.folder.join("everpair.toml"), text).expect("the folder is writable");
    }

    fn ids(&self) -> Vec<String> {
        let rows = readers::sql(
            &self.folder.join("tables"),
            "SELECT image_id FROM images ORDER BY image_id",
        );
        rows.iter().map(|row| row[0].as_str().expect("an id").to_owned()).collect()
    }
}

/// The cleaner leaves gaps everywhere, tombstones go too, and a service that reads from the first
/// offset on, or from the middle of a gap, has the images that live.
#[test]
fn a_compacted_topic_is_read_over_its_gaps() {
    let broker = Broker::start_with("log.cleaner.backoff.ms=100\n", &[]);
    create(
        &broker,
        &[
            "cleanup.policy=compact",
            "segment.ms=100",
            "min.cleanable.dirty.ratio=0.001",
            "delete.retention.ms=0",
            "max.compaction.lag.ms=200",
        ],
    );
    let folder = tempfile::tempdir().expect("a folder");
    let tables = Tables { folder: folder.path() };
    tables.configure(&broker);
    let image = |number: usize| scenes::scene(number, SEED);
    let all: Vec<_> =
        (0..60).map(|number| (image(number).id, Some(image(number).jpeg_or_png))).collect();
    let replaced: Vec<_> = (0..60)
        .filter(|number| number % 3 == 0)
        .map(|number| (image(number).id, Some(scenes::replacement(number, 1, SEED).jpeg_or_png)))
        .collect();
    let down: Vec<_> = (0..20).map(|number| (image(number).id, None)).collect();
    send(&broker, &all);
    // It stands in the middle of what the cleaner will take.
    tables.everpair(&["run", "--until-caught-up"]);
    assert_eq!(tables.ids().len(), 60);
    send(&broker, &replaced);
    send(&broker, &down);
    tables.everpair(&["run", "--until-caught-up"]);
    assert_eq!(tables.ids().len(), 40, "tombstones are read before the cleaner takes them");

    // Each record rolls the segment, and lets the cleaner at what was the last one.
    let (begun, mut rolled) = (Instant::now(), 0);
    let left = loop {
        send(&broker, &[(image(100).id, Some(image(100 + rolled).jpeg_or_png))]);
        rolled += 1;
        let found = records(&broker);
        let taken_down = found.iter().any(|(_, key)| down.iter().any(|(id, _)| id == key));
        let last = found.len().min(41 + 3);
        if !taken_down && found.len() == last {
            break found;
        }
        assert!(begun.elapsed() < PATIENCE, "{} records, tombstones: {taken_down}", found.len());
        std::thread::sleep(Duration::from_millis(300));
    };
    let end = left.last().expect("a record").0 + 1;
    println!("{} records of {end} are left after {rolled} more", left.len());
    assert!(left.len() < 50 && end > 100);
    tables.everpair(&["run", "--until-caught-up"]);
    tables.everpair(&["verify"]);
    let ids = tables.ids();
    assert_eq!(ids.len(), 41);

    // From the first offset that is left.
    let folder = tempfile::tempdir().expect("a folder");
    let anew = Tables { folder: folder.path() };
    anew.configure(&broker);
    anew.everpair(&["run", "--until-caught-up"]);
    anew.everpair(&["verify"]);
    assert_eq!(anew.ids(), ids);
    let status: Value = serde_json::from_str(&anew.everpair(&["status", "--json"])).expect("JSON");
    assert_eq!(status["offsets"][TOPIC]["0"], end, "it came to the end of the last gap");
}

/// That many bytes of noise, which no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8
    };
    (0..bytes).map(next).collect()
}

/// Up to the largest file that is looked at, and beyond; what comes behind is read like any other.
#[test]
fn records_around_the_largest_that_is_taken_are_rows_of_rejects_or_images() {
    let broker = Broker::start();
    create(&broker, &["max.message.bytes=60000000"]);
    let most = limits::ENCODED_BYTES_MAX;
    let image = |number: usize| {
        let scene = scenes::scene(number, SEED);
        (scene.id, Some(scene.jpeg_or_png))
    };
    // What stands behind its end belongs to no picture: a real one of any size.
    let padded = |name: &str, bytes: usize| {
        let mut file = scenes::scene(7, SEED).jpeg_or_png;
        let rest = bytes - file.len();
        file.extend(noise(rest));
        (name.to_owned(), Some(file))
    };
    let mut messages = vec![image(1), ("noise".to_owned(), Some(noise(most)))];
    messages.extend([padded("just", most), padded("over", most + 1), image(2)]);
    messages.extend([padded("far over", most + (20 << 20)), image(3)]);
    send(&broker, &messages);
    let folder = tempfile::tempdir().expect("a folder");
    let tables = Tables { folder: folder.path() };
    tables.configure(&broker);
    tables.everpair(&["run", "--until-caught-up"]);
    tables.everpair(&["verify"]);
    let root = folder.path().join("tables");
    let rejects =
        readers::sql(&root, "SELECT image_id, reason, \"offset\" FROM rejects ORDER BY \"offset\"");
    let text: Vec<String> = rejects.iter().map(ToString::to_string).collect();
    println!("{text:?}; images {:?}", tables.ids());
    assert_eq!(
        rejects.iter().map(|row| row[2].as_i64()).collect::<Vec<_>>()[0],
        Some(1),
        "{text:?}"
    );
    let reason = |id: &str| {
        let row = rejects.iter().find(|row| row[0] == *id);
        row.map(|row| row[1].as_str().expect("a reason").to_owned())
    };
    assert_eq!(reason("noise").as_deref(), Some("unknown_format"));
    assert_eq!(reason("over").as_deref(), Some("too_many_bytes"));
    assert_eq!(reason("far over").as_deref(), Some("too_many_bytes"));
    assert_eq!(reason("just"), None);
    assert_eq!(tables.ids(), ["just", &image(1).0, &image(2).0, &image(3).0]);
}
