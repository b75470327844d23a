//! What calibration found, for a script, for a person, and for the config.

use std::{collections::BTreeMap, fmt::Write as _};

use kernels::vector::Band;
use schemas::Channel;
use serde::Serialize;

use super::{
    edit::NewBand,
    estimate::{Yield, Yields},
    mined::Found,
    propose::{HIGH_SHARE, LOW_SHARE, Verdict},
    sample::Sample,
    scores::{Histogram, cosine},
};

/// Bars of a histogram on the page.
const BARS: usize = 120;

/// Quantiles of some cosines.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    /// How many there are.
    pub count: u64,
    /// 0.5 % of them are below.
    pub q005: Option<f64>,
    /// 5 %.
    pub q05: Option<f64>,
    /// Half.
    pub median: Option<f64>,
    /// 95 %.
    pub q95: Option<f64>,
    /// 99.5 %.
    pub q995: Option<f64>,
}

impl Spread {
    fn of(histogram: &Histogram) -> Spread {
        Spread {
            count: histogram.total(),
            q005: histogram.quantile(0.005),
            q05: histogram.quantile(0.05),
            median: histogram.quantile(0.5),
            q95: histogram.quantile(0.95),
            q995: histogram.quantile(0.995),
        }
    }
}

/// A way to set a channel's bands, and what it gives by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// `low, high` of each band.
    pub bands: Vec<(f64, f64)>,
    /// The quantile of random pairs that the lower edge is, where it was chosen as one.
    pub low_share: Option<f64>,
    /// What it gives.
    pub yields: Yields,
}

/// A level of scores on the page.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Level {
    /// Lowest cosine.
    pub from: f64,
    /// Cosines are below.
    pub to: f64,
    /// Pairs of the sample, each once.
    pub pairs: u64,
}

/// Counts per bar, for drawing.
#[derive(Clone, Debug, Serialize)]
pub struct Drawn {
    /// Cosine where the first bar begins.
    pub from: f64,
    /// Cosine where the last bar ends.
    pub to: f64,
    /// Random pairs.
    pub random: Vec<u64>,
    /// Each image with its nearest.
    pub nearest: Vec<u64>,
    /// Images with their mild copies.
    pub copies: Vec<u64>,
}

/// One channel.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelReport {
    /// Its name.
    pub channel: Channel,
    /// Its encoder, as in `embeddings`.
    pub encoder: String,
    /// Sampled images with a vector.
    pub vectors: usize,
    /// All pairs of them.
    pub random: Spread,
    /// Each with its nearest other in the sample.
    pub nearest: Spread,
    /// Each with its own mild copies, by kind of copy.
    pub copies: BTreeMap<String, Spread>,
    /// All kinds.
    pub copies_all: Spread,
    /// The proposal; none where the channel does not separate, and `says` tells why.
    pub proposed: Option<Choice>,
    /// Other lower edges with the same upper edge.
    pub others: Vec<Choice>,
    /// What the config has now.
    pub now: Choice,
    /// Levels on the page, ascending.
    pub levels: Vec<Level>,
    /// The histograms on the page.
    pub drawn: Drawn,
    /// What a person should know, and do.
    pub says: Vec<String>,
}

/// The whole of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was sampled, in words.
    pub from: String,
    /// The seed.
    pub seed: u64,
    /// Mined images in the sample.
    pub sample_images: usize,
    /// Mined images in the corpus, estimated if the sample is only a part.
    pub corpus_images: u64,
    /// Whether the sample is the corpus, so that its yields are counted.
    pub counted: bool,
    /// Rule 5, as the config has it.
    pub targets_per_query: usize,
    /// Channels that have vectors.
    pub channels: Vec<ChannelReport>,
    /// All channels together (rules 3 to 5): proposed bands, and those in force where none is
    /// proposed.
    pub together: Yields,
    /// What a person should know.
    pub notes: Vec<String>,
}

fn edges(bands: &[Band]) -> Vec<(f64, f64)> {
    bands.iter().map(|band| (cosine(band.lo), cosine(band.hi))).collect()
}

impl ChannelReport {
    /// From what was measured; `yields` are those of the candidates in `mined`: the proposal, other
    /// lower edges, the config's bands.
    pub(super) fn new(
        (channel, encoder): (Channel, String),
        sample: &Sample,
        (random, nearest): &(Histogram, Histogram),
        verdict: &Verdict,
        now: &[Band],
        yields: &[Yields],
        (levels, found): (&[i32], &Found),
    ) -> ChannelReport {
        let at = channel.index();
        let mut all = Histogram::default();
        let mut by_kind = BTreeMap::new();
        for (kind, scores) in &sample.copies[at] {
            let mut histogram = Histogram::default();
            scores.iter().for_each(|score| histogram.add(*score));
            all.merge(&histogram);
            by_kind.insert((*kind).to_owned(), Spread::of(&histogram));
        }
        let proposed = verdict.proposal.as_ref().map(|proposal| Choice {
            bands: proposal.edges.clone(),
            low_share: Some(LOW_SHARE),
            yields: yields[0],
        });
        let others = verdict.proposal.iter().flat_map(|proposal| {
            proposal.others.iter().zip(&yields[1..]).map(|(other, yields)| Choice {
                bands: vec![(other.low, proposal.high)],
                low_share: Some(other.share),
                yields: *yields,
            })
        });
        let level = |(level, pairs): (usize, &u64)| Level {
            from: cosine(levels[level]),
            to: cosine(levels[level + 1]),
            pairs: *pairs,
        };
        let from = random.quantile(0.0).unwrap_or(-1.0).max(-1.0);
        let bar = |histogram: &Histogram, at: usize| {
            let edge = |at: usize| from + (1.001 - from) * at as f64 / BARS as f64;
            histogram.within(edge(at)..edge(at + 1))
        };
        let bars = |h: &Histogram| (0..BARS).map(|at| bar(h, at)).collect::<Vec<_>>();
        ChannelReport {
            channel,
            encoder,
            vectors: sample.vectors[at].as_ref().map_or(0, |v| v.rows.len()),
            random: Spread::of(random),
            nearest: Spread::of(nearest),
            copies: by_kind,
            copies_all: Spread::of(&all),
            proposed,
            others: others.collect(),
            now: Choice {
                bands: edges(now),
                low_share: None,
                yields: yields.last().copied().unwrap_or_default(),
            },
            levels: found.level_pairs[at].iter().enumerate().map(level).collect(),
            drawn: Drawn {
                from,
                to: 1.001,
                random: bars(random),
                nearest: bars(nearest),
                copies: bars(&all),
            },
            says: verdict.says.clone(),
        }
    }
}

/// `12,345`, in groups as a person reads them.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `[0.500, 0.900]`, or several.
pub(super) fn band_text(bands: &[(f64, f64)]) -> String {
    let one = |(low, high): &(f64, f64)| format!("[{low:.3}, {high:.3}]");
    bands.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// A share as percent, with more places where it is small.
pub(super) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent {
        _ if percent >= 9.95 => format!("{percent:.0} %"),
        _ if percent >= 0.1 || percent == 0.0 => format!("{percent:.1} %"),
        _ => format!("{percent:.2} %"),
    }
}

impl Yield {
    fn text(&self) -> String {
        format!(
            "{:.2} pairs per image, {} of the images have a pair, {} a near-duplicate",
            self.pairs_per_image,
            percent(self.share_with_pair),
            percent(self.share_near_duplicates)
        )
    }
}

impl Report {
    /// What goes into the config.
    pub fn bands(&self) -> Vec<NewBand> {
        let proposed = self.channels.iter().filter_map(|channel| {
            let choice = channel.proposed.as_ref()?;
            let kinds: Vec<&str> = channel.copies.keys().map(String::as_str).collect();
            let why = vec![
                format!(
                    "seed {}, {} of {} images, {}",
                    self.seed,
                    grouped(channel.vectors as u64),
                    grouped(self.corpus_images),
                    channel.encoder
                ),
                format!(
                    "low: the {} % quantile of {} random pairs; high: the {} % quantile of",
                    100.0 * LOW_SHARE,
                    grouped(channel.random.count / 2),
                    100.0 * HIGH_SHARE
                ),
                format!("{} mild copies ({})", grouped(channel.copies_all.count), kinds.join(", ")),
                format!("gives {}", choice.yields.corpus.text()),
                format!("at ten times the images {}", choice.yields.tenfold.text()),
            ];
            Some(NewBand { channel: channel.channel, bands: choice.bands.clone(), why })
        });
        proposed.collect()
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out).expect("writing to a string cannot fail");
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let (sample, corpus) = (grouped(self.sample_images as u64), grouped(self.corpus_images));
        let about = if self.counted { "" } else { "about " };
        writeln!(out, "{sample} of {about}{corpus} mined images, from {}", self.from)?;
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        for channel in &self.channels {
            channel.write_text(out)?;
        }
        writeln!(out, "\nall channels together, at most {} per image", self.targets_per_query)?;
        write_yields(out, &self.together)?;
        if self.channels.iter().any(|channel| channel.proposed.is_some()) {
            out.push_str(
                "\nCosines that look good may still be wrong: look at pairs of each level with \
                 --out calibration.html.\nA changed band retracts and adds pairs: `everpair run` \
                 asks for --apply.\n\n",
            );
        }
        Ok(())
    }
}

fn write_yields(out: &mut String, yields: &Yields) -> std::fmt::Result {
    writeln!(out, "  now         {}", yields.corpus.text())?;
    writeln!(out, "  ten times   {} (estimated)", yields.tenfold.text())?;
    writeln!(
        out,
        "  check       from a tenth of the sample, for the sample: {:.2} pairs, {} (it has {:.2}, {})",
        yields.from_a_tenth.pairs_per_image,
        percent(yields.from_a_tenth.share_with_pair),
        yields.sample.pairs_per_image,
        percent(yields.sample.share_with_pair),
    )
}

impl ChannelReport {
    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let number = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.3}"));
        writeln!(out, "\n{} ({}, {} vectors)", self.channel.as_str(), self.encoder, self.vectors)?;
        writeln!(out, "                    5 %   median     95 %   99.5 %")?;
        let mut row = |name: &str, spread: &Spread| {
            let cells = [spread.q05, spread.median, spread.q95, spread.q995].map(number);
            writeln!(
                out,
                "  {name:<13}{:>8} {:>8} {:>8} {:>8}",
                cells[0], cells[1], cells[2], cells[3]
            )
        };
        row("random pairs", &self.random)?;
        row("nearest", &self.nearest)?;
        for (kind, spread) in &self.copies {
            row(kind, spread)?;
        }
        match &self.proposed {
            Some(choice) => {
                writeln!(out, "  proposed    {}", band_text(&choice.bands))?;
                write_yields(out, &choice.yields)?;
            }
            None => writeln!(out, "  no band is proposed")?,
        }
        for other in &self.others {
            let share = 100.0 * other.low_share.unwrap_or_default();
            let (band, text) = (band_text(&other.bands), other.yields.corpus.text());
            writeln!(out, "  or {share} %  {band}: {text}")?;
        }
        let (band, text) = (band_text(&self.now.bands), self.now.yields.corpus.text());
        writeln!(out, "  in config   {band}: {text}")?;
        self.says.iter().try_for_each(|line| writeln!(out, "  note: {line}"))
    }
}
