//! Replay: messages that were turned away are read again, after a fix.
//!
//! ```text
//!  everpair replay ─► _everpair/requests/ ─► ingest: 1. who came later?  2. read again ─► an epoch
//! ```
//!
//! The tables must end as if today's config had been there when the messages were first read (I2).
//! So a message keeps its place: it loses to every later message of its id, be that a live image, a
//! tombstone or one that was turned away too. Of the last two nothing is kept in the tables, so the
//! source is read from the first wanted message to where the service stands, and whatever names one
//! of the wanted ids is noted; then the wanted ones are read, with their bytes fetched where they
//! are references. What `rejects` said of them leaves with the epoch that reads them again, and
//! what is turned away again gets its row of today.
//!
//! Reading again changes nothing that is as it should be, so a request that is carried out twice,
//! for a service was killed in between, ends the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use schemas::{
    config::Config,
    limits,
    message::{self, KeySource, Reading, Record},
    reject::{Reason, Stage},
    tables::RejectRow,
};

use crate::{
    cli::{BadConfig, read_config},
    dataset::{At, Dataset},
    errln, fetch, outln,
    requests::{self, Messages, Request},
    service,
    source::{self, Offsets, Polled, Source, SourceError, SourceView},
};

/// How long one look at the source takes.
const POLL: Duration = Duration::from_millis(100);

/// Arguments of `replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// The config file (TOML), as it is after the fix.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only what was turned away for this reason; may be given more than once.
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// Only what this stage turned away: ingest, decode, screen or register.
    #[arg(long)]
    pub stage: Option<String>,
    /// Only what was turned away in this epoch or later.
    #[arg(long, value_name = "EPOCH")]
    pub since: Option<i64>,
    /// Only show what would be read again: topic, partition, offset, reason and id on stdout.
    #[arg(long)]
    pub dry_run: bool,
}

/// Asks the service, running or not, to read rejected messages again.
pub fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let config = read_config(&args.config)?;
    check(args)?;
    let store = service::open_tables(&config)?;
    let mut rows = Dataset::open(&store, &At::Latest)?.rows::<RejectRow>()?;
    let one_of = |row: &RejectRow| args.reason.is_empty() || args.reason.contains(&row.reason);
    rows.retain(|row| {
        row.offset.is_some()
            && one_of(row)
            && args.stage.as_ref().is_none_or(|stage| *stage == row.stage)
            && args.since.is_none_or(|since| row.epoch >= since)
    });
    rows.sort_by(|a, b| place(a).cmp(&place(b)));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter().for_each(|row| *counts.entry(&row.reason).or_default() += 1);
    let counts: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if rows.is_empty() {
        errln!("no rejected message is like that: nothing to read again");
        return Ok(());
    }
    if args.dry_run {
        for row in &rows {
            if let Some((topic, partition, offset)) = place(row) {
                let id = row.image_id.as_deref().unwrap_or_default();
                outln!("{topic}\t{partition}\t{offset}\t{}\t{id}", row.reason);
            }
        }
        errln!("{} messages would be read again: {}", rows.len(), counts.join(", "));
        return Ok(());
    }
    for rows in rows.chunks(limits::REPLAY_ROWS) {
        let mut partitions: BTreeMap<(&str, i32), Vec<i64>> = BTreeMap::new();
        for (topic, partition, offset) in rows.iter().filter_map(place) {
            partitions.entry((topic, partition)).or_default().push(offset);
        }
        let replay = partitions.into_iter().map(|((topic, partition), offsets)| Messages {
            topic: topic.to_owned(),
            partition,
            offsets,
        });
        requests::ask(&store, &Request { replay: replay.collect(), ..Request::default() })?;
    }
    errln!(
        "asked to read {} messages again ({}); the service does so with its next epochs and says \
         what is gone from the source",
        rows.len(),
        counts.join(", ")
    );
    Ok(())
}

fn check(args: &ReplayArgs) -> Result<(), BadConfig> {
    let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    if let Some(bad) = args.reason.iter().find(|reason| !known.contains(&reason.as_str())) {
        return Err(BadConfig(format!("--reason {bad}: must be one of {}", known.join(", "))));
    }
    let stages = [Stage::Ingest, Stage::Decode, Stage::Screen, Stage::Register].map(Stage::as_str);
    match &args.stage {
        Some(bad) if !stages.contains(&bad.as_str()) => {
            Err(BadConfig(format!("--stage {bad}: must be one of {}", stages.join(", "))))
        }
        _ => Ok(()),
    }
}

fn place(row: &RejectRow) -> Option<(&str, i32, i64)> {
    Some((row.topic.as_deref()?, row.partition?, row.offset?))
}

type Place = (Arc<str>, i32);
type Wanted = BTreeMap<Place, BTreeSet<i64>>;

/// A replay in the service.
pub struct Replay {
    key: KeySource,
    source: Box<dyn Source>,
    wanted: Wanted,
    /// Per partition, the offset up to which the source must still be read.
    until: Offsets,
    /// Per partition and id, the offset of the last message.
    newest: HashMap<(Place, String), i64>,
    stopped: Box<dyn Fn() -> bool>,
    moved: Instant,
    read: usize,
    superseded: usize,
    missing: usize,
}

impl Replay {
    /// Finds out what came after the wanted messages, up to `until`; after it [`Replay::next_record`]
    /// gives them one by one. Ends early where `stopped` says so.
    pub fn begin(
        config: &Config,
        messages: &[Messages],
        until: &Offsets,
        stopped: Box<dyn Fn() -> bool>,
    ) -> Result<Replay, SourceError> {
        let mut wanted = Wanted::new();
        for Messages { topic, partition, offsets } in messages {
            let place = (Arc::from(topic.as_str()), *partition);
            let end = until.get(&place).copied().unwrap_or(0);
            let passed = offsets.iter().copied().filter(|offset| *offset < end);
            wanted.entry(place).or_default().extend(passed);
        }
        let asked = messages.iter().map(|m| m.offsets.len()).sum::<usize>();
        wanted.retain(|_, offsets| !offsets.is_empty());
        let found = wanted.values().map(BTreeSet::len).sum::<usize>();
        let begin = first_of(&wanted);
        let mut replay = Replay {
            key: config.source.key.clone(),
            source: source::open_again(&config.source, &begin)?,
            until: Offsets::new(),
            newest: HashMap::new(),
            stopped,
            moved: Instant::now(),
            read: 0,
            superseded: 0,
            missing: asked - found,
            wanted,
        };
        if replay.wanted.is_empty() {
            return Ok(replay);
        }
        // A partition that the source has no longer would be waited for in vain.
        let ends = replay.source.end_offsets()?;
        replay.wanted.retain(|place, offsets| {
            let there = ends.contains_key(place);
            replay.missing += if there { 0 } else { offsets.len() };
            there
        });
        replay.until = replay.wanted.keys().map(|p| (p.clone(), until[p].min(ends[p]))).collect();
        while let Some(record) = replay.take()? {
            replay.note(&record);
        }
        let picked = Picked {
            inner: source::open_again(&config.source, &first_of(&replay.wanted))?,
            wanted: replay.wanted.clone(),
        };
        let fetching = fetch::in_front_of(Box::new(picked), config);
        replay.source = fetching.map_err(|e| SourceError::Unusable(format!("{e:#}")))?;
        let last = |offsets: &BTreeSet<i64>| offsets.last().map_or(0, |last| last + 1);
        replay.until =
            replay.wanted.iter().map(|(p, offsets)| (p.clone(), last(offsets))).collect();
        replay.moved = Instant::now();
        Ok(replay)
    }

    /// The id of a wanted message, or a later message of such an id. Where ids are those of contents
    /// a tombstone may mean one that is only known once its bytes are fetched.
    fn note(&mut self, record: &Record) {
        let at = &record.position;
        let place = (at.topic.clone(), at.partition);
        let wanted = self.wanted.get(&place).is_some_and(|all| all.contains(&at.offset));
        let Some(id) = message::image_id_of(record, &self.key) else { return };
        let tombstone = self.key == KeySource::Content && record.value.is_none();
        let entry = (place, id);
        if wanted || tombstone || self.newest.contains_key(&entry) {
            self.newest.insert(entry, at.offset);
        }
    }

    /// The next wanted message, fetched, and marked with whether a later one stands in for it.
    pub fn next_record(&mut self) -> Result<Option<Record>, SourceError> {
        loop {
            let Some(mut record) = self.take()? else { return Ok(None) };
            let at = &record.position;
            let place = (at.topic.clone(), at.partition);
            // Taken out, so that what is left at the end is what was not there.
            let asked = self.wanted.get_mut(&place).is_some_and(|all| all.remove(&at.offset));
            if !asked {
                continue;
            }
            let id = message::image_id_of(&record, &self.key);
            let newest = id.and_then(|id| self.newest.get(&(place, id)));
            record.reading = match newest {
                Some(newest) if *newest > at.offset => Reading::Superseded,
                _ => Reading::Again,
            };
            self.read += 1;
            self.superseded += usize::from(record.reading == Reading::Superseded);
            return Ok(Some(record));
        }
    }

    /// The next record below `until`.
    fn take(&mut self) -> Result<Option<Record>, SourceError> {
        while !self.until.is_empty() && !(self.stopped)() {
            let (place, next, record) = match self.source.poll(POLL)? {
                Polled::Idle if self.moved.elapsed() > limits::REPLAY_PATIENCE => {
                    let patience = limits::REPLAY_PATIENCE;
                    tracing::warn!("replay: the source gave nothing for {patience:?}: giving up");
                    self.until.clear();
                    continue;
                }
                Polled::Idle => continue,
                Polled::Progress { topic, partition, next_offset } => {
                    ((topic, partition), next_offset, None)
                }
                Polled::Record(record) => {
                    let at = &record.position;
                    ((at.topic.clone(), at.partition), at.offset + 1, Some(record))
                }
            };
            self.moved = Instant::now();
            let Some(until) = self.until.get(&place).copied() else { continue };
            if next >= until {
                self.until.remove(&place);
            }
            if let Some(record) = record.filter(|_| next <= until) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Says what came of it.
    pub fn report(&self) {
        let missing = self.missing + self.wanted.values().map(BTreeSet::len).sum::<usize>();
        let gone = match (self.stopped)() {
            true => "the rest when the service runs again".to_owned(),
            false => format!("{missing} are gone from the source and stay in rejects"),
        };
        tracing::info!(
            "replay: {} messages read again, of which {} have a later message of their id; {gone}",
            self.read,
            self.superseded
        );
    }
}

fn first_of(wanted: &Wanted) -> Offsets {
    let first = |offsets: &BTreeSet<i64>| offsets.first().copied();
    wanted.iter().filter_map(|(place, all)| Some((place.clone(), first(all)?))).collect()
}

/// A source of which only some records are wanted; fetching must not see the others.
struct Picked {
    inner: Box<dyn Source>,
    wanted: Wanted,
}

impl Source for Picked {
    fn poll(&mut self, wait: Duration) -> Result<Polled, SourceError> {
        let polled = self.inner.poll(wait)?;
        let Polled::Record(record) = &polled else { return Ok(polled) };
        let at = &record.position;
        let (topic, partition) = (at.topic.clone(), at.partition);
        let place = (topic.clone(), partition);
        if self.wanted.get(&place).is_some_and(|all| all.contains(&at.offset)) {
            return Ok(polled);
        }
        Ok(Polled::Progress { topic, partition, next_offset: at.offset + 1 })
    }

    fn hold(&mut self, wait: Duration) -> Result<(), SourceError> {
        self.inner.hold(wait)
    }

    fn end_offsets(&mut self) -> Result<Offsets, SourceError> {
        self.inner.end_offsets()
    }

    fn view(&mut self) -> SourceView {
        self.inner.view()
    }

    fn committed(&mut self, _: &Offsets) {}
}
