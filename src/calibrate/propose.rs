//! From scores to a band, or to words why there is none.

use kernels::vector::Band;
use schemas::{Channel, limits};
use serde::Serialize;

use super::{
    sample::Copies,
    scores::{Histogram, cosine},
};

/// Share of random pairs below a band.
pub const LOW_SHARE: f64 = 0.995;
/// Share of mild copies below a band's upper edge.
pub const HIGH_SHARE: f64 = 0.05;
/// Lower edges that are counted too, so that a person can choose.
const OTHER_LOWS: [f64; 2] = [0.99, 0.999];
/// Vectors below which a quantile of their pairs says nothing.
const VECTORS_MIN: usize = 20;
/// Vectors below which it is to be taken with care.
const VECTORS_FEW: usize = 500;
/// Edges are written to so many places.
const PLACES: f64 = 1e3;
/// Equal vectors score a hair under 1 after rounding; they are near-duplicates all the same.
const HIGH_MAX: f64 = 0.999;
/// A band that is narrower is said to be.
const NARROW: f64 = 0.02;
/// Least width of a level below the band.
const LEVEL_MIN: f64 = 0.03;

/// Another lower edge.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Other {
    /// The quantile of random pairs that it is.
    pub share: f64,
    /// The edge.
    pub low: f64,
}

/// A band to propose.
#[derive(Clone, Debug)]
pub struct Proposal {
    pub low: f64,
    pub high: f64,
    /// The band, or its sub-bands.
    pub edges: Vec<(f64, f64)>,
    pub bands: Vec<Band>,
    /// Other lower edges, for comparison.
    pub others: Vec<Other>,
}

/// What scores say of one channel.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub proposal: Option<Proposal>,
    /// The 99.5 % quantile of random pairs, unrounded.
    pub random: Option<f64>,
    /// The 5 % quantile of mild copies, unrounded.
    pub copies: Option<f64>,
    /// What a person should know, and do.
    pub says: Vec<String>,
}

/// Judges one channel.
pub fn propose(
    channel: Channel,
    vectors: usize,
    random: Option<&Histogram>,
    copies: &Copies,
    sub_bands: usize,
) -> Verdict {
    let name = channel.as_str();
    let mut verdict = Verdict::default();
    let few = |vectors| format!("{name}: {vectors} images of the sample have a vector");
    let Some(random) = random.filter(|_| vectors >= VECTORS_MIN) else {
        let why = format!("{}, too few to say anything: sample more", few(vectors));
        verdict.says.push(why);
        return verdict;
    };
    if vectors < VECTORS_FEW {
        verdict.says.push(format!("{}: its quantiles are rough, sample more", few(vectors)));
    }
    let mut of_copies = Histogram::default();
    copies.values().flatten().for_each(|score| of_copies.add(*score));
    verdict.random = random.quantile(LOW_SHARE);
    let number = of_copies.total() as usize;
    if number < limits::CALIBRATE_COPIES_MIN {
        verdict.says.push(format!(
            "{name}: there are {number} scores with mild copies, at least {} are needed for the \
             upper edge. Copies are made of stored pictures and captions by the channel's own \
             encoder; where vectors come with the messages, the corpus itself must hold \
             near-identical ones. Choose the upper edge by eye on the page (--out), or sample more",
            limits::CALIBRATE_COPIES_MIN
        ));
        return verdict;
    }
    verdict.copies = of_copies.quantile(HIGH_SHARE);
    let (Some(low_exact), Some(high_exact)) = (verdict.random, verdict.copies) else {
        return verdict;
    };
    let low = up(low_exact);
    let high = ((high_exact * PLACES).floor() / PLACES).min(HIGH_MAX);
    if low >= high {
        let strangers = of_copies.within(-1.0..low_exact) as f64 / number as f64;
        verdict.says.push(format!(
            "{name} does not separate: 0.5 % of random pairs score {low_exact:.3} and more, and 5 \
             % of mild copies score {high_exact:.3} and less ({:.0} % of the copies look like \
             strangers). No band lies between. Take another encoder for this channel, or, if the \
             corpus is mostly of one kind, calibrate on a broader sample",
            100.0 * strangers
        ));
        return verdict;
    }
    if high - low < NARROW {
        verdict.says.push(format!(
            "{name}: the band is only {:.3} wide: random pairs nearly reach mild copies, so most \
             of what it mines is close to one or the other. Look at the page before you use it",
            high - low
        ));
    }
    let edges = cut(low, high, sub_bands);
    if edges.len() < sub_bands {
        let why = format!("{name}: too narrow for {sub_bands} sub-bands, {} it is", edges.len());
        verdict.says.push(why);
    }
    let bands: Result<Vec<Band>, String> =
        edges.iter().map(|(low, high)| Band::new(*low, *high)).collect();
    let others = OTHER_LOWS.into_iter().filter_map(|share| {
        let low = up(random.quantile(share)?);
        (low < high).then_some(Other { share, low })
    });
    let others = others.collect();
    match bands {
        Ok(bands) => verdict.proposal = Some(Proposal { low, high, edges, bands, others }),
        Err(why) => verdict.says.push(format!("{name}: {why}")),
    }
    verdict
}

fn up(edge: f64) -> f64 {
    (edge * PLACES).ceil() / PLACES
}

/// Equal widths, to the place; fewer where that would be none.
fn cut(low: f64, high: f64, parts: usize) -> Vec<(f64, f64)> {
    let edge = |at: usize| {
        let share = at as f64 / parts as f64;
        (((1.0 - share) * low + share * high) * PLACES).round() / PLACES
    };
    let mut edges: Vec<f64> = (0..=parts).map(edge).collect();
    edges.dedup();
    edges.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Lower edges of eight levels, and the end: two below the band, four in it, two above; without a
/// band from the median of random pairs on, all of one width.
pub fn levels(verdict: &Verdict, random: &Histogram) -> Vec<i32> {
    let edges: Vec<f64> = match &verdict.proposal {
        Some(Proposal { low, high, .. }) => {
            let step = (high - low) / 4.0;
            // Below a narrow band they reach further, to show what it leaves out.
            let below = [2.0, 1.0].map(|at| low - at * step.max(LEVEL_MIN));
            let within = [0.0, 1.0, 2.0, 3.0].map(|at| low + at * step);
            let above = [*high, (high + 1.0) / 2.0, 1.01];
            below.into_iter().chain(within).chain(above).collect()
        }
        None => {
            let from = random.quantile(0.5).unwrap_or(0.0).min(0.99);
            (0..=8).map(|at| from + (1.01 - from) * f64::from(at) / 8.0).collect()
        }
    };
    let score = |edge: &f64| (edge / cosine(1)).ceil().clamp(-2e9, 2e9) as i32;
    edges.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(cosines: impl Iterator<Item = f64>) -> Histogram {
        let mut histogram = Histogram::default();
        cosines.for_each(|x| histogram.add((x / cosine(1)) as i32));
        histogram
    }

    fn copies(cosines: impl Iterator<Item = f64>) -> Copies {
        Copies::from([("crop", cosines.map(|x| (x / cosine(1)) as i32).collect())])
    }

    #[test]
    fn known_quantiles_become_the_edges() {
        // Random pairs even over 0 to 0.4, copies even over 0.8 to 1.
        let random = histogram((0..100_000).map(|i| 0.4 * f64::from(i) / 1e5));
        let alike = copies((0..1_000).map(|i| 0.8 + 0.2 * f64::from(i) / 1e3));
        let verdict = propose(Channel::Pattern, 1_000, Some(&random), &alike, 1);
        let proposal = verdict.proposal.clone().unwrap();
        assert!((proposal.low - 0.398).abs() < 0.0011, "{proposal:?}");
        assert!((proposal.high - 0.810).abs() < 0.0011, "{proposal:?}");
        assert!(verdict.says.is_empty(), "{verdict:?}");
        assert_eq!(proposal.others.len(), 2);
        let levels = levels(&verdict, &random);
        assert_eq!(levels.len(), 9);
        assert!(levels.is_sorted());
        assert_eq!(levels[2], proposal.bands[0].lo);
        assert_eq!(levels[6], proposal.bands[0].hi);

        let cut = propose(Channel::Pattern, 1_000, Some(&random), &alike, 4).proposal.unwrap();
        assert_eq!(cut.edges.len(), 4);
        assert_eq!((cut.edges[0].0, cut.edges[3].1), (proposal.low, proposal.high));
        assert!(cut.edges.windows(2).all(|pair| pair[0].1 == pair[1].0));
    }

    #[test]
    fn a_channel_that_does_not_separate_says_so() {
        let random = histogram((0..10_000).map(|i| 0.9 + 0.1 * f64::from(i) / 1e4));
        let alike = copies((0..1_000).map(|i| 0.9 + 0.1 * f64::from(i) / 1e3));
        let verdict = propose(Channel::Semantic, 1_000, Some(&random), &alike, 1);
        assert!(verdict.proposal.is_none());
        assert!(verdict.says[0].contains("does not separate"), "{:?}", verdict.says);
        assert!(verdict.says[0].contains("another encoder"));
        assert_eq!(levels(&verdict, &random).len(), 9);
        let verdict = propose(Channel::Semantic, 1_000, Some(&random), &Copies::new(), 1);
        assert!(verdict.proposal.is_none() && verdict.says[0].contains("0 scores"));
        let verdict = propose(Channel::Semantic, 3, Some(&random), &alike, 1);
        assert!(verdict.proposal.is_none() && verdict.says[0].contains("too few"));
    }

    #[test]
    fn copies_that_are_the_same_to_the_encoder_still_leave_an_edge() {
        let random = histogram((0..10_000).map(|i| 0.2 * f64::from(i) / 1e4));
        let alike = copies((0..1_000).map(|_| 1.0));
        let verdict = propose(Channel::Caption, 1_000, Some(&random), &alike, 1);
        assert_eq!(verdict.proposal.unwrap().high, 0.999);
    }
}
