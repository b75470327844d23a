//! Writes to a topic, and knows what became of every message.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    config::ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ThreadedProducer},
};

use super::client::{self, Watch};
use crate::source::SourceError;

/// How long the first broker may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a topic may be unknown: a broker that creates topics by itself needs a moment.
const GRACE: Duration = Duration::from_secs(5);
const SLICE: Duration = Duration::from_millis(100);

/// A writer of one topic. Messages are sent in order and once each; all replicas have them before
/// they count as delivered.
pub struct TopicWriter {
    producer: ThreadedProducer<Watch>,
    topic: String,
    settings: ClientConfig,
}

impl TopicWriter {
    /// Connects, and makes sure that the topic is there.
    pub fn open(
        brokers: &str,
        topic: &str,
        settings: &BTreeMap<String, String>,
    ) -> Result<TopicWriter, SourceError> {
        let settings = client::writer(brokers, settings)?;
        let producer: ThreadedProducer<Watch> =
            settings.create_with_context(Watch::default()).map_err(|e| client::refused(&e))?;
        let begun = Instant::now();
        loop {
            let metadata = producer.client().fetch_metadata(Some(topic), ANSWER);
            let metadata = metadata.map_err(|e| {
                SourceError::Unusable(format!("no broker of {brokers} answers: {e}"))
            })?;
            let found = metadata.topics().first();
            match found.and_then(|t| t.error()).map(RDKafkaErrorCode::from) {
                None if found.is_some() => break,
                Some(error) if begun.elapsed() >= GRACE => {
                    let why = format!("topic {topic} at {brokers}: {error}; create it first");
                    return Err(SourceError::Unusable(why));
                }
                _ => std::thread::sleep(SLICE),
            }
        }
        Ok(TopicWriter { producer, topic: topic.to_owned(), settings })
    }

    /// Hands over one message; waits while too many are under way. `tag` names it in
    /// [`TopicWriter::fates`]. Gives the reason, in words, if it cannot even be handed over.
    pub fn append(
        &mut self,
        tag: usize,
        key: &str,
        value: Option<&[u8]>,
        headers: &[(String, String)],
        timestamp_ms: i64,
    ) -> Result<(), String> {
        let mut owned = OwnedHeaders::new();
        for (key, value) in headers {
            owned = owned.insert(Header { key, value: Some(value) });
        }
        let mut record = BaseRecord::with_opaque_to(&self.topic, tag)
            .key(key)
            .headers(owned)
            .timestamp(timestamp_ms);
        if let Some(value) = value {
            record = record.payload(value);
        }
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                    std::thread::sleep(Duration::from_millis(10));
                    record
                }
                Err((e, _)) => {
                    let code = e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                    return Err(self.words(code, key.len() + value.map_or(0, <[u8]>::len)));
                }
            }
        }
    }

    /// What became of messages since this was last asked: their tags, each with the reason if it
    /// failed.
    pub fn fates(&mut self) -> Vec<(usize, Result<(), String>)> {
        let context = self.producer.context();
        let mut delivered = context.delivered.lock().expect("no holder of this lock can panic");
        let fates = std::mem::take(&mut *delivered);
        drop(delivered);
        fates.into_iter().map(|(t, fate)| (t, fate.map_err(|e| self.words(e, 0)))).collect()
    }

    /// Waits until every message has its fate, which it has within `message.timeout.ms`.
    pub fn flush(&mut self) -> Result<(), SourceError> {
        while self.producer.in_flight_count() > 0 {
            match self.producer.flush(SLICE) {
                Ok(()) => {}
                Err(e) if e.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut) => {}
                Err(e) => return Err(SourceError::Unusable(format!("topic {}: {e}", self.topic))),
            }
        }
        Ok(())
    }

    fn words(&self, error: RDKafkaErrorCode, bytes: usize) -> String {
        if error != RDKafkaErrorCode::MessageSizeTooLarge {
            return error.to_string();
        }
        let max = self.settings.get("message.max.bytes").unwrap_or("1000000");
        let size = if bytes > 0 { format!("{bytes} bytes: ") } else { String::new() };
        format!(
            "{size}too large for one message (this client sends at most {max} bytes, the topic may \
             take less): raise the topic's max.message.bytes and \"message.max.bytes\" in [source] \
             settings, or send an image of fewer pixels"
        )
    }
}
