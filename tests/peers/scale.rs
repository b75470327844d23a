//! Many small images through Kafka into S3: what a commit, a file, a reader and the memory cost as
//! the tables grow, and that a live set which only turns over costs no more memory.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use everpair::source::kafka::TopicWriter;
use kernels::{decode::Pixels, resize::encode_jpeg};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    kafka::Broker,
    pipeline::Running,
    readers,
    s3::{S3, settings, sign},
};

const SEED: u64 = 20_261_122;
const TOPIC: &str = "many";
const SIDE: u32 = 64;
/// Images that look alike, so that there are pairs.
const FAMILY: usize = 12;
const BOXES: usize = 7;
const CHURN_ROUNDS: usize = 4;
/// What one message may take, with all that it causes, on a busy machine of two cores.
const PATIENCE_EACH: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(50);

struct Dice(u64);

impl Dice {
    fn of(names: [u64; 2]) -> Dice {
        let mut dice = Dice(SEED ^ names[0].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ names[1] << 17);
        dice.below(1);
        dice
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

/// Boxes in colours: those of its family, each a little elsewhere.
pub fn image(number: usize) -> Vec<u8> {
    let (mut family, mut own) =
        (Dice::of([(number / FAMILY) as u64, 1]), Dice::of([number as u64, 2]));
    let mut rgb = vec![0; (SIDE * SIDE * 3) as usize];
    for at in 0..BOXES {
        // The first one fills all of it.
        let (side, jitter) = if at == 0 { (SIDE.into(), 1) } else { (8 + family.below(32), 9) };
        let corner = |family: &mut Dice, own: &mut Dice| {
            (family.below(u64::from(SIDE)) * u64::from(at > 0) + own.below(jitter)) as usize
        };
        let (left, top) = (corner(&mut family, &mut own), corner(&mut family, &mut own));
        let colour = [(); 3].map(|()| (family.below(200) + own.below(56)) as u8);
        for y in top..(top + side as usize).min(SIDE as usize) {
            for x in left..(left + side as usize).min(SIDE as usize) {
                let pixel = 3 * (y * SIDE as usize + x);
                rgb[pixel..pixel + 3].copy_from_slice(&colour);
            }
        }
    }
    encode_jpeg(&Pixels { width: SIDE, height: SIDE, rgb }, 90)
}

fn caption(number: usize) -> String {
    let (mut family, mut own) =
        (Dice::of([(number / FAMILY) as u64, 3]), Dice::of([number as u64, 4]));
    let mut words: Vec<String> = (0..5).map(|_| format!("w{}", family.below(3_000))).collect();
    words.extend((0..3).map(|_| format!("w{}", own.below(3_000))));
    words.join(" ")
}

struct Scale {
    broker: Broker,
    s3: S3,
    folder: TempDir,
    sent: usize,
}

/// The service at one moment of rest.
#[derive(Debug)]
struct Rest {
    resident_mib: f64,
    live: u64,
}

impl Scale {
    fn begin() -> Scale {
        println!("seed {SEED}");
        let (broker, s3) = (Broker::start(), S3::start());
        broker.create_topic(TOPIC, 2);
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!(
            "[source]\nbrokers = \"{}\"\ntopics = [\"{TOPIC}\"]\n[tables]\nroot = \"{}\"\n{}\
             [epoch]\nlinger = \"1 s\"\n",
            broker.address(),
            s3.root("tables"),
            settings(s3.address())
        );
        fs::write(folder.path().join("everpair.toml"), text).expect("the folder is writable");
        Scale { broker, s3, folder, sent: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        sign(&mut command).args(arguments).arg("--config").arg(self.path("everpair.toml"));
        command
    }

    /// Sends images by their numbers; `true` sends the image and `false` takes it down.
    fn send(&mut self, messages: impl Iterator<Item = (usize, bool)>) {
        let mut writer = TopicWriter::open(&self.broker.address(), TOPIC, &BTreeMap::new())
            .expect("the broker answers");
        for (number, up) in messages {
            let value = up.then(|| image(number));
            let headers = [("caption".to_owned(), caption(number))];
            let headers = if up { &headers[..] } else { &[] };
            let id = format!("image-{number:07}");
            while let Err(full) =
                writer.append(self.sent, &id, value.as_deref(), headers, 1_700_000_000_000)
            {
                assert!(full.to_lowercase().contains("queue"), "{full}");
                writer.flush().expect("they are sent");
            }
            self.sent += 1;
        }
        writer.flush().expect("they are sent");
        assert!(writer.fates().iter().all(|(_, fate)| fate.is_ok()));
    }

    fn sql(&self, query: &str) -> Vec<Value> {
        readers::sql_at(&self.s3.root("tables"), Some(self.s3.address()), query)
    }

    /// Waits until everything that was sent is committed, nothing waits, and gives what is seen.
    fn settle(&self, service: &mut Running) -> Rest {
        let begun = Instant::now();
        let page = format!("/{}/tables/_everpair/", super::s3::BUCKET);
        loop {
            assert_eq!(service.0.try_wait().expect("it can be asked"), None, "{}", self.log());
            assert!(begun.elapsed() < PATIENCE_EACH * self.sent.max(1_000) as u32, "not at rest");
            let read = |name: &str| -> Option<Value> {
                let answer = self.s3.request("GET", &format!("{page}{name}"));
                let (head, body) = answer.split_once("\r\n\r\n")?;
                head.starts_with("HTTP/1.1 200").then(|| serde_json::from_str(body).ok())?
            };
            let committed: u64 = read("latest.json").map_or(0, |latest| {
                let next = latest["offsets"][TOPIC].as_object().into_iter().flatten();
                next.filter_map(|(_, next)| next.as_u64()).sum()
            });
            let idle = read("status.json").is_some_and(|run| run["requests_waiting"] == 0);
            if committed == self.sent as u64 && idle {
                break;
            }
            std::thread::sleep(LOOK);
        }
        let status = fs::read_to_string(format!("/proc/{}/status", service.0.id()));
        let status = status.expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        let live = self.sql("SELECT count(*) FROM images")[0][0].as_u64().expect("a count");
        Rest { resident_mib: kib.expect("a number") / 1024.0, live }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("it went to a file")
    }

    /// Milliseconds of each commit so far, in order.
    fn commits(&self) -> Vec<u64> {
        let log = self.log();
        let rest = log.lines().filter_map(|line| line.split_once("committed in "));
        rest.filter_map(|(_, rest)| rest.split_once(" ms")?.0.parse().ok()).collect()
    }
}

/// Loads `count` images in ten steps, turns some of them over, and lets readers in.
pub fn grow(count: usize) {
    let mut at = Scale::begin();
    let mut command = at.command(&["run"]);
    let log = fs::File::create(at.path("log")).expect("the folder is writable");
    let mut service =
        Running(command.stdout(Stdio::null()).stderr(log).spawn().expect("the service starts"));
    let begun = Instant::now();
    let mut steps = Vec::new();
    for step in 0..10 {
        at.send((count * step / 10..count * (step + 1) / 10).map(|number| (number, true)));
        let rest = at.settle(&mut service);
        println!("{:>4} s: {rest:?}", begun.elapsed().as_secs());
        steps.push(rest);
    }
    let loaded = at.commits();
    let full = steps.last().expect("ten steps");
    assert!(full.live as f64 > 0.9 * count as f64, "{full:?}");
    // What one more image costs: the slope of the second half, not what a process costs anyway.
    let (half, images) = (&steps[4], full.live - steps[4].live);
    let kib_each = (full.resident_mib - half.resident_mib) * 1024.0 / images as f64;
    println!("memory: {kib_each:.1} KiB for each live image");
    assert!(kib_each < 40.0, "vectors, lists and rows of an image take {kib_each:.1} KiB");

    // The same images leave and come back, and others are sent again: the live set stays.
    let share = count / 50;
    for round in 0..CHURN_ROUNDS {
        at.send((round * share..(round + 1) * share).map(|number| (number, false)));
        at.send((round * share..(round + 1) * share).map(|number| (number, true)));
        at.send((count / 2..count / 2 + 2 * share).map(|number| (number, true)));
        let rest = at.settle(&mut service);
        println!("turned over {}: {rest:?}", round + 1);
        assert_eq!(rest.live, full.live);
        let bound = full.resident_mib * 1.15 + 64.0;
        assert!(rest.resident_mib < bound, "{rest:?} is above {bound:.0} MiB");
    }
    drop(service);
    report(&at, &loaded);
}

fn report(at: &Scale, loaded: &[u64]) {
    let (first, last) = loaded.split_at(loaded.len() / 2);
    let mean = |all: &[u64]| all.iter().sum::<u64>() as f64 / all.len().max(1) as f64;
    println!(
        "{} commits while loading: {:.0} ms on average in the first half, {:.0} ms in the second",
        loaded.len(),
        mean(first),
        mean(last)
    );
    let output = at.command(&["status", "--json"]).output().expect("it runs");
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for (name, table) in status["tables"].as_object().expect("tables") {
        println!(
            "{name}: {} rows, {} files, {} bytes",
            table["rows"], table["files"], table["bytes"]
        );
    }
    let sampled = at.command(&["verify", "--sample", "200"]).output().expect("it runs");
    assert!(sampled.status.success(), "{}", String::from_utf8_lossy(&sampled.stderr));
    for (name, query) in [
        ("opening all tables", "SELECT 1"),
        ("count of triplets", "SELECT count(*) FROM triplets"),
        (
            "one triplet with its images, by id",
            "SELECT count(*) FROM (SELECT max(triplet_id) AS id FROM triplets) JOIN triplets t \
             ON t.triplet_id = id JOIN images q ON q.image_id = t.query_id \
             JOIN contents c ON c.content_id = q.content_id",
        ),
        ("channels of all pairs", "SELECT channels, count(*) FROM pairs GROUP BY ALL ORDER BY ALL"),
    ] {
        let begun = Instant::now();
        assert!(!at.sql(query).is_empty(), "{query}");
        println!("DuckDB, {name}: {:.1} s with its start", begun.elapsed().as_secs_f64());
    }
}
