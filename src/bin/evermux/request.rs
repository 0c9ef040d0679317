//! What the two programs say to each other over a session: the label of a pipe
//! asks for something, the first bytes back answer.

use std::fmt;
use std::str::FromStr;

use evermux::{BackedReader, BackedWriter, ReadError, WriteError};

use crate::endpoint::Endpoint;
use crate::exit::{Code, Failure};

/// What the opener of a pipe wants with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Client: connect to this target, and join the pipe to it.
    Connect(Endpoint),
    /// Client: listen there for as long as this pipe is open. The answer's text
    /// says where, port chosen.
    Listen(Endpoint),
    /// Agent: a connection to the listener that was asked for on the client's
    /// pipe of this index.
    Accepted { listener: u64 },
    /// Either: send everything back.
    Echo,
    /// Client: say who you are, in the answer's text ([`About`]).
    About,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(target) => write!(f, "connect {target}"),
            Self::Listen(at) => write!(f, "listen {at}"),
            Self::Accepted { listener } => write!(f, "accepted {listener}"),
            Self::Echo => f.write_str("echo"),
            Self::About => f.write_str("about"),
        }
    }
}

impl FromStr for Request {
    type Err = Refusal;

    fn from_str(label: &str) -> Result<Self, Refusal> {
        let (verb, rest) = label.split_once(' ').unwrap_or((label, ""));
        let malformed = |what| Refusal::new(Reason::Malformed, what);
        match verb {
            "connect" => rest.parse().map(Self::Connect).map_err(malformed),
            "listen" => rest.parse().map(Self::Listen).map_err(malformed),
            "accepted" => match rest.parse() {
                Ok(listener) => Ok(Self::Accepted { listener }),
                Err(_) => Err(malformed(format!("{rest:?} is no number of a pipe"))),
            },
            "echo" => Ok(Self::Echo),
            "about" => Ok(Self::About),
            other => Err(Refusal::new(
                Reason::Unsupported,
                format!("evermux {} does not know {other:?}", env!("CARGO_PKG_VERSION")),
            )),
        }
    }
}

/// Why a request is not met: the first byte of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The rules do not allow it.
    NotAllowed,
    /// The target did not answer or does not exist.
    Unreachable,
    /// The address to listen on cannot be had.
    CannotListen,
    /// The request is of another version than this program.
    Unsupported,
    Malformed,
    /// Of a later version than this program.
    Other(u8),
}

impl Reason {
    const fn to_wire(self) -> u8 {
        match self {
            Self::NotAllowed => 1,
            Self::Unreachable => 2,
            Self::CannotListen => 3,
            Self::Unsupported => 4,
            Self::Malformed => 5,
            Self::Other(code) => code,
        }
    }

    const fn from_wire(code: u8) -> Self {
        match code {
            1 => Self::NotAllowed,
            2 => Self::Unreachable,
            3 => Self::CannotListen,
            4 => Self::Unsupported,
            5 => Self::Malformed,
            code => Self::Other(code),
        }
    }
}

/// The answer to a request that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub text: String,
}

impl Refusal {
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text is the peer's: escaped, so that it cannot forge lines.
        write!(f, "{}", self.text.escape_debug())?;
        match self.reason {
            Reason::Unsupported => f.write_str(" (that side is too old: upgrade evermux there)"),
            _ => Ok(()),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.reason {
            Reason::NotAllowed => Code::NotAllowed,
            Reason::Unreachable => Code::Unavailable,
            Reason::CannotListen => Code::CannotCreate,
            Reason::Unsupported | Reason::Malformed | Reason::Other(_) => Code::Protocol,
        };
        Self::new(code, refusal.to_string())
    }
}

/// Longest text of an answer, in bytes.
const TEXT_MAX: usize = 1024;

/// Says what became of the request: a byte for the reason (0: it is met), the
/// length of the text in two, the text.
pub async fn answer(
    writer: &mut BackedWriter,
    answer: Result<&str, &Refusal>,
) -> Result<(), WriteError> {
    let (code, text) = match answer {
        Ok(text) => (0, text),
        Err(refusal) => (refusal.reason.to_wire(), &*refusal.text),
    };
    let mut len = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    let mut bytes = vec![code];
    bytes.extend((len as u16).to_be_bytes());
    bytes.extend(&text.as_bytes()[..len]);
    writer.write_all(&bytes).await
}

/// Why there is no answer to go on with.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    Refused(Refusal),
    /// The pipe ended before.
    Ended(Option<ReadError>),
}

/// Reads the answer; its text if the request is met.
pub async fn read_answer(reader: &mut BackedReader) -> Result<String, NoAnswer> {
    let mut head = [0; 3];
    read_exact(reader, &mut head).await?;
    let [code, high, low] = head;
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > TEXT_MAX {
        let text = format!("an answer of {len} bytes");
        return Err(NoAnswer::Refused(Refusal::new(Reason::Malformed, text)));
    }
    let mut text = vec![0; len];
    read_exact(reader, &mut text).await?;
    let text = String::from_utf8_lossy(&text).into_owned();
    match code {
        0 => Ok(text),
        code => Err(NoAnswer::Refused(Refusal::new(Reason::from_wire(code), text))),
    }
}

async fn read_exact(reader: &mut BackedReader, mut buf: &mut [u8]) -> Result<(), NoAnswer> {
    while !buf.is_empty() {
        match reader.read(buf).await {
            Ok(Some(len)) => buf = &mut buf[len..],
            Ok(None) => return Err(NoAnswer::Ended(None)),
            Err(error) => return Err(NoAnswer::Ended(Some(error))),
        }
    }
    Ok(())
}

/// Who an agent is: the answer to [`Request::About`], as JSON.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// Of the program.
    pub version: String,
    /// Of the wire protocol.
    pub protocol: u32,
    /// The agent's clock, in milliseconds since 1970.
    pub time_ms: u64,
    /// What pipes may connect to, in the agent's words.
    pub allowed: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_printed() {
        let unix = Endpoint::Unix("/run/with space".into());
        for request in [
            Request::Connect(Endpoint::tcp("::1", 22)),
            Request::Connect(unix.clone()),
            Request::Listen(Endpoint::tcp("", 0)),
            Request::Accepted { listener: 7 },
            Request::Echo,
            Request::About,
        ] {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
    }

    #[test]
    fn a_request_of_a_later_version_says_who_is_too_old() {
        let refusal = "teleport mars:1".parse::<Request>().unwrap_err();
        assert_eq!(refusal.reason, Reason::Unsupported);
        assert!(refusal.to_string().contains("upgrade"), "{refusal}");
        assert_eq!("connect x".parse::<Request>().unwrap_err().reason, Reason::Malformed);
    }

    #[test]
    fn what_the_peer_says_cannot_forge_a_line() {
        let refusal = Refusal::new(Reason::Other(9), "a\nb\x1b[2J");
        assert!(!refusal.to_string().contains(['\n', '\x1b']));
    }
}
