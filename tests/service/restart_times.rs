//! How long a start takes, by the number of live images: three channels of 768 components, as CLIP
//! base, DINOv2 base and a sentence encoder have.

use std::{
    fs,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use everpair::scenes;

use super::{
    increments::number,
    place::{DEADLINE, Dice, Log, Message, Place, Running, files},
};

const SEED: u64 = 20_261_122;
const LOOK: Duration = Duration::from_millis(20);
const DIM: usize = 768;
/// Images that are about equally close to each other: enough to fill every list.
const GROUP: usize = 40;
const CONFIG: &str = "[channels.semantic]\nencoder = \"given\"\ndim = 768\nband = [0.6, 0.9]\n\
    [channels.pattern]\nencoder = \"given\"\ndim = 768\nband = [0.6, 0.9]\n\
    [channels.caption]\nencoder = \"given\"\ndim = 768\nband = [0.6, 0.9]\n\
    [contents]\nstore = \"original\"\n[epoch]\nrows = 2000\nlinger = \"200 ms\"\n";

/// One component of the vectors of a group: plus or minus 2.
fn centre(group: usize, at: usize) -> i32 {
    let mut dice = Dice((group * 3 * DIM + at) as u64 ^ SEED);
    dice.below(2);
    if dice.below(2) == 0 { 2 } else { -2 }
}

/// An image with vectors of small whole numbers: two of a group have a cosine of about 4 / (4 + 2),
/// others of about 0.
fn message(index: usize, groups: usize, picture: &[u8]) -> Message {
    let mut dice = Dice(index as u64 ^ SEED);
    let mut vectors = [const { String::new() }; 3];
    for (channel, text) in vectors.iter_mut().enumerate() {
        for at in 0..DIM {
            let noise = dice.below(5) as i32 - 2;
            let value = centre(index % groups, channel * DIM + at) + noise;
            text.push_str(if at == 0 { "" } else { "," });
            text.push_str(&value.to_string());
        }
    }
    let [semantic, pattern, words] = vectors;
    // What follows the end of a picture makes another content of it, and no other picture.
    let bytes = [picture, &index.to_le_bytes()].concat();
    let image = STANDARD.encode(bytes);
    let value = format!(
        "{{\"image\":\"{image}\",\"caption\":\"image {index}\",\"vectors\":{{\"semantic\":[{semantic}],\
         \"pattern\":[{pattern}],\"caption\":[{words}]}}}}"
    );
    Message { key: format!("{index:07}"), value: Some(value.into_bytes()), headers: Vec::new() }
}

/// A service, and how long it took to say that it is restored.
fn restored(place: &Place) -> (Running, f64) {
    let began = Instant::now();
    let mut service = place.start("tables");
    wait_long(&mut service, "it is restored", |service| service.said().contains("restored: epoch"));
    assert!(service.said().contains(" images read, "), "it tells how far it is");
    (service, began.elapsed().as_secs_f64())
}

/// Loading takes as long as the size asks for; what makes no progress has failed.
fn wait_long(service: &mut Running, what: &str, mut done: impl FnMut(&Running) -> bool) {
    let (mut said, mut since) = (0, Instant::now());
    while !done(service) {
        assert_eq!(service.ended(), None, "{what}: it ended:\n{}", service.said());
        let now = service.said().len();
        if now != said {
            (said, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < DEADLINE,
            "{what}: no word for {DEADLINE:?}:\n{}",
            service.said()
        );
        std::thread::sleep(LOOK);
    }
}

/// Milliseconds that each epoch's commit took, in order.
fn commits(said: &str) -> Vec<u64> {
    let took = said.lines().filter_map(|line| line.split("committed in ").nth(1));
    took.filter_map(|took| took.split(" ms").next()?.parse().ok()).collect()
}

fn mean(numbers: &[u64]) -> u64 {
    numbers.iter().sum::<u64>() / numbers.len().max(1) as u64
}

fn resident_mb(service: &Running) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().split(' ').next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) >> 10
}

/// Loads `images`, stops, starts again, is killed, and starts again. Figures on standard output.
pub fn restart_times(images: usize) {
    println!("seed {SEED}, {images} images");
    let place = Place::new();
    place.configure("tables", CONFIG);
    let picture = scenes::scene(0, SEED).jpeg_or_png;
    let groups = (images / GROUP).max(1);
    let mut log = place.log();
    log.send((0..images).map(|index| message(index, groups, &picture)));
    let began = Instant::now();
    let mut service = place.start("tables");
    let at_rest = |place: &Place, log: &Log| {
        let counters = place.counters("tables");
        place.committed("tables") == log.count
            && counters.is_some_and(|c| {
                c["epoch"].as_u64() == Some(place.epoch("tables")) && c["requests_waiting"] == 0
            })
    };
    wait_long(&mut service, "all is committed", |_| at_rest(&place, &log));
    let loaded = began.elapsed().as_secs_f64();
    let latencies = commits(&service.said());
    let (tenth, resident) = (latencies.len() / 10 + 1, resident_mb(&service));
    service.terminate();
    let (code, said) = service.wait();
    assert_eq!(code, Some(0), "{said}");
    let stopped = began.elapsed().as_secs_f64() - loaded;

    let (mut service, after_stop) = restored(&place);
    let resident_again = resident_mb(&service);
    // What a start and ten more images cost: ten vectors a channel against all, nothing else.
    let ten_more = |log: &mut Log, service: &mut Running, new: usize| {
        let (began, count) = (Instant::now(), log.count as usize);
        log.send((count..count + 10).map(|index| message(index, groups, &picture)));
        service.wait_until("ten more are committed", || at_rest(&place, log));
        let counters = place.counters("tables").expect("counters");
        assert_eq!(number(&counters, "remembered_images"), images as u64);
        let products = number(&counters, "dot_products") + number(&counters, "rescan_dot_products");
        let all = 3 * new * log.count as usize;
        assert!(products as usize <= all + all / 10, "{products} dot products of {all}");
        began.elapsed().as_secs_f64()
    };
    let few = ten_more(&mut log, &mut service, 10);
    service.kill();
    let (mut service, after_kill) = restored(&place);
    ten_more(&mut log, &mut service, 20);
    drop(service);

    let state: u64 = files(&place.path("tables/_everpair/state")).iter().map(|(_, b)| b).sum();
    println!(
        "{images} images x 3 x {DIM}: loaded in {loaded:.0} s, {resident} MB; commits {} ms (first \
         tenth) {} ms (last); stop {stopped:.1} s; restored after a stop in {after_stop:.1} s \
         ({resident_again} MB), after a kill in {after_kill:.1} s; ten more {few:.1} s; state \
         {} MB",
        mean(&latencies[..tenth.min(latencies.len())]),
        mean(&latencies[latencies.len().saturating_sub(tenth)..]),
        state >> 20,
    );
}
