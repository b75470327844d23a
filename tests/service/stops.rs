//! SIGTERM mid-stream: whole epochs, exit code 0, and a later run goes on.

use schemas::tables::Table;

use super::kills::{SMALL_EPOCHS, history, same_tables};
use super::place::{Place, wait_until};

fn streaming() -> (Place, i64) {
    let place = Place::new();
    let rest = format!("{SMALL_EPOCHS}[triplets]\nkeep = \"mined\"\n");
    place.configure("stopped", &rest);
    place.configure("whole", &rest);
    let mut log = place.log();
    log.send(history(250, 73));
    (place, log.count)
}

/// No table has anything that readers are not told of.
fn whole_epochs(place: &Place) {
    let latest = place.latest("stopped").expect("a committed epoch");
    for table in Table::ALL.map(Table::as_str) {
        let newest = place.newest("stopped", table).expect("every table is there");
        assert_eq!(latest["tables"][table], newest.version(), "{table}");
        assert!(newest.epoch() <= latest["epoch"].as_u64(), "{table}");
    }
    place.verify("stopped");
}

#[test]
fn stopped_mid_stream_it_commits_whole_epochs_and_goes_on_later() {
    let (place, sent) = streaming();
    let mut service = place.start("stopped");
    service.wait_until("the third epoch", || place.epoch("stopped") >= 3);
    service.terminate();
    let (code, said) = service.wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopping"), "{said}");
    let committed = place.committed("stopped");
    println!("{committed} of {sent} messages at the stop");
    assert!(0 < committed && committed < sent, "{committed} of {sent}: not mid-stream");
    whole_epochs(&place);

    place.catch_up("stopped");
    place.verify("stopped");
    place.catch_up("whole");
    same_tables(&place, "stopped", "whole", true);
}

#[test]
fn a_second_signal_ends_it_at_once_and_nothing_is_lost() {
    let (place, sent) = streaming();
    let mut service = place.start("stopped");
    service.wait_until("the second epoch", || place.epoch("stopped") >= 2);
    service.terminate();
    // Two signals of a kind that are both pending are one: the first must have been taken.
    wait_until("it says that it stops", || {
        service.said().contains("stopping") || service.ended().is_some()
    });
    if service.ended().is_none() {
        service.terminate();
    }
    let (code, said) = service.wait();
    assert!(code == Some(1) || code == Some(0), "{code:?}: {said}");
    println!("exit code {code:?}, {} of {sent} messages", place.committed("stopped"));
    assert!(place.committed("stopped") < sent, "not mid-stream");

    place.catch_up("stopped");
    whole_epochs(&place);
    place.catch_up("whole");
    same_tables(&place, "stopped", "whole", true);
}
