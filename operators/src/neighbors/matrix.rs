//! The vectors of one channel of a shard.

use std::sync::Arc;

use kernels::search::CodedRows;

/// Rows are the vectors of live images, without holes, so a search never multiplies what is not
/// there. They are the versions' own: only the codes are held here alone.
pub(super) struct Matrix {
    pub rows: CodedRows,
    /// Place of each row's image.
    pub places: Vec<u32>,
}

impl Matrix {
    pub fn new(dim: usize) -> Matrix {
        Matrix { rows: CodedRows::new(dim), places: Vec::new() }
    }

    /// Adds a row that looks for nothing, and says where it stands.
    pub fn push(&mut self, vector: &Arc<[i16]>, place: u32) -> u32 {
        self.places.push(place);
        self.rows.push(Arc::clone(vector)) as u32
    }

    /// Gives the place of the image whose row moved to `at`, if one did.
    pub fn remove(&mut self, at: u32) -> Option<u32> {
        self.rows.swap_remove(at as usize);
        self.places.swap_remove(at as usize);
        self.places.get(at as usize).copied()
    }
}
