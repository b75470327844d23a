//! One try to get an object of a bucket.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use schemas::reject::Reason;
use url::Url;

use super::{Body, Clock, Failure};
use crate::delta;

/// The buckets that were asked so far. There are no more than the config names.
pub struct Objects {
    settings: BTreeMap<String, String>,
    open: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Objects {
    /// Buckets of the stores that `settings` describe.
    pub fn new(settings: &BTreeMap<String, String>) -> Objects {
        Objects { settings: settings.clone(), open: Mutex::default() }
    }

    /// Reads one object.
    pub async fn get(&self, url: &Url, clock: &mut Clock, body: &mut Body) -> Result<(), Failure> {
        let failed = |why: String| Failure::Final(Reason::FetchFailed, why);
        let bucket = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        let store = self.bucket(&bucket).map_err(failed)?;
        let path = Path::from_url_path(url.path()).map_err(|e| failed(e.to_string()))?;
        let found = clock.run(store.get(&path)).await?.map_err(broken)?;
        body.announced(found.meta.size)?;
        let mut chunks = found.into_stream();
        while let Some(chunk) = clock.run(chunks.next()).await? {
            body.take(&chunk.map_err(broken)?).await?;
        }
        Ok(())
    }

    fn bucket(&self, url: &str) -> Result<Arc<dyn ObjectStore>, String> {
        let Ok(mut open) = self.open.lock() else { return Err("another request panicked".into()) };
        if let Some(store) = open.get(url) {
            return Ok(store.clone());
        }
        let store = delta::open_bucket(url, &self.settings).map_err(|e| e.to_string())?;
        open.insert(url.to_owned(), store.clone());
        Ok(store)
    }
}

fn broken(error: object_store::Error) -> Failure {
    use object_store::Error::{
        InvalidPath, NotFound, NotSupported, PermissionDenied, Unauthenticated,
    };
    match error {
        NotFound { .. } => Failure::Final(Reason::FetchFailed, "there is no such object".into()),
        PermissionDenied { .. }
        | Unauthenticated { .. }
        | NotSupported { .. }
        | InvalidPath { .. } => Failure::Final(Reason::FetchFailed, error.to_string()),
        error => Failure::Again(error.to_string(), None),
    }
}
