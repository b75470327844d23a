//! Image files of every kind, written here byte by byte where no encoder at hand writes them.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};

/// Smooth, and different in every corner: what is turned or cut shows.
pub fn picture(width: u32, height: u32) -> RgbImage {
    let share = |at: u32, of: u32| 200 * at / of.max(2).saturating_sub(1).max(1);
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (share(x, width), share(y, height));
        image::Rgb([(30 + x) as u8, (30 + y) as u8, (230 - (x + y) / 2) as u8])
    })
}

/// A file of any picture in a format that the encoders at hand write.
pub fn file(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("an encoder that can");
    bytes.into_inner()
}

/// A PNG's chunk, its checksum right.
pub fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [&name[..], data].concat();
    let (length, sum) = (data.len() as u32, crc32fast::hash(&named));
    [&length.to_be_bytes()[..], &named, &sum.to_be_bytes()].concat()
}

/// Zlib without compression.
fn stored(raw: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let blocks = raw.len().div_ceil(65_535).max(1);
    for (index, block) in raw.chunks(65_535).enumerate() {
        let length = block.len() as u16;
        out.push(u8::from(index + 1 == blocks));
        out.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        out.extend(block);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in raw {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend((b << 16 | a).to_be_bytes());
    out
}

/// How a PNG is written: bits per sample, colour type, interlaced.
#[derive(Clone, Copy)]
pub struct Form(pub u8, pub u8, pub bool);

/// A PNG from samples: `of(x, y)` gives those of one pixel, each below `1 << bits`.
pub fn png(
    (width, height): (u32, u32),
    Form(bits, colour, interlaced): Form,
    between: &[Vec<u8>],
    of: impl Fn(u32, u32) -> Vec<u32>,
) -> Vec<u8> {
    const ADAM7: [(u32, u32, u32, u32); 7] = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ];
    let passes = if interlaced { &ADAM7[..] } else { &[(0, 0, 1, 1)][..] };
    let mut raw = Vec::new();
    for &(left, top, across, down) in passes {
        if left >= width {
            continue;
        }
        for y in (top..height).step_by(down as usize) {
            raw.push(0);
            let (mut held, mut count) = (0_u32, 0);
            for x in (left..width).step_by(across as usize) {
                for sample in of(x, y) {
                    if bits == 16 {
                        raw.extend((sample as u16).to_be_bytes());
                        continue;
                    }
                    held = held << bits | sample;
                    count += bits;
                    if count == 8 {
                        raw.push(held as u8);
                        (held, count) = (0, 0);
                    }
                }
            }
            if count > 0 {
                raw.push((held << (8 - count)) as u8);
            }
        }
    }
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [&size[..], &[bits, colour, 0, 0, u8::from(interlaced)]].concat();
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    out.extend(chunk(b"IHDR", &header));
    out.extend(between.concat());
    out.extend(chunk(b"IDAT", &stored(&raw)));
    out.extend(chunk(b"IEND", &[]));
    out
}

/// A PNG that says it is so large and holds no pixel.
pub fn announced_png(width: u32, height: u32) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    out.extend(chunk(b"IHDR", &[&size[..], &[8, 2, 0, 0, 0]].concat()));
    out.extend(chunk(b"IDAT", &stored(&[])));
    out.extend(chunk(b"IEND", &[]));
    out
}

/// What a JPEG is: its frame marker, bits per sample, and Adobe's transform if it is Adobe's.
#[derive(Clone, Copy)]
pub struct Jpeg {
    pub marker: u8,
    pub bits: u8,
    pub adobe: Option<u8>,
}

pub const BASELINE: Jpeg = Jpeg { marker: 0xc0, bits: 8, adobe: None };
pub const PROGRESSIVE: Jpeg = Jpeg { marker: 0xc2, ..BASELINE };

/// A JPEG of 8 × 8 blocks, each of one value per component: only that is coded. `of` gives the
/// components of the block at (x, y).
pub fn jpeg(form: Jpeg, across: u16, down: u16, of: impl Fn(u16, u16) -> Vec<u8>) -> Vec<u8> {
    let segment = |marker: u8, data: &[u8]| {
        let length = (data.len() as u16 + 2).to_be_bytes();
        [&[0xff, marker], &length[..], data].concat()
    };
    let count = of(0, 0).len() as u8;
    let mut out = vec![0xff, 0xd8];
    if let Some(transform) = form.adobe {
        out.extend(segment(0xee, &[&b"Adobe\0\x64\0\0\0\0"[..], &[transform]].concat()));
    }
    // All quantised by 8: a step of a block's only coefficient is one step of its value.
    out.extend(segment(0xdb, &[&[0][..], &[8; 64]].concat()));
    let mut frame = vec![form.bits];
    frame.extend([(8 * down).to_be_bytes(), (8 * across).to_be_bytes()].concat());
    frame.push(count);
    (1..=count).for_each(|id| frame.extend([id, 0x11, 0]));
    out.extend(segment(form.marker, &frame));
    // Twelve codes of four bits for how many bits follow; one code of one bit: the block ends.
    let lengths = [0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let categories: Vec<u8> = (0..12).collect();
    out.extend(segment(0xc4, &[&[0x00][..], &lengths, &categories].concat()));
    let progressive = form.marker == 0xc2;
    if !progressive {
        let lengths = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out.extend(segment(0xc4, &[&[0x10][..], &lengths, &[0]].concat()));
    }
    let mut scan = vec![count];
    (1..=count).for_each(|id| scan.extend([id, 0]));
    scan.extend(if progressive { [0, 0, 0] } else { [0, 63, 0] });
    out.extend(segment(0xda, &scan));
    let mut bits: Vec<bool> = Vec::new();
    let mut before = vec![0_i32; usize::from(count)];
    for y in 0..down {
        for x in 0..across {
            for (component, value) in of(x, y).into_iter().enumerate() {
                let now = i32::from(value) - 128;
                let step = now - before[component];
                before[component] = now;
                let size = 32 - step.unsigned_abs().leading_zeros();
                let low = if step < 0 { step + (1 << size) - 1 } else { step } as u32;
                bits.extend((0..4).rev().map(|bit| size >> bit & 1 == 1));
                bits.extend((0..size).rev().map(|bit| low >> bit & 1 == 1));
                if !progressive {
                    bits.push(false);
                }
            }
        }
    }
    for eight in bits.chunks(8) {
        let ones = std::iter::repeat(&true);
        let byte =
            eight.iter().chain(ones).take(8).fold(0_u8, |byte, bit| byte << 1 | u8::from(*bit));
        out.push(byte);
        if byte == 0xff {
            out.push(0);
        }
    }
    out.extend([0xff, 0xd9]);
    out
}

/// A JPEG with one more segment right after its beginning.
pub fn with_segment(jpeg: &[u8], marker: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, marker], &length, data, &jpeg[2..]].concat()
}

/// What an EXIF segment holds that says nothing but an orientation.
pub fn orientation(value: u16) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01".to_vec();
    exif.extend(value.to_be_bytes());
    exif.extend([0; 6]);
    exif
}

/// A WebP of several frames, from lossless ones of one frame.
pub fn animated_webp((width, height): (u32, u32), frames: &[Vec<u8>]) -> Vec<u8> {
    let three = |value: u32| value.to_le_bytes()[..3].to_vec();
    let riff = |name: &[u8; 4], data: &[u8]| {
        let mut out = [&name[..], &(data.len() as u32).to_le_bytes(), data].concat();
        out.resize(out.len().next_multiple_of(2), 0);
        out
    };
    let size = [three(width - 1), three(height - 1)].concat();
    let mut body = b"WEBP".to_vec();
    body.extend(riff(b"VP8X", &[&[2, 0, 0, 0][..], &size].concat()));
    body.extend(riff(b"ANIM", &[0; 6]));
    for frame in frames {
        let head = [&[0; 6][..], &size, &[100, 0, 0, 0]].concat();
        body.extend(riff(b"ANMF", &[&head[..], &frame[12..]].concat()));
    }
    riff(b"RIFF", &body)
}

/// A GIF whose header announces this size, with a frame of one pixel.
pub fn announced_gif(width: u16, height: u16) -> Vec<u8> {
    let palette = [0x80, 0, 0, 0, 0, 0, 255, 255, 255];
    let frame = [0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x4c, 1, 0, 0x3b];
    [&b"GIF89a"[..], &width.to_le_bytes(), &height.to_le_bytes(), &palette, &frame].concat()
}
