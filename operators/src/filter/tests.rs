use proptest::prelude::*;
use schemas::{
    ContentId,
    tables::{Audit, Row},
};
use timely::dataflow::operators::{Capture, capture::Extract, vec::ToStream};

use super::{phrases::*, *};

fn answer(id: &str, instructions: &[&str]) -> Answer {
    let audit = |i: usize| Audit {
        label: "unresolved".into(),
        rank_text: Some(i as i32),
        rank_image: None,
        rank_both: None,
        verdict: None,
    };
    Answer {
        request_id: id.into(),
        query: ContentId::of(b"q"),
        target: ContentId::of(b"t"),
        model: "m".into(),
        prompt_version: 1,
        ok: true,
        description: None,
        instructions: instructions.iter().map(|s| s.to_string()).collect(),
        audits: (0..instructions.len()).map(audit).collect(),
    }
}

fn reason(text: &str) -> Option<Reason> {
    reason_by(text, &Filter::default())
}

fn reason_by(text: &str, rules: &Filter) -> Option<Reason> {
    let (passing, failures) = judge(&answer("r", &[text]), rules);
    assert_eq!(passing.len() + failures.len(), 1, "every instruction is judged once");
    failures.first().map(|(_, reason, _)| *reason)
}

#[test]
fn what_a_searcher_would_type_passes() {
    for text in [
        "Find a similar vehicle indoors in a hangar with artificial lighting.",
        "What does the inside of this car look like?",
        "Remove the small heart symbol",
        "The same dog, but on the left side of the road",
        "an image a child drew, with two suns",
        "make the picture frame golden",
        "I want 100000000 balloons here, not one",
        "Surely the sea, only stormier",
        "a very very dark night",
        "换成 红色 的 圆",
        "把蓝色方块换成红色圆形",
        "Gleiches Motiv, aber bei Nacht",
    ] {
        assert_eq!(reason(text), None, "{text}");
    }
}

#[test]
fn what_is_looked_for_first_is_in_every_mark() {
    assert!(MARKUP.iter().all(|mark| mark.contains(MARKS)));
    const { assert!(ANYWHERE.len() <= 32, "a bit each") };
}

#[test]
fn each_rule_names_its_reason() {
    let long = (0..61).map(|i| format!("w{i} ")).collect::<String>();
    for (text, expected) in [
        ("", Reason::TooShort),
        ("brighter", Reason::TooShort),
        ("… — !", Reason::TooShort),
        (long.as_str(), Reason::TooLong),
        ("the dog dog dog runs", Reason::Repetitive),
        ("make it sooooooo bright", Reason::Repetitive),
        ("a red dog and a red dog and a red dog and", Reason::Repetitive),
        ("Like the first image but darker", Reason::MetaPhrase),
        ("Use the Source Image with snow", Reason::MetaPhrase),
        ("the same cat as in the query photo", Reason::MetaPhrase),
        ("both images, but with snow", Reason::MetaPhrase),
        ("make image 1 look like winter", Reason::MetaPhrase),
        ("turn Image A into night", Reason::MetaPhrase),
        ("brighter compared to this one", Reason::MetaPhrase),
        ("I’m sorry, I see nothing here", Reason::MetaPhrase),
        ("As an AI I do not know", Reason::MetaPhrase),
        ("I cannot tell what this is", Reason::MetaPhrase),
        ("Sure! The same dog in snow", Reason::MetaPhrase),
        ("Here are three instructions for it", Reason::MetaPhrase),
        ("**Make it brighter** than now", Reason::MetaPhrase),
        ("{\"instructions\": [\"make it brighter\"", Reason::MetaPhrase),
        ("[make it brighter please", Reason::MetaPhrase),
        ("<think>the dog has moved</think>", Reason::MetaPhrase),
        ("a -- + = # $ b -- c ... ~~ d", Reason::FewLetters),
        ("is it :-) :-) :-) ;-) red", Reason::FewLetters),
    ] {
        assert_eq!(reason(text), Some(expected), "{text}");
    }
}

#[test]
fn another_language_is_left_out_where_there_is_enough_to_tell() {
    let english = Filter { languages: vec!["en".into()], ..Filter::default() };
    let asian = Filter { languages: vec!["zh".into(), "ja".into()], ..Filter::default() };
    for (text, in_english, in_asian) in [
        ("What does the inside of this car look like?", true, false),
        ("Gleiches Motiv, aber bei Nacht und mit sehr viel Schnee", false, false),
        ("la même voiture, mais garée dans un hangar sombre", false, false),
        ("Bana bunun kırmızı olanını ve karlı halini göster", false, false),
        ("Покажи ту же собаку", false, false),
        ("把蓝色方块换成红色圆形", false, true),
        ("青い四角を赤い丸に変えて", false, true),
        // Too little to tell, whatever it is.
        ("schwarz statt rot", true, true),
        ("has v neck", true, true),
        ("add an 猫 or two", true, true),
        ("α and β added", true, true),
    ] {
        let reason = |passes: bool| (!passes).then_some(Reason::OtherLanguage);
        assert_eq!(reason_by(text, &english), reason(in_english), "{text}");
        assert_eq!(reason_by(text, &asian), reason(in_asian), "{text}");
        assert_eq!(reason_by(text, &Filter::default()), None, "{text}");
    }
    let codes: std::collections::BTreeSet<_> =
        whichlang::LANGUAGES.into_iter().map(language::code).collect();
    assert_eq!(codes, schemas::config::LANGUAGES.into_iter().collect(), "what may be listed");
}

#[test]
fn an_instruction_that_says_the_targets_caption_leaks() {
    let caption = "A small white aeroplane in a dark hangar with its engine cover removed";
    let texts = [
        "Put it in a hangar with the engine exposed",
        "the small white aeroplane in its dark hangar, engine cover removed",
        "this aircraft during maintenance, indoors",
        "a white aeroplane in a hangar without its engine cover",
        "What does it look like when it is repaired?",
    ];
    let of = |caption: Option<&str>, leak_max: f64| {
        let rules = Filter { leak_max, ..Filter::default() };
        let leaks = leaks(&answer("r", &texts), caption, &rules);
        assert!(leaks.iter().all(|(_, reason, _)| *reason == Reason::TargetLeak));
        leaks.into_iter().map(|(at, ..)| at).collect::<Vec<_>>()
    };
    assert_eq!(of(Some(caption), 0.8), [1]);
    assert_eq!(of(Some(caption), 0.6), [1, 3], "5 of 8 are said");
    assert!(of(Some(caption), 1.0).is_empty());
    assert!(of(None, 0.5).is_empty());
    assert!(of(Some("white aeroplane, hangar, engine cover"), 0.5).is_empty(), "too few words");
    let detail = &leaks(&answer("r", &texts), Some(caption), &Filter::default())[0].2;
    assert_eq!(detail, "says 8 of 8 words of the target's caption, 1.00, more than 0.80");
    // What is left of the answer, with its audits; and nothing, if that is too little.
    let (all, rules) = (Arc::new(answer("r", &texts)), Filter::default());
    let left = unleaked(&all, Some(caption), &rules).expect("four of five");
    let ranks: Vec<_> = left.audits.iter().map(|a| a.rank_text).collect();
    assert_eq!((left.instructions.len(), ranks), (4, [0, 2, 3, 4].map(Some).to_vec()));
    let rules = Filter { instructions_min: 5, ..rules };
    assert_eq!(unleaked(&all, Some(caption), &rules), None);
    assert_eq!(unleaked(&all, Some("a plane"), &rules).as_deref(), Some(&all));
    assert!(leak::COMMON.is_sorted(), "it is searched by halves");
}

#[test]
fn of_two_alike_the_first_stays() {
    let texts = ["the same dog in snow", "In snow: the SAME dog!", "a dog on the beach"];
    let (passing, failures) = judge(&answer("r", &texts), &Filter::default());
    assert_eq!(passing, [0, 2]);
    assert_eq!(failures[0].1, Reason::Repetitive);
    assert!(failures[0].2.contains("instruction 1"), "{}", failures[0].2);
    // A limit of 1 lets equal words in another order through, but never equal texts.
    let rules = Filter { overlap_max: 1.0, ..Filter::default() };
    let twice = ["the same dog in snow", "in snow the same dog", "the same dog, in snow"];
    assert_eq!(judge(&answer("r", &twice), &rules).0, [0, 1]);
}

#[test]
fn limits_come_from_the_config() {
    let rules = Filter { words_min: 5, words_max: 6, ..Filter::default() };
    let texts = ["one two three four", "one two three four five", "a b c d e f g"];
    let (passing, failures) = judge(&answer("r", &texts), &rules);
    assert_eq!(passing, [1]);
    assert_eq!(
        failures.iter().map(|f| f.1).collect::<Vec<_>>(),
        [Reason::TooShort, Reason::TooLong]
    );
}

const GOOD: [&str; 4] =
    ["the same dog in snow", "a dog on the beach", "one more dog, please", "show it at night"];

#[test]
fn an_accepted_answer_keeps_what_passes_with_its_audits() {
    let mut texts = GOOD.to_vec();
    texts.insert(1, "short");
    let (accepted, rejects) = accept(answer("r", &texts).into(), &Filter::default());
    let accepted = accepted.expect("four of five pass");
    assert_eq!(accepted.instructions, GOOD);
    let ranks: Vec<_> = accepted.audits.iter().map(|a| a.rank_text).collect();
    assert_eq!(ranks, [Some(0), Some(2), Some(3), Some(4)]);
    let rejects: Vec<_> = rejects.iter().map(|r| (r.reason.as_str(), r.detail.as_str())).collect();
    assert_eq!(rejects, [("too_short", "instruction 2: 1 words, fewer than 3")]);
    let (accepted, rejects) = accept(answer("r", &GOOD).into(), &Filter::default());
    assert!(accepted.is_some_and(|answer| answer.instructions == GOOD) && rejects.is_empty());
}

#[test]
fn a_rejected_answer_says_why_without_quoting_itself() {
    let texts = [GOOD[0], "xylophone", "the first image with a xylophone", GOOD[1]];
    let (accepted, rejects) = accept(answer("r7", &texts).into(), &Filter::default());
    assert!(accepted.is_none());
    let reasons: Vec<_> = rejects.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(reasons, ["too_few_instructions", "too_short", "meta_phrase"]);
    assert!(rejects.iter().all(|r| r.request_id.as_deref() == Some("r7")));
    assert!(rejects.iter().all(|r| r.stage == "filter"), "{rejects:?}");
    assert!(rejects.iter().all(|r| !r.detail.contains("xylophone")), "{rejects:?}");
    let failed = Answer { ok: false, ..answer("r8", &[]) };
    let (accepted, rejects) = accept(failed.into(), &Filter::default());
    assert!(accepted.is_none());
    assert_eq!((rejects[0].stage.as_str(), rejects[0].reason.as_str()), ("annotate", "no_answer"));
    assert_eq!(RejectRow::TABLE.as_str(), "rejects");
}

/// Restored answers pass the same rules, and leave no second row in `rejects`.
#[test]
fn only_new_answers_are_rejected_again() {
    let (accepted, rejects) = timely::example(|scope| {
        let answers = vec![
            (answer("new-good", &GOOD).into(), true),
            (answer("old-good", &GOOD).into(), false),
            (answer("new-bad", &["short"]).into(), true),
            (answer("old-bad", &["short"]).into(), false),
        ];
        let (accepted, rejects) = filter(answers.to_stream(scope), &Filter::default());
        (accepted.inner.capture(), rejects.capture())
    });
    let accepted = accepted.extract().into_iter().flat_map(|(_, rows)| rows);
    let mut ids: Vec<_> =
        accepted.map(|(a, epoch, diff)| (a.request_id.clone(), epoch, diff)).collect();
    ids.sort();
    assert_eq!(ids, [("new-good".to_owned(), 0, 1), ("old-good".to_owned(), 0, 1)]);
    let rejects: Vec<_> = rejects.extract().into_iter().flat_map(|(_, rows)| rows).collect();
    let ids: Vec<_> = rejects.iter().map(|r| r.request_id.as_deref()).collect();
    assert_eq!(ids, [Some("new-bad"), Some("new-bad")]);
}

/// Words that the rules know, words that they do not, and what stands between words.
fn piece() -> impl Strategy<Value = String> {
    let lists = [&POSITIONS[..], &PICTURES, &MARKUP].concat();
    let phrases = ANYWHERE.iter().chain(&AT_START).map(|phrase| phrase.join(" "));
    let known: Vec<String> = lists.into_iter().map(str::to_owned).chain(phrases).collect();
    let other = ["a", "red", "ROT", "İ", "ß", "bike", "don't", "dogs'", "\u{2019}", "Image B", "1"];
    let script = ["红", "换成", "カ", "aaaaaa", "aaaaa", "1111111", "...", "{", "  ", "\n", ""];
    let common = ["the", "same", "one", "two", "three", "four", "eine andere Farbe", "больше"];
    prop_oneof![
        1 => proptest::sample::select(known),
        4 => proptest::sample::select(other.map(str::to_owned).to_vec()),
        2 => proptest::sample::select(script.map(str::to_owned).to_vec()),
        6 => proptest::sample::select(common.map(str::to_owned).to_vec()),
        1 => "\\PC{0,4}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn each_text_is_judged_as_the_rules_read(
        texts in proptest::collection::vec(proptest::collection::vec(piece(), 0..14), 0..5),
        overlap_max in 0.3..1.0f64,
        letters_min in 0.0..1.0f64,
        languages in proptest::sample::select(vec![&[][..], &["en"], &["zh", "ja"], &["en", "de"]]),
        glue in proptest::sample::select(vec![" ", "", "-"]),
        labels in proptest::sample::subsequence(Label::ALL.to_vec(), 1..4),
        said in proptest::collection::vec(proptest::sample::select(Label::ALL.to_vec()), 5),
        verdicts in proptest::sample::subsequence(Verdict::ALL.to_vec(), 1..4),
        judged in proptest::collection::vec(proptest::sample::select(Verdict::ALL.to_vec()), 5),
    ) {
        let texts: Vec<String> = texts.iter().map(|pieces| pieces.join(glue)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let languages = languages.iter().map(ToString::to_string).collect();
        let limits = Filter { overlap_max, letters_min, words_max: 12, ..Filter::default() };
        let rules = Filter { languages, labels, verdicts, ..limits };
        let mut answer = answer("r", &texts);
        for (audit, (label, verdict)) in answer.audits.iter_mut().zip(said.into_iter().zip(judged)) {
            audit.label = label.as_str().into();
            audit.verdict = (verdict != Verdict::None).then(|| verdict.as_str().into());
        }
        let (passing, failures) = judge(&answer, &rules);
        let failing = failures.into_iter().map(|(i, reason, _)| (i, reason)).collect();
        prop_assert_eq!((passing, failing), naive::judged(&answer, &rules));
    }

    #[test]
    fn leaks_are_found_as_the_rule_reads(
        texts in proptest::collection::vec(proptest::collection::vec(piece(), 0..14), 0..5),
        caption in proptest::option::of(proptest::collection::vec(piece(), 0..14)),
        leak_max in 0.0..=1.0f64,
    ) {
        let texts: Vec<String> = texts.iter().map(|pieces| pieces.join(" ")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let caption = caption.map(|pieces| pieces.join(" "));
        let rules = Filter { leak_max, ..Filter::default() };
        let answer = answer("r", &texts);
        let found: Vec<usize> =
            leaks(&answer, caption.as_deref(), &rules).into_iter().map(|(at, ..)| at).collect();
        prop_assert_eq!(found, naive::leaking(&answer, caption.as_deref(), &rules));
    }
}
