//! `everpair status`: what the tables hold, and the counters of the newest run.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use schemas::{
    ContentId,
    benchmark::{self, Header},
    config::{AnnotatorKind, Config},
    reject::Reason,
    tables,
};
use serde_json::{Value, json};

use crate::{
    annotator::openai::{
        batch,
        money::{Spent, usd},
    },
    benchmark::objects,
    dataset::{self, At, Dataset},
    delta::Store,
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
    let (rejects, turned_away) = count_rejects(&dataset)?;
    let benchmarks = benchmarks(&store, &dataset, turned_away)?;
    let run = store.get(STATUS)?;
    let run: Value = match run {
        Some(text) => serde_json::from_slice(&text).with_context(|| format!("read {STATUS}"))?,
        None => Value::Null,
    };
    let mut status = json!({
        "epoch": latest.epoch,
        "generation": latest.generation,
        "offsets": latest.offsets,
        "in_force": latest.info.get("in_force"),
        "tables": rows,
        "rejects": rejects,
        "benchmarks": benchmarks,
        "run": run,
    });
    if let Some(money) = money(config, &store)? {
        status["annotator"] = money;
    }
    Ok(status)
}

/// What a model has cost so far, where one was ever asked or is to be.
fn money(config: &Config, store: &Store) -> anyhow::Result<Option<Value>> {
    let spent = Spent::read(store, chrono::Utc::now().timestamp_micros())?;
    if config.annotator.kind == AnnotatorKind::Template && spent == Spent::default() {
        return Ok(None);
    }
    let batches = batch::read(store)?;
    let out: usize = batches.iter().map(|batch| batch.out.len()).sum();
    Ok(Some(json!({
        "batches": batches.len(),
        "requests_out": out,
        "spent_usd": usd(spent.closed + spent.open),
        "open_usd": usd(spent.open),
        "today_usd": usd(spent.today),
        "budget_usd": config.annotator.budget,
        "daily_budget_usd": config.annotator.daily_budget,
    })))
}

fn print_money(status: &Value) {
    let (money, at) = (&status["annotator"], &status["run"]["annotator"]);
    let Some(spent) = money["spent_usd"].as_f64() else { return };
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let of = money["budget_usd"].as_f64().map_or(String::new(), |usd| format!(" of {usd:.2}"));
    let (open, today) = (number(&money["open_usd"]), number(&money["today_usd"]));
    outln!("annotator: {spent:.4}{of} USD spent, {open:.4} of that set aside; {today:.4} today");
    // What a caption takes is not what a pair does; both share the calls at once.
    let (seconds, calls) = (number(&at["asking_seconds"]), number(&at["calls"]).max(1.0));
    let for_captions = number(&at["caption_calls"]);
    for (what, ended, waiting, spent, of_calls) in [
        ("caption", "captions_ended", "captions", "captions_spent", for_captions),
        ("pair", "pairs_ended", "pairs", "pairs_spent", calls - for_captions),
    ] {
        let (ended, waiting) = (number(&at[ended]), number(&at[waiting]));
        if ended > 0.0 {
            let (usd, seconds) = (number(&at[spent]) / ended, seconds * of_calls / calls / ended);
            outln!(
                "newest run: {usd:.6} USD and {seconds:.2} s a {what}; the {waiting} that wait take \
                 about {:.4} USD and {:.0} s",
                usd * waiting,
                seconds * waiting
            );
        }
    }
    if let (Some(put_off), Some(first)) = (at["put_off"].as_u64(), at["again_at"].as_i64()) {
        let first = chrono::DateTime::from_timestamp_micros(first).unwrap_or_default();
        let first = first.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let what = if number(&at["captions"]) > 0.0 { "pairs and captions" } else { "pairs" };
        outln!("annotator: {put_off} {what} have failed for now: asked again from {first} on");
    }
    if let (Some(batches @ 1..), Some(out)) =
        (money["batches"].as_u64(), money["requests_out"].as_u64())
    {
        outln!("annotator: {out} requests are out in {batches} batches (`everpair requests list`)");
    }
    for why in ["out_of", "refused"] {
        if let Some(text) = at[why].as_str() {
            outln!("annotator: what is asked waits, {}: {text}", why.replace('_', " "));
        }
    }
}

/// By benchmark, then by what a message was found to be of it.
type TurnedAway = BTreeMap<String, BTreeMap<String, usize>>;

fn count_rejects(dataset: &Dataset) -> anyhow::Result<(BTreeMap<String, usize>, TurnedAway)> {
    let (mut counts, mut turned_away) = (BTreeMap::new(), TurnedAway::new());
    for row in dataset.rows::<tables::RejectRow>()? {
        if row.reason == Reason::Benchmark.as_str()
            && let Some((name, by)) = benchmark::parse_detail(&row.detail)
        {
            let counts = turned_away.entry(name.to_owned()).or_default();
            *counts.entry(by.to_owned()).or_default() += 1;
        }
        *counts.entry(row.reason).or_default() += 1;
    }
    Ok((counts, turned_away))
}

/// What is told of one benchmark.
#[derive(Default)]
struct Told {
    /// By digest of what holds them: versions may differ in their rules alone.
    sets: BTreeMap<String, (String, Header)>,
    versions: Vec<String>,
}

impl Told {
    /// Images of all versions; one that several have, by the same bytes, counts once. A single
    /// version is not read for that: its vectors may be hundreds of megabytes.
    fn images(&self, store: &Store) -> anyhow::Result<usize> {
        if let (Some((_, header)), 1) = (self.sets.values().next(), self.sets.len()) {
            return Ok(header.images);
        }
        let mut most: HashMap<ContentId, usize> = HashMap::new();
        for (value, header) in self.sets.values() {
            let mut of: HashMap<ContentId, usize> = HashMap::new();
            for content in objects::images(store, value, header)?.contents {
                *of.entry(content).or_default() += 1;
            }
            for (content, count) in of {
                let held = most.entry(content).or_default();
                *held = count.max(*held);
            }
        }
        Ok(most.values().sum())
    }
}

/// Each benchmark that is blocked: its images, of all versions together, and the messages that were
/// turned away because of it.
fn benchmarks(
    store: &Store,
    dataset: &Dataset,
    mut turned_away: TurnedAway,
) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut of: BTreeMap<String, Told> = BTreeMap::new();
    let rows = dataset.rows::<tables::BlockedRow>()?;
    for value in objects::values(&rows) {
        let Some((name, _)) = benchmark::parse_value(value) else { continue };
        let header = objects::header(store, value)?;
        let told = of.entry(name.to_owned()).or_default();
        told.sets.insert(header.data.clone(), (value.to_owned(), header));
        told.versions.push(value.to_owned());
    }
    let each = of.into_iter().map(|(name, told)| {
        let by = turned_away.remove(&name).unwrap_or_default();
        let (images, all) = (told.images(store)?, by.values().sum::<usize>());
        let versions = told.versions;
        let told = json!({ "images": images, "versions": versions, "turned_away": all, "by": by });
        Ok((name, told))
    });
    each.collect()
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
    for (name, of) in status["benchmarks"].as_object().into_iter().flatten() {
        let by = of["by"].as_object().into_iter().flatten();
        let by: Vec<String> = by.map(|(by, n)| format!("{by} {n}")).collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        let (images, all) = (&of["images"], &of["turned_away"]);
        outln!("benchmark {name}: {images} images, {all} messages turned away{by}");
    }
    print_money(status);
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
