//! What ten more images cost a service that runs: not a recompute in disguise, by its counters and
//! by the bytes on the disk.

use std::{collections::BTreeMap, path::PathBuf};

use everpair::scenes;
use serde_json::Value;

use super::place::{Log, Message, Place, Running, files};

const SEED: u64 = 20_260_311;
const NEW: usize = 10;
const WORKERS: u64 = 2;

/// Everything that was sent is committed, and no pair waits for an answer.
fn settle(place: &Place, service: &mut Running, log: &Log) -> Value {
    let mut settled = Value::Null;
    service.wait_until("the service is at rest", || {
        let Some(counters) = place.counters("tables") else { return false };
        let done = place.committed("tables") == log.count
            && counters["epoch"].as_u64() == Some(place.epoch("tables"))
            && counters["records"].as_i64() == Some(log.count)
            && counters["requests_waiting"] == 0;
        settled = counters;
        done
    });
    settled
}

/// Files of the tables, what readers open beside them left out.
fn table_files(place: &Place) -> BTreeMap<PathBuf, u64> {
    let pages = place.path("tables/_everpair");
    files(&place.path("tables")).into_iter().filter(|(path, _)| !path.starts_with(&pages)).collect()
}

pub fn number(counters: &Value, name: &str) -> u64 {
    counters["mining"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {counters:#}"))
}

/// Loads `images`, then ten more into the same run. `share_max` bounds what these write, as a share
/// of the tables' bytes.
pub fn ten_more(images: usize, share_max: f64) {
    println!("seed {SEED}");
    let place = Place::new();
    let rest =
        format!("[epoch]\nrows = 500\nlinger = \"300 ms\"\n[service]\nworkers = {WORKERS}\n");
    place.configure("tables", &rest);
    let mut log = place.log();
    log.send(scenes::scenes(images, SEED).map(Message::from));
    let mut service = place.start("tables");
    let before = settle(&place, &mut service, &log);
    let held = table_files(&place);

    log.send(scenes::late_arrivals(images, NEW, SEED).map(Message::from));
    let after = settle(&place, &mut service, &log);
    let written = table_files(&place).into_iter().filter(|(path, _)| !held.contains_key(path));
    let written: Vec<(PathBuf, u64)> = written.collect();
    let moved = |name: &str| number(&after, name) - number(&before, name);

    // Each new vector meets each live vector of its channel, the other new ones too, once.
    let vectors = (number_of_vectors(&place) * NEW) as f64;
    let products = moved("dot_products") + moved("rescan_dot_products");
    println!("{products} dot products for {NEW} new images, {vectors} would be all");
    assert!(products > 0, "the counters count");
    assert!(products as f64 <= 1.1 * vectors, "{products} dot products, all are {vectors}");

    let all: u64 = held.values().sum();
    let bytes: u64 = written.iter().map(|(_, size)| size).sum();
    let share = bytes as f64 / all as f64;
    println!("{bytes} of {all} bytes written, {:.2} %: {written:?}", 100.0 * share);
    assert!(bytes > 0 && share < share_max, "{bytes} bytes written, {all} were there");

    let rows = after["mining"]["rows_per_worker"].as_array().expect("a list").iter();
    let rows: Vec<u64> = rows.map(|rows| rows.as_u64().expect("a number")).collect();
    let share = rows.iter().sum::<u64>() as f64 / WORKERS as f64;
    println!("rows per worker: {rows:?}");
    assert_eq!(rows.len() as u64, WORKERS);
    let fair = |rows: &u64| (0.5 * share..=2.0 * share).contains(&(*rows as f64));
    assert!(share > 0.0 && rows.iter().all(fair), "{rows:?}, a share is {share}");

    take_one_down(&place, &mut service, &mut log, &after);
    restart(&place, service);
    place.everpair("tables", &["verify", "--sample", "200"]).ended(0);
}

/// Killed, it has the lists of a checkpoint written on the way, and mines what came after that.
fn restart(place: &Place, mut service: Running) {
    let states = place.path("tables/_everpair/state");
    service.wait_until("a state checkpoint is whole", || files(&states).len() as u64 == WORKERS);
    service.kill();
    place.catch_up("tables");
    let after = place.counters("tables").expect("a run leaves its counters");
    let (vectors, remembered) = (number_of_vectors(place), number(&after, "remembered_images"));
    let new = vectors as u64 / 3 - remembered;
    let products = number(&after, "dot_products") + number(&after, "rescan_dot_products");
    println!("restart: {remembered} images known, {new} new, {products} dot products");
    assert!(remembered >= 900, "{remembered} images known");
    assert!(products as f64 <= 1.1 * (new as usize * vectors) as f64, "{products}");
}

/// A delete scans nothing.
fn take_one_down(place: &Place, service: &mut Running, log: &mut Log, before: &Value) {
    log.send([Message::tombstone("late-00003")]);
    let after = settle(place, service, log);
    let moved = |name: &str| number(&after, name) - number(before, name);
    let lists = moved("rescans");
    println!("a delete: {lists} lists gathered again");
    assert_eq!(moved("dot_products"), 0, "a delete brings no vector");
    assert!(moved("rescan_dot_products") == 0 || lists > 0, "only lists that are short are");
}

/// Live vectors of all channels: those that are compared with a new image's.
fn number_of_vectors(place: &Place) -> usize {
    let tables = place.tables("tables");
    let mut contents: Vec<&str> = tables.images.iter().map(|row| row.content_id.as_str()).collect();
    contents.sort_unstable();
    contents.dedup();
    3 * contents.len()
}
