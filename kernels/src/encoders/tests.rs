//! One suite for every encoder, and what each is for.

use super::*;
use crate::resize::{encode_jpeg, resize};
use crate::vector::{Band, UNIT, dot};

/// A scene: a flat background and a shape, all chosen by `seed`.
fn scene(seed: u64) -> Pixels {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d;
    let mut next = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let palette = [
        [230, 60, 50],
        [240, 150, 40],
        [240, 220, 70],
        [70, 170, 80],
        [60, 110, 210],
        [140, 70, 170],
        [240, 160, 190],
        [120, 80, 50],
        [240, 240, 240],
        [50, 50, 60],
    ];
    let (front, back) = (palette[next(10) as usize], palette[next(10) as usize]);
    let (shape, x, y) = (next(3), 48 + next(96) as i64, 48 + next(96) as i64);
    let radius = 20 + next(50) as i64;
    let color = |i: i64| {
        let (dx, dy) = (i % 192 - x, i / 192 - y);
        let inside = match shape {
            0 => dx * dx + dy * dy < radius * radius,
            1 => dx.abs().max(dy.abs()) < radius,
            _ => dy < radius && dy > 2 * dx.abs() - radius,
        };
        if inside { front } else { back }
    };
    Pixels { width: 192, height: 192, rgb: (0..192 * 192).flat_map(color).collect() }
}

fn image_encoders() -> Vec<Box<dyn ImageEncoder>> {
    ["builtin:layout", "builtin:edges"].map(|name| image_encoder(name).unwrap()).into()
}

fn words() -> Box<dyn TextEncoder> {
    text_encoder("builtin:words").unwrap()
}

fn cosine(a: &[i16], b: &[i16]) -> f64 {
    f64::from(dot(a, b)) / f64::from(UNIT)
}

fn is_digest(digest: &str) -> bool {
    digest.len() == 16 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn names() {
    for encoder in image_encoders() {
        assert!(image_encoder(encoder.name()).is_some() && is_digest(&encoder.digest()));
        assert!(encoder.dim() > 0 && encoder.dim() <= 576);
    }
    assert!(text_encoder(words().name()).is_some() && is_digest(&words().digest()));
    assert!(image_encoder("builtin:words").is_none() && text_encoder("builtin:edges").is_none());
    let [layout, edges] = &image_encoders()[..] else { panic!() };
    assert_ne!(layout.digest(), edges.digest());
}

#[test]
fn bands_are_valid() {
    let mut bands: Vec<(f64, f64)> = words().default_bands().to_vec();
    bands.extend(image_encoders().iter().flat_map(|e| e.default_bands().to_vec()));
    assert!(bands.len() >= 3);
    for (low, high) in bands {
        Band::new(low, high).unwrap();
    }
}

#[test]
fn a_batch_is_its_images_one_by_one() {
    let pictures: Vec<Pixels> = (0..9).map(scene).collect();
    for encoder in image_encoders() {
        let together = encoder.encode(&pictures.iter().collect::<Vec<_>>());
        assert_eq!(together.len(), 9);
        for (picture, vector) in pictures.iter().zip(&together) {
            assert_eq!(&encoder.encode(&[picture])[0], vector);
            assert_eq!(
                vector.as_ref().map(|v| v.len()),
                Some(encoder.dim()).filter(|_| vector.is_some())
            );
        }
        assert!(encoder.encode(&[]).is_empty());
    }
    let texts = ["a red circle", "", "two dogs in the snow"];
    let together = words().encode(&texts);
    for (text, vector) in texts.iter().zip(together) {
        assert_eq!(words().encode(&[text]), [vector]);
    }
}

#[test]
fn any_size_has_a_vector_unless_there_is_nothing_to_see() {
    let flat = Pixels { width: 50, height: 20, rgb: vec![90; 3000] };
    let tiny = Pixels { width: 1, height: 1, rgb: vec![1, 2, 3] };
    for (encoder, sees_flat) in image_encoders().iter().zip([true, false]) {
        for p in [&flat, &tiny] {
            assert_eq!(encoder.encode(&[p])[0].is_some(), sees_flat, "{}", encoder.name());
        }
        for (width, height) in [(2, 200), (256, 3), (33, 31)] {
            assert!(encoder.encode(&[&resize(&scene(1), width, height)])[0].is_some());
        }
    }
}

#[test]
fn copies_are_above_the_band_and_strangers_below() {
    let pictures: Vec<Pixels> = (0..300).map(scene).collect();
    for encoder in image_encoders() {
        let band = encoder.default_bands().to_vec();
        let (low, high) = (band[0].0, band[band.len() - 1].1);
        let vectors: Vec<_> = encoder.encode(&pictures.iter().collect::<Vec<_>>());
        let (mut in_band, mut pairs, mut sum, mut copies_below) = (0, 0, 0.0, 0);
        for (i, a) in vectors.iter().enumerate() {
            let Some(a) = a else { continue };
            for b in vectors[..i].iter().flatten() {
                let s = cosine(a, b);
                pairs += 1;
                sum += s;
                in_band += usize::from(low <= s && s < high);
            }
            let copy = crate::decode::decode(&encode_jpeg(&pictures[i], 85), &Default::default());
            let copy = resize(&copy.unwrap().pixels, 160, 160);
            let s = cosine(a, encoder.encode(&[&copy])[0].as_ref().unwrap());
            copies_below += usize::from(s < high);
        }
        // The upper edge is where calibration would put it: at the 5 % quantile of mild copies.
        assert!(copies_below <= 15, "{}: {copies_below} copies below", encoder.name());
        let (share, mean) = (f64::from(in_band as u32) / f64::from(pairs), sum / f64::from(pairs));
        // At 2,000 images a share of 0.5 % is ten neighbours each.
        assert!((0.005..0.06).contains(&share), "{}: {share} in band", encoder.name());
        assert!(mean.abs() < 0.15, "{}: strangers score {mean}", encoder.name());
    }
}

#[test]
fn captions_that_share_words_are_near() {
    let score = |a: &str, b: &str| {
        let v = words().encode(&[a, b]);
        cosine(v[0].as_ref().unwrap(), v[1].as_ref().unwrap())
    };
    let (low, high) = words().default_bands()[0];
    let in_band = |s: f64| low <= s && s < high;
    assert!(in_band(score(
        "a red circle on a blue background",
        "a red circle on a green background"
    )));
    assert!(in_band(score("two brown dogs running in snow", "two brown dogs sleeping in snow")));
    assert!(score("a red circle on a blue background", "an old train in the station") < low / 2.0);
    assert!(score("Zwei Hunde, im Schnee!", "zwei hunde im schnee") >= high);
    assert!(score("running dogs", "dog runs") > score("running dogs", "sleeping cat"));
}

#[test]
fn texts_of_any_script_and_none() {
    let v = words().encode(&["", "  \n", "?!…", "狗在雪地里奔跑", "a", "Ünïcödé Straße", "🐕 🐕"]);
    let some: Vec<bool> = v.iter().map(|v| v.is_some()).collect();
    assert_eq!(some, [false, false, false, true, true, true, false]);
    assert!(v.iter().flatten().all(|v| v.len() == words().dim()));
}

#[test]
fn vectors_do_not_change_unless_the_digest_does() {
    // A fingerprint of vectors beside the digest: whoever changes one must change the other.
    let fingerprint = |vectors: Vec<Option<Box<[i16]>>>| {
        let bytes = vectors.iter().flatten().flat_map(|v| crate::vector::to_le_bytes(v));
        digest_of_bytes(&bytes.collect::<Vec<u8>>())
    };
    let pictures: Vec<Pixels> = (0..20).map(scene).collect();
    let mut found: Vec<(String, String)> = image_encoders()
        .iter()
        .map(|e| (e.digest(), fingerprint(e.encode(&pictures.iter().collect::<Vec<_>>()))))
        .collect();
    let texts = ["a red circle on a blue background", "Zwei Hunde im Schnee", "狗在雪地里奔跑"];
    found.push((words().digest(), fingerprint(words().encode(&texts))));
    let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(found, FINGERPRINTS);
}

fn digest_of_bytes(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

const FINGERPRINTS: [(&str, &str); 3] = [
    ("c8839258759942fa", "50303f09f39ea649"),
    ("73d53a897a03803a", "a2bd5e0b2f7afcbc"),
    ("4738558debbde345", "6a87bb01415fb785"),
];

/// A folder of a tiny DINOv2 whose tensors are all alike, but for what `change` does to them.
fn folder(change: impl Fn(&str, &mut [f32])) -> crate::checkpoint::Folder {
    let width = 8;
    let mut tensors = vec![
        ("embeddings.cls_token".to_owned(), vec![1, 1, width]),
        ("embeddings.position_embeddings".into(), vec![1, 5, width]),
        ("embeddings.patch_embeddings.projection.weight".into(), vec![width, 3, 4, 4]),
        ("embeddings.patch_embeddings.projection.bias".into(), vec![width]),
        ("encoder.layer.0.layer_scale1.lambda1".into(), vec![width]),
        ("encoder.layer.0.layer_scale2.lambda1".into(), vec![width]),
    ];
    let mut layer = |name: &str, shape: &[usize]| {
        tensors.push((format!("{name}.weight"), shape.to_vec()));
        tensors.push((format!("{name}.bias"), shape[..1].to_vec()));
    };
    for part in
        ["attention.attention.query", "attention.attention.key", "attention.attention.value"]
    {
        layer(&format!("encoder.layer.0.{part}"), &[width, width]);
    }
    layer("encoder.layer.0.attention.output.dense", &[width, width]);
    layer("encoder.layer.0.norm1", &[width]);
    layer("encoder.layer.0.norm2", &[width]);
    layer("encoder.layer.0.mlp.fc1", &[2 * width, width]);
    layer("encoder.layer.0.mlp.fc2", &[width, 2 * width]);
    layer("layernorm", &[width]);
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, shape) in tensors {
        let begin = data.len();
        let count = shape.iter().product::<usize>();
        let mut numbers: Vec<f32> = (0..count).map(|i| (i * 37 % 23) as f32 / 20.0 - 0.5).collect();
        change(&name, &mut numbers);
        data.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
        let end = data.len();
        header.push(format!(
            r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    let config = r#"{"model_type":"dinov2","hidden_size":8,"num_attention_heads":2,"mlp_ratio":2,
        "num_hidden_layers":1,"image_size":8,"patch_size":4}"#;
    let preparation = r#"{"size":{"shortest_edge":12},"crop_size":{"height":8,"width":12}}"#;
    crate::checkpoint::Folder {
        texts: [("config.json", config), ("preprocessor_config.json", preparation)]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into(),
        weights: vec![[&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()],
    }
}

#[test]
fn a_checkpoint_is_an_encoder() {
    let noise = |seed: u32, width: u32, height: u32| {
        let byte = |i: u32| ((i + seed).wrapping_mul(2_654_435_761) >> 24) as u8;
        Pixels { width, height, rgb: (0..3 * width * height).map(byte).collect() }
    };
    let whole = folder(|_, _| {});
    let encoder = pretrained::image("tiny", &whole).expect("it fits");
    assert_eq!((encoder.name(), encoder.dim(), encoder.digest().len()), ("tiny", 8, 16));
    let pictures: Vec<Pixels> = (0..19).map(|i| noise(i, 300 + i, 20 + 16 * i)).collect();
    let batch: Vec<&Pixels> = pictures.iter().collect();
    let vectors = encoder.encode(&batch);
    assert!(vectors.iter().flatten().count() == 19 && vectors[0] != vectors[1]);
    assert_eq!(encode_full(&*encoder, &batch), vectors, "by way of views");
    for (picture, vector) in batch.iter().zip(&vectors) {
        assert_eq!(encoder.encode(&[picture]), std::slice::from_ref(vector));
        let view = encoder.view(picture).expect("it has a view of its own");
        assert_eq!((view.width, view.height), (12, 8));
    }
    // Weights and preparation change the digest; a tokenizer and a name do not.
    let digest = |folder: &crate::checkpoint::Folder| {
        pretrained::image("other", folder).expect("it fits").digest()
    };
    let other = folder(|name, x| x[0] += f32::from(u8::from(name == "layernorm.bias")));
    assert_ne!(digest(&other), encoder.digest());
    let mut other = whole.clone();
    other.texts.insert("tokenizer.json".into(), "{}".into());
    assert_eq!(digest(&other), encoder.digest());
    other.texts.insert("preprocessor_config.json".into(), "{}".into());
    assert_ne!(digest(&other), encoder.digest());
    // What is no number is no vector, and nothing breaks.
    let broken = folder(|name, x| x[0] = if name == "layernorm.bias" { f32::NAN } else { x[0] });
    let broken = pretrained::image("broken", &broken).expect("it fits");
    assert_eq!(broken.encode(&batch[..2]), [None, None]);
    assert!(pretrained::text("tiny", &whole).is_err());
}
