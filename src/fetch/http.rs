//! One try to get what is behind an `http` or `https` URL.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::{
    Client, Response, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use schemas::{limits, reject::Reason};
use url::Url;

use super::{
    Body, Clock, Failure,
    guard::{Guarded, Names, NotAllowed, Rules},
};

/// The header by which a site says what its pictures are not for.
const ROBOTS: &str = "x-robots-tag";
/// What it may say; img2dataset honours the same four.
const OPT_OUT: [&str; 4] = ["noai", "noimageai", "noindex", "noimageindex"];
/// Who we are to servers, and in `X-Robots-Tag: everpair: noai`.
const AGENT: &str = "everpair";

/// The client, and what it may do.
pub struct Http {
    client: Client,
    rules: Arc<Rules>,
    respect_opt_out: bool,
}

impl Http {
    /// A client that follows no redirect by itself, takes no proxy from the environment, undoes no
    /// compression, and connects only where the rules allow.
    pub fn new(
        rules: Arc<Rules>,
        names: Arc<dyn Names>,
        respect_opt_out: bool,
    ) -> Result<Http, reqwest::Error> {
        let guarded = Guarded { names, rules: rules.clone() };
        let client = Client::builder()
            .user_agent(concat!("everpair/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(guarded))
            .connect_timeout(limits::FETCH_CONNECT_TIME)
            .pool_max_idle_per_host(limits::FETCH_PER_HOST)
            .build()?;
        Ok(Http { client, rules, respect_opt_out })
    }

    /// Reads what is behind `url`, redirects followed.
    pub async fn get(&self, url: &Url, clock: &mut Clock, body: &mut Body) -> Result<(), Failure> {
        let mut at = url.clone();
        for _ in 0..=limits::FETCH_REDIRECTS {
            let response = clock.run(self.ask(&at)).await??;
            self.check(&at, &response)?;
            let status = response.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return read(response, clock, body).await;
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.ok_or_else(|| failed(format!("{status} that does not say where to")))?;
            let to = at.join(to).map_err(|e| failed(format!("{status} to {to:?}: {e}")))?;
            self.rules.admit_redirect(&at, &to).map_err(not_allowed)?;
            at = to;
        }
        Err(failed(format!("more than {} redirects", limits::FETCH_REDIRECTS)))
    }

    async fn ask(&self, url: &Url) -> Result<Response, Failure> {
        let request = self.client.get(url.clone());
        let request = request.header(ACCEPT, "image/*").header(ACCEPT_ENCODING, "identity");
        request.send().await.map_err(broken)
    }

    fn check(&self, url: &Url, response: &Response) -> Result<(), Failure> {
        // The resolver has seen to it, and so has the check of addresses in URLs; a way around
        // both must not go unseen.
        if let Some(peer) = response.remote_addr() {
            let name = url.host_str().unwrap_or_default();
            self.rules.admit_address(name, peer.ip()).map_err(not_allowed)?;
        }
        match opted_out(response.headers()) {
            Some(word) if self.respect_opt_out => {
                Err(Failure::Final(Reason::OptedOut, format!("X-Robots-Tag says {word}")))
            }
            _ => Ok(()),
        }
    }
}

async fn read(mut response: Response, clock: &mut Clock, body: &mut Body) -> Result<(), Failure> {
    let status = response.status();
    let after = retry_after(response.headers(), SystemTime::now());
    match status {
        StatusCode::OK => {}
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            return Err(Failure::Again(status.to_string(), after));
        }
        _ if status.is_server_error() => return Err(Failure::Again(status.to_string(), after)),
        _ => return Err(failed(status.to_string())),
    }
    if let Some(coding) = response.headers().get(CONTENT_ENCODING)
        && coding != "identity"
    {
        return Err(failed(format!(
            "sent with content-encoding {coding:?}, which was not asked for"
        )));
    }
    if let Some(announced) = response.content_length() {
        body.announced(announced)?;
    }
    while let Some(chunk) = clock.run(response.chunk()).await?.map_err(broken)? {
        body.take(&chunk).await?;
    }
    Ok(())
}

fn failed(why: String) -> Failure {
    Failure::Final(Reason::FetchFailed, why)
}

fn not_allowed(why: NotAllowed) -> Failure {
    Failure::Final(Reason::UriNotAllowed, why.0)
}

/// A connection that broke may stand at the next try; one that was refused by the rules may not.
fn broken(error: reqwest::Error) -> Failure {
    let mut words = Vec::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(this) = cause {
        if let Some(refused) = this.downcast_ref::<NotAllowed>() {
            return not_allowed(refused.clone());
        }
        words.push(this.to_string());
        cause = this.source();
    }
    if words.is_empty() {
        words.push(error.without_url().to_string());
    }
    words.dedup();
    Failure::Again(words.join(": "), None)
}

/// The first word by which the owner opts out, for everybody or for us.
pub fn opted_out(headers: &HeaderMap) -> Option<&'static str> {
    for value in headers.get_all(ROBOTS) {
        // `otherbot: noai, noindex` is for another robot, up to the next name.
        let mut ours = true;
        for part in String::from_utf8_lossy(value.as_bytes()).to_lowercase().split(',') {
            let mut word = part.trim();
            if let Some((name, rest)) = word.split_once(':') {
                let name = name.trim();
                // The one rule that has a value of its own.
                if name != "unavailable_after" {
                    ours = name == AGENT || name == "*";
                }
                word = rest.trim();
            }
            let said = OPT_OUT.into_iter().find(|known| ours && *known == word);
            if said.is_some() {
                return said;
            }
        }
    }
    None
}

/// How long a server asks to be left alone: seconds, or a date.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn robots(values: &[&str]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ROBOTS, HeaderValue::from_str(value).expect("a header"));
        }
        opted_out(&headers)
    }

    #[test]
    fn owners_opt_out_for_everybody_or_for_us() {
        for value in ["noai", "NoAI", "nofollow, noimageai", "noindex", "noimageindex,nofollow"] {
            assert!(robots(&[value]).is_some(), "{value}");
        }
        assert_eq!(robots(&["everpair: noai"]), Some("noai"));
        assert_eq!(robots(&["*: noai"]), Some("noai"));
        assert_eq!(robots(&["nofollow", "otherbot: all", "noindex"]), Some("noindex"));
        assert_eq!(robots(&["otherbot: nofollow, everpair: noindex"]), Some("noindex"));
        assert_eq!(robots(&["otherbot: noindex, noai"]), None);
        assert_eq!(robots(&["all", "nofollow", "none-such"]), None);
        assert_eq!(robots(&["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"]), Some("noai"));
        assert_eq!(robots(&[]), None);
    }

    #[test]
    fn servers_say_when_to_come_back() {
        let after = |text: &str| {
            let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
            let value = HeaderValue::from_str(text).expect("a header");
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]), now)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(after("Sun, 06 Nov 1994 08:40:37 GMT"), None);
        assert_eq!(after("soon"), None);
    }
}
