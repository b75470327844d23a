//! What to do with an image that is too large for one message.

use std::{path::Path, str::FromStr};

use kernels::{
    decode::{self, Limits},
    resize,
};
use schemas::{ContentId, config::Config, limits};
use url::Url;

use crate::delta::Store;

/// Below this an image is worth nothing.
const SIDE_MIN: u32 = 64;

/// `--oversize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// Make it smaller, until it fits.
    Fit,
    /// Leave it out.
    Skip,
    /// Keep it there, and send its address.
    Store(String),
}

impl FromStr for Oversize {
    type Err = String;

    fn from_str(text: &str) -> Result<Oversize, String> {
        match text {
            "fit" => Ok(Oversize::Fit),
            "skip" => Ok(Oversize::Skip),
            _ => match text.strip_prefix("store:") {
                Some(uri) if !uri.is_empty() => Ok(Oversize::Store(uri.to_owned())),
                _ => Err("one of fit, skip, store:FOLDER, store:s3://BUCKET/PATH".into()),
            },
        }
    }
}

/// The largest JPEG (quality 90, as the service keeps its copies) of an image that has at most
/// `room` bytes, and how it differs, in words. Upright, in RGB, without metadata.
pub fn fit(bytes: &[u8], room: usize) -> Result<(Vec<u8>, String), String> {
    let limits = Limits { encoded_bytes_max: limits::PUSH_BYTES_MAX, ..Limits::default() };
    let decoded = decode::decode(bytes, &limits).map_err(|e| format!("cannot be resized: {e}"))?;
    let mut side = decoded.width.max(decoded.height);
    loop {
        let small = resize::fit(&decoded.pixels, side);
        let jpeg = resize::encode_jpeg(&small, limits::STORED_JPEG_QUALITY);
        if jpeg.len() <= room {
            let how = format!(
                "{} bytes of {}, {} x {}, became {} bytes of jpeg, {} x {}",
                bytes.len(),
                decoded.format.as_str(),
                decoded.width,
                decoded.height,
                jpeg.len(),
                small.width,
                small.height
            );
            return Ok((jpeg, how));
        }
        if side <= SIDE_MIN {
            return Err(format!("does not fit into {room} bytes at {SIDE_MIN} pixels either"));
        }
        // Bytes go about with the area; a little less, or the last step would never be done.
        let factor = (room as f64 / jpeg.len() as f64).sqrt().clamp(0.2, 0.97) * 0.98;
        side = ((f64::from(side) * factor) as u32).max(SIDE_MIN);
    }
}

/// Where images are kept that are too large.
pub struct Shelf {
    store: Store,
    /// Addresses begin with it, and it ends in a slash.
    uri: String,
}

impl Shelf {
    /// Opens a folder or an object store. That of the tables has the settings of the tables.
    pub fn open(uri: &str, config: Option<&Config>) -> anyhow::Result<Shelf> {
        let file = Url::parse(uri).ok().filter(|url| url.scheme() == "file");
        let folder = match file {
            Some(url) => url.to_file_path().ok(),
            None => (!uri.contains("://")).then(|| Path::new(uri).to_owned()),
        };
        if let Some(folder) = folder {
            let folder = std::path::absolute(folder)?;
            let store = Store::folder(&folder)?;
            let url = Url::from_directory_path(&folder);
            let url = url.map_err(|()| anyhow::anyhow!("{}: no folder", folder.display()))?;
            return Ok(Shelf { store, uri: url.to_string() });
        }
        let scheme = |uri: &str| uri.split_once("://").map(|(scheme, _)| scheme.to_owned());
        let same = config.filter(|config| scheme(&config.tables.root) == scheme(uri));
        let settings = same.map(|config| config.tables.settings.clone()).unwrap_or_default();
        let store = Store::open(uri, &settings)?;
        Ok(Shelf { store, uri: format!("{}/", uri.trim_end_matches('/')) })
    }

    /// Keeps an image under the sha256 of its bytes, and gives its address.
    pub fn keep(&self, bytes: Vec<u8>) -> Result<String, String> {
        let extension = decode::Format::of(&bytes).map_or("bin", |format| format.as_str());
        let name = format!("{}.{extension}", ContentId::of(&bytes).hex());
        let uri = format!("{}{name}", self.uri);
        self.store.replace(&name, bytes).map_err(|e| format!("cannot be stored at {uri}: {e}"))?;
        Ok(uri)
    }
}

#[cfg(test)]
mod tests {
    use kernels::decode::Pixels;

    use super::*;

    #[test]
    fn the_largest_that_fits() {
        let (mut state, mut noise) = (1u32, Vec::new());
        for _ in 0..400 * 300 * 3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.push((state >> 24) as u8);
        }
        let bytes = resize::encode_jpeg(&Pixels { width: 400, height: 300, rgb: noise }, 100);
        for room in [bytes.len() / 2, bytes.len() / 5, bytes.len() / 20] {
            let (small, how) = fit(&bytes, room).unwrap();
            assert!(small.len() <= room && small.len() > room / 3, "{} of {room}", small.len());
            let back = decode::decode(&small, &Limits::default()).unwrap();
            assert!((f64::from(back.width) / f64::from(back.height) - 4.0 / 3.0).abs() < 0.02);
            assert!(how.contains("400 x 300"), "{how}");
        }
        assert!(fit(&bytes, 100).unwrap_err().contains("64 pixels"));
        assert!(fit(b"no image", 100).unwrap_err().contains("cannot be resized"));
    }

    #[test]
    fn words() {
        assert_eq!("fit".parse(), Ok(Oversize::Fit));
        assert_eq!("store:s3://b/p".parse(), Ok(Oversize::Store("s3://b/p".into())));
        assert!("store:".parse::<Oversize>().is_err() && "x".parse::<Oversize>().is_err());
    }

    #[test]
    fn a_folder_keeps_images_under_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for uri in [dir.path().display().to_string(), format!("file://{}", dir.path().display())] {
            let shelf = Shelf::open(&uri, None).unwrap();
            let kept = shelf.keep(b"\xff\xd8\xff...".to_vec()).unwrap();
            let path = Url::parse(&kept).unwrap().to_file_path().unwrap();
            assert_eq!(std::fs::read(path).unwrap(), b"\xff\xd8\xff...");
            assert!(kept.ends_with(&format!("{}.jpeg", ContentId::of(b"\xff\xd8\xff...").hex())));
        }
    }
}
