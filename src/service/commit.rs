//! The committer: closed epochs in, Delta commits out, and the annotator's work after them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use operators::{
    flow::CaptionerId,
    publish::EpochChanges,
    triplets::{Cause, ConfigChange},
};
use schemas::{
    ContentId, Epoch, limits,
    tables::{AnnotationRow, PairRow, Table, TripletRow},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    asking::{Asking, Since},
    fingerprint,
    ingest::Exchange,
    restore::{self, Shown},
    rows::{
        captioned, consolidate, inserts, lost, moved_keys, pair_of, pair_row, touched,
        triplet_changes, triplet_of,
    },
    upkeep::Upkeep,
    worker::Progress,
};
use crate::{
    captions::{captioner_in, written_after},
    dataset::EPOCHS,
    delta::{self, Change, EpochCommit, Key, Latest, Publisher, Rows, Store},
    metrics::{self, Metrics, Phase, Tally},
    requests::Requests,
    source::Offsets,
};

/// Everything that the committer needs.
pub struct Committer {
    /// Where the tables are.
    pub store: Store,
    /// Newest pages kept under `_everpair/epochs/`.
    pub epochs_kept: usize,
    /// How long objects stay that no kept epoch needs.
    pub retention: Duration,
    /// Contents that no live image has, and that are remembered at least.
    pub keep_dead: u64,
    /// The tables.
    pub publisher: Publisher,
    /// What the tables show at start, until the first epoch has been compared with it.
    pub shown: Shown,
    /// What `latest.json` says besides versions and offsets.
    pub in_force: Map<String, Value>,
    /// The tables were made with another config.
    pub config_changed: bool,
    /// What committed pairs ask for.
    pub asking: Asking,
    /// With these: nothing is asked before they are committed.
    pub asks_from: Option<Offsets>,
    /// Closed epochs come from here.
    pub closed: Receiver<EpochChanges>,
    /// With these: stop once they are committed and no pair waits for an answer.
    pub ends: Option<Offsets>,
    /// Shared with everyone.
    pub progress: Arc<Progress>,
    /// Shared with ingest.
    pub exchange: Arc<Exchange>,
    /// Requests of other processes.
    pub requests: Requests,
    /// Counters and times.
    pub metrics: Arc<Metrics>,
}

/// A run of the committer: what is not committed yet, and what is not answered yet.
struct Run {
    at: Committer,
    /// What the rules say of the restored state, where the tables say something else. It goes out
    /// with the first epoch.
    pending: Option<EpochChanges>,
    /// Contents with a caption that the memo has from an epoch that was not committed as a whole.
    captioned: BTreeSet<ContentId>,
    /// Whose captions count.
    captioner: Option<CaptionerId>,
    /// The tables have been compared with the rules.
    compared: bool,
    /// Epochs that have a page under `_everpair/epochs/`.
    pages: BTreeSet<Epoch>,
    upkeep: Upkeep,
    /// When this was last known to be the newest writer.
    newest_at: Instant,
    /// When it was looked for requests that somebody has exported.
    batches_at: Instant,
}

/// What a run of the committer leaves.
pub struct Committed {
    /// The newest epoch that the tables hold.
    pub newest: Option<Epoch>,
    /// Since when pairs wait for an answer.
    pub wanted: Since,
}

impl Committer {
    /// Commits epochs until there are no more. Returns on the main thread; an error means that the
    /// process must end, because only a new start knows what was committed.
    pub fn run(self) -> anyhow::Result<Committed> {
        let first = self.publisher.epoch().unwrap_or(0);
        let names = self.store.list(EPOCHS, "0").context("list the pages of earlier epochs")?;
        let epochs = names.iter().filter_map(|(name, _)| name.strip_suffix(".json")?.parse().ok());
        let pages = epochs.collect();
        let pulse = self.metrics.pulse("committer");
        let upkeep =
            Upkeep::new(self.store.clone(), (self.retention, self.keep_dead), &self.publisher);
        let captioner = captioner_in(&self.in_force)?;
        let mut run = Run {
            at: self,
            pending: None,
            captioned: BTreeSet::new(),
            captioner,
            compared: false,
            pages,
            upkeep,
            newest_at: Instant::now(),
            batches_at: Instant::now(),
        };
        loop {
            pulse.beat();
            match run.at.closed.recv_timeout(Duration::from_millis(20)) {
                Ok(changes) if changes.epoch == first && !run.compared => run.compare(changes)?,
                Ok(changes) => run.commit(changes)?,
                Err(RecvTimeoutError::Timeout) => run.keep_up()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let Committer { publisher, metrics, requests, exchange, .. } = &run.at;
                    run.upkeep.finish(publisher, metrics)?;
                    let forgets = exchange.forget.load(Ordering::Acquire);
                    if requests.wants_collection() || forgets {
                        // It would take the tables back from a writer that has taken over.
                        publisher.check_newest()?;
                    }
                    metrics.write()?;
                    let (newest, wanted) = (publisher.epoch(), run.at.asking.since());
                    return Ok(Committed { newest, wanted });
                }
            }
            run.ask();
            run.look_for_batches()?;
            if run.at.ends.is_some()
                && let Some(why) = run.at.asking.stuck()
            {
                anyhow::bail!("{why}");
            }
            run.prepare_to_stand_still();
            if run.is_done() {
                if !run.at.progress.stop.load(Ordering::Acquire) {
                    tracing::info!("caught up");
                }
                run.at.progress.stop.store(true, Ordering::Release);
            }
        }
    }
}

impl Run {
    /// Where there is something that only a service that stands still can do: the client makes no
    /// new calls from now on, and those in flight are waited for, because what is cut off is paid
    /// again. Epochs are committed meanwhile.
    fn prepare_to_stand_still(&mut self) {
        if !self.compared || self.pending.is_some() {
            // Only an epoch can say what has gone since the last one.
            return;
        }
        let Committer { exchange, requests, asking, .. } = &mut self.at;
        if self.upkeep.wants_to_forget() {
            exchange.forget.store(true, Ordering::Release);
        }
        let due = exchange.forget.load(Ordering::Acquire) || requests.wants_collection();
        if due && asking.pauses() {
            exchange.still.store(true, Ordering::Release);
        }
    }

    /// The restored epoch: nothing to commit, unless config or code make something else of it.
    fn compare(&mut self, mut changes: EpochChanges) -> anyhow::Result<()> {
        let epoch = changes.epoch;
        self.at.asking.mined(epoch, &mut changes.pairs);
        let shown = std::mem::take(&mut self.at.shown);
        let (mut pairs, mut triplets) = (shown.pairs, shown.triplets);
        self.at.shown.measured = shown.measured;
        let mut pending = EpochChanges { epoch, ..EpochChanges::default() };
        // Of captions that came with a kill's journal, or are those of a captioner that was away.
        pending.embeddings = changes.embeddings;
        pending.pairs = changes.pairs;
        pending.triplets = changes.triplets;
        pending.rejects = shown.rejects;
        // Sides of different sizes, but there are two, and nothing else is done meanwhile.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = fingerprint::Writer::default();
                consolidate(&mut pending.pairs);
                pending.pairs.retain(|(pair, _)| pair.mined && !pairs.remove(&writer.pair(pair)));
            });
            let mut writer = fingerprint::Writer::default();
            consolidate(&mut pending.triplets);
            pending.triplets.retain(|(triplet, _)| !triplets.remove(&writer.triplet(triplet)));
        });
        // What is left are rows that the rules do not give.
        let gone = restore::find::<PairRow>(&self.at.publisher, &pairs)?;
        pending.pairs.extend(gone.iter().map(|row| (pair_of(row), -1)));
        let gone = restore::find::<TripletRow>(&self.at.publisher, &triplets)?;
        pending.triplets.extend(gone.iter().map(|row| (triplet_of(row), -1)));
        let shows = !pending.pairs.is_empty() || !pending.triplets.is_empty();
        if let Some(captioner) = self.captioner.as_ref().filter(|_| shows) {
            let memo = self.at.publisher.table(Table::Annotations.as_str());
            let memo = memo.context("no table annotations")?;
            self.captioned = written_after(memo, epoch, captioner)?;
        }
        if shows || !pending.rejects.is_empty() || !pending.embeddings.is_empty() {
            self.pending = Some(pending);
            self.at.exchange.force.store(true, Ordering::Release);
        } else if self.at.config_changed {
            // It changes no row, so that no epoch would say that it was accepted.
            let latest = self.at.publisher.renew_info(self.at.in_force.clone())?;
            latest.iter().for_each(|latest| self.show(latest));
        }
        self.at.asking.want(changes.requests);
        self.at.metrics.waiting(self.at.asking.waiting());
        self.at.metrics.enter(Phase::Running);
        let (rows, took) = (self.at.metrics.restored_rows(), self.at.metrics.uptime());
        let seconds = took.as_secs_f64();
        tracing::info!(
            epoch,
            rows,
            seconds,
            "restored: epoch {epoch}, {rows} rows in {seconds:.1} s"
        );
        self.compared = true;
        Ok(())
    }

    fn commit(&mut self, mut changes: EpochChanges) -> anyhow::Result<()> {
        let began = Instant::now();
        let epoch = changes.epoch;
        let config_changed = self.pending.is_some() && self.at.config_changed;
        if let Some(pending) = self.pending.take() {
            changes.pairs.extend(pending.pairs);
            changes.triplets.extend(pending.triplets);
            changes.rejects.extend(pending.rejects);
            changes.embeddings.extend(pending.embeddings);
        }
        for row in &changes.contents {
            if let Some(id) = ContentId::parse(&row.content_id) {
                let size = (row.width, row.height);
                self.at.shown.measured.insert(id, (row.measures.clone(), size));
            }
        }
        let outcome = |row: &AnnotationRow| (row.request_id.clone(), row.outcome.clone());
        let outcomes: Vec<(String, String)> = changes.annotations.iter().map(outcome).collect();
        let requests = std::mem::take(&mut changes.requests);
        let counts = Counts::of(&changes);
        let gone = lost(&changes.images);
        let mut tally = Tally::of(&changes);
        let (_, reasons) = tally.turned_away();
        self.at.asking.mined(epoch, &mut changes.pairs);
        let commit = self.epoch_commit(changes, config_changed)?;
        tally.rows(&commit);
        let latest = self.at.publisher.publish(commit)?;
        if let Some(latest) = &latest {
            self.show(latest);
            self.keep_pages(latest.epoch)?;
        }
        let asked = self.at.requests.committed(epoch);
        self.at.asking.gone(gone);
        self.at.asking.want(requests);
        self.at.asking.committed(outcomes);
        if latest.is_none() && asked > 0 {
            tracing::info!(
                requests = asked,
                "what was asked for is so already: nothing changes, and no epoch is written"
            );
        }
        if latest.is_some() {
            self.newest_at = Instant::now();
            let (waiting, took) = (self.at.asking.waiting(), began.elapsed());
            let why = if reasons.is_empty() { reasons } else { format!(" ({reasons})") };
            tracing::info!(
                epoch,
                images = counts.images,
                pairs = counts.pairs,
                triplets = counts.triplets,
                rejects = counts.rejects,
                answers = counts.annotations,
                waiting,
                seconds = took.as_secs_f64(),
                "epoch {epoch}: {counts}{why}, {waiting} wait for an answer, committed in {} ms",
                took.as_millis()
            );
        }
        self.at.progress.committed.store(epoch, Ordering::Release);
        self.at.metrics.waiting(self.at.asking.waiting());
        let (took, publisher) = (began.elapsed(), &self.at.publisher);
        self.at.metrics.committed(epoch, &counts, tally, took, publisher, latest.as_ref());
        if latest.is_some() {
            self.at.metrics.write()?;
            let (publisher, metrics) = (&mut self.at.publisher, &self.at.metrics);
            self.upkeep.after_epoch(publisher, &self.pages, metrics)?;
        }
        Ok(())
    }

    /// Upkeep of the tables while nothing comes.
    fn keep_up(&mut self) -> anyhow::Result<()> {
        self.look_for_newer()?;
        if !self.compared {
            return Ok(());
        }
        let (publisher, metrics) = (&mut self.at.publisher, &self.at.metrics);
        self.upkeep.when_idle(publisher, &self.pages, metrics)
    }

    /// A commit would notice that another writer has taken over; nothing else does.
    fn look_for_newer(&mut self) -> anyhow::Result<()> {
        if self.newest_at.elapsed() < limits::FENCE_INTERVAL {
            return Ok(());
        }
        self.newest_at = Instant::now();
        match self.at.publisher.check_newest() {
            Err(end @ (delta::Error::Fenced(_) | delta::Error::Gone(_))) => Err(end.into()),
            Err(error) => {
                tracing::warn!("whether another service has taken over cannot be seen: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Requests that somebody has exported beside a service that asks would be paid twice.
    fn look_for_batches(&mut self) -> anyhow::Result<()> {
        if self.batches_at.elapsed() < limits::FENCE_INTERVAL {
            return Ok(());
        }
        self.batches_at = Instant::now();
        self.at.asking.refuse_batches()
    }

    /// Removes the oldest pages under `_everpair/epochs/` past those that the config keeps.
    fn keep_pages(&mut self, newest: Epoch) -> anyhow::Result<()> {
        self.pages.insert(newest);
        while self.pages.len() > self.at.epochs_kept
            && let Some(oldest) = self.pages.pop_first()
        {
            self.at.store.delete(&format!("{EPOCHS}/{oldest}.json")).context("remove old pages")?;
        }
        Ok(())
    }

    fn show(&self, latest: &Latest) {
        if let Ok(mut committed) = self.at.exchange.committed.lock() {
            *committed = metrics::offsets(&latest.offsets);
        }
    }

    /// What an epoch does to each table, as batches and keys.
    fn epoch_commit(
        &mut self,
        mut changes: EpochChanges,
        config_changed: bool,
    ) -> anyhow::Result<EpochCommit> {
        let epoch = changes.epoch;
        let at = i64::try_from(epoch).context("epochs fit into 63 bits")?;
        let mut out = BTreeMap::new();
        let mut put = |table: Table, change: Change| out.insert(table.as_str().to_owned(), change);

        // Rows are sorted by what they are looked up by: readers skip row groups and pages.
        let mut contents = changes.contents;
        contents.sort_by(|a, b| a.content_id.cmp(&b.content_id));
        contents.iter_mut().for_each(|row| row.epoch = at);
        put(Table::Contents, inserts(&contents)?);
        let mut embeddings = changes.embeddings;
        embeddings.sort_by(|a, b| (&a.channel, &a.content_id).cmp(&(&b.channel, &b.content_id)));
        embeddings.iter_mut().for_each(|row| row.epoch = at);
        put(Table::Embeddings, inserts(&embeddings)?);
        let mut annotations = changes.annotations;
        annotations.sort_by(|a, b| a.request_id.cmp(&b.request_id));
        annotations.iter_mut().for_each(|row| row.epoch = at);
        let mut captioned = captioned(&annotations, self.captioner.as_ref());
        captioned.extend(std::mem::take(&mut self.captioned));
        put(Table::Annotations, inserts(&annotations)?);
        let mut rejects = changes.rejects;
        rejects.sort();
        rejects.iter_mut().for_each(|row| row.epoch = at);
        put(Table::Rejects, inserts(&rejects)?);

        // Blocking what is blocked is no change: a request may come twice.
        let held = self.at.publisher.table(Table::Blocked.as_str());
        let mut blocked = changes.blocked;
        blocked.sort();
        blocked.dedup_by(|a, b| (&a.kind, &a.value) == (&b.kind, &b.value));
        blocked.retain(|row| {
            let key = Key::of(&[&row.kind, &row.value]);
            held.is_none_or(|table| !table.contains(&key))
        });
        blocked.iter_mut().for_each(|row| row.epoch = at);
        put(Table::Blocked, inserts(&blocked)?);

        consolidate(&mut changes.pairs);
        let (mut insert, mut delete) = (Vec::new(), Vec::new());
        for (pair, diff) in changes.pairs.iter().filter(|(pair, _)| pair.mined) {
            match *diff > 0 {
                true => insert.push(pair_row(pair, at)),
                false => delete.push(Key::of(&[&pair.query_id, &pair.target_id])),
            }
        }
        put(Table::Pairs, Change { delete, ..inserts(&insert)? });

        let moved = |came: bool| {
            let of_kind = changes.pairs.iter().filter(move |(p, d)| p.mined && (*d > 0) == came);
            of_kind.map(|(p, _)| (&*p.query_id, &*p.target_id)).collect::<BTreeSet<(&str, &str)>>()
        };
        let (came, gone) = (moved(true), moved(false));
        let held = self.at.publisher.table(Table::Pairs.as_str());
        let shown = |query: &str, target: &str| {
            held.is_some_and(|table| table.contains(&Key::of(&[query, target])))
        };

        consolidate(&mut changes.images);
        let touched = touched(&changes.images);
        let (mut insert, mut delete) = (Vec::new(), Vec::new());
        for (mut row, diff) in changes.images {
            match diff > 0 {
                true => {
                    row.epoch = at;
                    insert.push(row);
                }
                false => delete.push(Key::of(&[&row.image_id])),
            }
        }
        let images = Change { delete, ..inserts(&insert)? };
        put(Table::Images, images);

        let cause = Cause {
            touched: &|id| touched.contains(id),
            captioned: &|content| captioned.contains(&content),
            paired: &|query, target| {
                let key = (query, target);
                came.contains(&key) || !gone.contains(&key) && shown(query, target)
            },
            config: config_changed.then_some(ConfigChange::Other),
        };
        let (triplets, mut log) = triplet_changes(changes.triplets, epoch, &cause)?;
        // By query: what is trained on together lies together. Stable, because a delete comes
        // before the insert of the same row.
        log.sort_by(|a, b| (&a.query_id, &a.target_id).cmp(&(&b.query_id, &b.target_id)));
        put(Table::Changes, inserts(&log)?);
        let (mut insert, mut delete) = (Vec::new(), Vec::new());
        for (old, new) in triplets {
            delete.extend(old.map(|row| Key::of(&[&row.triplet_id])));
            insert.extend(new);
        }
        insert.sort_by(|a, b| (&a.query_id, &a.target_id).cmp(&(&b.query_id, &b.target_id)));
        put(Table::Triplets, Change { delete, ..inserts(&insert)? });

        let offsets = changes.offsets.into_iter();
        let offsets = offsets.map(|((topic, p), next)| ((topic.to_string(), p), next)).collect();
        let rows = self.rejects_of(&changes.read_again)?;
        let rows = [(Table::Rejects.as_str().to_owned(), rows)].into();
        Ok(EpochCommit { epoch, changes: out, rows, offsets, info: self.at.in_force.clone() })
    }

    /// The rows of `rejects` about messages that were read again. They leave, and what is turned
    /// away again comes back with what is wrong with it now: `rejects` says what holds under the
    /// config that last read a message, as if it had always been so (I2).
    fn rejects_of(&self, messages: &BTreeSet<(String, i32, i64)>) -> anyhow::Result<Rows> {
        #[derive(Deserialize)]
        struct At {
            topic: Option<String>,
            partition: Option<i32>,
            offset: Option<i64>,
        }
        let Some(table) = self.at.publisher.table(Table::Rejects.as_str()) else {
            return Ok(Rows::new());
        };
        if messages.is_empty() {
            return Ok(Rows::new());
        }
        let rows = table.rows_where(&["topic", "partition", "offset"], |batch| {
            let rows: Vec<At> = serde_arrow::from_record_batch(batch)
                .map_err(|error| delta::Error::Unreadable(format!("rejects: {error}")))?;
            let named = |row: At| Some((row.topic?, row.partition?, row.offset?));
            let gone = |row| named(row).is_some_and(|at| messages.contains(&at));
            Ok(rows.into_iter().map(gone).collect())
        });
        rows.context("look for rejects to take back")
    }

    fn ask(&mut self) {
        self.at.asking.send_audited();
        if !self.compared || !self.has_committed(self.at.asks_from.as_ref()) {
            return;
        }
        // Nothing more comes than was there at the start: pairs hold then, however short.
        let holds = self.at.ends.is_some() && self.has_committed(self.at.ends.as_ref());
        let measured = &self.at.shown.measured;
        let look = |content: &ContentId| measured.get(content).cloned();
        self.at.asking.go_on(&look, holds, &self.at.metrics);
        self.at.metrics.stands(self.at.asking.standing());
    }

    /// Whether everything before these offsets is committed; nothing is before none.
    fn has_committed(&self, ends: Option<&Offsets>) -> bool {
        let Some(ends) = ends else { return true };
        let Ok(committed) = self.at.exchange.committed.lock() else { return false };
        ends.iter().all(|(partition, end)| {
            *end == 0 || committed.get(partition).is_some_and(|next| next >= end)
        })
    }

    /// With `--until-caught-up`: all that was there at start is committed, and no pair waits.
    fn is_done(&self) -> bool {
        self.at.ends.is_some()
            && self.compared
            && self.pending.is_none()
            && self.has_committed(self.at.ends.as_ref())
            && self.at.requests.done_with()
            && self.at.asking.is_done()
    }
}

/// How many rows of each kind an epoch moved, for status.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Steps of `images`.
    pub images: usize,
    /// Steps of `pairs`.
    pub pairs: usize,
    /// Steps of `triplets`.
    pub triplets: usize,
    /// New rejects.
    pub rejects: usize,
    /// New answers.
    pub annotations: usize,
    /// Images whose last two messages came from different partitions: for those the message that
    /// is read later wins, and the order of reading is not promised (I2).
    pub moved_keys: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { images, pairs, triplets, rejects, .. } = self;
        write!(
            f,
            "{images} steps of images, {pairs} of pairs, {triplets} of triplets, {rejects} rejects"
        )
    }
}

impl Counts {
    fn of(changes: &EpochChanges) -> Counts {
        Counts {
            images: changes.images.len(),
            pairs: changes.pairs.len(),
            triplets: changes.triplets.len(),
            rejects: changes.rejects.len(),
            annotations: changes.annotations.len(),
            moved_keys: moved_keys(&changes.images),
        }
    }
}

/// Now, in microseconds UTC.
pub(super) fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
}
