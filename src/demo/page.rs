//! The gallery of a demo: triplets as pictures, rejects, and how to go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use schemas::{config::Config, tables::RejectRow};

use crate::{
    dataset::{At, Dataset},
    gallery::{
        GalleryPage, Reject,
        read::{Most, read},
    },
    service::open_store,
    verify::Tables,
};

/// Triplets on the page.
const SHOWN: usize = 24;
/// Answers without a triplet on the page.
const TURNED_AWAY_SHOWN: usize = 6;
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
    let most = Most { triplets: SHOWN, turned_away: TURNED_AWAY_SHOWN };
    let shown = read(&dataset, config, &tables.images, most)?;
    // Of images; what was left out of answers is shown beside them.
    let (of_answers, rejects): (Vec<&RejectRow>, Vec<&RejectRow>) =
        shown.rejects.iter().partition(|row| row.request_id.is_some());
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
            ("left out of answers".into(), count(of_answers.len())),
            ("epochs".into(), tables.epoch.to_string()),
        ],
        story: acts.to_vec(),
        triplets: shown.triplets,
        turned_away: shown.turned_away,
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

fn reject(row: &RejectRow, bad: &BTreeMap<String, Vec<u8>>) -> Reject {
    Reject {
        image_id: row.image_id.clone(),
        stage: row.stage.clone(),
        reason: row.reason.clone(),
        detail: row.detail.clone(),
        picture: row.image_id.as_ref().and_then(|id| bad.get(id)).cloned(),
    }
}
