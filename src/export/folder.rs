//! The folder of an export. Everything is written beside it first, into `.NAME.partial`, and moved
//! into place when it is whole; the manifest comes last. Whatever has a manifest is whole.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::{Format, Images, gone::LeftOut};
use crate::cli::BadConfig;

/// The manifest's name in the folder.
pub const MANIFEST: &str = "everpair-export.json";
/// The card's name in the folder.
pub const CARD: &str = "README.md";
/// Where picture files are in the folder.
pub const IMAGES: &str = "images";
/// Where they are beside the folders of tables, one of which is `images`.
pub const PICTURES: &str = "pictures";
const LOCK: &str = ".lock";

/// What is in an export's folder, as its manifest says it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub manifest: u32,
    /// The form of the files.
    pub format: Format,
    /// Whether pictures are in the files or beside them.
    pub images: Images,
    /// The id of the tables that it was made from.
    pub dataset: String,
    /// The epoch that it shows.
    pub epoch: u64,
    /// Rows that are live at that epoch, but for those left out; of `parquet`, rows of all tables.
    pub live_rows: u64,
    /// Rows of the epoch that are not here, because images that they name have gone since.
    #[serde(default)]
    pub left_out: LeftOut,
    /// The whole export, then its increments.
    pub parts: Vec<Part>,
}

/// One run of the command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The epoch that it brought the folder to.
    pub epoch: u64,
    /// The epoch that the folder showed before; none of the first part.
    pub since: Option<u64>,
    /// Rows in its files.
    pub rows: u64,
    /// Its data files.
    pub files: Vec<DataFile>,
    /// Rows of earlier parts that left.
    pub deleted: Option<DataFile>,
}

/// One file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataFile {
    /// Below the folder.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
}

impl Manifest {
    /// The form that this version writes and reads.
    pub const VERSION: u32 = 1;

    fn files(&self) -> impl Iterator<Item = &str> {
        let files = self.parts.iter().flat_map(|part| part.files.iter().chain(&part.deleted));
        files.map(|file| file.path.as_str())
    }
}

/// The folder, and the place beside it where the next state of it is made.
pub struct Folder {
    target: PathBuf,
    partial: PathBuf,
    /// What is there already.
    held: Option<Manifest>,
    /// Held until the end: two exports into one folder would mix.
    _lock: File,
}

impl Folder {
    /// Looks at the folder and takes the place beside it.
    ///
    /// # Errors
    /// The folder holds something that no export made, or another export into it is running.
    pub fn open(to: &Path) -> anyhow::Result<Folder> {
        let shown = to.display();
        let target = std::path::absolute(to).with_context(|| format!("{shown}"))?;
        let named = (target.file_name(), target.parent());
        let (Some(name), Some(parent)) = named else {
            return Err(BadConfig(format!("--to {shown}: name a folder")).into());
        };
        let held = read_manifest(&target)?;
        refuse_strangers(&target, held.as_ref())?;
        let partial = parent.join(format!(".{}.partial", name.to_string_lossy()));
        fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        let lock = partial.join(LOCK);
        let lock = File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another export into {shown} is running"),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", partial.display()));
            }
        }
        let folder = Folder { target, partial, held, _lock: lock };
        folder.empty_partial()?;
        Ok(folder)
    }

    /// Removes what an export that was killed has left.
    fn empty_partial(&self) -> anyhow::Result<()> {
        for name in entries(&self.partial)?.into_iter().filter(|name| name != LOCK) {
            let path = self.partial.join(name);
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// What the folder holds already.
    pub fn held(&self) -> Option<&Manifest> {
        self.held.as_ref()
    }

    /// Where files are written until they are whole.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Whether the folder has a file of this name.
    pub fn has(&self, path: &str) -> bool {
        self.target.join(path).exists()
    }

    /// Puts what was written in the place of what the folder held.
    pub fn replace(self, manifest: &Manifest) -> anyhow::Result<()> {
        write(&self.partial.join(MANIFEST), &to_json(manifest)?)?;
        remove_file(&self.partial.join(LOCK))?;
        let old = self.partial.with_extension("replaced");
        remove_folder(&old)?;
        if self.target.exists() {
            fs::rename(&self.target, &old)
                .with_context(|| format!("move {} away", self.target.display()))?;
        }
        fs::rename(&self.partial, &self.target)
            .with_context(|| format!("move the export to {}", self.target.display()))?;
        remove_folder(&old)
    }

    /// Adds what was written to what the folder holds, and removes what neither manifest names.
    pub fn extend(self, manifest: &Manifest) -> anyhow::Result<()> {
        self.remove_unnamed(manifest)?;
        move_into(&self.partial, &self.target)?;
        let new = self.target.join(format!("{MANIFEST}.new"));
        write(&new, &to_json(manifest)?)?;
        fs::rename(&new, self.target.join(MANIFEST))
            .with_context(|| format!("replace {MANIFEST} in {}", self.target.display()))?;
        remove_folder(&self.partial)
    }

    /// An increment that was killed while it moved its files has left some that no manifest names.
    fn remove_unnamed(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let named: BTreeSet<&str> = manifest.files().collect();
        let data = self.target.join("data");
        let below = if data.is_dir() { entries(&data)? } else { Vec::new() };
        let below = below.into_iter().map(|name| format!("data/{name}"));
        let top = entries(&self.target)?.into_iter().filter(|name| name.starts_with("deleted-"));
        for path in below.chain(top).filter(|path| !named.contains(path.as_str())) {
            remove_file(&self.target.join(path))?;
        }
        Ok(())
    }

    /// Leaves the folder as it is.
    pub fn abandon(self) -> anyhow::Result<()> {
        remove_folder(&self.partial)
    }
}

fn read_manifest(target: &Path) -> anyhow::Result<Option<Manifest>> {
    let path = target.join(MANIFEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let manifest: Manifest = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no manifest of this version", path.display()))?;
    if manifest.manifest != Manifest::VERSION {
        bail!("{} is of version {}", path.display(), manifest.manifest);
    }
    Ok(Some(manifest))
}

/// A folder may be replaced if it is empty, or if all that it holds is an export's.
fn refuse_strangers(target: &Path, held: Option<&Manifest>) -> anyhow::Result<()> {
    if !target.exists() {
        return Ok(());
    }
    let Some(held) = held else {
        if target.is_dir() && entries(target)?.is_empty() {
            return Ok(());
        }
        let why = "is not empty and holds no whole export; name another --to";
        return Err(BadConfig(format!("{} {why}", target.display())).into());
    };
    let files = held.files().filter_map(|path| path.split('/').next());
    let known: BTreeSet<&str> = files.chain([MANIFEST, CARD, IMAGES, PICTURES]).collect();
    let ours = |name: &str| {
        known.contains(name) || name.starts_with("deleted-") || name.starts_with(MANIFEST)
    };
    if let Some(name) = entries(target)?.iter().find(|name| !ours(name)) {
        let why = "which no export made; name another --to";
        return Err(BadConfig(format!("{} holds {name}, {why}", target.display())).into());
    }
    Ok(())
}

fn entries(folder: &Path) -> anyhow::Result<Vec<String>> {
    let read = || -> io::Result<Vec<String>> {
        let names = fs::read_dir(folder)?;
        names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    read().with_context(|| format!("read {}", folder.display()))
}

/// Moves all files below one folder to the same places below another.
fn move_into(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for name in entries(from)?.into_iter().filter(|name| name != LOCK) {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            move_into(&source, &target)?;
        } else {
            fs::rename(&source, &target)
                .with_context(|| format!("move a file to {}", target.display()))?;
        }
    }
    Ok(())
}

fn to_json(manifest: &Manifest) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(manifest)?)
}

/// Writes a file, and the folders that it needs.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    create(path)?;
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

/// Creates an empty file, and the folders that it needs.
pub fn create(path: &Path) -> anyhow::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    File::create(path).with_context(|| format!("create {}", path.display()))
}

fn remove_folder(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
