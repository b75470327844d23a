//! The dataflow workers: feed epochs in, step, hand closed epochs to the committer.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, TryRecvError},
    },
    time::Duration,
};

use anyhow::anyhow;
use operators::{
    embed::KnownVector,
    flow::{Answer, Answered, Captioned},
    publish::{Change, EpochChanges, publish},
    register::Restored,
};
use schemas::{
    Epoch, limits,
    message::{Reading, Record},
    tables::{AnnotationRow, BlockedRow},
};
use timely::{
    communication::WorkerGuards,
    dataflow::operators::{
        probe::Probe,
        vec::{Input, input::Handle},
    },
    logging::{StartStop, TimelyEvent, TimelyEventBuilder},
    worker::Worker,
};

use crate::{
    dataflow::{self, Inputs, Settings},
    metrics::{Metrics, Pulse},
};

/// One epoch's input, as ingest cut it.
#[derive(Debug, Default)]
pub struct EpochInput {
    /// The epoch; they come in order, without gaps.
    pub epoch: Epoch,
    /// Messages.
    pub records: Vec<Record>,
    /// Next offsets of the partitions that moved.
    pub offsets: Vec<(Arc<str>, i32, i64)>,
    /// Outcomes of requests.
    pub answers: Vec<AnnotationRow>,
    /// What to block.
    pub blocks: Vec<BlockedRow>,
}

/// What the tables hold at start; it enters under the epoch that they are at.
#[derive(Debug, Default)]
pub struct Start {
    /// The newest committed epoch, 0 for new tables.
    pub epoch: Epoch,
    /// What each worker is handed, so that nothing waits for one of them.
    pub shares: Vec<Share>,
}

/// One worker's share of a start: of images, contents and vectors what it owns.
#[derive(Debug, Default)]
pub struct Share {
    /// Live images, known contents; the first worker has what is blocked.
    pub restored: Vec<Restored>,
    /// Vectors.
    pub vectors: Vec<KnownVector>,
    /// Outcomes of requests.
    pub answers: Vec<Arc<Answer>>,
    /// Outcomes of requests for captions.
    pub captioned: Vec<Captioned>,
}

/// What the threads of the service share.
#[derive(Debug, Default)]
pub struct Progress {
    /// The newest committed epoch.
    pub committed: AtomicU64,
    /// Set once: no new epochs, drain, end.
    pub stop: AtomicBool,
}

/// Starts `workers` threads. They end when the feed ends and all that was fed has been delivered.
pub fn start(
    workers: usize,
    settings: Settings,
    begin: Start,
    feed: Receiver<EpochInput>,
    deliver: Sender<EpochChanges>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<WorkerGuards<()>> {
    let Start { epoch, shares } = begin;
    let shares: Vec<Mutex<Option<Share>>> =
        shares.into_iter().map(|share| Mutex::new(Some(share))).collect();
    let feed = Mutex::new(Some(feed));
    let deliver = Mutex::new(Some(deliver));
    let work = move |worker: &mut Worker| {
        time_boxes(worker, metrics.clone());
        let pulse = metrics.pulse(&format!("worker-{}", worker.index()));
        // Only worker 0 is handed closed epochs, so only it may hold the sender: the committer ends
        // when the last sender is gone.
        let deliver = if worker.index() == 0 { take(&deliver) } else { None };
        let (mut handles, probe) = graph(worker, &settings, deliver);
        let share = shares.get(worker.index()).and_then(take).unwrap_or_default();
        handles.begin(epoch, share, worker.index() == 0);
        if worker.index() == 0
            && let Some(feed) = take(&feed)
        {
            run_feed(worker, &mut handles, &feed, &progress, &pulse);
        }
        drop(handles);
        while !probe.done() {
            worker.step_or_park(Some(Duration::from_millis(20)));
            pulse.beat();
        }
    };
    timely::execute(timely::Config::process(workers), work)
        .map_err(|error| anyhow!("start {workers} dataflow workers: {error}"))
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().ok().and_then(|mut slot| slot.take())
}

/// Adds up how long each box is scheduled, from timely's own log: boxes need no clock for it.
fn time_boxes(worker: &mut Worker, metrics: Arc<Metrics>) {
    let Some(mut register) = worker.log_register() else { return };
    let mut names: HashMap<usize, String> = HashMap::new();
    let mut since: HashMap<usize, Duration> = HashMap::new();
    register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        for (at, event) in events.iter().flat_map(|events| events.iter()) {
            match event {
                // The address of a box is [dataflow, box]; what is inside or around it is not
                // counted twice.
                TimelyEvent::Operates(operator) if operator.addr.len() == 2 => {
                    names.insert(operator.id, operator.name.clone());
                }
                TimelyEvent::Schedule(schedule) if schedule.start_stop == StartStop::Start => {
                    since.insert(schedule.id, *at);
                }
                TimelyEvent::Schedule(schedule) => {
                    if let (Some(begin), Some(name)) =
                        (since.remove(&schedule.id), names.get(&schedule.id))
                    {
                        metrics.ran(name, at.saturating_sub(begin));
                    }
                }
                _ => {}
            }
        }
    });
}

type ProbeHandle = timely::dataflow::operators::probe::Handle<Epoch>;

fn graph(
    worker: &mut Worker,
    settings: &Settings,
    deliver: Option<Sender<EpochChanges>>,
) -> (Handles, ProbeHandle) {
    worker.dataflow_named::<Epoch, _, _>("everpair", |scope| {
        let (records_in, records) = scope.new_input();
        let (answers_in, answers) = scope.new_input();
        let (blocks_in, blocks) = scope.new_input();
        let (restored_in, restored) = scope.new_input();
        let (vectors_in, vectors) = scope.new_input();
        let (offsets_in, offsets) = scope.new_input();
        let inputs = Inputs { records, answers, blocks, restored, vectors, offsets };
        let changes = dataflow::build(inputs, settings);
        let delivered = publish(changes, move |changes| {
            if let Some(deliver) = &deliver {
                // A committer that is gone has said why; the process is about to end.
                let _ = deliver.send(changes);
            }
        });
        let (probe, _) = delivered.probe();
        let handles = Handles {
            records: records_in,
            answers: answers_in,
            blocks: blocks_in,
            restored: Some(restored_in),
            vectors: Some(vectors_in),
            offsets: offsets_in,
        };
        (handles, probe)
    })
}

/// The dataflow's inputs, all at the same epoch.
struct Handles {
    records: Handle<Epoch, Record>,
    answers: Handle<Epoch, Answered>,
    blocks: Handle<Epoch, BlockedRow>,
    restored: Option<Handle<Epoch, Restored>>,
    vectors: Option<Handle<Epoch, KnownVector>>,
    offsets: Handle<Epoch, Change>,
}

impl Handles {
    /// Hands over this worker's share of what the tables hold; the first one says that the epoch is.
    fn begin(&mut self, epoch: Epoch, share: Share, first: bool) {
        self.advance_to(epoch);
        // Taken out, so that they are closed afterwards: nothing is ever restored twice.
        if let (Some(mut restored), Some(mut vectors)) = (self.restored.take(), self.vectors.take())
        {
            restored.advance_to(epoch);
            vectors.advance_to(epoch);
            share.restored.into_iter().for_each(|row| restored.send(row));
            share.vectors.into_iter().for_each(|row| vectors.send(row));
        }
        share.answers.into_iter().for_each(|answer| self.answers.send(Answered::Known(answer)));
        let captioned = share.captioned.into_iter();
        captioned.for_each(|captioned| self.answers.send(Answered::Captioned(captioned)));
        if first {
            self.offsets.send(Change::Closed);
        }
        self.advance_to(epoch + 1);
    }

    fn feed(&mut self, input: EpochInput) {
        self.advance_to(input.epoch);
        for record in input.records {
            if record.reading != Reading::First {
                let at = record.position.clone();
                self.offsets.send(Change::ReadAgain(at.topic, at.partition, at.offset));
            }
            self.records.send(record);
        }
        for row in input.answers {
            self.answers.send(Answered::New(Box::new(row)));
        }
        input.blocks.into_iter().for_each(|row| self.blocks.send(row));
        self.offsets.send(Change::Closed);
        for (topic, partition, next) in input.offsets {
            self.offsets.send(Change::Offset(topic, partition, next));
        }
        self.advance_to(input.epoch + 1);
    }

    fn advance_to(&mut self, epoch: Epoch) {
        self.records.advance_to(epoch);
        self.answers.advance_to(epoch);
        self.blocks.advance_to(epoch);
        self.offsets.advance_to(epoch);
    }
}

/// The only flow control there is: epoch e opens when e − slack is committed.
fn run_feed(
    worker: &mut Worker,
    handles: &mut Handles,
    feed: &Receiver<EpochInput>,
    progress: &Progress,
    pulse: &Pulse,
) {
    let mut opened = None;
    // The committer sets it when it has ended: well, or with an error after which nothing that is
    // still fed could be committed, and after which no epoch would ever open again.
    while !progress.stop.load(Ordering::Acquire) {
        let committed = progress.committed.load(Ordering::Acquire);
        let may_open =
            opened.is_none_or(|epoch: Epoch| epoch < committed + limits::EPOCHS_IN_FLIGHT);
        if may_open {
            match feed.try_recv() {
                Ok(input) => {
                    opened = Some(input.epoch);
                    handles.feed(input);
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
        }
        worker.step_or_park(Some(Duration::from_millis(2)));
        pulse.beat();
    }
}
