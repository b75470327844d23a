//! Neighbors and pairs against the oracle: whatever happened, and whoever did it, the pairs of an
//! epoch are what the six rules give over the images live at that epoch (I1, I2).
//!
//! Vectors here are a few small integers, so that scores tie, hit the edges of bands exactly and
//! repeat: real vectors would leave most of the rules' corners untried.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use common::{Changes, by_epoch, mining, pool};
use kernels::vector::{Band, quantize};
use operators::{
    flow::{Pair, RowId, Version, VersionChange},
    naive::{self, NaiveImage, Vectors},
    neighbors::{Counters, Mining, VectorBook, neighbors},
    pairs::{Watched, pairs},
};
use proptest::{prelude::*, test_runner::TestRunner};
use schemas::{ContentId, Epoch};
use timely::{
    Config,
    dataflow::{
        InputHandleVec, ProbeHandle,
        operators::{Inspect, Probe, vec::Input},
    },
};

#[path = "common/histories.rs"]
mod common;

/// What enters in one epoch. A watched pair may be stamped later than it is sent.
#[derive(Clone, Debug, Default)]
struct Inputs {
    versions: Vec<VersionChange>,
    watched: Vec<(Watched, Epoch, isize)>,
}

struct Outcome {
    changes: Changes<Pair>,
    counters: Arc<Counters>,
    book: Arc<VectorBook>,
}

/// Runs a history; `ahead` epochs may be open at once. Records enter at all workers in turn.
fn run(workers: usize, mining: &Mining, history: &[Inputs], ahead: u64) -> Outcome {
    let mining = Arc::new(mining.clone());
    let counters = Arc::new(Counters::new(workers));
    let book = Arc::new(VectorBook::default());
    let history = Arc::new(history.to_vec());
    let (counters_in, book_in) = (Arc::clone(&counters), Arc::clone(&book));
    let guards = timely::execute(Config::process(workers), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let mut versions: InputHandleVec<Epoch, VersionChange> = InputHandleVec::new();
        let mut watched: InputHandleVec<Epoch, (Watched, Epoch, isize)> = InputHandleVec::new();
        let probe = ProbeHandle::new();
        let seen = Rc::new(RefCell::new(Vec::new()));
        worker.dataflow::<Epoch, _, _>(|scope| {
            let versions = scope.input_from(&mut versions);
            let watched = scope.input_from(&mut watched);
            let shared = || (Arc::clone(&mining), Arc::clone(&book_in), Arc::clone(&counters_in));
            let (m, b, c) = shared();
            let lists = neighbors(versions.clone(), m, b, c, Arc::default());
            let (m, b, c) = shared();
            let seen = Rc::clone(&seen);
            pairs(lists, versions, watched, m, b, c)
                .inspect(move |change| seen.borrow_mut().push(change.clone()))
                .probe_with(&probe);
        });
        for (epoch, inputs) in (0..).zip(history.iter()) {
            for change in inputs.versions.iter().skip(index).step_by(peers) {
                versions.send(change.clone());
            }
            for change in inputs.watched.iter().skip(index).step_by(peers) {
                watched.send(change.clone());
            }
            versions.advance_to(epoch + 1);
            watched.advance_to(epoch + 1);
            worker.step();
            while probe.less_than(&(epoch + 1).saturating_sub(ahead)) {
                worker.step_or_park(None);
            }
        }
        drop((versions, watched));
        while !probe.done() {
            worker.step_or_park(None);
        }
        seen.take()
    });
    let joined = guards.expect("workers start").join();
    let changes = joined.into_iter().flat_map(|seen| seen.expect("a worker failed")).collect();
    Outcome { changes, counters, book }
}

/// A step of a random history. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Put { id: u8, vectors: [Option<u8>; 3] },
    PutOne { id: u8, channel: u8, vector: Option<u8> },
    Delete { id: u8 },
    Watch { query: u8, target: u8, late: u8 },
}

#[derive(Clone, Debug)]
struct History {
    ids: u8,
    mining: Mining,
    /// Vectors of each channel that images draw from.
    pools: [Vec<Vec<i16>>; 3],
    epochs: Vec<Vec<Step>>,
    ahead: u64,
}

fn id(n: u8) -> Arc<str> {
    // Lengths differ, so that bytewise order is not that of the numbers.
    format!("{:x}", u32::from(n) * 7 + 1).into()
}

/// Inputs of each epoch, and what the oracle says after it.
fn play(history: &History) -> (Vec<Inputs>, Vec<BTreeSet<Pair>>) {
    let mut live: BTreeMap<Arc<str>, (RowId, Vectors)> = BTreeMap::new();
    let mut watching = BTreeSet::new();
    let mut next: RowId = 0;
    let mut inputs: Vec<Inputs> = Vec::new();
    let mut images = Vec::new();
    let pick = |channel: usize, n: Option<u8>| -> Option<Arc<[i16]>> {
        let pool = &history.pools[channel];
        n.map(|n| pool[n as usize % pool.len()].clone().into())
    };
    for (epoch, steps) in (0..).zip(&history.epochs) {
        let mut input = Inputs::default();
        for step in steps {
            let (image_id, vectors) = match step {
                Step::Put { id: n, vectors } => {
                    let vectors = std::array::from_fn(|c| pick(c, vectors[c]));
                    (id(n % history.ids), Some(vectors))
                }
                Step::PutOne { id: n, channel, vector } => {
                    let image_id = id(n % history.ids);
                    let Some((_, held)) = live.get(&image_id) else { continue };
                    let (mut vectors, c) = (held.clone(), *channel as usize % 3);
                    vectors[c] = pick(c, *vector);
                    (image_id, Some(vectors))
                }
                Step::Delete { id: n } => (id(n % history.ids), None),
                Step::Watch { query, target, late } => {
                    let pair = (id(query % history.ids), id(target % history.ids));
                    let diff = if watching.insert(pair.clone()) { 1 } else { -1 };
                    if diff < 0 {
                        watching.remove(&pair);
                    }
                    input.watched.push((pair, epoch + u64::from(*late % 3), diff));
                    continue;
                }
            };
            if let Some((row, _)) = live.remove(&image_id) {
                input.versions.push(VersionChange::Remove(Arc::clone(&image_id), row));
            }
            if let Some(vectors) = vectors {
                let version = Version {
                    image_id: Arc::clone(&image_id),
                    row: next,
                    vectors: vectors.clone(),
                };
                input.versions.push(VersionChange::Add(Arc::new(version)));
                live.insert(image_id, (next, vectors));
                next += 1;
            }
        }
        inputs.push(input);
        let mined = live.iter().map(|(image_id, (_, v))| (Arc::clone(image_id), v.clone()));
        images.push(mined.collect::<Vec<_>>());
    }
    let expected = (0..history.epochs.len() as u64 + 2).map(|epoch| {
        let mut watched: BTreeMap<Watched, isize> = BTreeMap::new();
        for (pair, at, diff) in inputs.iter().flat_map(|input| &input.watched) {
            if *at <= epoch {
                *watched.entry(pair.clone()).or_default() += diff;
            }
        }
        let watched = watched.into_iter().filter(|(_, n)| *n > 0).map(|(pair, _)| pair).collect();
        let mined = &images[(epoch as usize).min(images.len() - 1)];
        naive::pairs(mined, &history.mining, &watched)
    });
    let expected = expected.collect();
    (inputs, expected)
}

fn step() -> impl Strategy<Value = Step> {
    let vector = || prop::option::weighted(0.8, any::<u8>());
    prop_oneof![
        6 => (any::<u8>(), [vector(), vector(), vector()])
            .prop_map(|(id, vectors)| Step::Put { id, vectors }),
        2 => (any::<u8>(), any::<u8>(), vector())
            .prop_map(|(id, channel, vector)| Step::PutOne { id, channel, vector }),
        4 => any::<u8>().prop_map(|id| Step::Delete { id }),
        2 => (any::<u8>(), any::<u8>(), 0u8..3)
            .prop_map(|(query, target, late)| Step::Watch { query, target, late }),
    ]
}

fn history() -> impl Strategy<Value = History> {
    let vector = || prop::option::weighted(0.9, any::<u8>());
    let corpus = prop::collection::vec([vector(), vector(), vector()], 0..18);
    let later = prop::collection::vec(prop::collection::vec(step(), 0..14), 1..8);
    let epochs = (corpus, later).prop_map(|(corpus, mut epochs)| {
        let puts = (0..).zip(corpus).map(|(id, vectors)| Step::Put { id, vectors });
        epochs[0].splice(0..0, puts);
        epochs
    });
    (2u8..18, mining(), [pool(), pool(), pool()], epochs, 0u64..4).prop_map(
        |(ids, mining, pools, epochs, ahead)| History { ids, mining, pools, epochs, ahead },
    )
}

/// What the random histories must have met, or they prove nothing.
#[derive(Default)]
struct Met {
    rescans: Cell<u64>,
    pairs: Cell<usize>,
    watched: Cell<usize>,
    negatives: Cell<usize>,
    several_channels: Cell<usize>,
    retracted: Cell<usize>,
}

impl Met {
    fn note(&self, outcome: &Outcome, expected: &[BTreeSet<Pair>]) {
        let add = |cell: &Cell<usize>, n: usize| cell.set(cell.get() + n);
        let count =
            |holds: fn(&Pair) -> bool| expected.iter().flatten().filter(|pair| holds(pair)).count();
        self.rescans.set(self.rescans.get() + load(&outcome.counters.rescans));
        add(&self.pairs, count(|pair| pair.mined));
        add(&self.watched, count(|pair| !pair.mined));
        add(&self.negatives, count(|pair| !pair.hard_negatives.is_empty()));
        add(&self.several_channels, count(|pair| pair.ranks.iter().flatten().count() > 1));
        add(&self.retracted, outcome.changes.iter().filter(|change| change.2 < 0).count());
    }
}

#[test]
fn pairs_of_every_epoch_are_what_the_rules_give() {
    const CASES: u32 = 1_000;
    let config =
        ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let met = Met::default();
    let tried = TestRunner::new(config).run(&history(), |history| {
        let (inputs, expected) = play(&history);
        for workers in [1, 2, 4] {
            let outcome = run(workers, &history.mining, &inputs, history.ahead);
            let held = by_epoch(&outcome.changes, expected.len() as u64);
            for (epoch, (held, expected)) in held.iter().zip(&expected).enumerate() {
                prop_assert!(held.values().all(|&count| count == 1), "epoch {epoch}: {held:?}");
                let held: BTreeSet<Pair> = held.keys().cloned().collect();
                prop_assert_eq!(&held, expected, "epoch {} of {} workers", epoch, workers);
            }
            let changed: BTreeSet<_> =
                outcome.changes.iter().map(|(pair, epoch, _)| (pair.clone(), *epoch)).collect();
            prop_assert_eq!(changed.len(), outcome.changes.len(), "no row comes and goes at once");
            met.note(&outcome, &expected);
        }
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("{failure}");
    }
    for (what, count) in [
        ("rescans", met.rescans.get() as usize),
        ("pairs", met.pairs.get()),
        ("watched pairs", met.watched.get()),
        ("pairs with negatives", met.negatives.get()),
        ("pairs of several channels", met.several_channels.get()),
        ("retractions", met.retracted.get()),
    ] {
        println!("{what}: {count}");
        assert!(count > CASES as usize, "only {count} {what} in all histories");
    }
}

/// A corpus of real shape: unit vectors around a few centres, seeded.
fn corpus(seed: u64, count: usize, dim: usize, spread: f32) -> Vec<Vectors> {
    let mut state = seed | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let mut vector = || (0..dim).map(|_| uniform()).collect::<Vec<f32>>();
    let centres: Vec<Vec<f32>> = (0..8).map(|_| vector()).collect();
    (0..count)
        .map(|i| {
            std::array::from_fn(|c| {
                let centre = centres[(i + c) % 8].iter();
                let x: Vec<f32> = centre.zip(vector()).map(|(&x, dx)| x + spread * dx).collect();
                quantize(&x).map(Arc::from)
            })
        })
        .collect()
}

fn add(n: usize, vectors: &Vectors) -> VersionChange {
    let image_id = format!("image-{n}").into();
    VersionChange::Add(Arc::new(Version { image_id, row: n as RowId, vectors: vectors.clone() }))
}

fn remove(n: usize) -> VersionChange {
    VersionChange::Remove(format!("image-{n}").into(), n as RowId)
}

fn one_band(low: f64, high: f64) -> Mining {
    let bands = || vec![Band::new(low, high).unwrap()];
    Mining { bands: [bands(), bands(), bands()], ..Mining::default() }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[test]
fn a_corpus_equals_brute_force_and_costs_what_it_should() {
    const PER_EPOCH: usize = 60;
    let images = corpus(1, 900, 48, 0.6);
    let mining = one_band(0.5, 0.9);
    let history: Vec<Inputs> = images
        .chunks(PER_EPOCH)
        .enumerate()
        .map(|(epoch, chunk)| Inputs {
            versions: (epoch * PER_EPOCH..).zip(chunk).map(|(n, v)| add(n, v)).collect(),
            ..Inputs::default()
        })
        .collect();
    let mined: Vec<_> =
        images.iter().enumerate().map(|(n, v)| (format!("image-{n}").into(), v.clone())).collect();
    let expected = naive::pairs(&mined, &mining, &BTreeSet::new());
    assert!(expected.len() > 2_000, "{} pairs say little", expected.len());
    for workers in [1, 2, 4] {
        let outcome = run(workers, &mining, &history, 2);
        let held = by_epoch(&outcome.changes, history.len() as u64);
        let held: BTreeSet<Pair> = held.last().unwrap().keys().cloned().collect();
        assert_eq!(held, expected, "{workers} workers");
        let counters = &outcome.counters;
        let allowed: usize =
            (1..=history.len()).map(|epochs| PER_EPOCH * epochs * PER_EPOCH * 3).sum();
        let dots = load(&counters.dot_products);
        assert!(dots > 0 && dots * 10 <= allowed as u64 * 11, "{dots} of {allowed}");
        assert_eq!(load(&counters.rescans), 0, "nothing left");
        let rows: Vec<u64> = counters.rows.iter().map(load).collect();
        assert_eq!(rows.iter().sum::<u64>(), 900);
        let fair = 900 / workers as u64;
        assert!(rows.iter().all(|&n| fair <= 2 * n && n <= 2 * fair), "{rows:?}");
    }
}

#[test]
fn a_delete_costs_what_its_lists_lost() {
    let mut images = corpus(2, 300, 32, 0.5);
    // Far from everything: in no list.
    images.push(std::array::from_fn(|_| {
        let mut x = vec![0i16; 32];
        x[0] = 32767;
        Some(x.into())
    }));
    let all = Inputs {
        versions: images.iter().enumerate().map(|(n, v)| add(n, v)).collect(),
        ..Inputs::default()
    };
    let without = |gone: &[usize]| Inputs {
        versions: gone.iter().map(|&n| remove(n)).collect(),
        ..Inputs::default()
    };
    let tight = Mining { slack: 0, neighbors: [2; 3], ..one_band(0.7, 0.95) };
    let cost = |mining: &Mining, history: &[Inputs]| {
        let outcome = run(2, mining, history, 0);
        let c = &outcome.counters;
        (load(&c.dot_products), load(&c.rescan_dot_products), load(&c.rescans), outcome)
    };
    let (dots, rescan_dots, rescans, _) = cost(&tight, std::slice::from_ref(&all));
    assert_eq!((rescan_dots, rescans), (0, 0));
    let (same, rescan_dots, rescans, outcome) = cost(&tight, &[all.clone(), without(&[300])]);
    assert_eq!((same, rescan_dots, rescans), (dots, 0, 0), "no list held it");
    assert_eq!(outcome.book.held().0, 300, "what left is forgotten");
    let (same, rescan_dots, rescans, _) = cost(&tight, &[all.clone(), without(&[7])]);
    assert_eq!(same, dots);
    assert!(rescans > 0, "its lists had no slack");
    assert_eq!(rescan_dots % 300, 0, "each list asks every live row once");
    assert!(rescan_dots <= rescans * 300, "{rescan_dots} for {rescans} lists");
    let slack = Mining { slack: 6, ..tight.clone() };
    let (same, _, rescans, _) = cost(&slack, &[all.clone(), without(&[7])]);
    assert_eq!((same, rescans), (dots, 0), "slack answers");
}

/// 20,000 images that are all in one another's bands: as many pairs each as anywhere, and the
/// stream of changes is bounded too.
#[test]
fn near_identical_images_cost_linear_memory() {
    const COUNT: usize = 20_000;
    let images: Vec<Vectors> = (0..COUNT)
        .map(|n| {
            let mut x = [10_000f32; 16];
            x[n % 16] += (n / 16) as f32;
            [quantize(&x).map(Arc::from), None, None]
        })
        .collect();
    let mut mining = one_band(0.9, 1.01);
    mining.bands[1].clear();
    mining.bands[2].clear();
    let history: Vec<Inputs> = images
        .chunks(5_000)
        .enumerate()
        .map(|(epoch, chunk)| Inputs {
            versions: (epoch * 5_000..).zip(chunk).map(|(n, v)| add(n, v)).collect(),
            ..Inputs::default()
        })
        .collect();
    let outcome = run(2, &mining, &history, 0);
    let held = by_epoch(&outcome.changes, history.len() as u64);
    assert_eq!(held.last().unwrap().len(), COUNT * mining.targets_per_query);
    let bytes = COUNT * 16 * size_of::<i16>();
    assert_eq!(outcome.book.held(), (COUNT, bytes));
    // Every epoch may replace all rows once, whatever the number of images.
    let changes = 2 * history.len() * COUNT * mining.targets_per_query;
    assert!(outcome.changes.len() <= changes, "{} changes", outcome.changes.len());
}

#[test]
fn the_smallest_id_of_a_content_is_mined() {
    let image = |image_id: &str, content: &[u8]| NaiveImage {
        image_id: image_id.into(),
        content_id: ContentId::of(content),
        vectors: [Some(vec![image_id.len() as i16].into()), None, None],
    };
    let images = [image("b", b"x"), image("a10", b"y"), image("a9", b"y"), image("B", b"x")];
    let mined = naive::mined(&images);
    let ids: Vec<&str> = mined.iter().map(|(image_id, _)| &**image_id).collect();
    assert_eq!(ids, ["B", "a10"]);
    assert_eq!(mined[1].1[0].as_deref(), Some(&[3i16][..]), "with its own vectors");
}
