//! WebDataset tars: members of one KEY that stand together are one sample, KEY.jpg with KEY.txt and
//! KEY.json. The image id is KEY, or the member's name where a key has several images; it does not
//! depend on the shard.
//!
//! img2dataset writes such tars, and a Parquet file of the same name beside each, which says of a
//! sample what its members do not.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use schemas::limits;
use serde_json::{Map, Value};

use super::{
    Body, Columns, Counted, Extent, Found, IMAGES, Item, Opened, Wanted,
    ahead::{Ahead, Give, ahead},
    parquet,
};

/// A tar ends with two of them, all zeros.
const BLOCK: u64 = 512;

pub fn open(path: &Path, wanted: &Wanted) -> Result<Opened, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    if size == 0 {
        return Err("the file is empty".into());
    }
    let bytes = Arc::default();
    let extent = Extent::Bytes(Arc::clone(&bytes), size);
    let reader = BufReader::with_capacity(1 << 20, Counted { inner: file, bytes });
    let sidecar = Some(path.with_extension("parquet")).filter(|file| file.is_file());
    let found = samples(path.display().to_string(), reader, sidecar, wanted)?;
    Ok(Opened::new(found, extent))
}

/// The samples of a tar.
pub fn samples(
    name: String,
    reader: impl Read + Send + 'static,
    sidecar: Option<PathBuf>,
    wanted: &Wanted,
) -> Result<Ahead, String> {
    let columns = wanted.columns.clone();
    ahead(name.clone(), move |give| {
        let zeros = Arc::new(AtomicU64::new(0));
        let mut archive = ::tar::Archive::new(Zeros { inner: reader, run: Arc::clone(&zeros) });
        let reading = Reading { name: name.clone(), columns, sidecar: Sidecar::of(sidecar) };
        let ended = read(&mut archive, reading, &give);
        let ended = ended.and_then(|()| match zeros.load(Ordering::Relaxed) {
            run if run >= BLOCK => Ok(()),
            _ => Err("it ends without the mark of a tar's end: cut short".into()),
        });
        if let Err(why) = ended {
            give.give(Found::Broken(name, why));
        }
    })
}

/// Knows how many zeros were read last.
struct Zeros<R> {
    inner: R,
    run: Arc<AtomicU64>,
}

impl<R: Read> Read for Zeros<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(into)?;
        let zeros = into[..count].iter().rev().take_while(|byte| **byte == 0).count();
        let before = if zeros == count { self.run.load(Ordering::Relaxed) } else { 0 };
        self.run.store(before + zeros as u64, Ordering::Relaxed);
        Ok(count)
    }
}

struct Reading {
    name: String,
    columns: Columns,
    sidecar: Sidecar,
}

/// Members of one key.
#[derive(Default)]
struct Sample {
    key: String,
    /// Name and bytes.
    images: Vec<(String, Vec<u8>)>,
    caption: Option<String>,
    fields: Option<Map<String, Value>>,
    broken: Option<String>,
    others: usize,
}

fn read(
    archive: &mut ::tar::Archive<impl Read>,
    mut reading: Reading,
    give: &Give,
) -> Result<(), String> {
    let mut sample = Sample::default();
    for member in archive.entries().map_err(|e| e.to_string())? {
        let mut member = match member {
            Ok(member) => member,
            Err(e) => {
                reading.give(sample, give);
                return Err(format!("{e}; nothing after it can be read"));
            }
        };
        let kind = member.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        let path = member.path_bytes().into_owned();
        let place = || format!("{}: {}", reading.name, String::from_utf8_lossy(&path));
        let Ok(path) = std::str::from_utf8(&path) else {
            let why = "its name is not UTF-8 and would be its image id".to_owned();
            if !give.give(Found::Broken(place(), why)) {
                return Ok(());
            }
            continue;
        };
        let (key, extension) = split(path);
        if key != sample.key && !reading.give(std::mem::take(&mut sample), give) {
            return Ok(());
        }
        sample.key = key.to_owned();
        let last = extension.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let image = IMAGES.contains(&last.as_str());
        if !kind.is_file() || !(image || last == "txt" || last == "json") {
            sample.others += 1;
            continue;
        }
        let max = if image { limits::PUSH_BYTES_MAX } else { limits::PUSH_SIDECAR_BYTES_MAX };
        if member.size() > max as u64 {
            sample.broken = Some(format!("{path}: {} bytes, at most {max}", member.size()));
            continue;
        }
        let mut bytes = Vec::with_capacity(member.size() as usize);
        let read = member.read_to_end(&mut bytes).map_err(|e| format!("{path}: {e}"))?;
        if (read as u64) < member.size() {
            return Err(format!("{path}: {read} of {} bytes are there: cut short", member.size()));
        }
        sample.add(path, image, &last, bytes);
    }
    reading.give(sample, give);
    Ok(())
}

/// Key and extension: a WebDataset's key goes up to the first dot of the member's name.
fn split(path: &str) -> (&str, &str) {
    let path = path.strip_prefix("./").unwrap_or(path);
    let name = path.rfind('/').map_or(0, |at| at + 1);
    // A name that begins with a dot has nothing else to be told by.
    match path[name..].char_indices().skip(1).find(|(_, c)| *c == '.') {
        Some((dot, _)) => (&path[..name + dot], &path[name + dot + 1..]),
        None => (path, ""),
    }
}

impl Sample {
    fn add(&mut self, path: &str, image: bool, extension: &str, bytes: Vec<u8>) {
        if image {
            self.images.push((path.strip_prefix("./").unwrap_or(path).to_owned(), bytes));
            return;
        }
        let broken = |why: String| Some(format!("{path}: {why}"));
        if extension == "txt" {
            match String::from_utf8(bytes) {
                Ok(text) => self.caption = Some(text.trim().to_owned()).filter(|t| !t.is_empty()),
                Err(e) => self.broken = broken(e.to_string()),
            }
        } else {
            match serde_json::from_slice(&bytes) {
                Ok(object) => self.fields = Some(object),
                Err(e) => self.broken = broken(e.to_string()),
            }
        }
    }
}

impl Reading {
    /// Gives what a sample is; false if nobody wants more.
    fn give(&mut self, sample: Sample, give: &Give) -> bool {
        let place = format!("{}: {}", self.name, sample.key);
        if let Some(why) = sample.broken {
            return give.give(Found::Broken(place, why));
        }
        let said = sample.caption.is_some() || sample.fields.is_some();
        if sample.images.is_empty() {
            let status = sample.fields.as_ref().and_then(|f| f.get("status")?.as_str());
            return match (said, status) {
                (true, Some(status)) => {
                    let why = format!("there is no image; its status is {status}");
                    give.give(Found::Without(place, why))
                }
                (true, None) => {
                    let why = "no image of this key stands beside it: members of a key must follow \
                               each other, as `tar --sort=name` packs them";
                    give.give(Found::Broken(place, why.into()))
                }
                (false, _) => (0..sample.others).all(|_| give.give(Found::Other)),
            };
        }
        let mut fields = sample.fields;
        if fields.is_none() {
            match self.sidecar.of_key(&sample.key) {
                Ok(found) => fields = found,
                Err(why) => return give.give(Found::Broken(place, why)),
            }
        }
        let several = sample.images.len() > 1;
        for (name, bytes) in sample.images {
            let mut item = Item {
                place: format!("{}: {name}", self.name),
                body: Body::Bytes(bytes),
                caption: sample.caption.clone(),
                ..Item::default()
            };
            item.id = Some(if several { name } else { sample.key.clone() });
            let described = match &fields {
                Some(fields) => item.describe(fields.clone(), &self.columns),
                None => Ok(()),
            };
            let found = match described {
                Ok(()) => Found::Image(Box::new(item)),
                Err(why) => Found::Broken(item.place, why),
            };
            if !give.give(found) {
                return false;
            }
        }
        (0..sample.others).all(|_| give.give(Found::Other))
    }
}

/// The Parquet file beside a tar, read when a sample needs it.
enum Sidecar {
    None,
    Unread(PathBuf),
    Read(HashMap<String, Map<String, Value>>),
    Unreadable(String),
}

impl Sidecar {
    fn of(path: Option<PathBuf>) -> Sidecar {
        path.map_or(Sidecar::None, Sidecar::Unread)
    }

    fn of_key(&mut self, key: &str) -> Result<Option<Map<String, Value>>, String> {
        if let Sidecar::Unread(path) = self {
            let named = |why| format!("what is said of it stands in {}: {why}", path.display());
            *self = match parquet::by_key(path) {
                Ok(rows) => Sidecar::Read(rows),
                Err(why) => Sidecar::Unreadable(named(why)),
            };
        }
        match self {
            Sidecar::Read(rows) => Ok(rows.remove(key)),
            Sidecar::Unreadable(why) => Err(why.clone()),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_webdataset_has_them() {
        for (path, key, extension) in [
            ("0001.jpg", "0001", "jpg"),
            ("./a/b.c/0001.seg.png", "a/b.c/0001", "seg.png"),
            (".hidden.txt", ".hidden", "txt"),
            ("plain", "plain", ""),
        ] {
            assert_eq!(split(path), (key, extension));
        }
    }
}
