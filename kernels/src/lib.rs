//! WHAT COMPUTES: slices in, slices out. No I/O, no clock, no threads, nothing of ours underneath.
//!
//! In the order in which an image meets them:
//!
//! 1. [`decode`]: one message's bytes to upright RGB pixels, within limits.
//! 2. [`resize`]: smaller pictures, and JPEG files of them.
//! 3. [`measure`] and [`phash`]: what can be said of a picture without a model.
//! 4. [`encoders`]: pictures and captions to vectors, built in and without weights; and with weights:
//!    [`checkpoint`] reads a public one ([`safetensors`]), [`prepare`] does to a picture what its
//!    authors did, [`tokenize`] to a text, [`transformer`] runs it, on [`lanes`] that agree to the
//!    bit on every processor.
//! 5. [`vector`]: vectors of 16-bit integers, their score, the band; where exactness comes from.
//! 6. [`similarity`]: the same score for many vectors and many rows at once, above a threshold.
//! 7. [`codes`]: vectors in 8 bits with a certificate, which say what cannot reach a threshold.
//! 8. [`search`]: both together: the codes choose pairs, the score decides.
//! 9. [`cuda`]: the same on an NVIDIA device, if there is one. The one part that does I/O.
//!
//! And [`heap`], because what is unsafe is here.
#![deny(missing_docs)]

pub mod checkpoint;
pub mod codes;
pub mod cuda;
pub mod decode;
pub mod encoders;
pub mod gemm;
pub mod heap;
pub mod lanes;
pub mod measure;
pub mod phash;
pub mod prepare;
pub mod resize;
pub mod safetensors;
pub mod search;
pub mod similarity;
pub mod tokenize;
pub mod transformer;
pub mod vector;
