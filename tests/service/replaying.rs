//! What was turned away is read again after a fix, and the tables end as if the fix had always been
//! there: for a service that runs, one that does not, and one that is killed meanwhile.

use std::sync::{Arc, atomic::AtomicUsize};

use everpair::scenes;
use schemas::tables::RejectRow;

use super::{
    fetching::{ALLOWED, message, pictures},
    kills::{history, same_tables_but},
    place::{Message, Place},
};

const SEED: u64 = 47;
const RULES: &str = "[triplets]\nkeep = \"mined\"\n[epoch]\nrows = 8\nlinger = \"50 ms\"\n\
    [service]\nworkers = 2\n";
/// Turns away most of what the default lets through.
const STRICT: &str = "[screen]\nblur_min = 400.0\nencoded_bytes_max = 9000\n";

/// Tables made under rules that were too strict, and others made without them.
fn too_strict() -> Place {
    println!("seed {SEED}");
    let place = Place::new();
    place.configure("tables", &format!("{RULES}{STRICT}"));
    place.configure("always", RULES);
    place.log().send(history(70, SEED));
    place.catch_up("tables");
    place.catch_up("always");
    let [live, all] = ["tables", "always"].map(|name| place.tables(name).images.len());
    println!("{live} of {all} images are live");
    assert!(live > 5 && live + 20 < all, "{live} of {all} images are live");
    place.configure("tables", RULES);
    place
}

/// But for `since`, which tells what this service saw: a message that it turned away ended an image's
/// life, though it was let in later.
fn same_as_always(place: &Place, triplets: bool) {
    same_tables_but(place, ("tables", "always"), triplets, |row| row.since = None);
}

fn rejected(place: &Place, reason: &str) -> usize {
    let rows = place.rows::<RejectRow>("tables");
    rows.iter().filter(|row| row.reason == reason).count()
}

#[test]
fn a_replay_ends_with_the_tables_of_a_config_that_was_always_so() {
    let place = too_strict();
    let before = (place.rows::<RejectRow>("tables"), place.epoch("tables"));
    let blurry = rejected(&place, "blurry");
    assert!(blurry > 5, "{blurry}");
    let dry = place.everpair("tables", &["replay", "--reason", "blurry", "--dry-run"]).ended(0);
    assert_eq!(dry.out.lines().count(), blurry);
    assert_eq!(place.requests("tables"), 0);
    place.everpair("tables", &["replay", "--reason", "foggy"]).ended(2).says("blurry");
    place.everpair("tables", &["replay", "--stage", "embed"]).ended(2).says("screen");
    let late = (before.1 + 1).to_string();
    place.everpair("tables", &["replay", "--since", &late]).ended(0).says("nothing to read again");
    assert_eq!(place.requests("tables"), 0);

    // Reason by reason: in between the tables are those of neither config, and verify holds.
    place.everpair("tables", &["replay", "--reason", "blurry"]).ended(0).says("asked to read");
    assert_eq!(place.requests("tables"), 1, "it waits for the service");
    place.catch_up("tables");
    assert_eq!(place.requests("tables"), 0, "it is part of an epoch");
    place.verify("tables");
    assert!(rejected(&place, "blurry") < blurry && rejected(&place, "too_many_bytes") > 0);
    place.everpair("tables", &["replay", "--stage", "decode"]).ended(0);
    place.catch_up("tables");
    same_as_always(&place, true);
    place.verify("tables");

    // Once more changes nothing.
    let rejects = place.rows::<RejectRow>("tables").len();
    place.everpair("tables", &["replay"]).ended(0);
    place.catch_up("tables");
    assert_eq!(place.rows::<RejectRow>("tables").len(), rejects);
    same_as_always(&place, true);
}

#[test]
fn a_running_service_replays_and_a_killed_one_goes_on() {
    let place = too_strict();
    let mut service = place.start("tables");
    service.wait_until("it took over", || place.counters("tables").is_some());
    place.everpair("tables", &["replay", "--stage", "screen"]).ended(0);
    service.wait_until("the request is done with", || place.requests("tables") == 0);
    service.terminate();
    assert_eq!(service.wait().0, Some(0));

    place.everpair("tables", &["replay", "--stage", "decode"]).ended(0);
    let epoch = place.epoch("tables");
    let mut service = place.start("tables");
    service.wait_until("a part of it", || place.epoch("tables") > epoch);
    service.kill();
    place.catch_up("tables");
    assert_eq!(place.requests("tables"), 0);
    same_as_always(&place, true);
    place.verify("tables");
}

/// `large` is turned away for its size; `small` never is.
#[test]
fn a_later_message_of_the_id_wins_in_whatever_state() {
    let [large, small] = ["large", "small"].map(|name| {
        move |key: &str| {
            let scene = (0..)
                .map(|index| scenes::scene(index, SEED))
                .find(|scene| (name == "large") == (scene.jpeg_or_png.len() > 9000));
            let scene = Message::from(scene.expect("there is one of each"));
            Message { key: key.to_owned(), ..scene }.with("source", name)
        }
    });
    let bad = |key: &str| Message { value: Some(b"words".to_vec()), ..small(key) };
    let place = Place::new();
    place.configure("tables", &format!("{RULES}[screen]\nencoded_bytes_max = 9000\n"));
    place.configure("always", RULES);
    let messages = [
        large("down"),
        large("smaller"),
        small("larger"),
        large("bad"),
        large("twice"),
        large("only"),
        Message::tombstone("down"),
        small("smaller"),
        large("larger"),
        bad("bad"),
        large("twice").with("caption", "the second one"),
    ];
    let mut log = place.log();
    log.send(messages);
    // So that there are pairs.
    let others = scenes::scenes(60, SEED).filter(|scene| scene.jpeg_or_png.len() <= 9000);
    log.send(others.map(Message::from));
    place.catch_up("tables");
    place.catch_up("always");
    assert_eq!(rejected(&place, "too_many_bytes"), 7);
    place.configure("tables", RULES);
    place.everpair("tables", &["replay", "--reason", "too_many_bytes"]).ended(0);
    place.catch_up("tables");
    let mut found: Vec<(String, String, bool)> = place
        .tables("tables")
        .images
        .into_iter()
        .filter_map(|row| {
            let second = row.caption.as_deref() == Some("the second one");
            Some((row.image_id, row.source?, second))
        })
        .collect();
    found.sort();
    let row = |id: &str, source: &str, second| (id.to_owned(), source.to_owned(), second);
    let want = [
        row("larger", "large", false),
        row("only", "large", false),
        row("smaller", "small", false),
        row("twice", "large", true),
    ];
    assert_eq!(found, want);
    assert_eq!(rejected(&place, "too_many_bytes"), 0, "no longer so");
    assert_eq!(rejected(&place, "unknown_format"), 1);
    same_as_always(&place, false);
}

#[test]
fn what_may_be_fetched_now_is_fetched_now() {
    let server = pictures(Arc::new(AtomicUsize::new(usize::MAX)));
    let place = Place::new();
    place.configure("tables", RULES);
    place.configure("always", &format!("{RULES}{ALLOWED}"));
    let mut log = place.log();
    log.send((0..30).map(|index| message(index, Some(&server))));
    log.send([Message { value: Some(b"words".to_vec()), ..Message::tombstone("words") }]);
    place.catch_up("tables");
    assert_eq!(rejected(&place, "uri_not_allowed"), 30);
    place.catch_up("always");
    place.configure("tables", &format!("{RULES}{ALLOWED}"));
    place.everpair("tables", &["replay", "--reason", "uri_not_allowed"]).ended(0);
    place.catch_up("tables");
    same_as_always(&place, true);
}

#[test]
fn what_is_gone_from_the_source_stays_in_rejects_and_is_counted() {
    let place = Place::new();
    let earliest = "[source]\nfiles = [\"log/*.jsonl\"]\non_offset_gone = \"earliest\"\n";
    place.configure("tables", &format!("{RULES}{STRICT}"));
    place.log().send(history(20, SEED));
    place.catch_up("tables");
    let rejects = place.rows::<RejectRow>("tables");
    let of = |partition| rejects.iter().filter(|row| row.partition == Some(partition)).count();
    let (gone, left) = (of(1), of(0) + of(2));
    assert!(gone > 0 && left > 0, "{gone} {left}");
    std::fs::remove_file(place.path("log/part-00001.jsonl")).expect("a partition");
    let text = format!("{earliest}[tables]\nroot = \"tables\"\n{RULES}");
    std::fs::write(place.path("tables.toml"), text).expect("a config");
    place.everpair("tables", &["replay"]).ended(0);
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(0);
    let words = format!("replay: {left} messages read again");
    said.says(&words).says(&format!("{gone} are gone from the source"));
    let after = place.rows::<RejectRow>("tables");
    let kept = after.iter().filter(|row| row.partition == Some(1)).count();
    assert_eq!(kept, gone);
}
