//! A service that runs collects when it is asked to, and goes on.

use std::process::Stdio;

use serde_json::Value;

use super::{collected, history::History};
use crate::service::place::wait_until;

#[test]
fn a_running_service_collects_and_goes_on() {
    let mut history = History::new(5);
    for _ in 0..4 {
        history.step();
    }
    let before = history.shown();
    let mut service = history.place.start("tables");
    let report = collected(&history, &[]);
    assert_eq!(report["proof"]["findings_count"], 0, "{report:#}");
    assert!(report["tables"]["contents"]["rows"].as_u64() > Some(0), "{report:#}");
    assert!(history.traces().is_empty());
    let after = history.shown();
    before.losing(&history.live_ids(), history.back, &after).same_as(&after);
    // It is there for what comes, and for another request.
    let committed = history.place.committed("tables");
    history.send_one();
    service.wait_until("a message after it", || history.place.committed("tables") > committed);
    let again = collected(&history, &[]);
    assert_eq!(again["tables"]["contents"]["rows"], 0, "{again:#}");
    assert_eq!(history.place.requests("tables"), 0);
    service.terminate();
    assert_eq!(service.wait().0, Some(0));
    history.place.verify("tables");
}

#[test]
fn a_stop_in_between_is_heard_and_the_next_start_goes_on() {
    let mut history = History::new(6);
    for _ in 0..4 {
        history.step();
    }
    let mut service = history.place.start("tables");
    let committed = history.place.committed("tables");
    history.send_one();
    service.wait_until("it follows", || history.place.committed("tables") > committed);
    let mut command = history.place.command("tables", &["gc", "--json"]);
    let asking = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    service.wait_until("the request", || history.place.requests("tables") > 0);
    service.terminate();
    assert_eq!(service.wait().0, Some(0), "a stop is no failure");
    // Asked for and not done, or done: in the end it is.
    history.place.catch_up("tables");
    wait_until("it was answered", || history.place.requests("tables") == 0);
    let said = asking.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    match said.status.code() {
        Some(0) => {
            let report: Value = serde_json::from_slice(&said.stdout).expect("a report");
            assert_eq!(report["proof"]["findings_count"], 0, "{report:#}");
        }
        _ => assert!(text.contains("the service was stopped meanwhile"), "{text}"),
    }
    assert!(history.traces().is_empty());
    history.place.verify("tables");
}

#[test]
fn what_was_asked_for_before_is_done_before() {
    let mut history = History::new(8);
    for _ in 0..4 {
        history.step();
    }
    let mut command = history.place.command("tables", &["gc", "--json"]);
    history.block_one();
    let asking = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    wait_until("both requests", || history.place.requests("tables") == 2);
    history.place.catch_up("tables");
    let said = asking.wait_with_output().expect("it ends");
    assert_eq!(said.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&said.stdout).expect("a report");
    assert_eq!(report["proof"]["findings_count"], 0, "{report:#}");
    assert_eq!(history.place.requests("tables"), 0);
    assert!(history.traces().is_empty());
    history.place.verify("tables");
}

#[test]
fn where_no_service_answers_that_is_said() {
    let mut history = History::new(7);
    history.step();
    let said = history.place.everpair("tables", &["gc"]).ended(1);
    said.says("no service of these tables answered").says("--take-over");
    assert_eq!(history.place.requests("tables"), 0, "nobody finds it later");
    history.place.configure("empty", "");
    std::fs::create_dir(history.place.path("empty")).expect("a folder");
    history.place.everpair("empty", &["gc"]).ended(1).says("nothing was committed yet");
}
