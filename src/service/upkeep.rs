//! Upkeep of the tables, on the committer's thread between epochs and in small steps, so that a
//! commit never waits for long: small files become large ones, and what no kept epoch needs goes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Context;
use schemas::{Epoch, limits, tables::Table};

use crate::{
    dataset::EPOCHS,
    delta::{self, Keep, Latest, Publisher, Store},
    gc::forget,
    metrics::Metrics,
    snapshot,
};

/// What is due when.
pub struct Upkeep {
    store: Store,
    retention: Duration,
    /// The table that is looked at next, for either task.
    compact_next: usize,
    retain_next: usize,
    /// Tables that were looked at since the last epoch, with nothing to make fewer files of.
    settled: usize,
    /// Epochs and time since a table was last looked at for what can go.
    epochs: u64,
    looked: Instant,
    /// The newest pages name versions from before a compaction.
    stale: bool,
    /// Something failed: let it be for a while.
    until: Option<Instant>,
    /// Contents that no live image has, and that are remembered at least.
    keep_dead: u64,
    /// The memos hold much that no live image has.
    forget: bool,
}

impl Upkeep {
    /// For the tables in a store, which hold objects that nothing needs for so long, and at least so
    /// many contents that no live image has.
    pub fn new(
        store: Store,
        (retention, keep_dead): (Duration, u64),
        publisher: &Publisher,
    ) -> Upkeep {
        // Another table first at each start: a run may be too short for more than one.
        let tables = publisher.tables().len().max(1) as u64;
        let first = usize::try_from(publisher.epoch().unwrap_or(0) % tables).unwrap_or(0);
        Upkeep {
            store,
            retention,
            compact_next: first,
            retain_next: first,
            settled: 0,
            epochs: limits::RETAIN_EPOCHS,
            looked: Instant::now(),
            stale: false,
            until: None,
            keep_dead,
            forget: false,
        }
    }

    /// Whether the memos are to forget what no live image has, for which the service stands still.
    pub fn wants_to_forget(&self) -> bool {
        self.forget
    }

    /// After an epoch: one step of each task that is due. `pages` are the epochs that are kept.
    ///
    /// # Errors
    /// A commit failed or another writer has taken over: the run has to end. What failed otherwise
    /// is tried again later.
    pub fn after_epoch(
        &mut self,
        publisher: &mut Publisher,
        pages: &BTreeSet<Epoch>,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        // The epoch's own pages name the newest versions.
        (self.stale, self.settled) = (false, 0);
        self.epochs += 1;
        self.step(publisher, pages, metrics)
    }

    /// While nothing comes: the same, and then pages that name what the tables have become.
    pub fn when_idle(
        &mut self,
        publisher: &mut Publisher,
        pages: &BTreeSet<Epoch>,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        let busy = self.settled < publisher.tables().len();
        if publisher.epoch().is_none() || !(busy || self.stale || self.wants_retain()) {
            return Ok(());
        }
        self.step(publisher, pages, metrics)?;
        let settled = self.settled >= publisher.tables().len();
        if settled { self.finish(publisher, metrics) } else { Ok(()) }
    }

    /// Lets the newest pages name what the tables have become.
    pub fn finish(&mut self, publisher: &Publisher, metrics: &Metrics) -> anyhow::Result<()> {
        if !std::mem::take(&mut self.stale) {
            return Ok(());
        }
        let renewed = publisher.renew_latest().context("name the versions of compacted tables")?;
        if let Some(latest) = renewed {
            metrics.renewed(publisher, latest);
            metrics.write()?;
        }
        Ok(())
    }

    fn wants_retain(&self) -> bool {
        self.epochs >= limits::RETAIN_EPOCHS || self.looked.elapsed() >= limits::RETAIN_INTERVAL
    }

    fn step(
        &mut self,
        publisher: &mut Publisher,
        pages: &BTreeSet<Epoch>,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        if self.until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.until = None;
        let compacted = self.compact(publisher, metrics);
        self.bear("make fewer files of a table", publisher, compacted)?;
        if self.wants_retain() {
            (self.epochs, self.looked) = (0, Instant::now());
            let removed = self.retain(publisher, pages, metrics);
            self.bear("remove what no kept epoch needs", publisher, removed)?;
            self.forget = forget::Held::of(publisher)?.is_due(self.keep_dead);
        }
        Ok(())
    }

    /// A failure that is only of upkeep, and may pass, is no reason to end.
    fn bear(
        &mut self,
        what: &'static str,
        publisher: &Publisher,
        done: anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Err(error) = done else { return Ok(()) };
        let fenced = matches!(error.downcast_ref(), Some(delta::Error::Fenced(_)));
        if fenced || publisher.is_stopped() {
            return Err(error.context(what));
        }
        self.until = Some(Instant::now() + limits::RETAIN_INTERVAL);
        tracing::warn!("could not {what}, which is tried again later: {error:#}");
        Ok(())
    }

    /// Makes fewer files of the first table in turn that has too many small ones.
    fn compact(&mut self, publisher: &mut Publisher, metrics: &Metrics) -> anyhow::Result<()> {
        while self.settled < Table::ALL.len() {
            let table = Table::ALL[self.compact_next % Table::ALL.len()];
            self.compact_next += 1;
            let began = Instant::now();
            let name = table.as_str();
            let Some(done) = publisher.compact(name, table.order())? else {
                self.settled += 1;
                continue;
            };
            (self.settled, self.stale) = (0, true);
            let took = began.elapsed();
            metrics.compacted(name, &done, took);
            tracing::debug!(
                table = name,
                files = done.files,
                bytes = done.written_bytes,
                "{name}: {} files of {} bytes are one of {} bytes, in {} ms",
                done.files,
                done.read_bytes,
                done.written_bytes,
                took.as_millis()
            );
            break;
        }
        Ok(())
    }

    /// Removes what one table no longer needs, the tables taking turns.
    fn retain(
        &mut self,
        publisher: &mut Publisher,
        pages: &BTreeSet<Epoch>,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        let table = Table::ALL[self.retain_next % Table::ALL.len()].as_str();
        self.retain_next += 1;
        let began = Instant::now();
        let Some(oldest) = self.oldest(pages)? else { return Ok(()) };
        let pinned = snapshot::pinned(&self.store)?;
        let keep = Keep { oldest: oldest.tables, pinned, age: self.retention };
        let gone = publisher.retain_table(table, &keep, false)?;
        if self.retain_next.is_multiple_of(Table::ALL.len()) {
            publisher.retain_generations()?;
        }
        let took = began.elapsed();
        metrics.removed(table, &gone, took);
        if !gone.is_empty() {
            let (objects, bytes) = (gone.len(), gone.iter().map(|one| one.bytes).sum::<u64>());
            tracing::info!(
                table,
                objects,
                bytes,
                "{table}: removed {objects} objects ({bytes} bytes) that no kept epoch needs, in \
                 {} ms",
                took.as_millis()
            );
        }
        Ok(())
    }

    /// The oldest page that is there.
    fn oldest(&self, pages: &BTreeSet<Epoch>) -> anyhow::Result<Option<Latest>> {
        for epoch in pages {
            let name = format!("{EPOCHS}/{epoch}.json");
            if let Some(content) = self.store.get(&name)? {
                let page = serde_json::from_slice(&content);
                return page.with_context(|| format!("read {name}")).map(Some);
            }
        }
        Ok(None)
    }
}
