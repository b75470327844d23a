//! The pairs that hold now, by query: what was retrieved for it.

use std::{collections::HashMap, sync::Arc};

use operators::flow::Pair;

use crate::service::rows::consolidate;

/// Rows of `pairs`, as the newest committed epoch has them.
#[derive(Default)]
pub struct MinedPairs(HashMap<Arc<str>, Vec<Pair>>);

impl MinedPairs {
    /// Takes in what an epoch has changed.
    pub fn apply(&mut self, changes: &mut Vec<(Pair, isize)>) {
        consolidate(changes);
        for (pair, _) in changes.iter().filter(|(pair, diff)| pair.mined && *diff < 0) {
            if let Some(held) = self.0.get_mut(&pair.query_id) {
                held.retain(|one| one != pair);
                if held.is_empty() {
                    self.0.remove(&pair.query_id);
                }
            }
        }
        for (pair, _) in changes.iter().filter(|(pair, diff)| pair.mined && *diff > 0) {
            self.0.entry(pair.query_id.clone()).or_default().push(pair.clone());
        }
    }

    /// The hard negatives of a pair.
    pub fn negatives(&self, query_id: &str, target_id: &str) -> Vec<Arc<str>> {
        let mut pairs = self.0.get(query_id).into_iter().flatten();
        let pair = pairs.find(|pair| *pair.target_id == *target_id);
        pair.map_or_else(Vec::new, |pair| pair.hard_negatives.clone())
    }

    /// Targets and hard negatives of a query, some more than once.
    pub fn retrieved(&self, query_id: &str) -> Vec<Arc<str>> {
        let pairs = self.0.get(query_id).into_iter().flatten();
        pairs
            .flat_map(|pair| pair.hard_negatives.iter().chain([&pair.target_id]))
            .cloned()
            .collect()
    }
}
