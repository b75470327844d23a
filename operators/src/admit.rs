//! Admit: an answer that comes when an image it is about has gone keeps its cost and loses its text.
//!
//! ```text
//!  answers ─► is the query's content live? ─► is the target's? ─► memo
//! ```
//!
//! I4: what is taken down is not described afterwards. Whether it has gone is asked at the end of the
//! epoch that the answer belongs to, before anything else sees it.

use std::collections::hash_map::Entry;

use differential_dataflow::VecCollection;
use schemas::{
    ContentId, Epoch,
    tables::{AnnotationRow, WITHDRAWN},
};
use timely::dataflow::{
    StreamVec,
    operators::{Concat, vec::Map},
};

use crate::{
    epochs::each_closed,
    flow::Mined,
    held::{Steps, Told, parted},
    publish::recorded,
    quick::QuickMap,
};

/// New outcomes of requests, as they may be stored.
///
/// One that has texts, and is about a content that no live image has once its epoch is closed, comes
/// out without texts, as [`WITHDRAWN`]: it answers nothing, so that it is asked again if both are
/// mined once more. An outcome without texts stays what it is.
pub fn admit<'s>(
    answers: StreamVec<'s, Epoch, Box<AnnotationRow>>,
    mined: VecCollection<'s, Epoch, Mined, isize>,
) -> StreamVec<'s, Epoch, Box<AnnotationRow>> {
    let live = mined.map(|mined| mined.content_id);
    let about_query = of_live(answers, live.clone(), "AdmitQueries", |row| &row.query_content_id);
    of_live(about_query, live, "AdmitTargets", |row| &row.target_content_id)
}

/// Withdraws what is about a content that is not live, each where the changes of that content go.
fn of_live<'s>(
    answers: StreamVec<'s, Epoch, Box<AnnotationRow>>,
    live: VecCollection<'s, Epoch, ContentId, isize>,
    name: &str,
    about: fn(&AnnotationRow) -> &String,
) -> StreamVec<'s, Epoch, Box<AnnotationRow>> {
    let named = move |row: &AnnotationRow| ContentId::parse(about(row));
    let told = recorded(answers.map(Told::Is)).concat(live.map(Told::Mined).inner);
    let route = move |told: &Told<ContentId, Box<AnnotationRow>>| match told {
        Told::Mined(content_id) => content_id.hash64(),
        // What names no content is about none that is live.
        Told::Is(row) => named(row).map_or(0, |id| id.hash64()),
    };
    let mut contents = Live::default();
    each_closed(told, name, route, move |told| {
        let (changes, mut rows) = parted(told);
        contents.apply(changes);
        for (row, _) in &mut rows {
            if !named(row).is_some_and(|id| contents.0.contains_key(&id)) {
                withdraw(row);
            }
        }
        rows
    })
    .map(|(row, _, _)| row)
}

/// The live contents of one worker, each with the number of mined images that it has: one.
#[derive(Default)]
struct Live(QuickMap<ContentId, isize>);

impl Live {
    fn apply(&mut self, changes: Steps<ContentId>) {
        for (content_id, diff) in changes {
            match self.0.entry(content_id) {
                Entry::Vacant(new) => drop(new.insert(diff)),
                Entry::Occupied(mut held) => {
                    *held.get_mut() += diff;
                    if *held.get() == 0 {
                        held.remove();
                    }
                }
            }
        }
    }
}

fn withdraw(row: &mut AnnotationRow) {
    if row.outcome == "ok" {
        row.outcome = WITHDRAWN.into();
    }
    row.description = None;
    row.instructions.clear();
    row.audits.clear();
}
