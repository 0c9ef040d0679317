//! The QUIC streams of a pipe on one connection, one for each direction.

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
    /// We opened the stream: its header says whose it is.
    pub(super) announces: bool,
    /// What is left of the header.
    pub(super) header: Bytes,
    /// Bytes that have to come before those of the replay buffer, and are not kept
    /// any more: the stream began before it was known that the reader has them, and
    /// will skip them, whatever they hold (P-27).
    pub(super) filler: u64,
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
    /// The offset of the next byte of `ahead` or, after it, of the stream; not above
    /// what the application has read, whatever stream it had that from.
    pub(super) at: u64,
}

/// What fills a stream up: see [`Tx::filler`].
static FILLER: [u8; 4096] = [0; 4096];

impl Tx {
    /// A stream that has carried nothing yet.
    pub(super) fn new(stream: SendStream, epoch: Epoch, announces: bool, header: Bytes) -> Self {
        Self {
            stream,
            epoch,
            announces,
            header,
            filler: 0,
            pumping: false,
            pump_due: false,
            pump: None,
            finished: false,
            releasing: false,
            gone: false,
        }
    }

    /// Whether the next byte that the stream takes is one of the replay buffer.
    pub(super) fn is_positioned(&self) -> bool {
        self.header.is_empty() && self.filler == 0
    }

    /// Whether the stream is of no use any more and its header is out.
    pub(super) fn is_released(&self) -> bool {
        self.releasing && !self.pumping && (self.header.is_empty() || self.gone)
    }

    /// Hands over what is left of the header and then bytes of `chunk`; says
    /// how many of the latter were taken (0 only if there are none).
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: Bytes,
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
        while self.filler > 0 {
            let len = self.filler.min(FILLER.len() as u64) as usize;
            let mut filler = [Bytes::from_static(&FILLER[..len])];
            self.filler -= ready!(self.stream.poll_write(cx, &mut filler))? as u64;
        }
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stream.poll_write(cx, &mut [chunk])
    }
}

/// Why a receive stream is of no use any more.
enum RxFailed {
    Gone,
    Misbehaved(PeerMisbehaved),
}

impl From<StreamGone> for RxFailed {
    fn from(_: StreamGone) -> Self {
        Self::Gone
    }
}

impl Rx {
    /// A stream at its beginning. `begun`: where it starts and what came with its
    /// header, if that was read.
    pub(super) fn new(
        stream: RecvStream,
        epoch: Epoch,
        begun: Option<(u64, Bytes)>,
        core: &Pipe,
    ) -> Result<Self, PeerMisbehaved> {
        let (header, ahead, at) = match begun {
            Some((start, ahead)) => {
                core.recv.on_stream(start)?;
                (None, ahead, start)
            }
            None => (Some(BytesMut::new()), Bytes::new(), 0),
        };
        Ok(Self { stream, epoch, header, ahead, at })
    }

    /// Brings the stream to where the application left off: past the header,
    /// past what it has read before.
    fn poll_position(&mut self, cx: &mut Context<'_>, core: &Pipe) -> Poll<Result<(), RxFailed>> {
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
                    self.at = match self.check(&header, core) {
                        Ok(start) => start,
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
        let read = core.recv.read();
        while self.at < read {
            let left = read - self.at;
            if self.ahead.is_empty() {
                let max = usize::try_from(left).unwrap_or(CHUNK_MAX).min(CHUNK_MAX);
                match ready!(self.stream.poll_read_chunk(cx, max))? {
                    Some(chunk) => self.ahead = chunk,
                    None => {
                        let (pipe, end) = (core.id(), self.at);
                        return Poll::Ready(Err(RxFailed::Misbehaved(
                            PeerMisbehaved::EndMovedBack { pipe, end, read },
                        )));
                    }
                }
            }
            let skipped = left.min(self.ahead.len() as u64);
            self.ahead.advance(skipped as usize);
            self.at += skipped;
        }
        Poll::Ready(Ok(()))
    }

    /// The header of the acceptor's direction. Returns where the stream begins.
    fn check(&self, header: &Header, core: &Pipe) -> Result<u64, PeerMisbehaved> {
        if header.epoch != self.epoch {
            return Err(PeerMisbehaved::WrongEpoch { got: header.epoch, expected: self.epoch });
        }
        if header.pipe != core.id() || header.kind != HeaderKind::Continue {
            return Err(PeerMisbehaved::NoSuchPipe { pipe: header.pipe });
        }
        core.recv.on_stream(header.start)?;
        Ok(header.start)
    }

    /// Takes from the stream in `rx` what comes next, once it is where the
    /// application left off. A stream that is of no use any more is let go of.
    #[inline]
    pub(super) fn poll_take<T>(
        rx: &mut Option<Self>,
        cx: &mut Context<'_>,
        core: &Pipe,
        take: &mut impl FnMut(
            &mut Self,
            &mut Context<'_>,
        ) -> Poll<Result<Option<(T, usize)>, StreamGone>>,
    ) -> Poll<Result<Option<(T, usize)>, PeerMisbehaved>> {
        let Some(stream) = rx else { return Poll::Pending };
        let taken = match ready!(stream.poll_position(cx, core)) {
            Ok(()) => ready!(take(stream, cx)).map_err(RxFailed::from),
            Err(failed) => Err(failed),
        };
        Poll::Ready(match taken {
            Ok(Some((value, len))) => {
                stream.at += len as u64;
                Ok(Some((value, len)))
            }
            Ok(None) => Ok(None),
            Err(failed) => {
                *rx = None;
                match failed {
                    RxFailed::Gone => return Poll::Pending,
                    RxFailed::Misbehaved(misbehaved) => Err(misbehaved),
                }
            }
        })
    }
}
