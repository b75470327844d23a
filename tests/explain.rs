//! `everpair explain` as a person uses it: by a whole id, by its beginning, and after it has left.

use everpair::scenes;
use schemas::tables::{AnnotationRow, EmbeddingRow, ImageRow};
use serde_json::Value;

use crate::service::place::{Message, Place};

const SEED: u64 = 44;
const IMAGES: usize = 70;

#[test]
fn a_triplet_is_traced_to_its_messages_scores_and_answer() {
    let place = Place::new();
    let filter = "[filter]\nwords_min = 6\ninstructions_min = 1\nleak_max = 1.0\n";
    place.configure("tables", &format!("[epoch]\nrows = 30\nlinger = \"50 ms\"\n{filter}"));
    let mut log = place.log();
    log.send(scenes::scenes(IMAGES, SEED).map(Message::from));
    place.catch_up("tables");
    place.everpair("tables", &["snapshot", "create", "before"]).ended(0);

    let tables = place.tables("tables");
    let answers: Vec<AnnotationRow> = place.rows("tables");
    let shortened = |id: &str| {
        let row = answers.iter().find(|row| row.request_id == id).expect("its answer");
        row.instructions.len()
    };
    let triplet = tables.triplets.iter();
    let mut triplet = triplet.filter(|row| shortened(&row.request_id) > row.instructions.len());
    let triplet = triplet.next().expect("one of whose instructions some were too short");
    let id = triplet.triplet_id.as_str();
    let said = place.everpair("tables", &["explain", id, "--json"]).ended(0).out;
    let explained: Value = serde_json::from_str(&said).expect("JSON");
    let image = |id: &str| -> &ImageRow {
        tables.images.iter().find(|row| row.image_id == id).expect("its image")
    };
    for (role, image_id) in [("query", &triplet.query_id), ("target", &triplet.target_id)] {
        let row = image(image_id);
        assert_eq!(explained[role]["image_id"], row.image_id);
        assert_eq!(explained[role]["content_id"], row.content_id);
        assert_eq!(explained[role]["partition"], row.partition);
        assert_eq!(explained[role]["offset"], row.offset);
        assert!(explained[role]["measures"]["blur"].as_f64().is_some());
    }
    let negatives = explained["hard_negatives"].as_array().expect("a list").iter();
    let negatives: Vec<&str> = negatives.filter_map(|image| image["image_id"].as_str()).collect();
    assert_eq!(negatives, triplet.hard_negatives);
    let pair = tables
        .pairs
        .iter()
        .find(|row| row.query_id == triplet.query_id && row.target_id == triplet.target_id);
    let ranks = serde_json::to_value(pair.expect("it is mined").ranks).expect("JSON");
    assert_eq!(explained["pair"]["ranks"], ranks);
    let embeddings: Vec<EmbeddingRow> = place.rows("tables");
    let of_query = embeddings
        .iter()
        .find(|row| row.content_id == triplet.query_content_id && row.channel == "semantic");
    let encoder = &explained["in_force"]["channels"]["semantic"]["encoder"];
    assert_eq!(*encoder, of_query.expect("its vector").encoder);
    assert_eq!(explained["answer"]["request_id"], triplet.request_id);
    let shown = explained["instructions"].as_array().expect("a list").len();
    let left_out = explained["left_out"].as_array().expect("a list");
    assert_eq!(shown + left_out.len(), shortened(&triplet.request_id));
    assert!(left_out.iter().all(|one| one["reason"] == "too_short"), "{left_out:?}");
    assert_eq!(explained["changes"][0]["op"], "insert");

    // For people, by a beginning of the id.
    let said = place.everpair("tables", &["explain", &id[..16]]).ended(0).out;
    let (offset, label) = (image(&triplet.query_id).offset, &triplet.audits[0].label);
    for words in [id, &triplet.instructions[0], label, &format!("offset {offset}"), "too_short"] {
        assert!(said.contains(words), "no {words:?} in:\n{said}");
    }
    for bad in ["", "nobody", &id.to_uppercase(), &format!("{id}{id}0"), &triplet.query_id] {
        let said = place.everpair("tables", &["explain", bad]).ended(2);
        said.says("is no triplet id: that is 32 of 0-9 a-f");
    }
    place.everpair("tables", &["explain", "--sql", "' OR 1"]).ended(2).says("is no triplet id");
    let other: String = id.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    place.everpair("tables", &["explain", &other]).ended(1).says("nor had one before");

    // Once it has left, the log still knows it, and so does the snapshot.
    log.send([Message::tombstone(&triplet.target_id)]);
    place.catch_up("tables");
    let gone = place.everpair("tables", &["explain", id]).ended(1).says("reason image");
    let log = place.tables("tables").changes.into_iter();
    let left = log.filter(|row| row.triplet_id == id && row.op == "delete").map(|row| row.epoch);
    gone.says(&format!("left in epoch {}", left.max().expect("its last entry")));
    let again = ["explain", id, "--at", "before", "--json"];
    let again: Value =
        serde_json::from_str(&place.everpair("tables", &again).ended(0).out).expect("JSON");
    assert_eq!(again, explained);
    // gc removes it from the snapshot, and it is the image that is the cause, not the config.
    place.everpair("tables", &["gc", "--take-over"]).ended(0);
    let said = place.everpair("tables", &["explain", id, "--at", "before"]).ended(1);
    assert!(!said.err.contains("config"), "{}", said.err);
    let said = said.says("`everpair gc` has since removed its row").says("reason image");
    said.says(&format!("because image {:?} was taken down", triplet.target_id));
    place.everpair("tables", &["explain", id]).ended(1).says("reason image");
    place.everpair("tables", &["explain"]).ended(2);
}
