//! Requests that have failed for now, each an object: when they are asked again must outlast the
//! process, and so must what they have cost.
//!
//! What no try has answered, and what is no fault of the request (the endpoint had too much to do, took
//! too long, went away), is put off: for minutes at first, for hours at last. It has no row of
//! `annotations` until an answer comes or it is given up.

use std::time::Duration;

use anyhow::Context;
use schemas::{limits, tables::AnnotationRow};
use serde::{Deserialize, Serialize};

use super::journal;
use crate::delta::Store;

/// Where they are.
pub const FOLDER: &str = "_everpair/failures";
/// How much longer a request is put off each time.
const SPACING: u32 = 4;

/// A request that is asked again later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The row that it would be given up with: its outcome is how the last try has ended, its cost
    /// that of all tries so far.
    pub row: AnnotationRow,
    /// How often it was put off.
    pub times: u32,
    /// When it is asked again, microseconds UTC.
    pub again_at: i64,
    /// The batch that its last try was in, if it was in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
}

/// How long requests are put off, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The first time.
    pub least: Duration,
    /// At most.
    pub most: Duration,
    /// After so many times a failure stays.
    pub times: u32,
}

impl Default for Patience {
    fn default() -> Patience {
        let (least, most) = limits::ANNOTATOR_PUT_OFF;
        Patience { least, most, times: limits::ANNOTATOR_PUT_OFF_TIMES }
    }
}

impl Patience {
    /// How long the `times`-th time takes, counted from 1; `dice` is 0 to 1: what failed at one moment
    /// need not come back at one moment.
    pub fn wait(&self, times: u32, dice: f64) -> Duration {
        let spaced = SPACING.saturating_pow(times.saturating_sub(1));
        let wait = self.least.saturating_mul(spaced).min(self.most);
        wait.mul_f64(1.0 - 0.25 * dice.clamp(0.0, 1.0))
    }
}

fn name(request_id: &str) -> String {
    format!("{FOLDER}/{request_id}.json")
}

/// Writes one down, in place of what was known of the request.
///
/// # Errors
/// The store failed: the next start asks at once.
pub fn write(store: &Store, failure: &Failure) -> anyhow::Result<()> {
    let content = serde_json::to_vec(failure).context("write a failure")?;
    store.replace(&name(&failure.row.request_id), content).context("write a failure down")
}

/// The request has an outcome.
///
/// # Errors
/// The store failed: the next start removes it.
pub fn remove(store: &Store, request_id: &str) -> anyhow::Result<()> {
    store.delete(&name(request_id)).context("remove a failure that is over")
}

/// All of them, by request id.
///
/// # Errors
/// One of them cannot be read.
pub fn read(store: &Store) -> anyhow::Result<Vec<Failure>> {
    journal::objects(store, FOLDER).context("requests that have failed for now")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_put_off_for_minutes_and_then_for_hours() {
        let patience = Patience::default();
        let waits: Vec<u64> =
            (1..=patience.times).map(|times| patience.wait(times, 0.0).as_secs()).collect();
        assert_eq!(waits, [300, 1_200, 4_800, 19_200, 21_600, 21_600]);
        for times in 1..100 {
            let (short, long) = (patience.wait(times, 1.0), patience.wait(times, 0.0));
            assert!(short < long && short >= long / 2 && long <= patience.most);
        }
    }
}
