//! Delta tables: what a reader of the dataset opens, and the one place that writes it.
//!
//! A table is a folder of Parquet files and a log of JSON commits (the Delta protocol). One commit
//! is one object that is created only if no object of its name exists; that is all the coordination
//! there is. Rows leave by deletion vectors in the same commit that adds rows, and what the rows
//! were made from (epoch, writer generation, next offsets) rides along as `txn` actions, so a
//! commit is all or nothing.
//!
//! ```text
//!   publish   one epoch over all tables, the last of them (the anchor) makes it real; start
//!      │      decide: facts -> decision, pure, the part a model checks
//!      │      retain: what of the tables is still needed, and removing the rest
//!      ▼
//!   table     one table: commit, scan, restore, purge; key -> (file, row)
//!      │
//!   log ── checkpoint      replay of commits, and the shortcut for it
//!   action, schema, vector, file     the protocol's words, types, deletion vectors, Parquet files
//!      ▼
//!   store     an object store behind blocking calls
//! ```
//!
//! Nothing here knows what a row means. All calls block: use them from a thread of their own, never
//! from inside an async task.

mod action;
mod checkpoint;
pub mod decide;
mod file;
mod generation;
mod log;
mod publish;
pub mod retain;
mod schema;
mod store;
mod table;
mod vector;

use std::fmt;

pub use generation::{check_newest, newest_writer};
pub use publish::{
    Change, EpochCommit, Latest, Offsets, Publisher, latest_written, read_latest, start,
};
pub use retain::{Gone, Keep};
pub use store::{Created, Operation, Store, open_bucket};
pub use table::{
    Commit, Compacted, FileFacts, Key, Leaving, Plan, Purged, Rows, Rule, Table, TableSpec,
    Verdict, choose,
};

/// Name of the `txn` whose version is the newest epoch that a table holds.
pub const EPOCH: &str = "everpair/epoch";
/// Name of the `txn` whose version is the newest writer generation that has claimed a table.
pub const GENERATION: &str = "everpair/generation";
/// Prefix of the `txn`s that carry the next offset of `<topic>/<partition>`.
pub const OFFSET: &str = "everpair/offset/";
/// Prefix of the `txn`s that carry the epoch in which the next offset of `<topic>/<partition>` last
/// went back: the log had lost its end. What rows of earlier epochs say of offsets there is void.
pub const AGAIN: &str = "everpair/read-again/";

/// Why an operation on a table did not happen, in the terms of what to do about it.
#[derive(Debug)]
pub enum Error {
    /// Another writer owns the table now: stop, do not try again.
    Fenced(String),
    /// The caller asked for what would break the table (a duplicate key, an old epoch): a bug.
    Refused(String),
    /// The table holds what this version cannot read, or misses what its log names.
    Unreadable(String),
    /// What this writer has left in the store is not there: it is not the place any more where the
    /// tables are.
    Gone(String),
    /// The store failed. Of a commit nobody knows whether it happened: start again from the tables.
    Io(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Fenced(why) => write!(formatter, "another writer owns the tables: {why}"),
            Error::Refused(why) => write!(formatter, "refused: {why}"),
            Error::Unreadable(why) => write!(formatter, "cannot read the table: {why}"),
            Error::Gone(why) => write!(formatter, "the tables have gone: {why}"),
            Error::Io(why) => write!(formatter, "the store failed: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        Error::Io(store::why(&error))
    }
}

/// All rows of any Parquet object of `size` bytes below the root, whatever table or log it is of,
/// dead ones included, without its columns of bytes.
pub fn rows_of_object(
    store: &Store,
    name: &str,
    size: u64,
) -> Result<impl Iterator<Item = Result<arrow_array::RecordBatch>> + use<>> {
    file::read_plainly(store, name, size)
}

/// Milliseconds since 1970, the protocol's clock. It orders nothing: versions do.
fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
