//! What bounds the memos: contents that no live image has any more are forgotten, with their vectors
//! and with answers that cost nothing, before they outnumber those that are live.
//!
//! Unlike a collection it proves nothing and leaves older versions as they are: epochs that are kept
//! and snapshots show what they showed, and the files go with the versions that name them. Like a
//! collection it works where the dataflow has ended, so that nothing in it has to forget: the next
//! one begins without what has gone. Standing still for it costs as much as a start, once for as many
//! contents as a start reads at least.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::Context;
use arrow_array::{Array, Float64Array, cast::AsArray};
use schemas::{Channel, tables::Table};

use super::{
    kept::{AnswerTo, Kept},
    rules::RuleOf,
};
use crate::{
    annotator::openai::failures,
    delta::{self, Publisher, Rule, Store, Verdict},
    service::specs,
};

const COST: &str = "cost_usd";

/// Rows that the tables show, dead contents' included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of `images`: as many contents are live at most.
    pub images: u64,
    /// Of `contents`.
    pub contents: u64,
    /// Of `embeddings`.
    pub embeddings: u64,
}

impl Held {
    /// As the log has it; reads no file.
    ///
    /// # Errors
    /// The log does not say how many rows a file has.
    pub fn of(publisher: &Publisher) -> delta::Result<Held> {
        let rows = |table: Table| publisher.table(table.as_str()).map_or(Ok(0), |held| held.rows());
        Ok(Held {
            images: rows(Table::Images)?,
            contents: rows(Table::Contents)?,
            embeddings: rows(Table::Embeddings)?,
        })
    }

    /// Whether more contents are dead than live, and more than `keep_dead`; or as many vectors more
    /// than belong to such contents, because captions alone have changed.
    pub fn is_due(self, keep_dead: u64) -> bool {
        let most = self.images.saturating_add(self.images.max(keep_dead));
        let channels = Channel::ALL.len() as u64;
        self.contents > most || self.embeddings > most.saturating_mul(channels)
    }
}

/// Forgets, where the dataflow has ended. Whether the service is to run again: not if it was told to
/// stop. If nothing was dead, `keep_dead` grows: what the memos hold is not to be looked at in vain at
/// every turn.
///
/// # Errors
/// A newer writer has begun, or the store failed. Killed or failed anywhere, each memo has forgotten
/// or not, and what is left goes the next time.
pub fn serve(store: &Store, stop: &AtomicBool, keep_dead: &mut u64) -> anyhow::Result<bool> {
    if stop.load(Ordering::Acquire) {
        return Ok(false);
    }
    let began = Instant::now();
    let gone = forget(store, stop).context("forget what no live image has")?;
    let [contents, vectors, answers] = gone;
    if gone == [0; 3] {
        *keep_dead = keep_dead.saturating_add(1).saturating_mul(2);
    }
    tracing::info!(
        contents,
        vectors,
        answers,
        "forgot {contents} contents that no live image has, {vectors} vectors and {answers} answers \
         of them, in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    Ok(!stop.load(Ordering::Acquire))
}

/// Rows that went from `contents`, `embeddings`, `annotations`.
fn forget(store: &Store, stop: &AtomicBool) -> anyhow::Result<[u64; 3]> {
    let mut publisher = delta::start(store, &specs()).context("take over the tables")?;
    let kept = Kept::live(store)?;
    let mut gone = [0; 3];
    // Answers first: one whose contents are there is found again.
    for (at, table) in [(2, Table::Annotations), (1, Table::Embeddings), (0, Table::Contents)] {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let rule = RuleOf { kept: &kept, table };
        let mut columns = rule.columns().to_vec();
        columns.extend((table == Table::Annotations).then_some(COST));
        let forgotten = publisher.forget(table.as_str(), &columns, |batch| {
            let verdicts = rule.judge(batch)?.into_iter().enumerate();
            // What was paid for stays until somebody asks for a collection.
            let costs = batch.column_by_name(COST).and_then(|all| all.as_primitive_opt());
            let paid = |row: usize| {
                costs.is_some_and(|costs: &Float64Array| {
                    costs.is_valid(row) && costs.value(row) > 0.0
                })
            };
            Ok(verdicts.map(|(row, said)| said == Verdict::Goes && !paid(row)).collect())
        });
        gone[at] = forgotten.with_context(|| format!("forget rows of {}", table.as_str()))?;
    }
    drop_failures(store, &kept)?;
    publisher.renew_latest().context("name the versions that have forgotten")?;
    Ok(gone)
}

/// Forgets when to ask again about what may not stay: what it has cost stands in the budget.
///
/// # Errors
/// The store failed.
pub fn drop_failures(store: &Store, kept: &Kept) -> anyhow::Result<()> {
    let all = failures::read(store)?.into_iter();
    let mut gone = all.filter(|failure| !kept.answer(&AnswerTo::of(&failure.row)));
    gone.try_for_each(|failure| failures::remove(store, &failure.row.request_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memos_hold_at_most_twice_what_is_live_and_the_floor() {
        let held = |images, contents, embeddings| Held { images, contents, embeddings };
        assert!(!held(0, 0, 0).is_due(0));
        assert!(!held(100, 110, 330).is_due(10) && !held(100, 200, 600).is_due(10));
        assert!(held(100, 201, 600).is_due(10) && held(100, 200, 601).is_due(10));
        assert!(!held(100, 1_100, 3_300).is_due(1_000));
        assert!(held(100, 1_101, 0).is_due(1_000) && held(100, 100, 3_301).is_due(1_000));
        // Many images of one content: what is dead is bounded by the images.
        assert!(!held(1_000, 900, 2_000).is_due(10));
        assert!(!held(u64::MAX, u64::MAX, u64::MAX).is_due(u64::MAX));
    }
}
