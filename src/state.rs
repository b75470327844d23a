//! State checkpoints in the store: written now and then and at the end, read at the start.
//!
//! `_everpair/state/<epoch>-<id>-<part>-of-<parts>.lists`, see [`schemas::checkpoint`]. They are a
//! cache. Whatever is wrong with one is a line in the log, and mining what it would have held.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::Instant,
};

use anyhow::Context;
use operators::neighbors::{Counters, Mining, Remembered, State};
use schemas::{Epoch, checkpoint::Part, limits};
use uuid::Uuid;

use crate::delta::{self, Store};

const FOLDER: &str = "_everpair/state";

/// The newest whole checkpoint that fits this mining.
fn read(store: &Store, mining: &Mining) -> Option<Remembered> {
    let names = match store.list(FOLDER, "") {
        Ok(names) => names.into_iter().map(|(name, _)| name),
        Err(error) => {
            tracing::warn!("state checkpoints cannot be listed: {error}");
            return None;
        }
    };
    let mut checkpoints: BTreeMap<(Epoch, String), Vec<String>> = BTreeMap::new();
    for name in names {
        if let Some((epoch, id)) = parse(&name) {
            checkpoints.entry((epoch, id.to_owned())).or_default().push(name);
        }
    }
    for ((epoch, _), names) in checkpoints.into_iter().rev() {
        match read_one(store, &names, mining) {
            Ok(remembered) => {
                let images = remembered.len();
                tracing::info!(
                    epoch,
                    lists = images,
                    "lists of {images} images come from the state checkpoint of epoch {epoch}"
                );
                return Some(remembered);
            }
            Err(why) => tracing::warn!("the state checkpoint of epoch {epoch} is not used: {why}"),
        }
    }
    None
}

fn read_one(store: &Store, names: &[String], mining: &Mining) -> Result<Remembered, String> {
    let mut parts = Vec::new();
    for name in names {
        let bytes = store.get(&format!("{FOLDER}/{name}")).map_err(|error| error.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("{name} went away"))?;
        parts.push(Part::from_bytes(&bytes).map_err(|why| format!("{name}: {why}"))?);
    }
    Remembered::new(parts, mining)
}

fn parse(name: &str) -> Option<(Epoch, &str)> {
    let mut words = name.strip_suffix(".lists")?.split('-');
    let (epoch, id) = (words.next()?.parse().ok()?, words.next()?);
    Some((epoch, id))
}

/// Without a dash, which separates the words of a name.
fn draw() -> String {
    Uuid::new_v4().simple().to_string()
}

enum Mail {
    Part(Part),
    End,
}

/// Writes what the workers hand over, on a thread of its own.
pub struct Writer {
    state: Arc<State>,
    mail: Sender<Mail>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread, and the workers' state with what an earlier process left. The schedule is
    /// for whoever cuts epochs.
    pub fn start(
        store: Store,
        mining: &Mining,
        counters: Arc<Counters>,
    ) -> anyhow::Result<(Writer, Schedule)> {
        let remembered = read(&store, mining);
        let known = remembered.is_some();
        let (mail, letters) = mpsc::channel();
        let wanted = Arc::new(AtomicBool::new(false));
        let (done, take) = (wanted.clone(), mail.clone());
        let thread = std::thread::Builder::new()
            .name("state".into())
            .spawn(move || write(&store, &letters, &done))
            .context("start the thread of state checkpoints")?;
        let hand = move |part| {
            // A writer that is gone has ended with the process.
            let _ = take.send(Mail::Part(part));
        };
        let state = Arc::new(State::new(remembered, Some(draw()), hand));
        let schedule = Schedule {
            state: state.clone(),
            wanted,
            counters,
            messages: usize::from(!known),
            since: Instant::now(),
            remembered: known,
        };
        Ok((Writer { state, mail, thread }, schedule))
    }

    /// For the dataflow.
    pub fn state(&self) -> Arc<State> {
        self.state.clone()
    }

    /// Waits until all that was handed over is written.
    pub fn finish(self) {
        // A thread that has panicked has said so; a checkpoint is only a cache.
        let _ = self.mail.send(Mail::End);
        let _ = self.thread.join();
    }
}

fn write(store: &Store, letters: &Receiver<Mail>, wanted: &AtomicBool) {
    let mut waiting: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    while let Ok(Mail::Part(part)) = letters.recv() {
        let (id, parts) = (part.header.id.clone(), part.header.parts as usize);
        let here = waiting.entry(id.clone()).or_default();
        here.push(part);
        if here.len() < parts {
            continue;
        }
        let whole = waiting.remove(&id).unwrap_or_default();
        if let Err(error) = put(store, &id, whole) {
            tracing::warn!(
                "a state checkpoint could not be written, the next start may take longer: {error}"
            );
        }
        wanted.store(false, Ordering::Release);
    }
}

/// Writes a checkpoint, then removes the others.
fn put(store: &Store, id: &str, parts: Vec<Part>) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (mut bytes, mut images, mut epoch) = (0, 0, 0);
    for part in parts {
        let header = &part.header;
        let name = format!("{}-{id}-{}-of-{}.lists", header.epoch, header.part, header.parts);
        let content = part.to_bytes();
        (bytes, images, epoch) = (bytes + content.len(), images + part.images.len(), header.epoch);
        store.replace(&format!("{FOLDER}/{name}"), content).with_context(|| name)?;
    }
    for (name, _) in store.list(FOLDER, "")? {
        if parse(&name).is_none_or(|(_, other)| other != id) {
            store.delete(&format!("{FOLDER}/{name}"))?;
        }
    }
    tracing::info!(
        epoch,
        lists = images,
        bytes,
        "state checkpoint of epoch {epoch}: {images} images, {bytes} bytes, {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Takes the ids of images that are not live out of all checkpoints, and removes those that none
/// can read; how many files that are. With `dry_run` it is only said.
///
/// What a list has lost is mined again by the next start, as for any image that has left.
pub fn forget(store: &Store, live: &dyn Fn(&str) -> bool, dry_run: bool) -> delta::Result<u64> {
    let mut changed = 0;
    for (name, _) in store.list(FOLDER, "")? {
        let path = format!("{FOLDER}/{name}");
        let Some(bytes) = store.get(&path)? else { continue };
        let Ok(mut part) = Part::from_bytes(&bytes) else {
            changed += 1;
            if !dry_run {
                store.delete(&path)?;
            }
            continue;
        };
        let gone = |id: &String| !id.is_empty() && !live(id);
        if !part.ids.iter().any(gone) {
            continue;
        }
        changed += 1;
        // No image has an empty id: entries stay in their places, and stand for nobody.
        part.ids.iter_mut().filter(|id| gone(id)).for_each(String::clear);
        let Part { ids, images, .. } = &mut part;
        images.retain(|image| !ids[image.id as usize].is_empty());
        if !dry_run {
            store.replace(&path, part.to_bytes())?;
        }
    }
    Ok(changed)
}

/// Decides when a checkpoint is due.
pub struct Schedule {
    state: Arc<State>,
    /// One is wanted and not written: no other until then.
    wanted: Arc<AtomicBool>,
    counters: Arc<Counters>,
    messages: usize,
    since: Instant,
    /// Whether there is one, of this process or of the one before.
    remembered: bool,
}

impl Schedule {
    /// Whether an epoch should be cut for it even if nothing has come.
    pub fn is_due(&self) -> bool {
        if self.wanted.load(Ordering::Acquire) || self.messages == 0 {
            return false;
        }
        let live: u64 = self.counters.rows.iter().map(|rows| rows.load(Ordering::Relaxed)).sum();
        if !self.remembered {
            // This start has mined everything; the next one need not.
            return live >= limits::STATE_MESSAGES_MIN as u64;
        }
        let many = (live as f64 * limits::STATE_MESSAGES_PER_IMAGE) as usize;
        self.messages >= many.max(limits::STATE_MESSAGES_MIN)
            || self.since.elapsed() >= limits::STATE_INTERVAL
    }

    /// `epoch`, of so many messages, is about to enter the dataflow.
    pub fn cut(&mut self, epoch: Epoch, messages: usize) {
        self.messages += messages;
        if self.is_due() {
            self.wanted.store(true, Ordering::Release);
            self.state.want(epoch, draw());
            (self.messages, self.since, self.remembered) = (0, Instant::now(), true);
        }
    }
}
