use serde_json::json;

use super::*;

fn replied(status: u16, body: &str) -> Ended {
    Ended::Replied { status, retry: None, after: None, body: body.as_bytes().to_vec() }
}

fn said(content: &str, finish: &str) -> Ended {
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 5 });
    let message = json!({ "role": "assistant", "content": content });
    let choices = json!([{ "message": message, "finish_reason": finish }]);
    replied(200, &json!({ "choices": choices, "usage": usage }).to_string())
}

fn outcome(ended: Ended) -> (Bill, String) {
    let (bill, verdict) = judge(ended, instructions);
    let words = match verdict {
        Verdict::Answer(texts) => format!("answer {}", texts.len()),
        Verdict::Final(outcome, _) => format!("final {outcome}"),
        Verdict::Differently(change, outcome, _) => format!("{change:?} {outcome}"),
        Verdict::Later { outcome, pushed_back, .. } => {
            format!("later {outcome}{}", if pushed_back { " pushed back" } else { "" })
        }
        Verdict::Refuses(_) => "refuses".to_owned(),
    };
    (bill, words)
}

#[test]
fn replies_mean_what_the_table_says() {
    let five = Bill::Tokens(Usage { read: 7, written: 5 });
    let three = r#"{"instructions": ["one of them", "two of them", "three of them"]}"#;
    for (ended, bill, words) in [
        (said(three, "stop"), five, "answer 3"),
        (said(&format!("<think>{{hm}}</think>\n```json\n{three}\n```"), "stop"), five, "answer 3"),
        (said("Here: [\"a b c\", \"d e f\", \"g h i\"]", "stop"), five, "answer 3"),
        (said("[\"a b c\", \"d e f\", \"d  e f\"]", "stop"), five, "Repair bad_json"),
        (said("{\"instructions\": [\"one", "stop"), five, "Repair bad_json"),
        (
            said(r#"{"instructions": ["...", "…", "- -", "one, two"]}"#, "stop"),
            five,
            "Repair bad_json",
        ),
        (said("", "stop"), five, "Repair bad_json"),
        (said("{\"instructions\": [\"one", "length"), five, "Longer truncated"),
        (said(&format!("{{{}", " \n\t".repeat(100)), "length"), five, "Plain whitespace_loop"),
        (said("I’m sorry, but I can't help with that.", "stop"), five, "final refused"),
        (said("", "content_filter"), five, "final content_filter"),
        (replied(200, "<html>"), Bill::Most, "later bad_reply"),
        (
            replied(400, r#"{"error": {"message": "At most 1 image(s)"}}"#),
            Bill::Nothing,
            "final bad_request",
        ),
        (
            replied(400, r#"{"error": {"code": "content_filter"}}"#),
            Bill::Nothing,
            "final content_filter",
        ),
        (replied(401, ""), Bill::Nothing, "refuses"),
        (replied(404, "{}"), Bill::Nothing, "refuses"),
        (replied(422, "{}"), Bill::Nothing, "final bad_request"),
        (replied(429, "<html>Too many"), Bill::Nothing, "later rate_limited pushed back"),
        (replied(429, r#"{"error": {"code": "insufficient_quota"}}"#), Bill::Nothing, "refuses"),
        (replied(500, ""), Bill::Nothing, "later unavailable"),
        (
            replied(500, r#"{"error": {"message": "image input is not supported - hint"}}"#),
            Bill::Nothing,
            "refuses",
        ),
        (replied(503, ""), Bill::Nothing, "later unavailable pushed back"),
        (Ended::Unreachable(String::new()), Bill::Nothing, "later unavailable"),
        (Ended::Lost(String::new()), Bill::Most, "later disconnected"),
        (Ended::TooLong(Duration::ZERO), Bill::Most, "later timeout pushed back"),
        (Ended::Gone, Bill::Nothing, "final content_gone"),
    ] {
        assert_eq!(outcome(ended.clone()), (bill, words.to_owned()), "{ended:?}");
    }
}

#[test]
fn a_reply_without_usage_is_taken_for_the_most() {
    let message = json!({ "content": r#"["a b c", "d e f", "g h i"]"# });
    let body = json!({ "choices": [{ "message": message, "finish_reason": "stop" }] });
    let (bill, words) = outcome(replied(200, &body.to_string()));
    assert_eq!((bill, words.as_str()), (Bill::Most, "answer 3"));
    let refusal = json!({ "content": null, "refusal": "No." });
    let body = json!({ "choices": [{ "message": refusal, "finish_reason": "stop" }] });
    assert_eq!(outcome(replied(200, &body.to_string())).1, "final refused");
}

#[test]
fn endpoints_say_whether_to_come_back() {
    let with = |status, retry| Ended::Replied { status, retry, after: None, body: Vec::new() };
    assert_eq!(outcome(with(500, Some(false))).1, "final bad_request");
    assert_eq!(outcome(with(400, Some(true))).1, "later unavailable");
}

#[test]
fn examples_of_the_prompt_are_no_answer() {
    let prompts = Prompts::of(&schemas::config::Annotator::default()).expect("the built-in ones");
    let own = ["make it rain", "the same at night", "Is there one with a hat?"];
    let copies = ["same animal,  playful with YARN", "Show it bathing with its young."];
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let all = Verdict::Answer(texts(&[&own[..], &copies[..]].concat()));
    assert_eq!(without_copies(all, &prompts), Verdict::Answer(texts(&own)));
    let few = Verdict::Answer(texts(&[&own[..2], &copies[..]].concat()));
    let why = "2 of 4 instructions are the prompt's examples".to_owned();
    let again = Verdict::Differently(Change::Repair, "copied", why);
    assert_eq!(without_copies(few, &prompts), again);
    let failed = Verdict::Final("refused", String::new());
    assert_eq!(without_copies(failed.clone(), &prompts), failed);
}

#[test]
fn what_a_server_says_is_told_in_each_of_the_forms() {
    for body in [
        r#"{"error": {"message": "no  such field"}}"#,
        r#"{"error": "no such field"}"#,
        r#"{"detail": "no such field"}"#,
        "no such\nfield",
    ] {
        let (_, verdict) = judge(replied(422, body), instructions);
        let told = Verdict::Final("bad_request", "422: no such field".to_owned());
        assert_eq!(verdict, told, "{body}");
    }
}

#[test]
fn captions_are_one_line_that_says_something() {
    let of = |text: &str| caption(&json!({ "caption": text }));
    assert_eq!(of("A red boat\n on a  lake. "), Ok("A red boat on a lake.".to_owned()));
    assert_eq!(of("\"Two dogs\""), Ok("Two dogs".to_owned()));
    let sign = "Sorry, we are closed, says a sign on a door";
    assert_eq!(of(sign), Ok(sign.to_owned()));
    let most = limits::ANNOTATOR_CAPTION_CHARS;
    assert_eq!(of(&"é".repeat(most)), Ok("é".repeat(most)));
    for text in ["", " ", "...", "é", "I'm sorry, but I can't help.", &"é".repeat(most + 1)] {
        assert!(of(text).is_err(), "{text:?}");
    }
    for value in [json!(["A red boat"]), json!({ "text": "A red boat" }), json!({ "caption": 1 })] {
        assert!(caption(&value).is_err(), "{value}");
    }
    let five = Bill::Tokens(Usage { read: 7, written: 5 });
    let judged = |content: &str| judge(said(content, "stop"), caption);
    let fenced = "```json\n{\"caption\": \"A red boat\"}\n```";
    assert_eq!(judged(fenced), (five, Verdict::Answer("A red boat".to_owned())));
    let why = "no JSON in the answer".to_owned();
    let again = Verdict::Differently(Change::Repair, "bad_json", why);
    assert_eq!(judged("A red boat"), (five, again));
}

#[test]
fn descriptions_have_three_parts() {
    let value = json!({ "common": " a  boat ", "a": "floats", "b": "\"sinks\"" });
    let read = description(&value).expect("a description");
    assert_eq!(read.parts(), ["a boat", "floats", "sinks"]);
    assert_eq!(
        read.directed(true),
        "Both show a boat. However, the query sinks, whereas the target floats."
    );
    assert!(description(&json!({ "common": "x", "a": "y", "b": " " })).is_err());
    for parts in [["...", "...", "..."], ["shapes", "A", "B"]] {
        let [common, a, b] = parts;
        let value = json!({ "common": common, "a": a, "b": b });
        assert!(description(&value).is_err(), "{value}");
    }
}
