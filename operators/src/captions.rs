//! Captions: a mined image without a caption of its own has the one that a model wrote, once there is
//! one.
//!
//! ```text
//!  mined ─┬─ with a caption ─────────────────────────────────────────► mined, settled
//!         └─ without ─► with what came of the request for one ─┬─────► mined
//!                              │                               └─ any ─► settled
//!                              └─ nothing yet ─► requests
//! ```
//!
//! A generated caption belongs to a content, is a function of the memo, and counts for everything that
//! a message's own does: vectors, questions that read captions, rules about leaks. `images` never has
//! it: there stands what messages say. Pairs are asked about once the captions of both sides are
//! settled, so that nothing is asked, and paid, twice.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use differential_dataflow::{AsCollection, VecCollection};
use schemas::{
    ContentId, Epoch, caption_text,
    tables::{AnnotationRow, WITHDRAWN},
};
use timely::dataflow::operators::vec::Map;

use crate::{
    epochs::each_closed,
    flow::{CAPTION, Captioned, CaptionerId, Mined, Request, Task},
    held::{Held, Steps, Told, parted},
};

/// What [`captions`] gives.
pub struct WithCaptions<'s> {
    /// The mined images, generated captions in place.
    pub mined: VecCollection<'s, Epoch, Mined, isize>,
    /// Those of them whose caption no answer can change any more.
    pub settled: VecCollection<'s, Epoch, Mined, isize>,
    /// Captions that are to be written: as the requests of [`annotate`](crate::annotate()), each leaves
    /// with +1 when it becomes wanted and with −1 when it is answered or no longer wanted.
    pub requests: VecCollection<'s, Epoch, Request, isize>,
}

impl<'s> WithCaptions<'s> {
    /// Without a captioner an image has the caption that it came with, or none.
    pub fn none(mined: VecCollection<'s, Epoch, Mined, isize>) -> WithCaptions<'s> {
        let requests = mined.clone().flat_map(|_| None);
        WithCaptions { settled: mined.clone(), mined, requests }
    }
}

/// Puts generated captions where messages have none.
///
/// `captioned` is what came of requests of this captioner, one for each content; see
/// [`Captioned::of`].
pub fn captions<'s>(
    mined: VecCollection<'s, Epoch, Mined, isize>,
    captioned: VecCollection<'s, Epoch, Captioned, isize>,
    captioner: &CaptionerId,
) -> WithCaptions<'s> {
    let own = mined.clone().filter(has_caption);
    let without = mined.filter(|mined| !has_caption(mined));
    let told = without.map(|mined| Told::Mined((mined.content_id, mined)));
    let told = told.concat(captioned.map(Told::Is));
    let route = |told: &ToContents| match told {
        Told::Mined((content, _)) => content.hash64(),
        Told::Is(captioned) => captioned.content_id.hash64(),
    };
    let mut contents = Contents { captioner: captioner.clone(), ..Contents::default() };
    let steps = each_closed(told.inner, "Captions", route, move |told| contents.apply(told));
    let mined = steps.clone().flat_map(|(step, epoch, diff)| match step {
        Step::Mined(mined) => Some((mined, epoch, diff)),
        _ => None,
    });
    let settled = steps.clone().flat_map(|(step, epoch, diff)| match step {
        Step::Settled(mined) => Some((mined, epoch, diff)),
        _ => None,
    });
    let requests = steps.flat_map(|(step, epoch, diff)| match step {
        Step::Request(request) => Some((request, epoch, diff)),
        _ => None,
    });
    WithCaptions {
        mined: own.clone().concat(mined.as_collection()),
        settled: own.concat(settled.as_collection()),
        requests: requests.as_collection(),
    }
}

fn has_caption(mined: &Mined) -> bool {
    caption_text(mined.caption.as_deref()).is_some()
}

impl Captioned {
    /// What an outcome says, if it is one of this captioner's; what was withdrawn says nothing. Whatever
    /// else came of a request leaves its content without a caption.
    pub fn of(row: &AnnotationRow, captioner: &CaptionerId) -> Option<Captioned> {
        let asked = (row.request_id.as_str(), row.query_content_id.as_str());
        let text = row.description.as_deref();
        (row.task == CAPTION).then(|| Captioned::read(captioner, asked, &row.outcome, text))?
    }

    /// The same by columns of a row whose task is [`CAPTION`].
    pub fn read(
        captioner: &CaptionerId,
        (request_id, content_id): (&str, &str),
        outcome: &str,
        text: Option<&str>,
    ) -> Option<Captioned> {
        let content_id = ContentId::parse(content_id).filter(|_| outcome != WITHDRAWN)?;
        let caption = caption_text(text.filter(|_| outcome == "ok")).map(Into::into);
        let asked = captioner.request_id(content_id) == request_id;
        asked.then_some(Captioned { content_id, caption })
    }
}

/// What came of a request: a text, or none.
type Said = Option<Arc<str>>;

type ToContents = Told<(ContentId, Mined), Captioned>;

/// What leaves.
#[derive(Clone, Debug)]
enum Step {
    Mined(Mined),
    Settled(Mined),
    Request(Request),
}

/// One worker's contents.
#[derive(Default)]
struct Contents {
    captioner: CaptionerId,
    /// Mined without a caption of their own.
    mined: Held<ContentId, Mined>,
    /// What came of requests; of contents that have gone too, for they may come back.
    captioned: HashMap<ContentId, Said>,
    /// As they became wanted: their images may have other names since.
    open: HashMap<ContentId, Request>,
}

impl Contents {
    fn apply(&mut self, told: Steps<ToContents>) -> Steps<Step> {
        let (mined, captioned) = parted(told);
        let changed = self.mined.apply(mined);
        // With what was known of each before.
        let mut before: BTreeMap<ContentId, (Option<Mined>, Option<Said>)> = changed
            .into_iter()
            .map(|(content, mined)| (content, (mined, self.captioned.get(&content).cloned())))
            .collect();
        for (Captioned { content_id, caption }, diff) in captioned {
            assert!(diff > 0, "I8: a stored outcome never leaves the memo");
            before.entry(content_id).or_insert_with(|| {
                (self.mined.get(&content_id).cloned(), self.captioned.get(&content_id).cloned())
            });
            self.captioned.insert(content_id, caption);
        }
        let mut steps = Vec::new();
        for (content, (mined, known)) in before {
            steps.extend(shown(mined.as_ref(), known.as_ref()).map(|step| (step, -1)));
            let (mined, known) = (self.mined.get(&content), self.captioned.get(&content));
            steps.extend(shown(mined, known).map(|step| (step, 1)));
            match (mined, known, self.open.contains_key(&content)) {
                (Some(mined), None, false) => {
                    let request = request(&self.captioner, mined);
                    self.open.insert(content, request.clone());
                    steps.push((Step::Request(request), 1));
                }
                (None, _, true) | (_, Some(_), true) => {
                    let closed = self.open.remove(&content);
                    steps.extend(closed.map(|request| (Step::Request(request), -1)));
                }
                _ => {}
            }
        }
        steps
    }
}

/// How a content without a caption of its own is seen behind this box.
fn shown(mined: Option<&Mined>, known: Option<&Said>) -> impl Iterator<Item = Step> {
    let with = mined.map(|mined| {
        let caption = known.cloned().flatten().or_else(|| mined.caption.clone());
        Mined { caption, ..mined.clone() }
    });
    let settled = with.clone().filter(|_| known.is_some()).map(Step::Settled);
    with.map(Step::Mined).into_iter().chain(settled)
}

/// The question for a caption of a mined image.
pub fn request(captioner: &CaptionerId, mined: &Mined) -> Request {
    let side = (mined.content_id, None);
    Request {
        task: Task::Caption,
        request_id: captioner.request_id(mined.content_id),
        query: side.clone(),
        target: side,
        images: [mined.image_id.clone(), mined.image_id.clone()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captioner() -> CaptionerId {
        CaptionerId { model: "m".into(), prompt_version: 1 }
    }

    fn mined(id: &str, content: u8, caption: Option<&str>) -> Mined {
        Mined {
            image_id: id.into(),
            content_id: ContentId([content; 32]),
            caption: caption.map(Into::into),
        }
    }

    fn says(content: u8, caption: Option<&str>) -> (ToContents, isize) {
        let content_id = ContentId([content; 32]);
        (Told::Is(Captioned { content_id, caption: caption.map(Into::into) }), 1)
    }

    fn told(mined: Mined, diff: isize) -> (ToContents, isize) {
        (Told::Mined((mined.content_id, mined)), diff)
    }

    /// Sums of what left: mined and settled by id and caption, requests by id.
    fn sums(steps: Steps<Step>) -> BTreeMap<String, isize> {
        let mut sums = BTreeMap::new();
        for (step, diff) in steps {
            let name = match step {
                Step::Mined(mined) => format!("mined {} {:?}", mined.image_id, mined.caption),
                Step::Settled(mined) => format!("settled {} {:?}", mined.image_id, mined.caption),
                Step::Request(request) => format!("asks for {}", request.images[0]),
            };
            *sums.entry(name).or_default() += diff;
        }
        sums.retain(|_, sum| *sum != 0);
        sums
    }

    #[test]
    fn a_request_leaves_once_whatever_its_image_is_called() {
        let mut contents = Contents { captioner: captioner(), ..Contents::default() };
        let step = |text: &str, diff| (text.to_owned(), diff);
        let first = contents.apply(vec![told(mined("b", 1, None), 1)]);
        assert_eq!(sums(first), [step("asks for b", 1), step("mined b None", 1)].into());
        let renamed = vec![told(mined("a", 1, None), 1), told(mined("b", 1, None), -1)];
        let renamed = sums(contents.apply(renamed));
        assert_eq!(renamed, [step("mined a None", 1), step("mined b None", -1)].into());
        let answered = sums(contents.apply(vec![says(1, Some("a cat"))]));
        let expected = [
            step("asks for b", -1),
            step("mined a None", -1),
            step("mined a Some(\"a cat\")", 1),
            step("settled a Some(\"a cat\")", 1),
        ];
        assert_eq!(answered, expected.into());
        // It goes, and comes back: nothing is asked.
        let gone = sums(contents.apply(vec![told(mined("a", 1, None), -1)]));
        assert_eq!(gone.values().sum::<isize>(), -2);
        let back = sums(contents.apply(vec![told(mined("c", 1, None), 1)]));
        let expected = [step("mined c Some(\"a cat\")", 1), step("settled c Some(\"a cat\")", 1)];
        assert_eq!(back, expected.into());
        // Came and answered in one epoch, as at a start; answered without a text.
        let both = sums(contents.apply(vec![says(2, None), told(mined("d", 2, Some(" ")), 1)]));
        let expected = [step("mined d Some(\" \")", 1), step("settled d Some(\" \")", 1)];
        assert_eq!(both, expected.into());
        assert!(contents.open.is_empty());
    }

    #[test]
    fn only_outcomes_of_this_captioner_count() {
        let content = ContentId([1; 32]);
        let row = |task: &str, outcome: &str, text: Option<&str>| AnnotationRow {
            request_id: captioner().request_id(content),
            query_content_id: content.hex(),
            target_content_id: content.hex(),
            task: task.into(),
            model: "m".into(),
            prompt_version: 1,
            outcome: outcome.into(),
            description: text.map(Into::into),
            instructions: Vec::new(),
            audits: Vec::new(),
            prompt_tokens: None,
            completion_tokens: None,
            cost_usd: None,
            created_at: 0,
            epoch: 0,
        };
        let of = |row: &AnnotationRow, captioner: &CaptionerId| {
            Captioned::of(row, captioner).map(|said| said.caption.as_deref().map(str::to_owned))
        };
        let good = row("caption", "ok", Some(" a cat "));
        assert_eq!(of(&good, &captioner()), Some(Some("a cat".into())));
        for (row, said) in [
            (row("caption", "refused", None), Some(None)),
            (row("caption", "refused", Some("not this")), Some(None)),
            (row("caption", "ok", Some(" ")), Some(None)),
            (row("caption", WITHDRAWN, None), None),
            (row("describe", "ok", Some("a cat")), None),
        ] {
            assert_eq!(of(&row, &captioner()), said, "{row:?}");
        }
        for other in [
            CaptionerId { model: "n".into(), ..captioner() },
            CaptionerId { prompt_version: 2, ..captioner() },
        ] {
            assert_eq!(of(&good, &other), None);
        }
    }
}
