//! Attention within one sequence, head by head. Scores exist for twelve queries at a time.

use crate::gemm::{COLUMNS, Left, Machine, Packed, ROWS, Tile};
use crate::lanes::{exp, max, per_path, sum};

/// Tokens of one sequence: `length` rows, `stride` numbers apart; a head's part of a row begins at the
/// head's own offset.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub numbers: &'a [f32],
    pub stride: usize,
    pub length: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn from(self, offset: usize) -> &'a [f32] {
        &self.numbers[offset..]
    }
}

/// Buffers of a head.
#[derive(Default)]
pub(crate) struct Heads {
    queries: Left,
    weights: Left,
    keys: Packed,
    values: Packed,
    scores: Vec<f32>,
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn attend_body<M: Machine>(
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    heads: usize,
    width: usize,
    causal: bool,
    work: &mut Heads,
    out: &mut [f32],
) {
    let dim = width / heads;
    let scale = 1.0 / (dim as f32).sqrt();
    // Rows of scores, padded to whole tiles.
    let padded = k.length.div_ceil(COLUMNS) * COLUMNS;
    let mut tile: Tile = [[0.0; COLUMNS]; ROWS];
    for head in 0..heads {
        let offset = head * dim;
        work.queries.fill(q.from(offset), q.stride, q.length, dim);
        work.keys.fill_from_outputs(k.from(offset), k.stride, k.length, dim);
        work.values.fill_from_inputs(v.from(offset), v.stride, k.length, dim);
        work.scores.resize(ROWS * padded, 0.0);
        for (panel, first) in (0..q.length).step_by(ROWS).enumerate() {
            let live = (q.length - first).min(ROWS);
            for column in 0..padded / COLUMNS {
                work.queries.tile::<M>(panel, &work.keys, column, &mut tile);
                for (row, sums) in work.scores.chunks_exact_mut(padded).zip(&tile).take(live) {
                    row[column * COLUMNS..][..COLUMNS].copy_from_slice(sums);
                }
            }
            let mut totals = [1.0; ROWS];
            for (i, row) in work.scores.chunks_exact_mut(padded).enumerate().take(live) {
                let seen = if causal { first + i + 1 } else { k.length };
                let (seen, unseen) = row.split_at_mut(seen);
                let most = max(seen);
                seen.iter_mut().for_each(|score| *score = exp((*score - most) * scale));
                totals[i] = sum(seen, |x| x);
                unseen.fill(0.0);
            }
            work.weights.fill(&work.scores, padded, live, k.length);
            for (column, begin) in (0..dim).step_by(COLUMNS).enumerate() {
                work.weights.tile::<M>(0, &work.values, column, &mut tile);
                for (i, sums) in tile.iter_mut().enumerate().take(live) {
                    sums.iter_mut().for_each(|sum| *sum /= totals[i]);
                    let to = &mut out[(first + i) * width + offset..][..dim];
                    let count = (dim - begin).min(COLUMNS);
                    to[begin..][..count].copy_from_slice(&sums[..count]);
                }
            }
        }
    }
}

per_path! {
    /// `out[q.length][width]`: per head `softmax(q·kᵀ/√dim)·v`. Of `k` and `v`, which are equally
    /// long, a causal query sees as many as its own place; then `q` is as long as they are.
    pub(crate) fn attend(
        q: Rows<'_>, k: Rows<'_>, v: Rows<'_>, heads: usize, width: usize, causal: bool,
        work: &mut Heads, out: &mut [f32],
    ) = attend_body
}
