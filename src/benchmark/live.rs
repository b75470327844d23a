//! Live images that are of a set, by brute force over the tables of the newest epoch.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, anyhow};
use operators::{
    benchmarks::{Match, Set},
    embed::Encoders,
};
use schemas::{
    Channel, ContentId,
    benchmark::{By, CHANNELS},
    tables::{EmbeddingRow, Table, from_batch},
};
use serde::Deserialize;

use crate::{
    dataset::{self, At, Dataset},
    delta::Store,
};

/// What of the live images is of a set.
#[derive(Default)]
pub struct Live {
    /// The epoch that was looked at; none before the first one.
    pub epoch: Option<u64>,
    /// Contents, and by what each was found.
    pub contents: HashMap<ContentId, Match>,
}

#[derive(Deserialize)]
struct Named {
    content_id: String,
}

#[derive(Deserialize)]
struct Hashed {
    content_id: String,
    phash: String,
}

fn parse(id: &str) -> anyhow::Result<ContentId> {
    ContentId::parse(id).ok_or_else(|| anyhow!("{id:?} is no sha256"))
}

/// Compares every live image with the set: bytes first, then perceptual hashes, then vectors, as a
/// message is compared when it arrives.
///
/// # Errors
/// The tables cannot be read.
pub fn find(store: &Store, set: &Set, encoders: &Encoders) -> anyhow::Result<Live> {
    if dataset::latest(store)?.is_none() {
        return Ok(Live::default());
    }
    let dataset = Dataset::open(store, &At::Latest)?;
    let mut live: HashSet<ContentId> = HashSet::new();
    for batch in dataset.table(Table::Images)?.scan(Some(&["content_id"]))? {
        let rows: Vec<Named> = serde_arrow::from_record_batch(&batch?).context("read images")?;
        for row in rows {
            live.insert(parse(&row.content_id)?);
        }
    }
    let mut found: HashMap<ContentId, Match> = HashMap::new();
    for batch in dataset.table(Table::Contents)?.scan(Some(&["content_id", "phash"]))? {
        let rows: Vec<Hashed> = serde_arrow::from_record_batch(&batch?).context("read contents")?;
        for row in rows {
            let id = parse(&row.content_id)?;
            let phash = u64::from_str_radix(&row.phash, 16).ok();
            if live.contains(&id)
                && let Some(of) = set.by_content(id).or_else(|| set.by_phash(phash?))
            {
                found.insert(id, of);
            }
        }
    }
    if (0..CHANNELS.len()).any(|channel| set.compares(channel)) {
        let names = CHANNELS.map(|channel| encoders.id(channel));
        let mut by_vector: BTreeMap<ContentId, (usize, Match)> = BTreeMap::new();
        for batch in dataset.table(Table::Embeddings)?.scan(None)? {
            let rows = from_batch::<EmbeddingRow>(&batch?).context("read embeddings")?;
            let mut vectors: [Vec<(ContentId, Box<[i16]>)>; 2] = Default::default();
            for row in rows {
                let at = CHANNELS.iter().position(|channel| channel.as_str() == row.channel);
                let Some(at) = at.filter(|at| names[*at].as_ref() == Some(&row.encoder)) else {
                    continue;
                };
                let id = parse(&row.content_id)?;
                let wanted = set.compares(at) && live.contains(&id) && !found.contains_key(&id);
                if let (true, Some(vector)) = (wanted, kernels::vector::from_le_bytes(&row.vector))
                {
                    vectors[at].push((id, vector));
                }
            }
            for (channel, vectors) in vectors.into_iter().enumerate() {
                for (id, of) in compared(set, channel, &vectors) {
                    let held = by_vector.entry(id).or_insert((channel, of));
                    if channel < held.0 {
                        *held = (channel, of);
                    }
                }
            }
        }
        found.extend(by_vector.into_iter().map(|(id, (_, of))| (id, of)));
    }
    Ok(Live { epoch: Some(dataset.epoch()), contents: found })
}

/// On all cores.
fn compared(
    set: &Set,
    channel: usize,
    vectors: &[(ContentId, Box<[i16]>)],
) -> Vec<(ContentId, Match)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let part = |part: &[(ContentId, Box<[i16]>)]| {
        let queries: Vec<&[i16]> = part.iter().map(|(_, vector)| &**vector).collect();
        let found = set.by_vectors(channel, &queries).into_iter().zip(part);
        found.filter_map(|(of, (id, _))| Some((*id, of?))).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let parts = vectors.chunks(vectors.len().div_ceil(cores).max(1));
        let running: Vec<_> = parts.map(|vectors| scope.spawn(|| part(vectors))).collect();
        let found = running.into_iter().map(|part| part.join().expect("comparing cannot fail"));
        found.flatten().collect()
    })
}

impl Live {
    /// Contents that were found by vectors that came with a message. Another message may bring the
    /// same content with other vectors, so these are blocked by name as well.
    pub fn by_given(&self, encoders: &Encoders) -> Vec<ContentId> {
        let given = |channel: Channel| encoders.given[channel.index()].is_some();
        let by_given = self.contents.iter().filter(|(_, of)| match of.by {
            By::Vector(channel, _) => given(channel),
            By::Content | By::Phash(_) => false,
        });
        let mut ids: Vec<ContentId> = by_given.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }
}
