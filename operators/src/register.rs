//! register: which images are live, and which of equal contents is mined (rule 1).
//!
//! Two steps, each on closed epochs. [`Shard`] owns image ids: the last message of an id wins, one
//! that was turned away counts like a tombstone, and what is blocked is not live. [`contents`] owns
//! content ids: it names the mined image of each group of equal contents, and tells which contents
//! are new. Both emit only what changed, so nothing behind `images` sees a re-sent message.

#![expect(clippy::result_large_err, reason = "`Err` is the other stream here, not an error")]

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    sync::Arc,
};

use schemas::{
    ContentId, Epoch,
    message::{Description, Position, Reading},
    reject::Reason,
    shard_of,
    tables::{BlockedRow, ContentRow, ImageRow, RejectRow},
};
use serde::{Deserialize, Serialize};
use timely::dataflow::{
    StreamVec,
    operators::{Concat, vec::Map},
};

use crate::{
    benchmarks::Benchmarks,
    epochs::{each_epoch, split},
    flow::{Arrival, Mined, Outcome, Picture},
};

use contents::{Change, Step, ToContents, group};

mod contents;

/// What register says, each epoch.
pub struct Registered<'s> {
    /// Changes of `images`; `epoch` is 0 in the rows, so that equal rows are equal.
    pub images: StreamVec<'s, Epoch, (ImageRow, Epoch, isize)>,
    /// Changes of the mined images.
    pub mined: StreamVec<'s, Epoch, (Mined, Epoch, isize)>,
    /// Contents that are live and were never known before.
    pub contents: StreamVec<'s, Epoch, ContentRow>,
    /// Pictures of contents that became live or known, and those with given vectors.
    pub pictures: StreamVec<'s, Epoch, Arc<Picture>>,
    /// Messages turned away because they are blocked.
    pub rejects: StreamVec<'s, Epoch, RejectRow>,
    /// What was not blocked before.
    pub blocked: StreamVec<'s, Epoch, BlockedRow>,
}

/// What the tables held at the start. Comes in the first epoch: images enter `images` and `mined`
/// as they would from messages, contents and blocked rows are known and not emitted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Restored {
    /// A live image.
    Image(ImageRow),
    /// A content that has its row in `contents`, live or not.
    Content(ContentId),
    /// A row of `blocked`.
    Blocked(BlockedRow),
}

/// Registers arrivals. A row of `blocks` applies to every message of its epoch and to images that
/// are live already; their messages land in `rejects` as they would have on arrival. One that names a
/// benchmark applies to what is live only: arrivals have been compared before.
pub fn register<'s>(
    arrivals: StreamVec<'s, Epoch, Arrival>,
    blocks: StreamVec<'s, Epoch, BlockedRow>,
    restored: StreamVec<'s, Epoch, Restored>,
    benchmarks: Arc<Benchmarks>,
) -> Registered<'s> {
    let scope = arrivals.scope();
    let (index, peers) = (scope.index() as u64, scope.peers() as u64);
    let restored = restored.flat_map(move |row| match row {
        Restored::Content(id) => vec![Err(ToContents::Known(id))],
        Restored::Image(row) => vec![Ok((shard_of(&row.image_id), ToShard::Restored(row)))],
        Restored::Blocked(row) => {
            (0..peers).map(|worker| Ok((worker, ToShard::Known(row.clone())))).collect()
        }
    });
    let (restored, known) = split(restored, |row| row);
    let told = arrivals
        .map(|arrival| (shard_of(&arrival.image_id), ToShard::Arrived(arrival)))
        .concat(restored)
        .concat(blocks.flat_map(move |row| {
            (0..peers).map(move |worker| (worker, ToShard::Block(row.clone())))
        }));
    let mut shard = Shard { index, peers, benchmarks, ..Shard::default() };
    let effects = each_epoch(
        told,
        "Register",
        |(shard, _)| *shard,
        move |epoch, told| shard.epoch(epoch, told.into_iter().map(|(_, told)| told)),
    );
    let (images, effects) = split(effects, |effect| match effect {
        Effect::Image(row, epoch, diff) => Ok((row, epoch, diff)),
        other => Err(other),
    });
    let (rejects, effects) = split(effects, |effect| match effect {
        Effect::Reject(row) => Ok(row),
        other => Err(other),
    });
    let (blocked, effects) = split(effects, |effect| match effect {
        Effect::Blocked(row) => Ok(row),
        other => Err(other),
    });
    let changes = effects.flat_map(|effect| match effect {
        Effect::Change(change) => Some(ToContents::Change(change)),
        _ => None,
    });
    let (mined, contents, pictures) = group(changes.concat(known));
    Registered { images, mined, contents, pictures, rejects, blocked }
}

/// What one worker hears of the ids that it owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum ToShard {
    Restored(ImageRow),
    /// Blocked since before the start. Like `Block` it is told to every worker.
    Known(BlockedRow),
    Block(BlockedRow),
    Arrived(Arrival),
}

#[derive(Clone, Debug)]
enum Effect {
    Image(ImageRow, Epoch, isize),
    Reject(RejectRow),
    Blocked(BlockedRow),
    Change(Change),
}

/// The ids of one worker.
#[derive(Default)]
struct Shard {
    index: u64,
    peers: u64,
    benchmarks: Arc<Benchmarks>,
    /// By image id.
    live: HashMap<Arc<str>, ImageRow>,
    /// Kind and value.
    blocked: HashSet<(String, String)>,
}

impl Shard {
    fn epoch(&mut self, epoch: Epoch, told: impl Iterator<Item = ToShard>) -> Vec<Effect> {
        let (mut restored, mut blocks, mut arrivals) = (Vec::new(), Vec::new(), Vec::new());
        for row in told {
            match row {
                ToShard::Restored(row) => restored.push(row),
                ToShard::Known(row) => drop(self.blocked.insert((row.kind, row.value))),
                ToShard::Block(row) => blocks.push(row),
                ToShard::Arrived(arrival) => arrivals.push(arrival),
            }
        }
        let mut effects = Effects { epoch, rows: Vec::new() };
        for row in restored {
            let row = ImageRow { epoch: 0, ..row };
            let image_id: Arc<str> = row.image_id.as_str().into();
            effects.enter(&image_id, &row, None);
            let before = self.live.insert(image_id, row);
            assert!(before.is_none(), "I3: the table `images` names an image twice");
        }
        self.block(blocks, &mut effects);
        self.arrive(arrivals, &mut effects);
        effects.rows
    }

    /// Live images that match leave.
    fn block(&mut self, mut blocks: Vec<BlockedRow>, effects: &mut Effects) {
        blocks.sort_unstable();
        let (mut fresh, mut sets) = (HashSet::new(), Vec::new());
        for row in blocks {
            let name = (row.kind.clone(), row.value.clone());
            if !self.blocked.insert(name.clone()) {
                continue;
            }
            fresh.insert(name);
            sets.extend(self.benchmarks.live(&row));
            // Every worker is told; one of them tells the table.
            if shard_of(&row.value) % self.peers == self.index {
                effects.rows.push(Effect::Blocked(BlockedRow { epoch: 0, ..row }));
            }
        }
        if fresh.is_empty() {
            return;
        }
        sets.retain(|found| !found.is_empty());
        let mut leaving: Vec<(Arc<str>, Reason, String)> = Vec::new();
        for (image_id, row) in &self.live {
            let source = row.source.as_deref();
            let of_set = || sets.iter().find_map(|found| found.get(&content_id(row))).cloned();
            // As on arrival, where benchmarks come before what else is blocked.
            if let Some(why) = of_set() {
                leaving.push((image_id.clone(), Reason::Benchmark, why));
            } else if let Some(why) = match_blocked(&fresh, image_id, &row.content_id, source) {
                leaving.push((image_id.clone(), Reason::Blocked, why));
            }
        }
        leaving.sort_unstable();
        for (image_id, reason, why) in leaving {
            let row = self.live.remove(&image_id).expect("found above");
            effects.reject(reason, why, &image_id, &position(&row));
            effects.leave(&image_id, row);
        }
    }

    fn arrive(&mut self, arrivals: Vec<Arrival>, effects: &mut Effects) {
        // An offset below that of the live row is no sign of an old message: a log that lost its end
        // has its offsets twice, and what is read later wins, a tombstone above all.
        let (old, mut arrivals): (Vec<_>, Vec<_>) =
            arrivals.into_iter().partition(|arrival| self.is_replaced(arrival));
        // Had it been let through when it was first read, it would have been replaced since; only
        // whether it is blocked would have been told.
        for arrival in old {
            self.unblocked(arrival, effects);
        }
        arrivals.sort_by(|a, b| (&a.image_id, place(a)).cmp(&(&b.image_id, place(b))));
        arrivals.dedup_by(|b, a| a.image_id == b.image_id && place(a) == place(b));
        let mut winners: BTreeMap<Arc<str>, (Arrival, Life)> = BTreeMap::new();
        let mut arrivals = arrivals.into_iter().peekable();
        let mut life = Life::default();
        while let Some(arrival) = arrivals.next() {
            // Also of those that another message of the epoch replaces: cuts must not matter.
            let arrival = self.unblocked(arrival, effects);
            life.goes_on(&arrival);
            let replaced = arrivals.peek().is_some_and(|next| {
                next.image_id == arrival.image_id && partition(next) == partition(&arrival)
            });
            if replaced {
                continue;
            }
            // Across partitions nobody knows which is later; the record's timestamp decides.
            let at =
                |a: &Arrival| (a.position.timestamp_us, place(a).0.clone(), place(a).1, place(a).2);
            let mut life = std::mem::take(&mut life);
            match winners.entry(arrival.image_id.clone()) {
                Entry::Vacant(vacant) => drop(vacant.insert((arrival, life))),
                Entry::Occupied(mut entry) => {
                    let (winner, of_winner) = entry.get_mut();
                    // A take-down counts in whatever partition it stood.
                    life.ended |= of_winner.ended;
                    of_winner.ended = life.ended;
                    if at(winner) < at(&arrival) {
                        (*winner, *of_winner) = (arrival, life);
                    }
                }
            }
        }
        for (winner, life) in winners.into_values() {
            self.apply(winner, life, effects);
        }
    }

    /// Whether a replayed message is not the last one of its id (I2: a replay ends with the tables of
    /// a run that had today's config when the message was first read). A later one of its partition
    /// may have been a tombstone or have been turned away, of which nothing is kept: whoever replays
    /// looks for it in the source. Against a live image of another partition the later timestamp
    /// wins, as within an epoch.
    fn is_replaced(&self, arrival: &Arrival) -> bool {
        let at = &arrival.position;
        match arrival.reading {
            Reading::First => false,
            Reading::Superseded => true,
            Reading::Again => self.live.get(&arrival.image_id).is_some_and(|row| {
                if (row.topic.as_str(), row.partition) == (&*at.topic, at.partition) {
                    return at.offset <= row.offset;
                }
                let live = (row.ingested_at, row.topic.as_str(), row.partition);
                (at.timestamp_us, &*at.topic, at.partition) <= live
            }),
        }
    }

    /// A blocked message is turned away, and its image is gone.
    fn unblocked(&self, mut arrival: Arrival, effects: &mut Effects) -> Arrival {
        if let Outcome::Live(picture, description) = &arrival.outcome {
            let (content, source) = (&picture.content.content_id, description.source.as_deref());
            if let Some(why) = match_blocked(&self.blocked, &arrival.image_id, content, source) {
                effects.reject(Reason::Blocked, why, &arrival.image_id, &arrival.position);
                arrival.outcome = Outcome::Gone;
            }
        }
        arrival
    }

    fn apply(&mut self, winner: Arrival, life: Life, effects: &mut Effects) {
        let Arrival { image_id, position, outcome, .. } = winner;
        let Outcome::Live(picture, description) = outcome else {
            if let Some(row) = self.live.remove(&image_id) {
                effects.leave(&image_id, row);
            }
            return;
        };
        let mut row = image_row(&image_id, &picture, &description, &position);
        row.since = match self.live.get(&image_id) {
            Some(before) if !life.ended => before.since.clone(),
            _ => life.began,
        };
        match self.live.insert(image_id.clone(), row.clone()) {
            Some(old) if old.content_id == row.content_id && old.caption == row.caption => {
                effects.image(old, -1);
                effects.image(row, 1);
            }
            Some(old) => {
                effects.leave(&image_id, old);
                effects.enter(&image_id, &row, Some(picture));
            }
            None => effects.enter(&image_id, &row, Some(picture)),
        }
    }
}

/// What the messages of an id in one epoch and partition say of how long it is live.
#[derive(Default)]
struct Life {
    /// One took it down, or was turned away.
    ended: bool,
    /// `images.since`, if it began with one of these: the first, or the first behind such a one.
    began: Option<String>,
}

impl Life {
    fn goes_on(&mut self, arrival: &Arrival) {
        let at = &arrival.position;
        match arrival.outcome {
            Outcome::Gone => *self = Life { ended: true, began: None },
            Outcome::Live(..) if self.began.is_none() => {
                self.began = Some(format!("{}/{}/{}", at.topic, at.partition, at.offset));
            }
            Outcome::Live(..) => {}
        }
    }
}

fn partition(arrival: &Arrival) -> (&Arc<str>, i32) {
    (&arrival.position.topic, arrival.position.partition)
}

fn place(arrival: &Arrival) -> (&Arc<str>, i32, i64) {
    let (topic, partition) = partition(arrival);
    (topic, partition, arrival.position.offset)
}

fn match_blocked(
    blocked: &HashSet<(String, String)>,
    image_id: &str,
    content_id: &str,
    source: Option<&str>,
) -> Option<String> {
    if blocked.is_empty() {
        return None;
    }
    let fields = [("id", Some(image_id)), ("content", Some(content_id)), ("source", source)];
    fields.into_iter().find_map(|(kind, value)| {
        let value = value?;
        blocked
            .contains(&(kind.to_owned(), value.to_owned()))
            .then(|| format!("the {kind} {value} is blocked"))
    })
}

fn image_row(
    image_id: &str,
    picture: &Picture,
    description: &Description,
    at: &Position,
) -> ImageRow {
    let Description { caption, uri, source, licence, attributes } = description.clone();
    ImageRow {
        image_id: image_id.into(),
        content_id: picture.content_id.hex(),
        source,
        uri,
        caption,
        licence,
        attributes,
        topic: at.topic.to_string(),
        partition: at.partition,
        offset: at.offset,
        ingested_at: at.timestamp_us,
        epoch: 0,
        since: None,
    }
}

fn position(row: &ImageRow) -> Position {
    Position {
        topic: row.topic.as_str().into(),
        partition: row.partition,
        offset: row.offset,
        timestamp_us: row.ingested_at,
    }
}

fn content_id(row: &ImageRow) -> ContentId {
    ContentId::parse(&row.content_id).expect("`images.content_id` is 64 lower-case hex digits")
}

/// What a shard says of one epoch.
struct Effects {
    epoch: Epoch,
    rows: Vec<Effect>,
}

impl Effects {
    fn image(&mut self, row: ImageRow, diff: isize) {
        self.rows.push(Effect::Image(row, self.epoch, diff));
    }

    fn change(&mut self, content_id: ContentId, image_id: &Arc<str>, step: Step) {
        let image_id = image_id.clone();
        self.rows.push(Effect::Change(Change { content_id, image_id, step }));
    }

    fn enter(&mut self, image_id: &Arc<str>, row: &ImageRow, picture: Option<Arc<Picture>>) {
        let caption = row.caption.as_deref().map(Into::into);
        self.image(row.clone(), 1);
        self.change(content_id(row), image_id, Step::Enter(caption, picture));
    }

    fn leave(&mut self, image_id: &Arc<str>, row: ImageRow) {
        self.change(content_id(&row), image_id, Step::Leave);
        self.image(row, -1);
    }

    fn reject(&mut self, reason: Reason, why: String, image_id: &str, at: &Position) {
        let row = RejectRow::message(reason, why, Some(image_id), at);
        self.rows.push(Effect::Reject(row));
    }
}
