//! decode: one record to one arrival. Bytes become pixels, a content id, a perceptual hash and
//! measures; what cannot is turned away with its reason (I6), and takes its id down like a
//! tombstone where that could be read. Keeps nothing.

#![expect(clippy::result_large_err, reason = "`Err` is the other stream here, not an error")]

use std::sync::Arc;

use kernels::{
    decode::{DecodeError, Decoded, Format, Limits, Pixels},
    encoders::ImageEncoder,
    measure, phash, resize,
    vector::quantize_raw,
};
use schemas::{
    Channel, ContentId, Epoch, caption_text,
    config::StoreKind,
    limits,
    message::{self, Body, KeySource, Message, Position, Reading, Record},
    reject::Reason,
    tables::{ContentRow, Measures, RejectRow, StoredImage},
};
use timely::dataflow::{StreamVec, channels::pact::Exchange, operators::generic::Operator};

use crate::{
    epochs::split,
    flow::{Arrival, Outcome, Picture, View},
};

// One copy serves the encoders and the measures.
const _: () = assert!(limits::ENCODER_SIDE_MAX == measure::SIDE);

/// What the config says about reading messages.
#[derive(Clone, Default)]
pub struct DecodeOptions {
    /// Where image ids come from.
    pub key: KeySource,
    /// What an image may cost.
    pub limits: Limits,
    /// What `contents` keeps of an image.
    pub store: StoreKind,
    /// Dimension of the vectors that messages carry, for the channels whose encoder is `given`.
    pub given: [Option<usize>; 3],
    /// Of `semantic` and `pattern`: while a picture has its full size they are asked what they see.
    pub encoders: [Option<Arc<dyn ImageEncoder>>; 2],
}

/// Decodes records, spread evenly over the workers. Every record gives an arrival, a reject, or, if
/// its id could be read but not its image, both.
pub fn decode<'s>(
    records: StreamVec<'s, Epoch, Record>,
    options: Arc<DecodeOptions>,
) -> (StreamVec<'s, Epoch, Arrival>, StreamVec<'s, Epoch, RejectRow>) {
    let spread = Exchange::new(|record: &Record| {
        (record.position.offset as u64).wrapping_add(record.position.partition as u64)
    });
    let read = records.unary(spread, "Decode", move |_, _| {
        move |input, output| {
            input.for_each_stamp(|stamp, batches| {
                let mut session = output.session(&stamp);
                for record in batches.flat_map(|batch| batch.drain(..)) {
                    let (position, reading) = (record.position.clone(), record.reading);
                    let (arrival, reject) = match read(record, &options) {
                        Ok((image_id, outcome)) => {
                            (Some(Arrival { image_id, position, outcome, reading }), None)
                        }
                        Err(refusal) => refusal.at(position, reading),
                    };
                    session.give_iterator(arrival.map(Ok).into_iter().chain(reject.map(Err)));
                }
            });
        }
    });
    split(read, |arrival_or_reject| arrival_or_reject)
}

/// Why a record is turned away.
struct Refusal {
    reason: Reason,
    detail: String,
    image_id: Option<String>,
}

impl Refusal {
    fn at(self, position: Position, reading: Reading) -> (Option<Arrival>, Option<RejectRow>) {
        let id = self.image_id.as_deref();
        let reject = RejectRow::message(self.reason, self.detail, id, &position);
        let outcome = Outcome::Gone;
        let gone = |id: String| Arrival { image_id: id.into(), position, outcome, reading };
        (self.image_id.map(gone), Some(reject))
    }
}

fn read(record: Record, options: &DecodeOptions) -> Result<(Arc<str>, Outcome), Refusal> {
    let message = message::parse(record, &options.key).map_err(|e| Refusal {
        reason: e.reason,
        detail: e.detail,
        image_id: e.image_id,
    })?;
    let Message { image_id, body, description, vectors, .. } = message;
    let refuse = |(reason, detail)| Refusal { reason, detail, image_id: Some(image_id.clone()) };
    let bytes = match body {
        Body::Tombstone => return Ok((image_id.into(), Outcome::Gone)),
        Body::Bytes(bytes) => bytes,
        Body::Reference => return Err(refuse(message::not_fetched(&description))),
    };
    let given = quantise(&vectors, &options.given).map_err(refuse)?;
    let decoded = kernels::decode::decode(&bytes, &options.limits)
        .map_err(|e| refuse((reason_of(&e), e.to_string())))?;
    let caption_id = caption_text(description.caption.as_deref())
        .map(|caption| ContentId::of(caption.as_bytes()));
    let mut picture = picture(bytes, decoded, options.store, given, caption_id, &options.encoders);
    if options.store == StoreKind::Reference {
        picture.content.image.path = description.uri.clone();
    }
    Ok((image_id.into(), Outcome::Live(Arc::new(picture), Arc::new(description))))
}

fn reason_of(error: &DecodeError) -> Reason {
    match error {
        DecodeError::Empty => Reason::EmptyValue,
        DecodeError::UnknownFormat(_) => Reason::UnknownFormat,
        DecodeError::TooManyBytes { .. } => Reason::TooManyBytes,
        DecodeError::TooManyPixels { .. } => Reason::TooManyPixels,
        DecodeError::SideTooLong { .. } => Reason::SideTooLong,
        DecodeError::ZeroSize => Reason::ZeroSize,
        DecodeError::Corrupt(_) => Reason::Corrupt,
    }
}

type Vectors = [Option<Arc<[i16]>>; 3];

fn quantise(
    vectors: &[Option<Vec<f64>>; 3],
    dims: &[Option<usize>; 3],
) -> Result<Vectors, (Reason, String)> {
    let mut given = [None, None, None];
    for channel in Channel::ALL {
        let Some(numbers) = &vectors[channel.index()] else { continue };
        let bad =
            |why: String| (Reason::BadVectors, format!("vectors.{}: {why}", channel.as_str()));
        let dim = dims[channel.index()]
            .ok_or_else(|| bad("the channel's encoder is not \"given\"".into()))?;
        if numbers.len() != dim {
            return Err(bad(format!("{} numbers, the channel has {dim}", numbers.len())));
        }
        let vector = quantize_raw(numbers)
            .ok_or_else(|| bad("its length is zero or not a finite number".into()))?;
        given[channel.index()] = Some(vector.into());
    }
    Ok(given)
}

/// What travels on of a decoded image: the pixels for encoders, what is measured, the copy to keep.
pub fn picture(
    bytes: Vec<u8>,
    decoded: Decoded,
    store: StoreKind,
    given: Vectors,
    caption_id: Option<ContentId>,
    encoders: &[Option<Arc<dyn ImageEncoder>>; 2],
) -> Picture {
    let content_id = ContentId::of(&bytes);
    let Decoded { format, width, height, pixels } = decoded;
    let phash = phash::phash(&pixels);
    let small = resize::fit(&pixels, limits::ENCODER_SIDE_MAX).into_owned();
    // Measured on the small copy, as it would be anyway; only the aspect is the full picture's.
    let aspect = f64::from(width.max(height)) / f64::from(width.min(height));
    let measures = Measures { aspect, ..measures(&small) };
    let image = stored(content_id, bytes, format, &pixels, store);
    let views = encoders.each_ref().map(|encoder| {
        let Pixels { width, height, rgb } = encoder.as_ref()?.view(&pixels)?;
        Some(View { width, height, rgb })
    });
    let Pixels { width: small_width, height: small_height, rgb } = small;
    Picture {
        content_id,
        content: ContentRow {
            content_id: content_id.hex(),
            image,
            width: width as i32,
            height: height as i32,
            format: format.as_str().into(),
            phash: format!("{phash:016x}"),
            measures,
            epoch: 0,
        },
        width: small_width,
        height: small_height,
        rgb,
        views,
        given,
        caption_id,
    }
}

fn measures(pixels: &Pixels) -> Measures {
    let m = measure::measure(pixels);
    let [red, green, blue] = m.mean_rgb;
    Measures {
        brightness: m.brightness,
        brightness_p05: m.brightness_p05,
        brightness_p99: m.brightness_p99,
        contrast: m.contrast,
        entropy: m.entropy,
        blur: m.blur,
        colorfulness: m.colorfulness,
        aspect: m.aspect,
        red,
        green,
        blue,
    }
}

fn stored(
    content_id: ContentId,
    bytes: Vec<u8>,
    format: Format,
    pixels: &Pixels,
    store: StoreKind,
) -> StoredImage {
    let (bytes, extension) = match store {
        StoreKind::Resized => {
            let copy = resize::fit(pixels, limits::STORED_SIDE_MAX);
            (resize::encode_jpeg(&copy, limits::STORED_JPEG_QUALITY), "jpg")
        }
        StoreKind::Original if format == Format::Jpeg => (bytes, "jpg"),
        StoreKind::Original => (bytes, format.as_str()),
        StoreKind::Reference => return StoredImage { bytes: None, path: None },
    };
    let path = format!("{}.{extension}", content_id.hex());
    StoredImage { bytes: Some(bytes), path: Some(path) }
}

#[cfg(test)]
mod tests;
