//! Everpair: images in Kafka become an always consistent training set for multimodal retrieval.
//!
//! In reading order: [`dataflow`] is the whole graph, [`service`] runs it, [`source`] is in front of
//! it, [`delta`] behind, [`annotator`] beside; the rest are commands.

pub mod annotator;
pub mod benchmark;
pub mod calibrate;
pub mod captions;
pub mod changes;
pub mod cli;
pub mod console;
pub mod dataflow;
pub mod dataset;
pub mod delta;
pub mod demo;
pub mod embed;
pub mod encoders;
pub mod explain;
pub mod export;
pub mod fetch;
pub mod gallery;
pub mod gc;
pub mod log;
pub mod metrics;
pub mod plan;
pub mod print;
pub mod push;
pub mod replay;
pub mod requests;
pub mod scenes;
pub mod secrets;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod state;
pub mod status;
pub mod validate;
pub mod verify;
pub mod views;
