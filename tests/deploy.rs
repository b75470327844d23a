//! What is deployed is what the binary reads.

use std::{fs, path::Path};

use schemas::config::Config;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// The keys that a section has, from the config's own refusal of one that it does not have.
fn keys_of(section: &str) -> Vec<String> {
    let least = "[source]\nfiles = [\"a\"]\n[tables]\nroot = \"b\"\n";
    let text = match section {
        "source" | "tables" => {
            least.replace(&format!("[{section}]"), &format!("[{section}]\nno_such_key = 1"))
        }
        _ => format!("{least}[{section}]\nno_such_key = 1\n"),
    };
    let refusal = Config::parse(&text).expect_err("an unknown key is refused").to_string();
    let (_, list) = refusal.split_once("expected ").expect("the refusal lists what is known");
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_config_loads_and_documents_every_key() {
    let text = read("deploy/everpair.toml");
    Config::parse(&text).expect("the example loads");
    for section in [
        "source",
        "fetch",
        "tables",
        "channels",
        "channels.semantic",
        "pairs",
        "annotator",
        "triplets",
        "contents",
        "screen",
        "filter",
        "epoch",
        "service",
    ] {
        let keys = keys_of(section);
        assert!(!keys.is_empty(), "[{section}] has keys");
        for key in keys {
            let stands = |line: &str| {
                let line = line.trim_start_matches(['#', ' ', '[']);
                let line = line.strip_prefix(&format!("{section}.")).unwrap_or(line);
                line.strip_prefix(&key).is_some_and(|rest| rest.starts_with([' ', ']']))
            };
            assert!(text.lines().any(stands), "[{section}] {key} is not in deploy/everpair.toml");
        }
    }
}

/// Defaults in the example are the binary's.
#[test]
fn the_example_shows_the_defaults() {
    let example = Config::parse(&read("deploy/everpair.toml")).expect("the example loads");
    let least = Config::parse("[source]\nfiles = [\"a\"]\n[tables]\nroot = \"b\"\n").unwrap();
    let shown = |config: &Config| {
        let Config {
            fetch,
            channels,
            pairs,
            annotator,
            triplets,
            contents,
            screen,
            filter,
            epoch,
            service,
            ..
        } = config.clone();
        format!(
            "{:?}",
            (fetch, channels, pairs, annotator, triplets, contents, screen, filter, epoch, service)
        )
    };
    assert_eq!(shown(&example), shown(&least));
}
