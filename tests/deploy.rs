//! What is deployed is what the binary reads.

use std::{fs, path::Path, process::Command, time::Duration};

use everpair::{
    cli::read_config,
    metrics::names::{self, Kind, Metric},
};
use schemas::config::Config;
use serde_json::Value;

use crate::{console::running, service::place::Place};

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
        "annotator.prompts",
        "captioner",
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

/// Everything under `deploy/` with this ending.
fn deployed(ending: &str) -> Vec<String> {
    fn visit(folder: &Path, ending: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                visit(&path, ending, found);
            } else if path.to_string_lossy().ends_with(ending) {
                let root = env!("CARGO_MANIFEST_DIR");
                let below = path.strip_prefix(root).expect("below the root");
                found.push(below.to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy"), ending, &mut found);
    found.sort();
    found
}

/// Whether the program takes these arguments, by its own parser: help comes last and ends it.
fn accepts(arguments: &[&str]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    let output = command.args(arguments).arg("--help").output().expect("the program starts");
    output.status.success()
}

#[test]
fn every_config_under_deploy_loads() {
    let configs = deployed(".toml");
    assert!(configs.len() >= 2, "{configs:?}");
    for name in configs {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
        read_config(&path).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}

/// The metrics that an expression names and what is wrong with it: a metric that there is not, a
/// label that it has not.
fn faults(expression: &str, legend: &str) -> (Vec<&'static Metric>, Vec<String>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut used, mut faults) = (Vec::new(), Vec::new());
    // What every series has from Prometheus itself, and what histograms have.
    let mut labels = vec!["job", "instance", "le"];
    let mut selected = Vec::new();
    for (at, _) in expression.char_indices() {
        let rest = &expression[at..];
        let begins = !expression[..at].ends_with(is_word) && rest.starts_with(is_word);
        if !begins || !(rest.starts_with("everpair_") || rest.starts_with("process_")) {
            continue;
        }
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let found = names::ALL.iter().find(|metric| match metric.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name.strip_suffix(suffix) == Some(metric.name)),
            _ => name == metric.name,
        });
        let Some(metric) = found else {
            faults.push(format!("there is no {name}"));
            continue;
        };
        used.push(*metric);
        labels.extend(metric.labels);
        if let Some((inside, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            let names = inside.split(',').map(|part| part.split(['=', '!']).next().unwrap_or(part));
            selected.extend(names.map(|label| label.trim().to_owned()));
        }
    }
    for (clause, end) in [("by (", ')'), ("without (", ')')] {
        for part in expression.split(clause).skip(1) {
            let list = part.split(end).next().unwrap_or(part);
            selected.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
    }
    for part in legend.split("{{").skip(1) {
        let name = part.split("}}").next().unwrap_or(part).trim();
        selected.push(name.trim_start_matches("$labels.").to_owned());
    }
    for label in selected {
        if !labels.contains(&label.as_str()) {
            faults.push(format!("no metric of it has the label {label}"));
        }
    }
    (used, faults)
}

#[test]
fn dashboards_and_alerts_name_metrics_that_there_are() {
    let mut used = Vec::new();
    let mut complain = |place: &str, expression: &str, legend: &str| {
        let (metrics, faults) = faults(expression, legend);
        assert!(faults.is_empty(), "{place}: {expression}: {faults:?}");
        used.extend(metrics.iter().map(|metric| metric.name));
        metrics.len()
    };
    let dashboards = deployed(".json");
    assert!(!dashboards.is_empty());
    for name in dashboards {
        let page: Value =
            serde_json::from_str(&read(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let panels = page["panels"].as_array().expect("panels");
        let targets = panels.iter().flat_map(|panel| panel["targets"].as_array()).flatten();
        let mut count = 0;
        for target in targets {
            let text = |key: &str| target[key].as_str().expect("text").to_owned();
            assert!(complain(&name, &text("expr"), &text("legendFormat")) > 0, "{target}");
            count += 1;
        }
        assert!(count > 20, "{name}: {count} targets");
        for variable in page["templating"]["list"].as_array().expect("variables") {
            complain(&name, variable["query"]["query"].as_str().expect("a query"), "");
        }
    }
    let alerts = read("deploy/prometheus/alerts.yml");
    let mut expressions = 0;
    for rule in alerts.split("- alert: ").skip(1) {
        let line = |key: &str| {
            let found = rule.lines().find_map(|line| line.trim().strip_prefix(key));
            found.unwrap_or_else(|| panic!("no {key} in {rule}")).to_owned()
        };
        let known = complain("alerts.yml", &line("expr: "), &line("summary: "));
        assert!(known > 0 || line("expr: ").starts_with("up{"), "{rule}");
        assert!(
            ["{ severity: page }", "{ severity: ticket }"].contains(&line("labels: ").as_str())
        );
        expressions += 1;
    }
    assert!(expressions >= 5);
    // What nobody can see is not worth counting.
    for metric in names::ALL {
        let aside = [
            "everpair_restored_rows",
            "everpair_moved_keys_total",
            "everpair_epoch",
            "process_start_time_seconds",
        ];
        let shown = used.contains(&metric.name) || aside.contains(&metric.name);
        assert!(shown, "{} is in no panel and no alert", metric.name);
    }
}

#[test]
fn the_check_of_expressions_finds_planted_faults() {
    let none: &[String] = &[];
    assert_eq!(faults("sum by (stage) (rate(everpair_rejects_total[5m]))", "{{stage}}").1, none);
    assert_eq!(faults("everpair_rejected_total", "").1.len(), 1);
    assert_eq!(faults("everpair_epoch_commit_seconds", "").1.len(), 1, "a histogram has parts");
    assert_eq!(faults("everpair_lag_messages{table=\"x\"}", "").1.len(), 1);
    assert_eq!(faults("sum by (table) (everpair_lag_messages)", "").1.len(), 1);
    assert_eq!(faults("everpair_lag_messages", "{{ $labels.table }}").1.len(), 1);
}

/// The values of a key in a unit file.
fn unit<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.collect()
}

#[test]
fn the_unit_starts_the_program_without_rights() {
    let text = read("deploy/systemd/everpair.service");
    let [start] = unit(&text, "ExecStart")[..] else { panic!("one ExecStart") };
    let words: Vec<&str> = start.split(' ').collect();
    assert_eq!(words[0], "/usr/local/bin/everpair");
    assert!(accepts(&words[1..]), "{start}");
    assert!(!accepts(&["run", "--konfig", "x"]), "the check can fail");
    for (key, value) in [
        ("DynamicUser", "yes"),
        ("StateDirectory", "everpair"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
        ("KillSignal", "SIGTERM"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("CapabilityBoundingSet", ""),
    ] {
        assert_eq!(unit(&text, key), [value], "{key}");
    }
    let [patience] = unit(&text, "TimeoutStopSec")[..] else { panic!("one TimeoutStopSec") };
    assert_eq!(patience, "5min");
    let least = Config::parse("[source]\nfiles = [\"a\"]\n[tables]\nroot = \"b\"\n").unwrap();
    assert!(least.service.stop_within < Duration::from_secs(5 * 60), "it would be killed");
    // Where systemd is, it judges the unit itself, with a program that is there.
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else { return };
    println!("{}", String::from_utf8_lossy(&version.stdout));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("everpair.service");
    let program = env!("CARGO_BIN_EXE_everpair");
    fs::write(&path, text.replace("/usr/local/bin/everpair", program)).expect("it can be written");
    let mut analyze = Command::new("systemd-analyze");
    let judged = analyze.args(["verify", "--man=no"]).arg(&path).output().expect("it starts");
    let said = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && !said.contains("everpair.service:"), "{said}");
}

#[test]
fn the_container_has_time_to_stop() {
    let text = read("deploy/compose.yaml");
    let grace = text.lines().find_map(|line| line.trim().strip_prefix("stop_grace_period: "));
    assert_eq!(grace, Some("1m"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/everpair.toml");
    let config = read_config(&path).expect("a config");
    assert!(config.service.stop_within < Duration::from_secs(60), "it would be killed");
}

#[test]
fn the_image_is_small_and_without_rights_and_its_probe_works() {
    let text = read("deploy/Containerfile");
    let last = text.rsplit("\nFROM ").next().expect("a stage");
    assert!(last.starts_with("debian:bookworm-slim"), "{last}");
    let line = |word: &str| {
        let found = text.lines().rev().find_map(|line| line.strip_prefix(word));
        found.unwrap_or_else(|| panic!("no {word}")).trim().to_owned()
    };
    assert_eq!(line("USER "), "10001");
    assert_eq!(line("ENTRYPOINT "), "[\"everpair\"]");
    let command: Vec<String> = serde_json::from_str(&line("CMD ")).expect("an array");
    assert!(accepts(&command.iter().map(String::as_str).collect::<Vec<_>>()), "{command:?}");
    let rust = line("FROM rust:").replace("-bookworm AS build", "");
    assert!(read("Cargo.toml").contains(&format!("rust-version = \"{rust}\"")), "rust {rust}");
    let features = text.split("--features ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let feature = features.expect("a feature");
    assert!(read("Cargo.toml").contains(&format!("\n{feature} = [")), "{feature}");
    // What the build needs is let into its context.
    let let_in = read("deploy/Containerfile.dockerignore");
    for folder in ["src", "schemas", "kernels", "operators", "Cargo.toml", "Cargo.lock"] {
        assert!(let_in.lines().any(|line| line.strip_prefix('!') == Some(folder)), "{folder}");
    }

    // The probe of the image, as it stands there, against a service.
    let (_, probe) = line("HEALTHCHECK ")
        .split_once("CMD ")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("a command");
    let probe: Vec<String> = serde_json::from_str(&probe).expect("an array");
    let run = |port: u16| {
        let command: Vec<String> =
            probe.iter().map(|word| word.replace("/8080", &format!("/{port}"))).collect();
        Command::new(&command[0]).args(&command[1..]).output().expect("bash").status.success()
    };
    let place = Place::new();
    let (service, at) = running(&place, 40);
    assert!(run(at.port()), "a service that is well");
    service.terminate();
    assert_eq!(service.wait().0, Some(0));
    assert!(!run(at.port()), "no service");
}
