//! Filter: text rules decide which instructions of an answer are fit to train on.
//!
//! The rules are pure functions of the text and the config, so that changed rules can be applied to
//! stored answers. Details of rejects never quote an answer: `rejects` outlives the images, and
//! the texts that were generated from them must not (I4).

use std::sync::Arc;

use differential_dataflow::{AsCollection, VecCollection};
use schemas::{
    Epoch,
    config::{Filter, Label},
    reject::Reason,
    tables::{Audit, RejectRow},
};
use timely::dataflow::{
    StreamVec,
    channels::pact::Pipeline,
    operators::{generic::Operator, vec::Map},
};

use crate::{flow::Answer, quick::QuickMap};

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

/// What is left of an answer, if enough is, and why the rest is not.
pub fn accept(answer: Arc<Answer>, rules: &Filter) -> (Option<Arc<Answer>>, Vec<RejectRow>) {
    let id = &answer.request_id;
    if !answer.ok {
        let detail = "the request ended without an answer; its outcome stands in annotations";
        return (None, vec![RejectRow::answer(Reason::NoAnswer, detail, id)]);
    }
    let (passing, failures) = judge(&answer, rules);
    if passing.len() < rules.instructions_min {
        let (n, min) = (passing.len(), rules.instructions_min);
        let detail = format!("{n} usable instructions, fewer than {min}");
        let mut rows = vec![RejectRow::answer(Reason::TooFewInstructions, detail, id)];
        rows.extend(failures.into_iter().map(|(i, reason, detail)| {
            RejectRow::answer(reason, format!("instruction {}: {detail}", i + 1), id)
        }));
        return (None, rows);
    }
    if passing.len() == answer.instructions.len() {
        return (Some(answer), Vec::new());
    }
    let mut fit = Arc::unwrap_or_clone(answer);
    let audits = std::mem::take(&mut fit.audits);
    fit.audits = passing.iter().filter_map(|&i| audits.get(i).cloned()).collect();
    let texts = std::mem::take(&mut fit.instructions);
    fit.instructions = passing.iter().map(|&i| texts[i].clone()).collect();
    (Some(Arc::new(fit)), Vec::new())
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
            .or_else(|| meta_phrase(text, words))
            .or_else(|| repeats_itself(text, &numbered))
            .or_else(|| repeats_another(&numbered, &set, &kept, rules))
            .or_else(|| not_published(answer.audits.get(i), rules));
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

/// Lower-case words without punctuation. A letter of a script that sets no spaces (Han, kana) is
/// a word, so that lengths and overlaps mean something there too.
struct Words {
    /// All of them, one behind the other.
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Words {
    fn of(text: &str) -> Words {
        let mut words = Words { text: String::with_capacity(text.len()), ends: Vec::new() };
        for c in text.chars() {
            if c.is_ascii() {
                words.take(c.to_ascii_lowercase());
            } else {
                c.to_lowercase().for_each(|c| words.take(c));
            }
        }
        words.end();
        words
    }

    fn begin(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn take(&mut self, c: char) {
        let spaceless = matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}');
        let apostrophe = matches!(c, '\'' | '’') && self.text.len() > self.begin();
        if c.is_alphanumeric() && !spaceless {
            self.text.push(c);
        } else if apostrophe {
            self.text.push('\'');
        } else {
            self.end();
            if spaceless {
                self.text.push(c);
                self.ends.push(self.text.len());
            }
        }
    }

    fn end(&mut self) {
        let word = self.text[self.begin()..].trim_end_matches('\'').len();
        self.text.truncate(self.begin() + word);
        if word > 0 {
            self.ends.push(self.text.len());
        }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    /// The word at a place; past the last one there is an empty one.
    fn get(&self, at: usize) -> &str {
        let Some(&end) = self.ends.get(at) else { return "" };
        let begin = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[begin..end]
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|at| self.get(at))
    }

    fn begins(&self, from: usize, phrase: &[&str]) -> bool {
        phrase.iter().enumerate().all(|(i, word)| is(self.get(from + i), word))
    }
}

/// Whether the two are one word; most are seen not to be by their first letters.
fn is(a: &str, b: &str) -> bool {
    a.as_bytes().first() == b.as_bytes().first() && a == b
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

/// Which phrases begin with a word that begins with this letter: a bit each. Hardly any word begins
/// many, and answers are judged by the hundred thousand.
const fn first_letters<const N: usize>(phrases: &[&[&str]; N]) -> [u32; 256] {
    let (mut letters, mut at) = ([0; 256], 0);
    while at < N {
        letters[phrases[at][0].as_bytes()[0] as usize] |= 1 << at;
        at += 1;
    }
    letters
}

const ANYWHERE_LETTERS: [u32; 256] = first_letters(&ANYWHERE);

/// The first phrase that stands at this place of the words.
fn phrase_at(words: &Words, at: usize) -> Option<&'static [&'static str]> {
    let first = words.get(at).as_bytes().first()?;
    let mut of_letter = ANYWHERE_LETTERS[usize::from(*first)];
    while of_letter != 0 {
        let phrase = ANYWHERE[of_letter.trailing_zeros() as usize];
        if words.begins(at, phrase) {
            return Some(phrase);
        }
        of_letter &= of_letter - 1;
    }
    None
}

/// What each of [`MARKUP`] has in it.
const MARKS: [char; 5] = ['`', '*', '<', '"', '\\'];

fn meta_phrase(text: &str, words: &Words) -> Option<(Reason, String)> {
    let meta = |phrase: String| Some((Reason::MetaPhrase, phrase));
    let mark = || MARKUP.iter().find(|mark| text.contains(**mark));
    if text.contains(MARKS)
        && let Some(mark) = mark()
    {
        return meta(format!("markup {mark:?}"));
    }
    if text.trim_start().starts_with(['{', '[']) {
        return meta("a fragment of JSON".into());
    }
    if let Some(phrase) = AT_START.iter().find(|phrase| words.begins(0, phrase)) {
        return meta(format!("begins with {:?}", phrase.join(" ")));
    }
    for (i, word) in words.iter().enumerate() {
        if let Some(phrase) = phrase_at(words, i) {
            return meta(format!("says {:?}", phrase.join(" ")));
        }
        let next = words.get(i + 1);
        let one_of = |list: &[&str], word| list.iter().any(|other| is(word, other));
        let numbered = matches!(next, "1" | "2" | "b") && one_of(&PICTURES, word);
        let joined = matches!(word, "image1" | "image2");
        if numbered || joined || one_of(&PICTURES, next) && one_of(&POSITIONS, word) {
            // Both words are from the lists above: nothing of the answer is quoted.
            return meta(format!("says {:?}", format!("{word} {next}").trim_end()));
        }
    }
    // The letters only as capitals: "an image a child drew" is fine.
    if text.contains('I') && (text.contains("Image A") || text.contains("Image B")) {
        return meta("says \"Image A\" or \"Image B\"".into());
    }
    None
}

#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;
