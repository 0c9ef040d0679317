//! What each side says of its pipes at a resume: its table, a list of frames.

use bytes::{BufMut, BytesMut};

use super::codec::{DecodeError, Reader, put_varint};
use super::frame::FRAME_MAX;
use crate::id::PipeId;

/// How many entries of each list surely fit one frame, each as long as it can be. A code
/// has 32 bits, for which a varint may need eight bytes. A position is at its longest in
/// a run of its own.
pub(crate) const POSITION_ENTRIES_MAX: usize = FRAME_MAX / (8 + 1 + 1 + 8 + 8 + 8 + 8);
pub(crate) const GAP_ENTRIES_MAX: usize = FRAME_MAX / 8;

/// Most positions that a frame may hold. They may be as short as a byte, and take up
/// forty once they are decoded.
const POSITIONS_MAX: u64 = 1024;

/// Begins a side's table in a resume: which pipes it has opened and seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableHead {
    /// How many pipes the sender has opened: their indices lie below this.
    pub(crate) opened: u64,
    /// All pipes of the receiver with an index below this were seen by the
    /// sender, but for those in `Gaps` frames.
    pub(crate) seen: u64,
}

impl TableHead {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.opened);
        put_varint(out, self.seen);
    }

    pub(super) fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self { opened: payload.varint()?, seen: payload.varint()? })
    }
}

/// Indices below `TableHead::seen` that were not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gaps(pub(crate) Vec<u64>);

impl Gaps {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        self.0.iter().for_each(|index| put_varint(out, *index));
    }

    pub(super) fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        let mut indices = Vec::new();
        while !payload.is_empty() {
            indices.push(payload.varint()?);
        }
        Ok(Self(indices))
    }
}

/// What the sender of a position has to say of the direction it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecvReport {
    /// Wants bytes from the offset on.
    Open,
    /// Has seen the end.
    Done,
    /// Wants no more.
    Stopped { code: u32 },
}

/// What the sender of a position has to say of the direction it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendReport {
    /// Bytes or FIN come on the stream.
    Open,
    /// Reset after `offset` bytes.
    Reset { code: u32, offset: u64 },
}

/// One live pipe in a side's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) pipe: PipeId,
    /// How far the sender's application has read.
    pub(crate) read: u64,
    pub(crate) recv: RecvReport,
    pub(crate) send: SendReport,
}

impl Position {
    const DONE: u8 = 0b001;
    const STOPPED: u8 = 0b010;
    const RESET: u8 = 0b100;

    fn flags(&self) -> u8 {
        let recv_flags = match self.recv {
            RecvReport::Open => 0,
            RecvReport::Done => Self::DONE,
            RecvReport::Stopped { .. } => Self::STOPPED,
        };
        let send_flags = match self.send {
            SendReport::Open => 0,
            SendReport::Reset { .. } => Self::RESET,
        };
        recv_flags | send_flags
    }

    /// Whether it goes on with the run that `last` is the last of.
    fn follows(&self, last: &Self) -> bool {
        self.flags() == last.flags() && last.pipe.next() == Some(self.pipe)
    }

    /// What is its own in a run.
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.read);
        if let RecvReport::Stopped { code } = self.recv {
            put_varint(out, u64::from(code));
        }
        if let SendReport::Reset { code, offset } = self.send {
            put_varint(out, u64::from(code));
            put_varint(out, offset);
        }
    }

    fn decode(pipe: PipeId, flags: u8, payload: &mut Reader) -> Result<Self, DecodeError> {
        let read = payload.varint()?;
        let recv = match flags & (Self::DONE | Self::STOPPED) {
            0 => RecvReport::Open,
            Self::DONE => RecvReport::Done,
            Self::STOPPED => RecvReport::Stopped { code: payload.varint_u32("stop code")? },
            _ => return Err(DecodeError::Invalid("position flags")),
        };
        let send = match flags & !(Self::DONE | Self::STOPPED) {
            0 => SendReport::Open,
            Self::RESET => SendReport::Reset {
                code: payload.varint_u32("reset code")?,
                offset: payload.varint()?,
            },
            _ => return Err(DecodeError::Invalid("position flags")),
        };
        Ok(Self { pipe, read, recv, send })
    }
}

/// A part of a side's table. Pipes of one opener with consecutive indices and equal
/// flags, which is what idle ones are, make one run and share what they have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Positions(pub(crate) Vec<Position>);

impl Positions {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        for run in self.0.chunk_by(|last, position| position.follows(last)) {
            if let Some(first) = run.first() {
                put_varint(out, first.pipe.to_wire());
                out.put_u8(first.flags());
                put_varint(out, run.len() as u64);
                run.iter().for_each(|position| position.encode(out));
            }
        }
    }

    pub(super) fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        let mut positions = Vec::new();
        while !payload.is_empty() {
            let mut pipe = Some(PipeId::from_wire(payload.varint()?));
            let flags = payload.u8()?;
            let count = payload.varint()?;
            if count == 0 || count.saturating_add(positions.len() as u64) > POSITIONS_MAX {
                return Err(DecodeError::Invalid("position count"));
            }
            for _ in 0..count {
                let id = pipe.ok_or(DecodeError::Invalid("position count"))?;
                positions.push(Position::decode(id, flags, &mut payload)?);
                pipe = id.next();
            }
        }
        Ok(Self(positions))
    }
}

/// Ends a side's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEnd {
    /// How many positions were sent: a check that none is missing.
    pub(crate) pipes: u64,
}

impl TableEnd {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.pipes);
    }

    pub(super) fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self { pipes: payload.varint()? })
    }
}
