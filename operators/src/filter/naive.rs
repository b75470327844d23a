//! The rules on text as they are read out, without numbers for words: what [`judge`] is held to.

use std::collections::BTreeSet;

use super::{phrases::*, *};

fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in text.chars().flat_map(char::to_lowercase) {
        let spaceless = matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}');
        let word = words.last_mut().expect("there is always one");
        if c.is_alphanumeric() && !spaceless {
            word.push(c);
        } else if matches!(c, '\'' | '’') && !word.is_empty() {
            word.push('\'');
        } else {
            words.extend(spaceless.then(|| c.to_string()));
            words.push(String::new());
        }
    }
    let trimmed = words.iter().map(|word| word.trim_end_matches('\'').to_owned());
    trimmed.filter(|word| !word.is_empty()).collect()
}

fn run<T: PartialEq>(items: &[T]) -> usize {
    items.chunk_by(|a, b| a == b).map(<[T]>::len).max().unwrap_or(0)
}

/// Of letters and digits among what is no blank.
fn share(text: &str) -> f64 {
    let text: String = text.split_whitespace().collect();
    let other = text.chars().filter(|c| !c.is_alphanumeric()).count();
    let all = text.chars().count();
    if all == 0 { 0.0 } else { (all - other) as f64 / all as f64 }
}

fn is_meta(text: &str, words: &[String]) -> bool {
    let begins = |words: &[String], phrase: &[&str]| {
        words.len() >= phrase.len() && words.iter().zip(phrase).all(|(a, b)| a == b)
    };
    let of = |list: &[&str], word: Option<&String>| word.is_some_and(|w| list.contains(&&**w));
    MARKUP.iter().any(|mark| text.contains(mark))
        || text.trim_start().starts_with(['{', '['])
        || AT_START.iter().any(|phrase| begins(words, phrase))
        || (0..words.len()).any(|i| {
            let (word, next) = (words.get(i), words.get(i + 1));
            ANYWHERE.iter().any(|phrase| begins(&words[i..], phrase))
                || of(&["image1", "image2"], word)
                || of(&PICTURES, word) && of(&["1", "2", "b"], next)
                || of(&POSITIONS, word) && of(&PICTURES, next)
        })
        || text.contains("Image A")
        || text.contains("Image B")
}

fn is_foreign(text: &str, rules: &Filter) -> bool {
    let letters: Vec<char> = text.chars().filter(|c| c.is_alphabetic()).collect();
    let latin = |c: &&char| matches!(**c as u32, 0..0x250 | 0x1e00..0x1f00);
    let others = letters.len() - letters.iter().filter(latin).count();
    let told = letters.len() >= 30 || others >= 4 && 2 * others > letters.len();
    let listed: BTreeSet<&str> = rules.languages.iter().map(String::as_str).collect();
    told && !listed.is_empty() && !listed.contains(language::code(whichlang::detect_language(text)))
}

/// The instructions that give the target's caption away.
pub fn leaking(answer: &Answer, caption: Option<&str>, rules: &Filter) -> Vec<usize> {
    let set = |text: &str| -> BTreeSet<String> {
        words(text).into_iter().filter(|word| !leak::COMMON.contains(&word.as_str())).collect()
    };
    let caption = set(caption.unwrap_or_default());
    let leaks = |at: &usize| {
        let said = set(&answer.instructions[*at]).intersection(&caption).count() as f64;
        caption.len() >= 6 && said / caption.len() as f64 > rules.leak_max
    };
    (0..answer.instructions.len()).filter(leaks).collect()
}

/// The instructions that pass, and of each other one the reason.
pub fn judged(answer: &Answer, rules: &Filter) -> (Vec<usize>, Vec<(usize, Reason)>) {
    let (mut passing, mut failing) = (Vec::new(), Vec::new());
    let mut kept: Vec<Vec<String>> = Vec::new();
    for (i, text) in answer.instructions.iter().enumerate() {
        let words = words(text);
        let letters: Vec<char> = text.chars().collect();
        let letters = letters.split(|c| !c.is_alphabetic()).map(run).max();
        let triples: BTreeSet<&[String]> = words.windows(3).collect();
        let repeats = words.windows(3).count() - triples.len();
        let set: BTreeSet<&String> = words.iter().collect();
        let alike = |other: &Vec<String>| {
            let other_set: BTreeSet<&String> = other.iter().collect();
            let all = set.union(&other_set).count().max(1) as f64;
            *other == words || set.intersection(&other_set).count() as f64 / all > rules.overlap_max
        };
        let reason = if words.len() < rules.words_min {
            Some(Reason::TooShort)
        } else if words.len() > rules.words_max {
            Some(Reason::TooLong)
        } else if share(text) < rules.letters_min {
            Some(Reason::FewLetters)
        } else if is_foreign(text, rules) {
            Some(Reason::OtherLanguage)
        } else if is_meta(text, &words) {
            Some(Reason::MetaPhrase)
        } else if run(&words) > WORD_RUN_MAX
            || letters > Some(LETTER_RUN_MAX)
            || words.len() >= 6 && repeats as f64 / (words.len() - 2) as f64 > REPEATED_TRIPLES_MAX
            || kept.iter().any(alike)
        {
            Some(Reason::Repetitive)
        } else if !rules.labels.iter().any(|label| label.as_str() == answer.audits[i].label) {
            Some(Reason::Audit)
        } else if !rules.verdicts.iter().any(|verdict| match (verdict, &answer.audits[i].verdict) {
            (Verdict::None, said) => said.is_none(),
            (verdict, said) => said.as_deref() == Some(verdict.as_str()),
        }) {
            Some(Reason::Judge)
        } else {
            None
        };
        match reason {
            Some(reason) => failing.push((i, reason)),
            None => {
                passing.push(i);
                kept.push(words);
            }
        }
    }
    (passing, failing)
}
