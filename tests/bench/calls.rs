//! How many calls a model's client gets done, beside clients that keep a fixed number in flight: against
//! endpoints that queue whatever comes, and against such as turn away what is too much.
//!
//! ```sh
//! cargo run --example calls
//! ```
//!
//! All run at once, two minutes long, each with a server of its own that sleeps instead of thinking. The
//! first quarter is not counted.

#[path = "../annotator/server.rs"]
#[allow(dead_code)]
mod server;

use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use everpair::{
    annotator::openai::{
        self, Client, Parts,
        failures::Patience,
        library::{Library, Memo},
        prompts::{Description, Prompts},
        worth::{Both, Worth},
    },
    delta::Store,
};
use schemas::{
    ContentId,
    config::{Annotator, AnnotatorKind},
};

use serde_json::json;
use server::{Asked, Server, send, send_good};

const TIME: Duration = Duration::from_secs(120);
const WARM: Duration = Duration::from_secs(30);
/// What fixed clients keep in flight.
const FIXED: [usize; 7] = [2, 4, 8, 12, 16, 24, 48];

/// An endpoint.
#[derive(Clone, Copy)]
struct Case {
    /// Calls that it works on at once.
    slots: usize,
    /// How long one takes, on average.
    latency: Duration,
    /// Calls, those that wait included, above which it answers 429.
    most: usize,
}

/// What one client gets done of a case.
struct Endpoint {
    server: Server,
    done: Arc<AtomicUsize>,
}

impl Endpoint {
    fn of(case: Case, begin: Instant) -> Endpoint {
        let done = Arc::new(AtomicUsize::new(0));
        let (counted, here) = (done.clone(), AtomicUsize::new(0));
        let (slots, freed) = (Mutex::new(case.slots), Condvar::new());
        let server = Server::start(move |asked: &Asked, stream: &mut TcpStream| {
            if here.fetch_add(1, Ordering::AcqRel) >= case.most {
                here.fetch_sub(1, Ordering::AcqRel);
                send(stream, "429 Too Many Requests", &[], b"{}");
                return;
            }
            let free = slots.lock().expect("no panic holds it");
            let mut free = freed.wait_while(free, |free| *free == 0).expect("no panic holds it");
            *free -= 1;
            drop(free);
            // From half as long to half as long again.
            let dice = ContentId::of(asked.id.as_bytes()).0[0];
            thread::sleep(case.latency.mul_f64(0.5 + f64::from(dice) / 255.0));
            *slots.lock().expect("no panic holds it") += 1;
            freed.notify_one();
            here.fetch_sub(1, Ordering::AcqRel);
            let at = begin.elapsed();
            counted.fetch_add(usize::from(at >= WARM && at < TIME), Ordering::AcqRel);
            send_good(asked, stream);
        });
        Endpoint { server, done }
    }

    /// Calls per second.
    fn rate(&self) -> f64 {
        self.done.load(Ordering::Acquire) as f64 / (TIME - WARM).as_secs_f64()
    }
}

/// One call; whether it was answered.
fn call(address: SocketAddr, id: &str) -> bool {
    let message = |role: &str| json!({ "role": role, "content": "instructions" });
    let body = json!({ "model": "a-model", "messages": [message("system"), message("user")] });
    let body = body.to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut reply = String::new();
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(request.as_bytes())?;
        stream.read_to_string(&mut reply)
    });
    asked.is_ok() && reply.starts_with("HTTP/1.1 200")
}

/// Keeps so many calls in flight; one that is turned away is tried again a little later.
fn fixed(address: SocketAddr, in_flight: usize, over: &Arc<AtomicBool>) {
    for one in 0..in_flight {
        let over = over.clone();
        thread::spawn(move || {
            let mut n = 0;
            while !over.load(Ordering::Acquire) {
                let id = ContentId::of(format!("{one} {n}").as_bytes()).hex();
                match call(address, &id) {
                    true => n += 1,
                    false => thread::sleep(Duration::from_millis(100)),
                }
            }
        });
    }
}

/// Pictures of a few bytes.
struct Pictures;

impl Library for Pictures {
    fn picture(&mut self, content: &ContentId) -> anyhow::Result<Option<Arc<[u8]>>> {
        Ok(Some(content.0.to_vec().into()))
    }

    fn descriptions(
        &mut self,
        _: &HashSet<String>,
    ) -> anyhow::Result<HashMap<String, Description>> {
        Ok(HashMap::new())
    }

    fn contents(&mut self, _: &HashSet<Arc<str>>) -> anyhow::Result<HashMap<Arc<str>, ContentId>> {
        Ok(HashMap::new())
    }

    fn worth(&mut self, _: &HashSet<Both>) -> anyhow::Result<HashMap<Both, Worth>> {
        Ok(HashMap::new())
    }
}

/// The client of the service, with more to ask than it can, until it is over.
fn ours(url: String, over: &AtomicBool) -> anyhow::Result<()> {
    let config = Annotator {
        kind: AnnotatorKind::OpenAi,
        url,
        model: "a-model".into(),
        input_price: Some(0.0),
        output_price: Some(0.0),
        budget: Some(1.0),
        concurrency: 64,
        ..Annotator::default()
    };
    let folder = tempfile::tempdir()?;
    let prompts = Prompts::of(&config)?;
    let model = openai::model_id(&config, &prompts);
    let mut client = Client::start(Parts {
        config,
        prompts,
        store: Store::folder(folder.path())?,
        library: Box::new(Pictures),
        memo: Memo::default(),
        patience: Patience::default(),
        uncommitted: 1_000,
    })?;
    let mut asked = 0_u64;
    while !over.load(Ordering::Acquire) {
        while client.standing().pairs < 400 && asked < 400 + client.standing().pairs_ended as u64 {
            let image = |n: u64| {
                let content = ContentId::of(&n.to_le_bytes());
                (content.hex().into(), (content, None))
            };
            let ((query_id, query), (target_id, target)) = (image(2 * asked), image(2 * asked + 1));
            let request =
                operators::annotate::request(&model, (&query_id, &query), (&target_id, &target));
            client.want(vec![request]);
            asked += 1;
        }
        let rows = client.take().into_iter().map(|row| (row.request_id, row.outcome));
        client.committed(rows.collect());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn main() {
    let seconds = Duration::from_secs_f64;
    let case = |slots, latency, most| Case { slots, latency: seconds(latency), most };
    let cases = [
        case(4, 0.2, usize::MAX),
        case(16, 0.2, usize::MAX),
        case(16, 0.2, 24),
        case(12, 1.0, usize::MAX),
        case(12, 1.0, 16),
        case(16, 5.0, usize::MAX),
        case(16, 5.0, 24),
    ];
    let (begin, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let endpoints: Vec<[Vec<Endpoint>; 2]> = cases
        .iter()
        .map(|case| {
            let of_fixed = FIXED.iter().map(|in_flight| {
                let endpoint = Endpoint::of(*case, begin);
                fixed(endpoint.server.address, *in_flight, &over);
                endpoint
            });
            let of_ours = Endpoint::of(*case, begin);
            let (url, over) = (of_ours.server.url(), over.clone());
            thread::spawn(move || {
                if let Err(error) = ours(url, &over) {
                    eprintln!("the client: {error:#}");
                    std::process::exit(1);
                }
            });
            [of_fixed.collect(), vec![of_ours]]
        })
        .collect();
    thread::sleep(TIME.saturating_sub(begin.elapsed()));
    over.store(true, Ordering::Release);
    println!(
        "| at once | a call | turned away above | most it can do | best of fixed | in flight | the client | of the best |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (case, [of_fixed, of_ours]) in cases.iter().zip(&endpoints) {
        let rates = of_fixed.iter().map(Endpoint::rate).zip(FIXED);
        let (best, in_flight) =
            rates.max_by(|one, other| one.0.total_cmp(&other.0)).unwrap_or_default();
        let rate = of_ours[0].rate();
        let most = if case.most == usize::MAX { "-".into() } else { case.most.to_string() };
        println!(
            "| {} | {} s | {most} | {:.1}/s | {best:.1}/s | {in_flight} | {rate:.1}/s | {:.2} |",
            case.slots,
            case.latency.as_secs_f64(),
            case.slots as f64 / case.latency.as_secs_f64(),
            rate / best
        );
    }
}
