//! The vectors of one channel of a shard.

use kernels::search::CodedRows;

/// Rows `0..live` are the vectors of live images, without holes: the last one moves into the gap
/// that a removal leaves, so a search never multiplies what is not there.
pub(super) struct Matrix {
    pub rows: CodedRows,
    /// Place of each row's image.
    pub places: Vec<u32>,
    pub live: usize,
}

impl Matrix {
    pub fn new(dim: usize) -> Matrix {
        Matrix { rows: CodedRows::new(dim), places: Vec::new(), live: 0 }
    }

    /// Adds a row that looks for nothing, and says where it stands.
    pub fn push(&mut self, vector: &[i16], place: u32) -> usize {
        let at = self.live;
        if at == self.rows.len() {
            self.rows.push(vector);
            self.places.push(place);
        } else {
            self.rows.set(at, vector);
            self.places[at] = place;
        }
        self.live += 1;
        at
    }

    /// Gives the place of the image whose row moved to `at`, if one did.
    pub fn remove(&mut self, at: usize) -> Option<u32> {
        self.live -= 1;
        let last = self.live;
        if at != last {
            self.rows.copy_within(last, at);
            self.places[at] = self.places[last];
        }
        // What has left must not stay readable in memory that is only spare.
        self.rows.clear(last);
        (at != last).then(|| self.places[at])
    }
}
