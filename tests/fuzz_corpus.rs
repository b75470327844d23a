//! The fuzzers' corpora, tried without a fuzzer. With EVERPAIR_WRITE_CORPUS set they are written
//! first: the small ones of the messages in [`crate::bad_input`], and configs. What a fuzzer found
//! lies beside them, under the name of what was wrong.

#[path = "fuzz/targets.rs"]
mod targets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Once,
};

use crate::bad_input::cases::{Case, cases};

/// A fuzzer begins with what is small.
const SEED_BYTES_MAX: usize = 1_500;
/// What a fuzzer found may be larger; all of it stays something that one can clone.
const FILE_BYTES_MAX: u64 = 20_000;
const CORPORA_BYTES_MAX: u64 = 300_000;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn write() {
    let folder = tempfile::tempdir().expect("a folder");
    let named_by_folder = folder.path().display().to_string();
    let mut seen = BTreeSet::new();
    let mut put = |target: &str, name: &str, bytes: &[u8]| {
        // The same picture under many odd keys is one picture.
        if bytes.len() > SEED_BYTES_MAX || !seen.insert((target.to_owned(), bytes.to_vec())) {
            return;
        }
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let corpus = fuzz().join("corpus").join(target);
        fs::create_dir_all(&corpus).expect("it is writable");
        fs::write(corpus.join(name), bytes).expect("it is writable");
    };
    for Case { name, key, value, headers, .. } in cases(folder.path()) {
        if let Some(key) = key.filter(|key| key != name.as_bytes()) {
            put("message", &format!("key: {name}"), &[b"\x08", &key[..]].concat());
        }
        for (header, text) in headers.iter().filter(|(header, _)| header == "caption") {
            put("message", &format!("{header}: {name}"), &[b"\x10", &text[..]].concat());
        }
        let Some(value) = value else { continue };
        let names_it = String::from_utf8_lossy(&value).contains(&named_by_folder);
        match value.first() {
            Some(b'{') if !names_it => put("message", &name, &[b"\0", &value[..]].concat()),
            Some(b'{') => {}
            _ => put("decode", &name, &value),
        }
    }
    let line = br#"{"key": "a", "value": {"uri": "https://a/b"}, "headers": {"caption": "c"}}"#;
    put("message", "a line", &[b"\x04", &line[..]].concat());
    put(
        "message",
        "a line in base64",
        b"\x04{\"key\": \"a\", \"value\": \"eyJ9\", \"timestamp\": 7}",
    );
    put("message", "a reference whose id is its content", b"\x01{\"uri\": \"s3://b/c\"}");
    put("message", "an id in a header", b"\x12an id");
    let vectors = br#"{"image": "AAAA", "vectors": {"semantic": [0.1, -2e-7, 3]}, "n": 1e300}"#;
    put("message", "numbers", &[b"\0", &vectors[..]].concat());
    // The shortest texts of these doubles have 17 digits.
    let long =
        br#"{"image": "AA==", "a": [0.00040815105497451397, 3.0135910076946248e-9], "vectors":
        {"caption": [0.0015960421235803824, 589.76337126193981]}}"#;
    put("message", "numbers of 17 digits", &[b"\0", &long[..]].concat());
    configs(|name, text| put("config", name, text.as_bytes()));
    // Larger than a seed should be, and all the keys there are.
    let example = include_str!("../deploy/everpair.toml");
    fs::write(fuzz().join("corpus/config/example"), example).expect("it is writable");
}

fn configs(mut put: impl FnMut(&str, &str)) {
    let least = "[source]\nfiles = [\"a\"]\n[tables]\nroot = \"b\"\n";
    put("least", least);
    for (name, text) in [
        ("units", "[epoch]\nbytes = \"1.5 GiB\"\nlinger = \"3 min\"\n"),
        (
            "bands",
            "[channels.semantic]\nencoder = \"given\"\ndim = 3\nband = [[0.1, 0.5], [0.5, 1]]\n",
        ),
        ("fetch", "[fetch]\nschemes = [\"s3\"]\nbuckets = [\"b\"]\ntimeout = \"9 h\"\n"),
        ("hosts", "[fetch]\nschemes = [\"https\"]\nhosts = [\"*.a.org\"]\nbytes_max = \"1 KiB\"\n"),
        ("screen", "[screen]\naspect_max = 2.5\nside_min = 9\nblur_min = 1e3\npixels_max = 81\n"),
        ("secret", "[tables.settings]\naws_secret_access_key = \"x\"\nregion = \"r\"\n"),
        ("service", "[service]\nworkers = 2\nlisten = \"127.0.0.1:0\"\nready_age = \"5 ms\"\n"),
    ] {
        put(name, &format!("{least}{text}"));
    }
    let kafka = "[source]\nkey = \"header:x\"\nbrokers = \"b\"\ntopics = [\"t\"]\n\
        settings = { \"sasl.password\" = \"p\" }\n[tables]\nroot = \"s3://b/r\"";
    put("kafka", kafka);
}

/// The files of a corpus; there must be enough for it to be one.
fn corpus(target: &str, least: usize) -> Vec<PathBuf> {
    static WRITTEN: Once = Once::new();
    if std::env::var_os("EVERPAIR_WRITE_CORPUS").is_some() {
        WRITTEN.call_once(write);
    }
    let entries = fs::read_dir(fuzz().join("corpus").join(target)).expect("a corpus");
    let files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert!(files.len() >= least, "{} files for {target}", files.len());
    files
}

/// What must hold of any bytes holds of a corpus.
fn replay(name: &str, least: usize, target: fn(&[u8])) {
    for path in corpus(name, least) {
        println!("{}", path.display());
        let bytes = fs::read(path).expect("a file");
        target(&bytes);
        // What a fuzzer does first.
        (0..bytes.len().min(64)).for_each(|end| target(&bytes[..end]));
    }
}

#[test]
fn files_of_the_corpus_are_pixels_or_errors() {
    replay("decode", 60, targets::decode);
}

#[test]
fn messages_of_the_corpus_are_read_or_turned_away() {
    replay("message", 40, targets::message);
}

#[test]
fn configs_of_the_corpus_can_be_worked_with_or_are_refused() {
    replay("config", 9, targets::config);
}

#[test]
fn corpora_stay_small() {
    let files = ["decode", "message", "config"].map(|name| corpus(name, 1)).concat();
    let sizes = files.iter().map(|path| (path.metadata().expect("a file").len(), path));
    let mut all = 0;
    for (size, path) in sizes {
        let how = "minimise it, with -minimize_crash=1";
        assert!(size <= FILE_BYTES_MAX, "{}: {size} bytes: {how}", path.display());
        all += size;
    }
    assert!(all <= CORPORA_BYTES_MAX, "{all} bytes of corpora");
}

/// What is fuzzed is what is shipped: crates that both builds have are the same.
#[test]
fn the_fuzzers_have_the_versions_that_ship() {
    let versions = |lock: &str| {
        let mut of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for package in lock.split("[[package]]").skip(1) {
            let field = |name: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(name));
                line.expect("a field of a lock file").trim_matches('"').to_owned()
            };
            of.entry(field("name = ")).or_default().insert(field("version = "));
        }
        of
    };
    let ships = versions(include_str!("../Cargo.lock"));
    let fuzzed = fs::read_to_string(fuzz().join("Cargo.lock")).expect("it is there");
    let how = "copy Cargo.lock to tests/fuzz, then run cargo metadata --manifest-path \
               tests/fuzz/Cargo.toml";
    let mut compared = 0;
    for (name, versions) in versions(&fuzzed) {
        let Some(shipped) = ships.get(&name) else { continue };
        let other = !versions.is_subset(shipped);
        assert!(!other, "{name} {versions:?} is fuzzed and {shipped:?} ships: {how}");
        compared += 1;
    }
    assert!(compared > 50, "{compared}");
    for (name, manifest) in [
        ("kernels", include_str!("../kernels/Cargo.toml")),
        ("schemas", include_str!("../schemas/Cargo.toml")),
    ] {
        let package = fuzzed.split("[[package]]").find(|p| p.contains(&format!("\"{name}\"\nv")));
        let package = package.expect("it is fuzzed");
        let wanted = manifest.split("[dependencies]\n").nth(1).expect("it has dependencies");
        for line in wanted.lines().take_while(|line| !line.starts_with('[')) {
            let Some((wanted, _)) = line.split_once(".workspace") else { continue };
            assert!(package.contains(&format!("\"{wanted}")), "{name} has {wanted} now: {how}");
        }
    }
}
