//! A log that is written to, of either kind, and what became of every message.

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use schemas::limits;

use super::{NEW_LOG_FILES, Target};
use crate::source::{
    SourceError,
    files::FileLog,
    kafka::{Fate, TopicWriter},
};

/// A file log is brought to the disk after so much, or so long.
const SYNC_BYTES: u64 = 64 << 20;
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What a message is told by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    /// Input, and number of the thing in it.
    pub at: (usize, u64),
    /// It has an address and no image.
    pub referenced: bool,
}

/// What became of one message.
#[derive(Debug)]
pub struct Outcome {
    /// Its image id.
    pub id: String,
    /// As [`Sink::send`] got it.
    pub mark: Mark,
    /// Bytes of its value.
    pub bytes: u64,
    /// Sent, or why not.
    pub sent: Result<(), String>,
}

/// Where messages go.
pub struct Sink<'a> {
    log: Log<'a>,
    under_way: HashMap<usize, (String, Mark, u64)>,
    next_tag: usize,
    /// Of a file log: what is not on the disk yet.
    unsynced: Vec<usize>,
    unsynced_bytes: u64,
    synced: Instant,
    outcomes: Vec<Outcome>,
    landed: Vec<(i32, Range<i64>)>,
    /// Nobody acknowledged a message in time.
    timed_out: bool,
}

enum Log<'a> {
    Topic(Box<TopicWriter>),
    Owned(FileLog),
    Lent(&'a mut FileLog),
}

impl<'a> Sink<'a> {
    /// Opens the target, whose broker must answer within `patience`.
    pub fn open(target: &'a mut Target<'_>, patience: Duration) -> Result<Sink<'a>, SourceError> {
        let log = match target {
            Target::Topic { source, topic } => Log::Topic(Box::new(TopicWriter::open_within(
                &source.brokers,
                topic,
                &source.settings,
                patience,
            )?)),
            Target::Files(patterns) => {
                let mut log = FileLog::open(patterns, NEW_LOG_FILES)?;
                log.count_offsets();
                Log::Owned(log)
            }
            Target::Log(log) => Log::Lent(log),
        };
        Ok(Sink {
            log,
            under_way: HashMap::new(),
            next_tag: 0,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            synced: Instant::now(),
            outcomes: Vec::new(),
            landed: Vec::new(),
            timed_out: false,
        })
    }

    /// Finds out the most bytes that a message may have, `given` by a person before all else.
    pub fn limit(&mut self, given: Option<usize>) -> Result<Option<usize>, SourceError> {
        match &mut self.log {
            Log::Topic(topic) => {
                let told = given.or_else(|| topic.message_bytes_max());
                let limit = told.or(topic.client_bytes_max()).unwrap_or(limits::MESSAGE_BYTES);
                topic.limit_to(limit)?;
                Ok(Some(limit))
            }
            _ => Ok(given),
        }
    }

    /// Sends one message of now, which `mark` names. Its outcome comes later.
    pub fn send(
        &mut self,
        mark: Mark,
        id: &str,
        value: Option<&[u8]>,
        headers: &[(String, String)],
    ) -> Result<(), SourceError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        let bytes = value.map_or(0, <[u8]>::len) as u64;
        self.under_way.insert(tag, (id.to_owned(), mark, bytes));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis()) as i64;
        match &mut self.log {
            Log::Topic(topic) => {
                let handed_over = topic.append(tag, id, value, headers, now);
                let mut fates = topic.fates();
                fates.extend(handed_over.err().map(|why| (tag, Err(why))));
                self.count(fates);
                if self.timed_out {
                    return Err(SourceError::Unusable(
                        "no broker acknowledged a message within --timeout: what is named above \
                         is not known to have arrived. Sending it again is harmless"
                            .into(),
                    ));
                }
                return Ok(());
            }
            Log::Owned(log) => log.append_at(id, value, headers, now)?,
            Log::Lent(log) => log.append_at(id, value, headers, now)?,
        }
        self.unsynced.push(tag);
        self.unsynced_bytes += bytes;
        if self.unsynced_bytes >= SYNC_BYTES || self.synced.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// What became known of messages since this was last asked.
    pub fn outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Partitions and offsets of what landed since this was last asked.
    pub fn landed(&mut self) -> Vec<(i32, Range<i64>)> {
        std::mem::take(&mut self.landed)
    }

    /// Waits until every message has arrived for good or failed.
    pub fn finish(&mut self) -> Result<(), SourceError> {
        if let Log::Topic(topic) = &mut self.log {
            topic.flush()?;
            let fates = topic.fates();
            self.count(fates);
        }
        self.sync()?;
        for (_, (id, mark, bytes)) in self.under_way.drain() {
            let sent = Err("nobody knows whether it arrived".into());
            self.outcomes.push(Outcome { id, mark, bytes, sent });
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SourceError> {
        let log = match &mut self.log {
            Log::Topic(_) => return Ok(()),
            Log::Owned(log) => log,
            Log::Lent(log) => log,
        };
        log.sync()?;
        self.landed.extend(log.landed());
        for tag in self.unsynced.drain(..) {
            let Some((id, mark, bytes)) = self.under_way.remove(&tag) else { continue };
            self.outcomes.push(Outcome { id, mark, bytes, sent: Ok(()) });
        }
        self.unsynced_bytes = 0;
        self.synced = Instant::now();
        Ok(())
    }

    fn count(&mut self, fates: Vec<Fate>) {
        for (tag, fate) in fates {
            let Some((id, mark, bytes)) = self.under_way.remove(&tag) else { continue };
            self.timed_out |= fate.as_ref().is_err_and(|why| TopicWriter::timed_out(why));
            let sent = fate.map(|(partition, offset)| {
                self.landed.push((partition, offset..offset + 1));
            });
            self.outcomes.push(Outcome { id, mark, bytes, sent });
        }
    }
}
