//! What a reply of an endpoint means: an answer, a failure that stays, or another try.

use std::time::Duration;

use schemas::limits;
use serde_json::Value;

use super::prompts::{Description, INSTRUCTIONS_MIN, Prompts};

/// The share of an answer that may be blank; a server that must write JSON may write blanks for ever.
const BLANK_MAX: f64 = 0.8;
/// Most tokens that one call is believed to take.
const TOKENS_MAX: u64 = 100_000_000;
/// Least bytes of an answer that can be called blank.
const BLANK_BYTES: usize = 40;

/// How one try of a call ended, as the network saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// The endpoint answered.
    Replied {
        /// The HTTP status.
        status: u16,
        /// `x-should-retry`, where it says so.
        retry: Option<bool>,
        /// How long it wants to be left alone.
        after: Option<Duration>,
        /// The whole body.
        body: Vec<u8>,
    },
    /// There was no connection: nothing was asked.
    Unreachable(String),
    /// The connection broke after the request was sent: what was asked may be billed.
    Lost(String),
    /// The answer took too long: so may this.
    TooLong(Duration),
    /// An image is not stored any more.
    Gone,
    /// The tables cannot be read now.
    NoStore(String),
}

/// Tokens by the endpoint's count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read.
    pub read: u64,
    /// Written.
    pub written: u64,
}

/// What a try was worth, in money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bill {
    /// Nothing.
    Nothing,
    /// As it says.
    Tokens(Usage),
    /// Nobody knows: it is taken for the most that it can be.
    Most,
}

/// What is made of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<T> {
    /// An answer.
    Answer(T),
    /// It stays so: the outcome that is stored.
    Final(&'static str, String),
    /// Once more, differently; the outcome if that ends alike.
    Differently(Change, &'static str, String),
    /// Once more, later.
    Later {
        /// The outcome if there are no more tries.
        outcome: &'static str,
        /// In words.
        why: String,
        /// How long the endpoint wants to be left alone.
        after: Option<Duration>,
        /// The endpoint has too much to do.
        pushed_back: bool,
    },
    /// Whatever is asked ends like that: a person has to see to it.
    Refuses(String),
}

/// How another try differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another seed, a little warmer.
    Repair,
    /// Twice as many tokens.
    Longer,
    /// Without structured output.
    Plain,
}

/// Judges a try.
pub fn judge<T>(ended: Ended, read: fn(&Value) -> Result<T, String>) -> (Bill, Verdict<T>) {
    let later =
        |outcome, why: String| Verdict::Later { outcome, why, after: None, pushed_back: false };
    let (status, retry, after, body) = match ended {
        Ended::Gone => {
            let why = "an image is not stored".to_owned();
            return (Bill::Nothing, Verdict::Final("content_gone", why));
        }
        Ended::NoStore(why) => return (Bill::Nothing, later("unavailable", why)),
        Ended::Unreachable(why) => return (Bill::Nothing, later("unavailable", why)),
        Ended::Lost(why) => return (Bill::Most, later("disconnected", why)),
        Ended::TooLong(limit) => {
            let why = format!("took longer than [annotator] timeout, {limit:?}");
            let (after, pushed_back) = (None, true);
            let verdict = Verdict::Later { outcome: "timeout", why, after, pushed_back };
            return (Bill::Most, verdict);
        }
        Ended::Replied { status, retry, after, body } => (status, retry, after, body),
    };
    if (200..300).contains(&status) {
        return answered(&body, read);
    }
    let error = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let error = if error["error"].is_object() { error["error"].clone() } else { error };
    let code = error["code"].as_str().or(error["type"].as_str()).unwrap_or_default();
    let said = said(&error, &body);
    let why = format!("{status}: {said}");
    let verdict = match status {
        _ if code == "insufficient_quota" => Verdict::Refuses(why),
        401 | 403 => Verdict::Refuses(format!("{why} (is the key right?)")),
        404 => Verdict::Refuses(format!("{why} (are [annotator] url and model right?)")),
        402 => Verdict::Refuses(why),
        300..=399 | 405 => Verdict::Refuses(format!("{why} (is [annotator] url right?)")),
        _ if code == "content_filter" || code == "content_policy_violation" => {
            Verdict::Final("content_filter", why)
        }
        // llama.cpp's words, with status 500, for a model that takes text alone.
        500.. if said.contains("image input is not supported") => Verdict::Refuses(format!(
            "{why} (a model that sees none needs [annotator] images = 0 and captions = true, \
             and writes no captions)"
        )),
        408 | 409 | 425 | 429 | 500.. if retry != Some(false) => {
            let outcome = if status == 429 { "rate_limited" } else { "unavailable" };
            let pushed_back = matches!(status, 429 | 503 | 529);
            Verdict::Later { outcome, why, after, pushed_back }
        }
        _ if retry == Some(true) => {
            Verdict::Later { outcome: "unavailable", why, after, pushed_back: false }
        }
        _ => Verdict::Final("bad_request", why),
    };
    // A gateway has waited for the model for too long: that may have gone on to answer, and to bill.
    let bill = if matches!(status, 408 | 504 | 524) { Bill::Most } else { Bill::Nothing };
    (bill, verdict)
}

/// What an error says, short: it may be a page of HTML.
fn said(error: &Value, body: &[u8]) -> String {
    // As OpenAI has it; and bare, or as FastAPI has it, which many servers are made with.
    let text = ["message", "error", "detail"].iter().find_map(|name| error[name].as_str());
    let text = match text {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(200).collect()
}

fn answered<T>(body: &[u8], read: fn(&Value) -> Result<T, String>) -> (Bill, Verdict<T>) {
    let Ok(reply) = serde_json::from_slice::<Value>(body) else {
        // A gateway's page, or a body that ends early but whole by its length.
        let why = "the reply is no JSON".to_owned();
        let verdict = Verdict::Later { outcome: "bad_reply", why, after: None, pushed_back: false };
        return (Bill::Most, verdict);
    };
    // What nobody can have read or written is no count.
    let tokens = |name: &str| reply["usage"][name].as_u64().filter(|count| *count <= TOKENS_MAX);
    let bill = match (tokens("prompt_tokens"), tokens("completion_tokens")) {
        (Some(read), Some(written)) => Bill::Tokens(Usage { read, written }),
        _ => Bill::Most,
    };
    (bill, choice(&reply, read))
}

fn choice<T>(reply: &Value, read: fn(&Value) -> Result<T, String>) -> Verdict<T> {
    let choice = &reply["choices"][0];
    let message = &choice["message"];
    let finish = choice["finish_reason"].as_str().unwrap_or_default();
    if finish == "content_filter" {
        return Verdict::Final("content_filter", "the endpoint's filter".into());
    }
    if message["refusal"].as_str().is_some_and(|text| !text.trim().is_empty()) {
        return Verdict::Final("refused", "the model declines".into());
    }
    let text = message["content"].as_str().unwrap_or_default();
    if finish == "length" {
        let blank = text.chars().filter(|c| c.is_whitespace()).count();
        if text.len() >= BLANK_BYTES && blank as f64 > BLANK_MAX * text.chars().count() as f64 {
            let why = "blanks up to the limit of tokens".to_owned();
            return Verdict::Differently(Change::Plain, "whitespace_loop", why);
        }
        let why = "cut at the limit of tokens".to_owned();
        return Verdict::Differently(Change::Longer, "truncated", why);
    }
    let unusable = |why: String| Verdict::Differently(Change::Repair, "bad_json", why);
    let Some(value) = find_json(text) else {
        if declines(text) {
            return Verdict::Final("refused", "the model declines".into());
        }
        return unusable("no JSON in the answer".into());
    };
    match read(&value) {
        Ok(answer) => Verdict::Answer(answer),
        Err(why) => unusable(why),
    }
}

/// How a model speaks of itself where it declines.
const DECLINES: [&str; 6] =
    ["i'm sorry", "i am sorry", "i can't", "i cannot", "i'm unable", "i am unable"];

/// Whether a model declines in plain words.
fn declines(text: &str) -> bool {
    DECLINES.iter().chain(&["sorry, "]).any(|words| begins(text, words))
}

fn begins(text: &str, words: &str) -> bool {
    let begin: String = text.trim_start().to_lowercase().chars().take(80).collect();
    begin.replace('’', "'").starts_with(words)
}

/// The JSON in an answer that may have a model's thoughts, a fence or a word of welcome around it.
pub fn find_json(text: &str) -> Option<Value> {
    let text = text.rsplit_once("</think>").map_or(text, |(_, rest)| rest).trim();
    if let Ok(value) = serde_json::from_str::<Value>(text)
        && (value.is_object() || value.is_array())
    {
        return Some(value);
    }
    for (open, close) in [('{', '}'), ('[', ']')] {
        let (Some(from), Some(to)) = (text.find(open), text.rfind(close)) else { continue };
        if from < to
            && let Ok(value) = serde_json::from_str(&text[from..=to])
        {
            return Some(value);
        }
    }
    None
}

/// Reads a description.
///
/// # Errors
/// What it lacks.
pub fn description(value: &Value) -> Result<Description, String> {
    let part = |name: &str| {
        let text = value[name].as_str().map(clean).filter(|text| says_something(text));
        text.ok_or_else(|| format!("the description has no {name:?}"))
    };
    Ok(Description { common: part("common")?, first: part("a")?, second: part("b")? })
}

/// Reads a caption.
///
/// # Errors
/// There is none, or it is none.
pub fn caption(value: &Value) -> Result<String, String> {
    let text = value["caption"].as_str().map(clean).filter(|text| says_something(text));
    let text = text.ok_or("the answer has no \"caption\"")?;
    let (length, most) = (text.chars().count(), limits::ANNOTATOR_CAPTION_CHARS);
    // Where a schema leaves a model no other way to decline. A sign may say that it is sorry.
    if DECLINES.iter().any(|words| begins(&text, words)) {
        return Err("the model declines".into());
    }
    match length <= most {
        true => Ok(text),
        false => Err(format!("a caption of {length} characters, more than {most}")),
    }
}

/// Reads which picture was chosen, from 1; 0 is none.
///
/// # Errors
/// There is no such number.
pub fn picture(value: &Value) -> Result<u64, String> {
    let said = &value["picture"];
    let number = said.as_u64().or_else(|| said.as_str()?.trim().parse().ok());
    let number = number.filter(|number| *number <= limits::JUDGE_NEGATIVES_MAX as u64 + 1);
    number.ok_or_else(|| "the answer has no number as \"picture\"".to_owned())
}

/// Reads instructions, each once; a bare list will do.
///
/// # Errors
/// They are too few.
pub fn instructions(value: &Value) -> Result<Vec<String>, String> {
    let list = value["instructions"].as_array().or(value.as_array());
    let mut texts: Vec<String> = Vec::new();
    for text in list.into_iter().flatten().filter_map(Value::as_str).map(clean) {
        if says_something(&text) && !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.len() >= INSTRUCTIONS_MIN {
        true => Ok(texts),
        false => Err(format!("{} instructions, fewer than {INSTRUCTIONS_MIN}", texts.len())),
    }
}

/// The same without what is copied from the prompt's demonstrations.
pub fn without_copies(verdict: Verdict<Vec<String>>, prompts: &Prompts) -> Verdict<Vec<String>> {
    let Verdict::Answer(mut texts) = verdict else { return verdict };
    let said = texts.len();
    texts.retain(|text| !prompts.demonstrates(text));
    if texts.len() >= INSTRUCTIONS_MIN {
        return Verdict::Answer(texts);
    }
    let why = format!("{} of {said} instructions are the prompt's examples", said - texts.len());
    Verdict::Differently(Change::Repair, "copied", why)
}

/// Whether there is more in it than a letter: small models give back the form that they were shown,
/// `"a": "..."` or `"a": "A"`.
fn says_something(text: &str) -> bool {
    text.chars().filter(|c| c.is_alphanumeric()).count() > 1
}

/// One line, without the quotes that some models put around it.
fn clean(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let bare = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    bare.unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests;
