//! How fast each path of the similarity scan is on this processor, in multiply-adds per second of
//! one core: `cargo run --release -p kernels --example scan`.

use std::time::{Duration, Instant};

use kernels::similarity::{Packed, Rows, ScanFn, paths};
use kernels::vector::quantize;

const ROWS: usize = 20_000;

fn main() {
    for dim in [256, 768] {
        let mut rows = Rows::new(dim);
        for i in 0..ROWS {
            rows.push(&vector(dim, i as u64));
        }
        for queries in [1, 64, 512] {
            let queries: Vec<&[i16]> = (0..queries).map(|q| rows.row(q)).collect();
            for (name, path) in paths() {
                let rate = multiply_adds_per_second(path, &queries, &rows);
                let n = queries.len();
                println!("dim {dim}, {n:3} queries, {name:10}: {:7.1} GMAC/s", rate / 1e9);
            }
        }
    }
}

fn vector(dim: usize, seed: u64) -> Box<[i16]> {
    let mut state = seed;
    let x: Vec<f32> = (0..dim)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    quantize(&x).expect("noise is not zero")
}

/// The best of repeated scans within about half a second: the least disturbed one.
fn multiply_adds_per_second(path: ScanFn, queries: &[&[i16]], rows: &Rows) -> f64 {
    let packed = Packed::new(rows.dim(), queries);
    let work = (queries.len() * rows.len() * rows.dim()) as f64;
    let (begin, mut best) = (Instant::now(), Duration::MAX);
    let mut hits = 0u64;
    while begin.elapsed() < Duration::from_millis(500) {
        let start = Instant::now();
        path(&packed, rows, 0..rows.len(), 1 << 29, &mut |_, _, _| hits += 1);
        best = best.min(start.elapsed());
    }
    assert!(hits >= queries.len() as u64, "each query is a row, so it finds itself");
    work / best.as_secs_f64()
}
