//! Images that came without a caption, and a model that writes one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Condvar, Mutex},
};

use arrow_array::cast::AsArray;
use everpair::{
    annotator::openai::{
        journal,
        library::{self, Library},
    },
    delta, gc,
    requests::{self, Request},
    scenes,
    service::specs,
};
use operators::flow::{CAPTION, CaptionerId};
use schemas::{
    ContentId,
    tables::{AnnotationRow, ChangeRow, ContentRow, EmbeddingRow, ImageRow, PairRow, TripletRow},
};
use serde_json::{Value, json};

use super::{
    pipeline::annotator,
    server::{Asked, Server, reply, send, send_good},
};
use crate::{
    export::table_rows,
    service::place::{Message, Place},
};

const CAPTIONS: [&str; 3] = [
    "a large red circle above a small green square",
    "two blue triangles beside a red circle",
    "a small green square below three yellow circles",
];

/// Which caption a picture gets; one in five is refused.
fn caption_of(asked: &Asked) -> Option<&'static str> {
    let n = usize::from_str_radix(&asked.id[..4], 16).expect("an id is hex digits");
    (!n.is_multiple_of(5)).then(|| CAPTIONS[n % CAPTIONS.len()])
}

fn server() -> Server {
    Server::start(|asked, stream| {
        if !asked.captions() {
            return send_good(asked, stream);
        }
        let said = match caption_of(asked) {
            Some(caption) => json!({ "caption": caption }).to_string(),
            None => "I'm sorry, I can't help with that.".into(),
        };
        send(stream, "200 OK", &[], reply(&said, "stop").to_string().as_bytes());
    })
}

/// Four of ten come without a caption.
fn messages(from: usize, to: usize) -> impl Iterator<Item = Message> {
    scenes::scenes(to, 11).enumerate().skip(from).map(|(n, mut scene)| {
        scene.caption = scene.caption.filter(|_| n % 10 >= 4);
        Message::from(scene)
    })
}

fn with_captioner(server: &Server, more: &str) -> String {
    format!("[captioner]\nmodel = \"a-model\"\n{}", annotator(server, more))
}

fn place(server: &Server) -> Place {
    let place = Place::new();
    place.configure("tables", &with_captioner(server, ""));
    place.log().send(messages(0, 60));
    place
}

/// Contents that are mined without a caption of their own, by the mined image.
fn without(place: &Place) -> BTreeMap<String, String> {
    let mut mined: BTreeMap<String, ImageRow> = BTreeMap::new();
    for row in place.rows::<ImageRow>("tables") {
        let held = mined.entry(row.content_id.clone()).or_insert_with(|| row.clone());
        if row.image_id < held.image_id {
            *held = row;
        }
    }
    let lacking = mined.into_values().filter(|row| row.caption.is_none());
    lacking.map(|row| (row.image_id, row.content_id)).collect()
}

/// The outcomes of requests for captions, by content.
fn captions(place: &Place) -> BTreeMap<String, AnnotationRow> {
    let rows = place.rows::<AnnotationRow>("tables").into_iter();
    let rows = rows.filter(|row| row.task == CAPTION);
    rows.map(|row| (row.query_content_id.clone(), row)).collect()
}

fn pairs(place: &Place, name: &str) -> BTreeSet<(String, String, String)> {
    let rows = place.rows::<PairRow>(name).into_iter();
    rows.map(|row| {
        let at = format!("{:?} {:?} {:?}", row.channels, row.ranks, row.hard_negatives);
        (row.query_id, row.target_id, at)
    })
    .collect()
}

#[test]
fn images_without_a_caption_get_one_and_their_pairs_wait_for_it() {
    let server = server();
    let place = place(&server);
    place.catch_up("tables");
    place.verify("tables");
    let (without, captions) = (without(&place), captions(&place));
    assert!(without.len() >= 15, "{without:?}");
    let contents: BTreeSet<&String> = without.values().collect();
    assert_eq!(captions.keys().collect::<BTreeSet<_>>(), contents);
    let asked = server.asked();
    let of_captions: Vec<&Asked> = asked.iter().filter(|asked| asked.captions()).collect();
    assert_eq!(of_captions.len(), captions.len(), "each is asked for once");
    for asked in of_captions {
        let row = captions.values().find(|row| row.request_id == asked.id).expect("its outcome");
        assert_eq!(asked.images().len(), 1);
        let expected = caption_of(asked);
        assert_eq!(row.description.as_deref(), expected, "{row:?}");
        assert_eq!(row.outcome, if expected.is_some() { "ok" } else { "refused" });
        assert_eq!(row.target_content_id, row.query_content_id);
        assert!(row.instructions.is_empty() && row.cost_usd > Some(0.0), "{row:?}");
    }
    // A caption changes which pairs there are, and no pair was asked about before it was there: one
    // call for each pair that there is in the end, and no call for another.
    let rows = place.rows::<PairRow>("tables");
    let counts = server.counts();
    assert_eq!(counts.1, rows.len(), "{counts:?}");
    assert_eq!(place.rows::<TripletRow>("tables").len(), rows.len());
    let by_caption = |row: &&PairRow| {
        row.channels.iter().any(|channel| channel == "caption")
            && (without.contains_key(&row.query_id) || without.contains_key(&row.target_id))
    };
    let proposed = rows.iter().find(by_caption).expect("a written caption proposes a pair");
    let vectors = place.rows::<EmbeddingRow>("tables");
    for text in CAPTIONS {
        let id = ContentId::of(text.as_bytes()).hex();
        assert!(vectors.iter().any(|row| row.channel == "caption" && row.content_id == id));
    }

    let status = place.everpair("tables", &["status"]).ended(0).out;
    for what in ["caption", "pair"] {
        assert!(status.contains(&format!("s a {what}; the 0 that wait take about")), "{status}");
    }

    // Nothing is asked twice, also after a restart.
    server.forget();
    place.catch_up("tables");
    assert!(server.asked().is_empty());
    shows(&place, proposed, &without, &captions);
}

/// Whoever looks sees that a model wrote it.
fn shows(
    place: &Place,
    pair: &PairRow,
    without: &BTreeMap<String, String>,
    captions: &BTreeMap<String, AnnotationRow>,
) {
    let id = schemas::triplet_id(&pair.query_id, &pair.target_id);
    let said = place.everpair("tables", &["explain", &id, "--json"]).ended(0);
    let said: Value = serde_json::from_str(&said.out).expect("JSON");
    let mut written = 0;
    for (side, id) in [("query", &pair.query_id), ("target", &pair.target_id)] {
        let image = &said[side];
        let Some(content) = without.get(id) else {
            assert!(image["caption_by"].is_null(), "{image:#}");
            continue;
        };
        assert_eq!(image["caption"].as_str(), captions[content].description.as_deref());
        let by = image["caption"].as_str().map(|_| "a-model");
        assert_eq!(image["caption_by"].as_str(), by, "{image:#}");
        written += by.iter().len();
    }
    assert!(written > 0, "{said:#}");
    let said = place.everpair("tables", &["explain", &id]).ended(0);
    assert!(said.out.contains("(written by a-model)"), "{}", said.out);
    // Bands are drawn from the vectors that are mined.
    let said = place.everpair("tables", &["calibrate", "--json"]).ended(0);
    let said: Value = serde_json::from_str(&said.out).expect("JSON");
    let channels = said["channels"].as_array().expect("channels");
    let by_caption = channels.iter().find(|channel| channel["channel"] == "caption");
    let rows = place.rows::<ImageRow>("tables").into_iter();
    let mined = rows.map(|row| row.content_id).collect::<BTreeSet<_>>().len();
    let unwritten = captions.values().filter(|row| row.description.is_none()).count();
    assert_eq!(by_caption.expect("a channel")["vectors"], mined - unwritten);
}

#[test]
fn without_a_captioner_the_tables_are_as_if_there_had_been_none() {
    let server = server();
    let place = place(&server);
    place.catch_up("tables");
    place.configure("never", &annotator(&server, ""));
    place.catch_up("never");
    assert_ne!(pairs(&place, "tables"), pairs(&place, "never"));
    place.configure("tables", &annotator(&server, ""));
    let run = ["run", "--until-caught-up", "--apply"];
    place.everpair("tables", &run[..2]).ended(1).says("captioner").says("--apply");
    place.everpair("tables", &run).ended(0);
    place.verify("tables");
    assert_eq!(pairs(&place, "tables"), pairs(&place, "never"));
    // And back: what was written is there.
    let calls = server.captioned();
    place.configure("tables", &with_captioner(&server, ""));
    place.everpair("tables", &run).ended(0);
    place.verify("tables");
    let now = server.captioned();
    assert_eq!(now, calls);
    // A caption that comes with a message counts before one that was written.
    let (image_id, content) = without(&place).into_iter().next().expect("one");
    let n = (0..60).find(|n| scenes::scene(*n, 11).id == image_id).expect("its scene");
    let own = Message::from(scenes::scene(n, 11)).with("caption", "one thing and another");
    place.log().send([own]);
    place.catch_up("tables");
    place.verify("tables");
    assert!(captions(&place).contains_key(&content), "what was paid for stays");
    assert!(!without(&place).contains_key(&image_id));
}

#[test]
fn what_was_written_leaves_with_its_image() {
    let server = server();
    let place = place(&server);
    place.catch_up("tables");
    let captions = captions(&place);
    let without = without(&place);
    // A text that only images that leave have.
    let text = CAPTIONS[0];
    let has = |content: &String| captions[content].description.as_deref() == Some(text);
    let leave: Vec<&String> =
        without.iter().filter(|(_, content)| has(content)).map(|(id, _)| id).collect();
    assert!(!leave.is_empty());
    let vector = ContentId::of(text.as_bytes()).hex();
    let holds = |place: &Place| {
        place.rows::<EmbeddingRow>("tables").iter().any(|row| row.content_id == vector)
    };
    assert!(holds(&place));
    place.log().send(leave.iter().map(|id| Message::tombstone(id)));
    place.catch_up("tables");
    place.everpair("tables", &["gc", "--take-over"]).ended(0);
    assert!(!holds(&place), "its vector is collected");
    let left = self::captions(&place);
    assert!(left.values().all(|row| row.description.as_deref() != Some(text)));
    assert!(left.values().any(|row| row.description.is_some()), "the others stay");
    // It comes back: a caption is asked for again.
    server.forget();
    let n = (0..60).find(|n| scenes::scene(*n, 11).id == **leave[0]).expect("its scene");
    place.log().send(messages(n, n + 1));
    place.catch_up("tables");
    place.verify("tables");
    assert_eq!(server.captioned(), 1);
    assert_eq!(self::captions(&place)[&without[leave[0]]].description.as_deref(), Some(text));
}

#[test]
fn killed_while_captions_come_it_goes_on() {
    let server = server();
    let place = place(&server);
    let slow = with_captioner(&server, "settle = \"0 s\"\nconcurrency = 4");
    place.configure("tables", &slow.replace("50 ms", "300 ms"));
    let mut known: HashSet<String> = HashSet::new();
    for calls in [3, 8, 15, 40] {
        let mut running = place.start("tables");
        running.wait_until("some calls", || server.asked().len() >= calls);
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
    let asked = server.asked();
    let again = asked[before..].iter().filter(|asked| known.contains(&asked.id)).count();
    assert_eq!(again, 0, "of {} that were answered", known.len());
    assert_eq!(captions(&place).len(), without(&place).len());
    assert_eq!(place.rows::<TripletRow>("tables").len(), place.rows::<PairRow>("tables").len());
}

#[test]
fn another_model_or_prompt_writes_captions_anew() {
    let server = server();
    let place = place(&server);
    place.catch_up("tables");
    let bare = without(&place).len();
    let run = ["run", "--until-caught-up", "--apply"];
    let model = |name: &str| {
        let config = with_captioner(&server, "");
        config.replacen("\"a-model\"", &format!("{name:?}"), 1)
    };
    place.configure("tables", &model("eyes"));
    server.forget();
    place.everpair("tables", &run[..2]).ended(1).says("captioner").says("--apply");
    place.everpair("tables", &run).ended(0);
    place.verify("tables");
    let of_captions = |model: &str| {
        let asked = server.asked().into_iter().filter(Asked::captions);
        asked.filter(|asked| asked.body["model"] == model).count()
    };
    assert_eq!((of_captions("eyes"), server.captioned()), (bare, bare));

    // Other words ask again under a version of their own.
    let words = include_str!("../../src/annotator/openai/prompts/caption.toml");
    std::fs::write(place.path("caption.toml"), words.replace("version = 1\n", "version = 2\n"))
        .expect("a prompt");
    let own = format!("{}\n[annotator.prompts]\ncaption = \"caption.toml\"\n", model("eyes"));
    place.configure("tables", &own);
    place.everpair("tables", &run).ended(0);
    place.verify("tables");
    assert_eq!((of_captions("eyes"), server.captioned()), (2 * bare, 2 * bare));
    let versions: BTreeSet<(String, i32)> = place
        .rows::<AnnotationRow>("tables")
        .into_iter()
        .filter(|row| row.task == CAPTION)
        .map(|row| (row.model, row.prompt_version))
        .collect();
    let of = |model: &str, version: i32| (model.to_owned(), version);
    assert_eq!(versions, [of("a-model", 1), of("eyes", 1), of("eyes", 2)].into());

    // Back with the first: its captions are there.
    server.forget();
    place.configure("tables", &model("a-model"));
    place.everpair("tables", &run).ended(0);
    place.verify("tables");
    assert_eq!(server.captioned(), 0);
}

#[test]
fn added_later_it_asks_again_about_pairs_that_read_its_captions_only() {
    let server = server();
    let place = place(&server);
    let reads = "captions = true\n";
    place.configure("tables", &annotator(&server, reads));
    place.catch_up("tables");
    let before: HashSet<String> =
        place.rows::<AnnotationRow>("tables").into_iter().map(|row| row.request_id).collect();
    let (epoch, old) = (place.epoch("tables") as i64, place.rows::<TripletRow>("tables"));
    server.forget();
    // Without captions they are other questions.
    place.configure("tables", &annotator(&server, ""));
    let run = place.everpair("tables", &["run", "--until-caught-up"]).ended(1);
    run.says("captions").says("--apply");
    assert!(server.asked().is_empty());
    place.configure("tables", &with_captioner(&server, reads));
    place.everpair("tables", &["run", "--until-caught-up", "--apply"]).ended(0);
    place.verify("tables");
    let (without, captions) = (without(&place), captions(&place));
    assert_eq!(server.captioned(), without.len());
    assert!(server.asked().iter().all(|asked| !before.contains(&asked.id)), "paid once");
    let rows = place.rows::<TripletRow>("tables");
    assert_eq!(rows.len(), place.rows::<PairRow>("tables").len());

    let is_captioned = |id: &String| {
        without.get(id).is_some_and(|content| captions[content].description.is_some())
    };
    let moved = |row: &&TripletRow| is_captioned(&row.query_id) || is_captioned(&row.target_id);
    for row in rows.iter().filter(|row| !moved(row)) {
        let same = |old: &&TripletRow| old.triplet_id == row.triplet_id;
        if let Some(old) = old.iter().find(same) {
            assert_eq!(row.request_id, old.request_id, "it reads what it read");
        }
    }
    // A caption that is written changes its image as one that is sent.
    let changes = place.rows::<ChangeRow>("tables").into_iter();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for row in changes.filter(|row| row.epoch > epoch && row.op == "delete") {
        let of_old = old.iter().find(|old| old.triplet_id == row.triplet_id);
        if of_old.is_some_and(|old| moved(&old)) {
            assert_ne!(row.reason, "answer", "{row:?}");
        }
        *reasons.entry(row.reason).or_default() += 1;
    }
    assert!(reasons.get("image") > Some(&5), "{reasons:?}");
}

#[test]
fn an_export_of_an_older_epoch_has_no_caption_of_an_image_that_has_gone() {
    let server = server();
    let place = place(&server);
    place.catch_up("tables");
    let (without, captions) = (without(&place), captions(&place));
    let text = CAPTIONS[1];
    let has = |content: &String| captions[content].description.as_deref() == Some(text);
    let with: Vec<&String> = without.values().filter(|content| has(content)).collect();
    let (last, others) = with.split_first().expect("some have it");
    assert!(others.len() > 1, "{with:?}");
    // A content may have several images.
    let images = place.rows::<ImageRow>("tables");
    let take_down = |contents: &[&String]| {
        let of = images.iter().filter(|row| contents.contains(&&row.content_id));
        place.log().send(of.map(|row| Message::tombstone(&row.image_id)));
        place.catch_up("tables");
    };
    // The others are no images of the epoch that goes out, and their captions are still stored.
    take_down(others);
    assert!(others.iter().all(|content| self::captions(&place).contains_key(*content)));
    place.everpair("tables", &["snapshot", "create", "pin"]).ended(0);
    let vector = ContentId::of(text.as_bytes()).hex();
    let exported = |to: &str| {
        let folder = place.path(to);
        let export = ["export", "--format", "parquet", "--as-of", "pin", "--to"];
        let export = [&export[..], &[folder.to_str().expect("a path")]].concat();
        place.everpair("tables", &export).ended(0);
        let vectors = table_rows::<EmbeddingRow>(&folder).0;
        let rows = table_rows::<AnnotationRow>(&folder).0;
        let of_last = rows.iter().any(|row| row.query_content_id == **last);
        (vectors.iter().any(|row| row.content_id == vector), of_last)
    };
    assert_eq!(exported("before"), (true, true));
    take_down(&[last]);
    assert_eq!(exported("behind"), (false, false));

    // Neither does the snapshot keep it, nor what it still shows go.
    place.everpair("tables", &["gc", "--take-over"]).ended(0);
    assert_eq!(exported("collected"), (false, false));
    let left = self::captions(&place);
    assert!(left.values().all(|row| row.description.as_deref() != Some(text)));
    assert!(left.values().any(|row| row.description.is_some()), "the others stay");
    let other = ContentId::of(CAPTIONS[2].as_bytes()).hex();
    assert!(place.rows::<EmbeddingRow>("tables").iter().any(|row| row.content_id == other));
    place.verify("tables");
}

#[test]
fn gc_waits_for_the_epoch_that_takes_back_what_a_forgotten_caption_was_read_for() {
    let server = server();
    let place = place(&server);
    place.configure("tables", &with_captioner(&server, "captions = true\n"));
    place.catch_up("tables");
    let triplets = || place.rows::<TripletRow>("tables");
    let (before, epoch) = (triplets(), place.epoch("tables"));
    let again = ["requests", "again", "--outcome", "ok", "--caption", "--apply"];
    assert!(place.everpair("tables", &again).ended(0).out.contains("`gc` refuses"));
    for gc in [["gc", "--take-over"], ["gc", "--dry-run"]] {
        let refused = place.everpair("tables", &gc).ended(1);
        refused.says("requests again").says("everpair run --until-caught-up");
    }
    assert_eq!(triplets(), before);
    // A service that finds the request when it starts has that epoch first.
    let (store, id) = (place.store("tables"), gc::ask::draw());
    let collect = Some(id.clone());
    requests::ask(&store, &Request { collect, ..Request::default() }).expect("it is asked");
    place.catch_up("tables");
    let text = store.get(&format!("_everpair/gc/{id}.json")).expect("a store").expect("an answer");
    let state: gc::ask::State = serde_json::from_slice(&text).expect("JSON");
    assert!(matches!(state, gc::ask::State::Done(_)), "{state:?}");
    place.verify("tables");
    let went = place.rows::<ChangeRow>("tables").into_iter();
    let went = went.filter(|row| row.epoch == epoch as i64 + 1 && row.op == "delete").count();
    assert!(went > 5, "{went} triplets");
    // The same captions, and so the same questions.
    assert_eq!(captions(&place).len(), without(&place).len());
    assert_eq!(triplets().len(), before.len());
    place.everpair("tables", &["gc", "--take-over"]).ended(0);
    place.verify("tables");
}

#[test]
fn captions_of_a_captioner_that_was_away_have_vectors() {
    // Each picture has another caption, and none was encoded before.
    let server = Server::start(|asked, stream| match asked.captions() {
        true => {
            let said = json!({ "caption": format!("a shape that is called {}", &asked.id[..12]) });
            send(stream, "200 OK", &[], reply(&said.to_string(), "stop").to_string().as_bytes());
        }
        false => send_good(asked, stream),
    });
    let place = place(&server);
    let slow = with_captioner(&server, "settle = \"0 s\"\nconcurrency = 2");
    place.configure("tables", &slow.replace("50 ms", "3 s"));
    let mut running = place.start("tables");
    let written = || {
        let rows = journal::read(&place.store("tables")).expect("a list");
        rows.iter().filter(|row| row.description.is_some()).count()
    };
    running.wait_until("captions are written down", || written() > 3);
    running.kill();
    assert!(written() > 0);
    let run = ["run", "--until-caught-up", "--apply"];
    let eyes = with_captioner(&server, "").replacen("\"a-model\"", "\"eyes\"", 1);
    place.configure("tables", &eyes);
    place.everpair("tables", &run).ended(0);
    assert_eq!(written(), 0, "they are in the memo");
    place.verify("tables");
    place.configure("tables", &with_captioner(&server, ""));
    place.everpair("tables", &run).ended(0);
    place.verify("tables");
}

#[test]
fn a_caption_that_a_kill_left_in_the_memo_changes_its_image_as_any_other() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let open = gate.clone();
    let server = Server::start(move |asked, stream| {
        if !asked.captions() {
            return send_good(asked, stream);
        }
        let closed = open.0.lock().expect("no panic holds it");
        drop(open.1.wait_while(closed, |open| !*open).expect("no panic holds it"));
        let said = json!({ "caption": CAPTIONS[0] }).to_string();
        send(stream, "200 OK", &[], reply(&said, "stop").to_string().as_bytes());
    });
    let place = place(&server);
    place.configure("tables", &annotator(&server, "captions = true\n"));
    place.catch_up("tables");
    let old = place.rows::<TripletRow>("tables");
    let without = without(&place);
    place.configure("tables", &with_captioner(&server, "captions = true\n"));
    let epoch = place.epoch("tables");
    let mut running = place.start_with("tables", &["--apply"]);
    running.wait_until("captions are asked for", || server.captioned() > 0);
    running.wait_until("it is in force", || {
        let latest = place.latest("tables");
        latest.is_some_and(|latest| !latest["in_force"]["captioner"].is_null())
    });
    running.kill();
    let epoch = place.epoch("tables").max(epoch);
    // It was killed when the memo had the captions and nothing else had.
    let captioner = CaptionerId { model: "a-model".into(), prompt_version: 1 };
    let any = place.rows::<AnnotationRow>("tables").remove(0);
    let row = |content: &String| AnnotationRow {
        request_id: captioner.request_id(ContentId::parse(content).expect("a sha256")),
        query_content_id: content.clone(),
        target_content_id: content.clone(),
        task: CAPTION.into(),
        instructions: Vec::new(),
        audits: Vec::new(),
        model: captioner.model.clone(),
        prompt_version: captioner.prompt_version,
        outcome: "ok".into(),
        description: Some(CAPTIONS[1].into()),
        epoch: epoch as i64 + 1,
        ..any.clone()
    };
    let rows: Vec<AnnotationRow> =
        without.values().collect::<BTreeSet<_>>().into_iter().map(row).collect();
    place.memo_ahead("tables", epoch + 1, &rows);
    *gate.0.lock().expect("no panic holds it") = true;
    gate.1.notify_all();
    place.catch_up("tables");
    place.verify("tables");
    let moved = |row: &&TripletRow| {
        without.contains_key(&row.query_id) || without.contains_key(&row.target_id)
    };
    let ids: BTreeSet<&String> = old.iter().filter(moved).map(|row| &row.triplet_id).collect();
    let changes = place.rows::<ChangeRow>("tables").into_iter();
    let went = changes.filter(|row| row.op == "delete" && ids.contains(&row.triplet_id));
    let reasons: Vec<String> = went.map(|row| row.reason).collect();
    assert!(reasons.len() > 5 && reasons.iter().all(|reason| reason == "image"), "{reasons:?}");
}

#[test]
fn a_picture_that_cannot_be_shown_to_a_model_is_told_from_one_that_has_gone() {
    let server = server();
    let place = place(&server);
    place.catch_up("tables");
    let images = place.rows::<ImageRow>("tables");
    let ids: BTreeSet<&String> = images.iter().map(|row| &row.content_id).collect();
    let [taken_down, lost, broken, well] = ids.into_iter().take(4).collect::<Vec<_>>()[..] else {
        panic!("four contents");
    };
    let of = |content: &String| ContentId::parse(content).expect("a sha256");
    let store = place.store("tables");
    let leave = images.iter().filter(|row| row.content_id == *taken_down);
    place.log().send(leave.map(|row| Message::tombstone(&row.image_id)));
    place.catch_up("tables");
    let mut rows = place.rows::<ContentRow>("tables");
    rows.retain(|row| row.content_id == *broken);
    rows[0].image.bytes = Some(b"no picture".to_vec());
    let mut publisher = delta::start(&store, &specs()).expect("the tables can be taken over");
    let gone = |id: &str| [taken_down, lost, broken].iter().any(|gone| *gone == id);
    let forgotten = publisher.forget("contents", &["content_id"], |batch| {
        let ids = batch.column(0).as_string::<i32>();
        Ok(ids.iter().map(|id| id.is_some_and(gone)).collect())
    });
    assert_eq!(forgotten.expect("a commit"), 3);
    drop(publisher);
    place.memo_ahead("tables", place.epoch("tables") + 1, &rows);
    let publisher = delta::start(&store, &specs()).expect("the tables can be taken over");
    publisher.renew_latest().expect("a page");
    let mut library = library::Tables::new(&store, Default::default());
    let mut picture = |content: &String| library.picture(&of(content));
    assert!(picture(well).expect("it can be read").is_some());
    for never in [lost, broken] {
        assert!(picture(never).expect("it can be told").is_none(), "{never}");
    }
    let why = picture(taken_down).expect_err("it is not asked about").to_string();
    assert!(why.contains("no image has it any more"), "{why}");
}
