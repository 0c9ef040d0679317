//! The relay's sockets, and the tasks that move datagrams between them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Direction;
use super::flow::{FlowId, FlowTable, OwnedTask, bind_beside};
use super::lane::{Alarm, Lane, Route};

/// What the tasks and the owner of a relay share.
///
/// No two of its locks are ever held at once, and none across an await.
pub(super) struct Pump {
    /// Where the reader of a new flow runs: renumbering is no async call.
    runtime: Handle,
    /// The socket towards all clients.
    downstream: Arc<UdpSocket>,
    server: Mutex<SocketAddr>,
    flows: Mutex<FlowTable>,
    to_server: Mutex<Lane>,
    to_client: Mutex<Lane>,
    /// Wakes the task of a lane whose next datagram is due earlier.
    to_server_alarm: Notify,
    to_client_alarm: Notify,
    /// Tells those who wait for a counter that some have changed.
    counted: Notify,
}

impl Pump {
    /// Needs the context of a tokio runtime.
    pub(super) fn new(downstream: Arc<UdpSocket>, server: SocketAddr, seed: u64) -> Self {
        Self {
            runtime: Handle::current(),
            downstream,
            server: Mutex::new(server),
            flows: Mutex::default(),
            to_server: Mutex::new(Lane::new(seed)),
            // Another sequence, or both directions would lose in step.
            to_client: Mutex::new(Lane::new(!seed)),
            to_server_alarm: Notify::new(),
            to_client_alarm: Notify::new(),
            counted: Notify::new(),
        }
    }

    pub(super) fn server(&self) -> MutexGuard<'_, SocketAddr> {
        lock(&self.server)
    }

    pub(super) fn flows(&self) -> MutexGuard<'_, FlowTable> {
        lock(&self.flows)
    }

    pub(super) fn lane(&self, direction: Direction) -> MutexGuard<'_, Lane> {
        match direction {
            Direction::ToServer => lock(&self.to_server),
            Direction::ToClient => lock(&self.to_client),
        }
    }

    pub(super) fn counted(&self) -> &Notify {
        &self.counted
    }

    /// Wakes the task of a lane if a step of that lane asks for it.
    pub(super) fn heed(&self, direction: Direction, alarm: Alarm) {
        if alarm == Alarm::Earlier {
            self.alarm(direction).notify_one();
        }
    }

    fn alarm(&self, direction: Direction) -> &Notify {
        match direction {
            Direction::ToServer => &self.to_server_alarm,
            Direction::ToClient => &self.to_client_alarm,
        }
    }

    /// Gives every flow from number `first` on a new upstream socket; one for
    /// which there is none to be had keeps its own.
    pub(super) fn renumber(self: &Arc<Self>, first: FlowId) {
        let clients = self.flows().clients_since(first);
        for client in clients {
            if let Ok((upstream, reader)) = self.open_upstream(client) {
                self.flows().renumber(client, upstream, reader);
            }
        }
        self.counted.notify_waiters();
    }

    /// Moves datagrams from clients into the lane to the server, for ever.
    pub(super) async fn read_clients(self: Arc<Self>) {
        self.read(&self.downstream, |client, data| self.take_from_client(client, data)).await;
    }

    /// Moves the server's answers to one client into the other lane, for ever.
    async fn read_server(self: Arc<Self>, client: SocketAddr, upstream: Arc<UdpSocket>) {
        self.read(&upstream, |from, data| {
            let flow = self.flows().current(client, &upstream);
            let Some(flow) = flow.filter(|_| from == *self.server()) else {
                self.lane(Direction::ToClient).drop_stray();
                return;
            };
            let route = Route { flow, socket: self.downstream.clone(), client: Some(client) };
            self.forward(Direction::ToClient, &route, data);
        })
        .await;
    }

    /// Sends what the delay line of one direction has, when it is due.
    pub(super) async fn run_lane(self: Arc<Self>, direction: Direction) {
        let alarm = self.alarm(direction);
        loop {
            let server = *self.server();
            let next = self.lane(direction).send_due(server);
            self.counted.notify_waiters();
            match next {
                None => alarm.notified().await,
                Some(due) if due <= Instant::now() => tokio::task::yield_now().await,
                // Either way it is time to look again.
                Some(due) => drop(timeout_at(due, alarm.notified()).await),
            }
        }
    }

    fn take_from_client(self: &Arc<Self>, client: SocketAddr, data: &[u8]) {
        let known = self.flows().get(client, data);
        let Some((flow, socket)) = known.or_else(|| self.open_flow(client, data)) else {
            self.lane(Direction::ToServer).drop_unsent();
            return;
        };
        let route = Route { flow, socket, client: None };
        self.forward(Direction::ToServer, &route, data);
    }

    fn forward(&self, direction: Direction, route: &Route, data: &[u8]) {
        let server = *self.server();
        let alarm = self.lane(direction).enter(route, data, server);
        self.heed(direction, alarm);
    }

    /// A flow for a new client; `None` if there is no socket to be had.
    fn open_flow(
        self: &Arc<Self>,
        client: SocketAddr,
        data: &[u8],
    ) -> Option<(FlowId, Arc<UdpSocket>)> {
        let (upstream, reader) = self.open_upstream(client).ok()?;
        let flow = self.flows().insert(client, data, upstream.clone(), reader)?;
        Some((flow, upstream))
    }

    fn open_upstream(
        self: &Arc<Self>,
        client: SocketAddr,
    ) -> io::Result<(Arc<UdpSocket>, OwnedTask)> {
        let _context = self.runtime.enter();
        let server = *self.server();
        let upstream = bind_beside(server)?;
        let reader = self.runtime.spawn(self.clone().read_server(client, upstream.clone()));
        Ok((upstream, OwnedTask(reader)))
    }

    /// Passes every datagram that `socket` receives to `take`, for ever.
    async fn read(&self, socket: &UdpSocket, mut take: impl FnMut(SocketAddr, &[u8])) {
        let mut buffer = vec![0; DATAGRAM_MAX];
        // An error means that the runtime shuts down.
        while socket.readable().await.is_ok() {
            let mut more = true;
            for _ in 0..READ_BATCH {
                match socket.try_recv_from(&mut buffer) {
                    Ok((len, from)) => take(from, &buffer[..len]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        more = false;
                        break;
                    }
                    // An ICMP answer to an earlier datagram, which some systems
                    // report here: nothing that ends a network.
                    Err(_) => {}
                }
            }
            self.counted.notify_waiters();
            if more {
                // A busy socket is readable at once: without this it would keep
                // the other tasks of a one-thread runtime waiting.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Locks for a moment. What a panicking holder leaves behind is good enough
/// for a network that is bad on purpose.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The largest payload a UDP datagram can have.
const DATAGRAM_MAX: usize = 65_535;

/// Datagrams read without a pause.
const READ_BATCH: usize = 64;
