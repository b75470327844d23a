//! Every kind of message that a stream may carry, with what must become of it.

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{DynamicImage, ImageFormat::*, RgbImage, imageops};
use schemas::reject::Reason::{self, *};

use super::files::*;

/// The limits that the details below name; screens that would turn small pictures away are off.
pub const CONFIG: &str = "[screen]\nencoded_bytes_max = \"300 KiB\"\nside_min = 1\n\
    aspect_max = 30000.0\nblur_min = 0.0\nentropy_min = 0.0\nbright_end_min = 0.0\n\
    dark_end_max = 1.0\n[channels.semantic]\nencoder = \"given\"\ndim = 3\nband = [0.5, 0.9]\n\
    [fetch]\nschemes = [\"file\"]\nfolders = [\"allowed\"]\n";

/// What must become of a message.
pub enum Want {
    /// A live image, near this one.
    Live(RgbImage),
    /// A live image of this size, whatever it shows.
    Size(u32, u32),
    /// Turned away for this, with these words.
    Rejected(Reason, Vec<String>),
}

pub struct Case {
    pub name: String,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub want: Want,
}

/// Cases under keys of their own names.
struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: &str, value: Vec<u8>, want: Want) -> &mut Case {
        let (key, headers) = (Some(name.as_bytes().to_vec()), Vec::new());
        self.0.push(Case { name: name.into(), key, value: Some(value), headers, want });
        self.0.last_mut().expect("just pushed")
    }

    fn live(&mut self, name: &str, value: Vec<u8>, image: impl Into<DynamicImage>) -> &mut Case {
        self.add(name, value, Want::Live(image.into().into_rgb8()))
    }

    fn no(
        &mut self,
        name: &str,
        value: impl Into<Vec<u8>>,
        why: Reason,
        words: &[&str],
    ) -> &mut Case {
        let words = words.iter().map(ToString::to_string).collect();
        self.add(name, value.into(), Want::Rejected(why, words))
    }

    fn envelope(&mut self, name: &str, json: &str, why: Reason, words: &[&str]) {
        self.no(name, json, why, words);
    }
}

/// All of them; `folder` is where the config stands.
pub fn cases(folder: &std::path::Path) -> Vec<Case> {
    let mut table = Table(Vec::new());
    pictures(&mut table);
    odd_pictures(&mut table);
    turned(&mut table);
    broken_files(&mut table);
    other_formats(&mut table);
    keys(&mut table);
    envelopes(&mut table);
    texts(&mut table);
    vectors(&mut table);
    references(&mut table, folder);
    table.0
}

fn grey(image: &RgbImage) -> DynamicImage {
    DynamicImage::from(image.clone()).grayscale()
}

fn pictures(table: &mut Table) {
    let plain = picture(48, 32);
    let of = |x, y| plain.get_pixel(x, y).0.map(u32::from);
    let dynamic = DynamicImage::from(plain.clone());
    table.live("jpeg", file(plain.clone(), Jpeg), plain.clone());
    table.live("png", file(plain.clone(), Png), plain.clone());
    table.live("webp", file(plain.clone(), WebP), plain.clone());
    table.live("gif", file(dynamic.to_rgba8(), Gif), plain.clone());
    let deep = png((48, 32), Form(16, 2, false), &[], |x, y| of(x, y).map(|c| c * 257).to_vec());
    table.live("png of 16 bits", deep, plain.clone());
    let grey_16 = |x, y| vec![u32::from(grey(&plain).into_luma8().get_pixel(x, y).0[0]) * 257];
    table.live("grey png", file(dynamic.to_luma8(), Png), grey(&plain));
    table.live(
        "grey png of 16 bits",
        png((48, 32), Form(16, 0, false), &[], grey_16),
        grey(&plain),
    );
    table.live("grey jpeg", file(dynamic.to_luma8(), Jpeg), grey(&plain));
    table.live(
        "interlaced png",
        png((48, 32), Form(8, 2, true), &[], |x, y| of(x, y).to_vec()),
        plain.clone(),
    );
    let white = |alpha: u32| {
        RgbImage::from_fn(48, 32, |x, y| {
            image::Rgb(of(x, y).map(|c| ((c * alpha + 255 * (255 - alpha)) / 255) as u8))
        })
    };
    let alpha = |a: u32| {
        move |mut samples: Vec<u32>| {
            samples.push(a);
            samples
        }
    };
    let half = png((48, 32), Form(8, 6, false), &[], |x, y| alpha(128)(of(x, y).to_vec()));
    table.live("half transparent png", half, white(128));
    let none = png((48, 32), Form(8, 6, false), &[], |x, y| alpha(0)(of(x, y).to_vec()));
    table.live("transparent png", none, white(0));
    let grey_alpha = png((48, 32), Form(8, 4, false), &[], |x, _| vec![5 * x, 255]);
    let ramp = RgbImage::from_fn(48, 32, |x, _| image::Rgb([(5 * x) as u8; 3]));
    table.live("grey png with alpha", grey_alpha, ramp);
    let colours = chunk(b"PLTE", &[250, 10, 20, 10, 240, 30, 20, 30, 230, 250, 250, 10]);
    let quarter = |x: u32, y: u32| x / 24 + 2 * (y / 16);
    let painted = |colours: [[u8; 3]; 4]| {
        RgbImage::from_fn(48, 32, |x, y| image::Rgb(colours[quarter(x, y) as usize]))
    };
    let four = [[250, 10, 20], [10, 240, 30], [20, 30, 230], [250, 250, 10]];
    for (bits, name) in [(2, "palette of 2 bits"), (4, "palette of 4 bits"), (8, "palette png")] {
        let file = png((48, 32), Form(bits, 3, false), std::slice::from_ref(&colours), |x, y| {
            vec![quarter(x, y)]
        });
        table.live(name, file, painted(four));
    }
    let clear = [colours, chunk(b"tRNS", &[255, 0])];
    let file_clear = png((48, 32), Form(8, 3, false), &clear, |x, y| vec![quarter(x, y)]);
    table.live(
        "palette with transparency",
        file_clear,
        painted([four[0], [255; 3], four[2], four[3]]),
    );
    let bit = png((48, 32), Form(1, 0, false), &[], |x, y| {
        vec![u32::from((x / 16 + y / 16).is_multiple_of(2))]
    });
    let board =
        |x: u32, y: u32| image::Rgb([if (x / 16 + y / 16).is_multiple_of(2) { 255 } else { 0 }; 3]);
    table.live("png of one bit", bit, RgbImage::from_fn(48, 32, board));
}

fn odd_pictures(table: &mut Table) {
    let blocks = |of: fn(u16, u16) -> [u8; 3]| {
        RgbImage::from_fn(48, 32, |x, y| image::Rgb(of((x / 8) as u16, (y / 8) as u16)))
    };
    let ramp = |x: u16, y: u16| (40 * x + 10 * y) as u8;
    let shades = blocks(|x, y| [(40 * x + 10 * y) as u8; 3]);
    table.live(
        "jpeg of flat blocks",
        jpeg(BASELINE, 6, 4, |x, y| vec![ramp(x, y)]),
        shades.clone(),
    );
    table.live(
        "progressive jpeg",
        jpeg(PROGRESSIVE, 6, 4, |x, y| vec![ramp(x, y)]),
        shades.clone(),
    );
    // Adobe writes inks inverted: 255 is none.
    let inks = |transform| super::files::Jpeg { adobe: Some(transform), ..BASELINE };
    let cmyk = jpeg(inks(0), 6, 4, |x, y| vec![(40 * x) as u8, (60 * y) as u8, 200, 255]);
    table.live("cmyk jpeg", cmyk, blocks(|x, y| [(40 * x) as u8, (60 * y) as u8, 200]));
    let ycck = jpeg(inks(2), 6, 4, |x, y| vec![ramp(x, y), 128, 128, 255]);
    // As inverted inks, so that a bright luma is much ink.
    table.live("ycck jpeg", ycck, blocks(|x, y| [255 - (40 * x + 10 * y) as u8; 3]));
    let red = RgbImage::from_pixel(20, 10, image::Rgb([200, 10, 10]));
    let blue = RgbImage::from_pixel(20, 10, image::Rgb([10, 10, 200]));
    let frames = [file(red.clone(), WebP), file(blue.clone(), WebP)];
    table.live("animated webp: its first frame", animated_webp((20, 10), &frames), red.clone());
    let mut animated = Vec::new();
    {
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut animated);
        for frame in [&red, &blue] {
            let frame = DynamicImage::from(frame.clone()).to_rgba8();
            encoder.encode_frame(image::Frame::new(frame)).expect("a frame");
        }
    }
    table.live("animated gif: its first frame", animated, red);
    for (width, height) in [(1, 1), (1, 300), (300, 1), (17, 13), (13, 211)] {
        let image = picture(width, height);
        table.live(&format!("png of {width} x {height}"), file(image.clone(), Png), image.clone());
        table.live(&format!("jpeg of {width} x {height}"), file(image.clone(), Jpeg), image);
    }
    let plain = picture(48, 32);
    for (name, format) in [("jpeg", Jpeg), ("png", Png), ("gif", Gif)] {
        let mut long = match format {
            Gif => file(DynamicImage::from(plain.clone()).to_rgba8(), Gif),
            format => file(plain.clone(), format),
        };
        long.extend([0x55; 999]);
        table.live(&format!("{name} with something after its end"), long, plain.clone());
    }
    let profile = [&b"ICC_PROFILE\0\x01\x01"[..], &[9; 500]].concat();
    let jpeg = file(plain.clone(), Jpeg);
    table.live("jpeg with a colour profile", with_segment(&jpeg, 0xe2, &profile), plain.clone());
    let profile = chunk(b"iCCP", b"name\0\0not a profile");
    let of = |x, y| plain.get_pixel(x, y).0.map(u32::from).to_vec();
    let profiled = png((48, 32), Form(8, 2, false), &[profile], of);
    table.live("png with a broken colour profile", profiled, plain.clone());
    let text = with_segment(&jpeg, 0xfe, &[b'x'; 60_000]);
    table.live("jpeg with a long comment", text, plain);
}

fn turned(table: &mut Table) {
    let upright = picture(48, 32);
    let tall = picture(32, 48);
    // How an upright picture lies in the file that has this orientation.
    let lies: [(u16, RgbImage, &RgbImage); 8] = [
        (1, upright.clone(), &upright),
        (2, imageops::flip_horizontal(&upright), &upright),
        (3, imageops::rotate180(&upright), &upright),
        (4, imageops::flip_vertical(&upright), &upright),
        (5, imageops::flip_horizontal(&imageops::rotate90(&tall)), &tall),
        (6, imageops::rotate270(&tall), &tall),
        (7, imageops::flip_horizontal(&imageops::rotate270(&tall)), &tall),
        (8, imageops::rotate90(&tall), &tall),
    ];
    for (value, lying, upright) in lies {
        let jpeg = with_segment(&file(lying, Jpeg), 0xe1, &orientation(value));
        table.live(&format!("exif orientation {value}"), jpeg, upright.clone());
    }
    let jpeg = file(upright.clone(), Jpeg);
    let cut = &orientation(6)[..20];
    for (name, exif) in [
        ("exif with an orientation that is none", &orientation(9)[..]),
        ("exif that is cut off", cut),
        ("exif that is noise", b"Exif\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("exif that points far away", b"Exif\0\0MM\0\x2a\xff\xff\xff\xf0"),
    ] {
        table.live(name, with_segment(&jpeg, 0xe1, exif), upright.clone());
    }
}

fn broken_files(table: &mut Table) {
    let plain = picture(48, 32);
    let [jpg, png, webp] = [Jpeg, Png, WebP].map(|format| file(plain.clone(), format));
    let gif = file(DynamicImage::from(plain).to_rgba8(), Gif);
    let kinds = [("jpeg", &jpg), ("png", &png), ("webp", &webp), ("gif", &gif)];
    for (name, bytes) in kinds {
        table.no(&format!("{name} cut in half"), &bytes[..bytes.len() / 2], Corrupt, &["corrupt"]);
        table.no(&format!("{name} of its first 16 bytes"), &bytes[..16], Corrupt, &[]);
    }
    table.no("jpeg of its marker", &jpg[..3], Corrupt, &["cut short"]);
    table.no("jpeg without its last byte", &jpg[..jpg.len() - 1], Corrupt, &["cut short"]);
    let noise = |from: &[u8]| [from, &[0xa5; 400]].concat();
    table.no("noise after png's magic", noise(&png[..8]), Corrupt, &["corrupt"]);
    table.no("noise after webp's magic", noise(&webp[..12]), Corrupt, &["corrupt"]);
    let mut flipped = png.clone();
    let at = png.windows(4).position(|w| w == b"IDAT").expect("it has one") + 10;
    flipped[at] ^= 0x40;
    table.no("png with a wrong checksum", flipped, Corrupt, &["corrupt"]);
    let mut header = png.clone();
    header[20] ^= 1;
    table.no("png whose header has a wrong checksum", header, Corrupt, &["corrupt"]);
    table.no("png without pixels", announced_png(48, 32), Corrupt, &["corrupt"]);
    for (name, marker) in [("arithmetic", 0xc9), ("lossless", 0xc3), ("hierarchical", 0xc5)] {
        let form = super::files::Jpeg { marker, ..BASELINE };
        let coded = jpeg(form, 2, 2, |_, _| vec![99]);
        table.no(&format!("{name} jpeg"), coded, Corrupt, &["corrupt"]);
    }
    let deep = super::files::Jpeg { bits: 12, marker: 0xc1, ..BASELINE };
    table.no("jpeg of 12 bits", jpeg(deep, 2, 2, |_, _| vec![99]), Corrupt, &["corrupt"]);
    table.no("jpeg of no lines", jpeg(BASELINE, 2, 0, |_, _| vec![99]), Corrupt, &[]);
    table.no("gif of no columns", announced_gif(0, 3), ZeroSize, &["zero"]);
    table.no("png of no columns", announced_png(0, 9), Corrupt, &[]);
    let (pixels, side) = ("89478485", "30000");
    table.no(
        "a bomb of 20,000 x 20,000",
        announced_png(20_000, 20_000),
        TooManyPixels,
        &["20000 x 20000", pixels],
    );
    table.no(
        "a gif bomb",
        announced_gif(29_000, 29_000),
        TooManyPixels,
        &["29000 x 29000", pixels],
    );
    table.no("a long side", announced_png(30_001, 1), SideTooLong, &["30001 x 1", side]);
    let mut large = jpg.clone();
    large.resize(300 * 1024 + 1, 0);
    table.no("too many bytes", large, TooManyBytes, &["307201", "307200"]);
    table.no("no bytes", Vec::new(), EmptyValue, &["null value"]);
}

fn other_formats(table: &mut Table) {
    let boxed = |brand: &str| format!("\0\0\0\x18ftyp{brand}\0\0\0\0mif1{brand}").into_bytes();
    let others: [(&str, Vec<u8>); 17] = [
        ("BMP", b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec()),
        ("TIFF", b"II\x2a\0\x08\0\0\0".to_vec()),
        ("TIFF", b"MM\0\x2a\0\0\0\x08".to_vec()),
        ("AVIF", boxed("avif")),
        ("HEIC", boxed("heic")),
        ("SVG", b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec()),
        ("SVG", b"<?xml version=\"1.0\"?>\n<svg/>".to_vec()),
        ("PDF", b"%PDF-1.7\n".to_vec()),
        ("HTML", b"<!DOCTYPE html><title>404</title>".to_vec()),
        ("HTML", b"\n  <HTML><body>Not found</body>".to_vec()),
        ("JPEG XL", b"\xff\x0a\xfa\x1f".to_vec()),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n".to_vec()),
        ("ICO", b"\0\0\x01\0\x01\0\x10\x10".to_vec()),
        ("PSD", b"8BPS\0\x01".to_vec()),
        ("ZIP", b"PK\x03\x04".to_vec()),
        ("gzip", b"\x1f\x8b\x08\0".to_vec()),
        ("video", boxed("mp42")),
    ];
    for (index, (name, bytes)) in others.into_iter().enumerate() {
        let words = [name, "JPEG, PNG, WebP or GIF"];
        table.no(&format!("{name} ({index})"), bytes, UnknownFormat, &words);
    }
    let plain = ["not a JPEG, PNG, WebP or GIF file"];
    table.no("a sound", b"RIFF\x24\0\0\0WAVEfmt ".as_slice(), UnknownFormat, &plain);
    table.no("words", b"three red circles".as_slice(), UnknownFormat, &plain);
    table.no("one byte", b"\0".as_slice(), UnknownFormat, &plain);
    table.no("json after a space", b" {\"image\": \"AAAA\"}".as_slice(), UnknownFormat, &["JSON"]);
    table.no("a json list", b"[1, 2]".as_slice(), UnknownFormat, &plain);
}

fn keys(table: &mut Table) {
    let good = || file(picture(24, 24), Png);
    let key = |case: &mut Case, key: Option<Vec<u8>>| case.key = key;
    key(table.no("no key", good(), MissingId, &["key"]), None);
    key(table.no("an empty key", good(), MissingId, &["key"]), Some(vec![]));
    key(table.no("a key that is no text", good(), IdNotUtf8, &["utf-8"]), Some(b"a\xff".to_vec()));
    key(table.no("a long key", good(), IdTooLong, &["513 bytes", "512"]), Some(vec![b'k'; 513]));
    // The id is any text: what it looks like is its owner's business.
    for (name, text) in [
        ("the longest key", "k".repeat(512)),
        ("a key with control characters", "a\tb\nc\u{7f}\u{1b}[31m".into()),
        ("a key with a NUL", "a\0b".into()),
        ("a key of other letters", "図/é e\u{301}\u{202e}\u{1f600}".into()),
        ("a key like a path", "../../etc/passwd".into()),
        ("a key like sql", "'; DROP TABLE images; --".into()),
    ] {
        let case = table.add(name, good(), Want::Size(24, 24));
        key(case, Some(text.into_bytes()));
    }
}

fn envelopes(table: &mut Table) {
    let image = STANDARD.encode(file(picture(24, 24), Png));
    for (name, json) in [
        ("json with an image", format!("{{\"image\": \"{image}\"}}")),
        ("unknown fields", format!("{{\"image\": \"{image}\", \"camera\": {{\"make\": [1]}}}}")),
        ("the last of two fields", format!("{{\"image\": \"AAAA\", \"image\": \"{image}\"}}")),
        ("nulls", format!("{{\"image\": \"{image}\", \"caption\": null, \"uri\": null}}")),
        (
            "licence twice",
            format!("{{\"image\": \"{image}\", \"licence\": \"a\", \"license\": \"b\"}}"),
        ),
        ("json after which is white space", format!("{{\"image\": \"{image}\"}} \n")),
    ] {
        table.add(name, json.into_bytes(), Want::Size(24, 24));
    }
    let deep = |count: usize| format!("{{\"a\": {}1{}}}", "[".repeat(count), "]".repeat(count));
    let with = |rest: &str| format!("{{\"image\": \"{image}\", {rest}}}");
    let url_safe = "{\"image\": \"__-_\"}";
    table.envelope("a brace", "{", BadEnvelope, &["EOF"]);
    table.envelope("json that is cut off", &with("")[..60], BadEnvelope, &["EOF"]);
    table.envelope(
        "json with more after it",
        &format!("{} x", with("\"a\": 1")),
        BadEnvelope,
        &["trailing"],
    );
    table.envelope(
        "json with a comma too many",
        "{\"caption\": \"x\",}",
        BadEnvelope,
        &["trailing comma"],
    );
    table.envelope("json nested too deep", &deep(200), BadEnvelope, &["recursion limit"]);
    table.envelope("json nested a million deep", &deep(100_000), BadEnvelope, &["recursion limit"]);
    table.no(
        "json that is no text",
        b"{\"caption\": \"\xff\"}".as_slice(),
        BadEnvelope,
        &["unicode"],
    );
    table.envelope("a lone surrogate", "{\"caption\": \"\\ud800\"}", BadEnvelope, &["hex escape"]);
    table.envelope(
        "json without image",
        "{\"caption\": \"x\"}",
        NoImage,
        &["neither image nor uri"],
    );
    table.envelope("an empty object", "{}", NoImage, &["neither image nor uri"]);
    table.envelope("an image that is a number", "{\"image\": 3}", BadEnvelope, &["base64 string"]);
    table.envelope("an image that is a list", "{\"image\": [255, 216]}", BadEnvelope, &["base64"]);
    table.envelope("an empty image", "{\"image\": \"\"}", NoImage, &["empty"]);
    table.envelope("base64 garbage", "{\"image\": \"%%%\"}", BadBase64, &["image", "Invalid"]);
    table.envelope("url-safe base64", url_safe, BadBase64, &["standard base64"]);
    table.envelope("base64 without its end", "{\"image\": \"AAA\"}", BadBase64, &["padding"]);
    table.envelope("base64 of words", "{\"image\": \"aGVsbG8=\"}", UnknownFormat, &[]);
}

fn texts(table: &mut Table) {
    let good = || file(picture(24, 24), Png);
    let image = STANDARD.encode(good());
    let with = |rest: &str| format!("{{\"image\": \"{image}\", {rest}}}");
    let long = "x".repeat((16 << 10) + 1);
    let limit = ["16385 bytes", "at most 16384"];
    table.envelope("a huge caption", &with(&format!("\"caption\": \"{long}\"")), BadText, &limit);
    table.envelope(
        "a NUL in a caption",
        &with("\"caption\": \"a\\u0000b\""),
        BadText,
        &["caption", "NUL"],
    );
    table.envelope(
        "a caption that is a number",
        &with("\"caption\": 7"),
        BadEnvelope,
        &["caption: must be a string"],
    );
    table.envelope(
        "a source that is an object",
        &with("\"source\": {}"),
        BadEnvelope,
        &["source: must"],
    );
    let attributes = with(&format!("\"more\": \"{}\"", "x".repeat(64 << 10)));
    table.envelope("too much of its own", &attributes, BadText, &["attributes", "at most 65536"]);
    table.no("a huge header", good(), BadText, &limit).headers =
        vec![("caption".into(), long.into_bytes())];
    table.no("a header that is no text", good(), BadText, &["header caption", "utf-8"]).headers =
        vec![("caption".into(), b"\xff\xfe".to_vec())];
    table.no("a NUL in a header", good(), BadText, &["caption", "NUL"]).headers =
        vec![("caption".into(), b"a\0b".to_vec())];
    for (name, header, text) in [
        ("the longest caption", "caption", "y".repeat(16 << 10).into_bytes()),
        ("a blank caption", "caption", b" \t ".to_vec()),
        ("an unknown header that is no text", "trace", b"\xff\0".to_vec()),
    ] {
        table.add(name, good(), Want::Size(24, 24)).headers = vec![(header.into(), text)];
    }
}

fn vectors(table: &mut Table) {
    let image = STANDARD.encode(file(picture(24, 24), Png));
    let with = |vectors: &str| format!("{{\"image\": \"{image}\", \"vectors\": {vectors}}}");
    table.add("a vector", with("{\"semantic\": [1, 2.5, -3]}").into_bytes(), Want::Size(24, 24));
    for (name, vectors, words) in [
        ("too few numbers", "{\"semantic\": [1, 2]}", ["vectors.semantic: 2 numbers", "has 3"]),
        ("too many numbers", "{\"semantic\": [1, 2, 3, 4]}", ["4 numbers", "has 3"]),
        ("a vector of zeros", "{\"semantic\": [0, 0, 0]}", ["vectors.semantic", "zero"]),
        ("a vector for a built-in encoder", "{\"pattern\": [1, 2]}", ["pattern", "\"given\""]),
        ("a channel that is none", "{\"colour\": [1]}", ["no channel", "colour"]),
        (
            "words for numbers",
            "{\"semantic\": [\"a\", 1, 2]}",
            ["vectors.semantic", "invalid type"],
        ),
        ("numbers without a channel", "[1, 2, 3]", ["vectors", "object"]),
        ("null for a number", "{\"semantic\": [null, 1, 2]}", ["vectors.semantic", "null"]),
    ] {
        table.envelope(name, &with(vectors), BadVectors, &words);
    }
    let nan = with("{\"semantic\": [NaN, 1, 2]}");
    table.envelope("not a number in a vector", &nan, BadEnvelope, &["expected value"]);
    let infinite = with("{\"semantic\": [1e999, 1, 2]}");
    table.envelope("a number without bound", &infinite, BadEnvelope, &["out of range"]);
}

fn references(table: &mut Table, folder: &std::path::Path) {
    let allowed = folder.join("allowed");
    std::fs::create_dir_all(allowed.join("folder")).expect("it is writable");
    std::fs::write(allowed.join("a.png"), file(picture(40, 30), Png)).expect("it is writable");
    std::fs::write(allowed.join("large.png"), vec![0; 300 * 1024 + 1]).expect("it is writable");
    std::fs::write(allowed.join("words.png"), "words").expect("it is writable");
    std::fs::write(folder.join("secret.png"), "secret").expect("it is writable");
    let uri = |uri: &str| serde_json::json!({ "uri": uri }).to_string();
    let file_uri = |name: &str| uri(&format!("file://{}/{name}", folder.display()));
    let here = file_uri("allowed/a.png").into_bytes();
    table.add("a file in the allowed folder", here, Want::Size(40, 30));
    for (name, json, why, words) in [
        ("a path outside of it", file_uri("secret.png"), UriNotAllowed, "[fetch] folders"),
        ("a path that climbs out", file_uri("allowed/../secret.png"), UriNotAllowed, "folders"),
        ("a file that is not there", file_uri("allowed/none.png"), FetchFailed, "No such file"),
        ("a folder", file_uri("allowed/folder"), FetchFailed, "no regular file"),
        ("a large file", file_uri("allowed/large.png"), TooManyBytes, "307200"),
        ("a file of words", file_uri("allowed/words.png"), UnknownFormat, "JPEG"),
        ("a scheme that is not allowed", uri("https://a.org/b"), UriNotAllowed, "schemes has no"),
        ("a scheme that is none", uri("gopher://a.org/b"), UriNotAllowed, "gopher"),
        ("a uri without scheme", uri("photos/a.png"), UriNotAllowed, "no scheme"),
        ("an empty uri", uri(""), UriNotAllowed, "no scheme"),
        ("a uri with data in it", uri("data:image/png;base64,AA=="), UriNotAllowed, "data"),
        ("a uri that is noise", uri("file://[::1"), UriNotAllowed, "IPv6"),
    ] {
        table.envelope(name, &json, why, &[words]);
    }
    let long = uri(&format!("file:///{}", "x".repeat(16 << 10)));
    table.envelope("a huge uri", &long, BadText, &["uri", "at most 16384"]);
}
