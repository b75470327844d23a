//! What is asked now: as many calls as the endpoint bears and the budget covers.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use schemas::{ContentId, limits};

use super::{
    super::{
        judge::LOOKS,
        library::{Known, Library},
        money::{Draw, Nanos, Reserved, day},
        prompts::Chat,
        reply::Ended,
    },
    Flight, Open, Told, Work, lock, now_us,
    queue::{Asks, Job},
};

/// What has come of a job.
enum Made {
    /// A call was made, or none is needed.
    Done,
    /// The endpoint's limits per minute do not allow it yet.
    TooFast,
    /// Which budget does not cover the most that it can cost.
    TooDear(&'static str, Nanos),
}

impl Work {
    pub(super) fn start_calls(&mut self) {
        let now = Instant::now();
        self.queue.wake(now);
        self.seat(now);
        self.look_at_money(now);
        // The audit may be slower than the endpoint, and commits wait for their epoch.
        while !self.at.paused
            && self.handed_out.len() - self.judging() + self.writing < self.uncommitted
            // What is not written down yet a kill would lose.
            && self.pace.has_room(self.flights.len() + self.writing, now)
            && let Some(job) = self.queue.pop(self.judging() < limits::ANNOTATOR_JUDGED)
        {
            match self.call(&job) {
                Ok(Made::Done) => self.queue.count(&job),
                Ok(Made::TooFast) => {
                    self.queue.push(job);
                    break;
                }
                Ok(Made::TooDear(..)) if !self.flights.is_empty() => {
                    // What is in flight may turn out cheaper than it could be.
                    self.queue.push(job);
                    break;
                }
                Ok(Made::TooDear(out_of, most)) => {
                    // From here on less is left, until there is another day.
                    self.money.out_of = Some(out_of);
                    self.queue.too_dear(most, job);
                }
                Err(error) => {
                    tracing::error!("{error:#}: nothing is asked until that works");
                    self.queue.push(job);
                    self.pace.goes_down(now);
                    break;
                }
            }
        }
        self.at.out_of = self.money.out_of.filter(|_| self.queue.is_too_dear());
    }

    /// What money does not do for all pairs, it goes to what is worth most: where the open
    /// requests cost more than is left, by the mean of calls so far, or before there is one by the
    /// most that a call can cost. Else contents decide the order.
    fn look_at_money(&mut self, now: Instant) {
        let today = day(now_us());
        let left = self.ledger.left(today);
        if std::mem::replace(&mut self.money.day, today) != today {
            self.queue.afford(left);
        }
        // Once by worth, it stays so for a while: what is set aside for calls in flight comes and goes.
        let (interval, share) = (limits::ANNOTATOR_ORDER_INTERVAL, limits::ANNOTATOR_ORDER_SHARE);
        let due = |(at, took): (Instant, Duration)| now >= at + interval.max(took * share);
        if self.money.ordered.is_some_and(|ordered| !due(ordered)) {
            return;
        }
        if !self.is_scarce(left) {
            self.money.ordered = None;
            self.queue.order_by_contents();
            return;
        }
        let found = lock(&self.library).worth(&self.queue.pairs());
        self.money.ordered = Some((now, now.elapsed()));
        match found {
            Ok(worth) => self.queue.order_by(worth),
            Err(error) => tracing::warn!("what pairs are worth is not known: {error:#}"),
        }
    }

    fn is_scarce(&self, left: Nanos) -> bool {
        // Captions alone have their order.
        if self.at.pairs == 0 {
            return false;
        }
        let captions = self.at.captions as u64;
        let of_pairs = (self.open.len() as u64).saturating_sub(captions);
        let all = |asks: Asks, calls: u64| self.about(asks).saturating_mul(calls);
        let looks = self.config.judge.as_ref().map_or(0, |_| LOOKS * self.at.pairs as u64);
        [(Asks::Caption, captions), (Asks::Description, of_pairs), (Asks::Judgement, looks)]
            .into_iter()
            .fold(0, |sum: Nanos, (asks, calls)| sum.saturating_add(all(asks, calls)))
            > left
    }

    /// What a call costs about: one for a caption, one of those that pairs need, or a judge's.
    fn about(&self, asks: Asks) -> Nanos {
        let most = || {
            let first = self.queue.ready(asks).next().and_then(|job| self.open.get(&job.id));
            first.and_then(|open| self.chat(open)).map_or(0, |chat| self.most(&chat))
        };
        self.paid.of(asks).unwrap_or_else(most)
    }

    fn most(&self, chat: &Chat) -> Nanos {
        let (read, written) = chat.most_tokens(&self.config);
        self.prices.cost(read, written)
    }

    fn call(&mut self, job: &Job) -> anyhow::Result<Made> {
        self.look_up_descriptions(job)?;
        let Some(open) = self.open.get(&job.id) else { return Ok(Made::Done) };
        let Some(chat) = self.chat(open) else {
            // Its description has gone meanwhile: it is asked for again.
            let (request, id) = (open.request.clone(), job.id.clone());
            let describe_id = open.describe_id.clone().unwrap_or_default();
            self.known.remove(&describe_id);
            self.describe(request, describe_id, id);
            return Ok(Made::Done);
        };
        if self.config.images == 0 && job.asks == Asks::Description {
            let said = |side: &(ContentId, Option<Arc<str>>)| side.1.is_some();
            if !said(&open.request.query) && !said(&open.request.target) {
                self.close(&job.id, Err("no_captions"));
                return Ok(Made::Done);
            }
        }
        let most = self.most(&chat);
        let reserved = match self.ledger.reserve(most, now_us())? {
            Draw::Yes(reserved) => reserved,
            Draw::Spent => return Ok(Made::TooDear("budget", most)),
            Draw::SpentToday => return Ok(Made::TooDear("daily_budget", most)),
        };
        let (tokens, most_tokens) = self.tokens(job.asks, &chat);
        if !self.rate.take(tokens, Instant::now()) {
            self.settle(reserved, 0, job.asks);
            return Ok(Made::TooFast);
        }
        self.began.get_or_insert_with(Instant::now);
        self.turn += 1;
        let (turn, endpoint, told) = (self.turn, self.endpoint.clone(), self.told.clone());
        let (library, id) = (self.library.clone(), job.id.clone());
        let task = self.runtime.spawn(async move {
            let body = tokio::task::spawn_blocking(move || body(&chat, &library)).await;
            let ended = match body {
                Ok(Ok(body)) => endpoint.call(&id, body).await,
                Ok(Err(ended)) => ended,
                Err(error) => Ended::NoStore(error.to_string()),
            };
            let _ = told.send(Told::Ended(turn, ended));
        });
        if let Some(open) = self.open.get_mut(&job.id) {
            open.tries += 1;
        }
        let flight = Flight {
            id: job.id.clone(),
            reserved: Some(reserved),
            sent: Instant::now(),
            endpoint: self.endpoint.at(),
            tokens,
            most_tokens,
            abort: task.abort_handle(),
        };
        self.flights.insert(turn, flight);
        Ok(Made::Done)
    }

    /// Those that a call takes about: the mean of calls so far, or before there is one the most. And the
    /// most.
    fn tokens(&self, asks: Asks, chat: &Chat) -> (u64, u64) {
        let (read, written) = chat.most_tokens(&self.config);
        let most = read + written;
        (self.told_tokens.of(asks).unwrap_or(most), most)
    }

    /// The description of a pair that waits, where it is in the table only, and those of the pairs
    /// behind it: a look-up is a pass over the table.
    fn look_up_descriptions(&mut self, job: &Job) -> anyhow::Result<()> {
        let stored = |job: &Job| {
            let id = self.open.get(&job.id)?.describe_id.clone()?;
            (self.known.get(&id) == Some(&Known::Stored)).then_some(id)
        };
        let Some(first) = stored(job) else { return Ok(()) };
        let behind = self.queue.ready(Asks::Instructions).filter_map(stored);
        let ids = std::iter::once(first).chain(behind).take(limits::ANNOTATOR_LOOK_UP).collect();
        let found = lock(&self.library).descriptions(&ids)?;
        for id in ids {
            // One that is not there was collected since: it is asked for again.
            match found.get(&id) {
                Some(description) => self.hold(id, description.clone()),
                None => drop(self.known.remove(&id)),
            }
        }
        Ok(())
    }

    fn chat(&self, open: &Open) -> Option<Chat> {
        let (config, request) = (&self.config, &open.request);
        match open.job.asks {
            Asks::Caption => Some(self.prompts.caption(config, request, open.how)),
            Asks::Judgement => {
                let look = self.sittings.get(&open.job.id)?.next()?;
                let shown = (look.query, look.shown);
                Some(self.prompts.judge(config, &look.id, shown, look.instruction, open.how))
            }
            Asks::Description => {
                Some(self.prompts.describe(config, &open.job.id, request, open.how))
            }
            Asks::Instructions => match self.known.get(open.describe_id.as_ref()?) {
                Some(Known::Here(description)) => {
                    Some(self.prompts.instruct(config, request, description, open.how))
                }
                _ => None,
            },
        }
    }

    pub(super) fn settle(&mut self, reserved: Reserved, cost: Nanos, asks: Asks) {
        if cost > 0 {
            self.paid.add(asks, cost);
        }
        if let Err(error) = self.ledger.settle(reserved, cost) {
            tracing::error!("{error:#}: what is open of the budget counts as spent");
        }
    }
}

/// The body of a request, with its images.
fn body(chat: &Chat, library: &Mutex<Box<dyn Library>>) -> Result<Vec<u8>, Ended> {
    let mut jpegs = Vec::with_capacity(chat.images.len());
    for (_, content) in &chat.images {
        match lock(library).picture(content) {
            Ok(Some(jpeg)) => jpegs.push(jpeg),
            Ok(None) => return Err(Ended::Gone),
            Err(error) => return Err(Ended::NoStore(format!("{error:#}"))),
        }
    }
    Ok(chat.body(&jpegs))
}
