//! Answers about pairs of contents: what they cost, and which of their instructions the rules left
//! out.

use std::collections::{BTreeMap, BTreeSet};

use operators::{
    filter,
    flow::{Answer, DESCRIBE, TASK},
};
use schemas::{
    config::Filter,
    reject::Reason,
    tables::{AnnotationRow, WITHDRAWN},
};
use serde_json::{Value, json};

use super::{rows, time};
use crate::dataset::Dataset;

/// `prompt_version` of an answer over that of the description it was made from.
const VERSIONS: i32 = 1_000;

/// Outcomes of requests about pairs of contents that are both of a set.
pub struct Answers(Vec<AnnotationRow>);

/// A description that an answer was made from.
#[derive(Clone, Copy)]
pub struct Described<'a> {
    /// Its request.
    pub row: &'a AnnotationRow,
    /// Answers that were made from it, one for each direction of the pair that was asked about.
    pub shared_by: usize,
}

/// An instruction that no triplet shows.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftOut {
    /// What it says.
    pub text: String,
    /// The rule that it breaks and what was measured; none where it breaks none of today's.
    pub why: Option<(Reason, String)>,
}

impl Answers {
    /// Those of an epoch, oldest first.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn about(dataset: &Dataset, contents: &BTreeSet<&str>) -> anyhow::Result<Answers> {
        let of = |id: &str| contents.contains(id);
        let mut found: Vec<AnnotationRow> = rows(dataset, "query_content_id", &of)?;
        found.retain(|row| contents.contains(row.target_content_id.as_str()));
        found.sort_by(|a, b| (a.created_at, &a.request_id).cmp(&(b.created_at, &b.request_id)));
        Ok(Answers(found))
    }

    /// The outcome of a request that counts: those before it were withdrawn.
    pub fn of_request(&self, id: &str) -> Option<&AnnotationRow> {
        self.0.iter().rfind(|row| row.request_id == id && row.outcome != WITHDRAWN)
    }

    /// Outcomes of the requests for instructions about a query and a target, newest first.
    pub fn of_pair(&self, query: &str, target: &str) -> impl Iterator<Item = &AnnotationRow> {
        let about = (query.to_owned(), target.to_owned());
        self.0.iter().rev().filter(move |row| {
            row.task == TASK
                && (&row.query_content_id, &row.target_content_id) == (&about.0, &about.1)
        })
    }

    /// The description that an answer was made from; none for annotators that describe as they go.
    pub fn described(&self, answer: &AnnotationRow) -> Option<Described<'_>> {
        let unordered = |row: &AnnotationRow| {
            let both = [row.query_content_id.clone(), row.target_content_id.clone()];
            BTreeSet::from(both)
        };
        let about = unordered(answer);
        // With two models the answer's name has both.
        let wrote = |model: &str| {
            let other = answer.model.strip_suffix(model);
            other.is_some_and(|other| other.is_empty() || other.ends_with('+'))
        };
        let row = self.0.iter().rfind(|row| {
            row.task == DESCRIBE
                && row.outcome != WITHDRAWN
                && row.prompt_version == answer.prompt_version / VERSIONS
                && row.created_at <= answer.created_at
                && wrote(&row.model)
                && unordered(row) == about
        })?;
        let of_same = self.0.iter().filter(|row| {
            row.task == TASK
                && row.outcome != WITHDRAWN
                && (&row.model, row.prompt_version) == (&answer.model, answer.prompt_version)
                && unordered(row) == about
        });
        let directions: BTreeSet<&str> = of_same.map(|row| row.query_content_id.as_str()).collect();
        Some(Described { row, shared_by: directions.len().max(1) })
    }

    /// What a pair's answer cost in dollars, its share of the description included.
    pub fn cost(&self, answer: &AnnotationRow) -> Option<f64> {
        let described = self.described(answer);
        let share = described.and_then(|of| Some(of.row.cost_usd? / of.shared_by as f64));
        match (answer.cost_usd, share) {
            (None, share) => share,
            (Some(own), share) => Some(own + share.unwrap_or(0.0)),
        }
    }

    /// An answer for scripts.
    pub fn to_json(&self, answer: &AnnotationRow) -> Value {
        let described = self.described(answer).map(|Described { row, shared_by }| {
            json!({
                "request_id": row.request_id,
                "model": row.model,
                "prompt_version": row.prompt_version,
                "outcome": row.outcome,
                "prompt_tokens": row.prompt_tokens,
                "completion_tokens": row.completion_tokens,
                "cost_usd": row.cost_usd,
                "shared_by": shared_by,
            })
        });
        json!({
            "request_id": answer.request_id,
            "task": answer.task,
            "model": answer.model,
            "prompt_version": answer.prompt_version,
            "outcome": answer.outcome,
            "description": answer.description,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "cost_usd": answer.cost_usd,
            "describe": described,
            "cost_of_pair_usd": self.cost(answer),
            "created_at": time(answer.created_at),
            "epoch": answer.epoch,
        })
    }
}

/// Instructions of an answer that do not pass the rules, for a target with this caption, and those
/// that `shown` lacks for whatever other reason.
pub fn left_out(
    row: &AnnotationRow,
    caption: Option<&str>,
    shown: &[String],
    rules: &Filter,
) -> Vec<LeftOut> {
    let answer = Answer::from(row);
    let mut broken: BTreeMap<usize, (Reason, String)> = BTreeMap::new();
    // Of two rules that it breaks the one on the text alone comes first.
    let (_, failures) = filter::judge(&answer, rules);
    for (at, reason, detail) in failures.into_iter().chain(filter::leaks(&answer, caption, rules)) {
        broken.entry(at).or_insert((reason, detail));
    }
    let texts = row.instructions.iter().enumerate();
    let hidden = texts.filter(|(at, text)| broken.contains_key(at) || !shown.contains(text));
    hidden.map(|(at, text)| LeftOut { text: text.clone(), why: broken.get(&at).cloned() }).collect()
}

/// How many of an answer's instructions pass the rules for a target with this caption.
pub fn passing(row: &AnnotationRow, caption: Option<&str>, rules: &Filter) -> usize {
    row.instructions.len() - left_out(row, caption, &row.instructions, rules).len()
}

/// For scripts.
pub fn left_out_json(left_out: &[LeftOut]) -> Vec<Value> {
    let each = left_out.iter().map(|one| {
        let (reason, detail) = match &one.why {
            Some((reason, detail)) => (Some(reason.as_str()), Some(detail)),
            None => (None, None),
        };
        json!({ "instruction": one.text, "reason": reason, "detail": detail })
    });
    each.collect()
}

/// Why an answer, the newest there is of a pair or of one request, makes no triplet.
pub fn why_none(answer: Option<&AnnotationRow>, caption: Option<&str>, rules: &Filter) -> String {
    let Some(row) = answer else {
        return "no request about it has ended yet: it waits to be asked, or for its answer".into();
    };
    if row.outcome == WITHDRAWN {
        return "its answer came when one of its images had gone: it is asked again".into();
    }
    if row.outcome != "ok" {
        return format!("its request ended without an answer: {}", row.outcome);
    }
    let (fit, all, least) =
        (passing(row, caption, rules), row.instructions.len(), rules.instructions_min);
    if fit < least {
        return format!(
            "{fit} of {all} instructions pass the rules, and a triplet needs {least} ([filter] \
             instructions_min)"
        );
    }
    "its answer passes the rules and is in no triplet: it speaks of captions that have changed, of \
     images that are not live, or of a pair that is no longer mined (keep = \"mined\")"
        .into()
}
