//! Between what flows and what the tables hold: rows out of steps, and steps back out of rows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use anyhow::Context;
use operators::{
    flow::{Answer, Captioned, CaptionerId, Pair},
    triplets::{Cause, Triplet, change_reason},
};
use schemas::{
    Channel, ContentId, Epoch,
    tables::{self, AnnotationRow, ChangeRow, ImageRow, PairRow, PerChannel, Row, TripletRow},
};

use crate::delta::Change;

/// Images that left one partition and came from another in one epoch.
pub fn moved_keys(images: &[(ImageRow, isize)]) -> usize {
    let mut places: BTreeMap<&str, BTreeSet<(&str, i32)>> = BTreeMap::new();
    for (row, _) in images {
        places.entry(&row.image_id).or_default().insert((&row.topic, row.partition));
    }
    places.values().filter(|places| places.len() > 1).count()
}

/// Contents that images have lost.
pub fn lost(images: &[(ImageRow, isize)]) -> HashSet<ContentId> {
    let mut sums: HashMap<&str, isize> = HashMap::new();
    for (row, diff) in images {
        *sums.entry(&row.content_id).or_default() += diff;
    }
    let lost = sums.into_iter().filter(|(_, sum)| *sum < 0);
    lost.filter_map(|(content, _)| ContentId::parse(content)).collect()
}

/// Rows that come, as a change of their table.
pub fn inserts<R: Row>(rows: &[R]) -> anyhow::Result<Change> {
    if rows.is_empty() {
        return Ok(Change::default());
    }
    let batch = tables::to_batch(rows)
        .with_context(|| format!("rows for {} do not fit its columns", R::TABLE.as_str()))?;
    Ok(Change { insert: vec![batch], delete: Vec::new() })
}

/// Sums steps of equal rows, so that each row moves once or not at all; sorted by row.
pub fn consolidate<D: Ord>(steps: &mut Vec<(D, isize)>) {
    steps.sort();
    let mut kept: Vec<(D, isize)> = Vec::with_capacity(steps.len());
    for (row, diff) in steps.drain(..) {
        match kept.last_mut() {
            Some((last, sum)) if *last == row => *sum += diff,
            _ => kept.push((row, diff)),
        }
    }
    kept.retain(|(_, diff)| *diff != 0);
    *steps = kept;
}

/// What `triplets` loses and gains, by id, and the log of it: deletes first where a row changes.
pub type TripletSteps = Vec<(Option<TripletRow>, Option<TripletRow>)>;

/// From steps of triplets to rows of `triplets` and of `changes`.
pub fn triplet_changes(
    mut steps: Vec<(Triplet, isize)>,
    epoch: Epoch,
    cause: &Cause,
) -> anyhow::Result<(TripletSteps, Vec<ChangeRow>)> {
    let at = i64::try_from(epoch).context("epochs fit into 63 bits")?;
    consolidate(&mut steps);
    let mut by_id: BTreeMap<String, (Option<Triplet>, Option<Triplet>)> = BTreeMap::new();
    for (triplet, diff) in steps {
        let id = schemas::triplet_id(&triplet.query_id, &triplet.target_id);
        let entry = by_id.entry(id).or_default();
        let side = if diff > 0 { &mut entry.1 } else { &mut entry.0 };
        debug_assert!(side.is_none(), "one row per pair");
        *side = Some(triplet);
    }
    let (mut rows, mut log) = (Vec::new(), Vec::new());
    for (triplet_id, (old, new)) in by_id {
        let reason = change_reason(old.as_ref(), new.as_ref(), cause);
        let step = |op: &str, triplet: &Triplet| ChangeRow {
            epoch: at,
            op: op.into(),
            reason: reason.into(),
            triplet_id: triplet_id.clone(),
            query_id: triplet.query_id.to_string(),
            target_id: triplet.target_id.to_string(),
        };
        log.extend(old.as_ref().map(|triplet| step("delete", triplet)));
        log.extend(new.as_ref().map(|triplet| step("insert", triplet)));
        rows.push((old.map(|triplet| triplet.row(epoch)), new.map(|triplet| triplet.row(epoch))));
    }
    Ok((rows, log))
}

/// Images that came, went, or have another content or caption. A message that only moved its
/// offset touches nothing.
pub fn touched(images: &[(ImageRow, isize)]) -> BTreeSet<String> {
    let mut sums: BTreeMap<(&str, &str, Option<&str>), isize> = BTreeMap::new();
    for (row, diff) in images {
        let key = (row.image_id.as_str(), row.content_id.as_str(), row.caption.as_deref());
        *sums.entry(key).or_default() += diff;
    }
    let moved = sums.into_iter().filter(|(_, sum)| *sum != 0);
    moved.map(|((id, ..), _)| id.to_owned()).collect()
}

/// Contents that have a caption by this captioner now.
pub fn captioned(rows: &[AnnotationRow], captioner: Option<&CaptionerId>) -> BTreeSet<ContentId> {
    let Some(captioner) = captioner else { return BTreeSet::new() };
    let said = rows.iter().filter_map(|row| Captioned::of(row, captioner));
    said.filter(|said| said.caption.is_some()).map(|said| said.content_id).collect()
}

/// A pair as `pairs` shows it.
pub fn pair_row(pair: &Pair, epoch: i64) -> PairRow {
    let names = Channel::ALL.into_iter().filter(|c| pair.ranks[c.index()].is_some());
    PairRow {
        query_id: pair.query_id.to_string(),
        target_id: pair.target_id.to_string(),
        channels: names.map(|c| c.as_str().to_owned()).collect(),
        scores: PerChannel::from(pair.scores.map(|s| s.map(score))),
        ranks: pair.ranks.into(),
        hard_negatives: pair.hard_negatives.iter().map(ToString::to_string).collect(),
        epoch,
    }
}

/// The inverse of [`pair_row`].
pub fn pair_of(row: &PairRow) -> Pair {
    let scores = [row.scores.semantic, row.scores.pattern, row.scores.caption];
    Pair {
        query_id: row.query_id.as_str().into(),
        target_id: row.target_id.as_str().into(),
        mined: true,
        ranks: [row.ranks.semantic, row.ranks.pattern, row.ranks.caption],
        scores: scores.map(|s| s.map(unit_score)),
        hard_negatives: row.hard_negatives.iter().map(|id| id.as_str().into()).collect(),
    }
}

/// The inverse of [`Triplet::row`].
pub fn triplet_of(row: &TripletRow) -> Triplet {
    let content = |text: &str| ContentId::parse(text).unwrap_or(ContentId([0; 32]));
    let scores = [row.scores.semantic, row.scores.pattern, row.scores.caption];
    let answer = Answer {
        request_id: row.request_id.clone(),
        query: content(&row.query_content_id),
        target: content(&row.target_content_id),
        model: row.model.clone(),
        prompt_version: row.prompt_version,
        ok: true,
        description: row.description.clone(),
        instructions: row.instructions.clone(),
        audits: row.audits.clone(),
    };
    Triplet {
        query_id: row.query_id.as_str().into(),
        target_id: row.target_id.as_str().into(),
        answer: Arc::new(answer),
        hard_negatives: row.hard_negatives.iter().map(|id| id.as_str().into()).collect(),
        channels: Channel::ALL.map(|c| row.channels.iter().any(|name| name == c.as_str())),
        scores: scores.map(|s| s.map(unit_score)),
    }
}

/// The inverse of [`score`].
fn unit_score(s: f64) -> i32 {
    (s * f64::from(kernels::vector::UNIT)) as i32
}

/// s / 2^30 (rule 2), exact in a double.
pub fn score(s: i32) -> f64 {
    f64::from(s) / f64::from(kernels::vector::UNIT)
}
