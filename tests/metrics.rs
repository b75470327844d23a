//! Every metric has a name in one place; a scrape, the page about them, the dashboard and the alert
//! rules agree with it.

use std::{collections::BTreeMap, fs, path::Path};

use everpair::metrics::names::{self, Kind};

use crate::{
    console::{get, running},
    service::place::{Place, wait_until},
};

/// The samples of a scrape by name, each with its labels as they stand.
fn samples(text: &str) -> BTreeMap<&str, Vec<(&str, f64)>> {
    let mut found: BTreeMap<&str, Vec<(&str, f64)>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        found.entry(name).or_default().push((labels.trim_end_matches('}'), value));
    }
    found
}

fn label_names(labels: &str) -> Vec<&str> {
    // No label of these tests has a quote or a comma in it.
    labels.split(',').filter_map(|pair| Some(pair.split_once('=')?.0)).collect()
}

#[test]
fn names_follow_the_conventions() {
    let mut seen = std::collections::BTreeSet::new();
    for metric in names::ALL {
        let name = metric.name;
        assert!(seen.insert(name), "{name} twice");
        assert!(name.starts_with("everpair_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        for unit in ["seconds", "bytes"] {
            assert_eq!(metric.unit == unit, name.contains(unit), "{name} in {}", metric.unit);
        }
        assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{name}");
        assert!(metric.labels.iter().all(|l| *l != "le" && !l.starts_with("__")), "{name}");
    }
}

#[test]
fn the_page_about_metrics_is_made_from_their_names() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/METRICS.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, names::page()).expect("the folder is writable");
    }
    let held = fs::read_to_string(&path).expect("deploy/METRICS.md is there");
    assert!(held == names::page(), "deploy/METRICS.md differs; UPDATE_GOLDEN=1 rewrites it");
}

/// What the page promises is in a scrape: every metric, with its type, its labels, and a sample.
#[test]
fn every_metric_is_in_a_scrape() {
    let place = Place::new();
    let (_service, at) = running(&place, 90);
    // Answers of pairs that hold no more are still on their way when nothing waits for them.
    wait_until("every answer is committed", || {
        let text = get(at, "/metrics").body;
        let found = samples(&text);
        let sum = |name: &str| found[name].iter().map(|(_, value)| value).sum::<f64>();
        sum("everpair_annotator_requests_total") == sum("everpair_annotator_answers_total")
    });
    let answer = get(at, "/metrics");
    assert_eq!(answer.status, 200);
    let kind = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(answer.head.contains(kind), "{}", answer.head);
    let found = samples(&answer.body);
    let types: Vec<&str> =
        answer.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let expected: Vec<String> =
        names::ALL.iter().map(|m| format!("{} {}", m.name, m.kind.as_str())).collect();
    assert_eq!(types, expected, "each family once, with its type");
    for metric in names::ALL {
        assert!(answer.body.contains(&format!("# HELP {} {}\n", metric.name, metric.help)));
        let (suffix, more) = match metric.kind {
            Kind::Histogram => ("_bucket", Some("le")),
            _ => ("", None),
        };
        let name = format!("{}{suffix}", metric.name);
        let series = found.get(name.as_str()).unwrap_or_else(|| panic!("no sample of {name}"));
        let labels: Vec<&str> = metric.labels.iter().copied().chain(more).collect();
        for (held, _) in series {
            assert_eq!(label_names(held), labels, "{name}");
        }
    }
    let one = |name: &str, labels: &str| {
        let series = &found[name];
        let held = series.iter().find(|(held, _)| *held == labels);
        held.unwrap_or_else(|| panic!("{name}{{{labels}}} in {series:?}")).1
    };
    let sum = |name: &str| found[name].iter().map(|(_, value)| value).sum::<f64>();
    let tables = place.tables("tables");
    assert_eq!(one("everpair_images_live", ""), tables.images.len() as f64);
    assert_eq!(one("everpair_pairs", ""), tables.pairs.len() as f64);
    assert_eq!(one("everpair_triplets", ""), tables.triplets.len() as f64);
    assert_eq!(one("everpair_table_rows", "table=\"changes\""), tables.changes.len() as f64);
    assert_eq!(one("everpair_epoch", ""), tables.epoch as f64);
    assert_eq!(sum("everpair_messages_read_total"), 90.0);
    assert_eq!(sum("everpair_messages_committed_total"), 90.0);
    assert_eq!(sum("everpair_committed_offset"), 90.0);
    assert_eq!(sum("everpair_end_offset"), 90.0);
    assert_eq!(sum("everpair_lag_messages"), 0.0);
    assert_eq!(found["everpair_lag_messages"].len(), 3, "one of each partition");
    assert!(one("everpair_images_mined", "") <= tables.images.len() as f64);
    assert!(one("everpair_images_mined", "") > 50.0);
    let inserted = one("everpair_rows_inserted_total", "table=\"triplets\"");
    let deleted = one("everpair_rows_deleted_total", "table=\"triplets\"");
    assert_eq!(inserted - deleted, tables.triplets.len() as f64);
    assert_eq!(one("everpair_annotator_requests_waiting", ""), 0.0);
    let asked = one("everpair_annotator_requests_total", "");
    assert_eq!(sum("everpair_annotator_answers_total"), asked);
    assert!(asked > 10.0 && one("everpair_dot_products_total", "") > 1_000.0);
    assert!(one("everpair_store_requests_total", "operation=\"create\"") > 10.0);
    assert!(one("everpair_epoch_commit_seconds_count", "") >= 2.0);
    assert_eq!((one("everpair_ready", ""), one("everpair_healthy", "")), (1.0, 1.0));
    assert!(one("process_resident_memory_bytes", "") > 1e6);
    assert!(one("process_open_fds", "") > 5.0);
}
