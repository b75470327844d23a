//! What a file announces, looked at before a decoder takes it at its word: a size, and how long its
//! parts are. A few bytes can announce gigabytes.

use super::{DecodeError, Limits};

/// A size in pixels against the limits.
pub fn check_size(width: u64, height: u64, limits: &Limits) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError::ZeroSize);
    }
    let (w, h) = (width.min(u32::MAX.into()) as u32, height.min(u32::MAX.into()) as u32);
    if width.max(height) > limits.side_max.into() {
        return Err(DecodeError::SideTooLong { width: w, height: h, max: limits.side_max });
    }
    if width * height > limits.pixels_max {
        return Err(DecodeError::TooManyPixels { width: w, height: h, max: limits.pixels_max });
    }
    Ok(())
}

/// The size of a GIF's first frame, which its decoder allocates however small the screen is.
pub fn check_gif(bytes: &[u8], limits: &Limits) -> Result<(), DecodeError> {
    // Behind the screen, and its palette.
    let palette = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + bytes.get(10).map_or(0, |flags| palette(*flags));
    while let Some([0x21, _, ..]) = bytes.get(at..) {
        at += 2;
        // An extension: blocks, each behind its length, up to one of none.
        while let Some(length) = bytes.get(at).filter(|length| **length > 0) {
            at += 1 + usize::from(*length);
        }
        at += 1;
    }
    // Of what begins in another way the decoder complains itself.
    let Some(&[0x2c, _, _, _, _, a, b, c, d, ..]) = bytes.get(at..) else { return Ok(()) };
    let side = |low, high| u64::from(u16::from_le_bytes([low, high]));
    check_size(side(a, b), side(c, d), limits)
}

/// What the chunks of a WebP announce, looked at before its decoder takes them at their word: that
/// allocates a chunk as long as it claims to be, wherever it stands, and a lossy frame before it holds
/// its size against the canvas.
pub fn check_webp(bytes: &[u8], limits: &Limits) -> Result<(), DecodeError> {
    check_chunks(Chunks(bytes.get(12..).unwrap_or_default()), Inside::File, limits)
}

fn check_chunks(chunks: Chunks<'_>, inside: Inside, limits: &Limits) -> Result<(), DecodeError> {
    for (name, chunk) in chunks {
        match name {
            b"VP8 " => check_lossy_frame(chunk?, limits)?,
            // Sixteen bytes about the frame, then its chunks; no frame is in a frame.
            b"ANMF" if inside == Inside::File => {
                let chunks = Chunks(chunk?.get(16..).unwrap_or_default());
                check_chunks(chunks, Inside::Frame, limits)?;
            }
            b"ANMF" | b"VP8X" | b"VP8L" | b"ALPH" | b"ANIM" | b"EXIF" | b"ICCP" | b"XMP " => {
                chunk?;
            }
            // What else there is, behind the end too, no decoder reads.
            _ => {}
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Inside {
    File,
    Frame,
}

/// Three bytes of a tag, a start code, and width and height in 14 bits each. Of a frame that begins
/// in another way the decoder complains itself.
fn check_lossy_frame(chunk: &[u8], limits: &Limits) -> Result<(), DecodeError> {
    let &[_, _, _, 0x9d, 0x01, 0x2a, a, b, c, d, ..] = chunk else { return Ok(()) };
    let side = |low, high| u64::from(u16::from_le_bytes([low, high]) & 0x3fff);
    check_size(side(a, b), side(c, d), limits)
}

/// The chunks of a RIFF file: their names and what is in them, an error if that is not all there.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], Result<&'a [u8], DecodeError>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        // Chunks of an odd length are padded.
        self.0 = rest.get(length + length % 2..).unwrap_or_default();
        let cut = || DecodeError::Corrupt("the file is cut short".into());
        Some((name, rest.get(..length).ok_or_else(cut)))
    }
}
