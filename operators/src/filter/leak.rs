//! Instructions that give the target away: text that says what the target's caption says finds it
//! without the query image, and trains a model to ignore that.
//!
//! The caption is that of the live mined image, not of the question: it may change, and an answer of
//! a model that reads none may be about images with captions. So this is no part of judging an
//! answer when it comes; it is asked again whenever the target's caption changes.

use std::{borrow::Cow, sync::Arc};

use schemas::{config::Filter, reject::Reason};

use super::{
    Failure,
    words::{Words, is},
};
use crate::flow::Answer;

/// Fewest words of a caption that can be given away. Orders that are fair say most of what sets a
/// target apart, and a caption of four words says no more: of our demonstrations, against captions
/// made of their descriptions, none says more than 0.71 of six or more, but some 0.80 of fewer.
const WORDS_MIN: usize = 6;

/// Words that are in captions whatever they show.
pub(super) const COMMON: [&str; 64] = [
    "a", "about", "above", "after", "all", "along", "an", "and", "are", "around", "as", "at", "be",
    "before", "behind", "being", "below", "between", "but", "by", "can", "for", "from", "had",
    "has", "have", "her", "his", "image", "in", "inside", "into", "is", "it", "its", "near",
    "next", "not", "of", "off", "on", "one", "or", "out", "over", "photo", "picture", "shows",
    "some", "that", "the", "their", "there", "these", "this", "through", "to", "under", "up",
    "was", "were", "while", "who", "with",
];

/// The words that tell something, each once.
fn telling(words: &Words) -> Vec<&str> {
    let mut words: Vec<&str> = words.iter().filter(|w| COMMON.binary_search(w).is_err()).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// The instructions that say more than `leak_max` of the words of the target's caption, by index.
/// A caption of few words, and none, is never given away.
pub fn leaks(answer: &Answer, caption: Option<&str>, rules: &Filter) -> Vec<Failure> {
    let Some(caption) = caption.filter(|_| rules.leak_max < 1.0) else { return Vec::new() };
    let words = Words::of(caption);
    let caption = telling(&words);
    if caption.len() < WORDS_MIN {
        return Vec::new();
    }
    let leak = |(i, text): (usize, &String)| {
        let words = Words::of(text);
        let said = caption.iter().filter(|told| words.iter().any(|word| is(word, told))).count();
        let share = said as f64 / caption.len() as f64;
        (share > rules.leak_max).then(|| {
            let detail = format!(
                "says {said} of {} words of the target's caption, {share:.2}, more than {:.2}",
                caption.len(),
                rules.leak_max
            );
            (i, Reason::TargetLeak, detail)
        })
    };
    answer.instructions.iter().enumerate().filter_map(leak).collect()
}

/// An accepted answer without its instructions that [`leaks`] names; none if too few are left.
pub fn unleaked<'a>(
    answer: &'a Arc<Answer>,
    caption: Option<&str>,
    rules: &Filter,
) -> Option<Cow<'a, Arc<Answer>>> {
    let leaks = leaks(answer, caption, rules);
    if leaks.is_empty() {
        return Some(Cow::Borrowed(answer));
    }
    let stays = |i: &usize| leaks.iter().all(|(leak, ..)| leak != i);
    let staying: Vec<usize> = (0..answer.instructions.len()).filter(stays).collect();
    (staying.len() >= rules.instructions_min)
        .then(|| Cow::Owned(Arc::new(super::keep(Answer::clone(answer), &staying))))
}
