//! Requests that travel in files, in the form that OpenAI's batches and `vllm run-batch` share.
//!
//! ```text
//!  pairs, memo ─► export ─► FILE ─► whoever answers it ─► FILE ─► import ─► _everpair/answers ─► service
//!                   └────► _everpair/batches/NAME.json, a slice of the budget ────┘
//! ```
//!
//! A pair takes two rounds, for its instructions are made of its description; where its images get
//! captions from a model, these take one before. What is out in a batch is
//! not exported again until its answers are imported or the batch is cancelled. The most that a batch can
//! cost is drawn from the budget before its file is there, so the budget holds (I8). Answers enter as
//! those of an endpoint do: judged alike, written down, then committed by the service.

pub mod arrivals;
mod export;
mod import;

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, bail};
use schemas::tables::{AnnotationRow, WITHDRAWN};
use serde::{Deserialize, Serialize};

use super::{
    failures, journal,
    money::{self, Nanos, nanos},
};
use crate::{
    dataset::{At, Dataset},
    delta::Store,
};

pub use export::{Exported, export};
pub use import::{Imported, import};

/// Where the batches are that are out.
pub const FOLDER: &str = "_everpair/batches";

/// Batches that are over and remembered: their answers may be imported again and change nothing.
const REMEMBERED: usize = 100;

/// A batch. Ids and numbers, no texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Its name; the slice of the budget that pays for it was drawn by it.
    pub name: String,
    /// When it was written, microseconds UTC.
    pub exported_at: i64,
    /// Requests that it had then.
    pub requests: u64,
    /// What answers so far have cost.
    pub spent: Nanos,
    /// Requests without an answer so far; without any it is over.
    pub out: Vec<Out>,
}

/// A request that is out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Out {
    /// Of its line in the file. Answers name it and the batch: a request may be in several batches, one
    /// after the other, and the answers of an earlier one may come late.
    pub number: u64,
    /// Its row less what is not known yet; what it costs are earlier tries.
    pub row: AnnotationRow,
    /// For instructions: the request for the description that they are made of.
    pub describe_id: Option<String>,
    /// The most that its answer can cost.
    pub most: Nanos,
}

/// What one import has found, an object of its own: of several at once none takes back what another one
/// has noted down, and a request that two have found is paid once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    batch: String,
    /// By the numbers of requests that are not out any more: what they have cost.
    ended: BTreeMap<u64, Nanos>,
}

/// Stands in the names of parts, and of nothing else.
const PART: &str = ".part-";

impl Batch {
    fn object(&self) -> String {
        format!("{FOLDER}/{}.json", self.name)
    }

    /// The most that requests without an answer can cost.
    pub fn most(&self) -> Nanos {
        self.out.iter().map(|out| out.most).sum()
    }

    fn write(&self, store: &Store) -> anyhow::Result<()> {
        let content = serde_json::to_vec(self).context("write a batch")?;
        store.replace(&self.object(), content).context("write down what is out in a batch")
    }

    /// These are not out any more.
    fn note(&self, store: &Store, ended: BTreeMap<u64, Nanos>) -> anyhow::Result<()> {
        let name = format!("{FOLDER}/{}{PART}{}.json", self.name, uuid::Uuid::new_v4());
        let part = Part { batch: self.name.clone(), ended };
        let content = serde_json::to_vec(&part).context("write what was imported")?;
        store.replace(&name, content).context("write down what is not out any more")
    }

    /// It has cost so much, and nothing more comes of it.
    fn settle(&self, store: &Store, spent: Nanos) -> anyhow::Result<()> {
        money::close(store, &self.name, spent)
    }

    fn remove(&self, store: &Store) -> anyhow::Result<()> {
        store.delete(&self.object()).context("remove a batch that is over")?;
        sweep(store)
    }

    /// All its answers are here.
    fn close(&self, store: &Store) -> anyhow::Result<()> {
        self.settle(store, self.spent)?;
        Batch { out: Vec::new(), ..self.clone() }.write(store)?;
        let all = read_all(store)?.into_iter().rev().filter(|batch| batch.out.is_empty());
        all.skip(REMEMBERED).try_for_each(|batch| batch.remove(store))?;
        sweep(store)
    }
}

/// Names of pages, and of parts.
fn names(store: &Store) -> anyhow::Result<[Vec<String>; 2]> {
    let all = store.list(FOLDER, "").context("list batches")?;
    let all = all.into_iter().map(|(file, _)| format!("{FOLDER}/{file}"));
    let (parts, pages) = all.partition(|name| name.contains(PART));
    Ok([pages, parts])
}

/// As the pages alone say.
fn pages(store: &Store) -> anyhow::Result<Vec<Batch>> {
    let [pages, _] = names(store)?;
    let found = journal::at_once(&pages, |name| journal::read_object::<Batch>(store, name))?;
    Ok(found.into_iter().flatten().collect())
}

/// Closes batches of which an import has found the last answers, and was killed then.
fn finish(store: &Store) -> anyhow::Result<()> {
    let open = pages(store)?.into_iter().filter(|batch| !batch.out.is_empty());
    let open: HashSet<String> = open.map(|batch| batch.name).collect();
    let ended = read_all(store)?.into_iter().filter(|batch| batch.out.is_empty());
    ended.filter(|batch| open.contains(&batch.name)).try_for_each(|batch| batch.close(store))
}

/// Removes parts of batches that are over or have gone.
fn sweep(store: &Store) -> anyhow::Result<()> {
    let [_, parts] = names(store)?;
    let open = pages(store)?.into_iter().filter(|batch| !batch.out.is_empty());
    let open: HashSet<String> = open.map(|batch| batch.name).collect();
    let of = |name: &str| {
        let file = name.strip_prefix(FOLDER)?.strip_prefix('/')?;
        file.split_once(PART).map(|(batch, _)| batch.to_owned())
    };
    let mut gone = parts.iter().filter(|name| of(name).is_none_or(|batch| !open.contains(&batch)));
    gone.try_for_each(|name| store.delete(name).context("remove what was imported"))
}

/// Those that are out and those that are remembered, the oldest first.
fn read_all(store: &Store) -> anyhow::Result<Vec<Batch>> {
    // Pages last: a batch that is over meanwhile needs no parts.
    let [_, parts] = names(store)?;
    let parts = journal::at_once(&parts, |name| journal::read_object::<Part>(store, name))?;
    let mut ended: HashMap<String, BTreeMap<u64, Nanos>> = HashMap::new();
    for part in parts.into_iter().flatten() {
        ended.entry(part.batch).or_default().extend(part.ended);
    }
    let mut all = pages(store)?;
    for batch in all.iter_mut().filter(|batch| !batch.out.is_empty()) {
        if let Some(ended) = ended.get(&batch.name) {
            batch.out.retain(|out| !ended.contains_key(&out.number));
            batch.spent = ended.values().fold(batch.spent, |all, cost| all.saturating_add(*cost));
        }
    }
    all.sort_by_key(|batch| (batch.exported_at, batch.name.clone()));
    Ok(all)
}

/// Those that are out, the oldest first.
///
/// # Errors
/// One of them cannot be read.
pub fn read(store: &Store) -> anyhow::Result<Vec<Batch>> {
    Ok(read_all(store)?.into_iter().filter(|batch| !batch.out.is_empty()).collect())
}

/// Gives a batch up: its requests may be asked again. `sent` says that somebody has answered it, or will:
/// then the most that it can cost counts as spent.
///
/// # Errors
/// There is no such batch, or the store failed.
pub fn cancel(store: &Store, name: &str, sent: bool) -> anyhow::Result<Batch> {
    finish(store)?;
    let all = read(store)?;
    let Some(batch) = all.iter().find(|batch| batch.name == name) else {
        let names: Vec<&str> = all.iter().map(|batch| &*batch.name).collect();
        bail!("no batch {name:?} is out; those that are: [{}]", names.join(", "));
    };
    let lost = if sent { batch.most() } else { stored(store, batch)? };
    batch.settle(store, batch.spent + lost)?;
    batch.remove(store)?;
    Ok(batch.clone())
}

/// What answers have cost that an import has stored, and could not note down before it was killed.
fn stored(store: &Store, batch: &Batch) -> anyhow::Result<Nanos> {
    let out: HashMap<&str, &Out> =
        batch.out.iter().map(|out| (&*out.row.request_id, out)).collect();
    let of = |row: &AnnotationRow| {
        let before = out.get(&*row.request_id)?.row.cost_usd.unwrap_or(0.0);
        Some(nanos((row.cost_usd? - before).max(0.0)))
    };
    let waiting = journal::read(store)?;
    let failed = failures::read(store)?.into_iter();
    let failed = failed.filter(|failure| failure.batch.as_ref() == Some(&batch.name));
    let mut rows: BTreeMap<String, AnnotationRow> =
        failed.map(|failure| (failure.row.request_id.clone(), failure.row)).collect();
    let held = Dataset::open(store, &At::Latest)?.rows::<AnnotationRow>()?.into_iter();
    rows.extend(held.chain(waiting).map(|row| (row.request_id.clone(), row)));
    // One that was withdrawn before the export is no answer of this batch.
    let answers =
        |row: &&AnnotationRow| row.outcome != WITHDRAWN || row.created_at >= batch.exported_at;
    Ok(rows.values().filter(answers).filter_map(of).sum())
}

/// Before an endpoint is called: what is out in batches would be asked and paid twice.
///
/// # Errors
/// There is a batch; the message says what to do.
pub fn refuse_open(store: &Store) -> anyhow::Result<()> {
    let all = read(store)?;
    let requests: usize = all.iter().map(|batch| batch.out.len()).sum();
    let names: Vec<&str> = all.iter().map(|batch| &*batch.name).collect();
    if !names.is_empty() {
        bail!(
            "[annotator] transport = \"online\" while {requests} requests are out in batches ({}): \
             they would be paid twice; `everpair requests import` their answers or `everpair requests \
             cancel` them, with transport = \"batch\" until then",
            names.join(", ")
        );
    }
    Ok(())
}
