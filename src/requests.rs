//! Requests of other processes to a running service: objects under `_everpair/requests/`, made part
//! of an epoch and deleted once that is committed. Applying one twice changes nothing, so a kill in
//! between costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use schemas::{Epoch, tables::BlockedRow};
use serde::{Deserialize, Serialize};

use crate::delta::{self, Store};

const FOLDER: &str = "_everpair/requests";
/// Every name is `ask-<uuid>.json`.
const PREFIX: &str = "ask-";
/// How often the folder is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// What one object asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Must not come back, and leaves if it is here.
    pub block: Vec<BlockedRow>,
}

/// Asks the service of these tables, running now or started later.
pub fn ask(store: &Store, request: &Request) -> delta::Result<()> {
    let name = format!("{FOLDER}/{PREFIX}{}.json", uuid::Uuid::new_v4());
    let text = serde_json::to_vec(request).map_err(|e| delta::Error::Refused(e.to_string()))?;
    store.replace(&name, text)
}

/// The service's side.
#[derive(Clone)]
pub struct Requests {
    store: Store,
    looked: Option<Instant>,
    seen: BTreeSet<String>,
    open: Vec<String>,
    cut: Arc<Mutex<BTreeMap<Epoch, Vec<String>>>>,
}

impl Requests {
    /// Requests to the tables in `store`.
    pub fn new(store: Store) -> Requests {
        let (looked, seen, open, cut) = Default::default();
        Requests { store, looked, seen, open, cut }
    }

    /// What was asked for since the last call. A request that cannot be read is said and left.
    pub fn take(&mut self) -> Vec<BlockedRow> {
        if self.looked.is_some_and(|at| at.elapsed() < INTERVAL) {
            return Vec::new();
        }
        self.looked = Some(Instant::now());
        let names = match self.store.list(FOLDER, PREFIX) {
            Ok(names) => names,
            Err(error) => {
                eprintln!("warning: requests cannot be listed: {error}");
                return Vec::new();
            }
        };
        let mut blocks = Vec::new();
        for (name, _) in names {
            let path = format!("{FOLDER}/{name}");
            if !self.seen.insert(path.clone()) {
                continue;
            }
            let request = self.store.get(&path).ok().flatten();
            let request = request.map(|text| serde_json::from_slice::<Request>(&text));
            match request {
                Some(Ok(request)) => {
                    blocks.extend(request.block);
                    self.open.push(path);
                }
                Some(Err(error)) => eprintln!("warning: {path} is no request: {error}"),
                None => {}
            }
        }
        blocks
    }

    /// What was taken since the last call belongs to `epoch`.
    pub fn cut(&mut self, epoch: Epoch) {
        let names = std::mem::take(&mut self.open);
        if let (false, Ok(mut cut)) = (names.is_empty(), self.cut.lock()) {
            cut.insert(epoch, names);
        }
    }

    /// `epoch` is committed: its requests are done with.
    pub fn committed(&self, epoch: Epoch) {
        let Ok(mut cut) = self.cut.lock() else { return };
        while let Some(first) = cut.first_entry() {
            if *first.key() > epoch {
                break;
            }
            for name in first.remove() {
                if let Err(error) = self.store.delete(&name) {
                    eprintln!("warning: {name} stays and will be asked again: {error}");
                }
            }
        }
    }
}
