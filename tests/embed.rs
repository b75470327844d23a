//! `everpair embed`: each row beside what the kernels give for the file's own bytes.

use std::{collections::BTreeMap, fs, fs::File};

use arrow_array::{Array, cast::AsArray, types::Float32Type};
use everpair::scenes;
use kernels::{
    decode::decode,
    encoders::{ImageEncoder, encode_full, image_encoder, text_encoder},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemas::ContentId;

use crate::service::place::{Place, Said};

const SEED: u64 = 91;
const IMAGES: usize = 9;

/// A row: content id, caption, both vectors.
type Row = (String, Option<String>, Option<Vec<f32>>, Option<Vec<f32>>);

fn folder(place: &Place) -> BTreeMap<String, (Vec<u8>, Option<String>)> {
    let folder = place.path("pictures");
    fs::create_dir_all(&folder).expect("a folder");
    let mut sent = BTreeMap::new();
    for (at, scene) in scenes::scenes(IMAGES, SEED).enumerate() {
        let name = format!("{at}.jpg");
        fs::write(folder.join(&name), &scene.jpeg_or_png).expect("written");
        // Of some there is no caption.
        let caption = scene.caption.filter(|_| at % 3 > 0);
        if let Some(caption) = &caption {
            fs::write(folder.join(format!("{at}.txt")), caption).expect("written");
        }
        sent.insert(name, (scene.jpeg_or_png, caption));
    }
    sent
}

fn embed(place: &Place, arguments: &[&str]) -> Said {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.arg("embed").arg(place.path("pictures")).args(arguments);
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn rows(path: &std::path::Path) -> Vec<(String, Row)> {
    let file = File::open(path).expect("it was written");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build();
    let mut rows = Vec::new();
    for batch in reader.expect("readable") {
        let batch = batch.expect("a batch");
        let text = |name: &str| batch.column_by_name(name).expect("a column").as_string::<i32>();
        let vector = |name: &str, row: usize| {
            let lists = batch.column_by_name(name)?.as_fixed_size_list();
            let is = lists.is_valid(row);
            is.then(|| lists.value(row).as_primitive::<Float32Type>().values().to_vec())
        };
        let captions = text("caption");
        for row in 0..batch.num_rows() {
            let caption = captions.is_valid(row).then(|| captions.value(row).to_owned());
            let content = text("content_id").value(row).to_owned();
            let vectors = (vector("image_vector", row), vector("caption_vector", row));
            rows.push((
                text("image_id").value(row).to_owned(),
                (content, caption, vectors.0, vectors.1),
            ));
        }
    }
    rows
}

fn real(vector: Option<Box<[i16]>>) -> Option<Vec<f32>> {
    vector.map(|vector| vector.iter().map(|x| f32::from(*x) / 32_768.0).collect())
}

#[test]
fn every_row_is_what_the_encoders_give() {
    println!("seed {SEED}");
    let place = Place::new();
    let sent = folder(&place);
    let (images, texts) =
        (image_encoder("builtin:edges").expect("it"), text_encoder("builtin:words").expect("it"));
    let both = ["--images", "builtin:edges", "--captions", "builtin:words"];
    // Whatever the batch and the number of threads.
    for (name, more) in
        [("a", ["--batch", "2", "--threads", "3"]), ("b", ["--batch", "64", "--threads", "1"])]
    {
        let out = place.path(&format!("{name}.parquet"));
        let to = ["--out", out.to_str().expect("UTF-8"), "--json"];
        let said = embed(&place, &[&both[..], &more, &to].concat()).ended(0);
        let told: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
        assert_eq!((&told["images"], &told["unreadable"]), (&IMAGES.into(), &0.into()), "{told}");
        let rows = rows(&out);
        let ids: Vec<&String> = rows.iter().map(|(id, _)| id).collect();
        assert_eq!(ids, sent.keys().collect::<Vec<_>>(), "in their order");
        for (id, (content, caption, image_vector, caption_vector)) in &rows {
            let (bytes, words) = &sent[id];
            assert_eq!((content, caption), (&ContentId::of(bytes).hex(), words));
            let pixels = decode(bytes, &Default::default()).expect("a picture").pixels;
            let want = encode_full(&*images as &dyn ImageEncoder, &[&pixels]).remove(0);
            assert_eq!(*image_vector, real(want), "{id}");
            let want = words.as_deref().and_then(|words| texts.encode(&[words]).remove(0));
            assert_eq!(*caption_vector, real(want), "{id}");
        }
        assert!(rows.iter().filter(|(_, row)| row.2.is_some()).count() > 5, "there are vectors");
        assert!(!out.with_extension("parquet.partial").exists());
    }
}

#[test]
fn what_cannot_be_embedded_is_named_and_the_rest_is_written() {
    let place = Place::new();
    folder(&place);
    fs::write(place.path("pictures/broken.jpg"), b"no picture").expect("written");
    let out = place.path("out.parquet");
    let to = ["--images", "builtin:layout", "--out", out.to_str().expect("UTF-8")];
    let said = embed(&place, &to).ended(1).says("broken.jpg").says("1 images could not be read");
    assert!(said.out.contains(&format!("{IMAGES} images in ")), "{}", said.out);
    let held = rows(&out);
    assert_eq!(held.len(), IMAGES);
    assert!(held.iter().all(|(_, row)| row.2.is_some() && row.3.is_none()));
    embed(&place, &to).ended(1).says("is there already");
    assert_eq!(rows(&out).len(), held.len(), "it is as it was");

    let other = place.path("other.parquet");
    let other = other.to_str().expect("UTF-8");
    embed(&place, &["--out", other]).ended(2).says("--captions");
    let none = ["--images", "builtin:nothing", "--out", other];
    embed(&place, &none).ended(1).says("builtin:layout, builtin:edges, and a checkpoint's folder");
    let folder = ["--captions", "nowhere", "--out", other];
    embed(&place, &folder).ended(1).says("there is no folder nowhere");
    assert!(!place.path("other.parquet").exists());
}
