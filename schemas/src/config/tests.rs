//! What a config says, and what it refuses.

use super::*;

const LEAST: &str = "[source]\nfiles = [\"log/*.jsonl\"]\n[tables]\nroot = \"tables\"\n";

fn refused(text: &str) -> String {
    Config::parse(text).expect_err("must be refused").0
}

#[test]
fn the_least_config_has_the_documented_defaults() {
    let config = Config::parse(LEAST).unwrap();
    assert_eq!(config.channels.semantic.encoder, "builtin:layout");
    assert_eq!(config.channels.caption.encoder, "builtin:words");
    assert_eq!(config.epoch.rows, 10_000);
    assert_eq!(config.epoch.bytes, 256 << 20);
    assert_eq!(config.pairs.targets_per_query, 3);
    assert_eq!(config.triplets.keep, Keep::Annotated);
}

#[test]
fn units_and_bands() {
    let text = format!(
        "{LEAST}[epoch]\nbytes = \"1.5 MiB\"\nlinger = \"250 ms\"\n[channels.pattern]\nband = [0.5, 0.9]\n"
    );
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.epoch.bytes, 3 << 19);
    assert_eq!(config.epoch.linger, Some(Duration::from_millis(250)));
    assert_eq!(config.channels.pattern.encoder, "builtin:edges");
    assert_eq!(config.channels.pattern.band, Some(vec![(0.5, 0.9)]));
    let many = format!("{LEAST}[channels.pattern]\nband = [[0.5, 0.6], [0.6, 0.9]]\n");
    assert_eq!(Config::parse(&many).unwrap().channels.pattern.band.unwrap().len(), 2);
}

#[test]
fn what_cannot_work_is_refused_with_words() {
    let files = |pattern: &str| {
        Config::parse(&format!("source.files = [{pattern:?}]\ntables.root = \"t\"\n"))
    };
    let why = files("lo*g/*.jsonl").unwrap_err().0;
    assert!(why.contains("lo*g/*.jsonl") && why.contains("file's name only"), "{why}");
    // The config's own folder is none of its patterns.
    let mut config = files("log/*.jsonl").unwrap();
    config.resolve(std::path::Path::new("/a[1]*"));
    assert_eq!(config.source.files, ["/a[1]*/log/*.jsonl"]);
    assert!(refused(&format!("{LEAST}[epoch]\nrowz = 1\n")).contains("rowz"));
    assert!(refused("[tables]\nroot = \"x\"\n[source]\n").contains("brokers and topics, or files"));
    let both =
        "[tables]\nroot = \"x\"\n[source]\nbrokers = \"b\"\ntopics = [\"t\"]\nfiles = [\"l\"]\n";
    assert!(refused(both).contains("take the other out"));
    let given = format!("{LEAST}[channels.semantic]\nencoder = \"given\"\n");
    assert!(refused(&given).contains("needs dim"));
    let given = format!("{given}dim = 4\n");
    assert!(refused(&given).contains("needs a band"));
    let band = format!("{LEAST}[channels.semantic]\nband = [0.9, 0.5]\n");
    assert!(refused(&band).contains("low < high"));
    let overlap = format!("{LEAST}[channels.semantic]\nband = [[0.1, 0.5], [0.4, 0.6]]\n");
    assert!(refused(&overlap).contains("overlap"));
    let key = LEAST.replace("[tables]", "key = \"x\"\n[tables]");
    assert!(refused(&key).contains("header:NAME"));
    assert!(refused(&format!("{LEAST}[epoch]\nlinger = \"soon\"\n")).contains("10 min"));
    for (fetch, words) in [
        ("schemes = [\"https\"]", "hosts is empty"),
        ("hosts = [\"a.org\"]", "https or http"),
        ("schemes = [\"ftp\"]", "ftp"),
        ("schemes = [\"http\"]\nhosts = [\"http://a.org\"]", "without scheme"),
        ("schemes = [\"http\"]\nhosts = [\"a.*.org\"]", "*.example.org"),
        ("schemes = [\"file\"]\nfolders = [\"a/../b\"]", ".."),
        ("attempts = 0", "1 to 10"),
        ("timeout = \"2 h\"", "at most"),
    ] {
        let said = refused(&format!("{LEAST}[fetch]\n{fetch}\n"));
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn what_no_image_and_no_pair_could_meet_is_refused() {
    for (rest, words) in [
        ("[screen]\naspect_max = 0.9\n", "aspect_max = 0.9: must be 1 to"),
        ("[screen]\naspect_max = nan\n", "aspect_max = NaN"),
        ("[screen]\nblur_min = inf\n", "blur_min = inf"),
        ("[screen]\nentropy_min = 9.0\n", "entropy_min = 9: must be 0 to 8"),
        ("[screen]\nbright_end_min = 2.0\n", "bright_end_min"),
        ("[screen]\ndark_end_max = -1.0\n", "dark_end_max"),
        ("[screen]\npixels_max = 0\n", "pixels_max = 0: an image with side_min = 64"),
        ("[screen]\npixels_max = 0\nside_min = 0\n", "has at least 1"),
        ("[screen]\nside_min = 40_000\n", "side_min = 40000"),
        ("[filter]\noverlap_max = 1.5\n", "overlap_max"),
        ("[filter]\nverdicts = []\n", "without one of target, other, split, none"),
        ("[filter]\nverdicts = [\"unjudged\"]\n", "unknown variant `unjudged`"),
        ("[filter]\nlabels = []\n", "without one of composition_required, shortcut_text"),
        ("[filter]\nlabels = [\"unsolved\"]\n", "unknown variant `unsolved`"),
        ("[audit]\nchannel = \"caption\"\n", "\"semantic\" or \"pattern\""),
        ("[audit]\ngallery = 0\n", "[audit] gallery = 0: must be 1 to"),
        ("[filter]\nwords_min = 0\nwords_max = 0\n", "words_max"),
        ("[filter]\nletters_min = -0.1\n", "letters_min"),
        ("[filter]\nleak_max = nan\n", "leak_max = NaN"),
        ("[filter]\nlanguages = [\"en\", \"English\"]\n", "\"English\": languages that can be"),
        ("[pairs]\ntargets_per_query = 31\n", "together hold 30"),
        ("[epoch]\nlinger = \"5 secs\"\n", "linger = \"5 secs\""),
        ("[epoch]\nlinger = \"5\"\n", "\"5\": a time is a number from 0 and ms, s, min or h, such"),
        ("[epoch]\nlinger = \"-1 s\"\n", "a number from 0 and ms, s, min or h"),
        ("[channels.caption]\nband = [0.50000000001, 0.50000000002]\n", "no score lies between"),
    ] {
        let why = refused(&format!("{LEAST}{rest}"));
        assert!(why.contains(words), "{rest}: {why}");
    }
    let bands = "[channels.caption]\nband = [[0.1, 0.2], [0.2, 0.3]]\n";
    Config::parse(&format!("{LEAST}{bands}[pairs]\ntargets_per_query = 40\n")).unwrap();
    let topics = |topics: &str| {
        let source = format!("brokers = \"b:1\"\ntopics = [{topics}]");
        LEAST.replace("files = [\"log/*.jsonl\"]", &source)
    };
    assert!(refused(&topics("\"a\", \"b\", \"a\"")).contains("\"a\" twice"));
    assert!(refused(&topics("\"a\", \"\"")).contains("empty topic"));
    assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
    assert_eq!(parse_duration("ten"), None);
}

#[test]
fn a_judge_is_another_model_that_the_service_calls() {
    let with = |more: &str| {
        let of = "[annotator]\nkind = \"openai\"\nurl = \"http://h/v1\"\nmodel = \"m\"\nbudget = 1.0\n\
                  input_price = 0.0\noutput_price = 0.0\n";
        format!("{LEAST}{of}{more}")
    };
    let judge = |more: &str| Config::parse(&with(more)).expect("a config").annotator.judge;
    assert_eq!(judge(""), None);
    let said = judge("[judge]\nmodel = \"j\"\n").expect("a judge");
    assert_eq!((&*said.model, said.negatives), ("j", 4));
    assert_eq!(judge("[judge]\nmodel = \"j\"\nnegatives = 9\n").expect("a judge").negatives, 9);
    for (more, why) in [
        ("[judge]\n", "missing field `model`"),
        ("[judge]\nmodel = \"\"\n", "must be another model"),
        ("[judge]\nmodel = \"m\"\n", "must be another model"),
        ("describe_model = \"d\"\n[judge]\nmodel = \"d\"\n", "(d, m)"),
        ("[judge]\nmodel = \"j\"\nnegatives = 0\n", "must be 1 to 9"),
        ("[judge]\nmodel = \"j\"\nnegatives = 10\n", "must be 1 to 9"),
        ("transport = \"batch\"\n[judge]\nmodel = \"j\"\n", "transport = \"online\""),
        ("[judge]\nmodel = \"j\"\n[contents]\nstore = \"reference\"\n", "keeps none"),
    ] {
        let said = refused(&with(more));
        assert!(said.contains(why), "{more}: {said}");
    }
    assert!(refused(&format!("{LEAST}[judge]\nmodel = \"j\"\n")).contains("kind = \"openai\""));
}

#[test]
fn a_captioner_needs_a_model_with_eyes_and_somebody_who_pays() {
    let with = |more: &str| {
        let openai = "[annotator]\nkind = \"openai\"\nurl = \"http://localhost/v1\"\nmodel = \"m\"\n\
                      budget = 1.0\ninput_price = 0.0\noutput_price = 0.0\n";
        format!("{LEAST}{openai}{more}")
    };
    let captioner = |more: &str| Config::parse(&with(more)).expect("a config").annotator.captioner;
    assert_eq!(captioner(""), None);
    assert_eq!(captioner("[captioner]\n").as_deref(), Some("m"));
    assert_eq!(captioner("describe_model = \"d\"\n[captioner]\n").as_deref(), Some("d"));
    assert_eq!(captioner("[captioner]\nmodel = \"c\"\n").as_deref(), Some("c"));
    let blind = "images = 0\ncaptions = true\n[captioner]\n";
    assert!(refused(&with(blind)).contains("name a model that does in [captioner] model"));
    assert!(refused(&with(&format!("{blind}model = \"m\"\n"))).contains("[captioner] model"));
    assert_eq!(captioner(&format!("{blind}model = \"c\"\n")).as_deref(), Some("c"));
    assert!(refused(&with("[captioner]\nmodel = \"\"\n")).contains("is empty"));
    let given =
        "[captioner]\n[channels.caption]\nencoder = \"given\"\ndim = 8\nband = [0.1, 0.2]\n";
    assert!(refused(&with(given)).contains("do not go together"));
    let stored = "[captioner]\n[contents]\nstore = \"reference\"\n";
    assert!(refused(&with(stored)).contains("[contents] store"));
    let template = format!("{LEAST}[captioner]\n");
    assert!(refused(&template).contains("kind = \"openai\""));
}
