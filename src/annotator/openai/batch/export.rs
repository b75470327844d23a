//! What is to be asked, as a file.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use operators::flow::{Request, Task};
use schemas::{
    ContentId,
    config::Config,
    limits,
    tables::{AnnotationRow, Table},
};
use serde::Serialize;

use super::{
    super::{
        captioner_id,
        failures::{self, Failure},
        journal,
        library::{Known, Library, Memo, Tables, memo},
        model_id,
        money::{Ledger, Nanos, Prices, day, usd},
        prompts::{Chat, Description, Prompts, Variation, captioner, is_turned, ordered},
        wanted::{Wanted, wanted},
        work::{
            now_us,
            queue::{Asks, Job, Queue},
            row::{asked, say},
        },
    },
    Batch, Out, finish, read_all,
};
use crate::{
    dataset::{self, At, Dataset},
    delta::Store,
    service::open_tables,
    settings::{mining, refuse_other_models},
};

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Exported {
    /// The batch; none where there is nothing to ask, or no money for it.
    pub batch: Option<String>,
    /// Requests in it for captions.
    pub caption: u64,
    /// Requests in it that describe.
    pub describe: u64,
    /// Requests in it for instructions.
    pub instruct: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The most that it can cost; so much is drawn from the budget.
    pub most_usd: f64,
    /// Requests that could be asked too, but for the limits of a batch.
    pub later: u64,
    /// Requests that the budget does not cover.
    pub unpaid: u64,
    /// Pairs whose description has to come first.
    pub waiting: u64,
    /// Pairs of images whose caption has to come first.
    pub uncaptioned: u64,
    /// Requests that are out in batches from before.
    pub out: u64,
    /// Requests left out because an image or a description of theirs cannot be read now.
    pub left_out: u64,
    /// Requests that ended here, because there is nothing to ask about.
    pub ended: u64,
}

/// A request for a job of the queue, with that for the description where it is for instructions.
type Asked = (Request, Option<String>);

/// What can be asked now.
#[derive(Default)]
struct Open {
    queue: Queue,
    asked: HashMap<String, Asked>,
    known: Memo,
    failures: HashMap<String, Failure>,
}

/// Writes what the pairs of the newest epoch ask for into a file of at most `most` requests.
///
/// # Errors
/// The tables cannot be read, the file is there already or cannot be written, or another export is under
/// way: then nothing is out, and nothing is drawn from the budget.
pub fn export(config: &Config, file: &Path, most: usize) -> anyhow::Result<Exported> {
    if file.exists() {
        bail!("{} is there already: a batch that was not sent?", file.display());
    }
    let prompts = Prompts::of(&config.annotator)?;
    let store = open_tables(config)?;
    if dataset::latest(&store)?.is_none() {
        bail!("no epoch is committed yet: run the service first");
    }
    // In this order: an answer leaves a batch when it is written down, and that when it is in the table.
    finish(&store)?;
    let batches = read_all(&store)?;
    let mut said = Exported::default();
    let mut open = collect(config, &prompts, &store, &batches, &mut said)?;
    let library = Tables::new(&store, mining(config)?.bands);
    let mut ledger = Ledger::open(&store, &config.annotator).context("read what was spent")?;
    let now = now_us();
    let name = format!("{}-{}", stamp(now), &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let left = ledger.left(day(now));
    let partial = beside(file, &name);
    let mut writing = Writing {
        config,
        prompts: &prompts,
        store: &store,
        name: &name,
        prices: Prices::of(&config.annotator),
        library,
        file: BufWriter::new(File::create(&partial).with_context(|| named(&partial))?),
        left,
        limit: most,
        drawn: 0,
        out: Vec::new(),
    };
    let written = writing.all(&mut open, &mut said);
    let done = written.and_then(|()| {
        writing.file.flush().and_then(|()| writing.file.get_ref().sync_all())?;
        Ok((std::mem::take(&mut writing.out), writing.drawn))
    });
    let gone = |error| {
        // What has failed says why; a file that stays has another name.
        let _ = fs::remove_file(&partial);
        error
    };
    let (out, drawn) = done.with_context(|| named(&partial)).map_err(gone)?;
    if out.is_empty() {
        fs::remove_file(&partial).with_context(|| named(&partial))?;
        return Ok(said);
    }
    let requests = out.len() as u64;
    let batch = Batch { name, exported_at: now, requests, spent: 0, out };
    // Its page first: killed behind it, the batch can be cancelled, which gives the money back.
    batch.write(&store).map_err(gone)?;
    let give_up = |why| {
        batch.settle(&store, 0).and_then(|()| batch.remove(&store)).map_err(gone)?;
        Err(gone(why))
    };
    let paid = match drawn {
        0 => Ok(true),
        _ => ledger.take(drawn, &batch.name, now),
    };
    match paid {
        Ok(true) => {}
        Ok(false) => {
            return give_up(anyhow!(
                "somebody else draws from the budget: nothing is exported, try again"
            ));
        }
        Err(error) => return give_up(error),
    }
    // Both of two exports at once see the other's: they may have the same requests.
    let before: HashSet<&String> = batches.iter().map(|batch| &batch.name).collect();
    let others = read_all(&store)?;
    if others.iter().any(|other| other.name != batch.name && !before.contains(&other.name)) {
        return give_up(anyhow!(
            "another export is under way: nothing is exported, try again when it is done"
        ));
    }
    if let Err(error) = publish(&partial, file) {
        return give_up(error);
    }
    said.most_usd = usd(drawn);
    said.batch = Some(batch.name.clone());
    Ok(said)
}

fn named(file: &Path) -> String {
    format!("write {}", file.display())
}

fn beside(file: &Path, name: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(format!(".{name}.partial"));
    path.into()
}

/// Gives a file its name, unless there is one of that name.
fn publish(partial: &Path, file: &Path) -> anyhow::Result<()> {
    match fs::hard_link(partial, file) {
        Ok(()) => fs::remove_file(partial).with_context(|| named(partial)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already: a batch that was not sent?", file.display())
        }
        // Not every file system has links.
        Err(_) => fs::rename(partial, file).with_context(|| named(file)),
    }
}

fn stamp(now_us: i64) -> String {
    let at = chrono::DateTime::from_timestamp_micros(now_us).unwrap_or_default();
    at.format("%Y%m%dT%H%M%SZ").to_string()
}

/// What has no answer and is not out. What cannot be asked ends here.
fn collect(
    config: &Config,
    prompts: &Prompts,
    store: &Store,
    batches: &[Batch],
    said: &mut Exported,
) -> anyhow::Result<Open> {
    let out: HashSet<&str> =
        batches.iter().flat_map(|batch| &batch.out).map(|out| &*out.row.request_id).collect();
    let waiting = journal::read(store)?;
    let dataset = Dataset::open(store, &At::Latest)?;
    refuse_other_models(&dataset.page().info["in_force"], config, prompts)?;
    let mut known = memo(&dataset.table(Table::Annotations)?).context("read the memo")?;
    for row in &waiting {
        known.learn(row);
        known.requests.extend(ContentId::parse(&row.request_id));
    }
    let failures = failures::read(store)?.into_iter();
    let failures = failures.map(|failure| (failure.row.request_id.clone(), failure)).collect();
    let mut open = Open { known, failures, ..Open::default() };
    let mut ended: Vec<AnnotationRow> = Vec::new();
    let annotator = &config.annotator;
    let model = model_id(annotator, prompts);
    let captioner = captioner_id(annotator, prompts);
    let Wanted { requests, waiting, captions, .. } = wanted(&dataset, &model, captioner.as_ref())?;
    said.out = out.len() as u64;
    // Asked without captions, a pair may have its answer already.
    let asked_anew = |of: &&Request| model.reads_captions || !open.known.has(&of.request_id);
    said.uncaptioned = waiting.iter().filter(asked_anew).count() as u64;
    for request in captions {
        let id = request.request_id.clone();
        if !open.known.has(&id) && !out.contains(id.as_str()) {
            open.ask(&id, request, None);
        }
    }
    for request in requests {
        let id = request.request_id.clone();
        if open.known.has(&id) || out.contains(id.as_str()) {
            continue;
        }
        let mut end = |asks: Asks, id: &str, outcome| {
            let mut row = asked(annotator, prompts, &request, (id, asks));
            row.cost_usd = Some(0.0);
            say(&mut row, Err(outcome), None);
            ended.push(row);
        };
        let describe_id = prompts.describe_id(annotator, &request);
        let captions = [&request.query.1, &request.target.1];
        match open.known.described.get(&describe_id) {
            Some(Known::Failed) => end(Asks::Instructions, &id, "no_description"),
            Some(Known::Here(_) | Known::Stored) => open.ask(&id, request, Some(describe_id)),
            None if annotator.images == 0 && captions.iter().all(|text| text.is_none()) => {
                end(Asks::Description, &describe_id, "no_captions");
                end(Asks::Instructions, &id, "no_description");
                open.known.described.insert(describe_id, Known::Failed);
            }
            None => {
                said.waiting += 1;
                if !out.contains(describe_id.as_str()) {
                    open.ask(&describe_id, request, None);
                }
            }
        }
    }
    said.ended = ended.len() as u64;
    journal::at_once(&ended, |row| journal::write(store, row))?;
    Ok(open)
}

impl Open {
    fn ask(&mut self, id: &str, request: Request, describe_id: Option<String>) {
        let [first, second] = ordered(&request).map(|side| side.0);
        let asks = match (request.task, &describe_id) {
            (Task::Caption, _) => Asks::Caption,
            (Task::Instruct, None) => Asks::Description,
            (Task::Instruct, Some(_)) => Asks::Instructions,
        };
        let turned = asks == Asks::Instructions && is_turned(&request);
        let job = Job { pair: [first, second], turned, id: id.to_owned(), asks };
        if self.asked.insert(id.to_owned(), (request, describe_id)).is_none() {
            self.queue.push(job);
        }
    }
}

/// The file as it is written.
struct Writing<'a> {
    config: &'a Config,
    prompts: &'a Prompts,
    store: &'a Store,
    /// Of the batch.
    name: &'a str,
    prices: Prices,
    library: Tables,
    file: BufWriter<File>,
    /// Of the budget.
    left: Nanos,
    /// Most requests.
    limit: usize,
    drawn: Nanos,
    out: Vec<Out>,
}

impl Writing<'_> {
    fn all(&mut self, open: &mut Open, said: &mut Exported) -> anyhow::Result<()> {
        // Where not all of it fits, it is what is worth most.
        let all = open.asked.len();
        if all > self.limit || self.is_scarce(open) {
            open.queue.order_by(self.library.worth(&open.queue.pairs())?);
        }
        let mut jobs = std::iter::from_fn(|| {
            let job = open.queue.pop(true)?;
            open.queue.count(&job);
            Some(job)
        });
        let mut left = all as u64;
        // A batch is for one model: that of the first.
        let annotator = &self.config.annotator;
        let model = |asks| match asks {
            Asks::Caption => captioner(annotator),
            Asks::Description => annotator.describer(),
            // No batch has judgements: a config with a judge has none.
            Asks::Instructions | Asks::Judgement => &annotator.model,
        };
        let mut first: Option<&str> = None;
        loop {
            let some: Vec<Job> = jobs.by_ref().take(limits::ANNOTATOR_LOOK_UP).collect();
            if some.is_empty() {
                return Ok(());
            }
            let described = self.descriptions(&some, &open.asked, &open.known)?;
            for job in some {
                left -= 1;
                let asked_of = model(job.asks);
                if first.is_some_and(|first| first != asked_of) {
                    said.later += 1;
                    continue;
                }
                if self.out.len() >= self.limit {
                    said.later += left + 1;
                    return Ok(());
                }
                let Some(asked) = open.asked.get(&job.id) else { continue };
                if !self.one(&job, asked, &described, open.failures.get(&job.id), said)? {
                    said.later += left + 1;
                    return Ok(());
                }
                // What was left out decides nothing.
                first = first.or((!self.out.is_empty()).then_some(asked_of));
            }
        }
    }

    /// By the first caption and the first call for a pair, which stand for the others.
    fn is_scarce(&self, open: &Open) -> bool {
        let words = "word ".repeat(30);
        let any = Description { common: words.clone(), first: words.clone(), second: words };
        let all = |asks: Asks| {
            let Some(job) = open.queue.ready(asks).next() else { return 0 };
            let (request, describe_id) = &open.asked[&job.id];
            let described = describe_id.as_ref().map(|_| &any);
            let chat = self.chat(job, request, described, Variation::default());
            self.most(&chat).saturating_mul(open.queue.ready(asks).count() as u64)
        };
        all(Asks::Caption).saturating_add(all(Asks::Description)) > self.left
    }

    fn chat(
        &self,
        job: &Job,
        request: &Request,
        description: Option<&Description>,
        how: Variation,
    ) -> Chat {
        let (prompts, config) = (self.prompts, &self.config.annotator);
        match description {
            None if job.asks == Asks::Caption => prompts.caption(config, request, how),
            None => prompts.describe(config, &job.id, request, how),
            Some(description) => prompts.instruct(config, request, description, how),
        }
    }

    fn most(&self, chat: &Chat) -> Nanos {
        let (read, written) = chat.most_tokens(&self.config.annotator);
        self.prices.cost(read, written)
    }

    /// Those of the descriptions that these jobs need that are to be had.
    fn descriptions(
        &mut self,
        jobs: &[Job],
        asked: &HashMap<String, Asked>,
        known: &Memo,
    ) -> anyhow::Result<BTreeMap<String, Description>> {
        let ids: HashSet<String> =
            jobs.iter().filter_map(|job| asked.get(&job.id)?.1.clone()).collect();
        let mut found = BTreeMap::new();
        let mut stored = HashSet::new();
        for id in ids {
            match known.described.get(&id) {
                Some(Known::Here(description)) => drop(found.insert(id, description.clone())),
                _ => drop(stored.insert(id)),
            }
        }
        found.extend(self.library.descriptions(&stored)?);
        Ok(found)
    }

    /// Writes a line; false where the file is full.
    fn one(
        &mut self,
        job: &Job,
        (request, describe_id): &Asked,
        described: &BTreeMap<String, Description>,
        failure: Option<&Failure>,
        said: &mut Exported,
    ) -> anyhow::Result<bool> {
        let description = match describe_id.as_ref().map(|id| described.get(id)) {
            None => None,
            Some(Some(description)) => Some(description),
            // It was collected since.
            Some(None) => {
                said.left_out += 1;
                return Ok(true);
            }
        };
        let how = failure.map_or(Variation::default(), |failure| variation(&failure.row.outcome));
        let chat = self.chat(job, request, description, how);
        let most = self.most(&chat);
        if self.drawn + most > self.left {
            said.unpaid += 1;
            return Ok(true);
        }
        let mut row = asked(&self.config.annotator, self.prompts, request, (&job.id, job.asks));
        if let Some(Failure { row: before, .. }) = failure {
            row.prompt_tokens = before.prompt_tokens;
            row.completion_tokens = before.completion_tokens;
            row.cost_usd = before.cost_usd;
        }
        let mut jpegs = Vec::with_capacity(chat.images.len());
        for (_, content) in &chat.images {
            match self.library.picture(content) {
                Ok(Some(jpeg)) => jpegs.push(jpeg),
                // As where a service asks. Its pairs would wait for a caption for ever.
                Ok(None) => {
                    row.cost_usd.get_or_insert(0.0);
                    say(&mut row, Err("content_gone"), None);
                    journal::write(self.store, &row)?;
                    said.ended += 1;
                    return Ok(true);
                }
                Err(error) => {
                    tracing::warn!("{}: {error:#}", content.hex());
                    said.left_out += 1;
                    return Ok(true);
                }
            }
        }
        let body = String::from_utf8(chat.body(&jpegs)).context("a request is UTF-8")?;
        let number = self.out.len() as u64;
        // OpenAI takes 64 characters: a request's id and a batch's name would be more.
        let line = format!(
            "{{\"custom_id\":\"{}.{number}\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\
             \"body\":{body}}}\n",
            self.name
        );
        if said.bytes + line.len() as u64 > limits::ANNOTATOR_BATCH.1 {
            return Ok(false);
        }
        self.file.write_all(line.as_bytes())?;
        said.bytes += line.len() as u64;
        *match job.asks {
            Asks::Caption => &mut said.caption,
            Asks::Description => &mut said.describe,
            Asks::Instructions | Asks::Judgement => &mut said.instruct,
        } += 1;
        self.drawn += most;
        self.out.push(Out { number, row, describe_id: describe_id.clone(), most });
        Ok(true)
    }
}

/// How a request is asked again whose last answer was like that.
pub(super) fn variation(outcome: &str) -> Variation {
    Variation {
        repair: matches!(outcome, "bad_json" | "copied"),
        longer: outcome == "truncated",
        plain: outcome == "whitespace_loop",
    }
}
