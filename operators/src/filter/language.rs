//! In which language an instruction is: told only where there is enough text to tell.
//!
//! Told by n-grams of letters (`whichlang`). Of 49,101 English instructions that people wrote (Fashion
//! IQ, CIRCO, our demonstrations) it takes 2,570 for another language, nearly all of one to three
//! words, and 5 of the 11,086 with at least [`LETTERS_TO_TELL`] letters; of 394 as long sentences in
//! 60 other languages, most of which it does not know, 4 for English.

use schemas::{config::Filter, reject::Reason};
use whichlang::Lang;

/// Fewest letters of a text whose language is told.
const LETTERS_TO_TELL: usize = 30;
/// The same where most are not Latin ones: scripts tell more.
const OTHER_LETTERS_TO_TELL: usize = 4;

/// Whether it is in a language that is not listed, as far as can be told.
pub(super) fn other(text: &str, rules: &Filter) -> Option<(Reason, String)> {
    if rules.languages.is_empty() || !enough(text) {
        return None;
    }
    let told = code(whichlang::detect_language(text));
    (!rules.languages.iter().any(|listed| listed == told)).then(|| {
        let listed = rules.languages.join(", ");
        (Reason::OtherLanguage, format!("reads as {told:?}, not as one of {listed}"))
    })
}

fn enough(text: &str) -> bool {
    let (mut latin, mut other) = (0, 0);
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        match is_latin(c) {
            true => latin += 1,
            false => other += 1,
        }
    }
    latin + other >= LETTERS_TO_TELL || other > latin && other >= OTHER_LETTERS_TO_TELL
}

fn is_latin(letter: char) -> bool {
    letter <= '\u{24f}' || ('\u{1e00}'..='\u{1eff}').contains(&letter)
}

/// As [`schemas::config::LANGUAGES`] has it.
pub(super) fn code(lang: Lang) -> &'static str {
    match lang {
        Lang::Ara => "ar",
        Lang::Cmn => "zh",
        Lang::Deu => "de",
        Lang::Eng => "en",
        Lang::Fra => "fr",
        Lang::Hin => "hi",
        Lang::Ita => "it",
        Lang::Jpn => "ja",
        Lang::Kor => "ko",
        Lang::Nld => "nl",
        Lang::Por => "pt",
        Lang::Rus => "ru",
        Lang::Spa => "es",
        Lang::Swe => "sv",
        Lang::Tur => "tr",
        Lang::Vie => "vi",
    }
}
