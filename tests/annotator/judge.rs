//! A blind judge: what it is shown, what is made of what it says, and what happens where it says nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::TcpStream,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use everpair::{
    annotator::openai::{journal, judge::Unjudged, money::Spent},
    scenes,
};
use operators::flow::{Request, TASK};
use schemas::{
    ContentId,
    config::{Annotator, Judge},
    tables::{AnnotationRow, ContentRow, ImageRow, RejectRow, TripletRow},
};
use serde_json::{Value, json};

use super::{
    client::{CALL, Run, UNCOMMITTED, config},
    pipeline::annotator,
    put_off::AN_HOUR,
    server::{Asked, Server, reply, send, send_good},
};
use crate::service::place::{Message, Place, wait_until};

const JUDGE: &str = "[judge]\nmodel = \"eyes\"\nnegatives = 3\n";

fn with_judge(server: &Server) -> Annotator {
    let judge = Judge { model: "eyes".into(), negatives: 3 };
    Annotator { judge: Some(judge), ..config(server) }
}

fn say(stream: &mut TcpStream, answer: &Value) {
    send(stream, "200 OK", &[], reply(&answer.to_string(), "stop").to_string().as_bytes());
}

/// An answer of the client, for the judge.
fn unjudged(request: &Request, row: &AnnotationRow) -> Unjudged {
    let negatives = (0..6).map(|n| format!("other {n}").into()).collect();
    Unjudged { request: request.clone(), row: row.clone(), negatives }
}

/// The answers of pairs, as they come from the client before they are judged.
fn answered(run: &mut Run, pairs: &[Request]) -> Vec<AnnotationRow> {
    run.client.want(pairs.to_vec());
    let mut rows = run.outcomes(2 * pairs.len());
    rows.retain(|row| row.task == TASK);
    rows.sort_by_key(|row| pairs.iter().position(|pair| pair.request_id == row.request_id));
    assert_eq!(rows.len(), pairs.len());
    rows
}

fn verdicts(row: &AnnotationRow) -> Vec<Option<&str>> {
    row.audits.iter().map(|audit| audit.verdict.as_deref()).collect()
}

fn nanos(row: &AnnotationRow) -> u64 {
    (row.cost_usd.expect("a cost") * 1e9).round() as u64
}

#[test]
fn a_judge_is_shown_the_target_among_others_and_is_not_told_which_it_is() {
    let target = Arc::new(Mutex::new(ContentId([0; 32])));
    let shown = target.clone();
    let server = Server::start(move |asked: &Asked, stream: &mut TcpStream| {
        if !asked.judges() {
            return send_good(asked, stream);
        }
        let target = shown.lock().expect("no panic holds it").0.to_vec();
        let at = asked.images()[1..].iter().position(|image| *image == target).expect("the target");
        let text = asked.text();
        let said = |what: &str| text.contains(what);
        match () {
            () if said("Replace the round") => say(stream, &json!({ "picture": at + 1 })),
            // A number in a text will do.
            () if said("same arrangement") => say(stream, &json!({ "picture": "0" })),
            () if said("somebody drawn") => {
                let first = asked.before < 4;
                say(stream, &json!({ "picture": if first { at + 1 } else { 0 } }));
            }
            () => say(stream, &json!({ "picture": "the second one" })),
        }
    });
    let mut run = Run::new(with_judge(&server));
    let pair = run.pair(0);
    *target.lock().expect("no panic holds it") = pair.target.0;
    let row = answered(&mut run, std::slice::from_ref(&pair)).remove(0);
    assert_eq!((verdicts(&row), nanos(&row)), (vec![None; 4], CALL));
    server.forget();
    run.client.judge(vec![unjudged(&pair, &row)]);
    let judged = run.outcomes(1).remove(0);
    let said = [Some("target"), Some("other"), Some("split"), None];
    assert_eq!(verdicts(&judged), said);
    let asked = server.asked();
    // The fourth was asked once more, with another seed; beside none a second look would say nothing.
    assert_eq!((asked.len(), server.judged()), (8, 8));
    assert_eq!(nanos(&judged), 9 * CALL);
    assert_eq!(judged.prompt_tokens, Some(900));
    let same = AnnotationRow {
        audits: row.audits.clone(),
        cost_usd: row.cost_usd,
        prompt_tokens: row.prompt_tokens,
        completion_tokens: row.completion_tokens,
        ..judged.clone()
    };
    assert_eq!(same, row, "nothing else of it has changed");
    let stored = journal::read(&run.store).expect("a list");
    assert_eq!(stored.iter().find(|held| held.task == TASK), Some(&judged), "it is written down");

    let (query, target) = (pair.query.0.0.to_vec(), pair.target.0.0.to_vec());
    let mut orders: BTreeSet<Vec<Vec<u8>>> = BTreeSet::new();
    for asked in &asked {
        assert_eq!((&asked.body["model"], &asked.id), (&json!("eyes"), &pair.request_id));
        let images = asked.images();
        assert_eq!((images.len(), &images[0]), (5, &query));
        let candidates: BTreeSet<&Vec<u8>> = images[1..].iter().collect();
        assert!(
            candidates.len() == 4 && candidates.contains(&target) && !candidates.contains(&query)
        );
        orders.insert(images[1..].to_vec());
        let text = asked.text();
        let told = row.instructions.iter().filter(|one| text.contains(one.as_str())).count();
        assert_eq!(told, 1, "one instruction at a time: {text}");
        assert!(!text.contains("shapes") && !text.contains(&pair.target.0.hex()), "{text}");
    }
    assert_eq!(orders.len(), 2);
    let place = |order: &Vec<Vec<u8>>| order.iter().position(|one| *one == target);
    assert_eq!(orders.iter().map(place).collect::<BTreeSet<_>>().len(), 2, "at another place");
    assert_eq!(run.stop(), 10 * CALL);
}

#[test]
fn answers_are_judged_though_no_more_may_wait_for_their_commit() {
    let server = Server::start(send_good);
    let mut run = Run::new(with_judge(&server));
    let pairs: Vec<Request> = (0..UNCOMMITTED / 2).map(|n| run.pair(n)).collect();
    let rows = answered(&mut run, &pairs);
    let of_judge = pairs.iter().zip(&rows).map(|(pair, row)| unjudged(pair, row)).collect();
    run.client.judge(of_judge);
    let judged = run.outcomes(pairs.len());
    assert!(judged.iter().all(|row| !verdicts(row).contains(&None)), "all are judged");
    assert_eq!(server.judged(), 8 * pairs.len());
    run.stands("all have ended", |at| (at.pairs, at.pairs_ended) == (0, pairs.len()));
    assert_eq!(run.stop(), 10 * pairs.len() as u64 * CALL);
}

#[test]
fn without_a_judges_answer_an_answer_goes_on_when_its_pair_has_gone() {
    let fails = |asked: &Asked, stream: &mut TcpStream| match asked.judges() {
        true => send(stream, "500 Internal Server Error", &[], b"{}"),
        false => send_good(asked, stream),
    };
    let server = Server::start(fails);
    let mut run = Run::new(with_judge(&server));
    run.restart(AN_HOUR);
    let (pair, lonely) = (run.pair(0), run.pair(1));
    let rows = answered(&mut run, &[pair.clone(), lonely.clone()]);
    // Nothing was retrieved with it: there is nothing to tell it from.
    let alone = Unjudged { negatives: vec!["gone 1".into()], ..unjudged(&lonely, &rows[1]) };
    run.client.judge(vec![alone]);
    assert_eq!(run.outcomes(1), rows[1..]);
    run.client.judge(vec![unjudged(&pair, &rows[0])]);
    wait_until("it is put off", || run.client.rests().is_some());
    let why = run.client.rests().expect("it rests");
    assert!(why.contains("1 pair waits: all that could be asked has failed for now"), "{why}");
    run.client.drop_request(pair.request_id.clone());
    assert_eq!(run.outcomes(1), rows[..1]);
    wait_until("nothing waits", || run.client.standing().pairs == 0);
    assert_eq!(run.stop(), 4 * CALL);
}

/// Of some instructions always what stands first, of others always the same image, or none.
fn picks(asked: &Asked) -> usize {
    let words = ContentId::of(format!("{} {}", asked.id, asked.text()).as_bytes()).0[0];
    let images = asked.images().into_iter().skip(1).enumerate();
    let drawn = |image: &[u8]| ContentId::of(&[image, &[words]].concat()).0;
    let same = images.min_by_key(|(_, image)| drawn(image)).map_or(0, |(at, _)| at + 1);
    [1, same, same, 0][usize::from(words % 4)]
}

fn judging() -> Server {
    Server::start(|asked: &Asked, stream: &mut TcpStream| match asked.judges() {
        true => say(stream, &json!({ "picture": picks(asked) })),
        false => send_good(asked, stream),
    })
}

fn place(server: &Server, more: &str) -> Place {
    let place = Place::new();
    place.configure("tables", &format!("{JUDGE}{}", annotator(server, more)));
    place.log().send(scenes::scenes(30, 11).map(Message::from));
    place
}

fn answers(place: &Place) -> Vec<AnnotationRow> {
    let mut rows = place.rows::<AnnotationRow>("tables");
    rows.retain(|row| row.task == TASK);
    rows
}

/// Every answer that is not alone has verdicts; gives how often each was said.
fn said(place: &Place) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in answers(place) {
        for verdict in verdicts(&row) {
            *counts.entry(verdict.unwrap_or("none").to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn verdicts_stand_in_the_tables_and_policy_says_which_are_published() {
    let server = judging();
    let place = place(&server, "");
    place.catch_up("tables");
    place.verify("tables");
    let counts = said(&place);
    assert!(["target", "other", "split"].iter().all(|verdict| counts[*verdict] > 3), "{counts:?}");
    // The candidates are what was retrieved for the query, and nothing else.
    let images = place.rows::<ImageRow>("tables");
    let stored: HashSet<&str> = images.iter().map(|row| row.content_id.as_str()).collect();
    assert!(stored.len() > 10);
    let judged = server.judged();
    let instructions: usize = answers(&place).iter().map(|row| row.instructions.len()).sum();
    assert_eq!(judged + 2 * counts.get("none").copied().unwrap_or(0), 2 * instructions);
    // Each call is paid, and stands in a row.
    let cost: u64 = place.rows::<AnnotationRow>("tables").iter().map(nanos).sum();
    assert_eq!(cost, server.asked().len() as u64 * CALL);
    let spent = Spent::read(&place.store("tables"), 0).expect("slices");
    assert_eq!((spent.closed, spent.open), (cost, 0));

    // Whoever looks is told.
    let triplets = place.rows::<TripletRow>("tables");
    let shown = &triplets.iter().find(|row| row.audits[0].verdict.is_some()).expect("a triplet");
    let text = place.everpair("tables", &["explain", &shown.triplet_id]).ended(0).out;
    let verdict = shown.audits[0].verdict.as_deref().expect("it is judged");
    assert!(text.contains(&format!("the judge chose: {verdict}")), "{text}");
    let json = place.everpair("tables", &["explain", &shown.triplet_id, "--json"]).ended(0).out;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["instructions"][0]["verdict"], verdict);
    let page = place.path("gallery.html");
    let to = page.to_str().expect("a path");
    place.everpair("tables", &["gallery", "--out", to]).ended(0);
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.contains("judge: <b>"));

    // Other rules ask nothing: what was said is stored.
    server.forget();
    let rules = "[filter]\nverdicts = [\"target\", \"split\"]\ninstructions_min = 1\n";
    place.configure("tables", &format!("{JUDGE}{}{rules}", annotator(&server, "")));
    let run = ["run", "--until-caught-up", "--apply"];
    place.everpair("tables", &run[..2]).ended(1).says("filter.verdicts").says("--apply");
    place.everpair("tables", &run).ended(0);
    place.verify("tables");
    assert!(server.asked().is_empty());
    let published = place.rows::<TripletRow>("tables");
    let of_triplets = published.iter().flat_map(|row| &row.audits);
    let left: BTreeSet<Option<&str>> = of_triplets.map(|audit| audit.verdict.as_deref()).collect();
    assert_eq!(left, [Some("target"), Some("split")].into());
    let count: usize = published.iter().map(|row| row.instructions.len()).sum();
    assert_eq!(count, counts["target"] + counts["split"]);
    // A new answer that breaks it is a row of rejects.
    place.log().send(scenes::scenes(36, 11).skip(30).map(Message::from));
    place.catch_up("tables");
    place.verify("tables");
    let rejects = place.rows::<RejectRow>("tables");
    assert!(rejects.iter().any(|row| row.reason == "judge" && row.detail.contains("other")));

    // Without a judge nothing that was said goes, and what comes has none.
    place.configure("tables", &annotator(&server, ""));
    place.everpair("tables", &run).ended(0);
    place.log().send(scenes::scenes(40, 11).skip(36).map(Message::from));
    server.forget();
    place.catch_up("tables");
    place.verify("tables");
    assert!(server.judged() == 0 && server.counts().1 > 0);
}

/// Looks that were taken more than once.
fn looked_twice(server: &Server) -> usize {
    let mut looks: BTreeMap<(String, String, Vec<Vec<u8>>), usize> = BTreeMap::new();
    for asked in server.asked().iter().filter(|asked| asked.judges()) {
        let look = (asked.id.clone(), asked.text(), asked.images());
        *looks.entry(look).or_default() += 1;
    }
    looks.values().filter(|count| **count > 1).count()
}

#[test]
fn killed_while_it_judges_no_answer_is_asked_for_again() {
    let server = judging();
    let place = place(&server, "settle = \"0 s\"\nconcurrency = 4");
    let mut known: HashSet<String> = HashSet::new();
    let kills = [5, 30, 100];
    for calls in kills {
        let mut running = place.start("tables");
        running.wait_until("some looks", || server.judged() >= calls);
        running.kill();
        let waiting = journal::read(&place.store("tables")).expect("a list");
        let rows = match place.latest("tables") {
            Some(_) => place.rows::<AnnotationRow>("tables"),
            None => Vec::new(),
        };
        known.extend(waiting.into_iter().chain(rows).map(|row| row.request_id));
    }
    let before = server.asked().len();
    place.catch_up("tables");
    place.verify("tables");
    let asked = &server.asked()[before..];
    let written = asked.iter().filter(|asked| !asked.judges());
    let again = written.filter(|asked| known.contains(&asked.id)).count();
    assert_eq!(again, 0, "of {} that were answered", known.len());
    // What was said of it is written down too: only what was in flight is asked for again.
    let again = looked_twice(&server);
    assert!(again <= 4 * kills.len(), "{again} looks of {}", server.judged());
    let counts = said(&place);
    assert!(counts.get("none").copied().unwrap_or(0) * 4 < counts.values().sum(), "{counts:?}");
    assert!(journal::read(&place.store("tables")).expect("a list").is_empty());
    server.forget();
    place.catch_up("tables");
    assert!(server.asked().is_empty());
}

#[test]
fn what_money_does_not_do_for_waits_for_its_judge() {
    let server = judging();
    let budget = |usd: f64| {
        let config = annotator(&server, "image_tokens = 2000\nmax_tokens = 100");
        format!("{JUDGE}{}", config.replace("budget = 10.0", &format!("budget = {usd}")))
    };
    let place = place(&server, "");
    place.configure("tables", &budget(0.03));
    let said_so = place.everpair("tables", &["run", "--until-caught-up"]).ended(0);
    said_so.says("[annotator] budget is spent");
    let (described, written) = server.counts();
    assert!(described > 0 && written > 0 && server.judged() > 0);
    let spent = Spent::read(&place.store("tables"), 0).expect("slices");
    assert!(spent.closed + spent.open <= 30_000_000, "{spent:?}");
    let waiting = journal::read(&place.store("tables")).expect("a list");
    let waiting: HashSet<String> = waiting.into_iter().map(|row| row.request_id).collect();
    assert!(!waiting.is_empty(), "an answer waits for its judge");
    place.configure("tables", &budget(10.0));
    let before = server.asked().len();
    place.catch_up("tables");
    place.verify("tables");
    assert_eq!(looked_twice(&server), 0, "what is said is paid once");
    let asked = &server.asked()[before..];
    let mut again = asked.iter().filter(|asked| waiting.contains(&asked.id));
    assert!(again.all(Asked::judges), "what is written is not written again");
    assert!(
        server.judged() > 0 && journal::read(&place.store("tables")).expect("a list").is_empty()
    );
    let counts = said(&place);
    assert!(counts["target"] + counts["other"] + counts["split"] > 20, "{counts:?}");
}

#[test]
fn a_pair_that_leaves_while_it_is_judged_keeps_what_was_paid_for() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (open, closed) = (gate.clone(), Arc::new(AtomicBool::new(false)));
    let waits = closed.clone();
    let server = Server::start(move |asked: &Asked, stream: &mut TcpStream| {
        if asked.judges() {
            waits.store(true, Ordering::Release);
            let held = open.0.lock().expect("no panic holds it");
            drop(open.1.wait_while(held, |open| !*open).expect("no panic holds it"));
        }
        send_good(asked, stream);
    });
    let place = place(&server, "settle = \"0 s\"\nconcurrency = 2");
    let mut running = place.start("tables");
    running.wait_until("it is judged", || closed.load(Ordering::Acquire));
    let before = place.epoch("tables");
    place.log().send((0..30).map(|n| Message::tombstone(&scenes::scene(n, 11).id)));
    running.wait_until("all has gone", || {
        place.epoch("tables") > before && place.rows::<ImageRow>("tables").is_empty()
    });
    *gate.0.lock().expect("no panic holds it") = true;
    gate.1.notify_all();
    running.wait_until("answers are in the memo", || {
        answers(&place).iter().any(|row| row.outcome == "withdrawn")
    });
    running.terminate();
    running.wait();
    place.catch_up("tables");
    place.verify("tables");
    let withdrawn = answers(&place).into_iter().filter(|row| row.outcome == "withdrawn");
    assert!(withdrawn.into_iter().all(|row| nanos(&row) >= CALL && row.audits.is_empty()));
}

#[test]
fn what_is_taken_down_is_shown_to_no_judge_any_more() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let open = gate.clone();
    let server = Server::start(move |asked: &Asked, stream: &mut TcpStream| {
        if asked.judges() {
            let held = open.0.lock().expect("no panic holds it");
            drop(open.1.wait_while(held, |open| !*open).expect("no panic holds it"));
        }
        send_good(asked, stream);
    });
    let place = place(&server, "settle = \"0 s\"\nconcurrency = 1");
    let mut running = place.start("tables");
    running.wait_until("it is judged", || server.judged() == 1);
    let asked = server.asked().into_iter().find(Asked::judges).expect("it was asked");
    let waiting = journal::read(&place.store("tables")).expect("a list");
    let row = waiting.iter().find(|row| row.request_id == asked.id).expect("it is written down");
    // A candidate that is not the target leaves, under all its names.
    let contents = place.rows::<ContentRow>("tables");
    let of = |jpeg: &Vec<u8>| contents.iter().find(|row| row.image.bytes.as_ref() == Some(jpeg));
    let shown = asked.images();
    let other = |content: &&ContentRow| content.content_id != row.target_content_id;
    let leaves = shown[1..].iter().filter_map(of).find(other).expect("another candidate");
    let images = place.rows::<ImageRow>("tables");
    let named = images.iter().filter(|row| row.content_id == leaves.content_id);
    place.log().send(named.map(|row| Message::tombstone(&row.image_id)));
    running.wait_until("it has gone", || {
        let images = place.rows::<ImageRow>("tables");
        images.iter().all(|row| row.content_id != leaves.content_id)
    });
    // The call that showed it is cut off, and others go on.
    running.wait_until("another answer is judged", || server.judged() > 1);
    *gate.0.lock().expect("no panic holds it") = true;
    gate.1.notify_all();
    running.terminate();
    running.wait();
    place.catch_up("tables");
    place.verify("tables");
    let later: Vec<Asked> = server.asked().into_iter().filter(Asked::judges).skip(1).collect();
    assert!(later.len() > 20);
    let bytes = leaves.image.bytes.as_ref().expect("they are stored");
    assert!(later.iter().all(|asked| !asked.images().contains(bytes)));
}
