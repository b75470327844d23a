//! Which rows of each table may stay, as a purge asks it.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, ListArray, RecordBatch, StringArray,
    builder::{ListBuilder, StringBuilder},
    cast::AsArray,
    types::Int32Type,
};
use arrow_schema::DataType;
use schemas::{Channel, tables::Table};

use super::kept::{AnswerTo, Kept};
use crate::delta::{Error, Result, Rule, Verdict};

/// The tables that a take-down concerns. In the others ids alone stay: consumers must learn what to
/// drop, and what is blocked must be known.
pub const TABLES: [Table; 6] = [
    Table::Contents,
    Table::Embeddings,
    Table::Annotations,
    Table::Pairs,
    Table::Triplets,
    Table::Images,
];

const NEGATIVES: &str = "hard_negatives";

/// The rule of one table.
pub struct RuleOf<'a> {
    /// What may stay.
    pub kept: &'a Kept,
    /// The table.
    pub table: Table,
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    let column = batch.column_by_name(name).filter(|column| *column.data_type() == DataType::Utf8);
    let missing = || Error::Unreadable(format!("{name} is no column of text"));
    column.map(|column| column.as_string::<i32>()).ok_or_else(missing)
}

fn negatives(batch: &RecordBatch) -> Result<&ListArray> {
    let column = batch.column_by_name(NEGATIVES).and_then(|column| column.as_list_opt::<i32>());
    column.ok_or_else(|| Error::Unreadable(format!("{NEGATIVES} is no column of lists")))
}

impl RuleOf<'_> {
    /// Verdicts of rows that name a query, a target and negatives.
    fn named(&self, batch: &RecordBatch) -> Result<Vec<Verdict>> {
        let (queries, targets) = (texts(batch, "query_id")?, texts(batch, "target_id")?);
        let negatives = negatives(batch)?;
        let verdict = |row: usize| {
            if !self.kept.id(queries.value(row)) || !self.kept.id(targets.value(row)) {
                return Verdict::Goes;
            }
            let ids = negatives.value(row);
            match ids.as_string::<i32>().iter().flatten().all(|id| self.kept.id(id)) {
                true => Verdict::Stays,
                false => Verdict::Edited,
            }
        };
        Ok((0..batch.num_rows()).map(verdict).collect())
    }

    /// Whether the answers stay that rows are made of.
    fn answers(&self, batch: &RecordBatch, tasks: Option<&StringArray>) -> Result<Vec<bool>> {
        let ids = texts(batch, "request_id")?;
        let queries = texts(batch, "query_content_id")?;
        let targets = texts(batch, "target_content_id")?;
        let models = texts(batch, "model")?;
        let versions = batch.column_by_name("prompt_version");
        let versions = versions.and_then(|column| column.as_primitive_opt::<Int32Type>());
        let versions =
            versions.ok_or_else(|| Error::Unreadable("prompt_version is no number".to_owned()))?;
        let stays = |row: usize| {
            self.kept.answer(&AnswerTo {
                request_id: ids.value(row),
                query: queries.value(row),
                target: targets.value(row),
                task: tasks.map_or("instruct", |tasks| tasks.value(row)),
                model: models.value(row),
                prompt_version: versions.value(row),
            })
        };
        Ok((0..batch.num_rows()).map(stays).collect())
    }
}

fn verdicts(stays: impl Iterator<Item = bool>) -> Vec<Verdict> {
    stays.map(|stays| if stays { Verdict::Stays } else { Verdict::Goes }).collect()
}

impl Rule for RuleOf<'_> {
    fn columns(&self) -> &[&str] {
        match self.table {
            Table::Contents => &["content_id"],
            Table::Embeddings => &["content_id", "channel"],
            Table::Annotations => &[
                "request_id",
                "query_content_id",
                "target_content_id",
                "task",
                "model",
                "prompt_version",
            ],
            Table::Pairs => &["query_id", "target_id", NEGATIVES],
            Table::Triplets => &[
                "query_id",
                "target_id",
                NEGATIVES,
                "request_id",
                "query_content_id",
                "target_content_id",
                "model",
                "prompt_version",
            ],
            Table::Images => &["image_id", "content_id", "caption"],
            Table::Changes | Table::Rejects | Table::Blocked => &[],
        }
    }

    fn judge(&self, batch: &RecordBatch) -> Result<Vec<Verdict>> {
        let rows = 0..batch.num_rows();
        Ok(match self.table {
            Table::Contents => {
                let ids = texts(batch, "content_id")?;
                verdicts(rows.map(|row| self.kept.content(ids.value(row))))
            }
            Table::Embeddings => {
                let (ids, channels) = (texts(batch, "content_id")?, texts(batch, "channel")?);
                verdicts(rows.map(|row| match channels.value(row) == Channel::Caption.as_str() {
                    true => self.kept.caption(ids.value(row)),
                    false => self.kept.content(ids.value(row)),
                }))
            }
            Table::Annotations => {
                let tasks = texts(batch, "task")?;
                verdicts(self.answers(batch, Some(tasks))?.into_iter())
            }
            Table::Pairs => self.named(batch)?,
            Table::Triplets => {
                let answers = self.answers(batch, None)?;
                let named = self.named(batch)?.into_iter().zip(answers);
                named.map(|(verdict, stays)| if stays { verdict } else { Verdict::Goes }).collect()
            }
            Table::Images => {
                let (ids, contents) = (texts(batch, "image_id")?, texts(batch, "content_id")?);
                let captions = texts(batch, "caption")?;
                verdicts(rows.map(|row| {
                    let caption = captions.is_valid(row).then(|| captions.value(row));
                    self.kept.image(ids.value(row), contents.value(row), caption)
                }))
            }
            Table::Changes | Table::Rejects | Table::Blocked => {
                rows.map(|_| Verdict::Stays).collect()
            }
        })
    }

    fn hidden(&self, pinned: u64, batch: &RecordBatch) -> Result<Option<Vec<bool>>> {
        let Some(hides) = self.kept.hides(self.table, pinned) else { return Ok(None) };
        let (queries, targets) = (texts(batch, "query_id")?, texts(batch, "target_id")?);
        let negatives = negatives(batch)?;
        let hidden = |row: usize| {
            let ids = negatives.value(row);
            let mut ids = ids.as_string::<i32>().iter().flatten();
            hides(queries.value(row)) || hides(targets.value(row)) || ids.any(&hides)
        };
        Ok(Some((0..batch.num_rows()).map(hidden).collect()))
    }

    fn admits(&self, column: &str, value: &str) -> bool {
        match column {
            "image_id" | "query_id" | "target_id" => self.kept.id(value),
            "content_id" | "query_content_id" | "target_content_id" => {
                self.kept.content(value) || self.kept.caption(value)
            }
            // Hashes, of which no image can be told.
            _ => true,
        }
    }

    fn edit(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let Ok(at) = batch.schema().index_of(NEGATIVES) else { return Ok(batch) };
        let held = negatives(&batch)?;
        let DataType::List(field) = held.data_type() else { return Ok(batch) };
        let mut lists = ListBuilder::new(StringBuilder::new()).with_field(field.clone());
        for row in 0..held.len() {
            let ids = held.value(row);
            let ids = ids.as_string::<i32>().iter().flatten().filter(|id| self.kept.id(id));
            ids.for_each(|id| lists.values().append_value(id));
            lists.append(true);
        }
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns[at] = Arc::new(lists.finish());
        RecordBatch::try_new(batch.schema(), columns)
            .map_err(|error| Error::Refused(format!("{NEGATIVES}: {error}")))
    }
}
