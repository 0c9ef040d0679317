//! What a peer may not do, each by name.

use crate::id::{Epoch, PipeId};
use crate::wire::DecodeError;

/// The peer broke the protocol. The session ends; others are not affected.
///
/// Each variant names what was claimed and what is true, so that a log line is
/// enough to find the fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// A frame or stream header could not be decoded.
    #[error("sent a malformed frame: {0}")]
    Malformed(#[from] DecodeError),
    /// A frame that has no place at this point of the exchange.
    #[error("sent a {frame} frame where it has no place")]
    UnexpectedFrame {
        /// The name of the frame.
        frame: &'static str,
    },
    /// An offset of bytes that were never written (a sequence number from the
    /// future).
    #[error("asked pipe {pipe} for offset {asked}, but only {written} bytes were ever written")]
    OffsetFromTheFuture {
        /// The pipe.
        pipe: PipeId,
        /// The offset that the peer claims to have read up to.
        asked: u64,
        /// How many bytes were written.
        written: u64,
    },
    /// An offset below what the peer had acknowledged (and we have let go).
    #[error("asked pipe {pipe} for offset {asked}, but acknowledged {acked} bytes before")]
    OffsetTrimmed {
        /// The pipe.
        pipe: PipeId,
        /// The offset that the peer wants replayed.
        asked: u64,
        /// What it had acknowledged before.
        acked: u64,
    },
    /// A stream whose bytes begin beyond what we have read: a gap.
    #[error("continued pipe {pipe} at offset {start}, beyond the {read} bytes read so far")]
    Gap {
        /// The pipe.
        pipe: PipeId,
        /// Where the stream begins.
        start: u64,
        /// How far the pipe was read.
        read: u64,
    },
    /// A direction ended before bytes that had been received.
    #[error("ended pipe {pipe} at offset {end}, below the {read} bytes read so far")]
    EndMovedBack {
        /// The pipe.
        pipe: PipeId,
        /// The claimed end.
        end: u64,
        /// How far the pipe was read.
        read: u64,
    },
    /// A pipe id that the peer cannot have learnt or may not open.
    #[error("named pipe {pipe}, which was never opened")]
    NoSuchPipe {
        /// The pipe.
        pipe: PipeId,
    },
    /// A second stream for one pipe on one connection.
    #[error("opened a second stream for pipe {pipe} on one connection")]
    DuplicateStream {
        /// The pipe.
        pipe: PipeId,
    },
    /// The peer says that it is done with a pipe whose end it cannot have seen.
    #[error("forgot pipe {pipe} before its end")]
    PipeForgotten {
        /// The pipe.
        pipe: PipeId,
    },
    /// More live pipes than were allowed.
    #[error("opened more pipes than the {allowed} allowed")]
    TooManyPipes {
        /// What was allowed.
        allowed: u64,
    },
    /// A stream header or resume with another epoch than its connection's.
    #[error("used epoch {got} on the connection of epoch {expected}")]
    WrongEpoch {
        /// The epoch in the frame.
        got: Epoch,
        /// The epoch of the connection.
        expected: Epoch,
    },
    /// The server did not prove that it holds the session.
    #[error("did not prove that it holds this session")]
    BadServerProof,
}
