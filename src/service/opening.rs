//! Where a run begins to read, and where what it is to wait for ends.

use anyhow::Context;
use schemas::config::{self, AnnotatorKind, AnnotatorStart, Config};

use super::RunOptions;
use crate::{
    delta::Publisher,
    fetch,
    source::{Offsets, Source, witness::Witnesses},
};

/// A source that is about to be read.
pub(super) struct Opened {
    pub source: Box<dyn Source>,
    /// Next offsets.
    pub next: Offsets,
    /// With `until_caught_up`: the source's ends when the service began.
    pub ends: Option<Offsets>,
    /// The same, where nothing is to be asked before they are committed.
    pub asks_from: Option<Offsets>,
    /// Partitions that end before the next offset, and that the source has not refused: it begins
    /// again, and nothing of them counts as read.
    pub again: Offsets,
}

/// `seen` are the ends that an earlier run of this service has seen, if there was one: they stay
/// what is waited for, however much has come since.
pub(super) fn open_source(
    config: &Config,
    options: RunOptions,
    publisher: &Publisher,
    known: Witnesses,
    seen: &mut Option<Offsets>,
) -> anyhow::Result<Opened> {
    let next = publisher.offsets().into_iter();
    let mut next: Offsets = next.map(|((topic, at), next)| ((topic.into(), at), next)).collect();
    let mut source = fetch::open(config, &next, known).context("open the source")?;
    let asks = config.annotator.kind == AnnotatorKind::OpenAi;
    let waits = asks && config.annotator.start == AnnotatorStart::CaughtUp;
    if !options.until_caught_up && !waits {
        return Ok(Opened { source, next, ends: None, asks_from: None, again: Offsets::new() });
    }
    let now = source.end_offsets().context("ask the source for its end")?;
    if !options.until_caught_up {
        let asks_from = Some(seen.get_or_insert(now).clone());
        return Ok(Opened { source, next, ends: None, asks_from, again: Offsets::new() });
    }
    if now.is_empty() && seen.is_none() {
        let config::Source { files, topics, .. } = &config.source;
        tracing::warn!("the source is empty: {files:?}{topics:?}");
    }
    let again = begins_again(&mut next, &now);
    let ends = ends(seen, now, &again);
    let asks_from = waits.then(|| ends.clone());
    Ok(Opened { source, next, ends: Some(ends), asks_from, again })
}

/// Partitions that end before the next offset: their next offset becomes the first.
fn begins_again(next: &mut Offsets, now: &Offsets) -> Offsets {
    let mut again = Offsets::new();
    for (place, next) in next {
        if now.get(place).is_some_and(|end| *end < *next) {
            *next = 0;
            again.insert(place.clone(), 0);
        }
    }
    again
}

/// The ends that were seen first. What a partition has lost since is not waited for.
fn ends(seen: &mut Option<Offsets>, now: Offsets, again: &Offsets) -> Offsets {
    let ends = seen.get_or_insert_with(|| now.clone());
    for place in again.keys() {
        if let (Some(end), Some(now)) = (ends.get_mut(place), now.get(place)) {
            *end = (*end).min(*now);
        }
    }
    ends.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets<const N: usize>(of: [(i32, i64); N]) -> Offsets {
        of.into_iter().map(|(partition, at)| (("files".into(), partition), at)).collect()
    }

    #[test]
    fn the_ends_that_were_seen_first_stay() {
        let (mut seen, mut next) = (None, offsets([(0, 3)]));
        let now = offsets([(0, 10), (1, 20)]);
        let again = begins_again(&mut next, &now);
        assert_eq!(ends(&mut seen, now.clone(), &again), now);
        assert_eq!((again, next), (offsets([]), offsets([(0, 3)])));
        // The service has stood still meanwhile, has read past one of them, and more has come.
        let mut next = offsets([(0, 12), (1, 20), (2, 1)]);
        let grown = offsets([(0, 15), (1, 25), (2, 7)]);
        let again = begins_again(&mut next, &grown);
        assert_eq!(again, offsets([]), "nothing is read twice");
        assert_eq!(ends(&mut seen, grown, &again), now);
        // A partition that was cut off below its end will never reach that.
        let cut = offsets([(0, 15), (1, 4), (2, 7)]);
        let again = begins_again(&mut next, &cut);
        assert_eq!((&again, next), (&offsets([(1, 0)]), offsets([(0, 12), (1, 0), (2, 1)])));
        assert_eq!(ends(&mut seen, cut, &again), offsets([(0, 10), (1, 4)]));
    }
}
