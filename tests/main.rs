//! Tests through public faces, in one binary.

mod delta_store;
mod faulty;
mod publish_model;
mod push;
mod source;
mod source_kafka;
