//! For each mined image and channel the exact nearest in the channel's bands, kept up to date.
//!
//! ```text
//!  versions ─ broadcast ─► scan ─ offers ─► merge ─ short lists ─► rescan ─ offers ─► close ─► lists
//!                            ▲                                                          │
//!                            └───────────────── the epoch is closed ────────────────────┘
//! ```
//!
//! An image's id decides which worker owns its vectors and its lists. In each epoch what leaves
//! leaves first. Then every shard scans all new vectors against its rows once: a score updates the
//! row's list in place and becomes an offer to the owner of the new vector. Lists that deletes left
//! short, of which more may live than they know, are gathered again from all shards. Nothing of an
//! epoch is applied before the lists of the one before are closed, so each answer is about one set
//! of live images, and the result does not depend on how many workers there are or how they run.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
};

use kernels::vector::Band;
use schemas::{Epoch, limits};
use serde::{Deserialize, Serialize};
use timely::{
    communication::Pull,
    dataflow::{
        StreamVec,
        channels::{
            Message,
            pact::{Exchange, Pipeline},
        },
        operators::{
            Capability,
            generic::{InputHandleCore, Operator},
            vec::Broadcast,
        },
    },
    scheduling::Activator,
};

use crate::flow::{RowId, VersionChange};

mod book;
mod checkpoint;
mod kept;
mod matrix;
mod shard;

pub use book::VectorBook;
pub use checkpoint::{Remembered, State};
use shard::{Offer, Rescan, Scan, Shard};

/// Rules 3 to 6 in numbers. Arrays are by [`schemas::Channel::index`].
#[derive(Clone, Debug)]
pub struct Mining {
    /// Bands of a channel, ascending, without overlap; a channel without any proposes nothing and
    /// calls nothing a near-duplicate.
    pub bands: [Vec<Band>; 3],
    /// Neighbours per band, at least 1.
    pub neighbors: [usize; 3],
    /// Entries that a list keeps past them, so that a delete seldom needs a new scan. They make no
    /// difference to what is mined.
    pub slack: usize,
    /// Rule 5.
    pub targets_per_query: usize,
    /// Rule 6.
    pub hard_negatives: usize,
}

impl Default for Mining {
    fn default() -> Self {
        Mining {
            bands: Default::default(),
            neighbors: [limits::NEIGHBORS; 3],
            slack: limits::NEIGHBORS_SLACK,
            targets_per_query: limits::TARGETS_PER_QUERY,
            hard_negatives: limits::HARD_NEGATIVES,
        }
    }
}

impl Mining {
    /// The score from which two images are near-duplicates in a channel.
    pub fn near_duplicate(&self, channel: usize) -> Option<i32> {
        self.bands[channel].last().map(|band| band.hi)
    }
}

/// What mining cost so far, over all workers of the process.
pub struct Counters {
    /// New vectors times rows they were compared with.
    pub dot_products: AtomicU64,
    /// The same for lists that were gathered again.
    pub rescan_dot_products: AtomicU64,
    /// Lists that were gathered again.
    pub rescans: AtomicU64,
    /// Scores that the pairs box worked out: near-duplicates, guards, and scores of targets.
    pub guard_checks: AtomicU64,
    /// Images whose lists came from a checkpoint at the start.
    pub remembered: AtomicU64,
    /// Images that each worker owns.
    pub rows: Box<[AtomicU64]>,
}

impl Counters {
    /// All zero, for so many workers.
    pub fn new(workers: usize) -> Counters {
        Counters {
            dot_products: AtomicU64::new(0),
            rescan_dot_products: AtomicU64::new(0),
            rescans: AtomicU64::new(0),
            guard_checks: AtomicU64::new(0),
            remembered: AtomicU64::new(0),
            rows: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

/// A neighbour in N_c of some image (rule 3).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Neighbor {
    /// Which version.
    pub row: RowId,
    /// From 1, within its band.
    pub rank: i32,
}

/// N_c of one image at the end of an epoch that changed it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lists {
    /// The query.
    pub image_id: Arc<str>,
    /// Its version; the one that left, if it did.
    pub row: RowId,
    /// By channel, bands ascending and ranks ascending within; `None` when the query left.
    pub channels: Option<[Vec<Neighbor>; 3]>,
}

/// Something for one worker. Without a body it only says that the sender is at this epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Parcel<T> {
    to: u64,
    body: Option<T>,
}

fn parcels<T: 'static>() -> Exchange<Parcel<T>, impl FnMut(&Parcel<T>) -> u64> {
    Exchange::new(|parcel: &Parcel<T>| parcel.to)
}

/// Records of epochs that are not closed yet, each with the capability to answer.
pub(crate) struct Stash<T>(BTreeMap<Epoch, (Capability<Epoch>, Vec<T>)>);

impl<T: 'static> Stash<T> {
    pub(crate) fn new() -> Stash<T> {
        Stash(BTreeMap::new())
    }

    fn take_in<P>(&mut self, input: &mut InputHandleCore<Epoch, Vec<T>, P>)
    where
        P: Pull<Message<Epoch, Vec<T>>>,
    {
        input.for_each_stamp(|cap, data| {
            let Some(cap) = cap.retain_least(0) else { return };
            let records = data.flat_map(|records| records.drain(..));
            self.0.entry(*cap.time()).or_insert_with(|| (cap, Vec::new())).1.extend(records);
        });
    }

    /// Records of `epoch`, which is not before the time of `cap`.
    pub(crate) fn put(&mut self, cap: &Capability<Epoch>, epoch: Epoch, record: T) {
        self.0.entry(epoch).or_insert_with(|| (cap.delayed(&epoch), Vec::new())).1.push(record);
    }

    /// The oldest epoch that has records.
    fn first(&self) -> Option<Epoch> {
        self.0.keys().next().copied()
    }

    /// The oldest epoch, if nothing more can come for it.
    pub(crate) fn closed(&mut self, frontier: &[Epoch]) -> Option<(Capability<Epoch>, Vec<T>)> {
        let entry = self.0.first_entry()?;
        let closed = frontier.first().is_none_or(|open| entry.key() < open);
        closed.then(|| entry.remove())
    }
}

/// The box. `versions` may enter at any worker; lists leave at the worker that owns the query.
pub fn neighbors<'s>(
    versions: StreamVec<'s, Epoch, VersionChange>,
    mining: Arc<Mining>,
    book: Arc<VectorBook>,
    counters: Arc<Counters>,
    state: Arc<State>,
) -> StreamVec<'s, Epoch, Lists> {
    let scope = versions.scope();
    let (index, peers) = (scope.index(), scope.peers());
    assert!(index < counters.rows.len(), "counters for fewer workers than there are");
    let shard = Shard::new(index, peers, mining, book, counters, state);
    let shard = Rc::new(RefCell::new(shard));
    // The first operator sleeps while an epoch is under way; the last one wakes it.
    let scanner = Rc::new(RefCell::new(None));
    let offers = scan(versions.broadcast(), Rc::clone(&shard), Rc::clone(&scanner), index);
    let requests = merge(offers, Rc::clone(&shard), index, peers);
    let answers = rescan(requests, Rc::clone(&shard));
    close(answers, shard, scanner)
}

fn scan<'s>(
    versions: StreamVec<'s, Epoch, VersionChange>,
    shard: Rc<RefCell<Shard>>,
    scanner: Rc<RefCell<Option<Activator>>>,
    index: usize,
) -> StreamVec<'s, Epoch, Parcel<Offer>> {
    let scope = versions.scope();
    versions.unary_frontier(Pipeline, "NeighborsScan", move |_, info| {
        let again = scope.activator_for(Rc::clone(&info.address));
        *scanner.borrow_mut() = Some(scope.activator_for(info.address));
        let mut stash = Stash::new();
        let mut under_way: Option<(Capability<Epoch>, Scan)> = None;
        move |(input, frontier), output| {
            stash.take_in(input);
            let mut shard = shard.borrow_mut();
            if under_way.is_none() && shard.open.is_none() {
                under_way = stash.closed(&frontier.frontier()).map(|(cap, changes)| {
                    let work = shard.begin(*cap.time(), changes);
                    output.session(&cap).give(Parcel { to: index as u64, body: None });
                    (cap, work)
                });
            }
            let Some((cap, work)) = &mut under_way else {
                if let (None, Some(&next)) = (shard.open, frontier.frontier().first()) {
                    shard.hand_over_before(stash.first().map_or(next, |first| first.min(next)));
                }
                return;
            };
            match shard.step(work) {
                Some(offers) => {
                    let parcels = offers.into_iter().map(|(to, o)| Parcel { to, body: Some(o) });
                    output.session(&*cap).give_iterator(parcels);
                    again.activate();
                }
                None => under_way = None,
            }
        }
    })
}

fn merge<'s>(
    offers: StreamVec<'s, Epoch, Parcel<Offer>>,
    shard: Rc<RefCell<Shard>>,
    index: usize,
    peers: usize,
) -> StreamVec<'s, Epoch, Parcel<Rescan>> {
    offers.unary_frontier(parcels(), "NeighborsMerge", move |_, _| {
        let mut stash = Stash::new();
        move |(input, frontier), output| {
            stash.take_in(input);
            while let Some((cap, offers)) = stash.closed(&frontier.frontier()) {
                let mut shard = shard.borrow_mut();
                shard.gather(offers.into_iter().filter_map(|parcel| parcel.body).collect());
                let mut session = output.session(&cap);
                session.give(Parcel { to: index as u64, body: None });
                for request in shard.short() {
                    for to in 0..peers as u64 {
                        session.give(Parcel { to, body: Some(request.clone()) });
                    }
                }
            }
        }
    })
}

fn rescan<'s>(
    requests: StreamVec<'s, Epoch, Parcel<Rescan>>,
    shard: Rc<RefCell<Shard>>,
) -> StreamVec<'s, Epoch, Parcel<Offer>> {
    requests.unary_frontier(parcels(), "NeighborsRescan", move |_, _| {
        let mut stash = Stash::new();
        move |(input, frontier), output| {
            stash.take_in(input);
            while let Some((cap, parcels)) = stash.closed(&frontier.frontier()) {
                let mut session = output.session(&cap);
                let mut requests = Vec::new();
                for Parcel { to, body } in parcels {
                    match body {
                        Some(request) => requests.push(request),
                        None => session.give(Parcel { to, body: None }),
                    }
                }
                let offers = shard.borrow_mut().answer(&requests);
                session.give_iterator(
                    offers.into_iter().map(|(to, offer)| Parcel { to, body: Some(offer) }),
                );
            }
        }
    })
}

fn close<'s>(
    answers: StreamVec<'s, Epoch, Parcel<Offer>>,
    shard: Rc<RefCell<Shard>>,
    scanner: Rc<RefCell<Option<Activator>>>,
) -> StreamVec<'s, Epoch, Lists> {
    answers.unary_frontier(parcels(), "NeighborsClose", move |_, _| {
        let (mut stash, mut ended) = (Stash::new(), false);
        move |(input, frontier), output| {
            stash.take_in(input);
            while let Some((cap, offers)) = stash.closed(&frontier.frontier()) {
                let mut shard = shard.borrow_mut();
                assert_eq!(shard.open, Some(*cap.time()), "epochs close in the order they opened");
                shard.gather(offers.into_iter().filter_map(|parcel| parcel.body).collect());
                output.session(&cap).give_iterator(shard.close().into_iter());
                if let Some(scanner) = &*scanner.borrow() {
                    scanner.activate();
                }
            }
            if frontier.is_empty() && !ended {
                ended = true;
                shard.borrow_mut().end();
            }
        }
    })
}
