//! What a pair is worth against others, where the money left does not do for all of them.
//!
//! Captions come before all pairs, in the order of contents: until its images have theirs a pair is not
//! asked about, so nobody knows which of them are worth it. What is left then goes to pairs.
//!
//! In this order: more channels propose it; fewer mined pairs lead to its target, for a target that
//! many lead to stands for itself often enough; its score is farther from the edges of its band. Each
//! source of query images is asked about in turn, so that a large one does not take all. A pair whose
//! description is paid for comes before those of its source that have none. Where all of that is equal
//! the contents decide.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use kernels::vector::Band;
use schemas::ContentId;

/// Both contents of a pair, the smaller one first: its two directions share a description.
pub type Both = [ContentId; 2];

/// What is known of a pair's worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worth {
    /// Channels that propose it.
    pub channels: u32,
    /// Mined pairs that lead to its target.
    pub leading: u32,
    /// Distance of its score from the nearer edge of its band, in thousandths of the band's width: of
    /// the channel where it is farthest.
    pub margin: u32,
    /// Where its query image is from, if that is known.
    pub source: Arc<str>,
}

/// Less is better.
pub type Rank = (Reverse<u32>, u32, Reverse<u32>);

impl Worth {
    /// Its place among pairs of its source: less is better.
    pub fn rank(&self) -> Rank {
        (Reverse(self.channels), self.leading, Reverse(self.margin))
    }
}

/// How far a score is from the nearer edge of its band, in thousandths of the band's width; 0 outside.
pub fn margin(score: i32, bands: &[Band]) -> u32 {
    let of = |band: &Band| {
        let (score, lo, hi) = (i64::from(score), i64::from(band.lo), i64::from(band.hi));
        (lo <= score && score < hi).then(|| 1_000 * (score - lo).min(hi - score) / (hi - lo))
    };
    let best = bands.iter().filter_map(of).max();
    best.and_then(|margin| u32::try_from(margin).ok()).unwrap_or(0)
}

/// An order of things by what they are worth, the sources taking turns.
#[derive(Debug)]
pub struct Order<T> {
    worth: HashMap<Both, Worth>,
    sources: BTreeMap<Source, BTreeSet<Place<T>>>,
    /// How many turns each has had.
    turns: BTreeMap<Source, u64>,
}

impl<T> Default for Order<T> {
    fn default() -> Order<T> {
        let (worth, sources, turns) = Default::default();
        Order { worth, sources, turns }
    }
}

/// None for pairs of which nothing is known: these come last.
type Source = Option<Arc<str>>;

/// Whether a description is asked for, what it is worth, the thing.
type Place<T> = (bool, Rank, T);

impl<T: Ord + Clone> Order<T> {
    /// What pairs are worth now; turns that sources have had count on.
    pub fn learn(
        &mut self,
        worth: HashMap<Both, Worth>,
        all: impl Iterator<Item = (Both, bool, T)>,
    ) {
        self.worth = worth;
        self.sources.clear();
        all.for_each(|(pair, describes, thing)| self.insert(&pair, describes, thing));
    }

    fn place(&self, pair: &Both, describes: bool, thing: T) -> (Source, Place<T>) {
        let worth = self.worth.get(pair);
        let rank = worth.map_or((Reverse(0), 0, Reverse(0)), Worth::rank);
        (worth.map(|worth| worth.source.clone()), (describes, rank, thing))
    }

    /// One more.
    pub fn insert(&mut self, pair: &Both, describes: bool, thing: T) {
        let (source, place) = self.place(pair, describes, thing);
        self.sources.entry(source).or_default().insert(place);
    }

    /// One less.
    pub fn remove(&mut self, pair: &Both, describes: bool, thing: T) {
        let (source, place) = self.place(pair, describes, thing);
        if let Some(held) = self.sources.get_mut(&source) {
            held.remove(&place);
        }
        self.sources.retain(|_, held| !held.is_empty());
    }

    /// The best of the source that has had the fewest turns.
    pub fn pop(&mut self) -> Option<T> {
        let turns = |source: &Source| self.turns.get(source).copied().unwrap_or(0);
        let next = self.sources.keys().map(|source| (source.is_none(), turns(source), source));
        let source = next.min()?.2.clone();
        let held = self.sources.get_mut(&source)?;
        let first = held.pop_first().map(|(_, _, thing)| thing);
        if held.is_empty() {
            self.sources.remove(&source);
        }
        first
    }

    /// The pair's source has had a turn.
    pub fn count(&mut self, pair: &Both) {
        let source = self.worth.get(pair).map(|worth| worth.source.clone());
        *self.turns.entry(source).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(n: u8) -> Both {
        [ContentId([n; 32]), ContentId([n; 32])]
    }

    fn order(of: &[(u8, u32, u32, u32, &str)]) -> Order<u8> {
        let worth = of.iter().map(|(n, channels, leading, margin, source)| {
            let (channels, leading, margin) = (*channels, *leading, *margin);
            (pair(*n), Worth { channels, leading, margin, source: (*source).into() })
        });
        let mut order = Order::default();
        order.learn(worth.collect(), of.iter().map(|(n, ..)| (pair(*n), false, *n)));
        order
    }

    fn next(order: &mut Order<u8>) -> Option<u8> {
        let first = order.pop()?;
        order.count(&pair(first));
        Some(first)
    }

    fn all(order: &mut Order<u8>) -> Vec<u8> {
        std::iter::from_fn(|| next(order)).collect()
    }

    #[test]
    fn the_most_valuable_come_first() {
        let mut one = order(&[
            (1, 1, 1, 500, ""),
            (2, 2, 9, 100, ""),
            (3, 2, 1, 100, ""),
            (4, 2, 1, 400, ""),
            (5, 3, 20, 0, ""),
            (6, 2, 1, 400, ""),
        ]);
        one.insert(&pair(7), false, 7);
        one.insert(&pair(1), true, 8);
        one.remove(&pair(6), false, 6);
        // What needs a description comes behind what has one; what nobody knows behind what is known.
        assert_eq!(all(&mut one), [5, 4, 3, 2, 1, 8, 7]);
    }

    #[test]
    fn sources_take_turns() {
        let mut order = order(&[
            (1, 3, 1, 1, "a"),
            (2, 3, 1, 1, "a"),
            (3, 3, 1, 1, "a"),
            (4, 1, 1, 1, "b"),
            (5, 2, 1, 1, "b"),
            (6, 1, 1, 1, "c"),
        ]);
        assert_eq!([(); 3].map(|()| next(&mut order)), [1, 5, 6].map(Some));
        // One that could not be asked has had no turn.
        let again = order.pop();
        assert_eq!(again, Some(2));
        order.insert(&pair(2), false, 2);
        order.insert(&pair(9), false, 9);
        order.insert(&pair(6), true, 6);
        assert_eq!(all(&mut order), [2, 4, 6, 3, 9]);
    }

    #[test]
    fn edges_are_worth_little() {
        let bands = [Band { lo: 100, hi: 300 }, Band { lo: 300, hi: 400 }];
        let margins = [99, 100, 110, 200, 299, 350, 399, 400].map(|s| margin(s, &bands));
        assert_eq!(margins, [0, 0, 50, 500, 5, 500, 10, 0]);
    }
}
