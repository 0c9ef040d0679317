//! The QUIC streams of a pipe while it is attached, one for each direction.

use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};

use crate::id::Epoch;
use crate::misbehaved::PeerMisbehaved;
use crate::proto::Pipe;
use crate::quic::{RecvStream, SendStream, StreamGone};
use crate::wire::{Header, HeaderKind};

/// Most bytes that one poll copies from the application, or hands to QUIC in a
/// replay: large enough that its overhead is nothing, small enough that the
/// copy is no waste when QUIC takes only a part.
pub(super) const CHUNK_MAX: usize = 64 * 1024;

pub(super) struct Tx {
    pub(super) stream: SendStream,
    pub(super) epoch: Epoch,
    /// What is left of the header.
    pub(super) header: Bytes,
    /// Bytes in the replay buffer wait for the stream. Until it has caught up,
    /// writes go to the buffer only.
    pub(super) pumping: bool,
    /// The driver is to run the pump.
    pub(super) pump_due: bool,
    /// The pump, while the stream takes no more: QUIC will not wake it if what
    /// it has to pump is not wanted any more.
    pub(super) pump: Option<Waker>,
    /// FIN was handed over.
    pub(super) finished: bool,
    /// The direction has no more use for the stream; what is left to do is to
    /// get its header through.
    pub(super) releasing: bool,
    /// The stream takes no more; the control stream or the end of the
    /// connection tells why. As good as detached.
    pub(super) gone: bool,
}

pub(super) struct Rx {
    pub(super) stream: RecvStream,
    pub(super) epoch: Epoch,
    /// The header, as far as it has come; `None` once it is read.
    pub(super) header: Option<BytesMut>,
    /// Bytes that came in one chunk with the header.
    pub(super) ahead: Bytes,
    /// Bytes to skip: the application has them from an earlier stream.
    pub(super) skip: u64,
}

impl Tx {
    /// Whether the stream is of no use any more and its header is out.
    pub(super) fn is_released(&self) -> bool {
        self.releasing && !self.pumping && (self.header.is_empty() || self.gone)
    }

    /// Hands over what is left of the header and then bytes of `chunk`; says
    /// how many of the latter were taken (0 only if there are none).
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &Bytes,
    ) -> Poll<Result<usize, StreamGone>> {
        while !self.header.is_empty() {
            let mut chunks = [self.header.clone(), chunk.clone()];
            let taken = ready!(self.stream.poll_write(cx, &mut chunks))?;
            let of_header = taken.min(self.header.len());
            self.header.advance(of_header);
            if taken > of_header {
                return Poll::Ready(Ok(taken - of_header));
            }
        }
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stream.poll_write(cx, &mut [chunk.clone()])
    }
}

/// Why a receive stream is of no use any more.
pub(super) enum RxFailed {
    Gone,
    Misbehaved(PeerMisbehaved),
}

impl From<StreamGone> for RxFailed {
    fn from(_: StreamGone) -> Self {
        Self::Gone
    }
}

impl Rx {
    /// Brings the stream to where the application left off: past the header,
    /// past what it has read before.
    pub(super) fn poll_position(
        &mut self,
        cx: &mut Context<'_>,
        core: &Pipe,
    ) -> Poll<Result<(), RxFailed>> {
        while let Some(header) = &mut self.header {
            let Some(chunk) = ready!(self.stream.poll_read_chunk(cx, CHUNK_MAX))? else {
                return Poll::Ready(Err(RxFailed::Gone));
            };
            let mut bytes = if header.is_empty() {
                chunk
            } else {
                header.extend_from_slice(&chunk);
                header.split().freeze()
            };
            match Header::decode(&mut bytes) {
                Ok(Some(header)) => {
                    self.skip = match self.check(&header, core) {
                        Ok(skip) => skip,
                        Err(misbehaved) => {
                            return Poll::Ready(Err(RxFailed::Misbehaved(misbehaved)));
                        }
                    };
                    self.header = None;
                    self.ahead = bytes;
                }
                Ok(None) => header.extend_from_slice(&bytes),
                Err(malformed) => {
                    return Poll::Ready(Err(RxFailed::Misbehaved(malformed.into())));
                }
            }
        }
        while self.skip > 0 {
            if self.ahead.is_empty() {
                let max = usize::try_from(self.skip).unwrap_or(CHUNK_MAX).min(CHUNK_MAX);
                match ready!(self.stream.poll_read_chunk(cx, max))? {
                    Some(chunk) => self.ahead = chunk,
                    None => {
                        let read = core.recv.read();
                        let end = read - self.skip;
                        let pipe = core.id();
                        return Poll::Ready(Err(RxFailed::Misbehaved(
                            PeerMisbehaved::EndMovedBack { pipe, end, read },
                        )));
                    }
                }
            }
            let skipped = self.skip.min(self.ahead.len() as u64);
            self.ahead.advance(skipped as usize);
            self.skip -= skipped;
        }
        Poll::Ready(Ok(()))
    }

    /// The header of the acceptor's direction. Returns how many bytes to skip.
    fn check(&self, header: &Header, core: &Pipe) -> Result<u64, PeerMisbehaved> {
        if header.epoch != self.epoch {
            return Err(PeerMisbehaved::WrongEpoch { got: header.epoch, expected: self.epoch });
        }
        if header.pipe != core.id() || header.kind != HeaderKind::Continue {
            return Err(PeerMisbehaved::NoSuchPipe { pipe: header.pipe });
        }
        core.recv.on_stream(header.start)
    }
}
