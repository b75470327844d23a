//! One worker's share of the images: their vectors, their lists, and how both change in an epoch.

use std::{
    cell::RefCell,
    cmp::Ordering,
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use kernels::{
    search::{Floors, NEVER, Queries, Sides, search},
    vector::Band,
};
use schemas::{
    Epoch,
    checkpoint::{self, Header, Image, List, Part},
    shard_of,
};
use serde::{Deserialize, Serialize};

use super::{
    Counters, Lists, Mining, Neighbor, State, VectorBook,
    kept::{Candidate, Gone, Inserted, Kept, Names},
    matrix::Matrix,
};
use crate::{
    flow::{RowId, Version, VersionChange},
    quick::QuickMap,
};

/// Queries of one call of [`search`], a multiple of its largest tile. A row's codes are read once
/// for so many; more gain little and keep the worker from other things for longer.
const BATCH: usize = 252;

/// What one shard found for a list of another: a prefix of its own share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    row: RowId,
    channel: usize,
    band: usize,
    kept: Kept,
}

/// A version whose lists ran short, with the bands that did, by channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rescan {
    version: Arc<Version>,
    wanted: [Vec<usize>; 3],
}

/// The new versions of an epoch, scanned a batch at a time so that a worker also gets to do other
/// things.
pub(super) struct Scan {
    fresh: Vec<Arc<Version>>,
    channel: usize,
    next: usize,
}

/// See the module.
pub(super) struct Shard {
    index: usize,
    peers: usize,
    mining: Arc<Mining>,
    roll: Roll,
    counters: Arc<Counters>,
    state: Arc<State>,
    /// The newest epoch that was opened, and whether lists have changed since a checkpoint.
    begun: Option<Epoch>,
    changed_since: bool,
    /// The newest epoch for which a checkpoint was handed over.
    handed_over: Option<Epoch>,
    /// The vectors of a channel.
    matrices: [Option<Matrix>; 3],
    /// The images, at places that stay theirs while they live.
    locals: Vec<Option<Local>>,
    vacant: Vec<u32>,
    places: HashMap<RowId, u32>,
    /// The epoch under way, and what closing it takes.
    pub(super) open: Option<Epoch>,
    left: Vec<(Arc<str>, RowId)>,
    entered: HashSet<Arc<str>>,
    changed: Vec<u32>,
    shortened: Vec<u32>,
    /// Lists that are being gathered from all shards: place, channel, band.
    gathered: Vec<(u32, usize, usize)>,
}

/// Names that one epoch's ties asked for and that are kept until it closes: where all images are
/// equal, the same few decide every tie.
const NAMES_MAX: usize = 4_096;

/// What images are called that lists name.
struct Roll {
    book: Arc<VectorBook>,
    /// Those of the open epoch: their owners may not have got to it yet.
    entering: QuickMap<RowId, Arc<str>>,
    /// Some that were asked for, since the book is shared and has locks.
    asked: RefCell<QuickMap<RowId, Arc<str>>>,
}

impl Roll {
    fn with<T>(&self, row: RowId, take: impl FnOnce(&Arc<str>) -> T) -> T {
        if let Some(name) = self.entering.get(&row) {
            return take(name);
        }
        let mut asked = self.asked.borrow_mut();
        if let Some(name) = asked.get(&row) {
            return take(name);
        }
        let version = self.book.version(row).expect("a list names what is live");
        if asked.len() < NAMES_MAX {
            asked.insert(row, Arc::clone(&version.image_id));
        }
        take(&version.image_id)
    }
}

impl Names for Roll {
    fn name(&self, row: RowId) -> Arc<str> {
        self.with(row, Arc::clone)
    }

    fn compare(&self, row: RowId, image_id: &str) -> Ordering {
        self.with(row, |name| name.as_bytes().cmp(image_id.as_bytes()))
    }
}

struct Local {
    version: Arc<Version>,
    /// Of its vectors.
    digest: [u8; 16],
    /// Row of each channel's matrix.
    at: [Option<u32>; 3],
    /// By channel and band.
    lists: [Vec<Kept>; 3],
    /// Entered in the open epoch: its lists are gathered, not updated.
    fresh: bool,
    changed: bool,
}

impl Shard {
    pub fn new(
        index: usize,
        peers: usize,
        mining: Arc<Mining>,
        book: Arc<VectorBook>,
        counters: Arc<Counters>,
        state: Arc<State>,
    ) -> Shard {
        Shard {
            index,
            peers,
            mining,
            roll: Roll { book, entering: QuickMap::default(), asked: RefCell::default() },
            counters,
            state,
            begun: None,
            changed_since: false,
            handed_over: None,
            matrices: [None, None, None],
            locals: Vec::new(),
            vacant: Vec::new(),
            places: HashMap::new(),
            open: None,
            left: Vec::new(),
            entered: HashSet::new(),
            changed: Vec::new(),
            shortened: Vec::new(),
            gathered: Vec::new(),
        }
    }

    fn owner(&self, image_id: &str) -> usize {
        (shard_of(image_id) % self.peers as u64) as usize
    }

    /// Opens an epoch: what leaves, leaves shard and lists; what enters, enters the shard.
    pub fn begin(&mut self, epoch: Epoch, changes: Vec<VersionChange>) -> Scan {
        assert!(self.open.is_none(), "an epoch opens when the one before is closed");
        self.hand_over_before(epoch);
        let first = self.begun.is_none();
        (self.open, self.begun, self.changed_since) = (Some(epoch), Some(epoch), true);
        let mut gone = Gone::default();
        let mut fresh = Vec::new();
        for change in changes {
            match change {
                VersionChange::Remove(image_id, row) => {
                    gone.insert(row);
                    if self.owner(&image_id) == self.index {
                        self.leave(epoch, image_id, row);
                    }
                }
                VersionChange::Add(version) => fresh.push(version),
            }
        }
        self.purge(&gone);
        fresh.retain(|version| !gone.contains(&version.row));
        fresh.sort_unstable_by_key(|version| version.row);
        let named = fresh.iter().map(|version| (version.row, Arc::clone(&version.image_id)));
        self.roll.entering = named.collect();
        if first {
            fresh = self.remember(epoch, fresh);
        }
        for version in &fresh {
            if self.owner(&version.image_id) == self.index {
                self.enter(epoch, version, digest(version), None);
            }
        }
        self.counters.rows[self.index].store(self.places.len() as u64, Relaxed);
        Scan { fresh, channel: 0, next: 0 }
    }

    fn leave(&mut self, epoch: Epoch, image_id: Arc<str>, row: RowId) {
        let Some(place) = self.places.remove(&row) else { return };
        let local = self.locals[place as usize].take().expect("a row's place holds its image");
        for (c, at) in local.at.into_iter().enumerate() {
            let (Some(matrix), Some(at)) = (&mut self.matrices[c], at) else { continue };
            let Some(moved) = matrix.remove(at) else { continue };
            let moved = self.locals[moved as usize].as_mut().expect("a live row has an image");
            moved.at[c] = Some(at);
        }
        self.vacant.push(place);
        self.roll.book.remove(epoch, &image_id, row);
        self.left.push((image_id, row));
    }

    fn purge(&mut self, gone: &Gone) {
        if gone.is_empty() {
            return;
        }
        for (place, local) in self.locals.iter_mut().enumerate() {
            let Some(local) = local else { continue };
            let mut shortened = false;
            for (c, lists) in local.lists.iter_mut().enumerate() {
                for kept in lists {
                    let Some(first) = kept.remove(gone) else { continue };
                    shortened = true;
                    if first < self.mining.neighbors[c] && !local.changed {
                        local.changed = true;
                        self.changed.push(place as u32);
                    }
                }
            }
            if shortened {
                self.shortened.push(place as u32);
            }
        }
    }

    /// Versions that a checkpoint knows enter with the lists that it has, less what has left since.
    /// The others are given back: they are new.
    fn remember(&mut self, epoch: Epoch, versions: Vec<Arc<Version>>) -> Vec<Arc<Version>> {
        let Some(remembered) = self.state.start(self.peers) else { return versions };
        let (mut known, mut fresh) = (Vec::new(), Vec::new());
        for version in versions {
            let digest = digest(&version);
            match remembered.image(&version.image_id, &digest) {
                Some((image, part)) => known.push((version, digest, image, part)),
                None => fresh.push(version),
            }
        }
        let rows: HashMap<&str, &Arc<Version>> =
            known.iter().map(|(version, ..)| (&*version.image_id, version)).collect();
        // Each id is looked up once, not once for every list that names it.
        let of_part = |ids: &[String]| ids.iter().map(|id| rows.get(&**id).copied()).collect();
        let parts: Vec<Vec<Option<&Arc<Version>>>> = remembered.ids().map(of_part).collect();
        let mut shortened = Vec::new();
        for (version, digest, image, part) in &known {
            if self.owner(&version.image_id) != self.index {
                continue;
            }
            let mut short = false;
            let lists = std::array::from_fn(|c| {
                let lists = image.lists[c].iter().map(|list| {
                    let live = |(id, score): &(u32, i32)| {
                        let row = parts[*part][*id as usize]?.row;
                        Some(Candidate { row, score: *score })
                    };
                    let entries: Vec<Candidate> = list.entries.iter().filter_map(live).collect();
                    short |= entries.len() < list.entries.len();
                    Kept { entries, complete: list.complete }
                });
                lists.collect()
            });
            let place = self.enter(epoch, version, *digest, Some(lists));
            shortened.extend(short.then_some(place));
            self.counters.rows[self.index].store(self.places.len() as u64, Relaxed);
        }
        self.shortened.extend(shortened);
        self.counters.remembered.fetch_max(known.len() as u64, Relaxed);
        self.changed_since = !fresh.is_empty() || known.len() < remembered.len();
        fresh
    }

    /// An image enters the shard: with its lists, or, if they are to be found, without.
    fn enter(
        &mut self,
        epoch: Epoch,
        version: &Arc<Version>,
        digest: [u8; 16],
        lists: Option<[Vec<Kept>; 3]>,
    ) -> u32 {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.locals.push(None);
            (self.locals.len() - 1) as u32
        });
        let fresh = lists.is_none();
        let mut at = [None; 3];
        for (c, vector) in version.vectors.iter().enumerate() {
            let Some(vector) = vector.as_ref().filter(|_| !self.mining.bands[c].is_empty()) else {
                continue;
            };
            let matrix = self.matrices[c].get_or_insert_with(|| Matrix::new(vector.len()));
            at[c] = Some(matrix.push(vector, place));
            if fresh {
                let bands = 0..self.mining.bands[c].len();
                self.gathered.extend(bands.map(|band| (place, c, band)));
            }
        }
        let lists = lists.unwrap_or_else(|| {
            std::array::from_fn(|c| {
                let bands = if at[c].is_some() { self.mining.bands[c].len() } else { 0 };
                vec![Kept::empty(); bands]
            })
        });
        let version = Arc::clone(version);
        self.places.insert(version.row, place);
        self.changed.push(place);
        self.entered.insert(Arc::clone(&version.image_id));
        self.roll.book.add(epoch, &version);
        let local = Local { version, digest, at, lists, fresh, changed: true };
        self.locals[place as usize] = Some(local);
        if !fresh {
            (0..3).for_each(|c| self.refloor(place, c));
        }
        place
    }

    /// Says in the matrix from which score on a list of the image can change. To be called whenever
    /// that may have become lower; a floor that is too low only costs time.
    fn refloor(&mut self, place: u32, channel: usize) {
        let local = self.locals[place as usize].as_ref().expect("a live image");
        let (Some(matrix), Some(at)) = (&mut self.matrices[channel], local.at[channel]) else {
            return;
        };
        let lists = local.lists[channel].iter().map(Some);
        matrix.rows.set_floor(at as usize, floor(lists, &self.mining.bands[channel]));
    }

    /// No epoch before `next` changes lists any more: those that a checkpoint is wanted of have
    /// the lists that are here. Every shard hands over the same ones, sooner or later.
    pub fn hand_over_before(&mut self, next: Epoch) {
        let Some(begun) = self.begun else { return };
        loop {
            let from = self.handed_over.map_or(begun, |epoch| begun.max(epoch + 1));
            let wanted = if from < next { self.state.wanted(from, next) } else { None };
            let Some((epoch, id)) = wanted else { return };
            self.handed_over = Some(epoch);
            self.hand_over(epoch, id);
        }
    }

    /// Hands the lists over as they are, which is how they were when `epoch` was closed.
    fn hand_over(&mut self, epoch: Epoch, id: String) {
        self.changed_since = false;
        let (mut ids, mut numbers) = (Vec::new(), QuickMap::default());
        let mut of_row = |row: RowId| {
            *numbers.entry(row).or_insert_with(|| {
                ids.push(self.roll.name(row).to_string());
                (ids.len() - 1) as u32
            })
        };
        let mut images = Vec::with_capacity(self.places.len());
        for local in self.locals.iter().flatten() {
            let lists = std::array::from_fn(|c| {
                let lists = local.lists[c].iter().map(|kept| List {
                    complete: kept.complete,
                    entries: kept.entries.iter().map(|e| (of_row(e.row), e.score)).collect(),
                });
                lists.collect()
            });
            let id = of_row(local.version.row);
            images.push(Image { id, vectors: local.digest, lists });
        }
        let (part, parts) = (self.index as u32, self.peers as u32);
        let header = Header { id, epoch, part, parts, rules: self.mining.rules() };
        self.state.hand_over(Part { header, ids, images });
    }

    /// The input has ended and every epoch is closed.
    pub fn end(&mut self) {
        // Another shard may have handed over its part already.
        self.hand_over_before(Epoch::MAX);
        if let (true, Some(epoch), Some(id)) = (self.changed_since, self.begun, self.state.at_end())
        {
            self.hand_over(epoch, id);
        }
    }

    /// Scans one batch of new versions against this shard, for both sides. `None` when there is no
    /// more to scan.
    pub fn step(&mut self, work: &mut Scan) -> Option<Vec<(u64, Offer)>> {
        while work.next >= work.fresh.len() {
            work.channel += 1;
            work.next = 0;
            if work.channel >= 3 || work.fresh.is_empty() {
                return None;
            }
        }
        let end = work.fresh.len().min(work.next + BATCH);
        let bands: Vec<usize> = (0..self.mining.bands[work.channel].len()).collect();
        let queries: Vec<_> = work.fresh[work.next..end].iter().map(|v| (v, &*bands)).collect();
        let offers = self.find(work.channel, &queries, true);
        work.next = end;
        Some(offers)
    }

    /// What this shard holds for lists that ran short.
    pub fn answer(&mut self, requests: &[Rescan]) -> Vec<(u64, Offer)> {
        let mut offers = Vec::new();
        for channel in 0..3 {
            let wanted: Vec<_> = requests
                .iter()
                .map(|request| (&request.version, &*request.wanted[channel]))
                .filter(|(_, bands)| !bands.is_empty())
                .collect();
            for queries in wanted.chunks(BATCH) {
                offers.extend(self.find(channel, queries, false));
            }
        }
        offers
    }

    /// Scans this shard for the queries' bands. For new versions (`enter`) the lists of the images
    /// found are updated too: a score has two sides.
    fn find(
        &mut self,
        channel: usize,
        queries: &[(&Arc<Version>, &[usize])],
        enter: bool,
    ) -> Vec<(u64, Offer)> {
        let mining = Arc::clone(&self.mining);
        let (bands, neighbors) = (&mining.bands[channel], mining.neighbors[channel]);
        let capacity = neighbors + mining.slack;
        let (mut who, mut vectors, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for (version, wanted) in queries {
            let Some(vector) = &version.vectors[channel] else { continue };
            who.push(*version);
            vectors.push(&**vector);
            let of_band = |b| wanted.contains(&b).then(Kept::empty);
            found.push((0..bands.len()).map(of_band).collect::<Vec<Option<Kept>>>());
        }
        let wanted = || queries.iter().flat_map(|(_, wanted)| wanted.iter().map(|&b| bands[b]));
        let edges = (wanted().map(|band| band.lo).min(), wanted().map(|band| band.hi).max());
        let (Some(matrix), (Some(lo), Some(hi))) = (&mut self.matrices[channel], edges) else {
            return Vec::new();
        };
        let (locals, changed, names) = (&mut self.locals, &mut self.changed, &self.roll);
        let Matrix { rows, places } = matrix;
        let live = rows.len();
        let floors = found.iter().map(|lists| floor(lists.iter().map(Option::as_ref), bands));
        let mut prepared = Queries::new(rows, &vectors, floors.collect());
        let sides = if enter { Sides::Both } else { Sides::Queries };
        search(&mut prepared, rows, 0..live, lo..=hi - 1, sides, &mut |q, r, score| {
            let place = places[r];
            let local = locals[place as usize].as_mut().expect("a live row has an image");
            let query = who[q];
            let band = bands.iter().position(|band| band.contains(score));
            if let Some(band) = band.filter(|_| local.version.row != query.row) {
                if let Some(kept) = &mut found[q][band] {
                    let (id, row) = (&local.version.image_id, local.version.row);
                    kept.insert(score, id, row, capacity, names);
                }
                if enter && !local.fresh {
                    let list = &mut local.lists[channel][band];
                    let inserted = list.insert(score, &query.image_id, query.row, capacity, names);
                    if matches!(inserted, Inserted::At(i) if i < neighbors) && !local.changed {
                        local.changed = true;
                        changed.push(place);
                    }
                }
            }
            let of_row = || floor(local.lists[channel].iter().map(Some), bands);
            Floors {
                query: floor(found[q].iter().map(Option::as_ref), bands),
                // The lists of a new image are gathered, not updated.
                row: if enter && !local.fresh { of_row() } else { NEVER },
            }
        });
        let dots = (vectors.len() * live) as u64;
        let counter =
            if enter { &self.counters.dot_products } else { &self.counters.rescan_dot_products };
        counter.fetch_add(dots, Relaxed);
        let mut offers = Vec::new();
        for (version, bands) in who.into_iter().zip(found) {
            let to = self.owner(&version.image_id) as u64;
            for (band, kept) in bands.into_iter().enumerate() {
                let Some(kept) = kept.filter(|kept| !kept.entries.is_empty()) else { continue };
                offers.push((to, Offer { row: version.row, channel, band, kept }));
            }
        }
        offers
    }

    /// Takes the lists that all shards' offers make. A shard without an offer had nothing.
    pub fn gather(&mut self, offers: Vec<Offer>) {
        let mut parts: HashMap<(RowId, usize, usize), Vec<Kept>> = HashMap::new();
        for offer in offers {
            parts.entry((offer.row, offer.channel, offer.band)).or_default().push(offer.kept);
        }
        for (place, channel, band) in std::mem::take(&mut self.gathered) {
            let local = self.locals[place as usize].as_mut().expect("only live images gather");
            let parts = parts.remove(&(local.version.row, channel, band)).unwrap_or_default();
            let capacity = self.mining.neighbors[channel] + self.mining.slack;
            local.lists[channel][band] = Kept::merged(parts, capacity, &self.roll);
            self.refloor(place, channel);
        }
    }

    /// The lists that deletes left too short to tell what comes next.
    pub fn short(&mut self) -> Vec<Rescan> {
        let mut requests = Vec::new();
        for place in std::mem::take(&mut self.shortened) {
            let local = self.locals[place as usize].as_ref().expect("nothing left since");
            let mut wanted: [Vec<usize>; 3] = Default::default();
            for (c, lists) in local.lists.iter().enumerate() {
                for (band, kept) in lists.iter().enumerate() {
                    if kept.short(self.mining.neighbors[c]) {
                        wanted[c].push(band);
                        self.gathered.push((place, c, band));
                        self.counters.rescans.fetch_add(1, Relaxed);
                    }
                }
            }
            if wanted.iter().any(|bands| !bands.is_empty()) {
                requests.push(Rescan { version: Arc::clone(&local.version), wanted });
            }
        }
        requests
    }

    /// Closes the epoch: what its lists have become.
    pub fn close(&mut self) -> Vec<Lists> {
        self.open = None;
        self.roll.entering = QuickMap::default();
        self.roll.asked = RefCell::default();
        let entered = std::mem::take(&mut self.entered);
        let mut lists: Vec<Lists> = std::mem::take(&mut self.left)
            .into_iter()
            .filter(|(image_id, _)| !entered.contains(image_id))
            .map(|(image_id, row)| Lists { image_id, row, channels: None })
            .collect();
        for place in std::mem::take(&mut self.changed) {
            let local = self.locals[place as usize].as_mut().expect("nothing left since");
            (local.fresh, local.changed) = (false, false);
            let channels = std::array::from_fn(|c| {
                let most = self.mining.neighbors[c];
                let firsts = || local.lists[c].iter().map(|kept| kept.entries.iter().take(most));
                // Of just this size, for these lists stay.
                let mut neighbors = Vec::with_capacity(firsts().map(|first| first.len()).sum());
                for (candidate, rank) in firsts().flat_map(|first| first.zip(1..)) {
                    neighbors.push(Neighbor { row: candidate.row, rank });
                }
                neighbors
            });
            let version = &local.version;
            let image_id = Arc::clone(&version.image_id);
            lists.push(Lists { image_id, row: version.row, channels: Some(channels) });
        }
        lists
    }
}

/// The least score that can still change one of these lists, which are of the bands beside them.
fn floor<'a>(lists: impl Iterator<Item = Option<&'a Kept>>, bands: &[Band]) -> i32 {
    let floors = lists.zip(bands).filter_map(|(kept, band)| kept?.floor(band.lo));
    floors.min().unwrap_or(NEVER)
}

fn digest(version: &Version) -> [u8; 16] {
    checkpoint::digest(std::array::from_fn(|c| version.vectors[c].as_deref()))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
