//! `encoder = "PATH"`: tiny checkpoints in folders as the hub lays them out, through the whole program.

use std::{collections::BTreeMap, fs, path::Path};

use everpair::scenes;
use kernels::{
    checkpoint::{image_model, text_model},
    decode::decode,
    lanes,
    tokenize::Tokenizer,
    transformer::Work,
    vector::{from_le_bytes, quantize},
};
use schemas::{
    ContentId, caption_text,
    tables::{EmbeddingRow, ImageRow, PairRow},
};
use serde_json::Value;

#[allow(dead_code, reason = "the tests of kernels read the answers too")]
#[path = "../kernels/tests/encoders/recipe.rs"]
mod recipe;

use crate::service::place::{Message, Place};
use recipe::Case;

fn golden(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/tests/goldens");
    fs::read_to_string(folder.join(name)).expect("the recipes are there")
}

fn case(name: &str) -> Case {
    let cases = recipe::parse(&golden("encoders.json"));
    cases.into_iter().find(|case| case.name == name).expect("a recipe of that name")
}

/// A small tokenizer's file.
fn tokenizer() -> String {
    let inputs: Value = serde_json::from_str(&golden("inputs.json")).expect("JSON");
    inputs["tokenizers"][0]["file"].to_string()
}

/// Lays the checkpoint out below the place.
fn lay_out(place: &Place, name: &str, case: &Case) {
    let (folder, path) = (case.folder(), place.path(name));
    let mut texts = folder.texts;
    if name == "texts" {
        texts.insert("tokenizer.json".into(), tokenizer());
    }
    for (file, text) in texts {
        fs::create_dir_all(path.join(&file).parent().expect("a folder")).expect("made");
        fs::write(path.join(&file), text).expect("written");
    }
    fs::write(path.join("model.safetensors"), &folder.weights[0]).expect("written");
}

const CHANNELS: &str = r#"
[channels.semantic]
encoder = "clip-image"
band = [0.2, 0.9999]
[channels.pattern]
encoder = "dinov2"
band = [0.2, 0.9999]
[channels.caption]
encoder = "texts"
band = [0.2, 0.9999]
"#;

fn place() -> Place {
    let place = Place::new();
    lay_out(&place, "clip-image", &case("clip-image"));
    lay_out(&place, "dinov2", &case("dinov2"));
    lay_out(&place, "texts", &case("bert-mean"));
    place.configure("tables", CHANNELS);
    place
}

/// The vector of a picture of full size, by the checkpoint alone.
fn image_vector(name: &str, file: &[u8]) -> Box<[i16]> {
    let model = image_model(&case(name).folder()).expect("it fits");
    let pixels = decode(file, &Default::default()).expect("a picture").pixels;
    let numbers = model.preparation.numbers(&model.preparation.prepare(&pixels));
    let mut work = Work::new(lanes::Path::best());
    quantize(&model.tower.encode(&mut work, &[numbers])).expect("a vector")
}

fn text_vector(text: &str) -> Box<[i16]> {
    let model = text_model(&case("bert-mean").folder()).expect("it fits");
    let tokenizer = Tokenizer::read(&tokenizer(), 300, model.ids_max).expect("it is read");
    let mut work = Work::new(lanes::Path::best());
    quantize(&model.tower.encode(&mut work, &[tokenizer.ids(text)])).expect("a vector")
}

#[test]
fn checkpoints_run_in_the_pipeline_and_see_the_full_picture() {
    let place = place();
    let scenes: Vec<_> = scenes::scenes(40, 7).collect();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for scene in &scenes {
        let bytes = &scene.jpeg_or_png;
        files.insert(ContentId::of(bytes).hex(), bytes.clone());
        if let Some(text) = caption_text(scene.caption.as_deref()) {
            texts.insert(ContentId::of(text.as_bytes()).hex(), text.to_owned());
        }
    }
    // Larger than the copy that built-in encoders read: what is seen comes from the full picture.
    let large = image::RgbImage::from_fn(700, 500, |x, y| {
        image::Rgb([(x * 31 % 256) as u8, (y * 17 % 256) as u8, (x * y % 256) as u8])
    });
    let mut large_file = std::io::Cursor::new(Vec::new());
    large.write_to(&mut large_file, image::ImageFormat::Png).expect("a file");
    let large_file = large_file.into_inner();
    let large_id = ContentId::of(&large_file).hex();
    files.insert(large_id.clone(), large_file.clone());
    place.log().send(scenes.into_iter().map(Message::from));
    let large = Message { key: "large".into(), value: Some(large_file), headers: Vec::new() };
    place.log().send([large]);
    let said = place.everpair("tables", &["validate"]).ended(0);
    for words in [
        "encoder semantic: ok, clip-image@",
        ", 24 components",
        "encoder pattern: ok, dinov2@",
        ", 48 components",
        "encoder caption: ok, texts@",
        ", 64 components",
    ] {
        assert!(said.out.contains(words), "no {words:?} in:\n{}", said.out);
    }
    place.catch_up("tables");
    place.verify("tables");

    let (mut images, mut captions) = (0, 0);
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for row in place.rows::<EmbeddingRow>("tables") {
        let stored = from_le_bytes(&row.vector).expect("a vector");
        let own = match row.channel.as_str() {
            "caption" => text_vector(&texts[&row.content_id]),
            "semantic" => image_vector("clip-image", &files[&row.content_id]),
            _ => image_vector("dinov2", &files[&row.content_id]),
        };
        assert_eq!(stored, own, "{} {}", row.channel, row.content_id);
        *(if row.channel == "caption" { &mut captions } else { &mut images }) += 1;
        ids.insert(row.channel, row.encoder);
    }
    assert!(images > 60 && captions > 20, "{images} vectors of images, {captions} of captions");
    assert!(place.rows::<ImageRow>("tables").iter().any(|row| row.content_id == large_id));
    assert!(!place.rows::<PairRow>("tables").is_empty(), "something is mined");
    let latest = place.latest("tables").expect("a page");
    for (channel, id) in &ids {
        assert_eq!(latest["in_force"]["channels"][channel]["encoder"], **id, "{channel}");
    }

    // One number of one tensor is another encoder, and vectors of two never mix.
    let file = place.path("dinov2").join("model.safetensors");
    let mut bytes = fs::read(&file).expect("weights");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&file, bytes).expect("weights");
    let said = place.everpair("tables", &["run", "--until-caught-up"]);
    said.ended(1).says("the tables hold vectors of").says(&ids["pattern"]);
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_told_by_name() {
    let place = place();
    let mut lacking = case("dinov2");
    let at = lacking.tensors.iter().position(|t| t.name == "layernorm.weight").expect("there");
    lacking.tensors[at].name = "layernorm.wait".into();
    lay_out(&place, "dinov2", &lacking);
    let said = place.everpair("tables", &["validate"]).ended(1);
    for words in ["layernorm.weight [48] is missing", "layernorm.wait is left over", "pattern"] {
        assert!(said.out.contains(words), "no {words:?} in:\n{}", said.out);
    }
    place.everpair("tables", &["run", "--until-caught-up"]).ended(1).says("layernorm.wait");

    let semantic = |encoder: &str, band: &str, code: i32| {
        place.configure("other", &format!("[channels.semantic]\nencoder = \"{encoder}\"\n{band}"));
        place.everpair("other", &["validate"]).ended(code)
    };
    let band = "band = [0.1, 0.9]";
    semantic("clip-image", "", 2).says("needs a band");
    semantic("builtin:colour", band, 2).says("builtin:layout, builtin:edges");
    fs::create_dir(place.path("empty")).expect("a folder");
    for (encoder, words) in [
        ("none", "there is no folder"),
        ("hf:openai/clip", "download the folder"),
        ("empty", "has no weights: none of open_clip_model.safetensors, model.safetensors"),
    ] {
        let said = semantic(encoder, band, 1);
        assert!(said.out.contains(words), "no {words:?} in:\n{}", said.out);
        assert!(said.out.contains("[channels.semantic] encoder"), "{}", said.out);
    }
    // Texts have no encoder in a folder of DINOv2.
    lay_out(&place, "dinov2", &case("dinov2"));
    place.configure("other", &format!("[channels.caption]\nencoder = \"dinov2\"\n{band}"));
    let said = place.everpair("other", &["validate"]).ended(1);
    assert!(said.out.contains("no encoder of texts"), "{}", said.out);
}
