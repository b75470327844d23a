//! Every table that others read: names, columns, and rows as plain structs.
//!
//! Names and columns are API. Ids are strings, times are microseconds UTC, integers are signed,
//! and there is no half-precision float (Spark cannot open a file that has one).

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Channel, ContentId, reject::Reason};

/// A row of one table: its name, its columns, and what identifies it.
pub trait Row: Serialize + DeserializeOwned + Clone + Send + 'static {
    /// The table's name.
    const TABLE: Table;
    /// The columns, in order.
    fn fields() -> Vec<Field>;
}

/// The tables, in the order in which an epoch commits them: memos first, `images` last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Memo: one content.
    Contents,
    /// Memo: one vector of one content.
    Embeddings,
    /// Memo: one request's outcome.
    Annotations,
    /// What must not come back.
    Blocked,
    /// Mined pairs that hold now.
    Pairs,
    /// Training rows that are live now.
    Triplets,
    /// Append-only log of `triplets`.
    Changes,
    /// What was turned away.
    Rejects,
    /// Live images; its commit is the epoch.
    Images,
}

impl Table {
    /// All tables, in commit order.
    pub const ALL: [Table; 9] = [
        Table::Contents,
        Table::Embeddings,
        Table::Annotations,
        Table::Blocked,
        Table::Pairs,
        Table::Triplets,
        Table::Changes,
        Table::Rejects,
        Table::Images,
    ];

    /// The folder's name under the root.
    pub fn as_str(self) -> &'static str {
        match self {
            Table::Contents => "contents",
            Table::Embeddings => "embeddings",
            Table::Annotations => "annotations",
            Table::Blocked => "blocked",
            Table::Pairs => "pairs",
            Table::Triplets => "triplets",
            Table::Changes => "changes",
            Table::Rejects => "rejects",
            Table::Images => "images",
        }
    }

    /// Memos hold what cannot be recomputed; epochs only add to them, and they may run ahead.
    pub fn is_memo(self) -> bool {
        matches!(self, Table::Contents | Table::Embeddings | Table::Annotations)
    }

    /// The columns that identify a row for deletion; none where epochs only add rows.
    pub fn key(self) -> &'static [&'static str] {
        match self {
            Table::Images => &["image_id"],
            Table::Pairs => &["query_id", "target_id"],
            Table::Triplets => &["triplet_id"],
            Table::Blocked => &["kind", "value"],
            _ => &[],
        }
    }

    /// The columns that rows of one file are sorted by: what they are looked up by.
    pub fn order(self) -> &'static [&'static str] {
        match self {
            Table::Contents => &["content_id"],
            Table::Embeddings => &["channel", "content_id"],
            Table::Annotations => &["request_id"],
            Table::Blocked => &["kind", "value"],
            Table::Pairs | Table::Triplets | Table::Changes => &["query_id", "target_id"],
            Table::Rejects => &["stage", "reason"],
            Table::Images => &["image_id"],
        }
    }

    /// The columns.
    pub fn schema(self) -> SchemaRef {
        let fields = match self {
            Table::Contents => ContentRow::fields(),
            Table::Embeddings => EmbeddingRow::fields(),
            Table::Annotations => AnnotationRow::fields(),
            Table::Blocked => BlockedRow::fields(),
            Table::Pairs => PairRow::fields(),
            Table::Triplets => TripletRow::fields(),
            Table::Changes => ChangeRow::fields(),
            Table::Rejects => RejectRow::fields(),
            Table::Images => ImageRow::fields(),
        };
        Arc::new(Schema::new(fields))
    }
}

/// Rows as one batch, with exactly the table's columns.
pub fn to_batch<R: Row>(rows: &[R]) -> Result<RecordBatch, serde_arrow::Error> {
    let fields: Vec<Arc<Field>> = R::fields().into_iter().map(Arc::new).collect();
    serde_arrow::to_record_batch(&fields, &rows)
}

/// The rows of a batch that has at least the columns without a default.
pub fn from_batch<R: Row>(batch: &RecordBatch) -> Result<Vec<R>, serde_arrow::Error> {
    serde_arrow::from_record_batch(batch)
}

fn string(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}
fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}
fn long(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}
fn int(name: &str) -> Field {
    Field::new(name, DataType::Int32, false)
}
fn double(name: &str) -> Field {
    Field::new(name, DataType::Float64, false)
}
fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false)
}
fn list(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("element", item, false))), false)
}
fn record(name: &str, fields: Vec<Field>) -> Field {
    Field::new(name, DataType::Struct(Fields::from(fields)), false)
}
fn per_channel(name: &str, item: DataType) -> Field {
    record(name, Channel::ALL.map(|c| Field::new(c.as_str(), item.clone(), true)).to_vec())
}
fn audits() -> Field {
    let rank = |name| Field::new(name, DataType::Int32, true);
    let ranks = [rank("rank_text"), rank("rank_image"), rank("rank_both")];
    let fields: Vec<Field> =
        [string("label")].into_iter().chain(ranks).chain([text("verdict")]).collect();
    list("audits", DataType::Struct(Fields::from(fields)))
}

/// A live image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ImageRow {
    /// The id that the source gave, 1 to 512 bytes.
    pub image_id: String,
    /// Sha256 of the encoded bytes, 64 hex digits.
    pub content_id: String,
    /// Where the image came from, in its owner's words.
    pub source: Option<String>,
    /// The address that it has or had.
    pub uri: Option<String>,
    /// The caption as it was sent; one that a model wrote stands in `annotations` alone.
    pub caption: Option<String>,
    /// The licence as it was sent.
    pub licence: Option<String>,
    /// Unknown fields of the envelope, a JSON object.
    pub attributes: Option<String>,
    /// Topic, or the file log's folder name, of the last message.
    pub topic: String,
    /// Partition of the last message.
    pub partition: i32,
    /// Offset of the last message.
    pub offset: i64,
    /// The record's timestamp, microseconds UTC; what is before the year 1 or behind 9999 is its first
    /// or last moment.
    pub ingested_at: i64,
    /// The epoch that wrote this row.
    pub epoch: i64,
    /// `TOPIC/PARTITION/OFFSET` of the message with which the id became live: messages that only
    /// replace the image keep it, one behind a tombstone, a block or a reject begins anew. An image
    /// of an older epoch whose id has another one by now was taken down in between. A replay does
    /// not undo that a message was turned away. None in rows from before there was this column.
    pub since: Option<String>,
}

impl Row for ImageRow {
    const TABLE: Table = Table::Images;
    fn fields() -> Vec<Field> {
        vec![
            string("image_id"),
            string("content_id"),
            text("source"),
            text("uri"),
            text("caption"),
            text("licence"),
            text("attributes"),
            string("topic"),
            int("partition"),
            long("offset"),
            time("ingested_at"),
            long("epoch"),
            text("since"),
        ]
    }
}

/// Encoded image bytes with the name that tells their format, as `datasets` stores an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredImage {
    /// JPEG with long side ≤ 512, or the original bytes, or none (`[contents] store`).
    #[serde(with = "serde_bytes")]
    pub bytes: Option<Vec<u8>>,
    /// `<content_id>.<extension>`; where no bytes are kept, the address that they first came from, if
    /// they came by one (where an image is now, its own row says: `images.uri`).
    pub path: Option<String>,
}

/// What was measured on an image at long side 256; formulas stand in `kernels::measure`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Mean perceived brightness, 0 to 1.
    pub brightness: f64,
    /// 5th percentile of perceived brightness, 0 to 1.
    pub brightness_p05: f64,
    /// 99th percentile of perceived brightness, 0 to 1.
    pub brightness_p99: f64,
    /// Standard deviation of perceived brightness, 0 to 0.5.
    pub contrast: f64,
    /// Shannon entropy of the grey histogram, 0 to 8 bits.
    pub entropy: f64,
    /// Variance of the Laplacian of grey, ≥ 0.
    pub blur: f64,
    /// Hasler and Süsstrunk's colourfulness, ≥ 0.
    pub colorfulness: f64,
    /// Long side over short side, ≥ 1.
    pub aspect: f64,
    /// Mean red, 0 to 255.
    pub red: f64,
    /// Mean green, 0 to 255.
    pub green: f64,
    /// Mean blue, 0 to 255.
    pub blue: f64,
}

/// Memo: one content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContentRow {
    /// Sha256 of the encoded bytes as they came.
    pub content_id: String,
    /// The copy that is kept.
    pub image: StoredImage,
    /// Width of the upright original, pixels.
    pub width: i32,
    /// Height of the upright original, pixels.
    pub height: i32,
    /// `jpeg`, `png`, `webp` or `gif`.
    pub format: String,
    /// 64-bit DCT perceptual hash, 16 hex digits.
    pub phash: String,
    /// What was measured.
    pub measures: Measures,
    /// The epoch that wrote this row.
    pub epoch: i64,
}

impl Row for ContentRow {
    const TABLE: Table = Table::Contents;
    fn fields() -> Vec<Field> {
        let measures = [
            "brightness",
            "brightness_p05",
            "brightness_p99",
            "contrast",
            "entropy",
            "blur",
            "colorfulness",
            "aspect",
            "red",
            "green",
            "blue",
        ];
        let bytes = Field::new("bytes", DataType::Binary, true);
        vec![
            string("content_id"),
            record("image", vec![bytes, text("path")]),
            int("width"),
            int("height"),
            string("format"),
            string("phash"),
            record("measures", measures.map(double).to_vec()),
            long("epoch"),
        ]
    }
}

/// Memo: one vector of one content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EmbeddingRow {
    /// Sha256 of what the encoder read: image bytes, or the trimmed caption's UTF-8.
    pub content_id: String,
    /// `semantic`, `pattern` or `caption`.
    pub channel: String,
    /// `name@digest` of weights and preprocessing.
    pub encoder: String,
    /// Components.
    pub dim: i32,
    /// Little-endian int16, `2·dim` bytes; empty (dim 0) where the encoder gave no vector.
    #[serde(with = "serde_bytes")]
    pub vector: Vec<u8>,
    /// The epoch that wrote this row.
    pub epoch: i64,
}

impl Row for EmbeddingRow {
    const TABLE: Table = Table::Embeddings;
    fn fields() -> Vec<Field> {
        vec![
            string("content_id"),
            string("channel"),
            string("encoder"),
            int("dim"),
            Field::new("vector", DataType::Binary, false),
            long("epoch"),
        ]
    }
}

/// One value per channel, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct PerChannel<T> {
    /// The `semantic` channel's.
    pub semantic: Option<T>,
    /// The `pattern` channel's.
    pub pattern: Option<T>,
    /// The `caption` channel's.
    pub caption: Option<T>,
}

impl<T> From<[Option<T>; 3]> for PerChannel<T> {
    fn from([semantic, pattern, caption]: [Option<T>; 3]) -> Self {
        PerChannel { semantic, pattern, caption }
    }
}

/// A mined pair that holds now (rules 1 to 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// The mined image whose neighbour the target is.
    pub query_id: String,
    /// The neighbour.
    pub target_id: String,
    /// The channels that proposed it, in column order.
    pub channels: Vec<String>,
    /// s / 2^30, wherever both have vectors.
    pub scores: PerChannel<f64>,
    /// Rank within its band, from 1, where proposed.
    pub ranks: PerChannel<i32>,
    /// Image ids; the query itself is implicit here.
    pub hard_negatives: Vec<String>,
    /// The epoch that wrote this row.
    pub epoch: i64,
}

impl Row for PairRow {
    const TABLE: Table = Table::Pairs;
    fn fields() -> Vec<Field> {
        vec![
            string("query_id"),
            string("target_id"),
            list("channels", DataType::Utf8),
            per_channel("scores", DataType::Float64),
            per_channel("ranks", DataType::Int32),
            list("hard_negatives", DataType::Utf8),
            long("epoch"),
        ]
    }
}

/// What was found out about one instruction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Audit {
    /// `composition_required`, `shortcut_text`, `shortcut_image` or `unresolved` (not audited too).
    pub label: String,
    /// Rank of the target under the text alone.
    pub rank_text: Option<i32>,
    /// Rank of the target under the query image alone.
    pub rank_image: Option<i32>,
    /// Rank of the target under both.
    pub rank_both: Option<i32>,
    /// `target`, `other` or `split`: what a blind judge chose; none where it was not judged.
    pub verdict: Option<String>,
}

/// The outcome of an answer that came when one of its contents was no longer live: what it cost
/// stays, its texts are not stored, and the request may be asked again.
pub const WITHDRAWN: &str = "withdrawn";

/// Memo: one request's outcome, failures too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnnotationRow {
    /// Sha256 of what determines the answer, 64 hex digits. Of one request all outcomes but the last
    /// are [`WITHDRAWN`].
    pub request_id: String,
    /// The query's content.
    pub query_content_id: String,
    /// The target's content.
    pub target_content_id: String,
    /// `instruct`, `describe` or `caption`; a request for a caption has its one content on both sides.
    pub task: String,
    /// `template:v1`, or the model's name.
    pub model: String,
    /// Version of the prompt.
    pub prompt_version: i32,
    /// `ok`, or why there is no answer: [`WITHDRAWN`], or what the annotator says.
    pub outcome: String,
    /// What the two have in common and where they differ; of task `caption` the caption.
    pub description: Option<String>,
    /// At least three, where `outcome` is `ok`; of other tasks than `instruct` parts, or none.
    pub instructions: Vec<String>,
    /// One per instruction.
    pub audits: Vec<Audit>,
    /// Tokens read.
    pub prompt_tokens: Option<i64>,
    /// Tokens written.
    pub completion_tokens: Option<i64>,
    /// What it cost.
    pub cost_usd: Option<f64>,
    /// When the answer came, microseconds UTC.
    pub created_at: i64,
    /// The epoch that wrote this row.
    pub epoch: i64,
}

impl Row for AnnotationRow {
    const TABLE: Table = Table::Annotations;
    fn fields() -> Vec<Field> {
        vec![
            string("request_id"),
            string("query_content_id"),
            string("target_content_id"),
            string("task"),
            string("model"),
            int("prompt_version"),
            string("outcome"),
            text("description"),
            list("instructions", DataType::Utf8),
            audits(),
            Field::new("prompt_tokens", DataType::Int64, true),
            Field::new("completion_tokens", DataType::Int64, true),
            Field::new("cost_usd", DataType::Float64, true),
            time("created_at"),
            long("epoch"),
        ]
    }
}

/// A training row, live now (I9).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TripletRow {
    /// [`crate::triplet_id`] of the two ids.
    pub triplet_id: String,
    /// The query image.
    pub query_id: String,
    /// The target image.
    pub target_id: String,
    /// At least three ways to ask for the target, given the query.
    pub instructions: Vec<String>,
    /// One per instruction.
    pub audits: Vec<Audit>,
    /// Image ids; the query itself comes first.
    pub hard_negatives: Vec<String>,
    /// Those of its `pairs` row; empty once it has left.
    pub channels: Vec<String>,
    /// Those of its `pairs` row; empty once it has left.
    pub scores: PerChannel<f64>,
    /// What the two have in common and where they differ.
    pub description: Option<String>,
    /// Who wrote the instructions.
    pub model: String,
    /// Version of the prompt.
    pub prompt_version: i32,
    /// The answer's request.
    pub request_id: String,
    /// The query's content.
    pub query_content_id: String,
    /// The target's content.
    pub target_content_id: String,
    /// The epoch that wrote this row.
    pub epoch: i64,
}

impl Row for TripletRow {
    const TABLE: Table = Table::Triplets;
    fn fields() -> Vec<Field> {
        vec![
            string("triplet_id"),
            string("query_id"),
            string("target_id"),
            list("instructions", DataType::Utf8),
            audits(),
            list("hard_negatives", DataType::Utf8),
            list("channels", DataType::Utf8),
            per_channel("scores", DataType::Float64),
            text("description"),
            string("model"),
            int("prompt_version"),
            string("request_id"),
            string("query_content_id"),
            string("target_content_id"),
            long("epoch"),
        ]
    }
}

/// One step of the log of `triplets`; a changed row is a delete and then an insert.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChangeRow {
    /// The epoch of the change.
    pub epoch: i64,
    /// `delete` or `insert`.
    pub op: String,
    /// `new`, `left`, `image`, `negatives`, `answer`, `rule` or `config`.
    pub reason: String,
    /// The row.
    pub triplet_id: String,
    /// Its query.
    pub query_id: String,
    /// Its target.
    pub target_id: String,
}

impl Row for ChangeRow {
    const TABLE: Table = Table::Changes;
    fn fields() -> Vec<Field> {
        vec![
            long("epoch"),
            string("op"),
            string("reason"),
            string("triplet_id"),
            string("query_id"),
            string("target_id"),
        ]
    }
}

/// A message, or an answer, that was turned away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RejectRow {
    /// The box that turned it away.
    pub stage: String,
    /// One of the closed set.
    pub reason: String,
    /// The value and the limit, in words.
    pub detail: String,
    /// The image, where its id could be read.
    pub image_id: Option<String>,
    /// The request, where it was an answer.
    pub request_id: Option<String>,
    /// Where the message stands.
    pub topic: Option<String>,
    /// Where the message stands.
    pub partition: Option<i32>,
    /// Where the message stands.
    pub offset: Option<i64>,
    /// The epoch that wrote this row.
    pub epoch: i64,
}

impl RejectRow {
    /// A rejected message; `epoch` is filled in when the row is published.
    pub fn message(
        reason: Reason,
        detail: impl Into<String>,
        image_id: Option<&str>,
        at: &crate::message::Position,
    ) -> RejectRow {
        RejectRow {
            stage: reason.stage().as_str().into(),
            reason: reason.as_str().into(),
            detail: detail.into(),
            image_id: image_id.map(Into::into),
            request_id: None,
            topic: Some(at.topic.to_string()),
            partition: Some(at.partition),
            offset: Some(at.offset),
            epoch: 0,
        }
    }

    /// A rejected answer; `epoch` is filled in when the row is published.
    pub fn answer(reason: Reason, detail: impl Into<String>, request_id: &str) -> RejectRow {
        RejectRow {
            stage: reason.stage().as_str().into(),
            reason: reason.as_str().into(),
            detail: detail.into(),
            image_id: None,
            request_id: Some(request_id.into()),
            topic: None,
            partition: None,
            offset: None,
            epoch: 0,
        }
    }
}

impl Row for RejectRow {
    const TABLE: Table = Table::Rejects;
    fn fields() -> Vec<Field> {
        vec![
            string("stage"),
            string("reason"),
            string("detail"),
            text("image_id"),
            text("request_id"),
            text("topic"),
            Field::new("partition", DataType::Int32, true),
            Field::new("offset", DataType::Int64, true),
            long("epoch"),
        ]
    }
}

/// What must not come back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockedRow {
    /// `id`, `content`, `source` or `benchmark`.
    pub kind: String,
    /// The id, the content's sha256, the source, …
    pub value: String,
    /// Why, in the words of whoever asked.
    pub reason: Option<String>,
    /// The epoch that wrote this row.
    pub epoch: i64,
}

impl Row for BlockedRow {
    const TABLE: Table = Table::Blocked;
    fn fields() -> Vec<Field> {
        vec![string("kind"), string("value"), text("reason"), long("epoch")]
    }
}

/// What determines a pair's answer, hashed: two requests with one id have one answer.
///
/// Captions are part of it for a model that reads them (`template:*`), images always are.
pub fn request_id(
    task: &str,
    model: &str,
    prompt_version: i32,
    query: (ContentId, Option<&str>),
    target: (ContentId, Option<&str>),
) -> String {
    let mut bytes = Vec::new();
    let mut part = |b: &[u8]| {
        bytes.extend_from_slice(&(b.len() as u64).to_le_bytes());
        bytes.extend_from_slice(b);
    };
    part(task.as_bytes());
    part(model.as_bytes());
    part(&prompt_version.to_le_bytes());
    for (content, caption) in [query, target] {
        part(&content.0);
        part(crate::caption_text(caption).unwrap_or("").as_bytes());
    }
    ContentId::of(&bytes).hex()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Position;

    fn reads_back<R: Row + PartialEq + std::fmt::Debug>(rows: Vec<R>) {
        let batch = to_batch(&rows).expect("rows fit their schema");
        assert_eq!(batch.schema(), R::TABLE.schema());
        assert_eq!(from_batch::<R>(&batch).expect("and come back"), rows);
        assert_eq!(from_batch::<R>(&to_batch::<R>(&[]).unwrap()).unwrap(), vec![]);
    }

    #[test]
    fn every_row_reads_back() {
        let position = Position { topic: "t".into(), partition: 3, offset: 9, timestamp_us: 5 };
        reads_back(vec![RejectRow::message(Reason::Corrupt, "x", Some("a"), &position)]);
        reads_back(vec![RejectRow::answer(Reason::TooShort, "x", "r")]);
        let audit = Audit {
            label: "unresolved".into(),
            rank_text: Some(1),
            rank_image: None,
            rank_both: None,
            verdict: Some("split".into()),
        };
        reads_back(vec![PairRow {
            query_id: "a".into(),
            target_id: "b".into(),
            channels: vec!["semantic".into()],
            scores: [Some(0.5), None, Some(-0.25)].into(),
            ranks: [Some(1), None, None].into(),
            hard_negatives: vec![],
            epoch: 7,
        }]);
        reads_back(vec![AnnotationRow {
            request_id: "r".into(),
            query_content_id: "q".into(),
            target_content_id: "t".into(),
            task: "instruct".into(),
            model: "template:v1".into(),
            prompt_version: 1,
            outcome: "ok".into(),
            description: None,
            instructions: vec!["x".into(), "y".into()],
            audits: vec![audit.clone()],
            prompt_tokens: None,
            completion_tokens: Some(3),
            cost_usd: Some(0.1),
            created_at: 1_700_000_000_000_000,
            epoch: 1,
        }]);
        reads_back(vec![EmbeddingRow {
            content_id: "c".into(),
            channel: "semantic".into(),
            encoder: "e@d".into(),
            dim: 2,
            vector: vec![1, 2, 3, 255],
            epoch: 1,
        }]);
        let image = |bytes: Option<Vec<u8>>| ContentRow {
            content_id: "c".into(),
            image: StoredImage { bytes, path: Some("c.jpg".into()) },
            width: 1,
            height: 2,
            format: "png".into(),
            phash: "00ff00ff00ff00ff".into(),
            measures: Measures { brightness: 0.5, ..Measures::default() },
            epoch: 2,
        };
        reads_back(vec![image(Some(vec![0, 255])), image(None)]);
        reads_back(vec![ImageRow {
            image_id: "a".into(),
            content_id: "c".into(),
            source: None,
            uri: None,
            caption: Some("ü".into()),
            licence: None,
            attributes: Some("{}".into()),
            topic: "t".into(),
            partition: 0,
            offset: 1,
            ingested_at: 1_700_000_000_000_001,
            epoch: 3,
            since: Some("t/0/1".into()),
        }]);
        reads_back(vec![BlockedRow {
            kind: "id".into(),
            value: "a".into(),
            reason: None,
            epoch: 1,
        }]);
        reads_back(vec![ChangeRow {
            epoch: 1,
            op: "insert".into(),
            reason: "new".into(),
            triplet_id: "x".into(),
            query_id: "a".into(),
            target_id: "b".into(),
        }]);
        reads_back(vec![TripletRow {
            triplet_id: "x".into(),
            query_id: "a".into(),
            target_id: "b".into(),
            instructions: vec!["i".into()],
            audits: vec![audit],
            hard_negatives: vec!["a".into()],
            channels: vec![],
            scores: Default::default(),
            description: None,
            model: "m".into(),
            prompt_version: 1,
            request_id: "r".into(),
            query_content_id: "q".into(),
            target_content_id: "t".into(),
            epoch: 1,
        }]);
    }
}
