//! Kafka: every partition of some topics, from the offsets that the tables hold.
//!
//! Partitions are assigned, never balanced by a group: who reads what is decided by the tables
//! alone. Transactions are read once they are committed. Offsets may have gaps, and a gap at the
//! end (a transaction's marker, records that compaction took) has no record behind it that would
//! tell; so a partition that has come to its end is asked for it.

pub(crate) mod client;
mod same;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    config::ClientConfig,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};
use schemas::{
    config::{self, OnOffsetGone},
    message::{Position, Record, timestamp_us},
};

use self::client::Watch;
pub use self::writer::{Fate, TopicWriter};
use super::{Offsets, Polled, Source, SourceError, SourceView, warn, witness::Witnesses};

/// How long one question to a broker may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long to leave a broker alone that did not answer.
const RETRY: Duration = Duration::from_millis(500);
/// How long a topic may be unknown: brokers learn of a new one one by one.
const GRACE: Duration = Duration::from_secs(5);
/// How long a caller waits for end offsets before it is told that no broker answers.
const ENDS: Duration = Duration::from_secs(60);
/// How often partitions that are at their end are asked for it: each costs two requests.
const ASK_ENDS: Duration = Duration::from_millis(300);
/// The longest time that one look at the client takes; in between, other things are due.
const SLICE: Duration = Duration::from_millis(100);

/// How long one look for what the client has to say takes.
const EVENT: Duration = Duration::from_millis(1);

type Place = (Arc<str>, i32);

/// Reads topics.
pub struct Kafka {
    consumer: BaseConsumer<Watch>,
    settings: ClientConfig,
    brokers: String,
    topics: Vec<Arc<str>>,
    on_offset_gone: OnOffsetGone,
    /// Where partitions begin that are not assigned yet.
    begin: Offsets,
    /// Read the partitions of `begin` and no others.
    only_begin: bool,
    /// What stands before the offsets of `begin`.
    known: Witnesses,
    /// What is assigned, with the next offset; none if it is the beginning and nothing came yet.
    next: BTreeMap<Place, Option<i64>>,
    /// Partitions that have come to their end since they were last asked for it.
    at_end: BTreeSet<Place>,
    /// When that was.
    asked: Instant,
    /// What came while the reader had no room for it.
    held: Option<Polled>,
    /// When partitions are looked for next, and how often.
    look: Instant,
    look_every: Duration,
    /// Since when a topic has been unknown.
    unknown_since: Option<Instant>,
    /// Since when a partition that was read has not been there.
    lost_since: Option<Instant>,
}

impl Kafka {
    /// Sets up a reader. It does not wait for a broker.
    pub fn open(config: &config::Source, next: &Offsets) -> Result<Kafka, SourceError> {
        let settings = client::reader(&config.brokers, &config.settings)?;
        let consumer: BaseConsumer<Watch> =
            settings.create_with_context(Watch::default()).map_err(|e| client::refused(&e))?;
        let every = settings.get("topic.metadata.refresh.interval.ms");
        let every = every.and_then(|ms| ms.parse().ok()).unwrap_or(30_000);
        Ok(Kafka {
            consumer,
            settings,
            brokers: config.brokers.clone(),
            topics: config.topics.iter().map(|t| t.as_str().into()).collect(),
            on_offset_gone: config.on_offset_gone,
            begin: next.clone(),
            only_begin: false,
            known: Witnesses::default(),
            next: BTreeMap::new(),
            at_end: BTreeSet::new(),
            asked: Instant::now(),
            held: None,
            look: Instant::now(),
            look_every: Duration::from_millis(every),
            unknown_since: None,
            lost_since: None,
        })
    }

    /// The same reader for the partitions alone that it was given offsets of.
    pub fn only_these(mut self) -> Kafka {
        self.only_begin = true;
        self
    }

    /// The same reader for topics that must still have the records that `known` tells of.
    pub fn same_as(mut self, known: Witnesses) -> Kafka {
        self.known = known;
        self
    }

    /// Assigns partitions that were not there before. False if a broker did not answer.
    fn look_for_partitions(&mut self) -> Result<bool, SourceError> {
        self.look = Instant::now() + RETRY;
        let Some(places) = self.partitions()? else { return Ok(false) };
        if !self.all_there(&places)? {
            return Ok(false);
        }
        let (mut found, mut read) = (Vec::new(), same::Read::new());
        for place in places {
            let left_out = self.only_begin && !self.begin.contains_key(&place);
            if left_out || self.next.contains_key(&place) {
                continue;
            }
            let next = match self.begin.get(&place) {
                None => None,
                Some(next) => match self.still_there(&place, *next)? {
                    None => return Ok(false),
                    Some((low, next)) => {
                        read.extend(next.map(|next| (place.clone(), (low, next))));
                        next
                    }
                },
            };
            found.push((place, next));
        }
        if !self.is_the_same(&read)? {
            return Ok(false);
        }
        if !found.is_empty() {
            self.next.extend(found);
            self.assign()?;
        }
        self.look = Instant::now() + self.look_every;
        Ok(true)
    }

    /// Whether every partition that was read is there; false while brokers may still have to learn
    /// of it. A topic never loses one.
    fn all_there(&mut self, places: &[Place]) -> Result<bool, SourceError> {
        let read = self.begin.iter().filter(|(place, next)| {
            !self.only_begin && **next > 0 && self.topics.contains(&place.0)
        });
        let Some((topic, partition)) =
            read.map(|(place, _)| place).find(|place| !places.contains(place)).cloned()
        else {
            self.lost_since = None;
            return Ok(true);
        };
        if self.lost_since.get_or_insert_with(Instant::now).elapsed() < GRACE {
            return Ok(false);
        }
        Err(SourceError::OtherLog {
            place: format!("{topic} partition {partition}"),
            expected: "messages".into(),
            found: "gone".into(),
        })
    }

    /// Every partition of every topic, or none if a broker did not answer.
    fn partitions(&mut self) -> Result<Option<Vec<Place>>, SourceError> {
        let mut places = Vec::new();
        for topic in &self.topics {
            let metadata = match self.consumer.fetch_metadata(Some(topic), ANSWER) {
                Ok(metadata) => metadata,
                Err(e) => {
                    self.turned_away()?;
                    self.consumer.context().say(&format!("no broker of {}: {e}", self.brokers));
                    return Ok(None);
                }
            };
            let Some(found) = metadata.topics().first() else { return Ok(None) };
            match found.error().map(RDKafkaErrorCode::from) {
                None => places.extend(found.partitions().iter().map(|p| (topic.clone(), p.id()))),
                Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                    let since = *self.unknown_since.get_or_insert_with(Instant::now);
                    if since.elapsed() < GRACE {
                        return Ok(None);
                    }
                    return Err(SourceError::Unusable(format!(
                        "there is no topic {topic} at {}: create it, or correct [source] topics",
                        self.brokers
                    )));
                }
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    return Err(SourceError::Unusable(format!(
                        "topic {topic}: {} lets this user not read it",
                        self.brokers
                    )));
                }
                Some(e) => {
                    self.consumer.context().say(&format!("topic {topic}: {e}"));
                    return Ok(None);
                }
            }
        }
        self.unknown_since = None;
        Ok(Some(places))
    }

    /// An error if brokers turned this client away from the beginning: that is for a person. Who was
    /// let in once waits, for certificates and passwords are changed on a running cluster too.
    fn turned_away(&self) -> Result<(), SourceError> {
        if !self.next.is_empty() {
            return Ok(());
        }
        // The client's words come as events; nothing is assigned, so none of them is a record.
        while let Some(event) = self.consumer.poll(EVENT) {
            drop(event);
        }
        let refusal = self.consumer.context().refusal();
        refusal.map_or(Ok(()), |why| Err(SourceError::Unusable(why)))
    }

    /// The earliest offset, and the one to go on at if `next` was the next one, `None` for that
    /// earliest; nothing if a broker did not answer.
    fn still_there(
        &self,
        place: &Place,
        next: i64,
    ) -> Result<Option<(i64, Option<i64>)>, SourceError> {
        let Some((earliest, end)) = self.range(place) else { return Ok(None) };
        if (earliest..=end).contains(&next) {
            return Ok(Some((earliest, Some(next))));
        }
        let name = format!("topic {} partition {}", place.0, place.1);
        let error = SourceError::OffsetGone { place: name, next, earliest, end };
        match self.on_offset_gone {
            OnOffsetGone::Fail => Err(error),
            OnOffsetGone::Earliest => {
                warn(format_args!("{error}. That is set: going on at {earliest}"));
                Ok(Some((earliest, None)))
            }
        }
    }

    /// The earliest offset and the end. Of an open transaction nothing counts.
    fn range(&self, (topic, partition): &Place) -> Option<(i64, i64)> {
        match self.consumer.fetch_watermarks(topic, *partition, ANSWER) {
            Ok((low, high)) => Some((low.max(0), high.max(0))),
            Err(e) => {
                self.consumer.context().say(&format!("topic {topic} partition {partition}: {e}"));
                None
            }
        }
    }

    /// Fetches every known partition from its next offset on. What was fetched ahead is dropped.
    fn assign(&mut self) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), next) in &self.next {
            let offset = next.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(topic, *partition, offset).map_err(|e| self.broken(e))?;
        }
        self.consumer.assign(&list).map_err(|e| self.broken(e))
    }

    fn broken(&self, error: KafkaError) -> SourceError {
        SourceError::Unusable(format!("{}: {error}", self.brokers))
    }

    /// The client's next record, unless it is one that was handed out before.
    fn take(&mut self, wait: Duration) -> Result<Option<Polled>, SourceError> {
        let error = match self.consumer.poll(wait) {
            None => return Ok(None),
            Some(Ok(message)) => {
                let record = record(&message, &self.topics);
                drop(message);
                let place = (record.position.topic.clone(), record.position.partition);
                let offset = record.position.offset;
                return Ok(match self.next.get_mut(&place) {
                    Some(next) if next.is_none_or(|next| offset >= next) => {
                        *next = Some(offset + 1);
                        self.at_end.remove(&place);
                        Some(Polled::Record(record))
                    }
                    _ => None,
                });
            }
            Some(Err(error)) => error,
        };
        match error {
            // The client does not say of which topic.
            KafkaError::PartitionEOF(partition) => {
                let places = self.next.keys().filter(|(_, p)| *p == partition).cloned();
                self.at_end.extend(places.collect::<Vec<_>>());
            }
            KafkaError::MessageConsumptionFatal(_) => return Err(self.broken(error)),
            _ => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset) => self.begin_again()?,
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => return Err(self.broken(error)),
                Some(
                    RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopicOrPartition,
                ) => self.look = Instant::now(),
                _ => self.consumer.context().say(&error.to_string()),
            },
        }
        Ok(None)
    }

    /// A broker does not have an offset that was asked for; it does not say of which partition.
    fn begin_again(&mut self) -> Result<(), SourceError> {
        let known: Vec<_> = self.next.iter().map(|(p, n)| (p.clone(), *n)).collect();
        for (place, next) in known {
            if let Some(next) = next
                && let Some((_, next)) = self.still_there(&place, next)?
            {
                self.next.insert(place, next);
            }
        }
        self.assign()
    }

    /// Asks for the ends of partitions that came to theirs, up to one that has offsets left in
    /// which there is no record.
    fn pass_gap(&mut self) -> Option<Polled> {
        while let Some(place) = self.at_end.pop_first() {
            let next = self.next.get(&place).copied().flatten();
            let Some((low, end)) = self.range(&place) else {
                self.at_end.insert(place);
                break;
            };
            let ends_here = next.unwrap_or(0) >= end;
            if ends_here || (next.unwrap_or(low) < end && !self.is_empty(&place, next, end)) {
                continue;
            }
            self.next.insert(place.clone(), Some(end));
            let (topic, partition) = place;
            return Some(Polled::Progress { topic, partition, next_offset: end });
        }
        self.asked = Instant::now();
        None
    }

    /// Whether there is no record in a partition from `next` up to `end`, which must be an end that
    /// the broker gave. A client of its own looks: the end that it comes to first cannot be one of
    /// before, and that of another partition neither.
    fn is_empty(&self, (topic, partition): &Place, next: Option<i64>, end: i64) -> bool {
        let mut settings = self.settings.clone();
        // A replica nearby may lag behind the leader, who was asked for the end.
        settings.remove("client.rack");
        let begin = next.map_or(Offset::Beginning, Offset::Offset);
        let mut list = TopicPartitionList::new();
        let looker: Result<BaseConsumer<Watch>, _> = settings.create_with_context(Watch::default());
        let Ok(looker) = looker else { return false };
        if list.add_partition_offset(topic, *partition, begin).is_err()
            || looker.assign(&list).is_err()
        {
            return false;
        }
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            match looker.poll(SLICE) {
                Some(Ok(message)) => return message.offset() >= end,
                Some(Err(KafkaError::PartitionEOF(_))) => return true,
                _ => {}
            }
        }
        false
    }
}

impl Source for Kafka {
    fn poll(&mut self, wait: Duration) -> Result<Polled, SourceError> {
        if let Some(held) = self.held.take() {
            return Ok(held);
        }
        let deadline = Instant::now() + wait;
        loop {
            if Instant::now() >= self.look {
                self.look_for_partitions()?;
            }
            if !self.at_end.is_empty()
                && self.asked.elapsed() >= ASK_ENDS
                && let Some(progress) = self.pass_gap()
            {
                return Ok(progress);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(polled) = self.take(left.min(SLICE))? {
                return Ok(polled);
            }
            if Instant::now() >= deadline {
                return Ok(Polled::Idle);
            }
        }
    }

    fn hold(&mut self, wait: Duration) -> Result<(), SourceError> {
        let deadline = Instant::now() + wait;
        if self.held.is_none() {
            match self.poll(wait)? {
                Polled::Idle => {}
                polled => self.held = Some(polled),
            }
        }
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        Ok(())
    }

    fn end_offsets(&mut self) -> Result<Offsets, SourceError> {
        let deadline = Instant::now() + ENDS;
        loop {
            if self.look_for_partitions()? {
                let places: Vec<_> = self.next.keys().cloned().collect();
                let ends = places.into_iter().map(|p| Some((self.range(&p)?.1, p)));
                let ends: Option<Vec<_>> = ends.collect();
                if let Some(ends) = ends {
                    return Ok(ends.into_iter().map(|(end, place)| (place, end)).collect());
                }
            }
            if Instant::now() >= deadline {
                return Err(SourceError::Unusable(format!(
                    "no broker of {} answered in {} s{}",
                    self.brokers,
                    ENDS.as_secs(),
                    self.consumer.context().complaint()
                )));
            }
            std::thread::sleep(RETRY.min(SLICE));
        }
    }

    fn view(&mut self) -> SourceView {
        let seen = self.consumer.context().seen();
        let known = |place: &Place| {
            let range = seen.ranges.get(&(place.0.to_string(), place.1))?;
            Some((place.clone(), *range))
        };
        let ranges: BTreeMap<_, _> = self.next.keys().filter_map(known).collect();
        let unknown = self.next.len() - ranges.len();
        // A topic without partitions is one that was not found yet.
        SourceView { reachable: seen.connected && !self.next.is_empty(), ranges, unknown }
    }

    fn committed(&mut self, next: &Offsets) {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), next) in next.iter().filter(|(p, _)| self.next.contains_key(p)) {
            if list.add_partition_offset(topic, *partition, Offset::Offset(*next)).is_err() {
                return;
            }
        }
        if list.count() > 0
            && let Err(e) = self.consumer.commit(&list, CommitMode::Async)
        {
            self.consumer.context().say(&format!("committing offsets for lag displays: {e}"));
        }
    }
}

fn record(message: &BorrowedMessage<'_>, topics: &[Arc<str>]) -> Record {
    let known = topics.iter().find(|t| ***t == *message.topic());
    let headers = message.headers().into_iter().flat_map(|h| h.iter());
    let position = Position {
        topic: known.cloned().unwrap_or_else(|| message.topic().into()),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_us: timestamp_us(message.timestamp().to_millis().unwrap_or(0)),
    };
    Record::new(
        position,
        message.key().map(<[u8]>::to_vec),
        message.payload().map(<[u8]>::to_vec),
        headers.filter_map(|h| Some((h.key.to_owned(), h.value?.to_vec()))).collect(),
    )
}
