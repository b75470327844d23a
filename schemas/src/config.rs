//! The config file: TOML, every key documented in `deploy/everpair.toml`, unknown keys refused.
//!
//! Environment variables fill secrets only. A value that cannot work is refused here, with words
//! that say what would.

mod annotator;
mod audit;
mod channels;
mod fetch;
mod filter;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

pub use self::{
    annotator::{
        Annotator, AnnotatorKind, AnnotatorStart, Captioner, Fallback, PromptFiles, ResponseFormat,
        Transport,
    },
    audit::{Audit, Judge, Label, Verdict},
    channels::{ChannelConfig, Channels},
    fetch::{Fetch, Scheme},
    filter::{Filter, LANGUAGES},
};
use crate::{Channel, limits, message::KeySource, secret::Shown};

/// The whole config.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where messages come from.
    pub source: Source,
    /// Whose bytes may be fetched for messages that are references.
    #[serde(default)]
    pub fetch: Fetch,
    /// Where tables go.
    pub tables: Tables,
    /// Encoders and bands.
    #[serde(default)]
    pub channels: Channels,
    /// Rules 5 and 6.
    #[serde(default)]
    pub pairs: Pairs,
    /// Who writes instructions.
    #[serde(default)]
    pub annotator: Annotator,
    /// Who writes captions for images that have none.
    #[serde(default)]
    pub captioner: Option<Captioner>,
    /// Whether instructions need their images.
    #[serde(default)]
    pub audit: Audit,
    /// Whether instructions lead to their targets.
    #[serde(default)]
    pub judge: Option<Judge>,
    /// Which training rows stay.
    #[serde(default)]
    pub triplets: Triplets,
    /// What is kept of an image's bytes.
    #[serde(default)]
    pub contents: Contents,
    /// Rules on single images.
    #[serde(default)]
    pub screen: Screen,
    /// Rules on instructions.
    #[serde(default)]
    pub filter: Filter,
    /// When an epoch is cut.
    #[serde(default)]
    pub epoch: EpochCut,
    /// How the service runs.
    #[serde(default)]
    pub service: Service,
}

/// `[source]`: either `brokers` and `topics`, or `files`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Kafka's bootstrap servers, `host:port,host:port`.
    pub brokers: String,
    /// Topics to read, every partition of them.
    pub topics: Vec<String>,
    /// A file log: paths or `*` patterns, relative to the config's folder; a file is a partition.
    pub files: Vec<String>,
    /// Where the image id comes from.
    #[serde(deserialize_with = "key_source")]
    pub key: KeySource,
    /// What to do when the broker no longer has the next offset.
    pub on_offset_gone: OnOffsetGone,
    /// Further settings for librdkafka (`security.protocol`, …), passed through as they are.
    pub settings: BTreeMap<String, String>,
}

/// `on_offset_gone`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOffsetGone {
    /// Stop, and say what is missing.
    #[default]
    Fail,
    /// Go on at the earliest offset there is.
    Earliest,
}

/// `[tables]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// A folder, relative to the config's folder, or a URL: `s3://bucket/path`, `gs://`, `az://`.
    pub root: String,
    /// Settings of the object store (`endpoint`, `region`, …), passed through as they are.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// How long a request that an object store fails is tried again before the service stops.
    #[serde(default = "retry_time", deserialize_with = "duration")]
    pub retry_time: Duration,
    /// How long objects stay that no kept epoch and no snapshot needs.
    #[serde(default = "retention", deserialize_with = "duration")]
    pub retention: Duration,
}

fn retention() -> Duration {
    limits::RETENTION
}

fn retry_time() -> Duration {
    limits::STORE_RETRY_TIME
}

// Without the secrets; what else is in it speaks for itself in the file.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("brokers", &self.brokers)
            .field("topics", &self.topics)
            .field("files", &self.files)
            .field("key", &self.key)
            .field("settings", &Shown(&self.settings))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Tables");
        shown.field("root", &self.root).field("settings", &Shown(&self.settings));
        shown.finish_non_exhaustive()
    }
}

/// `[pairs]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pairs {
    /// Rule 5.
    pub targets_per_query: usize,
    /// Rule 6.
    pub hard_negatives: usize,
}

impl Default for Pairs {
    fn default() -> Self {
        Pairs {
            targets_per_query: limits::TARGETS_PER_QUERY,
            hard_negatives: limits::HARD_NEGATIVES,
        }
    }
}

/// `[triplets]`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Triplets {
    /// Which rows stay (I9).
    pub keep: Keep,
}

/// `[triplets] keep`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// What was answered stays while its images live.
    #[default]
    Annotated,
    /// Only what is in `pairs` now.
    Mined,
}

/// `[contents]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contents {
    /// What is kept of an image's bytes.
    pub store: StoreKind,
    /// Contents that no live image has any more, and that are remembered at least.
    pub keep_dead: u64,
}

impl Default for Contents {
    fn default() -> Self {
        Contents { store: StoreKind::default(), keep_dead: limits::CONTENTS_KEPT_DEAD }
    }
}

/// `[contents] store`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A JPEG with long side at most 512, as the MegaPairs authors released theirs.
    #[default]
    Resized,
    /// The bytes as they came.
    Original,
    /// Nothing but `uri`.
    Reference,
}

/// `[screen]`: an image outside is rejected with the value and the limit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Screen {
    /// Most encoded bytes.
    #[serde(deserialize_with = "byte_count")]
    pub encoded_bytes_max: usize,
    /// Most pixels.
    pub pixels_max: u64,
    /// Shortest short side, pixels (DataComp and COYO take 200 for photos from the web).
    pub side_min: u32,
    /// Longest long side over short side (DataComp and COYO).
    pub aspect_max: f64,
    /// Least variance of the Laplacian at long side 256; 0 is off.
    pub blur_min: f64,
    /// Least entropy of the grey histogram, bits; 0 is off.
    pub entropy_min: f64,
    /// Least 99th percentile of brightness (cleanvision's `dark`); 0 is off.
    pub bright_end_min: f64,
    /// Most 5th percentile of brightness (cleanvision's `light`); 1 is off.
    pub dark_end_max: f64,
}

impl Default for Screen {
    fn default() -> Self {
        Screen {
            encoded_bytes_max: limits::ENCODED_BYTES_MAX,
            pixels_max: limits::PIXELS_MAX,
            side_min: 64,
            aspect_max: 3.0,
            blur_min: 10.0,
            entropy_min: 0.5,
            bright_end_min: 0.1,
            dark_end_max: 0.99,
        }
    }
}

/// `[epoch]`: whichever comes first cuts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EpochCut {
    /// Most messages.
    pub rows: usize,
    /// Most encoded bytes.
    #[serde(deserialize_with = "byte_count")]
    pub bytes: usize,
    /// Longest wait for more; 1 s on a folder and 60 s on an object store unless it is said.
    #[serde(deserialize_with = "some_duration")]
    pub linger: Option<Duration>,
}

impl Default for EpochCut {
    fn default() -> Self {
        EpochCut { rows: limits::EPOCH_ROWS, bytes: limits::EPOCH_BYTES, linger: None }
    }
}

/// `[service]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// Dataflow workers; 0 is one per core.
    pub workers: usize,
    /// Newest epoch files kept under `_everpair/epochs/`.
    pub epochs_kept: usize,
    /// Longest time between a signal to stop and the end of the process.
    #[serde(deserialize_with = "duration")]
    pub stop_within: Duration,
    /// Where the console listens; nowhere unless it is said. Port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Most messages behind the end of the source of a service that is ready.
    pub ready_lag: u64,
    /// Longest time that a service that is ready may have work and commit nothing.
    #[serde(deserialize_with = "duration")]
    pub ready_age: Duration,
    /// A thread that shows no sign of life for so long is stuck.
    #[serde(deserialize_with = "duration")]
    pub stuck_after: Duration,
}

impl Default for Service {
    fn default() -> Self {
        Service {
            workers: 0,
            epochs_kept: 1_000,
            stop_within: limits::STOP_WITHIN,
            listen: None,
            ready_lag: limits::READY_LAG,
            ready_age: limits::READY_AGE,
            stuck_after: limits::STUCK_AFTER,
        }
    }
}

/// Why a config cannot be used, in words that say what could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

impl EpochCut {
    /// Longest wait for more: every epoch costs an object store a dozen requests.
    pub fn linger(&self, tables: &Tables) -> Duration {
        let default =
            if tables.is_remote() { limits::LINGER_REMOTE } else { limits::LINGER_FOLDER };
        self.linger.unwrap_or(default)
    }
}

impl Tables {
    /// Whether the root is an object store and not a folder.
    pub fn is_remote(&self) -> bool {
        self.root.contains("://")
    }
}

impl Config {
    /// Reads and checks a config. What only the machine can tell (does the broker answer?) is for
    /// `everpair validate`.
    pub fn parse(text: &str) -> Result<Config, Invalid> {
        let mut config: Config = toml::from_str(text).map_err(|e| Invalid(e.to_string()))?;
        config.annotator.captioner = config.captioner.as_ref().map(|captioner| {
            captioner.model.clone().unwrap_or_else(|| config.annotator.describer().to_owned())
        });
        config.annotator.judge = config.judge.clone();
        let builtin = Channels::default();
        for (channel, default) in [
            (&mut config.channels.semantic, builtin.semantic),
            (&mut config.channels.pattern, builtin.pattern),
            (&mut config.channels.caption, builtin.caption),
        ] {
            if channel.encoder.is_empty() {
                channel.encoder = default.encoder;
            }
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Invalid> {
        let fail = |text: String| Err(Invalid(text));
        let kafka = !self.source.brokers.is_empty() || !self.source.topics.is_empty();
        match (kafka, !self.source.files.is_empty()) {
            (false, false) => return fail("[source] needs brokers and topics, or files".into()),
            (true, true) => {
                return fail(
                    "[source] has brokers or topics, and files: a service reads from one of them; \
                     take the other out"
                        .into(),
                );
            }
            _ => {}
        }
        if kafka && (self.source.brokers.is_empty() || self.source.topics.is_empty()) {
            return fail("[source] brokers and topics go together".into());
        }
        let mut topics: Vec<&str> = self.source.topics.iter().map(String::as_str).collect();
        topics.sort_unstable();
        if topics.contains(&"") {
            return fail("[source] topics names an empty topic".into());
        }
        if let Some(twice) = topics.windows(2).find(|two| two[0] == two[1]) {
            return fail(format!("[source] topics names {:?} twice", twice[0]));
        }
        if self.tables.root.is_empty() {
            return fail("[tables] root is empty; name a folder".into());
        }
        self.check_patterns()?;
        self.fetch.check()?;
        self.check_annotator()?;
        for channel in Channel::ALL {
            check_channel(channel, self.channels.get(channel))?;
        }
        let range = |name: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Invalid(format!("{name} = {value}: must be {low} to {high}")))
        };
        range("[pairs] targets_per_query", self.pairs.targets_per_query, 1, 100)?;
        range("[pairs] hard_negatives", self.pairs.hard_negatives, 0, 100)?;
        range("[epoch] rows", self.epoch.rows, 1, 1_000_000)?;
        range("[epoch] bytes", self.epoch.bytes, 1, 64 << 30)?;
        range("[service] workers", self.service.workers, 0, 256)?;
        range("[service] epochs_kept", self.service.epochs_kept, 1, 1_000_000)?;
        self.check_lists()?;
        self.screen.check()?;
        self.filter.check()?;
        range("[screen] encoded_bytes_max", self.screen.encoded_bytes_max, 1, 1 << 30)
    }

    /// Before [`Config::resolve`]: what stands in front of these patterns then, the config's own
    /// folder, is no pattern, whatever characters are in its name.
    fn check_patterns(&self) -> Result<(), Invalid> {
        let folder = |pattern: &str| {
            pattern.rsplit_once('/').is_some_and(|(folder, _)| folder.contains('*'))
        };
        match self.source.files.iter().find(|pattern| folder(pattern)) {
            Some(pattern) => Err(Invalid(format!(
                "[source] files = [{pattern:?}]: a * may stand in the file's name only, not in a \
                 folder's"
            ))),
            None => Ok(()),
        }
    }

    fn check_annotator(&self) -> Result<(), Invalid> {
        self.annotator.check()?;
        self.audit.check()?;
        if self.captioner.is_some() && self.annotator.kind != AnnotatorKind::OpenAi {
            return Err(Invalid(
                "[captioner] asks the endpoint of [annotator] and draws on its budget: it needs \
                 [annotator] kind = \"openai\""
                    .into(),
            ));
        }
        if self.captioner.is_some() && self.channels.caption.encoder == "given" {
            return Err(Invalid(
                "[captioner] and [channels.caption] encoder = \"given\" do not go together: vectors \
                 come with messages, and a caption that is written later has none"
                    .into(),
            ));
        }
        if self.captioner.as_ref().is_some_and(|own| own.model.as_deref() == Some("")) {
            return Err(Invalid("[captioner] model is empty: name one, or leave it out".into()));
        }
        let blind = self.annotator.images == 0;
        if self
            .annotator
            .captioner
            .as_deref()
            .is_some_and(|own| blind && own == self.annotator.describer())
        {
            return Err(Invalid(
                "[captioner] sends images, and [annotator] images = 0 says that its model sees none: \
                 name a model that does in [captioner] model"
                    .into(),
            ));
        }
        if let Some(judge) = &self.judge {
            if !self.annotator.calls() {
                return Err(Invalid(
                    "[judge] looks at answers before they enter, by the client of [annotator]: it needs \
                     kind = \"openai\" and transport = \"online\""
                        .into(),
                ));
            }
            judge.check([self.annotator.describer(), &self.annotator.model])?;
        }
        let sends = !blind || self.captioner.is_some() || self.judge.is_some();
        let asks = self.annotator.kind == AnnotatorKind::OpenAi && sends;
        match asks && self.contents.store == StoreKind::Reference {
            true => Err(Invalid(
                "[annotator] kind = \"openai\" sends stored images, and [contents] store = \
                 \"reference\" keeps none: use \"resized\" or \"original\""
                    .into(),
            )),
            false => Ok(()),
        }
    }

    /// Rule 5 against rule 3: what all lists together can hold.
    fn check_lists(&self) -> Result<(), Invalid> {
        let of = |channel: Channel| {
            let channel = self.channels.get(channel);
            channel.neighbors * channel.band.as_ref().map_or(1, Vec::len)
        };
        let (asked, most) = (self.pairs.targets_per_query, Channel::ALL.map(of).iter().sum());
        if asked <= most {
            return Ok(());
        }
        Err(Invalid(format!(
            "[pairs] targets_per_query = {asked}: all lists of neighbors together hold {most}; \
             raise [channels.*] neighbors or ask for fewer"
        )))
    }

    /// Paths in the config are relative to the folder that it stands in.
    pub fn resolve(&mut self, folder: &std::path::Path) {
        let absolute = |path: &str| -> String {
            if path.contains("://") {
                return path.to_owned();
            }
            let path = PathBuf::from(path);
            if path.is_absolute() { path } else { folder.join(path) }.to_string_lossy().into()
        };
        self.tables.root = absolute(&self.tables.root);
        let PromptFiles { describe, instruct, caption, judge } = &mut self.annotator.prompts;
        let prompts = describe.iter_mut().chain(instruct).chain(caption).chain(judge);
        for path in self.source.files.iter_mut().chain(&mut self.fetch.folders).chain(prompts) {
            *path = absolute(path);
        }
        let Channels { semantic, pattern, caption } = &mut self.channels;
        for channel in [semantic, pattern, caption] {
            if channel.checkpoint().is_some() && !channel.encoder.starts_with("hf:") {
                channel.encoder = absolute(&channel.encoder);
            }
        }
    }
}

fn within(name: &str, value: f64, low: f64, high: f64) -> Result<(), Invalid> {
    // A number that is none is in no range.
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Invalid(format!("{name} = {value}: must be {low} to {high}")))
}

impl Screen {
    /// Limits that no image could pass, and numbers that are none.
    fn check(&self) -> Result<(), Invalid> {
        within("[screen] aspect_max", self.aspect_max, 1.0, f64::from(limits::SIDE_MAX))?;
        within("[screen] blur_min", self.blur_min, 0.0, 1e6)?;
        within("[screen] entropy_min", self.entropy_min, 0.0, 8.0)?;
        within("[screen] bright_end_min", self.bright_end_min, 0.0, 1.0)?;
        within("[screen] dark_end_max", self.dark_end_max, 0.0, 1.0)?;
        let (side, max) = (self.side_min, limits::SIDE_MAX);
        if side > max {
            return Err(Invalid(format!("[screen] side_min = {side}: must be 0 to {max}")));
        }
        let least = u64::from(side.max(1)).pow(2);
        if self.pixels_max < least {
            return Err(Invalid(format!(
                "[screen] pixels_max = {}: an image with side_min = {side} has at least {least}",
                self.pixels_max
            )));
        }
        Ok(())
    }
}

fn check_channel(channel: Channel, config: &ChannelConfig) -> Result<(), Invalid> {
    let name = channel.as_str();
    if config.neighbors == 0 || config.neighbors > limits::NEIGHBORS_MAX {
        let (n, max) = (config.neighbors, limits::NEIGHBORS_MAX);
        return Err(Invalid(format!("[channels.{name}] neighbors = {n}: must be 1 to {max}")));
    }
    match (config.encoder == "given", config.dim) {
        (true, Some(dim)) if (1..=limits::DIM_MAX).contains(&dim) => {}
        (false, None) => {}
        (true, _) => {
            let max = limits::DIM_MAX;
            return Err(Invalid(format!("[channels.{name}] \"given\" needs dim, 1 to {max}")));
        }
        (false, Some(_)) => {
            return Err(Invalid(format!("[channels.{name}] dim goes with encoder = \"given\"")));
        }
    }
    let Some(bands) = &config.band else {
        if config.encoder.starts_with("builtin:") {
            return Ok(());
        }
        return Err(Invalid(format!(
            "[channels.{name}] needs a band: raw cosines of different encoders do not compare"
        )));
    };
    if bands.is_empty() {
        return Err(Invalid(format!("[channels.{name}] band is empty")));
    }
    for &(low, high) in bands {
        if !(-1.0..=1.0).contains(&low) || !(-1.0..=1.0).contains(&high) || low >= high {
            let band = format!("[{low}, {high}]");
            let why = "must be low < high, both from -1 to 1";
            return Err(Invalid(format!("[channels.{name}] band = {band}: {why}")));
        }
    }
    // As mining counts: ⌈edge·2³⁰⌉ (rule 2).
    let edge = |cosine: f64| (cosine * f64::from(1u32 << 30)).ceil();
    if let Some((low, high)) = bands.iter().find(|(low, high)| edge(*low) >= edge(*high)) {
        return Err(Invalid(format!(
            "[channels.{name}] band = [{low}, {high}]: no score lies between, they are multiples \
             of 2^-30"
        )));
    }
    let mut sorted = bands.clone();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    if sorted.windows(2).any(|w| w[1].0 < w[0].1) {
        return Err(Invalid(format!("[channels.{name}] bands must not overlap")));
    }
    Ok(())
}

fn key_source<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeySource, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "message" => Ok(KeySource::Message),
        "content" => Ok(KeySource::Content),
        _ => match text.strip_prefix("header:") {
            Some(name) if !name.is_empty() => Ok(KeySource::Header(name.to_owned())),
            _ => Err(D::Error::custom("key: must be \"message\", \"content\" or \"header:NAME\"")),
        },
    }
}

/// Splits `"256 MiB"` into its number and unit.
fn quantity(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

fn byte_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Bytes {
        Count(usize),
        Text(String),
    }
    let text = match Bytes::deserialize(deserializer)? {
        Bytes::Count(n) => return Ok(n),
        Bytes::Text(text) => text,
    };
    parse_bytes(&text)
        .ok_or_else(|| D::Error::custom(format!("{text:?}: write bytes as \"256 MiB\"")))
}

/// A number of bytes as a person writes it: `1000`, `64 KiB`, `256 MiB`, `1 GiB`.
pub fn parse_bytes(text: &str) -> Option<usize> {
    let factor = |unit: &str| match unit {
        "" | "B" => Some(1.0),
        "KiB" => Some(1024.0),
        "MiB" => Some(1024.0 * 1024.0),
        "GiB" => Some(1024.0 * 1024.0 * 1024.0),
        _ => None,
    };
    quantity(text).and_then(|(n, unit)| Some((n * factor(unit)?) as usize))
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// What a time looks like, for who wrote something else.
pub const DURATION_FORM: &str =
    "a time is a number from 0 and ms, s, min or h, such as \"200 ms\", \"1.5 s\" or \"10 min\"";

/// Reads a time as the config has it: `"200 ms"`, `"1 s"`, `"10 min"`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let seconds = |unit: &str| match unit {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "min" | "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let (number, unit) = quantity(text)?;
    Duration::try_from_secs_f64(number * seconds(unit)?).ok()
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| D::Error::custom(format!("{text:?}: {DURATION_FORM}")))
}

#[cfg(test)]
mod tests;
