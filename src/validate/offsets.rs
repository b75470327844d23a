//! Whether the tables' offsets are offsets of this source.

use anyhow::Context;
use schemas::{
    config::{Config, OnOffsetGone},
    tables::Table,
};
use serde::Deserialize;

use super::{Check, source::Ranges};
use crate::{
    dataset::Dataset,
    delta,
    service::restore,
    source::witness::{Known, Witnesses},
};

const PART: &str = "offsets";

/// Every offset that the tables hold must be in its partition's range, and of a topic that is read.
pub(super) fn check(config: &Config, dataset: &Dataset, ranges: &Ranges) -> Vec<Check> {
    let held = &dataset.page().offsets;
    let mut checks = Vec::new();
    let read: Vec<&str> = ranges.keys().map(|(topic, _)| &**topic).collect();
    let left: Vec<&str> =
        held.keys().map(String::as_str).filter(|topic| !read.contains(topic)).collect();
    if !left.is_empty() {
        let topics = left.join(", ");
        checks.push(match left.len() == held.len() {
            true => Check::failed(
                PART,
                format!(
                    "the tables were made from {topics}, which [source] does not name: its images \
                     would stay, and another source's come among them. Give it a [tables] root of \
                     its own"
                ),
            ),
            false => Check::note(
                PART,
                format!("[source] no longer names {topics}: its images stay as they are"),
            ),
        });
    }
    let mut behind = 0;
    for (topic, partitions) in held.iter().filter(|(topic, _)| read.contains(&topic.as_str())) {
        for (partition, next) in partitions {
            let place = format!("{topic} partition {partition}");
            let range =
                partition.parse().ok().and_then(|p| ranges.get(&(topic.as_str().into(), p)));
            let Some((low, end)) = range else {
                let why = format!("{place} is gone: the tables have read it up to offset {next}");
                checks.push(Check::failed(PART, format!("{why}. Was the topic made anew?")));
                continue;
            };
            if next > end {
                let why = format!(
                    "{place}: the tables are at offset {next}, past its end at {end}: it was made \
                     anew, is another one, or has lost its end"
                );
                checks.push(match config.source.on_offset_gone {
                    OnOffsetGone::Fail => Check::failed(
                        PART,
                        format!(
                            "{why}. Give it a [tables] root of its own, or to read again what it \
                             has: on_offset_gone = \"earliest\""
                        ),
                    ),
                    OnOffsetGone::Earliest => Check::note(PART, format!("{why}; set to go on")),
                });
            } else if next < low {
                let why = format!(
                    "{place}: the next offset is {next}, but the earliest there is {low}: {} \
                     messages were deleted unread",
                    low - next
                );
                checks.push(match config.source.on_offset_gone {
                    OnOffsetGone::Fail => Check::failed(
                        PART,
                        format!(
                            "{why}. To go on with what is there: on_offset_gone = \"earliest\""
                        ),
                    ),
                    OnOffsetGone::Earliest => Check::note(PART, format!("{why}; set to go on")),
                });
            } else {
                behind += end - next;
            }
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(PART, format!("the tables are {behind} messages behind the end")));
    }
    checks
}

#[derive(Deserialize)]
struct Stands {
    image_id: String,
    topic: String,
    partition: i32,
    offset: i64,
    epoch: i64,
}

/// What the tables know of the newest messages of each partition.
pub(super) fn known(config: &Config, dataset: &Dataset) -> anyhow::Result<Witnesses> {
    let mut known = Witnesses::new(&config.source.key, delta::latest_written(dataset.store())?);
    let columns = ["image_id", "topic", "partition", "offset", "epoch"];
    let images = dataset.table(Table::Images)?;
    known.read_again(images.txns(delta::AGAIN));
    for batch in images.scan(Some(&columns))? {
        let rows: Vec<Stands> =
            serde_arrow::from_record_batch(&batch?).context("read the table images")?;
        for row in rows {
            let at = (row.topic.as_str(), row.partition, row.offset);
            known.note(at, row.epoch, Known::Image(row.image_id));
        }
    }
    restore::rejected(&dataset.table(Table::Rejects)?, &mut known)?;
    Ok(known)
}
