//! How fast encoders are on this processor: ViT-S/14 at 224 × 224 (DINOv2-small's shape) and MiniLM-L6,
//! with numbers drawn at random, beside what the multiply-add units can do.
//!
//! ```text
//! cargo run --release -p kernels --example encoders [THREADS [FOLDER]]     a folder: that checkpoint
//! ```

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::time::Instant;

use kernels::checkpoint::{Folder, ImageModel, TEXTS, TextModel, WEIGHTS, image_model, text_model};
use kernels::decode::Pixels;
use kernels::gemm::same_tile;
use kernels::lanes::Path;
use kernels::transformer::Work;

/// How long a figure is measured.
const SPAN_SECONDS: f64 = 1.5;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(1, |n| n.parse().expect("a number of threads"));
    for path in Path::all() {
        if path.as_str() == "portable" {
            continue;
        }
        let rate = || {
            let began = Instant::now();
            same_tile(path, 1_000) as f64 / began.elapsed().as_secs_f64() / 1e9
        };
        let best = (0..20).map(|_| rate()).fold(0.0, f64::max);
        println!("{}: one core's multiply-adds, operands near: {best:.1} GFLOP/s", path.as_str());
        let all = threads as f64 * best;
        if let Some(folder) = arguments.next() {
            let folder = read(FilePath::new(&folder));
            match (image_model(&folder), text_model(&folder)) {
                (Ok(model), _) => images("checkpoint", &model, path, threads, all),
                (_, Ok(model)) => texts("checkpoint", &model, path, threads, all),
                (Err(image), Err(text)) => {
                    panic!("neither of pictures ({image}) nor texts ({text})")
                }
            }
            return;
        }
        images("ViT-S/14", &image_model(&vit_s()).expect("it fits"), path, threads, all);
        texts("MiniLM-L6", &text_model(&minilm()).expect("it fits"), path, threads, all);
    }
}

fn images(name: &str, model: &ImageModel, path: Path, threads: usize, ceiling: f64) {
    let [height, width] = model.preparation.crop;
    let rgb =
        (0..3 * height * width).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let numbers = model.preparation.numbers(&Pixels { width, height, rgb });
    let trunk = &model.tower.trunk;
    let patch = 3 * model.tower.stem.patch.pow(2) * trunk.width;
    let flop = flop(model.tower.tokens(), trunk) + 2.0 * (patch * model.tower.tokens()) as f64;
    for batch in [1, 8, 32] {
        let inputs = vec![numbers.clone(); batch];
        let run = |work: &mut Work| drop(model.tower.encode(work, &inputs));
        report(name, "images", batch, flop, path, threads, ceiling, run);
    }
}

fn texts(name: &str, model: &TextModel, path: Path, threads: usize, ceiling: f64) {
    let vocabulary = model.tower.stem.words.len() / model.tower.trunk.width;
    for (length, batch) in [(16, 1), (16, 8), (16, 32), (64, 32)] {
        let ids: Vec<u32> = (0..length).map(|i| (i * 7919 % vocabulary) as u32).collect();
        let inputs = vec![ids; batch];
        let flop = flop(length, &model.tower.trunk);
        let run = |work: &mut Work| drop(model.tower.encode(work, &inputs));
        report(name, &format!("texts of {length} ids"), batch, flop, path, threads, ceiling, run);
    }
}

/// Multiplications and additions of one input's blocks.
fn flop(tokens: usize, trunk: &kernels::transformer::Trunk) -> f64 {
    let layers: usize = trunk
        .blocks
        .iter()
        .map(|block| {
            let each = [&block.qkv, &block.out, &block.up, &block.down];
            each.iter().map(|l| l.weights.inputs() * l.weights.outputs()).sum::<usize>()
                + 2 * tokens * trunk.width
        })
        .sum();
    2.0 * (layers * tokens) as f64
}

#[allow(clippy::too_many_arguments)]
fn report(
    name: &str,
    unit: &str,
    batch: usize,
    flop: f64,
    path: Path,
    threads: usize,
    ceiling: f64,
    run: impl Fn(&mut Work) + Sync,
) {
    let one = || {
        let mut work = Work::new(path);
        run(&mut work);
        let (began, ran, mut count) = (Instant::now(), processor_seconds(), 0);
        while began.elapsed().as_secs_f64() < SPAN_SECONDS {
            run(&mut work);
            count += batch;
        }
        let seconds = began.elapsed().as_secs_f64();
        let ran = processor_seconds().zip(ran).map_or(seconds, |(now, then)| now - then);
        (count as f64 / seconds, count as f64 / ran)
    };
    let rates: Vec<(f64, f64)> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|thread| thread.join().expect("a figure")).collect()
    });
    let wall: f64 = rates.iter().map(|(wall, _)| wall).sum();
    let rate: f64 = rates.iter().map(|(_, ran)| ran).sum();
    let share = rate * flop / 1e9 / ceiling * 100.0;
    println!(
        "{name} {}, batch {batch}, {threads} threads: {wall:.1} {unit}/s by the clock, {rate:.1} while \
         it ran: {share:.0} % of the ceiling",
        path.as_str(),
    );
}

/// Seconds that this thread ran, where the system says so: others may use the same processor.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

fn read(path: &FilePath) -> Folder {
    let mut folder = Folder::default();
    for name in TEXTS {
        if let Ok(text) = std::fs::read_to_string(path.join(name)) {
            folder.texts.insert(name.into(), text);
        }
    }
    let weights = WEIGHTS.iter().find_map(|name| std::fs::read(path.join(name)).ok());
    folder.weights.extend(weights);
    folder
}

/// A folder of tensors drawn at random.
fn folder(config: &str, tensors: &[(String, Vec<usize>)]) -> Folder {
    let (mut header, mut data, mut state) = (Vec::new(), Vec::new(), 1u64);
    for (name, shape) in tensors {
        let begin = data.len();
        for _ in 0..shape.iter().product() {
            state =
                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            let number = (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
            data.extend((number * 0.06).to_le_bytes());
        }
        let end = data.len();
        header.push(format!(
            r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let texts = BTreeMap::from([("config.json".to_owned(), config.to_owned())]);
    Folder { texts, weights: vec![file] }
}

fn layer(tensors: &mut Vec<(String, Vec<usize>)>, name: &str, shape: &[usize]) {
    tensors.push((format!("{name}.weight"), shape.to_vec()));
    tensors.push((format!("{name}.bias"), vec![shape[0]]));
}

fn vit_s() -> Folder {
    let config = r#"{"model_type":"dinov2","hidden_size":384,"num_attention_heads":6,
        "num_hidden_layers":12,"image_size":518,"patch_size":14,"layer_norm_eps":1e-6}"#;
    let mut t = vec![
        ("embeddings.cls_token".to_owned(), vec![1, 1, 384]),
        ("embeddings.position_embeddings".to_owned(), vec![1, 1370, 384]),
    ];
    layer(&mut t, "embeddings.patch_embeddings.projection", &[384, 3, 14, 14]);
    for i in 0..12 {
        let at = |name: &str| format!("encoder.layer.{i}.{name}");
        for part in ["query", "key", "value"] {
            layer(&mut t, &at(&format!("attention.attention.{part}")), &[384, 384]);
        }
        layer(&mut t, &at("attention.output.dense"), &[384, 384]);
        layer(&mut t, &at("norm1"), &[384]);
        layer(&mut t, &at("norm2"), &[384]);
        layer(&mut t, &at("mlp.fc1"), &[1536, 384]);
        layer(&mut t, &at("mlp.fc2"), &[384, 1536]);
        t.push((at("layer_scale1.lambda1"), vec![384]));
        t.push((at("layer_scale2.lambda1"), vec![384]));
    }
    layer(&mut t, "layernorm", &[384]);
    folder(config, &t)
}

fn minilm() -> Folder {
    let config = r#"{"model_type":"bert","hidden_size":384,"num_attention_heads":12,
        "num_hidden_layers":6,"intermediate_size":1536,"vocab_size":30522}"#;
    let mut t = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![30522, 384]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![512, 384]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, 384]),
    ];
    layer(&mut t, "embeddings.LayerNorm", &[384]);
    for i in 0..6 {
        let at = |name: &str| format!("encoder.layer.{i}.{name}");
        for part in ["query", "key", "value"] {
            layer(&mut t, &at(&format!("attention.self.{part}")), &[384, 384]);
        }
        layer(&mut t, &at("attention.output.dense"), &[384, 384]);
        layer(&mut t, &at("attention.output.LayerNorm"), &[384]);
        layer(&mut t, &at("intermediate.dense"), &[1536, 384]);
        layer(&mut t, &at("output.dense"), &[384, 1536]);
        layer(&mut t, &at("output.LayerNorm"), &[384]);
    }
    folder(config, &t)
}
