//! Fetching: a source in front of which messages that are references get their bytes.
//!
//! ```text
//!  source ─► partition 0: ready, ready, ready ──────────────────► epochs
//!            partition 1: on its way, ready, on its way, ready
//! ```
//!
//! A record waits for its bytes, and those behind it in its partition wait in order; other
//! partitions go on. What is read ahead is bounded in records and bytes, requests in flight and per
//! host. What cannot be had is a message that is turned away, with the reason, never a stop: the
//! longest that one record holds up its partition is `attempts` times `timeout`, and the waits
//! between. What was handed on and is committed is never fetched again; the rest is, after a
//! restart. [`guard`] says what may be fetched.

mod budget;
mod folder;
pub mod guard;
mod http;
mod object;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use schemas::{
    config::{Config, Scheme},
    limits,
    message::{self, Fetched, KeySource, Record},
    reject::Reason,
};
use tokio::{runtime::Runtime, sync::Semaphore};
use url::Url;

pub use self::http::retry_after;
use self::{
    budget::{Budget, Held},
    folder::Folders,
    guard::{Names, Rules, SystemNames, shown},
    http::Http,
    object::Objects,
};
use crate::source::{self, Offsets, Polled, Source, SourceError, SourceView, witness::Witnesses};

/// How long to wait for bytes before the source is asked again for what else there is.
const NAP: Duration = Duration::from_millis(5);

/// The source itself, or with [`Fetching`] in front where the config allows any scheme.
pub fn in_front_of(source: Box<dyn Source>, config: &Config) -> anyhow::Result<Box<dyn Source>> {
    if config.fetch.schemes.is_empty() {
        return Ok(source);
    }
    let fetcher = Fetcher::new(config, Arc::new(SystemNames))?;
    Ok(Box::new(Fetching::new(source, config.source.key.clone(), fetcher)?))
}

/// The config's source from `next` on, which must have the `known` records still, with [`Fetching`]
/// in front where anything may be fetched.
pub fn open(config: &Config, next: &Offsets, known: Witnesses) -> anyhow::Result<Box<dyn Source>> {
    in_front_of(source::open_same(&config.source, next, known)?, config)
}

/// Gets bytes, by the rules of the config.
pub struct Fetcher {
    rules: Arc<Rules>,
    http: Http,
    objects: Objects,
    folders: Folders,
    bytes_max: usize,
    timeout: Duration,
    attempts: usize,
    per_host: usize,
    in_flight: Semaphore,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    budget: Arc<Budget>,
}

/// Why a try ended without the bytes.
enum Failure {
    /// Another try would end alike.
    Final(Reason, String),
    /// Another try may help, after so long if the server said it.
    Again(String, Option<Duration>),
}

/// The time of one try. Waiting for room in memory is not the server's fault and not counted.
struct Clock {
    limit: Duration,
    left: Duration,
}

impl Clock {
    async fn run<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let began = Instant::now();
        let done = tokio::time::timeout(self.left, work).await;
        self.left = self.left.saturating_sub(began.elapsed());
        done.map_err(|_| {
            Failure::Again(format!("took longer than [fetch] timeout, {:?}", self.limit), None)
        })
    }
}

/// The bytes of one try.
struct Body {
    bytes: Vec<u8>,
    held: Held,
    max: usize,
}

impl Body {
    /// The server says how long it is.
    fn announced(&self, bytes: u64) -> Result<(), Failure> {
        if bytes > self.max as u64 {
            let why = format!("{bytes} bytes are more than the limit of {}", self.max);
            return Err(Failure::Final(Reason::TooManyBytes, why));
        }
        Ok(())
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        if self.bytes.len() + chunk.len() > self.max {
            let why = format!("more bytes than the limit of {}", self.max);
            return Err(Failure::Final(Reason::TooManyBytes, why));
        }
        self.held.grow(chunk.len()).await;
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

impl Fetcher {
    /// Ready to fetch what `[fetch]` allows; `names` resolves hosts.
    ///
    /// # Errors
    /// There are no certificates to check servers by.
    pub fn new(config: &Config, names: Arc<dyn Names>) -> anyhow::Result<Fetcher> {
        let fetch = &config.fetch;
        let rules = Arc::new(Rules::new(fetch));
        let http = Http::new(rules.clone(), names, fetch.respect_opt_out)
            .context("[fetch] needs an HTTP client (are the system's certificates installed?)")?;
        Ok(Fetcher {
            rules,
            http,
            objects: Objects::new(&fetch.settings),
            folders: Folders(fetch.folders.iter().map(Into::into).collect()),
            bytes_max: fetch.bytes_max.unwrap_or(config.screen.encoded_bytes_max),
            timeout: fetch.timeout,
            attempts: fetch.attempts,
            per_host: fetch.per_host,
            in_flight: Semaphore::new(fetch.in_flight),
            hosts: Mutex::default(),
            budget: Budget::new(limits::FETCH_AHEAD_BYTES),
        })
    }

    /// What is behind `uri`; `turn` is its place among all that was asked for.
    async fn fetch(&self, turn: u64, uri: &str) -> (Fetched, Held) {
        match self.all_tries(turn, uri).await {
            Ok(body) => (Fetched::Bytes(body.bytes), body.held),
            Err((reason, why)) => (Fetched::Failed(reason, why), Held::taken(&self.budget, 0)),
        }
    }

    async fn all_tries(&self, turn: u64, uri: &str) -> Result<Body, (Reason, String)> {
        let admitted = self.rules.admit(uri);
        let (scheme, url) = admitted.map_err(|why| (Reason::UriNotAllowed, why.0))?;
        let host = self.host(&url);
        let mut tries = 0;
        loop {
            tries += 1;
            let ended = {
                // Not closed as long as this lives, so both are got.
                let _host = host.acquire().await;
                let _one = self.in_flight.acquire().await;
                self.one_try(turn, scheme, &url).await
            };
            let told = |why: String| format!("{}: {why}", shown(uri));
            match ended {
                Ok(body) => return Ok(body),
                Err(Failure::Final(reason, why)) => return Err((reason, told(why))),
                Err(Failure::Again(why, _)) if tries >= self.attempts => {
                    let why = format!("{why}, {tries} tries");
                    return Err((Reason::FetchFailed, told(why)));
                }
                Err(Failure::Again(_, after)) => {
                    tokio::time::sleep(backoff(tries, after)).await;
                }
            }
        }
    }

    async fn one_try(&self, turn: u64, scheme: Scheme, url: &Url) -> Result<Body, Failure> {
        let held = Held::reading(&self.budget, turn);
        let mut body = Body { bytes: Vec::new(), held, max: self.bytes_max };
        let mut clock = Clock { limit: self.timeout, left: self.timeout };
        match scheme {
            Scheme::Https | Scheme::Http => self.http.get(url, &mut clock, &mut body).await?,
            Scheme::S3 | Scheme::Gs | Scheme::Az => {
                self.objects.get(url, &mut clock, &mut body).await?;
            }
            Scheme::File => self.folders.get(url, &mut clock, &mut body).await?,
        }
        body.held.read();
        Ok(body)
    }

    /// Turns at a host. Redirects to others do not count there.
    fn host(&self, url: &Url) -> Arc<Semaphore> {
        let name = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= limits::FETCH_HOSTS {
            hosts.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        hosts.entry(name).or_insert_with(|| Arc::new(Semaphore::new(self.per_host))).clone()
    }
}

/// How long to wait after so many tries: twice as long each time, never the same for two, and not
/// before a server wants to see us again, within bounds.
fn backoff(tries: usize, after: Option<Duration>) -> Duration {
    let (least, most) = limits::FETCH_BACKOFF;
    let doubled = least.saturating_mul(1 << tries.min(16));
    let share = f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX);
    doubled.mul_f64(0.5 + share / 2.0).max(after.unwrap_or_default()).min(most)
}

type Place = (Arc<str>, i32);

/// The turn of a request, and what came of it.
type Done = (u64, Fetched, Held);

/// What came from the source and was not handed on yet.
enum Slot {
    /// May go when all before it have gone.
    Ready(Polled, #[expect(dead_code, reason = "gives its bytes back when this goes")] Held),
    /// Its bytes are on their way.
    Waiting(u64, Record),
}

/// A source whose references come with their bytes.
pub struct Fetching {
    inner: Box<dyn Source>,
    key: KeySource,
    fetcher: Arc<Fetcher>,
    runtime: Option<Runtime>,
    done: (Sender<Done>, Receiver<Done>),
    /// By partition, in order; no queue is empty.
    queues: BTreeMap<Place, VecDeque<Slot>>,
    rows: usize,
    /// Where the bytes belong that are on their way.
    waiting: HashMap<u64, Place>,
    turn: u64,
}

impl Fetching {
    /// Reads from `inner`; `key` is the config's `[source] key`.
    pub fn new(inner: Box<dyn Source>, key: KeySource, fetcher: Fetcher) -> anyhow::Result<Self> {
        // One thread: turns at a host are then taken in the order of reading, and what others wait
        // for comes first.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fetch")
            .enable_all()
            .build()
            .context("start the threads that fetch")?;
        Ok(Fetching {
            inner,
            key,
            fetcher: Arc::new(fetcher),
            runtime: Some(runtime),
            done: mpsc::channel(),
            queues: BTreeMap::new(),
            rows: 0,
            waiting: HashMap::new(),
            turn: 0,
        })
    }

    fn has_room(&self) -> bool {
        self.rows < limits::FETCH_AHEAD_ROWS && self.fetcher.budget.has_room()
    }

    /// The first of some queue, if it is ready.
    fn take(&mut self) -> Option<Polled> {
        let ready = |queue: &VecDeque<Slot>| matches!(queue.front(), Some(Slot::Ready(..)));
        let place = self.queues.iter().find(|(_, queue)| ready(queue))?.0.clone();
        let queue = self.queues.get_mut(&place)?;
        let Some(Slot::Ready(polled, _)) = queue.pop_front() else { return None };
        if queue.is_empty() {
            self.queues.remove(&place);
        }
        self.rows -= 1;
        Some(polled)
    }

    /// Takes in what the source gave; gives it back if nothing has to wait.
    fn admit(&mut self, polled: Polled) -> Option<Polled> {
        let place = match &polled {
            Polled::Idle => return Some(polled),
            Polled::Record(record) => (record.position.topic.clone(), record.position.partition),
            Polled::Progress { topic, partition, .. } => (topic.clone(), *partition),
        };
        let slot = match polled {
            Polled::Record(record) => match message::reference(&record, &self.key) {
                Some(uri) => {
                    self.begin(uri, place.clone());
                    Slot::Waiting(self.turn, record)
                }
                None => Slot::Ready(Polled::Record(record), Held::taken(&self.fetcher.budget, 0)),
            },
            polled => Slot::Ready(polled, Held::taken(&self.fetcher.budget, 0)),
        };
        let slot = match slot {
            Slot::Ready(polled, _) if !self.queues.contains_key(&place) => return Some(polled),
            Slot::Ready(Polled::Record(record), _) => {
                let held = Held::taken(&self.fetcher.budget, record.bytes());
                Slot::Ready(Polled::Record(record), held)
            }
            slot => slot,
        };
        self.queues.entry(place).or_default().push_back(slot);
        self.rows += 1;
        None
    }

    fn begin(&mut self, uri: String, place: Place) {
        self.turn += 1;
        let (turn, fetcher, done) = (self.turn, self.fetcher.clone(), self.done.0.clone());
        self.waiting.insert(turn, place);
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                let (fetched, held) = fetcher.fetch(turn, &uri).await;
                // Nobody waits any more if the service ends.
                let _ = done.send((turn, fetched, held));
            });
        }
    }

    fn settle(&mut self, (turn, fetched, held): Done) {
        let queue = self.waiting.remove(&turn).and_then(|place| self.queues.get_mut(&place));
        for slot in queue.into_iter().flatten() {
            if let Slot::Waiting(at, record) = slot
                && *at == turn
            {
                record.fetched = Some(fetched);
                let position = record.position.clone();
                let empty = Record::new(position, None, None, Vec::new());
                let record = std::mem::replace(record, empty);
                *slot = Slot::Ready(Polled::Record(record), held);
                return;
            }
        }
    }
}

impl Source for Fetching {
    fn poll(&mut self, wait: Duration) -> Result<Polled, SourceError> {
        let deadline = Instant::now() + wait;
        loop {
            while let Ok(done) = self.done.1.try_recv() {
                self.settle(done);
            }
            if let Some(polled) = self.take() {
                return Ok(polled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut idle = true;
            if self.has_room() {
                let wait = if self.waiting.is_empty() { left } else { Duration::ZERO };
                match self.inner.poll(wait)? {
                    Polled::Idle => {}
                    polled => match self.admit(polled) {
                        Some(polled) => return Ok(polled),
                        None => idle = false,
                    },
                }
            } else {
                self.inner.hold(Duration::ZERO)?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Polled::Idle);
            }
            if idle
                && !self.waiting.is_empty()
                && let Ok(done) = self.done.1.recv_timeout(left.min(NAP))
            {
                self.settle(done);
            }
        }
    }

    fn hold(&mut self, wait: Duration) -> Result<(), SourceError> {
        self.inner.hold(wait)
    }

    fn end_offsets(&mut self) -> Result<Offsets, SourceError> {
        self.inner.end_offsets()
    }

    fn view(&mut self) -> SourceView {
        self.inner.view()
    }

    fn committed(&mut self, next: &Offsets) {
        self.inner.committed(next);
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // What is on its way is fetched again by the next run.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
