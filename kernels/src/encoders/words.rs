//! `builtin:words`: which words and letters a text uses, hashed into a fixed number of components.

use std::collections::BTreeMap;

use super::{TextEncoder, digest_of};
use crate::vector::quantize_raw;

pub(super) const NAME: &str = "builtin:words";
const DESCRIPTION: &str = "words 1: lower case; runs of alphanumeric characters; words weigh 1, pairs of \
    neighbours 0.5, triples of characters of a word between marks 0.25, each times the square root \
    of its count, a fifth for frequent English words; FNV-1a 64, finished by murmur3, to 256 \
    components with a sign";

const DIM: usize = 256;
/// Words that most captions share.
const FREQUENT: [&str; 24] = [
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "its", "of", "on",
    "or", "that", "the", "there", "this", "to", "with", "image", "picture",
];

pub(super) struct Words;

impl TextEncoder for Words {
    fn name(&self) -> &str {
        NAME
    }

    fn digest(&self) -> String {
        digest_of(DESCRIPTION)
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn encode(&self, batch: &[&str]) -> Vec<Option<Box<[i16]>>> {
        batch.iter().map(|text| quantize_raw(&features(text))).collect()
    }

    fn default_bands(&self) -> &[(f64, f64)] {
        &[(0.45, 0.97)]
    }
}

fn features(text: &str) -> [f64; DIM] {
    let text = text.to_lowercase();
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    // Ordered, so that sums are taken in the same order everywhere; hashing would do as well but for
    // features that share a component.
    let mut counts: BTreeMap<(u8, String), (u32, f64)> = BTreeMap::new();
    let mut count = |kind, feature: String, weight| {
        counts.entry((kind, feature)).or_insert((0, weight)).0 += 1;
    };
    let weight = |word: &str| if FREQUENT.contains(&word) { 0.2 } else { 1.0 };
    for word in &words {
        count(1, word.to_string(), weight(word));
        let marked: Vec<char> = format!("<{word}>").chars().collect();
        for triple in marked.windows(3) {
            count(3, triple.iter().collect(), 0.25 * weight(word));
        }
    }
    for pair in words.windows(2) {
        count(2, pair.join(" "), 0.5 * weight(pair[0]).min(weight(pair[1])));
    }
    let mut features = [0.0; DIM];
    for ((kind, feature), (count, weight)) in counts {
        let hash = stable_hash(kind, &feature);
        let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
        features[hash as usize % DIM] += sign * weight * f64::from(count).sqrt();
    }
    features
}

/// FNV-1a of the kind and the text, finished as murmur3 does: FNV's high bits mix too little for
/// short texts.
fn stable_hash(kind: u8, text: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = text.bytes().fold(fnv(0xcbf2_9ce4_8422_2325, kind), fnv);
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}
