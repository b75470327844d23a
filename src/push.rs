//! Brings images to a topic or a file log, from folders, tars, Parquet files and lists, and takes
//! images down.
//!
//! Nothing is left out silently: what could not be sent is named with the reason and counted.

mod compose;
pub mod images;
mod journal;
mod oversize;
mod pace;
mod report;
mod sender;
mod sink;
mod sources;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use schemas::{
    config::{self, Config},
    message::KeySource,
};

pub use self::{
    oversize::Oversize,
    report::{Landed, Named, Report},
    sources::{Columns, StdinKind},
};
use self::{
    sender::Sender,
    sink::{Mark, Sink},
};
use crate::{cli::BadConfig, source::files::FileLog};

/// Files of a new log: two, so that the order between partitions is put to use from the start.
pub const NEW_LOG_FILES: usize = 2;
/// How long a broker may keep silent.
const PATIENCE_SECONDS: u64 = 30;

/// Sends images.
#[derive(Args, Clone, Debug, Default)]
pub struct PushArgs {
    /// Folders (JPEG, PNG, WebP and GIF files, the path below the folder is the image id; caption in
    /// NAME.txt, more in NAME.json), images, patterns in quotes ('shards/*.tar'), WebDataset .tar
    /// files (the id is KEY), .parquet files, lists (.jsonl or .csv with path, url or image in
    /// base64, and id, caption, source, licence), or - for standard input.
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// The config whose source gets the images.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "brokers"])]
    pub config: Option<PathBuf>,
    /// A folder for a file log; created if it is not there.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["topic", "brokers"])]
    pub to: Option<PathBuf>,
    /// The Kafka topic; with --config where that has several.
    #[arg(long)]
    pub topic: Option<String>,
    /// Kafka's bootstrap servers, `host:port,host:port`.
    #[arg(long)]
    pub brokers: Option<String>,
    /// The source of all images that name none themselves.
    #[arg(long)]
    pub source: Option<String>,
    /// The licence of all images that name none themselves.
    #[arg(long)]
    pub licence: Option<String>,
    /// Send images themselves, or only where they are: the url of a row, a file:// address of a
    /// file. The service must be allowed to fetch from there.
    #[arg(long, value_enum, default_value_t)]
    pub by: By,
    /// What to do with an image too large for one message: fit (a smaller JPEG), skip, or store:URI
    /// (keep it in a folder or s3://BUCKET/PATH, and send its address). Otherwise it is not sent.
    #[arg(long, value_name = "HOW")]
    pub oversize: Option<Oversize>,
    /// The most bytes of one message. By default the topic's max.message.bytes, or 1,000,000 where
    /// the broker does not tell; a file log takes what the service takes.
    #[arg(long, value_name = "N")]
    pub max_message_bytes: Option<usize>,
    /// Where image ids come from.
    #[arg(long, value_enum, default_value_t)]
    pub id: IdFrom,
    #[command(flatten)]
    pub columns: Columns,
    /// Also send all other columns and JSON fields, as attributes. Such a message is JSON with the
    /// image in base64: a third larger.
    #[arg(long)]
    pub attributes: bool,
    /// What stands in standard input.
    #[arg(long, value_enum, default_value_t)]
    pub stdin: StdinKind,
    /// Keep in this file what was acknowledged, and leave that out when started again.
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// The most images a second.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// The most bytes a second.
    #[arg(long, value_name = "N")]
    pub bytes_rate: Option<f64>,
    /// Give up when no broker answers, or acknowledges a message, for so many seconds [default: 30].
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// A report in JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `--by`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The image's bytes; a row that has only an address sends that.
    #[default]
    Value,
    /// Its address, without bytes.
    Reference,
}

/// `--id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IdFrom {
    /// What the input has: a path, a key, a column.
    #[default]
    Auto,
    /// The sha256 of the image's bytes.
    Content,
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

    fn of_args(args: &PushArgs, config: Option<&Config>) -> anyhow::Result<Target<'static>> {
        Ok(match (config, &args.to, &args.brokers, &args.topic) {
            (Some(config), ..) => Target::new(config, args.topic.as_deref())?,
            (_, Some(folder), ..) => Target::Files(vec![format!("{}/*.jsonl", folder.display())]),
            (_, _, Some(brokers), Some(topic)) => {
                let brokers = brokers.clone();
                let source = config::Source { brokers, ..config::Source::default() };
                Target::Topic { source, topic: topic.clone() }
            }
            _ => {
                let why = "push needs a target: --to DIR (a file log, no broker needed), --config \
                           FILE (its source), or --brokers HOST:PORT with --topic NAME";
                return Err(BadConfig(why.into()).into());
            }
        })
    }
}

impl Target<'_> {
    /// For the journal: a push to somewhere else is another push.
    fn name(&self) -> String {
        match self {
            Target::Topic { source, topic } => format!("topic {topic} at {}", source.brokers),
            Target::Files(patterns) => patterns.join(", "),
            Target::Log(_) => "an open log".into(),
        }
    }
}

impl PushArgs {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(PATIENCE_SECONDS).max(1))
    }

    /// What no push can do.
    fn check(&self) -> Result<(), BadConfig> {
        for (name, rate) in [("--rate", self.rate), ("--bytes-rate", self.bytes_rate)] {
            if rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
                return Err(BadConfig(format!("{name} must be more than 0")));
            }
        }
        if self.by == By::Reference && self.id == IdFrom::Content {
            let why = "--id content needs the bytes, which --by reference does not read";
            return Err(BadConfig(why.into()));
        }
        Ok(())
    }
}

/// Sends images as the arguments say; `config` is what `args.config` names, read. Failures, progress
/// (on a terminal) and the outcome go to `out`. Images that were not sent are in the report and are
/// no error; an error is what kept the work from beginning, and [`Report::cut_off`] what ended it.
pub fn push(
    args: &PushArgs,
    config: Option<&Config>,
    out: &mut dyn Write,
) -> anyhow::Result<Report> {
    args.check()?;
    let mut target = Target::of_args(args, config)?;
    let key = config.map_or(KeySource::Message, |config| config.source.key.clone());
    Sender::begin(args, config, key, &mut target, out)?.run()
}

/// Sends a folder or a list, quietly; the report has the ids.
pub fn push_folder(images: &Path, target: &mut Target<'_>) -> anyhow::Result<Report> {
    let args = PushArgs { inputs: vec![images.to_owned()], ..PushArgs::default() };
    let out = &mut std::io::sink();
    let mut sender = Sender::begin(&args, None, KeySource::Message, target, out)?;
    sender.keep_ids();
    let report = sender.run()?;
    match &report.cut_off {
        Some(why) => bail!("{why}"),
        None => Ok(report),
    }
}

/// Writes a tombstone for each id. Gives their number once the log has all of them for good.
pub fn takedown(ids: &[String], target: &mut Target<'_>) -> anyhow::Result<usize> {
    let mut sink = Sink::open(target, Duration::from_secs(PATIENCE_SECONDS))?;
    let mut failed = Vec::new();
    let mut ended = Ok(());
    for id in ids {
        ended = sink.send(Mark::default(), id, None, &[]);
        if ended.is_err() {
            break;
        }
        failed.extend(sink.outcomes().into_iter().filter_map(|o| Some((o.id, o.sent.err()?))));
    }
    sink.finish()?;
    failed.extend(sink.outcomes().into_iter().filter_map(|o| Some((o.id, o.sent.err()?))));
    ended?;
    match failed.first() {
        Some((id, why)) => bail!("{} of {} not sent: {id}: {why}", failed.len(), ids.len()),
        None => Ok(ids.len()),
    }
}
