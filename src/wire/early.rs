//! Frames of an early flight: what a client says of a session before the
//! handshake is complete, and the answer (P-36, P-37).

use bytes::{BufMut, BytesMut};

use super::SECRET_LEN;
use super::codec::{DecodeError, Reader, put_varint};
use crate::id::{Epoch, HolderId, PipeId, SessionId};

/// Length of the random number that stands in an early proof where a full one
/// has keying material of the connection.
pub(crate) const NONCE_LEN: usize = 32;

/// Client: a resume is about to come on this connection, and so are streams of
/// these pipes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Early {
    pub(crate) session: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) holder: HolderId,
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) proof: [u8; SECRET_LEN],
    /// How far the client's application had read pipes of its own, at least.
    pub(crate) reads: Vec<(PipeId, u64)>,
}

impl Early {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.session.as_bytes());
        put_varint(out, self.epoch.get());
        out.put_slice(&self.holder.0);
        out.put_slice(&self.nonce);
        out.put_slice(&self.proof);
        for (pipe, read) in &self.reads {
            put_varint(out, pipe.to_wire());
            put_varint(out, *read);
        }
    }

    pub(super) fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        let mut early = Self {
            session: SessionId::from_bytes(payload.array()?),
            epoch: Epoch::from_wire(payload.varint()?),
            holder: HolderId(payload.array()?),
            nonce: payload.array()?,
            proof: payload.array()?,
            reads: Vec::new(),
        };
        while !payload.is_empty() {
            early.reads.push((PipeId::from_wire(payload.varint()?), payload.varint()?));
        }
        Ok(early)
    }
}

/// Server: the early flight was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EarlyAnswer {
    pub(crate) epoch: Epoch,
    pub(crate) proof: [u8; SECRET_LEN],
}

impl EarlyAnswer {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.epoch.get());
        out.put_slice(&self.proof);
    }

    pub(super) fn decode(mut payload: Reader) -> Result<Self, DecodeError> {
        Ok(Self { epoch: Epoch::from_wire(payload.varint()?), proof: payload.array()? })
    }
}
