//! Products of rows of `f32` with the weights of a linear layer.
//!
//! Every component of the result is one chain of fused multiply-adds over the inputs, in their order,
//! from zero. Blocking changes which components are computed together and nothing else: a row's
//! result depends on that row and the weights alone, and is the same to the bit in any batch and on
//! every path.
//!
//! The second operand is packed once into panels of [`COLUMNS`] outputs; rows are packed [`ROWS`] at a
//! time. A tile of 12 × 32 sums stays in registers (24 of AVX-512's 32) over the whole depth, so it
//! is written once, through bias, activation and what it is added to. A panel of weights stays in
//! the second cache while all rows pass by.
#![allow(unsafe_code)]

use crate::lanes::{Activation, per_path};

#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Rows of a tile.
pub(crate) const ROWS: usize = 12;
/// Columns of a tile.
pub(crate) const COLUMNS: usize = 32;

/// The sums of a tile.
pub(crate) type Tile = [[f32; COLUMNS]; ROWS];

/// What multiplies tiles.
pub(crate) trait Machine {
    /// `tile[i][j] = Σ a[12·l + i]·b[32·l + j]` over `l` in order, by fused multiply-adds from zero.
    ///
    /// # Safety
    /// The processor has the machine's features; `a` points to `12·depth` numbers, `b` to
    /// `32·depth`, aligned to 64 bytes.
    unsafe fn tile(depth: usize, a: *const f32, b: *const f32, tile: &mut Tile);
}

/// Any processor. Where `mul_add` is a call of a library this is slow, and right.
pub(crate) struct Portable;

impl Machine for Portable {
    unsafe fn tile(depth: usize, a: *const f32, b: *const f32, tile: &mut Tile) {
        // SAFETY: so many are there, by the contract.
        let (a, b) = unsafe {
            (
                std::slice::from_raw_parts(a, ROWS * depth),
                std::slice::from_raw_parts(b, COLUMNS * depth),
            )
        };
        *tile = [[0.0; COLUMNS]; ROWS];
        for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
            for (sums, &a) in tile.iter_mut().zip(a) {
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum = a.mul_add(b, *sum);
                }
            }
        }
    }
}

/// 64 bytes at an address that is a multiple of 64: a load of the widest register never crosses a
/// cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// The second operand: `inputs` × `outputs` numbers in panels of [`COLUMNS`] outputs, the last one
/// filled up with zeros.
#[derive(Clone, Default)]
pub struct Packed {
    inputs: usize,
    outputs: usize,
    lines: Vec<Line>,
}

impl Packed {
    /// Of the weights of a linear layer as checkpoints hold them, output by output:
    /// `weights[outputs][inputs]`.
    pub fn from_outputs(weights: &[f32], outputs: usize, inputs: usize) -> Packed {
        assert_eq!(weights.len(), outputs * inputs, "a matrix has rows times columns");
        let mut packed = Packed::default();
        packed.fill_from_outputs(weights, inputs, outputs, inputs);
        packed
    }

    /// Takes `outputs` rows of `inputs` numbers, `stride` apart, each the weights of one output.
    #[inline(always)]
    pub(crate) fn fill_from_outputs(
        &mut self,
        weights: &[f32],
        stride: usize,
        outputs: usize,
        inputs: usize,
    ) {
        self.resize(inputs, outputs);
        let panels = self.numbers_mut().chunks_exact_mut((COLUMNS * inputs).max(1));
        for (panel, first) in panels.zip((0..outputs).step_by(COLUMNS)) {
            let live = (outputs - first).min(COLUMNS);
            if live < COLUMNS {
                panel.fill(0.0);
            }
            for column in 0..live {
                let row = &weights[(first + column) * stride..][..inputs];
                let to = panel[column..].iter_mut().step_by(COLUMNS);
                to.zip(row).for_each(|(to, &weight)| *to = weight);
            }
        }
    }

    /// Takes `inputs` rows of `outputs` numbers, `stride` apart.
    #[inline(always)]
    pub(crate) fn fill_from_inputs(
        &mut self,
        numbers: &[f32],
        stride: usize,
        inputs: usize,
        outputs: usize,
    ) {
        self.resize(inputs, outputs);
        let panels = self.numbers_mut().chunks_exact_mut((COLUMNS * inputs).max(1));
        for (panel, first) in panels.zip((0..outputs).step_by(COLUMNS)) {
            let live = (outputs - first).min(COLUMNS);
            for (to, row) in panel.as_chunks_mut::<COLUMNS>().0.iter_mut().zip(0..inputs) {
                to[..live].copy_from_slice(&numbers[row * stride + first..][..live]);
                to[live..].fill(0.0);
            }
        }
    }

    fn resize(&mut self, inputs: usize, outputs: usize) {
        (self.inputs, self.outputs) = (inputs, outputs);
        let lines = outputs.div_ceil(COLUMNS) * inputs * (COLUMNS / 16);
        self.lines.resize(lines, Line([0.0; 16]));
    }

    fn numbers_mut(&mut self) -> &mut [f32] {
        // SAFETY: a `Line` is 16 numbers and nothing else.
        unsafe {
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 16 * self.lines.len())
        }
    }

    /// Panel `index` as a machine wants it.
    #[inline(always)]
    fn panel(&self, index: usize) -> *const f32 {
        let lines = &self.lines[index * self.inputs * (COLUMNS / 16)..];
        debug_assert!(lines.len() >= self.inputs * (COLUMNS / 16));
        lines.as_ptr().cast()
    }

    /// Depth of the product.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Components of a result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// The first operand: rows of numbers, packed [`ROWS`] at a time.
#[derive(Default)]
pub(crate) struct Left {
    rows: usize,
    depth: usize,
    numbers: Vec<f32>,
}

impl Left {
    /// Takes `rows` rows of `depth` numbers, `stride` apart. Rows that fill up the last panel are
    /// those of whatever was here before: finite or not, no result that is kept depends on them.
    #[inline(always)]
    pub fn fill(&mut self, numbers: &[f32], stride: usize, rows: usize, depth: usize) {
        (self.rows, self.depth) = (rows, depth);
        self.numbers.resize(rows.div_ceil(ROWS) * ROWS * depth, 0.0);
        let panels = self.numbers.chunks_exact_mut((ROWS * depth).max(1));
        for (panel, first) in panels.zip((0..rows).step_by(ROWS)) {
            let panel = panel.as_chunks_mut::<ROWS>().0;
            if rows - first >= ROWS {
                let from: [&[f32]; ROWS] =
                    std::array::from_fn(|i| &numbers[(first + i) * stride..][..depth]);
                for (l, to) in panel.iter_mut().enumerate() {
                    *to = std::array::from_fn(|i| from[i][l]);
                }
            } else {
                for i in 0..rows - first {
                    let row = &numbers[(first + i) * stride..][..depth];
                    panel.iter_mut().zip(row).for_each(|(to, &x)| to[i] = x);
                }
            }
        }
    }

    /// The tile of rows from `12·panel` on and columns from `32·column` on.
    #[inline(always)]
    pub fn tile<M: Machine>(&self, panel: usize, b: &Packed, column: usize, tile: &mut Tile) {
        assert_eq!(self.depth, b.inputs, "both operands have the product's depth");
        let a = &self.numbers[panel * ROWS * self.depth..][..ROWS * self.depth];
        // SAFETY: `a` is as long as it must be and `panel` sees to the same; bodies generic over a
        // machine are called by `per_path!` alone, which knows that the processor has it.
        unsafe { M::tile(self.depth, a.as_ptr(), b.panel(column), tile) }
    }
}

/// What happens to a sum before it is written.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// Added to each row: a number per output.
    pub bias: Option<&'a [f32]>,
    /// Then this.
    pub activation: Activation,
    /// Whether the result is added to what is there, or replaces it.
    pub add: bool,
}

#[inline(always)]
fn multiply_body<M: Machine>(
    a: &[f32],
    rows: usize,
    b: &Packed,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
    left: &mut Left,
) {
    let outputs = b.outputs;
    assert_eq!((a.len(), out.len()), (rows * b.inputs, rows * outputs), "operands fit");
    left.fill(a, b.inputs, rows, b.inputs);
    let mut tile: Tile = [[0.0; COLUMNS]; ROWS];
    for (column, first) in (0..outputs).step_by(COLUMNS).enumerate() {
        let live = (outputs - first).min(COLUMNS);
        let mut bias = [0.0; COLUMNS];
        if let Some(all) = epilogue.bias {
            bias[..live].copy_from_slice(&all[first..][..live]);
        }
        for (panel, row) in (0..rows).step_by(ROWS).enumerate() {
            left.tile::<M>(panel, b, column, &mut tile);
            for (i, sums) in tile.iter_mut().enumerate().take(rows - row) {
                sums.iter_mut().zip(&bias).for_each(|(sum, bias)| *sum += bias);
                epilogue.activation.apply(sums);
                let to = &mut out[(row + i) * outputs + first..][..live];
                if epilogue.add {
                    to.iter_mut().zip(&*sums).for_each(|(to, sum)| *to += sum);
                } else {
                    to.copy_from_slice(&sums[..live]);
                }
            }
        }
    }
}

per_path! {
    /// `out[rows][outputs]` of `a[rows][inputs]`: each row times the weights, through the epilogue.
    pub(crate) fn multiply(
        a: &[f32], rows: usize, b: &Packed, epilogue: Epilogue<'_>, out: &mut [f32],
        left: &mut Left,
    ) = multiply_body
}

#[inline(always)]
fn same_tile_body<M: Machine>(repeats: usize, a: &Left, b: &Packed, tile: &mut Tile) {
    for _ in 0..repeats {
        // Every one of them, as if each had other operands and its result were read.
        let (a, b) = std::hint::black_box((a, b));
        a.tile::<M>(0, b, 0, tile);
        std::hint::black_box(&mut *tile);
    }
}

per_path! {
    fn same_tile_run(
        repeats: usize, a: &Left, b: &Packed, tile: &mut Tile,
    ) = same_tile_body
}

/// Multiplies one and the same tile `repeats` times, and says how many operations that was (a
/// multiply-add is two). The time it takes is a ceiling for every product.
pub fn same_tile(path: crate::lanes::Path, repeats: usize) -> usize {
    const DEPTH: usize = 128;
    let (mut a, mut b) = (Left::default(), Packed::default());
    let mut tile: Tile = [[0.0; COLUMNS]; ROWS];
    a.fill(&[0.5; ROWS * DEPTH], DEPTH, ROWS, DEPTH);
    b.fill_from_outputs(&[0.25; COLUMNS * DEPTH], DEPTH, COLUMNS, DEPTH);
    same_tile_run(path, repeats, &a, &b, &mut tile);
    2 * ROWS * COLUMNS * DEPTH * repeats
}

#[cfg(test)]
mod tests;
