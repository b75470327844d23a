//! Which objects of a table older versions need: what the newest version names, what left it not
//! long ago, and what pinned versions name.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::action::{Action, Add};
use super::super::log::{Snapshot, each_commit};
use super::super::{Error, Result, Store, vector};

/// What an open table knows of the objects that its newest version no longer names.
#[derive(Default)]
pub(in super::super) struct Ledger {
    /// The version at which the table was opened: what left with later commits is in `left`.
    since: u64,
    /// The version at which an object left, by its name below the table.
    left: HashMap<String, u64>,
    /// Objects of all versions from one up to `since`, once they were asked for.
    earlier: Option<(u64, HashSet<String>)>,
    /// Objects of pinned versions.
    pinned: HashMap<u64, HashSet<String>>,
}

/// The objects that rows of a file are in: its own, and the one of its deletion vector.
fn objects(add: &Add) -> Result<impl Iterator<Item = String> + use<>> {
    let vector = match &add.deletion_vector {
        Some(vector) if vector.storage_type != "i" => {
            let bad = || Error::Unreadable(format!("{}: bad name of a deletion vector", add.path));
            Some(vector::object(vector).ok_or_else(bad)?)
        }
        _ => None,
    };
    Ok([add.path.clone()].into_iter().chain(vector))
}

fn objects_of<'a>(adds: impl IntoIterator<Item = &'a Add>) -> Result<HashSet<String>> {
    let mut all = HashSet::new();
    for add in adds {
        all.extend(objects(add)?);
    }
    Ok(all)
}

impl Ledger {
    pub(super) fn new(since: u64) -> Ledger {
        Ledger { since, ..Ledger::default() }
    }

    /// Takes in a commit, which is applied to `snapshot` meanwhile.
    pub(super) fn apply(
        &mut self,
        snapshot: &mut Snapshot,
        version: u64,
        actions: &[Action],
    ) -> Result<()> {
        let removes = actions.iter().filter_map(|action| action.remove.as_ref());
        let touched = removes.filter_map(|remove| snapshot.files.get(&remove.path));
        let before = objects_of(touched)?;
        snapshot.apply(version, actions);
        for name in objects_of(actions.iter().filter_map(|action| action.add.as_ref()))? {
            self.left.remove(&name);
        }
        if !before.is_empty() {
            let now = objects_of(snapshot.files.values())?;
            let gone = before.into_iter().filter(|name| !now.contains(name));
            self.left.extend(gone.map(|name| (name, version)));
        }
        Ok(())
    }

    /// Objects of all versions from `oldest` on, and of those pinned ones.
    ///
    /// # Errors
    /// A version cannot be read.
    pub(in super::super) fn needed(
        &mut self,
        (store, table): (&Store, &str),
        snapshot: &Snapshot,
        oldest: u64,
        pinned: &BTreeSet<u64>,
    ) -> Result<HashSet<String>> {
        let mut needed = objects_of(snapshot.files.values())?;
        let later = self.left.iter().filter(|(_, left)| **left > oldest);
        needed.extend(later.map(|(name, _)| name.clone()));
        if oldest >= self.since {
            self.earlier = None;
        } else if self.earlier.as_ref().is_none_or(|(from, _)| *from > oldest) {
            self.earlier = Some((oldest, between(store, table, oldest, self.since)?));
        }
        if let Some((_, earlier)) = &self.earlier {
            needed.extend(earlier.iter().cloned());
        }
        self.pinned.retain(|version, _| pinned.contains(version));
        for version in pinned.iter().filter(|version| **version < oldest) {
            if !self.pinned.contains_key(version) {
                let at = at(store, table, *version)?;
                self.pinned.insert(*version, objects_of(at.files.values())?);
            }
            needed.extend(self.pinned[version].iter().cloned());
        }
        Ok(needed)
    }

    /// Whether an object is known to have been part of the table, and that by a version that is
    /// not kept any more.
    pub(in super::super) fn has_left(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    pub(in super::super) fn forget(&mut self, name: &str) {
        self.left.remove(name);
    }
}

pub(in super::super) fn at(store: &Store, table: &str, version: u64) -> Result<Snapshot> {
    let missing = || Error::Unreadable(format!("{table} has no version {version}"));
    Snapshot::load(store, table, Some(version))?.ok_or_else(missing)
}

/// Objects of all versions from `first` to `last`.
fn between(store: &Store, table: &str, first: u64, last: u64) -> Result<HashSet<String>> {
    let mut all = objects_of(at(store, table, first)?.files.values())?;
    let mut failed = None;
    each_commit(store, table, first + 1..last + 1, |_, commit| {
        let adds = commit.actions.iter().filter_map(|action| action.add.as_ref());
        match objects_of(adds) {
            Ok(added) => all.extend(added),
            Err(error) => failed = Some(error),
        }
    })?;
    failed.map_or(Ok(all), Err)
}
