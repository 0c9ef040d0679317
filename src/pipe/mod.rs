//! Backed pipes: what the application holds.

mod attachment;
mod budget;
mod early;
mod host;
mod manner;
mod reader;
mod shared;
mod streams;
mod writer;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use attachment::Wants;
pub(crate) use budget::SharedBudget;
pub(crate) use host::{Handle, Host};
pub use reader::BackedReader;
pub(crate) use shared::PipeShared;
pub use writer::BackedWriter;

use crate::id::PipeId;
use crate::stats::PipeStats;

/// A reliable, ordered, bidirectional byte stream that outlives its connection.
///
/// Made by [`Session::open_pipe`](crate::Session::open_pipe) on one side and
/// [`Session::accept_pipe`](crate::Session::accept_pipe) on the other. It is
/// `AsyncRead + AsyncWrite`, and [splits](Self::into_split) into owned halves.
///
/// While the link is down reads wait, and writes go on until the replay buffer
/// is full. Neither fails until the session itself has ended.
///
/// Dropping it is not a clean end: a writer that was not
/// [finished](BackedWriter::finish) is reset, and a reader whose end was not
/// seen is stopped, so that half a message never looks like a whole one. As long
/// as a pipe is held its session is not abandoned.
///
/// # Common issues
///
/// - *The peer's reader never ends.* Call [`finish`](BackedWriter::finish), or
///   `AsyncWriteExt::shutdown`.
/// - *The last bytes were lost when the program ended.* Written is not read: wait
///   with [`Session::shutdown`](crate::Session::shutdown) or
///   [`BackedWriter::wait_acked`].
#[derive(Debug)]
pub struct BackedPipe {
    reader: BackedReader,
    writer: BackedWriter,
}

impl BackedPipe {
    pub(crate) fn new(shared: Arc<PipeShared>) -> Self {
        Self { reader: BackedReader::new(shared.clone()), writer: BackedWriter::new(shared) }
    }

    /// The pipe's name within its session, the same on both sides.
    pub fn id(&self) -> PipeId {
        self.writer.id()
    }

    /// What the opener called the pipe.
    pub fn label(&self) -> Bytes {
        self.writer.label()
    }

    /// Splits into halves that can go to different tasks.
    pub fn into_split(self) -> (BackedReader, BackedWriter) {
        (self.reader, self.writer)
    }

    /// Puts the halves of one pipe together again.
    ///
    /// # Errors
    ///
    /// Gives both back if they are of different pipes.
    pub fn join(reader: BackedReader, writer: BackedWriter) -> Result<Self, JoinError> {
        if Arc::ptr_eq(reader.shared(), writer.shared()) {
            Ok(Self { reader, writer })
        } else {
            Err(JoinError { reader, writer })
        }
    }

    /// The reading half.
    pub fn reader(&mut self) -> &mut BackedReader {
        &mut self.reader
    }

    /// The writing half.
    pub fn writer(&mut self) -> &mut BackedWriter {
        &mut self.writer
    }

    /// Offsets and counts of both directions.
    pub fn stats(&self) -> PipeStats {
        self.writer.stats()
    }
}

impl AsyncRead for BackedPipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for BackedPipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

/// The halves given to [`BackedPipe::join`] are of different pipes.
#[derive(Debug, thiserror::Error)]
#[error("the reader is of pipe {}, the writer of pipe {}", reader.id(), writer.id())]
pub struct JoinError {
    /// The reader, given back.
    pub reader: BackedReader,
    /// The writer, given back.
    pub writer: BackedWriter,
}
