//! Epochs over all tables: the anchor's commit, the last one, makes an epoch real, and a start takes
//! back what never became real.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::decide::{self, Resume};
use super::log::{self, read_commit};
use super::table::{Compacted, choose};
use super::{
    AGAIN, Commit, EPOCH, Error, Key, OFFSET, Result, Rows, Store, Table, TableSpec, generation,
};

const LATEST: &str = "_everpair/latest.json";

/// The next offset to read, by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// What an epoch does to one table.
#[derive(Debug, Default)]
pub struct Change {
    pub insert: Vec<RecordBatch>,
    pub delete: Vec<Key>,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.insert.iter().all(|batch| batch.num_rows() == 0)
    }
}

/// One epoch.
#[derive(Debug, Default)]
pub struct EpochCommit {
    /// Above the epoch of the anchor; gaps are fine.
    pub epoch: u64,
    /// Changes by table name; a table that is not named does not change.
    pub changes: BTreeMap<String, Change>,
    /// Rows that leave a table without a key, by its name: as [`Table::rows_where`] finds them.
    pub rows: BTreeMap<String, Rows>,
    /// Next offsets; partitions that are not named stay where they are.
    pub offsets: Offsets,
    /// What else `latest.json` says: encoders, bands, k's and rules in force.
    pub info: Map<String, Value>,
}

/// `_everpair/latest.json`: versions that agree with each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latest {
    pub epoch: u64,
    pub generation: u64,
    /// Table name to version.
    pub tables: BTreeMap<String, u64>,
    /// Topic to partition to next offset.
    pub offsets: BTreeMap<String, BTreeMap<String, i64>>,
    #[serde(flatten)]
    pub info: Map<String, Value>,
}

/// What readers are to read; `None` before the first epoch.
pub fn read_latest(store: &Store) -> Result<Option<Latest>> {
    let content = store.get(LATEST)?;
    let parsed = content.map(|content| serde_json::from_slice(&content));
    parsed.transpose().map_err(|error| {
        Error::Unreadable(format!(
            "{LATEST}: {error}. Remove it and start the service, which writes it anew from the tables"
        ))
    })
}

/// When the newest page was written, in microseconds since 1970, by the store's clock.
pub fn latest_written(store: &Store) -> Result<Option<i64>> {
    store.written(LATEST)
}

/// The one writer of a set of tables, until a newer one starts.
pub struct Publisher {
    pub(super) store: Store,
    pub(super) generation: u64,
    /// In the order of their commits; the last one is the anchor.
    pub(super) tables: Vec<Table>,
    /// Set when a commit failed: only a new start knows what happened.
    pub(super) stopped: bool,
}

/// Becomes the writer of the tables `specs`, given in the order of their commits, the anchor last:
/// takes the next generation, claims every table (the anchor first) before reading it, takes back
/// what an epoch left that the anchor never reached, and reads the keys.
///
/// # Errors
/// `Fenced` when a newer writer has started meanwhile; others as for opening a table.
pub fn start(store: &Store, specs: &[TableSpec]) -> Result<Publisher> {
    let generation = generation::take(store)?;
    start_as(store, specs, generation)
        .map_err(|error| generation::explained(store, generation, error))
}

fn start_as(store: &Store, specs: &[TableSpec], generation: u64) -> Result<Publisher> {
    let Some((anchor, others)) = specs.split_last() else {
        return Err(Error::Refused("no tables to start with".to_owned()));
    };
    // Before the tables: from here on they only grow.
    let page = read_latest(store)?;
    let claim = |spec: &TableSpec| {
        let named = page.as_ref().and_then(|page| page.tables.get(&spec.name)).copied();
        Table::claim_from(store, spec, generation, named)
    };
    let anchor = claim(anchor)?;
    let mut tables = Vec::with_capacity(specs.len());
    for spec in others {
        let mut table = claim(spec)?;
        if decide::resume(anchor.epoch(), table.epoch(), spec.memo) == Resume::Restore {
            table.restore(anchor.epoch())?;
        }
        tables.push(table);
    }
    tables.push(anchor);
    for table in &mut tables {
        table.build_index()?;
    }
    let publisher = Publisher { store: store.clone(), generation, tables, stopped: false };
    let written = read_latest(store)?.map(|latest| latest.epoch);
    if let Some(epoch) = publisher.epoch()
        && decide::latest_lags(Some(epoch), written)
    {
        publisher.write_latest(epoch, publisher.info_of(epoch)?)?;
    }
    Ok(publisher)
}

impl Publisher {
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where the tables are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The newest complete epoch.
    pub fn epoch(&self) -> Option<u64> {
        self.anchor().epoch()
    }

    /// Next offsets as of the newest complete epoch.
    pub fn offsets(&self) -> Offsets {
        let txns = self.anchor().txns(OFFSET).into_iter();
        let parsed = txns.filter_map(|(name, next)| {
            let (topic, partition) = name.rsplit_once('/')?;
            Some(((topic.to_owned(), partition.parse().ok()?), next))
        });
        parsed.collect()
    }

    /// A table by its name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name() == name)
    }

    /// The tables in the order of their commits.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    pub(super) fn anchor(&self) -> &Table {
        self.tables.last().expect("start refuses an empty list of tables")
    }

    /// Commits an epoch: each changed table once, in order, then the anchor with the offsets, then
    /// `latest.json`. An epoch that changes nothing and moves no offset leaves no trace and gives
    /// `None`.
    ///
    /// # Errors
    /// As for a table's commit. After an error the publisher refuses everything: start again.
    pub fn publish(&mut self, epoch: EpochCommit) -> Result<Option<Latest>> {
        self.refuse_if_stopped()?;
        self.stopped = true;
        let published = self.publish_once(epoch);
        let published = published
            .map_err(|error| generation::explained(&self.store, self.generation, error))?;
        self.stopped = false;
        Ok(published)
    }

    pub(super) fn refuse_if_stopped(&self) -> Result<()> {
        if self.stopped {
            return Err(Error::Refused("a commit failed: start again from the tables".to_owned()));
        }
        Ok(())
    }

    /// Refuses to go on once a newer writer has begun. Its commits alone would not stop one that
    /// slept for long: the log may have lost the versions in which they would collide. And refuses
    /// where its own generation has gone: then this is not the place any more where the tables are.
    pub(super) fn refuse_if_newer(&self) -> Result<()> {
        generation::check(&self.store, self.generation)
    }

    /// Whether this is still the newest writer, by one look at the store. Commits look by themselves;
    /// this is for whoever has none to make.
    ///
    /// # Errors
    /// `Fenced` when a newer one has begun, or the store fails.
    pub fn check_newest(&self) -> Result<()> {
        generation::check_newest(&self.store, self.generation)
    }

    fn publish_once(&mut self, epoch: EpochCommit) -> Result<Option<Latest>> {
        let EpochCommit { epoch, mut changes, mut rows, offsets, info } = epoch;
        if let Some(name) = changes.keys().find(|name| self.table(name).is_none()) {
            return Err(Error::Refused(format!("there is no table {name}")));
        }
        if self.epoch() >= Some(epoch) {
            let why = format!("epoch {epoch} is not above {:?}", self.epoch());
            return Err(Error::Refused(why));
        }
        let held = self.offsets();
        let moved = offsets.iter().filter(|(partition, next)| held.get(partition) != Some(next));
        let mut txns = BTreeMap::new();
        for (place, next) in moved {
            let (topic, partition) = place;
            txns.insert(format!("{OFFSET}{topic}/{partition}"), *next);
            if held.get(place) > Some(next) {
                let at = i64::try_from(epoch).expect("epochs stay below 2^63");
                txns.insert(format!("{AGAIN}{topic}/{partition}"), at);
            }
        }
        let changed: Vec<bool> = self
            .tables
            .iter()
            .map(|table| {
                changes.get(table.name()).is_some_and(|change| !change.is_empty())
                    || rows.get(table.name()).is_some_and(|rows| !rows.is_empty())
            })
            .collect();
        let plan = decide::plan(&changed, !txns.is_empty());
        if plan.is_empty() {
            return Ok(None);
        }
        let anchor = self.tables.len() - 1;
        for at in plan {
            let table = &mut self.tables[at];
            let Change { insert, delete } = changes.remove(table.name()).unwrap_or_default();
            let rows = rows.remove(table.name()).unwrap_or_default();
            let (txns, info) = match at == anchor {
                true => (std::mem::take(&mut txns), info.clone()),
                false => (BTreeMap::new(), Map::new()),
            };
            table.commit(Commit { epoch, txns, insert, delete, rows, info })?;
        }
        self.refuse_if_newer()?;
        self.write_latest(epoch, info).map(Some)
    }

    /// Makes fewer files of one table where that is worth it, sorted by these columns; `None`
    /// where it is not. To be called between epochs. Readers go on to see the older version until
    /// [`Publisher::renew_latest`] or the next epoch.
    ///
    /// # Errors
    /// As for a table's commit, after which the publisher refuses everything; before it nothing has
    /// happened, see [`Publisher::is_stopped`].
    pub fn compact(&mut self, table: &str, order: &[&str]) -> Result<Option<Compacted>> {
        self.refuse_if_stopped()?;
        let Some(at) = self.tables.iter().position(|held| held.name() == table) else {
            return Err(Error::Refused(format!("there is no table {table}")));
        };
        let sources = choose(&self.tables[at].files());
        if sources.is_empty() {
            return Ok(None);
        }
        let compacted = self.tables[at].compact(&sources, order);
        self.stopped = !self.tables[at].is_writable();
        compacted
            .map(Some)
            .map_err(|error| generation::explained(&self.store, self.generation, error))
    }

    /// Takes those live rows out of a memo of which `goes` says so, given batches of these columns, and
    /// gives how many. To be called between epochs; earlier versions keep theirs. Readers see it with
    /// [`Publisher::renew_latest`] or the next epoch.
    ///
    /// # Errors
    /// As for a table's commit, after which the publisher refuses everything; `Refused` for a table
    /// that is no memo.
    pub fn forget(
        &mut self,
        table: &str,
        columns: &[&str],
        goes: impl FnMut(&RecordBatch) -> Result<Vec<bool>>,
    ) -> Result<u64> {
        self.refuse_if_stopped()?;
        let held = self.tables.iter_mut().find(|held| held.name() == table);
        let held = held.ok_or_else(|| Error::Refused(format!("there is no table {table}")))?;
        let rows = held.rows_where(columns, goes)?;
        let forgotten = held.forget(&rows);
        self.stopped = !held.is_writable();
        forgotten.map_err(|error| generation::explained(&self.store, self.generation, error))
    }

    /// Whether a commit failed, after which only a new start knows what happened.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Names the tables' newest versions in the pages of the newest epoch, of which they hold the
    /// same rows; `None` where they do already.
    ///
    /// # Errors
    /// `Fenced` when a newer writer is there, or the store fails.
    pub fn renew_latest(&self) -> Result<Option<Latest>> {
        let Some(epoch) = self.epoch() else { return Ok(None) };
        let held = read_latest(&self.store)?.filter(|latest| latest.epoch == epoch);
        let named = |table: &Table| {
            held.as_ref().and_then(|latest| latest.tables.get(table.name()))
                == Some(&table.version())
        };
        if self.tables.iter().all(named) {
            return Ok(None);
        }
        self.refuse_if_newer()
            .map_err(|error| generation::explained(&self.store, self.generation, error))?;
        let info = match held {
            Some(latest) => latest.info,
            None => self.info_of(epoch)?,
        };
        self.write_latest(epoch, info).map(Some)
    }

    /// Lets the pages of the newest epoch say this beside the versions; `None` before there is one.
    ///
    /// # Errors
    /// `Fenced` when a newer writer is there, or the store fails.
    pub fn renew_info(&self, info: Map<String, Value>) -> Result<Option<Latest>> {
        let Some(epoch) = self.epoch() else { return Ok(None) };
        self.check_newest()?;
        self.write_latest(epoch, info).map(Some)
    }

    /// Removes names of generations that are long past; gives how many.
    pub fn retain_generations(&self) -> Result<usize> {
        generation::retain(&self.store)
    }

    /// Writes what the newest epoch is: first its own page, then the one that readers open.
    pub(super) fn write_latest(&self, epoch: u64, info: Map<String, Value>) -> Result<Latest> {
        let mut offsets: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for ((topic, partition), next) in self.offsets() {
            offsets.entry(topic).or_default().insert(partition.to_string(), next);
        }
        let versions = self.tables.iter().map(|table| (table.name().to_owned(), table.version()));
        let (generation, tables) = (self.generation, versions.collect());
        let latest = Latest { epoch, generation, tables, offsets, info };
        let content = serde_json::to_vec_pretty(&latest).expect("all keys are strings");
        self.store.replace(&format!("_everpair/epochs/{epoch}.json"), content.clone())?;
        self.store.replace(LATEST, content)?;
        Ok(latest)
    }

    /// What the anchor's commit of its newest epoch said for `latest.json`.
    pub(super) fn info_of(&self, epoch: u64) -> Result<Map<String, Value>> {
        let anchor = self.anchor();
        // The log may have lost commits before the one that is looked for.
        for version in log::commits(&self.store, anchor.name())?.into_iter().rev() {
            let Some(commit) = read_commit(&self.store, anchor.name(), version)? else { continue };
            if commit.txn(EPOCH) == i64::try_from(epoch).ok() {
                let words = commit.info.get("everpair").and_then(|words| words.get("latest"));
                return Ok(words.and_then(Value::as_object).cloned().unwrap_or_default());
            }
        }
        Ok(Map::new())
    }
}
