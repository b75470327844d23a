//! `[fetch]`: whose bytes the service may get for messages that have a `uri` and no image.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
    time::Duration,
};

use serde::Deserialize;

use super::{Invalid, byte_count, duration};
use crate::limits;

/// `[fetch]`. Nothing is fetched unless its scheme is in `schemes`, and its host, bucket or folder
/// is named too.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fetch {
    /// Schemes that are fetched.
    pub schemes: Vec<Scheme>,
    /// For `https` and `http`: hosts, exact, `*.example.org` (what is below it), or `*`.
    pub hosts: Vec<String>,
    /// For `s3`, `gs` and `az`: buckets (containers), exact.
    pub buckets: Vec<String>,
    /// For `file`: folders; what is below them, links followed, may be read.
    pub folders: Vec<String>,
    /// Those of `hosts` that may have an address inside a private network, or on this machine.
    pub private_hosts_allowed: Vec<String>,
    /// Most bytes of one image; the limit of `[screen]` unless it is said.
    #[serde(deserialize_with = "some_bytes")]
    pub bytes_max: Option<usize>,
    /// Longest time for one try, from the name to the last byte.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// Tries, where another one may help.
    pub attempts: usize,
    /// Requests to one host or bucket at once.
    pub per_host: usize,
    /// Requests at once.
    pub in_flight: usize,
    /// Turn away what its owner marked with `X-Robots-Tag: noai` (`noimageai`, `noindex`,
    /// `noimageindex`).
    pub respect_opt_out: bool,
    /// Settings of the object stores (`endpoint`, `region`, …), passed through as they are.
    pub settings: BTreeMap<String, String>,
}

impl Default for Fetch {
    fn default() -> Self {
        Fetch {
            schemes: Vec::new(),
            hosts: Vec::new(),
            buckets: Vec::new(),
            folders: Vec::new(),
            private_hosts_allowed: Vec::new(),
            bytes_max: None,
            timeout: limits::FETCH_TIME,
            attempts: limits::FETCH_ATTEMPTS,
            per_host: limits::FETCH_PER_HOST,
            in_flight: limits::FETCH_IN_FLIGHT,
            respect_opt_out: true,
            settings: BTreeMap::new(),
        }
    }
}

/// `[fetch] schemes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP with TLS.
    Https,
    /// HTTP without.
    Http,
    /// An S3 bucket.
    S3,
    /// A Google Cloud Storage bucket.
    Gs,
    /// An Azure Blob container.
    Az,
    /// A file of this machine.
    File,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Scheme; 6] =
        [Scheme::Https, Scheme::Http, Scheme::S3, Scheme::Gs, Scheme::Az, Scheme::File];

    /// As it stands before `://`.
    pub fn as_str(self) -> &'static str {
        ["https", "http", "s3", "gs", "az", "file"][self as usize]
    }
}

impl Fetch {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let has = |schemes: &[Scheme]| self.schemes.iter().any(|s| schemes.contains(s));
        let lists = [
            ("hosts", &self.hosts, "https or http", has(&[Scheme::Https, Scheme::Http])),
            ("buckets", &self.buckets, "s3, gs or az", has(&[Scheme::S3, Scheme::Gs, Scheme::Az])),
            ("folders", &self.folders, "file", has(&[Scheme::File])),
        ];
        for (name, list, schemes, wanted) in lists {
            if wanted == list.is_empty() {
                return Err(Invalid(match wanted {
                    true => format!("[fetch] {name} is empty, so nothing of {schemes} is fetched"),
                    false => format!("[fetch] {name} needs {schemes} in schemes"),
                }));
            }
        }
        for host in self.hosts.iter().chain(&self.private_hosts_allowed) {
            let name = host.strip_prefix("*.").unwrap_or(host);
            if name.is_empty() || name != "*" && name.contains(['*', '/', '@']) {
                let forms = "a host, \"*.example.org\" or \"*\", without scheme, path or user";
                return Err(Invalid(format!("[fetch] {host:?}: must be {forms}")));
            }
        }
        if let Some(bad) = self.buckets.iter().find(|b| b.is_empty() || b.contains(['*', '/'])) {
            return Err(Invalid(format!("[fetch] buckets: {bad:?} must be a bucket's name")));
        }
        for folder in &self.folders {
            let path = Path::new(folder);
            if folder.is_empty() || path.components().any(|part| part == Component::ParentDir) {
                let how = "write the folder itself, from / on or from the config's folder on";
                return Err(Invalid(format!(
                    "[fetch] folders: {folder:?} must have no \"..\": {how}"
                )));
            }
        }
        if self.timeout.is_zero() || self.timeout > limits::FETCH_TIME_MAX {
            let max = limits::FETCH_TIME_MAX;
            return Err(Invalid(format!("[fetch] timeout: must be above 0 and at most {max:?}")));
        }
        let range = |name: &str, value: usize, high: usize| match (1..=high).contains(&value) {
            true => Ok(()),
            false => Err(Invalid(format!("[fetch] {name} = {value}: must be 1 to {high}"))),
        };
        range("attempts", self.attempts, 10)?;
        range("per_host", self.per_host, limits::FETCH_IN_FLIGHT_MAX)?;
        range("in_flight", self.in_flight, limits::FETCH_IN_FLIGHT_MAX)?;
        range("bytes_max", self.bytes_max.unwrap_or(1), 1 << 30)
    }
}

fn some_bytes<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<usize>, D::Error> {
    byte_count(deserializer).map(Some)
}
