//! What a store was asked: how often, how long, with what success.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::metrics::histogram::{Histogram, Observed};

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// An object, or a part of it.
    Get,
    /// An object that must not be there yet.
    Create,
    /// An object, in place of any of its name.
    Replace,
    /// An object goes.
    Delete,
    /// Names in a folder.
    List,
}

impl Operation {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Operation; 5] =
        [Operation::Get, Operation::Create, Operation::Replace, Operation::Delete, Operation::List];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Create => "create",
            Operation::Replace => "replace",
            Operation::Delete => "delete",
            Operation::List => "list",
        }
    }
}

/// Counters of one store, shared by its clones.
#[derive(Debug, Default)]
pub struct Calls {
    taken: [Histogram; 5],
    failed: [AtomicU64; 5],
}

impl Calls {
    /// How long the requests of a kind took, and how many of them failed.
    pub fn of(&self, operation: Operation) -> (Observed, u64) {
        let at = operation as usize;
        (self.taken[at].observed(), self.failed[at].load(Ordering::Relaxed))
    }

    /// Makes a request that may fail.
    pub(super) fn time<T, E>(
        &self,
        operation: Operation,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.time_if(operation, call, Result::is_err)
    }

    /// Makes a request; `failed` says what counts as a failure.
    pub(super) fn time_if<T>(
        &self,
        operation: Operation,
        call: impl FnOnce() -> T,
        failed: impl FnOnce(&T) -> bool,
    ) -> T {
        let began = Instant::now();
        let answer = call();
        let at = operation as usize;
        self.taken[at].observe(began.elapsed());
        if failed(&answer) {
            self.failed[at].fetch_add(1, Ordering::Relaxed);
        }
        answer
    }
}
