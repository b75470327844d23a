//! What an image takes in memory, as the system counts it. A process of its own with one test, so
//! that nothing else is counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use kernels::vector::Band;
use operators::{
    flow::{Version, VersionChange},
    neighbors::Mining,
};

#[path = "../examples/mining/corpus.rs"]
#[allow(dead_code)]
mod corpus;
#[path = "../examples/mining/drive.rs"]
#[allow(dead_code)]
mod drive;

const DIM: usize = 768;
/// Images of an epoch, epochs that fill the corpus, and those that turn half of it over.
const STEP: usize = 4_000;
const FILL: u64 = 6;
const CHURN: u64 = 12;

fn version(n: usize) -> VersionChange {
    let rows = STEP * FILL as usize;
    let vectors = [Some(corpus::mixed(false, n, rows, DIM, 0)), None, None];
    VersionChange::Add(Arc::new(Version { image_id: id(n), row: n as u64, vectors }))
}

fn id(n: usize) -> Arc<str> {
    format!("image-{n:09}").into()
}

/// Three bytes for each component: 16 bits once, whoever reads them, and 8 that are searched. And
/// for lists, ids and what finds them a few kilobytes, however long the stream is.
#[test]
fn an_image_takes_three_bytes_for_each_component() {
    if drive::resident() == 0.0 {
        return; // Only Linux says.
    }
    let bands = [vec![Band::new(0.8, 0.96).unwrap()], Vec::new(), Vec::new()];
    let mining = Mining { bands, ..Mining::default() };
    let feed = |epoch: u64| {
        let from = epoch as usize * STEP;
        // Once the corpus is full, as many leave as come: the oldest.
        let full = (STEP as u64 * FILL) as usize;
        let leave = (from..from + STEP).filter(|_| epoch >= FILL).map(|n| n - full);
        let leave = leave.map(|n| VersionChange::Remove(id(n), n as u64));
        leave.chain((from..from + STEP).map(version)).collect()
    };
    let resident: Arc<Vec<AtomicU64>> =
        Arc::new((0..FILL + CHURN).map(|_| AtomicU64::new(0)).collect());
    let told = Arc::clone(&resident);
    let note = move |epoch: u64, took: drive::Took| {
        told[epoch as usize].store(took.resident as u64, Relaxed);
    };
    drive::drive(2, mining, FILL + CHURN, feed, note, |_| false);
    let at = |epoch: u64| resident[epoch as usize].load(Relaxed) as f64;
    let images = (FILL - 2) as f64 * STEP as f64;
    let each = (at(FILL - 1) - at(1)) / images;
    let least = 3.0 * DIM as f64;
    println!("{each:.0} bytes an image, {:.0} beside its vector", each - least);
    assert!(each > 0.9 * least, "{each:.0} bytes cannot be all of it");
    assert!(each < least + 5_500.0, "{each:.0} bytes an image, {least} for its vectors");
    // At one moment a worker may be ahead of the others: what stays is there at every one.
    let last = (FILL + CHURN - 4..FILL + CHURN).map(at).fold(f64::MAX, f64::min);
    let grown = last - at(FILL + 1);
    println!("{:.0} MiB when full, {:.0} more after {CHURN} epochs", at(FILL) / 1e6, grown / 1e6);
    let corpus = each * STEP as f64 * FILL as f64;
    assert!(grown < 0.1 * corpus, "{grown} bytes more for the same number of images");
}
