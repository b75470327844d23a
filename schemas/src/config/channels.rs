//! `[channels]`: what likeness means, and by which encoder.

use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::{Channel, limits};

/// `[channels]`; a channel that is not configured uses its built-in encoder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Channels {
    /// What an image shows.
    pub semantic: ChannelConfig,
    /// How an image looks.
    pub pattern: ChannelConfig,
    /// What its caption says.
    pub caption: ChannelConfig,
}

impl Default for Channels {
    fn default() -> Self {
        let builtin = |name: &str| ChannelConfig { encoder: name.into(), ..Default::default() };
        Channels {
            semantic: builtin("builtin:layout"),
            pattern: builtin("builtin:edges"),
            caption: builtin("builtin:words"),
        }
    }
}

impl Channels {
    /// The channel's config.
    pub fn get(&self, channel: Channel) -> &ChannelConfig {
        match channel {
            Channel::Semantic => &self.semantic,
            Channel::Pattern => &self.pattern,
            Channel::Caption => &self.caption,
        }
    }
}

/// `[channels.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelConfig {
    /// `builtin:layout`, `builtin:edges`, `builtin:words`, `given` (vectors in the message), or a
    /// checkpoint's folder.
    pub encoder: String,
    /// Bands of scores; the built-in encoders have their own, every other needs one.
    #[serde(deserialize_with = "bands")]
    pub band: Option<Vec<(f64, f64)>>,
    /// Neighbours per image and band.
    pub neighbors: usize,
    /// Components of the vectors in messages; needed with `given`, and only there.
    pub dim: Option<usize>,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        ChannelConfig {
            encoder: String::new(),
            band: None,
            neighbors: limits::NEIGHBORS,
            dim: None,
        }
    }
}

impl ChannelConfig {
    /// The folder of the encoder's checkpoint, if it is one.
    pub fn checkpoint(&self) -> Option<&Path> {
        let named = self.encoder == "given" || self.encoder.starts_with("builtin:");
        (!named && !self.encoder.is_empty()).then_some(Path::new(&self.encoder))
    }
}

fn bands<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<(f64, f64)>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One((f64, f64)),
        Many(Vec<(f64, f64)>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(band) => Some(vec![band]),
        OneOrMany::Many(bands) => Some(bands),
    })
}
