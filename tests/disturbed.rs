//! A writer whose store fails, lies, loses and delays its calls, which is killed at any of them and
//! raced by rivals: at the end there are the tables of one that nothing happened to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use everpair::delta::{
    Change, EpochCommit, Error, Key, Offsets, Publisher, Store, Table, TableSpec, read_latest,
    start,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::faulty::{Fault, Faulty, World};

pub fn spec(name: &str, key: &[&str], memo: bool) -> TableSpec {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    let fields = vec![text("image_id"), long("value"), long("epoch")];
    TableSpec {
        name: name.to_owned(),
        schema: Arc::new(Schema::new(fields)),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        memo,
        // Often, so that starts go through checkpoints.
        properties: BTreeMap::from([("delta.checkpointInterval".to_owned(), "4".to_owned())]),
    }
}

pub type Row = (String, i64, i64);

pub fn batch(rows: &[Row]) -> RecordBatch {
    let ids = StringArray::from_iter_values(rows.iter().map(|row| row.0.as_str()));
    let values = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let epochs = Int64Array::from_iter_values(rows.iter().map(|row| row.2));
    let schema = spec("any", &[], false).schema;
    let columns: Vec<arrow_array::ArrayRef> =
        vec![Arc::new(ids), Arc::new(values), Arc::new(epochs)];
    RecordBatch::try_new(schema, columns).unwrap()
}

pub fn rows(table: &Table) -> Vec<Row> {
    read_rows(table).unwrap()
}

fn read_rows(table: &Table) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for batch in table.scan(None)? {
        let batch = batch?;
        let ids = batch.column(0).as_string::<i32>();
        let values = batch.column(1).as_primitive::<Int64Type>();
        let epochs = batch.column(2).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            rows.push((ids.value(row).to_owned(), values.value(row), epochs.value(row)));
        }
    }
    rows.sort();
    Ok(rows)
}

const MESSAGES: i64 = 24;

pub fn specs() -> Vec<TableSpec> {
    vec![
        spec("contents", &[], true),
        spec("pairs", &["image_id"], false),
        spec("changes", &[], false),
        spec("images", &["image_id"], false),
    ]
}

/// Message `offset` of the only partition: sets an image to a value, or takes it down.
fn message(offset: i64) -> (String, Option<i64>) {
    let id = format!("id-{}", offset * 7 % 5);
    (id, (offset % 4 != 3).then_some(offset % 6))
}

/// What the tables hold after the first `count` messages: images, and of them those with a pair.
fn oracle(count: i64) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let mut images = BTreeMap::new();
    for offset in 0..count {
        match message(offset) {
            (id, Some(value)) => images.insert(id, value),
            (id, None) => images.remove(&id),
        };
    }
    let pairs = images.iter().filter(|image| image.1 % 2 == 0);
    let pairs = pairs.map(|(id, value)| (id.clone(), value * 10)).collect();
    (images, pairs)
}

fn map(table: &Table) -> BTreeMap<String, i64> {
    read_map(table).unwrap()
}

fn read_map(table: &Table) -> Result<BTreeMap<String, i64>, Error> {
    let all = read_rows(table)?;
    let map: BTreeMap<String, i64> = all.iter().map(|row| (row.0.clone(), row.1)).collect();
    assert_eq!(map.len(), all.len(), "{}: a key twice", table.name());
    Ok(map)
}

/// The difference between two states of a table, as a change.
fn change(old: &BTreeMap<String, i64>, new: &BTreeMap<String, i64>, epoch: i64) -> Change {
    let gone = old.iter().filter(|(id, value)| new.get(*id) != Some(*value));
    let come = new.iter().filter(|(id, value)| old.get(*id) != Some(*value));
    let come: Vec<Row> = come.map(|(id, value)| (id.clone(), *value, epoch)).collect();
    Change {
        delete: gone.map(|(id, _)| Key::of(&[id])).collect(),
        insert: if come.is_empty() { Vec::new() } else { vec![batch(&come)] },
    }
}

/// One life of a service: starts from the tables, then commits epochs of `cut` messages until all
/// are read, a call fails, or `epochs` are done.
pub fn live(store: &Store, cut: i64, epochs: usize) -> Result<(), Error> {
    let mut publisher: Publisher = start(store, &specs())?;
    let table = |name: &str| publisher.table(name).unwrap();
    let (mut images, mut pairs) = (read_map(table("images"))?, read_map(table("pairs"))?);
    let mut memo: BTreeSet<i64> = BTreeSet::new();
    for row in read_rows(table("contents"))? {
        assert!(memo.insert(row.1), "content {} twice in the memo", row.1);
    }
    let partition = ("topic".to_owned(), 0);
    let mut next = publisher.offsets().get(&partition).copied().unwrap_or(0);
    assert_eq!((images.clone(), pairs.clone()), oracle(next), "after start at offset {next}");
    assert!(images.values().all(|value| memo.contains(value)), "{memo:?} has forgotten {images:?}");
    for _ in 0..epochs {
        let end = (next + cut).min(MESSAGES);
        if end == next {
            break;
        }
        let epoch = publisher.epoch().unwrap_or(0) + 1;
        let stamp = i64::try_from(epoch).unwrap();
        let (images_then, pairs_then) = oracle(end);
        let fresh = (next..end).filter_map(|offset| message(offset).1);
        let fresh: Vec<Row> =
            fresh.filter(|v| memo.insert(*v)).map(|v| ("c".to_owned(), v, stamp)).collect();
        let log: Vec<Row> = (next..end).map(|offset| ("m".to_owned(), offset, stamp)).collect();
        let insert = |rows: &[Row]| Change { insert: vec![batch(rows)], delete: Vec::new() };
        let changes = BTreeMap::from([
            ("contents".to_owned(), insert(&fresh)),
            ("pairs".to_owned(), change(&pairs, &pairs_then, stamp)),
            ("changes".to_owned(), insert(&log)),
            ("images".to_owned(), change(&images, &images_then, stamp)),
        ]);
        let offsets = Offsets::from([(partition.clone(), end)]);
        publisher.publish(EpochCommit { epoch, changes, offsets, ..EpochCommit::default() })?;
        (images, pairs, next) = (images_then, pairs_then, end);
        if cut % 2 == 0 {
            let live: BTreeSet<i64> = images.values().copied().collect();
            let forgotten = publisher.forget("contents", &["value"], |batch| {
                let values = batch.column(0).as_primitive::<Int64Type>().values().iter();
                Ok(values.map(|value| !live.contains(value)).collect())
            })?;
            let held = memo.len();
            memo.retain(|value| live.contains(value));
            assert_eq!(forgotten, (held - memo.len()) as u64);
            publisher.renew_latest()?;
        }
    }
    Ok(())
}

/// What readers see, at `latest.json` and at the newest versions: at the former all tables agree,
/// at the latter the anchor is never ahead of the others.
fn check_readers(store: &Store) {
    let open = |name: &str, at: Option<u64>| {
        let spec = specs().into_iter().find(|spec| spec.name == name).unwrap();
        Table::open(store, &spec, at).unwrap()
    };
    let logged = |table: &Table, epoch: u64| -> Vec<i64> {
        let up_to = i64::try_from(epoch).unwrap();
        let mut logged: Vec<i64> =
            rows(table).iter().filter(|row| row.2 <= up_to).map(|row| row.1).collect();
        logged.sort_unstable();
        logged
    };
    if let Some(latest) = read_latest(store).unwrap() {
        let next = latest.offsets["topic"]["0"];
        let at = |name: &str| open(name, Some(latest.tables[name])).unwrap();
        assert_eq!((map(&at("images")), map(&at("pairs"))), oracle(next), "{latest:?}");
        assert_eq!(logged(&at("changes"), u64::MAX >> 1), (0..next).collect::<Vec<_>>());
        assert_eq!(at("images").epoch(), Some(latest.epoch));
    }
    if let Some(images) = open("images", None)
        && let Some(epoch) = images.epoch()
    {
        let next = images.txns("everpair/offset/topic/")["0"];
        assert_eq!(map(&images), oracle(next).0);
        let changes = open("changes", None).unwrap();
        assert_eq!(logged(&changes, epoch), (0..next).collect::<Vec<_>>());
    }
}

/// What goes wrong, by the number of the call it happens to.
pub type Faults = Vec<(usize, Fault)>;

#[derive(Clone, Debug)]
pub struct Life {
    pub cut: i64,
    pub faults: Faults,
    /// At this call another service starts and lives through so many epochs, with faults of its
    /// own, before this one goes on.
    pub rival: Option<(usize, usize, Faults)>,
}

fn faults() -> impl Strategy<Value = Faults> {
    let fault = prop_oneof![
        Just(Fault::Lost),
        Just(Fault::Unreported),
        Just(Fault::Crash { happened: false }),
        Just(Fault::Crash { happened: true }),
        (1_u64..60).prop_map(|calls| Fault::Late { calls }),
    ];
    prop::collection::vec((0_usize..160, fault), 0..3)
}

pub fn lives() -> impl Strategy<Value = Vec<Life>> {
    let rival = prop::option::of((0_usize..160, 0_usize..4, faults()));
    let life = (1_i64..6, faults(), rival);
    let life = life.prop_map(|(cut, faults, rival)| Life { cut, faults, rival });
    prop::collection::vec(life, 1..5)
}

pub fn survive(objects: Arc<dyn ObjectStore>, lives: &[Life]) {
    let world = World::new(objects);
    let calm = Store::new(world.calm(), Path::default()).unwrap();
    for life in lives {
        let mut faulty = Faulty::new(world.clone(), life.faults.clone());
        if let Some((call, epochs, faults)) = life.rival.clone() {
            let (world, cut) = (world.clone(), life.cut % 3 + 1);
            faulty = faulty.with_rival(call, move || {
                let rival = Faulty::new(world, faults);
                let store = Store::new(Arc::new(rival), Path::default()).unwrap();
                let _ = live(&store, cut, epochs);
            });
        }
        let store = Store::new(Arc::new(faulty), Path::default()).unwrap();
        let _ = live(&store, life.cut, usize::MAX);
        check_readers(&calm);
    }
    live(&calm, 4, usize::MAX).unwrap();
    check_readers(&calm);
    let latest = read_latest(&calm).unwrap().unwrap();
    assert_eq!(latest.offsets["topic"]["0"], MESSAGES);
}

/// So many lives of writers on a store in memory. A failure shows its own, made as small as can be.
pub fn on_a_store_in_memory(cases: u32) {
    let mut runner = TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let ended = runner.run(&lives(), |lives| {
        survive(Arc::new(InMemory::new()), &lives);
        Ok(())
    });
    ended.unwrap_or_else(|failure| panic!("{failure}"));
}
