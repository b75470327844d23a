//! Benchmarks in the store: `_everpair/benchmarks/NAME/DIGEST.json` and `….images`, see
//! [`schemas::benchmark`]. Written before the request that names them, and never changed.

use operators::{
    benchmarks::{KIND, Set},
    embed::Encoders,
};
use schemas::{
    ContentId,
    benchmark::{Header, Images, parse_value, value},
    tables::BlockedRow,
};

use crate::delta::{self, Store};

const FOLDER: &str = "_everpair/benchmarks";

/// Why a benchmark cannot be had.
#[derive(Debug)]
pub enum Unusable {
    /// The store failed; another time it may work.
    Store(delta::Error),
    /// It is not there, or not what it was. The message says what to do.
    Broken(String),
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unusable::Store(error) => write!(f, "{error}"),
            Unusable::Broken(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unusable {}

impl From<delta::Error> for Unusable {
    fn from(error: delta::Error) -> Unusable {
        Unusable::Store(error)
    }
}

/// Writes both objects and gives the value for `blocked`. Written again they are the same.
pub fn write(store: &Store, mut header: Header, images: &Images) -> delta::Result<String> {
    let data = images.to_bytes();
    header.data = ContentId::of(&data).hex();
    let text = header.to_bytes();
    let value = value(&header.name, &text);
    store.replace(&format!("{FOLDER}/{value}.images"), data)?;
    store.replace(&format!("{FOLDER}/{value}.json"), text)?;
    Ok(value)
}

/// Values of the benchmarks among rows of `blocked`.
pub fn values(rows: &[BlockedRow]) -> impl Iterator<Item = &str> {
    rows.iter().filter(|row| row.kind == KIND).map(|row| row.value.as_str())
}

fn again(value: &str, why: &str) -> Unusable {
    let name = parse_value(value).map_or("NAME", |(name, _)| name);
    Unusable::Broken(format!(
        "benchmark {value}: {why}; everpair block --benchmark {name} --images … writes it again \
         from the same images"
    ))
}

fn object(store: &Store, value: &str, ends: &str) -> Result<bytes::Bytes, Unusable> {
    let name = format!("{FOLDER}/{value}.{ends}");
    store.get(&name)?.ok_or_else(|| again(value, &format!("{name} is not there")))
}

/// What the set is and when something is of it.
pub fn header(store: &Store, value: &str) -> Result<Header, Unusable> {
    if parse_value(value).is_none() {
        let why =
            format!("blocked: {value:?} names no benchmark: NAME/DIGEST is what block writes");
        return Err(Unusable::Broken(why));
    }
    let text = object(store, value, "json")?;
    let header = Header::from_bytes(&text).map_err(|why| again(value, &why))?;
    if schemas::benchmark::value(&header.name, &text) != value {
        return Err(again(value, "its definition is not the one that was written"));
    }
    Ok(header)
}

/// The set's images.
pub fn images(store: &Store, value: &str, header: &Header) -> Result<Images, Unusable> {
    let data = object(store, value, "images")?;
    if ContentId::of(&data).hex() != header.data {
        return Err(again(value, "its images are not those that were written"));
    }
    let images = Images::from_bytes(&data).map_err(|why| again(value, why))?;
    match images.names.len() == header.images {
        true => Ok(images),
        false => Err(again(value, "its images are not as many as it says")),
    }
}

/// The whole set, laid out for comparing.
pub fn set(store: &Store, value: &str, encoders: &Encoders) -> Result<Set, Unusable> {
    let header = header(store, value)?;
    let images = images(store, value, &header)?;
    Set::new(value, &header, images, encoders).map_err(|why| again(value, &why))
}

/// Vectors of another encoder do not compare; the message says with which command to have others.
pub fn check_encoders(header: &Header, encoders: &Encoders) -> Result<(), String> {
    for (channel, vectors) in &header.channels {
        let (now, name) = (encoders.id(*channel), &header.name);
        if now.as_ref() != Some(&vectors.encoder) {
            let (channel, now) = (channel.as_str(), now.unwrap_or_else(|| "none".into()));
            return Err(format!(
                "benchmark {name} has {channel} vectors of {}, and the config's encoder is {now}: \
                 have them computed anew with everpair block --benchmark {name} --images …",
                vectors.encoder
            ));
        }
    }
    Ok(())
}
