//! WordPiece, with the splitting and cleaning of BERT.

use std::collections::HashMap;

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::props::GeneralCategoryGroup;
use serde_json::Value;

use super::{bad, is, vocabulary};
use crate::safetensors::Unfit;

pub(super) struct WordPiece {
    words: HashMap<String, u32>,
    unknown: u32,
    /// Before a piece that does not begin a word.
    inner: String,
    /// A word of more characters is unknown.
    chars_max: usize,
    clean: bool,
    split_chinese: bool,
    strip_accents: bool,
    lowercase: bool,
}

impl WordPiece {
    pub fn read(file: &Value) -> Result<WordPiece, Unfit> {
        let (model, normalizer) = (&file["model"], &file["normalizer"]);
        if normalizer["type"] != "BertNormalizer" {
            let kind = &normalizer["type"];
            return Err(bad(&format!("WordPiece with a normalizer {kind} is not known here")));
        }
        if file["pre_tokenizer"]["type"] != "BertPreTokenizer" {
            let kind = &file["pre_tokenizer"]["type"];
            return Err(bad(&format!("WordPiece with a pre_tokenizer {kind} is not known here")));
        }
        let words = vocabulary(model)?;
        let unknown = model["unk_token"].as_str().unwrap_or("[UNK]");
        let unknown = words.get(unknown).copied();
        let flag = |key: &str| normalizer[key].as_bool().unwrap_or(true);
        let lowercase = flag("lowercase");
        Ok(WordPiece {
            unknown: unknown.ok_or_else(|| bad("model.unk_token is not in model.vocab"))?,
            words,
            inner: model["continuing_subword_prefix"].as_str().unwrap_or("##").to_owned(),
            chars_max: model["max_input_chars_per_word"].as_u64().unwrap_or(100) as usize,
            clean: flag("clean_text"),
            split_chinese: flag("handle_chinese_chars"),
            // Where nothing is said, as letters are made small.
            strip_accents: normalizer["strip_accents"].as_bool().unwrap_or(lowercase),
            lowercase,
        })
    }

    pub fn largest(&self) -> u32 {
        self.words.values().copied().fold(0, u32::max)
    }

    /// Appends the text's ids; stops once there are `most`, or a few more.
    pub fn ids(&self, text: &str, most: usize, ids: &mut Vec<u32>) {
        let text = self.normalize(text);
        for word in text.split(char::is_whitespace) {
            let mut rest = word;
            while let Some(first) = rest.chars().next() {
                let length = match is_punctuation(first) {
                    true => first.len_utf8(),
                    false => rest.find(is_punctuation).unwrap_or(rest.len()),
                };
                let (piece, after) = rest.split_at(length);
                self.word(piece, ids);
                rest = after;
                if ids.len() >= most {
                    return;
                }
            }
        }
    }

    fn normalize(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            let space = matches!(c, '\t' | '\n' | '\r') || c.is_whitespace();
            if self.clean && !space && (matches!(c, '\0' | '\u{fffd}') || is_control(c)) {
                continue;
            }
            if self.split_chinese && is_chinese(c) {
                out.extend([' ', c, ' ']);
            } else {
                out.push(if self.clean && space { ' ' } else { c });
            }
        }
        if self.strip_accents {
            let parts = DecomposingNormalizerBorrowed::new_nfd().normalize(&out);
            let kept = |c: &char| !is(*c, GeneralCategoryGroup::NonspacingMark);
            out = parts.chars().filter(kept).collect();
        }
        if self.lowercase {
            out = out.chars().flat_map(char::to_lowercase).collect();
        }
        out
    }

    /// The longest piece there is, then the longest of what is left; a word with a part that is no
    /// piece is unknown as a whole.
    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        let begin = ids.len();
        if word.chars().count() > self.chars_max {
            ids.push(self.unknown);
            return;
        }
        let mut rest = word;
        while !rest.is_empty() {
            let prefix = if rest.len() == word.len() { "" } else { &*self.inner };
            let ends = rest.char_indices().rev().map(|(at, c)| at + c.len_utf8());
            let found = ends.into_iter().find_map(|end| {
                let piece = format!("{prefix}{}", &rest[..end]);
                self.words.get(&piece).map(|id| (*id, end))
            });
            let Some((id, end)) = found else {
                ids.truncate(begin);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            rest = &rest[end..];
        }
    }
}

fn is_control(c: char) -> bool {
    is(c, GeneralCategoryGroup::Other)
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || is(c, GeneralCategoryGroup::Punctuation)
}

/// Han ideographs, by the blocks that BERT names (its fifth begins where no block does).
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4e00..=0x9fff
            | 0x3400..=0x4dbf
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2b73f
            | 0x2b740..=0x2b81f
            | 0x2b920..=0x2ceaf
            | 0xf900..=0xfaff
            | 0x2f800..=0x2fa1f
    )
}
