//! A server's socket, and the connections that come to it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;

use super::courteous::Courtesy;
use super::socket::{bind, endpoint};
use super::{Completion, Connection, Handshake, Lost, varint};
use crate::code::LinkCode;
use crate::config::{Transport, UDP_PAYLOAD_MAX};
use crate::crypto::hmac_sha256;
use crate::environment::Environment;
use crate::error::BindError;
use crate::tls::{ServerTls, TlsError};

/// A server's socket.
#[derive(Clone, Debug)]
pub(crate) struct Listener(quinn::Endpoint, Arc<Terms>);

/// On what terms connections are accepted.
#[derive(Debug)]
struct Terms {
    server: quinn::ServerConfig,
    transport: Transport,
}

impl Terms {
    /// Those of one connection.
    fn with(&self, courtesy: &Arc<Courtesy>) -> quinn::ServerConfig {
        let mut server = self.server.clone();
        // The client knows how large datagrams may be: what it says that it takes is a
        // bound for what we send, too.
        let transport = self.transport.to_quinn(None, UDP_PAYLOAD_MAX, courtesy);
        server.transport_config(Arc::new(transport));
        server
    }
}

/// How long a server's stateless resets are spaced: not at all. The check of
/// connection ids against our key keeps strangers from provoking them, and with
/// quinn's default (20 ms) a restarted server would need 20 s to tell 1,000
/// clients.
const RESET_INTERVAL: Duration = Duration::ZERO;

impl Listener {
    pub(crate) fn bind(
        local: SocketAddr,
        tls: &ServerTls,
        early_data: bool,
        stable_key: Option<[u8; 32]>,
        max_sessions: u32,
        transport: &Transport,
        environment: &Environment,
    ) -> Result<Self, BindError> {
        let crypto =
            QuicServerConfig::try_from(tls.config(max_sessions, early_data, environment)?)
                .map_err(|error| BindError::Tls(TlsError::Other(error.to_string())))?;
        let server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let terms = Arc::new(Terms { server: server.clone(), transport: transport.clone() });

        // A restarted server must recognise the connection ids of its former
        // life and sign the resets that belong to them: both keys are stable.
        let derive = |label: &[u8]| match &stable_key {
            Some(key) => hmac_sha256(key, &[label]),
            None => tls.stable_key(label),
        };
        let reset_key = ResetKey(derive(b"evermux stateless reset"));
        let [a, b, c, d, e, f, g, h, ..] = derive(b"evermux connection id");
        let cid_key = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
        config
            .cid_generator(move || {
                Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key))
            })
            .min_reset_interval(RESET_INTERVAL);

        let sized = config.max_udp_payload_size(UDP_PAYLOAD_MAX).map_err(io::Error::other);
        sized
            .and_then(|_| bind(environment, local, transport))
            .and_then(|socket| endpoint(environment, config, Some(server), socket))
            .map(|endpoint| Self(endpoint, terms))
            .map_err(|source| BindError::Socket { local, source: Arc::new(source) })
    }

    /// The next connection attempt; `None` once closed.
    pub(crate) async fn accept(&self) -> Option<Attempt> {
        self.0.accept().await.map(|incoming| Attempt(incoming, self.1.clone()))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    pub(crate) fn close(&self, code: LinkCode, reason: &[u8]) {
        self.0.close(varint(code.to_wire()), reason);
    }

    pub(crate) async fn wait_idle(&self) {
        self.0.wait_idle().await;
    }
}

/// A connection attempt before any of its handshake was done.
#[derive(Debug)]
pub(crate) struct Attempt(quinn::Incoming, Arc<Terms>);

impl Attempt {
    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// The same for every packet that may begin this attempt, and for no other
    /// attempt: each client draws it at random (RFC 9000 section 7.2).
    pub(crate) fn name(&self) -> AttemptName {
        AttemptName::new(&self.0.orig_dst_cid())
    }

    pub(crate) fn refuse(self) {
        self.0.refuse();
    }

    /// Begins the handshake. The connection can be used at once: what comes on it
    /// before the [`Completion`] may be a repetition of what was sent before (RFC
    /// 8446 section 8).
    pub(crate) fn accept(self) -> Result<(Connection, Completion), Lost> {
        let courtesy = Arc::default();
        let terms = Arc::new(self.1.with(&courtesy));
        match Handshake(self.0.accept_with(terms)?, courtesy).early() {
            Ok(early) => Ok(early),
            // Not on the server's side, as quinn says.
            Err(_) => Err(Lost::Transport("no use before the handshake".into())),
        }
    }
}

/// The first destination connection id of a client, filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AttemptName([u8; CID_LEN_MAX]);

/// RFC 9000 section 17.2.
const CID_LEN_MAX: usize = 20;

impl AttemptName {
    pub(crate) fn new(cid: &[u8]) -> Self {
        let mut name = [0; CID_LEN_MAX];
        name.iter_mut().zip(cid).for_each(|(to, from)| *to = *from);
        Self(name)
    }
}

/// Signs stateless resets with HMAC-SHA-256.
struct ResetKey([u8; 32]);

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&hmac_sha256(&self.0, &[data]));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        let own = hmac_sha256(&self.0, &[data]);
        if bool::from(subtle::ConstantTimeEq::ct_eq(&own[..], signature)) {
            Ok(())
        } else {
            Err(quinn::crypto::CryptoError)
        }
    }
}
