//! Every format and form, every limit, and bytes that are broken in every way we can think of.

use super::*;
use image::{GrayAlphaImage, GrayImage, ImageBuffer, ImageFormat, Luma, Rgba, RgbaImage};
use proptest::prelude::*;

fn color(x: u32, y: u32) -> [u8; 3] {
    [(x * 6) as u8, (y * 9) as u8, (x * y % 200) as u8]
}

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb(color(x, y)))
}

fn file(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.into().write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn decoded(bytes: &[u8]) -> Decoded {
    decode(bytes, &Limits::default()).unwrap()
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    file(picture(width, height), ImageFormat::Jpeg)
}

/// `jpeg` with an APP1 segment that holds nothing but an orientation, in either byte order.
fn with_orientation(jpeg: &[u8], orientation: u8, little: bool) -> Vec<u8> {
    let n = |value: u32, bytes: usize| -> Vec<u8> {
        let big = &value.to_be_bytes()[4 - bytes..];
        if little { big.iter().rev().copied().collect() } else { big.to_vec() }
    };
    let order: &[u8] = if little { b"II" } else { b"MM" };
    let mut exif = [b"Exif\0\0", order].concat();
    for (value, bytes) in [
        (42, 2),
        (8, 4),
        (1, 2),
        (0x112, 2),
        (3, 2),
        (1, 4),
        (u32::from(orientation), 2),
        (0, 2),
        (0, 4),
    ] {
        exif.extend(n(value, bytes));
    }
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn lossless_formats_come_back_to_the_bit() {
    for (format, ours) in [(ImageFormat::Png, Format::Png), (ImageFormat::WebP, Format::Webp)] {
        for (width, height) in [(1, 1), (37, 23), (300, 2)] {
            let image = picture(width, height);
            let d = decoded(&file(image.clone(), format));
            assert_eq!((d.format, d.width, d.height), (ours, width, height));
            assert_eq!(d.pixels.rgb, image.into_raw());
        }
    }
}

#[test]
fn jpeg_is_near() {
    for (width, height) in [(1, 1), (7, 9), (64, 48), (130, 33)] {
        // Smooth, so that subsampled chroma is near too.
        let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 90]));
        let d = decoded(&file(image.clone(), ImageFormat::Jpeg));
        assert_eq!((d.format, d.width, d.height), (Format::Jpeg, width, height));
        let worst = d.pixels.rgb.iter().zip(image.as_raw()).map(|(&a, &b)| a.abs_diff(b)).max();
        assert!(worst < Some(24), "{width}x{height}: {worst:?}");
    }
}

#[test]
fn the_first_frame_of_a_gif() {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for color in [[200, 10, 10, 255], [10, 10, 200, 255]] {
        let frame = RgbaImage::from_pixel(20, 10, Rgba(color));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    let d = decoded(&bytes);
    assert_eq!((d.format, d.width, d.height), (Format::Gif, 20, 10));
    assert!(d.pixels.rgb.as_chunks().0.iter().all(|&[r, _, b]: &[u8; 3]| r > 150 && b < 60));
}

#[test]
fn other_forms_become_rgb() {
    let grey = GrayImage::from_fn(20, 10, |x, _| Luma([(x * 10) as u8]));
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let d = decoded(&file(grey.clone(), format));
        assert!(d.pixels.rgb.as_chunks().0.iter().all(|&[r, g, b]: &[u8; 3]| r == g && g == b));
        assert!(d.pixels.rgb[3 * 15].abs_diff(150) < 5);
    }
    let deep: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(3, 3, Luma([0x8080u16]));
    assert_eq!(decoded(&file(deep, ImageFormat::Png)).pixels.rgb, [0x80; 27]);
    let alpha = GrayAlphaImage::from_pixel(2, 1, image::LumaA([100, 0]));
    assert_eq!(decoded(&file(alpha, ImageFormat::Png)).pixels.rgb, [255; 6]);
}

#[test]
fn alpha_is_composited_over_white() {
    let image = RgbaImage::from_fn(3, 1, |x, _| Rgba([10, 20, 200, [0, 128, 255][x as usize]]));
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let rgb = decoded(&file(image.clone(), format)).pixels.rgb;
        assert_eq!(rgb, [255, 255, 255, 132, 137, 227, 10, 20, 200]);
    }
}

#[test]
fn cmyk_jpeg_as_adobe_writes_it() {
    // 16 × 8, left (0, 255, 255, 0), right (255, 0, 0, 64) in inverted CMYK, written by Pillow.
    let bytes = include_bytes!("cmyk.jpg");
    let d = decoded(bytes);
    assert_eq!((d.width, d.height), (16, 8));
    let at = |x: usize, y: usize| &d.pixels.rgb[3 * (16 * y + x)..][..3];
    let near = |x, y, rgb: [u8; 3]| at(x, y).iter().zip(rgb).all(|(&a, b)| a.abs_diff(b) < 12);
    assert!(
        near(2, 2, [255, 0, 0]) && near(13, 5, [0, 191, 191]),
        "{:?} {:?}",
        at(2, 2),
        at(13, 5)
    );
}

#[test]
fn orientation_is_applied() {
    // Left half red, right half blue, lower half dark.
    let image = RgbImage::from_fn(64, 32, |x, y| {
        let c = if y < 16 { 250 } else { 100 };
        image::Rgb(if x < 32 { [c, 0, 0] } else { [0, 0, c] })
    });
    let jpeg = file(image, ImageFormat::Jpeg);
    // For each orientation: size, then what the top left and the bottom right show.
    let (red, blue, dark_red, dark_blue) = ([250, 0, 0], [0, 0, 250], [100, 0, 0], [0, 0, 100]);
    for (orientation, size, first, last) in [
        (1, (64, 32), red, dark_blue),
        (2, (64, 32), blue, dark_red),
        (3, (64, 32), dark_blue, red),
        (4, (64, 32), dark_red, blue),
        (5, (32, 64), red, dark_blue),
        (6, (32, 64), dark_red, blue),
        (7, (32, 64), dark_blue, red),
        (8, (32, 64), blue, dark_red),
        (9, (64, 32), red, dark_blue),
    ] {
        for little in [true, false] {
            let d = decoded(&with_orientation(&jpeg, orientation, little));
            assert_eq!((d.width, d.height), size, "{orientation}");
            let rgb = &d.pixels.rgb;
            for (found, expected) in [(&rgb[..3], first), (&rgb[rgb.len() - 3..], last)] {
                let near = found.iter().zip(expected).all(|(&a, b)| a.abs_diff(b) < 16);
                assert!(near, "{orientation}: {found:?} is not {expected:?}");
            }
        }
    }
}

#[test]
fn not_an_image() {
    let error = |bytes: &[u8]| decode(bytes, &Limits::default()).unwrap_err();
    assert_eq!(error(b""), DecodeError::Empty);
    assert_eq!(error(b"<svg/>"), DecodeError::UnknownFormat(Some("SVG")));
    for bytes in [&b"\0"[..], b"hello world, this is text", b"\xff\xd8", b"RIFF1234WAVE"] {
        assert_eq!(error(bytes), DecodeError::UnknownFormat(None));
    }
    for bytes in [&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a"] {
        assert!(matches!(error(bytes), DecodeError::Corrupt(_)), "{bytes:?}");
    }
}

#[test]
fn limits_name_the_value_and_the_limit() {
    let bytes = file(picture(40, 30), ImageFormat::Png);
    let limits = |encoded_bytes_max, pixels_max, side_max| Limits {
        encoded_bytes_max,
        pixels_max,
        side_max,
    };
    let said = |limits: Limits| decode(&bytes, &limits).unwrap_err().to_string();
    assert!(decode(&bytes, &limits(bytes.len(), 1200, 40)).is_ok());
    assert_eq!(
        said(limits(9, 1200, 40)),
        format!("{} bytes are more than the limit of 9", bytes.len())
    );
    assert_eq!(said(limits(9999, 1199, 40)), "40 x 30 pixels are more than the limit of 1199");
    assert_eq!(said(limits(9999, 1200, 39)), "40 x 30 has a side longer than the limit of 39");
}

/// Files whose headers announce 60,000 × 60,000 pixels and hold next to nothing.
fn bombs() -> Vec<Vec<u8>> {
    let mut jpeg = jpeg(8, 8);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    let mut gif = file(RgbaImage::new(2, 2), ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0x60, 0xea, 0x60, 0xea]);
    let mut png = file(picture(2, 2), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let crc = !png[12..29].iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| c >> 1 ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    });
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    vec![jpeg, gif, png]
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    for bomb in bombs() {
        let error = decode(&bomb, &Limits::default()).unwrap_err();
        let expected = DecodeError::SideTooLong { width: 60_000, height: 60_000, max: 30_000 };
        assert_eq!(error, expected, "{:?}", Format::of(&bomb));
        let wide = Limits { side_max: 65_535, ..Limits::default() };
        let error = decode(&bomb, &wide).unwrap_err();
        assert!(matches!(error, DecodeError::TooManyPixels { width: 60_000, .. }), "{error:?}");
    }
}

/// A WebP with a canvas of 20 x 10 and these chunks.
fn webp(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = b"WEBPVP8X\x0a\0\0\0\x08\0\0\0\x13\0\0\x09\0\0".to_vec();
    for (name, data) in chunks {
        body.extend([&name[..], &(data.len() as u32).to_le_bytes(), data].concat());
        body.resize(body.len().next_multiple_of(2), 0);
    }
    [b"RIFF", &(body.len() as u32).to_le_bytes(), &body[..]].concat()
}

#[test]
fn what_a_webp_announces_is_not_believed() {
    let huge = [&[0, 0, 0, 0x9d, 1, 0x2a, 0xff, 0x3f, 0xff, 0x3f][..], &[0; 40]].concat();
    let frame = [&[0; 16][..], b"VP8 \x32\0\0\0", &huge].concat();
    for bytes in [webp(&[(b"VP8 ", &huge)]), webp(&[(b"ANIM", &[0; 6]), (b"ANMF", &frame)])] {
        let limits = Limits { pixels_max: 1 << 20, ..Limits::default() };
        let error = decode(&bytes, &limits).unwrap_err();
        let wide = DecodeError::TooManyPixels { width: 16_383, height: 16_383, max: 1 << 20 };
        assert_eq!(error, wide);
    }
    let whole = file(picture(20, 10), ImageFormat::WebP);
    let pixels = (b"VP8L", &whole[20..]);
    assert_eq!(decoded(&webp(&[pixels, (b"EXIF", b"none")])).width, 20);
    // A gigabyte of EXIF in a few hundred bytes; of what nobody knows, and behind the end, anything
    // goes.
    let mut long = webp(&[pixels, (b"EXIF", b"none")]);
    let at = long.len() - 5;
    long[at] = 0x40;
    let error = decode(&long, &Limits::default()).unwrap_err();
    assert_eq!(error, DecodeError::Corrupt("the file is cut short".into()));
    let frame = [&[0; 16][..], b"EXIF\0\0\0\x40", &[0; 40]].concat();
    let error = decode(&webp(&[(b"ANIM", &[0; 6]), (b"ANMF", &frame)]), &Limits::default());
    assert_eq!(error.unwrap_err(), DecodeError::Corrupt("the file is cut short".into()));
    let mut other = webp(&[pixels, (b"EXIF", b"none"), (b"oddl", b"")]);
    let at = other.len() - 1;
    other[at] = 0x40;
    assert_eq!(decoded(&[&other[..], &[0x55; 99]].concat()).width, 20);
}

#[test]
fn a_frame_of_a_gif_is_held_against_the_limits_too() {
    let mut gif = file(RgbaImage::new(20, 10), ImageFormat::Gif);
    let at = gif.windows(9).position(|w| w == [0x2c, 0, 0, 0, 0, 20, 0, 10, 0]).unwrap();
    let comment = [&[0x21, 0xfe, 3][..], b"\x2c\x2c\x2c", &[1, 0x2c, 0]].concat();
    gif.splice(at..at, comment.iter().copied());
    assert_eq!(decoded(&gif).width, 20);
    let at = at + comment.len();
    gif[at + 5..at + 9].copy_from_slice(&[0x30, 0x75, 0x30, 0x75]);
    let error = decode(&gif, &Limits::default()).unwrap_err();
    let max = Limits::default().pixels_max;
    assert_eq!(error, DecodeError::TooManyPixels { width: 30_000, height: 30_000, max });
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let image = picture(48, 40);
    let mut files: Vec<Vec<u8>> = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif]
        .map(|format| file(DynamicImage::from(image.clone()).to_rgba8(), format))
        .into();
    files.push(jpeg(48, 40));
    files.push(with_orientation(&jpeg(48, 40), 6, true));
    for bytes in files {
        decoded(&bytes);
        // A GIF's end code and trailer, a PNG's IEND and a WebP's padding hold no pixel.
        let optional = match Format::of(&bytes).unwrap() {
            Format::Gif => 4,
            Format::Png => 12,
            Format::Webp => 1,
            Format::Jpeg => 0,
        };
        for end in 0..bytes.len() - optional {
            let cut = decode(&bytes[..end], &Limits::default());
            assert!(cut.is_err(), "{:?} cut at {end} of {}", Format::of(&bytes), bytes.len());
        }
    }
}

#[test]
fn a_thumbnails_end_is_not_the_files_end() {
    let whole = jpeg(48, 40);
    let thumbnail = jpeg(8, 8);
    let length = (thumbnail.len() as u16 + 2).to_be_bytes();
    let nested = [&whole[..2], &[0xff, 0xef], &length, &thumbnail, &whole[2..]].concat();
    assert_eq!(decoded(&nested).width, 48);
    assert!(decode(&nested[..nested.len() - 2], &Limits::default()).is_err());
    // What follows the end is ignored, as everywhere.
    assert_eq!(decoded(&[&nested[..], b"trailing"].concat()).width, 48);
}

#[test]
fn a_panic_becomes_an_error_and_is_announced_to_the_hook() {
    assert!(!panics_are_contained());
    let outcome: Result<(), _> = contained(|| {
        assert!(panics_are_contained());
        std::panic::resume_unwind(Box::new("no hook, no noise"))
    });
    assert_eq!(outcome, Err(DecodeError::Corrupt("the decoder panicked".into())));
    assert!(!panics_are_contained());
}

fn all_formats() -> Vec<Vec<u8>> {
    let image = DynamicImage::from(picture(24, 20)).to_rgba8();
    let mut files: Vec<_> = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif]
        .map(|format| file(image.clone(), format))
        .into();
    files.push(with_orientation(&jpeg(24, 20), 8, false));
    files
}

proptest! {
    #[test]
    fn broken_bytes_never_panic_or_exceed_the_limits(
        which in 0usize..4,
        breaks in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = all_formats().swap_remove(which);
        for (at, value) in breaks {
            let i = at.index(bytes.len());
            bytes[i] = value;
        }
        let limits = Limits { pixels_max: 10_000, side_max: 2_000, ..Limits::default() };
        // Called without the net, so that a decoder's panic would fail this test.
        let Some(format) = Format::of(&bytes) else { return Ok(()) };
        if let Ok(pixels) = decode_as(format, &bytes, &limits) {
            prop_assert!(u64::from(pixels.width) * u64::from(pixels.height) <= 10_000);
        }
    }

    #[test]
    fn noise_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes, &Limits::default()).is_err());
    }
}
