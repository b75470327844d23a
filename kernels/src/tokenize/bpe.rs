//! Byte-level pair encoding, with the splitting of CLIP.

use std::collections::HashMap;

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::props::GeneralCategoryGroup;
use serde_json::Value;

use super::{bad, is, vocabulary};
use crate::safetensors::Unfit;

/// What CLIP's words are, as its files write it.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

pub(super) struct Bpe {
    /// Of a byte within a word, and of one that ends it.
    bytes: [[u32; 256]; 2],
    /// What a pair becomes, and when: the least rank first.
    merges: HashMap<(u32, u32), (usize, u32)>,
    largest: u32,
}

impl Bpe {
    pub fn read(file: &Value) -> Result<Bpe, Unfit> {
        check_layout(file)?;
        let model = &file["model"];
        let words = vocabulary(model)?;
        let suffix = model["end_of_word_suffix"].as_str().unwrap_or_default();
        let mut bytes = [[0; 256]; 2];
        for (byte, c) in byte_characters().into_iter().enumerate() {
            for (ends, end) in ["", suffix].into_iter().enumerate() {
                let name = format!("{c}{end}");
                let id = words.get(&name).ok_or_else(|| bad(&format!("{name:?} has no id")))?;
                bytes[ends][byte] = *id;
            }
        }
        let mut merges = HashMap::new();
        let list = model["merges"].as_array().ok_or_else(|| bad("model.merges is no list"))?;
        for (rank, merge) in list.iter().enumerate() {
            let pair = match merge.as_str() {
                Some(text) => text.split_once(' '),
                None => merge[0].as_str().zip(merge[1].as_str()),
            };
            let ids = pair.and_then(|(left, right)| {
                let whole = format!("{left}{right}");
                Some(((*words.get(left)?, *words.get(right)?), *words.get(&whole)?))
            });
            let Some((pair, whole)) = ids else {
                return Err(bad(&format!("model.merges: {merge} is no pair of known parts")));
            };
            merges.entry(pair).or_insert((rank, whole));
        }
        let largest = words.values().copied().fold(0, u32::max);
        Ok(Bpe { bytes, merges, largest })
    }

    pub fn largest(&self) -> u32 {
        self.largest
    }

    /// Appends the text's ids; stops once there are `most`, or a few more.
    pub fn ids(&self, text: &str, most: usize, ids: &mut Vec<u32>) {
        let text = ComposingNormalizerBorrowed::new_nfc().normalize(text);
        let text: String = text.chars().flat_map(char::to_lowercase).collect();
        let mut rest = text.trim_start();
        while !rest.is_empty() && ids.len() < most {
            let (word, after) = rest.split_at(word_length(rest));
            self.word(word, ids);
            rest = after.trim_start();
        }
    }

    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        let last = word.len() - 1;
        let bytes = word.bytes().enumerate();
        let mut parts: Vec<u32> = bytes
            .map(|(at, byte)| self.bytes[usize::from(at == last)][usize::from(byte)])
            .collect();
        loop {
            let pairs = parts.windows(2).enumerate();
            let merges = pairs.filter_map(|(at, pair)| {
                let &(rank, whole) = self.merges.get(&(pair[0], pair[1]))?;
                Some((rank, at, whole))
            });
            let Some((_, at, whole)) = merges.min() else { break };
            parts[at] = whole;
            parts.remove(at + 1);
        }
        ids.extend(parts);
    }
}

/// How long the word at the beginning is, in bytes; the text begins with no space.
fn word_length(text: &str) -> usize {
    if let Some(contraction) = CONTRACTIONS.iter().find(|c| text.starts_with(**c)) {
        return contraction.len();
    }
    let letter = |c: char| is(c, GeneralCategoryGroup::Letter);
    let number = |c: char| is(c, GeneralCategoryGroup::Number);
    let Some(first) = text.chars().next() else { return 0 };
    let end = |of: &dyn Fn(char) -> bool| text.find(|c| !of(c)).unwrap_or(text.len());
    if letter(first) {
        end(&letter)
    } else if number(first) {
        first.len_utf8()
    } else {
        end(&|c| !c.is_whitespace() && !letter(c) && !number(c))
    }
}

/// The character that stands for each byte in the files: itself where it can be seen, else one after
/// U+0100.
fn byte_characters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let seen = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if seen { byte as u32 } else { next };
        next += u32::from(!seen);
        char::from_u32(code).unwrap_or_default()
    })
}

/// Refuses what does not split and clean as CLIP does.
fn check_layout(file: &Value) -> Result<(), Unfit> {
    let steps = |value: &Value, list: &str| -> Vec<Value> {
        match value["type"] == "Sequence" {
            true => value[list].as_array().cloned().unwrap_or_default(),
            false => vec![value.clone()],
        }
    };
    for step in steps(&file["normalizer"], "normalizers") {
        let known = match step["type"].as_str() {
            Some("NFC" | "Lowercase") => true,
            // Spaces end words, however many there are.
            Some("Replace") => step["pattern"]["Regex"] == r"\s+" && step["content"] == " ",
            _ => false,
        };
        if !known {
            return Err(bad(&format!("BPE with a normalizer {} is not known here", step["type"])));
        }
    }
    for step in steps(&file["pre_tokenizer"], "pretokenizers") {
        let known = match step["type"].as_str() {
            Some("Split") => step["pattern"]["Regex"] == PATTERN,
            Some("ByteLevel") => step["add_prefix_space"] == false,
            _ => false,
        };
        if !known {
            return Err(bad(&format!("BPE with a pre_tokenizer {step} is not known here")));
        }
    }
    if file["model"]["continuing_subword_prefix"].as_str().is_some_and(|prefix| !prefix.is_empty())
    {
        return Err(bad("BPE with a continuing_subword_prefix is not known here"));
    }
    Ok(())
}
