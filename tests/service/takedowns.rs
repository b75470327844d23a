//! What was taken down is in no row, and what was blocked does not come back.

use everpair::{
    requests::{self, Request},
    scenes,
    verify::Tables,
};
use schemas::{
    ContentId,
    tables::{BlockedRow, RejectRow},
};

use super::place::{Message, Place};

const SEED: u64 = 75;
const IMAGES: usize = 120;

/// Rows of `images`, `pairs` and `triplets` that name an image.
fn named(tables: &Tables, id: &str) -> [usize; 3] {
    let among = |ids: &[String]| ids.iter().any(|other| other == id);
    let pairs = tables.pairs.iter();
    let pairs = pairs.filter(|r| r.query_id == id || r.target_id == id || among(&r.hard_negatives));
    let triplets = tables.triplets.iter();
    let triplets =
        triplets.filter(|r| r.query_id == id || r.target_id == id || among(&r.hard_negatives));
    let images = tables.images.iter().filter(|row| row.image_id == id);
    [images.count(), pairs.count(), triplets.count()]
}

/// The image that most triplets have as a hard negative: the hardest to get rid of.
fn most_named(tables: &Tables) -> String {
    let ids = tables.images.iter().map(|row| row.image_id.clone());
    let id = ids.max_by_key(|id| named(tables, id)[2]).expect("images");
    assert!(named(tables, &id).iter().all(|rows| *rows > 0), "{id} is in every table");
    id
}

/// 120 images; the ids of every sixth come from "shop", and one picture comes under two ids.
fn loaded() -> Place {
    let place = Place::new();
    place.configure("tables", "[epoch]\nrows = 40\nlinger = \"50 ms\"\n");
    let mut log = place.log();
    log.send(scenes::scenes(IMAGES, SEED).enumerate().map(|(index, scene)| {
        let source = if index % 6 == 0 { "shop" } else { "museum" };
        Message::from(scene).with("source", source)
    }));
    place.catch_up("tables");
    place
}

#[test]
fn a_tombstone_leaves_no_row_that_names_the_image() {
    let place = loaded();
    let id = most_named(&place.tables("tables"));
    let said = place.everpair("tables", &["takedown", &id]).ended(0).says("1 tombstone written");
    let said = said.says("1 live image of epoch");
    assert!(!said.err.contains("warning"), "{}", said.err);
    place.catch_up("tables");
    // Said again, it is written again and there is nothing to take down.
    let said = place.everpair("tables", &["takedown", &id, "nobody"]).ended(0);
    let said = said.says("2 tombstones written").says("0 live images of epoch");
    said.says(&format!("warning: 2 named no live image (misspelt, gone already, or not committed yet): nobody, {id}"));
    assert_eq!(named(&place.tables("tables"), &id), [0, 0, 0], "{id}");
    place.verify("tables");

    // A tombstone blocks nothing.
    let index: usize = id["scene-".len()..].parse().expect("a scene's number");
    place.log().send([scenes::scene(index, SEED).into()]);
    place.catch_up("tables");
    assert_eq!(named(&place.tables("tables"), &id)[0], 1, "{id}");
    place.verify("tables");
}

#[test]
fn blocked_contents_and_sources_leave_and_stay_out() {
    let place = loaded();
    let tables = place.tables("tables");
    let id = most_named(&tables);
    let index: usize = id["scene-".len()..].parse().expect("a scene's number");
    let picture = Message::from(scenes::scene(index, SEED));
    let content = ContentId::of(picture.value.as_deref().expect("a picture")).hex();
    // The same bytes under another id are blocked with it.
    place.log().send([Message { key: "copy".into(), ..picture.clone() }]);
    place.catch_up("tables");
    let from_shop = |tables: &Tables| {
        tables.images.iter().filter(|row| row.source.as_deref() == Some("shop")).count()
    };
    assert!(from_shop(&tables) > 1);

    let block = ["takedown", "--block", "--reason", "asked to", "--kind"];
    place.everpair("tables", &[&block[..], &["content", &content]].concat()).ended(0);
    let said = place.everpair("tables", &[&block[..], &["source", "shop"]].concat()).ended(0);
    said.says(&format!("{} live images of epoch", from_shop(&tables)));
    assert_eq!(place.requests("tables"), 2, "they wait for the service");
    place.catch_up("tables");
    assert_eq!(place.requests("tables"), 0, "they are part of an epoch");
    let tables = place.tables("tables");
    assert_eq!(named(&tables, &id), [0, 0, 0], "{id}");
    assert_eq!(named(&tables, "copy"), [0, 0, 0]);
    assert_eq!(from_shop(&tables), 0);
    let held: Vec<(&str, &str)> =
        tables.blocked.iter().map(|row| (row.kind.as_str(), row.value.as_str())).collect();
    assert!(
        held.contains(&("content", &content)) && held.contains(&("source", "shop")),
        "{held:?}"
    );
    assert!(tables.blocked.iter().all(|row| row.reason.as_deref() == Some("asked to")));
    place.verify("tables");

    // What is blocked is not asked for again, and a request that changes nothing makes no epoch.
    let said = place.everpair("tables", &[&block[..], &["source", "shop"]].concat()).ended(0);
    let said = said.says("1 is blocked already: nothing is to be done for that");
    assert!(!said.err.contains("next epoch"), "{}", said.err);
    assert_eq!(place.requests("tables"), 0);
    let asked = Request { block: tables.blocked.clone(), ..Request::default() };
    requests::ask(&place.store("tables"), &asked).expect("a request");
    let epoch = place.epoch("tables");
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(0);
    let said = said.says(&format!("stopped: epoch {epoch} is committed"));
    said.says("what was asked for is so already: nothing changes, and no epoch is written");
    assert_eq!((place.epoch("tables"), place.requests("tables")), (epoch, 0));

    let again = Message { key: "again".into(), ..picture };
    let other = Message::from(scenes::replacement(3, 9, SEED));
    let other = Message { key: "new in the shop".into(), ..other }.with("source", "shop");
    place.log().send([again, other]);
    place.catch_up("tables");
    for id in ["again", "new in the shop"] {
        assert_eq!(named(&place.tables("tables"), id), [0, 0, 0], "{id}");
        assert_eq!(blocked_messages(&place, id), 1, "{id}");
    }
    place.verify("tables");
}

/// Rejects of an image's messages for being blocked.
fn blocked_messages(place: &Place, id: &str) -> usize {
    let rejects = place.rows::<RejectRow>("tables").into_iter();
    let ours = rejects.filter(|row| row.image_id.as_deref() == Some(id) && row.reason == "blocked");
    ours.inspect(|row| assert_eq!(row.stage, "register", "{row:?}")).count()
}

#[test]
fn a_running_service_takes_requests_and_an_id_is_blocked_with_any_picture() {
    let place = loaded();
    let id = most_named(&place.tables("tables"));
    let mut service = place.start("tables");
    let block = ["takedown", "--block", &id];
    place.everpair("tables", &block).ended(0).says("next epoch");
    service.wait_until("the request is done with", || place.requests("tables") == 0);
    assert_eq!(named(&place.tables("tables"), &id), [0, 0, 0], "gone once that is so");
    assert_eq!(blocked_messages(&place, &id), 1, "the message that was live is turned away");

    let committed = place.committed("tables");
    let picture = Message::from(scenes::replacement(5, 3, SEED));
    place.log().send([Message { key: id.clone(), ..picture }]);
    service.wait_until("the new picture", || place.committed("tables") > committed);
    assert_eq!(blocked_messages(&place, &id), 2);

    // Asked twice, blocked once.
    place.everpair("tables", &block).ended(0);
    service.wait_until("the request is done with", || place.requests("tables") == 0);
    service.terminate();
    assert_eq!(service.wait().0, Some(0));
    assert_eq!(place.rows::<BlockedRow>("tables").len(), 1);
    place.catch_up("tables");
    place.verify("tables");
}
