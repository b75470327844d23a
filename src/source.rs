//! Where messages come from: the one seam in front of the dataflow, with two sources behind it.
//!
//! [`kafka`] reads every partition of the topics with `assign`; a consumer group never moves them.
//! [`files`] is a file log: a durable queue in a folder that needs no broker. Both hand out one
//! [`Record`] after the other and never lose or repeat an offset: where to begin is told by the
//! tables, so a source keeps nothing of its own between two runs.

pub mod files;
pub mod kafka;
pub mod witness;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use schemas::{config, message::Record};

use self::witness::Witnesses;

/// The next offset to read, per topic and partition. A partition that is not in it is read from
/// its beginning.
pub type Offsets = BTreeMap<(Arc<str>, i32), i64>;

/// What one call of [`Source::poll`] found.
#[derive(Clone, Debug, PartialEq)]
pub enum Polled {
    /// The next record of its partition.
    Record(Record),
    /// There is no record below `next_offset` any more: a blank line, offsets that compaction took,
    /// a transaction's marker. The position must move, or the end would never be reached.
    Progress {
        /// Topic, or the name of the file log.
        topic: Arc<str>,
        /// Partition within it.
        partition: i32,
        /// The offset to go on at.
        next_offset: i64,
    },
    /// Nothing came in the time given.
    Idle,
}

/// What a source knows of its log, seconds old at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceView {
    /// A broker is connected, or the files are there.
    pub reachable: bool,
    /// The first offset that is left and the end, by partition.
    pub ranges: BTreeMap<(Arc<str>, i32), (i64, i64)>,
    /// Partitions whose end is not known yet.
    pub unknown: usize,
}

/// A source of records. Within a partition they come in the order of their offsets.
pub trait Source: Send {
    /// Waits at most about `wait` for the next thing. What passes by itself (a broker that is down)
    /// is a warning and [`Polled::Idle`]; an error is what a person must act on.
    fn poll(&mut self, wait: Duration) -> Result<Polled, SourceError>;

    /// Lets `wait` pass without taking a record, for a reader that has no room for one. What the
    /// source has to do meanwhile it does here; what it has fetched ahead is bounded.
    fn hold(&mut self, wait: Duration) -> Result<(), SourceError>;

    /// The end of each partition as of now: the next offset of a reader that has read all. Of an
    /// open transaction nothing counts yet.
    fn end_offsets(&mut self) -> Result<Offsets, SourceError>;

    /// What the source knows of its ends without asking anyone for them: for displays and probes.
    fn view(&mut self) -> SourceView;

    /// Tells others how far the tables are. For lag displays only, best effort: nothing is ever
    /// read back from there.
    fn committed(&mut self, next: &Offsets);
}

/// Why a source cannot go on, in words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceError {
    /// The log no longer has the next offset, and `on_offset_gone` is `fail`.
    OffsetGone {
        /// Topic and partition, or the file.
        place: String,
        /// The next offset.
        next: i64,
        /// The earliest offset that is left.
        earliest: i64,
        /// One after the last offset.
        end: i64,
    },
    /// The record at an offset that was read is not the one that was read there.
    OtherLog {
        /// Topic, partition and offset.
        place: String,
        /// What the tables have read there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Anything else: a topic that does not exist, a setting, a file that cannot be read.
    Unusable(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceError::OffsetGone { place, next, earliest, end } => write!(
                f,
                "{place}: the next offset to read is {next}, but the log has {earliest} to {end}: \
                 messages were deleted unread, or the log was replaced. To go on with what is \
                 there, set [source] on_offset_gone = \"earliest\": what is read again counts as \
                 later than all before"
            ),
            SourceError::OtherLog { place, expected, found } => write!(
                f,
                "{place} is {found}, but the tables have read {expected} there: the log was made \
                 anew, or another stands in its place, and to go on in the middle of it would leave \
                 out what is before. Give it a [tables] root of its own, and it is read from its \
                 beginning; or bring the old log back"
            ),
            SourceError::Unusable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SourceError {}

/// Opens the source that the config names, at the offsets that the tables hold. A broker that does
/// not answer is no error yet: [`Source::poll`] goes on trying.
pub fn open(config: &config::Source, next: &Offsets) -> Result<Box<dyn Source>, SourceError> {
    open_same(config, next, Witnesses::default())
}

/// The same, for a log that must still have the records that `known` tells of. Each partition is
/// compared before the first record of it is given.
pub fn open_same(
    config: &config::Source,
    next: &Offsets,
    known: Witnesses,
) -> Result<Box<dyn Source>, SourceError> {
    if config.files.is_empty() {
        Ok(Box::new(kafka::Kafka::open(config, next)?.same_as(known)))
    } else {
        let (files, gone) = (&config.files, config.on_offset_gone);
        Ok(Box::new(files::Files::open_same(files, gone, next, known)?))
    }
}

/// Opens the source once more, to read again from the offsets in `next`; other partitions are left
/// out, and what is gone is passed over. Partitions of topics that the config no longer names never
/// come, and have no end.
pub fn open_again(config: &config::Source, next: &Offsets) -> Result<Box<dyn Source>, SourceError> {
    let config =
        config::Source { on_offset_gone: config::OnOffsetGone::Earliest, ..config.clone() };
    if config.files.is_empty() {
        return Ok(Box::new(kafka::Kafka::open(&config, next)?.only_these()));
    }
    let patterns = &config.files;
    Ok(Box::new(files::Files::open(patterns, config.on_offset_gone, next)?.only(next)))
}

/// One line for the person who watches; the service goes on.
fn warn(text: fmt::Arguments<'_>) {
    tracing::warn!("{text}");
}
