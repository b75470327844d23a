//! Runs epochs through `neighbors` and `pairs` and says what each took.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use operators::{
    flow::VersionChange,
    neighbors::{Counters, Mining, VectorBook, neighbors},
    pairs::pairs,
};
use timely::{
    Config,
    dataflow::{
        InputHandleVec, ProbeHandle,
        operators::{Inspect, Probe, vec::Input},
    },
};

/// One epoch, from when its changes are there until its pairs are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    pub seconds: f64,
    /// Lists that left: those of new images, and those that changed.
    pub lists: u64,
    /// Rows of pairs that came and went.
    pub pairs: u64,
    /// Lists that were gathered again from all shards.
    pub rescans: u64,
    /// Of the process, when the epoch was closed.
    pub resident: f64,
}

/// N_c of an image in the first channel, as row numbers.
pub type Found = BTreeMap<u64, Vec<u64>>;

/// Feeds `epochs` epochs and waits for each; `told` hears of each on the way. Gives the last lists
/// of the rows that `sampled` picks.
pub fn drive(
    workers: usize,
    mining: Mining,
    epochs: u64,
    feed: impl Fn(u64) -> Vec<VersionChange> + Send + Sync + 'static,
    told: impl Fn(u64, Took) + Send + Sync + 'static,
    sampled: fn(u64) -> bool,
) -> Found {
    let mining = Arc::new(mining);
    let counters = Arc::new(Counters::new(workers));
    let book = Arc::new(VectorBook::default());
    let seen = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let found = Arc::new(Mutex::new(Found::new()));
    let kept = Arc::clone(&found);
    let guards = timely::execute(Config::process(workers), move |worker| {
        let index = worker.index();
        let mut versions: InputHandleVec<u64, VersionChange> = InputHandleVec::new();
        let probe = ProbeHandle::new();
        let mine = Rc::new(RefCell::new(Found::new()));
        worker.dataflow::<u64, _, _>(|scope| {
            let changes = scope.input_from(&mut versions);
            let watched = scope.input_from(&mut InputHandleVec::new());
            let shared = || (Arc::clone(&mining), Arc::clone(&book), Arc::clone(&counters));
            let (m, b, c) = shared();
            let (counted, sampled_lists) = (Arc::clone(&seen), Rc::clone(&mine));
            let lists = neighbors(changes.clone(), m, b, c, Arc::default()).inspect(move |lists| {
                counted.0.fetch_add(1, Relaxed);
                if sampled(lists.row) {
                    let rows = |[first, ..]: &[Vec<_>; 3]| first.iter().map(row_of).collect();
                    match &lists.channels {
                        Some(channels) => {
                            sampled_lists.borrow_mut().insert(lists.row, rows(channels))
                        }
                        None => sampled_lists.borrow_mut().remove(&lists.row),
                    };
                }
            });
            let (m, b, c) = shared();
            let counted = Arc::clone(&seen);
            pairs(lists, changes, watched, m, b, c)
                .inspect(move |_| {
                    counted.1.fetch_add(1, Relaxed);
                })
                .probe_with(&probe);
        });
        for epoch in 0..epochs {
            let changes = if index == 0 { feed(epoch) } else { Vec::new() };
            let before = Took {
                lists: seen.0.load(Relaxed),
                pairs: seen.1.load(Relaxed),
                rescans: counters.rescans.load(Relaxed),
                ..Took::default()
            };
            let begun = Instant::now();
            changes.into_iter().for_each(|change| versions.send(change));
            versions.advance_to(epoch + 1);
            while probe.less_than(&(epoch + 1)) {
                worker.step_or_park(None);
            }
            if index == 0 {
                let took = Took {
                    seconds: begun.elapsed().as_secs_f64(),
                    lists: seen.0.load(Relaxed) - before.lists,
                    pairs: seen.1.load(Relaxed) - before.pairs,
                    rescans: counters.rescans.load(Relaxed) - before.rescans,
                    resident: resident(),
                };
                told(epoch, took);
            }
        }
        drop(versions);
        while !probe.done() {
            worker.step_or_park(None);
        }
        kept.lock().expect("no worker failed").append(&mut mine.borrow_mut());
    });
    for joined in guards.expect("workers start").join() {
        joined.expect("a worker failed");
    }
    found.lock().expect("no worker failed").clone()
}

fn row_of(neighbor: &operators::neighbors::Neighbor) -> u64 {
    neighbor.row
}

/// Bytes of memory that the process has, as Linux counts them; 0 elsewhere.
pub fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}
