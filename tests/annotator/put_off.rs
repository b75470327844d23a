//! Requests that fail for now: asked again later, by the next process too, and given up in the end.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use everpair::annotator::openai::failures::{self, Failure, Patience};
use schemas::{ContentId, tables::AnnotationRow};

use super::{
    client::{CALL, GIVES_UP, Run, config, most},
    server::{Asked, Server, send, send_good},
};
use crate::service::place::wait_until;

/// Longer than any test.
pub const AN_HOUR: Patience =
    Patience { least: Duration::from_secs(3_600), most: Duration::from_secs(3_600), times: 2 };
const AT_ONCE: Patience =
    Patience { least: Duration::from_millis(1), most: Duration::from_millis(4), times: 2 };

fn nanos(row: &AnnotationRow) -> u64 {
    (row.cost_usd.expect("a cost") * 1e9).round() as u64
}

/// Its last words never come: what was billed nobody knows.
fn breaks(stream: &mut std::net::TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{");
}

/// A server that fails to describe one pair for as long as that is true.
fn failing(pair: &str) -> (Server, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(true));
    let (seen, id) = (fails.clone(), pair.to_owned());
    let server = Server::start(move |asked: &Asked, stream| {
        match asked.id == id && seen.load(Ordering::Acquire) {
            true => breaks(stream),
            false => send_good(asked, stream),
        }
    });
    (server, fails)
}

/// The id of the description that pair 0 needs: what it is asked by is known without a server.
fn description() -> String {
    let server = Server::start(send_good);
    let run = Run::new(config(&server));
    run.prompts.describe_id(&run.config, &run.pair(0))
}

/// The only one, once it is written down.
fn waiting(run: &Run) -> Failure {
    let mut all = Vec::new();
    wait_until("it is written down", || {
        all = failures::read(&run.store).expect("what has failed");
        all.len() == 1
    });
    all.remove(0)
}

#[test]
fn what_has_failed_is_asked_again_when_its_time_has_come() {
    let (most, id) = (most(), description());
    let (server, fails) = failing(&id);
    let mut run = Run::new(config(&server));
    run.restart(AN_HOUR);
    let (one, mirror, other) = (run.pair(0), run.pair(0), run.pair(1));
    let mirror = run.request(mirror.target.0, mirror.query.0);
    run.client.want(vec![one.clone(), mirror.clone(), other.clone()]);
    // Only the other one has outcomes.
    let rows = run.outcomes(2);
    assert!(rows.iter().all(|row| row.outcome == "ok"));
    wait_until("it is put off", || run.client.rests().is_some());
    let why = run.client.rests().expect("it rests");
    assert!(why.contains("2 pairs wait: all that could be asked has failed for now"), "{why}");
    let at = run.client.standing();
    assert_eq!((at.pairs, at.put_off, at.in_flight), (2, 2, 0), "{at:?}");
    let failure = waiting(&run);
    assert_eq!((&failure.row.request_id, failure.times), (&id, 1));
    assert_eq!((&*failure.row.outcome, nanos(&failure.row)), ("disconnected", 3 * most));
    let times = |id: &str| server.by_id().get(id).copied().unwrap_or(0);
    assert_eq!(times(&id), 3);

    // The next process remembers.
    fails.store(false, Ordering::Release);
    run.restart(AN_HOUR);
    let third = run.pair(2);
    run.client.want(vec![one.clone(), third]);
    assert_eq!(run.outcomes(2).len(), 2);
    wait_until("the rest waits", || run.client.rests().is_some());
    assert_eq!((times(&id), run.client.standing().put_off), (3, 1));
    // One that has gone meanwhile waits for nothing; once it is back, it waits on.
    run.client.drop_request(one.request_id.clone());
    wait_until("nothing is left", || run.client.standing().pairs == 0);
    run.client.want(vec![one.clone(), mirror.clone()]);
    wait_until("it waits on", || run.client.rests().is_some_and(|why| why.contains("2 pairs")));

    // Its time has come.
    let due = Failure { again_at: 0, ..failure };
    failures::write(&run.store, &due).expect("written");
    run.restart(AN_HOUR);
    run.client.want(vec![one, mirror]);
    let rows = run.outcomes(3);
    assert!(rows.iter().all(|row| row.outcome == "ok"), "{rows:?}");
    let described = rows.iter().find(|row| row.request_id == id).expect("the description");
    assert_eq!((times(&id), nanos(described)), (4, 3 * most + CALL), "all tries are paid for");
    run.stands("nothing is put off", |at| at.put_off == 0);
    let store = run.store.clone();
    assert_eq!(run.stop(), 3 * most + CALL + 2 * CALL + 4 * CALL);
    assert!(store.list(failures::FOLDER, "").expect("a list").is_empty());
}

#[test]
fn what_fails_each_time_is_given_up() {
    let (most, id) = (most(), description());
    let (server, _) = failing(&id);
    let mut run = Run::new(config(&server));
    run.restart(AT_ONCE);
    let request = run.pair(0);
    run.client.want(vec![request]);
    let rows = run.outcomes(2);
    let outcomes: Vec<&str> = rows.iter().map(|row| row.outcome.as_str()).collect();
    assert_eq!(outcomes, ["disconnected", "no_description"]);
    // Three tries, then one each of two times.
    assert_eq!((server.counts(), nanos(&rows[0])), ((5, 0), 5 * most));
    let store = run.store.clone();
    assert_eq!(run.stop(), 5 * most);
    assert!(store.list(failures::FOLDER, "").expect("a list").is_empty());
}

#[test]
fn what_is_the_requests_own_fault_stays() {
    let id = description();
    let refused = id.clone();
    let server = Server::start(move |asked: &Asked, stream| match asked.id == refused {
        true => send(stream, "400 Bad Request", &[], b"{\"error\": {\"message\": \"too many\"}}"),
        false => send_good(asked, stream),
    });
    let mut run = Run::new(config(&server));
    run.restart(AN_HOUR);
    let request = run.pair(0);
    run.client.want(vec![request]);
    let outcomes: Vec<String> = run.outcomes(2).into_iter().map(|row| row.outcome).collect();
    assert_eq!(outcomes, ["bad_request", "no_description"]);
    assert!(failures::read(&run.store).expect("a list").is_empty());
    // A clock that was set back puts nothing off for longer than the longest time.
    let mut row = AnnotationRow { request_id: id, ..run_row(&run) };
    row.outcome = "timeout".into();
    let failure = Failure { row, times: 1, again_at: i64::MAX, batch: None };
    failures::write(&run.store, &failure).expect("written");
    run.restart(Patience { most: Duration::from_millis(1), ..GIVES_UP });
    let request = run.pair(0);
    run.client.want(vec![request]);
    assert_eq!(run.outcomes(2).len(), 2);
}

fn run_row(run: &Run) -> AnnotationRow {
    let request = run.pair(0);
    AnnotationRow {
        request_id: request.request_id,
        query_content_id: request.query.0.hex(),
        target_content_id: ContentId::of(b"any").hex(),
        task: "describe".into(),
        model: run.config.model.clone(),
        prompt_version: 1,
        outcome: "timeout".into(),
        description: None,
        instructions: Vec::new(),
        audits: Vec::new(),
        prompt_tokens: None,
        completion_tokens: None,
        cost_usd: None,
        created_at: 0,
        epoch: 0,
    }
}
