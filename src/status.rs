//! `everpair status`: what the tables hold, and the counters of the newest run.

use std::collections::BTreeMap;

use anyhow::Context;
use schemas::{config::Config, tables};
use serde_json::{Value, json};

use crate::{
    dataset::{self, At, Dataset},
    errln,
    metrics::STATUS,
    outln,
    service::open_tables,
};

/// Everything as one JSON value.
pub fn status(config: &Config) -> anyhow::Result<Value> {
    let store = open_tables(config)?;
    if dataset::latest(&store)?.is_none() {
        return Ok(json!({ "epoch": null, "tables": {} }));
    }
    let dataset = Dataset::open(&store, &At::Latest)?;
    let latest = dataset.page();
    let mut rows = BTreeMap::new();
    for table in tables::Table::ALL {
        let open = dataset.table(table)?;
        let (files, bytes) = open.size();
        let count = open.rows()?;
        rows.insert(
            table.as_str(),
            json!({ "rows": count, "files": files, "bytes": bytes, "version": open.version() }),
        );
    }
    let rejects = rejects_by_reason(&dataset)?;
    let run = store.get(STATUS)?;
    let run: Value = match run {
        Some(text) => serde_json::from_slice(&text).with_context(|| format!("read {STATUS}"))?,
        None => Value::Null,
    };
    Ok(json!({
        "epoch": latest.epoch,
        "generation": latest.generation,
        "offsets": latest.offsets,
        "in_force": latest.info.get("in_force"),
        "tables": rows,
        "rejects": rejects,
        "run": run,
    }))
}

fn rejects_by_reason(dataset: &Dataset) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for row in dataset.rows::<tables::RejectRow>()? {
        *counts.entry(row.reason).or_default() += 1;
    }
    Ok(counts)
}

/// The same for a person.
pub fn print(status: &Value) {
    let Some(epoch) = status["epoch"].as_u64() else {
        errln!("no epoch is committed yet");
        return;
    };
    outln!("epoch {epoch}, writer generation {}", status["generation"]);
    if let Some(tables) = status["tables"].as_object() {
        outln!("{:<12} {:>10} {:>7} {:>12}", "table", "rows", "files", "bytes");
        for (name, table) in tables {
            // A JSON value does not heed a width.
            let [rows, files, bytes] = ["rows", "files", "bytes"].map(|of| table[of].to_string());
            outln!("{name:<12} {rows:>10} {files:>7} {bytes:>12}");
        }
    }
    if let Some(topics) = status["offsets"].as_object() {
        for (topic, partitions) in topics {
            outln!("next offsets of {topic}: {partitions}");
        }
    }
    if let Some(rejects) = status["rejects"].as_object().filter(|rejects| !rejects.is_empty()) {
        let list: Vec<String> = rejects.iter().map(|(why, n)| format!("{why} {n}")).collect();
        outln!("rejects: {}", list.join(", "));
    }
    let run = &status["run"];
    let Some(seconds) = run["run_seconds"].as_f64() else { return };
    let (records, waiting) = (&run["records"], &run["requests_waiting"]);
    outln!("newest run: {seconds:.1} s, {records} messages, {waiting} requests wait");
    let Some(stages) = run["stages"].as_object() else { return };
    let records = records.as_f64().unwrap_or(0.0).max(1.0);
    let each = stages.iter().map(|(name, seconds)| {
        let milliseconds = seconds.as_f64().unwrap_or(0.0) * 1000.0 / records;
        format!("{name} {milliseconds:.2}")
    });
    outln!("milliseconds per message: {}", each.collect::<Vec<_>>().join(", "));
}
