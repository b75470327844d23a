//! The Kafka source against a real broker: what the broker for tests cannot do.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use everpair::source::{
    Offsets, Polled, Source, SourceError,
    kafka::{Kafka, TopicWriter},
    witness::{Known, Witnesses},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use schemas::{config, message::Record};

use crate::peers::kafka::Broker;

const PATIENCE: Duration = Duration::from_secs(90);
const WAIT: Duration = Duration::from_millis(50);
const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

fn reader(broker: &Broker, topic: &str, next: &Offsets) -> Kafka {
    let refresh = ("topic.metadata.refresh.interval.ms".to_owned(), "500".to_owned());
    let config = config::Source {
        brokers: broker.address(),
        topics: vec![topic.into()],
        settings: BTreeMap::from([refresh]),
        ..config::Source::default()
    };
    Kafka::open(&config, next).unwrap()
}

fn write(broker: &Broker, topic: &str, keys: &[&str]) {
    let mut writer = TopicWriter::open(&broker.address(), topic, &BTreeMap::new()).unwrap();
    for (tag, key) in keys.iter().enumerate() {
        writer.append(tag, key, Some(b"x"), &[], 0).unwrap();
    }
    writer.flush().unwrap();
    assert!(writer.fates().iter().all(|(_, fate)| fate.is_ok()));
}

/// Reads up to `ends`, and moves `next` along.
fn read_to(source: &mut Kafka, next: &mut Offsets, ends: &Offsets) -> Vec<String> {
    let (begun, mut keys) = (Instant::now(), Vec::new());
    while ends.iter().any(|(p, end)| next.get(p).copied().unwrap_or(0) < *end) {
        assert!(begun.elapsed() < PATIENCE, "{next:?} must come to {ends:?}");
        step(source.poll(WAIT).unwrap(), next, &mut keys);
    }
    keys
}

fn step(polled: Polled, next: &mut Offsets, keys: &mut Vec<String>) {
    let (place, offset, end) = match &polled {
        Polled::Idle => return,
        Polled::Progress { topic, partition, next_offset } => {
            ((topic.clone(), *partition), *next_offset - 1, *next_offset)
        }
        Polled::Record(Record { position: p, .. }) => {
            ((p.topic.clone(), p.partition), p.offset, p.offset + 1)
        }
    };
    assert!(offset >= next.get(&place).copied().unwrap_or(0), "nothing is read twice: {polled:?}");
    next.insert(place, end);
    if let Polled::Record(record) = polled {
        keys.push(String::from_utf8(record.key.unwrap()).unwrap());
    }
}

fn place(topic: &str, partition: i32) -> (Arc<str>, i32) {
    (topic.into(), partition)
}

fn transactional(broker: &Broker) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address()).set("transactional.id", "t");
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

/// The ends that the source tells once partition 0 has come to `end`. A commit or an abort is done for
/// its producer before the broker has written the marker that moves the end.
fn ends_at(source: &mut Kafka, end: i64) -> Offsets {
    let begun = Instant::now();
    loop {
        let ends = source.end_offsets().unwrap();
        if ends.get(&place("t", 0)) == Some(&end) {
            return ends;
        }
        assert!(begun.elapsed() < PATIENCE, "must come to {end}: {ends:?}");
    }
}

/// A transaction leaves a marker where a record would be: who waits for the record before the end
/// would wait for ever, and who believes the end that others see would pass over what is open.
#[test]
fn transactions_are_read_once_committed_and_their_markers_are_passed() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let producer = transactional(&broker);
    let send = |key: &str| {
        producer.send(BaseRecord::to("t").key(key).payload("x")).unwrap();
        producer.flush(PATIENCE).unwrap();
    };
    let (mut source, mut next) = (reader(&broker, "t", &Offsets::new()), Offsets::new());

    producer.begin_transaction().unwrap();
    send("a");
    send("b");
    producer.commit_transaction(PATIENCE).unwrap();
    let ends = ends_at(&mut source, 3);
    assert_eq!(read_to(&mut source, &mut next, &ends), ["a", "b"]);
    assert_eq!(next, ends);

    producer.begin_transaction().unwrap();
    send("never");
    producer.abort_transaction(PATIENCE).unwrap();
    let ends = ends_at(&mut source, 5);
    assert_eq!(read_to(&mut source, &mut next, &ends), [""; 0]);

    producer.begin_transaction().unwrap();
    send("open");
    assert_eq!(source.end_offsets().unwrap(), ends, "what is open does not count");
    let mut keys = Vec::new();
    for _ in 0..20 {
        step(source.poll(WAIT).unwrap(), &mut next, &mut keys);
    }
    assert_eq!((keys.len(), &next), (0, &ends), "and is not passed over");
    // A reader that begins here, too.
    let mut late = reader(&broker, "t", &next);
    for _ in 0..20 {
        assert_eq!(late.poll(WAIT).unwrap(), Polled::Idle);
    }
    producer.commit_transaction(PATIENCE).unwrap();
    let ends = ends_at(&mut source, 7);
    assert_eq!(read_to(&mut late, &mut next.clone(), &ends), ["open"]);
    assert_eq!(read_to(&mut source, &mut next, &ends), ["open"]);
}

/// What stands where a marker does, or where retention has been, is not there: it is no other record.
#[test]
fn records_that_are_not_there_any_more_tell_nothing() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let producer = transactional(&broker);
    for key in ["a", "b"] {
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to("t").key(key).payload("x")).unwrap();
        producer.commit_transaction(PATIENCE).unwrap();
    }
    let ends = ends_at(&mut reader(&broker, "t", &Offsets::new()), 4);
    write(&broker, "t", &["c"]);
    let opened = |known: &[(i64, &str)]| {
        let mut witnesses = Witnesses::default();
        for (offset, id) in known {
            witnesses.note(("t", 0, *offset), 1, Known::Image((*id).to_owned()));
        }
        reader(&broker, "t", &ends).same_as(witnesses).end_offsets().map(|ends| ends.len())
    };
    assert_eq!(opened(&[(1, "a marker"), (3, "a marker")]), Ok(1));
    assert_eq!(opened(&[(2, "b"), (3, "a marker")]), Ok(1));
    assert_eq!(opened(&[(0, "an older one"), (2, "b")]), Ok(1), "the newest one decides");
    let other = opened(&[(2, "another"), (3, "a marker")]).unwrap_err().to_string();
    assert!(other.contains("offset 2 is image \"b\"") && other.contains("\"another\""), "{other}");
    broker.truncate(&[("t", 0, 3)]);
    assert_eq!(opened(&[(2, "another")]), Ok(1), "it was deleted");
}

/// Runs the service on the topic until it has caught up; gives its exit code and what it said.
fn run(broker: &Broker, folder: &std::path::Path) -> (Option<i32>, String) {
    let config = folder.join("everpair.toml");
    let text = format!(
        "[source]\nbrokers = \"{}\"\ntopics = [\"images\"]\n[tables]\nroot = \"tables\"\n",
        broker.address()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_everpair"));
    let output = command.args(["run", "--until-caught-up", "--config"]).arg(&config).output();
    let output = output.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_topic_that_was_made_anew_is_not_read_from_the_middle() {
    let (broker, folder) = (Broker::start(), tempfile::tempdir().unwrap());
    broker.create_topic("images", 2);
    let send = |count: usize, prefix: &str| {
        let mut writer = TopicWriter::open(&broker.address(), "images", &BTreeMap::new()).unwrap();
        for (tag, scene) in everpair::scenes::scenes(count, 3).enumerate() {
            let value = Some(&scene.jpeg_or_png[..]);
            writer.append(tag, &format!("{prefix}{tag}"), value, &[], 0).unwrap();
        }
        writer.flush().unwrap();
    };
    let ran = |expected: Option<i32>| {
        let (code, said) = run(&broker, folder.path());
        assert_eq!(code, expected, "{said}");
        said
    };
    send(20, "first ");
    ran(Some(0));
    ran(Some(0));
    // The beginning leaves, and what was read was read.
    let next = broker.next_offsets("images");
    broker.truncate(&[("images", 0, next[&0] - 1), ("images", 1, next[&1])]);
    send(2, "first ");
    ran(Some(0));
    // So does what was not: that is for `on_offset_gone` to decide.
    send(20, "first ");
    let next = broker.next_offsets("images");
    broker.truncate(&[("images", 0, next[&0]), ("images", 1, next[&1])]);
    assert!(ran(Some(1)).contains("on_offset_gone"));

    broker.admin(TOPICS, &["--delete", "--topic", "images"], "");
    broker.create_topic("images", 2);
    send(60, "second ");
    let said = ran(Some(1));
    assert!(said.contains("is image \"second ") && said.contains("have read image"), "{said}");
    assert!(said.contains("[tables] root of its own"), "{said}");
    // Fewer partitions than were read.
    broker.admin(TOPICS, &["--delete", "--topic", "images"], "");
    broker.create_topic("images", 1);
    assert!(ran(Some(1)).contains("images partition 1 is gone"));
}

#[test]
fn partitions_that_are_added_are_read_from_their_beginning_and_a_crash_is_waited_for() {
    let mut broker = Broker::start();
    broker.create_topic("t", 1);
    write(&broker, "t", &["a", "b"]);
    let (mut source, mut next) = (reader(&broker, "t", &Offsets::new()), Offsets::new());
    let ends = source.end_offsets().unwrap();
    assert_eq!(read_to(&mut source, &mut next, &ends), ["a", "b"]);

    broker.admin(TOPICS, &["--alter", "--topic", "t", "--partitions", "3"], "");
    let keys: Vec<String> = (0..30).map(|i| format!("k{i}")).collect();
    write(&broker, "t", &keys.iter().map(String::as_str).collect::<Vec<_>>());
    // The reader has to find them by itself: these ends are the broker's, not its own.
    let ends: Offsets =
        broker.next_offsets("t").into_iter().map(|(p, end)| (place("t", p), end)).collect();
    assert!(ends.len() == 3 && ends.values().all(|end| *end > 0), "{ends:?}");
    assert_eq!(read_to(&mut source, &mut next, &ends).len(), 30);

    broker.crash_and_restart();
    write(&broker, "t", &["after"]);
    let ends = source.end_offsets().unwrap();
    assert_eq!(read_to(&mut source, &mut next, &ends), ["after"]);

    // For lag displays: what others see of the group.
    source.committed(&next);
    let other: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .set("group.id", "everpair")
        .create()
        .unwrap();
    let begun = Instant::now();
    loop {
        assert_eq!(source.poll(WAIT).unwrap(), Polled::Idle);
        let mut asked = TopicPartitionList::new();
        asked.add_partition("t", 0);
        let seen = other.committed_offsets(asked, PATIENCE).unwrap();
        if seen.elements()[0].offset() == Offset::Offset(next[&place("t", 0)]) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", seen.elements()[0].offset());
    }
}

#[test]
fn records_that_were_deleted_unread_stop_the_reader() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    write(&broker, "t", &["0", "1", "2", "3", "4"]);
    broker.truncate(&[("t", 0, 3)]);
    let at = |next| Offsets::from([(place("t", 0), next)]);
    let gone = |next, earliest, end| {
        let place = "topic t partition 0".to_owned();
        Err(SourceError::OffsetGone { place, next, earliest, end })
    };
    assert_eq!(reader(&broker, "t", &at(2)).poll(WAIT), gone(2, 3, 5));
    let (mut source, mut next) = (reader(&broker, "t", &at(3)), at(3));
    assert_eq!(read_to(&mut source, &mut next, &at(5)), ["3", "4"]);

    // Nothing is left, and there is no record that would tell where the end is.
    broker.truncate(&[("t", 0, 5)]);
    let (mut fresh, mut fresh_next) = (reader(&broker, "t", &Offsets::new()), Offsets::new());
    let ends = fresh.end_offsets().unwrap();
    assert_eq!((read_to(&mut fresh, &mut fresh_next, &ends).len(), fresh_next), (0, at(5)));

    // Another topic of the same name: the reader stands where nothing is.
    broker.admin(TOPICS, &["--delete", "--topic", "t"], "");
    broker.create_topic("t", 1);
    let begun = Instant::now();
    loop {
        match source.poll(WAIT) {
            Ok(polled) => assert_eq!(polled, Polled::Idle),
            error => break assert_eq!(error, gone(5, 0, 0)),
        }
        assert!(begun.elapsed() < PATIENCE, "a topic that was replaced must be seen");
    }
}
