//! What mining costs, through the boxes `neighbors` and `pairs` as the service runs them: time and
//! memory for each image.
//!
//! ```sh
//! cargo run --release -p operators --example mining -- growth [--rows 200000] [--dims 768]
//!     [--corpus noise | cone]
//! cargo run --release -p operators --example mining -- memory [--rows 50000] [--dims 768,768,768]
//! cargo run --release -p operators --example mining -- alike [--rows 100000] [--dims 64]
//! cargo run --release -p operators --example mining -- stream --vectors FILE.npy [--rows N]
//!     [--changes 1000] [--rounds 5]
//! ```
//!
//! All take `--workers` (2), `--epoch` (rows of one, 10,000) and `--json FILE`. `growth` fills a
//! corpus epoch by epoch, then adds and takes away 1 % of it; `memory` counts bytes; `alike` fills
//! corpora in which every image is in the band of every other (`--kinds near,equal,dominated`);
//! `stream` takes vectors of a file, the first `--rows` of them at once, then in each round
//! `--changes`: half of them inserts of the vectors that follow, half of them deletes, and writes
//! the neighbours of some images for others to check.

use std::path::PathBuf;

use kernels::vector::Band;
use operators::neighbors::Mining;

#[path = "mining/corpus.rs"]
mod corpus;
#[path = "mining/drive.rs"]
mod drive;
#[path = "mining/modes.rs"]
mod modes;

pub struct Options {
    rows: Option<usize>,
    dims: Option<Vec<usize>>,
    workers: usize,
    epoch: usize,
    cone: bool,
    kinds: Vec<String>,
    vectors: Option<PathBuf>,
    changes: usize,
    rounds: usize,
    json: Option<PathBuf>,
}

impl Options {
    /// The same band in the first `channels` channels, and none in the others.
    fn mining(&self, channels: usize, low: f64, high: f64) -> Mining {
        let band = Band::new(low, high).expect("edges of a band");
        let of = |c: usize| if c < channels { vec![band] } else { Vec::new() };
        Mining { bands: [of(0), of(1), of(2)], ..Mining::default() }
    }
}

fn main() {
    let result = options().and_then(|(mode, options)| {
        let figures = match mode.as_str() {
            "growth" => modes::growth(&options),
            "memory" => modes::memory(&options),
            "alike" => modes::alike(&options),
            "stream" => modes::stream(&options),
            _ => Err(format!("growth, memory, alike or stream, not {mode}")),
        }?;
        let Some(path) = &options.json else { return Ok(()) };
        let text = format!("[\n  {}\n]\n", figures.join(",\n  "));
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    });
    if let Err(message) = result {
        eprintln!("mining: {message}");
        std::process::exit(1);
    }
}

fn options() -> Result<(String, Options), String> {
    let mut options = Options {
        rows: None,
        dims: None,
        workers: 2,
        epoch: 10_000,
        cone: false,
        kinds: ["near", "equal", "dominated"].map(String::from).to_vec(),
        vectors: None,
        changes: 1_000,
        rounds: 5,
        json: None,
    };
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_else(|| "growth".into());
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} takes a value"))?;
        let number = |value: &str| match value.parse::<usize>() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("{name}: a number from 1, not {value}")),
        };
        match name.as_str() {
            "--rows" => options.rows = Some(number(&value)?),
            "--dims" => {
                let dims: Result<Vec<usize>, String> = value.split(',').map(number).collect();
                options.dims = Some(dims?);
            }
            "--workers" => options.workers = number(&value)?,
            "--epoch" => options.epoch = number(&value)?,
            "--corpus" if ["noise", "cone"].contains(&&*value) => options.cone = value == "cone",
            "--kinds" => options.kinds = value.split(',').map(String::from).collect(),
            "--vectors" => options.vectors = Some(value.into()),
            "--changes" => options.changes = number(&value)?,
            "--rounds" => options.rounds = number(&value)?,
            "--json" => options.json = Some(value.into()),
            _ => return Err(format!("no option {name}")),
        }
    }
    if options.dims.as_ref().is_some_and(|dims| dims.len() > 3) {
        return Err("there are three channels".into());
    }
    Ok((mode, options))
}
