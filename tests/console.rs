//! The console of the real program, asked over a plain socket.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use everpair::scenes;
use serde_json::Value;

use crate::service::place::{DEADLINE, Message, Place, Running, wait_until};

const CONSOLE: &str =
    "[epoch]\nlinger = \"50 ms\"\nrows = 40\n[service]\nlisten = \"127.0.0.1:0\"\n";

/// One answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}:\n{}", self.body))
    }
}

/// Where the console of a service listens, by what it said.
pub fn address(service: &mut Running) -> SocketAddr {
    let mut address = None;
    wait_until("it says where the console is", || {
        let said = service.said();
        let line = said.lines().find_map(|line| line.split("console: http://").nth(1));
        address = line.and_then(|text| text.trim().parse().ok());
        address.is_some()
    });
    address.expect("it was found")
}

pub fn send(to: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(to).expect("the console listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream.write_all(request.as_bytes()).expect("the console reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the console answers and closes");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

pub fn ask(to: SocketAddr, method: &str, path: &str) -> Answer {
    send(to, &format!("{method} {path} HTTP/1.1\r\nhost: console\r\n\r\n"))
}

pub fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, "GET", path)
}

/// A service that has taken in some scenes and follows its log.
pub fn running(place: &Place, count: usize) -> (Running, SocketAddr) {
    running_with(place, count, "")
}

/// The same with more in its config.
pub fn running_with(place: &Place, count: usize, more: &str) -> (Running, SocketAddr) {
    place.configure("tables", &format!("{CONSOLE}{more}"));
    place.log().send(scenes::scenes(count, 76).map(Message::from));
    let mut service = place.start("tables");
    let address = address(&mut service);
    service.wait_until("it is ready", || {
        let flow = get(address, "/status").json();
        get(address, "/readyz").status == 200
            && flow["live"]["lag_messages"] == 0
            && flow["run"]["requests_waiting"] == 0
            && flow["live"]["cut"]["messages"] == 0
            && flow["live"]["open"]["messages"] == 0
            && flow["epoch"].as_u64() > Some(1)
    });
    (service, address)
}

#[test]
fn it_answers_what_it_has_and_names_it_otherwise() {
    let place = Place::new();
    let (_service, at) = running(&place, 60);
    let healthy = get(at, "/healthz");
    assert_eq!(healthy.status, 200, "{}", healthy.body);
    assert!(healthy.head.contains("content-type: application/json"), "{}", healthy.head);
    let threads = &healthy.json()["seconds_since_sign_of_life"];
    for name in ["ingest", "committer", "worker-0"] {
        assert!(threads[name].as_f64().is_some_and(|age| age < 60.0), "{name}: {threads}");
    }
    for path in ["/healthz", "/readyz", "/status", "/metrics"] {
        let head = ask(at, "HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let refused = ask(at, "POST", path);
        assert_eq!(refused.status, 405, "{path}");
        assert!(refused.head.contains("allow: get, head"), "{}", refused.head);
        let missing = get(at, "/nothing");
        assert_eq!(missing.status, 404);
        assert!(missing.body.contains(path), "{}", missing.body);
    }
    assert_eq!(get(at, "/healthz?probe=1").status, 200);
    assert_eq!(send(at, "what is this\r\n\r\n").status, 400);
    let long = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let mut stream = TcpStream::connect(at).expect("the console listens");
    // It may close before all is written.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "a head of 100 kB is refused");
    assert_eq!(get(at, "/healthz").status, 200);
}

/// `/status` is `everpair status --json`, without reading a table, and it is so after a restart too.
#[test]
fn status_is_the_same_live_and_from_the_tables() {
    let place = Place::new();
    let (service, at) = running(&place, 90);
    let mut bad = place.log();
    bad.send([Message { key: "bad".into(), value: Some(b"no image".to_vec()), headers: vec![] }]);
    bad.send([Message::tombstone(&scenes::scene(3, 76).id)]);
    let caught_up = |at| {
        let live = get(at, "/status").json();
        live["rejects"]["unknown_format"] == 1
            && live["live"]["lag_messages"] == 0
            && live["run"]["requests_waiting"] == 0
    };
    wait_until("the last two messages", || caught_up(at));
    for (mut service, at) in [(service, at), {
        let mut again = place.start("tables");
        let at = address(&mut again);
        again.wait_until("it is ready again", || get(at, "/readyz").status == 200);
        (again, at)
    }] {
        // The second of them has fenced the first, which may be gone.
        if service.ended().is_some() {
            continue;
        }
        let mut live = get(at, "/status").json();
        let said = place.everpair("tables", &["status", "--json"]).ended(0);
        let mut told: Value = serde_json::from_str(&said.out).expect("JSON");
        for page in [&mut live, &mut told] {
            let page = page.as_object_mut().expect("an object");
            page.remove("run").expect("counters of the run");
            page.remove("live");
            // Counted from the rows of `rejects`, which a probe does not read.
            page.remove("benchmarks");
            // The restart takes the tables over, one version more each.
            page.remove("generation").expect("a generation");
            for table in page["tables"].as_object_mut().expect("tables").values_mut() {
                table.as_object_mut().expect("sizes").remove("version").expect("a version");
            }
        }
        assert_eq!(live, told);
    }
}

#[test]
fn it_is_ready_only_while_it_follows_the_source() {
    let place = Place::new();
    // Nothing to read yet: there is no partition.
    let slow = CONSOLE.replace("50 ms", "5 s").replace("rows = 40", "rows = 400");
    place.configure("tables", &format!("{slow}ready_lag = 5\n"));
    let mut service = place.start("tables");
    let at = address(&mut service);
    service.wait_until("it waits for the source", || {
        let page = get(at, "/readyz");
        page.status == 503 && page.json()["why"].to_string().contains("the source does not answer")
    });
    assert_eq!(get(at, "/healthz").status, 200);
    // Then far more than ready_lag allows, and an epoch that waits for more.
    place.log().send(scenes::scenes(200, 76).map(Message::from));
    service.wait_until("it is behind", || {
        let page = get(at, "/readyz").json();
        page["ready"] == false && page["why"].to_string().contains("ready_lag is 5")
    });
    service.wait_until("it has caught up", || get(at, "/readyz").status == 200);
    service.terminate();
    assert_eq!(service.wait().0, Some(0));
    assert!(TcpStream::connect(at).is_err(), "the console ends with the service");
}

#[test]
fn slow_clients_block_nothing() {
    let place = Place::new();
    let (mut service, at) = running(&place, 40);
    // More than there are places, and none of them ever finishes its request.
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(at).expect("a connection");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nx: ").expect("it can be written to");
            stream
        })
        .collect();
    let began = Instant::now();
    assert_eq!(get(at, "/healthz").status, 200);
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(60), "{waited:?}");
    let committed = place.committed("tables");
    place.log().send(scenes::late_arrivals(40, 5, 76).map(Message::from));
    service.wait_until("five more are committed", || place.committed("tables") == committed + 5);
    drop(slow);
    service.terminate();
    assert_eq!(service.wait().0, Some(0));
}

#[test]
fn a_port_that_is_taken_is_said() {
    let place = Place::new();
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("an address");
    place.configure("tables", &format!("[service]\nlisten = \"{address}\"\n"));
    let said = place.everpair("tables", &["run"]).ended(1);
    said.says(&format!("listen = \"{address}\"")).says("in use");
    place.configure("tables", "[service]\nlisten = \"8080\"\n");
    place.everpair("tables", &["run"]).ended(2).says("listen");
}
