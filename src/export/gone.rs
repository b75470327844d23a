//! Images of an older epoch that are no longer to be used: taken down since, by a tombstone or a
//! block, or not live because a later message of theirs was turned away. A take-down goes before a
//! pin, so no export has a row that names one, nor a picture or text that only such images had.

use std::collections::HashSet;

use anyhow::Context;
use arrow_array::{Array, BooleanArray, RecordBatch, cast::AsArray};
use arrow_schema::DataType;
use arrow_select::filter::filter_record_batch;
use schemas::{
    ContentId, caption_text,
    tables::{Table, TripletRow},
};
use serde::{Deserialize, Serialize};

use crate::{
    captions,
    dataset::{At, Dataset},
    delta::Key,
    snapshot,
};

/// What an export left out, as its manifest says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Images of the epoch that are no longer live.
    pub images: u64,
    /// Rows of `triplets` that name one of them.
    pub rows: u64,
}

/// Images that are gone, by the hash of their ids, and contents that nobody else had.
#[derive(Default)]
pub struct Gone {
    images: HashSet<Key>,
    contents: HashSet<ContentId>,
}

impl Gone {
    /// Those of an epoch; of the newest one there are none.
    pub fn of(dataset: &Dataset) -> anyhow::Result<Gone> {
        if Dataset::open(dataset.store(), &At::Latest)?.epoch() == dataset.epoch() {
            return Ok(Gone::default());
        }
        let losses = snapshot::losses(dataset)?;
        let images: HashSet<Key> = losses.ids().map(|id| Key::of(&[id])).collect();
        if images.is_empty() {
            return Ok(Gone::default());
        }
        let (mut gone, mut kept) = (HashSet::new(), HashSet::new());
        for batch in
            dataset.table(Table::Images)?.scan(Some(&["image_id", "content_id", "caption"]))?
        {
            let batch = batch?;
            let [ids, contents, captions] =
                [0, 1, 2].map(|column| batch.column(column).as_string::<i32>());
            for row in 0..batch.num_rows() {
                let holder = images.contains(&Key::of(&[ids.value(row)]));
                let contents_of = if holder { &mut gone } else { &mut kept };
                contents_of.extend(ContentId::parse(contents.value(row)));
                let caption = captions.is_valid(row).then(|| captions.value(row));
                contents_of
                    .extend(caption_text(caption).map(|text| ContentId::of(text.as_bytes())));
            }
        }
        // Of a content that no image of the epoch has, a text keeps nothing: `gc` may not have been there.
        for (content, text) in captions::all_written(dataset)? {
            let text = ContentId::of(text.as_bytes());
            if kept.contains(&content) {
                kept.insert(text);
            } else if gone.contains(&content) {
                gone.insert(text);
            }
        }
        gone.retain(|content| !kept.contains(content));
        Ok(Gone { images, contents: gone })
    }

    /// How many images.
    pub fn count(&self) -> u64 {
        self.images.len() as u64
    }

    /// Whether one of these images is gone.
    pub fn any<'a>(&self, mut ids: impl Iterator<Item = &'a str>) -> bool {
        !self.images.is_empty() && ids.any(|id| self.images.contains(&Key::of(&[id])))
    }

    /// Whether a row names one that is.
    pub fn named_by(&self, row: &TripletRow) -> bool {
        let ids = [&row.query_id, &row.target_id].into_iter().chain(&row.hard_negatives);
        self.any(ids.map(String::as_str))
    }

    /// The rows of a table that name none of them. Of the tables whose rows are no images, pairs or
    /// texts, all: ids alone stay in `changes` and `rejects`, for consumers must learn what to drop.
    pub fn without(&self, table: Table, batch: &RecordBatch) -> anyhow::Result<RecordBatch> {
        let (images, contents): (&[&str], &[&str]) = match table {
            Table::Images => (&["image_id"], &[]),
            Table::Pairs | Table::Triplets => (&["query_id", "target_id", "hard_negatives"], &[]),
            Table::Contents | Table::Embeddings => (&[], &["content_id"]),
            Table::Annotations => (&[], &["query_content_id", "target_content_id"]),
            Table::Changes | Table::Rejects | Table::Blocked => (&[], &[]),
        };
        let mut kept = vec![true; batch.num_rows()];
        for name in images.iter().filter(|_| !self.images.is_empty()) {
            let column = batch.column_by_name(name).context("a column that names images")?;
            for (row, kept) in kept.iter_mut().enumerate() {
                *kept &= match column.data_type() {
                    DataType::Utf8 => !self.any([column.as_string::<i32>().value(row)].into_iter()),
                    _ => {
                        let ids = column.as_list::<i32>().value(row);
                        !self.any(ids.as_string::<i32>().iter().flatten())
                    }
                };
            }
        }
        for name in contents.iter().filter(|_| !self.contents.is_empty()) {
            let column = batch.column_by_name(name).context("a column that names a content")?;
            for (content, kept) in column.as_string::<i32>().iter().zip(&mut kept) {
                let content = content.and_then(ContentId::parse);
                *kept &= content.is_none_or(|content| !self.contents.contains(&content));
            }
        }
        Ok(filter_record_batch(batch, &BooleanArray::from(kept))?)
    }
}
