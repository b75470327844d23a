//! Evaluation sets are kept out: added before the images or after them, over restarts, by bytes,
//! perceptual hashes, vectors of encoders and vectors that come along.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use everpair::{
    benchmark::objects,
    scenes,
    verify::{self, Tables},
};
use kernels::{
    decode::decode,
    resize::{encode_jpeg, resize},
};
use schemas::{
    ContentId, benchmark,
    tables::{BlockedRow, RejectRow},
};
use serde_json::Value;

use super::place::{Message, Place};

const SEED: u64 = 75;
const IMAGES: usize = 120;
/// Exact bytes only: scenes are each other's near-duplicates too often to count them otherwise.
const BYTES_ONLY: [&str; 6] =
    ["--phash-bits", "off", "--threshold", "semantic=off", "--threshold", "pattern=off"];

fn send(place: &Place, indices: impl IntoIterator<Item = usize>) {
    let scenes = indices.into_iter().map(|index| scenes::scene(index, SEED).into());
    place.log().send(scenes.collect::<Vec<Message>>());
}

/// A folder of these files.
fn folder(place: &Place, name: &str, files: &[(String, Vec<u8>)]) -> PathBuf {
    let folder = place.path(name);
    fs::create_dir(&folder).expect("a new folder");
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).expect("a file");
    }
    folder
}

fn bytes_of(index: usize) -> Vec<u8> {
    scenes::scene(index, SEED).jpeg_or_png
}

/// Through three quarters of the size and a coarse JPEG.
fn copy_of(index: usize) -> Vec<u8> {
    let pixels = decode(&bytes_of(index), &Default::default()).expect("a good file").pixels;
    let small = resize(&pixels, pixels.width * 3 / 4, pixels.height * 3 / 4);
    encode_jpeg(&small, 60)
}

fn live(tables: &Tables) -> BTreeSet<String> {
    tables.images.iter().map(|row| row.image_id.clone()).collect()
}

/// Rejects because of benchmarks, by image id.
fn turned_away(place: &Place, config: &str) -> BTreeMap<String, String> {
    let rejects = place.rows::<RejectRow>(config).into_iter();
    let ours = rejects.filter(|row| row.reason == "benchmark");
    let ours = ours.inspect(|row| assert_eq!(row.stage, "register", "{row:?}"));
    ours.map(|row| (row.image_id.expect("of a message"), row.detail)).collect()
}

fn status(place: &Place, config: &str) -> Value {
    let said = place.everpair(config, &["status", "--json"]).ended(0);
    serde_json::from_str(&said.out).expect("JSON")
}

/// The same images and the same set: blocked before them, and after them with a restart between.
#[test]
fn a_set_that_comes_later_leaves_what_one_that_came_first_leaves() {
    let place = Place::new();
    for config in ["before", "after"] {
        place.configure(config, "[epoch]\nrows = 40\nlinger = \"50 ms\"\n");
    }
    let mut files: Vec<(String, Vec<u8>)> =
        (0..4).map(|index| (format!("same-{index}.png"), bytes_of(index))).collect();
    files.extend((20..30).map(|index| (format!("copy-{index}.jpg"), copy_of(index))));
    let folder = folder(&place, "eval", &files);
    let folder = folder.to_str().expect("UTF-8");
    let block = ["block", "--benchmark", "circo-val", "--images", folder, "--reason", "to measure"];

    let said = place.everpair("before", &block).ended(0).says("no committed epoch yet");
    said.says("14 images; a copy has the same bytes, or perceptual hashes within 4 bits");
    send(&place, 0..IMAGES);
    place.catch_up("before");
    place.catch_up("after");
    let all = live(&place.tables("after"));
    place.everpair("after", &["snapshot", "create", "all"]).ended(0);
    let said = place.everpair("after", &[&block[..], &["--dry-run", "--json"]].concat()).ended(0);
    assert_eq!(place.requests("after"), 0, "nothing is asked for");
    let shown: Value = serde_json::from_str(&said.out).expect("JSON");
    let shown = shown["live"].as_array().expect("a list").clone();
    place.everpair("after", &block).ended(0).says("takes effect with the next epoch");
    assert_eq!(place.requests("after"), 1, "it waits for the service");
    place.catch_up("after");
    assert_eq!(place.requests("after"), 0);

    let gone = turned_away(&place, "after");
    assert_eq!(gone, turned_away(&place, "before"), "by the same, in the same words");
    for image in &shown {
        let id = image["image_id"].as_str().expect("an id");
        assert_eq!(gone.get(id).map(String::as_str), image["detail"].as_str(), "as was shown");
    }
    assert_eq!(shown.len(), gone.len());
    for index in (0..4).chain(20..30) {
        let id = scenes::scene(index, SEED).id;
        assert!(gone.contains_key(&id), "{id} is in the set: {gone:#?}");
    }
    let (before, after) = (place.tables("before"), place.tables("after"));
    assert_eq!(live(&after), live(&before));
    assert_eq!(live(&after), all.into_iter().filter(|id| !gone.contains_key(id)).collect());
    let pairs = |tables: &Tables| -> BTreeSet<(String, String)> {
        tables.pairs.iter().map(|row| (row.query_id.clone(), row.target_id.clone())).collect()
    };
    assert_eq!(pairs(&after), pairs(&before));
    assert!(!pairs(&after).is_empty());
    for config in ["before", "after"] {
        place.verify(config);
        let status = status(&place, config);
        let told = &status["benchmarks"]["circo-val"];
        assert_eq!((&told["images"], &told["turned_away"]), (&14.into(), &gone.len().into()));
        assert_eq!(told["by"]["sha256"], 4, "{told}");
        assert_eq!(status["rejects"]["benchmark"], gone.len(), "{status}");
    }
    let said = place.everpair("after", &["status"]).ended(0);
    let line = format!("benchmark circo-val: 14 images, {} messages turned away (", gone.len());
    assert!(said.out.contains(&line), "{}", said.out);

    // Started again, it holds what it held; asked again, nothing is new.
    let again = |id: &str, value| Message { key: id.into(), value: Some(value), headers: vec![] };
    let new = [again("again", bytes_of(2)), again("copied", copy_of(2)), again("new", copy_of(21))];
    place.log().send(new);
    let said = place.everpair("after", &block).ended(0).says("0 live images");
    said.says("circo-val is blocked with these images and rules since epoch");
    assert_eq!(place.requests("after"), 0, "nothing is asked for");
    place.catch_up("after");
    let gone = turned_away(&place, "after");
    for (id, by) in [("again", "sha256"), ("copied", ""), ("new", "sha256")] {
        let detail = gone.get(id).unwrap_or_else(|| panic!("{id} is turned away: {gone:#?}"));
        assert!(detail.starts_with(&format!("benchmark circo-val by {by}")), "{detail}");
    }
    assert_eq!(place.rows::<BlockedRow>("after").len(), 1, "blocked once");
    // A block is a take-down of what the snapshot shows.
    let said = place.everpair("after", &["snapshot", "list", "--json"]).ended(0);
    let snapshot: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(snapshot[0]["turned_away"].as_array().map(Vec::len), Some(0), "{snapshot:#}");
    assert_eq!(snapshot[0]["taken_down"].as_array().map(Vec::len), Some(shown.len()));
    // Read again, it is turned away again, once.
    let count = place.rows::<RejectRow>("after").len();
    place.everpair("after", &["replay", "--reason", "benchmark"]).ended(0);
    place.catch_up("after");
    assert_eq!(turned_away(&place, "after"), gone);
    assert_eq!(place.rows::<RejectRow>("after").len(), count);
    place.verify("after");
}

#[test]
fn a_running_service_is_cleaned_and_verify_finds_what_a_set_would_take() {
    let place = Place::new();
    place.configure("tables", "[epoch]\nrows = 40\nlinger = \"50 ms\"\n");
    send(&place, 0..40);
    let mut service = place.start("tables");
    service.wait_until("the images", || place.committed("tables") == 40);
    let tables = place.tables("tables");
    let files: Vec<(String, Vec<u8>)> =
        (7..10).map(|index| (format!("{index}.png"), bytes_of(index))).collect();
    let images = folder(&place, "eval", &files);
    let images = images.to_str().expect("UTF-8");
    let block = ["block", "--benchmark", "cirr", "--images", images];
    place.everpair("tables", &[&block[..], &BYTES_ONLY].concat()).ended(0);
    // More of the same, while it is at it.
    send(&place, 3..14);
    service.wait_until("the request is done with", || place.requests("tables") == 0);
    service.wait_until("the images", || place.committed("tables") == 51);
    service.terminate();
    assert_eq!(service.wait().0, Some(0));
    let left = place.tables("tables");
    let gone: BTreeSet<String> = live(&tables).difference(&live(&left)).cloned().collect();
    let same: BTreeSet<String> =
        turned_away(&place, "tables").into_keys().filter(|id| live(&tables).contains(id)).collect();
    assert_eq!(gone, same);
    for index in 7..10 {
        assert!(gone.contains(&scenes::scene(index, SEED).id), "{index} of {gone:?}");
    }
    let value = left.blocked[0].value.clone();
    place.verify("tables");

    // The tables as they were before, with the block: every one of those is found.
    let had = Tables { blocked: left.blocked, ..tables };
    let mut report = verify::Report::default();
    let store = place.store("tables");
    verify::benchmarks::check(&store, &had, None, &mut report).expect("it can be checked");
    let contents: BTreeSet<&String> = (had.images.iter())
        .filter(|row| gone.contains(&row.image_id))
        .map(|row| &row.content_id)
        .collect();
    assert_eq!(report.differences_count, contents.len(), "{:?}", report.differences);
    assert!(report.differences[0].contains("benchmark cirr by sha256"), "{:?}", report.differences);

    // What is gone from the store is said, with what brings it back.
    let object = place.path("tables").join(format!("_everpair/benchmarks/{value}.images"));
    fs::remove_file(&object).expect("it is there");
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(1);
    said.says("is not there; everpair block --benchmark cirr --images … writes it again");
    place.everpair("tables", &[&block[..], &BYTES_ONLY].concat()).ended(0);
    assert!(object.exists(), "the same images have the same name");
    place.catch_up("tables");
}

#[test]
fn what_cannot_be_blocked_is_said_and_nothing_is() {
    let place = Place::new();
    place.configure("tables", "");
    let mut files: Vec<(String, Vec<u8>)> =
        (0..3).map(|index| (format!("{index}.png"), bytes_of(index))).collect();
    files.push(("broken.jpg".into(), bytes_of(4)[..100].to_vec()));
    let images = folder(&place, "eval", &files);
    let images = images.to_str().expect("UTF-8");
    let block = |more: &[&str]| {
        let block = ["block", "--benchmark", "b", "--images", images];
        place.everpair("tables", &[&block[..], more].concat())
    };
    block(&["--phash-bits", "17"]).ended(2).says("--phash-bits: 0 to 16, or off");
    block(&["--threshold", "caption=0.9"]).ended(2).says("semantic=0.97");
    let said = block(&["--threshold", "pattern=1.5"]).ended(2).says("--threshold pattern=1.5");
    said.says("the cosine above 0 and at most 1, or off");
    let named = ["block", "--images", images, "--benchmark", "a/b"];
    place.everpair("tables", &named).ended(2).says("letters, digits, dots");
    let said = block(&[]).ended(1).says("broken.jpg: ").says("nothing was blocked");
    said.says("with --skip-unreadable the other 3 are");
    assert_eq!(place.requests("tables"), 0);
    assert!(!place.path("tables").join("_everpair/benchmarks").exists());
    let nothing = folder(&place, "empty", &[]);
    let nothing = nothing.to_str().expect("UTF-8");
    let named = ["block", "--benchmark", "b", "--images", nothing];
    let said = place.everpair("tables", &named).ended(2).says("there are no images in it");
    said.says("files of jpg, jpeg, png, webp, gif").says("nothing to block");

    // Blocked with other encoders than the service has, before there is a table to tell.
    place.configure("other", "[channels.semantic]\nencoder = \"builtin:edges\"\n");
    let text = fs::read_to_string(place.path("other.toml")).expect("a config");
    fs::write(place.path("other.toml"), text.replace("\"other\"", "\"tables\"")).expect("a file");
    let block = ["block", "--benchmark", "b", "--skip-unreadable", "--images", images];
    place.everpair("other", &block).ended(0).says("3 images");
    send(&place, 0..5);
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(0);
    said.says("benchmark b has semantic vectors of builtin:edges@")
        .says("have them computed anew with everpair block --benchmark b --images");
    assert!(place.rows::<BlockedRow>("tables").is_empty());
    // Now the tables tell.
    place.everpair("other", &block).ended(1).says("nothing was blocked");
    place.everpair("tables", &block).ended(0).says("of epoch");
    place.catch_up("tables");
    assert_eq!(place.rows::<BlockedRow>("tables").len(), 1);
    // The same images under another rule are no more images.
    let looser = [&block[..], &["--threshold", "semantic=off"]].concat();
    let said = place.everpair("tables", &looser).ended(0).says("asked to block b");
    said.says("earlier version stay");
    place.catch_up("tables");
    let told = status(&place, "tables")["benchmarks"]["b"].clone();
    assert_eq!((&told["images"], told["versions"].as_array().map(Vec::len)), (&3.into(), Some(2)));
    // Nor are those that another version of it has too: of these three one is new. What a version
    // has twice counts twice.
    let name = |index: usize| format!("again-{index}.jpg");
    let files = [(name(0), bytes_of(0)), (name(1), bytes_of(1)), (name(2), bytes_of(90))];
    let twice = [files.to_vec(), vec![(name(3), bytes_of(90))]].concat();
    let overlaps = folder(&place, "overlaps", &twice);
    let overlaps = overlaps.to_str().expect("UTF-8");
    let named = ["block", "--benchmark", "b", "--images", overlaps];
    place.everpair("tables", &named).ended(0).says("its 2 earlier versions stay");
    place.catch_up("tables");
    let told = status(&place, "tables")["benchmarks"]["b"].clone();
    assert_eq!((&told["images"], told["versions"].as_array().map(Vec::len)), (&5.into(), Some(3)));
    let ids: BTreeSet<String> = (0..3).map(|index| scenes::scene(index, SEED).id).collect();
    assert!(live(&place.tables("tables")).is_disjoint(&ids));
    place.verify("tables");
}

/// Where vectors come along, those of the list are compared with those of the messages, and a content
/// that was found stays out with whatever vectors it comes.
#[test]
fn vectors_that_come_along_are_compared() {
    let place = Place::new();
    let channels = "[channels.semantic]\nencoder = \"given\"\ndim = 2\nband = [0.2, 0.95]\n";
    place.configure("tables", &format!("{channels}[epoch]\nlinger = \"50 ms\"\n"));
    let base64 = |index: usize| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes_of(index))
    };
    let message = |id: &str, index: usize, vector: [f64; 2]| {
        let value =
            serde_json::json!({ "image": base64(index), "vectors": { "semantic": vector } });
        Message { key: id.into(), value: Some(value.to_string().into_bytes()), headers: vec![] }
    };
    place.log().send([message("near", 0, [1.0, 0.1]), message("far", 40, [0.0, 1.0])]);
    place.catch_up("tables");
    let line = |index: usize, vectors: Value| {
        serde_json::json!({ "id": format!("e{index}"), "image": base64(index), "vectors": vectors })
            .to_string()
    };
    let lines = [line(80, serde_json::json!({ "semantic": [1, 0] })), line(81, Value::Null)];
    let list = place.path("eval.jsonl");
    fs::write(&list, lines.join("\n")).expect("a file");
    let list = list.to_str().expect("UTF-8");
    let off = ["--phash-bits", "off", "--threshold", "pattern=off"];
    let block = ["block", "--benchmark", "b", "--images", list];
    let said = place.everpair("tables", &[&block[..], &off].concat()).ended(0);
    said.says("semantic scores from 0.95 (1 vectors)").says("1 live image of epoch");
    place.catch_up("tables");
    assert_eq!(live(&place.tables("tables")), ["far".to_owned()].into());
    let detail = &turned_away(&place, "tables")["near"];
    assert_eq!(detail, "benchmark b by semantic: score 0.9950 with its image e80");
    let content = ContentId::of(&bytes_of(0)).hex();
    let held: BTreeSet<(String, String)> =
        place.tables("tables").blocked.into_iter().map(|row| (row.kind, row.value)).collect();
    assert!(held.contains(&("content".into(), content)), "{held:?}");

    let more = [message("near", 0, [0.0, 1.0]), message("like", 41, [0.9, 0.1])];
    place.log().send(more);
    place.catch_up("tables");
    assert_eq!(live(&place.tables("tables")), ["far".to_owned()].into());
    place.verify("tables");

    let wrong = line(80, serde_json::json!({ "semantic": [1, 0, 0] }));
    fs::write(list, wrong).expect("a file");
    let said = place.everpair("tables", &block).ended(1);
    said.says("vectors.semantic: 3 numbers, the channel has 2");
    let value = held.iter().find(|(kind, _)| kind == "benchmark").map(|(_, value)| value.clone());
    let value = value.expect("it is blocked");
    assert_eq!(benchmark::parse_value(&value).map(|(name, _)| name), Some("b"));
    assert_eq!(objects::header(&place.store("tables"), &value).expect("it reads").images, 2);
}
