//! register and embed over random histories, against a naive model, on 1, 2 and 4 workers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use kernels::{
    decode::Pixels,
    encoders::{ImageEncoder, TextEncoder},
    vector::from_le_bytes,
};
use operators::{
    embed::{Encoders, KnownVector, embed},
    flow::{Arrival, Mined, Outcome, Picture, RowId, Version, VersionChange},
    offload::Pool,
    register::{Restored, register},
};
use proptest::prelude::*;
use schemas::{
    Channel, ContentId, Epoch, caption_text,
    message::{Description, Position, Reading},
    tables::{BlockedRow, ContentRow, EmbeddingRow, ImageRow, Measures, RejectRow, StoredImage},
};
use timely::dataflow::{
    InputHandleVec, ProbeHandle, StreamVec,
    operators::{Input, Probe, vec::Map},
};

const CAPTIONS: [Option<&str>; 5] = [None, Some("a boat"), Some("a tree"), Some(" "), Some("--")];
const SOURCES: [Option<&str>; 3] = [None, Some("s1"), Some("s2")];

/// One step of a history.
#[derive(Clone, Debug)]
enum Op {
    Live {
        image: u8,
        content: u8,
        caption: u8,
        source: u8,
        partition: u8,
        time: u8,
    },
    Gone {
        image: u8,
        partition: u8,
        time: u8,
    },
    /// The n-th message so far once more.
    Replay(u8),
    Block {
        kind: u8,
        value: u8,
    },
    Cut,
}

fn ops(length: usize) -> impl Strategy<Value = Vec<Op>> {
    let live = (0..6u8, 0..4u8, 0..5u8, 0..3u8, 0..3u8, 0..3u8).prop_map(
        |(image, content, caption, source, partition, time)| Op::Live {
            image,
            content,
            caption,
            source,
            partition,
            time,
        },
    );
    let gone = (0..6u8, 0..3u8, 0..3u8).prop_map(|(image, partition, time)| Op::Gone {
        image,
        partition,
        time,
    });
    let block = (0..4u8, 0..6u8).prop_map(|(kind, value)| Op::Block { kind, value });
    let op = prop_oneof![
        12 => live,
        3 => gone,
        1 => any::<u8>().prop_map(Op::Replay),
        1 => block,
        4 => Just(Op::Cut),
    ];
    proptest::collection::vec(op, 0..length)
}

/// What the boxes are given in one epoch.
#[derive(Clone, Debug, Default)]
struct Given {
    arrivals: Vec<Arrival>,
    blocks: Vec<BlockedRow>,
    restored: Vec<Restored>,
    memo: Vec<EmbeddingRow>,
}

fn content(number: u8) -> ContentId {
    ContentId::of(&[number])
}

fn picture(number: u8, caption: Option<&str>) -> Picture {
    let id = content(number);
    Picture {
        content_id: id,
        content: ContentRow {
            content_id: id.hex(),
            image: StoredImage { bytes: Some(vec![number]), path: None },
            width: 1,
            height: 1,
            format: "png".into(),
            phash: "0".repeat(16),
            measures: Measures::default(),
            epoch: 0,
        },
        width: 1,
        height: 1,
        rgb: vec![number; 3],
        views: [None, None],
        given: [None, None, None],
        caption_id: caption_text(caption).map(|text| ContentId::of(text.as_bytes())),
    }
}

fn history(ops: &[Op]) -> Vec<Given> {
    let mut epochs = vec![Given::default()];
    let mut messages: Vec<Arrival> = Vec::new();
    for (offset, op) in ops.iter().enumerate() {
        let at = |partition: &u8, time: &u8| Position {
            topic: "t".into(),
            partition: i32::from(*partition),
            offset: offset as i64,
            timestamp_us: i64::from(*time),
        };
        let epoch = epochs.last_mut().expect("there is one at least");
        match op {
            Op::Live { image, content, caption, source, partition, time } => {
                let caption = CAPTIONS[usize::from(*caption)];
                let description = Description {
                    caption: caption.map(Into::into),
                    source: SOURCES[usize::from(*source)].map(Into::into),
                    ..Description::default()
                };
                let picture = Arc::new(picture(*content, caption));
                messages.push(Arrival {
                    image_id: format!("i{image}").into(),
                    position: at(partition, time),
                    outcome: Outcome::Live(picture, Arc::new(description)),
                    reading: Reading::First,
                });
                epoch.arrivals.extend(messages.last().cloned());
            }
            Op::Gone { image, partition, time } => {
                messages.push(Arrival {
                    image_id: format!("i{image}").into(),
                    position: at(partition, time),
                    outcome: Outcome::Gone,
                    reading: Reading::First,
                });
                epoch.arrivals.extend(messages.last().cloned());
            }
            Op::Replay(n) => {
                let again = messages.get(usize::from(*n) % messages.len().max(1)).cloned();
                epoch.arrivals.extend(again);
            }
            Op::Block { kind, value } => {
                let (kind, value) = match kind {
                    0 => ("id", format!("i{value}")),
                    1 => ("content", content(value % 4).hex()),
                    2 => ("source", format!("s{}", value % 3)),
                    _ => ("benchmark", format!("b{value}")),
                };
                let reason = Some(format!("{offset}"));
                epoch.blocks.push(BlockedRow { kind: kind.into(), value, reason, epoch: 0 });
            }
            Op::Cut => epochs.push(Given::default()),
        }
    }
    epochs
}

/// Everything that is true after an epoch, and what was said in it.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    images: BTreeSet<ImageRow>,
    mined: BTreeSet<Mined>,
    /// Contents that got their row in this epoch.
    contents: BTreeSet<String>,
    rejects: Vec<RejectRow>,
    blocked: BTreeSet<(String, String)>,
}

/// Rule 1 and the last message, written down as plainly as possible.
fn model(epochs: &[Given]) -> Vec<State> {
    let mut rows: BTreeMap<String, ImageRow> = BTreeMap::new();
    let mut blocked: BTreeSet<(String, String)> = BTreeSet::new();
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut states = Vec::new();
    for epoch in epochs {
        let mut state = State::default();
        for row in &epoch.restored {
            match row {
                Restored::Image(row) => drop(rows.insert(row.image_id.clone(), row.clone())),
                Restored::Content(id) => drop(known.insert(id.hex())),
                Restored::Blocked(row) => {
                    blocked.insert((row.kind.clone(), row.value.clone()));
                }
            }
        }
        for row in &epoch.blocks {
            let name = (row.kind.clone(), row.value.clone());
            if blocked.insert(name.clone()) {
                state.blocked.insert(name);
            }
        }
        let why = |image_id: &str, content_id: &str, source: Option<&str>| {
            let names = [("id", Some(image_id)), ("content", Some(content_id)), ("source", source)];
            names.into_iter().find_map(|(kind, value)| {
                let name = (kind.to_owned(), value?.to_owned());
                blocked.contains(&name).then(|| format!("the {kind} {} is blocked", name.1))
            })
        };
        let reject = |row: &ImageRow, why: String| RejectRow {
            stage: "register".into(),
            reason: "blocked".into(),
            detail: why,
            image_id: Some(row.image_id.clone()),
            request_id: None,
            topic: Some(row.topic.clone()),
            partition: Some(row.partition),
            offset: Some(row.offset),
            epoch: 0,
        };
        // What would be the message's row, or nothing.
        let row_of = |arrival: &Arrival| {
            let Outcome::Live(picture, description) = &arrival.outcome else { return None };
            Some(ImageRow {
                image_id: arrival.image_id.to_string(),
                content_id: picture.content_id.hex(),
                source: description.source.clone(),
                uri: None,
                caption: description.caption.clone(),
                licence: None,
                attributes: None,
                topic: arrival.position.topic.to_string(),
                partition: arrival.position.partition,
                offset: arrival.position.offset,
                ingested_at: arrival.position.timestamp_us,
                epoch: 0,
                since: None,
            })
        };
        rows.retain(|_, row| {
            let why = why(&row.image_id, &row.content_id, row.source.as_deref());
            state.rejects.extend(why.clone().map(|why| reject(row, why)));
            why.is_none()
        });
        let mut last: BTreeMap<(String, i32), &Arrival> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for arrival in &epoch.arrivals {
            let (id, at) = (arrival.image_id.to_string(), &arrival.position);
            if !seen.insert((id.clone(), at.partition, at.offset)) {
                continue;
            }
            if let Some(row) = row_of(arrival) {
                let why = why(&row.image_id, &row.content_id, row.source.as_deref());
                state.rejects.extend(why.map(|why| reject(&row, why)));
            }
            let slot = last.entry((id, at.partition)).or_insert(arrival);
            if at.offset > slot.position.offset {
                *slot = arrival;
            }
        }
        let ids: BTreeSet<String> = last.keys().map(|(id, _)| id.clone()).collect();
        for id in ids {
            let candidates = last.iter().filter(|((i, _), _)| *i == id).map(|(_, arrival)| arrival);
            let winner = candidates
                .max_by_key(|a| (a.position.timestamp_us, a.position.partition, a.position.offset))
                .expect("the id came from a candidate");
            let before = rows.remove(&id);
            let lives = |arrival: &Arrival| {
                row_of(arrival).filter(|row| {
                    why(&row.image_id, &row.content_id, row.source.as_deref()).is_none()
                })
            };
            if let Some(mut row) = lives(winner) {
                row.since = since(before, winner, &epoch.arrivals, &|a| lives(a).is_some());
                rows.insert(id, row);
            }
        }
        for row in rows.values() {
            let smallest =
                rows.values().filter(|r| r.content_id == row.content_id).map(|r| &r.image_id);
            if smallest.min() == Some(&row.image_id) {
                state.mined.insert(Mined {
                    image_id: row.image_id.as_str().into(),
                    content_id: ContentId::parse(&row.content_id).unwrap(),
                    caption: row.caption.as_deref().map(Into::into),
                });
            }
            if known.insert(row.content_id.clone()) {
                state.contents.insert(row.content_id.clone());
            }
        }
        state.images = rows.values().cloned().collect();
        state.rejects.sort();
        states.push(state);
    }
    states
}

/// `images.since` of the winner: that of the row before if no message of the epoch ended it, else the
/// first of its partition behind the last that did.
fn since(
    before: Option<ImageRow>,
    winner: &Arrival,
    arrivals: &[Arrival],
    lives: &dyn Fn(&Arrival) -> bool,
) -> Option<String> {
    let of_id = || arrivals.iter().filter(|a| a.image_id == winner.image_id);
    if let Some(before) = before
        && of_id().all(lives)
    {
        return before.since;
    }
    let of_partition = || of_id().filter(|a| a.position.partition == winner.position.partition);
    let ended = of_partition().filter(|a| !lives(a)).map(|a| a.position.offset).max();
    let behind = of_partition().map(|a| a.position.offset).filter(|at| Some(*at) > ended);
    Some(format!("t/{}/{}", winner.position.partition, behind.min()?))
}

/// All that came out, by epoch.
#[derive(Clone, Debug, Default)]
struct Said {
    images: Vec<(Epoch, ImageRow, isize)>,
    mined: Vec<(Epoch, Mined, isize)>,
    contents: Vec<(Epoch, ContentRow)>,
    pictures: Vec<(Epoch, ContentId)>,
    rejects: Vec<(Epoch, RejectRow)>,
    blocked: Vec<(Epoch, BlockedRow)>,
    versions: Vec<(Epoch, usize, VersionChange)>,
    rows: Vec<(Epoch, EmbeddingRow)>,
}

/// Runs register and embed over a history. Epochs are given ahead of what is done, so that several
/// are in flight.
fn run(workers: usize, epochs: &[Given], encoders: &Encoders) -> Said {
    let said = Arc::new(Mutex::new(Said::default()));
    let (sink, epochs) = (said.clone(), epochs.to_vec());
    let (encoders, pool) = (Arc::new(encoders.clone()), Pool::new(2));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        or_abort(|| {
            let (index, peers) = (worker.index(), worker.peers());
            let mut inputs = (
                InputHandleVec::<Epoch, Arrival>::new(),
                InputHandleVec::<Epoch, BlockedRow>::new(),
                InputHandleVec::<Epoch, Restored>::new(),
                InputHandleVec::<Epoch, EmbeddingRow>::new(),
            );
            let probe = ProbeHandle::new();
            worker.dataflow::<Epoch, _, _>(|scope| {
                let arrivals = scope.input_from(&mut inputs.0);
                let blocks = scope.input_from(&mut inputs.1);
                let restored = scope.input_from(&mut inputs.2);
                let memo = scope.input_from(&mut inputs.3);
                let memo = memo.flat_map(|row| KnownVector::of(&row).expect("it is whole"));
                let out = register(arrivals, blocks, restored, Arc::default());
                let (versions, rows) = embed(
                    out.mined.clone(),
                    out.pictures.clone(),
                    memo,
                    encoders.clone(),
                    pool.clone(),
                );
                keep(out.images, &sink, &probe, |said, epoch, (row, time, diff)| {
                    assert_eq!(epoch, time);
                    said.images.push((time, row, diff));
                });
                keep(out.mined, &sink, &probe, |said, _, (row, time, diff)| {
                    said.mined.push((time, row, diff));
                });
                keep(out.contents, &sink, &probe, |said, epoch, row| {
                    said.contents.push((epoch, row))
                });
                keep(out.pictures, &sink, &probe, |said, epoch, picture| {
                    said.pictures.push((epoch, picture.content_id));
                });
                keep(out.rejects, &sink, &probe, |said, epoch, row| {
                    said.rejects.push((epoch, row))
                });
                keep(out.blocked, &sink, &probe, |said, epoch, row| {
                    said.blocked.push((epoch, row))
                });
                keep(versions, &sink, &probe, move |said, epoch, change| {
                    said.versions.push((epoch, index, change));
                });
                keep(rows, &sink, &probe, |said, epoch, row| said.rows.push((epoch, row)));
            });
            for (time, epoch) in epochs.iter().enumerate() {
                for arrival in &epoch.arrivals {
                    if arrival.position.partition as usize % peers == index {
                        inputs.0.send(arrival.clone());
                    }
                }
                if index == 0 {
                    inputs.1.send_batch(&mut epoch.blocks.clone());
                    inputs.2.send_batch(&mut epoch.restored.clone());
                    inputs.3.send_batch(&mut epoch.memo.clone());
                }
                let next = time as Epoch + 1;
                inputs.0.advance_to(next);
                inputs.1.advance_to(next);
                inputs.2.advance_to(next);
                inputs.3.advance_to(next);
                worker.step();
            }
            drop(inputs);
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

fn keep<D: Clone + 'static>(
    stream: StreamVec<'_, Epoch, D>,
    sink: &Arc<Mutex<Said>>,
    probe: &ProbeHandle<Epoch>,
    put: impl Fn(&mut Said, Epoch, D) + 'static,
) {
    use timely::dataflow::{channels::pact::Pipeline, operators::generic::Operator};
    let sink = sink.clone();
    stream
        .unary(Pipeline, "Keep", move |_, _| {
            move |input, output| {
                input.for_each_stamp(|capability, data| {
                    let epoch = *capability.least().expect("rows have an epoch");
                    let mut said = sink.lock().unwrap();
                    data.flat_map(|rows| rows.drain(..)).for_each(|row| put(&mut said, epoch, row));
                    output.session(&capability);
                });
            }
        })
        .container::<Vec<()>>()
        .map(|nothing| nothing)
        .probe_with(probe);
}

fn accumulate<D: Ord + Clone>(rows: &[(Epoch, D, isize)], epoch: Epoch) -> BTreeMap<D, isize> {
    let mut sums = BTreeMap::new();
    for (_, row, diff) in rows.iter().filter(|(time, ..)| *time <= epoch) {
        *sums.entry(row.clone()).or_default() += diff;
    }
    sums.retain(|_, sum| *sum != 0);
    sums
}

fn states(said: &Said, epochs: usize) -> Vec<State> {
    let of = |epoch: usize| {
        let epoch = epoch as Epoch;
        let images = accumulate(&said.images, epoch);
        let mined = accumulate(&said.mined, epoch);
        assert!(images.values().chain(mined.values()).all(|sum| *sum == 1), "a set");
        let mut rejects: Vec<RejectRow> =
            said.rejects.iter().filter(|r| r.0 == epoch).map(|r| r.1.clone()).collect();
        rejects.sort();
        let contents: Vec<String> =
            said.contents.iter().filter(|r| r.0 == epoch).map(|r| r.1.content_id.clone()).collect();
        let blocked: Vec<(String, String)> = (said.blocked.iter().filter(|r| r.0 == epoch))
            .map(|(_, row)| (row.kind.clone(), row.value.clone()))
            .collect();
        let state = State {
            images: images.into_keys().collect(),
            mined: mined.into_keys().collect(),
            contents: contents.iter().cloned().collect(),
            rejects,
            blocked: blocked.iter().cloned().collect(),
        };
        assert_eq!((state.contents.len(), state.blocked.len()), (contents.len(), blocked.len()));
        state
    };
    (0..epochs).map(of).collect()
}

/// Counts how often it read each content.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<Counts>>);

type Counts = HashMap<(Channel, Vec<u8>), usize>;

impl Counting {
    fn vector(&self, channel: Channel, read: &[u8]) -> Option<Box<[i16]>> {
        *self.0.lock().unwrap().entry((channel, read.to_vec())).or_default() += 1;
        vector(channel, read)
    }
}

/// The vector of what was read: none for content 3 in `pattern`, and for a text without letters.
fn vector(channel: Channel, read: &[u8]) -> Option<Box<[i16]>> {
    match channel {
        Channel::Pattern if read[0] == 3 => None,
        Channel::Caption if !read.iter().any(u8::is_ascii_alphabetic) => None,
        _ => {
            let sum: i16 = read.iter().map(|b| i16::from(*b)).sum();
            Some([sum, channel.index() as i16 + 1].into())
        }
    }
}

struct Image(Channel, Counting);

impl ImageEncoder for Image {
    fn name(&self) -> &str {
        "counting"
    }
    fn digest(&self) -> String {
        "1".into()
    }
    fn dim(&self) -> usize {
        2
    }
    fn encode(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        batch.iter().map(|pixels| self.1.vector(self.0, &pixels.rgb)).collect()
    }
    fn default_bands(&self) -> &[(f64, f64)] {
        &[]
    }
}

impl TextEncoder for Counting {
    fn name(&self) -> &str {
        "counting"
    }
    fn digest(&self) -> String {
        "1".into()
    }
    fn dim(&self) -> usize {
        2
    }
    fn encode(&self, batch: &[&str]) -> Vec<Option<Box<[i16]>>> {
        batch.iter().map(|text| self.vector(Channel::Caption, text.as_bytes())).collect()
    }
    fn default_bands(&self) -> &[(f64, f64)] {
        &[]
    }
}

fn counting() -> (Encoders, Counting) {
    let counting = Counting::default();
    let image = |channel| Some(Arc::new(Image(channel, counting.clone())) as Arc<dyn ImageEncoder>);
    let encoders = Encoders {
        image: [image(Channel::Semantic), image(Channel::Pattern)],
        text: Some(Arc::new(counting.clone())),
        given: [None; 3],
    };
    (encoders, counting)
}

/// The versions after each epoch; each step must fit what is there.
fn versions(said: &Said, epochs: usize) -> Vec<BTreeMap<Arc<str>, Arc<Version>>> {
    let mut live: BTreeMap<Arc<str>, Arc<Version>> = BTreeMap::new();
    let mut rows: BTreeSet<RowId> = BTreeSet::new();
    let mut after = Vec::new();
    for epoch in 0..epochs as Epoch {
        let mut added: BTreeSet<Arc<str>> = BTreeSet::new();
        // One image's steps leave from one worker, in order.
        for (_, _, change) in said.versions.iter().filter(|(time, ..)| *time == epoch) {
            match change {
                VersionChange::Remove(image_id, row) => {
                    assert!(!added.contains(image_id), "removals come first");
                    let version = live.remove(image_id).expect("only a version leaves");
                    assert_eq!(version.row, *row, "the version that there is leaves");
                }
                VersionChange::Add(version) => {
                    assert!(rows.insert(version.row), "a row id is never used again");
                    added.insert(version.image_id.clone());
                    let before = live.insert(version.image_id.clone(), version.clone());
                    assert!(before.is_none(), "an image has one version");
                }
            }
        }
        after.push(live.clone());
    }
    after
}

fn expected_vectors(mined: &Mined) -> [Option<Arc<[i16]>>; 3] {
    let number = (0..4).find(|n| content(*n) == mined.content_id).expect("one of ours");
    Channel::ALL.map(|channel| {
        let vector = match channel {
            Channel::Caption => {
                caption_text(mined.caption.as_deref()).and_then(|c| vector(channel, c.as_bytes()))
            }
            _ => vector(channel, &[number; 3]),
        };
        vector.map(Arc::from)
    })
}

fn check_versions(said: &Said, states: &[State]) {
    for (versions, state) in versions(said, states.len()).iter().zip(states) {
        let ids: Vec<&Arc<str>> = state.mined.iter().map(|mined| &mined.image_id).collect();
        assert_eq!(versions.keys().collect::<BTreeSet<_>>(), ids.into_iter().collect());
        for mined in &state.mined {
            assert_eq!(versions[&mined.image_id].vectors, expected_vectors(mined), "{mined:?}");
        }
    }
}

/// Every vector that was computed is a row, once, and every row is what was computed.
fn check_memo(rows: &[(Epoch, EmbeddingRow)], counting: &Counting) {
    let counts = counting.0.lock().unwrap();
    assert!(counts.values().all(|count| *count == 1), "encoded twice: {counts:?}");
    assert_eq!(rows.len(), counts.len());
    for (_, row) in rows {
        assert_eq!((row.encoder.as_str(), row.epoch), ("counting@1", 0));
        assert_eq!(row.vector.len(), 2 * row.dim as usize);
    }
    let channels: BTreeSet<(&str, &str)> =
        rows.iter().map(|(_, row)| (&*row.channel, &*row.content_id)).collect();
    assert_eq!(channels.len(), rows.len(), "one row for a channel and a content");
}

/// No step without an effect: what is emitted in an epoch is the difference to the one before.
fn check_only_changes(said: &Said, states: &[State]) {
    let empty = State::default();
    for (epoch, state) in states.iter().enumerate() {
        let before = if epoch == 0 { &empty } else { &states[epoch - 1] };
        let steps = said.mined.iter().filter(|(time, ..)| *time == epoch as Epoch).count();
        assert_eq!(steps, before.mined.symmetric_difference(&state.mined).count());
        let live = |state: &State| -> BTreeSet<ContentId> {
            state.mined.iter().map(|mined| mined.content_id).collect()
        };
        let mut shown: Vec<ContentId> = (said.pictures.iter())
            .filter(|(time, _)| *time == epoch as Epoch)
            .map(|(_, id)| *id)
            .collect();
        shown.sort();
        let news = &live(state) - &live(before);
        assert_eq!(shown, news.into_iter().collect::<Vec<_>>(), "pictures of what became live");
    }
}

fn restore(state: &State, all: &[State], said: &Said) -> Given {
    let images =
        state.images.iter().cloned().map(|row| Restored::Image(ImageRow { epoch: 9, ..row }));
    let contents = all.iter().flat_map(|state| &state.contents);
    let contents = contents.map(|id| Restored::Content(ContentId::parse(id).unwrap()));
    let blocked = all.iter().flat_map(|state| &state.blocked).map(|(kind, value)| {
        let (kind, value) = (kind.clone(), value.clone());
        Restored::Blocked(BlockedRow { kind, value, reason: None, epoch: 9 })
    });
    let other = EmbeddingRow {
        content_id: content(0).hex(),
        channel: "semantic".into(),
        encoder: "another@1".into(),
        dim: 1,
        vector: vec![1, 0],
        epoch: 0,
    };
    let mut memo: Vec<EmbeddingRow> = (said.rows.iter())
        .filter(|(time, _)| (*time as usize) < all.len())
        .map(|(_, row)| row.clone())
        .collect();
    memo.push(other);
    let restored = images.chain(contents).chain(blocked).collect();
    Given { restored, memo, ..Given::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_epoch_equals_the_model(ops in ops(60)) {
        let epochs = history(&ops);
        let expected = model(&epochs);
        for workers in [1, 2, 4] {
            let (encoders, counting) = counting();
            let said = run(workers, &epochs, &encoders);
            let states = states(&said, epochs.len());
            for (epoch, (state, expected)) in states.iter().zip(&expected).enumerate() {
                prop_assert_eq!(state, expected, "epoch {}, {} workers", epoch, workers);
            }
            check_only_changes(&said, &states);
            check_versions(&said, &states);
            check_memo(&said.rows, &counting);
        }
    }

    /// I2: where each id stays in one partition, epoch cuts make no difference in the end.
    #[test]
    fn cuts_do_not_matter(ops in ops(40), cuts in proptest::collection::vec(any::<bool>(), 40)) {
        let stay = |op: &Op| match op.clone() {
            Op::Live { image, content, caption, source, time, .. } => {
                Some(Op::Live { image, content, caption, source, time, partition: image % 3 })
            }
            Op::Gone { image, time, .. } => Some(Op::Gone { image, time, partition: image % 3 }),
            // What is blocked later is told later; a replay is not a message of its own.
            Op::Block { .. } | Op::Replay(_) | Op::Cut => None,
        };
        let blocks = [Op::Block { kind: 1, value: 1 }, Op::Block { kind: 2, value: 2 }];
        let whole: Vec<Op> = blocks.iter().cloned().chain(ops.iter().filter_map(stay)).collect();
        let cut: Vec<Op> = (whole.iter().enumerate())
            .flat_map(|(i, op)| [Some(op.clone()), cuts[i % cuts.len()].then_some(Op::Cut)])
            .flatten()
            .collect();
        let ends = [whole, cut].map(|ops| {
            // Offsets are positions in the history: give both the same.
            let mut epochs = history(&ops);
            let arrivals = epochs.iter_mut().flat_map(|epoch| &mut epoch.arrivals);
            for (offset, arrival) in arrivals.enumerate() {
                arrival.position.offset = offset as i64;
            }
            let (encoders, _) = counting();
            let states = states(&run(2, &epochs, &encoders), epochs.len());
            let mut rejects: Vec<RejectRow> =
                states.iter().flat_map(|state| state.rejects.clone()).collect();
            rejects.sort();
            let last = states.last().unwrap().clone();
            (last.images, last.mined, rejects)
        });
        prop_assert_eq!(&ends[0], &ends[1]);
    }

    /// Stopped after any epoch and started from the tables, it goes on as if it never stopped, and
    /// nothing that is in the memo is computed again.
    #[test]
    fn a_restart_makes_no_difference(ops in ops(60), at in any::<prop::sample::Index>(), apart in any::<bool>()) {
        let epochs = history(&ops);
        let stop = at.index(epochs.len());
        let (encoders, first) = counting();
        let said = run(2, &epochs, &encoders);
        let expected = states(&said, epochs.len());
        let mut rest = epochs[stop + 1..].to_vec();
        let restored = restore(&expected[stop], &expected[..=stop], &said);
        if apart || rest.is_empty() {
            rest.insert(0, restored);
        } else {
            rest[0].restored = restored.restored;
            rest[0].memo = restored.memo;
        }
        let (encoders, second) = counting();
        let again = run(4, &rest, &encoders);
        let states = states(&again, rest.len());
        check_versions(&again, &states);
        check_memo(&again.rows, &second);
        let offset = epochs.len() - rest.len();
        for (epoch, state) in states.iter().enumerate() {
            if offset + epoch == stop {
                prop_assert_eq!(&state.images, &expected[stop].images);
                prop_assert_eq!(&state.mined, &expected[stop].mined);
                prop_assert!(state.contents.is_empty() && state.blocked.is_empty());
            } else {
                prop_assert_eq!(state, &expected[offset + epoch], "epoch {}", epoch);
            }
        }
        let (first, second) = (first.0.lock().unwrap(), second.0.lock().unwrap());
        prop_assert!(second.keys().all(|key| first.contains_key(key)));
        for (_, row) in &again.rows {
            let key = (row.channel.clone(), row.content_id.clone());
            let known = said.rows.iter().any(|(time, row)| {
                *time as usize <= stop && (row.channel.clone(), row.content_id.clone()) == key
            });
            prop_assert!(!known, "{:?} was in the memo", key);
        }
    }
}

#[test]
fn given_vectors_are_stored_and_none_is_remembered() {
    let arrival = |id: &str, offset, number, caption: &str, given: [Option<[i16; 2]>; 3]| {
        let picture = Picture {
            given: given.map(|vector| vector.map(|v| Arc::from(&v[..]))),
            ..picture(number, Some(caption))
        };
        let description = Description { caption: Some(caption.into()), ..Description::default() };
        Arrival {
            image_id: id.into(),
            position: Position { topic: "t".into(), partition: 0, offset, timestamp_us: 0 },
            outcome: Outcome::Live(Arc::new(picture), Arc::new(description)),
            reading: Reading::First,
        }
    };
    let epoch = |arrivals| Given { arrivals, ..Given::default() };
    let epochs = [
        epoch(vec![arrival("a", 0, 1, "x", [Some([1, 2]), None, Some([3, 4])])]),
        // Another caption for the same content, and a content without vectors.
        epoch(vec![
            arrival("a", 1, 1, "y", [Some([1, 2]), None, Some([5, 6])]),
            arrival("b", 2, 2, "z", [None, None, None]),
        ]),
        // Too late: the memo says that there is none.
        epoch(vec![arrival("b", 3, 2, "x", [Some([7, 8]), None, Some([9, 9])])]),
    ];
    let encoders = Encoders { given: [Some(2), None, Some(2)], ..Encoders::default() };
    assert_eq!(encoders.id(Channel::Semantic).as_deref(), Some("given@2"));
    for workers in [1, 2, 4] {
        let said = run(workers, &epochs, &encoders);
        let versions = versions(&said, epochs.len());
        let of = |epoch: usize, id: &str| {
            let [semantic, pattern, caption] = versions[epoch][id].vectors.clone();
            assert_eq!(pattern, None);
            (semantic.map(|v| v.to_vec()), caption.map(|v| v.to_vec()))
        };
        assert_eq!(of(0, "a"), (Some(vec![1, 2]), Some(vec![3, 4])));
        assert_eq!(of(1, "a"), (Some(vec![1, 2]), Some(vec![5, 6])));
        assert_eq!(of(1, "b"), (None, None));
        assert_eq!(of(2, "b"), (None, Some(vec![3, 4])));
        let mut rows: Vec<(String, Option<Vec<i16>>)> = (said.rows.iter())
            .map(|(_, row)| (row.channel.clone(), from_le_bytes(&row.vector).map(|v| v.to_vec())))
            .collect();
        rows.sort();
        let expected = [
            ("caption", None),
            ("caption", Some(vec![3, 4])),
            ("caption", Some(vec![5, 6])),
            ("semantic", None),
            ("semantic", Some(vec![1, 2])),
        ];
        assert_eq!(rows, expected.map(|(channel, vector)| (channel.to_owned(), vector)));
    }
}

#[test]
#[should_panic(expected = "I8")]
fn a_mined_content_without_memo_and_picture_is_a_broken_invariant() {
    let row = ImageRow {
        image_id: "a".into(),
        content_id: content(1).hex(),
        source: None,
        uri: None,
        caption: None,
        licence: None,
        attributes: None,
        topic: "t".into(),
        partition: 0,
        offset: 0,
        ingested_at: 0,
        epoch: 1,
        since: None,
    };
    let restored = vec![Restored::Content(content(1)), Restored::Image(row)];
    let (encoders, _) = counting();
    timely::execute_directly(move |worker| {
        worker.dataflow::<Epoch, _, _>(|scope| {
            use timely::dataflow::operators::ToStream;
            let arrivals = Vec::<Arrival>::new().to_stream(scope);
            let blocks = Vec::<BlockedRow>::new().to_stream(scope);
            let out = register(arrivals, blocks, restored.to_stream(scope), Arc::default());
            let memo = Vec::<KnownVector>::new().to_stream(scope);
            embed(out.mined, out.pictures, memo, Arc::new(encoders), Pool::new(1));
        });
    });
}
