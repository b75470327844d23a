//! Ingest: reads the source and cuts messages into epochs by rows, bytes and linger.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError},
    },
    time::{Duration, Instant},
};

use schemas::{
    Epoch,
    config::{Config, EpochCut},
    limits,
    tables::{AnnotationRow, BlockedRow},
};

use super::worker::{EpochInput, Progress};
use crate::{
    benchmark::keeper::Keeper,
    metrics::{Metrics, Phase, Pulse},
    replay::Replay,
    requests::{Messages, Request, Requests},
    source::{Offsets, Polled, Source, SourceError},
    state::Schedule,
};

/// How long one poll of the source may take; what else there is to do waits no longer.
const POLL: Duration = Duration::from_millis(20);
/// How long the source is held before the dataflow is asked again whether it has room.
const HOLD: Duration = Duration::from_millis(2);

/// What ingest and the committer tell each other.
#[derive(Default)]
pub struct Exchange {
    /// Next offsets of the newest commit: shown to the broker for lag displays.
    pub committed: Mutex<Offsets>,
    /// Cut an epoch even if nothing came: the tables differ from what they should be.
    pub force: AtomicBool,
    /// The memos are to forget what has gone, once the service stands still.
    pub forget: AtomicBool,
    /// Stand still behind this epoch.
    pub still: AtomicBool,
}

/// Everything that ingest needs.
pub struct Ingest {
    /// Where messages come from.
    pub source: Box<dyn Source>,
    /// When to cut.
    pub cut: EpochCut,
    /// Longest wait of an epoch for more.
    pub linger: Duration,
    /// The first epoch to cut.
    pub next_epoch: Epoch,
    /// The newest one that was cut.
    pub cut_newest: Option<Epoch>,
    /// Cut at once when these offsets are reached: nobody waits for more.
    pub ends: Option<Offsets>,
    /// Partitions that are read again from here: their log has lost what the tables had read.
    pub again: Offsets,
    /// Answers of the annotator.
    pub answers: Receiver<Vec<AnnotationRow>>,
    /// Requests of other processes.
    pub requests: Requests,
    /// Brings evaluation sets that are to be blocked.
    pub benchmarks: Keeper,
    /// When the lists of all images are written.
    pub schedule: Schedule,
    /// Epochs go here.
    pub feed: SyncSender<EpochInput>,
    /// Shared with everyone.
    pub progress: Arc<Progress>,
    /// Shared with the committer.
    pub exchange: Arc<Exchange>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Tells that the thread lives.
    pub pulse: Pulse,
    /// Set by a signal: open no more epochs.
    pub stop: &'static AtomicBool,
    /// To read messages again: the source, and what may be fetched.
    pub config: Config,
}

/// The epoch that is being filled.
#[derive(Default)]
struct Open {
    input: EpochInput,
    offsets: Offsets,
    bytes: usize,
    since: Option<Instant>,
}

impl Open {
    fn touch(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn is_full(&self, cut: &EpochCut) -> bool {
        self.input.records.len() >= cut.rows
            || self.bytes >= cut.bytes
            || self.input.answers.len() >= limits::ANSWERS_PER_EPOCH
    }
}

impl Ingest {
    /// Runs until told to stop. What was read and not cut is read again by the next run: offsets
    /// live in the tables.
    pub fn run(mut self) -> Result<(), SourceError> {
        let mut open = Open::default();
        self.requests.first_look(limits::REQUESTS_FIRST_LOOK);
        if !self.again.is_empty() {
            open.offsets = std::mem::take(&mut self.again);
            open.touch();
        }
        let mut positions = Offsets::new();
        let mut shown = Offsets::new();
        while !self.must_stop() {
            self.show_alive();
            let idle = self.read(&mut open, &mut positions)?;
            self.gather(&mut open, &positions)?;
            if self.exchange.still.load(Ordering::Acquire) {
                // What was asked for before goes first: what it blocks is to be collected.
                if open.since.is_some() {
                    self.cut(&mut open, true)?;
                }
                break;
            }
            if self.must_stop() {
                // Of a request that was being carried out only a part may be in the epoch.
                break;
            }
            let waited = open.since.is_some_and(|since| since.elapsed() >= self.linger);
            let nothing_more = idle
                && open.since.is_some()
                && self.ends.as_ref().is_some_and(|ends| reached(&positions, ends, &self.exchange));
            if open.is_full(&self.cut) || waited || nothing_more {
                self.cut(&mut open, true)?;
            }
            self.show_committed(&mut shown);
        }
        self.metrics.enter(Phase::Stopping);
        Ok(())
    }

    fn show_alive(&mut self) {
        self.pulse.beat();
        if self.metrics.wants_view() {
            self.metrics.saw(self.source.view());
        }
    }

    fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.progress.stop.load(Ordering::Acquire)
    }

    /// Reads until the epoch is full or the source has nothing; true if it has nothing.
    fn read(&mut self, open: &mut Open, positions: &mut Offsets) -> Result<bool, SourceError> {
        while !open.is_full(&self.cut) {
            let (topic, partition, next) = match self.source.poll(POLL)? {
                Polled::Idle => return Ok(true),
                Polled::Progress { topic, partition, next_offset } => {
                    (topic, partition, next_offset)
                }
                Polled::Record(record) => {
                    let at = record.position.clone();
                    self.metrics.read(&record);
                    let place = (at.topic.clone(), at.partition);
                    if positions.get(&place).is_some_and(|next| at.offset < *next) {
                        // The log begins again. Within an epoch the higher offset is the later
                        // message; what is read again is later than all that went before.
                        self.cut(open, false)?;
                    }
                    open.bytes += record.bytes();
                    open.input.records.push(record);
                    (at.topic, at.partition, at.offset + 1)
                }
            };
            open.touch();
            positions.insert((topic.clone(), partition), next);
            open.offsets.insert((topic, partition), next);
            if open.since.is_some_and(|since| since.elapsed() >= self.linger) {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Answers and requests that came meanwhile.
    fn gather(&mut self, open: &mut Open, positions: &Offsets) -> Result<(), SourceError> {
        while open.input.answers.len() < limits::ANSWERS_PER_EPOCH {
            let Ok(answers) = self.answers.try_recv() else { break };
            open.touch();
            open.input.answers.extend(answers);
        }
        if let Some(Request { block, replay, .. }) = self.requests.take() {
            for row in block {
                match self.benchmarks.is_new(&row) {
                    true => self.benchmark(&row, open)?,
                    false => open.input.blocks.push(row),
                }
            }
            if !replay.is_empty() {
                self.replay(&replay, open, positions)?;
            }
            open.touch();
        }
        if self.exchange.force.swap(false, Ordering::AcqRel) || self.schedule.is_due() {
            open.touch();
        }
        Ok(())
    }

    /// Lets every epoch so far be committed and compares what is live then with an evaluation set, so
    /// that the next epoch can take down what is of it. Nothing is read meanwhile.
    fn benchmark(&mut self, row: &BlockedRow, open: &mut Open) -> Result<(), SourceError> {
        if open.since.is_some() {
            self.cut(open, false)?;
        }
        let newest = self.cut_newest.unwrap_or(0);
        while self.progress.committed.load(Ordering::Acquire) < newest {
            if self.must_stop() {
                return Ok(());
            }
            self.source.hold(HOLD)?;
            self.show_alive();
        }
        let keeper = self.benchmarks.clone();
        let (asked, done) = (row.clone(), std::sync::mpsc::channel());
        let compare = move || drop(done.0.send(keeper.take(&asked)));
        let unusable = |why: String| SourceError::Unusable(format!("block {}: {why}", row.value));
        std::thread::Builder::new()
            .name("benchmark".into())
            .spawn(compare)
            .map_err(|error| unusable(error.to_string()))?;
        let rows = loop {
            match done.1.try_recv() {
                Ok(rows) => break rows.map_err(|error| unusable(format!("{error:#}")))?,
                Err(TryRecvError::Empty) if self.must_stop() => return Ok(()),
                Err(TryRecvError::Empty) => {
                    self.source.hold(HOLD)?;
                    self.show_alive();
                }
                Err(TryRecvError::Disconnected) => return Err(unusable("it panicked".into())),
            }
        };
        open.input.blocks.extend(rows);
        open.touch();
        Ok(())
    }

    /// Reads messages again, behind all that was read so far and before all that comes: that is
    /// what makes "last" the same for everybody. Nothing new is read meanwhile.
    fn replay(
        &mut self,
        wanted: &[Messages],
        open: &mut Open,
        positions: &Offsets,
    ) -> Result<(), SourceError> {
        let mut until = match self.exchange.committed.lock() {
            Ok(committed) => committed.clone(),
            Err(_) => Offsets::new(),
        };
        for (place, next) in positions {
            let known = until.entry(place.clone()).or_insert(*next);
            *known = (*known).max(*next);
        }
        let (stop, progress) = (self.stop, self.progress.clone());
        let stopped = move || stop.load(Ordering::Acquire) || progress.stop.load(Ordering::Acquire);
        let mut replay = Replay::begin(&self.config, wanted, &until, Box::new(stopped))?;
        while let Some(record) = replay.next_record()? {
            open.touch();
            open.bytes += record.bytes();
            open.input.records.push(record);
            if open.is_full(&self.cut) {
                // The request is done with when the last of its epochs is.
                self.cut(open, false)?;
            }
        }
        replay.report();
        Ok(())
    }

    /// Hands the epoch over; with `requests`, it has all of what was asked for.
    fn cut(&mut self, open: &mut Open, requests: bool) -> Result<(), SourceError> {
        let Open { mut input, offsets, .. } = std::mem::take(open);
        input.epoch = self.next_epoch;
        input.offsets = offsets.into_iter().map(|((t, p), next)| (t, p, next)).collect();
        if requests {
            self.requests.cut(self.next_epoch);
        }
        self.metrics.cut(input.epoch, &input.records);
        self.schedule.cut(input.epoch, input.records.len());
        self.cut_newest = Some(self.next_epoch);
        self.next_epoch += 1;
        // A full queue is backpressure: nothing more is taken from the source until it has room.
        let mut waiting = Some(input);
        while let Some(input) = waiting.take() {
            match self.feed.try_send(input) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(_)) if self.must_stop() => {}
                Err(TrySendError::Full(input)) => {
                    self.source.hold(HOLD)?;
                    self.show_alive();
                    waiting = Some(input);
                }
            }
        }
        Ok(())
    }

    fn show_committed(&mut self, shown: &mut Offsets) {
        let Ok(committed) = self.exchange.committed.lock().map(|offsets| offsets.clone()) else {
            return;
        };
        if committed != *shown {
            self.source.committed(&committed);
            *shown = committed;
        }
    }
}

/// Whether everything up to `ends` has been read, now or by an earlier run.
fn reached(positions: &Offsets, ends: &Offsets, exchange: &Exchange) -> bool {
    let committed = exchange.committed.lock();
    ends.iter().all(|(partition, end)| {
        let position = positions.get(partition).copied();
        let before = committed.as_ref().ok().and_then(|offsets| offsets.get(partition).copied());
        position.max(before).unwrap_or(0) >= *end
    })
}
