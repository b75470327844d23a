//! What can be said of a picture without a model: numbers to filter by and colours to name.
//!
//! Everything but `aspect` is measured on a copy whose long side is at most [`SIDE`], because blur
//! and entropy depend on the resolution. Pictures smaller than that are measured as they are.

use crate::decode::Pixels;
use crate::resize::fit;

/// The long side, in pixels, at which pictures are measured.
pub const SIDE: u32 = 256;

/// Numbers about one picture. Sums are exact in integers; only the last step is in doubles.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measures {
    /// Mean perceived brightness, 0 to 1: `√(0.241·R² + 0.691·G² + 0.068·B²) / 255` (cleanvision).
    pub brightness: f64,
    /// Its 5 % quantile: near 1 the picture is washed out (cleanvision: above 0.95).
    pub brightness_p05: f64,
    /// Its 99 % quantile: near 0 the picture is dark (cleanvision: below 0.37).
    pub brightness_p99: f64,
    /// RMS contrast: the standard deviation of grey / 255, 0 to 0.5. Grey is ITU-R 601, as in Pillow.
    pub contrast: f64,
    /// Shannon entropy of the grey histogram, 0 to 8 bits (cleanvision: below 3 is low information).
    pub entropy: f64,
    /// Variance of the Laplacian of grey (0 to 255; the kernel of four neighbours, edges mirrored),
    /// as OpenCV users measure sharpness: low is blurred.
    pub blur: f64,
    /// Hasler and Süsstrunk's colourfulness: `√(σ²rg + σ²yb) + 0.3·√(μ²rg + μ²yb)` with `rg = R − G`,
    /// `yb = (R + G)/2 − B`; 0 is grey, above 60 is vivid.
    pub colorfulness: f64,
    /// Long side over short side of the full picture; 1 is square.
    pub aspect: f64,
    /// Mean red, green and blue, each 0 to 255.
    pub mean_rgb: [f64; 3],
    /// The colour, one of [`COLORS`], that most pixels have.
    pub dominant_color: &'static str,
    /// The share of pixels that have it, above 0 to 1.
    pub dominant_share: f64,
    /// The colour that is second; empty if there is only one.
    pub second_color: &'static str,
    /// The share of pixels that have the second colour, 0 to 0.5.
    pub second_share: f64,
}

/// The eleven basic colour terms of English (Berlin and Kay).
pub const COLORS: [&str; 11] = [
    "black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
];

/// Measures a picture.
pub fn measure(p: &Pixels) -> Measures {
    let small = fit(p, SIDE);
    let n = f64::from(small.width) * f64::from(small.height);
    let grey = grey(&small);
    let [brightness, brightness_p05, brightness_p99] = brightness(&small);
    let (color, color_pixels, second, second_pixels) = top_two_colors(&small);
    let mut sums = [0u64; 3];
    for pixel in pixels(&small) {
        for (sum, &c) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(c);
        }
    }
    Measures {
        brightness,
        brightness_p05,
        brightness_p99,
        contrast: variance(grey.iter().map(|&g| i64::from(g))).sqrt() / 255.0,
        entropy: entropy(&grey),
        blur: laplacian_variance(&grey, small.width as usize, small.height as usize),
        colorfulness: colorfulness(&small),
        aspect: f64::from(p.width.max(p.height)) / f64::from(p.width.min(p.height)),
        mean_rgb: sums.map(|sum| sum as f64 / n),
        dominant_color: color,
        dominant_share: color_pixels as f64 / n,
        second_color: second,
        second_share: second_pixels as f64 / n,
    }
}

/// Grey by ITU-R 601 in 16-bit fixed point, which is Pillow's conversion to `L`; one byte a pixel.
pub fn grey(p: &Pixels) -> Vec<u8> {
    let grey = |&[r, g, b]: &[u8; 3]| {
        ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
    };
    pixels(p).iter().map(grey).collect()
}

/// The name, one of [`COLORS`], of one colour. Boundaries are by hue (in sixths of a turn, 0 is red),
/// saturation and value; brown is dark orange, pink is pale red or bright magenta.
pub fn color_name([r, g, b]: [u8; 3]) -> &'static str {
    let [r, g, b] = [r, g, b].map(i32::from);
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = max - min;
    if max < 48 {
        return "black";
    }
    // Little saturation, or too dark to tell: the grey axis.
    if 100 * chroma < 15 * max || chroma < 20 {
        return match max {
            ..64 => "black",
            64..216 => "grey",
            _ => "white",
        };
    }
    // Hue in degrees, 0 to 359.
    let hue = if max == r {
        (60 * (g - b)).div_euclid(chroma).rem_euclid(360)
    } else if max == g {
        120 + (60 * (b - r)).div_euclid(chroma)
    } else {
        240 + (60 * (r - g)).div_euclid(chroma)
    };
    let pale = 100 * chroma < 50 * max && max > 170;
    match hue {
        0..15 | 345.. if pale => "pink",
        0..15 | 345.. => "red",
        15..45 if max < 170 => "brown",
        15..45 => "orange",
        45..70 if max < 110 => "brown",
        45..70 => "yellow",
        70..170 => "green",
        170..260 => "blue",
        260..300 => "purple",
        _ if max > 170 => "pink",
        _ => "purple",
    }
}

fn pixels(p: &Pixels) -> &[[u8; 3]] {
    p.rgb.as_chunks().0
}

/// Mean, 5 % and 99 % quantile (the smallest value that so many pixels do not exceed).
fn brightness(p: &Pixels) -> [f64; 3] {
    let level = |&[r, g, b]: &[u8; 3]| {
        let [r, g, b] = [r, g, b].map(|c| f64::from(c) * f64::from(c));
        (0.241 * r + 0.691 * g + 0.068 * b).sqrt() / 255.0
    };
    let mut levels: Vec<f64> = pixels(p).iter().map(level).collect();
    let mean = levels.iter().sum::<f64>() / levels.len() as f64;
    let mut quantile = |percent: usize| {
        let rank = (percent * levels.len()).div_ceil(100).max(1) - 1;
        *levels.select_nth_unstable_by(rank, f64::total_cmp).1
    };
    [mean, quantile(5), quantile(99)]
}

fn entropy(grey: &[u8]) -> f64 {
    let mut histogram = [0u32; 256];
    for &g in grey {
        histogram[usize::from(g)] += 1;
    }
    let n = grey.len() as f64;
    let bits = |&count: &u32| {
        let share = f64::from(count) / n;
        -share * share.log2()
    };
    histogram.iter().filter(|&&count| count > 0).map(bits).sum::<f64>().max(0.0)
}

fn laplacian_variance(grey: &[u8], width: usize, height: usize) -> f64 {
    // The mirror leaves the edge itself out (…2 1 | 0 1 2…); a side of one pixel mirrors to itself.
    let before = |i: usize, n: usize| if i > 0 { i - 1 } else { 1.min(n - 1) };
    let after = |i: usize, n: usize| if i + 1 < n { i + 1 } else { n.saturating_sub(2) };
    let at = |x: usize, y: usize| i64::from(grey[y * width + x]);
    variance((0..height).flat_map(|y| {
        let (up, down) = (before(y, height), after(y, height));
        (0..width).map(move |x| {
            let sides = at(before(x, width), y) + at(after(x, width), y);
            sides + at(x, up) + at(x, down) - 4 * at(x, y)
        })
    }))
}

fn colorfulness(p: &Pixels) -> f64 {
    let channels = |&[r, g, b]: &[u8; 3]| {
        let [r, g, b] = [r, g, b].map(i64::from);
        // Twice the yellow-blue axis, to stay in integers.
        (r - g, r + g - 2 * b)
    };
    let rg = moments(pixels(p).iter().map(|pixel| channels(pixel).0));
    let yb2 = moments(pixels(p).iter().map(|pixel| channels(pixel).1));
    let spread = (rg.1 + yb2.1 / 4.0).sqrt();
    let offset = (rg.0 * rg.0 + yb2.0 * yb2.0 / 4.0).sqrt();
    spread + 0.3 * offset
}

fn variance(values: impl Iterator<Item = i64>) -> f64 {
    moments(values).1
}

/// Mean and population variance of at least one small integer; the sums are exact.
fn moments(values: impl Iterator<Item = i64>) -> (f64, f64) {
    let (mut n, mut sum, mut squares) = (0i128, 0i128, 0i128);
    for value in values {
        n += 1;
        sum += i128::from(value);
        squares += i128::from(value * value);
    }
    (sum as f64 / n as f64, (n * squares - sum * sum) as f64 / (n * n) as f64)
}

fn top_two_colors(p: &Pixels) -> (&'static str, u32, &'static str, u32) {
    let mut counts = [0u32; COLORS.len()];
    for &pixel in pixels(p) {
        let name = color_name(pixel);
        let i = COLORS.iter().position(|&c| c == name).expect("names are from the list");
        counts[i] += 1;
    }
    // Of equal counts the first in the list wins.
    let mut order: Vec<usize> = (0..COLORS.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(counts[i]));
    let second = if counts[order[1]] > 0 { COLORS[order[1]] } else { "" };
    (COLORS[order[0]], counts[order[0]], second, counts[order[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(width: u32, height: u32, color: impl Fn(u32, u32) -> [u8; 3]) -> Pixels {
        let rgb = (0..width * height).flat_map(|i| color(i % width, i / width)).collect();
        Pixels { width, height, rgb }
    }

    #[test]
    fn flat() {
        let m = measure(&of(40, 10, |_, _| [255, 0, 0]));
        assert!((m.brightness - 0.241f64.sqrt()).abs() < 1e-9);
        assert_eq!((m.brightness_p05, m.brightness_p99), (m.brightness_p99, m.brightness_p05));
        assert_eq!((m.contrast, m.entropy, m.blur, m.aspect), (0.0, 0.0, 0.0, 4.0));
        // No spread; the offset is √(255² + 127.5²).
        assert!((m.colorfulness - 0.3 * (255f64.powi(2) + 127.5f64.powi(2)).sqrt()).abs() < 1e-9);
        assert_eq!(m.mean_rgb, [255.0, 0.0, 0.0]);
        assert_eq!((m.dominant_color, m.dominant_share), ("red", 1.0));
        assert_eq!((m.second_color, m.second_share), ("", 0.0));
    }

    #[test]
    fn checkerboard() {
        let m = measure(&of(8, 8, |x, y| if (x + y) % 2 == 0 { [0; 3] } else { [255; 3] }));
        assert_eq!((m.contrast, m.entropy), (0.5, 1.0));
        // Each pixel's four (mirrored) neighbours are the opposite: the Laplacian is ±1020.
        assert_eq!(m.blur, 1020.0 * 1020.0);
        assert_eq!((m.colorfulness, m.brightness), (0.0, 0.5));
        assert_eq!((m.brightness_p05, m.brightness_p99), (0.0, 1.0));
        assert_eq!((m.dominant_color, m.second_color), ("black", "white"));
    }

    #[test]
    fn smoother_is_blurrier_and_size_does_not_matter() {
        let sharp =
            of(512, 512, |x, y| if (x / 32 + y / 32) % 2 == 0 { [20; 3] } else { [230; 3] });
        let soft = crate::resize::resize(&crate::resize::resize(&sharp, 24, 24), 512, 512);
        assert!(measure(&sharp).blur > 5.0 * measure(&soft).blur);
        let half = crate::resize::resize(&sharp, 256, 256);
        assert_eq!(measure(&sharp).blur, measure(&half).blur);
    }

    #[test]
    fn one_pixel() {
        let m = measure(&of(1, 1, |_, _| [10, 200, 30]));
        assert_eq!((m.blur, m.aspect, m.dominant_color), (0.0, 1.0, "green"));
        assert_eq!(measure(&of(1, 3, |_, y| [y as u8 * 100; 3])).aspect, 3.0);
    }

    #[test]
    fn names_of_colors() {
        for (rgb, name) in [
            ([0, 0, 0], "black"),
            ([255, 255, 255], "white"),
            ([128, 128, 128], "grey"),
            ([220, 20, 30], "red"),
            ([255, 140, 0], "orange"),
            ([250, 220, 40], "yellow"),
            ([30, 160, 60], "green"),
            ([30, 60, 220], "blue"),
            ([128, 0, 160], "purple"),
            ([255, 150, 190], "pink"),
            ([139, 69, 19], "brown"),
        ] {
            assert_eq!(color_name(rgb), name, "{rgb:?}");
        }
        // Every colour has a name of the list.
        for i in 0..32768u32 {
            let rgb = [i & 31, i >> 5 & 31, i >> 10].map(|c| (c * 255 / 31) as u8);
            assert!(COLORS.contains(&color_name(rgb)));
        }
    }
}
