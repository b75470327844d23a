//! Rows as vectors and as codes, laid out for the filter.

use std::ops::Range;

use super::{NEVER, NEVER_WANTED, Sides};
use crate::codes::Coder;
use crate::similarity::Rows;

/// Rows whose codes lie side by side: lane `l` of a line belongs to row `l`.
pub(super) const PANEL: usize = 16;

/// A code of zeros, four bytes of it: see the module on the offset.
const ZEROS: i32 = i32::from_le_bytes([0x80; 4]);

/// A cache line: four bytes of the code, or one number, of each row of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [i32; PANEL]);

/// A growable matrix of rows of `dim` components that can be searched: as 16-bit vectors and as
/// 8-bit codes, with the floor of each row, see [`super::search`].
pub struct CodedRows {
    rows: Rows,
    codes: Codes,
    floors: Vec<i32>,
}

struct Codes {
    coder: Coder,
    /// Panel after panel: a line of reaches for each stage, then the codes.
    lines: Vec<Line>,
    /// The floor of each row as a product of codes.
    wants: Vec<Line>,
    /// The stage at which the last search asked.
    check: usize,
}

/// Two panels, as a filter takes them.
pub(super) struct Pair<'a> {
    /// The lines of both: a reach for each stage, then the codes.
    pub panels: [&'a [Line]; 2],
    /// What their rows look for; nothing, where only queries look for rows.
    pub wants: [&'a [i32; PANEL]; 2],
    /// Whether rows look for queries.
    pub both: bool,
    /// Bit `16·p + l` stands for row `l` of panel `p`: those that are searched.
    pub valid: u32,
    /// Stages of a code.
    pub stages: usize,
    /// Lines of a stage.
    pub stage_lines: usize,
}

impl CodedRows {
    /// No rows yet, of `dim` components each. Panics unless `dim` is within 1 to
    /// [`DIM_MAX`](crate::codes::DIM_MAX).
    pub fn new(dim: usize) -> CodedRows {
        CodedRows { rows: Rows::new(dim), codes: Codes::new(dim), floors: Vec::new() }
    }

    /// Appends a row that looks for nothing ([`NEVER`]) and returns its index. Panics if it has not
    /// `dim` components.
    pub fn push(&mut self, row: &[i16]) -> usize {
        let i = self.rows.push(row);
        self.floors.push(NEVER);
        self.codes.grow(self.rows.len());
        self.codes.set(i, row);
        i
    }

    /// Replaces row `i`, which then looks for nothing. Panics if it is not there or `row` has not
    /// `dim` components.
    pub fn set(&mut self, i: usize, row: &[i16]) {
        self.rows.set(i, row);
        self.codes.set(i, row);
        self.set_floor(i, NEVER);
    }

    /// Makes row `to` what row `from` is, floor included.
    pub fn copy_within(&mut self, from: usize, to: usize) {
        let row = self.rows.row(from).to_vec();
        self.rows.set(to, &row);
        self.codes.copy(from, to);
        self.set_floor(to, self.floors[from]);
    }

    /// Sets row `i` to zero in every form, so that its score with anything is 0, and it looks for
    /// nothing. A search with `lo <= 0` may still hit it: whoever clears rows knows which live.
    pub fn clear(&mut self, i: usize) {
        self.rows.clear(i);
        self.codes.clear(i);
        self.set_floor(i, NEVER);
    }

    /// Says that row `i` has no use for scores below `floor`.
    pub fn set_floor(&mut self, i: usize, floor: i32) {
        self.floors[i] = floor;
        self.codes.wants[i / PANEL].0[i % PANEL] = wanted(&self.codes.coder, floor);
    }

    /// The least score that row `i` has a use for.
    pub fn floor(&self, i: usize) -> i32 {
        self.floors[i]
    }

    /// Row `i`, without padding.
    pub fn row(&self, i: usize) -> &[i16] {
        self.rows.row(i)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Components of a row.
    pub fn dim(&self) -> usize {
        self.rows.dim()
    }

    /// Bytes held for rows in all forms, spare capacity included.
    pub fn bytes(&self) -> usize {
        let lines = self.codes.lines.capacity() + self.codes.wants.capacity();
        self.rows.bytes() + lines * size_of::<Line>() + self.floors.capacity() * size_of::<i32>()
    }

    /// Whether every byte of row `i` but its floor is what [`CodedRows::clear`] leaves.
    pub fn is_clear(&self, i: usize) -> bool {
        self.rows.padded(i).iter().all(|&x| x == 0) && self.codes.is_clear(i)
    }

    pub(super) fn vectors(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn coder(&self) -> &Coder {
        &self.codes.coder
    }

    pub(super) fn check(&self) -> usize {
        self.codes.check
    }

    pub(super) fn set_check(&mut self, check: usize) {
        self.codes.check = check;
    }

    /// The panels of `block`, which are two that begin at an even panel.
    pub(super) fn pair(&self, block: Range<usize>, sides: Sides) -> Pair<'_> {
        let codes = &self.codes;
        let first = block.start / PANEL / 2 * 2;
        // Where there is no second panel the first one stands in, and none of its rows counts.
        let second = (first + 1).min(codes.wants.len() - 1);
        let bits = |range: Range<usize>| (1u64 << range.end) - (1u64 << range.start);
        let begin = first * PANEL;
        Pair {
            panels: [first, second].map(|panel| codes.panel(panel)),
            wants: [first, second].map(|panel| &codes.wants[panel].0),
            both: sides == Sides::Both,
            valid: bits(block.start - begin..block.end - begin) as u32,
            stages: codes.coder.stages(),
            stage_lines: codes.coder.stage_width() / 4,
        }
    }
}

impl Codes {
    fn new(dim: usize) -> Codes {
        let coder = Coder::new(dim);
        let check = coder.stages() / 2;
        Codes { coder, lines: Vec::new(), wants: Vec::new(), check }
    }

    fn panel_lines(&self) -> usize {
        self.coder.stages() + self.coder.width() / 4
    }

    fn panel(&self, panel: usize) -> &[Line] {
        &self.lines[panel * self.panel_lines()..][..self.panel_lines()]
    }

    fn panel_mut(&mut self, panel: usize) -> (&mut [Line], &mut [Line]) {
        let lines = self.panel_lines();
        self.lines[panel * lines..][..lines].split_at_mut(self.coder.stages())
    }

    fn grow(&mut self, rows: usize) {
        while self.wants.len() * PANEL < rows {
            self.wants.push(Line([NEVER_WANTED; PANEL]));
            let stages = self.coder.stages();
            self.lines.resize(self.lines.len() + stages, Line([0; PANEL]));
            let end = self.lines.len() + self.coder.width() / 4;
            self.lines.resize(end, Line([ZEROS; PANEL]));
        }
    }

    fn set(&mut self, i: usize, row: &[i16]) {
        let mut code = vec![0; self.coder.width()];
        let slack = self.coder.encode(row, &mut code);
        let mut of_stages = vec![0; self.coder.stages()];
        self.coder.reaches(&code, slack, &mut of_stages);
        let (reaches, codes) = self.panel_mut(i / PANEL);
        for (line, reach) in reaches.iter_mut().zip(of_stages) {
            line.0[i % PANEL] = reach;
        }
        for (line, bytes) in codes.iter_mut().zip(code.as_chunks::<4>().0) {
            line.0[i % PANEL] = i32::from_le_bytes(bytes.map(|c| c as u8 ^ 0x80));
        }
    }

    fn copy(&mut self, from: usize, to: usize) {
        for line in 0..self.panel_lines() {
            let number = self.panel(from / PANEL)[line].0[from % PANEL];
            let at = to / PANEL * self.panel_lines() + line;
            self.lines[at].0[to % PANEL] = number;
        }
    }

    fn clear(&mut self, i: usize) {
        let (reaches, codes) = self.panel_mut(i / PANEL);
        reaches.iter_mut().for_each(|line| line.0[i % PANEL] = 0);
        codes.iter_mut().for_each(|line| line.0[i % PANEL] = ZEROS);
    }

    fn is_clear(&self, i: usize) -> bool {
        let (reaches, codes) = self.panel(i / PANEL).split_at(self.coder.stages());
        reaches.iter().all(|line| line.0[i % PANEL] == 0)
            && codes.iter().all(|line| line.0[i % PANEL] == ZEROS)
    }
}

/// The product of codes that a score of `floor` takes, up to the slacks.
pub(super) fn wanted(coder: &Coder, floor: i32) -> i32 {
    if floor == NEVER { NEVER_WANTED } else { coder.thresholds(&(floor..=floor)).0 }
}

const _: () = assert!(size_of::<Line>() == 64);
