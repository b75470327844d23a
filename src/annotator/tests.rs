use operators::filter::judge;
use operators::flow::{Answer, ModelId};
use proptest::{prelude::*, strategy::ValueTree};
use schemas::config::Filter;

use super::{template::Template, *};

fn request(query: Option<&str>, target: Option<&str>) -> Request {
    let model = ModelId { model: "template:v1".into(), prompt_version: 1, reads_captions: true };
    let side = |name: &[u8], caption: Option<&str>| (ContentId::of(name), caption.map(Into::into));
    let (query, target) = (side(b"q", query), side(b"t", target));
    operators::annotate::request(&model, (&"q".into(), &query), (&"t".into(), &target))
}

fn answer(query: Option<&str>, target: Option<&str>, looked: Option<[Looked; 2]>) -> AnnotationRow {
    let request = request(query, target);
    let look = |id: &ContentId| {
        let [q, t] = looked.clone()?;
        Some(if *id == request.query.0 { q } else { t })
    };
    Template::new().annotate(&request, &look, 7)
}

fn plain() -> Looked {
    let measures = Measures {
        brightness: 0.5,
        contrast: 0.2,
        entropy: 6.0,
        blur: 300.0,
        colorfulness: 30.0,
        red: 120.0,
        green: 120.0,
        blue: 120.0,
        ..Measures::default()
    };
    (measures, (400, 300))
}

/// At least three instructions pass the default rules.
fn usable(row: &AnnotationRow) -> bool {
    judge(&Answer::from(row), &Filter::default()).0.len() >= 3
}

#[test]
fn one_colour_differs() {
    let row = answer(
        Some("a blue square on a cream background"),
        Some("A red square on a cream background."),
        None,
    );
    assert_eq!(row.outcome, "ok");
    assert!(row.instructions.contains(&"Make the square red instead of blue.".to_owned()));
    let description = row.description.unwrap();
    assert_eq!(
        description,
        "Both show a cream background. However, the query has a blue square, whereas the target \
         has a red square."
    );
}

#[test]
fn things_are_replaced_added_removed_and_moved() {
    for (query, target, order) in [
        (
            "a blue square above a star",
            "a red circle above a star",
            "Replace the blue square with a red circle.",
        ),
        ("a dog on a beach", "a dog and a ball on a beach", "Add a ball."),
        ("There is a dog with a ball", "a picture of a dog", "Remove the ball."),
        (
            "a dog to the left of a tree",
            "a dog behind a tree",
            "Put the dog behind the tree instead of to the left of it.",
        ),
        (
            "two red circles in a row on sand",
            "two red circles one above the other on sand",
            "Show the two red circles one above the other rather than in a row.",
        ),
        (
            "On a mat, a cat sleeping.",
            "a cat running on a mat",
            "Show the cat running rather than sleeping.",
        ),
        (
            "a heart around a big star under a night sky",
            "a heart on a fading pale blue lawn",
            "Replace the night sky with a fading pale blue lawn and remove the big star.",
        ),
        (
            "a red diamond on snow",
            "five red diamonds in a grid on snow",
            "Replace the red diamond with five red diamonds in a grid.",
        ),
        (
            "three stars on snow",
            "four hearts under a night sky",
            "Replace the three stars with four hearts and replace snow with a night sky.",
        ),
    ] {
        let row = answer(Some(query), Some(target), None);
        assert!(row.instructions.contains(&order.to_owned()), "{query} | {target}: {row:#?}");
        assert!(usable(&row), "{row:#?}");
    }
}

#[test]
fn equal_captions_leave_it_to_the_pixels() {
    let mut brighter = plain();
    brighter.0.brightness = 0.8;
    let pair = Some([plain(), brighter]);
    for (query, target) in [
        (None, None),
        (Some("a dog"), None),
        (Some("a dog"), Some("A dog.")),
        (Some("the"), Some("of it")),
    ] {
        let row = answer(query, target, pair.clone());
        assert!(row.instructions.contains(&"Make it brighter.".to_owned()), "{row:#?}");
        assert!(usable(&row), "{row:#?}");
    }
}

#[test]
fn no_difference_and_no_content_are_failures_with_a_name() {
    let row = answer(None, None, Some([plain(), plain()]));
    assert_eq!(row.outcome, "nothing_differs");
    assert!(row.instructions.is_empty() && row.audits.is_empty() && row.description.is_none());
    assert_eq!(answer(None, Some("a dog"), None).outcome, "content_gone");
    assert_eq!(answer(Some("a cat"), Some("a dog"), None).outcome, "ok");
}

#[test]
fn the_row_says_what_was_asked() {
    let asked = request(Some("a cat"), Some("a dog"));
    let row = Template::new().annotate(&asked, &|_| None, 42);
    assert_eq!(row.request_id, asked.request_id);
    assert_eq!(row.query_content_id, asked.query.0.hex());
    assert_eq!(row.target_content_id, asked.target.0.hex());
    assert_eq!((row.model.as_str(), row.prompt_version), Template::new().model());
    assert_eq!((row.task.as_str(), row.created_at, row.epoch), ("instruct", 42, 0));
    assert_eq!(row.audits.len(), row.instructions.len());
    assert!(row.audits.iter().all(|audit| audit.label == "unresolved"));
    assert_eq!(row, Template::new().annotate(&asked, &|_| None, 42));
}

fn thing() -> impl Strategy<Value = String> {
    let count = prop::sample::select(vec!["a", "the", "two", "three", "some", ""]);
    let size = prop::sample::select(vec!["", "small ", "big ", "fluffy ", "striped "]);
    let color = prop::sample::select(vec!["red ", "blue ", "teal ", "golden ", ""]);
    let noun = prop::sample::select(vec![
        "circle",
        "square",
        "dog",
        "car",
        "woman",
        "tree",
        "umbrella",
        "tennis ball",
        "house",
        "surfboard",
    ]);
    (count, size, color, noun).prop_map(|(count, size, color, noun)| {
        let plural = if matches!(count, "two" | "three" | "some") { "s" } else { "" };
        format!("{count} {size}{color}{noun}{plural}")
    })
}

fn caption() -> impl Strategy<Value = String> {
    let link = prop::sample::select(vec![
        "above",
        "to the left of",
        "in front of",
        "and",
        "riding",
        "standing next to",
        "with",
        "in a row on",
        "is behind",
    ]);
    let start = prop::sample::select(vec!["", "There is ", "A picture of ", "Close up of "]);
    (start, thing(), prop::collection::vec((link, thing()), 0..4)).prop_map(
        |(start, first, more)| {
            let rest: Vec<_> =
                more.iter().map(|(link, thing)| format!(" {link} {thing}")).collect();
            format!("{start}{first}{}.", rest.concat())
        },
    )
}

fn looked() -> impl Strategy<Value = Looked> {
    let side = 64i32..2000;
    let unit = 0.0..1.0f64;
    let color = (0.0..255.0f64, 0.0..255.0f64, 0.0..255.0f64);
    (unit, 0.0..0.5f64, 0.0..8.0f64, 0.0..3000.0f64, 0.0..120.0f64, color, (side.clone(), side))
        .prop_map(
            |(brightness, contrast, entropy, blur, colorfulness, (red, green, blue), size)| {
                let rest = Measures { red, green, blue, ..Measures::default() };
                (Measures { brightness, contrast, entropy, blur, colorfulness, ..rest }, size)
            },
        )
}

/// Runs `differ` on many generated pairs: what differs is answered, and nearly always usably.
fn mostly_usable<S: Strategy>(pairs: S, answer: impl Fn(S::Value) -> AnnotationRow) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut answered, mut passed) = (0, 0);
    for _ in 0..2_000 {
        let pair = pairs.new_tree(&mut runner).expect("no filters").current();
        let row = answer(pair);
        if row.outcome != "ok" {
            continue;
        }
        answered += 1;
        passed += usize::from(usable(&row));
        if std::env::var_os("SHOW").is_some() && answered % 40 == 0 {
            println!("{:#?} {:#?}", row.description, row.instructions);
        }
        for text in row.instructions.iter().chain(&row.description) {
            assert!(!text.contains("  ") && !text.contains(" ."), "{text:?}");
            assert!(!text.contains("a an ") && !text.contains("the the "), "{text:?}");
            assert!(text.ends_with(['.', '?']), "{text:?}");
            assert!(text.starts_with(|c: char| c.is_uppercase()), "{text:?}");
        }
    }
    assert!(answered > 1_800, "only {answered} of 2000 pairs differ");
    assert!(passed * 100 >= answered * 95, "{passed} of {answered} pass the filter");
}

#[test]
fn captioned_pairs_pass_the_filter() {
    mostly_usable((caption(), caption()), |(q, t)| {
        answer(Some(&q), Some(&t), Some([plain(), plain()]))
    });
}

#[test]
fn measured_pairs_pass_the_filter() {
    mostly_usable((looked(), looked()), |(q, t)| answer(None, None, Some([q, t])));
}

proptest! {
    /// Captions are anybody's text: whatever they hold, there is an outcome.
    #[test]
    fn any_caption_has_an_outcome(q in ".{0,80}", t in ".{0,80}", swap: bool) {
        let row = answer(Some(&q), Some(if swap { &q } else { &t }), Some([plain(), plain()]));
        prop_assert!(row.outcome == "ok" || row.outcome == "nothing_differs");
        prop_assert_eq!(row.outcome == "ok", row.instructions.len() == 4);
        prop_assert!(row.instructions.iter().all(|text| text.len() < 4_000));
    }
}
