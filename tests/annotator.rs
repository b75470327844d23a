//! A model's client against servers that misbehave, and the whole program with one.

mod audits;
mod batches;
mod bounds;
mod captioner;
mod captions;
mod client;
mod faults;
mod judge;
mod left_out;
mod pipeline;
mod put_off;
mod reask;
mod scarce;
mod server;
