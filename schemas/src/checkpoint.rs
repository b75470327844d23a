//! A state checkpoint: the neighbour lists of all images at one moment, so that a start need not
//! compare everything with everything again.
//!
//! It is only a cache. Each image's vectors are named by their digest, so whatever differs from
//! what lives at the start is seen and mined anew; a checkpoint that is older, torn, missing or of
//! other rules costs time and nothing else. One file a worker, all of one moment:
//!
//! ```text
//! magic "EPSTATE1" · u32 length and bytes of the header (JSON) ·
//! u32 count of ids, each u16 length and UTF-8 ·
//! u32 count of images, each: u32 id · 16 bytes of digest · 3 × (u8 lists, each:
//!     u8 complete · u16 entries, each: u32 id · i32 score) ·
//! sha256 of all before
//! ```
//!
//! Numbers are little-endian; an id is its index among the ids of the file. It holds no bytes,
//! vectors, captions or texts of any image.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Epoch;

const MAGIC: &[u8; 8] = b"EPSTATE1";

/// What a file is a part of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Drawn for each checkpoint: parts with the same one belong together.
    pub id: String,
    /// The epoch whose lists these are. It need not ever have been committed.
    pub epoch: Epoch,
    /// Which part this is, from 0.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// Bands and lengths that the lists were made with, as text.
    pub rules: String,
}

/// One worker's images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// See there.
    pub header: Header,
    /// Every image id that the part names, each once, 1 to 512 bytes.
    pub ids: Vec<String>,
    /// The worker's own images.
    pub images: Vec<Image>,
}

/// One image's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Index in [`Part::ids`].
    pub id: u32,
    /// Of its vectors, see [`digest`].
    pub vectors: [u8; 16],
    /// By channel, then band.
    pub lists: [Vec<List>; 3],
}

/// The best of one band.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Whether it holds all that is in the band.
    pub complete: bool,
    /// Index in [`Part::ids`] and score, best first.
    pub entries: Vec<(u32, i32)>,
}

/// Names an image's vectors: the first half of a sha256 over all three channels.
pub fn digest(vectors: [Option<&[i16]>; 3]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for vector in vectors {
        let vector = vector.unwrap_or_default();
        hash.update((vector.len() as u64).to_le_bytes());
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        hash.update(bytes);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}

impl Part {
    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let header = serde_json::to_vec(&self.header).unwrap_or_default();
        number(&mut out, header.len());
        out.extend(header);
        number(&mut out, self.ids.len());
        for id in &self.ids {
            out.extend((id.len() as u16).to_le_bytes());
            out.extend(id.as_bytes());
        }
        number(&mut out, self.images.len());
        for image in &self.images {
            out.extend(image.id.to_le_bytes());
            out.extend(image.vectors);
            for lists in &image.lists {
                out.push(lists.len() as u8);
                for list in lists {
                    out.push(u8::from(list.complete));
                    out.extend((list.entries.len() as u16).to_le_bytes());
                    for (id, score) in &list.entries {
                        out.extend(id.to_le_bytes());
                        out.extend(score.to_le_bytes());
                    }
                }
            }
        }
        let digest = Sha256::digest(&out);
        out.extend(digest);
        out
    }

    /// Reads a file; `Err` says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Part, &'static str> {
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or("it is cut off")?;
        if Sha256::digest(body)[..] != digest[..] {
            return Err("its digest is that of other bytes");
        }
        let mut rest = Reader(body);
        if &rest.take()? != MAGIC {
            return Err("it is of another version");
        }
        let length = rest.number()?;
        let header = serde_json::from_slice(rest.bytes(length)?).map_err(|_| "it has no header")?;
        let count = rest.number()?;
        let mut ids = rest.room(count, 2)?;
        for _ in 0..count {
            let length = u16::from_le_bytes(rest.take()?).into();
            let id = std::str::from_utf8(rest.bytes(length)?).map_err(|_| "an id is no text")?;
            ids.push(id.to_owned());
        }
        let known = |id: u32| if (id as usize) < count { Ok(id) } else { Err("an id is unknown") };
        let count = rest.number()?;
        let mut images = rest.room(count, 23)?;
        for _ in 0..count {
            let id = known(u32::from_le_bytes(rest.take()?))?;
            let vectors = rest.take()?;
            let mut lists: [Vec<List>; 3] = Default::default();
            for lists in &mut lists {
                for _ in 0..rest.take::<1>()?[0] {
                    let complete = rest.take::<1>()?[0] != 0;
                    let count = u16::from_le_bytes(rest.take()?).into();
                    let mut entries = rest.room(count, 8)?;
                    for _ in 0..count {
                        let id = known(u32::from_le_bytes(rest.take()?))?;
                        entries.push((id, i32::from_le_bytes(rest.take()?)));
                    }
                    lists.push(List { complete, entries });
                }
            }
            images.push(Image { id, vectors, lists });
        }
        if rest.0.is_empty() { Ok(Part { header, ids, images }) } else { Err("it goes on") }
    }
}

fn number(out: &mut Vec<u8>, n: usize) {
    out.extend((n as u32).to_le_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or("it is cut off")?;
        self.0 = rest;
        Ok(*first)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (first, rest) = self.0.split_at_checked(length).ok_or("it is cut off")?;
        self.0 = rest;
        Ok(first)
    }

    fn number(&mut self) -> Result<usize, &'static str> {
        Ok(u32::from_le_bytes(self.take()?) as usize)
    }

    /// A vector for `count` things of at least `bytes` each; more than there can be is an error
    /// before it is an allocation.
    fn room<T>(&self, count: usize, bytes: usize) -> Result<Vec<T>, &'static str> {
        if count > self.0.len() / bytes {
            return Err("it is cut off");
        }
        Ok(Vec::with_capacity(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> Part {
        let list = |complete, entries: &[(u32, i32)]| List { complete, entries: entries.to_vec() };
        Part {
            header: Header {
                id: "a".into(),
                epoch: 7,
                part: 1,
                parts: 2,
                rules: "[0.5, 0.9)".into(),
            },
            ids: vec!["x".into(), "ü".repeat(256), "z".into()],
            images: vec![
                Image {
                    id: 2,
                    vectors: [9; 16],
                    lists: [
                        vec![list(true, &[(0, i32::MAX), (1, i32::MIN)]), list(false, &[])],
                        vec![],
                        vec![list(true, &[(0, 5)])],
                    ],
                },
                Image { id: 0, vectors: [0; 16], lists: Default::default() },
            ],
        }
    }

    #[test]
    fn comes_back() {
        for part in [part(), Part::default()] {
            assert_eq!(Part::from_bytes(&part.to_bytes()), Ok(part));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_seen() {
        let bytes = part().to_bytes();
        for cut in 0..bytes.len() {
            assert!(Part::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
        for bit in 0..8 * bytes.len() {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(Part::from_bytes(&other).is_err(), "{bit}");
        }
    }

    /// Behind a right digest too, nothing panics or takes memory that is not there.
    #[test]
    fn nonsense_with_a_right_digest_is_seen() {
        let bytes = part().to_bytes();
        let body = &bytes[..bytes.len() - 32];
        let signed = |body: &[u8]| [body, &Sha256::digest(body)[..]].concat();
        assert_eq!(Part::from_bytes(&signed(body)), Ok(part()));
        for cut in 0..body.len() {
            assert!(Part::from_bytes(&signed(&body[..cut])).is_err(), "{cut}");
        }
        for at in 0..body.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut other = body.to_vec();
                other[at] = byte;
                // Some of these are other checkpoints; none may do harm.
                if let Ok(part) = Part::from_bytes(&signed(&other)) {
                    assert_eq!(Part::from_bytes(&part.to_bytes()), Ok(part), "{at}");
                }
            }
        }
        assert!(Part::from_bytes(&signed(&[body, b"x"].concat())).is_err());
    }

    #[test]
    fn vectors_have_a_digest_of_their_own() {
        let (a, b) = ([1i16, 2], [1i16]);
        let digests = [
            digest([Some(&a), None, None]),
            digest([None, Some(&a), None]),
            digest([Some(&b), Some(&[2]), None]),
            digest([None; 3]),
        ];
        for (i, x) in digests.iter().enumerate() {
            assert!(digests[..i].iter().all(|y| x != y));
        }
    }
}
