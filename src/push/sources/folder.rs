//! Images in folders; NAME.txt and NAME.json beside NAME.jpg belong to it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use schemas::limits;

use super::{Body, Extent, Found, IMAGES, Item, Opened, has_extension};

/// Everything below a folder, in the order of names. Links to files are followed, links to folders
/// are not: they may lead in circles.
pub fn open(folder: &Path, base: &Path) -> Result<Opened, String> {
    let (files, broken) = walk(folder);
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
    Ok(opened)
}

/// One image.
pub fn one(path: &Path, base: &Path) -> Opened {
    Opened::new(std::iter::once(sort(base, path.to_owned())), Extent::Things(1))
}

/// All files below a folder, sorted, and what cannot be listed.
pub fn walk(folder: &Path) -> (Vec<PathBuf>, Vec<(String, String)>) {
    let (mut files, mut broken) = (Vec::new(), Vec::new());
    visit(folder, &mut files, &mut broken);
    (files, broken)
}

fn visit(folder: &Path, files: &mut Vec<PathBuf>, broken: &mut Vec<(String, String)>) {
    let mut say = |e: std::io::Error| broken.push((folder.display().to_string(), e.to_string()));
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
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path(), files, broken);
        } else {
            files.push(entry.path());
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
