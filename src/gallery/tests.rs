use super::*;

fn picture(id: &str, caption: Option<&str>) -> Picture {
    let scene = crate::scenes::scene(0, 1);
    let (id, caption) = (id.into(), caption.map(Into::into));
    Picture { id, caption, written: false, bytes: scene.jpeg_or_png }
}

fn row(query: Picture) -> GalleryRow {
    GalleryRow {
        query,
        instructions: vec![
            Instruction {
                text: "make it <red>".into(),
                label: "shortcut_text".into(),
                ranks: [Some(3), None, Some(1)],
                verdict: Some("split".into()),
            },
            Instruction { text: "with \"stars\"".into(), ..Instruction::default() },
        ],
        left_out: vec![LeftOut {
            text: "the first image, in <b>".into(),
            reason: "meta_phrase".into(),
            detail: "says \"first image\"".into(),
        }],
        why_none: None,
        target: picture("t&1", Some("  ")),
        negatives: vec![picture("n'1", Some("a ring"))],
        scores: vec![
            ("semantic".into(), Some(0.75)),
            ("caption".into(), None),
            ("pattern".into(), Some(-0.5)),
        ],
        proposed_by: vec!["semantic".into()],
        description: Some("both & neither".into()),
        model: "template:v1".into(),
        prompt_version: 1001,
        cost_usd: Some(0.00125),
    }
}

fn page(hostile: &str) -> GalleryPage {
    let pair = || (hostile.to_string(), hostile.to_string());
    let mut triplet = row(picture(hostile, Some(hostile)));
    triplet.negatives.push(Picture {
        id: hostile.into(),
        caption: None,
        written: false,
        bytes: b"no image".to_vec(),
    });
    triplet.instructions.push(Instruction {
        text: hostile.into(),
        label: hostile.into(),
        ranks: [Some(1); 3],
        verdict: Some(hostile.into()),
    });
    triplet.left_out.push(LeftOut {
        text: hostile.into(),
        reason: hostile.into(),
        detail: hostile.into(),
    });
    triplet.why_none = Some(hostile.into());
    triplet.scores.push((hostile.into(), Some(f64::NAN)));
    triplet.description = Some(hostile.into());
    triplet.model = hostile.into();
    GalleryPage {
        title: hostile.into(),
        subtitle: hostile.into(),
        summary: vec![pair()],
        story: vec![pair()],
        triplets: vec![triplet.clone(), triplet.clone()],
        turned_away: vec![triplet],
        rejects: vec![Reject {
            image_id: Some(hostile.into()),
            stage: hostile.into(),
            reason: hostile.into(),
            detail: hostile.into(),
            picture: Some(hostile.as_bytes().to_vec()),
        }],
        duckdb: hostile.into(),
        next_steps: vec![pair()],
        footnote: hostile.into(),
    }
}

#[test]
fn no_text_becomes_markup() {
    let hostile =
        "<script>alert(1)</script><img src=x onerror='a()'>\" onload=\"b()\" '&lt;\0\u{1b}";
    let html = render(&page(hostile));
    assert!(!html.contains("<script"));
    assert!(!html.contains("<img src=x"));
    assert!(!html.contains("onerror='") && !html.contains("onload=\""));
    assert!(!html.contains('\0') && !html.contains('\u{1b}'));
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(html.contains("&amp;lt;"));
    // A hostile page has exactly the tags that the same page with harmless text has.
    let harmless = render(&page("words"));
    assert_eq!(html.matches('<').count(), harmless.matches('<').count());
    assert_eq!(html.matches('"').count(), harmless.matches('"').count());
}

#[test]
fn nothing_is_fetched() {
    let html = render(&page("words"));
    for word in ["http:", "https:", "url(", "@import", "<link", "<script", "<iframe"] {
        assert!(!html.contains(word), "{word}");
    }
    let sources = html.matches("src=\"").count();
    assert!(sources > 0);
    assert_eq!(sources, html.matches("src=\"data:image/jpeg;base64,").count());
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn what_a_triplet_shows() {
    let page = GalleryPage { triplets: vec![row(picture("q", None))], ..GalleryPage::default() };
    let html = render(&page);
    assert!(html.contains("make it &lt;red&gt;"));
    assert!(html.contains("with &quot;stars&quot;"));
    assert!(html.contains("<b>shortcut_text</b> text 3, both 1</small>"));
    assert!(html.contains("judge: <b>split</b></small>"));
    assert_eq!(html.matches("class=\"audit\"").count(), 2, "nothing was audited of the other");
    assert!(html.contains("<s dir=\"auto\">the first image, in &lt;b&gt;</s>"));
    assert!(html.contains("meta_phrase</span> says &quot;first image&quot;</small>"));
    assert!(html.contains("template:v1, prompt 1001, $0.00125</span>"));
    assert!(!html.contains("No triplet"));
    assert!(html.contains("<code>t&amp;1</code>"));
    assert_eq!(html.matches("<i>no caption</i>").count(), 2, "none, and a blank one");
    assert!(html.contains("<li title=\"a ring\"><img alt=\"a ring\""));
    assert_eq!(html.matches("class=\"proposed\"").count(), 1);
    assert!(html.contains("--w:75.0%\"></i><span>0.750</span>"));
    assert!(html.contains("--w:0.0%\"></i><span>-0.500</span>"), "a bar has no negative width");
    assert!(html.contains("<span>none</span>"));
    assert_eq!(html, render(&page));
}

#[test]
fn a_caption_by_a_model_is_marked() {
    let mut triplet = row(picture("q", Some("a boat")));
    (triplet.query.written, triplet.negatives[0].written) = (true, true);
    triplet.negatives.push(picture("n2", Some("a lake")));
    let html = render(&GalleryPage { triplets: vec![triplet], ..GalleryPage::default() });
    assert!(html.contains("a boat</span> <i>(generated)</i>"));
    assert!(html.contains("<li title=\"a ring (generated)\"><img alt=\"a ring\""));
    assert!(html.contains("<li title=\"a lake\">"));
    assert_eq!(html.matches("(generated)").count(), 2, "and no other");
}

#[test]
fn an_answer_without_a_triplet_says_why() {
    let mut answer = row(picture("q", None));
    answer.why_none = Some("2 of 4 pass".into());
    (answer.scores, answer.cost_usd) = (Vec::new(), None);
    let html = render(&GalleryPage { turned_away: vec![answer], ..GalleryPage::default() });
    assert!(html.contains("<h2>Answers that made no triplet</h2>"));
    assert!(html.contains("<strong>No triplet: 2 of 4 pass.</strong>"));
    assert!(html.contains("template:v1, prompt 1001</span>") && !html.contains("class=\"scores\""));
}

#[test]
fn an_empty_page_has_no_empty_sections() {
    let html = render(&GalleryPage { title: "Nothing yet".into(), ..GalleryPage::default() });
    assert!(html.contains("<h1>Nothing yet</h1>"));
    for tag in ["<h2>", "<table", "<article", "<dl", "<ol", "<pre"] {
        assert!(!html.contains(tag), "{tag}");
    }
}
