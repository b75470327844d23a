//! `everpair calibrate`, as a program: on tables, on a folder, into a config, and whether what it
//! promises is what is then mined.

use std::{collections::BTreeMap, fs};

use everpair::{calibrate::edit, scenes, settings};
use kernels::vector::{dot_naive, from_le_bytes};
use schemas::Channel;
use serde_json::Value;

use crate::service::place::{Message, Place};

const LINGER: &str = "[epoch]\nlinger = \"50 ms\"\n";

fn loaded(count: usize) -> Place {
    let place = Place::new();
    place.configure("tables", LINGER);
    place.log().send(scenes::scenes(count, 11).map(Message::from));
    place.catch_up("tables");
    place
}

fn calibrated(place: &Place, name: &str, arguments: &[&str]) -> Value {
    let said = place.everpair(name, &[&["calibrate", "--json"], arguments].concat()).ended(0);
    serde_json::from_str(&said.out).expect("JSON on stdout")
}

fn channel<'a>(report: &'a Value, name: &str) -> &'a Value {
    let channels = report["channels"].as_array().expect("channels");
    channels.iter().find(|channel| channel["channel"] == name).expect("the channel is there")
}

/// Scores of all pairs of mined images in a channel, sorted, from the tables themselves.
fn scores(place: &Place, name: &str) -> Vec<f64> {
    let tables = place.tables(name);
    let mut mined: BTreeMap<&str, &str> = BTreeMap::new();
    for row in &tables.images {
        let id = mined.entry(&row.content_id).or_insert(&row.image_id);
        *id = (*id).min(row.image_id.as_str());
    }
    let of = |row: &&schemas::tables::EmbeddingRow| {
        row.channel == "semantic" && mined.contains_key(row.content_id.as_str())
    };
    let vectors: Vec<_> =
        tables.embeddings.iter().filter(of).filter_map(|r| from_le_bytes(&r.vector)).collect();
    let mut scores = Vec::new();
    for (at, one) in vectors.iter().enumerate() {
        let later = &vectors[at + 1..];
        scores.extend(later.iter().map(|two| f64::from(dot_naive(one, two)) / 2f64.powi(30)));
    }
    scores.sort_by(f64::total_cmp);
    scores
}

#[test]
fn a_sample_of_the_tables_gives_the_quantiles_that_brute_force_gives_and_a_page() {
    let place = loaded(400);
    let out = place.path("calibration.html");
    let page = out.to_str().expect("a path");
    let report = calibrated(&place, "tables", &["--out", page]);
    let html = fs::read_to_string(&out).expect("the page");
    assert_eq!(report, calibrated(&place, "tables", &["--out", page]), "the same twice");
    assert_eq!(html, fs::read_to_string(&out).expect("the page"), "the same twice");

    let scores = scores(&place, "tables");
    let quantile = |share: f64| scores[(share * scores.len() as f64).ceil() as usize - 1];
    let semantic = channel(&report, "semantic");
    let number = |value: &Value| value.as_f64().expect("a number");
    assert_eq!(semantic["random"]["count"], 2 * scores.len());
    for (share, name) in [(0.05, "q05"), (0.5, "median"), (0.995, "q995")] {
        let found = number(&semantic["random"][name]);
        assert!((found - quantile(share)).abs() < 1e-4, "{name}: {found} {}", quantile(share));
    }
    for (low, high) in semantic["proposed"]["bands"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|b| (number(&b[0]), number(&b[1])))
    {
        assert!((low - quantile(0.995)).abs() < 2e-3 && low < high, "{low} {high}");
    }
    for kind in ["crop", "brightness", "jpeg", "resize"] {
        let copies = &semantic["copies"][kind];
        assert!(number(&copies["median"]) > quantile(0.9), "{kind}: {copies}");
    }

    assert!(html.matches("<svg").count() == 3 && html.matches("class=\"random\"").count() == 3);
    let pictures = html.matches("<img alt=").count();
    assert!(pictures >= 3 * 8 * 2, "{pictures} pictures");
    assert_eq!(pictures, html.matches("src=\"data:image/jpeg;base64,").count(), "nothing outside");
    assert!(!html.contains("<script") && !html.contains("src=\"http"));
    assert!(html.contains("near-duplicates") && html.contains("below the band"));

    // Another seed, a smaller sample: another sample, and the corpus is told from it.
    let part = calibrated(&place, "tables", &["--sample", "150", "--seed", "3"]);
    let other = calibrated(&place, "tables", &["--sample", "150", "--seed", "4"]);
    assert_ne!(part["channels"], other["channels"]);
    for report in [&part, &other] {
        assert_eq!((&report["sample_images"], &report["counted"]), (&150.into(), &false.into()));
        let corpus = number(&report["corpus_images"]);
        assert!((250.0..600.0).contains(&corpus), "{corpus} for some 380");
    }
}

/// Pairs per mined image, and the share of mined images with one, as the tables have it.
fn mined(place: &Place, name: &str) -> (f64, f64) {
    let tables = place.tables(name);
    let mut contents: Vec<&str> = tables.images.iter().map(|row| &*row.content_id).collect();
    contents.sort_unstable();
    contents.dedup();
    let mut queries: Vec<&str> = tables.pairs.iter().map(|row| &*row.query_id).collect();
    let pairs = queries.len() as f64;
    queries.sort_unstable();
    queries.dedup();
    (pairs / contents.len() as f64, queries.len() as f64 / contents.len() as f64)
}

#[test]
fn what_is_promised_is_what_is_mined() {
    let place = loaded(500);
    let promise = |report: &Value| {
        let yields = &report["together"]["corpus"];
        let number = |name: &str| yields[name].as_f64().expect("a number");
        (number("pairs_per_image"), number("share_with_pair"))
    };
    // The bands of a part of the corpus, promised for the whole of it: by the method's estimate.
    let before = fs::read_to_string(place.path("tables.toml")).expect("the config");
    let report = calibrated(&place, "tables", &["--sample", "170", "--seed", "5", "--write"]);
    let after = fs::read_to_string(place.path("tables.toml")).expect("the config");
    assert!(after.starts_with(&before) && after.contains("# calibrate: seed 5, "), "{after}");
    assert!(!after.contains("-11-22"), "constants, and no date");
    place.everpair("tables", &["run", "--until-caught-up"]).ended(1).says("--apply");
    place.everpair("tables", &["run", "--until-caught-up", "--apply"]).ended(0);
    place.verify("tables");
    let (promised, found) = (promise(&report), mined(&place, "tables"));
    for (promised, found) in [(promised.0, found.0), (promised.1, found.1)] {
        let factor = promised / found;
        assert!((0.6..1.7).contains(&factor), "promised {promised}, mined {found}");
    }

    // All of the corpus in several bands, promised by counting: fresh tables have just that.
    place.configure("fresh", LINGER);
    place.catch_up("fresh");
    let report = calibrated(&place, "fresh", &["--sub-bands", "3", "--write"]);
    let text = fs::read_to_string(place.path("fresh.toml")).expect("the config");
    assert!(text.contains("band = [[0."), "{text}");
    fs::remove_dir_all(place.path("fresh")).expect("tables can be removed");
    place.catch_up("fresh");
    let (promised, found) = (promise(&report), mined(&place, "fresh"));
    assert!((promised.0 - found.0).abs() < 0.02, "promised {promised:?}, mined {found:?}");
    assert!((promised.1 - found.1).abs() < 0.02, "promised {promised:?}, mined {found:?}");

    // A second calibration replaces what the first wrote.
    place.everpair("fresh", &["calibrate", "--sub-bands", "3", "--write"]).ended(0);
    let again = fs::read_to_string(place.path("fresh.toml")).expect("the config");
    assert_eq!(again.lines().count(), text.lines().count(), "{again}");
}

#[test]
fn a_folder_is_enough_and_needs_no_band_yet() {
    let place = Place::new();
    let photos = place.path("photos");
    fs::create_dir(&photos).expect("a folder");
    for scene in scenes::scenes(120, 5) {
        let name = photos.join(format!("{}.jpg", scene.id));
        fs::write(&name, &scene.jpeg_or_png).expect("an image");
        if let Some(caption) = scene.caption {
            fs::write(name.with_extension("txt"), caption).expect("a caption");
        }
    }
    fs::write(photos.join("broken.jpg"), b"no image").expect("a file");
    let folder = photos.to_str().expect("a path");

    // A channel of vectors that come with messages has none here, and no band yet to be read with.
    let given = format!("{LINGER}[channels.semantic]\nencoder = \"given\"\ndim = 4\n");
    place.configure("given", &given);
    place.everpair("given", &["validate"]).ended(2).says("needs a band");
    let report = calibrated(&place, "given", &["--images", folder]);
    let names: Vec<&Value> =
        report["channels"].as_array().into_iter().flatten().map(|c| &c["channel"]).collect();
    assert_eq!(names, ["pattern", "caption"]);
    let notes = report["notes"].to_string();
    assert!(notes.contains("semantic") && notes.contains("too few"), "{notes}");
    assert!(notes.contains("1 of 121 images were turned away"), "{notes}");

    // What it prints is what it would write.
    let out = place.path("pictures.html");
    let said = place
        .everpair(
            "given",
            &["calibrate", "--images", folder, "--out", out.to_str().expect("utf-8")],
        )
        .ended(0)
        .says("random pairs");
    for section in said.out.split("[channels.").skip(1) {
        let toml = format!("[channels.{section}");
        let table: toml::Table = toml::from_str(&toml).expect("a section of a config");
        assert!(table["channels"].as_table().is_some_and(|t| t.len() == 1), "{toml}");
    }
    assert!(fs::read_to_string(out).expect("the page").contains("data:image/jpeg"));

    place.everpair("given", &["calibrate", "--images", "absent-folder"]).ended(1);
    fs::create_dir(place.path("empty")).expect("a folder");
    let empty = place.path("empty");
    let empty = ["calibrate", "--images", empty.to_str().expect("utf-8")];
    place.everpair("given", &empty).ended(1).says("none of 0 images");
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_touched() {
    let place = Place::new();
    place.configure("tables", LINGER);
    place.everpair("tables", &["calibrate"]).ended(1).says("run the service first");
    place.everpair("tables", &["calibrate", "--sample", "0"]).ended(2).says("--sample 0");
    place.everpair("tables", &["calibrate", "--sub-bands", "99"]).ended(2).says("1 to 16");
    place.everpair("absent", &["calibrate"]).ended(2).says("absent.toml");

    place.log().send(scenes::scenes(150, 11).map(Message::from));
    place.catch_up("tables");
    place.configure("odd", "");
    let odd = fs::read_to_string(place.path("odd.toml")).expect("the config");
    let odd = odd.replace("root = \"odd\"", "root = \"tables\"");
    let odd = format!("channels = {{ caption = {{ neighbors = 9 }}, semantic = {{}} }}\n{odd}");
    fs::write(place.path("odd.toml"), &odd).expect("a config can be written");
    let said = place.everpair("odd", &["calibrate", "--write"]).ended(1);
    said.says("by hand").says("nothing was").says("band = [");
    assert_eq!(fs::read_to_string(place.path("odd.toml")).expect("the config"), odd);
    let here = fs::read_dir(place.path("")).expect("the folder");
    let left = here.flatten().any(|e| e.file_name().to_string_lossy().contains("calibrate"));
    assert!(!left, "no file is left behind");
}

#[test]
fn an_edited_config_is_the_config_that_was_meant() {
    let example = include_str!("../deploy/everpair.toml");
    let band = |channel, bands: &[(f64, f64)]| edit::NewBand {
        channel,
        bands: bands.to_vec(),
        why: vec!["seed 0".into()],
    };
    let bands = [
        band(Channel::Semantic, &[(0.25, 0.5)]),
        band(Channel::Pattern, &[(0.1, 0.2), (0.2, 0.3)]),
        band(Channel::Caption, &[(0.5, 0.75)]),
    ];
    let edited = edit::edit(example, &bands).expect("the example can be edited");
    let mining = settings::mining(&schemas::config::Config::parse(&edited).expect("a config"))
        .expect("bands that are some");
    assert_eq!(mining.bands[0][0].lo, 1 << 28);
    assert_eq!(mining.bands.each_ref().map(Vec::len), [1, 2, 1]);
    // Without our lines it is what it was.
    let ours = |line: &&str| !line.starts_with("# calibrate: ") && !line.starts_with("band = ");
    let kept: Vec<&str> = edited.lines().filter(ours).collect();
    assert_eq!(kept, example.lines().collect::<Vec<_>>());
}
