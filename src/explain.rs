//! `everpair explain`: from a triplet back to what made it: images and the messages that brought
//! them, contents, scores and ranks, encoders and bands in force, the request, its answer and what
//! they cost, what the rules left out, and what became of the triplet since. Of a pair that made no
//! triplet, and of a request: why.
//!
//! `lineage.sql` gives the same from the tables alone, for any number of triplets.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context, bail};
use arrow_array::{BooleanArray, cast::AsArray};
use arrow_select::filter::filter_record_batch;
use chrono::{DateTime, SecondsFormat};
use clap::Args;
use schemas::{
    config::{self, Filter},
    tables::{ChangeRow, ImageRow, Measures, PairRow, Row, Table, TripletRow},
    triplet_id,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    captions::Captions,
    cli::{BadConfig, read_config},
    dataset::{At, Dataset},
    outln, print,
    service::open_tables,
    views,
};

pub mod answers;
mod gone;
mod page;
mod untold;
mod waiting;

use answers::{Answers, left_out, left_out_json};

/// The lineage join over the views of `everpair views --duckdb`, all triplets.
pub const SQL: &str = include_str!("explain/lineage.sql");
/// Digits of a triplet's id.
const TRIPLET_ID_DIGITS: usize = 32;
/// Digits of a request's id.
const REQUEST_ID_DIGITS: usize = 64;
/// Ids that are named where a beginning has several.
const IDS_SHOWN: usize = 10;

/// Arguments of the command.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The id of a triplet, or of a request (`annotations.request_id`), or a beginning of it that no
    /// other one has.
    #[arg(value_name = "TRIPLET_ID|REQUEST_ID", required_unless_present_any = ["sql", "query"])]
    pub id: Option<String>,
    /// Instead of an id: the image that one starts from.
    #[arg(long, value_name = "IMAGE_ID", requires = "target", conflicts_with_all = ["id", "sql"])]
    pub query: Option<String>,
    /// And the image that is asked for.
    #[arg(long, value_name = "IMAGE_ID", requires = "query")]
    pub target: Option<String>,
    /// The config file (TOML).
    #[arg(long, value_name = "FILE", required_unless_present = "sql")]
    pub config: Option<PathBuf>,
    /// The epoch or the snapshot that is explained.
    #[arg(long, value_name = "EPOCH|SNAPSHOT|latest", default_value = "latest")]
    pub at: At,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
    /// Print instead one SQL query for DuckDB that gives the same (all but `in_force`, of `left_out`
    /// the instructions only, and captions as messages have them) over the views of
    /// `everpair views --duckdb`: of this triplet, or without an id of all.
    #[arg(long, conflicts_with = "json")]
    pub sql: bool,
}

/// What is told of an image's content; its picture stays where it is.
#[derive(Clone, Serialize, Deserialize)]
struct Content {
    content_id: String,
    width: i32,
    height: i32,
    format: String,
    phash: String,
    measures: Measures,
}

const CONTENT: [&str; 6] = ["content_id", "width", "height", "format", "phash", "measures"];

/// Runs the command.
pub fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let id = match (&args.query, &args.target) {
        (Some(query), Some(target)) => Some(triplet_id(query, target)),
        _ => args.id.clone(),
    };
    if let Some(id) = &id {
        check_id(id, if args.sql { TRIPLET_ID_DIGITS } else { REQUEST_ID_DIGITS })?;
    }
    if args.sql {
        print::out(format_args!("{}", sql(id.as_deref())));
        return Ok(());
    }
    let (Some(id), Some(path)) = (&id, &args.config) else {
        bail!("name a triplet and --config FILE");
    };
    let config = read_config(path)?;
    let dataset = Dataset::open(&open_tables(&config)?, &args.at)?;
    let explained = explain(&dataset, id, &config)?;
    match args.json {
        true => outln!("{explained:#}"),
        false => page::print(&explained),
    }
    Ok(())
}

/// An id of at most so many digits, or a beginning of one.
fn check_id(id: &str, digits_max: usize) -> Result<(), BadConfig> {
    let digits = |id: &str| id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if (1..=digits_max).contains(&id.len()) && digits(id) {
        return Ok(());
    }
    Err(BadConfig(format!(
        "{id:?} is no triplet id: that is {TRIPLET_ID_DIGITS} of 0-9 a-f, as in the column triplet_id \
         of the table triplets, or the first few of them; nor a request's, which has \
         {REQUEST_ID_DIGITS}. A pair is named by --query ID --target ID"
    )))
}

/// The query, of the triplets whose id begins so, or of all.
pub fn sql(id: Option<&str>) -> String {
    let only = id.map(|id| format!("WHERE starts_with(t.triplet_id, {})\n", views::text(id)));
    format!("{SQL}{}ORDER BY t.triplet_id;\n", only.unwrap_or_default())
}

/// Everything about one triplet, a pair without one, or a request, as JSON.
///
/// # Errors
/// Nothing of this epoch, or several, have an id that begins so; the message says which ids these
/// are, or when and why a triplet left.
pub fn explain(dataset: &Dataset, id: &str, config: &config::Config) -> anyhow::Result<Value> {
    let in_force = dataset.page().info.get("in_force").cloned().unwrap_or_default();
    let rules = rules(&in_force, config);
    let starts = |held: &str| held.starts_with(id);
    let mut found: Vec<TripletRow> = Vec::new();
    if id.len() <= TRIPLET_ID_DIGITS {
        found = rows(dataset, "triplet_id", &starts)?;
    }
    match found.as_slice() {
        [triplet] => return explain_triplet(dataset, triplet, &rules, in_force),
        [] => {}
        several => bail!(
            "{} triplets have an id that begins with {id:?}: {}",
            several.len(),
            some(several.iter().map(|row| row.triplet_id.as_str()))
        ),
    }
    if id.len() <= TRIPLET_ID_DIGITS
        && let Some(pair) = untold::pair(dataset, id)?
    {
        return untold::explain_pair(dataset, &pair, &rules, &in_force);
    }
    match untold::request(dataset, id, &rules)? {
        Some(request) => Ok(request),
        None => Err(gone::unknown(dataset, id)?),
    }
}

/// The rules on instructions that an epoch's triplets passed.
pub fn rules(in_force: &Value, config: &config::Config) -> Filter {
    let held = serde_json::from_value(in_force["filter"].clone());
    held.unwrap_or_else(|_| config.filter.clone())
}

fn explain_triplet(
    dataset: &Dataset,
    triplet: &TripletRow,
    rules: &Filter,
    in_force: Value,
) -> anyhow::Result<Value> {
    let named: Vec<&String> = [&triplet.query_id, &triplet.target_id]
        .into_iter()
        .chain(&triplet.hard_negatives)
        .collect();
    let images = images(dataset, &named)?;
    let image = |id: &String| images.get(id).cloned().unwrap_or(Value::Null);
    let pairs: Vec<PairRow> = rows(dataset, "query_id", &|id| id == triplet.query_id)?;
    let pair = pairs.iter().find(|pair| pair.target_id == triplet.target_id);
    let contents = BTreeSet::from([triplet.query_content_id.as_str(), &triplet.target_content_id]);
    let answers = Answers::about(dataset, &contents)?;
    let answer = answers.of_request(&triplet.request_id);
    let mut changes: Vec<ChangeRow> = rows(dataset, "triplet_id", &|id| id == triplet.triplet_id)?;
    changes.sort();
    let audits = triplet.instructions.iter().zip(&triplet.audits).map(|(text, audit)| {
        json!({
            "instruction": text,
            "label": audit.label,
            "rank_text": audit.rank_text,
            "rank_image": audit.rank_image,
            "rank_both": audit.rank_both,
            "verdict": audit.verdict,
        })
    });
    let (query, target) = (image(&triplet.query_id), image(&triplet.target_id));
    let caption = target["caption"].as_str();
    let hidden = answer.map(|row| left_out(row, caption, &triplet.instructions, rules));
    Ok(json!({
        "at_epoch": dataset.epoch(),
        "triplet_id": triplet.triplet_id,
        "epoch": triplet.epoch,
        "query": query,
        "target": target,
        "hard_negatives": triplet.hard_negatives.iter().map(image).collect::<Vec<_>>(),
        "pair": pair.map(pair_json),
        "in_force": in_force,
        "answer": answer.map(|row| answers.to_json(row)),
        "instructions": audits.collect::<Vec<_>>(),
        "left_out": left_out_json(&hidden.unwrap_or_default()),
        "rejects": rejects_json(dataset, &triplet.request_id)?,
        "changes": changes.iter().map(change).collect::<Vec<_>>(),
    }))
}

fn pair_json(pair: &PairRow) -> Value {
    json!({
        "channels": pair.channels,
        "scores": pair.scores,
        "ranks": pair.ranks,
        "epoch": pair.epoch,
    })
}

fn change(row: &ChangeRow) -> Value {
    json!({ "epoch": row.epoch, "op": row.op, "reason": row.reason })
}

fn rejects_json(dataset: &Dataset, request_id: &str) -> anyhow::Result<Vec<Value>> {
    let rejects = untold::rejects(dataset, request_id)?
        .into_iter()
        .map(|row| json!({ "reason": row.reason, "detail": row.detail, "epoch": row.epoch }));
    Ok(rejects.collect())
}

/// The live images of these ids, by id.
fn images(dataset: &Dataset, ids: &[&String]) -> anyhow::Result<BTreeMap<String, Value>> {
    let ids: BTreeSet<&str> = ids.iter().map(|id| id.as_str()).collect();
    let mut images: Vec<ImageRow> = rows(dataset, "image_id", &|id| ids.contains(id))?;
    let captions = Captions::in_force(dataset)?;
    let written = images.iter_mut().map(|row| captions.fill(row)).collect::<Vec<_>>();
    let wanted: BTreeSet<&str> = images.iter().map(|row| row.content_id.as_str()).collect();
    let is_wanted = |id: &str| wanted.contains(id);
    let contents: Vec<Content> =
        found(dataset, Table::Contents, Some(&CONTENT), "content_id", &is_wanted)?;
    let contents: BTreeMap<&str, &Content> =
        contents.iter().map(|row| (row.content_id.as_str(), row)).collect();
    let shown = images.iter().zip(written).map(|(row, written)| {
        let content = contents.get(row.content_id.as_str());
        let mut image = json!({
            "image_id": row.image_id,
            "content_id": row.content_id,
            "source": row.source,
            "uri": row.uri,
            "licence": row.licence,
            "caption": row.caption,
            "topic": row.topic,
            "partition": row.partition,
            "offset": row.offset,
            "ingested_at": time(row.ingested_at),
            "epoch": row.epoch,
            "width": content.map(|c| c.width),
            "height": content.map(|c| c.height),
            "format": content.map(|c| &c.format),
            "phash": content.map(|c| &c.phash),
            "measures": content.map(|c| &c.measures),
        });
        if let Some(captioner) = captions.captioner() {
            image["caption_by"] = json!(written.then_some(&captioner.model));
            image["caption_waits"] = json!(captions.waits(row));
        }
        (row.image_id.clone(), image)
    });
    Ok(shown.collect())
}

/// Some of several ids.
fn some<'a>(ids: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = ids.len();
    let shown: Vec<&str> = ids.take(IDS_SHOWN).collect();
    let more = if count > IDS_SHOWN { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Whole rows by the text in one column.
///
/// # Errors
/// The table cannot be read.
pub fn rows<R: Row>(
    dataset: &Dataset,
    column: &str,
    wanted: &dyn Fn(&str) -> bool,
) -> anyhow::Result<Vec<R>> {
    found(dataset, R::TABLE, None, column, wanted)
}

/// Rows by the text in one column, which must be among those that are read.
fn found<T: DeserializeOwned>(
    dataset: &Dataset,
    table: Table,
    columns: Option<&[&str]>,
    column: &str,
    wanted: &dyn Fn(&str) -> bool,
) -> anyhow::Result<Vec<T>> {
    let open = dataset.table(table)?;
    let what = || format!("read table {}", table.as_str());
    let mut rows = Vec::new();
    for batch in open.scan(columns)? {
        let batch = batch?;
        let texts = batch.column_by_name(column).with_context(what)?.as_string::<i32>().iter();
        let mask: BooleanArray = texts.map(|text| Some(text.is_some_and(wanted))).collect();
        if mask.true_count() == 0 {
            continue;
        }
        let batch = filter_record_batch(&batch, &mask).with_context(what)?;
        let read: Vec<T> = serde_arrow::from_record_batch(&batch).with_context(what)?;
        rows.extend(read);
    }
    Ok(rows)
}

/// Microseconds UTC as RFC 3339.
fn time(us: i64) -> Option<String> {
    let time = DateTime::from_timestamp_micros(us)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Micros, true))
}
