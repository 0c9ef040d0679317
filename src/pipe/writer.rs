//! The writing half of a pipe.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::{Handle, PipeShared};
use crate::error::WriteError;
use crate::id::PipeId;
use crate::stats::PipeStats;

/// Most bytes that one call copies. More would be copied in vain when the
/// connection takes only a part.
const COPY_MAX: usize = 64 * 1024;

/// The writing half of a [`BackedPipe`](crate::BackedPipe).
///
/// Every byte is kept until the application on the other side has read it, and
/// sent again if a connection is lost in between. While the link is down writes
/// go on until the replay capacity or a byte budget is full; then they wait.
///
/// Dropped without [`finish`](Self::finish), it [resets](Self::reset) its
/// direction with code 0.
#[derive(Debug)]
pub struct BackedWriter {
    shared: Arc<PipeShared>,
    _handle: Handle,
}

impl BackedWriter {
    pub(crate) fn new(shared: Arc<PipeShared>) -> Self {
        let handle = Handle::new(shared.host());
        Self { shared, _handle: handle }
    }

    pub(super) fn shared(&self) -> &Arc<PipeShared> {
        &self.shared
    }

    /// Writes some of `buf` and says how much; 0 only if `buf` is empty.
    ///
    /// # Errors
    ///
    /// [`WriteError::Stopped`] if the peer's reader wants no more;
    /// [`WriteError::Finished`] after [`finish`](Self::finish) or
    /// [`reset`](Self::reset); [`WriteError::Session`] once the session has
    /// ended. Never because the link is down.
    ///
    /// # Cancel safety
    ///
    /// Nothing was written if the future is dropped before it is ready.
    pub async fn write(&mut self, buf: &[u8]) -> Result<usize, WriteError> {
        poll_fn(|cx| self.poll_copy(cx, buf)).await
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    ///
    /// # Cancel safety
    ///
    /// None: some of `buf` may have been written, and [`offset`](Self::offset)
    /// says how much. [`write_chunk`](Self::write_chunk) is cancel-safe.
    pub async fn write_all(&mut self, mut buf: &[u8]) -> Result<(), WriteError> {
        while !buf.is_empty() {
            let written = self.write(buf).await?;
            buf = &buf[written..];
        }
        Ok(())
    }

    /// Writes all of `chunk` without copying it; what was written is taken off
    /// its front.
    ///
    /// The chunk's memory is kept until the bytes are acknowledged. If it is a
    /// small slice of something large, copy it first.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, `chunk` holds what was not written.
    pub async fn write_chunk(&mut self, chunk: &mut Bytes) -> Result<(), WriteError> {
        while !chunk.is_empty() {
            poll_fn(|cx| self.poll_chunk(cx, chunk)).await?;
        }
        Ok(())
    }

    /// Ends this direction after what was written. The peer's reader sees the
    /// end of the stream after all bytes, whatever happens to the link in
    /// between. The other direction stays open. No effect after an end.
    pub fn finish(&mut self) {
        self.shared.finish();
    }

    /// Gives this direction up: the peer's reader gets
    /// [`ReadError::Reset`](crate::ReadError::Reset) with this code, and bytes
    /// that it has not read may be lost. No effect once the direction has ended
    /// and the peer knows.
    pub fn reset(&mut self, code: u32) {
        self.shared.reset(code);
    }

    /// Waits until the application on the other side has read up to `offset`,
    /// such as [`offset()`](Self::offset) after the last write.
    ///
    /// # Errors
    ///
    /// [`WriteError::Stopped`] or [`WriteError::Session`] if that cannot happen
    /// any more; [`WriteError::Finished`] after a reset.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub async fn wait_acked(&mut self, offset: u64) -> Result<(), WriteError> {
        poll_fn(|cx| self.shared.poll_acked(cx, offset)).await
    }

    /// Pipes of higher priority are sent first; 0 is the default. Of those with the
    /// same, pipes with more than 16 KiB on their way come behind the others, so that
    /// small things need no priority. It holds across resumes.
    pub fn set_priority(&mut self, priority: i32) {
        self.shared.set_priority(priority);
    }

    /// The offset after the last byte written: how many bytes were written (the
    /// sequence number of the writing half).
    pub fn offset(&self) -> u64 {
        self.shared.stats().written
    }

    /// Up to here the application on the other side has read, as far as is
    /// known.
    pub fn acked(&self) -> u64 {
        self.shared.stats().acked
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

    fn poll_copy(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize, WriteError>> {
        self.shared.poll_write(cx, &buf[..buf.len().min(COPY_MAX)])
    }

    fn poll_chunk(&self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<Result<(), WriteError>> {
        self.shared.poll_write(cx, chunk.clone()).map_ok(|taken| chunk.advance(taken))
    }
}

impl Drop for BackedWriter {
    fn drop(&mut self) {
        self.shared.abandon_writer();
    }
}

impl AsyncWrite for BackedWriter {
    /// Pending while the replay buffer is full or the connection takes no more;
    /// errors as [`BackedWriter::write`].
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_copy(cx, buf).map_err(io::Error::from)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.poll_write(cx, Slices::of(bufs)).map_err(io::Error::from)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready at once: bytes are on their way as soon as they are written. It
    /// does not wait for acks; [`BackedWriter::wait_acked`] does.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// [`BackedWriter::finish`]; ready at once.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.finish();
        Poll::Ready(Ok(()))
    }
}

/// Slices of the application's, one after the other, as far as one call copies them.
#[derive(Clone, Copy)]
struct Slices<'a> {
    /// The first of them, from where it is at; empty only at the end.
    first: &'a [u8],
    rest: &'a [IoSlice<'a>],
    /// Of all bytes.
    left: usize,
}

impl<'a> Slices<'a> {
    fn of(slices: &'a [IoSlice<'a>]) -> Self {
        let len = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let mut all = Self { first: &[], rest: slices, left: len.min(COPY_MAX) };
        all.advance(0);
        all
    }
}

impl Buf for Slices<'_> {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        &self.first[..self.first.len().min(self.left)]
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        while count >= self.first.len() {
            count -= self.first.len();
            let Some((first, rest)) = self.rest.split_first() else { break };
            (self.first, self.rest) = (first, rest);
        }
        self.first = &self.first[count..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_gathered_from_wherever_they_lie_up_to_what_one_call_copies() {
        let long = vec![7; COPY_MAX];
        for parts in [
            &[][..],
            &[&b""[..]],
            &[b"", b"a", b"", b"", b"bc", b""],
            &[&long],
            &[b"abc", &long, b"more"],
        ] {
            let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let all = parts.concat();
            let all = &all[..all.len().min(COPY_MAX)];
            for room in [0, 1, 2, 3, 4, all.len()] {
                let room = room.min(all.len());
                let mut bytes = Slices::of(&slices);
                assert_eq!(bytes.remaining(), all.len());
                assert_eq!(bytes.copy_to_bytes(room), all[..room]);
                assert_eq!(bytes.copy_to_bytes(all.len() - room), all[room..]);
                assert!(!bytes.has_remaining() && bytes.chunk().is_empty());
            }
        }
    }
}
