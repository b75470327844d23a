//! What the service counts and how long its boxes take, written to `_everpair/status.json`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use kernels::{
    decode::Pixels,
    encoders::{ImageEncoder, TextEncoder},
};
use operators::{embed::Encoders, neighbors::Counters};
use schemas::Epoch;
use serde_json::{Value, json};

use crate::{
    delta::{Publisher, Store},
    service::commit::Counts,
};

/// Where the counters of the newest run stand.
pub const STATUS: &str = "_everpair/status.json";

/// One run's counters.
pub struct Metrics {
    store: Store,
    began: Instant,
    counters: Arc<Counters>,
    boxes: Mutex<BTreeMap<String, (Duration, u64)>>,
    encoded: Mutex<BTreeMap<String, (Duration, u64)>>,
    commits: Mutex<Commits>,
    waiting: AtomicUsize,
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

impl Metrics {
    /// Counters at zero.
    pub fn new(store: Store, counters: Arc<Counters>) -> Metrics {
        Metrics {
            store,
            began: Instant::now(),
            counters,
            boxes: Mutex::default(),
            encoded: Mutex::default(),
            commits: Mutex::default(),
            waiting: AtomicUsize::new(0),
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

    /// So many messages were fed.
    pub fn fed(&self, records: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// An epoch is committed.
    pub fn committed(&self, epoch: Epoch, counts: &Counts, took: Duration, publisher: &Publisher) {
        let Ok(mut commits) = self.commits.lock() else { return };
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
            "steps": {
                "images": commits.steps.images,
                "pairs": commits.steps.pairs,
                "triplets": commits.steps.triplets,
                "rejects": commits.steps.rejects,
                "annotations": commits.steps.annotations,
            },
            "publish": { "seconds": commits.seconds, "count": commits.epochs },
            "stages": self.stages(commits.seconds),
            "boxes": per(&self.boxes),
            "encoders": per(&self.encoded),
            "mining": self.mining(),
            "tables": Value::Object(tables.collect()),
        })
    }

    /// Seconds of all threads together, by stage.
    fn stages(&self, publish: f64) -> Value {
        let sum = |of: &Mutex<BTreeMap<String, (Duration, u64)>>, names: &[&str]| -> f64 {
            let Ok(of) = of.lock() else { return 0.0 };
            let named = of.iter().filter(|(name, _)| names.iter().any(|n| name.starts_with(n)));
            named.map(|(_, (elapsed, _))| *elapsed).sum::<Duration>().as_secs_f64()
        };
        json!({
            "decode": sum(&self.boxes, &["Decode"]),
            "embed": sum(&self.encoded, &["semantic", "pattern", "caption"]),
            "neighbors": sum(&self.boxes, &["Neighbors"]),
            "pairs": sum(&self.boxes, &["Pairs"]),
            "publish": publish,
        })
    }

    fn mining(&self) -> Value {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        json!({
            "dot_products": get(&counters.dot_products),
            "rescan_dot_products": get(&counters.rescan_dot_products),
            "rescans": get(&counters.rescans),
            "guard_checks": get(&counters.guard_checks),
            "rows_per_worker": counters.rows.iter().map(get).collect::<Vec<_>>(),
        })
    }

    /// Writes [`STATUS`].
    pub fn write(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&self.snapshot()).context("status is JSON")?;
        self.store.replace(STATUS, text).context("write the status")
    }
}

/// The same encoders, each telling how long it takes.
pub fn timed(encoders: &Encoders, metrics: &Arc<Metrics>) -> Encoders {
    let mut timed = encoders.clone();
    for (channel, encoder) in ["semantic", "pattern"].into_iter().zip(&mut timed.image) {
        if let Some(inner) = encoder.take() {
            *encoder = Some(Arc::new(Timed { inner, channel, metrics: metrics.clone() }));
        }
    }
    if let Some(inner) = timed.text.take() {
        let metrics = metrics.clone();
        timed.text = Some(Arc::new(Timed { inner, channel: "caption", metrics }));
    }
    timed
}

struct Timed<E: ?Sized> {
    inner: Arc<E>,
    channel: &'static str,
    metrics: Arc<Metrics>,
}

impl<E: ?Sized> Timed<E> {
    fn time<T>(&self, count: usize, work: impl FnOnce(&E) -> T) -> T {
        let began = Instant::now();
        let done = work(&self.inner);
        self.metrics.encoded(self.channel, began.elapsed(), count as u64);
        done
    }
}

impl ImageEncoder for Timed<dyn ImageEncoder> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn digest(&self) -> String {
        self.inner.digest()
    }
    fn dim(&self) -> usize {
        self.inner.dim()
    }
    fn default_bands(&self) -> &[(f64, f64)] {
        self.inner.default_bands()
    }
    fn encode(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        self.time(batch.len(), |inner| inner.encode(batch))
    }
}

impl TextEncoder for Timed<dyn TextEncoder> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn digest(&self) -> String {
        self.inner.digest()
    }
    fn dim(&self) -> usize {
        self.inner.dim()
    }
    fn default_bands(&self) -> &[(f64, f64)] {
        self.inner.default_bands()
    }
    fn encode(&self, batch: &[&str]) -> Vec<Option<Box<[i16]>>> {
        self.time(batch.len(), |inner| inner.encode(batch))
    }
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
