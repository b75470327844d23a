//! Finding NVIDIA's libraries where the dynamic linker does not look.

use std::path::Path;
use std::sync::Mutex;

/// Where CUDA's own installers and distributions put libraries without telling the linker.
const FOLDERS: [&str; 3] =
    ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib", "/opt/cuda/lib64"];

/// NVRTC opens its builtins by name, so they come with it.
const NAMES: [&str; 3] = ["libnvrtc.so.", "libnvrtc-builtins.so.", "libcublasLt.so."];

/// Libraries that were loaded by path; a later load by name finds them. They are never unloaded:
/// others hold pointers into them.
static LOADED: Mutex<Vec<libloading::Library>> = Mutex::new(Vec::new());

/// Makes the compiler's library, and cuBLASLt's, known to this process: from `folder` if given,
/// else by the linker's own paths, else from the usual folders. Whether NVRTC can be used then.
pub(super) fn load(folder: Option<&Path>) -> bool {
    if let Some(folder) = folder {
        load_all(folder);
    } else if !present() {
        FOLDERS.iter().map(Path::new).filter(|f| f.is_dir()).for_each(load_all);
    }
    present()
}

fn present() -> bool {
    // SAFETY: this only loads the library, whose constructors are NVIDIA's.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

fn load_all(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if NAMES.iter().any(|start| name.starts_with(start)) {
            // SAFETY: as in `present`. A file that is no library is an error, and of no use.
            if let Ok(library) = unsafe { libloading::Library::new(&path) } {
                LOADED.lock().unwrap_or_else(|e| e.into_inner()).push(library);
            }
        }
    }
}
