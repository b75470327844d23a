//! Upkeep of the tables: what is removed, that nothing is that a kept version needs, and that a
//! writer killed in the middle of it has broken nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use everpair::delta::{
    Change, EpochCommit, Error, Keep, Key, Latest, Publisher, Store, Table, TableSpec,
    retain::{LogFacts, log},
    start,
};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;

use crate::faulty::{Fault, Faulty, World};

// ---- the log alone -------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum LogStep {
    /// So many commits, every fourth of them with a checkpoint unless that fails; then also the
    /// pointer may fail to be written.
    Commit {
        count: u64,
        fails: bool,
        lags: bool,
    },
    /// The oldest version that is kept moves on by so much.
    Forget(u64),
    /// Pins a version that is kept.
    Pin(u64),
    Unpin(usize),
    /// Killed after so many of what is written and removed.
    Retain {
        killed: Option<usize>,
    },
}

fn log_steps() -> impl Strategy<Value = Vec<LogStep>> {
    let commit = (1..9_u64, prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let step = prop_oneof![
        4 => commit.prop_map(|(count, fails, lags)| LogStep::Commit { count, fails, lags }),
        3 => (1..9_u64).prop_map(LogStep::Forget),
        2 => (0..100_u64).prop_map(LogStep::Pin),
        1 => (0..9_usize).prop_map(LogStep::Unpin),
        3 => prop::option::of(0..20_usize).prop_map(|killed| LogStep::Retain { killed }),
    ];
    prop::collection::vec(step, 1..60)
}

/// Whether a version can be read, by the definition.
fn readable(facts: &LogFacts, version: u64) -> bool {
    let checkpoint = facts.checkpoints.iter().filter(|at| **at <= version).max();
    let first = checkpoint.map_or(0, |at| at + 1);
    (first..=version).all(|at| facts.commits.contains(&at))
}

fn apply_log_step(facts: &mut LogFacts, step: LogStep) {
    match step {
        LogStep::Commit { count, fails, lags } => {
            for _ in 0..count {
                facts.newest += 1;
                facts.commits.insert(facts.newest);
                if facts.newest.is_multiple_of(4) && !fails {
                    facts.checkpoints.insert(facts.newest);
                    facts.pointer = if lags { facts.pointer } else { Some(facts.newest) };
                }
            }
        }
        LogStep::Forget(count) => facts.oldest = (facts.oldest + count).min(facts.newest),
        LogStep::Pin(which) => {
            let span = facts.newest - facts.oldest + 1;
            facts.pinned.insert(facts.oldest + which % span);
        }
        LogStep::Unpin(which) => {
            let version = facts.pinned.iter().nth(which).copied();
            version.map(|version| facts.pinned.remove(&version));
        }
        LogStep::Retain { killed } => {
            let plan = log(facts);
            let mut left = killed.unwrap_or(usize::MAX);
            let mut alive = || {
                left = left.saturating_sub(1);
                left > 0
            };
            for version in &plan.write {
                assert!(readable(facts, *version), "a checkpoint of what cannot be read");
                if alive() {
                    facts.checkpoints.insert(*version);
                }
            }
            // In any order: from both ends.
            for version in plan.commits.iter().rev() {
                if alive() {
                    facts.commits.remove(version);
                }
            }
            for version in &plan.checkpoints {
                if alive() {
                    facts.checkpoints.remove(version);
                }
            }
            if killed.is_none() {
                let again = log(facts);
                let nothing = again.write.is_empty() && again.commits.is_empty();
                assert!(nothing && again.checkpoints.is_empty(), "{again:?} of {facts:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]
    /// Against the definition of what can be read, at every step and killed anywhere.
    #[test]
    fn a_log_loses_what_no_kept_version_needs_and_nothing_else(steps in log_steps()) {
        let mut facts = LogFacts { commits: [0].into(), ..LogFacts::default() };
        for step in steps {
            apply_log_step(&mut facts, step);
            for version in (facts.oldest..=facts.newest).chain(facts.pinned.iter().copied()) {
                prop_assert!(readable(&facts, version), "{version} of {facts:?}");
                // Spark takes the commit of a version for the proof that there is one.
                prop_assert!(facts.commits.contains(&version), "{version} of {facts:?}");
            }
        }
        // Every checkpoint is written again, nothing is pinned: the log is as long as it must be.
        let next = facts.newest + 1;
        apply_log_step(&mut facts, LogStep::Commit { count: 8, fails: false, lags: false });
        (facts.pinned, facts.oldest) = (BTreeSet::new(), next.max(facts.newest - 1));
        apply_log_step(&mut facts, LogStep::Retain { killed: None });
        prop_assert!(facts.commits.len() <= 6 && facts.checkpoints.len() <= 2, "{facts:?}");
    }
}

#[test]
fn the_commit_that_says_what_is_in_force_stays() {
    let facts = LogFacts {
        newest: 20,
        oldest: 20,
        commits: (0..=20).collect(),
        checkpoints: [8, 16].into(),
        pointer: Some(16),
        needed: Some(3),
        ..LogFacts::default()
    };
    let plan = log(&facts);
    let expected: BTreeSet<u64> = (0..16).filter(|version| *version != 3).collect();
    assert_eq!((plan.commits, plan.checkpoints), (expected, [8].into()));
    // A checkpoint that nothing points to yet is not begun with.
    let plan = log(&LogFacts { pointer: Some(8), ..facts.clone() });
    assert_eq!((plan.commits.len(), plan.checkpoints.len()), (7, 0));
    assert_eq!(log(&LogFacts { pointer: None, ..facts }).commits.len(), 0);
}

// ---- tables --------------------------------------------------------------------------------------

fn specs() -> Vec<TableSpec> {
    let spec = |name: &str, key: &[&str], memo: bool| TableSpec {
        name: name.to_owned(),
        schema: schema(),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        memo,
        properties: BTreeMap::from([("delta.checkpointInterval".to_owned(), "4".to_owned())]),
    };
    vec![
        spec("contents", &[], true),
        spec("pairs", &["image_id"], false),
        spec("images", &["image_id"], false),
    ]
}

fn schema() -> Arc<Schema> {
    let text = Field::new("image_id", DataType::Utf8, false);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![text, long("value"), long("epoch")]))
}

/// Id, value and epoch by id.
type Rows = BTreeMap<String, (i64, i64)>;

fn batch(rows: &Rows) -> RecordBatch {
    let ids = StringArray::from_iter_values(rows.keys());
    let values = Int64Array::from_iter_values(rows.values().map(|row| row.0));
    let epochs = Int64Array::from_iter_values(rows.values().map(|row| row.1));
    let columns: Vec<arrow_array::ArrayRef> =
        vec![Arc::new(ids), Arc::new(values), Arc::new(epochs)];
    RecordBatch::try_new(schema(), columns).expect("rows fit their schema")
}

fn rows(table: &Table) -> Result<Rows, Error> {
    let mut rows = Rows::new();
    for batch in table.scan(None)? {
        let batch = batch?;
        let values = batch.column(1).as_primitive::<Int64Type>();
        let epochs = batch.column(2).as_primitive::<Int64Type>();
        for (row, id) in batch.column(0).as_string::<i32>().iter().enumerate() {
            let id = id.expect("an id is never null").to_owned();
            let twice = rows.insert(id.clone(), (values.value(row), epochs.value(row)));
            assert_eq!(twice, None, "{}: {id} twice", table.name());
        }
    }
    Ok(rows)
}

/// What a page names, and what its tables hold.
#[derive(Clone, Debug)]
struct Page {
    latest: Latest,
    tables: BTreeMap<String, Rows>,
}

/// What there should be.
#[derive(Default)]
struct Model {
    epoch: u64,
    tables: BTreeMap<String, Rows>,
    pages: Vec<Page>,
    pins: Vec<Page>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Rows come, and of each table every so manieth goes.
    Epoch {
        come: i64,
        goes: i64,
    },
    /// As many epochs of few rows as make files that are worth compacting.
    Trickle,
    /// Fewer files of every table, and perhaps the newest pages name them.
    Compact {
        renew: bool,
    },
    /// Only so many pages are kept.
    Keep(usize),
    Pin(usize),
    Unpin(usize),
    Retain,
    Restart,
}

/// Rows of an epoch: none or few, so many that their dead ones do not fit the log, or so many that
/// the file is written again once most of them are dead.
fn come() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 0..20_i64, 2 => Just(700_i64), 1 => Just(2_500_i64)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (come(), 2..6_i64).prop_map(|(come, goes)| Step::Epoch { come, goes }),
        2 => Just(Step::Trickle),
        3 => prop::bool::ANY.prop_map(|renew| Step::Compact { renew }),
        3 => (1..6_usize).prop_map(Step::Keep),
        2 => (0..9_usize).prop_map(Step::Pin),
        1 => (0..9_usize).prop_map(Step::Unpin),
        4 => Just(Step::Retain),
        1 => Just(Step::Restart),
    ]
}

impl Model {
    fn epoch(&mut self, publisher: &mut Publisher, come: i64, goes: i64) -> Result<(), Error> {
        // An epoch that failed may have left rows in the memo.
        let newest = publisher.tables().iter().filter_map(Table::epoch).max().unwrap_or(0);
        self.epoch = self.epoch.max(newest) + 1;
        let at = i64::try_from(self.epoch).expect("a small number");
        let mut changes = BTreeMap::new();
        let mut then = self.tables.clone();
        for spec in specs() {
            let held = then.entry(spec.name.clone()).or_default();
            let keyed = !spec.key.is_empty();
            let gone: Vec<String> = held
                .iter()
                .enumerate()
                .filter(|(n, _)| keyed && (*n as i64 + at) % goes == 0)
                .map(|(_, (id, _))| id.clone())
                .collect();
            let fresh = (0..come).map(|n| (format!("{at:04}-{n:05}"), (n * at, at)));
            // Some of those that go come back with another value.
            let back = gone.iter().step_by(3).map(|id| (id.clone(), (-at, at)));
            let insert: Rows = fresh.chain(back).collect();
            gone.iter().for_each(|id| assert!(held.remove(id).is_some()));
            held.extend(insert.clone());
            let delete = gone.iter().map(|id| Key::of(&[id])).collect();
            let insert = if insert.is_empty() { Vec::new() } else { vec![batch(&insert)] };
            changes.insert(spec.name, Change { insert, delete });
        }
        let offsets = BTreeMap::from([(("topic".to_owned(), 0), at)]);
        let epoch = EpochCommit { epoch: self.epoch, changes, offsets, ..EpochCommit::default() };
        let latest = publisher.publish(epoch)?.expect("the offset moved");
        self.tables = then.clone();
        self.pages.push(Page { latest, tables: then });
        Ok(())
    }

    fn compact(&mut self, publisher: &mut Publisher, renew: bool) -> Result<(), Error> {
        for spec in specs() {
            let files = publisher.table(&spec.name).expect("a table").size().0;
            let done = publisher.compact(&spec.name, &["image_id"])?;
            let table = publisher.table(&spec.name).expect("a table");
            let became = done.map_or(files, |done| files + 1 - done.files);
            assert!(table.size().0 <= became, "{}: {files} files, {done:?}", spec.name);
            assert_eq!(table.rows()? as usize, self.tables.entry(spec.name).or_default().len());
        }
        if let (true, Some(page)) = (renew, self.pages.last_mut()) {
            let renewed = publisher.renew_latest()?;
            page.latest = renewed.unwrap_or(page.latest.clone());
            // The memo's newest version has what an epoch left that never became real.
            page.tables
                .extend(self.tables.get_key_value("contents").map(|(k, v)| (k.clone(), v.clone())));
            let versions = |table: &Table| (table.name().to_owned(), table.version());
            let newest = publisher.tables().iter().map(versions).collect();
            assert_eq!(page.latest.tables, newest);
            assert_eq!(publisher.renew_latest()?, None, "nothing is left to do");
        }
        Ok(())
    }

    fn keep(&self) -> Keep {
        let oldest = self.pages.first().map(|page| page.latest.tables.clone());
        let mut pinned: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for page in &self.pins {
            for (table, version) in &page.latest.tables {
                pinned.entry(table.clone()).or_default().insert(*version);
            }
        }
        Keep { oldest: oldest.unwrap_or_default(), pinned, age: Duration::ZERO }
    }

    /// Every page and every pin is read as it was.
    fn check(&self, store: &Store) {
        for page in self.pages.iter().chain(&self.pins) {
            for spec in specs() {
                let at = page.latest.tables[&spec.name];
                let table = Table::open(store, &spec, Some(at)).expect("it can be opened");
                let held = rows(&table.expect("it is there")).expect("it can be read");
                let wanted = &page.tables[&spec.name];
                assert!(held == *wanted, "{} at {at} of {:?}", spec.name, page.latest.epoch);
            }
        }
    }

    /// What a refresh reads: every row of epochs above one, and the rest where it is cheap.
    fn check_refresh(&self, publisher: &Publisher) {
        for table in publisher.tables() {
            for after in [self.epoch.saturating_sub(20), self.epoch.saturating_sub(2)] {
                let mut newer = BTreeSet::new();
                for batch in table.scan_after(Some(after), None).expect("a scan") {
                    let batch = batch.expect("rows");
                    let epochs = batch.column(2).as_primitive::<Int64Type>();
                    let ids = batch.column(0).as_string::<i32>();
                    let above = (0..batch.num_rows())
                        .filter(|row| epochs.value(*row) > i64::try_from(after).expect("small"));
                    newer.extend(above.map(|row| ids.value(row).to_owned()));
                }
                let rows = self.tables.get(table.name()).into_iter().flatten();
                let wanted = rows.filter(|(_, row)| row.1 > i64::try_from(after).expect("small"));
                let wanted: BTreeSet<String> = wanted.map(|(id, _)| id.clone()).collect();
                assert!(newer == wanted, "{} above {after}", table.name());
            }
        }
    }

    fn step(&mut self, store: &Store, publisher: &mut Publisher, step: &Step) -> Result<(), Error> {
        match step {
            Step::Epoch { come, goes } => self.epoch(publisher, *come, *goes)?,
            Step::Trickle => {
                for n in 0..16 {
                    self.epoch(publisher, 3 + n % 2, 7)?;
                }
            }
            Step::Compact { renew } => self.compact(publisher, *renew)?,
            Step::Keep(count) => {
                let gone = self.pages.len().saturating_sub(*count);
                self.pages.drain(..gone);
            }
            Step::Pin(which) => {
                let page = self.pages.iter().cycle().nth(*which).cloned();
                self.pins.extend(page);
            }
            Step::Unpin(which) if *which < self.pins.len() => {
                self.pins.remove(*which);
            }
            Step::Unpin(_) => {}
            Step::Retain => {
                let keep = self.keep();
                let told = publisher.retain(&keep, true)?;
                let gone = publisher.retain(&keep, false)?;
                assert_eq!(told, gone, "a dry run tells what would go");
                assert_eq!(publisher.retain(&keep, false)?, [], "nothing is left to do");
            }
            Step::Restart => *publisher = start(store, &specs())?,
        }
        Ok(())
    }
}

/// Objects of the tables: data files, deletion vectors, commits.
fn objects(objects: &dyn ObjectStore) -> [usize; 3] {
    let listed = objects.list(None).map_ok(|meta| meta.location.to_string());
    let listed: Vec<String> =
        futures::executor::block_on(listed.try_collect()).expect("a list of objects");
    let count = |part: &str, end: &str| {
        listed.iter().filter(|name| name.contains(part) && name.ends_with(end)).count()
    };
    [count("/part-", ".parquet"), count("/_dv/", ".bin"), count("/_delta_log/", ".json")]
}

fn survive(steps: &[Step], faults: Vec<(usize, Fault)>) {
    let all = Arc::new(InMemory::new());
    let world = World::new(all.clone());
    let calm = Store::new(world.calm(), Path::default()).expect("a store");
    let mut model = Model::default();
    let mut publisher = start(&calm, &specs()).expect("a start from nothing");
    // A disturbed life: a step that failed is over, and a new start follows.
    let mut faults = faults.into_iter();
    for step in steps {
        if let Some(fault) = faults.next() {
            let faulty = Arc::new(Faulty::new(world.clone(), vec![fault]));
            let store = Store::new(faulty, Path::default()).expect("a store");
            if let Ok(mut disturbed) = start(&store, &specs()) {
                let _ = model.step(&store, &mut disturbed, step);
            }
            publisher = start(&calm, &specs()).expect("a start after a fault");
            // Its epoch may have become real although it was told that it did not.
            if publisher.epoch().unwrap_or(0) > model.pages.last().map_or(0, |p| p.latest.epoch) {
                let read = |table: &Table| (table.name().to_owned(), rows(table).expect("rows"));
                model.tables = publisher.tables().iter().map(read).collect();
                let latest = everpair::delta::read_latest(&calm).expect("a page").expect("a page");
                model.epoch = latest.epoch;
                model.pages.push(Page { latest, tables: model.tables.clone() });
            }
            // A memo keeps what an epoch left that never became real.
            let memo = publisher.table("contents").expect("a table");
            model.tables.insert("contents".to_owned(), rows(memo).expect("rows"));
        } else {
            model.step(&calm, &mut publisher, step).expect("nothing disturbs it");
        }
        model.check(&calm);
        model.check_refresh(&publisher);
    }
    model.epoch(&mut publisher, 10, 3).expect("nothing disturbs it");
    for n in 1..=8 {
        model.epoch(&mut publisher, 0, 2 + n % 2).expect("nothing disturbs it");
    }
    model.pages.drain(..model.pages.len() - 1);
    model.pins.clear();
    let step = Step::Retain;
    model.step(&calm, &mut publisher, &step).expect("nothing disturbs it");
    model.check(&calm);
    let live: usize = publisher.tables().iter().map(|table| table.size().0).sum();
    let vectors = publisher.tables().iter().flat_map(Table::vectors);
    let vectors = vectors.filter(|(storage, _)| storage == "u").count();
    let [files, vector_files, commits] = objects(all.as_ref());
    assert_eq!(files, live, "files that no version needs are there");
    assert!(vector_files <= vectors, "{vector_files} files of {vectors} vectors");
    assert!(commits <= publisher.tables().len() * 6, "{commits} commits");
    publisher = start(&calm, &specs()).expect("a start");
    let held: BTreeMap<String, Rows> = publisher
        .tables()
        .iter()
        .map(|table| (table.name().to_owned(), rows(table).expect("rows")))
        .collect();
    assert!(held == model.tables, "the newest version is what it was");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn kept_and_pinned_versions_stay_and_all_else_goes(
        steps in prop::collection::vec(step(), 1..25)
    ) {
        survive(&steps, Vec::new());
    }
}

fn fault() -> impl Strategy<Value = (usize, Fault)> {
    let fault = prop_oneof![
        Just(Fault::Lost),
        Just(Fault::Unreported),
        Just(Fault::Crash { happened: false }),
        Just(Fault::Crash { happened: true }),
    ];
    // A start makes some fifty calls; most faults are to come after it.
    (20..110_usize, fault)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn also_when_every_step_is_disturbed(
        steps in prop::collection::vec(step(), 1..15),
        faults in prop::collection::vec(fault(), 15),
    ) {
        survive(&steps, faults);
    }
}

/// A reader that opened a version just before its page went has the age to finish.
#[test]
fn what_left_the_kept_versions_stays_for_the_age() {
    let store = Store::new(Arc::new(InMemory::new()), Path::default()).expect("a store");
    let mut publisher = start(&store, &specs()).expect("a start");
    let mut model = Model::default();
    for _ in 0..12 {
        model.epoch(&mut publisher, 20, 2).expect("an epoch");
    }
    let all = model.keep();
    let aged = |keep: Keep, age: Duration| Keep { age, ..keep };
    let hour = Duration::from_secs(3600);
    // Nobody knows how long ago anything left: it is known from now on.
    assert_eq!(publisher.retain(&aged(all.clone(), hour), false).expect("retained"), []);
    let pages = std::mem::take(&mut model.pages);
    model.pages = pages[11..].to_vec();
    let newest = model.keep();
    assert_eq!(publisher.retain(&aged(newest.clone(), hour), false).expect("retained"), []);
    model.pages = pages;
    model.check(&store);
    // The marks say that the first versions were kept until now, however short the age is.
    let short = Duration::from_millis(1);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while publisher.retain(&aged(newest.clone(), short), false).expect("retained").is_empty() {
        assert!(std::time::Instant::now() < deadline, "nothing ever goes");
    }
    model.pages.drain(..11);
    model.check(&store);
    let marks = store.get("_everpair/retained.json").expect("read").expect("it is there");
    let marks: serde_json::Value = serde_json::from_slice(&marks).expect("JSON");
    assert!(marks.as_array().is_some_and(|marks| marks.len() <= 10), "{marks}");
}

/// Rows of many small files lie in one, sorted by what they are looked up by.
#[test]
fn many_small_files_become_a_sorted_one() {
    let store = Store::new(Arc::new(InMemory::new()), Path::default()).expect("a store");
    let mut publisher = start(&store, &specs()).expect("a start");
    let mut model = Model::default();
    for _ in 0..20 {
        model.epoch(&mut publisher, 5, 40).expect("an epoch");
    }
    let before = publisher.table("pairs").expect("a table").size().0;
    let done = publisher.compact("pairs", &["image_id"]).expect("compacted").expect("worth it");
    let table = publisher.table("pairs").expect("a table");
    assert_eq!((done.files, table.size().0), (16, before - 15));
    assert!(done.written_bytes > 0 && done.read_bytes > done.written_bytes, "{done:?}");
    let again = publisher.compact("pairs", &["image_id"]).expect("looked");
    assert!(again.is_none_or(|done| done.files >= 16), "{again:?}");
    let table = publisher.table("pairs").expect("a table");
    let largest = table.scan(None).expect("a scan").map(|batch| batch.expect("rows"));
    let largest = largest.max_by_key(RecordBatch::num_rows).expect("a file");
    let ids: Vec<&str> = largest.column(0).as_string::<i32>().iter().flatten().collect();
    assert!(ids.len() > 20 && ids.is_sorted(), "{ids:?}");
    let refused = publisher.compact("nothing", &[]);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    // The epoch is what it was, and the next one finds every row.
    assert_eq!(publisher.epoch(), Some(20));
    model.epoch(&mut publisher, 5, 2).expect("an epoch");
    model.check(&store);
    model.check_refresh(&publisher);
}

/// A rival takes over while files are made fewer: nothing of that is in the tables.
#[test]
fn a_fenced_writer_compacts_nothing() {
    let store = Store::new(Arc::new(InMemory::new()), Path::default()).expect("a store");
    let mut slept = start(&store, &specs()).expect("a start");
    let mut model = Model::default();
    for _ in 0..20 {
        model.epoch(&mut slept, 5, 40).expect("an epoch");
    }
    let mut publisher = start(&store, &specs()).expect("a start");
    let outcome = slept.compact("images", &["image_id"]);
    assert!(matches!(outcome, Err(Error::Fenced(_))), "{outcome:?}");
    assert!(slept.is_stopped());
    model.epoch(&mut publisher, 5, 4).expect("an epoch");
    model.check(&store);
}

/// A writer that slept while another one took over removes nothing.
#[test]
fn a_fenced_writer_removes_nothing() {
    let objects = Arc::new(InMemory::new());
    let store = Store::new(objects.clone(), Path::default()).expect("a store");
    let mut slept = start(&store, &specs()).expect("a start");
    let mut model = Model::default();
    for _ in 0..9 {
        model.epoch(&mut slept, 20, 2).expect("an epoch");
    }
    let mut publisher = start(&store, &specs()).expect("a start");
    model.epoch(&mut publisher, 20, 2).expect("an epoch");
    let before = self::objects(objects.as_ref());
    let outcome = slept.retain(&Keep::default(), false);
    assert!(matches!(outcome, Err(Error::Fenced(_))), "{outcome:?}");
    assert_eq!(self::objects(objects.as_ref()), before);
    // The log has lost the versions in which its commits would have collided.
    model.pages.drain(..9);
    assert!(!publisher.retain(&model.keep(), false).expect("retained").is_empty());
    let latest = everpair::delta::read_latest(&store).expect("a page");
    let outcome = Model { epoch: 20, ..Model::default() }.epoch(&mut slept, 1, 2);
    assert!(matches!(outcome, Err(Error::Fenced(_))), "{outcome:?}");
    assert_eq!(everpair::delta::read_latest(&store).expect("a page"), latest);
    model.check(&store);
}
