//! Images of a folder or a list, for those who look at them without sending.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use schemas::limits;

use super::sources::{self, Body, Columns, StdinKind, Wanted, read_at_most};
pub use super::sources::{Found, Item as Image};

/// What names of image files end in.
pub const ENDINGS: [&str; 5] = sources::IMAGES;

/// Everything in a folder, in the order of names, or in a list, in its order.
pub fn find(images: &Path) -> anyhow::Result<Box<dyn Iterator<Item = Found>>> {
    match &sources::inputs(&[images.to_owned()], StdinKind::List)?[..] {
        [input] if input.is_files() => {
            let opened = input.open(&Wanted::default(), 0);
            Ok(opened.map_err(|why| anyhow!(why))?.found)
        }
        _ => bail!("neither a folder nor a .jsonl or .csv list of images"),
    }
}

/// Everything in folders, images, lists, tars and Parquet files, in their order, with whatever else
/// is said about an image.
///
/// # Errors
/// One of them cannot be opened; standard input is none of them.
pub fn find_all(named: &[PathBuf]) -> anyhow::Result<Box<dyn Iterator<Item = Found>>> {
    let wanted = Wanted { attributes: true, ..Wanted::default() };
    let mut all: Vec<Box<dyn Iterator<Item = Found>>> = Vec::new();
    for input in sources::inputs(named, StdinKind::List)? {
        if input.is_stdin() {
            bail!("-: images come from folders and files here");
        }
        let opened = input.open(&wanted, 0);
        all.push(opened.map_err(|why| anyhow!("{}: {why}", input.name()))?.found);
    }
    Ok(Box::new(all.into_iter().flatten()))
}

impl Image {
    /// What it is called: its id, or where it is.
    pub fn name(&self) -> String {
        self.id.clone().unwrap_or_else(|| self.place.clone())
    }

    /// Reads the image, and what stands beside it. Gives the reason why it cannot be used.
    pub fn read(&mut self) -> Result<Vec<u8>, String> {
        self.read_beside(&Columns::default())?;
        let bytes = match std::mem::take(&mut self.body) {
            Body::File(path) => read_at_most(&path, limits::ENCODED_BYTES_MAX)?,
            Body::Bytes(bytes) => bytes,
            Body::None => return Err("only its address is there".into()),
        };
        if bytes.is_empty() { Err("the file is empty".into()) } else { Ok(bytes) }
    }
}
