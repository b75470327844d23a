//! Writes to a topic, and knows what became of every message.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    config::ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ThreadedProducer},
};

use schemas::limits;

use super::client::{self, Watch};
use crate::source::SourceError;

/// How long the first broker may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long one question to it may take: in between, what the client has to say is looked at.
const ASK: Duration = Duration::from_secs(1);
/// How long a topic may be unknown: a broker that creates topics by itself needs a moment.
const GRACE: Duration = Duration::from_secs(5);
const SLICE: Duration = Duration::from_millis(100);
/// How long the question for a topic's limit may take; without an answer the usual one holds.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// A writer of one topic. Messages are sent in order and once each; all replicas have them before
/// they count as delivered.
pub struct TopicWriter {
    producer: ThreadedProducer<Watch>,
    topic: String,
    settings: ClientConfig,
}

/// What became of one message: its tag, with its partition and offset, or why it failed.
pub type Fate = (usize, Result<(i32, i64), String>);

impl TopicWriter {
    /// Connects, and makes sure that the topic is there.
    pub fn open(
        brokers: &str,
        topic: &str,
        settings: &BTreeMap<String, String>,
    ) -> Result<TopicWriter, SourceError> {
        TopicWriter::with(client::writer(brokers, settings)?, brokers, topic, ANSWER)
    }

    /// As [`TopicWriter::open`], for a broker that answers within `patience`. A message that is not
    /// acknowledged in that time has failed, unless `message.timeout.ms` says otherwise.
    pub fn open_within(
        brokers: &str,
        topic: &str,
        settings: &BTreeMap<String, String>,
        patience: Duration,
    ) -> Result<TopicWriter, SourceError> {
        let mut config = client::writer(brokers, settings)?;
        if !settings.contains_key("message.timeout.ms") {
            config.set("message.timeout.ms", patience.as_millis().to_string());
        }
        TopicWriter::with(config, brokers, topic, patience)
    }

    fn with(
        settings: ClientConfig,
        brokers: &str,
        topic: &str,
        patience: Duration,
    ) -> Result<TopicWriter, SourceError> {
        let producer: ThreadedProducer<Watch> =
            settings.create_with_context(Watch::default()).map_err(|e| client::refused(&e))?;
        let begun = Instant::now();
        loop {
            let metadata = match producer.client().fetch_metadata(Some(topic), ASK.min(patience)) {
                Ok(metadata) => metadata,
                Err(e) => {
                    if let Some(why) = producer.context().refusal() {
                        return Err(SourceError::Unusable(why));
                    }
                    if begun.elapsed() < patience {
                        producer.context().say(&format!("no broker of {brokers} answers yet"));
                        continue;
                    }
                    return Err(SourceError::Unusable(format!(
                        "no broker of {brokers} answers within {} s: {e}{}; is it up, and the \
                         address right?",
                        patience.as_secs_f64(),
                        producer.context().complaint()
                    )));
                }
            };
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

    /// The most bytes that one message may have with all that is around it: the topic's
    /// `max.message.bytes` and the client's own limit. `None` where the broker does not tell.
    pub fn message_bytes_max(&self) -> Option<usize> {
        let admin: AdminClient<Watch> = self.settings.create_with_context(Watch::default()).ok()?;
        let options = AdminOptions::new().request_timeout(Some(ASK_LIMIT));
        let topic = [ResourceSpecifier::Topic(&self.topic)];
        let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
        let answers = runtime.block_on(admin.describe_configs(&topic, &options)).ok()?;
        let resource = answers.into_iter().next()?.ok()?;
        let told = resource.get("max.message.bytes")?.value.as_deref()?.parse().ok()?;
        Some(self.client_bytes_max().map_or(told, |own| told.min(own)))
    }

    /// The client's own limit, where the settings have one.
    pub fn client_bytes_max(&self) -> Option<usize> {
        self.settings.get("message.max.bytes")?.parse().ok()
    }

    /// Lets the client send messages up to `bytes`, unless its settings have a limit, and no batches
    /// above: a broker refuses those as a whole. To be called before the first message.
    pub fn limit_to(&mut self, bytes: usize) -> Result<(), SourceError> {
        let raise = self.client_bytes_max().is_none() && bytes > limits::MESSAGE_BYTES;
        let batch = self.settings.get("batch.size").and_then(|size| size.parse::<usize>().ok());
        let lower = batch.is_none_or(|batch| batch > bytes);
        if raise {
            self.settings.set("message.max.bytes", bytes.to_string());
        }
        if lower {
            self.settings.set("batch.size", bytes.max(1).to_string());
        }
        if raise || lower {
            let producer = self.settings.create_with_context(Watch::default());
            self.producer = producer.map_err(|e| client::refused(&e))?;
        }
        Ok(())
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

    /// What became of messages since this was last asked.
    pub fn fates(&mut self) -> Vec<Fate> {
        let context = self.producer.context();
        let mut delivered = context.delivered.lock().expect("no holder of this lock can panic");
        let fates = std::mem::take(&mut *delivered);
        drop(delivered);
        fates.into_iter().map(|(t, fate)| (t, fate.map_err(|e| self.words(e, 0)))).collect()
    }

    /// Whether this is the reason of a message that nobody acknowledged in time.
    pub fn timed_out(why: &str) -> bool {
        why == RDKafkaErrorCode::MessageTimedOut.to_string()
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
