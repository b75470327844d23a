//! The console of a service on a real Kafka, its scrape read by Prometheus' own Python client.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use everpair::metrics::names::{self, Kind};
use serde_json::Value;

use crate::peers::{
    kafka::Broker,
    peer,
    pipeline::{PATIENCE, Running},
};

const TOPIC: &str = "images";
/// Family name, type, and [name, labels, value] of each sample. Counters lose `_total` there.
const PARSE: &str = "import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
print(json.dumps([[f.name, f.type, f.documentation, [[s.name, s.labels, s.value] for s in f.samples]]
    for f in parse(sys.stdin.read())]))";

fn get(to: SocketAddr, path: &str) -> (bool, String) {
    let mut stream = TcpStream::connect(to).expect("the console listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: console\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the console reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the console answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.starts_with("HTTP/1.1 200"), body.to_owned())
}

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The commands of README's section about this, as they stand there but for the port.
fn readme_commands(at: SocketAddr) {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("README.md is there");
    let section = readme.split("\n## Watch it\n").nth(1).expect("the section is there");
    let block = section.split("```sh\n").nth(1).expect("it has commands");
    let block = block.split("```").next().expect("they end");
    let mut count = 0;
    for line in block.lines() {
        let line = line.replace("localhost:8080", &at.to_string()).replace("curl -s", "curl -sf");
        let said = Command::new("sh").args(["-c", &line]).output().expect("a shell");
        assert!(said.status.success() && !said.stdout.is_empty(), "{line}");
        count += 1;
    }
    assert_eq!(count, 4);
}

/// Name, type, help, and the samples: name, labels and value.
type Family = (String, String, String, Vec<(String, Value, f64)>);

#[test]
fn lag_and_readiness_follow_a_real_broker() {
    let mut broker = Broker::start();
    broker.create_topic(TOPIC, 3);
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("everpair.toml");
    let text = format!(
        "[source]\nbrokers = \"{}\"\ntopics = [\"{TOPIC}\"]\n[tables]\nroot = \"tables\"\n\
         [epoch]\nlinger = \"200 ms\"\n[service]\nlisten = \"127.0.0.1:0\"\n",
        broker.address()
    );
    fs::write(&config, text).expect("a config");
    let log = folder.path().join("log");
    let program = env!("CARGO_BIN_EXE_everpair");
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(&log).expect("a log"));
    let _service = Running(command.spawn().expect("the service starts"));
    let at: SocketAddr = wait_until("the address of the console", || {
        let said = fs::read_to_string(&log).expect("a log");
        said.lines().find_map(|line| line.split("console: http://").nth(1)?.trim().parse().ok())
    });
    wait_until("an empty topic is caught up with", || get(at, "/readyz").0.then_some(()));

    // Text is no image: it is read, turned away, and committed all the same.
    let records: Vec<String> = (0..300).map(|index| format!("key-{index}")).collect();
    let records: Vec<(&str, &str)> = records.iter().map(|key| (key.as_str(), "text")).collect();
    broker.produce(TOPIC, &records);
    let status = wait_until("all is committed", || {
        let status: Value = serde_json::from_str(&get(at, "/status").1).expect("JSON");
        let done =
            status["rejects"]["unknown_format"] == 300 && status["live"]["lag_messages"] == 0;
        (done && status["live"]["ready"] == true).then_some(status)
    });
    for (partition, next) in broker.next_offsets(TOPIC) {
        let shown = &status["live"]["partitions"][partition as usize];
        assert_eq!((&shown["partition"], &shown["topic"]), (&partition.into(), &TOPIC.into()));
        assert_eq!((&shown["end"], &shown["committed"]), (&next.into(), &next.into()));
    }

    let (_, scrape) = get(at, "/metrics");
    let mut python = Command::new(peer("EVERPAIR_PYTHON"));
    python.args(["-c", PARSE]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut parser = python.spawn().expect("Python starts");
    let mut stdin = parser.stdin.take().expect("stdin is piped");
    stdin.write_all(scrape.as_bytes()).expect("it reads");
    drop(stdin);
    let parsed = parser.wait_with_output().expect("it ends");
    assert!(parsed.status.success(), "{scrape}");
    let families: Vec<Family> = serde_json::from_slice(&parsed.stdout).expect("families");
    assert_eq!(families.len(), names::ALL.len());
    for (metric, (name, kind, help, samples)) in names::ALL.iter().zip(&families) {
        let expected = match metric.kind {
            Kind::Counter => metric.name.trim_end_matches("_total"),
            _ => metric.name,
        };
        assert_eq!((name.as_str(), kind.as_str()), (expected, metric.kind.as_str()));
        assert_eq!(help, metric.help);
        for (sample, labels, _) in samples {
            let held: Vec<&str> =
                labels.as_object().expect("labels").keys().map(String::as_str).collect();
            for label in metric.labels {
                assert!(held.contains(label), "{sample} without {label}");
            }
        }
    }
    let read = &families.iter().find(|f| f.0 == "everpair_messages_read").expect("it is there").3;
    assert_eq!(read.iter().map(|sample| sample.2).sum::<f64>(), 300.0);
    assert!(read.iter().all(|sample| sample.1["topic"] == TOPIC));

    readme_commands(at);

    // A broker that is away for a while: not ready, alive, and ready again.
    broker.crash_for(|| {
        let page = wait_until("it says that no broker answers", || {
            let (ready, page) = get(at, "/readyz");
            (!ready).then_some(page)
        });
        assert!(page.contains("the source does not answer"), "{page}");
        assert!(get(at, "/healthz").0);
    });
    wait_until("the broker is back", || get(at, "/readyz").0.then_some(()));
}
