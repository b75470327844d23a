//! The wire format: one record of a Kafka topic, or one line of a file log, becomes a message.

use std::sync::Arc;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::{Channel, limits, reject::Reason};

/// Where a record stands, and when it was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Topic, or the name of the file log.
    pub topic: Arc<str>,
    /// Partition within it.
    pub partition: i32,
    /// Offset within that.
    pub offset: i64,
    /// The record's timestamp, microseconds UTC, see [`timestamp_us`].
    pub timestamp_us: i64,
}

/// One record, as the source has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where it stands.
    pub position: Position,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` is a tombstone.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
    /// Headers, in order; a null header value is none.
    pub headers: Vec<(String, Vec<u8>)>,
    /// What was behind its `uri`, if it was fetched.
    #[serde(default)]
    pub fetched: Option<Fetched>,
    /// Whether it was read before.
    #[serde(default)]
    pub reading: Reading,
}

/// How often a record has been read, and what came after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// As it came.
    #[default]
    First,
    /// By a replay, and its partition has no later message of its id.
    Again,
    /// By a replay, and its partition has a later message of its id: only whether it is turned away
    /// matters.
    Superseded,
}

/// What came of fetching a `uri`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fetched {
    /// The bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Why there are none: a reason of the closed set, and the words for it.
    Failed(Reason, String),
}

impl Record {
    /// A record as the source has it: nothing is fetched yet.
    pub fn new(
        position: Position,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<(String, Vec<u8>)>,
    ) -> Record {
        Record { position, key, value, headers, fetched: None, reading: Reading::First }
    }

    /// Bytes that count against an epoch's budget.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        let fetched = match &self.fetched {
            Some(Fetched::Bytes(bytes)) => bytes.len(),
            Some(Fetched::Failed(_, why)) => why.len(),
            None => 0,
        };
        self.key.as_ref().map_or(0, Vec::len)
            + self.value.as_ref().map_or(0, Vec::len)
            + headers
            + fetched
    }
}

/// Where the image id comes from (`[source] key`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum KeySource {
    /// The record's key.
    #[default]
    Message,
    /// The sha256 of the image's bytes; a take-down then names that as its key.
    Content,
    /// A header's value.
    Header(String),
}

/// What a message says of its image.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The image is to be taken down.
    Tombstone,
    /// The image's bytes are in the message.
    Bytes(Vec<u8>),
    /// The image's bytes are behind `description.uri`.
    Reference,
}

/// What a message says about its image, apart from its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Description {
    /// The caption, as it was sent.
    pub caption: Option<String>,
    /// The address.
    pub uri: Option<String>,
    /// The source.
    pub source: Option<String>,
    /// The licence.
    pub licence: Option<String>,
    /// Unknown fields of the envelope, a JSON object.
    pub attributes: Option<String>,
}

/// A record that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// 1 to 512 bytes of UTF-8.
    pub image_id: String,
    /// Where the record stands.
    pub position: Position,
    /// The image.
    pub body: Body,
    /// What is said about it.
    pub description: Description,
    /// Vectors that came with it, per channel.
    pub vectors: [Option<Vec<f64>>; 3],
}

/// Why a record could not be read; with the image id where that could.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// The reason, of the closed set.
    pub reason: Reason,
    /// The value and the limit, in words.
    pub detail: String,
    /// The id, where it could be read: a message that is turned away takes its id down.
    pub image_id: Option<String>,
}

/// Reads one record. Total: every record is a message or has a reason why not. Of a record whose
/// `uri` was fetched, the bytes are those of the image; a fetch that failed is a reason.
pub fn parse(record: Record, key: &KeySource) -> Result<Message, Unreadable> {
    let Opened { image_id, position, body, description, vectors, fetched } = open(record, key)?;
    let body = match (body, fetched) {
        (Body::Reference, Some(Fetched::Bytes(bytes))) => Body::Bytes(bytes),
        (Body::Reference, Some(Fetched::Failed(reason, detail))) => {
            return Err(Unreadable { reason, detail, image_id });
        }
        (body, _) => body,
    };
    let image_id = match (image_id, &body) {
        (Some(id), _) => id,
        (None, Body::Bytes(bytes)) => crate::ContentId::of(bytes).hex(),
        // The id is not known until the bytes are; such a message cannot replace anything.
        (None, _) => {
            let (reason, detail) = not_fetched(&description);
            return Err(Unreadable { reason, detail, image_id: None });
        }
    };
    Ok(Message { image_id, position, body, description, vectors })
}

/// The image id of a record, where it can be read without the bytes that are still to be fetched.
pub fn image_id_of(record: &Record, key: &KeySource) -> Option<String> {
    match key {
        KeySource::Message => image_id(record.key.as_deref().unwrap_or_default()).ok(),
        _ => parse(record.clone(), key).map_or_else(|e| e.image_id, |m| Some(m.image_id)),
    }
}

/// Why a message that is a reference has no bytes where nothing is fetched.
pub fn not_fetched(description: &Description) -> (Reason, String) {
    let uri = description.uri.as_deref().unwrap_or_default();
    let why = "no scheme is allowed, so nothing is fetched; send the image's bytes, or allow the \
               scheme and host in [fetch]";
    (Reason::UriNotAllowed, format!("{uri}: {why}"))
}

/// The `uri` whose bytes a record needs before it can be read; none of a record that is complete,
/// or that would be turned away whatever the bytes are.
pub fn reference(record: &Record, key: &KeySource) -> Option<String> {
    let value = record.value.as_deref()?;
    if record.fetched.is_some() || value.first() != Some(&b'{') || has_image(value) {
        return None;
    }
    let opened = open(record.clone(), key).ok()?;
    if opened.body == Body::Reference { opened.description.uri } else { None }
}

/// Whether an envelope has an image, found without copying it. As in the envelope's own parser the
/// last of several fields of one name counts.
fn has_image(value: &[u8]) -> bool {
    struct Image(bool);
    impl<'de> Deserialize<'de> for Image {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Fields;
            impl<'de> serde::de::Visitor<'de> for Fields {
                type Value = Image;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut fields: A,
                ) -> Result<Image, A::Error> {
                    let mut image = false;
                    while let Some(name) = fields.next_key::<String>()? {
                        let some: Option<serde::de::IgnoredAny> = fields.next_value()?;
                        if name == "image" {
                            image = some.is_some();
                        }
                    }
                    Ok(Image(image))
                }
            }
            deserializer.deserialize_map(Fields)
        }
    }
    serde_json::from_slice::<Image>(value).is_ok_and(|image| image.0)
}

/// A record whose parts could be read.
struct Opened {
    image_id: Option<String>,
    position: Position,
    body: Body,
    description: Description,
    vectors: [Option<Vec<f64>>; 3],
    fetched: Option<Fetched>,
}

fn open(record: Record, key: &KeySource) -> Result<Opened, Unreadable> {
    if let (None, Some(value)) = (&record.key, &record.value)
        && value.starts_with(NOT_A_LINE.as_bytes())
    {
        // Otherwise a broken line would be said to have no key, and nobody would learn why.
        let detail = String::from_utf8_lossy(&value[1..]).into_owned();
        return Err(Unreadable { reason: Reason::BadEnvelope, detail, image_id: None });
    }
    let known_id = match key {
        KeySource::Message => Some(image_id(record.key.as_deref().unwrap_or_default())),
        KeySource::Header(name) => {
            let value = record.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice());
            Some(image_id(value.unwrap_or_default()))
        }
        // Only a tombstone has to say which image it means.
        KeySource::Content if record.value.is_none() => {
            Some(image_id(record.key.as_deref().unwrap_or_default()))
        }
        KeySource::Content => None,
    };
    let known_id = match known_id {
        Some(Err((reason, detail))) => return Err(Unreadable { reason, detail, image_id: None }),
        Some(Ok(id)) => Some(id),
        None => None,
    };
    let Record { position, value, headers, fetched, .. } = record;
    match read_value(value, &headers) {
        Err((reason, detail)) => Err(Unreadable { reason, detail, image_id: known_id }),
        Ok((body, description, vectors)) => {
            Ok(Opened { image_id: known_id, position, body, description, vectors, fetched })
        }
    }
}

type Fault = (Reason, String);

fn image_id(bytes: &[u8]) -> Result<String, Fault> {
    if bytes.is_empty() {
        return Err((Reason::MissingId, "the record has no key; its key is the image id".into()));
    }
    if bytes.len() > limits::IMAGE_ID_BYTES_MAX {
        let detail = format!("{} bytes, at most {}", bytes.len(), limits::IMAGE_ID_BYTES_MAX);
        return Err((Reason::IdTooLong, detail));
    }
    match std::str::from_utf8(bytes) {
        Ok(id) => Ok(id.to_owned()),
        Err(e) => Err((Reason::IdNotUtf8, e.to_string())),
    }
}

type Content = (Body, Description, [Option<Vec<f64>>; 3]);

fn read_value(value: Option<Vec<u8>>, headers: &[(String, Vec<u8>)]) -> Result<Content, Fault> {
    let mut description = Description::default();
    for (name, bytes) in headers {
        let field = match name.as_str() {
            "caption" => &mut description.caption,
            "uri" => &mut description.uri,
            "source" => &mut description.source,
            "licence" | "license" => &mut description.licence,
            _ => continue,
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|e| (Reason::BadText, format!("header {name}: {e}")))?;
        *field = Some(checked(name, text, limits::TEXT_BYTES_MAX)?);
    }
    match value {
        None => Ok((Body::Tombstone, description, Default::default())),
        Some(v) if v.is_empty() => {
            let detail = "zero bytes; to take an image down send a null value".into();
            Err((Reason::EmptyValue, detail))
        }
        Some(v) if v[0] == b'{' => read_envelope(&v, description),
        Some(v) => Ok((Body::Bytes(v), description, Default::default())),
    }
}

fn checked(name: &str, text: &str, bytes_max: usize) -> Result<String, Fault> {
    if text.len() > bytes_max {
        return Err((
            Reason::BadText,
            format!("{name}: {} bytes, at most {bytes_max}", text.len()),
        ));
    }
    if text.contains('\0') {
        return Err((Reason::BadText, format!("{name}: holds a NUL character")));
    }
    Ok(text.to_owned())
}

/// JSON goes before headers.
fn read_envelope(value: &[u8], mut description: Description) -> Result<Content, Fault> {
    let bad = |detail: String| (Reason::BadEnvelope, detail);
    let fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(value).map_err(|e| bad(e.to_string()))?;
    let mut image = None;
    let mut vectors: [Option<Vec<f64>>; 3] = Default::default();
    let mut attributes = serde_json::Map::new();
    for (name, value) in fields {
        let slot = match name.as_str() {
            "image" => {
                image = match value {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(text) => Some(decode_base64(&text)?),
                    _ => return Err(bad("image: must be a base64 string".into())),
                };
                continue;
            }
            "vectors" => {
                vectors = read_vectors(value)?;
                continue;
            }
            "uri" => &mut description.uri,
            "caption" => &mut description.caption,
            "source" => &mut description.source,
            "licence" | "license" => &mut description.licence,
            _ => {
                attributes.insert(name, value);
                continue;
            }
        };
        *slot = match value {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(checked(&name, &text, limits::TEXT_BYTES_MAX)?),
            _ => return Err(bad(format!("{name}: must be a string"))),
        };
    }
    if !attributes.is_empty() {
        let text = serde_json::Value::Object(attributes).to_string();
        description.attributes = Some(checked("attributes", &text, limits::ATTRIBUTES_BYTES_MAX)?);
    }
    let body = match image {
        Some(bytes) if bytes.is_empty() => {
            return Err((Reason::NoImage, "image: is empty".into()));
        }
        Some(bytes) => Body::Bytes(bytes),
        None if description.uri.is_some() => Body::Reference,
        None => return Err((Reason::NoImage, "neither image nor uri".into())),
    };
    Ok((body, description, vectors))
}

fn decode_base64(text: &str) -> Result<Vec<u8>, Fault> {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|e| (Reason::BadBase64, format!("image: must be standard base64, padded: {e}")))
}

fn read_vectors(value: serde_json::Value) -> Result<[Option<Vec<f64>>; 3], Fault> {
    let bad = |detail: String| (Reason::BadVectors, detail);
    let mut vectors: [Option<Vec<f64>>; 3] = Default::default();
    let serde_json::Value::Object(fields) = value else {
        return Err(bad("vectors: must be an object of channel to numbers".into()));
    };
    for (name, value) in fields {
        let channel = Channel::ALL.into_iter().find(|c| c.as_str() == name);
        let channel = channel.ok_or_else(|| bad(format!("vectors: no channel {name:?}")))?;
        let numbers: Vec<f64> =
            serde_json::from_value(value).map_err(|e| bad(format!("vectors.{name}: {e}")))?;
        if numbers.len() > limits::DIM_MAX {
            let (n, max) = (numbers.len(), limits::DIM_MAX);
            return Err(bad(format!("vectors.{name}: {n} numbers, at most {max}")));
        }
        vectors[channel.index()] = Some(numbers);
    }
    Ok(vectors)
}

/// One line of a file log; the same record as JSON, its value in base64, as an envelope object, or
/// null. The line's number is the offset and its file the partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    key: Option<String>,
    value: serde_json::Value,
    #[serde(default)]
    headers: serde_json::Map<String, serde_json::Value>,
    /// Milliseconds since 1970, as Kafka has it.
    #[serde(default)]
    timestamp: i64,
}

const NOT_A_LINE: &str = "{not a log line: ";

/// The record that stands for a line that cannot be read; [`parse`] rejects it with `why`.
pub fn broken_line(why: &str, topic: &Arc<str>, partition: i32, offset: i64) -> Record {
    let position = Position { topic: topic.clone(), partition, offset, timestamp_us: 0 };
    let value = Some(format!("{NOT_A_LINE}{why}").into_bytes());
    Record::new(position, None, value, Vec::new())
}

/// Microseconds of a record's timestamp in milliseconds, within the years 1 to 9999: Python's readers
/// of the tables know no other ones, and a producer that counts in microseconds is far beyond.
pub fn timestamp_us(millis: i64) -> i64 {
    let (first, last) = limits::TIMESTAMPS_US;
    millis.saturating_mul(1000).clamp(first, last)
}

/// Reads one line. A line that is no such JSON becomes a record that [`parse`] will reject: it has
/// a position like any other, and nothing is lost.
pub fn read_line(line: &str, topic: &Arc<str>, partition: i32, offset: i64) -> Record {
    let at = |timestamp_us| Position { topic: topic.clone(), partition, offset, timestamp_us };
    let line: Line = match serde_json::from_str(line) {
        Ok(line) => line,
        Err(e) => return broken_line(&e.to_string(), topic, partition, offset),
    };
    let value = match line.value {
        serde_json::Value::Null => None,
        serde_json::Value::Object(envelope) => {
            Some(serde_json::Value::Object(envelope).to_string().into_bytes())
        }
        serde_json::Value::String(text) => {
            match base64::engine::general_purpose::STANDARD.decode(&text) {
                Ok(bytes) => Some(bytes),
                // Kept as the text that it is: the decoder will say what it is not.
                Err(_) => Some(text.into_bytes()),
            }
        }
        other => Some(other.to_string().into_bytes()),
    };
    let headers = line.headers.into_iter().filter_map(|(name, value)| match value {
        serde_json::Value::String(text) => Some((name, text.into_bytes())),
        serde_json::Value::Null => None,
        other => Some((name, other.to_string().into_bytes())),
    });
    Record::new(
        at(timestamp_us(line.timestamp)),
        line.key.map(String::into_bytes),
        value,
        headers.collect(),
    )
}

/// Writes one line of a file log, without the newline. `timestamp_ms` is since 1970.
pub fn write_line(
    key: &str,
    value: Option<&[u8]>,
    headers: &[(String, String)],
    timestamp_ms: i64,
) -> String {
    let value = value.map(|v| base64::engine::general_purpose::STANDARD.encode(v));
    let headers: serde_json::Map<_, _> =
        headers.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    serde_json::json!({
        "key": key, "value": value, "headers": headers, "timestamp": timestamp_ms,
    })
    .to_string()
}

#[cfg(test)]
mod tests;
