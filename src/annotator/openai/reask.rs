//! Answers that are to be asked for again: by how they ended, by what the audit found, by age or source.
//!
//! An answer is known by what determines it, so nothing asks the same twice. Here the memo forgets some,
//! and the next start finds pairs without an answer: their triplets leave with an epoch, and come back
//! with the new answers. What they have cost stays spent.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, bail};
use arrow_array::cast::AsArray;
use chrono::{DateTime, NaiveDate, Utc};
use operators::flow::{CAPTION, DESCRIBE, TASK};
use schemas::{
    ContentId,
    config::{AnnotatorKind, Config},
    tables::{AnnotationRow, ImageRow, Table, WITHDRAWN},
};
use serde::Serialize;

use super::{
    captioner_id, journal, model_id,
    prompts::Prompts,
    wanted::{Wanted, wanted},
};
use crate::{
    cli::BadConfig,
    dataset::{self, At, Dataset},
    delta,
    service::{open_tables, specs},
};

/// Which answers. What is empty says nothing; of what is said all must hold.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Selection {
    /// Requests that ended like this: ok, refused, bad_json, …
    #[arg(long, value_name = "OUTCOME")]
    pub outcome: Vec<String>,
    /// Answers with an instruction that the audit has labelled so.
    #[arg(long, value_name = "LABEL",
          value_parser = ["composition_required", "shortcut_text", "shortcut_image", "unresolved"])]
    pub label: Vec<String>,
    /// Answers with an instruction of which a judge has said so.
    #[arg(long, value_name = "VERDICT", value_parser = ["target", "other", "split", "none"])]
    pub verdict: Vec<String>,
    /// Answers from before that time: a date (UTC), or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub before: Option<i64>,
    /// Pairs whose query is from this source; captions of images that are.
    #[arg(long, value_name = "SOURCE")]
    pub source: Vec<String>,
    /// This request.
    #[arg(long, value_name = "REQUEST_ID")]
    pub id: Vec<String>,
}

/// Microseconds UTC.
fn time(text: &str) -> Result<i64, String> {
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let at = DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).ok();
    let at: Option<DateTime<Utc>> = at.or_else(|| day().map(|day| day.and_utc()));
    let at = at.ok_or("write a date such as 2026-11-23, or 2026-11-23T08:00:00Z")?;
    Ok(at.timestamp_micros())
}

impl Selection {
    fn is_empty(&self) -> bool {
        let Selection { outcome, label, verdict, before, source, id } = self;
        [outcome, label, verdict, source, id].iter().all(|words| words.is_empty())
            && before.is_none()
    }

    fn has(&self, row: &AnnotationRow, source: Option<&str>) -> bool {
        let any = |words: &[String], is: &dyn Fn(&str) -> bool| {
            words.is_empty() || words.iter().any(|word| is(word))
        };
        any(&self.outcome, &|word| row.outcome == word)
            && any(&self.label, &|word| row.audits.iter().any(|audit| audit.label == word))
            && any(&self.verdict, &|word| {
                row.audits.iter().any(|audit| audit.verdict.as_deref().unwrap_or("none") == word)
            })
            && self.before.is_none_or(|before| row.created_at < before)
            && any(&self.source, &|word| source == Some(word))
            && any(&self.id, &|word| row.request_id == word)
    }
}

/// What would be, or is, asked again.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Again {
    /// Requests for instructions, by how they ended.
    pub instruct: BTreeMap<String, u64>,
    /// Descriptions, the same.
    pub describe: BTreeMap<String, u64>,
    /// Captions, the same.
    pub caption: BTreeMap<String, u64>,
    /// What these have cost: about what they cost again under the same prices.
    pub cost_usd: f64,
    /// Answers that fit, of pairs and images that are not mined now: nobody would ask them, so they stay.
    pub stay: u64,
    /// The memo has forgotten them.
    pub applied: bool,
}

impl Again {
    fn count(&mut self, row: &AnnotationRow) {
        let counts = match &*row.task {
            CAPTION => &mut self.caption,
            DESCRIBE => &mut self.describe,
            _ => &mut self.instruct,
        };
        *counts.entry(row.outcome.clone()).or_default() += 1;
        self.cost_usd += row.cost_usd.unwrap_or(0.0);
    }
}

/// What is asked again of what was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Instructions; descriptions where they have failed.
    Pairs,
    /// Instructions and their descriptions.
    PairsAnew,
    /// Captions.
    Images,
}

/// Finds them, and lets the memo forget them if it is to be `applied`, for which the command becomes the
/// writer of the tables: a service that runs ends.
///
/// # Errors
/// Nothing is selected, no model is asked, or the tables cannot be read or written.
pub fn reask(
    config: &Config,
    selection: &Selection,
    (of, applied): (Of, bool),
) -> anyhow::Result<Again> {
    if config.annotator.kind == AnnotatorKind::Template {
        let why = "[annotator] kind = \"template\" asks no model: it answers alike again";
        return Err(BadConfig(why.into()).into());
    }
    if selection.is_empty() {
        let why = "say which answers: --outcome, --label, --verdict, --before, --source or --id";
        return Err(BadConfig(why.into()).into());
    }
    if of == Of::Images && config.annotator.captioner.is_none() {
        return Err(BadConfig("there is no [captioner]: nobody writes captions".into()).into());
    }
    let store = open_tables(config)?;
    if dataset::latest(&store)?.is_none() {
        bail!("no epoch is committed yet: there is no answer");
    }
    let prompts = Prompts::of(&config.annotator)?;
    let dataset = Dataset::open(&store, &At::Latest)?;
    let (mut again, gone) = find(config, &prompts, &dataset, (selection, of))?;
    if applied && !gone.is_empty() {
        forget(&store, &gone)?;
        again.applied = true;
    }
    Ok(again)
}

/// What fits, and the ids of the requests that are to be forgotten.
fn find(
    config: &Config,
    prompts: &Prompts,
    dataset: &Dataset,
    (selection, of): (&Selection, Of),
) -> anyhow::Result<(Again, HashSet<String>)> {
    let annotator = &config.annotator;
    let (model, captioner) = (model_id(annotator, prompts), captioner_id(annotator, prompts));
    let images = dataset.rows::<ImageRow>()?.into_iter();
    let sources: HashMap<String, Option<String>> =
        images.map(|row| (row.image_id, row.source)).collect();
    let Wanted { mut requests, waiting, captions, .. } =
        wanted(dataset, &model, captioner.as_ref())?;
    // One that waits for a caption may have been answered before it had to.
    requests.extend(waiting);
    let (task, requests) = match of {
        Of::Images => (CAPTION, captions),
        Of::Pairs | Of::PairsAnew => (TASK, requests),
    };
    // By request: the source of the query, or of the image, and the description.
    let mined: HashMap<String, (Option<&str>, String)> = requests
        .iter()
        .map(|request| {
            let source = sources.get(&*request.images[0]).and_then(|source| source.as_deref());
            let describe_id = prompts.describe_id(annotator, request);
            (request.request_id.clone(), (source, describe_id))
        })
        .collect();
    let mut again = Again::default();
    let (mut gone, mut described) = (HashSet::new(), HashSet::new());
    let rows = dataset.rows::<AnnotationRow>()?;
    for row in rows.iter().filter(|row| row.outcome != WITHDRAWN) {
        let Some((source, describe_id)) = mined.get(&row.request_id) else {
            again.stay += u64::from(row.task == task && selection.has(row, None));
            continue;
        };
        if selection.has(row, *source) {
            again.count(row);
            gone.insert(row.request_id.clone());
            // Without a description there is nothing to ask with.
            if of == Of::PairsAnew || row.outcome == "no_description" {
                described.insert(describe_id.clone());
            }
        }
    }
    for row in rows.iter().filter(|row| described.contains(&row.request_id)) {
        if row.outcome != WITHDRAWN {
            again.count(row);
            gone.insert(row.request_id.clone());
        }
    }
    Ok((again, gone))
}

fn forget(store: &delta::Store, gone: &HashSet<String>) -> anyhow::Result<()> {
    let gone: HashSet<ContentId> = gone.iter().filter_map(|id| ContentId::parse(id)).collect();
    let mut publisher = delta::start(store, &specs()).context("take over the tables")?;
    publisher
        .forget(Table::Annotations.as_str(), &["request_id"], |batch| {
            let ids = batch.column(0).as_string::<i32>();
            let goes = |id: Option<&str>| {
                id.and_then(ContentId::parse).is_some_and(|id| gone.contains(&id))
            };
            Ok(ids.iter().map(goes).collect())
        })
        .context("forget answers")?;
    // Of a service that was killed before it removed them, and which would commit them again.
    let named = |id: &String| ContentId::parse(id).is_some_and(|id| gone.contains(&id));
    for id in journal::ids(store)?.iter().filter(|id| named(id)) {
        journal::remove(store, id)?;
    }
    publisher.renew_latest().context("name the version that has forgotten")?;
    Ok(())
}
