//! The paths for x86-64. A tile is four queries × four rows (AVX-512) or two × four (AVX2): as many
//! accumulators as registers allow next to the operands.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Packed, QUERY_TILE, Rows, in_blocks};

/// Rows in a register tile.
const ROW_TILE: usize = 4;

/// Pointers to the rows of one tile. Past `end` the last row is repeated and its lanes are masked.
fn tile_rows(rows: &Rows, r: usize, end: usize) -> [*const i16; ROW_TILE] {
    debug_assert!(r < end && end <= rows.len());
    // The product is the offset of an existing row, so it stays within the allocation.
    std::array::from_fn(|i| rows.as_ptr().wrapping_add((r + i).min(end - 1) * rows.stride()))
}

macro_rules! scan_avx512 {
    ($name:ident, $tiles:ident, $features:literal, $multiply_add:expr) => {
        pub(super) fn $name(
            queries: &Packed,
            rows: &Rows,
            range: Range<usize>,
            lo: i32,
            hit: &mut dyn FnMut(usize, usize, i32),
        ) {
            in_blocks(queries, rows, range, &mut |packed, first, live, block| {
                // SAFETY: `paths` names this path only where the processor has its features;
                // `in_blocks` passes a whole tile of packed queries and rows that exist.
                unsafe { $tiles(packed, first, live, rows, block, lo, hit) }
            });
        }

        /// # Safety
        /// The processor has the features; `packed` has rows `first..first + 4` and the dimension of
        /// `rows`; `block` is within `rows`.
        #[target_feature(enable = $features)]
        unsafe fn $tiles(
            packed: &Rows,
            first: usize,
            live: usize,
            rows: &Rows,
            block: Range<usize>,
            lo: i32,
            hit: &mut dyn FnMut(usize, usize, i32),
        ) {
            let stride = rows.stride();
            let threshold = _mm512_set1_epi32(lo);
            let queries = packed.as_ptr().wrapping_add(first * stride);
            for r in block.clone().step_by(ROW_TILE) {
                let row = tile_rows(rows, r, block.end);
                let mut sums = [[_mm512_setzero_si512(); ROW_TILE]; QUERY_TILE];
                for k in (0..stride).step_by(32) {
                    // SAFETY: k + 32 <= stride, and every pointer begins a row of `stride`
                    // components aligned to 64 bytes.
                    let (q, t): ([__m512i; QUERY_TILE], [__m512i; ROW_TILE]) = unsafe {
                        (
                            std::array::from_fn(|i| {
                                _mm512_load_si512(queries.add(i * stride + k).cast())
                            }),
                            std::array::from_fn(|i| _mm512_load_si512(row[i].add(k).cast())),
                        )
                    };
                    for i in 0..QUERY_TILE {
                        for j in 0..ROW_TILE {
                            sums[i][j] = $multiply_add(sums[i][j], q[i], t[j]);
                        }
                    }
                }
                let scores = sum_each_of_16(&sums);
                // Bit 4i + j stands for query i and row j; those that pad the tile are masked.
                let real_rows = (1u16 << (block.end - r).min(ROW_TILE)) - 1;
                let real = (0..live).fold(0u16, |mask, i| mask | real_rows << (ROW_TILE * i));
                let mut hits = _mm512_mask_cmpge_epi32_mask(real, scores, threshold);
                if hits != 0 {
                    let mut out = [0i32; QUERY_TILE * ROW_TILE];
                    // SAFETY: `out` is 64 bytes long and the store is unaligned.
                    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), scores) };
                    while hits != 0 {
                        let lane = hits.trailing_zeros() as usize;
                        hits &= hits - 1;
                        hit(first + lane / ROW_TILE, r + lane % ROW_TILE, out[lane]);
                    }
                }
            }
        }
    };
}

scan_avx512!(scan_avx512vnni, tiles_avx512vnni, "avx512f,avx512bw,avx512vnni", _mm512_dpwssd_epi32);
scan_avx512!(scan_avx512bw, tiles_avx512bw, "avx512f,avx512bw", |sum, q, t| _mm512_add_epi32(
    sum,
    _mm512_madd_epi16(q, t)
));

/// Lane 4i + j of the result is the sum of the lanes of `sums[i][j]`.
#[target_feature(enable = "avx512f")]
#[inline]
fn sum_each_of_16(sums: &[[__m512i; ROW_TILE]; QUERY_TILE]) -> __m512i {
    // Within each quarter of 128 bits: lane j is a part of the sum of `sums[i][j]`.
    let quarters: [__m512i; QUERY_TILE] = std::array::from_fn(|i| {
        let [a, b, c, d] = sums[i];
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    });
    // Selections 0x88 and 0xdd take the even and the odd quarters of both operands.
    let fold = |a, b| {
        _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b))
    };
    let [a, b, c, d] = quarters;
    fold(fold(a, b), fold(c, d))
}

pub(super) fn scan_avx2(
    queries: &Packed,
    rows: &Rows,
    range: Range<usize>,
    lo: i32,
    hit: &mut dyn FnMut(usize, usize, i32),
) {
    in_blocks(queries, rows, range, &mut |packed, first, live, block| {
        for half in (0..live).step_by(AVX2_QUERY_TILE) {
            let live = (live - half).min(AVX2_QUERY_TILE);
            // SAFETY: `paths` names this path only where the processor has AVX2; `in_blocks` passes
            // four packed queries, hence two from `half`, and rows that exist.
            unsafe { tiles_avx2(packed, first + half, live, rows, block.clone(), lo, hit) }
        }
    });
}

/// Sixteen registers hold eight sums beside the operands.
const AVX2_QUERY_TILE: usize = 2;

/// # Safety
/// The processor has AVX2; `packed` has rows `first..first + 2` and the dimension of `rows`; `block`
/// is within `rows`.
#[target_feature(enable = "avx2")]
unsafe fn tiles_avx2(
    packed: &Rows,
    first: usize,
    live: usize,
    rows: &Rows,
    block: Range<usize>,
    lo: i32,
    hit: &mut dyn FnMut(usize, usize, i32),
) {
    let stride = rows.stride();
    let threshold = _mm256_set1_epi32(lo);
    let queries = packed.as_ptr().wrapping_add(first * stride);
    for r in block.clone().step_by(ROW_TILE) {
        let row = tile_rows(rows, r, block.end);
        let mut sums = [[_mm256_setzero_si256(); ROW_TILE]; AVX2_QUERY_TILE];
        for k in (0..stride).step_by(16) {
            // SAFETY: k + 16 <= stride, and every pointer begins a row of `stride` components
            // aligned to 64 bytes.
            let (q, t): ([__m256i; AVX2_QUERY_TILE], [__m256i; ROW_TILE]) = unsafe {
                (
                    std::array::from_fn(|i| _mm256_load_si256(queries.add(i * stride + k).cast())),
                    std::array::from_fn(|i| _mm256_load_si256(row[i].add(k).cast())),
                )
            };
            for i in 0..AVX2_QUERY_TILE {
                for j in 0..ROW_TILE {
                    sums[i][j] = _mm256_add_epi32(sums[i][j], _mm256_madd_epi16(q[i], t[j]));
                }
            }
        }
        let scores = sum_each_of_8(&sums);
        let below = _mm256_cmpgt_epi32(threshold, scores);
        let below = _mm256_movemask_ps(_mm256_castsi256_ps(below)) as u32;
        // Bit 4i + j stands for query i and row j; those that pad the tile are masked.
        let real_rows = (1u32 << (block.end - r).min(ROW_TILE)) - 1;
        let real = (0..live).fold(0, |mask, i| mask | real_rows << (ROW_TILE * i));
        let mut hits = !below & real;
        if hits != 0 {
            let mut out = [0i32; AVX2_QUERY_TILE * ROW_TILE];
            // SAFETY: `out` is 32 bytes long and the store is unaligned.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), scores) };
            while hits != 0 {
                let lane = hits.trailing_zeros() as usize;
                hits &= hits - 1;
                hit(first + lane / ROW_TILE, r + lane % ROW_TILE, out[lane]);
            }
        }
    }
}

/// Lane 4i + j of the result is the sum of the lanes of `sums[i][j]`.
#[target_feature(enable = "avx2")]
#[inline]
fn sum_each_of_8(sums: &[[__m256i; ROW_TILE]; AVX2_QUERY_TILE]) -> __m256i {
    // Within each half of 128 bits: lane j is a part of the sum of `sums[i][j]`.
    let [a, b]: [__m256i; AVX2_QUERY_TILE] = std::array::from_fn(|i| {
        let [a, b, c, d] = sums[i];
        let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
    });
    _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x31>(a, b),
    )
}
