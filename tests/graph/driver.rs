//! The graph, run from an input handle to the epochs that it hands over, with an annotator at its
//! side that answers late, badly or never.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use everpair::{
    annotator::{Annotator, Looked, template::Template},
    dataflow::{self, Inputs, Settings},
};
use operators::{
    embed::KnownVector,
    flow::{Answer, Answered, CAPTION, Captioned, CaptionerId, ModelId, Request, Task},
    neighbors::{Counters, State, VectorBook},
    publish::{Change, EpochChanges, publish},
    register::Restored,
};
use schemas::{
    ContentId, Epoch,
    message::Record,
    tables::{AnnotationRow, Audit, BlockedRow, EmbeddingRow, WITHDRAWN},
};
use timely::{
    dataflow::operators::{
        probe::Probe,
        vec::{Input, input::Handle},
    },
    worker::Worker,
};

use super::history::{CAPTIONS, Message};

/// One epoch's input.
#[derive(Clone, Debug, Default)]
pub struct Fed {
    pub messages: Vec<Message>,
    pub blocks: Vec<BlockedRow>,
    pub answers: Vec<AnnotationRow>,
}

/// What the tables hold at the start, under the epoch that they are at.
#[derive(Default)]
pub struct Begin {
    pub epoch: Epoch,
    pub restored: Vec<Restored>,
    pub vectors: Vec<EmbeddingRow>,
    pub answers: Vec<AnnotationRow>,
}

impl Begin {
    /// A share for each worker, not that of what it owns: it must not matter who is handed a row.
    fn split(self, workers: usize) -> VecDeque<Begin> {
        let share = || Begin { epoch: self.epoch, ..Begin::default() };
        let mut shares: VecDeque<Begin> = (0..workers).map(|_| share()).collect();
        let rows = self.restored.into_iter().enumerate();
        rows.for_each(|(i, row)| shares[i % workers].restored.push(row));
        let rows = self.vectors.into_iter().enumerate();
        rows.for_each(|(i, row)| shares[i % workers].vectors.push(row));
        let rows = self.answers.into_iter().enumerate();
        rows.for_each(|(i, row)| shares[i % workers].answers.push(row));
        shares
    }
}

/// What happened: `fed[i]` was epoch `begin + 1 + i`, and `closed[0]` is the first epoch's.
pub struct Ran {
    pub fed: Vec<Fed>,
    pub closed: Vec<EpochChanges>,
    /// Images whose lists came from the checkpoint that it started with.
    pub remembered: u64,
}

/// How a graph is run.
pub struct Run<'a> {
    pub settings: &'a Settings,
    pub workers: usize,
    /// Epochs that may be open while an earlier one is not closed.
    pub ahead: Epoch,
    /// Checkpoints, to start with and to hand over.
    pub state: Arc<State>,
    /// Printed if a worker panics or stands still: nothing can be caught then.
    pub case: Arc<str>,
}

impl Run<'_> {
    /// Runs the graph over the epochs; with a desk, over as many more as its answers need.
    pub fn over(&self, begin: Begin, epochs: Vec<Fed>, desk: Option<Desk>) -> Ran {
        let counters = Arc::new(Counters::new(self.workers));
        let settings = Settings {
            book: Arc::new(VectorBook::default()),
            counters: counters.clone(),
            state: self.state.clone(),
            ..self.settings.clone()
        };
        let closed: Arc<Mutex<Vec<EpochChanges>>> = Arc::default();
        let first = begin.epoch;
        let begins = Mutex::new(begin.split(self.workers));
        let fed = Mutex::new(Some((epochs, desk)));
        let (ahead, case, deliver) = (self.ahead, self.case.clone(), closed.clone());
        let guards = timely::execute(timely::Config::process(self.workers), move |worker| {
            or_abort(&case, || {
                let (mut handles, probe) = graph(worker, &settings, deliver.clone());
                let begin = begins.lock().unwrap().pop_front().expect("one for each worker");
                handles.begin(begin, settings.captioner.as_ref(), worker.index() == 0);
                let mut done = Vec::new();
                if worker.index() == 0 {
                    let (epochs, desk) = fed.lock().unwrap().take().expect("one worker 0");
                    let given = (first, epochs, desk);
                    done = drive(worker, &mut handles, &probe, given, ahead, &deliver);
                }
                drop(handles);
                wait(worker, || !probe.done());
                done
            })
        });
        let ended = guards.expect("workers start").join();
        let fed = ended.into_iter().flat_map(|fed| fed.expect("a worker ends well")).collect();
        let closed = std::mem::take(&mut *closed.lock().unwrap());
        Ran { fed, closed, remembered: counters.remembered.load(Ordering::Relaxed) }
    }
}

/// A worker that panics leaves the others waiting for ever. What the test harness catches of its
/// output would be lost, so this goes past it.
fn or_abort<T>(case: &str, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|why| {
        let text = why.downcast_ref::<String>().map(String::as_str);
        let why = text.or_else(|| why.downcast_ref::<&str>().copied()).unwrap_or("panic");
        let _ = writeln!(std::io::stderr(), "a worker panicked: {why}\n{case}");
        std::process::abort()
    })
}

fn wait(worker: &mut Worker, mut so_long_as: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while so_long_as() {
        assert!(Instant::now() < deadline, "the graph stands still");
        worker.step_or_park(Some(Duration::from_millis(1)));
    }
}

type ProbeHandle = timely::dataflow::operators::probe::Handle<Epoch>;

fn graph(
    worker: &mut Worker,
    settings: &Settings,
    closed: Arc<Mutex<Vec<EpochChanges>>>,
) -> (Handles, ProbeHandle) {
    worker.dataflow::<Epoch, _, _>(|scope| {
        let (records_in, records) = scope.new_input();
        let (answers_in, answers) = scope.new_input();
        let (blocks_in, blocks) = scope.new_input();
        let (restored_in, restored) = scope.new_input();
        let (vectors_in, vectors) = scope.new_input();
        let (offsets_in, offsets) = scope.new_input();
        let inputs = Inputs { records, answers, blocks, restored, vectors, offsets };
        let changes = dataflow::build(inputs, settings);
        let (probe, _) = publish(changes, move |epoch| closed.lock().unwrap().push(epoch)).probe();
        let handles = Handles {
            records: records_in,
            answers: answers_in,
            blocks: blocks_in,
            restored: restored_in,
            vectors: vectors_in,
            offsets: offsets_in,
        };
        (handles, probe)
    })
}

struct Handles {
    records: Handle<Epoch, Record>,
    answers: Handle<Epoch, Answered>,
    blocks: Handle<Epoch, BlockedRow>,
    restored: Handle<Epoch, Restored>,
    vectors: Handle<Epoch, KnownVector>,
    offsets: Handle<Epoch, Change>,
}

impl Handles {
    fn advance_to(&mut self, epoch: Epoch) {
        self.records.advance_to(epoch);
        self.answers.advance_to(epoch);
        self.blocks.advance_to(epoch);
        self.restored.advance_to(epoch);
        self.vectors.advance_to(epoch);
        self.offsets.advance_to(epoch);
    }

    fn begin(&mut self, begin: Begin, captioner: Option<&CaptionerId>, first: bool) {
        self.advance_to(begin.epoch);
        begin.restored.into_iter().for_each(|row| self.restored.send(row));
        for row in &begin.vectors {
            self.vectors.send(KnownVector::of(row).expect("it is whole").expect("of a channel"));
        }
        for row in &begin.answers {
            if row.task != CAPTION {
                self.answers.send(Answered::Known(Arc::new(Answer::from(row))));
            } else if let Some(captioned) = captioner.and_then(|of| Captioned::of(row, of)) {
                self.answers.send(Answered::Captioned(captioned));
            }
        }
        if first {
            self.offsets.send(Change::Closed);
        }
        self.advance_to(begin.epoch + 1);
    }

    fn feed(&mut self, epoch: Epoch, fed: Fed) {
        fed.messages.into_iter().for_each(|message| self.records.send(message.record));
        fed.blocks.into_iter().for_each(|row| self.blocks.send(row));
        for row in fed.answers {
            self.answers.send(Answered::New(Box::new(row)));
        }
        self.offsets.send(Change::Closed);
        self.advance_to(epoch + 1);
    }
}

fn drive(
    worker: &mut Worker,
    handles: &mut Handles,
    probe: &ProbeHandle,
    (first, epochs, mut desk): (Epoch, Vec<Fed>, Option<Desk>),
    ahead: Epoch,
    closed: &Mutex<Vec<EpochChanges>>,
) -> Vec<Fed> {
    // The last epoch that anything came in.
    let mut last = first + epochs.len() as Epoch;
    let mut queue = epochs.into_iter();
    let mut fed = Vec::new();
    for epoch in first + 1.. {
        // What the desk knows is a function of the history, not of how fast workers are.
        let seen = epoch.saturating_sub(1 + ahead).max(first);
        wait(worker, || probe.less_equal(&seen));
        if let Some(desk) = &mut desk {
            desk.see(&closed.lock().unwrap(), seen);
        }
        // Captions bring questions: nothing is left once all that came is seen.
        let more = desk.as_ref().is_some_and(|desk| seen < last || !desk.waiting.is_empty());
        let Some(mut input) = queue.next().or_else(|| more.then(Fed::default)) else { break };
        if let Some(desk) = &mut desk {
            input.answers = desk.due(epoch);
            last = if input.answers.is_empty() { last } else { last.max(epoch) };
        }
        handles.feed(epoch, input.clone());
        fed.push(input);
    }
    fed
}

/// An annotator: its answers are those of the template, worse ones, or none, and they come late.
#[derive(Default)]
pub struct Desk {
    /// The newest epoch that has been looked at.
    seen: Option<Epoch>,
    waiting: BTreeMap<String, (Epoch, Request)>,
    /// What has been said, and in which epoch: nothing is said twice.
    said: BTreeMap<String, Epoch>,
    measured: HashMap<ContentId, Looked>,
}

/// The model that reads no captions, which the config does not name.
pub const OTHER: &str = "another";
/// The model that writes captions.
pub const CAPTIONER: &str = "captioner";

impl Desk {
    fn see(&mut self, closed: &[EpochChanges], until: Epoch) {
        let news = closed.iter().filter(|c| self.seen < Some(c.epoch) && c.epoch <= until);
        for changes in news {
            for row in &changes.contents {
                let id = ContentId::parse(&row.content_id).expect("an id of contents");
                self.measured.insert(id, (row.measures.clone(), (row.width, row.height)));
            }
            // A text about what has gone is not stored: it may be asked for again.
            for row in changes.annotations.iter().filter(|row| row.outcome == WITHDRAWN) {
                self.said.remove(&row.request_id);
            }
            // A question that is withdrawn may be in flight already: its answer comes all the same.
            let (gone, new): (Vec<_>, Vec<_>) = changes.requests.iter().partition(|r| r.1 < 0);
            for (request, _) in gone {
                if dice(&request.request_id, 0).is_multiple_of(2) {
                    self.waiting.remove(&request.request_id);
                }
            }
            for (request, _) in new {
                let id = &request.request_id;
                if let Some(said) = self.said.get(id) {
                    assert!(changes.epoch < *said, "I8: {id} has been answered");
                    continue;
                }
                // Some are never answered.
                if !dice(id, 1).is_multiple_of(8) {
                    let due = changes.epoch + 1 + dice(id, 2) % 4;
                    self.waiting.entry(id.clone()).or_insert((due, request.clone()));
                }
            }
        }
        self.seen = Some(until);
    }

    fn due(&mut self, epoch: Epoch) -> Vec<AnnotationRow> {
        let due = self.waiting.values().filter(|(due, _)| *due <= epoch);
        let due: Vec<Request> = due.map(|(_, request)| request.clone()).collect();
        due.iter().flat_map(|request| self.answer(request, epoch)).collect()
    }

    fn answer(&mut self, request: &Request, epoch: Epoch) -> Vec<AnnotationRow> {
        let id = &request.request_id;
        self.waiting.remove(id);
        if request.task == Task::Caption {
            self.said.insert(id.clone(), epoch);
            return vec![captioned(request)];
        }
        let look = |content: &ContentId| self.measured.get(content).cloned();
        let mut row = Template::new().annotate(request, &look, 1_000);
        match dice(id, 3) % 8 {
            0 => {
                row.outcome = "timed_out".into();
                row.description = None;
                write(&mut row, &[]);
            }
            1 => write(&mut row, &["No", "Turn it round", "Paint all of it"]),
            // One of four is too short: three are left.
            2 => write(&mut row, &["No", "Turn it round", "Paint all of it", "Make two of them"]),
            3 => write(&mut row, &["Turn it round", "Paint all of it", "Make two of them"]),
            _ => {}
        }
        let mut rows = vec![row];
        // Now and then an answer to a newer prompt, and one of a model of former days.
        for (slot, model, version) in [(4, Template::new().model().0, 2), (5, OTHER, 1)] {
            if dice(id, slot).is_multiple_of(4) {
                rows.push(other(request, model, version, &rows[0]));
            }
        }
        rows.retain(|row| self.said.insert(row.request_id.clone(), epoch).is_none());
        rows
    }
}

/// Not every image gets one, and none need be new.
fn captioned(request: &Request) -> AnnotationRow {
    let id = &request.request_id;
    let (outcome, text) = match dice(id, 3) % 6 {
        0 => ("refused", None),
        1 => ("ok", Some(" ")),
        n => ("ok", Some(CAPTIONS[n as usize % CAPTIONS.len()].unwrap_or("a blue cart"))),
    };
    AnnotationRow {
        request_id: id.clone(),
        query_content_id: request.query.0.hex(),
        target_content_id: request.target.0.hex(),
        task: CAPTION.into(),
        model: CAPTIONER.into(),
        prompt_version: 1,
        outcome: outcome.into(),
        description: text.map(Into::into),
        instructions: Vec::new(),
        audits: Vec::new(),
        prompt_tokens: None,
        completion_tokens: None,
        cost_usd: None,
        created_at: 1_000,
        epoch: 0,
    }
}

fn other(request: &Request, model: &str, version: i32, like: &AnnotationRow) -> AnnotationRow {
    let id =
        ModelId { model: model.into(), prompt_version: version, reads_captions: model != OTHER };
    let (query, target) = (&request.query, &request.target);
    let mut row = AnnotationRow {
        request_id: id.request_id((query.0, query.1.as_deref()), (target.0, target.1.as_deref())),
        model: model.into(),
        prompt_version: version,
        outcome: "ok".into(),
        description: Some("Both are pictures.".into()),
        ..like.clone()
    };
    write(&mut row, &["Move it to the right", "Take the other colour", "Show fewer of them"]);
    row
}

fn write(row: &mut AnnotationRow, texts: &[&str]) {
    row.instructions = texts.iter().map(|text| text.to_string()).collect();
    let audit = |rank: usize| Audit {
        label: "unresolved".into(),
        rank_text: Some(rank as i32),
        rank_image: None,
        rank_both: None,
        verdict: (rank == 0).then(|| "target".into()),
    };
    row.audits = (0..texts.len()).map(audit).collect();
}

/// A number that the id determines, one per slot.
pub fn dice(id: &str, slot: usize) -> u64 {
    u64::from_str_radix(&id[4 * slot..4 * slot + 4], 16).expect("an id is hex digits")
}
