//! `everpair changes`: what came into `triplets` and what left it between two epochs, so that a copy
//! of the training rows is refreshed without reading them all again.
//!
//! Applied in their order to the triplets of the epoch after which they begin, the changes with
//! rows give the triplets of the epoch at which they end, exactly.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use schemas::tables::{self, ChangeRow, Row, TripletRow};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    cli::{BadConfig, read_config},
    dataset::{At, Dataset},
    delta::Store,
    errln,
    service::open_tables,
};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// A header and one line each; lists and records are JSON texts.
    Csv,
}

/// Arguments of the command.
#[derive(Args, Debug)]
pub struct ChangesArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The epoch that the copy is at, which need not be kept any more (0: there is no copy yet), or
    /// the snapshot that it was made of.
    #[arg(long, value_name = "EPOCH|SNAPSHOT")]
    pub since: At,
    /// The epoch that the copy is to reach.
    #[arg(long, value_name = "EPOCH|SNAPSHOT|latest", default_value = "latest")]
    pub until: At,
    /// With each insert its whole row, as of --until.
    #[arg(long)]
    pub rows: bool,
    /// Every entry of the log in its order, not only what is left of them in the end. A row that
    /// left again, or was replaced, before --until is no longer there: its insert has row null.
    #[arg(long)]
    pub all: bool,
    /// How lines are written.
    #[arg(long, value_enum, default_value = "jsonl", conflicts_with = "json")]
    pub format: Format,
    /// One JSON object instead: since, until and the list of changes.
    #[arg(long)]
    pub json: bool,
}

/// The log of `triplets` after one epoch up to another.
#[derive(Debug)]
pub struct Changes {
    /// The epoch after which they begin.
    pub since: u64,
    /// The epoch with which they end: the `since` of the next refresh.
    pub until: u64,
    /// By epoch, then by triplet; of one triplet what leaves before what comes.
    pub entries: Vec<ChangeRow>,
    /// Rows of epochs in between that are there at `until`, by id; empty where not asked for.
    pub rows: BTreeMap<String, TripletRow>,
}

/// One change as it is printed.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a ChangeRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<Option<&'a TripletRow>>,
}

impl Changes {
    /// Reads them: `all` of the log, or what is left of it in the end; with `rows` where asked for.
    ///
    /// # Errors
    /// An epoch that is not committed yet, a snapshot that is not there, or an `until` that is no
    /// longer kept; the message says which there are. `until` before `since` is [`BadConfig`].
    pub fn read(
        store: &Store,
        since: &At,
        until: &At,
        all: bool,
        rows: bool,
    ) -> anyhow::Result<Changes> {
        let end = Dataset::open(store, until)?;
        let since = match since {
            // The log is never cut, so any epoch will do, whether it is kept or not.
            At::Epoch(epoch) => {
                let newest = Dataset::open(store, &At::Latest)?.epoch();
                if *epoch > newest {
                    bail!(
                        "--since: epoch {epoch} is not committed yet: the newest one is {newest}"
                    );
                }
                *epoch
            }
            pinned => Dataset::open(store, pinned)?.epoch(),
        };
        let until = end.epoch();
        if until < since {
            let why = format!("--until (epoch {until}) is before --since (epoch {since})");
            return Err(BadConfig(why).into());
        }
        let within = |epoch: i64| u64::try_from(epoch).is_ok_and(|e| e > since && e <= until);
        let mut log: Vec<ChangeRow> = after(&end, since)?;
        log.retain(|entry| within(entry.epoch));
        // "delete" is before "insert" in the alphabet too.
        let key = |e: &ChangeRow| (e.triplet_id.clone(), e.epoch, e.op.clone());
        log.sort_by_cached_key(key);
        let mut entries = if all { log } else { net(&log) };
        entries.sort_by_cached_key(|e| (e.epoch, e.triplet_id.clone(), e.op.clone()));
        let rows = if rows { after::<TripletRow>(&end, since)? } else { Vec::new() };
        let rows = rows.into_iter().filter(|row| within(row.epoch));
        let rows = rows.map(|row| (row.triplet_id.clone(), row)).collect();
        Ok(Changes { since, until, entries, rows })
    }

    /// The row that an insert brought, where it is still that one at `until`.
    pub fn row(&self, entry: &ChangeRow) -> Option<&TripletRow> {
        let row = self.rows.get(&entry.triplet_id)?;
        (entry.op == "insert" && row.epoch == entry.epoch).then_some(row)
    }
}

/// Rows of one table that epochs after `since` wrote, and perhaps some of earlier ones.
fn after<R: Row>(dataset: &Dataset, since: u64) -> anyhow::Result<Vec<R>> {
    let table = dataset.table(R::TABLE)?;
    let mut rows = Vec::new();
    for batch in table.scan_after(Some(since), None)? {
        let read = tables::from_batch::<R>(&batch?);
        rows.extend(read.with_context(|| format!("read table {}", R::TABLE.as_str()))?);
    }
    Ok(rows)
}

/// What is left of a log, sorted by triplet and time, in the end: nothing of a triplet that came and
/// left again, a delete before the last insert of one that was replaced. The delete stands in the
/// epoch of that insert.
fn net(log: &[ChangeRow]) -> Vec<ChangeRow> {
    let mut net = Vec::new();
    for entries in log.chunk_by(|a, b| a.triplet_id == b.triplet_id) {
        let [first, .., last] = entries else {
            net.extend(entries.iter().cloned());
            continue;
        };
        let (held, holds) = (first.op == "delete", last.op == "insert");
        match (held, holds) {
            (true, true) => {
                net.push(ChangeRow { epoch: last.epoch, ..first.clone() });
                net.push(last.clone());
            }
            (true, false) | (false, true) => net.push(last.clone()),
            (false, false) => {}
        }
    }
    net
}

/// Runs the command: changes on stdout, a summary with the next `--since` on stderr.
pub fn run(args: &ChangesArgs) -> anyhow::Result<()> {
    let config = read_config(&args.config)?;
    let store = open_tables(&config)?;
    let changes = Changes::read(&store, &args.since, &args.until, args.all, args.rows)?;
    let mut lines = Vec::with_capacity(changes.entries.len());
    for entry in &changes.entries {
        let row = changes.row(entry);
        if args.rows && !args.all && entry.op == "insert" && row.is_none() {
            let id = &entry.triplet_id;
            bail!(
                "changes says that {id} came, and triplets does not hold it: see everpair verify"
            );
        }
        let shown = (args.rows && entry.op == "insert").then_some(row);
        lines.push(Line { entry, row: shown });
    }
    let out = BufWriter::new(io::stdout().lock());
    match write(out, args, &changes, &lines) {
        // Whoever reads has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        written => written.context("write to stdout")?,
    }
    let inserts = changes.entries.iter().filter(|entry| entry.op == "insert").count();
    let (since, until) = (changes.since, changes.until);
    let deletes = changes.entries.len() - inserts;
    errln!(
        "epochs {since} (without) to {until}: {deletes} deletes, {inserts} inserts; \
         next time --since {until}"
    );
    Ok(())
}

fn write(
    mut out: impl Write,
    args: &ChangesArgs,
    changes: &Changes,
    lines: &[Line],
) -> io::Result<()> {
    if args.json {
        let (since, until) = (changes.since, changes.until);
        let whole = json!({ "since": since, "until": until, "changes": lines });
        writeln!(out, "{whole:#}")?;
    } else if args.format == Format::Jsonl {
        for line in lines {
            serde_json::to_writer(&mut out, line)?;
            writeln!(out)?;
        }
    } else {
        write_csv(&mut out, args.rows, lines)?;
    }
    out.flush()
}

fn write_csv(out: &mut impl Write, rows: bool, lines: &[Line]) -> io::Result<()> {
    let mut columns = vec!["epoch", "op", "reason", "triplet_id", "query_id", "target_id"];
    let own = columns.len();
    let fields = TripletRow::fields();
    if rows {
        let more = fields.iter().map(|field| field.name().as_str());
        columns.extend(more.filter(|name| !columns.contains(name)).collect::<Vec<_>>());
    }
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(&columns)?;
    let empty = Map::new();
    for line in lines {
        let entry = serde_json::to_value(line.entry)?;
        let row = line.row.flatten().map(serde_json::to_value).transpose()?;
        let row = row.as_ref().and_then(Value::as_object).unwrap_or(&empty);
        let cells = columns.iter().enumerate().map(|(at, name)| match at < own {
            true => cell(entry.get(name)),
            false => cell(row.get(*name)),
        });
        csv.write_record(cells)?;
    }
    csv.flush()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
