//! Answers that are judged before they are handed out again.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use schemas::{ContentId, limits};

use super::{
    super::{
        journal,
        judge::{Sitting, Took, Unjudged},
        money::{nanos, usd},
        prompts::{Variation, is_turned, ordered},
        reply::{Change, Verdict},
    },
    Told, Work, lock,
    queue::{Asks, Job},
    row::Said,
};

impl Work {
    /// Answers that came before. None is asked for again until the tables have it.
    pub(super) fn judge(&mut self, answers: Vec<Unjudged>) {
        for answer in answers {
            self.handed_out.insert(answer.row.request_id.clone());
            self.at.pairs += 1;
            self.unjudged.push(answer);
        }
    }

    /// Answers that have been handed out, and are not done with.
    pub(super) fn judging(&self) -> usize {
        self.unjudged.len() + self.sittings.len()
    }

    /// Finds what the targets are shown among: one pass over the table for all that wait, and now and
    /// then only.
    pub(super) fn seat(&mut self, now: Instant) {
        let due =
            |(at, took): (Instant, Duration)| now >= at + took * limits::ANNOTATOR_ORDER_SHARE;
        if self.unjudged.is_empty() || self.at.paused || !self.seated.is_none_or(due) {
            return;
        }
        let ids: HashSet<Arc<str>> =
            self.unjudged.iter().flat_map(|answer| &answer.negatives).cloned().collect();
        let found = lock(&self.library).contents(&ids);
        self.seated = Some((now, now.elapsed()));
        let contents = match found {
            Ok(contents) => contents,
            Err(error) => {
                tracing::warn!("what instructions are judged by is not known yet: {error:#}");
                self.seated = Some((now, limits::ANNOTATOR_DOWN_WAIT.0));
                return;
            }
        };
        let there: HashSet<ContentId> = contents.values().copied().collect();
        let negatives = self.config.judge.as_ref().map_or(0, |judge| judge.negatives);
        for answer in std::mem::take(&mut self.unjudged) {
            let request = answer.request.clone();
            let mut sitting = match Sitting::new(answer, &contents, negatives) {
                Ok(sitting) => sitting,
                Err(row) => {
                    self.at.pairs -= 1;
                    self.write(row, None);
                    continue;
                }
            };
            let (id, pair) = (sitting.id().to_owned(), ordered(&request).map(|side| side.0));
            let (turned, asks) = (is_turned(&request), Asks::Judgement);
            let job = Job { pair, turned, id: id.clone(), asks };
            self.open(job.clone(), request, None);
            // What was spent stays spent, whether or not it can go on from there.
            if let (Some(before), Some(open)) = (self.begun.remove(&id), self.open.get_mut(&id)) {
                (open.cost, open.read, open.written) =
                    (nanos(before.cost_usd), before.read, before.written);
                sitting.resume(&before, &there);
            }
            let more = sitting.next().is_some();
            self.sittings.insert(id.clone(), sitting);
            match more {
                true => self.queue.push(job),
                false => self.rise(&id),
            }
        }
    }

    /// A number of nothing that was shown is no answer.
    pub(super) fn in_range(&self, id: &str, verdict: Verdict<Said>) -> Verdict<Said> {
        let look = self.sittings.get(id).and_then(|sitting| sitting.next());
        match (&verdict, look) {
            (Verdict::Answer(Said::Picture(n)), Some(look)) if *n > look.shown.len() as u64 => {
                let why = format!("candidate {n} of {}", look.shown.len());
                Verdict::Differently(Change::Repair, "bad_json", why)
            }
            _ => verdict,
        }
    }

    /// What a look has come to; no answer is none. It is written down before the next one.
    pub(super) fn looked(&mut self, id: &str, said: Option<Said>) {
        let picture = match said {
            Some(Said::Picture(picture)) => Some(picture),
            _ => None,
        };
        let (Some(sitting), Some(open)) = (self.sittings.get_mut(id), self.open.get_mut(id)) else {
            return;
        };
        sitting.looked(picture);
        if sitting.next().is_none() {
            self.rise(id);
            return;
        }
        (open.tries, open.how) = (0, Variation::default());
        let (row, progress) = sitting.progress(open.took());
        self.writing += 1;
        let (store, told) = (self.store.clone(), self.told.clone());
        self.runtime.spawn_blocking(move || {
            let result = journal::write_judged(&store, &row, progress);
            let _ = told.send(Told::Noted(row.request_id, result.map_err(|e| format!("{e:#}"))));
        });
    }

    /// A look is written down, or cannot be.
    pub(super) fn noted(&mut self, id: &str, result: Result<(), String>) {
        self.writing -= 1;
        if let Err(why) = result {
            tracing::warn!("{why}: a kill would lose what a judge has said");
        }
        if let Some(open) = self.open.get(id).filter(|open| open.job.asks == Asks::Judgement) {
            self.queue.push(open.job.clone());
        }
    }

    /// Nothing more is asked about an answer: it is written down, and leaves with that.
    pub(super) fn rise(&mut self, id: &str) {
        let Some(open) = self.open.get_mut(id) else { return };
        open.tries = u32::MAX;
        let took = open.took();
        if let Some(sitting) = self.sittings.remove(id) {
            self.end_sitting(sitting, took);
        }
    }

    /// Writes down an answer with what was said of it, and with what that has taken.
    pub(super) fn end_sitting(&mut self, sitting: Sitting, took: Took) {
        let (_, progress) = sitting.progress(took);
        let (cost, read, written) = took;
        let mut row = sitting.end();
        let sum = |held: Option<i64>, more: Option<u64>| match more {
            None => held,
            Some(more) => Some(held.unwrap_or(0) + i64::try_from(more).unwrap_or(i64::MAX / 2)),
        };
        row.prompt_tokens = sum(row.prompt_tokens, read);
        row.completion_tokens = sum(row.completion_tokens, written);
        row.cost_usd = Some(row.cost_usd.unwrap_or(0.0) + usd(cost));
        self.write(Box::new(row), Some(progress));
    }

    /// Images have lost these contents: what is shown one of them is judged no further.
    pub(super) fn gone(&mut self, contents: &HashSet<ContentId>) {
        let shown = self.sittings.iter().filter(|(_, sitting)| sitting.shows(contents));
        let ids: Vec<String> = shown.map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| self.forget(id));
    }

    /// Nobody wants the pair any more: its answer goes on as it is.
    pub(super) fn forget_unjudged(&mut self, id: &str) {
        let at = self.unjudged.iter().position(|answer| answer.row.request_id == id);
        if let Some(answer) = at.map(|at| self.unjudged.swap_remove(at)) {
            self.at.pairs -= 1;
            self.write(Box::new(answer.row), None);
        }
    }
}
