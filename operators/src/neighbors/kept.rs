//! The best candidates of one image in one band.

use std::{cmp::Ordering, collections::HashSet, hash::BuildHasherDefault, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{flow::RowId, quick::QuickHasher};

/// Versions that cease to be live in an epoch: every entry of every list is looked up in it.
pub(super) type Gone = HashSet<RowId, BuildHasherDefault<QuickHasher>>;

/// A version that scores within a band. There are more of these than of anything else, so what
/// decides a tie, the image's id, is looked up when there is one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub row: RowId,
    pub score: i32,
}

/// Says the image ids of the versions that lists name.
pub(super) trait Names {
    /// What the version's image is called.
    fn name(&self, row: RowId) -> Arc<str>;
    /// Where that name stands before or behind another, bytewise.
    fn compare(&self, row: RowId, image_id: &str) -> Ordering;
}

/// What [`Kept::insert`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It ranks behind what this list can vouch for.
    No,
    /// It stands at this index now.
    At(usize),
}

/// The first entries, in rule 3's order (score descending, then image id ascending, bytewise), of all
/// live versions that score within the band; at most `capacity` of them.
///
/// It is exact however it came about: entries are always a prefix of the true order. Once an entry
/// was dropped for want of room the list is not `complete`, and what comes after its last entry is
/// unknown: deletes shorten it, and a newcomer behind the last entry must not be appended, for a
/// dropped one may stand between.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub entries: Vec<Candidate>,
    pub complete: bool,
}

impl Kept {
    /// The list of a band in which nothing lives.
    pub fn empty() -> Kept {
        Kept { entries: Vec::new(), complete: true }
    }

    /// The list of all that several shards hold, from the lists of each: a prefix of each makes a
    /// prefix of all.
    pub fn merged(parts: Vec<Kept>, capacity: usize, names: &impl Names) -> Kept {
        let mut complete = parts.iter().all(|part| part.complete);
        let mut entries: Vec<Candidate> = parts.into_iter().flat_map(|part| part.entries).collect();
        entries.sort_unstable_by(|a, b| {
            let by_id = || names.compare(a.row, &names.name(b.row));
            b.score.cmp(&a.score).then_with(by_id)
        });
        complete &= entries.len() <= capacity;
        entries.truncate(capacity);
        entries.shrink_to_fit();
        Kept { entries, complete }
    }

    /// A version becomes live and scores within the band.
    pub fn insert(
        &mut self,
        score: i32,
        image_id: &Arc<str>,
        row: RowId,
        capacity: usize,
        names: &impl Names,
    ) -> Inserted {
        let full = self.entries.len() == capacity;
        let before = |e: &Candidate| {
            let by_id = || names.compare(e.row, image_id);
            score.cmp(&e.score).then_with(by_id) == Ordering::Less
        };
        // Nearly every candidate of a full list ends here, without a search.
        if (full || !self.complete) && self.entries.last().is_none_or(before) {
            self.complete = false;
            return Inserted::No;
        }
        let at = self.entries.partition_point(before);
        if full {
            self.entries.pop();
            self.complete = false;
        }
        self.entries.insert(at, Candidate { row, score });
        Inserted::At(at)
    }

    /// The least score that can still change this list, of a band that begins at `lo`.
    ///
    /// While the list is complete, everything in the band can: what finds no room says that it no
    /// longer is. Then it takes what ranks before the last entry, hence at least its score (ids
    /// decide ties); `None` if there is no entry, for nothing is known of what would come first.
    pub fn floor(&self, lo: i32) -> Option<i32> {
        if self.complete { Some(lo) } else { self.entries.last().map(|last| last.score) }
    }

    /// Versions cease to be live; gives the index of the first entry that goes.
    pub fn remove(&mut self, gone: &Gone) -> Option<usize> {
        let first = self.entries.iter().position(|e| gone.contains(&e.row))?;
        self.entries.retain(|e| !gone.contains(&e.row));
        Some(first)
    }

    /// Whether the first `neighbors` of the band may not all be here.
    pub fn short(&self, neighbors: usize) -> bool {
        !self.complete && self.entries.len() < neighbors
    }
}
