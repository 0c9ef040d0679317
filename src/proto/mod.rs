//! The protocol core, without I/O.
//!
//! Two kinds of machine, both plain data:
//!
//! - [`Pipe`]: both directions of one pipe (`SendHalf`, `RecvHalf`). The
//!   shell keeps each under a lock of its own, since the data path goes straight
//!   through it.
//! - [`SessionCore`]: what belongs to the session as a whole: ids given and
//!   seen, epochs, the token. It never looks into a pipe. In a resume the shell
//!   hands it the positions of all pipes as values.
//!
//! The contract:
//!
//! - *Getters* tell; *commands* (`write`, `finish`, `stop`, ...) come from the
//!   application; `on_*` methods come from the peer and can fail with
//!   [`PeerMisbehaved`](crate::PeerMisbehaved), which ends the session; `poll_*`
//!   methods say what is to be sent.
//! - Nothing here reads a clock or a random generator, waits, locks or logs.
//! - No input from a peer panics: the lints below keep it so.

#![cfg_attr(
    not(any(test, fuzzing)),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod backoff;
mod budget;
mod early;
mod ids;
mod pipe;
mod recv;
mod replay;
mod resume;
mod send;
mod session;
#[cfg(any(test, fuzzing))]
mod tests;
mod token;

pub(crate) use backoff::Backoff;
pub(crate) use budget::{Budget, PIPE_SHARE, shared_part};
pub(crate) use early::EarlyClaim;
pub(crate) use pipe::{Outgoing, PeerView, Pipe};
pub(crate) use recv::ReadEnd;
pub(crate) use replay::COALESCE_BELOW;
pub(crate) use resume::PeerTable;
pub(crate) use send::WriteEnd;
pub(crate) use session::{Accepted, Located, SessionCore};
#[cfg(any(test, fuzzing))]
pub(crate) use tests::fuzz;
