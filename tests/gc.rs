//! `everpair gc`: what was taken down or replaced is in no object, by a search that knows nothing
//! of how it was removed, and everything else is as it was.

mod history;
mod running;
mod search;

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::Value;

use self::history::{History, Shown};

/// What `gc --json` says, which must have succeeded.
pub fn collected(history: &History, arguments: &[&str]) -> Value {
    let said = history.place.everpair("tables", &[&["gc", "--json"], arguments].concat()).ended(0);
    serde_json::from_str(&said.out).expect("a report is JSON")
}

/// The figures that a dry run gives too.
pub fn figures(report: &Value) -> Vec<Value> {
    let mut figures: Vec<Value> = ["epoch", "snapshots", "epochs_dropped", "state_files"]
        .iter()
        .map(|name| report[name].clone())
        .collect();
    for (table, left) in report["tables"].as_object().expect("tables") {
        let of = ["rows", "files", "objects_removed", "bytes_removed"].map(|name| &left[name]);
        figures.push(serde_json::json!([table, of]));
    }
    figures
}

/// Nothing of what has gone is found, and all that stays is as it was.
pub fn gone_and_nothing_else(history: &History, before: &Shown) {
    let traces = history.traces();
    let sought = history.sought();
    assert!(traces.is_empty(), "{} of {} are there: {traces:#?}", traces.len(), sought.len());
    let after = history.shown();
    before.losing(&history.live_ids(), history.back, &after).same_as(&after);
    history.place.verify("tables");
}

#[test]
fn random_histories_leave_no_trace_of_what_has_gone() {
    for seed in [1, 2] {
        let mut history = History::new(seed);
        history.step();
        let state = history.state();
        (1..5).for_each(|_| history.step());
        state.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("a cache of old"));
        let (before, sought) = (history.shown(), history.sought());
        let kinds: BTreeSet<&str> = sought.iter().map(|one| one.kind).collect();
        let found: BTreeSet<&str> = history.traces().iter().map(|one| one.kind).collect();
        assert_eq!(found, kinds, "the search finds each kind while it is there");
        assert!(kinds.len() >= 5 && sought.len() > 50, "{kinds:?}, {}", sought.len());

        let files = history.contents_of_files();
        let dry = collected(&history, &["--dry-run"]);
        assert_eq!(history.contents_of_files(), files, "a dry run changes nothing");
        let report = collected(&history, &["--take-over"]);
        assert_eq!(figures(&dry), figures(&report));
        assert_eq!(report["state_files"], state.len(), "{report:#}");
        assert_eq!(report["proof"]["findings_count"], 0, "{report:#}");
        assert!(report["proof"]["rows"]["contents"].as_u64() > Some(20), "{report:#}");
        assert!(!report["epochs_dropped"].as_array().expect("epochs").is_empty());
        assert_eq!(report["snapshots"].as_object().map(|all| all.len()), Some(2), "{report:#}");
        gone_and_nothing_else(&history, &before);

        let again = collected(&history, &["--take-over"]);
        let rows = |left: &Value| left["rows"] == 0 && left["objects_removed"] == 0;
        assert!(again["tables"].as_object().expect("tables").values().all(rows), "{again:#}");

        // The old lists, without those that have gone, still save the start its work.
        let newer = history.state().into_keys().filter(|path| !state.contains_key(path));
        newer.for_each(|path| fs::remove_file(path).expect("it can be removed"));
        let said = history.place.everpair("tables", &["run", "--until-caught-up"]).ended(0);
        said.says("come from the state checkpoint of epoch");
        history.place.verify("tables");

        history.one_comes_back();
        history.step();
        history.place.verify("tables");
    }
}

#[test]
fn a_collection_that_is_killed_anywhere_goes_on() {
    let mut history = History::new(3);
    for _ in 0..4 {
        history.step();
    }
    let (before, live) = (history.shown(), history.live_ids());
    let mut killed = 0;
    // Longer each time: from before the first file is written to behind the last removal.
    while history.killed_after(Duration::from_millis(20 * killed)) {
        killed += 1;
        assert!(killed < 500, "it never ends");
        let after = history.shown();
        before.losing_some(&live, &after);
        if killed % 8 == 0 {
            // A service that is started instead finds tables that it can go on with.
            history.place.catch_up("tables");
        }
    }
    println!("killed {killed} times");
    assert!(killed >= 5, "it was over too soon to be killed: {killed}");
    gone_and_nothing_else(&history, &before);
    let report = collected(&history, &["--take-over"]);
    assert_eq!(report["proof"]["findings_count"], 0, "{report:#}");
    history.step();
    history.place.verify("tables");
}

/// What the proof says is worth as much as what it finds.
#[test]
fn the_proof_finds_what_was_left_behind() {
    let mut history = History::new(4);
    for _ in 0..3 {
        history.step();
    }
    let planted = history.keep_old_objects();
    assert!(planted.len() > 20, "{}", planted.len());
    collected(&history, &["--take-over"]);
    for (kind, name) in [
        ("contents", "the bytes of a content that has gone"),
        ("embeddings", "a vector of a content or caption that has gone"),
        ("annotations", "texts about a content that has gone"),
        ("pairs", "not live"),
        ("images", "an image, content or caption that has gone"),
        ("images/_delta_log", "name what has gone"),
        ("_everpair/notes", "no page that Everpair knows"),
    ] {
        // Found by the proof alone: the plan would remove them, so nothing but the proof runs.
        let found = history.found_with(&planted, kind);
        assert!(found.iter().any(|line| line.contains(name)), "{kind}: {found:#?}");
    }
}
