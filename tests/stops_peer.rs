//! SIGTERM while the store does not answer: the process ends in the time that it was given, and what
//! it left the next start takes up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use everpair::scenes;

use crate::{
    peers::{
        faults::{Fault, Faults},
        s3::{S3, settings},
    },
    place::{Message, Place, wait_until},
};

const SEED: u64 = 79;
const RULES: &str = "[epoch]\nrows = 8\nlinger = \"50 ms\"\n[triplets]\nkeep = \"mined\"\n\
    [service]\nworkers = 2\nstop_within = \"3 s\"\n";
const WITHIN: Duration = Duration::from_secs(3);

/// A service that has committed a few epochs, and whose store answers nothing any more. What it
/// asked for arrives nevertheless, long after it is gone or never.
struct Hanging {
    place: Place,
    s3: S3,
    faults: Faults,
    hangs: Arc<AtomicBool>,
}

impl Hanging {
    fn new() -> Hanging {
        println!("seed {SEED}");
        let (place, s3) = (Place::new(), S3::start());
        let hangs = Arc::new(AtomicBool::new(false));
        let (shared, mut commits) = (hangs.clone(), 0);
        let faults = Faults::start(s3.address(), move |method, path| {
            commits += usize::from(method == "PUT" && path.contains("/images/_delta_log/"));
            if commits > 3 {
                shared.store(true, Ordering::Release);
                return Fault::Slow(Duration::from_secs(600));
            }
            Fault::None
        });
        place.log().send(scenes::scenes(60, SEED).map(Message::from));
        let rest = format!("{}{RULES}", settings(&faults.address()));
        place.configure_at("hanging", &s3.root("tables"), &rest);
        place.configure_at(
            "tables",
            &s3.root("tables"),
            &format!("{}{RULES}", settings(s3.address())),
        );
        place.configure("folder", RULES);
        Hanging { place, s3, faults, hangs }
    }

    /// The next start ends with the tables of a folder that nothing happened to.
    fn goes_on(&self) {
        self.place.catch_up("tables");
        self.place.verify("tables");
        self.place.catch_up("folder");
        crate::s3_peer::same(
            &self.place.path("folder").display().to_string(),
            &self.s3.root("tables"),
            self.s3.address(),
        );
    }
}

#[test]
fn a_store_that_hangs_does_not_keep_it_from_stopping() {
    let at = Hanging::new();
    let mut service = at.place.start("hanging");
    service.wait_until("the store hangs", || at.hangs.load(Ordering::Acquire));
    let begun = Instant::now();
    service.terminate();
    let (code, said) = service.wait();
    let took = begun.elapsed();
    println!("stopped after {took:?}; {} requests hang", at.faults.count());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stop_within") && said.contains("next start"), "{said}");
    assert!(WITHIN <= took && took < WITHIN + Duration::from_secs(10), "{took:?}");
    at.goes_on();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let at = Hanging::new();
    let mut service = at.place.start("hanging");
    service.wait_until("the store hangs", || at.hangs.load(Ordering::Acquire));
    service.terminate();
    wait_until("it says that it stops", || service.said().contains("stopping"));
    let begun = Instant::now();
    service.terminate();
    let (code, said) = service.wait();
    let took = begun.elapsed();
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains("stop_within"), "{said}");
    assert!(took < WITHIN / 2, "{took:?}");
    at.goes_on();
}
