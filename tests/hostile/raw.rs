//! QUIC without evermux: peers that say what a test wants.
//!
//! Frames, headers and proofs are made here a second time, from the manual
//! alone: nothing of the crate's own is used.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use evermux::{Fingerprint, Identity};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{RecvStream, SendStream, VarInt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

pub const ALPN: &[u8] = b"evermux/1";

/// Frame types, as in the manual.
pub mod frames {
    pub const HELLO: u64 = 0x01;
    pub const WELCOME: u64 = 0x02;
    pub const RESUME: u64 = 0x03;
    pub const RESUMED: u64 = 0x04;
    pub const TABLE_HEAD: u64 = 0x05;
    pub const GAPS: u64 = 0x06;
    pub const POSITIONS: u64 = 0x07;
    pub const TABLE_END: u64 = 0x08;
    pub const ACKS: u64 = 0x09;
    pub const RESET: u64 = 0x0a;
    pub const STOP: u64 = 0x0b;
    pub const PING: u64 = 0x0c;
    pub const PONG: u64 = 0x0d;
    pub const CLOSE: u64 = 0x0e;
    pub const EARLY: u64 = 0x0f;
    pub const EARLY_ANSWER: u64 = 0x10;
}

/// Codes of CONNECTION_CLOSE (P-30).
pub mod codes {
    pub const REPLACED: u64 = 1;
    pub const SUPERSEDED: u64 = 2;
    pub const SESSION_CLOSED: u64 = 3;
    pub const VIOLATION: u64 = 4;
    pub const REFUSED: u64 = 5;
    pub const DETACH: u64 = 6;
}

/// Max_pipes 1,024, replay capacity 16 MiB, receive budget 128 MiB.
pub const PARAMETERS: &[u8] = &[0x44, 0, 0x81, 0, 0, 0, 0x88, 0, 0, 0];

pub fn varint(value: u64) -> Vec<u8> {
    match value {
        0..=0x3f => vec![value as u8],
        0x40..=0x3fff => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..=0x3fff_ffff => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// Takes a varint from the front of `bytes`.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let len = 1 << (first >> 6);
    let taken = bytes.get(..len)?;
    *bytes = &bytes[len..];
    let tail = taken[1..].iter();
    Some(tail.fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}

/// Numbers in a row, as payloads have them.
pub fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| varint(*value)).collect()
}

pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [&numbers(&[kind, payload.len() as u64])[..], payload].concat()
}

pub fn hello(holder: &[u8; 16]) -> Vec<u8> {
    frame(frames::HELLO, &[holder, PARAMETERS].concat())
}

/// A table without gaps: how many pipes were opened here, how many of the
/// peer's were seen, and for each live pipe its id and how far it was read, as a run of
/// its own.
pub fn table(opened: u64, seen: u64, positions: &[(u64, u64)]) -> Vec<u8> {
    let run = |(pipe, read): &(u64, u64)| numbers(&[*pipe, 0, 1, *read]);
    let entries = |part: &[(u64, u64)]| -> Vec<u8> { part.iter().flat_map(run).collect() };
    // As many as a frame may hold.
    let parts = positions.chunks(1024).map(|part| frame(frames::POSITIONS, &entries(part)));
    [
        frame(frames::TABLE_HEAD, &numbers(&[opened, seen])),
        parts.collect::<Vec<_>>().concat(),
        frame(frames::TABLE_END, &numbers(&[positions.len() as u64])),
    ]
    .concat()
}

/// The header of an opener's stream; without a label it goes on with a pipe
/// that both know.
pub fn header(epoch: u64, pipe: u64, start: u64, label: Option<&[u8]>) -> Vec<u8> {
    let kind = if label.is_some() { 0x40 } else { 0x41 };
    let fields = [&numbers(&[epoch, pipe, start])[..], label.unwrap_or_default()].concat();
    [&[kind][..], &varint(fields.len() as u64), &fields].concat()
}

/// What a holder of the secret can prove, and on which connection (P-15).
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub session: [u8; 16],
    pub epoch: u64,
    pub holder: [u8; 16],
    pub exporter: [u8; 32],
}

impl Claim {
    pub fn client_proof(&self, secret: &[u8; 32]) -> [u8; 32] {
        self.derive(secret, b"evermux client proof")
    }

    pub fn server_proof(&self, secret: &[u8; 32]) -> [u8; 32] {
        self.derive(secret, b"evermux server proof")
    }

    pub fn next_secret(&self, secret: &[u8; 32]) -> [u8; 32] {
        self.derive(secret, b"evermux next secret ")
    }

    /// With a nonce in the place of the exporter (P-36).
    pub fn early_proof(&self, secret: &[u8; 32]) -> [u8; 32] {
        self.derive(secret, b"evermux early claim ")
    }

    pub fn early_reply(&self, secret: &[u8; 32]) -> [u8; 32] {
        self.derive(secret, b"evermux early reply ")
    }

    /// `EARLY`, with how far these pipes were read.
    pub fn early(&self, proof: &[u8; 32], reads: &[(u64, u64)]) -> Vec<u8> {
        let (epoch, nonce) = (varint(self.epoch), &self.exporter[..]);
        let reads: Vec<u8> =
            reads.iter().flat_map(|(pipe, read)| numbers(&[*pipe, *read])).collect();
        let payload = [&self.session[..], &epoch, &self.holder, nonce, proof, &reads].concat();
        frame(frames::EARLY, &payload)
    }

    /// `RESUME`, without a table.
    pub fn resume(&self, proof: &[u8; 32]) -> Vec<u8> {
        let epoch = varint(self.epoch);
        frame(frames::RESUME, &[&self.session[..], &epoch, &self.holder, proof].concat())
    }

    fn derive(&self, secret: &[u8; 32], label: &[u8; 20]) -> [u8; 32] {
        let epoch = self.epoch.to_be_bytes();
        let message =
            [&label[..], &self.session, &epoch, &self.holder, &self.exporter[..]].concat();
        hmac_sha256(secret, &message)
    }
}

/// RFC 2104.
fn hmac_sha256(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| -> Vec<u8> {
        (0..64).map(|at| key.get(at).copied().unwrap_or_default() ^ byte).collect()
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// One end of a QUIC connection.
pub struct Peer {
    pub connection: quinn::Connection,
    endpoint: quinn::Endpoint,
}

impl Peer {
    /// A client that trusts everybody.
    pub async fn connect(addr: SocketAddr) -> Result<Self, String> {
        Dial::default().connect(addr).await
    }

    /// From an endpoint with a configuration for clients.
    pub async fn connect_from(endpoint: quinn::Endpoint, addr: SocketAddr) -> Result<Self, String> {
        match endpoint.connect(addr, "localhost").unwrap().await {
            Ok(connection) => Ok(Self { connection, endpoint }),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Another connection, with a ticket of this one, that is used before its
    /// handshake is complete.
    pub fn dial_again(&self, addr: SocketAddr) -> (Self, quinn::ZeroRttAccepted) {
        let connecting = self.endpoint.connect(addr, "localhost").unwrap();
        let (connection, accepted) = connecting.into_0rtt().expect("a ticket");
        (Self { connection, endpoint: self.endpoint.clone() }, accepted)
    }

    /// The application code and reason with which the other side closes.
    pub async fn closed(&self) -> (u64, String) {
        match self.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
            }
            other => panic!("not closed by the application: {other}"),
        }
    }

    pub fn close(&self, code: u64, reason: &[u8]) {
        self.connection.close(VarInt::from_u64(code).unwrap(), reason);
    }

    pub fn exporter(&self) -> [u8; 32] {
        let mut output = [0; 32];
        let label = b"EXPORTER-evermux-resume";
        self.connection.export_keying_material(&mut output, label, b"").unwrap();
        output
    }

    /// Client: the control stream.
    pub async fn open_control(&self) -> Control {
        let (send, recv) = self.connection.open_bi().await.unwrap();
        Control { send, recv, read: Vec::new() }
    }

    /// Server: the control stream.
    pub async fn accept_control(&self) -> Control {
        let (send, recv) = self.connection.accept_bi().await.unwrap();
        Control { send, recv, read: Vec::new() }
    }

    /// A stream that begins with these bytes.
    pub async fn stream(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        // Fails if the connection is closed already: the test looks at that.
        let _ = send.write_all(bytes).await;
        (send, recv)
    }
}

/// A control stream, by hand.
pub struct Control {
    pub send: SendStream,
    pub recv: RecvStream,
    read: Vec<u8>,
}

impl Control {
    /// Fails silently if the connection is closed: the test looks at that.
    pub async fn say(&mut self, bytes: &[u8]) {
        let _ = self.send.write_all(bytes).await;
    }

    /// The next frame: its type and payload.
    pub async fn next(&mut self) -> (u64, Vec<u8>) {
        loop {
            let mut rest = &self.read[..];
            if let (Some(kind), Some(len)) = (take_varint(&mut rest), take_varint(&mut rest))
                && let Some(payload) = rest.get(..len as usize)
            {
                let frame = (kind, payload.to_vec());
                self.read = rest[len as usize..].to_vec();
                return frame;
            }
            let chunk = self.recv.read_chunk(usize::MAX, true).await.unwrap().expect("open");
            self.read.extend_from_slice(&chunk.bytes);
        }
    }

    /// The payload of the next frame of this type.
    pub async fn wait_for(&mut self, wanted: u64) -> Vec<u8> {
        loop {
            let (kind, payload) = self.next().await;
            if kind == wanted {
                return payload;
            }
        }
    }
}

/// How a client dials.
pub struct Dial {
    pub from: Ipv4Addr,
    pub alpn: Vec<u8>,
    pub identity: Option<Identity>,
    /// How much the server may send ahead on a stream.
    pub window: u32,
}

impl Default for Dial {
    fn default() -> Self {
        Self { from: Ipv4Addr::LOCALHOST, alpn: ALPN.to_vec(), identity: None, window: 1 << 20 }
    }
}

impl Dial {
    pub fn config(&self) -> quinn::ClientConfig {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider())));
        let mut tls = match &self.identity {
            Some(identity) => {
                let (chain, key) = chain_and_key(identity);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![self.alpn.clone()];
        tls.enable_early_data = true;
        let crypto = QuicClientConfig::try_from(tls).unwrap();
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(self.window.into()).send_window(256 * 1024);
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        config
    }

    pub fn endpoint(&self) -> quinn::Endpoint {
        let mut endpoint = quinn::Endpoint::client((self.from, 0).into()).unwrap();
        endpoint.set_default_client_config(self.config());
        endpoint
    }

    pub async fn connect(&self, addr: SocketAddr) -> Result<Peer, String> {
        Peer::connect_from(self.endpoint(), addr).await
    }
}

/// A QUIC server that does nothing by itself.
pub struct RawServer {
    pub addr: SocketAddr,
    pub pin: Fingerprint,
    identity: Identity,
    endpoint: quinn::Endpoint,
}

impl RawServer {
    pub fn new(alpn: &[u8]) -> Self {
        let identity = Identity::self_signed(&["localhost"]).unwrap();
        let config = Self::config(&identity, alpn);
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self::on(endpoint, &identity)
    }

    /// On an endpoint with a configuration of this identity.
    pub fn on(endpoint: quinn::Endpoint, identity: &Identity) -> Self {
        let (pin, identity) = (identity.fingerprint(), identity.clone());
        Self { addr: endpoint.local_addr().unwrap(), pin, identity, endpoint }
    }

    /// One that takes early data.
    pub fn eager() -> Self {
        let identity = Identity::self_signed(&["localhost"]).unwrap();
        let config = Self::config_with(&identity, ALPN, u32::MAX);
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self::on(endpoint, &identity)
    }

    /// Knows none of the tickets given so far, as after a restart; it takes early data.
    pub fn forget_tickets(&self) {
        let config = Self::config_with(&self.identity, ALPN, u32::MAX);
        self.endpoint.set_server_config(Some(config));
    }

    pub fn config(identity: &Identity, alpn: &[u8]) -> quinn::ServerConfig {
        Self::config_with(identity, alpn, 0)
    }

    fn config_with(identity: &Identity, alpn: &[u8], early_data: u32) -> quinn::ServerConfig {
        let (chain, key) = chain_and_key(identity);
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        tls.max_early_data_size = early_data;
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        quinn::ServerConfig::with_crypto(Arc::new(crypto))
    }

    /// The next client, before its handshake is complete.
    pub async fn accept_early(&self) -> Peer {
        let connecting = self.endpoint.accept().await.expect("open").accept().unwrap();
        let (connection, _) = connecting.into_0rtt().expect("a server");
        Peer { connection, endpoint: self.endpoint.clone() }
    }

    /// The next client, if its handshake succeeds.
    pub async fn accept(&self) -> Result<Peer, quinn::ConnectionError> {
        let connection = self.endpoint.accept().await.expect("open").await?;
        Ok(Peer { connection, endpoint: self.endpoint.clone() })
    }
}

fn chain_and_key(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::from_pem_slice(identity.certificate_pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.private_key_pem().as_bytes()).unwrap();
    (vec![chain], key)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

/// Trusts any certificate: the tests are about what comes after.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn proofs_match_the_vectors_of_the_manual() {
    let claim = Claim { session: [0x11; 16], epoch: 2, holder: [0xaa; 16], exporter: [0x55; 32] };
    let secret = [0x22; 32];
    let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
    for (derived, vector) in [
        (claim.client_proof(&secret), "cc3e9a66e3d21b273875db509c047cc9"),
        (claim.server_proof(&secret), "673701fb457f4478c5e830a05cdb2ff0"),
        (claim.next_secret(&secret), "17305dcba624f4c33fbd132d3a9bb261"),
    ] {
        assert_eq!(hex(derived)[..32], *vector);
    }
    let early = Claim { exporter: [0x66; 32], ..claim };
    assert_eq!(hex(early.early_proof(&secret))[..32], *"f18d978e8fbfe3655fb6740e420ac4d5");
    assert_eq!(hex(early.early_reply(&secret))[..32], *"6c59295832d01a7afd728bc80a28fe81");
}
