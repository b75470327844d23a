//! The service's side: answers that somebody has imported are found where those of a killed run are.

use std::{
    collections::{BTreeSet, HashSet},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use schemas::tables::{AnnotationRow, WITHDRAWN};

use super::super::journal;
use crate::delta::Store;

/// Answers that are read at once.
const READ_MAX: usize = 1_000;

/// Request ids with their outcomes, as the tables have them.
type Committed = Vec<(String, String)>;

/// Looks for answers, and removes those that are committed, on a thread of its own that ends with it.
pub struct Arrivals {
    told: Option<Sender<Committed>>,
    found: Receiver<AnnotationRow>,
    thread: Option<JoinHandle<()>>,
}

impl Arrivals {
    /// Looks every `interval`; of `seen` the service knows already.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(
        store: &Store,
        interval: Duration,
        seen: &BTreeSet<String>,
    ) -> anyhow::Result<Arrivals> {
        let (told, committed) = mpsc::channel();
        let (handed, found) = mpsc::channel();
        let seen = seen.iter().cloned().collect();
        let mut look = Look { store: store.clone(), seen, unreadable: HashSet::new(), handed };
        let thread = std::thread::Builder::new().name("arrivals".into());
        let thread = thread
            .spawn(move || look.on(&committed, interval))
            .context("start the thread that looks for answers")?;
        Ok(Arrivals { told: Some(told), found, thread: Some(thread) })
    }

    /// What was found since the last call.
    pub fn take(&self) -> Vec<AnnotationRow> {
        self.found.try_iter().collect()
    }

    /// The tables have them.
    pub fn committed(&self, rows: Committed) {
        if let Some(told) = self.told.as_ref().filter(|_| !rows.is_empty()) {
            // It ends only with this.
            let _ = told.send(rows);
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.told = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Look {
    store: Store,
    /// Handed out in this run: one whose removal is under way must not come twice.
    seen: HashSet<String>,
    /// Those that could not be read so far: that is said once.
    unreadable: HashSet<String>,
    handed: Sender<AnnotationRow>,
}

impl Look {
    fn on(&mut self, committed: &Receiver<Committed>, interval: Duration) {
        let mut last = Instant::now();
        loop {
            match committed.recv_timeout(interval.saturating_sub(last.elapsed())) {
                Ok(rows) => rows.iter().for_each(|(id, outcome)| self.remove(id, outcome)),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.look() {
                        tracing::warn!("{error:#}: answers that were imported wait");
                    }
                    last = Instant::now();
                }
            }
        }
    }

    fn remove(&mut self, id: &str, outcome: &str) {
        if let Err(error) = journal::remove(&self.store, id) {
            tracing::warn!("{error:#}: the next start removes it");
        }
        // It may be asked, and answered, again.
        if outcome == WITHDRAWN {
            self.seen.remove(id);
        }
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let new = journal::ids(&self.store)?.into_iter().filter(|id| !self.seen.contains(id));
        let new: Vec<String> = new.take(READ_MAX).collect();
        for (id, read) in new.iter().zip(journal::rows(&self.store, &new)?) {
            match read {
                Ok(Some(row)) => {
                    self.seen.insert(id.clone());
                    self.unreadable.remove(id);
                    // Who took them has ended, and so will this.
                    let _ = self.handed.send(row);
                }
                Ok(None) => {}
                Err(error) => {
                    if self.unreadable.insert(id.clone()) {
                        tracing::warn!("{error:#}: this answer waits, and is looked at again");
                    }
                }
            }
        }
        Ok(())
    }
}
