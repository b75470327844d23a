//! Exports as the programs see them that they are made for: `datasets` (streaming and not), pyarrow,
//! pandas, WebDataset's own reader. Row by row, pictures decoded, they show what DuckDB says of the
//! tables at that epoch: after replacements and take-downs, of an earlier epoch, and of an export
//! with its increment. The commands are README's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use everpair::scenes;
use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{peer, pipeline::finish, readers};

const SEED: u64 = 1;
/// Rows that there must be to compare.
const ROWS_MIN: usize = 300;
/// What reads which form.
const CONSUMERS: [(&str, &[&str]); 3] = [
    ("hf", &["hf", "hf-streaming", "hf-pyarrow", "hf-pandas"]),
    ("webdataset", &["webdataset"]),
    ("parquet", &["parquet-pyarrow", "parquet-pandas", "parquet-datasets"]),
];

/// README's commands of the section, without the comment behind them.
fn readme_commands() -> Vec<Vec<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let text = text.expect("README.md");
    let (_, section) = text.split_once("\n## Use it for training\n").expect("the section");
    let (_, block) = section.split_once("```sh\n").expect("its commands");
    let (block, _) = block.split_once("```").expect("their end");
    let command = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect::<Vec<String>>()
    };
    block.lines().map(command).filter(|words| !words.is_empty()).collect()
}

/// What DuckDB answers to README's query, as it stands there but for the demo's folder.
fn readme_query(at: &Exports) -> Vec<Value> {
    let sql = include_str!("../README.md").split("```sql\n").nth(1).expect("a query");
    let (first, query) = sql.split("```").next().expect("its end").split_once('\n').expect("lines");
    let file = at.path("first.sql");
    fs::write(&file, first).expect("a file");
    let demo = at.path("data").display().to_string();
    assert!(query.contains("everpair-demo/"), "{query}");
    let query = query.trim().trim_end_matches(';').replace("everpair-demo", &demo);
    readers::duckdb_script(&file, &query)
}

/// A demo, and exports beside it.
struct Exports {
    folder: TempDir,
}

impl Exports {
    fn begin() -> Exports {
        let new = Exports { folder: tempfile::tempdir().expect("a folder") };
        new.everpair(&["demo", "--count", "150", "--seed", &SEED.to_string(), "--out", "data"]);
        new
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program in the folder; gives its standard output.
    fn everpair(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        let (code, out, err) = finish(command.args(arguments).current_dir(self.folder.path()));
        assert_eq!(code, Some(0), "{arguments:?}\n{out}{err}");
        out
    }

    fn export(&self, format: &str, to: &str, more: &[&str]) {
        let config = ["export", "--config", "data/everpair.toml"];
        self.everpair(&[&config[..], &["--format", format, "--to", to], more].concat());
    }

    fn epoch(&self) -> u64 {
        let text = fs::read(self.path("data/tables/_everpair/latest.json")).expect("a page");
        let page: Value = serde_json::from_slice(&text).expect("JSON");
        page["epoch"].as_u64().expect("an epoch")
    }

    /// Rows as the script gives them.
    fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let mut command = Command::new(peer("EVERPAIR_PYTHON"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/exports.py"));
        command.args(arguments).current_dir(self.folder.path());
        command.env("HF_HOME", self.path("hf")).env("HF_HUB_OFFLINE", "1");
        command.env("HF_DATASETS_DISABLE_PROGRESS_BARS", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        let (code, out, err) = finish(&mut command);
        assert_eq!(code, Some(0), "{arguments:?}\n{err}");
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn truth(&self, epoch: u64) -> Vec<Value> {
        let rows = self.rows(&["truth", "data/tables", &epoch.to_string()]);
        assert!(rows.len() > ROWS_MIN, "{} rows to compare", rows.len());
        rows
    }

    /// All consumers of a form see these rows in a folder.
    fn check(&self, format: &str, to: &str, truth: &[Value]) {
        let (_, consumers) =
            CONSUMERS.iter().find(|(name, _)| *name == format).expect("somebody reads it");
        for consumer in *consumers {
            same(&format!("{consumer} of {to}"), &self.rows(&[consumer, to]), truth);
        }
    }
}

fn same(what: &str, rows: &[Value], truth: &[Value]) {
    let differs = rows.iter().zip(truth).find(|(one, other)| one != other);
    assert!(differs.is_none() && rows.len() == truth.len(), "{what}: {}, {differs:#?}", rows.len());
}

/// What a row of the text forms shows, worked out from the truth: the columns before the pictures
/// are 15 of `triplets` and four of the images.
const PICTURES: usize = 19;

fn megapairs_rows(truth: &[Value]) -> Vec<Value> {
    let row = |row: &Value| {
        let cells = row.as_array().expect("a row");
        let mut shown = vec![cells[0].clone(), cells[3].clone()];
        shown.extend_from_slice(&cells[PICTURES..]);
        Value::Array(shown)
    };
    sorted(truth.iter().map(row).collect())
}

fn mmeb_rows(truth: &[Value]) -> Vec<Value> {
    let lines = truth.iter().flat_map(|row| {
        let cells = row.as_array().expect("a row");
        let negatives = &cells[PICTURES + 2..];
        let instructions = cells[3].as_array().expect("instructions").iter().enumerate();
        instructions.map(|(at, instruction)| {
            let negative = &negatives[at % negatives.len()];
            let [query, target] = [&cells[PICTURES], &cells[PICTURES + 1]];
            Value::from(
                [&cells[0], instruction, query, target, negative].map(Clone::clone).to_vec(),
            )
        })
    });
    sorted(lines.collect())
}

fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_cached_key(Value::to_string);
    rows
}

#[test]
fn every_consumer_sees_the_rows_that_duckdb_sees() {
    let at = Exports::begin();
    let before = at.epoch();
    let old = at.truth(before);
    // README's commands, word for word.
    let mut named = Vec::new();
    for words in readme_commands() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["everpair", arguments @ ..] => {
                at.everpair(arguments);
                named.extend(
                    arguments
                        .windows(2)
                        .find(|two| two[0] == "--format")
                        .map(|two| two[1].to_owned()),
                );
            }
            ["python", script, arguments @ ..] => {
                let mut command = Command::new(peer("EVERPAIR_PYTHON"));
                command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
                let (code, out, err) =
                    finish(command.args(arguments).current_dir(at.folder.path()));
                assert_eq!(code, Some(0), "{words:?}\n{err}");
                assert!(out.contains(&format!("\"rows\": {}", old.len())), "{out}");
            }
            other => panic!("{other:?} is no command that this test knows"),
        }
    }
    for format in ["parquet", "hf", "webdataset", "megapairs", "mmeb"] {
        assert!(named.iter().any(|name| name == format), "README exports {format}");
    }
    for format in ["parquet", "hf", "webdataset"] {
        at.check(format, &format!("exports/{format}"), &old);
    }
    assert_eq!(readme_query(&at).len(), 5);
    let rows = sorted(at.rows(&["megapairs", "exports/megapairs"]));
    same("megapairs", &rows, &megapairs_rows(&old));
    same("mmeb", &sorted(at.rows(&["mmeb", "exports/mmeb"])), &mmeb_rows(&old));

    let down = change(&at, &old);
    // What was taken down is no part of an older epoch's export either.
    let is_down = |cell: &Value| cell.as_str().is_some_and(|id| down.iter().any(|gone| gone == id));
    let names =
        |cell: &Value| is_down(cell) || cell.as_array().is_some_and(|c| c.iter().any(is_down));
    let allowed = |row: &&Value| !row.as_array().expect("a row").iter().any(names);
    let still: Vec<Value> = old.iter().filter(allowed).cloned().collect();
    assert!(still.len() > 100 && still.len() < old.len(), "{} of {}", still.len(), old.len());
    let after = at.epoch();
    assert!(after > before);
    let new = at.truth(after);
    let kept = new.iter().filter(|row| old.contains(row)).count();
    assert!(kept > 50 && kept < new.len() && kept < old.len(), "{kept} of {}", new.len());

    let since = before.to_string();
    for format in ["hf", "webdataset"] {
        let to = format!("exports/{format}");
        at.export(format, &to, &["--since", &since]);
        at.check(format, &to, &new);
        at.export(format, &format!("old/{format}"), &["--as-of", &since]);
        at.check(format, &format!("old/{format}"), &still);
    }
    at.export("megapairs", "exports/megapairs", &["--since", &since]);
    let rows = sorted(at.rows(&["megapairs", "exports/megapairs"]));
    same("megapairs with its increment", &rows, &megapairs_rows(&new));
    at.export("parquet", "new/parquet", &[]);
    at.check("parquet", "new/parquet", &new);
    // Pictures as files, several shards.
    at.export("hf", "new/paths", &["--images", "path", "--shard", "64 KiB"]);
    assert!(fs::read_dir(at.path("new/paths/data")).expect("a folder").count() > 1);
    same("hf with paths", &at.rows(&["hf", "new/paths"]), &new);
}

/// What of the training example can be looked at without PyTorch; `long_train` runs it.
#[test]
fn the_training_example_is_python() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/train/train.py");
    let compile = "import sys; compile(open(sys.argv[1]).read(), sys.argv[1], 'exec')";
    let mut command = Command::new(peer("EVERPAIR_PYTHON"));
    let (code, _, err) = finish(command.args(["-c", compile]).arg(script));
    assert_eq!(code, Some(0), "{err}");
}

/// Takes images down, replaces some, and brings new ones, by the commands; gives the ids of the first.
fn change(at: &Exports, truth: &[Value]) -> Vec<String> {
    let ids: Vec<&str> = truth.iter().filter_map(|row| row[1].as_str()).collect();
    let config = ["--config", "data/everpair.toml"];
    let down: Vec<&str> = ids.iter().step_by(60).copied().collect();
    at.everpair(&[&["takedown"], &config[..], &down].concat());
    let photos = at.path("photos");
    fs::create_dir(&photos).expect("a folder");
    for (number, id) in ids.iter().skip(1).step_by(45).enumerate() {
        let scene = scenes::replacement(number, 7, SEED);
        for name in [format!("new-{number}"), (*id).to_owned()] {
            let path = photos.join(format!("{number}-{}.png", name.replace('/', "-")));
            fs::write(&path, &scene.jpeg_or_png).expect("a picture");
            let line = serde_json::json!({
                "path": path, "id": name, "caption": scene.caption.clone().unwrap_or_default(),
                "source": "a museum", "licence": "CC-BY-4.0",
            });
            let list = photos.join("list.jsonl");
            let held = fs::read_to_string(&list).unwrap_or_default();
            fs::write(&list, format!("{held}{line}\n")).expect("a list");
        }
    }
    at.everpair(&[&["push", "photos/list.jsonl"], &config[..]].concat());
    at.everpair(&[&["run", "--until-caught-up"], &config[..]].concat());
    at.everpair(&[&["verify"], &config[..]].concat());
    // Some came back under their ids, as other images: those of before are gone all the same.
    down.into_iter().map(str::to_owned).collect()
}
