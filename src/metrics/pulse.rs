//! Whether the threads of the service are alive.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A thread that has ended.
const ENDED: u64 = u64::MAX;

/// Every thread that has a pulse.
#[derive(Debug)]
pub struct Threads {
    began: Instant,
    /// Milliseconds from `began` to the last beat.
    beats: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

/// One thread's side; when it is dropped the thread has ended.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    beat: Arc<AtomicU64>,
}

impl Threads {
    /// None yet.
    pub fn new(began: Instant) -> Threads {
        Threads { began, beats: Mutex::default() }
    }

    /// A thread that begins now.
    pub fn pulse(&self, name: &str) -> Pulse {
        let pulse = Pulse { began: self.began, beat: Arc::default() };
        pulse.beat();
        if let Ok(mut beats) = self.beats.lock() {
            beats.insert(name.to_owned(), pulse.beat.clone());
        }
        pulse
    }

    /// How long ago each thread last said that it lives; `None` if it has ended.
    pub fn ages(&self) -> BTreeMap<String, Option<Duration>> {
        let Ok(beats) = self.beats.lock() else { return BTreeMap::new() };
        let now = self.began.elapsed();
        let age = |beat: &AtomicU64| match beat.load(Ordering::Relaxed) {
            ENDED => None,
            at => Some(now.saturating_sub(Duration::from_millis(at))),
        };
        beats.iter().map(|(name, beat)| (name.clone(), age(beat))).collect()
    }
}

impl Pulse {
    /// The thread lives: to be called wherever its loop comes round.
    pub fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(ENDED - 1);
        self.beat.store(now, Ordering::Relaxed);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.beat.store(ENDED, Ordering::Relaxed);
    }
}
