//! What a call needs of the tables: stored images, and descriptions of earlier runs.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use arrow_array::{Array, RecordBatch, cast::AsArray, types::Float64Type};
use kernels::{
    decode, resize,
    vector::{Band, UNIT},
};
use operators::flow::DESCRIBE;
use schemas::{
    Channel, ContentId, limits,
    tables::{AnnotationRow, Table, WITHDRAWN},
};

use super::{
    failures::Failure,
    judge::Progress,
    prompts::Description,
    worth::{self, Both, Worth},
};
use crate::{
    dataset::{At, Dataset},
    delta::{self, Store},
};

/// What is known of a description that was paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is in the table.
    Stored,
    /// It is here.
    Here(Description),
    /// The request ended without one.
    Failed,
}

/// Where images and descriptions come from.
pub trait Library: Send {
    /// The canonical JPEG of a content; none if it is not stored though an image has it, or is none.
    ///
    /// # Errors
    /// It cannot be read now, or no image has it any more: what is asked about it will be withdrawn.
    fn picture(&mut self, content: &ContentId) -> anyhow::Result<Option<Arc<[u8]>>>;

    /// Descriptions that are in the table, by request id.
    ///
    /// # Errors
    /// They cannot be read now.
    fn descriptions(
        &mut self,
        ids: &HashSet<String>,
    ) -> anyhow::Result<HashMap<String, Description>>;

    /// The contents of images, by their ids, as the newest epoch has them.
    ///
    /// # Errors
    /// The table cannot be read now.
    fn contents(&mut self, ids: &HashSet<Arc<str>>)
    -> anyhow::Result<HashMap<Arc<str>, ContentId>>;

    /// What pairs of contents are worth as the newest epoch has them. One that is not mined any more,
    /// or not yet, is left out.
    ///
    /// # Errors
    /// The tables cannot be read now.
    fn worth(&mut self, pairs: &HashSet<Both>) -> anyhow::Result<HashMap<Both, Worth>>;
}

/// The tables of a service.
pub struct Tables {
    store: Store,
    bands: [Vec<Band>; 3],
    contents: Option<delta::Table>,
    /// Where each content's row is: number of the file, and its number in that.
    places: HashMap<ContentId, (usize, u64)>,
    files: Vec<String>,
    held: Held,
}

impl Tables {
    /// Those at `store`, as of their newest epoch, with each channel's bands.
    pub fn new(store: &Store, bands: [Vec<Band>; 3]) -> Tables {
        Tables {
            store: store.clone(),
            bands,
            contents: None,
            places: HashMap::new(),
            files: Vec::new(),
            held: Held::default(),
        }
    }

    /// Looks at the newest epoch, and finds what stands in files that came since.
    fn refresh(&mut self) -> anyhow::Result<()> {
        let contents = Dataset::open(&self.store, &At::Latest)?.table(Table::Contents)?;
        let live: HashSet<String> = contents.files().into_iter().map(|file| file.path).collect();
        let files = &self.files;
        self.places.retain(|_, (file, _)| live.contains(&files[*file]));
        let known: HashSet<&String> = files.iter().collect();
        let new: Vec<String> = live.iter().filter(|path| !known.contains(path)).cloned().collect();
        for path in new {
            let number = self.files.len();
            for batch in contents.numbered(&path, &["content_id"])? {
                let (rows, batch) = batch?;
                let ids = batch.column(0).as_string::<i32>();
                for (at, row) in rows.into_iter().enumerate() {
                    let id =
                        ContentId::parse(ids.value(at)).context("a content id is no sha256")?;
                    self.places.insert(id, (number, row));
                }
            }
            self.files.push(path);
        }
        self.contents = Some(contents);
        Ok(())
    }

    fn read(&self, content: &ContentId) -> anyhow::Result<Option<Arc<[u8]>>> {
        let Some((file, row)) = self.places.get(content) else { return Ok(None) };
        let table = self.contents.as_ref().context("the table is open")?;
        let batches = table.rows_at(&self.files[*file], &[*row], &["content_id", "image"])?;
        let Some(batch) = batches.into_iter().find(|batch| batch.num_rows() > 0) else {
            return Ok(None);
        };
        if batch.column(0).as_string::<i32>().value(0) != content.hex() {
            return Err(anyhow!("contents: row {row} is not that of {content:?}"));
        }
        let jpeg = stored(&batch).map(canonical).transpose();
        // It will not become one.
        Ok(jpeg.unwrap_or_else(|why| {
            tracing::error!("contents: {} cannot be shown to a model: {why}", content.hex());
            None
        }))
    }

    /// Whether an image of the newest epoch has it.
    fn is_live(&self, content: &ContentId) -> anyhow::Result<bool> {
        let dataset = Dataset::open(&self.store, &At::Latest)?;
        Ok(!images_of(&dataset, &HashSet::from([*content]))?.is_empty())
    }
}

/// The bytes of the only row, and whether they are the canonical copy.
fn stored(batch: &RecordBatch) -> Option<Vec<u8>> {
    let image = batch.column(1).as_struct();
    let bytes = image.column(0).as_binary::<i32>();
    (image.is_valid(0) && bytes.is_valid(0)).then(|| bytes.value(0).to_vec())
}

/// A JPEG with long side at most that of stored copies and nothing else in it: an original may say
/// where it was taken. A stored copy is one already.
fn canonical(bytes: Vec<u8>) -> Result<Arc<[u8]>, decode::DecodeError> {
    let decoded = decode::decode(&bytes, &decode::Limits::default())?;
    let side = limits::STORED_SIDE_MAX;
    let fits = decoded.width.max(decoded.height) <= side;
    let marked = bytes.windows(4).any(|four| four == b"Exif");
    if decoded.format == decode::Format::Jpeg && fits && !marked {
        return Ok(bytes.into());
    }
    let copy = resize::fit(&decoded.pixels, side);
    Ok(resize::encode_jpeg(&copy, limits::STORED_JPEG_QUALITY).into())
}

impl Library for Tables {
    fn picture(&mut self, content: &ContentId) -> anyhow::Result<Option<Arc<[u8]>>> {
        if let Some(held) = self.held.get(content) {
            return Ok(Some(held));
        }
        if !self.places.contains_key(content) {
            self.refresh()?;
        }
        // Compaction moves rows: the file may have gone since it was looked at.
        let read = self.read(content).or_else(|_| self.refresh().and_then(|()| self.read(content)));
        let found = read?;
        match &found {
            Some(jpeg) => self.held.put(*content, jpeg.clone()),
            None if self.is_live(content)? => {}
            None => bail!("no image has it any more"),
        }
        Ok(found)
    }

    fn descriptions(
        &mut self,
        ids: &HashSet<String>,
    ) -> anyhow::Result<HashMap<String, Description>> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return Ok(found);
        }
        let table = Dataset::open(&self.store, &At::Latest)?.table(Table::Annotations)?;
        for batch in table.scan(Some(&["request_id", "outcome", "instructions"]))? {
            let batch = batch?;
            let (requests, outcomes) =
                (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
            let parts = batch.column(2).as_list::<i32>();
            for row in 0..batch.num_rows() {
                let id = requests.value(row);
                if outcomes.value(row) != "ok" || !ids.contains(id) {
                    continue;
                }
                let parts = parts.value(row);
                let parts: Vec<String> =
                    parts.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
                let description = Description::of_parts(&parts);
                let description = description.with_context(|| format!("{id} is no description"))?;
                found.insert(id.to_owned(), description);
            }
        }
        Ok(found)
    }

    fn contents(
        &mut self,
        wanted: &HashSet<Arc<str>>,
    ) -> anyhow::Result<HashMap<Arc<str>, ContentId>> {
        let table = Dataset::open(&self.store, &At::Latest)?.table(Table::Images)?;
        let mut found = HashMap::new();
        for batch in table.scan(Some(&["image_id", "content_id"]))? {
            let batch = batch?;
            let [ids, of] = [0, 1].map(|at| batch.column(at).as_string::<i32>());
            for row in 0..batch.num_rows() {
                if let Some(id) = wanted.get(ids.value(row)) {
                    let content = ContentId::parse(of.value(row));
                    found.insert(id.clone(), content.context("a content id is no sha256")?);
                }
            }
        }
        Ok(found)
    }

    fn worth(&mut self, wanted: &HashSet<Both>) -> anyhow::Result<HashMap<Both, Worth>> {
        let dataset = Dataset::open(&self.store, &At::Latest)?;
        let contents = wanted.iter().flatten().copied().collect();
        let images = images_of(&dataset, &contents)?;
        let mut leading: HashMap<ContentId, u32> = HashMap::new();
        let mut found: Vec<(Both, ContentId, Worth)> = Vec::new();
        let table = dataset.table(Table::Pairs)?;
        for batch in table.scan(Some(&["query_id", "target_id", "channels", "scores"]))? {
            let batch = batch?;
            let [queries, targets] = [0, 1].map(|at| batch.column(at).as_string::<i32>());
            for row in 0..batch.num_rows() {
                let Some((target, _)) = images.get(targets.value(row)) else { continue };
                *leading.entry(*target).or_default() += 1;
                let Some((query, source)) = images.get(queries.value(row)) else { continue };
                let both = [*query.min(target), *query.max(target)];
                if wanted.contains(&both) {
                    found.push((both, *target, self.worth_of(&batch, row, source)));
                }
            }
        }
        let mut best: HashMap<Both, Worth> = HashMap::new();
        for (both, target, mut worth) in found {
            worth.leading = leading.get(&target).copied().unwrap_or(0);
            let held = best.entry(both).or_insert_with(|| worth.clone());
            // Of the two directions the better one, whichever row comes first.
            if (worth.rank(), &worth.source) < (held.rank(), &held.source) {
                *held = worth;
            }
        }
        Ok(best)
    }
}

/// The images of contents, with where they are from.
type Images = HashMap<String, (ContentId, Arc<str>)>;

fn images_of(dataset: &Dataset, contents: &HashSet<ContentId>) -> anyhow::Result<Images> {
    let mut images = Images::new();
    let mut sources: HashSet<Arc<str>> = HashSet::new();
    let table = dataset.table(Table::Images)?;
    for batch in table.scan(Some(&["image_id", "content_id", "source"]))? {
        let batch = batch?;
        let [ids, of, from] = [0, 1, 2].map(|at| batch.column(at).as_string::<i32>());
        for row in 0..batch.num_rows() {
            let content = ContentId::parse(of.value(row));
            let Some(content) = content.filter(|content| contents.contains(content)) else {
                continue;
            };
            let name = if from.is_valid(row) { from.value(row) } else { "" };
            let source = sources.get(name).cloned().unwrap_or_else(|| name.into());
            sources.insert(source.clone());
            images.insert(ids.value(row).to_owned(), (content, source));
        }
    }
    Ok(images)
}

impl Tables {
    /// What one row of `pairs` says of it, but for how many lead to its target.
    fn worth_of(&self, batch: &RecordBatch, row: usize, source: &Arc<str>) -> Worth {
        let (channels, scores) = (batch.column(2).as_list::<i32>(), batch.column(3).as_struct());
        let proposing = channels.value(row);
        let proposing: Vec<&str> = proposing.as_string::<i32>().iter().flatten().collect();
        let margin_in = |name: &str| {
            let channel = Channel::ALL.into_iter().find(|channel| channel.as_str() == name)?;
            let scores = scores.column_by_name(name)?.as_primitive::<Float64Type>();
            let score = scores.is_valid(row).then(|| scores.value(row))?;
            let score = (score * f64::from(UNIT)).round() as i32;
            Some(worth::margin(score, &self.bands[channel.index()]))
        };
        Worth {
            channels: proposing.len() as u32,
            leading: 0,
            margin: proposing.iter().filter_map(|name| margin_in(name)).max().unwrap_or(0),
            source: source.clone(),
        }
    }
}

/// What the memo says of requests: all ids, and of descriptions what became of them.
#[derive(Debug, Default)]
pub struct Memo {
    /// Every request with an outcome that counts.
    pub requests: HashSet<ContentId>,
    /// Descriptions.
    pub described: HashMap<String, Known>,
    /// What has failed for now, by request id.
    pub failures: HashMap<String, Failure>,
    /// What a judge has said so far of answers that are not done with, by request id.
    pub sittings: HashMap<String, Progress>,
}

impl Memo {
    /// Notes what a description says, if the row is one.
    pub fn learn(&mut self, row: &AnnotationRow) {
        if row.task == DESCRIBE {
            let parts = Description::of_parts(&row.instructions);
            let is = parts.filter(|_| row.outcome == "ok").map_or(Known::Failed, Known::Here);
            self.described.insert(row.request_id.clone(), is);
        }
    }

    /// Whether a request has an outcome.
    pub fn has(&self, request_id: &str) -> bool {
        ContentId::parse(request_id).is_some_and(|id| self.requests.contains(&id))
    }
}

/// Reads the ids of all outcomes.
///
/// # Errors
/// The table cannot be read.
pub fn memo(annotations: &delta::Table) -> anyhow::Result<Memo> {
    let mut memo = Memo::default();
    for batch in annotations.scan(Some(&["request_id", "task", "outcome"]))? {
        let batch = batch?;
        let [ids, tasks, outcomes] = [0, 1, 2].map(|at| batch.column(at).as_string::<i32>());
        for row in 0..batch.num_rows() {
            let (id, outcome) = (ids.value(row), outcomes.value(row));
            if outcome == WITHDRAWN {
                continue;
            }
            memo.requests.insert(ContentId::parse(id).context("a request id is no sha256")?);
            if tasks.value(row) == DESCRIBE {
                let known = if outcome == "ok" { Known::Stored } else { Known::Failed };
                memo.described.insert(id.to_owned(), known);
            }
        }
    }
    Ok(memo)
}

/// Images that were sent lately: those of one query are asked about one after the other.
#[derive(Default)]
struct Held {
    images: HashMap<ContentId, Arc<[u8]>>,
    order: VecDeque<ContentId>,
    bytes: usize,
}

impl Held {
    fn get(&self, content: &ContentId) -> Option<Arc<[u8]>> {
        self.images.get(content).cloned()
    }

    fn put(&mut self, content: ContentId, jpeg: Arc<[u8]>) {
        self.bytes += jpeg.len();
        if let Some(before) = self.images.insert(content, jpeg) {
            self.bytes -= before.len();
        } else {
            self.order.push_back(content);
        }
        while self.bytes > limits::ANNOTATOR_IMAGE_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.images.remove(&oldest).map_or(0, |jpeg| jpeg.len());
        }
    }
}
