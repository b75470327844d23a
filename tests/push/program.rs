//! The program itself: exit codes, standard input, JSON.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use super::{in_log, read, text};

fn everpair(words: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the program starts");
    let mut stdin = process.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = process.wait_with_output().expect("it ends");
    // A program that ends before it has read everything says why by itself.
    let _ = writer.join().expect("the writer ends");
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn push(dir: &Path, words: &[&str], input: &[u8]) -> Output {
    everpair(&[&["push", "--to", text(&dir.join("log"))][..], words].concat(), input)
}

#[test]
fn standard_input_json_and_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.jpg");
    std::fs::write(&image, "a").unwrap();
    let mut list = json!({ "path": image, "id": "one" }).to_string();
    list.push_str("\n{\"path\": \"gone.jpg\"}\n");
    let output = push(dir.path(), &["-", "--json"], list.as_bytes());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["sent"], &report["failed"]["count"]), (&1.into(), &1.into()));
    assert_eq!(report["failed"]["list"][0]["image"], "standard input line 2 (gone.jpg)");
    let partitions = report["partitions"].as_object().unwrap();
    assert_eq!(partitions.values().map(|p| p["count"].as_u64().unwrap()).sum::<u64>(), 1);
    assert!(said(&output).contains("1 of the images were not sent"), "{}", said(&output));

    let tar = dir.path().join("x.tar");
    super::inputs::write_tar(&tar, &[("k1.jpg", b"1"), ("k1.txt", b"c"), ("k2.png", b"2")]);
    let bytes = std::fs::read(&tar).unwrap();
    let output = push(dir.path(), &["-", "--stdin", "tar"], &bytes);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(output.stdout.is_empty() && said(&output).contains("2 images sent"));
    assert!(!said(&output).contains('\r'), "no progress where there is no terminal");
    let keys: Vec<String> = read(&in_log(&dir.path().join("log"))).into_keys().collect();
    assert_eq!(keys, ["k1", "k2", "one"]);

    // What is no list is told once, with what to do.
    let none = dir.path().join("none");
    for (bytes, words) in [
        (&bytes[..], "this is a tar: --stdin tar"),
        (b"\x1f\x8b\x08\0\0\n\n\n", "this is compressed with gzip: unpack it on the way"),
        (b"PK\x03\x04\n\n", "this is a zip file"),
        (b"PAR1\n\n", "this is a Parquet file"),
    ] {
        let output = everpair(&["push", "-", "--to", text(&none)], bytes);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("not sent: standard input: {words}")), "{said}");
        assert_eq!(said.matches("not sent: ").count(), 1, "{said}");
    }
    let output = push(dir.path(), &["-", "--stdin", "tar"], list.as_bytes());
    assert!(said(&output).contains("a list wants no --stdin tar"), "{}", said(&output));

    let output = everpair(&["push", text(&image)], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("push needs a target: --to DIR"), "{}", said(&output));
    let output = push(dir.path(), &[text(&image), "--oversize", "shrink"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("one of fit, skip, store:"), "{}", said(&output));
}

#[test]
fn take_downs_from_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    std::fs::write(&config, "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"t\"\n")
        .unwrap();
    let words = ["takedown", "--config", text(&config), "--from", "-"];
    let output = everpair(&words, "\u{feff}one\r\n\r\n \t\nz wei \r\n five\t\r".as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let file = dir.path().join("ids");
    std::fs::write(&file, "three").unwrap();
    let words = ["takedown", "--config", text(&config), "--from", text(&file), "four"];
    let output = everpair(&words, b"");
    assert!(said(&output).contains("2 tombstones written"), "{}", said(&output));
    let records = read(&in_log(&dir.path().join("log")));
    assert_eq!(records.keys().collect::<Vec<_>>(), ["five", "four", "one", "three", "z wei"]);
    assert!(records.values().all(|record| record.value.is_none()));
    std::fs::write(&file, b"\xff\n").unwrap();
    let words = ["takedown", "--config", text(&config), "--from", text(&file)];
    assert_eq!(everpair(&words, b"").status.code(), Some(1));
    assert_eq!(everpair(&["takedown", "--config", text(&config)], b"").status.code(), Some(2));
}

/// The commands of README's section, as they stand there.
#[test]
fn the_commands_that_readme_shows() {
    let readme = include_str!("../../README.md");
    let section = readme.split("### Bring images\n").nth(1).expect("the section");
    let block = section.split("```").nth(1).and_then(|b| b.strip_prefix("sh\n")).expect("commands");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["photos", "shards", "hf"] {
        std::fs::create_dir(at(folder)).unwrap();
    }
    let jpeg = everpair::scenes::scene(0, 3).jpeg_or_png;
    std::fs::write(at("photos/a.jpg"), &jpeg).unwrap();
    std::fs::write(at("photos/a.txt"), "a scene").unwrap();
    super::inputs::write_tar(&at("shards/0.tar"), &[("k.jpg", &jpeg), ("k.txt", b"c")]);
    let column: arrow_array::ArrayRef =
        std::sync::Arc::new(arrow_array::BinaryArray::from_iter_values([&jpeg]));
    super::inputs::write_parquet(&at("hf/train.parquet"), vec![("image", column)]);
    std::fs::write(at("list.jsonl"), "{\"path\": \"photos/a.jpg\", \"id\": \"j\"}\n").unwrap();
    std::fs::write(at("list.csv"), "path,id\nphotos/a.jpg,c\n").unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_everpair"));
    let path = format!("{}:/usr/bin:/bin", text(program.parent().unwrap()));
    let mut sent = 0;
    for line in block.lines() {
        let mut command = Command::new("sh");
        let output =
            command.args(["-ec", line]).current_dir(dir.path()).env("PATH", &path).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{line}: {}", said(&output));
        assert!(!said(&output).starts_with("0 images") && said(&output).contains("images sent"));
        sent += 1;
    }
    assert!(sent >= 8, "{block}");
    let keys: Vec<String> = read(&in_log(&at("data/log"))).into_keys().collect();
    let content = schemas::ContentId::of(&jpeg).hex();
    let mut all = ["a.jpg", "c", "j", "k", &content];
    all.sort();
    assert_eq!(keys, all);
}

/// However many begin a log at once, they agree on its files: an id has one partition, and a
/// take-down the last word.
#[test]
fn pushes_that_begin_a_log_at_once_agree_on_its_partitions() {
    const AT_ONCE: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.jpg");
    std::fs::write(&image, "a").unwrap();
    let list: Vec<String> =
        (0..20).map(|n| json!({ "path": image, "id": format!("id {n}") }).to_string()).collect();
    let list = list.join("\n");
    for round in 0..3 {
        let target = dir.path().join(format!("round{round}"));
        let ended: Vec<Output> = std::thread::scope(|scope| {
            let push = || push(&target, &["-"], list.as_bytes());
            let pushes: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(push)).collect();
            pushes.into_iter().map(|push| push.join().expect("it ends")).collect()
        });
        for output in &ended {
            assert_eq!(output.status.code(), Some(0), "{}", said(output));
        }
        let mut stands: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for file in std::fs::read_dir(target.join("log")).unwrap() {
            let path = file.unwrap().path();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let line: Value = serde_json::from_str(line).expect("a line is a message");
                let key = line["key"].as_str().expect("it has a key").to_owned();
                stands.entry(key).or_default().push(text(&path).to_owned());
            }
        }
        assert_eq!(stands.len(), 20);
        for (key, files) in stands {
            assert_eq!(files.len(), AT_ONCE, "{key}: nothing is lost");
            assert!(files.iter().all(|file| *file == files[0]), "{key} is in {files:?}");
        }
    }
}
