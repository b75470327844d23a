//! The client's thread: what is asked next, and what becomes of what was asked.

mod row;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use operators::flow::{DESCRIBE, Request};
use schemas::{
    ContentId,
    config::Annotator,
    limits,
    tables::{AnnotationRow, WITHDRAWN},
};
use tokio::{runtime::Runtime, task::AbortHandle};

use self::row::{Said, row, told};
use super::{
    Parts, Standing,
    http::Endpoint,
    journal,
    library::{Known, Library},
    money::{Draw, Ledger, Nanos, Prices, Reserved, usd},
    pace::{Pace, backoff},
    prompts::{Chat, Description, Dice, Prompts, Variation, is_turned, ordered},
    reply::{Bill, Change, Ended, Verdict, description, instructions, judge, without_copies},
};
use crate::delta::Store;

/// How often the thread looks around where nothing happens.
const LOOK: Duration = Duration::from_millis(200);

/// What the thread is told.
pub(super) enum Told {
    Want(Vec<Request>),
    Drop(String),
    /// Request ids and outcomes as the tables have them now.
    Committed(Vec<(String, String)>),
    /// No new calls.
    Pause,
    Stop,
    /// A try has ended.
    Ended(u64, Ended),
    /// An outcome is written down, or cannot be.
    Written(Box<AnnotationRow>, Result<(), String>),
}

/// What is asked, in the order in which it is: both directions of a pair, and pairs with an image in
/// common, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    pair: [ContentId; 2],
    turned: bool,
    id: String,
}

/// What is known of a request that is open.
struct Open {
    job: Job,
    request: Request,
    /// None for a description.
    describe_id: Option<String>,
    tries: u32,
    how: Variation,
    cost: Nanos,
    read: Option<u64>,
    written: Option<u64>,
    /// For a description: requests for instructions that wait for it.
    waiting: BTreeSet<String>,
}

/// A try in flight.
struct Flight {
    id: String,
    reserved: Option<Reserved>,
    sent: Instant,
    abort: AbortHandle,
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
    open: HashMap<String, Open>,
    ready: BTreeSet<Job>,
    later: Vec<(Instant, Job)>,
    flights: HashMap<u64, Flight>,
    turn: u64,
    /// Outcomes that are being written down.
    writing: usize,
    /// Outcomes that the tables do not have yet.
    handed_out: HashSet<String>,
    known: HashMap<String, Known>,
    /// Descriptions that the tables have, in the order in which they came.
    here: VecDeque<String>,
    at: Standing,
    refused: Option<(String, Instant)>,
    /// The endpoint has taken a request of this process; before it has, so many were bad in a row.
    answered: bool,
    bad_requests: u32,
    spent_before: Nanos,
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
        let Parts { config, prompts, store, library, memo } = parts;
        Work {
            prices: Prices::of(&config),
            pace: Pace::new(config.concurrency),
            config,
            prompts,
            endpoint,
            store,
            library: Arc::new(Mutex::new(library)),
            spent_before: ledger.spent(),
            ledger,
            runtime,
            told,
            handed,
            standing,
            open: HashMap::new(),
            ready: BTreeSet::new(),
            later: Vec::new(),
            flights: HashMap::new(),
            turn: 0,
            writing: 0,
            handed_out: HashSet::new(),
            known: memo.described,
            here: VecDeque::new(),
            at: Standing::default(),
            refused: None,
            answered: false,
            bad_requests: 0,
            began: None,
        }
    }

    pub(super) fn run(mut self, commands: &Receiver<Told>) {
        loop {
            let now = Instant::now();
            let timers = self.later.iter().map(|(at, _)| *at).chain(self.pace.rests_until());
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
            Told::Stop => {}
        }
    }

    fn want(&mut self, requests: Vec<Request>) {
        let mut needed = HashSet::new();
        let mut new = Vec::new();
        for request in requests {
            let id = &request.request_id;
            if !self.open.contains_key(id) && !self.handed_out.contains(id) {
                let describe_id = self.prompts.describe_id(&self.config, &request);
                if self.known.get(&describe_id) == Some(&Known::Stored) {
                    needed.insert(describe_id.clone());
                }
                new.push((request, describe_id));
            }
        }
        let found = lock(&self.library).descriptions(&needed);
        match found {
            Ok(found) => {
                for id in needed {
                    // One that is not there was collected since: it is asked for again.
                    match found.get(&id) {
                        Some(description) => self.hold(id, description.clone()),
                        None => drop(self.known.remove(&id)),
                    }
                }
            }
            Err(error) => {
                tracing::warn!("descriptions cannot be read, and are looked for again: {error:#}");
                let requests = new.into_iter().map(|(request, _)| request).collect();
                self.at.seen = self.at.seen.saturating_sub(1);
                let told = self.told.clone();
                self.runtime.spawn(async move {
                    tokio::time::sleep(limits::ANNOTATOR_DOWN_WAIT.0).await;
                    let _ = told.send(Told::Want(requests));
                });
                return;
            }
        }
        for (request, describe_id) in new {
            self.admit(request, describe_id);
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
        let job = Job { pair: [first, second], turned: is_turned(&request), id: id.clone() };
        let open = Open {
            job: job.clone(),
            request: request.clone(),
            describe_id: Some(describe_id.clone()),
            tries: 0,
            how: Variation::default(),
            cost: 0,
            read: None,
            written: None,
            waiting: BTreeSet::new(),
        };
        self.open.insert(id.clone(), open);
        self.at.pairs += 1;
        match self.known.get(&describe_id) {
            Some(Known::Here(_)) => drop(self.ready.insert(job)),
            Some(Known::Failed) => self.close(&id, Err("no_description")),
            _ => self.describe(request, describe_id, id),
        }
    }

    /// One description for all that wait for it.
    fn describe(&mut self, request: Request, describe_id: String, waiting: String) {
        let [first, second] = ordered(&request).map(|side| side.0);
        let open = self.open.entry(describe_id.clone()).or_insert_with(|| {
            let job = Job { pair: [first, second], turned: false, id: describe_id };
            self.ready.insert(job.clone());
            Open {
                job,
                request,
                describe_id: None,
                tries: 0,
                how: Variation::default(),
                cost: 0,
                read: None,
                written: None,
                waiting: BTreeSet::new(),
            }
        });
        open.waiting.insert(waiting);
    }

    /// Nobody wants it any more: what is in flight is cut off, and what it may cost counts.
    fn forget(&mut self, id: &str) {
        // What is being written down is paid for.
        let closing = |open: &Open| open.tries == u32::MAX;
        if self.open.get(id).is_none_or(closing) {
            return;
        }
        let Some(open) = self.open.remove(id) else { return };
        self.at.pairs -= usize::from(open.describe_id.is_some());
        self.ready.remove(&open.job);
        self.later.retain(|(_, job)| job.id != id);
        let flight = self.flights.iter().find(|(_, flight)| flight.id == id).map(|(turn, _)| *turn);
        if let Some(flight) = flight.and_then(|turn| self.flights.remove(&turn)) {
            flight.abort.abort();
            if let Some(reserved) = flight.reserved {
                let most = reserved.amount();
                self.settle(reserved, most);
            }
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

    fn settle(&mut self, reserved: Reserved, cost: Nanos) {
        if let Err(error) = self.ledger.settle(reserved, cost) {
            tracing::error!("{error:#}: what is open of the budget counts as spent");
        }
    }

    fn start_calls(&mut self) {
        let now = Instant::now();
        let due = |(at, _): &(Instant, Job)| *at <= now;
        let (ready, later) = std::mem::take(&mut self.later).into_iter().partition(due);
        self.later = later;
        self.ready.extend(ready.into_iter().map(|(_, job): (Instant, Job)| job));
        self.at.out_of = None;
        while !self.at.paused
            && self.pace.has_room(self.flights.len(), now)
            && let Some(job) = self.ready.pop_first()
        {
            match self.call(&job) {
                Ok(None) => {}
                Ok(Some(out_of)) => {
                    self.ready.insert(job);
                    // What is in flight may turn out cheaper than it could be.
                    self.at.out_of = Some(out_of);
                    return;
                }
                Err(error) => {
                    tracing::error!("{error:#}: nothing is asked until that works");
                    self.ready.insert(job);
                    self.pace.goes_down(now);
                    return;
                }
            }
        }
    }

    /// Makes a call, or says which budget does not allow it.
    fn call(&mut self, job: &Job) -> anyhow::Result<Option<&'static str>> {
        self.look_up_description(job)?;
        let Some(open) = self.open.get(&job.id) else { return Ok(None) };
        let Some(chat) = self.chat(open) else {
            // Its description has gone meanwhile: it is asked for again.
            let (request, id) = (open.request.clone(), job.id.clone());
            let describe_id = open.describe_id.clone().unwrap_or_default();
            self.known.remove(&describe_id);
            self.describe(request, describe_id, id);
            return Ok(None);
        };
        if self.config.images == 0 && open.describe_id.is_none() {
            let said = |side: &(ContentId, Option<Arc<str>>)| side.1.is_some();
            if !said(&open.request.query) && !said(&open.request.target) {
                self.close(&job.id, Err("no_captions"));
                return Ok(None);
            }
        }
        let (read, written) = chat.most_tokens(&self.config);
        let most = self.prices.cost(read, written);
        let reserved = match self.ledger.reserve(most, now_us())? {
            Draw::Yes(reserved) => reserved,
            Draw::Spent => return Ok(Some("budget")),
            Draw::SpentToday => return Ok(Some("daily_budget")),
        };
        self.began.get_or_insert_with(Instant::now);
        self.turn += 1;
        let (turn, endpoint, told) = (self.turn, self.endpoint.clone(), self.told.clone());
        let (library, id) = (self.library.clone(), job.id.clone());
        let task = self.runtime.spawn(async move {
            let body = tokio::task::spawn_blocking(move || body(&chat, &library)).await;
            let ended = match body {
                Ok(Ok(body)) => endpoint.call(&id, body).await,
                Ok(Err(ended)) => ended,
                Err(error) => Ended::NoStore(error.to_string()),
            };
            let _ = told.send(Told::Ended(turn, ended));
        });
        if let Some(open) = self.open.get_mut(&job.id) {
            open.tries += 1;
        }
        let flight = Flight {
            id: job.id.clone(),
            reserved: Some(reserved),
            sent: Instant::now(),
            abort: task.abort_handle(),
        };
        self.flights.insert(turn, flight);
        Ok(None)
    }

    /// One that waited for so long that its description is in the table only.
    fn look_up_description(&mut self, job: &Job) -> anyhow::Result<()> {
        let id = self.open.get(&job.id).and_then(|open| open.describe_id.clone());
        let Some(id) = id.filter(|id| self.known.get(id) == Some(&Known::Stored)) else {
            return Ok(());
        };
        let found = lock(&self.library).descriptions(&HashSet::from([id.clone()]))?;
        for (id, description) in found {
            self.hold(id, description);
        }
        Ok(())
    }

    fn chat(&self, open: &Open) -> Option<Chat> {
        let (config, request) = (&self.config, &open.request);
        match &open.describe_id {
            None => Some(self.prompts.describe(config, &open.job.id, request, open.how)),
            Some(describe_id) => match self.known.get(describe_id) {
                Some(Known::Here(description)) => {
                    Some(self.prompts.instruct(config, request, description, open.how))
                }
                _ => None,
            },
        }
    }

    fn ended(&mut self, turn: u64, ended: Ended) {
        let Some(mut flight) = self.flights.remove(&turn) else { return };
        self.at.calls += 1;
        let (id, now) = (flight.id.clone(), Instant::now());
        let is_description = self.open.get(&id).is_some_and(|open| open.describe_id.is_none());
        let (bill, verdict) = match is_description {
            true => told(judge(ended.clone(), description), Said::Description),
            false => {
                let (bill, verdict) = judge(ended.clone(), instructions);
                told((bill, without_copies(verdict, &self.prompts)), Said::Instructions)
            }
        };
        if let Some(reserved) = flight.reserved.take() {
            let cost = match bill {
                Bill::Nothing => 0,
                Bill::Tokens(usage) => self.prices.cost(usage.read, usage.written),
                Bill::Most => reserved.amount(),
            };
            self.settle(reserved, cost);
            if let Some(open) = self.open.get_mut(&id) {
                open.cost += cost;
                if let Bill::Tokens(usage) = bill {
                    *open.read.get_or_insert(0) += usage.read;
                    *open.written.get_or_insert(0) += usage.written;
                }
            }
        }
        if let Verdict::Refuses(why) = verdict {
            self.refuses(why, &id, now);
            return;
        }
        let answered = !matches!(verdict, Verdict::Later { .. } | Verdict::Final("bad_request", _));
        self.bad_requests = match &verdict {
            Verdict::Final("bad_request", _) => self.bad_requests.saturating_add(1),
            _ if answered => 0,
            _ => self.bad_requests,
        };
        self.answered |= answered;
        if !self.answered
            && self.bad_requests > limits::ANNOTATOR_BAD_REQUESTS
            && let Verdict::Final(_, why) = verdict
        {
            self.refuses(format!("{why} (does [annotator] ask in a way it takes?)"), &id, now);
            return;
        }
        self.refused = None;
        // What did not get there, or could not be read here, is no request's fault.
        let faultless = matches!(ended, Ended::Unreachable(_) | Ended::NoStore(_));
        let free = bill == Bill::Nothing;
        match &verdict {
            Verdict::Later { after, pushed_back, .. } if *pushed_back => {
                self.pace.pushed_back(flight.sent, now, *after);
            }
            Verdict::Later { .. } => {}
            _ if matches!(ended, Ended::Gone) => {}
            _ => self.pace.answered(flight.sent, now, self.flights.len()),
        }
        self.decide(&id, verdict, now, (faultless, free));
    }

    /// The key, the model or the account: no request is to blame, and all wait.
    fn refuses(&mut self, why: String, id: &str, now: Instant) {
        if self.refused.as_ref().is_none_or(|(before, _)| *before != why) {
            tracing::error!("the annotator's endpoint refuses: {why}");
        }
        let since = self.refused.take().map_or(now, |(_, since)| since);
        self.refused = Some((why, since));
        self.pace.goes_down(now);
        // Another request is tried before it: it may be this one alone that is refused.
        self.again(id, now, limits::ANNOTATOR_DOWN_WAIT.0, true);
    }

    fn again(&mut self, id: &str, now: Instant, wait: Duration, not_counted: bool) {
        let Some(open) = self.open.get_mut(id) else { return };
        if not_counted {
            open.tries = open.tries.saturating_sub(1);
        }
        self.later.push((now + wait, open.job.clone()));
    }

    /// `faultless`: the request has no part in it; `free`: the try has cost nothing.
    fn decide(
        &mut self,
        id: &str,
        verdict: Verdict<Said>,
        now: Instant,
        (faultless, free): (bool, bool),
    ) {
        let Some(open) = self.open.get_mut(id) else { return };
        match verdict {
            Verdict::Answer(said) => self.close(id, Ok(said)),
            Verdict::Final(outcome, why) => {
                tracing::debug!(request_id = id, outcome, "no answer: {why}");
                self.close(id, Err(outcome));
            }
            Verdict::Differently(change, outcome, why) => {
                let done = match change {
                    Change::Repair => &mut open.how.repair,
                    Change::Longer => &mut open.how.longer,
                    Change::Plain => &mut open.how.plain,
                };
                if std::mem::replace(done, true) {
                    tracing::debug!(request_id = id, outcome, "no answer: {why}");
                    self.close(id, Err(outcome));
                } else {
                    self.again(id, now, Duration::ZERO, false);
                }
            }
            Verdict::Later { outcome, why, after, .. } => {
                let tries = open.tries;
                // A try that may have cost counts, however the endpoint is.
                let (was_down, down) = (self.pace.is_down(), self.pace.failed(now));
                if down && !was_down {
                    tracing::warn!("the annotator's endpoint is down: {why}");
                }
                self.at.failure = Some(why.clone());
                let spared = faultless || (down && free);
                if tries >= self.config.attempts && !spared {
                    tracing::warn!(request_id = id, outcome, "no answer in {tries} tries: {why}");
                    self.close(id, Err(outcome));
                    return;
                }
                let dice = Dice::of(id, "backoff").number(tries as usize) as f64 / u64::MAX as f64;
                self.again(id, now, backoff(tries, after, dice), spared);
            }
            Verdict::Refuses(_) => {}
        }
    }

    /// A request has ended: its outcome is written down.
    fn close(&mut self, id: &str, said: Result<Said, &'static str>) {
        let Some(open) = self.open.get_mut(id) else { return };
        // It is neither asked again nor given up from here on.
        open.tries = u32::MAX;
        let row = row(&self.config, &self.prompts, &self.known, open, said);
        self.write(Box::new(row));
    }

    fn write(&mut self, row: Box<AnnotationRow>) {
        self.writing += 1;
        let (store, told) = (self.store.clone(), self.told.clone());
        self.runtime.spawn_blocking(move || {
            let result = journal::write(&store, &row).map_err(|error| format!("{error:#}"));
            let _ = told.send(Told::Written(row, result));
        });
    }

    fn written(&mut self, row: AnnotationRow, result: Result<(), String>) {
        self.writing -= 1;
        if let Err(why) = result {
            // It is paid for, and must not be lost: the store has tried for minutes already.
            tracing::error!("{why}: an answer waits for the store");
            self.write(Box::new(row));
            return;
        }
        let open = self.open.remove(&row.request_id);
        if open.as_ref().is_some_and(|open| open.describe_id.is_some()) {
            self.at.pairs -= 1;
            self.at.pairs_ended += 1;
        }
        if row.task == DESCRIBE {
            let parts = Description::of_parts(&row.instructions).filter(|_| row.outcome == "ok");
            let failed = parts.is_none();
            match parts {
                Some(description) => self.hold(row.request_id.clone(), description),
                None => drop(self.known.insert(row.request_id.clone(), Known::Failed)),
            }
            for id in open.into_iter().flat_map(|open| open.waiting) {
                match self.open.get(&id) {
                    Some(_) if failed => self.close(&id, Err("no_description")),
                    Some(open) => drop(self.ready.insert(open.job.clone())),
                    None => {}
                }
            }
        }
        self.at.outcomes += 1;
        self.handed_out.insert(row.request_id.clone());
        // Whoever took them has ended, and so will this.
        let _ = self.handed.send(row);
    }

    fn show(&mut self) {
        let now = Instant::now();
        let spent = self.ledger.spent();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        self.at.asking_seconds = self.began.map_or(0.0, |began| (now - began).as_secs_f64());
        self.at.in_flight = self.flights.len() + self.writing;
        self.at.limit = self.pace.limit();
        self.at.spent = usd(spent);
        self.at.spent_now = usd(spent.saturating_sub(self.spent_before));
        self.at.refused = self.refused.as_ref().map(|(why, _)| why.clone());
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

/// The body of a request, with its images.
fn body(chat: &Chat, library: &Mutex<Box<dyn Library>>) -> Result<Vec<u8>, Ended> {
    let mut jpegs = Vec::with_capacity(chat.images.len());
    for (_, content) in &chat.images {
        match lock(library).picture(content) {
            Ok(Some(jpeg)) => jpegs.push(jpeg),
            Ok(None) => return Err(Ended::Gone),
            Err(error) => return Err(Ended::NoStore(format!("{error:#}"))),
        }
    }
    Ok(chat.body(&jpegs))
}

fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
}
