//! CUDA behind one seam: a device if there is one, and why if not.
//!
//! NVIDIA's libraries are loaded when they are first needed (driver, NVRTC, cuBLASLt), so a program
//! with this module in it builds and runs where none of them exists. Kernels (`*.cu`) travel inside
//! the binary as text and become machine code for the device at hand on first use: [`compile`].
//! What they compute is integers, equal to the CPU's to the bit. Where there is no device, the
//! kernels' own text runs on the CPU in the tests (`tests/emulator`).
//!
//! Unlike the rest of this crate it does I/O: it talks to a device, and keeps compiled kernels in
//! the folder that the caller names.
#![allow(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, sys};

pub mod compile;
pub mod corpus;
mod device;
mod libraries;
mod memory;

pub use device::Device;
pub use memory::{Buffer, Pinned};

/// What a config may ask for: `auto`, `cpu`, `cuda` (the first device) or `cuda:N`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// The first CUDA device that can be used, else the CPU.
    #[default]
    Auto,
    /// No device, even if there is one.
    Cpu,
    /// This CUDA device, or an error.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(s: &str) -> Result<Choice, String> {
        let wrong = || format!("{s:?} is no device: one of auto, cpu, cuda, cuda:0, cuda:1, …");
        match s {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Cpu),
            "cuda" => Ok(Choice::Cuda(0)),
            _ => s
                .strip_prefix("cuda:")
                .filter(|number| number.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|number| number.parse().ok())
                .map(Choice::Cuda)
                .ok_or_else(wrong),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => write!(f, "auto"),
            Choice::Cpu => write!(f, "cpu"),
            Choice::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// How a device is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bytes of device memory to use at most; by default nine tenths of what is free.
    pub memory: Option<usize>,
    /// The folder that keeps compiled kernels. Only the service's own user may write there: what
    /// lies in it runs on the device. Without one, kernels are compiled at each start.
    pub cache: Option<PathBuf>,
    /// A folder of NVIDIA's libraries, where the dynamic linker does not find them by itself.
    pub libraries: Option<PathBuf>,
}

/// A device, or the CPU, and why.
#[derive(Debug)]
pub struct Chosen {
    /// The device; none stands for the CPU.
    pub device: Option<Arc<Device>>,
    /// One line for people: which device, or what was missing.
    pub reason: String,
}

/// Opens the device of this choice. [`Choice::Auto`] never fails; an explicit device that cannot be
/// used is [`Error::Unavailable`].
pub fn choose(choice: Choice, options: &Options) -> Result<Chosen, Error> {
    let cpu = |reason: String| Chosen { device: None, reason: format!("cpu: {reason}") };
    let number = match choice {
        Choice::Cpu => return Ok(cpu("as configured".to_string())),
        Choice::Auto => 0,
        Choice::Cuda(number) => number,
    };
    match Device::open(number, options) {
        Ok(device) => {
            let reason = format!("cuda:{number}: {}", device.description());
            Ok(Chosen { device: Some(Arc::new(device)), reason })
        }
        Err(error) if choice == Choice::Auto => Ok(cpu(error.to_string())),
        Err(error) => Err(error),
    }
}

/// What can go wrong with a device.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no device to use, and why.
    Unavailable(String),
    /// A kernel that this compiler does not take.
    Compile {
        /// The kernel's file.
        kernel: &'static str,
        /// The architecture that it was compiled for.
        architecture: String,
        /// What the compiler said.
        log: String,
    },
    /// The device's memory, or the budget for it, does not reach. Nothing was changed: with a
    /// smaller batch, or after buffers were dropped, the same call can succeed.
    OutOfMemory {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes that the budget had left.
        left: usize,
    },
    /// Arguments that do not fit each other or the device's limits.
    Shape(String),
    /// The driver refused something. After a kernel has failed the device is lost to this process.
    Driver {
        /// What was being done.
        doing: &'static str,
        /// What the driver said.
        said: String,
    },
}

impl Error {
    fn driver(doing: &'static str) -> impl FnOnce(DriverError) -> Error {
        move |error| Error::Driver { doing, said: format!("{error}") }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(why) => write!(f, "{why}"),
            Error::Compile { kernel, architecture, log } => {
                write!(f, "{kernel} does not compile for {architecture}:\n{log}")
            }
            Error::OutOfMemory { wanted, left } => write!(
                f,
                "{wanted} bytes of device memory do not fit into the {left} left: take smaller \
                 batches or give the device a larger budget"
            ),
            Error::Shape(what) => write!(f, "{what}"),
            Error::Driver { doing, said } => write!(f, "CUDA failed {doing}: {said}"),
        }
    }
}

impl std::error::Error for Error {}

/// The number of devices, or why none can be asked.
fn devices() -> Result<usize, Error> {
    // SAFETY: this only loads the driver's library, whose constructors are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        let why = "no NVIDIA driver (libcuda.so.1 was not found)";
        return Err(Error::Unavailable(why.to_string()));
    }
    let counted = cudarc::driver::result::init().and_then(|()| CudaContext::device_count());
    match counted {
        Ok(0) => Err(Error::Unavailable("the NVIDIA driver sees no device".to_string())),
        Ok(count) => Ok(count as usize),
        Err(error) => Err(Error::Unavailable(format!("the NVIDIA driver does not start: {error}"))),
    }
}

#[cfg(test)]
mod tests;
