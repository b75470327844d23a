//! The gallery of a demo: triplets as pictures, rejects, and how to go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use schemas::{
    config::Config,
    tables::{self, ContentRow, ImageRow, RejectRow, TripletRow},
};

use crate::{
    dataset::{At, Dataset},
    delta,
    gallery::{GalleryPage, GalleryRow, Picture, Reject},
    service::open_store,
    verify::Tables,
};

/// Triplets on the page.
const SHOWN: usize = 24;
/// Rejects on the page.
const REJECTS_SHOWN: usize = 40;

/// The page of the tables as they are now. `bad` holds the bytes of images that were turned away.
pub fn page(
    config: &Config,
    acts: &[(String, String)],
    folder: &Path,
    bad: &BTreeMap<String, Vec<u8>>,
) -> anyhow::Result<GalleryPage> {
    let store = open_store(config)?;
    let dataset = Dataset::open(&store, &At::Latest)?;
    let tables = Tables::read(&store)?;
    let rejects: Vec<RejectRow> = dataset.rows()?;
    let images: BTreeMap<&str, &ImageRow> =
        tables.images.iter().map(|row| (row.image_id.as_str(), row)).collect();
    let chosen = choose(&tables.triplets);
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    for row in &chosen {
        let named = row.hard_negatives.iter().chain([&row.query_id, &row.target_id]);
        wanted.extend(
            named.filter_map(|id| images.get(id.as_str())).map(|row| row.content_id.as_str()),
        );
    }
    let bytes = stored(&dataset.table(schemas::tables::Table::Contents)?, &wanted)?;
    let picture = |id: &str| Picture {
        id: id.to_owned(),
        caption: images.get(id).and_then(|row| row.caption.clone()),
        bytes: images
            .get(id)
            .and_then(|row| bytes.get(row.content_id.as_str()))
            .cloned()
            .unwrap_or_default(),
    };
    let triplets = chosen.iter().map(|row| GalleryRow {
        query: picture(&row.query_id),
        instructions: row.instructions.clone(),
        target: picture(&row.target_id),
        negatives: row.hard_negatives.iter().skip(1).map(|id| picture(id)).collect(),
        scores: vec![
            ("semantic".into(), row.scores.semantic),
            ("pattern".into(), row.scores.pattern),
            ("caption".into(), row.scores.caption),
        ],
        proposed_by: row.channels.clone(),
        description: row.description.clone(),
        model: row.model.clone(),
    });
    let triplets = triplets.collect();
    let count = |n: usize| n.to_string();
    let live: BTreeSet<&str> = tables.images.iter().map(|row| row.content_id.as_str()).collect();
    let retracted = tables.changes.iter().filter(|row| row.op == "delete").count();
    let root = folder.join("tables");
    let config_path = folder.join("everpair.toml");
    Ok(GalleryPage {
        title: format!("{} images became {} triplets", tables.images.len(), tables.triplets.len()),
        subtitle:
            "Each is a query image, ways to ask for another image given it, the image that is \
                   meant, and images that are like it and not meant. It keeps up as images come, \
                   change and go."
                .into(),
        summary: vec![
            ("live images".into(), count(tables.images.len())),
            ("duplicates".into(), count(tables.images.len() - live.len())),
            ("pairs".into(), count(tables.pairs.len())),
            ("triplets".into(), count(tables.triplets.len())),
            ("rows retracted on the way".into(), count(retracted)),
            ("rejects".into(), count(rejects.len())),
            ("epochs".into(), tables.epoch.to_string()),
        ],
        story: acts.to_vec(),
        triplets,
        rejects: rejects.iter().take(REJECTS_SHOWN).map(|row| reject(row, bad)).collect(),
        duckdb: duckdb(&root),
        next_steps: vec![
            ("Your own images".into(), "everpair demo --images DIR --out OTHER_DIR".into()),
            (
                "Go on from here".into(),
                format!(
                    "everpair push DIR --to {} && everpair run --until-caught-up --config {}",
                    folder.join("log").display(),
                    config_path.display()
                ),
            ),
            (
                "Take an image down".into(),
                format!("everpair takedown --config {} ID", config_path.display()),
            ),
            ("From Kafka".into(), "[source] brokers = \"host:9092\", topics = [\"images\"]".into()),
        ],
        footnote: "The built-in encoders and the template annotator are for trying out, not for \
                   training data."
            .into(),
    })
}

/// The command that queries these tables.
pub fn duckdb(root: &Path) -> String {
    format!(
        "duckdb -c \"INSTALL delta; LOAD delta; SELECT query_id, instructions[1], target_id FROM \
         delta_scan('{}/triplets') LIMIT 5\"",
        root.display()
    )
}

/// Triplets that several channels propose come first, and no query or target twice.
fn choose(triplets: &[TripletRow]) -> Vec<&TripletRow> {
    let mut sorted: Vec<&TripletRow> = triplets.iter().collect();
    sorted.sort_by_key(|row| (std::cmp::Reverse(row.channels.len()), &row.triplet_id));
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut chosen = Vec::new();
    for row in sorted {
        if chosen.len() == SHOWN {
            break;
        }
        if !seen.contains(row.query_id.as_str()) && !seen.contains(row.target_id.as_str()) {
            seen.extend([row.query_id.as_str(), row.target_id.as_str()]);
            chosen.push(row);
        }
    }
    chosen
}

fn stored(
    contents: &delta::Table,
    wanted: &BTreeSet<&str>,
) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut bytes = BTreeMap::new();
    for batch in contents.scan(None)? {
        for row in tables::from_batch::<ContentRow>(&batch?)? {
            if let (true, Some(image)) = (wanted.contains(row.content_id.as_str()), row.image.bytes)
            {
                bytes.insert(row.content_id, image);
            }
        }
    }
    Ok(bytes)
}

fn reject(row: &RejectRow, bad: &BTreeMap<String, Vec<u8>>) -> Reject {
    Reject {
        image_id: row.image_id.clone(),
        stage: row.stage.clone(),
        reason: row.reason.clone(),
        detail: row.detail.clone(),
        picture: row.image_id.as_ref().and_then(|id| bad.get(id)).cloned(),
    }
}
