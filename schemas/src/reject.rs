//! Why something was turned away: a closed set, so that people can count and filter by it.

use serde::{Deserialize, Serialize};

/// The box that turned a message, or an answer, away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The record's key, headers or envelope.
    Ingest,
    /// Bytes to pixels.
    Decode,
    /// Rules on size and quality.
    Screen,
    /// What is blocked.
    Register,
    /// A request to the annotator that ended without an answer.
    Annotate,
    /// Rules on text.
    Filter,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => ($stage:ident, $name:literal),)+) => {
        /// Every reason, with the stage that gives it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// The closed set.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];
            /// The name in `rejects.reason`.
            pub fn as_str(self) -> &'static str { match self { $(Reason::$variant => $name,)+ } }
            /// The stage that gives this reason.
            pub fn stage(self) -> Stage { match self { $(Reason::$variant => Stage::$stage,)+ } }
        }
    };
}

reasons! {
    /// The record has no key, and the config takes ids from keys.
    MissingId => (Ingest, "missing_id"),
    /// The id is not UTF-8.
    IdNotUtf8 => (Ingest, "id_not_utf8"),
    /// The id is longer than 512 bytes.
    IdTooLong => (Ingest, "id_too_long"),
    /// A value of zero bytes; a take-down is a null value.
    EmptyValue => (Ingest, "empty_value"),
    /// The value begins with `{` and is no JSON object of the envelope's form.
    BadEnvelope => (Ingest, "bad_envelope"),
    /// An envelope with neither `image` nor `uri`.
    NoImage => (Ingest, "no_image"),
    /// `image` is not base64.
    BadBase64 => (Ingest, "bad_base64"),
    /// A header or a text field is not UTF-8, holds a NUL, or is over its limit.
    BadText => (Ingest, "bad_text"),
    /// `vectors` do not fit the channel: its encoder is not `given`, a dimension, a number.
    BadVectors => (Ingest, "bad_vectors"),
    /// The scheme or host of `uri` is not allowed by the config.
    UriNotAllowed => (Ingest, "uri_not_allowed"),
    /// The bytes behind `uri` could not be had.
    FetchFailed => (Ingest, "fetch_failed"),
    /// Neither JPEG, PNG, WebP nor GIF, by the first bytes.
    UnknownFormat => (Decode, "unknown_format"),
    /// More encoded bytes than the limit.
    TooManyBytes => (Decode, "too_many_bytes"),
    /// More pixels than the limit, by the header, before anything is decoded.
    TooManyPixels => (Decode, "too_many_pixels"),
    /// A side longer than the limit, by the header.
    SideTooLong => (Decode, "side_too_long"),
    /// A width or height of zero.
    ZeroSize => (Decode, "zero_size"),
    /// Truncated or broken.
    Corrupt => (Decode, "corrupt"),
    /// The short side is under the limit.
    SideTooShort => (Screen, "side_too_short"),
    /// Long side over short side is above the limit.
    TooElongated => (Screen, "too_elongated"),
    /// The variance of the Laplacian is under the limit.
    Blurry => (Screen, "blurry"),
    /// The entropy of the grey histogram is under the limit.
    LowEntropy => (Screen, "low_entropy"),
    /// The bright end of the image is under the limit.
    TooDark => (Screen, "too_dark"),
    /// The dark end of the image is above the limit.
    TooBright => (Screen, "too_bright"),
    /// The source's owner opted out.
    OptedOut => (Screen, "opted_out"),
    /// Its id, content or source is blocked.
    Blocked => (Register, "blocked"),
    /// It is an image of an evaluation set that is blocked, or a copy of one.
    Benchmark => (Register, "benchmark"),
    /// The annotator gave no usable answer within its retries.
    NoAnswer => (Annotate, "no_answer"),
    /// Fewer usable instructions than required.
    TooFewInstructions => (Filter, "too_few_instructions"),
    /// An instruction is too short.
    TooShort => (Filter, "too_short"),
    /// An instruction is too long.
    TooLong => (Filter, "too_long"),
    /// An instruction repeats itself, or another one.
    Repetitive => (Filter, "repetitive"),
    /// An instruction speaks of "the first image" or of being an assistant.
    MetaPhrase => (Filter, "meta_phrase"),
    /// An instruction's audit has a label that the config does not publish.
    Audit => (Filter, "audit"),
    /// A blind judge has said of an instruction what the config does not publish.
    Judge => (Filter, "judge"),
    /// An instruction is made of other characters than letters and digits.
    FewLetters => (Filter, "few_letters"),
    /// An instruction is in a language that the config does not list.
    OtherLanguage => (Filter, "other_language"),
    /// An instruction says what the target's caption says. Captions change, so that this is no row
    /// of `rejects`: it holds while the caption does.
    TargetLeak => (Filter, "target_leak"),
}

impl Stage {
    /// The name in `rejects.stage`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Ingest => "ingest",
            Stage::Decode => "decode",
            Stage::Screen => "screen",
            Stage::Register => "register",
            Stage::Annotate => "annotate",
            Stage::Filter => "filter",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lower_case() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(
            names.iter().all(|n| n
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()))
        );
    }
}
