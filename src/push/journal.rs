//! What was acknowledged, so that a push that was cut off goes on where it was.
//!
//! The file says of each input which of its things are done, by their number. It is replaced as a
//! whole, and only ever behind the truth: what is not in it is sent again, which changes nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const SAVE_EVERY: Duration = Duration::from_millis(500);

/// Numbers, as half-open ranges by their beginnings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Done(BTreeMap<u64, u64>);

impl From<Vec<(u64, u64)>> for Done {
    fn from(ranges: Vec<(u64, u64)>) -> Done {
        Done(ranges.into_iter().filter(|(begin, end)| begin < end).collect())
    }
}

impl From<Done> for Vec<(u64, u64)> {
    fn from(done: Done) -> Vec<(u64, u64)> {
        done.0.into_iter().collect()
    }
}

impl Done {
    /// Whether a number is in it.
    pub fn has(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    /// Adds a number.
    pub fn add(&mut self, number: u64) {
        if self.has(number) {
            return;
        }
        let before = self.0.range(..=number).next_back().map(|(b, e)| (*b, *e));
        let begin = before.filter(|(_, end)| *end == number).map_or(number, |(begin, _)| begin);
        let end = self.0.remove(&(number + 1)).unwrap_or(number + 1);
        self.0.insert(begin, end);
    }

    /// How many there are from 0 on without a gap.
    pub fn prefix(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pages {
    version: u32,
    target: String,
    inputs: Vec<Page>,
}

/// One input.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Page {
    name: String,
    fingerprint: String,
    done: Done,
    /// Images among the done ones.
    images: u64,
}

/// The journal of one push.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    pages: Pages,
    saved: Instant,
    changed: bool,
}

impl Journal {
    /// Opens the file, or begins it. `inputs` are names and fingerprints; one that changed begins
    /// anew, and its name is given back.
    pub fn open(
        path: &Path,
        target: &str,
        inputs: Vec<(String, String)>,
    ) -> anyhow::Result<(Journal, Vec<String>)> {
        let named = || format!("the journal {}", path.display());
        let old: Option<Pages> = match fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).with_context(named),
            Ok(text) => Some(serde_json::from_slice(&text).with_context(named)?),
        };
        if let Some(old) = &old {
            if old.version != VERSION {
                bail!("{}: of version {}, this is {VERSION}: remove it", named(), old.version);
            }
            if old.target != target {
                let (old, named) = (&old.target, named());
                bail!(
                    "{named} is of a push to {old}, this one goes to {target}: name another file"
                );
            }
        }
        let old = old.map_or(Vec::new(), |old| old.inputs);
        let mut changed = Vec::new();
        let page = |(name, fingerprint): (String, String)| {
            let before = old.iter().find(|page| page.name == name);
            match before.filter(|page| page.fingerprint == fingerprint) {
                Some(page) => page.clone(),
                None => {
                    changed.extend(before.map(|_| name.clone()));
                    Page { name, fingerprint, done: Done::default(), images: 0 }
                }
            }
        };
        let inputs = inputs.into_iter().map(page).collect();
        let pages = Pages { version: VERSION, target: target.to_owned(), inputs };
        let path = path.to_owned();
        let mut journal = Journal { path, pages, saved: Instant::now(), changed: true };
        // What cannot be written is told before anything is sent.
        journal.save()?;
        Ok((journal, changed))
    }

    /// What is done of an input.
    pub fn done(&self, input: usize) -> &Done {
        &self.pages.inputs[input].done
    }

    /// How many images of an input are done.
    pub fn images(&self, input: usize) -> u64 {
        self.pages.inputs[input].images
    }

    /// A thing of an input needs nothing more.
    pub fn add(&mut self, (input, number): (usize, u64), image: bool) -> anyhow::Result<()> {
        let page = &mut self.pages.inputs[input];
        page.done.add(number);
        page.images += u64::from(image);
        self.changed = true;
        if self.saved.elapsed() >= SAVE_EVERY { self.save() } else { Ok(()) }
    }

    /// Writes it.
    pub fn save(&mut self) -> anyhow::Result<()> {
        if !self.changed {
            return Ok(());
        }
        let named = || format!("the journal {}", self.path.display());
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let text = serde_json::to_vec(&self.pages)?;
        let mut file = File::create(&new).with_context(named)?;
        // On the disk before it has the name, or a crash could leave an empty file of that name.
        file.write_all(&text).and_then(|()| file.sync_data()).with_context(named)?;
        fs::rename(&new, &self.path).with_context(named)?;
        self.saved = Instant::now();
        self.changed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(numbers in proptest::collection::vec(0u64..40, 0..60)) {
            let (mut done, mut set) = (Done::default(), BTreeSet::new());
            for number in numbers {
                done.add(number);
                set.insert(number);
                let back: Done = serde_json::from_value(serde_json::to_value(&done).unwrap()).unwrap();
                prop_assert_eq!(&back, &done);
                for number in 0..41 {
                    prop_assert_eq!(done.has(number), set.contains(&number));
                }
                let prefix = (0..41).find(|n| !set.contains(n)).unwrap();
                prop_assert_eq!(done.prefix(), prefix);
                let gaps = set.iter().filter(|n| !set.contains(&(*n + 1))).count();
                prop_assert_eq!(done.0.len(), gaps);
            }
        }
    }

    #[test]
    fn what_was_done_is_found_again_unless_the_input_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let inputs = |print: &str| vec![("a".into(), "1".into()), ("b".into(), print.into())];
        let (mut journal, changed) = Journal::open(&path, "t", inputs("1")).unwrap();
        assert!(changed.is_empty());
        journal.add((0, 3), true).unwrap();
        journal.add((1, 0), false).unwrap();
        journal.save().unwrap();
        let (journal, changed) = Journal::open(&path, "t", inputs("2")).unwrap();
        assert_eq!(changed, ["b"]);
        assert!(journal.done(0).has(3) && !journal.done(1).has(0));
        assert_eq!((journal.images(0), journal.images(1)), (1, 0));
        assert!(Journal::open(&path, "other", inputs("1")).is_err());
        fs::write(&path, "torn").unwrap();
        assert!(Journal::open(&path, "t", inputs("1")).is_err());
    }
}
