//! The binding to QUIC: the only file that names quinn.
//!
//! Thin wrappers that keep three promises which quinn's own types do not:
//!
//! - a dropped [`SendStream`] is reset, never finished, so that a cancelled
//!   write cannot look like a complete message (quinn finishes, see quinn
//!   issue 2411);
//! - the end of a connection is told by what it means for a *session*
//!   ([`Lost`]);
//! - reads and writes can be polled with a `Bytes` chunk, without a copy.

mod courteous;
mod listener;
mod queue;
mod renewable;
mod shallow;
#[cfg(feature = "simulation")]
mod simulated;
mod socket;
mod tolerant;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig};
use quinn::{AsyncUdpSocket, ConnectionError, VarInt};

use crate::code::LinkCode;
use crate::config::Transport;
use crate::environment::Environment;
use crate::tls::{self, ClientTls, Fingerprint, TlsError};
use crate::wire::SECRET_LEN;
use courteous::{CourteousFactory, Courtesy};
pub(crate) use listener::{Attempt, AttemptName, Listener};
use renewable::Renewable;
use socket::{bind, endpoint};

/// Why a connection is no more, as far as its session cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nothing was heard for the idle timeout (or the handshake's).
    TimedOut,
    /// A stateless reset: the peer has forgotten the connection, as after a
    /// restart.
    Reset,
    /// The peer closed it on purpose.
    Closed { code: LinkCode, reason: Bytes },
    /// The TLS handshake failed.
    Tls(TlsError),
    /// No common version of QUIC.
    Version,
    /// The peer's QUIC stack refused the connection before the handshake.
    Refused,
    /// We closed it ourselves.
    Local,
    /// Anything else that QUIC can complain of.
    Transport(String),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Reset => f.write_str("the peer has forgotten the connection"),
            Self::Closed { code, .. } => write!(f, "closed by the peer ({code:?})"),
            Self::Tls(error) => write!(f, "TLS handshake failed: {error}"),
            Self::Version => f.write_str("the peer speaks another version of QUIC"),
            Self::Refused => f.write_str("the peer refuses connections"),
            Self::Local => f.write_str("closed here"),
            Self::Transport(reason) => f.write_str(reason),
        }
    }
}

/// The TLS alerts in QUIC's space of error codes (RFC 9001 section 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

/// CONNECTION_REFUSED (RFC 9000 section 20.1).
const CONNECTION_REFUSED: u64 = 0x2;

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            ConnectionError::ApplicationClosed(close) => Self::Closed {
                code: LinkCode::from_wire(close.error_code.into_inner()),
                reason: close.reason,
            },
            ConnectionError::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                let reason = String::from_utf8_lossy(&close.reason);
                if CRYPTO_ERRORS.contains(&code) {
                    Self::Tls(TlsError::from_alert(code as u8, &reason, true))
                } else if code == CONNECTION_REFUSED {
                    Self::Refused
                } else {
                    Self::Transport(format!("closed by the peer: {}", close.error_code))
                }
            }
            ConnectionError::TransportError(error) => {
                let code = u64::from(error.code);
                if CRYPTO_ERRORS.contains(&code) {
                    Self::Tls(TlsError::from_alert(code as u8, &error.reason, false))
                } else {
                    Self::Transport(error.to_string())
                }
            }
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::LocallyClosed => Self::Local,
            ConnectionError::CidsExhausted => Self::Transport(error.to_string()),
        }
    }
}

/// A stream is of no use any more; what that means is said elsewhere (the
/// control stream, or the end of the connection).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamGone;

/// Error code of RESET_STREAM and STOP_SENDING frames. It carries no meaning:
/// ends of pipes travel on the control stream, where they survive the
/// connection (P-11).
const STREAM_CODE: VarInt = VarInt::from_u32(0);

/// The sending side of a stream. Reset when dropped, unless finished.
#[derive(Debug)]
pub(crate) struct SendStream(quinn::SendStream);

impl SendStream {
    /// Hands `chunks` to the stream, from the front, without copying them, and
    /// says how many bytes were taken.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, StreamGone>> {
        // Documented to be cancel-safe: nothing is lost if it is dropped.
        let write = pin!(self.0.write_chunks(chunks));
        write.poll(cx).map(|written| written.map(|w| w.bytes).map_err(|_| StreamGone))
    }

    /// Ends the stream after what was written.
    pub(crate) fn finish(&mut self) {
        // Fails only if the stream is finished or reset already.
        let _ = self.0.finish();
    }

    /// Ends the stream, and keeps it until the peer has all of it or wants no
    /// more.
    pub(crate) async fn linger(mut self) {
        self.finish();
        let _ = self.0.stopped().await;
    }

    /// Streams of higher priority are sent first; 0 is the default.
    pub(crate) fn set_priority(&self, priority: i32) {
        let _ = self.0.set_priority(priority);
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        // Not if it was finished and all of it acknowledged.
        let _ = self.0.reset(STREAM_CODE);
    }
}

/// The receiving side of a stream. Stopped when dropped, unless read to its
/// end.
#[derive(Debug)]
pub(crate) struct RecvStream(quinn::RecvStream);

impl RecvStream {
    /// Copies bytes into `buf`, which is not empty; 0 at the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, StreamGone>> {
        self.0.poll_read(cx, buf).map_err(|_| StreamGone)
    }

    /// The next chunk, of at most `max` bytes, without a copy; `None` at the
    /// end.
    #[inline]
    pub(crate) fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamGone>> {
        // Documented to be cancel-safe.
        let read = pin!(self.0.read_chunk(max, true));
        read.poll(cx).map(|chunk| chunk.map(|c| c.map(|c| c.bytes)).map_err(|_| StreamGone))
    }

    /// As [`poll_read_chunk`](Self::poll_read_chunk).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if it is dropped.
    pub(crate) async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamGone> {
        std::future::poll_fn(|cx| self.poll_read_chunk(cx, max)).await
    }
}

/// A QUIC connection. Its handshake is complete, unless there is a [`Completion`]
/// that says when it is.
#[derive(Clone, Debug)]
pub(crate) struct Connection(quinn::Connection, Arc<Courtesy>);

impl Connection {
    pub(crate) async fn open_bi(&self) -> Result<(SendStream, RecvStream), Lost> {
        let (send, recv) = self.0.open_bi().await?;
        Ok((SendStream(send), RecvStream(recv)))
    }

    /// Opens a stream if the peer's limit allows one right now.
    pub(crate) fn try_open_bi(&self) -> Option<(SendStream, RecvStream)> {
        let open = pin!(self.0.open_bi());
        match open.poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Ok((send, recv))) => Some((SendStream(send), RecvStream(recv))),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    pub(crate) async fn accept_bi(&self) -> Result<(SendStream, RecvStream), Lost> {
        let (send, recv) = self.0.accept_bi().await?;
        Ok((SendStream(send), RecvStream(recv)))
    }

    /// Allows the peer so many open streams at a time.
    pub(crate) fn set_max_streams(&self, count: u64) {
        self.0.set_max_concurrent_bi_streams(varint(count));
    }

    pub(crate) async fn closed(&self) -> Lost {
        self.0.closed().await.into()
    }

    /// Ends the connection; what is under way is lost.
    pub(crate) fn close(&self, code: LinkCode, reason: &[u8]) {
        self.1.leave();
        self.0.close(varint(code.to_wire()), reason);
    }

    /// What was sent is not acknowledged, and probably lost. Until an ack comes, some
    /// packets may go out beyond the congestion window, which is full: only the
    /// answer to a new packet shows that the old ones are lost. QUIC's own probes are
    /// not subject to the window either (RFC 9002 section 7.5), but become rare.
    pub(crate) fn expect_loss(&self) {
        self.1.expect_loss();
    }

    /// Waits until something is acknowledged that was sent while
    /// [losses were expected](Self::expect_loss).
    pub(crate) async fn revived(&self) {
        self.1.revived().await;
    }

    /// Somebody waits for small things that this connection carries: for the next
    /// seconds it is not to fill the queue of its path beyond need.
    pub(crate) fn keep_queue_short(&self) {
        self.1.keep_queue_short();
    }

    /// How often the peer has acknowledged something that it had not before: grows
    /// while what is sent arrives. (ACK frames alone show nothing: they come with what
    /// the peer sends by itself, too.)
    pub(crate) fn acks_received(&self) -> u64 {
        self.1.acks()
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.0.remote_address()
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.0.rtt()
    }

    /// What was sent and received, in bytes of UDP payload.
    pub(crate) fn udp_bytes(&self) -> (u64, u64) {
        let stats = self.0.stats();
        (stats.udp_tx.bytes, stats.udp_rx.bytes)
    }

    /// The largest UDP payload that is known to get through.
    pub(crate) fn mtu(&self) -> u16 {
        self.0.stats().path.current_mtu
    }

    /// Keying material for proofs that are good on this connection only.
    pub(crate) fn exporter(&self) -> Result<[u8; SECRET_LEN], Lost> {
        let mut output = [0; SECRET_LEN];
        match self.0.export_keying_material(&mut output, tls::EXPORTER_LABEL, b"") {
            Ok(()) => Ok(output),
            // Only before the handshake is complete.
            Err(_) => Err(Lost::Transport("the TLS exporter is not ready".into())),
        }
    }

    /// The public key that the peer has proved to hold, if it showed one.
    pub(crate) fn peer_fingerprint(&self) -> Option<Fingerprint> {
        tls::peer_fingerprint(self.0.peer_identity())
    }
}

/// A client's connection whose handshake has begun.
#[derive(Debug)]
pub(crate) struct Handshake(quinn::Connecting, Arc<Courtesy>);

impl Handshake {
    /// The connection, to be used before its handshake is complete: with a ticket of
    /// the server's that allows it. Without, the handshake just goes on.
    pub(crate) fn early(self) -> Result<(Connection, Completion), Self> {
        match self.0.into_0rtt() {
            Ok((connection, accepted)) => {
                Ok((Connection(connection, self.1), Completion { accepted, complete: None }))
            }
            Err(connecting) => Err(Self(connecting, self.1)),
        }
    }

    /// The connection, once its handshake is complete.
    pub(crate) async fn complete(self) -> Result<Connection, Lost> {
        Ok(Connection(self.0.await?, self.1))
    }
}

/// Tells when the handshake of a connection is complete that is in use already.
pub(crate) struct Completion {
    accepted: quinn::ZeroRttAccepted,
    /// What it has told, if it has.
    complete: Option<bool>,
}

impl Completion {
    /// Waits for the handshake of `connection`, whose completion this is. Client:
    /// says whether the server has taken what was sent before; if not, the streams
    /// that were opened before are gone, and the connection is as good as new.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again, also when it was ready before.
    pub(crate) async fn wait(&mut self, connection: &Connection) -> Result<bool, Lost> {
        let accepted = match self.complete {
            Some(accepted) => accepted,
            None => *self.complete.insert((&mut self.accepted).await),
        };
        match connection.0.close_reason() {
            Some(error) => Err(error.into()),
            None => Ok(accepted),
        }
    }
}

/// A client's socket: one for each dial, so that a broken path is not reused.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    endpoint: quinn::Endpoint,
    socket: Arc<Renewable>,
    binding: Arc<Binding>,
    kicks: u64,
}

/// How a client's socket was made, to make another like it.
#[derive(Debug)]
struct Binding {
    local: SocketAddr,
    remote: SocketAddr,
    max_udp_payload: u16,
    transport: Transport,
    environment: Environment,
}

impl Dialler {
    /// A fresh socket of the family of `remote`, for datagrams of at most so many bytes.
    pub(crate) fn bind(
        local: Option<std::net::IpAddr>,
        remote: SocketAddr,
        max_udp_payload: u16,
        transport: &Transport,
        environment: &Environment,
    ) -> io::Result<Self> {
        let any = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = local.filter(|ip| ip.is_ipv4() == remote.is_ipv4()).unwrap_or(any);
        let mut config = quinn::EndpointConfig::default();
        config.max_udp_payload_size(max_udp_payload).map_err(io::Error::other)?;
        let local = SocketAddr::new(local, 0);
        let (transport, environment) = (transport.clone(), environment.clone());
        let binding = Arc::new(Binding { local, remote, max_udp_payload, transport, environment });
        let socket = binding.renewable()?;
        let endpoint = endpoint(&binding.environment, config, None, socket.clone())?;
        Ok(Self { endpoint, socket, binding, kicks: 0 })
    }

    /// Has the connection, which was dialled here, send something right now, however
    /// long its loss timer has backed off.
    ///
    /// QUIC tells the peer of a window that has grown, by a byte. (A rebind to the same
    /// socket would have it ping. But beside a stateless reset that is just arriving, a
    /// rebind makes the endpoint panic: quinn-proto 0.11.19 takes a fresh connection id
    /// for a connection that it has forgotten.)
    pub(crate) fn kick(&mut self, connection: &Connection) {
        self.kicks += 1;
        let window = self.binding.transport.receive_window.saturating_add(self.kicks);
        connection.0.set_receive_window(varint(window));
    }

    /// Moves to a fresh socket, and has every connection send something from there:
    /// a migration (RFC 9000 section 9). What still comes to the old socket is heard
    /// until something comes to the new one.
    pub(crate) fn migrate(&mut self) -> io::Result<()> {
        let socket = self.binding.renewable()?;
        self.socket = socket.clone();
        self.endpoint.rebind_abstract(socket)
    }

    /// From now on what is sent goes out from a fresh socket too, and the first of the
    /// two that is answered goes on: it may be the path from the old one alone that is
    /// dead.
    pub(crate) fn try_beside(&self) -> io::Result<()> {
        self.socket.try_beside(self.binding.bind()?);
        Ok(())
    }

    /// The server has answered: only the socket on which it was heard is kept.
    pub(crate) fn settle(&self) {
        self.socket.settle();
    }

    /// Begins the handshake with `remote`.
    pub(crate) fn connect(
        &self,
        remote: SocketAddr,
        server_name: &str,
        config: &ClientQuic,
        early_data: EarlyData,
        last_rtt: Option<Duration>,
    ) -> Result<Handshake, DialFailed> {
        let mut quic = match early_data {
            EarlyData::Allowed => config.eager.clone(),
            EarlyData::Withheld => config.sparing.clone(),
        };
        let courtesy = Arc::default();
        let max_udp_payload = self.binding.max_udp_payload;
        let transport = config.transport.to_quinn(last_rtt, max_udp_payload, &courtesy);
        quic.transport_config(Arc::new(transport));
        let connecting =
            self.endpoint.connect_with(quic, remote, server_name).map_err(|error| match error {
                quinn::ConnectError::InvalidServerName(name) => DialFailed::ServerName(name),
                quinn::ConnectError::InvalidRemoteAddress(_) => DialFailed::Address,
                other => DialFailed::Lost(Lost::Transport(other.to_string())),
            })?;
        Ok(Handshake(connecting, courtesy))
    }

    /// Waits until all connections have said goodbye.
    pub(crate) async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Binding {
    fn renewable(&self) -> io::Result<Arc<Renewable>> {
        Ok(Renewable::new(self.bind()?, self.remote, self.max_udp_payload))
    }

    fn bind(&self) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        bind(&self.environment, self.local, &self.transport)
    }
}

/// Why a dial came to nothing.
#[derive(Clone, Debug)]
pub(crate) enum DialFailed {
    ServerName(String),
    Address,
    Lost(Lost),
}

/// What every dial of a client has in common: TLS state (so that tickets carry
/// over) and transport settings.
#[derive(Clone, Debug)]
pub(crate) struct ClientQuic {
    /// With tickets to the last, and early data if that is wanted at all.
    eager: quinn::ClientConfig,
    /// Without early data, and without the last tickets.
    sparing: quinn::ClientConfig,
    transport: Transport,
}

/// Whether a dial may be used before its handshake is complete, if there is a ticket for
/// that. If not, it leaves the last tickets alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EarlyData {
    Allowed,
    Withheld,
}

impl ClientQuic {
    pub(crate) fn new(
        tls: &ClientTls,
        early_data: bool,
        transport: &Transport,
        environment: &Environment,
    ) -> Result<Self, TlsError> {
        let (eager, sparing) = tls.configs(early_data, environment)?;
        let [eager, sparing] = [eager, sparing].map(|tls| {
            let crypto = QuicClientConfig::try_from(tls);
            crypto.map(|crypto| quinn::ClientConfig::new(Arc::new(crypto)))
        });
        let unusable = |error: NoInitialCipherSuite| TlsError::Other(error.to_string());
        Ok(Self {
            eager: eager.map_err(unusable)?,
            sparing: sparing.map_err(unusable)?,
            transport: transport.clone(),
        })
    }
}

impl Transport {
    fn to_quinn(
        &self,
        last_rtt: Option<Duration>,
        max_udp_payload: u16,
        courtesy: &Arc<Courtesy>,
    ) -> quinn::TransportConfig {
        let (control, courtesy) = (self.congestion, courtesy.clone());
        let mut config = quinn::TransportConfig::default();
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        discovery.upper_bound(max_udp_payload);
        config
            .mtu_discovery_config(Some(discovery))
            .max_concurrent_bidi_streams(varint(self.initial_streams))
            .max_concurrent_uni_streams(varint(0))
            .stream_receive_window(varint(self.stream_window))
            .receive_window(varint(self.receive_window))
            // What QUIC holds is in the replay buffers too, whose budgets bound
            // it. A window here would only starve: when it is full, quinn-proto
            // 0.11.19 lets the stream write on that was blocked last, and the
            // one that was blocked first not until all others are idle.
            .send_window(u64::MAX)
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(Arc::new(CourteousFactory { control, courtesy }));
        let idle = VarInt::from_u64(self.idle_timeout.as_millis() as u64).unwrap_or(VarInt::MAX);
        config.max_idle_timeout(Some(idle.into()));
        if let Some(rtt) = last_rtt {
            // A lost first packet costs three times this guess; quinn's own is
            // 333 ms.
            config.initial_rtt((rtt * 3 / 2).clamp(INITIAL_RTT_MIN, INITIAL_RTT_MAX));
        }
        config
    }
}

/// Bounds of the guessed round-trip time of a new connection. Below 25 ms
/// nothing is gained; above 333 ms (RFC 9002 section 6.2.2) the guess may be a
/// leftover of a congested moment.
const INITIAL_RTT_MIN: Duration = Duration::from_millis(25);
const INITIAL_RTT_MAX: Duration = Duration::from_millis(333);

/// Values beyond a varint mean "no limit" in every place we use them.
fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}
