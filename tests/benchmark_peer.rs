//! How often images of a real folder are taken for images of an evaluation set, and how often copies
//! are found: the figures behind the default of 4 bits.

use std::path::PathBuf;

use everpair::{benchmark::measure::measure, settings};
use kernels::{
    decode::{Pixels, decode},
    encoders::ImageEncoder,
    phash::{hamming, phash},
    resize::{encode_jpeg, fit, resize},
};
use operators::benchmarks::Set;
use schemas::{
    benchmark::{CHANNELS, Header, Images, Vectors},
    config::Config,
    limits,
};

use super::peers::peer;

const BITS: [u32; 3] = [limits::BENCHMARK_PHASH_BITS, 6, 8];
const CONFIG: &str = "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"tables\"\n";

/// Every other image, from the first or from the second.
fn half(images: &Images, from: usize) -> Images {
    fn every_other<T: Clone>(all: &[T], from: usize) -> Vec<T> {
        all.iter().skip(from).step_by(2).cloned().collect()
    }
    Images {
        names: every_other(&images.names, from),
        contents: every_other(&images.contents, from),
        phashes: every_other(&images.phashes, from),
        vectors: [0, 1].map(|channel| every_other(&images.vectors[channel], from)),
    }
}

fn copies(pixels: &Pixels) -> [(&'static str, Pixels); 3] {
    let through_jpeg = decode(&encode_jpeg(pixels, 60), &Default::default()).expect("a JPEG file");
    let (width, height) = (pixels.width, pixels.height);
    let (left, top) = (width * 3 / 100, height * 3 / 100);
    let row = |y: u32| {
        let from = 3 * (y as usize * width as usize + left as usize);
        &pixels.rgb[from..from + 3 * (width - left) as usize]
    };
    let rgb = (top..height).flat_map(row).copied().collect();
    [
        ("jpeg", through_jpeg.pixels),
        ("smaller", resize(pixels, (width / 2).max(1), (height / 2).max(1))),
        ("crop", Pixels { width: width - left, height: height - top, rgb }),
    ]
}

#[test]
fn strangers_are_let_in_and_copies_are_found() {
    let config = Config::parse(CONFIG).expect("a good config");
    let settings = settings::settings(&config).expect("with settings");
    let folder = PathBuf::from(peer("EVERPAIR_IMAGES"));
    let measured = measure(std::slice::from_ref(&folder), &settings.encoders).expect("images");
    assert!(measured.unreadable.is_empty(), "{:?}", measured.unreadable);
    let images = measured.images;
    assert!(images.names.len() > 700, "{} images", images.names.len());

    let (blocked, others) = (half(&images, 0), half(&images, 1));
    let channels = CHANNELS.map(|channel| {
        let band = settings.mining.bands[channel.index()].last().expect("a band");
        let encoder = settings.encoders.id(channel).expect("an encoder");
        let vectors = blocked.vectors[channel.index()].iter().flatten().count();
        (channel, Vectors { encoder, threshold: band.hi, images: vectors })
    });
    let header = Header {
        name: "stamps".into(),
        images: blocked.names.len(),
        phash_bits: Some(limits::BENCHMARK_PHASH_BITS),
        channels: channels.into(),
        data: String::new(),
    };
    let set = Set::new("stamps/0", &header, blocked.clone(), &settings.encoders).expect("a set");

    let strangers = others.names.len();
    let near = |hash: &u64| set.by_phash(*hash);
    let by_phash = others.phashes.iter().filter_map(near);
    let by_phash: Vec<String> = by_phash.map(|found| set.words(found)).collect();
    let by_vector = [0, 1].map(|channel| {
        let all: Vec<&[i16]> = others.vectors[channel].iter().flatten().map(|v| &**v).collect();
        set.by_vectors(channel, &all).iter().flatten().count()
    });
    let pairs = blocked.names.len() * strangers;
    // Within 4, 6 and 8 bits: what another default would do.
    let as_near = BITS.map(|most| {
        let near = |hash: &u64| {
            let near = |other: &&u64| hamming(*hash, **other) <= most;
            others.phashes.iter().filter(near).count()
        };
        blocked.phashes.iter().map(near).sum::<usize>()
    });
    println!(
        "of {strangers} strangers {} match by hash (of {pairs} pairs {as_near:?} are within {BITS:?} bits), {by_vector:?} by \
         vectors of the built-in encoders:\n{by_phash:#?}",
        by_phash.len()
    );
    assert!(by_phash.len() * 100 <= strangers * 3, "at most 3 % of clip art by hash");
    assert!(as_near[0] * 10_000 <= pairs, "at most one pair in ten thousand");
    assert!(by_vector.iter().all(|found| found * 10 <= strangers), "at most 10 % by vectors");

    // By kind: copies, found by hash, found at all, and near enough for each number of bits.
    let mut found: Vec<(&str, usize, usize, usize, [usize; 3])> = Vec::new();
    for (name, hash) in blocked.names.iter().zip(&blocked.phashes) {
        let bytes = std::fs::read(folder.join(name)).expect("a file of the folder");
        let pixels = decode(&bytes, &Default::default()).expect("it was read before").pixels;
        for (at, (kind, copy)) in copies(&pixels).into_iter().enumerate() {
            if found.len() <= at {
                found.push((kind, 0, 0, 0, [0; 3]));
            }
            let by_hash = set.by_phash(phash(&copy)).is_some();
            for (count, most) in found[at].4.iter_mut().zip(BITS) {
                *count += usize::from(hamming(*hash, phash(&copy)) <= most);
            }
            let small = fit(&copy, limits::ENCODER_SIDE_MAX);
            let by_vector = (0..2).any(|channel| {
                let encoder: &dyn ImageEncoder =
                    &**settings.encoders.image[channel].as_ref().expect("an encoder");
                let vector = encoder.encode(&[&small]).remove(0);
                vector.is_some_and(|vector| set.by_vectors(channel, &[&vector])[0].is_some())
            });
            found[at].1 += 1;
            found[at].2 += usize::from(by_hash);
            found[at].3 += usize::from(by_hash || by_vector);
        }
    }
    println!("kind, copies, found by hash, by hash or vectors, within {BITS:?} bits: {found:?}");
    for (kind, copies, by_hash, at_all, _) in found {
        if kind != "crop" {
            assert!(by_hash * 100 >= copies * 90, "{kind}: 90 % by hash");
        }
        assert!(at_all * 100 >= copies * if kind == "crop" { 50 } else { 95 }, "{kind}");
    }
}
