//! From an image and what is said about it to a message.

use std::borrow::Cow;

use base64::Engine as _;
use schemas::message::{self, KeySource, Position, Record};
use serde_json::{Map, Value};

use super::sources::Item;

/// What Kafka puts around one record in a batch of its own: 61 bytes for the batch, at most 36 for
/// lengths and differences in the record.
const AROUND_RECORD: usize = 61 + 36;
/// And around each header: two lengths.
const AROUND_HEADER: usize = 10;
/// Fields of an envelope that mean something.
const FIELDS: [&str; 7] = ["image", "uri", "caption", "source", "licence", "license", "vectors"];

/// The image in a message.
pub enum Payload {
    /// Itself.
    Bytes(Vec<u8>),
    /// Where it is.
    Uri(String),
}

/// A message, but for its key.
pub struct Message<'a> {
    pub value: Cow<'a, [u8]>,
    pub headers: Vec<(String, String)>,
}

impl Message<'_> {
    /// Bytes that count against a topic's limit, at most.
    pub fn size(&self, key: &str) -> usize {
        let header = |(k, v): &(String, String)| k.len() + v.len() + AROUND_HEADER;
        let headers: usize = self.headers.iter().map(header).sum();
        AROUND_RECORD + key.len() + self.value.len() + headers
    }
}

/// How messages are made.
#[derive(Default)]
pub struct Composer {
    /// The source of images that name none.
    pub source: Option<String>,
    /// Their licence.
    pub licence: Option<String>,
    /// Whether attributes are sent, which only an envelope can.
    pub attributes: bool,
    /// Where the service looks for the image id.
    pub key: KeySource,
}

impl Composer {
    /// Whether the image travels in base64, inside of JSON.
    pub fn is_envelope(&self, item: &Item, payload: &Payload) -> bool {
        matches!(payload, Payload::Uri(_)) || (self.attributes && !item.attributes.is_empty())
    }

    /// The message of an image.
    pub fn compose<'a>(&self, id: &str, item: &Item, payload: &'a Payload) -> Message<'a> {
        let mut headers = Vec::new();
        if let KeySource::Header(name) = &self.key {
            headers.push((name.clone(), id.to_owned()));
        }
        let fields = [
            ("caption", item.caption.as_ref()),
            ("uri", item.uri.as_ref()),
            ("source", item.source.as_ref().or(self.source.as_ref())),
            ("licence", item.licence.as_ref().or(self.licence.as_ref())),
        ];
        let fields = fields.into_iter().filter_map(|(name, text)| Some((name, text?)));
        if let (Payload::Bytes(bytes), false) = (payload, self.is_envelope(item, payload)) {
            headers.extend(fields.map(|(name, text)| (name.to_owned(), text.clone())));
            return Message { value: Cow::Borrowed(bytes), headers };
        }
        let mut envelope: Map<String, Value> =
            fields.map(|(name, text)| (name.to_owned(), text.clone().into())).collect();
        let (name, text) = match payload {
            Payload::Bytes(bytes) => {
                ("image", base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Payload::Uri(uri) => ("uri", uri.clone()),
        };
        envelope.insert(name.to_owned(), text.into());
        if self.attributes {
            for (name, value) in &item.attributes {
                let taken = FIELDS.contains(&name.as_str());
                let name = if taken { format!("column.{name}") } else { name.clone() };
                envelope.insert(name, value.clone());
            }
        }
        Message { value: Cow::Owned(Value::Object(envelope).to_string().into_bytes()), headers }
    }

    /// Holds everything but the image's bytes against the rules of the service, by those rules.
    ///
    /// # Errors
    /// What the service would say.
    pub fn check(&self, id: &str, item: &Item, payload: &Payload) -> Result<(), String> {
        let stand_in = Payload::Bytes(b"x".to_vec());
        let payload = match payload {
            Payload::Bytes(_) => &stand_in,
            uri @ Payload::Uri(_) => uri,
        };
        let Message { value, headers } = self.compose(id, item, payload);
        let position = Position { topic: "".into(), partition: 0, offset: 0, timestamp_us: 0 };
        let headers = headers.into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
        let (key, value) = (Some(id.as_bytes().to_vec()), Some(value.into_owned()));
        let record = Record::new(position, key, value, headers);
        match message::parse(record, &self.key) {
            Ok(_) => Ok(()),
            Err(why) => Err(format!("the service would reject it: {}", why.detail)),
        }
    }
}
