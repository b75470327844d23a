//! The MegaPairs authors' form: a line has `q_img`, `q_text` (of which a trainer takes one at
//! random), `t_img` and `hns`, whose first is the query image. `triplet_id` and `export_epoch` are ours, so
//! that increments can say what left.

use serde_json::{Value, json};

use super::images::Example;

/// The line of a row.
pub fn lines(row: &Example) -> Vec<Value> {
    let negatives: Vec<&str> = row.negatives.iter().map(|n| n.path.as_str()).collect();
    vec![json!({
        "q_img": row.query.path,
        "q_text": row.triplet.instructions,
        "t_img": row.target.path,
        "hns": negatives,
        "triplet_id": row.triplet.triplet_id,
        "export_epoch": row.export_epoch,
    })]
}
