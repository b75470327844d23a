//! The MegaPairs authors' form: a line has `q_img`, `q_text` (of which a trainer takes one at
//! random), `t_img` and `hns`, whose first is the query image. `triplet_id` and `export_epoch` are ours, so
//! that increments can say what left.

use serde_json::json;

use super::{folder::DataFile, images::Example, lines::Lines, shards::Names};

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
            let negatives: Vec<&str> = row.negatives.iter().map(|n| n.path.as_str()).collect();
            self.0.write(&json!({
                "q_img": row.query.path,
                "q_text": row.triplet.instructions,
                "t_img": row.target.path,
                "hns": negatives,
                "triplet_id": row.triplet.triplet_id,
                "export_epoch": row.export_epoch,
            }))?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> anyhow::Result<Vec<DataFile>> {
        self.0.finish()
    }
}
