//! Where the budget does not do for all pairs: which are asked about.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Condvar, Mutex, atomic::Ordering},
};

use everpair::annotator::openai::{
    money::Prices,
    prompts::{Description, Variation, ordered},
    worth::{Both, Worth},
};
use operators::flow::Request;
use schemas::ContentId;

use super::{
    client::{CALL, Images, Run, config},
    server::{Asked, Server, send_good},
};
use crate::service::place::wait_until;

fn both(request: &Request) -> Both {
    ordered(request).map(|side| side.0)
}

/// The most that the description of a pair can cost.
fn most(run: &Run, request: &Request) -> u64 {
    let id = run.prompts.describe_id(&run.config, request);
    let chat = run.prompts.describe(&run.config, &id, request, Variation::default());
    let (read, written) = chat.most_tokens(&run.config);
    Prices::of(&run.config).cost(read, written)
}

fn described(server: &Server) -> Vec<String> {
    server.asked().into_iter().filter(Asked::describes).map(|asked| asked.id).collect()
}

#[test]
fn scarce_money_goes_to_the_best_pairs_and_the_sources_take_turns() {
    let server = Server::start(send_good);
    let mut config = config(&server);
    // A description can cost far more than instructions.
    (config.image_tokens, config.concurrency) = (10_000, 1);
    let probe = Run::new(config.clone());
    let pairs: Vec<Request> = (0..12).map(|n| probe.pair(n)).collect();
    let each = || pairs.iter().map(|pair| most(&probe, pair));
    let most = each().min().expect("pairs");
    assert!(each().all(|each| each < most + CALL), "no captions: all can cost about the same");
    probe.stop();
    // The first is proposed by the fewest channels, and every fourth is of a small source.
    let worth = |n: usize| Worth {
        channels: n as u32 / 4 + 1,
        leading: 1,
        margin: n as u32,
        source: if n.is_multiple_of(4) { "small" } else { "large" }.into(),
    };
    let worth: HashMap<Both, Worth> =
        pairs.iter().enumerate().map(|(n, pair)| (both(pair), worth(n))).collect();
    // Four pairs, by what calls take, and then less than a description can cost.
    config.budget = Some((most + 8 * CALL - 1) as f64 / 1e9);
    let mut run = Run::with(config.clone(), Images { worth: worth.clone(), ..Images::default() });
    run.client.want(pairs.clone());
    let mut rows = Vec::new();
    wait_until("the budget is spent", || {
        rows.extend(run.client.take());
        run.client.rests().is_some_and(|why| why.contains("budget is spent"))
    });
    let of = |asked: &Asked| {
        let is = |pair: &&Request| {
            asked.id == pair.request_id || asked.id == run.prompts.describe_id(&run.config, pair)
        };
        pairs.iter().position(|pair| is(&pair)).expect("one of the pairs")
    };
    let asked = server.asked();
    let told: Vec<usize> = asked.iter().filter(|asked| asked.describes()).map(of).collect();
    let (small, large): (Vec<usize>, Vec<usize>) =
        told.iter().copied().partition(|n| n.is_multiple_of(4));
    assert!(small.len() >= 2 && [8, 4, 0].starts_with(&small), "{told:?}");
    assert!(large.len() >= 2 && [11, 10, 9, 7, 6].starts_with(&large), "{told:?}");
    let mut ahead = 0_i32;
    for asked in &asked[..8] {
        ahead += if of(asked).is_multiple_of(4) { -1 } else { 1 };
        assert!((0..=1).contains(&ahead), "the sources take turns: {told:?}");
    }
    assert!(rows.iter().all(|row| row.outcome == "ok"));
    assert_eq!(rows.len(), 2 * told.len(), "what is described gets its instructions");
    run.stands("those wait that were not asked about", |at| at.pairs == pairs.len() - told.len());
    assert_eq!(run.stop(), rows.len() as u64 * CALL);

    // Enough for all: by contents, whatever they are worth, and nobody looks.
    server.forget();
    config.budget = Some(100.0);
    let images = Images { worth, ..Images::default() };
    let mut run = Run::with(config, images.clone());
    run.client.want(pairs.clone());
    assert_eq!(run.outcomes(24).len(), 24);
    let mut contents: Vec<&Request> = pairs.iter().collect();
    contents.sort_by_key(|pair| both(pair));
    let ids: Vec<String> =
        contents.iter().map(|pair| run.prompts.describe_id(&run.config, pair)).collect();
    assert_eq!(described(&server), ids);
    assert_eq!(images.looks.load(Ordering::Acquire), 0);
    run.stop();
}

#[test]
fn a_call_that_the_budget_does_not_cover_holds_up_no_other() {
    let server = Server::start(send_good);
    let mut config = config(&server);
    (config.image_tokens, config.captions, config.concurrency) = (10_000, true, 1);
    let run = Run::new(config.clone());
    let long = "a caption that goes on and on ".repeat(200);
    let captioned = |n: usize, caption: &str| {
        let request = run.pair(n);
        let model = everpair::annotator::openai::model_id(&config, &run.prompts);
        let side = |content: ContentId| (content, Some(Arc::from(caption)));
        let [query_id, target_id] = &request.images;
        let (query, target) = (side(request.query.0), side(request.target.0));
        operators::annotate::request(&model, (query_id, &query), (target_id, &target))
    };
    let short: Vec<Request> = (1..6).map(|n| captioned(n, "short")).collect();
    let dear: Vec<Request> = (6..9).map(|n| captioned(n, long.trim())).collect();
    let (least, most_of_dear) = (most(&run, &short[0]), most(&run, &dear[0]));
    assert!(most_of_dear > least + 20 * CALL, "{least} and {most_of_dear}");
    // Those that are dear are worth more.
    let worth = |channels| Worth { channels, ..Worth::default() };
    let worth = dear.iter().map(|pair| (both(pair), worth(3)));
    let images = Images { worth: worth.collect(), ..Images::default() };
    let mut with_less = config.clone();
    with_less.budget = Some((least + 15 * CALL) as f64 / 1e9);
    drop(run);
    let mut run = Run::with(with_less, images);
    run.client.want(dear.iter().chain(&short).cloned().collect());
    let rows = run.outcomes(10);
    let answered: BTreeSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
    assert!(short.iter().all(|pair| answered.contains(pair.request_id.as_str())));
    wait_until("the budget is spent", || run.client.rests().is_some());
    assert_eq!(run.client.standing().pairs, dear.len());
    // One that has gone waits for nothing.
    run.client.drop_request(dear[0].request_id.clone());
    wait_until("it has gone", || run.client.standing().pairs == dear.len() - 1);
    assert_eq!(run.stop(), 10 * CALL);
}

#[test]
fn stored_descriptions_are_looked_for_together() {
    let open = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = open.clone();
    let server = Server::start(move |asked: &Asked, stream| {
        let closed = gate.0.lock().expect("no panic holds it");
        drop(gate.1.wait_while(closed, |open| !*open).expect("no panic holds it"));
        send_good(asked, stream);
    });
    let mut config = config(&server);
    config.concurrency = 1;
    let probe = Run::new(config.clone());
    let pairs: Vec<Request> = (0..40).map(|n| probe.pair(n)).collect();
    let said = |n: usize| Description {
        common: format!("shapes {n}"),
        first: "has a circle".into(),
        second: "has a square".into(),
    };
    let ids = pairs.iter().map(|pair| probe.prompts.describe_id(&config, pair)).enumerate();
    let described = ids.map(|(n, id)| (id, said(n))).collect();
    probe.stop();
    let images = Images { described, ..Images::default() };
    let mut run = Run::with(config, images.clone());
    for pair in &pairs {
        run.client.want(vec![pair.clone()]);
    }
    wait_until("all are known", || run.client.standing().pairs == pairs.len());
    *open.0.lock().expect("no panic holds it") = true;
    open.1.notify_all();
    let rows = run.outcomes(pairs.len());
    assert!(rows.iter().all(|row| row.outcome == "ok" && row.description.is_some()));
    assert_eq!(server.counts(), (0, pairs.len()));
    // One for the first call, and one for all that came while it lasted.
    let look_ups = images.look_ups.load(Ordering::Acquire);
    assert!(look_ups <= 2, "{look_ups}");
    run.stop();
}

#[test]
fn a_description_that_was_collected_is_asked_for_again() {
    let server = Server::start(send_good);
    let config = config(&server);
    let probe = Run::new(config.clone());
    let request = probe.pair(0);
    // The memo knows it, and the table has lost it.
    let lost = vec![probe.prompts.describe_id(&config, &request)];
    probe.stop();
    let mut run = Run::with(config, Images { lost, ..Images::default() });
    run.client.want(vec![request]);
    assert!(run.outcomes(2).iter().all(|row| row.outcome == "ok"));
    assert_eq!(server.counts(), (1, 1));
    run.stop();
}
