//! Fewer and fuller files: rows of several small ones, or of one with many dead rows, become one.
//!
//! The commit says that no row changed and moves no epoch. Killed before it, a file that no log
//! names is left; a rival's commit takes its version, and this writer ends as any fenced one does.

use std::cmp::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use arrow_select::interleave::interleave_record_batch;
use schemas::limits;
use serde_json::json;

use super::super::action::{Action, Add, Commit as Entry};
use super::super::store::ObjectReader;
use super::super::{Error, GENERATION, Result, now_ms};
use super::commit::info;
use super::{Key, Table, i64_of, keys, newest, txn};

/// A live file as the log tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFacts {
    pub path: String,
    pub bytes: u64,
    pub rows: u64,
    /// Of its rows those that are dead.
    pub dead: u64,
    /// The newest epoch of its rows.
    pub newest: i64,
}

impl FileFacts {
    fn of(add: &Add) -> FileFacts {
        let stats = add.stats.as_deref().unwrap_or_default();
        let stats: serde_json::Value = serde_json::from_str(stats).unwrap_or_default();
        let dead = add.deletion_vector.as_ref().map_or(0, |vector| vector.cardinality);
        FileFacts {
            path: add.path.clone(),
            bytes: u64::try_from(add.size).unwrap_or(0),
            rows: stats["numRecords"].as_u64().unwrap_or(0),
            dead: u64::try_from(dead).unwrap_or(0),
            newest: newest(add).unwrap_or(0),
        }
    }
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files that became one.
    pub files: usize,
    /// Their bytes.
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// Which files to make one of; none where all is well.
///
/// Files grow through tiers of size, and only as many of one tier as make one of a higher tier are
/// taken, so a row is written at most once per tier. A file that is mostly dead is written again at
/// most for as many bytes as it frees. What is left is a few files per tier, and full ones.
pub fn choose(files: &[FileFacts]) -> Vec<String> {
    let mut oldest: Vec<&FileFacts> = files.iter().collect();
    oldest.sort_by(|a, b| (a.newest, &a.path).cmp(&(b.newest, &b.path)));
    let fitting = |candidates: &[&FileFacts]| -> Vec<String> {
        let mut bytes = 0;
        let within = candidates.iter().take(limits::COMPACT_FILES).take_while(|file| {
            bytes += live_bytes(file);
            bytes <= limits::COMPACT_BYTES
        });
        within.map(|file| file.path.clone()).collect()
    };
    let mut low = 0;
    for high in limits::COMPACT_TIERS {
        let tier = oldest.iter().filter(|file| (low..high).contains(&file.bytes));
        let tier: Vec<&FileFacts> = tier.copied().collect();
        if tier.len() >= limits::COMPACT_FILES {
            return fitting(&tier);
        }
        low = high;
    }
    let dead = |file: &&FileFacts| {
        let worth = file.bytes >= limits::COMPACT_TIERS[0] && 2 * file.dead >= file.rows;
        worth && live_bytes(file) <= limits::COMPACT_BYTES
    };
    fitting(&oldest.into_iter().filter(dead).collect::<Vec<_>>())
}

fn live_bytes(file: &FileFacts) -> u64 {
    let live = file.rows.saturating_sub(file.dead);
    let bytes = u128::from(file.bytes) * u128::from(live) / u128::from(file.rows.max(1));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Table {
    /// The live files.
    pub fn files(&self) -> Vec<FileFacts> {
        self.snapshot.files.values().map(FileFacts::of).collect()
    }

    /// Makes one file of the live rows of some, sorted by these columns and then by epoch. Of many
    /// rows only the first files are taken: `limits::COMPACT_MEMORY`.
    ///
    /// # Errors
    /// As for a commit; before it the handle stays of use.
    pub(in super::super) fn compact(
        &mut self,
        sources: &[String],
        order: &[&str],
    ) -> Result<Compacted> {
        let writer = self.writer()?;
        let (sources, batches) = self.gather(sources)?;
        let rows = sorted(&batches, order)?;
        let batches = arranged(&batches, &rows)?;
        let mut placed: Vec<Key> = Vec::new();
        for batch in batches.iter().filter(|_| !self.spec.key.is_empty()) {
            placed.extend(keys(&self.spec, batch)?);
        }
        let mut actions: Vec<Action> = Vec::new();
        let mut done = Compacted { files: sources.len(), ..Compacted::default() };
        for path in &sources {
            let add = &self.snapshot.files[path];
            done.read_bytes += u64::try_from(add.size).unwrap_or(0);
            let mut remove = add.removal(now_ms());
            remove.data_change = false;
            actions.push(remove.into());
        }
        let epoch = self.epoch().unwrap_or(0);
        let mut added = None;
        if !rows.is_empty() {
            let mut add = self.write_file((epoch, writer), &batches)?;
            add.data_change = false;
            done.written_bytes = u64::try_from(add.size).unwrap_or(0);
            added = Some(add.path.clone());
            actions.push(add.into());
        }
        actions.push(txn(GENERATION, i64_of(writer)));
        let info = info("OPTIMIZE", false, json!({ "generation": writer, "files": done.files }));
        self.write(Entry { info, actions })?;
        for path in &sources {
            self.dead.remove(path);
            self.free_number(path);
        }
        if let Some(path) = added.filter(|_| !placed.is_empty()) {
            let file = self.take_number(path);
            let rows = (0..).zip(placed).map(|(row, key)| (key, (file, row)));
            self.index.extend(rows);
        }
        Ok(done)
    }

    /// Reads live rows of files, up to the memory that there is for them, and says of which.
    fn gather(&self, paths: &[String]) -> Result<(Vec<String>, Vec<RecordBatch>)> {
        let mut adds = Vec::new();
        for path in paths {
            let gone = || Error::Refused(format!("{}: {path} is not there", self.spec.name));
            adds.push(self.snapshot.files.get(path).ok_or_else(gone)?);
        }
        let full = |add: &Add| format!("{}/{}", self.spec.name, add.path);
        let size = |add: &Add| u64::try_from(add.size).unwrap_or(0);
        // Small files come at once, rather than with several requests each.
        let bytes: u64 = adds.iter().map(|add| size(add)).sum();
        let names: Vec<String> = adds.iter().map(|add| full(add)).collect();
        let mut held = match bytes <= limits::COMPACT_BYTES {
            true => self.store.get_all(&names)?,
            false => vec![None; names.len()],
        };
        let (mut taken, mut batches, mut memory) = (Vec::new(), Vec::new(), 0);
        for (add, content) in adds.into_iter().zip(&mut held) {
            if taken.len() >= 2 && memory > limits::COMPACT_MEMORY {
                break;
            }
            let (name, store) = (full(add), self.store.clone());
            let reader = match content.take() {
                Some(content) => ObjectReader::held(store, name, content),
                None => ObjectReader::new(store, name, size(add)),
            };
            let mut live = 0;
            for batch in self.live_in(add, &self.spec.schema, reader)? {
                let (_, batch) = batch?;
                live += batch.num_rows() as u64;
                memory += batch.get_array_memory_size();
                batches.push(batch);
            }
            let FileFacts { rows, dead, .. } = FileFacts::of(add);
            let wanted = rows.saturating_sub(dead);
            if live != wanted {
                let why = format!("{}: {live} live rows, the log says {wanted}", full(add));
                return Err(Error::Unreadable(why));
            }
            taken.push(add.path.clone());
        }
        Ok((taken, batches))
    }
}

enum Column<'a> {
    Text(&'a StringArray),
    Number(&'a Int64Array),
}

impl Column<'_> {
    fn compare(&self, row: usize, other: &Column, other_row: usize) -> Ordering {
        match (self, other) {
            (Column::Text(a), Column::Text(b)) => {
                let a = a.is_valid(row).then(|| a.value(row));
                a.cmp(&b.is_valid(other_row).then(|| b.value(other_row)))
            }
            (Column::Number(a), Column::Number(b)) => {
                let a = a.is_valid(row).then(|| a.value(row));
                a.cmp(&b.is_valid(other_row).then(|| b.value(other_row)))
            }
            _ => Ordering::Equal,
        }
    }
}

/// Every row as batch and row, in the order of these columns, then of epochs, then as they were.
fn sorted(batches: &[RecordBatch], order: &[&str]) -> Result<Vec<(usize, usize)>> {
    let mut columns: Vec<Vec<Column>> = Vec::new();
    for batch in batches {
        let by = order.iter().chain(&["epoch"]).map(|name| {
            let column = batch.column_by_name(name);
            match column.map(|column| column.data_type()) {
                Some(DataType::Utf8) => Ok(Column::Text(batch[*name].as_string::<i32>())),
                Some(DataType::Int64) => {
                    Ok(Column::Number(batch[*name].as_primitive::<Int64Type>()))
                }
                _ => Err(Error::Refused(format!("rows cannot be sorted by {name}"))),
            }
        });
        columns.push(by.collect::<Result<_>>()?);
    }
    let rows = |batch: usize| (0..batches[batch].num_rows()).map(move |row| (batch, row));
    let mut all: Vec<(usize, usize)> = (0..batches.len()).flat_map(rows).collect();
    all.sort_by(|(a, row), (b, other)| {
        let each = columns[*a].iter().zip(&columns[*b]);
        let mut unequal = each.map(|(x, y)| x.compare(*row, y, *other));
        unequal.find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
    });
    Ok(all)
}

/// Rows in an order, in new batches.
fn arranged(batches: &[RecordBatch], rows: &[(usize, usize)]) -> Result<Vec<RecordBatch>> {
    let all: Vec<&RecordBatch> = batches.iter().collect();
    let some = rows.chunks(limits::READ_ROWS).map(|some| {
        interleave_record_batch(&all, some).map_err(|error| Error::Refused(error.to_string()))
    });
    some.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(n: usize, bytes: u64, dead: u64) -> FileFacts {
        let path = format!("{n:06}");
        FileFacts { path, bytes, rows: 1000, dead, newest: n as i64 }
    }

    #[test]
    fn nothing_is_done_about_few_files_or_full_ones() {
        assert_eq!(choose(&[]), Vec::<String>::new());
        let [low, middle, high] = limits::COMPACT_TIERS;
        let few = (0..limits::COMPACT_FILES - 1).flat_map(|n| {
            [
                file(3 * n, low - 1, 999),
                file(3 * n + 1, middle - 1, 499),
                file(3 * n + 2, high, 499),
            ]
        });
        assert_eq!(choose(&few.collect::<Vec<_>>()), Vec::<String>::new());
    }

    #[test]
    fn the_oldest_of_a_tier_are_taken_as_far_as_they_fit() {
        let files: Vec<FileFacts> = (0..40).rev().map(|n| file(n, 5000, 0)).collect();
        let wanted: Vec<String> = (0..limits::COMPACT_FILES).map(|n| format!("{n:06}")).collect();
        assert_eq!(choose(&files), wanted);
        let large = limits::COMPACT_TIERS[2] - 1;
        let files: Vec<FileFacts> = (0..20).map(|n| file(n, large, 0)).collect();
        assert_eq!(choose(&files).len() as u64, limits::COMPACT_BYTES / large);
        let dead = [file(0, limits::COMPACT_TIERS[1], 499), file(1, limits::COMPACT_TIERS[1], 500)];
        assert_eq!(choose(&dead), ["000001"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        /// However files come and die: few files stay besides full ones, rows are written at most
        /// once per tier and once more for what dies, and it ends.
        #[test]
        fn files_stay_few_and_rows_are_seldom_written_again(
            epochs in prop::collection::vec((1000..3_000_000_u64, 0..20_u64), 1..400)
        ) {
            let (mut files, mut came, mut written): (Vec<FileFacts>, u64, u64) = (vec![], 0, 0);
            for (n, (bytes, dies)) in epochs.iter().enumerate() {
                files.push(file(n, *bytes, 0));
                came += bytes;
                for file in files.iter_mut().step_by(3) {
                    file.dead = (file.dead + 5 * dies).min(file.rows);
                }
                files.retain(|file| file.dead < file.rows);
                let mut steps = 0;
                loop {
                    let chosen = choose(&files);
                    if chosen.is_empty() {
                        break;
                    }
                    let taken = files.iter().filter(|file| chosen.contains(&file.path));
                    let (live, newest) = taken.fold((0, 0), |(live, newest), file| {
                        (live + live_bytes(file), newest.max(file.newest))
                    });
                    prop_assert!(live <= limits::COMPACT_BYTES, "{live}");
                    written += live;
                    files.retain(|file| !chosen.contains(&file.path));
                    let path = format!("{n:06}-{steps}");
                    files.push(FileFacts { path, bytes: live, rows: 1000, dead: 0, newest });
                    steps += 1;
                    prop_assert!(steps < 20, "it does not end");
                }
                let full = limits::COMPACT_TIERS[2];
                let small = files.iter().filter(|file| file.bytes < full).count();
                prop_assert!(small < 3 * limits::COMPACT_FILES, "{small} small files");
            }
            prop_assert!(written <= 5 * came, "{written} of {came} bytes");
        }
    }
}
