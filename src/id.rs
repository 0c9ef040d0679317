//! Names of things: sessions, pipes, epochs, sides.

use std::fmt;

/// Which end of a session one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The end that dials, and that resumes.
    Client,
    /// The end that listens.
    Server,
}

impl Side {
    /// The other end.
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The public name of a session: 128 random bits chosen by the server.
///
/// It is not a secret. What lets a client resume is the token's secret, which
/// has no public representation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; Self::LEN]);

impl SessionId {
    /// Length in bytes. 128 bits make a collision among any number of live
    /// sessions as unlikely as for a UUID.
    pub const LEN: usize = 16;

    /// The id made of these bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The name of a pipe within its session: who opened it, and a counter that is
/// never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PipeId(u64);

impl PipeId {
    /// The largest index. The id on the wire is `2 * index + opener`, which
    /// must fit a varint (62 bits).
    pub const MAX_INDEX: u64 = (1 << 61) - 1;

    /// The `index`-th pipe that `opener` opened, counted from 0; `None` above
    /// [`MAX_INDEX`](Self::MAX_INDEX).
    pub const fn new(opener: Side, index: u64) -> Option<Self> {
        if index > Self::MAX_INDEX {
            return None;
        }
        Some(Self((index << 1) | opener as u64))
    }

    /// Who opened the pipe.
    pub const fn opener(self) -> Side {
        if self.0 & 1 == 0 { Side::Client } else { Side::Server }
    }

    /// How many pipes the opener had opened before this one.
    pub const fn index(self) -> u64 {
        self.0 >> 1
    }

    pub(crate) const fn to_wire(self) -> u64 {
        self.0
    }

    /// `raw` comes from a varint, so every value is a valid id.
    pub(crate) const fn from_wire(raw: u64) -> Self {
        Self(raw & ((1 << 62) - 1))
    }
}

impl fmt::Display for PipeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opener = match self.opener() {
            Side::Client => 'c',
            Side::Server => 's',
        };
        write!(f, "{opener}{}", self.index())
    }
}

impl fmt::Debug for PipeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PipeId({self})")
    }
}

/// The number of a connection within its session: 1 for the first, greater for
/// each later one. Gaps are normal: a failed attempt uses one up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// The first connection of a session.
    pub const FIRST: Self = Self(1);

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_wire(raw: u64) -> Self {
        Self(raw)
    }

    /// The next higher epoch.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells the holders of one token apart: drawn at random by each client
/// process that resumes a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HolderId(pub(crate) [u8; 16]);
