//! The core as a whole: two sessions, their pipes, and bad connections between
//! them. What one type does by itself is tested beside it.
//!
//! - [`peer`]: one side of a session, driven the way the shell drives it.
//! - [`pair`]: two of them, and connections that lose, hold and delay.
//! - [`exchange`]: how such a pair resumes, step by step.
//! - [`laws`]: what must hold after every step, whatever the schedule.
//! - [`schedule`]: steps, in whatever order, on such a pair.
//! - [`model`]: arbitrary schedules.
//! - [`situations`]: schedules in which the exact order is the point.
//! - [`claims`]: the same, about who holds the session.
//! - [`hostile`]: a peer that does not keep to the protocol.
//! - [`arbitrary`]: one that sends anything at all.
//! - [`fuzz`]: the last and `model`, with the choices made by a fuzzer.
//!
//! The fuzzer has neither `cfg(test)` nor proptest: what it uses of this does
//! without, and what it does not use is not dead for that.

#![cfg_attr(not(test), allow(dead_code))]

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod claims;
mod exchange;
pub(crate) mod fuzz;
#[cfg(test)]
mod hostile;
mod laws;
#[cfg(test)]
mod model;
mod pair;
mod peer;
mod schedule;
#[cfg(test)]
mod situations;
