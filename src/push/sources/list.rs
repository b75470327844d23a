//! Lists: a line of JSON or a row of CSV says where an image is, and what is said about it.
//!
//! `path` (or `file_name`, `file`, `filepath`; from the list's folder on), `url` or `uri`, or
//! `image` with the bytes in base64.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::Engine as _;
use schemas::limits;
use serde_json::{Map, Value};

use super::{Body, Columns, Counted, Extent, Found, Item, Opened, Wanted, fields, sniff};

const PATH: [&str; 4] = ["path", "file_name", "file", "filepath"];
/// Of what is not understood so many characters are shown.
const SHOWN: usize = 40;
/// Longer than this no path is.
const PATH_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Jsonl,
    Csv,
}

pub fn open(path: &Path, format: Format, wanted: &Wanted) -> Result<Opened, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let bytes = Arc::default();
    let extent = Extent::Bytes(Arc::clone(&bytes), size);
    let (is, reader) = sniff::head(Counted { inner: file, bytes })?;
    if let Some(why) = sniff::no_list(is) {
        return Err(why);
    }
    let reader = BufReader::new(reader);
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let list = List { name: path.display().to_string(), folder, columns: wanted.columns.clone() };
    Ok(match format {
        Format::Jsonl => Opened::new(list.lines(reader), extent),
        Format::Csv => Opened::new(list.rows(reader)?, extent),
    })
}

/// How the rows of a list are read.
pub struct List {
    pub name: String,
    /// Paths begin here.
    pub folder: PathBuf,
    pub columns: Columns,
}

impl List {
    /// Of a list in JSON; blank lines are none.
    pub fn lines(self, mut reader: impl BufRead) -> impl Iterator<Item = Found> {
        let (mut number, mut ended) = (0, false);
        std::iter::from_fn(move || {
            loop {
                if ended {
                    return None;
                }
                number += 1;
                let place = format!("{} line {number}", self.name);
                match line(&mut reader) {
                    Ok(None) => return None,
                    Ok(Some(text)) if text.trim_ascii().is_empty() => continue,
                    Ok(Some(text)) => {
                        let row = serde_json::from_slice(&text).map_err(|e| e.to_string());
                        return Some(self.found(row, place));
                    }
                    Err(why) => {
                        ended = true;
                        return Some(Found::Broken(place, why));
                    }
                }
            }
        })
    }

    fn rows(self, reader: impl Read) -> Result<impl Iterator<Item = Found>, String> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
        let header = reader.headers().map_err(|e| e.to_string())?.clone();
        let known = [&PATH[..], &fields::URI, &fields::IMAGE].concat();
        let chosen = [&self.columns.image_column, &self.columns.uri_column].map(Option::as_deref);
        let mut names = header.iter();
        if !names
            .any(|h| known.iter().any(|k| h.eq_ignore_ascii_case(k)) || chosen.contains(&Some(h)))
        {
            let there: Vec<&str> = header.iter().collect();
            let why =
                "the first line must name the columns, and one of path, url or image be there";
            return Err(format!("{why}; it has {}", there.join(", ")));
        }
        let rows = reader.into_records().enumerate();
        Ok(rows.map(move |(at, row)| {
            let row = row.map_err(|e| e.to_string()).map(|row| {
                let cells = header.iter().zip(row.iter()).filter(|(_, cell)| !cell.is_empty());
                cells.map(|(name, cell)| (name.to_owned(), cell.into())).collect()
            });
            self.found(row, format!("{} row {}", self.name, at + 1))
        }))
    }

    fn found(&self, row: Result<Map<String, Value>, String>, place: String) -> Found {
        let item = row.and_then(|row| self.item(row, place.clone()));
        match item {
            Ok(item) => Found::Image(Box::new(item)),
            Err(why) => Found::Broken(place, why),
        }
    }

    fn item(&self, mut row: Map<String, Value>, place: String) -> Result<Item, String> {
        let path = fields::text(&mut row, None, &PATH)?;
        let chosen = self.columns.image_column.as_deref();
        let field = fields::name_of(row.keys().map(String::as_str), chosen, &fields::IMAGE);
        let field = field.unwrap_or_default();
        let image = fields::text(&mut row, chosen, &fields::IMAGE)?;
        let said = fields::take(row, &self.columns)?;
        let mut item = Item {
            place,
            id: said.id,
            uri: said.uri,
            caption: said.caption,
            source: said.source,
            licence: said.licence,
            attributes: said.rest,
            ..Item::default()
        };
        let path = match (path, image) {
            (None, Some(image)) => match read_image(&image, &self.folder)
                .map_err(|why| format!("field {field:?}: {why}"))?
            {
                Image::Bytes(bytes) => {
                    item.body = Body::Bytes(bytes);
                    None
                }
                Image::Uri(uri) => {
                    item.uri.get_or_insert(uri);
                    None
                }
                Image::Path(path) => Some(path),
            },
            (path, image) => {
                if let Some(image) = image {
                    item.attributes.insert("column.image".into(), image.into());
                }
                path
            }
        };
        if let Some(path) = path {
            item.body = Body::File(self.folder.join(&path));
            // A list that is long enough to be told apart by its lines names its files, too.
            item.place = format!("{} ({path})", item.place);
            item.id.get_or_insert(path);
        }
        if item.body == Body::None {
            let uri = item.uri.clone().ok_or("neither path, url nor image is there")?;
            item.id.get_or_insert(uri);
        }
        Ok(item)
    }
}

enum Image {
    Bytes(Vec<u8>),
    Uri(String),
    Path(String),
}

/// Lists call all three `image`. A path is one where a file is: bad base64 looks like any name.
fn read_image(text: &str, folder: &Path) -> Result<Image, String> {
    let data = text.strip_prefix("data:").and_then(|data| data.split_once(";base64,"));
    if data.is_none() && text.get(..64.min(text.len())).is_some_and(|t| t.contains("://")) {
        return Ok(Image::Uri(text.to_owned()));
    }
    let base64 = data.map_or(text, |(_, base64)| base64);
    match base64::engine::general_purpose::STANDARD.decode(base64) {
        Ok(bytes) if data.is_some() || kernels::decode::Format::of(&bytes).is_some() => {
            Ok(Image::Bytes(bytes))
        }
        Err(e) if data.is_some() || text.len() > PATH_BYTES_MAX => {
            Err(format!("its base64 cannot be read: {e}"))
        }
        Ok(bytes) if text.len() > PATH_BYTES_MAX => Ok(Image::Bytes(bytes)),
        _ if folder.join(text).exists() => Ok(Image::Path(text.to_owned())),
        decoded => {
            let why = match decoded {
                Ok(_) => "as base64 its bytes are no JPEG, PNG, WebP or GIF".to_owned(),
                Err(e) => format!("as base64: {e}"),
            };
            let shown: String = text.chars().take(SHOWN).collect();
            let more = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
            Err(format!(
                "{shown:?}{more} is neither an image in base64, nor an address, nor a file \
                         that is there ({why})"
            ))
        }
    }
}

/// The next line; none at the end. One that is too long is the end.
fn line(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let (max, mut line) = (limits::LOG_LINE_BYTES_MAX, Vec::new());
    let mut limited = reader.by_ref().take(max as u64 + 1);
    let read = limited.read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
    if read > max {
        return Err(format!("longer than {max} bytes; nothing after it is read"));
    }
    Ok((read > 0).then_some(line))
}
