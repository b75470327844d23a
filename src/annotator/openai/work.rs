//! The client's thread: what it is told, and what it does about it.

mod calls;
mod judging;
mod outcomes;
pub(super) mod queue;
pub(super) mod row;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use operators::flow::{Request, Task};
use schemas::{
    ContentId,
    config::Annotator,
    limits,
    tables::{AnnotationRow, WITHDRAWN},
};
use tokio::{runtime::Runtime, task::AbortHandle};

use self::queue::{Asks, Job, Queue};
use super::{
    Parts, Standing,
    failures::{Failure, Patience},
    http::Endpoint,
    journal,
    judge::{Progress, Sitting, Took, Unjudged},
    library::{Known, Library},
    money::{Ledger, Nanos, Prices, Reserved, nanos, usd},
    pace::Pace,
    prompts::{Description, Prompts, Variation, is_turned, ordered},
    rate::Rate,
    reply::Ended,
};
use crate::delta::Store;

/// How often the thread looks around where nothing happens.
const LOOK: Duration = Duration::from_millis(200);
const MICROS: i64 = 1_000_000;

/// What the thread is told.
pub(super) enum Told {
    Want(Vec<Request>),
    Drop(String),
    /// Answers that are to be judged before they are handed out again.
    Judge(Vec<Unjudged>),
    /// Contents that images have lost.
    Gone(HashSet<ContentId>),
    /// Request ids and outcomes as the tables have them now.
    Committed(Vec<(String, String)>),
    /// No new calls.
    Pause,
    Stop,
    /// A try has ended.
    Ended(u64, Ended),
    /// An outcome is written down, or cannot be.
    Written(Box<AnnotationRow>, Result<(), String>),
    /// So is what a judge has said of an answer.
    Noted(String, Result<(), String>),
}

/// What is known of a request that is open.
struct Open {
    job: Job,
    request: Request,
    /// For instructions: the request for the description that they are made of.
    describe_id: Option<String>,
    /// In this round.
    tries: u32,
    /// How often it was put off.
    put_off: u32,
    how: Variation,
    cost: Nanos,
    read: Option<u64>,
    written: Option<u64>,
    /// For a description: requests for instructions that wait for it.
    waiting: BTreeSet<String>,
}

impl Open {
    fn took(&self) -> Took {
        (self.cost, self.read, self.written)
    }
}

/// A try in flight.
struct Flight {
    id: String,
    reserved: Option<Reserved>,
    sent: Instant,
    /// Which endpoint was asked.
    endpoint: usize,
    /// Tokens that it was thought to take.
    tokens: u64,
    /// The most that it can take.
    most_tokens: u64,
    abort: AbortHandle,
}

/// Means of calls: one for a caption has one image, a judge sees several, and each costs another amount
/// than those that write.
#[derive(Default)]
struct Means {
    captions: Mean,
    pairs: Mean,
    judged: Mean,
}

/// How many calls, and their sum.
#[derive(Clone, Copy, Default)]
struct Mean {
    calls: u64,
    sum: u64,
}

impl Means {
    fn add(&mut self, asks: Asks, amount: u64) {
        let mean = match asks {
            Asks::Caption => &mut self.captions,
            Asks::Description | Asks::Instructions => &mut self.pairs,
            Asks::Judgement => &mut self.judged,
        };
        (mean.calls, mean.sum) = (mean.calls + 1, mean.sum + amount);
    }

    /// None before there was a call.
    fn of(&self, asks: Asks) -> Option<u64> {
        let Mean { calls, sum } = match asks {
            Asks::Caption => self.captions,
            Asks::Description | Asks::Instructions => self.pairs,
            Asks::Judgement => self.judged,
        };
        sum.checked_div(calls)
    }
}

/// What is made of the money that is left.
#[derive(Default)]
struct Money {
    /// The day when it was looked at.
    day: i64,
    /// Which budget did not cover the last call that was too dear.
    out_of: Option<&'static str>,
    /// When pairs were ordered by what they are worth, and how long that took.
    ordered: Option<(Instant, Duration)>,
}

pub(super) struct Work {
    config: Annotator,
    prompts: Prompts,
    prices: Prices,
    endpoint: Endpoint,
    store: Store,
    library: Arc<Mutex<Box<dyn Library>>>,
    ledger: Ledger,
    runtime: Runtime,
    told: Sender<Told>,
    handed: Sender<AnnotationRow>,
    standing: Arc<Mutex<Standing>>,
    pace: Pace,
    rate: Rate,
    /// Tokens of the calls that told them.
    told_tokens: Means,
    open: HashMap<String, Open>,
    queue: Queue,
    patience: Patience,
    uncommitted: usize,
    /// Requests that have failed for now, wanted or not.
    failures: HashMap<String, Failure>,
    flights: HashMap<u64, Flight>,
    turn: u64,
    /// Outcomes that are being written down.
    writing: usize,
    /// Outcomes that the tables do not have yet.
    handed_out: HashSet<String>,
    known: HashMap<String, Known>,
    /// Answers that are to be judged, of which it is not known yet what they are shown among.
    unjudged: Vec<Unjudged>,
    /// Answers that are being judged.
    sittings: HashMap<String, Sitting>,
    /// What an earlier run has begun to judge.
    begun: HashMap<String, Progress>,
    /// When it was last looked what targets are shown among, and how long that took.
    seated: Option<(Instant, Duration)>,
    /// Descriptions that the tables have, in the order in which they came.
    here: VecDeque<String>,
    at: Standing,
    refused: Option<(String, Instant)>,
    /// Endpoints that have refused since something was answered.
    refusals: usize,
    /// How often another endpoint was taken since then.
    turns: usize,
    /// The endpoint has taken a request of this process; before it has, so many were bad in a row. Of
    /// those who write, and of the judge.
    answered: [bool; 2],
    bad_requests: [u32; 2],
    spent_before: Nanos,
    /// What the calls of this process cost that have ended and cost something.
    paid: Means,
    money: Money,
    /// When the first call was made.
    began: Option<Instant>,
}

impl Work {
    pub(super) fn new(
        parts: Parts,
        endpoint: Endpoint,
        ledger: Ledger,
        runtime: Runtime,
        told: Sender<Told>,
        handed: Sender<AnnotationRow>,
        standing: Arc<Mutex<Standing>>,
    ) -> Work {
        let Parts { config, prompts, store, library, memo, patience, uncommitted } = parts;
        Work {
            prices: Prices::of(&config),
            pace: Pace::new(config.concurrency),
            rate: Rate::of(&config),
            told_tokens: Means::default(),
            config,
            prompts,
            endpoint,
            store,
            library: Arc::new(Mutex::new(library)),
            spent_before: ledger.spent(),
            paid: Means::default(),
            money: Money::default(),
            ledger,
            runtime,
            told,
            handed,
            standing,
            open: HashMap::new(),
            queue: Queue::default(),
            patience,
            uncommitted,
            failures: memo.failures,
            flights: HashMap::new(),
            turn: 0,
            writing: 0,
            handed_out: HashSet::new(),
            known: memo.described,
            unjudged: Vec::new(),
            sittings: HashMap::new(),
            begun: memo.sittings,
            seated: None,
            here: VecDeque::new(),
            at: Standing::default(),
            refused: None,
            refusals: 0,
            turns: 0,
            answered: [false; 2],
            bad_requests: [0; 2],
            began: None,
        }
    }

    pub(super) fn run(mut self, commands: &Receiver<Told>) {
        loop {
            let now = Instant::now();
            let timers = self.queue.next().into_iter().chain(self.pace.rests_until());
            // What is due already waits for room or money, not for time.
            let next = timers.filter(|at| *at > now).map(|at| at - now).min();
            let wait = next.unwrap_or(LOOK).clamp(Duration::from_millis(1), LOOK);
            let mut first = match commands.recv_timeout(wait) {
                Ok(told) => Some(told),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            };
            while let Some(told) = first.take().or_else(|| commands.try_recv().ok()) {
                match told {
                    Told::Stop => return self.end(),
                    told => self.hear(told),
                }
            }
            self.start_calls();
            self.show();
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Want(requests) => {
                self.at.seen += 1;
                self.want(requests);
            }
            Told::Drop(id) => {
                self.at.seen += 1;
                self.forget(&id);
            }
            Told::Gone(contents) => {
                self.at.seen += 1;
                self.gone(&contents);
            }
            Told::Judge(answers) => {
                self.at.seen += 1;
                self.judge(answers);
            }
            Told::Committed(rows) => {
                self.at.seen += 1;
                rows.into_iter().for_each(|(id, outcome)| self.committed(&id, &outcome));
            }
            Told::Pause => {
                self.at.seen += 1;
                self.at.paused = true;
            }
            Told::Ended(turn, ended) => self.ended(turn, ended),
            Told::Written(row, result) => self.written(*row, result),
            Told::Noted(id, result) => self.noted(&id, result),
            Told::Stop => {}
        }
    }

    fn want(&mut self, requests: Vec<Request>) {
        for request in requests {
            let id = &request.request_id;
            if !self.open.contains_key(id) && !self.handed_out.contains(id) {
                match request.task {
                    Task::Caption => self.admit_caption(request),
                    Task::Instruct => {
                        let describe_id = self.prompts.describe_id(&self.config, &request);
                        self.admit(request, describe_id);
                    }
                }
            }
        }
    }

    fn admit_caption(&mut self, request: Request) {
        let (content, id) = (request.query.0, request.request_id.clone());
        let job = Job { pair: [content, content], turned: false, id, asks: Asks::Caption };
        self.open(job.clone(), request, None);
        self.at.captions += 1;
        self.enqueue(job);
    }

    /// One less waits. A description counts as the pairs that wait for it.
    fn leaves(&mut self, asks: Asks) {
        match asks {
            Asks::Caption => self.at.captions -= 1,
            Asks::Description => {}
            Asks::Instructions | Asks::Judgement => self.at.pairs -= 1,
        }
    }

    fn hold(&mut self, id: String, description: Description) {
        self.known.insert(id.clone(), Known::Here(description));
        self.here.push_back(id);
        while self.here.len() > limits::ANNOTATOR_DESCRIPTIONS
            && let Some(oldest) = self.here.pop_front()
        {
            self.known.entry(oldest).and_modify(|known| *known = Known::Stored);
        }
    }

    fn admit(&mut self, request: Request, describe_id: String) {
        let [first, second] = ordered(&request).map(|side| side.0);
        let id = request.request_id.clone();
        let (pair, turned, asks) = ([first, second], is_turned(&request), Asks::Instructions);
        let job = Job { pair, turned, id: id.clone(), asks };
        self.open(job.clone(), request.clone(), Some(describe_id.clone()));
        self.at.pairs += 1;
        match self.known.get(&describe_id) {
            Some(Known::Here(_) | Known::Stored) => self.enqueue(job),
            Some(Known::Failed) => self.close(&id, Err("no_description")),
            None => self.describe(request, describe_id, id),
        }
    }

    /// One description for all that wait for it.
    fn describe(&mut self, request: Request, describe_id: String, waiting: String) {
        if !self.open.contains_key(&describe_id) {
            let [first, second] = ordered(&request).map(|side| side.0);
            let (pair, turned, asks) = ([first, second], false, Asks::Description);
            let job = Job { pair, turned, id: describe_id.clone(), asks };
            self.open(job.clone(), request, None);
            self.enqueue(job);
        }
        if let Some(open) = self.open.get_mut(&describe_id) {
            open.waiting.insert(waiting);
        }
    }

    /// A request that goes on from its last failure, if it has failed before.
    fn open(&mut self, job: Job, request: Request, describe_id: Option<String>) {
        let before = self.failures.get(&job.id);
        let tokens = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
        let open = Open {
            request,
            describe_id,
            tries: 0,
            put_off: before.map_or(0, |failure| failure.times),
            how: Variation::default(),
            cost: before.and_then(|failure| failure.row.cost_usd).map_or(0, nanos),
            read: before.and_then(|failure| tokens(failure.row.prompt_tokens)),
            written: before.and_then(|failure| tokens(failure.row.completion_tokens)),
            waiting: BTreeSet::new(),
            job,
        };
        self.open.insert(open.job.id.clone(), open);
    }

    /// Asks now, or when a failure says.
    fn enqueue(&mut self, job: Job) {
        let wait = self.failures.get(&job.id).map_or(0, |failure| failure.again_at - now_us());
        match u64::try_from(wait) {
            Ok(wait) if wait > 0 => {
                // A clock that was set back, or a file by another hand, puts nothing off for ever.
                let wait = Duration::from_micros(wait).min(self.patience.most);
                self.queue.put_off(Instant::now() + wait, job);
            }
            _ => self.queue.push(job),
        }
    }

    /// Nobody wants it any more: what is in flight is cut off, and what it may cost counts.
    fn forget(&mut self, id: &str) {
        self.forget_unjudged(id);
        // What is being written down is paid for.
        let closing = |open: &Open| open.tries == u32::MAX;
        if self.open.get(id).is_none_or(closing) {
            return;
        }
        let Some(mut open) = self.open.remove(id) else { return };
        self.leaves(open.job.asks);
        self.queue.remove(&open.job);
        let flight = self.flights.iter().find(|(_, flight)| flight.id == id).map(|(turn, _)| *turn);
        if let Some(flight) = flight.and_then(|turn| self.flights.remove(&turn)) {
            flight.abort.abort();
            if let Some(reserved) = flight.reserved {
                let most = reserved.amount();
                self.settle(reserved, most, open.job.asks);
                open.cost += most;
            }
        }
        if let Some(sitting) = self.sittings.remove(id) {
            self.end_sitting(sitting, open.took());
        }
        if let Some(describe_id) = open.describe_id
            && let Some(description) = self.open.get_mut(&describe_id)
        {
            description.waiting.remove(id);
            if description.waiting.is_empty() {
                self.forget(&describe_id);
            }
        }
    }

    fn committed(&mut self, id: &str, outcome: &str) {
        self.handed_out.remove(id);
        if let Err(error) = journal::remove(&self.store, id) {
            tracing::warn!("{error:#}: the next start removes it");
        }
        // Its texts are gone, because an image was: if that comes back, it is asked again.
        if outcome == WITHDRAWN {
            self.known.remove(id);
        }
    }

    fn show(&mut self) {
        let now = Instant::now();
        let spent = self.ledger.spent();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        self.at.asking_seconds = self.began.map_or(0.0, |began| (now - began).as_secs_f64());
        self.at.in_flight = self.flights.len() + self.writing;
        self.at.limit = self.pace.limit();
        let waiting = |open: &Open| match open.job.asks {
            Asks::Description => open.waiting.len(),
            Asks::Caption | Asks::Instructions | Asks::Judgement => 1,
        };
        let put_off = self.queue.waits().filter_map(|(_, job)| self.open.get(&job.id));
        self.at.put_off = put_off.map(waiting).sum();
        self.at.again_at = self.queue.waits().next().map(|(at, _)| {
            let wait = at.saturating_duration_since(now).as_secs();
            now_us() + i64::try_from(wait).unwrap_or(0) * MICROS
        });
        self.at.captions_spent = usd(self.paid.captions.sum);
        self.at.pairs_spent = usd(self.paid.pairs.sum + self.paid.judged.sum);
        self.at.spent = usd(spent);
        self.at.spent_now = usd(spent.saturating_sub(self.spent_before));
        // Not before each endpoint has refused.
        let refused = self.refused.as_ref().filter(|_| self.refusals >= self.endpoint.count());
        self.at.refused = refused.map(|(why, _)| why.clone());
        self.at.down_seconds = self.pace.down_since().map(seconds);
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = self.at.clone();
    }

    fn end(self) {
        for flight in self.flights.values() {
            flight.abort.abort();
        }
        if let Err(error) = self.ledger.finish() {
            tracing::warn!("{error:#}: what is open of the budget counts as spent");
        }
        // What is being written down is paid for: that is waited for.
        self.runtime.shutdown_timeout(limits::STORE_RETRY_TIME);
    }
}

fn lock<T>(held: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What it holds are caches of what is stored.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
}
