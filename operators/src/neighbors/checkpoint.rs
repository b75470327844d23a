//! Lists that outlive the process: handed over at the start, handed out at moments that all shards
//! share. What is written where is not this crate's business.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use schemas::{
    Epoch,
    checkpoint::{Image, Part},
};

use super::Mining;

/// The lists of an earlier process, and where this one's go.
#[derive(Default)]
pub struct State {
    start: Mutex<Start>,
    desk: Mutex<Desk>,
}

/// What every worker reads once; then it is dropped, for it is as large as the lists themselves.
#[derive(Default)]
struct Start {
    remembered: Option<Arc<Remembered>>,
    read_by: usize,
}

/// Which checkpoints are wanted, and who gets their parts.
#[derive(Default)]
struct Desk {
    /// Epochs whose lists are wanted, with the id of the checkpoint.
    wanted: BTreeMap<Epoch, String>,
    /// The id of the one that is made when the input has ended.
    at_end: Option<String>,
    take: Option<Box<dyn Fn(Part) + Send>>,
}

impl State {
    /// Starts with these parts of one checkpoint, if there are any; hands parts to `take`, on the
    /// workers' threads, and with `at_end` those of the last moment too.
    pub fn new(
        start: Option<Remembered>,
        at_end: Option<String>,
        take: impl Fn(Part) + Send + 'static,
    ) -> State {
        let desk = Desk { wanted: BTreeMap::new(), at_end, take: Some(Box::new(take)) };
        let start = Start { remembered: start.map(Arc::new), read_by: 0 };
        State { start: Mutex::new(start), desk: Mutex::new(desk) }
    }

    /// Asks for the lists of `epoch`, of which nothing has entered the dataflow yet. Every worker
    /// hands over its part once the epoch is closed.
    pub fn want(&self, epoch: Epoch, id: String) {
        self.desk().wanted.insert(epoch, id);
    }

    /// What an earlier process left, once for each of `peers` workers.
    pub(super) fn start(&self, peers: usize) -> Option<Arc<Remembered>> {
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        start.read_by += 1;
        if start.read_by < peers { start.remembered.clone() } else { start.remembered.take() }
    }

    /// The oldest checkpoint that is wanted of an epoch from `begun` on and before `next`.
    pub(super) fn wanted(&self, begun: Epoch, next: Epoch) -> Option<(Epoch, String)> {
        let desk = self.desk();
        desk.wanted.range(begun..next).next().map(|(epoch, id)| (*epoch, id.clone()))
    }

    pub(super) fn at_end(&self) -> Option<String> {
        self.desk().at_end.clone()
    }

    pub(super) fn hand_over(&self, part: Part) {
        if let Some(take) = &self.desk().take {
            take(part);
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A whole checkpoint, looked up by image.
pub struct Remembered {
    parts: Vec<Part>,
    images: HashMap<Arc<str>, (u32, u32)>,
}

impl Remembered {
    /// The checkpoint that these parts make. `Err` says why they make none for this mining.
    pub fn new(parts: Vec<Part>, mining: &Mining) -> Result<Remembered, String> {
        let Some(first) = parts.first().map(|part| part.header.clone()) else {
            return Err("it has no parts".into());
        };
        let mut numbers: Vec<u32> = parts.iter().map(|part| part.header.part).collect();
        numbers.sort_unstable();
        if !numbers.into_iter().eq(0..first.parts) {
            return Err(format!("it has {} of {} parts", parts.len(), first.parts));
        }
        let one = |part: &Part| part.header.id == first.id && part.header.epoch == first.epoch;
        if !parts.iter().all(one) {
            return Err("its parts are of several checkpoints".into());
        }
        if parts.iter().any(|part| part.header.rules != mining.rules()) {
            return Err("bands or numbers of neighbours were others".into());
        }
        let mut images = HashMap::new();
        for (p, part) in parts.iter().enumerate() {
            for (i, image) in part.images.iter().enumerate() {
                let bands = |c: usize| mining.bands[c].len();
                let fits = |c: usize| [0, bands(c)].contains(&image.lists[c].len());
                if !(0..3).all(fits) {
                    return Err("an image has lists of other bands".into());
                }
                let id = Arc::from(part.ids[image.id as usize].as_str());
                if images.insert(id, (p as u32, i as u32)).is_some() {
                    return Err("it holds an image twice".into());
                }
            }
        }
        Ok(Remembered { parts, images })
    }

    /// Images that it holds.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The image, if it has these vectors, and the part whose ids its lists' entries stand for.
    pub(super) fn image(&self, image_id: &str, vectors: &[u8; 16]) -> Option<(&Image, usize)> {
        let &(part, image) = self.images.get(image_id)?;
        let image = &self.parts[part as usize].images[image as usize];
        (image.vectors == *vectors).then_some((image, part as usize))
    }

    /// The ids of each part.
    pub(super) fn ids(&self) -> impl Iterator<Item = &[String]> {
        self.parts.iter().map(|part| &*part.ids)
    }
}

impl Mining {
    /// What a list's content depends on beside the images: bands and lengths, as text.
    pub(super) fn rules(&self) -> String {
        format!("{:?} {:?} {}", self.bands, self.neighbors, self.slack)
    }
}
