//! What flows: the vocabulary of the whole project, as plain data.
//!
//! Reading order: [`message`] is what comes in, [`tables`] what goes out, [`reject`] why something
//! was turned away, [`config`] what a person may choose, [`limits`] what bounds everything.
//! Nothing here does I/O and no parser here panics: bytes go in, a value or a [`reject::Reason`]
//! comes out.

#![deny(missing_docs)]

pub mod benchmark;
pub mod checkpoint;
pub mod config;
pub mod limits;
pub mod message;
pub mod reject;
pub mod secret;
pub mod tables;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The one, totally ordered time of the dataflow: an epoch is one commit of the tables.
pub type Epoch = u64;

/// A channel is one notion of likeness, with its own encoder, band and neighbours.
///
/// The order of the variants is the order of columns in `scores` and `ranks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// What an image shows (a CLIP-family image encoder).
    Semantic,
    /// How an image looks (a DINOv2-family image encoder).
    Pattern,
    /// What its caption says (a text encoder).
    Caption,
}

impl Channel {
    /// All channels, in column order.
    pub const ALL: [Channel; 3] = [Channel::Semantic, Channel::Pattern, Channel::Caption];

    /// Position in [`Channel::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name used in tables and config.
    pub fn as_str(self) -> &'static str {
        ["semantic", "pattern", "caption"][self.index()]
    }

    /// Rule 4's order of channels where best ranks are equal: caption, pattern, semantic.
    pub fn precedence(self) -> u8 {
        2 - self as u8
    }
}

/// Sha256, the name of a content: of image bytes, or of a trimmed caption's UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentId(pub [u8; 32]);

impl ContentId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> ContentId {
        ContentId(Sha256::digest(bytes).into())
    }

    /// 64 lower-case hex digits, as the tables show it.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The inverse of [`ContentId::hex`]; `None` for anything else.
    pub fn parse(text: &str) -> Option<ContentId> {
        let bytes = text.as_bytes();
        if bytes.len() != 64 {
            return None;
        }
        let mut id = [0u8; 32];
        for (byte, pair) in id.iter_mut().zip(bytes.chunks_exact(2)) {
            let digit = |b: u8| match b {
                b'0'..=b'9' => Some(b - b'0'),
                b'a'..=b'f' => Some(b - b'a' + 10),
                _ => None,
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(ContentId(id))
    }

    /// 64 well-mixed bits that never change between builds: shards are derived from them.
    pub fn hash64(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("eight of thirty-two bytes"))
    }
}

impl std::fmt::Debug for ContentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.hex()[..12])
    }
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[(b >> 4) as usize], DIGITS[(b & 15) as usize]])
        .map(char::from)
        .collect()
}

/// The stable hash of an image id that shards every channel, so that one worker owns an image's
/// vectors, its lists and hence its pairs. FNV-1a with a final mix: fixed for ever, because a
/// change would move every shard.
pub fn shard_of(image_id: &str) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for b in image_id.as_bytes() {
        h = (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h ^= h >> 32;
    h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ (h >> 32)
}

/// A caption as the `caption` channel reads it: trimmed, and none if nothing is left.
pub fn caption_text(caption: Option<&str>) -> Option<&str> {
    caption.map(str::trim).filter(|c| !c.is_empty())
}

/// First 32 hex digits of sha256(u32 little-endian length of `query_id`, `query_id`, `target_id`).
pub fn triplet_id(query_id: &str, target_id: &str) -> String {
    let mut sha = Sha256::new();
    sha.update((query_id.len() as u32).to_le_bytes());
    sha.update(query_id.as_bytes());
    sha.update(target_id.as_bytes());
    hex(&sha.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ids_read_back() {
        let id = ContentId::of(b"abc");
        assert_eq!(id.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(ContentId::parse(&id.hex()), Some(id));
        assert_eq!(ContentId::parse(&id.hex()[1..]), None);
        assert_eq!(ContentId::parse(&id.hex().to_uppercase()), None);
    }

    /// Consumers and old shards depend on these exact values.
    #[test]
    fn stable_names() {
        assert_eq!(triplet_id("a", "bc"), triplet_id("a", "bc"));
        assert_ne!(triplet_id("a", "bc"), triplet_id("ab", "c"));
        assert_eq!(triplet_id("q", "t").len(), 32);
        assert_eq!(shard_of("image-1"), shard_of("image-1"));
    }
}
