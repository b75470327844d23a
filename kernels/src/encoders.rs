//! Encoders: pictures and captions to vectors. [`pretrained`] runs public checkpoints; the others are
//! built in, for trying out and for tests, not for training data.
//!
//! Those that are built in know no objects and no meaning, only where colours lie (`builtin:layout`), where edges run
//! (`builtin:edges`) and which words a caption uses (`builtin:words`). They need no weights, run at
//! thousands of images per second and core, and are exact: sums are integers, and of floating-point
//! operations only those are used that IEEE 754 rounds correctly, in a fixed order. A batch of n gives
//! what n batches of one give, to the bit, on every processor.

use sha2::{Digest, Sha256};

use crate::decode::Pixels;

mod edges;
mod layout;
pub mod pretrained;
mod words;

/// Turns pictures into vectors (see [`crate::vector`]).
pub trait ImageEncoder: Send + Sync {
    /// The name a configuration gives, such as `builtin:layout`.
    fn name(&self) -> &str;
    /// 16 hex digits that change whenever any vector could.
    fn digest(&self) -> String;
    /// Components of a vector.
    fn dim(&self) -> usize;
    /// One vector per picture, in order; `None` where nothing can be told apart, as in a picture of
    /// one colour for an encoder of edges. Pictures may have any size; a long side of 256 is enough.
    fn encode(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>>;
    /// Bands of cosines, `low <= s < high`, for whoever configures none; none of a checkpoint.
    fn default_bands(&self) -> &[(f64, f64)];
    /// What this encoder sees of a picture of full size; `None` where a copy with a long side of 256
    /// is enough.
    fn view(&self, _full: &Pixels) -> Option<Pixels> {
        None
    }
    /// [`ImageEncoder::encode`] of what [`ImageEncoder::view`] gave.
    fn encode_views(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        self.encode(batch)
    }
}

/// Turns texts into vectors (see [`crate::vector`]).
pub trait TextEncoder: Send + Sync {
    /// The name a configuration gives, such as `builtin:words`.
    fn name(&self) -> &str;
    /// 16 hex digits that change whenever any vector could.
    fn digest(&self) -> String;
    /// Components of a vector.
    fn dim(&self) -> usize;
    /// One vector per text, in order; `None` where a text has nothing to compare, such as a blank.
    fn encode(&self, batch: &[&str]) -> Vec<Option<Box<[i16]>>>;
    /// Bands of cosines, `low <= s < high`, for whoever configures none.
    fn default_bands(&self) -> &[(f64, f64)];
}

/// The long side of the copy that is enough for encoders without a view of their own.
const SMALL_SIDE: u32 = 256;

/// One vector per picture of full size, each by what the encoder sees of it.
pub fn encode_full(encoder: &dyn ImageEncoder, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
    let views: Option<Vec<Pixels>> = batch.iter().map(|full| encoder.view(full)).collect();
    if let Some(views) = views {
        return encoder.encode_views(&views.iter().collect::<Vec<_>>());
    }
    let small: Vec<_> = batch.iter().map(|full| crate::resize::fit(full, SMALL_SIDE)).collect();
    encoder.encode(&small.iter().map(|small| &**small).collect::<Vec<_>>())
}

/// The built-in encoder of that name: `builtin:layout` or `builtin:edges`.
pub fn image_encoder(name: &str) -> Option<Box<dyn ImageEncoder>> {
    match name {
        layout::NAME => Some(Box::new(layout::Layout)),
        edges::NAME => Some(Box::new(edges::Edges)),
        _ => None,
    }
}

/// The built-in encoder of that name: `builtin:words`.
pub fn text_encoder(name: &str) -> Option<Box<dyn TextEncoder>> {
    match name {
        words::NAME => Some(Box::new(words::Words)),
        _ => None,
    }
}

/// The digest of an encoder that has no weights: of a sentence that says all it does.
fn digest_of(description: &str) -> String {
    Sha256::digest(description).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Scales `part` to length `weight`, so that parts of a vector count as much as they should; a part
/// of zeros stays.
fn weigh(part: &mut [f64], weight: f64) {
    let norm = part.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm > 0.0 {
        part.iter_mut().for_each(|x| *x *= weight / norm);
    }
}

/// Subtracts the mean, so that what all pictures have in common does not make them similar.
fn center(part: &mut [f64]) {
    let mean = part.iter().sum::<f64>() / part.len() as f64;
    part.iter_mut().for_each(|x| *x -= mean);
}

#[cfg(test)]
mod tests;
