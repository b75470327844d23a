//! The Kafka source, against the broker that librdkafka brings for tests. What that broker cannot
//! do (transactions, deleted records, new partitions) is tested against a real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use everpair::{
    scenes,
    source::{
        self, Offsets, Polled, Source, SourceError,
        kafka::{Kafka, TopicWriter},
        witness::{Known, Witnesses},
    },
};
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use schemas::{
    config::{self, OnOffsetGone},
    message::Record,
};

use crate::service::place::Place;

const PATIENCE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_millis(50);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(topic: &str, partitions: i32) -> (Cluster, String) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    (cluster, brokers)
}

fn settings(brokers: &str, topic: &str) -> config::Source {
    config::Source { brokers: brokers.into(), topics: vec![topic.into()], ..Default::default() }
}

fn writer(brokers: &str, topic: &str) -> TopicWriter {
    TopicWriter::open(brokers, topic, &BTreeMap::new()).unwrap()
}

/// Reads up to `ends`, and moves `next` along.
fn read_to(source: &mut dyn Source, next: &mut Offsets, ends: &Offsets) -> Vec<Record> {
    let (begun, mut records) = (Instant::now(), Vec::new());
    while ends.iter().any(|(p, end)| next.get(p).copied().unwrap_or(0) < *end) {
        assert!(begun.elapsed() < PATIENCE, "{next:?} must come to {ends:?}");
        match source.poll(WAIT).unwrap() {
            Polled::Idle => {}
            Polled::Progress { topic, partition, next_offset } => {
                next.insert((topic, partition), next_offset);
            }
            Polled::Record(record) => {
                let at = &record.position;
                let place = (at.topic.clone(), at.partition);
                assert!(at.offset >= next.get(&place).copied().unwrap_or(0), "read once");
                next.insert(place, at.offset + 1);
                records.push(record);
            }
        }
    }
    records
}

#[test]
fn four_partitions_are_read_resumed_and_end_where_the_broker_says() {
    let (_cluster, brokers) = cluster("images", 4);
    let mut writer = writer(&brokers, "images");
    let headers = [("caption".to_owned(), "a häuschen".to_owned())];
    for i in 0..100usize {
        let value = [i as u8; 10];
        writer.append(i, &format!("k{i}"), Some(&value), &headers, 1_000 + i as i64).unwrap();
    }
    writer.append(100, "k7", None, &[], 5_000).unwrap();
    writer.flush().unwrap();
    let mut fates = writer.fates();
    fates.sort_by_key(|f| f.0);
    assert_eq!(fates.iter().map(|f| f.0).collect::<Vec<_>>(), (0..=100).collect::<Vec<_>>());
    let places: BTreeSet<_> = fates.into_iter().map(|(_, fate)| fate.unwrap()).collect();
    assert_eq!(places.len(), 101, "each has a partition and an offset of its own");

    let mut source = source::open(&settings(&brokers, "images"), &Offsets::new()).unwrap();
    let ends = source.end_offsets().unwrap();
    assert_eq!((ends.len(), ends.values().sum::<i64>()), (4, 101));
    let mut next = Offsets::new();
    let records = read_to(&mut *source, &mut next, &ends);
    assert_eq!(next, ends);
    assert_eq!(records.len(), 101);
    let of_7: Vec<_> = records.iter().filter(|r| r.key.as_deref() == Some(b"k7")).collect();
    assert_eq!(of_7[0].value.as_deref(), Some(&[7; 10][..]));
    assert_eq!(of_7[0].headers, [("caption".to_owned(), headers[0].1.clone().into_bytes())]);
    assert_eq!(of_7[0].position.timestamp_us, 1_007_000);
    assert_eq!(
        (of_7[1].value.as_ref(), of_7[1].position.partition),
        (None, of_7[0].position.partition)
    );

    // Again from offsets in the middle; a partition that is not named begins at its beginning.
    source.committed(&next);
    drop(source);
    let topic: Arc<str> = "images".into();
    let mut next: Offsets =
        (0..3).map(|p| ((topic.clone(), p), ends[&(topic.clone(), p)] / 2)).collect();
    let rest = ends.iter().map(|(p, end)| end - next.get(p).copied().unwrap_or(0)).sum::<i64>();
    let mut source = source::open(&settings(&brokers, "images"), &next).unwrap();
    let records = read_to(&mut *source, &mut next, &ends);
    assert_eq!((records.len() as i64, next), (rest, ends));
}

/// One service reads them all, and each goes on where the tables are with it.
#[test]
fn several_topics_are_one_source() {
    let (cluster, brokers) = cluster("shop", 2);
    cluster.create_topic("crawl", 3, 1).unwrap();
    let place = Place::new();
    let config = format!(
        "[source]\nbrokers = {brokers:?}\ntopics = [\"shop\", \"crawl\"]\n\
         [tables]\nroot = \"tables\"\n[epoch]\nlinger = \"50 ms\"\n"
    );
    std::fs::write(place.path("tables.toml"), config).unwrap();
    let send = |topic: &str, numbers: std::ops::Range<usize>| {
        let mut writer = writer(&brokers, topic);
        for number in numbers {
            let scene = scenes::scene(number, 5);
            writer.append(number, &scene.id, Some(&scene.jpeg_or_png), &[], 1_000).unwrap();
        }
        writer.flush().unwrap();
        assert!(writer.fates().iter().all(|(_, fate)| fate.is_ok()));
    };
    let read = || {
        place.catch_up("tables");
        let mut of: BTreeMap<String, usize> = BTreeMap::new();
        for row in place.tables("tables").images {
            *of.entry(row.topic).or_default() += 1;
        }
        let latest = place.latest("tables").expect("an epoch");
        for (topic, count) in &of {
            let next = latest["offsets"][topic].as_object().expect("offsets by partition");
            let all: i64 = next.values().filter_map(|next| next.as_i64()).sum();
            assert_eq!(all, *count as i64, "{topic}: {next:?}");
        }
        of
    };
    send("shop", 0..20);
    assert_eq!(read(), [("shop".to_owned(), 20)].into(), "the other one is empty");
    send("crawl", 20..50);
    send("shop", 50..55);
    assert_eq!(read(), [("crawl".to_owned(), 30), ("shop".to_owned(), 25)].into());
    place.verify("tables");
}

#[test]
fn a_reader_without_room_keeps_what_comes_and_loses_nothing() {
    let (_cluster, brokers) = cluster("t", 1);
    let mut writer = writer(&brokers, "t");
    let mut source = Kafka::open(&settings(&brokers, "t"), &Offsets::new()).unwrap();
    for i in 0..5 {
        writer.append(i, &i.to_string(), Some(b"x"), &[], 0).unwrap();
    }
    writer.flush().unwrap();
    let ends = source.end_offsets().unwrap();
    for _ in 0..20 {
        source.hold(WAIT).unwrap();
    }
    let records = read_to(&mut source, &mut Offsets::new(), &ends);
    assert_eq!(records.iter().map(|r| r.position.offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_broker_that_is_away_is_waited_for() {
    let (cluster, brokers) = cluster("t", 2);
    cluster.broker_down(1).unwrap();
    let mut source = Kafka::open(&settings(&brokers, "t"), &Offsets::new()).unwrap();
    for _ in 0..3 {
        assert_eq!(source.poll(Duration::ZERO), Ok(Polled::Idle));
    }
    cluster.broker_up(1).unwrap();
    let mut writer = writer(&brokers, "t");
    writer.append(0, "a", Some(b"x"), &[], 0).unwrap();
    writer.flush().unwrap();
    let ends = source.end_offsets().unwrap();
    let mut next = Offsets::new();
    assert_eq!(read_to(&mut source, &mut next, &ends).len(), 1);

    cluster.broker_down(1).unwrap();
    for _ in 0..20 {
        assert_eq!(source.poll(WAIT), Ok(Polled::Idle));
    }
    cluster.broker_up(1).unwrap();
    writer.append(1, "a", Some(b"y"), &[], 0).unwrap();
    writer.flush().unwrap();
    let ends = source.end_offsets().unwrap();
    assert_eq!(read_to(&mut source, &mut next, &ends).len(), 1);
}

/// The broker for tests keeps 5 MiB of a partition and drops the oldest.
#[test]
fn offsets_that_are_gone_stop_the_reader_or_are_passed_over_as_configured() {
    let (_cluster, brokers) = cluster("t", 1);
    let mut writer = writer(&brokers, "t");
    let value = vec![1u8; 500_000];
    for i in 0..16 {
        writer.append(i, "k", Some(&value), &[], 0).unwrap();
        writer.flush().unwrap();
    }
    let place: (Arc<str>, i32) = ("t".into(), 0);
    let mut first = Kafka::open(&settings(&brokers, "t"), &Offsets::new()).unwrap();
    let mut next = Offsets::new();
    let ends = first.end_offsets().unwrap();
    assert_eq!(ends[&place], 16);
    let earliest = read_to(&mut first, &mut next, &ends)[0].position.offset;
    assert!((1..16).contains(&earliest), "the broker dropped something: {earliest}");

    for (next, gone) in
        [(0, true), (earliest - 1, true), (earliest, false), (16, false), (17, true)]
    {
        let asked = Offsets::from([(place.clone(), next)]);
        let mut source = Kafka::open(&settings(&brokers, "t"), &asked).unwrap();
        let answer = source.poll(WAIT);
        if gone {
            let place = "topic t partition 0".to_owned();
            let error = SourceError::OffsetGone { place, next, earliest, end: 16 };
            assert_eq!(answer, Err(error));
            let lenient = config::Source {
                on_offset_gone: OnOffsetGone::Earliest,
                ..settings(&brokers, "t")
            };
            let mut source = Kafka::open(&lenient, &asked).unwrap();
            let records = read_to(&mut source, &mut Offsets::new(), &ends);
            assert_eq!(records[0].position.offset, earliest);
        } else {
            answer.unwrap();
        }
    }
}

/// Another topic of the same name has the same offsets.
#[test]
fn a_topic_is_read_on_only_if_it_is_the_one_that_was_read() {
    let (_cluster, brokers) = cluster("t", 3);
    let mut writer = writer(&brokers, "t");
    for i in 0..60 {
        writer.append(i, &format!("k{i}"), Some(b"x"), &[], 0).unwrap();
    }
    writer.flush().unwrap();
    let mut first = Kafka::open(&settings(&brokers, "t"), &Offsets::new()).unwrap();
    let (ends, mut read) = (first.end_offsets().unwrap(), Offsets::new());
    let records = read_to(&mut first, &mut read, &ends);
    let mut known = Witnesses::default();
    for record in &records {
        let (at, key) = (&record.position, record.key.clone().unwrap());
        let id = String::from_utf8(key).unwrap();
        known.note((&at.topic, at.partition, at.offset), 1, Known::Image(id));
    }
    let next: Offsets = ends.iter().map(|(place, end)| (place.clone(), end - 2)).collect();
    let open = |next: &Offsets, known: &Witnesses| {
        Kafka::open(&settings(&brokers, "t"), next).unwrap().same_as(known.clone())
    };
    assert_eq!(read_to(&mut open(&next, &known), &mut next.clone(), &ends).len(), 6);

    // Of what is past the next offset, and of other partitions, nothing is asked.
    let last = |partition| ends[&("t".into(), partition)] - 1;
    let mut ahead = known.clone();
    ahead.note(("t", 1, last(1)), 1, Known::Image("another".into()));
    ahead.note(("t", 7, 0), 1, Known::Image("another".into()));
    assert_eq!(read_to(&mut open(&next, &ahead), &mut next.clone(), &ends).len(), 6);

    known.note(("t", 1, last(1) - 2), 1, Known::Image("another".into()));
    let refused = |error: SourceError| {
        let SourceError::OtherLog { place, expected, found } = error else { panic!("{error}") };
        assert_eq!(place, format!("t partition 1 offset {}", last(1) - 2));
        assert_eq!(expected, "image \"another\"");
        assert!(found.starts_with("image \"k"), "{found}");
    };
    let mut source = open(&next, &known);
    let begun = Instant::now();
    loop {
        match source.poll(WAIT) {
            Err(error) => break refused(error),
            polled => assert_eq!(polled, Ok(Polled::Idle), "nothing is given before"),
        }
        assert!(begun.elapsed() < PATIENCE);
    }
    refused(open(&next, &known).end_offsets().unwrap_err());

    // A partition that was read, and of which nothing is left.
    let more = Offsets::from([(("t".into(), 3), 5)]);
    let error = open(&more, &Witnesses::default()).end_offsets().unwrap_err().to_string();
    assert!(error.contains("t partition 3 is gone") && error.contains("made anew"), "{error}");
}

#[test]
fn what_a_person_must_change_is_said() {
    let (_cluster, brokers) = cluster("t", 1);
    let mut source = Kafka::open(&settings(&brokers, "no-such-topic"), &Offsets::new()).unwrap();
    let begun = Instant::now();
    let error = loop {
        match source.poll(WAIT) {
            Ok(polled) => assert_eq!(polled, Polled::Idle),
            Err(error) => break error.to_string(),
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    assert!(error.contains("no topic no-such-topic"), "{error}");

    let refused = |name: &str, value: &str| {
        let settings = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let config = config::Source { settings, ..self::settings(&brokers, "t") };
        Kafka::open(&config, &Offsets::new()).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused("enable.auto.commit", "true").contains("may not have enable.auto.commit"));
    assert!(refused("no.such.setting", "1").contains("no.such.setting"));
    if !cfg!(feature = "kafka-tls") {
        assert!(refused("security.protocol", "SASL_SSL").contains("--features kafka-tls"));
    }
}

#[test]
fn a_message_that_is_too_large_is_named_and_the_others_arrive() {
    let (_cluster, brokers) = cluster("t", 1);
    let mut writer = writer(&brokers, "t");
    writer.append(0, "small", Some(b"x"), &[], 0).unwrap();
    let why = writer.append(1, "large", Some(&vec![0; 2_000_000]), &[], 0).unwrap_err();
    assert!(why.contains("2000005 bytes") && why.contains("max.message.bytes"), "{why}");
    writer.append(2, "small", Some(b"y"), &[], 0).unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.fates(), [(0, Ok((0, 0))), (2, Ok((0, 1)))]);
}
