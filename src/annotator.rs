//! Who writes the instructions: the seam, the annotator that needs no network, and the one that asks
//! a model.

pub mod audit;
mod captions;
mod measures;
pub mod openai;
mod phrases;
pub mod template;

use operators::flow::Request;
use schemas::{
    ContentId,
    tables::{AnnotationRow, Measures},
};

/// What was measured on a content, and its width and height in pixels.
pub type Looked = (Measures, (i32, i32));

/// Answers requests, one at a time. An outcome is a row of `annotations`, failures too.
pub trait Annotator: Send {
    /// The model's name and the version of its prompt.
    fn model(&self) -> (&str, i32);
    /// Whether captions are part of what determines an answer.
    fn reads_captions(&self) -> bool;
    /// Answers. `look` gives what is known of a content, none if it is gone; `created_at` is now,
    /// in microseconds UTC. The row's epoch is 0 until it is published.
    fn annotate(
        &mut self,
        request: &Request,
        look: &dyn Fn(&ContentId) -> Option<Looked>,
        created_at: i64,
    ) -> AnnotationRow;
}

/// One difference between query and target, in every form that a sentence may need.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    /// An order: "replace the blue square with a red circle".
    order: String,
    /// After "the same, but": "with a red circle instead of the blue square".
    but: String,
    /// After "one where": "there is a red circle, not a blue square".
    holds: String,
    /// After "what if": "there were a red circle in place of the blue square".
    asked: String,
    /// After "the query": "has a blue square".
    query: String,
    /// After "the target": "has a red circle".
    target: String,
}

/// "x", "x and y", "x, y and z".
fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests;
