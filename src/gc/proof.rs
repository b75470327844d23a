//! The proof: every object under the root is read, and each thing in it that is of an image must be
//! of one that may stay.
//!
//! It goes by what lies there, not by what a purge believed to have removed: every row of every
//! Parquet object whatever version shows it, the statistics in commits and checkpoints, state
//! checkpoints, and the pages. A row's bytes and vector are judged by the ids beside them.

use std::collections::{BTreeMap, HashSet};

use anyhow::Context;
use arrow_array::{Array, RecordBatch, StringArray, cast::AsArray, types::Int32Type};
use arrow_schema::DataType;
use schemas::{
    Channel,
    checkpoint::Part,
    limits,
    tables::{AnnotationRow, Table},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    kept::{AnswerTo, Kept},
    rules::TABLES,
};
use crate::{
    annotator::openai::failures::Failure,
    dataset::{At, Dataset},
    delta::{self, Key, Store},
};

/// What was read, and what was found that should be nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Objects under the root.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that were read, by table, dead ones included.
    pub rows: BTreeMap<String, u64>,
    /// Commits and checkpoints whose statistics were read.
    pub logs: u64,
    /// The first findings, a line each: what it is and where. None says: it is nowhere.
    pub findings: Vec<String>,
    /// All of them.
    pub findings_count: u64,
}

struct Scan<'a> {
    store: &'a Store,
    kept: &'a Kept,
    /// Ids that the tables know and that are not live.
    gone: HashSet<Key>,
    proof: Proof,
}

/// Reads everything.
pub fn scan(store: &Store, kept: &Kept) -> anyhow::Result<Proof> {
    let newest = Dataset::open(store, &At::Latest)?;
    let mut gone = HashSet::new();
    let named =
        [(Table::Changes, &["query_id", "target_id"][..]), (Table::Rejects, &["image_id"][..])];
    for (table, columns) in named {
        for batch in newest.table(table)?.scan(Some(columns))? {
            let batch = batch?;
            let ids = batch.columns().iter().flat_map(|ids| ids.as_string::<i32>().iter());
            gone.extend(ids.flatten().filter(|id| !kept.id(id)).map(|id| Key::of(&[id])));
        }
    }
    let mut scan = Scan { store, kept, gone, proof: Proof::default() };
    for (name, size) in store.objects()? {
        scan.proof.objects += 1;
        scan.proof.bytes += size;
        scan.object(&name, size).with_context(|| format!("read {name}"))?;
    }
    Ok(scan.proof)
}

impl Scan<'_> {
    fn found(&mut self, what: &str, place: &str) {
        self.proof.findings_count += 1;
        if self.proof.findings.len() < limits::GC_FINDINGS_SHOWN {
            self.proof.findings.push(format!("{place}: {what}"));
        }
    }

    fn object(&mut self, name: &str, size: u64) -> anyhow::Result<()> {
        let parts: Vec<&str> = name.split('/').collect();
        let table = Table::ALL.into_iter().find(|table| table.as_str() == parts[0]);
        match (table, &parts[1..]) {
            // Ids may stay in these, and nothing else is in them.
            (Some(table), _) if !TABLES.contains(&table) => Ok(()),
            (Some(table), [file]) if file.ends_with(".parquet") => self.rows(table, name, size),
            (Some(_), ["_dv", file]) if file.ends_with(".bin") => Ok(()),
            (Some(table), ["_delta_log", file]) => self.log(table, file, name, size),
            // Like `blocked` they have to name what must not come back.
            (None, ["benchmarks", ..]) if parts[0] == "_everpair" => Ok(()),
            (None, [of, page]) if parts[0] == "_everpair" => self.page(of, page, name),
            (None, [page]) if parts[0] == "_everpair" => self.page("", page, name),
            _ => {
                self.found("Everpair did not write this and cannot tell what it is", name);
                Ok(())
            }
        }
    }

    fn rows(&mut self, table: Table, name: &str, size: u64) -> anyhow::Result<()> {
        for batch in delta::rows_of_object(self.store, name, size)? {
            let batch = batch?;
            let read = self.proof.rows.entry(table.as_str().to_owned()).or_default();
            *read += batch.num_rows() as u64;
            for row in 0..batch.num_rows() {
                if let Some(what) = fault(self.kept, table, &batch, row)? {
                    self.found(what, &format!("{name}, row {row} of a batch"));
                }
            }
        }
        Ok(())
    }

    fn log(&mut self, table: Table, file: &str, name: &str, size: u64) -> anyhow::Result<()> {
        let mut stats: Vec<Value> = Vec::new();
        let mut take = |text: Option<&str>| -> anyhow::Result<()> {
            let text = text.filter(|text| !text.is_empty());
            stats.extend(text.map(serde_json::from_str).transpose()?);
            Ok(())
        };
        if file.ends_with(".parquet") {
            for batch in delta::rows_of_object(self.store, name, size)? {
                let batch = batch?;
                let adds = batch.column_by_name("add").and_then(|adds| adds.as_struct_opt());
                let adds = adds.context("no column add")?;
                let texts = adds.column_by_name("stats").context("no column add.stats")?;
                for row in 0..adds.len() {
                    let texts = texts.as_string::<i32>();
                    take((adds.is_valid(row) && texts.is_valid(row)).then(|| texts.value(row)))?;
                }
            }
        } else if file.ends_with(".json") {
            let text = self.store.get(name)?.unwrap_or_default();
            for line in std::str::from_utf8(&text)?.lines() {
                let line: Value = serde_json::from_str(line)?;
                take(line["add"]["stats"].as_str())?;
            }
        } else if file != "_last_checkpoint" {
            self.found("a log file of another program, which may hold statistics", name);
        }
        self.proof.logs += 1;
        for of in stats.iter().flat_map(|stats| [&stats["minValues"], &stats["maxValues"]]) {
            for (column, value) in of.as_object().into_iter().flatten() {
                let value = value.as_str().unwrap_or_default();
                let stays = match (table, column.as_str()) {
                    (_, "image_id" | "query_id" | "target_id") => self.kept.id(value),
                    (Table::Embeddings, "content_id") => {
                        self.kept.content(value) || self.kept.caption(value)
                    }
                    (_, "content_id" | "query_content_id" | "target_content_id") => {
                        self.kept.content(value)
                    }
                    _ => true,
                };
                if !stays {
                    self.found(&format!("statistics of {column} name what has gone"), name);
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, of: &str, page: &str, name: &str) -> anyhow::Result<()> {
        // What is asked for names ids until it is done: that is what it is there for. What is out in a
        // batch does by contents, of which nothing is said.
        if matches!(of, "requests" | "batches") {
            return Ok(());
        }
        let content = self.store.get(name)?.unwrap_or_default();
        if of == "state" {
            match Part::from_bytes(&content) {
                Ok(part) => {
                    let named = part.ids.iter().filter(|id| !id.is_empty() && !self.kept.id(id));
                    for _ in 0..named.count() {
                        self.found("a state checkpoint names an image that is not live", name);
                    }
                }
                Err(why) => {
                    self.found(&format!("a state checkpoint that none can read: {why}"), name)
                }
            }
            return Ok(());
        }
        // Texts about contents that stay; ids of contents are no ids of images.
        if matches!(of, "answers" | "failures") {
            let row: Result<AnnotationRow, _> = match of {
                "answers" => serde_json::from_slice(&content),
                _ => serde_json::from_slice(&content).map(|failure: Failure| failure.row),
            };
            let row = row.with_context(|| format!("{name} is no outcome of a request"))?;
            if !self.kept.answer(&AnswerTo::of(&row)) {
                self.found("texts about a content that has gone", name);
            }
            return Ok(());
        }
        let known =
            matches!(of, "" | "epochs" | "snapshots" | "generation" | "gc" | "upkeep" | "money");
        match serde_json::from_slice::<Value>(&content) {
            Ok(value) if known => {
                if names(&value, &self.gone) {
                    self.found("names an image that is not live", name);
                }
            }
            // The first generations were empty objects.
            Err(_) if of == "generation" && content.is_empty() => {}
            _ => self.found(&format!("no page that Everpair knows as {page}"), name),
        }
        Ok(())
    }
}

/// Whether a text anywhere in a page is one of these ids.
fn names(page: &Value, gone: &HashSet<Key>) -> bool {
    match page {
        Value::String(text) => gone.contains(&Key::of(&[text])),
        Value::Array(all) => all.iter().any(|value| names(value, gone)),
        Value::Object(all) => all.values().any(|value| names(value, gone)),
        _ => false,
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> anyhow::Result<&'a StringArray> {
    let column = batch.column_by_name(name).filter(|column| *column.data_type() == DataType::Utf8);
    column.map(|column| column.as_string::<i32>()).with_context(|| format!("no texts in {name}"))
}

/// What is wrong with a row.
fn fault(
    kept: &Kept,
    table: Table,
    batch: &RecordBatch,
    row: usize,
) -> anyhow::Result<Option<&'static str>> {
    let text = |name: &str| -> anyhow::Result<&str> { Ok(column(batch, name)?.value(row)) };
    if matches!(table, Table::Pairs | Table::Triplets) {
        let lists = batch.column_by_name("hard_negatives").context("no column hard_negatives")?;
        let lists = lists.as_list_opt::<i32>().context("hard_negatives is no list")?;
        let ids = lists.value(row);
        let mut ids = ids.as_string::<i32>().iter().flatten();
        if ids.any(|id| !kept.id(id)) {
            return Ok(Some("a hard negative that is not live"));
        }
        if !kept.id(text("query_id")?) || !kept.id(text("target_id")?) {
            return Ok(Some("a pair of an image that is not live"));
        }
    }
    if matches!(table, Table::Annotations | Table::Triplets) {
        let version = batch.column_by_name("prompt_version").context("no prompt_version")?;
        let version = version.as_primitive_opt::<Int32Type>().context("prompt_version")?;
        let answer = AnswerTo {
            request_id: text("request_id")?,
            query: text("query_content_id")?,
            target: text("target_content_id")?,
            task: if table == Table::Annotations { text("task")? } else { "instruct" },
            model: text("model")?,
            prompt_version: version.value(row),
        };
        return Ok((!kept.answer(&answer)).then_some("texts about a content that has gone"));
    }
    let stays = match table {
        Table::Contents => kept.content(text("content_id")?),
        Table::Embeddings if text("channel")? == Channel::Caption.as_str() => {
            kept.caption(text("content_id")?)
        }
        Table::Embeddings => kept.content(text("content_id")?),
        Table::Images => {
            let captions = column(batch, "caption")?;
            let caption = captions.is_valid(row).then(|| captions.value(row));
            kept.image(text("image_id")?, text("content_id")?, caption)
        }
        _ => true,
    };
    Ok((!stays).then_some(match table {
        Table::Contents => "the bytes of a content that has gone",
        Table::Embeddings => "a vector of a content or caption that has gone",
        _ => "an image, content or caption that has gone",
    }))
}
