//! A log that was deleted and made anew under the same tables.

use std::{fs, io::Write as _};

use everpair::scenes;

use super::place::{Message, Place};

const LINGER: &str = "[epoch]\nlinger = \"50 ms\"\n";

/// Messages of other images than those of `seed` 3, as many or more.
fn others(count: usize) -> impl Iterator<Item = Message> {
    scenes::scenes(count, 4).map(|scene| {
        let message = Message::from(scene);
        Message { key: message.key.replace("scene-", "other-"), ..message }
    })
}

fn made_anew(place: &Place, messages: impl Iterator<Item = Message>) {
    fs::remove_dir_all(place.path("log")).expect("the log goes");
    place.log().send(messages);
}

/// Refused, and nothing was read.
fn refused(place: &Place, expected: &str, found: &str) {
    let before = place.latest("tables").expect("an epoch");
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(1);
    said.says("files partition ")
        .says(&format!("is {found}"))
        .says(&format!("have read {expected}"))
        .says("[tables] root of its own");
    let after = place.latest("tables").expect("an epoch");
    assert_eq!((&before["epoch"], &before["offsets"]), (&after["epoch"], &after["offsets"]));
}

#[test]
fn a_log_made_anew_is_not_read_from_the_middle() {
    let place = Place::new();
    place.configure("tables", LINGER);
    place.log().send(scenes::scenes(40, 3).map(Message::from));
    place.catch_up("tables");
    place.catch_up("tables");
    // As it was, and longer: that is what a log does. What replaced others is no other log.
    place.log().send(scenes::scenes(40, 3).map(Message::from));
    place.log().send([Message::tombstone("scene-00001")]);
    place.catch_up("tables");
    place.catch_up("tables");

    made_anew(&place, others(120));
    refused(&place, "image \"scene-", "image \"other-");
    let said = place.everpair("tables", &["validate"]).ended(1);
    said.says("is image \"other-").says("have read image \"scene-");
    // What may be passed over is what was deleted unread, and not this.
    let text = fs::read_to_string(place.path("tables.toml")).expect("a config");
    let earliest = text.replace("[source]\n", "[source]\non_offset_gone = \"earliest\"\n");
    fs::write(place.path("tables.toml"), earliest).expect("a config");
    refused(&place, "image \"scene-", "image \"other-");
    // The way that is shown leads on.
    place.configure("anew", LINGER);
    place.catch_up("anew");
    assert_eq!(place.committed("anew"), 120);
}

/// Without a live image, what was turned away tells.
#[test]
fn a_log_of_rejects_made_anew_is_not_read_from_the_middle() {
    let place = Place::new();
    place.configure("tables", LINGER);
    let broken = |n: usize| Message {
        key: format!("broken {n}"),
        value: Some(b"no image".to_vec()),
        headers: Vec::new(),
    };
    place.log().send((0..30).map(broken));
    place.catch_up("tables");
    place.catch_up("tables");
    made_anew(&place, others(60));
    refused(&place, "image \"broken ", "image \"other-");
    place.everpair("tables", &["validate"]).ended(1).says("have read image \"broken ");
}

/// Messages without a key, as a first attempt has them.
#[test]
fn a_log_without_ids_made_anew_is_not_read_from_the_middle() {
    let place = Place::new();
    place.configure("tables", LINGER);
    // Three files.
    place.log();
    for partition in 0..3 {
        let path = place.path(&format!("log/part-{partition:05}.jsonl"));
        let mut file = fs::OpenOptions::new().append(true).open(path).expect("a file of the log");
        for _ in 0..5 {
            writeln!(file, "{{\"key\": null, \"value\": \"eA==\"}}").expect("a line");
        }
    }
    place.catch_up("tables");
    place.catch_up("tables");
    made_anew(&place, others(60));
    refused(&place, "a message without an image id", "image \"other-");
}

/// The config was wrong, and the log is the same.
#[test]
fn another_rule_for_ids_makes_no_other_log() {
    let place = Place::new();
    place.configure("tables", LINGER);
    let right = fs::read_to_string(place.path("tables.toml")).expect("a config");
    let wrong = right.replace("[source]\n", "[source]\nkey = \"header:id\"\n");
    fs::write(place.path("tables.toml"), wrong).expect("a config");
    place.log().send(scenes::scenes(20, 3).map(Message::from));
    place.catch_up("tables");
    place.configure("tables", LINGER);
    place.catch_up("tables");
    place.everpair("tables", &["replay"]).ended(0);
    place.catch_up("tables");
    assert!(place.tables("tables").images.len() > 10, "they are live now");
    let content = right.replace("[source]\n", "[source]\nkey = \"content\"\n");
    fs::write(place.path("tables.toml"), content).expect("a config");
    place.catch_up("tables");
}

/// The end of the log is gone, as after an unclean change of Kafka's leader; then people go on. A
/// take-down has a lower offset then than the image that it names (I4).
#[test]
fn a_log_that_lost_its_end_is_read_again_and_what_is_read_later_wins() {
    let place = Place::new();
    place.configure("tables", "[epoch]\nlinger = \"50 ms\"\nrows = 3\n");
    place.log().send(scenes::scenes(30, 3).map(Message::from));
    place.catch_up("tables");
    let before = place.tables("tables").images;
    let lost: Vec<String> =
        before.iter().filter(|row| row.offset >= 4).map(|row| row.image_id.clone()).collect();
    let (gone, kept) = lost.split_at(lost.len() / 2);
    assert!(gone.len() >= 3 && !kept.is_empty(), "{lost:?}");
    for partition in 0..3 {
        let path = place.path(&format!("log/part-{partition:05}.jsonl"));
        let text = fs::read_to_string(&path).expect("a file of the log");
        let lines: Vec<&str> = text.split_inclusive('\n').take(2).collect();
        fs::write(&path, lines.concat()).expect("a shorter file");
    }
    place.log().send(gone.iter().map(|id| Message::tombstone(id)));

    place.everpair("tables", &["run", "--until-caught-up"]).ended(1).says("on_offset_gone");
    let text = fs::read_to_string(place.path("tables.toml")).expect("a config");
    let earliest = text.replace("[source]\n", "[source]\non_offset_gone = \"earliest\"\n");
    fs::write(place.path("tables.toml"), earliest).expect("a config");
    place.catch_up("tables");
    let after = place.tables("tables").images;
    let live = |id: &String| after.iter().any(|row| row.image_id == *id);
    assert_eq!(gone.iter().filter(|id| live(id)).count(), 0, "taken down at a lower offset");
    assert!(kept.iter().all(live), "what was only lost from the log stays");
    assert_eq!(after.len(), before.len() - gone.len());
    place.everpair("tables", &["verify"]).ended(0);
    // The offsets are those of the log that is there.
    fs::write(place.path("tables.toml"), text).expect("a config");
    place.catch_up("tables");
}
