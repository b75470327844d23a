//! Requests of other processes to a running service: objects under `_everpair/requests/`, made part
//! of an epoch and deleted once that is committed. Applying one twice changes nothing, so a kill in
//! between costs nothing.
//!
//! A thread of its own looks for them from the first moment of a start, whatever the others are at,
//! so that whoever asks for a collection hears that there is a service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use schemas::{Epoch, limits, tables::BlockedRow};
use serde::{Deserialize, Serialize};

use crate::{
    delta::{self, Store},
    gc::ask::{At, Taken},
    metrics::{Metrics, Phase},
};

const FOLDER: &str = "_everpair/requests";
/// Every name is `ask-<uuid>.json`.
const PREFIX: &str = "ask-";

/// What one object asks for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Must not come back, and leaves if it is here.
    pub block: Vec<BlockedRow>,
    /// Messages that were turned away, to be read again.
    pub replay: Vec<Messages>,
    /// The name of a collection that is to be done between two runs of the dataflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collect: Option<String>,
}

/// Messages of one partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// Topic, or the name of the file log.
    pub topic: String,
    /// Partition within it.
    pub partition: i32,
    /// Offsets within that.
    pub offsets: Vec<i64>,
}

/// Asks the service of these tables, running now or started later. Gives the request's object.
pub fn ask(store: &Store, request: &Request) -> delta::Result<String> {
    let name = format!("{FOLDER}/{PREFIX}{}.json", uuid::Uuid::new_v4());
    let text = serde_json::to_vec(request).map_err(|e| delta::Error::Refused(e.to_string()))?;
    store.replace(&name, text)?;
    Ok(name)
}

/// The service's side: clones share what is known of requests, and the thread that looks for them
/// ends with the last one.
#[derive(Clone)]
pub struct Requests {
    shared: Arc<Shared>,
    /// Those that were taken and belong to no epoch yet.
    open: Vec<String>,
    /// Has the thread look where the service is now.
    looking: Sender<()>,
}

struct Shared {
    store: Store,
    /// Tells what the service is at.
    metrics: Arc<Metrics>,
    found: Mutex<Found>,
    cut: Mutex<BTreeMap<Epoch, Vec<String>>>,
    /// Those that were found and are not committed.
    waiting: AtomicUsize,
    /// The folder was seen since the tables are this service's.
    looked: AtomicBool,
    /// With `found`: it was seen.
    seen: Condvar,
    /// Collections may begin: what was asked for before them was taken.
    collects: AtomicBool,
}

/// What the thread has found, and nobody has taken.
#[derive(Default)]
struct Found {
    /// Objects, and what is in them.
    requests: Vec<(String, Request)>,
    /// Collections that are asked for.
    collect: Vec<Arc<Taken>>,
}

fn locked<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is changed in one step, so a thread that panicked left nothing half done.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Requests {
    /// Looks for requests to the tables in `store` every `interval`. Until `metrics` says that the
    /// tables are this service's, another one may still be at work on them, so collections are
    /// answered and the rest is left.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(
        store: Store,
        interval: Duration,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Requests> {
        let (found, cut, waiting) = Default::default();
        let (looked, seen, collects) = Default::default();
        let shared = Shared { store, metrics, found, cut, waiting, looked, seen, collects };
        let shared = Arc::new(shared);
        let (looking, ended) = mpsc::channel();
        let of = Arc::downgrade(&shared);
        let thread = std::thread::Builder::new().name("requests".into());
        thread.spawn(move || look_on(&of, &ended, interval))?;
        Ok(Requests { shared, open: Vec::new(), looking })
    }

    /// Whether all that was asked for when the service started is committed, and what was found
    /// since.
    pub fn done_with(&self) -> bool {
        let Shared { looked, waiting, .. } = &*self.shared;
        looked.load(Ordering::Acquire) && waiting.load(Ordering::Acquire) == 0
    }

    /// Waits until the folder was seen since the tables are this service's, or for so long: what was
    /// asked for before then belongs to the first epoch.
    pub fn first_look(&self, patience: Duration) {
        // A thread that has ended has been told to.
        let _ = self.looking.send(());
        let Shared { found, looked, seen, .. } = &*self.shared;
        let unseen = |_: &mut Found| !looked.load(Ordering::Acquire);
        drop(seen.wait_timeout_while(locked(found), patience, unseen));
    }

    /// What was found since the last call, if there is any.
    pub fn take(&mut self) -> Option<Request> {
        let mut found = locked(&self.shared.found);
        let mut taken: Option<Request> = None;
        for (path, request) in found.requests.drain(..) {
            let taken = taken.get_or_insert_default();
            taken.block.extend(request.block);
            taken.replay.extend(request.replay);
            self.open.push(path);
        }
        if !found.collect.is_empty() && self.shared.looked.load(Ordering::Acquire) {
            self.shared.collects.store(true, Ordering::Release);
        }
        taken
    }

    /// Whether there are collections that were asked for, and what was asked for before them was
    /// taken.
    pub fn wants_collection(&self) -> bool {
        self.shared.collects.load(Ordering::Acquire)
    }

    /// Collections that were asked for.
    pub fn collections(&self) -> Vec<Arc<Taken>> {
        locked(&self.shared.found).collect.clone()
    }

    /// What was taken since the last call belongs to `epoch`.
    pub fn cut(&mut self, epoch: Epoch) {
        let names = std::mem::take(&mut self.open);
        if !names.is_empty() {
            locked(&self.shared.cut).insert(epoch, names);
        }
    }

    /// `epoch` is committed: its requests are done with. Gives how many these are.
    pub fn committed(&self, epoch: Epoch) -> usize {
        let Shared { store, cut, waiting, .. } = &*self.shared;
        let mut cut = locked(cut);
        let mut done = 0;
        while let Some(first) = cut.first_entry() {
            if *first.key() > epoch {
                break;
            }
            for name in first.remove() {
                done += 1;
                waiting.fetch_sub(1, Ordering::AcqRel);
                if let Err(error) = store.delete(&name) {
                    tracing::warn!("{name} stays and will be asked again: {error}");
                }
            }
        }
        done
    }
}

/// Looks again and again, and at once when the tables are taken over, until it is `ended`.
fn look_on(of: &Weak<Shared>, ended: &Receiver<()>, interval: Duration) {
    let mut seen = BTreeSet::new();
    let mut last: Option<(Instant, bool)> = None;
    loop {
        let Some(shared) = of.upgrade() else { return };
        let ours = shared.metrics.phase() > Phase::Opening;
        if last.is_none_or(|(at, before)| at.elapsed() >= interval || before != ours) {
            last = Some((Instant::now(), ours));
            shared.look(ours, &mut seen);
        }
        drop(shared);
        let next = ended.recv_timeout(interval.min(limits::REQUESTS_INTERVAL_FOLDER));
        if next == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

impl Shared {
    /// Finds what is new. A request that cannot be understood is said and left.
    fn look(self: &Arc<Shared>, ours: bool, seen: &mut BTreeSet<String>) {
        let names: BTreeSet<String> = match self.store.list(FOLDER, PREFIX) {
            Ok(names) => names.into_iter().map(|(name, _)| name).collect(),
            Err(error) => {
                tracing::warn!("requests cannot be listed: {error}");
                return;
            }
        };
        // A name that has gone does not come back.
        seen.retain(|name| names.contains(name));
        let (mut requests, mut collect, mut all) = (Vec::new(), Vec::new(), true);
        for name in names.difference(&seen.clone()) {
            let path = format!("{FOLDER}/{name}");
            let text = match self.store.get(&path) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!("{path} cannot be read and is tried again: {error}");
                    all = false;
                    continue;
                }
            };
            match serde_json::from_slice::<Request>(&text) {
                Ok(Request { collect: Some(id), .. }) => collect.push((path, id)),
                Ok(request) if ours => requests.push((path, request)),
                // Whoever has the tables may be about to do it.
                Ok(_) => continue,
                Err(error) => tracing::warn!("{path} is no request: {error}"),
            }
            seen.insert(name.clone());
        }
        // In one step: what was asked for before a collection must be taken before it.
        let mut found = locked(&self.found);
        self.waiting.fetch_add(requests.len() + collect.len(), Ordering::AcqRel);
        found.requests.extend(requests);
        for (path, id) in collect {
            // Whoever asked is told that somebody is here.
            let metrics = self.metrics.clone();
            let taken = Taken::new(&self.store, id, path, move || at(&metrics));
            found.collect.push(Arc::new(taken));
        }
        if ours && all {
            self.looked.store(true, Ordering::Release);
            self.seen.notify_all();
        }
    }
}

/// What the service is at, for whoever waits for it.
fn at(metrics: &Metrics) -> At {
    match metrics.phase() {
        Phase::Opening => At::Starting("it takes over the tables".into()),
        Phase::Restoring => {
            At::Starting(metrics.restoring().unwrap_or_else(|| "it reads the tables".into()))
        }
        Phase::Running | Phase::Stopping | Phase::Forgetting => At::Committing,
        Phase::Collecting => At::Collecting,
    }
}

#[cfg(test)]
mod tests {
    use operators::neighbors::Counters;

    use super::*;
    use crate::gc::ask::{Patience, State, Waited, ask as ask_for_gc};

    /// Polls until `what` holds.
    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whoever asks for a collection while a service starts hears of it, however long that takes;
    /// what was asked for before is taken first, and not before the tables are this service's.
    #[test]
    fn a_service_that_is_starting_answers() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::folder(folder.path()).expect("a folder is a store");
        let row = BlockedRow { kind: "id".into(), value: "gone".into(), reason: None, epoch: 0 };
        ask(&store, &Request { block: vec![row], ..Request::default() }).expect("a store");
        let metrics = Arc::new(Metrics::new(store.clone(), Arc::new(Counters::new(1))));
        let tick = Duration::from_millis(10);
        let mut requests = Requests::start(store.clone(), tick, metrics.clone()).expect("a thread");

        let second = Duration::from_secs(1);
        let patience = Patience { taken: second, sign: 20 * second, word: second / 2 };
        let of = store.clone();
        let asking = std::thread::spawn(move || ask_for_gc(&of, patience).expect("a store"));
        until("the collection is found", || !requests.collections().is_empty());
        // For longer than a service that is not there is waited for.
        let began = Instant::now();
        while began.elapsed() < 2 * second {
            assert!(requests.take().is_none(), "another one has the tables");
            assert!(!requests.wants_collection() && !requests.done_with());
            std::thread::sleep(tick);
        }
        assert!(!asking.is_finished(), "it waits for who is starting");

        metrics.enter(Phase::Restoring);
        metrics.will_restore(500, 50);
        let mut taken = None;
        until("the tables are ours", || {
            taken = taken.take().or_else(|| requests.take());
            // Never a collection before what was asked for earlier.
            assert!(taken.is_some() || !requests.wants_collection());
            requests.wants_collection()
        });
        assert_eq!(taken.expect("what was blocked").block[0].value, "gone");
        let collection = requests.collections().remove(0);
        let page = format!("_everpair/gc/{}.json", collection.id);
        until("how far it is", || {
            let text = store.get(&page).expect("a store").expect("a sign of life");
            let text = String::from_utf8_lossy(&text).into_owned();
            text.contains("0 of 50 images read, 0 of 500 rows")
        });
        requests.cut(7);
        assert_eq!(requests.committed(7), 1);
        assert!(!requests.done_with(), "there is the collection");
        collection.say(&store, &State::Done(Box::default())).expect("a store");
        let waited = asking.join().expect("it ends");
        assert!(matches!(waited, Waited::Done(_)), "{waited:?}");
    }
}
