//! How fast this device copies and multiplies, and how near the scan comes to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUevent_flags;
use kernels::cuda::corpus::{CANDIDATES_PER_PASS, Corpus, QUERIES_PER_PASS, Queries, bytes};
use kernels::cuda::{Chosen, Device, Error};
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
    /// Products of so many rows are tried, if the library or the memory refuse more.
    rows_least: usize,
    /// The edge of products that arithmetic alone limits: at mining's shape the library also
    /// writes every score, 4 bytes each for 8-bit integers.
    cube: usize,
    /// Different rows; the corpus repeats them, since making a million takes longer than scanning
    /// them.
    different: usize,
    copied: usize,
    /// Odd, for the median.
    repeats: usize,
    /// For how long nothing is measured: clocks of an idle device take a while to rise.
    warm_up: Duration,
}

impl Sizes {
    pub const FULL: Sizes = Sizes {
        queries: QUERIES_PER_PASS,
        rows: 1 << 20,
        dim: 1024,
        rows_least: 1 << 16,
        cube: 8192,
        different: 1 << 14,
        copied: 2 << 30,
        repeats: 11,
        warm_up: Duration::from_millis(500),
    };

    /// So small that figures mean nothing: this is to test the program itself, on an emulated
    /// device too.
    pub const TRIAL: Sizes = Sizes {
        queries: 33,
        rows: 300,
        dim: 128,
        rows_least: 70,
        cube: 48,
        different: 100,
        copied: 1 << 16,
        repeats: 1,
        warm_up: Duration::from_millis(1),
    };
}

pub fn measure(chosen: &Chosen, sizes: Sizes) -> Result<Report, String> {
    let device = chosen.device.clone().ok_or("no device")?;
    let mut report =
        Report { device: chosen.reason.clone(), cublaslt: gemm::version(), ..Report::default() };
    let part = |report: &mut Report, what: &str, result: Result<(), String>| {
        if let Err(why) = result {
            report.failures.push(format!("{what}: {why}"));
        }
    };
    let copied = copy(&device, sizes, &mut report);
    part(&mut report, "copy", copied);
    let (m, n, k) = (sizes.queries, sizes.rows, sizes.dim);
    for kind in KINDS {
        // What this device does not multiply at all is not tried in mining's shape.
        let multiplied = product(&device, kind, [sizes.cube; 3], sizes.cube, sizes, &mut report)
            .and_then(|()| product(&device, kind, [m, n, k], sizes.rows_least, sizes, &mut report));
        part(&mut report, kind.name, multiplied);
    }
    let scanned = scans(&device, sizes, &mut report);
    part(&mut report, "scan", scanned);
    let decided = decide(&device, sizes, &mut report);
    part(&mut report, "decision", decided);
    Ok(report)
}

/// The median of what `run` takes, in seconds: from when the device is idle until all is done that
/// `run` issued and waited for.
fn timed(
    device: &Device,
    sizes: Sizes,
    mut run: impl FnMut() -> Result<(), String>,
) -> Result<f64, String> {
    let stream = device.stream();
    let event =
        || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(|e| e.to_string());
    let begun = Instant::now();
    while begun.elapsed() < sizes.warm_up {
        run()?;
        device.synchronize().map_err(said)?;
    }
    let mut seconds = Vec::new();
    for _ in 0..sizes.repeats {
        let begin = event()?;
        run()?;
        let end = event()?;
        let milliseconds = begin.elapsed_ms(&end).map_err(|e| e.to_string())?;
        seconds.push(f64::from(milliseconds) / 1e3);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn said(error: Error) -> String {
    error.to_string()
}

fn copy(device: &Device, sizes: Sizes, report: &mut Report) -> Result<(), String> {
    let stream = device.stream().clone();
    let size = sizes.copied.min(device.memory_left() / 4);
    let from = stream.alloc_zeros::<u8>(size).map_err(|e| e.to_string())?;
    let mut to = stream.alloc_zeros::<u8>(size).map_err(|e| e.to_string())?;
    let seconds =
        timed(device, sizes, || stream.memcpy_dtod(&from, &mut to).map_err(|e| e.to_string()))?;
    report.add(COPY, 2.0 * size as f64 / seconds / 1e9, "GB/s");
    Ok(())
}

const COPY: &str = "copy, bytes read and written";

fn product_name(kind: &str, [m, n, k]: [usize; 3]) -> String {
    format!("cuBLASLt {kind}, {m} × {n} × {k}")
}

/// Products of `m × k` and `k × n`; where that is refused, of half as large an `n`, down to
/// `n_least`.
fn product(
    device: &Device,
    kind: gemm::Kind,
    [m, mut n, k]: [usize; 3],
    n_least: usize,
    sizes: Sizes,
    report: &mut Report,
) -> Result<(), String> {
    let seconds = loop {
        let measured = Product::new(device.stream(), kind, (m, n, k))
            .and_then(|mut product| timed(device, sizes, || product.run()));
        match measured {
            Ok(seconds) => break seconds,
            Err(why) if n / 2 >= n_least => {
                let refused = product_name(kind.name, [m, n, k]);
                report.notes.push(format!("{refused} was refused, and half tried: {why}"));
                n /= 2;
            }
            Err(why) => return Err(format!("{m} × {n} × {k}: {why}")),
        }
    };
    let rate = 2.0 * (m * n * k) as f64 / seconds / 1e12;
    report.add(product_name(kind.name, [m, n, k]), rate, "TOP/s");
    Ok(())
}

fn noise(random: &mut Random, count: usize, dim: usize) -> Vec<Box<[i16]>> {
    let mut vector = || {
        let drawn: Vec<f32> = (0..dim).map(|_| random.component()).collect();
        quantize(&drawn)
    };
    (0..count).filter_map(|_| vector()).collect()
}

/// The one row that a query equals, as often as the corpus repeats it: what a scan of noise finds.
/// One that finds less, or more, is not measured.
struct Planted {
    query: usize,
    row: usize,
    different: usize,
    rows: usize,
}

impl Planted {
    fn scan(&self, corpus: &mut Corpus, queries: &Queries) -> Result<(), String> {
        let (mut found, mut wrong) = (0, 0);
        let mut hit = |query, row, _| match query == self.query && row % self.different == self.row
        {
            true => found += 1,
            false => wrong += 1,
        };
        corpus.scan(queries, 0..self.rows, UNIT / 10 * 8..=i32::MAX, &mut hit).map_err(said)?;
        let there = (self.row..self.rows).step_by(self.different).count();
        if (found, wrong) == (there, 0) {
            return Ok(());
        }
        Err(format!("{found} of {there} planted hits were found, and {wrong} that are none"))
    }
}

/// Scans for scores that next to nothing reaches: the filter, and a decision of a few.
fn scans(device: &Arc<Device>, sizes: Sizes, report: &mut Report) -> Result<(), String> {
    let (mut rows, dim) = (sizes.rows, sizes.dim);
    while bytes(dim, rows) > device.memory_left() / 10 * 9 {
        rows /= 2;
    }
    let (planted_query, planted_row) = (7, 5);
    let different = noise(&mut Random::new(1), sizes.different, dim);
    let mut asked = noise(&mut Random::new(2), sizes.queries, dim);
    asked[planted_query] = different[planted_row].clone();
    let some: Vec<&[i16]> = different.iter().map(|v| &v[..]).collect();
    let asked: Vec<&[i16]> = asked.iter().map(|v| &v[..]).collect();

    let mut corpus = Corpus::new(device.clone(), dim, rows).map_err(said)?;
    let begin = Instant::now();
    while corpus.len() < rows {
        let part = some.len().min(rows - corpus.len());
        corpus.extend(&some[..part]).map_err(said)?;
    }
    let rate = rows as f64 / begin.elapsed().as_secs_f64() / 1e3;
    report.add("rows coded by the CPU and copied", rate, "k/s");

    let mut queries = Queries::new(device.clone(), dim, asked.len()).map_err(said)?;
    let seconds = timed(device, sizes, || queries.load(&asked).map_err(said))?;
    report.add("queries coded by the CPU and copied", asked.len() as f64 / seconds / 1e3, "k/s");

    let mut planted =
        Planted { query: planted_query, row: planted_row, different: some.len(), rows };
    let seconds = timed(device, sizes, || planted.scan(&mut corpus, &queries))?;
    let rate = 2.0 * (asked.len() * rows * dim) as f64 / seconds / 1e12;
    let shape = format!("{} × {rows} × {dim}", asked.len());
    let ceiling = |kind| product_name(kind, [sizes.cube; 3]);
    report.add_share(format!("scan of loaded queries, {shape}"), rate, "TOP/s", &ceiling("int8"));
    if let Some(bf16) = report.value(&ceiling("bf16")) {
        report.add("the same, times cuBLASLt bf16's rate", rate / bf16, "×");
    }
    let seconds = timed(device, sizes, || {
        queries.load(&asked).map_err(said)?;
        planted.scan(&mut corpus, &queries)
    })?;
    let rate = 2.0 * (asked.len() * rows * dim) as f64 / seconds / 1e12;
    report.add(format!("scan with coding of queries, {shape}"), rate, "TOP/s");

    queries.load(&asked[planted_query..=planted_query]).map_err(said)?;
    planted.query = 0;
    let seconds = timed(device, sizes, || planted.scan(&mut corpus, &queries))?;
    let rate = (rows * (dim + 4)) as f64 / seconds / 1e9;
    // Codes are read at this rate, and multiplied with a tile of 128 queries, all but one zero.
    report.add_share("scan of one query, in a tile of 128", rate, "GB/s", COPY);
    Ok(())
}

/// A scan that keeps every pair: what the decision costs.
fn decide(device: &Arc<Device>, sizes: Sizes, report: &mut Report) -> Result<(), String> {
    let (rows, dim) = ((CANDIDATES_PER_PASS / sizes.queries).min(sizes.rows), sizes.dim);
    let vectors = noise(&mut Random::new(3), rows + sizes.queries, dim);
    let vectors: Vec<&[i16]> = vectors.iter().map(|v| &v[..]).collect();
    let mut corpus = Corpus::new(device.clone(), dim, rows).map_err(said)?;
    corpus.extend(&vectors[..rows]).map_err(said)?;
    let mut queries = Queries::new(device.clone(), dim, sizes.queries).map_err(said)?;
    queries.load(&vectors[rows..]).map_err(said)?;
    let pairs = rows * queries.len();
    let seconds = timed(device, sizes, || {
        let mut hits = 0;
        let mut count = |_, _, _| hits += 1;
        corpus.scan(&queries, 0..rows, i32::MIN..=i32::MAX, &mut count).map_err(said)?;
        if hits == pairs { Ok(()) } else { Err(format!("{hits} hits of {pairs}")) }
    })?;
    let rate = pairs as f64 / seconds / 1e6;
    report.add("scan that keeps every pair, handed out", rate, "M/s");
    Ok(())
}
