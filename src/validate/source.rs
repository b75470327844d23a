//! The source: that it answers, that it is the one that the tables were made from, and that a
//! record can be read.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use schemas::{
    config::Config,
    message::{self, Description, Fetched, Record},
    reject::Reason,
};

use super::{Check, kafka, offsets, seconds};
use crate::{
    dataset::Dataset,
    fetch::{self, guard},
    source::{
        self, Offsets, Polled, Source, SourceError, SourceView,
        files::Files,
        witness::{self, Witnesses},
    },
};

const PART: &str = "source";
/// How long one look at the source takes.
const LOOK: Duration = Duration::from_millis(200);

/// A topic's partition.
pub(super) type Place = (Arc<str>, i32);

/// The offsets that a partition has: the first, and one after the last.
pub(super) type Ranges = BTreeMap<Place, (i64, i64)>;

pub(super) fn check(
    config: &Config,
    dataset: Option<&Dataset>,
    deadline: Instant,
    timeout: Duration,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let ranges = match config.source.files.is_empty() {
        true => kafka::ranges(&config.source, deadline, timeout, &mut checks),
        false => file_ranges(config, &mut checks),
    };
    let Some(ranges) = ranges else { return checks };
    let known = match dataset {
        None => Witnesses::default(),
        Some(dataset) => {
            checks.extend(offsets::check(config, dataset, &ranges));
            match offsets::known(config, dataset) {
                Ok(known) => known,
                Err(error) => {
                    checks.push(Check::failed("offsets", format!("{error:#}")));
                    Witnesses::default()
                }
            }
        }
    };
    checks.extend(read(config, &ranges, &known, deadline, timeout));
    checks
}

fn file_ranges(config: &Config, checks: &mut Vec<Check>) -> Option<Ranges> {
    let patterns = &config.source.files;
    let ends = Files::open(patterns, config.source.on_offset_gone, &Offsets::new())
        .and_then(|mut files| files.end_offsets());
    match ends {
        Err(error) => {
            checks.push(Check::failed(PART, error.to_string()));
            None
        }
        Ok(ends) if ends.is_empty() => {
            let why = format!(
                "{patterns:?} has no partition: nothing would ever be read; `everpair push DIR \
                 --to FOLDER` makes one"
            );
            checks.push(Check::failed(PART, why));
            None
        }
        Ok(ends) => {
            let sum: i64 = ends.values().sum();
            let text = format!("{} partitions, offsets add up to {sum}", ends.len());
            checks.push(Check::ok(PART, text));
            Some(ends.into_iter().map(|(place, end)| (place, (0, end))).collect())
        }
    }
}

/// Reads a record of each topic: where the tables know one, that one, and it must be the same.
fn read(
    config: &Config,
    ranges: &Ranges,
    known: &Witnesses,
    deadline: Instant,
    timeout: Duration,
) -> Vec<Check> {
    let mut checks = Vec::new();
    // Offsets, and whether the tables know the record.
    let mut wanted: BTreeMap<Place, (i64, bool)> = BTreeMap::new();
    let mut topics: Vec<&str> = ranges.keys().map(|(topic, _)| &**topic).collect();
    topics.dedup();
    for topic in topics {
        let partitions = move || {
            let of_topic = move |place: &(&Place, &(i64, i64))| *place.0.0 == *topic;
            ranges.iter().filter(of_topic).filter(|(_, (low, end))| low < end)
        };
        let of_tables = partitions().filter_map(|(place, (low, end))| {
            Some((place.clone(), (known.newest(place, *low..*end)?, true)))
        });
        let mut of_topic: Vec<_> = of_tables.take(witness::COMPARED).collect();
        if of_topic.is_empty() {
            let first = partitions().next();
            of_topic.extend(first.map(|(place, (low, _))| (place.clone(), (*low, false))));
        }
        if of_topic.is_empty() {
            checks.push(Check::note(PART, format!("{topic} is empty: a run waits for messages")));
        }
        wanted.extend(of_topic);
    }
    // The others begin at their end, so that nothing of them comes.
    let begin: Offsets = ranges
        .iter()
        .map(|(place, (_, end))| (place.clone(), wanted.get(place).map_or(*end, |(at, _)| *at)))
        .collect();
    if wanted.is_empty() {
        return checks;
    }
    let mut source = match source::open(&config.source, &begin) {
        Ok(source) => source,
        Err(error) => return vec![Check::failed(PART, error.to_string())],
    };
    let mut same = 0;
    while !wanted.is_empty() {
        match source.poll(LOOK) {
            Err(error) => {
                checks.push(Check::failed(PART, error.to_string()));
                return checks;
            }
            Ok(Polled::Record(record)) => {
                let at = record.position.clone();
                let place = (at.topic.clone(), at.partition);
                let Some((offset, is_known)) = wanted.remove(&place) else { continue };
                match is_known {
                    false => checks.push(first_record(config, record, deadline)),
                    // Compaction may have taken the one that was asked for.
                    true if at.offset != offset => {}
                    true => match known.compare(&record) {
                        Ok(()) => same += 1,
                        Err(why) => checks.push(Check::failed("offsets", why.to_string())),
                    },
                }
            }
            Ok(Polled::Progress { topic, partition, next_offset }) => {
                let place = (topic, partition);
                if ranges.get(&place).is_some_and(|(_, end)| next_offset >= *end) {
                    wanted.remove(&place);
                }
            }
            Ok(Polled::Idle) => {}
        }
        if Instant::now() >= deadline {
            let (topic, partition) = wanted.keys().next().expect("not empty");
            let why = format!(
                "{topic} partition {partition}: no record within {}, although it has some: is a \
                 transaction open, or may this user not read?",
                seconds(timeout)
            );
            checks.push(Check::failed(PART, why));
            return checks;
        }
    }
    if same > 0 {
        let text = format!("{same} partitions have the records that the tables were made from");
        checks.push(Check::ok("offsets", text));
    }
    checks
}

fn place_of(record: &Record) -> String {
    let at = &record.position;
    format!("{} partition {} offset {}", at.topic, at.partition, at.offset)
}

/// A source of one record.
struct One(Option<Record>);

impl Source for One {
    fn poll(&mut self, _: Duration) -> Result<Polled, SourceError> {
        Ok(self.0.take().map_or(Polled::Idle, Polled::Record))
    }

    fn hold(&mut self, _: Duration) -> Result<(), SourceError> {
        Ok(())
    }

    fn end_offsets(&mut self) -> Result<Offsets, SourceError> {
        Ok(Offsets::new())
    }

    fn view(&mut self) -> SourceView {
        SourceView::default()
    }

    fn committed(&mut self, _: &Offsets) {}
}

/// The record with what is behind its `uri`, got as a run would get it.
fn fetched(config: &Config, record: Record, deadline: Instant) -> anyhow::Result<Record> {
    let mut source = fetch::in_front_of(Box::new(One(Some(record))), config)?;
    while Instant::now() < deadline {
        if let Polled::Record(record) = source.poll(LOOK)? {
            return Ok(record);
        }
    }
    bail!("what is behind its uri did not come in time")
}

fn first_record(config: &Config, mut record: Record, deadline: Instant) -> Check {
    let place = place_of(&record);
    let uri = message::reference(&record, &config.source.key);
    if let Some(uri) = &uri {
        if config.fetch.schemes.is_empty() {
            let uri = Some(uri.clone());
            let (reason, why) =
                message::not_fetched(&Description { uri, ..Description::default() });
            return would_be_a_reject(&place, reason, &why);
        }
        record = match fetched(config, record, deadline) {
            Ok(record) => record,
            Err(error) => return Check::failed("fetch", format!("read {place}: {error:#}")),
        };
    }
    let bytes = match &record.fetched {
        Some(Fetched::Bytes(bytes)) => bytes.len(),
        _ => record.bytes(),
    };
    let from = uri.map_or(String::new(), |uri| format!(" fetched from {}", guard::shown(&uri)));
    match message::parse(record, &config.source.key) {
        Ok(message) => {
            let text = format!("read {place}: image {:?}, {bytes} bytes{from}", message.image_id);
            Check::ok(PART, text)
        }
        Err(error) => would_be_a_reject(&place, error.reason, &error.detail),
    }
}

fn would_be_a_reject(place: &str, reason: Reason, why: &str) -> Check {
    let reason = reason.as_str();
    Check::note(PART, format!("read {place}: it would be a reject ({reason}): {why}"))
}
