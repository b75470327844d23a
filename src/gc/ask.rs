//! How a collection is asked for: a request to the service, and an object under `_everpair/gc/`
//! that tells what has become of it.

use std::{
    sync::{Arc, Condvar, Mutex},
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
/// A look that takes longer than this is one at a store that does not answer.
const STALLED: Duration = Duration::from_secs(1);

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// Another one each time.
    pub number: u64,
    /// Meanwhile.
    pub at: At,
}

/// What a service is at that was asked for a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// It starts, and is so far.
    Starting(String),
    /// It commits what is open.
    Committing,
    /// What was open is committed, and it collects.
    Collecting,
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

struct Shared {
    at: Box<dyn Fn() -> At + Send + Sync>,
    over: Mutex<bool>,
    changed: Condvar,
}

impl Taken {
    /// Begins to give signs of life, with what the service is `at` then.
    pub fn new(
        store: &Store,
        id: String,
        object: String,
        at: impl Fn() -> At + Send + Sync + 'static,
    ) -> Taken {
        Taken::every(limits::GC_SIGN_INTERVAL, store, id, object, at)
    }

    fn every(
        interval: Duration,
        store: &Store,
        id: String,
        object: String,
        at: impl Fn() -> At + Send + Sync + 'static,
    ) -> Taken {
        let (over, changed) = Default::default();
        let shared = Arc::new(Shared { at: Box::new(at), over, changed });
        let (at, of, name) = (store.clone(), shared.clone(), id.clone());
        let thread = std::thread::Builder::new().name("signs".into());
        let thread = thread.spawn(move || of.give(&at, &name, interval));
        if let Err(error) = &thread {
            tracing::warn!("{object}: nobody is told that it was taken: {error}");
        }
        Taken { id, object, shared, thread: Mutex::new(thread.ok()) }
    }

    /// The service is at something else: a sign says so at once.
    pub fn moved_on(&self) {
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
            if let Err(error) = write(store, id, &State::Taken(Sign { number, at: (self.at)() })) {
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
    let (mut newest, mut since, mut told): (Option<Sign>, _, _) = (None, asked, asked);
    loop {
        let looked = Instant::now();
        let state = heard(store, &id)?;
        if looked.elapsed() > STALLED {
            // Nor could a service say anything through a store that does not answer.
            since += looked.elapsed();
        }
        match state {
            Some(State::Done(report)) => return Ok(Waited::Done(report)),
            Some(State::Failed(why)) => return Ok(Waited::Failed(why)),
            Some(State::Interrupted) => return Ok(Waited::Interrupted),
            Some(State::Taken(sign)) if newest.as_ref() != Some(&sign) => {
                if newest.is_none() {
                    errln!("{}", sign.at.heard_first());
                    told = Instant::now();
                }
                (newest, since) = (Some(sign), Instant::now());
            }
            Some(State::Taken(_)) if since.elapsed() > patience.sign => return Ok(Waited::Lost),
            None if since.elapsed() > patience.taken => {
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
            errln!("{}", words(newest.as_ref(), since, asked, patience));
            told = Instant::now();
        }
        std::thread::sleep(LOOK);
    }
}

impl At {
    /// To a person who has asked, when a service has taken it.
    fn heard_first(&self) -> String {
        match self {
            At::Starting(far) => format!(
                "a service has it that is starting ({far}): it collects once it has started, and \
                 starts again behind"
            ),
            _ => "the service has it: it commits what is open, collects, and goes on".into(),
        }
    }
}

/// What is waited for, `newest` being the last sign of life.
fn words(newest: Option<&Sign>, since: Instant, asked: Instant, patience: Patience) -> String {
    let (silent, waited) = (since.elapsed().as_secs(), asked.elapsed().as_secs());
    let Some(sign) = newest else {
        let most = patience.taken.as_secs();
        return format!("waiting for a service of these tables to take it: {silent} s of {most}");
    };
    if since.elapsed() > patience.word {
        return format!(
            "waiting for a sign of life of the service: the last one was {silent} s ago; {} s are \
             waited",
            patience.sign.as_secs()
        );
    }
    let at = match &sign.at {
        At::Starting(far) => format!("is starting: {far}"),
        At::Committing => "commits what is open".into(),
        At::Collecting => "collects".into(),
    };
    format!("waiting for the service, which {at} ({waited} s since it was asked)")
}

#[cfg(test)]
mod tests {
    use object_store::{
        memory::InMemory,
        path::Path,
        throttle::{ThrottleConfig, ThrottledStore},
    };

    use super::*;

    const SIGN: Duration = Duration::from_secs(2);

    /// Asks, and lets a service of the test take it, live for longer than a sign may be late, and
    /// then end as `ends` does. How asking has ended, and after how long.
    fn asked(ends: impl FnOnce(&Store, Taken) + Send + 'static) -> (Waited, Duration) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        asked_in(&Store::folder(folder.path()).expect("a folder is a store"), ends)
    }

    fn asked_in(
        store: &Store,
        ends: impl FnOnce(&Store, Taken) + Send + 'static,
    ) -> (Waited, Duration) {
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
            let often = Duration::from_millis(50);
            let taken = Taken::every(often, &of_service, id, name, || At::Committing);
            std::thread::sleep(SIGN + SIGN / 4);
            ends(&of_service, taken);
        });
        let began = Instant::now();
        let patience = Patience { taken: Duration::from_secs(60), sign: SIGN, word: SIGN / 4 };
        let waited = ask(store, patience).expect("a store");
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

    /// A store that fails for a while, as requests that are tried again and again, hides the signs.
    #[test]
    fn silence_of_the_store_is_not_that_of_the_service() {
        let config = ThrottleConfig::default();
        let slow = Arc::new(ThrottledStore::new(InMemory::new(), config));
        let store = Store::new(slow.clone(), Path::default()).expect("a store");
        let (waited, took) = asked_in(&store, move |store, taken| {
            slow.config_mut(|config| {
                (config.wait_get_per_call, config.wait_put_per_call) = (SIGN * 2, SIGN * 5 / 2);
            });
            std::thread::sleep(SIGN);
            // Those that wait now wait on.
            slow.config_mut(|config| *config = ThrottleConfig::default());
            std::thread::sleep(SIGN * 2);
            taken.say(store, &State::Done(Box::default())).expect("a store");
        });
        assert!(matches!(waited, Waited::Done(_)), "{waited:?} after {took:?}");
    }
}
