//! Tests through public faces, in one binary.

mod bad_input;
mod calibrate;
mod changes;
mod console;
mod delta_store;
mod deploy;
mod disturbed;
mod explain;
mod export;
mod faulty;
mod fetch;
mod fuzz_corpus;
mod gc;
mod graph;
mod logs;
mod metrics;
mod pipes;
mod publish_model;
mod push;
mod readme;
mod service;
mod source;
mod source_kafka;
mod tidy;
mod upkeep;
mod validate;
