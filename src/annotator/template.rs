//! `template:v1`: instructions by rule, from what differs between two captions or, without
//! captions, between two measurements. For trying out and for tests, not for training data.

use operators::flow::{Request, TASK};
use schemas::{ContentId, tables::AnnotationRow};

use super::{Annotator, Difference, Looked, audit::unaudited, captions, listed, measures};

/// Differences that one sentence names at most.
const NAMED_MAX: usize = 3;

/// The embedded annotator. Its answer depends on the request and the measures only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Template;

impl Template {
    /// There is nothing to set.
    pub fn new() -> Template {
        Template
    }
}

impl Annotator for Template {
    fn model(&self) -> (&str, i32) {
        ("template:v1", 1)
    }

    fn reads_captions(&self) -> bool {
        true
    }

    fn annotate(
        &mut self,
        request: &Request,
        look: &dyn Fn(&ContentId) -> Option<Looked>,
        created_at: i64,
    ) -> AnnotationRow {
        let looked = || Some((look(&request.query.0)?, look(&request.target.0)?));
        let said = request.query.1.as_deref().zip(request.target.1.as_deref());
        let by_caption = said.map(|(query, target)| captions::compare(query, target));
        let found = match by_caption {
            Some(found) if !found.differences.is_empty() => Ok(found),
            // No captions, or captions that say the same: only the pixels can differ.
            _ => match looked() {
                Some((query, target)) => Ok(measures::compare(&query, &target)),
                None => Err("content_gone"),
            },
        };
        let (model, prompt_version) = self.model();
        let mut row = AnnotationRow {
            request_id: request.request_id.clone(),
            query_content_id: request.query.0.hex(),
            target_content_id: request.target.0.hex(),
            task: TASK.into(),
            model: model.into(),
            prompt_version,
            outcome: "ok".into(),
            description: None,
            instructions: Vec::new(),
            audits: Vec::new(),
            prompt_tokens: None,
            completion_tokens: None,
            cost_usd: None,
            created_at,
            epoch: 0,
        };
        match found {
            Err(gone) => row.outcome = gone.into(),
            Ok(found) if found.differences.is_empty() => row.outcome = "nothing_differs".into(),
            Ok(found) => {
                row.description = Some(describe(&found, looked()));
                row.instructions = instructions(&found.differences, &request.request_id);
                row.audits = row.instructions.iter().map(|_| unaudited()).collect();
            }
        }
        row
    }
}

/// What two pictures share, and where they differ, the most telling first.
pub(super) struct Comparison {
    /// After "Both": "show a red circle"; none where the captions share nothing.
    pub both: Option<String>,
    /// Where they differ.
    pub differences: Vec<Difference>,
}

fn describe(found: &Comparison, looked: Option<(Looked, Looked)>) -> String {
    let named = &found.differences[..found.differences.len().min(NAMED_MAX)];
    let both = found
        .both
        .clone()
        .or_else(|| looked.map(|(query, target)| measures::both(&query, &target)))
        .unwrap_or_else(|| "are pictures".into());
    let (query, target) = (side(named, |d| &d.query), side(named, |d| &d.target));
    format!("Both {both}. However, the query {query}, whereas the target {target}.")
}

/// "has x, y and no z", where all clauses have the same verb; "is x and has y" where not.
fn side(named: &[Difference], of: fn(&Difference) -> &String) -> String {
    let mut clauses: Vec<String> = named.iter().map(|d| of(d).clone()).collect();
    for verb in ["has ", "is "] {
        if clauses.iter().all(|clause| clause.starts_with(verb)) {
            clauses[1..].iter_mut().for_each(|clause| *clause = clause[verb.len()..].to_owned());
        }
    }
    listed(&clauses)
}

/// Four instructions, each of another kind of sentence; the request chooses the wording.
fn instructions(differences: &[Difference], request_id: &str) -> Vec<String> {
    let all = &differences[..differences.len().min(NAMED_MAX)];
    let main = &differences[0];
    let second = differences.get(1).unwrap_or(main);
    let join = |of: fn(&Difference) -> &String| {
        listed(&all.iter().map(|d| of(d).clone()).collect::<Vec<_>>())
    };
    let choose = |slot: usize, of: &[&'static str]| of[chosen(request_id, slot) % of.len()];
    let but = choose(0, &["The same scene, but", "Just like this, but", "Similar to this, only"]);
    let find = choose(1, &["Find one where", "I want one where", "Show me one where"]);
    let what = choose(2, &["What if", "How would it look if", "What would it be like if"]);
    let (holds, asked) = match chosen(request_id, 3) % 2 {
        0 => (&main.holds, &second.asked),
        _ => (&second.holds, &main.asked),
    };
    vec![
        format!("{but} {}.", join(|d| &d.but)),
        format!("{}.", capital(&join(|d| &d.order))),
        format!("{find} {holds}."),
        format!("{what} {asked}?"),
    ]
}

/// A number that the request determines, one per slot.
fn chosen(request_id: &str, slot: usize) -> usize {
    let digits = request_id.get(2 * slot..2 * slot + 2).unwrap_or("0");
    usize::from_str_radix(digits, 16).unwrap_or(0)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}
