//! Outcomes that are paid for and not committed yet, each an object: what a kill must not lose.
//!
//! Between a call's end and the epoch that its outcome belongs to a kill may come. So an outcome is
//! written before anything else sees it, enters that epoch, and is removed once that is committed.

use std::collections::HashMap;

use anyhow::{Context, anyhow};
use schemas::{limits, tables::AnnotationRow};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::judge::Progress;
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

/// The same of an answer that is being judged, with what was said of it so far.
///
/// # Errors
/// The store failed.
pub fn write_judged(store: &Store, row: &AnnotationRow, sitting: Progress) -> anyhow::Result<()> {
    let judged = Judged { row: row.clone(), sitting: Some(sitting) };
    let content = serde_json::to_vec(&judged).context("write an outcome")?;
    store.replace(&name(&row.request_id), content).context("write an outcome down")
}

/// What was said so far of answers that are being judged, by request id.
///
/// # Errors
/// One of them cannot be read.
pub fn sittings(store: &Store) -> anyhow::Result<HashMap<String, Progress>> {
    let all: Vec<Judged> = objects(store, FOLDER).context("answers that are being judged")?;
    Ok(all.into_iter().filter_map(|one| Some((one.row.request_id, one.sitting?))).collect())
}

/// An outcome, and what was said of it so far.
#[derive(Serialize, Deserialize)]
struct Judged {
    #[serde(flatten)]
    row: AnnotationRow,
    sitting: Option<Progress>,
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

/// The request ids of all that wait.
///
/// # Errors
/// They cannot be listed.
pub fn ids(store: &Store) -> anyhow::Result<Vec<String>> {
    let names = store.list(FOLDER, "").context("list outcomes that wait for a commit")?;
    let id = |(file, _): (String, u64)| file.strip_suffix(".json").map(str::to_owned);
    Ok(names.into_iter().filter_map(id).collect())
}

/// Those of these requests that still wait, each by itself: one that cannot be read keeps none back.
///
/// # Errors
/// A thread failed.
pub fn rows(
    store: &Store,
    ids: &[String],
) -> anyhow::Result<Vec<anyhow::Result<Option<AnnotationRow>>>> {
    at_once(ids, |id| Ok(read_object(store, &name(id))))
}

/// What the objects of a folder say, by their names.
///
/// # Errors
/// One of them cannot be read.
pub fn objects<T: DeserializeOwned + Send>(store: &Store, folder: &str) -> anyhow::Result<Vec<T>> {
    let names = store.list(folder, "").with_context(|| format!("list {folder}"))?;
    let read = |(file, _): &(String, u64)| read_object(store, &format!("{folder}/{file}"));
    Ok(at_once(&names, read)?.into_iter().flatten().collect())
}

pub(super) fn read_object<T: DeserializeOwned>(
    store: &Store,
    name: &str,
) -> anyhow::Result<Option<T>> {
    let Some(content) = store.get(name)? else { return Ok(None) };
    serde_json::from_slice(&content).with_context(|| format!("read {name}")).map(Some)
}

/// An object store takes its time for each object, so `f` is done to several at once.
///
/// # Errors
/// The first of them in order.
pub fn at_once<I: Sync, T: Send>(
    items: &[I],
    f: impl Fn(&I) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let each = items.len().div_ceil(limits::RESTORE_THREADS_REMOTE).max(1);
    let f = &f;
    let parts: Vec<anyhow::Result<Vec<T>>> = std::thread::scope(|scope| {
        let work = |part| scope.spawn(move || Iterator::map(<[I]>::iter(part), f).collect());
        let threads: Vec<_> = items.chunks(each).map(work).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a thread that reads or writes panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    let parts: Vec<Vec<T>> = parts.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(parts.into_iter().flatten().collect())
}
