//! `everpair calibrate`: bands for the corpus that is there.
//!
//! Cosines of different encoders do not compare, so a band can only be chosen by looking: at how
//! alike strangers are (random pairs), and at how alike an image and its own mild copies are. A
//! band begins above nearly all of the first and ends below nearly all of the second.
//!
//! ```text
//!  tables or folder ─► sample ─► scores ─► propose ─► mined (what the bands would give)
//!                        │                               │
//!                        └─ copies                       ├─► estimate: at the corpus's size, and ten times that
//!                                                        └─► page, text, JSON, config (edit)
//! ```
//!
//! What is written are constants. A quantile that moved with the corpus would retract pairs for no
//! reason that anyone could see.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use kernels::vector::Band;
use schemas::{Channel, config::Config, limits};

use crate::{cli, cli::BadConfig, errln, outln, print, settings};

mod copies;
pub mod edit;
mod estimate;
mod mined;
mod page;
mod propose;
pub mod report;
mod sample;
mod scores;

use self::{
    estimate::{Yield, Yields},
    mined::{Candidate, Found, Question},
    propose::Verdict,
    report::{ChannelReport, Report},
    sample::Sample,
    scores::Histogram,
};

/// `everpair calibrate`.
#[derive(Args, Debug)]
pub struct CalibrateArgs {
    /// The config file (TOML): its tables are sampled, its encoders used.
    #[arg(long, value_name = "FILE", required_unless_present = "images")]
    pub config: Option<PathBuf>,
    /// Sample this folder (or .jsonl/.csv list) of images instead, before there are tables.
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Images in the sample, at most.
    #[arg(long, default_value_t = limits::CALIBRATE_SAMPLE)]
    pub sample: usize,
    /// Another seed takes another sample; the same one gives the same answer.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Cut each proposed band into so many of equal width, each of which fills its own neighbors.
    #[arg(long, default_value_t = 1, value_name = "K")]
    pub sub_bands: usize,
    /// Write a page with histograms and pairs at each level of score.
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
    /// Write the proposed bands into the config file.
    #[arg(long, requires = "config")]
    pub write: bool,
    /// The whole report as JSON on stdout, instead of the lines for the config.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments or config; tables or images that cannot be read; a config file that cannot be
/// edited safely; with `--write`, that there is nothing to write.
pub fn calibrate(args: &CalibrateArgs) -> anyhow::Result<()> {
    let range = |name: &str, value: usize, most: usize| match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(BadConfig(format!("--{name} {value}: must be 1 to {most}"))),
    };
    range("sample", args.sample, limits::CALIBRATE_SAMPLE_MAX)?;
    range("sub-bands", args.sub_bands, limits::CALIBRATE_SUB_BANDS_MAX)?;
    let config = match &args.config {
        Some(path) => read_config(path)?,
        None => builtin_config(),
    };
    let sample = match &args.images {
        Some(images) => sample::of_folder(&config, images, args.sample, args.seed)?,
        None => sample::of_tables(&config, args.sample, args.seed)?,
    };
    let (report, found) = report_of(&config, &sample, args)?;
    print::err(format_args!("{}", report.text()));
    let bands = report.bands();
    match args.json {
        true => outln!("{:#}", serde_json::to_value(&report)?),
        false => bands.iter().for_each(|band| print::out(format_args!("{}", band.snippet()))),
    }
    if let Some(out) = &args.out {
        let html = page::render(&report, &sample, &found);
        std::fs::write(out, html).with_context(|| out.display().to_string())?;
        errln!("wrote {}", out.display());
    }
    if let (true, Some(path)) = (args.write, &args.config) {
        if bands.is_empty() {
            bail!("no channel has a band to propose, see above; {} is as it was", path.display());
        }
        edit::write(path, &bands)?;
        errln!("wrote {} bands into {}", bands.len(), path.display());
    }
    Ok(())
}

/// The config, where a channel that still lacks its band may lack it: that is what is wanted here.
fn read_config(path: &Path) -> anyhow::Result<Config> {
    let bad = |why: String| BadConfig(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let mut table: toml::Table = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let Some(channels) = table.get_mut("channels").and_then(|c| c.as_table_mut()) else {
        return cli::read_config(path);
    };
    let mut lacking = false;
    for (_, channel) in channels.iter_mut() {
        let Some(channel) = channel.as_table_mut() else { continue };
        let encoder = channel.get("encoder").and_then(|e| e.as_str()).unwrap_or("builtin:");
        if !encoder.starts_with("builtin:") && !channel.contains_key("band") {
            let all = vec![toml::Value::Float(-1.0), toml::Value::Float(1.0)];
            channel.insert("band".into(), toml::Value::Array(all));
            lacking = true;
        }
    }
    match lacking {
        false => cli::read_config(path),
        true => cli::parse_config(path, &table.to_string()),
    }
}

/// For a folder without a config: the built-in encoders.
fn builtin_config() -> Config {
    let least = "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"tables\"\n";
    Config::parse(least).expect("the least config is one")
}

/// Everything there is to say.
fn report_of(
    config: &Config,
    sample: &Sample,
    args: &CalibrateArgs,
) -> anyhow::Result<(Report, Found)> {
    let mining = settings::mining(config)?;
    let encoders = settings::settings(config)?.encoders;
    let scored: [Option<(Histogram, Histogram)>; 3] = [0, 1, 2].map(|channel| {
        let vectors = sample.vectors[channel].as_ref().filter(|v| v.rows.len() > 1)?;
        Some(scores::pairs(&vectors.rows))
    });
    let verdicts: [Verdict; 3] = Channel::ALL.map(|channel| {
        let at = channel.index();
        let vectors = sample.vectors[at].as_ref().map_or(0, |vectors| vectors.rows.len());
        let random = scored[at].as_ref().map(|(random, _)| random);
        propose::propose(channel, vectors, random, &sample.copies[at], args.sub_bands)
    });
    let mut question = Question {
        sample,
        seed: args.seed,
        candidates: Default::default(),
        neighbors: mining.neighbors,
        levels: Default::default(),
    };
    for channel in 0..3 {
        let Some((random, _)) = &scored[channel] else { continue };
        let now = Candidate { bands: mining.bands[channel].clone() };
        let mut candidates = Vec::new();
        if let Some(proposal) = &verdicts[channel].proposal {
            candidates.push(Candidate { bands: proposal.bands.clone() });
            for stricter in &proposal.others {
                let (low, high) = (stricter.low, proposal.high);
                let band = Band::new(low, high).map_err(anyhow::Error::msg)?;
                candidates.push(Candidate { bands: vec![band] });
            }
        }
        candidates.push(now);
        question.candidates[channel] = candidates;
        question.levels[channel] = propose::levels(&verdicts[channel], random);
    }
    let found = mined::look(&question);
    let targets = config.pairs.targets_per_query;
    let channels = Channel::ALL.into_iter().filter_map(|channel| {
        let at = channel.index();
        let scored = scored[at].as_ref()?;
        let yields: Vec<Yields> = found.alone[at]
            .iter()
            .map(|others| yields_of(sample, Some(channel), others, None, targets))
            .collect();
        let encoder = encoders.id(channel)?;
        Some(ChannelReport::new(
            (channel, encoder),
            sample,
            scored,
            &verdicts[at],
            &mining.bands[at],
            &yields,
            (&question.levels[at], &found),
        ))
    });
    let channels: Vec<ChannelReport> = channels.collect();
    let together = yields_of(sample, None, &found.together, Some(&found.capped), targets);
    let silent = Channel::ALL.into_iter().filter(|c| scored[c.index()].is_none());
    let mut notes = sample.notes.clone();
    for channel in silent {
        notes.extend(verdicts[channel.index()].says.iter().cloned());
    }
    let report = Report {
        from: sample.from.clone(),
        seed: args.seed,
        sample_images: sample.images.len(),
        corpus_images: sample.corpus.round() as u64,
        counted: sample.scale() == 1.0,
        targets_per_query: targets,
        channels,
        together,
        notes,
    };
    Ok((report, found))
}

/// Yields from counts: of one channel's images that have a vector, scaled to all images, or of all.
fn yields_of(
    sample: &Sample,
    channel: Option<Channel>,
    others: &mined::Others,
    capped: Option<&[u32]>,
    targets: usize,
) -> Yields {
    let has = |image: &usize| match channel {
        Some(channel) => {
            sample.vectors[channel.index()].as_ref().is_some_and(|v| v.of(*image).is_some())
        }
        None => sample.vectors.iter().flatten().any(|v| v.of(*image).is_some()),
    };
    let images = sample.images.len();
    let of = |counts: &[u32]| -> Vec<u32> {
        (0..counts.len()).filter(has).map(|image| counts[image]).collect()
    };
    let (within, above, tenth) = (of(&others.within), of(&others.above), of(&others.tenth));
    let share = within.len() as f64 / images.max(1) as f64;
    let make = |pairs: (f64, f64), near: (f64, f64)| Yield {
        pairs_per_image: share * pairs.0,
        share_with_pair: share * pairs.1,
        share_near_duplicates: share * near.1,
    };
    let estimated = |scale: f64| {
        make(estimate::capped(&within, targets, scale), estimate::capped(&above, targets, scale))
    };
    let counted = capped.map_or(within.clone(), of);
    let sampled = make(estimate::counted(&counted, targets), estimate::counted(&above, targets));
    let scale = sample.scale();
    let tenth_scale = (images as f64 - 1.0) / (others.tenth.len() as f64 - 1.0).max(1.0);
    let from_a_tenth = make(estimate::capped(&tenth, targets, tenth_scale), (0.0, 0.0));
    Yields {
        sample: sampled,
        corpus: if scale == 1.0 { sampled } else { estimated(scale) },
        tenfold: estimated(10.0 * scale),
        from_a_tenth,
    }
}
