//! Audits of instructions, beside ranks worked out from the tables alone.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use everpair::scenes::{self, Scene};
use kernels::{
    encoders::text_encoder,
    vector::{dot_naive, from_le_bytes},
};
use operators::flow::TASK;
use schemas::{
    ContentId,
    tables::{AnnotationRow, Audit, EmbeddingRow, ImageRow, PairRow, TripletRow},
};
use serde_json::json;

use super::server::{Asked, Server, reply, send, send_good};
use crate::service::place::{Message, Place};

const WORDS: &str = "builtin:words";

/// Both halves of one encoder: an image's vector is that of its caption.
fn message(scene: Scene) -> Message {
    let caption = scene.caption.unwrap_or_default();
    let encoder = text_encoder(WORDS).expect("it is built in");
    let mut vectors = json!({});
    if let Some(vector) = &encoder.encode(&[&caption])[0] {
        vectors["semantic"] = vector.iter().map(|x| f64::from(*x) / 32768.0).collect();
    }
    let image = STANDARD.encode(&scene.jpeg_or_png);
    let value = json!({ "image": image, "caption": caption, "vectors": vectors });
    Message { key: scene.id, value: Some(value.to_string().into_bytes()), headers: Vec::new() }
}

/// A model that says what the target's caption says, half of it, and what has nothing to do with it.
fn tells(asked: &Asked, stream: &mut std::net::TcpStream) {
    let text = asked.text();
    let answer = if asked.describes() {
        let caption = |name: &str| {
            let begins = format!("Caption of {name}: ");
            let line = text.lines().find_map(|line| line.strip_prefix(&*begins));
            line.unwrap_or("(none)").to_owned()
        };
        json!({ "common": "something", "a": caption("A"), "b": caption("B") })
    } else {
        let described = text.lines().find(|line| line.starts_with("Both show something"));
        let target = described.and_then(|line| line.split_once("whereas the target "));
        let target = target.expect("the description").1.trim_end_matches('.').to_owned();
        let words: Vec<&str> = target.split(' ').collect();
        let half = words[words.len() / 2..].join(" ");
        let texts = [
            target.clone(),
            format!("the same with {half}"),
            "Make it bigger, brighter and a bit more cheerful".to_owned(),
            format!("I want {} here", words.last().expect("a word")),
        ];
        json!({ "instructions": texts })
    };
    let body = reply(&answer.to_string(), "stop").to_string();
    send(stream, "200 OK", &[], body.as_bytes());
}

fn config(server: &Server, gallery: usize, more: &str) -> String {
    format!(
        "[annotator]\nkind = \"openai\"\nurl = {:?}\nmodel = \"a-model\"\ncaptions = true\n\
         input_price = 1.0\noutput_price = 2.0\nbudget = 10.0\nconcurrency = 4\nsettle = \"0 s\"\n\
         [channels.semantic]\nencoder = \"given\"\ndim = 256\nband = [0.2, 0.97]\n\
         [audit]\ntext_encoder = {WORDS:?}\ngallery = {gallery}\nfound_within = 3\n\
         [filter]\ninstructions_min = 1\n{more}\n[epoch]\nlinger = \"50 ms\"\n",
        server.url()
    )
}

/// What the tables say, worked out anew.
struct Oracle {
    /// By content.
    names: BTreeMap<String, String>,
    vectors: BTreeMap<String, Box<[i16]>>,
    retrieved: BTreeMap<String, BTreeSet<String>>,
}

impl Oracle {
    fn of(place: &Place) -> Oracle {
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut images = place.rows::<ImageRow>("tables");
        images.sort_by(|a, b| a.image_id.cmp(&b.image_id));
        for row in images {
            names.entry(row.content_id).or_insert(row.image_id);
        }
        let vectors = place.rows::<EmbeddingRow>("tables").into_iter();
        let vectors = vectors.filter(|row| row.channel == "semantic").filter_map(|row| {
            let name = names.get(&row.content_id)?;
            // An empty one says that there is none.
            Some((name.clone(), from_le_bytes(&row.vector)?))
        });
        let vectors = vectors.collect();
        let mut retrieved: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in place.rows::<PairRow>("tables") {
            let of = retrieved.entry(row.query_id).or_default();
            of.insert(row.target_id);
            of.extend(row.hard_negatives);
        }
        Oracle { names, vectors, retrieved }
    }

    fn audits(&self, row: &AnnotationRow, gallery: usize) -> Vec<Audit> {
        let [query, target] =
            [&row.query_content_id, &row.target_content_id].map(|content| &self.names[content]);
        let mut sample: Vec<&String> = self.names.values().collect();
        sample.sort_by_key(|name| ContentId::of(name.as_bytes()));
        sample.truncate(gallery);
        let ranked: BTreeSet<&String> = sample
            .into_iter()
            .chain(&self.retrieved[query])
            .chain([target])
            .filter(|name| *name != query && self.vectors.contains_key(*name))
            .collect();
        let texts: Vec<&str> = row.instructions.iter().map(String::as_str).collect();
        let texts = text_encoder(WORDS).expect("it is built in").encode(&texts);
        let none = Audit {
            label: "unresolved".into(),
            rank_text: None,
            rank_image: None,
            rank_both: None,
            verdict: None,
        };
        let of_text = |text: Option<Box<[i16]>>| {
            let both_there = self.vectors.get(query).zip(self.vectors.get(target));
            let Some((text, (query, _))) = text.zip(both_there) else { return none.clone() };
            let rank = |by_text: i64, by_image: i64| {
                let mut order: Vec<(i64, &String)> = Vec::new();
                for name in &ranked {
                    let image = &self.vectors[*name];
                    let score = by_text * i64::from(dot_naive(&text, image))
                        + by_image * i64::from(dot_naive(query, image));
                    order.push((-score, name));
                }
                order.sort();
                order.iter().position(|(_, name)| *name == target).expect("it is among them") + 1
            };
            let [text, image, both] = [rank(1, 0), rank(0, 1), rank(1, 1)];
            let label = match () {
                () if ranked.len() < 30 => "unresolved",
                () if text <= 3 => "shortcut_text",
                () if image <= 3 => "shortcut_image",
                () if both <= 3 => "composition_required",
                () => "unresolved",
            };
            let [rank_text, rank_image, rank_both] =
                [text, image, both].map(|rank| Some(i32::try_from(rank).expect("few images")));
            Audit { label: label.into(), rank_text, rank_image, rank_both, verdict: None }
        };
        texts.into_iter().map(of_text).collect()
    }
}

fn instructed(place: &Place) -> Vec<AnnotationRow> {
    let mut rows = place.rows::<AnnotationRow>("tables");
    rows.retain(|row| row.task == TASK && row.outcome == "ok");
    rows.sort_by(|a, b| a.request_id.cmp(&b.request_id));
    rows.iter_mut().for_each(|row| row.epoch = 0);
    rows
}

#[test]
fn every_instruction_is_audited_before_it_enters() {
    let server = Server::start(tells);
    let mut labels: BTreeMap<String, usize> = BTreeMap::new();
    // All images, and a sample of them, beside what was retrieved.
    for gallery in [1_000, 25] {
        server.forget();
        let place = Place::new();
        place.configure("tables", &config(&server, gallery, ""));
        let corpus = 90;
        place.log().send(scenes::scenes(corpus, 5).map(message));
        // Answers that wait for their epoch at a kill are audited by the next run.
        let mut running = place.start("tables");
        running.wait_until("some calls", || server.asked().len() >= 40);
        running.kill();
        place.catch_up("tables");
        place.verify("tables");
        let (rows, oracle) = (instructed(&place), Oracle::of(&place));
        assert!(rows.len() > 100, "{} answers", rows.len());
        for row in &rows {
            let expected = oracle.audits(row, gallery);
            assert_eq!(row.audits, expected, "of {row:?} in a gallery of {gallery}");
            expected.into_iter().for_each(|one| *labels.entry(one.label).or_default() += 1);
        }

        // The corpus grows: what was found out stays.
        place.log().send(scenes::scenes(corpus + 40, 5).skip(corpus).map(message));
        place.catch_up("tables");
        place.verify("tables");
        let grown = instructed(&place);
        assert!(grown.len() > rows.len());
        assert!(rows.iter().all(|row| grown.contains(row)), "a stored audit has changed");

        // Only some labels are published.
        let more = "labels = [\"composition_required\", \"unresolved\"]";
        place.configure("tables", &config(&server, gallery, more));
        place.everpair("tables", &["run", "--until-caught-up"]).ended(1).says("labels");
        let asked = server.asked().len();
        place.everpair("tables", &["run", "--until-caught-up", "--apply"]).ended(0);
        assert_eq!(server.asked().len(), asked, "labels ask nothing");
        place.verify("tables");
        let triplets = place.rows::<TripletRow>("tables");
        let published: BTreeSet<&str> =
            triplets.iter().flat_map(|row| &row.audits).map(|audit| &*audit.label).collect();
        assert_eq!(published, BTreeSet::from(["composition_required", "unresolved"]));
        assert!(triplets.iter().all(|row| row.audits.len() == row.instructions.len()));
    }
    println!("{labels:?}");
    assert!(labels.len() == 4 && labels.values().all(|count| *count > 5), "{labels:?}");
}

#[test]
fn halves_that_do_not_belong_together_are_refused() {
    let server = Server::start(send_good);
    let place = Place::new();
    let other = config(&server, 100, "").replace("dim = 256", "dim = 255");
    place.configure("tables", &other);
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(1);
    said.says("[audit] text_encoder").says("256 components").says("255");
    let caption =
        config(&server, 100, "").replace("found_within", "channel = \"caption\"\nfound_within");
    place.configure("tables", &caption);
    place.everpair("tables", &["validate"]).ended(2).says("\"semantic\" or \"pattern\"");
}
