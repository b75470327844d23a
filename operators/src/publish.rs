//! Publish, the half inside the dataflow: everything that an epoch changes, gathered on one worker
//! and handed over when the epoch is closed. Writing it to tables is `src`'s.
//!
//! ```text
//! every table's changes ─► exchange to worker 0 ─► stash by record time ─► closed epochs, in order
//! ```

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    Epoch,
    tables::{AnnotationRow, BlockedRow, ContentRow, EmbeddingRow, ImageRow, RejectRow},
};
use serde::{Deserialize, Serialize};
use timely::dataflow::{
    StreamVec,
    channels::pact::{Exchange, Pipeline},
    operators::{Capability, generic::Operator, vec::Map},
};

use crate::{
    flow::{Pair, Request},
    triplets::Triplet,
};

/// One row that an epoch adds to, or takes from, a table or a work list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    /// Next offset of a partition. Every epoch has at least a [`Change::Closed`].
    Offset(std::sync::Arc<str>, i32, i64),
    /// The epoch exists, whatever else it holds.
    Closed,
    /// `images`.
    Image(ImageRow),
    /// `contents`.
    Content(ContentRow),
    /// `embeddings`.
    Embedding(EmbeddingRow),
    /// `annotations`.
    Annotation(AnnotationRow),
    /// `blocked`.
    Blocked(BlockedRow),
    /// `pairs`, and pairs that are only watched.
    Pair(Pair),
    /// `triplets`.
    Triplet(Triplet),
    /// `rejects`.
    Reject(RejectRow),
    /// A message was read again: what `rejects` says of it is no longer so.
    ReadAgain(std::sync::Arc<str>, i32, i64),
    /// The annotator's work.
    Request(Request),
}

/// All that one epoch changes. Rows' own epochs are still 0.
#[derive(Clone, Debug, Default)]
pub struct EpochChanges {
    /// The epoch.
    pub epoch: Epoch,
    /// Next offsets of the partitions that it read.
    pub offsets: BTreeMap<(std::sync::Arc<str>, i32), i64>,
    /// Steps of `images`.
    pub images: Vec<(ImageRow, isize)>,
    /// New contents.
    pub contents: Vec<ContentRow>,
    /// New vectors.
    pub embeddings: Vec<EmbeddingRow>,
    /// New answers.
    pub annotations: Vec<AnnotationRow>,
    /// New blocks.
    pub blocked: Vec<BlockedRow>,
    /// Steps of `pairs`.
    pub pairs: Vec<(Pair, isize)>,
    /// Steps of `triplets`.
    pub triplets: Vec<(Triplet, isize)>,
    /// New rejects.
    pub rejects: Vec<RejectRow>,
    /// Messages whose earlier rejects leave: topic, partition, offset.
    pub read_again: BTreeSet<(String, i32, i64)>,
    /// Steps of the annotator's work list.
    pub requests: Vec<(Request, isize)>,
}

impl EpochChanges {
    fn push(&mut self, change: Change, diff: isize) {
        match change {
            Change::Closed => {}
            Change::Offset(topic, partition, next) => {
                self.offsets.insert((topic, partition), next);
            }
            Change::Image(row) => self.images.push((row, diff)),
            Change::Content(row) => self.contents.push(row),
            Change::Embedding(row) => self.embeddings.push(row),
            Change::Annotation(row) => self.annotations.push(row),
            Change::Blocked(row) => self.blocked.push(row),
            Change::Pair(row) => self.pairs.push((row, diff)),
            Change::Triplet(row) => self.triplets.push((row, diff)),
            Change::Reject(row) => self.rejects.push(row),
            Change::ReadAgain(topic, partition, offset) => {
                self.read_again.insert((topic.to_string(), partition, offset));
            }
            Change::Request(row) => self.requests.push((row, diff)),
        }
    }
}

/// The changes of a stream that only ever adds rows.
pub fn added<'s, D: Clone + 'static>(
    stream: StreamVec<'s, Epoch, D>,
    change: impl Fn(D) -> Change + 'static,
) -> StreamVec<'s, Epoch, (Change, Epoch, isize)> {
    recorded(stream).map(move |(row, epoch, diff)| (change(row), epoch, diff))
}

/// Puts the epoch of a message into its rows, as differential rows have it.
pub fn recorded<'s, D: Clone + 'static>(
    stream: StreamVec<'s, Epoch, D>,
) -> StreamVec<'s, Epoch, (D, Epoch, isize)> {
    stream.unary(Pipeline, "Recorded", |_, _| {
        |input, output| {
            input.for_each_stamp(|cap, data| {
                let Some(&epoch) = cap.least() else { return };
                let Some(held) = cap.retain_least(output.output_index()) else { return };
                let mut session = output.session(&held);
                for container in data {
                    for row in container.drain(..) {
                        session.give((row, epoch, 1));
                    }
                }
            });
        }
    })
}

/// Gathers changes by the epoch in the record (after a differential operator it may differ from
/// the message's stamp) and calls `deliver` once per closed epoch, in order, on worker 0. The
/// stream that returns is empty: its frontier tells what has been delivered.
pub fn publish<'s>(
    changes: StreamVec<'s, Epoch, (Change, Epoch, isize)>,
    mut deliver: impl FnMut(EpochChanges) + 'static,
) -> StreamVec<'s, Epoch, ()> {
    let to_one = Exchange::new(|_: &(Change, Epoch, isize)| 0);
    changes.unary_frontier::<timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _>(
        to_one,
        "Publish",
        move |_, _| {
            let mut open: BTreeMap<Epoch, (Capability<Epoch>, EpochChanges)> = BTreeMap::new();
            move |(input, frontier), output| {
                input.for_each_stamp(|cap, data| {
                    let Some(held) = cap.retain_least(output.output_index()) else { return };
                    for container in data {
                        for (change, epoch, diff) in container.drain(..) {
                            let entry = open.entry(epoch).or_insert_with(|| {
                                let changes = EpochChanges { epoch, ..Default::default() };
                                (held.delayed(&epoch), changes)
                            });
                            entry.1.push(change, diff);
                        }
                    }
                });
                while let Some(first) = open.first_entry() {
                    if frontier.less_equal(first.key()) {
                        break;
                    }
                    let (_, changes) = first.remove();
                    deliver(changes);
                }
            }
        },
    )
}
