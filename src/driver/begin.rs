//! Streams that the peer has opened, up to the end of their headers.

use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;

use crate::quic::{RecvStream, SendStream};
use crate::wire::{DecodeError, Header};

/// Most bytes of a stream read at a time while its header is awaited.
const HEADER_READ: usize = 64 * 1024;

/// A stream whose header has come.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) stream: (SendStream, RecvStream),
    pub(crate) header: Header,
    /// What came with it.
    pub(crate) ahead: Bytes,
}

/// Streams whose header is not complete; bounded by the peer's stream limit.
#[derive(Debug, Default)]
pub(crate) struct Beginnings(JoinSet<Result<Option<Begun>, DecodeError>>);

impl Beginnings {
    /// Takes in a stream that the peer has opened, and gives what
    /// [`next`](Self::next) would, if that is known at once.
    pub(crate) fn start(
        &mut self,
        stream: (SendStream, RecvStream),
    ) -> Option<Result<Option<Begun>, DecodeError>> {
        let mut begin: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(begin(stream));
        // The header is nearly always there already.
        match begin.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(begun) => Some(begun),
            Poll::Pending => {
                self.0.spawn(begin);
                None
            }
        }
    }

    /// Takes in a stream for whoever looks next.
    pub(crate) fn keep(&mut self, begun: Begun) {
        self.0.spawn(ready(Ok(Some(begun))));
    }

    /// What becomes of the next stream; `None` if the peer gave it up before its
    /// header was complete. Waits while there is none.
    ///
    /// # Cancel safety
    ///
    /// No stream is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Begun>, DecodeError> {
        match self.0.join_next().await {
            Some(Ok(begun)) => begun,
            // It was cancelled or has panicked; the stream is gone.
            Some(Err(_)) => Ok(None),
            None => pending().await,
        }
    }
}

/// Reads a stream up to the end of its header; `None` if the peer gave the
/// stream up before.
async fn begin((send, mut recv): (SendStream, RecvStream)) -> Result<Option<Begun>, DecodeError> {
    let mut read = BytesMut::new();
    loop {
        let Ok(Some(chunk)) = recv.read_chunk(HEADER_READ).await else {
            return Ok(None);
        };
        let mut bytes = if read.is_empty() {
            chunk
        } else {
            read.extend_from_slice(&chunk);
            read.split().freeze()
        };
        match Header::decode(&mut bytes)? {
            Some(header) => return Ok(Some(Begun { stream: (send, recv), header, ahead: bytes })),
            None => read.extend_from_slice(&bytes),
        }
    }
}
