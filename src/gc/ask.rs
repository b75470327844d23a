//! How a collection is asked for: a request to the service, and an object under `_everpair/gc/`
//! that tells what has become of it.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

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
    /// A service has it and lives.
    Taken(Sign),
    /// It is done.
    Done(Box<Report>),
    /// It was tried and is not tried again.
    Failed(String),
    /// The service was stopped; the next one goes on.
    Interrupted,
}

/// A sign of life of the service that has a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// Another one each time.
    pub number: u64,
    /// What was open is committed, and it collects.
    pub collecting: bool,
}

/// How asking has ended.
#[derive(Debug)]
pub enum Waited {
    /// It is done.
    Done(Box<Report>),
    /// The service tried.
    Failed(String),
    /// The service was stopped meanwhile.
    Interrupted,
    /// No service took it; it is asked for no more.
    Nobody,
    /// The service that took it gives no sign of life any more. The request stays, for the next one.
    Lost,
}

/// How long whoever asks waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a service takes it.
    pub taken: Duration,
    /// Between two signs of life.
    pub sign: Duration,
    /// Between two words to the person who waits.
    pub word: Duration,
}

impl Patience {
    /// As the limits say.
    pub const LIMITS: Patience = Patience {
        taken: limits::GC_PATIENCE,
        sign: limits::GC_SILENCE,
        word: limits::GC_WORD_INTERVAL,
    };
}

/// A name for a collection; later ones sort behind earlier ones.
pub fn draw() -> String {
    format!("{}-{}", Utc::now().format("%Y%m%dT%H%M%S%6fZ"), uuid::Uuid::new_v4().simple())
}

fn path(id: &str) -> String {
    format!("{FOLDER}/{id}.json")
}

fn write(store: &Store, id: &str, state: &State) -> delta::Result<()> {
    let text = serde_json::to_vec_pretty(state);
    let text = text.map_err(|error| delta::Error::Refused(error.to_string()))?;
    store.replace(&path(id), text)
}

/// Tells what has become of a request; of those that are over the newest are kept.
pub fn say(store: &Store, id: &str, state: &State) -> delta::Result<()> {
    write(store, id, state)?;
    let names = store.list(FOLDER, "")?;
    let old = names.len().saturating_sub(limits::GC_REPORTS_KEPT);
    names[..old].iter().try_for_each(|(name, _)| store.delete(&format!("{FOLDER}/{name}")))
}

/// A request that a service has. Until it is told how that has ended, or this is dropped, a thread
/// says again and again that the service lives: whoever asked cannot know otherwise that nobody is
/// at it any more.
pub struct Taken {
    /// The name of the collection.
    pub id: String,
    /// The request's object.
    pub object: String,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    collecting: AtomicBool,
    over: Mutex<bool>,
    changed: Condvar,
}

impl Taken {
    /// Begins to give signs of life.
    pub fn new(store: &Store, id: String, object: String) -> Taken {
        Taken::every(limits::GC_SIGN_INTERVAL, store, id, object)
    }

    fn every(interval: Duration, store: &Store, id: String, object: String) -> Taken {
        let shared = Arc::new(Shared::default());
        let (at, of, name) = (store.clone(), shared.clone(), id.clone());
        let thread = std::thread::Builder::new().name("signs".into());
        let thread = thread.spawn(move || of.give(&at, &name, interval));
        if let Err(error) = &thread {
            tracing::warn!("{object}: nobody is told that it was taken: {error}");
        }
        Taken { id, object, shared, thread: Mutex::new(thread.ok()) }
    }

    /// What was open is committed.
    pub fn collecting(&self) {
        self.shared.collecting.store(true, Ordering::Release);
        self.shared.changed.notify_all();
    }

    /// Gives no more signs, and says how it has ended.
    pub fn say(&self, store: &Store, state: &State) -> delta::Result<()> {
        self.end();
        say(store, &self.id, state)
    }

    fn end(&self) {
        if let Ok(mut over) = self.shared.over.lock() {
            *over = true;
        }
        self.shared.changed.notify_all();
        if let Ok(mut thread) = self.thread.lock()
            && let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that gives signs of life panicked");
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn give(&self, store: &Store, id: &str, interval: Duration) {
        let mut number = 0;
        loop {
            let collecting = self.collecting.load(Ordering::Acquire);
            if let Err(error) = write(store, id, &State::Taken(Sign { number, collecting })) {
                tracing::warn!("whoever asked for gc is not told that this service lives: {error}");
            }
            number += 1;
            let Ok(over) = self.over.lock() else { return };
            if *over {
                return;
            }
            match self.changed.wait_timeout(over, interval) {
                Ok((over, _)) if !*over => {}
                _ => return,
            }
        }
    }
}

fn heard(store: &Store, id: &str) -> delta::Result<Option<State>> {
    let text = store.get(&path(id))?;
    let read = text.map(|text| serde_json::from_slice(&text)).transpose();
    read.map_err(|error| delta::Error::Unreadable(format!("{}: {error}", path(id))))
}

/// Asks the running service, and waits until it is done or nobody is at it.
pub fn ask(store: &Store, patience: Patience) -> delta::Result<Waited> {
    let id = draw();
    let collect = Some(id.clone());
    let request = requests::ask(store, &Request { collect, ..Request::default() })?;
    let asked = Instant::now();
    // The newest sign of life, since when, and when the person who waits was told something.
    let (mut newest, mut since, mut told) = (None, asked, asked);
    let seconds = |since: Instant| since.elapsed().as_secs();
    loop {
        match heard(store, &id)? {
            Some(State::Done(report)) => return Ok(Waited::Done(report)),
            Some(State::Failed(why)) => return Ok(Waited::Failed(why)),
            Some(State::Interrupted) => return Ok(Waited::Interrupted),
            Some(State::Taken(sign)) if newest != Some(sign) => {
                if newest.is_none() {
                    errln!("the service has it: it commits what is open, collects, and goes on");
                    told = Instant::now();
                }
                (newest, since) = (Some(sign), Instant::now());
            }
            Some(State::Taken(_)) if since.elapsed() > patience.sign => return Ok(Waited::Lost),
            None if asked.elapsed() > patience.taken => {
                store.delete(&request)?;
                // It may have been taken in the meantime.
                std::thread::sleep(LOOK);
                if heard(store, &id)?.is_none() {
                    return Ok(Waited::Nobody);
                }
            }
            _ => {}
        }
        if told.elapsed() > patience.word {
            let silent = seconds(since);
            match newest {
                None => {
                    let most = patience.taken.as_secs();
                    errln!(
                        "waiting for a service of these tables to take it: {silent} s of {most}"
                    );
                }
                Some(_) if since.elapsed() > patience.word => errln!(
                    "waiting for a sign of life of the service: the last one was {silent} s ago; \
                     {} s are waited",
                    patience.sign.as_secs()
                ),
                Some(sign) => {
                    let waited = seconds(asked);
                    let at = if sign.collecting { "collects" } else { "commits what is open" };
                    errln!("waiting for the service, which {at} ({waited} s since it was asked)");
                }
            }
            told = Instant::now();
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGN: Duration = Duration::from_secs(2);

    /// Asks, and lets a service of the test take it, live for longer than a sign may be late, and
    /// then end as `ends` does. How asking has ended, and after how long.
    fn asked(ends: fn(&Store, Taken)) -> (Waited, Duration) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::folder(folder.path()).expect("a folder is a store");
        let of_service = store.clone();
        let service = std::thread::spawn(move || {
            let list = || of_service.list("_everpair/requests", "").expect("a list");
            let name = loop {
                match list().first() {
                    Some((name, _)) => break format!("_everpair/requests/{name}"),
                    None => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            let text = of_service.get(&name).expect("a store").expect("a request");
            let request: Request = serde_json::from_slice(&text).expect("JSON");
            let id = request.collect.expect("a collection");
            let taken = Taken::every(Duration::from_millis(50), &of_service, id, name);
            std::thread::sleep(SIGN + SIGN / 4);
            ends(&of_service, taken);
        });
        let began = Instant::now();
        let patience = Patience { taken: Duration::from_secs(60), sign: SIGN, word: SIGN / 4 };
        let waited = ask(&store, patience).expect("a store");
        let took = began.elapsed();
        service.join().expect("the service of the test");
        let left = store.list("_everpair/requests", "").expect("a list").len();
        assert_eq!(left, 1, "only who has done it takes the request away");
        (waited, took)
    }

    #[test]
    fn a_service_that_dies_with_the_request_is_not_waited_for() {
        let (waited, took) = asked(|_, taken| drop(taken));
        assert!(matches!(waited, Waited::Lost), "{waited:?}");
        assert!(took > SIGN * 2, "it was given up while it lived: {took:?}");
    }

    #[test]
    fn a_service_that_takes_long_is_waited_for() {
        let (waited, took) = asked(|store, taken| {
            taken.say(store, &State::Done(Box::default())).expect("a store");
        });
        assert!(matches!(waited, Waited::Done(_)), "{waited:?}");
        assert!(took > SIGN, "{took:?}");
    }
}
