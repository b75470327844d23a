//! What a disk or a hand has taken from under the service: it is said, with what to do, and nothing is
//! committed on top of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use everpair::scenes;
use schemas::tables::ImageRow;

use super::place::{Message, Place, files};

const SMALL: &str = "[epoch]\nrows = 10\nlinger = \"50 ms\"\n";

fn place() -> Place {
    let place = Place::new();
    place.configure("tables", SMALL);
    place.log().send(scenes::scenes(40, 8).map(Message::from));
    place.catch_up("tables");
    place
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(copied.expect("cp starts").success());
}

/// The commits of a table, the oldest first.
fn commits(tables: &Path, table: &str) -> Vec<PathBuf> {
    let log = files(&tables.join(table).join("_delta_log")).into_iter().map(|(path, _)| path);
    let mut commits: Vec<PathBuf> =
        log.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    commits.sort();
    commits
}

/// Of the tables in a folder, to one of them.
type Damage = fn(&Path, &str);

#[test]
fn commits_that_are_lost_stop_the_service() {
    let place = place();
    let (tables, broken) = (place.path("tables"), place.path("broken"));
    place.configure("broken", SMALL);
    for table in ["images", "contents", "triplets", "rejects", "changes"] {
        let damages: [(&str, Damage); 4] = [
            ("commits have been lost", |tables, table| {
                let last = commits(tables, table).pop().expect("a commit");
                fs::remove_file(last).expect("removed");
            }),
            ("is not there", |tables, table| {
                fs::remove_dir_all(tables.join(table)).expect("removed");
            }),
            ("is empty: a disk has lost", |tables, table| {
                let last = commits(tables, table).pop().expect("a commit");
                fs::write(last, "").expect("written");
            }),
            ("is empty: a disk has lost", |tables, table| {
                let commits = commits(tables, table);
                fs::write(&commits[commits.len() / 2], "").expect("written");
            }),
        ];
        for (words, damage) in damages {
            copy(&tables, &broken);
            damage(&broken, table);
            let before = commits(&broken, table);
            let said = place.everpair("broken", &["run", "--until-caught-up"]).ended(1);
            said.says(words).says("[tables] root back as it was at one time");
            assert_eq!(commits(&broken, table), before, "{table}: {words}");
        }
    }
    // As it was, it goes on.
    place.log().send(scenes::scenes(50, 8).skip(40).map(Message::from));
    place.catch_up("tables");
    place.verify("tables");
}

#[test]
fn a_root_that_goes_away_ends_the_service() {
    let place = place();
    let (tables, away) = (place.path("tables"), place.path("away"));
    // Between an epoch's first commit and its last write any may be the one that fails.
    let moments: [(i64, &dyn Fn() -> i64); 4] = [
        (1, &|| commits(&tables, "images").len() as i64),
        (1, &|| commits(&tables, "changes").len() as i64),
        (5, &|| place.committed("tables")),
        (1, &|| files(&place.path("tables/_everpair/epochs")).len() as i64),
    ];
    let mut sent = 40;
    for (more, count) in moments {
        let mut running = place.start("tables");
        let said = running.errors();
        running.wait_until("the tables taken over", || {
            fs::read_to_string(&said).is_ok_and(|said| said.contains("restoring: "))
        });
        let wanted = count() + more;
        place.log().send(scenes::scenes(sent + 5, 8).skip(sent).map(Message::from));
        running.wait_until("an epoch of its own", || count() >= wanted);
        fs::rename(&tables, &away).expect("renamed");
        place.log().send(scenes::scenes(sent + 10, 8).skip(sent + 5).map(Message::from));
        let (code, said) = running.wait();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("of this service has gone"), "{said}");
        // What it has written meanwhile names nothing, and goes.
        let _ = fs::remove_dir_all(&tables);
        fs::rename(&away, &tables).expect("renamed");
        sent += 10;
    }
    place.catch_up("tables");
    assert_eq!(place.committed("tables"), sent as i64);
    place.verify("tables");
}

#[test]
fn pages_that_are_damaged_can_be_given_up() {
    let place = place();
    place.everpair("tables", &["snapshot", "create", "a"]).ended(0);
    fs::write(place.path("tables/_everpair/snapshots/a.json"), "{").expect("written");
    for command in [&["gc", "--dry-run"][..], &["snapshot", "list"]] {
        place.everpair("tables", command).ended(1).says("`everpair snapshot drop a` gives it up");
    }
    place.everpair("tables", &["snapshot", "drop", "a"]).ended(0);
    place.everpair("tables", &["snapshot", "list"]).ended(0);
    place.everpair("tables", &["snapshot", "drop", "a"]).ended(1);
    fs::write(place.path("tables/_everpair/latest.json"), "{").expect("written");
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(1);
    said.says("Remove it and start the service");
    fs::remove_file(place.path("tables/_everpair/latest.json")).expect("removed");
    place.catch_up("tables");
    place.verify("tables");
}

#[test]
fn no_timestamp_is_beyond_the_years_that_readers_know() {
    let place = Place::new();
    place.configure("tables", SMALL);
    let times = [i64::MAX, i64::MIN, 1_763_900_000_000_000, -1, 0, 1_763_900_000_000];
    let lines: Vec<String> = times
        .iter()
        .zip(scenes::scenes(times.len(), 9))
        .map(|(time, scene)| {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            let value = STANDARD.encode(&scene.jpeg_or_png);
            let line = serde_json::json!({ "key": scene.id, "value": value, "timestamp": time });
            format!("{line}\n")
        })
        .collect();
    fs::create_dir_all(place.path("log")).expect("a folder");
    fs::write(place.path("log/log-00000.jsonl"), lines.concat()).expect("a log");
    place.catch_up("tables");
    let (first, last) = schemas::limits::TIMESTAMPS_US;
    let named = |n: usize| scenes::scene(n, 9).id;
    for row in place.rows::<ImageRow>("tables") {
        let at = times.iter().enumerate().find(|(n, _)| named(*n) == row.image_id).expect("known");
        let wanted = match at.1 {
            &i64::MAX | &1_763_900_000_000_000 => last,
            &i64::MIN => first,
            millis => millis * 1000,
        };
        assert_eq!(row.ingested_at, wanted, "{}", at.1);
    }
    assert!(place.rows::<ImageRow>("tables").len() >= times.len() - 1);
}
