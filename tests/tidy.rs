//! The rules of the source tree that no compiler checks, read from the files themselves. Each rule
//! is a function from text to complaints, and `every_rule_finds_a_planted_fault` shows it can fail.
//! The scans lean on rustfmt: an item ends at the first closing brace in its own column.

use std::fs;
use std::path::{Path, PathBuf};

// Where a reader gives up. The aim is 400 lines, 70 lines and 100 columns.
const LINES_PER_FILE_MAX: usize = 700;
const LINES_PER_FUNCTION_MAX: usize = 110;
const COLUMNS_MAX: usize = 120;

/// Which of our crates a crate may use, and which others it must stay free of: the layers of the
/// design. The root package may use all three.
const LAYERS: [(&str, &[&str], &[&str]); 3] = [
    ("schemas", &[], &["timely", "differential-dataflow", "tokio", "object_store", "rdkafka"]),
    ("kernels", &[], &["timely", "differential-dataflow", "tokio", "object_store", "rdkafka"]),
    (
        "operators",
        &["schemas", "kernels"],
        &["tokio", "object_store", "rdkafka", "parquet", "reqwest"],
    ),
];
const OURS: [&str; 4] = ["schemas", "kernels", "operators", "everpair"];

/// Words that mean unfinished work or a test that does not run, wherever they stand.
const UNFINISHED: [&str; 5] = [
    concat!("#[", "ignore"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("FIX", "ME"),
    concat!("XX", "X "),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the tree with this extension, relative to the root, sorted.
fn files(extension: &str) -> Vec<PathBuf> {
    fn visit(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("folder is readable") {
            let path = entry.expect("entry is readable").path();
            let name = path.file_name().expect("entry has a name").to_string_lossy().into_owned();
            // A build folder may have any name; this file marks it, but only if Cargo made it.
            let built = path.join("CACHEDIR.TAG").exists() || path == root().join("target");
            if path.is_dir() && !name.starts_with('.') && !built {
                visit(&path, extension, found);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(root()).expect("below the root").to_path_buf());
            }
        }
    }
    let mut found = Vec::new();
    visit(root(), extension, &mut found);
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).expect("file is readable text")
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// The lines outside items marked `#[cfg(test)]`, with their numbers from 1.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        if line != "#[cfg(test)]" {
            kept.push((number, line));
            continue;
        }
        for (_, item) in lines.by_ref() {
            if item == "}" || item.ends_with(';') && !item.starts_with(' ') {
                break;
            }
        }
    }
    kept
}

fn long_file(text: &str) -> Vec<String> {
    let lines = code_lines(text).len();
    if lines <= LINES_PER_FILE_MAX {
        return Vec::new();
    }
    vec![format!("{lines} lines of code, more than {LINES_PER_FILE_MAX}: split it")]
}

fn long_functions(text: &str) -> Vec<String> {
    let lines = code_lines(text);
    let mut complaints = Vec::new();
    for (start, (number, line)) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words = ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe "];
        let item = words.iter().fold(code, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
        if !item.starts_with("fn ") || code.ends_with('}') || code.ends_with(';') {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        let end = lines[start..].iter().position(|(_, l)| *l == close).unwrap_or(0);
        if end + 1 > LINES_PER_FUNCTION_MAX {
            complaints.push(format!("line {number}: a function of {} lines", end + 1));
        }
    }
    complaints
}

/// A line that is one string has the width of what it says.
fn wide_lines(text: &str) -> Vec<String> {
    let wide = text.lines().enumerate().filter(|(_, line)| {
        line.chars().count() > COLUMNS_MAX && !line.trim_start().starts_with('"')
    });
    wide.map(|(index, _)| format!("line {}: wider than {COLUMNS_MAX}", index + 1)).collect()
}

fn unfinished(text: &str) -> Vec<String> {
    let found = UNFINISHED.iter().filter(|word| text.contains(*word));
    found.map(|word| format!("contains {word:?}")).collect()
}

/// A panic whose message would not say why it cannot happen.
fn bare_unwraps(text: &str) -> Vec<String> {
    let code = code_lines(text).into_iter();
    let found =
        code.filter(|(_, line)| line.contains(".unwrap()") && !line.trim_start().starts_with("//"));
    found.map(|(number, _)| format!("line {number}: unwrap outside tests")).collect()
}

/// The standard macros panic where nobody reads: `src/print.rs` has ours.
fn panicking_prints(text: &str) -> Vec<String> {
    let macros = ["print", "println", "eprint", "eprintln"].map(|name| format!("{name}!("));
    let code = code_lines(text).into_iter();
    let found = code.filter(|(_, line)| {
        let mut words = line.split(|c: char| c.is_whitespace() || ",;{}&>|".contains(c));
        words.any(|word| macros.iter().any(|name| word.starts_with(name)))
    });
    found.map(|(number, _)| format!("line {number}: use outln! or errln!")).collect()
}

fn unsafe_allowed(text: &str) -> Vec<String> {
    let found = text.lines().enumerate().filter(|(_, line)| line.contains("allow(unsafe_code"));
    found.map(|(index, _)| format!("line {}: unsafe is for kernels", index + 1)).collect()
}

/// Names under any `[…dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').ends_with("dependencies");
        } else if inside && !line.starts_with('#') && line.contains('=') {
            names.push(line.split(['.', ' ', '=']).next().unwrap_or(line));
        }
    }
    names
}

fn forbidden_edges(manifest: &str, ours: &[&str], others: &[&str]) -> Vec<String> {
    let forbidden = dependencies(manifest)
        .into_iter()
        .filter(|name| OURS.contains(name) && !ours.contains(name) || others.contains(name));
    forbidden.map(|name| format!("must not use {name}")).collect()
}

/// Targets of relative Markdown links that are not there. `exists` is given the target's path.
fn dead_links(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let paths = targets.filter(|t| !t.contains("://") && !t.starts_with('#'));
    let dead = paths.map(|t| t.split('#').next().unwrap_or(t)).filter(|path| !exists(path));
    dead.map(|path| format!("dead link {path}")).collect()
}

fn check(complaints: impl IntoIterator<Item = (PathBuf, Vec<String>)>) {
    let lines: Vec<String> = complaints
        .into_iter()
        .flat_map(|(path, found)| {
            found.into_iter().map(move |c| format!("{}: {c}", path.display()))
        })
        .collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

#[test]
fn sources_keep_the_limits() {
    let sources = files("rs");
    assert!(sources.len() > 20, "the walk found the sources: {sources:?}");
    check(sources.into_iter().map(|path| {
        let text = read(&path);
        let mut found = [wide_lines(&text), unfinished(&text)].concat();
        if !is_test(&path) {
            found.extend([long_file(&text), long_functions(&text), bare_unwraps(&text)].concat());
        }
        if !is_test(&path) && path.starts_with("src") {
            found.extend(panicking_prints(&text));
        }
        if !path.starts_with("kernels") && !path.ends_with("tidy.rs") {
            found.extend(unsafe_allowed(&text));
        }
        if path.ends_with("mod.rs") {
            found.push("name the file after its module".to_string());
        }
        (path, found)
    }));
}

#[test]
fn crates_keep_their_layers() {
    check(LAYERS.map(|(name, ours, others)| {
        let path = Path::new(name).join("Cargo.toml");
        let manifest = read(&path);
        assert!(!dependencies(&manifest).is_empty(), "{name} has dependencies that were read");
        (path, forbidden_edges(&manifest, ours, others))
    }));
}

#[test]
fn pages_link_to_what_exists() {
    check(files("md").into_iter().map(|path| {
        let folder = root().join(&path).parent().expect("a file is in a folder").to_path_buf();
        let found = dead_links(&read(&path), |target| folder.join(target).exists());
        (path, found)
    }));
}

#[test]
fn every_rule_finds_a_planted_fault() {
    let body = "    let a = 1;\n".repeat(LINES_PER_FILE_MAX + 1);
    assert_eq!(long_file(&body).len(), 1);
    assert_eq!(long_file(&format!("#[cfg(test)]\nmod tests {{\n{body}}}\n")), [""; 0]);
    assert_eq!(long_functions(&format!("pub fn a() {{\n{body}}}\n")).len(), 1);
    assert_eq!(long_functions(&format!("fn a() {{\n}}\n{body}")), [""; 0]);
    assert_eq!(wide_lines(&"x".repeat(COLUMNS_MAX + 1)).len(), 1);
    assert_eq!(unfinished(UNFINISHED[0]).len(), 1);
    assert_eq!(bare_unwraps("fn a() {\n    b.unwrap();\n}\n").len(), 1);
    assert_eq!(bare_unwraps("#[cfg(test)]\nmod tests;\nfn a() {\n    b.unwrap();\n}\n").len(), 1);
    assert_eq!(bare_unwraps("#[cfg(test)]\nmod tests {\n    b.unwrap();\n}\n"), [""; 0]);
    assert_eq!(panicking_prints("fn a() {\n    println!(\"b\");\n}\n").len(), 1);
    assert_eq!(panicking_prints("fn a() {\n    outln!(\"b\");\n}\n"), [""; 0]);
    assert_eq!(unsafe_allowed("#![allow(unsafe_code)]").len(), 1);
    let manifest = "[dependencies]\nkernels.workspace = true\n[dev-dependencies]\ntokio = \"1\"\n";
    assert_eq!(forbidden_edges(manifest, &[], &["tokio"]).len(), 2);
    assert_eq!(forbidden_edges(manifest, &["kernels"], &[]), [""; 0]);
    assert_eq!(
        dead_links("[a](b.md) [c](d.md#e) [f](#g)", |path| path == "d.md"),
        ["dead link b.md"]
    );
}
