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

use crate::peers::{
    kafka::Broker,
    s3::{BUCKET, S3, settings, sign},
};

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

/// Runs a command on a config whose source is one message in a file log.
fn on_s3(folder: &tempfile::TempDir, root: &str, s3: &S3, arguments: &[&str]) -> Validated {
    let log = folder.path().join("log");
    if !log.exists() {
        fs::create_dir(&log).unwrap();
        fs::write(log.join("part-00000.jsonl"), "{\"key\": \"a\", \"value\": null}\n").unwrap();
    }
    let config = folder.path().join("everpair.toml");
    let settings = settings(s3.address());
    let text =
        format!("[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = {root:?}\n{settings}");
    fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    let began = Instant::now();
    let output = sign(command.args(arguments).arg("--config").arg(&config)).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    Validated { code: output.status.code(), out, err, took: began.elapsed() }
}

#[test]
fn a_prefix_is_tried_out_and_left_as_it_was() {
    let (s3, folder) = (S3::start(), tempfile::tempdir().unwrap());
    let listing = || s3.request("GET", &format!("/{BUCKET}?list-type=2"));
    let root = s3.root("deep/tables");
    let said = on_s3(&folder, &root, &s3, &["validate"]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    assert!(said.out.contains("of two writers at once one wins"), "{}", said.out);
    assert!(!listing().contains("<Key>"), "no probe stays: {}", listing());

    // A stranger's file under the prefix; one beside it is nobody's business.
    s3.request("PUT", &format!("/{BUCKET}/deep/tables-of-others/a.jpg"));
    assert_eq!(on_s3(&folder, &root, &s3, &["validate"]).code, Some(0));
    s3.request("PUT", &format!("/{BUCKET}/deep/tables/photos/a.jpg"));
    let words = "holds \"photos/a.jpg\" and no tables of Everpair";
    for command in [&["validate"][..], &["run", "--until-caught-up"]] {
        let said = on_s3(&folder, &root, &s3, command);
        assert_eq!(said.code, Some(1), "{}", said.out);
        assert!(said.err.contains(words), "{}", said.err);
    }
    assert_eq!(listing().matches("<Key>").count(), 2, "nothing was written: {}", listing());

    let said = on_s3(&folder, "s3://no-such-bucket/tables", &s3, &["validate"]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("Does the bucket exist"), "{}", said.err);
    assert!(said.out.contains("encoder caption: ok"), "{}", said.out);
}
