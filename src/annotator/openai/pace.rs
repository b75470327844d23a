//! How many calls at once: as many as the endpoint bears, and one at a time when it is down.
//!
//! The limit begins low and doubles with each round of calls, as TCP does it, until one of two things:
//!
//! * A call is turned away, or takes too long. The limit falls a little, comes back to just below where
//!   that was, stays there for some rounds, and then tries more and more, as TCP CUBIC does it.
//! * Calls take twice as long as they used to. Servers of open models never push back: they queue without
//!   bound, and the client has to limit itself. But a longer latency alone says little: batches make each
//!   call slower and all together faster, and the questions may have become longer. So it is tried out:
//!   where half the limit gets as much done, the rest was a queue. It goes on from half, by one for each
//!   round, up to thrice the latency, and now and then is tried out again, down to where less gets done.
//!
//! Numbers without a source are those with which simulated endpoints, some as in the tests below, got the
//! most done.

use std::time::{Duration, Instant};

use schemas::limits;

/// What is left of the limit after a call was turned away. Half, as is usual where a network is
/// shared, would leave a quarter of an endpoint idle.
const DECREASE: f64 = 0.85;
/// The least that is left of it, however many were turned away with that one.
const DECREASE_MOST: f64 = 0.5;
/// How long the limit then stays below where that was: rounds, times the limit's root. Where it is low, one
/// call more is much, and to try it costs little.
const HOLD: f64 = 1.5;
/// And times what the endpoint has asked to wait, as that is what it costs to try: one part in twenty.
const HOLD_AFTER: f64 = 16.0;
/// Calls that take this many times as long as at the least: is it a queue?
const LONGER: f64 = 2.0;
/// No limit grows where they take this many times as long.
const LONGEST: f64 = 3.0;
/// What a limit has to get done to be worth it, in times what half of it does: 1 in a queue, 2 where there
/// is none. Measured by so few calls it is a tenth off, so that nearer to 1 queues would pass; at 1.25 some
/// runs against servers that work in batches get a tenth less done.
const GAIN: f64 = 1.2;
/// Rounds between two trials where the limit does not double: one costs what a round or two at half the
/// limit do.
const TRIALS: f64 = 32.0;
/// The fewest calls that a look at latency is made of: two rounds of the first limit.
const FEWEST: u32 = 8;
/// How much the newest call counts in the short average of latency, which is that of a round, and in the
/// long one.
const SHORT: (f64, f64) = (0.05, 0.2);
const LONG: f64 = 0.02;

/// How long calls take that were sent since some moment, seconds.
#[derive(Debug)]
struct Latency {
    since: Option<Instant>,
    calls: u32,
    /// Calls after which the averages mean something.
    enough: u32,
    short: f64,
    long: f64,
}

impl Latency {
    fn since(since: Option<Instant>, enough: u32) -> Latency {
        Latency { since, calls: 0, enough, short: 0.0, long: 0.0 }
    }

    /// One more, in rounds of so many; whether there are enough.
    fn add(&mut self, sent: Instant, now: Instant, limit: f64) -> bool {
        if self.since.is_some_and(|since| sent <= since) {
            return false;
        }
        let took = now.saturating_duration_since(sent).as_secs_f64();
        self.calls = self.calls.saturating_add(1);
        // Plain means as long as there are few.
        let mean = 1.0 / f64::from(self.calls);
        let newest = (1.0 / limit).clamp(SHORT.0, SHORT.1);
        let newest = if self.calls > self.enough { newest.max(mean) } else { mean };
        self.short += newest * (took - self.short);
        self.long += mean.max(LONG) * (took - self.long);
        self.calls >= self.enough
    }
}

/// Whether a limit is worth its latency.
#[derive(Debug)]
enum Trial {
    None,
    /// It stands still, until it is known how long calls take.
    Full,
    /// And then at half of it, and so on, until less gets done. What it was before, how long calls took,
    /// and whether it is halved for the first time.
    Half {
        limit: f64,
        took: f64,
        first: bool,
    },
}

/// Where a call was turned away.
#[derive(Debug)]
struct Ceiling {
    at: Instant,
    /// What the limit was then.
    limit: f64,
    /// Calls that were turned away with it, it included.
    turned_away: f64,
    /// Seconds for which it is believed.
    holds: f64,
}

impl Ceiling {
    /// What fits below: each that was turned away was one too many.
    fn below(&self) -> f64 {
        (self.limit - self.turned_away).max(self.limit * DECREASE_MOST).floor().max(1.0)
    }

    /// The limit as of now: that for a while, then slowly more, then fast.
    fn bound(&self, now: Instant) -> f64 {
        let held = now.saturating_duration_since(self.at).as_secs_f64() / self.holds;
        self.below() + self.limit * (held - 1.0).max(0.0).powi(3)
    }
}

/// The limit now.
#[derive(Debug)]
pub struct Pace {
    limit: f64,
    most: usize,
    /// The limit doubles with each round.
    doubles: bool,
    ceiling: Option<Ceiling>,
    latency: Latency,
    /// The least that calls took, of those limits that are worth it.
    least: f64,
    trial: Trial,
    failures: u32,
    down_since: Option<Instant>,
    /// Nothing is sent before, as the endpoint is down.
    down_until: Option<Instant>,
    /// And as it has asked for that.
    asked_until: Option<Instant>,
    waits: u32,
}

impl Pace {
    /// At most so many.
    pub fn new(most: usize) -> Pace {
        Pace {
            limit: limits::ANNOTATOR_CONCURRENCY_FIRST.min(most as f64),
            most,
            doubles: true,
            ceiling: None,
            latency: Latency::since(None, FEWEST),
            least: f64::INFINITY,
            trial: Trial::None,
            failures: 0,
            down_since: None,
            down_until: None,
            asked_until: None,
            waits: 0,
        }
    }

    /// Whether one more call may be made beside those in flight.
    pub fn has_room(&self, in_flight: usize, now: Instant) -> bool {
        self.rests_until().is_none_or(|until| now >= until) && in_flight < self.limit()
    }

    /// When there may be room again, where time alone brings it.
    pub fn rests_until(&self) -> Option<Instant> {
        self.down_until.max(self.asked_until)
    }

    /// Calls at once.
    pub fn limit(&self) -> usize {
        if self.is_down() { 1 } else { (self.limit as usize).max(1) }
    }

    /// Whether so many calls in a row have failed that it is the endpoint's fault.
    pub fn is_down(&self) -> bool {
        self.down_since.is_some()
    }

    /// Since when.
    pub fn down_since(&self) -> Option<Instant> {
        self.down_since
    }

    /// The endpoint has answered, whatever it said, and so many are in flight still.
    pub fn answered(&mut self, sent: Instant, now: Instant, in_flight: usize) {
        (self.failures, self.down_since, self.down_until, self.waits) = (0, None, None, 0);
        if !self.latency.add(sent, now, self.limit) {
            return;
        }
        let short = self.latency.short;
        match std::mem::replace(&mut self.trial, Trial::None) {
            Trial::Full if short > LONGER * self.least => return self.halve(now, true),
            Trial::Half { limit, took, first } => {
                // Calls per second are calls at once by how long they take.
                if limit / took > GAIN * self.limit / short {
                    self.doubles = first;
                    self.least = short;
                    self.limit = limit.min(self.bound(now)).max(self.limit);
                } else if !self.doubles && self.limit >= 2.0 {
                    return self.halve(now, false);
                } else {
                    self.doubles = false;
                }
            }
            Trial::Full | Trial::None => {}
        }
        self.least = self.least.min(self.latency.long);
        // A limit that is not used says nothing about a higher one. Several calls may have ended since
        // there was time to make others.
        if 2 * (in_flight + 1) >= self.limit() {
            self.grow(sent, now, short / self.least);
        }
    }

    fn halve(&mut self, now: Instant, first: bool) {
        self.trial = Trial::Half { limit: self.limit, took: self.latency.short, first };
        self.limit = (self.limit / 2.0).floor();
        self.look_anew(now);
    }

    fn grow(&mut self, sent: Instant, now: Instant, longer: f64) {
        let rounds = f64::from(self.latency.calls) / self.limit.max(f64::from(FEWEST));
        if longer > LONGER && self.limit >= 2.0 && (self.doubles || rounds > TRIALS) {
            self.trial = Trial::Full;
            self.look_anew(now);
            return;
        }
        // Those that were sent before a call was turned away know nothing of it.
        if self.ceiling.as_ref().is_none_or(|ceiling| sent > ceiling.at) {
            let more = match self.doubles {
                true => 1.0,
                // At 1 there can be no trial, and so nothing that says how long calls take now.
                false if longer < LONGEST || self.limit < 2.0 => 1.0 / self.limit,
                false => 0.0,
            };
            self.limit = (self.limit + more).min(self.bound(now)).max(self.limit);
        }
    }

    fn bound(&self, now: Instant) -> f64 {
        let most = self.most as f64;
        self.ceiling.as_ref().map_or(most, |ceiling| ceiling.bound(now).min(most))
    }

    /// From now on. Those that are over first are the short ones: two rounds have fewer of them.
    fn look_anew(&mut self, now: Instant) {
        self.latency = Latency::since(Some(now), FEWEST.max((2.0 * self.limit) as u32));
    }

    /// A call was turned away or took too long.
    pub fn pushed_back(&mut self, sent: Instant, now: Instant, after: Option<Duration>) {
        let after = after.unwrap_or_default().min(limits::ANNOTATOR_RETRY_AFTER);
        match &mut self.ceiling {
            // Once for each round: those that were sent before the last change know nothing of it.
            Some(ceiling) if sent <= ceiling.at => ceiling.turned_away += 1.0,
            _ => {
                let before = self.latency.since.is_some_and(|since| sent <= since);
                let limit = match std::mem::replace(&mut self.trial, Trial::None) {
                    // It was sent at the whole limit: half of it is not known to be too much.
                    Trial::Half { limit, .. } if before => limit,
                    _ => self.limit,
                };
                let took = self.latency.short.max(self.latency.long);
                let took = if self.least.is_finite() { took.max(self.least) } else { took };
                let holds =
                    (HOLD * limit.sqrt() * took).max(HOLD_AFTER * after.as_secs_f64()).max(1.0);
                let (at, turned_away) = (now, 1.0);
                self.ceiling = Some(Ceiling { at, limit: limit.floor(), turned_away, holds });
                self.limit = (limit * DECREASE).max(1.0);
            }
        }
        if let Some(ceiling) = &self.ceiling {
            self.limit = self.limit.min(ceiling.below());
        }
        if !after.is_zero() {
            self.asked_until = self.asked_until.max(Some(now + after));
        }
    }

    /// A call has failed in a way that need not be the request's fault; true if the endpoint is
    /// down, then or now.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= limits::ANNOTATOR_DOWN {
            self.goes_down(now);
        }
        self.is_down()
    }

    /// Whatever is asked fails: left alone for a while, then tried by one call at a time.
    pub fn goes_down(&mut self, now: Instant) {
        self.down_since.get_or_insert(now);
        let (least, most) = limits::ANNOTATOR_DOWN_WAIT;
        let wait = least.saturating_mul(1 << self.waits.min(10)).min(most);
        self.down_until = self.down_until.max(Some(now + wait));
        self.waits += 1;
    }

    /// Another endpoint is asked from now on: of this one nothing is known.
    pub fn begins_anew(&mut self) {
        *self = Pace::new(self.most);
    }
}

/// How long to wait before another try; `dice` is 0 to 1.
pub fn backoff(tries: u32, after: Option<Duration>, dice: f64) -> Duration {
    let (least, most) = limits::ANNOTATOR_BACKOFF;
    let wait = least.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(most);
    let wait = wait.mul_f64(1.0 - 0.25 * dice.clamp(0.0, 1.0));
    match after {
        Some(after) => after.min(limits::ANNOTATOR_RETRY_AFTER).max(wait / 4),
        None => wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: std::ops::Range<u64> = 1..4;

    #[test]
    fn the_limit_doubles_each_round_and_follows_what_is_turned_away() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut pace = Pace::new(64);
        assert_eq!(pace.limit(), 4);
        // After a look at latency, each answer is one more call at once.
        for n in 0..64 {
            pace.answered(at(n), at(n + 100), 1_000);
        }
        assert_eq!(pace.limit(), 4 + 64 - FEWEST as usize + 1);
        // One round of refusals: a little less at once, and each was one too many.
        let high = pace.limit();
        let cut = (high as f64 * DECREASE) as usize;
        pace.pushed_back(at(100), at(1_000), None);
        assert_eq!(pace.limit(), cut);
        (0..19).for_each(|n| pace.pushed_back(at(110 + n), at(1_010 + n), None));
        assert_eq!(pace.limit(), high - 20);
        (0..100).for_each(|n| pace.pushed_back(at(200 + n), at(1_100 + n), None));
        assert_eq!(pace.limit(), (high as f64 * DECREASE_MOST) as usize, "not below, in one round");
        // What is not used does not grow; what was sent before says nothing either.
        let low = pace.limit();
        for n in 0..500 {
            pace.answered(at(1_300), at(1_400), 1);
            pace.answered(at(n), at(n + 100), 1_000);
        }
        assert_eq!(pace.limit(), low);
    }

    #[test]
    fn the_limit_comes_back_to_just_below_where_calls_were_turned_away() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut pace = Pace::new(64);
        let answers = |pace: &mut Pace, now: u64, calls: u32| {
            (0..calls).for_each(|_| pace.answered(at(now), at(now + 1), 1_000));
            pace.limit()
        };
        let high = answers(&mut pace, 0, 36);
        pace.pushed_back(at(1), at(2), None);
        let hold = (HOLD * (high as f64).sqrt()) as u64;
        assert_eq!(answers(&mut pace, 3, 200), high - 1);
        assert_eq!(answers(&mut pace, hold, 200), high - 1);
        // It tries one more, and then faster and faster.
        let later = [hold + 4, hold + 6, 2 * hold + 2].map(|now| answers(&mut pace, now, 200));
        assert!(later[0] <= high + 2 && later.is_sorted() && later[2] > high + 20, "{later:?}");
    }

    #[test]
    fn a_limit_of_one_grows_again_where_calls_have_become_longer_for_good() {
        let begin = Instant::now();
        let mut now = begin;
        let mut pace = Pace::new(64);
        let mut answers = |pace: &mut Pace, took_ms: u64, calls: u32| {
            for _ in 0..calls {
                now += Duration::from_millis(took_ms);
                pace.answered(now - Duration::from_millis(took_ms), now, 1_000);
            }
            now
        };
        let mut at = answers(&mut pace, 500, 20);
        pace.doubles = false;
        for _ in 0..10 {
            pace.pushed_back(at, at + Duration::from_millis(1), None);
            at += Duration::from_millis(2);
        }
        assert_eq!(pace.limit(), 1);
        // Four times as long as they ever took, and turned away no more.
        answers(&mut pace, 2_000, 400);
        assert!(pace.limit() > 3, "{pace:?}");
    }

    #[test]
    fn what_was_sent_before_a_trial_halved_the_limit_is_turned_away_at_the_whole_one() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut pace = Pace::new(64);
        let mut now = 0;
        let mut answers = |pace: &mut Pace, took: u64, until: fn(&Pace) -> bool| {
            while !until(pace) {
                now += took;
                pace.answered(at(now - took), at(now), 1_000);
                assert!(now < 100_000, "{pace:?}");
            }
            now
        };
        answers(&mut pace, 1, |pace| pace.limit() >= 40);
        let sent = answers(&mut pace, 4, |pace| matches!(pace.trial, Trial::Half { .. }));
        let Trial::Half { limit, .. } = pace.trial else { panic!("{pace:?}") };
        assert_eq!(pace.limit(), (limit / 2.0) as usize);
        pace.pushed_back(at(sent - 1), at(sent + 1), None);
        assert_eq!(pace.limit(), (limit * DECREASE) as usize);
        // And one of those that came behind it says that half is too much.
        answers(&mut pace, 4, |pace| matches!(pace.trial, Trial::Half { .. }));
        let half = pace.limit();
        pace.pushed_back(at(now + 1), at(now + 2), None);
        assert_eq!(pace.limit(), ((half as f64 * DECREASE) as usize).max(1));
    }

    /// An endpoint in a time of its own.
    #[derive(Clone, Copy, Debug)]
    struct Endpoint {
        works: Works,
        /// Calls at once, those that wait included, above which it turns away.
        most: usize,
        /// Then it asks to wait so long, seconds.
        after: Option<u64>,
        /// The shortest and the longest call, seconds.
        latency: (f64, f64),
        seconds: f64,
        /// In the second third of the time it is slower, and in the last one: so many times.
        slower: (f64, f64),
    }

    #[derive(Clone, Copy, Debug)]
    enum Works {
        /// On so many calls; others wait.
        On(usize),
        /// On all, but not faster than on so many.
        Shared(f64),
        /// On all, each at half its speed if there are so many, and so on.
        Batches(f64),
    }

    impl Works {
        /// The first `calls` of them are worked on, at so many times the full speed.
        fn speed(self, calls: usize) -> (usize, f64) {
            let all = calls as f64;
            match self {
                Works::On(at_once) => (at_once.min(calls), 1.0),
                Works::Shared(at_once) => (calls, (at_once / all).min(1.0)),
                Works::Batches(half) => (calls, 1.0 / (1.0 + all / half)),
            }
        }
    }

    enum Client {
        Fixed(usize),
        Paced(Pace),
    }

    #[derive(Debug)]
    struct Ran {
        /// Calls that ended well after the first quarter of the time.
        done: usize,
        /// Calls at once after it, on average.
        at_once: f64,
        /// Calls that were made while the endpoint asked to wait.
        disturbed: usize,
    }

    impl Endpoint {
        /// It is asked as much as the client may, at once and again.
        fn run(self, mut client: Client, mut seed: u64) -> Ran {
            let begin = Instant::now();
            let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
            let (quarter, mut now, mut asked) = (self.seconds / 4.0, 0.0, 0.0);
            let mut calls: Vec<(f64, f64)> = Vec::new();
            let mut ran = Ran { done: 0, at_once: 0.0, disturbed: 0 };
            while now < self.seconds {
                let mut turned_away = 0;
                while match &client {
                    Client::Fixed(limit) => calls.len() + turned_away < *limit,
                    Client::Paced(pace) => pace.has_room(calls.len() + turned_away, at(now)),
                } {
                    ran.disturbed += usize::from(now + 1e-6 < asked);
                    if calls.len() >= self.most {
                        turned_away += 1;
                        continue;
                    }
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
                    let dice = (seed >> 40) as f64 / (1u64 << 24) as f64;
                    calls.push((now, self.latency.0 + (self.latency.1 - self.latency.0) * dice));
                }
                let mut rests = f64::INFINITY;
                if let Client::Paced(pace) = &mut client {
                    for _ in 0..turned_away {
                        pace.pushed_back(at(now), at(now), self.after.map(Duration::from_secs));
                        asked = now + self.after.unwrap_or(0) as f64;
                    }
                    let until = pace.rests_until().filter(|until| *until > at(now));
                    rests = until.map_or(rests, |until| (until - begin).as_secs_f64());
                }
                let (on, speed) = self.works.speed(calls.len());
                let third = self.seconds / 3.0;
                let (slower, ends) = match now {
                    _ if now < third => (1.0, third),
                    _ if now < 2.0 * third => (self.slower.0, 2.0 * third),
                    _ => (self.slower.1, self.seconds),
                };
                let speed = speed / slower;
                let first = calls[..on].iter().map(|(_, left)| *left).fold(f64::INFINITY, f64::min);
                // Something happens then; the thousandth of a second keeps time going.
                let next = (now + first / speed).min(rests).min(ends).max(now + 0.001);
                calls[..on].iter_mut().for_each(|(_, left)| *left -= (next - now) * speed);
                ran.at_once += if now > quarter { (next - now) * calls.len() as f64 } else { 0.0 };
                now = next;
                while let Some(over) = calls.iter().position(|(_, left)| *left <= 1e-9) {
                    let (sent, _) = calls.remove(over);
                    if let Client::Paced(pace) = &mut client {
                        pace.answered(at(sent), at(now), calls.len());
                    }
                    ran.done += usize::from(now > quarter);
                }
            }
            ran.at_once /= self.seconds - quarter;
            ran
        }

        /// How much of what the best fixed number of calls gets done.
        fn share(self, seed: u64) -> (f64, Ran) {
            let fixed = [1, 2, 4, 8, 12, 16, 24, 48, 64];
            let done = fixed.map(|limit| self.run(Client::Fixed(limit), seed).done);
            let paced = self.run(Client::Paced(Pace::new(64)), seed);
            (paced.done as f64 / done.into_iter().max().unwrap_or(0) as f64, paced)
        }
    }

    /// Two minutes long, with latencies from half to half as long again, it bears what comes.
    fn endpoint(works: Works, latency: f64) -> Endpoint {
        Endpoint {
            works,
            most: usize::MAX,
            after: None,
            latency: (latency / 2.0, latency * 1.5),
            seconds: 120.0,
            slower: (1.0, 1.0),
        }
    }

    fn is_as_good_as_fixed(endpoint: Endpoint) {
        for seed in SEEDS {
            let (share, ran) = endpoint.share(seed);
            assert!(share > 0.9, "seed {seed}: {share:.2}; {ran:?}; {endpoint:?}");
        }
    }

    #[test]
    fn as_much_is_done_as_with_the_best_fixed_number_of_calls() {
        // As in the benchmark of calls.
        for (at_once, latency, most) in [
            (4, 0.2, usize::MAX),
            (16, 0.2, usize::MAX),
            (16, 0.2, 24),
            (12, 1.0, usize::MAX),
            (12, 1.0, 16),
            (16, 5.0, usize::MAX),
            (16, 5.0, 24),
        ] {
            is_as_good_as_fixed(Endpoint { most, ..endpoint(Works::On(at_once), latency) });
        }
        for at_once in [1, 2, 8, 32, 50] {
            is_as_good_as_fixed(endpoint(Works::On(at_once), 1.0));
            let spread = Endpoint { latency: (0.2, 5.0), ..endpoint(Works::On(at_once), 0.0) };
            is_as_good_as_fixed(Endpoint { seconds: 1_200.0, ..spread });
        }
        for works in [Works::Shared(4.0), Works::Shared(50.0), Works::Batches(16.0)] {
            is_as_good_as_fixed(Endpoint { seconds: 1_200.0, ..endpoint(works, 2.5) });
        }
    }

    #[test]
    fn as_much_is_done_where_calls_are_turned_away() {
        for (at_once, most) in [(4, 16), (16, 16), (50, 24), (50, 40)] {
            for latency in [0.2, 1.0, 5.0] {
                is_as_good_as_fixed(Endpoint { most, ..endpoint(Works::On(at_once), latency) });
            }
            for after in [1, 5] {
                let endpoint = Endpoint {
                    most,
                    after: Some(after),
                    seconds: 600.0,
                    ..endpoint(Works::On(at_once), 1.0)
                };
                is_as_good_as_fixed(endpoint);
                let ran = endpoint.run(Client::Paced(Pace::new(64)), 1);
                assert_eq!(ran.disturbed, 0, "it is left alone as long as it asks: {endpoint:?}");
            }
        }
    }

    #[test]
    fn as_much_is_done_where_an_endpoint_changes() {
        for slower in [(4.0, 1.0), (3.0, 3.0), (8.0, 8.0)] {
            for (at_once, most) in [(16, usize::MAX), (32, 24)] {
                let endpoint = endpoint(Works::On(at_once), 1.0);
                is_as_good_as_fixed(Endpoint { most, slower, seconds: 1_800.0, ..endpoint });
            }
        }
    }

    #[test]
    fn a_queue_that_gets_nothing_done_does_not_grow() {
        for works in [Works::On(4), Works::Shared(4.0)] {
            for latency in [0.2, 1.0, 5.0] {
                let seconds = 1_000.0 * latency;
                let endpoint = Endpoint { seconds, ..endpoint(works, latency) };
                for seed in SEEDS {
                    let ran = endpoint.run(Client::Paced(Pace::new(64)), seed);
                    assert!(ran.at_once < 24.0, "seed {seed}: {ran:?}; {endpoint:?}");
                }
            }
        }
    }

    #[test]
    fn an_endpoint_that_is_down_is_tried_by_one_call_at_a_time() {
        let begin = Instant::now();
        let mut pace = Pace::new(8);
        for n in 1..limits::ANNOTATOR_DOWN {
            assert!(!pace.failed(begin), "{n}");
        }
        assert!(pace.failed(begin));
        assert!(!pace.has_room(0, begin));
        let later = begin + limits::ANNOTATOR_DOWN_WAIT.0;
        assert!(pace.has_room(0, later) && !pace.has_room(1, later));
        // It waits longer each time.
        pace.failed(later);
        assert!(!pace.has_room(0, later + limits::ANNOTATOR_DOWN_WAIT.0));
        pace.answered(later, later, 0);
        assert!(!pace.is_down() && pace.has_room(1, later));
    }

    #[test]
    fn an_endpoint_is_left_alone_as_long_as_it_asks() {
        let begin = Instant::now();
        let mut pace = Pace::new(8);
        pace.pushed_back(begin, begin, Some(Duration::from_secs(7)));
        assert!(!pace.has_room(0, begin + Duration::from_secs(6)));
        assert!(pace.has_room(0, begin + Duration::from_secs(7)));
        pace.pushed_back(begin, begin, Some(Duration::from_secs(100_000)));
        assert!(pace.has_room(0, begin + limits::ANNOTATOR_RETRY_AFTER));
        for tries in 1..20 {
            let (least, most) = (backoff(tries, None, 1.0), backoff(tries, None, 0.0));
            assert!(least < most && most <= limits::ANNOTATOR_BACKOFF.1);
        }
    }
}
