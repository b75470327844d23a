//! What encoders read, beside Pillow and tokenizers (`tests/parity/inputs.py`). EVERPAIR_PARITY_INPUTS
//! names another such file, made anew.

use std::path::PathBuf;

use kernels::prepare::{Filter, Preparation, Resize};
use kernels::tokenize::Tokenizer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::recipe::picture;

fn answers() -> Value {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/inputs.json");
    let path = std::env::var_os("EVERPAIR_PARITY_INPUTS").map_or(PathBuf::from(own), PathBuf::from);
    let text = std::fs::read_to_string(&path).expect("the answers are there");
    serde_json::from_str(&text).expect("answers are JSON")
}

fn whole(value: &Value) -> u32 {
    value.as_u64().expect("a whole number") as u32
}

#[test]
fn prepared_pictures_are_pillow_s_to_the_bit() {
    let answers = answers();
    let pictures = answers["pictures"].as_array().expect("pictures");
    assert!(pictures.len() >= 30, "{} pictures", pictures.len());
    for case in pictures {
        let pair = |value: &Value| [whole(&value[0]), whole(&value[1])];
        let preparation = Preparation {
            resize: match case[3].as_u64() {
                Some(side) => Resize::Shortest(side as u32),
                None => Resize::Exact(pair(&case[3])),
            },
            filter: [Filter::Lanczos, Filter::Bilinear, Filter::Bicubic]
                [whole(&case[5]) as usize - 1],
            crop: pair(&case[4]),
            crop_to_even: false,
            mean: [0.5; 3],
            std: [0.25; 3],
            scale: 1.0 / 255.0,
        };
        let original = picture(whole(&case[0]), whole(&case[1]), whole(&case[2]).into());
        let prepared = preparation.prepare(&original);
        assert_eq!([prepared.height, prepared.width], preparation.crop, "{case}");
        let first: Vec<u32> = case[7].as_array().expect("bytes").iter().map(whole).collect();
        let own: Vec<u32> = prepared.rgb[..first.len()].iter().map(|&b| b.into()).collect();
        assert_eq!(own, first, "{case}");
        let digest = Sha256::digest(&prepared.rgb);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(case[6], digest, "{case}");
        let numbers = preparation.numbers(&prepared);
        let pixels = numbers.len() / 3;
        for (i, byte) in prepared.rgb.iter().enumerate().step_by(97) {
            let should = (f64::from(*byte) / 255.0 - 0.5) / 0.25;
            let is = f64::from(numbers[i % 3 * pixels + i / 3]);
            assert!((is - should).abs() < 1e-6, "{is}, not {should}");
        }
    }
}

#[test]
fn ids_are_those_of_tokenizers() {
    let answers = answers();
    let tokenizers = answers["tokenizers"].as_array().expect("tokenizers");
    assert!(tokenizers.len() >= 2);
    let mut wrong = Vec::new();
    for case in tokenizers {
        let (vocabulary, most) =
            (whole(&case["vocabulary"]) as usize, whole(&case["most"]) as usize);
        let tokenizer =
            Tokenizer::read(&case["file"].to_string(), vocabulary, most).expect("it is read");
        for text in case["texts"].as_array().expect("texts") {
            let should: Vec<u32> = text[1].as_array().expect("ids").iter().map(whole).collect();
            let is = tokenizer.ids(text[0].as_str().expect("a text"));
            if is != should {
                wrong.push(format!("{}: {text}: {is:?}", case["file"]["model"]["type"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_tokenizer_that_is_not_known_is_refused() {
    let answers = answers();
    let case = |kind: usize| answers["tokenizers"][kind]["file"].clone();
    let refuse = |file: &Value, vocabulary: usize, most: usize, why: &str| {
        let said = Tokenizer::read(&file.to_string(), vocabulary, most);
        let said = said.err().unwrap_or_else(|| panic!("{why}: it was read")).0;
        assert!(said.contains(why), "{said}, not {why}");
    };
    refuse(&json!({}), 999, 77, "a model of type None");
    for kind in [0, 1] {
        refuse(&case(kind), 100, 77, "beyond the network's 100 words");
        refuse(&case(kind), 999, 2, "no room in 2 ids");
        let without = |key: &str, value: Value, why: &str| {
            let mut file = case(kind);
            file[key] = value;
            refuse(&file, 999, 77, why);
        };
        without("normalizer", json!({"type": "Strip"}), "a normalizer \"Strip\"");
        without("pre_tokenizer", json!({"type": "Digits"}), "pre_tokenizer");
        without("post_processor", Value::Null, "a post_processor null");
        let mut file = case(kind);
        file["model"]["vocab"] = json!({});
        refuse(&file, 999, 77, ["model.unk_token", "has no id"][kind]);
    }
}
