//! A sample of images that are not in tables yet.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, bail};
use operators::flow::Picture;
use schemas::caption_text;

use super::{
    Channel, Config, ContentId, Encoders, Image, Look, Sample, Smallest, StoreKind, decode, dice,
    empty, hash, in_parallel, limits, look, take,
};
use crate::push::images::{self, Found};

/// Images that are decoded at once, all of them in memory.
const AT_ONCE: usize = 64;

/// What is kept of one file.
struct Seen {
    content: ContentId,
    id: String,
    caption: Option<String>,
    vectors: [Option<Box<[i16]>>; 3],
    look: Option<Look>,
}

pub(super) fn read(
    config: &Config,
    encoders: &Encoders,
    images: &Path,
    most: usize,
    seed: u64,
) -> anyhow::Result<Sample> {
    let place = images.display();
    let mut chosen: Smallest<images::Image> = Smallest::new(most);
    let mut files = 0usize;
    for found in images::find(images).with_context(|| place.to_string())? {
        if let Found::Image(image) = found {
            files += 1;
            let id = image.name();
            chosen.entry(hash(seed, &id), &id, |_| *image);
        }
    }
    let chosen: Vec<images::Image> = chosen.held.into_values().collect();
    let mut seen: Vec<Seen> = Vec::new();
    let mut first: BTreeMap<ContentId, usize> = BTreeMap::new();
    let (mut refused, mut why) = (0usize, None);
    for (block, files) in chosen.chunks(AT_ONCE).enumerate() {
        let read = in_parallel(files, |at, file| {
            Some(one(config, encoders, file, block * AT_ONCE + at, seed))
        });
        for result in read.into_iter().flatten() {
            match result {
                // Rule 1: of equal contents the smallest id is mined.
                Ok(new) => match first.get(&new.content) {
                    Some(&held) if seen[held].id < new.id => {}
                    Some(&held) => seen[held] = new,
                    None => {
                        first.insert(new.content, seen.len());
                        seen.push(new);
                    }
                },
                Err(reason) => {
                    refused += 1;
                    why.get_or_insert(reason);
                }
            }
        }
    }
    if seen.is_empty() {
        let why = why.map_or(String::new(), |why| format!(", the first because: {why}"));
        bail!("{place}: none of {files} images can be used{why}");
    }
    let mut notes = Vec::new();
    if let Some(why) = why {
        let of = chosen.len();
        notes.push(format!("{refused} of {of} images were turned away, the first: {why}"));
    }
    let mut sample = Sample {
        from: format!("the images in {place}"),
        images: Vec::new(),
        // Duplicates and what was turned away, in the corpus as in the sample.
        corpus: files as f64 * seen.len() as f64 / chosen.len() as f64,
        vectors: empty(encoders, seen.len()),
        copies: Default::default(),
        notes,
    };
    for (at, seen) in seen.into_iter().enumerate() {
        let mut image = Image { id: seen.id, caption: seen.caption, thumb: None };
        take(&mut image, &mut sample.copies, seen.look);
        sample.images.push(image);
        for (held, vector) in sample.vectors.iter_mut().zip(seen.vectors) {
            if let (Some(held), Some(vector)) = (held, vector) {
                held.set(at, &vector);
            }
        }
    }
    Ok(sample)
}

fn one(
    config: &Config,
    encoders: &Encoders,
    file: &images::Image,
    at: usize,
    seed: u64,
) -> Result<Seen, String> {
    let named = |why: String| format!("{}: {why}", file.place);
    let mut file = file.clone();
    let bytes = file.read().map_err(named)?;
    let caption = caption_text(file.caption.as_deref()).map(str::to_owned);
    let limits_of_decoding = decode::Limits {
        encoded_bytes_max: config.screen.encoded_bytes_max,
        pixels_max: config.screen.pixels_max,
        side_max: limits::SIDE_MAX,
    };
    let named = |why: String| format!("{}: {why}", file.place);
    let decoded =
        decode::decode(&bytes, &limits_of_decoding).map_err(|error| named(error.to_string()))?;
    let full = (at < limits::CALIBRATE_PICTURED)
        .then(|| kernels::resize::fit(&decoded.pixels, limits::STORED_SIDE_MAX).into_owned());
    let none = StoreKind::Reference;
    let picture =
        operators::decode::picture(bytes, decoded, none, Default::default(), None, &encoders.image);
    if let Some((_, why)) = operators::screen::fault(&picture.content, &config.screen) {
        return Err(named(why));
    }
    let content = picture.content_id;
    let picture = [Arc::new(picture)];
    let mut vectors = [None, None, None];
    for channel in [Channel::Semantic, Channel::Pattern] {
        if let Some(encoder) = &encoders.image[channel.index()] {
            let encoded = Picture::encode(&picture, &**encoder, channel.index());
            vectors[channel.index()] = encoded.into_iter().next().flatten();
        }
    }
    if let (Some(encoder), Some(text)) = (&encoders.text, &caption) {
        vectors[Channel::Caption.index()] = encoder.encode(&[text]).pop().flatten();
    }
    let own = [0, 1, 2].map(|c| vectors[c].as_deref());
    let copied = (at < limits::CALIBRATE_COPIED).then(|| dice(seed, at));
    let look = full.map(|pixels| look(&pixels, &own, encoders, copied));
    Ok(Seen { content, id: file.name(), caption, vectors, look })
}
