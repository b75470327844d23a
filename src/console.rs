//! The console of a running service: health, readiness, status and metrics over HTTP.
//!
//! One thread answers from what the service keeps in memory; no table is read and nobody waits for
//! it. A connection has one request and a few seconds, so that slow clients cost a place in a
//! bounded number of them and nothing else.

mod probe;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use schemas::{config, limits};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    time::timeout,
};

use self::probe::Probe;
use crate::{
    metrics::{Metrics, text},
    secrets,
};

/// What there is to ask for.
const PATHS: [(&str, &str); 4] = [
    ("/healthz", "200 while every thread is alive, else 503"),
    ("/readyz", "200 when it follows the source, else 503"),
    ("/status", "the newest commit and what is on its way, as JSON"),
    ("/metrics", "counters in Prometheus' text format"),
];
/// How long to leave a listener alone that failed: no more sockets, say.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The console; it ends when it is dropped.
pub struct Console {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Outlives the thread: the counters hold the store, whose own runtime must not end inside one.
    probe: Shown,
}

/// What there is to say now: a service that stands still for a moment begins with new counters.
type Shown = Arc<RwLock<Probe>>;

impl Console {
    /// The console that a config asks for, if it does; one that is there goes on with these counters.
    pub fn of(
        service: &config::Service,
        metrics: &Arc<Metrics>,
        console: &mut Option<Console>,
    ) -> anyhow::Result<()> {
        let Some(address) = service.listen else { return Ok(()) };
        let probe = Probe::new(service, metrics.clone());
        if let Some(console) = console {
            *console.probe.write().unwrap_or_else(PoisonError::into_inner) = probe;
            return Ok(());
        }
        let started = Console::start(address, probe)?;
        tracing::info!(address = %started.address, "console: http://{}", started.address);
        *console = Some(started);
        Ok(())
    }

    fn start(address: SocketAddr, probe: Probe) -> anyhow::Result<Console> {
        let at = || format!("[service] listen = \"{address}\"");
        let listener = std::net::TcpListener::bind(address).with_context(at)?;
        listener.set_nonblocking(true).with_context(at)?;
        let address = listener.local_addr().with_context(at)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("a runtime for the console")?;
        let (stop, stopped) = oneshot::channel();
        let probe = Arc::new(RwLock::new(probe));
        let served = probe.clone();
        let serve = async move {
            let listener = TcpListener::from_std(listener)?;
            tokio::select! {
                () = accept(listener, served) => {}
                _ = stopped => {}
            }
            std::io::Result::Ok(())
        };
        let thread = std::thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                // Connections that are open end with the runtime.
                if let Err(error) = runtime.block_on(serve) {
                    tracing::warn!("the console has ended: {error}");
                }
            })
            .context("start the console's thread")?;
        Ok(Console { address, stop: Some(stop), thread: Some(thread), probe })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A console that is gone needs no stop.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, probe: Shown) {
    let places = Arc::new(Semaphore::new(limits::CONSOLE_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let probe = probe.clone();
                tokio::spawn(async move {
                    // Why a client went away is no concern of ours.
                    let _ = timeout(limits::CONSOLE_CONNECTION_TIME, serve(stream, probe)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
}

async fn serve(stream: TcpStream, probe: Shown) -> hyper::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        // No clone: the last one to hold it must not be this thread.
        let probe = probe.read().unwrap_or_else(PoisonError::into_inner);
        let answer = answer(&probe, request.method(), request.uri().path());
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::CONSOLE_HEAD_TIME)
        .max_buf_size(limits::CONSOLE_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn answer(probe: &Probe, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !PATHS.iter().any(|(known, _)| *known == path) {
        let list = PATHS.map(|(path, what)| format!("{path:<10}{what}\n")).concat();
        return response(StatusCode::NOT_FOUND, PLAIN, format!("there is\n{list}"));
    }
    if method != Method::GET && method != Method::HEAD {
        let text = "only GET and HEAD\n".to_owned();
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text);
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let status = |well: bool| match well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    match path {
        "/healthz" => {
            let (healthy, page) = probe.health();
            response(status(healthy), JSON, format!("{page:#}\n"))
        }
        "/readyz" => {
            let (ready, page) = probe.readiness();
            response(status(ready), JSON, format!("{page:#}\n"))
        }
        "/status" => response(StatusCode::OK, JSON, format!("{:#}\n", probe.status())),
        _ => response(StatusCode::OK, text::CONTENT_TYPE, probe.metrics()),
    }
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let text = secrets::hide(&text).into_owned();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}
