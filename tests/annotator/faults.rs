//! Each way in which a server can fail: what is stored, how often it was asked, what it cost.

use std::{
    collections::{BTreeMap, HashSet},
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use operators::flow::Request;
use schemas::{
    ContentId,
    config::{Annotator, ResponseFormat},
    limits,
};
use serde_json::{Value, json};

use super::{
    client::{CALL, GIVES_UP, Run, config, failed, gone, most, one_pair, went_well},
    server::{Asked, Server, reply, send, send_good},
};
use crate::service::place::wait_until;

fn error(text: &str) -> Vec<u8> {
    json!({ "error": { "message": text, "type": "error" } }).to_string().into_bytes()
}

#[test]
fn what_is_turned_away_is_asked_again_and_costs_nothing() {
    let html: &[u8] = b"<html><body><h1>Too many requests</h1></body></html>";
    // Once, with and without saying for how long.
    let polite = one_pair(
        |_| {},
        |asked, stream| match asked.before {
            0 => send(stream, "429 Too Many Requests", &["Retry-After: 1"], &error("slow down")),
            _ => send_good(asked, stream),
        },
    );
    assert_eq!((polite.outcomes, polite.calls, polite.cost), (went_well(), 2, CALL));
    assert!(polite.took >= Duration::from_secs(1), "{:?}", polite.took);
    let rude = one_pair(
        |_| {},
        |asked, stream| match asked.before {
            0 => send(stream, "429 Too Many Requests", &["Content-Type: text/html"], html),
            _ => send_good(asked, stream),
        },
    );
    assert_eq!((rude.outcomes, rude.calls, rude.cost), (went_well(), 2, CALL));
    // Always.
    for (status, outcome) in
        [("429 Too Many Requests", "rate_limited"), ("502 Bad Gateway", "unavailable")]
    {
        let became = one_pair(|_| {}, move |_, stream| send(stream, status, &[], html));
        assert_eq!(
            (became.outcomes, became.calls, became.cost),
            (failed(outcome), 3, 0),
            "{status}"
        );
    }
}

#[test]
fn what_may_be_billed_counts_as_spent() {
    let most = most();
    let short = |config: &mut Annotator| config.timeout = Duration::from_millis(400);
    let hangs = one_pair(short, |_, stream| {
        // Until the other side has gone.
        let _ = stream.read(&mut [0]);
    });
    assert_eq!((hangs.outcomes, hangs.calls, hangs.cost), (failed("timeout"), 3, 3 * most));
    let drips = one_pair(short, |asked, stream| {
        let body = reply(&asked.good(), "stop").to_string();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        for byte in body.as_bytes() {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!((drips.outcomes, drips.calls, drips.cost), (failed("timeout"), 3, 3 * most));
    let breaks = one_pair(
        |_| {},
        |_, stream| {
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"choices\": [");
        },
    );
    assert_eq!((breaks.outcomes, breaks.calls, breaks.cost), (failed("disconnected"), 3, 3 * most));
    let page = one_pair(|_| {}, |_, stream| send(stream, "200 OK", &[], b"<html>hello</html>"));
    assert_eq!((page.outcomes, page.calls, page.cost), (failed("bad_reply"), 3, 3 * most));
    // A gateway has given up; the model behind it may not have.
    for status in ["408 Request Timeout", "504 Gateway Timeout"] {
        let late = one_pair(|_| {}, move |_, stream| send(stream, status, &[], b""));
        assert_eq!((late.outcomes, late.calls, late.cost), (failed("unavailable"), 3, 3 * most));
    }
}

#[test]
fn unusable_answers_are_asked_for_once_more_and_paid_for() {
    let good = |content: &'static str, finish: &'static str| {
        move |_: &Asked, stream: &mut TcpStream| {
            send(stream, "200 OK", &[], reply(content, finish).to_string().as_bytes());
        }
    };
    let cut = one_pair(|_| {}, good(r#"{"common": "shapes", "a": "ha"#, "stop"));
    assert_eq!((cut.outcomes, cut.calls, cut.cost), (failed("bad_json"), 2, 2 * CALL));
    assert_ne!(cut.asked[0].body["seed"], cut.asked[1].body["seed"], "another seed");

    let long = one_pair(
        |_| {},
        |asked, stream| match asked.before {
            0 => send(
                stream,
                "200 OK",
                &[],
                reply("{\"common\": \"sh", "length").to_string().as_bytes(),
            ),
            _ => send_good(asked, stream),
        },
    );
    assert_eq!((long.outcomes, long.calls, long.cost), (went_well(), 2, 2 * CALL));
    let tokens = |asked: &Asked| asked.body["max_tokens"].as_u64().expect("a limit");
    assert_eq!(tokens(&long.asked[1]), 2 * tokens(&long.asked[0]));
    let always = one_pair(|_| {}, good("{\"common\": \"sh", "length"));
    assert_eq!((always.outcomes, always.calls), (failed("truncated"), 2));

    let blank: &'static str = Box::leak(format!("{{{}", "\n ".repeat(300)).into_boxed_str());
    let loops = one_pair(|_| {}, good(blank, "length"));
    assert_eq!((loops.outcomes, loops.calls, loops.cost), (failed("whitespace_loop"), 2, 2 * CALL));
    let formats: Vec<bool> =
        loops.asked.iter().map(|a| a.body["response_format"].is_object()).collect();
    assert_eq!(formats, [true, false], "then by the prompt alone");
}

#[test]
fn what_stays_so_is_asked_once() {
    let refused = one_pair(
        |_| {},
        |_, stream| {
            let mut all = reply("", "stop");
            all["choices"][0]["message"] = json!({ "content": null, "refusal": "I won't." });
            send(stream, "200 OK", &[], all.to_string().as_bytes());
        },
    );
    assert_eq!((refused.outcomes, refused.calls, refused.cost), (failed("refused"), 1, CALL));
    let filtered = one_pair(
        |_| {},
        |_, stream| {
            send(stream, "200 OK", &[], reply("", "content_filter").to_string().as_bytes());
        },
    );
    assert_eq!(
        (filtered.outcomes, filtered.calls, filtered.cost),
        (failed("content_filter"), 1, CALL)
    );
    let many = one_pair(
        |_| {},
        |_, stream| {
            send(
                stream,
                "400 Bad Request",
                &[],
                &error("At most 1 image(s) may be provided in one prompt."),
            );
        },
    );
    assert_eq!((many.outcomes, many.calls, many.cost), (failed("bad_request"), 1, 0));
}

#[test]
fn a_key_model_or_account_that_is_refused_fails_no_pair() {
    for (status, body) in [
        ("401 Unauthorized", error("Incorrect API key")),
        ("404 Not Found", error("The model `a-model` does not exist")),
        ("429 Too Many Requests", br#"{"error": {"code": "insufficient_quota"}}"#.to_vec()),
    ] {
        let right = Arc::new(AtomicBool::new(false));
        let (seen, refusal) = (right.clone(), body.clone());
        let server = Server::start(move |asked, stream| match seen.load(Ordering::Acquire) {
            false => send(stream, status, &[], &refusal),
            true => send_good(asked, stream),
        });
        let mut run = Run::new(config(&server));
        let pairs: Vec<Request> = (0..5).map(|n| run.pair(n)).collect();
        run.client.want(pairs);
        wait_until("what is wrong is told", || {
            run.client.stuck(Duration::MAX).is_some_and(|why| why.contains(&status[..3]))
        });
        assert!(run.client.take().is_empty());
        // Somebody sees to it.
        right.store(true, Ordering::Release);
        let rows = run.outcomes(10);
        assert!(rows.iter().all(|row| row.outcome == "ok"), "{status}");
        run.stands("nothing is refused", |at| at.refused.is_none());
        assert_eq!(run.client.stuck(Duration::MAX), None);
        assert_eq!(run.stop(), 10 * CALL, "{status}: refusals cost nothing");
    }
}

#[test]
fn an_endpoint_that_is_down_fails_no_pair() {
    let dead = {
        let server = Server::start(|_, _| {});
        server.address
    };
    let server = Server::start(send_good);
    let mut config = config(&server);
    config.url = format!("http://{dead}/v1");
    config.attempts = 2;
    let mut run = Run::new(config);
    let pairs: Vec<Request> = (0..30).map(|n| run.pair(n)).collect();
    run.client.want(pairs);
    // Tried on, and the same pairs by their last try.
    wait_until("it is seen to be down", || {
        let at = run.client.standing();
        at.down_seconds.is_some() && at.calls >= u64::from(limits::ANNOTATOR_DOWN) + 2
    });
    let at = run.client.standing();
    assert_eq!((at.pairs, at.limit), (30, 1), "{at:?}");
    let why = run.client.stuck(Duration::ZERO).expect("it is told");
    assert!(why.contains("30 pairs wait") && why.contains("Connection refused"), "{why}");
    assert!(run.client.take().is_empty());
    assert_eq!(run.stop(), 0, "nothing was asked");
}

#[test]
fn one_description_serves_both_directions() {
    let server = Server::start(send_good);
    let mut run = Run::new(config(&server));
    let one = run.pair(0);
    let other = run.request(one.target.0, one.query.0);
    // Twice, at once: it is one question.
    run.client.want(vec![one.clone(), other.clone(), one.clone()]);
    run.client.want(vec![other.clone()]);
    let rows = run.outcomes(3);
    assert_eq!(server.counts(), (1, 2));
    let of = |id: &str| rows.iter().find(|row| row.request_id == id).expect("its row");
    let (one, other) = (of(&one.request_id), of(&other.request_id));
    let (first, second) = (one.description.as_deref(), other.description.as_deref());
    let words = [first.expect("a description"), second.expect("a description")];
    let says = |query: &str, target: &str| {
        let end = format!("However, the query has a {query}, whereas the target has a {target}.");
        words.iter().filter(|text| text.ends_with(&end)).count()
    };
    assert_eq!((says("circle", "square"), says("square", "circle")), (1, 1), "{words:?}");
    let asked = server.asked();
    let images = asked.iter().find(|asked| asked.describes()).expect("it was asked").images();
    assert_eq!(images.len(), 2);
    assert!(images[0] < images[1], "the smaller content comes first");
    let texts: HashSet<String> = asked.iter().map(|asked| asked.text()).collect();
    assert_eq!(texts.len(), 3, "the two directions are told apart");
    assert_eq!(run.stop(), 3 * CALL);
}

#[test]
fn a_pair_that_has_gone_is_not_asked_about_any_more() {
    let most = most();
    let closed = Arc::new(AtomicUsize::new(0));
    let seen = closed.clone();
    let server = Server::start(move |_, stream| {
        // The end of the stream comes when the client hangs up.
        while stream.read(&mut [0; 16]).is_ok_and(|read| read > 0) {}
        seen.fetch_add(1, Ordering::AcqRel);
    });
    let mut run = Run::new(config(&server));
    let (one, two) = (run.pair(0), run.pair(1));
    run.client.want(vec![one.clone(), two.clone()]);
    wait_until("both are asked about", || server.counts().0 == 2);
    run.client.drop_request(one.request_id);
    wait_until("one connection is closed", || closed.load(Ordering::Acquire) == 1);
    run.stands("one pair is left", |at| at.pairs == 1);
    run.client.drop_request(two.request_id);
    wait_until("the other too", || closed.load(Ordering::Acquire) == 2);
    wait_until("nothing is left", || run.client.standing().in_flight == 0);
    assert!(run.client.take().is_empty());
    assert_eq!(run.stop(), 2 * most, "nobody knows what was billed");
}

#[test]
fn an_image_that_is_not_stored_is_an_outcome() {
    let server = Server::start(send_good);
    let mut run = Run::new(config(&server));
    let request = run.request(gone(), ContentId::of(b"there"));
    run.client.want(vec![request]);
    let outcomes: Vec<String> = run.outcomes(2).into_iter().map(|row| row.outcome).collect();
    assert_eq!(outcomes, ["content_gone", "no_description"]);
    assert_eq!((server.counts(), run.stop()), ((0, 0), 0));
}

#[test]
fn the_budget_holds_whatever_calls_take_and_cost() {
    let billed = Arc::new(AtomicUsize::new(0));
    let bill = billed.clone();
    let server = Server::start(move |asked, stream| {
        let dice = ContentId::of(format!("{} {}", asked.id, asked.before).as_bytes()).0;
        std::thread::sleep(Duration::from_millis(u64::from(dice[0]) / 8));
        if dice[1] < 40 {
            send(stream, "503 Service Unavailable", &[], b"");
            return;
        }
        let (read, written) = (u64::from(dice[2]) * 8, u64::from(dice[3]) * 2);
        bill.fetch_add((read * 1_000 + written * 2_000) as usize, Ordering::AcqRel);
        let mut all = reply(&asked.good(), "stop");
        all["usage"] = json!({ "prompt_tokens": read, "completion_tokens": written });
        match dice[1] < 80 {
            // Billed, and never heard of.
            true => drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")),
            false => send(stream, "200 OK", &[], all.to_string().as_bytes()),
        }
    });
    let mut config = config(&server);
    config.budget = Some(0.08);
    let mut run = Run::new(config);
    let pairs: Vec<Request> = (0..60).map(|n| run.pair(n)).collect();
    run.client.want(pairs.clone());
    let mut answered = BTreeMap::new();
    for round in 0..4 {
        // Stopped at any moment, and started again with what is not answered.
        wait_until("some answers, or no more money", || {
            let rows = run.client.take();
            answered.extend(rows.into_iter().map(|row| (row.request_id, row.outcome)));
            answered.len() > 12 * (round + 1) || run.client.rests().is_some()
        });
        run.restart(GIVES_UP);
        let open = pairs.iter().filter(|pair| !answered.contains_key(&pair.request_id));
        run.client.want(open.cloned().collect());
    }
    wait_until("the budget is spent", || {
        drop(run.client.take());
        run.client.rests().is_some_and(|why| why.contains("budget"))
    });
    let (billed, calls) = (billed.load(Ordering::Acquire) as u64, server.asked().len());
    let spent = run.stop();
    assert!(billed <= spent && spent <= 80_000_000, "{billed} billed, {spent} spent");
    assert!(spent > 70_000_000, "it is used up but for less than a call: {spent}");
    assert!(calls > 20, "{calls}");
}

#[test]
fn quirks_of_endpoints_are_config() {
    let server = Server::start(send_good);
    let mut config = config(&server);
    config.response_format = ResponseFormat::JsonObject;
    config.max_tokens_field = "max_completion_tokens".into();
    config.seed = false;
    config.describe_model = Some("eyes".into());
    config.extra = toml::from_str("top_k = 20\nchat_template_kwargs = { enable_thinking = false }")
        .expect("a table");
    let mut run = Run::new(config);
    let request = run.pair(0);
    run.client.want(vec![request]);
    let rows = run.outcomes(2);
    let models: Vec<&str> = rows.iter().map(|row| row.model.as_str()).collect();
    assert_eq!(models, ["eyes", "a-model+eyes"]);
    let asked = server.asked();
    assert_eq!(
        (&asked[0].body["model"], &asked[1].body["model"]),
        (&json!("eyes"), &json!("a-model"))
    );
    for asked in asked {
        let body = &asked.body;
        assert_eq!(body["response_format"], json!({ "type": "json_object" }));
        assert_eq!(
            (&body["max_completion_tokens"], &body["max_tokens"]),
            (&json!(600), &Value::Null)
        );
        assert_eq!((&body["seed"], &body["top_k"]), (&Value::Null, &json!(20)));
        assert_eq!(body["chat_template_kwargs"], json!({ "enable_thinking": false }));
        assert_eq!(asked.key, None);
    }
}
