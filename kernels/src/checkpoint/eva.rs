//! EVA and EVA-02 as towers of CLIP, by timm's names.

use super::Settings;
use crate::gemm::Packed;
use crate::lanes::Activation;
use crate::safetensors::{Unfit, Weights};
use crate::transformer::positions::rotation;
use crate::transformer::{Block, Head, ImageStem, Linear, NormPlace, Pool, Tower, Trunk};

/// All that timm's name of a model says, and what its arguments change about it.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub side: [usize; 2],
    patch: usize,
    width: usize,
    depth: usize,
    heads: usize,
    hidden: usize,
    /// SwiGLU with a norm over the hidden layer and one over the heads' results, keys and queries
    /// turned by where they are, three layers for queries, keys and values: EVA-02 B and L.
    second: bool,
    norm_after: bool,
    /// The grid that places are counted in.
    reference: Option<[usize; 2]>,
}

/// As timm's layer norm has it.
const EPS: f64 = 1e-6;

impl Spec {
    /// `side` is what an OpenCLIP config says.
    pub fn of(name: &str, args: Settings<'_>, side: Option<usize>) -> Result<Spec, Unfit> {
        // Width, depth, heads, ratio of the hidden layer.
        let (numbers, second, after) = match name {
            _ if name.starts_with("eva02_base_") => ((768, 12, 12, 8.0 / 3.0), true, false),
            _ if name.starts_with("eva02_large_") => ((1024, 24, 16, 8.0 / 3.0), true, false),
            _ if name.starts_with("eva02_enormous_") => {
                ((1792, 64, 16, 15_360.0 / 1_792.0), false, true)
            }
            _ if name.starts_with("eva_giant_") => {
                ((1408, 40, 16, 6_144.0 / 1_408.0), false, false)
            }
            _ => return Err(Unfit(format!("timm's {name:?} is not known here: EVA-CLIP's are"))),
        };
        let patch = if name.contains("patch16") { 16 } else { 14 };
        let named = if name.contains("_336") { 336 } else { 224 };
        let width = args.width("embed_dim", numbers.0)?;
        let ratio = args.number("mlp_ratio", numbers.3)?;
        let hidden = (width as f64 * ratio) as usize;
        if !(1..=super::WIDTH_MAX * 8).contains(&hidden) {
            return Err(Unfit(format!("mlp_ratio: {hidden} components cannot be")));
        }
        let sizes = |key: &str| -> Result<Option<[usize; 2]>, Unfit> {
            let pair = args.value(key).and_then(|v| v.as_array()).map(Vec::as_slice);
            if let Some([down, across]) = pair {
                let size = |v: &serde_json::Value| {
                    v.as_u64().filter(|n| (1..=4_096).contains(n)).map(|n| n as usize)
                };
                let both = size(down).zip(size(across)).map(|(down, across)| [down, across]);
                return both.map(Some).ok_or_else(|| args.bad(key, "two sizes are needed"));
            }
            Ok(if args.has(key) { Some([args.side(key, 0)?; 2]) } else { None })
        };
        let reference = sizes("ref_feat_shape")?;
        Ok(Spec {
            side: sizes("img_size")?.unwrap_or([side.unwrap_or(named); 2]),
            patch: args.side("patch_size", patch)?,
            width,
            depth: args.depth("depth", numbers.1)?,
            heads: args.heads("num_heads", numbers.2, width)?,
            hidden,
            second: args.flag("swiglu_mlp", second)?,
            norm_after: args.flag("use_post_norm", after)?,
            reference: reference.or(second.then_some([16; 2])),
        })
    }

    /// The tower, its names after `prefix`; `outputs` of its last layer, or as many as it has.
    pub fn tower(
        &self,
        w: &mut Weights<'_>,
        prefix: &str,
        outputs: Option<usize>,
    ) -> Result<Tower<ImageStem>, Unfit> {
        let (width, patch) = (self.width, self.patch);
        let grid = self.side.map(|side| side / patch);
        let at = |name: &str| format!("{prefix}{name}");
        let mut class = w.take(&at("cls_token"), &[1, 1, width]);
        let positions = w.take(&at("pos_embed"), &[1, grid[0] * grid[1] + 1, width]);
        class.iter_mut().zip(&positions).for_each(|(x, p)| *x += p);
        let patches = w.take(&at("patch_embed.proj.weight"), &[width, 3, patch, patch]);
        let bias = w.take(&at("patch_embed.proj.bias"), &[width]);
        let stem = ImageStem {
            size: self.side,
            patch,
            grid,
            embed: super::patches(&patches, width, patch, Some(bias)),
            prefix: class,
            positions: positions[width..].to_vec(),
            norm: None,
        };
        let dim = width / self.heads;
        if self.second && !dim.is_multiple_of(4) {
            return Err(Unfit(format!("a head of {dim} components cannot be turned: fours can")));
        }
        let trunk = Trunk {
            width,
            heads: self.heads,
            hidden: self.hidden,
            norm: if self.norm_after { NormPlace::AfterBranch } else { NormPlace::Before },
            activation: if self.second { Activation::Silu } else { Activation::Gelu },
            gated: self.second,
            causal: false,
            rotation: self.second.then(|| rotation(grid, self.reference.unwrap_or(grid), dim)),
            blocks: (0..self.depth).map(|i| self.block(w, &at(&format!("blocks.{i}")))).collect(),
        };
        let has = w.shape(&at("head.weight")).and_then(|shape| shape.first().copied());
        let outputs = outputs.or(has).unwrap_or(1);
        let head = Head {
            pool: Pool::First,
            norm: Some(w.norm(&at("norm"), width, EPS)),
            projection: Some(w.linear(&at("head"), outputs, width, true)),
        };
        Ok(Tower { stem, trunk, head })
    }

    fn block(&self, w: &mut Weights<'_>, name: &str) -> Block {
        let (width, hidden) = (self.width, self.hidden);
        let at = |part: &str| format!("{name}.{part}");
        let (qkv, up) = match self.second {
            true => {
                let [q, k, v] = ["q", "k", "v"].map(|part| at(&format!("attn.{part}_proj")));
                let qkv = w.joined(&[(&q, true), (&k, false), (&v, true)], width, width);
                let [gate, value] = [at("mlp.fc1_g"), at("mlp.fc1_x")];
                (qkv, w.joined(&[(&gate, true), (&value, true)], hidden, width))
            }
            false => {
                let weights = w.take(&at("attn.qkv.weight"), &[3 * width, width]);
                let q = w.take(&at("attn.q_bias"), &[width]);
                let v = w.take(&at("attn.v_bias"), &[width]);
                let weights = Packed::from_outputs(&weights, 3 * width, width);
                let bias = Some([q, vec![0.0; width], v].concat());
                (Linear { weights, bias }, w.linear(&at("mlp.fc1"), hidden, width, true))
            }
        };
        Block {
            norm1: w.norm(&at("norm1"), width, EPS),
            qkv,
            attention_norm: self.second.then(|| w.norm(&at("attn.norm"), width, EPS)),
            out: w.linear(&at("attn.proj"), width, width, true),
            norm2: w.norm(&at("norm2"), width, EPS),
            up,
            hidden_norm: self.second.then(|| w.norm(&at("mlp.norm"), hidden, EPS)),
            down: w.linear(&at("mlp.fc2"), width, hidden, true),
        }
    }
}
