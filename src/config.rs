//! Settings. Setters cannot fail; what does not fit together is refused once,
//! when a client or server is made.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::environment::Environment;
use crate::error::ConfigError;
use crate::proto::PIPE_SHARE;
use crate::tls::{ClientTls, ServerTls};
use crate::wire::Parameters;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// What both ends of a session have in common.
///
/// ```
/// # use std::time::Duration;
/// let mut config = evermux::SessionConfig::default();
/// config.replay_capacity(1 << 20).probe_interval(Duration::from_secs(2));
/// ```
#[derive(Clone, Debug)]
pub struct SessionConfig {
    max_pipes: u64,
    pub(crate) replay_capacity: u64,
    pub(crate) replay_budget: u64,
    pub(crate) probe_interval: Option<Duration>,
    pub(crate) probe_timeout: Duration,
    pub(crate) suspect_after: Duration,
    pub(crate) kick_interval: Duration,
    pub(crate) optimistic_replay: u64,
    idle_timeout: Duration,
    stream_window: u64,
    initial_streams: u64,
    socket_buffer: usize,
    congestion: CongestionControl,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            max_pipes: 1024,
            replay_capacity: 16 * MIB,
            replay_budget: 64 * MIB,
            probe_interval: Some(Duration::from_secs(15)),
            probe_timeout: Duration::from_secs(100),
            suspect_after: Duration::from_millis(300),
            kick_interval: Duration::from_millis(20),
            optimistic_replay: 64 * KIB,
            idle_timeout: Duration::from_secs(120),
            stream_window: 4 * MIB,
            initial_streams: 64,
            socket_buffer: 4 << 20,
            congestion: CongestionControl::default(),
        }
    }
}

impl SessionConfig {
    /// How many pipes each side may have opened and live at a time. Default
    /// 1,024; the lower of both sides' settings counts. Beyond it `open_pipe`
    /// fails.
    pub fn max_pipes(&mut self, pipes: u64) -> &mut Self {
        self.max_pipes = pipes;
        self
    }

    /// How many bytes each pipe keeps for replay, at most: written here and not
    /// yet read by the application on the other side. Default 16 MiB. At the
    /// bound writes wait.
    ///
    /// This is how far a writer can run ahead of its reader while the link is down
    /// (while it is up, the reader's [`stream_window`](Self::stream_window) counts
    /// too). Below the bandwidth-delay product (bytes per second times round-trip
    /// seconds) it limits throughput. Memory is taken as bytes are written.
    pub fn replay_capacity(&mut self, bytes: u64) -> &mut Self {
        self.replay_capacity = bytes;
        self
    }

    /// How many bytes all pipes of a session keep together, beyond 64 KiB that
    /// each has for itself. Default 64 MiB. At the bound writes of the pipes
    /// that have used up their own 64 KiB wait.
    ///
    /// Worst case for a session: this + live pipes x 64 KiB. The same sum is
    /// what this side is willing to hold unread for the peer, and the peer keeps
    /// within it, so that a stopped reader never stops another pipe.
    pub fn replay_budget(&mut self, bytes: u64) -> &mut Self {
        self.replay_budget = bytes;
        self
    }

    /// Client: how often the link is probed while pipes are open. Default 15 s,
    /// below the 30 s after which many NATs forget a UDP flow; every second (at
    /// most this) for ten seconds after traffic. Without pipes a quarter of the idle
    /// timeout is enough.
    ///
    /// With `None` there is no keep-alive: while nobody writes, nothing is sent, in
    /// neither direction, for ever. Then a NAT may forget the client, and what the server
    /// writes reaches it only after it has written something itself, or was told of a
    /// [change](crate::Session::network_changed); and *both* sides need an
    /// [`idle_timeout`](Self::idle_timeout) longer than anybody is silent, or the
    /// connection is lost and made anew each time that it has passed.
    pub fn probe_interval(&mut self, interval: impl Into<Option<Duration>>) -> &mut Self {
        self.probe_interval = interval.into();
        self
    }

    /// Client: how long a connection may be suspect until it is given up. Default
    /// 100 s.
    ///
    /// Long, since nothing is lost by hoping: while the link is
    /// [suspect](Self::suspect_after), a new connection is dialled as well, and
    /// what is answered first goes on.
    pub fn probe_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.probe_timeout = timeout;
        self
    }

    /// Client: how long a probe may go unanswered, with nothing else heard either,
    /// until the link is suspect. Default 300 ms; three probe timeouts of QUIC's
    /// (RFC 9002 section 6.2.1) if that is longer, some six round trips, but at most
    /// five seconds.
    pub fn suspect_after(&mut self, silence: Duration) -> &mut Self {
        self.suspect_after = silence;
        self
    }

    /// Client: how often a suspect link is kicked, so that it notices at once when
    /// the network is back. Default 20 ms; twice as long after 10 s, one second
    /// after two minutes.
    ///
    /// A kick costs a packet: some 70 bytes, or a full one (1.5 kB) while data waits
    /// that the congestion window does not let out. So by default at most 50 packets
    /// a second for 10 s, and 25 a second until two minutes, and only while somebody
    /// waits for an answer. Longer saves battery, and adds as much to each recovery.
    pub fn kick_interval(&mut self, interval: Duration) -> &mut Self {
        self.kick_interval = interval;
        self
    }

    /// Client: how many bytes of each of its pipes go along with a resume, before the
    /// server has said what it has read. Default 64 KiB; at most four times as much in
    /// all, and nothing of a pipe that owes more. 0 waits for the answer.
    ///
    /// It saves what the client sends a round trip after each lost connection; what the
    /// server sends needs no help. The price is that what the
    /// server had read already, with its ack lost, is sent for nothing.
    pub fn optimistic_replay(&mut self, bytes: u64) -> &mut Self {
        self.optimistic_replay = bytes;
        self
    }

    /// After how long without a packet QUIC itself gives a connection up.
    /// Default 120 s; the lower of both sides' counts (RFC 9000 section 10.1).
    /// Long, so that a short outage ends with the same connection going on:
    /// liveness is decided by probes.
    pub fn idle_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.idle_timeout = timeout;
        self
    }

    /// How many bytes the peer may send ahead on each pipe. Default 4 MiB: 40
    /// MB/s at 100 ms round-trip time.
    pub fn stream_window(&mut self, bytes: u64) -> &mut Self {
        self.stream_window = bytes;
        self
    }

    /// How many pipe streams the peer may open on a new connection at once.
    /// Default 64. The limit grows with use up to `max_pipes`; each allowed
    /// stream costs some 70 bytes.
    pub fn initial_streams(&mut self, streams: u64) -> &mut Self {
        self.initial_streams = streams;
        self
    }

    /// The size asked for of the socket's send and receive buffers, in bytes.
    /// Default 4 MiB; the system may grant less (`net.core.rmem_max` on Linux).
    pub fn socket_buffer(&mut self, bytes: usize) -> &mut Self {
        self.socket_buffer = bytes;
        self
    }

    /// How what this side sends shares its path with what others send. Default
    /// [`CongestionControl::Tolerant`].
    pub fn congestion(&mut self, control: CongestionControl) -> &mut Self {
        self.congestion = control;
        self
    }

    /// What we are willing to hold unread in all: the peer's replay budget and
    /// every pipe's own share, if its settings are ours.
    fn receive_budget(&self) -> u64 {
        self.replay_budget.saturating_add(self.max_pipes.saturating_mul(2 * PIPE_SHARE))
    }

    pub(crate) fn parameters(&self) -> Parameters {
        Parameters {
            max_pipes: self.max_pipes,
            replay_capacity: self.replay_capacity,
            receive_budget: self.receive_budget(),
        }
    }

    pub(crate) fn transport(&self) -> Transport {
        Transport {
            idle_timeout: self.idle_timeout,
            stream_window: self.stream_window,
            // Headers and the control stream come on top of pipe bytes.
            receive_window: self.receive_budget().saturating_add(MIB),
            // The control stream is one of them.
            initial_streams: self.initial_streams + 1,
            socket_buffer: self.socket_buffer,
            congestion: self.congestion,
        }
    }

    pub(crate) fn initial_stream_limit(&self) -> u64 {
        self.initial_streams + 1
    }

    /// How often to probe while no pipe is open.
    pub(crate) fn idle_probe_interval(&self, interval: Duration) -> Duration {
        interval.max(self.idle_timeout / 4)
    }

    fn check(&self) -> Result<(), ConfigError> {
        bounds("max_pipes", self.max_pipes, 1, 1 << 20)?;
        bounds("replay_capacity", self.replay_capacity, KIB, 1 << 40)?;
        bounds("replay_budget", self.replay_budget, 0, 1 << 40)?;
        bounds("stream_window", self.stream_window, KIB, 1 << 40)?;
        bounds("initial_streams", self.initial_streams, 1, 1 << 20)?;
        let interval = self.probe_interval.unwrap_or_default();
        let probe = interval.saturating_add(self.probe_timeout);
        if probe >= self.idle_timeout {
            return Err(ConfigError::ProbeAboveIdle { probe, idle: self.idle_timeout });
        }
        if let Some(interval) = self.probe_interval {
            bounds("probe_interval in ms", interval.as_millis() as u64, 10, u64::MAX)?;
        }
        bounds("probe_timeout in ms", self.probe_timeout.as_millis() as u64, 10, u64::MAX)?;
        bounds("suspect_after in ms", self.suspect_after.as_millis() as u64, 10, u64::MAX)?;
        bounds("kick_interval in ms", self.kick_interval.as_millis() as u64, 10, u64::MAX)
    }
}

/// The part of the settings that QUIC gets.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) idle_timeout: Duration,
    pub(crate) stream_window: u64,
    pub(crate) receive_window: u64,
    pub(crate) initial_streams: u64,
    pub(crate) socket_buffer: usize,
    pub(crate) congestion: CongestionControl,
}

/// How a sender finds out what a path carries, and shares it.
///
/// Each has its price; the [manual](crate::manual::tuning#lossy-paths) has the
/// measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CongestionControl {
    /// CUBIC that heeds a loss only if it means congestion: packets wait in a queue,
    /// or more than one of forty is lost, or nothing comes through.
    ///
    /// Price: where a queue is too short to be seen (less than an eighth of a round
    /// trip), it takes more than its share until one packet of forty is lost.
    #[default]
    Tolerant,
    /// CUBIC (RFC 9438), as most of the internet has it.
    ///
    /// Price: a radio that loses one packet of a hundred leaves a thirtieth of 100
    /// Mbit/s.
    Cubic,
    /// NewReno (RFC 9002 section 7).
    ///
    /// Price: that of CUBIC, and after each loss it takes longer to come back on
    /// long, fast paths. Shorter queues, for it.
    NewReno,
    /// BBR, the first version, as QUIC has it today (experimental there).
    ///
    /// Price: where queues are short it takes most of the path from whoever heeds
    /// losses, and loses many packets; it begins with 240 kB at once, on any path.
    Bbr,
}

/// When a client tries again after it has lost its connection.
///
/// The first attempt comes at once. Later ones wait between zero and a bound
/// that doubles from `first` to `max` (exponential backoff with full jitter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconnectPolicy {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
    pub(crate) give_up_after: Option<Duration>,
}

impl Default for ReconnectPolicy {
    /// From 100 ms to 10 s, without end.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl ReconnectPolicy {
    /// Backoff between these bounds, without end.
    pub fn exponential(first: Duration, max: Duration) -> Self {
        Self { first, max, give_up_after: None }
    }

    /// Ends the session with [`SessionError::GaveUp`](crate::SessionError::GaveUp)
    /// once an outage has lasted so long. It begins when the link becomes
    /// [suspect](crate::LinkState::Suspect). Time that the machine sleeps counts; but
    /// after waking there is always one more attempt.
    pub fn give_up_after(mut self, outage: Duration) -> Self {
        self.give_up_after = Some(outage);
        self
    }

    /// Never reconnects: a lost connection ends the session. One that is only
    /// suspect does not.
    pub fn never() -> Self {
        Self::default().give_up_after(Duration::ZERO)
    }

    pub(crate) fn is_never(&self) -> bool {
        self.give_up_after == Some(Duration::ZERO)
    }
}

/// A hook that may supply new addresses at each attempt.
pub(crate) type AddressHook =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<SocketAddr>> + Send>> + Send + Sync>;

/// RFC 9000 section 14: every path of QUIC's carries it.
const UDP_PAYLOAD_MIN: u16 = 1200;

/// Ethernet's 1,500 bytes without the headers of IPv6 and UDP.
const UDP_PAYLOAD_INTERNET: u16 = 1452;

/// quinn hands the kernel ten packets at once, which refuses them beyond 64 KiB.
pub(crate) const UDP_PAYLOAD_MAX: u16 = 6500;

/// Settings of a [`Client`](crate::Client).
#[derive(Clone)]
pub struct ClientConfig {
    pub(crate) tls: ClientTls,
    pub(crate) session: Arc<SessionConfig>,
    pub(crate) reconnect: ReconnectPolicy,
    pub(crate) attempt_timeout: Duration,
    pub(crate) dial_interval: Duration,
    pub(crate) early_data: bool,
    pub(crate) local_ip: Option<IpAddr>,
    max_udp_payload: Option<u16>,
    pub(crate) addresses: Option<AddressHook>,
    pub(crate) sleep_check: Option<Duration>,
    #[cfg(feature = "monitor")]
    monitor: bool,
    pub(crate) environment: Environment,
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("tls", &self.tls)
            .field("session", &self.session)
            .field("reconnect", &self.reconnect)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("dial_interval", &self.dial_interval)
            .field("early_data", &self.early_data)
            .field("local_ip", &self.local_ip)
            .field("max_udp_payload", &self.max_udp_payload)
            .field("sleep_check", &self.sleep_check)
            .finish_non_exhaustive()
    }
}

impl ClientConfig {
    /// Default settings with this trust and identity.
    pub fn new(tls: ClientTls) -> Self {
        Self {
            tls,
            session: Arc::default(),
            reconnect: ReconnectPolicy::default(),
            attempt_timeout: Duration::from_secs(10),
            dial_interval: Duration::from_millis(250),
            early_data: true,
            local_ip: None,
            max_udp_payload: None,
            addresses: None,
            sleep_check: Some(Duration::from_secs(2)),
            #[cfg(feature = "monitor")]
            monitor: true,
            environment: Environment::default(),
        }
    }

    /// Settings of every session.
    pub fn session(&mut self, session: SessionConfig) -> &mut Self {
        self.session = Arc::new(session);
        self
    }

    /// When to try again after a connection is lost.
    pub fn reconnect(&mut self, policy: ReconnectPolicy) -> &mut Self {
        self.reconnect = policy;
        self
    }

    /// How long one attempt may take, over all addresses, until the session is
    /// attached. Default 10 s. Below three round trips of the worst network
    /// nothing gets through.
    pub fn attempt_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Within an attempt that nobody answers, how long until an address is dialled once
    /// more from a fresh socket. Default 250 ms, but not less than two round trips;
    /// four times as long once an outage has lasted for ten seconds, or if there was no
    /// connection before, and twenty times after two minutes.
    ///
    /// QUIC repeats a lost first packet by itself, but ever more rarely; so where only a
    /// new connection gets through, this is what decides how soon bytes flow. There are
    /// at most three such dials at a time beyond one for each address, each with a socket
    /// and some 50 kB; then the oldest makes room. Longer saves battery: see the [manual](crate::manual::tuning).
    pub fn dial_interval(&mut self, interval: Duration) -> &mut Self {
        self.dial_interval = interval;
        self
    }

    /// Whether a session that comes back sends what little its pipes owe along with
    /// the first packet of the handshake (0-RTT), in which it has a ticket of the
    /// server's. The first byte is there a round trip sooner. Default: yes.
    ///
    /// It does so where the first packet is likely to arrive: when a connection was
    /// given up for another reason than silence, when the network has changed, and when
    /// the server is there again. A dial into a silence goes without, since data that is
    /// lost with its packet comes a round trip later than if it had not been early.
    ///
    /// The price: these bytes, up to 64 KiB a pipe, are encrypted with keys that are
    /// in the ticket alone. Who records them, and gets the ticket's secret out of the
    /// memory of either process before it is used up or forgotten, can read them; of
    /// everything else it could not (forward secrecy). And an attacker can have
    /// them arrive twice, which changes nothing: see the
    /// [manual](crate::manual::security).
    ///
    /// A server that does not want it needs no client's consent:
    /// [`ServerConfig::early_data`].
    pub fn early_data(&mut self, allowed: bool) -> &mut Self {
        self.early_data = allowed;
        self
    }

    /// The local address to dial from. Default: whatever the system chooses.
    pub fn local_ip(&mut self, ip: IpAddr) -> &mut Self {
        self.local_ip = Some(ip);
        self
    }

    /// How large datagrams may become on the way to a server and back, in bytes of UDP
    /// payload; from 1,200 to 6,500. Default: 1,452, which Ethernet carries with either
    /// version of IP, but 6,500 to a loopback address.
    ///
    /// They begin with 1,200, and grow as far as the path lets probes through (RFC 8899).
    /// On loopback, 6,500 is twice the throughput of 1,452, at half the CPU; a network of
    /// jumbo frames (MTU 9,000) has room for it. Where it is more than the path carries, some 20 probes are lost
    /// at the beginning of each connection, and it takes some 20 round trips until
    /// packets have the size that they could have had after four.
    pub fn max_udp_payload(&mut self, bytes: u16) -> &mut Self {
        self.max_udp_payload = Some(bytes);
        self
    }

    /// The same, with the default's two cases told apart.
    pub(crate) fn max_udp_payload_to(&self, server: IpAddr) -> u16 {
        self.max_udp_payload.unwrap_or(match server.to_canonical().is_loopback() {
            true => UDP_PAYLOAD_MAX,
            false => UDP_PAYLOAD_INTERNET,
        })
    }

    /// A hook that is asked for addresses at each attempt, in order of
    /// preference; they come before those that the target's name has. For
    /// servers that move, or discovery of one's own.
    ///
    /// It has a share of the attempt's time; what it has not supplied within
    /// half of it is done without.
    pub fn addresses<F, Fut>(&mut self, hook: F) -> &mut Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<SocketAddr>> + Send + 'static,
    {
        self.addresses = Some(Arc::new(move || Box::pin(hook())));
        self
    }

    /// How often one task of the client, for all of its sessions, looks whether the
    /// machine has slept; `None` for never. Default 2 s.
    ///
    /// A sleep (of three seconds or more) is taken as
    /// [`Session::network_changed`](crate::Session::network_changed) is: every session
    /// asks at once from a fresh socket, or tries at once to reconnect. So this is the
    /// most that it adds to a recovery. It costs reading two clocks. There is no such
    /// task without sessions.
    pub fn sleep_check(&mut self, interval: impl Into<Option<Duration>>) -> &mut Self {
        self.sleep_check = interval.into();
        self
    }

    /// Lives in `world` instead of on the network.
    #[cfg(feature = "simulation")]
    pub fn simulate(&mut self, world: Arc<dyn crate::simulation::World>) -> &mut Self {
        self.environment.world = Some(world);
        self
    }

    /// Whether to listen to the operating system for changes of addresses and routes,
    /// for as long as there are sessions. Default: yes. What it says is taken as
    /// [`Session::network_changed`](crate::Session::network_changed) is, a moment after
    /// the last change, for each session whose packets would now take another way; where
    /// the system does not tell about ways, for every session.
    ///
    /// Never required: if the system does not let us, a warning is logged, and a change
    /// is noticed by its silence, or by the application.
    #[cfg(feature = "monitor")]
    pub fn monitor(&mut self, on: bool) -> &mut Self {
        self.monitor = on;
        self
    }

    /// A world in memory has no system that could tell.
    #[cfg(feature = "monitor")]
    pub(crate) fn has_monitor(&self) -> bool {
        #[cfg(feature = "simulation")]
        if self.environment.world.is_some() {
            return false;
        }
        self.monitor
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if let Some(interval) = self.sleep_check {
            bounds("sleep_check in ms", interval.as_millis() as u64, 10, u64::MAX)?;
        }
        bounds("dial_interval in ms", self.dial_interval.as_millis() as u64, 10, u64::MAX)?;
        let attempt = self.attempt_timeout.as_millis() as u64;
        bounds("attempt_timeout in ms", attempt, 10, u64::MAX)?;
        if let Some(bytes) = self.max_udp_payload {
            let (min, max) = (UDP_PAYLOAD_MIN.into(), UDP_PAYLOAD_MAX.into());
            bounds("max_udp_payload", bytes.into(), min, max)?;
        }
        self.session.check()
    }
}

/// Settings of a [`Server`](crate::Server).
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub(crate) tls: ServerTls,
    pub(crate) session: Arc<SessionConfig>,
    pub(crate) limits: Limits,
    pub(crate) linger: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) early_data: bool,
    pub(crate) stable_key: Option<[u8; 32]>,
    pub(crate) environment: Environment,
}

impl ServerConfig {
    /// Default settings with this identity.
    pub fn new(tls: ServerTls) -> Self {
        Self {
            tls,
            session: Arc::default(),
            limits: Limits::default(),
            linger: Duration::from_secs(24 * 3600),
            handshake_timeout: Duration::from_secs(10),
            early_data: true,
            stable_key: None,
            environment: Environment::default(),
        }
    }

    /// Settings of every session.
    pub fn session(&mut self, session: SessionConfig) -> &mut Self {
        self.session = Arc::new(session);
        self
    }

    /// Limits of the server as a whole.
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.limits = limits;
        self
    }

    /// How long a session without a connection is kept. Default 24 hours; time that the
    /// server's machine sleeps counts, to the minute. Then
    /// it ends with [`SessionError::Expired`](crate::SessionError::Expired), and
    /// its memory comes back.
    pub fn linger(&mut self, linger: Duration) -> &mut Self {
        self.linger = linger;
        self
    }

    /// How long a new connection may take until it has said what it wants.
    /// Default 10 s.
    pub fn handshake_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Whether clients that come back may send what little their pipes owe before
    /// the handshake is complete (0-RTT), and are sent what little is owed to them.
    /// Default: yes. Without, the first byte is there a round trip later.
    ///
    /// The price is told at [`ClientConfig::early_data`]. The tickets that it takes
    /// are kept in memory, four for each of [`Limits::max_sessions`] (at most 65,536
    /// in all), and each is good once.
    pub fn early_data(&mut self, allowed: bool) -> &mut Self {
        self.early_data = allowed;
        self
    }

    /// The secret from which the keys of stateless resets and connection ids
    /// are derived, by which clients learn at once that the server was
    /// restarted. Default: derived from the TLS private key, which is as stable.
    pub fn stable_key(&mut self, key: [u8; 32]) -> &mut Self {
        self.stable_key = Some(key);
        self
    }

    /// Lives in `world` instead of on the network.
    #[cfg(feature = "simulation")]
    pub fn simulate(&mut self, world: Arc<dyn crate::simulation::World>) -> &mut Self {
        self.environment.world = Some(world);
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        bounds("max_sessions", self.limits.max_sessions.into(), 1, u32::MAX.into())?;
        bounds("max_handshakes", self.limits.max_handshakes.into(), 1, 1 << 20)?;
        self.session.check()
    }
}

/// Limits of a server as a whole.
#[derive(Clone, Debug)]
pub struct Limits {
    pub(crate) max_sessions: u32,
    pub(crate) max_handshakes: u32,
    pub(crate) replay_budget: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_sessions: 10_000, max_handshakes: 256, replay_budget: GIB }
    }
}

impl Limits {
    /// How many sessions there may be, attached or not. Default 10,000. A
    /// newcomer is refused with `OVERLOADED`.
    pub fn max_sessions(&mut self, sessions: u32) -> &mut Self {
        self.max_sessions = sessions;
        self
    }

    /// How many connections may be in their handshake at a time, and how many
    /// new sessions may wait for the application to accept them. Default 256.
    pub fn max_handshakes(&mut self, handshakes: u32) -> &mut Self {
        self.max_handshakes = handshakes;
        self
    }

    /// How many bytes all sessions keep for replay together, beyond 64 KiB for
    /// each pipe. Default 1 GiB. At the bound writers wait.
    pub fn replay_budget(&mut self, bytes: u64) -> &mut Self {
        self.replay_budget = bytes;
        self
    }
}

fn bounds(setting: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfBounds { setting, value, min, max })
}
