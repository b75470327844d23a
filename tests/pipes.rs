//! Readers that have enough: `everpair status | head -1`.

use std::{
    fs::File,
    io::pipe,
    process::{Command, Stdio},
};

use everpair::scenes;

use crate::service::place::{Message, Place};

/// A pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn everpair(place: &Place, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.args(words).current_dir(place.path(".")).stdin(Stdio::null());
    command
}

/// The commands that the program has, as it lists them.
fn listed(place: &Place) -> Vec<String> {
    let help = everpair(place, &["help"]).output().expect("the program starts");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let commands = help.split("Commands:\n").nth(1).expect("commands").split("\n\n").next();
    let lines = commands.expect("a list").lines().filter(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn a_reader_that_goes_away_changes_no_exit_code() {
    let place = Place::new();
    place.configure("tables", "[epoch]\nlinger = \"50 ms\"\n");
    let model = "[annotator]\nkind = \"openai\"\nurl = \"http://127.0.0.1:1/v1\"\nmodel = \"m\"\n\
        input_price = 1.0\noutput_price = 2.0\nbudget = 10.0\n";
    place.configure_at("model", "tables", model);
    let mut log = place.log();
    log.send(scenes::scenes(60, 76).map(Message::from));
    let broken = Message { value: Some(b"no image".to_vec()), ..Message::tombstone("broken") };
    log.send([broken]);
    place.catch_up("tables");
    let triplet = place.tables("tables").triplets[0].triplet_id.clone();
    let path = scenes::scene(900, 76);
    std::fs::write(place.path("new.jpg"), path.jpeg_or_png).expect("a file");

    let config = ["--config", "tables.toml"];
    let with = |words: &[&'static str]| [words, &config[..]].concat();
    let commands: Vec<Vec<&str>> = vec![
        vec!["--help"],
        vec!["export", "--help"],
        with(&["status"]),
        with(&["status", "--json"]),
        with(&["validate"]),
        with(&["validate", "--json"]),
        with(&["verify"]),
        with(&["verify", "--json"]),
        with(&["changes", "--since", "0", "--rows"]),
        with(&["snapshot", "create", "pin"]),
        with(&["snapshot", "list"]),
        with(&["snapshot", "list", "--json"]),
        with(&["snapshot", "drop", "pin"]),
        with(&["snapshot", "list", "--json"]),
        with(&["views", "--duckdb"]),
        with(&["views", "--spark"]),
        [&["explain", &triplet], &config[..]].concat(),
        [&["explain", &triplet, "--json"], &config[..]].concat(),
        with(&["explain", "--sql"]),
        with(&["gallery", "--out", "gallery.html"]),
        with(&["calibrate"]),
        with(&["calibrate", "--json"]),
        vec!["plan", "--config", "model.toml", "--images", "100"],
        vec!["requests", "list", "--config", "model.toml"],
        vec!["requests", "list", "--config", "model.toml", "--json"],
        vec!["embed", "new.jpg", "--images", "builtin:layout", "--out", "vectors.parquet"],
        with(&["replay", "--stage", "decode", "--dry-run"]),
        with(&["replay", "--stage", "decode"]),
        with(&["export", "--format", "hf", "--to", "out", "--json"]),
        with(&["push", "new.jpg", "--json"]),
        with(&["takedown", "nobody"]),
        with(&["block", "--benchmark", "set", "--images", "new.jpg", "--dry-run"]),
        with(&["gc", "--dry-run", "--json"]),
        with(&["gc", "--take-over"]),
        with(&["run", "--until-caught-up"]),
        vec!["demo", "--count", "60", "--out", "demo"],
    ];
    for name in listed(&place) {
        assert!(commands.iter().any(|words| words[0] == name), "{name} is not tried");
    }
    for words in &commands {
        let ended = everpair(&place, words).stdout(unread()).output().expect("the program starts");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{words:?} said:\n{said}");
        assert!(!said.contains("panicked") && !said.contains("error"), "{words:?} said:\n{said}");
    }
    // The same where both go into one pipe, but for what can be done only once.
    let again = |words: &&Vec<&str>| !["replay", "demo", "snapshot", "embed"].contains(&words[0]);
    for words in commands.iter().filter(again) {
        let mut command = everpair(&place, words);
        let status = command.stdout(unread()).stderr(unread()).status();
        assert_eq!(status.expect("the program starts").code(), Some(0), "{words:?}");
    }

    // The code tells of the work, not of the reader.
    place.configure("tables", "[pairs]\ntargets_per_query = 2\n");
    let run = with(&["run", "--until-caught-up"]);
    let status = everpair(&place, &run).stdout(unread()).stderr(unread()).status();
    assert_eq!(status.expect("the program starts").code(), Some(1));
    // What is lost for another reason is lost data.
    if let Ok(full) = File::options().write(true).open("/dev/full") {
        let ended = everpair(&place, &with(&["status"])).stdout(full).output();
        let ended = ended.expect("the program starts");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("write to standard output: No space left"), "{said}");
    }
}
