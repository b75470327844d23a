//! The whole program with a model behind it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use everpair::{
    annotator::openai::{
        failures::{self, Failure},
        journal,
        money::Spent,
    },
    scenes,
};
use schemas::tables::{AnnotationRow, ContentRow, ImageRow, PairRow, TripletRow};
use serde_json::{Value, json};

use super::server::{Asked, Server, TOKENS, send, send_good};
use crate::service::place::{Message, Place};

pub const CALL_USD: f64 = (TOKENS.0 as f64 + 2.0 * TOKENS.1 as f64) / 1e6;

pub fn annotator(server: &Server, more: &str) -> String {
    format!(
        "[annotator]\nkind = \"openai\"\nurl = {:?}\nmodel = \"a-model\"\n\
         input_price = 1.0\noutput_price = 2.0\nbudget = 10.0\n{more}\n\
         [epoch]\nlinger = \"50 ms\"\n",
        server.url()
    )
}

fn place(server: &Server, more: &str) -> Place {
    let place = Place::new();
    place.configure("tables", &annotator(server, more));
    place.log().send(scenes::scenes(60, 11).map(Message::from));
    place
}

/// Query and target of the pairs, as contents.
fn pairs(place: &Place) -> BTreeSet<(String, String)> {
    let images = place.rows::<ImageRow>("tables");
    let content: BTreeMap<String, String> =
        images.into_iter().map(|row| (row.image_id, row.content_id)).collect();
    let pairs = place.rows::<PairRow>("tables").into_iter();
    pairs.map(|row| (content[&row.query_id].clone(), content[&row.target_id].clone())).collect()
}

fn unordered(pairs: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let sorted = pairs.iter().cloned().map(|(a, b)| if a < b { (a, b) } else { (b, a) });
    sorted.collect()
}

#[test]
fn pairs_are_annotated_by_a_model_and_paid_for_once() {
    let server = Server::start(send_good);
    let place = place(&server, "");
    place.catch_up("tables");
    place.verify("tables");
    let pairs = pairs(&place);
    let (described, instructed) = server.counts();
    assert!(pairs.len() > 50, "{} pairs", pairs.len());
    assert_eq!(instructed, pairs.len());
    assert_eq!(described, unordered(&pairs).len());
    assert!(described < instructed, "mirrored pairs share a description");
    let triplets = place.rows::<TripletRow>("tables");
    assert_eq!(triplets.len(), pairs.len());
    for row in &triplets {
        assert_eq!((row.model.as_str(), row.prompt_version), ("a-model", 1001));
        assert!(row.instructions.len() >= 3 && row.description.is_some(), "{row:?}");
    }
    // What was sent is what is stored.
    let contents = place.rows::<ContentRow>("tables").into_iter();
    let stored: HashSet<Vec<u8>> = contents.filter_map(|row| row.image.bytes).collect();
    let asked = server.asked();
    let sent = asked.iter().filter(|asked| asked.describes()).flat_map(Asked::images);
    assert!(sent.into_iter().all(|jpeg| stored.contains(&jpeg)));
    // Every call is a row, and the budget knows what the rows do.
    let rows = place.rows::<AnnotationRow>("tables");
    assert_eq!(rows.len(), asked.len());
    let cost: f64 = rows.iter().filter_map(|row| row.cost_usd).sum();
    let spent = Spent::read(&place.store("tables"), 0).expect("slices");
    assert_eq!(spent.open, 0);
    assert!((cost - spent.closed as f64 / 1e9).abs() < 1e-9, "{cost} and {spent:?}");
    assert!((cost - CALL_USD * rows.len() as f64).abs() < 1e-9);
    assert!(journal::read(&place.store("tables")).expect("a list").is_empty());

    let status = place.everpair("tables", &["status"]).ended(0);
    let line = format!("annotator: {cost:.4} of 10.00 USD spent, 0.0000 of that set aside");
    assert!(status.out.contains(&line), "no {line:?} in:\n{}", status.out);

    // Again: nothing is asked. Another prompt for instructions: they are, descriptions are not.
    server.forget();
    place.catch_up("tables");
    assert_eq!(server.counts(), (0, 0));
    let own = include_str!("../../src/annotator/openai/prompts/instruct.toml");
    let words = own.replace("what people type", "what somebody types");
    std::fs::write(place.path("instruct.toml"), &words).expect("written");
    let prompts = "[annotator.prompts]\ninstruct = \"instruct.toml\"";
    place.configure("tables", &annotator(&server, prompts));
    for arguments in [&["run"][..], &["run", "--apply"]] {
        let said = place.everpair("tables", arguments).ended(1);
        said.says("instruct version 1 has other words").says("give the file a new version");
    }
    let other = words.replace("version = 1\n", "version = 2\n");
    std::fs::write(place.path("instruct.toml"), other).expect("written");
    place.everpair("tables", &["run", "--until-caught-up"]).ended(1).says("--apply");
    let plan = plan(&place, &[]);
    assert_eq!(plan["unanswered"], pairs.len());
    assert_eq!(
        (&plan["describe"]["calls"], &plan["instruct"]["calls"]),
        (&json!(0), &json!(pairs.len()))
    );
    // What calls have taken so far, and take.
    let cost = plan["cost_usd"].as_f64().expect("a number");
    assert!((cost - CALL_USD * pairs.len() as f64).abs() < 1e-9, "{plan:#}");
    place.everpair("tables", &["run", "--until-caught-up", "--apply"]).ended(0);
    assert_eq!(server.counts(), (0, pairs.len()));
    assert!(place.rows::<TripletRow>("tables").iter().all(|row| row.prompt_version == 1002));
    server.forget();
    place.catch_up("tables");
    assert_eq!(server.counts(), (0, 0));
    place.verify("tables");
}

/// Rows of annotations; none before the first epoch.
fn rows(place: &Place) -> usize {
    match place.latest("tables") {
        Some(_) => place.rows::<AnnotationRow>("tables").len(),
        None => 0,
    }
}

fn plan(place: &Place, more: &[&str]) -> Value {
    let arguments = [&["plan", "--json"], more].concat();
    let said = place.everpair("tables", &arguments).ended(0);
    serde_json::from_str(&said.out).expect("JSON")
}

#[test]
fn a_plan_says_what_a_corpus_would_cost() {
    let server = Server::start(send_good);
    let place = place(&server, "");
    let said = plan(&place, &["--images", "1000"]);
    assert_eq!((&said["pairs"], &said["instruct"]["calls"]), (&json!(3000), &json!(3000)));
    let (about, left) = (said["cost_usd"].as_f64(), said["left_usd"].as_f64());
    assert!(about > Some(1.0) && left == Some(10.0), "{said:#}");
    place.catch_up("tables");
    let pairs = pairs(&place).len() as f64;
    let said = plan(&place, &[]);
    assert_eq!((&said["unanswered"], &said["cost_usd"]), (&json!(0), &json!(0.0)));
    let images = said["images"].as_f64().expect("a number");
    let said = plan(&place, &["--images", "100000"]);
    let expected = (pairs / images * 100_000.0).round();
    assert_eq!(said["instruct"]["calls"].as_f64(), Some(expected));
    assert_eq!(server.counts().1 as f64, pairs, "a plan asks nothing");
}

#[test]
fn pairs_are_asked_about_when_the_corpus_is_loaded_and_they_have_held() {
    // The fewest messages that were committed when something was asked.
    let fewest = Arc::new(AtomicI64::new(i64::MAX));
    let root = Arc::new(Mutex::new(PathBuf::new()));
    let (seen, at) = (fewest.clone(), root.clone());
    let server = Server::start(move |asked: &Asked, stream| {
        let page = at.lock().expect("no panic holds it").join("_everpair/latest.json");
        let page = std::fs::read(page).expect("a page");
        let page: Value = serde_json::from_slice(&page).expect("JSON");
        let next = page["offsets"]["files"].as_object().expect("offsets").values();
        seen.fetch_min(next.filter_map(Value::as_i64).sum(), Ordering::AcqRel);
        send_good(asked, stream);
    });
    for (start, all) in [("at_once", false), ("caught_up", true)] {
        let place = place(&server, "");
        *root.lock().expect("no panic holds it") = place.path("tables");
        fewest.store(i64::MAX, Ordering::Release);
        let more = format!("settle = \"0 s\"\nstart = {start:?}");
        let config = annotator(&server, &more).replace("linger", "rows = 5\nlinger");
        place.configure("tables", &config);
        let mut running = place.start("tables");
        running.wait_until("answers", || rows(&place) > 20);
        drop(running);
        assert_eq!(fewest.load(Ordering::Acquire) == 60, all, "{start}: {fewest:?}");
    }
    // A pair that has not held is not asked about, whatever else happens.
    server.forget();
    let place = place(&server, "settle = \"1 h\"");
    *root.lock().expect("no panic holds it") = place.path("tables");
    let mut running = place.start("tables");
    running.wait_until("everything is committed", || place.committed("tables") == 60);
    let epoch = place.epoch("tables");
    place.log().send(scenes::scenes(70, 12).skip(60).map(Message::from));
    running.wait_until("another epoch", || place.epoch("tables") > epoch);
    assert_eq!(server.counts(), (0, 0));
    drop(running);
    // Where nothing more comes, all of them hold.
    place.catch_up("tables");
    assert_eq!(server.counts().1, pairs(&place).len());
}

#[test]
fn what_was_answered_before_a_kill_is_not_asked_again() {
    let server = Server::start(|asked: &Asked, stream| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        send_good(asked, stream);
    });
    let place = place(&server, "");
    // Many answers wait for their epoch at any moment.
    let slow = annotator(&server, "settle = \"0 s\"\nconcurrency = 4").replace("50 ms", "1 s");
    place.configure("tables", &slow);
    let mut known: HashSet<String> = HashSet::new();
    for calls in [30, 70, 110] {
        let mut running = place.start("tables");
        running.wait_until("some calls", || server.asked().len() >= calls);
        running.kill();
        let waiting = journal::read(&place.store("tables")).expect("a list");
        let rows = waiting.into_iter().chain(place.rows::<AnnotationRow>("tables"));
        known.extend(rows.map(|row| row.request_id));
    }
    assert!(known.len() > 80, "{}", known.len());
    let before = server.asked().len();
    place.catch_up("tables");
    let asked = server.asked();
    let again = asked[before..].iter().filter(|asked| known.contains(&asked.id)).count();
    assert_eq!(again, 0, "of {} that were answered", known.len());
    // What was in flight at a kill: at most the concurrency.
    let repeated = asked.len() - server.by_id().len();
    assert!(repeated <= 3 * 4, "{repeated} calls of {} were made again", asked.len());
    place.verify("tables");
    let pairs = pairs(&place);
    assert_eq!(place.rows::<TripletRow>("tables").len(), pairs.len());
    let rows = place.rows::<AnnotationRow>("tables");
    let ids: HashSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
    assert_eq!(ids.len(), rows.len(), "an outcome each");
}

#[test]
fn a_model_needs_a_budget_and_stops_at_it() {
    let server = Server::start(send_good);
    let place = place(&server, "");
    let without = annotator(&server, "").replace("budget = 10.0\n", "");
    place.configure("other", &without);
    place.everpair("other", &["run"]).ended(2).says("[annotator] kind = \"openai\" needs budget");
    let said = place.everpair("tables", &["validate"]);
    assert!(said.out.contains("annotator: ok, a-model at"), "{}", said.out);

    place.configure("tables", &annotator(&server, "").replace("budget = 10.0", "budget = 0.02"));
    place.everpair("tables", &["run", "--until-caught-up"]).ended(0).says("budget is spent");
    let spent = Spent::read(&place.store("tables"), 0).expect("slices");
    assert!(spent.closed + spent.open <= 20_000_000, "{spent:?}");
    let few = place.rows::<TripletRow>("tables").len();
    assert!(few > 10 && few < pairs(&place).len(), "{few} triplets");
    best_were_asked(&place, &server);
    // More money: the rest.
    let calls = server.asked().len();
    place.configure("tables", &annotator(&server, ""));
    place.catch_up("tables");
    let pairs = pairs(&place);
    assert_eq!(place.rows::<TripletRow>("tables").len(), pairs.len());
    let all = server.asked().len();
    assert!(all > calls);
    assert_eq!(all, server.by_id().len(), "nothing is asked twice");
}

/// What was described is worth more than what was not: more channels, then fewer pairs that lead to
/// the target, by the better of the two directions.
fn best_were_asked(place: &Place, server: &Server) {
    let asked: HashSet<String> = server.by_id().into_keys().collect();
    let rows = place.rows::<AnnotationRow>("tables").into_iter();
    let described: BTreeSet<(String, String)> = rows
        .filter(|row| row.task == "describe" && asked.contains(&row.request_id))
        .map(|row| (row.query_content_id, row.target_content_id))
        .collect();
    let images = place.rows::<ImageRow>("tables");
    let content: BTreeMap<&str, &str> =
        images.iter().map(|row| (row.image_id.as_str(), row.content_id.as_str())).collect();
    let pairs = place.rows::<PairRow>("tables");
    let leading = |target: &str| pairs.iter().filter(|pair| pair.target_id == target).count();
    let mut worth = BTreeMap::new();
    for pair in &pairs {
        let (query, target) = (content[&*pair.query_id], content[&*pair.target_id]);
        let both = (query.min(target).to_owned(), query.max(target).to_owned());
        let of = (Reverse(pair.channels.len()), leading(&pair.target_id));
        let held = worth.entry(both).or_insert(of);
        *held = of.min(*held);
    }
    let (of, others): (Vec<_>, Vec<_>) =
        worth.into_iter().partition(|(both, _)| described.contains(both));
    let worst = of.iter().map(|(_, worth)| worth).max().expect("some were asked about");
    let best = others.iter().map(|(_, worth)| worth).min().expect("some were not");
    assert!(worst <= best, "{worst:?} was asked about, {best:?} was not");
}

#[test]
fn answers_that_wait_are_collected_with_their_images() {
    let server = Server::start(send_good);
    let place = place(&server, "");
    place.catch_up("tables");
    let rows = place.rows::<AnnotationRow>("tables");
    let gone = rows[0].query_content_id.clone();
    let images = place.rows::<ImageRow>("tables").into_iter();
    let ids: Vec<String> =
        images.filter(|row| row.content_id == gone).map(|row| row.image_id).collect();
    assert!(!ids.is_empty());
    place.log().send(ids.iter().map(|id| Message::tombstone(id)));
    place.catch_up("tables");
    // As a kill between an answer and its commit leaves them.
    let about =
        |row: &&AnnotationRow| row.query_content_id == gone || row.target_content_id == gone;
    let stays = rows.iter().find(|row| !about(row)).expect("another pair");
    let store = place.store("tables");
    let mut waiting = rows.iter().filter(about).chain([stays]);
    let later =
        |row: &AnnotationRow| Failure { row: row.clone(), times: 1, again_at: 0, batch: None };
    let write = |row: &AnnotationRow| {
        journal::write(&store, row).and_then(|()| failures::write(&store, &later(row)))
    };
    waiting.try_for_each(write).expect("written");
    place.everpair("tables", &["gc", "--take-over"]).ended(0);
    let left = journal::read(&store).expect("a list");
    assert_eq!(left, std::slice::from_ref(stays));
    assert_eq!(failures::read(&store).expect("a list"), [later(stays)]);
    assert!(!place.rows::<AnnotationRow>("tables").iter().any(|row| about(&row)));
    // The memo has that one: it is dropped, and nothing is asked.
    server.forget();
    place.catch_up("tables");
    assert!(journal::read(&store).expect("a list").is_empty());
    assert!(failures::read(&store).expect("a list").is_empty());
    let asked: HashSet<String> = server.by_id().into_keys().collect();
    assert!(rows.iter().all(|row| !asked.contains(&row.request_id)));
}

#[test]
fn a_pair_that_has_failed_for_now_is_not_waited_for_and_asked_about_later() {
    let (first, fails) = (Mutex::new(None), Arc::new(AtomicBool::new(true)));
    let seen = fails.clone();
    let server = Server::start(move |asked: &Asked, stream| {
        if asked.describes() && seen.load(Ordering::Acquire) {
            let mut first = first.lock().expect("no panic holds it");
            if *first.get_or_insert_with(|| asked.id.clone()) == asked.id {
                send(stream, "429 Too Many Requests", &[], b"");
                return;
            }
        }
        send_good(asked, stream);
    });
    let place = place(&server, "");
    place.everpair("tables", &["run", "--until-caught-up"]).ended(0).says("failed for now");
    let triplets = || place.rows::<TripletRow>("tables").len();
    let all = pairs(&place).len();
    let left = all - triplets();
    assert!((1..=2).contains(&left), "{left} of {all}");
    let status = place.everpair("tables", &["status"]).ended(0);
    let line = format!("annotator: {left} pairs have failed for now: asked again from ");
    assert!(status.out.contains(&line), "{}", status.out);

    // Nobody waits for it, and nothing is asked before its time.
    server.forget();
    place.everpair("tables", &["run", "--until-caught-up"]).ended(0).says("failed for now");
    assert_eq!(server.counts(), (0, 0));
    fails.store(false, Ordering::Release);
    let store = place.store("tables");
    for failure in failures::read(&store).expect("a list") {
        assert_eq!((&*failure.row.outcome, failure.times), ("rate_limited", 1));
        failures::write(&store, &Failure { again_at: 0, ..failure }).expect("written");
    }
    place.catch_up("tables");
    assert_eq!((server.counts(), triplets()), ((1, left), all));
    let rows = place.rows::<AnnotationRow>("tables");
    let ids: HashSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
    assert_eq!(ids.len(), rows.len(), "an outcome each");
    assert!(rows.iter().all(|row| row.outcome == "ok"));
    assert!(failures::read(&store).expect("a list").is_empty());
    place.verify("tables");
}

/// Captions that no pair is made of.
fn other_captions(images: usize, rounds: std::ops::Range<usize>) -> impl Iterator<Item = Message> {
    rounds.flat_map(move |round| {
        (0..images).map(move |n| {
            Message::from(scenes::scene(n, 11)).with("caption", &format!("q{round} z{n}"))
        })
    })
}

#[test]
fn what_is_in_flight_when_the_service_stands_still_is_waited_for() {
    const IMAGES: usize = 20;
    let held = Arc::new((Mutex::new(true), Condvar::new()));
    let gate = held.clone();
    let server = Server::start(move |asked: &Asked, stream| {
        let closed = gate.0.lock().expect("no panic holds it");
        drop(gate.1.wait_while(closed, |closed| *closed).expect("no panic holds it"));
        send_good(asked, stream);
    });
    let place = Place::new();
    // Captions propose nothing: what a new one makes of it is a vector more, and nothing else.
    let rest = "[channels.caption]\nencoder = \"builtin:words\"\nband = [0.999999, 1.0]\n\
                [contents]\nkeep_dead = 0\n[service]\nworkers = 1\n";
    let config = |settle: &str| {
        let more = format!("settle = {settle:?}\nconcurrency = 4\n{rest}");
        annotator(&server, &more).replace("linger = \"50 ms\"", "rows = 2\nlinger = \"1 ms\"")
    };
    place.configure("tables", &config("1 h"));
    let mut log = place.log();
    log.send(scenes::scenes(IMAGES, 11).map(Message::from));
    let mut running = place.start("tables");
    running.wait_until("everything is committed", || place.committed("tables") == log.count);
    running.terminate();
    assert_eq!(running.wait().0, Some(0));
    let pairs = pairs(&place).len();
    assert!(pairs > 15 && server.asked().is_empty(), "{pairs} pairs");

    place.configure("tables", &config("0 s"));
    let mut running = place.start("tables");
    running.wait_until("calls are in flight", || server.asked().len() == 4);
    log.send(other_captions(IMAGES, 1..8));
    running.wait_until("it is about to stand still", || {
        place.counters("tables").is_some_and(|at| at["annotator"]["paused"] == true)
    });
    let at = place.counters("tables").expect("counters");
    assert_eq!((&at["annotator"]["in_flight"], server.asked().len()), (&json!(4), 4));
    assert!(!running.said().contains("forgot "), "{}", running.said());
    // What comes meanwhile is committed.
    running.wait_until("the rest is read", || place.committed("tables") == log.count);
    *held.0.lock().expect("no panic holds it") = false;
    held.1.notify_all();
    running
        .wait_until("all pairs are answered", || place.rows::<TripletRow>("tables").len() == pairs);
    running.terminate();
    let (code, said) = running.wait();
    assert_eq!((code, said.matches("forgot ").count() > 0), (Some(0), true), "{said}");
    let asked = server.asked();
    assert_eq!(asked.len(), server.by_id().len(), "nothing is asked twice");
    assert_eq!(server.counts().1, pairs);
    place.verify("tables");
}
