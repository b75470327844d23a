//! A folder with a file log, configs and tables, and the program at work on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use everpair::{
    cli::read_config,
    dataset::{At, Dataset},
    delta::{self, Commit, Store, Table},
    scenes::Scene,
    service::{open_store, specs},
    source::files::FileLog,
    verify::Tables,
};
use schemas::{
    config::Config,
    tables::{Row, to_batch},
};
use serde_json::Value;
use tempfile::TempDir;

/// What takes longer than this has failed. Far above what it takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(300);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Waits for `done`; panics with `what` past the deadline.
pub fn wait_until(what: &str, done: impl FnMut() -> bool) {
    wait_within(DEADLINE, what, done);
}

fn wait_within(time: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < time, "{what}: not within {time:?}");
        std::thread::sleep(LOOK);
    }
}

/// Numbers that are the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % limit
    }
}

/// One message.
#[derive(Clone)]
pub struct Message {
    pub key: String,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

impl Message {
    pub fn tombstone(key: &str) -> Message {
        Message { key: key.to_owned(), value: None, headers: Vec::new() }
    }

    pub fn with(mut self, header: &str, text: &str) -> Message {
        self.headers.retain(|(name, _)| name != header);
        self.headers.push((header.to_owned(), text.to_owned()));
        self
    }
}

impl From<Scene> for Message {
    fn from(scene: Scene) -> Message {
        let caption = scene.caption.into_iter().map(|text| ("caption".to_owned(), text));
        Message { key: scene.id, value: Some(scene.jpeg_or_png), headers: caption.collect() }
    }
}

/// How a command ended and what it said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Panics with what was said unless it ended with this code.
    pub fn ended(self, code: i32) -> Said {
        assert_eq!(self.code, Some(code), "it said:\n{}\n{}", self.out, self.err);
        self
    }

    /// Panics unless standard error has these words.
    pub fn says(self, words: &str) -> Said {
        assert!(self.err.contains(words), "no {words:?} in:\n{}", self.err);
        self
    }
}

/// The folder. Configs are files in it, named by their stem; all of them read the same log.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the config NAME, whose tables are in the folder NAME.
    pub fn configure(&self, name: &str, rest: &str) {
        self.configure_at(name, name, rest);
    }

    /// The same with tables elsewhere: in S3, whose keys every command gets.
    pub fn configure_at(&self, name: &str, root: &str, rest: &str) {
        let text =
            format!("[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = {root:?}\n{rest}");
        fs::write(self.path(&format!("{name}.toml")), text).expect("a config can be written");
    }

    /// The log, of three partitions.
    pub fn log(&self) -> Log {
        let log = FileLog::in_folder(&self.path("log"), 3).expect("a log can be made");
        Log { log, count: 0 }
    }

    /// A command of the program with a config, not started yet.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        command.args(arguments).arg("--config").arg(self.path(&format!("{name}.toml")));
        // Any will do.
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command
    }

    /// Runs a command to its end.
    pub fn everpair(&self, name: &str, arguments: &[&str]) -> Said {
        let output = self.command(name, arguments).output().expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// `run --until-caught-up`, which must succeed.
    pub fn catch_up(&self, name: &str) {
        self.everpair(name, &["run", "--until-caught-up"]).ended(0);
    }

    /// `verify`, which must find nothing.
    pub fn verify(&self, name: &str) {
        self.everpair(name, &["verify"]).ended(0);
    }

    /// `run`, until it is stopped.
    pub fn start(&self, name: &str) -> Running {
        self.start_with(name, &[])
    }

    /// The same with more arguments.
    pub fn start_with(&self, name: &str, more: &[&str]) -> Running {
        let errors =
            tempfile::NamedTempFile::new_in(self.folder.path()).expect("a file for errors");
        let stderr = errors.reopen().expect("the file opens twice");
        let mut command = self.command(name, &[&["run"], more].concat());
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn();
        Running { child: child.expect("the program starts"), errors: errors.into_temp_path() }
    }

    pub fn config(&self, name: &str) -> Config {
        read_config(&self.path(&format!("{name}.toml"))).expect("a config that can be read")
    }

    pub fn store(&self, name: &str) -> Store {
        open_store(&self.config(name)).expect("tables that can be opened")
    }

    pub fn tables(&self, name: &str) -> Tables {
        Tables::read(&self.store(name)).expect("tables that can be read")
    }

    /// The live rows of a table that [`Tables`] does not have.
    pub fn rows<R: Row>(&self, name: &str) -> Vec<R> {
        let dataset = Dataset::open(&self.store(name), &At::Latest).expect("a committed epoch");
        dataset.rows().expect("rows that can be read")
    }

    /// A table's newest version, whether its epoch became real or not.
    pub fn newest(&self, name: &str, table: &str) -> Option<Table> {
        let spec = specs().into_iter().find(|spec| spec.name == table).expect("a table's name");
        Table::open(&self.store(name), &spec, None).expect("a table that can be read")
    }

    fn json(&self, name: &str, page: &str) -> Option<Value> {
        let text = fs::read(self.path(name).join("_everpair").join(page)).ok()?;
        Some(serde_json::from_slice(&text).expect("pages are replaced whole"))
    }

    /// What readers are told; `None` before the first epoch.
    pub fn latest(&self, name: &str) -> Option<Value> {
        self.json(name, "latest.json")
    }

    /// The counters of the newest run.
    pub fn counters(&self, name: &str) -> Option<Value> {
        self.json(name, "status.json")
    }

    /// Messages that are committed.
    pub fn committed(&self, name: &str) -> i64 {
        let Some(latest) = self.latest(name) else { return 0 };
        let next = latest["offsets"]["files"].as_object().into_iter().flatten();
        next.map(|(_, next)| next.as_i64().expect("an offset")).sum()
    }

    /// The newest committed epoch.
    pub fn epoch(&self, name: &str) -> u64 {
        self.latest(name).map_or(0, |latest| latest["epoch"].as_u64().expect("an epoch"))
    }

    /// Commits that a table has.
    pub fn commits(&self, name: &str, table: &str) -> usize {
        files(&self.path(name).join(table).join("_delta_log"))
            .into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|end| end == "json"))
            .count()
    }

    /// Commits rows of an epoch to a memo, as a service that was killed before the epoch became real.
    pub fn memo_ahead<R: Row>(&self, name: &str, epoch: u64, rows: &[R]) {
        let store = self.store(name);
        let publisher = delta::start(&store, &specs()).expect("the tables can be taken over");
        let insert = vec![to_batch(rows).expect("rows")];
        let spec = specs().into_iter().find(|spec| spec.name == R::TABLE.as_str());
        let spec = spec.expect("a table");
        let mut memo = Table::claim(&store, &spec, publisher.generation()).expect("ours");
        memo.commit(Commit { epoch, insert, ..Commit::default() }).expect("a commit");
    }

    /// Requests that wait.
    pub fn requests(&self, name: &str) -> usize {
        files(&self.path(name).join("_everpair/requests")).len()
    }
}

/// All files below a folder, with their sizes.
pub fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(about) = entry.metadata() {
            found.push((path, about.len()));
        }
    }
    found
}

/// The log, and how many messages it has.
pub struct Log {
    log: FileLog,
    pub count: i64,
}

impl Log {
    pub fn send(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            let value = message.value.as_deref();
            self.log.append(&message.key, value, &message.headers).expect("a log takes messages");
            self.count += 1;
        }
        self.log.sync().expect("a log can be synced");
    }
}

/// A service; killed when this is dropped.
pub struct Running {
    child: Child,
    errors: tempfile::TempPath,
}

impl Running {
    /// What it said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.errors).expect("standard error went to a file")
    }

    /// The file with what it says.
    pub fn errors(&self) -> PathBuf {
        self.errors.to_path_buf()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        let command = format!("kill -TERM {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &command]).status().expect("a shell");
        assert!(sent.success(), "{command}");
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        assert_eq!(self.ended(), None, "it ended by itself:\n{}", self.said());
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child ends");
    }

    /// Waits for its end, and gives its exit code and what it said.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_until("the end of the service", || {
            status = self.ended();
            status.is_some()
        });
        (status.and_then(|status| status.code()), self.said())
    }

    /// Waits for `done` while it lives.
    pub fn wait_until(&mut self, what: &str, done: impl FnMut() -> bool) {
        self.wait_within(DEADLINE, what, done);
    }

    /// The same for what may take so long.
    pub fn wait_within(&mut self, time: Duration, what: &str, mut done: impl FnMut() -> bool) {
        wait_within(time, what, || {
            let ended = self.ended();
            assert_eq!(ended, None, "{what}: it ended:\n{}", self.said());
            done()
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
