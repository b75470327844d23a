//! `[audit]` and `[judge]`: whether an instruction needs its image, and the image its instruction; and
//! whether it leads to its target.

use serde::Deserialize;

use super::Invalid;
use crate::{Channel, limits};

/// `[audit]`; without a `text_encoder` nothing is audited.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The text half of a joint encoder: a checkpoint's folder, or `builtin:words`.
    pub text_encoder: Option<String>,
    /// The channel whose encoder is the image half.
    pub channel: Channel,
    /// Images of the corpus that a target is ranked among, beside what was retrieved for its query.
    pub gallery: usize,
    /// A target at this rank or before it is found.
    pub found_within: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            text_encoder: None,
            channel: Channel::Semantic,
            gallery: limits::AUDIT_GALLERY,
            found_within: limits::AUDIT_FOUND_WITHIN,
        }
    }
}

impl Audit {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.channel == Channel::Caption {
            return Err(Invalid(
                "[audit] channel = \"caption\": must be \"semantic\" or \"pattern\", whose vectors \
                 are of images"
                    .into(),
            ));
        }
        let range = |name: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Invalid(format!("[audit] {name} = {value}: must be {low} to {high}")))
        };
        range("gallery", self.gallery, 1, limits::AUDIT_GALLERY_MAX)?;
        range("found_within", self.found_within as usize, 1, limits::AUDIT_GALLERY_MAX)
    }
}

/// What an audit says of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Neither text nor image alone finds the target, both together do.
    CompositionRequired,
    /// The text alone finds the target.
    ShortcutText,
    /// The image alone finds the target, the text does not.
    ShortcutImage,
    /// Not even both find the target, or nothing was audited.
    Unresolved,
}

impl Label {
    /// All of them.
    pub const ALL: [Label; 4] =
        [Label::CompositionRequired, Label::ShortcutText, Label::ShortcutImage, Label::Unresolved];

    /// The name in `audits.label`.
    pub fn as_str(self) -> &'static str {
        match self {
            Label::CompositionRequired => "composition_required",
            Label::ShortcutText => "shortcut_text",
            Label::ShortcutImage => "shortcut_image",
            Label::Unresolved => "unresolved",
        }
    }
}

/// `[judge]`: another model is shown the target among other images, without being told which it is, and
/// asked to which of them the instruction leads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// The model's name, as the endpoint has it: another one than that which writes.
    pub model: String,
    /// Images that the target is shown among: 1 to 9.
    #[serde(default = "negatives")]
    pub negatives: usize,
}

fn negatives() -> usize {
    limits::JUDGE_NEGATIVES
}

impl Judge {
    pub(super) fn check(&self, writers: [&str; 2]) -> Result<(), Invalid> {
        let Judge { model, negatives } = self;
        if model.is_empty() || writers.contains(&model.as_str()) {
            return Err(Invalid(format!(
                "[judge] model = {model:?}: must be another model than those that describe and write \
                 ({}), which know what they have written",
                writers.join(", ")
            )));
        }
        let most = limits::JUDGE_NEGATIVES_MAX;
        match (1..=most).contains(negatives) {
            true => Ok(()),
            false => Err(Invalid(format!("[judge] negatives = {negatives}: must be 1 to {most}"))),
        }
    }
}

/// What a blind judge says of an instruction: it looks twice, the images in another order each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It chose the target both times.
    Target,
    /// It never did.
    Other,
    /// It did once.
    Split,
    /// It was not asked, or gave no answer.
    None,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 4] = [Verdict::Target, Verdict::Other, Verdict::Split, Verdict::None];

    /// The name in `[filter] verdicts`, and in `audits.verdict` but for the last, which is null there.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Target => "target",
            Verdict::Other => "other",
            Verdict::Split => "split",
            Verdict::None => "none",
        }
    }
}
