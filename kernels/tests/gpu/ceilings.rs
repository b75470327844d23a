//! How fast this device copies and multiplies, and how near the scan comes to it.

use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::sys::CUevent_flags;
use kernels::cuda::corpus::{CANDIDATES_PER_PASS, Corpus, QUERIES_PER_PASS, bytes};
use kernels::cuda::{Chosen, Device};
use kernels::vector::{UNIT, quantize};

use crate::cases::Random;
use crate::gemm::{self, KINDS, Product};
use crate::report::Report;

/// What is measured at.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// The shape of mining: queries × rows × components.
    queries: usize,
    rows: usize,
    dim: usize,
    /// Different rows; the corpus repeats them, since making a million takes longer than scanning
    /// them.
    different: usize,
    copied: usize,
    /// Odd, for the median; and those before that only warm up.
    repeats: usize,
    warm_up: usize,
    /// Whether cuBLASLt is there to be measured.
    products: bool,
}

impl Sizes {
    pub const FULL: Sizes = Sizes {
        queries: QUERIES_PER_PASS,
        rows: 1 << 20,
        dim: 1024,
        different: 1 << 14,
        copied: 2 << 30,
        repeats: 11,
        warm_up: 3,
        products: true,
    };

    /// So small that figures mean nothing: this is to test the program itself, on an emulated
    /// device too, which has no cuBLASLt.
    pub const TRIAL: Sizes = Sizes {
        queries: 33,
        rows: 300,
        dim: 128,
        different: 100,
        copied: 1 << 16,
        repeats: 1,
        warm_up: 0,
        products: false,
    };
}

pub fn measure(chosen: &Chosen, sizes: Sizes) -> Result<Report, String> {
    let device = chosen.device.clone().ok_or("no device")?;
    let mut report =
        Report { device: chosen.reason.clone(), figures: Vec::new(), failures: Vec::new() };
    let part = |report: &mut Report, what: &str, result: Result<(), String>| {
        if let Err(why) = result {
            report.failures.push(format!("{what}: {why}"));
        }
    };
    let copied = copy(&device, sizes, &mut report);
    part(&mut report, "copy", copied);
    for kind in KINDS.into_iter().filter(|_| sizes.products) {
        let multiplied = product(&device, kind, sizes, &mut report);
        part(&mut report, kind.name, multiplied);
    }
    let filtered = filter(&device, sizes, &mut report);
    part(&mut report, "filter", filtered);
    let decided = decide(&device, sizes, &mut report);
    part(&mut report, "decision", decided);
    Ok(report)
}

/// The median of what `run` takes on the device, in seconds, after some runs to warm up.
fn on_device(
    device: &Device,
    sizes: Sizes,
    mut run: impl FnMut() -> Result<(), String>,
) -> Result<f64, String> {
    let stream = device.stream();
    let event =
        || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(|e| e.to_string());
    let mut seconds = Vec::new();
    for repeat in 0..sizes.warm_up + sizes.repeats {
        let begin = event()?;
        run()?;
        let end = event()?;
        let milliseconds = begin.elapsed_ms(&end).map_err(|e| e.to_string())?;
        if repeat >= sizes.warm_up {
            seconds.push(f64::from(milliseconds) / 1e3);
        }
    }
    Ok(median(seconds))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn copy(device: &Device, sizes: Sizes, report: &mut Report) -> Result<(), String> {
    let stream = device.stream().clone();
    let size = sizes.copied.min(device.memory_left() / 4);
    let from = stream.alloc_zeros::<u8>(size).map_err(|e| e.to_string())?;
    let mut to = stream.alloc_zeros::<u8>(size).map_err(|e| e.to_string())?;
    let seconds =
        on_device(device, sizes, || stream.memcpy_dtod(&from, &mut to).map_err(|e| e.to_string()))?;
    report.add("copy, bytes read and written", 2.0 * size as f64 / seconds / 1e9, "GB/s");
    Ok(())
}

fn product(
    device: &Device,
    kind: gemm::Kind,
    sizes: Sizes,
    report: &mut Report,
) -> Result<(), String> {
    let (m, k) = (sizes.queries, sizes.dim);
    let mut n = sizes.rows;
    while gemm::bytes(kind, m, n, k) > device.memory_left() / 10 * 9 {
        n /= 2;
    }
    let mut product = Product::new(device.stream(), kind, (m, n, k))?;
    let seconds = on_device(device, sizes, || product.run())?;
    let rate = 2.0 * (m * n * k) as f64 / seconds / 1e12;
    let name = format!("cuBLASLt {}", kind.name);
    report.add(name, rate, "TOP/s");
    if n < sizes.rows {
        report.failures.push(format!("{}: at {m} × {n} × {k} only, for memory", kind.name));
    }
    Ok(())
}

fn noise(random: &mut Random, count: usize, dim: usize) -> Vec<Box<[i16]>> {
    let mut vector = || {
        let drawn: Vec<f32> = (0..dim).map(|_| random.component()).collect();
        quantize(&drawn)
    };
    (0..count).filter_map(|_| vector()).collect()
}

/// The whole scan as its caller sees it, for scores that next to nothing reaches: the filter.
fn filter(device: &Arc<Device>, sizes: Sizes, report: &mut Report) -> Result<(), String> {
    let (mut rows, dim) = (sizes.rows, sizes.dim);
    while bytes(dim, rows) > device.memory_left() {
        rows /= 2;
    }
    let different = noise(&mut Random::new(1), sizes.different, dim);
    let some: Vec<&[i16]> = different.iter().map(|v| &v[..]).collect();
    let mut corpus = Corpus::new(device.clone(), dim, rows).map_err(|e| e.to_string())?;
    let begin = Instant::now();
    while corpus.len() < rows {
        let part = some.len().min(rows - corpus.len());
        corpus.extend(&some[..part]).map_err(|e| e.to_string())?;
    }
    let rate = rows as f64 / begin.elapsed().as_secs_f64() / 1e3;
    report.add("rows coded and copied to the device", rate, "k/s");

    let queries = noise(&mut Random::new(2), sizes.queries, dim);
    let queries: Vec<&[i16]> = queries.iter().map(|v| &v[..]).collect();
    let scores = UNIT / 10 * 8..=UNIT / 100 * 96;
    let mut hits = 0u64;
    let seconds = on_device(device, sizes, || {
        let mut count = |_, _, _| hits += 1;
        corpus.scan(&queries, 0..rows, scores.clone(), &mut count).map_err(|e| e.to_string())
    })?;
    let work = 2.0 * (queries.len() * rows * dim) as f64;
    let name = format!("scan, {} × {rows} × {dim}", queries.len());
    report.add_share(name.clone(), work / seconds / 1e12, "TOP/s", "cuBLASLt int8");
    let bf16 = report.value("cuBLASLt bf16");
    if let Some(bf16) = bf16 {
        report.add("the same, times cuBLASLt bf16's rate", work / seconds / 1e12 / bf16, "×");
    }
    let alone = &queries[..1];
    let seconds = on_device(device, sizes, || {
        let mut count = |_, _, _| hits += 1;
        corpus.scan(alone, 0..rows, scores.clone(), &mut count).map_err(|e| e.to_string())
    })?;
    let bytes = (rows * (dim + 4)) as f64;
    let name = format!("scan, 1 × {rows} × {dim}, bytes of codes");
    report.add_share(name, bytes / seconds / 1e9, "GB/s", "copy, bytes read and written");
    Ok(())
}

/// A scan that keeps every pair: what the decision costs.
fn decide(device: &Arc<Device>, sizes: Sizes, report: &mut Report) -> Result<(), String> {
    let (rows, dim) = ((CANDIDATES_PER_PASS / sizes.queries).min(sizes.rows), sizes.dim);
    let vectors = noise(&mut Random::new(3), rows + sizes.queries, dim);
    let vectors: Vec<&[i16]> = vectors.iter().map(|v| &v[..]).collect();
    let mut corpus = Corpus::new(device.clone(), dim, rows).map_err(|e| e.to_string())?;
    corpus.extend(&vectors[..rows]).map_err(|e| e.to_string())?;
    let queries = &vectors[rows..];
    let (mut hits, mut seconds) = (0u64, Vec::new());
    for _ in 0..sizes.repeats {
        let begin = Instant::now();
        let mut count = |_, _, _| hits += 1;
        corpus
            .scan(queries, 0..rows, i32::MIN..=i32::MAX, &mut count)
            .map_err(|e| e.to_string())?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    if hits != (sizes.repeats * rows * queries.len()) as u64 {
        return Err(format!("{hits} hits"));
    }
    let pairs = (rows * queries.len()) as f64;
    let rate = pairs / median(seconds) / 1e6;
    report.add("scan that keeps every pair, handed out", rate, "M/s");
    Ok(())
}
