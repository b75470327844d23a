//! The commits that change a table: rows of an epoch in and out, and the way back.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow_array::RecordBatch;
use roaring::RoaringTreemap;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::action::{Action, Add, Commit as Entry};
use super::super::decide::{self, Admit};
use super::super::log::{Snapshot, put_commit};
use super::super::vector::VectorFile;
use super::super::{EPOCH, Error, GENERATION, Result, checkpoint, file, now_ms};
use super::{Key, Place, Rows, Table, fenced, i64_of, keys, txn};

/// In-memory bytes of rows after which a commit starts another file.
const FILE_BYTES: usize = 512 << 20;

/// What one epoch does to one table.
#[derive(Debug, Default)]
pub struct Commit {
    pub epoch: u64,
    /// More `txn`s of the same commit: application id and version.
    pub txns: BTreeMap<String, i64>,
    /// New rows; batches have the table's schema.
    pub insert: Vec<RecordBatch>,
    /// Keys of rows that leave. A key may leave and come back in one commit.
    pub delete: Vec<Key>,
    /// Rows that leave, besides those of `delete`.
    pub rows: Rows,
    /// For people: kept in the commit, gone once the log is cleaned up.
    pub info: Map<String, Value>,
}

/// What a commit changes, worked out before anything is written.
#[derive(Default)]
struct Change {
    actions: Vec<Action>,
    dead: Vec<(String, RoaringTreemap)>,
    added: Vec<String>,
    placed: Vec<(Key, Place)>,
}

impl Table {
    /// Commits one epoch's changes as one version, which is returned.
    ///
    /// # Errors
    /// `Fenced` when the version went to another writer, `Refused` for a key that is not there or
    /// there twice or an epoch the table has, `Io` when nobody knows: after any of them this handle
    /// is of no more use.
    pub fn commit(&mut self, commit: Commit) -> Result<u64> {
        let writer = self.writer()?;
        let (held, memo) = (self.epoch(), self.spec.memo);
        match decide::admit(writer, self.generation(), held, commit.epoch, memo) {
            Admit::Go => {}
            Admit::Fenced => return Err(fenced(&self.spec, self.generation())),
            Admit::Replay => {
                let why = format!("{} is at epoch {held:?} already", self.spec.name);
                return Err(Error::Refused(why));
            }
        }
        let Commit { epoch, txns, insert, delete, rows, info: words } = commit;
        let mut change = self.change(epoch, writer, &insert, (delete.as_slice(), &rows))?;
        change.actions.push(txn(EPOCH, i64_of(epoch)));
        change.actions.push(txn(GENERATION, i64_of(writer)));
        change.actions.extend(txns.iter().map(|(name, version)| txn(name, *version)));
        let blind = delete.is_empty() && rows.is_empty();
        let operation = if blind { "WRITE" } else { "MERGE" };
        let words = json!({ "epoch": epoch, "generation": writer, "latest": words });
        let info = info(operation, blind, words);
        let actions = std::mem::take(&mut change.actions);
        self.write(Entry { info, actions })?;
        for key in &delete {
            self.index.remove(key);
        }
        self.index.extend(change.placed);
        let keyed = !self.spec.key.is_empty();
        for path in change.added.into_iter().filter(|_| keyed) {
            self.take_number(path);
        }
        self.bury(change.dead);
        Ok(self.version())
    }

    /// Takes rows out of a memo, in a commit that moves no epoch, and gives how many. Their files stay
    /// for the versions before.
    pub(in super::super) fn forget(&mut self, rows: &Rows) -> Result<u64> {
        let writer = self.writer()?;
        if !self.spec.memo {
            let why = format!("{} is no memo: its rows leave with an epoch", self.spec.name);
            return Err(Error::Refused(why));
        }
        let count = rows.values().map(|rows| rows.len() as u64).sum();
        if count == 0 {
            return Ok(0);
        }
        let mut change = Change::default();
        self.delete_rows(&[], rows, &mut change)?;
        change.actions.push(txn(GENERATION, i64_of(writer)));
        let info = info("DELETE", false, json!({ "forgotten": count, "generation": writer }));
        let actions = std::mem::take(&mut change.actions);
        self.write(Entry { info, actions })?;
        self.bury(change.dead);
        Ok(count)
    }

    /// Remembers which rows of files are dead since a commit.
    fn bury(&mut self, dead: Vec<(String, RoaringTreemap)>) {
        for (path, dead) in dead {
            if self.snapshot.files.contains_key(&path) {
                self.dead.insert(path, dead);
            } else {
                self.dead.remove(&path);
                self.free_number(&path);
            }
        }
    }

    pub(super) fn writer(&self) -> Result<u64> {
        let read_only = || Error::Refused(format!("{} is open for reading", self.spec.name));
        self.writer.ok_or_else(read_only)
    }

    /// Puts a commit at the next version, once. Any failure ends the handle's life as a writer.
    pub(super) fn write(&mut self, entry: Entry) -> Result<()> {
        let version = self.version() + 1;
        let writer = self.writer.take();
        if !put_commit(&self.store, &self.spec.name, version, &entry)? {
            let why = format!("{}: version {version} is not ours", self.spec.name);
            return Err(Error::Fenced(why));
        }
        self.writer = writer;
        self.ledger.apply(&mut self.snapshot, version, &entry.actions)?;
        if version.is_multiple_of(checkpoint::interval(&self.snapshot.metadata)) {
            // A shortcut that fails to be written costs the next start time, nothing else.
            let _ = checkpoint::write(&self.store, &self.spec.name, &self.snapshot);
        }
        Ok(())
    }

    /// Writes the files of a commit and works out its file actions.
    fn change(
        &self,
        epoch: u64,
        writer: u64,
        insert: &[RecordBatch],
        (delete, rows): (&[Key], &Rows),
    ) -> Result<Change> {
        let mut change = Change::default();
        self.delete_rows(delete, rows, &mut change)?;
        let leaving: HashSet<&Key> = delete.iter().collect();
        let mut seen = HashSet::new();
        for batches in groups(insert) {
            let file = self.next_number(change.added.len());
            let mut row = 0_u32;
            for batch in batches.iter().filter(|_| !self.spec.key.is_empty()) {
                for key in keys(&self.spec, batch)? {
                    let live = self.index.contains_key(&key) && !leaving.contains(&key);
                    if live || !seen.insert(key) {
                        let why = format!("{}: a key would be there twice", self.spec.name);
                        return Err(Error::Refused(why));
                    }
                    change.placed.push((key, (file, row)));
                    row += 1;
                }
            }
            let add = self.write_file((epoch, writer), batches)?;
            change.added.push(add.path.clone());
            change.actions.push(add.into());
        }
        Ok(change)
    }

    /// Writes batches as one new file, under a name that nobody else will ever take, and gives the
    /// action that adds it.
    pub(super) fn write_file(
        &self,
        (epoch, writer): (u64, u64),
        batches: &[RecordBatch],
    ) -> Result<Add> {
        let path = format!("part-{epoch}-g{writer}-{}.parquet", Uuid::new_v4());
        let written = file::write(&self.spec.schema, batches)?;
        let add = Add {
            path,
            size: i64_of(written.content.len() as u64),
            modification_time: now_ms(),
            data_change: true,
            stats: Some(written.stats),
            ..Add::default()
        };
        self.store.replace(&format!("{}/{}", self.spec.name, add.path), written.content)?;
        Ok(add)
    }

    /// Marks rows dead: their files go out and come back with a larger deletion vector, or stay out
    /// when no row is left.
    fn delete_rows(&self, delete: &[Key], rows: &Rows, change: &mut Change) -> Result<()> {
        let mut dying: BTreeMap<&String, RoaringTreemap> = BTreeMap::new();
        for key in delete {
            let place = self.index.get(key);
            let fresh = place.map(|(file, row)| {
                let path = &self.paths[*file as usize];
                let dead = dying
                    .entry(path)
                    .or_insert_with(|| self.dead.get(path).cloned().unwrap_or_default());
                dead.insert(u64::from(*row))
            });
            if fresh != Some(true) {
                let why = format!("{}: a row to delete is not there", self.spec.name);
                return Err(Error::Refused(why));
            }
        }
        for (path, rows) in rows {
            let dead = dying
                .entry(path)
                .or_insert_with(|| self.dead.get(path).cloned().unwrap_or_default());
            let fresh = rows.iter().filter(|row| dead.insert(**row)).count();
            if fresh != rows.len() || !self.snapshot.files.contains_key(path) {
                let why = format!("{}: a row to delete is not there", self.spec.name);
                return Err(Error::Refused(why));
            }
        }
        let mut vectors = VectorFile::new();
        for (path, dead) in dying {
            let old = &self.snapshot.files[path];
            let mut stats: Value = serde_json::from_str(old.stats.as_deref().unwrap_or("{}"))
                .map_err(|error| Error::Unreadable(format!("{path}: statistics: {error}")))?;
            change.actions.push(old.removal(now_ms()).into());
            if stats["numRecords"].as_u64() != Some(dead.len()) {
                let mut add = old.clone();
                stats["tightBounds"] = json!(false);
                add.stats = Some(stats.to_string());
                add.data_change = true;
                add.deletion_vector = Some(vectors.push(&dead));
                change.actions.push(add.into());
            }
            change.dead.push((path.clone(), dead));
        }
        if let Some((name, content)) = vectors.finish(&self.spec.name) {
            self.store.replace(&name, content)?;
        }
        Ok(())
    }

    /// Takes back every commit that went above `epoch`, by one commit after which the table names
    /// the files and deletion vectors of the version before them. Drops the index.
    pub fn restore(&mut self, epoch: Option<u64>) -> Result<u64> {
        let writer = self.writer()?;
        let name = self.spec.name.clone();
        let above = self.snapshot.last_above(&self.store, &name, epoch)?;
        let before = above.checked_sub(1);
        let target = before.map(|at| Snapshot::load(&self.store, &name, Some(at))).transpose()?;
        let target =
            target.flatten().filter(|target| target.epoch() <= epoch).ok_or_else(|| {
                Error::Unreadable(format!(
                    "{name}: no version before {above} is of epoch {epoch:?}"
                ))
            })?;
        let same = |add: &Add, other: Option<&Add>| {
            other.is_some_and(|other| add.deletion_vector == other.deletion_vector)
        };
        let mut actions: Vec<Action> = Vec::new();
        for (path, add) in &self.snapshot.files {
            if !same(add, target.files.get(path)) {
                actions.push(add.removal(now_ms()).into());
            }
        }
        for (path, add) in &target.files {
            if !same(add, self.snapshot.files.get(path)) {
                actions.push(Action::from(Add { data_change: true, ..add.clone() }));
            }
        }
        actions.push(txn(EPOCH, target.epoch().map_or(-1, i64_of)));
        actions.push(txn(GENERATION, i64_of(writer)));
        let words = json!({ "restored": target.version, "generation": writer });
        self.write(Entry { info: info("RESTORE", false, words), actions })?;
        self.read_vectors()?;
        (self.paths, self.free, self.index) = (Vec::new(), Vec::new(), HashMap::new());
        Ok(self.version())
    }
}

pub(super) fn info(operation: &str, blind: bool, ours: Value) -> Map<String, Value> {
    let info = json!({
        "timestamp": now_ms(),
        "operation": operation,
        "operationParameters": {},
        "isBlindAppend": blind,
        "engineInfo": concat!("everpair/", env!("CARGO_PKG_VERSION")),
        "txnId": Uuid::new_v4().to_string(),
        "everpair": ours,
    });
    match info {
        Value::Object(info) => info,
        _ => Map::new(),
    }
}

/// Cuts batches into runs for one file each; empty batches make no file.
fn groups(batches: &[RecordBatch]) -> Vec<&[RecordBatch]> {
    let (mut groups, mut start, mut bytes, mut rows) = (Vec::new(), 0, 0, 0);
    for (at, batch) in batches.iter().enumerate() {
        bytes += batch.get_array_memory_size();
        rows += batch.num_rows();
        if bytes >= FILE_BYTES && rows > 0 {
            groups.push(&batches[start..=at]);
            (start, bytes, rows) = (at + 1, 0, 0);
        }
    }
    if rows > 0 {
        groups.push(&batches[start..]);
    }
    groups
}
