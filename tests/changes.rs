//! Refresh and pin: a copy of the triplets that is brought up to date by `everpair changes`, and
//! epochs that stay readable because a snapshot holds them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use everpair::{
    changes::Changes,
    dataset::{self, At, Dataset},
    delta::Store,
    scenes, snapshot,
};
use schemas::{
    ContentId,
    tables::{ImageRow, Table, TripletRow},
};
use serde_json::Value;

use crate::service::place::{Message, Place};

const SEED: u64 = 41;
const IMAGES: usize = 90;

fn configure(place: &Place, more: &str) {
    let epoch = "[epoch]\nrows = 30\nlinger = \"50 ms\"\n";
    place.configure("tables", &format!("{epoch}{more}"));
}

/// Images that come, are replaced, get other captions, leave, come back and are no images.
fn history(more: &str) -> Place {
    let place = Place::new();
    configure(&place, more);
    let mut log = place.log();
    log.send(scenes::scenes(IMAGES, SEED).map(Message::from));
    place.catch_up("tables");
    let scene = |index: usize| Message::from(scenes::scene(index, SEED));
    let other = |index| Message::from(scenes::replacement(index, 1, SEED));
    log.send((0..IMAGES).step_by(7).map(other));
    place.catch_up("tables");
    log.send((0..IMAGES).step_by(5).map(|index| Message::tombstone(&scene(index).key)));
    log.send((3..IMAGES).step_by(11).map(|i| scene(i).with("caption", "a boat on a green lake")));
    place.catch_up("tables");
    log.send((0..IMAGES).step_by(10).map(scene));
    log.send(scenes::late_arrivals(IMAGES, 12, SEED).map(Message::from));
    let broken = Message { value: Some(b"no image".to_vec()), ..scene(1) };
    log.send([broken]);
    place.catch_up("tables");
    place.verify("tables");
    place
}

type Copy = BTreeMap<String, TripletRow>;

fn triplets(store: &Store, at: &At) -> Copy {
    let rows = Dataset::open(store, at).and_then(|dataset| dataset.rows::<TripletRow>());
    let rows = rows.expect("an epoch that is kept").into_iter();
    rows.map(|row| (row.triplet_id.clone(), row)).collect()
}

/// A row out of JSON. serde_json reads most numbers one bit off; scores are whole 2^30ths (rule 2).
fn row(value: &Value) -> TripletRow {
    let mut row: TripletRow = serde_json::from_value(value.clone()).expect("a whole row");
    let unit = f64::from(1 << 30);
    let scores = &mut row.scores;
    for score in [&mut scores.semantic, &mut scores.pattern, &mut scores.caption] {
        *score = score.map(|score| (score * unit).round() / unit);
    }
    row
}

/// What a consumer does with lines of `changes --rows`.
fn apply(copy: &mut Copy, lines: &str) {
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        let id = line["triplet_id"].as_str().expect("an id").to_owned();
        if line["op"] == "delete" {
            assert!(line.get("row").is_none(), "{line}");
            assert!(copy.remove(&id).is_some(), "{id} leaves and was not there");
        } else {
            assert!(
                copy.insert(id.clone(), row(&line["row"])).is_none(),
                "{id} comes and was there"
            );
        }
    }
}

#[test]
fn changes_applied_to_one_epoch_give_another_exactly() {
    let place = history("");
    let store = place.store("tables");
    let epochs = dataset::epochs(&store).expect("pages");
    assert!(epochs.len() > 6, "{epochs:?}");
    let states: Vec<Copy> = epochs.iter().map(|e| triplets(&store, &At::Epoch(*e))).collect();
    let (mut replaced, mut left, mut passing) = (0, 0, 0);
    for (from, a) in epochs.iter().enumerate() {
        for (to, b) in epochs.iter().enumerate().skip(from) {
            let (since, until) = (At::Epoch(*a), At::Epoch(*b));
            let net = Changes::read(&store, &since, &until, false, true).expect("changes");
            let mut copy = states[from].clone();
            let mut deleted = BTreeSet::new();
            for entry in &net.entries {
                if entry.op == "delete" {
                    assert!(copy.remove(&entry.triplet_id).is_some(), "{entry:?} from {a} to {b}");
                    deleted.insert(&entry.triplet_id);
                } else {
                    let row = net.row(entry).expect("what is there in the end has its row");
                    let held = copy.insert(entry.triplet_id.clone(), row.clone());
                    assert!(held.is_none(), "{entry:?} from {a} to {b}");
                    replaced += usize::from(deleted.contains(&entry.triplet_id));
                }
            }
            left += deleted.len();
            assert!(copy == states[to], "changes from {a} to {b}");

            // The whole log says the same of the ids, in its order, and more.
            let all = Changes::read(&store, &since, &until, true, true).expect("changes");
            let mut ids: BTreeSet<&String> = states[from].keys().collect();
            for entry in &all.entries {
                let moved = match entry.op.as_str() {
                    "delete" => ids.remove(&entry.triplet_id),
                    _ => ids.insert(&entry.triplet_id),
                };
                assert!(moved, "{entry:?} from {a} to {b}");
            }
            assert!(ids.into_iter().eq(states[to].keys()), "the log from {a} to {b}");
            let count = |changes: &Changes| {
                changes.entries.iter().filter(|entry| changes.row(entry).is_some()).count()
            };
            assert_eq!(count(&all), count(&net));
            passing += all.entries.len() - net.entries.len();
        }
    }
    assert!(replaced > 0 && left > replaced && passing > 0, "{replaced} {left} {passing}");
}

#[test]
fn the_command_refreshes_a_copy() {
    let place = history("");
    let store = place.store("tables");
    let epochs = dataset::epochs(&store).expect("pages");
    let (newest, middle) = (epochs[epochs.len() - 1], epochs[epochs.len() / 2]);

    let mut copy = Copy::new();
    let until = middle.to_string();
    let said = place.everpair("tables", &["changes", "--since", "0", "--until", &until, "--rows"]);
    let said = said.ended(0).says(&format!("next time --since {middle}"));
    apply(&mut copy, &said.out);
    assert!(copy == triplets(&store, &At::Epoch(middle)));
    let said = place.everpair("tables", &["changes", "--since", &until, "--rows"]);
    let lines = said.ended(0).says(&format!("next time --since {newest}")).out;
    apply(&mut copy, &lines);
    assert!(copy == triplets(&store, &At::Latest));

    let json = place.everpair("tables", &["changes", "--since", &until, "--rows", "--json"]);
    let json: Value = serde_json::from_str(&json.ended(0).out).expect("JSON");
    assert_eq!((&json["since"], &json["until"]), (&middle.into(), &newest.into()));
    let lines: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(json["changes"], Value::Array(lines.clone()));

    let csv = ["changes", "--since", &until, "--rows", "--format", "csv"];
    let csv = place.everpair("tables", &csv).ended(0).out;
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let rows: Vec<BTreeMap<String, String>> =
        reader.deserialize().map(|row| row.expect("as many cells as columns")).collect();
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(&lines) {
        assert_eq!(row["triplet_id"], line["triplet_id"]);
        assert_eq!(row["epoch"], line["epoch"].to_string());
        let list: Value = serde_json::from_str(&row["instructions"]).unwrap_or(Value::Null);
        assert_eq!(list, line["row"]["instructions"], "{line}");
    }

    // Of what is gone again the log knows the ids; a row it cannot show is null.
    let all = ["changes", "--since", "0", "--rows", "--all"];
    let all = place.everpair("tables", &all).ended(0).out;
    assert!(all.contains("\"row\":null") && all.contains("\"row\":{"));

    let beyond = (newest + 1).to_string();
    let late = place.everpair("tables", &["changes", "--since", &beyond]).ended(1);
    late.says("not committed yet");
    let changes = ["changes", "--since", "nobody's"];
    place.everpair("tables", &changes).ended(1).says("no snapshot");
    let backwards = ["changes", "--since", &newest.to_string(), "--until", &until];
    place.everpair("tables", &backwards).ended(2).says("is before --since");
}

#[test]
fn a_snapshot_holds_its_epoch_and_tells_what_was_taken_down() {
    let place = history("[service]\nepochs_kept = 2\n");
    let store = place.store("tables");
    let create = ["snapshot", "create", "run-1", "--note", "for 'the' first \"run\""];
    let pinned = place.epoch("tables");
    place.everpair("tables", &create).ended(0).says(&format!("pins epoch {pinned}"));
    place.everpair("tables", &create).ended(1).says("already");
    for name in ["17", "latest", "", "../latest", "a b", &"x".repeat(65)] {
        place.everpair("tables", &["snapshot", "create", name]).ended(2);
    }
    let at = At::Snapshot("run-1".into());
    let held = triplets(&store, &at);
    let images = Dataset::open(&store, &at).and_then(|d| d.rows::<ImageRow>()).expect("images");

    // Its page holds what the epoch's page does.
    let page = |path: &str| -> Value {
        let text = fs::read(place.path("tables").join("_everpair").join(path)).expect("a page");
        serde_json::from_slice(&text).expect("JSON")
    };
    let mut written = page("snapshots/run-1.json");
    let words = written.as_object_mut().expect("a page");
    assert!(words.remove("created_at").is_some());
    assert_eq!(words.remove("note"), Some("for 'the' first \"run\"".into()));
    assert_eq!(words.remove("images_pinned"), Some(images.len().into()));
    assert_eq!(written, page(&format!("epochs/{pinned}.json")));
    let versions = snapshot::pinned(&store).expect("pins");
    assert_eq!(versions.len(), Table::ALL.len());
    for (table, versions) in &versions {
        assert_eq!(written["tables"][table], *versions.first().expect("one"), "{table}");
    }

    // One by tombstone, some by their source, one by its content under a new picture, and one whose
    // next message is no image.
    let mut log = place.log();
    let id = |at: usize| images[at].image_id.clone();
    let picture = |index| Message::from(scenes::replacement(index, 5, SEED)).value;
    let with = |id: String, value| Message { key: id, value, headers: Vec::new() };
    log.send([with(id(0), None), with(id(1), picture(1)), with(id(2), Some(b"none".to_vec()))]);
    log.send([with(id(3), picture(3))]);
    // Two more are taken down, and others come under their ids: at once, and in a later epoch.
    log.send([with(id(4), None), with(id(4), picture(4)), with(id(5), None)]);
    let content = images[1].content_id.clone();
    assert!(ContentId::parse(&content).is_some());
    let block = ["takedown", "--block", "--kind", "content", &content];
    place.everpair("tables", &block).ended(0);
    for _ in 0..3 {
        place.catch_up("tables");
        log.send([with("another".into(), picture(7)), with(id(5), picture(5))]);
    }
    place.catch_up("tables");
    assert!(place.epoch("tables") > pinned + 2);
    assert!(!dataset::epochs(&store).expect("pages").contains(&pinned), "retention moved on");
    place
        .everpair("tables", &["changes", "--since", "1", "--until", &pinned.to_string()])
        .ended(1)
        .says("no longer kept");

    assert!(triplets(&store, &at) == held, "the snapshot reads as it did");
    let since = ["changes", "--since", "run-1", "--rows"];
    let mut copy = held;
    apply(&mut copy, &place.everpair("tables", &since).ended(0).out);
    assert!(copy == triplets(&store, &At::Latest));

    let said = place.everpair("tables", &["snapshot", "list"]).ended(0);
    assert!(said.out.contains("4 of its images have been taken down since"), "{}", said.out);
    let json = place.everpair("tables", &["snapshot", "list", "--json"]).ended(0).out;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["epoch"], pinned);
    assert_eq!(json[0]["images"], images.len());
    let mut down = [id(0), id(1), id(4), id(5)];
    down.sort();
    assert_eq!(json[0]["taken_down"], serde_json::json!(down));
    assert_eq!(json[0]["turned_away"], serde_json::json!([id(2)]));

    let again = ["snapshot", "create", "run-2", "--at", "run-1"];
    place.everpair("tables", &again).ended(0);
    assert_eq!(page("snapshots/run-2.json")["note"], Value::Null);
    place.everpair("tables", &["snapshot", "drop", "run-1"]).ended(0);
    place.everpair("tables", &["snapshot", "drop", "run-1"]).ended(1).says("run-2");
    place.everpair("tables", &["snapshot", "drop", "run-2"]).ended(0);
    assert!(snapshot::pinned(&store).expect("pins").is_empty());
    place.everpair("tables", &["snapshot", "list"]).ended(0).says("no snapshot");
}
