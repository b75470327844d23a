//! Where messages are on their way from the source to the tables, by partition.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use schemas::{Epoch, message::Record};

use crate::source::{Offsets, SourceView};

/// Topic and partition.
pub type Place = (Arc<str>, i32);

/// Messages and their encoded bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Messages.
    pub messages: u64,
    /// Encoded bytes.
    pub bytes: u64,
}

impl Load {
    fn of(records: &[Record]) -> Load {
        let bytes = records.iter().map(|record| record.bytes() as u64).sum();
        Load { messages: records.len() as u64, bytes }
    }
}

/// One partition, as a person wants to see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Messages taken from the source by this process.
    pub read: u64,
    /// Those of them whose epoch is committed.
    pub committed: u64,
    /// The next offset as the tables have it.
    pub next: Option<i64>,
    /// The first offset that is left and the end, as the source last saw them.
    pub range: Option<(i64, i64)>,
}

impl Partition {
    /// Offsets between the newest commit and the end; `None` while the end is not known.
    pub fn lag(&self) -> Option<u64> {
        let (first, end) = self.range?;
        let next = self.next.unwrap_or(first).max(first);
        Some(u64::try_from(end.saturating_sub(next)).unwrap_or(0))
    }
}

/// Everything between the source and the newest commit.
#[derive(Debug, Default)]
pub struct Flow {
    view: SourceView,
    viewed: Option<Instant>,
    next: Offsets,
    read: BTreeMap<Place, u64>,
    committed: BTreeMap<Place, u64>,
    bytes: u64,
    open: Load,
    cut: BTreeMap<Epoch, (Load, BTreeMap<Place, u64>)>,
    /// Since when there has been something to do without a pause.
    busy_since: Option<Instant>,
    committed_at: Option<Instant>,
}

impl Flow {
    /// The next offsets as the tables have them.
    pub fn begin(&mut self, next: Offsets) {
        self.next = next;
    }

    /// A message was taken from the source.
    pub fn read(&mut self, record: &Record) {
        let position = &record.position;
        *self.read.entry((position.topic.clone(), position.partition)).or_default() += 1;
        let bytes = record.bytes() as u64;
        self.bytes += bytes;
        self.open.messages += 1;
        self.open.bytes += bytes;
        self.busy_since.get_or_insert_with(Instant::now);
    }

    /// What was read and not cut yet is an epoch now.
    pub fn cut(&mut self, epoch: Epoch, records: &[Record]) {
        let mut places: BTreeMap<Place, u64> = BTreeMap::new();
        for record in records {
            let position = &record.position;
            *places.entry((position.topic.clone(), position.partition)).or_default() += 1;
        }
        self.cut.insert(epoch, (Load::of(records), places));
        self.open = Load::default();
    }

    /// An epoch, and all before it, are done with; `next` is what the tables say since.
    pub fn committed(&mut self, epoch: Epoch, next: Option<Offsets>) {
        while let Some(first) = self.cut.first_entry().filter(|first| *first.key() <= epoch) {
            for (place, count) in first.remove().1 {
                *self.committed.entry(place).or_default() += count;
            }
        }
        if let Some(next) = next {
            self.next = next;
            self.committed_at = Some(Instant::now());
        }
        self.look();
    }

    /// The source was looked at.
    pub fn saw(&mut self, view: SourceView) {
        (self.view, self.viewed) = (view, Some(Instant::now()));
        self.look();
    }

    /// Whether it is time to look at the source again.
    pub fn is_stale(&self, after: Duration) -> bool {
        self.viewed.is_none_or(|at| at.elapsed() >= after)
    }

    fn look(&mut self) {
        match self.lag().0 > 0 || self.in_flight().messages > 0 || self.open.messages > 0 {
            true => self.busy_since = self.busy_since.or_else(|| Some(Instant::now())),
            false => self.busy_since = None,
        }
    }

    /// Every partition that anyone has heard of.
    pub fn partitions(&self) -> BTreeMap<Place, Partition> {
        let mut all: BTreeMap<Place, Partition> = BTreeMap::new();
        for (place, range) in &self.view.ranges {
            all.entry(place.clone()).or_default().range = Some(*range);
        }
        for (place, next) in &self.next {
            let partition = all.entry(place.clone()).or_default();
            partition.next = Some(*next);
            // The source was looked at a moment ago, and the tables may be past that.
            partition.range = partition.range.map(|(first, end)| (first, end.max(*next)));
        }
        for (place, count) in &self.read {
            all.entry(place.clone()).or_default().read = *count;
        }
        for (place, count) in &self.committed {
            all.entry(place.clone()).or_default().committed = *count;
        }
        all
    }

    /// Offsets between the newest commit and the ends, and partitions whose end is not known.
    pub fn lag(&self) -> (u64, usize) {
        let (mut lag, mut unknown) = (0, self.view.unknown);
        for (place, range) in &self.view.ranges {
            let next = self.next.get(place).copied();
            match (Partition { next, range: Some(*range), ..Partition::default() }).lag() {
                Some(behind) => lag += behind,
                None => unknown += 1,
            }
        }
        (lag, unknown)
    }

    /// Whether the source was ever looked at, and answers.
    pub fn source(&self) -> (bool, bool) {
        (self.viewed.is_some(), self.view.reachable)
    }

    /// What is in the epoch that is being filled.
    pub fn open(&self) -> Load {
        self.open
    }

    /// What is in epochs that are cut and not committed.
    pub fn in_flight(&self) -> Load {
        self.cut.values().fold(Load::default(), |sum, (load, _)| Load {
            messages: sum.messages + load.messages,
            bytes: sum.bytes + load.bytes,
        })
    }

    /// Epochs that are cut and not committed.
    pub fn epochs_in_flight(&self) -> usize {
        self.cut.len()
    }

    /// Encoded bytes that were read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long there has been work without a commit; none while there is no work.
    pub fn waiting(&self) -> Option<Duration> {
        let since = self.busy_since?;
        Some(self.committed_at.map_or(since, |at| at.max(since)).elapsed())
    }
}

#[cfg(test)]
mod tests {
    use schemas::message::Position;

    use super::*;

    fn place(partition: i32) -> Place {
        ("t".into(), partition)
    }

    fn record(partition: i32, offset: i64) -> Record {
        let position = Position { topic: "t".into(), partition, offset, timestamp_us: 0 };
        Record::new(position, None, Some(vec![0; 10]), Vec::new())
    }

    fn view(ranges: &[(i32, i64, i64)], unknown: usize) -> SourceView {
        let ranges = ranges.iter().map(|(p, first, end)| (place(*p), (*first, *end))).collect();
        SourceView { reachable: true, ranges, unknown }
    }

    #[test]
    fn lag_is_what_lies_between_the_tables_and_the_end() {
        let mut flow = Flow::default();
        flow.begin([(place(0), 7), (place(1), 2)].into());
        flow.saw(view(&[(0, 0, 10), (1, 5, 9), (2, 3, 4)], 1));
        // Partition 1 has lost what the tables wait for; partition 2 was never read.
        assert_eq!(flow.lag(), (3 + 4 + 1, 1));
        assert!(flow.waiting().is_some(), "there is work");
        flow.committed(1, Some([(place(0), 10), (place(1), 9), (place(2), 4)].into()));
        assert_eq!(flow.lag(), (0, 1));
        assert_eq!(flow.waiting(), None, "there is none");
    }

    #[test]
    fn what_is_read_is_open_then_cut_then_committed() {
        let mut flow = Flow::default();
        let records = [record(0, 0), record(0, 1), record(1, 0)];
        records.iter().for_each(|record| flow.read(record));
        let all = Load { messages: 3, bytes: records.iter().map(|r| r.bytes() as u64).sum() };
        assert_eq!((flow.open(), flow.in_flight()), (all, Load::default()));
        flow.cut(4, &records);
        assert_eq!(
            (flow.open(), flow.in_flight(), flow.epochs_in_flight()),
            (Load::default(), all, 1)
        );
        assert!(flow.waiting().is_some());
        flow.committed(4, Some([(place(0), 2), (place(1), 1)].into()));
        assert_eq!((flow.in_flight(), flow.epochs_in_flight()), (Load::default(), 0));
        assert_eq!(flow.waiting(), None);
        let partitions = flow.partitions();
        let first = Partition { read: 2, committed: 2, next: Some(2), range: None };
        assert_eq!(partitions[&place(0)], first);
    }
}
