//! Pairs that made no triplet, and requests by their id: what became of them.

use std::collections::BTreeSet;

use anyhow::bail;
use schemas::{
    config::Filter,
    tables::{AnnotationRow, ChangeRow, ImageRow, PairRow, RejectRow, TripletRow},
    triplet_id,
};
use serde_json::{Value, json};

use super::{
    answers::{Answers, left_out, left_out_json, why_none},
    change, images, pair_json, rejects_json, rows, some,
    waiting::waiting,
};
use crate::{captions::Captions, dataset::Dataset};

/// A mined pair whose triplet would have an id that begins so, if there is just one.
///
/// # Errors
/// There are several, which the message names, or the tables cannot be read.
pub fn pair(dataset: &Dataset, id: &str) -> anyhow::Result<Option<PairRow>> {
    let mut pairs: Vec<PairRow> = dataset.rows()?;
    pairs.retain(|row| triplet_id(&row.query_id, &row.target_id).starts_with(id));
    if pairs.len() > 1 {
        let ids: Vec<String> =
            pairs.iter().map(|row| triplet_id(&row.query_id, &row.target_id)).collect();
        bail!(
            "{} pairs without a triplet have an id that begins with {id:?}: {}",
            ids.len(),
            some(ids.iter().map(String::as_str))
        );
    }
    Ok(pairs.pop())
}

/// A mined pair without a triplet, as JSON: the fields of a triplet, and `why`.
///
/// # Errors
/// The tables cannot be read.
pub fn explain_pair(
    dataset: &Dataset,
    pair: &PairRow,
    rules: &Filter,
    in_force: &Value,
) -> anyhow::Result<Value> {
    let ids: Vec<&String> =
        [&pair.query_id, &pair.target_id].into_iter().chain(&pair.hard_negatives).collect();
    let images = images(dataset, &ids)?;
    let image = |id: &String| images.get(id).cloned().unwrap_or(Value::Null);
    let (query, target) = (image(&pair.query_id), image(&pair.target_id));
    let content = |image: &Value| image["content_id"].as_str().unwrap_or_default().to_owned();
    let (of_query, of_target) = (content(&query), content(&target));
    let answers = Answers::about(dataset, &BTreeSet::from([of_query.as_str(), &of_target]))?;
    let answer = answers.of_pair(&of_query, &of_target).next();
    let caption = target["caption"].as_str();
    // Whatever was answered before was asked without it.
    let on_its_way = match uncaptioned(dataset, [&query, &target])? {
        None if answer.is_none() => waiting(dataset.store(), &of_query, &of_target)?,
        uncaptioned => uncaptioned,
    };
    let id = triplet_id(&pair.query_id, &pair.target_id);
    let mut changes: Vec<ChangeRow> = rows(dataset, "triplet_id", &|held| held == id)?;
    changes.sort();
    let negatives = std::iter::once(&pair.query_id).chain(&pair.hard_negatives);
    let hidden = answer.map(|row| left_out(row, caption, &[], rules)).unwrap_or_default();
    Ok(json!({
        "at_epoch": dataset.epoch(),
        "triplet_id": id,
        "epoch": null,
        "why": on_its_way.unwrap_or_else(|| why_none(answer, caption, rules)),
        "query": query,
        "target": target,
        "hard_negatives": negatives.map(image).collect::<Vec<_>>(),
        "pair": pair_json(pair),
        "in_force": in_force,
        "answer": answer.map(|row| answers.to_json(row)),
        "instructions": [],
        "left_out": left_out_json(&hidden),
        "rejects": match answer {
            Some(row) => rejects_json(dataset, &row.request_id)?,
            None => Vec::new(),
        },
        "changes": changes.iter().map(change).collect::<Vec<_>>(),
    }))
}

/// Which of two images has to get a caption before a pair of them is asked about, and where that is.
fn uncaptioned(dataset: &Dataset, images: [&Value; 2]) -> anyhow::Result<Option<String>> {
    let Some(image) = images.into_iter().find(|image| image["caption_waits"] == true) else {
        return Ok(None);
    };
    let text = |name: &str| image[name].as_str().unwrap_or_default();
    let (id, content) = (text("image_id"), text("content_id"));
    let known = waiting(dataset.store(), content, content)?;
    let known = known.map_or_else(String::new, |known| format!(": {known}"));
    Ok(Some(format!(
        "it is asked about once there is a caption for {id}, which came without one{known}"
    )))
}

/// A request whose id begins so, as JSON, if there is just one.
///
/// # Errors
/// There are several, which the message names, or the tables cannot be read.
pub fn request(dataset: &Dataset, id: &str, rules: &Filter) -> anyhow::Result<Option<Value>> {
    let found: Vec<AnnotationRow> = rows(dataset, "request_id", &|held| held.starts_with(id))?;
    let ids: BTreeSet<&str> = found.iter().map(|row| row.request_id.as_str()).collect();
    if ids.len() > 1 {
        bail!(
            "{} requests have an id that begins with {id:?}: {}",
            ids.len(),
            some(ids.iter().copied())
        );
    }
    let newest = found.iter().max_by_key(|row| row.created_at);
    let Some(row) = newest else { return Ok(None) };
    let contents = BTreeSet::from([row.query_content_id.as_str(), &row.target_content_id]);
    let answers = Answers::about(dataset, &contents)?;
    let row = answers.of_request(&row.request_id).unwrap_or(row);
    let mut live: Vec<ImageRow> = rows(dataset, "content_id", &|id| contents.contains(id))?;
    let captions = Captions::in_force(dataset)?;
    for row in &mut live {
        captions.fill(row);
    }
    // Of equal contents the bytewise smallest id is mined.
    let mined = |content: &str| {
        live.iter().filter(|row| row.content_id == content).min_by_key(|row| &row.image_id)
    };
    let (query, target) = (mined(&row.query_content_id), mined(&row.target_content_id));
    let made: Vec<TripletRow> = rows(dataset, "request_id", &|held| held == row.request_id)?;
    let caption = target.and_then(|row| row.caption.as_deref());
    // A description is no list of instructions.
    let is_answer = row.task == operators::flow::TASK;
    let shown = made.first().map_or(&[][..], |triplet| &triplet.instructions);
    let hidden = match is_answer {
        true => left_out(row, caption, shown, rules),
        false => Vec::new(),
    };
    let why = (is_answer && made.is_empty()).then(|| why_none(Some(row), caption, rules));
    Ok(Some(json!({
        "at_epoch": dataset.epoch(),
        "why": why,
        "query_id": query.map(|row| &row.image_id),
        "query_content_id": row.query_content_id,
        "target_id": target.map(|row| &row.image_id),
        "target_content_id": row.target_content_id,
        "triplets": made.iter().map(|row| &row.triplet_id).collect::<Vec<_>>(),
        "answer": answers.to_json(row),
        "instructions": shown,
        "left_out": left_out_json(&hidden),
        "rejects": rejects_json(dataset, &row.request_id)?,
    })))
}

/// Rows of `rejects` about a request, oldest first.
///
/// # Errors
/// The table cannot be read.
pub fn rejects(dataset: &Dataset, request_id: &str) -> anyhow::Result<Vec<RejectRow>> {
    let mut found: Vec<RejectRow> = rows(dataset, "request_id", &|held| held == request_id)?;
    found.sort_by(|a, b| (a.epoch, &a.reason, &a.detail).cmp(&(b.epoch, &b.reason, &b.detail)));
    Ok(found)
}
