//! After a collection the programs that others read the tables with see what Everpair sees: the
//! newest epoch, and a snapshot of which images were taken down, through a log that was cut.

use std::{fs, path::Path};

use everpair::{
    dataset::{At, Dataset},
    delta::Store,
    scenes, snapshot,
};
use schemas::tables::{ImageRow, PairRow, Row, TripletRow};
use serde_json::Value;

use crate::{
    peers::{
        readers::{self, Ask, PYTHON_READERS},
        s3::{S3, settings, sign},
    },
    place::{Message, Place},
};

const SEED: u64 = 91;
const COLUMNS: [(&str, &[&str]); 3] = [
    ("images", &["image_id", "content_id", "caption", "offset"]),
    ("pairs", &["query_id", "target_id", "channels", "hard_negatives"]),
    ("triplets", &["triplet_id", "query_id", "instructions", "hard_negatives"]),
];

/// Images, a snapshot, replaced and taken down images, in many epochs; then a collection.
fn collected(root: Option<&S3>) -> Place {
    let place = Place::new();
    let rest = "[triplets]\nkeep = \"mined\"\n[epoch]\nrows = 10\nlinger = \"50 ms\"\n";
    match root {
        None => place.configure("tables", rest),
        Some(s3) => {
            let text = format!(
                "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = {:?}\n{}{rest}",
                s3.root("tables"),
                settings(s3.address())
            );
            fs::write(place.path("tables.toml"), text).expect("a config");
        }
    }
    let run = |arguments: &[&str]| {
        let output = sign(&mut place.command("tables", arguments)).output().expect("it starts");
        let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {err}");
        out
    };
    place.log().send(scenes::scenes(60, SEED).map(Message::from));
    run(&["run", "--until-caught-up"]);
    run(&["snapshot", "create", "pin"]);
    let replaced = (0..8).map(|index| Message::from(scenes::replacement(index, 1, SEED)));
    place.log().send(replaced);
    let gone = (8..24).map(|index| Message::tombstone(&scenes::scene(index, SEED).id));
    place.log().send(gone);
    run(&["run", "--until-caught-up"]);
    let report: Value =
        serde_json::from_slice(&run(&["gc", "--take-over", "--json"])).expect("a report");
    assert_eq!(report["proof"]["findings_count"], 0, "{report:#}");
    assert!(report["snapshots"]["pin"].as_u64() >= Some(16), "{report:#}");
    assert!(report["tables"]["pairs"]["rows"].as_u64() > Some(20), "{report:#}");
    place
}

/// Rows as the readers print them.
fn cells<R: Row>(dataset: &Dataset, columns: &[&str]) -> Vec<Value> {
    let rows = dataset.rows::<R>().expect("rows that can be read").into_iter();
    let row = |row: R| {
        let object = serde_json::to_value(row).expect("rows are JSON");
        Value::Array(columns.iter().map(|name| object[*name].clone()).collect())
    };
    readers::sorted(rows.map(row).collect())
}

/// What Everpair itself reads at the newest epoch and in the snapshot.
fn expected(store: &Store) -> Vec<(&'static str, Option<u64>, Vec<Value>)> {
    let pin = At::Snapshot("pin".to_owned());
    assert_eq!(
        snapshot::losses(&Dataset::open(store, &pin).expect("a page")).expect("read").ids().count(),
        0
    );
    let mut all = Vec::new();
    for at in [&At::Latest, &pin] {
        let dataset = Dataset::open(store, at).expect("a page");
        for (table, columns) in COLUMNS {
            let rows = match table {
                "images" => cells::<ImageRow>(&dataset, columns),
                "pairs" => cells::<PairRow>(&dataset, columns),
                _ => cells::<TripletRow>(&dataset, columns),
            };
            assert!(rows.len() > 20, "{table}: {}", rows.len());
            let version = (*at != At::Latest).then(|| dataset.page().tables[table]);
            all.push((table, version, rows));
        }
    }
    all
}

fn columns_of(table: &str) -> &'static [&'static str] {
    COLUMNS.iter().find(|(name, _)| *name == table).expect("it is one of them").1
}

#[test]
fn after_a_collection_every_reader_sees_the_newest_epoch_and_the_snapshot() {
    let place = collected(None);
    let root = place.path("tables");
    let expected = expected(&place.store("tables"));
    let paths: Vec<_> = expected.iter().map(|(table, ..)| root.join(table)).collect();
    let asks: Vec<Ask> = expected
        .iter()
        .zip(&paths)
        .map(|((table, version, _), path)| Ask {
            table: path,
            version: *version,
            columns: columns_of(table),
        })
        .collect();
    for reader in PYTHON_READERS {
        for (ask, (_, _, rows)) in asks.iter().zip(&expected) {
            assert_eq!(&readers::rows(reader, ask), rows, "{reader}: {:?}", ask.table);
        }
    }
    for ((ask, (_, _, rows)), seen) in asks.iter().zip(&expected).zip(readers::spark_rows(&asks)) {
        assert_eq!(&seen, rows, "spark: {:?} at {:?}", ask.table, ask.version);
    }
}

#[test]
fn after_a_collection_in_s3_a_reader_sees_the_newest_epoch_and_the_snapshot() {
    let s3 = S3::start();
    let (_place, twin) = (collected(Some(&s3)), collected(None));
    let page = s3.request("GET", "/everpair/tables/_everpair/snapshots/pin.json");
    let (_, page) = page.split_once("\r\n\r\n").expect("a body");
    let page: Value = serde_json::from_str(page).expect("a snapshot's page");
    for (table, version, rows) in expected(&twin.store("tables")) {
        let path = format!("{}/{table}", s3.root("tables"));
        let version = version.and_then(|_| page["tables"][table].as_u64());
        let ask = Ask { table: Path::new(&path), version, columns: columns_of(table) };
        assert_eq!(readers::rows_at(Some(s3.address()), "duckdb", &ask), rows, "{path}");
    }
}
