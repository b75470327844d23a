//! What of the tables is still needed, and removing the rest.
//!
//! A version stays readable while a page under `_everpair/epochs/` or a snapshot names it, and for
//! some time after, because somebody may be reading it. What the newest version needs is never
//! touched, nor what a start may go back to: between epochs that is the newest version.
//!
//! ```text
//!   list objects ─► is ours the newest generation? ─► decide ─► checkpoints of pinned versions
//!                                                                  ─► commits go ─► objects go
//! ```
//!
//! Commits go first: killed at any point this leaves objects that no log names, which the next call
//! finds. A newer generation that began after the list has put nothing into it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::log::{commit_name, read_commit};
use super::table::{Ledger, at};
use super::{EPOCH, Error, Publisher, Result, Store, checkpoint, generation, now_ms, vector};

/// When what left the versions that are kept.
pub(super) const MARKS: &str = "_everpair/retained.json";
/// Marks are this part of the age apart: things go late by at most as much.
const MARKS_PER_AGE: u32 = 8;

/// What must stay readable besides the newest version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keep {
    /// By table: the oldest version that a kept page under `_everpair/epochs/` names; without one
    /// it is the newest.
    pub oldest: BTreeMap<String, u64>,
    /// By table: versions that snapshots pin.
    pub pinned: BTreeMap<String, BTreeSet<u64>>,
    /// What left all these versions stays for so long: somebody may be reading it. So do objects
    /// that no log names. With zero both go at once.
    pub age: Duration,
}

/// An object that was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Below the root of the tables.
    pub path: String,
    pub bytes: u64,
}

/// What was kept at a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Mark {
    at_ms: i64,
    oldest: BTreeMap<String, u64>,
    pinned: BTreeMap<String, BTreeSet<u64>>,
}

/// The log of one table, and what of it must stay readable.
#[derive(Clone, Debug, Default)]
pub struct LogFacts {
    /// The newest version.
    pub newest: u64,
    /// Every version from here on stays.
    pub oldest: u64,
    pub pinned: BTreeSet<u64>,
    /// Versions whose commit is there.
    pub commits: BTreeSet<u64>,
    /// Versions that have a checkpoint.
    pub checkpoints: BTreeSet<u64>,
    /// The checkpoint that readers begin with.
    pub pointer: Option<u64>,
    /// A commit that is needed for what it says, whatever reads the rows.
    pub needed: Option<u64>,
}

/// What is to become of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPlan {
    /// The oldest version that is kept and not pinned: the wanted one, or the oldest that the log
    /// still has.
    pub oldest: u64,
    /// Pinned versions that the log still has.
    pub pinned: BTreeSet<u64>,
    /// Versions that get a checkpoint before anything goes.
    pub write: BTreeSet<u64>,
    pub commits: BTreeSet<u64>,
    pub checkpoints: BTreeSet<u64>,
}

/// What the log of a table can lose. A version is read from a checkpoint at or below it and every
/// commit in between.
pub fn log(facts: &LogFacts) -> LogPlan {
    let readable = |version: u64| {
        let first = facts.checkpoints.range(..=version).next_back().map_or(0, |at| at + 1);
        version <= facts.newest && (first..=version).all(|at| facts.commits.contains(&at))
    };
    // The log is whole from the commits that lead up to the newest version without a gap, and from
    // the first checkpoint among them.
    let mut first = facts.newest + 1;
    while first > 0 && facts.commits.contains(&(first - 1)) {
        first -= 1;
    }
    let whole = facts.checkpoints.range(first.saturating_sub(1)..=facts.newest).next();
    let whole = if first == 0 { Some(0) } else { whole.copied() };
    let oldest = facts.oldest.max(whole.unwrap_or(facts.newest)).min(facts.newest);
    let pinned: BTreeSet<u64> =
        facts.pinned.iter().copied().filter(|version| readable(*version)).collect();
    let plan = LogPlan { oldest, pinned, ..LogPlan::default() };
    // Readers look for what the pointer names before they look for anything else.
    let base = facts.pointer.and_then(|at| facts.checkpoints.range(..=oldest.min(at)).next_back());
    let Some(&base) = base else { return plan };
    let stays = |version: &u64| *version >= base || plan.pinned.contains(version);
    let commits = facts.commits.iter().copied();
    let commits = commits.filter(|at| !stays(at) && facts.needed != Some(*at)).collect();
    let checkpoints = facts.checkpoints.iter().copied().filter(|at| !stays(at)).collect();
    let write = plan.pinned.range(..base).copied();
    let write = write.filter(|version| !facts.checkpoints.contains(version)).collect();
    LogPlan { write, commits, checkpoints, ..plan }
}

/// Whether an object below a table goes: it is `needed` by a version that is kept, it was part of
/// one that is not (`left`), or nobody knows it and it was written `old_ms` ago.
pub fn goes(needed: bool, left: bool, old_ms: i64, age: Duration) -> bool {
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    !needed && (left || age.is_zero() || old_ms >= age_ms)
}

/// What was kept at any time within the age, by the marks in the order of their times; `None` when
/// they do not reach back so far. Marks that are of no more use go.
fn kept(marks: &mut Vec<Mark>, now_ms: i64, keep: &Keep) -> Option<Keep> {
    let age_ms = i64::try_from(keep.age.as_millis()).unwrap_or(i64::MAX);
    let now = Mark { at_ms: now_ms, oldest: keep.oldest.clone(), pinned: keep.pinned.clone() };
    // A clock that was ahead must not make a mark last for ever.
    marks.iter_mut().for_each(|mark| mark.at_ms = mark.at_ms.min(now_ms));
    let apart = age_ms / i64::from(MARKS_PER_AGE);
    if marks.last().is_none_or(|last| now_ms - last.at_ms >= apart) {
        marks.push(now.clone());
    }
    // What a mark says held until the next one, so the newest that is old enough counts too.
    let old = marks.iter().rposition(|mark| now_ms.saturating_sub(mark.at_ms) >= age_ms)?;
    marks.drain(..old);
    let mut kept = Keep { age: keep.age, ..Keep::default() };
    for mark in marks.iter().chain([&now]) {
        for (table, version) in &mark.oldest {
            let oldest = kept.oldest.entry(table.clone()).or_insert(*version);
            *oldest = (*oldest).min(*version);
        }
        for (table, versions) in &mark.pinned {
            kept.pinned.entry(table.clone()).or_default().extend(versions);
        }
    }
    Some(kept)
}

impl Publisher {
    /// Removes what no version that is kept needs, of all tables; with `dry_run` only says what.
    /// To be called between epochs.
    ///
    /// # Errors
    /// `Fenced` when a newer writer is there. After any other the tables are as they should be, and
    /// some of what was to go may still be there: another call finds it.
    pub fn retain(&mut self, keep: &Keep, dry_run: bool) -> Result<Vec<Gone>> {
        let names: Vec<String> = self.tables().iter().map(|table| table.name().into()).collect();
        let mut gone = Vec::new();
        for name in names {
            gone.extend(self.retain_table(&name, keep, dry_run)?);
        }
        Ok(gone)
    }

    /// The same of one table.
    pub fn retain_table(&mut self, name: &str, keep: &Keep, dry_run: bool) -> Result<Vec<Gone>> {
        self.refuse_if_stopped()?;
        let Some(keep) = self.marked(keep, dry_run)? else { return Ok(Vec::new()) };
        let store = self.store.clone();
        let anchor = self.tables.len() - 1;
        let Some(index) = self.tables.iter().position(|table| table.name() == name) else {
            return Err(Error::Refused(format!("there is no table {name}")));
        };
        let listed = store.list_all(name)?;
        self.refuse_if_newer()
            .map_err(|error| generation::explained(&store, self.generation, error))?;
        let table = &mut self.tables[index];
        let in_log = |suffix: &str| -> BTreeSet<u64> {
            let names = listed.iter().filter_map(|one| one.name.strip_prefix("_delta_log/"));
            let stems = names.filter_map(|name| name.strip_suffix(suffix));
            stems.filter(|stem| stem.len() == 20).filter_map(|stem| stem.parse().ok()).collect()
        };
        let newest = table.version();
        let mut facts = LogFacts {
            newest,
            oldest: keep.oldest.get(name).copied().unwrap_or(newest),
            pinned: keep.pinned.get(name).cloned().unwrap_or_default(),
            commits: in_log(".json"),
            checkpoints: in_log(".checkpoint.parquet"),
            pointer: checkpoint::hint(&store, name)?,
            needed: None,
        };
        // Claims write none, and one may have failed to be written, or the pointer to it.
        let last = facts.pointer.filter(|at| facts.checkpoints.contains(at));
        let due = newest - last.unwrap_or(0) >= table.checkpoint_interval();
        if due && !dry_run {
            checkpoint::write(&store, name, table.kept_parts().0)?;
        }
        if due {
            facts.checkpoints.insert(newest);
            facts.pointer = Some(newest);
        }
        if index == anchor {
            facts.needed = epoch_commit(&store, name, &facts.commits)?;
        }
        let plan = log(&facts);
        let (snapshot, ledger) = table.kept_parts();
        let needed = ledger.needed((&store, name), snapshot, plan.oldest, &plan.pinned)?;
        let (now, size) = (now_ms(), |name: &str| {
            let found = listed.binary_search_by(|one| one.name.as_str().cmp(name));
            found.map_or(0, |at| listed[at].bytes)
        });
        let below = |full: String| full[name.len() + 1..].to_owned();
        let commits = plan.commits.iter().map(|version| below(commit_name(name, *version)));
        let checkpoints =
            plan.checkpoints.iter().map(|version| below(checkpoint::name(name, *version)));
        let from_log: Vec<String> = commits.chain(checkpoints).collect();
        let ours = listed.iter().map(|one| (one, one.name.as_str()));
        let ours = ours.filter(|(_, name)| is_data(name) || vector::is_object(name));
        let objects: Vec<String> = ours
            .filter(|(one, name)| {
                let old_ms = now.saturating_sub(one.written_ms);
                goes(needed.contains(*name), ledger.has_left(name), old_ms, keep.age)
            })
            .map(|(_, name)| name.to_owned())
            .collect();
        if !dry_run {
            remove(&store, name, ledger, &plan, (&from_log, &objects))?;
            table.forget_removed(&objects);
        }
        let gone = from_log.iter().chain(&objects);
        Ok(gone.map(|one| Gone { path: format!("{name}/{one}"), bytes: size(one) }).collect())
    }

    /// What was kept at any time within the age; `None` while that is not known.
    fn marked(&self, keep: &Keep, dry_run: bool) -> Result<Option<Keep>> {
        let mut keep = keep.clone();
        for table in &self.tables {
            let oldest = keep.oldest.entry(table.name().to_owned()).or_insert(table.version());
            *oldest = (*oldest).min(table.version());
        }
        // What cannot be read is written anew: it only makes things stay longer.
        let held = self.store.get(MARKS)?;
        let read = held.as_ref().and_then(|held| serde_json::from_slice(held).ok());
        let before: Vec<Mark> = read.unwrap_or_default();
        let mut marks = before.clone();
        let kept = kept(&mut marks, now_ms(), &keep);
        if !dry_run && marks != before {
            let content = serde_json::to_vec(&marks).expect("all keys are strings");
            self.store.replace(MARKS, content)?;
        }
        Ok(kept)
    }
}

/// Carries a plan out, in an order that may end anywhere.
fn remove(
    store: &Store,
    table: &str,
    ledger: &mut Ledger,
    plan: &LogPlan,
    (from_log, objects): (&[String], &[String]),
) -> Result<()> {
    let full = |names: &[String]| -> Vec<String> {
        names.iter().map(|name| format!("{table}/{name}")).collect()
    };
    for version in &plan.write {
        let snapshot = at(store, table, *version)?;
        checkpoint::write_aside(store, table, &snapshot)?;
    }
    if !from_log.is_empty() {
        // Everything kept is read from here on: it must be whole.
        at(store, table, plan.oldest)?;
    }
    store.delete_all(&full(from_log))?;
    store.delete_all(&full(objects))?;
    objects.iter().for_each(|name| ledger.forget(name));
    Ok(())
}

pub(super) fn is_data(name: &str) -> bool {
    name.starts_with("part-") && name.ends_with(".parquet") && !name.contains('/')
}

/// The newest commit that moved the epoch: it says what `latest.json` says.
fn epoch_commit(store: &Store, table: &str, commits: &BTreeSet<u64>) -> Result<Option<u64>> {
    for version in commits.iter().rev() {
        let commit = read_commit(store, table, *version)?;
        if commit.is_some_and(|commit| commit.txn(EPOCH).is_some()) {
            return Ok(Some(*version));
        }
    }
    Ok(None)
}
