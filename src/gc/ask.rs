//! How a collection is asked for: a request to the service, and an object under `_everpair/gc/`
//! that tells what has become of it.

use std::time::{Duration, Instant};

use chrono::Utc;
use schemas::limits;
use serde::{Deserialize, Serialize};

use super::report::Report;
use crate::{
    delta::{self, Store},
    errln,
    requests::{self, Request},
};

const FOLDER: &str = "_everpair/gc";
/// How often is looked for news.
const LOOK: Duration = Duration::from_millis(250);

/// What has become of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A service has it and commits what is open.
    Taken,
    /// It is done.
    Done(Box<Report>),
    /// It was tried and is not tried again.
    Failed(String),
    /// The service was stopped; the next one goes on.
    Interrupted,
}

/// How asking has ended.
pub enum Waited {
    /// It is done.
    Done(Box<Report>),
    /// The service tried.
    Failed(String),
    /// The service was stopped meanwhile.
    Interrupted,
    /// No service took it; it is asked for no more.
    Nobody,
}

/// A name for a collection; later ones sort behind earlier ones.
pub fn draw() -> String {
    format!("{}-{}", Utc::now().format("%Y%m%dT%H%M%S%6fZ"), uuid::Uuid::new_v4().simple())
}

fn path(id: &str) -> String {
    format!("{FOLDER}/{id}.json")
}

/// Tells what has become of a request; of those that are over the newest are kept.
pub fn say(store: &Store, id: &str, state: &State) -> delta::Result<()> {
    let text = serde_json::to_vec_pretty(state);
    let text = text.map_err(|error| delta::Error::Refused(error.to_string()))?;
    store.replace(&path(id), text)?;
    let names = store.list(FOLDER, "")?;
    let old = names.len().saturating_sub(limits::GC_REPORTS_KEPT);
    names[..old].iter().try_for_each(|(name, _)| store.delete(&format!("{FOLDER}/{name}")))
}

fn heard(store: &Store, id: &str) -> delta::Result<Option<State>> {
    let text = store.get(&path(id))?;
    let read = text.map(|text| serde_json::from_slice(&text)).transpose();
    read.map_err(|error| delta::Error::Unreadable(format!("{}: {error}", path(id))))
}

/// Asks the running service, and waits until it is done.
pub fn ask(store: &Store) -> delta::Result<Waited> {
    let id = draw();
    let collect = Some(id.clone());
    let request = requests::ask(store, &Request { collect, ..Request::default() })?;
    let (asked, mut taken) = (Instant::now(), false);
    loop {
        match heard(store, &id)? {
            Some(State::Done(report)) => return Ok(Waited::Done(report)),
            Some(State::Failed(why)) => return Ok(Waited::Failed(why)),
            Some(State::Interrupted) => return Ok(Waited::Interrupted),
            Some(State::Taken) if !taken => {
                taken = true;
                errln!("the service has it: it commits what is open, collects, and goes on");
            }
            None if asked.elapsed() > limits::GC_PATIENCE => {
                store.delete(&request)?;
                // It may have been taken in the meantime.
                std::thread::sleep(LOOK);
                if heard(store, &id)?.is_none() {
                    return Ok(Waited::Nobody);
                }
            }
            _ => {}
        }
        std::thread::sleep(LOOK);
    }
}
