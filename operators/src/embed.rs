//! embed: one vector per channel for each mined image, never computed twice for one content.
//!
//! ```text
//!  mined ─► plan ──────────────────────────────────────► assemble ─► versions
//!             └─► requests ─► memo ─► answers ──────────────┘
//!  pictures ───────────────────┘ └─► new rows of `embeddings`
//! ```
//!
//! `plan` and `assemble` sit with the image's owner (its shard), `memo` with the content's. The
//! memo encodes what it lacks in batches beside the dataflow, and holds the epoch until it has it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use kernels::{
    encoders::{ImageEncoder, TextEncoder},
    vector::arc_from_le_bytes,
};
use memo::{Answer, Reads, ToMemo, Vector, remember};
use schemas::{Channel, ContentId, Epoch, caption_text, shard_of, tables::EmbeddingRow};
use serde::{Deserialize, Serialize};
use timely::dataflow::{
    StreamVec,
    operators::{Concat, vec::Map},
};

use crate::{
    epochs::{each_epoch, split},
    flow::{Mined, Picture, RowId, Version, VersionChange},
    offload::Pool,
};

mod memo;

/// What turns contents into vectors, per channel; a channel with neither an encoder nor a given
/// dimension has no vectors.
#[derive(Clone, Default)]
pub struct Encoders {
    /// Encoders of `semantic` and `pattern`.
    pub image: [Option<Arc<dyn ImageEncoder>>; 2],
    /// Encoder of `caption`.
    pub text: Option<Arc<dyn TextEncoder>>,
    /// Dimension of the vectors that messages carry, for the channels whose encoder is `given`.
    pub given: [Option<usize>; 3],
}

impl Encoders {
    /// The name in the column `encoder`: what it is, and what its vectors depend on.
    pub fn id(&self, channel: Channel) -> Option<String> {
        if let Some(dim) = self.given[channel.index()] {
            return Some(format!("given@{dim}"));
        }
        match channel {
            Channel::Caption => self.text.as_ref().map(|e| format!("{}@{}", e.name(), e.digest())),
            _ => {
                self.image[channel.index()].as_ref().map(|e| format!("{}@{}", e.name(), e.digest()))
            }
        }
    }

    /// Components of the channel's vectors.
    pub fn dim(&self, channel: Channel) -> Option<usize> {
        self.given[channel.index()].or_else(|| match channel {
            Channel::Caption => self.text.as_ref().map(|encoder| encoder.dim()),
            _ => self.image[channel.index()].as_ref().map(|encoder| encoder.dim()),
        })
    }
}

/// A row of `embeddings`, in the form in which it flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownVector {
    /// The channel.
    pub channel: Channel,
    /// Of what the encoder read.
    pub content_id: ContentId,
    /// The column `encoder`.
    pub encoder: Arc<str>,
    /// The vector, if there is one.
    pub vector: Option<Arc<[i16]>>,
}

impl KnownVector {
    /// From the row's columns; `None` for a channel that there is not. `vector` is `2·dim` bytes.
    ///
    /// # Errors
    /// What is broken, in words.
    pub fn read(
        content_id: &str,
        channel: &str,
        encoder: &Arc<str>,
        dim: i32,
        vector: &[u8],
    ) -> Result<Option<KnownVector>, String> {
        let Some(channel) = Channel::ALL.into_iter().find(|known| known.as_str() == channel) else {
            return Ok(None);
        };
        let parsed = ContentId::parse(content_id);
        let id = parsed.ok_or_else(|| format!("{content_id:?} is no sha256"))?;
        let broken = || format!("the {} vector of {content_id} is broken", channel.as_str());
        // No row of dimension 0 has bytes, and every other one has twice its dimension.
        if usize::try_from(dim).ok() != Some(vector.len() / 2) || vector.len() % 2 == 1 {
            return Err(broken());
        }
        let vector = match dim {
            0 => None,
            _ => Some(arc_from_le_bytes(vector).ok_or_else(broken)?),
        };
        Ok(Some(KnownVector { channel, content_id: id, encoder: encoder.clone(), vector }))
    }

    /// As [`KnownVector::read`].
    ///
    /// # Errors
    /// What is broken, in words.
    pub fn of(row: &EmbeddingRow) -> Result<Option<KnownVector>, String> {
        let encoder = row.encoder.as_str().into();
        KnownVector::read(&row.content_id, &row.channel, &encoder, row.dim, &row.vector)
    }
}

/// Embeds mined images. `pictures` must hold the pixels of every content that is mined and not in
/// the memo (I8); `memo` holds rows of `embeddings` in the first epoch, those of other encoders are
/// left out. The second stream is the memo's new rows, with dimension 0 where there is no vector.
pub fn embed<'s>(
    mined: StreamVec<'s, Epoch, (Mined, Epoch, isize)>,
    pictures: StreamVec<'s, Epoch, Arc<Picture>>,
    memo: StreamVec<'s, Epoch, KnownVector>,
    encoders: Arc<Encoders>,
    pool: Arc<Pool>,
) -> (StreamVec<'s, Epoch, VersionChange>, StreamVec<'s, Epoch, EmbeddingRow>) {
    let worker = mined.scope().index();
    let mut planner = Planner { next_row: (worker as u64) << 48, rows: HashMap::new() };
    let plans = each_epoch(
        mined,
        "Plan",
        |(mined, _, _)| shard_of(&mined.image_id),
        move |epoch, mined| planner.epoch(epoch, mined),
    );
    let requests = plans.clone().flat_map(move |plan| requests(&plan, worker));
    let ids = Channel::ALL.map(|channel| encoders.id(channel));
    let of_encoder =
        move |known: &KnownVector| ids[known.channel.index()].as_deref() == Some(&*known.encoder);
    let known = memo.flat_map(move |known| {
        let KnownVector { channel, content_id, .. } = known;
        of_encoder(&known).then_some(ToMemo::Known(channel, content_id, known.vector))
    });
    let told = requests.concat(pictures.flat_map(supplies)).concat(known);
    let (answers, new_rows) = split(remember(told, encoders, pool), |told| told);
    let parts = plans
        .map(move |plan| (worker, Part::Plan(plan)))
        .concat(answers.map(|(worker, answer)| (worker, Part::Answer(answer))));
    let versions = each_epoch(
        parts,
        "Assemble",
        |(worker, _)| *worker as u64,
        |_, parts| assemble(parts.into_iter().map(|(_, part)| part)),
    );
    (versions, new_rows)
}

/// A version's step, before its vectors are there.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Plan {
    Remove(Arc<str>, RowId),
    Add { image_id: Arc<str>, row: RowId, content_id: ContentId, caption: Option<Arc<str>> },
}

/// The versions of one worker's images.
struct Planner {
    next_row: RowId,
    rows: HashMap<Arc<str>, (RowId, Mined)>,
}

impl Planner {
    fn epoch(&mut self, epoch: Epoch, mined: Vec<(Mined, Epoch, isize)>) -> Vec<Plan> {
        let mut changes: BTreeMap<Mined, isize> = BTreeMap::new();
        for (mined, time, diff) in mined {
            assert_eq!(time, epoch, "I2: register stamps its rows with their own epoch");
            *changes.entry(mined).or_default() += diff;
        }
        let mut plans = Vec::new();
        for mined in changes.iter().filter(|(_, diff)| **diff < 0).map(|(mined, _)| mined) {
            let (row, known) =
                self.rows.remove(&mined.image_id).expect("a mined image leaves once");
            assert_eq!(&known, mined, "what leaves is what came");
            plans.push(Plan::Remove(known.image_id, row));
        }
        for (mined, _) in changes.into_iter().filter(|(_, diff)| *diff > 0) {
            let row = self.next_row;
            self.next_row += 1;
            let (image_id, content_id) = (mined.image_id.clone(), mined.content_id);
            let caption = caption_text(mined.caption.as_deref()).map(Into::into);
            let before = self.rows.insert(image_id.clone(), (row, mined));
            assert!(before.is_none(), "an image is mined once");
            plans.push(Plan::Add { image_id, row, content_id, caption });
        }
        plans
    }
}

fn requests(plan: &Plan, worker: usize) -> Vec<ToMemo> {
    let Plan::Add { content_id, caption, .. } = plan else { return Vec::new() };
    let image = ToMemo::Request(Reads::Image(*content_id), worker, None);
    let caption = caption
        .as_ref()
        .map(|text| ToMemo::Request(Reads::Caption(caption_id(text)), worker, Some(text.clone())));
    [Some(image), caption].into_iter().flatten().collect()
}

fn caption_id(text: &str) -> ContentId {
    ContentId::of(text.as_bytes())
}

fn supplies(picture: Arc<Picture>) -> Vec<ToMemo> {
    let mut supplies = Vec::new();
    for channel in Channel::ALL {
        let content_id = match channel {
            Channel::Caption => picture.caption_id,
            _ => Some(picture.content_id),
        };
        if let (Some(id), Some(vector)) = (content_id, &picture.given[channel.index()]) {
            supplies.push(ToMemo::Given(channel, id, vector.clone()));
        }
    }
    supplies.push(ToMemo::Picture(picture));
    supplies
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Part {
    Plan(Plan),
    Answer(Answer),
}

/// Plans and their vectors to versions: removals first, each in the order of ids.
fn assemble(parts: impl Iterator<Item = Part>) -> Vec<VersionChange> {
    let mut vectors: HashMap<Reads, [Vector; 3]> = HashMap::new();
    let (mut removals, mut adds) = (BTreeMap::new(), BTreeMap::new());
    for part in parts {
        match part {
            Part::Answer(Answer { reads, vectors: found }) => drop(vectors.insert(reads, found)),
            Part::Plan(Plan::Remove(image_id, row)) => drop(removals.insert(image_id, row)),
            Part::Plan(Plan::Add { image_id, row, content_id, caption }) => {
                adds.insert(image_id, (row, content_id, caption));
            }
        }
    }
    let found = |channel: Channel, id: ContentId| -> Vector {
        let answer = vectors.get(&Reads::of(channel, id));
        answer.expect("a request is answered in its epoch")[channel.index()].clone()
    };
    let add = |(image_id, (row, content_id, caption)): (_, (_, _, Option<Arc<str>>))| {
        let vectors = Channel::ALL.map(|channel| match (channel, &caption) {
            (Channel::Caption, None) => None,
            (Channel::Caption, Some(text)) => found(channel, caption_id(text)),
            _ => found(channel, content_id),
        });
        VersionChange::Add(Arc::new(Version { image_id, row, vectors }))
    };
    let removals = removals.into_iter().map(|(image_id, row)| VersionChange::Remove(image_id, row));
    removals.chain(adds.into_iter().map(add)).collect()
}
