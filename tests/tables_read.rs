//! Readers that share no code with Everpair see the rows that were published, cell by cell: after
//! inserts, replacements and deletes, over checkpoints and restarts, without what a crash left
//! behind, and at the versions of an earlier epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use everpair::delta::{
    self, Change, Commit, EpochCommit, Key, Latest, Publisher, Store, TableSpec,
};
use schemas::tables::{EmbeddingRow, ImageRow, PairRow, Row, Table, to_batch};
use serde_json::{Value, json};

use crate::peers::readers::{self, Ask, PYTHON_READERS};

const EPOCHS: u64 = 60;
/// An epoch at which everything is looked at again once the tables have gone on.
const EARLIER: u64 = 25;
const SEED: u64 = 20_260_101;

const IMAGES: [&str; 7] =
    ["image_id", "caption", "attributes", "partition", "offset", "ingested_at", "epoch"];
const PAIRS: [&str; 7] =
    ["query_id", "target_id", "channels", "scores", "ranks", "hard_negatives", "epoch"];
const EMBEDDINGS: [&str; 5] = ["content_id", "channel", "dim", "vector", "epoch"];

/// What the tables should hold.
#[derive(Clone, Default)]
struct Model {
    images: BTreeMap<String, ImageRow>,
    pairs: BTreeMap<(String, String), PairRow>,
    embeddings: Vec<EmbeddingRow>,
}

struct Dice(u64);

impl Dice {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }
}

fn specs() -> Vec<TableSpec> {
    let spec = |table: Table| TableSpec {
        name: table.as_str().to_owned(),
        schema: table.schema(),
        key: table.key().iter().map(|&column| column.to_owned()).collect(),
        memo: table.is_memo(),
        properties: BTreeMap::new(),
    };
    [Table::Embeddings, Table::Pairs, Table::Images].map(spec).to_vec()
}

fn image(id: &str, epoch: u64, dice: &mut Dice) -> ImageRow {
    let caption = ["a 'quoted' \"caption\"", "eine Prüfung, 测试", " "].get(dice.below(4));
    ImageRow {
        image_id: id.to_owned(),
        content_id: format!("{:064x}", dice.below(1 << 20)),
        source: None,
        uri: None,
        caption: caption.map(|&text| text.to_owned()),
        licence: None,
        attributes: Some(json!({ "n": dice.below(9) }).to_string()),
        topic: "images".to_owned(),
        partition: dice.below(4) as i32,
        offset: epoch as i64 * 100 + dice.below(100) as i64,
        ingested_at: 1_700_000_000_000_000 + dice.below(1 << 30) as i64,
        epoch: epoch as i64,
        since: (dice.below(2) > 0).then(|| format!("images/0/{}", dice.below(1 << 20))),
    }
}

fn pair(query: &str, target: &str, epoch: u64, dice: &mut Dice) -> PairRow {
    // Few digits, which any JSON parser reads exactly.
    let mut score = || (dice.below(3) > 0).then(|| dice.below(1024) as f64 / 1024.0);
    let scores = [score(), score(), score()];
    PairRow {
        query_id: query.to_owned(),
        target_id: target.to_owned(),
        channels: ["semantic", "pattern"][..dice.below(3)].iter().map(|&c| c.to_owned()).collect(),
        scores: scores.into(),
        ranks: scores.map(|s| s.map(|_| 1 + dice.below(10) as i32)).into(),
        hard_negatives: (0..dice.below(6)).map(|n| format!("negative-{n}")).collect(),
        epoch: epoch as i64,
    }
}

fn embedding(epoch: u64, dice: &mut Dice) -> EmbeddingRow {
    let dim = 1 + dice.below(4);
    EmbeddingRow {
        content_id: format!("{:064x}", dice.below(1 << 20)),
        channel: "semantic".to_owned(),
        encoder: "given".to_owned(),
        dim: dim as i32,
        vector: (0..2 * dim).map(|_| dice.below(256) as u8).collect(),
        epoch: epoch as i64,
    }
}

fn change<R: Row>(insert: &[R], delete: Vec<Key>) -> Change {
    Change { insert: vec![to_batch(insert).expect("rows fit their schema")], delete }
}

/// Some of the held images leave, every second of them comes back with other contents in the same
/// commit, and new ones arrive.
fn step_images(model: &mut Model, epoch: u64, dice: &mut Dice) -> (Vec<String>, Change) {
    let held: Vec<String> = model.images.keys().cloned().collect();
    let gone: Vec<String> = held.into_iter().filter(|_| dice.below(12) == 0).collect();
    for id in &gone {
        model.images.remove(id);
    }
    let delete = gone.iter().map(|id| Key::of(&[id])).collect();
    let arrived = (0..15).map(|n| format!("bild-{epoch}/{n} ü"));
    let ids: Vec<String> = gone.iter().step_by(2).cloned().chain(arrived).collect();
    let rows: Vec<ImageRow> = ids.iter().map(|id| image(id, epoch, dice)).collect();
    model.images.extend(rows.iter().map(|row| (row.image_id.clone(), row.clone())));
    (ids, change(&rows, delete))
}

/// Images that came one after the other are pairs; some of the held pairs leave.
fn step_pairs(model: &mut Model, ids: &[String], epoch: u64, dice: &mut Dice) -> Change {
    let mut rows = BTreeMap::new();
    for two in ids.windows(2) {
        rows.insert((two[0].clone(), two[1].clone()), pair(&two[0], &two[1], epoch, dice));
    }
    let held: Vec<(String, String)> = model.pairs.keys().cloned().collect();
    let leaves = |names: &(String, String)| rows.contains_key(names) || dice.below(8) == 0;
    let gone: Vec<(String, String)> = held.into_iter().filter(leaves).collect();
    for names in &gone {
        model.pairs.remove(names);
    }
    let delete = gone.iter().map(|(query, target)| Key::of(&[query, target])).collect();
    model.pairs.extend(rows.clone());
    let rows: Vec<PairRow> = rows.into_values().collect();
    change(&rows, delete)
}

/// One epoch of random changes, to the model and to the tables.
fn step(model: &mut Model, publisher: &mut Publisher, epoch: u64, dice: &mut Dice) -> Latest {
    let (ids, images) = step_images(model, epoch, dice);
    let pairs = step_pairs(model, &ids, epoch, dice);
    let embeddings: Vec<EmbeddingRow> = (0..10).map(|_| embedding(epoch, dice)).collect();
    model.embeddings.extend(embeddings.iter().cloned());
    let changes = [
        (Table::Images, images),
        (Table::Pairs, pairs),
        (Table::Embeddings, change(&embeddings, Vec::new())),
    ];
    let changes = changes.map(|(table, change)| (table.as_str().to_owned(), change)).into();
    let commit = EpochCommit { epoch, changes, ..EpochCommit::default() };
    publisher.publish(commit).expect("the epoch is published").expect("and changed something")
}

/// Columns of rows as the readers print them: bytes in hexadecimal.
fn cells<'a, R: Row>(rows: impl IntoIterator<Item = &'a R>, columns: &[&str]) -> Vec<Value> {
    let row = |row: &R| {
        let object = serde_json::to_value(row).expect("rows are JSON");
        let cell = |name: &&str| match (*name, &object[*name]) {
            ("vector", Value::Array(bytes)) => {
                let hex = |byte: &Value| format!("{:02x}", byte.as_u64().expect("a byte"));
                bytes.iter().map(hex).collect::<String>().into()
            }
            (_, other) => other.clone(),
        };
        Value::Array(columns.iter().map(cell).collect())
    };
    readers::sorted(rows.into_iter().map(row).collect())
}

/// An epoch whose process died before the anchor's commit.
fn leave_half_an_epoch(store: &Store, publisher: &Publisher) {
    let pairs = specs().into_iter().find(|spec| spec.name == "pairs").expect("it is one of them");
    let mut table = delta::Table::claim(store, &pairs, publisher.generation()).expect("claimed");
    table.build_index().expect("the keys are read");
    let epoch = publisher.epoch().expect("there is one") + 1;
    let row = pair("never", "published", epoch, &mut Dice(1));
    let insert = vec![to_batch(&[row]).expect("rows fit their schema")];
    table.commit(Commit { epoch, insert, ..Commit::default() }).expect("committed");
}

fn grow(root: &Path) -> [(Model, Latest); 2] {
    let store = Store::folder(root).expect("a folder");
    let mut dice = Dice(SEED);
    let mut model = Model::default();
    let mut earlier = None;
    let mut latest = None;
    let mut publisher = delta::start(&store, &specs()).expect("a start from nothing");
    for epoch in 1..=EPOCHS {
        if epoch % 20 == 0 {
            leave_half_an_epoch(&store, &publisher);
            publisher = delta::start(&store, &specs()).expect("a start from the tables");
        }
        let published = step(&mut model, &mut publisher, epoch, &mut dice);
        if epoch == EARLIER {
            earlier = Some((model.clone(), published.clone()));
        }
        latest = Some(published);
    }
    leave_half_an_epoch(&store, &publisher);
    delta::start(&store, &specs()).expect("a start takes the half epoch back");
    [earlier.expect("it was passed"), (model, latest.expect("there were epochs"))]
}

#[test]
fn every_reader_sees_the_published_rows() {
    println!("seed {SEED}");
    let folder = tempfile::tempdir().expect("a folder");
    let [earlier, last] = grow(folder.path());
    let paths = ["images", "pairs", "embeddings"].map(|name| folder.path().join(name));
    let mut asks = Vec::new();
    let mut expected = Vec::new();
    for ((model, latest), now) in [(&earlier, false), (&last, true)] {
        let columns: [&[&str]; 3] = [&IMAGES, &PAIRS, &EMBEDDINGS];
        for (table, columns) in paths.iter().zip(columns) {
            let name = table.file_name().expect("it has one").to_str().expect("UTF-8");
            let version = (!now).then(|| latest.tables[name]);
            asks.push(Ask { table, version, columns });
        }
        expected.push(cells(model.images.values(), &IMAGES));
        expected.push(cells(model.pairs.values(), &PAIRS));
        expected.push(cells(&model.embeddings, &EMBEDDINGS));
    }
    assert!(expected.iter().all(|rows| rows.len() > 100), "the history left rows to compare");
    for reader in PYTHON_READERS {
        for (ask, expected) in asks.iter().zip(&expected) {
            same(reader, ask, &readers::rows(reader, ask), expected);
        }
    }
    let answers = readers::spark_rows(&asks);
    for ((ask, expected), rows) in asks.iter().zip(&expected).zip(&answers) {
        same("spark", ask, rows, expected);
    }
    let counts =
        readers::sql(folder.path(), "SELECT count(*), count(DISTINCT image_id) FROM images");
    let live = last.0.images.len();
    assert_eq!(counts, [json!([live, live])]);
}

/// Files are made fewer and what nobody keeps is removed, so that the log has holes before and after
/// the pinned versions: every reader sees these, the kept ones and the newest one.
#[test]
fn every_reader_sees_what_is_kept_and_pinned_across_holes_in_the_log() {
    println!("seed {SEED}");
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::folder(folder.path()).expect("a folder");
    let mut publisher = delta::start(&store, &specs()).expect("a start from nothing");
    let (mut model, mut dice, mut states) = (Model::default(), Dice(SEED), BTreeMap::new());
    let (pins, oldest, newest) = ([21, 77], 170, 184);
    for epoch in 1..=newest {
        let page = step(&mut model, &mut publisher, epoch, &mut dice);
        if pins.contains(&epoch) || epoch == oldest {
            states.insert(epoch, (model.clone(), page));
        }
        if epoch % 60 == 0 {
            publisher = delta::start(&store, &specs()).expect("a start from the tables");
        }
        for table in [Table::Images, Table::Pairs, Table::Embeddings] {
            publisher.compact(table.as_str(), table.order()).expect("files become fewer");
        }
        if epoch % 30 == 0 || epoch == newest {
            let mut pinned: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
            for (_, page) in pins.iter().filter_map(|pin| states.get(pin)) {
                for (table, version) in &page.tables {
                    pinned.entry(table.clone()).or_default().insert(*version);
                }
            }
            let page = states.get(&oldest).map(|(_, page)| page.tables.clone());
            let keep =
                delta::Keep { oldest: page.unwrap_or_default(), pinned, age: Duration::ZERO };
            publisher.retain(&keep, false).expect("what nobody keeps is removed");
        }
    }
    publisher.renew_latest().expect("the newest page names what the tables have become");
    let latest = delta::read_latest(&store).expect("a page").expect("there were epochs");
    states.insert(newest, (model, latest));
    let log = folder.path().join("images/_delta_log");
    let commit = |version: u64| log.join(format!("{version:020}.json")).exists();
    for pin in pins {
        let at = states[&pin].1.tables["images"];
        assert!(commit(at) && !commit(at - 1) && !commit(at + 1), "no hole around {at}");
    }
    let paths = ["images", "pairs"].map(|name| folder.path().join(name));
    let (mut asks, mut expected) = (Vec::new(), Vec::new());
    for (epoch, (model, page)) in &states {
        let version = (*epoch != newest).then(|| page.tables["images"]);
        asks.push(Ask { table: &paths[0], version, columns: &IMAGES });
        expected.push(cells(model.images.values(), &IMAGES));
        if *epoch != oldest {
            let version = (*epoch != newest).then(|| page.tables["pairs"]);
            asks.push(Ask { table: &paths[1], version, columns: &PAIRS });
            expected.push(cells(model.pairs.values(), &PAIRS));
        }
    }
    for reader in PYTHON_READERS {
        for (ask, expected) in asks.iter().zip(&expected) {
            same(reader, ask, &readers::rows(reader, ask), expected);
        }
    }
    let answers = readers::spark_rows(&asks);
    for ((ask, expected), rows) in asks.iter().zip(&expected).zip(&answers) {
        same("spark", ask, rows, expected);
    }
}

fn same(reader: &str, ask: &Ask, rows: &[Value], expected: &[Value]) {
    let differs = rows.iter().zip(expected).find(|(row, expected)| row != expected);
    let (table, version) = (ask.table.display(), ask.version);
    assert!(
        differs.is_none() && rows.len() == expected.len(),
        "{reader} sees {} rows of {table} at {version:?}, not {}; first difference: {differs:#?}",
        rows.len(),
        expected.len(),
    );
}
