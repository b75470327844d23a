//! `everpair gc`: what was taken down or replaced leaves every file, and a scan proves it.
//!
//! ```text
//!  everpair gc ─► _everpair/requests/ ─► the service drains ─► collect ─► it goes on
//!       ▲                                                         │
//!       └────────────── _everpair/gc/ID.json ◄── report, proof ◄──┘
//! ```
//!
//! What may stay is what the newest epoch's live images and the snapshots need ([`kept`]). A
//! collection works on tables that nobody else writes: the service ends its dataflow before and
//! starts it again behind, so nothing in it has to forget anything.

pub mod ask;
pub mod forget;
pub mod kept;
pub mod proof;
pub mod report;
mod rules;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Args;
use schemas::{limits, tables::Table};

use self::{
    ask::{Patience, State, Taken, Waited},
    kept::{AnswerTo, Kept},
    report::{Left, Report},
    rules::{RuleOf, TABLES},
};
use crate::{
    annotator::openai::journal,
    cli::read_config,
    dataset::{self, At, Dataset, EPOCHS},
    delta::{self, Plan, Purged, Rule, Store, Verdict},
    outln,
    service::{open_tables, specs},
    state,
};

/// Arguments of the command.
#[derive(Args, Debug)]
pub struct GcArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only say what would go; needs no service.
    #[arg(long)]
    pub dry_run: bool,
    /// Do it here and now, where no service runs. One that does run ends at its next commit, or after
    /// some seconds where it has none, because another writer has begun.
    #[arg(long, conflicts_with = "dry_run")]
    pub take_over: bool,
    /// The report as JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn gc(args: &GcArgs) -> anyhow::Result<()> {
    let store = open_tables(&read_config(&args.config)?)?;
    if dataset::latest(&store)?.is_none() {
        bail!("nothing was committed yet: there is nothing to remove");
    }
    let report = if args.dry_run {
        preview(&store)?
    } else if args.take_over {
        static STOP: AtomicBool = AtomicBool::new(false);
        let report = collect(&store, &STOP)?.context("it was stopped")?;
        ask::say(&store, &ask::draw(), &State::Done(Box::new(report.clone())))?;
        report
    } else {
        asked(&store)?
    };
    match args.json {
        true => outln!("{}", serde_json::to_string_pretty(&report).context("write the report")?),
        false => report.print(),
    }
    let findings = report.proof.as_ref().map_or(0, |proof| proof.findings_count);
    if findings > 0 {
        bail!(
            "{findings} traces of what has gone, or objects that cannot be judged, are still there; \
             the report names the first: remove what other programs put under the root, and report \
             the rest as a bug"
        );
    }
    Ok(())
}

/// Asks the running service.
fn asked(store: &Store) -> anyhow::Result<Report> {
    let waited = ask::ask(store, Patience::LIMITS)?;
    let newest = || -> anyhow::Result<String> {
        Ok(delta::newest_writer(store)?
            .map(|who| format!(" (the newest one that began is {who})"))
            .unwrap_or_default())
    };
    match waited {
        Waited::Done(report) => Ok(*report),
        Waited::Nobody => bail!(
            "no service of these tables answered within {} s{}: start it (`everpair run`) and try \
             again, or, where none runs, do it here and now with --take-over. One that does run \
             cannot reach these tables, and its log says why",
            limits::GC_PATIENCE.as_secs(),
            newest()?
        ),
        Waited::Lost => bail!(
            "the service took the request and gave no sign of life for {} s{}. Either it has ended: \
             the request stays, and it is done when the service runs again (`everpair run`); where \
             none is to run, do it here and now with `everpair gc --take-over`. Or it still runs \
             and cannot reach the store (network, credentials, limits of the bucket), or the \
             machine stands still: then its log says so, it goes on with this once it can, and \
             another `everpair gc` waits for it",
            limits::GC_SILENCE.as_secs(),
            newest()?
        ),
        Waited::Failed(why) => bail!("the service could not do it: {why}"),
        Waited::Interrupted => {
            bail!("the service was stopped meanwhile; what is left it removes when it runs again")
        }
    }
}

/// What goes of each table, and what may be left of it.
type Plans<'a> = BTreeMap<String, (Plan, Box<dyn Rule + 'a>)>;

fn plan<'a>(kept: &'a Kept, of: Table, table: &delta::Table) -> anyhow::Result<Plans<'a>> {
    let rule = RuleOf { kept, table: of };
    let pinned = kept.pinned().remove(of.as_str()).unwrap_or_default();
    let plan = table.plan(&rule, &pinned);
    let plan = plan.with_context(|| format!("find out what leaves table {}", of.as_str()))?;
    Ok([(of.as_str().to_owned(), (plan, Box::new(rule) as Box<dyn Rule>))].into())
}

/// A triplet leaves with an epoch, whose row of `changes` tells consumers. Answers and captions that
/// are to be asked for again are forgotten before the epoch that takes their triplets back.
///
/// # Errors
/// Readers see a triplet that may not stay, or the table cannot be read.
fn await_epoch(kept: &Kept, newest: &Dataset) -> anyhow::Result<()> {
    let rule = RuleOf { kept, table: Table::Triplets };
    let mut going = 0;
    for batch in newest.table(Table::Triplets)?.scan(Some(rule.columns()))? {
        going += rule.judge(&batch?)?.iter().filter(|said| **said == Verdict::Goes).count();
    }
    if going > 0 {
        bail!(
            "epoch {} shows {going} triplets of answers that were forgotten since (`everpair requests \
             again`), and no epoch says yet that they have gone: nothing was removed; start the \
             service once (`everpair run --until-caught-up`), and then try again",
            newest.epoch()
        );
    }
    Ok(())
}

/// What a collection would do now. Only reads.
pub fn preview(store: &Store) -> anyhow::Result<Report> {
    let began = Instant::now();
    let kept = Kept::read(store)?;
    let newest = Dataset::open(store, &At::Latest)?;
    await_epoch(&kept, &newest)?;
    let mut plans = Plans::new();
    for of in TABLES {
        plans.extend(plan(&kept, of, &newest.table(of)?)?);
    }
    let mut report = report(store, &kept, &plans)?;
    report.dry_run = true;
    report.state_files = state::forget(store, &|id| kept.id(id), true)?;
    report.seconds.0 = began.elapsed().as_secs_f64();
    Ok(report)
}

/// What plans say, before anything is done.
fn report(store: &Store, kept: &Kept, plans: &Plans<'_>) -> anyhow::Result<Report> {
    let mut report = Report { epoch: kept.epoch, ..Report::default() };
    for (name, (plan, _)) in plans {
        let delta::Leaving { rows, files, objects, bytes, pinned } = &plan.leaving;
        let left = Left {
            rows: *rows,
            files: *files,
            objects_removed: *objects,
            bytes_removed: *bytes,
            ..Left::default()
        };
        report.tables.insert(name.clone(), left);
        for (snapshot, versions) in &kept.snapshots {
            if versions.get(name).is_some_and(|version| pinned.contains(version)) {
                let lost = kept.lost.get(snapshot).copied().unwrap_or(0) as u64;
                report.snapshots.insert(snapshot.clone(), lost);
            }
        }
    }
    if plans.values().any(|(plan, _)| !plan.is_empty()) {
        let epochs = dataset::epochs(store)?.into_iter();
        report.epochs_dropped = epochs.filter(|epoch| *epoch != kept.epoch).collect();
    }
    Ok(report)
}

/// Removes what may not stay, and proves it. To be called where nobody else writes the tables: it
/// begins a generation of its own. `None`: it was told to `stop` before it was done.
///
/// # Errors
/// The store failed, a snapshot cannot be read, a newer writer has begun, or an epoch has to come
/// before. The tables are as they should be, and another collection finds the rest.
pub fn collect(store: &Store, stop: &AtomicBool) -> anyhow::Result<Option<Report>> {
    let began = Instant::now();
    let mut publisher = delta::start(store, &specs()).context("take over the tables")?;
    let kept = Kept::read(store)?;
    await_epoch(&kept, &Dataset::open(store, &At::Latest)?)?;
    let mut plans = Plans::new();
    for of in TABLES {
        let table = publisher.table(of.as_str());
        plans.extend(plan(&kept, of, table.with_context(|| format!("no table {of:?}"))?)?);
        if stop.load(Ordering::Acquire) {
            return Ok(None);
        }
    }
    let mut report = report(store, &kept, &plans)?;
    let go_on = || match stop.load(Ordering::Acquire) {
        true => Err(delta::Error::Refused("it was stopped".to_owned())),
        false => Ok(()),
    };
    let dropped = &report.epochs_dropped;
    let moved_on = |_: &delta::Latest| {
        let mut epochs = dropped.iter();
        epochs.try_for_each(|epoch| store.delete(&format!("{EPOCHS}/{epoch}.json")))
    };
    let purged = match publisher.purge(&plans, &go_on, &moved_on) {
        Err(delta::Error::Refused(_)) if stop.load(Ordering::Acquire) => return Ok(None),
        purged => purged.context("remove what has gone")?,
    };
    for (name, Purged { bytes_written, from_log }) in purged {
        let left = report.tables.entry(name).or_default();
        (left.bytes_written, left.log_removed) = (bytes_written, from_log);
    }
    report.state_files = state::forget(store, &|id| kept.id(id), false)?;
    // Answers that are not committed: what they cost stands in the budget.
    for row in journal::read(store)?.iter().filter(|row| !kept.answer(&AnswerTo::of(row))) {
        journal::remove(store, &row.request_id)?;
    }
    forget::drop_failures(store, &kept)?;
    report.seconds.0 = began.elapsed().as_secs_f64();
    let began = Instant::now();
    // What may stay is read again: from what readers see now.
    let proof = proof::scan(store, &Kept::read(store)?).context("prove that it has gone")?;
    report.proof = Some(proof);
    report.seconds.1 = began.elapsed().as_secs_f64();
    Ok(Some(report))
}

/// Does what a service was asked for, in a place where its dataflow has ended. Whether it is to run
/// again: not if it was told to stop; then it goes on with this when it is started the next time.
///
/// # Errors
/// A newer writer has begun: the service has to end. Of any other failure only those are told who
/// asked, for the tables are as they should be.
pub fn serve(store: &Store, asked: &[Arc<Taken>], stop: &AtomicBool) -> anyhow::Result<bool> {
    tracing::info!("collecting what was taken down; the service goes on behind");
    asked.iter().for_each(|taken| taken.moved_on());
    let collected = match stop.load(Ordering::Acquire) {
        true => Ok(None),
        false => collect(store, stop),
    };
    let state = match collected {
        Ok(Some(report)) => {
            let rows: u64 = report.tables.values().map(|left| left.rows).sum();
            let findings = report.proof.as_ref().map_or(0, |proof| proof.findings_count);
            let seconds = report.seconds.0 + report.seconds.1;
            tracing::info!(
                rows,
                findings,
                "collected: {rows} rows removed, {findings} findings of the proof, in {seconds:.1} s"
            );
            State::Done(Box::new(report))
        }
        Ok(None) => State::Interrupted,
        Err(error) if fenced(&error) => return Err(error),
        Err(error) => {
            tracing::error!("nothing more is collected for now: {error:#}");
            State::Failed(format!("{error:#}"))
        }
    };
    for taken in asked {
        if !matches!(state, State::Interrupted) {
            store.delete(&taken.object).context("take a request away that is done")?;
        }
        taken.say(store, &state).context("tell how it went")?;
    }
    Ok(!stop.load(Ordering::Acquire))
}

fn fenced(error: &anyhow::Error) -> bool {
    let of = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(delta::Error::Fenced(_)))
    };
    error.chain().any(of)
}
