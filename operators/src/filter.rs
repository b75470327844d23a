//! Filter: text rules decide which instructions of an answer are fit to train on.
//!
//! The rules are pure functions of the text and the config, so that changed rules can be applied to
//! stored answers. Details of rejects never quote an answer: `rejects` outlives the images, and
//! the texts that were generated from them must not (I4).

use std::sync::Arc;

use differential_dataflow::{AsCollection, VecCollection};
use schemas::{
    Epoch,
    config::{Filter, Label, Verdict},
    reject::Reason,
    tables::{Audit, RejectRow},
};
use timely::dataflow::{
    StreamVec,
    channels::pact::Pipeline,
    operators::{generic::Operator, vec::Map},
};

use self::words::Words;
use crate::{flow::Answer, quick::QuickMap};

mod language;
mod leak;
mod phrases;
mod words;

pub use leak::{leaks, unleaked};

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
    answers: StreamVec<'s, Epoch, (Arc<Answer>, bool)>,
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

/// What is left of an answer, if enough is, and why the rest is not: one row for each instruction
/// that fails, whether or not the others are enough.
pub fn accept(answer: Arc<Answer>, rules: &Filter) -> (Option<Arc<Answer>>, Vec<RejectRow>) {
    let id = &answer.request_id;
    if !answer.ok {
        let detail = "the request ended without an answer; its outcome stands in annotations";
        return (None, vec![RejectRow::answer(Reason::NoAnswer, detail, id)]);
    }
    let (passing, failures) = judge(&answer, rules);
    let mut rows = Vec::new();
    let enough = passing.len() >= rules.instructions_min;
    if !enough {
        let (n, min) = (passing.len(), rules.instructions_min);
        let detail = format!("{n} usable instructions, fewer than {min}");
        rows.push(RejectRow::answer(Reason::TooFewInstructions, detail, id));
    }
    rows.extend(failures.into_iter().map(|(i, reason, detail)| {
        RejectRow::answer(reason, format!("instruction {}: {detail}", i + 1), id)
    }));
    if rows.is_empty() {
        return (Some(answer), rows);
    }
    (enough.then(|| Arc::new(keep(Arc::unwrap_or_clone(answer), &passing))), rows)
}

/// An answer with these of its instructions, and their audits.
fn keep(mut answer: Answer, indices: &[usize]) -> Answer {
    let audits = std::mem::take(&mut answer.audits);
    answer.audits = indices.iter().filter_map(|&i| audits.get(i).cloned()).collect();
    let texts = std::mem::take(&mut answer.instructions);
    answer.instructions = indices.iter().map(|&i| texts[i].clone()).collect();
    answer
}

/// The instructions that pass, by index, and those that fail, each for its first reason.
///
/// An instruction is compared with the earlier ones that passed, so of two alike the first stays.
pub fn judge(answer: &Answer, rules: &Filter) -> (Vec<usize>, Vec<Failure>) {
    let texts: Vec<Words> = answer.instructions.iter().map(|text| Words::of(text)).collect();
    let (mut passing, mut failures) = (Vec::new(), Vec::new());
    // Each word of the answer has a number: runs, triples and overlaps compare those.
    let mut numbers: QuickMap<&str, u32> = QuickMap::default();
    let mut kept: Vec<(usize, Vec<u32>, Vec<u32>)> = Vec::new();
    for (i, (text, words)) in answer.instructions.iter().zip(&texts).enumerate() {
        let number = |word| {
            let next = numbers.len() as u32;
            *numbers.entry(word).or_insert(next)
        };
        let numbered: Vec<u32> = words.iter().map(number).collect();
        let mut set = numbered.clone();
        set.sort_unstable();
        set.dedup();
        let failure = wrong_length(words.len(), rules)
            .or_else(|| few_letters(text, rules))
            .or_else(|| language::other(text, rules))
            .or_else(|| phrases::meta_phrase(text, words))
            .or_else(|| repeats_itself(text, &numbered))
            .or_else(|| repeats_another(&numbered, &set, &kept, rules))
            .or_else(|| not_published(answer.audits.get(i), rules))
            .or_else(|| not_found(answer.audits.get(i), rules));
        match failure {
            Some((reason, detail)) => failures.push((i, reason, detail)),
            None => {
                passing.push(i);
                kept.push((i, numbered, set));
            }
        }
    }
    (passing, failures)
}

fn wrong_length(n: usize, rules: &Filter) -> Option<(Reason, String)> {
    if n < rules.words_min {
        return Some((Reason::TooShort, format!("{n} words, fewer than {}", rules.words_min)));
    }
    if n > rules.words_max {
        return Some((Reason::TooLong, format!("{n} words, more than {}", rules.words_max)));
    }
    None
}

fn few_letters(text: &str, rules: &Filter) -> Option<(Reason, String)> {
    let (mut letters, mut all) = (0_usize, 0_usize);
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        letters += usize::from(c.is_alphanumeric());
        all += 1;
    }
    let share = letters as f64 / all.max(1) as f64;
    (share < rules.letters_min).then(|| {
        let detail = format!("{share:.2} of it is letters and digits, less than");
        (Reason::FewLetters, format!("{detail} {:.2}", rules.letters_min))
    })
}

fn repeats_itself(text: &str, words: &[u32]) -> Option<(Reason, String)> {
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
    let mut triples: Vec<&[u32]> = words.windows(3).collect();
    triples.sort_unstable();
    triples.dedup();
    let share = (total - triples.len()) as f64 / total.max(1) as f64;
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

/// `set` is `words` in order, each once; so are those that are kept.
fn repeats_another(
    words: &[u32],
    set: &[u32],
    kept: &[(usize, Vec<u32>, Vec<u32>)],
    rules: &Filter,
) -> Option<(Reason, String)> {
    kept.iter().find_map(|(i, other, other_set)| {
        let shared = set.iter().filter(|word| other_set.binary_search(word).is_ok()).count();
        let overlap = shared as f64 / (set.len() + other_set.len() - shared).max(1) as f64;
        // Equal texts are one text whatever the limit.
        (overlap > rules.overlap_max || words == &other[..]).then(|| {
            let max = rules.overlap_max;
            let detail = format!("overlap {overlap:.2} with instruction {}", i + 1);
            (Reason::Repetitive, format!("{detail}, more than {max:.2}"))
        })
    })
}

/// An instruction without an audit is unresolved.
fn not_published(audit: Option<&Audit>, rules: &Filter) -> Option<(Reason, String)> {
    let label = audit.map_or(Label::Unresolved.as_str(), |audit| &*audit.label);
    let published = rules.labels.iter().any(|one| one.as_str() == label);
    (!published).then(|| {
        let rank = |rank: Option<i32>| rank.map_or("none".to_owned(), |rank| rank.to_string());
        let [text, image, both] = audit
            .map_or([None; 3], |audit| [audit.rank_text, audit.rank_image, audit.rank_both])
            .map(rank);
        let detail =
            format!("{label}: target's rank by text {text}, by image {image}, by both {both}");
        (Reason::Audit, detail)
    })
}

/// An instruction without an audit was not judged.
fn not_found(audit: Option<&Audit>, rules: &Filter) -> Option<(Reason, String)> {
    let verdict = audit.and_then(|audit| audit.verdict.as_deref());
    let verdict = verdict.unwrap_or(Verdict::None.as_str());
    let published = rules.verdicts.iter().any(|one| one.as_str() == verdict);
    (!published).then(|| (Reason::Judge, format!("{verdict}: what the judge chose of two looks")))
}

#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;
