//! What must hold of any bytes. The fuzzers of the tier `long` look for some of which it does not;
//! `fast` and `ci` try those of the corpus, through these functions.

#![allow(dead_code, reason = "each fuzzer uses one")]

use std::path::Path;
use std::sync::{Arc, Once};

use base64::{Engine, engine::general_purpose::STANDARD};
use kernels::decode::{DecodeError, Decoded, Format, Limits, panics_are_contained};
use kernels::{encoders, measure, phash, resize, vector::Band};
use schemas::{
    Channel,
    config::Config,
    limits,
    message::{self, Body, Description, Fetched, KeySource, Message, Position, Record},
    reject::{Reason, Stage},
    secret::is_secret,
};
use serde_json::{Map, Value, json};

/// What an image may cost here: little, so that many are tried.
pub const LIMITS: Limits =
    Limits { encoded_bytes_max: 1 << 20, pixels_max: 1 << 16, side_max: 4_096 };
/// Pictures up to here go through the boxes behind decode too.
const MEASURED_PIXELS_MAX: u64 = 1 << 13;
/// What stands in place of a secret, to be looked for where none may be.
const SECRET: &str = "a-secret-of-nobody";

/// A panic of a decoder that becomes an error is none for a fuzzer either.
pub fn only_what_escapes() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !panics_are_contained() {
                report(info);
                std::process::abort();
            }
        }));
    });
}

/// The most bytes that decoding may hold at once: what [`Limits`] promises for the pixels, twice
/// for the copy that another orientation or colour is, and what kernels/src/decode.rs allows a
/// format for its tables and texts.
pub fn decode_memory_max(file: &[u8]) -> usize {
    2 * 15 * LIMITS.pixels_max as usize + (64 << 20) + 4 * file.len()
}

/// A file is pixels within the limits, the same each time, that the next boxes can work with; or it
/// is an error that tells the limit which it broke.
pub fn decode(bytes: &[u8]) {
    let found = kernels::decode::decode(bytes, &LIMITS);
    match &found {
        Ok(image) => decoded(image, bytes),
        Err(error) => undecodable(error, bytes),
    }
    let again = kernels::decode::decode(bytes, &LIMITS);
    match (found, again) {
        (Ok(one), Ok(two)) => assert!(one.pixels == two.pixels && one.format == two.format),
        (Err(one), Err(two)) => assert_eq!(one, two),
        _ => panic!("an image the one time and none the other"),
    }
}

fn decoded(image: &Decoded, bytes: &[u8]) {
    let pixels = &image.pixels;
    let count = u64::from(pixels.width) * u64::from(pixels.height);
    assert!(count > 0 && count <= LIMITS.pixels_max);
    assert!(pixels.width.max(pixels.height) <= LIMITS.side_max);
    assert_eq!((pixels.width, pixels.height), (image.width, image.height));
    assert_eq!(pixels.rgb.len() as u64, 3 * count);
    assert_eq!(Some(image.format), Format::of(bytes));
    if count > MEASURED_PIXELS_MAX {
        return;
    }
    let m = measure::measure(pixels);
    let shares = [m.brightness, m.brightness_p05, m.brightness_p99, m.dominant_share];
    assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{m:?}");
    assert!((0.0..=8.0).contains(&m.entropy) && (0.0..=0.5).contains(&m.contrast), "{m:?}");
    assert!(m.blur >= 0.0 && m.colorfulness >= 0.0 && m.aspect >= 1.0, "{m:?}");
    assert!(m.blur.is_finite() && m.colorfulness.is_finite() && m.aspect.is_finite(), "{m:?}");
    assert_eq!(phash::hamming(phash::phash(pixels), phash::phash(pixels)), 0);
    for name in ["builtin:layout", "builtin:edges"] {
        let encoder = encoders::image_encoder(name).expect("it is built in");
        for vector in encoder.encode(&[pixels]).into_iter().flatten() {
            assert_eq!(vector.len(), encoder.dim());
        }
    }
    let kept = resize::fit(pixels, limits::STORED_SIDE_MAX);
    let file = resize::encode_jpeg(&kept, limits::STORED_JPEG_QUALITY);
    let kept_again = kernels::decode::decode(&file, &LIMITS).expect("our own file can be decoded");
    assert_eq!((kept_again.width, kept_again.height), (kept.width, kept.height));
}

fn undecodable(error: &DecodeError, bytes: &[u8]) {
    assert!(!error.to_string().is_empty());
    match *error {
        DecodeError::Empty => assert!(bytes.is_empty()),
        DecodeError::TooManyBytes { bytes: count, max } => assert!(count > max),
        DecodeError::UnknownFormat(_) => assert_eq!(Format::of(bytes), None),
        DecodeError::TooManyPixels { width, height, max } => {
            assert!(u64::from(width) * u64::from(height) > max);
        }
        DecodeError::SideTooLong { width, height, max } => assert!(width.max(height) > max),
        DecodeError::ZeroSize | DecodeError::Corrupt(_) => {}
    }
}

/// The first byte says what else the rest is: a record's value, its key, a header, a log's line.
pub fn message(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let topic: Arc<str> = "t".into();
    let position = Position { topic: topic.clone(), partition: 0, offset: 0, timestamp_us: 0 };
    let key = if kind & 8 == 0 { b"k".to_vec() } else { rest.to_vec() };
    let header = if kind & 16 == 0 { Vec::new() } else { vec![("caption".into(), rest.to_vec())] };
    let record = match (kind & 4 == 0, std::str::from_utf8(rest)) {
        (false, Ok(line)) => message::read_line(line, &topic, 0, 0),
        _ => Record::new(position, Some(key), Some(rest.to_vec()), header),
    };
    let ids = match kind & 3 {
        0 => KeySource::Message,
        1 => KeySource::Content,
        _ => KeySource::Header("caption".into()),
    };
    let reference = message::reference(&record, &ids);
    let parsed = message::parse(record.clone(), &ids);
    let id = match &parsed {
        Ok(message) => Some(&message.image_id),
        Err(fault) => fault.image_id.as_ref(),
    };
    assert_eq!(message::image_id_of(&record, &ids).as_ref(), id);
    match &parsed {
        Ok(message) => {
            accepted(message);
            assert_eq!(reference.is_some(), message.body == Body::Reference);
            as_an_envelope(message, &record, &ids);
            as_a_line(message, &record, &ids);
        }
        Err(fault) => {
            assert!(!fault.detail.is_empty() && Reason::ALL.contains(&fault.reason));
            assert_eq!(fault.reason.stage(), Stage::Ingest);
        }
    }
    if reference.is_some() {
        let fetched = Some(Fetched::Bytes(vec![1, 2, 3]));
        let with = message::parse(Record { fetched, ..record }, &ids);
        assert_eq!(with.expect("all but the bytes was there").body, Body::Bytes(vec![1, 2, 3]));
    }
}

/// What a message may hold.
fn accepted(message: &Message) {
    assert!((1..=limits::IMAGE_ID_BYTES_MAX).contains(&message.image_id.len()));
    let Description { caption, uri, source, licence, attributes } = &message.description;
    for text in [caption, uri, source, licence].into_iter().flatten() {
        assert!(text.len() <= limits::TEXT_BYTES_MAX && !text.contains('\0'));
    }
    if let Some(text) = attributes {
        assert!(text.len() <= limits::ATTRIBUTES_BYTES_MAX && !text.contains('\0'));
        let fields: Map<String, Value> = serde_json::from_str(text).expect("a JSON object");
        assert!(!fields.is_empty());
        assert!(
            ["image", "vectors", "caption", "uri"].iter().all(|name| !fields.contains_key(*name))
        );
    }
    for vector in message.vectors.iter().flatten() {
        assert!(vector.len() <= limits::DIM_MAX && vector.iter().all(|x| x.is_finite()));
    }
    let words = encoders::text_encoder("builtin:words").expect("it is built in");
    if let Some(text) = schemas::caption_text(caption.as_deref()) {
        let vector = words.encode(&[text]).remove(0);
        assert!(vector.is_none_or(|vector| vector.len() == words.dim()));
    }
}

/// Written down as an envelope, a message is the same message.
fn as_an_envelope(message: &Message, record: &Record, ids: &KeySource) {
    let Description { caption, uri, source, licence, attributes } = &message.description;
    let mut fields: Map<String, Value> = attributes
        .as_ref()
        .map(|text| serde_json::from_str(text).expect("JSON"))
        .unwrap_or_default();
    // A null takes away what a header says.
    let texts = [("caption", caption), ("uri", uri), ("source", source), ("licence", licence)];
    fields.extend(texts.map(|(name, text)| (name.to_owned(), json!(text))));
    match &message.body {
        Body::Bytes(image) => fields.insert("image".into(), STANDARD.encode(image).into()),
        Body::Reference => None,
        Body::Tombstone => return,
    };
    let vectors = Channel::ALL.map(|channel| (channel, &message.vectors[channel.index()]));
    let vectors = vectors.into_iter().filter_map(|(channel, vector)| {
        vector.as_ref().map(|vector| (channel.as_str().to_owned(), json!(vector)))
    });
    fields.insert("vectors".into(), Value::Object(vectors.collect()));
    let value = Some(Value::Object(fields).to_string().into_bytes());
    let again = message::parse(Record { value, ..record.clone() }, ids);
    assert_eq!(again.as_ref(), Ok(message));
}

/// A record in a file log is the same message as in Kafka, its value in base64 or as an object.
fn as_a_line(message: &Message, record: &Record, ids: &KeySource) {
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).ok();
    let Some(headers) =
        record.headers.iter().map(|(n, v)| Some((n.clone(), text(v)?))).collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let Some(key) = record.key.as_ref().and_then(text) else { return };
    let Position { topic, timestamp_us, .. } = &record.position;
    let parse = |line: &str| message::parse(message::read_line(line, topic, 0, 0), ids);
    let milliseconds = timestamp_us / 1_000;
    let line = message::write_line(&key, record.value.as_deref(), &headers, milliseconds);
    let of_whole_ms = |message: &Message| {
        let mut message = message.clone();
        message.position.timestamp_us = milliseconds * 1_000;
        message
    };
    let wanted = Ok(of_whole_ms(message));
    assert_eq!(parse(&line), wanted);
    let Some(envelope) = record.value.as_ref().filter(|v| v.first() == Some(&b'{')) else { return };
    let envelope = String::from_utf8(envelope.clone()).expect("it was JSON");
    let headers: Map<String, Value> =
        headers.into_iter().map(|(name, value)| (name, value.into())).collect();
    let (key, headers) = (json!(key), Value::Object(headers));
    let line = format!(
        "{{\"key\": {key}, \"value\": {envelope}, \"headers\": {headers}, \
         \"timestamp\": {milliseconds}}}"
    );
    match parse(&line) {
        // One level deeper than the envelope alone, which may be one too many.
        Err(fault) if fault.detail.contains("recursion limit") => {}
        parsed => assert_eq!(parsed, wanted),
    }
}

/// A config is one that can be worked with and shown, or the error says where it is wrong.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut config = match Config::parse(text) {
        Ok(config) => config,
        Err(why) => {
            let why = why.to_string();
            assert!(why.contains("at line ") || why.starts_with('['), "names no place: {why}");
            return;
        }
    };
    let again = Config::parse(text).expect("as before");
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
    let is_kafka = !config.source.brokers.is_empty() && !config.source.topics.is_empty();
    assert_ne!(is_kafka, !config.source.files.is_empty());
    for channel in Channel::ALL {
        let channel = config.channels.get(channel);
        for &(low, high) in channel.band.iter().flatten() {
            Band::new(low, high).expect("a band that is accepted can be mined in");
        }
        assert!((1..=limits::NEIGHBORS_MAX).contains(&channel.neighbors));
        assert_eq!(channel.dim.is_some(), channel.encoder == "given");
        assert!(channel.band.is_some() || channel.encoder.starts_with("builtin:"));
    }
    let (fetch, epoch) = (&config.fetch, &config.epoch);
    assert!(fetch.timeout <= limits::FETCH_TIME_MAX && fetch.attempts > 0 && fetch.in_flight > 0);
    assert!(
        fetch.schemes.is_empty()
            || !fetch.hosts.is_empty()
            || !fetch.buckets.is_empty()
            || !fetch.folders.is_empty()
    );
    assert!(epoch.rows > 0 && epoch.bytes > 0);
    let settings =
        [&mut config.source.settings, &mut config.tables.settings, &mut config.fetch.settings];
    for (name, value) in settings.into_iter().flatten().filter(|(name, _)| is_secret(name)) {
        assert!(!name.is_empty());
        *value = SECRET.into();
    }
    assert!(!format!("{config:?}").contains(SECRET), "a secret is shown: {config:?}");
    let folder = Path::new("/folder");
    config.resolve(folder);
    let resolved = format!("{config:?}");
    assert!(config.tables.is_remote() || Path::new(&config.tables.root).is_absolute());
    config.resolve(folder);
    assert_eq!(format!("{config:?}"), resolved);
}
