//! What others rely on, held still: columns of every table, the closed set of reject reasons, the
//! envelope's fields, hashes that ids and shards are made of. `UPDATE_GOLDEN=1` rewrites the files;
//! a difference in review is a change of API.

use std::{fmt::Write as _, path::PathBuf};

use schemas::{
    ContentId, limits,
    message::{KeySource, Position, Record, parse},
    reject::Reason,
    shard_of,
    tables::{Table, request_id},
    triplet_id,
};

fn compare(name: &str, now: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, now).expect("the golden folder is writable");
    }
    let held = std::fs::read_to_string(&path).expect("the golden file is there");
    assert!(held == now, "{name} differs; UPDATE_GOLDEN=1 rewrites it:\n{now}");
}

#[test]
fn tables() {
    let mut text = String::new();
    for table in Table::ALL {
        let memo = if table.is_memo() { ", memo" } else { "" };
        writeln!(text, "{} (key {:?}{memo})", table.as_str(), table.key()).unwrap();
        for field in table.schema().fields() {
            let null = if field.is_nullable() { "" } else { " not null" };
            writeln!(text, "  {} {}{null}", field.name(), field.data_type()).unwrap();
        }
    }
    compare("tables.txt", &text);
}

#[test]
fn reasons() {
    let mut text = String::new();
    for reason in Reason::ALL {
        writeln!(text, "{} {}", reason.stage().as_str(), reason.as_str()).unwrap();
    }
    compare("reasons.txt", &text);
}

#[test]
fn names_that_never_change() {
    let content = ContentId::of(b"content");
    let mut text = String::new();
    writeln!(text, "triplet {}", triplet_id("query", "target")).unwrap();
    writeln!(text, "shard {:016x} {:016x}", shard_of("a"), shard_of("image-1")).unwrap();
    let request = request_id("instruct", "m", 1, (content, Some(" c ")), (content, None));
    writeln!(text, "request {request}").unwrap();
    compare("names.txt", &text);
}

/// The published schema names the fields that the parser knows, and no others.
#[test]
fn the_envelope_schema_is_the_parsers() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("message.schema.json");
    let schema: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).expect("the schema is JSON");
    let names: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["caption", "image", "licence", "license", "source", "uri", "vectors"]);
    assert_eq!(schema["properties"]["caption"]["maxLength"], limits::TEXT_BYTES_MAX);
    assert_eq!(schema["$defs"]["vector"]["maxItems"], limits::DIM_MAX);
    for name in names {
        // A number is a fault for each field that is known, and an attribute for any other.
        let envelope = format!(r#"{{"image":"AAE=","{name}":1}}"#);
        assert!(read(&envelope).is_err(), "{name} is not read by the parser");
    }
    assert!(read(r#"{"image":"AAE=","anything":1}"#).is_ok());
}

fn read(envelope: &str) -> Result<(), String> {
    let position = Position { topic: "t".into(), partition: 0, offset: 0, timestamp_us: 0 };
    let (key, value) = (Some(b"a".to_vec()), Some(envelope.as_bytes().to_vec()));
    let record = Record::new(position, key, value, Vec::new());
    parse(record, &KeySource::Message).map(|_| ()).map_err(|fault| fault.detail)
}
