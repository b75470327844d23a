//! OpenCLIP's folders: an EVA tower of timm for pictures, OpenCLIP's own for texts.

use super::{ImageModel, Parsed, Settings, TextModel, eva};
use crate::gemm::Packed;
use crate::lanes::Activation;
use crate::prepare::{Preparation, Resize};
use crate::safetensors::{Unfit, Weights};
use crate::transformer::{Block, Head, Linear, NormPlace, Pool, TextStem, Tower, Trunk};

const FILE: &str = "open_clip_config.json";

fn model(parsed: &Parsed) -> Settings<'_> {
    let settings = parsed.settings(FILE);
    if settings.has("model_cfg") { settings.inner("model_cfg") } else { settings }
}

pub(super) fn image(parsed: &Parsed, mut w: Weights<'_>) -> Result<ImageModel, Unfit> {
    let model = model(parsed);
    let vision = model.inner("vision_cfg");
    let Some(name) = vision.text("timm_model_name") else {
        return Err(Unfit(format!("{FILE}: vision_cfg: only timm's EVA towers are known here")));
    };
    let side = vision.side("image_size", 224)?;
    let spec = eva::Spec::of(name, vision.inner("timm_model_args"), Some(side))?;
    let outputs = model.width("embed_dim", 512)?;
    let tower = spec.tower(&mut w, "visual.trunk.", Some(outputs))?;
    w.finish(|name| {
        !name.starts_with("visual.") || name.contains(".rope") || name == "logit_scale"
    })?;
    let mut preparation = Preparation::open_clip(spec.side);
    let preprocess = parsed.settings(FILE).inner("preprocess_cfg");
    preparation.colours(&preprocess, "mean", "std")?;
    match preprocess.text("resize_mode") {
        None | Some("shortest") => {}
        Some("squash") => preparation.resize = Resize::Exact(spec.side.map(|side| side as u32)),
        Some(other) => {
            return Err(Unfit(format!("{FILE}: resize_mode {other:?} is not known here")));
        }
    }
    preparation.filter(preprocess.text("interpolation").unwrap_or("bicubic"))?;
    Ok(ImageModel { preparation, tower })
}

/// Of timm's own folder of such a tower.
pub(super) fn preparation_timm(
    config: &Settings<'_>,
    spec: &eva::Spec,
) -> Result<Preparation, Unfit> {
    let mut preparation = Preparation::open_clip(spec.side);
    let own = config.inner("pretrained_cfg");
    preparation.colours(&own, "mean", "std")?;
    preparation.filter(own.text("interpolation").unwrap_or("bicubic"))?;
    Ok(preparation)
}

pub(super) fn text(parsed: &Parsed, mut w: Weights<'_>) -> Result<TextModel, Unfit> {
    let model = model(parsed);
    let own = model.inner("text_cfg");
    for key in ["hf_model_name", "ls_init_value", "no_causal_mask", "embed_cls"] {
        if own.value(key).is_some_and(|value| value != false) {
            return Err(own.bad(key, "is not known here"));
        }
    }
    if !matches!(own.text("pool_type"), None | Some("argmax")) {
        return Err(own.bad("pool_type", "only \"argmax\" is known here"));
    }
    let width = own.width("width", 512)?;
    let ids_max = own.size("context_length", 77, super::SIDE_MAX)?;
    let vocabulary = own.vocabulary("vocab_size", 49_408)?;
    let depth = own.depth("layers", 12)?;
    let hidden = (width as f64 * own.number("mlp_ratio", 4.0)?.clamp(0.0, 64.0)) as usize;
    let eps = own.inner("norm_kwargs").number("eps", 1e-5)?;
    let outputs = model.width("embed_dim", 512)?;
    let prefix = if w.has("text.token_embedding.weight") { "text." } else { "" };
    let at = |name: &str| format!("{prefix}{name}");
    let stem = TextStem {
        words: w.take(&at("token_embedding.weight"), &[vocabulary, width]),
        positions: w.take(&at("positional_embedding"), &[ids_max, width]),
        norm: None,
    };
    let block = |i| {
        let at = |part: &str| format!("{prefix}transformer.resblocks.{i}.{part}");
        let qkv = w.take(&at("attn.in_proj_weight"), &[3 * width, width]);
        let bias = w.take(&at("attn.in_proj_bias"), &[3 * width]);
        let weights = Packed::from_outputs(&qkv, 3 * width, width);
        Block {
            norm1: w.norm(&at("ln_1"), width, eps),
            qkv: Linear { weights, bias: Some(bias) },
            attention_norm: None,
            out: w.linear(&at("attn.out_proj"), width, width, true),
            norm2: w.norm(&at("ln_2"), width, eps),
            up: w.linear(&at("mlp.c_fc"), hidden, width, true),
            hidden_norm: None,
            down: w.linear(&at("mlp.c_proj"), width, hidden, true),
        }
    };
    let quick = model.flag("quick_gelu", false)?;
    let trunk = Trunk {
        width,
        heads: own.heads("heads", 8, width)?,
        hidden,
        norm: NormPlace::Before,
        activation: if quick { Activation::QuickGelu } else { Activation::Gelu },
        gated: false,
        causal: true,
        rotation: None,
        blocks: (0..depth).map(block).collect(),
    };
    let norm = Some(w.norm(&at("ln_final"), width, eps));
    // Inputs by outputs, unlike every other layer.
    let projection = w.take(&at("text_projection"), &[width, outputs]);
    let mut weights = Packed::default();
    weights.fill_from_inputs(&projection, outputs, width, outputs);
    let projection = Some(Linear { weights, bias: None });
    w.finish(|name| {
        name.starts_with("visual.") || name == "logit_scale" || name.ends_with("attn_mask")
    })?;
    let head = Head { pool: Pool::Last, norm, projection };
    Ok(TextModel { ids_max, tower: Tower { stem, trunk, head } })
}
