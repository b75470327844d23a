//! Encoders of public checkpoints, in single precision on the CPU.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::{ImageEncoder, TextEncoder};
use crate::checkpoint::{Folder, ImageModel, TextModel, image_model, text_model};
use crate::decode::Pixels;
use crate::lanes::Path;
use crate::safetensors::Unfit;
use crate::tokenize::Tokenizer;
use crate::transformer::Work;
use crate::vector::quantize;

/// Changes whenever the arithmetic does, and with it any vector.
const ARITHMETIC: &str = "f32 1";
/// Settings that an encoder of pictures depends on; those of texts on all.
const OF_PICTURES: [&str; 3] = ["config.json", "open_clip_config.json", "preprocessor_config.json"];

/// The encoder of pictures that the folder holds, by the name `name`.
///
/// # Errors
/// What is missing in the folder, left over or not known here, by name.
pub fn image(name: &str, folder: &Folder) -> Result<Box<dyn ImageEncoder>, Unfit> {
    let model = image_model(folder)?;
    let texts = folder.texts.iter().filter(|(name, _)| OF_PICTURES.contains(&&***name));
    let digest = digest(&model.preparation.describe(), texts, folder);
    Ok(Box::new(Pretrained { name: name.to_owned(), digest, model, works: Mutex::default() }))
}

/// The encoder of texts that the folder holds, by the name `name`.
///
/// # Errors
/// What is missing in the folder, left over or not known here, by name.
pub fn text(name: &str, folder: &Folder) -> Result<Box<dyn TextEncoder>, Unfit> {
    let TextModel { ids_max, tower } = text_model(folder)?;
    let file = folder.texts.get("tokenizer.json");
    let file = file.ok_or_else(|| Unfit("there is no tokenizer.json".into()))?;
    let vocabulary = tower.stem.words.len() / tower.trunk.width;
    let tokenizer = Tokenizer::read(file, vocabulary, ids_max)?;
    let digest = digest("", folder.texts.iter(), folder);
    let model = (tokenizer, TextModel { ids_max, tower });
    Ok(Box::new(Pretrained { name: name.to_owned(), digest, model, works: Mutex::default() }))
}

struct Pretrained<M> {
    name: String,
    digest: String,
    model: M,
    /// Buffers that no thread uses just now.
    works: Mutex<Vec<Work>>,
}

impl<M> Pretrained<M> {
    /// Runs `f` with buffers of its own.
    fn work<T>(&self, f: impl FnOnce(&mut Work) -> T) -> T {
        // Whoever panicked left with the buffers that it had.
        let works = || self.works.lock().unwrap_or_else(PoisonError::into_inner);
        let mut work = works().pop().unwrap_or_else(|| Work::new(Path::best()));
        let done = f(&mut work);
        works().push(work);
        done
    }
}

/// 16 hex digits of all that a vector depends on.
fn digest<'a>(
    preparation: &str,
    texts: impl Iterator<Item = (&'a String, &'a String)>,
    folder: &Folder,
) -> String {
    let mut sha = Sha256::new();
    let mut part = |bytes: &[u8]| {
        sha.update((bytes.len() as u64).to_le_bytes());
        sha.update(bytes);
    };
    part(ARITHMETIC.as_bytes());
    part(preparation.as_bytes());
    for (name, text) in texts {
        part(name.as_bytes());
        part(text.as_bytes());
    }
    folder.weights.iter().for_each(|file| part(file));
    sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn quantized(vectors: &[f32], dim: usize) -> Vec<Option<Box<[i16]>>> {
    vectors.chunks_exact(dim).map(quantize).collect()
}

impl ImageEncoder for Pretrained<ImageModel> {
    fn name(&self) -> &str {
        &self.name
    }

    fn digest(&self) -> String {
        self.digest.clone()
    }

    fn dim(&self) -> usize {
        self.model.tower.dim()
    }

    fn encode(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        let views: Vec<Pixels> =
            batch.iter().map(|full| self.model.preparation.prepare(full)).collect();
        self.encode_views(&views.iter().collect::<Vec<_>>())
    }

    fn view(&self, full: &Pixels) -> Option<Pixels> {
        Some(self.model.preparation.prepare(full))
    }

    fn encode_views(&self, batch: &[&Pixels]) -> Vec<Option<Box<[i16]>>> {
        let ImageModel { preparation, tower } = &self.model;
        let mut vectors = Vec::with_capacity(batch.len());
        // A few at a time: numbers take four times the room of bytes.
        for some in batch.chunks(8) {
            let numbers: Vec<Vec<f32>> =
                some.iter().map(|view| preparation.numbers(view)).collect();
            vectors.extend(self.work(|work| quantized(&tower.encode(work, &numbers), tower.dim())));
        }
        vectors
    }

    fn default_bands(&self) -> &[(f64, f64)] {
        &[]
    }
}

impl TextEncoder for Pretrained<(Tokenizer, TextModel)> {
    fn name(&self) -> &str {
        &self.name
    }

    fn digest(&self) -> String {
        self.digest.clone()
    }

    fn dim(&self) -> usize {
        self.model.1.tower.dim()
    }

    fn encode(&self, batch: &[&str]) -> Vec<Option<Box<[i16]>>> {
        let (tokenizer, TextModel { tower, .. }) = &self.model;
        let ids: Vec<Vec<u32>> = batch.iter().map(|text| tokenizer.ids(text)).collect();
        self.work(|work| quantized(&tower.encode(work, &ids), tower.dim()))
    }

    fn default_bands(&self) -> &[(f64, f64)] {
        &[]
    }
}
