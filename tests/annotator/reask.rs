//! Answers that are asked for again, because somebody wants that.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use everpair::{
    annotator::openai::{journal, money::Spent},
    scenes,
};
use schemas::tables::{AnnotationRow, TripletRow};
use serde_json::Value;

use super::{
    pipeline::{CALL_USD, annotator},
    server::{Asked, Server, reply, send, send_good},
};
use crate::service::place::{Message, Place};

fn again(place: &Place, words: &[&str]) -> Value {
    let words = [&["requests", "again", "--json"], words].concat();
    serde_json::from_str(&place.everpair("tables", &words).ended(0).out).expect("JSON")
}

fn rows(place: &Place) -> Vec<AnnotationRow> {
    place.rows::<AnnotationRow>("tables")
}

fn triplets(place: &Place) -> BTreeSet<String> {
    place.rows::<TripletRow>("tables").into_iter().map(|row| row.triplet_id).collect()
}

fn spent(place: &Place) -> f64 {
    Spent::read(&place.store("tables"), 0).expect("slices").closed as f64 / 1e9
}

#[test]
fn what_is_asked_again_is_what_was_selected() {
    let moody = Arc::new(AtomicBool::new(true));
    let mood = moody.clone();
    let server = Server::start(move |asked: &Asked, stream| {
        // Of descriptions and instructions some are unusable, always the same.
        match mood.load(Ordering::Acquire) && asked.id.starts_with(['0', '1', '2']) {
            true => send(stream, "200 OK", &[], reply("no JSON", "stop").to_string().as_bytes()),
            false => send_good(asked, stream),
        }
    });
    let place = Place::new();
    place.configure("tables", &annotator(&server, ""));
    place.log().send(scenes::scenes(50, 11).map(Message::from));
    place.catch_up("tables");
    moody.store(false, Ordering::Release);
    server.forget();
    let before = rows(&place);
    let count = |task: &str, outcome: &str| {
        before.iter().filter(|row| row.task == task && row.outcome == outcome).count()
    };
    let bad = [count("instruct", "bad_json"), count("describe", "bad_json")];
    let without = count("instruct", "no_description");
    assert!(bad[0] > 5 && bad[1] > 5 && without > 5, "{bad:?}, {without}");
    let (held, cost) = (triplets(&place), spent(&place));

    for words in [&["requests", "again"][..], &["requests", "again", "--before", "soon"]] {
        place.everpair("tables", words).ended(2);
    }
    // An estimate changes nothing.
    let said = again(&place, &["--outcome", "bad_json"]);
    assert_eq!(
        (said["instruct"]["bad_json"].as_u64(), said["applied"].as_bool()),
        (Some(bad[0] as u64), Some(false))
    );
    // Each was tried twice.
    let of_these = said["cost_usd"].as_f64().expect("a number");
    assert!((of_these - 2.0 * CALL_USD * bad[0] as f64).abs() < 1e-9, "{said:#}");
    place.catch_up("tables");
    assert_eq!((server.counts(), triplets(&place)), ((0, 0), held.clone()));

    again(&place, &["--outcome", "bad_json", "--apply"]);
    place.catch_up("tables");
    assert_eq!(server.counts(), (0, bad[0]), "what was selected, and nothing else");
    assert_eq!(triplets(&place).len(), held.len() + bad[0]);
    assert!(triplets(&place).is_superset(&held));
    // Where a description had failed, it is asked for as well.
    server.forget();
    let said = again(&place, &["--outcome", "no_description", "--apply"]);
    assert_eq!(said["describe"]["bad_json"].as_u64(), Some(bad[1] as u64));
    place.catch_up("tables");
    assert_eq!(server.counts(), (bad[1], without));
    let all = triplets(&place);
    assert_eq!(all.len(), held.len() + bad[0] + without);
    place.verify("tables");
    assert!((spent(&place) - cost - CALL_USD * (bad[0] + bad[1] + without) as f64).abs() < 1e-9);

    // One, whose answer a killed service has left behind.
    server.forget();
    let row = rows(&place).into_iter().find(|row| row.task == "instruct").expect("a row");
    journal::write(&place.store("tables"), &row).expect("written");
    let said = again(&place, &["--id", &row.request_id, "--describe", "--apply"]);
    assert_eq!((&said["instruct"]["ok"], &said["describe"]["ok"]), (&1.into(), &1.into()));
    place.catch_up("tables");
    assert_eq!(server.counts(), (1, 1));

    // All of them, though none was audited; and none from before there was one.
    server.forget();
    let said = again(&place, &["--before", "2020-01-01"]);
    assert_eq!(said["instruct"], serde_json::json!({}));
    let text = place.everpair("tables", &["requests", "again", "--label", "unresolved", "--apply"]);
    let text = text.ended(0).out;
    assert!(text.contains("their triplets are gone"), "{text}");
    // Until they come they are gone from the next epoch on, not from those before.
    assert_eq!(triplets(&place), all);
    place.catch_up("tables");
    assert_eq!(server.counts(), (0, all.len()));
    assert_eq!(triplets(&place), all);
    place.verify("tables");
    // The log of changes still sums up to the table.
    let said = place.everpair("tables", &["changes", "--since", "0", "--all"]).ended(0);
    let mut summed = BTreeSet::new();
    for line in said.out.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let id = line["triplet_id"].as_str().expect("an id").to_owned();
        match line["op"].as_str() {
            Some("insert") => assert!(summed.insert(id)),
            _ => assert!(summed.remove(&id)),
        }
    }
    assert_eq!(summed, all);
}
