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

    /// The next of the same opener's.
    pub(crate) const fn next(self) -> Option<Self> {
        Self::new(self.opener(), self.index() + 1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MAX_VARINT;

    const SIDES: [Side; 2] = [Side::Client, Side::Server];

    #[test]
    fn a_pipe_id_is_its_opener_and_index_up_to_the_largest_varint() {
        for opener in SIDES {
            for index in [0, 1, 2, 1000, PipeId::MAX_INDEX - 1, PipeId::MAX_INDEX] {
                let id = PipeId::new(opener, index).unwrap();
                assert_eq!((id.opener(), id.index()), (opener, index));
                assert_eq!(id.to_wire(), 2 * index + u64::from(opener == Side::Server));
                assert_eq!(PipeId::from_wire(id.to_wire()), id);
            }
            for index in [PipeId::MAX_INDEX + 1, u64::MAX] {
                assert_eq!(PipeId::new(opener, index), None);
            }
        }
        let last = PipeId::new(Side::Server, PipeId::MAX_INDEX).unwrap();
        assert_eq!(last.to_wire(), MAX_VARINT);
        // No value at all makes an id that the wire could not carry.
        assert_eq!(PipeId::from_wire(u64::MAX), last);
    }

    #[test]
    fn each_side_is_the_peer_of_the_other() {
        assert_eq!(SIDES.map(Side::peer), [Side::Server, Side::Client]);
    }

    #[test]
    fn epochs_grow_one_by_one_from_the_first_and_never_go_round() {
        assert_eq!((Epoch::FIRST.get(), Epoch::FIRST.next().get()), (1, 2));
        assert_eq!(Epoch::from_wire(7).next(), Epoch::from_wire(8));
        assert!(Epoch::from_wire(u64::MAX).next() >= Epoch::from_wire(u64::MAX));
    }

    #[test]
    fn ids_are_printed_so_that_logs_of_both_sides_can_be_held_together() {
        let mut bytes = [0; SessionId::LEN];
        (bytes[0], bytes[15]) = (0x0a, 0xf0);
        let session = SessionId::from_bytes(bytes);
        assert_eq!(session.to_string(), "0a0000000000000000000000000000f0");
        assert_eq!(format!("{session:?}"), format!("SessionId({session})"));
        let pipes = SIDES.map(|opener| PipeId::new(opener, 7).unwrap());
        assert_eq!(pipes.map(|pipe| pipe.to_string()), ["c7", "s7"]);
        assert_eq!(format!("{:?}", pipes[1]), "PipeId(s7)");
        assert_eq!(Epoch::from_wire(7).to_string(), "7");
    }
}
