//! Codes that cross the wire: why a session was closed, why a client was
//! refused, why a connection was given up.

use std::fmt;

/// Why an application closed a session.
///
/// Codes below 2^16 are evermux's own; [`CloseCode::application`] makes the
/// others. Unknown codes are kept as they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(u32);

impl CloseCode {
    /// Everything was done: a graceful [`Session::shutdown`](crate::Session::shutdown).
    pub const DONE: Self = Self(0x1);
    /// Every handle of the session was dropped without closing it.
    pub const ABANDONED: Self = Self(0x2);
    /// The server (or client) as a whole is going away.
    pub const GOING_AWAY: Self = Self(0x3);

    /// A code of the application's own.
    pub const fn application(code: u16) -> Self {
        Self(0x1_0000 | code as u32)
    }

    /// The application's code, if it is one.
    pub const fn as_application(self) -> Option<u16> {
        if self.0 >> 16 == 1 { Some(self.0 as u16) } else { None }
    }

    pub(crate) const fn to_wire(self) -> u64 {
        self.0 as u64
    }

    pub(crate) const fn from_wire(raw: u64) -> Self {
        // Larger than any code we know: kept distinct from all of them.
        Self(if raw > u32::MAX as u64 { u32::MAX } else { raw as u32 })
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, self.as_application()) {
            (Self::DONE, _) => f.write_str("DONE"),
            (Self::ABANDONED, _) => f.write_str("ABANDONED"),
            (Self::GOING_AWAY, _) => f.write_str("GOING_AWAY"),
            (_, Some(code)) => write!(f, "application({code})"),
            (Self(other), None) => write!(f, "CloseCode({other:#x})"),
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a server refused a client, a new session or a resume.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RefuseCode(u32);

impl RefuseCode {
    /// The server's application did not want this session.
    pub const DECLINED: Self = Self(0x1);
    /// The server is at a limit (sessions, handshakes under way); try later.
    pub const OVERLOADED: Self = Self(0x2);
    /// The server does not know this session: it was restarted, the session
    /// was closed, or it was detached for longer than the linger time.
    pub const UNKNOWN_SESSION: Self = Self(0x3);
    /// The resume's proof is wrong: the token is outdated or not ours.
    pub const BAD_PROOF: Self = Self(0x4);
    /// A connection with this or a higher epoch is attached already; the
    /// client tries again above it.
    pub const STALE_EPOCH: Self = Self(0x5);
    /// Another holder of the token has resumed the session since.
    pub const SUPERSEDED: Self = Self(0x6);
    /// The client's TLS identity is not the one that began the session.
    pub const WRONG_IDENTITY: Self = Self(0x7);

    /// Whether a client may try the same again and succeed.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::OVERLOADED | Self::STALE_EPOCH)
    }

    pub(crate) const fn to_wire(self) -> u64 {
        self.0 as u64
    }

    pub(crate) const fn from_wire(raw: u64) -> Self {
        Self(if raw > u32::MAX as u64 { u32::MAX } else { raw as u32 })
    }
}

impl fmt::Debug for RefuseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::DECLINED => "DECLINED",
            Self::OVERLOADED => "OVERLOADED",
            Self::UNKNOWN_SESSION => "UNKNOWN_SESSION",
            Self::BAD_PROOF => "BAD_PROOF",
            Self::STALE_EPOCH => "STALE_EPOCH",
            Self::SUPERSEDED => "SUPERSEDED",
            Self::WRONG_IDENTITY => "WRONG_IDENTITY",
            Self(other) => return write!(f, "RefuseCode({other:#x})"),
        })
    }
}

impl fmt::Display for RefuseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::DECLINED => "the server's application declined",
            Self::OVERLOADED => "the server is at its limit of sessions, try again later",
            Self::UNKNOWN_SESSION => "the server does not know this session",
            Self::BAD_PROOF => "the session token is outdated or wrong",
            Self::STALE_EPOCH => "a newer connection of this session is attached",
            Self::SUPERSEDED => "another holder of the session token took the session over",
            Self::WRONG_IDENTITY => "the client certificate is not the one that began the session",
            Self(other) => return write!(f, "refused with unknown code {other:#x}"),
        })
    }
}

/// Application error codes of QUIC CONNECTION_CLOSE frames (RFC 9000 section
/// 20.2): what the end of a *connection* means for its *session*.
///
/// Code 0 is never used on purpose: quinn sends it when the last handle of a
/// connection is dropped, which says nothing about the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkCode {
    /// A newer connection of the same holder has taken over.
    Replaced,
    /// Another holder has taken over: final.
    Superseded,
    /// The session is over; the reason holds an encoded `Close` frame.
    SessionClosed,
    /// The peer broke the protocol; the reason says how. The session is over.
    Violation,
    /// No session, no resume; the reason holds an encoded `Refused`.
    Refused,
    /// Asks the client to resume on a fresh connection.
    Detach,
    /// Anything else.
    Other(u64),
}

impl LinkCode {
    pub(crate) const fn to_wire(self) -> u64 {
        match self {
            Self::Replaced => 0x1,
            Self::Superseded => 0x2,
            Self::SessionClosed => 0x3,
            Self::Violation => 0x4,
            Self::Refused => 0x5,
            Self::Detach => 0x6,
            Self::Other(code) => code,
        }
    }

    pub(crate) const fn from_wire(raw: u64) -> Self {
        match raw {
            0x1 => Self::Replaced,
            0x2 => Self::Superseded,
            0x3 => Self::SessionClosed,
            0x4 => Self::Violation,
            0x5 => Self::Refused,
            0x6 => Self::Detach,
            other => Self::Other(other),
        }
    }
}
