use std::collections::BTreeSet;

use kernels::resize::encode_jpeg;
use schemas::{message::Position, reject::Stage};
use timely::dataflow::operators::{Capture, ToStream, capture::Event};

use super::*;

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let pixel = |i: u32| [(i % width * 3) as u8, (i / width * 5) as u8, (i * 7 % 251) as u8];
    let rgb = (0..width * height).flat_map(pixel).collect();
    encode_jpeg(&Pixels { width, height, rgb }, 90)
}

fn record(key: Option<&[u8]>, value: Option<Vec<u8>>) -> Record {
    let position = Position { topic: "t".into(), partition: 1, offset: 7, timestamp_us: 5 };
    Record::new(position, key.map(Into::into), value, Vec::new())
}

fn options() -> DecodeOptions {
    DecodeOptions {
        limits: Limits { encoded_bytes_max: 1_000_000, pixels_max: 200_000, side_max: 1_000 },
        given: [Some(2), None, None],
        ..DecodeOptions::default()
    }
}

fn live(value: Vec<u8>, options: &DecodeOptions) -> Arc<Picture> {
    match read(record(Some(b"a"), Some(value)), options) {
        Ok((_, Outcome::Live(picture, _))) => picture,
        Ok((_, Outcome::Gone)) => panic!("gone"),
        Err(refusal) => panic!("{:?}: {}", refusal.reason, refusal.detail),
    }
}

/// A GIF whose header announces this size, with a frame of one pixel.
fn gif(width: u16, height: u16) -> Vec<u8> {
    let palette = [0x80, 0, 0, 0, 0, 0, 255, 255, 255];
    let frame = [0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x4c, 1, 0, 0x3b];
    [&b"GIF89a"[..], &width.to_le_bytes(), &height.to_le_bytes(), &palette, &frame].concat()
}

fn envelope(fields: &str) -> Option<Vec<u8>> {
    Some(format!("{{{fields}}}").into_bytes())
}

/// Bytes that meet each reason, and whether the id can be read and the detail must tell a limit.
fn refused() -> Vec<(Reason, Record, &'static str)> {
    let id = Some(&b"a"[..]);
    let image = "\"image\": \"AAAA\"";
    let vectors = |v: &str| envelope(&format!("{image}, \"vectors\": {v}"));
    let cut = jpeg(40, 30);
    let cut = cut[..cut.len() / 2].to_vec();
    vec![
        (Reason::MissingId, record(None, Some(jpeg(8, 8))), "key"),
        (Reason::IdNotUtf8, record(Some(b"\xff"), None), "utf-8"),
        (Reason::IdTooLong, record(Some(&[b'x'; 513]), None), "512"),
        (Reason::EmptyValue, record(id, Some(vec![])), "null"),
        (Reason::BadEnvelope, record(id, envelope("\"image\": 3")), "base64"),
        (Reason::NoImage, record(id, envelope("\"caption\": \"x\"")), "neither"),
        (Reason::BadBase64, record(id, envelope("\"image\": \"*\"")), "image"),
        (Reason::BadText, record(id, envelope(&format!("{image}, \"uri\": \"\\u0000\""))), "NUL"),
        (Reason::BadVectors, record(id, vectors("{\"semantic\": [1, 2, 3]}")), "has 2"),
        (Reason::BadVectors, record(id, vectors("{\"semantic\": [0, 0]}")), "zero"),
        (Reason::BadVectors, record(id, vectors("{\"pattern\": [1, 2]}")), "\"given\""),
        (Reason::UriNotAllowed, record(id, envelope("\"uri\": \"http://x/y\"")), "http://x/y"),
        (Reason::UnknownFormat, record(id, Some(b"hello".to_vec())), "JPEG"),
        (Reason::TooManyBytes, record(id, Some(vec![0; 1_000_001])), "1000000"),
        (Reason::TooManyPixels, record(id, Some(gif(900, 900))), "200000"),
        (Reason::SideTooLong, record(id, Some(gif(1_001, 1))), "1000"),
        (Reason::ZeroSize, record(id, Some(gif(0, 3))), "zero"),
        (Reason::Corrupt, record(id, Some(cut)), "cut short"),
    ]
}

#[test]
fn every_reason_is_met_and_tells_value_and_limit() {
    let mut met = BTreeSet::new();
    for (reason, record, word) in refused() {
        let known = !matches!(reason, Reason::MissingId | Reason::IdNotUtf8 | Reason::IdTooLong);
        let refusal = read(record, &options()).map(|_| ()).expect_err("must be turned away");
        assert_eq!(refusal.reason, reason, "{}", refusal.detail);
        assert!(refusal.detail.contains(word), "{reason:?}: {:?}", refusal.detail);
        assert_eq!(refusal.image_id.is_some(), known, "{reason:?}");
        met.insert(reason);
    }
    // Nothing is fetched, so no fetch can fail.
    let mine = |r: &Reason| matches!(r.stage(), Stage::Ingest | Stage::Decode);
    let all = Reason::ALL.iter().copied().filter(mine).filter(|r| *r != Reason::FetchFailed);
    assert_eq!(met, all.collect());
}

fn rows<D>(events: Vec<Event<Epoch, Vec<D>>>) -> Vec<D> {
    let rows = |event| match event {
        Event::Messages(_, rows) => rows,
        Event::Progress(_) => Vec::new(),
    };
    events.into_iter().flat_map(rows).collect()
}

#[test]
fn each_record_gives_an_arrival_a_reject_or_both() {
    let mut records: Vec<Record> = refused().into_iter().map(|(_, record, _)| record).collect();
    let turned_away = records.len();
    records.push(record(Some(b"live"), Some(jpeg(30, 20))));
    records.push(record(Some(b"dead"), None));
    let (arrivals, rejects) = timely::execute_directly(move |worker| {
        worker.dataflow::<Epoch, _, _>(|scope| {
            let (arrivals, rejects) = decode(records.to_stream(scope), Arc::new(options()));
            (arrivals.capture(), rejects.capture())
        })
    });
    let arrivals: Vec<Arrival> = rows(arrivals.into_iter().collect());
    let rejects: Vec<RejectRow> = rows(rejects.into_iter().collect());
    assert_eq!(rejects.len(), turned_away);
    // All but three ids could be read.
    assert_eq!(arrivals.len(), turned_away - 3 + 2);
    let live: Vec<&Arrival> =
        arrivals.iter().filter(|a| matches!(a.outcome, Outcome::Live(..))).collect();
    assert_eq!(live.len(), 1);
    assert_eq!(&*live[0].image_id, "live");
    assert!(rejects.iter().all(|r| r.offset == Some(7) && r.partition == Some(1) && r.epoch == 0));
    assert_eq!(rejects.iter().filter(|r| r.image_id.is_none()).count(), 3);
}

#[test]
fn a_picture_is_what_the_bytes_are() {
    let bytes = jpeg(400, 300);
    let picture = live(bytes.clone(), &options());
    assert_eq!(picture.content_id, ContentId::of(&bytes));
    assert_eq!((picture.width, picture.height), (256, 192));
    assert_eq!(picture.rgb.len(), 3 * 256 * 192);
    let row = &picture.content;
    assert_eq!(row.content_id, picture.content_id.hex());
    assert_eq!((row.width, row.height, row.format.as_str()), (400, 300, "jpeg"));
    assert_eq!(row.phash.len(), 16);
    assert_eq!(row.measures.aspect, 400.0 / 300.0);
    let whole = kernels::decode::decode(&bytes, &Limits::default()).unwrap().pixels;
    assert_eq!(row.measures, measures(&whole));
}

#[test]
fn what_is_kept_is_what_the_config_says() {
    let bytes = jpeg(600, 300);
    let kept =
        |store| live(bytes.clone(), &DecodeOptions { store, ..options() }).content.image.clone();
    let id = ContentId::of(&bytes).hex();
    let resized = kept(StoreKind::Resized);
    assert_eq!(resized.path, Some(format!("{id}.jpg")));
    let copy = kernels::decode::decode(&resized.bytes.unwrap(), &Limits::default()).unwrap();
    assert_eq!((copy.width, copy.height, copy.format), (512, 256, Format::Jpeg));
    assert_eq!(kept(StoreKind::Original).bytes, Some(bytes.clone()));
    assert_eq!(kept(StoreKind::Original).path, Some(format!("{id}.jpg")));
    assert_eq!(kept(StoreKind::Reference), StoredImage { bytes: None, path: None });

    let options = DecodeOptions { store: StoreKind::Reference, ..options() };
    let mut reference = record(Some(b"a"), envelope("\"uri\": \"s3://b/c.jpg\""));
    reference.fetched = Some(message::Fetched::Bytes(bytes.clone()));
    let Ok((_, Outcome::Live(picture, _))) = read(reference, &options) else { panic!("live") };
    let path = Some("s3://b/c.jpg".to_owned());
    assert_eq!(picture.content.image, StoredImage { bytes: None, path });
    assert_eq!(picture.content_id, ContentId::of(&bytes));
}

#[test]
fn given_vectors_are_made_unit_vectors() {
    let base64 = {
        let line = message::write_line("a", Some(&jpeg(20, 20)), &[], 0);
        let start = line.find("\"value\":\"").unwrap() + 9;
        line[start..].split('"').next().unwrap().to_owned()
    };
    let fields = format!(
        "\"image\": \"{base64}\", \"caption\": \" x \", \"vectors\": {{\"semantic\": [30, -40]}}"
    );
    let picture = live(envelope(&fields).unwrap(), &options());
    assert_eq!(picture.given, [Some([19661i16, -26214].into()), None, None]);
    assert_eq!(picture.caption_id, Some(ContentId::of(b"x")));
}
