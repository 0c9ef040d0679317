//! Locks and counters that threads meet at: std's, or under `--cfg shuttle` those
//! of the model checker, which can switch threads at each of them (see
//! `src/interleavings`).
//!
//! `Arc` and wakers are std's in both: the model checker looks at neither.

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
