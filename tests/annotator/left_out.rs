//! What the rules leave out of answers, and what is told of it: `explain`, `gallery`, the tables.

use std::collections::BTreeSet;

use everpair::{
    dataset::{At, Dataset},
    explain::answers::Answers,
    scenes,
};
use operators::{filter, flow::Answer};
use schemas::{
    ContentId,
    config::Filter,
    tables::{AnnotationRow, ChangeRow, ImageRow, PairRow, RejectRow, TripletRow},
};
use serde_json::{Value, json};

use super::{
    pipeline::{CALL_USD, annotator},
    server::{Asked, Server, reply, send, send_good},
};
use crate::service::place::{Message, Place};

const META: &str = "Like the first image, only darker";
const GERMAN: &str = "dieselbe Anordnung, aber bitte mit einem Quadrat und ohne Kreise";
const LEAK: &str = "show a red circle above a small blue square on green grass";
const TOLD: &str = "A red circle stands above the small blue square on green grass.";

/// Of every fourth pair too few instructions are fit, another fourth is refused.
fn kind(id: &str) -> u8 {
    id.as_bytes()[1] % 4
}

fn answer(asked: &Asked) -> String {
    if asked.describes() {
        return asked.good();
    }
    let fit = [
        "Replace the round shape by one with corners",
        "the same arrangement with four equal sides somewhere",
        "I prefer edges over curves here",
    ];
    match kind(&asked.id) {
        0 => json!({ "instructions": [fit[0], META, fit[1], GERMAN] }).to_string(),
        1 => "I'm sorry, but I can't help with that request.".to_owned(),
        _ => json!({ "instructions": [fit[0], META, fit[1], LEAK, GERMAN, fit[2]] }).to_string(),
    }
}

fn explained(place: &Place, words: &[&str]) -> Value {
    let words = [&["explain", "--json"], words].concat();
    serde_json::from_str(&place.everpair("tables", &words).ended(0).out).expect("JSON")
}

/// Of those that break a rule; others may be left out because they are too few.
fn reasons(explained: &Value) -> Vec<&str> {
    let left_out = explained["left_out"].as_array().expect("a list").iter();
    left_out.filter_map(|one| one["reason"].as_str()).collect()
}

fn loaded(server: &Server) -> Place {
    let place = Place::new();
    place
        .configure("tables", &format!("{}[filter]\nlanguages = [\"en\"]\n", annotator(server, "")));
    let scenes = scenes::scenes(40, 12).map(Message::from).enumerate();
    let captioned = scenes.map(|(n, message)| match n % 3 {
        0 => message.with("caption", TOLD),
        _ => message.with("caption", "shapes"),
    });
    place.log().send(captioned);
    place.catch_up("tables");
    place.verify("tables");
    place
}

fn caption(place: &Place, id: &str) -> String {
    let image = place.rows::<ImageRow>("tables").into_iter().find(|row| row.image_id == id);
    image.and_then(|row| row.caption).expect("it has a caption")
}

#[test]
fn what_was_left_out_is_told_with_its_reason_and_its_cost() {
    let server = Server::start(|asked, stream| {
        send(stream, "200 OK", &[], reply(&answer(asked), "stop").to_string().as_bytes());
    });
    let place = loaded(&server);
    let triplets = place.rows::<TripletRow>("tables");
    let shown: BTreeSet<(&str, &str)> =
        triplets.iter().map(|row| (row.query_id.as_str(), row.target_id.as_str())).collect();
    let rejects = place.rows::<RejectRow>("tables");
    let (mut leaking, mut whole) = (0, 0);
    for triplet in triplets.iter().take(12) {
        let explained = explained(&place, &[&triplet.triplet_id[..20]]);
        let leaks = caption(&place, &triplet.target_id) == TOLD;
        let expected = match leaks {
            true => vec!["meta_phrase", "target_leak", "other_language"],
            false => vec!["meta_phrase", "other_language"],
        };
        assert_eq!(reasons(&explained), expected, "{explained:#}");
        assert_eq!(triplet.instructions.contains(&LEAK.to_owned()), !leaks);
        *if leaks { &mut leaking } else { &mut whole } += 1;
        // What does not depend on captions is a row, which quotes nothing.
        let rows =
            rejects.iter().filter(|row| row.request_id.as_ref() == Some(&triplet.request_id));
        let rows: BTreeSet<&str> = rows.map(|row| row.reason.as_str()).collect();
        assert_eq!(rows, BTreeSet::from(["meta_phrase", "other_language"]));
        let shared = explained["answer"]["describe"]["shared_by"].as_f64().expect("a number");
        assert!(shared == 1.0 || shared == 2.0, "{shared}");
        let cost = explained["answer"]["cost_of_pair_usd"].as_f64().expect("a number");
        assert!((cost - CALL_USD * (1.0 + 1.0 / shared)).abs() < 1e-12, "{cost}");
    }
    assert!(leaking > 0 && whole > 0, "{leaking} leak, {whole} do not");
    assert!(rejects.iter().all(|row| !row.detail.contains("Quadrat")));

    // What all pairs cost is what was paid.
    let rows = place.rows::<AnnotationRow>("tables");
    let dataset = Dataset::open(&place.store("tables"), &At::Latest).expect("an epoch");
    let contents = rows.iter().map(|row| row.query_content_id.as_str());
    let answers = Answers::about(&dataset, &contents.collect()).expect("the table");
    let instructed = rows.iter().filter(|row| row.task == "instruct");
    let costs: f64 = instructed.filter_map(|row| answers.cost(row)).sum();
    let paid: f64 = rows.iter().filter_map(|row| row.cost_usd).sum();
    assert!((costs - paid).abs() < 1e-9 && paid > 0.0, "{costs} and {paid}");

    // Pairs without a triplet say why, by their images, their id or their request's.
    let pairs = place.rows::<PairRow>("tables");
    let without = pairs
        .iter()
        .filter(|row| !shown.contains(&(row.query_id.as_str(), row.target_id.as_str())));
    let (mut too_few, mut refused) = (0, 0);
    for pair in without.take(12) {
        let id = schemas::triplet_id(&pair.query_id, &pair.target_id);
        let named = ["--query", &pair.query_id, "--target", &pair.target_id];
        let by_images = explained(&place, &named);
        assert_eq!(explained(&place, &[&id]), by_images);
        let request = by_images["answer"]["request_id"].as_str().expect("a request");
        let by_request = explained(&place, &[&request[..40]]);
        assert_eq!(by_request["why"], by_images["why"]);
        assert_eq!(by_request["left_out"], by_images["left_out"]);
        assert_eq!(by_request["query_id"], pair.query_id);
        assert_eq!(by_request["triplets"], json!([]));
        let why = by_images["why"].as_str().expect("a sentence");
        let said = place.everpair("tables", &["explain", &id]).ended(0).out;
        assert!(said.contains(&format!("no triplet {id}")) && said.contains(why), "{said}");
        match kind(request) {
            0 => {
                assert!(why.starts_with("2 of 4 instructions pass the rules"), "{why}");
                assert_eq!(reasons(&by_images), ["meta_phrase", "other_language"]);
                assert_eq!(by_images["left_out"].as_array().map(Vec::len), Some(4));
                assert!(said.contains(GERMAN) && said.contains("reads as \"de\""), "{said}");
                too_few += 1;
            }
            1 => {
                assert_eq!(why, "its request ended without an answer: refused");
                refused += 1;
            }
            _ => panic!("there should be a triplet: {by_images:#}"),
        }
    }
    assert!(too_few > 0 && refused > 0, "{too_few} with too few, {refused} refused");
    let described = rows.iter().find(|row| row.task == "describe").expect("a description");
    let said = explained(&place, &[&described.request_id]);
    assert_eq!((&said["why"], &said["left_out"]), (&Value::Null, &json!([])));

    // And so does the page.
    let page = place.path("page.html");
    let words = ["gallery", "--out", page.to_str().expect("UTF-8"), "--count", "8"];
    assert!(place.everpair("tables", &words).ended(0).out.ends_with("page.html\n"));
    let html = std::fs::read_to_string(page).expect("a page");
    assert_eq!(html.matches("<article").count(), 10, "8 triplets and 2 answers without one");
    assert!(html.contains("<h2>Answers that made no triplet</h2>"));
    assert!(html.contains("No triplet: 2 of 4 instructions pass the rules"));
    assert!(html.contains(GERMAN) && html.contains("other_language</span>"));
    assert!(html.contains("a-model, prompt 1001, $0.000"));
    assert!(html.contains("data:image/jpeg;base64,"));
}

/// What models are shown as good passes every rule, and captions made of what they are told about the
/// targets are not given away, but by themselves.
#[test]
fn demonstrations_are_fit_to_train_on() {
    let file = include_str!("../../src/annotator/openai/prompts/instruct.toml");
    let file: toml::Table = toml::from_str(file).expect("TOML");
    let rules = Filter { languages: vec!["en".into()], ..Filter::default() };
    let shown = file["demonstrations"].as_array().expect("a list");
    let mut judged = 0;
    for one in shown {
        let texts = one["instructions"].as_array().expect("a list").iter();
        let texts: Vec<String> =
            texts.map(|text| text.as_str().expect("a text").to_owned()).collect();
        let said = one["description"].as_str().expect("a text");
        let (common, rest) = said.split_once(". However, ").expect("two sentences");
        let (_, target) = rest.split_once("whereas the target has ").expect("two sides");
        let common = common.trim_start_matches("Both show");
        let mut answer = answer_of(texts);
        let (passing, failures) = filter::judge(&answer, &rules);
        assert!(failures.is_empty(), "{failures:?}");
        judged += passing.len();
        for caption in [target.to_owned(), format!("{common} with {target}")] {
            let leaks = filter::leaks(&answer, Some(&caption), &rules);
            assert!(leaks.is_empty(), "{caption}: {leaks:?}");
        }
        let caption = format!("{common} with {target}");
        answer.instructions.push(format!("Show me {caption}"));
        let leaks = filter::leaks(&answer, Some(&caption), &rules);
        assert_eq!(leaks.len(), 1, "{caption}");
    }
    assert!(judged >= 60, "{judged} instructions");
}

fn answer_of(instructions: Vec<String>) -> Answer {
    Answer {
        request_id: "r".into(),
        query: ContentId::of(b"q"),
        target: ContentId::of(b"t"),
        model: "a-model".into(),
        prompt_version: 1001,
        ok: true,
        description: None,
        instructions,
        audits: Vec::new(),
    }
}

/// What leaks depends on the caption of today, which no request knows.
#[test]
fn a_caption_that_changes_takes_and_gives_back_what_leaks() {
    let server = Server::start(|asked, stream| match asked.describes() {
        true => send_good(asked, stream),
        false => {
            let texts =
                ["with corners, not round", LEAK, "what about four equal sides", "no curves"];
            let said = json!({ "instructions": texts }).to_string();
            send(stream, "200 OK", &[], reply(&said, "stop").to_string().as_bytes());
        }
    });
    let place = loaded(&server);
    let asked = server.counts();
    let leak = LEAK.to_owned();
    let triplets = place.rows::<TripletRow>("tables");
    // "no curves" is too short, so that those that leak have too few others.
    assert!(triplets.iter().all(|row| row.instructions.len() == 3), "{triplets:#?}");
    assert!(!triplets.is_empty());
    let changed = triplets[0].clone();
    assert_ne!(caption(&place, &changed.target_id), TOLD);

    let image = |id: &str| {
        let scenes = scenes::scenes(40, 12).map(Message::from);
        let mut scenes = scenes.filter(|message| message.key == id);
        scenes.next().expect("its scene")
    };
    let find = |place: &Place| {
        let rows = place.rows::<TripletRow>("tables").into_iter();
        rows.filter(|row| row.target_id == changed.target_id).collect::<Vec<_>>()
    };
    let before = find(&place);
    place.log().send([image(&changed.target_id).with("caption", TOLD)]);
    place.catch_up("tables");
    assert!(find(&place).is_empty(), "each says what the caption says now");
    let log = place.rows::<ChangeRow>("tables").into_iter();
    let left = log.filter(|row| row.triplet_id == changed.triplet_id && row.op == "delete");
    assert_eq!(left.map(|row| row.reason).collect::<Vec<_>>(), ["image"]);
    place.verify("tables");

    place.log().send([image(&changed.target_id).with("caption", "shapes")]);
    place.catch_up("tables");
    let after = find(&place);
    assert!(after.iter().all(|row| row.instructions.contains(&leak)));
    assert_eq!(after.len(), before.len());
    place.verify("tables");
    assert_eq!(server.counts(), asked, "nothing was asked for it");
}
