//! Which version of an image lived when, and its vectors, for every worker of the process.

use std::{
    collections::{BTreeMap, BinaryHeap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use schemas::{ContentId, Epoch};

use crate::{
    flow::{RowId, Version},
    quick::QuickMap,
};

/// Locks that many threads share without waiting for each other, most of the time.
const PARTS: usize = 64;

/// The vectors of every version of the process that some worker may still ask for.
///
/// Rule 6's guard compares images of two shards, so any worker reads any shard here. The neighbors
/// box writes it, each worker its own shard; a version that was removed stays readable until the
/// pairs box of every worker has closed the epoch that removed it.
pub struct VectorBook {
    rows: Vec<RwLock<QuickMap<RowId, Arc<Version>>>>,
    lives: Vec<RwLock<HashMap<Arc<str>, Vec<Life>>>>,
    retired: Mutex<Retired>,
}

/// The epochs in which a version is live: from the first on, before the last.
struct Life {
    row: RowId,
    from: Epoch,
    before: Epoch,
}

impl Life {
    fn is_at(&self, epoch: Epoch) -> bool {
        self.from <= epoch && epoch < self.before
    }
}

#[derive(Default)]
struct Retired {
    /// What each epoch removed.
    versions: BTreeMap<Epoch, Vec<(Arc<str>, RowId)>>,
    /// The newest epoch that each worker's pairs box has closed.
    closed: HashMap<usize, Epoch>,
}

impl Default for VectorBook {
    fn default() -> Self {
        VectorBook {
            rows: (0..PARTS).map(|_| RwLock::default()).collect(),
            lives: (0..PARTS).map(|_| RwLock::default()).collect(),
            retired: Mutex::default(),
        }
    }
}

impl VectorBook {
    /// The version, if it has not been forgotten.
    pub fn version(&self, row: RowId) -> Option<Arc<Version>> {
        let part = self.rows[part_of_row(row)].read().unwrap_or_else(PoisonError::into_inner);
        part.get(&row).map(Arc::clone)
    }

    /// The version of the image that is live once `epoch` is closed. Only for an epoch that the
    /// neighbors box has closed and the caller's pairs box has not.
    pub fn live_at(&self, image_id: &str, epoch: Epoch) -> Option<Arc<Version>> {
        let part = self.lives[part_of(image_id)].read().unwrap_or_else(PoisonError::into_inner);
        let lives = part.get(image_id)?;
        let row = lives.iter().find(|life| life.is_at(epoch))?.row;
        drop(part);
        self.version(row)
    }

    /// So many of the versions that are live once `epoch` is closed, drawn by the images' ids: the
    /// same as long as the same images live.
    pub fn sample(&self, epoch: Epoch, most: usize) -> Vec<Arc<Version>> {
        // The greatest of those that were drawn is on top.
        let mut drawn = BinaryHeap::with_capacity(most + 1);
        for part in &self.lives {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            for (image_id, lives) in &*part {
                let Some(life) = lives.iter().find(|life| life.is_at(epoch)) else { continue };
                let lot = ContentId::of(image_id.as_bytes());
                if drawn.len() < most || drawn.peek().is_some_and(|(last, _)| lot < *last) {
                    drawn.push((lot, life.row));
                    if drawn.len() > most {
                        drawn.pop();
                    }
                }
            }
        }
        let rows = drawn.into_sorted_vec();
        rows.into_iter().filter_map(|(_, row)| self.version(row)).collect()
    }

    /// Versions held, and the sum of their vectors' bytes.
    pub fn held(&self) -> (usize, usize) {
        let parts = self.rows.iter().map(|p| p.read().unwrap_or_else(PoisonError::into_inner));
        parts.fold((0, 0), |(versions, bytes), part| {
            let vectors = part.values().flat_map(|version| version.vectors.iter().flatten());
            (versions + part.len(), bytes + vectors.map(|v| size_of_val(&**v)).sum::<usize>())
        })
    }

    /// The version is live from `epoch` on.
    pub(super) fn add(&self, epoch: Epoch, version: &Arc<Version>) {
        let row = version.row;
        write(&self.rows[part_of_row(row)]).insert(row, Arc::clone(version));
        let life = Life { row, from: epoch, before: Epoch::MAX };
        let mut part = write(&self.lives[part_of(&*version.image_id)]);
        // Nearly every image has one.
        let lives = part.entry(Arc::clone(&version.image_id));
        lives.or_insert_with(|| Vec::with_capacity(1)).push(life);
    }

    /// The version is no longer live once `epoch` is closed.
    pub(super) fn remove(&self, epoch: Epoch, image_id: &Arc<str>, row: RowId) {
        let mut part = write(&self.lives[part_of(&**image_id)]);
        let life = part.get_mut(image_id).and_then(|l| l.iter_mut().find(|l| l.row == row));
        let Some(life) = life else { return };
        life.before = epoch;
        drop(part);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.versions.entry(epoch).or_default().push((Arc::clone(image_id), row));
    }

    /// The pairs box of one of `peers` workers has closed `epoch`: what all of them are done with
    /// is forgotten.
    pub(crate) fn closed(&self, worker: usize, peers: usize, epoch: Epoch) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.closed.insert(worker, epoch);
        if retired.closed.len() < peers {
            return;
        }
        let all = retired.closed.values().copied().min().unwrap_or(0);
        let mut forgotten = Vec::new();
        while let Some(entry) = retired.versions.first_entry().filter(|e| *e.key() <= all) {
            forgotten.extend(entry.remove());
        }
        drop(retired);
        for (image_id, row) in forgotten {
            write(&self.rows[part_of_row(row)]).remove(&row);
            let mut part = write(&self.lives[part_of(&*image_id)]);
            if let Some(lives) = part.get_mut(&image_id) {
                lives.retain(|life| life.row != row);
                if lives.is_empty() {
                    part.remove(&image_id);
                }
            }
        }
    }
}

/// A panic elsewhere ends the process, so a poisoned lock needs no answer of its own.
fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// A worker numbers its versions one after the other.
fn part_of_row(row: RowId) -> usize {
    row as usize % PARTS
}

fn part_of<K: Hash + ?Sized>(key: &K) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as usize % PARTS
}
