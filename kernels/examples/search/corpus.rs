//! Vectors to search in: made, or read.

use std::path::Path;

use kernels::vector::quantize;

type Vector = Box<[i16]>;

pub struct Corpus {
    pub name: String,
    pub dim: usize,
    pub rows: Vec<Vector>,
    pub queries: Vec<Vector>,
}

/// Neighbours of each query, by cosine from 0.75 to 0.98.
const PLANTED: usize = 24;

/// xorshift64*, uniform in −1 to 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// A direction of length about 1.
    fn direction(&mut self, dim: usize) -> Vec<f32> {
        let scale = (3.0 / dim as f32).sqrt();
        (0..dim).map(|_| self.next() * scale).collect()
    }
}

impl Corpus {
    pub fn made(cone: bool, rows: usize, queries: usize, dim: usize) -> Corpus {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ dim as u64);
        let axis = noise.direction(dim);
        let apart = |noise: &mut Noise| {
            let mut x = noise.direction(dim);
            if cone {
                x.iter_mut().zip(&axis).for_each(|(x, axis)| *x += axis);
            }
            x
        };
        let queries: Vec<Vec<f32>> = (0..queries).map(|_| apart(&mut noise)).collect();
        let mut all: Vec<Vector> = Vec::with_capacity(rows);
        // Planted rows lie everywhere: row i is one of query i·step.
        let planted = (queries.len() * PLANTED).min(rows / 2);
        let step = rows / planted.max(1);
        for i in 0..rows {
            let mut x = apart(&mut noise);
            if i % step == 0 && i / step < planted {
                let (query, rank) = (&queries[i / step % queries.len()], i / step / queries.len());
                let cosine = 0.75 + 0.23 * rank as f32 / PLANTED as f32;
                // Away from the query, so that the cosine comes out as meant.
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                let (along, squared) = (dot(&x, query), dot(query, query));
                x.iter_mut().zip(query).for_each(|(x, q)| *x -= along / squared * q);
                let scale = (squared / dot(&x, &x)).sqrt() * (1.0 - cosine * cosine).sqrt();
                x.iter_mut().zip(query).for_each(|(x, q)| *x = *x * scale + cosine * q);
            }
            all.push(quantize(&x).expect("noise is not zero"));
        }
        let queries = queries.iter().map(|q| quantize(q).expect("noise is not zero")).collect();
        let name = if cone { "cone" } else { "noise" };
        Corpus { name: name.into(), dim, rows: all, queries }
    }

    pub fn read(rows: &Path, queries: &Path) -> Result<Corpus, String> {
        let (dim, all) = read_npy(rows)?;
        let (of_queries, queries_read) = read_npy(queries)?;
        if of_queries != dim {
            return Err(format!("rows have {dim} components, queries {of_queries}"));
        }
        let name = rows.file_stem().map_or("given".into(), |name| name.display().to_string());
        Ok(Corpus { name, dim, rows: all, queries: queries_read })
    }
}

/// The vectors of a file of NumPy's (NEP 1): f4 or i2, little-endian, two dimensions, C order.
fn read_npy(path: &Path) -> Result<(usize, Vec<Vector>), String> {
    let said = |what: &str| format!("{}: {what}", path.display());
    let bytes = std::fs::read(path).map_err(|e| said(&e.to_string()))?;
    if bytes.get(..6) != Some(b"\x93NUMPY") || bytes.len() < 12 {
        return Err(said("not a file of NumPy's"));
    }
    let (header, begin) = if bytes[6] == 1 {
        (usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), 10)
    } else {
        (u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize, 12)
    };
    let data = bytes.get(begin + header..).ok_or_else(|| said("it is cut off"))?;
    let header = String::from_utf8_lossy(&bytes[begin..begin + header]);
    let shape = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
    let numbers = shape.map_or("", |(shape, _)| shape).split(',').map(|n| n.trim().parse());
    let shape: Vec<usize> = numbers.filter_map(Result::ok).collect();
    let (&[n, dim], false) = (&*shape, header.contains("'fortran_order': True")) else {
        return Err(said("not of two dimensions in C order"));
    };
    let size = if header.contains("'<f4'") { 4 } else { 2 };
    if (size == 2 && !header.contains("'<i2'")) || dim == 0 || data.len() != n * dim * size {
        return Err(said("not n vectors of <f4 or <i2"));
    }
    let vector = |(i, row): (usize, &[u8])| {
        if size == 2 {
            return Ok(row.as_chunks().0.iter().map(|&b| i16::from_le_bytes(b)).collect());
        }
        let x: Vec<f32> = row.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        quantize(&x).ok_or_else(|| said(&format!("row {i} is no vector")))
    };
    let all: Result<_, String> = data.chunks_exact(dim * size).enumerate().map(vector).collect();
    Ok((dim, all?))
}

/// Writes row numbers, `width` a query, −1 where there are fewer.
pub fn write_ids(path: &Path, ids: &[Vec<u32>], width: usize) -> Result<(), String> {
    let shape = format!("({}, {width})", ids.len());
    let mut header = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for ids in ids {
        let padded = ids.iter().map(|&id| id as i32).chain(std::iter::repeat(-1)).take(width);
        bytes.extend(padded.flat_map(i32::to_le_bytes));
    }
    std::fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}
