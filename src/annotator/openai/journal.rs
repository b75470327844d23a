//! Outcomes that are paid for and not committed yet, each an object: what a kill must not lose.
//!
//! Between a call's end and the epoch that its outcome belongs to a kill may come. So an outcome is
//! written before anything else sees it, enters that epoch, and is removed once that is committed.

use anyhow::{Context, anyhow};
use schemas::{limits, tables::AnnotationRow};
use serde::de::DeserializeOwned;

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
    objects(store, FOLDER).context("outcomes that wait for a commit")
}

/// What the objects of a folder say, by their names. An object store takes its time for each, so
/// several are read at once.
///
/// # Errors
/// One of them cannot be read.
pub fn objects<T: DeserializeOwned + Send>(store: &Store, folder: &str) -> anyhow::Result<Vec<T>> {
    let names = store.list(folder, "").with_context(|| format!("list {folder}"))?;
    let read = |(file, _): &(String, u64)| {
        let name = format!("{folder}/{file}");
        let Some(content) = store.get(&name)? else { return Ok(None) };
        let said = serde_json::from_slice(&content).with_context(|| format!("read {name}"))?;
        Ok(Some(said))
    };
    let all = |part: &[(String, u64)]| -> anyhow::Result<Vec<T>> {
        part.iter().filter_map(|name| read(name).transpose()).collect()
    };
    let each = names.len().div_ceil(limits::RESTORE_THREADS_REMOTE).max(1);
    let parts: Vec<anyhow::Result<Vec<T>>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            names.chunks(each).map(|part| scope.spawn(move || all(part))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a thread that reads {folder} panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let parts: Vec<Vec<T>> = parts.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(parts.into_iter().flatten().collect())
}
