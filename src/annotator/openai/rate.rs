//! An endpoint's limits per minute, kept from this side: a call that it would turn away is not made.

use std::time::Instant;

use schemas::{config::Annotator, limits};

/// One limit: what may be taken now flows back in by the second.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    most: f64,
    left: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn new(per_minute: u64) -> Bucket {
        let per_second = per_minute as f64 / 60.0;
        let most = (per_second * limits::ANNOTATOR_BURST_SECONDS).max(1.0);
        Bucket { per_second, most, left: most, at: None }
    }

    fn fill(&mut self, now: Instant) {
        let at = self.at.replace(now).unwrap_or(now);
        let more = now.saturating_duration_since(at).as_secs_f64() * self.per_second;
        self.left = (self.left + more).min(self.most);
    }

    /// What is more than fits goes through a full one, and is owed.
    fn has(&self, amount: f64) -> bool {
        self.left >= amount.min(self.most)
    }
}

/// Both limits.
#[derive(Debug)]
pub struct Rate {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

impl Rate {
    /// As `[annotator]` has them.
    pub fn of(config: &Annotator) -> Rate {
        Rate {
            requests: config.requests_per_minute.map(Bucket::new),
            tokens: config.tokens_per_minute.map(Bucket::new),
        }
    }

    /// Whether a call of about so many tokens may be made now; it is counted if it may.
    pub fn take(&mut self, tokens: u64, now: Instant) -> bool {
        let tokens = tokens as f64;
        let mut both = [(&mut self.requests, 1.0), (&mut self.tokens, tokens)];
        let may = both.iter_mut().all(|(bucket, amount)| {
            bucket.as_mut().is_none_or(|bucket| {
                bucket.fill(now);
                bucket.has(*amount)
            })
        });
        if may {
            for (bucket, amount) in both {
                bucket.iter_mut().for_each(|bucket| bucket.left -= amount);
            }
        }
        may
    }

    /// A call that was counted with so many tokens took so many.
    pub fn took(&mut self, counted: u64, tokens: u64) {
        if let Some(bucket) = &mut self.tokens {
            bucket.left = (bucket.left + counted as f64 - tokens as f64).min(bucket.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What goes through in ten minutes, asked for every 50 ms.
    fn through(requests: Option<u64>, tokens: Option<u64>, counted: u64, took: u64) -> Vec<u64> {
        let config = Annotator {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            ..Annotator::default()
        };
        let mut rate = Rate::of(&config);
        let begin = Instant::now();
        let minute = |n: u64| {
            let mut calls = 0;
            for step in 0..1_200 {
                let now = begin + Duration::from_secs(60 * n) + Duration::from_millis(50 * step);
                while calls < 1_000_000 && rate.take(counted, now) {
                    rate.took(counted, took);
                    calls += 1;
                }
            }
            calls
        };
        (0..10).map(minute).collect()
    }

    #[test]
    fn a_minute_has_what_the_endpoint_allows() {
        for (requests, tokens, counted, took, calls) in [
            (Some(600), None, 1_000, 900, 600),
            (None, Some(60_000), 1_000, 1_000, 60),
            // By what calls take, not by what they were thought to.
            (None, Some(60_000), 1_000, 500, 120),
            (Some(30), Some(60_000), 1_000, 500, 30),
            // Larger than what a few seconds let through.
            (None, Some(6_000), 2_000, 2_000, 3),
            (Some(1), None, 1_000, 1_000, 1),
        ] {
            let of_minutes = through(requests, tokens, counted, took);
            let burst = (calls as f64 * limits::ANNOTATOR_BURST_SECONDS / 60.0).ceil() as u64;
            assert!(of_minutes[0] <= calls + burst + 1, "{of_minutes:?}");
            let later: u64 = of_minutes[1..].iter().sum();
            assert!(later.abs_diff(9 * calls) <= 2, "{calls}: {of_minutes:?}");
        }
    }

    #[test]
    fn without_limits_nothing_waits() {
        let mut rate = Rate::of(&Annotator::default());
        let now = Instant::now();
        assert!((0..10_000).all(|_| rate.take(1_000_000, now)));
    }
}
