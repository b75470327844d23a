//! Rows out of columns, where there are many of them: what a start reads most of is taken from the
//! batches as they are, each value once.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use arrow_array::{
    Array, BinaryArray, Int32Array, ListArray, RecordBatch, StringArray, StructArray,
    cast::AsArray,
    types::{Int32Type, Int64Type},
};
use operators::{
    embed::KnownVector,
    flow::{Answer, CAPTION, Captioned, CaptionerId, TASK},
};
use schemas::{
    ContentId,
    tables::{Audit, WITHDRAWN},
};

/// The columns of `embeddings` that [`vectors`] reads.
pub const OF_VECTORS: [&str; 5] = ["content_id", "channel", "encoder", "dim", "vector"];
/// The columns of `annotations` that [`answers`] reads.
pub const OF_ANSWERS: [&str; 11] = [
    "request_id",
    "task",
    "query_content_id",
    "target_content_id",
    "model",
    "prompt_version",
    "outcome",
    "description",
    "instructions",
    "audits",
    "epoch",
];

fn none(name: &str) -> anyhow::Error {
    anyhow!("there is no column {name} of its type")
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> anyhow::Result<&'a StringArray> {
    batch.column_by_name(name).and_then(|c| c.as_string_opt()).ok_or_else(|| none(name))
}

fn ints<'a>(batch: &'a RecordBatch, name: &str) -> anyhow::Result<&'a Int32Array> {
    let column = batch.column_by_name(name);
    column.and_then(|c| c.as_primitive_opt::<Int32Type>()).ok_or_else(|| none(name))
}

fn lists<'a>(batch: &'a RecordBatch, name: &str) -> anyhow::Result<&'a ListArray> {
    batch.column_by_name(name).and_then(|c| c.as_list_opt()).ok_or_else(|| none(name))
}

/// Items of one row of a list.
fn items(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = list.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}

/// Vectors of channels that there are.
///
/// # Errors
/// A row is broken.
pub fn vectors(batch: &RecordBatch) -> anyhow::Result<Vec<KnownVector>> {
    let [content_ids, channels, encoders] =
        [texts(batch, "content_id")?, texts(batch, "channel")?, texts(batch, "encoder")?];
    let dims = ints(batch, "dim")?;
    let vectors: Option<&BinaryArray> =
        batch.column_by_name("vector").and_then(|c| c.as_binary_opt());
    let vectors = vectors.ok_or_else(|| none("vector"))?;
    let mut encoder: Arc<str> = "".into();
    let mut known = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        // There are few encoders: one name for each run of rows.
        if *encoder != *encoders.value(row) {
            encoder = encoders.value(row).into();
        }
        let (id, channel) = (content_ids.value(row), channels.value(row));
        let vector = KnownVector::read(id, channel, &encoder, dims.value(row), vectors.value(row));
        known.extend(vector.map_err(|why| anyhow!("I8: {why}"))?);
    }
    Ok(known)
}

/// Outcomes of requests for instructions, each with its epoch; what was withdrawn answers nothing.
///
/// # Errors
/// A column is not there.
pub fn answers(batch: &RecordBatch) -> anyhow::Result<Vec<(Arc<Answer>, i64)>> {
    let [requests, queries, targets] = [
        texts(batch, "request_id")?,
        texts(batch, "query_content_id")?,
        texts(batch, "target_content_id")?,
    ];
    let [models, outcomes, descriptions] =
        [texts(batch, "model")?, texts(batch, "outcome")?, texts(batch, "description")?];
    let (versions, instructions) = (ints(batch, "prompt_version")?, lists(batch, "instructions")?);
    let said = instructions.values().as_string_opt::<i32>();
    let said = said.ok_or_else(|| none("instructions"))?;
    let audits = Audits::of(lists(batch, "audits")?).context("audits")?;
    let epochs = batch.column_by_name("epoch").and_then(|c| c.as_primitive_opt::<Int64Type>());
    let epochs = epochs.ok_or_else(|| none("epoch"))?;
    let answer = |row: usize| {
        let (query, target) = (queries.value(row), targets.value(row));
        let (query, target) = (ContentId::parse(query), ContentId::parse(target));
        // As `Answer::from` a row: what names no contents answers nothing.
        let ok = outcomes.value(row) == "ok" && query.is_some() && target.is_some();
        let description = descriptions.is_valid(row).then(|| descriptions.value(row).to_owned());
        let answer = Answer {
            request_id: requests.value(row).to_owned(),
            query: query.unwrap_or(ContentId([0; 32])),
            target: target.unwrap_or(ContentId([0; 32])),
            model: models.value(row).to_owned(),
            prompt_version: versions.value(row),
            ok,
            description,
            instructions: items(instructions, row).map(|i| said.value(i).to_owned()).collect(),
            audits: audits.row(row),
        };
        (Arc::new(answer), epochs.value(row))
    };
    let tasks = texts(batch, "task")?;
    let counts = |row: &usize| outcomes.value(*row) != WITHDRAWN && tasks.value(*row) == TASK;
    let answers = (0..batch.num_rows()).filter(counts);
    Ok(answers.map(answer).collect())
}

/// What came of requests for captions, as far as they are this captioner's.
///
/// # Errors
/// A column is not there.
pub fn captions(batch: &RecordBatch, captioner: &CaptionerId) -> anyhow::Result<Vec<Captioned>> {
    let [requests, contents, outcomes, descriptions, tasks] = [
        texts(batch, "request_id")?,
        texts(batch, "query_content_id")?,
        texts(batch, "outcome")?,
        texts(batch, "description")?,
        texts(batch, "task")?,
    ];
    let of = (0..batch.num_rows()).filter(|row| tasks.value(*row) == CAPTION);
    let captioned = of.filter_map(|row| {
        let asked = (requests.value(row), contents.value(row));
        let text = descriptions.is_valid(row).then(|| descriptions.value(row));
        Captioned::read(captioner, asked, outcomes.value(row), text)
    });
    Ok(captioned.collect())
}

struct Audits<'a> {
    list: &'a ListArray,
    labels: &'a StringArray,
    ranks: [&'a Int32Array; 3],
    verdicts: &'a StringArray,
}

impl<'a> Audits<'a> {
    fn of(list: &'a ListArray) -> anyhow::Result<Audits<'a>> {
        let each = list.values().as_struct_opt().ok_or_else(|| none("element"))?;
        let (labels, verdicts) = (texts_in(each, "label")?, texts_in(each, "verdict")?);
        let rank = |name| {
            let column = each.column_by_name(name);
            column.and_then(|c| c.as_primitive_opt::<Int32Type>()).ok_or_else(|| none(name))
        };
        let ranks = [rank("rank_text")?, rank("rank_image")?, rank("rank_both")?];
        Ok(Audits { list, labels, ranks, verdicts })
    }

    fn row(&self, row: usize) -> Vec<Audit> {
        let audit = |i: usize| {
            let [rank_text, rank_image, rank_both] =
                self.ranks.map(|ranks| ranks.is_valid(i).then(|| ranks.value(i)));
            let verdict = self.verdicts.is_valid(i).then(|| self.verdicts.value(i).to_owned());
            let label = self.labels.value(i).to_owned();
            Audit { label, rank_text, rank_image, rank_both, verdict }
        };
        items(self.list, row).map(audit).collect()
    }
}

fn texts_in<'a>(each: &'a StructArray, name: &str) -> anyhow::Result<&'a StringArray> {
    each.column_by_name(name).and_then(|c| c.as_string_opt()).ok_or_else(|| none(name))
}

#[cfg(test)]
mod tests {
    use schemas::tables::{AnnotationRow, EmbeddingRow, to_batch};

    use super::*;

    fn annotation(n: usize) -> AnnotationRow {
        let content = |of: usize| ContentId::of(&[of as u8]).hex();
        let audit = |n: usize| Audit {
            label: format!("label {n}"),
            rank_text: n.is_multiple_of(2).then_some(n as i32),
            rank_image: n.is_multiple_of(3).then_some(-1),
            rank_both: None,
            verdict: (n % 3 == 1).then(|| format!("verdict {n}")),
        };
        AnnotationRow {
            request_id: format!("request {n}"),
            query_content_id: if n == 3 { "no content".into() } else { content(n) },
            target_content_id: content(n + 1),
            task: "instruct".into(),
            model: format!("model {}", n % 2),
            prompt_version: n as i32,
            outcome: if n == 2 { "refused".into() } else { "ok".into() },
            description: (n % 2 == 1).then(|| format!("Ünderneath {n}")),
            instructions: (0..n % 4).map(|i| format!("instruction {n}.{i}")).collect(),
            audits: (0..n % 4).map(audit).collect(),
            prompt_tokens: None,
            completion_tokens: Some(1),
            cost_usd: Some(0.5),
            created_at: 7,
            epoch: 10 + n as i64,
        }
    }

    #[test]
    fn answers_are_those_of_their_rows() {
        let mut rows: Vec<AnnotationRow> = (0..9).map(annotation).collect();
        rows.insert(4, AnnotationRow { outcome: WITHDRAWN.into(), ..annotation(9) });
        rows.insert(6, AnnotationRow { task: "describe".into(), ..annotation(10) });
        let captioner = CaptionerId { model: "captioner".into(), prompt_version: 3 };
        let content = ContentId::of(&[5]);
        let caption = |model: &str, outcome: &str| {
            let captioner = CaptionerId { model: model.into(), ..captioner.clone() };
            AnnotationRow {
                task: CAPTION.into(),
                request_id: captioner.request_id(content),
                query_content_id: content.hex(),
                target_content_id: content.hex(),
                outcome: outcome.into(),
                description: Some(" a cat ".into()),
                ..annotation(5)
            }
        };
        let captions = [("captioner", "ok"), ("another", "ok"), ("captioner", WITHDRAWN)];
        let captions = captions.map(|(model, outcome)| caption(model, outcome));
        let all: Vec<AnnotationRow> = rows.iter().chain(&captions).cloned().collect();
        let batch = to_batch(&all).expect("a batch");
        let read = answers(&batch).expect("answers");
        let captioned = Captioned { content_id: content, caption: Some("a cat".into()) };
        assert_eq!(super::captions(&batch, &captioner).expect("captions"), [captioned]);
        rows.remove(6);
        rows.remove(4);
        let told = rows.iter().map(|row| (Arc::new(Answer::from(row)), row.epoch));
        assert!(read.iter().cloned().eq(told));
        assert_eq!(read.iter().filter(|(answer, _)| !answer.ok).count(), 2);
        // Of a part of a batch too: lists begin in the middle of their values then.
        let part = to_batch(&rows).expect("a batch").slice(5, 3);
        assert_eq!(answers(&part).expect("answers"), read[5..8]);
    }

    #[test]
    fn vectors_are_those_of_their_rows() {
        let row = |n: i16, channel: &str| EmbeddingRow {
            content_id: ContentId::of(&n.to_le_bytes()).hex(),
            channel: channel.into(),
            encoder: format!("e{}@1", n / 2),
            dim: i32::from(n),
            vector: (0..n).flat_map(|x| (x - 2).to_le_bytes()).collect(),
            epoch: 3,
        };
        let mut rows = Vec::from([0, 1, 2, 3].map(|n| row(n, "pattern")));
        rows.push(row(4, "one of another version"));
        let read = vectors(&to_batch(&rows).expect("a batch")).expect("vectors");
        let told: Vec<_> =
            rows.iter().filter_map(|row| KnownVector::of(row).expect("whole")).collect();
        assert_eq!((&read, read.len()), (&told, 4));
        assert_eq!(
            (read[0].vector.as_deref(), read[3].vector.as_deref()),
            (None, Some(&[-2, -1, 0][..]))
        );
        for broken in [
            EmbeddingRow { dim: 2, ..row(3, "pattern") },
            EmbeddingRow { vector: vec![0; 5], dim: 2, ..row(3, "pattern") },
            EmbeddingRow { vector: i16::MIN.to_le_bytes().into(), dim: 1, ..row(3, "pattern") },
            EmbeddingRow { content_id: "x".into(), ..row(3, "pattern") },
        ] {
            assert!(vectors(&to_batch(&[broken]).expect("a batch")).is_err());
        }
    }
}
