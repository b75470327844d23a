//! Evaluation sets over random histories: what is of one is never live, whether it came before the
//! set or after it, on 1, 2 and 4 workers, and after a restart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use kernels::{
    decode::Pixels,
    encoders::ImageEncoder,
    vector::{UNIT, dot_naive, from_le_bytes, quantize},
};
use operators::{
    benchmarks::{Benchmarks, Set, benchmarks},
    embed::{Encoders, KnownVector, embed},
    flow::{Arrival, Outcome, Picture},
    offload::Pool,
    register::{Restored, register},
};
use proptest::{prelude::*, sample::Index};
use schemas::{
    Channel, ContentId, Epoch,
    benchmark::{By, CHANNELS, Header, Images, Vectors, detail, value},
    message::{Description, Position, Reading},
    tables::{BlockedRow, ContentRow, EmbeddingRow, ImageRow, Measures, RejectRow, StoredImage},
};
use timely::dataflow::{
    InputHandleVec, ProbeHandle, StreamVec,
    channels::pact::Pipeline,
    operators::{Input, Probe, generic::Operator, vec::Map},
};

const CONTENTS: u8 = 12;
const BITS: u32 = 3;
/// A cosine of 0.9.
const THRESHOLD: i32 = (UNIT as i64 * 9 / 10) as i32;

fn content(number: u8) -> ContentId {
    ContentId::of(&[number])
}

/// Hashes of neighbours differ in two bits, of others in more; the last content's says nothing.
fn phash(number: u8) -> u64 {
    if number == CONTENTS - 1 { 0 } else { !0 << (2 * number) }
}

/// Contents of other parity than 0 lie on a circle, 20 degrees apart: neighbours among them match.
fn vector(channel: usize, number: u8) -> Option<Box<[i16]>> {
    if number.is_multiple_of(2) != (channel == 0) {
        return None;
    }
    let angle = (f32::from(number) * 10.0).to_radians();
    quantize(&[angle.cos(), angle.sin()])
}

/// Counts what it reads.
struct Circle(usize, Arc<Mutex<BTreeMap<(usize, u8), usize>>>);

impl ImageEncoder for Circle {
    fn name(&self) -> &str {
        "circle"
    }
    fn digest(&self) -> String {
        "1".into()
    }
    fn dim(&self) -> usize {
        2
    }
    fn encode(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        let read = |pixels: &&Pixels| {
            *self.1.lock().unwrap().entry((self.0, pixels.rgb[0])).or_default() += 1;
            vector(self.0, pixels.rgb[0])
        };
        batch.iter().map(read).collect()
    }
    fn default_bands(&self) -> &[(f64, f64)] {
        &[]
    }
}

type Counts = Arc<Mutex<BTreeMap<(usize, u8), usize>>>;

fn encoders() -> (Encoders, Counts) {
    let counts = Counts::default();
    let image = |at| Some(Arc::new(Circle(at, counts.clone())) as Arc<dyn ImageEncoder>);
    (Encoders { image: [image(0), image(1)], ..Encoders::default() }, counts)
}

/// A set of these contents that compares by some of the ways.
#[derive(Clone, Debug)]
struct Chosen {
    numbers: BTreeSet<u8>,
    phash: bool,
    vectors: [bool; 2],
}

fn chosen() -> impl Strategy<Value = Chosen> {
    (prop::collection::btree_set(0..CONTENTS, 1..4), any::<bool>(), any::<[bool; 2]>())
        .prop_map(|(numbers, phash, vectors)| Chosen { numbers, phash, vectors })
}

impl Chosen {
    fn header(&self, at: usize) -> Header {
        let rule = |channel: usize| Vectors {
            encoder: "circle@1".into(),
            threshold: THRESHOLD,
            images: self.numbers.iter().filter(|n| vector(channel, **n).is_some()).count(),
        };
        let channels = CHANNELS.into_iter().filter(|channel| self.vectors[channel.index()]);
        Header {
            name: format!("set{at}"),
            images: self.numbers.len(),
            phash_bits: self.phash.then_some(BITS),
            channels: channels.map(|channel| (channel, rule(channel.index()))).collect(),
            data: String::new(),
        }
    }

    fn value(&self, at: usize) -> String {
        let header = self.header(at);
        value(&header.name, &header.to_bytes())
    }

    fn set(&self, at: usize, encoders: &Encoders) -> Set {
        let numbers = || self.numbers.iter().copied();
        let images = Images {
            names: numbers().map(|n| format!("eval-{n}")).collect(),
            contents: numbers().map(content).collect(),
            phashes: numbers().map(phash).collect(),
            vectors: [0, 1].map(|channel| numbers().map(|n| vector(channel, n)).collect()),
        };
        let images = Images::from_bytes(&images.to_bytes()).expect("it reads back");
        Set::new(&self.value(at), &self.header(at), images, encoders).expect("a good set")
    }

    /// Whether a content is of the set, written down as plainly as possible.
    fn has(&self, number: u8) -> bool {
        self.numbers.iter().any(|other| {
            let near = (phash(*other) ^ phash(number)).count_ones() <= BITS;
            let said = phash(*other) != 0 && phash(number) != 0;
            let like = |channel: usize| {
                let both = vector(channel, *other).zip(vector(channel, number));
                self.vectors[channel] && both.is_some_and(|(a, b)| dot_naive(&a, &b) >= THRESHOLD)
            };
            *other == number || self.phash && near && said || like(0) || like(1)
        })
    }

    fn live(&self, at: usize, number: u8, encoders: &Encoders) -> Option<String> {
        let set = self.set(at, encoders);
        let by_vector = |channel: usize| {
            let mine = vector(channel, number)?;
            set.by_vectors(channel, &[&mine])[0]
        };
        let found = set.by_content(content(number)).or_else(|| set.by_phash(phash(number)));
        found.or_else(|| by_vector(0)).or_else(|| by_vector(1)).map(|found| set.words(found))
    }
}

#[derive(Clone, Debug)]
enum Op {
    Live { image: u8, content: u8 },
    Gone { image: u8 },
    Block(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..6u8, 0..CONTENTS).prop_map(|(image, content)| Op::Live { image, content }),
        2 => (0..6u8).prop_map(|image| Op::Gone { image }),
        2 => (0..3u8).prop_map(Op::Block),
    ]
}

/// What the boxes are given in one epoch.
#[derive(Clone, Debug, Default)]
struct Given {
    arrivals: Vec<Arrival>,
    /// Indices of sets.
    blocks: Vec<usize>,
    restored: Vec<Restored>,
    memo: Vec<EmbeddingRow>,
}

fn picture(number: u8) -> Picture {
    let id = content(number);
    Picture {
        content_id: id,
        content: ContentRow {
            content_id: id.hex(),
            image: StoredImage { bytes: None, path: None },
            width: 1,
            height: 1,
            format: "png".into(),
            phash: format!("{:016x}", phash(number)),
            measures: Measures::default(),
            epoch: 0,
        },
        width: 1,
        height: 1,
        rgb: vec![number; 3],
        views: [None, None],
        given: [None, None, None],
        caption_id: None,
    }
}

fn number_of(id: &str) -> u8 {
    (0..CONTENTS).find(|n| content(*n).hex() == id).expect("one of ours")
}

fn history(ops: &[(Op, bool)]) -> Vec<Given> {
    let mut epochs = vec![Given::default()];
    for (offset, (op, cut)) in ops.iter().enumerate() {
        let epoch = epochs.last_mut().expect("there is one at least");
        let mut send = |image: &u8, outcome| {
            epoch.arrivals.push(Arrival {
                image_id: format!("i{image}").into(),
                position: Position {
                    topic: "t".into(),
                    partition: 0,
                    offset: offset as i64,
                    timestamp_us: 0,
                },
                outcome,
                reading: Reading::First,
            });
        };
        match op {
            Op::Live { image, content } => {
                let description = Arc::new(Description::default());
                send(image, Outcome::Live(Arc::new(picture(*content)), description));
            }
            Op::Gone { image } => send(image, Outcome::Gone),
            Op::Block(set) => epoch.blocks.push(usize::from(*set)),
        }
        if *cut {
            epochs.push(Given::default());
        }
    }
    epochs
}

/// After an epoch: what is live, by id, with content and offset; and the epoch's rejects, by offset.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    images: BTreeMap<String, (u8, i64)>,
    rejects: BTreeSet<(String, i64)>,
    sets: BTreeSet<usize>,
}

fn model(epochs: &[Given], sets: &[Chosen]) -> Vec<State> {
    let mut state = State::default();
    let mut states = Vec::new();
    for epoch in epochs {
        state.rejects.clear();
        state.sets.extend(&epoch.blocks);
        let is_of = |number: u8| state.sets.iter().any(|set| sets[*set].has(number));
        let mut rejects = BTreeSet::new();
        state.images.retain(|id, (number, offset)| {
            let out = is_of(*number);
            if out {
                rejects.insert((id.clone(), *offset));
            }
            !out
        });
        for arrival in &epoch.arrivals {
            let (id, offset) = (arrival.image_id.to_string(), arrival.position.offset);
            state.images.remove(&id);
            let Outcome::Live(picture, _) = &arrival.outcome else { continue };
            match is_of(picture.rgb[0]) {
                true => drop(rejects.insert((id, offset))),
                false => drop(state.images.insert(id, (picture.rgb[0], offset))),
            }
        }
        state.rejects = rejects;
        states.push(state.clone());
    }
    states
}

/// All that came out, by epoch.
#[derive(Clone, Debug, Default)]
struct Said {
    images: Vec<(Epoch, ImageRow, isize)>,
    contents: Vec<(Epoch, ContentRow)>,
    rejects: Vec<(Epoch, RejectRow)>,
    blocked: Vec<(Epoch, BlockedRow)>,
    rows: Vec<(Epoch, EmbeddingRow)>,
}

fn row(value: String) -> BlockedRow {
    BlockedRow { kind: "benchmark".into(), value, reason: None, epoch: 0 }
}

/// The sets as the service holds them: those that are known at the start, and the others with what
/// is live before the epoch of their first row.
fn held(
    sets: &[Chosen],
    known: &BTreeSet<usize>,
    epochs: &[Given],
    states: &[State],
    encoders: &Encoders,
) -> Arc<Benchmarks> {
    let held = Benchmarks::default();
    for (at, chosen) in sets.iter().enumerate() {
        let set = chosen.set(at, encoders);
        if known.contains(&at) {
            held.know(set);
        } else if let Some(first) = epochs.iter().position(|epoch| epoch.blocks.contains(&at)) {
            let before = first.checked_sub(1).map(|epoch| &states[epoch].images);
            let live = before.into_iter().flatten().filter_map(|(_, (number, _))| {
                Some((content(*number), chosen.live(at, *number, encoders)?))
            });
            let live: HashMap<ContentId, String> = live.collect();
            held.add(set, live);
        }
    }
    Arc::new(held)
}

fn run(
    workers: usize,
    epochs: &[Given],
    sets: &[Chosen],
    held: Arc<Benchmarks>,
    encoders: &Encoders,
) -> Said {
    let said = Arc::new(Mutex::new(Said::default()));
    let (sink, epochs) = (said.clone(), epochs.to_vec());
    let values: Vec<String> = sets.iter().enumerate().map(|(at, set)| set.value(at)).collect();
    let (encoders, pool) = (Arc::new(encoders.clone()), Pool::new(2));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        or_abort(|| {
            let (index, peers) = (worker.index(), worker.peers());
            let mut arrivals = InputHandleVec::<Epoch, Arrival>::new();
            let mut blocks = InputHandleVec::<Epoch, BlockedRow>::new();
            let mut restored = InputHandleVec::<Epoch, Restored>::new();
            let mut memo = InputHandleVec::<Epoch, EmbeddingRow>::new();
            let probe = ProbeHandle::new();
            worker.dataflow::<Epoch, _, _>(|scope| {
                let blocks = scope.input_from(&mut blocks);
                let (passed, rejects) = benchmarks(
                    scope.input_from(&mut arrivals),
                    blocks.clone(),
                    held.clone(),
                    encoders.clone(),
                    pool.clone(),
                );
                let restored = scope.input_from(&mut restored);
                let out = register(passed, blocks, restored, held.clone());
                let memo = scope.input_from(&mut memo);
                let memo = memo.flat_map(|row| KnownVector::of(&row).expect("it is whole"));
                let (_, rows) =
                    embed(out.mined, out.pictures, memo, encoders.clone(), pool.clone());
                keep(out.images, &sink, &probe, |said, row: (ImageRow, Epoch, isize)| {
                    said.images.push((row.1, row.0, row.2));
                });
                keep_at(out.contents, &sink, &probe, |said| &mut said.contents);
                keep_at(rejects, &sink, &probe, |said| &mut said.rejects);
                keep_at(out.rejects, &sink, &probe, |said| &mut said.rejects);
                keep_at(out.blocked, &sink, &probe, |said| &mut said.blocked);
                keep_at(rows, &sink, &probe, |said| &mut said.rows);
            });
            for (time, epoch) in epochs.iter().enumerate() {
                let mine = epoch.arrivals.iter();
                mine.filter(|arrival| arrival.position.offset as usize % peers == index)
                    .for_each(|arrival| arrivals.send(arrival.clone()));
                if index == 0 {
                    epoch.blocks.iter().for_each(|set| blocks.send(row(values[*set].clone())));
                    restored.send_batch(&mut epoch.restored.clone());
                    memo.send_batch(&mut epoch.memo.clone());
                }
                let next = time as Epoch + 1;
                arrivals.advance_to(next);
                blocks.advance_to(next);
                restored.advance_to(next);
                memo.advance_to(next);
                worker.step();
            }
            drop((arrivals, blocks, restored, memo));
            worker.step_or_park_while(None, || !probe.done());
        })
    });
    for worker in guards.expect("workers start").join() {
        worker.expect("a worker ends well");
    }
    Arc::into_inner(said).expect("the workers have ended").into_inner().unwrap()
}

/// A worker that panics leaves the others waiting for ever.
fn or_abort(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        std::process::abort();
    }
}

fn keep_at<D: Clone + 'static>(
    stream: StreamVec<'_, Epoch, D>,
    sink: &Arc<Mutex<Said>>,
    probe: &ProbeHandle<Epoch>,
    of: impl Fn(&mut Said) -> &mut Vec<(Epoch, D)> + 'static,
) {
    let timed = operators::publish::recorded(stream);
    keep(timed, sink, probe, move |said, (row, epoch, _)| of(said).push((epoch, row)));
}

fn keep<D: Clone + 'static>(
    stream: StreamVec<'_, Epoch, D>,
    sink: &Arc<Mutex<Said>>,
    probe: &ProbeHandle<Epoch>,
    put: impl Fn(&mut Said, D) + 'static,
) {
    let sink = sink.clone();
    stream
        .unary(Pipeline, "Keep", move |_, _| {
            move |input, output| {
                input.for_each_stamp(|capability, data| {
                    let mut said = sink.lock().unwrap();
                    data.flat_map(|rows| rows.drain(..)).for_each(|row| put(&mut said, row));
                    output.session(&capability);
                });
            }
        })
        .container::<Vec<()>>()
        .map(|nothing| nothing)
        .probe_with(probe);
}

fn states(said: &Said, epochs: usize, sets: &[Chosen]) -> Vec<State> {
    let mut sums: BTreeMap<ImageRow, isize> = BTreeMap::new();
    let mut state = State::default();
    let mut states = Vec::new();
    for epoch in 0..epochs as Epoch {
        for (_, row, diff) in said.images.iter().filter(|(time, ..)| *time == epoch) {
            *sums.entry(row.clone()).or_default() += diff;
        }
        sums.retain(|_, sum| *sum != 0);
        assert!(sums.values().all(|sum| *sum == 1), "a set");
        let live = sums.keys();
        let live = live.map(|r| (r.image_id.clone(), (number_of(&r.content_id), r.offset)));
        state.images = live.collect();
        let rejects = said.rejects.iter().filter(|(time, _)| *time == epoch);
        let rejects: Vec<(String, i64)> = rejects
            .map(|(_, row)| {
                assert_eq!((row.stage.as_str(), row.reason.as_str()), ("register", "benchmark"));
                (row.image_id.clone().unwrap(), row.offset.unwrap())
            })
            .collect();
        state.rejects = rejects.iter().cloned().collect();
        assert_eq!(state.rejects.len(), rejects.len(), "a message is turned away once");
        let came = said.blocked.iter().filter(|(time, _)| *time == epoch);
        let at = |row: &BlockedRow| (0..sets.len()).find(|at| sets[*at].value(*at) == row.value);
        state.sets.extend(came.map(|(_, row)| at(row).expect("one of ours")));
        states.push(state.clone());
    }
    states
}

/// What is said of a reject is so: the image that is named is the content, or like it.
fn check_details(said: &Said, epochs: &[Given], sets: &[Chosen]) {
    let messages: HashMap<i64, u8> = epochs
        .iter()
        .flat_map(|epoch| &epoch.arrivals)
        .filter_map(|arrival| match &arrival.outcome {
            Outcome::Live(picture, _) => Some((arrival.position.offset, picture.rgb[0])),
            Outcome::Gone => None,
        })
        .collect();
    for (_, row) in &said.rejects {
        let number = messages[&row.offset.unwrap()];
        let mut possible = Vec::new();
        for (at, set) in sets.iter().enumerate() {
            for other in &set.numbers {
                let mut by = vec![By::Phash((phash(*other) ^ phash(number)).count_ones())];
                by.extend((*other == number).then_some(By::Content));
                for (at, channel) in CHANNELS.into_iter().enumerate() {
                    if let (Some(a), Some(b)) = (vector(at, *other), vector(at, number)) {
                        by.push(By::Vector(channel, dot_naive(&a, &b)));
                    }
                }
                let (name, image) = (format!("set{at}"), format!("eval-{other}"));
                possible.extend(by.into_iter().map(|by| detail(&name, &image, by)));
            }
        }
        assert!(possible.contains(&row.detail), "{} of {number}: {possible:?}", row.detail);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_epoch_equals_the_model_and_a_restart_makes_no_difference(
        ops in prop::collection::vec((op(), prop::bool::weighted(0.3)), 0..40),
        sets in prop::collection::vec(chosen(), 3),
        stop in any::<Index>(),
    ) {
        let epochs = history(&ops);
        let expected = model(&epochs, &sets);
        let mut first = None;
        for workers in [1, 2, 4] {
            let (encoders, _) = encoders();
            let known = BTreeSet::new();
            let held = held(&sets, &known, &epochs, &expected, &encoders);
            let said = run(workers, &epochs, &sets, held, &encoders);
            prop_assert_eq!(&states(&said, epochs.len(), &sets), &expected, "{} workers", workers);
            check_details(&said, &epochs, &sets);
            for (_, row) in &said.rows {
                let channel = CHANNELS.iter().position(|c| c.as_str() == row.channel);
                let right = channel.and_then(|at| vector(at, number_of(&row.content_id)));
                prop_assert_eq!(from_le_bytes(&row.vector), right, "{:?}", row);
            }
            first = Some(said);
        }

        let said = first.expect("it ran");
        let stop = stop.index(epochs.len());
        let so_far = |time: &Epoch| *time <= stop as Epoch;
        let (mut images, mut restored) = (BTreeMap::new(), Vec::new());
        for (time, row, diff) in &said.images {
            if so_far(time) {
                *images.entry(row.clone()).or_insert(0) += diff;
            }
        }
        let live = images.into_iter().filter(|(_, sum)| *sum == 1);
        restored.extend(live.map(|(row, _)| Restored::Image(row)));
        let contents = said.contents.iter().filter(|(time, _)| so_far(time));
        let contents = contents.filter_map(|(_, row)| ContentId::parse(&row.content_id));
        restored.extend(contents.map(Restored::Content));
        let blocked = said.blocked.iter().filter(|(time, _)| so_far(time));
        restored.extend(blocked.map(|(_, row)| Restored::Blocked(row.clone())));
        let memo = said.rows.iter().filter(|(time, _)| so_far(time));
        let begin = Given {
            restored,
            memo: memo.map(|(_, row)| row.clone()).collect(),
            ..Given::default()
        };
        let rest: Vec<Given> = [begin].into_iter().chain(epochs[stop + 1..].to_vec()).collect();
        let (encoders, _) = encoders();
        let known = &expected[stop].sets;
        let held = held(&sets, known, &rest, &expected[stop..], &encoders);
        let again = states(&run(2, &rest, &sets, held, &encoders), rest.len(), &sets);
        prop_assert_eq!(&again[0].images, &expected[stop].images);
        for (state, expected) in again.iter().zip(&expected[stop..]).skip(1) {
            prop_assert_eq!((&state.images, &state.rejects), (&expected.images, &expected.rejects));
        }
    }

    /// I2: where epochs end makes no difference to what is live in the end; nor to rejects, where
    /// the sets are there before the messages.
    #[test]
    fn cuts_do_not_matter(
        ops in prop::collection::vec(op(), 0..40),
        cuts in prop::collection::vec(any::<bool>(), 80),
        sets in prop::collection::vec(chosen(), 3),
        before in any::<bool>(),
    ) {
        let (mut blocks, mut messages) = (Vec::new(), Vec::new());
        for op in &ops {
            match op {
                Op::Block(_) if before => blocks.push(op.clone()),
                _ => messages.push(op.clone()),
            }
        }
        blocks.extend(messages);
        let ends = [&cuts[..40], &cuts[40..]].map(|cuts| {
            let ops: Vec<(Op, bool)> = blocks.iter().cloned().zip(cuts.iter().copied()).collect();
            let epochs = history(&ops);
            let expected = model(&epochs, &sets);
            let (encoders, _) = encoders();
            let known = BTreeSet::new();
            let held = held(&sets, &known, &epochs, &expected, &encoders);
            let said = run(2, &epochs, &sets, held, &encoders);
            let mut rejects: Vec<RejectRow> =
                said.rejects.iter().map(|(_, row)| row.clone()).collect();
            rejects.sort();
            (states(&said, epochs.len(), &sets).pop().unwrap().images, rejects)
        });
        prop_assert_eq!(&ends[0].0, &ends[1].0);
        if before {
            prop_assert_eq!(&ends[0].1, &ends[1].1);
        }
    }
}

/// A message that comes again is not encoded again, and what was encoded to be compared is what embed
/// puts into the memo.
#[test]
fn what_was_compared_is_not_encoded_again() {
    let chosen = Chosen { numbers: [0].into(), phash: false, vectors: [true, true] };
    let live = |image, content| (Op::Live { image, content }, true);
    // 1 and 0 are of one content; 6 is far from 0, 1 is near it and comes three times.
    let epochs = history(&[live(0, 6), live(1, 6), live(0, 6), live(2, 7), live(3, 2), live(3, 2)]);
    for workers in [1, 2, 4] {
        let (encoders, counts) = encoders();
        let held = Benchmarks::default();
        held.know(chosen.set(0, &encoders));
        let said = run(workers, &epochs, std::slice::from_ref(&chosen), Arc::new(held), &encoders);
        let states = states(&said, epochs.len(), std::slice::from_ref(&chosen));
        let last = states.last().unwrap();
        assert_eq!(last.images.keys().collect::<Vec<_>>(), ["i0", "i1", "i2"]);
        let counts = counts.lock().unwrap().clone();
        // A vector that there is is taken over. None is asked for once more, and the image that is
        // turned away is not remembered.
        assert_eq!((counts[&(0, 6)], counts[&(1, 7)]), (1, 1), "{counts:?}");
        assert_eq!(counts[&(0, 2)], 2, "{counts:?}");
        let rows: BTreeSet<(&str, u8)> =
            said.rows.iter().map(|(_, r)| (&*r.channel, number_of(&r.content_id))).collect();
        let [semantic, pattern] = [Channel::Semantic, Channel::Pattern].map(Channel::as_str);
        let all = [(semantic, 6), (pattern, 6), (semantic, 7), (pattern, 7)];
        assert_eq!((rows, said.rows.len()), (all.into(), 4));
    }
}

/// A row whose set is not held has no effect, as those that were written before there were sets.
#[test]
fn a_row_without_a_set_has_no_effect() {
    let chosen = Chosen { numbers: [0].into(), phash: true, vectors: [true, true] };
    let live = |image| (Op::Live { image, content: 0 }, true);
    let epochs = history(&[live(0), (Op::Block(0), true), live(1)]);
    let (encoders, _) = encoders();
    let said = run(2, &epochs, std::slice::from_ref(&chosen), Arc::default(), &encoders);
    let states = states(&said, epochs.len(), &[chosen]);
    assert_eq!(states.last().unwrap().images.len(), 2);
    assert!(said.rejects.is_empty());
}
