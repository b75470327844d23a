//! What came of a batch, from the files that whoever answered it has written.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use schemas::{
    config::Config,
    limits,
    tables::{AnnotationRow, Table},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    super::{
        failures::{self, Failure, Patience},
        journal,
        library::{Known, Library, Memo, Tables, memo},
        money::{Nanos, Prices, usd},
        prompts::{Description, Prompts},
        reply::{Bill, Ended, Verdict},
        work::{
            now_us,
            queue::Asks,
            row::{judged, say},
        },
    },
    Batch, Out,
    export::variation,
    finish, read_all,
};
use crate::{
    dataset::{At, Dataset},
    delta::Store,
    service::open_tables,
    settings::mining,
};

/// Lines that are judged before their outcomes are written down: each time the table is read once.
const CHUNK: usize = 10_000;
/// Lines that are named of those that cannot be read.
const SHOWN: usize = 10;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Imported {
    /// Lines with an outcome that is stored now, by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Requests that the next export has again, by how they failed.
    pub again: BTreeMap<String, u64>,
    /// Of these, why the first one was refused.
    pub refused: Option<String>,
    /// Lines that had been imported before.
    pub before: u64,
    /// Lines of no batch of these tables, or of one that was cancelled.
    pub unknown: u64,
    /// Lines that are no line of a batch's output, the first ones with why.
    pub unreadable: Vec<String>,
    /// How many these are.
    pub unreadable_count: u64,
    /// What the answers have cost.
    pub cost_usd: f64,
    /// Batches that are over.
    pub closed: Vec<String>,
    /// Lines that were not taken, of batches of which no answer is known: that decides what they are.
    pub undecided: u64,
    /// Requests still out.
    pub out: u64,
}

/// Reads files of answers, in any order and number. What was imported before changes nothing.
///
/// # Errors
/// The tables or a file cannot be read or written; what is written down stays, and the same command
/// goes on.
pub fn import(config: &Config, files: &[PathBuf]) -> anyhow::Result<Imported> {
    let prompts = Prompts::of(&config.annotator)?;
    let store = open_tables(config)?;
    finish(&store)?;
    let batches = read_all(&store)?;
    // In this order: an outcome leaves the journal when it is in the table.
    let waiting = journal::read(&store)?;
    let table = Dataset::open(&store, &At::Latest)?.table(Table::Annotations)?;
    let mut known = memo(&table).context("read the memo")?;
    waiting.iter().for_each(|row| known.learn(row));
    let failures = failures::read(&store)?.into_iter();
    let place = |(batch, of): (usize, &Batch)| {
        let numbers = of.out.iter().map(|out| out.number).enumerate();
        let places = numbers.map(|(at, number)| (number, (batch, at))).collect();
        (of.name.clone(), places)
    };
    let mut importing = Importing {
        prices: Prices::of(&config.annotator),
        library: Tables::new(&store, mining(config)?.bands),
        places: batches.iter().enumerate().map(place).collect(),
        ended: batches.iter().map(|_| BTreeMap::new()).collect(),
        waiting: waiting.into_iter().map(|row| row.request_id).collect(),
        failures: failures.map(|failure| (failure.row.request_id.clone(), failure)).collect(),
        answered: batches.iter().map(|batch| batch.spent > 0).collect(),
        held: batches.iter().map(|_| Vec::new()).collect(),
        patience: Patience::default(),
        said: Imported::default(),
        prompts,
        store,
        batches,
        known,
    };
    // Before anything is written down.
    for file in files {
        File::open(file).with_context(|| format!("read {}", file.display()))?;
    }
    for file in files {
        importing.file(file).with_context(|| format!("read {}", file.display()))?;
    }
    importing.end()
}

struct Importing {
    prompts: Prompts,
    prices: Prices,
    store: Store,
    library: Tables,
    batches: Vec<Batch>,
    /// By the batch's name and the line's number where a request is that is out.
    places: HashMap<String, HashMap<u64, (usize, usize)>>,
    /// By number, what each request has cost that is not out any more.
    ended: Vec<BTreeMap<u64, Nanos>>,
    known: Memo,
    /// Request ids of the journal.
    waiting: HashSet<String>,
    failures: HashMap<String, Failure>,
    /// Whether the endpoint has taken a request of each batch.
    answered: Vec<bool>,
    /// Until that is known: what it has not taken.
    held: Vec<Vec<Held>>,
    patience: Patience,
    said: Imported,
}

/// A line about a request that is out.
struct Line {
    place: (usize, usize),
    /// None where it was not asked: the batch has expired, or was cancelled.
    ended: Option<Ended>,
}

/// A request that was not answered, through its own fault or that of whoever was asked.
enum Held {
    /// Bad, and why.
    Bad(u64, AnnotationRow, String),
    /// Not answered, at no cost.
    Later(Failure),
}

/// What becomes of a request.
enum Fate {
    /// It has an outcome.
    Row(AnnotationRow),
    /// It is exported again, and how it failed this time is remembered.
    Again(Failure),
    /// The same, and nothing is held against it: why, where all that is asked is refused.
    Open(Option<String>),
    /// The other requests of its batch say.
    Held(Held),
}

impl Importing {
    fn file(&mut self, file: &Path) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for (at, line) in BufReader::new(File::open(file)?).split(b'\n').enumerate() {
            let line = line?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line);
            match parse(line) {
                Ok((id, ended)) => match self.place(&id) {
                    Some(Some((batch, at))) => {
                        let number = self.batches[batch].out[at].number;
                        // What that costs is not known yet.
                        match self.ended[batch].insert(number, 0) {
                            None => lines.push(Line { place: (batch, at), ended }),
                            Some(cost) => {
                                self.ended[batch].insert(number, cost);
                                self.said.before += 1;
                            }
                        }
                    }
                    Some(None) => self.said.before += 1,
                    None => self.said.unknown += 1,
                },
                Err(why) => {
                    self.said.unreadable_count += 1;
                    if self.said.unreadable.len() < SHOWN {
                        let named = file.display();
                        self.said.unreadable.push(format!("{named}, line {}: {why}", at + 1));
                    }
                }
            }
            if lines.len() >= CHUNK {
                self.take(std::mem::take(&mut lines))?;
            }
        }
        self.take(lines)
    }

    /// Where the request of a line is; none within a batch that has it no more, none at all where there
    /// is no such batch.
    fn place(&self, custom_id: &str) -> Option<Option<(usize, usize)>> {
        let (batch, number) = custom_id.rsplit_once('.')?;
        let (places, number) = (self.places.get(batch)?, number.parse().ok()?);
        let of = self.batches.iter().find(|held| held.name == batch)?;
        (number < of.requests).then(|| places.get(&number).copied())
    }

    /// Judges, and writes down.
    fn take(&mut self, lines: Vec<Line>) -> anyhow::Result<()> {
        let described = self.descriptions(&lines)?;
        let (mut rows, mut again) = (Vec::new(), Vec::new());
        for Line { place: (batch, at), ended } in lines {
            let of = &self.batches[batch];
            let out = &of.out[at];
            let id = &out.row.request_id;
            // Killed after it was written down, and begun again.
            let written = self.known.has(id) || self.waiting.contains(id);
            let failed = self.failures.get(id);
            let again_written = failed.is_some_and(|held| held.batch.as_ref() == Some(&of.name));
            let before = failed.filter(|_| !again_written);
            let (cost, fate) = match ended {
                None => (0, Fate::Open(None)),
                Some(ended) => {
                    let description = out.describe_id.as_ref().and_then(|id| described.get(id));
                    self.judge((of, out), description, before, ended)
                }
            };
            self.ended[batch].insert(out.number, cost);
            self.said.cost_usd += usd(cost);
            self.answered[batch] |= !matches!(fate, Fate::Open(_) | Fate::Held(_));
            match fate {
                _ if written => self.said.before += 1,
                Fate::Held(held) => self.held[batch].push(held),
                Fate::Open(why) => {
                    let how = if why.is_some() { "refused" } else { "not asked" };
                    *self.said.again.entry(how.into()).or_default() += 1;
                    self.said.refused = self.said.refused.take().or(why);
                }
                Fate::Again(failure) => {
                    *self.said.again.entry(failure.row.outcome.clone()).or_default() += 1;
                    if !again_written {
                        again.push(failure);
                    }
                }
                Fate::Row(row) => {
                    *self.said.outcomes.entry(row.outcome.clone()).or_default() += 1;
                    rows.push(row);
                }
            }
        }
        self.write(&rows, &again)
    }

    fn write(&self, rows: &[AnnotationRow], again: &[Failure]) -> anyhow::Result<()> {
        let store = &self.store;
        journal::at_once(again, |failure| failures::write(store, failure))?;
        journal::at_once(rows, |row| {
            journal::write(store, row)?;
            match self.failures.contains_key(&row.request_id) {
                true => failures::remove(store, &row.request_id),
                false => Ok(()),
            }
        })?;
        Ok(())
    }

    /// Where the endpoint has taken other requests of a batch, those that it has not taken are to blame
    /// themselves; where it has taken none of many, it is asked in a way that it does not know, or was
    /// down.
    fn release(&mut self) -> anyhow::Result<()> {
        let (mut rows, mut again) = (Vec::new(), Vec::new());
        for (batch, held) in std::mem::take(&mut self.held).into_iter().enumerate() {
            let few = held.len() <= limits::ANNOTATOR_BAD_REQUESTS as usize;
            let more = self.batches[batch].out.len() > self.ended[batch].len();
            for held in held {
                match held {
                    Held::Bad(_, row, _) if self.answered[batch] || few => {
                        *self.said.outcomes.entry(row.outcome.clone()).or_default() += 1;
                        rows.push(row);
                    }
                    // The answers may be in another file.
                    Held::Bad(number, ..) if more => {
                        self.ended[batch].remove(&number);
                        self.said.undecided += 1;
                    }
                    Held::Bad(_, _, why) => {
                        *self.said.again.entry("refused".into()).or_default() += 1;
                        let why = format!("{why} (does [annotator] ask in a way it takes?)");
                        self.said.refused.get_or_insert(why);
                    }
                    Held::Later(mut failure) => {
                        let id = &failure.row.request_id;
                        let before = self.failures.get(id);
                        let written = before.is_some_and(|held| held.batch == failure.batch);
                        *self.said.again.entry(failure.row.outcome.clone()).or_default() += 1;
                        failure.times -= u32::from(!self.answered[batch]);
                        again.extend((!written).then_some(failure));
                    }
                }
            }
        }
        self.write(&rows, &again)
    }

    fn descriptions(&mut self, lines: &[Line]) -> anyhow::Result<HashMap<String, Description>> {
        let out =
            lines.iter().map(|Line { place: (batch, at), .. }| &self.batches[*batch].out[*at]);
        let ids: HashSet<String> = out.filter_map(|out| out.describe_id.clone()).collect();
        let mut found = self.library.descriptions(&ids)?;
        for id in ids {
            if let Some(Known::Here(here)) = self.known.described.get(&id) {
                found.insert(id, here.clone());
            }
        }
        Ok(found)
    }

    fn judge(
        &self,
        (batch, out): (&Batch, &Out),
        description: Option<&Description>,
        before: Option<&Failure>,
        ended: Ended,
    ) -> (Nanos, Fate) {
        let (bill, verdict) = judged(Asks::of(&out.row.task), ended, &self.prompts);
        let mut row = AnnotationRow { created_at: now_us(), ..out.row.clone() };
        let cost = match bill {
            Bill::Nothing => 0,
            Bill::Tokens(usage) => {
                let add = |held: Option<i64>, more: u64| {
                    Some(held.unwrap_or(0).saturating_add(i64::try_from(more).unwrap_or(i64::MAX)))
                };
                row.prompt_tokens = add(row.prompt_tokens, usage.read);
                row.completion_tokens = add(row.completion_tokens, usage.written);
                self.prices.cost(usage.read, usage.written)
            }
            Bill::Most => out.most,
        };
        row.cost_usd = Some(row.cost_usd.unwrap_or(0.0) + usd(cost));
        let times = before.map_or(0, |failure| failure.times) + 1;
        let given_up = times > self.patience.times;
        let again = |row: AnnotationRow| {
            let (again_at, batch) = (row.created_at, Some(batch.name.clone()));
            Failure { again_at, row, times, batch }
        };
        let fate = match verdict {
            Verdict::Answer(said) => {
                let turned = row.target_content_id < row.query_content_id;
                say(&mut row, Ok(said), description.map(|text| text.directed(turned)));
                Fate::Row(row)
            }
            Verdict::Final(outcome, why) => {
                say(&mut row, Err(outcome), None);
                if outcome == "bad_request" {
                    Fate::Held(Held::Bad(out.number, row, why))
                } else {
                    Fate::Row(row)
                }
            }
            Verdict::Differently(_, outcome, _) => {
                // It was asked differently already.
                let tried = before
                    .is_some_and(|before| variation(&before.row.outcome) == variation(outcome));
                say(&mut row, Err(outcome), None);
                if tried || given_up { Fate::Row(row) } else { Fate::Again(again(row)) }
            }
            Verdict::Later { outcome, .. } => {
                say(&mut row, Err(outcome), None);
                match (given_up, cost) {
                    (true, _) => Fate::Row(row),
                    (false, 0) => Fate::Held(Held::Later(again(row))),
                    (false, _) => Fate::Again(again(row)),
                }
            }
            Verdict::Refuses(why) => Fate::Open(Some(why)),
        };
        (cost, fate)
    }

    /// Batches without a request that is out are over.
    fn end(mut self) -> anyhow::Result<Imported> {
        self.release()?;
        for (at, batch) in self.batches.iter().enumerate() {
            if batch.out.is_empty() {
                continue;
            }
            let ended = std::mem::take(&mut self.ended[at]);
            if ended.is_empty() {
                self.said.out += batch.out.len() as u64;
                continue;
            }
            let spent = batch.spent + ended.values().sum::<Nanos>();
            batch.note(&self.store, ended)?;
            // Another import, or somebody who gave it up, may have been here meanwhile.
            let now = read_all(&self.store)?.into_iter().find(|now| now.name == batch.name);
            let Some(now) = now else {
                batch.settle(&self.store, spent)?;
                batch.remove(&self.store)?;
                bail!(
                    "{} was cancelled while its answers were imported: those that were read are \
                     stored, and count as spent",
                    batch.name
                );
            };
            self.said.out += now.out.len() as u64;
            if now.out.is_empty() {
                now.close(&self.store)?;
                self.said.closed.push(now.name);
            }
        }
        Ok(self.said)
    }
}

/// A line of output: whose it is, and how it ended.
fn parse(line: &[u8]) -> anyhow::Result<(String, Option<Ended>)> {
    let line: Value = serde_json::from_slice(line).context("no JSON")?;
    let id = line["custom_id"].as_str().context("no custom_id")?.to_owned();
    let (response, error) = (&line["response"], &line["error"]);
    let body = match &response["body"] {
        body if body.is_object() => body.clone(),
        _ if error["error"].is_object() => error.clone(),
        _ => json!({ "error": error }),
    };
    let ended = match (response["status_code"].as_u64(), error["code"].as_str()) {
        (None, Some("batch_expired" | "batch_cancelled")) => return Ok((id, None)),
        (Some(status), _) => {
            let status = u16::try_from(status).context("status_code is none")?;
            let body = serde_json::to_vec(&body).context("a body")?;
            Ended::Replied { status, retry: None, after: None, body }
        }
        // As vLLM had it where a request failed.
        (None, _) if !error.is_null() => {
            let body = serde_json::to_vec(&body).context("a body")?;
            Ended::Replied { status: 500, retry: None, after: None, body }
        }
        (None, _) if line["method"].is_string() => {
            bail!("this is a request, no answer: import what came of the file, not the file itself")
        }
        (None, _) => bail!("neither a response nor an error"),
    };
    Ok((id, Some(ended)))
}
