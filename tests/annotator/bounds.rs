//! What a client keeps to: the endpoint's limits per minute, what may wait for a commit, and which
//! endpoint is asked.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use everpair::scenes;
use operators::flow::Request;
use schemas::{config::Fallback, limits, tables::AnnotationRow};

use super::{
    client::{CALL, Run, UNCOMMITTED, config},
    pipeline::annotator,
    server::{Asked, Server, TOKENS, send, send_good},
};
use crate::service::place::{Message, Place, wait_until};

fn all_well(rows: &[AnnotationRow]) {
    assert!(rows.iter().all(|row| row.outcome == "ok"), "{rows:?}");
}

#[test]
fn no_more_calls_are_begun_in_a_minute_than_the_endpoint_allows() {
    let pairs = 8;
    let calls = 2 * pairs as u64;
    let tokens = TOKENS.0 + TOKENS.1;
    for (requests, of_tokens, per_second) in [
        (Some(120), None, 2.0),
        // By what calls take; what the first one may take is far more.
        (None, Some(120 * tokens), 2.0),
    ] {
        let server = Server::start(send_good);
        let mut config = config(&server);
        config.requests_per_minute = requests;
        config.tokens_per_minute = of_tokens;
        config.concurrency = 64;
        let mut run = Run::new(config);
        let wanted: Vec<Request> = (0..pairs).map(|n| run.pair(n)).collect();
        let began = Instant::now();
        run.client.want(wanted);
        all_well(&run.outcomes(calls as usize));
        let burst = per_second * limits::ANNOTATOR_BURST_SECONDS;
        let least = Duration::from_secs_f64((calls as f64 - burst - 1.0) / per_second);
        let took = began.elapsed();
        assert!(took >= least, "{took:?} for {calls} calls, not {least:?}");
        assert_eq!(run.stop(), calls * CALL);
    }
}

#[test]
fn calls_wait_for_commits() {
    let server = Server::start(send_good);
    let mut config = config(&server);
    config.concurrency = 16;
    let mut run = Run::new(config);
    let pairs = UNCOMMITTED * 3 / 4;
    let wanted: Vec<Request> = (0..pairs).map(|n| run.pair(n)).collect();
    run.client.want(wanted);
    let (mut rows, mut committed) = (Vec::new(), 0);
    while committed < 2 * pairs {
        let most = (committed + UNCOMMITTED).min(2 * pairs);
        wait_until("as much as may wait", || {
            rows.extend(run.client.take());
            rows.len() >= most
        });
        wait_until("nothing more is asked", || run.client.standing().in_flight == 0);
        rows.extend(run.client.take());
        // Those in flight when there were enough come on top.
        assert!(rows.len() <= most + 16, "{} with {committed} committed", rows.len());
        let newest = rows[committed..].iter();
        let newest: Vec<(String, String)> = newest
            .map(|row: &AnnotationRow| (row.request_id.clone(), row.outcome.clone()))
            .collect();
        committed = rows.len();
        run.client.committed(newest);
    }
    all_well(&rows);
    assert_eq!(run.stop(), 2 * pairs as u64 * CALL);
}

#[test]
fn a_run_goes_on_at_the_endpoint_that_does_not_refuse() {
    let refuses = Server::start(|_, stream| send(stream, "401 Unauthorized", &[], b"{}"));
    let good = Server::start(send_good);
    let place = Place::new();
    let more = format!("[[annotator.fallback]]\nurl = {:?}\n", good.url());
    place.configure("tables", &annotator(&refuses, &more));
    place.log().send(scenes::scenes(30, 11).map(Message::from));
    place.catch_up("tables");
    assert!(good.counts().1 > 20 && !refuses.asked().is_empty());
    place.verify("tables");
    // Where both do, somebody has to see to it.
    let both = Place::new();
    let more = format!("[[annotator.fallback]]\nurl = {:?}\n", refuses.url());
    both.configure("tables", &annotator(&refuses, &more));
    both.log().send(scenes::scenes(30, 11).map(Message::from));
    let said = both.everpair("tables", &["run", "--until-caught-up"]).ended(1);
    said.says("the endpoint refuses everything").says("401");
}

/// Down or refusing while that is so.
fn moody(well: &Arc<AtomicBool>, how: &'static str) -> Server {
    let well = well.clone();
    Server::start(move |asked: &Asked, stream: &mut TcpStream| match well.load(Ordering::Acquire) {
        true => send_good(asked, stream),
        false => send(stream, how, &[], b"{}"),
    })
}

#[test]
fn another_endpoint_stands_in_while_one_is_down_or_refuses() {
    for how in ["503 Service Unavailable", "401 Unauthorized"] {
        let well = [true, false].map(|well| Arc::new(AtomicBool::new(well)));
        let servers = [moody(&well[0], how), moody(&well[1], how)];
        let mut config = config(&servers[0]);
        config.attempts = 20;
        config.fallback = vec![Fallback { url: servers[1].url(), key_variable: None }];
        let mut run = Run::new(config);
        let next = AtomicUsize::new(0);
        let more = |run: &mut Run| {
            let from = next.fetch_add(10, Ordering::AcqRel);
            let wanted: Vec<Request> = (from..from + 10).map(|n| run.pair(n)).collect();
            run.client.want(wanted);
            all_well(&run.outcomes(20));
        };
        more(&mut run);
        assert_eq!(servers[1].asked().len(), 0, "{how}: the first one is well");
        let stand_in = |this: usize, other: usize| {
            well[other].store(true, Ordering::Release);
            well[this].store(false, Ordering::Release);
            servers.iter().for_each(Server::forget);
        };
        stand_in(0, 1);
        more(&mut run);
        assert_eq!(servers[1].asked().len(), 20, "{how}");
        // It stays with the one that is well, also when the other one is again.
        well[0].store(true, Ordering::Release);
        servers.iter().for_each(Server::forget);
        more(&mut run);
        assert_eq!(servers[0].asked().len(), 0, "{how}");
        // And comes back to it.
        stand_in(1, 0);
        more(&mut run);
        assert_eq!(servers[0].asked().len(), 20, "{how}");
        assert_eq!(run.stop(), 80 * CALL, "{how}: what was turned away costs nothing");
    }
}
