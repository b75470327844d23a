//! The service: tables and source opened, threads started, the committer run to its end.
//!
//! ```text
//!  source ─► ingest (thread) ─► workers (threads: the dataflow) ─► committer (this thread) ─► tables
//!              ▲                                                        │
//!              └──────────────── answers ◄── annotator ◄── committed pairs
//! ```

pub mod asking;
pub mod commit;
pub mod fingerprint;
pub mod ingest;
mod opening;
pub mod restore;
pub mod rows;
pub mod upkeep;
pub mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use anyhow::{Context, anyhow, bail};
use operators::register::Restored;
use schemas::{Epoch, config::Config, limits, tables::Table};
use serde_json::{Map, Value};
use timely::communication::WorkerGuards;

use self::{
    asking::{Asking, Since},
    commit::{Committed, Committer},
    ingest::Ingest,
    opening::{Opened, open_source},
    restore::{Reading, Shown},
    worker::{Progress, Start},
};
use crate::{
    annotator::audit::{Auditing, Auditor},
    benchmark::keeper::Keeper,
    console::Console,
    dataflow::Settings,
    dataset,
    delta::{self, Publisher, Store, TableSpec},
    gc,
    metrics::{Metrics, Phase, restoring, timed, turned},
    requests::Requests,
    settings::{self, bands_text},
    source::{Offsets, SourceError, witness::Witnesses},
    state, validate,
};

/// How a service is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// End when what was there at start is committed and no pair waits for an answer.
    pub until_caught_up: bool,
    /// Accept that the config differs from what the tables were made with.
    pub apply: bool,
}

/// The tables as specs of the store, in commit order.
pub fn specs() -> Vec<TableSpec> {
    let spec = |table: Table| TableSpec {
        name: table.as_str().to_owned(),
        schema: table.schema(),
        key: table.key().iter().map(ToString::to_string).collect(),
        memo: table.is_memo(),
        properties: Default::default(),
    };
    Table::ALL.map(spec).to_vec()
}

/// The store that a config names.
pub fn open_store(config: &Config) -> anyhow::Result<Store> {
    let root = &config.tables.root;
    let tables = &config.tables;
    Store::open_within(root, &tables.settings, tables.retry_time)
        .with_context(|| format!("open the tables in {root}"))
}

/// The same for a command that only reads, or that asks a service for something: a folder that is
/// not there is not made, because nobody would notice that its name is misspelt.
pub fn open_tables(config: &Config) -> anyhow::Result<Store> {
    let root = &config.tables.root;
    if !config.tables.is_remote() && !std::path::Path::new(root).is_dir() {
        bail!(
            "no tables at {root}: there is no such folder; run the service first, or correct \
             [tables] root"
        );
    }
    open_store(config)
}

/// Runs the service. Ends by `stop`, by itself with `until_caught_up`, or by an error after which
/// the process has to end, because other threads may still be at work.
pub fn run(config: &Config, options: RunOptions, stop: &'static AtomicBool) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, tables = config.tables.root, "everpair {version} starts");
    let mut carried = Carried {
        store: open_store(config)?,
        generation: None,
        keep_dead: config.contents.keep_dead,
        console: None,
        wanted: Since::new(),
        ends: None,
    };
    loop {
        match run_once(config, options, stop, &mut carried) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return Err(explained(&carried, error)),
        }
    }
}

/// Where the root has gone, any look or write may be the first that fails, and its own words say
/// nothing of why.
fn explained(carried: &Carried, error: anyhow::Error) -> anyhow::Error {
    if let Some(delta::Error::Gone(_)) = error.downcast_ref() {
        return error;
    }
    let Some(generation) = carried.generation else { return error };
    match delta::check_newest(&carried.store, generation) {
        Err(gone @ delta::Error::Gone(_)) => error.context(gone),
        _ => error,
    }
}

/// What one run of the dataflow hands to the next, where the service has stood still between them:
/// whoever looks from outside sees one run.
struct Carried {
    store: Store,
    /// As whose writer the last run took over the tables.
    generation: Option<u64>,
    /// Contents that no live image has, and that are remembered at least.
    keep_dead: u64,
    console: Option<Console>,
    /// Since when pairs wait for an answer: what `[annotator] settle` counts from.
    wanted: Since,
    /// The source's ends as the first run has seen them.
    ends: Option<Offsets>,
}

/// Runs until there is nothing more to do, or something that only a service that stands still can
/// do: then it is done, and true says to run again.
fn run_once(
    config: &Config,
    options: RunOptions,
    stop: &'static AtomicBool,
    carried: &mut Carried,
) -> anyhow::Result<bool> {
    let store = carried.store.clone();
    let mut settings = settings::settings(config)?;
    let mut in_force = settings::in_force(config, &settings);
    let config_changed = match dataset::latest(&store)? {
        Some(latest) => check_in_force(&latest.info, &mut in_force, options.apply)?,
        None => validate::root::refuse_foreign(config, &store).map(|()| false)?,
    };
    // Before this start writes it anew.
    let known = Witnesses::new(&config.source.key, delta::latest_written(&store)?);
    let metrics = Arc::new(Metrics::new(store.clone(), settings.counters.clone()));
    Console::of(&config.service, &metrics, &mut carried.console)?;
    let requests = look_for_requests(config, &store, &metrics)?;
    let auditor = Auditor::of(config, &settings.encoders, &settings.book)?;
    let auditing = auditor.map(Auditing::start).transpose()?;
    let publisher = delta::start(&store, &specs()).context("take over the tables")?;
    carried.generation = Some(publisher.generation());
    metrics.enter(Phase::Restoring);
    let (begin, mut shown, (states, schedule)) =
        restore(config, &settings, &publisher, &metrics, known)?;
    let known = std::mem::take(&mut shown.known);
    settings.encoders = Arc::new(timed(&settings.encoders, &metrics));
    let benchmarks = keep_benchmarks(&store, &settings, &begin)?;
    let progress =
        Arc::new(Progress { committed: AtomicU64::new(begin.epoch), stop: AtomicBool::new(false) });
    settings.state = states.state();
    let (answers_in, answers) = mpsc::channel();
    let (feed_in, feed) = mpsc::sync_channel(1);
    let (closed_in, closed) = mpsc::channel();
    let next_epoch = next_epoch(&publisher, begin.epoch);

    let guards = worker::start(
        settings::workers(config),
        settings,
        begin,
        feed,
        closed_in,
        progress.clone(),
        metrics.clone(),
    )?;
    // While the workers restore, the source is looked for.
    let waited = std::mem::take(&mut carried.wanted);
    let opened = open_source(config, options, &publisher, known, &mut carried.ends);
    let opened = opened.and_then(|opened| {
        let (rejected, latest) = (std::mem::take(&mut shown.rejected), delta::read_latest(&store)?);
        metrics.opened(&publisher, latest, rejected, opened.next.clone())?;
        Ok((opened, Asking::new(config, &publisher, answers_in, (waited, auditing))?))
    });
    let (Opened { source, next, ends, again, asks_from }, asking) = match opened {
        Ok(opened) => opened,
        Err(error) => return abandon(&progress, guards, error),
    };
    let exchange = ingest::Exchange { committed: next.into(), ..Default::default() };
    let exchange = Arc::new(exchange);
    let ingest = Ingest {
        source,
        cut: config.epoch.clone(),
        linger: config.epoch.linger(&config.tables),
        next_epoch,
        cut_newest: None,
        ends: ends.clone(),
        again,
        answers,
        requests: requests.clone(),
        benchmarks,
        schedule,
        feed: feed_in,
        progress: progress.clone(),
        exchange: exchange.clone(),
        metrics: metrics.clone(),
        pulse: metrics.pulse("ingest"),
        stop,
        config: config.clone(),
    };
    let ingest = read(ingest)?;
    let committer = Committer {
        store: store.clone(),
        epochs_kept: config.service.epochs_kept,
        retention: config.tables.retention,
        keep_dead: carried.keep_dead,
        publisher,
        shown,
        in_force,
        config_changed,
        asking,
        asks_from,
        closed,
        ends,
        progress: progress.clone(),
        exchange: exchange.clone(),
        requests: requests.clone(),
        metrics: metrics.clone(),
    };
    let Committed { newest, wanted } = match committer.run() {
        Ok(committed) => committed,
        Err(error) => return abandon(&progress, guards, error),
    };
    progress.stop.store(true, Ordering::Release);
    join(ingest, guards, states)?;
    turned::say(&metrics.turned_away());
    say_stopped(newest);
    carried.wanted = wanted;
    let forgets = exchange.forget.load(Ordering::Acquire).then_some(&mut carried.keep_dead);
    stand_still(&store, &requests, forgets, &metrics, stop)
}

/// What only a service that stands still can do, if there is any. Whether it is to run again then.
fn stand_still(
    store: &Store,
    requests: &Requests,
    forgets: Option<&mut u64>,
    metrics: &Metrics,
    stop: &AtomicBool,
) -> anyhow::Result<bool> {
    let asked = requests.collections();
    // Behind a run that goes on only one that is ready is taken: another has something before it.
    if !asked.is_empty() && (forgets.is_none() || requests.wants_collection()) {
        metrics.enter(Phase::Collecting);
        return gc::serve(store, &asked, stop);
    }
    let Some(keep_dead) = forgets else { return Ok(false) };
    metrics.enter(Phase::Forgetting);
    gc::forget::serve(store, stop, keep_dead)
}

/// From the first moment on, so that whoever asks for something hears that a service is starting.
fn look_for_requests(
    config: &Config,
    store: &Store,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Requests> {
    let interval = match config.tables.is_remote() {
        true => limits::REQUESTS_INTERVAL_REMOTE,
        false => limits::REQUESTS_INTERVAL_FOLDER,
    };
    let requests = Requests::start(store.clone(), interval, metrics.clone());
    requests.context("start the thread that looks for requests")
}

/// The epoch that the tables hold: one that changed nothing has left no trace in them.
fn say_stopped(newest: Option<Epoch>) {
    match newest {
        Some(epoch) => tracing::info!(epoch, "stopped: epoch {epoch} is committed"),
        None => tracing::info!("stopped: no epoch is committed yet"),
    }
}

/// Ends without waiting for the workers: dropping the guards would wait for them to finish what can no
/// longer be committed.
fn abandon<T>(
    progress: &Progress,
    guards: WorkerGuards<()>,
    error: anyhow::Error,
) -> anyhow::Result<T> {
    progress.stop.store(true, Ordering::Release);
    std::mem::forget(guards);
    Err(error)
}

/// Reads the tables and the state checkpoint, side by side.
fn restore(
    config: &Config,
    settings: &Settings,
    publisher: &Publisher,
    metrics: &Arc<Metrics>,
    known: Witnesses,
) -> anyhow::Result<(Start, Shown, (state::Writer, state::Schedule))> {
    restoring::tell(metrics).context("start the thread that tells how far a start is")?;
    let workers = settings::workers(config);
    let remote = if config.tables.is_remote() { limits::RESTORE_THREADS_REMOTE } else { 1 };
    let (rules, threads) = (&config.filter, workers.max(remote));
    let captioner = settings.captioner.as_ref();
    let reading = Reading { publisher, rules, captioner, metrics, workers, threads };
    let (restored, states) = std::thread::scope(|scope| {
        let (store, counters) = (publisher.store().clone(), settings.counters.clone());
        let states = scope.spawn(|| state::Writer::start(store, &settings.mining, counters));
        (reading.restore(known), states.join())
    });
    let (begin, shown) = restored?;
    let states =
        states.map_err(|_| anyhow!("the thread that reads state checkpoints panicked"))??;
    Ok((begin, shown, states))
}

/// Starts to read the source, on a thread of its own.
fn read(ingest: Ingest) -> anyhow::Result<JoinHandle<Result<(), SourceError>>> {
    let thread = std::thread::Builder::new().name("ingest".into());
    thread.spawn(move || ingest.run()).context("start the ingest thread")
}

/// Waits for the threads of a run that has committed all.
fn join(
    ingest: JoinHandle<Result<(), SourceError>>,
    guards: WorkerGuards<()>,
    states: state::Writer,
) -> anyhow::Result<()> {
    match ingest.join() {
        Ok(ended) => ended.context("read the source")?,
        Err(_) => bail!("the ingest thread panicked"),
    }
    for worker in guards.join() {
        worker.map_err(|why| anyhow::anyhow!("a dataflow worker failed: {why}"))?;
    }
    states.finish();
    Ok(())
}

/// Above every epoch that a memo has rows of, even if that never became real.
fn next_epoch(publisher: &delta::Publisher, begin: Epoch) -> Epoch {
    let newest = publisher.tables().iter().filter_map(delta::Table::epoch).max();
    newest.unwrap_or(0).max(begin) + 1
}

/// Holds the evaluation sets that are blocked, for the workers and for ingest.
fn keep_benchmarks(store: &Store, settings: &Settings, begin: &Start) -> anyhow::Result<Keeper> {
    let (encoders, held) = (settings.encoders.clone(), settings.benchmarks.clone());
    let keeper = Keeper { store: store.clone(), encoders, held };
    let restored = begin.shares.iter().flat_map(|share| &share.restored);
    let blocked = restored.filter_map(|row| match row {
        Restored::Blocked(row) => Some(row),
        _ => None,
    });
    keeper.know(blocked)?;
    Ok(keeper)
}

/// Whether the tables were made with this config; an error says what differs.
pub fn check_config(config: &Config, latest: &delta::Latest) -> anyhow::Result<()> {
    let mut in_force = settings::in_force(config, &settings::settings(config)?);
    check_in_force(&latest.info, &mut in_force, false).map(|_| ())
}

/// A config change is refused until it is meant. True if there is one. What the tables have to
/// remember of earlier configs is added to `wanted`.
fn check_in_force(
    held: &Map<String, Value>,
    wanted: &mut Map<String, Value>,
    apply: bool,
) -> anyhow::Result<bool> {
    settings::keep_words(held, wanted);
    let (Some(held), Some(wanted)) = (held.get("in_force"), wanted.get("in_force")) else {
        return Ok(false);
    };
    if held == wanted {
        return Ok(false);
    }
    for channel in ["semantic", "pattern", "caption"] {
        let encoder = |rules: &Value| rules["channels"][channel]["encoder"].clone();
        if encoder(held) != encoder(wanted) {
            bail!(
                "[channels.{channel}] encoder: the tables hold vectors of {}, the config wants {}; \
                 re-embedding in place is not supported yet: use a new [tables] root",
                encoder(held),
                encoder(wanted)
            );
        }
    }
    settings::refuse_other_words(held, wanted)?;
    let mut lines = Vec::new();
    differences("", held, wanted, &mut lines);
    if !apply {
        bail!(
            "the config differs from what the tables were made with:\n  {}\n\
             every pair and triplet that this changes will be retracted or added in the next \
             epoch; to accept that, run with --apply",
            lines.join("\n  ")
        );
    }
    tracing::info!("applying a config change:\n  {}", lines.join("\n  "));
    Ok(true)
}

fn differences(at: &str, held: &Value, wanted: &Value, lines: &mut Vec<String>) {
    match (held, wanted) {
        (Value::Object(held), Value::Object(wanted)) => {
            let mut names: Vec<&String> = held.keys().chain(wanted.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let side = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
                differences(&format!("{at}.{name}"), &side(held), &side(wanted), lines);
            }
        }
        _ if held == wanted => {}
        _ => {
            let at = at.trim_start_matches('.');
            // The tables keep bands in units of 2^-30; a person wrote decimals, under `band`.
            match at.strip_suffix(".bands") {
                Some(channel) => {
                    let text = |side: &Value| bands_text(side).unwrap_or_else(|| side.to_string());
                    lines.push(format!("{channel}.band: {} -> {}", text(held), text(wanted)));
                }
                None => lines.push(format!("{at}: {held} -> {wanted}")),
            }
        }
    }
}
