//! From what a model has said to the row of `annotations`.

use std::collections::HashMap;

use operators::flow::{DESCRIBE, TASK};
use schemas::{config::Annotator, tables::AnnotationRow};

use crate::annotator::audit::unaudited;

use super::{
    super::{
        library::Known,
        model_id,
        money::usd,
        prompts::{Description, Prompts, is_turned},
        reply::{Bill, Verdict},
    },
    Open, now_us,
};

/// What a model has said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Description(Description),
    Instructions(Vec<String>),
}

/// The same, whichever of the two was asked for.
pub(super) fn told<T>(
    (bill, verdict): (Bill, Verdict<T>),
    say: fn(T) -> Said,
) -> (Bill, Verdict<Said>) {
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

/// The row of `annotations`.
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
    let [first, second] = open.job.pair.map(|content| content.hex());
    let is_description = open.describe_id.is_none();
    let model = model_id(config, prompts);
    let tokens = |count: Option<u64>| count.and_then(|count| i64::try_from(count).ok());
    let mut row = AnnotationRow {
        request_id: open.job.id.clone(),
        query_content_id: request.query.0.hex(),
        target_content_id: request.target.0.hex(),
        task: TASK.into(),
        model: model.model,
        prompt_version: model.prompt_version,
        outcome: "ok".into(),
        description,
        instructions: Vec::new(),
        audits: Vec::new(),
        prompt_tokens: tokens(open.read),
        completion_tokens: tokens(open.written),
        cost_usd: Some(usd(open.cost)),
        created_at: now_us(),
        epoch: 0,
    };
    if is_description {
        (row.query_content_id, row.target_content_id) = (first, second);
        row.task = DESCRIBE.into();
        row.model = config.describe_model.clone().unwrap_or_else(|| config.model.clone());
        row.prompt_version = prompts.describe_version();
    }
    match said {
        Err(outcome) => {
            row.outcome = outcome.into();
            row.description = None;
        }
        Ok(Said::Description(description)) => {
            row.description = Some(description.text("A", "B"));
            row.instructions = description.parts();
        }
        Ok(Said::Instructions(texts)) => {
            row.audits = texts.iter().map(|_| unaudited()).collect();
            row.instructions = texts;
        }
    }
    row
}
