//! How fast images may go.

use std::time::{Duration, Instant};

/// Keeps images and bytes below rates: the next one may go when all before it have had their time.
#[derive(Debug, Default)]
pub struct Pace {
    images_per_second: Option<f64>,
    bytes_per_second: Option<f64>,
    free_at: Option<Instant>,
}

impl Pace {
    /// Rates above zero.
    pub fn new(images_per_second: Option<f64>, bytes_per_second: Option<f64>) -> Pace {
        Pace { images_per_second, bytes_per_second, free_at: None }
    }

    /// How long an image of so many bytes has to wait at `now`; it counts as sent then.
    pub fn take(&mut self, now: Instant, bytes: usize) -> Duration {
        let needs = |units: f64, rate: Option<f64>| rate.map_or(0.0, |rate| units / rate);
        let takes =
            needs(1.0, self.images_per_second).max(needs(bytes as f64, self.bytes_per_second));
        // Time that nobody used is gone: a pause is not made up for by a burst.
        let begins = self.free_at.map_or(now, |at| at.max(now));
        let takes = Duration::try_from_secs_f64(takes).unwrap_or(Duration::MAX);
        self.free_at = begins.checked_add(takes).or(Some(begins));
        begins - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate_in_any_time() {
        let mut pace = Pace::new(Some(10.0), Some(1000.0));
        let begin = Instant::now();
        let mut now = begin;
        let mut sent = Vec::new();
        for image in 0..200 {
            // The sender is sometimes slow by itself.
            now += Duration::from_millis(if image % 50 == 49 { 700 } else { 3 });
            let bytes = if image % 3 == 0 { 300 } else { 10 };
            now += pace.take(now, bytes);
            sent.push((now, bytes));
        }
        for from in 0..sent.len() {
            for to in from + 1..sent.len() {
                let seconds = (sent[to].0 - sent[from].0).as_secs_f64() + 1e-6;
                let images = (to - from) as f64;
                let bytes: usize = sent[from..to].iter().map(|(_, bytes)| bytes).sum();
                assert!(images <= 10.0 * seconds, "{images} in {seconds} s");
                assert!(bytes as f64 <= 1000.0 * seconds, "{bytes} bytes in {seconds} s");
            }
        }
        let average = (sent[199].0 - begin).as_secs_f64() / 199.0;
        assert!(average < 0.2, "and not much slower: {average}");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.take(now, 1 << 30), Duration::ZERO);
        assert_eq!(pace.take(now, 1 << 30), Duration::ZERO);
    }
}
