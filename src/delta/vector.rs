//! Deletion vectors: which rows of a file are dead, in the protocol's `RoaringBitmapArray` format.
//! Small ones stand in the log itself; larger ones of one commit share one file below `_dv`, a name
//! with an underscore because a full vacuum by other writers would delete it elsewhere.

use std::collections::HashMap;

use bytes::Bytes;
use roaring::RoaringTreemap;
use uuid::Uuid;

use super::action::DeletionVector;
use super::{Error, Result, Store};

const MAGIC: u32 = 1_681_511_377;
const FOLDER: &str = "_dv";
/// A deletion vector up to this size stands in the log: one object less to write and to read.
const INLINE_BYTES: usize = 512;
/// A z85 text of a uuid.
const UUID_CHARS: usize = 20;

/// The deletion vectors of one commit, being written.
pub(super) struct VectorFile {
    id: Uuid,
    content: Vec<u8>,
}

fn file_name(prefix: &str, id: Uuid) -> String {
    let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    format!("{folder}deletion_vector_{id}.bin")
}

/// The object below the table that holds a vector; `None` for one that stands in the log.
pub(super) fn object(vector: &DeletionVector) -> Option<String> {
    let text = vector.path_or_inline_dv.as_str();
    let at = text.len().checked_sub(UUID_CHARS).filter(|at| text.is_char_boundary(*at))?;
    let id = Uuid::from_slice(&z85::decode(&text[at..]).ok()?).ok()?;
    (vector.storage_type == "u").then(|| file_name(&text[..at], id))
}

/// Whether an object below a table, by its name, is one that holds vectors.
pub(super) fn is_object(name: &str) -> bool {
    let id = name.strip_prefix(FOLDER).and_then(|name| name.strip_prefix("/deletion_vector_"));
    id.is_some_and(|id| id.ends_with(".bin"))
}

fn serialize(dead: &RoaringTreemap) -> Vec<u8> {
    let mut data = MAGIC.to_le_bytes().to_vec();
    dead.serialize_into(&mut data).expect("writing to memory does not fail");
    data
}

fn deserialize(data: &[u8], name: &str) -> Result<RoaringTreemap> {
    match data.split_at_checked(4) {
        Some((magic, rest)) if magic == MAGIC.to_le_bytes() => {
            RoaringTreemap::deserialize_from(rest)
                .map_err(|error| Error::Unreadable(format!("{name}: {error}")))
        }
        _ => Err(Error::Unreadable(format!("{name}: not a deletion vector of a known format"))),
    }
}

impl VectorFile {
    pub(super) fn new() -> Self {
        VectorFile { id: Uuid::new_v4(), content: vec![1] }
    }

    /// Takes one file's dead rows and gives what its `add` says about them.
    pub(super) fn push(&mut self, dead: &RoaringTreemap) -> DeletionVector {
        let data = serialize(dead);
        let size_in_bytes = i32::try_from(data.len()).expect("a deletion vector is below 2 GiB");
        let cardinality = i64::try_from(dead.len()).expect("rows of a file fit i64");
        if data.len() <= INLINE_BYTES {
            // Base 85 works on groups of four bytes; readers cut the padding off by the size.
            let mut padded = data;
            padded.resize(padded.len().next_multiple_of(4), 0);
            return DeletionVector {
                storage_type: "i".to_owned(),
                path_or_inline_dv: z85::encode(&padded),
                offset: None,
                size_in_bytes,
                cardinality,
            };
        }
        let offset =
            i32::try_from(self.content.len()).expect("vectors of a commit are below 2 GiB");
        self.content.extend(size_in_bytes.to_be_bytes());
        self.content.extend(&data);
        self.content.extend(crc32fast::hash(&data).to_be_bytes());
        DeletionVector {
            storage_type: "u".to_owned(),
            path_or_inline_dv: format!("{FOLDER}{}", z85::encode(self.id.as_bytes())),
            offset: Some(offset),
            size_in_bytes,
            cardinality,
        }
    }

    /// The object to write before the commit, if any vector was too large for the log.
    pub(super) fn finish(self, table: &str) -> Option<(String, Vec<u8>)> {
        (self.content.len() > 1)
            .then(|| (format!("{table}/{}", file_name(FOLDER, self.id)), self.content))
    }
}

/// Reads deletion vectors, each file once.
#[derive(Default)]
pub(super) struct VectorReader {
    files: HashMap<String, Bytes>,
}

impl VectorReader {
    pub(super) fn read(
        &mut self,
        store: &Store,
        table: &str,
        vector: &DeletionVector,
    ) -> Result<RoaringTreemap> {
        let size = usize::try_from(vector.size_in_bytes).unwrap_or(0);
        let text = vector.path_or_inline_dv.as_str();
        let unreadable = |why: &str| Error::Unreadable(format!("{table}: {why}"));
        match vector.storage_type.as_str() {
            "i" => {
                let data = z85::decode(text).map_err(|_| unreadable("bad inline vector"))?;
                deserialize(data.get(..size).unwrap_or_default(), table)
            }
            "u" => {
                let name = object(vector).map(|name| format!("{table}/{name}"));
                let name = name.ok_or_else(|| unreadable("bad name of a deletion vector"))?;
                if !self.files.contains_key(&name) {
                    let missing = || Error::Unreadable(format!("{name} is missing"));
                    let content = store.get(&name)?.ok_or_else(missing)?;
                    self.files.insert(name.clone(), content);
                }
                let content = &self.files[&name];
                let start = usize::try_from(vector.offset.unwrap_or(1)).unwrap_or(usize::MAX);
                let data = framed(content, start, size)
                    .ok_or_else(|| Error::Unreadable(format!("{name}: damaged")))?;
                deserialize(data, &name)
            }
            other => Err(unreadable(&format!("deletion vector of storage type {other}"))),
        }
    }
}

/// The data of one vector in a file of them, if its size and checksum agree.
fn framed(content: &[u8], start: usize, size: usize) -> Option<&[u8]> {
    let framed = content.get(start..start.checked_add(size)?.checked_add(8)?)?;
    let (head, rest) = framed.split_at(4);
    let (data, checksum) = rest.split_at(size);
    let stored = u32::from_be_bytes(checksum.try_into().ok()?);
    let length = u32::from_be_bytes(head.try_into().ok()?) as usize;
    (length == size && crc32fast::hash(data) == stored).then_some(data)
}
