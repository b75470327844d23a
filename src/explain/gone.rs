//! Triplets that are not there any more, or not yet: what the log of changes tells.

use std::collections::BTreeSet;

use schemas::tables::{ChangeRow, ImageRow};

use super::{rows, some};
use crate::dataset::{At, Dataset};

/// Why there is no triplet of this id at this epoch, as far as the log of changes tells.
pub fn unknown(dataset: &Dataset, id: &str) -> anyhow::Result<anyhow::Error> {
    let newest = Dataset::open(dataset.store(), &At::Latest)?;
    let mut log: Vec<ChangeRow> = rows(&newest, "triplet_id", &|held| held.starts_with(id))?;
    log.sort_by(|a, b| (&a.triplet_id, a.epoch, &a.op).cmp(&(&b.triplet_id, b.epoch, &b.op)));
    let at = dataset.epoch();
    let ids: BTreeSet<&str> = log.iter().map(|row| row.triplet_id.as_str()).collect();
    if ids.len() > 1 {
        let some = some(ids.iter().copied());
        return Ok(anyhow::anyhow!(
            "no triplet of epoch {at} has an id that begins with {id:?}; changes knows {some}"
        ));
    }
    let now = i64::try_from(at).unwrap_or(i64::MAX);
    let before = log.iter().rfind(|row| row.epoch <= now);
    let Some(last) = before.or(log.first()) else {
        return Ok(anyhow::anyhow!(
            "no triplet of epoch {at} has an id that begins with {id:?}, nor had one before; no mined \
             pair would give it one, and no request has it"
        ));
    };
    let (id, epoch) = (&last.triplet_id, last.epoch);
    let (query, target) = (&last.query_id, &last.target_id);
    if last.epoch > now {
        return Ok(anyhow::anyhow!(
            "triplet {id} (query {query:?}, target {target:?}) was not there yet at epoch {at}: it \
             came in epoch {epoch}"
        ));
    }
    if last.op == "insert" {
        return removed(&newest, &log, last, at);
    }
    let why = match last.reason.as_str() {
        "image" => "one of its two images was taken down, replaced or got another caption",
        "left" => "its pair is no longer mined",
        "answer" => "its answer no longer counts",
        "rule" => "its instructions no longer pass the rules",
        _ => "the config changed",
    };
    let reason = &last.reason;
    Ok(anyhow::anyhow!(
        "triplet {id} (query {query:?}, target {target:?}) left in epoch {epoch}, reason {reason}: \
         {why}; of earlier epochs see --at"
    ))
}

/// Of a triplet that came and had not left by `at`: its row has been removed from what is kept of
/// that epoch.
fn removed(
    newest: &Dataset,
    log: &[ChangeRow],
    came: &ChangeRow,
    at: u64,
) -> anyhow::Result<anyhow::Error> {
    let ChangeRow { triplet_id: id, query_id: query, target_id: target, epoch, .. } = came;
    let named = format!("triplet {id} (query {query:?}, target {target:?})");
    if at == newest.epoch() {
        return Ok(anyhow::anyhow!(
            "{named} came in epoch {epoch} and has not left, by changes, but it is not in triplets: \
             see what `everpair verify` finds"
        ));
    }
    let live: Vec<ImageRow> = rows(newest, "image_id", &|id| id == query || id == target)?;
    let is_gone = |id: &&String| live.iter().all(|row| row.image_id != **id);
    let gone: Vec<String> =
        [query, target].into_iter().filter(is_gone).map(|id| format!("{id:?}")).collect();
    let whose = match gone.as_slice() {
        [] => "what one of the two was then".to_owned(),
        one_or_two => format!("image {}", one_or_two.join(" and image ")),
    };
    let left = log.iter().find(|row| row.epoch > came.epoch && row.op == "delete");
    let left = match left {
        Some(row) => {
            format!("it left in epoch {}, reason {}, and ", row.epoch, row.reason)
        }
        None => String::new(),
    };
    Ok(anyhow::anyhow!(
        "{named} came in epoch {epoch} and was there at epoch {at}; {left}`everpair gc` has since \
         removed its row from what is kept of that epoch, because {whose} was taken down, blocked or \
         replaced (reports of gc are in _everpair/gc/)"
    ))
}
