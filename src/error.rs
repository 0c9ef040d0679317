//! What can go wrong, one enum for each concern.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::code::{CloseCode, RefuseCode};
use crate::id::Epoch;
use crate::misbehaved::PeerMisbehaved;
use crate::tls::TlsError;

/// Why a session has ended. Final: a lost connection is not among these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// This side closed it.
    #[error("the session was closed here ({code})")]
    LocallyClosed {
        /// The code that was given.
        code: CloseCode,
    },
    /// The application on the other side closed it.
    #[error("the session was closed by the peer ({code}){}", colon(&String::from_utf8_lossy(.reason)))]
    PeerClosed {
        /// The peer's code.
        code: CloseCode,
        /// The peer's reason, for people.
        reason: Bytes,
    },
    /// Server: the client stayed away for longer than the linger time.
    #[error("the client did not come back within {}", secs(*.linger))]
    Expired {
        /// The linger time.
        linger: Duration,
    },
    /// Another holder of the session's token has taken it over.
    #[error("another holder of the session token took the session over")]
    Superseded {
        /// The last epoch that was ours.
        epoch: Epoch,
    },
    /// Client: the server does not know the session: it was restarted, or the
    /// linger time is over. Connect anew.
    #[error("unknown session: the server was restarted or the linger time is over; connect anew")]
    UnknownSession,
    /// Client: the server refused the resume for good.
    #[error("the server refused to resume the session: {code}")]
    Refused {
        /// Why.
        code: RefuseCode,
    },
    /// Client: the outage lasted longer than the policy allows.
    #[error("gave up after {} without a connection; last attempt: {last}", secs(*.outage))]
    GaveUp {
        /// How long the link was down.
        outage: Duration,
        /// Why the last attempt failed.
        last: DialError,
    },
    /// The peer broke the protocol.
    #[error("the peer {0}")]
    PeerMisbehaved(#[from] PeerMisbehaved),
    /// The peer says that we broke the protocol. Versions that do not fit, or a
    /// defect: please report it.
    #[error("the peer ended the session over a protocol error: {reason}")]
    RejectedByPeer {
        /// What the peer complains of.
        reason: String,
    },
}

impl SessionError {
    /// Whether the session ended because one side's application was done.
    pub fn is_graceful(&self) -> bool {
        matches!(self, Self::LocallyClosed { .. } | Self::PeerClosed { code: CloseCode::DONE, .. })
    }
}

impl From<SessionError> for io::Error {
    fn from(error: SessionError) -> Self {
        let kind = match &error {
            SessionError::LocallyClosed { .. } => io::ErrorKind::NotConnected,
            SessionError::Expired { .. } | SessionError::GaveUp { .. } => io::ErrorKind::TimedOut,
            SessionError::PeerMisbehaved(_) => io::ErrorKind::InvalidData,
            SessionError::Refused { .. } => io::ErrorKind::ConnectionRefused,
            _ => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

/// Why one attempt to reach the server failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The name is none that a certificate could have.
    #[error("{name:?} is not a valid server name")]
    ServerName {
        /// The name.
        name: String,
    },
    /// No answer in time: nobody there, or UDP does not get through.
    #[error(
        "no answer from {target} within {}: is the server running, and does UDP reach it?",
        secs(*.waited)
    )]
    TimedOut {
        /// Whom we asked.
        target: String,
        /// How long we waited.
        waited: Duration,
    },
    /// The local socket could not be made or used.
    #[error("cannot open a UDP socket towards {target}: {reason}")]
    Socket {
        /// Whom we wanted to ask.
        target: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// Somebody answered who is not the server we trust, or does not trust us.
    #[error("TLS handshake failed: {0}")]
    Tls(#[from] TlsError),
    /// The server refused, with a reason.
    #[error("refused by the server: {code}{}", colon(.reason))]
    Refused {
        /// Why.
        code: RefuseCode,
        /// In the server's words; may be empty.
        reason: String,
    },
    /// The connection was lost before the session was attached.
    #[error("the connection failed: {reason}")]
    Lost {
        /// How.
        reason: String,
    },
}

/// Why [`Client::connect`](crate::Client::connect) failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server could not be reached, or did not want us.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It is no evermux server, or a defective one.
    #[error("the peer {0}")]
    PeerMisbehaved(#[from] PeerMisbehaved),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Dial(DialError::TimedOut { .. }) => io::ErrorKind::TimedOut,
            ConnectError::Dial(DialError::Refused { .. }) => io::ErrorKind::ConnectionRefused,
            ConnectError::PeerMisbehaved(_) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Why [`Session::handover`](crate::Session::handover) came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// No new connection could be made; the old one stays.
    #[error("no other connection can be made, the old one stays: {0}")]
    Dial(#[from] DialError),
    /// The session has ended.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Only the client can dial: call it there.
    #[error("only the client of a session can hand it over")]
    NotTheClient,
}

/// Why a client or server could not be set up.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The settings contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The socket could not be bound.
    #[error("cannot listen on UDP {local}: {source}")]
    Socket {
        /// The address asked for.
        local: SocketAddr,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

/// Settings that make no sense together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting lies outside of what is possible.
    #[error("{setting} is {value}, it must be between {min} and {max}")]
    OutOfBounds {
        /// The name of the setter.
        setting: &'static str,
        /// What it was set to.
        value: u64,
        /// The least that works.
        min: u64,
        /// The most that works.
        max: u64,
    },
    /// A dead link would be noticed only after QUIC has given up on it.
    #[error("probe_interval + probe_timeout ({probe:?}) must be below idle_timeout ({idle:?})")]
    ProbeAboveIdle {
        /// The sum of both.
        probe: Duration,
        /// The idle timeout.
        idle: Duration,
    },
}

/// Why [`Session::open_pipe`](crate::Session::open_pipe) failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The label is longer than [`LABEL_MAX`](crate::LABEL_MAX).
    #[error("the label has {len} bytes, at most {max} are allowed")]
    LabelTooLong {
        /// Its length in bytes.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// As many of our pipes are open as the peer allows; close one first.
    #[error("{allowed} pipes are open, the peer allows no more; close one first")]
    TooManyPipes {
        /// The peer's limit.
        allowed: u64,
    },
    /// The session has ended, or is shutting down.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Session(session) => session.into(),
            OpenError::LabelTooLong { .. } => Self::new(io::ErrorKind::InvalidInput, error),
            OpenError::TooManyPipes { .. } => Self::new(io::ErrorKind::QuotaExceeded, error),
        }
    }
}

/// Why a pipe cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer's writer gave up.
    #[error("the peer reset the pipe (code {code})")]
    Reset {
        /// The peer's code.
        code: u32,
    },
    /// This reader was stopped before.
    #[error("this reader was stopped")]
    Stopped,
    /// The session has ended.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Session(session) => session.into(),
            ReadError::Reset { .. } => Self::new(io::ErrorKind::ConnectionReset, error),
            ReadError::Stopped => Self::new(io::ErrorKind::NotConnected, error),
        }
    }
}

/// Why a pipe cannot be written to any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The peer's reader wants no more.
    #[error("the peer stopped reading the pipe (code {code})")]
    Stopped {
        /// The peer's code.
        code: u32,
    },
    /// This writer was finished or reset before.
    #[error("this writer was finished or reset")]
    Finished,
    /// The session has ended.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Session(session) => session.into(),
            WriteError::Stopped { .. } => Self::new(io::ErrorKind::BrokenPipe, error),
            WriteError::Finished => Self::new(io::ErrorKind::NotConnected, error),
        }
    }
}

fn secs(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn colon(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
