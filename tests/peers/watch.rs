//! A reader at work while others write: DuckDB opens what `latest.json` names, again and again.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    thread::JoinHandle,
};

use serde_json::Value;

use super::{pipeline::CONTRADICTIONS, readers};

/// What no version that a page names may hold: rows of a later epoch.
const AHEAD: [&str; 4] = ["images", "pairs", "triplets", "changes"];

/// The reader; it ends with this value.
pub struct Watch {
    process: Child,
    stdin: Option<ChildStdin>,
    lines: Option<JoinHandle<Vec<String>>>,
}

/// What it saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub epochs: BTreeSet<u64>,
    /// Most triplets that one of them had.
    pub triplets: u64,
}

impl Watch {
    /// Watches the tables under `root`, on this server if they are in S3.
    pub fn start(root: &str, server: Option<&str>) -> Watch {
        let mut command: Command = readers::python();
        readers::find(&mut command, server);
        command.args(["watch", root, "SELECT count(*) FROM triplets"]);
        for (_, from) in CONTRADICTIONS {
            command.arg(format!("SELECT count(*) FROM {from}"));
        }
        for table in AHEAD {
            let of = "WHERE epoch > getvariable('epoch')";
            command.arg(format!("SELECT count(*) FROM {table} {of}"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the reader starts");
        let out = BufReader::new(process.stdout.take().expect("it is piped"));
        // Read all the time: a full pipe would stop it.
        let lines = std::thread::spawn(|| out.lines().map_while(Result::ok).collect());
        Watch { stdin: process.stdin.take(), process, lines: Some(lines) }
    }

    /// Ends it; panics if an epoch contradicted itself or could not be read.
    pub fn finish(mut self) -> Seen {
        // The end of its input is its sign to end.
        drop(self.stdin.take());
        let mut seen = Seen::default();
        let lines = self.lines.take().map(JoinHandle::join).expect("it ends once");
        for line in lines.expect("the thread reads to the end") {
            let numbers: Vec<Value> = serde_json::from_str(&line).expect("JSON");
            let numbers: Vec<u64> = numbers.iter().filter_map(Value::as_u64).collect();
            let [epoch, triplets, counts @ ..] = &numbers[..] else { panic!("{line}") };
            assert_eq!(counts.len(), CONTRADICTIONS.len() + AHEAD.len(), "{line}");
            for (at, count) in counts.iter().enumerate() {
                let what = CONTRADICTIONS.get(at).map_or("row of a later epoch", |(name, _)| name);
                assert_eq!(*count, 0, "epoch {epoch}: {what}");
            }
            seen.epochs.insert(*epoch);
            seen.triplets = seen.triplets.max(*triplets);
        }
        let ended = self.process.wait().expect("it ends");
        assert!(ended.success(), "the reader failed after {seen:?}: what it said is above");
        seen
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
