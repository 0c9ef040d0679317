//! Endpoints of raw QUIC in a simulated world.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use evermux::simulation::{Socket, World as _};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, TokioRuntime, UdpPoller};

use crate::network::{Plug, SERVER, host_addr};
use crate::raw::{ALPN, Dial, Peer, RawServer};
use crate::world::{IDENTITY, World};

impl World {
    /// A raw client on a host, connected; the road must be paved.
    pub async fn raw_client(&self, host: u8) -> Peer {
        self.try_raw_client(host).await.expect("connected")
    }

    /// The same, who may be turned away.
    pub async fn try_raw_client(&self, host: u8) -> Result<Peer, String> {
        let mut endpoint = self.endpoint((host_addr(host), 0).into(), None);
        endpoint.set_default_client_config(Dial::default().config());
        Peer::connect_from(endpoint, SERVER).await
    }

    /// Somebody who has the server's address and its key: clients believe him.
    pub fn thief(&self) -> RawServer {
        let config = RawServer::config(&IDENTITY, ALPN);
        RawServer::on(self.endpoint(SERVER, Some(config)), &IDENTITY)
    }

    fn endpoint(&self, local: SocketAddr, server: Option<quinn::ServerConfig>) -> Endpoint {
        let plug = Plug(self.network.clone());
        let (mut config, mut seed) = (EndpointConfig::default(), [0; 32]);
        plug.random(&mut seed);
        config.rng_seed(Some(seed));
        let socket = Arc::new(InMemory(plug.bind(local).expect("a free address")));
        Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
            .expect("good settings")
    }
}

#[derive(Debug)]
struct InMemory(Arc<dyn Socket>);

impl AsyncUdpSocket for InMemory {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.send(transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, &mut bufs[0]).map(|(len, addr)| {
            meta[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            Ok(1)
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// The network drops what it has no room for.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
