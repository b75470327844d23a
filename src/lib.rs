//! Everpair: images in Kafka become an always consistent training set for multimodal retrieval.

pub mod delta;
pub mod gallery;
pub mod push;
pub mod scenes;
pub mod source;
