//! Checkpoints as the hub lays them out: a folder of settings in JSON, weights and a tokenizer, to a
//! [`Tower`] and what must happen before it.
//!
//! | family | `config.json` says | here |
//! |---|---|---|
//! | CLIP | `clip`, `clip_vision_model`, `clip_text_model` | `clip` |
//! | EVA-CLIP | `open_clip_config.json`, or timm's `"architecture": "eva…"` | `eva`, `open_clip` |
//! | DINOv2, with registers or without | `dinov2`, `dinov2_with_registers` | `dinov2` |
//! | SigLIP, SigLIP 2 of one resolution | `siglip`, `siglip_vision_model` | `siglip` |
//! | BERT (MiniLM, BGE, E5, …) | `bert` | `bert` |
//!
//! Every key and shape is said; what is missing, left over or of another shape is an error that names
//! it. Numbers that a config leaves out are the family's own defaults, as its library has them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::gemm::Packed;
use crate::lanes::Activation;
use crate::prepare::Preparation;
use crate::safetensors::{Unfit, Weights};
use crate::transformer::{Block, ImageStem, Linear, Norm, TextStem, Tower};

mod bert;
mod clip;
mod dinov2;
mod eva;
mod open_clip;
mod siglip;

/// Files of a folder whose text is read, where they are there.
pub const TEXTS: [&str; 7] = [
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];

/// Files of a folder that may hold its weights, the first that there is; a checkpoint in parts has
/// [`INDEX`] in its place.
pub const WEIGHTS: [&str; 2] = ["open_clip_model.safetensors", "model.safetensors"];

/// Names the parts of a checkpoint in several files: `{"weight_map": {tensor: file}}`.
pub const INDEX: &str = "model.safetensors.index.json";

/// What a folder holds.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// Of [`TEXTS`], by name.
    pub texts: BTreeMap<String, String>,
    /// The files of weights.
    pub weights: Vec<Vec<u8>>,
}

/// A picture's encoder: what is done to a picture, and then to its numbers.
#[derive(Clone)]
pub struct ImageModel {
    /// Size, crop, scale.
    pub preparation: Preparation,
    /// The network.
    pub tower: Tower<ImageStem>,
}

/// A text's encoder, without its tokenizer.
#[derive(Clone)]
pub struct TextModel {
    /// The most ids of a text, marks at both ends included.
    pub ids_max: usize,
    /// The network.
    pub tower: Tower<TextStem>,
}

/// Bounds of what a config may say, so that no product of them overflows or eats the machine.
const WIDTH_MAX: usize = 1 << 14;
const DEPTH_MAX: usize = 256;
const VOCABULARY_MAX: usize = 1 << 21;
const SIDE_MAX: usize = 4_096;

/// An object of settings.
#[derive(Clone, Copy)]
pub(crate) struct Settings<'a> {
    file: &'a str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Settings<'a> {
    pub fn has(&self, key: &str) -> bool {
        self.map.is_some_and(|map| map.get(key).is_some_and(|value| !value.is_null()))
    }

    /// An object within; empty where there is none.
    pub fn inner(&self, key: &str) -> Settings<'a> {
        Settings { map: self.value(key).and_then(Value::as_object), ..*self }
    }

    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.and_then(|map| map.get(key)).filter(|value| !value.is_null())
    }

    fn bad(&self, key: &str, what: &str) -> Unfit {
        Unfit(format!("{}: {key}: {what}", self.file))
    }

    /// A whole number from 1 to `most`.
    pub fn size(&self, key: &str, default: usize, most: usize) -> Result<usize, Unfit> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        let number = number.filter(|n| (1..=most).contains(n));
        number.ok_or_else(|| self.bad(key, &format!("{value} is not from 1 to {most}")))
    }

    pub fn number(&self, key: &str, default: f64) -> Result<f64, Unfit> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.bad(key, &format!("{value} is no number")))
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, Unfit> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.bad(key, &format!("{value} is not true or false")))
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.value(key).and_then(Value::as_str)
    }

    pub fn width(&self, key: &str, default: usize) -> Result<usize, Unfit> {
        self.size(key, default, WIDTH_MAX)
    }

    pub fn depth(&self, key: &str, default: usize) -> Result<usize, Unfit> {
        self.size(key, default, DEPTH_MAX)
    }

    pub fn vocabulary(&self, key: &str, default: usize) -> Result<usize, Unfit> {
        self.size(key, default, VOCABULARY_MAX)
    }

    pub fn side(&self, key: &str, default: usize) -> Result<usize, Unfit> {
        self.size(key, default, SIDE_MAX)
    }

    /// The hidden layer's function, by the names that the libraries use.
    pub fn activation(&self, key: &str, default: &'a str) -> Result<Activation, Unfit> {
        match self.text(key).unwrap_or(default) {
            "gelu" => Ok(Activation::Gelu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            "silu" => Ok(Activation::Silu),
            other => Err(self.bad(key, &format!("the function {other:?} is not known here"))),
        }
    }

    /// Heads that divide the width.
    pub fn heads(&self, key: &str, default: usize, width: usize) -> Result<usize, Unfit> {
        let heads = self.size(key, default, width)?;
        if !width.is_multiple_of(heads) {
            return Err(self.bad(key, &format!("{heads} heads do not divide a width of {width}")));
        }
        Ok(heads)
    }
}

/// The folder's files of settings, parsed.
pub(crate) struct Parsed(BTreeMap<String, Value>);

impl Parsed {
    pub fn of(folder: &Folder) -> Result<Parsed, Unfit> {
        let read = |(name, text): (&String, &String)| {
            let value = serde_json::from_str(text);
            Ok((name.clone(), value.map_err(|error| Unfit(format!("{name}: {error}")))?))
        };
        folder.texts.iter().map(read).collect::<Result<_, _>>().map(Parsed)
    }

    /// An empty object where there is no such file.
    pub fn settings<'a>(&'a self, file: &'a str) -> Settings<'a> {
        Settings { file, map: self.0.get(file).and_then(Value::as_object) }
    }

    pub fn value(&self, file: &str) -> Option<&Value> {
        self.0.get(file)
    }
}

fn weights(folder: &Folder) -> Result<Weights<'_>, Unfit> {
    if folder.weights.is_empty() {
        let names = WEIGHTS.join(" or ");
        return Err(Unfit(format!("there are no weights: the folder needs {names}")));
    }
    Weights::read(&folder.weights.iter().map(|file| &**file).collect::<Vec<_>>())
}

/// The family that the folder's settings name.
fn family(parsed: &Parsed) -> Result<&str, Unfit> {
    let config = parsed.settings("config.json");
    if let Some(kind) = config.text("model_type") {
        return Ok(kind);
    }
    if parsed.value("open_clip_config.json").is_some() {
        return Ok("open_clip");
    }
    if config.text("architecture").is_some() {
        return Ok("timm");
    }
    let why = "there is neither config.json with model_type or architecture nor \
               open_clip_config.json";
    Err(Unfit(why.into()))
}

fn no_family(kind: &str, of: &str, known: &str) -> Unfit {
    Unfit(format!(
        "config.json: model_type {kind:?} is no encoder of {of} that is known here: {known}"
    ))
}

/// The encoder of pictures that a folder holds.
///
/// # Errors
/// What is missing, left over or not as it must be, by name.
pub fn image_model(folder: &Folder) -> Result<ImageModel, Unfit> {
    let parsed = Parsed::of(folder)?;
    let mut weights = weights(folder)?;
    match family(&parsed)? {
        "clip" | "clip_vision_model" => clip::image(&parsed, weights),
        "dinov2" => dinov2::image(&parsed, weights, false),
        "dinov2_with_registers" => dinov2::image(&parsed, weights, true),
        "siglip" | "siglip_vision_model" => siglip::image(&parsed, weights),
        "open_clip" => open_clip::image(&parsed, weights),
        "timm" => {
            let config = parsed.settings("config.json");
            let name = config.text("architecture").unwrap_or_default();
            let spec = eva::Spec::of(name, config.inner("model_args"), None)?;
            let tower = spec.tower(&mut weights, "", None)?;
            weights.finish(|name| name.contains("rope"))?;
            let preparation = open_clip::preparation_timm(&config, &spec)?;
            Ok(ImageModel { preparation, tower })
        }
        other => Err(no_family(
            other,
            "pictures",
            "clip, dinov2, dinov2_with_registers, siglip, EVA-CLIP of open_clip or timm",
        )),
    }
}

/// The encoder of texts that a folder holds.
///
/// # Errors
/// What is missing, left over or not as it must be, by name.
pub fn text_model(folder: &Folder) -> Result<TextModel, Unfit> {
    let parsed = Parsed::of(folder)?;
    let weights = weights(folder)?;
    match family(&parsed)? {
        "clip" | "clip_text_model" => clip::text(&parsed, weights),
        "bert" => bert::text(&parsed, weights),
        "open_clip" => open_clip::text(&parsed, weights),
        other => Err(no_family(other, "texts", "clip, bert, open_clip")),
    }
}

impl Weights<'_> {
    /// `NAME.weight`, and `NAME.bias` if it has one.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        bias: bool,
    ) -> Linear {
        let weights = self.take(&format!("{name}.weight"), &[outputs, inputs]);
        let bias = bias.then(|| self.take(&format!("{name}.bias"), &[outputs]));
        Linear { weights: Packed::from_outputs(&weights, outputs, inputs), bias }
    }

    /// A layer whose results are then scaled, output by output: scaled once, here.
    pub(crate) fn linear_scaled(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
        scale: &[f32],
    ) -> Linear {
        let mut weights = self.take(&format!("{name}.weight"), &[outputs, inputs]);
        let mut bias = self.take(&format!("{name}.bias"), &[outputs]);
        for ((row, bias), scale) in weights.chunks_exact_mut(inputs).zip(&mut bias).zip(scale) {
            row.iter_mut().chain([bias]).for_each(|x| *x *= scale);
        }
        Linear { weights: Packed::from_outputs(&weights, outputs, inputs), bias: Some(bias) }
    }

    /// Layers that read the same, as one: their outputs one after the other. Those without a bias get
    /// one of zeros.
    pub(crate) fn joined(
        &mut self,
        layers: &[(&str, bool)],
        outputs: usize,
        inputs: usize,
    ) -> Linear {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (name, bias) in layers {
            weights.extend(self.take(&format!("{name}.weight"), &[outputs, inputs]));
            biases.extend(match bias {
                true => self.take(&format!("{name}.bias"), &[outputs]),
                false => vec![0.0; outputs],
            });
        }
        let outputs = outputs * layers.len();
        Linear { weights: Packed::from_outputs(&weights, outputs, inputs), bias: Some(biases) }
    }

    /// `NAME.weight` and `NAME.bias` of a layer norm.
    pub(crate) fn norm(&mut self, name: &str, width: usize, eps: f64) -> Norm {
        let gain = self.take(&format!("{name}.weight"), &[width]);
        let shift = self.take(&format!("{name}.bias"), &[width]);
        Norm { gain, shift, eps: eps as f32 }
    }
}

/// The layer that takes patches, of a convolution's weights.
fn patches(weights: &[f32], width: usize, patch: usize, bias: Option<Vec<f32>>) -> Linear {
    Linear { weights: Packed::from_outputs(weights, width, 3 * patch * patch), bias }
}

/// Refuses a preparation that does not give what the tower was made for.
fn must_be(preparation: &Preparation, side: usize) -> Result<(), Unfit> {
    if preparation.crop == [side as u32; 2] {
        return Ok(());
    }
    let crop = preparation.crop;
    Err(Unfit(format!("preprocessor_config.json gives {crop:?}, image_size is {side}")))
}

/// What CLIP's and SigLIP's blocks have in common, both towers: the names within a block.
fn clip_block(w: &mut Weights<'_>, name: &str, width: usize, hidden: usize, eps: f64) -> Block {
    let at = |part: &str| format!("{name}.{part}");
    let qkv = [at("self_attn.q_proj"), at("self_attn.k_proj"), at("self_attn.v_proj")];
    let qkv: Vec<(&str, bool)> = qkv.iter().map(|name| (&**name, true)).collect();
    Block {
        norm1: w.norm(&at("layer_norm1"), width, eps),
        qkv: w.joined(&qkv, width, width),
        attention_norm: None,
        out: w.linear(&at("self_attn.out_proj"), width, width, true),
        norm2: w.norm(&at("layer_norm2"), width, eps),
        up: w.linear(&at("mlp.fc1"), hidden, width, true),
        hidden_norm: None,
        down: w.linear(&at("mlp.fc2"), width, hidden, true),
    }
}
