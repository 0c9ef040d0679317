//! The QUIC below evermux, by itself.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use ::quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ::quinn::{Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig};
use socket2::SockRef;

use crate::BoxError;
use crate::contender::Link;
use crate::road::{Road, Way};
use crate::tls::Credentials;

/// In bytes, the largest.
const DATAGRAM: u16 = 6500;

#[derive(Default)]
pub struct Settings {
    transport: TransportConfig,
    endpoint: EndpointConfig,
    /// In bytes; what the system gives if there is none.
    socket_buffer: Option<usize>,
}

impl Settings {
    /// What evermux sets to a loopback address (its congestion control is its own,
    /// though).
    pub fn evermux() -> Result<Self, BoxError> {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(DATAGRAM);
        let mut endpoint = EndpointConfig::default();
        endpoint.max_udp_payload_size(DATAGRAM)?;
        let mut transport = TransportConfig::default();
        transport
            .mtu_discovery_config(Some(discovery))
            .stream_receive_window((4_u32 << 20).into())
            .receive_window((193_u32 << 20).into())
            .send_window(16 << 20)
            .datagram_receive_buffer_size(None);
        Ok(Self { transport, endpoint, socket_buffer: Some(4 << 20) })
    }

    fn socket(&self) -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        if let Some(len) = self.socket_buffer {
            // The system may allow less, and evermux no more than it.
            let _ = SockRef::from(&socket).set_recv_buffer_size(len);
            let _ = SockRef::from(&socket).set_send_buffer_size(len);
        }
        Ok(socket)
    }
}

pub async fn connect(way: Way, settings: Settings) -> Result<Link, BoxError> {
    let sockets = [settings.socket()?, settings.socket()?];
    let (tls, transport) = (Credentials::new()?, Arc::new(settings.transport));
    let crypto = QuicServerConfig::try_from(tls.server)?;
    let mut serving = ::quinn::ServerConfig::with_crypto(Arc::new(crypto));
    serving.transport_config(transport.clone());
    let crypto = QuicClientConfig::try_from(tls.client)?;
    let mut dialling = ::quinn::ClientConfig::new(Arc::new(crypto));
    dialling.transport_config(transport);

    let endpoint = |socket, server| {
        Endpoint::new(settings.endpoint.clone(), server, socket, Arc::new(TokioRuntime))
    };
    let [socket, other] = sockets;
    let (server, client) = (endpoint(socket, Some(serving))?, endpoint(other, None)?);
    let road = Road::datagrams(way, server.local_addr()?).await?;
    let connecting = client.connect_with(dialling, road.addr(), "localhost")?;
    let (near, far) = tokio::join!(connecting, async {
        let incoming = server.accept().await.ok_or("the server is closed")?;
        Ok::<_, BoxError>(incoming.await?)
    });
    let (near, far) = (near?, far?);
    let (mut send, recv) = near.open_bi().await?;
    // The peer does not see a stream before there is something in it.
    send.write_all(&[0]).await?;
    let (back, mut forth) = far.accept_bi().await?;
    forth.read_exact(&mut [0]).await?;
    let keep = Box::new((server, client, near, far));
    let (near, far) = (tokio::io::join(recv, send), tokio::io::join(forth, back));
    Ok(Link { near: Box::new(near), far: Box::new(far), road, keep })
}
