//! The place of the tables: what a writer needs of it, tried out; and whether it is ours.

use std::{
    path::{Path, PathBuf},
    sync::Barrier,
};

use anyhow::{Context, bail};
use schemas::{config::Config, tables::Table};

use super::{Check, Outcome};
use crate::{
    dataset::{At, Dataset},
    delta::{self, Created, Store},
    service,
};

const PART: &str = "tables";
/// What probes are called; anything else that begins with a dot is none of our business either.
const PROBE: &str = ".everpair-probe-";
/// Rounds of two writers that create one name at once.
const RACES: usize = 3;
/// Free space below which a person should know, in epochs.
const EPOCHS_FREE_MIN: u64 = 4;

/// Refuses a root that holds something else: the tables would stand among a stranger's files, and
/// whoever cleans up after either of them would delete the other.
///
/// # Errors
/// There are files and no tables of ours, or the root cannot be listed.
pub fn refuse_foreign(config: &Config, store: &Store) -> anyhow::Result<()> {
    let root = &config.tables.root;
    let ours = |name: &str| {
        name == "_everpair" || Table::ALL.into_iter().any(|table| table.as_str() == name)
    };
    let foreign = match config.tables.is_remote() {
        true => {
            if !store.list("_everpair/generation", "0")?.is_empty() {
                return Ok(());
            }
            let names = store.first_names(1_000)?;
            let first = names.into_iter().find(|name| !name.starts_with('.'));
            first.filter(|name| !ours(name.split('/').next().unwrap_or(name)))
        }
        false => {
            let entries = std::fs::read_dir(root).with_context(|| root.clone())?;
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let names: Vec<String> = names.collect();
            if names.iter().any(|name| name == "_everpair") {
                return Ok(());
            }
            // A new volume has a folder of its own.
            let known = |name: &String| name.starts_with('.') || name == "lost+found" || ours(name);
            names.into_iter().find(|name| !known(name))
        }
    };
    if let Some(name) = foreign {
        bail!(
            "{root} holds {name:?} and no tables of Everpair: give [tables] root a folder or \
             prefix of its own, such as {}/tables",
            root.trim_end_matches('/')
        );
    }
    Ok(())
}

/// All checks of the root, and the newest epoch if there is one.
pub(super) fn check(config: &Config) -> (Vec<Check>, Option<Dataset>) {
    let root = config.tables.root.as_str();
    let mut checks = Vec::new();
    if !config.tables.is_remote() {
        let path = Path::new(root);
        let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if !there.is_dir() {
            let why = format!("{} is a file, not a folder", there.display());
            return (vec![Check::failed(PART, why)], None);
        }
        checks.push(disk(config, there));
        if there != path {
            checks.insert(0, will_be_created(path, there));
            return (checks, None);
        }
    }
    let store = match service::open_store(config) {
        Ok(store) => store,
        Err(error) => return (vec![Check::failed(PART, format!("{error:#}"))], None),
    };
    let tried = refuse_foreign(config, &store)
        .and_then(|()| try_out(&store).with_context(|| root.to_owned()));
    match tried {
        Ok(()) => {
            let can = "can be written, read, listed, deleted from; a name is created once only, \
                       and of two writers at once one wins";
            checks.insert(0, Check::ok(PART, format!("{root} {can}")));
        }
        Err(error) => {
            let hint = match config.tables.is_remote() && error.is::<delta::Error>() {
                true => ". Does the bucket exist, and is it this endpoint's?",
                false => "",
            };
            checks.insert(0, Check::failed(PART, format!("{error:#}{hint}")));
        }
    }
    let dataset = match delta::read_latest(&store) {
        Ok(None) => {
            if checks.iter().all(|check| check.outcome != Outcome::Failed) {
                checks.push(Check::ok(PART, "no epoch is committed yet: a run begins anew"));
            }
            None
        }
        Ok(Some(latest)) => match Dataset::open(&store, &At::Latest) {
            Ok(dataset) => {
                let epoch = latest.epoch;
                let text = format!("epoch {epoch} is there, the run would go on after it");
                checks.push(Check::ok(PART, text));
                Some(dataset)
            }
            Err(error) => {
                checks.push(Check::failed(PART, format!("{error:#}")));
                None
            }
        },
        Err(error) => {
            // What is wrong with the store has been said.
            if checks.iter().all(|check| check.outcome != Outcome::Failed) {
                checks.push(Check::failed(PART, error.to_string()));
            }
            None
        }
    };
    (checks, dataset)
}

fn probe_name() -> String {
    format!("{PROBE}{}", uuid::Uuid::new_v4().simple())
}

fn will_be_created(path: &Path, there: &Path) -> Check {
    let probe: PathBuf = there.join(probe_name());
    let tried = std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe));
    let (path, there) = (path.display(), there.display());
    match tried {
        Ok(()) => Check::ok(PART, format!("{path} will be created; {there} can be written")),
        Err(error) => {
            Check::failed(PART, format!("{path} cannot be created: {there} is not ours: {error}"))
        }
    }
}

/// Everything that a commit rests on. Probes are deleted however it ends.
fn try_out(store: &Store) -> anyhow::Result<()> {
    let mut probes = Vec::new();
    let tried = try_with(store, &mut probes);
    let deleted = probes.iter().try_for_each(|probe| store.delete(probe));
    tried?;
    deleted.context("cannot be deleted from")?;
    match store.get(&probes[0]).context("cannot be read")? {
        None => Ok(()),
        Some(_) => bail!("what was deleted is still there"),
    }
}

fn try_with(store: &Store, probes: &mut Vec<String>) -> anyhow::Result<()> {
    let first = probe_name();
    probes.push(first.clone());
    match store.create(&first, b"probe".to_vec()) {
        Created::Yes => {}
        Created::Exists => bail!("says that a new name exists already"),
        Created::Failed(error) => return Err(error).context("cannot be written"),
    }
    let back = store.get(&first).context("cannot be read")?;
    if back.as_deref() != Some(b"probe") {
        bail!("wrote \"probe\" and read back {back:?}");
    }
    let once = "two services could overwrite each other's commits: take a store with conditional \
                puts (If-None-Match)";
    match store.create(&first, b"again".to_vec()) {
        Created::Exists => {}
        Created::Yes => bail!("lets a name be created twice; {once}"),
        Created::Failed(error) => return Err(error).context("conditional put"),
    }
    let listed = store.sees(&first).context("cannot be listed")?;
    if !listed {
        bail!("does not list what was just written");
    }
    for _ in 0..RACES {
        let name = probe_name();
        probes.push(name.clone());
        let at_once = Barrier::new(2);
        let wins = std::thread::scope(|scope| {
            let writer = || {
                at_once.wait();
                store.create(&name, b"race".to_vec())
            };
            let both = [scope.spawn(writer), scope.spawn(writer)];
            both.map(|writer| writer.join().expect("a writer only writes"))
        });
        if let Some(Created::Failed(error)) =
            wins.iter().find(|win| matches!(win, Created::Failed(_)))
        {
            bail!("two writers at once: {error}");
        }
        let won = wins.iter().filter(|win| matches!(win, Created::Yes)).count();
        if won != 1 {
            bail!("of two writers at once {won} created one name; {once}");
        }
    }
    Ok(())
}

/// `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (count as f64, 0);
    while number >= 1024.0 && unit + 1 < units.len() {
        (number, unit) = (number / 1024.0, unit + 1);
    }
    match unit {
        0 => format!("{count} bytes"),
        _ => format!("{number:.1} {}", units[unit]),
    }
}

fn disk(config: &Config, folder: &Path) -> Check {
    let free = match rustix::fs::statvfs(folder) {
        Ok(about) => about.f_bavail.saturating_mul(about.f_frsize),
        Err(error) => return Check::note("disk", format!("{}: {error}", folder.display())),
    };
    let text = format!("{} are free in {}", bytes(free), folder.display());
    match free {
        0 => Check::failed("disk", text),
        _ if free < EPOCHS_FREE_MIN * config.epoch.bytes as u64 => {
            Check::note("disk", format!("{text}: room for a few epochs only"))
        }
        _ => Check::ok("disk", text),
    }
}
