//! The whole graph over random histories: an input handle in front, a capture behind (I1, I2, I3).
//!
//! Every epoch of every run is compared with a model that knows nothing of epochs before: images by
//! the last message of each id, pairs by brute force, triplets and requests by the memo. The same
//! messages then go through other cuts, another interleaving of their partitions and other numbers
//! of workers, and a run that is stopped in the middle goes on from what the tables would hold, and
//! from a state checkpoint of any epoch, before or after it stopped.

mod driver;
mod history;
mod model;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, Mutex},
};

use everpair::{dataflow::Settings, settings};
use operators::{
    flow::{CAPTION, CaptionerId, Pair, Request, Task},
    neighbors::{Remembered, State},
    publish::EpochChanges,
    register::Restored,
    triplets::TripletOptions,
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use schemas::{
    ContentId, Epoch,
    checkpoint::Part,
    config::{Config, Keep},
    tables::{AnnotationRow, BlockedRow, EmbeddingRow, ImageRow, RejectRow, WITHDRAWN},
};

use driver::{Begin, Desk, Fed, Ran, Run, dice};
use history::{Item, Op, items, steps};
use model::{Grown, Model, Shown};

/// Two ways to mine: one wide band each, and several bands with room for few.
const CONFIGS: [&str; 2] = [
    "[channels.semantic]\nband = [-0.9, 0.97]\nneighbors = 3
     [channels.pattern]\nband = [-0.5, 0.9]\nneighbors = 2
     [channels.caption]\nband = [0.05, 0.95]\nneighbors = 2
     [pairs]\ntargets_per_query = 3\nhard_negatives = 2",
    "[channels.semantic]\nband = [[-0.5, 0.2], [0.2, 0.97]]\nneighbors = 2
     [channels.pattern]\nband = [[0.1, 0.5], [0.6, 0.95]]\nneighbors = 1
     [channels.caption]\nband = [-0.2, 1.0]\nneighbors = 2
     [pairs]\ntargets_per_query = 2\nhard_negatives = 3",
];

fn settings_of(config: &str, keep: Keep, captioned: bool) -> Settings {
    let text = format!(
        "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"tables\"\n[service]\nworkers = 1
         [screen]\nside_min = 48\nblur_min = 0.0\nentropy_min = 0.0\n{config}"
    );
    let config = Config::parse(&text).expect("a good config");
    let settings = settings::settings(&config).expect("with settings");
    let triplets = TripletOptions { keep, ..TripletOptions::clone(&settings.triplets) };
    let captioner = CaptionerId { model: driver::CAPTIONER.into(), prompt_version: 1 };
    let captioner = Some(captioner).filter(|_| captioned);
    Settings { triplets: Arc::new(triplets), captioner, ..settings }
}

#[derive(Clone, Debug)]
struct Case {
    steps: Vec<(Op, bool)>,
    /// The same messages again: where epochs end there.
    cuts: Vec<bool>,
    keep_mined: bool,
    /// Images without a caption get one.
    captioned: bool,
    config: usize,
    ahead: Epoch,
    /// Which of 1, 2 and 4 workers comes first.
    workers: usize,
    stop: prop::sample::Index,
    /// Which checkpoint of the first run the restart has: of an epoch before or after the stop.
    checkpoint: prop::sample::Index,
}

fn cases() -> impl Strategy<Value = Case> {
    let cuts = prop::collection::vec(prop::bool::weighted(0.3), 50);
    let kinds = (any::<bool>(), any::<bool>());
    let small = (kinds, 0..CONFIGS.len(), 0..3u64, 0..3usize);
    (steps(), cuts, small, any::<[prop::sample::Index; 2]>()).prop_map(
        |(steps, cuts, ((keep_mined, captioned), config, ahead, workers), [stop, checkpoint])| {
            Case { steps, cuts, keep_mined, captioned, config, ahead, workers, stop, checkpoint }
        },
    )
}

/// Items as epochs: one ends after each item that is cut, and before each block.
fn epochs(items: &[Item], cuts: impl Iterator<Item = bool>) -> Vec<Fed> {
    let mut epochs = vec![Fed::default()];
    let mut cut = false;
    for (item, ends) in items.iter().zip(cuts) {
        if cut || matches!(item, Item::Block(_)) {
            epochs.push(Fed::default());
        }
        let epoch = epochs.last_mut().expect("there is one");
        match item {
            Item::Message(message) => epoch.messages.push(message.clone()),
            Item::Block(row) => epoch.blocks.push(row.clone()),
        }
        cut = ends;
    }
    epochs
}

/// The messages of one partition before those of the other, as far as blocks let them.
fn interleaved(items: Vec<Item>) -> Vec<Item> {
    let mut stretch = 0;
    let mut keyed: Vec<((usize, i32), Item)> = Vec::new();
    for item in items {
        let place = match &item {
            Item::Message(message) => (stretch, 1 - message.record.position.partition),
            Item::Block(_) => {
                stretch += 2;
                (stretch - 1, 0)
            }
        };
        keyed.push((place, item));
    }
    keyed.sort_by_key(|(place, _)| *place);
    keyed.into_iter().map(|(_, item)| item).collect()
}

/// Rows by how often they have been added; in the end of an epoch each must be there once.
struct Held<T>(BTreeMap<T, isize>);

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held(BTreeMap::new())
    }
}

impl<T: Ord + Clone + Debug> Held<T> {
    fn apply(&mut self, steps: &[(T, isize)]) {
        let mut net: BTreeMap<&T, isize> = BTreeMap::new();
        for (row, diff) in steps {
            *net.entry(row).or_default() += diff;
        }
        for (row, diff) in net {
            let count = self.0.entry(row.clone()).or_default();
            *count += diff;
            match *count {
                0 => drop(self.0.remove(row)),
                1 => {}
                count => panic!("{row:?} is there {count} times"),
            }
        }
    }

    fn rows(&self) -> BTreeSet<T> {
        self.0.keys().cloned().collect()
    }
}

/// A request by what determines its answer.
fn unnamed(request: Request) -> Request {
    Request { images: Default::default(), ..request }
}

/// What the tables show, summed up from what the graph said.
#[derive(Default)]
struct Tables {
    images: Held<ImageRow>,
    pairs: Held<Pair>,
    triplets: Held<operators::triplets::Triplet>,
    requests: Held<Request>,
}

impl Tables {
    fn apply(&mut self, changes: &EpochChanges) {
        self.images.apply(&changes.images);
        self.pairs.apply(&changes.pairs);
        self.triplets.apply(&changes.triplets);
        self.requests.apply(&changes.requests);
    }

    fn shown(&self) -> Shown {
        Shown {
            images: self.images.rows(),
            pairs: self.pairs.rows(),
            triplets: self.triplets.rows(),
            requests: self.requests.rows().into_iter().map(unnamed).collect(),
        }
    }
}

/// Compares every epoch with the model, which knows the memo of the start; what is shown after each
/// epoch, the first one included.
fn check(ran: &Ran, memo: Vec<AnnotationRow>, settings: &Settings, met: &Met) -> Vec<Shown> {
    assert_eq!(ran.closed.len(), 1 + ran.fed.len(), "every epoch is handed over, once");
    let mut model = Model::with(memo, settings.captioner.is_some());
    let mut tables = Tables::default();
    let mut states = vec![Shown::default()];
    let mut withdrawn: BTreeSet<&String> = BTreeSet::new();
    assert_eq!(Grown::of(&ran.closed[0]), Grown::default());
    for (epoch, (fed, changes)) in (1..).zip(ran.fed.iter().zip(&ran.closed[1..])) {
        assert_eq!(changes.epoch, epoch, "in order, without gaps");
        assert_eq!(Grown::of(changes), model.epoch(fed, settings), "epoch {epoch}");
        tables.apply(changes);
        let (shown, expected) = (tables.shown(), model.shown(settings));
        assert_eq!(shown.images, expected.images, "images of epoch {epoch}");
        assert_eq!(shown.pairs, expected.pairs, "pairs of epoch {epoch}");
        assert_eq!(shown.triplets, expected.triplets, "triplets of epoch {epoch}");
        assert_eq!(shown.requests, expected.requests, "requests of epoch {epoch}");
        let mined = |request: &Request| {
            let [query_id, target_id] = &request.images;
            if request.task == Task::Caption {
                return query_id == target_id && model.is_mined(query_id);
            }
            let is = |pair: &&Pair| pair.query_id == *query_id && pair.target_id == *target_id;
            expected.pairs.iter().find(is).is_some_and(|pair| pair.mined)
        };
        let opened = changes.requests.iter().filter(|(_, diff)| *diff > 0);
        assert!(opened.map(|(request, _)| request).all(mined), "names of epoch {epoch}");
        met.epoch(changes, &shown, &model, settings);
        for row in &changes.annotations {
            if row.outcome == WITHDRAWN {
                withdrawn.insert(&row.request_id);
            } else if withdrawn.contains(&row.request_id) {
                met.add("answers given again", 1);
            }
        }
        states.push(shown);
    }
    met.add("blocked while live", model.taken);
    states
}

/// Rejects of a whole run, which no cut may change, but for those of answers that the memo had.
fn rejects(ran: &Ran, memo: &[AnnotationRow]) -> Vec<RejectRow> {
    let mut rows: Vec<RejectRow> = ran.closed.iter().flat_map(|c| c.rejects.clone()).collect();
    rows.retain(|row| memo.iter().all(|held| row.request_id.as_ref() != Some(&held.request_id)));
    rows.sort();
    rows
}

/// I2: the same messages and memo, otherwise cut and interleaved, on other workers.
fn again(case: &Case, items: Vec<Item>, first: &Ran, run: &Run, met: &Met) -> Shown {
    let mut fed = epochs(&interleaved(items), case.cuts.iter().copied().cycle());
    let stored = first.closed.iter().flat_map(|changes| &changes.annotations);
    let mut memo = Vec::new();
    let mut model = Model::default();
    let answers: Vec<&AnnotationRow> = stored.filter(|row| row.outcome != WITHDRAWN).collect();
    let mut live = Vec::new();
    for fed in &fed {
        model.epoch(fed, run.settings);
        live.push(answers.iter().map(|row| model.is_about_live(row)).collect::<Vec<bool>>());
    }
    for (of, row) in answers.into_iter().enumerate() {
        // Also long after it could have been asked for; and, once in two, too late or too early
        // before that.
        let good: Vec<usize> = (0..fed.len()).filter(|at| live[*at][of]).collect();
        let Some(at) = good.get(dice(&row.request_id, 7) as usize % good.len().max(1)) else {
            memo.push(row.clone());
            continue;
        };
        let gone = (0..*at).rfind(|at| !live[*at][of] && row.outcome == "ok");
        let gone = gone.filter(|_| dice(&row.request_id, 6).is_multiple_of(2));
        gone.into_iter().chain([*at]).for_each(|at| fed[at].answers.push(row.clone()));
    }
    met.add("answers that the memo had", memo.len());
    let begin = Begin { answers: memo.clone(), ..Begin::default() };
    let ran = run.over(begin, fed, None);
    let states = check(&ran, memo.clone(), run.settings, met);
    assert_eq!(rejects(&ran, &memo), rejects(first, &memo), "I2: rejects");
    states.last().expect("one per epoch").clone()
}

/// I3: stopped after an epoch, and started from what the tables hold then.
fn restart(stop: usize, first: &Ran, states: &[Shown], run: &Run, met: &Met) {
    let epoch = stop as Epoch;
    let so_far = &first.closed[..=stop];
    let content = |id: &str| ContentId::parse(id).expect("an id of contents");
    let contents = so_far.iter().flat_map(|c| &c.contents).map(|row| content(&row.content_id));
    let images = states[stop].images.iter();
    let images = images.map(|row| ImageRow { epoch: epoch as i64, ..row.clone() });
    let blocked: Vec<BlockedRow> = so_far.iter().flat_map(|c| c.blocked.clone()).collect();
    let vectors: Vec<EmbeddingRow> = so_far.iter().flat_map(|c| c.embeddings.clone()).collect();
    let answers = so_far.iter().flat_map(|c| c.annotations.clone());
    let answers: Vec<_> = answers.filter(|row| row.outcome != WITHDRAWN).collect();
    met.add("restored images", images.len());
    met.add("restored answers", answers.len());
    let restored = (contents.map(Restored::Content))
        .chain(images.map(Restored::Image))
        .chain(blocked.into_iter().map(Restored::Blocked))
        .collect();
    let known: BTreeSet<(String, String)> = vectors.iter().map(vector_of).collect();
    let begin = Begin { epoch, restored, vectors, answers };
    let ran = run.over(begin, first.fed[stop..].to_vec(), None);
    met.add("remembered images", ran.remembered as usize);

    assert_eq!(ran.closed.len(), first.closed.len() - stop);
    let mut tables = Tables::default();
    for (changes, uninterrupted) in ran.closed.iter().zip(&first.closed[stop..]) {
        tables.apply(changes);
        assert_eq!(changes.epoch, uninterrupted.epoch);
        let state = &states[changes.epoch as usize];
        assert_eq!(&tables.shown(), state, "I3: epoch {} of {stop}", changes.epoch);
        if changes.epoch == epoch {
            assert_eq!(Grown::of(changes), Grown::default(), "nothing is written twice");
        } else {
            assert_eq!(Grown::of(changes), Grown::of(uninterrupted), "epoch {}", changes.epoch);
        }
    }
    let encoded = ran.closed.iter().flat_map(|c| &c.embeddings).map(vector_of);
    let twice: Vec<_> = encoded.filter(|vector| known.contains(vector)).collect();
    assert!(twice.is_empty(), "I8: encoded twice: {twice:?}");
}

fn vector_of(row: &EmbeddingRow) -> (String, String) {
    (row.channel.clone(), row.content_id.clone())
}

type Written = Arc<Mutex<BTreeMap<(Epoch, String), Vec<Part>>>>;

/// A checkpoint is wanted of every epoch, and at the end.
fn checkpoints() -> (Written, Arc<State>) {
    let written = Written::default();
    let to = written.clone();
    let state = State::new(None, Some("end".into()), move |part| {
        let part = Part::from_bytes(&part.to_bytes()).expect("it comes back");
        let key = (part.header.epoch, part.header.id.clone());
        to.lock().unwrap().entry(key).or_default().push(part);
    });
    (1..200).for_each(|epoch| state.want(epoch, epoch.to_string()));
    (written, Arc::new(state))
}

/// The state of a start that finds one of these checkpoints.
fn remembered(written: &Written, case: &Case, settings: &Settings, met: &Met) -> Arc<State> {
    let written = written.lock().unwrap();
    met.add("checkpoints", written.len());
    let Some(parts) = written.values().nth(case.checkpoint.index(written.len().max(1))) else {
        return Arc::default();
    };
    let whole = Remembered::new(parts.clone(), &settings.mining).expect("every part is there");
    Arc::new(State::new(Some(whole), None, |_| {}))
}

fn try_case(seed: u64, case: &Case, met: &Met) {
    let keep = if case.keep_mined { Keep::Mined } else { Keep::Annotated };
    let settings = settings_of(CONFIGS[case.config], keep, case.captioned);
    let label: Arc<str> = format!("EVERPAIR_SEED={seed}\n{case:#?}").into();
    let run = |turn: usize, ahead, state| Run {
        settings: &settings,
        workers: [1, 2, 4][(case.workers + turn) % 3],
        ahead,
        state,
        case: label.clone(),
    };
    let items = items(case.steps.iter().map(|(op, _)| op.clone()));
    // Some steps are no messages, so cuts do not line up with steps: any will do.
    let cuts = case.steps.iter().map(|(_, cut)| *cut);
    let desk = Some(Desk::default());
    let (written, state) = checkpoints();
    let first = run(0, case.ahead, state).over(Begin::default(), epochs(&items, cuts), desk);
    let states = check(&first, Vec::new(), &settings, met);
    let end = states.last().expect("one per epoch");
    let other = again(case, items, &first, &run(1, 2, Arc::default()), met);
    assert_eq!(end.images, other.images, "I2: images");
    assert_eq!(end.pairs, other.pairs, "I2: pairs");
    assert_eq!(end.triplets, other.triplets, "I2: triplets");
    let state = remembered(&written, case, &settings, met);
    restart(case.stop.index(states.len()), &first, &states, &run(2, case.ahead, state), met);
}

/// What the histories must have met, or they prove nothing.
#[derive(Default)]
struct Met(RefCell<BTreeMap<String, usize>>, Cell<usize>);

impl Met {
    fn add(&self, what: &str, count: usize) {
        *self.0.borrow_mut().entry(what.into()).or_default() += count;
    }

    fn epoch(&self, changes: &EpochChanges, shown: &Shown, model: &Model, settings: &Settings) {
        self.1.set(self.1.get().max(shown.pairs.len()));
        self.add("epochs", 1);
        self.add("mined pairs", shown.pairs.iter().filter(|pair| pair.mined).count());
        let negatives = shown.pairs.iter().filter(|pair| !pair.hard_negatives.is_empty());
        self.add("pairs with negatives", negatives.count());
        self.add("watched pairs", shown.pairs.iter().filter(|pair| !pair.mined).count());
        self.add("triplets", shown.triplets.len());
        let left = shown.triplets.iter().filter(|row| row.channels == [false; 3]);
        self.add("triplets whose pair has left", left.count());
        self.add("pairs gone", changes.pairs.iter().filter(|(_, diff)| *diff < 0).count());
        self.add("triplets gone", changes.triplets.iter().filter(|(_, diff)| *diff < 0).count());
        self.add("stale answers", model.stale(settings));
        self.add("written captions", model.written());
        let captions = changes.annotations.iter().filter(|row| row.task == CAPTION);
        self.add("captions refused", captions.filter(|row| row.outcome == "refused").count());
        let contents: BTreeSet<&str> = shown.images.iter().map(|i| &*i.content_id).collect();
        self.add("duplicates", shown.images.len() - contents.len());
        changes.rejects.iter().for_each(|row| self.add(&row.reason, 1));
        let withdrawn = changes.annotations.iter().filter(|row| row.outcome == WITHDRAWN);
        self.add("answers withdrawn", withdrawn.count());
        for row in changes.embeddings.iter().filter(|row| row.dim == 0) {
            self.add(&format!("no {} vector", row.channel), 1);
        }
    }
}

const ALL_MET: [&str; 38] = [
    "answers given again",
    "answers that the memo had",
    "answers withdrawn",
    "blocked",
    "blocked while live",
    "captions refused",
    "checkpoints",
    "duplicates",
    "epochs",
    "mined pairs",
    "no caption vector",
    "no pattern vector",
    "no_answer",
    "pairs gone",
    "pairs with negatives",
    "restored answers",
    "remembered images",
    "restored images",
    "stale answers",
    "too_few_instructions",
    "triplets",
    "triplets gone",
    "triplets whose pair has left",
    "watched pairs",
    "written captions",
    "too_short",
    "side_too_short",
    "too_elongated",
    "corrupt",
    "unknown_format",
    "empty_value",
    "bad_envelope",
    "no_image",
    "bad_base64",
    "bad_text",
    "uri_not_allowed",
    "missing_id",
    "id_too_long",
];

#[test]
fn every_epoch_is_what_its_live_images_give() {
    const CASES: u32 = 100;
    // To try a failure again: EVERPAIR_SEED=<the number printed>.
    let seed = std::env::var("EVERPAIR_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("it is after 1970").as_nanos() as u64
    });
    println!("EVERPAIR_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let met = Met::default();
    let tried = TestRunner::new_with_rng(config, rng).run(&cases(), |case| {
        try_case(seed, &case, &met);
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("EVERPAIR_SEED={seed}\n{failure}");
    }
    let counts = met.0.borrow();
    println!("{counts:#?}\nmost pairs at once: {}", met.1.get());
    let missed: Vec<_> = ALL_MET.iter().filter(|what| counts.get(**what) <= Some(&0)).collect();
    assert!(missed.is_empty(), "no history met {missed:?}: {counts:#?}");
    assert!(met.1.get() >= 20, "tens of pairs at once");
}
