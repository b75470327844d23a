//! The file log: a durable queue that is a few files of lines, for a beginning without a broker.
//!
//! A file is a partition and a line is a record; the line's number, from 0, is its offset. A
//! partition's number is the number that the file's name ends in (`part-00003.jsonl` is 3), and 0
//! where it ends in none: so it depends on nothing but the name, and files may be added at any
//! time. Two files of one number are refused. The topic is always `files`, wherever the folder is.
//!
//! Lines are only ever appended. A last line without a newline is not complete and not read yet.

mod names;
mod tail;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use schemas::{config::OnOffsetGone, limits};

use self::tail::Tail;
pub use self::{names::matches, writer::FileLog};
use super::{Offsets, Polled, Source, SourceError, SourceView, warn, witness::Witnesses};

/// The topic of every file log.
pub const TOPIC: &str = "files";
/// How often files are looked for, and ends of files are looked at again.
const LOOK: Duration = Duration::from_millis(200);
/// How long a reader at the end of all files sleeps before it looks again.
const NAP: Duration = Duration::from_millis(10);

/// Reads a file log: every file that the patterns match, in turns.
pub struct Files {
    patterns: Vec<String>,
    on_offset_gone: OnOffsetGone,
    topic: Arc<str>,
    /// Where partitions begin that have no file yet.
    next: BTreeMap<i32, i64>,
    /// What the lines before these must be.
    known: Witnesses,
    tails: BTreeMap<i32, Tail>,
    /// The partitions that are read; all if it is not said.
    only: Option<BTreeSet<i32>>,
    /// The partition whose turn it was last.
    turn: i32,
    looked: Instant,
}

impl Files {
    /// Opens the files that `patterns` match (`*` in file names only), each at its next line.
    pub fn open(
        patterns: &[String],
        on_offset_gone: OnOffsetGone,
        next: &Offsets,
    ) -> Result<Files, SourceError> {
        Files::open_same(patterns, on_offset_gone, next, Witnesses::default())
    }

    /// The same for a log that must still have the records that `known` tells of.
    pub fn open_same(
        patterns: &[String],
        on_offset_gone: OnOffsetGone,
        next: &Offsets,
        known: Witnesses,
    ) -> Result<Files, SourceError> {
        let topic: Arc<str> = TOPIC.into();
        let next = next.iter().filter(|((t, _), _)| *t == topic);
        let next: BTreeMap<i32, i64> = next.map(|((_, p), n)| (*p, *n)).collect();
        let mut files = Files {
            patterns: patterns.to_vec(),
            on_offset_gone,
            topic,
            next,
            known,
            tails: BTreeMap::new(),
            only: None,
            turn: -1,
            looked: Instant::now(),
        };
        files.look_for_files()?;
        let missing: Vec<_> = files.next.iter().map(|(&p, &n)| (p, n)).collect();
        for (partition, next) in missing {
            if next > 0 && !files.tails.contains_key(&partition) {
                let place = format!("partition {partition} of {}", patterns.join(", "));
                files.gone(place, next, 0)?;
                files.next.insert(partition, 0);
            }
        }
        Ok(files)
    }

    /// The same reader for the partitions of `these` alone.
    pub fn only(mut self, these: &Offsets) -> Files {
        let ours = these.keys().filter(|(topic, _)| *topic == self.topic);
        let only: BTreeSet<i32> = ours.map(|(_, partition)| *partition).collect();
        self.tails.retain(|partition, _| only.contains(partition));
        self.only = Some(only);
        self
    }

    /// Opens what is new, and makes sure that what is open is still what stands in the folder.
    fn look_for_files(&mut self) -> Result<(), SourceError> {
        self.looked = Instant::now();
        let mut found = names::list(&self.patterns)?;
        found.retain(|partition, _| self.only.as_ref().is_none_or(|only| only.contains(partition)));
        for tail in self.tails.values_mut() {
            tail.check().map_err(|e| unreadable(&tail.path, e))?;
        }
        let (stale, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.tails)
            .into_iter()
            .partition(|(p, t)| t.replaced || found.get(p).is_some_and(|path| *path != t.path));
        self.tails.extend(kept);
        for (partition, tail) in stale {
            self.next.insert(partition, tail.next_line());
        }
        for (partition, path) in found {
            if !self.tails.contains_key(&partition) {
                let next = self.next.get(&partition).copied().unwrap_or(0);
                let mut tail = Tail::open(path.clone()).map_err(|e| unreadable(&path, e))?;
                self.is_the_same(partition, next, &mut tail)?;
                let end = tail.skip_to(next).map_err(|e| unreadable(&path, e))?;
                if end < next {
                    self.gone(path.display().to_string(), next, end)?;
                    tail = Tail::open(path.clone()).map_err(|e| unreadable(&path, e))?;
                }
                self.tails.insert(partition, tail);
            }
        }
        Ok(())
    }

    /// Looks on the way to the next line whether a line before it is the one that was read there.
    fn is_the_same(&self, partition: i32, next: i64, tail: &mut Tail) -> Result<(), SourceError> {
        let Some(offset) = self.known.newest(&(self.topic.clone(), partition), 0..next) else {
            return Ok(());
        };
        let end = tail.skip_to(offset).map_err(|e| unreadable(&tail.path, e))?;
        let line = match end < offset {
            true => None,
            false => tail.read().map_err(|e| unreadable(&tail.path, e))?,
        };
        // A log that is shorter is told by its end.
        match line.and_then(|line| line.record(&self.topic, partition, offset)) {
            Some(record) => self.known.compare(&record),
            None => Ok(()),
        }
    }

    /// The next line is past the end of the file: stop, or begin again, as the config says.
    fn gone(&self, place: String, next: i64, end: i64) -> Result<(), SourceError> {
        let error = SourceError::OffsetGone { place, next, earliest: 0, end };
        match self.on_offset_gone {
            OnOffsetGone::Fail => Err(error),
            OnOffsetGone::Earliest => {
                warn(format_args!("{error}. That is set: going on at 0"));
                Ok(())
            }
        }
    }

    /// One line of the first partition, from the one after `turn` on, that has a complete one.
    fn take(&mut self) -> Result<Option<Polled>, SourceError> {
        let (first, again) = (self.turn.saturating_add(1), self.turn);
        let order: Vec<i32> =
            self.tails.range(first..).chain(self.tails.range(..=again)).map(|(p, _)| *p).collect();
        for partition in order {
            let tail = self.tails.get_mut(&partition).expect("a partition just listed");
            let offset = tail.next_line();
            let line = tail.read().map_err(|e| unreadable(&tail.path, e))?;
            let Some(line) = line else { continue };
            self.turn = partition;
            let topic = self.topic.clone();
            return Ok(Some(match line.record(&topic, partition, offset) {
                None => Polled::Progress { topic, partition, next_offset: offset + 1 },
                Some(record) => Polled::Record(record),
            }));
        }
        Ok(None)
    }
}

impl Source for Files {
    fn poll(&mut self, wait: Duration) -> Result<Polled, SourceError> {
        let deadline = Instant::now() + wait;
        loop {
            if self.looked.elapsed() >= LOOK {
                self.look_for_files()?;
            }
            if let Some(polled) = self.take()? {
                return Ok(polled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Polled::Idle);
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    fn hold(&mut self, wait: Duration) -> Result<(), SourceError> {
        std::thread::sleep(wait);
        Ok(())
    }

    fn end_offsets(&mut self) -> Result<Offsets, SourceError> {
        self.look_for_files()?;
        let mut ends = Offsets::new();
        for (partition, tail) in &self.tails {
            let end = tail.end().map_err(|e| unreadable(&tail.path, e))?;
            ends.insert((self.topic.clone(), *partition), end);
        }
        Ok(ends)
    }

    fn view(&mut self) -> SourceView {
        let mut view = SourceView { reachable: !self.tails.is_empty(), ..SourceView::default() };
        for (partition, tail) in &mut self.tails {
            // A file that cannot be read is an error of the next poll.
            match tail.count_ahead(limits::LOG_COUNT_BYTES) {
                Ok(Some(end)) => {
                    view.ranges.insert((self.topic.clone(), *partition), (0, end));
                }
                Ok(None) | Err(_) => view.unknown += 1,
            }
        }
        view
    }

    fn committed(&mut self, _next: &Offsets) {}
}

fn unreadable(path: &std::path::Path, error: std::io::Error) -> SourceError {
    SourceError::Unusable(format!("{}: {error}", path.display()))
}

/// The files of a log, by partition, as [`Files`] would read them.
pub fn partitions(patterns: &[String]) -> Result<BTreeMap<i32, PathBuf>, SourceError> {
    names::list(patterns)
}
