//! Prompts and demonstrations: files of the tree, or a user's own in their place.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use operators::flow::{DESCRIBE, Request};
use schemas::{
    ContentId,
    config::{Annotator, ResponseFormat},
    limits,
    tables::request_id,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Largest version of a file.
const VERSION_MAX: i32 = 999;
/// `prompt_version` of an answer: that of `describe` times this, and that of `instruct`.
const VERSIONS: i32 = 1_000;
/// Words of a description: the fewest, and how many more there may be.
const WORDS: (u64, u64) = (50, 41);
/// What stands before each image that a judge chooses from: [`limits::JUDGE_NEGATIVES_MAX`] and one.
const CANDIDATES: [&str; limits::JUDGE_NEGATIVES_MAX + 1] = [
    "Candidate 1:",
    "Candidate 2:",
    "Candidate 3:",
    "Candidate 4:",
    "Candidate 5:",
    "Candidate 6:",
    "Candidate 7:",
    "Candidate 8:",
    "Candidate 9:",
    "Candidate 10:",
];
/// Fewest instructions of an answer.
pub const INSTRUCTIONS_MIN: usize = 3;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    version: i32,
    system: String,
    user: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Instruct {
    version: i32,
    shown: usize,
    system: String,
    user: String,
    demonstrations: Vec<Demonstration>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Demonstration {
    description: String,
    instructions: Vec<String>,
}

/// The prompts.
#[derive(Clone, Debug)]
pub struct Prompts {
    describe: Plain,
    instruct: Instruct,
    caption: Plain,
    judge: Plain,
    /// Whether captions are asked for, and whether instructions are judged.
    used: [bool; 2],
    /// Of what each file says beside its version.
    digests: [String; 4],
    /// The words of all instructions that are demonstrations.
    demonstrated: HashSet<String>,
}

/// What two images share and where they differ: of a pair of contents, the smaller one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// After "Both show".
    pub common: String,
    /// After the name of the first: begins with a verb.
    pub first: String,
    /// After the name of the second.
    pub second: String,
}

impl Description {
    /// As the memo has it: in the column `instructions`, for its parts are needed again.
    pub fn parts(&self) -> Vec<String> {
        vec![self.common.clone(), self.first.clone(), self.second.clone()]
    }

    /// The inverse of [`Description::parts`].
    pub fn of_parts(parts: &[String]) -> Option<Description> {
        let [common, first, second] = parts else { return None };
        Some(Description { common: common.clone(), first: first.clone(), second: second.clone() })
    }

    /// In words that name the two.
    pub fn text(&self, first: &str, second: &str) -> String {
        let part = |text: &str| text.trim().trim_end_matches('.').to_owned();
        format!(
            "Both show {}. However, {first} {}, whereas {second} {}.",
            part(&self.common),
            part(&self.first),
            part(&self.second)
        )
    }

    /// In words of one direction of the pair; `turned` says that the query is the second.
    pub fn directed(&self, turned: bool) -> String {
        match turned {
            false => self.text("the query", "the target"),
            true => Description {
                common: self.common.clone(),
                first: self.second.clone(),
                second: self.first.clone(),
            }
            .text("the query", "the target"),
        }
    }
}

/// What is sent, less the images.
pub struct Chat {
    /// Everything but `messages`.
    pub fields: Map<String, Value>,
    /// Rules.
    pub system: String,
    /// The text after the images.
    pub user: String,
    /// What stands before each image, and whose image that is.
    pub images: Vec<(&'static str, ContentId)>,
}

impl Chat {
    /// The most tokens that can be read and written for it: no model reads a byte as more than one.
    pub fn most_tokens(&self, config: &Annotator) -> (u64, u64) {
        let schema = self.fields.get("response_format").map_or(0, |f| f.to_string().len());
        let text = (self.system.len() + self.user.len() + schema) as u64;
        let images = self.images.len() as u64 * config.image_tokens;
        let written = self.fields.get(&config.max_tokens_field).and_then(Value::as_u64);
        let read = text + images + limits::ANNOTATOR_FRAME_TOKENS;
        (read, written.unwrap_or(config.max_tokens))
    }

    /// The request's body; `jpegs` are the images in their order.
    pub fn body(&self, jpegs: &[impl AsRef<[u8]>]) -> Vec<u8> {
        let mut parts = Vec::new();
        for ((named, _), jpeg) in self.images.iter().zip(jpegs) {
            parts.push(json!({ "type": "text", "text": named }));
            let url = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
            parts.push(json!({ "type": "image_url", "image_url": { "url": url } }));
        }
        // Servers of models that see nothing know no parts.
        let user = match parts.is_empty() {
            true => json!(self.user),
            false => {
                parts.push(json!({ "type": "text", "text": self.user }));
                Value::Array(parts)
            }
        };
        let messages = json!([
            { "role": "system", "content": self.system },
            { "role": "user", "content": user },
        ]);
        let mut body = self.fields.clone();
        body.insert("messages".into(), messages);
        Value::Object(body).to_string().into_bytes()
    }
}

/// How a try differs from the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variation {
    /// The answer was no JSON, or not all of it: another seed, a little warmer.
    pub repair: bool,
    /// It was cut: twice as many tokens.
    pub longer: bool,
    /// It was blank to the end, as structured output may be: by the prompt alone.
    pub plain: bool,
}

/// Numbers that an id determines.
pub struct Dice([u8; 32]);

impl Dice {
    /// Of a request, for one purpose.
    pub fn of(id: &str, purpose: &str) -> Dice {
        Dice(ContentId::of(format!("{purpose} {id}").as_bytes()).0)
    }

    /// The `n`th, 0 to 3.
    pub fn number(&self, n: usize) -> u64 {
        let at = 8 * (n % 4);
        self.0[at..at + 8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
    }
}

/// 16 hex digits of what a file says beside its version, comments aside.
fn digest(file: &str) -> anyhow::Result<String> {
    let mut said: Map<String, Value> = toml::from_str(file).context("a prompt")?;
    said.remove("version");
    let said = serde_json::to_vec(&said).context("a prompt")?;
    Ok(Sha256::digest(said).iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

impl Prompts {
    /// Those of the config, or those that are built in.
    ///
    /// # Errors
    /// A file cannot be read, or is no prompt; the message says what it lacks.
    pub fn of(config: &Annotator) -> anyhow::Result<Prompts> {
        let text = |name: &str, path: &Option<String>, own: &str| match path {
            None => Ok(own.to_owned()),
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("[annotator.prompts] {name} = {path:?}")),
        };
        let files = &config.prompts;
        let describe = text("describe", &files.describe, include_str!("prompts/describe.toml"))?;
        let instruct = text("instruct", &files.instruct, include_str!("prompts/instruct.toml"))?;
        let caption = text("caption", &files.caption, include_str!("prompts/caption.toml"))?;
        let judge = text("judge", &files.judge, include_str!("prompts/judge.toml"))?;
        let digests = [digest(&describe)?, digest(&instruct)?, digest(&caption)?, digest(&judge)?];
        let describe = toml::from_str(&describe).context("the prompt that describes")?;
        let caption = toml::from_str(&caption).context("the prompt for captions")?;
        let judge = toml::from_str(&judge).context("the prompt that judges")?;
        let instruct: Instruct =
            toml::from_str(&instruct).context("the prompt for instructions")?;
        let shown = instruct.demonstrations.iter().flat_map(|shown| &shown.instructions);
        let demonstrated = shown.map(|text| words_of(text)).collect();
        let used = [config.captioner.is_some(), config.judge.is_some()];
        let prompts = Prompts { describe, instruct, caption, judge, used, digests, demonstrated };
        prompts.check()?;
        Ok(prompts)
    }

    fn check(&self) -> anyhow::Result<()> {
        let Prompts { describe, instruct, caption, judge, .. } = self;
        for (name, version) in [
            ("describe", describe.version),
            ("instruct", instruct.version),
            ("caption", caption.version),
            ("judge", judge.version),
        ] {
            if !(1..=VERSION_MAX).contains(&version) {
                bail!("the prompt {name} has version {version}: must be 1 to {VERSION_MAX}");
            }
        }
        if !instruct.user.contains("{description}") {
            bail!("the prompt instruct has no {{description}} in `user`: nothing would be asked");
        }
        if !judge.user.contains("{instruction}") {
            bail!("the prompt judge has no {{instruction}} in `user`: nothing would be asked");
        }
        if instruct.demonstrations.len() < instruct.shown {
            let (held, shown) = (instruct.demonstrations.len(), instruct.shown);
            bail!("the prompt instruct shows {shown} demonstrations and has {held}");
        }
        Ok(())
    }

    /// `prompt_version` of descriptions.
    pub fn describe_version(&self) -> i32 {
        self.describe.version
    }

    /// `prompt_version` of instructions: they depend on both.
    pub fn version(&self) -> i32 {
        self.describe.version * VERSIONS + self.instruct.version
    }

    /// `prompt_version` of captions.
    pub fn caption_version(&self) -> i32 {
        self.caption.version
    }

    /// `prompt_version` of a judge.
    pub fn judge_version(&self) -> i32 {
        self.judge.version
    }

    /// A digest of the words that each version stands for, by file and version: answers are known by
    /// versions alone. Those for captions are among them where there is a captioner, and those of a
    /// judge where there is one: tables without know of no such words.
    pub fn words(&self) -> BTreeMap<String, &str> {
        let [describe, instruct, caption, judge] = &self.digests;
        let describe = (format!("describe version {}", self.describe.version), &**describe);
        let instruct = (format!("instruct version {}", self.instruct.version), &**instruct);
        let caption = (format!("caption version {}", self.caption.version), &**caption);
        let judge = (format!("judge version {}", self.judge.version), &**judge);
        let [captions, judges] = self.used;
        let more = captions.then_some(caption).into_iter().chain(judges.then_some(judge));
        [describe, instruct].into_iter().chain(more).collect()
    }

    /// Whether a text is one of the demonstrations, in the same words: small models give those back.
    pub fn demonstrates(&self, text: &str) -> bool {
        self.demonstrated.contains(&words_of(text))
    }

    /// The id of the request for the description that a pair needs.
    pub fn describe_id(&self, config: &Annotator, request: &Request) -> String {
        let model = config.describe_model.as_ref().unwrap_or(&config.model);
        let [first, second] = ordered(request).map(|side| (side.0, side.1.as_deref()));
        request_id(DESCRIBE, model, self.describe_version(), first, second)
    }

    /// Asks what the contents of a request share and where they differ, the smaller one first.
    pub fn describe(
        &self,
        config: &Annotator,
        id: &str,
        request: &Request,
        how: Variation,
    ) -> Chat {
        let [first, second] = ordered(request);
        let (fewest, more) = WORDS;
        let words = fewest + Dice::of(id, "words").number(0) % more;
        let mut user = String::new();
        if config.captions {
            for (name, (_, caption)) in [("A", first), ("B", second)] {
                let caption = caption.as_deref().unwrap_or("(none)");
                user.push_str(&format!("Caption of {name}: {caption}\n"));
            }
            user.push('\n');
        }
        user.push_str(&self.describe.user.replace("{words}", &words.to_string()));
        let images = match config.images {
            0 => Vec::new(),
            _ => vec![("Image A:", first.0), ("Image B:", second.0)],
        };
        let model = config.describe_model.as_ref().unwrap_or(&config.model);
        let text = json!({ "type": "string", "minLength": 1, "maxLength": 500 });
        let fields = ["common", "a", "b"].map(|name| (name.to_owned(), text.clone()));
        let schema = object(Map::from_iter(fields));
        let fields = fields_of(config, model, id, how, "description", schema);
        Chat { fields, system: self.describe.system.clone(), user, images }
    }

    /// Asks for a caption of an image, which is sent also to who describes by captions alone.
    pub fn caption(&self, config: &Annotator, request: &Request, how: Variation) -> Chat {
        let text = json!({ "type": "string", "minLength": 1, "maxLength": 400 });
        let schema = object(Map::from_iter([("caption".to_owned(), text)]));
        let fields =
            fields_of(config, captioner(config), &request.request_id, how, "caption", schema);
        let Plain { system, user, .. } = self.caption.clone();
        Chat { fields, system, user, images: vec![("Image:", request.query.0)] }
    }

    /// Asks to which of some contents an instruction leads from a query's content. The images come
    /// first, and are the same for all instructions of an answer: servers keep what they have read.
    pub fn judge(
        &self,
        config: &Annotator,
        id: &str,
        (query, shown): (ContentId, &[ContentId]),
        instruction: &str,
        how: Variation,
    ) -> Chat {
        let number = json!({ "type": "integer", "minimum": 0, "maximum": shown.len() });
        let schema = object(Map::from_iter([("picture".to_owned(), number)]));
        let model = config.judge.as_ref().map_or("", |judge| &*judge.model);
        let mut fields = fields_of(config, model, id, how, "choice", schema);
        // It is to choose, not to invent.
        if !how.repair && !how.plain && !config.extra.contains_key("temperature") {
            fields.insert("temperature".into(), json!(0.0));
        }
        let user = self.judge.user.replace("{pictures}", &shown.len().to_string());
        let user = user.replace("{instruction}", instruction);
        let shown = CANDIDATES.iter().zip(shown).map(|(name, content)| (*name, *content));
        let images = [("Reference:", query)].into_iter().chain(shown).collect();
        Chat { fields, system: self.judge.system.clone(), user, images }
    }

    /// Asks for instructions that lead from query to target.
    pub fn instruct(
        &self,
        config: &Annotator,
        request: &Request,
        description: &Description,
        how: Variation,
    ) -> Chat {
        let id = &request.request_id;
        let shown = self.demonstrations(id).map(|demonstration| {
            let texts = json!({ "instructions": demonstration.instructions });
            format!("{}\n{texts}\n", demonstration.description)
        });
        let described = description.directed(is_turned(request));
        let user = self.instruct.user.replace("{demonstrations}", &shown.collect::<String>());
        let user = user.replace("{description}", &described);
        let text = json!({ "type": "string", "minLength": 8, "maxLength": 240 });
        let list = json!({ "type": "array", "items": text, "minItems": 3, "maxItems": 6 });
        let schema = object(Map::from_iter([("instructions".to_owned(), list)]));
        let fields = fields_of(config, &config.model, id, how, "instructions", schema);
        Chat { fields, system: self.instruct.system.clone(), user, images: Vec::new() }
    }

    /// Those that the request draws, in the order in which it draws them.
    fn demonstrations(&self, id: &str) -> impl Iterator<Item = &Demonstration> {
        let all = self.instruct.demonstrations.iter().enumerate();
        let mut drawn: Vec<(u64, &Demonstration)> = all
            .map(|(at, one)| (Dice::of(id, &format!("demonstration {at}")).number(0), one))
            .collect();
        drawn.sort_by_key(|(dice, _)| *dice);
        drawn.into_iter().map(|(_, one)| one).take(self.instruct.shown)
    }
}

/// The model that writes captions.
pub fn captioner(config: &Annotator) -> &str {
    config.captioner.as_deref().unwrap_or_else(|| config.describer())
}

/// The words of a text, whatever stands between them and however they are written.
fn words_of(text: &str) -> String {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Content and caption of both, the smaller content first.
pub fn ordered(request: &Request) -> [&(ContentId, Option<std::sync::Arc<str>>); 2] {
    match is_turned(request) {
        false => [&request.query, &request.target],
        true => [&request.target, &request.query],
    }
}

/// Whether the query's content is the greater one.
pub fn is_turned(request: &Request) -> bool {
    request.target.0 < request.query.0
}

fn object(properties: Map<String, Value>) -> Value {
    let required: Vec<String> = properties.keys().cloned().collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn fields_of(
    config: &Annotator,
    model: &str,
    id: &str,
    how: Variation,
    name: &str,
    schema: Value,
) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("model".into(), json!(model));
    let tokens = config.max_tokens * if how.longer { 2 } else { 1 };
    fields.insert(config.max_tokens_field.clone(), json!(tokens));
    let warmer = if how.repair || how.plain { 0.2 } else { 0.0 };
    fields.insert("temperature".into(), json!(config.temperature + warmer));
    if config.seed {
        let tries = u32::from(how.repair) + 2 * u32::from(how.longer) + 4 * u32::from(how.plain);
        // Some endpoints keep 32 bits.
        let seed = Dice::of(id, &format!("seed {tries}")).number(0) >> 33;
        fields.insert("seed".into(), json!(seed));
    }
    let format = match config.response_format {
        _ if how.plain => None,
        ResponseFormat::None => None,
        ResponseFormat::JsonObject => Some(json!({ "type": "json_object" })),
        ResponseFormat::JsonSchema => Some(json!({
            "type": "json_schema",
            "json_schema": { "name": name, "strict": true, "schema": schema },
        })),
    };
    fields.extend(format.map(|format| ("response_format".to_owned(), format)));
    for (name, value) in &config.extra {
        fields.insert(name.clone(), serde_json::to_value(value).unwrap_or(Value::Null));
    }
    fields
}
