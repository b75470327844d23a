//! The service's side: sets in force at the start, and those that come while it runs.

use std::sync::Arc;

use operators::{
    benchmarks::{Benchmarks, KIND},
    embed::Encoders,
};
use schemas::{benchmark::parse_value, limits, tables::BlockedRow};

use super::{
    live,
    objects::{self, Unusable},
};
use crate::delta::Store;

/// Brings sets from the store to the dataflow.
#[derive(Clone)]
pub struct Keeper {
    /// Where the tables are.
    pub store: Store,
    /// What vectors must be of.
    pub encoders: Arc<Encoders>,
    /// What the dataflow holds.
    pub held: Arc<Benchmarks>,
}

/// Times that the tables are read before it is given up: a compaction or gc between two reads takes
/// files away.
const ATTEMPTS: usize = 3;

impl Keeper {
    /// Holds the sets that rows of `blocked` name, which are in force since before the start.
    ///
    /// # Errors
    /// A set is missing or broken, or has vectors of another encoder and no later version of it has
    /// those of today; the message says what to do.
    pub fn know<'a>(&self, rows: impl Iterator<Item = &'a BlockedRow>) -> anyhow::Result<()> {
        let (mut of_today, mut of_others) = (Vec::new(), Vec::new());
        for row in rows.filter(|row| row.kind == KIND) {
            let Some((name, _)) = parse_value(&row.value) else {
                tracing::warn!("blocked: {:?} names no benchmark and has no effect", row.value);
                continue;
            };
            let header = objects::header(&self.store, &row.value)?;
            match objects::check_encoders(&header, &self.encoders) {
                Ok(()) => of_today.push(name.to_owned()),
                Err(why) => of_others.push((name.to_owned(), why)),
            }
            self.held.know(objects::set(&self.store, &row.value, &self.encoders)?);
        }
        match of_others.into_iter().find(|(name, _)| !of_today.contains(name)) {
            Some((_, why)) => anyhow::bail!(why),
            None => Ok(()),
        }
    }

    /// Whether a request's row brings a set that is not held yet.
    pub fn is_new(&self, row: &BlockedRow) -> bool {
        row.kind == KIND && !self.held.holds(&row.value)
    }

    /// Compares what is live with the set of a row, which must be all that any epoch made so far, and
    /// holds the set. Gives the rows to send, or none where the set is unusable, which is said.
    ///
    /// # Errors
    /// The store failed.
    pub fn take(&self, row: &BlockedRow) -> anyhow::Result<Vec<BlockedRow>> {
        let refused = |why: String| {
            tracing::error!("not blocked: {why}");
            Ok(Vec::new())
        };
        if self.held.len() >= limits::BENCHMARKS_MAX {
            return refused(format!("{} benchmarks are the most", limits::BENCHMARKS_MAX));
        }
        let set = match objects::header(&self.store, &row.value) {
            Ok(header) => match objects::check_encoders(&header, &self.encoders) {
                Ok(()) => objects::set(&self.store, &row.value, &self.encoders),
                Err(why) => return refused(why),
            },
            Err(error) => Err(error),
        };
        let set = match set {
            Ok(set) => set,
            Err(Unusable::Broken(why)) => return refused(why),
            Err(Unusable::Store(error)) => return Err(error.into()),
        };
        let mut attempt = 1;
        let live = loop {
            match live::find(&self.store, &set, &self.encoders) {
                Ok(live) => break live,
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(error) => tracing::warn!("the tables are read once more: {error:#}"),
            }
            attempt += 1;
        };
        let (name, contents) = (set.name(), live.contents.len());
        tracing::info!(contents, "benchmark {name}: {contents} live contents are of it");
        let also = live.by_given(&self.encoders).into_iter().map(|id| BlockedRow {
            kind: "content".into(),
            value: id.hex(),
            reason: Some(set.words(live.contents[&id])),
            epoch: 0,
        });
        let rows = std::iter::once(row.clone()).chain(also).collect();
        let words = live.contents.iter().map(|(id, of)| (*id, set.words(*of))).collect();
        self.held.add(set, words);
        Ok(rows)
    }
}
