//! Encoders beside the libraries that the checkpoints come from: tiny ones of every family, whose
//! answers `tests/parity/encoders.py` wrote down. EVERPAIR_PARITY names another such file, made anew.

use std::path::PathBuf;

use kernels::checkpoint::{image_model, text_model};
use kernels::lanes::Path;
use kernels::transformer::Work;

mod inputs;
mod recipe;

use recipe::{Case, Inputs};

/// What single precision must reach.
const COSINE_MIN: f64 = 0.99999;
/// And no component may be further off, beside the vector's length.
const OFF_MAX: f64 = 2e-5;

fn cases() -> Vec<Case> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/encoders.json");
    let path = std::env::var_os("EVERPAIR_PARITY").map_or(PathBuf::from(own), PathBuf::from);
    let text = std::fs::read_to_string(&path).expect("the answers are there");
    recipe::parse(&text)
}

/// The vectors of a case, its inputs in batches of so many.
fn vectors(case: &Case, path: Path, batch: usize) -> Vec<Vec<f32>> {
    let mut work = Work::new(path);
    let folder = case.folder();
    let mut all = Vec::new();
    let dim;
    match &case.inputs {
        Inputs::Pictures(pictures) => {
            let model = image_model(&folder).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            dim = model.tower.dim();
            for some in pictures.chunks(batch) {
                let prepared = some.iter().map(|p| model.preparation.prepare(p));
                let numbers: Vec<_> = prepared.map(|p| model.preparation.numbers(&p)).collect();
                all.extend(model.tower.encode(&mut work, &numbers));
            }
        }
        Inputs::Texts(texts) => {
            let model = text_model(&folder).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            dim = model.tower.dim();
            assert!(texts.iter().any(|ids| ids.len() == model.ids_max || dim == 64), "a long one");
            for some in texts.chunks(batch) {
                all.extend(model.tower.encode(&mut work, some));
            }
        }
    }
    all.chunks_exact(dim).map(<[f32]>::to_vec).collect()
}

fn cosine_and_off(is: &[f32], should: &[f32]) -> (f64, f64) {
    assert_eq!(is.len(), should.len(), "vectors of one dimension");
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let length = dot(should, should).sqrt();
    let off = is.iter().zip(should).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    (dot(is, should) / (dot(is, is).sqrt() * length), off / length)
}

#[test]
fn every_family_gives_what_its_library_gives() {
    let cases = cases();
    assert!(cases.len() >= 12, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let found = vectors(case, Path::best(), 64);
        assert_eq!(found.len(), case.vectors.len(), "{}", case.name);
        for (i, (is, should)) in found.iter().zip(&case.vectors).enumerate() {
            let (cosine, off) = cosine_and_off(is, should);
            println!("{} {i}: cosine 1 - {:.1e}, off {off:.1e}", case.name, 1.0 - cosine);
            if cosine.is_nan() || cosine < COSINE_MIN || off > OFF_MAX {
                wrong.push(format!("{} {i}: cosine {cosine}, off by {off:.1e}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_batch_is_its_parts_on_every_path_to_the_bit() {
    for case in cases() {
        let first = vectors(&case, Path::best(), 1);
        for batch in [2, 64] {
            assert_eq!(vectors(&case, Path::best(), batch), first, "{} {batch}", case.name);
        }
        for path in &Path::all()[1..] {
            assert_eq!(vectors(&case, *path, 64), first, "{} {path:?}", case.name);
        }
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    for case in cases() {
        let load = |case: &Case| match case.inputs {
            Inputs::Pictures(_) => image_model(&case.folder()).map(|_| ()),
            Inputs::Texts(_) => text_model(&case.folder()).map(|_| ()),
        };
        assert_eq!(load(&case), Ok(()), "{}", case.name);
        let read = |name: &str| match case.inputs {
            Inputs::Pictures(_) => !name.starts_with("text") && name != "embeddings.mask_token",
            Inputs::Texts(_) => !name.starts_with("vis") && !name.starts_with("pooler."),
        };
        for index in 0..case.tensors.len() {
            let name = case.tensors[index].name.clone();
            if !read(&name) || name.starts_with("logit_") {
                continue;
            }
            let mut other = case.clone();
            other.tensors.remove(index);
            let said = load(&other).expect_err("one is missing").0;
            assert!(said.contains(&name), "{said}");
            let mut other = case.clone();
            *other.tensors[index].shape.last_mut().expect("a side") += 1;
            let said = load(&other).expect_err("one has another shape").0;
            assert!(said.contains(&name), "{said}");
            break;
        }
        let mut other = case.clone();
        let mut extra = other.tensors[0].clone();
        extra.name = match case.inputs {
            Inputs::Pictures(_) => "visual.trunk.vision_model.embeddings.extra".into(),
            Inputs::Texts(_) => "text_model.extra".into(),
        };
        other.tensors.push(extra);
        let said = load(&other).expect_err("one is left over").0;
        assert!(said.contains("extra is left over"), "{}: {said}", case.name);
    }
}
