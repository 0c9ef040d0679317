//! Peers that are no evermux, or break its protocol: each is told why, and nobody
//! else notices.

mod before_a_session;
mod early;
mod in_a_session;
mod raw;
mod resuming;
mod servers;
mod world;
