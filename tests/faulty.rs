//! An object store that fails on purpose: a call may or may not happen, and may or may not be
//! reported (four outcomes), may end its caller's life, may happen long after it was given up, or
//! may be the moment in which a rival lives.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Clone, Debug)]
pub enum Fault {
    /// Does not happen, and an error says so.
    Lost,
    /// Happens, and an error says that it failed.
    Unreported,
    /// The caller dies: this call happens or not, no later one does.
    Crash { happened: bool },
    /// An error says that it failed, and so many calls later it happens.
    Late { calls: u64 },
}

type LatePut = (u64, Path, PutPayload, PutOptions);

/// What all writers share: the objects, and puts still on their way.
pub struct World {
    objects: Arc<dyn ObjectStore>,
    clock: AtomicU64,
    late: Mutex<Vec<LatePut>>,
}

impl World {
    pub fn new(objects: Arc<dyn ObjectStore>) -> Arc<World> {
        Arc::new(World { objects, clock: AtomicU64::new(0), late: Mutex::new(Vec::new()) })
    }

    /// The same objects for a caller to whom nothing happens.
    pub fn calm(self: &Arc<World>) -> Arc<dyn ObjectStore> {
        Arc::new(Faulty::new(self.clone(), Vec::new()))
    }

    async fn tick(&self) {
        let now = self.clock.fetch_add(1, Ordering::SeqCst);
        let due: Vec<LatePut> = {
            let mut late = self.late.lock().unwrap();
            let (due, rest) = late.drain(..).partition(|put| put.0 <= now);
            *late = rest;
            due
        };
        for (_, path, payload, options) in due {
            // Whoever asked for it is no longer there to hear of it.
            let _ = self.objects.put_opts(&path, payload, options).await;
        }
    }
}

type Rival = Box<dyn FnOnce() + Send>;

/// One writer's view of the world.
pub struct Faulty {
    world: Arc<World>,
    faults: Vec<(usize, Fault)>,
    calls: Arc<AtomicUsize>,
    dead: AtomicBool,
    rival: Mutex<Option<(usize, Rival)>>,
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "failed on purpose".into() }
}

impl Faulty {
    pub fn new(world: Arc<World>, faults: Vec<(usize, Fault)>) -> Faulty {
        let (calls, dead) = (Arc::default(), AtomicBool::new(false));
        Faulty { world, faults, calls, dead, rival: Mutex::new(None) }
    }

    pub fn with_rival(self, call: usize, rival: impl FnOnce() + Send + 'static) -> Faulty {
        *self.rival.lock().unwrap() = Some((call, Box::new(rival)));
        self
    }

    pub fn counter(&self) -> Arc<AtomicUsize> {
        self.calls.clone()
    }

    /// Counts a call and says what is to happen to it.
    async fn call(&self) -> Result<Option<Fault>> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(broken());
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        self.world.tick().await;
        let rival = self.rival.lock().unwrap().take_if(|(at, _)| *at <= call);
        if let Some((_, rival)) = rival {
            std::thread::spawn(rival).join().unwrap();
        }
        let fault = self.faults.iter().find(|(at, _)| *at == call).map(|(_, fault)| fault.clone());
        if let Some(Fault::Crash { .. }) = fault {
            self.dead.store(true, Ordering::SeqCst);
        }
        Ok(fault)
    }

    /// A call that changes nothing works or does not.
    async fn read(&self) -> Result<()> {
        if self.call().await?.is_some() { Err(broken()) } else { Ok(()) }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let objects = &self.world.objects;
        match self.call().await? {
            None => objects.put_opts(location, payload, options).await,
            Some(Fault::Lost | Fault::Crash { happened: false }) => Err(broken()),
            Some(Fault::Unreported | Fault::Crash { happened: true }) => {
                let _ = objects.put_opts(location, payload, options).await;
                Err(broken())
            }
            Some(Fault::Late { calls }) => {
                let due = self.world.clock.load(Ordering::SeqCst) + calls;
                let put = (due, location.clone(), payload, options);
                self.world.late.lock().unwrap().push(put);
                Err(broken())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.world.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read().await?;
        self.world.objects.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read().await?;
        self.world.objects.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        // Of several objects some may go and others not.
        let part = match futures::executor::block_on(self.call()) {
            Ok(None) => return self.world.objects.delete_stream(locations),
            Ok(Some(Fault::Unreported | Fault::Crash { happened: true })) => usize::MAX,
            _ => 0,
        };
        let world = self.world.clone();
        let deleted = async move {
            let all: Vec<Result<Path>> = locations.collect().await;
            let some = all.len().div_ceil(2).min(part);
            let some: Vec<Result<Path>> = all.into_iter().take(some).collect();
            let some = world.objects.delete_stream(futures::stream::iter(some).boxed());
            let _: Vec<_> = some.collect().await;
            Err(broken())
        };
        futures::stream::once(deleted).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match futures::executor::block_on(self.read()) {
            Ok(()) => self.world.objects.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read().await?;
        self.world.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.world.objects.copy_opts(from, to, options).await
    }
}
