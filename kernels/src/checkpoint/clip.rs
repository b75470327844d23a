//! OpenAI's CLIP, by the names of Hugging Face Transformers. Both towers may be in one folder.

use super::{ImageModel, Parsed, Settings, TextModel, clip_block};
use crate::lanes::Activation;
use crate::prepare::Preparation;
use crate::safetensors::{Unfit, Weights};
use crate::transformer::{Head, ImageStem, NormPlace, Pool, TextStem, Tower, Trunk};

/// The numbers of one tower; `tower` is empty where `config` is the tower's own.
struct Spec {
    width: usize,
    hidden: usize,
    depth: usize,
    heads: usize,
    eps: f64,
    activation: Activation,
    projection: usize,
}

impl Spec {
    fn of(config: &Settings<'_>, tower: &str, width: usize, heads: usize) -> Result<Spec, Unfit> {
        let own = if config.has(tower) { config.inner(tower) } else { *config };
        let whole = config.width("projection_dim", 512)?;
        let width = own.width("hidden_size", width)?;
        Ok(Spec {
            width,
            hidden: own.width("intermediate_size", 4 * width)?,
            depth: own.depth("num_hidden_layers", 12)?,
            heads: own.heads("num_attention_heads", heads, width)?,
            eps: own.number("layer_norm_eps", 1e-5)?,
            activation: own.activation("hidden_act", "quick_gelu")?,
            // Of both towers where there are both.
            projection: match config.has(tower) {
                true => whole,
                false => own.width("projection_dim", 512)?,
            },
        })
    }

    fn trunk(&self, weights: &mut Weights<'_>, name: &str, causal: bool) -> Trunk {
        let block = |i| {
            let name = format!("{name}.encoder.layers.{i}");
            clip_block(weights, &name, self.width, self.hidden, self.eps)
        };
        Trunk {
            width: self.width,
            heads: self.heads,
            hidden: self.hidden,
            norm: NormPlace::Before,
            activation: self.activation,
            gated: false,
            causal,
            rotation: None,
            blocks: (0..self.depth).map(block).collect(),
        }
    }
}

pub(super) fn image(parsed: &Parsed, mut w: Weights<'_>) -> Result<ImageModel, Unfit> {
    let config = parsed.settings("config.json");
    let spec = Spec::of(&config, "vision_config", 768, 12)?;
    let own = if config.has("vision_config") { config.inner("vision_config") } else { config };
    let (side, patch) = (own.side("image_size", 224)?, own.side("patch_size", 32)?);
    let grid = [side / patch; 2];
    let preparation = Preparation::hub(parsed, &Preparation::clip(side))?;
    super::must_be(&preparation, side)?;
    let width = spec.width;

    let mut prefix = w.take("vision_model.embeddings.class_embedding", &[width]);
    let name = "vision_model.embeddings.position_embedding.weight";
    let positions = w.take(name, &[grid[0] * grid[1] + 1, width]);
    prefix.iter_mut().zip(&positions).for_each(|(x, p)| *x += p);
    let patches =
        w.take("vision_model.embeddings.patch_embedding.weight", &[width, 3, patch, patch]);
    let stem = ImageStem {
        size: [side; 2],
        patch,
        grid,
        embed: super::patches(&patches, width, patch, None),
        prefix,
        positions: positions[width..].to_vec(),
        norm: Some(w.norm("vision_model.pre_layrnorm", width, spec.eps)),
    };
    let trunk = spec.trunk(&mut w, "vision_model", false);
    let norm = Some(w.norm("vision_model.post_layernorm", width, spec.eps));
    let projection = Some(w.linear("visual_projection", spec.projection, width, false));
    w.finish(|name| {
        name.starts_with("text_") || name == "logit_scale" || name.ends_with("position_ids")
    })?;
    let head = Head { pool: Pool::First, norm, projection };
    Ok(ImageModel { preparation, tower: Tower { stem, trunk, head } })
}

pub(super) fn text(parsed: &Parsed, mut w: Weights<'_>) -> Result<TextModel, Unfit> {
    let config = parsed.settings("config.json");
    let spec = Spec::of(&config, "text_config", 512, 8)?;
    let own = if config.has("text_config") { config.inner("text_config") } else { config };
    let vocabulary = own.vocabulary("vocab_size", 49_408)?;
    let ids_max = own.size("max_position_embeddings", 77, super::SIDE_MAX)?;
    let at = |name: &str| format!("text_model.{name}");
    let embeddings = |name: &str| format!("text_model.embeddings.{name}.weight");
    let stem = TextStem {
        words: w.take(&embeddings("token_embedding"), &[vocabulary, spec.width]),
        positions: w.take(&embeddings("position_embedding"), &[ids_max, spec.width]),
        norm: None,
    };
    let trunk = spec.trunk(&mut w, "text_model", true);
    let norm = Some(w.norm(&at("final_layer_norm"), spec.width, spec.eps));
    let projection = Some(w.linear("text_projection", spec.projection, spec.width, false));
    w.finish(|name| {
        name.starts_with("vision_model.")
            || name.starts_with("visual_")
            || name == "logit_scale"
            || name.ends_with("position_ids")
    })?;
    let head = Head { pool: Pool::Last, norm, projection };
    Ok(TextModel { ids_max, tower: Tower { stem, trunk, head } })
}
