//! Messages that are references: fetched once, in order, killed in between, and in the end the same
//! tables as if the bytes had been in the messages.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use everpair::scenes;
use schemas::{
    ContentId,
    tables::{ContentRow, RejectRow},
};

use super::place::{Message, Place, wait_until};
use crate::fetch::server::{Server, reply};

const SEED: u64 = 31;
const IMAGES: usize = 60;
const SMALL: &str = "[epoch]\nrows = 8\nlinger = \"50 ms\"\n";
pub const ALLOWED: &str = "[fetch]\nschemes = [\"http\"]\nhosts = [\"127.0.0.1\"]\n\
    private_hosts_allowed = [\"127.0.0.1\"]\nattempts = 1\n";

/// A server that has the pictures of all scenes, and stops answering after `limit` of them.
pub fn pictures(limit: Arc<AtomicUsize>) -> Server {
    let pictures: BTreeMap<String, Vec<u8>> = scenes::scenes(IMAGES, SEED)
        .map(|scene| (format!("/{}", scene.id), scene.jpeg_or_png))
        .collect();
    let begun = AtomicUsize::new(0);
    Server::start(move |request, stream| {
        let turn = begun.fetch_add(1, Ordering::AcqRel);
        wait_until("leave to answer", || turn < limit.load(Ordering::Acquire));
        match pictures.get(&request.path) {
            Some(picture) => reply(stream, "200 OK", &[], picture),
            None => reply(stream, "404 Not Found", &[], b""),
        }
    })
}

/// The scene with its bytes, or with where they are.
pub fn message(index: usize, server: Option<&Server>) -> Message {
    let message = Message::from(scenes::scene(index, SEED));
    let Some(server) = server else { return message };
    let envelope = serde_json::json!({ "uri": server.url(&message.key) });
    Message { value: Some(envelope.to_string().into_bytes()), ..message }
}

/// Every picture; one that is not there under the id of a live image; a replaced one; a tombstone.
fn history(server: Option<&Server>) -> Vec<Message> {
    let mut all: Vec<Message> = (0..IMAGES).map(|index| message(index, server)).collect();
    let absent = match server {
        Some(server) => serde_json::json!({ "uri": server.url("absent") }).to_string(),
        None => "{\"uri\": \"http://127.0.0.1/absent\"}".into(),
    };
    let first = scenes::scene(0, SEED).id;
    all.push(Message { key: first, value: Some(absent.into_bytes()), headers: Vec::new() });
    all.push(Message { key: scenes::scene(1, SEED).id, ..message(IMAGES - 1, server) });
    all.push(Message::tombstone(&scenes::scene(3, SEED).id));
    all
}

/// Images and pairs without what says how the bytes came.
fn shown(place: &Place, name: &str) -> [Vec<String>; 2] {
    let tables = place.tables(name);
    let images = tables
        .images
        .into_iter()
        .map(|row| format!("{} {} {:?} {}", row.image_id, row.content_id, row.caption, row.offset));
    let mut images: Vec<String> = images.collect();
    let pairs = tables.pairs.into_iter().map(|mut row| {
        row.epoch = 0;
        format!("{row:?}")
    });
    let mut pairs: Vec<String> = pairs.collect();
    images.sort();
    pairs.sort();
    [images, pairs]
}

#[test]
fn references_end_in_the_tables_of_messages_with_bytes() {
    let limit = Arc::new(AtomicUsize::new(IMAGES / 2));
    let server = pictures(limit.clone());
    let (by_value, place) = (Place::new(), Place::new());
    by_value.configure("tables", SMALL);
    by_value.log().send(history(None));
    by_value.catch_up("tables");

    place.configure("tables", &format!("{SMALL}{ALLOWED}per_host = 3\n"));
    place.log().send(history(Some(&server)));
    // Killed while it waits for a picture that does not come.
    let mut service = place.start("tables");
    let half = IMAGES as i64 / 4;
    service.wait_until("some epochs", || place.committed("tables") >= half);
    let committed = place.tables("tables").images;
    service.kill();
    limit.store(usize::MAX, Ordering::Release);
    place.catch_up("tables");
    for (one, other) in shown(&place, "tables").iter().zip(&shown(&by_value, "tables")) {
        let differs = one.iter().zip(other).find(|(one, other)| one != other);
        assert!(differs.is_none() && one.len() == other.len(), "{differs:#?}");
        assert!(one.len() > 40, "{} rows to compare", one.len());
    }
    place.verify("tables");
    for row in &committed {
        assert_eq!(
            server.asked(&row.image_id),
            1,
            "{}: committed, so not asked again",
            row.image_id
        );
    }
    let rejects = place.rows::<RejectRow>("tables").into_iter().filter(|r| r.offset.is_some());
    let rejects: Vec<RejectRow> = rejects.filter(|r| r.stage == "ingest").collect();
    let [absent] = &rejects[..] else { panic!("{rejects:#?}") };
    assert_eq!(absent.reason, "fetch_failed");
    assert!(absent.detail.ends_with("/absent: 404 Not Found"), "{}", absent.detail);
    assert_eq!(absent.image_id, Some(scenes::scene(0, SEED).id));
    for row in place.tables("tables").images {
        let uri = row.uri.expect("it came by reference");
        assert!(uri.starts_with("http://127.0.0.1:"), "{uri}");
    }
}

#[test]
fn nothing_is_fetched_that_is_not_allowed() {
    let server = pictures(Arc::new(AtomicUsize::new(usize::MAX)));
    for (fetch, words) in [
        ("", "no scheme is allowed"),
        ("[fetch]\nschemes = [\"http\"]\nhosts = [\"a.test\"]\n", "hosts has no"),
        ("[fetch]\nschemes = [\"http\"]\nhosts = [\"*\"]\n", "this machine"),
        ("[fetch]\nschemes = [\"https\"]\nhosts = [\"*\"]\n", "schemes has no"),
    ] {
        let place = Place::new();
        place.configure("tables", &format!("{SMALL}{fetch}"));
        place.log().send([message(0, Some(&server))]);
        place.catch_up("tables");
        let rejects = place.rows::<RejectRow>("tables");
        let [row] = &rejects[..] else { panic!("{rejects:#?}") };
        assert_eq!(row.reason, "uri_not_allowed");
        assert!(row.detail.contains(words), "{}", row.detail);
        assert!(place.tables("tables").images.is_empty());
    }
    assert_eq!(server.asked(&scenes::scene(0, SEED).id), 0);
}

#[test]
fn ids_from_content_and_contents_by_reference() {
    let server = pictures(Arc::new(AtomicUsize::new(usize::MAX)));
    let place = Place::new();
    place.configure("tables", &format!("{SMALL}{ALLOWED}[contents]\nstore = \"reference\"\n"));
    let path = place.path("tables.toml");
    let text = std::fs::read_to_string(&path).expect("the config");
    std::fs::write(&path, text.replace("[tables]", "key = \"content\"\n[tables]"))
        .expect("written");
    place.log().send((0..10).map(|index| message(index, Some(&server))));
    place.catch_up("tables");
    let tables = place.tables("tables");
    assert!(tables.images.len() > 5, "{} images", tables.images.len());
    let contents = place.rows::<ContentRow>("tables");
    for row in &tables.images {
        assert_eq!(row.image_id, row.content_id);
        let content = contents.iter().find(|content| content.content_id == row.content_id);
        let image = &content.expect("its content").image;
        assert_eq!(image.bytes, None);
        // Scenes 2 and 4 are one content. The image has the address of the message behind it; its
        // content, a memo, may have come by the other one's.
        for uri in [&row.uri, &image.path] {
            let uri = uri.as_deref().expect("it came by reference");
            let id = uri.rsplit('/').next().expect("a name");
            let index: usize = id["scene-".len()..].parse().expect("a scene's number");
            let picture = scenes::scene(index, SEED).jpeg_or_png;
            assert_eq!(row.content_id, ContentId::of(&picture).hex());
        }
    }
}

/// The same folder, sent in the three ways there are: bytes, addresses, and addresses of those alone
/// that are too large for a message.
#[test]
fn what_push_sends_by_reference_is_live_as_what_it_sends_by_value() {
    let photos = tempfile::tempdir().expect("a folder");
    let kept = tempfile::tempdir().expect("a folder");
    let mut sizes = Vec::new();
    for scene in scenes::scenes(IMAGES, SEED) {
        let path = photos.path().join(format!("{}.img", scene.id));
        let name = match scene.jpeg_or_png.starts_with(b"\xff\xd8") {
            true => path.with_extension("jpg"),
            false => path.with_extension("png"),
        };
        sizes.push(scene.jpeg_or_png.len());
        std::fs::write(&name, scene.jpeg_or_png).expect("an image");
        if let Some(caption) = scene.caption {
            std::fs::write(name.with_extension("txt"), caption).expect("a caption");
        }
    }
    sizes.sort_unstable();
    // Half of them are too large. What a message says besides takes a little too.
    let (most, store) = ((sizes[IMAGES / 2] + 300).to_string(), kept.path().display().to_string());
    let store = format!("store:{store}");
    let ways: [&[&str]; 3] =
        [&[], &["--by", "reference"], &["--oversize", &store, "--max-message-bytes", &most]];
    let fetch = format!(
        "[fetch]\nschemes = [\"file\"]\nfolders = [{:?}, {:?}]\n",
        photos.path(),
        kept.path()
    );
    let mut all = Vec::new();
    for options in ways {
        let place = Place::new();
        place.configure("tables", &format!("{SMALL}{fetch}"));
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_everpair"))
            .arg("push")
            .arg(photos.path())
            .arg("--to")
            .arg(place.path("log"))
            .args(options)
            .output()
            .expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{options:?}: {said}");
        let said = place.everpair("tables", &["validate"]).ended(0);
        let fetched = said.out.contains(" bytes fetched from file://");
        assert_eq!(fetched, options.contains(&"reference"), "{}", said.out);
        place.catch_up("tables");
        place.verify("tables");
        let by_address = place.tables("tables").images.iter().filter(|r| r.uri.is_some()).count();
        all.push((shown(&place, "tables"), by_address));
    }
    let (by_value, by_reference, oversize) = (&all[0], &all[1], &all[2]);
    assert!(by_value.0[0].len() > 40 && !by_value.0[1].is_empty(), "{by_value:?}");
    assert_eq!(by_reference.0, by_value.0);
    assert_eq!(oversize.0, by_value.0);
    let live = by_value.0[0].len();
    assert_eq!((by_value.1, by_reference.1), (0, live));
    assert!(oversize.1 > live / 4 && oversize.1 < live, "{} of {live} are kept", oversize.1);
    let stored = std::fs::read_dir(kept.path()).expect("the folder").count();
    // Equal contents are kept once.
    assert!(stored > live / 4 && stored <= oversize.1, "{stored} files");
}
