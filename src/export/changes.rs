//! What an increment must bring: rows of `triplets` that came, left or changed after an epoch, by the
//! table `changes`, and rows that stayed but name an image that is another one now: `triplets` names
//! images by id, and an export has their pictures.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::Path,
};

use anyhow::{Context, bail};
use schemas::tables::{ChangeRow, Table, from_batch};
use serde::Deserialize;
use serde_json::json;

use super::folder::{self, DataFile};
use crate::{
    dataset::{At, Dataset},
    delta::{self, Key},
};

/// The first and the last step of one row: its epoch, and whether it was an insert. In one epoch a
/// delete comes first.
#[derive(Clone, Copy)]
struct Steps {
    first: (i64, bool),
    last: (i64, bool),
}

/// The rows of `triplets` that changed. Memory: the ids of all of them, and 32 bytes for each image
/// that changed.
pub struct Changes {
    steps: HashMap<String, Steps>,
    /// Rows that stayed, with an image that did not.
    touched: HashSet<String>,
    added: usize,
}

impl Changes {
    /// Those after `since`, up to the epoch of the dataset.
    pub fn between(dataset: &Dataset, since: u64) -> anyhow::Result<Changes> {
        let steps = steps(dataset, since)?;
        let images = changed_images(dataset, since)?;
        let mut touched = HashSet::new();
        for row in named(&dataset.table(Table::Triplets)?) {
            let row = row?;
            if !steps.contains_key(&row.triplet_id)
                && row.images().any(|id| images.contains_key(&Key::of(&[id])))
            {
                touched.insert(row.triplet_id);
            }
        }
        let added = steps.values().filter(|steps| steps.last.1).count() + touched.len();
        Ok(Changes { steps, touched, added })
    }

    /// Rows that are live now and are new or changed.
    pub fn added(&self) -> usize {
        self.added
    }

    /// Whether a row is one of those.
    pub fn adds(&self, triplet_id: &str) -> bool {
        let came = self.steps.get(triplet_id).is_some_and(|steps| steps.last.1);
        came || self.touched.contains(triplet_id)
    }

    /// Rows that were live before and are not, or not as they were, sorted.
    fn deleted(&self) -> BTreeSet<&str> {
        let before = self.steps.iter().filter(|(_, steps)| !steps.first.1).map(|(id, _)| id);
        before.chain(&self.touched).map(String::as_str).collect()
    }

    /// Writes `deleted-EPOCH.jsonl`; nothing where nothing left.
    pub fn write_deleted(&self, folder: &Path, epoch: u64) -> anyhow::Result<Option<DataFile>> {
        let deleted = self.deleted();
        if deleted.is_empty() {
            return Ok(None);
        }
        let path = format!("deleted-{epoch}.jsonl");
        let mut text = String::new();
        for id in &deleted {
            text.push_str(&json!({ "triplet_id": id, "epoch": epoch }).to_string());
            text.push('\n');
        }
        folder::write(&folder.join(&path), text.as_bytes())?;
        Ok(Some(DataFile { path, rows: deleted.len() as u64, bytes: text.len() as u64 }))
    }
}

fn steps(dataset: &Dataset, since: u64) -> anyhow::Result<HashMap<String, Steps>> {
    let mut steps: HashMap<String, Steps> = HashMap::new();
    for batch in dataset.table(Table::Changes)?.scan(None)? {
        for row in from_batch::<ChangeRow>(&batch?).context("read changes")? {
            let epoch = u64::try_from(row.epoch).context("an epoch below 0")?;
            if epoch <= since || epoch > dataset.epoch() {
                continue;
            }
            let insert = match row.op.as_str() {
                "insert" => true,
                "delete" => false,
                other => bail!("changes: {other:?} is no op"),
            };
            let step = (row.epoch, insert);
            let held = steps.entry(row.triplet_id).or_insert(Steps { first: step, last: step });
            held.first = held.first.min(step);
            held.last = held.last.max(step);
        }
    }
    Ok(steps)
}

/// What an export shows of an image.
#[derive(Deserialize)]
struct Shown {
    image_id: String,
    content_id: String,
    source: Option<String>,
    uri: Option<String>,
    licence: Option<String>,
    epoch: i64,
}

impl Shown {
    fn keys(&self) -> (Key, Key) {
        let optional = |text: &Option<String>| json!(text).to_string();
        let parts = [&self.source, &self.uri, &self.licence].map(optional);
        let [source, uri, licence] = parts.each_ref().map(String::as_str);
        (Key::of(&[&self.image_id]), Key::of(&[&self.content_id, source, uri, licence]))
    }
}

fn shown(dataset: &Dataset, mut each: impl FnMut(Shown)) -> anyhow::Result<()> {
    let columns = ["image_id", "content_id", "source", "uri", "licence", "epoch"];
    for batch in dataset.table(Table::Images)?.scan(Some(&columns))? {
        let rows: Vec<Shown> = serde_arrow::from_record_batch(&batch?).context("read images")?;
        rows.into_iter().for_each(&mut each);
    }
    Ok(())
}

/// Images that are not what they were: those whose row is newer than `since`, but for those that
/// were only sent again, as far as the tables of that epoch are still there to tell.
fn changed_images(dataset: &Dataset, since: u64) -> anyhow::Result<HashMap<Key, Key>> {
    let mut changed = HashMap::new();
    shown(dataset, |row| {
        if u64::try_from(row.epoch).is_ok_and(|epoch| epoch > since) {
            changed.extend([row.keys()]);
        }
    })?;
    let mut same = Vec::new();
    let before = Dataset::open(dataset.store(), &At::Epoch(since));
    if let Ok(before) = before
        && before.epoch() == since
    {
        let read = shown(&before, |row| {
            let (id, what) = row.keys();
            same.extend((changed.get(&id) == Some(&what)).then_some(id));
        });
        // Its files may be gone: then what was sent again goes out again.
        if read.is_ok() {
            for id in same {
                changed.remove(&id);
            }
        }
    }
    Ok(changed)
}

/// The columns of `triplets` that name an image.
#[derive(Deserialize)]
pub struct Named {
    /// The row.
    pub triplet_id: String,
    query_id: String,
    target_id: String,
    hard_negatives: Vec<String>,
}

impl Named {
    /// The images.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let ids = [&self.query_id, &self.target_id].into_iter().chain(&self.hard_negatives);
        ids.map(String::as_str)
    }
}

/// The rows of `triplets`, by the images that they name.
pub fn named(triplets: &delta::Table) -> impl Iterator<Item = anyhow::Result<Named>> {
    const COLUMNS: [&str; 4] = ["triplet_id", "query_id", "target_id", "hard_negatives"];
    let (batches, failed) = match triplets.scan(Some(&COLUMNS)) {
        Ok(batches) => (Some(batches), None),
        Err(error) => (None, Some(Err(error.into()))),
    };
    let rows = batches.into_iter().flatten().flat_map(|batch| {
        let read = batch.map_err(anyhow::Error::from).and_then(|batch| {
            serde_arrow::from_record_batch::<Vec<Named>>(&batch).context("read triplets")
        });
        match read {
            Ok(rows) => rows.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    });
    failed.into_iter().chain(rows)
}
