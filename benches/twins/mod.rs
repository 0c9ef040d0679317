//! The same thing twice: a session of evermux, and the QUIC below it with the same
//! settings, both with both ends in this process, on loopback.
//!
//! A measurement is written once, for any [`Twin`], and taken of both.

#![allow(dead_code, unused_imports, reason = "each bench has use for a part of it")]

mod evermux;
mod quinn;

use bytes::Bytes;

pub use self::evermux::Evermux;
pub use self::quinn::Quinn;

/// What both twins are told; lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How far the writers of a connection run ahead of their readers: evermux's replay
    /// capacity and budget, quinn's send window.
    pub ahead: u64,
    /// What a reader lets the other side send ahead on one stream.
    pub stream: u64,
    /// The same for all streams of a connection.
    pub connection: u64,
    /// How large a datagram may become.
    pub datagram: u16,
    /// Streams that each side allows the other from the start.
    pub streams: u64,
}

/// As on the internet. To a loopback address, evermux lets them become larger by itself.
pub const INTERNET: u16 = 1452;
pub const LOOPBACK: u16 = 6500;

impl Default for Settings {
    /// Those of a session by default, on the internet.
    fn default() -> Self {
        Self {
            ahead: 16 << 20,
            stream: 4 << 20,
            connection: 193 << 20,
            datagram: INTERNET,
            streams: 1024,
        }
    }
}

/// What both sockets ask for, in bytes.
pub const SOCKET_BUFFER: usize = 4 << 20;

/// A connection whose two ends are in this process.
pub trait Twin: Sized + Send + Sync + 'static {
    const NAME: &str;
    type Writer: Write;
    type Reader: Read;

    fn connect(settings: Settings) -> impl Future<Output = Self> + Send;

    /// A stream from the near end: what both ends have of it, near first.
    fn open(&self) -> impl Future<Output = [Ends<Self>; 2]> + Send;

    /// Opens a stream at the near end, and does not wait for the far one.
    fn dial(&self) -> impl Future<Output = Ends<Self>> + Send;

    /// The next stream at the far end.
    fn accept(&self) -> impl Future<Output = Ends<Self>> + Send;

    fn close(self) -> impl Future<Output = ()> + Send;
}

/// One end of a stream.
pub type Ends<T> = (<T as Twin>::Writer, <T as Twin>::Reader);

pub trait Write: Send + 'static {
    fn write_all(&mut self, bytes: &[u8]) -> impl Future<Output = ()> + Send;
    /// Without a copy.
    fn write_chunk(&mut self, bytes: Bytes) -> impl Future<Output = ()> + Send;
    fn finish(&mut self);
}

pub trait Read: Send + 'static {
    /// The next bytes, at most `max`; `None` at the end.
    fn read_chunk(&mut self, max: usize) -> impl Future<Output = Option<Bytes>> + Send;

    fn read_exact(&mut self, bytes: &mut [u8]) -> impl Future<Output = ()> + Send;
}
