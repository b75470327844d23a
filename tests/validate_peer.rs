//! `everpair validate` against a real broker: what a mistake in a config looks like from there.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use everpair::scenes;
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::peers::kafka::Broker;

const PATIENCE: Duration = Duration::from_secs(60);

struct Validated {
    code: Option<i32>,
    out: String,
    err: String,
    took: Duration,
}

fn validate(folder: &tempfile::TempDir, source: &str, timeout: &str) -> Validated {
    let config: PathBuf = folder.path().join("everpair.toml");
    fs::write(&config, format!("[source]\n{source}[tables]\nroot = \"tables\"\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.args(["validate", "--timeout", timeout, "--config"]).arg(&config);
    let began = Instant::now();
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "nothing but the config: {names:?}");
    Validated {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
        took: began.elapsed(),
    }
}

fn failed(said: &Validated, words: &[&str]) {
    assert_eq!(said.code, Some(1), "{}\n{}", said.out, said.err);
    for words in words {
        assert!(said.err.contains(words), "no {words:?} in:\n{}", said.err);
    }
    assert!(said.took < PATIENCE, "{:?}", said.took);
    // The other parts are told all the same.
    assert!(said.out.contains("encoder caption: ok") && said.out.contains("tables: ok"));
}

#[test]
fn mistakes_in_a_source_are_told_within_the_time_given() {
    let broker = Broker::start();
    broker.create_topic("images", 3);
    let address = broker.address();
    let scene = scenes::scene(0, 1);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &address)
        .set("transactional.id", "validate")
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    let record = BaseRecord::to("images").key("a").payload(&scene.jpeg_or_png);
    producer.send(record.partition(1)).unwrap();
    producer.commit_transaction(PATIENCE).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let source =
        |brokers: &str, topic: &str| format!("brokers = {brokers:?}\ntopics = [{topic:?}]\n");
    // A record, and the marker of its transaction, which a busy broker writes a moment later.
    let (began, mut said) = (Instant::now(), validate(&folder, &source(&address, "images"), "20s"));
    while !said.out.contains("3 partitions, offsets add up to 2") {
        assert!(began.elapsed() < PATIENCE, "{}\n{}", said.out, said.err);
        said = validate(&folder, &source(&address, "images"), "20s");
    }
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    assert!(said.out.contains("read images partition 1 offset 0: image \"a\""), "{}", said.out);

    let said = validate(&folder, &source(&address, "imagse"), "20s");
    failed(&said, &["there is no topic imagse", "create it, or correct [source] topics"]);

    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let said = validate(&folder, &source(&closed, "images"), "2s");
    failed(&said, &[&format!("no broker of {closed} answers within 2 s"), "refused"]);

    // A listener without SASL, asked with it.
    let sasl = "[source.settings]\n\"security.protocol\" = \"SASL_PLAINTEXT\"\n\
                \"sasl.mechanisms\" = \"PLAIN\"\n\"sasl.username\" = \"u\"\n\
                \"sasl.password\" = \"hush-hush\"\n";
    let said = validate(&folder, &format!("{}{sasl}", source(&address, "images")), "4s");
    failed(&said, &["answers within 4 s", "sasl.*"]);
    assert!(!said.out.contains("hush") && !said.err.contains("hush"));
}
