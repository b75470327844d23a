//! Tensors of `*.safetensors` files: a length of 8 bytes, little-endian, a header of JSON, the numbers.
//!
//! A total reader: a file that is cut short, lies about its shapes or has a type that is not read here
//! is an error that names the tensor. Numbers of 32 bits, and of 16 in both kinds, come out as `f32`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

/// The longest header that is read: 100 MB, as the format's own reader has it.
const HEADER_BYTES_MAX: usize = 100_000_000;
/// Complaints that are listed; the others are counted.
const WRONG_LISTED_MAX: usize = 12;

/// Why a checkpoint cannot be used, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F32,
    F16,
    Bf16,
}

struct Tensor<'a> {
    /// `None` for a type that no weight has, such as positions as integers.
    kind: Option<Kind>,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

/// The tensors of one checkpoint. Whoever reads it says what there should be, of which shape; what was
/// missing, of another shape, or left over is told at the end, all at once.
pub struct Weights<'a> {
    tensors: BTreeMap<String, Tensor<'a>>,
    taken: BTreeSet<String>,
    wrong: Vec<String>,
}

impl<'a> Weights<'a> {
    /// Reads the headers of a checkpoint's files.
    ///
    /// # Errors
    /// A file that is none, and what is wrong with it.
    pub fn read(files: &[&'a [u8]]) -> Result<Weights<'a>, Unfit> {
        let mut tensors = BTreeMap::new();
        for file in files {
            for (name, tensor) in read_file(file)? {
                if tensors.insert(name.clone(), tensor).is_some() {
                    return Err(Unfit(format!("tensor {name} is in two files")));
                }
            }
        }
        Ok(Weights { tensors, taken: BTreeSet::new(), wrong: Vec::new() })
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether a tensor's name begins so.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|name| name.starts_with(prefix))
    }

    /// The tensor's shape.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| &*tensor.shape)
    }

    /// The numbers of a tensor, row-major. Where it is missing or has another shape this is noted, and
    /// there are zeros.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let count = shape.iter().product();
        self.taken.insert(name.to_owned());
        let Some(tensor) = self.tensors.get(name) else {
            self.wrong.push(format!("{name} {shape:?} is missing"));
            return vec![0.0; count];
        };
        if tensor.shape != shape {
            let has = &tensor.shape;
            self.wrong.push(format!("{name} has shape {has:?}, and {shape:?} is needed"));
            return vec![0.0; count];
        }
        let halves = || tensor.bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b));
        match tensor.kind {
            Some(Kind::F32) => {
                let numbers = tensor.bytes.as_chunks::<4>().0.iter();
                numbers.map(|&bytes| f32::from_le_bytes(bytes)).collect()
            }
            Some(Kind::F16) => halves().map(from_f16).collect(),
            Some(Kind::Bf16) => halves().map(|b| f32::from_bits(u32::from(b) << 16)).collect(),
            None => {
                self.wrong
                    .push(format!("{name} is of a type that is not read: F32, F16, BF16 are"));
                vec![0.0; count]
            }
        }
    }

    /// Notes something else that is wrong.
    pub fn complain(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// Ends it: tensors that nobody took, and that `ignored` does not know, are left over.
    ///
    /// # Errors
    /// All that was wrong.
    pub fn finish(mut self, ignored: impl Fn(&str) -> bool) -> Result<(), Unfit> {
        for name in self.tensors.keys() {
            if !self.taken.contains(name) && !ignored(name) {
                self.wrong.push(format!("{name} is left over"));
            }
        }
        if self.wrong.is_empty() {
            return Ok(());
        }
        let more = self.wrong.len().saturating_sub(WRONG_LISTED_MAX);
        self.wrong.truncate(WRONG_LISTED_MAX);
        let mut text = format!("the tensors do not fit: {}", self.wrong.join("; "));
        if more > 0 {
            text += &format!("; and {more} more");
        }
        Err(Unfit(text))
    }
}

fn read_file(file: &[u8]) -> Result<Vec<(String, Tensor<'_>)>, Unfit> {
    let bad = |what: &str| Unfit(format!("this is no safetensors file: {what}"));
    let (length, rest) =
        file.split_first_chunk::<8>().ok_or_else(|| bad("shorter than 8 bytes"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > HEADER_BYTES_MAX {
        return Err(bad("its header would be longer than 100 MB"));
    }
    let (header, data) = rest.split_at_checked(length).ok_or_else(|| bad("cut in its header"))?;
    let header: Value =
        serde_json::from_slice(header).map_err(|error| bad(&format!("its header: {error}")))?;
    let header = header.as_object().ok_or_else(|| bad("its header is no JSON object"))?;
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    tensors.map(|(name, entry)| Ok((name.clone(), read_entry(name, entry, data)?))).collect()
}

fn read_entry<'a>(name: &str, entry: &Value, data: &'a [u8]) -> Result<Tensor<'a>, Unfit> {
    let bad = |what: &str| Unfit(format!("safetensors: tensor {name}: {what}"));
    let (kind, size) = match entry["dtype"].as_str() {
        Some("F32") => (Some(Kind::F32), 4),
        Some("F16") => (Some(Kind::F16), 2),
        Some("BF16") => (Some(Kind::Bf16), 2),
        Some(_) => (None, 0),
        None => return Err(bad("no dtype")),
    };
    let numbers = |value: &Value| -> Option<Vec<usize>> {
        value.as_array()?.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect()
    };
    let shape = numbers(&entry["shape"]).ok_or_else(|| bad("no shape"))?;
    let offsets = numbers(&entry["data_offsets"]).ok_or_else(|| bad("no data_offsets"))?;
    let &[begin, end] = &*offsets else { return Err(bad("no two data_offsets")) };
    let bytes = data.get(begin..end).ok_or_else(|| bad("its numbers are beyond the file's end"))?;
    let count = shape.iter().try_fold(size, |count: usize, &side| count.checked_mul(side));
    if kind.is_some() && count != Some(bytes.len()) {
        return Err(bad(&format!("{} bytes do not make {shape:?}", bytes.len())));
    }
    Ok(Tensor { kind, shape, bytes })
}

/// IEEE 754's number of 16 bits.
fn from_f16(bits: u16) -> f32 {
    let (sign, exponent, fraction) =
        (u32::from(bits >> 15), u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    let magnitude = match exponent {
        // Multiples of 2^-24.
        0 => fraction as f32 * f32::from_bits(103 << 23),
        31 => f32::from_bits(0x7f80_0000 | fraction << 13),
        _ => f32::from_bits((exponent + 112) << 23 | fraction << 13),
    };
    f32::from_bits(magnitude.to_bits() | sign << 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn numbers_of_three_kinds() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "b":{"dtype":"F16","shape":[4,1],"data_offsets":[8,16]},
            "c":{"dtype":"BF16","shape":[],"data_offsets":[16,18]},
            "d":{"dtype":"I64","shape":[1],"data_offsets":[18,26]}}"#;
        let mut data = [1.5f32.to_le_bytes(), (-0.25f32).to_le_bytes()].concat();
        // 1, -2, the least one above zero, the largest.
        data.extend([0x3c00u16, 0xc000, 1, 0x7bff].iter().flat_map(|h| h.to_le_bytes()));
        data.extend(0x4049u16.to_le_bytes());
        data.extend(7u64.to_le_bytes());
        let file = file(header, &data);
        let mut weights = Weights::read(&[&file]).unwrap();
        assert_eq!(weights.take("a", &[2]), [1.5, -0.25]);
        assert_eq!(weights.take("b", &[4, 1]), [1.0, -2.0, 2f32.powi(-24), 65504.0]);
        assert_eq!(weights.take("c", &[]), [3.140625]);
        assert_eq!(weights.finish(|name| name == "d"), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "left":{"dtype":"F32","shape":[0],"data_offsets":[8,8]},
            "n":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}}"#;
        let file = file(header, &[0; 8]);
        let mut weights = Weights::read(&[&file]).unwrap();
        assert_eq!(weights.take("a", &[1, 2]), [0.0; 2]);
        assert_eq!(weights.take("gone", &[3]), [0.0; 3]);
        assert_eq!(weights.take("n", &[8]), [0.0; 8]);
        let said = weights.finish(|_| false).unwrap_err().0;
        for part in [
            "a has shape [2], and [1, 2] is needed",
            "gone [3] is missing",
            "n is of a type",
            "left is left over",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(Weights::read(&[&file, &file]).is_err());
    }

    #[test]
    fn broken_files_are_errors() {
        let entry = |e: &str| file(&format!(r#"{{"a":{e}}}"#), &[0; 8]);
        let broken = [
            vec![],
            vec![255; 8],
            vec![255, 255, 255, 0, 0, 0, 0, 0, b'{'],
            file("{", &[]),
            file("[]", &[]),
            entry("1"),
            entry(r#"{"dtype":"F32","shape":[2]}"#),
            entry(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#),
            entry(r#"{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#),
            entry(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#),
            entry(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#),
            entry(r#"{"dtype":"F32","shape":[9223372036854775807,8],"data_offsets":[0,8]}"#),
        ];
        for file in broken {
            assert!(Weights::read(&[&file]).is_err(), "{file:?}");
        }
    }
}
