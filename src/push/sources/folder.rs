//! Images in folders; NAME.txt and NAME.json beside NAME.jpg belong to it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use schemas::limits;

use super::{Body, Extent, Found, IMAGES, Item, Opened, has_extension};

/// Names of hidden files and folders that are shown.
const HIDDEN_SHOWN: usize = 3;

/// What is below a folder.
#[derive(Default)]
pub struct Walked {
    /// All files but hidden ones, sorted.
    pub files: Vec<PathBuf>,
    /// What cannot be listed, and why.
    broken: Vec<(String, String)>,
    /// Files and folders whose names begin with a dot: what editors, version control and macOS
    /// (`._NAME.jpg`) keep there is no image that anyone meant.
    hidden: Vec<PathBuf>,
}

/// Everything below a folder, in the order of names, but for what is hidden. Links to files are
/// followed, links to folders are not: they may lead in circles.
pub fn open(folder: &Path, base: &Path) -> Result<Opened, String> {
    let Walked { files, broken, hidden } = walk(folder);
    let others = files.iter().filter(|f| has_extension(f, &["tar", "parquet"])).count();
    let extent = Extent::Things((files.len() + broken.len()) as u64);
    let base = base.to_owned();
    let found = files.into_iter().map(move |file| sort(&base, file));
    let broken = broken.into_iter().map(|(place, why)| Found::Broken(place, why));
    let mut opened = Opened::new(found.chain(broken), extent);
    if others > 0 {
        let name = folder.display();
        opened.notes.push(format!(
            "{name}: {others} .tar and .parquet files in it are left alone; to send what is in \
             them name them, as in '{name}/*.tar'"
        ));
    }
    if let [first, ..] = hidden.as_slice() {
        let shown: Vec<String> =
            hidden.iter().take(HIDDEN_SHOWN).map(|path| below(path, folder)).collect();
        let more = if hidden.len() > HIDDEN_SHOWN { ", …" } else { "" };
        opened.notes.push(format!(
            "{}: {} hidden files and folders in it are skipped ({}{more}); to send one name it: {}",
            folder.display(),
            hidden.len(),
            shown.join(", "),
            first.display()
        ));
    }
    Ok(opened)
}

fn below(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

/// One image.
pub fn one(path: &Path, base: &Path) -> Opened {
    Opened::new(std::iter::once(sort(base, path.to_owned())), Extent::Things(1))
}

/// Whether a part of this path is hidden.
pub fn is_hidden(path: &Path) -> bool {
    path.iter().any(|part| part.as_encoded_bytes().starts_with(b".") && part != "." && part != "..")
}

/// Everything below a folder.
pub fn walk(folder: &Path) -> Walked {
    let mut walked = Walked::default();
    visit(folder, &mut walked);
    walked
}

fn visit(folder: &Path, walked: &mut Walked) {
    let mut say =
        |e: std::io::Error| walked.broken.push((folder.display().to_string(), e.to_string()));
    let mut entries = Vec::new();
    match std::fs::read_dir(folder) {
        Err(e) => return say(e),
        Ok(listed) => {
            for entry in listed {
                match entry {
                    Ok(entry) => entries.push(entry),
                    Err(e) => say(e),
                }
            }
        }
    }
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if is_hidden(Path::new(&entry.file_name())) {
            walked.hidden.push(entry.path());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), walked);
        } else {
            walked.files.push(entry.path());
        }
    }
}

fn sort(base: &Path, path: PathBuf) -> Found {
    if !has_extension(&path, &IMAGES) {
        let of_an_image = || IMAGES.iter().any(|e| path.with_extension(e).exists());
        if has_extension(&path, &["txt", "json"]) && of_an_image() {
            return Found::Part;
        }
        return Found::Other;
    }
    let inner = path.strip_prefix(base).unwrap_or(&path);
    let names: Option<Vec<&str>> = inner.iter().map(|name| name.to_str()).collect();
    match names {
        Some(names) => {
            let json_file = Some(path.with_extension("json")).filter(|file| file.is_file());
            Found::Image(Box::new(Item {
                place: path.display().to_string(),
                id: Some(names.join("/")),
                caption_file: Some(path.with_extension("txt")),
                json_file,
                body: Body::File(path),
                ..Item::default()
            }))
        }
        None => {
            let why = "its name is not UTF-8 and would be its image id: rename it";
            Found::Broken(path.display().to_string(), why.into())
        }
    }
}

/// The first line of the file, if there is such a file, and anything in that line.
pub fn caption(path: &Path) -> std::io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut line = String::new();
    // Longer than a caption may be, so that a long one is refused with its length and not cut.
    BufReader::new(file).take(limits::PUSH_SIDECAR_BYTES_MAX as u64).read_line(&mut line)?;
    Ok(Some(line.trim().to_owned()).filter(|l| !l.is_empty()))
}
