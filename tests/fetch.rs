//! Fetching: what servers may do to us, what is never asked for, and that order is kept.

pub mod server;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs, io,
    io::Write,
    net::{IpAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use everpair::{
    fetch::{
        Fetcher, Fetching,
        guard::{Names, SystemNames},
    },
    source::{Offsets, Polled, Source, SourceError, SourceView},
};
use schemas::{
    config::Config,
    limits,
    message::{Fetched, KeySource, Position, Record},
    reject::Reason,
};

use self::server::{Request, Server, reply};

/// Far above what anything here takes.
const DEADLINE: Duration = Duration::from_secs(120);

/// A source that has all it will ever have.
struct Given(VecDeque<Polled>);

impl Source for Given {
    fn poll(&mut self, wait: Duration) -> Result<Polled, SourceError> {
        Ok(self.0.pop_front().unwrap_or_else(|| {
            std::thread::sleep(wait);
            Polled::Idle
        }))
    }
    fn hold(&mut self, wait: Duration) -> Result<(), SourceError> {
        std::thread::sleep(wait);
        Ok(())
    }
    fn end_offsets(&mut self) -> Result<Offsets, SourceError> {
        Ok(Offsets::new())
    }
    fn view(&mut self) -> SourceView {
        SourceView::default()
    }
    fn committed(&mut self, _: &Offsets) {}
}

/// Names as a test has them; all others do not exist.
struct Known(HashMap<String, Vec<IpAddr>>);

impl Names for Known {
    fn addresses(
        &self,
        name: &str,
    ) -> futures::future::BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = self.0.get(name).cloned().ok_or_else(|| io::Error::other("no such name"));
        Box::pin(async move { found })
    }
}

fn known(names: &[(&str, &str)]) -> Arc<dyn Names> {
    let address = |text: &str| vec![text.parse().expect("an address")];
    Arc::new(Known(names.iter().map(|(name, to)| (name.to_string(), address(to))).collect()))
}

fn config(fetch: &str) -> Config {
    let least = "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"tables\"\n";
    Config::parse(&format!("{least}[fetch]\n{fetch}")).expect("a config")
}

/// One record with a reference.
fn reference(partition: i32, offset: i64, uri: &str) -> Record {
    let position = Position { topic: "t".into(), partition, offset, timestamp_us: 0 };
    let value = serde_json::json!({ "uri": uri }).to_string().into_bytes();
    Record::new(position, Some(b"id".to_vec()), Some(value), Vec::new())
}

fn fetching(given: Vec<Polled>, fetch: &str, names: Arc<dyn Names>) -> Fetching {
    let fetcher = Fetcher::new(&config(fetch), names).expect("a client");
    let source = Box::new(Given(given.into()));
    Fetching::new(source, KeySource::Message, fetcher).expect("threads")
}

/// All that comes, up to `count` things.
fn read(source: &mut Fetching, count: usize) -> Vec<Polled> {
    let (began, mut found) = (Instant::now(), Vec::new());
    while found.len() < count {
        assert!(began.elapsed() < DEADLINE, "{} of {count} came", found.len());
        match source.poll(Duration::from_millis(20)).expect("a source that never fails") {
            Polled::Idle => {}
            polled => found.push(polled),
        }
    }
    found
}

fn outcome(fetch: &str, names: Arc<dyn Names>, uri: &str) -> Fetched {
    let mut source = fetching(vec![Polled::Record(reference(0, 0, uri))], fetch, names);
    let Some(Polled::Record(record)) = read(&mut source, 1).pop() else { panic!("a record") };
    assert_eq!(record, Record { fetched: record.fetched.clone(), ..reference(0, 0, uri) });
    record.fetched.expect("a reference is fetched, or it is said why not")
}

fn failed(fetch: &str, names: Arc<dyn Names>, uri: &str) -> (Reason, String) {
    match outcome(fetch, names, uri) {
        Fetched::Failed(reason, why) => (reason, why),
        Fetched::Bytes(bytes) => panic!("{uri} gave {} bytes", bytes.len()),
    }
}

const LOCAL: &str = "schemes = [\"http\"]\nhosts = [\"*\"]\nattempts = 2\ntimeout = \"700 ms\"\n\
    bytes_max = 1000\nprivate_hosts_allowed = [\"127.0.0.1\", \"files.test\"]\n";

/// Everything that a server may do, by path.
fn misbehave(request: &Request, stream: &mut TcpStream) {
    let port = request.host.rsplit(':').next().unwrap_or_default();
    let redirect = |stream: &mut TcpStream, to: &str| {
        reply(stream, "302 Found", &[&format!("Location: {to}")], b"");
    };
    match request.path.as_str() {
        "/ok" => reply(stream, "200 OK", &[], b"bytes"),
        "/chunked" => {
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbyt\r\n2\r\nes\r\n0\r\n\r\n",
            );
        }
        "/redirect" => redirect(stream, "/redirect-2"),
        "/redirect-2" => redirect(stream, &format!("http://files.test:{port}/ok")),
        "/loop" => redirect(stream, "/loop"),
        "/nowhere" => reply(stream, "301 Moved Permanently", &[], b""),
        "/to-name" => redirect(stream, &format!("http://inside.test:{port}/ok")),
        "/to-address" => redirect(stream, "http://169.254.169.254/latest/meta-data"),
        "/to-number" => redirect(stream, "http://[::ffff:169.254.169.254]/"),
        "/to-file" => redirect(stream, "file:///etc/passwd"),
        "/drip" => {
            reply(stream, "200 OK", &["Content-Length: 900"], b"");
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        "/silent" => while stream.write_all(b"").is_ok() && !closed(stream) {},
        "/endless" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            while stream.write_all(&[7; 512]).is_ok() {}
        }
        "/announced" => reply(stream, "200 OK", &["Content-Length: 1001"], b"x"),
        "/exact" => reply(stream, "200 OK", &[], &[1; 1000]),
        "/one-more" => reply(stream, "200 OK", &["Content-Length: 1001"], &[1; 1001]),
        "/short" => reply(stream, "200 OK", &["Content-Length: 900"], b"cut"),
        "/busy" if request.before == 0 => {
            reply(stream, "429 Too Many Requests", &["Retry-After: 1"], b"");
        }
        "/down" if request.before == 0 => reply(stream, "503 Service Unavailable", &[], b""),
        "/busy" | "/down" => reply(stream, "200 OK", &[], b"bytes"),
        "/broken" => reply(stream, "500 Internal Server Error", &[], b""),
        "/partial" => reply(stream, "206 Partial Content", &[], b"by"),
        "/opted-out" => reply(stream, "200 OK", &["X-Robots-Tag: nofollow, noai"], b"bytes"),
        "/for-others" => reply(stream, "200 OK", &["X-Robots-Tag: otherbot: noai"], b"bytes"),
        "/header" => {
            let header = format!("X-Long: {}", "x".repeat(1 << 20));
            reply(stream, "200 OK", &[&header], b"bytes");
        }
        "/gzip" => reply(stream, "200 OK", &["Content-Encoding: gzip"], b"\x1f\x8b bomb"),
        "/noise" => {
            let _ = stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n");
        }
        _ => reply(stream, "404 Not Found", &[], b""),
    }
}

/// Whether the other side has gone; waits a moment for it.
fn closed(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    matches!(stream.peek(&mut [0]), Ok(0))
}

#[test]
fn servers_may_do_anything_and_each_answer_has_its_outcome() {
    let server = Server::start(misbehave);
    let names = known(&[("files.test", "127.0.0.1"), ("inside.test", "127.0.0.1")]);
    for path in ["ok", "chunked", "redirect", "busy", "down", "for-others"] {
        let found = outcome(LOCAL, names.clone(), &server.url(path));
        assert_eq!(found, Fetched::Bytes(b"bytes".to_vec()), "{path}");
    }
    assert_eq!((server.asked("busy"), server.asked("down"), server.asked("ok")), (2, 2, 2));
    assert_eq!(
        outcome(LOCAL, names.clone(), &server.url("exact")),
        Fetched::Bytes(vec![1; 1000]),
        "the limit itself is allowed"
    );

    for (path, reason, words, asked) in [
        ("absent", Reason::FetchFailed, "404 Not Found", 1),
        ("loop", Reason::FetchFailed, "more than 5 redirects", 6),
        ("nowhere", Reason::FetchFailed, "does not say where", 1),
        ("to-name", Reason::UriNotAllowed, "inside.test leads to 127.0.0.1, this machine", 1),
        ("to-address", Reason::UriNotAllowed, "169.254.169.254, a link-local address", 1),
        ("to-number", Reason::UriNotAllowed, "private_hosts_allowed", 1),
        ("to-file", Reason::UriNotAllowed, "another scheme", 1),
        ("drip", Reason::FetchFailed, "longer than [fetch] timeout, 700ms, 2 tries", 2),
        ("silent", Reason::FetchFailed, "longer than [fetch] timeout, 700ms, 2 tries", 2),
        ("endless", Reason::TooManyBytes, "limit of 1000", 1),
        ("announced", Reason::TooManyBytes, "1001 bytes are more than the limit of 1000", 1),
        ("one-more", Reason::TooManyBytes, "1001", 1),
        ("short", Reason::FetchFailed, "2 tries", 2),
        ("broken", Reason::FetchFailed, "500 Internal Server Error, 2 tries", 2),
        ("partial", Reason::FetchFailed, "206", 1),
        ("opted-out", Reason::OptedOut, "X-Robots-Tag says noai", 1),
        ("header", Reason::FetchFailed, "2 tries", 2),
        ("gzip", Reason::FetchFailed, "content-encoding", 1),
        ("noise", Reason::FetchFailed, "2 tries", 2),
    ] {
        let url = server.url(path);
        let (said, why) = failed(LOCAL, names.clone(), &url);
        assert_eq!(said, reason, "{path}: {why}");
        assert!(why.contains(words) && why.starts_with(&url), "{path}: {why}");
        assert_eq!(server.asked(path), asked, "{path}: {why}");
    }

    let anyway = format!("{LOCAL}respect_opt_out = false\n");
    let found = outcome(&anyway, names, &server.url("opted-out"));
    assert_eq!(found, Fetched::Bytes(b"bytes".to_vec()));
}

#[test]
fn names_that_lead_inside_are_never_connected_to() {
    let server = Server::start(misbehave);
    let port = server.address.port();
    let all = "schemes = [\"http\"]\nhosts = [\"*\"]\n";
    let names = known(&[("inside.test", "127.0.0.1"), ("meta.test", "169.254.169.254")]);
    for host in ["inside.test", "meta.test", "127.0.0.1", "[::1]", "2130706433"] {
        let uri = format!("http://{host}:{port}/ok");
        let (reason, why) = failed(all, names.clone(), &uri);
        assert_eq!(reason, Reason::UriNotAllowed, "{why}");
        assert!(why.contains("private_hosts_allowed"), "{why}");
    }
    let (reason, why) = failed(all, names, &format!("http://nowhere.test:{port}/ok"));
    assert!(reason == Reason::FetchFailed && why.contains("no such name"), "{why}");

    // The system's own resolver is behind the same guard.
    let uri = format!("http://localhost:{port}/ok");
    let (reason, why) = failed(all, Arc::new(SystemNames), &uri);
    assert!(reason == Reason::UriNotAllowed && why.contains("localhost leads to"), "{why}");
    assert_eq!(server.asked("ok"), 0);
    let listed = format!("{all}private_hosts_allowed = [\"localhost\"]\n");
    let found = outcome(&listed, Arc::new(SystemNames), &uri);
    assert_eq!(found, Fetched::Bytes(b"bytes".to_vec()));

    for (uri, words) in [("ftp://a/b", "\"ftp\""), ("a.jpg", "no scheme")] {
        let (reason, why) = failed(all, known(&[]), uri);
        assert!(reason == Reason::UriNotAllowed && why.contains(words), "{why}");
    }
}

#[test]
fn a_broken_connection_is_tried_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    drop(listener);
    let (reason, why) = failed(LOCAL, known(&[]), &url);
    assert!(reason == Reason::FetchFailed && why.contains("2 tries"), "{why}");
}

#[test]
fn files_are_read_below_allowed_folders_only() {
    let place = tempfile::tempdir().expect("a folder");
    let path = |name: &str| place.path().join(name);
    let url = |name: &str| format!("file://{}", path(name).display());
    fs::create_dir_all(path("open/sub")).expect("it is writable");
    fs::create_dir_all(path("open-too")).expect("it is writable");
    fs::write(path("open/sub/a b.png"), b"bytes").expect("it is writable");
    fs::write(path("open/large"), [0; 1001]).expect("it is writable");
    fs::write(path("secret"), b"secret").expect("it is writable");
    fs::write(path("open-too/x"), b"secret").expect("it is writable");
    let link = std::os::unix::fs::symlink::<std::path::PathBuf, std::path::PathBuf>;
    link(path("secret"), path("open/out")).expect("a link");
    link(path("open/sub"), path("open/in")).expect("a link");
    link(place.path().to_path_buf(), path("open/up")).expect("a link");
    let made = std::process::Command::new("mkfifo").arg(path("open/pipe")).status();
    assert!(made.expect("mkfifo starts").success());
    let fetch = format!(
        "schemes = [\"file\"]\nfolders = [{:?}]\nbytes_max = 1000\n",
        path("open").display().to_string()
    );
    for name in ["open/sub/a%20b.png", "open/in/a%20b.png", "open/sub/../sub/a%20b.png"] {
        let found = outcome(&fetch, known(&[]), &url(name));
        assert_eq!(found, Fetched::Bytes(b"bytes".to_vec()), "{name}");
    }
    for (name, reason, words) in [
        ("secret", Reason::UriNotAllowed, "folders"),
        ("open/out", Reason::UriNotAllowed, "folders"),
        ("open/up/secret", Reason::UriNotAllowed, "folders"),
        ("open/../secret", Reason::UriNotAllowed, "folders"),
        ("open/..%2fsecret", Reason::UriNotAllowed, "folders"),
        ("open-too/x", Reason::UriNotAllowed, "folders"),
        ("absent", Reason::UriNotAllowed, "folders"),
        ("open/absent", Reason::FetchFailed, "No such file"),
        ("open/sub", Reason::FetchFailed, "no regular file"),
        ("open/pipe", Reason::FetchFailed, "no regular file"),
        ("open/large", Reason::TooManyBytes, "limit of 1000"),
    ] {
        let (said, why) = failed(&fetch, known(&[]), &url(name));
        assert!(said == reason && why.contains(words), "{name}: {said:?} {why}");
    }
}

#[test]
fn objects_come_from_allowed_buckets() {
    let server = Server::start(|request, stream| {
        let dated = ["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "ETag: \"1\""];
        match request.path.as_str() {
            "/photos/a/b.png" => reply(stream, "200 OK", &dated, b"bytes"),
            "/photos/large" => reply(stream, "200 OK", &dated, &[0; 1001]),
            _ => reply(stream, "404 Not Found", &[], b""),
        }
    });
    let fetch = format!(
        "schemes = [\"s3\"]\nbuckets = [\"photos\"]\nbytes_max = 1000\n[fetch.settings]\n\
         endpoint = \"http://{}\"\nskip_signature = \"true\"\nregion = \"us-east-1\"\n",
        server.address
    );
    let found = outcome(&fetch, known(&[]), "s3://photos/a/b.png");
    assert_eq!(found, Fetched::Bytes(b"bytes".to_vec()));
    for (uri, reason, words) in [
        ("s3://photos/absent", Reason::FetchFailed, "no such object"),
        ("s3://photos/large", Reason::TooManyBytes, "1001"),
        ("s3://others/a", Reason::UriNotAllowed, "buckets"),
    ] {
        let (said, why) = failed(&fetch, known(&[]), uri);
        assert!(said == reason && why.contains(words), "{said:?} {why}");
    }
}

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

#[test]
fn each_partition_keeps_its_order_whatever_takes_how_long() {
    let seed = 20_261_122;
    println!("seed {seed}");
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let at_once = most.clone();
    let server = Server::start(move |request, stream| {
        at_once.fetch_max(now.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
        let number: u64 = request.path[1..].parse().expect("a number");
        std::thread::sleep(Duration::from_millis(Dice(number).below(25)));
        // Before the answer: after it the next one may come at any time.
        now.fetch_sub(1, Ordering::AcqRel);
        match number % 7 {
            0 => reply(stream, "404 Not Found", &[], b""),
            1 if request.before == 0 => reply(stream, "503 Service Unavailable", &[], b""),
            _ => reply(stream, "200 OK", &[], number.to_string().as_bytes()),
        }
    });
    let mut dice = Dice(seed);
    let mut next = BTreeMap::new();
    let mut given = Vec::new();
    for number in 0..400_u64 {
        let partition = dice.below(5) as i32;
        let offset: &mut i64 = next.entry(partition).or_default();
        given.push(match dice.below(4) {
            0 => {
                let mut record = reference(partition, *offset, "");
                record.value = Some(b"inline".to_vec());
                Polled::Record(record)
            }
            1 => {
                let topic = "t".into();
                Polled::Progress { topic, partition, next_offset: *offset + 1 }
            }
            _ => Polled::Record(reference(partition, *offset, &server.url(&number.to_string()))),
        });
        *offset += 1;
    }
    let fetch = "schemes = [\"http\"]\nhosts = [\"*\"]\nper_host = 6\nin_flight = 16\n\
                 private_hosts_allowed = [\"*\"]\n";
    let mut source = fetching(given.clone(), fetch, known(&[]));
    let came = read(&mut source, given.len());
    let of = |polled: &[Polled], partition: i32| -> Vec<Polled> {
        let own = |polled: &&Polled| match polled {
            Polled::Record(record) => record.position.partition == partition,
            Polled::Progress { partition: p, .. } => *p == partition,
            Polled::Idle => false,
        };
        polled.iter().filter(own).cloned().collect()
    };
    let mut fetched = 0;
    for partition in 0..5 {
        let (sent, came) = (of(&given, partition), of(&came, partition));
        assert_eq!(sent.len(), came.len());
        for (sent, came) in sent.into_iter().zip(came) {
            let (Polled::Record(mut sent), Polled::Record(came)) = (sent.clone(), came.clone())
            else {
                assert_eq!(sent, came);
                continue;
            };
            if let Some(outcome) = &came.fetched {
                let text = String::from_utf8(sent.value.clone().expect("a value")).expect("JSON");
                let number = text.trim_end_matches("\"}").rsplit('/').next().expect("a number");
                let zero = number.parse::<u64>().expect("a number").is_multiple_of(7);
                match outcome {
                    Fetched::Bytes(bytes) => assert_eq!(bytes, number.as_bytes()),
                    Fetched::Failed(reason, _) => assert!(*reason == Reason::FetchFailed && zero),
                }
                fetched += 1;
                sent.fetched = came.fetched.clone();
            }
            assert_eq!(sent, came);
        }
    }
    assert!(fetched > 150, "{fetched}");
    assert!(came.iter().zip(&given).any(|(a, b)| a != b), "other partitions go on meanwhile");
    let most = most.load(Ordering::Acquire);
    assert!((2..=6).contains(&most), "{most} at once");
}

#[test]
fn what_is_read_ahead_is_bounded_and_others_go_on() {
    let (held, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, gate) = (held.clone(), open.clone());
    let server = Server::start(move |_, stream| {
        count.fetch_add(1, Ordering::AcqRel);
        while !gate.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(2));
        }
        reply(stream, "200 OK", &[], b"bytes");
    });
    // More than may be read ahead, behind one that hangs; and one record of another partition.
    let many = 2 * limits::FETCH_AHEAD_ROWS as i64;
    let mut given = vec![Polled::Record(reference(0, 0, &server.url("x")))];
    let mut other = reference(1, 0, "");
    other.value = Some(b"inline".to_vec());
    given.push(Polled::Record(other.clone()));
    given.extend((1..many).map(|offset| {
        let mut record = reference(0, offset, "");
        record.value = Some(b"inline".to_vec());
        Polled::Record(record)
    }));
    let fetch = "schemes = [\"http\"]\nhosts = [\"*\"]\nprivate_hosts_allowed = [\"*\"]\n";
    let mut source = fetching(given, fetch, known(&[]));
    assert_eq!(read(&mut source, 1), [Polled::Record(other)]);
    while held.load(Ordering::Acquire) == 0 {
        assert_eq!(source.poll(Duration::from_millis(5)), Ok(Polled::Idle));
    }
    for _ in 0..20 {
        assert_eq!(source.poll(Duration::from_millis(5)), Ok(Polled::Idle));
    }
    open.store(true, Ordering::Release);
    let came = read(&mut source, many as usize);
    let offsets = came.iter().map(|polled| match polled {
        Polled::Record(record) => record.position.offset,
        other => panic!("{other:?}"),
    });
    assert_eq!(offsets.collect::<Vec<_>>(), (0..many).collect::<Vec<_>>());
}
