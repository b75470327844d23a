//! What the service counts and how long its boxes take: written to `_everpair/status.json`, and
//! what the console shows.
//!
//! Writers are the service's threads, on their way; they hold no lock while they work or wait.

mod flow;
pub mod histogram;
pub mod names;
mod pulse;
pub mod restoring;
mod scrape;
pub mod text;
mod timed;
pub mod turned;
mod upkept;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use operators::{neighbors::Counters, publish::EpochChanges};
use schemas::{
    Epoch,
    message::Record,
    tables::{AnnotationRow, RejectRow, Table},
};
use serde_json::{Map, Value, json};

pub use self::{
    flow::{Flow, Load, Partition, Place},
    pulse::{Pulse, Threads},
    timed::timed,
    turned::TurnedAway,
};
use self::{histogram::Histogram, restoring::Restoring, turned::top_reasons};
use crate::{
    annotator::openai::Standing,
    delta::{EpochCommit, Latest, Publisher, Store},
    service::commit::Counts,
    source::{Offsets, SourceView},
};

/// Where the counters of the newest run stand.
pub const STATUS: &str = "_everpair/status.json";

/// How often the source is looked at.
const VIEW_EVERY: Duration = Duration::from_secs(1);

/// What the service is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Taking over the tables.
    Opening,
    /// Reading the tables, and working out what they should say.
    Restoring,
    /// Following the source.
    Running,
    /// Committing what is open, to end then.
    Stopping,
    /// Removing what was taken down; the service starts again behind.
    Collecting,
    /// Taking what no live image has out of the memos; the service starts again behind.
    Forgetting,
}

impl Phase {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Opening => "opening",
            Phase::Restoring => "restoring",
            Phase::Running => "running",
            Phase::Stopping => "stopping",
            Phase::Collecting => "collecting",
            Phase::Forgetting => "forgetting",
        }
    }
}

/// One run's counters.
pub struct Metrics {
    store: Store,
    began: Instant,
    started_at: SystemTime,
    phase: Mutex<Phase>,
    threads: Threads,
    flow: Mutex<Flow>,
    page: Mutex<Page>,
    commit_seconds: Histogram,
    asked: AtomicU64,
    restoring: Restoring,
    counters: Arc<Counters>,
    boxes: Mutex<BTreeMap<String, (Duration, u64)>>,
    encoded: Mutex<BTreeMap<String, (Duration, u64)>>,
    commits: Mutex<Commits>,
    upkept: Mutex<upkept::Upkept>,
    waiting: AtomicUsize,
    standing: Mutex<Option<Standing>>,
    records: AtomicU64,
}

#[derive(Default)]
struct Commits {
    epoch: Epoch,
    epochs: u64,
    seconds: f64,
    steps: Counts,
    tables: BTreeMap<String, (usize, u64, usize)>,
}

/// What the tables show at the newest commit, kept without reading them.
#[derive(Default)]
struct Page {
    latest: Option<Latest>,
    tables: BTreeMap<String, Size>,
    /// Rows of `rejects`.
    rejects: TurnedAway,
    /// Those that this process added.
    new_rejects: TurnedAway,
    new_answers: BTreeMap<String, u64>,
    moved: BTreeMap<String, (u64, u64)>,
    epochs: u64,
    committed_at: Option<SystemTime>,
}

#[derive(Clone, Copy, Default)]
struct Size {
    rows: u64,
    files: usize,
    bytes: u64,
    version: u64,
}

/// What an epoch does, counted before it is committed and added up when it is.
#[derive(Default)]
pub struct Tally {
    rejects: TurnedAway,
    answers: BTreeMap<String, u64>,
    moved: BTreeMap<String, (u64, u64)>,
}

impl Tally {
    /// Rejects by stage and reason, answers by outcome.
    pub fn of(changes: &EpochChanges) -> Tally {
        let mut tally = Tally::default();
        for RejectRow { stage, reason, .. } in &changes.rejects {
            *tally.rejects.entry((stage.clone(), reason.clone())).or_default() += 1;
        }
        for AnnotationRow { outcome, .. } in &changes.annotations {
            *tally.answers.entry(outcome.clone()).or_default() += 1;
        }
        tally
    }

    /// The rejects, and the most frequent reasons, in words.
    pub fn turned_away(&self) -> (u64, String) {
        top_reasons(self.rejects.iter().map(|((_, reason), count)| (reason.as_str(), *count)))
    }

    /// Rows that come and go, by table.
    pub fn rows(&mut self, commit: &EpochCommit) {
        for (table, change) in &commit.changes {
            let inserted = change.insert.iter().map(|batch| batch.num_rows() as u64).sum();
            self.moved.insert(table.clone(), (inserted, change.delete.len() as u64));
        }
    }
}

fn locked<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters that a panicking thread left are as good as any.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    /// Counters at zero.
    pub fn new(store: Store, counters: Arc<Counters>) -> Metrics {
        let began = Instant::now();
        Metrics {
            store,
            began,
            started_at: SystemTime::now(),
            phase: Mutex::new(Phase::Opening),
            threads: Threads::new(began),
            flow: Mutex::default(),
            page: Mutex::default(),
            commit_seconds: Histogram::default(),
            asked: AtomicU64::new(0),
            restoring: Restoring::default(),
            counters,
            boxes: Mutex::default(),
            encoded: Mutex::default(),
            commits: Mutex::default(),
            upkept: Mutex::default(),
            waiting: AtomicUsize::new(0),
            standing: Mutex::default(),
            records: AtomicU64::new(0),
        }
    }

    /// A box ran for so long.
    pub fn ran(&self, name: &str, elapsed: Duration) {
        add(&self.boxes, name, elapsed, 1);
    }

    /// An encoder made so many vectors.
    pub fn encoded(&self, channel: &str, elapsed: Duration, count: u64) {
        add(&self.encoded, channel, elapsed, count);
    }

    /// The service has come to another phase; it never goes back.
    pub fn enter(&self, phase: Phase) {
        let mut held = locked(&self.phase);
        *held = phase.max(*held);
    }

    /// What the service is at.
    pub fn phase(&self) -> Phase {
        *locked(&self.phase)
    }

    /// A thread of this name begins; it ends when the pulse is dropped.
    pub fn pulse(&self, name: &str) -> Pulse {
        self.threads.pulse(name)
    }

    /// How long ago each thread last said that it lives; `None` if it has ended.
    pub fn threads(&self) -> BTreeMap<String, Option<Duration>> {
        self.threads.ages()
    }

    /// What is between the source and the tables. Hold it for a moment only.
    pub fn flow(&self) -> MutexGuard<'_, Flow> {
        locked(&self.flow)
    }

    /// This start has so many rows of the tables to read, and images among them.
    pub fn will_restore(&self, rows: u64, images: u64) {
        self.restoring.expect(rows, images);
        self.say_restoring();
    }

    /// So many more rows of the tables, or images, were read by this start.
    pub fn restored(&self, rows: usize, of_images: bool) {
        self.restoring.read(rows, of_images);
    }

    /// How far this start is, in words, while there is something to restore.
    pub fn restoring(&self) -> Option<String> {
        let restoring = self.phase() == Phase::Restoring;
        self.restoring.words(&self.counters).filter(|_| restoring)
    }

    /// Logs it.
    pub fn say_restoring(&self) {
        if let Some(words) = self.restoring() {
            let rows = self.restored_rows();
            tracing::info!(rows, "restoring: {words}");
        }
    }

    /// The tables as this start found them, with the rows of `rejects` by stage and reason.
    pub fn opened(
        &self,
        publisher: &Publisher,
        latest: Option<Latest>,
        rejects: TurnedAway,
        next: Offsets,
    ) -> anyhow::Result<()> {
        self.flow().begin(next);
        let mut page = locked(&self.page);
        (page.latest, page.rejects) = (latest, rejects);
        for table in publisher.tables() {
            page.tables.entry(table.name().to_owned()).or_default().rows = table.rows()?;
        }
        page.measure(publisher);
        Ok(())
    }

    /// A message was taken from the source.
    pub fn read(&self, record: &Record) {
        self.flow().read(record);
    }

    /// Whether it is time for [`Metrics::saw`].
    pub fn wants_view(&self) -> bool {
        self.flow().is_stale(VIEW_EVERY)
    }

    /// The source as it is now.
    pub fn saw(&self, view: SourceView) {
        self.flow().saw(view);
    }

    /// Messages became an epoch.
    pub fn cut(&self, epoch: Epoch, records: &[Record]) {
        self.records.fetch_add(records.len() as u64, Ordering::Relaxed);
        self.flow().cut(epoch, records);
    }

    /// An epoch is done with; without `latest` it left no trace.
    pub fn committed(
        &self,
        epoch: Epoch,
        counts: &Counts,
        tally: Tally,
        took: Duration,
        publisher: &Publisher,
        latest: Option<&Latest>,
    ) {
        self.flow().committed(epoch, latest.map(|latest| offsets(&latest.offsets)));
        if let Some(latest) = latest {
            self.commit_seconds.observe(took);
            let mut page = locked(&self.page);
            page.add(tally);
            page.latest = Some(latest.clone());
            page.measure(publisher);
            page.epochs += 1;
            page.committed_at = Some(SystemTime::now());
        }
        let mut commits = locked(&self.commits);
        commits.epoch = epoch;
        commits.epochs += 1;
        commits.seconds += took.as_secs_f64();
        commits.steps.images += counts.images;
        commits.steps.pairs += counts.pairs;
        commits.steps.triplets += counts.triplets;
        commits.steps.rejects += counts.rejects;
        commits.steps.annotations += counts.annotations;
        commits.steps.moved_keys += counts.moved_keys;
        commits.tables = publisher
            .tables()
            .iter()
            .map(|table| {
                let (files, bytes) = table.size();
                (table.name().to_owned(), (files, bytes, table.len()))
            })
            .collect();
    }

    /// So many requests were given to the annotator.
    pub fn asked(&self, requests: usize) {
        self.asked.fetch_add(requests as u64, Ordering::Relaxed);
    }

    /// Where a client of a model stands.
    pub fn stands(&self, at: Option<Standing>) {
        *locked(&self.standing) = at;
    }

    /// What the tables hold at the newest commit, in the form of `everpair status --json` but for
    /// `run` and `benchmarks`. No table is read.
    pub fn page(&self) -> Value {
        let page = locked(&self.page);
        let Some(latest) = &page.latest else { return json!({ "epoch": null, "tables": {} }) };
        let tables = page.tables.iter().map(|(name, size)| {
            let Size { rows, files, bytes, version } = size;
            let value = json!({ "rows": rows, "files": files, "bytes": bytes, "version": version });
            (name.clone(), value)
        });
        let mut rejects: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, reason), count) in &page.rejects {
            *rejects.entry(reason).or_default() += count;
        }
        json!({
            "epoch": latest.epoch,
            "generation": latest.generation,
            "offsets": latest.offsets,
            "in_force": latest.info.get("in_force"),
            "tables": tables.collect::<Map<_, _>>(),
            "rejects": rejects,
        })
    }

    /// Rows read by this start.
    pub fn restored_rows(&self) -> u64 {
        self.restoring.rows_read()
    }

    /// What this process turned away and committed.
    pub fn turned_away(&self) -> TurnedAway {
        locked(&self.page).new_rejects.clone()
    }

    /// When the newest epoch of this process was committed.
    pub fn committed_at(&self) -> Option<SystemTime> {
        locked(&self.page).committed_at
    }

    /// How long this has been running.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Pairs that wait for an answer.
    pub fn waiting(&self, requests: usize) {
        self.waiting.store(requests, Ordering::Relaxed);
    }

    /// Everything, as `status --json` shows it.
    pub fn snapshot(&self) -> Value {
        let per = |times: &Mutex<BTreeMap<String, (Duration, u64)>>| -> Value {
            let Ok(times) = times.lock() else { return Value::Null };
            let rows = times.iter().map(|(name, (elapsed, count))| {
                (name.clone(), json!({ "seconds": elapsed.as_secs_f64(), "count": count }))
            });
            Value::Object(rows.collect())
        };
        let Ok(commits) = self.commits.lock() else { return Value::Null };
        let tables = commits.tables.iter().map(|(name, (files, bytes, keys))| {
            (name.clone(), json!({ "files": files, "bytes": bytes, "keys": keys }))
        });
        json!({
            "epoch": commits.epoch,
            "epochs_committed": commits.epochs,
            "run_seconds": self.began.elapsed().as_secs_f64(),
            "records": self.records.load(Ordering::Relaxed),
            "keys_moved_between_partitions": commits.steps.moved_keys,
            "requests_waiting": self.waiting.load(Ordering::Relaxed),
            "annotator": *locked(&self.standing),
            "steps": {
                "images": commits.steps.images,
                "pairs": commits.steps.pairs,
                "triplets": commits.steps.triplets,
                "rejects": commits.steps.rejects,
                "annotations": commits.steps.annotations,
            },
            "publish": { "seconds": commits.seconds, "count": commits.epochs },
            "stages": self.stages(commits.seconds).into_iter().collect::<BTreeMap<_, _>>(),
            "boxes": per(&self.boxes),
            "encoders": per(&self.encoded),
            "mining": self.mining(),
            "tables": Value::Object(tables.collect()),
        })
    }

    /// Seconds of all threads together, by stage.
    fn stages(&self, publish: f64) -> [(&'static str, f64); 5] {
        let sum = |of: &Mutex<BTreeMap<String, (Duration, u64)>>, names: &[&str]| -> f64 {
            let of = locked(of);
            let named = of.iter().filter(|(name, _)| names.iter().any(|n| name.starts_with(n)));
            named.map(|(_, (elapsed, _))| *elapsed).sum::<Duration>().as_secs_f64()
        };
        [
            ("decode", sum(&self.boxes, &["Decode"])),
            ("embed", sum(&self.encoded, &["semantic", "pattern", "caption"])),
            ("neighbors", sum(&self.boxes, &["Neighbors"])),
            ("pairs", sum(&self.boxes, &["Pairs"])),
            ("publish", publish),
        ]
    }

    fn mining(&self) -> Value {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        json!({
            "dot_products": get(&counters.dot_products),
            "rescan_dot_products": get(&counters.rescan_dot_products),
            "rescans": get(&counters.rescans),
            "guard_checks": get(&counters.guard_checks),
            "remembered_images": get(&counters.remembered),
            "rows_per_worker": counters.rows.iter().map(get).collect::<Vec<_>>(),
        })
    }

    /// Writes [`STATUS`].
    pub fn write(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&self.snapshot()).context("status is JSON")?;
        self.store.replace(STATUS, text).context("write the status")
    }
}

impl Page {
    fn add(&mut self, tally: Tally) {
        for (why, count) in tally.rejects {
            *self.rejects.entry(why.clone()).or_default() += count;
            *self.new_rejects.entry(why).or_default() += count;
        }
        for (outcome, count) in tally.answers {
            *self.new_answers.entry(outcome).or_default() += count;
        }
        for (table, (inserted, deleted)) in tally.moved {
            let rows = &mut self.tables.entry(table.clone()).or_default().rows;
            *rows = (*rows + inserted).saturating_sub(deleted);
            let moved = self.moved.entry(table).or_default();
            *moved = (moved.0 + inserted, moved.1 + deleted);
        }
    }

    /// Files and versions; of a table with a key the rows too, of the others rows are added up.
    fn measure(&mut self, publisher: &Publisher) {
        for table in publisher.tables() {
            let size = self.tables.entry(table.name().to_owned()).or_default();
            (size.files, size.bytes) = table.size();
            size.version = table.version();
            if !table.spec().key.is_empty() {
                size.rows = table.len() as u64;
            }
        }
    }

    fn rows(&self, table: Table) -> u64 {
        self.tables.get(table.as_str()).map_or(0, |size| size.rows)
    }
}

/// The offsets of a page as the service has them.
pub fn offsets(shown: &BTreeMap<String, BTreeMap<String, i64>>) -> Offsets {
    let mut offsets = Offsets::new();
    for (topic, partitions) in shown {
        let topic: Arc<str> = topic.as_str().into();
        for (partition, next) in partitions {
            if let Ok(partition) = partition.parse() {
                offsets.insert((topic.clone(), partition), *next);
            }
        }
    }
    offsets
}

fn add(to: &Mutex<BTreeMap<String, (Duration, u64)>>, name: &str, elapsed: Duration, count: u64) {
    let Ok(mut to) = to.lock() else { return };
    if let Some(entry) = to.get_mut(name) {
        entry.0 += elapsed;
        entry.1 += count;
    } else {
        to.insert(name.to_owned(), (elapsed, count));
    }
}
