//! WHAT COMPUTES: slices in, slices out; no I/O, no clock, no threads, nothing of ours underneath.
#![deny(missing_docs)]

pub mod similarity;
pub mod vector;
