//! The tables as a reader opens them: all of them at the versions of one epoch.
//!
//! `_everpair/latest.json` names the newest epoch, `_everpair/epochs/N.json` the earlier ones that
//! are kept, `_everpair/snapshots/NAME.json` those that somebody pinned. Each page names a version
//! of every table; read at these the tables agree with each other.

use std::str::FromStr;

use anyhow::{Context, bail};
use schemas::tables::{Row, Table};

use crate::{
    delta::{self, Latest, Store},
    service::{restore, specs},
};

/// Where pages of earlier epochs are.
pub const EPOCHS: &str = "_everpair/epochs";
/// Where pinned pages are.
pub const SNAPSHOTS: &str = "_everpair/snapshots";

/// Which state of the tables is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// The newest complete epoch.
    #[default]
    Latest,
    /// An epoch: the newest complete one that is not above it.
    Epoch(u64),
    /// What a snapshot pinned.
    Snapshot(String),
}

impl FromStr for At {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<At, Self::Err> {
        Ok(match (text, text.parse()) {
            ("latest", _) => At::Latest,
            (_, Ok(epoch)) => At::Epoch(epoch),
            (name, _) => At::Snapshot(name.to_owned()),
        })
    }
}

/// The tables at one epoch.
pub struct Dataset {
    store: Store,
    page: Latest,
}

impl Dataset {
    /// Finds the page.
    ///
    /// # Errors
    /// There is no committed epoch, the epoch is past the newest one or no longer kept, or no
    /// snapshot has this name; the message says which there are.
    pub fn open(store: &Store, at: &At) -> anyhow::Result<Dataset> {
        let newest = latest(store)?.with_context(|| {
            format!(
                "no tables at {}: nothing was committed there yet; run the service first, or \
                     correct [tables] root",
                store.named()
            )
        })?;
        let page = match at {
            At::Latest => newest,
            At::Epoch(epoch) => page_of_epoch(store, *epoch, newest)?,
            At::Snapshot(name) => page_of_snapshot(store, name)?,
        };
        Ok(Dataset { store: store.clone(), page })
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.page.epoch
    }

    /// Its page: versions, offsets, and the encoders, bands and rules in force.
    pub fn page(&self) -> &Latest {
        &self.page
    }

    /// Where the tables are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// One table at this epoch.
    pub fn table(&self, table: Table) -> anyhow::Result<delta::Table> {
        let name = table.as_str();
        let spec = specs().into_iter().find(|spec| spec.name == name);
        let spec = spec.with_context(|| format!("there is no table {name}"))?;
        let version = self.page.tables.get(name).copied();
        delta::Table::open(&self.store, &spec, version)?
            .with_context(|| format!("table {name} is not there yet"))
    }

    /// All live rows of one table.
    pub fn rows<R: Row>(&self) -> anyhow::Result<Vec<R>> {
        restore::rows(&self.table(R::TABLE)?)
    }
}

/// The page of the newest complete epoch, if there is one.
///
/// # Errors
/// It cannot be read; the message says of which tables.
pub fn latest(store: &Store) -> anyhow::Result<Option<Latest>> {
    delta::read_latest(store).with_context(|| format!("the tables at {}", store.named()))
}

fn read_page(store: &Store, name: &str) -> anyhow::Result<Option<Latest>> {
    let Some(content) = store.get(name)? else { return Ok(None) };
    serde_json::from_slice(&content).with_context(|| format!("read {name}")).map(Some)
}

/// Epochs that have a page, ascending.
pub fn epochs(store: &Store) -> anyhow::Result<Vec<u64>> {
    let names = store.list(EPOCHS, "")?;
    let stems = names.iter().filter_map(|(name, _)| name.strip_suffix(".json")?.parse().ok());
    let mut epochs: Vec<u64> = stems.collect();
    epochs.sort_unstable();
    Ok(epochs)
}

fn page_of_epoch(store: &Store, epoch: u64, latest: Latest) -> anyhow::Result<Latest> {
    if epoch >= latest.epoch {
        if epoch > latest.epoch {
            bail!("epoch {epoch} is not committed yet: the newest one is {}", latest.epoch);
        }
        return Ok(latest);
    }
    let kept = epochs(store)?;
    let at = kept.partition_point(|held| *held <= epoch);
    let Some(held) = at.checked_sub(1).map(|at| kept[at]) else {
        let oldest = kept.first().copied().unwrap_or(latest.epoch);
        bail!("epoch {epoch} is no longer kept: the oldest that is, is {oldest}");
    };
    // Gone between the list and now: retention has moved on.
    read_page(store, &format!("{EPOCHS}/{held}.json"))?
        .with_context(|| format!("epoch {epoch} is no longer kept"))
}

fn page_of_snapshot(store: &Store, name: &str) -> anyhow::Result<Latest> {
    if let Some(page) = read_page(store, &format!("{SNAPSHOTS}/{name}.json"))? {
        return Ok(page);
    }
    let names = store.list(SNAPSHOTS, "")?;
    let names: Vec<&str> = names.iter().filter_map(|(n, _)| n.strip_suffix(".json")).collect();
    match names.as_slice() {
        [] => bail!("there is no snapshot {name:?}, nor any other"),
        names => bail!("there is no snapshot {name:?}; there are {}", names.join(", ")),
    }
}
