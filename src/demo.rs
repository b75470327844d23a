//! `everpair demo`: the very pipeline on a folder, and what a notebook cannot show.
//!
//! Every act runs the real binary as a process of its own against the same folder: the first load,
//! late arrivals that retract and replace pairs, take-downs, a `kill -9` in the middle of an epoch
//! and the restart, and `verify`, which recomputes everything by brute force.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use schemas::{config::Config, tables::RejectRow};
use serde_json::Value;

use crate::{
    cli::{BadConfig, read_config},
    dataset::{At, Dataset},
    errln, outln,
    push::{self, Target},
    scenes,
    service::open_store,
    source::files::FileLog,
    verify::{self, Tables},
};

pub mod page;

/// The demo's arguments.
#[derive(Args, Debug)]
pub struct DemoOptions {
    /// Generated images.
    #[arg(long, default_value_t = 2_000)]
    pub count: usize,
    /// Your own images instead: a folder, captions from NAME.txt beside NAME.jpg.
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Where everything goes: a new or empty folder; an earlier demo there is begun anew.
    #[arg(long, value_name = "DIR", default_value = "everpair-demo")]
    pub out: PathBuf,
    /// Of the generated images.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Marks a folder that a demo made, so that the next one may begin it anew.
const MARK: &str = ".everpair-demo";
/// All that a demo leaves in its folder.
const OWN: [&str; 5] = [MARK, "everpair.toml", "gallery.html", "log", "tables"];

const CONFIG: &str = r#"# Written by `everpair demo`. Every key is documented in deploy/everpair.toml.
[source]
files = ["log/*.jsonl"]      # or: brokers = "localhost:9092", topics = ["images"]

[tables]
root = "tables"

[annotator]
kind = "template"            # for trying out, not for training data

[epoch]
rows = EPOCH_ROWS
linger = "200 ms"
"#;

/// What the acts leave for the page and the closing words.
struct Story {
    acts: Vec<(String, String)>,
}

struct Demo {
    folder: PathBuf,
    config_path: PathBuf,
    config: Config,
    log: FileLog,
    story: Story,
    /// Bytes of the images that must be turned away, for the page.
    bad: BTreeMap<String, Vec<u8>>,
    began: Instant,
}

/// Runs the demo.
pub fn demo(options: &DemoOptions) -> anyhow::Result<()> {
    if options.count < 20 {
        return Err(
            BadConfig("--count must be at least 20 to have something to show".into()).into()
        );
    }
    let began = Instant::now();
    prepare(&options.out)?;
    let rows = (options.count / 6).clamp(50, 5_000);
    let config_path = options.out.join("everpair.toml");
    std::fs::write(&config_path, CONFIG.replace("EPOCH_ROWS", &rows.to_string()))
        .with_context(|| format!("write {}", config_path.display()))?;
    let log = FileLog::in_folder(&options.out.join("log"), push::NEW_LOG_FILES)?;
    let config = read_config(&config_path)?;
    let folder = std::path::absolute(&options.out)?;
    let story = Story { acts: Vec::new() };
    let bad = BTreeMap::new();
    let mut demo = Demo { folder, config_path, config, log, story, bad, began };

    let ids = match &options.images {
        Some(images) => demo.load_folder(images)?,
        None => demo.load_scenes(options)?,
    };
    demo.first_load()?;
    if options.images.is_none() {
        demo.late_arrivals(options)?;
    }
    demo.takedowns(&ids)?;
    demo.kill(options, &ids)?;
    demo.verify()?;
    demo.finish(options)
}

/// An empty folder, or one that holds an earlier demo and nothing else, which is begun anew.
fn prepare(out: &Path) -> anyhow::Result<()> {
    if out.join(MARK).exists() {
        for entry in out.read_dir().with_context(|| format!("read {}", out.display()))? {
            let name = entry?.file_name();
            if !OWN.iter().any(|own| name == *own) {
                let (out, name) = (out.display(), name.display());
                let why = format!("{out} holds {name}, which no demo made; name another --out");
                return Err(BadConfig(why).into());
            }
        }
        errln!("{} holds an earlier demo, which is begun anew", out.display());
        std::fs::remove_dir_all(out).with_context(|| format!("remove {}", out.display()))?;
    } else if out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let why = format!("{} is not empty and no demo made it; name another --out", out.display());
        return Err(BadConfig(why).into());
    }
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    std::fs::write(out.join(MARK), "`everpair demo` made this folder and may remove it\n")?;
    Ok(())
}

impl Demo {
    fn say(&self, text: &str) {
        errln!("[{:5.1} s] {text}", self.began.elapsed().as_secs_f64());
    }

    fn act(&mut self, heading: &str, text: String) {
        self.say(&format!("{heading}: {text}"));
        self.story.acts.push((heading.to_owned(), text));
    }

    fn send(
        &mut self,
        id: &str,
        value: Option<&[u8]>,
        caption: Option<&str>,
    ) -> anyhow::Result<()> {
        let headers: Vec<(String, String)> =
            caption.map(|text| ("caption".to_owned(), text.to_owned())).into_iter().collect();
        Ok(self.log.append(id, value, &headers)?)
    }

    fn load_scenes(&mut self, options: &DemoOptions) -> anyhow::Result<Vec<String>> {
        self.say(&format!("drawing {} scenes", options.count));
        let mut ids = Vec::new();
        for scene in scenes::scenes(options.count, options.seed) {
            self.send(&scene.id, Some(&scene.jpeg_or_png), scene.caption.as_deref())?;
            ids.push(scene.id);
        }
        for bad in scenes::bad_files(options.seed) {
            self.send(&bad.id, bad.value.as_deref(), bad.caption.as_deref())?;
            self.bad.extend(bad.value.filter(|bytes| shows(bytes)).map(|bytes| (bad.id, bytes)));
        }
        self.log.sync()?;
        Ok(ids)
    }

    fn load_folder(&mut self, images: &Path) -> anyhow::Result<Vec<String>> {
        self.say(&format!("reading {}", images.display()));
        let report = push::push_folder(images, &mut Target::Log(&mut self.log))?;
        let ids = report.ids.unwrap_or_default();
        if ids.len() < 4 {
            let count = ids.len();
            bail!("{} holds {count} images; the demo needs a few more", images.display());
        }
        Ok(ids)
    }

    fn everpair(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let program = std::env::current_exe().context("find this program's own file")?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--config").arg(&self.config_path);
        Ok(command)
    }

    fn run(&self) -> anyhow::Result<()> {
        let output = self
            .everpair(&["run", "--until-caught-up"])?
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .context("start the service")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("the service ended with {}:\n{said}", output.status);
        }
        Ok(())
    }

    fn tables(&self) -> anyhow::Result<Tables> {
        Tables::read(&open_store(&self.config)?)
    }

    fn first_load(&mut self) -> anyhow::Result<()> {
        self.say("the service runs until it has caught up");
        let began = Instant::now();
        self.run()?;
        let tables = self.tables()?;
        let rejects = Dataset::open(&open_store(&self.config)?, &At::Latest)?;
        let rejects = rejects.rows::<RejectRow>()?;
        let turned_away = rejects.iter().filter(|row| row.request_id.is_none()).count();
        let text = format!(
            "{} images live, {turned_away} messages turned away (table rejects says why), {} pairs \
             mined, {} triplets written, in {:.1} s and {} epochs",
            tables.images.len(),
            tables.pairs.len(),
            tables.triplets.len(),
            began.elapsed().as_secs_f64(),
            tables.epoch,
        );
        self.act("First load", text);
        Ok(())
    }

    fn late_arrivals(&mut self, options: &DemoOptions) -> anyhow::Result<()> {
        let before = self.tables()?;
        let late = (options.count / 20).max(5);
        let replaced = (options.count / 100).max(2);
        for scene in scenes::late_arrivals(options.count, late, options.seed) {
            self.send(&scene.id, Some(&scene.jpeg_or_png), scene.caption.as_deref())?;
        }
        for index in 0..replaced {
            let scene = scenes::replacement(index * 7 % options.count, 0, options.seed);
            self.send(&scene.id, Some(&scene.jpeg_or_png), scene.caption.as_deref())?;
        }
        self.log.sync()?;
        self.run()?;
        let after = self.tables()?;
        let key = |row: &schemas::tables::PairRow| (row.query_id.clone(), row.target_id.clone());
        let old: BTreeMap<_, _> = before.pairs.iter().map(|row| (key(row), row)).collect();
        let new: BTreeMap<_, _> = after.pairs.iter().map(|row| (key(row), row)).collect();
        let gone = old.keys().filter(|key| !new.contains_key(*key)).count();
        let came = new.keys().filter(|key| !old.contains_key(*key)).count();
        let other = new
            .iter()
            .filter(|(key, row)| {
                old.get(*key).is_some_and(|was| was.hard_negatives != row.hard_negatives)
            })
            .count();
        let text = format!(
            "{late} new images and {replaced} replaced ones: {gone} pairs retracted, {came} added, \
             {other} kept with other hard negatives; everything else stayed as it was"
        );
        self.act("Late arrivals", text);
        Ok(())
    }

    fn takedowns(&mut self, ids: &[String]) -> anyhow::Result<()> {
        let tables = self.tables()?;
        // The images that most pairs name: the hardest to get rid of.
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &tables.pairs {
            *named.entry(&row.target_id).or_default() += 1;
        }
        let mut most: Vec<(&str, usize)> = named.into_iter().collect();
        most.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
        let mut down: Vec<String> = most.iter().take(3).map(|(id, _)| (*id).to_owned()).collect();
        down.extend(ids.iter().take(3usize.saturating_sub(down.len())).cloned());
        let before = names(&tables, &down);
        for id in &down {
            self.send(id, None, None)?;
        }
        self.log.sync()?;
        self.run()?;
        let after = names(&self.tables()?, &down);
        if after > 0 {
            bail!("{after} rows still name {}", down.join(", "));
        }
        let text = format!(
            "{} taken down: {before} rows of images, pairs and triplets named them, {after} do now",
            down.join(", ")
        );
        self.act("Take-downs", text);
        Ok(())
    }

    fn kill(&mut self, options: &DemoOptions, ids: &[String]) -> anyhow::Result<()> {
        let epoch = self.tables()?.epoch;
        match options.images {
            None => {
                let more = (options.count / 10).max(10);
                let late = (options.count / 20).max(5);
                let corpus = options.count;
                for scene in scenes::late_arrivals(corpus, late + more, options.seed).skip(late) {
                    self.send(&scene.id, Some(&scene.jpeg_or_png), scene.caption.as_deref())?;
                }
            }
            Some(_) => {
                for id in ids.iter().take((ids.len() / 10).max(1)) {
                    self.send(id, None, None)?;
                }
            }
        }
        self.log.sync()?;
        self.say("the service runs again, to be killed in the middle of an epoch");
        let latest = self.folder.join("tables/_everpair/latest.json");
        let anchor = self.folder.join("tables/images/_delta_log");
        let memo = self.folder.join("tables/pairs/_delta_log");
        let held = count_files(&memo);
        let child = self
            .everpair(&["run"])?
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the service")?;
        // `pairs` of an epoch is committed before `images`, which makes the epoch: killed between
        // the two, the tables disagree until the next start restores them. Taking over adds one
        // commit to each table, so two more are the sign. Of few images an epoch may change no
        // pair: then it is over once it is shown.
        let shown = || serde_json::from_slice::<Value>(&std::fs::read(&latest).ok()?).ok();
        let epoch_shown = || shown().and_then(|page| page["epoch"].as_u64());
        let seen = kill_when(child, || match count_files(&memo) >= held + 2 {
            true => Some(true),
            false => epoch_shown().filter(|shown| *shown > epoch).map(|_| false),
        })?;
        let commits = count_files(&anchor);
        let killed_at = epoch_shown().unwrap_or(0);
        self.run()?;
        let after = self.tables()?;
        let when = match (seen, killed_at == epoch) {
            (true, true) => "after it had committed pairs of an epoch, and before the epoch itself",
            (true, false) => "just after an epoch",
            (false, _) => "when it had nothing more to do",
        };
        let text = format!(
            "kill -9 {when} (readers saw epoch {killed_at}; images had {commits} log files); \
             started again, it went on to epoch {} with {} pairs",
            after.epoch,
            after.pairs.len()
        );
        self.act("Killed", text);
        Ok(())
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        let sample = (self.tables()?.images.len() > verify::ALL_QUERIES_MAX).then_some(1_000);
        let report = verify::verify(&self.config, sample)?;
        if report.differences_count > 0 {
            report.print();
            bail!("batch and stream differ in {} places", report.differences_count);
        }
        let text = format!(
            "brute force over {} images gives the same {} pairs and {} triplets: batch = stream",
            report.mined, report.pairs, report.triplets
        );
        self.act("Verify", text);
        Ok(())
    }

    fn finish(&mut self, options: &DemoOptions) -> anyhow::Result<()> {
        let page = page::page(&self.config, &self.story.acts, &self.folder, &self.bad)?;
        let gallery = self.folder.join("gallery.html");
        std::fs::write(&gallery, crate::gallery::render(&page))
            .with_context(|| format!("write {}", gallery.display()))?;
        self.say("done");
        let shown = options.out.display();
        let config = self.config_path.display();
        outln!("triplets as pictures   {}", gallery.display());
        outln!("query                  {}", page.duckdb);
        outln!("your own images        everpair demo --images DIR --out OTHER_DIR");
        outln!(
            "go on from here        everpair push DIR --to {shown}/log && everpair run --config {config} --until-caught-up"
        );
        outln!("take an image down     everpair takedown --config {config} ID");
        outln!(
            "from Kafka             in {config}: [source] brokers = \"host:9092\", topics = [\"images\"], and another [tables] root"
        );
        if std::io::stderr().is_terminal() {
            errln!(
                "the built-in encoders and the template annotator are for trying out, not for training data"
            );
        }
        Ok(())
    }
}

/// Whether a browser can show it: not the one that would unfold to 20,000 × 20,000 pixels.
fn shows(bytes: &[u8]) -> bool {
    kernels::decode::decode(bytes, &Default::default()).is_ok()
}

/// Rows of `images`, `pairs` and `triplets` that name one of these.
fn names(tables: &Tables, ids: &[String]) -> usize {
    let is = |id: &String| ids.contains(id);
    let images = tables.images.iter().filter(|row| is(&row.image_id)).count();
    let pairs = tables
        .pairs
        .iter()
        .filter(|row| is(&row.query_id) || is(&row.target_id) || row.hard_negatives.iter().any(is));
    let triplets = tables
        .triplets
        .iter()
        .filter(|row| is(&row.query_id) || is(&row.target_id) || row.hard_negatives.iter().any(is));
    images + pairs.count() + triplets.count()
}

fn count_files(folder: &Path) -> usize {
    folder.read_dir().map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "json"))
            .count()
    })
}

/// `kill -9` as soon as `now` gives something, which is what this gives; false if the process was
/// killed because it took too long.
fn kill_when(mut child: Child, now: impl Fn() -> Option<bool>) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut seen = None;
    while seen.is_none() && began.elapsed() < Duration::from_secs(20) {
        if let Some(status) = child.try_wait()? {
            bail!("the service ended by itself with {status}");
        }
        seen = now();
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().context("kill the service")?;
    child.wait().context("wait for the killed service")?;
    Ok(seen.unwrap_or(false))
}
