//! Requests of other processes to a running service: objects under `_everpair/requests/`, made part
//! of an epoch and deleted once that is committed. Applying one twice changes nothing, so a kill in
//! between costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use schemas::{Epoch, tables::BlockedRow};
use serde::{Deserialize, Serialize};

use crate::{
    delta::{self, Store},
    gc::ask::Taken,
};

const FOLDER: &str = "_everpair/requests";
/// Every name is `ask-<uuid>.json`.
const PREFIX: &str = "ask-";
/// How often the folder is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

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

/// The service's side.
#[derive(Clone)]
pub struct Requests {
    store: Store,
    looked: Option<Instant>,
    seen: BTreeSet<String>,
    open: Vec<String>,
    cut: Arc<Mutex<BTreeMap<Epoch, Vec<String>>>>,
    /// Those that were taken and are not committed.
    waiting: Arc<AtomicUsize>,
    looked_once: Arc<AtomicBool>,
    /// Collections that are asked for.
    collect: Arc<Mutex<Vec<Arc<Taken>>>>,
}

impl Requests {
    /// Requests to the tables in `store`; clones share what is known of them.
    pub fn new(store: Store) -> Requests {
        let (looked, seen, open, cut) = Default::default();
        let (waiting, looked_once, collect) = Default::default();
        Requests { store, looked, seen, open, cut, waiting, looked_once, collect }
    }

    /// Whether all that was asked for when the service started is committed, and what was taken
    /// since.
    pub fn done_with(&self) -> bool {
        self.looked_once.load(Ordering::Acquire) && self.waiting.load(Ordering::Acquire) == 0
    }

    /// What was asked for since the last call, if there is any. A request that cannot be read is
    /// said and left.
    pub fn take(&mut self) -> Option<Request> {
        if self.looked.is_some_and(|at| at.elapsed() < INTERVAL) {
            return None;
        }
        let taken = self.look();
        self.looked_once.store(true, Ordering::Release);
        taken
    }

    fn look(&mut self) -> Option<Request> {
        self.looked = Some(Instant::now());
        let names = match self.store.list(FOLDER, PREFIX) {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!("requests cannot be listed: {error}");
                return None;
            }
        };
        let mut taken: Option<Request> = None;
        for (name, _) in names {
            let path = format!("{FOLDER}/{name}");
            if !self.seen.insert(path.clone()) {
                continue;
            }
            let request = self.store.get(&path).ok().flatten();
            let request = request.map(|text| serde_json::from_slice::<Request>(&text));
            match request {
                Some(Ok(Request { collect: Some(id), .. })) => self.note(id, path),
                Some(Ok(request)) => {
                    let taken = taken.get_or_insert_default();
                    taken.block.extend(request.block);
                    taken.replay.extend(request.replay);
                    self.open.push(path);
                    self.waiting.fetch_add(1, Ordering::AcqRel);
                }
                Some(Err(error)) => tracing::warn!("{path} is no request: {error}"),
                None => {}
            }
        }
        taken
    }

    /// A collection is asked for: whoever asked is told that somebody is here.
    fn note(&mut self, id: String, path: String) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if let Ok(mut collect) = self.collect.lock() {
            collect.push(Arc::new(Taken::new(&self.store, id, path)));
        }
    }

    /// Whether there are collections that were asked for.
    pub fn wants_collection(&self) -> bool {
        self.collect.lock().is_ok_and(|collect| !collect.is_empty())
    }

    /// Collections that were asked for.
    pub fn collections(&self) -> Vec<Arc<Taken>> {
        self.collect.lock().map(|collect| collect.clone()).unwrap_or_default()
    }

    /// What was taken since the last call belongs to `epoch`.
    pub fn cut(&mut self, epoch: Epoch) {
        let names = std::mem::take(&mut self.open);
        if let (false, Ok(mut cut)) = (names.is_empty(), self.cut.lock()) {
            cut.insert(epoch, names);
        }
    }

    /// `epoch` is committed: its requests are done with. Gives how many these are.
    pub fn committed(&self, epoch: Epoch) -> usize {
        let Ok(mut cut) = self.cut.lock() else { return 0 };
        let mut done = 0;
        while let Some(first) = cut.first_entry() {
            if *first.key() > epoch {
                break;
            }
            for name in first.remove() {
                done += 1;
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                if let Err(error) = self.store.delete(&name) {
                    tracing::warn!("{name} stays and will be asked again: {error}");
                }
            }
        }
        done
    }
}
