//! Rows as vectors and as codes, laid out for the filter.

use std::{ops::Range, sync::Arc};

use super::{NEVER, NEVER_WANTED, Sides};
use crate::codes::Coder;

/// Rows whose codes lie side by side: lane `l` of a line belongs to row `l`.
pub(super) const PANEL: usize = 16;

/// Bytes of codes that are allocated at once: a corpus of any size has at most so many to spare, and
/// none is ever copied because there are more rows.
const CHUNK_BYTES: usize = 1 << 20;

/// A code of zeros, four bytes of it: see the module on the offset.
const ZEROS: i32 = i32::from_le_bytes([0x80; 4]);

/// A cache line: four bytes of the code, or one number, of each row of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [i32; PANEL]);

/// A growable matrix of rows of `dim` components that can be searched: as 16-bit vectors and as
/// 8-bit codes, with the floor of each row, see [`super::search`].
///
/// The vectors are shared with whoever gave them, so that a process holds each once; the codes are
/// its own. Rows have no holes: the last one moves into the gap that a removal leaves.
pub struct CodedRows {
    rows: Vec<Arc<[i16]>>,
    codes: Codes,
    floors: Vec<i32>,
}

struct Codes {
    coder: Coder,
    /// Panel after panel: a line of reaches for each stage, then the codes. All chunks but the last
    /// have as many panels as fit, an even number.
    chunks: Vec<Vec<Line>>,
    panels_per_chunk: usize,
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
        CodedRows { rows: Vec::new(), codes: Codes::new(dim), floors: Vec::new() }
    }

    /// Appends a row that looks for nothing ([`NEVER`]) and returns its index. Panics if it has not
    /// `dim` components.
    pub fn push(&mut self, row: Arc<[i16]>) -> usize {
        assert_eq!(row.len(), self.dim(), "a row has the matrix's dimension");
        let i = self.rows.len();
        self.codes.grow(i + 1);
        self.codes.set(i, &row);
        self.rows.push(row);
        self.floors.push(NEVER);
        i
    }

    /// Removes row `i`; the last row, if it is another, is row `i` from now on, floor included. No
    /// byte of what was removed stays in memory that is only spare. Panics if it is not there.
    pub fn swap_remove(&mut self, i: usize) {
        self.rows.swap_remove(i);
        self.floors.swap_remove(i);
        let last = self.rows.len();
        if i != last {
            self.codes.copy(last, i);
        }
        self.codes.clear(last);
        self.codes.shrink(last);
        shrink(&mut self.rows);
        shrink(&mut self.floors);
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

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[i16] {
        &self.rows[i]
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
        self.codes.coder.dim()
    }

    /// Bytes held beside the shared vectors, spare capacity included.
    pub fn bytes(&self) -> usize {
        let lines: usize = self.codes.chunks.iter().map(Vec::capacity).sum();
        (lines + self.codes.wants.capacity()) * size_of::<Line>()
            + self.rows.capacity() * size_of::<Arc<[i16]>>()
            + self.floors.capacity() * size_of::<i32>()
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

    /// Whether the lanes of the last panel behind the rows hold nothing.
    #[cfg(test)]
    pub(super) fn spare_is_clear(&self) -> bool {
        let end = self.codes.wants.len() * PANEL;
        (self.len()..end).all(|i| self.codes.is_clear(i))
            && self.codes.wants.len() == self.len().div_ceil(PANEL)
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
        let panel_bytes = (coder.stages() + coder.width() / 4) * size_of::<Line>();
        let panels_per_chunk = 2 * (CHUNK_BYTES / panel_bytes / 2).max(1);
        Codes { coder, chunks: Vec::new(), panels_per_chunk, wants: Vec::new(), check }
    }

    fn panel_lines(&self) -> usize {
        self.coder.stages() + self.coder.width() / 4
    }

    fn panel(&self, panel: usize) -> &[Line] {
        let begin = panel % self.panels_per_chunk * self.panel_lines();
        &self.chunks[panel / self.panels_per_chunk][begin..][..self.panel_lines()]
    }

    fn panel_mut(&mut self, panel: usize) -> (&mut [Line], &mut [Line]) {
        let lines = self.panel_lines();
        let begin = panel % self.panels_per_chunk * lines;
        let chunk = &mut self.chunks[panel / self.panels_per_chunk];
        chunk[begin..][..lines].split_at_mut(self.coder.stages())
    }

    fn grow(&mut self, rows: usize) {
        let most = self.panels_per_chunk * self.panel_lines();
        while self.wants.len() * PANEL < rows {
            if self.wants.len().is_multiple_of(self.panels_per_chunk) {
                self.chunks.push(Vec::new());
            }
            self.wants.push(Line([NEVER_WANTED; PANEL]));
            let (stages, words) = (self.coder.stages(), self.coder.width() / 4);
            let chunk = self.chunks.last_mut().expect("there is one by now");
            if chunk.len() == chunk.capacity() {
                // Twice as much, as a vector grows by itself, but not more than is ever used.
                let more = chunk.len().max(stages + words).min(most - chunk.len());
                chunk.reserve_exact(more);
            }
            chunk.resize(chunk.len() + stages, Line([0; PANEL]));
            chunk.resize(chunk.len() + words, Line([ZEROS; PANEL]));
        }
    }

    /// Lets go of what so many rows do not need; the rows behind them are clear.
    fn shrink(&mut self, rows: usize) {
        let panels = rows.div_ceil(PANEL);
        self.wants.truncate(panels);
        shrink(&mut self.wants);
        self.chunks.truncate(panels.div_ceil(self.panels_per_chunk));
        let in_last = panels - self.chunks.len().saturating_sub(1) * self.panels_per_chunk;
        let lines = in_last * self.panel_lines();
        if let Some(last) = self.chunks.last_mut() {
            last.truncate(lines);
        }
        shrink(&mut self.chunks);
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
            let begin = to / PANEL % self.panels_per_chunk * self.panel_lines();
            let chunk = &mut self.chunks[to / PANEL / self.panels_per_chunk];
            chunk[begin + line].0[to % PANEL] = number;
        }
        self.wants[to / PANEL].0[to % PANEL] = self.wants[from / PANEL].0[from % PANEL];
    }

    fn clear(&mut self, i: usize) {
        let (reaches, codes) = self.panel_mut(i / PANEL);
        reaches.iter_mut().for_each(|line| line.0[i % PANEL] = 0);
        codes.iter_mut().for_each(|line| line.0[i % PANEL] = ZEROS);
        self.wants[i / PANEL].0[i % PANEL] = NEVER_WANTED;
    }

    #[cfg(test)]
    fn is_clear(&self, i: usize) -> bool {
        let (reaches, codes) = self.panel(i / PANEL).split_at(self.coder.stages());
        reaches.iter().all(|line| line.0[i % PANEL] == 0)
            && codes.iter().all(|line| line.0[i % PANEL] == ZEROS)
    }
}

/// Gives back what is spare if that is most of it.
fn shrink<T>(held: &mut Vec<T>) {
    if held.len() < held.capacity() / 4 {
        held.shrink_to(2 * held.len());
    }
}

/// The product of codes that a score of `floor` takes, up to the slacks.
pub(super) fn wanted(coder: &Coder, floor: i32) -> i32 {
    if floor == NEVER { NEVER_WANTED } else { coder.thresholds(&(floor..=floor)).0 }
}

const _: () = assert!(size_of::<Line>() == 64);
