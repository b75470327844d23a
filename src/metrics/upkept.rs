//! What upkeep did, by table.

use std::{collections::BTreeMap, time::Duration};

use schemas::tables::Table;

use super::{Metrics, locked, names, text::Samples};
use crate::delta::{Compacted, Gone, Latest, Publisher};

/// Since the process began.
#[derive(Default)]
pub struct Upkept {
    /// Files that became fewer, and bytes that were written for that.
    compacted: BTreeMap<String, (u64, u64)>,
    /// Objects that were removed, and their bytes.
    removed: BTreeMap<String, (u64, u64)>,
    /// What either took.
    seconds: (Duration, Duration),
}

impl Upkept {
    /// The counters as samples.
    pub fn sample(&self, samples: &mut Samples) {
        for table in Table::ALL.map(Table::as_str) {
            let (files, bytes) = self.compacted.get(table).copied().unwrap_or_default();
            samples.count(&names::COMPACTED_FILES, &[table], files);
            samples.count(&names::COMPACTED_BYTES, &[table], bytes);
            let (objects, bytes) = self.removed.get(table).copied().unwrap_or_default();
            samples.count(&names::REMOVED_OBJECTS, &[table], objects);
            samples.count(&names::REMOVED_BYTES, &[table], bytes);
        }
        let (compact, retain) = self.seconds;
        samples.add(&names::UPKEEP_SECONDS, &["compact"], compact.as_secs_f64());
        samples.add(&names::UPKEEP_SECONDS, &["retain"], retain.as_secs_f64());
    }
}

impl Metrics {
    /// Files of a table became one.
    pub fn compacted(&self, table: &str, done: &Compacted, took: Duration) {
        let mut upkept = locked(&self.upkept);
        let held = upkept.compacted.entry(table.to_owned()).or_default();
        *held = (held.0 + done.files as u64, held.1 + done.written_bytes);
        upkept.seconds.0 += took;
    }

    /// Objects of a table were looked at, and these removed.
    pub fn removed(&self, table: &str, gone: &[Gone], took: Duration) {
        let mut upkept = locked(&self.upkept);
        let held = upkept.removed.entry(table.to_owned()).or_default();
        let bytes: u64 = gone.iter().map(|one| one.bytes).sum();
        *held = (held.0 + gone.len() as u64, held.1 + bytes);
        upkept.seconds.1 += took;
    }

    /// The newest page names other versions of the same rows.
    pub fn renewed(&self, publisher: &Publisher, latest: Latest) {
        let mut page = locked(&self.page);
        page.latest = Some(latest);
        page.measure(publisher);
    }
}
