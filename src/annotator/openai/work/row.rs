//! From what a model has said to the row of `annotations`.

use std::collections::HashMap;

use operators::flow::Request;
use schemas::{config::Annotator, tables::AnnotationRow};

use crate::annotator::audit::unaudited;

use super::{
    super::{
        library::Known,
        model_id,
        money::usd,
        prompts::{Description, Prompts, captioner, is_turned, ordered},
        reply::{
            Bill, Ended, Verdict, caption, description, instructions, judge, picture,
            without_copies,
        },
    },
    Open, now_us,
    queue::Asks,
};

/// What a model has said.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::annotator::openai) enum Said {
    Caption(String),
    Description(Description),
    Instructions(Vec<String>),
    /// A number from 1; 0 is none.
    Picture(u64),
}

/// Judges a try by what was asked for.
pub(in crate::annotator::openai) fn judged(
    asks: Asks,
    ended: Ended,
    prompts: &Prompts,
) -> (Bill, Verdict<Said>) {
    match asks {
        Asks::Caption => told(judge(ended, caption), Said::Caption),
        Asks::Description => told(judge(ended, description), Said::Description),
        Asks::Instructions => {
            let (bill, verdict) = judge(ended, instructions);
            told((bill, without_copies(verdict, prompts)), Said::Instructions)
        }
        Asks::Judgement => told(judge(ended, picture), Said::Picture),
    }
}

/// The same, whichever was asked for.
fn told<T>((bill, verdict): (Bill, Verdict<T>), say: fn(T) -> Said) -> (Bill, Verdict<Said>) {
    let verdict = match verdict {
        Verdict::Answer(answer) => Verdict::Answer(say(answer)),
        Verdict::Final(outcome, why) => Verdict::Final(outcome, why),
        Verdict::Differently(change, outcome, why) => Verdict::Differently(change, outcome, why),
        Verdict::Later { outcome, why, after, pushed_back } => {
            Verdict::Later { outcome, why, after, pushed_back }
        }
        Verdict::Refuses(why) => Verdict::Refuses(why),
    };
    (bill, verdict)
}

/// A row of `annotations` before anything was said: who is asked about which contents, by which words.
pub(in crate::annotator::openai) fn asked(
    config: &Annotator,
    prompts: &Prompts,
    request: &Request,
    (id, asks): (&str, Asks),
) -> AnnotationRow {
    let model = model_id(config, prompts);
    let mut row = AnnotationRow {
        request_id: id.to_owned(),
        query_content_id: request.query.0.hex(),
        target_content_id: request.target.0.hex(),
        task: asks.task().into(),
        model: model.model,
        prompt_version: model.prompt_version,
        outcome: String::new(),
        description: None,
        instructions: Vec::new(),
        audits: Vec::new(),
        prompt_tokens: None,
        completion_tokens: None,
        cost_usd: None,
        created_at: now_us(),
        epoch: 0,
    };
    match asks {
        Asks::Caption => {
            row.model = captioner(config).to_owned();
            row.prompt_version = prompts.caption_version();
        }
        Asks::Description => {
            let [first, second] = ordered(request).map(|side| side.0.hex());
            (row.query_content_id, row.target_content_id) = (first, second);
            row.model = config.describer().to_owned();
            row.prompt_version = prompts.describe_version();
        }
        Asks::Instructions | Asks::Judgement => {}
    }
    row
}

/// What has come of it; `description` is what instructions were asked for with, in their direction.
pub(in crate::annotator::openai) fn say(
    row: &mut AnnotationRow,
    said: Result<Said, &str>,
    description: Option<String>,
) {
    row.outcome = said.as_ref().err().map_or("ok", |outcome| outcome).to_owned();
    match said {
        // A judge's choice goes into the row that it is about.
        Err(_) | Ok(Said::Picture(_)) => {}
        Ok(Said::Caption(text)) => row.description = Some(text),
        Ok(Said::Description(description)) => {
            row.description = Some(description.text("A", "B"));
            row.instructions = description.parts();
        }
        Ok(Said::Instructions(texts)) => {
            row.description = description;
            row.audits = texts.iter().map(|_| unaudited()).collect();
            row.instructions = texts;
        }
    }
}

/// The row of a request that has ended.
pub(super) fn row(
    config: &Annotator,
    prompts: &Prompts,
    known: &HashMap<String, Known>,
    open: &Open,
    said: Result<Said, &'static str>,
) -> AnnotationRow {
    let request = &open.request;
    let description = open.describe_id.as_ref().and_then(|id| match known.get(id) {
        Some(Known::Here(description)) => Some(description.directed(is_turned(request))),
        _ => None,
    });
    let tokens = |count: Option<u64>| count.and_then(|count| i64::try_from(count).ok());
    let mut row = asked(config, prompts, request, (&open.job.id, open.job.asks));
    row.prompt_tokens = tokens(open.read);
    row.completion_tokens = tokens(open.written);
    row.cost_usd = Some(usd(open.cost));
    say(&mut row, said, description);
    row
}
