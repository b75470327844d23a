//! Queries as vectors and as codes, laid out for the filter.

use std::ops::RangeInclusive;

use super::coded::wanted;
use super::{CodedRows, NEVER};
use crate::codes::Coder;
use crate::similarity::Packed;

/// The numbers of queries that a tile may have, most first. With two registers of rows each, and
/// the rows themselves, the largest leaves five of AVX-512's 32.
const SIZES: [usize; 5] = [12, 8, 4, 2, 1];

/// Some queries, each with its floor, for any number of searches over rows of one matrix or of
/// several of its kind.
pub struct Queries {
    dim: usize,
    floors: Vec<i32>,
    vectors: Packed,
    tiles: Vec<Tile>,
}

/// Queries whose codes lie side by side.
pub(super) struct Tile {
    /// Its first query.
    pub first: usize,
    /// Queries side by side, the last of which may be padding that never finds anything.
    pub size: usize,
    /// For each four bytes of the code, those of each query.
    pub words: Vec<i32>,
    /// The same as numbers of 16 bits: the first and the third byte, the second and the fourth.
    pub wide: Vec<[i32; 2]>,
    /// By stage and query: what `product + reach of the row` must come to for the query.
    pub least: Vec<i32>,
    /// By stage and query: what `product + reach of the row − want of the row` must come to for the
    /// row.
    pub least_over_want: Vec<i32>,
    /// By query: what `product − slack of the row` must not pass.
    pub most: Vec<i32>,
    /// By stage and query: the query's reach, less the product of the offset.
    reaches: Vec<i32>,
    /// By query: its slack and the product of the offset.
    above: Vec<i32>,
}

impl Queries {
    /// Prepares `vectors`, each with the score below which it has no use for a row, for searches
    /// over `rows`. Panics if one has not the rows' dimension or a vector has no floor.
    pub fn new(rows: &CodedRows, vectors: &[&[i16]], floors: Vec<i32>) -> Queries {
        assert_eq!(vectors.len(), floors.len(), "a floor for each query");
        let dim = rows.dim();
        let mut queries =
            Queries { dim, floors, vectors: Packed::new(dim, vectors), tiles: Vec::new() };
        let coder = rows.coder();
        let mut first = 0;
        while first < vectors.len() {
            let left = vectors.len() - first;
            let fits = SIZES.into_iter().rev().find(|&size| size >= left);
            let size = fits.unwrap_or(SIZES[0]);
            let live = size.min(left);
            queries.tiles.push(Tile::new(coder, first, size, &vectors[first..first + live]));
            first += live;
        }
        for q in 0..vectors.len() {
            queries.set_floor(coder, q, queries.floors[q]);
        }
        queries
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.floors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.floors.is_empty()
    }

    /// Components of a query.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The least score that query `q` has a use for.
    pub fn floor(&self, q: usize) -> i32 {
        self.floors[q]
    }

    pub(super) fn lowest_floor(&self) -> i32 {
        self.floors.iter().copied().min().unwrap_or(NEVER)
    }

    pub(super) fn vectors(&self) -> &Packed {
        &self.vectors
    }

    pub(super) fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    pub(super) fn set_floor(&mut self, coder: &Coder, q: usize, floor: i32) {
        self.floors[q] = floor;
        // All tiles but the last are of the largest size.
        let tile = &mut self.tiles[q / SIZES[0]];
        let (i, want) = (q - tile.first, wanted(coder, floor));
        for at in (i..tile.reaches.len()).step_by(tile.size) {
            tile.least[at] = want - tile.reaches[at];
        }
    }

    /// The scores of the next search.
    pub(super) fn look_for(&mut self, coder: &Coder, scores: &RangeInclusive<i32>) {
        let (_, at_most) = coder.thresholds(scores);
        for tile in &mut self.tiles {
            for (most, above) in tile.most.iter_mut().zip(&tile.above) {
                *most = at_most + above;
            }
        }
    }
}

impl Tile {
    fn new(coder: &Coder, first: usize, size: usize, vectors: &[&[i16]]) -> Tile {
        let (stages, words) = (coder.stages(), coder.width() / 4);
        let mut tile = Tile {
            first,
            size,
            words: vec![0; words * size],
            wide: vec![[0; 2]; words * size],
            // Padding is compared with this too: nothing is as large.
            least: vec![i32::MAX; stages * size],
            least_over_want: vec![i32::MAX; stages * size],
            most: vec![0; size],
            reaches: vec![0; stages * size],
            above: vec![0; size],
        };
        let (mut code, mut reaches) = (vec![0; coder.width()], vec![0; stages]);
        for (i, vector) in vectors.iter().enumerate() {
            let slack = coder.encode(vector, &mut code);
            coder.reaches(&code, slack, &mut reaches);
            for (k, bytes) in code.as_chunks::<4>().0.iter().enumerate() {
                let [a, b, c, d] = *bytes;
                let wide =
                    |low: i8, high: i8| i32::from(high) << 16 | i32::from(i16::from(low) as u16);
                tile.words[k * size + i] = i32::from_le_bytes(bytes.map(|c| c as u8));
                tile.wide[k * size + i] = [wide(a, c), wide(b, d)];
            }
            let mut offset = 0;
            for (stage, bytes) in code.chunks(coder.stage_width()).enumerate() {
                offset += 128 * bytes.iter().map(|&c| i32::from(c)).sum::<i32>();
                let at = stage * size + i;
                tile.reaches[at] = reaches[stage] - offset;
                tile.least_over_want[at] = -tile.reaches[at];
            }
            tile.above[i] = slack + offset;
        }
        tile
    }
}
