//! What becomes of what was asked: another try, a failure for now, or an outcome.

use std::time::{Duration, Instant};

use operators::flow::DESCRIBE;
use schemas::{limits, tables::AnnotationRow};

use super::{
    super::{
        failures::{self, Failure},
        journal,
        judge::Progress,
        library::Known,
        pace::backoff,
        prompts::{Description, Dice},
        reply::{Bill, Change, Ended, Verdict},
    },
    Told, Work, now_us,
    queue::Asks,
    row::{Said, judged, row},
};

impl Work {
    pub(super) fn ended(&mut self, turn: u64, ended: Ended) {
        let Some(mut flight) = self.flights.remove(&turn) else { return };
        let (id, now) = (flight.id.clone(), Instant::now());
        let asks = self.open.get(&id).map_or(Asks::Instructions, |open| open.job.asks);
        self.at.calls += 1;
        self.at.caption_calls += u64::from(asks == Asks::Caption);
        let (bill, verdict) = judged(asks, ended.clone(), &self.prompts);
        let verdict = self.in_range(&id, verdict);
        let kind = usize::from(asks == Asks::Judgement);
        if let Bill::Tokens(usage) = bill {
            // An endpoint may say anything.
            let tokens = usage.read.saturating_add(usage.written).min(flight.most_tokens);
            self.rate.took(flight.tokens, tokens);
            self.told_tokens.add(asks, tokens);
        }
        if let Some(reserved) = flight.reserved.take() {
            let cost = match bill {
                Bill::Nothing => 0,
                Bill::Tokens(usage) => self.prices.cost(usage.read, usage.written),
                Bill::Most => reserved.amount(),
            };
            self.settle(reserved, cost, asks);
            if let Some(open) = self.open.get_mut(&id) {
                open.cost += cost;
                if let Bill::Tokens(usage) = bill {
                    *open.read.get_or_insert(0) += usage.read;
                    *open.written.get_or_insert(0) += usage.written;
                }
            }
        }
        if let Verdict::Refuses(why) = verdict {
            self.refuses(why, &id, now, flight.endpoint);
            return;
        }
        let answered = !matches!(verdict, Verdict::Later { .. } | Verdict::Final("bad_request", _));
        self.bad_requests[kind] = match &verdict {
            Verdict::Final("bad_request", _) => self.bad_requests[kind].saturating_add(1),
            _ if answered => 0,
            _ => self.bad_requests[kind],
        };
        self.answered[kind] |= answered;
        if !self.answered[kind]
            && self.bad_requests[kind] > limits::ANNOTATOR_BAD_REQUESTS
            && let Verdict::Final(_, why) = verdict
        {
            let why = format!("{why} (does [annotator] ask in a way it takes?)");
            self.refuses(why, &id, now, flight.endpoint);
            return;
        }
        (self.refused, self.refusals) = (None, 0);
        self.turns *= usize::from(!answered);
        // Of an endpoint that is not asked any more: it says nothing about the one that is.
        let stale = flight.endpoint != self.endpoint.at();
        // What did not get there, or could not be read here, is no request's fault.
        let faultless = matches!(ended, Ended::Unreachable(_) | Ended::NoStore(_));
        let free = bill == Bill::Nothing;
        match &verdict {
            Verdict::Later { after, pushed_back, .. } if *pushed_back && !stale => {
                self.pace.pushed_back(flight.sent, now, *after);
            }
            Verdict::Later { .. } => {}
            _ if stale || matches!(ended, Ended::Gone) => {}
            // What is being written down takes room as well.
            _ => self.pace.answered(flight.sent, now, self.flights.len() + self.writing),
        }
        if self.decide(&id, verdict, now, (faultless, free, stale)) {
            self.turn();
        }
    }

    /// An endpoint is down, or refuses: another one is tried, if there is one.
    fn turn(&mut self) {
        if !self.endpoint.turn() {
            return;
        }
        // Nothing is known of how this one is to be asked.
        (self.answered, self.bad_requests) = ([false; 2], [0; 2]);
        self.turns += 1;
        if self.turns < self.endpoint.count() {
            self.pace.begins_anew();
        }
        tracing::warn!("the annotator goes on at {}", self.endpoint.url());
    }

    /// The key, the model or the account: no request is to blame, and all wait.
    fn refuses(&mut self, why: String, id: &str, now: Instant, from: usize) {
        if self.refused.as_ref().is_none_or(|(before, _)| *before != why) {
            tracing::error!("the annotator's endpoint refuses: {why}");
        }
        let since = self.refused.take().map_or(now, |(_, since)| since);
        self.refused = Some((why, since));
        // Each endpoint counts once, however many calls it has turned away at once.
        if self.endpoint.at() == from {
            self.refusals += 1;
            self.pace.goes_down(now);
            self.turn();
        }
        // Another request is tried before it: it may be this one alone that is refused.
        self.again(id, now, limits::ANNOTATOR_DOWN_WAIT.0, true);
    }

    fn again(&mut self, id: &str, now: Instant, wait: Duration, not_counted: bool) {
        let Some(open) = self.open.get_mut(id) else { return };
        if not_counted {
            open.tries = open.tries.saturating_sub(1);
        }
        self.queue.again(now + wait, open.job.clone());
    }

    /// `faultless`: the request has no part in it; `free`: the try has cost nothing. True where it says
    /// that the endpoint is down. `stale`: another one is asked meanwhile.
    fn decide(
        &mut self,
        id: &str,
        verdict: Verdict<Said>,
        now: Instant,
        (faultless, free, stale): (bool, bool, bool),
    ) -> bool {
        let Some(open) = self.open.get_mut(id) else { return false };
        match verdict {
            Verdict::Answer(said) => self.close(id, Ok(said)),
            Verdict::Final(outcome, why) => {
                tracing::debug!(request_id = id, outcome, "no answer: {why}");
                self.close(id, Err(outcome));
            }
            Verdict::Differently(change, outcome, why) => {
                let done = match change {
                    Change::Repair => &mut open.how.repair,
                    Change::Longer => &mut open.how.longer,
                    Change::Plain => &mut open.how.plain,
                };
                if std::mem::replace(done, true) {
                    tracing::debug!(request_id = id, outcome, "no answer: {why}");
                    self.close(id, Err(outcome));
                } else {
                    self.again(id, now, Duration::ZERO, false);
                }
            }
            Verdict::Later { outcome, why, after, .. } => {
                let tries = open.tries;
                // A try that may have cost counts, however the endpoint is.
                let (was_down, down) = (self.pace.is_down(), !stale && self.pace.failed(now));
                if down && !was_down {
                    tracing::warn!("the annotator's endpoint is down: {why}");
                }
                self.at.failure = Some(why.clone());
                let spared = faultless || ((down || stale) && free);
                // A request that was put off is tried once each time.
                let most = if open.put_off == 0 { self.config.attempts } else { 1 };
                if tries >= most && !spared {
                    self.put_off(id, outcome, &why, now);
                    return down;
                }
                let dice = Dice::of(id, "backoff").number(tries as usize) as f64 / u64::MAX as f64;
                self.again(id, now, backoff(tries, after, dice), spared);
                return down;
            }
            Verdict::Refuses(_) => {}
        }
        false
    }

    /// It is asked again in minutes or hours, unless it was put off often enough: then the failure
    /// is its outcome.
    fn put_off(&mut self, id: &str, outcome: &'static str, why: &str, now: Instant) {
        let Some(open) = self.open.get_mut(id) else { return };
        if open.put_off >= self.patience.times {
            tracing::warn!(request_id = id, outcome, "no answer, and it is given up: {why}");
            match open.job.asks {
                // Nor would the other looks be answered.
                Asks::Judgement => self.rise(id),
                _ => self.close(id, Err(outcome)),
            }
            return;
        }
        (open.put_off, open.tries) = (open.put_off + 1, 0);
        let dice = Dice::of(id, "put off").number(open.put_off as usize) as f64 / u64::MAX as f64;
        let wait = self.patience.wait(open.put_off, dice);
        let seconds = wait.as_secs();
        tracing::warn!(request_id = id, outcome, "no answer, and put off for {seconds} s: {why}");
        if open.job.asks == Asks::Judgement {
            // The answer is written down, with what was said so far.
            self.queue.put_off(now + wait, open.job.clone());
            return;
        }
        let failure = Failure {
            row: row(&self.config, &self.prompts, &self.known, open, Err(outcome)),
            times: open.put_off,
            again_at: now_us() + i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2),
            batch: None,
        };
        self.queue.put_off(now + wait, open.job.clone());
        if let Err(error) = failures::write(&self.store, &failure) {
            tracing::warn!("{error:#}: the next start asks again at once");
        }
        self.failures.insert(id.to_owned(), failure);
    }

    /// A request has ended: its outcome is written down.
    pub(super) fn close(&mut self, id: &str, said: Result<Said, &'static str>) {
        if self.sittings.contains_key(id) {
            self.looked(id, said.ok());
            return;
        }
        let Some(open) = self.open.get_mut(id) else { return };
        // It is neither asked again nor given up from here on.
        open.tries = u32::MAX;
        let row = row(&self.config, &self.prompts, &self.known, open, said);
        self.write(Box::new(row), None);
    }

    /// With what a judge has said so far, where one has.
    pub(super) fn write(&mut self, row: Box<AnnotationRow>, sitting: Option<Progress>) {
        self.writing += 1;
        let (store, told) = (self.store.clone(), self.told.clone());
        self.runtime.spawn_blocking(move || {
            let result = match sitting {
                None => journal::write(&store, &row),
                Some(sitting) => journal::write_judged(&store, &row, sitting),
            };
            let result = result.map_err(|error| format!("{error:#}"));
            let _ = told.send(Told::Written(row, result));
        });
    }

    pub(super) fn written(&mut self, row: AnnotationRow, result: Result<(), String>) {
        self.writing -= 1;
        if let Err(why) = result {
            // It is paid for, and must not be lost: the store has tried for minutes already.
            tracing::error!("{why}: an answer waits for the store");
            self.write(Box::new(row), None);
            return;
        }
        if self.failures.remove(&row.request_id).is_some()
            && let Err(error) = failures::remove(&self.store, &row.request_id)
        {
            tracing::warn!("{error:#}: the next start removes it");
        }
        let open = self.open.remove(&row.request_id);
        if let Some(open) = &open {
            self.leaves(open.job.asks);
            match open.job.asks {
                Asks::Caption => self.at.captions_ended += 1,
                Asks::Description | Asks::Judgement => {}
                Asks::Instructions => self.at.pairs_ended += 1,
            }
        }
        if row.task == DESCRIBE {
            let parts = Description::of_parts(&row.instructions).filter(|_| row.outcome == "ok");
            let failed = parts.is_none();
            match parts {
                Some(description) => self.hold(row.request_id.clone(), description),
                None => drop(self.known.insert(row.request_id.clone(), Known::Failed)),
            }
            for id in open.into_iter().flat_map(|open| open.waiting) {
                match self.open.get(&id).map(|open| open.job.clone()) {
                    Some(_) if failed => self.close(&id, Err("no_description")),
                    Some(job) => self.enqueue(job),
                    None => {}
                }
            }
        }
        self.at.outcomes += 1;
        self.handed_out.insert(row.request_id.clone());
        // Whoever took them has ended, and so will this.
        let _ = self.handed.send(row);
    }
}
