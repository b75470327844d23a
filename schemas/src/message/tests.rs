use super::*;

fn record(key: Option<&str>, value: Option<&[u8]>) -> Record {
    Record {
        position: Position { topic: "t".into(), partition: 0, offset: 1, timestamp_us: 2 },
        key: key.map(|k| k.as_bytes().to_vec()),
        value: value.map(<[u8]>::to_vec),
        headers: vec![("caption".into(), b"a cat".to_vec()), ("x".into(), vec![255])],
    }
}

fn reason(key: Option<&str>, value: Option<&[u8]>) -> Reason {
    parse(record(key, value), &KeySource::Message).expect_err("must be turned away").reason
}

#[test]
fn bytes_tombstones_and_envelopes() {
    let bytes = parse(record(Some("a"), Some(b"\xff\xd8")), &KeySource::Message).unwrap();
    assert_eq!(bytes.body, Body::Bytes(b"\xff\xd8".to_vec()));
    assert_eq!(bytes.description.caption.as_deref(), Some("a cat"));
    let gone = parse(record(Some("a"), None), &KeySource::Message).unwrap();
    assert_eq!(gone.body, Body::Tombstone);
    let json = br#"{"image":"AAE=","caption":"a dog","license":"cc0","camera":"x","n":1}"#;
    let envelope = parse(record(Some("a"), Some(json)), &KeySource::Message).unwrap();
    assert_eq!(envelope.body, Body::Bytes(vec![0, 1]));
    assert_eq!(envelope.description.caption.as_deref(), Some("a dog"), "JSON goes before headers");
    assert_eq!(envelope.description.licence.as_deref(), Some("cc0"));
    assert_eq!(envelope.description.attributes.as_deref(), Some(r#"{"camera":"x","n":1}"#));
    let json = br#"{"uri":"https://a/b.jpg","vectors":{"semantic":[1,0.5]}}"#;
    let by_reference = parse(record(Some("a"), Some(json)), &KeySource::Message).unwrap();
    assert_eq!(by_reference.body, Body::Reference);
    assert_eq!(by_reference.vectors[0].as_deref(), Some(&[1.0, 0.5][..]));
}

#[test]
fn each_fault_has_its_reason() {
    assert_eq!(reason(None, Some(b"x")), Reason::MissingId);
    assert_eq!(reason(Some(""), None), Reason::MissingId);
    assert_eq!(reason(Some(&"a".repeat(513)), None), Reason::IdTooLong);
    assert_eq!(reason(Some("a"), Some(b"")), Reason::EmptyValue);
    assert_eq!(reason(Some("a"), Some(b"{")), Reason::BadEnvelope);
    assert_eq!(reason(Some("a"), Some(b"{}")), Reason::NoImage);
    assert_eq!(reason(Some("a"), Some(br#"{"image":7}"#)), Reason::BadEnvelope);
    assert_eq!(reason(Some("a"), Some(br#"{"image":"*"}"#)), Reason::BadBase64);
    assert_eq!(reason(Some("a"), Some(br#"{"image":""}"#)), Reason::NoImage);
    assert_eq!(reason(Some("a"), Some(br#"{"image":"AAE=","caption":"\u0000"}"#)), Reason::BadText);
    let vectors = br#"{"image":"AAE=","vectors":{"colour":[1]}}"#;
    assert_eq!(reason(Some("a"), Some(vectors)), Reason::BadVectors);
    let mut bad = record(Some("a"), None);
    bad.key = Some(vec![255]);
    assert_eq!(parse(bad, &KeySource::Message).unwrap_err().reason, Reason::IdNotUtf8);
}

#[test]
fn a_turned_away_message_still_names_its_image() {
    let fault = parse(record(Some("a"), Some(b"{")), &KeySource::Message).unwrap_err();
    assert_eq!(fault.image_id.as_deref(), Some("a"));
}

#[test]
fn ids_from_content_and_header() {
    let content = parse(record(None, Some(b"abc")), &KeySource::Content).unwrap();
    assert_eq!(content.image_id, crate::ContentId::of(b"abc").hex());
    let mut with_header = record(None, None);
    with_header.headers.push(("id".into(), b"h".to_vec()));
    let message = parse(with_header, &KeySource::Header("id".into())).unwrap();
    assert_eq!(message.image_id, "h");
}

#[test]
fn lines_read_back() {
    let topic: Arc<str> = "log".into();
    let line = write_line("a", Some(&[0, 255]), &[("caption".into(), "ü".into())], 7);
    let record = read_line(&line, &topic, 1, 5);
    assert_eq!(record.key.as_deref(), Some(&b"a"[..]));
    assert_eq!(record.value.as_deref(), Some(&[0, 255][..]));
    assert_eq!(record.headers, vec![("caption".into(), "ü".as_bytes().to_vec())]);
    assert_eq!(record.position.timestamp_us, 7000);
    let gone = read_line(&write_line("a", None, &[], 7), &topic, 1, 6);
    assert_eq!(gone.value, None);
    let envelope = read_line(r#"{"key":"a","value":{"image":"AAE="}}"#, &topic, 0, 0);
    assert!(parse(envelope, &KeySource::Message).is_ok());
    let broken = parse(read_line("not json", &topic, 0, 3), &KeySource::Message).unwrap_err();
    assert_eq!(broken.reason, Reason::BadEnvelope);
    assert!(broken.detail.starts_with("not a log line: expected"), "{}", broken.detail);
}
