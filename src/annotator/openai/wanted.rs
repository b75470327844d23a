//! What the pairs of an epoch ask for, read from its tables: what the dataflow's work list has, and what
//! is answered already.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context;
use operators::{
    annotate,
    flow::{ModelId, Request},
};
use schemas::{
    ContentId, caption_text,
    tables::{ImageRow, PairRow},
};

use crate::dataset::Dataset;

/// The pairs of an epoch as requests.
pub struct Wanted {
    /// Live images.
    pub images: u64,
    /// One for each pair.
    pub requests: Vec<Request>,
}

/// What `model` would be asked.
///
/// # Errors
/// The tables cannot be read, or a pair names what is not live.
pub fn wanted(dataset: &Dataset, model: &ModelId) -> anyhow::Result<Wanted> {
    let images: HashMap<String, ImageRow> =
        dataset.rows::<ImageRow>()?.into_iter().map(|row| (row.image_id.clone(), row)).collect();
    let request = |pair: PairRow| {
        let side = |id: &String| {
            let row = images.get(id).with_context(|| format!("{id:?} is not in images"))?;
            let content = ContentId::parse(&row.content_id).context("a content id is no sha256")?;
            let caption = caption_text(row.caption.as_deref()).map(Arc::<str>::from);
            anyhow::Ok((content, caption))
        };
        let [query_id, target_id] = [&*pair.query_id, &*pair.target_id].map(Arc::<str>::from);
        let (query, target) = (side(&pair.query_id)?, side(&pair.target_id)?);
        Ok(annotate::request(model, (&query_id, &query), (&target_id, &target)))
    };
    let pairs = dataset.rows::<PairRow>()?.into_iter();
    let requests = pairs.map(request).collect::<anyhow::Result<_>>()?;
    Ok(Wanted { images: images.len() as u64, requests })
}
