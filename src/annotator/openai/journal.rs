//! Outcomes that are paid for and not committed yet, each an object: what a kill must not lose.
//!
//! Between a call's end and the epoch that its outcome belongs to a kill may come. So an outcome is
//! written before anything else sees it, enters that epoch, and is removed once that is committed.

use anyhow::Context;
use schemas::tables::AnnotationRow;

use crate::delta::Store;

/// Where outcomes wait.
pub const FOLDER: &str = "_everpair/answers";

fn name(request_id: &str) -> String {
    format!("{FOLDER}/{request_id}.json")
}

/// Writes an outcome down.
///
/// # Errors
/// The store failed: it must not be relied on.
pub fn write(store: &Store, row: &AnnotationRow) -> anyhow::Result<()> {
    let content = serde_json::to_vec(row).context("write an outcome")?;
    store.replace(&name(&row.request_id), content).context("write an outcome down")
}

/// The memo has it.
///
/// # Errors
/// The store failed: the next start removes it.
pub fn remove(store: &Store, request_id: &str) -> anyhow::Result<()> {
    store.delete(&name(request_id)).context("remove an outcome that is committed")
}

/// All that wait, by request id.
///
/// # Errors
/// One of them cannot be read.
pub fn read(store: &Store) -> anyhow::Result<Vec<AnnotationRow>> {
    let names = store.list(FOLDER, "").context("list outcomes that wait for a commit")?;
    let read = |(file, _): (String, u64)| {
        let name = format!("{FOLDER}/{file}");
        let Some(content) = store.get(&name)? else { return Ok(None) };
        let row = serde_json::from_slice(&content).with_context(|| format!("read {name}"))?;
        Ok(Some(row))
    };
    names.into_iter().filter_map(|name| read(name).transpose()).collect()
}
