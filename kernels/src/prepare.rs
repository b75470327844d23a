//! A picture as an encoder wants it: resized as Pillow does, cropped, and scaled to numbers.
//!
//! Pillow's arithmetic to the bit (`Resample.c` up to version 12): weights in double precision,
//! normalised, rounded to multiples of 2^-22; a pass over rows, whose results are bytes again, then
//! one over columns. Only what the crop keeps is computed.

use serde_json::Value;

use crate::checkpoint::{Parsed, Settings};
use crate::decode::Pixels;
use crate::safetensors::Unfit;

/// To which size a picture is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The shorter side to so many pixels, the other in proportion, rounded down.
    Shortest(u32),
    /// To `[height, width]`, whatever the proportion.
    Exact([u32; 2]),
}

/// How pixels are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Pillow's `BILINEAR`: a triangle.
    Bilinear,
    /// Pillow's `BICUBIC`: a = -0.5.
    Bicubic,
    /// Pillow's `LANCZOS`: three lobes.
    Lanczos,
}

/// What is done to a picture before an encoder sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparation {
    /// First.
    pub resize: Resize,
    /// In that step.
    pub filter: Filter,
    /// The middle `[height, width]` of it; no more than it has.
    pub crop: [u32; 2],
    /// Whether half a pixel off the middle is rounded to even, as torchvision does, or down.
    pub crop_to_even: bool,
    /// A component is `(byte · scale − mean) / std`, for red, green, blue.
    pub mean: [f32; 3],
    /// As `mean`.
    pub std: [f32; 3],
    /// As `mean`.
    pub scale: f64,
}

const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl Preparation {
    pub(crate) fn clip(side: usize) -> Preparation {
        Preparation {
            resize: Resize::Shortest(side as u32),
            filter: Filter::Bicubic,
            crop: [side as u32; 2],
            crop_to_even: false,
            mean: CLIP_MEAN,
            std: CLIP_STD,
            scale: 1.0 / 255.0,
        }
    }

    pub(crate) fn open_clip(size: [usize; 2]) -> Preparation {
        let crop = size.map(|side| side as u32);
        let resize = match crop[0] == crop[1] {
            true => Resize::Shortest(crop[0]),
            // As torchvision resizes to a pair of sizes.
            false => Resize::Exact(crop),
        };
        Preparation { resize, crop, crop_to_even: true, ..Preparation::clip(size[0]) }
    }

    pub(crate) fn dinov2() -> Preparation {
        Preparation {
            resize: Resize::Shortest(256),
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            ..Preparation::clip(224)
        }
    }

    pub(crate) fn siglip(side: usize) -> Preparation {
        Preparation {
            resize: Resize::Exact([side as u32; 2]),
            mean: [0.5; 3],
            std: [0.5; 3],
            ..Preparation::clip(side)
        }
    }

    /// What `preprocessor_config.json` says, the family's own where it says nothing.
    pub(crate) fn hub(parsed: &Parsed, default: &Preparation) -> Result<Preparation, Unfit> {
        const FILE: &str = "preprocessor_config.json";
        let own = parsed.settings(FILE);
        let mut p = default.clone();
        let bad = |key: &str| Unfit(format!("{FILE}: {key}: not known here"));
        for key in ["do_resize", "do_rescale", "do_normalize"] {
            if !own.flag(key, true)? {
                return Err(bad(key));
            }
        }
        let size = |key: &str| -> Result<Option<Resize>, Unfit> {
            let Some(value) = own.value(key) else { return Ok(None) };
            let whole =
                |v: &Value| v.as_u64().filter(|n| (1..=4_096).contains(n)).map(|n| n as u32);
            let side = |name: &str| value.get(name).and_then(whole);
            let size = match (whole(value), side("shortest_edge"), side("height"), side("width")) {
                (Some(side), ..) | (_, Some(side), ..) => Resize::Shortest(side),
                (_, _, Some(height), Some(width)) => Resize::Exact([height, width]),
                _ => return Err(bad(key)),
            };
            Ok(Some(size))
        };
        if let Some(resize) = size("size")? {
            p.resize = resize;
        }
        let crops = matches!(default.resize, Resize::Shortest(_));
        if own.flag("do_center_crop", crops)? {
            match size("crop_size")? {
                Some(Resize::Shortest(side)) => p.crop = [side; 2],
                Some(Resize::Exact(crop)) => p.crop = crop,
                None => {}
            }
        } else {
            let Resize::Exact(whole) = p.resize else { return Err(bad("do_center_crop")) };
            p.crop = whole;
        }
        let smaller = match p.resize {
            Resize::Shortest(side) => [side; 2],
            Resize::Exact(size) => size,
        };
        if p.crop[0] > smaller[0] || p.crop[1] > smaller[1] {
            return Err(Unfit(format!("{FILE}: crop_size {:?} is more than there is", p.crop)));
        }
        match own.value("resample").map(Value::as_u64) {
            None => {}
            Some(Some(1)) => p.filter = Filter::Lanczos,
            Some(Some(2)) => p.filter = Filter::Bilinear,
            Some(Some(3)) => p.filter = Filter::Bicubic,
            Some(_) => return Err(bad("resample")),
        }
        p.scale = own.number("rescale_factor", p.scale)?;
        p.colours(&own, "image_mean", "image_std")?;
        Ok(p)
    }

    pub(crate) fn filter(&mut self, name: &str) -> Result<(), Unfit> {
        self.filter = match name {
            "bicubic" => Filter::Bicubic,
            "bilinear" => Filter::Bilinear,
            "lanczos" => Filter::Lanczos,
            _ => return Err(Unfit(format!("interpolation {name:?} is not known here"))),
        };
        Ok(())
    }

    pub(crate) fn colours(
        &mut self,
        settings: &Settings<'_>,
        mean: &str,
        std: &str,
    ) -> Result<(), Unfit> {
        for (key, to) in [(mean, &mut self.mean), (std, &mut self.std)] {
            let Some(value) = settings.value(key) else { continue };
            let numbers: Option<Vec<f64>> =
                value.as_array().map(|all| all.iter().filter_map(Value::as_f64).collect());
            match numbers.as_deref() {
                Some(&[r, g, b]) if key == mean || (r > 0.0 && g > 0.0 && b > 0.0) => {
                    *to = [r, g, b].map(|x| x as f32);
                }
                _ => return Err(Unfit(format!("{key}: {value} is not three numbers"))),
            }
        }
        Ok(())
    }

    /// The bytes that the encoder sees: [`Preparation::crop`] of the resized picture.
    pub fn prepare(&self, p: &Pixels) -> Pixels {
        let [height, width] = match self.resize {
            Resize::Exact(size) => size,
            Resize::Shortest(side) => {
                let (h, w, side) = (u64::from(p.height), u64::from(p.width), u64::from(side));
                let long = |long: u64, short: u64| (side * long / short.max(1)) as u32;
                match h <= w {
                    true => [side as u32, long(w, h)],
                    false => [long(h, w), side as u32],
                }
            }
        };
        let crop = [self.crop[0].min(height), self.crop[1].min(width)];
        let middle = |whole: u32, part: u32| {
            let twice = whole - part;
            match self.crop_to_even {
                true => (f64::from(twice) / 2.0).round_ties_even() as u32,
                false => twice / 2,
            }
        };
        let corner = [middle(height, crop[0]), middle(width, crop[1])];
        resample(p, [height, width], corner, crop, self.filter)
    }

    /// The numbers of a prepared picture: `[3][height][width]`.
    pub fn numbers(&self, prepared: &Pixels) -> Vec<f32> {
        let of = |channel: usize, byte: usize| {
            let x = (byte as f64 * self.scale) as f32;
            (x - self.mean[channel]) / self.std[channel]
        };
        let tables: [[f32; 256]; 3] =
            std::array::from_fn(|channel| std::array::from_fn(|byte| of(channel, byte)));
        let pixels = prepared.rgb.as_chunks::<3>().0;
        let mut numbers = Vec::with_capacity(prepared.rgb.len());
        for (channel, table) in tables.iter().enumerate() {
            numbers.extend(pixels.iter().map(|pixel| table[usize::from(pixel[channel])]));
        }
        numbers
    }

    /// All of it in words, for a digest and for people.
    pub fn describe(&self) -> String {
        let Preparation { resize, filter, crop, crop_to_even, mean, std, scale } = self;
        format!(
            "{resize:?} {filter:?} crop {crop:?} {} scale {scale:e} mean {mean:?} std {std:?}",
            if *crop_to_even { "to even" } else { "down" }
        )
    }
}

const PRECISION: u32 = 22;

/// Where the pixels that make one begin, and what each counts.
struct Taps {
    begin: usize,
    weights: Vec<i32>,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        let sinc = |x: f64| {
            let x = x * std::f64::consts::PI;
            if x == 0.0 { 1.0 } else { x.sin() / x }
        };
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }

    /// What makes pixels `first..first + count` of `to`, of a line of `from`.
    fn taps(self, from: u32, to: u32, first: u32, count: u32) -> Vec<Taps> {
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = self.support() * stretch;
        let one = |at: u32| {
            let center = (f64::from(at) + 0.5) * scale;
            let begin = ((center - support + 0.5) as i64).max(0);
            let end = ((center + support + 0.5) as i64).min(i64::from(from));
            let weigh = |x: i64| self.at((x as f64 - center + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (begin..end).map(weigh).collect();
            let total: f64 = weights.iter().sum();
            let round = |w: f64| {
                let w = if total == 0.0 { w } else { w / total } * f64::from(1 << PRECISION);
                (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
            };
            Taps { begin: begin as usize, weights: weights.into_iter().map(round).collect() }
        };
        (first..first + count).map(one).collect()
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The part at `corner`, of `crop` pixels, of the picture resized to `size`; all as height, width.
fn resample(
    p: &Pixels,
    size: [u32; 2],
    corner: [u32; 2],
    crop: [u32; 2],
    filter: Filter,
) -> Pixels {
    let rows = filter.taps(p.height, size[0], corner[0], crop[0]);
    let columns = filter.taps(p.width, size[1], corner[1], crop[1]);
    let pitch = 3 * p.width as usize;
    let width = 3 * crop[1] as usize;
    // A pass that changes nothing is left out, as Pillow does.
    let (same_height, same_width) = (size[0] == p.height, size[1] == p.width);
    let first = if same_height { corner[0] as usize } else { rows.first().map_or(0, |r| r.begin) };
    let end = match same_height {
        true => first + crop[0] as usize,
        false => rows.last().map_or(0, |row| row.begin + row.weights.len()),
    };
    let mut narrow = Vec::with_capacity((end - first) * width);
    for line in p.rgb[first * pitch..end * pitch].chunks_exact(pitch) {
        if same_width {
            narrow.extend_from_slice(&line[3 * corner[1] as usize..][..width]);
            continue;
        }
        let pixels = line.as_chunks::<3>().0;
        for taps in &columns {
            let mut sums = [1 << (PRECISION - 1); 3];
            for (pixel, &weight) in pixels[taps.begin..].iter().zip(&taps.weights) {
                for (sum, &byte) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(byte) * weight;
                }
            }
            narrow.extend(sums.map(to_byte));
        }
    }
    if same_height {
        return Pixels { width: crop[1], height: crop[0], rgb: narrow };
    }
    let mut rgb = Vec::with_capacity(crop[0] as usize * width);
    let mut sums = vec![0i32; width];
    for taps in &rows {
        sums.fill(1 << (PRECISION - 1));
        let lines = narrow[(taps.begin - first) * width..].chunks_exact(width.max(1));
        for (line, &weight) in lines.zip(&taps.weights) {
            for (sum, &byte) in sums.iter_mut().zip(line) {
                *sum += i32::from(byte) * weight;
            }
        }
        rgb.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    Pixels { width: crop[1], height: crop[0], rgb }
}
