//! Images in a folder, or in a list.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use schemas::limits;
use serde::Deserialize;

const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

/// An image and what is said about it.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// The image id.
    pub id: String,
    /// Its caption; without one, the file beside it may have it.
    pub caption: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// Under which licence.
    pub licence: Option<String>,
    /// The file that may have the caption.
    pub caption_file: Option<PathBuf>,
}

/// One thing that was found.
pub enum Found {
    /// An image to send.
    Image(Image),
    /// The caption of one.
    Caption,
    /// A file that is neither.
    Other,
    /// A file or a line that cannot be used, and why.
    Broken(String, String),
}

/// Everything in a folder, in the order of names, or in a list, in its order. Links to files are
/// followed, links to folders are not: they may lead in circles.
pub fn find(images: &Path) -> anyhow::Result<Box<dyn Iterator<Item = Found>>> {
    if images.is_dir() {
        let mut files = Vec::new();
        walk(images, &mut files)?;
        let folder = images.to_owned();
        return Ok(Box::new(files.into_iter().map(move |file| in_folder(&folder, file))));
    }
    let folder = images.parent().unwrap_or(Path::new("")).to_owned();
    let name = images.display().to_string();
    let file = BufReader::new(File::open(images)?);
    match images.extension().and_then(|e| e.to_str()) {
        Some("jsonl") => {
            let lines = file.lines().enumerate();
            let full = lines.filter(|(_, line)| !line.as_ref().is_ok_and(|l| l.trim().is_empty()));
            Ok(Box::new(full.map(move |(at, line)| {
                let row = line.map_err(|e| e.to_string());
                let row = row.and_then(|l| serde_json::from_str(&l).map_err(|e| e.to_string()));
                listed(&folder, row, || format!("{name} line {}", at + 1))
            })))
        }
        Some("csv") => {
            let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
            if !reader.headers()?.iter().any(|h| h == "path") {
                bail!("the first line must name the columns; path is missing");
            }
            let rows = reader.into_deserialize::<Row>().enumerate();
            Ok(Box::new(rows.map(move |(at, row)| {
                let row = row.map_err(|e| e.to_string());
                listed(&folder, row, || format!("{name} row {}", at + 1))
            })))
        }
        _ => bail!("neither a folder nor a .jsonl or .csv list of images"),
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let in_folder = || folder.display().to_string();
    let entries: Result<Vec<_>, _> = std::fs::read_dir(folder).with_context(in_folder)?.collect();
    let mut entries = entries.with_context(in_folder)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type().with_context(in_folder)?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| extensions.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

fn in_folder(folder: &Path, path: PathBuf) -> Found {
    if !has_extension(&path, &EXTENSIONS) {
        let of_an_image = || EXTENSIONS.iter().any(|e| path.with_extension(e).exists());
        if has_extension(&path, &["txt"]) && of_an_image() {
            return Found::Caption;
        }
        return Found::Other;
    }
    let inner = path.strip_prefix(folder).unwrap_or(&path);
    let names: Option<Vec<&str>> = inner.iter().map(|name| name.to_str()).collect();
    match names {
        Some(names) => {
            let caption_file = Some(path.with_extension("txt"));
            Found::Image(Image { id: names.join("/"), path, caption_file, ..Image::default() })
        }
        None => Found::Broken(path.display().to_string(), "its name is not UTF-8".into()),
    }
}

#[derive(Deserialize)]
struct Row {
    path: String,
    id: Option<String>,
    caption: Option<String>,
    source: Option<String>,
    #[serde(alias = "license")]
    licence: Option<String>,
}

fn listed(folder: &Path, row: Result<Row, String>, place: impl Fn() -> String) -> Found {
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    match row {
        Err(why) => Found::Broken(place(), why),
        Ok(row) if row.path.is_empty() => Found::Broken(place(), "path is empty".into()),
        Ok(row) => Found::Image(Image {
            path: folder.join(&row.path),
            id: given(row.id).unwrap_or(row.path),
            caption: given(row.caption),
            source: given(row.source),
            licence: given(row.licence),
            caption_file: None,
        }),
    }
}

impl Image {
    /// Reads the image, and its caption if that is in a file of its own. Gives the reason why it
    /// cannot be sent.
    pub fn read(&mut self) -> Result<Vec<u8>, String> {
        let (bytes, max) = (self.id.len(), limits::IMAGE_ID_BYTES_MAX);
        if bytes > max {
            return Err(format!("its id has {bytes} bytes, at most {max}"));
        }
        if let Some(file) = &self.caption_file {
            self.caption = caption(file).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        let file = File::open(&self.path).map_err(|e| e.to_string())?;
        let max = limits::ENCODED_BYTES_MAX;
        let mut bytes = Vec::new();
        file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        match bytes.len() {
            0 => Err("the file is empty".into()),
            len if len > max => Err(format!("more than {max} bytes: make it smaller")),
            _ => Ok(bytes),
        }
    }

    /// The headers of its message.
    pub fn headers(&self, defaults: &Image) -> Vec<(String, String)> {
        let fields = [
            ("caption", self.caption.as_ref()),
            ("source", self.source.as_ref().or(defaults.source.as_ref())),
            ("licence", self.licence.as_ref().or(defaults.licence.as_ref())),
        ];
        fields.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.clone()))).collect()
    }
}

/// The first line of the file, if there is such a file, and anything in that line.
fn caption(path: &Path) -> std::io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut line = String::new();
    // Longer than a caption may be, so that a long one is rejected with its length and not cut.
    BufReader::new(file).take(4 * limits::TEXT_BYTES_MAX as u64).read_line(&mut line)?;
    Ok(Some(line.trim().to_owned()).filter(|l| !l.is_empty()))
}
