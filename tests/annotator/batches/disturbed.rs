//! Imports and exports that are killed, at once, out of order or out of their minds.

use super::*;

/// A batch that is out, its page, and the slice that pays for it.
struct Page {
    batch: Batch,
    objects: Vec<(String, Vec<u8>)>,
}

impl Page {
    fn of(place: &Place) -> Page {
        let [batch] = <[Batch; 1]>::try_from(out(place)).expect("one batch");
        let store = place.store("tables");
        let mut objects = Vec::new();
        for folder in [batch::FOLDER, money::FOLDER] {
            for (file, _) in store.list(folder, "").expect("a list") {
                let name = format!("{folder}/{file}");
                let content = store.get(&name).expect("a store").expect("an object").to_vec();
                if String::from_utf8_lossy(&content).contains(&batch.name) {
                    objects.push((name, content));
                }
            }
        }
        assert_eq!(objects.len(), 2, "the page and the slice");
        Page { batch, objects }
    }

    /// As if what was noted down since had not been.
    fn back(&self, place: &Place) {
        let store = place.store("tables");
        for (file, _) in store.list(batch::FOLDER, "").expect("a list") {
            store.delete(&format!("{}/{file}", batch::FOLDER)).expect("deleted");
        }
        for (name, content) in &self.objects {
            store.replace(name, content.clone()).expect("written");
        }
    }
}

#[test]
fn what_was_not_taken_waits_for_the_answers_that_say_why() {
    let place = place(40, "");
    place.catch_up("tables");
    let first = export(&place, "one.jsonl", &[]);
    let lines = requests(&place, "one.jsonl");
    let (bad, well) = lines.split_at(20);
    answer(&place, bad, "errors.out", |line| line.responded(400, json!({})));
    answer(&place, well, "one.out", Line::good);
    let said = command(&place, &["import", "errors.out"]).ended(1);
    said.says("20 requests were not taken, and no answer of their batch is known yet");
    assert_eq!(out(&place)[0].out.len() as u64, first.describe);
    let said = import(&place, &["one.out"]);
    assert_eq!((said.out, said.outcomes["ok"]), (20, well.len() as u64));
    let said = import(&place, &["errors.out"]);
    assert_eq!((said.out, said.outcomes["bad_request"]), (0, 20));
    assert_eq!(spent(&place).open, 0);
    assert!((usd(spent(&place).closed) - CALL_USD * well.len() as f64).abs() < 1e-9);
}

#[test]
fn of_imports_at_once_each_answer_is_paid_once() {
    let place = place(40, "");
    place.catch_up("tables");
    let config = place.config("tables");
    let mut rows = 0;
    for round in 0..4 {
        let file = format!("{round}.jsonl");
        export(&place, &file, &["--most", "30"]);
        let lines = requests(&place, &file);
        // The same file twice, and halves.
        let parts = match round % 2 {
            0 => [&lines[..], &lines[..]],
            _ => <[&[Line]; 2]>::from(lines.split_at(11)),
        };
        let files = [0, 1].map(|n| format!("{round}.{n}.out"));
        for (part, file) in parts.iter().zip(&files) {
            answer(&place, part, file, Line::good);
        }
        std::thread::scope(|scope| {
            for file in &files {
                let path = place.path(file);
                let config = &config;
                scope.spawn(move || batch::import(config, &[path]).expect("it is imported"));
            }
        });
        rows += lines.len();
        // Whoever is last closes it; where both were, the next one does.
        import(&place, &[&files[0]]);
        let held = spent(&place);
        let cost = CALL_USD * rows as f64;
        assert!(
            held.open == 0 && (usd(held.closed) - cost).abs() < 1e-9,
            "round {round}: {held:?}, not {cost}"
        );
        assert_eq!(out(&place), []);
        place.catch_up("tables");
        assert_eq!(answers(&place).len(), rows);
    }
    let store = place.store("tables");
    let left = store.list(batch::FOLDER, "").expect("a list");
    assert_eq!(left.len(), 4, "a page for each, and no parts: {left:?}");
}

#[test]
fn strange_lines_cost_what_they_can_and_hold_nothing_up() {
    let place = place(30, "");
    place.catch_up("tables");
    export(&place, "one.jsonl", &[]);
    let lines = requests(&place, "one.jsonl");
    let most = usd(out(&place)[0].out[0].most);
    let mut first = reply(&lines[0].asked.good(), "stop");
    first["usage"]["prompt_tokens"] = json!(u64::MAX);
    let batch = &out(&place)[0].name.clone();
    let text = [
        format!("\u{feff}{}", lines[0].responded(200, first)),
        String::new(),
        format!("{}\r", lines[1].good()),
        responded(&format!("{batch}.99999"), 200, json!({})).to_string(),
        json!({ "custom_id": lines[2].custom_id, "response": null,
                "error": { "error": { "message": "in two boxes", "code": 500 } } })
        .to_string(),
    ];
    fs::write(place.path("one.out"), text.join("\n")).expect("written");
    let said = import(&place, &["one.out"]);
    assert_eq!((said.outcomes["ok"], said.again["unavailable"], said.unknown), (2, 1, 1));
    assert!((said.cost_usd - most - CALL_USD).abs() < 1e-9, "{}", said.cost_usd);
}

#[test]
fn a_config_that_was_applied_stays_so_though_it_changes_no_row() {
    let place = place(30, "");
    place.catch_up("tables");
    configure(&place, "describe_model = \"another\"");
    place.everpair("tables", &["run", "--until-caught-up"]).ended(1).says("--apply");
    place.everpair("tables", &["run", "--until-caught-up", "--apply"]).ended(0);
    place.catch_up("tables");
    place.verify("tables");
}

#[test]
fn what_an_import_has_stored_is_paid_for_though_the_batch_is_given_up() {
    let place = place(30, "");
    place.catch_up("tables");
    let first = export(&place, "one.jsonl", &[]);
    let page = Page::of(&place);
    let lines = requests(&place, "one.jsonl");
    let some = lines.len() / 2;
    answer(&place, &lines[..some], "one.out", Line::good);
    // Killed before it was noted down what is out still; some of it the service has committed.
    import(&place, &["one.out"]);
    place.catch_up("tables");
    page.back(&place);
    answer(&place, &lines[some..some + 3], "more.out", Line::good);
    import(&place, &["more.out"]);
    page.back(&place);
    command(&place, &["cancel", &page.batch.name]).ended(0);
    let cost = CALL_USD * (some + 3) as f64;
    let held = spent(&place);
    assert!(held.open == 0 && (usd(held.closed) - cost).abs() < 1e-9, "{held:?}, not {cost}");
    let again = export(&place, "two.jsonl", &[]);
    assert_eq!(again.describe, first.describe - some as u64 - 3);
    // Late answers of the one that was given up are told, and change nothing.
    let said = command(&place, &["import", "one.out"]).ended(1);
    said.says("in no batch of these tables, or of a batch that was cancelled");
}

#[test]
fn the_memo_is_seen_before_what_was_written_down_goes() {
    let place = place(30, "");
    place.catch_up("tables");
    let first = export(&place, "one.jsonl", &[]);
    answer(&place, &requests(&place, "one.jsonl"), "one.out", Line::good);
    import(&place, &["one.out"]);
    // The service is killed when the memo has them and the epoch is not real yet.
    let epoch = place.epoch("tables") + 1;
    let mut rows = journal::read(&place.store("tables")).expect("what was imported");
    rows.iter_mut().for_each(|row| row.epoch = epoch as i64);
    place.memo_ahead("tables", epoch, &rows);
    for _ in 0..2 {
        place.catch_up("tables");
        assert!(journal::ids(&place.store("tables")).expect("a list").is_empty());
        let ids: BTreeSet<String> = answers(&place).into_iter().map(|row| row.request_id).collect();
        assert_eq!((ids.len(), answers(&place).len()), (rows.len(), rows.len()));
    }
    let second = export(&place, "two.jsonl", &[]);
    assert_eq!((second.describe, second.instruct), (0, first.waiting), "none is asked twice");
}

#[test]
fn a_batch_of_which_nothing_was_taken_is_nobodys_fault() {
    let place = place(30, "");
    place.catch_up("tables");
    let mut asked = 0;
    let error = json!({ "error": { "message": "unknown field", "code": "invalid" } });
    for (file, status) in [("one.jsonl", 400), ("two.jsonl", 503)] {
        asked = export(&place, file, &[]).describe;
        let to = file.replace("jsonl", "out");
        answer(&place, &requests(&place, file), &to, |line| line.responded(status, error.clone()));
        let said = command(&place, &["import", &to, "--json"]);
        if status == 400 {
            assert_eq!(said.code, Some(1));
            assert!(
                said.err.contains("unknown field (does [annotator] ask in a way"),
                "{}",
                said.err
            );
        }
        let said: Value = serde_json::from_str(&said.out).expect("JSON");
        assert_eq!((&said["outcomes"], &said["out"]), (&json!({}), &json!(0)));
    }
    assert_eq!(spent(&place).closed + spent(&place).open, 0);
    let failed = failures::read(&place.store("tables")).expect("failures");
    assert!(failed.iter().all(|failure| failure.times == 0) && failed.len() as u64 == asked);
    // Somebody sees to it.
    let said = export(&place, "three.jsonl", &[]);
    assert_eq!((said.describe, said.ended), (asked, 0));
}

#[test]
fn a_file_is_for_one_model() {
    let place = place(30, "describe_model = \"another\"");
    place.catch_up("tables");
    export(&place, "one.jsonl", &["--most", "20"]);
    answer(&place, &requests(&place, "one.jsonl"), "one.out", Line::good);
    import(&place, &["one.out"]);
    place.catch_up("tables");
    let mut seen = BTreeSet::new();
    for file in ["two.jsonl", "three.jsonl"] {
        let said = export(&place, file, &[]);
        let models: BTreeSet<String> = requests(&place, file)
            .iter()
            .map(|line| line.asked.body["model"].as_str().expect("a model").to_owned())
            .collect();
        assert_eq!((models.len(), said.later > 0), (1, seen.is_empty()), "{models:?}, {said:?}");
        seen.extend(models);
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_service_that_asks_ends_where_requests_are_exported_beside_it() {
    let server = Server::start(send_good);
    let place = Place::new();
    place.configure("tables", &super::super::pipeline::annotator(&server, "settle = \"1 h\""));
    place.log().send(scenes::scenes(30, 11).map(Message::from));
    let mut running = place.start("tables");
    running.wait_until("everything is committed", || place.committed("tables") == 30);
    configure(&place, "");
    assert!(export(&place, "one.jsonl", &[]).describe > 0);
    let (code, said) = running.wait();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("requests are out in batches"), "{said}");
    assert_eq!(server.counts(), (0, 0));
}

#[test]
fn of_exports_at_once_no_two_have_the_same_request() {
    let place = place(40, "");
    place.catch_up("tables");
    let config = place.config("tables");
    for round in 0..5 {
        let file = |n: usize| place.path(&format!("{round}-{n}.jsonl"));
        let said: Vec<anyhow::Result<Exported>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|n| {
                    scope.spawn({
                        let (config, file) = (&config, file(n));
                        move || batch::export(config, &file, 2)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let all = out(&place);
        let ids: Vec<&String> =
            all.iter().flat_map(|batch| &batch.out).map(|out| &out.row.request_id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "round {round}");
        let named: BTreeSet<&String> = all.iter().map(|batch| &batch.name).collect();
        for (n, said) in said.iter().enumerate() {
            match said {
                Ok(said) => {
                    let batch = said.batch.as_ref().expect("there is more to ask");
                    assert!(named.contains(batch) && file(n).exists());
                }
                Err(error) => {
                    assert!(format!("{error:#}").contains("try again"), "{error:#}");
                    assert!(!file(n).exists());
                }
            }
        }
        let most: u64 = all.iter().map(Batch::most).sum();
        assert_eq!(spent(&place).open, most, "round {round}");
    }
}

/// Whatever comes back, in whatever order: the budget holds, what has an outcome is never out again,
/// and in the end all pairs have one.
#[test]
fn random_answers_end_in_outcomes_within_the_budget() {
    let seed = 20_261_123;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let budget = 0.5;
    let place = place(25, &format!("budget = {budget}"));
    place.catch_up("tables");
    // What the endpoint has billed, by the tokens it tells.
    let mut billed = 0.0;
    // Files that have not been imported, and all.
    let (mut waiting, mut all): (Vec<String>, Vec<String>) = Default::default();
    for round in 0.. {
        assert!(round < 60, "no end");
        let stored: BTreeSet<String> =
            answers(&place).into_iter().map(|row| row.request_id).collect();
        let file = format!("{round}.jsonl");
        let said = export(&place, &file, &["--most", &(3 + dice.below(60)).to_string()]);
        assert!(usd(spent(&place).closed + spent(&place).open) <= budget + 1e-9);
        if said.batch.is_none() && said.ended == 0 && waiting.is_empty() {
            break;
        }
        if said.batch.is_some() {
            let lines = requests(&place, &file);
            assert!(lines.iter().all(|line| !stored.contains(&line.asked.id)), "asked again");
            let cut = dice.below(lines.len() + 1);
            let mut by = |line: &Line| {
                let answer = match dice.below(12) {
                    0 => line.responded(429, json!({})),
                    1 => line.responded(400, json!({ "error": { "message": "no" } })),
                    2 => line.told("no JSON", "stop"),
                    3 => line.told("{\"a", "length"),
                    4 => line.expired(),
                    _ => line.good(),
                };
                billed += if answer["response"]["status_code"] == 200 { CALL_USD } else { 0.0 };
                answer
            };
            for (part, lines) in [&lines[..cut], &lines[cut..]].into_iter().enumerate() {
                let name = format!("{round}.{part}.out");
                answer(&place, lines, &name, &mut by);
                waiting.push(name);
            }
        }
        // Some now, the others in a later round, and what was imported before once more.
        let (now, later) = waiting.into_iter().partition(|_| dice.below(3) > 0);
        let again = all.get(dice.below(all.len().max(1))).cloned();
        let now: Vec<String> = now;
        let names: Vec<&str> = now.iter().chain(&again).map(String::as_str).collect();
        if !names.is_empty() {
            let said = import(&place, &names);
            assert_eq!((said.unknown, said.unreadable_count), (0, 0), "{said:?}");
        }
        (all, waiting) = ([all, now].concat(), later);
        if dice.below(2) == 0 {
            place.catch_up("tables");
        }
    }
    place.catch_up("tables");
    let rows = answers(&place);
    let ids: BTreeSet<&String> = rows.iter().map(|row| &row.request_id).collect();
    assert_eq!(ids.len(), rows.len(), "one row for each");
    let instruct = rows.iter().filter(|row| row.task == "instruct").count();
    assert_eq!(instruct, place.rows::<PairRow>("tables").len());
    let spent = spent(&place);
    assert!(spent.open == 0 && (usd(spent.closed) - billed).abs() < 1e-9, "{spent:?}, {billed}");
    let cost: f64 = rows.iter().filter_map(|row| row.cost_usd).sum();
    assert!((cost - billed).abs() < 1e-9, "{cost} in rows, {billed} billed");
    place.verify("tables");
}
