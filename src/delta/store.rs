//! An object store behind blocking calls, and Parquet's view of one object.

mod calls;
mod keys;
mod open;
mod why;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart,
};
use parquet::file::reader::{ChunkReader, Length};
use schemas::limits;

pub use self::calls::{Calls, Operation};
pub(super) use self::why::why;
use super::{Error, Result};

/// A bucket, by its URL without a path (`s3://BUCKET`).
pub fn open_bucket(url: &str, settings: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    Ok(open::open(url, settings, limits::FETCH_TIME)?.0)
}

/// How much is fetched at once when a reader asks for little: page headers, narrow columns.
const READ_AHEAD_BYTES: u64 = 256 << 10;

/// Where the tables live: an object store, the prefix that is their root, and the runtime that
/// drives it. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    root: Path,
    /// The root as a person wrote it, for messages.
    named: Arc<str>,
    runtime: Arc<tokio::runtime::Runtime>,
    calls: Arc<Calls>,
}

/// An object as a listing of a folder tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Below the folder.
    pub name: String,
    pub bytes: u64,
    /// By the store's clock, in milliseconds since 1970.
    pub written_ms: i64,
}

/// What became of an attempt to create an object that must not exist.
#[derive(Debug)]
pub enum Created {
    /// It is there now, and this call put it there.
    Yes,
    /// One of its name was there before.
    Exists,
    /// Nobody knows.
    Failed(Error),
}

impl Store {
    /// The tables under a folder, or under the URL of an object store (`s3://bucket/path`, `gs://`,
    /// `az://`); `settings` are that store's, by object_store's names for them.
    pub fn open(root: &str, settings: &BTreeMap<String, String>) -> Result<Store> {
        Store::open_within(root, settings, limits::STORE_RETRY_TIME)
    }

    /// The same; a request that fails is tried again for at most `retry_time`.
    pub fn open_within(
        root: &str,
        settings: &BTreeMap<String, String>,
        retry_time: Duration,
    ) -> Result<Store> {
        if root.contains("://") {
            let (objects, path) = open::open(root, settings, retry_time)?;
            return Ok(Store { named: root.into(), ..Store::new(objects, path)? });
        }
        if let Some(key) = settings.keys().next() {
            let why = format!("[tables.settings] {key}: a folder has no settings");
            return Err(Error::Refused(why));
        }
        Store::folder(FilePath::new(root))
    }

    /// The tables under a folder, which is created when it is missing.
    pub fn folder(root: &FilePath) -> Result<Store> {
        let named =
            |error: &dyn std::fmt::Display| Error::Io(format!("{}: {error}", root.display()));
        std::fs::create_dir_all(root).map_err(|error| named(&error))?;
        let objects = LocalFileSystem::new_with_prefix(root).map_err(|error| named(&error))?;
        let store = Store::new(Arc::new(objects), Path::default())?;
        Ok(Store { named: root.display().to_string().into(), ..store })
    }

    /// The tables under `root` of any object store that can create an object only if it is absent.
    pub fn new(objects: Arc<dyn ObjectStore>, root: Path) -> Result<Store> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("tables")
            .enable_all()
            .build()
            .map_err(|error| Error::Io(format!("no runtime for the store: {error}")))?;
        let named = root.as_ref().into();
        Ok(Store { objects, root, named, runtime: Arc::new(runtime), calls: Arc::default() })
    }

    /// The root as a person wrote it.
    pub fn named(&self) -> &str {
        &self.named
    }

    /// What was asked of this store and its clones.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.root.clone(), |path, part| path.join(part))
    }

    /// The whole object, or `None` where there is none.
    pub fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.path(name);
        let get = async {
            match self.objects.get(&path).await {
                Ok(found) => Ok(Some(found.bytes().await?)),
                Err(error) => absent(error).map(|()| None),
            }
        };
        self.calls.time(Operation::Get, || self.runtime.block_on(get))
    }

    /// When an object was written, in microseconds since 1970, or `None` where there is none.
    pub fn written(&self, name: &str) -> Result<Option<i64>> {
        let path = self.path(name);
        let head = || match self.runtime.block_on(self.objects.head(&path)) {
            Ok(found) => Ok(Some(found.last_modified.timestamp_micros())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        };
        self.calls.time(Operation::Get, head)
    }

    /// Part of an object that must be there.
    pub(super) fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(name);
        let get = self.objects.get_range(&path, range);
        Ok(self.calls.time(Operation::Get, || self.runtime.block_on(get))?)
    }

    /// Writes an object unless one of that name exists.
    pub fn create(&self, name: &str, content: Vec<u8>) -> Created {
        let path = self.path(name);
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        let put = self.objects.put_opts(&path, PutPayload::from(content), options);
        let failed = |created: &Created| matches!(created, Created::Failed(_));
        let put = || match self.runtime.block_on(put) {
            Ok(_) => Created::Yes,
            Err(object_store::Error::AlreadyExists { .. }) => Created::Exists,
            Err(object_store::Error::Precondition { .. }) => Created::Exists,
            Err(error) => Created::Failed(error.into()),
        };
        self.calls.time_if(Operation::Create, put, failed)
    }

    /// Writes an object unless one of that name exists; false where one does.
    ///
    /// # Errors
    /// The store failed, and nobody knows whether it was written.
    pub fn put_new(&self, name: &str, content: Vec<u8>) -> Result<bool> {
        match self.create(name, content.clone()) {
            Created::Yes => Ok(true),
            // An attempt that succeeded unheard is met by its own repetition.
            Created::Exists => Ok(self.get(name)?.is_some_and(|held| held == content)),
            Created::Failed(error) => Err(error),
        }
    }

    /// Writes an object, in place of any that has the name.
    pub fn replace(&self, name: &str, content: Vec<u8>) -> Result<()> {
        let path = self.path(name);
        let put = async {
            if content.len() > limits::STORE_PART_BYTES {
                return self.put_in_parts(&path, content.into()).await;
            }
            self.objects.put(&path, PutPayload::from(content)).await.map(|_| ())
        };
        Ok(self.calls.time(Operation::Replace, || self.runtime.block_on(put))?)
    }

    async fn put_in_parts(&self, path: &Path, content: Bytes) -> object_store::Result<()> {
        let upload = self.objects.put_multipart(path).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, limits::STORE_PART_BYTES);
        for start in (0..content.len()).step_by(limits::STORE_PART_BYTES) {
            // A part that failed is told here; the rest would be sent for nothing.
            if let Err(error) = parts.wait_for_capacity(limits::STORE_PARTS_AT_ONCE).await {
                // What the store keeps of it, it drops by its own rules where this fails too.
                let _ = parts.abort().await;
                return Err(error);
            }
            let end = content.len().min(start + limits::STORE_PART_BYTES);
            parts.put(content.slice(start..end));
        }
        parts.finish().await.map(|_| ())
    }

    /// Removes an object; one that is not there is removed already.
    pub fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        let delete = async {
            match self.objects.delete(&path).await {
                Ok(()) => Ok(()),
                Err(error) => absent(error),
            }
        };
        self.calls.time(Operation::Delete, || self.runtime.block_on(delete))
    }

    /// Several whole objects, in the order of the names, some of them at once.
    pub(super) fn get_all(&self, names: &[String]) -> Result<Vec<Option<Bytes>>> {
        let get = |name: &String| {
            let path = self.path(name);
            async move {
                match self.objects.get(&path).await {
                    Ok(found) => Ok(Some(found.bytes().await?)),
                    Err(error) => absent(error).map(|()| None),
                }
            }
        };
        let all = futures::stream::iter(names).map(get).buffered(limits::STORE_READS_AT_ONCE);
        self.calls.time(Operation::Get, || self.runtime.block_on(all.try_collect()))
    }

    /// Removes objects, in no order; those that are not there are removed already.
    pub(super) fn delete_all(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let paths: Vec<_> = names.iter().map(|name| Ok(self.path(name))).collect();
        let deleted = self.objects.delete_stream(futures::stream::iter(paths).boxed());
        let all = deleted.map(|deleted| deleted.map(|_| ()).or_else(absent));
        let all = all.try_for_each(|()| std::future::ready(Ok(())));
        self.calls.time(Operation::Delete, || self.runtime.block_on(all))
    }

    /// Every object in a folder and below it, by name.
    pub(super) fn list_all(&self, folder: &str) -> Result<Vec<Listed>> {
        let prefix = self.path(folder);
        let list = self.objects.list(Some(&prefix)).try_collect::<Vec<ObjectMeta>>();
        let listed = self.calls.time(Operation::List, || self.runtime.block_on(list))?;
        let below = |meta: ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&prefix)?.collect();
            let name = parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>().join("/");
            let written_ms = meta.last_modified.timestamp_millis();
            Some(Listed { name, bytes: meta.size, written_ms })
        };
        let mut listed: Vec<Listed> = listed.into_iter().filter_map(below).collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Every object under the root, by name, with its size.
    pub fn objects(&self) -> Result<Vec<(String, u64)>> {
        let root = (!self.root.as_ref().is_empty()).then_some(&self.root);
        let list = self.objects.list(root).try_collect::<Vec<ObjectMeta>>();
        let listed = self.calls.time(Operation::List, || self.runtime.block_on(list))?;
        let below = |meta: ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&self.root)?.collect();
            let name = parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>().join("/");
            Some((name, meta.size))
        };
        let mut objects: Vec<(String, u64)> = listed.into_iter().filter_map(below).collect();
        objects.sort();
        Ok(objects)
    }

    /// The size of an object, or `None` where there is none.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        let path = self.path(name);
        let head = || match self.runtime.block_on(self.objects.head(&path)) {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        };
        self.calls.time(Operation::Get, head)
    }

    /// The names of some objects anywhere under the root, below it, `most` of them.
    pub fn first_names(&self, most: usize) -> Result<Vec<String>> {
        let root = (!self.root.as_ref().is_empty()).then_some(&self.root);
        let listed = self.objects.list(root).take(most).try_collect::<Vec<ObjectMeta>>();
        let listed = self.runtime.block_on(listed)?;
        let below = |meta: ObjectMeta| {
            let parts = meta.location.prefix_match(&self.root)?;
            Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
        };
        Ok(listed.into_iter().filter_map(below).collect())
    }

    /// Whether a listing names an object that is directly under the root.
    pub fn sees(&self, name: &str) -> Result<bool> {
        let path = self.path(name);
        // A listing that begins just before it need not pass over what there is else.
        let before = self.path(&name[..name.len().saturating_sub(1)]);
        let root = (!self.root.as_ref().is_empty()).then_some(&self.root);
        let mut listed = self.objects.list_with_offset(root, &before);
        self.runtime.block_on(async {
            while let Some(meta) = listed.try_next().await? {
                if meta.location == path {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Names (last path segment) and sizes of the objects directly in a folder whose name sorts
    /// after `after`, sorted.
    pub fn list(&self, folder: &str, after: &str) -> Result<Vec<(String, u64)>> {
        let (prefix, offset) = (self.path(folder), self.path(folder).join(after));
        let list = async {
            let listed = self.objects.list_with_offset(Some(&prefix), &offset);
            listed.try_collect::<Vec<ObjectMeta>>().await
        };
        let listed = self.calls.time(Operation::List, || self.runtime.block_on(list))?;
        let direct = prefix.parts().count() + 1;
        let mut names: Vec<(String, u64)> = listed
            .into_iter()
            .filter(|meta| meta.location.parts().count() == direct)
            .filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.size)))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// An object that is not there is no error; a bucket that is not, is.
fn absent(error: object_store::Error) -> Result<()> {
    match error {
        object_store::Error::NotFound { .. } if !why::is_no_bucket(&error) => Ok(()),
        error => Err(error.into()),
    }
}

/// One object as Parquet's reader wants it: random access over range requests with read-ahead.
pub(super) struct ObjectReader {
    store: Store,
    name: String,
    size: u64,
    window: Mutex<(u64, Bytes)>,
}

impl ObjectReader {
    pub(super) fn new(store: Store, name: String, size: u64) -> Self {
        ObjectReader { store, name, size, window: Mutex::new((0, Bytes::new())) }
    }

    /// Of an object whose content is here already.
    pub(super) fn held(store: Store, name: String, content: Bytes) -> Self {
        ObjectReader { store, name, size: content.len() as u64, window: Mutex::new((0, content)) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `length` bytes from `start`, from the window where it holds them.
    fn bytes(&self, start: u64, length: u64) -> Result<Bytes> {
        let end = start + length;
        if end > self.size {
            return Err(Error::Unreadable(format!("{}: ends before byte {end}", self.name)));
        }
        let mut window = self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (from, held) = &*window;
        if start < *from || end > from + held.len() as u64 {
            let ahead = end.max((start + READ_AHEAD_BYTES).min(self.size));
            *window = (start, self.store.get_range(&self.name, start..ahead)?);
        }
        let (from, held) = &*window;
        let skip = usize::try_from(start - from).expect("a window fits memory");
        let length = usize::try_from(length).expect("a window fits memory");
        if held.len() < skip + length {
            return Err(Error::Unreadable(format!("{}: is shorter than its log says", self.name)));
        }
        Ok(held.slice(skip..skip + length))
    }
}

impl Length for ObjectReader {
    fn len(&self) -> u64 {
        self.size
    }
}

/// A sequential reader from an offset, for page headers of unknown length.
pub(super) struct Cursor {
    store: Store,
    name: String,
    at: u64,
    size: u64,
    held: Bytes,
}

impl Read for Cursor {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.held.is_empty() && self.at < self.size {
            let end = (self.at + READ_AHEAD_BYTES).min(self.size);
            let fetched = self.store.get_range(&self.name, self.at..end);
            self.held = fetched.map_err(std::io::Error::other)?;
            self.at = end;
        }
        let count = into.len().min(self.held.len());
        into[..count].copy_from_slice(&self.held.split_to(count));
        Ok(count)
    }
}

impl ChunkReader for ObjectReader {
    type T = Cursor;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Cursor> {
        let ahead = READ_AHEAD_BYTES.min(self.size.saturating_sub(start));
        let held = self.get_bytes(start, usize::try_from(ahead).expect("a window fits memory"))?;
        let (store, name) = (self.store.clone(), self.name.clone());
        Ok(Cursor { store, name, at: start + ahead, size: self.size, held })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.bytes(start, length as u64);
        bytes.map_err(|error| parquet::errors::ParquetError::External(Box::new(error)))
    }
}
