//! `push` to a real broker: images too large, `kill -9`, inputs that Python wrote, and the producer
//! that README shows.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use everpair::{
    scenes,
    source::{self, Offsets, Polled},
};
use schemas::{ContentId, config, message::Record};
use serde_json::Value;

use crate::peers::{kafka::Broker, peer, s3};

const PATIENCE: Duration = Duration::from_secs(120);
const README: &str = include_str!("../README.md");

fn command(broker: &Broker, topic: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.args(["push", "--brokers", &broker.address(), "--topic", topic, "--json"]);
    command.args(words).stdin(Stdio::null());
    command
}

/// Exit code, report and what was said.
fn push(broker: &Broker, topic: &str, words: &[&str]) -> (Option<i32>, Value, String) {
    let output = command(broker, topic, words).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|e| panic!("{e}: {said}")), said)
}

fn create(broker: &Broker, topic: &str, message_bytes_max: usize) {
    let limit = format!("max.message.bytes={message_bytes_max}");
    let words = ["--create", "--topic", topic, "--partitions", "2", "--config", &limit];
    broker.admin("org.apache.kafka.tools.TopicCommand", &words, "");
}

/// Every record of a topic.
fn records(broker: &Broker, topic: &str) -> Vec<Record> {
    let config = config::Source {
        brokers: broker.address(),
        topics: vec![topic.into()],
        ..config::Source::default()
    };
    let mut source = source::open(&config, &Offsets::new()).expect("a reader");
    let count: i64 = source.end_offsets().expect("the ends").values().sum();
    let (begun, mut records) = (Instant::now(), Vec::new());
    while records.len() < count as usize {
        assert!(begun.elapsed() < PATIENCE, "{} of {count}", records.len());
        if let Polled::Record(record) = source.poll(Duration::from_millis(50)).expect("it reads") {
            records.push(record);
        }
    }
    records
}

fn key(record: &Record) -> String {
    String::from_utf8(record.key.clone().expect("a key")).expect("UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// That many bytes of noise, which no compression makes smaller.
fn noise(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 11) as u8
    };
    (0..bytes).map(next).collect()
}

#[test]
fn what_push_says_a_topic_takes_it_takes() {
    let broker = Broker::start();
    create(&broker, "narrow", 200_000);
    create(&broker, "wide", 4_000_000);
    let folder = tempfile::tempdir().expect("a folder");
    for (number, bytes) in (199_000..200_400).step_by(50).enumerate() {
        let path = folder.path().join(format!("{number:03}.jpg"));
        fs::write(&path, noise(bytes, number as u32)).expect("it is writable");
        fs::write(path.with_extension("txt"), "x".repeat(number * 7)).expect("it is writable");
    }
    let (code, report, said) = push(&broker, "narrow", &[text(folder.path())]);
    assert_eq!(code, Some(1), "{said}");
    let failed = report["failed"]["list"].as_array().expect("a list");
    assert!(failed.len() > 5 && report["sent"].as_u64() > Some(5), "{said}");
    for one in failed {
        let why = one["reason"].as_str().expect("text");
        assert!(why.contains("at most 200000") && why.contains("--oversize fit"), "{why}");
    }

    // A real image of three megabytes: by value where that may be, else by each of the ways.
    let large = tempfile::tempdir().expect("a folder");
    let rgb = noise(1000 * 1200 * 3, 5);
    let pixels = kernels::decode::Pixels { width: 1000, height: 1200, rgb };
    let image = kernels::resize::encode_jpeg(&pixels, 97);
    assert!((1_500_000..3_900_000).contains(&image.len()), "{}", image.len());
    fs::write(large.path().join("large.jpg"), &image).expect("it is writable");
    fs::write(large.path().join("small.jpg"), noise(1000, 6)).expect("it is writable");
    let at = text(large.path());
    let (code, report, said) = push(&broker, "wide", &[at]);
    assert_eq!((code, report["sent"].as_u64()), (Some(0), Some(2)), "{said}");
    assert!(records(&broker, "wide").iter().any(|r| r.value.as_ref() == Some(&image)));

    let shelf = tempfile::tempdir().expect("a folder");
    let store = format!("store:{}", text(shelf.path()));
    for (how, code, sent) in [("skip", 0, 1), ("fit", 0, 2), (store.as_str(), 0, 2)] {
        let (ended, report, said) = push(&broker, "narrow", &[at, "--oversize", how]);
        assert_eq!((ended, report["sent"].as_u64()), (Some(code), Some(sent)), "{how}: {said}");
    }
    let large: Vec<Record> =
        records(&broker, "narrow").into_iter().filter(|r| key(r) == "large.jpg").collect();
    let [fitted, stored] = &large[..] else { panic!("two messages: {}", large.len()) };
    let fitted = fitted.value.as_deref().expect("a value");
    let back = kernels::decode::decode(fitted, &Default::default()).expect("a picture");
    assert!(back.width < 1000 && fitted.len() > 60_000, "{} {}", back.width, fitted.len());
    let stored: Value =
        serde_json::from_slice(stored.value.as_deref().expect("a value")).expect("JSON");
    assert!(stored["uri"].as_str().expect("an address").contains(&ContentId::of(&image).hex()));
}

/// Ends with its process.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Images that a journal says are acknowledged.
fn acknowledged(journal: &Path) -> u64 {
    let Ok(text) = fs::read(journal) else { return 0 };
    let page: Value = serde_json::from_slice(&text).expect("journals are replaced whole");
    page["inputs"][0]["images"].as_u64().expect("a number")
}

#[test]
fn killed_at_any_point_it_loses_nothing_and_sends_little_twice() {
    const IMAGES: usize = 1_500;
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |time| time.subsec_nanos());
    println!("seed {seed}");
    let points = noise(6, seed);
    let broker = Broker::start();
    broker.create_topic("images", 3);
    let folder = tempfile::tempdir().expect("a folder");
    let images = folder.path().join("images");
    fs::create_dir(&images).expect("it is writable");
    for number in 0..IMAGES {
        let bytes = noise(200, number as u32);
        fs::write(images.join(format!("{number:05}.jpg")), bytes).expect("it is writable");
    }
    let journal = folder.path().join("journal");
    let words = [text(&images), "--resume", text(&journal)];
    for point in &points[..3] {
        let begin = acknowledged(&journal);
        let until = begin + 1 + u64::from(*point);
        let mut command = command(&broker, "images", &[&words[..], &["--rate", "400"]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = Running(command.spawn().expect("the program starts"));
        let begun = Instant::now();
        while acknowledged(&journal) < until {
            assert!(begun.elapsed() < PATIENCE, "{} of {until}", acknowledged(&journal));
            assert_eq!(running.0.try_wait().expect("a child"), None, "it is still at work");
            std::thread::sleep(Duration::from_millis(2));
        }
        running.0.kill().expect("it runs");
        running.0.wait().expect("it ends");
        println!("killed after {} of {IMAGES}", acknowledged(&journal));
    }
    let before = acknowledged(&journal);
    assert!(before >= 3 && before < IMAGES as u64, "{before}");
    let (code, report, said) = push(&broker, "images", &words);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(report["sent_before"].as_u64(), Some(before), "{said}");
    assert_eq!(report["sent"].as_u64(), Some(IMAGES as u64 - before), "{said}");
    assert!(said.contains("a duplicate changes nothing"), "{said}");

    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for record in records(&broker, "images") {
        let number: u32 = key(&record)[..5].parse().expect("a number");
        assert_eq!(record.value, Some(noise(200, number)));
        *times.entry(key(&record)).or_default() += 1;
    }
    assert_eq!(times.len(), IMAGES, "nothing is lost");
    println!("{} sent twice", times.values().sum::<usize>() - IMAGES);
    let (_, report, _) = push(&broker, "images", &words);
    assert_eq!((report["sent"].as_u64(), report["sent_before"].as_u64()), (Some(0), Some(1500)));
    let landed: i64 = broker.next_offsets("images").values().sum();
    assert_eq!(landed as usize, times.values().sum::<usize>(), "and nothing is sent again");
}

#[test]
fn a_broker_that_goes_away_ends_a_push() {
    let [folder, other] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    for number in 0..300 {
        let path = folder.path().join(format!("{number:03}.jpg"));
        fs::write(path, noise(100, number)).expect("it is writable");
    }
    let broker = Broker::start();
    broker.create_topic("images", 1);
    let journal = other.path().join("journal");
    let words = [text(folder.path()), "--resume", text(&journal), "--rate", "20", "--timeout", "3"];
    let mut command = command(&broker, "images", &words);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program starts");
    let begun = Instant::now();
    while acknowledged(&journal) == 0 {
        assert!(begun.elapsed() < PATIENCE, "nothing was acknowledged");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(broker);
    let begun = Instant::now();
    let output = child.wait_with_output().expect("it ends");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("within --timeout") && said.contains("not sent: "), "{said}");
}

/// Runs a Python program.
fn python(program: &Path, words: &[&str]) -> Output {
    let output = Command::new(peer("EVERPAIR_PYTHON")).arg(program).args(words).output();
    let output = output.expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// As `tarfile` and pyarrow write the shards of a data set: `tar IMAGES...` and `parquet IMAGES...`.
const WRITER: &str = r#"
import io, json, os, sys, tarfile
import pyarrow as pa, pyarrow.parquet as pq
out, *images = sys.argv[1:]
with tarfile.open(f"{out}/00000.tar", "w") as tar:
    for number, image in enumerate(images):
        said = {"caption": f"caption {number}", "url": f"https://example.org/{number}", "key": f"{number:09}"}
        for end, data in [("png", open(image, "rb").read()), ("json", json.dumps(said).encode())]:
            member = tarfile.TarInfo(f"{number:09}.{end}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
column = pa.array([{"bytes": open(i, "rb").read(), "path": os.path.basename(i)} for i in images], kind)
table = pa.table({"image": column, "text": [f"caption {n}" for n in range(len(images))],
                  "id": [f"p{n}" for n in range(len(images))], "label": list(range(len(images)))})
features = {"info": {"features": {"image": {"_type": "Image"}}}}
table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
pq.write_table(table, f"{out}/train.parquet", row_group_size=7)
"#;

/// Some real images of a folder, in order.
fn real_images(count: usize) -> Vec<PathBuf> {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => visit(&path, found),
                false if path.extension().is_some_and(|e| e == "png") => found.push(path),
                false => {}
            }
        }
    }
    let mut found = Vec::new();
    visit(Path::new(&peer("EVERPAIR_IMAGES")), &mut found);
    found.sort();
    found.truncate(count);
    assert_eq!(found.len(), count);
    found
}

#[test]
fn shards_that_python_wrote() {
    let broker = Broker::start();
    broker.create_topic("images", 2);
    let folder = tempfile::tempdir().expect("a folder");
    let images = real_images(20);
    let program = folder.path().join("write.py");
    fs::write(&program, WRITER).expect("it is writable");
    let mut words = vec![text(folder.path())];
    words.extend(images.iter().map(|path| text(path)));
    python(&program, &words);
    let [tar, parquet] = ["00000.tar", "train.parquet"].map(|name| folder.path().join(name));
    let (code, report, said) = push(&broker, "images", &[text(&tar), text(&parquet)]);
    assert_eq!((code, report["sent"].as_u64()), (Some(0), Some(40)), "{said}");
    assert!(said.contains("image = image, id = id, caption = text"), "{said}");
    assert!(said.contains("not sent: label (--attributes"), "{said}");
    let by_key: BTreeMap<String, Record> =
        records(&broker, "images").into_iter().map(|record| (key(&record), record)).collect();
    for (number, path) in images.iter().enumerate() {
        for id in [format!("{number:09}"), format!("p{number}")] {
            let record = &by_key[&id];
            assert_eq!(record.value, Some(fs::read(path).expect("an image")), "{id}");
            let caption = record.headers.iter().find(|(name, _)| name == "caption");
            let caption = caption.map(|(_, text)| text.clone());
            assert_eq!(caption, Some(format!("caption {number}").into_bytes()), "{id}");
        }
    }
    let landed: u64 = report["partitions"]
        .as_object()
        .expect("an object")
        .values()
        .map(|p| p["count"].as_u64().expect("a count"))
        .sum();
    assert_eq!(landed, 40);
}

#[test]
fn the_producer_that_readme_shows() {
    let broker = Broker::start();
    broker.create_topic("images", 3);
    let folder = tempfile::tempdir().expect("a folder");
    let images = folder.path().join("photos");
    fs::create_dir(&images).expect("it is writable");
    for scene in (0..60).map(|number| scenes::scene(number, 4)) {
        let path = images.join(&scene.id).with_extension("jpg");
        fs::create_dir_all(path.parent().expect("it has one")).expect("it is writable");
        fs::write(&path, &scene.jpeg_or_png).expect("it is writable");
        if let Some(caption) = scene.caption {
            fs::write(path.with_extension("txt"), caption).expect("it is writable");
        }
    }
    let block = README.split("```python\n").find(|block| block.contains("confluent_kafka"));
    let program = block.and_then(|block| block.split("```").next()).expect("a producer in README");
    assert!(program.lines().count() <= 20, "a short one");
    let file = folder.path().join("produce.py");
    fs::write(&file, program).expect("it is writable");
    let brokers = broker.address();
    python(&file, &[&brokers, "images", text(&images)]);

    let config = folder.path().join("everpair.toml");
    let lines = format!(
        "[source]\nbrokers = \"{brokers}\"\ntopics = [\"images\"]\n[tables]\nroot = \"tables\"\n"
    );
    fs::write(&config, lines).expect("it is writable");
    let everpair = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        let output = command.args(words).args(["--config", text(&config)]).output();
        let output = output.expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    everpair(&["run", "--until-caught-up"]);
    let status: Value = serde_json::from_str(&everpair(&["status", "--json"])).expect("JSON");
    let rows = status["tables"]["images"]["rows"].as_u64().expect("a number");
    assert!(rows >= 50, "{status:#}");

    // The same ids go to the same partitions, whoever sends them.
    let first: BTreeMap<String, i32> =
        records(&broker, "images").iter().map(|r| (key(r), r.position.partition)).collect();
    let (code, _, said) = push(&broker, "images", &[text(&images)]);
    assert_eq!(code, Some(0), "{said}");
    for record in records(&broker, "images") {
        assert_eq!(first.get(&key(&record)), Some(&record.position.partition), "{}", key(&record));
    }
    everpair(&["run", "--until-caught-up"]);
    let status: Value = serde_json::from_str(&everpair(&["status", "--json"])).expect("JSON");
    assert_eq!(status["tables"]["images"]["rows"].as_u64(), Some(rows), "{status:#}");
}

/// Prints the sha256 of an object: `ENDPOINT BUCKET KEY`.
const GET: &str = r#"
import boto3, hashlib, sys
endpoint, bucket, key = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
                  aws_access_key_id="test", aws_secret_access_key="test")
print(hashlib.sha256(s3.get_object(Bucket=bucket, Key=key)["Body"].read()).hexdigest())
"#;

#[test]
fn an_image_too_large_is_kept_in_an_object_store() {
    let (server, dir) = (s3::S3::start(), tempfile::tempdir().expect("a folder"));
    let config = dir.path().join("everpair.toml");
    let (root, settings) = (server.root("tables"), s3::settings(server.address()));
    let source = "[source]\nfiles = [\"log/*.jsonl\"]";
    let lines = format!("{source}\n[tables]\nroot = \"{root}\"\n{settings}");
    fs::write(&config, lines).expect("it is writable");
    let image = [&[0xff, 0xd8, 0xff][..], &noise(50_000, 9)].concat();
    let path = dir.path().join("large.jpg");
    fs::write(&path, &image).expect("it is writable");
    let shelf = server.root("large/for-kafka");
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.args(["push", text(&path), "--config", text(&config), "--json"]);
    command.args(["--max-message-bytes", "10000", "--oversize", &format!("store:{shelf}")]);
    let output = s3::sign(&mut command).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let uri = report["stored"]["list"][0]["uri"].as_str().expect("an address");
    let name = format!("{}.jpeg", ContentId::of(&image).hex());
    assert!(uri.starts_with("s3://") && uri.ends_with(&name), "{uri}");
    let program = dir.path().join("get.py");
    fs::write(&program, GET).expect("it is writable");
    let endpoint = format!("http://{}", server.address());
    let key = format!("large/for-kafka/{name}");
    let kept = python(&program, &[&endpoint, s3::BUCKET, &key]);
    assert_eq!(String::from_utf8_lossy(&kept.stdout).trim(), ContentId::of(&image).hex());
}
