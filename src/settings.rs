//! From the config to what the graph needs, and to the words by which tables say what is in force.

use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc};

use anyhow::{Context, anyhow, bail};
use kernels::{
    encoders as builtin,
    vector::{Band, UNIT},
};
use operators::{
    decode::DecodeOptions,
    embed::Encoders,
    flow::{CaptionerId, ModelId},
    neighbors::{Counters, Mining, VectorBook},
    offload::Pool,
    triplets::TripletOptions,
};
use schemas::{
    Channel,
    config::{AnnotatorKind, Config, Filter, Judge, Verdict},
    limits,
};
use serde_json::{Map, Value, json};

use crate::{
    annotator::{
        Annotator,
        audit::Auditor,
        openai::{self, captioner_id, prompts::Prompts},
        template::Template,
    },
    dataflow::Settings,
    encoders,
};

/// Where `in_force` says what the prompts' versions stand for.
const WORDS: &str = "words";

/// Who is asked, and what determines its answers.
///
/// # Errors
/// A prompt cannot be read.
pub fn model(config: &Config) -> anyhow::Result<ModelId> {
    match config.annotator.kind {
        AnnotatorKind::Template => {
            let template = Template::new();
            let (model, prompt_version) = template.model();
            let reads_captions = template.reads_captions();
            Ok(ModelId { model: model.to_owned(), prompt_version, reads_captions })
        }
        AnnotatorKind::OpenAi => {
            Ok(openai::model_id(&config.annotator, &Prompts::of(&config.annotator)?))
        }
    }
}

/// Who writes captions, if anybody does.
///
/// # Errors
/// A prompt cannot be read.
pub fn captioner(config: &Config) -> anyhow::Result<Option<CaptionerId>> {
    match config.captioner {
        None => Ok(None),
        Some(_) => {
            let prompts = Prompts::of(&config.annotator)?;
            Ok(openai::captioner_id(&config.annotator, &prompts))
        }
    }
}

/// Dataflow workers, by the config: one per core where it says 0.
pub fn workers(config: &Config) -> usize {
    match config.service.workers {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        workers => workers,
    }
}

/// The graph's settings.
///
/// # Errors
/// An encoder that there is not, or a band that is none: the message says which key.
pub fn settings(config: &Config) -> anyhow::Result<Settings> {
    let model = model(config)?;
    let limits = kernels::decode::Limits {
        encoded_bytes_max: config.screen.encoded_bytes_max,
        pixels_max: config.screen.pixels_max,
        side_max: limits::SIDE_MAX,
    };
    let (encoders, book) = (encoders_of(config)?, Arc::new(VectorBook::default()));
    Auditor::of(config, &encoders, &book)?;
    Ok(Settings {
        decode: Arc::new(DecodeOptions {
            key: config.source.key.clone(),
            limits,
            store: config.contents.store,
            given: encoders.given,
            encoders: encoders.image.clone(),
        }),
        screen: Arc::new(config.screen.clone()),
        benchmarks: Arc::default(),
        encoders: Arc::new(encoders),
        mining: Arc::new(mining(config)?),
        filter: Arc::new(config.filter.clone()),
        triplets: Arc::new(TripletOptions {
            keep: config.triplets.keep,
            models: vec![model.clone()],
            rules: Arc::new(config.filter.clone()),
        }),
        model: Arc::new(model),
        captioner: captioner(config)?,
        book,
        counters: Arc::new(Counters::new(workers(config))),
        state: Arc::default(),
        pool: Pool::new(workers(config)),
    })
}

/// Rules 2 to 6, as the config has them.
pub fn mining(config: &Config) -> anyhow::Result<Mining> {
    let mut bands: [Vec<Band>; 3] = Default::default();
    let mut neighbors = [0; 3];
    for channel in Channel::ALL {
        let chosen = config.channels.get(channel);
        let pairs = match &chosen.band {
            Some(bands) => bands.clone(),
            None => default_bands(channel, &chosen.encoder)?,
        };
        let name = channel.as_str();
        for (low, high) in pairs {
            let band = Band::new(low, high)
                .map_err(|e| anyhow!("[channels.{name}] band = [{low}, {high}]: {e}"))?;
            bands[channel.index()].push(band);
        }
        bands[channel.index()].sort_by_key(|band| band.lo);
        neighbors[channel.index()] = chosen.neighbors;
    }
    Ok(Mining {
        bands,
        neighbors,
        slack: limits::NEIGHBORS_SLACK,
        targets_per_query: config.pairs.targets_per_query,
        hard_negatives: config.pairs.hard_negatives,
    })
}

fn default_bands(channel: Channel, encoder: &str) -> anyhow::Result<Vec<(f64, f64)>> {
    let bands = match channel {
        Channel::Caption => builtin::text_encoder(encoder).map(|e| e.default_bands().to_vec()),
        _ => builtin::image_encoder(encoder).map(|e| e.default_bands().to_vec()),
    };
    bands.with_context(|| no_encoder(channel, encoder))
}

fn no_encoder(channel: Channel, encoder: &str) -> String {
    let name = channel.as_str();
    let known = match channel {
        Channel::Caption => "builtin:words",
        _ => "builtin:layout, builtin:edges",
    };
    format!(
        "[channels.{name}] encoder = {encoder:?}: there is {known}, given, and a checkpoint's folder"
    )
}

/// What is wrong with a config beyond its words, as far as can be told without a checkpoint's folder,
/// which need not be on every machine that uses the config.
///
/// # Errors
/// An encoder that there is not, or a band that is none: the message says which key.
pub fn check(config: &Config) -> anyhow::Result<()> {
    mining(config)?;
    for channel in Channel::ALL {
        let chosen = config.channels.get(channel);
        if chosen.checkpoint().is_none() && chosen.encoder != "given" {
            default_bands(channel, &chosen.encoder)?;
        }
    }
    Ok(())
}

fn key(channel: Channel, encoder: &str) -> String {
    format!("[channels.{}] encoder = {encoder:?}", channel.as_str())
}

fn encoders_of(config: &Config) -> anyhow::Result<Encoders> {
    let mut all = Encoders::default();
    for channel in Channel::ALL {
        let name = config.channels.get(channel).encoder.as_str();
        if name == "given" {
            all.given[channel.index()] = config.channels.get(channel).dim;
            continue;
        }
        if let Some(path) = config.channels.get(channel).checkpoint() {
            let why = || key(channel, name);
            match channel {
                Channel::Caption => all.text = Some(encoders::text(path).with_context(why)?),
                image => all.image[image.index()] = Some(encoders::image(path).with_context(why)?),
            }
            continue;
        }
        match channel {
            Channel::Caption => {
                let encoder = builtin::text_encoder(name);
                all.text = Some(encoder.with_context(|| no_encoder(channel, name))?.into());
            }
            image => {
                let encoder = builtin::image_encoder(name);
                all.image[image.index()] =
                    Some(encoder.with_context(|| no_encoder(channel, name))?.into());
            }
        }
    }
    Ok(all)
}

/// The shortest decimal that a band's edge may have been written as: the inverse of ⌈edge·2³⁰⌉.
pub fn edge_text(edge: i64) -> String {
    let unit = i64::from(UNIT);
    // With 10 digits there is a decimal in every step of 2^-30.
    for digits in 1..=10u32 {
        let tens = 10i128.pow(digits);
        // The greatest decimal that is not above the edge.
        let decimal = (i128::from(edge) * tens).div_euclid(i128::from(unit));
        let text = format!("{:.*}", digits as usize, decimal as f64 / tens as f64);
        let back = text.parse::<f64>().map(|cosine| (cosine * unit as f64).ceil() as i64);
        if back == Ok(edge) {
            return text;
        }
    }
    format!("{}", edge as f64 / unit as f64)
}

/// Bands as the config has them, of a channel's `bands` in `in_force`; none where these are not bands.
pub fn bands_text(bands: &Value) -> Option<String> {
    let each = bands.as_array()?.iter().map(|band| {
        let [low, high] = band.as_array()?.as_slice() else { return None };
        Some(format!("[{}, {}]", edge_text(low.as_i64()?), edge_text(high.as_i64()?)))
    });
    let each: Vec<String> = each.collect::<Option<_>>()?;
    match each.as_slice() {
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

/// What decides the tables' rows, in the words of `latest.json`: a difference between this and what
/// the tables say is a config change.
pub fn in_force(config: &Config, settings: &Settings) -> Map<String, Value> {
    let mining = &settings.mining;
    let channels: Map<String, Value> = Channel::ALL
        .into_iter()
        .map(|channel| {
            let at = channel.index();
            let bands: Vec<[i32; 2]> = mining.bands[at].iter().map(|b| [b.lo, b.hi]).collect();
            let value = json!({
                "encoder": settings.encoders.id(channel),
                "bands": bands,
                "neighbors": mining.neighbors[at],
            });
            (channel.as_str().to_owned(), value)
        })
        .collect();
    let mut rules = json!({
        "channels": channels,
        "targets_per_query": mining.targets_per_query,
        "hard_negatives": mining.hard_negatives,
        "keep": config.triplets.keep,
        "annotator": annotator_in_force(config, &settings.model),
        "filter": config.filter,
    });
    if let Some(captioner) = &settings.captioner {
        rules["captioner"] = json!(captioner);
    }
    if config.filter.labels != Filter::default().labels {
        let labels = config.filter.labels.iter().map(|label| label.as_str());
        rules["filter"]["labels"] = labels.collect::<BTreeSet<_>>().into_iter().collect();
    }
    let verdicts: BTreeSet<Verdict> = config.filter.verdicts.iter().copied().collect();
    if verdicts.len() < Verdict::ALL.len() {
        rules["filter"]["verdicts"] = verdicts.into_iter().map(Verdict::as_str).collect();
    }
    if let Some(judge) = &config.annotator.judge {
        // Prompts that cannot be read have been refused.
        let version = Prompts::of(&config.annotator).ok().map(|prompts| prompts.judge_version());
        let Judge { model, negatives } = judge;
        rules["judge"] =
            json!({ "model": model, "prompt_version": version, "negatives": negatives });
    }
    // One that cannot be used has been refused.
    if let Ok(Some(auditor)) = Auditor::of(config, &settings.encoders, &settings.book) {
        rules["audit"] = auditor.in_force();
    }
    Map::from_iter([("in_force".to_owned(), rules)])
}

/// Whether the tables were made with other models or prompts than those of the config: what is asked now
/// would not be what they wait for.
///
/// # Errors
/// So they were; the message says what to do.
pub fn refuse_other_models(held: &Value, config: &Config, prompts: &Prompts) -> anyhow::Result<()> {
    let model = openai::model_id(&config.annotator, prompts);
    let wanted = annotator_in_force(config, &model);
    let wanted =
        json!({ "annotator": wanted, "captioner": captioner_id(&config.annotator, prompts) });
    refuse_other_words(held, &wanted)?;
    for (part, name) in [
        ("annotator", "model"),
        ("annotator", "prompt_version"),
        ("annotator", "captions"),
        ("captioner", "model"),
        ("captioner", "prompt_version"),
    ] {
        let (held, wanted) = (&held[part][name], &wanted[part][name]);
        if held != wanted {
            bail!(
                "[{part}] {name}: the tables were made with {held}, the config says {wanted}: run the \
                 service with this config first, which asks for --apply"
            );
        }
    }
    Ok(())
}

fn annotator_in_force(config: &Config, model: &ModelId) -> Value {
    let mut said = json!({ "model": model.model, "prompt_version": model.prompt_version });
    // Prompts that cannot be read have been refused.
    let asks = config.annotator.kind == AnnotatorKind::OpenAi;
    if let Some(prompts) = asks.then(|| Prompts::of(&config.annotator).ok()).flatten() {
        said[WORDS] = json!(prompts.words());
        // With captions in it, it is another question.
        if config.annotator.captions {
            said["captions"] = json!(true);
        }
    }
    said
}

/// What a prompt's version stands for in the tables, where the config has other words under it.
///
/// # Errors
/// There is one: answers are known by the version, so these words would ask nothing.
pub fn refuse_other_words(held: &Value, wanted: &Value) -> anyhow::Result<()> {
    let words = |rules: &Value| rules["annotator"][WORDS].as_object().cloned().unwrap_or_default();
    let (held, wanted) = (words(held), words(wanted));
    for (version, digest) in wanted {
        if held.get(&version).is_some_and(|held| *held != digest) {
            bail!(
                "[annotator.prompts] {version} has other words than the answers in the tables were \
                 asked with, and would ask nothing: give the file a new version, or take the words \
                 back"
            );
        }
    }
    Ok(())
}

/// Adds to the words of the config those of versions that it does not use any more: a file that comes
/// back to one of them must have these words.
pub fn keep_words(held: &Map<String, Value>, wanted: &mut Map<String, Value>) {
    let Some(held) = held.get("in_force").and_then(|held| held["annotator"][WORDS].as_object())
    else {
        return;
    };
    let Some(wanted) = wanted.get_mut("in_force") else { return };
    let words = &mut wanted["annotator"][WORDS];
    if words.is_null() {
        *words = json!({});
    }
    if let Some(words) = words.as_object_mut() {
        for (version, digest) in held {
            words.entry(version.clone()).or_insert_with(|| digest.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_every_version_are_kept() {
        let rules = |words: Value| Map::from_iter([("in_force".into(), with_words(words))]);
        fn with_words(words: Value) -> Value {
            json!({ "annotator": { "model": "m", "words": words } })
        }
        let first = rules(json!({ "describe version 1": "a", "instruct version 1": "b" }));
        let mut second = rules(json!({ "describe version 1": "a", "instruct version 2": "c" }));
        keep_words(&first, &mut second);
        let all = json!({
            "describe version 1": "a", "instruct version 1": "b", "instruct version 2": "c",
        });
        assert_eq!(second, rules(all.clone()));
        // Unchanged, it is no change of the config.
        let mut again = rules(json!({ "describe version 1": "a", "instruct version 2": "c" }));
        keep_words(&second, &mut again);
        assert_eq!(again, second);
        // Another annotator has no words of its own.
        let mut template = rules(Value::Null);
        keep_words(&second, &mut template);
        assert_eq!(template, second);
        // Back at the first version, with other words.
        let mut back = rules(json!({ "describe version 1": "a", "instruct version 1": "z" }));
        keep_words(&template, &mut back);
        let refused = refuse_other_words(&template["in_force"], &back["in_force"]);
        let said = refused.expect_err("these words have answers").to_string();
        assert!(said.contains("instruct version 1 has other words"), "{said}");
        let mut same = rules(json!({ "describe version 1": "a", "instruct version 1": "b" }));
        keep_words(&template, &mut same);
        assert!(refuse_other_words(&template["in_force"], &same["in_force"]).is_ok());
    }

    #[test]
    fn edges_are_shown_as_they_were_written() {
        for text in ["0.2", "0.96", "-0.05", "0.0", "1.0", "-1.0", "0.123456789", "0.4567", "1e-9"]
        {
            let written: f64 = text.parse().expect("a number");
            let band = Band::new(written, 1.01).expect("a band");
            let shown = edge_text(band.lo.into());
            assert_eq!(shown.parse(), Ok(written), "{text} is shown as {shown}");
        }
        assert_eq!(edge_text(Band::new(0.2, 0.96).expect("a band").hi.into()), "0.96");
        // Edges that nobody wrote by hand come back as they are.
        for edge in (-UNIT..=UNIT).step_by(9_999_991) {
            let shown: f64 = edge_text(edge.into()).parse().expect("a number");
            assert_eq!((shown * f64::from(UNIT)).ceil() as i32, edge);
        }
        let bands = json!([[214748365, 1030792152], [1030792152, 1073741824]]);
        assert_eq!(bands_text(&bands).as_deref(), Some("[[0.2, 0.96], [0.96, 1.0]]"));
        assert_eq!(bands_text(&json!(null)), None);
    }
}
