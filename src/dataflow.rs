//! The whole pipeline, one line per box.
//!
//! ```text
//! Kafka ─► ingest ─► decode ─► screen ─► benchmarks ─► register ─► captions ─► embed ─► neighbors ─► pairs ─► annotate
//!             │         │         │           │            │           ▲                    answers, epochs later ┆
//!             │         └─────────┴───────────┴────────────┴► rejects  └┄┄┄┄┄┄┄┄ admit ◄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┘
//!             │                                                  ▲                 │
//!             │                                                  └─── filter ◄─────┘
//!             │                                                          └─► triplets
//!             └─ next offsets of the epoch ───────────────────────► publish ◄── every table
//! ```
//!
//! Streams in, streams out: no broker, no store and no clock. The service puts a source in front
//! and the tables behind; a test puts an input handle in front and a capture behind. Answers are an
//! *input*: the annotator works outside, on pairs of committed epochs, and what it says enters with
//! a later epoch.

use std::sync::Arc;

use differential_dataflow::AsCollection;
use operators::{
    benchmarks::Benchmarks,
    captions::WithCaptions,
    decode::DecodeOptions,
    embed::{Encoders, KnownVector},
    flow::{self, Answer, Answered, Captioned, CaptionerId, ModelId},
    neighbors::{Counters, Mining, State, VectorBook},
    offload::Pool,
    publish::{Change, added, recorded},
    register::Restored,
    triplets::{self, TripletOptions},
};
use schemas::{
    Epoch, config,
    message::Record,
    tables::{BlockedRow, WITHDRAWN},
};
use timely::dataflow::{
    StreamVec,
    operators::{
        Concat, Concatenate,
        vec::{Filter, Map},
    },
};

/// What enters: one stream per kind, all under the same epochs.
pub struct Inputs<'s> {
    /// Messages as the source has them.
    pub records: StreamVec<'s, Epoch, Record>,
    /// Outcomes of requests.
    pub answers: StreamVec<'s, Epoch, Answered>,
    /// What to block from now on.
    pub blocks: StreamVec<'s, Epoch, BlockedRow>,
    /// Live images and known contents, at start.
    pub restored: StreamVec<'s, Epoch, Restored>,
    /// Vectors from the memo, at start.
    pub vectors: StreamVec<'s, Epoch, KnownVector>,
    /// Next offsets, and a mark that the epoch exists.
    pub offsets: StreamVec<'s, Epoch, Change>,
}

/// Everything that shapes the graph's results, and what its workers share.
#[derive(Clone)]
pub struct Settings {
    /// How bytes become pixels.
    pub decode: Arc<DecodeOptions>,
    /// Rules on single images.
    pub screen: Arc<config::Screen>,
    /// Evaluation sets that are kept out.
    pub benchmarks: Arc<Benchmarks>,
    /// What gives vectors.
    pub encoders: Arc<Encoders>,
    /// Rules 2 to 6.
    pub mining: Arc<Mining>,
    /// Rules on instructions.
    pub filter: Arc<config::Filter>,
    /// Which answers count and which rows stay.
    pub triplets: Arc<TripletOptions>,
    /// Whose answers are asked for now.
    pub model: Arc<ModelId>,
    /// Whose captions stand in for those that images do not have.
    pub captioner: Option<CaptionerId>,
    /// Vectors by row, for every worker of the process.
    pub book: Arc<VectorBook>,
    /// What the boxes count.
    pub counters: Arc<Counters>,
    /// The lists of an earlier process, and where this one's go.
    pub state: Arc<State>,
    /// Threads for slow work.
    pub pool: Arc<Pool>,
}

/// Builds the graph and returns every change to every table.
pub fn build<'s>(
    inputs: Inputs<'s>,
    with: &Settings,
) -> StreamVec<'s, Epoch, (Change, Epoch, isize)> {
    let Inputs { records, answers, blocks, restored, vectors, offsets } = inputs;

    let (arrivals, undecodable) = operators::decode(records, with.decode.clone());
    let (arrivals, unfit) = operators::screen(arrivals, with.screen.clone());
    let (arrivals, known) = operators::benchmarks(
        arrivals,
        blocks.clone(),
        with.benchmarks.clone(),
        with.encoders.clone(),
        with.pool.clone(),
    );
    let register = operators::register(arrivals, blocks, restored, with.benchmarks.clone());

    let stored = answers.clone().flat_map(|answer| match answer {
        Answered::Known(answer) => Some((answer, false)),
        _ => None,
    });
    let captioned = answers.clone().flat_map(|answer| match answer {
        Answered::Captioned(captioned) => Some(captioned),
        _ => None,
    });
    let new_answers = answers.flat_map(|answer| match answer {
        Answered::New(row) => Some(row),
        _ => None,
    });
    let registered = register.mined.as_collection();
    let new_answers = operators::admit(new_answers, registered.clone());
    let WithCaptions { mined, settled, requests: captions } = match with.captioner.clone() {
        None => WithCaptions::none(registered),
        Some(captioner) => {
            let of = captioner.clone();
            let new = new_answers.clone().flat_map(move |row| Captioned::of(&row, &of));
            let captioned = recorded(captioned.concat(new)).as_collection();
            operators::captions(registered, captioned, &captioner)
        }
    };

    let (versions, embeddings) = operators::embed(
        mined.inner.clone(),
        register.pictures,
        vectors,
        with.encoders.clone(),
        with.pool.clone(),
    );
    let lists = operators::neighbors(
        versions.clone(),
        with.mining.clone(),
        with.book.clone(),
        with.counters.clone(),
        with.state.clone(),
    );

    let admitted =
        new_answers.clone().filter(|row| row.outcome != WITHDRAWN && row.task == flow::TASK);
    let memo = stored.concat(admitted.map(|row| (Arc::new(Answer::from(&*row)), true)));
    let answered = memo.clone().map(|(answer, _)| answer.request_id.clone());
    let answered = recorded(answered).as_collection();
    let (accepted, unusable) = operators::filter(memo, &with.filter);
    let chosen = triplets::watched(accepted, mined.clone(), &with.triplets);
    let watched = chosen.clone().map(|(pair, _)| pair);
    let pairs = operators::pairs(
        lists,
        versions,
        watched.inner,
        with.mining.clone(),
        with.book.clone(),
        with.counters.clone(),
    );
    let pairs = pairs.as_collection();
    let triplets = operators::triplets(chosen, pairs.clone(), &with.triplets);
    let requests = operators::annotate(pairs.clone(), settled, answered, &with.model);

    let scope = offsets.scope();
    scope.concatenate([
        added(offsets, |change| change),
        added(register.contents, Change::Content),
        added(embeddings, Change::Embedding),
        added(new_answers, |row| Change::Annotation(*row)),
        added(register.blocked, Change::Blocked),
        added(undecodable, Change::Reject),
        added(unfit, Change::Reject),
        added(known, Change::Reject),
        added(register.rejects, Change::Reject),
        added(unusable, Change::Reject),
        register.images.map(|(row, epoch, diff)| (Change::Image(row), epoch, diff)),
        pairs.inner.map(|(row, epoch, diff)| (Change::Pair(row), epoch, diff)),
        triplets.inner.map(|(row, epoch, diff)| (Change::Triplet(row), epoch, diff)),
        captions
            .concat(requests)
            .inner
            .map(|(row, epoch, diff)| (Change::Request(row), epoch, diff)),
    ])
}
