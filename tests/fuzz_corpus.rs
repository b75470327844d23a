//! The fuzzers' corpora, tried without a fuzzer. With EVERPAIR_WRITE_CORPUS set they are written:
//! the small ones of the messages in [`crate::bad_input`], and configs.

#[path = "fuzz/targets.rs"]
mod targets;

use std::{fs, path::PathBuf};

use crate::bad_input::cases::cases;

/// A fuzzer begins with what is small.
const BYTES_MAX: usize = 1_500;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn write() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        fs::create_dir_all(corpus(target)).expect("it is writable");
        fs::write(corpus(target).join(name), bytes).expect("it is writable");
    };
    let named_by_folder = folder.path().display().to_string();
    for case in cases(folder.path()) {
        let Some(value) = case.value.filter(|value| value.len() <= BYTES_MAX) else { continue };
        let names_it = String::from_utf8_lossy(&value).contains(&named_by_folder);
        match value.first() {
            Some(b'{') if !names_it => put("message", &case.name, &[b"\0", &value[..]].concat()),
            Some(b'{') => {}
            _ => put("decode", &case.name, &value),
        }
    }
    let line = br#"{"key": "a", "value": {"uri": "https://a/b"}, "headers": {"caption": "c"}}"#;
    put("message", "a line", &[b"\x04", &line[..]].concat());
    put("message", "a reference whose id is its content", b"\x01{\"uri\": \"s3://b/c\"}");
    put("message", "an id in a header", b"\x12an id");
    let example = include_str!("../deploy/everpair.toml");
    put("config", "example", example.as_bytes());
    let least = "[source]\nfiles = [\"a\"]\n[tables]\nroot = \"b\"\n";
    put("config", "least", least.as_bytes());
    for (name, text) in [
        ("units", "[epoch]\nbytes = \"1.5 GiB\"\nlinger = \"3 min\"\n"),
        (
            "bands",
            "[channels.semantic]\nencoder = \"given\"\ndim = 3\nband = [[0.1, 0.5], [0.5, 1]]\n",
        ),
        ("fetch", "[fetch]\nschemes = [\"s3\"]\nbuckets = [\"b\"]\ntimeout = \"9 h\"\n"),
        (
            "key",
            "[source]\nkey = \"header:x\"\nbrokers = \"b\"\ntopics = [\"t\"]\n[tables]\nroot = \"r\"",
        ),
    ] {
        let text = if name == "key" { text.to_owned() } else { format!("{least}{text}") };
        put("config", name, text.as_bytes());
    }
}

#[test]
fn what_must_hold_holds_for_the_corpora() {
    if std::env::var_os("EVERPAIR_WRITE_CORPUS").is_some() {
        write();
    }
    let targets: [(&str, fn(&[u8]), usize); 3] = [
        ("decode", targets::decode, 50),
        ("message", targets::message, 30),
        ("config", targets::config, 5),
    ];
    for (name, target, least) in targets {
        let entries = fs::read_dir(corpus(name)).expect("a corpus");
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("an entry").path();
            println!("{}", path.display());
            let bytes = fs::read(path).expect("a file");
            target(&bytes);
            // What a fuzzer does first.
            (0..bytes.len().min(64)).for_each(|end| target(&bytes[..end]));
            count += 1;
        }
        assert!(count >= least, "{count} files for {name}");
    }
}
