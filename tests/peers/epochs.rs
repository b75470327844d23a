//! Thousands of small epochs of every table in S3, over a live set that only turns over: an epoch
//! asks as much of the store at the end as in the middle, and there are as many objects and as much
//! memory. How long a commit takes is printed: it depends on what else the machine does.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use everpair::{scenes, source::files::FileLog};
use serde_json::Value;

use super::{
    faults::{Fault, Faults},
    pipeline::finish,
    s3::{BUCKET, S3, settings, sign},
};

const SEED: u64 = 20_261_205;
const IMAGES: usize = 24;
/// What an epoch may take on a busy machine.
const PATIENCE_EACH: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

/// At one moment.
#[derive(Clone, Copy, Debug)]
struct State {
    epochs: usize,
    /// Requests to the store so far, but for those that look whether somebody asks for something:
    /// they go by the clock.
    requests: usize,
    objects: usize,
    resident_mib: f64,
}

/// Objects in the bucket.
fn objects(s3: &S3) -> usize {
    let (mut count, mut next) = (0, String::new());
    loop {
        let answer = s3.request("GET", &format!("/{BUCKET}?list-type=2{next}"));
        count += answer.matches("<Key>").count();
        let token = answer.split_once("<NextContinuationToken>");
        let Some((token, _)) = token.and_then(|(_, rest)| rest.split_once('<')) else {
            return count;
        };
        next = format!("&continuation-token={token}");
    }
}

/// How long each epoch's commit took, in milliseconds, by what the service said.
fn commits(said: &str) -> Vec<f64> {
    let took = said.lines().filter_map(|line| {
        let (_, rest) = line.split_once("committed in ")?;
        rest.split_once(" ms")?.0.parse().ok()
    });
    took.collect()
}

fn mean(some: &[f64]) -> f64 {
    some.iter().sum::<f64>() / some.len() as f64
}

/// Lives through so many epochs; prints what the first and the last `part` commits took.
pub fn flat(epochs: usize, part: usize) {
    println!("seed {SEED}");
    let (s3, folder) = (S3::start(), tempfile::tempdir().expect("a folder"));
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let proxy = Faults::start(s3.address(), move |_, path| {
        let looks = ["_everpair%2Frequests", "_everpair/requests"].iter().any(|p| path.contains(p));
        counted.fetch_add(usize::from(!looks), Ordering::Relaxed);
        Fault::None
    });
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let text = format!(
        "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"{}\"\nretention = \"1 s\"\n{}\
         [epoch]\nrows = 2\nlinger = \"1 ms\"\n[service]\nworkers = 1\nepochs_kept = 20\n",
        s3.root("tables"),
        settings(&proxy.address())
    );
    fs::write(path("everpair.toml"), text).expect("the folder is writable");
    let mut log = FileLog::in_folder(&path("log"), 1).expect("a log can be made");
    let mut round = 0_u64;
    // One image is replaced, and one message turned away: every table but `blocked` has rows.
    let mut send = |log: &mut FileLog, rounds: usize| {
        for _ in 0..rounds {
            let number = round as usize % IMAGES;
            let scene = match round < IMAGES as u64 {
                true => scenes::scene(number, SEED),
                false => scenes::replacement(number, round, SEED),
            };
            let caption = scene.caption.map(|text| ("caption".to_owned(), text));
            let headers: Vec<_> = caption.into_iter().collect();
            log.append(&scene.id, Some(&scene.jpeg_or_png), &headers).expect("it is taken");
            log.append("bad", Some(format!("no image {round}").as_bytes()), &[]).expect("taken");
            round += 1;
        }
        log.sync().expect("it can be synced");
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    sign(&mut command).arg("run").arg("--config").arg(path("everpair.toml"));
    let errors = fs::File::create(path("said")).expect("a file");
    let mut child = command.stdout(Stdio::null()).stderr(errors).spawn().expect("it starts");
    let said = || fs::read_to_string(path("said")).expect("a file");
    let resident_mib = |id: u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("Linux tells");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    };
    let began = Instant::now();
    let mut states: Vec<State> = Vec::new();
    for quarter in 1..=4 {
        let wanted = epochs * quarter / 4;
        loop {
            let count = commits(&said()).len();
            if count >= wanted {
                break;
            }
            // Each is an epoch, and often its answers are another.
            let rounds = ((wanted - count) / 2).clamp(1, 40);
            send(&mut log, rounds);
            let goal = count + rounds;
            while commits(&said()).len() < goal {
                let ended = child.try_wait().expect("a child can be asked");
                assert!(ended.is_none(), "it ended: {}", said());
                let patience = PATIENCE_EACH * u32::try_from(epochs).expect("a small number");
                assert!(began.elapsed() < patience, "{count} epochs in {patience:?}");
                std::thread::sleep(LOOK);
            }
        }
        let resident_mib = resident_mib(child.id());
        let state = State {
            epochs: commits(&said()).len(),
            requests: requests.load(Ordering::Relaxed),
            objects: objects(&s3),
            resident_mib,
        };
        let seconds = began.elapsed().as_secs_f64();
        println!("{} epochs in {seconds:.0} s: {state:?}", state.epochs);
        states.push(state);
    }
    let stop = format!("kill -TERM {}", child.id());
    assert!(Command::new("sh").args(["-c", &stop]).status().expect("a shell").success());
    assert!(child.wait().expect("it ends").success(), "{}", said());
    let took = commits(&said());
    let (first, last) = (mean(&took[20..20 + part]), mean(&took[took.len() - part..]));
    println!("a commit took {first:.1} ms at first, {last:.1} ms in the end");
    let [_, half, late, end] = states[..] else { panic!("four quarters") };
    let each = |from: State, to: State| {
        (to.requests - from.requests) as f64 / (to.epochs - from.epochs) as f64
    };
    // Retention begins to remove what upkeep has made needless in the first half.
    let (early, late) = (each(half, late), each(late, end));
    println!("an epoch asked {early:.1} times of the store, then {late:.1} times");
    assert!(late < 1.3 * early, "{early} requests an epoch, then {late}");
    assert!(end.objects < half.objects * 3 / 2 + 200, "{half:?}, {end:?}");
    assert!(end.resident_mib < half.resident_mib * 1.3 + 20.0, "{half:?}, {end:?}");
    let mut verify = Command::new(env!("CARGO_BIN_EXE_everpair"));
    sign(&mut verify).arg("verify").arg("--config").arg(path("everpair.toml"));
    let (code, out, err) = finish(&mut verify);
    assert_eq!(code, Some(0), "{out}{err}");
    let latest = s3.request("GET", &format!("/{BUCKET}/tables/_everpair/latest.json"));
    let (_, page) = latest.split_once("\r\n\r\n").expect("a body");
    let page: Value = serde_json::from_str(page).expect("JSON");
    let commits: u64 =
        page["tables"].as_object().expect("versions").values().filter_map(Value::as_u64).sum();
    println!("{commits} commits of all tables together, compactions among them");
    for table in ["images", "contents", "embeddings", "annotations", "rejects"] {
        let versions = page["tables"][table].as_u64().expect("a version");
        assert!(versions as usize > epochs / 4, "{table} was committed {versions} times");
    }
}
