//! The control stream as a sequence of frames.

use std::future::{Future, poll_fn};
use std::task::{Context, Waker};

use bytes::{Buf, Bytes, BytesMut};

use crate::misbehaved::PeerMisbehaved;
use crate::quic::{RecvStream, SendStream, StreamGone};
use crate::wire::{Decoder, Frame};

/// Above pipes of any priority: control frames never queue behind data.
const PRIORITY: i32 = i32::MAX;

/// Most bytes read at a time, and so held besides one incomplete frame.
const READ_MAX: usize = 16 * 1024;

/// What is queued beyond this, because the peer does not read, holds back
/// everything that could queue more.
const BACKLOG_MAX: usize = 64 * 1024;

/// Why a control stream cannot go on.
#[derive(Debug)]
pub(crate) enum ControlError {
    /// The stream is gone; the connection tells why.
    Gone,
    Misbehaved(PeerMisbehaved),
}

impl From<StreamGone> for ControlError {
    fn from(_: StreamGone) -> Self {
        Self::Gone
    }
}

/// Our side of a control stream.
#[derive(Debug)]
pub(crate) struct ControlWriter {
    stream: SendStream,
    queued: BytesMut,
}

impl ControlWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        stream.set_priority(PRIORITY);
        Self { stream, queued: BytesMut::new() }
    }

    /// Queues a frame for the next [`flush`](Self::flush).
    pub(crate) fn queue(&mut self, frame: &Frame) {
        tracing::trace!(frame = frame.name(), "send");
        frame.encode(&mut self.queued);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Whether so much is queued that nothing may be added until it is flushed.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.queued.len() >= BACKLOG_MAX
    }

    /// Hands over as much as the stream takes without waiting; the rest stays queued.
    pub(crate) fn flush_now(&mut self) {
        let flush = std::pin::pin!(self.flush());
        let _ = flush.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Hands all queued frames to the stream.
    ///
    /// # Cancel safety
    ///
    /// What was not handed over stays queued.
    pub(crate) async fn flush(&mut self) -> Result<(), StreamGone> {
        while !self.queued.is_empty() {
            // Copied, so that a dropped future leaves the queue as it is:
            // control frames are few and short.
            let taken = poll_fn(|cx| {
                self.stream.poll_write(cx, &mut [Bytes::copy_from_slice(&self.queued)])
            })
            .await?;
            self.queued.advance(taken);
        }
        Ok(())
    }
}

/// The peer's side of a control stream.
#[derive(Debug)]
pub(crate) struct ControlReader {
    stream: RecvStream,
    decoder: Decoder,
}

impl ControlReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: Decoder::default() }
    }

    /// The next frame.
    ///
    /// # Cancel safety
    ///
    /// No frame is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Frame, ControlError> {
        loop {
            let frame = self
                .decoder
                .next_frame()
                .map_err(|malformed| ControlError::Misbehaved(malformed.into()))?;
            if let Some(frame) = frame {
                tracing::trace!(frame = frame.name(), "received");
                return Ok(frame);
            }
            match self.stream.read_chunk(READ_MAX).await? {
                Some(chunk) => self.decoder.push(&chunk),
                // It is open as long as its connection.
                None => return Err(ControlError::Gone),
            }
        }
    }
}
