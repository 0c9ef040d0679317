//! The way from a client to its server, which can be made to fail.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::relay::Relay;

/// Whether something stands in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Straight,
    /// Slower, but it can be made to fail.
    Relayed,
}

/// What a client dials instead of its server.
pub enum Road {
    Straight(SocketAddr),
    Datagrams(Relay),
    Streams(StreamRelay),
}

impl Road {
    pub async fn datagrams(way: Way, server: SocketAddr) -> io::Result<Self> {
        Ok(match way {
            Way::Straight => Self::Straight(server),
            Way::Relayed => Self::Datagrams(Relay::start(server, 1).await?),
        })
    }

    pub async fn streams(way: Way, server: SocketAddr) -> io::Result<Self> {
        Ok(match way {
            Way::Straight => Self::Straight(server),
            Way::Relayed => Self::Streams(StreamRelay::start(server).await?),
        })
    }

    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Straight(addr) => *addr,
            Self::Datagrams(relay) => relay.addr(),
            Self::Streams(relay) => relay.addr,
        }
    }

    /// Nothing passes until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        match self {
            Self::Straight(_) => {}
            Self::Datagrams(relay) => relay.freeze(),
            Self::Streams(relay) => relay.fate.send_modify(|fate| fate.frozen = true),
        }
    }

    pub fn thaw(&self) {
        match self {
            Self::Straight(_) => {}
            Self::Datagrams(relay) => relay.thaw(),
            Self::Streams(relay) => relay.fate.send_modify(|fate| fate.frozen = false),
        }
    }

    /// The client's public address is another from now on. A TCP connection is named
    /// by the addresses of its ends: to it that is a cut.
    pub fn renumber(&self) {
        match self {
            Self::Straight(_) => {}
            Self::Datagrams(relay) => relay.renumber(),
            Self::Streams(_) => self.cut(),
        }
    }

    /// What is connected hears nothing more, and nobody tells it; what connects anew
    /// passes.
    pub fn cut(&self) {
        match self {
            Self::Straight(_) => {}
            Self::Datagrams(relay) => relay.cut(),
            Self::Streams(relay) => relay.fate.send_modify(|fate| fate.cuts += 1),
        }
    }
}

/// Passes on what comes on TCP connections. It is kinder than a road: what it holds in
/// a freeze has been acknowledged, so that TCP's own timers do not double meanwhile.
pub struct StreamRelay {
    addr: SocketAddr,
    fate: watch::Sender<Fate>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    frozen: bool,
    /// So many; connections from before the last one are dead.
    cuts: u64,
}

impl StreamRelay {
    async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (addr, fate) = (listener.local_addr()?, watch::Sender::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, fate.clone()));
        Ok(Self { addr, fate, _tasks: tasks })
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, fate: watch::Sender<Fate>) {
    let mut passing = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(server).await else { return };
        for end in [&client, &server] {
            let _ = end.set_nodelay(true);
        }
        let (client, server) = (client.into_split(), server.into_split());
        passing.spawn(pass_on(client.0, server.1, fate.subscribe()));
        passing.spawn(pass_on(server.0, client.1, fate.subscribe()));
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut fate: watch::Receiver<Fate>) {
    let born = fate.borrow().cuts;
    let mut buf = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buf).await {
        let fate = fate.wait_for(|fate| fate.cuts > born || !fate.frozen).await;
        let Ok(cuts) = fate.map(|fate| fate.cuts) else { return };
        if cuts > born {
            // Both sockets stay open: nobody is told.
            return std::future::pending().await;
        }
        if to.write_all(&buf[..len]).await.is_err() {
            return;
        }
    }
}
