//! One message's bytes to pixels.
//!
//! JPEG goes to zune-jpeg, PNG, WebP and GIF (first frame) to the `image` crate. The size is read
//! from the header and held against [`Limits`] before anything of that size is allocated. What a
//! decoder could only have guessed (a file cut short, a broken stream) is an error: an image whose
//! lower half is grey is not training data.

mod announced;

use std::cell::Cell;
use std::fmt;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use self::announced::check_size;

/// What an image may cost. Decoding holds at most about 15 bytes per pixel at once (a PNG of 16 bits
/// per channel with alpha); three for a usual JPEG, and six to twelve for a progressive one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes a file may have.
    pub encoded_bytes_max: usize,
    /// The most pixels, width × height, an image may have.
    pub pixels_max: u64,
    /// The most pixels a side may have.
    pub side_max: u32,
}

impl Default for Limits {
    /// 32 MiB, 89,478,485 pixels (where Pillow begins to speak of decompression bombs) and 30,000
    /// pixels a side.
    fn default() -> Limits {
        Limits { encoded_bytes_max: 32 << 20, pixels_max: 89_478_485, side_max: 30_000 }
    }
}

/// What the first bytes say a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// `FF D8 FF`
    Jpeg,
    /// `89 P N G \r \n 1A \n`
    Png,
    /// `RIFF`, four bytes of length, `WEBP`
    Webp,
    /// `GIF87a` or `GIF89a`
    Gif,
}

impl Format {
    /// Looks at the first bytes, never at a name or a header.
    pub fn of(bytes: &[u8]) -> Option<Format> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Format::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::Webp),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
            _ => None,
        }
    }

    /// `jpeg`, `png`, `webp` or `gif`.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Jpeg => "jpeg",
            Format::Png => "png",
            Format::Webp => "webp",
            Format::Gif => "gif",
        }
    }
}

/// An upright picture in RGB, 8 bits per channel.
#[derive(Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Pixels per row; at least 1.
    pub width: u32,
    /// Rows; at least 1.
    pub height: u32,
    /// Row by row from the top left, `3·width·height` bytes.
    pub rgb: Vec<u8>,
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pixels({}x{})", self.width, self.height)
    }
}

/// A decoded image.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// What the bytes were.
    pub format: Format,
    /// Pixels per row of the upright full image.
    pub width: u32,
    /// Rows of the upright full image.
    pub height: u32,
    /// All its pixels.
    pub pixels: Pixels,
}

/// Why bytes are not an image that we take. `Display` tells the value and the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// No bytes.
    Empty,
    /// None of the formats we know.
    /// With what they look like, where that is known.
    UnknownFormat(Option<&'static str>),
    /// The file is larger than [`Limits::encoded_bytes_max`].
    TooManyBytes {
        /// Bytes of the file.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The header announces more than [`Limits::pixels_max`] pixels.
    TooManyPixels {
        /// Announced pixels per row.
        width: u32,
        /// Announced rows.
        height: u32,
        /// The limit on their product.
        max: u64,
    },
    /// The header announces a side longer than [`Limits::side_max`].
    SideTooLong {
        /// Announced pixels per row.
        width: u32,
        /// Announced rows.
        height: u32,
        /// The limit on each.
        max: u32,
    },
    /// The header announces a width or height of zero.
    ZeroSize,
    /// The decoder gave up, and what it said.
    Corrupt(String),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Empty => write!(f, "no bytes"),
            DecodeError::UnknownFormat(None) => write!(f, "not a JPEG, PNG, WebP or GIF file"),
            DecodeError::UnknownFormat(Some(looks)) => {
                write!(f, "looks like {looks}; send JPEG, PNG, WebP or GIF")
            }
            DecodeError::TooManyBytes { bytes, max } => {
                write!(f, "{bytes} bytes are more than the limit of {max}")
            }
            DecodeError::TooManyPixels { width, height, max } => {
                write!(f, "{width} x {height} pixels are more than the limit of {max}")
            }
            DecodeError::SideTooLong { width, height, max } => {
                write!(f, "{width} x {height} has a side longer than the limit of {max}")
            }
            DecodeError::ZeroSize => write!(f, "a side of zero pixels"),
            DecodeError::Corrupt(why) => write!(f, "corrupt: {why}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Decodes one file.
///
/// Grey, CMYK, palette and 16-bit images become 8-bit RGB; alpha is composited over white,
/// `(c·a + 255·(255 − a)) / 255` to the nearest; an EXIF orientation, in any format, is applied.
/// Colour profiles are not.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() > limits.encoded_bytes_max {
        let max = limits.encoded_bytes_max;
        return Err(DecodeError::TooManyBytes { bytes: bytes.len(), max });
    }
    let format = Format::of(bytes).ok_or_else(|| DecodeError::UnknownFormat(looks_like(bytes)))?;
    let pixels = contained(|| decode_as(format, bytes, limits))?;
    assert_eq!(pixels.rgb.len() as u64, 3 * u64::from(pixels.width) * u64::from(pixels.height));
    Ok(Decoded { format, width: pixels.width, height: pixels.height, pixels })
}

/// What bytes are that are none of ours: whoever sent them should not have to guess.
fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    let brand = match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', a, b, c, d, ..] => Some([*a, *b, *c, *d]),
        _ => None,
    };
    match (brand.as_ref(), bytes) {
        (Some(b"avif" | b"avis"), _) => Some("AVIF"),
        (Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"mif1" | b"msf1"), _) => {
            Some("HEIC")
        }
        (Some(_), _) => Some("a video"),
        (_, [b'B', b'M', ..]) => Some("BMP"),
        (_, [b'I', b'I', 0x2a, 0, ..] | [b'M', b'M', 0, 0x2a, ..]) => Some("TIFF"),
        (_, [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', ..]) => Some("JPEG XL"),
        (_, [0, 0, 0, 0x0c, b'j', b'P', ..]) => Some("JPEG 2000"),
        (_, [0, 0, 1, 0, _, 0, ..]) => Some("ICO"),
        (_, [b'8', b'B', b'P', b'S', ..]) => Some("PSD"),
        (_, [b'%', b'P', b'D', b'F', ..]) => Some("PDF"),
        (_, [b'P', b'K', 3, 4, ..]) => Some("ZIP"),
        (_, [0x1f, 0x8b, ..]) => Some("gzip"),
        _ => looks_like_text(bytes),
    }
}

fn looks_like_text(bytes: &[u8]) -> Option<&'static str> {
    let begin = bytes.trim_ascii_start();
    let begin = begin[..begin.len().min(512)].to_ascii_lowercase();
    let has = |word: &[u8]| begin.windows(word.len()).any(|found| found == word);
    match begin.first()? {
        b'<' if has(b"<svg") => Some("SVG"),
        b'<' if has(b"<html") || has(b"<!doctype html") => Some("HTML"),
        // The envelope's first byte is a brace.
        b'{' => Some("JSON with white space before it"),
        _ => None,
    }
}

fn decode_as(format: Format, bytes: &[u8], limits: &Limits) -> Result<Pixels, DecodeError> {
    let cursor = Cursor::new(bytes);
    match format {
        Format::Jpeg => decode_jpeg(bytes, limits),
        Format::Png => {
            let decoder = PngDecoder::with_limits(cursor, allocation_limits(limits));
            decode_with(decoder.map_err(corrupt)?, limits)
        }
        Format::Webp => {
            announced::check_webp(bytes, limits)?;
            decode_with(WebPDecoder::new(cursor).map_err(corrupt)?, limits)
        }
        Format::Gif => {
            announced::check_gif(bytes, limits)?;
            decode_with(GifDecoder::new(cursor).map_err(corrupt)?, limits)
        }
    }
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread would be caught here and become [`DecodeError::Corrupt`]. A panic
/// hook that ends the process asks this first, or one bad image stops the stream.
pub fn panics_are_contained() -> bool {
    CONTAINED.get()
}

/// The decoders promise not to panic; bytes from strangers will test that.
fn contained<T>(decode: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    CONTAINED.set(true);
    // The closure owns what it mutates, and that is dropped on unwinding.
    let outcome = catch_unwind(AssertUnwindSafe(decode));
    CONTAINED.set(false);
    outcome.unwrap_or_else(|_| Err(DecodeError::Corrupt("the decoder panicked".into())))
}

fn decode_jpeg(bytes: &[u8], limits: &Limits) -> Result<Pixels, DecodeError> {
    if !jpeg_reaches_its_end(bytes) {
        return Err(DecodeError::Corrupt("the file is cut short".into()));
    }
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(u16::MAX.into())
        .set_max_height(u16::MAX.into())
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let corrupt = |why: zune_jpeg::errors::DecodeErrors| DecodeError::Corrupt(why.to_string());
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(corrupt)?;
    let (width, height) = decoder.dimensions().expect("the headers were read");
    check_size(width as u64, height as u64, limits)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let rgb = decoder.decode().map_err(corrupt)?;
    let size = (width as u32, height as u32);
    let image = RgbImage::from_raw(size.0, size.1, rgb)
        .ok_or_else(|| DecodeError::Corrupt("fewer pixels than announced".into()))?;
    Ok(upright(image.into(), orientation.unwrap_or(Orientation::NoTransforms)))
}

/// Walks the markers of a JPEG: whether the end-of-image marker follows a scan. Decoders fill what
/// is missing with grey and cannot tell a file that lost its last lines from a complete one.
fn jpeg_reaches_its_end(bytes: &[u8]) -> bool {
    let mut i = 2;
    let mut scanned = false;
    // Outside scans a marker's segment gives its length; inside, FF is followed by 00 if it is data.
    while let Some(offset) = bytes.get(i..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) {
        i += offset + 1;
        match bytes.get(i) {
            None => return false,
            Some(0xd9) if scanned => return true,
            // Fill bytes, stuffed bytes, restarts and markers that stand alone.
            Some(0xff) => {}
            Some(0x00 | 0x01 | 0xd0..=0xd9) => i += 1,
            Some(&marker) => {
                scanned |= marker == 0xda;
                let Some(length) = bytes.get(i + 1..i + 3) else { return false };
                i += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
    false
}

fn allocation_limits(limits: &Limits) -> image::Limits {
    let mut allocation = image::Limits::no_limits();
    // Eight bytes for a pixel of 16-bit RGBA, and room for rows and tables.
    allocation.max_alloc = Some(limits.pixels_max.saturating_mul(8).saturating_add(64 << 20));
    allocation
}

fn decode_with(mut decoder: impl ImageDecoder, limits: &Limits) -> Result<Pixels, DecodeError> {
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into(), limits)?;
    decoder.set_limits(allocation_limits(limits)).map_err(corrupt)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(corrupt)?;
    Ok(upright(over_white(image), orientation))
}

fn corrupt(why: ImageError) -> DecodeError {
    DecodeError::Corrupt(why.to_string())
}

fn over_white(image: DynamicImage) -> DynamicImage {
    if !image.color().has_alpha() {
        return image;
    }
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let mut rgb = Vec::with_capacity(3 * width as usize * height as usize);
    for pixel in rgba.as_raw().as_chunks::<4>().0 {
        let [r, g, b, a] = pixel.map(u32::from);
        rgb.extend([r, g, b].map(|c| ((c * a + 255 * (255 - a) + 127) / 255) as u8));
    }
    RgbImage::from_raw(width, height, rgb).expect("three bytes per pixel were written").into()
}

fn upright(mut image: DynamicImage, orientation: Orientation) -> Pixels {
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    Pixels { width: image.width(), height: image.height(), rgb: image.into_raw() }
}

#[cfg(test)]
mod tests;
