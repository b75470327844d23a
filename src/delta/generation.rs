//! Generations of writers: each start takes the next free number by creating its name, and leaves
//! there who it is, so that the writer it takes over from can say so.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use schemas::limits;
use serde::{Deserialize, Serialize};

use super::store::Created;
use super::{Error, Result, Store};

const GENERATIONS: &str = "_everpair/generation";

/// Who took a generation. Of the earliest files, which were empty objects, nothing is known.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Taker {
    host: Option<String>,
    pid: Option<u32>,
    started_at: Option<DateTime<Utc>>,
}

impl Taker {
    fn this() -> Taker {
        let named = |path: &str| std::fs::read_to_string(path).ok();
        let host = named("/proc/sys/kernel/hostname").or_else(|| named("/etc/hostname"));
        let host = host.or_else(|| std::env::var("HOSTNAME").ok());
        let host = host.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        Taker { host, pid: Some(std::process::id()), started_at: Some(Utc::now()) }
    }
}

impl fmt::Display for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, ", on host {host}")?;
        }
        if let Some(pid) = self.pid {
            write!(f, ", process {pid}")?;
        }
        if let Some(at) = self.started_at {
            write!(f, ", started {}", at.to_rfc3339_opts(SecondsFormat::Secs, true))?;
        }
        Ok(())
    }
}

pub(super) fn newest(store: &Store) -> Result<Option<u64>> {
    let names = store.list(GENERATIONS, "0")?;
    Ok(names.iter().filter_map(|(name, _)| name.parse::<u64>().ok()).max())
}

/// The first free generation, taken by creating its name.
pub fn take(store: &Store) -> Result<u64> {
    let taker = serde_json::to_string(&Taker::this()).expect("names and numbers are JSON") + "\n";
    let mut generation = newest(store)?.unwrap_or(0) + 1;
    loop {
        match store.create(&format!("{GENERATIONS}/{generation}"), taker.clone().into_bytes()) {
            Created::Yes => return Ok(generation),
            Created::Exists => generation += 1,
            Created::Failed(error) => return Err(error),
        }
    }
}

/// Removes the names of all but the newest generations. Whoever comes to think that a removed one is
/// free finds the tables claimed by a newer one.
pub(super) fn retain(store: &Store) -> Result<usize> {
    let names = store.list(GENERATIONS, "0")?;
    let mut generations: Vec<u64> =
        names.iter().filter_map(|(name, _)| name.parse().ok()).collect();
    generations.sort_unstable();
    let gone = generations.len().saturating_sub(limits::GENERATIONS_KEPT);
    let gone: Vec<String> =
        generations[..gone].iter().map(|at| format!("{GENERATIONS}/{at}")).collect();
    store.delete_all(&gone)?;
    Ok(gone.len())
}

/// An error of the writer of generation `mine`; one that was fenced off is told by whom.
pub fn explained(store: &Store, mine: u64, error: Error) -> Error {
    let Error::Fenced(why) = error else { return error };
    // Whether the store tells or not, the writer has to end.
    let Some(generation) = newest(store).ok().flatten().filter(|newest| *newest > mine) else {
        return Error::Fenced(why);
    };
    let taker = taker(store, generation).unwrap_or_default();
    Error::Fenced(format!(
        "generation {generation}{taker} has taken over from generation {mine} ({why}); of one \
         [tables] root there is one service: this one ends"
    ))
}

/// `Fenced` once a newer writer than `mine` has begun, and `Gone` where `mine` has left nothing.
pub fn check(store: &Store, mine: u64) -> Result<()> {
    match newest(store)? {
        Some(newest) if newest > mine => {
            Err(Error::Fenced(format!("generation {newest} has begun")))
        }
        Some(newest) if newest == mine => Ok(()),
        _ => Err(Error::Gone(format!(
            "_everpair/generation/{mine} of this service has gone: somebody has emptied the root, \
             or the disk or bucket that it is on is another one now. Where it comes back as it \
             was, nothing is lost: start the service again"
        ))),
    }
}

/// Whether the writer of generation `mine` is the newest, by one look at the store.
///
/// # Errors
/// `Fenced` when a newer one has begun, `Gone` when nothing is left of this one, or the store fails.
pub fn check_newest(store: &Store, mine: u64) -> Result<()> {
    check(store, mine).map_err(|error| explained(store, mine, error))
}

fn taker(store: &Store, generation: u64) -> Result<Taker> {
    let page = store.get(&format!("{GENERATIONS}/{generation}"))?;
    Ok(page.and_then(|page| serde_json::from_slice(&page).ok()).unwrap_or_default())
}

/// The newest writer, as far as that is known: `generation 3, on host a, process 1, started …`. It
/// may have ended since.
pub fn newest_writer(store: &Store) -> Result<Option<String>> {
    let Some(generation) = newest(store)? else { return Ok(None) };
    Ok(Some(format!("generation {generation}{}", taker(store, generation)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_writer_says_who_took_over_as_far_as_that_is_known() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::folder(folder.path());
        let store = store.expect("a folder is a store");
        let said = |mine| explained(&store, mine, Error::Fenced("a: b".to_owned())).to_string();
        assert!(said(1).ends_with("a: b"), "nobody is newer: {}", said(1));
        assert_eq!(take(&store).expect("the first"), 1);
        assert!(said(1).ends_with("a: b"), "{}", said(1));
        // As earlier versions wrote it.
        let old = store.create(&format!("{GENERATIONS}/2"), b"{}\n".to_vec());
        assert!(matches!(old, Created::Yes));
        assert!(said(1).contains("generation 2 has taken over from generation 1 (a: b)"));
        assert_eq!(take(&store).expect("the next"), 3);
        let who = format!(", process {}, started 20", std::process::id());
        let said = said(2);
        assert!(said.contains("generation 3, on host ") && said.contains(&who), "{said}");
        let newest = newest_writer(&store).expect("a store").expect("a writer");
        assert!(newest.starts_with("generation 3, on host ") && newest.contains(&who), "{newest}");
        let other = explained(&store, 1, Error::Io("a".to_owned()));
        assert!(matches!(other, Error::Io(_)), "{other}");
    }
}
