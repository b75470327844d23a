//! From what a person names to images, one by one, in an order that is always the same.
//!
//! The number of a thing in its input is its place in the journal of `--resume`, so a source gives
//! the same things in the same order as long as the input is the same.

mod ahead;
mod fields;
mod folder;
mod list;
mod parquet;
mod sniff;
mod stdin;
mod tar;

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use anyhow::{Context, bail};
use schemas::limits;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use self::{fields::Columns, stdin::StdinKind};

/// What names of image files end in.
pub(super) const IMAGES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

/// An image and what is said about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// Where it is, for a person.
    pub place: String,
    /// Its id; none is the sha256 of its bytes.
    pub id: Option<String>,
    /// Its bytes, or where they are.
    pub body: Body,
    /// Its address.
    pub uri: Option<String>,
    /// Its caption.
    pub caption: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// Under which licence.
    pub licence: Option<String>,
    /// A file whose first line is the caption.
    pub caption_file: Option<PathBuf>,
    /// A file of JSON that says all this.
    pub json_file: Option<PathBuf>,
    /// Whatever else is said.
    pub attributes: Map<String, Value>,
}

/// The bytes of an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Body {
    /// There are none: only an address.
    #[default]
    None,
    /// Of a file that is still to be read.
    File(PathBuf),
    /// Read.
    Bytes(Vec<u8>),
}

/// One thing that was found.
#[derive(Debug)]
pub enum Found {
    /// An image to send.
    Image(Box<Item>),
    /// Part of what is said about an image.
    Part,
    /// What is neither.
    Other,
    /// A place where an image could be and is none, and why.
    Without(String, String),
    /// What cannot be used: where, and why.
    Broken(String, String),
}

/// One input.
#[derive(Clone, Debug)]
pub struct Input {
    /// The file or folder; `-` is standard input.
    pub path: PathBuf,
    /// Ids of files begin below it.
    base: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    Image,
    Tar,
    Parquet,
    List(list::Format),
    Stdin(StdinKind),
}

/// What to take from inputs.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Columns and fields by name.
    pub columns: Columns,
    /// Also what has no name of its own in a message.
    pub attributes: bool,
    /// Addresses only.
    pub by_reference: bool,
}

/// An input that is being read.
pub struct Opened {
    /// What is in it.
    pub found: Box<dyn Iterator<Item = Found>>,
    /// How far reading is.
    pub extent: Extent,
    /// What a person should know about how it is read.
    pub notes: Vec<String>,
}

impl Opened {
    fn new(found: impl Iterator<Item = Found> + 'static, extent: Extent) -> Opened {
        Opened { found: Box::new(found), extent, notes: Vec::new() }
    }
}

/// How far reading is, in units of its own.
pub enum Extent {
    /// Nobody knows where the end is.
    Unknown,
    /// So many things.
    Things(u64),
    /// So many bytes read of so many.
    Bytes(Arc<AtomicU64>, u64),
}

impl Extent {
    /// From 0 to 1, after so many things.
    pub fn fraction(&self, things: u64) -> Option<f64> {
        let (done, all) = match self {
            Extent::Unknown => return None,
            Extent::Things(all) => (things, *all),
            Extent::Bytes(done, all) => (done.load(Ordering::Relaxed), *all),
        };
        Some(if all == 0 { 1.0 } else { (done as f64 / all as f64).min(1.0) })
    }
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(into)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// What the arguments name, in their order; the matches of a pattern in the order of their names.
pub fn inputs(named: &[PathBuf], stdin: StdinKind) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in named {
        if path.as_os_str() == "-" {
            if inputs.iter().any(|input: &Input| matches!(input.kind, Kind::Stdin(_))) {
                bail!("-: standard input can be read once");
            }
            let kind = Kind::Stdin(stdin);
            inputs.push(Input { path: path.clone(), base: PathBuf::new(), kind });
            continue;
        }
        let text = path.to_str().filter(|text| text.contains(['*', '?', '[']));
        match text {
            Some(pattern) if !path.exists() => {
                let (base, pattern_of) = literal_part(path);
                let bad = || {
                    format!(
                        "{pattern}: there is no such file, and it is no pattern either (*, ?, \
                         [a-z], ** for any folders; [[] is a bracket)"
                    )
                };
                let matches = glob::glob(&pattern_of).with_context(bad)?;
                let matches: Result<Vec<PathBuf>, _> = matches.collect();
                let mut matches = matches.with_context(|| pattern.to_owned())?;
                // As in a folder: what is hidden must be named.
                if !folder::is_hidden(path.strip_prefix(&base).unwrap_or(path)) {
                    matches
                        .retain(|one| !folder::is_hidden(one.strip_prefix(&base).unwrap_or(one)));
                }
                if matches.is_empty() {
                    bail!("{pattern}: nothing matches");
                }
                for one in matches {
                    inputs.push(Input { kind: kind_of(&one)?, path: one, base: base.clone() });
                }
            }
            _ => {
                let kind = kind_of(path)?;
                let base = match kind {
                    Kind::Folder => path.clone(),
                    _ => path.parent().unwrap_or(Path::new("")).to_owned(),
                };
                inputs.push(Input { path: path.clone(), base, kind });
            }
        }
    }
    Ok(inputs)
}

/// The folders of a pattern before its first part that stands for several names, and the pattern
/// with these taken as they are: a folder may have `[` or `*` in its own name.
fn literal_part(pattern: &Path) -> (PathBuf, String) {
    let mut base = PathBuf::new();
    let mut parts = pattern.iter().peekable();
    while let Some(part) = parts.peek() {
        let stands_for_several = part.to_string_lossy().contains(['*', '?', '[']);
        if stands_for_several && !base.join(part).exists() {
            break;
        }
        base.push(part);
        parts.next();
    }
    let mut whole = PathBuf::from(glob::Pattern::escape(&base.to_string_lossy()));
    whole.extend(parts);
    (base, whole.to_string_lossy().into_owned())
}

fn kind_of(path: &Path) -> anyhow::Result<Kind> {
    let about = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    if about.is_dir() {
        return Ok(Kind::Folder);
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    Ok(match extension.to_ascii_lowercase().as_str() {
        e if IMAGES.contains(&e) => Kind::Image,
        "tar" => Kind::Tar,
        "parquet" => Kind::Parquet,
        "jsonl" | "ndjson" => Kind::List(list::Format::Jsonl),
        "csv" => Kind::List(list::Format::Csv),
        "gz" | "tgz" | "zst" | "bz2" | "xz" => bail!(
            "{}: compressed: unpack it on the way, zcat {0} | everpair push - --stdin tar",
            path.display()
        ),
        _ => bail!(
            "{}: neither a folder, an image, a .tar, .parquet, .jsonl nor .csv file",
            path.display()
        ),
    })
}

impl Input {
    /// For a person, and in the journal.
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Stdin(_) => "standard input".into(),
            _ => self.path.display().to_string(),
        }
    }

    /// Whether it is a folder, an image or a list.
    pub fn is_files(&self) -> bool {
        matches!(self.kind, Kind::Folder | Kind::Image | Kind::List(_))
    }

    /// Whether it can be read only once.
    pub fn is_stdin(&self) -> bool {
        matches!(self.kind, Kind::Stdin(_))
    }

    /// Opens it behind its first `skip` things.
    ///
    /// # Errors
    /// Why nothing of it can be read, in words.
    pub fn open(&self, wanted: &Wanted, skip: u64) -> Result<Opened, String> {
        let at = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut opened = match self.kind {
            // Reads from where it should, which costs nothing to skip.
            Kind::Parquet => return parquet::open(&self.path, wanted, skip),
            Kind::Folder => folder::open(&self.path, &self.base)?,
            Kind::Image => folder::one(&self.path, &self.base),
            Kind::Tar => tar::open(&self.path, wanted)?,
            Kind::List(format) => list::open(&self.path, format, wanted)?,
            Kind::Stdin(kind) => stdin::open(kind, wanted)?,
        };
        opened.found = Box::new(opened.found.skip(at));
        Ok(opened)
    }

    /// What changes when the input does: names, sizes and times of change.
    pub fn fingerprint(&self) -> anyhow::Result<String> {
        let mut hash = Sha256::new();
        let mut add = |path: &Path| -> anyhow::Result<()> {
            let about = std::fs::metadata(path).with_context(|| path.display().to_string())?;
            let changed = about.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            let changed = changed.map_or(0, |t| t.as_nanos());
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update(format!("\0{}\0{changed}\0", about.len()));
            Ok(())
        };
        match self.kind {
            Kind::Folder => {
                let walked = folder::walk(&self.path);
                // A link that leads nowhere has no size, and is said when it is read.
                walked.files.iter().for_each(|file| drop(add(file)));
            }
            _ => add(&self.path)?,
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Reads at most `max` bytes; a file that has more is refused.
pub fn read_at_most(path: &Path, max: usize) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() > max { Err(format!("more than {max} bytes")) } else { Ok(bytes) }
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| extensions.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

impl Item {
    /// Takes what JSON beside the image says of it: the rest are attributes.
    pub fn describe(
        &mut self,
        fields: Map<String, Value>,
        columns: &Columns,
    ) -> Result<(), String> {
        let mut said = fields::take(fields, columns)?;
        let or = |mine: &mut Option<String>, said: &mut Option<String>| {
            if mine.is_none() {
                *mine = said.take();
            }
        };
        or(&mut self.caption, &mut said.caption);
        or(&mut self.uri, &mut said.uri);
        or(&mut self.source, &mut said.source);
        or(&mut self.licence, &mut said.licence);
        self.attributes.append(&mut said.rest);
        Ok(())
    }

    /// Reads the files beside the image.
    pub fn read_beside(&mut self, columns: &Columns) -> Result<(), String> {
        if let Some(file) = self.caption_file.take() {
            let caption = folder::caption(&file);
            self.caption = caption.map_err(|e| format!("{}: {e}", file.display()))?;
        }
        if let Some(file) = self.json_file.take() {
            let named = |why: String| format!("{}: {why}", file.display());
            let text = read_at_most(&file, limits::PUSH_SIDECAR_BYTES_MAX).map_err(named)?;
            let object = serde_json::from_slice(&text).map_err(|e| named(e.to_string()))?;
            self.describe(object, columns).map_err(named)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_begin_where_a_pattern_does() {
        for (pattern, base) in [
            ("photos/*/a?.jpg", "photos"),
            ("*.jpg", ""),
            ("/data/x[12]/b.jpg", "/data"),
            ("/data/plain/b.jpg", "/data/plain/b.jpg"),
        ] {
            let (found, whole) = literal_part(Path::new(pattern));
            assert_eq!((found.as_path(), whole.as_str()), (Path::new(base), pattern));
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a[1]*");
        std::fs::create_dir(&folder).unwrap();
        let (found, whole) = literal_part(&folder.join("[12].jpg"));
        assert_eq!(found, folder);
        assert!(whole.ends_with("/a[[]1[]][*]/[12].jpg"), "{whole}");
    }

    #[test]
    fn extents() {
        assert_eq!(Extent::Unknown.fraction(3), None);
        assert_eq!(Extent::Things(4).fraction(1), Some(0.25));
        assert_eq!(Extent::Things(0).fraction(0), Some(1.0));
        assert_eq!(Extent::Bytes(Arc::new(AtomicU64::new(9)), 6).fraction(0), Some(1.0));
    }
}
