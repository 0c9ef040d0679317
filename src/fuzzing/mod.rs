//! What the fuzzer calls: one function for each target of `fuzz/`. Each takes
//! any bytes, and panics where something does not hold that must.
//!
//! Compiled for `cargo fuzz` (which sets `cfg(fuzzing)`) and for tests, which
//! replay the corpus through the same functions: nothing private becomes public
//! in any other build.
//!
//! - [`frame()`]: the decoders, fed at once and in pieces.
//! - [`session`]: one side of a session and a peer that sends anything at all.
//! - [`resume`]: both sides, and a bad network between them.

#[cfg(test)]
mod corpus;
mod frame;
mod input;

pub use frame::frame;
pub(crate) use input::Input;

pub use crate::proto::fuzz::{resume, session};
