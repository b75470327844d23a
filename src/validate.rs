//! `everpair validate`: everything that a run rests on, looked at before it.
//!
//! Each part is checked and explained in one line, all parts even where one fails, within bounded
//! time; nothing is left behind. What a run would only find out in the night is said here:
//!
//! ```text
//!  config    it can be read, and what it means            encoder    each makes a vector
//!  tables    write, read, list, delete, create twice      annotator  is ready
//!  offsets   the tables' are the source's                 memory, disk
//!  source    a broker answers, topics, a record
//! ```

use std::{
    path::PathBuf,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::Args;
use kernels::decode::Pixels;
use schemas::{
    Channel,
    config::{AnnotatorKind, Config, DURATION_FORM, parse_duration},
    limits, tables,
};
use serde::Serialize;

use crate::{
    annotator::openai::{self, batch},
    cli,
    dataset::Dataset,
    outln, secrets, service, settings,
};

mod kafka;
mod offsets;
pub mod root;
mod source;

/// `everpair validate`.
#[derive(Args, Debug)]
pub struct ValidateArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Longest wait for a broker, and for an object store: "10s", "500 ms".
    #[arg(long, default_value = "10s", value_parser = parse_timeout)]
    pub timeout: Duration,
    /// JSON on stdout: {"ok": …, "checks": [{"part", "outcome", "text"}]}.
    #[arg(long)]
    pub json: bool,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| format!("{text:?}: {DURATION_FORM}, and not 0"))
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// A run would work; a person should know.
    Note,
    /// A run would fail, or do what nobody wants.
    Failed,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was checked.
    pub part: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found, and what to do.
    pub text: String,
}

impl Check {
    fn ok(part: &str, text: impl Into<String>) -> Check {
        Check { part: part.into(), outcome: Outcome::Ok, text: text.into() }
    }

    fn note(part: &str, text: impl Into<String>) -> Check {
        Check { part: part.into(), outcome: Outcome::Note, text: text.into() }
    }

    fn failed(part: &str, text: impl Into<String>) -> Check {
        Check { part: part.into(), outcome: Outcome::Failed, text: text.into() }
    }
}

/// Runs the command.
///
/// # Errors
/// The config cannot be read (exit code 2), or a check failed: the message repeats which.
pub fn validate(args: &ValidateArgs) -> anyhow::Result<()> {
    let config = cli::read_config(&args.config)?;
    let checks = checks(&config, args.timeout);
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| check.outcome == Outcome::Failed)
        .map(|check| format!("{}: {}", check.part, check.text))
        .collect();
    if args.json {
        let report = serde_json::json!({ "ok": failed.is_empty(), "checks": checks });
        outln!("{}", secrets::hide(&format!("{report:#}")));
    } else {
        for check in &checks {
            let outcome = match check.outcome {
                Outcome::Ok => "ok",
                Outcome::Note => "note",
                Outcome::Failed => "FAILED",
            };
            outln!("{}: {outcome}, {}", check.part, secrets::hide(&check.text));
        }
    }
    if !failed.is_empty() {
        let lines = failed.join("\n  ");
        bail!("{} of {} checks failed:\n  {lines}", failed.len(), checks.len());
    }
    Ok(())
}

/// All checks, in the order in which they are shown.
pub fn checks(config: &Config, timeout: Duration) -> Vec<Check> {
    let mut checks = config_checks(config);
    let (of_root, dataset) = within(timeout, {
        let mut config = config.clone();
        // So that the store's own reason comes before nobody listens any longer.
        config.tables.retry_time = config.tables.retry_time.min(timeout / 2);
        move || root::check(&config)
    })
    .unwrap_or_else(|| {
        let (root, wait) = (&config.tables.root, seconds(timeout));
        let why = format!("{root} does not answer within {wait}: check endpoint and network");
        (vec![Check::failed("tables", why)], None)
    });
    checks.extend(of_root);
    if let Some(dataset) = &dataset
        && let Err(error) = service::check_config(config, dataset.page())
    {
        checks.push(Check::failed("config", format!("{error:#}")));
    }
    checks.extend(source::check(config, dataset.as_ref(), Instant::now() + timeout, timeout));
    checks.extend(encoders(config));
    checks.push(annotator(config));
    if let Some(dataset) = dataset.as_ref().filter(|_| config.annotator.calls())
        && let Err(error) = batch::refuse_open(dataset.store())
    {
        checks.push(Check::failed("annotator", format!("{error:#}")));
    }
    checks.extend(memory(config, dataset.as_ref()));
    let secrets = secrets(config);
    for check in &mut checks {
        for secret in &secrets {
            check.text = check.text.replace(secret.as_str(), "***");
        }
    }
    checks
}

/// What `work` gives, unless it takes longer; then it is left to itself, and ends with the process.
fn within<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    // Whoever waits may be gone by then.
    std::thread::Builder::new().spawn(move || drop(sender.send(work()))).ok()?;
    receiver.recv_timeout(timeout).ok()
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// Words that mark a setting whose value nobody shall read.
const SECRET_WORDS: [&str; 6] = ["password", "secret", "token", "key", "credential", "jaas"];
/// Shorter values would be found in any text.
const SECRET_MIN: usize = 4;
/// The same for environment variables, many of which are marked and hold no secret, such as `true`.
const SECRET_MIN_ENV: usize = 8;

/// Values that must not be shown, whatever a library puts into its messages.
fn secrets(config: &Config) -> Vec<String> {
    let settings = config.source.settings.iter().chain(&config.tables.settings);
    let settings = settings.map(|(name, value)| (name.clone(), value.clone()));
    let settings = settings.filter(|(_, value)| value.len() >= SECRET_MIN);
    let env = std::env::vars_os();
    let env =
        env.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let env = env.filter(|(_, value)| value.len() >= SECRET_MIN_ENV);
    let marked = settings.chain(env).filter(|(name, value)| {
        let name = name.to_lowercase();
        !value.starts_with('/') && SECRET_WORDS.iter().any(|word| name.contains(word))
    });
    let mut values: Vec<String> = marked.map(|(_, value)| value).collect();
    // One may be part of another: the longer first.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values
}

/// A band that is narrower is seldom meant.
const BAND_NARROW: f64 = 0.005;

fn config_checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![Check::ok("config", "every key is known and nothing contradicts")];
    let builtin = Channel::ALL.map(|channel| config.channels.get(channel).encoder.as_str());
    let builtin: Vec<&str> = builtin.into_iter().filter(|e| e.starts_with("builtin:")).collect();
    if !builtin.is_empty() {
        let why = format!("{} are for trying out, not for training data", builtin.join(", "));
        checks.push(Check::note("config", why));
    }
    for channel in Channel::ALL {
        for (low, high) in config.channels.get(channel).band.iter().flatten() {
            if high - low < BAND_NARROW {
                let why = format!(
                    "[channels.{}] band = [{low}, {high}] is very narrow: `everpair calibrate` \
                     tells what it gives",
                    channel.as_str()
                );
                checks.push(Check::note("config", why));
            }
        }
    }
    checks
}

/// Side of the picture that encoders are tried on.
const TRIAL_SIDE: u32 = 128;

/// Something with shapes and colours: a disc before a gradient.
fn trial_picture() -> Pixels {
    let pixel = |i: u32| {
        let (x, y) = (i % TRIAL_SIDE, i / TRIAL_SIDE);
        let (dx, dy) = (i64::from(x) - 50, i64::from(y) - 70);
        match dx * dx + dy * dy < 900 {
            true => [200, 60, 40],
            false => [(x * 255 / TRIAL_SIDE) as u8, (y * 255 / TRIAL_SIDE) as u8, 120],
        }
    };
    let rgb = (0..TRIAL_SIDE * TRIAL_SIDE).flat_map(pixel).collect();
    Pixels { width: TRIAL_SIDE, height: TRIAL_SIDE, rgb }
}

fn encoders(config: &Config) -> Vec<Check> {
    let encoders = match settings::settings(config) {
        Ok(settings) => settings.encoders,
        Err(error) => return vec![Check::failed("encoder", format!("{error:#}"))],
    };
    let check = |channel: Channel| {
        let (part, at) = (format!("encoder {}", channel.as_str()), channel.index());
        let id = encoders.id(channel).unwrap_or_default();
        if let Some(dim) = encoders.given[at] {
            let what = format!(
                "vectors come with the messages: {dim} numbers in vectors.{}",
                channel.as_str()
            );
            return Check::ok(&part, what);
        }
        let began = Instant::now();
        let vector = match channel {
            Channel::Caption => encoders.text.as_ref().map(|e| e.encode(&["a red disc at dusk"])),
            _ => encoders.image[at].as_ref().map(|e| e.encode(&[&trial_picture()])),
        };
        let took = began.elapsed().as_secs_f64() * 1e3;
        match vector.and_then(|mut vectors| vectors.pop()).flatten() {
            Some(vector) if encoders.dim(channel) == Some(vector.len()) => {
                Check::ok(&part, format!("{id}, {} components, {took:.1} ms", vector.len()))
            }
            Some(vector) => Check::failed(
                &part,
                format!("{id} gave {} components, not {:?}", vector.len(), encoders.dim(channel)),
            ),
            None => Check::failed(&part, format!("{id} gave no vector for a test picture")),
        }
    };
    Channel::ALL.map(check).to_vec()
}

fn annotator(config: &Config) -> Check {
    match config.annotator.kind {
        AnnotatorKind::Template => Check::note(
            "annotator",
            "\"template\" needs nothing; it is for trying out, not for training data",
        ),
        AnnotatorKind::OpenAi if !config.annotator.calls() => {
            Check::ok("annotator", "by batches: `everpair requests`; the service calls nobody")
        }
        AnnotatorKind::OpenAi => match openai::probe(&config.annotator) {
            Ok(said) => Check::ok("annotator", said),
            Err(error) => Check::failed("annotator", format!("{error:#}")),
        },
    }
}

/// What an image takes besides vectors and lists: ids, maps, its row's key.
const IMAGE_BYTES: u64 = 3_000;
/// An entry of a list: a version and its score, or its rank.
const ENTRY_BYTES: u64 = 16;

/// What a component of a vector takes: 16 bits, and the 8 by which it is searched.
const COMPONENT_BYTES: u64 = 3;
/// What a searched row takes besides: its floor, what the rest of its code can still give, where its
/// vector is, and what the memo of vectors and the lists have of their own for it.
const ROW_BYTES: u64 = 300;

/// What the live images take in memory: each channel's vector, once in 16 bits and once in 8, and
/// its lists. An estimate; `operators`' test of memory measures what the boxes of mining take.
fn memory(config: &Config, dataset: Option<&Dataset>) -> Option<Check> {
    let encoders = settings::settings(config).ok()?.encoders;
    let mining = settings::mining(config).ok()?;
    let of = |channel: Channel| {
        let dim = encoders.dim(channel).unwrap_or(0).next_multiple_of(64) as u64;
        let vector = COMPONENT_BYTES * dim + ROW_BYTES;
        let at = channel.index();
        // Those that are kept, and those that the pairs are made of.
        let entries = (2 * mining.neighbors[at] + mining.slack) * mining.bands[at].len();
        vector + entries as u64 * ENTRY_BYTES
    };
    let each = IMAGE_BYTES + Channel::ALL.into_iter().map(of).sum::<u64>();
    let live = dataset.and_then(|d| d.table(tables::Table::Images).ok()?.rows().ok()).unwrap_or(0);
    let batches = limits::EPOCHS_IN_FLIGHT * config.epoch.bytes as u64;
    let need = live * each + batches;
    let text = format!(
        "about {} for {live} live images ({each} bytes each) and {} for epochs on their way; a \
         million images take {}",
        root::bytes(live * each),
        root::bytes(batches),
        root::bytes(1_000_000 * each)
    );
    Some(match memory_available() {
        Some(free) if need > free => {
            Check::note("memory", format!("{text}; this machine has {} free", root::bytes(free)))
        }
        _ => Check::ok("memory", text),
    })
}

/// Bytes that Linux says are available.
fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
