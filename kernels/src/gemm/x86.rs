//! Tiles on x86-64.

use std::arch::x86_64::*;

use super::{COLUMNS, Machine, ROWS, Tile};

/// AVX-512: the tile is 24 registers of 16 sums.
pub(crate) struct Avx512;

impl Machine for Avx512 {
    #[inline(always)]
    unsafe fn tile(depth: usize, a: *const f32, b: *const f32, tile: &mut Tile) {
        // SAFETY: the contract is the same.
        unsafe { tile_avx512(depth, a, b, tile) }
    }
}

/// # Safety
/// As [`Machine::tile`].
#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512(depth: usize, a: *const f32, b: *const f32, tile: &mut Tile) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    let (mut a, mut b) = (a, b);
    for _ in 0..depth {
        // SAFETY: each of `depth` steps reads its 32 of `b` and its 12 of `a`; `b` is aligned to
        // 64 bytes, and so is every step of it.
        unsafe {
            let low = _mm512_load_ps(b);
            let high = _mm512_load_ps(b.add(16));
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*a.add(i));
                sums[0] = _mm512_fmadd_ps(a, low, sums[0]);
                sums[1] = _mm512_fmadd_ps(a, high, sums[1]);
            }
            a = a.add(ROWS);
            b = b.add(COLUMNS);
        }
    }
    for (to, sums) in tile.iter_mut().zip(&sums) {
        // SAFETY: a row of the tile has 32 numbers.
        unsafe {
            _mm512_storeu_ps(to.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(to.as_mut_ptr().add(16), sums[1]);
        }
    }
}

/// AVX2 with FMA: the tile in four parts of 6 × 16, each 12 registers of 8 sums.
pub(crate) struct Avx2;

/// Rows of a part.
const PART: usize = 6;

impl Machine for Avx2 {
    #[inline(always)]
    unsafe fn tile(depth: usize, a: *const f32, b: *const f32, tile: &mut Tile) {
        for column in [0, COLUMNS / 2] {
            for row in [0, PART] {
                // SAFETY: the contract is the same, and the part is within the tile.
                unsafe { part_avx2(depth, a.add(row), b.add(column), tile, row, column) }
            }
        }
    }
}

/// # Safety
/// As [`Machine::tile`], with `a` and `b` moved to the part's first row and column.
#[target_feature(enable = "avx2,fma")]
unsafe fn part_avx2(
    depth: usize,
    a: *const f32,
    b: *const f32,
    tile: &mut Tile,
    row: usize,
    column: usize,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; PART];
    for l in 0..depth {
        // SAFETY: a step reads 16 of the 32 numbers of `b` and 6 of the 12 of `a` that are its own.
        unsafe {
            let low = _mm256_load_ps(b.add(l * COLUMNS));
            let high = _mm256_load_ps(b.add(l * COLUMNS + 8));
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_set1_ps(*a.add(l * ROWS + i));
                sums[0] = _mm256_fmadd_ps(a, low, sums[0]);
                sums[1] = _mm256_fmadd_ps(a, high, sums[1]);
            }
        }
    }
    for (to, sums) in tile[row..row + PART].iter_mut().zip(&sums) {
        let to = &mut to[column..column + 16];
        // SAFETY: `to` has 16 numbers.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), sums[1]);
        }
    }
}
