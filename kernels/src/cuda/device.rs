//! One device, opened: its context, its stream, its kernels.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchArgs, LaunchConfig, sys};
use cudarc::nvrtc::Ptx;

use super::compile::{CANDIDATES, Cache, Compiler, Kernel, RESCORE, architecture};
use super::memory::{Budget, Buffer, Number, Pinned};
use super::{Error, Options, devices};

/// The tensor cores' 8-bit product that the kernels use came with Ampere.
const CAPABILITY_MIN: (u32, u32) = (8, 0);

/// A CUDA device with every kernel loaded. Work is issued to one stream, in order.
pub struct Device {
    pub(super) candidates: CudaFunction,
    pub(super) rescore: CudaFunction,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    budget: Arc<Budget>,
    description: Description,
}

/// What a device is, for people and for figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// NVIDIA's name.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: usize,
    /// The newest CUDA that the driver knows, such as (13, 0).
    pub driver: (i32, i32),
    /// The compiler of the kernels.
    pub compiler: (i32, i32),
    /// Bytes of memory that may be used here.
    pub budget: usize,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { name, capability, multiprocessors, memory, driver, compiler, budget } =
            self;
        let gib = |bytes: &usize| *bytes as f64 / (1u64 << 30) as f64;
        write!(
            f,
            "{name} ({}, {multiprocessors} multiprocessors, {:.1} GiB, {:.1} of them to use), \
             driver for CUDA {}.{}, NVRTC {}.{}",
            architecture(*capability),
            gib(memory),
            gib(budget),
            driver.0,
            driver.1,
            compiler.0,
            compiler.1,
        )
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.description)
    }
}

impl Device {
    /// Opens device `number` and compiles or loads the kernels for it.
    pub(super) fn open(number: usize, options: &Options) -> Result<Device, Error> {
        let count = devices()?;
        if number >= count {
            let why = format!("there is no cuda:{number}, only {count} device(s), from cuda:0 on");
            return Err(Error::Unavailable(why));
        }
        let opening = "opening the device";
        let context = CudaContext::new(number).map_err(Error::driver(opening))?;
        // SAFETY: with one stream there is nothing for events to order: all memory of this context
        // is allocated, used and freed on the stream made below, and copies are waited for. The
        // events would cost two calls of the driver per argument and launch.
        unsafe { context.disable_event_tracking() };
        let (major, minor) = context.compute_capability().map_err(Error::driver(opening))?;
        let capability = (major as u32, minor as u32);
        let name = context.name().map_err(Error::driver(opening))?;
        if capability < CAPABILITY_MIN {
            return Err(Error::Unavailable(format!(
                "{name} has compute capability {major}.{minor}, and the kernels need {}.{}",
                CAPABILITY_MIN.0, CAPABILITY_MIN.1
            )));
        }
        let compiler = Compiler::load(options.libraries.as_deref())?;
        let driver = driver_version()?;
        let load = |kernel: Kernel| {
            let architecture = architecture(capability);
            let code = match &options.cache {
                Some(folder) => Cache::new(folder).cubin(&compiler, kernel, &architecture)?,
                None => compiler.compile(kernel, &architecture)?,
            };
            let module = context.load_module(Ptx::from_binary(code)).map_err(|error| {
                let (major, minor) = compiler.version();
                Error::Unavailable(format!(
                    "the driver (for CUDA {}.{}) does not load what NVRTC {major}.{minor} \
                     compiled: {error}; take the NVRTC of the driver's version, or a newer driver",
                    driver.0, driver.1
                ))
            })?;
            module.load_function(kernel.name).map_err(Error::driver("loading a kernel"))
        };
        let (candidates, rescore) = (load(CANDIDATES)?, load(RESCORE)?);
        let (free, memory) = context.mem_get_info().map_err(Error::driver(opening))?;
        // A tenth stays free for the context, the modules and fragments between buffers.
        let limit = options.memory.unwrap_or(free / 10 * 9).min(free);
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(attribute).map_err(Error::driver(opening))?;
        let description = Description {
            name,
            capability,
            multiprocessors: multiprocessors as u32,
            memory,
            driver,
            compiler: compiler.version(),
            budget: limit,
        };
        let stream = context.new_stream().map_err(Error::driver(opening))?;
        let budget = Budget::new(limit);
        Ok(Device { candidates, rescore, stream, context, budget, description })
    }

    /// What it is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The stream that everything is issued to. Memory allocated on it must be used on no other:
    /// nothing would order the two.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Memory on the device, zero at first; at least one element.
    pub fn buffer<T: Number>(&self, len: usize) -> Result<Buffer<T>, Error> {
        Buffer::new(&self.stream, &self.budget, len)
    }

    /// Host memory for copies from and to the device, zero at first; at least one element.
    pub fn pinned<T: Number>(&self, len: usize) -> Result<Pinned<T>, Error> {
        Pinned::new(&self.context, len)
    }

    /// Bytes of the budget that no buffer holds.
    pub fn memory_left(&self) -> usize {
        self.budget.left()
    }

    /// Waits until everything issued is done. An error here is a kernel's: the device is lost to
    /// this process.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.stream.synchronize().map_err(Error::driver("running a kernel"))
    }

    /// A launch on the device's stream, to be given its arguments.
    pub(super) fn prepare<'a>(&'a self, kernel: &'a CudaFunction) -> LaunchArgs<'a> {
        self.stream.launch_builder(kernel)
    }

    /// Launches with `threads` a block, having checked the grid against CUDA's limits. No block is
    /// no launch.
    ///
    /// # Safety
    /// The arguments are those of the kernel's definition, in order, and its buffers are as long
    /// as it says.
    pub(super) unsafe fn launch(
        &self,
        launch: &mut LaunchArgs<'_>,
        blocks: usize,
        threads: u32,
    ) -> Result<(), Error> {
        if blocks == 0 {
            return Ok(());
        }
        let Ok(across) = i32::try_from(blocks) else {
            return Err(Error::Shape(format!("{blocks} blocks are more than one launch takes")));
        };
        let grid = LaunchConfig {
            grid_dim: (across as u32, 1, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the caller vouches for the arguments; the grid is within CUDA's limits.
        let launched = unsafe { launch.launch(grid) };
        launched.map(|_| ()).map_err(Error::driver("launching a kernel"))
    }
}

fn driver_version() -> Result<(i32, i32), Error> {
    let mut version = 0;
    // SAFETY: the driver is loaded, and the pointer is to an integer of ours.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    asked.map_err(Error::driver("asking for the driver's version"))?;
    Ok((version / 1000, version % 1000 / 10))
}
