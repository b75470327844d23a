//! A log that is written to, of either kind, and the count of what arrived.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{NEW_LOG_FILES, Report, Target};
use crate::source::{SourceError, files::FileLog, kafka::TopicWriter};

/// Where messages go, and what became of them.
pub struct Sink<'a> {
    log: Log<'a>,
    /// What has arrived and what has failed.
    pub report: Report,
    /// How many of the failures have been told.
    told: usize,
    /// What is under way: the image id and its bytes, by tag.
    under_way: HashMap<usize, (String, u64)>,
    next_tag: usize,
}

enum Log<'a> {
    Topic(TopicWriter),
    Owned(FileLog),
    Lent(&'a mut FileLog),
}

impl<'a> Sink<'a> {
    /// Opens the target.
    pub fn open(target: &'a mut Target<'_>) -> Result<Sink<'a>, SourceError> {
        let log = match target {
            Target::Topic { source, topic } => {
                Log::Topic(TopicWriter::open(&source.brokers, topic, &source.settings)?)
            }
            Target::Files(patterns) => Log::Owned(FileLog::open(patterns, NEW_LOG_FILES)?),
            Target::Log(log) => Log::Lent(log),
        };
        let (report, under_way) = (Report::default(), HashMap::new());
        Ok(Sink { log, report, told: 0, under_way, next_tag: 0 })
    }

    /// Sends one message of now. Whether it arrived is sure only after [`Sink::finish`].
    pub fn send(
        &mut self,
        id: &str,
        value: Option<&[u8]>,
        headers: &[(String, String)],
    ) -> Result<(), SourceError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.under_way.insert(tag, (id.to_owned(), value.map_or(0, <[u8]>::len) as u64));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis());
        let fates = match &mut self.log {
            Log::Topic(topic) => {
                let handed_over = topic.append(tag, id, value, headers, now as i64);
                let mut fates = topic.fates();
                fates.extend(handed_over.err().map(|why| (tag, Err(why))));
                fates
            }
            Log::Owned(log) => vec![(tag, Ok(log.append_at(id, value, headers, now as i64)?))],
            Log::Lent(log) => vec![(tag, Ok(log.append_at(id, value, headers, now as i64)?))],
        };
        self.count(fates);
        Ok(())
    }

    /// Counts what could not even be tried.
    pub fn fail(&mut self, name: String, why: String) {
        self.report.failed.push((name, why));
    }

    /// Tells of failures, each once.
    pub fn tell(&mut self, out: &mut dyn Write) -> io::Result<()> {
        for (name, why) in &self.report.failed[self.told..] {
            writeln!(out, "not sent: {name}: {why}")?;
        }
        self.told = self.report.failed.len();
        Ok(())
    }

    /// Waits until every message has arrived for good or failed.
    pub fn finish(&mut self) -> Result<(), SourceError> {
        let fates = match &mut self.log {
            Log::Topic(topic) => {
                topic.flush()?;
                topic.fates()
            }
            Log::Owned(log) => log.sync().map(|()| Vec::new())?,
            Log::Lent(log) => log.sync().map(|()| Vec::new())?,
        };
        self.count(fates);
        for (_, (id, _)) in self.under_way.drain() {
            self.report.failed.push((id, "nobody knows whether it arrived".into()));
        }
        Ok(())
    }

    fn count(&mut self, fates: Vec<(usize, Result<(), String>)>) {
        for (tag, fate) in fates {
            let Some((id, bytes)) = self.under_way.remove(&tag) else { continue };
            match fate {
                Ok(()) => {
                    self.report.bytes += bytes;
                    self.report.ids.push(id);
                }
                Err(why) => self.report.failed.push((id, why)),
            }
        }
    }
}
