//! What the commands share: reading the config, warnings, signals, and the small commands.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use arrow_array::cast::AsArray;
use clap::Args;
use schemas::{
    Channel, ContentId,
    config::{AnnotatorKind, Config},
    limits,
    tables::{BlockedRow, Table},
};

use crate::{
    dataset::{self, At, Dataset},
    delta::Store,
    errln, outln, print,
    push::{self, PushArgs, Target},
    requests::{self, Request},
    secrets, service, settings,
};

/// Bad arguments or config: exit code 2.
#[derive(Debug)]
pub struct BadConfig(pub String);

impl std::fmt::Display for BadConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadConfig {}

/// Reads a config; its paths become relative to its own folder.
pub fn read_config(path: &Path) -> anyhow::Result<Config> {
    let bad = |why: String| BadConfig(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    parse_config(path, &text)
}

/// [`read_config`] of a text that would stand at `path`.
pub fn parse_config(path: &Path, text: &str) -> anyhow::Result<Config> {
    let bad = |why: String| BadConfig(format!("{}: {why}", path.display()));
    secrets::learn_text(text);
    let mut config = Config::parse(text).map_err(|error| bad(error.to_string()))?;
    // A bare file name has an empty parent, which means here.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let folder = std::path::absolute(folder).map_err(|error| bad(error.to_string()))?;
    config.resolve(&folder);
    let beside =
        |pattern: &&String| Path::new(pattern).parent() == Some(Path::new(&config.tables.root));
    if let Some(pattern) = config.source.files.iter().find(beside) {
        let why = "the log and the tables need a folder each, such as \"log\" and \"tables\"";
        return Err(bad(format!(
            "[tables] root is the folder of [source] files {pattern:?}: {why}"
        ))
        .into());
    }
    secrets::learn_settings(&config.source.settings);
    secrets::learn_settings(&config.tables.settings);
    settings::check(&config).map_err(|error| bad(format!("{error:#}")))?;
    Ok(config)
}

/// Says out loud what is for trying out only.
pub fn warn_builtin(config: &Config) {
    let builtin: Vec<&str> = Channel::ALL
        .into_iter()
        .map(|channel| config.channels.get(channel).encoder.as_str())
        .filter(|name| name.starts_with("builtin:"))
        .collect();
    if !builtin.is_empty() {
        tracing::info!("note: {} are for trying out, not for training data", builtin.join(", "));
    }
    if config.annotator.kind == AnnotatorKind::Template {
        tracing::info!("note: the annotator \"template\" is for trying out, not for training data");
    }
}

/// Calls `f` on SIGINT and SIGTERM, on a thread of its own.
pub fn on_signal(f: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])
    .context("listen for signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|_| f()))
        .context("start the signal thread")?;
    Ok(())
}

/// Ends the process after this time: a store that hangs must not keep it from ending. What is not
/// committed by then is what a kill would leave, which the next start takes up.
pub fn end_within(time: Duration) {
    let started = std::thread::Builder::new().name("deadline".into()).spawn(move || {
        std::thread::sleep(time);
        tracing::error!(
            "not stopped within {time:?} ([service] stop_within): what is not committed yet the \
             next start takes up; if this happens often, see what the store does, or allow more time"
        );
        std::process::exit(1);
    });
    if let Err(error) = started {
        tracing::warn!("nothing will end this process but its work: no thread for it: {error}");
    }
}

/// Sends images; what could not be sent is named, and makes the exit code 1.
pub fn push(args: &PushArgs) -> anyhow::Result<()> {
    let config = args.config.as_deref().map(read_config).transpose()?;
    let report = push::push(args, config.as_ref(), &mut print::Errors)?;
    if args.json {
        outln!("{:#}", report.to_json());
    }
    if let Some(why) = &report.cut_off {
        bail!("{why}");
    }
    if report.failed.count > 0 {
        bail!("{} of the images were not sent, see above", report.failed.count);
    }
    Ok(())
}

/// Takes images down.
#[derive(Args, Debug)]
pub struct TakedownArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Also block: what is named leaves and cannot come back.
    #[arg(long)]
    pub block: bool,
    /// What the values name; anything but an id needs --block.
    #[arg(long, value_parser = ["id", "content", "source"], default_value = "id")]
    pub kind: String,
    /// Why, for the table `blocked`.
    #[arg(long)]
    pub reason: Option<String>,
    /// Also those in this file, one a line; - is standard input. Blanks, tabs and carriage returns
    /// at the ends of a line do not belong to the value (inside they do); name an id that begins or
    /// ends with one as an argument.
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Image ids, sha256 of contents, or sources.
    #[arg(required_unless_present = "from")]
    pub values: Vec<String>,
}

/// The lines of a file that are not blank, or of standard input, without white space around them.
fn lines_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let named = || format!("--from {}", path.display());
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    let text = text.with_context(named)?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Without `--block`: tombstones in the source. With it: a request to the service, running or not.
pub fn takedown(args: &TakedownArgs) -> anyhow::Result<()> {
    let config = read_config(&args.config)?;
    let mut values = args.values.clone();
    if let Some(from) = &args.from {
        values.extend(lines_of(from)?);
    }
    if let (true, Some(from)) = (values.is_empty(), &args.from) {
        let why =
            format!("--from {}: there is no value in it, so nothing was done", from.display());
        return Err(BadConfig(why).into());
    }
    if values.iter().any(String::is_empty) {
        return Err(BadConfig("an empty value names nothing".into()).into());
    }
    let most = limits::IMAGE_ID_BYTES_MAX;
    if args.kind == "id"
        && let Some(long) = values.iter().find(|value| value.len() > most)
    {
        let why = format!("{} bytes are no image id, which has at most {most}", long.len());
        return Err(BadConfig(why).into());
    }
    if !args.block {
        if args.kind != "id" {
            return Err(BadConfig(format!("--kind {} needs --block", args.kind)).into());
        }
        // Before the service can have read them; and where a root is misspelt nothing is written.
        let live = service::open_store(&config)
            .and_then(|store| Live::of(&args.kind, &values, &store))
            .context("no tombstone was written: the tables cannot be read")?;
        let count = push::takedown(&values, &mut Target::of(&config)?)?;
        let s = if count == 1 { "" } else { "s" };
        errln!("{count} tombstone{s} written; effective with the epoch that reads them");
        live.say();
        return Ok(());
    }
    if args.kind == "content"
        && let Some(bad) = values.iter().find(|value| ContentId::parse(value).is_none())
    {
        let why = format!("{bad:?} is no content id: 64 lower-case hex digits");
        return Err(BadConfig(why).into());
    }
    let store = service::open_store(&config)?;
    block(args, &values, &store)
}

/// Asks the service to block what is not blocked yet.
fn block(args: &TakedownArgs, values: &[String], store: &Store) -> anyhow::Result<()> {
    let live = Live::of(&args.kind, values, store)?;
    let held = match live.epoch {
        Some(_) => Dataset::open(store, &At::Latest)?.rows::<BlockedRow>()?,
        None => Vec::new(),
    };
    let held = held.into_iter().filter(|row| row.kind == args.kind);
    let held: BTreeSet<String> = held.map(|row| row.value).collect();
    let values: BTreeSet<&String> = values.iter().collect();
    let (already, new): (Vec<&String>, Vec<&String>) =
        values.into_iter().partition(|value| held.contains(*value));
    if !already.is_empty() {
        let (count, be) = (already.len(), if already.len() == 1 { "is" } else { "are" });
        errln!("{count} {be} blocked already: nothing is to be done for that");
    }
    if !new.is_empty() {
        let count = new.len();
        let row = |value: &String| BlockedRow {
            kind: args.kind.clone(),
            value: value.clone(),
            reason: args.reason.clone(),
            epoch: 0,
        };
        let block = new.into_iter().map(row).collect();
        requests::ask(store, &Request { block, ..Request::default() })?;
        errln!("asked to block {count}; it takes effect with the next epoch of the service");
    }
    live.say();
    Ok(())
}

/// What of the live images a take-down names.
struct Live {
    /// `None` before the first one.
    epoch: Option<u64>,
    images: usize,
    /// Values that name none of them.
    unknown: Vec<String>,
}

/// Unknown values that are named; of more the number is told.
const UNKNOWN_SHOWN: usize = 10;

impl Live {
    fn of(kind: &str, named: &[String], store: &Store) -> anyhow::Result<Live> {
        let mut unknown: BTreeSet<String> = named.iter().cloned().collect();
        if dataset::latest(store)?.is_none() {
            let unknown = unknown.into_iter().collect();
            return Ok(Live { epoch: None, images: 0, unknown });
        }
        let dataset = Dataset::open(store, &At::Latest)?;
        let column = match kind {
            "id" => "image_id",
            "content" => "content_id",
            _ => "source",
        };
        let values = unknown.clone();
        let mut images = 0;
        for batch in dataset.table(Table::Images)?.scan(Some(&[column]))? {
            let batch = batch?;
            for value in batch.column(0).as_string::<i32>().iter().flatten() {
                if values.contains(value) {
                    images += 1;
                    unknown.remove(value);
                }
            }
        }
        let unknown = unknown.into_iter().collect();
        Ok(Live { epoch: Some(dataset.epoch()), images, unknown })
    }

    fn say(&self) {
        let Some(epoch) = self.epoch else {
            errln!("warning: there is no committed epoch yet, so no image is live");
            return;
        };
        let (images, unknown) = (self.images, self.unknown.len());
        let of = if images == 1 { "image of epoch" } else { "images of epoch" };
        errln!("{images} live {of} {epoch} named");
        if unknown > 0 {
            let shown: Vec<&str> =
                self.unknown.iter().take(UNKNOWN_SHOWN).map(String::as_str).collect();
            let more = match unknown.saturating_sub(UNKNOWN_SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            errln!(
                "warning: {unknown} named no live image (misspelt, gone already, or not committed \
                 yet): {}{more}",
                shown.join(", ")
            );
        }
    }
}
