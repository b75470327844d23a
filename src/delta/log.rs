//! The log of one table: its state at a version, from a checkpoint and the commits after it, and
//! the one way to add a commit.

use std::collections::BTreeMap;
use std::ops::Range;

use schemas::limits;

use super::action::{Action, Add, Commit, Metadata, Protocol, Remove, Txn};
use super::decide::{self, Answer, Attempt, Found};
use super::store::Created;
use super::{EPOCH, Error, GENERATION, Result, Store, checkpoint};

/// A table as its log describes it at one version.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub version: u64,
    pub protocol: Protocol,
    pub metadata: Metadata,
    pub txns: BTreeMap<String, Txn>,
    /// Live files by path. A path is live at most once, with one deletion vector or none.
    pub files: BTreeMap<String, Add>,
    /// Files taken out, which older versions still name, so that a vacuum spares them for a while.
    pub removed: BTreeMap<String, Remove>,
}

pub(super) fn folder(table: &str) -> String {
    format!("{table}/_delta_log")
}

pub(super) fn commit_name(table: &str, version: u64) -> String {
    format!("{table}/_delta_log/{version:020}.json")
}

impl Snapshot {
    pub(super) fn txn(&self, app_id: &str) -> Option<i64> {
        self.txns.get(app_id).map(|txn| txn.version)
    }

    /// The newest epoch in the table. Below zero stands for none: a `txn` cannot be taken away.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.txn(EPOCH).and_then(|epoch| u64::try_from(epoch).ok())
    }

    pub(super) fn generation(&self) -> Option<u64> {
        self.txn(GENERATION).and_then(|generation| u64::try_from(generation).ok())
    }

    /// Takes in the actions of one commit or checkpoint. Removes go first: a file whose deletion
    /// vector changes is removed and added by the same commit, in no particular order.
    pub(super) fn apply(&mut self, version: u64, actions: &[Action]) {
        self.version = version;
        for remove in actions.iter().filter_map(|action| action.remove.as_ref()) {
            self.files.remove(&remove.path);
            self.removed.insert(remove.path.clone(), remove.clone());
        }
        for action in actions {
            if let Some(add) = &action.add {
                self.removed.remove(&add.path);
                self.files.insert(add.path.clone(), add.clone());
            }
            if let Some(txn) = &action.txn {
                self.txns.insert(txn.app_id.clone(), txn.clone());
            }
            if let Some(metadata) = &action.meta_data {
                self.metadata = metadata.clone();
            }
            if let Some(protocol) = &action.protocol {
                self.protocol = protocol.clone();
            }
        }
    }

    /// The table at version `at`, or at its newest version; `None` where there is no table.
    pub(super) fn load(store: &Store, table: &str, at: Option<u64>) -> Result<Option<Snapshot>> {
        // The pointer to the newest checkpoint only shortens the listing; it may lag.
        let hint = if at.is_none() { checkpoint::hint(store, table)? } else { None };
        let after = hint.map_or("0".to_owned(), |version| format!("{version:020}"));
        let names = store.list(&folder(table), &after)?;
        let wanted = |version: &u64| at.is_none_or(|at| *version <= at);
        let numbered = |suffix: &str| -> Vec<u64> {
            let stems = names.iter().filter_map(|(name, _)| name.strip_suffix(suffix));
            let whole = stems.filter(|stem| stem.len() == 20);
            whole.filter_map(|stem| stem.parse().ok()).filter(wanted).collect()
        };
        let (commits, checkpoints) = (numbered(".json"), numbered(".checkpoint.parquet"));
        let mut snapshot = match checkpoints.last() {
            Some(&version) => checkpoint::read(store, table, version)?,
            None if commits.is_empty() => return Ok(None),
            None => Snapshot::default(),
        };
        let first = checkpoints.last().map_or(0, |version| version + 1);
        let newest = commits.last().copied().unwrap_or(snapshot.version).max(snapshot.version);
        let newest = at.unwrap_or(newest);
        each_commit(store, table, first..newest + 1, |version, commit| {
            snapshot.apply(version, &commit.actions);
        })?;
        snapshot.check(table)?;
        Ok(Some(snapshot))
    }

    /// Refuses tables that need more than what this code does.
    fn check(&self, table: &str) -> Result<()> {
        let known = |features: &Option<Vec<String>>| {
            let known = ["deletionVectors", "invariants"];
            features.iter().flatten().all(|feature| known.contains(&feature.as_str()))
        };
        let Protocol { min_reader_version: reader, min_writer_version: writer, .. } = self.protocol;
        let features =
            known(&self.protocol.reader_features) && known(&self.protocol.writer_features);
        if (reader, writer) != (3, 7) || !features || !self.metadata.partition_columns.is_empty() {
            let found = format!("{:?}", self.protocol);
            return Err(Error::Unreadable(format!("{table} was changed by other tools: {found}")));
        }
        Ok(())
    }

    /// The version of the newest commit that took the table to an epoch above `epoch`.
    pub(super) fn last_above(&self, store: &Store, table: &str, epoch: Option<u64>) -> Result<u64> {
        let above = |txn: i64| u64::try_from(txn).ok().filter(|held| Some(*held) > epoch);
        for version in (0..=self.version).rev() {
            let Some(commit) = read_commit(store, table, version)? else { break };
            if commit.txn(EPOCH).and_then(above).is_some() {
                return Ok(version);
            }
        }
        Err(Error::Unreadable(format!("{table}: the commit of its newest epoch left the log")))
    }
}

/// Versions whose commits are there, ascending.
pub(super) fn commits(store: &Store, table: &str) -> Result<Vec<u64>> {
    let names = store.list(&folder(table), "0")?;
    let stems = names.iter().filter_map(|(name, _)| name.strip_suffix(".json"));
    Ok(stems.filter(|stem| stem.len() == 20).filter_map(|stem| stem.parse().ok()).collect())
}

/// Reads commits of a table, which must all be there, in their order.
pub(super) fn each_commit(
    store: &Store,
    table: &str,
    versions: Range<u64>,
    mut take: impl FnMut(u64, Commit),
) -> Result<()> {
    let mut first = versions.start;
    while first < versions.end {
        let end = versions.end.min(first + limits::LOG_COMMITS_AT_ONCE);
        let names: Vec<String> = (first..end).map(|version| commit_name(table, version)).collect();
        let contents = store.get_all(&names)?;
        for ((version, name), content) in (first..end).zip(&names).zip(contents) {
            let missing = || Error::Unreadable(format!("{name} is missing"));
            take(version, Commit::decode(&content.ok_or_else(missing)?, name)?);
        }
        first = end;
    }
    Ok(())
}

pub(super) fn read_commit(store: &Store, table: &str, version: u64) -> Result<Option<Commit>> {
    let name = commit_name(table, version);
    let content = store.get(&name)?;
    content.map(|content| Commit::decode(&content, &name)).transpose()
}

/// Tries to make `commit` the given version of the table, once. `false`: the version is taken.
pub(super) fn put_commit(
    store: &Store,
    table: &str,
    version: u64,
    commit: &Commit,
) -> Result<bool> {
    let (answer, failure) = match store.create(&commit_name(table, version), commit.encode()) {
        Created::Yes => return Ok(true),
        Created::Exists => (Answer::Exists, None),
        Created::Failed(error) => (Answer::Failed, Some(error)),
    };
    let found = match read_commit(store, table, version)? {
        None => Found::Nothing,
        Some(there) if there.id().is_some() && there.id() == commit.id() => Found::Ours,
        Some(_) => Found::Another,
    };
    match decide::attempt(answer, found) {
        Attempt::Committed => Ok(true),
        Attempt::Taken => Ok(false),
        Attempt::Unknown => Err(failure.unwrap_or_else(|| {
            Error::Io(format!("{} exists and is not there", commit_name(table, version)))
        })),
    }
}
