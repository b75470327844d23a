//! The records that the tables know, read again before a partition is.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use super::{Kafka, Place, SLICE, Watch, record};
use crate::source::{SourceError, witness};

/// How long the records of one topic may take to come, before it is tried anew.
const ANSWER: Duration = Duration::from_secs(5);
/// One record is wanted of each partition; brokers give one even if it is larger.
const FETCH_BYTES: &str = "65536";

/// The offsets of a partition that are left and were read: from the first on, up to the next one.
pub(super) type Read = BTreeMap<Place, (i64, i64)>;

impl Kafka {
    /// Compares the newest known record of each partition. Of one that compaction took, an older
    /// one. False if a broker did not answer.
    pub(super) fn is_the_same(&self, read: &Read) -> Result<bool, SourceError> {
        for topic in &self.topics {
            let newest = read.iter().filter(|(place, _)| place.0 == *topic).filter_map(
                |(place, (low, next))| Some((place.1, self.known.newest(place, *low..*next)?)),
            );
            let mut wanted: BTreeMap<i32, i64> = newest.take(witness::COMPARED).collect();
            while !wanted.is_empty() {
                let Some(gone) = self.compare(topic, wanted)? else { return Ok(false) };
                let older = |(partition, offset)| {
                    let place = (topic.clone(), partition);
                    let low = read.get(&place)?.0;
                    Some((partition, self.known.newest(&place, low..offset)?))
                };
                wanted = gone.into_iter().filter_map(older).collect();
            }
        }
        Ok(true)
    }

    /// Reads one record of each partition, and gives those of which the wanted one is not there any
    /// more; `None` if not all came in time.
    fn compare(
        &self,
        topic: &Arc<str>,
        mut wanted: BTreeMap<i32, i64>,
    ) -> Result<Option<BTreeMap<i32, i64>>, SourceError> {
        let mut settings = self.settings.clone();
        settings.set("fetch.message.max.bytes", FETCH_BYTES);
        let reader: BaseConsumer<Watch> =
            settings.create_with_context(Watch::default()).map_err(|e| self.broken(e))?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in &wanted {
            list.add_partition_offset(topic, *partition, rdkafka::Offset::Offset(*offset))
                .map_err(|e| self.broken(e))?;
        }
        reader.assign(&list).map_err(|e| self.broken(e))?;
        let mut gone = BTreeMap::new();
        let deadline = Instant::now() + ANSWER;
        while !wanted.is_empty() {
            match reader.poll(SLICE) {
                Some(Ok(message)) => {
                    let Some(offset) = wanted.remove(&message.partition()) else { continue };
                    if message.offset() == offset {
                        self.known.compare(&record(&message, &self.topics))?;
                    } else {
                        gone.insert(message.partition(), offset);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    gone.extend(wanted.remove_entry(&partition));
                }
                _ if Instant::now() >= deadline => {
                    let why = format!("topic {topic}: no record of {wanted:?} came");
                    self.consumer.context().say(&why);
                    return Ok(None);
                }
                _ => {}
            }
        }
        Ok(Some(gone))
    }
}
