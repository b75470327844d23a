//! How much memory what was read ahead may take.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Bytes that are shared by all that is on its way or waits for its turn.
pub struct Budget {
    max: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    used: usize,
    /// Bodies that are being read, by the order in which they were asked for.
    reading: BTreeSet<u64>,
}

impl Budget {
    /// `max` bytes.
    pub fn new(max: usize) -> Arc<Budget> {
        Arc::new(Budget { max, state: Mutex::default(), changed: Notify::new() })
    }

    /// Whether there is any left.
    pub fn has_room(&self) -> bool {
        self.state().used < self.max
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its numbers are whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A share of a [`Budget`], given back when this is dropped.
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
    reading: Option<u64>,
}

impl Held {
    /// `bytes` that are here already, whether there is room for them or not.
    pub fn taken(budget: &Arc<Budget>, bytes: usize) -> Held {
        budget.state().used += bytes;
        Held { budget: budget.clone(), bytes, reading: None }
    }

    /// Nothing yet, for the body that was asked for as number `turn`.
    pub fn reading(budget: &Arc<Budget>, turn: u64) -> Held {
        budget.state().reading.insert(turn);
        Held { budget: budget.clone(), bytes: 0, reading: Some(turn) }
    }

    /// Waits for room for `bytes` more. The earliest of those that are being read waits for
    /// nobody: all others may be waiting for it, and memory is over the limit by one image at most
    /// for each that ends before its turn comes.
    pub async fn grow(&mut self, bytes: usize) {
        loop {
            let mut changed = pin!(self.budget.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.budget.state();
                let first = state.reading.first().copied() == self.reading;
                if first || state.used + bytes <= self.budget.max {
                    state.used += bytes;
                    self.bytes += bytes;
                    return;
                }
            }
            changed.await;
        }
    }

    /// The body is whole: others may be the earliest now.
    pub fn read(&mut self) {
        if let Some(turn) = self.reading.take() {
            self.budget.state().reading.remove(&turn);
            self.budget.changed.notify_waiters();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.read();
        self.budget.state().used -= self.bytes;
        self.budget.changed.notify_waiters();
    }
}
