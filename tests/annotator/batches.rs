//! Requests that travel in files.

mod captions;
mod disturbed;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use everpair::{
    annotator::openai::{
        batch::{self, Batch, Exported, Imported, Out},
        failures, journal,
        money::{self, Spent, usd},
    },
    scenes,
};
use schemas::tables::{AnnotationRow, PairRow, TripletRow};
use serde_json::{Value, json};

use super::{
    pipeline::CALL_USD,
    server::{Asked, Server, reply, send_good},
};
use crate::service::place::{Dice, Message, Place, Said};

fn place(scenes: usize, more: &str) -> Place {
    let place = Place::new();
    configure(&place, more);
    place.log().send(scenes::scenes(scenes, 11).map(Message::from));
    place
}

fn configure(place: &Place, more: &str) {
    let budget = if more.contains("budget") { "" } else { "budget = 10.0" };
    let text = format!(
        "[annotator]\nkind = \"openai\"\ntransport = \"batch\"\nmodel = \"a-model\"\n\
         input_price = 1.0\noutput_price = 2.0\n{budget}\n{more}\n[epoch]\nlinger = \"50 ms\"\n"
    );
    place.configure("tables", &text);
}

/// `everpair requests`; names of files are those of the folder.
fn command(place: &Place, words: &[&str]) -> Said {
    let named = |word: &&str| match word.ends_with(".jsonl") || word.ends_with(".out") {
        true => place.path(word).display().to_string(),
        false => (*word).to_owned(),
    };
    let words: Vec<String> = words.iter().map(named).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    place.everpair("tables", &[&["requests"], &words[..]].concat())
}

/// Exports to the file.
fn export(place: &Place, file: &str, more: &[&str]) -> Exported {
    let said = command(place, &[&["export", "--json", "--out", file], more].concat()).ended(0);
    let said: Value = serde_json::from_str(&said.out).expect("JSON");
    let number = |name: &str| said[name].as_u64().expect("a number");
    Exported {
        batch: said["batch"].as_str().map(str::to_owned),
        caption: number("caption"),
        describe: number("describe"),
        instruct: number("instruct"),
        bytes: number("bytes"),
        most_usd: said["most_usd"].as_f64().expect("a number"),
        later: number("later"),
        unpaid: number("unpaid"),
        waiting: number("waiting"),
        uncaptioned: number("uncaptioned"),
        out: number("out"),
        left_out: number("left_out"),
        ended: number("ended"),
    }
}

/// A line of a file, under the id of its request.
#[derive(Clone)]
struct Line {
    custom_id: String,
    asked: Asked,
}

/// What is in a file that is out.
fn requests(place: &Place, file: &str) -> Vec<Line> {
    let text = fs::read_to_string(place.path(file)).expect("a file of requests");
    let ids: BTreeMap<String, String> = out(place)
        .iter()
        .flat_map(|batch| {
            let named =
                |out: &Out| (format!("{}.{}", batch.name, out.number), out.row.request_id.clone());
            batch.out.iter().map(named).collect::<Vec<_>>()
        })
        .collect();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(
            (&line["method"], &line["url"]),
            (&json!("POST"), &json!("/v1/chat/completions"))
        );
        let custom_id = line["custom_id"].as_str().expect("an id").to_owned();
        assert!(custom_id.len() <= 64, "{custom_id}");
        let asked =
            Asked { id: ids[&custom_id].clone(), key: None, body: line["body"].take(), before: 0 };
        Line { custom_id, asked }
    };
    text.lines().map(line).collect()
}

impl Line {
    /// A line of output with a response.
    fn responded(&self, status: u16, body: Value) -> Value {
        responded(&self.custom_id, status, body)
    }

    fn told(&self, text: &str, finish: &str) -> Value {
        self.responded(200, reply(text, finish))
    }

    fn good(&self) -> Value {
        self.told(&self.asked.good(), "stop")
    }

    fn expired(&self) -> Value {
        json!({
            "custom_id": self.custom_id,
            "response": null,
            "error": { "code": "batch_expired", "message": "too late" },
        })
    }
}

fn responded(id: &str, status: u16, body: Value) -> Value {
    json!({
        "id": format!("batch_req_{id}"),
        "custom_id": id,
        "response": { "status_code": status, "request_id": "r", "body": body },
        "error": null,
    })
}

/// Writes what came of requests.
fn answer(place: &Place, lines: &[Line], to: &str, by: impl FnMut(&Line) -> Value) {
    let lines: Vec<String> = lines.iter().map(by).map(|line| line.to_string()).collect();
    fs::write(place.path(to), lines.join("\n")).expect("a file of answers");
}

fn import(place: &Place, files: &[&str]) -> Imported {
    let files: Vec<PathBuf> = files.iter().map(|file| place.path(file)).collect();
    batch::import(&place.config("tables"), &files).expect("the tables can be read")
}

fn spent(place: &Place) -> Spent {
    Spent::read(&place.store("tables"), 0).expect("slices")
}

fn out(place: &Place) -> Vec<Batch> {
    batch::read(&place.store("tables")).expect("batches")
}

fn answers(place: &Place) -> Vec<AnnotationRow> {
    place.rows::<AnnotationRow>("tables")
}

/// A batch's two rounds, exported, answered and imported.
fn rounds(place: &Place, names: [&str; 2]) -> [Vec<Line>; 2] {
    names.map(|name| {
        export(place, name, &[]);
        let lines = requests(place, name);
        answer(place, &lines, &format!("{name}.out"), Line::good);
        import(place, &[&format!("{name}.out")]);
        place.catch_up("tables");
        lines
    })
}

#[test]
fn pairs_are_annotated_in_two_rounds_of_files() {
    let place = place(60, "");
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(0);
    said.says("wait for answers of batches: `everpair requests export`");
    let pairs = place.rows::<PairRow>("tables").len() as u64;
    assert!(pairs > 50 && place.rows::<TripletRow>("tables").is_empty(), "{pairs} pairs");

    let first = export(&place, "one.jsonl", &[]);
    assert_eq!((first.instruct, first.waiting, first.out), (0, pairs, 0));
    assert!(first.describe < pairs && first.describe > pairs / 2, "{first:?}");
    let lines = requests(&place, "one.jsonl");
    assert_eq!(lines.len() as u64, first.describe);
    assert_eq!(fs::metadata(place.path("one.jsonl")).expect("a file").len(), first.bytes);
    assert!(lines.iter().all(|line| line.asked.describes() && line.asked.images().len() == 2));
    assert!(lines.iter().all(|line| line.asked.body["model"] == "a-model"));
    // The most that it can cost is set aside, and nothing is asked twice.
    assert!((usd(spent(&place).open) - first.most_usd).abs() < 1e-9);
    let again = export(&place, "again.jsonl", &[]);
    assert_eq!((again.batch, again.out), (None, first.describe));
    assert!(!place.path("again.jsonl").exists());
    command(&place, &["export", "--out", "one.jsonl"]).ended(1).says("there already");
    let status = place.everpair("tables", &["status"]).ended(0);
    let line = format!("{} requests are out in 1 batches", first.describe);
    assert!(status.out.contains(&line), "no {line:?} in:\n{}", status.out);

    answer(&place, &lines, "one.out", Line::good);
    let said = command(&place, &["import", "one.out"]).ended(0);
    let batch = first.batch.expect("a batch");
    for words in [format!("{} ok", first.describe), format!("{batch} is over")] {
        assert!(said.out.contains(&words), "no {words:?} in:\n{}", said.out);
    }
    place.catch_up("tables");
    assert_eq!(answers(&place).len() as u64, first.describe);

    let second = export(&place, "two.jsonl", &[]);
    assert_eq!((second.describe, second.instruct, second.waiting), (0, pairs, 0));
    answer(&place, &requests(&place, "two.jsonl"), "two.out", Line::good);
    let said = import(&place, &["two.out"]);
    assert_eq!(said.outcomes, BTreeMap::from([("ok".to_owned(), pairs)]));
    place.catch_up("tables");
    let triplets = place.rows::<TripletRow>("tables");
    assert_eq!(triplets.len() as u64, pairs);
    assert!(triplets.iter().all(|row| row.instructions.len() >= 3 && row.description.is_some()));
    place.verify("tables");

    // What was paid is what the rows and the slices say, and nothing is left behind.
    let rows = answers(&place);
    let cost: f64 = rows.iter().filter_map(|row| row.cost_usd).sum();
    assert!((cost - CALL_USD * rows.len() as f64).abs() < 1e-9, "{cost}");
    let spent = spent(&place);
    assert!(spent.open == 0 && (usd(spent.closed) - cost).abs() < 1e-9, "{spent:?}");
    assert!(out(&place).is_empty());
    assert!(journal::ids(&place.store("tables")).expect("a list").is_empty());
    assert_eq!(export(&place, "three.jsonl", &[]).batch, None);

    // The same answers once more change nothing; those of other tables are no answers here.
    let said = import(&place, &["one.out", "two.out"]);
    assert_eq!((said.before, said.unknown), (first.describe + pairs, 0));
    let other = place.path("other.out");
    fs::write(other, responded("20261123T000000Z-00000000.0", 200, json!({})).to_string())
        .expect("written");
    let said = command(&place, &["import", "other.out"]).ended(1);
    said.says("1 answers are to requests in no batch of these tables");
}

#[test]
fn it_is_told_where_a_pairs_request_is() {
    let place = place(30, "");
    place.catch_up("tables");
    let pair = place.rows::<PairRow>("tables").remove(0);
    let why = || {
        let words = ["explain", "--json", "--query", &pair.query_id, "--target", &pair.target_id];
        let said = place.everpair("tables", &words).ended(0);
        let said: Value = serde_json::from_str(&said.out).expect("JSON");
        said["why"].as_str().expect("it has no triplet").to_owned()
    };
    assert!(why().contains("no request about it has ended yet"), "{}", why());
    let name = export(&place, "one.jsonl", &[]).batch.expect("a batch");
    let told = format!("its description is out in batch {name} since ");
    assert!(why().contains(&told), "no {told:?} in {}", why());
    answer(&place, &requests(&place, "one.jsonl"), "one.out", |line| {
        line.responded(429, json!({}))
    });
    import(&place, &["one.out"]);
    let told = format!("its description failed in batch {name} (rate_limited): export it again");
    assert!(why().contains(&told), "no {told:?} in {}", why());
    export(&place, "two.jsonl", &[]);
    answer(&place, &requests(&place, "two.jsonl"), "two.out", Line::good);
    import(&place, &["two.out"]);
    assert!(why().contains("and waits for the service to commit it"), "{}", why());
    place.catch_up("tables");
    export(&place, "three.jsonl", &[]);
    assert!(why().contains("the request for its instructions is out in batch "), "{}", why());
}

#[test]
fn batches_give_the_triplets_that_calls_give() {
    let by_files = place(40, "");
    by_files.catch_up("tables");
    let written = rounds(&by_files, ["one.jsonl", "two.jsonl"]);
    let server = Server::start(send_good);
    let by_calls = Place::new();
    by_calls.configure("tables", &super::pipeline::annotator(&server, ""));
    by_calls.log().send(scenes::scenes(40, 11).map(Message::from));
    by_calls.catch_up("tables");
    let shown = |place: &Place| {
        let rows = place.rows::<TripletRow>("tables").into_iter();
        rows.map(|row| format!("{:?}", TripletRow { epoch: 0, ..row })).collect::<BTreeSet<_>>()
    };
    assert_eq!(shown(&by_files), shown(&by_calls));
    // Word for word what is sent.
    let sent: BTreeMap<String, Value> =
        server.asked().into_iter().map(|asked| (asked.id, asked.body)).collect();
    assert_eq!(sent.len(), written.iter().map(Vec::len).sum::<usize>());
    for Line { asked, .. } in written.iter().flatten() {
        assert_eq!(sent[&asked.id], asked.body);
    }
}

#[test]
fn a_running_service_takes_what_is_imported() {
    let place = place(40, "settle = \"0 s\"");
    let mut running = place.start("tables");
    running.wait_until("everything is committed", || place.committed("tables") == 40);
    let first = export(&place, "one.jsonl", &[]);
    answer(&place, &requests(&place, "one.jsonl"), "one.out", Line::good);
    import(&place, &["one.out"]);
    let count = || answers(&place).len() as u64;
    running.wait_until("the descriptions", || count() == first.describe);
    let second = export(&place, "two.jsonl", &[]);
    answer(&place, &requests(&place, "two.jsonl"), "two.out", Line::good);
    import(&place, &["two.out"]);
    running.wait_until("the instructions", || count() == first.describe + second.instruct);
    let journal = || journal::ids(&place.store("tables")).expect("a list").len();
    running.wait_until("what is committed is removed", || journal() == 0);
    drop(running);
    assert_eq!(place.rows::<TripletRow>("tables").len() as u64, second.instruct);
    place.verify("tables");
    // Other images are other requests.
    place.log().send(scenes::scenes(50, 11).skip(40).map(Message::from));
    place.catch_up("tables");
    rounds(&place, ["three.jsonl", "four.jsonl"]);
    let triplets = place.rows::<TripletRow>("tables").into_iter();
    let triplets: BTreeSet<[String; 2]> =
        triplets.map(|row| [row.query_id, row.target_id]).collect();
    let pairs = place.rows::<PairRow>("tables").into_iter();
    assert!(pairs.map(|row| [row.query_id, row.target_id]).all(|pair| triplets.contains(&pair)));
    let ids: BTreeSet<String> = answers(&place).into_iter().map(|row| row.request_id).collect();
    assert_eq!(ids.len(), answers(&place).len(), "one row for each");
}

#[test]
fn what_fails_is_exported_again_differently_or_has_its_outcome() {
    let place = place(40, "");
    place.catch_up("tables");
    let first = export(&place, "one.jsonl", &[]);
    let lines = requests(&place, "one.jsonl");
    let kinds: BTreeMap<&String, usize> =
        lines.iter().enumerate().map(|(at, line)| (&line.asked.id, at % 8)).collect();
    let mut of_each = [0_u64; 8];
    kinds.values().for_each(|kind| of_each[*kind] += 1);
    assert!(of_each[7] > 1, "{first:?}");
    answer(&place, &lines, "one.out", |line| {
        let error = |code: &str| json!({ "error": { "message": "no", "code": code } });
        match kinds[&line.asked.id] {
            0 => line.good(),
            1 => line.told("no JSON here", "stop"),
            2 => line.told("{\"common\": \"cut", "length"),
            3 => line.told(&" ".repeat(200), "length"),
            4 => line.responded(429, error("rate_limit_exceeded")),
            5 => line.responded(400, error("bad")),
            6 => line.expired(),
            // As vLLM: what went wrong stands beside an empty body.
            _ => json!({
                "custom_id": line.custom_id,
                "response": { "status_code": 500, "request_id": "r", "body": null },
                "error": { "message": "out of memory", "code": 500 },
            }),
        }
    });
    let said = import(&place, &["one.out"]);
    let counts = |of: &[(&str, u64)]| -> BTreeMap<String, u64> {
        of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    assert_eq!(said.outcomes, counts(&[("ok", of_each[0]), ("bad_request", of_each[5])]));
    let again = counts(&[
        ("bad_json", of_each[1]),
        ("truncated", of_each[2]),
        ("whitespace_loop", of_each[3]),
        ("rate_limited", of_each[4]),
        ("not asked", of_each[6]),
        ("unavailable", of_each[7]),
    ]);
    assert_eq!((said.again, said.out), (again, 0));
    // What was answered is paid, what was turned away or never asked is not.
    let paid = of_each[..4].iter().sum::<u64>() as f64 * CALL_USD;
    assert!((said.cost_usd - paid).abs() < 1e-9 && spent(&place).open == 0, "{}", said.cost_usd);
    assert!((usd(spent(&place).closed) - paid).abs() < 1e-9);

    place.catch_up("tables");
    let bodies: BTreeMap<&String, &Value> =
        lines.iter().map(|line| (&line.asked.id, &line.asked.body)).collect();
    export(&place, "two.jsonl", &[]);
    let mut seen = [0_u64; 8];
    let second = requests(&place, "two.jsonl");
    for asked in second.iter().map(|line| &line.asked).filter(|asked| asked.describes()) {
        let (kind, before, now) = (kinds[&asked.id], bodies[&asked.id], &asked.body);
        seen[kind] += 1;
        let changed = |field: &str| before[field] != now[field];
        let fields = ["seed", "temperature", "max_tokens", "response_format"].map(changed);
        let wanted = match kind {
            1 => [true, true, false, false],
            2 => [true, false, true, false],
            3 => [true, true, false, true],
            _ => [false; 4],
        };
        assert_eq!(fields, wanted, "{kind}: {before:#} and {now:#}");
    }
    let open = [0, of_each[1], of_each[2], of_each[3], of_each[4], 0, of_each[6], of_each[7]];
    assert_eq!(seen, open);
    // Once more alike: that is the outcome. A try that cost nothing may come again.
    answer(&place, &second, "two.out", |line| {
        match kinds.get(&line.asked.id).filter(|_| line.asked.describes()) {
            Some(1) => line.told("still none", "stop"),
            Some(2) => line.told("{\"common\": \"cut", "length"),
            Some(3) => line.told(&" ".repeat(200), "length"),
            _ => line.good(),
        }
    });
    let said = import(&place, &["two.out"]);
    for (outcome, count) in [("bad_json", 1), ("truncated", 2), ("whitespace_loop", 3)] {
        assert_eq!(said.outcomes[outcome], of_each[count], "{outcome}");
    }
    assert!(said.again.is_empty(), "{:?}", said.again);
    place.catch_up("tables");
    let row = answers(&place).into_iter().find(|row| row.outcome == "bad_json").expect("a row");
    assert!((row.cost_usd.expect("a cost") - 2.0 * CALL_USD).abs() < 1e-9, "both tries: {row:?}");
    assert!(failures::read(&place.store("tables")).expect("a list").is_empty());
    // Pairs without a description have their outcome without a call.
    let third = export(&place, "three.jsonl", &[]);
    assert!(third.ended > 0 && third.describe == 0, "{third:?}");
    answer(&place, &requests(&place, "three.jsonl"), "three.out", Line::good);
    import(&place, &["three.out"]);
    place.catch_up("tables");
    let pairs = place.rows::<PairRow>("tables").len();
    let rows = answers(&place);
    let instruct = rows.iter().filter(|row| row.task == "instruct").count();
    let without = rows.iter().filter(|row| row.outcome == "no_description").count();
    assert_eq!((instruct, without as u64 > 0), (pairs, true));
    assert_eq!(place.rows::<TripletRow>("tables").len(), pairs - without);
    assert_eq!(export(&place, "four.jsonl", &[]).batch, None);
    place.verify("tables");
}

#[test]
fn an_endpoint_that_refuses_and_lines_that_are_none_are_told() {
    let place = place(30, "");
    place.catch_up("tables");
    let first = export(&place, "one.jsonl", &[]);
    let said = command(&place, &["import", "one.jsonl"]).ended(1);
    said.says("one.jsonl, line 1: this is a request, no answer");
    let refused = json!({ "error": { "message": "no such model", "code": "model_not_found" } });
    let lines = requests(&place, "one.jsonl");
    let mut number = 0;
    answer(&place, &lines, "one.out", |line| {
        number += 1;
        match number {
            1 => json!({ "custom_id": line.custom_id }),
            2 => json!("a text"),
            3 => line.responded(404, refused.clone()),
            _ => line.good(),
        }
    });
    let said = command(&place, &["import", "one.out"]).ended(1);
    for words in [
        "one.out, line 1: neither a response nor an error",
        "one.out, line 2: no custom_id",
        "the endpoint has refused requests: 404: no such model",
    ] {
        assert!(said.err.contains(words), "no {words:?} in:\n{}", said.err);
    }
    assert!(said.out.contains(&format!("{} ok", first.describe - 3)), "{}", said.out);
    // Nothing is lost: what has no answer is out still.
    let [batch] = &out(&place)[..] else { panic!("one batch") };
    assert_eq!((batch.out.len(), batch.requests), (2, first.describe));
    answer(&place, &lines, "rest.out", Line::good);
    let said = import(&place, &["rest.out"]);
    assert_eq!((said.outcomes["ok"], said.out, said.closed.len()), (2, 0, 1));
    // The third one is asked again.
    place.catch_up("tables");
    assert_eq!(export(&place, "two.jsonl", &[]).describe, 1);

    let missing = command(&place, &["import", "nothing.out"]).ended(1);
    missing.says("nothing.out");
    command(&place, &["cancel", "nobody"]).ended(1).says("no batch \"nobody\" is out");
    configure(&place, "url = \"http://127.0.0.1:1/v1\"");
    let online = fs::read_to_string(place.path("tables.toml")).expect("a config");
    let online = online.replace("transport = \"batch\"", "transport = \"online\"");
    fs::write(place.path("tables.toml"), online).expect("written");
    let said = command(&place, &["export", "--out", "x.jsonl"]).ended(2);
    said.says("batches need transport = \"batch\"");
    // What is out would be asked and paid twice.
    let said = place.everpair("tables", &["run", "--until-caught-up"]).ended(1);
    said.says("are out in batches").says("everpair requests import");
    place.everpair("tables", &["validate"]).ended(1).says("are out in batches");
}

#[test]
fn a_batch_is_what_the_budget_covers_and_the_best_pairs_first() {
    let place = place(40, "");
    place.catch_up("tables");
    let all = export(&place, "all.jsonl", &[]);
    let name = all.batch.expect("a batch");
    command(&place, &["cancel", &name]).ended(0).says("nothing counts as spent");
    assert_eq!(spent(&place), Spent::default(), "as if it had not been");
    let part = export(&place, "part.jsonl", &["--most", "5"]);
    assert_eq!((part.describe, part.later), (5, all.describe - 5));
    // Of a pair that more channels propose comes first what is asked.
    let channels: BTreeMap<BTreeSet<String>, usize> = {
        let images = place.rows::<schemas::tables::ImageRow>("tables").into_iter();
        let content: BTreeMap<String, String> =
            images.map(|row| (row.image_id, row.content_id)).collect();
        let mut best = BTreeMap::new();
        for row in place.rows::<PairRow>("tables") {
            let both =
                BTreeSet::from([content[&row.query_id].clone(), content[&row.target_id].clone()]);
            let held: &mut usize = best.entry(both).or_default();
            *held = (*held).max(row.channels.len());
        }
        best
    };
    let [batch] = &out(&place)[..] else { panic!("one batch") };
    let of = |row: &AnnotationRow| {
        channels[&BTreeSet::from([row.query_content_id.clone(), row.target_content_id.clone()])]
    };
    let mut most: Vec<usize> = channels.values().copied().collect();
    most.sort_by_key(|count| std::cmp::Reverse(*count));
    let mut asked: Vec<usize> = batch.out.iter().map(|out| of(&out.row)).collect();
    asked.sort_by_key(|count| std::cmp::Reverse(*count));
    assert_eq!(asked, most[..5]);
    command(&place, &["cancel", &batch.name, "--sent"]).ended(0);
    let lost = spent(&place);
    assert!(lost.open == 0 && (usd(lost.closed) - part.most_usd).abs() < 1e-9, "{lost:?}");

    let each = all.most_usd / all.describe as f64;
    let budget = usd(lost.closed) + 3.5 * each;
    configure(&place, &format!("budget = {budget:.9}"));
    let some = export(&place, "some.jsonl", &[]);
    assert!(
        (2..=4).contains(&some.describe) && some.unpaid == all.describe - some.describe,
        "{some:?}"
    );
    assert!(usd(spent(&place).closed + spent(&place).open) <= budget + 1e-9);
    let none = export(&place, "none.jsonl", &[]);
    assert_eq!((none.batch, none.unpaid), (None, some.unpaid));
}

/// Killed between what is written down and the page that says so, an import is begun again.
#[test]
fn an_import_that_was_killed_goes_on() {
    let place = place(30, "");
    place.catch_up("tables");
    export(&place, "one.jsonl", &[]);
    let store = place.store("tables");
    let pages: Vec<Batch> = out(&place);
    let name = format!("{}/{}.json", batch::FOLDER, pages[0].name);
    let before = store.get(&name).expect("a store").expect("a page");
    let mut number = 0;
    answer(&place, &requests(&place, "one.jsonl"), "one.out", |line| {
        number += 1;
        if number % 3 == 0 { line.told("no JSON", "stop") } else { line.good() }
    });
    let said = import(&place, &["one.out"]);
    let held = failures::read(&store).expect("failures");
    assert!(!held.is_empty());
    let money = spent(&place);
    // At first what is written down waits; then the service has committed it.
    for committed in [false, true] {
        if committed {
            place.catch_up("tables");
        }
        store.replace(&name, before.to_vec()).expect("written");
        let again = import(&place, &["one.out"]);
        assert_eq!((again.outcomes.len(), again.before), (0, said.outcomes["ok"]));
        assert_eq!(again.again, said.again);
        assert!((again.cost_usd - said.cost_usd).abs() < 1e-9);
        assert_eq!(failures::read(&store).expect("failures"), held);
        assert_eq!((spent(&place), out(&place)), (money, Vec::new()));
        let waiting = journal::ids(&store).expect("a list").len() as u64;
        assert_eq!(waiting, if committed { 0 } else { said.outcomes["ok"] });
    }
    place.catch_up("tables");
    let ids: Vec<String> = answers(&place).into_iter().map(|row| row.request_id).collect();
    assert_eq!(ids.len() as u64, said.outcomes["ok"]);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}
