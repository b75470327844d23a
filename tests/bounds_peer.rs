//! What there is too little of: room on the disk, memory, an answer of the store in time. Each costs
//! time and nothing else.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use everpair::{scenes, source::kafka::TopicWriter};
use schemas::limits;
use serde_json::Value;

use crate::{
    peers::{
        faults::{Fault, Faults},
        http,
        kafka::Broker,
        pipeline::{PATIENCE, Running, finish},
        s3::{S3, settings, sign},
    },
    place::{Message, Place},
};

const SEED: u64 = 83;

/// A file system of 1.2 MB that gets larger once it was full. It is there for this shell alone.
const FULL: &str = "
    mkdir tables && mount -t tmpfs -o size=1200k tmpfs tables
    \"$everpair\" run --config tables.toml --until-caught-up; echo \"first $?\" >&2
    mount -o remount,size=200m tables
    \"$everpair\" run --config tables.toml --until-caught-up; echo \"second $?\" >&2
    \"$everpair\" verify --config tables.toml; echo \"verify $?\" >&2
    cp -r tables kept";

#[test]
fn a_full_disk_stops_it_with_a_word_and_costs_nothing_else() {
    let place = Place::new();
    place.configure("tables", "[epoch]\nrows = 20\n[triplets]\nkeep = \"mined\"\n");
    place.configure("kept", "[epoch]\nrows = 20\n[triplets]\nkeep = \"mined\"\n");
    place.configure("whole", "[triplets]\nkeep = \"mined\"\n");
    place.log().send(scenes::scenes(150, SEED).map(Message::from));
    // Its own user and mounts: nobody has to be root for that, where the machine allows it.
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", FULL]).current_dir(place.path(""));
    let (code, out, err) = finish(command.env("everpair", env!("CARGO_BIN_EXE_everpair")));
    let text = format!("needs user namespaces, or root:\n{out}{err}");
    assert_eq!(code, Some(0), "{text}");
    assert!(err.contains("first 1") && err.contains("No space left on device"), "{text}");
    assert!(err.contains("make room"), "it says what to do: {text}");
    assert!(err.contains("second 0") && err.contains("verify 0"), "{text}");
    place.catch_up("whole");
    let [one, two] = ["kept", "whole"].map(|name| {
        let mut tables = place.tables(name);
        tables.images.iter_mut().for_each(|row| row.epoch = 0);
        tables.triplets.iter_mut().for_each(|row| row.epoch = 0);
        let mut lines: Vec<String> = tables.images.iter().map(|row| format!("{row:?}")).collect();
        lines.extend(tables.triplets.iter().map(|row| format!("{row:?}")));
        lines.sort();
        lines
    });
    assert!(one == two && one.len() > 200, "{} and {} rows", one.len(), two.len());
}

#[test]
fn too_little_memory_ends_it_and_the_next_start_goes_on() {
    let place = Place::new();
    place.configure("tables", "[epoch]\nrows = 100\n");
    place.log().send(scenes::scenes(1_000, SEED).map(Message::from));
    let config = place.path("tables.toml").display().to_string();
    let mut ended = 0;
    // A start needs more than the first of these, and all of the work less than the last.
    for mib in [100, 140, 180, 220, 260, 300, 400, 800, 2_400] {
        let line = format!(
            "ulimit -c 0; ulimit -v {}; exec {} run --until-caught-up --config {config}",
            mib << 10,
            env!("CARGO_BIN_EXE_everpair")
        );
        let mut command = Command::new("sh");
        command.args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::null());
        let output = command.output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{mib} MiB: {}, epoch {}", output.status, place.epoch("tables"));
        if !output.status.success() {
            // SIGABRT, or a thread that could not be started, which those that share the work of a
            // start say by a panic. Such a panic is SIGABRT too where its backtrace finds no memory.
            let died = output.status.signal() == Some(6) || output.status.code() == Some(101);
            let of_it = said.contains("memory allocation") || said.contains("spawn thread");
            let said_so = output.status.code() == Some(1);
            assert!((died && of_it) || said_so, "{}: {said}", output.status);
            ended += 1;
        }
        if place.epoch("tables") > 0 {
            place.verify("tables");
        }
    }
    assert!(ended > 0, "it never ran out of memory");
    place.catch_up("tables");
    place.verify("tables");
    assert!(place.tables("tables").images.len() > 900);
}

/// A commit takes so long that everything before it is full: the source is held back, longer than
/// Kafka's client may be idle, and the console answers all the while.
#[test]
fn a_slow_commit_slows_the_source_and_nothing_else() {
    const HUNG: Duration = Duration::from_secs(15);
    const ROWS: usize = 10;
    println!("seed {SEED}");
    let (broker, s3) = (Broker::start(), S3::start());
    broker.create_topic("images", 2);
    let mut writer =
        TopicWriter::open(&broker.address(), "images", &Default::default()).expect("it answers");
    for (number, scene) in scenes::scenes(200, SEED).enumerate() {
        let taken = writer.append(number, &scene.id, Some(&scene.jpeg_or_png), &[], 0);
        taken.expect("it is taken");
    }
    writer.flush().expect("they are sent");
    let hangs = Arc::new(AtomicBool::new(false));
    let (shared, mut commits) = (hangs.clone(), 0);
    let faults = Faults::start(s3.address(), move |method, path| {
        commits += usize::from(method == "PUT" && path.contains("/images/_delta_log/"));
        if commits == 4 && !shared.swap(true, Ordering::AcqRel) {
            return Fault::Slow(HUNG);
        }
        Fault::None
    });
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("everpair.toml");
    // Idle for longer than this, and a member of a group would lose its partitions.
    let text = format!(
        "[source]\nbrokers = \"{}\"\ntopics = [\"images\"]\n[source.settings]\n\
         \"max.poll.interval.ms\" = \"6000\"\n\"session.timeout.ms\" = \"6000\"\n[tables]\n\
         root = \"{}\"\n{}[epoch]\nrows = {ROWS}\nlinger = \"200 ms\"\n\
         [service]\nworkers = 2\nlisten = \"127.0.0.1:0\"\n",
        broker.address(),
        s3.root("tables"),
        settings(&faults.address())
    );
    fs::write(&config, text).expect("the folder is writable");
    let log = folder.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    sign(&mut command).args(["run", "--config"]).arg(&config).stdout(Stdio::null());
    command.stderr(fs::File::create(&log).expect("the folder is writable"));
    let mut service = Running(command.spawn().expect("it starts"));
    let said = || fs::read_to_string(&log).expect("it went to a file");
    let mut wait = |what: &str, done: &mut dyn FnMut() -> bool| {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "{what}: {}", said());
            assert_eq!(service.0.try_wait().expect("it can be asked"), None, "{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("a commit hangs", &mut || hangs.load(Ordering::Acquire));
    let begun = Instant::now();
    let (mut looks, mut most) = (0, 0);
    wait("it goes on", &mut || {
        let address = http::address(&said()).expect("the console listens");
        let asked = Instant::now();
        assert_eq!(http::get(&address, "/healthz").0, 200);
        let (_, body) = http::get(&address, "/status");
        let flow: Value = serde_json::from_str(&body).expect("JSON");
        assert!(asked.elapsed() < Duration::from_secs(5), "the console waits for nobody");
        let live = &flow["live"];
        let held = ["cut", "open"].map(|queue| live[queue]["messages"].as_u64().expect("a count"));
        (looks, most) = (looks + 1, most.max(held.iter().sum::<u64>()));
        // Those in the dataflow, the one in the queue, the one that waits for it, the open one.
        let room = (limits::EPOCHS_IN_FLIGHT + 3) * ROWS as u64;
        assert!(held.iter().sum::<u64>() <= room, "{held:?}");
        begun.elapsed() >= HUNG + Duration::from_secs(1)
    });
    println!("{looks} looks while a commit hung; {most} messages were held at most");
    assert!(looks > 20 && most >= 3 * ROWS as u64, "{looks} looks, {most} messages: it was full");
    wait("all is committed", &mut || {
        let (_, body) = http::get(&http::address(&said()).expect("it listens"), "/status");
        let flow: Value = serde_json::from_str(&body).expect("JSON");
        flow["live"]["lag_messages"] == 0 && flow["run"]["requests_waiting"] == 0
    });
    drop(service);
    let mut verify = Command::new(env!("CARGO_BIN_EXE_everpair"));
    sign(&mut verify).args(["verify", "--config"]).arg(&config);
    let (code, out, err) = finish(&mut verify);
    assert_eq!(code, Some(0), "{out}{err}");
}
