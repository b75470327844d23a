//! SigLIP, and SigLIP 2 of one resolution: the tower of pictures, by the names of Transformers.

use super::{ImageModel, Parsed, clip_block};
use crate::gemm::Packed;
use crate::prepare::Preparation;
use crate::safetensors::{Unfit, Weights};
use crate::transformer::{AttentionPool, Head, ImageStem, Linear, NormPlace, Pool, Tower, Trunk};

pub(super) fn image(parsed: &Parsed, mut w: Weights<'_>) -> Result<ImageModel, Unfit> {
    let config = parsed.settings("config.json");
    let own = if config.has("vision_config") { config.inner("vision_config") } else { config };
    let width = own.width("hidden_size", 768)?;
    let hidden = own.width("intermediate_size", 3_072)?;
    let (side, patch) = (own.side("image_size", 224)?, own.side("patch_size", 16)?);
    let depth = own.depth("num_hidden_layers", 12)?;
    let eps = own.number("layer_norm_eps", 1e-6)?;
    let grid = [side / patch; 2];
    let preparation = Preparation::hub(parsed, &Preparation::siglip(side))?;
    super::must_be(&preparation, side)?;
    let prefix = prefix(&w);
    let at = |name: &str| format!("{prefix}{name}");

    let patches = w.take(&at("embeddings.patch_embedding.weight"), &[width, 3, patch, patch]);
    let bias = w.take(&at("embeddings.patch_embedding.bias"), &[width]);
    let name = at("embeddings.position_embedding.weight");
    let stem = ImageStem {
        size: [side; 2],
        patch,
        grid,
        embed: super::patches(&patches, width, patch, Some(bias)),
        prefix: Vec::new(),
        positions: w.take(&name, &[grid[0] * grid[1], width]),
        norm: None,
    };
    let block = |i| clip_block(&mut w, &at(&format!("encoder.layers.{i}")), width, hidden, eps);
    let trunk = Trunk {
        width,
        heads: own.heads("num_attention_heads", 12, width)?,
        hidden,
        norm: NormPlace::Before,
        activation: own.activation("hidden_act", "gelu_pytorch_tanh")?,
        gated: false,
        causal: false,
        rotation: None,
        blocks: (0..depth).map(block).collect(),
    };
    let pool = Pool::Attention(Box::new(pool(&mut w, prefix, width, hidden, eps)));
    let norm = Some(w.norm(&at("post_layernorm"), width, eps));
    w.finish(|name| {
        name.starts_with("text_model.") || ["logit_scale", "logit_bias"].contains(&name)
    })?;
    let head = Head { pool, norm, projection: None };
    Ok(ImageModel { preparation, tower: Tower { stem, trunk, head } })
}

/// The tower's names begin so in a folder of both towers; alone they may not.
fn prefix(w: &Weights<'_>) -> &'static str {
    match w.has("embeddings.patch_embedding.weight") {
        true => "",
        false => "vision_model.",
    }
}

fn pool(w: &mut Weights<'_>, prefix: &str, width: usize, hidden: usize, eps: f64) -> AttentionPool {
    let at = |name: &str| format!("{prefix}head.{name}");
    let probe = w.take(&at("probe"), &[1, 1, width]);
    let weights = w.take(&at("attention.in_proj_weight"), &[3 * width, width]);
    let bias = w.take(&at("attention.in_proj_bias"), &[3 * width]);
    let dot = |row: &[f32]| -> f64 {
        row.iter().zip(&probe).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let query = weights[..width * width].chunks_exact(width).zip(&bias);
    let query = query.map(|(row, &bias)| (dot(row) + f64::from(bias)) as f32).collect();
    let rows = &weights[width * width..];
    AttentionPool {
        query,
        kv: Linear {
            weights: Packed::from_outputs(rows, 2 * width, width),
            bias: Some(bias[width..].to_vec()),
        },
        out: w.linear(&at("attention.out_proj"), width, width, true),
        norm: w.norm(&at("layernorm"), width, eps),
        up: w.linear(&at("mlp.fc1"), hidden, width, true),
        down: w.linear(&at("mlp.fc2"), width, hidden, true),
    }
}
