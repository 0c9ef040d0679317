//! The reading half of a pipe.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::{Handle, PipeShared};
use crate::error::ReadError;
use crate::id::PipeId;
use crate::stats::PipeStats;

/// The reading half of a [`BackedPipe`](crate::BackedPipe).
///
/// What it gives is a prefix of what the peer wrote, in order, each byte once;
/// at the end of the stream, all of it. While the link is down it waits.
///
/// Dropped before the end of the stream, it [stops](Self::stop) the peer's
/// writer with code 0.
#[derive(Debug)]
pub struct BackedReader {
    shared: Arc<PipeShared>,
    _handle: Handle,
}

impl BackedReader {
    pub(crate) fn new(shared: Arc<PipeShared>) -> Self {
        let handle = Handle::new(shared.host());
        Self { shared, _handle: handle }
    }

    pub(super) fn shared(&self) -> &Arc<PipeShared> {
        &self.shared
    }

    /// Reads up to `buf.len()` bytes; `None` at the end of the stream. Every
    /// call after the end gives the same again.
    ///
    /// # Errors
    ///
    /// [`ReadError::Reset`] if the peer's writer gave up;
    /// [`ReadError::Stopped`] after [`stop`](Self::stop);
    /// [`ReadError::Session`] once the session has ended. Never because the link
    /// is down.
    ///
    /// # Cancel safety
    ///
    /// No byte is lost if the future is dropped.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, ReadError> {
        if buf.is_empty() {
            return Ok(Some(0));
        }
        let mut buf = ReadBuf::new(buf);
        poll_fn(|cx| self.shared.poll_read(cx, &mut buf)).await?;
        Ok(Some(buf.filled().len()).filter(|len| *len > 0))
    }

    /// The next bytes, at most `max`, without a copy; `None` at the end of the
    /// stream.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    ///
    /// No byte is lost if the future is dropped.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        poll_fn(|cx| self.shared.poll_read_chunk(cx, max)).await
    }

    /// Wants no more: the peer's writer gets [`WriteError::Stopped`] with this
    /// code, even if it has to wait for a resume to hear of it. No effect after
    /// the end of the stream.
    ///
    /// [`WriteError::Stopped`]: crate::WriteError::Stopped
    pub fn stop(&mut self, code: u32) {
        self.shared.stop(code);
    }

    /// The offset of the next byte, counted from 0: how many bytes were read
    /// (the sequence number of the reading half).
    pub fn offset(&self) -> u64 {
        self.shared.stats().read
    }

    /// The pipe's name within its session.
    pub fn id(&self) -> PipeId {
        self.shared.id()
    }

    /// What the opener called the pipe.
    pub fn label(&self) -> Bytes {
        self.shared.label()
    }

    /// Offsets and counts of both directions.
    pub fn stats(&self) -> PipeStats {
        self.shared.stats()
    }
}

impl Drop for BackedReader {
    fn drop(&mut self) {
        self.shared.abandon_reader();
    }
}

impl AsyncRead for BackedReader {
    /// Pending while the link is down; errors as [`BackedReader::read`].
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.shared.poll_read(cx, buf).map_err(io::Error::from)
    }
}
