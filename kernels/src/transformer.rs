//! One transformer for many checkpoints: towers that turn pictures or texts into vectors.
//!
//! A [`Tower`] is plain data: a stem that makes tokens, blocks that are all alike, and a head that
//! makes one vector of the tokens. Families of checkpoints ([`crate::checkpoint`]) differ in what they
//! fill in, not in what runs. All arithmetic is `f32`; every result depends on its own picture or text
//! alone, to the bit, whatever else is in the batch, and is the same on every processor.
//!
//! Sources of the forward passes: the modelling files of Hugging Face Transformers (CLIP, DINOv2 with
//! and without registers, SigLIP, BERT), of timm (EVA) and of OpenCLIP (its text tower).

use crate::gemm::{Epilogue, Left, Packed, multiply};
use crate::lanes::{Activation, Path, add, gate, layer_norm};

mod attention;
pub(crate) mod positions;

use attention::{Heads, Rows, attend};

/// A linear layer: `outputs` numbers of `inputs`.
#[derive(Clone)]
pub struct Linear {
    /// The weights.
    pub weights: Packed,
    /// Added to each result, one number per output.
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// `out[rows][outputs]` of `x[rows][inputs]`.
    fn run(&self, work: &mut Work, x: &[f32], activation: Activation, add: bool, out: &mut [f32]) {
        let epilogue = Epilogue { bias: self.bias.as_deref(), activation, add };
        let rows = out.len() / self.weights.outputs();
        multiply(work.path, x, rows, &self.weights, epilogue, out, &mut work.left);
    }
}

/// Layer normalisation over the components of a token.
#[derive(Clone)]
pub struct Norm {
    /// What a normalised component is multiplied with.
    pub gain: Vec<f32>,
    /// What is added then.
    pub shift: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm {
    fn run(&self, path: Path, x: &[f32], out: &mut [f32]) {
        layer_norm(path, x, &self.gain, &self.shift, self.eps, out);
    }
}

/// Where a block normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// `x += f(norm(x))`.
    Before,
    /// `x = norm(x + f(x))`: BERT.
    AfterSum,
    /// `x += norm(f(x))`: EVA's enormous ones.
    AfterBranch,
}

/// One block: attention, then a network over each token. Layer scale, where there is any, is part of
/// `out` and `down`.
#[derive(Clone)]
pub struct Block {
    /// Of the attention.
    pub norm1: Norm,
    /// Queries, keys and values: `3·width` outputs.
    pub qkv: Linear,
    /// Over all heads' results, before `out` (EVA-02).
    pub attention_norm: Option<Norm>,
    /// Of the heads' results.
    pub out: Linear,
    /// Of the network.
    pub norm2: Norm,
    /// Into the hidden layer; with a gate `2·hidden` outputs, the gates first.
    pub up: Linear,
    /// Over the hidden layer, before `down` (EVA-02).
    pub hidden_norm: Option<Norm>,
    /// Back to the width.
    pub down: Linear,
}

/// Blocks and what they have in common.
#[derive(Clone)]
pub struct Trunk {
    /// Components of a token.
    pub width: usize,
    /// Heads of attention; they divide the width.
    pub heads: usize,
    /// Components of the hidden layer.
    pub hidden: usize,
    /// Where blocks normalise.
    pub norm: NormPlace,
    /// Of the hidden layer.
    pub activation: Activation,
    /// Whether the hidden layer is `activation(gates)·values`.
    pub gated: bool,
    /// Whether a token attends only to itself and those before it.
    pub causal: bool,
    /// Rotates queries and keys of all tokens but the first, by where they are.
    pub rotation: Option<Rotation>,
    /// In order.
    pub blocks: Vec<Block>,
}

/// Angles of a rotary position embedding, the same for every head. Components 2i and 2i + 1 are turned
/// together.
#[derive(Clone)]
pub struct Rotation {
    /// `cosines[token][component]` of the patches, in order.
    pub cosines: Vec<f32>,
    /// As `cosines`.
    pub sines: Vec<f32>,
}

/// Pictures to tokens.
#[derive(Clone)]
pub struct ImageStem {
    /// Height and width of a picture; what whole patches leave over at the end is not seen.
    pub size: [usize; 2],
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Patches down and across.
    pub grid: [usize; 2],
    /// `3·patch²` inputs: by channel, then row, then column.
    pub embed: Linear,
    /// Tokens before the patches, `[count][width]`: the class token with its position, registers.
    pub prefix: Vec<f32>,
    /// Added to the patches, `[grid][width]`.
    pub positions: Vec<f32>,
    /// Of all tokens, before the blocks (CLIP).
    pub norm: Option<Norm>,
}

/// Ids of a text to tokens.
#[derive(Clone)]
pub struct TextStem {
    /// `[vocabulary][width]`.
    pub words: Vec<f32>,
    /// `[context][width]`, with what else is added to every token.
    pub positions: Vec<f32>,
    /// Of all tokens, before the blocks (BERT).
    pub norm: Option<Norm>,
}

/// Which token, or what of all of them, becomes the vector.
#[derive(Clone)]
pub enum Pool {
    /// The first one.
    First,
    /// The last one. Of a CLIP text that is the end mark: nothing comes after it.
    Last,
    /// The mean of all.
    Mean,
    /// One query's attention over all, and a network (SigLIP).
    Attention(Box<AttentionPool>),
}

/// SigLIP's head: `h = out(attention(probe, x))`, then `h + mlp(norm(h))`.
#[derive(Clone)]
pub struct AttentionPool {
    /// The probe's query, `[width]`: the same for every picture.
    pub query: Vec<f32>,
    /// Keys and values: `2·width` outputs.
    pub kv: Linear,
    /// Of the heads' results.
    pub out: Linear,
    /// Of the network.
    pub norm: Norm,
    /// Into the hidden layer.
    pub up: Linear,
    /// Back to the width.
    pub down: Linear,
}

/// Tokens to one vector.
#[derive(Clone)]
pub struct Head {
    /// Which token.
    pub pool: Pool,
    /// Before pooling by attention, else of what was pooled.
    pub norm: Option<Norm>,
    /// Then this.
    pub projection: Option<Linear>,
}

/// A whole encoder; `S` is its stem.
#[derive(Clone)]
pub struct Tower<S> {
    /// To tokens.
    pub stem: S,
    /// Of tokens.
    pub trunk: Trunk,
    /// To a vector.
    pub head: Head,
}

/// Rows of tokens that go through the blocks together: enough that weights are read once for many,
/// few enough that their activations stay near the processor.
const ROWS_TOGETHER: usize = 512;

/// Buffers of a forward pass, which grow to what is needed and stay.
pub struct Work {
    path: Path,
    left: Left,
    heads: Heads,
    buffers: [Vec<f32>; 4],
}

impl Work {
    /// For one thread, on that path.
    pub fn new(path: Path) -> Work {
        Work { path, left: Left::default(), heads: Heads::default(), buffers: Default::default() }
    }
}

/// A buffer's first `len` numbers; what they are is left over from before.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl<S> Tower<S> {
    /// Components of a vector.
    pub fn dim(&self) -> usize {
        self.head.projection.as_ref().map_or(self.trunk.width, |p| p.weights.outputs())
    }
}

impl Tower<ImageStem> {
    /// Tokens of a picture.
    pub fn tokens(&self) -> usize {
        self.stem.prefix.len() / self.trunk.width + self.stem.grid[0] * self.stem.grid[1]
    }

    /// Numbers of a prepared picture: 3 channels × rows × columns.
    pub fn input_len(&self) -> usize {
        3 * self.stem.size[0] * self.stem.size[1]
    }

    /// One vector per picture, each `[3][rows][columns]`, prepared as the encoder wants it: row after
    /// row of [`Tower::dim`] numbers, not normalised.
    pub fn encode(&self, work: &mut Work, pictures: &[Vec<f32>]) -> Vec<f32> {
        let mut vectors = Vec::with_capacity(pictures.len() * self.dim());
        let tokens = self.tokens();
        for some in pictures.chunks((ROWS_TOGETHER / tokens).max(1)) {
            let mut x = vec![0.0; some.len() * tokens * self.trunk.width];
            for (picture, x) in some.iter().zip(x.chunks_exact_mut(tokens * self.trunk.width)) {
                self.stem.run(work, picture, x);
            }
            if let Some(norm) = &self.stem.norm {
                norm.run(work.path, &x.clone(), &mut x);
            }
            let lengths = vec![tokens; some.len()];
            self.trunk.run(work, &mut x, &lengths);
            self.head.run(work, &self.trunk, &x, &lengths, &mut vectors);
        }
        vectors
    }
}

impl ImageStem {
    /// The tokens of one picture.
    fn run(&self, work: &mut Work, picture: &[f32], x: &mut [f32]) {
        let (patch, [down, across], [height, width]) = (self.patch, self.grid, self.size);
        assert_eq!(picture.len(), 3 * height * width, "a picture has the size of the encoder");
        let mut patches = std::mem::take(&mut work.buffers[0]);
        let rows = sized(&mut patches, 3 * patch * patch * down * across);
        for (token, row) in rows.chunks_exact_mut(3 * patch * patch).enumerate() {
            let corner = token / across * patch * width + token % across * patch;
            for (line, to) in row.chunks_exact_mut(patch).enumerate() {
                let from = line / patch * height * width + line % patch * width + corner;
                to.copy_from_slice(&picture[from..][..patch]);
            }
        }
        let (prefix, tokens) = x.split_at_mut(self.prefix.len());
        prefix.copy_from_slice(&self.prefix);
        self.embed.run(work, rows, Activation::None, false, tokens);
        add(work.path, tokens, &self.positions);
        work.buffers[0] = patches;
    }
}

impl Tower<TextStem> {
    /// One vector per text, of its ids: row after row of [`Tower::dim`] numbers, not normalised.
    /// Ids are below the vocabulary's size; a text has at least one and at most as many as there are
    /// positions, which tokenizers see to.
    pub fn encode(&self, work: &mut Work, texts: &[Vec<u32>]) -> Vec<f32> {
        let width = self.trunk.width;
        let mut vectors = Vec::with_capacity(texts.len() * self.dim());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut rows = 0;
            let fits = |text: &&Vec<u32>| {
                rows += text.len();
                rows <= ROWS_TOGETHER
            };
            let (some, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = after;
            let lengths: Vec<usize> = some.iter().map(Vec::len).collect();
            let mut x = Vec::with_capacity(lengths.iter().sum::<usize>() * width);
            for text in some {
                for (id, position) in text.iter().zip(self.stem.positions.chunks_exact(width)) {
                    let word = &self.stem.words[*id as usize * width..][..width];
                    x.extend(word.iter().zip(position).map(|(word, position)| word + position));
                }
            }
            if let Some(norm) = &self.stem.norm {
                norm.run(work.path, &x.clone(), &mut x);
            }
            self.trunk.run(work, &mut x, &lengths);
            self.head.run(work, &self.trunk, &x, &lengths, &mut vectors);
        }
        vectors
    }
}

impl Trunk {
    /// Takes the tokens of several sequences, one after the other, through all blocks.
    fn run(&self, work: &mut Work, x: &mut [f32], lengths: &[usize]) {
        let [mut a, mut b, mut c, mut d] = std::mem::take(&mut work.buffers);
        let rows = x.len() / self.width;
        let hidden = rows * self.hidden;
        for block in &self.blocks {
            let h = sized(&mut a, x.len());
            let qkv = sized(&mut b, 3 * x.len());
            let o = sized(&mut c, x.len());
            if self.norm == NormPlace::Before {
                block.norm1.run(work.path, x, h);
                block.qkv.run(work, h, Activation::None, false, qkv);
            } else {
                block.qkv.run(work, x, Activation::None, false, qkv);
            }
            self.attention(work, qkv, lengths, o);
            let attended = match &block.attention_norm {
                None => &*o,
                Some(norm) => {
                    norm.run(work.path, o, h);
                    &*h
                }
            };
            self.close(work, x, &block.out, attended, &block.norm1, &mut d);

            let both = sized(&mut b, if self.gated { 2 * hidden } else { hidden });
            let activation = if self.gated { Activation::None } else { self.activation };
            if self.norm == NormPlace::Before {
                let h = sized(&mut a, x.len());
                block.norm2.run(work.path, x, h);
                block.up.run(work, h, activation, false, both);
            } else {
                block.up.run(work, x, activation, false, both);
            }
            let mut u = &*both;
            if self.gated {
                let gated = sized(&mut c, hidden);
                gate(work.path, both, self.hidden, self.activation, gated);
                u = gated;
            }
            if let Some(norm) = &block.hidden_norm {
                let normed = sized(&mut a, hidden);
                norm.run(work.path, u, normed);
                u = normed;
            }
            self.close(work, x, &block.down, u, &block.norm2, &mut d);
        }
        work.buffers = [a, b, c, d];
    }

    /// Adds a branch to the tokens: `last` is its last layer, `y` what goes in there.
    fn close(
        &self,
        work: &mut Work,
        x: &mut [f32],
        last: &Linear,
        y: &[f32],
        norm: &Norm,
        buffer: &mut Vec<f32>,
    ) {
        match self.norm {
            NormPlace::Before => last.run(work, y, Activation::None, true, x),
            NormPlace::AfterSum => {
                last.run(work, y, Activation::None, true, x);
                let sum = sized(buffer, x.len());
                sum.copy_from_slice(x);
                norm.run(work.path, sum, x);
            }
            NormPlace::AfterBranch => {
                let branch = sized(buffer, 2 * x.len());
                let (branch, normed) = branch.split_at_mut(x.len());
                last.run(work, y, Activation::None, false, branch);
                norm.run(work.path, branch, normed);
                add(work.path, x, normed);
            }
        }
    }

    fn attention(&self, work: &mut Work, qkv: &mut [f32], lengths: &[usize], o: &mut [f32]) {
        let width = self.width;
        let mut first = 0;
        for &length in lengths {
            let qkv = &mut qkv[first * 3 * width..][..length * 3 * width];
            if let Some(rotation) = &self.rotation {
                rotation.turn(qkv, width, self.heads);
            }
            let part = |at: usize| Rows { numbers: &qkv[at * width..], stride: 3 * width, length };
            let o = &mut o[first * width..][..length * width];
            let [q, k, v] = [part(0), part(1), part(2)];
            attend(work.path, q, k, v, self.heads, width, self.causal, &mut work.heads, o);
            first += length;
        }
    }
}

impl Rotation {
    /// Turns queries and keys of one sequence; those before the patches stay.
    fn turn(&self, qkv: &mut [f32], width: usize, heads: usize) {
        let dim = width / heads;
        let prefix = qkv.len() / (3 * width) - self.cosines.len() / dim;
        let angles = self.cosines.chunks_exact(dim).zip(self.sines.chunks_exact(dim));
        for (row, (cosines, sines)) in qkv.chunks_exact_mut(3 * width).skip(prefix).zip(angles) {
            for head in row[..2 * width].chunks_exact_mut(dim) {
                let angles = cosines.as_chunks::<2>().0.iter().zip(sines.as_chunks::<2>().0);
                for ([x, y], (c, s)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    (*x, *y) = (*x * c[0] - *y * s[0], *y * c[1] + *x * s[1]);
                }
            }
        }
    }
}

impl Head {
    /// Appends one vector per sequence to `vectors`.
    fn run(
        &self,
        work: &mut Work,
        trunk: &Trunk,
        x: &[f32],
        lengths: &[usize],
        vectors: &mut Vec<f32>,
    ) {
        let width = trunk.width;
        let mut first = 0;
        for &length in lengths {
            let x = &x[first * width..][..length * width];
            first += length;
            let mut pooled = match &self.pool {
                Pool::First => x[..width].to_vec(),
                Pool::Last => x[x.len() - width..].to_vec(),
                Pool::Mean => {
                    let mut sum = vec![0.0; width];
                    x.chunks_exact(width).for_each(|row| add(work.path, &mut sum, row));
                    sum.iter_mut().for_each(|sum| *sum /= length as f32);
                    sum
                }
                Pool::Attention(pool) => {
                    let mut normed = x.to_vec();
                    if let Some(norm) = &self.norm {
                        norm.run(work.path, x, &mut normed);
                    }
                    pool.run(work, trunk, &normed)
                }
            };
            if let (Some(norm), false) = (&self.norm, matches!(self.pool, Pool::Attention(_))) {
                norm.run(work.path, &pooled.clone(), &mut pooled);
            }
            let Some(projection) = &self.projection else {
                vectors.extend(pooled);
                continue;
            };
            let begin = vectors.len();
            vectors.resize(begin + projection.weights.outputs(), 0.0);
            projection.run(work, &pooled, Activation::None, false, &mut vectors[begin..]);
        }
    }
}

impl AttentionPool {
    fn run(&self, work: &mut Work, trunk: &Trunk, x: &[f32]) -> Vec<f32> {
        let width = trunk.width;
        let mut kv = vec![0.0; 2 * x.len()];
        self.kv.run(work, x, Activation::None, false, &mut kv);
        let length = x.len() / width;
        let q = Rows { numbers: &self.query, stride: width, length: 1 };
        let part = |at: usize| Rows { numbers: &kv[at * width..], stride: 2 * width, length };
        let mut o = vec![0.0; width];
        let (k, v) = (part(0), part(1));
        attend(work.path, q, k, v, trunk.heads, width, false, &mut work.heads, &mut o);
        let mut h = vec![0.0; width];
        self.out.run(work, &o, Activation::None, false, &mut h);
        self.norm.run(work.path, &h, &mut o);
        let mut u = vec![0.0; self.up.weights.outputs()];
        self.up.run(work, &o, trunk.activation, false, &mut u);
        self.down.run(work, &u, Activation::None, true, &mut h);
        h
    }
}
