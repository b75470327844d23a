//! Prometheus' text format, version 0.0.4.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    histogram::{BOUNDS, Observed},
    names::{ALL, Metric},
};

/// What a scrape is answered with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Samples on their way into one scrape.
#[derive(Default)]
pub struct Samples {
    lines: BTreeMap<&'static str, String>,
}

impl Samples {
    /// One sample; `labels` are the values, in the order of the metric's names.
    pub fn add(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        let labels = labels_of(metric, labels, None);
        line(self.lines.entry(metric.name).or_default(), metric.name, "", &labels, value);
    }

    /// A whole number, exact up to 2^53.
    pub fn count(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        self.add(metric, labels, value as f64);
    }

    /// A histogram.
    pub fn histogram(&mut self, metric: &'static Metric, labels: &[&str], observed: &Observed) {
        let lines = self.lines.entry(metric.name).or_default();
        for (bound, count) in BOUNDS.iter().zip(observed.cumulative) {
            let labels = labels_of(metric, labels, Some(&bound.to_string()));
            line(lines, metric.name, "_bucket", &labels, count as f64);
        }
        let all = labels_of(metric, labels, Some("+Inf"));
        line(lines, metric.name, "_bucket", &all, observed.count as f64);
        let labels = labels_of(metric, labels, None);
        line(lines, metric.name, "_sum", &labels, observed.seconds);
        line(lines, metric.name, "_count", &labels, observed.count as f64);
    }

    /// The whole text: every metric with its help and type, those without a sample too.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for metric in ALL {
            let (name, kind) = (metric.name, metric.kind.as_str());
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {}", escaped(metric.help, false));
            let _ = writeln!(text, "# TYPE {name} {kind}");
            text.push_str(self.lines.get(name).map_or("", String::as_str));
        }
        text
    }
}

fn labels_of(metric: &Metric, values: &[&str], le: Option<&str>) -> String {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let named = metric.labels.iter().zip(values.iter().copied());
    let all = named.chain(le.map(|bound| (&"le", bound)));
    let pairs: Vec<String> =
        all.map(|(name, value)| format!("{name}=\"{}\"", escaped(value, true))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn line(to: &mut String, name: &str, suffix: &str, labels: &str, value: f64) {
    let value = match value {
        value if value.is_nan() => "NaN".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        value => value.to_string(),
    };
    let _ = writeln!(to, "{name}{suffix}{labels} {value}");
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{histogram::Histogram, names};
    use super::*;

    #[test]
    fn labels_are_escaped_and_values_written_as_the_format_has_them() {
        let mut samples = Samples::default();
        samples.count(&names::MESSAGES_READ, &["a\"b\\c\nd", "3"], 1 << 40);
        samples.add(&names::LAST_COMMIT, &[], f64::INFINITY);
        let text = samples.text();
        let line =
            r#"everpair_messages_read_total{topic="a\"b\\c\nd",partition="3"} 1099511627776"#;
        assert!(text.lines().any(|l| l == line), "{text}");
        assert!(text.contains("everpair_last_commit_timestamp_seconds +Inf\n"), "{text}");
    }

    #[test]
    fn a_histogram_has_buckets_that_add_up() {
        let held = Histogram::default();
        held.observe(Duration::from_millis(30));
        held.observe(Duration::from_secs(500));
        let mut samples = Samples::default();
        samples.histogram(&names::STORE_SECONDS, &["get"], &held.observed());
        let text = samples.text();
        let bucket = |le: &str, count: u64| {
            format!(
                "everpair_store_request_seconds_bucket{{operation=\"get\",le=\"{le}\"}} {count}\n"
            )
        };
        for (le, count) in [("0.025", 0), ("0.05", 1), ("1", 1), ("120", 1), ("+Inf", 2)] {
            assert!(text.contains(&bucket(le, count)), "{le} {count}: {text}");
        }
        assert!(text.contains("everpair_store_request_seconds_sum{operation=\"get\"} 500.03\n"));
        assert!(text.contains("everpair_store_request_seconds_count{operation=\"get\"} 2\n"));
    }
}
