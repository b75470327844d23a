//! YAML under `deploy/` read by a real parser: what stands in one file is what stands in the others.

use std::{fs, path::Path, process::Command};

use everpair::cli::read_config;
use serde_json::Value;

use crate::peers::peer;

const TO_JSON: &str =
    "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn yaml(name: &str) -> Value {
    let mut python = Command::new(peer("EVERPAIR_PYTHON"));
    let read = python.args(["-c", TO_JSON]).arg(path(name)).output().expect("Python starts");
    assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).expect("JSON")
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|one| one.as_str().expect("text")).collect()
}

#[test]
fn compose_config_prometheus_and_grafana_agree() {
    let compose = yaml("compose.yaml");
    let services = compose["services"].as_object().expect("services");
    for (name, service) in services {
        let image = service["image"].as_str().expect("an image");
        let pinned = image.split_once(':').is_some_and(|(_, tag)| tag != "latest");
        assert!(pinned || service.get("build").is_some(), "{name}: {image} is not pinned");
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().expect("text");
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to others");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let from = volume.as_str().and_then(|v| v.split(':').next()).expect("text");
            let there = match from.starts_with('.') {
                true => path(from).exists(),
                false => compose["volumes"].get(from).is_some(),
            };
            assert!(there, "{name}: {from}");
        }
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            let on = services.get(other).unwrap_or_else(|| panic!("{name} needs {other}"));
            if how["condition"] == "service_healthy" {
                assert!(on.get("healthcheck").is_some(), "{other} has no healthcheck");
            }
        }
    }

    let config = read_config(&path("compose/everpair.toml")).expect("the config loads");
    let listen = config.service.listen.expect("it has a console");
    let everpair = &services["everpair"];
    let arguments = strings(&everpair["command"]);
    let mut program = Command::new(env!("CARGO_BIN_EXE_everpair"));
    let output = program.args(&arguments).arg("--help").output().expect("the program starts");
    assert!(output.status.success(), "{arguments:?}");
    let mounted = strings(&everpair["volumes"]);
    assert!(
        mounted.iter().any(|m| m.split(':').nth(1) == arguments.last().copied()),
        "{mounted:?}"
    );
    let port = listen.port().to_string();
    assert!(strings(&everpair["ports"]).iter().all(|p| p.ends_with(&format!(":{port}"))));
    assert!(listen.ip().is_unspecified(), "Prometheus is another machine to it");
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        assert!(everpair["environment"].get(name).is_some(), "{name}");
    }
    assert!(
        path(everpair["build"]["dockerfile"].as_str().expect("text")).ends_with("Containerfile")
    );
    assert!(path("..").join("deploy/Containerfile").exists());

    let kafka = &services["kafka"]["environment"];
    let inside = format!("INSIDE://{}", config.source.brokers);
    let advertised = kafka["KAFKA_ADVERTISED_LISTENERS"].as_str().expect("text");
    assert!(advertised.split(',').any(|one| one == inside), "{advertised}");
    let topics = strings(&services["topics"]["command"]);
    assert!(topics.contains(&config.source.topics[0].as_str()), "{topics:?}");
    let bucket =
        config.tables.root.trim_start_matches("s3://").split('/').next().expect("a bucket");
    let made = services["bucket"]["command"].to_string();
    assert!(made.contains(&format!("s3/{bucket}")), "{made}");
    let endpoint = &config.tables.settings["endpoint"];
    assert!(made.contains(endpoint), "{made}");
    assert!(
        services.contains_key(endpoint.trim_start_matches("http://").split(':').next().unwrap())
    );

    let prometheus = yaml("prometheus/prometheus.yml");
    let scrape = &prometheus["scrape_configs"][0];
    let targets = strings(&scrape["static_configs"][0]["targets"]);
    assert_eq!(targets, [format!("everpair:{port}")]);
    let job = scrape["job_name"].as_str().expect("a name");
    let rules = yaml("prometheus/alerts.yml");
    let up = format!("up{{job=\"{job}\"}}");
    assert!(rules["groups"][0]["rules"][0]["expr"].as_str().expect("text").starts_with(&up));
    for rules in strings(&prometheus["rule_files"]) {
        let mounted = services["prometheus"]["volumes"].to_string();
        assert!(mounted.contains(&format!("/etc/prometheus/{rules}")), "{mounted}");
    }
    let dashboard =
        fs::read_to_string(path("grafana/dashboards/everpair.json")).expect("it is there");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    assert_eq!(dashboard["templating"]["list"][0]["current"]["value"], job);
    let source = &yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0];
    for panel in dashboard["panels"].as_array().expect("panels") {
        let uid = &panel["datasource"]["uid"];
        assert!(uid.is_null() || *uid == source["uid"], "{panel}");
    }
    assert_eq!(source["url"], "http://prometheus:9090");
    let provider = &yaml("grafana/provisioning/dashboards/everpair.yaml")["providers"][0];
    let folder = provider["options"]["path"].as_str().expect("a folder");
    let mounted = strings(&services["grafana"]["volumes"]);
    assert!(mounted.iter().any(|m| m.split(':').nth(1) == Some(folder)), "{mounted:?}");
}
