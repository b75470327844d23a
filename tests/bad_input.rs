//! Every kind of message that is odd or wrong, in one stream, with good images between them: each
//! has its row of `images` or of `rejects`, and nothing stops.

pub mod cases;
pub mod check;
pub mod files;

use std::{fs, io::Write, process::Command};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use self::{
    cases::Case,
    check::{check, stream},
};

/// A message as a line of a file log; none where such a line cannot say it.
fn line(case: &Case) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let mut headers = serde_json::Map::new();
    for (name, value) in &case.headers {
        headers.insert(name.clone(), text(value)?.into());
    }
    let key = match &case.key {
        Some(key) => Value::String(text(key)?),
        None => Value::Null,
    };
    let value = case.value.as_ref().map(|value| STANDARD.encode(value));
    Some(json!({ "key": key, "value": value, "headers": headers, "timestamp": 1 }).to_string())
}

#[test]
fn each_message_of_a_file_log_has_its_outcome() {
    let folder = tempfile::tempdir().expect("a folder");
    let stream = stream(folder.path());
    let said = stream.iter().filter_map(|case| Some((case, line(case)?)));
    let (cases, lines): (Vec<&Case>, Vec<String>) = said.unzip();
    assert!(cases.len() > 150, "{} messages", cases.len());
    fs::create_dir(folder.path().join("log")).expect("it is writable");
    let mut log = fs::File::create(folder.path().join("log/part-00000.jsonl")).expect("a log");
    writeln!(log, "{}", lines.join("\n")).expect("it is writable");

    let config = folder.path().join("everpair.toml");
    let source = "[source]\nfiles = [\"log/*.jsonl\"]\n";
    fs::write(&config, check::config(source)).expect("it is writable");
    let mut run = Command::new(env!("CARGO_BIN_EXE_everpair"));
    run.args(["run", "--until-caught-up", "--config"]).arg(&config);
    let ended = run.output().expect("the program starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    check(&config, &cases);
}

/// Lines that are no records: each is a reject under its own number, and the rest goes on.
#[test]
fn lines_that_are_no_records_are_rejects() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("log")).expect("it is writable");
    let good = STANDARD.encode(files::file(files::picture(24, 24), image::ImageFormat::Png));
    let lines: [&[u8]; 8] = [
        b"not json",
        b"{\"key\": \"a\"}",
        b"{\"key\": 7, \"value\": null}",
        b"{\"key\": \"a\", \"value\": null, \"more\": 1}",
        b"{\"key\": \"\xff\", \"value\": null}",
        b"[]",
        b"",
        b"{\"key\": \"a\", \"value\": \"not base64!\"}",
    ];
    let mut log = lines.join(&b'\n');
    log.extend(format!("\n{{\"key\": \"good\", \"value\": \"{good}\"}}\n").as_bytes());
    fs::write(folder.path().join("log/part-00000.jsonl"), log).expect("it is writable");
    let config = folder.path().join("everpair.toml");
    fs::create_dir(folder.path().join("allowed")).expect("it is writable");
    fs::write(&config, check::config("[source]\nfiles = [\"log/*.jsonl\"]\n")).expect("written");
    let mut run = Command::new(env!("CARGO_BIN_EXE_everpair"));
    let ended = run.args(["run", "--until-caught-up", "--config"]).arg(&config).output();
    assert!(ended.expect("the program starts").status.success());
    let (images, rejects) = check::tables(&config);
    let found: Vec<(i64, &str)> =
        rejects.iter().map(|r| (r.offset.expect("an offset"), r.reason.as_str())).collect();
    let bad = "bad_envelope";
    let want = [(0, bad), (1, bad), (2, bad), (3, bad), (4, bad), (5, bad), (7, "unknown_format")];
    assert_eq!(found, want, "the empty line is no message");
    assert!(rejects[..6].iter().all(|row| row.detail.starts_with("not a log line: ")));
    assert_eq!(images.len(), 1);
    assert_eq!((images[0].image_id.as_str(), images[0].offset), ("good", 8));
}
