//! A benchmark: what is kept of an evaluation set, so that its images stay out of the training set.
//!
//! Two objects that are never changed, named by the set and by the first half of the sha256 of the
//! first one. The first is a [`Header`] in JSON: what a match is, and the sha256 of the second. That
//! has the images, numbers little-endian:
//!
//! ```text
//! magic "EPBENCH1" · u32 count of images, each u16 length and UTF-8 of its name ·
//! per image 32 bytes of sha256 · per image 8 bytes of perceptual hash ·
//! 2 × (u32 dimension, 0 for no vectors; per image u8 whether it has one, and then 2·dim bytes)
//! ```
//!
//! No bytes and no captions of the set are kept: only names, hashes and vectors. A row of `blocked`
//! of the kind `benchmark` names the set by [`value`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Channel, ContentId};

const MAGIC: &[u8; 8] = b"EPBENCH1";
/// Hex digits of the digest in a value: enough that nobody makes two by chance.
const DIGEST_DIGITS: usize = 32;
/// Longest name of a benchmark, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The channels that compare images: the first two of [`Channel::ALL`].
pub const CHANNELS: [Channel; 2] = [Channel::Semantic, Channel::Pattern];

/// What a match is, and what the images are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The set's name.
    pub name: String,
    /// Images in it.
    pub images: usize,
    /// Perceptual hashes that differ in at most so many of 64 bits are of one picture; none: they
    /// are not compared.
    pub phash_bits: Option<u32>,
    /// `semantic` and `pattern`, where vectors are compared.
    pub channels: BTreeMap<Channel, Vectors>,
    /// Sha256 of the second object, 64 hex digits.
    pub data: String,
}

/// The vectors of one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors {
    /// As in `embeddings.encoder`: vectors of another one do not compare.
    pub encoder: String,
    /// A score from here on is a match, in units of 2^-30.
    pub threshold: i32,
    /// Images that have a vector.
    pub images: usize,
}

/// The images, column by column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// The set's own ids, at most 65,535 bytes each.
    pub names: Vec<String>,
    /// Sha256 of each image's bytes.
    pub contents: Vec<ContentId>,
    /// Perceptual hash of each.
    pub phashes: Vec<u64>,
    /// By channel of [`CHANNELS`]: all vectors of one dimension.
    pub vectors: [Vec<Option<Box<[i16]>>>; 2],
}

/// Whether a benchmark may have this name: 1 to 64 letters, digits, `.`, `-` and `_`, the first one
/// a letter or a digit.
pub fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(good)
}

/// What `blocked.value` says of a header: `NAME/DIGEST`.
pub fn value(name: &str, header: &[u8]) -> String {
    format!("{name}/{}", &ContentId::of(header).hex()[..DIGEST_DIGITS])
}

/// Name and digest of a value; `None` for anything that [`value`] does not give.
pub fn parse_value(value: &str) -> Option<(&str, &str)> {
    let (name, digest) = value.split_once('/')?;
    let is_hex = digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (is_name(name) && digest.len() == DIGEST_DIGITS && is_hex).then_some((name, digest))
}

/// By what an image was found to be one of a benchmark's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// The same bytes.
    Content,
    /// Perceptual hashes that differ in so many bits.
    Phash(u32),
    /// A score in this channel, in units of 2^-30.
    Vector(Channel, i32),
}

impl By {
    /// `sha256`, `phash`, or the channel.
    pub fn as_str(self) -> &'static str {
        match self {
            By::Content => "sha256",
            By::Phash(_) => "phash",
            By::Vector(channel, _) => channel.as_str(),
        }
    }
}

/// `rejects.detail` of an image that is one of a benchmark's, by which a person can check it.
pub fn detail(name: &str, image: &str, by: By) -> String {
    let how = match by {
        By::Content => format!("the bytes of its image {image}"),
        By::Phash(bits) => format!("{bits} of 64 bits differ from its image {image}"),
        By::Vector(_, score) => {
            let score = f64::from(score) / f64::from(1 << 30);
            format!("score {score:.4} with its image {image}")
        }
    };
    format!("benchmark {name} by {}: {how}", by.as_str())
}

/// The benchmark's name and by what the image was found, of a [`detail`].
pub fn parse_detail(detail: &str) -> Option<(&str, &str)> {
    let (name, rest) = detail.strip_prefix("benchmark ")?.split_once(" by ")?;
    Some((name, rest.split_once(':')?.0))
}

impl Header {
    /// The first object.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Reads the first object; `Err` says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Header, String> {
        let header: Header = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !is_name(&header.name) {
            return Err(format!("{:?} is no name of a benchmark", header.name));
        }
        if header.channels.contains_key(&Channel::Caption) {
            return Err("captions are not compared".into());
        }
        Ok(header)
    }
}

impl Images {
    /// The second object.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend((self.names.len() as u32).to_le_bytes());
        for name in &self.names {
            out.extend((name.len() as u16).to_le_bytes());
            out.extend(name.as_bytes());
        }
        self.contents.iter().for_each(|id| out.extend(id.0));
        self.phashes.iter().for_each(|hash| out.extend(hash.to_le_bytes()));
        for vectors in &self.vectors {
            let dim = vectors.iter().flatten().map(|vector| vector.len()).next().unwrap_or(0);
            out.extend((dim as u32).to_le_bytes());
            for vector in vectors.iter().filter(|_| dim > 0) {
                out.push(u8::from(vector.is_some()));
                out.extend(vector.iter().flat_map(|v| v.iter()).flat_map(|x| x.to_le_bytes()));
            }
        }
        out
    }

    /// Reads the second object; `Err` says what is wrong with it. Vectors come back as none for all
    /// images where none has one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Images, &'static str> {
        let mut rest = Bytes(bytes);
        if rest.take(MAGIC.len())? != MAGIC {
            return Err("it is not one of this version");
        }
        let count = rest.number()?;
        // Every image has its hashes at least, so a count that lies allocates no more than that.
        if count > bytes.len() / 40 {
            return Err("it is cut short");
        }
        let mut images = Images::default();
        for _ in 0..count {
            let length = rest.array::<2>()?;
            let name = rest.take(usize::from(u16::from_le_bytes(length)))?;
            let name = std::str::from_utf8(name).map_err(|_| "a name is not UTF-8")?;
            images.names.push(name.to_owned());
        }
        for _ in 0..count {
            images.contents.push(ContentId(rest.array()?));
        }
        for _ in 0..count {
            images.phashes.push(u64::from_le_bytes(rest.array()?));
        }
        for vectors in &mut images.vectors {
            let dim = rest.number()?;
            if dim == 0 {
                vectors.resize(count, None);
                continue;
            }
            for _ in 0..count {
                let vector = match rest.array()? {
                    [0] => None,
                    [1] => {
                        let bytes = rest.take(dim.checked_mul(2).ok_or("a dimension is wrong")?)?;
                        let number = |pair: &[u8; 2]| i16::from_le_bytes(*pair);
                        Some(bytes.as_chunks::<2>().0.iter().map(number).collect())
                    }
                    _ => return Err("it is neither a vector nor none"),
                };
                vectors.push(vector);
            }
        }
        if rest.0.is_empty() { Ok(images) } else { Err("there is more than it says") }
    }
}

/// What is still to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.take(N)?.try_into().map_err(|_| "it is cut short")
    }

    fn number(&mut self) -> Result<usize, &'static str> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        Images {
            names: vec!["a.jpg".into(), "ö".into(), String::new()],
            contents: (0..3u8).map(|n| ContentId::of(&[n])).collect(),
            phashes: vec![1, u64::MAX, 0x0123_4567_89ab_cdef],
            vectors: [vec![Some([1, -2, 3].into()), None, Some([9, 9, 9].into())], vec![None; 3]],
        }
    }

    #[test]
    fn images_read_back_and_torn_ones_do_not() {
        let bytes = images().to_bytes();
        assert_eq!(Images::from_bytes(&bytes), Ok(images()));
        for length in 0..bytes.len() {
            assert!(Images::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(Images::from_bytes(&[&bytes[..], b"x"].concat()).is_err());
        let empty = Images::default();
        assert_eq!(Images::from_bytes(&empty.to_bytes()), Ok(empty));
        // A count that lies.
        let mut lie = MAGIC.to_vec();
        lie.extend(u32::MAX.to_le_bytes());
        assert_eq!(Images::from_bytes(&lie), Err("it is cut short"));
    }

    #[test]
    fn headers_read_back() {
        let vectors = Vectors { encoder: "e@1".into(), threshold: 7, images: 2 };
        let header = Header {
            name: "circo".into(),
            images: 3,
            phash_bits: Some(4),
            channels: [(Channel::Semantic, vectors.clone())].into(),
            data: "d".into(),
        };
        assert_eq!(Header::from_bytes(&header.to_bytes()), Ok(header.clone()));
        let captions = Header { channels: [(Channel::Caption, vectors)].into(), ..header.clone() };
        assert!(Header::from_bytes(&captions.to_bytes()).is_err());
        let named = Header { name: "../x".into(), ..header };
        assert!(Header::from_bytes(&named.to_bytes()).unwrap_err().contains("no name"));
    }

    #[test]
    fn values_and_details_say_what_they_are_of() {
        let of = value("circo-v1.0", b"{}");
        assert_eq!(parse_value(&of).map(|(name, _)| name), Some("circo-v1.0"));
        for wrong in ["circo", "circo/", "/00", ".x/0123456789abcdef0123456789abcdef", "b3"] {
            assert_eq!(parse_value(wrong), None, "{wrong}");
        }
        assert!(!is_name("") && !is_name("a/b") && !is_name(&"a".repeat(65)) && is_name("a"));
        for by in [By::Content, By::Phash(3), By::Vector(Channel::Pattern, 1 << 29)] {
            let text = detail("cirr", "a by b: c", by);
            assert_eq!(parse_detail(&text), Some(("cirr", by.as_str())), "{text}");
        }
        assert!(detail("c", "x", By::Vector(Channel::Semantic, 1 << 29)).contains("score 0.5000"));
        assert_eq!(parse_detail("the id x is blocked"), None);
    }
}
