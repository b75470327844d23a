//! DINOv2 S, B, L and g, with registers and without, by the names of Hugging Face Transformers.

use super::{ImageModel, Parsed};
use crate::lanes::Activation;
use crate::prepare::Preparation;
use crate::safetensors::{Unfit, Weights};
use crate::transformer::positions::interpolate;
use crate::transformer::{Block, Head, ImageStem, NormPlace, Pool, Tower, Trunk};

pub(super) fn image(
    parsed: &Parsed,
    mut w: Weights<'_>,
    registers: bool,
) -> Result<ImageModel, Unfit> {
    let config = parsed.settings("config.json");
    let width = config.width("hidden_size", 768)?;
    let (side, patch) = (config.side("image_size", 224)?, config.side("patch_size", 14)?);
    let eps = config.number("layer_norm_eps", 1e-6)?;
    let swiglu = config.flag("use_swiglu_ffn", false)?;
    let qkv_bias = config.flag("qkv_bias", true)?;
    let depth = config.depth("num_hidden_layers", 12)?;
    let wide = (width as f64 * config.number("mlp_ratio", 4.0)?) as usize;
    // As the library rounds it.
    let hidden = if swiglu { (wide * 2 / 3).div_ceil(8) * 8 } else { wide };
    if !(1..=super::WIDTH_MAX * 8).contains(&hidden) {
        return Err(Unfit(format!("config.json: mlp_ratio: {hidden} components cannot be")));
    }
    let learnt = [side / patch; 2];
    let preparation = Preparation::hub(parsed, &Preparation::dinov2())?;
    let size = preparation.crop.map(|side| side as usize);
    let grid = size.map(|side| side / patch);
    if grid.contains(&0) {
        return Err(Unfit(format!("a picture of {size:?} has no patch of {patch} pixels")));
    }

    let mut prefix = w.take("embeddings.cls_token", &[1, 1, width]);
    let count = learnt[0] * learnt[1];
    let positions = w.take("embeddings.position_embeddings", &[1, count + 1, width]);
    prefix.iter_mut().zip(&positions).for_each(|(x, p)| *x += p);
    if registers {
        let registers = config.size("num_register_tokens", 4, 64)?;
        prefix.extend(w.take("embeddings.register_tokens", &[1, registers, width]));
    }
    let name = "embeddings.patch_embeddings.projection";
    let patches = w.take(&format!("{name}.weight"), &[width, 3, patch, patch]);
    let bias = w.take(&format!("{name}.bias"), &[width]);
    let stem = ImageStem {
        size,
        patch,
        grid,
        embed: super::patches(&patches, width, patch, Some(bias)),
        prefix,
        // Antialiasing is what the model with registers was trained with.
        positions: interpolate(&positions[width..], learnt, grid, width, registers),
        norm: None,
    };
    let block = |i| block(&mut w, i, width, hidden, eps, swiglu, qkv_bias);
    let trunk = Trunk {
        width,
        heads: config.heads("num_attention_heads", 12, width)?,
        hidden,
        norm: NormPlace::Before,
        activation: match swiglu {
            true => Activation::Silu,
            false => config.activation("hidden_act", "gelu")?,
        },
        gated: swiglu,
        causal: false,
        rotation: None,
        blocks: (0..depth).map(block).collect(),
    };
    let head =
        Head { pool: Pool::First, norm: Some(w.norm("layernorm", width, eps)), projection: None };
    w.finish(|name| name == "embeddings.mask_token")?;
    Ok(ImageModel { preparation, tower: Tower { stem, trunk, head } })
}

fn block(
    w: &mut Weights<'_>,
    i: usize,
    width: usize,
    hidden: usize,
    eps: f64,
    swiglu: bool,
    qkv_bias: bool,
) -> Block {
    let at = |part: &str| format!("encoder.layer.{i}.{part}");
    let qkv = ["query", "key", "value"].map(|part| at(&format!("attention.attention.{part}")));
    let qkv: Vec<(&str, bool)> = qkv.iter().map(|name| (&**name, qkv_bias)).collect();
    let attention_scale = w.take(&at("layer_scale1.lambda1"), &[width]);
    let network_scale = w.take(&at("layer_scale2.lambda1"), &[width]);
    let (up, down) = match swiglu {
        true => ("mlp.weights_in", "mlp.weights_out"),
        false => ("mlp.fc1", "mlp.fc2"),
    };
    Block {
        norm1: w.norm(&at("norm1"), width, eps),
        qkv: w.joined(&qkv, width, width),
        attention_norm: None,
        out: w.linear_scaled(&at("attention.output.dense"), width, width, &attention_scale),
        norm2: w.norm(&at("norm2"), width, eps),
        up: w.linear(&at(up), if swiglu { 2 * hidden } else { hidden }, width, true),
        hidden_norm: None,
        down: w.linear_scaled(&at(down), width, hidden, &network_scale),
    }
}
