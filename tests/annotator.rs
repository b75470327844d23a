//! A model's client against servers that misbehave, and the whole program with one.

mod audits;
mod faults;
mod pipeline;
mod server;
