//! A service under a churn that does not end: images are replaced, taken down and sent again, and
//! what lives stays as much. What the process holds must stay as much, too.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use everpair::{scenes, source::kafka::TopicWriter};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    http,
    kafka::Broker,
    pipeline::{PATIENCE, Running, finish},
};
use crate::place::{Dice, files};

const SEED: u64 = 20_261_123;
const TOPIC: &str = "images";
/// Contents that are remembered though no image has them any more, for an image.
const DEAD_PER_IMAGE: usize = 2;
/// Most messages that may wait while the source gives `rate` a second.
const LAG_SECONDS_MAX: f64 = 20.0;

/// How much and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub images: usize,
    /// Messages each second.
    pub rate: f64,
    /// Until the memos have been as large as they get.
    pub warm_up: Duration,
    pub time: Duration,
    pub look_every: Duration,
    /// Seconds that files stay which no kept epoch needs, and how many epochs are kept.
    pub retention: u64,
    pub epochs_kept: u64,
    /// How much more files there may be in the second half. Upkeep looks at each table every 144
    /// epochs, so what goes then comes and goes in waves, of which a short soak sees few.
    pub waves: f64,
}

/// The service at one moment.
#[derive(Clone, Debug, Default)]
struct Look {
    resident_mib: f64,
    threads: usize,
    descriptors: usize,
    files: usize,
    mib: f64,
    /// Of all tables but the logs `changes` and `rejects`.
    live_mib: f64,
    /// Files in the logs of all tables.
    log: usize,
    live: u64,
    lag: u64,
    /// Milliseconds of the commits since the last look: the median, and all but one in a hundred.
    commits: (usize, u64, u64),
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Look { resident_mib, threads, descriptors, files, mib, live_mib, log, .. } = self;
        let Look { live, lag, commits, .. } = self;
        let (count, half, most) = commits;
        write!(
            f,
            "{resident_mib:.1} MiB resident, {threads} threads, {descriptors} descriptors; \
             {files} files of {mib:.0} MiB ({live_mib:.1} without changes and rejects), {log} of \
             them in logs; {live} live, lag {lag}; \
             {count} commits of {half} ms, p99 {most} ms"
        )
    }
}

struct Soak {
    broker: Broker,
    folder: TempDir,
    sent: usize,
    /// Bytes of the service's log that were looked at.
    read: usize,
}

impl Soak {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        command.args(arguments).arg("--config").arg(self.path("everpair.toml"));
        command
    }

    fn send(&mut self, writer: &mut TopicWriter, number: usize, round: Option<u64>) {
        let id = scenes::scene(number, SEED).id;
        let scene = round.map(|round| match round {
            0 => scenes::scene(number, SEED),
            round => scenes::replacement(number, round, SEED),
        });
        let (value, caption) = match scene {
            Some(scene) => (Some(scene.jpeg_or_png), scene.caption),
            None => (None, None),
        };
        let headers: Vec<_> =
            caption.into_iter().map(|text| ("caption".to_owned(), text)).collect();
        let at = 1_700_000_000_000 + self.sent as i64;
        let taken = writer.append(self.sent, &id, value.as_deref(), &headers, at);
        taken.expect("it is taken");
        self.sent += 1;
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("it went to a file")
    }

    fn status(&self) -> Option<Value> {
        let log = self.log();
        let (_, body) = http::get(&http::address(&log)?, "/status");
        Some(serde_json::from_str(&body).expect("JSON"))
    }

    /// The status of a service that follows its source: now and then it stands still to forget.
    fn following(&self, service: &mut Running) -> Value {
        let begun = Instant::now();
        loop {
            assert_eq!(service.0.try_wait().expect("it can be asked"), None, "{}", self.log());
            let flow = self.status().unwrap_or_default();
            if flow["live"]["phase"] == "running" && flow["live"]["lag_messages"].is_u64() {
                return flow;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not follow its source: {flow:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn look(&mut self, service: &mut Running) -> Look {
        let process = PathBuf::from(format!("/proc/{}", service.0.id()));
        let status = fs::read_to_string(process.join("status")).expect("it runs");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
                .expect("a number")
        };
        let all = files(&self.path("tables"));
        let in_log = |path: &Path| path.components().any(|part| part.as_os_str() == "_delta_log");
        let mib = |of: &dyn Fn(&Path) -> bool| {
            let of = all.iter().filter(|(path, _)| of(path));
            of.map(|(_, bytes)| *bytes).sum::<u64>() as f64 / (1 << 20) as f64
        };
        let is_live = |path: &Path| {
            let logs = ["changes", "rejects"];
            path.parent().is_some_and(|folder| !logs.iter().any(|name| folder.ends_with(name)))
        };
        let flow = self.following(service);
        let log = self.log();
        let fresh = log[self.read..].lines();
        let mut commits: Vec<u64> = fresh
            .filter_map(|line| {
                line.split_once("committed in ")?.1.split_once(" ms")?.0.parse().ok()
            })
            .collect();
        self.read = log.len();
        commits.sort_unstable();
        let at = |part: usize| commits.get(commits.len() * part / 100).copied().unwrap_or(0);
        Look {
            resident_mib: number("VmRSS:") / 1024.0,
            threads: number("Threads:") as usize,
            descriptors: fs::read_dir(process.join("fd")).expect("it runs").count(),
            files: all.len(),
            mib: mib(&|_| true),
            live_mib: mib(&is_live),
            log: all.iter().filter(|(path, _)| in_log(path)).count(),
            live: flow["tables"]["images"]["rows"].as_u64().unwrap_or(0),
            lag: flow["live"]["lag_messages"].as_u64().unwrap_or(0),
            commits: (commits.len(), at(50), at(99)),
        }
    }

    /// Waits until everything that was sent is committed.
    fn settle(&self, service: &mut Running) {
        let begun = Instant::now();
        loop {
            assert_eq!(service.0.try_wait().expect("it can be asked"), None, "{}", self.log());
            let flow = self.status().unwrap_or_default();
            let rest = flow["live"]["lag_messages"] == 0 && flow["run"]["requests_waiting"] == 0;
            if rest && flow["live"]["cut"]["messages"] == 0 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not at rest: {flow:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Churns, looks, and panics where something grows that should not.
pub fn soak(plan: Plan) {
    println!("seed {SEED}, {plan:?}");
    let (broker, folder) = (Broker::start(), tempfile::tempdir().expect("a folder"));
    broker.create_topic(TOPIC, 2);
    let text = format!(
        "[source]\nbrokers = \"{}\"\ntopics = [\"{TOPIC}\"]\n[tables]\nroot = \"tables\"\n\
         retention = \"{} s\"\n[contents]\nkeep_dead = {}\n[triplets]\nkeep = \"mined\"\n[service]\nworkers = 2\n\
         epochs_kept = {}\nlisten = \"127.0.0.1:0\"\n",
        broker.address(),
        plan.retention,
        plan.images * DEAD_PER_IMAGE,
        plan.epochs_kept
    );
    fs::write(folder.path().join("everpair.toml"), text).expect("the folder is writable");
    let mut at = Soak { broker, folder, sent: 0, read: 0 };
    let mut writer =
        TopicWriter::open(&at.broker.address(), TOPIC, &BTreeMap::new()).expect("it answers");
    for number in 0..plan.images {
        at.send(&mut writer, number, Some(0));
    }
    let log = fs::File::create(at.path("log")).expect("the folder is writable");
    let mut command = at.command(&["run"]);
    let mut service =
        Running(command.stdout(Stdio::null()).stderr(log).spawn().expect("the service starts"));
    at.settle(&mut service);

    let (mut dice, begun) = (Dice(SEED), Instant::now());
    let mut rounds = vec![0_u64; plan.images];
    let mut down: Option<usize> = None;
    let (mut churned, mut looks) = (0_usize, Vec::<(Duration, Look)>::new());
    while begun.elapsed() < plan.time {
        assert_eq!(service.0.try_wait().expect("it can be asked"), None, "{}", at.log());
        while (churned as f64) < begun.elapsed().as_secs_f64() * plan.rate {
            // One in ten is taken down, and comes back with the next message.
            if let Some(number) = down.take() {
                at.send(&mut writer, number, Some(rounds[number]));
            } else if dice.below(10) == 0 {
                let number = dice.below(plan.images);
                at.send(&mut writer, number, None);
                down = Some(number);
            } else {
                let number = dice.below(plan.images);
                rounds[number] += dice.below(4).min(1) as u64;
                at.send(&mut writer, number, Some(rounds[number]));
            }
            churned += 1;
        }
        assert!(writer.fates().iter().all(|(_, fate)| fate.is_ok()));
        if begun.elapsed() >= plan.look_every * (looks.len() as u32 + 1) {
            let look = at.look(&mut service);
            println!("{:>5} s: {look}", begun.elapsed().as_secs());
            looks.push((begun.elapsed(), look));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if let Some(number) = down {
        at.send(&mut writer, number, Some(rounds[number]));
    }
    writer.flush().expect("they are sent");
    at.settle(&mut service);
    let last = at.look(&mut service);
    let times = at.log().matches(" forgot ").count();
    println!("at rest: {last}; {churned} messages of churn; {times} times memos forgot");
    drop(service);
    assert!(times >= 3, "contents that no image has are forgotten");
    bounds(&plan, &looks, &last);
    let (code, out, err) = finish(&mut at.command(&["verify"]));
    assert_eq!(code, Some(0), "{out}{err}");
}

/// What the process holds after its warm-up it holds at the end.
fn bounds(plan: &Plan, looks: &[(Duration, Look)], last: &Look) {
    let warm = |look: &&(Duration, Look)| look.0 >= plan.warm_up;
    let warm: Vec<&Look> = looks.iter().filter(warm).map(|(_, look)| look).collect();
    assert!(warm.len() >= 4, "{} looks after the warm-up", warm.len());
    // The most of each half: what one moment holds goes up and down with its epoch.
    let (early, late) = warm.split_at(warm.len() / 2);
    let most = |of: &[&Look], what: &dyn Fn(&Look) -> f64| {
        of.iter().map(|look| what(look)).fold(0.0, f64::max)
    };
    let grown = |name: &str, what: &dyn Fn(&Look) -> f64, factor: f64, more: f64| {
        let (early, late) = (most(early, what), most(late, what));
        println!("{name}: {early:.0} at most in the first half, {late:.0} in the second");
        assert!(late <= early * factor + more, "{name} grows: from {early:.1} to {late:.1}");
    };
    // A compaction holds rows for a moment, and the first one of larger files may come late; what
    // leaks is there at every moment.
    let least = |of: &[&Look]| of.iter().map(|look| look.resident_mib).fold(f64::MAX, f64::min);
    let (at_first, at_last) = (least(early), least(late));
    println!("MiB resident: {at_first:.1} at least in the first half, {at_last:.1} in the second");
    assert!(at_last <= at_first * 1.1 + 16.0, "memory grows: from {at_first:.1} to {at_last:.1}");
    let compaction = schemas::limits::COMPACT_MEMORY as f64 / (1 << 20) as f64;
    grown("MiB resident", &|look| look.resident_mib, 1.05, 8.0 + compaction);
    // A folder's files are opened and read on threads that come and go: as many as a compaction reads
    // at once, and a few for requests to the console and the broker.
    let come_and_go = 2 * schemas::limits::STORE_READS_AT_ONCE + 6;
    let least = |of: &[&Look]| of.iter().map(|look| look.threads).min().unwrap_or(0);
    let (at_first, at_last) = (least(early), least(late));
    println!("threads: {at_first} at least in the first half, {at_last} in the second");
    // A service that begins anew reads with many of them.
    assert!(at_last <= at_first + come_and_go, "threads grow: from {at_first} to {at_last}");
    grown("open descriptors", &|look| look.descriptors as f64, 1.0, 12.0);
    grown("files", &|look| look.files as f64, plan.waves, 100.0);
    grown("files in logs", &|look| look.log as f64, plan.waves, 50.0);
    grown("MiB without changes and rejects", &|look| look.live_mib, plan.waves, 2.0);
    // Other work on the machine is in these.
    grown("ms of half of the commits", &|look| look.commits.1 as f64, 2.0, 500.0);
    let lag = most(&warm, &|look| look.lag as f64);
    assert!(lag <= plan.rate * LAG_SECONDS_MAX, "{lag} messages waited");
    let live = warm.iter().map(|look| look.live);
    let (least, most) = (live.clone().min().unwrap_or(0), live.max().unwrap_or(0));
    assert!(least * 10 > plan.images as u64 * 8 && most <= plan.images as u64, "{least} to {most}");
    assert!(last.lag == 0 && last.live * 10 > plan.images as u64 * 8, "{last:?}");
    assert!(warm.iter().all(|look| look.commits.0 > 0), "commits go on");
}
