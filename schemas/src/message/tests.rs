use super::*;

fn record(key: Option<&str>, value: Option<&[u8]>) -> Record {
    Record::new(
        Position { topic: "t".into(), partition: 0, offset: 1, timestamp_us: 2 },
        key.map(|k| k.as_bytes().to_vec()),
        value.map(<[u8]>::to_vec),
        vec![("caption".into(), b"a cat".to_vec()), ("x".into(), vec![255])],
    )
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

const JSON: &[u8] = br#"{"uri":"https://a/b.jpg","caption":"a cat"}"#;

#[test]
fn what_was_fetched_stands_for_the_image() {
    for key in [KeySource::Message, KeySource::Content] {
        let mut fetched = record(Some("a"), Some(JSON));
        assert_eq!(reference(&fetched, &key).as_deref(), Some("https://a/b.jpg"));
        fetched.fetched = Some(Fetched::Bytes(b"abc".to_vec()));
        assert_eq!(fetched.bytes(), record(Some("a"), Some(JSON)).bytes() + 3);
        assert_eq!(reference(&fetched, &key), None, "once");
        let message = parse(fetched, &key).unwrap();
        assert_eq!(message.body, Body::Bytes(b"abc".to_vec()));
        assert_eq!(message.description.uri.as_deref(), Some("https://a/b.jpg"));
        let hex = crate::ContentId::of(b"abc").hex();
        assert_eq!(message.image_id, if key == KeySource::Content { hex } else { "a".into() });
    }
}

#[test]
fn a_fetch_that_failed_turns_the_message_away_and_takes_its_id_down() {
    let mut failed = record(Some("a"), Some(JSON));
    failed.fetched = Some(Fetched::Failed(Reason::FetchFailed, "404".into()));
    let fault = parse(failed.clone(), &KeySource::Message).unwrap_err();
    assert_eq!((fault.reason, &*fault.detail), (Reason::FetchFailed, "404"));
    assert_eq!(fault.image_id.as_deref(), Some("a"));
    assert_eq!(parse(failed, &KeySource::Content).unwrap_err().image_id, None);
    let fault = parse(record(None, Some(JSON)), &KeySource::Content).unwrap_err();
    assert_eq!(fault.reason, Reason::UriNotAllowed);
    assert!(fault.detail.contains("[fetch]"), "{}", fault.detail);
}

#[test]
fn only_what_lacks_its_bytes_is_fetched() {
    let needs = |value: &[u8]| reference(&record(Some("a"), Some(value)), &KeySource::Message);
    assert_eq!(needs(br#"{"uri":"s3://b/c","image":null}"#).as_deref(), Some("s3://b/c"));
    assert_eq!(needs(br#"{"uri":"s3://b/c","image":"AAE="}"#), None);
    // The last of two fields of one name counts, as it does for the parser.
    assert_eq!(needs(br#"{"image":null,"uri":"s3://b/c","image":"AAE="}"#), None);
    assert_eq!(
        needs(br#"{"image":"AAE=","uri":"s3://b/c","image":null}"#).as_deref(),
        Some("s3://b/c")
    );
    // Turned away whatever the bytes are.
    assert_eq!(needs(br#"{"uri":"s3://b/c","caption":7}"#), None);
    assert_eq!(needs(br#"{"uri":"s3://b/c""#), None);
    assert_eq!(needs(b"\xff\xd8"), None);
    assert_eq!(reference(&record(None, Some(JSON)), &KeySource::Message), None);
    let mut header = record(Some("a"), Some(b"{\"image\":null}"));
    header.headers.push(("uri".into(), b"https://a/c.jpg".to_vec()));
    assert_eq!(reference(&header, &KeySource::Message).as_deref(), Some("https://a/c.jpg"));
}
