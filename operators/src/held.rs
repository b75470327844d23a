//! What a box holds by key, and what an epoch changes of it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use differential_dataflow::consolidation::consolidate;
use serde::{Deserialize, Serialize};

/// A change of the mined images, or of what is looked up for them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Told<M, T> {
    Mined(M),
    Is(T),
}

/// Rows that come and go.
pub(crate) type Steps<D> = Vec<(D, isize)>;

/// Splits what one worker hears in an epoch.
pub(crate) fn parted<M, T>(told: Steps<Told<M, T>>) -> (Steps<M>, Steps<T>) {
    let (mut mined, mut others) = (Vec::new(), Vec::new());
    for (told, diff) in told {
        match told {
            Told::Mined(row) => mined.push((row, diff)),
            Told::Is(row) => others.push((row, diff)),
        }
    }
    (mined, others)
}

/// At most one value for each key.
pub(crate) struct Held<K, V>(HashMap<K, V>);

impl<K, V> Default for Held<K, V> {
    fn default() -> Self {
        Held(HashMap::new())
    }
}

impl<K: Ord + Hash + Clone, V: Ord + Clone> Held<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// Takes in the changes of an epoch, in any order; gives the keys that have another value since,
    /// with the former one.
    pub fn apply(&mut self, mut changes: Vec<((K, V), isize)>) -> BTreeMap<K, Option<V>> {
        consolidate(&mut changes);
        // What leaves goes first.
        changes.sort_by_key(|(_, diff)| *diff);
        let mut before = BTreeMap::new();
        for ((key, value), diff) in changes {
            let former = match diff > 0 {
                true => self.0.insert(key.clone(), value),
                false => {
                    let held = self.0.remove(&key);
                    assert!(held.as_ref() == Some(&value), "what leaves is what came");
                    held
                }
            };
            before.entry(key).or_insert(former);
        }
        before.retain(|key, former| former.as_ref() != self.0.get(key));
        before
    }
}
