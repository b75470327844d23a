//! What the console says, worked out from the counters alone.

use std::{sync::Arc, time::Duration, time::UNIX_EPOCH};

use schemas::config;
use serde_json::{Map, Value, json};

use crate::metrics::{Metrics, Phase, names};

/// The counters, and the bounds that the config sets.
pub(super) struct Probe {
    metrics: Arc<Metrics>,
    ready_lag: u64,
    ready_age: Duration,
    stuck_after: Duration,
}

impl Probe {
    pub(super) fn new(service: &config::Service, metrics: Arc<Metrics>) -> Probe {
        let &config::Service { ready_lag, ready_age, stuck_after, .. } = service;
        Probe { metrics, ready_lag, ready_age, stuck_after }
    }

    /// Whether every thread is alive, and the page that says so. While the tables are restored one
    /// step may take any time: lists are rebuilt in one.
    pub(super) fn health(&self) -> (bool, Value) {
        let phase = self.metrics.phase();
        let mut faults = Vec::new();
        let mut threads = Map::new();
        for (name, age) in self.metrics.threads() {
            match age {
                None if phase < Phase::Stopping => faults.push(format!("{name} has ended")),
                Some(age) if age > self.stuck_after && phase >= Phase::Running => {
                    faults.push(format!("{name} has shown no sign of life for {} s", age.as_secs()))
                }
                _ => {}
            }
            threads.insert(name, age.map(|age| age.as_secs_f64()).into());
        }
        let page = json!({
            "healthy": faults.is_empty(),
            "why": faults,
            "phase": phase.as_str(),
            "seconds_since_sign_of_life": threads,
        });
        (faults.is_empty(), page)
    }

    /// Whether the service follows the source, and the page that says why not.
    pub(super) fn readiness(&self) -> (bool, Value) {
        let phase = self.metrics.phase();
        let flow = self.metrics.flow();
        let ((viewed, reachable), (lag, unknown)) = (flow.source(), flow.lag());
        let waiting = flow.waiting();
        drop(flow);
        let mut why = Vec::new();
        match phase {
            Phase::Opening => why.push("the tables are being taken over".to_owned()),
            Phase::Restoring => why.push(match self.metrics.restoring() {
                Some(done) => format!("the tables are being restored: {done}"),
                None => "the tables are being restored".to_owned(),
            }),
            Phase::Stopping => why.push("the service is stopping".to_owned()),
            Phase::Collecting => why.push("what was taken down is being removed".to_owned()),
            Phase::Forgetting => why.push("what no live image has is being forgotten".to_owned()),
            Phase::Running if !viewed => why.push("the source was not read yet".to_owned()),
            Phase::Running if !reachable => why.push("the source does not answer".to_owned()),
            Phase::Running if unknown > 0 => {
                why.push(format!("the end of {unknown} partitions is not known yet"));
            }
            Phase::Running => {}
        }
        if lag > self.ready_lag {
            why.push(format!("{lag} messages behind, [service] ready_lag is {}", self.ready_lag));
        }
        if let Some(waiting) = waiting.filter(|waiting| *waiting > self.ready_age) {
            let (waiting, most) = (waiting.as_secs(), self.ready_age.as_secs());
            why.push(format!("no commit for {waiting} s of work, [service] ready_age is {most} s"));
        }
        let page = json!({
            "ready": why.is_empty(),
            "why": why,
            "phase": phase.as_str(),
            "lag_messages": lag,
            "seconds_of_work_since_commit": waiting.map(|waiting| waiting.as_secs_f64()),
        });
        (why.is_empty(), page)
    }

    /// The newest commit as `everpair status --json` has it but for `benchmarks`, and under `live`
    /// what is on its way.
    pub(super) fn status(&self) -> Value {
        let mut page = self.metrics.page();
        let (healthy, ready) = (self.health().0, self.readiness().0);
        let flow = self.metrics.flow();
        let partitions: Vec<Value> = flow
            .partitions()
            .into_iter()
            .map(|((topic, number), partition)| {
                json!({
                    "topic": topic,
                    "partition": number,
                    "first": partition.range.map(|(first, _)| first),
                    "end": partition.range.map(|(_, end)| end),
                    "committed": partition.next,
                    "lag": partition.lag(),
                })
            })
            .collect();
        let (open, cut) = (flow.open(), flow.in_flight());
        let live = json!({
            "phase": self.metrics.phase().as_str(),
            "healthy": healthy,
            "ready": ready,
            "restored_rows": self.metrics.restored_rows(),
            "restoring": self.metrics.restoring(),
            "lag_messages": flow.lag().0,
            "source_reachable": flow.source().1,
            "partitions": partitions,
            "epochs_in_flight": flow.epochs_in_flight(),
            "open": { "messages": open.messages, "bytes": open.bytes },
            "cut": { "messages": cut.messages, "bytes": cut.bytes },
        });
        drop(flow);
        let run = self.metrics.snapshot();
        if let Some(page) = page.as_object_mut() {
            let committed = self.metrics.committed_at();
            let committed = committed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            page.insert("run".into(), run);
            page.insert("live".into(), live);
            let at = committed.map(|at| at.as_secs_f64());
            page["live"]["last_commit_timestamp_seconds"] = at.into();
            page["live"]["uptime_seconds"] = self.metrics.uptime().as_secs_f64().into();
        }
        page
    }

    /// The text of a scrape.
    pub(super) fn metrics(&self) -> String {
        let mut samples = self.metrics.samples();
        samples.count(&names::HEALTHY, &[], self.health().0.into());
        samples.count(&names::READY, &[], self.readiness().0.into());
        samples.text()
    }
}
