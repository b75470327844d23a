//! `[filter]`: rules on instructions.

use serde::{Deserialize, Serialize};

use super::{Invalid, Label, Verdict, within};

/// `[filter]`. The thresholds of the rules; what an instruction is measured to be stands in the
/// `detail` of its row of `rejects`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Fewest words of an instruction.
    pub words_min: usize,
    /// Most words of an instruction.
    pub words_max: usize,
    /// Least share of letters and digits among its characters, blanks aside: 0.0 to 1.0.
    pub letters_min: f64,
    /// Languages that an instruction may be in, of [`LANGUAGES`]; empty is any.
    pub languages: Vec<String>,
    /// Fewest instructions that must pass for a pair to become a triplet.
    pub instructions_min: usize,
    /// Two instructions whose words overlap more (Jaccard) are one.
    pub overlap_max: f64,
    /// Most of the target's caption, as a share of its words, that an instruction may say; 1.0 is
    /// all of it.
    pub leak_max: f64,
    /// Labels of audits that an instruction may have.
    #[serde(skip_serializing)]
    pub labels: Vec<Label>,
    /// What a judge may have said of it.
    #[serde(skip_serializing)]
    pub verdicts: Vec<Verdict>,
}

/// Languages that can be told apart, by their two letters in ISO 639-1, in their order.
pub const LANGUAGES: [&str; 16] = [
    "ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "sv", "tr", "vi", "zh",
];

impl Default for Filter {
    fn default() -> Self {
        Filter {
            words_min: 3,
            words_max: 60,
            letters_min: 0.6,
            languages: Vec::new(),
            instructions_min: 3,
            overlap_max: 0.9,
            leak_max: 0.8,
            labels: Label::ALL.to_vec(),
            verdicts: Verdict::ALL.to_vec(),
        }
    }
}

impl Filter {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let range = |name: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Invalid(format!("[filter] {name} = {value}: must be {low} to {high}")))
        };
        within("[filter] overlap_max", self.overlap_max, 0.0, 1.0)?;
        within("[filter] letters_min", self.letters_min, 0.0, 1.0)?;
        within("[filter] leak_max", self.leak_max, 0.0, 1.0)?;
        range("words_max", self.words_max, 1, 10_000)?;
        range("words_min", self.words_min, 0, self.words_max)?;
        range("instructions_min", self.instructions_min, 1, 20)?;
        if self.labels.is_empty() {
            let all = Label::ALL.map(Label::as_str).join(", ");
            return Err(Invalid(format!(
                "[filter] labels = []: nothing is published without one of {all}"
            )));
        }
        if self.verdicts.is_empty() {
            let all = Verdict::ALL.map(Verdict::as_str).join(", ");
            return Err(Invalid(format!(
                "[filter] verdicts = []: nothing is published without one of {all}"
            )));
        }
        let known = |name: &&String| !LANGUAGES.contains(&name.as_str());
        match self.languages.iter().find(known) {
            Some(name) => Err(Invalid(format!(
                "[filter] languages names {name:?}: languages that can be told apart are {}; leave \
                 the key out to let every language pass",
                LANGUAGES.join(", ")
            ))),
            None => Ok(()),
        }
    }
}
