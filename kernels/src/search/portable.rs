//! The filter as it is defined, for any processor.

use super::Survivor;
use super::coded::{PANEL, Pair};
use super::queries::Tile;

pub(super) fn filter(
    tile: &Tile,
    pair: &Pair<'_>,
    check: usize,
    survivors: &mut Vec<Survivor>,
) -> bool {
    let mut ended = true;
    for i in 0..tile.size {
        for p in 0..2 {
            let valid = pair.valid >> (PANEL * p) & 0xffff;
            let (mut lanes, early) = one(tile, i, pair, p, check, valid);
            ended &= early;
            while lanes != 0 {
                let lane = lanes.trailing_zeros();
                lanes &= lanes - 1;
                survivors.push(((tile.first + i) as u32, PANEL as u32 * p as u32 + lane));
            }
        }
    }
    ended
}

/// The rows of one panel that pass for one query, and whether this was known before the last stage.
fn one(tile: &Tile, i: usize, pair: &Pair<'_>, p: usize, check: usize, valid: u32) -> (u32, bool) {
    let (reaches, codes) = pair.panels[p].split_at(pair.stages);
    let mut sums = [0i32; PANEL];
    let mut k = 0;
    let mut lanes = 0;
    for (stage, lines) in codes.chunks(pair.stage_lines).enumerate() {
        for line in lines {
            let query = tile.words[k * tile.size + i].to_le_bytes();
            for (sum, row) in sums.iter_mut().zip(line.0) {
                let row = row.to_le_bytes();
                for b in 0..4 {
                    *sum += i32::from(row[b]) * i32::from(query[b] as i8);
                }
            }
            k += 1;
        }
        let last = stage + 1 == pair.stages;
        if stage < check && !last {
            continue;
        }
        let at = stage * tile.size + i;
        lanes = 0;
        let of_rows = sums.iter().zip(reaches[stage].0).zip(pair.wants[p]);
        for (lane, ((&sum, reach), want)) in of_rows.enumerate() {
            let upper = sum + reach;
            let reached =
                upper >= tile.least[at] || (pair.both && upper - want >= tile.least_over_want[at]);
            let within = !last || sum - reach <= tile.most[i];
            lanes |= u32::from(reached && within) << lane;
        }
        lanes &= valid;
        if lanes == 0 {
            return (0, !last);
        }
    }
    (lanes, false)
}
