//! Vectors: made, one at a time, or read.

use std::{path::Path, sync::Arc};

use kernels::vector::quantize;

/// Images of one family: each pair of them is in the band 0.8 to 0.96, at about 0.87.
pub const FAMILY: usize = 16;

/// xorshift64*, uniform in −1 to 1.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Noise {
        Noise((seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

fn quantized(x: &[f32]) -> Arc<[i16]> {
    Arc::from(quantize(x).expect("noise is not zero"))
}

/// Image `n` of a corpus of `rows`: it belongs to one of `rows / FAMILY` families, and families
/// arrive mixed. Directions of families have nothing to do with each other (`noise`), or a cosine of
/// about 0.5 (`cone`), as image encoders' have.
pub fn mixed(cone: bool, n: usize, rows: usize, dim: usize, channel: usize) -> Arc<[i16]> {
    let families = (rows / FAMILY).max(1);
    let family = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let seed = (family % families as u64) * 3 + channel as u64;
    let mut centre = Noise::new(seed ^ (dim as u64) << 40);
    let mut own = Noise::new(n as u64 * 3 + channel as u64 + (1 << 50));
    let mut axis = Noise::new(1 << 51);
    let x: Vec<f32> = (0..dim)
        .map(|_| 0.933 * centre.next() + 0.36 * own.next() + if cone { axis.next() } else { 0.0 })
        .collect();
    quantized(&x)
}

/// Image `n` of a corpus in which all are alike: `near`, `equal` or `dominated`.
pub fn alike(kind: &str, n: usize, dim: usize) -> Result<Arc<[i16]>, String> {
    let mut shared = Noise::new(7);
    let mut own = Noise::new(n as u64 + (1 << 50));
    let x: Vec<f32> = match kind {
        "near" => (0..dim).map(|_| 0.949 * shared.next() + 0.316 * own.next()).collect(),
        "equal" => (0..dim).map(|_| shared.next()).collect(),
        "dominated" => {
            // Nine tenths of the squared length lie in one component.
            let large = (dim as f32 * 3.0).sqrt();
            (0..dim).map(|i| if i == dim / 2 { large } else { own.next() }).collect()
        }
        _ => return Err(format!("kinds are near, equal and dominated, not {kind}")),
    };
    Ok(quantized(&x))
}

/// Rows of a file of NumPy's (NEP 1): little-endian f4, two dimensions, C order.
pub struct Read {
    bytes: Vec<u8>,
    begin: usize,
    pub rows: usize,
    pub dim: usize,
}

impl Read {
    pub fn open(path: &Path) -> Result<Read, String> {
        let said = |what: &str| format!("{}: {what}", path.display());
        let bytes = std::fs::read(path).map_err(|e| said(&e.to_string()))?;
        if bytes.get(..8) != Some(b"\x93NUMPY\x01\x00") || bytes.len() < 10 {
            return Err(said("not a file of NumPy's, version 1"));
        }
        let begin = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = bytes.get(10..begin).ok_or_else(|| said("it is cut off"))?;
        let header = String::from_utf8_lossy(header);
        let shape = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
        let numbers = shape.map_or("", |(shape, _)| shape).split(',').map(|n| n.trim().parse());
        let shape: Vec<usize> = numbers.filter_map(Result::ok).collect();
        let c_order = header.contains("'<f4'") && !header.contains("'fortran_order': True");
        match *shape {
            [rows, dim] if c_order && dim > 0 && bytes.len() == begin + rows * dim * 4 => {
                Ok(Read { bytes, begin, rows, dim })
            }
            _ => Err(said("not n vectors of <f4 in C order")),
        }
    }

    pub fn vector(&self, n: usize) -> Arc<[i16]> {
        let row = &self.bytes[self.begin + n * self.dim * 4..][..self.dim * 4];
        let x: Vec<f32> = row.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        quantized(&x)
    }
}
