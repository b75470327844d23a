//! BERT and its kin (MiniLM, BGE, E5), by the names of Transformers, pooled as
//! `1_Pooling/config.json` says.

use super::{Parsed, TextModel};
use crate::safetensors::{Unfit, Weights};
use crate::transformer::{Block, Head, NormPlace, Pool, TextStem, Tower, Trunk};

pub(super) fn text(parsed: &Parsed, mut w: Weights<'_>) -> Result<TextModel, Unfit> {
    let config = parsed.settings("config.json");
    let width = config.width("hidden_size", 768)?;
    let hidden = config.width("intermediate_size", 3_072)?;
    let depth = config.depth("num_hidden_layers", 12)?;
    let eps = config.number("layer_norm_eps", 1e-12)?;
    let vocabulary = config.vocabulary("vocab_size", 30_522)?;
    let places = config.size("max_position_embeddings", 512, 1 << 16)?;
    if !matches!(config.text("position_embedding_type"), None | Some("absolute")) {
        return Err(config.bad("position_embedding_type", "only \"absolute\" is known here"));
    }
    let prefix = if w.has_prefix("bert.") { "bert." } else { "" };
    let at = |name: &str| format!("{prefix}{name}");

    let words = w.take(&at("embeddings.word_embeddings.weight"), &[vocabulary, width]);
    let mut positions = w.take(&at("embeddings.position_embeddings.weight"), &[places, width]);
    let kinds = config.size("type_vocab_size", 2, 64)?;
    let kinds = w.take(&at("embeddings.token_type_embeddings.weight"), &[kinds, width]);
    // A text alone is of the first kind throughout.
    for row in positions.chunks_exact_mut(width) {
        row.iter_mut().zip(&kinds).for_each(|(x, kind)| *x += kind);
    }
    let norm = Some(w.norm(&at("embeddings.LayerNorm"), width, eps));
    let stem = TextStem { words, positions, norm };
    let mut block = |i| {
        let at = |part: &str| format!("{prefix}encoder.layer.{i}.{part}");
        let qkv = ["query", "key", "value"].map(|part| at(&format!("attention.self.{part}")));
        let qkv: Vec<(&str, bool)> = qkv.iter().map(|name| (&**name, true)).collect();
        Block {
            norm1: w.norm(&at("attention.output.LayerNorm"), width, eps),
            qkv: w.joined(&qkv, width, width),
            attention_norm: None,
            out: w.linear(&at("attention.output.dense"), width, width, true),
            norm2: w.norm(&at("output.LayerNorm"), width, eps),
            up: w.linear(&at("intermediate.dense"), hidden, width, true),
            hidden_norm: None,
            down: w.linear(&at("output.dense"), width, hidden, true),
        }
    };
    let trunk = Trunk {
        width,
        heads: config.heads("num_attention_heads", 12, width)?,
        hidden,
        norm: NormPlace::AfterSum,
        activation: config.activation("hidden_act", "gelu")?,
        gated: false,
        causal: false,
        rotation: None,
        blocks: (0..depth).map(&mut block).collect(),
    };
    w.finish(|name| {
        let name = name.strip_prefix(prefix).unwrap_or(name);
        // What was trained with it and gives no vector.
        name.starts_with("pooler.") || name.starts_with("cls.") || name.ends_with("position_ids")
    })?;
    let head = Head { pool: pool(parsed)?, norm: None, projection: None };
    let tower = Tower { stem, trunk, head };
    Ok(TextModel { ids_max: ids_max(parsed, places)?, tower })
}

/// The mean of all tokens, unless the folder says otherwise.
fn pool(parsed: &Parsed) -> Result<Pool, Unfit> {
    let pooling = parsed.settings("1_Pooling/config.json");
    let mut modes = Vec::new();
    for mode in [
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    ] {
        if pooling.flag(&format!("pooling_mode_{mode}"), false)? {
            modes.push(mode);
        }
    }
    match &*modes {
        [] | ["mean_tokens"] => Ok(Pool::Mean),
        ["cls_token"] => Ok(Pool::First),
        ["lasttoken"] => Ok(Pool::Last),
        other => Err(Unfit(format!("1_Pooling/config.json: {other:?} is not known here"))),
    }
}

/// As sentence-transformers truncates; else as the tokenizer's own file says.
fn ids_max(parsed: &Parsed, places: usize) -> Result<usize, Unfit> {
    let sentences = parsed.settings("sentence_bert_config.json");
    if sentences.has("max_seq_length") {
        return sentences.size("max_seq_length", places, places);
    }
    let tokenizer = parsed.settings("tokenizer.json").inner("truncation");
    Ok(tokenizer.size("max_length", places, 1 << 20)?.min(places))
}
