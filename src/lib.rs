//! Everpair: images in Kafka become an always consistent training set for multimodal retrieval.

pub mod delta;
pub mod push;
pub mod source;
