//! Captions for images without one: what is asked, what fails, what it costs, and in which order.

use std::{
    net::TcpStream,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use everpair::annotator::openai::{
    self,
    failures::{self, Failure, Patience},
    money::Prices,
    prompts::{Prompts, Variation, ordered},
    worth::Worth,
};
use operators::flow::{CAPTION, Request};
use schemas::{ContentId, config::Annotator, tables::AnnotationRow};
use serde_json::json;

use super::{
    client::{CALL, Images, Run, config, gone},
    server::{Asked, Server, reply, send, send_good},
};
use crate::service::place::wait_until;

/// Longer than any test.
const AN_HOUR: Patience =
    Patience { least: Duration::from_secs(3_600), most: Duration::from_secs(3_600), times: 2 };

fn with_captioner(server: &Server) -> Annotator {
    Annotator { captioner: Some("eyes".into()), ..config(server) }
}

/// The most that a caption can cost.
fn most(run: &Run, request: &Request) -> u64 {
    let chat = run.prompts.caption(&run.config, request, Variation::default());
    let (read, written) = chat.most_tokens(&run.config);
    Prices::of(&run.config).cost(read, written)
}

/// In the order of their contents.
fn sorted(mut captions: Vec<Request>) -> Vec<Request> {
    captions.sort_by_key(|request| request.query.0);
    captions
}

/// What became of one request for a caption.
struct Became {
    row: AnnotationRow,
    asked: Vec<Asked>,
    /// In billionths.
    cost: u64,
}

impl Became {
    fn ended(&self, outcome: &str, calls: usize, cost: u64) {
        let became = (&*self.row.outcome, self.asked.len(), self.cost);
        assert_eq!(became, (outcome, calls, cost));
        let text = &self.row.description;
        assert_eq!(text.is_some(), outcome == "ok", "{text:?}");
    }
}

fn one_caption(
    change: impl FnOnce(&mut Annotator),
    answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static,
) -> Became {
    became(ContentId::of(b"any"), change, answer)
}

fn became(
    content: ContentId,
    change: impl FnOnce(&mut Annotator),
    answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static,
) -> Became {
    let server = Server::start(answer);
    let mut config = with_captioner(&server);
    change(&mut config);
    let mut run = Run::new(config);
    let request = run.caption_of(content);
    run.client.want(vec![request.clone()]);
    let row = run.outcomes(1).remove(0);
    assert_eq!((&row.request_id, &*row.task), (&request.request_id, CAPTION));
    assert_eq!([&row.query_content_id, &row.target_content_id], [&content.hex(); 2]);
    assert_eq!((&*row.model, row.prompt_version), ("eyes", 1));
    assert!(row.instructions.is_empty() && row.audits.is_empty());
    wait_until("nothing is open", || run.client.standing().captions == 0);
    assert_eq!(run.client.standing().pairs_ended, 0);
    let cost = (row.cost_usd.expect("a cost") * 1e9).round() as u64;
    assert_eq!(run.stop(), cost, "the table says what the budget says");
    Became { row, asked: server.asked(), cost }
}

#[test]
fn an_image_gets_a_caption_for_one_call_that_sends_it() {
    let content = ContentId::of(b"a picture");
    // Whoever describes by captions alone does not write them blindly.
    let blind = |config: &mut Annotator| (config.images, config.captions) = (0, true);
    let told = became(content, blind, send_good);
    told.ended("ok", 1, CALL);
    let asked = &told.asked[0];
    let said = format!("Shapes {} on a plain ground.", &asked.id[..6]);
    assert_eq!(told.row.description, Some(said));
    assert_eq!((told.row.prompt_tokens, told.row.completion_tokens), (Some(100), Some(10)));
    assert_eq!(asked.images(), [content.0.to_vec()]);
    assert_eq!(asked.body["model"], "eyes");
    assert_eq!(asked.body["response_format"]["json_schema"]["name"], "caption");
    assert!(asked.captions() && !asked.describes(), "{}", asked.system());
    became(gone(), |_| {}, send_good).ended("content_gone", 0, 0);
}

#[test]
fn what_fails_is_repaired_or_stays_as_with_other_requests() {
    let always = |content: &'static str, finish: &'static str| {
        move |_: &Asked, stream: &mut TcpStream| {
            send(stream, "200 OK", &[], reply(content, finish).to_string().as_bytes());
        }
    };
    let once = |content: &'static str, finish: &'static str| {
        move |asked: &Asked, stream: &mut TcpStream| match asked.before {
            0 => always(content, finish)(asked, stream),
            _ => send_good(asked, stream),
        }
    };
    let repaired = one_caption(|_| {}, once("A red boat.", "stop"));
    repaired.ended("ok", 2, 2 * CALL);
    assert_ne!(repaired.asked[0].body["seed"], repaired.asked[1].body["seed"], "another seed");
    one_caption(|_| {}, always("A red boat.", "stop")).ended("bad_json", 2, 2 * CALL);
    one_caption(|_| {}, always(r#"{"caption": "..."}"#, "stop")).ended("bad_json", 2, 2 * CALL);
    let cut = one_caption(|_| {}, once(r#"{"caption": "A re"#, "length"));
    cut.ended("ok", 2, 2 * CALL);
    let tokens = |at: usize| cut.asked[at].body["max_tokens"].as_u64().expect("a limit");
    assert_eq!(tokens(1), 2 * tokens(0));
    let never = one_caption(|_| {}, always(r#"{"caption": "A re"#, "length"));
    never.ended("truncated", 2, 2 * CALL);
    one_caption(|_| {}, always("I'm sorry, I can't.", "stop")).ended("refused", 1, CALL);
    let declines = |_: &Asked, stream: &mut TcpStream| {
        let mut all = reply("", "stop");
        all["choices"][0]["message"] = json!({ "content": null, "refusal": "I won't." });
        send(stream, "200 OK", &[], all.to_string().as_bytes());
    };
    one_caption(|_| {}, declines).ended("refused", 1, CALL);
    let busy = |stream: &mut TcpStream| send(stream, "429 Too Many Requests", &[], b"{}");
    let later = one_caption(
        |_| {},
        move |asked, stream| match asked.before {
            0 => busy(stream),
            _ => send_good(asked, stream),
        },
    );
    later.ended("ok", 2, CALL);
    let two = |config: &mut Annotator| config.attempts = 2;
    one_caption(two, move |_, stream| busy(stream)).ended("rate_limited", 2, 0);
}

#[test]
fn captions_come_before_all_pairs() {
    let server = Server::start(send_good);
    let mut config = with_captioner(&server);
    config.concurrency = 1;
    let mut run = Run::new(config);
    let pairs: Vec<Request> = (0..4).map(|n| run.pair(n)).collect();
    let captions: Vec<Request> = (100..106).map(|n| run.caption(n)).collect();
    run.client.want(pairs.iter().chain(&captions).cloned().collect());
    let rows = run.outcomes(6 + 8);
    assert!(rows.iter().all(|row| row.outcome == "ok"), "{rows:?}");
    let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.id).collect();
    let ids = sorted(captions).into_iter().map(|request| request.request_id);
    assert_eq!(asked[..6], ids.collect::<Vec<_>>());
    assert_eq!((server.captioned(), server.counts()), (6, (4, 4)));
    run.stands("all have ended", |at| (at.captions, at.pairs, at.pairs_ended) == (0, 0, 4));
    assert_eq!(run.stop(), 14 * CALL);
}

#[test]
fn scarce_money_goes_to_captions_first() {
    let server = Server::start(send_good);
    let mut config = with_captioner(&server);
    // A call can cost far more than it does.
    (config.image_tokens, config.concurrency) = (10_000, 1);
    let probe = Run::new(config.clone());
    let pairs: Vec<Request> = (0..3).map(|n| probe.pair(n)).collect();
    let captions = sorted((100..105).map(|n| probe.caption(n)).collect());
    let most = most(&probe, &captions[0]);
    probe.stop();
    // Three captions, and then less than another one can cost.
    config.budget = Some((most + 2 * CALL) as f64 / 1e9);
    let both = |request: &Request| ordered(request).map(|side| side.0);
    let worth = |pair| (both(pair), Worth { channels: 3, ..Worth::default() });
    let images = Images { worth: pairs.iter().map(worth).collect(), ..Images::default() };
    let mut run = Run::with(config, images);
    run.client.want(pairs.iter().chain(&captions).cloned().collect());
    assert_eq!(run.outcomes(3).len(), 3);
    let waits = |run: &Run, words: &str| {
        wait_until("the budget is spent", || {
            run.client.rests().is_some_and(|why| why.contains("budget is spent"))
        });
        let why = run.client.rests().expect("it rests");
        assert!(why.ends_with(words), "{why}");
    };
    waits(&run, ": 3 pairs and 2 captions wait");
    let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.id).collect();
    let first: Vec<&str> = captions[..3].iter().map(|request| &*request.request_id).collect();
    assert_eq!(asked, first);
    for pair in pairs {
        run.client.drop_request(pair.request_id);
    }
    wait_until("the pairs have gone", || run.client.standing().pairs == 0);
    waits(&run, ": 2 captions wait");
    run.client.drop_request(captions[4].request_id.clone());
    wait_until("it has gone", || run.client.standing().captions == 1);
    assert_eq!(run.stop(), 3 * CALL);
}

#[test]
fn what_captions_leave_goes_to_the_best_pair() {
    let server = Server::start(send_good);
    let mut config = with_captioner(&server);
    (config.image_tokens, config.concurrency) = (10_000, 1);
    let probe = Run::new(config.clone());
    let both = |request: &Request| ordered(request).map(|side| side.0);
    let mut pairs: Vec<Request> = (0..3).map(|n| probe.pair(n)).collect();
    pairs.sort_by_key(both);
    let describe = |pair: &Request| probe.prompts.describe_id(&probe.config, pair);
    let ids: Vec<String> = pairs.iter().map(describe).collect();
    let most_of = |pair: &Request, id: &str| {
        let chat = probe.prompts.describe(&probe.config, id, pair, Variation::default());
        let (read, written) = chat.most_tokens(&probe.config);
        Prices::of(&probe.config).cost(read, written)
    };
    let most = pairs.iter().zip(&ids).map(|(pair, id)| most_of(pair, id)).max().expect("pairs");
    let caption = probe.caption(100);
    probe.stop();
    // One caption, one description, and then less than another one can cost.
    config.budget = Some((most + CALL) as f64 / 1e9);
    let channels = |n: usize| if n == 2 { 3 } else { 1 };
    let worth = pairs
        .iter()
        .enumerate()
        .map(|(n, pair)| (both(pair), Worth { channels: channels(n), ..Worth::default() }));
    let images = Images { worth: worth.collect(), ..Images::default() };
    let mut run = Run::with(config, images);
    run.client.want(pairs.iter().chain([&caption]).cloned().collect());
    assert_eq!(run.outcomes(3).len(), 3);
    let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.id).collect();
    let best = [caption.request_id, ids[2].clone(), pairs[2].request_id.clone()];
    assert_eq!(asked, best, "the last by contents is the best");
    assert_eq!(run.stop(), 3 * CALL);
}

#[test]
fn a_caption_that_is_forgotten_in_flight_counts_as_the_most_that_it_can_cost() {
    let open = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = open.clone();
    let server = Server::start(move |asked: &Asked, stream| {
        let closed = gate.0.lock().expect("no panic holds it");
        drop(gate.1.wait_while(closed, |open| !*open).expect("no panic holds it"));
        send_good(asked, stream);
    });
    let mut config = with_captioner(&server);
    config.concurrency = 1;
    let mut run = Run::new(config);
    let captions = sorted(vec![run.caption(0), run.caption(1)]);
    let most = most(&run, &captions[0]);
    run.client.want(captions.clone());
    wait_until("the first is asked", || server.asked().len() == 1);
    run.client.drop_request(captions[0].request_id.clone());
    wait_until("the other one is", || server.asked().len() == 2);
    run.stands("one is left", |at| at.captions == 1);
    *open.0.lock().expect("no panic holds it") = true;
    open.1.notify_all();
    let rows = run.outcomes(1);
    assert_eq!((&rows[0].request_id, &*rows[0].outcome), (&captions[1].request_id, "ok"));
    // Wanted again, it is asked again.
    run.client.want(captions[..1].to_vec());
    assert_eq!(run.outcomes(1)[0].request_id, captions[0].request_id);
    assert_eq!(run.stop(), most + 2 * CALL);
}

#[test]
fn a_caption_that_has_failed_for_now_is_asked_for_again() {
    let well = Arc::new(AtomicBool::new(false));
    let mood = well.clone();
    let server = Server::start(move |asked: &Asked, stream: &mut TcpStream| {
        match asked.captions() && !mood.load(Ordering::Acquire) {
            true => send(stream, "429 Too Many Requests", &[], b"{}"),
            false => send_good(asked, stream),
        }
    });
    let mut config = with_captioner(&server);
    config.attempts = 1;
    let mut run = Run::new(config);
    run.restart(AN_HOUR);
    let (caption, pair) = (run.caption(0), run.pair(0));
    run.client.want(vec![caption.clone(), pair]);
    assert!(run.outcomes(2).iter().all(|row| row.outcome == "ok" && row.task != CAPTION));
    wait_until("it is put off", || run.client.rests().is_some());
    let why = run.client.rests().expect("it rests");
    assert!(why.contains("] 1 caption waits: all"), "{why}");
    let at = run.client.standing();
    assert_eq!((at.pairs, at.captions, at.put_off), (0, 1, 1), "{at:?}");
    let mut held = Vec::new();
    wait_until("it is written down", || {
        held = failures::read(&run.store).expect("what has failed");
        held.len() == 1
    });
    let failure = held.remove(0);
    assert_eq!((&*failure.row.task, &*failure.row.outcome), (CAPTION, "rate_limited"));
    // The next process remembers; then its time has come.
    run.restart(AN_HOUR);
    run.client.want(vec![caption.clone()]);
    wait_until("it waits on", || run.client.rests().is_some());
    assert_eq!(server.captioned(), 1);
    well.store(true, Ordering::Release);
    failures::write(&run.store, &Failure { again_at: 0, ..failure }).expect("written");
    run.restart(AN_HOUR);
    run.client.want(vec![caption]);
    assert_eq!(run.outcomes(1)[0].outcome, "ok");
    let store = run.store.clone();
    assert_eq!(run.stop(), 3 * CALL);
    assert!(store.list(failures::FOLDER, "").expect("a list").is_empty());
}

#[test]
fn without_a_captioner_nobody_knows_of_its_words() {
    let mut config = Annotator { model: "a-model".into(), ..Annotator::default() };
    let prompts = |config: &Annotator| Prompts::of(config).expect("prompts");
    let names = |config: &Annotator| prompts(config).words().into_keys().collect::<Vec<_>>();
    assert_eq!(names(&config), ["describe version 1", "instruct version 1"]);
    assert_eq!(openai::captioner_id(&config, &prompts(&config)), None);
    config.captioner = Some("eyes".into());
    let all = ["caption version 1", "describe version 1", "instruct version 1"];
    assert_eq!(names(&config), all);
    // Another model or another version asks anew, and nothing else does.
    let folder = tempfile::tempdir().expect("a folder");
    let own = include_str!("../../src/annotator/openai/prompts/caption.toml");
    let with_version = |version: &str| {
        let path = folder.path().join("caption.toml");
        std::fs::write(&path, own.replace("version = 1\n", version)).expect("written");
        let mut config = config.clone();
        config.prompts.caption = Some(path.display().to_string());
        config
    };
    let id = |config: &Annotator| {
        let captioner = openai::captioner_id(config, &prompts(config)).expect("a captioner");
        captioner.request_id(ContentId::of(b"any"))
    };
    assert_eq!(id(&with_version("version = 1\n")), id(&config));
    assert_ne!(id(&with_version("version = 2\n")), id(&config));
    let other = Annotator { captioner: Some("other".into()), ..config.clone() };
    assert_ne!(id(&other), id(&config));
    let refused = Prompts::of(&with_version("version = 0\n")).expect_err("no version");
    assert!(refused.to_string().contains("the prompt caption has version 0"), "{refused}");
}

#[test]
fn a_captioner_that_the_endpoint_does_not_have_is_missed() {
    let server = Server::start(send_good);
    let missing = openai::probe(&with_captioner(&server)).expect_err("there is none");
    assert!(missing.to_string().contains("has no model \"eyes\""), "{missing}");
    let own = Annotator { captioner: Some("a-model".into()), ..config(&server) };
    let said = openai::probe(&own).expect("it is there");
    assert!(said.ends_with("; captions by a-model, prompt version 1"), "{said}");
    let said = openai::probe(&config(&server)).expect("it is there");
    assert!(said.ends_with("/v1, prompt version 1001"), "{said}");
}
