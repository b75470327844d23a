//! A random history of images that come, are replaced, come twice, are taken down and blocked, with
//! snapshots in between; what of it must be nowhere, worked out from what was sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use everpair::{
    dataset::{At, Dataset},
    delta::Store,
    gc::{kept::Kept, proof},
    scenes, snapshot,
};
use schemas::{
    ContentId,
    tables::{
        AnnotationRow, ChangeRow, ContentRow, EmbeddingRow, ImageRow, PairRow, RejectRow, Row,
        TripletRow,
    },
};

use super::search::{Needle, hay, holds};
use crate::service::place::{Dice, Message, Place, files};

const CONFIG: &str = "[contents]\nstore = \"original\"\n[epoch]\nrows = 16\nlinger = \"50 ms\"\n";

/// An image as it was sent once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    id: String,
    content: String,
    caption: String,
    bytes: Vec<u8>,
}

/// What was sent, and what should be live.
pub struct History {
    pub place: Place,
    seed: u64,
    dice: Dice,
    next: usize,
    live: BTreeMap<String, Sent>,
    ever: BTreeSet<Sent>,
    blocked: BTreeSet<String>,
    steps: usize,
    /// How many came back as another picture.
    pub back: usize,
    /// Images of snapshots, by name, less those that were taken down since.
    pinned: BTreeMap<String, Vec<Sent>>,
}

impl History {
    pub fn new(seed: u64) -> History {
        println!("seed {seed}");
        let place = Place::new();
        place.configure("tables", CONFIG);
        let dice = Dice(seed);
        let (live, ever, blocked, pinned) = Default::default();
        History { place, seed, dice, next: 0, live, ever, blocked, steps: 0, back: 0, pinned }
    }

    /// A picture that was never sent, with words that stand in no other caption.
    fn sent(&mut self, id: &str) -> (Sent, Message) {
        let scene = scenes::replacement(self.next % 40, self.next as u64, self.seed);
        self.next += 1;
        let caption =
            format!("{} word{:04}q{}", scene.caption.unwrap_or_default(), self.next, self.seed);
        let content = ContentId::of(&scene.jpeg_or_png).hex();
        let bytes = scene.jpeg_or_png;
        self.carries(Sent { id: id.to_owned(), content, caption, bytes })
    }

    fn carries(&self, sent: Sent) -> (Sent, Message) {
        let headers = vec![("caption".to_owned(), sent.caption.clone())];
        let message = Message { key: sent.id.clone(), value: Some(sent.bytes.clone()), headers };
        (sent, message)
    }

    fn come(&mut self, (sent, message): (Sent, Message)) {
        self.place.log().send([message]);
        if !self.blocked.contains(&sent.id) && !self.blocked.contains(&sent.content) {
            self.live.insert(sent.id.clone(), sent.clone());
            self.ever.insert(sent);
        } else {
            self.goes(&sent.id);
        }
    }

    /// No longer live, and no snapshot is to show what it was, whatever comes under its id.
    fn goes(&mut self, id: &str) {
        self.live.remove(id);
        self.pinned.values_mut().for_each(|pinned| pinned.retain(|sent| sent.id != id));
    }

    fn some_live(&mut self) -> Option<Sent> {
        let at = self.dice.below(self.live.len().max(1));
        self.live.values().nth(at).cloned()
    }

    /// Some messages, caught up with.
    pub fn step(&mut self) {
        let fresh = if self.steps == 0 { 40 } else { 8 };
        for _ in 0..fresh {
            let sent = self.sent(&format!("image-{:05}-{}", self.next, self.seed));
            self.come(sent);
        }
        for _ in 0..if self.steps == 0 { 0 } else { 18 } {
            let Some(held) = self.some_live() else { continue };
            match self.dice.below(6) {
                0 => {
                    let sent = self.sent(&held.id);
                    self.come(sent);
                }
                1 => {
                    let other = self.sent(&held.id).0;
                    let sent = self.carries(Sent { caption: other.caption, ..held });
                    self.come(sent);
                }
                2 => {
                    let id = format!("image-{:05}-{}-too", self.next, self.seed);
                    let sent = self.carries(Sent { id, ..held });
                    self.come(sent);
                }
                3 => self.come(self.carries(held)),
                // Down, and another picture under the same id: at once, or epochs later.
                4 => {
                    self.take_down(&held.id);
                    if self.dice.below(2) == 0 {
                        self.place.catch_up("tables");
                    }
                    let sent = self.sent(&held.id);
                    self.come(sent);
                    self.back += 1;
                }
                _ => self.take_down(&held.id),
            }
        }
        // One that many rows name goes each time, and of two equal ones only one.
        if let (true, Some(held)) = (self.steps > 0, self.some_live()) {
            let id = format!("image-{:05}-{}-two", self.next, self.seed);
            let sent = self.carries(Sent { id, ..held.clone() });
            self.come(sent);
            self.place.catch_up("tables");
            self.take_down(&held.id);
        }
        if self.steps == 2 {
            self.block();
        }
        self.place.catch_up("tables");
        if self.steps == 0 || self.steps == 2 {
            let name = format!("pin-{}", self.steps);
            self.place.everpair("tables", &["snapshot", "create", &name]).ended(0);
            self.pinned.insert(name, self.live.values().cloned().collect());
        }
        self.steps += 1;
        let ids: BTreeSet<String> =
            self.place.tables("tables").images.into_iter().map(|row| row.image_id).collect();
        assert_eq!(ids, self.live.keys().cloned().collect(), "as it was sent");
    }

    /// One image more, which nobody waits for.
    pub fn send_one(&mut self) {
        let sent = self.sent(&format!("image-{:05}-{}", self.next, self.seed));
        self.come(sent);
    }

    fn take_down(&mut self, id: &str) {
        self.place.log().send([Message::tombstone(id)]);
        self.goes(id);
    }

    fn block(&mut self) {
        let (Some(one), Some(other)) = (self.some_live(), self.some_live()) else { return };
        let block = ["takedown", "--block", "--kind"];
        for (kind, value) in [("id", one.id), ("content", other.content)] {
            self.place.everpair("tables", &[&block[..], &[kind, &value]].concat()).ended(0);
            let hit = self.live.values().filter(|sent| sent.id == value || sent.content == value);
            let hit: Vec<String> = hit.map(|sent| sent.id.clone()).collect();
            hit.iter().for_each(|id| self.goes(id));
            self.blocked.insert(value);
        }
    }

    /// A request to block a live image, which nobody waits for.
    pub fn block_one(&mut self) {
        let id = self.live.keys().next().expect("something is live").clone();
        self.place.everpair("tables", &["takedown", "--block", &id]).ended(0);
        self.goes(&id);
        self.blocked.insert(id);
    }

    /// What was collected is sent again: it is stored and embedded anew.
    pub fn one_comes_back(&mut self) {
        let dead = self.gone(|sent| &sent.content);
        let back = self.ever.iter().find(|sent| {
            dead.contains(&sent.content)
                && !self.blocked.contains(&sent.content)
                && !self.blocked.contains(&sent.id)
        });
        let back = back.cloned().expect("something has gone");
        let content = back.content.clone();
        let count = |place: &Place| {
            let contents = place.rows::<ContentRow>("tables").into_iter();
            let vectors = place.rows::<EmbeddingRow>("tables").into_iter();
            let contents = contents.filter(|row| row.content_id == content).count();
            (contents, vectors.filter(|row| row.content_id == content).count())
        };
        assert_eq!(count(&self.place), (0, 0));
        let sent = self.carries(back);
        self.come(sent);
        self.place.catch_up("tables");
        assert_eq!(count(&self.place), (1, 2));
    }

    pub fn live_ids(&self) -> BTreeSet<String> {
        self.live.keys().cloned().collect()
    }

    /// What stays of what was sent: live, or in a snapshot and not taken down since.
    fn stays(&self) -> impl Iterator<Item = &Sent> {
        let blocked =
            |sent: &Sent| self.blocked.contains(&sent.id) || self.blocked.contains(&sent.content);
        let pinned = self.pinned.values().flatten().filter(move |sent| !blocked(sent));
        self.live.values().chain(pinned)
    }

    /// Values that nothing that stays has.
    fn gone(&self, of: impl Fn(&Sent) -> &String) -> BTreeSet<String> {
        let stays: BTreeSet<&String> = self.stays().map(&of).collect();
        self.ever.iter().map(&of).filter(|value| !stays.contains(value)).cloned().collect()
    }

    /// What must be nowhere, outside of `changes`, `rejects` and `blocked`.
    pub fn sought(&self) -> Vec<Needle> {
        let needle = |kind, bytes: &[u8]| Needle { kind, bytes: bytes.to_vec() };
        let mut needles = Vec::new();
        let contents = self.gone(|sent| &sent.content);
        for id in self.gone(|sent| &sent.id) {
            // As a whole: other ids begin like it.
            if !self.live.keys().any(|other| other.contains(&id)) {
                needles.push(needle("id", id.as_bytes()));
            }
        }
        for content in &contents {
            needles.push(needle("content", content.as_bytes()));
        }
        for caption in self.gone(|sent| &sent.caption) {
            let word = caption.rsplit(' ').next().expect("it has words");
            needles.push(needle("caption", word.as_bytes()));
            let text = ContentId::of(caption.trim().as_bytes()).hex();
            needles.push(needle("caption's id", text.as_bytes()));
        }
        for sent in self.ever.iter().filter(|sent| contents.contains(&sent.content)) {
            // Pictures of one family may be alike in places.
            let middle = &sent.bytes[sent.bytes.len() / 2..][..48];
            if !self.stays().any(|other| holds(&other.bytes, middle)) {
                needles.push(needle("bytes", middle));
            }
        }
        needles
    }

    /// What of it is found.
    pub fn traces(&self) -> Vec<Needle> {
        let hay = hay(&self.place.path("tables"));
        let may =
            |name: &str| ["changes/", "rejects/", "blocked/"].iter().any(|t| name.starts_with(t));
        let mut found = Vec::new();
        for needle in self.sought() {
            let place = hay.iter().find(|(name, hay)| !may(name) && holds(hay, &needle.bytes));
            if let Some((name, _)) = place {
                if found.len() < 20 {
                    println!("{:?} in {name}", String::from_utf8_lossy(&needle.bytes));
                }
                found.push(needle);
            }
        }
        found
    }

    pub fn contents_of_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let all = files(&self.place.path("tables")).into_iter();
        all.map(|(path, _)| (path.clone(), fs::read(path).expect("a file"))).collect()
    }

    /// The state checkpoint.
    pub fn state(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let all = self.contents_of_files().into_iter();
        all.filter(|(path, _)| path.extension().is_some_and(|end| end == "lists")).collect()
    }

    /// What readers see at the newest epoch and in every snapshot.
    pub fn shown(&self) -> Shown {
        let store = self.place.store("tables");
        let pins = snapshot::list(&store).expect("snapshots").into_iter();
        let pins = pins.map(|(name, _)| (name.clone(), Rows::read(&store, &At::Snapshot(name))));
        Shown { newest: Rows::read(&store, &At::Latest), pins: pins.collect() }
    }

    /// Starts a collection and kills it; false if it was over by then.
    pub fn killed_after(&self, delay: Duration) -> bool {
        let mut command = self.place.command("tables", &["gc", "--take-over"]);
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(delay);
        let over = child.try_wait().expect("a child can be asked").is_some();
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        !over
    }

    /// Every object as it is now, under its name.
    pub fn keep_old_objects(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.contents_of_files()
    }

    /// What the proof finds once one old object that it should find is back.
    pub fn found_with(&self, old: &BTreeMap<PathBuf, Vec<u8>>, of: &str) -> Vec<String> {
        let root = self.place.path("tables");
        let folder = root.join(of);
        let gone = old.iter().filter(|(path, _)| {
            path.parent() == Some(&folder) && !path.exists() && path.extension().is_some()
        });
        let mut put: Vec<PathBuf> = Vec::new();
        for (path, bytes) in gone {
            fs::write(path, bytes).expect("it can be put back");
            put.push(path.clone());
        }
        if put.is_empty() {
            fs::write(&folder, "word").expect("a file of somebody else");
            put.push(folder);
        }
        let store = self.place.store("tables");
        let kept = Kept::read(&store).expect("what may stay");
        let proof = proof::scan(&store, &kept).expect("a proof");
        put.into_iter().for_each(|path| fs::remove_file(path).expect("it can be removed"));
        assert_eq!(proof.findings_count > 0, !proof.findings.is_empty());
        proof.findings
    }
}

/// The rows of one epoch.
#[derive(Clone, Debug, PartialEq)]
struct Rows {
    images: BTreeMap<String, ImageRow>,
    pairs: Vec<PairRow>,
    triplets: BTreeMap<String, TripletRow>,
    changes: Vec<ChangeRow>,
    rejects: Vec<RejectRow>,
    contents: BTreeMap<String, ContentRow>,
    embeddings: Vec<EmbeddingRow>,
    annotations: HashMap<String, AnnotationRow>,
}

impl Rows {
    fn read(store: &Store, at: &At) -> Rows {
        fn of<R: Row>(dataset: &Dataset) -> Vec<R> {
            dataset.rows::<R>().expect("rows that can be read")
        }
        let all = Dataset::open(store, at).expect("a page");
        let mut pairs: Vec<PairRow> = of(&all);
        pairs.sort_by(|a, b| (&a.query_id, &a.target_id).cmp(&(&b.query_id, &b.target_id)));
        let (mut changes, mut rejects): (Vec<ChangeRow>, Vec<RejectRow>) = (of(&all), of(&all));
        changes.sort();
        rejects.sort();
        let mut embeddings: Vec<EmbeddingRow> = of(&all);
        embeddings.sort();
        let annotations = of::<AnnotationRow>(&all).into_iter();
        let contents = of::<ContentRow>(&all).into_iter();
        Rows {
            images: of::<ImageRow>(&all).into_iter().map(|r| (r.image_id.clone(), r)).collect(),
            pairs,
            triplets: of::<TripletRow>(&all)
                .into_iter()
                .map(|row| (row.triplet_id.clone(), row))
                .collect(),
            changes,
            rejects,
            contents: contents.map(|row| (row.content_id.clone(), row)).collect(),
            embeddings,
            annotations: annotations.map(|row| (row.request_id.clone(), row)).collect(),
        }
    }

    /// Without the images that are not among `live`, and with the memo of `after` as far as the
    /// images that are left need it.
    fn losing(&self, lost: &BTreeSet<String>, live: &BTreeSet<String>, after: &Rows) -> Rows {
        let mut rows = self.clone();
        rows.images.retain(|id, _| !lost.contains(id));
        let stays = |query: &str, target: &str, negatives: &[String]| {
            let back = negatives.iter().any(|id| lost.contains(id) && live.contains(id));
            !lost.contains(query) && !lost.contains(target) && !back
        };
        rows.pairs.retain(|row| stays(&row.query_id, &row.target_id, &row.hard_negatives));
        rows.triplets.retain(|_, row| stays(&row.query_id, &row.target_id, &row.hard_negatives));
        let pairs = rows.pairs.iter_mut().map(|row| &mut row.hard_negatives);
        let negatives = pairs.chain(rows.triplets.values_mut().map(|row| &mut row.hard_negatives));
        negatives.for_each(|ids| ids.retain(|id| !lost.contains(id)));
        // Of the memo more may have gone; not what is needed, and nothing is new.
        for (id, row) in &after.contents {
            assert_eq!(self.contents.get(id), Some(row));
        }
        for row in rows.images.values() {
            assert!(after.contents.contains_key(&row.content_id), "{}", row.image_id);
            let vectors = after.embeddings.iter().filter(|v| v.content_id == row.content_id);
            assert_eq!(vectors.count(), 2, "{}", row.image_id);
            let caption = row.caption.as_deref().unwrap_or_default().trim();
            let caption = ContentId::of(caption.as_bytes()).hex();
            let vectors = after.embeddings.iter().filter(|v| v.content_id == caption);
            assert_eq!(vectors.count(), 1, "{}", row.image_id);
        }
        assert!(after.embeddings.iter().all(|row| self.embeddings.contains(row)));
        for row in rows.triplets.values() {
            let held = &self.annotations[&row.request_id];
            assert_eq!(after.annotations.get(&row.request_id), Some(held));
        }
        rows.contents = after.contents.clone();
        rows.embeddings = after.embeddings.clone();
        rows.annotations = after.annotations.clone();
        rows
    }
}

/// What readers see.
pub struct Shown {
    newest: Rows,
    pins: BTreeMap<String, Rows>,
}

impl Shown {
    /// What should be seen once what is not live has gone.
    pub fn losing(&self, live: &BTreeSet<String>, back: usize, after: &Shown) -> Shown {
        let none = BTreeSet::new();
        let pins = self.pins.iter().map(|(name, rows)| {
            let after = &after.pins[name];
            let lost = rows.images.keys().filter(|id| !after.images.contains_key(*id));
            let lost: BTreeSet<String> = lost.cloned().collect();
            let dead = rows.images.keys().filter(|id| !live.contains(*id));
            assert!(dead.clone().count() > 0 && dead.clone().all(|id| lost.contains(id)));
            // Besides what is live as something else: it was taken down in between, or is blocked.
            assert!(lost.len() <= dead.count() + back + 3, "{name}: {lost:?}");
            (name.clone(), rows.losing(&lost, live, after))
        });
        Shown { newest: self.newest.losing(&none, live, &after.newest), pins: pins.collect() }
    }

    /// Of a collection that was killed: all tables of an epoch can be read, the newest is as it was,
    /// and snapshots show nothing that they did not.
    pub fn losing_some(&self, live: &BTreeSet<String>, after: &Shown) {
        let none = BTreeSet::new();
        let newest = self.newest.losing(&none, live, &after.newest);
        assert!(newest == after.newest, "the newest epoch has changed");
        for (name, rows) in &self.pins {
            let after = &after.pins[name];
            let stays = |id: &&String| {
                let since = self.newest.images.get(*id).map(|row| &row.since);
                live.contains(*id) && since == Some(&rows.images[*id].since)
            };
            for id in rows.images.keys().filter(stays) {
                assert_eq!(after.images.get(id), rows.images.get(id), "{name}");
            }
            assert!(after.images.iter().all(|(id, row)| rows.images.get(id) == Some(row)));
            let key = |row: &PairRow| (row.query_id.clone(), row.target_id.clone());
            let before: BTreeSet<_> = rows.pairs.iter().map(key).collect();
            assert!(after.pairs.iter().all(|row| before.contains(&key(row))), "{name}");
        }
    }

    pub fn same_as(&self, other: &Shown) {
        let all = |shown: &Shown| -> Vec<(String, Rows)> {
            let newest = [("newest".to_owned(), shown.newest.clone())];
            newest.into_iter().chain(shown.pins.clone()).collect()
        };
        for ((name, rows), (_, others)) in all(self).into_iter().zip(all(other)) {
            assert_eq!(rows.images, others.images, "{name}");
            assert_eq!(rows.pairs, others.pairs, "{name}");
            assert_eq!(rows.triplets, others.triplets, "{name}");
            assert!(rows == others, "{name}");
        }
    }
}
