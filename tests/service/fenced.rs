//! Two services on one root: the older one notices, and says so.

use everpair::{
    requests::{self, Request},
    scenes,
};

use super::place::{Message, Place, Running, wait_until};

#[test]
fn of_two_services_the_older_one_ends_and_the_tables_stay_right() {
    let place = Place::new();
    place.configure("tables", "[epoch]\nrows = 20\nlinger = \"50 ms\"\n");
    let mut log = place.log();
    let mut scenes = scenes::scenes(180, 74).map(Message::from);
    log.send(scenes.by_ref().take(60));
    let mut older = place.start("tables");
    older.wait_until("the first load", || place.committed("tables") == log.count);
    let first = place.latest("tables").expect("a page")["generation"].as_u64();

    let mut newer = place.start("tables");
    // It has taken over once every table is claimed; the last of them in commit order is enough.
    let claimed = |table: &str| place.newest("tables", table).expect("a table").generation();
    newer.wait_until("the newer one takes over", || {
        claimed("rejects") > first && claimed("images") > first
    });
    log.send(scenes);
    newer.wait_until("the rest", || place.committed("tables") == log.count);
    let (code, said) = older.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another writer owns the tables: generation "), "{said}");
    let who = format!(", process {}, started 2", newer.id());
    assert!(said.contains(&who) && said.contains(" has taken over from generation "), "{said}");

    newer.terminate();
    let (code, said) = newer.wait();
    assert_eq!(code, Some(0), "{said}");
    let page = place.latest("tables").expect("a page");
    assert!(page["generation"].as_u64() > first, "{page:#}");
    place.catch_up("tables");
    place.verify("tables");
    assert_eq!(place.committed("tables"), log.count);
    wait_until("all images are there", || place.tables("tables").images.len() == 180);
}

/// With epochs on their way through the dataflow it must end too, and not wait for them.
#[test]
fn an_older_service_with_a_backlog_ends_as_well() {
    let place = Place::new();
    place.configure("tables", "[epoch]\nrows = 3\nlinger = \"20 ms\"\n");
    let mut log = place.log();
    let mut scenes = scenes::scenes(240, 75).map(Message::from);
    log.send(scenes.by_ref().take(200));
    let mut older = place.start("tables");
    older.wait_until("its first epochs", || place.committed("tables") > 0);
    let newer = place.start("tables");
    // Whatever the older one had done by then, there is more for it to try.
    log.send(scenes);
    let (code, said) = older.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another writer owns the tables"), "{said}");
    newer.kill();
    place.catch_up("tables");
    place.verify("tables");
    assert_eq!(place.committed("tables"), log.count);
}

/// One that has nothing to commit, not even answers.
fn idle() -> (Place, Running) {
    let place = Place::new();
    place.configure("tables", "[epoch]\nlinger = \"50 ms\"\n");
    place.log().send(scenes::scenes(40, 76).map(Message::from));
    place.catch_up("tables");
    let mut service = place.start("tables");
    let errors = service.errors();
    let restored = || std::fs::read_to_string(&errors).is_ok_and(|said| said.contains("restored:"));
    service.wait_until("it stands where it stood", restored);
    (place, service)
}

/// It has nothing to commit, and no commit tells it.
#[test]
fn an_idle_service_that_was_taken_over_ends_by_itself() {
    let (place, older) = idle();
    place.everpair("tables", &["gc", "--take-over"]).ended(0);
    let (code, said) = older.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(" has taken over from generation "), "{said}");
    place.catch_up("tables");
    place.verify("tables");
}

/// What it would do of a request needs a generation of its own.
#[test]
fn an_idle_service_does_not_take_the_tables_back_for_a_request() {
    let (place, older) = idle();
    place.everpair("tables", &["gc", "--take-over"]).ended(0);
    let newest = || std::fs::read_dir(place.path("tables/_everpair/generation")).into_iter();
    let generations = newest().flatten().count();
    let collect = Some("20200101T000000000000Z-asked".to_owned());
    let request = Request { collect, ..Request::default() };
    requests::ask(&place.store("tables"), &request).expect("a request");
    let (code, said) = older.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(" has taken over from generation "), "{said}");
    assert_eq!(newest().flatten().count(), generations, "it has begun no other");
    assert_eq!(place.requests("tables"), 1, "the next service does it");
    place.catch_up("tables");
    assert_eq!(place.requests("tables"), 0);
}
