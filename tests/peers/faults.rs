//! A proxy in front of an S3 server that does to requests what networks and busy stores do.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is passed on.
    None,
    /// It never arrives; the answer is this.
    Refused(u16),
    /// It arrives and does its work; the answer is this all the same.
    Lied(u16),
    /// It arrives and does its work; the connection breaks before the answer.
    Broken,
    /// It arrives after this, and is answered.
    Slow(Duration),
    /// Whoever sent it is killed.
    Killed(When),
}

/// When a request arrives whose sender is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Never.
    Before,
    /// It has done its work by then.
    After,
    /// So long afterwards, when another may have taken over.
    Late(Duration),
}

type Decide = Box<dyn FnMut(&str, &str) -> Fault + Send>;
type Kill = Box<dyn Fn() + Send + Sync>;

struct State {
    target: String,
    client: reqwest::Client,
    decide: Mutex<Decide>,
    kill: Kill,
    faults: AtomicUsize,
}

/// The proxy; it ends with this value.
pub struct Faults {
    address: SocketAddr,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Faults {
    /// In front of `target` (`host:port`); `decide` is asked for every request, by method and path;
    /// of those that delete, by DELETE and the path of the first object.
    pub fn start(target: &str, decide: impl FnMut(&str, &str) -> Fault + Send + 'static) -> Faults {
        Faults::start_killing(target, decide, || panic!("nobody said who is to be killed"))
    }

    /// The same; `kill` ends whoever sends the requests, for [`Fault::Killed`].
    pub fn start_killing(
        target: &str,
        decide: impl FnMut(&str, &str) -> Fault + Send + 'static,
        kill: impl Fn() + Send + Sync + 'static,
    ) -> Faults {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let state = Arc::new(State {
            target: target.to_owned(),
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
            decide: Mutex::new(Box::new(decide)),
            kill: Box::new(kill),
            faults: AtomicUsize::new(0),
        });
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = state.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| pass(state.clone(), request));
                    // A connection that breaks is what this is for.
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Faults { address, state, runtime: Some(runtime) }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Requests that something happened to.
    pub fn count(&self) -> usize {
        self.state.faults.load(Ordering::Relaxed)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An error that hyper answers by breaking the connection.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

impl From<Infallible> for Cut {
    fn from(never: Infallible) -> Cut {
        match never {}
    }
}

fn answer(status: u16) -> Response<Full<Bytes>> {
    let code = match status {
        503 => "SlowDown",
        403 => "AccessDenied",
        _ => "InternalError",
    };
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    answer
}

async fn pass(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    // Read whole in any case: a client that is still sending would see a broken connection instead.
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let (method, told) = match path.split_once("?delete") {
        // One request deletes many objects, which its body names; most often it is one.
        Some((bucket, _)) if head.method == "POST" => {
            let text = String::from_utf8_lossy(&body);
            let key = text.split("<Key>").nth(1).and_then(|rest| rest.split("</Key>").next());
            ("DELETE".to_owned(), format!("{bucket}/{}", key.unwrap_or_default()))
        }
        _ => (head.method.to_string(), path.clone()),
    };
    let fault = (state.decide.lock().expect("no decision panics"))(&method, &told);
    if fault != Fault::None {
        state.faults.fetch_add(1, Ordering::Relaxed);
    }
    match fault {
        Fault::Refused(status) => return Ok(answer(status)),
        Fault::Slow(time) => tokio::time::sleep(time).await,
        Fault::Killed(When::Before) => {
            (state.kill)();
            return Err(Cut);
        }
        Fault::Killed(When::Late(time)) => {
            (state.kill)();
            // A task of its own: the connection's ends with its sender.
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                // Nobody is there any more to hear how it went.
                let _ = forward(&state, head, &path, body).await;
            });
            return Err(Cut);
        }
        _ => {}
    }
    let back = forward(&state, head, &path, body).await?;
    match fault {
        Fault::Broken => Err(Cut),
        Fault::Lied(status) => Ok(answer(status)),
        Fault::Killed(_) => {
            (state.kill)();
            Err(Cut)
        }
        _ => Ok(back),
    }
}

/// Passes a request on; gives the server's answer.
async fn forward(
    state: &State,
    head: Parts,
    path: &str,
    body: Bytes,
) -> Result<Response<Full<Bytes>>, Cut> {
    let url = format!("http://{}{path}", state.target);
    let sent = state.client.request(head.method, url).headers(head.headers).body(body).send();
    let sent = sent.await.map_err(|_| Cut)?;
    let mut back = Response::builder().status(sent.status());
    for (name, value) in sent.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
        back = back.header(name, value);
    }
    let bytes = sent.bytes().await.map_err(|_| Cut)?;
    back.body(Full::new(bytes)).map_err(|_| Cut)
}
