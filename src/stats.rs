//! Counters, as plain structs.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::id::{Epoch, PipeId};

/// What a pipe has done so far. Offsets and counts are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipeStats {
    /// Written by this side's application.
    pub written: u64,
    /// Of those, handed to the attached connection.
    pub sent: u64,
    /// Of those, read by the application on the other side.
    pub acked: u64,
    /// Kept for replay right now.
    pub kept: u64,
    /// Sent again after a resume.
    pub replayed: u64,
    /// Read by this side's application.
    pub read: u64,
}

/// A live pipe, as [`Session::pipes`](crate::Session::pipes) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipeInfo {
    /// Its name within the session.
    pub id: PipeId,
    /// What the opener called it.
    pub label: Bytes,
    /// Offsets and counts of both directions.
    pub stats: PipeStats,
}

/// What a session has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// The epoch of the current or last connection.
    pub epoch: Epoch,
    /// How many times the session was resumed.
    pub resumes: u64,
    /// Live pipes, opened by either side.
    pub pipes: u64,
    /// Bytes written by this side's application, in all pipes.
    pub bytes_written: u64,
    /// Bytes read by this side's application, in all pipes.
    pub bytes_read: u64,
    /// Bytes sent again after resumes.
    pub bytes_replayed: u64,
    /// Bytes kept for replay right now.
    pub bytes_kept: u64,
    /// Time without a connection that works, in all, the current outage included.
    /// An outage begins with the last sign of life (client) or when the connection
    /// is lost (server).
    pub downtime: Duration,
    /// When the peer has acknowledged something for the last time, on whatever
    /// connection: then both ways worked. Known to within 25 ms while bytes are read,
    /// and to the last probe otherwise. Time asleep is not part of an `Instant`, on Linux
    /// and macOS.
    pub last_contact: Instant,
    /// Round-trip time of the attached connection.
    pub rtt: Option<Duration>,
    /// The largest UDP payload that the attached connection has found to get
    /// through, in bytes. It begins at 1,200, and grows while packets are sent.
    pub mtu: Option<u16>,
    /// What was sent on the attached connection, in bytes of UDP payload; `None` while
    /// there is none. It begins anew with each connection.
    pub udp_sent: Option<u64>,
    /// The same, received.
    pub udp_received: Option<u64>,
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Sessions right now, attached or not.
    pub sessions: u64,
    /// Of those, the ones without a connection.
    pub detached: u64,
    /// Sessions begun so far.
    pub begun: u64,
    /// Resumes accepted so far.
    pub resumed: u64,
    /// Sessions and resumes refused so far.
    pub refused: u64,
    /// Sessions whose linger time ended.
    pub expired: u64,
    /// Bytes kept for replay beyond each pipe's own share.
    pub bytes_shared: u64,
}
