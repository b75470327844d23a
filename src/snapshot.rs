//! `everpair snapshot`: epochs pinned by a name, for training runs that must be able to come back to
//! the same rows.
//!
//! A snapshot is the epoch's page under `_everpair/snapshots/NAME.json`, with the time and a note.
//! Retention of epoch pages does not touch these, and whoever removes files of tables asks
//! [`pinned`] which versions must stay readable. A take-down goes before a pin: [`losses`] tells
//! which images of a snapshot may no longer be used, and no export has them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
};

use anyhow::{Context, bail};
use chrono::{SecondsFormat, Utc};
use clap::Subcommand;
use schemas::{
    reject::Reason,
    tables::{BlockedRow, RejectRow, Table},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    cli::{BadConfig, read_config},
    dataset::{At, Dataset, SNAPSHOTS},
    delta::{Latest, Store},
    errln, outln,
    service::open_tables,
};

/// Longest name.
const NAME_BYTES_MAX: usize = 64;

/// What the command can do.
#[derive(Subcommand, Debug)]
pub enum SnapshotCommand {
    /// Pins an epoch.
    Create {
        /// Letters, digits, `.`, `_` and `-`, at most 64; no number, and not `latest`.
        name: String,
        /// The config file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What to pin.
        #[arg(long, value_name = "EPOCH|SNAPSHOT|latest", default_value = "latest")]
        at: At,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// What is pinned, and how many of its images have been taken down since.
    List {
        /// The config file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// JSON on stdout, with the ids of the images that were taken down.
        #[arg(long)]
        json: bool,
    },
    /// Unpins: what no other snapshot and no kept epoch needs may then be removed.
    Drop {
        /// The name.
        name: String,
        /// The config file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// A pinned epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was pinned, RFC 3339 in UTC.
    pub created_at: String,
    /// What it is for, in the words of whoever pinned it.
    pub note: Option<String>,
    /// Images that it had then, of which a collection removes those that were taken down. None in
    /// pages from before this was told.
    pub images_pinned: Option<u64>,
    /// The epoch's page: versions, offsets, and what was in force.
    #[serde(flatten)]
    pub page: Latest,
}

/// Images of a snapshot that are no longer to be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Images of the snapshot.
    pub images: usize,
    /// Those that a tombstone or a block took down since, though another picture may have been sent
    /// under their id; ids, ascending.
    pub taken_down: Vec<String>,
    /// Those that did not stay live because a later message of theirs was turned away, whether or
    /// not a tombstone or another picture followed; ids, ascending.
    pub turned_away: Vec<String>,
}

impl Losses {
    /// All of them: images that have not been live all the time since, or that are blocked.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.taken_down.iter().chain(&self.turned_away).map(String::as_str)
    }
}

impl Snapshot {
    /// How many images were removed from it, by what is found in it now.
    fn collected(&self, found: &Losses) -> Option<u64> {
        Some(self.images_pinned?.saturating_sub(found.images as u64))
    }
}

fn path(name: &str) -> String {
    format!("{SNAPSHOTS}/{name}.json")
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(known) {
        let why = format!(
            "{name:?} cannot name a snapshot: 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ and -"
        );
        return Err(BadConfig(why).into());
    }
    if name == "latest" || name.chars().all(|c| c.is_ascii_digit()) {
        let why = format!("{name:?} cannot name a snapshot: it would be read as an epoch");
        return Err(BadConfig(why).into());
    }
    Ok(())
}

/// Pins the epoch that `at` names.
///
/// # Errors
/// A name that is none ([`BadConfig`]) or is taken, or an epoch that is not there or no longer
/// readable.
pub fn create(
    store: &Store,
    name: &str,
    at: &At,
    note: Option<String>,
) -> anyhow::Result<Snapshot> {
    check_name(name)?;
    let pinned = Dataset::open(store, at)?;
    let mut page = pinned.page().clone();
    // What the snapshot that this one is made of says of itself is not the epoch's.
    for name in ["created_at", "note", "images_pinned"] {
        page.info.remove(name);
    }
    let images_pinned = Some(pinned.table(Table::Images)?.rows()?);
    let created_at = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let snapshot = Snapshot { created_at, note, images_pinned, page };
    let content = serde_json::to_vec_pretty(&snapshot).context("write a snapshot")?;
    if !store.put_new(&path(name), content).context("write a snapshot")? {
        bail!("there is a snapshot {name:?} already: drop it first, or take another name");
    }
    // Whoever removes files asks for what is pinned before it begins. Had it begun before this name
    // was there, the tables could lack what they need from here on.
    let readable = || -> anyhow::Result<()> {
        let dataset = Dataset::open(store, &At::Snapshot(name.to_owned()))?;
        Table::ALL.into_iter().try_for_each(|table| dataset.table(table).map(|_| ()))
    };
    if let Err(error) = readable() {
        store.delete(&path(name))?;
        return Err(error.context("the tables can no longer be read at that epoch"));
    }
    Ok(snapshot)
}

/// All snapshots with their names, by name.
pub fn list(store: &Store) -> anyhow::Result<Vec<(String, Snapshot)>> {
    let mut snapshots = Vec::new();
    for (file, _) in store.list(SNAPSHOTS, "")? {
        let Some(name) = file.strip_suffix(".json") else { continue };
        // Dropped since it was listed.
        let Some(content) = store.get(&path(name))? else { continue };
        let read = serde_json::from_slice(&content);
        let read = read.with_context(|| {
            let page = path(name);
            format!("read {page} (damaged? `everpair snapshot drop {name}` gives it up)")
        });
        snapshots.push((name.to_owned(), read?));
    }
    Ok(snapshots)
}

/// Unpins a snapshot.
///
/// # Errors
/// There is none of that name; the message says which there are.
pub fn drop(store: &Store, name: &str) -> anyhow::Result<()> {
    // Whatever its page says, which may be damaged.
    if store.get(&path(name))?.is_none() {
        // Says which there are.
        Dataset::open(store, &At::Snapshot(name.to_owned()))?;
    }
    Ok(store.delete(&path(name))?)
}

/// Versions that snapshots pin, by table name: their files must stay, take-downs excepted.
pub fn pinned(store: &Store) -> anyhow::Result<BTreeMap<String, BTreeSet<u64>>> {
    let mut pinned: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for (_, snapshot) in list(store)? {
        for (table, version) in snapshot.page.tables {
            pinned.entry(table).or_default().insert(version);
        }
    }
    Ok(pinned)
}

#[derive(Deserialize)]
struct Held {
    image_id: String,
    content_id: String,
    source: Option<String>,
    since: Option<String>,
}

#[derive(Deserialize)]
struct Live {
    image_id: String,
    since: Option<String>,
}

/// Some columns of a table's rows.
fn columns<R: DeserializeOwned>(
    dataset: &Dataset,
    table: Table,
    columns: &[&str],
) -> anyhow::Result<Vec<R>> {
    let open = dataset.table(table)?;
    let mut rows = Vec::new();
    for batch in open.scan(Some(columns))? {
        let read: Vec<R> = serde_arrow::from_record_batch(&batch?)
            .with_context(|| format!("read table {}", table.as_str()))?;
        rows.extend(read);
    }
    Ok(rows)
}

/// What is true now, for comparison with any number of snapshots.
struct Now {
    /// With `since`.
    live: HashMap<String, Option<String>>,
    blocked: HashSet<(String, String)>,
    /// Images with the newest epoch in which a message of theirs was turned away, for another
    /// reason than that it is blocked.
    turned_away: BTreeMap<String, i64>,
}

impl Now {
    fn read(store: &Store) -> anyhow::Result<Now> {
        let latest = Dataset::open(store, &At::Latest)?;
        let live = columns::<Live>(&latest, Table::Images, &["image_id", "since"])?;
        let blocked = latest.rows::<BlockedRow>()?.into_iter().map(|row| (row.kind, row.value));
        let mut turned_away = BTreeMap::new();
        for row in latest.rows::<RejectRow>()? {
            let blocked = [Reason::Blocked, Reason::Benchmark].map(Reason::as_str);
            let Some(id) = row.image_id.filter(|_| !blocked.contains(&row.reason.as_str())) else {
                continue;
            };
            let newest = turned_away.entry(id).or_insert(row.epoch);
            *newest = row.epoch.max(*newest);
        }
        let live = live.into_iter().map(|row| (row.image_id, row.since)).collect();
        Ok(Now { live, blocked: blocked.collect(), turned_away })
    }

    fn blocks(&self, image: &Held) -> bool {
        let is =
            |kind: &str, value: &str| self.blocked.contains(&(kind.to_owned(), value.to_owned()));
        is("id", &image.image_id)
            || is("content", &image.content_id)
            || image.source.as_deref().is_some_and(|source| is("source", source))
    }

    fn losses(&self, snapshot: &Dataset) -> anyhow::Result<Losses> {
        let images: Vec<Held> =
            columns(snapshot, Table::Images, &["image_id", "content_id", "source", "since"])?;
        let mut losses = Losses { images: images.len(), ..Losses::default() };
        for image in images {
            let turned_away = self.turned_away.get(&image.image_id);
            let since = u64::try_from(*turned_away.unwrap_or(&0)).unwrap_or(0);
            if self.blocks(&image) {
                losses.taken_down.push(image.image_id);
            } else if self.live.get(&image.image_id) == Some(&image.since) {
                // Perhaps with another picture by now: a message that replaces takes nothing down.
                continue;
            } else if since > snapshot.epoch() {
                losses.turned_away.push(image.image_id);
            } else {
                losses.taken_down.push(image.image_id);
            }
        }
        losses.taken_down.sort();
        losses.turned_away.sort();
        Ok(losses)
    }
}

/// What of an epoch has gone since.
pub fn losses(dataset: &Dataset) -> anyhow::Result<Losses> {
    Now::read(dataset.store())?.losses(dataset)
}

/// All snapshots by name, each with what of it has gone since.
pub fn all_losses(store: &Store) -> anyhow::Result<Vec<(String, Snapshot, Losses)>> {
    let snapshots = list(store)?;
    if snapshots.is_empty() {
        return Ok(Vec::new());
    }
    let now = Now::read(store)?;
    let mut all = Vec::new();
    for (name, snapshot) in snapshots {
        let dataset = Dataset::open(store, &At::Snapshot(name.clone()))?;
        let losses = now.losses(&dataset).with_context(|| format!("read snapshot {name}"))?;
        all.push((name, snapshot, losses));
    }
    Ok(all)
}

/// Runs the command.
pub fn run(command: &SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Create { name, config, at, note } => {
            let store = open_tables(&read_config(config)?)?;
            let snapshot = create(&store, name, at, note.clone())?;
            errln!("snapshot {name} pins epoch {}", snapshot.page.epoch);
            Ok(())
        }
        SnapshotCommand::List { config, json } => {
            let store = open_tables(&read_config(config)?)?;
            show(&store, *json)
        }
        SnapshotCommand::Drop { name, config } => {
            let store = open_tables(&read_config(config)?)?;
            drop(&store, name)?;
            errln!("snapshot {name} is dropped");
            Ok(())
        }
    }
}

fn show(store: &Store, json: bool) -> anyhow::Result<()> {
    let all = all_losses(store)?;
    if all.is_empty() {
        if json {
            outln!("[]");
        }
        errln!("there is no snapshot");
        return Ok(());
    }
    if json {
        let each = all.iter().map(|(name, snapshot, losses)| {
            json!({
                "name": name,
                "epoch": snapshot.page.epoch,
                "created_at": snapshot.created_at,
                "note": snapshot.note,
                "tables": snapshot.page.tables,
                "images": losses.images,
                "collected": snapshot.collected(losses),
                "taken_down": losses.taken_down,
                "turned_away": losses.turned_away,
            })
        });
        outln!("{:#}", serde_json::Value::Array(each.collect()));
        return Ok(());
    }
    let width = all.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max("name".len());
    outln!("{:<width$} {:>8} {:<27} {:>9}  note", "name", "epoch", "created", "images");
    for (name, snapshot, losses) in &all {
        let (epoch, created) = (snapshot.page.epoch, &snapshot.created_at);
        let note = snapshot.note.as_deref().unwrap_or("");
        outln!("{name:<width$} {epoch:>8} {created:<27} {:>9}  {note}", losses.images);
    }
    for (name, snapshot, losses) in &all {
        let (down, away) = (losses.taken_down.len(), losses.turned_away.len());
        if down > 0 {
            outln!(
                "{name}: {down} of its images have been taken down since: a training run should \
                 drop them (ids with --json)"
            );
        }
        if let Some(gone @ 1..) = snapshot.collected(losses) {
            outln!(
                "{name}: {gone} more were taken down, and gc has removed them: it no longer shows \
                 them (table changes names the triplets that left)"
            );
        }
        if away > 0 {
            outln!(
                "{name}: {away} of its images are no longer live because a later message of theirs \
                 was turned away, see rejects (ids with --json)"
            );
        }
    }
    Ok(())
}
