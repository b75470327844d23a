//! Messages, and what they say: a pool of tiny pictures, some of them bad, under a few ids.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use everpair::scenes;
use kernels::{
    decode::{self, Pixels},
    encoders::{image_encoder, text_encoder},
    resize::{encode_jpeg, fit},
};
use proptest::{prelude::*, sample::Index};
use schemas::{
    ContentId, limits,
    message::{Position, Record},
    reject::Reason,
    tables::BlockedRow,
};

/// Ids in bytewise order are none of length or of alphabet.
pub const IDS: [&str; 9] = ["a", "a0", "a00", "B", "b", "é", "z/1", "z/10", "z/9"];
/// Blank ones are none, and blanks around one are no part of it.
pub const CAPTIONS: [Option<&str>; 8] = [
    None,
    Some(" \t"),
    Some("--"),
    Some("a red circle on the left"),
    Some("  a red circle on the left\n"),
    Some("a red square on the left"),
    Some("two blue squares on a table"),
    Some("a green circle next to a blue square"),
];
pub const SOURCES: [Option<&str>; 3] = [None, Some("museum"), Some("shop")];

/// A picture of the pool, with what the encoders make of it.
pub struct Content {
    pub bytes: Vec<u8>,
    pub id: ContentId,
    pub vectors: [Option<Arc<[i16]>>; 2],
}

pub static CONTENTS: LazyLock<Vec<Content>> = LazyLock::new(|| {
    let mut files: Vec<Vec<u8>> = (0..10).map(|n| encode_jpeg(&pattern(n, 64, 64), 90)).collect();
    // A near-duplicate, one of another shape, one without any edge, and a PNG file.
    files.push(encode_jpeg(&pattern(0, 64, 64), 60));
    files.push(encode_jpeg(&pattern(3, 96, 64), 90));
    files.push(encode_jpeg(&Pixels { width: 64, height: 64, rgb: vec![90; 3 * 64 * 64] }, 90));
    let png = scenes::scenes(1_000, 7).map(|scene| scene.jpeg_or_png);
    files.extend(png.filter(|file| file.starts_with(b"\x89PNG")).take(1));
    let vectors = |pixels: &Pixels| {
        ["builtin:layout", "builtin:edges"].map(|name| {
            let encoder = image_encoder(name).expect("built in");
            encoder.encode(&[pixels]).remove(0).map(Arc::from)
        })
    };
    let content = |bytes: Vec<u8>| {
        let pixels = decode::decode(&bytes, &Default::default()).expect("a good file").pixels;
        let vectors = vectors(&fit(&pixels, limits::ENCODER_SIDE_MAX));
        Content { id: ContentId::of(&bytes), bytes, vectors }
    };
    files.into_iter().map(content).collect()
});

/// How many contents the pool has.
pub const CONTENT_COUNT: usize = 14;

/// Two colours in one of a few arrangements.
fn pattern(number: u32, width: u32, height: u32) -> Pixels {
    let colours = [[200, 40, 30], [30, 60, 200], [240, 230, 200], [20, 120, 60]];
    let pick = |n: u32| colours[(n % 4) as usize];
    let (paint, ground) = (pick(number / 3), pick(number / 3 + 1 + number % 2));
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        let (dx, dy) = (x.abs_diff(width / 2), y.abs_diff(height / 3));
        let painted = match number % 5 {
            0 => x / 16 % 2 == 0,
            1 => dx * dx + dy * dy < 300,
            2 => y / 16 % 2 == 0,
            3 => (x / 16 + y / 16) % 2 == 0,
            _ => dx < 12 && dy < 18,
        };
        if painted { paint } else { ground }
    };
    Pixels { width, height, rgb: (0..width * height).flat_map(pixel).collect() }
}

/// The caption's vector, by the encoder itself.
pub fn caption_vector(text: &str) -> Option<Arc<[i16]>> {
    let encoder = text_encoder("builtin:words").expect("built in");
    encoder.encode(&[text]).remove(0).map(Arc::from)
}

/// A record, and what it is meant to say.
#[derive(Clone, Debug)]
pub struct Message {
    pub record: Record,
    /// `None` where no id can be read.
    pub image_id: Option<String>,
    pub says: Says,
}

#[derive(Clone, Debug)]
pub enum Says {
    Live { content: usize, caption: Option<String>, source: Option<String> },
    Gone,
    Bad(Reason),
}

/// One step of a history.
#[derive(Clone, Debug)]
pub enum Op {
    Put {
        id: usize,
        content: usize,
        caption: usize,
        source: usize,
        envelope: bool,
    },
    Bad {
        id: usize,
        kind: usize,
    },
    Gone {
        id: usize,
    },
    /// What the id's last message said, once more.
    Again {
        id: usize,
    },
    Block {
        kind: usize,
        value: Index,
    },
}

/// Steps, each with whether an epoch ends after it.
pub fn steps() -> impl Strategy<Value = Vec<(Op, bool)>> {
    let id = || 0..IDS.len();
    let put = (id(), 0..CONTENT_COUNT, 0..CAPTIONS.len(), 0..SOURCES.len(), any::<bool>());
    let put = put.prop_map(|(id, content, caption, source, envelope)| Op::Put {
        id,
        content,
        caption,
        source,
        envelope,
    });
    let op = prop_oneof![
        24 => put,
        3 => (id(), 0..BAD.len()).prop_map(|(id, kind)| Op::Bad { id, kind }),
        4 => id().prop_map(|id| Op::Gone { id }),
        3 => id().prop_map(|id| Op::Again { id }),
        1 => (0..3usize, any::<Index>()).prop_map(|(kind, value)| Op::Block { kind, value }),
    ];
    prop::collection::vec((op, prop::bool::weighted(0.25)), 1..50)
}

/// What a history is made of: blocks hold from where they stand, so an epoch begins with each.
#[derive(Clone, Debug)]
pub enum Item {
    Message(Message),
    Block(BlockedRow),
}

/// The steps as messages. An id stays in one partition, where offsets and times go up.
pub fn items(ops: impl IntoIterator<Item = Op>) -> Vec<Item> {
    let mut next = [0i64; 2];
    let mut last: [Option<Message>; IDS.len()] = Default::default();
    let mut items = Vec::new();
    for op in ops {
        let id = match op {
            Op::Block { kind, value } => {
                items.push(Item::Block(block(kind, &value)));
                continue;
            }
            Op::Put { id, .. } | Op::Bad { id, .. } | Op::Gone { id } | Op::Again { id } => id,
        };
        let mut message = match op {
            Op::Put { content, caption, source, envelope, .. } => {
                put(id, content, CAPTIONS[caption], SOURCES[source], envelope)
            }
            Op::Bad { kind, .. } => bad(id, kind),
            Op::Again { .. } => match &last[id] {
                Some(message) => message.clone(),
                None => continue,
            },
            Op::Gone { .. } | Op::Block { .. } => {
                message(Some(IDS[id].into()), None, Vec::new(), Says::Gone)
            }
        };
        let partition = id % 2;
        message.record.position = Position {
            topic: "images".into(),
            partition: partition as i32,
            offset: next[partition],
            timestamp_us: 1_000_000 * next[partition] + partition as i64,
        };
        next[partition] += 1;
        last[id] = Some(message.clone());
        items.push(Item::Message(message));
    }
    items
}

fn block(kind: usize, value: &Index) -> BlockedRow {
    let (kind, value) = match kind {
        0 => ("id", (*value.get(&IDS)).to_owned()),
        1 => ("content", value.get(&CONTENTS[..]).id.hex()),
        _ => ("source", value.get(&SOURCES[1..]).unwrap_or_default().to_owned()),
    };
    BlockedRow { kind: kind.into(), value, reason: Some("asked for".into()), epoch: 0 }
}

fn message(
    image_id: Option<String>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    says: Says,
) -> Message {
    let position = Position { topic: "images".into(), partition: 0, offset: 0, timestamp_us: 0 };
    let key = image_id.clone().map(String::into_bytes);
    Message { record: Record::new(position, key, value, headers), image_id, says }
}

fn put(
    id: usize,
    content: usize,
    caption: Option<&str>,
    source: Option<&str>,
    envelope: bool,
) -> Message {
    let bytes = &CONTENTS[content].bytes;
    let (value, headers) = if envelope {
        let image = base64::engine::general_purpose::STANDARD.encode(bytes);
        let json = serde_json::json!({ "image": image, "caption": caption, "source": source });
        (json.to_string().into_bytes(), Vec::new())
    } else {
        let header = |name: &str, text: Option<&str>| {
            text.map(|text| (name.to_owned(), text.as_bytes().to_vec()))
        };
        let headers = [header("caption", caption), header("source", source)];
        (bytes.clone(), headers.into_iter().flatten().collect())
    };
    let says = Says::Live {
        content,
        caption: caption.map(str::to_owned),
        source: source.map(str::to_owned),
    };
    message(Some(IDS[id].into()), Some(value), headers, says)
}

pub const BAD: [Reason; 12] = [
    Reason::SideTooShort,
    Reason::TooElongated,
    Reason::Corrupt,
    Reason::UnknownFormat,
    Reason::EmptyValue,
    Reason::BadEnvelope,
    Reason::NoImage,
    Reason::BadBase64,
    Reason::BadText,
    Reason::UriNotAllowed,
    Reason::MissingId,
    Reason::IdTooLong,
];

fn bad(id: usize, kind: usize) -> Message {
    let reason = BAD[kind];
    let good = &CONTENTS[id].bytes;
    let mut headers = Vec::new();
    let value = match reason {
        Reason::SideTooShort => encode_jpeg(&pattern(1, 64, 32), 90),
        Reason::TooElongated => encode_jpeg(&pattern(1, 200, 50), 90),
        Reason::Corrupt => good[..good.len() / 2].to_vec(),
        Reason::UnknownFormat => b"a picture of a boat".to_vec(),
        Reason::EmptyValue => Vec::new(),
        Reason::BadEnvelope => b"{\"image\": ".to_vec(),
        Reason::NoImage => b"{\"caption\": \"a boat\"}".to_vec(),
        Reason::BadBase64 => b"{\"image\": \"?\"}".to_vec(),
        Reason::UriNotAllowed => b"{\"uri\": \"http://example.org/1.jpg\"}".to_vec(),
        Reason::BadText => {
            headers.push(("caption".to_owned(), b"a\0b".to_vec()));
            good.clone()
        }
        _ => good.clone(),
    };
    let mut message = message(Some(IDS[id].into()), Some(value), headers, Says::Bad(reason));
    if let Reason::MissingId | Reason::IdTooLong = reason {
        message.image_id = None;
        message.record.key = (reason == Reason::IdTooLong).then(|| vec![b'x'; 600]);
    }
    message
}
