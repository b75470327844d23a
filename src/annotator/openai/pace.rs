//! How many calls at once: as many as the endpoint bears, and one at a time when it is down.
//!
//! Servers of open models queue without bound and never push back, so the client limits itself: one
//! more call at once for each round of calls that went well, a sixth fewer after one in which some
//! were turned away or took too long. Calls that take much longer than they used to are a queue that grows.

use std::time::{Duration, Instant};

use schemas::limits;

/// What is left of the limit after a call was turned away. Half, as is usual where a network is
/// shared, would leave a quarter of an endpoint idle.
const DECREASE: f64 = 0.85;
/// And where calls take this many times as long as they used to.
const SLOWER: f64 = 3.0;
const SLOWER_DECREASE: f64 = 0.8;
/// How much the newest call counts in the short and in the long average of latency.
const SHORT: f64 = 0.2;
const LONG: f64 = 0.01;
/// Calls after which the averages mean something.
const KNOWN: u32 = 20;

/// The limit now.
#[derive(Debug)]
pub struct Pace {
    limit: f64,
    most: f64,
    changed: Option<Instant>,
    short: f64,
    long: f64,
    calls: u32,
    failures: u32,
    down_since: Option<Instant>,
    /// Nothing is sent before.
    rests_until: Option<Instant>,
    waits: u32,
}

impl Pace {
    /// At most so many.
    pub fn new(most: usize) -> Pace {
        let most = most as f64;
        Pace {
            limit: limits::ANNOTATOR_CONCURRENCY_FIRST.min(most),
            most,
            changed: None,
            short: 0.0,
            long: 0.0,
            calls: 0,
            failures: 0,
            down_since: None,
            rests_until: None,
            waits: 0,
        }
    }

    /// Whether one more call may be made beside those in flight.
    pub fn has_room(&self, in_flight: usize, now: Instant) -> bool {
        if self.rests_until.is_some_and(|until| now < until) {
            return false;
        }
        let limit = if self.is_down() { 1 } else { self.limit as usize };
        in_flight < limit.max(1)
    }

    /// When there may be room again, where time alone brings it.
    pub fn rests_until(&self) -> Option<Instant> {
        self.rests_until
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

    /// The endpoint has answered, whatever it said.
    pub fn answered(&mut self, sent: Instant, now: Instant, in_flight: usize) {
        self.begins_anew();
        let took = now.saturating_duration_since(sent).as_secs_f64();
        let mix = |old: f64, weight: f64| old + weight * (took - old);
        (self.short, self.long) = match self.calls {
            0 => (took, took),
            n => {
                // The long one is a plain mean as long as it is young.
                (mix(self.short, SHORT), mix(self.long, LONG.max(1.0 / f64::from(n + 1))))
            }
        };
        self.calls = self.calls.saturating_add(1);
        if self.calls > KNOWN && self.short > SLOWER * self.long {
            self.decrease(sent, now, SLOWER_DECREASE);
        } else if in_flight + 1 >= self.limit as usize {
            // A limit that is not used says nothing about a higher one.
            self.limit = (self.limit + 1.0 / self.limit.max(1.0)).min(self.most);
        }
    }

    /// A call was turned away or took too long.
    pub fn pushed_back(&mut self, sent: Instant, now: Instant, after: Option<Duration>) {
        self.decrease(sent, now, DECREASE);
        if let Some(after) = after {
            self.rest(now, after.min(limits::ANNOTATOR_RETRY_AFTER));
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
        self.rest(now, least.saturating_mul(1 << self.waits.min(10)).min(most));
        self.waits += 1;
    }

    /// Another endpoint is asked from now on: of this one nothing bad is known.
    pub fn begins_anew(&mut self) {
        (self.failures, self.down_since, self.rests_until, self.waits) = (0, None, None, 0);
    }

    fn rest(&mut self, now: Instant, time: Duration) {
        let until = now + time;
        self.rests_until = Some(self.rests_until.map_or(until, |held| held.max(until)));
    }

    /// Once for each round: those that were sent before the last change know nothing of it.
    fn decrease(&mut self, sent: Instant, now: Instant, by: f64) {
        if self.changed.is_none_or(|changed| sent > changed) {
            self.limit = (self.limit * by).max(1.0);
            self.changed = Some(now);
        }
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

    #[test]
    fn the_limit_follows_what_the_endpoint_bears() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut pace = Pace::new(64);
        assert_eq!(pace.limit(), 4);
        for n in 0..2_000 {
            pace.answered(at(n), at(n + 100), 1_000);
        }
        assert!(pace.limit() > 40, "{}", pace.limit());
        // One round of refusals halves it once.
        let high = pace.limit();
        for n in 0..30 {
            pace.pushed_back(at(2_000 + n), at(2_100 + n), None);
        }
        assert_eq!(pace.limit(), (high as f64 * DECREASE) as usize);
        // What is not used does not grow.
        let low = pace.limit();
        for n in 0..500 {
            pace.answered(at(3_000 + n), at(3_100 + n), 1);
        }
        assert_eq!(pace.limit(), low);
        // A queue that grows.
        for n in 0..20 {
            pace.answered(at(4_000 + n), at(5_000 + n), 1_000);
        }
        assert!(pace.limit() < low, "{}", pace.limit());
    }

    /// An endpoint in a time of its own: as fast as it can be up to `capacity` calls at once, shared
    /// among them above; more than `most` are turned away. Calls take 200 ms to 5 s.
    struct Simulated {
        capacity: f64,
        most: usize,
        seed: u64,
    }

    /// In seconds.
    const STEP: f64 = 0.01;

    impl Simulated {
        fn work(&mut self) -> f64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            0.2 + 4.8 * ((self.seed >> 40) as f64 / (1u64 << 24) as f64)
        }

        /// Calls that end well within so many seconds after the first half, where `room` says
        /// whether one more may be made.
        fn run(
            mut self,
            seconds: u32,
            mut room: impl FnMut(usize, Instant) -> bool,
            mut ended: impl FnMut(bool, Instant, Instant, usize),
        ) -> usize {
            let begin = Instant::now();
            let mut calls: Vec<(Instant, f64)> = Vec::new();
            let mut done = 0;
            let steps = (f64::from(seconds) / STEP) as u32;
            for step in 0..steps {
                let now = begin + Duration::from_secs_f64(f64::from(step) * STEP);
                // Those that are turned away come back later: there are always more.
                let mut turned_away = 0;
                while turned_away < 4 && room(calls.len() + turned_away, now) {
                    if calls.len() < self.most {
                        let work = self.work();
                        calls.push((now, work));
                    } else {
                        turned_away += 1;
                    }
                }
                for _ in 0..turned_away {
                    ended(false, now, now + Duration::from_millis(5), calls.len());
                }
                let speed = (self.capacity / calls.len().max(1) as f64).min(1.0);
                calls.iter_mut().for_each(|(_, left)| *left -= STEP * speed);
                while let Some(at) = calls.iter().position(|(_, left)| *left <= 0.0) {
                    let (sent, _) = calls.swap_remove(at);
                    ended(true, sent, now, calls.len());
                    done += usize::from(step > steps / 2);
                }
            }
            done
        }
    }

    #[test]
    fn as_much_is_done_as_with_the_best_fixed_number_of_calls() {
        for (capacity, most) in [(4.0, 1_000), (16.0, 1_000), (50.0, 1_000), (16.0, 16), (40.0, 24)]
        {
            let endpoint = || Simulated { capacity, most, seed: 7 };
            let fixed = [2, 4, 8, 16, 24, 32, 48, 64].map(|limit| {
                endpoint().run(1_200, |in_flight, _| in_flight < limit, |_, _, _, _| {})
            });
            let best = fixed.into_iter().max().unwrap_or(0);
            let pace = std::cell::RefCell::new(Pace::new(64));
            let done = endpoint().run(
                1_200,
                |in_flight, now| pace.borrow().has_room(in_flight, now),
                |well, sent, now, in_flight| match well {
                    true => pace.borrow_mut().answered(sent, now, in_flight),
                    false => pace.borrow_mut().pushed_back(sent, now, None),
                },
            );
            let share = done as f64 / best as f64;
            assert!(share > 0.9, "{capacity}, {most}: {done} of {best}: {share:.2}; {fixed:?}");
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
