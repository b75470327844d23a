//! From the tables back to a running dataflow: what enters under the epoch that they are at, and
//! what they show, to find out what differs.

mod columns;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, anyhow};
use arrow_array::RecordBatch;
use operators::{filter, flow::CaptionerId, register::Restored};
use schemas::{
    ContentId, Epoch,
    config::Filter,
    limits, shard_of,
    tables::{self, BlockedRow, ImageRow, Measures, RejectRow, Row, Table as Of},
};
use serde::Deserialize;

use super::{
    fingerprint::{self, Fingerprint},
    worker::{Share, Start},
};
use crate::{
    delta::{AGAIN, Publisher, Table},
    metrics::Metrics,
    source::witness::{Known, Witnesses},
};

/// What was measured of a content, and its width and height in pixels.
pub type Measured = (Measures, (i32, i32));

/// What the tables show now, and what the annotator may look up.
#[derive(Default)]
pub struct Shown {
    /// The rows of `pairs`.
    pub pairs: HashSet<Fingerprint>,
    /// The rows of `triplets`.
    pub triplets: HashSet<Fingerprint>,
    /// What `rejects` must still say: of answers whose epoch never became real. The memo has kept
    /// them, and they are not judged as new ones again.
    pub rejects: Vec<RejectRow>,
    /// Rows of `rejects`, by stage and reason.
    pub rejected: BTreeMap<(String, String), u64>,
    /// Measures and size of every content.
    pub measured: HashMap<ContentId, Measured>,
    /// What the tables know of the newest messages.
    pub known: Witnesses,
}

/// Every live row of a table.
pub fn rows<R: Row>(table: &Table) -> anyhow::Result<Vec<R>> {
    let mut rows = Vec::new();
    for batch in table.scan(None)? {
        rows.extend(tables::from_batch::<R>(&batch?).with_context(|| read_error(table.name()))?);
    }
    Ok(rows)
}

fn read_error(table: &str) -> String {
    format!("table {table} holds a row that this version does not know")
}

/// The columns of `contents` that a start needs; image bytes stay where they are.
#[derive(Deserialize)]
struct ContentMeasures {
    content_id: String,
    width: i32,
    height: i32,
    measures: Measures,
}

fn table(publisher: &Publisher, of: Of) -> anyhow::Result<&Table> {
    publisher.table(of.as_str()).ok_or_else(|| anyhow!("no table {}", of.as_str()))
}

/// The columns of `rejects` that are counted, and tell which message it was.
#[derive(Deserialize)]
struct RejectKind {
    stage: String,
    reason: String,
    image_id: Option<String>,
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    epoch: i64,
}

const OF_REJECTS: [&str; 7] =
    ["stage", "reason", "image_id", "topic", "partition", "offset", "epoch"];

/// Rows of `rejects`, by stage and reason.
type Counts = BTreeMap<(String, String), u64>;

/// Counts what was turned away, and notes which messages that were.
pub fn rejected(rejects: &Table, known: &mut Witnesses) -> anyhow::Result<Counts> {
    let mut counts = BTreeMap::new();
    for batch in rejects.scan(Some(&OF_REJECTS))? {
        count(&batch?, known, &mut counts).with_context(|| read_error(rejects.name()))?;
    }
    Ok(counts)
}

fn count(batch: &RecordBatch, known: &mut Witnesses, counts: &mut Counts) -> anyhow::Result<()> {
    let rows: Vec<RejectKind> = serde_arrow::from_record_batch(batch)?;
    for row in rows {
        if let (Some(topic), Some(partition), Some(offset)) = (row.topic, row.partition, row.offset)
        {
            let message = row.image_id.map_or(Known::NoId, Known::Image);
            known.note((&topic, partition, offset), row.epoch, message);
        }
        *counts.entry((row.stage, row.reason)).or_default() += 1;
    }
    Ok(())
}

/// What a start reads, table by table. What is witnessed of a message by a later one counts.
const READ: [Of; 8] = [
    Of::Contents,
    Of::Images,
    Of::Blocked,
    Of::Embeddings,
    Of::Annotations,
    Of::Rejects,
    Of::Pairs,
    Of::Triplets,
];

/// How a start reads.
pub struct Reading<'a> {
    /// The tables.
    pub publisher: &'a Publisher,
    /// Rules on instructions.
    pub rules: &'a Filter,
    /// Whose captions count.
    pub captioner: Option<&'a CaptionerId>,
    /// Learns how far it is.
    pub metrics: &'a Metrics,
    /// Of the dataflow: each is handed what it owns.
    pub workers: usize,
    /// That read at the same time.
    pub threads: usize,
}

/// What one file of a table gave.
struct Piece {
    shares: Vec<Share>,
    rejects: Vec<RejectRow>,
    rejected: Counts,
    measured: Vec<(ContentId, Measured)>,
    known: Witnesses,
    rows: Vec<Fingerprint>,
}

/// A file of a table, to be read.
struct Job<'a> {
    of: Of,
    table: &'a Table,
    path: String,
    rows: u64,
}

impl Reading<'_> {
    /// Reads everything that a start needs, several files at a time; `known` takes in what messages
    /// there were.
    pub fn restore(&self, mut known: Witnesses) -> anyhow::Result<(Start, Shown)> {
        let epoch = self.publisher.epoch().unwrap_or(0);
        known.read_again(table(self.publisher, ImageRow::TABLE)?.txns(AGAIN));
        let mut jobs = Vec::new();
        for of in READ {
            let table = table(self.publisher, of)?;
            let files = table.files().into_iter();
            let job = |file: crate::delta::FileFacts| {
                let rows = file.rows.saturating_sub(file.dead);
                Job { of, table, path: file.path, rows }
            };
            jobs.extend(files.map(job));
        }
        let of_images = jobs.iter().filter(|job| job.of == Of::Images);
        let images = of_images.map(|job| job.rows).sum();
        self.metrics.will_restore(jobs.iter().map(|job| job.rows).sum(), images);
        let pieces = self.pieces(&jobs, epoch, &known)?;
        let shares = (0..self.workers).map(|_| Share::default()).collect();
        let (mut start, mut shown) = (Start { epoch, shares }, Shown::default());
        for (job, piece) in jobs.iter().zip(pieces) {
            for (all, mut share) in start.shares.iter_mut().zip(piece.shares) {
                all.restored.append(&mut share.restored);
                all.vectors.append(&mut share.vectors);
                all.answers.append(&mut share.answers);
                all.captioned.append(&mut share.captioned);
            }
            shown.rejects.extend(piece.rejects);
            for (why, count) in piece.rejected {
                *shown.rejected.entry(why).or_default() += count;
            }
            shown.measured.extend(piece.measured);
            known.absorb(piece.known);
            match job.of {
                Of::Pairs => shown.pairs.extend(piece.rows),
                _ => shown.triplets.extend(piece.rows),
            }
        }
        shown.known = known;
        Ok((start, shown))
    }

    /// What each job gives, in their order.
    fn pieces(&self, jobs: &[Job], epoch: Epoch, known: &Witnesses) -> anyhow::Result<Vec<Piece>> {
        // The largest first: the last one to end should be a small one.
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(jobs[*at].rows));
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let pieces: Vec<Mutex<Option<Piece>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
        let failure = || failed.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            while let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failure().is_some() {
                    return;
                }
                let job = &jobs[at];
                let read = self.piece(job, epoch, known.clone());
                match read.with_context(|| format!("read table {}", job.table.name())) {
                    Ok(piece) => {
                        *pieces[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(piece);
                    }
                    Err(error) => *failure() = Some(error),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.clamp(1, limits::RESTORE_THREADS_MAX).min(jobs.len()) {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = failure().take() {
            return Err(error);
        }
        let pieces = pieces.into_iter().map(|piece| {
            let piece = piece.into_inner().unwrap_or_else(PoisonError::into_inner);
            piece.context("every file was read, or one has failed")
        });
        pieces.collect()
    }

    fn piece(&self, job: &Job, epoch: Epoch, known: Witnesses) -> anyhow::Result<Piece> {
        let mut piece = Piece {
            shares: (0..self.workers).map(|_| Share::default()).collect(),
            rejects: Vec::new(),
            rejected: Counts::new(),
            measured: Vec::new(),
            known,
            rows: Vec::new(),
        };
        let fingerprinted = fingerprint::columns(job.of);
        let columns: Option<Vec<&str>> = match job.of {
            Of::Contents => Some(vec!["content_id", "width", "height", "measures"]),
            Of::Embeddings => Some(columns::OF_VECTORS.to_vec()),
            Of::Annotations => Some(columns::OF_ANSWERS.to_vec()),
            Of::Rejects => Some(OF_REJECTS.to_vec()),
            Of::Pairs | Of::Triplets => Some(fingerprinted.iter().map(String::as_str).collect()),
            _ => None,
        };
        for batch in job.table.scan_file(&job.path, columns.as_deref())? {
            let batch = batch?;
            self.take(job.of, &batch, epoch, &mut piece)?;
            self.metrics.restored(batch.num_rows(), job.of == Of::Images);
        }
        Ok(piece)
    }

    /// Takes in the rows of a batch.
    fn take(
        &self,
        of: Of,
        batch: &RecordBatch,
        epoch: Epoch,
        piece: &mut Piece,
    ) -> anyhow::Result<()> {
        let owner = |hash: u64| (hash % self.workers as u64) as usize;
        match of {
            Of::Contents => {
                let rows: Vec<ContentMeasures> = serde_arrow::from_record_batch(batch)?;
                for row in rows {
                    let id = ContentId::parse(&row.content_id)
                        .ok_or_else(|| anyhow!("{:?} is no sha256", row.content_id))?;
                    piece.shares[owner(id.hash64())].restored.push(Restored::Content(id));
                    piece.measured.push((id, (row.measures, (row.width, row.height))));
                }
            }
            Of::Images => {
                for mut row in tables::from_batch::<ImageRow>(batch)? {
                    let message = Known::Image(row.image_id.clone());
                    let at = (row.topic.as_str(), row.partition, row.offset);
                    piece.known.note(at, row.epoch, message);
                    row.epoch = 0;
                    let share = &mut piece.shares[owner(shard_of(&row.image_id))];
                    share.restored.push(Restored::Image(row));
                }
            }
            Of::Blocked => {
                for mut row in tables::from_batch::<BlockedRow>(batch)? {
                    row.epoch = 0;
                    piece.shares[0].restored.push(Restored::Blocked(row));
                }
            }
            Of::Embeddings => {
                for vector in columns::vectors(batch)? {
                    let share = &mut piece.shares[owner(vector.content_id.hash64())];
                    share.vectors.push(vector);
                }
            }
            Of::Annotations => {
                let real = i64::try_from(epoch).context("epochs fit into 63 bits")?;
                for (at, (answer, epoch)) in columns::answers(batch)?.into_iter().enumerate() {
                    if epoch > real {
                        piece.rejects.extend(filter::accept(answer.clone(), self.rules).1);
                    }
                    piece.shares[at % self.workers].answers.push(answer);
                }
                if let Some(captioner) = self.captioner {
                    for captioned in columns::captions(batch, captioner)? {
                        let share = &mut piece.shares[owner(captioned.content_id.hash64())];
                        share.captioned.push(captioned);
                    }
                }
            }
            Of::Rejects => count(batch, &mut piece.known, &mut piece.rejected)?,
            _ => piece.rows.extend(fingerprint::of_batch(batch)?),
        }
        Ok(())
    }
}

/// The rows of a table that have these fingerprints, as structs.
///
/// # Errors
/// The table cannot be read.
pub fn find<R: Row>(publisher: &Publisher, of: &HashSet<Fingerprint>) -> anyhow::Result<Vec<R>> {
    let mut found = Vec::new();
    if of.is_empty() {
        return Ok(found);
    }
    let table = table(publisher, R::TABLE)?;
    for batch in table.scan(None)? {
        let batch = batch?;
        let schema = batch.schema();
        let names = fingerprint::columns(R::TABLE).into_iter();
        let at = names.map(|name| schema.index_of(&name)).collect::<Result<Vec<_>, _>>()?;
        let marks = fingerprint::of_batch(&batch.project(&at)?)?;
        if marks.iter().any(|mark| of.contains(mark)) {
            let rows = tables::from_batch::<R>(&batch).with_context(|| read_error(table.name()))?;
            let wanted = rows.into_iter().zip(marks).filter(|(_, mark)| of.contains(mark));
            found.extend(wanted.map(|(row, _)| row));
        }
    }
    Ok(found)
}
