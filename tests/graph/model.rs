//! What every table must hold after every epoch, worked out anew each time from what is live.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use everpair::dataflow::Settings;
use kernels::vector::to_le_bytes;
use operators::{
    filter::judge,
    flow::{Answer, CAPTION, Pair, Request, Task},
    naive::{self, NaiveImage},
    publish::EpochChanges,
    triplets::Triplet,
};
use schemas::{
    Channel, ContentId, caption_text,
    config::Keep,
    reject::Reason,
    tables::{AnnotationRow, EmbeddingRow, ImageRow, WITHDRAWN, request_id},
};

use super::{
    driver::{CAPTIONER, Fed, OTHER},
    history::{CONTENTS, Message, Says, caption_vector},
};

/// A reject without its words: reason, image or request, partition and offset.
pub type Reject = (String, Option<String>, Option<(i32, i64)>);

/// What an epoch must add to the tables that only grow.
#[derive(Debug, Default, PartialEq)]
pub struct Grown {
    pub rejects: Vec<Reject>,
    pub blocked: Vec<(String, String)>,
    pub contents: Vec<String>,
    pub embeddings: Vec<EmbeddingRow>,
    /// Request, outcome and number of texts.
    pub annotations: Vec<(String, String, usize)>,
}

impl Grown {
    pub fn of(changes: &EpochChanges) -> Grown {
        let rejects = changes.rejects.iter().map(|row| {
            let about = row.image_id.clone().or_else(|| row.request_id.clone());
            (row.reason.clone(), about, row.partition.zip(row.offset))
        });
        let grown = Grown {
            rejects: rejects.collect(),
            blocked: changes.blocked.iter().map(|b| (b.kind.clone(), b.value.clone())).collect(),
            contents: changes.contents.iter().map(|row| row.content_id.clone()).collect(),
            embeddings: changes.embeddings.clone(),
            annotations: changes.annotations.iter().map(annotation).collect(),
        };
        grown.sorted()
    }

    fn sorted(mut self) -> Grown {
        self.rejects.sort();
        self.blocked.sort();
        self.contents.sort();
        self.embeddings.sort();
        self.annotations.sort();
        self
    }
}

fn annotation(row: &AnnotationRow) -> (String, String, usize) {
    let texts = row.instructions.len().max(row.audits.len()) + row.description.iter().len();
    (row.request_id.clone(), row.outcome.clone(), texts)
}

/// What the other tables must show after an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    pub images: BTreeSet<ImageRow>,
    /// With those that are only watched.
    pub pairs: BTreeSet<Pair>,
    pub triplets: BTreeSet<Triplet>,
    pub requests: BTreeSet<Request>,
}

/// The messages and answers so far, by the letter of the contract.
#[derive(Default)]
pub struct Model {
    live: BTreeMap<String, (ImageRow, usize)>,
    blocked: BTreeSet<(String, String)>,
    contents: BTreeSet<String>,
    vectors: BTreeSet<(usize, ContentId)>,
    /// What was answered; before the first epoch too.
    memo: Vec<AnnotationRow>,
    /// Live images that a block took.
    pub taken: usize,
    captioned: bool,
}

/// The mined image of a content, and its caption: as sent, or else the one that was written for it.
struct MinedImage {
    image_id: Arc<str>,
    content: usize,
    caption: Option<String>,
    /// A caption may still come.
    waits: bool,
}

impl Model {
    /// A start with this memo; `captioned` says whether captions are written.
    pub fn with(memo: Vec<AnnotationRow>, captioned: bool) -> Model {
        Model { memo, captioned, ..Model::default() }
    }

    pub fn epoch(&mut self, fed: &Fed, settings: &Settings) -> Grown {
        let mut grown = Grown::default();
        for row in &fed.blocks {
            let block = (row.kind.clone(), row.value.clone());
            if self.blocked.insert(block.clone()) {
                grown.blocked.push(block);
            }
        }
        let blocked = &self.blocked;
        let live = self.live.len();
        self.live.retain(|image_id, (row, _)| {
            let hit = is_blocked(blocked, image_id, &row.content_id, row.source.as_deref());
            if hit {
                let at = (row.partition, row.offset);
                grown.rejects.push(reject(Reason::Blocked, Some(image_id), Some(at)));
            }
            !hit
        });
        self.taken += live - self.live.len();
        for message in &fed.messages {
            grown.rejects.extend(self.message(message));
        }
        for row in &fed.answers {
            let mut row = row.clone();
            if !self.is_about_live(&row) {
                if row.outcome == "ok" {
                    row.outcome = WITHDRAWN.into();
                }
                row.description = None;
                row.instructions.clear();
                row.audits.clear();
            }
            grown.annotations.push(annotation(&row));
            if row.outcome != WITHDRAWN {
                if row.task != CAPTION {
                    grown.rejects.extend(rejects_of(&row, settings));
                }
                self.memo.push(row);
            }
        }
        for mined in self.mined() {
            let content = &CONTENTS[mined.content];
            if self.contents.insert(content.id.hex()) {
                grown.contents.push(content.id.hex());
            }
            for channel in Channel::ALL {
                let Some((id, vector)) = vector(channel, &mined) else { continue };
                if self.vectors.insert((channel.index(), id)) {
                    grown.embeddings.push(EmbeddingRow {
                        content_id: id.hex(),
                        channel: channel.as_str().into(),
                        encoder: settings.encoders.id(channel).expect("each has an encoder"),
                        dim: vector.as_ref().map_or(0, |v| v.len() as i32),
                        vector: vector.as_deref().map(to_le_bytes).unwrap_or_default(),
                        epoch: 0,
                    });
                }
            }
        }
        grown.sorted()
    }

    /// The last message of an id wins, and one that was turned away counts like a tombstone.
    fn message(&mut self, message: &Message) -> Option<Reject> {
        let at = &message.record.position;
        let id = message.image_id.as_ref();
        let mut rejected = None;
        let mut refuse =
            |reason| rejected = Some(reject(reason, id, Some((at.partition, at.offset))));
        let mut row = None;
        match &message.says {
            Says::Bad(reason) => refuse(*reason),
            Says::Gone => {}
            Says::Live { content, caption, source } => {
                let content_id = CONTENTS[*content].id.hex();
                let image_id = id.expect("a good message has an id");
                if is_blocked(&self.blocked, image_id, &content_id, source.as_deref()) {
                    refuse(Reason::Blocked);
                } else {
                    let image = ImageRow {
                        image_id: image_id.clone(),
                        content_id,
                        source: source.clone(),
                        uri: None,
                        caption: caption.clone(),
                        licence: None,
                        attributes: None,
                        topic: at.topic.to_string(),
                        partition: at.partition,
                        offset: at.offset,
                        ingested_at: at.timestamp_us,
                        epoch: 0,
                        since: match self.live.get(image_id) {
                            Some((before, _)) => before.since.clone(),
                            None => Some(format!("{}/{}/{}", at.topic, at.partition, at.offset)),
                        },
                    };
                    row = Some((image, *content));
                }
            }
        }
        if let Some(id) = id {
            self.live.remove(id);
            self.live.extend(row.map(|row| (id.clone(), row)));
        }
        rejected
    }

    /// Whether live images have both contents that an answer is about.
    pub fn is_about_live(&self, row: &AnnotationRow) -> bool {
        [&row.query_content_id, &row.target_content_id]
            .iter()
            .all(|id| self.live.values().any(|(live, _)| live.content_id == **id))
    }

    /// Rule 1.
    fn mined(&self) -> Vec<MinedImage> {
        let mut seen = BTreeSet::new();
        // In bytewise order, so the first of a content is the smallest.
        let first = self.live.iter().filter(|(_, (_, content))| seen.insert(*content));
        first
            .map(|(id, (row, content))| {
                let own = caption_text(row.caption.as_deref());
                let lacks = self.captioned && own.is_none();
                let outcome = self.captioned_as(*content).filter(|_| lacks);
                let written = outcome.and_then(|row| caption_text(row.description.as_deref()));
                MinedImage {
                    image_id: id.as_str().into(),
                    content: *content,
                    caption: own.or(written).map(str::to_owned),
                    waits: lacks && outcome.is_none(),
                }
            })
            .collect()
    }

    /// Whether an image is the mined one of its content.
    pub fn is_mined(&self, image_id: &str) -> bool {
        self.mined().iter().any(|image| &*image.image_id == image_id)
    }

    /// What came of the request for a caption of a content.
    fn captioned_as(&self, content: usize) -> Option<&AnnotationRow> {
        let id = CONTENTS[content].id.hex();
        self.memo.iter().find(|row| row.task == CAPTION && row.query_content_id == id)
    }

    /// Mined images whose caption was written for them.
    pub fn written(&self) -> usize {
        let own = |id: &str| caption_text(self.live[id].0.caption.as_deref()).is_some();
        let mined = self.mined();
        mined.iter().filter(|image| image.caption.is_some() && !own(&image.image_id)).count()
    }

    pub fn shown(&self, settings: &Settings) -> Shown {
        let captions: BTreeMap<Arc<str>, Option<String>> =
            self.mined().into_iter().map(|image| (image.image_id, image.caption)).collect();
        let image = |live| naive_image(live, &captions);
        let images: Vec<NaiveImage> = self.live.iter().map(image).collect();
        let mined = naive::mined(&images);
        let answers = self.answers(settings);
        let watched = answers.keys().cloned().collect();
        let pairs = naive::pairs(&mined, &settings.mining, &watched);
        let triplets = pairs.iter().filter_map(|pair| {
            let key = (pair.query_id.clone(), pair.target_id.clone());
            let answer = answers.get(&key)?;
            let stays = pair.mined || settings.triplets.keep == Keep::Annotated;
            stays.then(|| triplet(pair, answer))
        });
        Shown {
            images: self.live.values().map(|(row, _)| row.clone()).collect(),
            triplets: triplets.collect(),
            requests: self.requests(&pairs, settings),
            pairs,
        }
    }

    /// I9: the answer in force for each two mined images that have one.
    fn answers(&self, settings: &Settings) -> BTreeMap<(Arc<str>, Arc<str>), Arc<Answer>> {
        let mined = self.mined();
        let find = |id: &String| mined.iter().find(|m| CONTENTS[m.content].id.hex() == *id);
        type Key = (Arc<str>, Arc<str>);
        type Rank = (bool, String, Reverse<i32>, String);
        let mut best: BTreeMap<Key, (Rank, Arc<Answer>)> = BTreeMap::new();
        for row in self.memo.iter().filter(|row| row.task != CAPTION) {
            let (Some(query), Some(target)) =
                (find(&row.query_content_id), find(&row.target_content_id))
            else {
                continue;
            };
            if row.request_id != todays_id(row, query, target) {
                continue;
            }
            let Some(answer) = accepted(row, settings) else { continue };
            let (model, id) = (row.model.clone(), row.request_id.clone());
            let rank = (model == OTHER, model, Reverse(row.prompt_version), id);
            let key = (query.image_id.clone(), target.image_id.clone());
            if best.get(&key).is_none_or(|(held, _)| rank < *held) {
                best.insert(key, (rank, Arc::new(answer)));
            }
        }
        best.into_iter().map(|(key, (_, answer))| (key, answer)).collect()
    }

    /// Answers that are fit to use and about live contents, but not about today's captions.
    pub fn stale(&self, settings: &Settings) -> usize {
        let mined = self.mined();
        let find = |id: &String| mined.iter().find(|m| CONTENTS[m.content].id.hex() == *id);
        let stale = |row: &&AnnotationRow| {
            if row.task == CAPTION {
                return false;
            }
            let sides = find(&row.query_content_id).zip(find(&row.target_content_id));
            sides.is_some_and(|(query, target)| row.request_id != todays_id(row, query, target))
                && accepted(row, settings).is_some()
        };
        self.memo.iter().filter(stale).count()
    }

    /// What the configured model is to be asked: mined pairs without an outcome in the memo. Without
    /// the images' names, which may be earlier ones.
    fn requests(&self, pairs: &BTreeSet<Pair>, settings: &Settings) -> BTreeSet<Request> {
        let mined = self.mined();
        let side = |id: &Arc<str>| {
            let image = mined.iter().find(|m| m.image_id == *id).expect("pairs are of mined ones");
            let caption = caption_text(image.caption.as_deref()).map(Arc::<str>::from);
            (CONTENTS[image.content].id, caption)
        };
        let of = |pair: &Pair| {
            let (query, target) = (side(&pair.query_id), side(&pair.target_id));
            let request_id = request_id(
                "instruct",
                &settings.model.model,
                settings.model.prompt_version,
                (query.0, query.1.as_deref()),
                (target.0, target.1.as_deref()),
            );
            let (task, images) = (Task::Instruct, Default::default());
            Request { task, request_id, query, target, images }
        };
        let waits = |id: &Arc<str>| mined.iter().any(|m| m.image_id == *id && m.waits);
        let settled = |pair: &&Pair| !waits(&pair.query_id) && !waits(&pair.target_id);
        let asked = pairs.iter().filter(|pair| pair.mined).filter(settled).map(of);
        let captions = mined.iter().filter(|image| image.waits).map(|image| {
            let side = (CONTENTS[image.content].id, None);
            Request {
                task: Task::Caption,
                request_id: request_id(CAPTION, CAPTIONER, 1, side, side),
                query: (side.0, None),
                target: (side.0, None),
                images: Default::default(),
            }
        });
        let asked = asked.chain(captions);
        asked.filter(|r| self.memo.iter().all(|row| row.request_id != r.request_id)).collect()
    }
}

fn reject(reason: Reason, about: Option<&String>, at: Option<(i32, i64)>) -> Reject {
    (reason.as_str().into(), about.cloned(), at)
}

fn is_blocked(
    blocked: &BTreeSet<(String, String)>,
    image_id: &str,
    content_id: &str,
    source: Option<&str>,
) -> bool {
    blocked.iter().any(|(kind, value)| match kind.as_str() {
        "id" => value == image_id,
        "content" => value == content_id,
        _ => Some(value.as_str()) == source,
    })
}

fn vector(channel: Channel, mined: &MinedImage) -> Option<(ContentId, Option<Arc<[i16]>>)> {
    let content = &CONTENTS[mined.content];
    match channel {
        Channel::Caption => {
            let text = caption_text(mined.caption.as_deref())?;
            Some((ContentId::of(text.as_bytes()), caption_vector(text)))
        }
        image => Some((content.id, content.vectors[image.index()].clone())),
    }
}

fn naive_image(
    (image_id, (_, content)): (&String, &(ImageRow, usize)),
    captions: &BTreeMap<Arc<str>, Option<String>>,
) -> NaiveImage {
    let [semantic, pattern] = CONTENTS[*content].vectors.clone();
    // Only what is mined is looked at.
    let caption = captions.get(image_id.as_str()).cloned().flatten();
    let caption = caption_text(caption.as_deref()).and_then(caption_vector);
    NaiveImage {
        image_id: image_id.as_str().into(),
        content_id: CONTENTS[*content].id,
        vectors: [semantic, pattern, caption],
    }
}

/// What the row's model would be asked about the two today.
fn todays_id(row: &AnnotationRow, query: &MinedImage, target: &MinedImage) -> String {
    let side = |image: &'_ MinedImage| {
        let caption = image.caption.clone().filter(|_| row.model != OTHER);
        (CONTENTS[image.content].id, caption)
    };
    let (query, target) = (side(query), side(target));
    request_id(
        "instruct",
        &row.model,
        row.prompt_version,
        (query.0, query.1.as_deref()),
        (target.0, target.1.as_deref()),
    )
}

/// The answer with what passes the text rules, if enough does.
fn accepted(row: &AnnotationRow, settings: &Settings) -> Option<Answer> {
    let mut answer = Answer::from(row);
    let (passing, _) = judge(&answer, &settings.filter);
    if row.outcome != "ok" || passing.len() < settings.filter.instructions_min {
        return None;
    }
    answer.instructions = passing.iter().map(|&i| row.instructions[i].clone()).collect();
    answer.audits = passing.iter().map(|&i| row.audits[i].clone()).collect();
    Some(answer)
}

fn rejects_of(row: &AnnotationRow, settings: &Settings) -> Vec<Reject> {
    if row.outcome != "ok" {
        return vec![reject(Reason::NoAnswer, Some(&row.request_id), None)];
    }
    let (passing, failures) = judge(&Answer::from(row), &settings.filter);
    let too_few = passing.len() < settings.filter.instructions_min;
    let failed = failures.into_iter().map(|(_, reason, _)| reason);
    let reasons = too_few.then_some(Reason::TooFewInstructions).into_iter().chain(failed);
    reasons.map(|reason| reject(reason, Some(&row.request_id), None)).collect()
}

fn triplet(pair: &Pair, answer: &Arc<Answer>) -> Triplet {
    let mut hard_negatives = vec![pair.query_id.clone()];
    hard_negatives.extend(pair.hard_negatives.iter().cloned());
    Triplet {
        query_id: pair.query_id.clone(),
        target_id: pair.target_id.clone(),
        answer: answer.clone(),
        hard_negatives,
        channels: pair.ranks.map(|rank| pair.mined && rank.is_some()),
        scores: if pair.mined { pair.scores } else { [None; 3] },
    }
}
