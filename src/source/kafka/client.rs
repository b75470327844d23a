//! Settings of Kafka's client, and what it has to say.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message,
    config::{ClientConfig, RDKafkaLogLevel},
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::ProducerContext,
    statistics::Statistics,
};
use schemas::limits;
use tracing::{debug, info};

use crate::{
    log,
    source::{SourceError, warn},
};

/// What `[source] settings` may not change, because exactness rests on it.
const OURS: [&str; 8] = [
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "isolation.level",
    "acks",
];
/// A broker that is away says so again and again; a person reads it once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Settings of a reader: `settings`, then what they may not change.
pub fn reader(
    brokers: &str,
    settings: &BTreeMap<String, String>,
) -> Result<ClientConfig, SourceError> {
    let mut config = common(brokers, settings)?;
    let defaults = [
        ("group.id", "everpair".to_owned()),
        ("queued.max.messages.kbytes", (limits::KAFKA_AHEAD_BYTES >> 10).to_string()),
        ("fetch.message.max.bytes", limits::KAFKA_FETCH_BYTES.to_string()),
        ("fetch.max.bytes", (4 * limits::KAFKA_FETCH_BYTES).to_string()),
        ("topic.metadata.refresh.interval.ms", "30000".to_owned()),
        // What the client knows of ends and brokers anyway, for displays and probes.
        ("statistics.interval.ms", "1000".to_owned()),
    ];
    for (name, value) in defaults {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true");
    Ok(config)
}

/// Settings of a writer that waits for every replica and writes nothing twice.
pub fn writer(
    brokers: &str,
    settings: &BTreeMap<String, String>,
) -> Result<ClientConfig, SourceError> {
    let mut config = common(brokers, settings)?;
    let defaults = [
        // As the Java client has it: whoever writes the same key, it goes to the same partition.
        ("partitioner", "murmur2_random"),
        // A broker refuses a batch as a whole: a message that may be too large stands alone.
        ("batch.size", "262144"),
        ("linger.ms", "5"),
        ("message.timeout.ms", "60000"),
    ];
    for (name, value) in defaults {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    let ahead = (limits::KAFKA_AHEAD_BYTES >> 10).to_string();
    config.set("queue.buffering.max.kbytes", ahead);
    config.set("enable.idempotence", "true").set("acks", "all");
    Ok(config)
}

fn common(brokers: &str, settings: &BTreeMap<String, String>) -> Result<ClientConfig, SourceError> {
    if let Some(name) = OURS.iter().find(|name| settings.contains_key(**name)) {
        return Err(SourceError::Unusable(format!(
            "[source] settings may not have {name}: what is read exactly once rests on it"
        )));
    }
    let tls = settings
        .get("security.protocol")
        .is_some_and(|p| p.eq_ignore_ascii_case("ssl") || p.eq_ignore_ascii_case("sasl_ssl"));
    if tls && !cfg!(feature = "kafka-tls") {
        return Err(SourceError::Unusable(
            "security.protocol asks for TLS, which this build leaves out because it takes minutes \
             to compile: build with `cargo build --features kafka-tls`"
                .into(),
        ));
    }
    for (name, path) in settings.iter().filter(|(name, _)| name.ends_with(".location")) {
        // The client would say "BIO lib".
        if path != "probe" && !std::path::Path::new(path).exists() {
            return Err(SourceError::Unusable(format!(
                "[source] settings: {name} = {path:?} is not there; a path in settings is relative \
                 to where everpair is started"
            )));
        }
    }
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("client.id", "everpair");
    config.set("socket.keepalive.enable", "true");
    if tls && !settings.contains_key("ssl.ca.location") {
        // The vendored OpenSSL knows no certificates of its own.
        config.set("ssl.ca.location", "probe");
    }
    for (name, value) in settings {
        config.set(name, value);
    }
    if tracing::enabled!(target: log::KAFKA, tracing::Level::DEBUG) {
        config.set_log_level(RDKafkaLogLevel::Debug);
    }
    Ok(config)
}

/// A client that cannot even be made: a setting is wrong, or needs what this build leaves out.
pub fn refused(error: &KafkaError) -> SourceError {
    let hint = if cfg!(feature = "kafka-tls") {
        ""
    } else {
        " (SASL with SCRAM needs a build with `--features kafka-tls`)"
    };
    SourceError::Unusable(format!("[source] settings: {error}{hint}"))
}

/// Why this client and a broker turn each other away, from what the client says, and what would
/// help; `None` of what may pass by itself.
pub fn refusal(text: &str) -> Option<String> {
    // `[thrd:…]: ssl://host:port/bootstrap: SSL handshake failed: … (after 5ms in state …)`
    let text = text.rsplit("]: ").next().unwrap_or(text);
    let text = text.split(" (after ").next().unwrap_or(text).trim();
    let tls =
        ["certificate verify failed", "verify broker certificate", "not provide a certificate"];
    if tls.iter().any(|words| text.contains(words)) {
        let broker = text.split(": ").next().unwrap_or(text);
        return Some(format!(
            "{broker}: the broker's certificate is refused: no CA in \"ssl.ca.location\" signed it \
             (name a PEM file with that CA there, in [source.settings]; without it, those of the \
             system are taken), it is not made out to this host name or address (use one that it \
             has as subjectAltName, in [source] brokers and in the broker's advertised.listeners), \
             or its time has run out"
        ));
    }
    if text.contains("uthentication failed") || text.contains("authentication error") {
        return Some(format!(
            "{text}. Check \"sasl.mechanisms\", \"sasl.username\" and \"sasl.password\" in \
             [source.settings], and that the broker knows this user"
        ));
    }
    None
}

/// A message's tag, with its partition and offset, or why it was not delivered.
pub type Delivered = (usize, Result<(i32, i64), RDKafkaErrorCode>);
/// What the client's own statistics say.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// A broker is connected.
    pub connected: bool,
    /// The first offset that is left and the last stable one, by topic and partition.
    pub ranges: BTreeMap<(String, i32), (i64, i64)>,
}

/// The last words of the client.
#[derive(Default)]
struct Heard {
    complaint: Option<String>,
    refusal: Option<String>,
}

/// Passes on what a person should know, and not every time; collects what became of sent messages.
#[derive(Default)]
pub struct Watch {
    said: Mutex<Option<Instant>>,
    heard: Mutex<Heard>,
    seen: Mutex<Seen>,
    /// What became of messages since this was last emptied.
    pub delivered: Mutex<Vec<Delivered>>,
}

impl Watch {
    /// A warning, unless there was one a moment ago.
    pub fn say(&self, text: &str) {
        let mut said = self.said.lock().expect("no holder of this lock can panic");
        if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
            *said = Some(Instant::now());
            warn(format_args!("kafka: {text}; still trying"));
        }
    }

    /// Why brokers are out of reach, if they turn this client away: waiting does not help then.
    pub fn refusal(&self) -> Option<String> {
        self.heard.lock().expect("no holder of this lock can panic").refusal.clone()
    }

    /// The client's newest complaint, as the end of a sentence.
    pub fn complaint(&self) -> String {
        let heard = self.heard.lock().expect("no holder of this lock can panic");
        heard.complaint.iter().map(|text| format!(": {text}")).collect()
    }

    fn hear(&self, text: &str) {
        self.say(text);
        let refusal = refusal(text);
        let mut heard = self.heard.lock().expect("no holder of this lock can panic");
        heard.complaint = Some(text.to_owned());
        heard.refusal = refusal.or_else(|| heard.refusal.take());
    }

    /// What the newest statistics said.
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("no holder of this lock can panic").clone()
    }
}

impl ClientContext for Watch {
    fn stats(&self, statistics: Statistics) {
        let connected = statistics.brokers.values().any(|broker| broker.state == "UP");
        let mut ranges = BTreeMap::new();
        for (topic, of) in statistics.topics {
            for (number, partition) in of.partitions {
                // Not known yet is negative. Of an open transaction nothing counts.
                let (first, end) = (partition.lo_offset, partition.ls_offset);
                if end >= 0 {
                    ranges.insert((topic.clone(), number), (first.max(0), end));
                }
            }
        }
        *self.seen.lock().expect("no holder of this lock can panic") = Seen { connected, ranges };
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Both kinds of client share one set of settings and complain of each other's.
        match level {
            _ if facility == "CONFWARN" => {}
            RDKafkaLogLevel::Debug => debug!(target: log::KAFKA, facility, "{text}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                info!(target: log::KAFKA, facility, "{text}");
            }
            _ => self.hear(text),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            self.hear(reason);
        }
    }
}

impl ConsumerContext for Watch {}

impl ProducerContext for Watch {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: usize) {
        let fate = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((e, _)) => Err(e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        self.delivered.lock().expect("no holder of this lock can panic").push((tag, fate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waiting_does_not_help_against_is_told_from_the_rest() {
        let tls = "[thrd:ssl://a:9/bootstrap]: ssl://a:9/bootstrap: SSL handshake failed: \
                   error:0A000086:SSL routines::certificate verify failed: broker certificate \
                   could not be verified (after 5ms in state SSL_HANDSHAKE)";
        let why = refusal(tls).expect("it is refused");
        assert!(why.starts_with("ssl://a:9/bootstrap: the broker's certificate"), "{why}");
        let sasl = "sasl_ssl://a:9/bootstrap: SASL authentication error: Authentication failed: \
                    Invalid username or password (after 315ms in state AUTH_REQ)";
        let why = refusal(sasl).expect("it is refused");
        assert!(why.contains("Invalid username or password. Check"), "{why}");
        for passes in [
            "[thrd:a:9/bootstrap]: a:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: refused",
            "ssl://a:9/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT \
             broker listener?",
        ] {
            assert_eq!(refusal(passes), None, "{passes}");
        }
    }
}
