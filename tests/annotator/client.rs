//! A model's client without the rest of the program, and what becomes of a pair.

use std::{
    collections::{HashMap, HashSet},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use everpair::{
    annotator::openai::{
        self, Client, Parts, Standing,
        failures::{self, Patience},
        journal,
        library::{Known, Library, Memo},
        money::Spent,
        prompts::{Description, Prompts},
        worth::{Both, Worth},
    },
    delta::Store,
};
use operators::{
    captions,
    flow::{CaptionerId, Mined, Request},
};
use schemas::{
    ContentId,
    config::{Annotator, AnnotatorKind},
    tables::AnnotationRow,
};
use tempfile::TempDir;

use super::server::{Asked, Server, TOKENS, reply, send, send_good};
use crate::service::place::wait_until;

/// Dollars for a million tokens: 1,000 and 2,000 billionths for one.
pub const PRICES: (f64, f64) = (1.0, 2.0);
/// What a good call costs, in billionths.
pub const CALL: u64 = 1_000 * TOKENS.0 + 2_000 * TOKENS.1;

pub fn config(server: &Server) -> Annotator {
    Annotator {
        kind: AnnotatorKind::OpenAi,
        url: server.url(),
        model: "a-model".into(),
        key_variable: "EVERPAIR_NO_SUCH_KEY".into(),
        input_price: Some(PRICES.0),
        output_price: Some(PRICES.1),
        budget: Some(100.0),
        timeout: Duration::from_secs(20),
        attempts: 3,
        ..Annotator::default()
    }
}

/// Any content but one has the bytes of its id for an image.
#[derive(Clone, Default)]
pub struct Images {
    /// What pairs are worth.
    pub worth: HashMap<Both, Worth>,
    /// How often that was asked.
    pub looks: Arc<AtomicUsize>,
    /// Descriptions that are stored.
    pub described: HashMap<String, Description>,
    /// Descriptions that were.
    pub lost: Vec<String>,
    /// How often descriptions were looked for.
    pub look_ups: Arc<AtomicUsize>,
}

pub fn gone() -> ContentId {
    ContentId::of(b"gone")
}

impl Library for Images {
    fn picture(&mut self, content: &ContentId) -> anyhow::Result<Option<Arc<[u8]>>> {
        Ok((*content != gone()).then(|| content.0.to_vec().into()))
    }

    fn descriptions(
        &mut self,
        ids: &HashSet<String>,
    ) -> anyhow::Result<HashMap<String, Description>> {
        self.look_ups.fetch_add(1, Ordering::AcqRel);
        let found = ids.iter().filter_map(|id| Some((id.clone(), self.described.get(id)?.clone())));
        Ok(found.collect())
    }

    fn contents(
        &mut self,
        ids: &HashSet<Arc<str>>,
    ) -> anyhow::Result<HashMap<Arc<str>, ContentId>> {
        let stored = ids.iter().filter(|id| !id.starts_with("gone"));
        Ok(stored.map(|id| (id.clone(), ContentId::of(id.as_bytes()))).collect())
    }

    fn worth(&mut self, pairs: &HashSet<Both>) -> anyhow::Result<HashMap<Both, Worth>> {
        self.looks.fetch_add(1, Ordering::AcqRel);
        let found = pairs.iter().filter_map(|pair| Some((*pair, self.worth.get(pair)?.clone())));
        Ok(found.collect())
    }
}

pub struct Run {
    pub client: Client,
    pub store: Store,
    pub prompts: Prompts,
    pub config: Annotator,
    images: Images,
    _folder: TempDir,
}

impl Run {
    pub fn new(config: Annotator) -> Run {
        Run::with(config, Images::default())
    }

    pub fn with(config: Annotator, images: Images) -> Run {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::folder(folder.path()).expect("a store");
        let prompts = Prompts::of(&config).expect("prompts");
        let client = start(&config, &store, &prompts, GIVES_UP, &images);
        Run { client, store, prompts, config, images, _folder: folder }
    }

    /// Starts another client with what the store has, and ends this one.
    pub fn restart(&mut self, patience: Patience) {
        self.client = start(&self.config, &self.store, &self.prompts, patience, &self.images);
    }

    pub fn request(&self, query: ContentId, target: ContentId) -> Request {
        let model = openai::model_id(&self.config, &self.prompts);
        let named = |content: ContentId| (content.hex().into(), (content, None));
        let ((query_id, query), (target_id, target)) = (named(query), named(target));
        operators::annotate::request(&model, (&query_id, &query), (&target_id, &target))
    }

    pub fn pair(&self, n: usize) -> Request {
        let content = |n: usize| ContentId::of(&n.to_le_bytes());
        self.request(content(2 * n), content(2 * n + 1))
    }

    pub fn captioner(&self) -> CaptionerId {
        openai::captioner_id(&self.config, &self.prompts).expect("a captioner")
    }

    /// The request for the caption of an image.
    pub fn caption_of(&self, content: ContentId) -> Request {
        let image_id = content.hex().into();
        let mined = Mined { image_id, content_id: content, caption: None };
        captions::request(&self.captioner(), &mined)
    }

    pub fn caption(&self, n: usize) -> Request {
        self.caption_of(ContentId::of(&n.to_le_bytes()))
    }

    /// Waits for so many outcomes.
    pub fn outcomes(&mut self, count: usize) -> Vec<AnnotationRow> {
        let mut rows = Vec::new();
        wait_until("outcomes", || {
            rows.extend(self.client.take());
            rows.len() >= count
        });
        rows
    }

    /// Waits until the client stands like that: it shows where it stands only after it has done what others
    /// can see, such as handing out an outcome or closing a connection.
    pub fn stands(&self, what: &str, like_that: impl Fn(&Standing) -> bool) {
        wait_until(what, || like_that(&self.client.standing()));
    }

    /// Dollars that count as spent once it has stopped, in billionths.
    pub fn stop(self) -> u64 {
        let Run { client, store, _folder, .. } = self;
        drop(client);
        let spent = Spent::read(&store, 0).expect("slices");
        assert_eq!(spent.open, 0, "all slices are closed");
        spent.closed
    }
}

/// Outcomes that may wait for a commit.
pub const UNCOMMITTED: usize = 300;

/// What fails is an outcome at once.
pub const GIVES_UP: Patience = Patience { least: Duration::ZERO, most: Duration::ZERO, times: 0 };

fn start(
    config: &Annotator,
    store: &Store,
    prompts: &Prompts,
    patience: Patience,
    images: &Images,
) -> Client {
    let failures = failures::read(store).expect("what has failed").into_iter();
    let failures = failures.map(|failure| (failure.row.request_id.clone(), failure)).collect();
    let sittings = journal::sittings(store).expect("what was judged");
    let described = images.described.keys().chain(&images.lost);
    let described = described.map(|id| (id.clone(), Known::Stored)).collect();
    Client::start(Parts {
        config: config.clone(),
        prompts: prompts.clone(),
        store: store.clone(),
        library: Box::new(images.clone()),
        memo: Memo { failures, described, sittings, ..Memo::default() },
        patience,
        uncommitted: UNCOMMITTED,
    })
    .expect("a client")
}

/// What became of one pair whose description fails like this.
pub struct Became {
    /// Task and outcome of each row.
    pub outcomes: Vec<(String, String)>,
    /// Calls that asked for the description.
    pub calls: usize,
    /// In billionths.
    pub cost: u64,
    pub took: Duration,
    pub asked: Vec<Asked>,
}

pub fn one_pair(
    change: impl FnOnce(&mut Annotator),
    answer: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static,
) -> Became {
    let server = Server::start(move |asked, stream| match asked.describes() {
        true => answer(asked, stream),
        false => send_good(asked, stream),
    });
    let mut config = config(&server);
    change(&mut config);
    let began = Instant::now();
    let mut run = Run::new(config);
    let request = run.pair(0);
    run.client.want(vec![request.clone()]);
    let rows = run.outcomes(2);
    let took = began.elapsed();
    assert_eq!(rows.len(), 2);
    let nanos = |row: &AnnotationRow| (row.cost_usd.expect("a cost") * 1e9).round() as u64;
    let of_rows: u64 = rows.iter().map(nanos).sum();
    let of_description = rows.iter().find(|row| row.task == "describe").map_or(0, nanos);
    assert_eq!(of_rows, run.stop(), "the table says what the budget says");
    let outcomes = rows.into_iter().map(|row| (row.task, row.outcome)).collect();
    let calls = server.counts().0;
    Became { outcomes, calls, cost: of_description, took, asked: server.asked() }
}

pub fn failed(outcome: &str) -> Vec<(String, String)> {
    let row = |task: &str, outcome: &str| (task.to_owned(), outcome.to_owned());
    vec![row("describe", outcome), row("instruct", "no_description")]
}

pub fn went_well() -> Vec<(String, String)> {
    vec![("describe".into(), "ok".into()), ("instruct".into(), "ok".into())]
}

/// What is set aside for a description: that of a reply that does not say what it took.
pub fn most() -> u64 {
    let silent = one_pair(
        |_| {},
        |asked, stream| {
            let mut all = reply(&asked.good(), "stop");
            all.as_object_mut().expect("an object").remove("usage");
            send(stream, "200 OK", &[], all.to_string().as_bytes());
        },
    );
    assert_eq!((silent.outcomes, silent.calls), (went_well(), 1));
    assert!(silent.cost > CALL, "{}", silent.cost);
    silent.cost
}
