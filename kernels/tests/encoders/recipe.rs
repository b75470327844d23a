//! Checkpoints and pictures from their recipes; `tests/parity/encoders.py` says how, and does the same.

use std::collections::BTreeMap;

use kernels::checkpoint::Folder;
use kernels::decode::Pixels;
use serde_json::{Map, Value, json};

#[derive(Clone)]
pub struct Case {
    pub name: String,
    files: Map<String, Value>,
    seed: u64,
    pub tensors: Vec<Tensor>,
    pub inputs: Inputs,
    pub vectors: Vec<Vec<f32>>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    center: f64,
    spread: f64,
}

#[derive(Clone)]
pub enum Inputs {
    Pictures(Vec<Pixels>),
    Texts(Vec<Vec<u32>>),
}

fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |value: u64, byte| {
        (value ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn mix(state: u64, index: usize) -> u64 {
    let z = state.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

pub fn picture(height: u32, width: u32, seed: u64) -> Pixels {
    let rgb = (0..3 * height as usize * width as usize).map(|i| (mix(seed, i) >> 56) as u8);
    Pixels { width, height, rgb: rgb.collect() }
}

impl Tensor {
    fn bytes(&self, seed: u64) -> Vec<u8> {
        let state = fnv1a(&self.name) ^ seed;
        let number = |i: usize| {
            let u = (mix(state, i) >> 40) as f64 / f64::from(1 << 24);
            (self.center + self.spread * (2.0 * u - 1.0)) as f32
        };
        (0..self.shape.iter().product()).flat_map(|i| number(i).to_le_bytes()).collect()
    }
}

impl Case {
    /// The checkpoint's folder.
    pub fn folder(&self) -> Folder {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for tensor in &self.tensors {
            let begin = data.len();
            data.extend(tensor.bytes(self.seed));
            let entry = json!({
                "dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, data.len()],
            });
            header.insert(tensor.name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        let texts = self.files.iter().map(|(name, file)| (name.clone(), file.to_string()));
        Folder { texts: texts.collect::<BTreeMap<_, _>>(), weights: vec![weights] }
    }
}

fn list<T>(value: &Value, of: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().expect("a list").iter().map(of).collect()
}

fn whole(value: &Value) -> u64 {
    value.as_u64().expect("a whole number")
}

pub fn parse(text: &str) -> Vec<Case> {
    let cases: Value = serde_json::from_str(text).expect("answers are JSON");
    list(&cases, |case| {
        let tensors = list(&case["tensors"], |row| Tensor {
            name: row[0].as_str().expect("a name").into(),
            shape: list(&row[1], |side| whole(side) as usize),
            center: row[2].as_f64().expect("a number"),
            spread: row[3].as_f64().expect("a number"),
        });
        let inputs = match case.get("pictures") {
            Some(pictures) => Inputs::Pictures(list(pictures, |one| {
                picture(whole(&one[0]) as u32, whole(&one[1]) as u32, whole(&one[2]))
            })),
            None => Inputs::Texts(list(&case["texts"], |ids| list(ids, |id| whole(id) as u32))),
        };
        let number = |x: &Value| x.as_f64().expect("a number") as f32;
        Case {
            name: case["name"].as_str().expect("a name").into(),
            files: case["files"].as_object().expect("files").clone(),
            seed: whole(&case["seed"]),
            tensors,
            inputs,
            vectors: list(&case["vectors"], |vector| list(vector, number)),
        }
    })
}
