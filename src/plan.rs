//! `everpair plan`: what a model would be asked, and what that would cost, before anybody pays.
//!
//! The tables say which pairs have no answer yet. What a call takes is the mean of those that were
//! made under this config's model, and before there are any an estimate from the prompt's length.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use anyhow::bail;
use clap::Args;
use operators::{
    annotate, captions,
    flow::{CAPTION, CaptionerId, DESCRIBE, Mined, ModelId, Request, TASK},
};
use schemas::{
    ContentId,
    config::{Annotator, AnnotatorKind, Config},
    tables::{AnnotationRow, WITHDRAWN},
};
use serde::Serialize;

use crate::{
    annotator::openai::{
        batch, captioner_id, journal,
        judge::LOOKS,
        model_id,
        money::{Prices, Spent, usd},
        prompts::{Chat, Description, Prompts, Variation},
        wanted::{Wanted, wanted},
    },
    cli::read_config,
    dataset::{self, At, Dataset},
    outln,
    service::open_tables,
};

/// Bytes of English text that are one token, about.
const TOKEN_BYTES: f64 = 4.0;
/// Tokens of an answer, about.
const ANSWER_TOKENS: f64 = 120.0;

/// Arguments of the command.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Of a corpus of so many images, like those in the tables; without tables every image has the
    /// most pairs that it can have.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub images: Option<u64>,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Calls of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Calls {
    /// How many.
    pub calls: u64,
    /// Tokens that one reads and writes, about.
    pub tokens_read: f64,
    /// Tokens written.
    pub tokens_written: f64,
    /// Calls that were made before, and of which these are the means; 0: estimated from the prompt.
    pub measured: u64,
    /// All of them, about.
    pub cost_usd: f64,
    /// The most that all of them can cost, each tried once.
    pub most_usd: f64,
}

/// What would be asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The model.
    pub model: String,
    /// Live images, or those of the corpus that was asked about.
    pub images: u64,
    /// Pairs, and those without an answer.
    pub pairs: u64,
    /// Of these have no answer.
    pub unanswered: u64,
    /// Requests that are out in batches: paid for, unless they come back without an answer.
    pub out: u64,
    /// Calls for captions, where there is a captioner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<Calls>,
    /// Calls that describe.
    pub describe: Calls,
    /// Calls for instructions.
    pub instruct: Calls,
    /// Looks of the judge, where there is one. What those cost that were taken stands in rows of answers:
    /// where calls for instructions are measured, theirs are in them.
    pub judge: Option<Calls>,
    /// All of them, about.
    pub cost_usd: f64,
    /// What counts as spent.
    pub spent_usd: f64,
    /// What the budget has left.
    pub left_usd: f64,
}

/// Runs the command.
///
/// # Errors
/// The tables cannot be read, or no model is configured.
pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let config = read_config(&args.config)?;
    if config.annotator.kind == AnnotatorKind::Template {
        bail!("[annotator] kind = \"template\" asks no model and costs nothing: there is no plan");
    }
    let plan = plan(&config, args.images)?;
    if args.json {
        outln!("{:#}", serde_json::to_value(&plan)?);
        return Ok(());
    }
    let Plan { model, images, pairs, unanswered, .. } = &plan;
    outln!("{images} images, {pairs} pairs, {unanswered} of them without an answer of {model}");
    if plan.out > 0 {
        outln!("{} requests are out in batches: they are no calls of this plan", plan.out);
    }
    let caption = plan.caption.as_ref().map(|calls| ("caption", calls));
    let of_pairs = [("describe", &plan.describe), ("instruct", &plan.instruct)];
    let judge = plan.judge.as_ref().map(|calls| ("judge", calls));
    let mut most = 0.0;
    for (name, calls) in caption.into_iter().chain(of_pairs).chain(judge) {
        most += calls.most_usd;
        let Calls { calls, tokens_read: read, tokens_written: written, measured, .. } = calls;
        let by = match measured {
            n if *n > 0 && name == "judge" => "in the mean of what instructions took".to_owned(),
            0 => "estimated from the prompt".to_owned(),
            n => format!("the mean of {n} calls"),
        };
        outln!("{name}: {calls} calls, {read:.0} tokens read and {written:.0} written each ({by})");
    }
    outln!("about {:.4} USD, at most {most:.4} where each is tried once", plan.cost_usd);
    let (spent, left) = (plan.spent_usd, plan.left_usd);
    outln!("{spent:.4} USD are spent, {left:.4} of the budget are left");
    if plan.cost_usd > left {
        let share = 100.0 * left / plan.cost_usd;
        outln!("the budget ends after about {share:.0} % of it; [annotator] budget sets it");
    }
    Ok(())
}

/// What a config would ask of its tables, or of a corpus of so many images.
///
/// # Errors
/// The tables cannot be read.
pub fn plan(config: &Config, images: Option<u64>) -> anyhow::Result<Plan> {
    let prompts = Prompts::of(&config.annotator)?;
    let model = model_id(&config.annotator, &prompts);
    let captioner = captioner_id(&config.annotator, &prompts);
    let held = match images {
        // A corpus that is to be may have no tables yet.
        Some(_)
            if !config.tables.is_remote()
                && !std::path::Path::new(&config.tables.root).is_dir() =>
        {
            None
        }
        _ => Some(open_tables(config)?),
    };
    let dataset = match &held {
        Some(store) if dataset::latest(store)?.is_some() => {
            Some(Dataset::open(store, &At::Latest)?)
        }
        _ => None,
    };
    let caption = captioner.as_ref().map(|_| Calls::default());
    let mut plan = Plan { model: model.model.clone(), caption, ..Plan::default() };
    let (mut rows, mut all) = (Vec::new(), All::default());
    match &dataset {
        Some(dataset) => {
            rows = dataset.rows::<AnnotationRow>()?;
            let by = (&prompts, &model, captioner.as_ref());
            all = count(&mut plan, dataset, &config.annotator, by, &rows)?;
        }
        None if images.is_none() => bail!("no epoch is committed yet: say for how many --images"),
        None => {}
    }
    if let Some(images) = images {
        let most = config.pairs.targets_per_query as f64;
        let per = |count: u64, most: f64| match plan.images {
            0 => most,
            held => count as f64 / held as f64,
        };
        let scaled = |each: f64| (each * images as f64).round() as u64;
        let (pairs, described) = (per(plan.pairs, most), per(all.described, most));
        (plan.pairs, plan.unanswered) = (scaled(pairs), scaled(pairs));
        (plan.describe.calls, plan.instruct.calls) = (scaled(described), scaled(pairs));
        if let Some(calls) = &mut plan.caption {
            calls.calls = scaled(per(all.captions, 1.0));
        }
        (plan.images, plan.out) = (images, 0);
    }
    let looks = plan.instruct.calls * LOOKS;
    plan.judge =
        config.annotator.judge.as_ref().map(|_| Calls { calls: looks, ..Calls::default() });
    price(&mut plan, &config.annotator, &prompts, &rows);
    if let Some(store) = &held {
        let spent = Spent::read(store, 0)?;
        plan.spent_usd = usd(spent.closed + spent.open);
    }
    plan.left_usd = (config.annotator.budget.unwrap_or(0.0) - plan.spent_usd).max(0.0);
    Ok(plan)
}

/// What pairs and images need, answered or not.
#[derive(Default)]
struct All {
    described: u64,
    captions: u64,
}

/// Counts pairs and the calls that they still need. Gives what all of them need.
fn count(
    plan: &mut Plan,
    dataset: &Dataset,
    config: &Annotator,
    (prompts, model, captioner): (&Prompts, &ModelId, Option<&CaptionerId>),
    rows: &[AnnotationRow],
) -> anyhow::Result<All> {
    let written = journal::ids(dataset.store())?;
    let answered = rows.iter().filter(|row| row.outcome != WITHDRAWN).map(|row| &*row.request_id);
    let answered: HashSet<&str> = answered.chain(written.iter().map(|id| &**id)).collect();
    let batches = batch::read(dataset.store())?;
    let out: HashSet<&str> =
        batches.iter().flat_map(|batch| &batch.out).map(|out| &*out.row.request_id).collect();
    let has = |id: &str| answered.contains(id);
    let asked = |id: &str| has(id) || out.contains(id);
    let Wanted { images, requests, waiting, captions } = wanted(dataset, model, captioner)?;
    plan.images = images;
    let (mut described, mut all) = (HashSet::new(), HashSet::new());
    let mut pair = |request: &Request, same: bool| {
        plan.pairs += 1;
        let id = prompts.describe_id(config, request);
        if !(same && has(&request.request_id)) {
            plan.unanswered += 1;
            plan.instruct.calls += u64::from(!(same && asked(&request.request_id)));
            if !(same && asked(&id)) {
                described.insert(id.clone());
            }
        }
        all.insert(id);
    };
    requests.iter().for_each(|request| pair(request, true));
    // With captions they are other questions, unless nobody reads those.
    waiting.iter().for_each(|request| pair(request, !model.reads_captions));
    plan.describe.calls = described.len() as u64;
    plan.out = out.len() as u64;
    if let Some(calls) = &mut plan.caption {
        let open = captions.iter().filter(|request| !asked(&request.request_id));
        calls.calls = open.count() as u64;
    }
    Ok(All { described: all.len() as u64, captions: captions.len() as u64 })
}

fn price(plan: &mut Plan, config: &Annotator, prompts: &Prompts, rows: &[AnnotationRow]) {
    let any = ContentId([0; 32]);
    let of_instruct = model_id(config, prompts);
    let (name, side) = (Arc::<str>::from(""), (any, None));
    let request = annotate::request(&of_instruct, (&name, &side), (&name, &side));
    let words = "word ".repeat(30);
    let description = Description { common: words.clone(), first: words.clone(), second: words };
    let how = Variation::default();
    let describe = prompts.describe(config, &any.hex(), &request, how);
    let instruct = prompts.instruct(config, &request, &description, how);
    take(&mut plan.describe, config, &describe, rows, (DESCRIBE, config.describer()));
    let of_task = (TASK, &*of_instruct.model);
    let judged = |row: &&AnnotationRow| row.audits.iter().any(|audit| audit.verdict.is_some());
    match (&mut plan.judge, &config.judge) {
        (Some(calls), Some(judge)) => {
            // Of answers that were judged, for they have cost that too.
            let rows: Vec<AnnotationRow> = rows.iter().filter(judged).cloned().collect();
            take(&mut plan.instruct, config, &instruct, &rows, of_task);
            let shown = vec![any; judge.negatives + 1];
            let look = prompts.judge(config, &any.hex(), (any, &shown), &"word ".repeat(12), how);
            take(calls, config, &look, &[], (TASK, &judge.model));
            if plan.instruct.measured > 0 {
                (calls.measured, calls.cost_usd) = (plan.instruct.measured, 0.0);
            }
            plan.cost_usd = calls.cost_usd;
        }
        _ => take(&mut plan.instruct, config, &instruct, rows, of_task),
    }
    plan.cost_usd += plan.describe.cost_usd + plan.instruct.cost_usd;
    if let (Some(calls), Some(captioner)) = (&mut plan.caption, captioner_id(config, prompts)) {
        let mined = Mined { image_id: name, content_id: any, caption: None };
        let request = captions::request(&captioner, &mined);
        let caption = prompts.caption(config, &request, how);
        take(calls, config, &caption, rows, (CAPTION, &captioner.model));
        plan.cost_usd += calls.cost_usd;
    }
}

fn take(
    calls: &mut Calls,
    config: &Annotator,
    chat: &Chat,
    rows: &[AnnotationRow],
    (task, model): (&str, &str),
) {
    let ours = rows.iter().filter(|row| row.task == task && row.model == model);
    let tokens: Vec<(i64, i64)> =
        ours.filter_map(|row| Some((row.prompt_tokens?, row.completion_tokens?))).collect();
    let (most_read, most_written) = chat.most_tokens(config);
    calls.measured = tokens.len() as u64;
    (calls.tokens_read, calls.tokens_written) = match tokens.len() {
        0 => {
            let images = chat.images.len() as u64 * config.image_tokens;
            let text = most_read.saturating_sub(images) as f64 / TOKEN_BYTES;
            (text + images as f64, ANSWER_TOKENS)
        }
        n => {
            let mean = |of: fn(&(i64, i64)) -> i64| {
                tokens.iter().map(|both| of(both) as f64).sum::<f64>() / n as f64
            };
            (mean(|both| both.0), mean(|both| both.1))
        }
    };
    let prices = Prices::of(config);
    let million = |tokens: f64| (tokens * 1e6).round() as u64;
    let each = usd(prices.cost(million(calls.tokens_read), million(calls.tokens_written))) / 1e6;
    calls.cost_usd = each * calls.calls as f64;
    calls.most_usd = usd(prices.cost(most_read, most_written)) * calls.calls as f64;
}
