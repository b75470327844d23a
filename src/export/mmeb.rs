//! The form that VLM2Vec trains on (MMEB-train): texts with an image token and paths, one negative a
//! line. Every instruction is a line; the first has the query image as its negative, which the
//! paper found to matter most, the next ones the mined negatives in turn.

use serde_json::{Value, json};

use super::images::{Example, Picture};

/// VLM2Vec's token for the picture of a text.
const IMAGE: &str = "<|image_1|>";
const TASK: &str = "Find an image that fits the change asked for in the given image:";
const REPRESENT: &str = "Represent the given image.";

/// The lines of a row.
pub fn lines(row: &Example) -> Vec<Value> {
    let line = |(at, instruction): (usize, &String)| {
        let negative: Option<&Picture> = row.negatives.iter().cycle().nth(at);
        json!({
            "qry": format!("{IMAGE}\n{TASK} {instruction}"),
            "qry_image_path": row.query.path,
            "pos_text": format!("{IMAGE}\n{REPRESENT}"),
            "pos_image_path": row.target.path,
            "neg_text": negative.map_or(String::new(), |_| format!("{IMAGE}\n{REPRESENT}")),
            "neg_image_path": negative.map_or("", |picture| &picture.path),
            "triplet_id": row.triplet.triplet_id,
            "export_epoch": row.export_epoch,
        })
    };
    row.triplet.instructions.iter().enumerate().map(line).collect()
}
