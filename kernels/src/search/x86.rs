//! The filter for x86-64: each lane of a register is a row, so a product needs no sum across lanes
//! and is compared where it is.

// One index runs over registers, thresholds and words alike, as in the formulas.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::Survivor;
use super::coded::{Line, PANEL, Pair};
use super::queries::Tile;

/// Checks once what the unchecked loads of a path rely on.
fn check_bounds(tile: &Tile, pair: &Pair<'_>, size: usize) {
    let lines = pair.panels[0].len() - pair.stages;
    assert!(pair.panels[1].len() == pair.panels[0].len());
    assert!(pair.stages * pair.stage_lines >= lines && tile.size == size);
    assert!(tile.words.len() == lines * size && tile.wide.len() == lines * size);
    assert!(tile.most.len() == size);
    assert!(tile.least.len() == pair.stages * size);
    assert!(tile.least_over_want.len() == pair.stages * size);
}

fn keep(survivors: &mut Vec<Survivor>, query: usize, mut lanes: u32) {
    while lanes != 0 {
        survivors.push((query as u32, lanes.trailing_zeros()));
        lanes &= lanes - 1;
    }
}

/// Calls `$path::<SIZE, BOTH>` for the tile's size and the pair's sides.
macro_rules! by_size {
    ($path:ident, $tile:expr, $pair:expr, $check:expr, $survivors:expr) => {
        match ($tile.size, $pair.both) {
            (12, true) => $path::<12, true>($tile, $pair, $check, $survivors),
            (8, true) => $path::<8, true>($tile, $pair, $check, $survivors),
            (4, true) => $path::<4, true>($tile, $pair, $check, $survivors),
            (2, true) => $path::<2, true>($tile, $pair, $check, $survivors),
            (1, true) => $path::<1, true>($tile, $pair, $check, $survivors),
            (12, false) => $path::<12, false>($tile, $pair, $check, $survivors),
            (8, false) => $path::<8, false>($tile, $pair, $check, $survivors),
            (4, false) => $path::<4, false>($tile, $pair, $check, $survivors),
            (2, false) => $path::<2, false>($tile, $pair, $check, $survivors),
            (1, false) => $path::<1, false>($tile, $pair, $check, $survivors),
            (size, _) => unreachable!("no tile has {size} queries"),
        }
    };
}

pub(super) fn filter_avx512vnni(
    tile: &Tile,
    pair: &Pair<'_>,
    check: usize,
    survivors: &mut Vec<Survivor>,
) -> bool {
    // SAFETY: `paths` names this path only where the processor has its features.
    unsafe { by_size!(tile_avx512vnni, tile, pair, check, survivors) }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile_avx512vnni<const SIZE: usize, const BOTH: bool>(
    tile: &Tile,
    pair: &Pair<'_>,
    check: usize,
    survivors: &mut Vec<Survivor>,
) -> bool {
    check_bounds(tile, pair, SIZE);
    let codes = pair.panels.map(|panel| panel[pair.stages..].as_ptr());
    let lines = pair.panels[0].len() - pair.stages;
    let words = tile.words.as_ptr();
    let mut sums = [[_mm512_setzero_si512(); 2]; SIZE];
    let (mut k, mut stage) = (0, 0);
    loop {
        let end = lines.min(k + pair.stage_lines);
        while k < end {
            // SAFETY: k < lines, so both lines exist and so do SIZE words from k·SIZE on
            // (`check_bounds`); lines are aligned to 64 bytes.
            unsafe {
                let rows = [load(codes[0].add(k)), load(codes[1].add(k))];
                let words = words.add(k * SIZE);
                for i in 0..SIZE {
                    let word = _mm512_set1_epi32(*words.add(i));
                    sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], rows[0], word);
                    sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], rows[1], word);
                }
            }
            k += 1;
        }
        if stage + 1 == pair.stages {
            break;
        }
        if stage >= check {
            let mut live = [0u32; SIZE];
            let mut count = 0;
            for i in 0..SIZE {
                live[i] = passes_avx512::<BOTH>(tile, pair, stage, i, sums[i]);
                count += usize::from(live[i] != 0);
            }
            if count == 0 {
                return true;
            }
            if 3 * count <= SIZE {
                // Few queries go on: without the others.
                let sums = sums;
                for i in 0..SIZE {
                    if live[i] != 0 {
                        let lanes = go_on_avx512vnni::<BOTH>(tile, pair, stage, i, sums[i]);
                        keep(survivors, tile.first + i, lanes);
                    }
                }
                return true;
            }
        }
        stage += 1;
    }
    for i in 0..SIZE {
        let lanes = last_avx512::<BOTH>(tile, pair, i, sums[i]);
        if lanes != 0 {
            keep(survivors, tile.first + i, lanes);
        }
    }
    false
}

/// What is left of one query after `stage`, on its own: the rows that pass the last stage.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
fn go_on_avx512vnni<const BOTH: bool>(
    tile: &Tile,
    pair: &Pair<'_>,
    mut stage: usize,
    i: usize,
    mut sums: [__m512i; 2],
) -> u32 {
    let [first, second] = pair.panels.map(|panel| &panel[pair.stages..]);
    let mut more = [_mm512_setzero_si512(); 2];
    while stage + 1 < pair.stages {
        stage += 1;
        let begin = stage * pair.stage_lines;
        let end = first.len().min(begin + pair.stage_lines);
        let words = tile.words[begin * tile.size..end * tile.size].chunks_exact(tile.size);
        let rows = first[begin..end].iter().zip(&second[begin..end]);
        for (k, ((a, b), words)) in rows.zip(words).enumerate() {
            let word = _mm512_set1_epi32(words[i]);
            // Products take turns, so that none waits for the one before.
            let sums = if k % 2 == 0 { &mut sums } else { &mut more };
            // SAFETY: both are references.
            let (a, b) = unsafe { (load(a), load(b)) };
            *sums = [_mm512_dpbusd_epi32(sums[0], a, word), _mm512_dpbusd_epi32(sums[1], b, word)];
        }
        let all = [_mm512_add_epi32(sums[0], more[0]), _mm512_add_epi32(sums[1], more[1])];
        if stage + 1 == pair.stages {
            return last_avx512::<BOTH>(tile, pair, i, all);
        }
        if passes_avx512::<BOTH>(tile, pair, stage, i, all) == 0 {
            return 0;
        }
    }
    unreachable!("a query that has passed the last stage does not go on")
}

/// Which rows may still pass for query `i`, by its products of the stages up to `stage`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn passes_avx512<const BOTH: bool>(
    tile: &Tile,
    pair: &Pair<'_>,
    stage: usize,
    i: usize,
    sums: [__m512i; 2],
) -> u32 {
    let at = stage * tile.size + i;
    let least = _mm512_set1_epi32(tile.least[at]);
    let over_want = _mm512_set1_epi32(tile.least_over_want[at]);
    let mut lanes = 0;
    for p in 0..2 {
        // SAFETY: a line, and the array that `wants` refers to, are 64 bytes.
        let (reach, want) = unsafe {
            (load(&pair.panels[p][stage]), _mm512_loadu_si512(pair.wants[p].as_ptr().cast()))
        };
        let upper = _mm512_add_epi32(sums[p], reach);
        let mut mask = _mm512_cmpge_epi32_mask(upper, least);
        if BOTH {
            mask |= _mm512_cmpge_epi32_mask(_mm512_sub_epi32(upper, want), over_want);
        }
        lanes |= u32::from(mask) << (PANEL * p);
    }
    lanes & pair.valid
}

/// Which rows pass the last stage for query `i`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn last_avx512<const BOTH: bool>(
    tile: &Tile,
    pair: &Pair<'_>,
    i: usize,
    sums: [__m512i; 2],
) -> u32 {
    let stage = pair.stages - 1;
    let mut lanes = passes_avx512::<BOTH>(tile, pair, stage, i, sums);
    if lanes != 0 {
        let most = _mm512_set1_epi32(tile.most[i]);
        let mut within = 0;
        for p in 0..2 {
            // SAFETY: a reference.
            let slack = unsafe { load(&pair.panels[p][stage]) };
            let mask = _mm512_cmple_epi32_mask(_mm512_sub_epi32(sums[p], slack), most);
            within |= u32::from(mask) << (PANEL * p);
        }
        lanes &= within;
    }
    lanes
}

/// # Safety
/// `line` can be read.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(line: *const Line) -> __m512i {
    // SAFETY: by contract; a line is aligned to its 64 bytes.
    unsafe { _mm512_load_si512(line.cast()) }
}

pub(super) fn filter_avx2(
    tile: &Tile,
    pair: &Pair<'_>,
    check: usize,
    survivors: &mut Vec<Survivor>,
) -> bool {
    check_bounds(tile, pair, tile.size);
    let mut ended = true;
    let step = tile.size.min(AVX2_QUERIES);
    for i in (0..tile.size).step_by(step) {
        for p in 0..2 {
            if pair.valid >> (PANEL * p) & 0xffff == 0 {
                continue;
            }
            let part = Part { tile, pair, i, p };
            // SAFETY: `paths` names this path only where the processor has AVX2; sizes of tiles are
            // multiples of four, or less, so all queries of the part are within the tile.
            ended &= unsafe {
                match step {
                    4 => tile_avx2::<4>(&part, check, survivors),
                    2 => tile_avx2::<2>(&part, check, survivors),
                    _ => tile_avx2::<1>(&part, check, survivors),
                }
            };
        }
    }
    ended
}

/// Sixteen registers hold the sums of four queries and sixteen rows beside the operands.
const AVX2_QUERIES: usize = 4;

/// Some queries of a tile, from `i` on, and one panel.
struct Part<'a> {
    tile: &'a Tile,
    pair: &'a Pair<'a>,
    i: usize,
    p: usize,
}

/// # Safety
/// The processor has AVX2; the tile has queries `i..i + SIZE`; `check_bounds` holds.
#[target_feature(enable = "avx2")]
unsafe fn tile_avx2<const SIZE: usize>(
    part: &Part<'_>,
    check: usize,
    survivors: &mut Vec<Survivor>,
) -> bool {
    let Part { tile, pair, i: first, p } = *part;
    let codes = &pair.panels[p][pair.stages..];
    let mut sums = [[_mm256_setzero_si256(); 2]; SIZE];
    let low = _mm256_set1_epi16(0xff);
    let mut k = 0;
    for stage in 0..pair.stages {
        let end = codes.len().min(k + pair.stage_lines);
        while k < end {
            // SAFETY: k < lines; a line is two registers, aligned to 64 bytes.
            let rows = unsafe {
                let line: *const __m256i = codes.as_ptr().add(k).cast();
                [_mm256_load_si256(line), _mm256_load_si256(line.add(1))]
            };
            let even = rows.map(|rows| _mm256_and_si256(rows, low));
            let odd = rows.map(|rows| _mm256_srli_epi16::<8>(rows));
            for i in 0..SIZE {
                // SAFETY: there are `tile.size` pairs for each line, and first + i is within.
                let [of_even, of_odd] =
                    unsafe { *tile.wide.get_unchecked(k * tile.size + first + i) };
                let (of_even, of_odd) = (_mm256_set1_epi32(of_even), _mm256_set1_epi32(of_odd));
                for half in 0..2 {
                    let products = _mm256_madd_epi16(even[half], of_even);
                    sums[i][half] = _mm256_add_epi32(sums[i][half], products);
                    let products = _mm256_madd_epi16(odd[half], of_odd);
                    sums[i][half] = _mm256_add_epi32(sums[i][half], products);
                }
            }
            k += 1;
        }
        let last = stage + 1 == pair.stages;
        if stage < check && !last {
            continue;
        }
        let mut any = 0;
        for i in 0..SIZE {
            let lanes = passes_avx2(part, stage, first + i, sums[i]);
            any |= lanes;
            if last && lanes != 0 {
                keep_of_panel(survivors, tile.first + first + i, p, lanes);
            }
        }
        if any == 0 {
            return !last;
        }
    }
    false
}

fn keep_of_panel(survivors: &mut Vec<Survivor>, query: usize, p: usize, lanes: u32) {
    keep(survivors, query, lanes << (PANEL * p));
}

/// Which of the panel's rows may still pass for query `i`, by its products of the stages up to
/// `stage`; after the last one, which do.
#[target_feature(enable = "avx2")]
#[inline]
fn passes_avx2(part: &Part<'_>, stage: usize, i: usize, sums: [__m256i; 2]) -> u32 {
    let Part { tile, pair, p, .. } = *part;
    let at = stage * tile.size + i;
    let less_than = |a: __m256i, b: i32| {
        let less = _mm256_cmpgt_epi32(_mm256_set1_epi32(b), a);
        _mm256_movemask_ps(_mm256_castsi256_ps(less)) as u32
    };
    let mut lanes = 0;
    for (half, sum) in sums.into_iter().enumerate() {
        let numbers = 8 * half..8 * half + 8;
        // SAFETY: both are eight numbers, and the loads are unaligned.
        let (reach, want) = unsafe {
            (
                _mm256_loadu_si256(pair.panels[p][stage].0[numbers.clone()].as_ptr().cast()),
                _mm256_loadu_si256(pair.wants[p][numbers].as_ptr().cast()),
            )
        };
        let upper = _mm256_add_epi32(sum, reach);
        let mut out = less_than(upper, tile.least[at]);
        if pair.both {
            out &= less_than(_mm256_sub_epi32(upper, want), tile.least_over_want[at]);
        }
        if stage + 1 == pair.stages {
            let above = _mm256_sub_epi32(sum, reach);
            let above = _mm256_cmpgt_epi32(above, _mm256_set1_epi32(tile.most[i]));
            out |= _mm256_movemask_ps(_mm256_castsi256_ps(above)) as u32;
        }
        lanes |= (!out & 0xff) << (8 * half);
    }
    lanes & (pair.valid >> (PANEL * p) & 0xffff)
}
