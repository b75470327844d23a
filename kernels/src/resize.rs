//! Smaller pictures, and JPEG files of them.

use std::borrow::Cow;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use crate::decode::Pixels;

/// Resizes to `width` × `height` (zero counts as one), aspect ignored, by convolution with a
/// triangle as wide as the reduction asks for, which is what Pillow calls bilinear. Fixed-point
/// arithmetic: the same on every processor.
pub fn resize(p: &Pixels, width: u32, height: u32) -> Pixels {
    let (width, height) = (width.max(1), height.max(1));
    // Typed on purpose: the dynamic call would compile every pixel type that the library knows.
    let source = TypedImageRef::<U8x3>::from_buffer(p.width, p.height, &p.rgb)
        .expect("pixels have three bytes each");
    let mut rgb = vec![0; 3 * width as usize * height as usize];
    let mut target =
        TypedImage::<U8x3>::from_buffer(width, height, &mut rgb).expect("and so has the target");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new()
        .resize_typed(&source, &mut target, &options)
        .expect("neither image is a view that does not fit");
    Pixels { width, height, rgb }
}

/// The picture with its long side at most `side_max`, aspect kept (the short side rounded to the
/// nearest, at least 1); itself if it already is. Never enlarges.
pub fn fit(p: &Pixels, side_max: u32) -> Cow<'_, Pixels> {
    let long = p.width.max(p.height);
    if long <= side_max.max(1) {
        return Cow::Borrowed(p);
    }
    let scaled = |side: u32| {
        let (side, long, max) = (u64::from(side), u64::from(long), u64::from(side_max.max(1)));
        ((2 * side * max + long) / (2 * long)) as u32
    };
    Cow::Owned(resize(p, scaled(p.width), scaled(p.height)))
}

/// A baseline JPEG file. `quality` runs from 1 to 100 and is clamped to that; sides are at most
/// 65,535, which [`fit`] or the default limits of decoding see to.
pub fn encode_jpeg(p: &Pixels, quality: u8) -> Vec<u8> {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality.clamp(1, 100))
        .encode(&p.rgb, p.width, p.height, ExtendedColorType::Rgb8)
        .expect("writing to memory cannot fail and the sides fit the format");
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> Pixels {
        let pixel = |i: u32| {
            let (x, y) = (i % width, i / width);
            [(x * 255 / width) as u8, (y * 255 / height) as u8, ((x + y) % 256) as u8]
        };
        Pixels { width, height, rgb: (0..width * height).flat_map(pixel).collect() }
    }

    #[test]
    fn sizes() {
        let p = gradient(300, 100);
        for (width, height) in [(1, 1), (7, 300), (300, 100), (600, 10)] {
            let r = resize(&p, width, height);
            assert_eq!(
                (r.width, r.height, r.rgb.len()),
                (width, height, (3 * width * height) as usize)
            );
        }
        assert_eq!(resize(&p, 0, 0).rgb.len(), 3);
        assert_eq!(resize(&p, 300, 100), p);
        assert!(matches!(fit(&p, 300), Cow::Borrowed(_)));
        assert_eq!((fit(&p, 256).width, fit(&p, 256).height), (256, 85));
        assert_eq!(
            (fit(&gradient(3000, 2), 64).width, fit(&gradient(3000, 2), 64).height),
            (64, 1)
        );
    }

    #[test]
    fn a_mean_is_a_mean() {
        // Two columns of 0 and 100 become one of 50.
        let p = Pixels { width: 2, height: 2, rgb: [[0; 3], [100; 3], [0; 3], [100; 3]].concat() };
        assert_eq!(resize(&p, 1, 1).rgb, [50; 3]);
        let flat = Pixels { width: 37, height: 53, rgb: vec![77; 37 * 53 * 3] };
        assert!(resize(&flat, 16, 9).rgb.iter().all(|&c| c == 77));
    }

    #[test]
    fn jpeg_comes_back() {
        let p = gradient(90, 64);
        let file = encode_jpeg(&p, 95);
        assert_eq!(file, encode_jpeg(&p, 95));
        let back = crate::decode::decode(&file, &Default::default()).unwrap().pixels;
        let worst = back.rgb.iter().zip(&p.rgb).map(|(&a, &b)| a.abs_diff(b)).max();
        assert!(worst.unwrap() < 40, "{worst:?}");
        assert!(encode_jpeg(&p, 10).len() < file.len());
        encode_jpeg(&p, 0);
    }
}
