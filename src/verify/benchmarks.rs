//! No live image is of an evaluation set that is blocked: every one against every image of the sets.

use std::collections::HashMap;

use anyhow::Context;
use kernels::vector::{dot, from_le_bytes};
use schemas::{
    ContentId,
    benchmark::{By, CHANNELS, Header, Images, detail, parse_value},
    limits,
    tables::Table,
};
use serde::Deserialize;

use super::{Report, Tables};
use crate::{
    benchmark::objects,
    dataset::{At, Dataset},
    delta::Store,
};

/// What is known of a live content.
#[derive(Default)]
struct Content {
    phash: u64,
    /// By channel of [`CHANNELS`]: encoder and vector.
    vectors: [Option<(String, Box<[i16]>)>; 2],
}

/// Adds a difference for each live content, or of `sample` of them, that is of a set.
pub fn check(
    store: &Store,
    tables: &Tables,
    sample: Option<usize>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let values: Vec<&str> =
        objects::values(&tables.blocked).filter(|value| parse_value(value).is_some()).collect();
    if values.is_empty() {
        return Ok(());
    }
    let contents = contents(store, tables, sample)?;
    for value in values {
        let header = objects::header(store, value)?;
        let images = objects::images(store, value, &header)?;
        for line in of_set(&header, &images, &contents) {
            report.differs(line);
        }
    }
    Ok(())
}

fn contents(
    store: &Store,
    tables: &Tables,
    sample: Option<usize>,
) -> anyhow::Result<HashMap<ContentId, Content>> {
    #[derive(Deserialize)]
    struct Row {
        content_id: String,
        phash: String,
    }
    let mut ids: Vec<ContentId> =
        tables.images.iter().filter_map(|row| ContentId::parse(&row.content_id)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(sample.unwrap_or(usize::MAX));
    let mut contents: HashMap<ContentId, Content> =
        ids.into_iter().map(|id| (id, Content::default())).collect();
    let dataset = Dataset::open(store, &At::Latest)?;
    for batch in dataset.table(Table::Contents)?.scan(Some(&["content_id", "phash"]))? {
        let rows: Vec<Row> = serde_arrow::from_record_batch(&batch?).context("read contents")?;
        for row in rows {
            let id = ContentId::parse(&row.content_id);
            if let Some(content) = id.and_then(|id| contents.get_mut(&id)) {
                content.phash = u64::from_str_radix(&row.phash, 16).unwrap_or(0);
            }
        }
    }
    for row in &tables.embeddings {
        let at = CHANNELS.iter().position(|channel| channel.as_str() == row.channel);
        let content = ContentId::parse(&row.content_id).and_then(|id| contents.get_mut(&id));
        if let (Some(at), Some(content), Some(vector)) = (at, content, from_le_bytes(&row.vector)) {
            content.vectors[at] = Some((row.encoder.clone(), vector));
        }
    }
    Ok(contents)
}

/// On all cores.
fn of_set(header: &Header, images: &Images, contents: &HashMap<ContentId, Content>) -> Vec<String> {
    let all: Vec<(&ContentId, &Content)> = contents.iter().collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let parts = all.chunks(all.len().div_ceil(cores).max(1));
        let running: Vec<_> = parts
            .map(|part| {
                scope.spawn(|| {
                    let lines = part.iter().filter_map(|(id, content)| {
                        let (image, by) = first(header, images, **id, content)?;
                        let why = detail(&header.name, &images.names[image], by);
                        Some(format!("images: content {} is live: {why}", id.hex()))
                    });
                    lines.collect::<Vec<String>>()
                })
            })
            .collect();
        let lines = running.into_iter().map(|part| part.join().expect("comparing cannot fail"));
        lines.flatten().collect()
    })
}

/// The first image of the set that a content is, or is a copy of.
fn first(
    header: &Header,
    images: &Images,
    id: ContentId,
    content: &Content,
) -> Option<(usize, By)> {
    let says = |phash: u64| phash.count_ones() >= limits::BENCHMARK_PHASH_ONES_MIN;
    (0..images.names.len()).find_map(|image| {
        if images.contents[image] == id {
            return Some((image, By::Content));
        }
        let (phash, mine) = (images.phashes[image], content.phash);
        let bits = (phash ^ mine).count_ones();
        if says(phash) && says(mine) && header.phash_bits.is_some_and(|most| bits <= most) {
            return Some((image, By::Phash(bits)));
        }
        CHANNELS.into_iter().enumerate().find_map(|(at, channel)| {
            let rule = header.channels.get(&channel)?;
            let (encoder, mine) = content.vectors[at].as_ref()?;
            let vector = images.vectors[at][image].as_ref()?;
            let compares = *encoder == rule.encoder && vector.len() == mine.len();
            let score = if compares { dot(mine, vector) } else { i32::MIN };
            (score >= rule.threshold).then_some((image, By::Vector(channel, score)))
        })
    })
}
