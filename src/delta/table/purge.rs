//! Rows that must be nowhere: files rewritten without them, versions that stay named anew, and
//! everything else of the table removed.
//!
//! ```text
//!   plan: read every file that the log names ─► which hold rows that go
//!   purge: new files ─► one commit a table ─► latest.json      readers of the newest version move on
//!   cut: checkpoints of pinned versions ─► commits go ─► objects go
//! ```
//!
//! A version that is not pinned is not readable afterwards. Killed anywhere the newest version and
//! the pinned ones read as they should, with or without what was to go, and another plan finds the
//! rest: as long as a commit or checkpoint names a file, the file is there.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use roaring::RoaringTreemap;
use schemas::limits;
use serde_json::{Map, Value, json};

use super::super::action::{Action, Add, Commit as Entry};
use super::super::log::{Snapshot, commit_name, read_commit};
use super::super::retain::{MARKS, is_data};
use super::super::store::Listed;
use super::super::vector::{self, VectorFile, VectorReader};
use super::super::{
    EPOCH, Error, GENERATION, Latest, Publisher, Result, checkpoint, file, generation, now_ms,
};
use super::{Table, at, i64_of, info, txn};

const LOG: &str = "_delta_log/";
const COMMIT: &str = ".json";
const CHECKPOINT: &str = ".checkpoint.parquet";

/// What is to become of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be anywhere.
    Stays,
    /// It may stay where it is shown once it was edited.
    Edited,
    /// It must be nowhere.
    Goes,
}

/// What may stay of a table.
pub trait Rule {
    /// The columns that rows are judged by.
    fn columns(&self) -> &[&str];
    /// One verdict a row, given a batch of these columns.
    fn judge(&self, batch: &RecordBatch) -> Result<Vec<Verdict>>;
    /// Rows that a pinned version must not show, though others may; `None` where there are none.
    fn hidden(&self, pinned: u64, batch: &RecordBatch) -> Result<Option<Vec<bool>>>;
    /// Whether statistics may name this value as the least or the largest of a column.
    fn admits(&self, column: &str, value: &str) -> bool;
    /// Rows as they stay, given a batch of all columns.
    fn edit(&self, batch: RecordBatch) -> Result<RecordBatch>;
}

/// What leaves a table, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// Rows that must be nowhere, and rows to edit, as often as files hold them.
    pub rows: u64,
    /// Files that hold some of them.
    pub files: u64,
    /// Files and deletion vectors that go, those included; what stays of them is written anew.
    pub objects: u64,
    pub bytes: u64,
    /// Pinned versions that lose a row.
    pub pinned: BTreeSet<u64>,
}

/// What is to be done to one table.
pub struct Plan {
    pub leaving: Leaving,
    /// Files that hold rows that go, by path.
    affected: BTreeMap<String, Affected>,
    /// Statistics in the log name what must be nowhere.
    named: bool,
    /// Pinned versions, ascending.
    pinned: Vec<Pinned>,
    /// Objects below the table that are needed no more.
    objects: Vec<String>,
}

struct Affected {
    /// Rows that go to the new file, in their order.
    kept: RoaringTreemap,
    /// Of them, those that a pinned version does not show although it did.
    hidden: BTreeMap<u64, RoaringTreemap>,
}

struct Pinned {
    snapshot: Snapshot,
    dead: BTreeMap<String, RoaringTreemap>,
}

/// What one file's rows are judged to be.
#[derive(Default)]
struct Judged {
    rows: u64,
    goes: RoaringTreemap,
    edited: RoaringTreemap,
    hidden: BTreeMap<u64, RoaringTreemap>,
}

impl Plan {
    /// Whether nothing has to go, but for objects that nothing names.
    pub fn is_empty(&self) -> bool {
        self.affected.is_empty() && !self.named
    }

    fn hides(&self, version: u64, path: &str, row: u64) -> bool {
        let hidden = self.affected.get(path).and_then(|file| file.hidden.get(&version));
        hidden.is_some_and(|rows| rows.contains(row))
    }
}

/// The version of a commit (`true`) or checkpoint, by the name of its object below the table.
fn of_log(name: &str) -> Option<(u64, bool)> {
    let name = name.strip_prefix(LOG)?;
    let number = |suffix: &str| {
        let stem = name.strip_suffix(suffix).filter(|stem| stem.len() == 20)?;
        stem.parse().ok()
    };
    number(COMMIT).map(|at| (at, true)).or_else(|| number(CHECKPOINT).map(|at| (at, false)))
}

/// Files and deletion vectors that some adds name.
fn named<'a>(adds: impl Iterator<Item = &'a Add>, into: &mut BTreeSet<String>) {
    for add in adds {
        into.insert(add.path.clone());
        into.extend(add.deletion_vector.as_ref().and_then(vector::object));
    }
}

/// Whether a rule admits all that the statistics of a file name.
fn admitted(add: &Add, rule: &dyn Rule) -> bool {
    let stats: Value =
        serde_json::from_str(add.stats.as_deref().unwrap_or("{}")).unwrap_or_default();
    let bounds = ["minValues", "maxValues"].into_iter().filter_map(|of| stats[of].as_object());
    let mut texts = bounds.flatten().filter_map(|(column, value)| Some((column, value.as_str()?)));
    texts.all(|(column, value)| rule.admits(column, value))
}

impl Table {
    /// Works out what must leave this table, beside which versions stay readable. Reads all files
    /// that the log names, as far as `rule` needs them; writes nothing.
    ///
    /// # Errors
    /// A pinned version cannot be read, or a file that it or the newest one needs.
    pub fn plan(&self, rule: &dyn Rule, pinned: &BTreeSet<u64>) -> Result<Plan> {
        let listed = self.store.list_all(&self.spec.name)?;
        let (in_log, named_there) = self.named_by_log(&listed, rule)?;
        let pinned: Vec<Pinned> = pinned
            .iter()
            .filter(|version| **version <= self.version())
            .map(|version| self.pinned(*version))
            .collect::<Result<_>>()?;
        let mut plan = Plan {
            leaving: Leaving::default(),
            affected: BTreeMap::new(),
            named: named_there,
            pinned,
            objects: Vec::new(),
        };
        for one in listed.iter().filter(|one| is_data(&one.name) && in_log.contains(&one.name)) {
            let judged = self.judge(one, rule, &plan.pinned)?;
            self.settle(&one.name, judged, &mut plan);
        }
        let needed = match plan.is_empty() {
            true => in_log,
            false => {
                let held = plan.pinned.iter().map(|pinned| &pinned.snapshot);
                let adds = held.chain([&self.snapshot]).flat_map(|held| held.files.values());
                let mut needed = BTreeSet::new();
                named(adds.filter(|add| !plan.affected.contains_key(&add.path)), &mut needed);
                needed
            }
        };
        let ours = listed.iter().filter(|one| is_data(&one.name) || vector::is_object(&one.name));
        for one in ours.filter(|one| !needed.contains(&one.name)) {
            plan.leaving.objects += 1;
            plan.leaving.bytes += one.bytes;
            plan.objects.push(one.name.clone());
        }
        plan.leaving.files = plan.affected.len() as u64;
        Ok(plan)
    }

    /// Every object that a commit or checkpoint of the table names, whatever version it is of, and
    /// whether one of them has statistics that name what must be nowhere.
    fn named_by_log(&self, listed: &[Listed], rule: &dyn Rule) -> Result<(BTreeSet<String>, bool)> {
        let (name, mut found, mut names) = (&self.spec.name, BTreeSet::new(), false);
        let mut take = |adds: &mut dyn Iterator<Item = Add>| {
            for add in adds {
                names |= !admitted(&add, rule);
                named([&add].into_iter(), &mut found);
            }
        };
        let of = |wanted: bool| {
            let all = listed.iter().filter_map(|one| of_log(&one.name));
            all.filter(move |(_, commit)| *commit == wanted).map(|(version, _)| version)
        };
        for version in of(false) {
            let snapshot = checkpoint::read(&self.store, name, version)?;
            take(&mut snapshot.files.into_values());
        }
        let commits: Vec<String> = of(true).map(|version| commit_name(name, version)).collect();
        for some in commits.chunks(limits::LOG_COMMITS_AT_ONCE as usize) {
            for (name, content) in some.iter().zip(self.store.get_all(some)?) {
                let Some(content) = content else { continue };
                let commit = Entry::decode(&content, name)?;
                take(&mut commit.actions.into_iter().filter_map(|action| action.add));
            }
        }
        Ok((found, names))
    }

    fn pinned(&self, version: u64) -> Result<Pinned> {
        let name = &self.spec.name;
        let snapshot = at(&self.store, name, version)?;
        let (mut reader, mut dead) = (VectorReader::default(), BTreeMap::new());
        for (path, add) in &snapshot.files {
            if let Some(vector) = &add.deletion_vector {
                dead.insert(path.clone(), reader.read(&self.store, name, vector)?);
            }
        }
        Ok(Pinned { snapshot, dead })
    }

    /// Judges all rows of a file, those that no version shows included.
    fn judge(&self, one: &Listed, rule: &dyn Rule, pinned: &[Pinned]) -> Result<Judged> {
        let schema = self.projected(Some(rule.columns()))?;
        let name = format!("{}/{}", self.spec.name, one.name);
        let mut judged = Judged::default();
        for batch in file::read(&self.store, name, one.bytes, &schema)? {
            let batch = batch?;
            let first = judged.rows;
            judged.rows += batch.num_rows() as u64;
            for (row, verdict) in (first..).zip(rule.judge(&batch)?) {
                match verdict {
                    Verdict::Stays => {}
                    Verdict::Edited => {
                        judged.edited.insert(row);
                    }
                    Verdict::Goes => {
                        judged.goes.insert(row);
                    }
                }
            }
            for held in pinned.iter().filter(|held| held.snapshot.files.contains_key(&one.name)) {
                let Some(hidden) = rule.hidden(held.snapshot.version, &batch)? else { continue };
                let rows = (first..).zip(hidden).filter(|(_, hidden)| *hidden).map(|(row, _)| row);
                judged.hidden.entry(held.snapshot.version).or_default().extend(rows);
            }
        }
        Ok(judged)
    }

    /// Decides on a file whose rows are judged.
    fn settle(&self, path: &str, judged: Judged, plan: &mut Plan) {
        let Judged { rows, goes, edited, hidden } = judged;
        let mut shown = RoaringTreemap::new();
        let mut show = |dead: Option<&RoaringTreemap>, hidden: Option<&RoaringTreemap>| {
            let mut here = RoaringTreemap::new();
            here.insert_range(0..rows);
            [dead, hidden].into_iter().flatten().for_each(|gone| here -= gone);
            shown |= &here;
            here
        };
        if self.snapshot.files.contains_key(path) {
            show(self.dead.get(path), None);
        }
        let mut losing = Vec::new();
        for held in &plan.pinned {
            let version = held.snapshot.version;
            if !held.snapshot.files.contains_key(path) {
                continue;
            }
            let before = show(held.dead.get(path), hidden.get(&version));
            let lost = hidden.get(&version).is_some_and(|rows| !rows.is_empty());
            if lost || !before.is_disjoint(&goes) || !before.is_disjoint(&edited) {
                losing.push(version);
            }
        }
        let hides = hidden.values().any(|rows| !rows.is_empty());
        if goes.is_empty() && edited.is_empty() && !hides {
            return;
        }
        plan.leaving.rows += goes.len() + edited.len();
        plan.leaving.pinned.extend(losing);
        let kept = shown - goes;
        plan.affected.insert(path.to_owned(), Affected { kept, hidden });
    }

    /// Writes anew what stays of the affected files, and commits that to the newest version. It
    /// moves no epoch; `words` are those that the epoch's own commit had for `latest.json`.
    fn purge(
        &mut self,
        plan: &Plan,
        rule: &dyn Rule,
        words: Map<String, Value>,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Rewritten> {
        let writer = self.writer()?;
        let mut rewritten = Rewritten::default();
        for (path, file) in &plan.affected {
            go_on()?;
            if let Some(add) = self.rewrite(path, file, rule)? {
                rewritten.bytes += u64::try_from(add.size).unwrap_or(0);
                rewritten.files.insert(path.clone(), add);
            }
        }
        let mut vectors = VectorFile::new();
        let none = RoaringTreemap::new();
        let mut actions: Vec<Action> = Vec::new();
        for (path, file) in &plan.affected {
            let Some(old) = self.snapshot.files.get(path) else { continue };
            actions.push(old.removal(now_ms()).into());
            let dead = self.dead.get(path).unwrap_or(&none);
            let hides = |row| dead.contains(row);
            let add =
                rewritten.files.get(path).and_then(|add| with(add, file, hides, &mut vectors));
            actions.extend(add.map(Action::from));
        }
        for held in &plan.pinned {
            let version = held.snapshot.version;
            let mut files = held.snapshot.files.clone();
            for (path, file) in &plan.affected {
                if files.remove(path).is_none() {
                    continue;
                }
                let dead = held.dead.get(path).unwrap_or(&none);
                let hides = |row| dead.contains(row) || plan.hides(version, path, row);
                let add = rewritten.files.get(path);
                let add = add.and_then(|add| with(add, file, hides, &mut vectors));
                files.extend(add.map(|add| (add.path.clone(), add)));
            }
            rewritten.pinned.push(Snapshot { files, ..held.snapshot.clone() });
        }
        if let Some((name, content)) = vectors.finish(&self.spec.name) {
            rewritten.bytes += content.len() as u64;
            self.store.replace(&name, content)?;
        }
        actions.extend(self.snapshot.txn(EPOCH).map(|epoch| txn(EPOCH, epoch)));
        actions.push(txn(GENERATION, i64_of(writer)));
        let words = json!({ "purged": true, "generation": writer, "latest": words });
        self.write(Entry { info: info("DELETE", false, words), actions })?;
        checkpoint::write(&self.store, &self.spec.name, &self.snapshot)?;
        Ok(rewritten)
    }

    /// The file of the rows of another one that stay; none where no row does.
    fn rewrite(&self, path: &str, file: &Affected, rule: &dyn Rule) -> Result<Option<Add>> {
        if file.kept.is_empty() {
            return Ok(None);
        }
        let unreadable =
            |error: &dyn std::fmt::Display| Error::Unreadable(format!("{path}: {error}"));
        let name = format!("{}/{path}", self.spec.name);
        let listed = self.store.size(&name)?;
        let size = listed.ok_or_else(|| unreadable(&"went away"))?;
        let (mut next, mut batches) = (0_u64, Vec::new());
        for batch in file::read(&self.store, name, size, &self.spec.schema)? {
            let batch = batch?;
            let rows = next..next + batch.num_rows() as u64;
            next = rows.end;
            let mask: BooleanArray = rows.map(|row| Some(file.kept.contains(row))).collect();
            let kept = filter_record_batch(&batch, &mask).map_err(|error| unreadable(&error))?;
            if kept.num_rows() > 0 {
                batches.push(rule.edit(kept)?);
            }
        }
        let of = (self.epoch().unwrap_or(0), self.generation().unwrap_or(0));
        self.write_file(of, &batches).map(Some)
    }

    /// Gives pinned versions checkpoints that name the new files, and takes the commits and
    /// checkpoints of all others but the newest out of the log.
    fn cut_log(&self, rewritten: &Rewritten, listed: &[Listed]) -> Result<u64> {
        let (store, name) = (&self.store, &self.spec.name);
        // From the newest one down: a version without a checkpoint of its own is read from an older
        // one, and what an older one names must be what it was until then.
        for snapshot in rewritten.pinned.iter().rev() {
            checkpoint::write_aside(store, name, snapshot)?;
            // The commit stays, for readers that look for versions by it; what it says of files,
            // and of the ids in them, stands in the checkpoint.
            if let Some(mut commit) = read_commit(store, name, snapshot.version)? {
                commit.actions.retain(|action| action.add.is_none() && action.remove.is_none());
                store.replace(&commit_name(name, snapshot.version), commit.encode())?;
            }
        }
        let pinned: BTreeSet<u64> = rewritten.pinned.iter().map(|held| held.version).collect();
        let goes = |one: &&Listed| {
            of_log(&one.name).is_some_and(|(at, _)| at < rewritten.version && !pinned.contains(&at))
        };
        let names = listed.iter().filter(goes).map(|one| format!("{name}/{}", one.name));
        let names: Vec<String> = names.collect();
        store.delete_all(&names)?;
        Ok(names.len() as u64)
    }
}

/// What a purge made of a table.
#[derive(Default)]
struct Rewritten {
    /// New files by the path of the old one.
    files: BTreeMap<String, Add>,
    /// Pinned versions as they are to be, ascending.
    pinned: Vec<Snapshot>,
    /// The table's version since.
    version: u64,
    bytes: u64,
}

/// The add of a new file, less the rows that a version did not show; `None` where it showed none.
fn with(
    add: &Add,
    file: &Affected,
    hides: impl Fn(u64) -> bool,
    vectors: &mut VectorFile,
) -> Option<Add> {
    let dead = file.kept.iter().zip(0_u64..).filter(|(row, _)| hides(*row)).map(|(_, at)| at);
    let dead: RoaringTreemap = dead.collect();
    let mut add = add.clone();
    if dead.len() == file.kept.len() {
        return None;
    }
    if !dead.is_empty() {
        let stats = add.stats.as_deref().unwrap_or("{}");
        let mut stats: Value = serde_json::from_str(stats).unwrap_or_default();
        stats["tightBounds"] = json!(false);
        add.stats = Some(stats.to_string());
        add.deletion_vector = Some(vectors.push(&dead));
    }
    Some(add)
}

/// What a purge did to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Bytes of what was written anew.
    pub bytes_written: u64,
    /// Commits and checkpoints that went.
    pub from_log: u64,
}

impl Publisher {
    /// Carries plans out, by table, and removes everything that the newest versions and the pinned
    /// ones do not need. Readers go by `latest.json`, which is replaced before anything goes;
    /// `moved_on` is called in between. The publisher is of no more use then: start again.
    ///
    /// # Errors
    /// `Fenced` when a newer writer is there, and what `go_on` gives, which is asked between files.
    /// After any error the tables are as they should be, and another plan finds the rest.
    pub fn purge(
        &mut self,
        plans: &BTreeMap<String, (Plan, Box<dyn Rule + '_>)>,
        go_on: &dyn Fn() -> Result<()>,
        moved_on: &dyn Fn(&Latest) -> Result<()>,
    ) -> Result<BTreeMap<String, Purged>> {
        self.refuse_if_stopped()?;
        self.stopped = true;
        let done = self.purge_once(plans, go_on, moved_on);
        done.map_err(|error| generation::explained(&self.store, self.generation, error))
    }

    fn purge_once(
        &mut self,
        plans: &BTreeMap<String, (Plan, Box<dyn Rule + '_>)>,
        go_on: &dyn Fn() -> Result<()>,
        moved_on: &dyn Fn(&Latest) -> Result<()>,
    ) -> Result<BTreeMap<String, Purged>> {
        let Some(epoch) = self.epoch() else { return Ok(BTreeMap::new()) };
        let words = self.info_of(epoch)?;
        let anchor = self.anchor().name().to_owned();
        let mut rewritten: BTreeMap<String, Rewritten> = BTreeMap::new();
        for table in &mut self.tables {
            let name = table.name().to_owned();
            let Some((plan, rule)) = plans.get(&name).filter(|(plan, _)| !plan.is_empty()) else {
                continue;
            };
            let words = if name == anchor { words.clone() } else { Map::new() };
            let mut done = table.purge(plan, &**rule, words, go_on)?;
            done.version = table.version();
            rewritten.insert(name, done);
        }
        if !rewritten.is_empty() {
            go_on()?;
            self.refuse_if_newer()?;
            let latest = self.write_latest(epoch, words)?;
            moved_on(&latest)?;
            // What was kept at earlier times is not kept any more, whoever may be reading it.
            self.store.delete(MARKS)?;
        }
        let mut purged = BTreeMap::new();
        for table in &self.tables {
            let Some((plan, _)) = plans.get(table.name()) else { continue };
            go_on()?;
            // Nothing that a newer writer has made can be in the list.
            let listed = self.store.list_all(table.name())?;
            self.refuse_if_newer()?;
            let mut done = Purged::default();
            if let Some(rewritten) = rewritten.get(table.name()) {
                done.from_log = table.cut_log(rewritten, &listed)?;
                done.bytes_written = rewritten.bytes;
            }
            let names = plan.objects.iter().map(|object| format!("{}/{object}", table.name()));
            self.store.delete_all(&names.collect::<Vec<_>>())?;
            purged.insert(table.name().to_owned(), done);
        }
        Ok(purged)
    }
}
