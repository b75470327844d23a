//! One evaluation set, laid out for comparing.

use std::collections::HashMap;

use kernels::{phash::hamming, similarity, similarity::Rows};
use schemas::{
    ContentId,
    benchmark::{By, CHANNELS, Header, Images, detail},
    limits,
};

use crate::embed::Encoders;

/// An evaluation set.
pub struct Set {
    value: String,
    name: String,
    names: Vec<String>,
    contents: HashMap<ContentId, u32>,
    /// Hashes that mean something, and the image of each.
    phashes: Vec<(u64, u32)>,
    /// Hashes that mean nothing are not compared; none are without this.
    phash_bits: Option<u32>,
    vectors: [Option<Vectors>; 2],
}

struct Vectors {
    rows: Rows,
    image_of: Vec<u32>,
    threshold: i32,
}

/// An image of the set, and by what something was found to be it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Which image.
    pub image: u32,
    /// By what.
    pub by: By,
}

/// Whether a perceptual hash tells pictures apart.
fn says_something(phash: u64) -> bool {
    phash.count_ones() >= limits::BENCHMARK_PHASH_ONES_MIN
}

impl Set {
    /// Lays out the set that `blocked.value` names. Vectors of other encoders than these are left
    /// out: they do not compare.
    ///
    /// # Errors
    /// The images are not those that the header speaks of.
    pub fn new(
        value: &str,
        header: &Header,
        images: Images,
        encoders: &Encoders,
    ) -> Result<Set, String> {
        let Images { names, contents, phashes, vectors } = images;
        if names.len() != header.images {
            return Err(format!("it has {} images, not {}", names.len(), header.images));
        }
        let mut compared = [None, None];
        for (channel, vectors) in CHANNELS.into_iter().zip(vectors) {
            let Some(rule) = header.channels.get(&channel) else { continue };
            if encoders.id(channel).as_ref() != Some(&rule.encoder) {
                continue;
            }
            let dim = encoders.dim(channel).unwrap_or(0);
            let mut held =
                Vectors { rows: Rows::new(dim), image_of: Vec::new(), threshold: rule.threshold };
            for (image, vector) in vectors.into_iter().enumerate() {
                let Some(vector) = vector else { continue };
                if vector.len() != dim {
                    let name = channel.as_str();
                    let has = vector.len();
                    return Err(format!("a {name} vector has {has} components, not {dim}"));
                }
                held.rows.push(&vector);
                held.image_of.push(image as u32);
            }
            compared[channel.index()] = (!held.rows.is_empty()).then_some(held);
        }
        let mut by_content = HashMap::new();
        for (image, id) in contents.into_iter().enumerate() {
            by_content.entry(id).or_insert(image as u32);
        }
        let phashes = phashes.into_iter().zip(0..).filter(|(phash, _)| says_something(*phash));
        Ok(Set {
            value: value.to_owned(),
            name: header.name.clone(),
            names,
            contents: by_content,
            phashes: phashes.collect(),
            phash_bits: header.phash_bits,
            vectors: compared,
        })
    }

    /// `blocked.value`.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The set's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether vectors of this channel, an index into [`CHANNELS`], are compared.
    pub fn compares(&self, channel: usize) -> bool {
        self.vectors[channel].is_some()
    }

    /// `rejects.detail` of a match.
    pub fn words(&self, found: Match) -> String {
        detail(&self.name, &self.names[found.image as usize], found.by)
    }

    /// The first image with these bytes.
    pub fn by_content(&self, id: ContentId) -> Option<Match> {
        Some(Match { image: *self.contents.get(&id)?, by: By::Content })
    }

    /// The nearest image by perceptual hash, of equal ones the first, if it is near enough. 100,000
    /// images take some 50 µs.
    pub fn by_phash(&self, phash: u64) -> Option<Match> {
        let most = self.phash_bits.filter(|_| says_something(phash))?;
        let near = self.phashes.iter().map(|(other, image)| (hamming(phash, *other), *image)).min();
        let (bits, image) = near.filter(|(bits, _)| *bits <= most)?;
        Some(Match { image, by: By::Phash(bits) })
    }

    /// For each vector the image with the highest score, of equal ones the first, if that is high
    /// enough. `channel` is an index into [`CHANNELS`]; vectors have the encoder's dimension.
    pub fn by_vectors(&self, channel: usize, vectors: &[&[i16]]) -> Vec<Option<Match>> {
        let mut found: Vec<Option<Match>> = vec![None; vectors.len()];
        let Some(held) = &self.vectors[channel] else { return found };
        let (rows, all) = (&held.rows, 0..held.rows.len());
        similarity::scan(vectors, rows, all, held.threshold, &mut |vector, row, score| {
            let image = held.image_of[row];
            let better = found[vector].is_none_or(|best| match best.by {
                By::Vector(_, other) => score > other || score == other && image < best.image,
                _ => true,
            });
            if better {
                found[vector] = Some(Match { image, by: By::Vector(CHANNELS[channel], score) });
            }
        });
        found
    }
}
