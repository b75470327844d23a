//! `kill -9` around every kind of request to the store, and at random instants, of a service between
//! a real Kafka that crashes too and a real S3 server behind a proxy that fails: at the end there
//! are the tables of a run that nothing happened to, and nothing that was stored was asked for again.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use everpair::{scenes, source::kafka::TopicWriter};
use schemas::limits;
use serde_json::Value;
use tempfile::TempDir;

use self::points::{Coverage, KINDS, Trap};
use super::{
    faults::Faults,
    kafka::Broker,
    pipeline::{CONTRADICTIONS, finish_within},
    readers::{self, Ask},
    s3::{S3, settings, sign},
    watch::Watch,
};
use crate::{
    history::history,
    place::{Dice, Message},
};

mod points;

const TOPIC: &str = "images";
const PARTITIONS: u32 = 3;
/// A random instant is within this: a start takes a second or two.
const RANDOM_MAX_MS: usize = 5_000;
/// The last life has to do what the others left, at the pace of an S3 server in Python.
const CATCH_UP: Duration = Duration::from_secs(1_200);
/// The broker crashes in every so many lives.
const CRASH_EVERY: usize = 9;

/// So many of the history leave enough images for a state checkpoint.
const STATE_MESSAGES: usize = limits::STATE_MESSAGES_MIN * 12 / 5;
const BEGIN: i64 = 1_700_000_000_000;
/// Every question to the annotator, and few words of others.
const LOG_LEVEL: &str = "info,object_store=warn,everpair::service::asking=trace";

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kills: usize,
    pub seed: u64,
    /// Images of the history, which has more messages than that.
    pub images: usize,
    /// The part of the history that is there before the first start.
    pub first: usize,
    /// Messages of an epoch.
    pub rows: usize,
    /// How long a life may go on without meeting its aim.
    pub patience: Duration,
    /// Every point must be hit.
    pub all_points: bool,
}

/// The service of the moment; nobody is killed under an id that is no longer its own.
type Life = Arc<Mutex<Option<Child>>>;

struct Chaos {
    broker: Broker,
    s3: S3,
    folder: TempDir,
    life: Life,
    lives: usize,
    sent: usize,
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if let Some(child) = self.life.lock().expect("no panic").as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Chaos {
    /// A config, by its name: the root, and what stands in front of the store.
    fn configure(&self, name: &str, root: &str, store: &str, rows: usize) {
        let text = format!(
            "[source]\nbrokers = \"{}\"\ntopics = [\"{TOPIC}\"]\n[tables]\nroot = \"{root}\"\n\
             retry_time = \"30 s\"\n{store}[triplets]\nkeep = \"mined\"\n[filter]\nwords_min = 6\n\
             [epoch]\nrows = {rows}\nlinger = \"100 ms\"\n[service]\nworkers = 2\n",
            self.broker.address(),
        );
        fs::write(self.path(&format!("{name}.toml")), text).expect("the folder is writable");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        sign(&mut command).args(arguments);
        command.arg("--config").arg(self.path(&format!("{name}.toml")));
        command
    }

    fn everpair(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = self.command(name, arguments);
        let (code, out, err) = finish_within(CATCH_UP, &mut command);
        assert_eq!(code, Some(0), "{name} {arguments:?}: {out}{err}");
        err
    }

    fn send(&mut self, messages: &[Message]) {
        let mut writer = TopicWriter::open(&self.broker.address(), TOPIC, &BTreeMap::new())
            .expect("the broker answers");
        for message in messages {
            let (value, headers) = (message.value.as_deref(), &message.headers);
            let at = BEGIN + self.sent as i64;
            let taken = writer.append(self.sent, &message.key, value, headers, at);
            taken.expect("it is taken");
            self.sent += 1;
        }
        writer.flush().expect("they are sent");
        assert!(writer.fates().iter().all(|(_, fate)| fate.is_ok()));
    }

    /// Starts the service; every word that it says about requests goes to a file of this life.
    fn start(&mut self) {
        let mut command = self.command("killed", &["run", "--log-format", "json"]);
        command.args(["--log-level", LOG_LEVEL]);
        let log = fs::File::create(self.log()).expect("the folder is writable");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the service starts");
        *self.life.lock().expect("no panic") = Some(child);
    }

    fn log(&self) -> PathBuf {
        self.path(&format!("life-{}.log", self.lives))
    }

    /// How the life ended, if it did.
    fn ended(&self) -> Option<ExitStatus> {
        let mut life = self.life.lock().expect("no panic");
        life.as_mut().expect("one was started").try_wait().expect("it can be asked")
    }

    fn kill(&self) {
        self.life.lock().expect("no panic").as_mut().map(Child::kill);
    }

    /// Waits for the end that was meant for it; true if its aim was met.
    fn wait_for_death(&mut self, patience: Duration, trap: &Mutex<Trap>) -> bool {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                let said = fs::read_to_string(self.log()).expect("it was written");
                assert_eq!(status.signal(), Some(9), "it ended by itself, {status}:\n{said}");
                self.lives += 1;
                return trap.lock().expect("no panic").met;
            }
            if began.elapsed() >= patience {
                self.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn latest(&self) -> Option<Value> {
        let answer = self.s3.request("GET", "/everpair/killed/_everpair/latest.json");
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let found = head.starts_with("HTTP/1.1 200");
        found.then(|| serde_json::from_str(body).expect("pages are replaced whole"))
    }

    /// Messages that are committed.
    fn committed(&self) -> usize {
        let Some(latest) = self.latest() else { return 0 };
        let next = latest["offsets"][TOPIC].as_object().into_iter().flatten();
        next.map(|(_, next)| next.as_u64().expect("an offset") as usize).sum()
    }

    fn forget_state(&self) {
        let list = self.s3.request("GET", "/everpair?list-type=2&prefix=killed/_everpair/state/");
        for key in list.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
            self.s3.request("DELETE", &format!("/everpair/{key}"));
        }
    }

    fn sql(&self, query: &str) -> Vec<Value> {
        readers::sql_at(&self.s3.root("killed"), Some(self.s3.address()), query)
    }

    fn number(&self, query: &str) -> u64 {
        self.sql(query)[0][0].as_u64().expect("a number")
    }
}

/// The history, with more of what is bad: files that are no images under keys of live ones.
fn messages(plan: &Plan) -> Vec<Message> {
    let mut dice = Dice(plan.seed ^ 5);
    let mut messages = history(plan.images, plan.seed);
    for at in (7..messages.len()).step_by(23) {
        let earlier = scenes::scene(dice.below(plan.images * at / messages.len() + 1), plan.seed);
        let mut broken = Message::from(earlier);
        broken.value = broken.value.map(|bytes| bytes[..bytes.len() / 2].to_vec());
        messages.insert(at, broken);
    }
    messages
}

/// Kills, and compares. Prints what was hit.
pub fn chaos(plan: Plan) {
    println!("{plan:?}");
    let (broker, s3) = (Broker::start(), S3::start());
    broker.create_topic(TOPIC, PARTITIONS);
    let life: Life = Arc::default();
    let trap = Arc::new(Mutex::new(Trap::new(plan.seed)));
    let (decides, dies) = (trap.clone(), life.clone());
    let faults = Faults::start_killing(
        s3.address(),
        move |method, path| decides.lock().expect("no panic").decide(method, path),
        move || {
            let mut life = dies.lock().expect("no panic");
            let _ = life.as_mut().map(Child::kill);
        },
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut at = Chaos { broker, s3, folder, life, lives: 0, sent: 0 };
    at.configure("killed", &at.s3.root("killed"), &settings(&faults.address()), plan.rows);
    at.configure("plain", &at.s3.root("killed"), &settings(at.s3.address()), plan.rows);
    at.configure("whole", "whole", "", 500);

    let begun = Instant::now();
    let watch = Watch::start(&at.s3.root("killed"), Some(at.s3.address()));
    let (coverage, blocked, spark) = lives(&mut at, &plan, &trap);
    let killed = begun.elapsed();

    // What is left is done by a life that nobody ends; the store goes on to fail.
    trap.lock().expect("no panic").set(None);
    let mut command = at.command("killed", &["run", "--until-caught-up", "--log-format", "json"]);
    command.args(["--log-level", LOG_LEVEL]);
    let (code, _, said) = finish_within(CATCH_UP, &mut command);
    fs::write(at.log(), &said).expect("the folder is writable");
    at.lives += 1;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(at.committed(), at.sent);
    at.everpair("plain", &["verify"]);
    let seen = watch.finish();
    println!(
        "{} kills in {:.0} s; a reader opened {} epochs meanwhile, with up to {} triplets",
        plan.kills,
        killed.as_secs_f64(),
        seen.epochs.len(),
        seen.triplets
    );
    assert!(seen.epochs.len() >= plan.kills / 5 && seen.triplets > 20, "{seen:?}");
    let newest = || at.latest().expect("it has caught up");
    let spark = spark.unwrap_or_else(|| read_by_spark(&at, &newest()));
    spark.join().expect("what Spark reads is consistent");

    at.everpair("whole", &["run", "--until-caught-up"]);
    exactly_once(&at, &blocked);
    same_tables(&at);
    nothing_was_asked_again(&at);
    let trap = trap.lock().expect("no panic");
    println!("faults that were got over: {:?}", trap.faults);
    println!("requests: {:?}", trap.seen);
    assert!(trap.faults.values().sum::<usize>() > plan.kills, "{:?}", trap.faults);
    coverage.print();
    let missing = coverage.missing();
    assert!(!plan.all_points || missing.is_empty(), "never killed at {missing:?}");
    assert!(coverage.points() * 3 >= plan.kills.min(3 * KINDS.len()), "few points were hit");
}

/// Sends the history to a service that is killed again and again. Gives what was hit, the ids that
/// were blocked, and Spark at work if a third was committed at some time.
fn lives(
    at: &mut Chaos,
    plan: &Plan,
    trap: &Mutex<Trap>,
) -> (Coverage, Vec<String>, Option<JoinHandle<()>>) {
    let mut dice = Dice(plan.seed);
    let mut coverage = Coverage::new(plan.seed);
    let messages = messages(plan);
    let (first, rest) = messages.split_at(plan.first.min(messages.len()));
    at.send(first);
    let mut chunks = rest.chunks(rest.len().div_ceil(plan.kills).max(1));
    let (mut blocked, mut spark, mut unfinished) = (Vec::new(), None, 0);
    for life in 0..plan.kills {
        let chunk = chunks.next().unwrap_or_default();
        let (early, late) = chunk.split_at(chunk.len() / 2);
        at.send(early);
        if life % 3 == 1 {
            // Nobody's, so that it changes nothing else.
            let id = format!("nobody-{life}");
            at.everpair("plain", &["takedown", "--block", &id]);
            blocked.push(id);
        } else if life % 5 == 4 && at.committed() > 0 {
            at.everpair("plain", &["replay"]);
        }
        let states = at.committed() > STATE_MESSAGES;
        // However slow the machine: from here on state checkpoints are written, and aimed at.
        let grows = plan.all_points && life >= plan.kills / 3 && !states;
        let aim = (life % 10 >= 3 && !grows).then(|| coverage.aim(states));
        if aim.is_some_and(|aim| aim.kind == points::STATE) {
            // It is a cache: without one, this life writes it as soon as it can.
            at.forget_state();
        }
        trap.lock().expect("no panic").set(aim);
        at.start();
        at.send(late);
        if life % CRASH_EVERY == CRASH_EVERY / 2 {
            at.broker.crash_and_restart();
        }
        if grows {
            let began = Instant::now();
            while at.committed() <= STATE_MESSAGES && began.elapsed() < CATCH_UP {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let instant = Duration::from_millis(dice.below(RANDOM_MAX_MS) as u64);
        let met = at.wait_for_death(if aim.is_some() { plan.patience } else { instant }, trap);
        match &aim {
            Some(aim) if met => coverage.hit(aim),
            _ => coverage.at_random += 1,
        }
        let committed = at.committed();
        unfinished += usize::from(committed < at.sent);
        println!("{life}: {aim:?}, met: {met}; {committed} of {} committed", at.sent);
        if life % 10 == 9 {
            at.everpair("plain", &["verify"]);
        }
        if spark.is_none() && committed > at.sent / 3 {
            spark = at.latest().map(|page| read_by_spark(at, &page));
        }
    }
    println!("{unfinished} of {} kills left work undone", plan.kills);
    assert!(unfinished * 3 >= plan.kills, "the kills came too late to mean anything");
    (coverage, blocked, spark)
}

/// Spark opens one epoch while the next ones are committed.
fn read_by_spark(at: &Chaos, page: &Value) -> JoinHandle<()> {
    let (root, server) = (at.s3.root("killed"), at.s3.address().to_owned());
    let page = page.clone();
    std::thread::spawn(move || {
        let columns: [(&str, &[&str]); 4] = [
            ("images", &["image_id", "content_id"]),
            ("triplets", &["triplet_id", "query_id", "target_id", "hard_negatives"]),
            ("changes", &["op", "triplet_id"]),
            ("contents", &["content_id"]),
        ];
        let paths = columns.map(|(table, _)| PathBuf::from(format!("{root}/{table}")));
        let asks: Vec<Ask> = (columns.iter().zip(&paths))
            .map(|((name, columns), table)| Ask {
                table,
                version: page["tables"][name].as_u64(),
                columns,
            })
            .collect();
        let rows = readers::spark_rows_at(Some(&server), &asks);
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let contents: Vec<String> = rows[3].iter().map(|row| text(&row[0])).collect();
        let mut images = BTreeMap::new();
        for row in &rows[0] {
            assert!(contents.contains(&text(&row[1])), "an image without its content: {row}");
            images.insert(text(&row[0]), text(&row[1]));
        }
        let mut sum: BTreeMap<String, i64> = BTreeMap::new();
        for row in &rows[2] {
            *sum.entry(text(&row[1])).or_default() += if row[0] == "insert" { 1 } else { -1 };
        }
        for row in &rows[1] {
            let negatives = row[3].as_array().expect("a list").iter();
            for id in negatives.chain([&row[1], &row[2]]) {
                assert!(images.contains_key(&text(id)), "a triplet without {id}: {row}");
            }
            *sum.entry(text(&row[0])).or_default() -= 1;
        }
        sum.retain(|_, times| *times != 0);
        assert!(sum.is_empty(), "changes do not add up to triplets: {sum:?}");
        println!("Spark read epoch {}: {} triplets", page["epoch"], rows[1].len());
        assert!(!rows[1].is_empty(), "there are triplets to look at");
    })
}

/// Memos hold each key once, rejects each message and each answer's fault once, and what was to be
/// blocked is.
fn exactly_once(at: &Chaos, blocked: &[String]) {
    let keys = [
        ("contents", "content_id"),
        ("embeddings", "content_id, channel, encoder"),
        ("(FROM annotations WHERE outcome <> 'withdrawn')", "request_id"),
        ("rejects", "topic, partition, \"offset\", request_id, stage, reason, detail"),
        ("blocked", "kind, value"),
    ];
    let mut queries: Vec<(String, String)> = Vec::new();
    for (table, keys) in keys {
        let from = format!("(SELECT {keys} FROM {table} GROUP BY ALL HAVING count(*) > 1)");
        queries.push((format!("{keys} of {table} twice"), from));
    }
    queries.extend(CONTRADICTIONS.map(|(name, from)| (name.to_owned(), from.to_owned())));
    let counts: Vec<String> =
        queries.iter().map(|(_, from)| format!("(SELECT count(*) FROM {from})")).collect();
    let answer = at.sql(&format!("SELECT {}", counts.join(", ")));
    for ((name, _), count) in queries.iter().zip(answer[0].as_array().expect("a row")) {
        assert_eq!(count, 0, "{name}");
    }
    let held = at.sql("SELECT value FROM blocked WHERE kind = 'id' ORDER BY 1");
    let mut wanted = blocked.to_vec();
    wanted.sort();
    let held: Vec<&str> = held.iter().filter_map(|row| row[0].as_str()).collect();
    assert_eq!(held, wanted, "blocked");
    let left = at.s3.request("GET", "/everpair?list-type=2&prefix=killed/_everpair/requests/");
    assert!(left.contains("<KeyCount>0</KeyCount>"), "requests are done with: {left}");
    assert_eq!(at.number("SELECT count(*) FROM changes WHERE reason = 'config'"), 0);
}

/// I2: everything that does not depend on where epochs end.
fn same_tables(at: &Chaos) {
    let whole = at.path("whole");
    for table in ["images", "pairs", "triplets", "rejects WHERE request_id IS NULL"] {
        let (name, only) = table.split_once(' ').unwrap_or((table, ""));
        let path = whole.join(name).display().to_string();
        let [one, two] = [name.to_owned(), format!("delta_scan('{path}')")]
            .map(|from| format!("(SELECT * EXCLUDE (epoch) FROM {from} {only})"));
        let query = format!(
            "SELECT (SELECT count(*) FROM {two}), (SELECT count(*) FROM ({one} EXCEPT ALL {two})), \
             (SELECT count(*) FROM ({two} EXCEPT ALL {one}))"
        );
        let answer = &at.sql(&query)[0];
        println!("{name}: {} rows, the same as of the run that nothing happened to", answer[0]);
        assert_eq!((&answer[1], &answer[2]), (&0.into(), &0.into()), "{name} differs");
        assert!(answer[0].as_u64() > Some(5), "{name} has rows to compare");
    }
}

/// I8: a stored answer is never paid again. Of the questions of a request, in the order of time,
/// the stored answer is that of the last one: what was asked before was in flight at a kill, or
/// withdrawn. Behind an answer that was withdrawn others may have been lost: its images came back,
/// and had gone again when a life was not killed in time.
fn nothing_was_asked_again(at: &Chaos) {
    let mut asked: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for life in 0..at.lives {
        let log = fs::read_to_string(at.path(&format!("life-{life}.log"))).expect("a log");
        for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if let (Some(id), Some(time)) = (line["request_id"].as_str(), line["asked_at"].as_i64())
            {
                asked.entry(id.to_owned()).or_default().push(time);
            }
        }
    }
    let rows = at.sql(
        "SELECT request_id, max(epoch_us(created_at)), max_by(outcome, created_at) = 'withdrawn' \
         FROM annotations GROUP BY request_id",
    );
    let mut again = 0;
    for row in &rows {
        let (id, stored) = (row[0].as_str().expect("an id"), row[1].as_i64().expect("a time"));
        let times = asked.get(id).map(Vec::as_slice).unwrap_or_default();
        let withdrawn = row[2] == true;
        let last = if withdrawn { times.contains(&stored) } else { times.last() == Some(&stored) };
        assert!(last, "{id} was asked again, at {times:?}, and {stored} is stored: {row}");
        again += times.len() - 1;
    }
    let questions = asked.values().map(Vec::len).sum::<usize>();
    let lost = asked.keys().filter(|id| !rows.iter().any(|row| row[0] == **id)).count();
    println!(
        "{questions} questions, {} answers stored; {again} were in flight at a kill and asked \
         again, {lost} and not wanted any more",
        rows.len()
    );
    assert!(rows.len() > 20 && questions >= rows.len(), "there are answers to look at");
}
