//! A model behind any endpoint that speaks OpenAI's chat API.
//!
//! ```text
//!  committer ─► wanted, unwanted ─► the client's thread ─► calls (tasks) ─► endpoint
//!      ▲                             │ queue, pace, money        │
//!      └──── outcomes ◄── journal ◄──┴───────────────────────────┘
//! ```
//!
//! One thread owns all that decides: what is asked next, how much at once, what it may cost. Calls are
//! tasks beside it. A pair takes two of them: what its images share and where they differ, asked once
//! for both directions, then instructions. Where there is a `[captioner]`, an image without a caption
//! takes one call before, and its pairs come when that has ended. Every request ends with a row of
//! `annotations`, a failure with its kind as `outcome`; it is written to the [`journal`] before anybody
//! relies on it. What no try has answered through no fault of its own is put off first, see
//! [`failures`]. With `transport = "batch"` none of this runs: requests travel in files, see [`batch`].

pub mod batch;
pub mod command;
pub mod failures;
pub mod http;
pub mod journal;
pub mod judge;
pub mod library;
pub mod money;
pub mod pace;
pub mod prompts;
pub mod rate;
pub mod reask;
pub mod reply;
pub mod wanted;
mod work;
pub mod worth;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat};
use operators::flow::{CaptionerId, ModelId, Request};
use schemas::{ContentId, config::Annotator, tables::AnnotationRow};
use serde::Serialize;

use self::{
    failures::Patience,
    http::Endpoint,
    judge::Unjudged,
    library::{Library, Memo},
    money::Ledger,
    prompts::Prompts,
    work::{Told, Work},
};
use crate::delta::Store;

/// Who is asked, and what determines its answers.
pub fn model_id(config: &Annotator, prompts: &Prompts) -> ModelId {
    let model = match &config.describe_model {
        Some(other) if *other != config.model => format!("{}+{other}", config.model),
        _ => config.model.clone(),
    };
    ModelId { model, prompt_version: prompts.version(), reads_captions: config.captions }
}

/// Who writes captions, and what determines them; none where nobody does.
pub fn captioner_id(config: &Annotator, prompts: &Prompts) -> Option<CaptionerId> {
    let model = config.captioner.clone()?;
    Some(CaptionerId { model, prompt_version: prompts.caption_version() })
}

/// Whether the endpoint is there and has the models: nothing is asked that costs.
///
/// # Errors
/// It is not, or a prompt cannot be read; the message says what to do.
pub fn probe(config: &Annotator) -> anyhow::Result<String> {
    let prompts = Prompts::of(config)?;
    let mut endpoint = Endpoint::new(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start a runtime")?;
    let mut all = Vec::new();
    for _ in 0..=config.fallback.len() {
        let url = endpoint.url().to_owned();
        let models = runtime.block_on(endpoint.models()).with_context(|| url.clone())?;
        let others = [&config.describe_model, &config.captioner];
        let judge = config.judge.as_ref().map(|judge| &judge.model);
        for model in others.into_iter().flatten().chain(judge).chain([&config.model]) {
            if !models.is_empty() && !models.contains(model) {
                bail!("{url} has no model {model:?}; it has {}", models.join(", "));
            }
        }
        all.push(url);
        endpoint.turn();
    }
    let version = prompts.version();
    let captions = captioner_id(config, &prompts).map(|CaptionerId { model, prompt_version }| {
        format!("; captions by {model}, prompt version {prompt_version}")
    });
    let (model, all, captions) = (&config.model, all.join(", then "), captions.unwrap_or_default());
    Ok(format!("{model} at {all}, prompt version {version}{captions}"))
}

/// Where the client stands, for whoever waits for it or looks at it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Standing {
    /// Messages of the committer that it has seen.
    pub seen: u64,
    /// Outcomes that it has handed out.
    pub outcomes: u64,
    /// Pairs that wait for an answer.
    pub pairs: usize,
    /// Captions that are wanted.
    pub captions: usize,
    /// Of these: pairs whose request, or whose description, has failed for now, and captions that have.
    pub put_off: usize,
    /// When the first of those is asked again, microseconds UTC.
    pub again_at: Option<i64>,
    /// Pairs whose requests have ended in this process.
    pub pairs_ended: usize,
    /// Images whose request for a caption has ended in this process.
    pub captions_ended: usize,
    /// Since the first call of this process.
    pub asking_seconds: f64,
    /// Calls in flight.
    pub in_flight: usize,
    /// No new calls are made: the service is about to stand still.
    pub paused: bool,
    /// Calls at once that the endpoint bears.
    pub limit: usize,
    /// Calls that have ended.
    pub calls: u64,
    /// Of these: calls for captions.
    pub caption_calls: u64,
    /// Dollars spent by this process, what is in flight included.
    pub spent_now: f64,
    /// Of these: for captions, by calls that have ended.
    pub captions_spent: f64,
    /// And for pairs, the same.
    pub pairs_spent: f64,
    /// Dollars that count as spent, by all runs.
    pub spent: f64,
    /// Nothing can be asked: which budget does not allow it.
    pub out_of: Option<&'static str>,
    /// Everything that is asked is refused, and why.
    pub refused: Option<String>,
    /// The endpoint is down for so many seconds.
    pub down_seconds: Option<u64>,
    /// How the last call ended that failed through no fault of its request.
    pub failure: Option<String>,
}

impl Standing {
    /// What waits, in words: `3 pairs`, or `1 pair and 2 captions`.
    pub fn waiting(&self) -> String {
        let some = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (pairs, captions) = (some(self.pairs, "pair"), some(self.captions, "caption"));
        match (self.pairs, self.captions) {
            (_, 0) => pairs,
            (0, _) => captions,
            _ => format!("{pairs} and {captions}"),
        }
    }

    /// The same as a sentence: `3 pairs wait`.
    pub fn who_waits(&self) -> String {
        let verb = if self.pairs + self.captions == 1 { "waits" } else { "wait" };
        format!("{} {verb}", self.waiting())
    }
}

/// The client. Dropped, it ends its calls; what they may have cost counts as spent.
pub struct Client {
    told: Sender<Told>,
    outcomes: Receiver<AnnotationRow>,
    standing: Arc<Mutex<Standing>>,
    thread: Option<JoinHandle<()>>,
    sent: u64,
    taken: u64,
    pausing: bool,
}

/// What a client is made of.
pub struct Parts {
    /// `[annotator]`.
    pub config: Annotator,
    /// What is asked in which words.
    pub prompts: Prompts,
    /// Where outcomes and money are written down.
    pub store: Store,
    /// Images and descriptions.
    pub library: Box<dyn Library>,
    /// What was asked before.
    pub memo: Memo,
    /// How long what fails for now is put off.
    pub patience: Patience,
    /// Outcomes that may wait for a commit; while there are more, no call is made.
    pub uncommitted: usize,
}

impl Client {
    /// Starts the thread.
    ///
    /// # Errors
    /// What was spent cannot be read, or the endpoint's address or key cannot be used.
    pub fn start(parts: Parts) -> anyhow::Result<Client> {
        let endpoint = Endpoint::new(&parts.config)?;
        let ledger = Ledger::open(&parts.store, &parts.config).context("read what was spent")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("annotator")
            .enable_all()
            .build()
            .context("start the threads that ask")?;
        let (told, commands) = mpsc::channel();
        let (handed, outcomes) = mpsc::channel();
        let standing = Arc::new(Mutex::new(Standing::default()));
        let work =
            Work::new(parts, endpoint, ledger, runtime, told.clone(), handed, standing.clone());
        let thread = std::thread::Builder::new().name("asking".into());
        let thread = thread.spawn(move || work.run(&commands)).context("start the client")?;
        let (thread, sent, taken, pausing) = (Some(thread), 0, 0, false);
        Ok(Client { told, outcomes, standing, thread, sent, taken, pausing })
    }

    fn tell(&mut self, told: Told) {
        self.sent += 1;
        // It ends only with this.
        let _ = self.told.send(told);
    }

    /// Pairs that are to be asked about, and images that are to get a caption, all of committed epochs.
    pub fn want(&mut self, requests: Vec<Request>) {
        if !requests.is_empty() {
            self.tell(Told::Want(requests));
        }
    }

    /// A request that need not be asked any more; one that has its answer need not either.
    pub fn drop_request(&mut self, request_id: String) {
        self.tell(Told::Drop(request_id));
    }

    /// Answers that are to be judged: each is handed out again, with what was said of it.
    pub fn judge(&mut self, answers: Vec<Unjudged>) {
        if !answers.is_empty() {
            self.tell(Told::Judge(answers));
        }
    }

    /// Contents that images have lost: they are not shown to a judge any more.
    pub fn gone(&mut self, contents: HashSet<ContentId>) {
        if !contents.is_empty() {
            self.tell(Told::Gone(contents));
        }
    }

    /// Outcomes that the tables have now.
    pub fn committed(&mut self, rows: Vec<(String, String)>) {
        if !rows.is_empty() {
            self.tell(Told::Committed(rows));
        }
    }

    /// Makes no new calls from now on. True once nothing is in flight, and all outcomes so far are
    /// written down.
    pub fn pauses(&mut self) -> bool {
        let at = self.standing();
        if !at.paused && !std::mem::replace(&mut self.pausing, true) {
            self.tell(Told::Pause);
        }
        at.paused && at.in_flight == 0
    }

    /// Outcomes since the last call.
    pub fn take(&mut self) -> Vec<AnnotationRow> {
        let rows: Vec<AnnotationRow> = self.outcomes.try_iter().collect();
        self.taken += rows.len() as u64;
        rows
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nothing will come of what it was told until money, time or a person allows it: all outcomes
    /// are taken, and nothing is in flight.
    pub fn rests(&self) -> Option<String> {
        let at = self.standing();
        let waits = at.who_waits();
        if at.seen != self.sent || at.outcomes != self.taken || at.in_flight > 0 {
            return None;
        }
        if let Some(what) = at.out_of {
            let spent = at.spent;
            return Some(format!("[annotator] {what} is spent ({spent:.4} USD): {waits}"));
        }
        let first = at.again_at.filter(|_| at.put_off == at.pairs + at.captions)?;
        let first = DateTime::from_timestamp_micros(first).unwrap_or_default();
        let first = first.to_rfc3339_opts(SecondsFormat::Secs, true);
        Some(format!(
            "[annotator] {waits}: all that could be asked has failed for now, and is asked again from \
             {first} on"
        ))
    }

    /// Why nothing will come, where a person has to see to it.
    pub fn stuck(&self, patience: Duration) -> Option<String> {
        let at = self.standing();
        let waits = at.who_waits();
        if let Some(why) = at.refused {
            return Some(format!("[annotator] the endpoint refuses everything, {waits}: {why}"));
        }
        let down = at.down_seconds.filter(|seconds| *seconds >= patience.as_secs());
        let why = at.failure.unwrap_or_default();
        down.map(|seconds| {
            format!("[annotator] the endpoint is down for {seconds} s, {waits}: {why}")
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.told.send(Told::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
