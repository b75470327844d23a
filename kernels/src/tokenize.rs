//! Texts to ids, as the hub's `tokenizer.json` says: WordPiece (BERT and its kin) and the byte-level
//! pair encoding of CLIP.
//!
//! What `tokenizers` of Hugging Face does with the same file, for the two layouts that encoders have;
//! a file of another layout is an error that names what is not known here. Beside OpenAI's and OpenCLIP's
//! own code for CLIP: HTML entities and mojibake are not repaired, as `tokenizers` does not either.

use std::collections::HashMap;

use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup};
use serde_json::Value;

use crate::safetensors::Unfit;

mod bpe;
mod wordpiece;

/// Turns texts into ids.
pub struct Tokenizer {
    model: Model,
    /// Marks that are ids of their own wherever they stand in a text, the longest first.
    marks: Vec<(String, u32)>,
    before: Vec<u32>,
    after: Vec<u32>,
    ids_max: usize,
}

enum Model {
    WordPiece(wordpiece::WordPiece),
    Bpe(Box<bpe::Bpe>),
}

impl Tokenizer {
    /// Of the text of a `tokenizer.json`. Ids are below `vocabulary`; a text gets `ids_max` at most.
    ///
    /// # Errors
    /// What is not JSON, not known here, or does not fit the network.
    pub fn read(text: &str, vocabulary: usize, ids_max: usize) -> Result<Tokenizer, Unfit> {
        let file: Value = serde_json::from_str(text).map_err(|e| bad(&e.to_string()))?;
        let model = match file["model"]["type"].as_str() {
            Some("WordPiece") => Model::WordPiece(wordpiece::WordPiece::read(&file)?),
            Some("BPE") => Model::Bpe(Box::new(bpe::Bpe::read(&file)?)),
            other => return Err(bad(&format!("a model of type {other:?} is not known here"))),
        };
        let mut marks = Vec::new();
        for mark in file["added_tokens"].as_array().into_iter().flatten() {
            let (content, id) = (mark["content"].as_str(), id_of(&mark["id"]));
            let (Some(content), Some(id)) = (content, id) else {
                return Err(bad("added_tokens: content and id are needed"));
            };
            if !content.is_empty() {
                marks.push((content.to_owned(), id));
            }
        }
        marks.sort_by_key(|(content, _)| std::cmp::Reverse(content.len()));
        let (before, after) = ends(&file["post_processor"])?;
        let tokenizer = Tokenizer { model, marks, before, after, ids_max };
        let most = tokenizer.largest();
        if most as usize >= vocabulary {
            return Err(bad(&format!("id {most} is beyond the network's {vocabulary} words")));
        }
        if tokenizer.before.len() + tokenizer.after.len() >= ids_max {
            return Err(bad(&format!("marks at both ends leave no room in {ids_max} ids")));
        }
        Ok(tokenizer)
    }

    fn largest(&self) -> u32 {
        let words = match &self.model {
            Model::WordPiece(model) => model.largest(),
            Model::Bpe(model) => model.largest(),
        };
        let ends = self.before.iter().chain(&self.after).copied();
        self.marks.iter().map(|(_, id)| *id).chain(ends).fold(words, u32::max)
    }

    /// The ids of a text, marks at both ends included; what is too long is cut at its end, before the
    /// last mark.
    pub fn ids(&self, text: &str) -> Vec<u32> {
        let room = self.ids_max - self.before.len() - self.after.len();
        let mut ids = self.before.clone();
        let mut inner = Vec::new();
        let mut rest = text;
        while !rest.is_empty() && inner.len() < room {
            let (part, mark) = self.next_mark(rest);
            match &self.model {
                Model::WordPiece(model) => model.ids(&rest[..part], room, &mut inner),
                Model::Bpe(model) => model.ids(&rest[..part], room, &mut inner),
            }
            rest = &rest[part..];
            if let Some((content, id)) = mark {
                inner.push(*id);
                rest = &rest[content.len()..];
            }
        }
        inner.truncate(room);
        ids.extend(inner);
        ids.extend(&self.after);
        ids
    }

    /// Where the next mark begins, or the text's end.
    fn next_mark(&self, text: &str) -> (usize, Option<&(String, u32)>) {
        let places = self.marks.iter().filter_map(|mark| Some((text.find(&mark.0)?, mark)));
        // Of those at one place the longest, which comes first.
        let first = places.min_by_key(|(place, _)| *place);
        first.map_or((text.len(), None), |(place, mark)| (place, Some(mark)))
    }
}

fn bad(what: &str) -> Unfit {
    Unfit(format!("tokenizer.json: {what}"))
}

fn id_of(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn vocabulary(model: &Value) -> Result<HashMap<String, u32>, Unfit> {
    let words = model["vocab"].as_object().ok_or_else(|| bad("model.vocab is no object"))?;
    let words = words.iter().map(|(word, id)| Some((word.clone(), id_of(id)?)));
    words.collect::<Option<_>>().ok_or_else(|| bad("model.vocab: an id is no whole number"))
}

/// What goes before a text and after it.
fn ends(processor: &Value) -> Result<(Vec<u32>, Vec<u32>), Unfit> {
    let unknown = || bad(&format!("a post_processor {} is not known here", processor["type"]));
    match processor["type"].as_str() {
        Some("BertProcessing" | "RobertaProcessing") => {
            let mark = |name: &str| id_of(&processor[name][1]).ok_or_else(unknown);
            Ok((vec![mark("cls")?], vec![mark("sep")?]))
        }
        Some("TemplateProcessing") => {
            let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
            for piece in processor["single"].as_array().ok_or_else(unknown)? {
                let Some(name) = piece["SpecialToken"]["id"].as_str() else {
                    seen = true;
                    continue;
                };
                let ids = processor["special_tokens"][name]["ids"].as_array();
                let ids: Option<Vec<u32>> = ids.ok_or_else(unknown)?.iter().map(id_of).collect();
                let to = if seen { &mut after } else { &mut before };
                to.extend(ids.ok_or_else(unknown)?);
            }
            Ok((before, after))
        }
        _ => Err(unknown()),
    }
}

/// Whether the character's general category is in the group.
fn is(c: char, group: GeneralCategoryGroup) -> bool {
    group.contains(CodePointMapData::<GeneralCategory>::new().get(c))
}
