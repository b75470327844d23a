//! Annotate: what is to be asked is what is mined and not yet answered.
//!
//! ```text
//!  pairs ─► with the query's content and caption ─► with the target's ─► less what is answered
//! ```
//!
//! Each step sits with what it looks up, and counts: in which order an epoch's changes come makes no
//! difference.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use differential_dataflow::{AsCollection, VecCollection, consolidation::consolidate};
use schemas::{ContentId, Epoch, caption_text, shard_of};
use serde::{Deserialize, Serialize};

use crate::{
    epochs::each_closed,
    flow::{Mined, ModelId, Pair, Request, Task},
    held::{Held, Steps, Told, parted},
};

/// Work = mined pairs − memo, by request.
///
/// `answered` holds the ids of all requests in the memo, failures too: a stored outcome is never
/// asked for again (I8). At each epoch a request leaves with +1 when it becomes wanted and with −1
/// when it is answered or no longer wanted, never both. Only what determines the answer is in a
/// request: captions are trimmed, and left out for a model that does not read them, so that a
/// caption that changes nothing asks nothing.
pub fn annotate<'s>(
    pairs: VecCollection<'s, Epoch, Pair, isize>,
    mined: VecCollection<'s, Epoch, Mined, isize>,
    answered: VecCollection<'s, Epoch, String, isize>,
    model: &ModelId,
) -> VecCollection<'s, Epoch, Request, isize> {
    let route = |told: &ToSide<Arc<str>>| match told {
        Told::Mined((image_id, _)) | Told::Is((image_id, _)) => shard_of(image_id),
    };
    let pairs = pairs.filter(|pair| pair.mined).map(|pair| (pair.query_id, pair.target_id));
    let told = pairs.map(Told::Is).concat(mined.clone().map(|mined| Told::Mined(by_id(mined))));
    let mut queries: Side<Arc<str>> = Side::default();
    let asked = each_closed(told.inner, "AnnotateQueries", route, move |told| {
        queries.apply(told, |query_id, query, target_id| {
            (target_id.clone(), (query_id.clone(), query.clone()))
        })
    });
    let route = |told: &ToSide<Named>| match told {
        Told::Mined((image_id, _)) | Told::Is((image_id, _)) => shard_of(image_id),
    };
    let told =
        asked.as_collection().map(Told::Is).concat(mined.map(|mined| Told::Mined(by_id(mined))));
    let (mut targets, model): (Side<Named>, _) = (Side::default(), model.clone());
    let wanted = each_closed(told.inner, "AnnotateTargets", route, move |told| {
        targets.apply(told, |target_id, target, (query_id, query)| {
            request(&model, (query_id, query), (target_id, target))
        })
    });
    let told = wanted.as_collection().map(Work::Wanted).concat(answered.map(Work::Answered));
    let mut open = Open::default();
    each_closed(
        told.inner,
        "AnnotateOpen",
        |work| shard_of(work.id()),
        move |told| open.apply(told),
    )
    .as_collection()
}

/// A content and a caption.
type Image = (ContentId, Option<Arc<str>>);

/// With the id of the image that has them.
type Named = (Arc<str>, Image);

/// A change of a mined image, or what is looked up for one.
type ToSide<T> = Told<(Arc<str>, Image), (Arc<str>, T)>;

fn by_id(mined: Mined) -> (Arc<str>, Image) {
    (mined.image_id, (mined.content_id, mined.caption))
}

/// One side of the pairs: what is looked up for each image, and how often.
struct Side<T> {
    images: Held<Arc<str>, Image>,
    others: HashMap<Arc<str>, BTreeMap<T, isize>>,
}

impl<T> Default for Side<T> {
    fn default() -> Self {
        Side { images: Held::default(), others: HashMap::new() }
    }
}

impl<T: Ord> Side<T> {
    /// What an epoch changes of what `with` makes of an image and what is looked up for it.
    fn apply<R>(
        &mut self,
        told: Steps<ToSide<T>>,
        with: impl Fn(&Arc<str>, &Image, &T) -> R,
    ) -> Steps<R> {
        let (mined, others) = parted(told);
        let mut steps = Vec::new();
        for (image_id, before) in self.images.apply(mined) {
            let after = self.images.get(&image_id);
            for (other, count) in self.others.get(&image_id).into_iter().flatten() {
                let with = |image| with(&image_id, image, other);
                steps.extend(before.as_ref().map(|image| (with(image), -count)));
                steps.extend(after.map(|image| (with(image), *count)));
            }
        }
        for ((image_id, other), diff) in others {
            let image = self.images.get(&image_id);
            steps.extend(image.map(|image| (with(&image_id, image, &other), diff)));
            let counts = self.others.entry(image_id.clone()).or_default();
            *counts.entry(other).or_default() += diff;
            if diff < 0 {
                counts.retain(|_, count| *count != 0);
                if counts.is_empty() {
                    self.others.remove(&image_id);
                }
            }
        }
        steps
    }
}

/// What is said of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Work {
    Wanted(Request),
    Answered(String),
}

impl Work {
    fn id(&self) -> &str {
        match self {
            Work::Wanted(request) => &request.request_id,
            Work::Answered(id) => id,
        }
    }
}

/// The requests of one worker.
#[derive(Default)]
struct Open {
    /// With the number of pairs that want each; never 0.
    wanted: HashMap<String, (Request, isize)>,
    answered: HashSet<Name>,
}

/// An id in half its size: there are as many as answers.
type Name = ContentId;

fn name(request_id: &str) -> Name {
    ContentId::parse(request_id).unwrap_or_else(|| ContentId::of(request_id.as_bytes()))
}

impl Open {
    /// The request, if it is to be asked.
    fn open(&self, id: &str) -> Option<Request> {
        let (request, count) = self.wanted.get(id)?;
        (*count > 0 && !self.answered.contains(&name(id))).then(|| request.clone())
    }

    fn apply(&mut self, mut told: Steps<Work>) -> Steps<Request> {
        consolidate(&mut told);
        let mut before: HashMap<String, Option<Request>> = HashMap::new();
        for (work, diff) in told {
            let id = work.id();
            // Most answers are to what nobody asks any more.
            let concerned = matches!(work, Work::Wanted(_)) || self.wanted.contains_key(id);
            if concerned && !before.contains_key(id) {
                before.insert(id.to_owned(), self.open(id));
            }
            match work {
                Work::Answered(id) => {
                    assert!(diff > 0, "I8: a stored outcome never leaves the memo");
                    self.answered.insert(name(&id));
                }
                Work::Wanted(request) => {
                    let id = request.request_id.clone();
                    let (_, count) = self.wanted.entry(id.clone()).or_insert((request, 0));
                    *count += diff;
                    if *count == 0 {
                        self.wanted.remove(&id);
                    }
                }
            }
        }
        let mut steps = Vec::new();
        for (id, before) in before {
            match (before, self.open(&id)) {
                (Some(closed), None) => steps.push((closed, -1)),
                (None, Some(opened)) => steps.push((opened, 1)),
                // Its contents may have other names by now: what leaves later is what came.
                (Some(before), Some(_)) => {
                    self.wanted.entry(id).and_modify(|(request, _)| *request = before);
                }
                (None, None) => {}
            }
        }
        steps
    }
}

/// The question to `model` about two images with these contents and captions.
pub fn request(
    model: &ModelId,
    (query_id, query): (&Arc<str>, &(ContentId, Option<Arc<str>>)),
    (target_id, target): (&Arc<str>, &(ContentId, Option<Arc<str>>)),
) -> Request {
    let asked = |(content, caption): &(ContentId, Option<Arc<str>>)| {
        let text = caption.as_deref().filter(|_| model.reads_captions);
        (*content, caption_text(text).map(Arc::<str>::from))
    };
    let (query, target) = (asked(query), asked(target));
    let request_id =
        model.request_id((query.0, query.1.as_deref()), (target.0, target.1.as_deref()));
    let images = [query_id.clone(), target_id.clone()];
    Request { task: Task::Instruct, request_id, query, target, images }
}
