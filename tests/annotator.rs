//! A model's client against servers that misbehave, and the whole program with one.

mod audits;
mod client;
mod faults;
mod left_out;
mod pipeline;
mod put_off;
mod scarce;
mod server;
