//! From the tables back to a running dataflow: what enters under the epoch that they are at, and
//! what they show, to find out what differs.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, anyhow};
use operators::{filter, flow::Answer, register::Restored};
use schemas::{
    ContentId,
    config::Filter,
    tables::{
        self, AnnotationRow, BlockedRow, ContentRow, EmbeddingRow, ImageRow, Measures, PairRow,
        RejectRow, Row, TripletRow,
    },
};
use serde::Deserialize;

use super::worker::Start;
use crate::{
    delta::{AGAIN, Publisher, Table},
    metrics::Metrics,
    source::witness::{Known, Witnesses},
};

/// What the tables show now, and what the annotator may look up.
#[derive(Default)]
pub struct Shown {
    /// `pairs`, by query and target, the epoch column set to 0.
    pub pairs: BTreeMap<(String, String), PairRow>,
    /// `triplets` by id, the epoch column set to 0.
    pub triplets: BTreeMap<String, TripletRow>,
    /// What `rejects` must still say: of answers whose epoch never became real. The memo has kept
    /// them, and they are not judged as new ones again.
    pub rejects: Vec<RejectRow>,
    /// Rows of `rejects`, by stage and reason.
    pub rejected: BTreeMap<(String, String), u64>,
    /// Measures and size of every content.
    pub measured: HashMap<ContentId, (Measures, (i32, i32))>,
    /// What the tables know of the newest messages.
    pub known: Witnesses,
}

/// Every live row of a table.
pub fn rows<R: Row>(table: &Table) -> anyhow::Result<Vec<R>> {
    let mut rows = Vec::new();
    for batch in table.scan(None)? {
        rows.extend(tables::from_batch::<R>(&batch?).with_context(|| read_error(table.name()))?);
    }
    Ok(rows)
}

fn read_error(table: &str) -> String {
    format!("table {table} holds a row that this version does not know")
}

/// The columns of `contents` that a start needs; image bytes stay where they are.
#[derive(Deserialize)]
struct ContentMeasures {
    content_id: String,
    width: i32,
    height: i32,
    measures: Measures,
}

fn table(publisher: &Publisher, of: tables::Table) -> anyhow::Result<&Table> {
    publisher.table(of.as_str()).ok_or_else(|| anyhow!("no table {}", of.as_str()))
}

fn read<R: Row>(publisher: &Publisher, metrics: &Metrics) -> anyhow::Result<Vec<R>> {
    let rows = rows(table(publisher, R::TABLE)?)?;
    metrics.restored(rows.len());
    Ok(rows)
}

/// The columns of `rejects` that are counted, and tell which message it was.
#[derive(Deserialize)]
struct RejectKind {
    stage: String,
    reason: String,
    image_id: Option<String>,
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    epoch: i64,
}

/// Counts what was turned away, and notes which messages that were.
pub fn rejected(
    rejects: &Table,
    known: &mut Witnesses,
) -> anyhow::Result<BTreeMap<(String, String), u64>> {
    let mut counts = BTreeMap::new();
    let columns = ["stage", "reason", "image_id", "topic", "partition", "offset", "epoch"];
    for batch in rejects.scan(Some(&columns))? {
        let rows: Vec<RejectKind> =
            serde_arrow::from_record_batch(&batch?).with_context(|| read_error(rejects.name()))?;
        for row in rows {
            if let (Some(topic), Some(partition), Some(offset)) =
                (row.topic, row.partition, row.offset)
            {
                let message = row.image_id.map_or(Known::NoId, Known::Image);
                known.note((&topic, partition, offset), row.epoch, message);
            }
            *counts.entry((row.stage, row.reason)).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Reads everything that a start needs; `known` takes in what messages there were.
pub fn restore(
    publisher: &Publisher,
    rules: &Filter,
    metrics: &Metrics,
    mut known: Witnesses,
) -> anyhow::Result<(Start, Shown)> {
    let mut start = Start { epoch: publisher.epoch().unwrap_or(0), ..Start::default() };
    let mut shown = Shown::default();

    let contents = table(publisher, ContentRow::TABLE)?;
    for batch in contents.scan(Some(&["content_id", "width", "height", "measures"]))? {
        let rows: Vec<ContentMeasures> =
            serde_arrow::from_record_batch(&batch?).with_context(|| read_error(contents.name()))?;
        metrics.restored(rows.len());
        for row in rows {
            let id = ContentId::parse(&row.content_id)
                .ok_or_else(|| anyhow!("contents: {:?} is no sha256", row.content_id))?;
            start.restored.push(Restored::Content(id));
            shown.measured.insert(id, (row.measures, (row.width, row.height)));
        }
    }
    known.read_again(table(publisher, ImageRow::TABLE)?.txns(AGAIN));
    for mut row in read::<ImageRow>(publisher, metrics)? {
        let message = Known::Image(row.image_id.clone());
        known.note((&row.topic, row.partition, row.offset), row.epoch, message);
        row.epoch = 0;
        start.restored.push(Restored::Image(row));
    }
    for mut row in read::<BlockedRow>(publisher, metrics)? {
        row.epoch = 0;
        start.restored.push(Restored::Blocked(row));
    }
    start.vectors = read::<EmbeddingRow>(publisher, metrics)?;
    start.answers = read::<AnnotationRow>(publisher, metrics)?;
    let real = i64::try_from(start.epoch).context("epochs fit into 63 bits")?;
    for row in start.answers.iter().filter(|row| row.epoch > real) {
        shown.rejects.extend(filter::accept(Answer::from(row), rules).1);
    }
    shown.rejected = rejected(table(publisher, RejectRow::TABLE)?, &mut known)?;
    shown.known = known;
    for mut row in read::<PairRow>(publisher, metrics)? {
        row.epoch = 0;
        shown.pairs.insert((row.query_id.clone(), row.target_id.clone()), row);
    }
    for mut row in read::<TripletRow>(publisher, metrics)? {
        row.epoch = 0;
        shown.triplets.insert(row.triplet_id.clone(), row);
    }
    Ok((start, shown))
}
