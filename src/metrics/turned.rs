//! What was turned away, in words.

use std::collections::BTreeMap;

use schemas::reject::Stage;

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
    // Of requests and answers there is nothing to read again.
    let of_answers = [Stage::Annotate, Stage::Filter].map(Stage::as_str);
    let told = |answers: bool| {
        let stage = |stage: &str| of_answers.contains(&stage) == answers;
        let of = counts.iter().filter(|((name, _), _)| stage(name));
        top_reasons(of.map(|((_, reason), count)| (reason.as_str(), *count)))
    };
    let (rejects, reasons) = told(false);
    if rejects > 0 {
        tracing::info!(
            rejects,
            "rejects: {rejects} ({reasons}); after a fix `everpair replay` brings them back"
        );
    }
    let (rejects, reasons) = told(true);
    if rejects > 0 {
        tracing::info!(rejects, "answers and instructions left out: {rejects} ({reasons})");
    }
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
}
