//! What the program says: lines for people, JSON for machines, and never a secret.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use everpair::scenes;
use schemas::tables::ImageRow;
use serde_json::Value;

use crate::{
    console::{get, running_with},
    service::place::{DEADLINE, Message, Place},
};

/// Runs the program with these variables set; gives its exit code, standard output and error.
fn everpair(place: &Place, name: &str, arguments: &[&str], set: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.args(arguments).arg("--config").arg(place.path(&format!("{name}.toml")));
    let output = command.envs(set.iter().copied()).output().expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("an exit code"), String::from_utf8(text).expect("UTF-8"))
}

fn loaded() -> Place {
    let place = Place::new();
    place.configure("tables", "[epoch]\nlinger = \"50 ms\"\nrows = 30\n");
    place.log().send(scenes::scenes(70, 76).map(Message::from));
    place
}

const RUN: [&str; 2] = ["run", "--until-caught-up"];

#[test]
fn json_lines_tell_each_step_with_its_numbers() {
    let place = loaded();
    let arguments = [&RUN[..], &["--log-format", "json"]].concat();
    let (code, said) = everpair(&place, "tables", &arguments, &[]);
    assert_eq!(code, 0, "{said}");
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["target"].is_string(), "{line}");
        assert!(["INFO", "WARN"].contains(&line["level"].as_str().expect("a level")), "{line}");
    }
    let of = |words: &str| {
        let found = lines.iter().find(|line| line["message"].as_str().unwrap().starts_with(words));
        found.unwrap_or_else(|| panic!("no {words:?} in {said}"))
    };
    assert_eq!(of("everpair ")["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(of("restored: ")["rows"], 0);
    let epochs: Vec<&Value> = lines.iter().filter(|line| line["images"].is_number()).collect();
    assert!(epochs.len() >= 3, "{said}");
    assert_eq!(epochs.iter().filter_map(|line| line["images"].as_u64()).sum::<u64>(), 70);
    for line in &epochs {
        assert!(line["seconds"].as_f64().is_some_and(|took| took > 0.0), "{line}");
    }
    of("caught up");
    assert_eq!(of("stopped: ")["epoch"], place.epoch("tables"));
}

/// A start says how much it has to read, and reads just that; while it lasts it says how far it is.
#[test]
fn a_start_tells_what_is_done_of_how_much() {
    let place = loaded();
    let (code, said) = everpair(&place, "tables", &RUN, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("restoring: "), "there was nothing to read: {said}");
    let (code, said) = everpair(&place, "tables", &RUN, &[]);
    assert_eq!(code, 0, "{said}");
    let images = place.rows::<ImageRow>("tables").len();
    let told = |begins: &str, ends: &str| {
        let line = said.lines().find_map(|line| line.split_once(begins)?.1.split_once(ends));
        line.unwrap_or_else(|| panic!("no {begins:?} … {ends:?} in {said}")).0.replace(',', "")
    };
    assert_eq!(told("restoring: 0 of ", " images read"), images.to_string());
    let (all, read) = (told("images read, 0 of ", " rows"), told("restored: epoch ", " rows in"));
    assert_eq!(read.split(' ').nth(1), Some(&*all), "{said}");
}

#[test]
fn levels_come_from_an_argument_or_a_variable() {
    let place = loaded();
    let (code, said) = everpair(&place, "tables", &RUN, &[("EVERPAIR_LOG", "warn")]);
    assert_eq!((code, said.as_str()), (0, ""));
    let louder = [&RUN[..], &["--log-level", "info"]].concat();
    let (_, said) = everpair(&place, "tables", &louder, &[("EVERPAIR_LOG", "off")]);
    assert!(said.contains("Z everpair ") && said.contains("caught up"), "{said}");
    let (code, said) = everpair(&place, "tables", &RUN, &[("EVERPAIR_LOG", "loud=yes")]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("loud=yes") && said.contains("librdkafka=debug"), "{said}");
    // Off is off, but not without a word of why it failed.
    place.configure("tables", "[pairs]\ntargets_per_query = 2\n");
    let (code, said) = everpair(&place, "tables", &RUN, &[("EVERPAIR_LOG", "off")]);
    assert_eq!(code, 1, "{said}");
    assert!(said.starts_with("error: ") && said.contains("--apply"), "{said}");
}

/// Secrets in every place that may hold one, and everything that the program says of them.
#[test]
fn secrets_are_never_shown() {
    let secrets = ["zebra-pass-1", "zebra-key-2", "zebra-pem-3", "zebra-env-4", "zebra-url-5"];
    let environment = [
        ("AWS_ACCESS_KEY_ID", "zebra"),
        ("AWS_SECRET_ACCESS_KEY", secrets[3]),
        ("AWS_SESSION_TOKEN", secrets[3]),
    ];
    let place = Place::new();
    let mut heard = 0;
    let mut hear = |name: &str, arguments: &[&str], code: i32, words: &str| {
        for more in [&[][..], &["--log-format", "json", "--log-level", "trace"]] {
            let more = if arguments[0] == "run" { more } else { &[] };
            let (ended, said) = everpair(&place, name, &[arguments, more].concat(), &environment);
            assert_eq!(ended, code, "{arguments:?}: {said}");
            assert!(said.contains(words), "no {words:?} in {said}");
            for secret in secrets {
                assert!(!said.contains(secret), "{secret} in {said}");
            }
            heard += 1;
        }
    };
    let settings = format!(
        "\"sasl.password\" = \"{}\"\n\"ssl.key.password\" = \"{}\"\n\"ssl.key.pem\" = '''\n\
         -----BEGIN PRIVATE KEY-----\n{}{}\n-----END PRIVATE KEY-----\n'''\n",
        secrets[0],
        secrets[1],
        secrets[2],
        "A".repeat(30)
    );
    let kafka = |more: &str, root: &str| {
        format!(
            "[source]\nbrokers = \"127.0.0.1:1\"\ntopics = [\"images\"]\n[source.settings]\n\
             {settings}{more}\n[tables]\nroot = \"{root}\"\n"
        )
    };
    let write = |name: &str, text: &str| {
        fs::write(place.path(&format!("{name}.toml")), text).expect("a config can be written");
    };
    // Nobody answers at port 1; a setting is wrong; one that is no text; TOML that is none.
    write("broker", &kafka("\"socket.timeout.ms\" = \"1000\"", "tables"));
    hear("broker", &["status"], 1, "no tables at ");
    write("setting", &kafka("\"no.such.setting\" = \"1\"", "tables"));
    hear("setting", &["run"], 1, "[source] settings");
    hear("setting", &["validate"], 1, "FAILED");
    hear("setting", &["validate", "--json"], 1, "failed");
    let wrong = format!("\"sasl.oauthbearer.client.secret\" = [\"{}\"]", secrets[0]);
    write("text", &kafka(&wrong, "tables"));
    hear("text", &["run"], 2, "***");
    let wrong = format!("\"other.password\" = \"{}\" x", secrets[0]);
    write("toml", &kafka(&wrong, "tables"));
    hear("toml", &["run"], 2, "***");
    // A store that nobody is at, and one whose root has a user.
    let user = format!("s3://me:{}@bucket/tables", secrets[4]);
    write("user", &kafka("", &user));
    hear("user", &["run"], 1, "does not belong into the root");
    hear("user", &["validate"], 1, "does not belong into the root");
    let shared =
        format!("s3://bucket/t\"\n[tables.settings]\nsecret_access_key = \"{}", secrets[1]);
    write("shared", &kafka("", &shared));
    hear("shared", &["run"], 1, "environment variables");
    assert!(heard >= 9);

    // A config as a debugger or a panic would show it.
    let config = schemas::config::Config::parse(&kafka("", "tables")).expect("a config");
    let shown = format!("{config:?}");
    assert!(shown.contains("sasl.password") && !shown.contains("zebra"), "{shown}");

    // The console, of a service whose config has a secret that nobody asks for.
    let more = format!("[source.settings]\n{settings}");
    let (service, at) = running_with(&place, 40, &more);
    for path in ["/status", "/metrics", "/readyz", "/healthz"] {
        assert!(!get(at, path).body.contains("zebra"), "{path}");
    }
    assert!(!service.said().contains("zebra"));
}

/// What a service says until it has said these words, and after this signal.
fn said_until(
    place: &Place,
    name: &str,
    set: &[(&str, &str)],
    words: &[&str],
    signal: &str,
) -> String {
    let log = place.path(&format!("{name}.log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
    command.args(["run", "--log-level", "trace", "--config"]);
    command.arg(place.path(&format!("{name}.toml"))).envs(set.iter().copied());
    command.stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a log"));
    let mut child = command.spawn().expect("the program starts");
    let mut said = String::new();
    let began = Instant::now();
    let all = |said: &str| words.iter().all(|words| said.contains(words));
    while !all(&said) && began.elapsed() < DEADLINE {
        std::thread::sleep(Duration::from_millis(10));
        said = fs::read_to_string(&log).expect("the log");
    }
    assert!(all(&said), "not all of {words:?} in {said}");
    let signal = format!("kill -{signal} {}", child.id());
    Command::new("sh").args(["-c", &signal]).status().expect("a shell");
    while child.try_wait().expect("it can be asked").is_none() {
        assert!(began.elapsed() < 2 * DEADLINE, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    fs::read_to_string(&log).expect("the log")
}

/// A broker and a store that do not answer, with the words of their clients that come out.
#[test]
fn what_fails_over_and_over_shows_no_secret() {
    let place = Place::new();
    let text = "[source]\nbrokers = \"127.0.0.1:1\"\ntopics = [\"images\"]\n[source.settings]\n\
                \"security.protocol\" = \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"PLAIN\"\n\
                \"sasl.username\" = \"me\"\n\"sasl.password\" = \"zebra-pass-1\"\n\
                \"debug\" = \"all\"\n[tables]\nroot = \"tables\"\n";
    fs::write(place.path("broker.toml"), text).expect("a config can be written");
    // What the client has said and nobody asked it for yet comes out at the end, if it comes.
    let words = ["still trying", "warning: kafka: "];
    let said = said_until(&place, "broker", &[], &words, "TERM");
    assert!(!said.contains("zebra"), "{said}");

    let text = "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"s3://bucket/tables\"\n\
                [tables.settings]\nendpoint = \"http://127.0.0.1:1\"\nregion = \"x\"\n";
    fs::write(place.path("store.toml"), text).expect("a config can be written");
    let keys = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "zebra-env-4")];
    let said = said_until(&place, "store", &keys, &["retry 2"], "KILL");
    assert!(!said.contains("zebra"), "{said}");
}
