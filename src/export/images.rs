//! Pictures by image id, without holding their bytes: one pass over `images` and `contents` copies
//! what the export needs into a scratch file, or into picture files, and keeps where it is.
//!
//! Memory: about 150 bytes for each image that a row names.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use arrow_array::{Array, RecordBatch, cast::AsArray};
use schemas::{
    ContentId,
    tables::{Table, TripletRow},
};
use serde::{Deserialize, Serialize};

use super::{Images, folder, progress::Progress};
use crate::{dataset::Dataset, delta::Key};

/// One picture of a row.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The file's name where the bytes are in the export, its path below the export's folder where
    /// they are beside it, the image's uri where they are not stored.
    pub path: String,
    /// `jpg`, `png`, `webp` or `gif`.
    pub extension: &'static str,
    /// The bytes, with `--images embed`.
    pub bytes: Option<Vec<u8>>,
    /// Where it came from, in its owner's words.
    pub source: Option<String>,
    /// Its licence.
    pub licence: Option<String>,
}

/// A training row with its pictures.
#[derive(Clone, Debug)]
pub struct Example {
    /// The row of `triplets`.
    pub triplet: TripletRow,
    /// The epoch of the export, or of the increment, that the row goes out with.
    pub export_epoch: i64,
    /// The query.
    pub query: Picture,
    /// The target.
    pub target: Picture,
    /// Of `hard_negatives`, in their order: the query itself comes first.
    pub negatives: Vec<Picture>,
}

impl Example {
    /// Bytes of all its pictures.
    pub fn bytes(&self) -> usize {
        let pictures = [&self.query, &self.target].into_iter().chain(&self.negatives);
        pictures.map(|picture| picture.bytes.as_ref().map_or(0, Vec::len)).sum()
    }
}

/// Bytes in the scratch file.
type Place = (u64, u32);

/// What is known of an image, as it stands in the scratch file.
#[derive(Serialize, Deserialize)]
struct About {
    content: String,
    source: Option<String>,
    uri: Option<String>,
    licence: Option<String>,
}

/// What is known of a content.
#[derive(Clone, Copy)]
struct Content {
    extension: &'static str,
    /// Its bytes in the scratch file; none where they are not stored or have a file of their own.
    place: Option<Place>,
    stored: bool,
}

/// A file that only grows, and is gone when this is.
struct Scratch {
    file: BufWriter<File>,
    path: PathBuf,
    end: u64,
}

impl Scratch {
    fn new(path: PathBuf) -> anyhow::Result<Scratch> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.with_context(|| format!("create {}", path.display()))?;
        Ok(Scratch { file: BufWriter::new(file), path, end: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> anyhow::Result<Place> {
        self.file.write_all(bytes).with_context(|| format!("write {}", self.path.display()))?;
        let place = (self.end, u32::try_from(bytes.len()).context("longer than 4 GiB")?);
        self.end += bytes.len() as u64;
        Ok(place)
    }

    /// Needs a flush after the last `put`.
    fn get(&self, (start, length): Place) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        let read = self.file.get_ref().read_exact_at(&mut bytes, start);
        read.with_context(|| format!("read {}", self.path.display()))?;
        Ok(bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The folder that it is in goes away with what an unfinished export leaves.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The pictures that an export needs.
pub struct Pictures {
    kind: Images,
    scratch: Scratch,
    images: HashMap<Key, Option<Place>>,
    contents: HashMap<ContentId, Option<Content>>,
    /// Contents whose bytes are not stored.
    pub not_stored: u64,
    /// Picture files that were written, and their bytes.
    pub written: (u64, u64),
}

/// The path of a content's file below the export's folder.
pub fn file_path(folder: &str, content_id: &str, extension: &str) -> String {
    let (front, _) = content_id.split_at_checked(2).unwrap_or((content_id, ""));
    format!("{folder}/{front}/{content_id}.{extension}")
}

/// The ending that tells a picture's format.
pub fn extension(path: Option<&str>, format: &str) -> &'static str {
    let end = path.and_then(|path| path.rsplit_once('.')).map_or(format, |(_, end)| end);
    match end {
        "png" => "png",
        "webp" => "webp",
        "gif" => "gif",
        _ => "jpg",
    }
}

impl Pictures {
    /// For the images whose keys are given; `folder` is where files go.
    pub fn new(
        kind: Images,
        wanted: impl Iterator<Item = Key>,
        folder: &Path,
    ) -> anyhow::Result<Pictures> {
        Ok(Pictures {
            kind,
            scratch: Scratch::new(folder.join("scratch"))?,
            images: wanted.map(|key| (key, None)).collect(),
            contents: HashMap::new(),
            not_stored: 0,
            written: (0, 0),
        })
    }

    /// Copies everything. A picture file for which `held` is true is there already.
    pub fn fill(
        &mut self,
        dataset: &Dataset,
        folder: &Path,
        held: impl Fn(&str) -> bool,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let columns = ["image_id", "content_id", "source", "uri", "licence"];
        for batch in dataset.table(Table::Images)?.scan(Some(&columns))? {
            self.take_images(&batch?)?;
        }
        let contents = dataset.table(Table::Contents)?;
        progress.begin("pictures", self.contents.len() as u64);
        for batch in contents.scan(Some(&["content_id", "image", "format"]))? {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                progress.add(u64::from(self.take_content(&batch, row, folder, &held)?));
            }
        }
        self.scratch.file.flush().context("write the scratch file")
    }

    fn take_images(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        let text = |column: usize, row: usize| {
            let column = batch.column(column).as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        for row in 0..batch.num_rows() {
            let id = text(0, row).context("an image without an id")?;
            let key = Key::of(&[&id]);
            if !self.images.contains_key(&key) {
                continue;
            }
            let content = text(1, row).context("an image without a content")?;
            let parsed = ContentId::parse(&content).context("images: a content id is no sha256")?;
            let (source, uri, licence) = (text(2, row), text(3, row), text(4, row));
            let about = About { content, source, uri, licence };
            let place = self.scratch.put(&serde_json::to_vec(&about)?)?;
            self.images.insert(key, Some(place));
            self.contents.insert(parsed, None);
        }
        Ok(())
    }

    /// Whether the content was wanted.
    fn take_content(
        &mut self,
        batch: &RecordBatch,
        row: usize,
        folder: &Path,
        held: &impl Fn(&str) -> bool,
    ) -> anyhow::Result<bool> {
        let id = batch.column(0).as_string::<i32>().value(row);
        let id = ContentId::parse(id).context("contents: a content id is no sha256")?;
        // A memo may have a content twice after a restart; either does.
        if !matches!(self.contents.get(&id), Some(None)) {
            return Ok(false);
        }
        let image = batch.column(1).as_struct();
        let (bytes, path) =
            (image.column(0).as_binary::<i32>(), image.column(1).as_string::<i32>());
        let path = path.is_valid(row).then(|| path.value(row));
        let extension = extension(path, batch.column(2).as_string::<i32>().value(row));
        let stored = image.is_valid(row) && bytes.is_valid(row);
        let mut content = Content { extension, place: None, stored };
        match (self.kind, stored) {
            (_, false) => self.not_stored += 1,
            (Images::Embed, true) => content.place = Some(self.scratch.put(bytes.value(row))?),
            (Images::Path, true) => {
                let path = file_path(folder::IMAGES, &id.hex(), extension);
                if !held(&path) {
                    folder::write(&folder.join(path), bytes.value(row))?;
                    self.written.0 += 1;
                    self.written.1 += bytes.value(row).len() as u64;
                }
            }
        }
        self.contents.insert(id, Some(content));
        Ok(true)
    }

    /// A row with its pictures.
    ///
    /// # Errors
    /// An image is not live or its content not known, which no committed epoch shows; or its bytes
    /// are not stored and the export needs them, or a uri.
    pub fn example(&self, triplet: TripletRow, export_epoch: i64) -> anyhow::Result<Example> {
        let query = self.picture(&triplet.query_id)?;
        let target = self.picture(&triplet.target_id)?;
        let negatives = triplet.hard_negatives.iter().map(|id| self.picture(id));
        let negatives = negatives.collect::<anyhow::Result<_>>()?;
        Ok(Example { triplet, export_epoch, query, target, negatives })
    }

    fn picture(&self, id: &str) -> anyhow::Result<Picture> {
        let place = self.images.get(&Key::of(&[id])).copied().flatten();
        let place = place.with_context(|| {
            format!("triplets name {id:?}, which is not in images: run `everpair verify`")
        })?;
        let about: About = serde_json::from_slice(&self.scratch.get(place)?)?;
        let content = ContentId::parse(&about.content).context("it was parsed before")?;
        let known = self.contents.get(&content).copied().flatten();
        let known = known.with_context(|| {
            format!("{id:?} has content {}, which is not in contents", about.content)
        })?;
        let extension = known.extension;
        let (path, bytes) = match (self.kind, known.stored, known.place) {
            (Images::Embed, true, Some(place)) => {
                (format!("{}.{extension}", about.content), Some(self.scratch.get(place)?))
            }
            (Images::Path, true, _) => (file_path(folder::IMAGES, &about.content, extension), None),
            (Images::Path, false, _) => {
                let why = "has no uri and its bytes are not stored: nothing can refer to it";
                (about.uri.with_context(|| format!("{id:?} {why}"))?, None)
            }
            (Images::Embed, ..) => bail!(
                "the bytes of {id:?} are not stored ([contents] store = \"reference\"): export with \
                 --images path, which refers to uris, or in a form that allows it; or run with \
                 store = \"resized\" and send the images again"
            ),
        };
        Ok(Picture { path, extension, bytes, source: about.source, licence: about.licence })
    }
}
