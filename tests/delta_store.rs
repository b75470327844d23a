//! The table store: rows in and out, and a writer killed, cheated and raced at every call it makes
//! to its object store. Replay a failure with the seed that proptest prints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, ListArray, RecordBatch, StringArray, StructArray, cast::AsArray,
    types::Int64Type,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Fields, Schema};
use everpair::delta::{
    Change, Commit, EpochCommit, Error, Key, Offsets, Publisher, Store, Table, read_latest, start,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;

use crate::disturbed::{
    Life, Row, batch, live, lives, on_a_store_in_memory, rows, spec, specs, survive,
};
use crate::faulty::{Fault, Faulty, World};

fn range(ids: std::ops::Range<i64>, epoch: i64) -> Vec<Row> {
    ids.map(|id| (format!("id-{id:06}"), id, epoch)).collect()
}

fn key(row: &Row) -> Key {
    Key::of(&[&row.0])
}

/// Rows come and go over many commits, through inline vectors, vector files, emptied files and
/// checkpoints, and every older version stays what it was.
#[test]
fn rows_live_until_deleted_and_older_versions_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path()).unwrap();
    let spec = spec("images", &["image_id"], false);
    let mut table = Table::claim(&store, &spec, 1).unwrap();
    let mut live: BTreeMap<String, Row> = BTreeMap::new();
    let mut versions: Vec<(u64, Vec<Row>)> = Vec::new();
    for epoch in 1..=12_i64 {
        let fresh = range(epoch * 5000..epoch * 5000 + 4000, epoch);
        let leaving: Vec<Row> = match epoch {
            // All rows of the first file, then few of the second, then a scattering too wide to
            // stand in the log, also over rows whose file has a vector already.
            3 => live.values().filter(|row| row.2 == 1).cloned().collect(),
            4 => live.values().filter(|row| row.2 == 2).take(5).cloned().collect(),
            _ => live.values().filter(|row| row.1 % 7 == epoch % 7).cloned().collect(),
        };
        let delete = leaving.iter().map(key).collect();
        leaving.iter().for_each(|row| assert!(live.remove(&row.0).is_some()));
        let insert = vec![batch(&fresh[..1000]), batch(&[]), batch(&fresh[1000..])];
        live.extend(fresh.into_iter().map(|row| (row.0.clone(), row)));
        let epoch = u64::try_from(epoch).unwrap();
        let version = table.commit(Commit { epoch, insert, delete, ..Commit::default() }).unwrap();
        let mut wanted: Vec<Row> = live.values().cloned().collect();
        wanted.sort();
        assert_eq!(rows(&table), wanted);
        assert_eq!(table.len(), wanted.len());
        versions.push((version, wanted));
    }
    let storage: BTreeSet<String> = table.vectors().into_iter().map(|vector| vector.0).collect();
    assert!(storage.contains("u"), "no vector was large enough for a file: {storage:?}");
    for (version, wanted) in &versions {
        let old = Table::open(&store, &spec, Some(*version)).unwrap().unwrap();
        assert_eq!(&rows(&old), wanted, "version {version}");
    }
    let newest = Table::open(&store, &spec, None).unwrap().unwrap();
    assert_eq!(Some(rows(&newest)), versions.pop().map(|(_, rows)| rows));
    assert_eq!((newest.epoch(), newest.generation()), (Some(12), Some(1)));
    assert!(folder.path().join("images/_delta_log/_last_checkpoint").exists());
}

#[test]
fn a_table_refuses_what_would_break_it() {
    let store = Store::new(Arc::new(InMemory::new()), Path::default()).unwrap();
    let spec = spec("images", &["image_id"], false);
    let open = || {
        let mut table = Table::claim(&store, &spec, 1).unwrap();
        table.build_index().unwrap();
        table
    };
    let rows = range(0..3, 1);
    let commit = |epoch: u64, insert: &[Row], delete: &[Row]| Commit {
        epoch,
        insert: vec![batch(insert)],
        delete: delete.iter().map(key).collect(),
        ..Commit::default()
    };
    open().commit(commit(1, &rows, &[])).unwrap();
    let refused = |commit: Commit| {
        let outcome = open().commit(commit);
        assert!(matches!(outcome, Err(Error::Refused(_))), "{outcome:?}");
    };
    refused(commit(2, &rows[..1], &[]));
    refused(commit(2, &[], &range(7..8, 1)));
    refused(commit(2, &[], &[rows[0].clone(), rows[0].clone()]));
    refused(commit(1, &range(9..10, 1), &[]));
    // The same key may leave and come back at once.
    open().commit(commit(2, &[("id-000000".to_owned(), 70, 2)], &rows[..1])).unwrap();
    assert!(matches!(Table::claim(&store, &spec, 0), Err(Error::Fenced(_))));
    let mut other = spec.clone();
    other.schema = Arc::new(Schema::new(vec![Field::new("image_id", DataType::Utf8, true)]));
    assert!(matches!(Table::claim(&store, &other, 2), Err(Error::Refused(_))));
}

#[test]
fn a_new_column_is_null_in_older_rows() {
    let store = Store::new(Arc::new(InMemory::new()), Path::default()).unwrap();
    let mut spec = spec("images", &["image_id"], false);
    let mut table = Table::claim(&store, &spec, 1).unwrap();
    let insert = vec![batch(&range(0..2, 1))];
    table.commit(Commit { epoch: 1, insert, ..Commit::default() }).unwrap();
    let more = Field::new("licence", DataType::Utf8, true);
    let fields = spec.schema.fields().iter().map(|field| field.as_ref().clone()).chain([more]);
    spec.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let table = Table::claim(&store, &spec, 2).unwrap();
    let batches: Vec<_> = table.scan(Some(&["licence", "value"])).unwrap().collect();
    let batch = batches[0].as_ref().unwrap();
    assert_eq!((batch.column(0).null_count(), batch.num_columns()), (2, 2));
}

#[test]
fn a_new_field_of_structs_in_a_list_is_null_in_older_rows() {
    let store = Store::new(Arc::new(InMemory::new()), Path::default()).unwrap();
    let mut spec = spec("images", &["image_id"], false);
    let fields = |more: Option<Field>| -> Fields {
        [Field::new("label", DataType::Utf8, false)].into_iter().chain(more).collect()
    };
    let with = |of_items: &Fields| {
        let item = Field::new("element", DataType::Struct(of_items.clone()), false);
        let list = Field::new("audits", DataType::List(Arc::new(item)), false);
        let columns = batch(&[]).schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        Arc::new(Schema::new([columns, vec![list]].concat()))
    };
    // Of row `n` there are `n` items.
    let rows = |of_items: &Fields, range: &[Row]| {
        let names: Vec<String> =
            range.iter().flat_map(|row| (0..row.1).map(|n| format!("{} {n}", row.0))).collect();
        let column: ArrayRef = Arc::new(StringArray::from(names));
        let items = StructArray::new(of_items.clone(), vec![column; of_items.len()], None);
        let item = Arc::new(Field::new("element", items.data_type().clone(), false));
        let lengths = range.iter().map(|row| row.1 as usize);
        let list = ListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::new(items), None);
        let mut columns = batch(range).columns().to_vec();
        columns.push(Arc::new(list));
        RecordBatch::try_new(with(of_items), columns).unwrap()
    };
    let (old, new) = (fields(None), fields(Some(Field::new("verdict", DataType::Utf8, true))));
    spec.schema = with(&old);
    let mut table = Table::claim(&store, &spec, 1).unwrap();
    let insert = vec![rows(&old, &range(0..4, 1))];
    table.commit(Commit { epoch: 1, insert, ..Commit::default() }).unwrap();
    spec.schema = with(&new);
    let mut table = Table::claim(&store, &spec, 2).unwrap();
    let insert = vec![rows(&new, &range(4..6, 2))];
    table.commit(Commit { epoch: 2, insert, ..Commit::default() }).unwrap();
    let mut seen = Vec::new();
    for batch in table.scan(Some(&["value", "audits"])).unwrap() {
        let batch = batch.unwrap();
        let values = batch.column(0).as_primitive::<Int64Type>();
        let lists = batch.column(1).as_list::<i32>();
        for row in 0..batch.num_rows() {
            let items = lists.value(row);
            let items = items.as_struct();
            let [labels, verdicts] =
                ["label", "verdict"].map(|name| items.column_by_name(name).unwrap());
            let labels = labels.as_string::<i32>().iter().flatten().count();
            let verdicts = verdicts.as_string::<i32>().iter().flatten().count();
            seen.push((values.value(row), labels, verdicts));
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [(0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 4, 4), (5, 5, 5)]);
    // Whoever has the old program cannot go on with these tables.
    spec.schema = with(&old);
    assert!(matches!(Table::claim(&store, &spec, 3), Err(Error::Refused(_))));
}

/// A memo holds facts that were paid for; effects of an epoch that never became real go.
#[test]
fn a_start_takes_back_effects_and_keeps_facts() {
    let store = Store::new(Arc::new(InMemory::new()), Path::default()).unwrap();
    let mut publisher = start(&store, &specs()).unwrap();
    let insert = |id: i64, epoch: i64| Change {
        insert: vec![batch(&range(id..id + 1, epoch))],
        delete: Vec::new(),
    };
    let changes = ["contents", "pairs", "images"].map(|name| (name.to_owned(), insert(1, 1)));
    let changes = BTreeMap::from(changes);
    publisher.publish(EpochCommit { epoch: 1, changes, ..EpochCommit::default() }).unwrap();
    for spec in &specs()[..3] {
        let mut table = Table::claim(&store, spec, publisher.generation()).unwrap();
        let insert = insert(2, 2).insert;
        table.commit(Commit { epoch: 2, insert, ..Commit::default() }).unwrap();
    }
    // The second start meets tables that the first one has put right.
    for _ in 0..2 {
        let started = start(&store, &specs()).unwrap();
        let held = |name: &str| rows(started.table(name).unwrap());
        assert_eq!(held("contents"), [range(1..2, 1), range(2..3, 2)].concat());
        assert_eq!(held("pairs"), range(1..2, 1));
        assert_eq!(held("changes"), Vec::new());
        assert_eq!(started.epoch(), Some(1));
        let epochs = ["pairs", "changes"].map(|name| started.table(name).unwrap().epoch());
        assert_eq!(epochs, [Some(1), None]);
    }
    let outcome = publisher.publish(EpochCommit {
        epoch: 3,
        changes: BTreeMap::from([("pairs".to_owned(), insert(3, 3))]),
        ..EpochCommit::default()
    });
    assert!(matches!(outcome, Err(Error::Fenced(_))), "{outcome:?}");
    let outcome = publisher.publish(EpochCommit { epoch: 4, ..EpochCommit::default() });
    assert!(matches!(outcome, Err(Error::Refused(_))), "{outcome:?}");
}

#[test]
fn an_epoch_commits_what_changed_and_nothing_else() {
    let store = Store::new(Arc::new(InMemory::new()), Path::default()).unwrap();
    let mut publisher = start(&store, &specs()).unwrap();
    let versions = |publisher: &Publisher| -> Vec<u64> {
        publisher.tables().iter().map(Table::version).collect()
    };
    let offsets = |next: i64| Offsets::from([(("a/b".to_owned(), 3), next)]);
    let epoch = |epoch: u64, next: i64| EpochCommit {
        epoch,
        offsets: offsets(next),
        info: serde_json::Map::from_iter([("rules".to_owned(), epoch.into())]),
        ..EpochCommit::default()
    };
    let latest = publisher.publish(epoch(1, 7)).unwrap().unwrap();
    assert_eq!(versions(&publisher), [0, 0, 0, 1]);
    assert_eq!((latest.offsets["a/b"]["3"], &latest.info["rules"]), (7, &1.into()));
    // Neither a row nor an offset: no trace.
    assert_eq!(publisher.publish(epoch(2, 7)).unwrap(), None);
    assert_eq!(versions(&publisher), [0, 0, 0, 1]);
    assert_eq!(read_latest(&store).unwrap(), Some(latest.clone()));
    // Rows and no offset, as when an answer arrives: the anchor makes them real.
    let log = Change { insert: vec![batch(&range(0..1, 3))], delete: Vec::new() };
    let changes = BTreeMap::from([("changes".to_owned(), log)]);
    publisher.publish(EpochCommit { changes, ..epoch(3, 7) }).unwrap();
    assert_eq!(versions(&publisher), [0, 0, 1, 2]);
    // What the anchor's commit says about an epoch outlives the file that says it to readers.
    store.replace("_everpair/latest.json", serde_json::to_vec(&latest).unwrap()).unwrap();
    let publisher = start(&store, &specs()).unwrap();
    let repaired = read_latest(&store).unwrap().unwrap();
    assert_eq!((repaired.epoch, &repaired.info["rules"]), (3, &3.into()));
    assert_eq!(publisher.offsets(), offsets(7));
}

// ---- a writer under faults ----------------------------------------------------------------------

/// The target `long` does it with ten thousand.
#[test]
fn a_disturbed_writer_ends_like_an_undisturbed_one() {
    on_a_store_in_memory(300);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn also_on_a_folder(lives in lives()) {
        let folder = tempfile::tempdir().unwrap();
        let objects = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        survive(Arc::new(objects), &lives);
    }
}

/// Every call of a small life, each fault at each of them: what random choice may miss.
#[test]
fn every_call_may_fail_in_every_way() {
    let world = World::new(Arc::new(InMemory::new()));
    let counting = Faulty::new(world, Vec::new());
    let calls = counting.counter();
    live(&Store::new(Arc::new(counting), Path::default()).unwrap(), 12, usize::MAX).unwrap();
    let calls = calls.load(std::sync::atomic::Ordering::SeqCst);
    assert!(calls > 20, "{calls} calls");
    for call in 0..calls {
        for fault in [
            Fault::Lost,
            Fault::Unreported,
            Fault::Crash { happened: false },
            Fault::Crash { happened: true },
            Fault::Late { calls: 3 },
        ] {
            let life = Life { cut: 12, faults: vec![(call, fault)], rival: None };
            survive(Arc::new(InMemory::new()), &[life]);
        }
        let life = Life { cut: 12, faults: Vec::new(), rival: Some((call, 1, Vec::new())) };
        survive(Arc::new(InMemory::new()), &[life]);
    }
}
