//! What committed pairs ask for: since when each is wanted, who is asked, and which answers are on
//! their way to a commit.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use anyhow::Context;
use operators::flow::Request;
use schemas::{
    ContentId,
    config::{AnnotatorKind, Config},
    limits,
    tables::{AnnotationRow, Table},
};

use super::{commit::now_us, rows::consolidate};
use crate::{
    annotator::{
        Annotator, Looked,
        openai::{
            Client, Parts, Standing, journal,
            library::{Known, Memo, Tables, memo},
            prompts::{Description, Prompts},
        },
        template::Template,
    },
    delta::Publisher,
    metrics::Metrics,
};

/// Who is asked.
enum Asked {
    /// Answers at once.
    Embedded(Box<dyn Annotator>),
    /// Answers in its own time.
    Model(Box<Client>),
}

/// The annotator's work: of committed epochs only.
pub struct Asking {
    asked: Asked,
    settle: Duration,
    /// Answers go here.
    answers: Sender<Vec<AnnotationRow>>,
    /// With the time since when.
    wanted: BTreeMap<String, (Request, Instant)>,
    /// Requests that were not handed over yet, in the order in which they came.
    fresh: VecDeque<(String, Instant)>,
    /// Requests whose answers are on their way to a commit. One that is no longer wanted stays until
    /// then: wanted again meanwhile, it must not be asked again (I8).
    answered: BTreeSet<String>,
    out_of: Option<&'static str>,
}

/// Notes what a description says, if it is one.
fn describes(row: &AnnotationRow, known: &mut Memo) {
    if row.task == operators::flow::DESCRIBE {
        let parts = Description::of_parts(&row.instructions);
        let is = parts.filter(|_| row.outcome == "ok").map_or(Known::Failed, Known::Here);
        known.described.insert(row.request_id.clone(), is);
    }
}

impl Asking {
    /// By the config. What an earlier run was answered and did not commit goes on its way now.
    ///
    /// # Errors
    /// The endpoint, the prompts or what was spent so far cannot be used; the message says why.
    pub fn new(
        config: &Config,
        publisher: &Publisher,
        answers: Sender<Vec<AnnotationRow>>,
    ) -> anyhow::Result<Asking> {
        let store = publisher.store();
        let waiting = journal::read(store)?;
        let asks = config.annotator.kind == AnnotatorKind::OpenAi;
        let mut known = Memo::default();
        if asks || !waiting.is_empty() {
            let table = publisher.table(Table::Annotations.as_str());
            known = memo(table.context("no table annotations")?).context("read the memo")?;
        }
        let mut answered = BTreeSet::new();
        let mut rows = Vec::new();
        for row in waiting {
            let id = ContentId::parse(&row.request_id);
            if id.is_some_and(|id| known.requests.contains(&id)) {
                // Committed, and killed before it was removed: perhaps before readers see it.
                journal::remove(store, &row.request_id)?;
                describes(&row, &mut known);
                continue;
            }
            describes(&row, &mut known);
            answered.insert(row.request_id.clone());
            rows.push(row);
        }
        if !rows.is_empty() {
            tracing::info!("{} answers of an earlier run are committed now", rows.len());
            let _ = answers.send(rows);
        }
        let asked = match config.annotator.kind {
            AnnotatorKind::Template => Asked::Embedded(Box::new(Template::new())),
            AnnotatorKind::OpenAi => Asked::Model(Box::new(Client::start(Parts {
                config: config.annotator.clone(),
                prompts: Prompts::of(&config.annotator)?,
                store: store.clone(),
                library: Box::new(Tables::new(store)),
                memo: known,
            })?)),
        };
        let (wanted, fresh) = Default::default();
        let settle = config.annotator.settles();
        Ok(Asking { asked, settle, answers, wanted, fresh, answered, out_of: None })
    }

    /// Steps of the work list, of an epoch that is committed.
    pub fn want(&mut self, mut requests: Vec<(Request, isize)>) {
        consolidate(&mut requests);
        for (request, diff) in requests {
            let id = request.request_id.clone();
            if diff > 0 {
                let now = Instant::now();
                self.fresh.push_back((id.clone(), now));
                self.wanted.insert(id, (request, now));
            } else {
                self.wanted.remove(&id);
                if let Asked::Model(client) = &mut self.asked {
                    client.drop_request(id);
                }
            }
        }
    }

    /// Outcomes that the tables have now.
    pub fn committed(&mut self, rows: Vec<(String, String)>) {
        for (id, _) in &rows {
            // One whose texts were withdrawn answers nothing.
            if self.answered.remove(id)
                && let Some((_, since)) = self.wanted.get(id)
            {
                self.fresh.push_back((id.clone(), *since));
            }
        }
        if let Asked::Model(client) = &mut self.asked {
            client.committed(rows);
        }
    }

    /// Pairs that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.wanted.len()
    }

    /// Hands over what has held for long enough, and sends on what has come back. `holds` says that
    /// pairs hold whatever time has passed, for nothing more comes.
    pub fn go_on(
        &mut self,
        look: &dyn Fn(&ContentId) -> Option<Looked>,
        holds: bool,
        metrics: &Metrics,
    ) {
        let mut due = Vec::new();
        while let Some((id, since)) = self.fresh.front() {
            if !holds && since.elapsed() < self.settle {
                break;
            }
            let current = self.wanted.get(id).filter(|(_, wanted)| wanted == since);
            if let Some((request, _)) = current
                && !self.answered.contains(id)
            {
                due.push(request.clone());
            }
            self.fresh.pop_front();
        }
        metrics.asked(due.len());
        let rows = match &mut self.asked {
            Asked::Embedded(annotator) => {
                let answer = |request: Request| {
                    let asked_at = now_us();
                    let request_id = &request.request_id;
                    tracing::trace!(request_id, asked_at, "the annotator is asked");
                    annotator.annotate(&request, look, asked_at)
                };
                due.into_iter().map(answer).collect()
            }
            Asked::Model(client) => {
                client.want(due);
                client.take()
            }
        };
        if !rows.is_empty() {
            self.answered.extend(rows.iter().map(|row| row.request_id.clone()));
            // Ingest that is gone has said why, and the run is about to end.
            let _ = self.answers.send(rows);
        }
        self.tell();
    }

    /// Says once that money has run out.
    fn tell(&mut self) {
        let Some(at) = self.standing() else { return };
        if at.out_of.is_some() && at.out_of != self.out_of {
            let (what, spent, pairs) = (at.out_of.unwrap_or_default(), at.spent, at.pairs);
            tracing::warn!(
                "[annotator] {what} is spent, {spent:.4} USD in all: {pairs} pairs wait"
            );
        }
        self.out_of = at.out_of;
    }

    /// Where the client stands, where there is one.
    pub fn standing(&self) -> Option<Standing> {
        match &self.asked {
            Asked::Embedded(_) => None,
            Asked::Model(client) => Some(client.standing()),
        }
    }

    /// No pair waits for an answer that money still allows, and no answer for its commit.
    pub fn is_done(&self) -> bool {
        let rests = match &self.asked {
            Asked::Embedded(_) => None,
            Asked::Model(client) => client.rests(),
        };
        let handed_over = self.fresh.is_empty() && self.answered.is_empty();
        match rests {
            Some(why) if handed_over && !self.wanted.is_empty() => {
                tracing::warn!("{why}");
                true
            }
            _ => self.wanted.is_empty() && self.answered.is_empty(),
        }
    }

    /// Why no answer will come until a person sees to it.
    pub fn stuck(&self) -> Option<String> {
        match &self.asked {
            Asked::Embedded(_) => None,
            Asked::Model(client) => client.stuck(limits::ANNOTATOR_DOWN_MAX),
        }
    }
}
