//! From an evaluation set's images to what is kept of them.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use kernels::{decode, vector::quantize_raw};
use operators::{decode::picture, embed::Encoders, flow::Picture};
use schemas::{
    ContentId,
    benchmark::{CHANNELS, Images},
    config::StoreKind,
    limits,
};
use serde_json::Value;

use crate::push::images::{self, Found, Image};

/// What was read.
#[derive(Default)]
pub struct Measured {
    /// All images that can be used.
    pub images: Images,
    /// The others, and why.
    pub unreadable: Vec<(String, String)>,
}

struct One {
    name: String,
    content_id: ContentId,
    phash: u64,
    vectors: [Option<Box<[i16]>>; 2],
}

/// Reads images on all cores, some at a time.
///
/// # Errors
/// An input cannot be read at all, or there are too many images.
pub fn measure(inputs: &[PathBuf], encoders: &Encoders) -> anyhow::Result<Measured> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut measured = Measured::default();
    let mut waiting: Vec<Image> = Vec::new();
    let mut found = images::find_all(inputs)?;
    loop {
        let next = found.next();
        let ended = next.is_none();
        match next {
            Some(Found::Image(image)) => waiting.push(*image),
            Some(Found::Broken(place, why) | Found::Without(place, why)) => {
                measured.unreadable.push((place, why));
            }
            Some(Found::Part | Found::Other) | None => {}
        }
        if !waiting.is_empty() && (ended || waiting.len() >= cores * limits::ENCODE_BATCH) {
            measured.take(std::mem::take(&mut waiting), encoders, cores);
            let images = measured.images.names.len();
            if images > limits::BENCHMARK_IMAGES_MAX {
                let most = limits::BENCHMARK_IMAGES_MAX;
                bail!("more than {most} images, the most of one benchmark: split it into several");
            }
        }
        if ended {
            return Ok(measured);
        }
    }
}

impl Measured {
    fn take(&mut self, images: Vec<Image>, encoders: &Encoders, cores: usize) {
        let size = images.len().div_ceil(cores);
        let mut images = images.into_iter();
        let parts: Vec<Vec<Image>> =
            std::iter::from_fn(|| Some(images.by_ref().take(size).collect::<Vec<_>>()))
                .take_while(|part| !part.is_empty())
                .collect();
        let read = std::thread::scope(|scope| {
            let running: Vec<_> =
                parts.into_iter().map(|part| scope.spawn(|| several(part, encoders))).collect();
            let joined = running.into_iter().map(|part| part.join().expect("reading cannot fail"));
            joined.flatten().collect::<Vec<_>>()
        });
        for one in read {
            match one {
                Ok(one) => {
                    self.images.names.push(one.name);
                    self.images.contents.push(one.content_id);
                    self.images.phashes.push(one.phash);
                    for (held, vector) in self.images.vectors.iter_mut().zip(one.vectors) {
                        held.push(vector);
                    }
                }
                Err(unreadable) => self.unreadable.push(unreadable),
            }
        }
    }
}

/// One thread's images, encoded together.
fn several(images: Vec<Image>, encoders: &Encoders) -> Vec<Result<One, (String, String)>> {
    let mut pictures: Vec<Arc<Picture>> = Vec::new();
    let mut read: Vec<Result<One, (String, String)>> = Vec::new();
    for image in images {
        let place = image.place.clone();
        read.push(match one(image, encoders) {
            Ok((one, seen)) => {
                pictures.push(Arc::new(seen));
                Ok(one)
            }
            Err(why) => Err((place, why)),
        });
    }
    for (at, encoder) in encoders.image.iter().enumerate() {
        let Some(encoder) = encoder else { continue };
        for (one, vector) in
            read.iter_mut().flatten().zip(Picture::encode(&pictures, &**encoder, at))
        {
            one.vectors[at] = vector;
        }
    }
    read
}

/// As decode reads a message, so that equal bytes give equal hashes and vectors.
fn one(mut image: Image, encoders: &Encoders) -> Result<(One, Picture), String> {
    let bytes = image.read()?;
    let decoded = decode::decode(&bytes, &Default::default()).map_err(|e| e.to_string())?;
    let none = Default::default();
    let seen = picture(bytes, decoded, StoreKind::Reference, none, None, &encoders.image);
    let mut vectors = [None, None];
    for (at, channel) in CHANNELS.into_iter().enumerate() {
        let Some(dim) = encoders.given[channel.index()] else { continue };
        let given = image.attributes.get("vectors").and_then(|all| all.get(channel.as_str()));
        if let Some(given) = given {
            let vector = given_vector(given, dim);
            vectors[at] =
                Some(vector.map_err(|why| format!("vectors.{}: {why}", channel.as_str()))?);
        }
    }
    let one = One {
        name: image.name(),
        content_id: seen.content_id,
        phash: u64::from_str_radix(&seen.content.phash, 16).map_err(|e| e.to_string())?,
        vectors,
    };
    Ok((one, seen))
}

fn given_vector(given: &Value, dim: usize) -> Result<Box<[i16]>, String> {
    let numbers = given.as_array().into_iter().flatten();
    let numbers: Option<Vec<f64>> = numbers.map(Value::as_f64).collect();
    let numbers = numbers.context("it is no list of numbers").map_err(|e| e.to_string())?;
    if numbers.len() != dim {
        return Err(format!("{} numbers, the channel has {dim}", numbers.len()));
    }
    quantize_raw(&numbers).ok_or_else(|| "its length is zero or not a finite number".into())
}
