//! Mild copies: what the same picture, or the same caption, looks like when it has been through
//! other hands. A band must end below them, or its pairs would be duplicates.

use kernels::{
    decode::{Limits, Pixels, decode},
    resize::{encode_jpeg, resize},
};

/// Kinds of an image's mild copies, in the order of [`of_image`].
pub const IMAGE_KINDS: [&str; 4] = ["crop", "brightness", "jpeg", "resize"];
/// Kinds of a caption's mild copies, in the order of [`of_caption`].
pub const CAPTION_KINDS: [&str; 3] = ["case", "punctuation", "word-drop"];

/// Share of a side that the crop takes off, from two of four sides.
const CROP: f64 = 0.03;
/// Factor on brightness; as often up as down.
const BRIGHTNESS: f64 = 1.1;
const JPEG_QUALITY: u8 = 60;
/// Captions of fewer words change their meaning with a word less.
const WORDS_MIN: usize = 6;

/// Four copies: 3 % cropped off two sides, 10 % brighter or darker, JPEG of quality 60, and
/// through half the size and back. `dice` decides which sides, and whether brighter.
pub fn of_image(p: &Pixels, dice: u64) -> [Pixels; 4] {
    [crop(p, dice), brighten(p, dice & 4 == 0), through_jpeg(p), through_half(p)]
}

fn crop(p: &Pixels, dice: u64) -> Pixels {
    let cut = |side: u32| ((f64::from(side) * CROP).round() as u32).min(side - 1);
    let (width, height) = (p.width - cut(p.width), p.height - cut(p.height));
    let left = if dice & 1 == 0 { 0 } else { p.width - width };
    let top = if dice & 2 == 0 { 0 } else { p.height - height };
    let row = |y: u32| {
        let from = 3 * ((top + y) as usize * p.width as usize + left as usize);
        &p.rgb[from..from + 3 * width as usize]
    };
    Pixels { width, height, rgb: (0..height).flat_map(row).copied().collect() }
}

fn brighten(p: &Pixels, up: bool) -> Pixels {
    let factor = if up { BRIGHTNESS } else { 1.0 / BRIGHTNESS };
    let change = |&byte: &u8| (f64::from(byte) * factor).round().min(255.0) as u8;
    Pixels { rgb: p.rgb.iter().map(change).collect(), ..*p }
}

fn through_jpeg(p: &Pixels) -> Pixels {
    let file = encode_jpeg(p, JPEG_QUALITY);
    decode(&file, &Limits::default()).map_or_else(|_| p.clone(), |decoded| decoded.pixels)
}

fn through_half(p: &Pixels) -> Pixels {
    resize(&resize(p, p.width / 2, p.height / 2), p.width, p.height)
}

/// Copies of a caption: in other case, without or with a mark at its end and no others, and, if it
/// has at least six words, with one word less.
pub fn of_caption(text: &str, dice: u64) -> [Option<String>; 3] {
    let lower = text.to_lowercase();
    let case = if lower == text { text.to_uppercase() } else { lower };
    let bare: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let marks = if bare == text { format!("{text}.") } else { bare };
    let words: Vec<&str> = text.split_whitespace().collect();
    let fewer = (words.len() >= WORDS_MIN).then(|| {
        let gone = (dice % words.len() as u64) as usize;
        let kept = words.iter().enumerate().filter(|(at, _)| *at != gone);
        kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    });
    [Some(case), Some(marks), fewer]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_an_image_are_like_it_and_not_it() {
        let rgb = (0..60 * 40 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let p = Pixels { width: 60, height: 40, rgb };
        for dice in 0..8 {
            let copies = of_image(&p, dice);
            assert_eq!((copies[0].width, copies[0].height), (58, 39));
            assert_eq!(copies[0].rgb.len(), 3 * 58 * 39);
            for copy in &copies[1..] {
                assert_eq!((copy.width, copy.height), (60, 40));
            }
            assert!(copies.iter().all(|copy| *copy != p));
            let last = &copies[0].rgb[copies[0].rgb.len() - 3..];
            let right_bottom = dice & 3 == 3;
            assert_eq!(last == &p.rgb[p.rgb.len() - 3..], right_bottom);
        }
        let dot = Pixels { width: 1, height: 1, rgb: vec![9; 3] };
        assert!(of_image(&dot, 3).iter().all(|copy| (copy.width, copy.height) == (1, 1)));
    }

    #[test]
    fn copies_of_a_caption() {
        let [case, marks, fewer] = of_caption("A red boat, on a lake", 1);
        assert_eq!(case.as_deref(), Some("a red boat, on a lake"));
        assert_eq!(marks.as_deref(), Some("A red boat on a lake"));
        assert_eq!(fewer.as_deref(), Some("A boat, on a lake"));
        let [case, marks, fewer] = of_caption("zwei äpfel", 0);
        assert_eq!(case.as_deref(), Some("ZWEI ÄPFEL"));
        assert_eq!((marks.as_deref(), fewer), (Some("zwei äpfel."), None));
    }
}
