//! One try to read a file below an allowed folder.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use schemas::reject::Reason;
use url::Url;

use super::{Body, Clock, Failure};

/// The folders that may be read.
pub struct Folders(pub Vec<PathBuf>);

impl Folders {
    /// Reads one file.
    pub async fn get(&self, url: &Url, clock: &mut Clock, body: &mut Body) -> Result<(), Failure> {
        let path = url.to_file_path().map_err(|()| not_allowed("is no path".into()))?;
        let (folders, max) = (self.0.clone(), body.max);
        let reading = tokio::task::spawn_blocking(move || read(&folders, &path, max));
        let bytes = match clock.run(reading).await? {
            Ok(read) => read?,
            Err(panicked) => return Err(failed(&io::Error::other(panicked))),
        };
        body.take(&bytes).await
    }
}

fn not_allowed(why: String) -> Failure {
    Failure::Final(Reason::UriNotAllowed, why)
}

fn failed(error: &io::Error) -> Failure {
    Failure::Final(Reason::FetchFailed, error.to_string())
}

/// At most one byte more than `max`.
fn read(folders: &[PathBuf], path: &Path, max: usize) -> Result<Vec<u8>, Failure> {
    // Links and `..` are resolved first: what counts is where the file is.
    let real = match path.canonicalize() {
        Ok(real) => real,
        // Not even whether it exists is told of what is outside.
        Err(_) if !inside(folders, path) => return Err(outside(path)),
        Err(error) => return Err(failed(&error)),
    };
    if !inside(folders, &real) {
        return Err(outside(path));
    }
    let about = real.metadata().map_err(|error| failed(&error))?;
    // A pipe would wait for its writer.
    if !about.is_file() {
        return Err(failed(&io::Error::other("is no regular file")));
    }
    let mut bytes = Vec::new();
    let file = File::open(&real).map_err(|error| failed(&error))?;
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    Ok(bytes)
}

fn inside(folders: &[PathBuf], path: &Path) -> bool {
    let plain = path.components().all(|part| part != std::path::Component::ParentDir);
    let below = |folder: &PathBuf| {
        let real = folder.canonicalize();
        path.starts_with(folder) || real.is_ok_and(|real| path.starts_with(real))
    };
    plain && folders.iter().any(below)
}

fn outside(path: &Path) -> Failure {
    not_allowed(format!("{} is in none of [fetch] folders", path.display()))
}
