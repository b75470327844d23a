//! Encoders of checkpoints: `encoder = "PATH"`, a folder as the hub lays it out, read once a process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, bail};
use kernels::{
    checkpoint::{Folder, INDEX, TEXTS, WEIGHTS},
    encoders::{self as builtin, ImageEncoder, TextEncoder, pretrained},
};
use schemas::limits;
use serde_json::Value;

/// What names of encoders begin with that need no weights.
const BUILTIN: &str = "builtin:";

/// What is loaded, by folder: several parts of a process ask for the same.
static IMAGES: Loaded<dyn ImageEncoder> = Loaded::new();
static TEXTS_LOADED: Loaded<dyn TextEncoder> = Loaded::new();

struct Loaded<E: ?Sized>(Mutex<BTreeMap<PathBuf, Arc<E>>>);

impl<E: ?Sized> Loaded<E> {
    const fn new() -> Loaded<E> {
        Loaded(Mutex::new(BTreeMap::new()))
    }

    /// The folder's encoder. Whoever asks second waits for the first.
    fn get(
        &self,
        path: &Path,
        load: impl FnOnce(&str, &Folder) -> anyhow::Result<Arc<E>>,
    ) -> anyhow::Result<Arc<E>> {
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoder) = loaded.get(path) {
            return Ok(encoder.clone());
        }
        let name = name_of(path)?;
        let encoder = load(&name, &read(path)?)
            .with_context(|| format!("the checkpoint in {} cannot be used", path.display()))?;
        loaded.insert(path.to_owned(), encoder.clone());
        Ok(encoder)
    }
}

/// The encoder of pictures of that name: a built-in one's, or a checkpoint's folder.
///
/// # Errors
/// As for [`image`].
pub fn image_named(name: &str) -> anyhow::Result<Arc<dyn ImageEncoder>> {
    match builtin::image_encoder(name) {
        Some(encoder) => Ok(encoder.into()),
        None if name.starts_with(BUILTIN) => {
            bail!("{name}: there is builtin:layout, builtin:edges, and a checkpoint's folder")
        }
        None => image(Path::new(name)),
    }
}

/// The encoder of texts of that name: a built-in one's, or a checkpoint's folder.
///
/// # Errors
/// As for [`text`].
pub fn text_named(name: &str) -> anyhow::Result<Arc<dyn TextEncoder>> {
    match builtin::text_encoder(name) {
        Some(encoder) => Ok(encoder.into()),
        None if name.starts_with(BUILTIN) => {
            bail!("{name}: there is builtin:words, and a checkpoint's folder")
        }
        None => text(Path::new(name)),
    }
}

/// The encoder of pictures in that folder.
///
/// # Errors
/// What is missing there or does not fit, by name.
pub fn image(path: &Path) -> anyhow::Result<Arc<dyn ImageEncoder>> {
    IMAGES.get(path, |name, folder| Ok(pretrained::image(name, folder)?.into()))
}

/// The encoder of texts in that folder.
///
/// # Errors
/// What is missing there or does not fit, by name.
pub fn text(path: &Path) -> anyhow::Result<Arc<dyn TextEncoder>> {
    TEXTS_LOADED.get(path, |name, folder| Ok(pretrained::text(name, folder)?.into()))
}

/// What tables call it: the folder's own name, so that the folder may stand elsewhere tomorrow.
fn name_of(path: &Path) -> anyhow::Result<String> {
    check(path)?;
    let path = path.canonicalize().with_context(|| format!("open {}", path.display()))?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{}: a name in UTF-8 is needed", path.display()))?;
    Ok(name.to_owned())
}

/// Whether there may be a checkpoint, without reading it.
fn check(path: &Path) -> anyhow::Result<()> {
    if !path.is_dir() {
        let shown = path.display();
        if path.to_str().is_some_and(|name| name.starts_with("hf:") || name.contains("://")) {
            bail!("{shown} is not fetched by itself: download the folder and give its path");
        }
        bail!("there is no folder {shown}: a checkpoint's own folder is needed");
    }
    let weights = WEIGHTS.iter().chain([&INDEX]);
    if !weights.clone().any(|name| path.join(name).is_file()) {
        let names: Vec<&str> = weights.copied().collect();
        bail!("{} has no weights: none of {}", path.display(), names.join(", "));
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Folder> {
    let mut folder = Folder::default();
    for name in TEXTS {
        if path.join(name).is_file() {
            folder.texts.insert(name.to_owned(), read_text(&path.join(name))?);
        }
    }
    for name in weight_files(path)? {
        let file = path.join(&name);
        let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        folder.weights.push(bytes);
    }
    Ok(folder)
}

fn read_text(file: &Path) -> anyhow::Result<String> {
    let said = || format!("read {}", file.display());
    let bytes = fs::metadata(file).with_context(said)?.len();
    if bytes > limits::ENCODER_TEXT_BYTES_MAX {
        bail!("{} has {bytes} bytes: this is no file of settings", file.display());
    }
    fs::read_to_string(file).with_context(said)
}

/// One file, or all parts of a checkpoint in several.
fn weight_files(path: &Path) -> anyhow::Result<Vec<String>> {
    if let Some(one) = WEIGHTS.iter().find(|name| path.join(name).is_file()) {
        return Ok(vec![(*one).to_owned()]);
    }
    let index: Value = serde_json::from_str(&read_text(&path.join(INDEX))?)
        .with_context(|| format!("{} is no JSON", path.join(INDEX).display()))?;
    let map = index["weight_map"].as_object();
    let map = map.with_context(|| format!("{INDEX} has no weight_map"))?;
    let mut files = BTreeSet::new();
    for file in map.values() {
        let plain =
            |name: &&str| Path::new(name).file_name().and_then(|own| own.to_str()) == Some(name);
        let name = file.as_str().filter(plain);
        files.insert(name.with_context(|| format!("{INDEX}: {file} is no file's name"))?);
    }
    Ok(files.into_iter().map(str::to_owned).collect())
}
