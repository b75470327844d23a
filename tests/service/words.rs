//! Exit codes, and words that say what to do.

use std::fs;

use everpair::{
    delta::{self, Change, EpochCommit, Key, Publisher},
    scenes,
    service::specs,
};
use schemas::tables::{PairRow, Table, to_batch};

use super::place::{Message, Place};

const LINGER: &str = "[epoch]\nlinger = \"50 ms\"\n";

fn loaded() -> Place {
    let place = Place::new();
    place.configure("tables", LINGER);
    place.log().send(scenes::scenes(80, 76).map(Message::from));
    place.catch_up("tables");
    place.verify("tables");
    place
}

#[test]
fn bad_arguments_and_configs_are_2_and_named() {
    let place = Place::new();
    place.configure("tables", "[pairs]\ntargets_per_qurey = 2\n");
    let commands: [&[&str]; 5] =
        [&["run"], &["verify"], &["status"], &["validate"], &["takedown", "an id"]];
    for command in commands {
        place.everpair("tables", command).ended(2).says("targets_per_qurey");
        place.everpair("absent", command).ended(2).says("absent.toml");
    }
    place.configure("tables", "");
    for level in ["banana", "info,banana", ""] {
        let run = ["run", "--log-level", level];
        place.everpair("tables", &run).ended(2).says("off, error, warn, info, debug or trace");
    }
    let verify = ["verify", "--sample", "0"];
    place.everpair("tables", &verify).ended(2).says("1 or more, or leave it out");
    assert!(!place.path("tables").exists(), "nothing was made");

    place.configure("tables", "[channels.semantic]\nencoder = \"builtin:layuot\"\n");
    place.everpair("tables", &["run"]).ended(2).says("builtin:layuot").says("builtin:layout");
    place.configure("tables", "");
    place.everpair("tables", &["run", "--until-caught-pu"]).ended(2).says("--until-caught-pu");
    std::fs::write(place.path("none.txt"), "\n \n").expect("a file");
    let none = place.path("none.txt").display().to_string();
    for block in [&["takedown", "--from", &none][..], &["takedown", "--block", "--from", &none]] {
        place.everpair("tables", block).ended(2).says("there is no value in it");
    }
    let source = ["takedown", "--kind", "source", "shop"];
    place.everpair("tables", &source).ended(2).says("--block");
    let content = ["takedown", "--block", "--kind", "content", "not a sha256"];
    place.everpair("tables", &content).ended(2).says("not a sha256");
    assert_eq!(place.requests("tables"), 0);
}

#[test]
fn before_the_first_run_there_is_nothing_to_verify() {
    let place = Place::new();
    place.configure("tables", LINGER);
    place.everpair("tables", &["verify"]).ended(1).says("run the service first");
    let missing = "no tables at ";
    for command in [&["status"][..], &["changes", "--since", "0"], &["views", "--duckdb"]] {
        place.everpair("tables", command).ended(1).says(missing).says("no such folder");
    }
    assert!(!place.path("tables").exists(), "who reads makes no folder");
    fs::create_dir(place.path("tables")).expect("a folder");
    place.everpair("tables", &["status"]).ended(0).says("no epoch is committed yet");
    let said = place.everpair("tables", &["verify"]).ended(1).says(missing);
    said.says("nothing was committed there yet");
    fs::remove_dir(place.path("tables")).expect("it is empty");
    place.everpair("tables", &["validate"]).ended(1).says("no partition");
    place.log().send(scenes::scenes(3, 76).map(Message::from));
    let said = place.everpair("tables", &["validate"]).ended(0);
    assert!(said.out.contains("3 partitions") && said.out.contains("add up to 3"), "{}", said.out);
}

/// Only what a person wrote as a pattern is one: not the names of folders around it.
#[test]
fn a_folder_may_have_any_name() {
    let place = Place::new();
    let folder = place.path("a[1]* {b}?");
    let photos = folder.join("photos [x]*");
    std::fs::create_dir_all(&photos).expect("a folder");
    for scene in scenes::scenes(30, 76) {
        let file = photos.join(scene.id.replace('/', "-")).with_extension("jpg");
        std::fs::write(file, scene.jpeg_or_png).expect("a picture");
    }
    let config = folder.join("everpair.toml");
    let text =
        format!("[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"tables\"\n{LINGER}");
    std::fs::write(&config, text).expect("a config");
    let everpair = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_everpair"));
        command.current_dir(place.path(".")).args(words).arg("--config").arg(&config);
        let output = command.output().expect("the program starts");
        let text =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text.concat());
        text.concat()
    };
    assert!(everpair(&["push", "a[1]* {b}?/photos [x]*"]).contains("30 images sent"));
    everpair(&["validate"]);
    assert!(everpair(&["run", "--until-caught-up"]).contains("caught up"));
    assert!(everpair(&["verify"]).contains(" 30 images"));
    everpair(&["export", "--format", "hf", "--to", "a[1]* {b}?/out"]);
    assert!(everpair(&["takedown", "nobody"]).contains("1 tombstone written"));
    assert!(folder.join("out/README.md").is_file() && folder.join("tables/_everpair").is_dir());
}

/// A run says what it turned away and why, each epoch and at its end.
#[test]
fn rejects_are_named_with_their_reasons() {
    let place = Place::new();
    place.configure("tables", LINGER);
    let bad = |key: &str, value: &[u8]| Message {
        value: Some(value.to_vec()),
        ..Message::tombstone(key)
    };
    let mut log = place.log();
    log.send(scenes::scenes(5, 76).map(Message::from));
    log.send([bad("a", b""), bad("b", b""), bad("c", b"{")]);
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(0);
    let said = said.says(
        "rejects: 3 (2 empty_value, 1 bad_envelope); after a fix `everpair replay` has them read again",
    );
    said.says(" 3 rejects (2 empty_value, 1 bad_envelope), ");
    // What an earlier run turned away is not said again.
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(0);
    assert!(!said.err.contains("rejects"), "{}", said.err);
}

#[test]
fn status_counts_what_the_tables_hold() {
    let place = loaded();
    let said = place.everpair("tables", &["status", "--json"]).ended(0);
    let status: serde_json::Value = serde_json::from_str(&said.out).expect("JSON on stdout");
    let tables = place.tables("tables");
    assert_eq!(status["epoch"], tables.epoch);
    assert_eq!(status["tables"]["images"]["rows"], tables.images.len());
    assert_eq!(status["tables"]["pairs"]["rows"], tables.pairs.len());
    assert_eq!(status["tables"]["triplets"]["rows"], tables.triplets.len());
    assert_eq!(status["run"]["records"], 80);
    assert_eq!(status["run"]["requests_waiting"], 0);

    // For people: numbers stand below their headings.
    let said = place.everpair("tables", &["status"]).ended(0).out;
    let lines: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("table")).collect();
    let ends = |line: &str| -> Vec<usize> {
        let spaces = line.char_indices().filter(|(_, c)| *c == ' ');
        let ends = spaces.filter(|(at, _)| *at > 0 && !line[..*at].ends_with(' '));
        ends.map(|(at, _)| at).skip(1).chain([line.len()]).collect()
    };
    assert_eq!(ends(lines[0]).len(), 3, "{said}");
    for line in &lines[1..=Table::ALL.len()] {
        assert_eq!(ends(line), ends(lines[0]), "{said}");
    }
}

/// Another hand on the tables: a commit that is well-formed in all but its rows.
fn forge(place: &Place, table: Table, change: impl FnOnce(&Publisher) -> Change) {
    let store = place.store("tables");
    let mut publisher = delta::start(&store, &specs()).expect("the tables can be taken over");
    let info = delta::read_latest(&store).expect("a page").expect("an epoch").info;
    let epoch = publisher.epoch().expect("an epoch") + 1;
    let changes = [(table.as_str().to_owned(), change(&publisher))].into();
    let commit = EpochCommit { epoch, changes, info, ..EpochCommit::default() };
    publisher.publish(commit).expect("a commit").expect("it changes something");
}

fn differs(place: &Place, words: &[&str]) {
    let said = place.everpair("tables", &["verify"]).ended(1).says("differ from the rules");
    for words in words {
        assert!(said.out.contains(words), "no {words:?} in:\n{}", said.out);
    }
}

#[test]
fn verify_names_rows_that_are_gone_altered_or_made_up() {
    let place = loaded();
    let held = place.tables("tables");
    let pair = held.pairs[held.pairs.len() / 2].clone();
    let key = || Key::of(&[&pair.query_id, &pair.target_id]);
    let name = format!("({:?}, {:?})", pair.query_id, pair.target_id);

    forge(&place, Table::Pairs, |_| Change { delete: vec![key()], ..Change::default() });
    differs(&place, &[&format!("pairs: {name} is missing")]);
    // The next run puts it right.
    place.catch_up("tables");
    place.verify("tables");

    let mut altered = pair.clone();
    altered.hard_negatives.reverse();
    assert_ne!(altered.hard_negatives, pair.hard_negatives, "{pair:?}");
    let batch = to_batch(&[altered]).expect("a row");
    forge(&place, Table::Pairs, |_| Change { delete: vec![key()], insert: vec![batch] });
    let texts = |ids: &[String]| serde_json::to_string(ids).expect("ids are JSON");
    let mut reversed = pair.hard_negatives.clone();
    reversed.reverse();
    let (is, rules) = (texts(&reversed), texts(&pair.hard_negatives));
    let column = format!("    hard_negatives is {is}, the rules say {rules}\n");
    let said = place.everpair("tables", &["verify"]).ended(1).out;
    // Of the columns only the one that differs.
    let first = format!("pairs: {name} differs\n{column}");
    assert!(said.starts_with(&first), "{said}");
    assert_eq!(said.matches("the rules say").count(), 1, "{said}");
    place.catch_up("tables");
    place.verify("tables");

    let made_up = PairRow { target_id: "made up".into(), ..pair.clone() };
    let batch = to_batch(&[made_up]).expect("a row");
    forge(&place, Table::Pairs, |_| Change { insert: vec![batch], ..Change::default() });
    differs(&place, &["\"made up\") should not be there"]);
    place.catch_up("tables");
    place.verify("tables");

    // A triplet that left without a word in the log of changes: both are named.
    let triplet = held.triplets[held.triplets.len() / 2].triplet_id.clone();
    let delete = vec![Key::of(&[&triplet])];
    forge(&place, Table::Triplets, |_| Change { delete, ..Change::default() });
    differs(
        &place,
        &[
            &format!("triplets: {triplet:?} is missing"),
            &format!(
                "changes: triplet {triplet} is not live, and its inserts less its deletes are 1"
            ),
        ],
    );
}

#[test]
fn a_config_change_is_refused_until_it_is_meant() {
    let place = loaded();
    let page = place.latest("tables");
    place.configure("tables", &format!("{LINGER}[pairs]\ntargets_per_query = 2\n"));
    let run = ["run", "--until-caught-up"];
    let said = place.everpair("tables", &run).ended(1).says("--apply");
    said.says("targets_per_query: 3 -> 2");
    assert_eq!(place.latest("tables"), page, "nothing was touched");
    let before = place.tables("tables");
    assert!(!before.changes.iter().any(|row| row.reason == "config"));

    place.everpair("tables", &[&run[..], &["--apply"]].concat()).ended(0);
    place.verify("tables");
    let after = place.tables("tables");
    assert!(after.pairs.len() < before.pairs.len(), "{} pairs", after.pairs.len());
    let why = |row: &&schemas::tables::ChangeRow| row.epoch > before.epoch as i64;
    let reasons: Vec<&str> =
        after.changes.iter().filter(why).map(|row| row.reason.as_str()).collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|why| *why == "config"), "{reasons:?}");

    // From now on that is the config, and the old one is the change.
    place.catch_up("tables");
    assert_eq!(place.tables("tables").changes.len(), after.changes.len());
    place.configure("tables", LINGER);
    place.everpair("tables", &run).ended(1).says("targets_per_query: 2 -> 3");

    // Bands are shown as they were written, not in the units of the tables.
    let two = "[pairs]\ntargets_per_query = 2\n";
    let band = "[channels.caption]\nband = [[0.123, 0.5], [0.5, 0.87]]\n";
    place.configure("tables", &format!("{LINGER}{two}{band}"));
    let said = place.everpair("tables", &run).ended(1);
    let said = said.says("channels.caption.band: [").says(" -> [[0.123, 0.5], [0.5, 0.87]]\n");
    assert!(!said.err.contains(&(1u64 << 29).to_string()), "{}", said.err);
}

/// Of a few images an epoch may change no pair; the demo waited for one in vain.
#[test]
fn a_demo_of_few_images_does_not_wait_for_a_pair_that_never_comes() {
    let place = Place::new();
    let images = place.path("images");
    fs::create_dir(&images).expect("a folder");
    for scene in scenes::scenes(6, 78) {
        fs::write(images.join(format!("{}.png", scene.id)), scene.jpeg_or_png).expect("a file");
    }
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.arg("demo").arg("--images").arg(&images).arg("--out").arg(place.path("demo"));
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let at = |what: &str| -> f64 {
        let line = said.lines().find(|line| line.contains(what));
        let line = line.unwrap_or_else(|| panic!("no {what:?} in:\n{said}"));
        let time = line.trim_start_matches('[').split(" s]").next().expect("a time");
        time.trim().parse().expect("seconds")
    };
    let took = at("Killed: ") - at("to be killed");
    assert!(took < 20.0, "it waited for {took} s:\n{said}");
}
