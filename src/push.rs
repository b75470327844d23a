//! Brings images to a topic or a file log, from a folder or a list, and takes images down.
//!
//! Nothing is left out silently: what could not be sent is named with the reason and counted.

pub mod images;
mod sink;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use schemas::config::{self, Config};

use self::{
    images::{Found, Image},
    sink::Sink,
};
use crate::source::files::FileLog;

/// Files of a new log: two, so that the order between partitions is put to use from the start.
pub const NEW_LOG_FILES: usize = 2;
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Sends images.
#[derive(Args, Clone, Debug, Default)]
pub struct PushArgs {
    /// A folder, with everything below it: JPEG, PNG, WebP and GIF, the caption in NAME.txt beside
    /// NAME.jpg, the path from the folder on as image id. Or a list: a .jsonl or .csv file of path,
    /// id, caption, source, licence; only path is required.
    pub images: PathBuf,
    /// The config whose source gets the images.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "brokers"])]
    pub config: Option<PathBuf>,
    /// A folder for a file log; created if it is not there.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["topic", "brokers"])]
    pub to: Option<PathBuf>,
    /// The Kafka topic; with --config where that has several.
    #[arg(long, required_unless_present_any = ["config", "to"])]
    pub topic: Option<String>,
    /// Kafka's bootstrap servers, `host:port,host:port`.
    #[arg(long, required_unless_present_any = ["config", "to"])]
    pub brokers: Option<String>,
    /// The source of all images that name none themselves.
    #[arg(long)]
    pub source: Option<String>,
    /// The licence of all images that name none themselves.
    #[arg(long)]
    pub licence: Option<String>,
}

/// Where messages go.
pub enum Target<'a> {
    /// A topic.
    Topic {
        /// Brokers and settings.
        source: config::Source,
        /// One of its topics.
        topic: String,
    },
    /// The file log that these patterns name.
    Files(Vec<String>),
    /// A file log that is open already; it is synced at the end.
    Log(&'a mut FileLog),
}

impl Target<'static> {
    /// The source of a config. If that reads several topics, `topic` must say which.
    pub fn new(config: &Config, topic: Option<&str>) -> anyhow::Result<Target<'static>> {
        let source = config.source.clone();
        if !source.files.is_empty() {
            if topic.is_some() {
                bail!("--topic: the config reads a file log, which has no topics");
            }
            return Ok(Target::Files(source.files));
        }
        let topic = match (topic, source.topics.as_slice()) {
            (Some(topic), topics) if topics.iter().any(|t| t == topic) => topic.to_owned(),
            (None, [topic]) => topic.clone(),
            (_, topics) => bail!("--topic must name one of those that are read: {topics:?}"),
        };
        Ok(Target::Topic { source, topic })
    }

    /// The source of a config that reads one topic, or a file log.
    pub fn of(config: &Config) -> anyhow::Result<Target<'static>> {
        Target::new(config, None)
    }
}

/// What became of the images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ids that were sent, and that the log has for good.
    pub ids: Vec<String>,
    /// Encoded bytes of them.
    pub bytes: u64,
    /// What was not sent, with the reason.
    pub failed: Vec<(String, String)>,
    /// Files in the folder that are no images, nor captions of one.
    pub left_alone: usize,
}

/// Sends images as the arguments say; `config` is what `args.config` names, read. Failures, progress
/// (on a terminal) and the outcome go to `out`. Images that were not sent are in the report and are
/// no error; an error is what ends the work.
pub fn push(
    args: &PushArgs,
    config: Option<&Config>,
    out: &mut dyn Write,
) -> anyhow::Result<Report> {
    let mut target = match (config, &args.to, &args.brokers, &args.topic) {
        (Some(config), ..) => Target::new(config, args.topic.as_deref())?,
        (_, Some(folder), ..) => Target::Files(vec![format!("{}/*.jsonl", folder.display())]),
        (_, _, Some(brokers), Some(topic)) => {
            let brokers = brokers.clone();
            let source = config::Source { brokers, ..config::Source::default() };
            Target::Topic { source, topic: topic.clone() }
        }
        _ => bail!("name a target: --config FILE, --to DIR, or --brokers and --topic"),
    };
    let defaults =
        Image { source: args.source.clone(), licence: args.licence.clone(), ..Image::default() };
    send(&args.images, &defaults, &mut target, out)
}

/// Sends a folder or a list, quietly.
pub fn push_folder(images: &Path, target: &mut Target<'_>) -> anyhow::Result<Report> {
    send(images, &Image::default(), target, &mut std::io::sink())
}

/// Writes a tombstone for each id. Gives their number once the log has all of them for good.
pub fn takedown(ids: &[String], target: &mut Target<'_>) -> anyhow::Result<usize> {
    let mut sink = Sink::open(target)?;
    for id in ids {
        sink.send(id, None, &[])?;
    }
    sink.finish()?;
    let failed = &sink.report.failed;
    match failed.first() {
        Some((id, why)) => bail!("{} of {} not sent: {id}: {why}", failed.len(), ids.len()),
        None => Ok(ids.len()),
    }
}

fn send(
    images: &Path,
    defaults: &Image,
    target: &mut Target<'_>,
    out: &mut dyn Write,
) -> anyhow::Result<Report> {
    let mut sink = Sink::open(target)?;
    let progress = std::io::stderr().is_terminal();
    let (mut said, mut left_alone) = (Instant::now(), 0);
    for found in images::find(images).with_context(|| images.display().to_string())? {
        match found {
            Found::Image(mut image) => match image.read() {
                Ok(bytes) => sink.send(&image.id, Some(&bytes), &image.headers(defaults))?,
                Err(why) => sink.fail(image.path.display().to_string(), why),
            },
            Found::Caption => {}
            Found::Other => left_alone += 1,
            Found::Broken(place, why) => sink.fail(place, why),
        }
        sink.tell(out)?;
        if progress && said.elapsed() >= PROGRESS_EVERY {
            said = Instant::now();
            write!(out, "\r{} images ", sink.report.ids.len())?;
            out.flush()?;
        }
    }
    sink.finish()?;
    sink.tell(out)?;
    let report = Report { left_alone, ..sink.report };
    let (sent, megabytes) = (report.ids.len(), report.bytes as f64 / 1e6);
    write!(out, "{}{sent} images sent, {megabytes:.1} MB", if progress { "\r" } else { "" })?;
    writeln!(out, "; {} failed; {left_alone} other files left alone", report.failed.len())?;
    Ok(report)
}
