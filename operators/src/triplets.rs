//! Triplets: a function of live images, memo and config (I9).
//!
//! A pair of mined images is *watched* as soon as the memo holds an accepted answer for its
//! contents; the pairs box says of every watched pair what it is worth now, and together they are a
//! training row. What was paid for stays while its images live, unless `keep = "mined"`.

use std::{collections::HashMap, sync::Arc};

use differential_dataflow::{AsCollection, VecCollection, consolidation::consolidate};
use schemas::{
    Channel, ContentId, Epoch,
    config::{Filter, Keep},
    shard_of,
    tables::TripletRow,
    triplet_id,
};
use serde::{Deserialize, Serialize};

use crate::{
    epochs::each_closed,
    flow::{Answer, ModelId, Pair},
};

mod watched;

pub use watched::watched;

/// Query and target.
pub type Key = (Arc<str>, Arc<str>);

/// What a person chose about triplets.
#[derive(Clone, Debug, Default)]
pub struct TripletOptions {
    /// Whether a row outlives its pair.
    pub keep: Keep,
    /// The configured models, the preferred one first. Answers of other models in the memo count
    /// too, after all of these and in order of their names.
    pub models: Vec<ModelId>,
    /// Rules on instructions, for those that depend on captions as they are now.
    pub rules: Arc<Filter>,
}

impl TripletOptions {
    /// Prefix of the models that read captions, for those that are no longer configured.
    const READS_CAPTIONS: &str = "template:";

    /// Position of a model in the configured order.
    fn place(&self, model: &str) -> usize {
        self.models.iter().position(|m| m.model == model).unwrap_or(self.models.len())
    }

    /// Whether an answer speaks of these captions.
    ///
    /// An answer of a model that reads captions is about what they said then. When a caption has
    /// changed since, it is not an answer for what the images say today: it waits in the memo, and
    /// counts again should the caption come back. Images are named by content, so they cannot
    /// change under an answer.
    fn holds(&self, answer: &Answer, query: Option<&str>, target: Option<&str>) -> bool {
        let listed = self.models.iter().find(|m| m.model == answer.model);
        let reads = listed
            .map_or(answer.model.starts_with(Self::READS_CAPTIONS), |model| model.reads_captions);
        if !reads {
            return true;
        }
        let model = ModelId {
            model: answer.model.clone(),
            prompt_version: answer.prompt_version,
            reads_captions: true,
        };
        model.request_id((answer.query, query), (answer.target, target)) == answer.request_id
    }
}

/// A training row as a differential row: scores stay integers (s, not s / 2^30).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Triplet {
    /// The query image.
    pub query_id: Arc<str>,
    /// The target image.
    pub target_id: Arc<str>,
    /// Instructions, audits, and where they come from.
    pub answer: Arc<Answer>,
    /// Image ids; the query itself comes first.
    pub hard_negatives: Vec<Arc<str>>,
    /// The channels that propose the pair now; none once it has left `pairs`.
    pub channels: [bool; 3],
    /// Σ v_q·v_t, as its `pairs` row has them; none once it has left.
    pub scores: [Option<i32>; 3],
}

impl Triplet {
    /// The row of the table `triplets`.
    pub fn row(&self, epoch: Epoch) -> TripletRow {
        let channels = Channel::ALL.into_iter().filter(|c| self.channels[c.index()]);
        TripletRow {
            triplet_id: triplet_id(&self.query_id, &self.target_id),
            query_id: self.query_id.to_string(),
            target_id: self.target_id.to_string(),
            instructions: self.answer.instructions.clone(),
            audits: self.answer.audits.clone(),
            hard_negatives: self.hard_negatives.iter().map(|id| id.to_string()).collect(),
            channels: channels.map(|c| c.as_str().to_owned()).collect(),
            scores: self.scores.map(|s| s.map(|s| f64::from(s) / f64::from(1 << 30))).into(),
            description: self.answer.description.clone(),
            model: self.answer.model.clone(),
            prompt_version: self.answer.prompt_version,
            request_id: self.answer.request_id.clone(),
            query_content_id: self.answer.query.hex(),
            target_content_id: self.answer.target.hex(),
            epoch: i64::try_from(epoch).expect("epochs count up from 0"),
        }
    }

    fn contents(&self) -> (ContentId, ContentId) {
        (self.answer.query, self.answer.target)
    }
}

/// The training rows: `chosen` from [`watched`], and `pairs` with a row for each of its keys,
/// mined or only watched. At each epoch a key has at most one −1 and one +1.
pub fn triplets<'s>(
    chosen: VecCollection<'s, Epoch, (Key, Arc<Answer>), isize>,
    pairs: VecCollection<'s, Epoch, Pair, isize>,
    options: &TripletOptions,
) -> VecCollection<'s, Epoch, Triplet, isize> {
    let keep = options.keep;
    let pairs = pairs.filter(move |pair| keep == Keep::Annotated || pair.mined).map(|pair| {
        let channels = pair.ranks.map(|rank| pair.mined && rank.is_some());
        let scores = if pair.mined { pair.scores } else { [None; 3] };
        let worth = Arc::new(Worth { channels, scores, hard_negatives: pair.hard_negatives });
        ((pair.query_id, pair.target_id), Half::Pair(worth))
    });
    let halves = chosen.map(|(key, answer)| (key, Half::Answer(answer))).concat(pairs);
    let mut rows = Halves::default();
    each_closed(
        halves.inner,
        "Triplets",
        |((query_id, _), _)| shard_of(query_id),
        move |halves| rows.apply(halves),
    )
    .as_collection()
}

/// What a pair is worth to a training row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Worth {
    channels: [bool; 3],
    scores: [Option<i32>; 3],
    hard_negatives: Vec<Arc<str>>,
}

/// One of the two parts that make a training row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Half {
    Answer(Arc<Answer>),
    Pair(Arc<Worth>),
}

/// Both parts, as far as they are there.
type Both = (Option<Arc<Answer>>, Option<Arc<Worth>>);

/// The parts that are there now, of one worker's queries.
#[derive(Default)]
struct Halves {
    held: HashMap<Key, Both>,
}

impl Halves {
    /// What an epoch changes, and what that makes of the rows.
    fn apply(&mut self, mut halves: Vec<((Key, Half), isize)>) -> Vec<(Triplet, isize)> {
        consolidate(&mut halves);
        let mut steps = Vec::new();
        for of_key in halves.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            let ((key, _), _) = &of_key[0];
            let (answer, pair) = self.held.entry(key.clone()).or_default();
            let before = (answer.clone(), pair.clone());
            let gone = of_key.iter().filter(|(_, diff)| *diff < 0);
            for ((_, half), _) in gone.chain(of_key.iter().filter(|(_, diff)| *diff > 0)) {
                // At most one of each kind leaves, and then at most one comes.
                match half {
                    Half::Answer(held) => step(answer, held),
                    Half::Pair(held) => step(pair, held),
                }
            }
            let after = (answer.clone(), pair.clone());
            if after == (None, None) {
                self.held.remove(key);
            }
            if before != after {
                steps.extend(row(key, before).map(|row| (row, -1)));
                steps.extend(row(key, after).map(|row| (row, 1)));
            }
        }
        steps
    }
}

/// What is held leaves, or something comes where nothing is.
fn step<T: PartialEq + Clone>(held: &mut Option<T>, value: &T) {
    match held {
        Some(left) => {
            assert!(left == value, "what leaves is what came");
            *held = None;
        }
        None => *held = Some(value.clone()),
    }
}

fn row((query_id, target_id): &Key, (answer, pair): Both) -> Option<Triplet> {
    let (answer, pair) = (answer?, pair?);
    Some(Triplet {
        query_id: query_id.clone(),
        target_id: target_id.clone(),
        answer,
        hard_negatives: std::iter::once(query_id).chain(&pair.hard_negatives).cloned().collect(),
        channels: pair.channels,
        scores: pair.scores,
    })
}

/// A config change that made an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Only the rules on text.
    Rules,
    /// Anything else: encoders, bands, models, `keep`, …
    Other,
}

/// What an epoch did, as far as the reason of a change to `triplets` depends on it.
pub struct Cause<'a> {
    /// Whether the image is no longer what it was: it came, went, or has another content or
    /// caption since the last epoch. A message that only moved its offset does not count.
    pub touched: &'a dyn Fn(&str) -> bool,
    /// Whether a model's caption of this content came in the epoch: it counts where the image has none
    /// of its own, and makes another image of it as one of its own would.
    pub captioned: &'a dyn Fn(ContentId) -> bool,
    /// Whether query and target are in `pairs` after the epoch.
    pub paired: &'a dyn Fn(&str, &str) -> bool,
    /// Set in the epoch that a config change made.
    pub config: Option<ConfigChange>,
}

/// Why a row of `triplets` changed: `new`, `left`, `image`, `negatives`, `answer`, `rule` or
/// `config`. A changed row's delete and insert have one reason. The first that applies:
///
/// - came: `config` or `rule` if the config changed, else `new`;
/// - went: `image` if query or target is not what it was; `config` or `rule` if the config changed;
///   `left` if the pair is not in `pairs`; else `answer` (it no longer counts);
/// - changed: `image` as above, where contents or answer differ; where the answer differs, `config`
///   or `rule` if the config changed, `rule` if it is the same request, else `answer`; `config` if
///   the config changed; `negatives` if those differ; `new` if a channel proposes the pair that did
///   not before; `left` if one no longer does; else `config` (scores of equal images change with
///   encoders only).
pub fn change_reason(old: Option<&Triplet>, new: Option<&Triplet>, cause: &Cause) -> &'static str {
    let config = cause.config.map(|change| match change {
        ConfigChange::Rules => "rule",
        ConfigChange::Other => "config",
    });
    let touched = |row: &Triplet| {
        let (query, target) = row.contents();
        let captioned = (cause.captioned)(query) || (cause.captioned)(target);
        captioned || (cause.touched)(&row.query_id) || (cause.touched)(&row.target_id)
    };
    match (old, new) {
        (None, _) => config.unwrap_or("new"),
        (Some(old), None) if touched(old) => "image",
        (Some(old), None) => config.unwrap_or_else(|| {
            let paired = (cause.paired)(&old.query_id, &old.target_id);
            if paired { "answer" } else { "left" }
        }),
        (Some(old), Some(new)) => {
            let answered_anew = old.answer != new.answer;
            if old.contents() != new.contents() || answered_anew && touched(new) {
                "image"
            } else if let Some(config) = config {
                config
            } else if answered_anew {
                if old.answer.request_id == new.answer.request_id { "rule" } else { "answer" }
            } else if old.hard_negatives != new.hard_negatives {
                "negatives"
            } else {
                proposal_reason(old.channels, new.channels)
            }
        }
    }
}

fn proposal_reason(old: [bool; 3], new: [bool; 3]) -> &'static str {
    let changes = || old.into_iter().zip(new);
    if changes().any(|(old, new)| new && !old) {
        "new"
    } else if changes().any(|(old, new)| old && !new) {
        "left"
    } else {
        "config"
    }
}
