//! Fingerprints of rows of `pairs` and `triplets`: whether a table shows what the rules say, without
//! holding the table in memory.
//!
//! A fingerprint is half a sha256 over every column but `epoch`, and `triplet_id`, which follows from
//! two others, in the order of the columns. Those
//! of rows are worked out from a batch's columns, those of steps from the steps; a test holds that
//! they agree.

use arrow_array::{
    Array, ArrayRef, RecordBatch,
    cast::AsArray,
    types::{Float64Type, Int32Type, Int64Type},
};
use arrow_schema::DataType;
use operators::{flow::Pair, triplets::Triplet};
use schemas::{
    Channel, ContentId,
    tables::{Audit, Table},
};
use sha2::{Digest, Sha256};

use super::rows::score;

/// Names a row but for its epoch.
pub type Fingerprint = [u8; 16];

/// What a row's values are turned into before they are hashed.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&(length as u64).to_le_bytes());
    }

    fn texts<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a str>) {
        self.length(texts.len());
        for text in texts {
            self.some();
            self.text(text);
        }
    }

    fn none(&mut self) {
        self.bytes.push(0);
    }

    fn some(&mut self) {
        self.bytes.push(1);
    }

    fn value<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        match value {
            None => self.none(),
            Some(value) => {
                self.some();
                write(self, value);
            }
        }
    }

    fn int(&mut self, int: i32) {
        self.bytes.extend_from_slice(&int.to_le_bytes());
    }

    fn double(&mut self, double: f64) {
        self.bytes.extend_from_slice(&double.to_bits().to_le_bytes());
    }

    fn finish(&mut self) -> Fingerprint {
        let digest = Sha256::digest(&self.bytes);
        self.bytes.clear();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        half
    }

    /// Of the row of `pairs` that this is.
    pub fn pair(&mut self, pair: &Pair) -> Fingerprint {
        self.value(Some(&*pair.query_id), Writer::text);
        self.value(Some(&*pair.target_id), Writer::text);
        self.value(Some(pair.ranks.map(|rank| rank.is_some())), Writer::channels);
        self.value(Some(pair.scores), Writer::scores);
        self.some();
        pair.ranks.into_iter().for_each(|rank| self.value(rank, Writer::int));
        self.value(Some(pair.hard_negatives.iter().map(|id| &**id)), Writer::texts);
        self.finish()
    }

    /// Of the row of `triplets` that this is.
    pub fn triplet(&mut self, triplet: &Triplet) -> Fingerprint {
        let (query_id, target_id) = (&*triplet.query_id, &*triplet.target_id);
        let answer = &*triplet.answer;
        self.value(Some(query_id), Writer::text);
        self.value(Some(target_id), Writer::text);
        self.value(Some(answer.instructions.iter().map(|text| &**text)), Writer::texts);
        self.value(Some(&*answer.audits), Writer::audits);
        self.value(Some(triplet.hard_negatives.iter().map(|id| &**id)), Writer::texts);
        self.value(Some(triplet.channels), Writer::channels);
        self.value(Some(triplet.scores), Writer::scores);
        self.value(answer.description.as_deref(), Writer::text);
        self.value(Some(&*answer.model), Writer::text);
        self.value(Some(answer.prompt_version), Writer::int);
        self.value(Some(&*answer.request_id), Writer::text);
        self.value(Some(&answer.query), Writer::content);
        self.value(Some(&answer.target), Writer::content);
        self.finish()
    }

    /// As the table has it: in hex digits.
    fn content(&mut self, id: &ContentId) {
        self.length(2 * id.0.len());
        let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
        self.bytes.extend(id.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    }

    fn channels(&mut self, held: [bool; 3]) {
        let names = Channel::ALL.into_iter().filter(|channel| held[channel.index()]);
        let names: Vec<&str> = names.map(Channel::as_str).collect();
        self.texts(names.into_iter());
    }

    fn scores(&mut self, scores: [Option<i32>; 3]) {
        scores.into_iter().for_each(|s| self.value(s.map(score), Writer::double));
    }

    fn audits(&mut self, audits: &[Audit]) {
        self.length(audits.len());
        for Audit { label, rank_text, rank_image, rank_both, verdict } in audits {
            self.some();
            self.value(Some(&**label), Writer::text);
            [rank_text, rank_image, rank_both]
                .into_iter()
                .for_each(|rank| self.value(*rank, Writer::int));
            self.value(verdict.as_deref(), Writer::text);
        }
    }
}

/// The columns that fingerprints are of.
pub fn columns(table: Table) -> Vec<String> {
    let schema = table.schema();
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.filter(|name| !["epoch", "triplet_id"].contains(&name.as_str())).collect()
}

/// Of every row of a batch of [`columns`].
///
/// # Errors
/// A column of a type that neither table has.
pub fn of_batch(batch: &RecordBatch) -> anyhow::Result<Vec<Fingerprint>> {
    let columns = batch.columns().iter().map(Column::of);
    let columns: Vec<Column> = columns.collect::<anyhow::Result<_>>()?;
    let mut writer = Writer::default();
    let of_row = |row| {
        columns.iter().for_each(|column| column.write(row, &mut writer));
        writer.finish()
    };
    Ok((0..batch.num_rows()).map(of_row).collect())
}

/// A column, taken apart once for all of its rows.
enum Column<'a> {
    Text(&'a arrow_array::StringArray),
    Int(&'a arrow_array::Int32Array),
    Long(&'a arrow_array::Int64Array),
    Double(&'a arrow_array::Float64Array),
    List(&'a arrow_array::ListArray, Box<Column<'a>>),
    Record(&'a arrow_array::StructArray, Vec<Column<'a>>),
}

impl<'a> Column<'a> {
    fn of(array: &'a ArrayRef) -> anyhow::Result<Column<'a>> {
        Ok(match array.data_type() {
            DataType::Utf8 => Column::Text(array.as_string()),
            DataType::Int32 => Column::Int(array.as_primitive::<Int32Type>()),
            DataType::Int64 => Column::Long(array.as_primitive::<Int64Type>()),
            DataType::Float64 => Column::Double(array.as_primitive::<Float64Type>()),
            DataType::List(_) => {
                let list = array.as_list();
                Column::List(list, Box::new(Column::of(list.values())?))
            }
            DataType::Struct(_) => {
                let record = array.as_struct();
                let fields = record.columns().iter().map(Column::of);
                Column::Record(record, fields.collect::<anyhow::Result<_>>()?)
            }
            other => anyhow::bail!("no column of pairs or triplets is of {other}"),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Column::Text(array) => array.is_null(row),
            Column::Int(array) => array.is_null(row),
            Column::Long(array) => array.is_null(row),
            Column::Double(array) => array.is_null(row),
            Column::List(array, _) => array.is_null(row),
            Column::Record(array, _) => array.is_null(row),
        }
    }

    fn write(&self, row: usize, to: &mut Writer) {
        if self.is_null(row) {
            return to.none();
        }
        to.some();
        match self {
            Column::Text(array) => to.text(array.value(row)),
            Column::Int(array) => to.int(array.value(row)),
            Column::Long(array) => to.bytes.extend_from_slice(&array.value(row).to_le_bytes()),
            Column::Double(array) => to.double(array.value(row)),
            Column::List(array, items) => {
                let offsets = array.value_offsets();
                let (from, until) = (offsets[row] as usize, offsets[row + 1] as usize);
                to.length(until - from);
                (from..until).for_each(|item| items.write(item, to));
            }
            Column::Record(_, fields) => fields.iter().for_each(|field| field.write(row, to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use operators::flow::Answer;
    use schemas::tables::{PairRow, Row, TripletRow, to_batch};

    use super::*;
    use crate::service::rows::{pair_of, pair_row};

    /// Of the batch without its epochs.
    fn of_rows<R: Row>(rows: &[R]) -> Vec<Fingerprint> {
        let batch = to_batch(rows).expect("rows");
        let schema = batch.schema();
        let names = columns(R::TABLE).into_iter();
        let at: Vec<usize> = names.map(|name| schema.index_of(&name).expect("a column")).collect();
        of_batch(&batch.project(&at).expect("columns")).expect("fingerprints")
    }

    fn pairs() -> Vec<Pair> {
        let mut pairs = Vec::new();
        for bits in 0..64 {
            let set = |bit: u32| (bits >> bit & 1 == 1).then_some(bits - 7 * bit as i32);
            pairs.push(Pair {
                query_id: format!("q{}", bits % 5).into(),
                target_id: "té".into(),
                mined: true,
                ranks: [set(0), set(1), set(2)],
                scores: [set(3), set(4), set(5)],
                hard_negatives: (0..bits % 4).map(|n| format!("h{n}").into()).collect(),
            });
        }
        pairs
    }

    fn triplets() -> Vec<Triplet> {
        let of = |(i, pair): (usize, Pair)| {
            let audit = |n: usize| Audit {
                label: ["unresolved", "shortcut_text"][n % 2].into(),
                rank_text: n.is_multiple_of(3).then_some(n as i32),
                rank_image: (n % 3 == 1).then_some(1),
                rank_both: None,
                verdict: (n % 3 == 1).then(|| "other".into()),
            };
            let answer = Answer {
                request_id: format!("r{i}"),
                query: ContentId::of(&[i as u8]),
                target: ContentId::of(b"t"),
                model: "m".into(),
                prompt_version: i as i32 % 3,
                ok: true,
                description: i.is_multiple_of(2).then(|| "both show".into()),
                instructions: (0..i % 3).map(|n| format!("do {n}")).collect(),
                audits: (0..i % 3).map(audit).collect(),
            };
            Triplet {
                query_id: pair.query_id,
                target_id: pair.target_id,
                answer: Arc::new(answer),
                hard_negatives: pair.hard_negatives,
                channels: pair.ranks.map(|rank| rank.is_some()),
                scores: pair.scores,
            }
        };
        pairs().into_iter().enumerate().map(of).collect()
    }

    #[test]
    fn a_step_has_the_fingerprint_of_its_row_whatever_the_epoch() {
        let (pairs, mut writer) = (pairs(), Writer::default());
        let rows = |epoch| pairs.iter().map(|p| pair_row(p, epoch)).collect::<Vec<PairRow>>();
        let steps: Vec<_> = pairs.iter().map(|pair| writer.pair(pair)).collect();
        assert_eq!(of_rows(&rows(1)), steps);
        assert_eq!(of_rows(&rows(9)), steps);
        let triplets = triplets();
        let rows = |epoch| triplets.iter().map(|t| t.row(epoch)).collect::<Vec<TripletRow>>();
        let steps: Vec<_> = triplets.iter().map(|triplet| writer.triplet(triplet)).collect();
        assert_eq!(of_rows(&rows(1)), steps);
        assert_eq!(of_rows(&rows(9)), steps);
    }

    #[test]
    fn rows_that_differ_anywhere_have_other_fingerprints() {
        let mut writer = Writer::default();
        let mut seen: Vec<_> = pairs().iter().map(|pair| writer.pair(pair)).collect();
        seen.extend(triplets().iter().map(|triplet| writer.triplet(triplet)));
        // Texts next to each other do not run into one.
        let row = |query: &str, target: &str| {
            let row = pair_row(&pairs()[0], 0);
            pair_of(&PairRow { query_id: query.into(), target_id: target.into(), ..row })
        };
        seen.extend([row("ab", "c"), row("a", "bc")].iter().map(|pair| writer.pair(pair)));
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
