//! What calibration looks at: some images with their vectors, and scores with mild copies.
//!
//! An image is in the sample if the hash of the seed and its content is among the smallest: the
//! choice is the same on every machine and in every order of reading, and one pass with a bounded
//! heap makes it. How far the hashes reach also tells how many contents there are.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, bail};
use kernels::{
    decode::{self, Pixels},
    encoders::encode_full,
    resize::{encode_jpeg, fit},
    similarity::Rows,
    vector,
};
use operators::embed::Encoders;
use schemas::{
    Channel, ContentId,
    config::{Config, StoreKind},
    limits,
    tables::{ContentRow, EmbeddingRow, Table, from_batch},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::copies;
use crate::{
    captions::Captions,
    dataset::{At, Dataset},
    service::open_tables,
    settings,
};

mod folder;

/// A sampled image.
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its caption, trimmed.
    pub caption: Option<String>,
    /// A small JPEG, of the first [`limits::CALIBRATE_PICTURED`] only.
    pub thumb: Option<Vec<u8>>,
}

/// Scores with mild copies, by kind.
pub type Copies = BTreeMap<&'static str, Vec<i32>>;

/// The vectors of one channel.
pub struct Vectors {
    /// One row per sampled image that has a vector.
    pub rows: Rows,
    /// The image of each row.
    pub image_of: Vec<u32>,
    /// The row of each image.
    pub row_of: Vec<Option<u32>>,
}

impl Vectors {
    fn new(dim: usize, images: usize) -> Vectors {
        Vectors { rows: Rows::new(dim), image_of: Vec::new(), row_of: vec![None; images] }
    }

    fn set(&mut self, image: usize, vector: &[i16]) {
        if self.row_of[image].is_none() && vector.len() == self.rows.dim() {
            self.row_of[image] = Some(self.rows.push(vector) as u32);
            self.image_of.push(image as u32);
        }
    }

    /// An image's vector.
    pub fn of(&self, image: usize) -> Option<&[i16]> {
        self.row_of[image].map(|row| self.rows.row(row as usize))
    }
}

/// The sample.
pub struct Sample {
    /// Where it is from, in words.
    pub from: String,
    /// Mined images, in an order that is random and fixed by the seed.
    pub images: Vec<Image>,
    /// Mined images of the corpus: counted, or estimated where the sample is only a part of it.
    pub corpus: f64,
    /// Per channel; none where the channel has no vectors at all.
    pub vectors: [Option<Vectors>; 3],
    /// Per channel.
    pub copies: [Copies; 3],
    /// What a person should know about the sample.
    pub notes: Vec<String>,
}

impl Sample {
    /// How many times as many images the corpus has; 1 if the sample is the corpus.
    pub fn scale(&self) -> f64 {
        let others = |images: f64| (images - 1.0).max(1.0);
        (others(self.corpus) / others(self.images.len() as f64)).max(1.0)
    }
}

/// Where a content falls: uniform over all 64-bit numbers, another order for each seed.
fn hash(seed: u64, content: &str) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(content).finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// The `most` things with the smallest hashes, and how many different ones there were.
struct Smallest<T> {
    most: usize,
    held: BTreeMap<(u64, String), T>,
    dropped: bool,
}

impl<T> Smallest<T> {
    fn new(most: usize) -> Self {
        Smallest { most, held: BTreeMap::new(), dropped: false }
    }

    fn entry(&mut self, hash: u64, name: &str, add: impl FnOnce(Option<T>) -> T) {
        let past_the_end = self.held.len() >= self.most
            && self.held.last_key_value().is_some_and(|((last, _), _)| hash > *last);
        if past_the_end {
            self.dropped = true;
            return;
        }
        let key = (hash, name.to_owned());
        let before = self.held.remove(&key);
        self.held.insert(key, add(before));
        if self.held.len() > self.most {
            self.held.pop_last();
            self.dropped = true;
        }
    }

    /// Exact where nothing was dropped; else from how densely the held ones lie.
    fn number(&self) -> f64 {
        match self.held.last_key_value() {
            Some(((last, _), _)) if self.dropped => {
                (self.held.len() as f64 - 1.0) / (*last as f64 / u64::MAX as f64)
            }
            _ => self.held.len() as f64,
        }
    }
}

/// The columns of `images` that matter here.
#[derive(Deserialize)]
struct ImageColumns {
    image_id: String,
    content_id: String,
    caption: Option<String>,
}

/// What of a picture a sample keeps: a small JPEG, and scores with its copies.
struct Look {
    thumb: Vec<u8>,
    scores: Vec<(Channel, &'static str, i32)>,
}

/// Samples the tables that a config names, at their newest epoch.
///
/// # Errors
/// There is no committed epoch, or a table cannot be read.
pub fn of_tables(config: &Config, most: usize, seed: u64) -> anyhow::Result<Sample> {
    let encoders = settings::settings(config)?.encoders;
    let store = open_tables(config)?;
    let dataset = Dataset::open(&store, &At::Latest)?;

    let mut chosen: Smallest<(String, Option<String>)> = Smallest::new(most);
    let columns = ["image_id", "content_id", "caption"];
    for batch in dataset.table(Table::Images)?.scan(Some(&columns))? {
        let rows: Vec<ImageColumns> =
            serde_arrow::from_record_batch(&batch?).context("read the table images")?;
        for row in rows {
            // Rule 1: of equal contents the smallest id is mined, with its own caption.
            chosen.entry(hash(seed, &row.content_id), &row.content_id, |held| match held {
                Some(held) if held.0 < row.image_id => held,
                _ => (row.image_id, row.caption),
            });
        }
    }
    let corpus = chosen.number();
    let written = Captions::in_force(&dataset)?;
    let mut contents: HashMap<String, usize> = HashMap::new();
    let mut captions: HashMap<String, Vec<usize>> = HashMap::new();
    let mut images = Vec::new();
    for ((_, content), (id, caption)) in chosen.held {
        let caption = written.counts(&content, caption.as_deref()).map(|text| text.to_string());
        if let Some(text) = &caption {
            let key = ContentId::of(text.as_bytes()).hex();
            captions.entry(key).or_default().push(images.len());
        }
        contents.insert(content, images.len());
        images.push(Image { id, caption, thumb: None });
    }

    let mut vectors = empty(&encoders, images.len());
    for batch in dataset.table(Table::Embeddings)?.scan(None)? {
        for row in from_batch::<EmbeddingRow>(&batch?).context("read the table embeddings")? {
            let channel = Channel::ALL.into_iter().find(|c| c.as_str() == row.channel);
            let Some(channel) = channel.filter(|c| encoders.id(*c).as_ref() == Some(&row.encoder))
            else {
                continue;
            };
            let one = || contents.get(&row.content_id).copied().into_iter().collect();
            let of: Vec<usize> = match channel {
                Channel::Caption => captions.get(&row.content_id).cloned().unwrap_or_default(),
                _ => one(),
            };
            let Some(vector) = vector::from_le_bytes(&row.vector) else { continue };
            let held = vectors[channel.index()].as_mut().expect("a channel with an encoder");
            of.into_iter().for_each(|image| held.set(image, &vector));
        }
    }
    let mut sample = Sample {
        from: format!("the tables in {} at epoch {}", config.tables.root, dataset.epoch()),
        images,
        corpus,
        vectors,
        copies: Default::default(),
        notes: Vec::new(),
    };
    look_at_pictures(&mut sample, &dataset, &contents, &encoders, seed)?;
    copies_of_captions(&mut sample, &encoders, seed);
    natural_copies(&mut sample, &dataset, &contents, &encoders)?;
    if sample.vectors.iter().flatten().all(|channel| channel.rows.is_empty()) {
        bail!("the tables hold no vector of the encoders in the config");
    }
    Ok(sample)
}

/// Samples a folder of images, or a list of them as `push` takes it, with the config's encoders and
/// screening; captions from the files beside the images.
///
/// # Errors
/// The folder cannot be read or holds no usable image.
pub fn of_folder(config: &Config, images: &Path, most: usize, seed: u64) -> anyhow::Result<Sample> {
    let encoders = settings::settings(config)?.encoders;
    let mut sample = folder::read(config, &encoders, images, most, seed)?;
    copies_of_captions(&mut sample, &encoders, seed);
    Ok(sample)
}

fn empty(encoders: &Encoders, images: usize) -> [Option<Vectors>; 3] {
    Channel::ALL.map(|channel| Some(Vectors::new(encoders.dim(channel)?, images)))
}

/// One pass over stored pictures, which ends as soon as there are enough of them.
fn look_at_pictures(
    sample: &mut Sample,
    dataset: &Dataset,
    contents: &HashMap<String, usize>,
    encoders: &Encoders,
    seed: u64,
) -> anyhow::Result<()> {
    let mut seen = 0;
    let contents_table = dataset.table(Table::Contents)?;
    let (wanted, mut without_bytes) = (limits::CALIBRATE_PICTURED.min(contents.len()), 0);
    for batch in contents_table.scan(None)? {
        let rows = from_batch::<ContentRow>(&batch?).context("read the table contents")?;
        let found = rows.into_iter().filter_map(|row| {
            let image = *contents.get(&row.content_id)?;
            without_bytes += usize::from(row.image.bytes.is_none());
            Some((image, row.image.bytes?))
        });
        let found: Vec<(usize, Vec<u8>)> = found.take(wanted - seen).collect();
        let looks = in_parallel(&found, |at, (image, bytes)| {
            let pixels = decode::decode(bytes, &Default::default()).ok()?.pixels;
            let own = [0, 1, 2].map(|c| sample.vectors[c].as_ref().and_then(|v| v.of(*image)));
            let copied = seen + at < limits::CALIBRATE_COPIED;
            Some(look(&pixels, &own, encoders, copied.then(|| dice(seed, *image))))
        });
        seen += found.len();
        for ((image, _), look) in found.iter().zip(looks) {
            take(&mut sample.images[*image], &mut sample.copies, look);
        }
        if seen == wanted {
            break;
        }
    }
    if seen == 0 && without_bytes > 0 {
        sample.notes.push(
            "the tables keep no pictures ([contents] store = \"reference\"): no copies could be \
             made of them; give a folder with --images"
                .into(),
        );
    }
    Ok(())
}

fn take(image: &mut Image, copies: &mut [Copies; 3], look: Option<Look>) {
    let Some(look) = look else { return };
    image.thumb = Some(look.thumb);
    for (channel, kind, score) in look.scores {
        copies[channel.index()].entry(kind).or_default().push(score);
    }
}

fn dice(seed: u64, image: usize) -> u64 {
    hash(seed, &format!("copy {image}"))
}

/// A thumbnail, and with dice the scores of four copies in each image channel that has an encoder.
fn look(
    pixels: &Pixels,
    own: &[Option<&[i16]>; 3],
    encoders: &Encoders,
    dice: Option<u64>,
) -> Look {
    let small = fit(pixels, limits::CALIBRATE_THUMB_SIDE);
    let thumb = encode_jpeg(&small, limits::CALIBRATE_THUMB_QUALITY);
    let mut scores = Vec::new();
    if let Some(dice) = dice {
        let copies = copies::of_image(&fit(pixels, limits::STORED_SIDE_MAX), dice);
        let batch: Vec<&Pixels> = copies.iter().collect();
        for channel in [Channel::Semantic, Channel::Pattern] {
            let at = channel.index();
            let (Some(encoder), Some(own)) = (&encoders.image[at], own[at]) else { continue };
            let vectors = encode_full(&**encoder, &batch).into_iter().zip(copies::IMAGE_KINDS);
            scores.extend(vectors.filter_map(|(v, k)| Some((channel, k, vector::dot(own, &v?)))));
        }
    }
    Look { thumb, scores }
}

/// Results in the order of the things, made on all cores.
fn in_parallel<T: Sync, R: Send>(
    things: &[T],
    work: impl Fn(usize, &T) -> Option<R> + Sync,
) -> Vec<Option<R>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let size = things.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let work = &work;
        let parts = things.chunks(size).enumerate().map(|(part, things)| {
            scope.spawn(move || {
                let numbered = things.iter().enumerate();
                numbered.map(|(i, thing)| work(part * size + i, thing)).collect::<Vec<_>>()
            })
        });
        let parts: Vec<_> = parts.collect();
        let joined = parts.into_iter().map(|part| part.join().expect("a look cannot fail"));
        joined.flatten().collect()
    })
}

fn copies_of_captions(sample: &mut Sample, encoders: &Encoders, seed: u64) {
    let Some(encoder) = &encoders.text else { return };
    let Some(vectors) = &sample.vectors[Channel::Caption.index()] else { return };
    let copied = vectors.image_of.iter().take(limits::CALIBRATE_COPIED);
    for image in copied.map(|image| *image as usize) {
        let (Some(text), Some(own)) = (&sample.images[image].caption, vectors.of(image)) else {
            continue;
        };
        let copies = copies::of_caption(text, dice(seed, image));
        for (copy, kind) in copies.iter().zip(copies::CAPTION_KINDS) {
            let Some(copy) = copy else { continue };
            if let Some(vector) = encoder.encode(&[copy]).pop().flatten() {
                let scores = sample.copies[Channel::Caption.index()].entry(kind).or_default();
                scores.push(vector::dot(own, &vector));
            }
        }
    }
}

/// Where vectors come with the messages there is no encoder to make those of copies. Then the
/// corpus has to bring its own: pictures whose perceptual hashes differ in a few bits, captions
/// that differ in case and marks alone.
fn natural_copies(
    sample: &mut Sample,
    dataset: &Dataset,
    contents: &HashMap<String, usize>,
    encoders: &Encoders,
) -> anyhow::Result<()> {
    let given: Vec<Channel> =
        Channel::ALL.into_iter().filter(|c| encoders.given[c.index()].is_some()).collect();
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    if given.iter().any(|channel| *channel != Channel::Caption) {
        let mut hashes: Vec<(usize, u64)> = Vec::new();
        #[derive(Deserialize)]
        struct Columns {
            content_id: String,
            phash: String,
        }
        for batch in dataset.table(Table::Contents)?.scan(Some(&["content_id", "phash"]))? {
            let rows: Vec<Columns> =
                serde_arrow::from_record_batch(&batch?).context("read the table contents")?;
            let of = rows.iter().filter_map(|row| {
                let image = contents.get(&row.content_id)?;
                Some((*image, u64::from_str_radix(&row.phash, 16).ok()?))
            });
            hashes.extend(of);
        }
        hashes.sort_unstable();
        for (at, (one, hash)) in hashes.iter().enumerate() {
            let alike = hashes[at + 1..]
                .iter()
                .filter(|(_, other)| (hash ^ other).count_ones() <= limits::CALIBRATE_PHASH_BITS);
            pairs.extend(alike.map(|(other, _)| (*one, *other)));
            if pairs.len() >= limits::CALIBRATE_NATURAL {
                break;
            }
        }
    }
    let mut same_words: Vec<(usize, usize)> = Vec::new();
    if given.contains(&Channel::Caption) {
        let mut first: HashMap<String, (usize, Arc<str>)> = HashMap::new();
        for (image, row) in sample.images.iter().enumerate() {
            let Some(text) = &row.caption else { continue };
            let lower = text.to_lowercase();
            let words: String = lower.chars().filter(|c| c.is_alphanumeric()).collect();
            let held = first.entry(words).or_insert_with(|| (image, text.as_str().into()));
            // The same caption has the same vector: nothing to learn from.
            if *held.1 != **text && same_words.len() < limits::CALIBRATE_NATURAL {
                same_words.push((held.0, image));
            }
        }
    }
    for channel in given {
        let Some(vectors) = &sample.vectors[channel.index()] else { continue };
        let (pairs, kind) = match channel {
            Channel::Caption => (&same_words, "same words"),
            _ => (&pairs, "same phash"),
        };
        let scores = pairs
            .iter()
            .filter_map(|(one, other)| Some(vector::dot(vectors.of(*one)?, vectors.of(*other)?)));
        sample.copies[channel.index()].insert(kind, scores.collect());
    }
    Ok(())
}
