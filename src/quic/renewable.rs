//! A client's socket with a fresh one beside it while nobody answers.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// A socket whose path may have died alone: a NAT or firewall that keeps dropping what
/// comes from it, while the server could be reached from any other. Whether it is that
/// or an outage cannot be told, so both are asked.
///
/// A copy of each datagram goes out from the fresh socket. The server takes the first
/// of the two (packets have numbers) and answers to where it came from: on a path that
/// works that is the old socket, since it is sent from first, and nothing has moved.
/// If only the copy comes through, it is to the server as if a NAT had given us another
/// address (RFC 9000 section 9.3); the connection goes on, with the connection id that
/// it has. Who is heard on the fresh socket has been reached from there: what is sent
/// goes out from there alone.
///
/// quinn's own exchange of sockets would make it a choice, and beside a stateless reset
/// that is just arriving it panics (see [`Dialler::kick`](super::Dialler::kick)).
#[derive(Debug)]
pub(super) struct Renewable {
    paths: RwLock<Paths>,
    server: SocketAddr,
    max_udp_payload: u16,
    /// The endpoint's task, if it waits for datagrams.
    receiver: Mutex<Option<Waker>>,
}

#[derive(Debug)]
struct Paths {
    current: Arc<dyn AsyncUdpSocket>,
    beside: Option<Beside>,
    /// How often `current` was another.
    changes: u64,
}

/// A second socket, which is heard.
#[derive(Debug)]
struct Beside {
    socket: Arc<dyn AsyncUdpSocket>,
    /// Fresh: what is sent goes out from here too.
    sends: bool,
}

impl Renewable {
    /// For datagrams of at most so many bytes.
    pub(super) fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        server: SocketAddr,
        max_udp_payload: u16,
    ) -> Arc<Self> {
        let paths = RwLock::new(Paths { current: socket, beside: None, changes: 0 });
        Arc::new(Self { paths, server, max_udp_payload, receiver: Mutex::default() })
    }

    /// Tries `fresh` beside the socket that there is, and in place of what was tried
    /// before.
    pub(super) fn try_beside(&self, fresh: Arc<dyn AsyncUdpSocket>) {
        self.write().beside = Some(Beside { socket: fresh, sends: true });
        // So that it is listened to.
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }

    /// The server has answered: only the socket on which it is heard is needed.
    pub(super) fn settle(&self) {
        self.write().beside = None;
    }

    fn read(&self) -> RwLockReadGuard<'_, Paths> {
        self.paths.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Paths> {
        self.paths.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Paths {
    /// The server was heard on a fresh socket. By now there may be another one.
    fn heard_on(&mut self, fresh: &Arc<dyn AsyncUdpSocket>) {
        if let Some(Beside { socket, sends }) = &mut self.beside
            && Arc::ptr_eq(socket, fresh)
            && std::mem::take(sends)
        {
            // What is on its way to the old one is heard still.
            std::mem::swap(socket, &mut self.current);
            self.changes += 1;
        }
    }
}

impl AsyncUdpSocket for Renewable {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let paths = self.read();
        let (poller, changes) = (paths.current.clone().create_io_poller(), paths.changes);
        drop(paths);
        Box::pin(Writable { socket: self, poller, changes })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let paths = self.read();
        let sent = paths.current.try_send(transmit);
        match &paths.beside {
            Some(beside) if beside.sends => beside.socket.try_send(transmit).or(sent),
            _ => sent,
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let paths = self.read();
        let received = paths.current.poll_recv(cx, bufs, meta);
        if received.is_ready() {
            return received;
        }
        if let Some(beside) = &paths.beside {
            // An error there is no reason to give the other up.
            if let Poll::Ready(Ok(received)) = beside.socket.poll_recv(cx, bufs, meta) {
                let fresh = beside.sends.then(|| beside.socket.clone());
                drop(paths);
                let mut senders = meta.iter().take(received).map(|meta| meta.addr);
                if let Some(fresh) = fresh
                    && senders.any(|addr| addr == self.server)
                {
                    self.write().heard_on(&fresh);
                }
                return Poll::Ready(Ok(received));
            }
        }
        // While nobody can put another socket beside this one unseen.
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        if !receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *receiver = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.read().current.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.read().current.max_transmit_segments()
    }

    /// quinn has no other use for it than to reserve so many of the largest datagrams
    /// for each that the system hands over, which is never more than 64 KiB of them.
    fn max_receive_segments(&self) -> usize {
        let filling = usize::from(u16::MAX).div_ceil(self.max_udp_payload.into());
        self.read().current.max_receive_segments().min(filling)
    }

    fn may_fragment(&self) -> bool {
        self.read().current.may_fragment()
    }
}

/// Waits until the socket that is the current one can be written to.
struct Writable {
    socket: Arc<Renewable>,
    poller: Pin<Box<dyn UdpPoller>>,
    /// Of which socket it is.
    changes: u64,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let changed = {
            let paths = self.socket.read();
            let changed = paths.changes != self.changes;
            changed.then(|| (paths.current.clone().create_io_poller(), paths.changes))
        };
        if let Some(changed) = changed {
            (self.poller, self.changes) = changed;
        }
        self.poller.as_mut().poll_writable(cx)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").field("changes", &self.changes).finish_non_exhaustive()
    }
}
