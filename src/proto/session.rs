//! What belongs to a session as a whole: ids, limits, epochs, the token.

use std::collections::BTreeMap;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::budget::PIPE_SHARE;
use super::ids::SeenIds;
use super::pipe::Pipe;
use super::token::{Secret, Token};
use crate::id::{Epoch, HolderId, PipeId, SessionId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::wire::{Ack, Frame, Header, HeaderKind, Parameters, Reset, SECRET_LEN};

/// Where a pipe stands that the shell has no record of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// It was there and is done: whatever the peer says of it is old.
    Gone,
    /// Its stream has not arrived yet.
    Early,
}

/// What a stream header announces.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A pipe that we see for the first time.
    New(Box<Pipe>),
    /// The next stream of a pipe that was seen before. If the shell has no
    /// record of it, it is done and the stream is refused.
    Known,
}

/// Ends of a pipe that arrived before its stream did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Early {
    reset: Option<(u32, u64)>,
    stop: Option<u32>,
}

/// The session, without its pipes: plain data, no handles.
#[derive(Clone, Debug)]
pub(crate) struct SessionCore {
    pub(super) side: Side,
    pub(super) id: SessionId,
    /// Server: the last epoch accepted. Client: the last epoch tried.
    pub(super) epoch: Epoch,
    /// The last epoch that an early claim has used up (P-36). Client: of those it
    /// has made, server: of those it has let in.
    pub(super) early_epoch: Epoch,
    /// Client: our own. Server: whoever resumed last.
    pub(super) holder: HolderId,
    pub(super) token: Token,
    pub(super) local: Parameters,
    pub(super) peer: Parameters,
    /// How many pipes we have opened: the index of the next.
    pub(super) opened: u64,
    /// The peer's pipes that we have seen.
    pub(super) seen: SeenIds,
    /// Live pipes that we opened; at most `peer.max_pipes`.
    live_own: u64,
    /// Live pipes that the peer opened; at most [`most_live`] of
    /// `local.max_pipes`.
    live_peer: u64,
    /// At most `local.max_pipes`.
    pub(super) early: BTreeMap<PipeId, Early>,
    /// Client: a full claim waits for its answer.
    pub(super) claiming: bool,
}

/// How many of an opener's pipes may be live with its peer, where so many are
/// allowed. The opener is done with a pipe when it has *sent* its last ack, the
/// peer when that has come, and the streams of the opener's next pipes may
/// overtake it: they are not ordered with the control stream.
pub(super) const fn most_live(allowed: u64) -> u64 {
    /// Short pipes that may come and go while one control frame is late.
    const OVERTAKING: u64 = 64;
    allowed.saturating_mul(2).saturating_add(OVERTAKING)
}

/// We have as many pipes open as the peer allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PipeLimit {
    pub(crate) allowed: u64,
}

impl SessionCore {
    /// A session that has just begun, at epoch 1.
    pub(crate) fn new(
        side: Side,
        id: SessionId,
        secret: Zeroizing<[u8; SECRET_LEN]>,
        holder: HolderId,
        local: Parameters,
        peer: Parameters,
    ) -> Self {
        // The lower counts for both (P-7): what each has to hold for the other
        // depends on it.
        let max_pipes = local.max_pipes.min(peer.max_pipes);
        let local = Parameters { max_pipes, ..local };
        let peer = Parameters { max_pipes, ..peer };
        Self {
            side,
            id,
            epoch: Epoch::FIRST,
            early_epoch: Epoch::FIRST,
            holder,
            token: Token::new(Secret::new(secret)),
            local,
            peer,
            opened: 0,
            seen: SeenIds::default(),
            live_own: 0,
            live_peer: 0,
            early: BTreeMap::new(),
            claiming: false,
        }
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn holder(&self) -> HolderId {
        self.holder
    }

    pub(crate) fn live_pipes(&self) -> u64 {
        self.live_own + self.live_peer
    }

    pub(crate) fn max_peer_pipes(&self) -> u64 {
        self.local.max_pipes
    }

    /// How many live pipes we have opened.
    pub(crate) fn live_own_pipes(&self) -> u64 {
        self.live_own
    }

    /// How many live pipes the peer has opened.
    pub(crate) fn live_peer_pipes(&self) -> u64 {
        self.live_peer
    }

    /// The bytes that we may keep for replay in all, beyond each pipe's own
    /// share: no more than the peer is willing to hold unread (P-20).
    pub(crate) fn replay_limit(&self, configured: u64) -> u64 {
        let pipes = self.local.max_pipes.saturating_add(self.peer.max_pipes);
        let shares = pipes.saturating_mul(PIPE_SHARE);
        configured.min(self.peer.receive_budget.saturating_sub(shares))
    }

    /// Opens a pipe.
    pub(crate) fn open(&mut self, label: Bytes) -> Result<Pipe, PipeLimit> {
        let limit = PipeLimit { allowed: self.peer.max_pipes };
        if self.live_own >= self.peer.max_pipes {
            return Err(limit);
        }
        let id = PipeId::new(self.side, self.opened).ok_or(limit)?;
        self.opened += 1;
        self.live_own += 1;
        Ok(Pipe::new(id, label, self.local.replay_capacity, self.peer.replay_capacity))
    }

    /// The header of a stream that the peer opened on the connection of
    /// `epoch`.
    pub(crate) fn on_header(
        &mut self,
        header: &Header,
        epoch: Epoch,
    ) -> Result<Accepted, PeerMisbehaved> {
        let pipe = header.pipe;
        if header.epoch != epoch {
            return Err(PeerMisbehaved::WrongEpoch { got: header.epoch, expected: epoch });
        }
        if pipe.opener() == self.side {
            // The peer opens streams for pipes of ours too, once it has seen them.
            if header.kind == HeaderKind::Continue && pipe.index() < self.opened {
                return Ok(Accepted::Known);
            }
            return Err(PeerMisbehaved::NoSuchPipe { pipe });
        }
        let label = match &header.kind {
            _ if self.seen.contains(pipe.index()) => return Ok(Accepted::Known),
            HeaderKind::Continue => return Err(PeerMisbehaved::NoSuchPipe { pipe }),
            HeaderKind::Open { label } => label.clone(),
        };
        if self.live_peer >= most_live(self.local.max_pipes) {
            return Err(PeerMisbehaved::TooManyPipes { allowed: self.local.max_pipes });
        }
        self.see(pipe)?;
        self.live_peer += 1;
        let mut accepted =
            Pipe::new(pipe, label, self.local.replay_capacity, self.peer.replay_capacity);
        if let Some(early) = self.early.remove(&pipe) {
            if let Some((code, offset)) = early.reset {
                accepted.recv.on_reset(code, offset)?;
            }
            if let Some(code) = early.stop {
                accepted.send.on_stop(code, 0)?;
            }
        }
        Ok(Accepted::New(Box::new(accepted)))
    }

    /// Where `pipe` stands, which the peer names and the shell does not have.
    pub(crate) fn locate(&self, pipe: PipeId) -> Result<Located, PeerMisbehaved> {
        if pipe.opener() == self.side {
            if pipe.index() < self.opened {
                return Ok(Located::Gone);
            }
            return Err(PeerMisbehaved::NoSuchPipe { pipe });
        }
        Ok(if self.seen.contains(pipe.index()) { Located::Gone } else { Located::Early })
    }

    /// A reset of a pipe whose stream has not come yet. Returns replies.
    pub(crate) fn on_early_reset(
        &mut self,
        pipe: PipeId,
        code: u32,
        offset: u64,
    ) -> Result<Vec<Frame>, PeerMisbehaved> {
        self.early(pipe)?.reset = Some((code, offset));
        self.settle_early(pipe)
    }

    /// A stop of a pipe whose stream has not come yet. Returns replies.
    pub(crate) fn on_early_stop(
        &mut self,
        pipe: PipeId,
        code: u32,
    ) -> Result<Vec<Frame>, PeerMisbehaved> {
        self.early(pipe)?.stop = Some(code);
        self.settle_early(pipe)
    }

    /// Forgets a pipe. Its id stays seen: that is its tombstone.
    pub(crate) fn retire(&mut self, pipe: PipeId) {
        let live =
            if pipe.opener() == self.side { &mut self.live_own } else { &mut self.live_peer };
        *live = live.saturating_sub(1);
    }

    fn early(&mut self, pipe: PipeId) -> Result<&mut Early, PeerMisbehaved> {
        let allowed = self.local.max_pipes;
        if self.early.len() as u64 >= allowed && !self.early.contains_key(&pipe) {
            return Err(PeerMisbehaved::TooManyPipes { allowed });
        }
        Ok(self.early.entry(pipe).or_default())
    }

    /// A pipe that was given up in both directions before it was seen is never
    /// shown to the application: it is seen, done, and both ends are answered.
    fn settle_early(&mut self, pipe: PipeId) -> Result<Vec<Frame>, PeerMisbehaved> {
        let Some(Early { reset: Some(_), stop: Some(code) }) = self.early.get(&pipe).copied()
        else {
            return Ok(Vec::new());
        };
        self.early.remove(&pipe);
        self.see(pipe)?;
        Ok(vec![
            Frame::Reset(Reset { pipe, code, offset: 0 }),
            Frame::Acks(vec![Ack { pipe, offset: 0, done: true }]),
        ])
    }

    fn see(&mut self, pipe: PipeId) -> Result<(), PeerMisbehaved> {
        let allowed = self.local.max_pipes;
        match self.seen.insert(pipe.index(), allowed) {
            Some(true) => Ok(()),
            Some(false) => Err(PeerMisbehaved::DuplicateStream { pipe }),
            None => Err(PeerMisbehaved::TooManyPipes { allowed }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(max_pipes: [u64; 2], receive_budget: u64) -> SessionCore {
        let [local, peer] = max_pipes.map(|max_pipes| Parameters {
            max_pipes,
            replay_capacity: 1 << 20,
            receive_budget,
        });
        let id = SessionId::from_bytes([7; 16]);
        SessionCore::new(Side::Client, id, [3; SECRET_LEN].into(), HolderId([1; 16]), local, peer)
    }

    /// P-20.
    #[test]
    fn what_is_kept_for_replay_stays_below_what_the_peer_holds_unread_and_all_shares() {
        const MIB: u64 = 1 << 20;
        for (max_pipes, receive_budget, limit) in [
            // 128 KiB for each pipe that either side may open.
            ([8, 8], 128 * MIB, 127 * MIB),
            ([8, 1000], 128 * MIB, 127 * MIB),
            ([1024, 1024], 128 * MIB, 0),
            ([1024, 1024], 128 * MIB + 1, 1),
            ([1024, 1024], 0, 0),
            ([u64::MAX, u64::MAX], 128 * MIB, 0),
        ] {
            let core = core(max_pipes, receive_budget);
            for configured in [0, 1, limit, limit + 1, u64::MAX] {
                assert_eq!(core.replay_limit(configured), configured.min(limit), "{max_pipes:?}");
            }
        }
    }
}
