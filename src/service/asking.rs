//! What committed pairs ask for: since when each is wanted, who is asked, and which answers are on
//! their way to a commit.

mod mined;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use anyhow::Context;
use operators::flow::{Pair, Request, TASK, Task};
use schemas::{
    ContentId, Epoch,
    config::{AnnotatorKind, Config},
    limits,
    tables::{AnnotationRow, Table},
};

use self::mined::MinedPairs;
use super::{commit::now_us, rows::consolidate};
use crate::{
    annotator::{
        Annotator, Looked,
        audit::{Auditing, Question},
        openai::{
            Client, Parts, Standing,
            batch::{self, arrivals::Arrivals},
            failures::{self, Patience},
            journal,
            judge::Unjudged,
            library::{Memo, Tables, memo},
            prompts::Prompts,
        },
        template::Template,
    },
    delta::{Publisher, Store},
    metrics::Metrics,
    settings::mining,
};

/// Who is asked.
enum Asked {
    /// Answers at once.
    Embedded(Box<dyn Annotator>),
    /// Answers in its own time.
    Model(Box<Client>),
    /// Answers are brought, by `everpair requests import`.
    Batches(Arrivals),
}

/// Since when requests are wanted, by their ids.
pub type Since = HashMap<String, Instant>;

/// The annotator's work: of committed epochs only.
pub struct Asking {
    asked: Asked,
    settle: Duration,
    /// Answers go here.
    answers: Sender<Vec<AnnotationRow>>,
    /// With the time since when.
    wanted: BTreeMap<String, (Request, Instant)>,
    /// How many of these are for captions.
    captions: usize,
    /// Pairs that were not handed over yet, in the order in which they came.
    fresh: BTreeSet<(Instant, String)>,
    /// Captions that were not: an image does not move as pairs do, and pairs wait for it.
    unasked: BTreeSet<String>,
    /// Requests that were wanted when the service stood still, until the first that are wanted
    /// behind it are known.
    waited: Since,
    /// Requests whose answers are on their way to a commit. One that is no longer wanted stays until
    /// then: wanted again meanwhile, it must not be asked again (I8).
    answered: BTreeSet<String>,
    /// Where answers are audited before they go on their way.
    auditing: Option<Auditing>,
    /// What was retrieved for each query; where answers are audited or judged.
    mined: Option<MinedPairs>,
    /// Whether a model judges answers before that; and those that are with it, of those on their way.
    judges: bool,
    judged: BTreeSet<String>,
    /// Outcomes of an earlier run, until it is known what is asked.
    early: Vec<AnnotationRow>,
    /// The newest that is committed.
    epoch: Epoch,
    out_of: Option<&'static str>,
    store: Store,
}

impl Asking {
    /// By the config. What an earlier run was answered and did not commit goes on its way now; what
    /// has `waited` since before the service stood still goes on to wait.
    ///
    /// # Errors
    /// The endpoint, the prompts or what was spent so far cannot be used; the message says why.
    pub fn new(
        config: &Config,
        publisher: &Publisher,
        answers: Sender<Vec<AnnotationRow>>,
        (waited, auditing): (Since, Option<Auditing>),
    ) -> anyhow::Result<Asking> {
        let store = publisher.store();
        let waiting = journal::read(store)?;
        let asks = config.annotator.kind == AnnotatorKind::OpenAi;
        let mut known = Memo::default();
        if asks || !waiting.is_empty() {
            let table = publisher.table(Table::Annotations.as_str());
            known = memo(table.context("no table annotations")?).context("read the memo")?;
        }
        // Killed between the memo's commit and its epoch's: before what is written down goes, readers
        // must see that the memo has it.
        if waiting.iter().any(|row| known.has(&row.request_id)) {
            publisher.renew_latest().context("name the version of the memo")?;
        }
        let mut answered = BTreeSet::new();
        let mut early = Vec::new();
        for row in waiting {
            known.learn(&row);
            if known.has(&row.request_id) {
                // Committed, and killed before it was removed: perhaps before readers see it.
                journal::remove(store, &row.request_id)?;
                continue;
            }
            answered.insert(row.request_id.clone());
            early.push(row);
        }
        if config.annotator.judge.is_some() {
            known.sittings = journal::sittings(store)?;
        }
        let failed = if asks { failures::read(store)? } else { Vec::new() };
        for failure in failed {
            let id = failure.row.request_id.clone();
            match known.has(&id) || answered.contains(&id) {
                // Killed before it was removed.
                true => failures::remove(store, &id)?,
                false => drop(known.failures.insert(id, failure)),
            }
        }
        let asked = match config.annotator.kind {
            AnnotatorKind::Template => Asked::Embedded(Box::new(Template::new())),
            AnnotatorKind::OpenAi if !config.annotator.calls() => {
                let interval = match config.tables.is_remote() {
                    true => limits::REQUESTS_INTERVAL_REMOTE,
                    false => limits::REQUESTS_INTERVAL_FOLDER,
                };
                Asked::Batches(Arrivals::start(store, interval, &answered)?)
            }
            AnnotatorKind::OpenAi => {
                batch::refuse_open(store)?;
                Asked::Model(Box::new(Client::start(Parts {
                    config: config.annotator.clone(),
                    prompts: Prompts::of(&config.annotator)?,
                    store: store.clone(),
                    library: Box::new(Tables::new(store, mining(config)?.bands)),
                    memo: known,
                    patience: Patience::default(),
                    uncommitted: limits::ANSWERS_PER_EPOCH,
                })?))
            }
        };
        let (wanted, fresh, unasked, captions) = Default::default();
        let settle = config.annotator.settles();
        let judges = config.annotator.judge.is_some();
        let mined = (judges || auditing.is_some()).then(MinedPairs::default);
        let (epoch, out_of, judged) = (0, None, BTreeSet::new());
        Ok(Asking {
            asked,
            settle,
            answers,
            wanted,
            captions,
            fresh,
            unasked,
            waited,
            answered,
            auditing,
            mined,
            judges,
            judged,
            early,
            epoch,
            out_of,
            store: store.clone(),
        })
    }

    /// Pairs that an epoch changes.
    pub fn mined(&mut self, epoch: Epoch, pairs: &mut Vec<(Pair, isize)>) {
        self.epoch = epoch;
        if let Some(mined) = &mut self.mined {
            mined.apply(pairs);
        }
    }

    /// Contents that images have lost in an epoch: a judge is not shown them any more.
    pub fn gone(&mut self, contents: HashSet<ContentId>) {
        if let Asked::Model(client) = &mut self.asked
            && !self.judged.is_empty()
        {
            client.gone(contents);
        }
    }

    /// Steps of the work list, of an epoch that is committed.
    pub fn want(&mut self, mut requests: Vec<(Request, isize)>) {
        consolidate(&mut requests);
        // The first epoch has all that is wanted: what is not in it has gone meanwhile.
        let waited = std::mem::take(&mut self.waited);
        for (request, diff) in requests {
            let id = request.request_id.clone();
            if diff > 0 {
                let since = waited.get(&id).copied().unwrap_or_else(Instant::now);
                self.captions += usize::from(request.task == Task::Caption);
                self.queue(request.task, since, id.clone());
                self.wanted.insert(id, (request, since));
            } else {
                self.wanted.remove(&id);
                self.captions -= usize::from(request.task == Task::Caption);
                if let Asked::Model(client) = &mut self.asked {
                    client.drop_request(id);
                }
            }
        }
        let early = std::mem::take(&mut self.early);
        if !early.is_empty() {
            tracing::info!("{} answers of an earlier run are committed now", early.len());
            self.pass_on(early);
        }
    }

    fn queue(&mut self, task: Task, since: Instant, id: String) {
        match task {
            Task::Caption => self.unasked.insert(id),
            Task::Instruct => self.fresh.insert((since, id)),
        };
    }

    /// Sends outcomes to their commit, by way of the judge and the audit.
    fn pass_on(&mut self, rows: Vec<AnnotationRow>) {
        let rows = self.judge(rows);
        let Some(auditing) = &self.auditing else {
            // Ingest that is gone has said why, and the run is about to end.
            let _ = self.answers.send(rows);
            return;
        };
        for row in rows {
            let wanted = self.wanted.get(&row.request_id);
            let images = wanted.map(|(request, _)| request.images.clone());
            let retrieved = images.as_ref().map(|[query_id, _]| self.retrieved(query_id));
            let retrieved = retrieved.unwrap_or_default();
            auditing.give(Question { row, images, retrieved, epoch: self.epoch });
        }
    }

    fn retrieved(&self, query_id: &str) -> Vec<Arc<str>> {
        self.mined.as_ref().map_or_else(Vec::new, |mined| mined.retrieved(query_id))
    }

    /// Hands answers to the judge that it has not seen. Gives those that go on: what it has seen, and
    /// what is none or of a pair that nobody wants any more.
    fn judge(&mut self, rows: Vec<AnnotationRow>) -> Vec<AnnotationRow> {
        if !self.judges {
            return rows;
        }
        let (mut go_on, mut unjudged) = (Vec::new(), Vec::new());
        for row in rows {
            let is_answer = row.task == TASK && row.outcome == "ok";
            let seen = self.judged.remove(&row.request_id)
                || row.audits.iter().any(|audit| audit.verdict.is_some());
            match self.wanted.get(&row.request_id).filter(|_| is_answer && !seen) {
                Some((request, _)) => {
                    let [query_id, target_id] = &request.images;
                    let of = |mined: &MinedPairs| mined.negatives(query_id, target_id);
                    let negatives = self.mined.as_ref().map_or_else(Vec::new, of);
                    unjudged.push(Unjudged { request: request.clone(), row, negatives });
                }
                None => go_on.push(row),
            }
        }
        if let Asked::Model(client) = &mut self.asked {
            self.judged.extend(unjudged.iter().map(|answer| answer.row.request_id.clone()));
            client.judge(unjudged);
        }
        go_on
    }

    /// Sends on what has been audited.
    pub fn send_audited(&self) {
        let rows = self.auditing.as_ref().map(Auditing::take);
        if let Some(rows) = rows.filter(|rows| !rows.is_empty()) {
            let _ = self.answers.send(rows);
        }
    }

    /// Outcomes that the tables have now.
    pub fn committed(&mut self, rows: Vec<(String, String)>) {
        for (id, _) in &rows {
            // One whose texts were withdrawn answers nothing.
            if self.answered.remove(id)
                && let Some((request, since)) = self.wanted.get(id)
            {
                self.queue(request.task, *since, id.clone());
            }
        }
        match &mut self.asked {
            Asked::Embedded(_) => {}
            Asked::Model(client) => client.committed(rows),
            Asked::Batches(arrivals) => arrivals.committed(rows),
        }
    }

    /// Pairs that wait for an answer, and images that wait for a caption.
    pub fn waiting(&self) -> usize {
        self.wanted.len()
    }

    /// Hands over what has held for long enough, and sends on what has come back. `holds` says that
    /// no message moves pairs any more, whatever time has passed; captions that come still do.
    pub fn go_on(
        &mut self,
        look: &dyn Fn(&ContentId) -> Option<Looked>,
        holds: bool,
        metrics: &Metrics,
    ) {
        let holds = holds && self.no_caption_comes();
        let mut due = Vec::new();
        for id in std::mem::take(&mut self.unasked) {
            if let Some((request, _)) = self.wanted.get(&id)
                && !self.answered.contains(&id)
            {
                due.push(request.clone());
            }
        }
        while let Some((since, id)) = self.fresh.pop_first() {
            if !holds && since.elapsed() < self.settle {
                self.fresh.insert((since, id));
                break;
            }
            let current = self.wanted.get(&id).filter(|(_, wanted)| *wanted == since);
            if let Some((request, _)) = current
                && !self.answered.contains(&id)
            {
                due.push(request.clone());
            }
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
            Asked::Batches(arrivals) => arrivals.take(),
        };
        if !rows.is_empty() {
            self.answered.extend(rows.iter().map(|row| row.request_id.clone()));
            self.pass_on(rows);
        }
        self.tell();
    }

    /// Says once that money has run out.
    fn tell(&mut self) {
        let Some(at) = self.standing() else { return };
        if at.out_of.is_some() && at.out_of != self.out_of {
            let (what, spent) = (at.out_of.unwrap_or_default(), at.spent);
            let waits = at.who_waits();
            tracing::warn!("[annotator] {what} is spent, {spent:.4} USD in all: {waits}");
        }
        self.out_of = at.out_of;
    }

    /// Starts no new calls from now on, because the service is about to stand still. True once none
    /// is in flight: each ends within `[annotator] timeout`, and its outcome is written down, so that
    /// the run behind finds it.
    pub fn pauses(&mut self) -> bool {
        match &mut self.asked {
            Asked::Embedded(_) | Asked::Batches(_) => true,
            Asked::Model(client) => client.pauses(),
        }
    }

    /// Since when each request is wanted.
    pub fn since(&self) -> Since {
        self.wanted.iter().map(|(id, (_, since))| (id.clone(), *since)).collect()
    }

    /// Where the client stands, where there is one.
    pub fn standing(&self) -> Option<Standing> {
        match &self.asked {
            Asked::Embedded(_) | Asked::Batches(_) => None,
            Asked::Model(client) => Some(client.standing()),
        }
    }

    /// Why nothing will come of what is asked until money, time or a person allows it.
    fn rests(&self) -> Option<String> {
        match &self.asked {
            Asked::Embedded(_) => None,
            Asked::Model(client) => client.rests(),
            Asked::Batches(_) => {
                let (pairs, captions) = (self.wanted.len() - self.captions, self.captions);
                let waits = Standing { pairs, captions, ..Standing::default() }.who_waits();
                Some(format!(
                    "[annotator] {waits} for answers of batches: `everpair requests export` \
                     writes what is to be asked"
                ))
            }
        }
    }

    /// No caption is wanted, or none comes of what is: it is handed over, and neither under way nor
    /// on its way to a commit.
    fn no_caption_comes(&self) -> bool {
        let handed_over = self.unasked.is_empty() && self.all_with_judge();
        self.captions == 0 || (handed_over && self.rests().is_some())
    }

    /// No answer is on its way, but for those that are with a judge.
    fn all_with_judge(&self) -> bool {
        self.answered.len() == self.judged.len()
    }

    /// No pair waits for an answer that money and time still allow, and no answer for its commit.
    pub fn is_done(&self) -> bool {
        let asked = self.fresh.is_empty() && self.unasked.is_empty();
        let handed_over = asked && self.all_with_judge();
        match self.rests() {
            Some(why) if handed_over && !self.wanted.is_empty() => {
                tracing::warn!("{why}");
                true
            }
            _ => self.wanted.is_empty() && self.answered.is_empty(),
        }
    }

    /// Somebody has exported requests beside a service that asks: they would be paid twice.
    ///
    /// # Errors
    /// So it is.
    pub fn refuse_batches(&self) -> anyhow::Result<()> {
        match &self.asked {
            Asked::Model(_) => batch::refuse_open(&self.store),
            Asked::Embedded(_) | Asked::Batches(_) => Ok(()),
        }
    }

    /// Why no answer will come until a person sees to it.
    pub fn stuck(&self) -> Option<String> {
        match &self.asked {
            Asked::Embedded(_) | Asked::Batches(_) => None,
            Asked::Model(client) => client.stuck(limits::ANNOTATOR_DOWN_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{delta, service::specs};

    fn request(n: u8) -> Request {
        let content = |side: &[u8]| (ContentId::of(side), None);
        let model = operators::flow::ModelId {
            model: "template:v1".into(),
            prompt_version: 1,
            reads_captions: true,
        };
        let (query, target) = (content(&[n, 0]), content(&[n, 1]));
        operators::annotate::request(&model, (&"q".into(), &query), (&"t".into(), &target))
    }

    #[test]
    fn pairs_hold_where_no_caption_comes_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::folder(folder.path()).expect("a store");
        let publisher = delta::start(&store, &specs()).expect("tables");
        // Answers are brought: until somebody does, nothing moves.
        let text = "[source]\nfiles = [\"a.jsonl\"]\n[tables]\nroot = \"tables\"\n[captioner]\n\
                    [annotator]\nkind = \"openai\"\ntransport = \"batch\"\nmodel = \"m\"\n\
                    budget = 1.0\ninput_price = 1.0\noutput_price = 1.0\n";
        let config = Config::parse(text).expect("a config");
        let (answers, _rows) = mpsc::channel();
        let mut asking =
            Asking::new(&config, &publisher, answers, (Since::new(), None)).expect("asking");
        assert!(asking.no_caption_comes(), "none is wanted");
        let caption = Request { task: Task::Caption, ..request(1) };
        asking.want(vec![(caption.clone(), 1), (request(2), 1)]);
        assert_eq!((asking.captions, asking.unasked.len(), asking.fresh.len()), (1, 1, 1));
        assert!(!asking.no_caption_comes(), "it is not handed over yet");
        asking.unasked.clear();
        assert!(asking.no_caption_comes());
        asking.answered.insert(caption.request_id.clone());
        assert!(!asking.no_caption_comes(), "its answer is on its way");
        let outcome = (caption.request_id.clone(), "ok".to_owned());
        asking.committed(vec![outcome]);
        assert!(!asking.no_caption_comes(), "a withdrawn one is asked for again");
        asking.want(vec![(caption, -1)]);
        assert_eq!(asking.captions, 0);
        assert!(asking.no_caption_comes());
    }

    #[test]
    fn a_pair_goes_on_to_wait_behind_a_service_that_stood_still() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::folder(folder.path()).expect("a store");
        let publisher = delta::start(&store, &specs()).expect("tables");
        let text = "[source]\nfiles = [\"a.jsonl\"]\n[tables]\nroot = \"tables\"\n\
                    [annotator]\nsettle = \"1 h\"\n";
        let config = Config::parse(text).expect("a config");
        let (answers, _rows) = mpsc::channel();
        let new = |since| {
            Asking::new(&config, &publisher, answers.clone(), (since, None)).expect("asking")
        };
        let ids = [1, 2, 3, 4].map(|n| request(n).request_id);
        let mut first = new(Since::new());
        first.want(vec![(request(1), 1), (request(2), 1)]);
        first.want(vec![(request(3), 1)]);
        let before = first.since();
        assert!(before[&ids[0]] <= before[&ids[2]]);
        // One has gone while it stood still, one has come.
        let mut second = new(before.clone());
        second.want(vec![(request(1), 1), (request(3), 1), (request(4), 1)]);
        let after = second.since();
        assert_eq!(after.len(), 3);
        assert_eq!([after[&ids[0]], after[&ids[2]]], [before[&ids[0]], before[&ids[2]]]);
        assert!(after[&ids[3]] >= before[&ids[2]]);
        // What comes back later has not held meanwhile.
        second.want(vec![(request(2), 1)]);
        assert!(second.since()[&ids[1]] >= after[&ids[3]]);
        let order: Vec<&String> = second.fresh.iter().map(|(_, id)| id).collect();
        assert_eq!(order[..2], [&ids[0], &ids[2]], "the longest first");
    }
}
