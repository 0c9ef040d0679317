//! The relay's table of flows: which client talks through which socket.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The number of a flow, in the order of their first datagrams: a cut or a hold
/// of "all flows there are" is a comparison with the next number.
pub(super) type FlowId = u64;

/// As servers of ours name their connections.
type ConnectionId = [u8; 8];

/// To which connection of the server's a datagram goes, after its handshake (RFC 9000
/// section 17.3).
fn connection_id(data: &[u8]) -> Option<ConnectionId> {
    let (first, rest) = data.split_first()?;
    let id = rest.first_chunk()?;
    (first & 0x80 == 0).then_some(*id)
}

/// One client address and the socket that stands for it towards the server.
pub(super) struct Flow {
    /// Shared with others that a client has made to go on with a connection.
    id: FlowId,
    /// The connection that it belongs to, once that is known.
    connection: Option<ConnectionId>,
    /// Its port is what the server takes for the client's.
    upstream: Arc<UdpSocket>,
    /// Readers of `upstream` (the newest, at the back) and of the sockets it
    /// had before. Those stay open for a while: a NAT that forgot a binding is
    /// silent, whereas a closed port would answer with an ICMP error.
    readers: VecDeque<OwnedTask>,
}

/// All flows, and how many there ever were.
#[derive(Default)]
pub(super) struct FlowTable {
    flows: HashMap<SocketAddr, Flow>,
    next_id: FlowId,
    renumberings: u64,
    closed: bool,
}

impl FlowTable {
    /// The flow of `client`, which has sent `data`, and its socket towards the server.
    pub(super) fn get(
        &mut self,
        client: SocketAddr,
        data: &[u8],
    ) -> Option<(FlowId, Arc<UdpSocket>)> {
        let flow = self.flows.get_mut(&client)?;
        flow.connection = connection_id(data).or(flow.connection);
        Some((flow.id, flow.upstream.clone()))
    }

    /// The flow of `client`, if it still uses `upstream`.
    pub(super) fn current(&self, client: SocketAddr, upstream: &Arc<UdpSocket>) -> Option<FlowId> {
        let flow = self.flows.get(&client)?;
        Arc::ptr_eq(&flow.upstream, upstream).then_some(flow.id)
    }

    /// Enters a new client, which has sent `data`; the oldest flow makes room if need be.
    /// One that goes on with the connection of another flow shares its fate, and does not
    /// count.
    ///
    /// `None` if the relay has ended: a task started now would have no owner.
    pub(super) fn insert(
        &mut self,
        client: SocketAddr,
        data: &[u8],
        upstream: Arc<UdpSocket>,
        reader: OwnedTask,
    ) -> Option<FlowId> {
        if self.closed {
            return None;
        }
        if self.flows.len() >= FLOW_LIMIT {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.id).map(|(addr, _)| *addr);
            oldest.and_then(|addr| self.flows.remove(&addr));
        }
        let connection = connection_id(data);
        let mut others = self.flows.values().filter(|flow| flow.connection == connection);
        let id = match others.next().filter(|_| connection.is_some()) {
            Some(other) => other.id,
            None => {
                self.next_id += 1;
                self.next_id - 1
            }
        };
        let readers = VecDeque::from([reader]);
        self.flows.insert(client, Flow { id, connection, upstream, readers });
        Some(id)
    }

    /// Moves the flow of `client` to another socket, unless it is gone.
    pub(super) fn renumber(
        &mut self,
        client: SocketAddr,
        upstream: Arc<UdpSocket>,
        reader: OwnedTask,
    ) {
        let Some(flow) = self.flows.get_mut(&client) else { return };
        flow.upstream = upstream;
        flow.readers.push_back(reader);
        if flow.readers.len() > SOCKET_LIMIT {
            flow.readers.pop_front();
        }
        self.renumberings += 1;
    }

    /// The clients of all flows from number `first` on.
    pub(super) fn clients_since(&self, first: FlowId) -> Vec<SocketAddr> {
        self.flows.iter().filter(|(_, flow)| flow.id >= first).map(|(addr, _)| *addr).collect()
    }

    /// The number that the next flow will get.
    pub(super) fn next_id(&self) -> FlowId {
        self.next_id
    }

    /// Moves to another socket so far, over all flows.
    pub(super) fn renumberings(&self) -> u64 {
        self.renumberings
    }

    /// Ends all readers and refuses new ones.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.flows.clear();
    }
}

/// A task that ends when its owner is dropped.
pub(super) struct OwnedTask(pub(super) JoinHandle<()>);

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A socket on loopback, of the same family as `server`.
///
/// Needs the context of a tokio runtime.
pub(super) fn bind_beside(server: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let addr: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, 0).into(),
    };
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    // Best effort: systems cap the size, and smaller buffers only lose more.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into()).map(Arc::new)
}

/// Flows at a time: far more than a test has clients, and with one socket each
/// still within the usual 1,024 open files of a process.
const FLOW_LIMIT: usize = 256;

/// Sockets of one flow, the current one and those it had before: a test that
/// renumbers without end keeps this many open.
const SOCKET_LIMIT: usize = 8;

/// Bytes asked of the system for each socket's buffers: 100 ms at 300 Mbit/s.
const SOCKET_BUFFER: usize = 4 << 20;
