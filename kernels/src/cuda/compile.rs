//! Kernels from text to machine code: NVRTC, and a folder that remembers.

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use super::{Error, libraries};

/// One kernel: its file and its entry have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The entry's name; the file is `NAME.cu`.
    pub name: &'static str,
    text: &'static str,
}

macro_rules! kernel {
    ($name:literal) => {
        Kernel {
            name: $name,
            text: concat!(
                "#line 1 \"warp.cuh\"\n",
                include_str!("warp.cuh"),
                "#line 1 \"",
                $name,
                ".cu\"\n",
                include_str!(concat!($name, ".cu")),
            ),
        }
    };
}

/// The int8 filter: pairs that may score within a range.
pub const CANDIDATES: Kernel = kernel!("candidates");
/// The int16 decision: exact scores of pairs.
pub const RESCORE: Kernel = kernel!("rescore");
/// All of them.
pub const KERNELS: [Kernel; 2] = [CANDIDATES, RESCORE];

/// Options beside the architecture. Line numbers cost nothing and make a sanitizer's report
/// readable; a kernel need not use all of `warp.cuh`.
const OPTIONS: [&str; 3] = ["--std=c++17", "--generate-line-info", "--diag-suppress=177"];

/// The architecture's name for NVRTC: what NVIDIA calls compute capability, `9.0` being `sm_90a`
/// (the form that has Hopper's own instructions).
pub fn architecture((major, minor): (u32, u32)) -> String {
    let own = if (major, minor) == (9, 0) { "a" } else { "" };
    format!("sm_{major}{minor}{own}")
}

/// NVRTC, loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiler {
    version: (i32, i32),
}

impl Compiler {
    /// Loads NVRTC, from `folder` if one is given. [`Error::Unavailable`] if it is not there.
    pub fn load(folder: Option<&Path>) -> Result<Compiler, Error> {
        if !libraries::load(folder) {
            return Err(Error::Unavailable(
                "CUDA's run-time compiler (libnvrtc.so.13 or .12) was not found: install CUDA, or \
                 `pip install nvidia-cuda-nvrtc` and name its folder in LD_LIBRARY_PATH"
                    .to_string(),
            ));
        }
        let mut version = (0, 0);
        // SAFETY: the library is present, and both pointers are to integers of ours.
        let asked = unsafe { sys::nvrtcVersion(&mut version.0, &mut version.1) };
        match asked.result() {
            Ok(()) => Ok(Compiler { version }),
            Err(error) => Err(Error::Unavailable(format!("NVRTC has no version: {error}"))),
        }
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles a kernel to machine code (a cubin) for one architecture, such as `sm_90a`. No
    /// device is needed.
    pub fn compile(&self, kernel: Kernel, architecture: &str) -> Result<Vec<u8>, Error> {
        self.compile_text(kernel.name, kernel.text, architecture)
    }

    fn compile_text(
        &self,
        name: &'static str,
        text: &str,
        architecture: &str,
    ) -> Result<Vec<u8>, Error> {
        let failed = |log: String| Error::Compile {
            kernel: name,
            architecture: architecture.to_string(),
            log,
        };
        let text = CString::new(text).map_err(|e| failed(e.to_string()))?;
        let program =
            Program(result::create_program(&text, None).map_err(|e| failed(e.to_string()))?);
        let mut options = OPTIONS.map(String::from).to_vec();
        options.push(format!("--gpu-architecture={architecture}"));
        // SAFETY: the program is alive until the end of this function, and so is its text.
        let compiled = unsafe { result::compile_program(program.0, &options) };
        if let Err(error) = compiled {
            // SAFETY: as above.
            let log = unsafe { result::get_program_log(program.0) };
            return Err(failed(log.map(text_of).unwrap_or_else(|_| error.to_string())));
        }
        let mut size = 0;
        // SAFETY: the program is alive and compiled; the second call fills `size` bytes.
        let code = unsafe {
            sys::nvrtcGetCUBINSize(program.0, &mut size).result().and_then(|()| {
                let mut code = vec![0u8; size];
                sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()).result()?;
                Ok(code)
            })
        };
        code.map_err(|e| failed(e.to_string()))
    }
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: nobody else destroys it. An error leaves some memory behind, nothing more.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn text_of(log: Vec<c_char>) -> String {
    let bytes: Vec<u8> = log.iter().map(|&c| c as u8).collect();
    let text = CStr::from_bytes_until_nul(&bytes).map(CStr::to_string_lossy);
    text.map(|t| t.trim_end().to_string()).unwrap_or_default()
}

/// A folder of compiled kernels. A file's name holds everything that determines its content
/// (text, options, architecture, compiler), and its first 32 bytes are the digest of the rest: a
/// torn or foreign file is compiled anew, never loaded.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    /// The cache in this folder, which is made when the first kernel is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache(folder.into())
    }

    /// The kernel's machine code: as kept, else compiled and kept. A folder that cannot be written
    /// costs the compilation each time, and no more.
    pub fn cubin(
        &self,
        compiler: &Compiler,
        kernel: Kernel,
        architecture: &str,
    ) -> Result<Vec<u8>, Error> {
        let path = self.path(compiler, kernel, architecture);
        if let Some(code) = fs::read(&path).ok().and_then(checked) {
            return Ok(code);
        }
        let code = compiler.compile(kernel, architecture)?;
        // The caller has what it asked for; see above.
        let _ = keep(&path, &code);
        Ok(code)
    }

    fn path(&self, compiler: &Compiler, kernel: Kernel, architecture: &str) -> PathBuf {
        let mut hash = Sha256::new();
        for part in [kernel.text, architecture].into_iter().chain(OPTIONS) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest: String = hash.finalize()[..12].iter().map(|b| format!("{b:02x}")).collect();
        let (major, minor) = compiler.version;
        let name = kernel.name;
        self.0.join(format!("{name}-{architecture}-nvrtc{major}.{minor}-{digest}.cubin"))
    }
}

fn checked(file: Vec<u8>) -> Option<Vec<u8>> {
    let (digest, code) = file.split_first_chunk::<32>()?;
    (Sha256::digest(code)[..] == digest[..]).then(|| code.to_vec())
}

/// Writes beside and renames, so that of several processes each sees a whole file or none.
fn keep(path: &Path, code: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_extension(format!("{}-{number}.partial", std::process::id()));
    let written = fs::File::create(&beside).and_then(|mut file| {
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)
    });
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests;
