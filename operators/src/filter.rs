//! Filter: text rules decide which instructions of an answer are fit to train on.
//!
//! The rules are pure functions of the text and the config, so that changed rules can be applied to
//! stored answers. Details of rejects never quote an answer: `rejects` outlives the images, and
//! the texts that were generated from them must not (I4).

use std::collections::BTreeSet;
use std::sync::Arc;

use differential_dataflow::{AsCollection, VecCollection};
use schemas::{Epoch, config::Filter, reject::Reason, tables::RejectRow};
use timely::dataflow::{
    StreamVec,
    channels::pact::Pipeline,
    operators::{generic::Operator, vec::Map},
};

use crate::flow::Answer;

/// Most times that one word may stand in a row.
const WORD_RUN_MAX: usize = 2;
/// Most times that one letter may stand in a row.
const LETTER_RUN_MAX: usize = 5;
/// Largest share of word triples that are repeats of an earlier one, from four triples on.
const REPEATED_TRIPLES_MAX: f64 = 0.3;

/// An instruction that fails: its index, the reason, and the value and the limit in words.
pub type Failure = (usize, Reason, String);

/// Splits answers into those that can become triplets and rows for `rejects`.
///
/// An answer comes with whether it is new in this run; a restored one was judged before, and its
/// rejects are in the table already. What comes out holds only the instructions that pass, each
/// with its audit.
pub fn filter<'s>(
    answers: StreamVec<'s, Epoch, (Answer, bool)>,
    rules: &Filter,
) -> (VecCollection<'s, Epoch, Arc<Answer>, isize>, StreamVec<'s, Epoch, RejectRow>) {
    let rules = rules.clone();
    let judged = answers.map(move |(answer, new)| {
        let (accepted, rejects) = accept(answer, &rules);
        (accepted, if new { rejects } else { Vec::new() })
    });
    let rejects = judged.clone().flat_map(|(_, rejects)| rejects);
    let accepted = judged.unary(Pipeline, "Accepted", |_, _| {
        |input, output| {
            input.for_each_stamp(|stamp, batches| {
                let Some(&epoch) = stamp.least() else { return };
                let accepted = batches.flat_map(|batch| batch.drain(..)).filter_map(|(a, _)| a);
                output.session(&stamp).give_iterator(accepted.map(|a| (a, epoch, 1)));
            });
        }
    });
    (accepted.as_collection(), rejects)
}

/// What is left of an answer, if enough is, and why the rest is not.
pub fn accept(mut answer: Answer, rules: &Filter) -> (Option<Arc<Answer>>, Vec<RejectRow>) {
    let id = answer.request_id.clone();
    if !answer.ok {
        let detail = "the request ended without an answer; its outcome stands in annotations";
        return (None, vec![RejectRow::answer(Reason::NoAnswer, detail, &id)]);
    }
    let (passing, failures) = judge(&answer, rules);
    if passing.len() < rules.instructions_min {
        let (n, min) = (passing.len(), rules.instructions_min);
        let detail = format!("{n} usable instructions, fewer than {min}");
        let mut rows = vec![RejectRow::answer(Reason::TooFewInstructions, detail, &id)];
        rows.extend(failures.into_iter().map(|(i, reason, detail)| {
            RejectRow::answer(reason, format!("instruction {}: {detail}", i + 1), &id)
        }));
        return (None, rows);
    }
    if passing.len() < answer.instructions.len() {
        let audits = std::mem::take(&mut answer.audits);
        answer.audits = passing.iter().filter_map(|&i| audits.get(i).cloned()).collect();
        let texts = std::mem::take(&mut answer.instructions);
        answer.instructions = passing.iter().map(|&i| texts[i].clone()).collect();
    }
    (Some(Arc::new(answer)), Vec::new())
}

/// The instructions that pass, by index, and those that fail, each for its first reason.
///
/// An instruction is compared with the earlier ones that passed, so of two alike the first stays.
pub fn judge(answer: &Answer, rules: &Filter) -> (Vec<usize>, Vec<Failure>) {
    let (mut passing, mut failures) = (Vec::new(), Vec::new());
    let mut kept: Vec<(usize, Vec<String>)> = Vec::new();
    for (i, text) in answer.instructions.iter().enumerate() {
        let words = words(text);
        let failure = wrong_length(&words, rules)
            .or_else(|| meta_phrase(text, &words))
            .or_else(|| repeats_itself(text, &words))
            .or_else(|| repeats_another(&words, &kept, rules));
        match failure {
            Some((reason, detail)) => failures.push((i, reason, detail)),
            None => {
                passing.push(i);
                kept.push((i, words));
            }
        }
    }
    (passing, failures)
}

/// Lower-case words without punctuation. A letter of a script that sets no spaces (Han, kana) is
/// a word, so that lengths and overlaps mean something there too.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        let spaceless = matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}');
        let apostrophe = matches!(c, '\'' | '’') && !word.is_empty();
        if c.is_alphanumeric() && !spaceless {
            word.push(c);
        } else if apostrophe {
            word.push('\'');
        } else {
            flush(&mut word, &mut words);
            if spaceless {
                words.push(c.into());
            }
        }
    }
    flush(&mut word, &mut words);
    words
}

fn flush(word: &mut String, words: &mut Vec<String>) {
    let whole = std::mem::take(word);
    let trimmed = whole.trim_end_matches('\'');
    if !trimmed.is_empty() {
        words.push(trimmed.to_owned());
    }
}

fn wrong_length(words: &[String], rules: &Filter) -> Option<(Reason, String)> {
    let n = words.len();
    if n < rules.words_min {
        return Some((Reason::TooShort, format!("{n} words, fewer than {}", rules.words_min)));
    }
    if n > rules.words_max {
        return Some((Reason::TooLong, format!("{n} words, more than {}", rules.words_max)));
    }
    None
}

fn repeats_itself(text: &str, words: &[String]) -> Option<(Reason, String)> {
    let run = longest_run(words.iter());
    if run > WORD_RUN_MAX {
        let detail = format!("one word {run} times in a row, more than {WORD_RUN_MAX}");
        return Some((Reason::Repetitive, detail));
    }
    // Digits repeat honestly ("100000").
    let run = text.split(|c: char| !c.is_alphabetic()).map(|w| longest_run(w.chars())).max();
    let run = run.unwrap_or(0);
    if run > LETTER_RUN_MAX {
        let detail = format!("one letter {run} times in a row, more than {LETTER_RUN_MAX}");
        return Some((Reason::Repetitive, detail));
    }
    let total = words.len().saturating_sub(2);
    let distinct = words.windows(3).collect::<BTreeSet<_>>().len();
    let share = (total - distinct) as f64 / total.max(1) as f64;
    (total >= 4 && share > REPEATED_TRIPLES_MAX).then(|| {
        let detail = format!("{share:.2} of its word triples repeat, more than");
        (Reason::Repetitive, format!("{detail} {REPEATED_TRIPLES_MAX:.2}"))
    })
}

fn longest_run<T: PartialEq>(items: impl Iterator<Item = T>) -> usize {
    let (mut longest, mut run, mut last) = (0, 0, None);
    for item in items {
        run = if last.as_ref() == Some(&item) { run + 1 } else { 1 };
        longest = longest.max(run);
        last = Some(item);
    }
    longest
}

fn repeats_another(
    words: &[String],
    kept: &[(usize, Vec<String>)],
    rules: &Filter,
) -> Option<(Reason, String)> {
    let set: BTreeSet<&String> = words.iter().collect();
    kept.iter().find_map(|(i, other)| {
        let other_set: BTreeSet<&String> = other.iter().collect();
        let shared = set.intersection(&other_set).count();
        let overlap = shared as f64 / (set.len() + other_set.len() - shared).max(1) as f64;
        // Equal texts are one text whatever the limit.
        (overlap > rules.overlap_max || words == &other[..]).then(|| {
            let max = rules.overlap_max;
            let detail = format!("overlap {overlap:.2} with instruction {}", i + 1);
            (Reason::Repetitive, format!("{detail}, more than {max:.2}"))
        })
    })
}

/// Words that, before "image" and its like, speak of the task and not of what is shown.
const POSITIONS: [&str; 19] = [
    "first",
    "second",
    "left",
    "right",
    "source",
    "target",
    "reference",
    "query",
    "original",
    "other",
    "next",
    "previous",
    "given",
    "two",
    "both",
    "these",
    "former",
    "latter",
    "input",
];
const PICTURES: [&str; 10] = [
    "image",
    "images",
    "picture",
    "pictures",
    "photo",
    "photos",
    "photograph",
    "photographs",
    "pic",
    "pics",
];
/// Anywhere in the text.
const ANYWHERE: [&[&str]; 20] = [
    &["compared", "to"],
    &["compared", "with"],
    &["in", "contrast", "to"],
    &["as", "an", "ai"],
    &["language", "model"],
    &["i'm", "sorry"],
    &["i", "am", "sorry"],
    &["i'm", "unable"],
    &["i", "am", "unable"],
    &["i'm", "not", "able"],
    &["i", "can't"],
    &["i", "cannot"],
    &["i", "can", "not"],
    &["cannot", "assist"],
    &["cannot", "determine"],
    &["can't", "determine"],
    &["the", "images"],
    &["image", "on", "the", "left"],
    &["image", "on", "the", "right"],
    &["text", "query"],
];
/// At the beginning only, where an assistant announces its answer.
const AT_START: [&[&str]; 9] = [
    &["sure"],
    &["certainly"],
    &["of", "course"],
    &["here", "is", "the"],
    &["here", "is", "an"],
    &["here", "are"],
    &["here's", "the"],
    &["here's", "an"],
    &["instruction"],
];
/// Marks of JSON, markdown and a model's inner monologue.
const MARKUP: [&str; 6] = ["```", "**", "<think", "</think", "\":", "\\n"];

fn meta_phrase(text: &str, words: &[String]) -> Option<(Reason, String)> {
    let meta = |phrase: String| Some((Reason::MetaPhrase, phrase));
    if let Some(mark) = MARKUP.iter().find(|mark| text.contains(**mark)) {
        return meta(format!("markup {mark:?}"));
    }
    if text.trim_start().starts_with(['{', '[']) {
        return meta("a fragment of JSON".into());
    }
    let begins = |from: usize, phrase: &[&str]| {
        phrase.iter().enumerate().all(|(i, w)| words.get(from + i).is_some_and(|x| x == w))
    };
    if let Some(phrase) = AT_START.iter().find(|phrase| begins(0, phrase)) {
        return meta(format!("begins with {:?}", phrase.join(" ")));
    }
    for (i, word) in words.iter().enumerate() {
        if let Some(phrase) = ANYWHERE.iter().find(|phrase| begins(i, phrase)) {
            return meta(format!("says {:?}", phrase.join(" ")));
        }
        let next = words.get(i + 1).map_or("", |w| w.as_str());
        let numbered = PICTURES.contains(&word.as_str()) && matches!(next, "1" | "2" | "b");
        let joined = matches!(word.as_str(), "image1" | "image2");
        if numbered || joined || POSITIONS.contains(&word.as_str()) && PICTURES.contains(&next) {
            // Both words are from the lists above: nothing of the answer is quoted.
            return meta(format!("says {:?}", format!("{word} {next}").trim_end()));
        }
    }
    // The letters only as capitals: "an image a child drew" is fine.
    if text.contains("Image A") || text.contains("Image B") {
        return meta("says \"Image A\" or \"Image B\"".into());
    }
    None
}

#[cfg(test)]
mod tests;
