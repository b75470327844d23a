//! Tables in a real S3 API server: faults that are got over, faults that stop the service and what
//! it does when it is started again, and two services on the same tables.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use everpair::{scenes, source::files::FileLog};
use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{
    epochs,
    faults::{Fault, Faults},
    pipeline::{PATIENCE, Running, finish},
    readers,
    s3::{S3, settings, sign},
};

const SEED: u64 = 5;
const IMAGES: usize = 150;

/// A file log of scenes, and configs of services on it.
struct Place {
    folder: TempDir,
    log: FileLog,
}

impl Place {
    fn new() -> Place {
        println!("seed {SEED}");
        let folder = tempfile::tempdir().expect("a folder");
        let log = FileLog::in_folder(&folder.path().join("log"), 3).expect("a log can be made");
        let mut place = Place { folder, log };
        place.send(0..IMAGES);
        place
    }

    fn send(&mut self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let scene = scenes::scene(number, SEED);
            let caption = scene.caption.map(|text| ("caption".to_owned(), text));
            let headers: Vec<_> = caption.into_iter().collect();
            self.log.append(&scene.id, Some(&scene.jpeg_or_png), &headers).expect("it is taken");
        }
        self.log.sync().expect("it can be synced");
    }

    fn take_down(&mut self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let id = scenes::scene(number, SEED).id;
            self.log.append(&id, None, &[]).expect("it is taken");
        }
        self.log.sync().expect("it can be synced");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Rows of `triplets` that depend on `pairs` alone, so that where epochs end makes no difference.
    fn configure(&self, name: &str, root: &str, store: &str) {
        let text = format!(
            "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"{root}\"\n\
             retry_time = \"3 s\"\n{store}[triplets]\nkeep = \"mined\"\n\
             [epoch]\nrows = 20\nlinger = \"100 ms\"\n"
        );
        fs::write(self.path(&format!("{name}.toml")), text).expect("the folder is writable");
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        sign(&mut command).args(arguments);
        command.arg("--config").arg(self.path(&format!("{name}.toml")));
        command
    }

    fn everpair(&self, name: &str, arguments: &[&str]) -> String {
        let (code, out, err) = finish(&mut self.command(name, arguments));
        assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
        out
    }

    fn status(&self, name: &str) -> Value {
        serde_json::from_str(&self.everpair(name, &["status", "--json"])).expect("JSON")
    }
}

/// Everything that does not depend on where epochs end, as DuckDB reads it.
fn shown(root: &str, server: Option<&str>) -> BTreeMap<&'static str, Vec<Value>> {
    let queries = [
        ("images", "SELECT * EXCLUDE (epoch) FROM images ORDER BY image_id"),
        ("pairs", "SELECT * EXCLUDE (epoch) FROM pairs ORDER BY query_id, target_id"),
        ("triplets", "SELECT * EXCLUDE (epoch) FROM triplets ORDER BY triplet_id"),
        ("rejects", "SELECT * EXCLUDE (epoch) FROM rejects WHERE stage != 'annotate' ORDER BY ALL"),
    ];
    queries.map(|(name, query)| (name, readers::sql_at(root, server, query))).into()
}

/// Panics unless the tables in a folder and in S3 are the same in the sense of I2.
pub fn same(folder: &str, root: &str, server: &str) {
    assert_same(&shown(folder, None), &shown(root, Some(server)));
}

fn assert_same(one: &BTreeMap<&str, Vec<Value>>, other: &BTreeMap<&str, Vec<Value>>) {
    for (table, rows) in one {
        let differs = rows.iter().zip(&other[table]).find(|(one, other)| one != other);
        let same = differs.is_none() && rows.len() == other[table].len();
        assert!(same, "{table}: {} and {} rows, {differs:#?}", rows.len(), other[table].len());
    }
    assert!(one["triplets"].len() > 50, "there are rows to compare: {}", one["triplets"].len());
}

/// Numbers that are the same for the same seed.
fn dice() -> impl FnMut(u64) -> u64 + Send {
    let mut state = SEED;
    move |limit| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % limit
    }
}

/// README's config, variables and commands, as they stand there but for the server's port.
#[test]
fn the_sample_that_readme_shows() {
    let s3 = S3::start();
    let (_, section) =
        include_str!("../README.md").split_once("\nWith a bucket").expect("the section");
    let block = |kind: &str| {
        let (_, rest) = section.split_once(&format!("```{kind}\n")).expect("a block");
        rest.split("```").next().expect("its end").to_owned()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).expect("a folder");
    for number in 0..40 {
        let scene = scenes::scene(number, SEED);
        fs::write(photos.join(format!("{number}.png")), scene.jpeg_or_png).expect("a picture");
    }
    let config = block("toml");
    assert!(config.contains("localhost:9000") && config.contains(&s3.root("tables")), "{config}");
    let config = config.replace("localhost:9000", s3.address());
    fs::write(folder.path().join("lake.toml"), config).expect("a config");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_everpair"));
    let path = format!("{}:/usr/bin:/bin", program.parent().expect("a folder").display());
    let mut command = Command::new("bash");
    command.args(["-ec", &block("sh")]).current_dir(folder.path()).env("PATH", path);
    let (code, out, err) = finish(&mut command);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(err.contains("40 images sent") && err.contains("caught up"), "{err}");
    assert!(out.contains("delta_scan('s3://everpair/tables/triplets', version => "), "{out}");
    let listed = s3.request("GET", "/everpair?list-type=2&prefix=tables/_everpair/latest");
    assert!(listed.contains("tables/_everpair/latest.json"), "{listed}");
}

#[test]
fn a_store_with_faults_ends_with_the_tables_of_a_folder() {
    let (place, s3) = (Place::new(), S3::start());
    place.configure("folder", "folder", "");
    place.everpair("folder", &["run", "--until-caught-up"]);

    let (mut dice, mut commits) = (dice(), BTreeMap::<String, usize>::new());
    let kinds = Arc::new(std::sync::Mutex::new(BTreeMap::<String, usize>::new()));
    let seen = kinds.clone();
    let faults = Faults::start(s3.address(), move |method, path| {
        let mut fault = match dice(100) {
            0..4 => Fault::Refused(503),
            4..7 => Fault::Refused(500),
            7..11 => Fault::Lied(500),
            11..15 => Fault::Broken,
            15..17 => Fault::Slow(Duration::from_millis(200)),
            _ => Fault::None,
        };
        // The worst of all, for certain: a commit that happened and was not heard of.
        if let (true, Some((table, _))) = (method == "PUT", path.split_once("/_delta_log/")) {
            let times = commits.entry(table.to_owned()).or_default();
            *times += 1;
            match times {
                2 => fault = Fault::Lied(500),
                4 => fault = Fault::Broken,
                _ => {}
            }
        }
        let kind = format!("{method} {fault:?}");
        *seen.lock().expect("no panic").entry(kind).or_default() += 1;
        fault
    });
    place.configure("faulty", &s3.root("faulty"), &settings(&faults.address()));
    place.everpair("faulty", &["run", "--until-caught-up"]);
    println!("{:?}", kinds.lock().expect("no panic"));
    assert!(faults.count() > 30, "{} faults", faults.count());
    for kind in ["PUT Lied(500)", "PUT Broken"] {
        assert!(kinds.lock().expect("no panic").get(kind) > Some(&5), "few {kind}");
    }

    place.configure("plain", &s3.root("faulty"), &settings(s3.address()));
    place.everpair("plain", &["verify"]);
    let folder = shown(&place.path("folder").display().to_string(), None);
    assert_same(&folder, &shown(&s3.root("faulty"), Some(s3.address())));
}

#[test]
fn a_store_that_stays_away_stops_the_service_which_goes_on_later() {
    let (mut place, s3) = (Place::new(), S3::start());
    place.configure("plain", &s3.root("tables"), &settings(s3.address()));
    for (number, fault) in
        [Fault::Refused(503), Fault::Refused(403), Fault::Broken].into_iter().enumerate()
    {
        let commits = Arc::new(AtomicBool::new(false));
        let began = commits.clone();
        // From the second commit of `pairs` on: in the middle of an epoch.
        let mut pairs = 0;
        let faults = Faults::start(s3.address(), move |method, path| {
            pairs += usize::from(method == "PUT" && path.contains("/pairs/_delta_log/"));
            if pairs < 3 {
                return Fault::None;
            }
            began.store(true, Ordering::Relaxed);
            fault
        });
        place.configure("faulty", &s3.root("tables"), &settings(&faults.address()));
        let (code, out, err) = finish(&mut place.command("faulty", &["run"]));
        assert_eq!(code, Some(1), "{fault:?}: {out}{err}");
        assert!(commits.load(Ordering::Relaxed), "the fault came in the middle");
        assert!(err.contains("the store failed"), "{fault:?}: {err}");
        if fault == Fault::Refused(403) {
            assert!(err.contains("credentials"), "{err}");
        }
        assert!(!err.contains("panicked"), "{err}");
        let before = place.status("plain")["epoch"].as_u64().expect("an epoch");
        // More to do for the next round.
        let first = IMAGES + 60 * number;
        place.send(first..first + 60);
        place.take_down(first - 10..first);
        place.everpair("plain", &["verify"]);
        println!("{fault:?}: stopped after epoch {before}");
    }
    place.everpair("plain", &["run", "--until-caught-up"]);
    place.everpair("plain", &["verify"]);
    place.configure("folder", "folder", "");
    place.everpair("folder", &["run", "--until-caught-up"]);
    let folder = shown(&place.path("folder").display().to_string(), None);
    assert_same(&folder, &shown(&s3.root("tables"), Some(s3.address())));
}

/// What a newcomer meets: a bucket that is misspelt, tables that are not there yet, keys that are
/// missing or wrong. Each is one line, at once, and nothing is written anywhere.
#[test]
fn a_missing_bucket_and_missing_or_wrong_keys_are_told_in_one_line() {
    let (place, s3, strict) = (Place::new(), S3::start(), S3::start_strict());
    let lines = || {
        let files = fs::read_dir(place.path("log")).expect("a log").flatten();
        let of = |file: fs::DirEntry| fs::read_to_string(file.path()).expect("lines");
        files.map(|file| of(file).lines().count()).sum::<usize>()
    };
    let refused = |mut command: Command, words: &[&str]| {
        let began = Instant::now();
        let (code, out, err) = finish(&mut command);
        assert_eq!(code, Some(1), "{command:?}: {out}{err}");
        assert!(out.is_empty(), "{out}");
        let last = err.lines().last().unwrap_or_default();
        for words in words {
            assert!(last.contains(words), "{command:?}: no {words:?} in {last}");
        }
        assert!(!err.contains("<Error>") && !err.contains("10000"), "{err}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    };
    let export = place.path("export").display().to_string();
    let commands: [&[&str]; 8] = [
        &["status"],
        &["verify"],
        &["changes", "--since", "0"],
        &["views", "--duckdb"],
        &["export", "--format", "parquet", "--to", &export],
        &["snapshot", "create", "one"],
        &["takedown", "scene-00001"],
        &["run", "--until-caught-up"],
    ];
    place.configure("missing", "s3://no-such-bucket/tables", &settings(s3.address()));
    place.configure("wrong", &strict.root("tables"), &settings(strict.address()));
    place.configure("empty", &s3.root("tables"), &settings(s3.address()));
    for command in commands {
        let root = "s3://no-such-bucket/tables";
        let words = [root, "NoSuchBucket: the bucket does not exist"];
        refused(place.command("missing", command), &words);
        let words = ["InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"];
        refused(place.command("wrong", command), &words);
    }
    assert_eq!(lines(), IMAGES, "no take-down was written");
    for command in &commands[1..6] {
        let root = s3.root("tables");
        refused(place.command("empty", command), &["no tables at", &root, "nothing was committed"]);
    }
    let (code, out, err) = finish(&mut place.command("empty", &["status"]));
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(err.contains("no epoch is committed yet"), "{err}");

    // A port that was free a moment ago: this machine is none of the cloud's.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    for variables in [("AWS_METADATA_ENDPOINT", &*closed), ("AWS_EC2_METADATA_DISABLED", "true")] {
        for arguments in [&["status"][..], &["run", "--until-caught-up"]] {
            let mut command = place.command("empty", arguments);
            command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
            command.env("AWS_SHARED_CREDENTIALS_FILE", place.path("no-such-file"));
            command.env(variables.0, variables.1);
            refused(command, &["no credentials", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"]);
        }
    }
}

/// A machine of the cloud, which tells its role's keys to whoever shows the token that it gave; its
/// address, and what it was asked for.
fn machine_with_a_role() -> (String, mpsc::Receiver<String>) {
    const KEYS: &str = r#"{"Code": "Success", "AccessKeyId": "role", "SecretAccessKey": "test",
        "Token": "test", "Expiration": "2099-01-01T00:00:00Z"}"#;
    const ROLE: &str = "/latest/meta-data/iam/security-credentials/";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (ask, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut head, mut part) = (Vec::new(), [0; 1024]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => head.extend(&part[..read]),
                }
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let line = head.lines().next().unwrap_or_default().replace(" http/1.1", "");
            let shown = head.contains("x-aws-ec2-metadata-token: one");
            let (status, body) = match line.split_once(' ') {
                Some(("put", "/latest/api/token")) => ("200 OK", "one"),
                Some(("get", path)) if shown && path == ROLE => ("200 OK", "tables"),
                Some(("get", path)) if shown && path == format!("{ROLE}tables") => ("200 OK", KEYS),
                _ => ("401 Unauthorized", ""),
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            // Who only looks whether somebody is there does not wait for it.
            let _ = stream.write_all(answer.as_bytes());
            if !line.is_empty() && ask.send(line).is_err() {
                return;
            }
        }
    });
    (address, asked)
}

#[test]
fn keys_come_from_a_profile_or_from_the_machine_s_role() {
    let (place, s3) = (Place::new(), S3::start());
    place.configure("tables", &s3.root("tables"), &settings(s3.address()));
    let (machine, asked) = machine_with_a_role();
    let done = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = place.command("tables", arguments);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_SHARED_CREDENTIALS_FILE", place.path("credentials"));
        let (code, out, err) = finish(command.envs(variables.iter().copied()));
        assert_eq!(code, Some(0), "{out}{err}");
    };
    done(&["run", "--until-caught-up"], &[("AWS_METADATA_ENDPOINT", &machine)]);
    let asked: Vec<String> = asked.try_iter().collect();
    assert!(asked.iter().any(|line| line.ends_with("/security-credentials/tables")), "{asked:?}");

    let profiles = "[other]\naws_access_key_id = test\naws_secret_access_key = test\n";
    fs::write(place.path("credentials"), profiles).expect("a file");
    done(&["verify"], &[("AWS_PROFILE", "other"), ("AWS_EC2_METADATA_DISABLED", "true")]);
}

#[test]
fn of_two_services_on_the_same_tables_the_older_ends() {
    let (mut place, s3) = (Place::new(), S3::start());
    place.configure("both", &s3.root("tables"), &settings(s3.address()));
    let start = || {
        let mut command = place.command("both", &["run"]);
        let errors = tempfile::NamedTempFile::new().expect("a file");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(errors.reopen().expect("a handle"));
        (Running(command.spawn().expect("it starts")), errors)
    };
    let epoch = |place: &Place| place.status("both")["epoch"].as_u64();
    let wait = |what: &str, done: &mut dyn FnMut() -> bool| {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let (mut older, errors) = start();
    wait("a first epoch", &mut || epoch(&place) > Some(0));
    let (newer, _) = start();
    wait("a second writer", &mut || place.status("both")["generation"] == 2);
    place.send(IMAGES..IMAGES + 40);
    let mut ended = None;
    wait("the end of the older", &mut || {
        ended = older.0.try_wait().expect("it can be asked");
        ended.is_some()
    });
    let said = fs::read_to_string(errors.path()).expect("a file");
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{said}");
    assert!(said.contains("another writer owns the tables"), "{said}");
    drop(newer);
    place.everpair("both", &["run", "--until-caught-up"]);
    place.everpair("both", &["verify"]);
}

/// The target `long` has the same with 5,000 epochs.
#[test]
fn a_hundred_and_sixty_epochs_ask_equally_much_of_the_store() {
    epochs::flat(160, 40);
}
