//! Groups of equal contents: which image of each is mined, and which contents are new.
#![expect(clippy::result_large_err, reason = "`Err` is the other stream here, not an error")]

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use schemas::{ContentId, Epoch, tables::ContentRow};
use serde::{Deserialize, Serialize};
use timely::dataflow::{StreamVec, operators::vec::Map};

use crate::{
    epochs::{each_epoch, split},
    flow::{Mined, Picture},
};

/// An image enters or leaves the group of its content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Change {
    pub content_id: ContentId,
    pub image_id: Arc<str>,
    pub step: Step,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Step {
    /// With its caption, and with its picture unless it comes from the tables.
    Enter(Option<Arc<str>>, Option<Arc<Picture>>),
    Leave,
}

/// What one worker hears of the contents that it owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToContents {
    /// Has its row in the table.
    Known(ContentId),
    Change(Change),
}

#[derive(Clone, Debug)]
enum Named {
    Mined(Mined, Epoch, isize),
    Content(ContentRow),
    Picture(Arc<Picture>),
}

pub(super) type Grouped<'s> = (
    StreamVec<'s, Epoch, (Mined, Epoch, isize)>,
    StreamVec<'s, Epoch, ContentRow>,
    StreamVec<'s, Epoch, Arc<Picture>>,
);

/// Names the mined image of each content, and shows what is new of it.
pub(super) fn group<'s>(told: StreamVec<'s, Epoch, ToContents>) -> Grouped<'s> {
    let route = |told: &ToContents| match told {
        ToContents::Known(id) => id.hash64(),
        ToContents::Change(change) => change.content_id.hash64(),
    };
    let mut contents = Contents::default();
    let named = each_epoch(told, "Group", route, move |epoch, told| contents.epoch(epoch, told));
    let (mined, named) = split(named, |named| match named {
        Named::Mined(mined, epoch, diff) => Ok((mined, epoch, diff)),
        other => Err(other),
    });
    let (contents, named) = split(named, |named| match named {
        Named::Content(row) => Ok(row),
        other => Err(other),
    });
    let pictures = named.flat_map(|named| match named {
        Named::Picture(picture) => Some(picture),
        _ => None,
    });
    (mined, contents, pictures)
}

/// The contents of one worker.
#[derive(Default)]
struct Contents {
    /// Every live image's caption; the first id of a content is the mined one.
    members: BTreeMap<(ContentId, Arc<str>), Option<Arc<str>>>,
    /// Contents that have a row in the table, live or not.
    known: HashSet<ContentId>,
}

impl Contents {
    fn epoch(&mut self, epoch: Epoch, told: Vec<ToContents>) -> Vec<Named> {
        let mut before: BTreeMap<ContentId, Option<Mined>> = BTreeMap::new();
        let mut pictures: BTreeMap<(ContentId, Arc<str>), Arc<Picture>> = BTreeMap::new();
        // An image's changes come from one worker, in their order; those of others commute.
        for row in told {
            let Change { content_id, image_id, step } = match row {
                ToContents::Known(id) => {
                    self.known.insert(id);
                    continue;
                }
                ToContents::Change(change) => change,
            };
            before.entry(content_id).or_insert_with(|| self.mined(content_id));
            let member = (content_id, image_id);
            match step {
                Step::Leave => {
                    self.members.remove(&member).expect("only a member leaves");
                }
                Step::Enter(caption, picture) => {
                    if let Some(picture) = picture {
                        pictures.insert(member.clone(), picture);
                    }
                    self.members.insert(member, caption);
                }
            }
        }
        let mut named = Vec::new();
        for (content_id, before) in before {
            let after = self.mined(content_id);
            if after.is_some() {
                let arrived = pictures.range((content_id, "".into())..);
                let arrived = arrived.take_while(|((id, _), _)| *id == content_id);
                self.show(arrived.map(|(_, picture)| picture), before.is_none(), &mut named);
                let known = self.known.contains(&content_id);
                assert!(known, "I8: {content_id:?} is live, and `contents` has no row of it");
            }
            if before != after {
                named.extend(before.map(|mined| Named::Mined(mined, epoch, -1)));
                named.extend(after.map(|mined| Named::Mined(mined, epoch, 1)));
            }
        }
        named
    }

    /// Rule 1, with the image's own caption.
    fn mined(&self, content_id: ContentId) -> Option<Mined> {
        let ((first, image_id), caption) = self.members.range((content_id, "".into())..).next()?;
        (*first == content_id).then(|| Mined {
            image_id: image_id.clone(),
            content_id,
            caption: caption.clone(),
        })
    }

    /// Sends on what arrived of one live content, as far as it is news.
    fn show<'a>(
        &mut self,
        arrived: impl Iterator<Item = &'a Arc<Picture>>,
        was_dead: bool,
        named: &mut Vec<Named>,
    ) {
        for (i, picture) in arrived.enumerate() {
            let unknown = self.known.insert(picture.content_id);
            if unknown {
                named.push(Named::Content(picture.content.clone()));
            }
            // The pixels are needed once; a caption's given vector comes with every message.
            if unknown || (was_dead && i == 0) || picture.given.iter().any(Option::is_some) {
                named.push(Named::Picture(picture.clone()));
            }
        }
    }
}
