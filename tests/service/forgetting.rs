//! `[contents] keep_dead`: what no live image has is forgotten before it outgrows what is live, and
//! nothing that readers are promised changes by it, whenever the service is killed.

use std::{collections::BTreeSet, fs};

use everpair::{
    dataset::{At, Dataset},
    scenes,
};
use schemas::tables::{ContentRow, EmbeddingRow, ImageRow};

use super::{
    kills::same_tables,
    place::{Message, Place, Running, files},
};

const SEED: u64 = 47;
const IMAGES: usize = 12;
const KEEP_DEAD: usize = 16;
/// Epochs of one message each between two looks of upkeep.
const LOOKS_EVERY: usize = 16;

fn config(keep_dead: usize) -> String {
    format!(
        "retention = \"0 s\"\n[contents]\nkeep_dead = {keep_dead}\n\
         [epoch]\nrows = 1\nlinger = \"1 ms\"\n\
         [triplets]\nkeep = \"mined\"\n[service]\nepochs_kept = 10\nworkers = 2\n"
    )
}

/// Pictures that were never there, under ids that were.
fn churn(rounds: std::ops::Range<u64>) -> impl Iterator<Item = Message> {
    let round = |round| (0..IMAGES).step_by(3).map(move |n| scenes::replacement(n, round, SEED));
    rounds.flat_map(round).map(Message::from)
}

fn no_picture() -> Message {
    let value = Some(b"no picture".to_vec());
    Message { key: "broken".to_owned(), value, headers: Vec::new() }
}

/// Commits in which a memo has forgotten.
fn forgotten(place: &Place, table: &str) -> usize {
    let commits = files(&place.path("tables").join(table).join("_delta_log"));
    let forgets = |path: &std::path::PathBuf| {
        fs::read_to_string(path).is_ok_and(|text| text.contains("\"forgotten\""))
    };
    commits.iter().filter(|(path, _)| forgets(path)).count()
}

fn catch_up(place: &Place, service: &mut Running, messages: i64) {
    service.wait_until("it has caught up", || place.committed("tables") == messages);
}

fn contents(place: &Place, at: &str) -> BTreeSet<String> {
    let Ok(at) = at.parse::<At>();
    let dataset = Dataset::open(&place.store("tables"), &at).expect("it is kept");
    let rows = dataset.rows::<ContentRow>().expect("contents").into_iter();
    rows.map(|row| row.content_id).collect()
}

fn of_live(place: &Place) -> BTreeSet<String> {
    place.rows::<ImageRow>("tables").into_iter().map(|row| row.content_id).collect()
}

/// No more than is promised: twice what may be dead, and what came since upkeep last looked.
fn bounded(place: &Place) {
    let (live, held) = (of_live(place), contents(place, "latest"));
    assert!(live.is_subset(&held), "a live content is forgotten: {live:?}, {held:?}");
    let most = IMAGES + IMAGES.max(KEEP_DEAD) + LOOKS_EVERY;
    assert!(held.len() <= most, "{} contents are held", held.len());
    let vectors = place.rows::<EmbeddingRow>("tables").len();
    assert!(vectors <= 3 * most, "{vectors} vectors are held");
}

#[test]
fn what_no_live_image_has_is_forgotten_and_nothing_else_changes() {
    println!("seed {SEED}");
    let place = Place::new();
    place.configure("tables", &config(KEEP_DEAD));
    place.configure("whole", &config(1_000_000));
    let mut log = place.log();
    log.send(scenes::scenes(IMAGES, SEED).map(Message::from).chain([no_picture()]));
    place.catch_up("tables");
    place.everpair("tables", &["snapshot", "create", "before"]).ended(0);
    let first = contents(&place, "before");

    let mut service = place.start("tables");
    log.send(churn(1..40));
    catch_up(&place, &mut service, log.count);
    let times = service.said().matches("forgot ").count();
    assert!(times >= 3, "it forgot {times} times:\n{}", service.said());
    bounded(&place);
    assert_eq!(contents(&place, "before"), first, "the snapshot shows what it showed");
    let held = contents(&place, "latest");
    assert!(!first.is_subset(&held), "what a snapshot alone shows is forgotten, too");

    // What was forgotten comes back: it is stored and embedded as if it were new.
    log.send([Message::from(scenes::scene(0, SEED))]);
    catch_up(&place, &mut service, log.count);
    assert!(first.iter().filter(|id| of_live(&place).contains(*id)).count() > 0);
    service.terminate();
    let (code, said) = service.wait();
    assert_eq!(code, Some(0), "{said}");
    place.verify("tables");
    place.catch_up("whole");
    assert!(place.rows::<ContentRow>("whole").len() > 100, "the other one has forgotten nothing");
    same_tables(&place, "tables", "whole", true);

    // What a collection does: nothing that a snapshot needs was lost by forgetting.
    place.everpair("tables", &["gc", "--take-over"]).ended(0);
    assert_eq!(contents(&place, "before"), first);
    place.verify("tables");
}

#[test]
fn killed_while_it_forgets_the_service_goes_on() {
    println!("seed {SEED}");
    let place = Place::new();
    place.configure("tables", &config(KEEP_DEAD));
    place.configure("whole", &config(1_000_000));
    let mut log = place.log();
    log.send(scenes::scenes(IMAGES, SEED).map(Message::from).chain([no_picture()]));
    place.catch_up("tables");
    let mut torn = 0;
    for (life, table) in ["annotations", "embeddings", "contents"].into_iter().cycle().enumerate() {
        let life = life as u64;
        if life == 6 {
            break;
        }
        let before = forgotten(&place, table);
        log.send(churn(100 * life + 1..100 * life + 14));
        let mut service = place.start("tables");
        service.wait_until("it forgets", || forgotten(&place, table) > before);
        service.kill();
        let memos = ["annotations", "embeddings", "contents"].map(|memo| forgotten(&place, memo));
        torn += usize::from(memos.iter().any(|count| *count != memos[0]));
        assert!(of_live(&place).is_subset(&contents(&place, "latest")), "{memos:?}");
    }
    println!("{torn} of 6 kills left memos that had forgotten beside some that had not");
    assert!(torn > 0, "the kills came too late to mean anything");
    place.catch_up("tables");
    assert_eq!(place.committed("tables"), log.count);
    place.verify("tables");
    bounded(&place);
    place.catch_up("whole");
    same_tables(&place, "tables", "whole", true);
}
