//! What `everpair views` and `everpair explain --sql` print is run by the engines that it is for.

use std::{collections::BTreeMap, fs, process::Command};

use everpair::{
    dataset::{At, Dataset},
    scenes,
};
use schemas::tables::{ImageRow, PairRow, Table, TripletRow};
use serde_json::{Value, json};

use crate::{
    peers::{
        pipeline::finish,
        readers,
        s3::{BUCKET, S3, settings, sign},
    },
    place::{Message, Place},
};

const SEED: u64 = 43;
const IMAGES: usize = 70;
/// A folder whose name SQL has to escape.
const NAME: &str = "it's a \"folder\" of `mine`";

/// Two states, the earlier one pinned as `before`.
fn loaded() -> Place {
    let place = Place::new();
    place.configure(
        NAME,
        "[epoch]\nrows = 30\nlinger = \"50 ms\"\n[filter]\nwords_min = 6\ninstructions_min = 1\nleak_max = 1.0\n",
    );
    let mut log = place.log();
    log.send(
        scenes::scenes(IMAGES, SEED)
            .map(Message::from)
            .map(|message| message.with("source", "a 'museum'").with("licence", "CC0")),
    );
    place.catch_up(NAME);
    place.everpair(NAME, &["snapshot", "create", "before"]).ended(0);
    log.send((0..IMAGES).step_by(6).map(|i| scenes::replacement(i, 1, SEED).into()));
    log.send((1..IMAGES).step_by(9).map(|i| Message::tombstone(&scenes::scene(i, SEED).id)));
    place.catch_up(NAME);
    place.verify(NAME);
    place
}

const ROWS: &str = "SELECT 'image', image_id, content_id, epoch FROM images
    UNION ALL SELECT 'pair', query_id, target_id, epoch FROM pairs
    UNION ALL SELECT 'triplet', triplet_id, request_id, epoch FROM triplets";

fn counts() -> String {
    let each = Table::ALL.map(|t| format!("(SELECT count(*) FROM {})", t.as_str()));
    format!("SELECT {}", each.join(", "))
}

fn expected(dataset: &Dataset) -> (Vec<Value>, Vec<Value>) {
    let images = dataset.rows::<ImageRow>().expect("images").into_iter();
    let pairs = dataset.rows::<PairRow>().expect("pairs").into_iter();
    let triplets = dataset.rows::<TripletRow>().expect("triplets").into_iter();
    let rows = images
        .map(|row| json!(["image", row.image_id, row.content_id, row.epoch]))
        .chain(pairs.map(|row| json!(["pair", row.query_id, row.target_id, row.epoch])))
        .chain(triplets.map(|row| json!(["triplet", row.triplet_id, row.request_id, row.epoch])));
    let counts = Table::ALL.map(|table| {
        let table = dataset.table(table).expect("every table is there");
        table.rows().expect("the log tells how many")
    });
    (readers::sorted(rows.collect()), vec![json!(counts)])
}

#[test]
fn views_open_every_table_at_one_epoch_in_duckdb_and_spark() {
    let place = loaded();
    let store = place.store(NAME);
    let counts = counts();
    let (mut spark, mut wanted) = (Vec::new(), Vec::new());
    for at in ["before", "latest"] {
        let Ok(named) = at.parse::<At>();
        let dataset = Dataset::open(&store, &named).expect("it is there");
        let (rows, numbers) = expected(&dataset);
        let script = |engine: &str| {
            let said = place.everpair(NAME, &["views", engine, "--at", at]).ended(0);
            let path = place.path(&format!("{at}{engine}.sql"));
            fs::write(&path, said.out).expect("a file can be written");
            path
        };
        let duckdb = script("--duckdb");
        assert_eq!(readers::sorted(readers::duckdb_script(&duckdb, ROWS)), rows, "{at}");
        assert_eq!(readers::duckdb_script(&duckdb, &counts), numbers, "{at}");
        let path = script("--spark");
        spark.push((path.clone(), ROWS));
        spark.push((path, counts.as_str()));
        wanted.extend([rows, numbers]);
    }
    assert_ne!(wanted[0], wanted[2], "the two states differ");
    let asks: Vec<_> = spark.iter().map(|(path, query)| (path.as_path(), *query)).collect();
    for (rows, wanted) in readers::spark_scripts(&asks).into_iter().zip(&wanted) {
        assert_eq!(&readers::sorted(rows), wanted);
    }
    place.everpair(NAME, &["views"]).ended(2).says("--duckdb");
}

/// Times of the query are microseconds, those of JSON are texts.
fn same_times(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(same_times),
        Value::Object(fields) => {
            for (name, value) in fields {
                if let ("ingested_at" | "created_at", Some(us)) = (name.as_str(), value.as_i64()) {
                    let time = chrono::DateTime::from_timestamp_micros(us).expect("a time");
                    *value = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true).into();
                }
                same_times(value);
            }
        }
        _ => {}
    }
}

const COLUMNS: [&str; 11] = [
    "triplet_id",
    "epoch",
    "query",
    "target",
    "hard_negatives",
    "pair",
    "answer",
    "instructions",
    "left_out",
    "rejects",
    "changes",
];

#[test]
fn the_lineage_query_says_what_explain_says() {
    let place = loaded();
    let views = place.everpair(NAME, &["views", "--duckdb"]).ended(0).out;
    let path = place.path("views.sql");
    fs::write(&path, views).expect("a file can be written");
    let all = place.everpair(NAME, &["explain", "--sql"]).ended(0).out;
    let rows = readers::duckdb_script(&path, &all);
    let triplets = place.tables(NAME).triplets;
    assert_eq!(rows.len(), triplets.len());
    let rows: BTreeMap<String, Value> = rows
        .into_iter()
        .map(|row| {
            let cells = row.as_array().expect("cells").iter().cloned();
            let fields = COLUMNS.iter().map(|name| name.to_string()).zip(cells).collect();
            (row[0].as_str().expect("an id").to_owned(), Value::Object(fields))
        })
        .collect();
    // Some of every kind: no longer mined, with instructions left out, with a history.
    let some = |what: &dyn Fn(&Value) -> bool| {
        let found = rows.iter().filter(|(_, row)| what(row)).map(|(id, _)| id).take(2);
        found.cloned().collect::<Vec<_>>()
    };
    let kinds = [
        some(&|row| row["pair"].is_null()),
        some(&|row| row["left_out"].as_array().is_some_and(|texts| !texts.is_empty())),
        some(&|row| row["changes"].as_array().is_some_and(|log| log.len() > 2)),
        some(&|row| !row["pair"].is_null()),
    ];
    for ids in &kinds {
        assert_eq!(ids.len(), 2, "{kinds:?}");
    }
    for id in kinds.iter().flatten() {
        let said = place.everpair(NAME, &["explain", id, "--json"]).ended(0).out;
        let mut explained: Value = serde_json::from_str(&said).expect("JSON");
        let left_out = explained["left_out"].as_array().expect("a list").iter();
        assert!(left_out.clone().all(|one| one["reason"] == "too_short"), "{explained:#}");
        explained["left_out"] = left_out.map(|one| one["instruction"].clone()).collect();
        let fields = explained.as_object_mut().expect("an object");
        assert!(fields.remove("in_force").is_some_and(|rules| rules.is_object()));
        assert!(fields.remove("at_epoch").is_some_and(|epoch| epoch == place.epoch(NAME)));
        let mut row = rows[id].clone();
        same_times(&mut row);
        assert_eq!(explained, row, "{id}");
        let one = place.everpair(NAME, &["explain", &id[..12], "--sql"]).ended(0).out;
        assert_eq!(readers::duckdb_script(&path, &one).len(), 1);
    }
}

/// The same commands on tables in S3: what they print opens those, and says the same of them.
#[test]
fn views_lineage_and_exports_of_tables_in_s3_are_those_of_a_folder() {
    let (place, s3) = (Place::new(), S3::start());
    place.log().send(scenes::scenes(IMAGES, SEED).map(Message::from));
    // Rows that do not depend on where epochs end.
    let rest = "[triplets]\nkeep = \"mined\"\n";
    place.configure("folder", rest);
    place.catch_up("folder");
    let text = format!(
        "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"s3://{BUCKET}/it's mine\"\n\
         {}{rest}",
        settings(s3.address())
    );
    fs::write(place.path("s3.toml"), text).expect("a config can be written");
    let everpair = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        sign(&mut command).args(arguments);
        command.arg("--config").arg(place.path(&format!("{name}.toml")));
        let (code, out, err) = finish(&mut command);
        assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
        out
    };
    everpair("s3", &["run", "--until-caught-up"]);
    let rows = "SELECT 'image', image_id, content_id FROM images
        UNION ALL SELECT 'pair', query_id, target_id FROM pairs
        UNION ALL SELECT 'triplet', triplet_id, request_id FROM triplets";
    let (mut scripts, mut shown, mut lineage, mut exported) = (vec![], vec![], vec![], vec![]);
    for name in ["folder", "s3"] {
        let duckdb = place.path(&format!("{name}.duckdb.sql"));
        fs::write(&duckdb, everpair(name, &["views", "--duckdb"])).expect("a file");
        shown.push(readers::sorted(readers::duckdb_script(&duckdb, rows)));
        let query = everpair(name, &["explain", "--sql"]);
        let query = query.trim().trim_end_matches(';');
        let query = format!("SELECT triplet_id, query.image_id, instructions FROM ({query})");
        lineage.push(readers::sorted(readers::duckdb_script(&duckdb, &query)));
        let spark = place.path(&format!("{name}.spark.sql"));
        fs::write(&spark, everpair(name, &["views", "--spark"])).expect("a file");
        scripts.push(spark);
        let export = place.path(&format!("{name}-export"));
        let to = export.display().to_string();
        everpair(name, &["export", "--format", "parquet", "--to", &to]);
        // What is no memo and no log: those tell of times and epochs, which are each run's own.
        for table in ["images", "pairs", "triplets"] {
            let files = format!("read_parquet('{to}/{table}/*.parquet')");
            let query = format!("SELECT * EXCLUDE (epoch) FROM {files} ORDER BY ALL");
            exported.push(readers::duckdb_script(&duckdb, &query));
        }
    }
    assert!(lineage[0].len() > 50, "{} triplets", lineage[0].len());
    assert!(exported.iter().all(|rows| rows.len() > 50));
    let spark = readers::spark_scripts(&[(&scripts[0], rows), (&scripts[1], rows)]);
    shown.extend(spark.into_iter().map(readers::sorted));
    for other in &shown[1..] {
        assert_eq!(&shown[0], other);
    }
    assert_eq!(lineage[0], lineage[1]);
    assert!(exported[..3] == exported[3..], "the exports differ");
}
