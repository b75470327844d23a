//! Whole searches on this processor: filter, re-score and lists of the ten best in a band, beside
//! the 16-bit scan without a filter, and beside what the processor can do at all.
//!
//! ```sh
//! cargo run --release -p kernels --example search -- [--rows N] [--dims 384,768,1024]
//!     [--batches 1,32,256,1024] [--threads T] [--json FILE]
//! cargo run --release -p kernels --example search -- --vectors FILE.npy --queries FILE.npy
//!     [--band 0.8,0.96] [--batches …] [--found FILE.npy] [--json FILE]
//! ```
//!
//! The first form makes corpora: `noise`, directions that have nothing to do with each other, and
//! `cone`, where any two have a cosine of about 0.5, as image encoders' have; in both each query
//! has a few neighbours. The second form takes vectors (f4 or i2, two dimensions, C order), so that
//! other programs can be timed with the same ones; `--found` gets row numbers of the neighbours, −1
//! where there are fewer. Times are the least of several: whatever else runs only adds to them.

use std::path::PathBuf;

use kernels::vector::Band;

#[path = "search/ceilings.rs"]
mod ceilings;
#[path = "search/corpus.rs"]
mod corpus;
#[path = "search/times.rs"]
mod times;

use corpus::Corpus;
use times::Timed;

struct Options {
    rows: usize,
    dims: Vec<usize>,
    batches: Vec<usize>,
    threads: usize,
    band: (f64, f64),
    vectors: Option<PathBuf>,
    queries: Option<PathBuf>,
    found: Option<PathBuf>,
    json: Option<PathBuf>,
}

fn main() {
    if let Err(message) = options().and_then(|options| run(&options)) {
        eprintln!("search: {message}");
        std::process::exit(1);
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        rows: 200_000,
        dims: vec![384, 768, 1024],
        batches: vec![1, 32, 256, 1024],
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        band: (0.8, 0.96),
        vectors: None,
        queries: None,
        found: None,
        json: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} takes a value"))?;
        let bad = |_| format!("{name}: not a number: {value}");
        let numbers = || -> Result<Vec<usize>, String> {
            value.split(',').map(|n| n.parse::<usize>().map_err(bad)).collect()
        };
        match name.as_str() {
            "--rows" => options.rows = value.parse().map_err(bad)?,
            "--threads" => options.threads = value.parse().map_err(bad)?,
            "--dims" => options.dims = numbers()?,
            "--batches" => options.batches = numbers()?,
            "--band" => {
                let edges: Vec<f64> = value.split(',').filter_map(|x| x.parse().ok()).collect();
                let &[low, high] = &*edges else { return Err("--band takes LOW,HIGH".into()) };
                options.band = (low, high);
            }
            "--vectors" => options.vectors = Some(value.into()),
            "--queries" => options.queries = Some(value.into()),
            "--found" => options.found = Some(value.into()),
            "--json" => options.json = Some(value.into()),
            _ => return Err(format!("no option {name}")),
        }
    }
    let positive = options.threads > 0 && options.rows > 0 && !options.batches.contains(&0);
    if !positive {
        return Err("rows, threads and batches are at least 1".into());
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    let band = Band::new(options.band.0, options.band.1)?;
    let most = options.batches.iter().copied().max().unwrap_or(1);
    let ceilings = ceilings::measure(options.threads);
    println!("{ceilings}");
    let mut timed = Vec::new();
    match (&options.vectors, &options.queries) {
        (Some(rows), Some(queries)) => {
            let corpus = Corpus::read(rows, queries)?;
            timed.extend(times::of(&corpus, band, &options.batches, options.threads, &ceilings));
            if let Some(path) = &options.found {
                let found = times::found(&corpus, band, options.threads);
                corpus::write_ids(path, &found, times::NEIGHBORS)?;
            }
        }
        (None, None) => {
            for &dim in &options.dims {
                for cone in [false, true] {
                    let corpus = Corpus::made(cone, options.rows, most, dim);
                    let batches = &options.batches;
                    timed.extend(times::of(&corpus, band, batches, options.threads, &ceilings));
                }
            }
        }
        _ => return Err("--vectors and --queries come together".into()),
    }
    if let Some(path) = &options.json {
        let rows: Vec<String> = timed.iter().map(Timed::json).collect();
        let text = format!(
            "{{\"threads\": {}, \"ceilings\": {}, \"times\": [\n  {}\n]}}\n",
            options.threads,
            ceilings.json(),
            rows.join(",\n  ")
        );
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}
