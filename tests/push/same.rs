//! Whatever is put into an input of any kind comes out of the log.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use arrow_array::{ArrayRef, BinaryArray, StringArray};
use base64::Engine as _;
use proptest::prelude::*;
use schemas::message::{self, Body, KeySource};
use serde_json::json;

use super::{inputs, pushed, text};

#[derive(Clone, Debug)]
struct One {
    bytes: Vec<u8>,
    caption: Option<String>,
    licence: Option<String>,
}

/// A caption as people write them: not blank, not with blanks around it, no NUL.
fn words() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[a-zäß€\"',;{}\\\\\n😀-]{1,20}".prop_filter("blank", |t| t.trim() == t))
}

fn images() -> impl Strategy<Value = BTreeMap<String, One>> {
    let bytes = proptest::collection::vec(any::<u8>(), 1..900).prop_map(|mut bytes| {
        // So that a list knows them from a path.
        bytes.splice(0..0, [0xff, 0xd8, 0xff]);
        bytes
    });
    let one = (bytes, words(), words());
    let one = one.prop_map(|(bytes, caption, licence)| One { bytes, caption, licence });
    proptest::collection::btree_map("[a-z0-9_é-]{1,12}(/[a-z]{1,3})?", one, 0..7)
}

fn write(kind: &str, dir: &Path, images: &BTreeMap<String, One>) -> std::path::PathBuf {
    let path = dir.join(format!("input.{kind}"));
    match kind {
        "tar" => {
            let mut members: Vec<(String, Vec<u8>)> = Vec::new();
            for (id, one) in images {
                let said = json!({ "caption": one.caption, "license": one.licence });
                members.push((format!("{id}.jpg"), one.bytes.clone()));
                members.push((format!("{id}.json"), said.to_string().into_bytes()));
            }
            let members: Vec<(&str, &[u8])> =
                members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            inputs::write_tar(&path, &members);
        }
        "parquet" => {
            let column = |of: fn(&One) -> &Option<String>| {
                Arc::new(images.values().map(of).cloned().collect::<StringArray>()) as ArrayRef
            };
            let bytes = BinaryArray::from_iter_values(images.values().map(|one| &one.bytes));
            let ids: StringArray = images.keys().map(Some).collect();
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("image", Arc::new(bytes) as ArrayRef),
                ("image_id", Arc::new(ids) as ArrayRef),
                ("caption", column(|one| &one.caption)),
                ("licence", column(|one| &one.licence)),
            ];
            inputs::write_parquet(&path, columns);
        }
        "jsonl" => {
            let base64 = |bytes: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(bytes);
            let line = |(id, one): (&String, &One)| {
                let One { bytes, caption, licence } = one;
                json!({ "id": id, "image": base64(bytes), "caption": caption, "licence": licence })
                    .to_string()
            };
            fs::write(&path, images.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
        }
        _ => {
            let mut csv = csv::Writer::from_path(&path).unwrap();
            csv.write_record(["path", "id", "caption", "licence"]).unwrap();
            for (number, (id, one)) in images.iter().enumerate() {
                let name = format!("{number}.jpg");
                fs::write(dir.join(&name), &one.bytes).unwrap();
                let [caption, licence] =
                    [&one.caption, &one.licence].map(|text| text.clone().unwrap_or_default());
                csv.write_record([&name, id, &caption, &licence]).unwrap();
            }
            csv.flush().unwrap();
        }
    }
    path
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_goes_in_comes_out(images in images(), attributes in any::<bool>()) {
        for kind in ["tar", "parquet", "jsonl", "csv"] {
            let dir = tempfile::tempdir().unwrap();
            let input = write(kind, dir.path(), &images);
            let mut words = vec![text(&input)];
            words.extend(attributes.then_some("--attributes"));
            let (report, said, records) = pushed(&words);
            prop_assert_eq!(report.failed.count, 0, "{}: {}", kind, said);
            prop_assert_eq!(report.sent, images.len() as u64);
            let ids: Vec<&String> = images.keys().collect();
            prop_assert_eq!(records.keys().collect::<Vec<_>>(), ids, "{}", kind);
            for (id, record) in records {
                let message = message::parse(record, &KeySource::Message).unwrap();
                let one = &images[&id];
                prop_assert_eq!(message.body, Body::Bytes(one.bytes.clone()), "{} {}", kind, id);
                prop_assert_eq!(&message.description.caption, &one.caption);
                prop_assert_eq!(&message.description.licence, &one.licence);
            }
        }
    }
}
