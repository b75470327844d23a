//! Real images through a real Kafka into tables that a real reader reads: from the first load over
//! replacements, take-downs, messages that are no images and a topic that forgets, to `kill -9`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use everpair::{scenes, source::kafka::TopicWriter};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use schemas::tables::Table;
use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{
    peer,
    pipeline::{PARTITIONS, PATIENCE, Pipeline, Running, Sent, TOPIC, finish},
    readers::{self, Ask, PYTHON_READERS},
};

const SEED: u64 = 11;

/// Writes images to push: under the names of others, with captions.
fn write_images<'a>(images: impl IntoIterator<Item = (&'a String, Vec<u8>, String)>) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (id, bytes, caption) in images {
        let path = folder.path().join(id);
        fs::create_dir_all(path.parent().expect("it has one")).expect("the folder is writable");
        fs::write(&path, bytes).expect("the folder is writable");
        fs::write(path.with_extension("txt"), caption).expect("the folder is writable");
    }
    folder
}

/// Messages that are no images, under keys of their own, under the key of a live image, and without
/// a usable key.
fn send_bad(at: &mut Pipeline, live: &str) {
    let mut cut = scenes::scene(0, SEED).jpeg_or_png;
    cut.truncate(cut.len() / 2);
    let brokers = at.broker.address();
    let mut writer = TopicWriter::open(&brokers, TOPIC, &BTreeMap::new()).expect("a writer");
    let bad: [(&str, &[u8], &str); 4] = [
        ("bad/empty", b"", "empty_value"),
        ("bad/cut", &cut, "corrupt"),
        ("bad/envelope", b"{\"image\": 3}", "bad_envelope"),
        (live, b"GIF is what this is not", "unknown_format"),
    ];
    for (tag, (key, value, reason)) in bad.into_iter().enumerate() {
        writer.append(tag, key, Some(value), &[], 1_700_000_000_000).expect("it is taken");
        at.sent.insert(key.to_owned(), Sent::Bad(reason));
    }
    writer.flush().expect("they are sent");
    assert!(writer.fates().iter().all(|(_, fate)| fate.is_ok()));

    at.broker.produce(TOPIC, &[("bad/text", "just words")]);
    at.sent.insert("bad/text".to_owned(), Sent::Bad("unknown_format"));

    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a producer");
    let record = BaseRecord::<[u8], [u8]>::to(TOPIC).payload(&cut);
    producer.send(record).expect("it is taken");
    let record = BaseRecord::<[u8], [u8]>::to(TOPIC).payload(&cut).key(b"\xff");
    producer.send(record).expect("it is taken");
    producer.flush(PATIENCE).expect("they are sent");
    // As Kafka's consumer shows these keys.
    at.sent.insert("null".to_owned(), Sent::Bad("missing_id"));
    at.sent.insert("\u{fffd}".to_owned(), Sent::Bad("id_not_utf8"));
}

/// Other bytes, other captions, both, or neither, under the keys of live images. Some of the bytes
/// are new, some are those of images that stay.
fn replace(at: &mut Pipeline, ids: &[String]) {
    let images = PathBuf::from(peer("EVERPAIR_IMAGES"));
    let read = |id: &String| fs::read(images.join(id)).expect("it was sent from there");
    let change = |(index, id): (usize, &'_ String)| {
        let caption = format!("another view of number {index}, on a red table");
        let same = || fs::read_to_string(images.join(id).with_extension("txt")).unwrap_or_default();
        match index % 8 {
            0..3 => (scenes::replacement(index, 0, SEED).jpeg_or_png, caption),
            // Those keep their bytes, so this is a duplicate.
            3 | 4 => (read(ids.get(index + 3).unwrap_or(id)), caption),
            5 => (scenes::replacement(index, 0, SEED).jpeg_or_png, same()),
            6 => (read(id), caption),
            _ => (read(id), same()),
        }
    };
    let entries = ids.iter().enumerate().map(|entry| {
        let (bytes, caption) = change(entry);
        (entry.1, bytes, caption)
    });
    let folder = write_images(entries);
    let config = at.path("everpair.toml").display().to_string();
    assert_eq!(at.push(folder.path(), &["--config", &config]), ids.len());
}

/// These tables, all of their columns, cell by cell.
fn every_reader_agrees(at: &Pipeline, tables: &[Table], spark: bool) {
    let (root, server) = at.tables();
    let columns: Vec<Vec<String>> = tables
        .iter()
        .map(|table| table.schema().fields().iter().map(|f| f.name().clone()).collect())
        .collect();
    let columns: Vec<Vec<&str>> =
        columns.iter().map(|all| all.iter().map(String::as_str).collect()).collect();
    let paths: Vec<PathBuf> =
        tables.iter().map(|table| PathBuf::from(format!("{root}/{}", table.as_str()))).collect();
    let asks: Vec<Ask> = paths
        .iter()
        .zip(&columns)
        .map(|(table, columns)| Ask { table, version: None, columns })
        .collect();
    let mut by_spark = if spark { readers::spark_rows_at(server, &asks) } else { Vec::new() };
    for (ask, table) in asks.iter().zip(tables).rev() {
        let read = |reader| (reader, readers::rows_at(server, reader, ask));
        let mut all = PYTHON_READERS.map(read).to_vec();
        all.extend(by_spark.pop().map(|rows| ("spark", rows)));
        let (_, one) = &all[0];
        // Nobody blocked anything here.
        assert!(one.len() > 50 || *table == Table::Blocked, "{} has rows", table.as_str());
        for (reader, rows) in &all[1..] {
            let differs = one.iter().zip(rows).find(|(one, other)| one != other);
            let same = differs.is_none() && one.len() == rows.len();
            assert!(same, "{reader} of {}: {differs:#?}", table.as_str());
        }
    }
}

/// Exports, read as bare Parquet, hold the rows that the tables hold.
fn exports_agree(at: &Pipeline) {
    let to = |form: &str| at.path("exported").join(form).display().to_string();
    for form in ["parquet", "hf"] {
        at.everpair(&["export", "--format", form, "--to", &to(form)]);
    }
    let names = |table: Table| -> Vec<String> {
        // `offset` is a word of SQL.
        table.schema().fields().iter().map(|field| format!("\"{}\"", field.name())).collect()
    };
    // Nobody blocked anything here.
    let filled = Table::ALL.into_iter().filter(|table| *table != Table::Blocked);
    let mut compared: Vec<(String, Table)> = filled
        .map(|table| (format!("{}/{}/*.parquet", to("parquet"), table.as_str()), table))
        .collect();
    compared.push((format!("{}/data/*.parquet", to("hf")), Table::Triplets));
    for (files, table) in compared {
        let name = table.as_str();
        let columns = names(table).join(", ");
        let [one, two] = [name.to_owned(), format!("read_parquet('{files}')")]
            .map(|from| format!("(SELECT {columns} FROM {from})"));
        let answer = &at.sql(&format!(
            "SELECT (SELECT count(*) FROM {two}), (SELECT count(*) FROM ({one} EXCEPT ALL {two})), \
             (SELECT count(*) FROM ({two} EXCEPT ALL {one}))"
        ))[0];
        assert!(answer[0].as_u64() > Some(20), "{files}: {answer}");
        assert_eq!((&answer[1], &answer[2]), (&0.into(), &0.into()), "{files}");
    }
}

/// Tables that no other test shows to all readers.
const UNSEEN: [Table; 5] =
    [Table::Contents, Table::Annotations, Table::Triplets, Table::Changes, Table::Rejects];

#[test]
fn real_images_become_tables_that_follow_the_topic_and_outlive_it() {
    println!("seed {SEED}");
    let mut at = Pipeline::begin("[epoch]\nrows = 150\nlinger = \"200 ms\"\n");
    let said = at.everpair(&["validate"]);
    assert!(said.contains("config: ok") && said.contains("tables: ok"), "{said}");
    assert!(said.contains(&format!("source: ok, {PARTITIONS} partitions")), "{said}");
    at.run();
    at.find_places();
    at.check();

    // Those that pairs name most are the hardest to get rid of.
    let down = at.ids("SELECT target_id FROM pairs GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 20");
    let rest = at.ids("SELECT image_id FROM images ORDER BY 1");
    let rest: Vec<String> = rest.into_iter().filter(|id| !down.contains(id)).collect();
    let replaced: Vec<String> = rest.iter().step_by(17).cloned().collect();
    let broken = rest[1].clone();
    assert!(at.rows_naming(&down) > 200, "the check below can fail");
    assert!(at.rows_naming(std::slice::from_ref(&broken)) > 0, "the check below can fail");
    assert!(replaced.len() > 30 && !replaced.contains(&broken));
    replace(&mut at, &replaced);
    let mut takedown = vec!["takedown"];
    takedown.extend(down.iter().map(String::as_str));
    at.everpair(&takedown);
    at.sent.extend(down.iter().map(|id| (id.clone(), Sent::Down)));
    send_bad(&mut at, &broken);
    at.find_places();
    at.truncate_to_committed();
    at.run();
    at.check();
    assert_eq!(at.rows_naming(&down), 0, "{down:?}");
    assert_eq!(at.rows_naming(&[broken]), 0);
    let duplicates = at.sql("SELECT count(*) - count(DISTINCT content_id) FROM images");
    assert!(duplicates[0][0].as_u64() > Some(5), "{duplicates:?}");
    let gone = at.sql("SELECT count(*) FROM changes WHERE op = 'delete' AND reason = 'image'");
    assert!(gone[0][0].as_u64() > Some(50), "{gone:?}");

    every_reader_agrees(&at, &UNSEEN, false);

    // Nothing is left in the topic, and nothing changes.
    at.truncate_to_committed();
    let before = at.status();
    at.run();
    at.check();
    let after = at.status();
    assert_eq!(before["epoch"], after["epoch"], "an epoch without a message leaves no trace");
    for table in Table::ALL.map(Table::as_str) {
        assert_eq!(before["tables"][table]["rows"], after["tables"][table]["rows"], "{table}");
    }

    // The next message is taken in as if nothing had been.
    replace(&mut at, &rest[2..3]);
    at.find_places();
    at.run();
    at.check();
    assert!(at.status()["epoch"].as_u64() > after["epoch"].as_u64());

    // A message that was deleted unread is not passed over in silence.
    replace(&mut at, &rest[3..4]);
    let next = at.broker.next_offsets(TOPIC);
    let to: Vec<_> = next.iter().map(|(p, next)| (TOPIC, *p, *next)).collect();
    at.broker.truncate(&to);
    let (code, out, err) = finish(&mut at.command(&["run", "--until-caught-up"]));
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains(TOPIC) && err.contains("on_offset_gone"), "{err}");
    at.everpair(&["verify"]);
}

/// The epoch that a table's newest commit belongs to, as others would read it from its log.
fn epoch_of(table: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(table.join("_delta_log")) else { return 0 };
    let mut commits: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    commits.sort();
    let epoch = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("commits stay");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let txn = lines.map(|line| line["txn"].clone());
        txn.filter(|txn| txn["appId"] == "everpair/epoch").find_map(|txn| txn["version"].as_u64())
    };
    commits.iter().rev().find_map(epoch).unwrap_or(0)
}

/// Starts the service and kills it once `table` has an epoch that `images` has not; gives whether
/// it stayed so. At least one epoch is committed before.
fn kill_after(at: &Pipeline, table: &str) -> bool {
    let [images, table] = ["images", table].map(|name| at.path("tables").join(name));
    let begin = epoch_of(&images);
    let mut command = at.command(&["run"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut service = Running(command.spawn().expect("the service starts"));
    let begun = Instant::now();
    while epoch_of(&table) < begin + 2 || epoch_of(&table) <= epoch_of(&images) {
        assert!(begun.elapsed() < PATIENCE, "no epoch of {} seen", table.display());
        assert_eq!(service.0.try_wait().expect("it can be waited for"), None, "it runs on");
    }
    service.0.kill().expect("it runs");
    service.0.wait().expect("it ends");
    epoch_of(&table) > epoch_of(&images)
}

#[test]
fn a_service_that_was_killed_ends_with_the_tables_of_one_that_was_not() {
    // Rows of `triplets` that depend on `pairs` alone, and not on what earlier epochs asked for.
    let rules = "[triplets]\nkeep = \"mined\"\n[epoch]\nlinger = \"200 ms\"\n";
    let mut at = Pipeline::begin(&format!("{rules}rows = 20\n"));
    let mut halves = BTreeSet::new();
    for table in ["pairs", "contents", "triplets", "changes", "embeddings"] {
        // The epoch may be whole by the time that the signal arrives.
        for _ in 0..3 {
            let half = kill_after(&at, table);
            // Others may look at the tables meanwhile.
            at.everpair(&["verify"]);
            let (committed, next) = (at.committed(), at.broker.next_offsets(TOPIC));
            let [committed, next] = [committed, next].map(|all| all.values().sum::<i64>());
            println!("killed after {table} at {committed} of {next} messages; half: {half}");
            assert!(committed < next, "there is work left");
            if half {
                halves.insert(table);
                break;
            }
        }
    }
    assert!(halves.len() >= 3, "kills hit epochs: {halves:?}");
    at.run();
    at.find_places();
    at.check();

    at.configure("everpair.toml", "other", &format!("{rules}rows = 150\n"));
    at.run();
    let other = at.path("other");
    // What was asked, and so which answers were turned away, depends on where epochs end.
    for table in ["images", "pairs", "triplets", "rejects WHERE request_id IS NULL"] {
        let (name, only) = table.split_once(' ').unwrap_or((table, ""));
        let path = other.join(name).display().to_string();
        let [one, two] = [name.to_owned(), format!("delta_scan('{path}')")]
            .map(|from| format!("(SELECT * EXCLUDE (epoch) FROM {from} {only})"));
        let query = format!(
            "SELECT (SELECT count(*) FROM {two}), (SELECT count(*) FROM ({one} EXCEPT ALL {two})), \
             (SELECT count(*) FROM ({two} EXCEPT ALL {one}))"
        );
        let answer = &at.sql(&query)[0];
        assert!(answer[0].as_u64() > Some(20), "{name} has rows to compare");
        assert_eq!((&answer[1], &answer[2]), (&0.into(), &0.into()), "{name}");
    }
}

#[test]
fn a_topic_becomes_tables_in_s3_that_every_reader_agrees_about() {
    println!("seed {SEED}");
    let rules = "[triplets]\nkeep = \"mined\"\n[epoch]\nrows = 20\nlinger = \"200 ms\"\n";
    let mut at = Pipeline::begin_in_s3(rules);
    at.everpair(&["validate"]);
    // Killed at places that nobody chose, a few epochs apart.
    let epoch = |at: &Pipeline| at.status()["epoch"].as_u64().unwrap_or(0);
    for kill in 0..3 {
        let (begin, begun) = (epoch(&at), Instant::now());
        let mut command = at.command(&["run"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut service = Running(command.spawn().expect("the service starts"));
        while epoch(&at) < begin + 2 {
            assert!(begun.elapsed() < PATIENCE, "no epoch after {begin}");
            assert_eq!(service.0.try_wait().expect("it can be waited for"), None, "it runs on");
        }
        service.0.kill().expect("it runs");
        service.0.wait().expect("it ends");
        at.everpair(&["verify"]);
        println!("kill {kill} after epoch {}", epoch(&at));
    }
    let (committed, next) = (at.committed(), at.broker.next_offsets(TOPIC));
    assert!(committed.values().sum::<i64>() < next.values().sum::<i64>(), "there is work left");
    at.run();
    at.find_places();
    at.check();

    let down = at.ids("SELECT target_id FROM pairs GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 20");
    let rest = at.ids("SELECT image_id FROM images ORDER BY 1");
    let rest: Vec<String> = rest.into_iter().filter(|id| !down.contains(id)).collect();
    replace(&mut at, &rest.iter().step_by(17).cloned().collect::<Vec<_>>());
    let mut takedown = vec!["takedown"];
    takedown.extend(down.iter().map(String::as_str));
    at.everpair(&takedown);
    at.sent.extend(down.iter().map(|id| (id.clone(), Sent::Down)));
    send_bad(&mut at, &rest[1]);
    at.find_places();
    at.run();
    at.check();
    assert_eq!(at.rows_naming(&down), 0, "{down:?}");
    every_reader_agrees(&at, &Table::ALL, true);
    exports_agree(&at);
}
