//! The form that VLM2Vec trains on (MMEB-train): texts with an image token and paths, one negative a
//! line. Every instruction is a line; the first has the query image as its negative, which the
//! paper found to matter most, the next ones the mined negatives in turn.

use serde_json::json;

use super::{
    folder::DataFile,
    images::{Example, Picture},
    lines::Lines,
    shards::Names,
};

/// VLM2Vec's token for the picture of a text.
const IMAGE: &str = "<|image_1|>";
const TASK: &str = "Find an image that fits the change asked for in the given image:";
const REPRESENT: &str = "Represent the given image.";

/// Lines of that form.
pub struct Writer(Lines);

impl Writer {
    /// Files of these names.
    pub fn new(names: Names) -> Writer {
        Writer(Lines::new(names))
    }
}

impl super::Writer for Writer {
    fn write(&mut self, rows: Vec<Example>) -> anyhow::Result<()> {
        for row in rows {
            for (at, instruction) in row.triplet.instructions.iter().enumerate() {
                let negative: Option<&Picture> = row.negatives.iter().cycle().nth(at);
                self.0.write(&json!({
                    "qry": format!("{IMAGE}\n{TASK} {instruction}"),
                    "qry_image_path": row.query.path,
                    "pos_text": format!("{IMAGE}\n{REPRESENT}"),
                    "pos_image_path": row.target.path,
                    "neg_text": negative.map_or(String::new(), |_| format!("{IMAGE}\n{REPRESENT}")),
                    "neg_image_path": negative.map_or("", |picture| &picture.path),
                    "triplet_id": row.triplet.triplet_id,
                    "export_epoch": row.export_epoch,
                }))?;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> anyhow::Result<Vec<DataFile>> {
        self.0.finish()
    }
}
