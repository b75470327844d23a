//! From the counters to the text of a scrape. Nothing is read but memory and `/proc`.

use std::{
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use schemas::{Channel, reject::Reason, tables::Table};

use super::{Metrics, Page, locked, names, text::Samples};
use crate::delta::Operation;

impl Metrics {
    /// The counters as samples. What only the console knows is left out: whether it is ready.
    pub fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        samples.count(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
        samples.count(&names::RESTORED_ROWS, &[], self.restored_rows());
        samples.add(&names::STARTED, &[], seconds_since_1970(self.started_at));
        self.sample_flow(&mut samples);
        let page = locked(&self.page);
        sample_page(&page, &mut samples);
        drop(page);
        samples.histogram(&names::COMMIT_SECONDS, &[], &self.commit_seconds.observed());
        let commits = locked(&self.commits);
        samples.count(&names::MOVED_KEYS, &[], commits.steps.moved_keys as u64);
        let publish = commits.seconds;
        drop(commits);
        for (stage, seconds) in self.stages(publish) {
            samples.add(&names::STAGE_SECONDS, &[stage], seconds);
        }
        let encoded = locked(&self.encoded);
        for channel in Channel::ALL.map(Channel::as_str) {
            let count = encoded.get(channel).map_or(0, |(_, count)| *count);
            samples.count(&names::VECTORS, &[channel], count);
        }
        drop(encoded);
        let mined = self.counters.rows.iter().map(|rows| rows.load(Ordering::Relaxed)).sum();
        samples.count(&names::IMAGES_MINED, &[], mined);
        for (metric, counter) in [
            (&names::DOT_PRODUCTS, &self.counters.dot_products),
            (&names::RESCANS, &self.counters.rescans),
            (&names::RESCAN_DOT_PRODUCTS, &self.counters.rescan_dot_products),
            (&names::GUARD_CHECKS, &self.counters.guard_checks),
            (&names::REQUESTS_ASKED, &self.asked),
        ] {
            samples.count(metric, &[], counter.load(Ordering::Relaxed));
        }
        let waiting = self.waiting.load(Ordering::Relaxed);
        samples.count(&names::REQUESTS_WAITING, &[], waiting as u64);
        locked(&self.upkept).sample(&mut samples);
        for operation in Operation::ALL {
            let (observed, errors) = self.store.calls().of(operation);
            let labels = [operation.as_str()];
            samples.count(&names::STORE_REQUESTS, &labels, observed.count);
            samples.count(&names::STORE_ERRORS, &labels, errors);
            samples.histogram(&names::STORE_SECONDS, &labels, &observed);
        }
        sample_process(&mut samples);
        samples
    }

    fn sample_flow(&self, samples: &mut Samples) {
        let flow = self.flow();
        for ((topic, number), partition) in flow.partitions() {
            let number = number.to_string();
            let labels = [&*topic, number.as_str()];
            samples.count(&names::MESSAGES_READ, &labels, partition.read);
            samples.count(&names::MESSAGES_COMMITTED, &labels, partition.committed);
            if let Some(next) = partition.next {
                samples.add(&names::NEXT_OFFSET, &labels, next as f64);
            }
            if let Some((_, end)) = partition.range {
                samples.add(&names::END_OFFSET, &labels, end as f64);
            }
            if let Some(lag) = partition.lag() {
                samples.count(&names::LAG, &labels, lag);
            }
        }
        samples.count(&names::SOURCE_REACHABLE, &[], flow.source().1.into());
        samples.count(&names::BYTES_READ, &[], flow.bytes());
        samples.count(&names::IN_FLIGHT_EPOCHS, &[], flow.epochs_in_flight() as u64);
        for (queue, load) in [("open", flow.open()), ("cut", flow.in_flight())] {
            samples.count(&names::IN_FLIGHT_MESSAGES, &[queue], load.messages);
            samples.count(&names::IN_FLIGHT_BYTES, &[queue], load.bytes);
        }
    }
}

fn sample_page(page: &Page, samples: &mut Samples) {
    // All of the closed set from the start: a rate needs the zero before the first one.
    for reason in Reason::ALL {
        let (stage, reason) = (reason.stage().as_str().to_owned(), reason.as_str().to_owned());
        let labels = [stage.clone(), reason.clone()];
        let count = page.new_rejects.get(&(stage, reason)).copied().unwrap_or(0);
        samples.count(&names::REJECTS, &labels.each_ref().map(String::as_str), count);
    }
    let ok = page.new_answers.get("ok").copied().unwrap_or(0);
    samples.count(&names::ANSWERS, &["ok"], ok);
    for (outcome, count) in page.new_answers.iter().filter(|(outcome, _)| *outcome != "ok") {
        samples.count(&names::ANSWERS, &[outcome], *count);
    }
    for table in Table::ALL {
        let labels = [table.as_str()];
        let (inserted, deleted) = page.moved.get(table.as_str()).copied().unwrap_or_default();
        samples.count(&names::ROWS_INSERTED, &labels, inserted);
        samples.count(&names::ROWS_DELETED, &labels, deleted);
        let size = page.tables.get(table.as_str()).copied().unwrap_or_default();
        samples.count(&names::TABLE_ROWS, &labels, size.rows);
        samples.count(&names::TABLE_FILES, &labels, size.files as u64);
        samples.count(&names::TABLE_BYTES, &labels, size.bytes);
    }
    samples.count(&names::IMAGES_LIVE, &[], page.rows(Table::Images));
    samples.count(&names::PAIRS, &[], page.rows(Table::Pairs));
    samples.count(&names::TRIPLETS, &[], page.rows(Table::Triplets));
    samples.count(&names::EPOCHS, &[], page.epochs);
    samples.count(&names::EPOCH, &[], page.latest.as_ref().map_or(0, |latest| latest.epoch));
    if let Some(at) = page.committed_at {
        samples.add(&names::LAST_COMMIT, &[], seconds_since_1970(at));
    }
}

/// What Linux says of this process; elsewhere nothing.
fn sample_process(samples: &mut Samples) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    if let Some(kibibytes) = kibibytes {
        samples.count(&names::RESIDENT, &[], kibibytes << 10);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        samples.count(&names::OPEN_FDS, &[], entries.count() as u64);
    }
}

fn seconds_since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
