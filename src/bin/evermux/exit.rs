//! How the program ends when something is wrong: a sentence for people, a code
//! for scripts.

use std::fmt;
use std::path::Path;

use evermux::{BindError, ConnectError, DialError, RefuseCode, SessionError, TlsError};

/// Exit codes, after BSD's `sysexits.h`. 255 is left to ssh, which says by it
/// that the failure was its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Wrong options or arguments.
    Usage = 64,
    /// A link or a file is not what it should be.
    Data = 65,
    /// A file cannot be read, a name is not known.
    NoInput = 66,
    /// A host name has no address.
    NoHost = 68,
    /// The agent cannot be reached, or the session has ended.
    Unavailable = 69,
    /// A program or system call failed that should not.
    System = 71,
    /// A file or listener cannot be made: the address is in use, for example.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Try again later: the agent is at a limit.
    TryLater = 75,
    /// The other side speaks another version.
    Protocol = 76,
    /// Not allowed: the wrong key, an unknown client, a refused target.
    NotAllowed = 77,
    /// A file that holds a secret can be read by others.
    Config = 78,
}

/// The table for `--help`.
pub const CODES: &str = "\
Exit codes:
   0  done
  64  wrong options or arguments
  65  a link or a file is not what it should be
  66  a file cannot be read, or a name is not known
  68  a host name has no address
  69  the agent cannot be reached, or the session has ended
  71  the system refused something
  73  a file or listener cannot be made (address in use)
  74  reading or writing failed
  75  try again later: the agent is at a limit
  76  the other side is another version of evermux, or none
  77  not allowed: wrong pin, unknown client, refused target
  78  a file that holds a secret can be read by others
  130  `proxy` was interrupted
`evermux ssh` ends as ssh does; 255 is ssh's own.

Environment:
  EVERMUX_LINK         the link, where none is given
  EVERMUX_CONFIG_DIR   links and your key (default: evermux in the XDG config directory)
  EVERMUX_CONTROL_DIR  control sockets (default: evermux in the XDG runtime directory)
  EVERMUX_LISTEN, EVERMUX_LOG_FORMAT  as the options";

/// Why the program cannot go on.
#[derive(Clone, Debug)]
pub struct Failure {
    pub code: Code,
    message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A file operation failed.
    pub fn file(path: &Path, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::NoInput,
            _ => Code::Io,
        };
        Self::new(code, format!("{}: {error}", path.display()))
    }

    /// The first connection to the agent at `address` did not come about.
    pub fn connect(address: &str, error: &ConnectError) -> Self {
        match error {
            ConnectError::Dial(dial) => Self::dial(address, dial),
            other => Self::new(Code::Protocol, format!("{address} is no evermux agent: {other}")),
        }
    }

    /// The host of `address` says that this port is closed.
    pub fn nobody_listens(address: &str) -> Self {
        Self::new(
            Code::Unavailable,
            format!(
                "nobody listens on UDP {address}: start `evermux agent` there, or look at its port \
                 and at the firewall (`--wait` waits for it)"
            ),
        )
    }

    fn dial(address: &str, error: &DialError) -> Self {
        match error {
            DialError::Resolve { .. } => Self::new(Code::NoHost, error.to_string()),
            DialError::Tls(tls) => Self::tls(address, tls),
            DialError::Refused { code: RefuseCode::OVERLOADED, .. } => {
                Self::new(Code::TryLater, format!("{address}: {error}"))
            }
            DialError::Refused { .. } => Self::new(Code::NotAllowed, format!("{address}: {error}")),
            DialError::TimedOut { .. } => Self::new(
                Code::Unavailable,
                format!("{error} (`evermux doctor` looks closer, `--wait` waits for it)"),
            ),
            other => Self::new(Code::Unavailable, format!("{address}: {other}")),
        }
    }

    fn tls(address: &str, error: &TlsError) -> Self {
        match error {
            TlsError::UntrustedPeer => Self::new(
                Code::NotAllowed,
                format!(
                    "wrong pin: who answers at {address} does not hold the key that the link names. \
                     If the agent has lost its state directory, get its new link; \
                     else somebody is in between"
                ),
            ),
            TlsError::CertificateRejected { .. } | TlsError::ClientCertificateRequired => {
                Self::new(
                    Code::NotAllowed,
                    format!(
                        "the agent at {address} does not let this client in: its link was revoked, \
                         or its key (`evermux key`) is not in the agent's --authorized file"
                    ),
                )
            }
            TlsError::WrongProtocol => Self::new(
                Code::Protocol,
                format!(
                    "{address} speaks another version of the protocol than {}, or is no evermux \
                     agent: upgrade the older of both",
                    evermux::PROTOCOL_VERSION
                ),
            ),
            other => Self::new(Code::Unavailable, format!("{address}: {other}")),
        }
    }

    /// The session with the agent at `address` has ended.
    pub fn session(address: &str, error: &SessionError) -> Self {
        match error {
            SessionError::UnknownSession => Self::new(
                Code::Unavailable,
                format!(
                    "the agent at {address} does not know this session any more: it was restarted, \
                     or this client was away for longer than its --linger. Start again"
                ),
            ),
            SessionError::PeerMisbehaved(_) | SessionError::RejectedByPeer { .. } => {
                Self::new(Code::Protocol, format!("{address}: {error}"))
            }
            SessionError::PeerClosed { code, reason } => {
                let reason = String::from_utf8_lossy(reason);
                let why = match (reason.is_empty(), *code) {
                    (false, _) => reason.escape_debug().to_string(),
                    (true, evermux::CloseCode::GOING_AWAY) => "it shuts down".into(),
                    (true, code) => format!("{code}"),
                };
                Self::new(
                    Code::Unavailable,
                    format!("the agent at {address} ended the session: {why}"),
                )
            }
            other => Self::new(Code::Unavailable, format!("{address}: {other}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        match &error {
            BindError::Socket { local, source }
                if source.kind() == std::io::ErrorKind::AddrInUse =>
            {
                Self::new(
                    Code::CannotCreate,
                    format!(
                        "UDP port {} is in use: an agent runs already (`evermux status`), \
                         or choose another with --listen",
                        local.port()
                    ),
                )
            }
            BindError::Socket { .. } => Self::new(Code::CannotCreate, error.to_string()),
            _ => Self::new(Code::Usage, error.to_string()),
        }
    }
}
