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
        Self(0x1_0000 + code as u32)
    }

    /// The application's code, if it is one.
    pub const fn as_application(self) -> Option<u16> {
        if self.0 >> 16 == 1 { Some(self.0 as u16) } else { None }
    }

    pub(crate) const fn to_wire(self) -> u64 {
        self.0 as u64
    }

    pub(crate) fn from_wire(raw: u64) -> Self {
        // Larger than any code we know: kept distinct from all of them.
        Self(u32::try_from(raw).unwrap_or(u32::MAX))
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

    pub(crate) fn from_wire(raw: u64) -> Self {
        Self(u32::try_from(raw).unwrap_or(u32::MAX))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of close codes in the manual (P-30).
    #[test]
    fn close_codes_cross_the_wire_with_their_numbers_and_are_printed_by_name() {
        for (code, number, name) in [
            (CloseCode::DONE, 1, "DONE"),
            (CloseCode::ABANDONED, 2, "ABANDONED"),
            (CloseCode::GOING_AWAY, 3, "GOING_AWAY"),
            (CloseCode::application(0), 0x1_0000, "application(0)"),
            (CloseCode::application(u16::MAX), 0x1_ffff, "application(65535)"),
            (CloseCode(0x99), 0x99, "CloseCode(0x99)"),
            (CloseCode(u32::MAX), 0xffff_ffff, "CloseCode(0xffffffff)"),
        ] {
            assert_eq!((code.to_wire(), CloseCode::from_wire(number)), (number, code));
            assert_eq!((format!("{code:?}"), code.to_string()), (name.into(), name.into()));
        }
    }

    #[test]
    fn an_application_gets_its_own_codes_back_and_no_others() {
        for own in [0, 1, 0x8000, u16::MAX] {
            assert_eq!(CloseCode::application(own).as_application(), Some(own));
        }
        for other in [0, 1, 3, 0xffff, 0x2_0000, 0x3_0001, 0x8001_0001, u64::MAX] {
            assert_eq!(CloseCode::from_wire(other).as_application(), None, "{other:#x}");
        }
    }

    #[test]
    fn a_code_beyond_32_bits_is_not_taken_for_one_with_the_same_last_bits() {
        for raw in [(1 << 32) + 1, (1 << 32) + 0x1_0000, u64::MAX] {
            assert_eq!(CloseCode::from_wire(raw), CloseCode(u32::MAX));
            assert_eq!(RefuseCode::from_wire(raw), RefuseCode(u32::MAX));
        }
    }

    /// The table of the manual (P-17), with what it says a client does.
    #[test]
    fn refuse_codes_cross_the_wire_with_their_numbers_and_say_whether_to_try_again() {
        for (code, number, name, retryable) in [
            (RefuseCode::DECLINED, 1, "DECLINED", false),
            (RefuseCode::OVERLOADED, 2, "OVERLOADED", true),
            (RefuseCode::UNKNOWN_SESSION, 3, "UNKNOWN_SESSION", false),
            (RefuseCode::BAD_PROOF, 4, "BAD_PROOF", false),
            (RefuseCode::STALE_EPOCH, 5, "STALE_EPOCH", true),
            (RefuseCode::SUPERSEDED, 6, "SUPERSEDED", false),
            (RefuseCode::WRONG_IDENTITY, 7, "WRONG_IDENTITY", false),
            (RefuseCode(0x99), 0x99, "RefuseCode(0x99)", false),
            (RefuseCode(u32::MAX), 0xffff_ffff, "RefuseCode(0xffffffff)", false),
        ] {
            assert_eq!((code.to_wire(), RefuseCode::from_wire(number)), (number, code));
            assert_eq!((format!("{code:?}"), code.is_retryable()), (name.into(), retryable));
        }
    }

    #[test]
    fn every_refusal_has_a_text_of_its_own() {
        let texts: std::collections::BTreeSet<String> =
            (0..=8).map(|code| RefuseCode(code).to_string()).collect();
        assert_eq!(texts.len(), 9);
        assert!(texts.contains("the server does not know this session"));
        assert!(texts.contains("refused with unknown code 0x8"));
    }

    /// The table of connection codes in the manual (P-30).
    #[test]
    fn connection_codes_cross_the_wire_with_their_numbers() {
        for (code, number) in [
            (LinkCode::Replaced, 1),
            (LinkCode::Superseded, 2),
            (LinkCode::SessionClosed, 3),
            (LinkCode::Violation, 4),
            (LinkCode::Refused, 5),
            (LinkCode::Detach, 6),
            // An accident, quinn's own 0 among them.
            (LinkCode::Other(0), 0),
            (LinkCode::Other(7), 7),
        ] {
            assert_eq!((code.to_wire(), LinkCode::from_wire(number)), (number, code));
        }
    }
}
