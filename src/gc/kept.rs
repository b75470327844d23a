//! What may stay: the live images with their contents, captions and answers, and those that a
//! snapshot rightly shows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Context;
use schemas::{
    ContentId, caption_text,
    tables::{AnnotationRow, ImageRow, Table, request_id},
};

use crate::{
    captions,
    dataset::{At, Dataset},
    delta::{Key, Store},
    snapshot,
};

/// What may stay, as the newest epoch and the snapshots have it.
pub struct Kept {
    /// The epoch.
    pub epoch: u64,
    /// Images that are live.
    live: HashSet<Key>,
    /// Images as they are or as a snapshot shows them: id, content, caption.
    images: HashSet<Key>,
    contents: HashSet<ContentId>,
    captions: HashSet<ContentId>,
    /// What a model may have read of a content beside its picture.
    texts: HashMap<ContentId, BTreeSet<Option<String>>>,
    /// Live images that a version shows as something that was blocked since, by table and version.
    hidden: BTreeMap<(Table, u64), HashSet<Key>>,
    /// By name, how many images of a snapshot are no longer to be used.
    pub lost: BTreeMap<String, usize>,
    /// Versions that each snapshot pins, by its name and the table's.
    pub snapshots: BTreeMap<String, BTreeMap<String, u64>>,
}

fn image_key(id: &str, content: &str, caption: Option<&str>) -> Key {
    match caption {
        None => Key::of(&[id, content]),
        Some(caption) => Key::of(&[id, content, caption]),
    }
}

impl Kept {
    /// Reads the newest epoch and all snapshots.
    pub fn read(store: &Store) -> anyhow::Result<Kept> {
        let mut kept = Kept::live(store)?;
        kept.take_snapshots(store)?;
        Ok(kept)
    }

    /// Reads the newest epoch alone: what its live images need.
    pub fn live(store: &Store) -> anyhow::Result<Kept> {
        let newest = Dataset::open(store, &At::Latest)?;
        let mut kept = Kept {
            epoch: newest.epoch(),
            live: HashSet::new(),
            images: HashSet::new(),
            contents: HashSet::new(),
            captions: HashSet::new(),
            texts: HashMap::new(),
            hidden: BTreeMap::new(),
            lost: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        };
        let rows = newest.rows::<ImageRow>()?;
        kept.live.extend(rows.iter().map(|row| Key::of(&[&row.image_id])));
        kept.take(&rows)?;
        kept.take_written(&newest)?;
        Ok(kept)
    }

    fn take_snapshots(&mut self, store: &Store) -> anyhow::Result<()> {
        for (name, snapshot, losses) in snapshot::all_losses(store)? {
            let dataset = Dataset::open(store, &At::Snapshot(name.clone()))?;
            let lost: HashSet<&str> = losses.ids().collect();
            let mut rows = dataset.rows::<ImageRow>()?;
            rows.retain(|row| !lost.contains(row.image_id.as_str()));
            self.take(&rows)?;
            self.take_written(&dataset)?;
            let back = lost.iter().map(|id| Key::of(&[id]));
            let back: Vec<Key> = back.filter(|id| self.live.contains(id)).collect();
            for table in [Table::Pairs, Table::Triplets].into_iter().filter(|_| !back.is_empty()) {
                let Some(version) = snapshot.page.tables.get(table.as_str()) else { continue };
                self.hidden.entry((table, *version)).or_default().extend(&back);
            }
            self.lost.insert(name.clone(), lost.len());
            self.snapshots.insert(name, snapshot.page.tables);
        }
        Ok(())
    }

    fn take(&mut self, rows: &[ImageRow]) -> anyhow::Result<()> {
        let mut mined: HashMap<ContentId, &ImageRow> = HashMap::new();
        for row in rows {
            let content = ContentId::parse(&row.content_id);
            let content =
                content.with_context(|| format!("images: {:?} is no sha256", row.content_id))?;
            let caption = row.caption.as_deref();
            self.images.insert(image_key(&row.image_id, &row.content_id, caption));
            self.contents.insert(content);
            self.captions.extend(caption_text(caption).map(|text| ContentId::of(text.as_bytes())));
            let first = mined.entry(content).or_insert(row);
            if row.image_id < first.image_id {
                *first = row;
            }
        }
        for (content, row) in mined {
            let texts = self.texts.entry(content).or_insert_with(|| [None].into());
            texts.insert(caption_text(row.caption.as_deref()).map(str::to_owned));
        }
        Ok(())
    }

    /// Captions that were written for contents that stay: they stay with them.
    fn take_written(&mut self, dataset: &Dataset) -> anyhow::Result<()> {
        for (content, text) in captions::all_written(dataset)? {
            if let Some(texts) = self.texts.get_mut(&content) {
                self.captions.insert(ContentId::of(text.as_bytes()));
                texts.insert(Some(text));
            }
        }
        Ok(())
    }

    /// Versions that snapshots pin, by table.
    pub fn pinned(&self) -> BTreeMap<String, BTreeSet<u64>> {
        let mut pinned: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for (table, version) in self.snapshots.values().flatten() {
            pinned.entry(table.clone()).or_default().insert(*version);
        }
        pinned
    }

    /// Whether an image is live.
    pub fn id(&self, id: &str) -> bool {
        self.live.contains(&Key::of(&[id]))
    }

    /// Whether an image is, or a snapshot shows it, with this content and caption.
    pub fn image(&self, id: &str, content: &str, caption: Option<&str>) -> bool {
        self.images.contains(&image_key(id, content, caption))
    }

    /// Whether an image that stays has this content.
    pub fn content(&self, content: &str) -> bool {
        ContentId::parse(content).is_some_and(|content| self.contents.contains(&content))
    }

    /// Whether an image that stays has the caption whose text has this sha256.
    pub fn caption(&self, content: &str) -> bool {
        ContentId::parse(content).is_some_and(|content| self.captions.contains(&content))
    }

    /// Whether an answer is about contents that stay, and about captions that stay where its model
    /// has read them: what it wrote may quote them.
    pub fn answer(&self, answer: &AnswerTo<'_>) -> bool {
        let side = |content: &str| {
            let content = ContentId::parse(content)?;
            Some((content, self.texts.get(&content)?))
        };
        let (Some((query, of_query)), Some((target, of_target))) =
            (side(answer.query), side(answer.target))
        else {
            return false;
        };
        let asks = |q: &Option<String>, t: &Option<String>| {
            let sides = ((query, q.as_deref()), (target, t.as_deref()));
            let (model, version) = (answer.model, answer.prompt_version);
            request_id(answer.task, model, version, sides.0, sides.1) == answer.request_id
        };
        of_query.iter().any(|q| of_target.iter().any(|t| asks(q, t)))
    }

    /// Whether a pinned version of a table must not show what names this image.
    pub fn hides(&self, table: Table, pinned: u64) -> Option<impl Fn(&str) -> bool + '_> {
        let hidden = self.hidden.get(&(table, pinned))?;
        Some(|id: &str| hidden.contains(&Key::of(&[id])))
    }
}

/// An answer, by what determined it.
pub struct AnswerTo<'a> {
    /// What it was asked by.
    pub request_id: &'a str,
    /// The query's content.
    pub query: &'a str,
    /// The target's content.
    pub target: &'a str,
    /// What was asked for.
    pub task: &'a str,
    /// Who was asked.
    pub model: &'a str,
    /// In which words.
    pub prompt_version: i32,
}

impl AnswerTo<'_> {
    /// That of a row.
    pub fn of(row: &AnnotationRow) -> AnswerTo<'_> {
        AnswerTo {
            request_id: &row.request_id,
            query: &row.query_content_id,
            target: &row.target_content_id,
            task: &row.task,
            model: &row.model,
            prompt_version: row.prompt_version,
        }
    }
}
