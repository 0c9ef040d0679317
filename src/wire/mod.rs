//! The protocol on the wire: frames of the control stream, headers of pipe
//! streams. No I/O, no clock, no panic on any input.
//!
//! The normative text is [`manual::protocol`](crate::manual::protocol); rule
//! numbers such as `P-7` in comments refer to it.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod codec;
mod early;
mod frame;
mod header;
mod table;

pub use codec::DecodeError;
pub(crate) use codec::MAX_VARINT;
pub(crate) use early::{Early, EarlyAnswer, NONCE_LEN};
#[cfg(any(test, fuzzing))]
pub(crate) use frame::FRAME_MAX;
pub(crate) use frame::{
    ACK_ENTRIES_MAX, Ack, Close, Decoder, Frame, Hello, Parameters, Refused, Reset, Resume,
    Resumed, SECRET_LEN, Stop, Welcome,
};
pub use header::LABEL_MAX;
pub(crate) use header::{Header, HeaderKind};
pub(crate) use table::{
    GAP_ENTRIES_MAX, Gaps, POSITION_ENTRIES_MAX, Position, Positions, RecvReport, SendReport,
    TableEnd, TableHead,
};

/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The ALPN protocol name (RFC 7301). It carries the version: peers of another
/// version fail in the TLS handshake, with a clear error on both sides.
pub const ALPN: &[u8] = b"evermux/1";
