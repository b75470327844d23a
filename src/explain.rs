//! `everpair explain`: from a triplet back to what made it: images and the messages that brought
//! them, contents, scores and ranks, encoders and bands in force, the request and its answer, and
//! what became of the triplet since.
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
use operators::{filter, flow::Answer};
use schemas::{
    config::{self, Filter},
    tables::{
        AnnotationRow, ChangeRow, ImageRow, Measures, PairRow, RejectRow, Row, Table, TripletRow,
        WITHDRAWN,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    cli::{BadConfig, read_config},
    dataset::{At, Dataset},
    outln, print,
    service::open_tables,
    views,
};

mod page;

/// The lineage join over the views of `everpair views --duckdb`, all triplets.
pub const SQL: &str = include_str!("explain/lineage.sql");
/// Digits of a triplet's id.
const TRIPLET_ID_DIGITS: usize = 32;
/// Ids that are named where a beginning has several.
const IDS_SHOWN: usize = 10;

/// Arguments of the command.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The id, or a beginning of it that no other triplet has.
    #[arg(required_unless_present = "sql")]
    pub triplet_id: Option<String>,
    /// The config file (TOML).
    #[arg(long, value_name = "FILE", required_unless_present = "sql")]
    pub config: Option<PathBuf>,
    /// The epoch or the snapshot that is explained.
    #[arg(long, value_name = "EPOCH|SNAPSHOT|latest", default_value = "latest")]
    pub at: At,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
    /// Print instead one SQL query for DuckDB that gives the same (all but `in_force`, and of
    /// `left_out` the instructions only) over the views of `everpair views --duckdb`: of this
    /// triplet, or without an id of all.
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
    if let Some(id) = &args.triplet_id {
        check_id(id)?;
    }
    if args.sql {
        print::out(format_args!("{}", sql(args.triplet_id.as_deref())));
        return Ok(());
    }
    let (Some(id), Some(path)) = (&args.triplet_id, &args.config) else {
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

/// A triplet's id, or a beginning of one.
fn check_id(id: &str) -> Result<(), BadConfig> {
    let digits = |id: &str| id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if (1..=TRIPLET_ID_DIGITS).contains(&id.len()) && digits(id) {
        return Ok(());
    }
    Err(BadConfig(format!(
        "{id:?} is no triplet id: that is {TRIPLET_ID_DIGITS} of 0-9 a-f, as in the column triplet_id \
         of the table triplets, or the first few of them"
    )))
}

/// The query, of the triplets whose id begins so, or of all.
pub fn sql(id: Option<&str>) -> String {
    let only = id.map(|id| format!("WHERE starts_with(t.triplet_id, {})\n", views::text(id)));
    format!("{SQL}{}ORDER BY t.triplet_id;\n", only.unwrap_or_default())
}

/// Everything about one triplet, as JSON.
///
/// # Errors
/// No triplet of this epoch, or several, have an id that begins so; the message says which ids these
/// are, or when and why it left.
pub fn explain(dataset: &Dataset, id: &str, config: &config::Config) -> anyhow::Result<Value> {
    let starts = |held: &str| held.starts_with(id);
    let found: Vec<TripletRow> = rows(dataset, "triplet_id", &starts)?;
    let triplet = match found.as_slice() {
        [triplet] => triplet,
        [] => return Err(unknown(dataset, id)?),
        several => bail!(
            "{} triplets have an id that begins with {id:?}: {}",
            several.len(),
            some(several.iter().map(|row| row.triplet_id.as_str()))
        ),
    };
    let is = |wanted: &str| {
        let wanted = wanted.to_owned();
        move |held: &str| held == wanted
    };
    let images = images(dataset, triplet)?;
    let image = |id: &String| images.get(id).cloned().unwrap_or(Value::Null);
    let pairs: Vec<PairRow> = rows(dataset, "query_id", &is(&triplet.query_id))?;
    let pair = pairs.iter().find(|pair| pair.target_id == triplet.target_id);
    let answers: Vec<AnnotationRow> = rows(dataset, "request_id", &is(&triplet.request_id))?;
    let mut rejects: Vec<RejectRow> = rows(dataset, "request_id", &is(&triplet.request_id))?;
    rejects.sort_by(|a, b| (a.epoch, &a.reason, &a.detail).cmp(&(b.epoch, &b.reason, &b.detail)));
    let mut changes: Vec<ChangeRow> = rows(dataset, "triplet_id", &is(&triplet.triplet_id))?;
    changes.sort();
    // Those before it were withdrawn.
    let answer = answers.iter().find(|row| row.outcome != WITHDRAWN);
    let audits = triplet.instructions.iter().zip(&triplet.audits).map(|(text, audit)| {
        json!({
            "instruction": text,
            "label": audit.label,
            "rank_text": audit.rank_text,
            "rank_image": audit.rank_image,
            "rank_both": audit.rank_both,
        })
    });
    let in_force = dataset.page().info.get("in_force").cloned().unwrap_or_default();
    let rules = serde_json::from_value(in_force["filter"].clone());
    let rules = rules.unwrap_or_else(|_| config.filter.clone());
    Ok(json!({
        "at_epoch": dataset.epoch(),
        "triplet_id": triplet.triplet_id,
        "epoch": triplet.epoch,
        "query": image(&triplet.query_id),
        "target": image(&triplet.target_id),
        "hard_negatives": triplet.hard_negatives.iter().map(image).collect::<Vec<_>>(),
        "pair": pair.map(|pair| json!({
            "channels": pair.channels,
            "scores": pair.scores,
            "ranks": pair.ranks,
            "epoch": pair.epoch,
        })),
        "in_force": in_force,
        "answer": {
            "request_id": triplet.request_id,
            "task": answer.map(|row| &row.task),
            "model": triplet.model,
            "prompt_version": triplet.prompt_version,
            "outcome": answer.map(|row| &row.outcome),
            "description": triplet.description,
            "prompt_tokens": answer.and_then(|row| row.prompt_tokens),
            "completion_tokens": answer.and_then(|row| row.completion_tokens),
            "cost_usd": answer.and_then(|row| row.cost_usd),
            "created_at": answer.map(|row| time(row.created_at)),
            "epoch": answer.map(|row| row.epoch),
        },
        "instructions": audits.collect::<Vec<_>>(),
        "left_out": answer.map(|row| left_out(row, triplet, &rules)).unwrap_or_default(),
        "rejects": rejects.iter().map(|row| json!({
            "reason": row.reason, "detail": row.detail, "epoch": row.epoch,
        })).collect::<Vec<_>>(),
        "changes": changes.iter().map(change).collect::<Vec<_>>(),
    }))
}

fn change(row: &ChangeRow) -> Value {
    json!({ "epoch": row.epoch, "op": row.op, "reason": row.reason })
}

/// Instructions of the answer that the triplet does not show, with the rule that they break.
fn left_out(answer: &AnnotationRow, triplet: &TripletRow, rules: &Filter) -> Vec<Value> {
    let (_, failures) = filter::judge(&Answer::from(answer), rules);
    let broken: BTreeMap<usize, _> = failures.into_iter().map(|(at, r, d)| (at, (r, d))).collect();
    let texts = answer.instructions.iter().enumerate();
    let hidden = texts.filter(|(_, text)| !triplet.instructions.contains(text));
    hidden
        .map(|(at, text)| match broken.get(&at) {
            Some((why, detail)) => {
                json!({ "instruction": text, "reason": why.as_str(), "detail": detail })
            }
            None => json!({ "instruction": text, "reason": null, "detail": null }),
        })
        .collect()
}

/// The images that a triplet names, by id.
fn images(dataset: &Dataset, triplet: &TripletRow) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut ids: BTreeSet<&str> = triplet.hard_negatives.iter().map(String::as_str).collect();
    ids.extend([triplet.query_id.as_str(), triplet.target_id.as_str()]);
    let images: Vec<ImageRow> = rows(dataset, "image_id", &|id| ids.contains(id))?;
    let wanted: BTreeSet<&str> = images.iter().map(|row| row.content_id.as_str()).collect();
    let is_wanted = |id: &str| wanted.contains(id);
    let contents: Vec<Content> =
        found(dataset, Table::Contents, Some(&CONTENT), "content_id", &is_wanted)?;
    let contents: BTreeMap<&str, &Content> =
        contents.iter().map(|row| (row.content_id.as_str(), row)).collect();
    let shown = images.iter().map(|row| {
        let content = contents.get(row.content_id.as_str());
        let image = json!({
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
        (row.image_id.clone(), image)
    });
    Ok(shown.collect())
}

/// Why there is no triplet of this id at this epoch, as far as the log of changes tells.
fn unknown(dataset: &Dataset, id: &str) -> anyhow::Result<anyhow::Error> {
    let newest = Dataset::open(dataset.store(), &At::Latest)?;
    let mut log: Vec<ChangeRow> = rows(&newest, "triplet_id", &|held| held.starts_with(id))?;
    log.sort_by(|a, b| (&a.triplet_id, a.epoch, &a.op).cmp(&(&b.triplet_id, b.epoch, &b.op)));
    let at = dataset.epoch();
    let ids: BTreeSet<&str> = log.iter().map(|row| row.triplet_id.as_str()).collect();
    if ids.len() > 1 {
        let some = some(ids.iter().copied());
        return Ok(anyhow::anyhow!(
            "no triplet of epoch {at} has an id that begins with {id:?}; changes knows {some}"
        ));
    }
    let now = i64::try_from(at).unwrap_or(i64::MAX);
    let before = log.iter().rfind(|row| row.epoch <= now);
    let Some(last) = before.or(log.first()) else {
        return Ok(anyhow::anyhow!(
            "no triplet of epoch {at} has an id that begins with {id:?}, nor had one before"
        ));
    };
    let (id, epoch) = (&last.triplet_id, last.epoch);
    let (query, target) = (&last.query_id, &last.target_id);
    if last.epoch > now {
        return Ok(anyhow::anyhow!(
            "triplet {id} (query {query:?}, target {target:?}) was not there yet at epoch {at}: it \
             came in epoch {epoch}"
        ));
    }
    if last.op == "insert" {
        return removed(&newest, &log, last, at);
    }
    let why = match last.reason.as_str() {
        "image" => "one of its two images was taken down, replaced or got another caption",
        "left" => "its pair is no longer mined",
        "answer" => "its answer no longer counts",
        "rule" => "its instructions no longer pass the rules",
        _ => "the config changed",
    };
    let reason = &last.reason;
    Ok(anyhow::anyhow!(
        "triplet {id} (query {query:?}, target {target:?}) left in epoch {epoch}, reason {reason}: \
         {why}; of earlier epochs see --at"
    ))
}

/// Of a triplet that came and had not left by `at`: its row has been removed from what is kept of
/// that epoch.
fn removed(
    newest: &Dataset,
    log: &[ChangeRow],
    came: &ChangeRow,
    at: u64,
) -> anyhow::Result<anyhow::Error> {
    let ChangeRow { triplet_id: id, query_id: query, target_id: target, epoch, .. } = came;
    let named = format!("triplet {id} (query {query:?}, target {target:?})");
    if at == newest.epoch() {
        return Ok(anyhow::anyhow!(
            "{named} came in epoch {epoch} and has not left, by changes, but it is not in triplets: \
             see what `everpair verify` finds"
        ));
    }
    let live: Vec<ImageRow> = rows(newest, "image_id", &|id| id == query || id == target)?;
    let is_gone = |id: &&String| live.iter().all(|row| row.image_id != **id);
    let gone: Vec<String> =
        [query, target].into_iter().filter(is_gone).map(|id| format!("{id:?}")).collect();
    let whose = match gone.as_slice() {
        [] => "what one of the two was then".to_owned(),
        one_or_two => format!("image {}", one_or_two.join(" and image ")),
    };
    let left = log.iter().find(|row| row.epoch > came.epoch && row.op == "delete");
    let left = match left {
        Some(row) => {
            format!("it left in epoch {}, reason {}, and ", row.epoch, row.reason)
        }
        None => String::new(),
    };
    Ok(anyhow::anyhow!(
        "{named} came in epoch {epoch} and was there at epoch {at}; {left}`everpair gc` has since \
         removed its row from what is kept of that epoch, because {whose} was taken down, blocked or \
         replaced (reports of gc are in _everpair/gc/)"
    ))
}

/// Some of several ids.
fn some<'a>(ids: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = ids.len();
    let shown: Vec<&str> = ids.take(IDS_SHOWN).collect();
    let more = if count > IDS_SHOWN { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Whole rows by the text in one column.
fn rows<R: Row>(
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
