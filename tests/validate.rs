//! `everpair validate`: every part is told, all of them even where one fails, and nothing stays.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use everpair::{cli::read_config, scenes, source::kafka::TopicWriter, validate};
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use serde_json::Value;

use crate::service::place::{Message, Place, Said};

const LINGER: &str = "[epoch]\nlinger = \"50 ms\"\n";

fn loaded(count: usize) -> Place {
    let place = Place::new();
    place.configure("tables", LINGER);
    place.log().send(scenes::scenes(count, 3).map(Message::from));
    place.catch_up("tables");
    place
}

/// Everything below a folder: names, sizes, folders too.
fn everything(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let about = entry.metadata().expect("an entry can be looked at");
        if about.is_dir() {
            found.insert(entry.path(), 0);
            found.extend(everything(&entry.path()));
        } else {
            found.insert(entry.path(), about.len());
        }
    }
    found
}

fn validated(place: &Place, name: &str, code: i32) -> Said {
    let before = everything(&place.path(""));
    let said = place.everpair(name, &["validate", "--timeout", "5s"]).ended(code);
    assert_eq!(everything(&place.path("")), before, "nothing is left behind, nothing is made");
    said
}

fn tells(said: &Said, words: &str) {
    assert!(said.out.contains(words), "no {words:?} in:\n{}", said.out);
}

#[test]
fn what_is_ready_is_told_part_by_part() {
    let place = Place::new();
    place.configure("tables", LINGER);
    place.log().send(scenes::scenes(60, 3).map(Message::from));
    let said = validated(&place, "tables", 0);
    for words in [
        "config: ok, ",
        "config: note, builtin:layout, builtin:edges, builtin:words are for trying out",
        "tables: ok, ",
        "will be created",
        "disk: ok, ",
        "source: ok, 3 partitions, offsets add up to 60",
        "source: ok, read files partition 0 offset 0: image \"scene-",
        "encoder semantic: ok, builtin:layout@",
        "encoder pattern: ok, builtin:edges@",
        "encoder caption: ok, builtin:words@",
        "annotator: note, \"template\"",
        "memory: ok, ",
    ] {
        tells(&said, words);
    }
    assert!(!place.path("tables").exists(), "the folder of the tables is the run's to make");

    place.catch_up("tables");
    let said = validated(&place, "tables", 0);
    tells(&said, "is there, the run would go on after it");
    tells(&said, "a name is created once only, and of two writers at once one wins");
    tells(&said, "offsets: ok, the tables are 0 messages behind the end");
    tells(&said, "offsets: ok, 3 partitions have the records that the tables were made from");
    place.log().send([Message::tombstone("scene-00001")]);
    tells(&validated(&place, "tables", 0), "offsets: ok, the tables are 1 messages behind");

    let said = place.everpair("tables", &["validate", "--json"]).ended(0);
    let report: Value = serde_json::from_str(&said.out).expect("JSON on stdout");
    assert_eq!(report["ok"], true);
    let checks = report["checks"].as_array().expect("checks");
    assert!(checks.iter().all(|c| c["outcome"] == "ok" || c["outcome"] == "note"), "{report}");
    for bad in ["soon", "0 s"] {
        let said = place.everpair("tables", &["validate", "--timeout", bad]).ended(2);
        said.says("a time is a number from 0 and ms, s, min or h").says("and not 0");
    }
}

#[test]
fn all_parts_are_told_even_where_some_fail() {
    let place = Place::new();
    fs::write(place.path("a-file"), b"").expect("a file");
    let given = "[channels.pattern]\nencoder = \"given\"\ndim = 8\nband = [0.5, 0.501]\n";
    fs::write(
        place.path("bad.toml"),
        format!(
            "[source]\nfiles = [\"none/*.jsonl\"]\n[tables]\nroot = \"a-file/tables\"\n{given}"
        ),
    )
    .expect("a config");
    let said = validated(&place, "bad", 1)
        .says("2 of ")
        .says("a-file is a file, not a folder")
        .says("no partition");
    tells(&said, "tables: FAILED, ");
    tells(&said, "source: FAILED, ");
    tells(
        &said,
        "encoder pattern: ok, vectors come with the messages: 8 numbers in vectors.pattern",
    );
    tells(&said, "config: note, [channels.pattern] band = [0.5, 0.501] is very narrow");
    tells(&said, "encoder caption: ok");
    let said = place.everpair("bad", &["validate", "--json"]).ended(1);
    let report: Value = serde_json::from_str(&said.out).expect("JSON even so");
    assert_eq!(report["ok"], false);
}

#[test]
fn a_root_with_a_stranger_s_files_is_refused_here_and_by_run() {
    let place = Place::new();
    place.configure("photos", LINGER);
    place.log().send(scenes::scenes(3, 3).map(Message::from));
    fs::create_dir(place.path("photos")).expect("a folder");
    fs::write(place.path("photos/holiday.jpg"), b"x").expect("a file");
    let words = "holds \"holiday.jpg\" and no tables of Everpair";
    validated(&place, "photos", 1).says(words).says("photos/tables");
    place.everpair("photos", &["run", "--until-caught-up"]).ended(1).says(words);
    assert_eq!(everything(&place.path("photos")).len(), 1, "the stranger's file alone");

    // What a new volume or a desktop leaves is nobody's.
    fs::remove_file(place.path("photos/holiday.jpg")).expect("it goes");
    fs::write(place.path("photos/.DS_Store"), b"x").expect("a file");
    fs::create_dir(place.path("photos/lost+found")).expect("a folder");
    validated(&place, "photos", 0);
    place.catch_up("photos");
    validated(&place, "photos", 0);
}

#[test]
fn another_log_under_the_same_tables_is_noticed() {
    let place = loaded(60);
    let lines = |name: &str| fs::read_to_string(place.path(name)).expect("a log");
    let logs: Vec<PathBuf> =
        everything(&place.path("log")).into_keys().filter(|p| p.is_file()).collect();
    assert_eq!(logs.len(), 3);
    let held: Vec<String> = logs.iter().map(|path| lines(path.to_str().expect("a path"))).collect();

    // Shorter: the tables are past its end.
    let short: String = held[0].lines().take(2).map(|line| format!("{line}\n")).collect();
    fs::write(&logs[0], short).expect("a log");
    validated(&place, "tables", 1).says("past its end at 2").says("root of its own");

    // As long, and of other images: the offsets fit and the records do not.
    fs::write(&logs[0], held[0].replace("scene-", "other-")).expect("a log");
    let said = validated(&place, "tables", 1).says("is image \"other-").says("have read image");
    tells(&said, "offsets: ok, 2 partitions have the records");

    // A partition that is gone.
    fs::remove_file(&logs[0]).expect("it goes");
    validated(&place, "tables", 1).says("partition 0 is gone");
    fs::write(&logs[0], &held[0]).expect("a log");
    validated(&place, "tables", 0);

    // Another config than that of the tables.
    place.configure("tables", &format!("{LINGER}[pairs]\ntargets_per_query = 2\n"));
    validated(&place, "tables", 1).says("targets_per_query: 3 -> 2");
}

#[test]
fn a_root_that_cannot_be_written_is_said() {
    let place = Place::new();
    place.log().send(scenes::scenes(3, 3).map(Message::from));
    fs::write(
        place.path("closed.toml"),
        "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"/proc/nobody/tables\"\n",
    )
    .expect("a config");
    validated(&place, "closed", 1).says("cannot be created: /proc is not ours");
}

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(topics: &[(&str, i32)]) -> (Cluster, String) {
    let cluster = MockCluster::new(1).expect("a broker for tests");
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, 1).expect("a topic");
    }
    let brokers = cluster.bootstrap_servers();
    (cluster, brokers)
}

fn configure(place: &Place, name: &str, brokers: &str, topics: &str, rest: &str) {
    let text = format!(
        "[source]\nbrokers = \"{brokers}\"\ntopics = [{topics}]\n{rest}[tables]\nroot = {name:?}\n\
         {LINGER}"
    );
    fs::write(place.path(&format!("{name}.toml")), text).expect("a config");
}

fn send(brokers: &str, topic: &str, count: usize) {
    let mut writer = TopicWriter::open(brokers, topic, &BTreeMap::new()).expect("a writer");
    for (at, scene) in scenes::scenes(count, 9).enumerate() {
        let value = Some(&scene.jpeg_or_png[..]);
        writer.append(at, &scene.id, value, &[], 0).expect("a message");
    }
    writer.flush().expect("all are sent");
}

#[test]
fn topics_are_looked_at_one_by_one() {
    let (_cluster, brokers) = cluster(&[("images", 4), ("empty", 1)]);
    send(&brokers, "images", 40);
    let place = Place::new();
    configure(&place, "tables", &brokers, "\"images\", \"empty\"", "");
    let said = validated(&place, "tables", 0);
    tells(&said, "source: ok, 4 partitions, offsets add up to 40: topic images at ");
    tells(&said, "source: ok, 1 partitions, offsets add up to 0: topic empty at ");
    tells(&said, "source: ok, read images partition 0 offset 0: image \"scene-");
    tells(&said, "source: note, empty is empty");

    configure(&place, "missing", &brokers, "\"imagse\", \"images\"", "");
    let said = validated(&place, "missing", 1).says("there is no topic imagse").says("create it");
    tells(&said, "topic images at ");

    // The tables follow the topic; then another cluster stands in its place.
    place.catch_up("tables");
    let said = validated(&place, "tables", 0);
    tells(&said, "offsets: ok, the tables are 0 messages behind the end");
    tells(&said, "offsets: ok, 4 partitions have the records that the tables were made from");
    let (_other, others) = cluster(&[("images", 4), ("empty", 1), ("photos", 1)]);
    send(&others, "images", 8);
    configure(&place, "tables", &others, "\"images\", \"empty\"", "");
    validated(&place, "tables", 1).says("past its end at");
    configure(&place, "tables", &others, "\"photos\"", "");
    validated(&place, "tables", 1).says("the tables were made from").says("images");
}

#[test]
fn a_broker_that_is_not_there_costs_the_timeout_and_is_told_with_the_reason() {
    let place = Place::new();
    // A port that was free a moment ago.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address").port()
    };
    configure(&place, "tables", &format!("127.0.0.1:{port}"), "\"images\"", "");
    let began = Instant::now();
    let said = place.everpair("tables", &["validate", "--timeout", "1 s"]).ended(1);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let said = said.says(&format!("no broker of 127.0.0.1:{port} answers within 1 s"));
    let said = said.says("refused").says("security.protocol");
    tells(&said, "encoder caption: ok");
    tells(&said, "annotator: ");
}

#[test]
fn settings_that_cannot_work_are_told_and_no_secret_is() {
    let place = Place::new();
    let settings =
        |more: &str| format!("[source.settings]\n\"sasl.password\" = \"hush-hush\"\n{more}");
    let of = |more: &str| {
        configure(&place, "tables", "127.0.0.1:1", "\"images\"", &settings(more));
        let said = place.everpair("tables", &["validate", "--timeout", "500 ms"]).ended(1);
        assert!(!said.out.contains("hush") && !said.err.contains("hush"), "{}", said.err);
        said
    };
    of("\"no.such.setting\" = \"x hush-hush\"\n").says("no.such.setting");
    of("\"isolation.level\" = \"read_uncommitted\"\n").says("isolation.level");
    let tls = "\"security.protocol\" = \"SASL_SSL\"\n";
    if cfg!(feature = "kafka-tls") {
        of(tls);
    } else {
        of(tls).says("--features kafka-tls");
        let scram = "\"security.protocol\" = \"SASL_PLAINTEXT\"\n\
                     \"sasl.mechanisms\" = \"SCRAM-SHA-256\"\n\"sasl.username\" = \"u\"\n";
        of(scram).says("SCRAM");
    }
    let plain = "\"security.protocol\" = \"SASL_PLAINTEXT\"\n\
                 \"sasl.mechanisms\" = \"PLAIN\"\n\"sasl.username\" = \"u\"\n";
    of(plain).says("127.0.0.1:1");
}

#[test]
fn an_object_store_that_does_not_answer_costs_the_timeout() {
    let place = Place::new();
    place.log().send(scenes::scenes(3, 3).map(Message::from));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    fs::write(
        place.path("far.toml"),
        format!(
            "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"s3://bucket/tables\"\n\
             [tables.settings]\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"x\"\n\
             skip_signature = \"true\"\n"
        ),
    )
    .expect("a config");
    // It listens and never answers.
    let config = read_config(&place.path("far.toml")).expect("a config");
    let began = Instant::now();
    let checks = validate::checks(&config, Duration::from_millis(700));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let tables: Vec<_> = checks.iter().filter(|check| check.part == "tables").collect();
    assert_eq!(tables.len(), 1, "{checks:?}");
    assert!(tables[0].text.contains("does not answer within 0.7 s"), "{:?}", tables[0]);
    assert!(checks.iter().any(|check| check.part == "source"), "the other parts are told");
    drop(listener);
}

/// A record that is a reference is fetched as a run would do it.
#[test]
fn an_address_is_tried_by_the_rules_of_fetch() {
    let server = crate::service::fetching::pictures(std::sync::Arc::new(usize::MAX.into()));
    let allowed = crate::service::fetching::ALLOWED;
    for (fetch, uri, words) in [
        (allowed, server.url("scene-00000"), "bytes fetched from http://127.0.0.1"),
        (allowed, server.url("absent"), "it would be a reject (fetch_failed): http://127.0.0.1"),
        (allowed, "http://example.org/a".into(), "it would be a reject (uri_not_allowed): "),
        ("", server.url("scene-00000"), "it would be a reject (uri_not_allowed): "),
    ] {
        let place = Place::new();
        place.configure("tables", &format!("{LINGER}{fetch}"));
        let value = Some(serde_json::json!({ "uri": uri }).to_string().into_bytes());
        place.log().send([Message { key: "a".into(), value, headers: Vec::new() }]);
        tells(&validated(&place, "tables", 0), words);
    }
}

#[test]
fn the_log_and_the_tables_need_a_folder_each() {
    let place = Place::new();
    place.configure("log", LINGER);
    place.log().send(scenes::scenes(3, 3).map(Message::from));
    for command in ["validate", "run"] {
        let said = place.everpair("log", &[command]).ended(2);
        said.says("[tables] root is the folder of [source] files").says("a folder each");
    }
}
