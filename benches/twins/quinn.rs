//! quinn, with the settings that evermux gives it (`src/quic.rs`).

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use ::quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ::quinn::{
    Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, RecvStream, SendStream, TokioRuntime,
    TransportConfig, VarInt, congestion,
};
use bytes::Bytes;
use evermux::Identity;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Ends, Read, SOCKET_BUFFER, Settings, Twin, Write};

pub struct Quinn {
    near: Connection,
    far: Connection,
    endpoints: [Endpoint; 2],
}

impl Quinn {
    /// Both ends, with settings of one's own.
    pub async fn with(
        transport: TransportConfig,
        endpoint: EndpointConfig,
        socket_buffer: Option<usize>,
    ) -> Self {
        let identity = Identity::self_signed(&["localhost"]).expect("a key");
        let cert = CertificateDer::from_pem_slice(identity.certificate_pem().as_bytes());
        let (cert, transport) = (cert.expect("a certificate"), Arc::new(transport));
        let key = PrivateKeyDer::from_pem_slice(identity.private_key_pem().as_bytes());
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("it has TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![cert.clone()], key.expect("a key"))
            .expect("they belong together");
        let crypto = QuicServerConfig::try_from(tls).expect("a cipher for QUIC");
        let mut serving = ::quinn::ServerConfig::with_crypto(Arc::new(crypto));
        serving.transport_config(transport.clone());

        let mut roots = RootCertStore::empty();
        roots.add(cert).expect("a certificate");
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("it has TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let crypto = QuicClientConfig::try_from(tls).expect("a cipher for QUIC");
        let mut dialling = ::quinn::ClientConfig::new(Arc::new(crypto));
        dialling.transport_config(transport);

        let endpoint = |server| {
            let (config, socket) = (endpoint.clone(), socket(socket_buffer));
            Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).expect("an endpoint")
        };
        let (server, mut client) = (endpoint(Some(serving)), endpoint(None));
        client.set_default_client_config(dialling);
        Self::between([client, server]).await
    }

    /// One more connection between the same endpoints.
    pub async fn again(&self) -> Self {
        Self::between(self.endpoints.clone()).await
    }

    async fn between(endpoints: [Endpoint; 2]) -> Self {
        let [client, server] = &endpoints;
        let addr = server.local_addr().expect("bound");
        let connecting = client.connect(addr, "localhost").expect("good settings");
        let (near, far) = tokio::join!(connecting, async {
            server.accept().await.expect("it listens").await.expect("a handshake")
        });
        Self { near: near.expect("connected"), far, endpoints }
    }

    fn transport(settings: Settings) -> TransportConfig {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(settings.datagram);
        let mut config = TransportConfig::default();
        config
            .mtu_discovery_config(Some(discovery))
            .max_concurrent_bidi_streams(varint(settings.streams + 1))
            .max_concurrent_uni_streams(0_u32.into())
            .stream_receive_window(varint(settings.stream))
            .receive_window(varint(settings.connection))
            .send_window(settings.ahead)
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(Arc::new(congestion::CubicConfig::default()));
        config
    }
}

fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).expect("a window")
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

fn socket(buffer: Option<usize>) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    if let Some(buffer) = buffer {
        // The system may allow less, and evermux no more than it.
        let _ = socket.set_recv_buffer_size(buffer);
        let _ = socket.set_send_buffer_size(buffer);
    }
    let addr = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&addr.into()).expect("a port");
    socket.into()
}

/// Opens a stream that the peer sees: quinn sends nothing before there is something
/// to send.
const KNOCK: &[u8] = &[0];

impl Twin for Quinn {
    const NAME: &str = "quinn";
    type Writer = SendStream;
    type Reader = RecvStream;

    async fn connect(settings: Settings) -> Self {
        let mut endpoint = EndpointConfig::default();
        endpoint.max_udp_payload_size(settings.datagram).expect("more than 1,200");
        Self::with(Self::transport(settings), endpoint, Some(SOCKET_BUFFER)).await
    }

    async fn open(&self) -> [Ends<Self>; 2] {
        let mut near = self.dial().await;
        Write::write_all(&mut near.0, KNOCK).await;
        let mut far = self.accept().await;
        Read::read_exact(&mut far.1, &mut [0]).await;
        [near, far]
    }

    async fn dial(&self) -> Ends<Self> {
        self.near.open_bi().await.expect("a live connection")
    }

    async fn accept(&self) -> Ends<Self> {
        self.far.accept_bi().await.expect("a live connection")
    }

    async fn close(self) {
        for endpoint in &self.endpoints {
            endpoint.close(0_u32.into(), b"");
        }
        for endpoint in &self.endpoints {
            endpoint.wait_idle().await;
        }
    }
}

impl Write for SendStream {
    async fn write_all(&mut self, bytes: &[u8]) {
        Self::write_all(self, bytes).await.expect("a live stream");
    }

    async fn write_chunk(&mut self, bytes: Bytes) {
        Self::write_chunk(self, bytes).await.expect("a live stream");
    }

    fn finish(&mut self) {
        Self::finish(self).expect("not finished yet");
    }
}

impl Read for RecvStream {
    async fn read_chunk(&mut self, max: usize) -> Option<Bytes> {
        let chunk = Self::read_chunk(self, max, true).await.expect("a live stream");
        chunk.map(|chunk| chunk.bytes)
    }

    async fn read_exact(&mut self, bytes: &mut [u8]) {
        Self::read_exact(self, bytes).await.expect("a live stream");
    }
}
