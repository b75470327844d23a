//! A broker, asked within bounded time: what a run would ask again and again.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use schemas::config;

use super::{Check, seconds, source::Ranges};
use crate::source::kafka::client;

const PART: &str = "source";
/// The shortest time that a question gets, however late it is.
const ANSWER_MIN: Duration = Duration::from_millis(200);
/// How long one question takes, between which the client's words are heard.
const ASK: Duration = Duration::from_secs(1);
/// How long one look for an event takes.
const LISTEN: Duration = Duration::from_millis(20);
/// Lines of the client's that are passed on.
const HEARD_MAX: usize = 3;

/// Keeps what the client says, which knows the reasons that its answers leave out.
#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<String>>,
}

impl Ear {
    fn hear(&self, text: &str) {
        // `[thrd:…]: host:port/bootstrap: Connect to … failed: …`
        let text = text.rsplit("]: ").next().unwrap_or(text).trim().to_owned();
        let mut heard = self.heard.lock().expect("no holder of this lock can panic");
        if heard.len() < HEARD_MAX && !heard.iter().any(|line| line.contains(&text)) {
            heard.push(text);
        }
    }

    fn said(&self) -> String {
        let heard = self.heard.lock().expect("no holder of this lock can panic");
        heard.iter().map(|line| format!("; {line}")).collect()
    }

    /// Why no broker lets this client in, if that is so.
    fn refusal(&self) -> Option<String> {
        let heard = self.heard.lock().expect("no holder of this lock can panic");
        heard.iter().find_map(|line| client::refusal(line))
    }
}

impl ClientContext for Ear {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        if (level as i32) <= RDKafkaLogLevel::Warning as i32 && facility != "CONFWARN" {
            self.hear(text);
        }
    }

    fn error(&self, _: KafkaError, reason: &str) {
        self.hear(reason);
    }
}

impl ConsumerContext for Ear {}

/// The offsets of every partition, if all could be told; what was found is added to `checks`.
pub(super) fn ranges(
    config: &config::Source,
    deadline: Instant,
    timeout: Duration,
    checks: &mut Vec<Check>,
) -> Option<Ranges> {
    let made = client::reader(&config.brokers, &config.settings)
        .and_then(|c| c.create_with_context(Ear::default()).map_err(|e| client::refused(&e)));
    let consumer: BaseConsumer<Ear> = match made {
        Ok(consumer) => consumer,
        Err(error) => {
            checks.push(Check::failed(PART, error.to_string()));
            return None;
        }
    };
    let mut ranges = Ranges::new();
    let mut complete = true;
    for topic in &config.topics {
        match partitions(&consumer, config, topic, deadline) {
            Err(Silence::Refusal(why)) => {
                checks.push(Check::failed(PART, why));
                return None;
            }
            Err(Silence::Broker(why)) => {
                let said = said(&consumer);
                checks.push(Check::failed(
                    PART,
                    format!(
                        "no broker of {} answers within {}: {why}{said}. Check [source] brokers, \
                         the network, and security.protocol and sasl.* in [source.settings]",
                        config.brokers,
                        seconds(timeout)
                    ),
                ));
                return None;
            }
            Err(Silence::Topic(why)) => {
                checks.push(Check::failed(PART, why));
                complete = false;
            }
            Ok((partitions, advertised)) => {
                let mut sum = 0;
                for partition in &partitions {
                    let left = left(deadline);
                    match consumer.fetch_watermarks(topic, *partition, left) {
                        Ok((low, end)) => {
                            let place = (topic.as_str().into(), *partition);
                            ranges.insert(place, (low.max(0), end.max(0)));
                            sum += end.max(0);
                        }
                        Err(error) => {
                            checks.push(Check::failed(
                                PART,
                                format!(
                                    "topic {topic} partition {partition}: its leader does not \
                                     answer: {error}{}. The brokers call themselves {advertised}: \
                                     these names must be reachable from here",
                                    said(&consumer)
                                ),
                            ));
                            return None;
                        }
                    }
                }
                checks.push(Check::ok(
                    PART,
                    format!(
                        "{} partitions, offsets add up to {sum}: topic {topic} at {advertised}",
                        partitions.len()
                    ),
                ));
            }
        }
    }
    complete.then_some(ranges)
}

/// What the client has to say.
fn said(consumer: &BaseConsumer<Ear>) -> String {
    listen(consumer);
    consumer.context().said()
}

/// The client's words come as events.
fn listen(consumer: &BaseConsumer<Ear>) {
    let until = Instant::now() + ANSWER_MIN;
    while Instant::now() < until {
        // Nothing is assigned: what comes is no record.
        drop(consumer.poll(LISTEN));
    }
}

enum Silence {
    /// Brokers turn this client away, or it them; the other topics need not be asked for.
    Refusal(String),
    /// Nobody answers; the other topics need not be asked for.
    Broker(String),
    /// The topic cannot be read.
    Topic(String),
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(ANSWER_MIN)
}

/// The partitions of a topic, and where the brokers say that they are.
fn partitions(
    consumer: &BaseConsumer<Ear>,
    config: &config::Source,
    topic: &str,
    deadline: Instant,
) -> Result<(Vec<i32>, String), Silence> {
    let metadata = loop {
        match consumer.fetch_metadata(Some(topic), left(deadline).min(ASK)) {
            Ok(metadata) => break metadata,
            Err(error) => {
                listen(consumer);
                if let Some(why) = consumer.context().refusal() {
                    return Err(Silence::Refusal(why));
                }
                if Instant::now() >= deadline {
                    return Err(Silence::Broker(error.to_string()));
                }
            }
        }
    };
    let advertised = metadata.brokers().iter().map(|b| format!("{}:{}", b.host(), b.port()));
    let advertised = advertised.collect::<Vec<_>>().join(", ");
    let brokers = &config.brokers;
    let Some(found) = metadata.topics().first() else {
        return Err(Silence::Topic(format!("topic {topic}: {brokers} says nothing of it")));
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
            return Err(Silence::Topic(format!(
                "there is no topic {topic} at {brokers}: create it, or correct [source] topics"
            )));
        }
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            return Err(Silence::Topic(format!(
                "topic {topic}: {brokers} lets this user not read it: it needs DESCRIBE and READ"
            )));
        }
        Some(error) => return Err(Silence::Topic(format!("topic {topic} at {brokers}: {error}"))),
    }
    let partitions: Vec<i32> = found.partitions().iter().map(|p| p.id()).collect();
    match partitions.is_empty() {
        true => Err(Silence::Topic(format!("topic {topic} at {brokers} has no partition"))),
        false => Ok((partitions, advertised)),
    }
}
