//! One table: opening and claiming it, its rows at a version, and where each key stands.

mod commit;
mod compact;
mod ledger;
mod purge;

use std::collections::{BTreeMap, HashMap};

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::filter_record_batch;
use roaring::RoaringTreemap;
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use commit::Commit;
use commit::info;
pub use compact::{Compacted, FileFacts, choose};
pub(super) use ledger::{Ledger, at};
pub use purge::{Leaving, Plan, Purged, Rule, Verdict};

use super::action::{
    Action, Add, Commit as Entry, DeletionVector, Format, Metadata, Protocol, Txn,
};
use super::decide::{self, Claim};
use super::log::{Snapshot, put_commit};
use super::store::ObjectReader;
use super::vector::VectorReader;
use super::{Error, GENERATION, Result, Store, checkpoint, file, now_ms, schema};

/// How often a claim goes after a table that others commit to at the same time.
const CLAIM_ATTEMPTS: usize = 100;

/// What a table is: its name below the root, its columns, and how its rows come and go.
#[derive(Clone, Debug)]
pub struct TableSpec {
    pub name: String,
    pub schema: SchemaRef,
    /// String columns that identify a row; empty for a table that only grows.
    pub key: Vec<String>,
    /// Whether rows of an epoch that never became real may stay: they are facts, not effects.
    pub memo: bool,
    /// Table properties besides those that deletion vectors need.
    pub properties: BTreeMap<String, String>,
}

/// A row's key: 128 bits of a sha256 over its parts, so that an index costs the same for any id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 16]);

impl Key {
    /// The key of a row with these values in the key columns, in their order.
    pub fn of(parts: &[&str]) -> Key {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        Key(digest[..16].try_into().expect("a sha256 has 32 bytes"))
    }
}

/// Live rows of files, by path: row numbers in the file.
pub type Rows = BTreeMap<String, Vec<u64>>;

/// Where a row is: number of the file, row in the file.
type Place = (u32, u32);

/// One open table, as of the version it was opened at or has committed since.
pub struct Table {
    store: Store,
    spec: TableSpec,
    snapshot: Snapshot,
    /// The generation that writes through this handle; `None` reads only.
    writer: Option<u64>,
    /// Dead rows of live files, by path.
    dead: HashMap<String, RoaringTreemap>,
    /// Paths by the number that `index` knows them by.
    paths: Vec<String>,
    /// Numbers whose file has left.
    free: Vec<u32>,
    index: HashMap<Key, Place>,
    ledger: Ledger,
}

fn lost(spec: &TableSpec, named: Option<u64>, held: Option<u64>) -> Error {
    let (name, named) = (&spec.name, named.unwrap_or_default());
    let held = held.map_or("is not there".to_owned(), |held| format!("ends at version {held}"));
    Error::Unreadable(format!(
        "{name} {held}, and _everpair/latest.json names version {named}: commits have been lost, by a \
         disk that lost writes or a backup of a part. Put all of [tables] root back as it was at one \
         time; or begin under another root, from the source"
    ))
}

impl Table {
    /// Opens a table for reading, at a version or at its newest; `None` where there is none.
    pub fn open(store: &Store, spec: &TableSpec, at: Option<u64>) -> Result<Option<Table>> {
        let Some(snapshot) = Snapshot::load(store, &spec.name, at)? else { return Ok(None) };
        Table::new(store, spec, snapshot, None).map(Some)
    }

    fn new(
        store: &Store,
        spec: &TableSpec,
        snapshot: Snapshot,
        writer: Option<u64>,
    ) -> Result<Table> {
        let (store, spec) = (store.clone(), spec.clone());
        let (dead, paths, index) = (HashMap::new(), Vec::new(), HashMap::new());
        let ledger = Ledger::new(snapshot.version);
        let free = Vec::new();
        let mut table = Table { store, spec, snapshot, writer, dead, paths, free, index, ledger };
        table.read_vectors()?;
        Ok(table)
    }

    /// Opens a table for writing: creates it when it is missing, and claims it for `generation`
    /// before anything of it is relied on.
    ///
    /// # Errors
    /// `Fenced` when a newer generation is there; `Refused` when its columns are not those of the
    /// spec.
    pub fn claim(store: &Store, spec: &TableSpec, generation: u64) -> Result<Table> {
        Table::claim_from(store, spec, generation, None)
    }

    /// The same where a page of the tables names a version of it.
    ///
    /// # Errors
    /// `Unreadable` too, and nothing is written, where the table is older than that.
    pub(super) fn claim_from(
        store: &Store,
        spec: &TableSpec,
        generation: u64,
        named: Option<u64>,
    ) -> Result<Table> {
        let wanted = schema::schema_string(&spec.schema)?;
        for _ in 0..CLAIM_ATTEMPTS {
            let held = Snapshot::load(store, &spec.name, None)?;
            let at = held.as_ref().map(|held| held.version);
            // A claim is a commit itself: later nobody could see that one is missing.
            if decide::lost(named, at) {
                return Err(lost(spec, named, at));
            }
            let txn = txn(GENERATION, i64_of(generation));
            let (mut snapshot, version, mut actions) = match held {
                None => (Snapshot::default(), 0, founding(spec, &wanted)),
                Some(held) => {
                    match decide::claim(held.generation(), generation) {
                        Claim::Leave => return Err(fenced(spec, held.generation())),
                        Claim::Held => return Table::new(store, spec, held, Some(generation)),
                        Claim::Write => {}
                    }
                    let (version, change) = (held.version + 1, new_columns(spec, &held, &wanted)?);
                    (held, version, change)
                }
            };
            actions.push(txn);
            let operation = if version == 0 { "CREATE TABLE" } else { "CLAIM" };
            let info = info(operation, false, json!({ "generation": generation }));
            let entry = Entry { info, actions };
            if put_commit(store, &spec.name, version, &entry)? {
                snapshot.apply(version, &entry.actions);
                return Table::new(store, spec, snapshot, Some(generation));
            }
        }
        Err(Error::Io(format!("{}: others commit too fast to claim it", spec.name)))
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// What tells this table from every other one: the id that it was given when it was created.
    pub fn id(&self) -> &str {
        &self.snapshot.metadata.id
    }

    pub fn version(&self) -> u64 {
        self.snapshot.version
    }

    /// The newest epoch of which the table holds rows.
    pub fn epoch(&self) -> Option<u64> {
        self.snapshot.epoch()
    }

    /// The newest writer that claimed the table.
    pub fn generation(&self) -> Option<u64> {
        self.snapshot.generation()
    }

    /// All `txn`s whose application id begins with `prefix`, without the prefix.
    pub fn txns(&self, prefix: &str) -> BTreeMap<String, i64> {
        let txns = self.snapshot.txns.values();
        let ours = txns.filter_map(|txn| Some((txn.app_id.strip_prefix(prefix)?, txn.version)));
        ours.map(|(name, version)| (name.to_owned(), version)).collect()
    }

    /// Live files and the bytes of all of them.
    pub fn size(&self) -> (usize, u64) {
        let bytes = self.snapshot.files.values().map(|add| u64::try_from(add.size).unwrap_or(0));
        (self.snapshot.files.len(), bytes.sum())
    }

    /// Live rows, by the log alone.
    ///
    /// # Errors
    /// `Unreadable` when a file's statistics do not say how many rows it has.
    pub fn rows(&self) -> Result<u64> {
        let live = self.snapshot.files.values().map(|add| {
            let stats = add.stats.as_deref().unwrap_or_default();
            let stats: serde_json::Value = serde_json::from_str(stats).unwrap_or_default();
            let dead = add.deletion_vector.as_ref().map_or(0, |vector| vector.cardinality);
            let rows = stats["numRecords"].as_u64().ok_or_else(|| {
                Error::Unreadable(format!("{}: no row count in the log", add.path))
            })?;
            Ok(rows.saturating_sub(u64::try_from(dead).unwrap_or(0)))
        });
        live.sum()
    }

    /// The deletion vectors of live files: storage type and dead rows.
    pub fn vectors(&self) -> Vec<(String, i64)> {
        let vectors = self.snapshot.files.values().filter_map(|add| add.deletion_vector.as_ref());
        let told = |vector: &DeletionVector| (vector.storage_type.clone(), vector.cardinality);
        vectors.map(told).collect()
    }

    /// Commits that go between two checkpoints.
    pub(super) fn checkpoint_interval(&self) -> u64 {
        checkpoint::interval(&self.snapshot.metadata)
    }

    /// Whether commits go through this handle still.
    pub(super) fn is_writable(&self) -> bool {
        self.writer.is_some()
    }

    /// What tells which objects are needed.
    pub(super) fn kept_parts(&mut self) -> (&Snapshot, &mut Ledger) {
        (&self.snapshot, &mut self.ledger)
    }

    /// Objects that are gone need no other tool's sparing.
    pub(super) fn forget_removed(&mut self, objects: &[String]) {
        for name in objects {
            self.snapshot.removed.remove(name);
        }
    }

    fn read_vectors(&mut self) -> Result<()> {
        self.dead.clear();
        let mut reader = VectorReader::default();
        for (path, add) in &self.snapshot.files {
            if let Some(vector) = &add.deletion_vector {
                let dead = reader.read(&self.store, &self.spec.name, vector)?;
                self.dead.insert(path.clone(), dead);
            }
        }
        Ok(())
    }

    /// Live rows, file by file, with the named columns in the given order or with all of them.
    pub fn scan(
        &self,
        columns: Option<&[&str]>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        self.scan_after(None, columns)
    }

    /// The same without the files whose statistics say that no row of theirs is of an epoch above
    /// `after`. Rows of earlier epochs may be among what is left.
    pub fn scan_after(
        &self,
        after: Option<u64>,
        columns: Option<&[&str]>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let schema = self.projected(columns)?;
        let adds = self.snapshot.files.values().filter(move |add| match (after, newest(add)) {
            (Some(after), Some(newest)) => newest > i64_of(after),
            _ => true,
        });
        Ok(adds.flat_map(move |add| {
            let (batches, failed) = match self.live(add, &schema) {
                Ok(batches) => (Some(batches), None),
                Err(error) => (None, Some(Err(error))),
            };
            let batches = batches.into_iter().flatten();
            failed.into_iter().chain(batches.map(|batch| batch.map(|(_, live)| live)))
        }))
    }

    /// The live rows of one of [`Table::files`], as [`Table::scan`] gives them.
    ///
    /// # Errors
    /// `Refused` for a file that is not live.
    pub fn scan_file(
        &self,
        path: &str,
        columns: Option<&[&str]>,
    ) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let none = || Error::Refused(format!("{}: {path} is no live file", self.spec.name));
        let add = self.snapshot.files.get(path).ok_or_else(none)?;
        let batches = self.live(add, &self.projected(columns)?)?;
        Ok(batches.map(|batch| batch.map(|(_, live)| live)))
    }

    /// The live rows of one of [`Table::files`] with the numbers that they have in it.
    ///
    /// # Errors
    /// `Refused` for a file that is not live.
    pub fn numbered(
        &self,
        path: &str,
        columns: &[&str],
    ) -> Result<impl Iterator<Item = Result<(Vec<u64>, RecordBatch)>>> {
        let none = || Error::Refused(format!("{}: {path} is no live file", self.spec.name));
        let add = self.snapshot.files.get(path).ok_or_else(none)?;
        self.live(add, &self.projected(Some(columns))?)
    }

    /// Rows of one of [`Table::files`] by their numbers in it, ascending. Only the pages that hold
    /// them are read.
    ///
    /// # Errors
    /// `Refused` for a file that is not live.
    pub fn rows_at(&self, path: &str, rows: &[u64], columns: &[&str]) -> Result<Vec<RecordBatch>> {
        let none = || Error::Refused(format!("{}: {path} is no live file", self.spec.name));
        let add = self.snapshot.files.get(path).ok_or_else(none)?;
        let name = format!("{}/{}", self.spec.name, add.path);
        let size = u64::try_from(add.size).unwrap_or(0);
        let reader = ObjectReader::new(self.store.clone(), name, size);
        file::read_rows(reader, &self.projected(Some(columns))?, rows)?.collect()
    }

    fn projected(&self, columns: Option<&[&str]>) -> Result<SchemaRef> {
        let Some(columns) = columns else { return Ok(self.spec.schema.clone()) };
        let wanted = columns.iter().map(|name| self.spec.schema.index_of(name));
        let wanted = wanted.collect::<std::result::Result<Vec<usize>, _>>();
        let schema = wanted.and_then(|wanted| self.spec.schema.project(&wanted));
        schema.map(Into::into).map_err(|error| Error::Refused(error.to_string()))
    }

    /// The live rows of one file, batch by batch, with their row numbers in the file.
    fn live<'a>(
        &'a self,
        add: &'a Add,
        schema: &SchemaRef,
    ) -> Result<impl Iterator<Item = Result<(Vec<u64>, RecordBatch)>> + use<'a>> {
        let name = format!("{}/{}", self.spec.name, add.path);
        let size = u64::try_from(add.size).unwrap_or(0);
        self.live_in(add, schema, ObjectReader::new(self.store.clone(), name, size))
    }

    /// The same of the file as a reader has it.
    fn live_in<'a>(
        &'a self,
        add: &'a Add,
        schema: &SchemaRef,
        reader: ObjectReader,
    ) -> Result<impl Iterator<Item = Result<(Vec<u64>, RecordBatch)>> + use<'a>> {
        let dead = self.dead.get(&add.path);
        let mut next = 0_u64;
        Ok(file::read_from(reader, schema)?.map(move |batch| {
            let batch = batch?;
            let rows = next..next + batch.num_rows() as u64;
            next = rows.end;
            let Some(dead) = dead else { return Ok((rows.collect(), batch)) };
            let mask: BooleanArray = rows.clone().map(|row| Some(!dead.contains(row))).collect();
            let live = filter_record_batch(&batch, &mask)
                .map_err(|error| Error::Unreadable(format!("{}: {error}", add.path)))?;
            Ok((rows.filter(|row| !dead.contains(*row)).collect(), live))
        }))
    }

    /// Live rows that `wanted` says yes to, given batches of the named columns: one answer a row.
    pub fn rows_where(
        &self,
        columns: &[&str],
        mut wanted: impl FnMut(&RecordBatch) -> Result<Vec<bool>>,
    ) -> Result<Rows> {
        let schema = self.projected(Some(columns))?;
        let mut found = Rows::new();
        for (path, add) in &self.snapshot.files {
            for batch in self.live(add, &schema)? {
                let (rows, batch) = batch?;
                let yes = wanted(&batch)?.into_iter().zip(rows).filter(|(yes, _)| *yes);
                let yes: Vec<u64> = yes.map(|(_, row)| row).collect();
                if !yes.is_empty() {
                    found.entry(path.clone()).or_default().extend(yes);
                }
            }
        }
        Ok(found)
    }

    /// Reads the key columns of all live rows; commits that delete need it. Memory: about 40 bytes
    /// a row.
    pub fn build_index(&mut self) -> Result<()> {
        let (mut paths, mut index) = (Vec::new(), HashMap::new());
        let columns: Vec<&str> = self.spec.key.iter().map(String::as_str).collect();
        if !columns.is_empty() {
            let schema = self.projected(Some(&columns))?;
            for add in self.snapshot.files.values() {
                let file = u32_of(paths.len() as u64);
                paths.push(add.path.clone());
                for batch in self.live(add, &schema)? {
                    let (rows, batch) = batch?;
                    for (key, row) in keys(&self.spec, &batch)?.into_iter().zip(rows) {
                        if index.insert(key, (file, u32_of(row))).is_some() {
                            let why = format!("{}: two live rows of one key", self.spec.name);
                            return Err(Error::Unreadable(why));
                        }
                    }
                }
            }
        }
        (self.paths, self.free, self.index) = (paths, Vec::new(), index);
        Ok(())
    }

    /// The number that the file will have which is the `nth` to come from here on.
    fn next_number(&self, nth: usize) -> u32 {
        match self.free.len().checked_sub(nth + 1) {
            Some(at) => self.free[at],
            None => u32_of((self.paths.len() + nth - self.free.len()) as u64),
        }
    }

    /// Gives a file of a table with a key its number.
    fn take_number(&mut self, path: String) -> u32 {
        let number = self.next_number(0);
        match self.free.pop() {
            Some(_) => self.paths[number as usize] = path,
            None => self.paths.push(path),
        }
        number
    }

    /// A file has left: its number may be taken again. Without that, numbers and names of files
    /// that are long gone would pile up.
    fn free_number(&mut self, path: &str) {
        if let Some(at) = self.paths.iter().position(|held| held == path) {
            self.paths[at] = String::new();
            self.free.push(u32_of(at as u64));
        }
    }

    /// Whether a row with this key is live. Needs the index.
    pub fn contains(&self, key: &Key) -> bool {
        self.index.contains_key(key)
    }

    /// Live rows of a table with a key. Needs the index.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

/// The newest epoch of a file's rows, by its statistics.
fn newest(add: &Add) -> Option<i64> {
    let stats: serde_json::Value = serde_json::from_str(add.stats.as_deref()?).ok()?;
    stats["maxValues"]["epoch"].as_i64()
}

fn fenced(spec: &TableSpec, by: Option<u64>) -> Error {
    let by = by.map_or("another writer".to_owned(), |by| format!("generation {by}"));
    Error::Fenced(format!("{} was claimed by {by}", spec.name))
}

fn i64_of(number: u64) -> i64 {
    i64::try_from(number).expect("epochs, generations and sizes stay below 2^63")
}

fn u32_of(number: u64) -> u32 {
    u32::try_from(number).expect("files of a table and rows of a file stay below 2^32")
}

fn txn(name: &str, version: i64) -> Action {
    let (app_id, last_updated) = (name.to_owned(), Some(now_ms()));
    Txn { app_id, version, last_updated }.into()
}

/// The actions of version 0.
fn founding(spec: &TableSpec, schema_string: &str) -> Vec<Action> {
    let features = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
    // A column that is never null is an invariant: Spark refuses a table that has one unsaid.
    let protocol = Protocol {
        min_reader_version: 3,
        min_writer_version: 7,
        reader_features: features(&["deletionVectors"]),
        writer_features: features(&["deletionVectors", "invariants"]),
    };
    let mut configuration = spec.properties.clone();
    configuration.insert("delta.enableDeletionVectors".to_owned(), "true".to_owned());
    let interval = configuration.entry(checkpoint::INTERVAL.to_owned());
    interval.or_insert_with(|| checkpoint::INTERVAL_DEFAULT.to_string());
    let metadata = Metadata {
        id: Uuid::new_v4().to_string(),
        name: Some(spec.name.clone()),
        format: Format { provider: "parquet".to_owned(), ..Format::default() },
        schema_string: schema_string.to_owned(),
        partition_columns: Vec::new(),
        configuration,
        created_time: Some(now_ms()),
    };
    vec![protocol.into(), metadata.into()]
}

/// The action that gives an older table the columns that the spec has more, if it has.
fn new_columns(spec: &TableSpec, held: &Snapshot, wanted: &str) -> Result<Vec<Action>> {
    let name = &spec.name;
    if !schema::extends(wanted, &held.metadata.schema_string)? {
        let why = format!("{name} has other columns: {}", held.metadata.schema_string);
        return Err(Error::Refused(why));
    }
    if schema::extends(&held.metadata.schema_string, wanted)? {
        return Ok(Vec::new());
    }
    let schema_string = wanted.to_owned();
    Ok(vec![Metadata { schema_string, ..held.metadata.clone() }.into()])
}

/// The keys of all rows of a batch.
fn keys(spec: &TableSpec, batch: &RecordBatch) -> Result<Vec<Key>> {
    let columns = spec.key.iter().map(|name| {
        let column = batch.column_by_name(name);
        let texts = column.filter(|c| *c.data_type() == DataType::Utf8 && c.null_count() == 0);
        let refused = || Error::Refused(format!("{}: {name} is no key", spec.name));
        texts.map(|column| column.as_string::<i32>()).ok_or_else(refused)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let key = |row: usize| {
        let parts: Vec<&str> = columns.iter().map(|column| column.value(row)).collect();
        Key::of(&parts)
    };
    Ok((0..batch.num_rows()).map(key).collect())
}
