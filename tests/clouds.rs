//! Tables in Azure's and Google's object stores, on servers that stand in for them: what a folder
//! holds they hold too, after replaces, take-downs, a kill and a collection.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use everpair::scenes;
use serde_json::Value;

use crate::{
    peers::{peer, readers},
    place::{Message, Place, wait_until},
};

const SEED: u64 = 31;
const IMAGES: usize = 150;
/// Azurite's own, which everybody knows.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A server of a cloud, which ends with this value.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Starts what `command` gives for a free port, and waits until it listens.
    fn start(command: impl Fn(u16) -> Command) -> Server {
        // The port may be taken in between; then another.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = free.local_addr().expect("it is bound").port();
            drop(free);
            let mut command = command(port);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            let mut server = Server { process, port };
            let mut ended = false;
            wait_until("it listens", || {
                ended = server.process.try_wait().expect("it can be asked").is_some();
                ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            if !ended {
                return server;
            }
        }
        panic!("the server ends as soon as it is started");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request that makes a container, signed as Azure wants it.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, sys, urllib.request
from email.utils import formatdate
port, account, key, name = sys.argv[1:]
head = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
lines = ["PUT"] + [""] * 11 + [f"{name}:{value}" for name, value in sorted(head.items())]
text = "\n".join(lines + [f"/{account}/{account}/{name}", "restype:container"])
mac = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
head["Authorization"] = f"SharedKey {account}:{base64.b64encode(mac).decode()}"
url = f"http://127.0.0.1:{port}/{account}/{name}?restype=container"
request = urllib.request.Request(url, method="PUT", headers=head)
assert urllib.request.urlopen(request).status == 201
"#;

fn sent(numbers: std::ops::Range<usize>) -> impl Iterator<Item = Message> {
    numbers.map(|number| Message::from(scenes::scene(number, SEED)))
}

/// All of an export that does not depend on where epochs end.
fn rows(place: &Place, export: &Path) -> Vec<(&'static str, Vec<Value>)> {
    let script = place.path("nothing.sql");
    fs::write(&script, "SELECT 1;").expect("the folder is writable");
    let all = |(table, order): (&'static str, &str)| {
        let files = export.join(table).join("*.parquet").display().to_string();
        let query = format!("SELECT * EXCLUDE (epoch) FROM '{files}' ORDER BY {order}");
        (table, readers::duckdb_script(&script, &query))
    };
    let tables = [
        ("images", "image_id"),
        ("pairs", "query_id, target_id"),
        ("triplets", "triplet_id"),
        ("embeddings", "content_id, channel"),
    ];
    tables.map(all).into()
}

/// The same messages into a folder and into `root`; `key` is the variable that says who asks.
fn same_as_a_folder(root: &str, settings: &str, key: Option<(&str, &str)>) {
    println!("seed {SEED}");
    let place = Place::new();
    let rules = "[triplets]\nkeep = \"mined\"\n[epoch]\nrows = 20\nlinger = \"100 ms\"\n";
    place.configure("folder", rules);
    place.configure_at("cloud", root, &format!("{settings}{rules}"));
    let run = |arguments: &[&str]| {
        let mut command = place.command("cloud", arguments);
        command.envs(key);
        let output = command.output().expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {out}{err}");
        out + &err
    };
    let mut log = place.log();
    log.send(sent(0..IMAGES));
    let said = run(&["validate"]);
    assert!(said.contains("of two writers at once one wins"), "{said}");
    // Killed in the middle, and again a little later.
    for messages in [20, 60] {
        let mut command = place.command("cloud", &["run"]);
        let errors = fs::File::create(place.path("killed")).expect("a file");
        let mut child =
            command.envs(key).stdout(Stdio::null()).stderr(errors).spawn().expect("runs");
        let committed = || {
            let said = fs::read_to_string(place.path("killed")).expect("its words");
            said.matches("committed in").count() * 20 >= messages / 2
        };
        wait_until("some epochs are committed", committed);
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    run(&["run", "--until-caught-up"]);
    log.send((0..10).map(|number| Message::tombstone(&scenes::scene(number, SEED).id)));
    log.send((10..20).map(|number| Message::from(scenes::replacement(number, 1, SEED))));
    log.send(sent(IMAGES..IMAGES + 30));
    run(&["run", "--until-caught-up"]);
    run(&["verify"]);
    let said = run(&["gc", "--take-over"]);
    assert!(said.contains(" 0 findings"), "{said}");
    run(&["verify"]);
    place.catch_up("folder");
    // Its memo is to be as long.
    place.everpair("folder", &["gc", "--take-over"]).ended(0);

    let export = ["export", "--format", "parquet", "--to"];
    let [folder, cloud] = ["folder-rows", "cloud-rows"].map(|name| place.path(name));
    let to = |path: &Path| path.display().to_string();
    place.everpair("folder", &[&export[..], &[&to(&folder)]].concat()).ended(0);
    run(&[&export[..], &[&to(&cloud)]].concat());
    let (folder, cloud) = (rows(&place, &folder), rows(&place, &cloud));
    for ((table, one), (_, other)) in folder.iter().zip(&cloud) {
        let differs = one.iter().zip(other).find(|(one, other)| one != other);
        assert!(
            one.len() == other.len() && differs.is_none(),
            "{table}: {} and {} rows, {differs:#?}",
            one.len(),
            other.len()
        );
        assert!(one.len() > 100, "{table} has rows to compare: {}", one.len());
    }
}

#[test]
fn azure_holds_what_a_folder_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let azurite = peer("EVERPAIR_AZURITE");
    let server = Server::start(|port| {
        let mut command = Command::new(&azurite);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location"]);
        command.arg(folder.path()).args(["--skipApiVersionCheck", "--disableTelemetry"]);
        command
    });
    let mut make = Command::new(peer("EVERPAIR_PYTHON"));
    make.args(["-c", MAKE_CONTAINER, &server.port.to_string(), ACCOUNT, KEY, "box"]);
    assert!(make.status().expect("Python starts").success());
    let settings = format!(
        "[tables.settings]\naccount_name = \"{ACCOUNT}\"\n\
         endpoint = \"http://127.0.0.1:{}/{ACCOUNT}\"\n",
        server.port
    );
    let key = ("AZURE_STORAGE_ACCOUNT_KEY", KEY);
    same_as_a_folder("az://box/some/tables", &settings, Some(key));
}

/// With writes refused that follow one of the same name within a second, and requests that fail.
#[test]
fn gs_holds_what_a_folder_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let account = folder.path().join("account.json");
    let server = Server::start(|port| {
        let mut command = Command::new(peer("EVERPAIR_PYTHON"));
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/gcs.py");
        command.arg(program).args([&port.to_string(), "some-box"]).arg(&account);
        command
    });
    let settings = format!("[tables.settings]\nbase_url = \"http://127.0.0.1:{}\"\n", server.port);
    let key = ("GOOGLE_APPLICATION_CREDENTIALS", account.to_str().expect("UTF-8"));
    same_as_a_folder("gs://some-box/some/tables", &settings, Some(key));
}
