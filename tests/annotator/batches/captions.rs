//! Captions that travel in files: a round before those of pairs.

use everpair::scenes::Scene;
use schemas::{caption_text, tables::ImageRow};

use super::*;

/// Captions are read, and written where there is none.
const CAPTIONS: &str = "captions = true\n[captioner]\n";

/// Scenes of which every third has no caption.
fn bare(scenes: usize, more: &str) -> Place {
    let place = Place::new();
    configure(&place, more);
    let scenes = scenes::scenes(scenes, 11).enumerate();
    place.log().send(scenes.map(|(n, scene)| {
        let caption = scene.caption.clone().filter(|_| n % 3 > 0);
        Message::from(Scene { caption, ..scene })
    }));
    place
}

/// Mined images without a caption: of equal contents the smallest id counts.
fn without(place: &Place) -> u64 {
    let mut mined: BTreeMap<String, ImageRow> = BTreeMap::new();
    for row in place.rows::<ImageRow>("tables") {
        let held = mined.entry(row.content_id.clone()).or_insert_with(|| row.clone());
        if row.image_id < held.image_id {
            *held = row;
        }
    }
    let bare = mined.values().filter(|row| caption_text(row.caption.as_deref()).is_none());
    bare.count() as u64
}

fn said(place: &Place, words: &[&str]) -> Value {
    let said = place.everpair("tables", words).ended(0);
    serde_json::from_str(&said.out).expect("JSON")
}

#[test]
fn images_get_captions_in_a_round_before_that_of_their_pairs() {
    let place = bare(60, CAPTIONS);
    place.catch_up("tables");
    let bare = without(&place);
    assert!(bare > 10, "{bare} images without a caption");
    let plan = said(&place, &["plan", "--json"]);
    assert_eq!(plan["caption"]["calls"], bare, "{plan:#}");
    assert_eq!(plan["unanswered"], plan["pairs"]);

    let first = export(&place, "one.jsonl", &[]);
    assert_eq!(first.caption, bare);
    assert!(first.uncaptioned > 10 && first.describe > 5, "{first:?}");
    let rest = said(&place, &["plan", "--json"]);
    assert_eq!(
        (&rest["caption"]["calls"], &rest["out"]),
        (&0.into(), &(bare + first.describe).into())
    );
    assert!(rest["cost_usd"].as_f64() < plan["cost_usd"].as_f64(), "{rest:#}");
    assert_eq!(rest["unanswered"], plan["unanswered"]);
    let lines = requests(&place, "one.jsonl");
    let (captions, others) = lines.split_at(bare as usize);
    assert!(captions.iter().all(|line| line.asked.captions() && line.asked.images().len() == 1));
    // Of pairs whose captions are there.
    assert!(others.iter().all(|line| line.asked.describes()));
    assert!(others.iter().all(|line| !line.asked.text().contains("(none)")));
    let mut waits = 0;
    for pair in place.rows::<PairRow>("tables") {
        let ids = ["explain", "--query", &pair.query_id, "--target", &pair.target_id];
        let told = place.everpair("tables", &ids).ended(0).out;
        if told.contains("once there is a caption for") {
            assert!(told.contains("the request for it is out in batch"), "{told}");
            waits += 1;
        }
        if waits == 2 {
            break;
        }
    }
    assert_eq!(waits, 2);
    let again = export(&place, "again.jsonl", &[]);
    assert_eq!((again.batch, again.uncaptioned), (None, first.uncaptioned));

    let (declined, unusable) = (&captions[0].asked.id, &captions[1].asked.id);
    answer(&place, &lines, "one.out", |line| match &line.asked.id {
        id if id == declined => line.told("I'm sorry, I can't help with that.", "stop"),
        id if id == unusable => line.told("A red boat.", "stop"),
        _ => line.good(),
    });
    let told = import(&place, &["one.out"]);
    assert_eq!((told.outcomes["refused"], told.again["bad_json"]), (1, 1));
    // They are written down, and pairs wait until they are committed.
    assert_eq!(export(&place, "early.jsonl", &[]).caption, 1);
    let out = out(&place).remove(0).name;
    command(&place, &["cancel", &out]).ended(0);
    place.catch_up("tables");
    let written: Vec<AnnotationRow> =
        answers(&place).into_iter().filter(|row| row.task == "caption").collect();
    assert_eq!(written.len() as u64, bare - 1);
    for row in &written {
        assert_eq!(row.query_content_id, row.target_content_id);
        assert_eq!(row.description.is_some(), row.outcome == "ok");
        assert!(row.model == "a-model" && row.prompt_version == 1 && row.instructions.is_empty());
    }

    // Until nothing is left to ask.
    let mut described = String::new();
    for round in 2.. {
        assert!(round < 8, "it ends");
        let (file, to) = (format!("{round}.jsonl"), format!("{round}.out"));
        let next = export(&place, &file, &[]);
        assert_eq!(next.caption, u64::from(round == 2), "the one that was unusable");
        if next.batch.is_none() {
            assert_eq!((next.uncaptioned, next.waiting, next.ended), (0, 0, 0));
            break;
        }
        let lines = requests(&place, &file);
        lines.iter().filter(|line| line.asked.describes()).for_each(|line| {
            described.push_str(&line.asked.text());
        });
        answer(&place, &lines, &to, Line::good);
        import(&place, &[&to]);
        place.catch_up("tables");
    }
    let texts = written.iter().filter_map(|row| row.description.as_deref());
    let shown = texts.filter(|text| described.contains(text)).count();
    assert!(shown > 5, "{shown} captions stand in for those that are missing");

    let rows = answers(&place);
    let ids: BTreeSet<&String> = rows.iter().map(|row| &row.request_id).collect();
    assert_eq!(ids.len(), rows.len(), "nothing is asked twice");
    let instructed = rows.iter().filter(|row| row.task == "instruct" && row.outcome == "ok");
    assert!(instructed.count() >= place.rows::<PairRow>("tables").len());
    let cost: f64 = rows.iter().filter_map(|row| row.cost_usd).sum();
    let spent = spent(&place);
    assert!(spent.open == 0 && (usd(spent.closed) - cost).abs() < 1e-9, "{spent:?}, {cost}");
    let plan = said(&place, &["plan", "--json"]);
    assert_eq!((&plan["caption"]["calls"], &plan["unanswered"]), (&json!(0), &json!(0)));
    assert_eq!(plan["caption"]["measured"], bare);
    let images = plan["images"].as_f64().expect("a number");
    let plan = said(&place, &["plan", "--json", "--images", "10000"]);
    let calls = (bare as f64 / images * 10_000.0).round();
    assert_eq!(plan["caption"]["calls"].as_f64(), Some(calls));
    place.verify("tables");
}

#[test]
fn a_captioner_of_its_own_has_files_of_its_own() {
    let place = bare(40, &format!("{CAPTIONS}model = \"eyes\"\n"));
    place.catch_up("tables");
    let first = export(&place, "one.jsonl", &[]);
    assert_eq!((first.caption, first.describe), (without(&place), 0));
    assert!(first.later > 5, "{first:?}");
    let lines = requests(&place, "one.jsonl");
    assert!(lines.iter().all(|line| line.asked.body["model"] == "eyes"));
    // While these are out, the other model can be asked.
    let second = export(&place, "two.jsonl", &[]);
    assert_eq!((second.caption, second.describe), (0, first.later));
    let others = requests(&place, "two.jsonl");
    assert!(others.iter().all(|line| line.asked.body["model"] == "a-model"));
    answer(&place, &lines, "one.out", Line::good);
    assert_eq!(import(&place, &["one.out"]).outcomes["ok"], first.caption);
    place.catch_up("tables");
    assert!(answers(&place).iter().all(|row| row.task == "caption" && row.model == "eyes"));
    assert_eq!(export(&place, "three.jsonl", &[]).uncaptioned, 0);
}

#[test]
fn captions_are_asked_for_again_where_somebody_wants_that() {
    let place = bare(30, CAPTIONS);
    place.catch_up("tables");
    let first = export(&place, "one.jsonl", &[]);
    answer(&place, &requests(&place, "one.jsonl"), "one.out", Line::good);
    import(&place, &["one.out"]);
    place.catch_up("tables");
    // What the tables do not wait for yet is not asked.
    configure(&place, &format!("{CAPTIONS}model = \"eyes\"\n"));
    command(&place, &["export", "--out", "other.jsonl"])
        .ended(1)
        .says("[captioner] model")
        .says("--apply");
    configure(&place, "");
    command(&place, &["export", "--out", "other.jsonl"]).ended(1).says("the config says null");
    configure(&place, CAPTIONS);
    let again = |words: &[&str]| said(&place, &[&["requests", "again", "--json"], words].concat());
    // What is selected are answers about pairs, unless captions are named.
    let pairs = again(&["--outcome", "ok"]);
    assert_eq!((&pairs["caption"], &pairs["stay"]), (&json!({}), &json!(0)));
    let all = again(&["--outcome", "ok", "--caption"]);
    assert_eq!((&all["caption"]["ok"], &all["applied"]), (&first.caption.into(), &false.into()));
    let cost = all["cost_usd"].as_f64().expect("a number");
    assert!((cost - CALL_USD * first.caption as f64).abs() < 1e-9, "{all:#}");
    assert_eq!((&all["instruct"], &all["describe"]), (&json!({}), &json!({})));
    assert_eq!(again(&["--source", "nowhere", "--caption"])["caption"], json!({}));

    // An answer that was asked with it is there.
    for name in ["descriptions", "instructions"] {
        let (asked, out) = (format!("{name}.jsonl"), format!("{name}.out"));
        export(&place, &asked, &[]);
        answer(&place, &requests(&place, &asked), &out, Line::good);
        import(&place, &[&out]);
        place.catch_up("tables");
    }
    let triplets = place.rows::<TripletRow>("tables");
    // And its pair is mined without it.
    let of = |content: &String| {
        triplets.iter().find(|row| {
            [&row.query_content_id, &row.target_content_id].contains(&content)
                && row.channels.iter().any(|channel| channel != "caption")
        })
    };
    let rows = answers(&place).into_iter().filter(|row| row.task == "caption");
    let mut with = rows.filter_map(|row| Some((of(&row.query_content_id)?, row)));
    let (triplet, row) = with.next().expect("a triplet of an image with a written caption");
    let one = again(&["--id", &row.request_id, "--caption", "--apply"]);
    assert_eq!((&one["caption"]["ok"], &one["applied"]), (&1.into(), &true.into()));
    place.catch_up("tables");
    let ids = ["--query", &triplet.query_id, "--target", &triplet.target_id];
    let why = &said(&place, &[&["explain", "--json"], &ids[..]].concat())["why"];
    let why = why.as_str().expect("it is no triplet any more");
    assert!(why.contains("it is asked about once there is a caption for"), "{why}");
    let second = export(&place, "two.jsonl", &[]);
    assert_eq!(second.caption, 1);
    assert!(requests(&place, "two.jsonl").iter().any(|line| line.asked.id == row.request_id));

    let words = ["requests", "again", "--outcome", "ok", "--caption"];
    place.everpair("tables", &[&words[..], &["--describe"]].concat()).ended(2);
    configure(&place, "");
    place.everpair("tables", &words).ended(2).says("there is no [captioner]");
}
