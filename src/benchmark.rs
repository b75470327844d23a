//! `everpair block`: keeps the images of an evaluation set, and copies of them, out of the training
//! set. What matches is turned away when it arrives, and taken down where it is live already.

pub mod keeper;
pub mod live;
pub mod measure;
pub mod objects;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::Args;
use operators::{
    benchmarks::{Match, Set},
    embed::Encoders,
};
use schemas::{
    Channel, ContentId,
    benchmark::{self, CHANNELS, Header, Images, Vectors},
    config::Config,
    limits,
    tables::{BlockedRow, ImageRow},
};
use serde_json::{Value, json};

use crate::{
    cli::{BadConfig, read_config},
    dataset::{At, Dataset},
    delta::{self, Store},
    errln, outln,
    push::images,
    requests::{self, Request},
    service, settings,
};

/// Unreadable images and matches that a person is shown; of more the number is told.
const SHOWN: usize = 20;

/// Keeps an evaluation set out.
#[derive(Args, Debug)]
pub struct BlockArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What the set is called: letters, digits, dots, dashes and underscores. Under a name that is
    /// taken the images come in addition to those that it has.
    #[arg(long, value_name = "NAME")]
    pub benchmark: String,
    /// Its images: folders, tars, Parquet files, lists (.jsonl, .csv) or images, as push takes them.
    /// Nothing is kept of them but names, hashes and vectors.
    #[arg(long, value_name = "DIR|LIST", required = true, num_args = 1..)]
    pub images: Vec<PathBuf>,
    /// Of semantic or pattern: the cosine from which an image is a copy, or off. By default the upper
    /// end of the channel's highest band, where near-duplicates begin.
    #[arg(long = "threshold", value_name = "CHANNEL=COSINE")]
    pub thresholds: Vec<String>,
    /// The most bits of 64 in which perceptual hashes of copies differ, or off [default: 4].
    #[arg(long, value_name = "BITS")]
    pub phash_bits: Option<String>,
    /// Block the others where some images cannot be read; else nothing is blocked then.
    #[arg(long)]
    pub skip_unreadable: bool,
    /// Why, for the table `blocked`.
    #[arg(long)]
    pub reason: Option<String>,
    /// Only show which live images are of the set.
    #[arg(long)]
    pub dry_run: bool,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// When something is a copy.
struct Rules {
    phash_bits: Option<u32>,
    /// By channel of [`CHANNELS`], in units of 2^-30.
    thresholds: [Option<i32>; 2],
}

fn rules(args: &BlockArgs, config: &Config) -> anyhow::Result<Rules> {
    let bad = |why: String| BadConfig(why);
    let phash_bits = match args.phash_bits.as_deref() {
        None => Some(limits::BENCHMARK_PHASH_BITS),
        Some("off") => None,
        Some(text) => {
            let most = limits::BENCHMARK_PHASH_BITS_MAX;
            let bits = text.parse().ok().filter(|bits| *bits <= most);
            Some(bits.ok_or_else(|| bad(format!("--phash-bits: 0 to {most}, or off: {text}")))?)
        }
    };
    let mining = settings::mining(config)?;
    // A band's upper end is where near-duplicates begin.
    let highest = |channel: Channel| mining.bands[channel.index()].last().map(|band| band.hi);
    let mut thresholds = CHANNELS.map(highest);
    for text in &args.thresholds {
        let why = || {
            bad(format!(
                "--threshold {text}: CHANNEL=COSINE, of the channel semantic or pattern, the cosine \
                 above 0 and at most 1, or off; such as semantic=0.97 or pattern=off"
            ))
        };
        let (channel, cosine) = text.split_once('=').ok_or_else(why)?;
        let at = CHANNELS.iter().position(|known| known.as_str() == channel).ok_or_else(why)?;
        thresholds[at] = match cosine {
            "off" => None,
            _ => {
                let cosine = cosine.parse::<f64>().ok().filter(|c| *c > 0.0 && *c <= 1.0);
                let cosine = cosine.ok_or_else(why)?;
                Some((cosine * f64::from(kernels::vector::UNIT)).ceil() as i32)
            }
        };
    }
    Ok(Rules { phash_bits, thresholds })
}

/// Reads the set, writes what is kept of it, shows what it meets, and asks the service to block it.
///
/// # Errors
/// Images cannot be read, or the tables; the message says what to do.
pub fn block(args: &BlockArgs) -> anyhow::Result<()> {
    if !benchmark::is_name(&args.benchmark) {
        let why = "--benchmark: 1 to 64 letters, digits, dots, dashes and underscores, the first \
                   a letter or a digit";
        return Err(BadConfig(why.into()).into());
    }
    let config = read_config(&args.config)?;
    let rules = rules(args, &config)?;
    let encoders = settings::settings(&config)?.encoders;
    let store = service::open_store(&config)?;
    let (epoch, blocked) = check_tables(&config, &store)?;

    let measured = measure::measure(&args.images, &encoders)?;
    for (place, why) in measured.unreadable.iter().take(SHOWN) {
        errln!("{place}: {why}");
    }
    let unreadable = measured.unreadable.len();
    if unreadable > SHOWN {
        errln!("and {} more", unreadable - SHOWN);
    }
    let images = measured.images;
    if images.names.is_empty() {
        if unreadable == 0 {
            let named: Vec<String> =
                args.images.iter().map(|input| input.display().to_string()).collect();
            let why = format!(
                "--images {}: there are no images in it (files of {}, or rows of a list, a tar or a \
                 Parquet file), so there is nothing to block",
                named.join(" "),
                images::ENDINGS.join(", ")
            );
            return Err(BadConfig(why).into());
        }
        bail!("no image could be read, see above, so there is nothing to block");
    }
    if unreadable > 0 && !args.skip_unreadable {
        bail!(
            "{unreadable} of the images could not be read, see above, and nothing was blocked; \
             with --skip-unreadable the other {} are",
            images.names.len()
        );
    }
    let header = header(&args.benchmark, &rules, &images, &encoders);
    let told = images.names.len();
    describe(&header, &encoders);
    let (value, images) = match args.dry_run {
        true => (String::new(), images),
        false => (objects::write(&store, header.clone(), &images)?, images),
    };
    let set = Set::new(&value, &header, images, &encoders).map_err(anyhow::Error::msg)?;
    let live = live::find(&store, &set, &encoders)?;
    let matches = matches(&store, &live.contents)?;
    say_matches(&matches, &set, epoch);
    if !args.dry_run {
        ask(args, &store, &value, &blocked)?;
    }
    if args.json {
        let lines: Vec<Value> = matches
            .iter()
            .map(|(id, of)| json!({ "image_id": id, "by": of.by.as_str(), "detail": set.words(*of) }))
            .collect();
        outln!(
            "{:#}",
            json!({
                "benchmark": args.benchmark,
                "value": (!args.dry_run).then_some(value),
                "images": told,
                "unreadable": unreadable,
                "epoch": epoch,
                "live": lines,
            })
        );
    }
    Ok(())
}

/// Asks the service to block the set, unless it is blocked already.
fn ask(args: &BlockArgs, store: &Store, value: &str, blocked: &[BlockedRow]) -> anyhow::Result<()> {
    let (name, kind) = (&args.benchmark, operators::benchmarks::KIND);
    let held = |row: &&BlockedRow| row.kind == kind && row.value == value;
    if let Some(BlockedRow { epoch, .. }) = blocked.iter().find(held) {
        errln!(
            "{name} is blocked with these images and rules since epoch {epoch}: nothing is to be done"
        );
        return Ok(());
    }
    let others = objects::values(blocked).filter_map(benchmark::parse_value);
    let others = others.filter(|(other, _)| other == name).count();
    if others > 0 {
        let versions = if others == 1 { "version" } else { "versions" };
        errln!(
            "{name} is blocked already with other images or rules: its {others} earlier {versions} \
             stay in force beside this one"
        );
    }
    let row = BlockedRow {
        kind: kind.into(),
        value: value.to_owned(),
        reason: args.reason.clone(),
        epoch: 0,
    };
    requests::ask(store, &Request { block: vec![row], ..Request::default() })?;
    errln!("asked to block {name}; it takes effect with the next epoch of the service");
    Ok(())
}

/// The newest epoch, and what is blocked. Vectors must be those of the tables, so the config must be
/// theirs.
fn check_tables(config: &Config, store: &Store) -> anyhow::Result<(Option<u64>, Vec<BlockedRow>)> {
    let Some(latest) = delta::read_latest(store)? else { return Ok((None, Vec::new())) };
    service::check_config(config, &latest).context("nothing was blocked")?;
    let rows = Dataset::open(store, &At::Latest)?.rows::<BlockedRow>()?;
    if objects::values(&rows).count() >= limits::BENCHMARKS_MAX {
        bail!("{} benchmarks are blocked, and more are not taken", limits::BENCHMARKS_MAX);
    }
    Ok((Some(latest.epoch), rows))
}

fn header(name: &str, rules: &Rules, images: &Images, encoders: &Encoders) -> Header {
    let mut channels = BTreeMap::new();
    for (at, channel) in CHANNELS.into_iter().enumerate() {
        let with = images.vectors[at].iter().flatten().count();
        if let (Some(threshold), Some(encoder), true) =
            (rules.thresholds[at], encoders.id(channel), with > 0)
        {
            channels.insert(channel, Vectors { encoder, threshold, images: with });
        }
    }
    Header {
        name: name.to_owned(),
        images: images.names.len(),
        phash_bits: rules.phash_bits,
        channels,
        data: String::new(),
    }
}

fn describe(header: &Header, encoders: &Encoders) {
    let mut by = vec!["the same bytes".to_owned()];
    by.extend(header.phash_bits.map(|bits| format!("perceptual hashes within {bits} bits")));
    for channel in CHANNELS {
        let name = channel.as_str();
        match header.channels.get(&channel) {
            Some(vectors) => {
                let edge = settings::edge_text(vectors.threshold.into());
                by.push(format!("{name} scores from {edge} ({} vectors)", vectors.images));
            }
            None if encoders.given[channel.index()].is_some() => {
                errln!("{name}: the images came without vectors, so these are not compared");
            }
            None => {}
        }
    }
    errln!("benchmark {}: {} images; a copy has {}", header.name, header.images, by.join(", or "));
}

/// Live images that are of the set, by id.
fn matches(
    store: &Store,
    contents: &HashMap<ContentId, Match>,
) -> anyhow::Result<BTreeMap<String, Match>> {
    let mut matches = BTreeMap::new();
    if contents.is_empty() {
        return Ok(matches);
    }
    for row in Dataset::open(store, &At::Latest)?.rows::<ImageRow>()? {
        let of = ContentId::parse(&row.content_id).and_then(|id| contents.get(&id));
        matches.extend(of.map(|of| (row.image_id, *of)));
    }
    Ok(matches)
}

fn say_matches(matches: &BTreeMap<String, Match>, set: &Set, epoch: Option<u64>) {
    let Some(epoch) = epoch else {
        errln!("there is no committed epoch yet, so no image is live");
        return;
    };
    let of = if matches.len() == 1 { "image of epoch" } else { "images of epoch" };
    errln!("{} live {of} {epoch} found in it", matches.len());
    for (id, of) in matches.iter().take(SHOWN) {
        errln!("  {id}: {}", set.words(*of));
    }
    if matches.len() > SHOWN {
        errln!("  and {} more; --json lists all", matches.len() - SHOWN);
    }
}
