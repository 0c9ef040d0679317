//! Streams in memory, in place of `crate::quic`: as much of it as pipes and
//! sessions use, with locks that the model checker sees.
//!
//! As in quinn, each side of a stream has one waker slot, dropping a side gives
//! the other to know, and bytes that had arrived before a connection was lost
//! can still be read.

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use crate::id::Side;
use crate::sync::{Mutex, MutexGuard};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamGone;

/// One direction of a stream.
#[derive(Default)]
struct Lane {
    bytes: BytesMut,
    /// How many of them it holds.
    window: usize,
    finished: bool,
    /// By the sender: nothing of it can be read any more.
    reset: bool,
    /// By the receiver, or with the connection: nothing can be written.
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

type SharedLane = Arc<Mutex<Lane>>;

pub(crate) struct SendStream(SharedLane);

impl SendStream {
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, StreamGone>> {
        let mut lane = lock(&self.0);
        if lane.closed {
            return Poll::Ready(Err(StreamGone));
        }
        let mut taken = 0;
        for chunk in chunks {
            let part = chunk.len().min(lane.window - lane.bytes.len());
            lane.bytes.extend_from_slice(&chunk.split_to(part));
            taken += part;
        }
        if taken == 0 {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        lane.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(taken))
    }

    pub(crate) fn finish(&mut self) {
        let mut lane = lock(&self.0);
        lane.finished = true;
        lane.wake();
    }

    pub(crate) fn set_priority(&self, _priority: i32) {}
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let mut lane = lock(&self.0);
        lane.writer = None;
        if !lane.finished && !lane.closed {
            lane.reset = true;
            lane.wake();
        }
    }
}

pub(crate) struct RecvStream(SharedLane);

impl RecvStream {
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, StreamGone>> {
        self.poll_read_chunk(cx, buf.len()).map_ok(|chunk| {
            let chunk = chunk.unwrap_or_default();
            buf[..chunk.len()].copy_from_slice(&chunk);
            chunk.len()
        })
    }

    pub(crate) fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamGone>> {
        let mut lane = lock(&self.0);
        if lane.reset {
            return Poll::Ready(Err(StreamGone));
        }
        let len = lane.bytes.remaining().min(max);
        if len > 0 {
            lane.writer.take().into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(Some(lane.bytes.split_to(len).freeze())));
        }
        if lane.finished {
            return Poll::Ready(Ok(None));
        }
        if lane.closed {
            return Poll::Ready(Err(StreamGone));
        }
        lane.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let mut lane = lock(&self.0);
        lane.reader = None;
        lane.closed = true;
        lane.wake();
    }
}

/// One side of a connection.
#[derive(Clone)]
pub(crate) struct Connection {
    side: Side,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    window: usize,
    lost: bool,
    lanes: Vec<SharedLane>,
    /// Streams that the other side has opened, by the side that accepts them.
    opened: [VecDeque<(SendStream, RecvStream)>; 2],
    acceptors: [Option<Waker>; 2],
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection(..)")
    }
}

impl Connection {
    /// A connection, as each side sees it. Its streams hold `window` bytes.
    pub(crate) fn pair(window: usize) -> [Self; 2] {
        let shared = Arc::new(Mutex::new(Shared { window, ..Shared::default() }));
        [Side::Client, Side::Server].map(|side| Self { side, shared: shared.clone() })
    }

    pub(crate) fn try_open_bi(&self) -> Option<(SendStream, RecvStream)> {
        let mut shared = lock(&self.shared);
        if shared.lost {
            return None;
        }
        let window = shared.window;
        let [there, back] =
            [(); 2].map(|()| SharedLane::new(Mutex::new(Lane { window, ..Lane::default() })));
        shared.lanes.extend([there.clone(), back.clone()]);
        let peer = self.side.peer() as usize;
        shared.opened[peer].push_back((SendStream(back.clone()), RecvStream(there.clone())));
        shared.acceptors[peer].take().into_iter().for_each(Waker::wake);
        Some((SendStream(there), RecvStream(back)))
    }

    pub(crate) fn poll_accept_bi(&self, cx: &mut Context<'_>) -> Poll<(SendStream, RecvStream)> {
        let mut shared = lock(&self.shared);
        let us = self.side as usize;
        match shared.opened[us].pop_front() {
            Some(stream) => Poll::Ready(stream),
            None => {
                shared.acceptors[us] = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The network takes it.
    pub(crate) fn lose(&self) {
        let lanes = {
            let mut shared = lock(&self.shared);
            shared.lost = true;
            shared.lanes.clone()
        };
        for lane in lanes {
            let mut lane = lock(&lane);
            lane.closed = true;
            lane.wake();
        }
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 4433).into()
    }

    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_millis(1)
    }

    pub(crate) fn udp_bytes(&self) -> (u64, u64) {
        (0, 0)
    }

    pub(crate) fn mtu(&self) -> u16 {
        1200
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
