//! Which pairs are watched, and the answer in force for each.
//!
//! ```text
//!  answers ─► with the mined image of the query's content ─► with that of the target's ─► best
//! ```
//!
//! The rule on what an instruction gives away of the target's caption is applied here, where the
//! caption of today is at hand: it takes and gives back instructions as captions change.
//!
//! Each step sits with the content that it looks up. Answers are many and change seldom: they are
//! held once, looked up by what changes, and compared only where several are about one pair.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use differential_dataflow::{AsCollection, VecCollection};
use schemas::{ContentId, Epoch};
use serde::{Deserialize, Serialize};

use super::{Key, TripletOptions};
use crate::{
    epochs::each_closed,
    filter::unleaked,
    flow::{Answer, Mined},
    held::{Held, Told, parted},
    quick::QuickMap,
};

/// The answer in force for every pair of mined images whose contents have an accepted one.
///
/// Of several: configured model order, newest prompt version, smallest `request_id`. Answers are
/// only ever added: the memo grows.
pub fn watched<'s>(
    accepted: VecCollection<'s, Epoch, Arc<Answer>, isize>,
    mined: VecCollection<'s, Epoch, Mined, isize>,
    options: &TripletOptions,
) -> VecCollection<'s, Epoch, (Key, Arc<Answer>), isize> {
    let told =
        accepted.map(Told::Is).concat(mined.clone().map(|mined| Told::Mined(by_content(mined))));
    let mut queries = Queries::default();
    let route = |told: &ToQueries| match told {
        Told::Mined((content_id, _)) => content_id.hash64(),
        Told::Is(answer) => answer.query.hash64(),
    };
    let asked = each_closed(told.inner, "WatchedQueries", route, move |told| queries.apply(told));
    let told = asked
        .as_collection()
        .map(Told::Is)
        .concat(mined.map(|mined| Told::Mined(by_content(mined))));
    let mut targets = Targets { options: options.clone(), ..Targets::default() };
    let route = |told: &ToTargets| match told {
        Told::Mined((content_id, _)) => content_id.hash64(),
        Told::Is(asked) => asked.answer.target.hash64(),
    };
    each_closed(told.inner, "WatchedTargets", route, move |told| targets.apply(told))
        .as_collection()
}

/// An answer, with the mined image of its query's content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Asked {
    answer: Arc<Answer>,
    query: Image,
}

/// A mined image: its id and its caption.
type Image = (Arc<str>, Option<Arc<str>>);

type ToQueries = Told<(ContentId, Image), Arc<Answer>>;
type ToTargets = Told<(ContentId, Image), Asked>;

/// The mined images of one worker's contents.
type Images = Held<ContentId, Image>;

fn by_content(mined: Mined) -> (ContentId, Image) {
    (mined.content_id, (mined.image_id, mined.caption))
}

/// The answers about one worker's contents as queries.
#[derive(Default)]
struct Queries {
    images: Images,
    answers: QuickMap<ContentId, Vec<Arc<Answer>>>,
}

impl Queries {
    fn apply(&mut self, told: Vec<(ToQueries, isize)>) -> Vec<(Asked, isize)> {
        let (mined, answers) = parted(told);
        let mut steps = Vec::new();
        for (content_id, before) in self.images.apply(mined) {
            let after = self.images.get(&content_id);
            for answer in self.answers.get(&content_id).into_iter().flatten() {
                let asked = |query: &Image| Asked { answer: answer.clone(), query: query.clone() };
                steps.extend(before.as_ref().map(|query| (asked(query), -1)));
                steps.extend(after.map(|query| (asked(query), 1)));
            }
        }
        for (answer, diff) in answers {
            assert!(diff > 0, "I8: a stored answer never leaves the memo");
            if let Some(query) = self.images.get(&answer.query) {
                steps.push((Asked { answer: answer.clone(), query: query.clone() }, 1));
            }
            self.answers.entry(answer.query).or_default().push(answer);
        }
        steps
    }
}

/// The answers about one worker's contents as targets, by query image.
#[derive(Default)]
struct Targets {
    options: TripletOptions,
    images: Images,
    pairs: QuickMap<ContentId, BTreeMap<Arc<str>, Candidates>>,
}

/// All answers about a query image and a target content.
#[derive(Default)]
struct Candidates {
    asked: Vec<Asked>,
    /// What is in force, with the target image.
    chosen: Option<(Arc<str>, Arc<Answer>)>,
}

impl Targets {
    fn apply(&mut self, told: Vec<(ToTargets, isize)>) -> Vec<((Key, Arc<Answer>), isize)> {
        let (mined, asked) = parted(told);
        let mut touched: Vec<(ContentId, Arc<str>)> = Vec::new();
        for content_id in self.images.apply(mined).into_keys() {
            let queries = self.pairs.get(&content_id).into_iter().flat_map(BTreeMap::keys);
            touched.extend(queries.map(|query_id| (content_id, query_id.clone())));
        }
        for (asked, diff) in asked {
            let (content_id, query_id) = (asked.answer.target, asked.query.0.clone());
            let of_target = self.pairs.entry(content_id).or_default();
            let of_pair = &mut of_target.entry(query_id.clone()).or_default().asked;
            match of_pair.iter().position(|held| diff < 0 && *held == asked) {
                Some(at) => drop(of_pair.swap_remove(at)),
                None => {
                    assert!(diff > 0, "what leaves has come before");
                    of_pair.push(asked);
                }
            }
            touched.push((content_id, query_id));
        }
        touched.sort_unstable();
        touched.dedup();
        let mut steps = Vec::new();
        for (content_id, query_id) in touched {
            self.choose(content_id, query_id, &mut steps);
        }
        steps
    }

    fn choose(
        &mut self,
        content_id: ContentId,
        query_id: Arc<str>,
        steps: &mut Vec<((Key, Arc<Answer>), isize)>,
    ) {
        let Some(of_target) = self.pairs.get_mut(&content_id) else { return };
        let Some(candidates) = of_target.get_mut(&query_id) else { return };
        let target = self.images.get(&content_id);
        // An image is never its own target (rule 3), whatever the memo holds.
        let chosen = target.filter(|(target_id, _)| *target_id != query_id).and_then(|target| {
            let best = best(&candidates.asked, target, &self.options)?;
            Some((target.0.clone(), best))
        });
        let before = std::mem::replace(&mut candidates.chosen, chosen);
        if before != candidates.chosen {
            let step = |(target_id, answer)| ((query_id.clone(), target_id), answer);
            steps.extend(before.map(|chosen| (step(chosen), -1)));
            steps.extend(candidates.chosen.clone().map(|chosen| (step(chosen), 1)));
        }
        if candidates.asked.is_empty() {
            of_target.remove(&query_id);
            if of_target.is_empty() {
                self.pairs.remove(&content_id);
            }
        }
    }
}

/// What counts of the answers about a query and a target with this caption. Instructions that give
/// away what this target's caption says are left out, and an answer that has too few others.
fn best(asked: &[Asked], (_, said_t): &Image, options: &TripletOptions) -> Option<Arc<Answer>> {
    let said_t = said_t.as_deref();
    let holds = |asked: &&Asked| options.holds(&asked.answer, asked.query.1.as_deref(), said_t);
    let fit = asked.iter().filter(holds).filter_map(|asked| {
        Some((&asked.answer, unleaked(&asked.answer, said_t, &options.rules)?))
    });
    let best = fit.min_by_key(|(answer, _)| {
        let (place, newest) = (options.place(&answer.model), Reverse(answer.prompt_version));
        // The last part only decides between two stored outcomes of one request.
        (place, &answer.model, newest, &answer.request_id, *answer)
    });
    best.map(|(_, fit)| fit.into_owned())
}
