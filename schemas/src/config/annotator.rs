//! `[annotator]`: who writes instructions, and what that may cost.

use std::{fmt, time::Duration};

use serde::Deserialize;

use super::{Invalid, Judge, duration, some_duration};
use crate::limits;

/// `[annotator]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Annotator {
    /// Who writes instructions.
    pub kind: AnnotatorKind,
    /// How requests travel.
    pub transport: Transport,
    /// From when on pairs are asked for.
    pub start: AnnotatorStart,
    /// How long a pair must have held before it is asked for: 10 minutes for `openai` and nothing
    /// for `template` unless it is said.
    #[serde(deserialize_with = "some_duration")]
    pub settle: Option<Duration>,
    /// `openai`: where the API begins, such as `http://localhost:8000/v1`.
    pub url: String,
    /// `openai`: the model's name, as the endpoint has it.
    pub model: String,
    /// `openai`: the model that describes, where it is another one.
    pub describe_model: Option<String>,
    /// `openai`: the environment variable that holds the key; none is sent where it is not set.
    pub key_variable: String,
    /// `openai`: where the same model is asked while that endpoint is down or refuses, in this order.
    pub fallback: Vec<Fallback>,
    /// `openai`: most calls begun in a minute, where the endpoint has such a limit.
    pub requests_per_minute: Option<u64>,
    /// `openai`: most tokens read and written in a minute.
    pub tokens_per_minute: Option<u64>,
    /// `openai`: USD for a million tokens read. 0 for a model of one's own.
    pub input_price: Option<f64>,
    /// `openai`: USD for a million tokens written.
    pub output_price: Option<f64>,
    /// `openai`: most USD that this dataset may ever cost.
    pub budget: Option<f64>,
    /// `openai`: most USD in one day, UTC.
    pub daily_budget: Option<f64>,
    /// `openai`: most calls at once; how many there are follows what the endpoint bears.
    pub concurrency: usize,
    /// `openai`: longest time for one call, to the last byte.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// `openai`: tries of one call, where another one may help.
    pub attempts: u32,
    /// `openai`: how the endpoint is told the answer's form.
    pub response_format: ResponseFormat,
    /// `openai`: images in a request that describes: 2, or 0 for a model that sees none.
    pub images: usize,
    /// `openai`: whether captions are part of the question.
    pub captions: bool,
    /// `openai`: most tokens that one answer may have; a truncated one is asked for once more with
    /// twice as many.
    pub max_tokens: u64,
    /// `openai`: the field by which the endpoint is told that.
    pub max_tokens_field: String,
    /// `openai`: most tokens that an image is read as: what a call is thought to cost at most.
    pub image_tokens: u64,
    /// `openai`: the sampling temperature.
    pub temperature: f64,
    /// `openai`: whether a seed is sent.
    pub seed: bool,
    /// `openai`: further fields of every request, passed through as they are.
    pub extra: toml::Table,
    /// `openai`: prompts in place of those that are built in.
    pub prompts: PromptFiles,
    /// `openai`: the model that writes captions, where there is a `[captioner]`.
    #[serde(skip)]
    pub captioner: Option<String>,
    /// `openai`: who judges instructions, where there is a `[judge]`.
    #[serde(skip)]
    pub judge: Option<Judge>,
}

/// `[captioner]`: images without a caption get one from a model, by the client of `[annotator]` and out
/// of its budget.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Captioner {
    /// The model's name, as the endpoint has it: that which describes unless it is said.
    pub model: Option<String>,
}

/// `[[annotator.fallback]]`: another endpoint that has the same models under the same names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Where its API begins.
    pub url: String,
    /// The environment variable that holds its key; none is sent where it is not said or not set.
    pub key_variable: Option<String>,
}

/// `[annotator.prompts]`: files, relative to the config's folder.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptFiles {
    /// How two images are described.
    pub describe: Option<String>,
    /// How instructions are made of a description.
    pub instruct: Option<String>,
    /// How one image gets a caption.
    pub caption: Option<String>,
    /// How an instruction is judged.
    pub judge: Option<String>,
}

/// `[annotator] kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnnotatorKind {
    /// Embedded, no network: for trying out, not for training data.
    #[default]
    Template,
    /// A model behind any endpoint that speaks OpenAI's chat API.
    OpenAi,
}

/// `[annotator] transport`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The service calls the endpoint.
    #[default]
    Online,
    /// `openai`: in files, by `everpair requests`; the service calls nobody.
    Batch,
}

/// `[annotator] start`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnotatorStart {
    /// `openai` waits until what the source had at the start is committed: pairs move until then.
    #[default]
    CaughtUp,
    /// From the first epoch on.
    AtOnce,
}

/// `[annotator] response_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseFormat {
    /// By a JSON schema, which a server that can do it keeps to.
    #[default]
    JsonSchema,
    /// Some JSON.
    JsonObject,
    /// By the prompt alone.
    None,
}

impl Default for Annotator {
    fn default() -> Self {
        Annotator {
            kind: AnnotatorKind::default(),
            transport: Transport::default(),
            start: AnnotatorStart::default(),
            settle: None,
            url: String::new(),
            model: String::new(),
            describe_model: None,
            key_variable: "EVERPAIR_API_KEY".into(),
            fallback: Vec::new(),
            requests_per_minute: None,
            tokens_per_minute: None,
            input_price: None,
            output_price: None,
            budget: None,
            daily_budget: None,
            concurrency: limits::ANNOTATOR_CONCURRENCY,
            timeout: limits::ANNOTATOR_TIME,
            attempts: limits::ANNOTATOR_ATTEMPTS,
            response_format: ResponseFormat::default(),
            images: 2,
            captions: false,
            max_tokens: limits::ANNOTATOR_TOKENS,
            max_tokens_field: "max_tokens".into(),
            image_tokens: limits::ANNOTATOR_IMAGE_TOKENS,
            temperature: 0.7,
            seed: true,
            extra: toml::Table::new(),
            prompts: PromptFiles::default(),
            captioner: None,
            judge: None,
        }
    }
}

// Without what might be a secret among the fields that are passed through.
impl fmt::Debug for Annotator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = (self.concurrency, self.timeout, self.attempts, self.images, self.captions);
        let tokens = (self.max_tokens, &self.max_tokens_field, self.image_tokens);
        f.debug_struct("Annotator")
            .field("kind", &(self.kind, self.transport))
            .field("start", &self.start)
            .field("settle", &self.settle)
            .field("url", &self.url)
            .field("model", &(&self.model, &self.describe_model, &self.captioner))
            .field("judge", &self.judge)
            .field("key_variable", &self.key_variable)
            .field("fallback", &self.fallback)
            .field("per_minute", &(self.requests_per_minute, self.tokens_per_minute))
            .field("prices", &(self.input_price, self.output_price))
            .field("budgets", &(self.budget, self.daily_budget))
            .field("numbers", &numbers)
            .field("tokens", &tokens)
            .field("sampling", &(self.response_format, self.temperature, self.seed))
            .field("extra", &self.extra.keys().collect::<Vec<_>>())
            .field("prompts", &self.prompts)
            .finish()
    }
}

impl Annotator {
    /// How long a pair must have held before it is asked for.
    pub fn settles(&self) -> Duration {
        self.settle.unwrap_or(match self.kind {
            AnnotatorKind::Template => Duration::ZERO,
            AnnotatorKind::OpenAi => limits::ANNOTATOR_SETTLE,
        })
    }

    /// The model that describes.
    pub fn describer(&self) -> &str {
        self.describe_model.as_deref().unwrap_or(&self.model)
    }

    /// Whether the service itself calls an endpoint.
    pub fn calls(&self) -> bool {
        self.kind == AnnotatorKind::OpenAi && self.transport == Transport::Online
    }

    /// Without a budget nothing is asked: whoever forgot it must not find out by the bill.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.kind == AnnotatorKind::Template {
            return Ok(());
        }
        let fail = |text: String| Err(Invalid(text));
        let needs = |name: &str, what: &str| {
            Invalid(format!("[annotator] kind = \"openai\" needs {name}: {what}"))
        };
        let is_url = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        let called = self.transport == Transport::Online || !self.url.is_empty();
        let begins = "where its API begins, such as \"http://localhost:8000/v1\"";
        if called && !is_url(&self.url) {
            return Err(needs("url", begins));
        }
        if let Some(Fallback { url, .. }) = self.fallback.iter().find(|other| !is_url(&other.url)) {
            return fail(format!("[[annotator.fallback]] url = {url:?}: must be {begins}"));
        }
        for (name, most) in [
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
        ] {
            if most.is_some_and(|most| !(1..=1_000_000_000).contains(&most)) {
                return fail(format!("[annotator] {name}: must be 1 to 1000000000"));
            }
        }
        if self.model.is_empty() {
            return Err(needs("model", "its name, as the endpoint has it"));
        }
        let money = |name: &str, value: Option<f64>, what: &str| match value {
            None => Err(needs(name, what)),
            Some(usd) if usd.is_finite() && (0.0..=limits::ANNOTATOR_USD_MAX).contains(&usd) => {
                Ok(())
            }
            Some(usd) => Err(Invalid(format!(
                "[annotator] {name} = {usd}: must be 0 to {}",
                limits::ANNOTATOR_USD_MAX
            ))),
        };
        money("budget", self.budget, "most USD that this dataset may ever cost")?;
        let of_tokens = "USD for a million tokens; 0.0 for a model of your own";
        money("input_price", self.input_price, of_tokens)?;
        money("output_price", self.output_price, of_tokens)?;
        money("daily_budget", self.daily_budget.or(Some(0.0)), "most USD in one day")?;
        let range = |name: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Invalid(format!("[annotator] {name} = {value}: must be {low} to {high}")))
        };
        range("concurrency", self.concurrency as u64, 1, limits::ANNOTATOR_CONCURRENCY_MAX as u64)?;
        range("attempts", u64::from(self.attempts), 1, 20)?;
        range("max_tokens", self.max_tokens, 16, 100_000)?;
        range("image_tokens", self.image_tokens, 0, 1_000_000)?;
        if !matches!(self.images, 0 | 2) {
            return fail(format!(
                "[annotator] images = {}: must be 2, or 0 for a model that sees none",
                self.images
            ));
        }
        if self.images == 0 && !self.captions {
            return fail(
                "[annotator] images = 0 needs captions = true: something must tell the two apart"
                    .into(),
            );
        }
        if self.timeout.is_zero() || self.timeout > limits::ANNOTATOR_TIME_MAX {
            let max = limits::ANNOTATOR_TIME_MAX;
            return fail(format!("[annotator] timeout: must be above 0 and at most {max:?}"));
        }
        if !(0.0..=2.0).contains(&self.temperature) {
            return fail(format!("[annotator] temperature = {}: must be 0 to 2", self.temperature));
        }
        Ok(())
    }
}
