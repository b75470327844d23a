//! Requests that travel in files, in the form that OpenAI's batches and `vllm run-batch` share.
//!
//! ```text
//!  pairs, memo ─► export ─► FILE ─► whoever answers it ─► FILE ─► import ─► _everpair/answers ─► service
//!                   └────► _everpair/batches/NAME.json, a slice of the budget ────┘
//! ```
//!
//! A pair takes two rounds, for its instructions are made of its description. What is out in a batch is
//! not exported again until its answers are imported or the batch is cancelled. The most that a batch can
//! cost is drawn from the budget before its file is there, so the budget holds (I8). Answers enter as
//! those of an endpoint do: judged alike, written down, then committed by the service.

pub mod arrivals;
pub mod command;
mod export;
mod import;

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, bail};
use schemas::tables::AnnotationRow;
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
    /// Its name.
    pub name: String,
    /// When it was written, microseconds UTC.
    pub exported_at: i64,
    /// Requests that it had then.
    pub requests: u64,
    /// The slice of the budget that pays for it; none where nothing costs anything.
    pub slice: Option<u64>,
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

impl Batch {
    fn object(&self) -> String {
        object(&self.name)
    }

    /// The most that requests without an answer can cost.
    pub fn most(&self) -> Nanos {
        self.out.iter().map(|out| out.most).sum()
    }

    /// As its page says now.
    fn now(&self, store: &Store) -> anyhow::Result<Option<Batch>> {
        let page = store.get(&self.object()).context("look at a batch")?;
        page.map(|page| serde_json::from_slice(&page)).transpose().context("read a batch")
    }

    fn write(&self, store: &Store) -> anyhow::Result<()> {
        let content = serde_json::to_vec(self).context("write a batch")?;
        store.replace(&self.object(), content).context("write down what is out in a batch")
    }

    /// It has cost so much, and nothing more comes of it.
    fn settle(&self, store: &Store, spent: Nanos) -> anyhow::Result<()> {
        self.slice.map_or(Ok(()), |slice| money::close(store, slice, spent))
    }

    fn remove(&self, store: &Store) -> anyhow::Result<()> {
        store.delete(&self.object()).context("remove a batch that is over")
    }

    /// All its answers are here.
    fn close(&self, store: &Store, spent: Nanos) -> anyhow::Result<()> {
        self.settle(store, spent)?;
        Batch { spent, out: Vec::new(), ..self.clone() }.write(store)?;
        let all = read_all(store)?.into_iter().rev().filter(|batch| batch.out.is_empty());
        all.skip(REMEMBERED).try_for_each(|batch| batch.remove(store))
    }
}

fn object(name: &str) -> String {
    format!("{FOLDER}/{name}.json")
}

/// Those that are out and those that are remembered, the oldest first.
fn read_all(store: &Store) -> anyhow::Result<Vec<Batch>> {
    let mut all: Vec<Batch> = journal::objects(store, FOLDER).context("batches")?;
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
        let out = out.get(&*row.request_id)?;
        Some(nanos(row.cost_usd? - out.row.cost_usd.unwrap_or(0.0)))
    };
    let waiting = journal::read(store)?;
    let failed = failures::read(store)?.into_iter();
    let failed = failed.filter(|failure| failure.batch.as_ref() == Some(&batch.name));
    let mut rows: BTreeMap<String, AnnotationRow> =
        failed.map(|failure| (failure.row.request_id.clone(), failure.row)).collect();
    let held = Dataset::open(store, &At::Latest)?.rows::<AnnotationRow>()?.into_iter();
    rows.extend(held.chain(waiting).map(|row| (row.request_id.clone(), row)));
    Ok(rows.values().filter_map(of).sum())
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
