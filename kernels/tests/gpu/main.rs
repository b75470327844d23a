//! What needs a CUDA device, or its compiler; `tests/run gpu` calls it.
//!
//! ```text
//! gpu compile             every kernel through NVRTC, for an old and a new architecture
//! gpu check               kernels against the CPU, to the bit; memory that runs out
//! gpu check --small       the same without large shapes
//! gpu check --kernels     small shapes alone, for a sanitizer
//! gpu measure [--trial] [--json F] [--beside F]   ceilings, and our share of them
//! ```
//!
//! Without a device `check` and `measure` say so and exit with 3. Figures go to standard output as
//! a table; `--json` writes them to a file, with what another program measured (`--beside`, JSON)
//! put in as it is. What could not be measured is an error, after the rest. `--trial` tests this
//! program at sizes whose figures mean nothing.

use std::process::ExitCode;

use ceilings::Sizes;
use kernels::cuda::compile::{Compiler, KERNELS};
use kernels::cuda::{Choice, Chosen, Options, choose};

mod cases;
mod ceilings;
mod check;
mod gemm;
mod report;

/// The oldest architecture that the kernels are for, and the one they are tuned for.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];
const NO_DEVICE: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1).cloned()
    };
    let result = match arguments.first().map(String::as_str) {
        Some("compile") => compile(),
        Some("check") => with_device(|chosen| {
            let given = |name| arguments.iter().any(|argument| argument == name);
            check::all(chosen, given("--small"), given("--kernels"))
        }),
        Some("measure") => with_device(|chosen| {
            let beside = match value("--beside") {
                Some(path) => Some(std::fs::read_to_string(path).map_err(|e| e.to_string())?),
                None => None,
            };
            let trial = arguments.iter().any(|argument| argument == "--trial");
            let sizes = if trial { Sizes::TRIAL } else { Sizes::FULL };
            let report = ceilings::measure(chosen, sizes)?;
            report.print();
            match value("--json") {
                Some(path) => report.write(&path, beside.as_deref()),
                None => report.complete(),
            }
        }),
        _ => {
            Err("gpu compile | check [--small | --kernels] | measure [--trial] [--json FILE] [--beside FILE]"
                .into())
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("gpu: {why}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<u8, String> {
    let compiler = Compiler::load(None).map_err(|e| e.to_string())?;
    let (major, minor) = compiler.version();
    for kernel in KERNELS {
        for architecture in ARCHITECTURES {
            let code = compiler.compile(kernel, architecture).map_err(|e| e.to_string())?;
            // A cubin is an ELF file for machine 190, CUDA.
            if code.get(..4) != Some(b"\x7fELF") || code.get(18..20) != Some(&[190, 0]) {
                return Err(format!("{} for {architecture} is no cubin", kernel.name));
            }
            let name = kernel.name;
            println!("{name}.cu, {architecture}, NVRTC {major}.{minor}: {} bytes", code.len());
        }
    }
    // What does not compile must say where.
    match compiler.compile(KERNELS[0], "sm_1") {
        Err(kernels::cuda::Error::Compile { log, .. }) if !log.is_empty() => Ok(0),
        other => Err(format!("an architecture that is none was not refused: {other:?}")),
    }
}

fn with_device(then: impl FnOnce(&Chosen) -> Result<(), String>) -> Result<u8, String> {
    // Kernels are compiled by this run itself: a cache would hide a compiler that is not there.
    let chosen = choose(Choice::Auto, &Options::default()).map_err(|e| e.to_string())?;
    println!("{}", chosen.reason);
    if chosen.device.is_none() {
        return Ok(NO_DEVICE);
    }
    then(&chosen).map(|()| 0)
}
