//! Phrases that speak of the task and not of what is shown, refusals, and what is no text at all.

use schemas::reject::Reason;

use super::words::{Words, is};

/// Words that, before "image" and its like, speak of the task and not of what is shown.
pub(super) const POSITIONS: [&str; 19] = [
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
pub(super) const PICTURES: [&str; 10] = [
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
pub(super) const ANYWHERE: [&[&str]; 20] = [
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
pub(super) const AT_START: [&[&str]; 9] = [
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
pub(super) const MARKUP: [&str; 6] = ["```", "**", "<think", "</think", "\":", "\\n"];

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
pub(super) const MARKS: [char; 5] = ['`', '*', '<', '"', '\\'];

pub(super) fn meta_phrase(text: &str, words: &Words) -> Option<(Reason, String)> {
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
