//! What was turned away, in words.

use std::collections::BTreeMap;

use schemas::reject::{Reason, Stage};

/// Rows of `rejects`, by stage and reason.
pub type TurnedAway = BTreeMap<(String, String), u64>;

/// Reasons that are named; the rest are added up.
const REASONS_SHOWN: usize = 5;

/// How many, and the most frequent reasons: `9 too_small, 3 not_an_image`.
pub fn top_reasons<'a>(of: impl IntoIterator<Item = (&'a str, u64)>) -> (u64, String) {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in of {
        *sums.entry(reason).or_default() += count;
    }
    let all = sums.values().sum();
    let mut sorted: Vec<(&str, u64)> = sums.into_iter().collect();
    sorted.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
    let rest: u64 = sorted.iter().skip(REASONS_SHOWN).map(|(_, count)| count).sum();
    let shown =
        sorted.iter().take(REASONS_SHOWN).map(|(reason, count)| format!("{count} {reason}"));
    let mut words: Vec<String> = shown.collect();
    if rest > 0 {
        words.push(format!("{rest} for other reasons"));
    }
    (all, words.join(", "))
}

/// Says at the end of a run what it turned away, and what to do about it.
pub fn say(counts: &TurnedAway) {
    for line in words(counts) {
        tracing::info!("{line}");
    }
}

fn words(counts: &TurnedAway) -> Vec<String> {
    // Of requests and answers there is nothing to read again.
    let of_answers = [Stage::Annotate, Stage::Filter].map(Stage::as_str);
    let blocked = [Reason::Blocked, Reason::Benchmark].map(Reason::as_str);
    let told = |wanted: &dyn Fn(&str, &str) -> bool| {
        let of = counts.iter().filter(|((stage, reason), _)| wanted(stage, reason));
        top_reasons(of.map(|((_, reason), count)| (reason.as_str(), *count)))
    };
    let is_answer = |stage: &str| of_answers.contains(&stage);
    let (rejects, reasons) = told(&|stage, reason| !is_answer(stage) && !blocked.contains(&reason));
    let (kept_out, why) = told(&|stage, reason| !is_answer(stage) && blocked.contains(&reason));
    let (answers, left_out) = told(&|stage, _| is_answer(stage));
    let mut lines = Vec::new();
    if rejects > 0 {
        lines.push(format!(
            "rejects: {rejects} ({reasons}); after a fix `everpair replay` has them read again"
        ));
    }
    if kept_out > 0 {
        lines.push(format!("kept out as blocked: {kept_out} ({why}); what is blocked stays out"));
    }
    if answers > 0 {
        lines.push(format!("answers and instructions left out: {answers} ({left_out})"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_reasons_come_first_and_none_is_lost() {
        let counts = [("b", 3), ("a", 3), ("c", 9), ("b", 1), ("d", 1), ("e", 1), ("f", 1)];
        let (all, words) = top_reasons(counts);
        assert_eq!((all, words.as_str()), (19, "9 c, 4 b, 3 a, 1 d, 1 e, 1 for other reasons"));
        assert_eq!(top_reasons([]), (0, String::new()));
    }

    #[test]
    fn no_replay_is_proposed_for_what_is_blocked() {
        let of = |stage: &str, reason: &str| (stage.to_owned(), reason.to_owned());
        let blocked = [(of("register", "benchmark"), 2), (of("register", "blocked"), 1)];
        let lines = words(&blocked.clone().into());
        assert_eq!(
            lines,
            ["kept out as blocked: 3 (2 benchmark, 1 blocked); what is blocked stays out"]
        );
        let mut counts = TurnedAway::from(blocked);
        counts.insert(of("decode", "corrupt"), 4);
        counts.insert(of("filter", "too_short"), 5);
        let lines = words(&counts);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("rejects: 4 (4 corrupt); after a fix"), "{lines:?}");
        assert!(lines[2].ends_with("left out: 5 (5 too_short)"), "{lines:?}");
        assert!(words(&TurnedAway::new()).is_empty());
    }
}
