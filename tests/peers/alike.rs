//! Images that are all alike: every one is in the band of every other. Memory and the time of one
//! image may grow with how many there are, and no faster.

use std::{
    fs,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::scale::image;
use crate::place::{Dice, Message, Place};

const SEED: u64 = 20_261_124;
const DIM: usize = 64;
/// Of two vectors: all of them lie between 0.84 and 0.96.
const ALIKE: f64 = 0.9;
const RULES: &str = "[channels.semantic]\nencoder = \"given\"\ndim = 64\nband = [0.8, 0.97]\n\
    [triplets]\nkeep = \"mined\"\n[contents]\nstore = \"reference\"\n[epoch]\nlinger = \"200 ms\"\n\
    [service]\nworkers = 2\n";
/// Steps in which they arrive.
const STEPS: usize = 5;

/// What all share, and a little of its own.
fn vector(number: usize) -> Vec<f64> {
    let mut dice = Dice(SEED ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    dice.below(2);
    let own: Vec<f64> = (0..DIM).map(|_| dice.below(2_001) as f64 - 1_000.0).collect();
    let length = own.iter().map(|x| x * x).sum::<f64>().sqrt();
    let shared = 1.0 / (DIM as f64).sqrt();
    own.iter().map(|x| ALIKE.sqrt() * shared + (1.0 - ALIKE).sqrt() * x / length).collect()
}

fn message(number: usize) -> Message {
    let vectors = json!({ "semantic": vector(number) });
    let value = json!({ "image": STANDARD.encode(image(number)), "vectors": vectors });
    let key = format!("alike-{number:07}");
    Message { key, value: Some(value.to_string().into_bytes()), headers: Vec::new() }
}

/// Sends `count` of them in steps, and panics where the last ones cost far more than the first.
pub fn alike(count: usize) {
    println!("seed {SEED}, {count} images");
    let place = Place::new();
    place.configure("tables", RULES);
    let mut log = place.log();
    let mut service = place.start("tables");
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for step in 0..STEPS {
        let (from, to) = (count * step / STEPS, count * (step + 1) / STEPS);
        // Made before the clock runs.
        let messages: Vec<Message> = (from..to).map(message).collect();
        let begun = Instant::now();
        log.send(messages);
        let wanted = log.count;
        service.wait_within(Duration::from_millis(50) * count as u32, "they are committed", || {
            place.committed("tables") == wanted
                && place.counters("tables").is_some_and(|run| run["requests_waiting"] == 0)
        });
        let each = begun.elapsed().as_secs_f64() * 1e3 / (to - from) as f64;
        let status = fs::read_to_string(format!("/proc/{}/status", service.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        let mib = kib.expect("a number") / 1024.0;
        println!("{to}: {mib:.0} MiB, {each:.2} ms for each of the last {}", to - from);
        steps.push((mib, each));
    }
    service.terminate();
    assert_eq!(service.wait().0, Some(0));
    let tables = place.tables("tables");
    let (images, pairs) = (tables.images.len(), tables.pairs.len());
    println!("{images} images, {pairs} pairs");
    assert!(images * 100 > count * 95 && pairs >= 2 * images, "{images} images, {pairs} pairs");
    // Of the second step and the last: what a process costs anyway is in both.
    let grown = |from: usize, to: usize| (steps[to].0 - steps[from].0) / (to - from) as f64;
    let (early, late) = (grown(0, 2), grown(2, STEPS - 1));
    println!("{early:.1} MiB a step at first, {late:.1} later");
    assert!(late <= 1.5 * early.max(0.0) + 12.0, "memory grows faster than the images");
    let (early, late) = (steps[1].1, steps[STEPS - 1].1);
    let bound = early * (STEPS as f64 / 2.0) * 1.5 + 1.0;
    assert!(late <= bound, "{late:.2} ms each at last, above {bound:.2}");
}
