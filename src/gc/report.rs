//! What a collection did and found: the object that it leaves, and its words.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::proof::Proof;
use crate::{errln, outln};

/// What was removed, or would be, from one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Rows of images, contents, captions or texts that have gone, as often as files held them.
    pub rows: u64,
    /// Files that held some of them; what else was in them was written anew.
    pub files: u64,
    /// Files and deletion vectors that were removed.
    pub objects_removed: u64,
    /// Their bytes.
    pub bytes_removed: u64,
    /// Bytes that were written anew.
    pub bytes_written: u64,
    /// Commits and checkpoints that were removed.
    pub log_removed: u64,
}

/// A collection. It names no image: the ids that left are in `changes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The epoch whose live images stayed.
    pub epoch: u64,
    /// Nothing was done.
    pub dry_run: bool,
    /// By table.
    pub tables: BTreeMap<String, Left>,
    /// Snapshots that show fewer rows since, with the number of their images that have gone.
    pub snapshots: BTreeMap<String, u64>,
    /// Earlier epochs that are no longer kept.
    pub epochs_dropped: BTreeSet<u64>,
    /// Files of state checkpoints that named images that are not live.
    pub state_files: u64,
    /// What a scan of everything found afterwards; none of a dry run.
    pub proof: Option<Proof>,
    /// How long it took to find what goes and to remove it, and to prove it.
    pub seconds: (f64, f64),
}

impl Report {
    /// For people; the report as JSON is on stdout where that was asked for.
    pub fn print(&self) {
        let would = if self.dry_run { "would be " } else { "" };
        outln!("epoch {}", self.epoch);
        for (name, left) in self.tables.iter().filter(|(_, left)| **left != Left::default()) {
            let Left { rows, files, objects_removed, bytes_removed, .. } = left;
            outln!(
                "{name}: {rows} rows {would}removed, from {files} files; {objects_removed} objects \
                 ({bytes_removed} bytes) {would}deleted"
            );
        }
        if self.tables.values().all(|left| *left == Left::default()) {
            outln!("nothing of what was taken down or replaced is in the tables");
        }
        for (name, images) in &self.snapshots {
            let rows = if self.dry_run { "would lose" } else { "has lost" };
            outln!(
                "snapshot {name} {rows} the rows of {images} images that are no longer to be used"
            );
        }
        if let (Some(first), Some(last)) = (self.epochs_dropped.first(), self.epochs_dropped.last())
        {
            let count = self.epochs_dropped.len();
            let not = if self.dry_run { "would not be kept" } else { "are not kept any more" };
            outln!("{count} earlier epochs, {first} to {last}, {not}");
        }
        if self.state_files > 0 {
            let files = self.state_files;
            outln!(
                "{files} files of state checkpoints that named images {would}renewed or deleted"
            );
        }
        let Some(proof) = &self.proof else { return };
        let rows: u64 = proof.rows.values().sum();
        let (removing, proving) = self.seconds;
        outln!(
            "{} objects ({} bytes), {rows} rows and {} logs read again: {} findings ({removing:.1} s \
             and {proving:.1} s)",
            proof.objects,
            proof.bytes,
            proof.logs,
            proof.findings_count
        );
        for finding in &proof.findings {
            errln!("{finding}");
        }
    }
}
