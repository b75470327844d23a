//! `everpair verify`: the tables, checked against the rules by brute force, sharing no code with
//! the incremental path (I1, I4, I9).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use operators::{
    filter,
    flow::{Answer, CAPTION, CaptionerId, Pair, TASK},
    naive,
};
use schemas::{
    Channel, ContentId, caption_text,
    config::{Config, Keep},
    tables::{
        AnnotationRow, BlockedRow, ChangeRow, EmbeddingRow, ImageRow, PairRow, TripletRow,
        request_id,
    },
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    dataflow::Settings,
    dataset::{At, Dataset},
    delta::{self, Store},
    outln,
    service::{open_tables, rows::pair_row},
    settings,
};

pub mod benchmarks;

/// Above this many mined images brute force over all queries takes minutes: ask for a sample.
pub const ALL_QUERIES_MAX: usize = 20_000;

/// What was checked and what differs.
#[derive(Debug, Default)]
pub struct Report {
    /// The epoch that was checked.
    pub epoch: u64,
    /// Live images.
    pub images: usize,
    /// Mined images.
    pub mined: usize,
    /// Queries whose pairs were recomputed.
    pub queries: usize,
    /// Rows of `pairs` that were compared.
    pub pairs: usize,
    /// Rows of `triplets` that were compared.
    pub triplets: usize,
    /// One line per difference, the first [`LINES_MAX`].
    pub differences: Vec<String>,
    /// All of them.
    pub differences_count: usize,
}

/// Lines that a report keeps.
pub const LINES_MAX: usize = 20;

impl Report {
    fn differs(&mut self, line: String) {
        self.differences_count += 1;
        if self.differences.len() < LINES_MAX {
            self.differences.push(line);
        }
    }

    fn compare<K: Ord + std::fmt::Debug, V: PartialEq + Serialize>(
        &mut self,
        table: &str,
        want: &BTreeMap<K, V>,
        have: &BTreeMap<K, V>,
    ) {
        for (key, row) in want {
            match have.get(key) {
                None => self.differs(format!("{table}: {key:?} is missing")),
                Some(other) if other != row => {
                    let mut line = format!("{table}: {key:?} differs");
                    let [is, rules] = [other, row].map(serde_json::to_value);
                    columns("", &is.unwrap_or_default(), &rules.unwrap_or_default(), &mut line);
                    self.differs(line);
                }
                Some(_) => {}
            }
        }
        for key in have.keys().filter(|key| !want.contains_key(*key)) {
            self.differs(format!("{table}: {key:?} should not be there"));
        }
    }
}

/// Appends a line for each column, or field of one, in which two rows differ.
fn columns(at: &str, is: &Value, rules: &Value, line: &mut String) {
    match (is, rules) {
        (Value::Object(is), Value::Object(rules)) => {
            for (name, value) in is {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                columns(&at, value, rules.get(name).unwrap_or(&Value::Null), line);
            }
        }
        _ if is == rules => {}
        _ => line.push_str(&format!("\n    {at} is {is}, the rules say {rules}")),
    }
}

/// The tables at the versions of `latest.json`.
pub struct Tables {
    /// The epoch.
    pub epoch: u64,
    /// Live images.
    pub images: Vec<ImageRow>,
    /// Vectors of the memo.
    pub embeddings: Vec<EmbeddingRow>,
    /// Outcomes of requests.
    pub annotations: Vec<AnnotationRow>,
    /// Mined pairs.
    pub pairs: Vec<PairRow>,
    /// Training rows.
    pub triplets: Vec<TripletRow>,
    /// Their log.
    pub changes: Vec<ChangeRow>,
    /// What must not come back.
    pub blocked: Vec<BlockedRow>,
}

impl Tables {
    /// Reads them all.
    pub fn read(store: &Store) -> anyhow::Result<Tables> {
        let dataset = Dataset::open(store, &At::Latest)?;
        Ok(Tables {
            epoch: dataset.epoch(),
            images: dataset.rows()?,
            embeddings: dataset.rows()?,
            annotations: dataset.rows()?,
            pairs: dataset.rows()?,
            triplets: dataset.rows()?,
            changes: dataset.rows()?,
            blocked: dataset.rows()?,
        })
    }
}

/// Checks the tables of a config; `sample` queries instead of all, chosen by their ids' hash.
pub fn verify(config: &Config, sample: Option<usize>) -> anyhow::Result<Report> {
    let store = open_tables(config)?;
    let settings = settings::settings(config)?;
    let tables = Tables::read(&store)?;
    if let Some(latest) = delta::read_latest(&store)? {
        crate::service::check_config(config, &latest).context("nothing was verified")?;
    }
    let mut report =
        Report { epoch: tables.epoch, images: tables.images.len(), ..Report::default() };
    check_epochs(&tables, &mut report);
    let mined = mined(&tables.images);
    let captioned = captioned(&mined, &tables.annotations, settings.captioner.as_ref());
    let mined: BTreeMap<&str, &ImageRow> =
        captioned.iter().map(|row| (row.image_id.as_str(), row)).collect();
    report.mined = mined.len();
    if sample.is_none() && mined.len() > ALL_QUERIES_MAX {
        let n = mined.len();
        bail!("{n} images: brute force over all would take long; give --sample N queries");
    }
    check_blocked(&tables, &mut report);
    benchmarks::check(&store, &tables, sample, &mut report)?;
    let versions = versions(&tables, &mined, &settings)?;
    let queries = queries(&mined, sample);
    report.queries = queries.len();
    let triplets = check_answers(&tables, &mined, config, &settings);
    check_pairs(&tables, &versions, &queries, &triplets, config, &settings, &mut report)?;
    check_changes(&tables, &mut report);
    Ok(report)
}

fn check_epochs(tables: &Tables, report: &mut Report) {
    let epoch = tables.epoch as i64;
    let late = tables.images.iter().filter(|row| row.epoch > epoch).count()
        + tables.pairs.iter().filter(|row| row.epoch > epoch).count()
        + tables.triplets.iter().filter(|row| row.epoch > epoch).count();
    if late > 0 {
        report.differs(format!("{late} rows are above epoch {epoch}"));
    }
}

/// Rule 1: by content, the bytewise smallest id, with its own caption.
fn mined(images: &[ImageRow]) -> BTreeMap<&str, &ImageRow> {
    let mut smallest: BTreeMap<&str, &ImageRow> = BTreeMap::new();
    for row in images {
        let kept = smallest.entry(&row.content_id).or_insert(row);
        if row.image_id < kept.image_id {
            *kept = row;
        }
    }
    smallest.into_values().map(|row| (row.image_id.as_str(), row)).collect()
}

/// The mined images as they are mined: one without a caption of its own has the one that was written for
/// its content.
fn captioned(
    mined: &BTreeMap<&str, &ImageRow>,
    annotations: &[AnnotationRow],
    captioner: Option<&CaptionerId>,
) -> Vec<ImageRow> {
    let written = annotations.iter().filter(|row| row.task == CAPTION && row.outcome == "ok");
    let written: HashMap<&str, &AnnotationRow> =
        written.map(|row| (row.request_id.as_str(), row)).collect();
    let one = |row: &ImageRow| {
        let content = ContentId::parse(&row.content_id)?;
        let written = written.get(captioner?.request_id(content).as_str())?;
        let lacks = caption_text(row.caption.as_deref()).is_none();
        lacks.then(|| ImageRow { caption: written.description.clone(), ..row.clone() })
    };
    mined.values().map(|row| one(row).unwrap_or_else(|| (*row).clone())).collect()
}

fn check_blocked(tables: &Tables, report: &mut Report) {
    for block in &tables.blocked {
        let hit = |row: &&ImageRow| match block.kind.as_str() {
            "id" => row.image_id == block.value,
            "content" => row.content_id == block.value,
            "source" => row.source.as_ref() == Some(&block.value),
            _ => false,
        };
        if let Some(row) = tables.images.iter().find(hit) {
            report.differs(format!("images: {} is blocked by {}", row.image_id, block.kind));
        }
    }
}

type Versions = Vec<(Arc<str>, [Option<Arc<[i16]>>; 3])>;

fn versions(
    tables: &Tables,
    mined: &BTreeMap<&str, &ImageRow>,
    settings: &Settings,
) -> anyhow::Result<Versions> {
    let mut memo: HashMap<(&str, &str), Option<Arc<[i16]>>> = HashMap::new();
    for row in &tables.embeddings {
        let channel = Channel::ALL.into_iter().find(|c| c.as_str() == row.channel);
        let channel = channel.ok_or_else(|| anyhow!("embeddings: channel {:?}", row.channel))?;
        if Some(&row.encoder) != settings.encoders.id(channel).as_ref() {
            continue;
        }
        let vector = kernels::vector::from_le_bytes(&row.vector)
            .filter(|vector| !vector.is_empty())
            .map(Arc::from);
        memo.insert((&row.channel, &row.content_id), vector);
    }
    let mut versions = Versions::new();
    for (id, row) in mined {
        let mut vectors: [Option<Arc<[i16]>>; 3] = Default::default();
        for channel in Channel::ALL {
            let content = match channel {
                Channel::Caption => caption_text(row.caption.as_deref())
                    .map(|text| ContentId::of(text.as_bytes()).hex()),
                _ => Some(row.content_id.clone()),
            };
            let Some(content) = content else { continue };
            let found = memo.get(&(channel.as_str(), content.as_str()));
            let missing = || format!("embeddings: no {} of image {id}", channel.as_str());
            vectors[channel.index()] = found.with_context(missing)?.clone();
        }
        versions.push(((*id).into(), vectors));
    }
    Ok(versions)
}

fn queries(mined: &BTreeMap<&str, &ImageRow>, sample: Option<usize>) -> BTreeSet<Arc<str>> {
    let mut ids: Vec<&str> = mined.keys().copied().collect();
    if let Some(count) = sample {
        ids.sort_by_key(|id| schemas::shard_of(id).reverse_bits());
        ids.truncate(count);
    }
    ids.into_iter().map(Arc::from).collect()
}

/// I9: the answer that counts, for each pair of mined images that has one.
fn check_answers(
    tables: &Tables,
    mined: &BTreeMap<&str, &ImageRow>,
    config: &Config,
    settings: &Settings,
) -> BTreeMap<(Arc<str>, Arc<str>), Answer> {
    let by_content: HashMap<&str, &ImageRow> =
        mined.values().map(|row| (row.content_id.as_str(), *row)).collect();
    let mut chosen: BTreeMap<(Arc<str>, Arc<str>), (usize, Answer)> = BTreeMap::new();
    for row in &tables.annotations {
        let model = settings.triplets.models.iter().position(|model| {
            row.task == TASK
                && model.model == row.model
                && model.prompt_version == row.prompt_version
        });
        let query = by_content.get(row.query_content_id.as_str());
        let target = by_content.get(row.target_content_id.as_str());
        let (Some(order), Some(query), Some(target)) = (model, query, target) else { continue };
        let mut answer = Answer::from(row);
        let (passing, _) = filter::judge(&answer, &config.filter);
        if !answer.ok || passing.len() < config.filter.instructions_min {
            continue;
        }
        let model = &settings.triplets.models[order];
        if model.reads_captions {
            let side = |row: &'_ ImageRow| ContentId::parse(&row.content_id);
            let (Some(q), Some(t)) = (side(query), side(target)) else { continue };
            let today = request_id(
                TASK,
                &row.model,
                row.prompt_version,
                (q, query.caption.as_deref()),
                (t, target.caption.as_deref()),
            );
            if today != row.request_id {
                continue;
            }
        }
        answer.instructions = passing.iter().map(|&i| answer.instructions[i].clone()).collect();
        answer.audits = passing.iter().filter_map(|&i| answer.audits.get(i).cloned()).collect();
        let caption = target.caption.as_deref();
        let leaks = filter::leaks(&answer, caption, &config.filter).into_iter().map(|(at, ..)| at);
        for at in leaks.rev() {
            answer.instructions.remove(at);
            if at < answer.audits.len() {
                answer.audits.remove(at);
            }
        }
        if answer.instructions.len() < config.filter.instructions_min {
            continue;
        }
        let key: (Arc<str>, Arc<str>) =
            (query.image_id.as_str().into(), target.image_id.as_str().into());
        let better = chosen
            .get(&key)
            .is_none_or(|(held, other)| (order, &answer.request_id) < (*held, &other.request_id));
        if better {
            chosen.insert(key, (order, answer));
        }
    }
    chosen.into_iter().map(|(key, (_, answer))| (key, answer)).collect()
}

/// Every row of the queries by brute force, on all cores.
fn recompute(
    versions: &Versions,
    settings: &Settings,
    queries: &BTreeSet<Arc<str>>,
    watched: &BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
) -> Vec<Pair> {
    let asked: Vec<usize> =
        (0..versions.len()).filter(|&q| queries.contains(&versions[q].0)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let none = BTreeSet::new();
    let rows_of = |part: &[usize]| -> Vec<Pair> {
        let rows = part.iter().flat_map(|&q| {
            let targets = watched.get(&versions[q].0).unwrap_or(&none);
            naive::pairs_of(versions, &settings.mining, q, targets)
        });
        rows.collect()
    };
    std::thread::scope(|scope| {
        let parts = asked.chunks(asked.len().div_ceil(threads).max(1));
        let running: Vec<_> = parts.map(|part| scope.spawn(|| rows_of(part))).collect();
        let rows =
            running.into_iter().map(|thread| thread.join().expect("brute force cannot fail"));
        rows.flatten().collect()
    })
}

fn check_pairs(
    tables: &Tables,
    versions: &Versions,
    queries: &BTreeSet<Arc<str>>,
    answers: &BTreeMap<(Arc<str>, Arc<str>), Answer>,
    config: &Config,
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut watched: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
    for (query, target) in answers.keys() {
        watched.entry(query.clone()).or_default().insert(target.clone());
    }
    let rows = recompute(versions, settings, queries, &watched);

    let want: BTreeMap<_, PairRow> = rows
        .iter()
        .filter(|pair| pair.mined)
        .map(|pair| ((pair.query_id.to_string(), pair.target_id.to_string()), pair_row(pair, 0)))
        .collect();
    let checked = |id: &str| queries.contains(id);
    let have: BTreeMap<_, PairRow> = tables
        .pairs
        .iter()
        .filter(|row| checked(&row.query_id))
        .map(|row| {
            let key = (row.query_id.clone(), row.target_id.clone());
            (key, PairRow { epoch: 0, ..row.clone() })
        })
        .collect();
    report.pairs = have.len();
    report.compare("pairs", &want, &have);

    let mut want: BTreeMap<String, TripletRow> = BTreeMap::new();
    for pair in &rows {
        let key = (pair.query_id.clone(), pair.target_id.clone());
        let Some(answer) = answers.get(&key) else { continue };
        if config.triplets.keep == Keep::Mined && !pair.mined {
            continue;
        }
        let shown = pair_row(pair, 0);
        let triplet_id = schemas::triplet_id(&pair.query_id, &pair.target_id);
        let negatives = std::iter::once(shown.query_id.clone()).chain(shown.hard_negatives);
        let row = TripletRow {
            triplet_id: triplet_id.clone(),
            query_id: shown.query_id.clone(),
            target_id: shown.target_id,
            instructions: answer.instructions.clone(),
            audits: answer.audits.clone(),
            hard_negatives: negatives.collect(),
            channels: if pair.mined { shown.channels } else { Vec::new() },
            scores: if pair.mined { shown.scores } else { Default::default() },
            description: answer.description.clone(),
            model: answer.model.clone(),
            prompt_version: answer.prompt_version,
            request_id: answer.request_id.clone(),
            query_content_id: answer.query.hex(),
            target_content_id: answer.target.hex(),
            epoch: 0,
        };
        want.insert(triplet_id, row);
    }
    let have: BTreeMap<String, TripletRow> = tables
        .triplets
        .iter()
        .filter(|row| checked(&row.query_id))
        .map(|row| (row.triplet_id.clone(), TripletRow { epoch: 0, ..row.clone() }))
        .collect();
    report.triplets = have.len();
    report.compare("triplets", &want, &have);
    Ok(())
}

/// `changes` sums to `triplets`.
fn check_changes(tables: &Tables, report: &mut Report) {
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    for row in &tables.changes {
        *sums.entry(&row.triplet_id).or_default() += if row.op == "insert" { 1 } else { -1 };
    }
    let live: BTreeSet<&str> = tables.triplets.iter().map(|row| row.triplet_id.as_str()).collect();
    for id in &live {
        sums.entry(id).or_default();
    }
    for (id, sum) in sums {
        let (want, is) = if live.contains(id) { (1, "is") } else { (0, "is not") };
        if sum != want {
            report.differs(format!(
                "changes: triplet {id} {is} live, and its inserts less its deletes are {sum}, not {want}"
            ));
        }
    }
}

impl Report {
    /// For scripts.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "epoch": self.epoch,
            "images": self.images,
            "mined": self.mined,
            "queries": self.queries,
            "pairs": self.pairs,
            "triplets": self.triplets,
            "differences": self.differences_count,
            "lines": self.differences,
        })
    }

    /// For people.
    pub fn print(&self) {
        for line in &self.differences {
            outln!("{line}");
        }
        outln!(
            "epoch {}: {} images, {} mined, {} queries recomputed, {} pairs and {} triplets compared, \
             {} differences",
            self.epoch,
            self.images,
            self.mined,
            self.queries,
            self.pairs,
            self.triplets,
            self.differences_count
        );
    }
}
