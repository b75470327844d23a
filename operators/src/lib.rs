//! What happens: one file per box, each a function from streams to streams.
//!
//! No I/O and no clock here. A box that keeps state acts on closed epochs only, so that its output
//! is a function of the epoch's messages and not of the order in which they came.

pub mod flow;

pub mod benchmarks;
pub mod decode;
pub mod screen;

pub mod register;

pub mod embed;
pub mod offload;

pub mod neighbors;

pub mod pairs;

pub mod annotate;

pub mod captions;

pub mod admit;

pub mod filter;

pub mod triplets;

pub mod publish;

pub mod epochs;
mod held;
pub mod naive;
mod quick;

pub use admit::admit;
pub use annotate::annotate;
pub use benchmarks::benchmarks;
pub use captions::captions;
pub use decode::decode;
pub use embed::embed;
pub use filter::filter;
pub use neighbors::neighbors;
pub use pairs::pairs;
pub use publish::publish;
pub use register::register;
pub use screen::screen;
pub use triplets::triplets;
