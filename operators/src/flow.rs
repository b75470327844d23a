//! What travels between the boxes. Ids are `Arc<str>`, pixels and vectors sit behind `Arc`: a row
//! is a few pointers, and nothing large ever enters a differential collection.

use std::sync::Arc;

use kernels::{decode::Pixels, encoders::ImageEncoder};
use schemas::{
    ContentId,
    message::{Description, Position, Reading},
    tables::{AnnotationRow, ContentRow},
};
use serde::{Deserialize, Serialize};

/// A message after decode and screen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arrival {
    /// The image's id.
    pub image_id: Arc<str>,
    /// Where the message stands.
    pub position: Position,
    /// What it says.
    pub outcome: Outcome,
    /// Whether it was read before.
    pub reading: Reading,
}

/// What a message says of its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// This is the image now.
    Live(Arc<Picture>, Arc<Description>),
    /// A tombstone, or a message that was turned away: the id is not live.
    Gone,
}

/// A decoded image: its content's memo row and the pixels that encoders read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Picture {
    /// Sha256 of the encoded bytes.
    pub content_id: ContentId,
    /// The `contents` row, its epoch still 0.
    pub content: ContentRow,
    /// Upright RGB with long side at most [`schemas::limits::ENCODER_SIDE_MAX`].
    pub width: u32,
    /// Rows of `rgb`.
    pub height: u32,
    /// `3·width·height` bytes, row-major.
    #[serde(with = "serde_bytes")]
    pub rgb: Vec<u8>,
    /// What the encoders of `semantic` and `pattern` see of it, where this small copy would not do.
    pub views: [Option<View>; 2],
    /// Vectors that came with the message, quantised, per channel; those that were encoded when it
    /// was compared with benchmarks stand here too.
    pub given: [Option<Arc<[i16]>>; 3],
    /// Id of the trimmed caption that came with it: what a given caption vector is the vector of.
    pub caption_id: Option<ContentId>,
}

/// What an encoder sees of a picture (`ImageEncoder::view`): RGB.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct View {
    /// In pixels.
    pub width: u32,
    /// Rows of `rgb`.
    pub height: u32,
    /// `3·width·height` bytes, row-major.
    #[serde(with = "serde_bytes")]
    pub rgb: Vec<u8>,
}

impl Picture {
    /// The vectors of pictures, by the encoder of that channel: 0 is `semantic`, 1 `pattern`.
    pub fn encode(
        pictures: &[Arc<Picture>],
        encoder: &dyn ImageEncoder,
        channel: usize,
    ) -> Vec<Option<Box<[i16]>>> {
        let views: Option<Vec<Pixels>> = pictures
            .iter()
            .map(|picture| {
                let View { width, height, rgb } = picture.views[channel].clone()?;
                Some(Pixels { width, height, rgb })
            })
            .collect();
        if let Some(views) = views {
            return encoder.encode_views(&views.iter().collect::<Vec<_>>());
        }
        let small =
            |p: &Arc<Picture>| Pixels { width: p.width, height: p.height, rgb: p.rgb.clone() };
        let small: Vec<Pixels> = pictures.iter().map(small).collect();
        encoder.encode(&small.iter().collect::<Vec<_>>())
    }
}

/// The mined image of a group of equal contents (rule 1), as a differential row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mined {
    /// The bytewise smallest live id of the group.
    pub image_id: Arc<str>,
    /// The group's content.
    pub content_id: ContentId,
    /// The mined image's own caption, as sent; behind [`captions`](crate::captions()) a generated one
    /// where it has none.
    pub caption: Option<Arc<str>>,
}

/// Names one version of a mined image for as long as the process runs: lists hold these, so a
/// replaced image can never be mistaken for its former self.
pub type RowId = u64;

/// One step in the set of mined versions that the neighbors box keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum VersionChange {
    /// A version enters. Within an epoch removals come first.
    Add(Arc<Version>),
    /// A version leaves.
    Remove(Arc<str>, RowId),
}

impl VersionChange {
    /// The image it is about.
    pub fn image_id(&self) -> &Arc<str> {
        match self {
            VersionChange::Add(version) => &version.image_id,
            VersionChange::Remove(image_id, _) => image_id,
        }
    }
}

/// A version of a mined image, with its vectors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    /// The image.
    pub image_id: Arc<str>,
    /// This version of it, never used again.
    pub row: RowId,
    /// One vector per channel, where there is one (rule 2).
    pub vectors: [Option<Arc<[i16]>>; 3],
}

/// A pair as the pairs box knows it: scores stay integers (s, not s / 2^30).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The query image.
    pub query_id: Arc<str>,
    /// The target image.
    pub target_id: Arc<str>,
    /// In `pairs` now (rule 5); false for a pair that is only watched because it has an answer.
    pub mined: bool,
    /// Rank from 1 within its band, for the channels that propose it.
    pub ranks: [Option<i32>; 3],
    /// Σ v_q·v_t wherever both have vectors.
    pub scores: [Option<i32>; 3],
    /// Rule 6, the query itself left out.
    pub hard_negatives: Vec<Arc<str>>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Task {
    /// A caption of one content: it stands on both sides of the request.
    Caption,
    /// Instructions that lead from query to target.
    Instruct,
}

/// A question to the annotator: wanted while its pair is in `pairs`, or its image mined without a
/// caption, and the memo has no answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Request {
    /// What is asked for.
    pub task: Task,
    /// [`schemas::tables::request_id`].
    pub request_id: String,
    /// The query's content and caption.
    pub query: (ContentId, Option<Arc<str>>),
    /// The target's content and caption.
    pub target: (ContentId, Option<Arc<str>>),
    /// Query and target as the pair named them when it became wanted: contents may have other names
    /// since. A request for a caption names its image twice.
    pub images: [Arc<str>; 2],
}

/// An answer from the memo, without what has no order (costs) or no use downstream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// The request that it answers.
    pub request_id: String,
    /// The query's content.
    pub query: ContentId,
    /// The target's content.
    pub target: ContentId,
    /// Who wrote it.
    pub model: String,
    /// Version of the prompt.
    pub prompt_version: i32,
    /// Whether it is an answer at all (`outcome = "ok"`).
    pub ok: bool,
    /// What the two have in common and where they differ.
    pub description: Option<String>,
    /// The instructions.
    pub instructions: Vec<String>,
    /// One per instruction.
    pub audits: Vec<schemas::tables::Audit>,
}

/// An outcome of a request, as it enters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answered {
    /// It has just come.
    New(Box<AnnotationRow>),
    /// The memo has it.
    Known(Arc<Answer>),
    /// The memo has an outcome of a request for a caption.
    Captioned(Captioned),
}

/// What came of the captioner's request about a content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Captioned {
    /// The content.
    pub content_id: ContentId,
    /// Trimmed and not empty; none where the request has ended without one.
    pub caption: Option<Arc<str>>,
}

impl From<&AnnotationRow> for Answer {
    /// A row whose contents are no sha256 answers nothing: it becomes no answer (`ok` is false).
    fn from(row: &AnnotationRow) -> Answer {
        let query = ContentId::parse(&row.query_content_id);
        let target = ContentId::parse(&row.target_content_id);
        Answer {
            request_id: row.request_id.clone(),
            ok: row.outcome == "ok" && query.is_some() && target.is_some(),
            query: query.unwrap_or(ContentId([0; 32])),
            target: target.unwrap_or(ContentId([0; 32])),
            model: row.model.clone(),
            prompt_version: row.prompt_version,
            description: row.description.clone(),
            instructions: row.instructions.clone(),
            audits: row.audits.clone(),
        }
    }
}

/// Who is asked, and what determines its answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelId {
    /// `template:v1`, or the model's name.
    pub model: String,
    /// Version of the prompt.
    pub prompt_version: i32,
    /// Whether captions are part of the question; images always are.
    pub reads_captions: bool,
}

/// Write instructions that lead from query to target: the task whose answers make triplets.
pub const TASK: &str = "instruct";
/// Say what two images share and where they differ: one answer for both directions of a pair, under
/// the smaller content first. It is paid for, so the memo has it; nothing else reads it.
pub const DESCRIBE: &str = "describe";
/// Write a caption of one image that has none: the answer is the row's `description`, and its content
/// stands on both sides.
pub const CAPTION: &str = "caption";

/// Who writes captions, and what determines them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CaptionerId {
    /// The model's name.
    pub model: String,
    /// Version of the prompt.
    pub prompt_version: i32,
}

impl CaptionerId {
    /// The id of its request about a content.
    pub fn request_id(&self, content: ContentId) -> String {
        let side = (content, None);
        schemas::tables::request_id(CAPTION, &self.model, self.prompt_version, side, side)
    }
}

impl ModelId {
    /// The id of this model's request about two contents with these captions.
    pub fn request_id(
        &self,
        query: (ContentId, Option<&str>),
        target: (ContentId, Option<&str>),
    ) -> String {
        let read = |(content, caption): (ContentId, _)| {
            (content, if self.reads_captions { caption } else { None })
        };
        schemas::tables::request_id(
            TASK,
            &self.model,
            self.prompt_version,
            read(query),
            read(target),
        )
    }
}
