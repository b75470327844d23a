//! What the pairs and images of an epoch ask for, read from its tables: what the dataflow's work list
//! has, and what is answered already.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::Context;
use operators::{
    annotate, captions,
    flow::{CaptionerId, Mined, ModelId, Request},
};
use schemas::{
    ContentId, caption_text,
    tables::{ImageRow, PairRow},
};

use crate::{captions::Captions, dataset::Dataset};

/// The pairs of an epoch as requests, and its images without a caption.
pub struct Wanted {
    /// Live images.
    pub images: u64,
    /// One for each pair that can be asked about.
    pub requests: Vec<Request>,
    /// One for each pair that cannot yet, for an image of it waits for its caption: as it would be asked
    /// without one.
    pub waiting: Vec<Request>,
    /// One for each mined image that has no caption of its own, where there is a captioner.
    pub captions: Vec<Request>,
}

/// What `model` would be asked, and who writes captions.
///
/// # Errors
/// The tables cannot be read, or a pair names what is not live.
pub fn wanted(
    dataset: &Dataset,
    model: &ModelId,
    captioner: Option<&CaptionerId>,
) -> anyhow::Result<Wanted> {
    let written = Captions::read(dataset, captioner.cloned())?;
    let images: HashMap<String, ImageRow> =
        dataset.rows::<ImageRow>()?.into_iter().map(|row| (row.image_id.clone(), row)).collect();
    let captions = captioner.map_or(Ok(Vec::new()), |captioner| without(&images, captioner))?;
    let (mut requests, mut waiting) = (Vec::new(), Vec::new());
    for pair in dataset.rows::<PairRow>()? {
        let row = |id: &String| images.get(id).with_context(|| format!("{id:?} is not in images"));
        let (query, target) = (row(&pair.query_id)?, row(&pair.target_id)?);
        let side = |row: &ImageRow| anyhow::Ok((content(row)?, written.of_image(row)));
        let [query_id, target_id] = [&*pair.query_id, &*pair.target_id].map(Arc::<str>::from);
        let asked = ((&query_id, &side(query)?), (&target_id, &side(target)?));
        let request = annotate::request(model, asked.0, asked.1);
        match written.waits(query) || written.waits(target) {
            true => waiting.push(request),
            false => requests.push(request),
        }
    }
    Ok(Wanted { images: images.len() as u64, requests, waiting, captions })
}

fn content(row: &ImageRow) -> anyhow::Result<ContentId> {
    ContentId::parse(&row.content_id).context("a content id is no sha256")
}

/// Mined images without a caption of their own, by content. Rule 1: of equal contents the bytewise
/// smallest id is mined.
fn without(
    images: &HashMap<String, ImageRow>,
    captioner: &CaptionerId,
) -> anyhow::Result<Vec<Request>> {
    let mut mined: BTreeMap<&str, &ImageRow> = BTreeMap::new();
    for row in images.values() {
        let held = mined.entry(&row.content_id).or_insert(row);
        if row.image_id < held.image_id {
            *held = row;
        }
    }
    let bare = mined.into_values().filter(|row| caption_text(row.caption.as_deref()).is_none());
    let request = |row: &ImageRow| {
        let (image_id, content_id) = (row.image_id.as_str().into(), content(row)?);
        Ok(captions::request(captioner, &Mined { image_id, content_id, caption: None }))
    };
    bare.map(request).collect()
}
