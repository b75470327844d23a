//! One try of one call over HTTP.

use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use reqwest::{
    Client, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect::Policy,
};
use schemas::{config::Annotator, limits};

use super::reply::Ended;
use crate::{fetch::retry_after, secrets};

/// The endpoint, and those that stand in for it.
#[derive(Clone)]
pub struct Endpoint {
    client: Client,
    /// Where each API begins, with its key.
    all: Vec<(String, Option<HeaderValue>)>,
    at: usize,
    timeout: Duration,
}

/// The key that an environment variable holds.
fn key(variable: &str) -> anyhow::Result<Option<HeaderValue>> {
    match std::env::var(variable) {
        Ok(key) if !key.trim().is_empty() => {
            secrets::learn(key.trim());
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
                .with_context(|| format!("{variable} holds no key"))?;
            value.set_sensitive(true);
            Ok(Some(value))
        }
        _ => Ok(None),
    }
}

impl Endpoint {
    /// As `[annotator]` has it; the key comes from the environment.
    ///
    /// # Errors
    /// There are no certificates to check servers by, or the key cannot stand in a header.
    pub fn new(config: &Annotator) -> anyhow::Result<Endpoint> {
        let client = Client::builder()
            .user_agent(concat!("everpair/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(limits::FETCH_CONNECT_TIME)
            .pool_max_idle_per_host(config.concurrency)
            .build()
            .context("[annotator] needs an HTTP client (are the system's certificates there?)")?;
        let own = (&config.url, Some(&config.key_variable));
        let others = config.fallback.iter().map(|other| (&other.url, other.key_variable.as_ref()));
        let all = std::iter::once(own).chain(others).map(|(url, variable)| {
            let key = variable.map(|variable| key(variable)).transpose()?.flatten();
            Ok((url.trim_end_matches('/').to_owned(), key))
        });
        let all = all.collect::<anyhow::Result<_>>()?;
        Ok(Endpoint { client, all, at: 0, timeout: config.timeout })
    }

    /// Where it is asked now.
    pub fn url(&self) -> &str {
        &self.all[self.at].0
    }

    /// Which of them that is, counted from 0.
    pub fn at(&self) -> usize {
        self.at
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The next one is asked from now on; behind the last comes the first. False where there is one.
    pub fn turn(&mut self) -> bool {
        self.at = (self.at + 1) % self.all.len();
        self.all.len() > 1
    }

    /// Sends a body and waits for the whole answer; servers that log requests know it by `id`.
    pub async fn call(&self, id: &str, body: Vec<u8>) -> Ended {
        match tokio::time::timeout(self.timeout, self.exchange(id, body)).await {
            Ok(ended) => ended,
            Err(_) => Ended::TooLong(self.timeout),
        }
    }

    /// The models that the endpoint says it has.
    ///
    /// # Errors
    /// It does not answer, or refuses; the message says what to look at.
    pub async fn models(&self) -> anyhow::Result<Vec<String>> {
        let (url, key) = &self.all[self.at];
        let mut request = self.client.get(format!("{url}/models")).timeout(self.timeout);
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, key);
        }
        let mut response = request.send().await.map_err(|error| anyhow!("{}", words(error)))?;
        let status = response.status();
        let body = read(&mut response).await.map_err(|why| anyhow!("{why}"))?;
        match status.as_u16() {
            401 | 403 => bail!("{status}: is the key in the environment right?"),
            200 => {}
            _ => bail!("{status} at {url}/models: is [annotator] url right?"),
        }
        let list: serde_json::Value = serde_json::from_slice(&body).context("a list of models")?;
        let names = list["data"].as_array().into_iter().flatten();
        Ok(names.filter_map(|model| model["id"].as_str().map(str::to_owned)).collect())
    }

    async fn exchange(&self, id: &str, body: Vec<u8>) -> Ended {
        let (url, key) = &self.all[self.at];
        let url = format!("{url}/chat/completions");
        let mut request = self.client.post(url).header(CONTENT_TYPE, "application/json");
        request = request.header("x-request-id", id);
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, key);
        }
        let mut response = match request.body(body).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Ended::Unreachable(words(error)),
            Err(error) => return Ended::Lost(words(error)),
        };
        let (status, headers) = (response.status().as_u16(), response.headers());
        let retry = headers.get("x-should-retry").and_then(|value| match value.as_bytes() {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        });
        let after = wanted_rest(headers);
        match read(&mut response).await {
            Ok(body) => Ended::Replied { status, retry, after, body },
            // Of a refusal the status says enough.
            Err(_) if status >= 400 => Ended::Replied { status, retry, after, body: Vec::new() },
            Err(why) => Ended::Lost(why),
        }
    }
}

fn wanted_rest(headers: &HeaderMap) -> Option<Duration> {
    let exact = headers.get("retry-after-ms").and_then(|value| value.to_str().ok()?.parse().ok());
    exact.map(Duration::from_millis).or_else(|| retry_after(headers, SystemTime::now()))
}

async fn read(response: &mut Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(words)? {
        if body.len() + chunk.len() > limits::ANNOTATOR_REPLY_BYTES {
            return Err(format!("more than {} bytes", limits::ANNOTATOR_REPLY_BYTES));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error with its causes: the first one alone says little.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = vec![error.to_string()];
    let mut cause = std::error::Error::source(&error);
    while let Some(this) = cause {
        words.push(this.to_string());
        cause = this.source();
    }
    words.dedup();
    words.join(": ")
}
