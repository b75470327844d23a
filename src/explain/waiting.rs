//! Where the requests about a pair are that have no outcome yet.

use chrono::{DateTime, SecondsFormat};
use operators::flow::{CAPTION, DESCRIBE};
use schemas::tables::AnnotationRow;

use crate::{
    annotator::openai::{batch, failures, journal},
    delta::Store,
};

/// What is known of a pair of contents without an answer: that its description, or the request for its
/// instructions, is out in a batch, has failed for now, or is about to be committed. Of a content and
/// itself: the same of the request for its caption.
///
/// # Errors
/// The store cannot be read.
pub fn waiting(store: &Store, query: &str, target: &str) -> anyhow::Result<Option<String>> {
    // A description is asked for once, the smaller content first.
    let about = |row: &AnnotationRow| {
        let pair = (row.query_content_id.as_str(), row.target_content_id.as_str());
        let describes = row.task == DESCRIBE;
        pair == (query, target) || (describes && pair == (target, query))
    };
    let what = |row: &AnnotationRow| match &*row.task {
        CAPTION => "the request for it",
        DESCRIBE => "its description",
        _ => "the request for its instructions",
    };
    if let Some(row) = journal::read(store)?.iter().find(|row| about(row)) {
        return Ok(Some(format!(
            "{} has ended ({}), and waits for the service to commit it, or for its judge",
            what(row),
            row.outcome
        )));
    }
    for batch in batch::read(store)? {
        if let Some(out) = batch.out.iter().find(|out| about(&out.row)) {
            let (since, what) = (time(batch.exported_at), what(&out.row));
            return Ok(Some(format!("{what} is out in batch {} since {since}", batch.name)));
        }
    }
    let failed = failures::read(store)?;
    Ok(failed.iter().find(|failure| about(&failure.row)).map(|failure| {
        let (what, outcome) = (what(&failure.row), &failure.row.outcome);
        match &failure.batch {
            Some(batch) => format!("{what} failed in batch {batch} ({outcome}): export it again"),
            None => {
                let (times, from) = (failure.times, time(failure.again_at));
                format!(
                    "{what} has failed for now ({outcome}, put off {times} times): asked again from \
                     {from} on"
                )
            }
        }
    }))
}

fn time(us: i64) -> String {
    let at = DateTime::from_timestamp_micros(us).unwrap_or_default();
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
