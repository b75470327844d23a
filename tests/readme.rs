//! The commands that README shows, as they stand there, in the folder of a person who follows it.
//! Those on bringing images, buckets, exports and the console are tried where these are tested.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use everpair::scenes;
use serde_json::Value;
use tempfile::TempDir;

use crate::service::place::wait_until;

const SEED: u64 = 12;
const IMAGES: usize = 100;
const README: &str = include_str!("../README.md");

/// The first block of a language behind a heading.
fn block(heading: &str, language: &str) -> &'static str {
    let section = README.split(&format!("\n{heading}\n")).nth(1);
    let section = section.unwrap_or_else(|| panic!("no {heading:?} in README"));
    let block =
        section.split(&format!("```{language}\n")).nth(1).and_then(|b| b.split("```").next());
    block.unwrap_or_else(|| panic!("nothing of {language} behind {heading:?}"))
}

/// The folder, and the service once its command was met; it ends with this value.
struct Follower {
    folder: TempDir,
    service: Option<Child>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(service) = &mut self.service {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

impl Follower {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A line for the shell, whose words in capitals are those of this folder.
    fn shell(&self, line: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_everpair")).parent().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-ec", line]).current_dir(self.folder.path());
        command.env("PATH", format!("{}:/usr/bin:/bin", program.display()));
        command
    }

    /// What a line says on standard output; it must succeed.
    fn run(&self, line: &str) -> String {
        let output = self.shell(line).output().expect("there is a shell");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{line}\n{out}{err}");
        out
    }

    fn status(&self) -> Value {
        let said = self.run("everpair status --config data/everpair.toml --json");
        serde_json::from_str(&said).expect("JSON")
    }

    /// Follows a block; gives the names of the commands.
    fn follow(&mut self, block: &str, words: &[(&str, &str)]) -> Vec<String> {
        let mut commands = Vec::new();
        for line in block.lines() {
            let (command, _) = line.split_once('#').unwrap_or((line, ""));
            let command: Vec<&str> = command
                .split_whitespace()
                .map(|word| words.iter().find(|(of, _)| *of == word).map_or(word, |(_, is)| is))
                .collect();
            match command.as_slice() {
                // What is tested is built.
                ["cargo", "build"] => {}
                ["everpair", "run", ..] => {
                    let mut service = self.shell(&format!("exec {}", command.join(" ")));
                    let service = service.stderr(Stdio::null()).spawn().expect("it starts");
                    self.service = Some(service);
                    wait_until("all images are committed", || {
                        let latest = self.path("data/tables/_everpair/latest.json");
                        latest.exists() && self.status()["tables"]["images"]["rows"] == IMAGES
                    });
                }
                ["everpair", name, ..] => {
                    let said = self.run(&command.join(" "));
                    let quiet = ["push", "takedown", "block", "gc", "snapshot"].contains(name);
                    assert!(quiet || !said.is_empty(), "{line} says nothing");
                }
                other => panic!("{other:?} is no command that this test knows"),
            }
            commands.push(command[1].to_owned());
        }
        commands
    }
}

#[test]
fn a_person_who_follows_it_meets_no_error() {
    let mut at = Follower { folder: tempfile::tempdir().expect("a folder"), service: None };
    for (folder, count, seed) in [("photos", IMAGES, SEED), ("eval", 3, SEED + 1)] {
        fs::create_dir(at.path(folder)).expect("a folder");
        for number in 0..count {
            let scene = scenes::scene(number, seed);
            let file = at.path(&format!("{folder}/{number}.png"));
            fs::write(&file, &scene.jpeg_or_png).expect("a picture");
            if let Some(caption) = scene.caption {
                fs::write(file.with_extension("txt"), caption).expect("a caption");
            }
        }
    }
    fs::create_dir(at.path("data")).expect("a folder");
    // The config as it stands there, and small epochs, so that there are as many as it speaks of.
    let config = format!("{}[epoch]\nrows = 6\nlinger = \"50 ms\"\n", block("## Use it", "toml"));
    fs::write(at.path("data/everpair.toml"), config).expect("a config");

    let words = [("ID", "3.png"), ("NAME", "eval-set"), ("DIR", "eval")];
    let commands = at.follow(block("## Use it", "sh"), &words);
    let all = "build push run status verify takedown block validate";
    assert_eq!(commands.join(" "), all);
    wait_until("the take-down and the block are committed", || {
        let status = at.status();
        status["tables"]["images"]["rows"] == IMAGES - 1
            && status["benchmarks"]["eval-set"]["images"] == 3
    });
    assert!(at.status()["epoch"].as_u64() > Some(12), "{}", at.status()["epoch"]);
    let changes = at.run("everpair changes --config data/everpair.toml --since 0 --rows");
    let row: Value = changes
        .lines()
        .rev()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .find(|row: &Value| row["op"] == "insert")
        .expect("a triplet");
    let triplet = row["triplet_id"].as_str().expect("an id");
    let words = [("TRIPLET_ID", triplet)];
    let commands = at.follow(block("### Refresh, pin, trace", "sh"), &words);
    assert_eq!(commands.join(" "), "changes snapshot views explain gallery");
    let commands = at.follow(block("### Taking down", "sh"), &[("ID", "5.png")]);
    assert_eq!(commands.join(" "), "takedown gc gc");
    at.run("everpair verify --config data/everpair.toml");
    let service = at.service.as_mut().expect("it was started");
    assert_eq!(service.try_wait().expect("it can be asked"), None, "it still runs");
}
