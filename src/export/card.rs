//! The card of an export: what it holds, where it came from and what was turned away on the way, in
//! words, with the YAML at its head that `datasets` reads.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::Context;
use arrow_array::{Array, StringArray, cast::AsArray};
use arrow_schema::DataType;
use schemas::{Channel, limits, tables::Table};
use serde_json::Value;

use super::{Format, Images, LeftOut, Manifest, hf};
use crate::dataset::Dataset;

/// How often each combination of some text columns occurs.
type Counts = BTreeMap<Vec<String>, u64>;

/// The whole card.
pub fn card(dataset: &Dataset, manifest: &Manifest) -> anyhow::Result<String> {
    let mut text = String::from("---\n");
    text.push_str(&head(manifest));
    text.push_str("---\n");
    let page = dataset.page();
    let _ = write!(
        text,
        "# Training rows for multimodal retrieval, epoch {}\n\n\
         Made by Everpair: images that are related are paired, a model writes how to get from one to \
         the other. A row is a query image, instructions, the target image, and hard negatives, of \
         which the first is the query image itself: a trainer must use it as a negative.\n\n{}\n",
        manifest.epoch,
        form(manifest)
    );
    left_out(&mut text, manifest);
    counts(&mut text, dataset)?;
    rules(&mut text, page.info.get("in_force").unwrap_or(&Value::Null));
    turned_away(&mut text, dataset)?;
    provenance(&mut text, dataset)?;
    parts(&mut text, manifest);
    Ok(text)
}

/// What `datasets` reads: which files are which split, and the columns.
fn head(manifest: &Manifest) -> String {
    let mut text = String::from("configs:\n");
    // `datasets` keeps what it has read by this head and the folder's last name: without words that
    // no other export has it would show the rows of another one.
    let images = if manifest.images == Images::Embed { "embed" } else { "path" };
    let id = &manifest.dataset;
    let told = format!("  description: tables {id}, epoch {}, images {images}\n", manifest.epoch);
    let data = |end: &str| -> String {
        let parts = manifest.parts.iter().filter(|part| part.rows > 0);
        let mut paths: Vec<u64> = parts.map(|part| part.epoch).collect();
        if paths.is_empty() {
            paths.push(manifest.parts.first().map_or(manifest.epoch, |part| part.epoch));
        }
        paths.iter().map(|epoch| format!("    - data/train-{epoch}-*.{end}\n")).collect()
    };
    match manifest.format {
        Format::Parquet => {
            for table in Table::ALL.map(Table::as_str) {
                let _ = write!(
                    text,
                    "- config_name: {table}\n{told}  data_files: {table}/*.parquet\n{}",
                    if table == "triplets" { "  default: true\n" } else { "" }
                );
            }
            return text;
        }
        Format::Hf => text.push_str(&format!(
            "- config_name: default\n{told}  data_files:\n  - split: train\n    path:\n{}",
            data("parquet")
        )),
        Format::WebDataset => text.push_str(&format!(
            "- config_name: default\n{told}  data_files:\n  - split: train\n    path:\n{}",
            data("tar")
        )),
        Format::MegaPairs => text.push_str(&format!(
            "- config_name: default\n{told}  data_files:\n  - split: train\n    path:\n{}",
            data("jsonl")
        )),
        // MMEB-train has this split, and its trainer asks for it.
        Format::Mmeb => text.push_str(&format!(
            "- config_name: everpair\n{told}  data_files:\n  - split: original\n    path:\n{}",
            data("jsonl")
        )),
    }
    if manifest.format == Format::Hf {
        let files = || manifest.parts.iter().flat_map(|part| &part.files);
        let (rows, bytes) = (files().map(|f| f.rows).sum::<u64>(), files().map(|f| f.bytes).sum());
        let bytes: u64 = bytes;
        let _ = write!(
            text,
            "dataset_info:\n  features:\n{}  splits:\n  - name: train\n    num_bytes: {bytes}\n    \
             num_examples: {rows}\n  download_size: {bytes}\n  dataset_size: {bytes}\n",
            hf::features_yaml(hf::schema().fields(), 2)
        );
    }
    text
}

fn form(manifest: &Manifest) -> String {
    let mut text = match manifest.format {
        Format::Parquet => "Every table of the dataset is a folder of Parquet files.",
        Format::Hf => {
            "`load_dataset(\"THIS FOLDER\", split=\"train\")`, streaming or not: `query_image`, \
             `target_image` and `negatives` are pictures."
        }
        Format::WebDataset => {
            "Tar files for WebDataset: `KEY.query.jpg`, `KEY.target.jpg`, `KEY.neg0.jpg` (the query), \
             `KEY.neg1.jpg`, ..., `KEY.json`; a picture's ending tells its format."
        }
        Format::MegaPairs => {
            "JSON lines as MegaPairs was released: `q_img`, `q_text` (take one at random), `t_img`, \
             `hns` (`hns[0]` is the query image)."
        }
        Format::Mmeb => {
            "JSON lines as MMEB-train has them: a line for each instruction, one negative a line, \
             the query image in the first."
        }
    }
    .to_owned();
    if manifest.images == Images::Path {
        text.push_str(
            " Pictures are files of their own; paths are relative to this folder, so work in it. A \
             path with `://` is the address of a picture whose bytes are not stored.",
        );
    }
    text.push('\n');
    text
}

/// Rows that have the same texts in some columns; a list counts with all its texts.
fn count(dataset: &Dataset, table: Table, columns: &[&str]) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for batch in dataset.table(table)?.scan(Some(columns))? {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let text = |column: &arrow_array::ArrayRef| -> String {
                if column.is_null(row) {
                    return "not said".to_owned();
                }
                match column.data_type() {
                    DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
                    DataType::Int32 => {
                        let numbers = column.as_primitive::<arrow_array::types::Int32Type>();
                        numbers.value(row).to_string()
                    }
                    _ => joined(column.as_list::<i32>().value(row).as_string::<i32>()),
                }
            };
            *counts.entry(batch.columns().iter().map(text).collect()).or_default() += 1;
        }
    }
    Ok(counts)
}

fn joined(texts: &StringArray) -> String {
    match texts.len() {
        0 => "none now".to_owned(),
        _ => texts.iter().flatten().collect::<Vec<_>>().join("+"),
    }
}

/// A table of the most frequent, the rest together.
fn table(text: &mut String, heads: &[&str], counts: &Counts) {
    if counts.is_empty() {
        text.push_str("None.\n\n");
        return;
    }
    let mut rows: Vec<(&Vec<String>, &u64)> = counts.iter().collect();
    rows.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let _ = write!(text, "| {} | rows |\n|{}--:|\n", heads.join(" | "), "---|".repeat(heads.len()));
    for (cells, rows) in rows.iter().take(limits::CARD_ROWS) {
        let cells: Vec<String> = cells.iter().map(|cell| cell_text(cell)).collect();
        let _ = writeln!(text, "| {} | {rows} |", cells.join(" | "));
    }
    if let Some(rest) = rows.get(limits::CARD_ROWS..).filter(|rest| !rest.is_empty()) {
        let sum: u64 = rest.iter().map(|(_, rows)| **rows).sum();
        let empty = " |".repeat(heads.len() - 1);
        let _ = writeln!(text, "| {} others |{empty} {sum} |", rest.len());
    }
    text.push('\n');
}

/// A cell holds what others wrote: nothing of it may end the cell or begin a tag.
fn cell_text(text: &str) -> String {
    let short: String = text.chars().take(100).collect();
    let clean = short.replace(['\n', '\r'], " ").replace('<', "&lt;");
    clean.replace('|', "\\|")
}

fn left_out(text: &mut String, manifest: &Manifest) {
    let LeftOut { images, rows } = manifest.left_out;
    if images > 0 {
        let _ = write!(
            text,
            "## Left out\n\n{images} images of this epoch are no longer live: they were taken down, \
             blocked or turned away since. They and the {rows} training rows that name one are not \
             here; the numbers below are those of the epoch.\n\n"
        );
    }
}

fn counts(text: &mut String, dataset: &Dataset) -> anyhow::Result<()> {
    text.push_str("## How many\n\n| table | rows |\n|---|--:|\n");
    for name in Table::ALL {
        let rows = dataset.table(name)?.rows()?;
        let _ = writeln!(text, "| {} | {rows} |", name.as_str());
    }
    text.push('\n');
    let heads = ["proposed by"];
    table(text, &heads, &count(dataset, Table::Triplets, &["channels"])?);
    Ok(())
}

fn rules(text: &mut String, in_force: &Value) {
    text.push_str("## Models and thresholds\n\n");
    text.push_str("| channel | encoder | bands of the score | neighbours |\n|---|---|---|--:|\n");
    for channel in Channel::ALL.map(Channel::as_str) {
        let rules = &in_force["channels"][channel];
        let bands = rules["bands"].as_array().into_iter().flatten().map(|band| {
            // Rule 2: a score is a sum of products of 15-bit components.
            let score = |end: usize| band[end].as_f64().unwrap_or(0.0) / f64::from(1 << 30);
            format!("{:.4} to {:.4}", score(0), score(1))
        });
        let bands = bands.collect::<Vec<_>>().join(", ");
        let encoder = rules["encoder"].as_str().unwrap_or("not said");
        let _ = writeln!(text, "| {channel} | `{encoder}` | {bands} | {} |", rules["neighbors"]);
    }
    let mut said = serde_json::Map::new();
    for (name, value) in in_force.as_object().into_iter().flatten() {
        if name != "channels" {
            said.insert(name.clone(), value.clone());
        }
    }
    let said = serde_json::to_string_pretty(&Value::Object(said)).unwrap_or_default();
    let _ = write!(text, "\n```json\n{said}\n```\n\n");
}

fn turned_away(text: &mut String, dataset: &Dataset) -> anyhow::Result<()> {
    text.push_str("## What was turned away\n\n");
    table(text, &["stage", "reason"], &count(dataset, Table::Rejects, &["stage", "reason"])?);
    text.push_str("Requests to the model, by outcome:\n\n");
    let columns = ["task", "model", "prompt_version", "outcome"];
    let outcomes = count(dataset, Table::Annotations, &columns).context("count annotations")?;
    table(text, &["task", "model", "prompt", "outcome"], &outcomes);
    Ok(())
}

fn provenance(text: &mut String, dataset: &Dataset) -> anyhow::Result<()> {
    text.push_str(
        "## Where the images are from\n\nLicences, as they were sent with the images:\n\n",
    );
    table(text, &["licence"], &count(dataset, Table::Images, &["licence"])?);
    table(text, &["source"], &count(dataset, Table::Images, &["source"])?);
    text.push_str("Instructions, by who wrote them:\n\n");
    let columns = ["model", "prompt_version"];
    table(text, &["model", "prompt"], &count(dataset, Table::Triplets, &columns)?);
    Ok(())
}

fn parts(text: &mut String, manifest: &Manifest) {
    text.push_str("## Parts\n\n| epoch | rows | left before it |\n|--:|--:|--:|\n");
    for part in &manifest.parts {
        let left = part.deleted.as_ref().map_or(0, |file| file.rows);
        let _ = writeln!(text, "| {} | {} | {left} |", part.epoch, part.rows);
    }
    let _ = write!(text, "\n{} rows are live.", manifest.live_rows);
    if manifest.parts.len() > 1 {
        text.push_str(
            " A row is gone where a line of a `deleted-EPOCH.jsonl` has its `triplet_id` and an \
             `epoch` above its `export_epoch`: drop those. Files that the manifest does not name do not \
             count.",
        );
    }
    text.push('\n');
}
