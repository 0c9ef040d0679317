//! The resume exchange: claim, proof, tables.
//!
//! ```text
//!  client                                              server
//!    │ fence, measure                                     │
//!    │ RESUME{session, epoch, holder, proof}              │
//!    │ TABLE_HEAD GAPS* POSITIONS* TABLE_END ───────────▶ │ check the proof (nothing
//!    │                                                    │ of the session touched yet),
//!    │                                                    │ read the whole table,
//!    │                                                    │ fence, measure, apply,
//!    │            RESUMED{epoch, proof} and its own table │ and only then answer
//!    │ ◀───────────────────────────────────────────────── │
//!    │ check the proof, apply                             │
//!    │ streams for what is owed; replay ◀───────────────▶ │
//! ```
//!
//! A [`Table`] is one side's: what it has opened and seen, and the positions of
//! its live pipes. What the other side makes of one is a [`PeerTable`], built
//! from bounded frames and checked as it grows. That a pipe is absent says as
//! much as a position does: see [`PeerTable::view`].

use std::collections::{BTreeMap, BTreeSet};

use super::ids::SeenIds;
use super::pipe::PeerView;
use super::session::{SessionCore, most_live};
use super::token::{Binding, Secret, proofs_equal};
use crate::code::RefuseCode;
use crate::id::{Epoch, HolderId, PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::wire::{
    Frame, GAP_ENTRIES_MAX, Gaps, POSITION_ENTRIES_MAX, Position, Positions, Refused, Resume,
    Resumed, SECRET_LEN, SendReport, TableEnd, TableHead,
};

/// One side's table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    opened: u64,
    seen: SeenIds,
    positions: Vec<Position>,
}

impl Table {
    /// The table as frames, each within the bound of a frame.
    pub(crate) fn into_frames(self) -> impl Iterator<Item = Frame> {
        let head = Frame::TableHead(TableHead { opened: self.opened, seen: self.seen.next() });
        let gaps: Vec<u64> = self.seen.gaps().collect();
        let gaps: Vec<Frame> =
            gaps.chunks(GAP_ENTRIES_MAX).map(|part| Frame::Gaps(Gaps(part.to_vec()))).collect();
        let pipes = self.positions.len() as u64;
        let positions: Vec<Frame> = self
            .positions
            .chunks(POSITION_ENTRIES_MAX)
            .map(|part| Frame::Positions(Positions(part.to_vec())))
            .collect();
        let end = Frame::TableEnd(TableEnd { pipes });
        std::iter::once(head).chain(gaps).chain(positions).chain(std::iter::once(end))
    }
}

/// The other side's table, as far as it has come.
///
/// Holds at most one position for each pipe that may be live, and one gap for
/// each that the peer may not have seen: what goes beyond is refused.
#[derive(Clone, Debug)]
pub(crate) struct PeerTable {
    us: Side,
    /// How many pipes we have opened: the peer cannot have seen more.
    opened: u64,
    /// How many of its pipes we know of: it cannot have opened fewer.
    seen: u64,
    max_positions: u64,
    max_gaps: u64,
    head: Option<TableHead>,
    gaps: BTreeSet<u64>,
    positions: BTreeMap<PipeId, Position>,
}

impl PeerTable {
    /// Takes the next frame; `true` when the table is complete.
    pub(crate) fn on_frame(&mut self, frame: Frame) -> Result<bool, PeerMisbehaved> {
        match (frame, &self.head) {
            (Frame::TableHead(head), None)
                if head.seen <= self.opened && head.opened >= self.seen =>
            {
                self.head = Some(head);
            }
            (Frame::Gaps(Gaps(gaps)), Some(head)) => {
                if gaps.iter().any(|gap| *gap >= head.seen) {
                    return Err(PeerMisbehaved::UnexpectedFrame { frame: "GAPS" });
                }
                self.gaps.extend(gaps);
                if self.gaps.len() as u64 > self.max_gaps {
                    return Err(PeerMisbehaved::TooManyPipes { allowed: self.max_gaps });
                }
            }
            (Frame::Positions(Positions(positions)), Some(_)) => {
                self.positions.extend(positions.into_iter().map(|p| (p.pipe, p)));
                if self.positions.len() as u64 > self.max_positions {
                    return Err(PeerMisbehaved::TooManyPipes { allowed: self.max_positions });
                }
            }
            (Frame::TableEnd(end), Some(_)) if end.pipes == self.positions.len() as u64 => {
                return Ok(true);
            }
            (Frame::Unknown(_), _) => {}
            (frame, _) => return Err(PeerMisbehaved::UnexpectedFrame { frame: frame.name() }),
        }
        Ok(false)
    }

    /// What the table says of `pipe`, which is live with us.
    pub(crate) fn view(&self, pipe: PipeId) -> PeerView {
        if let Some(position) = self.positions.get(&pipe) {
            return PeerView::Live(*position);
        }
        let seen = match &self.head {
            Some(head) if pipe.opener() == self.us => {
                pipe.index() < head.seen && !self.gaps.contains(&pipe.index())
            }
            // It opened the pipe, so it has seen it.
            _ => true,
        };
        if seen { PeerView::Gone } else { PeerView::Unseen }
    }

    /// The peer's live pipes.
    pub(crate) fn positions(&self) -> impl Iterator<Item = &Position> {
        self.positions.values()
    }
}

/// A client's claim under way: what its answer is checked against.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    epoch: Epoch,
    exporter: [u8; SECRET_LEN],
}

impl SessionCore {
    /// Client: claims the session on a connection with this exporter output.
    /// Every attempt uses up an epoch (P-13).
    pub(crate) fn claim(&mut self, exporter: [u8; SECRET_LEN]) -> (Claim, Resume) {
        let epoch = self.next_epoch();
        self.claim_as(epoch, exporter)
    }

    /// Client: as [`claim`](Self::claim), where an early claim has gone ahead with
    /// this epoch.
    pub(crate) fn claim_as(&mut self, epoch: Epoch, exporter: [u8; SECRET_LEN]) -> (Claim, Resume) {
        self.epoch = epoch;
        self.claiming = true;
        let binding = self.binding(self.epoch, self.holder, &exporter);
        let resume = Resume {
            session: self.id,
            epoch: self.epoch,
            holder: self.holder,
            proof: self.token.newest().client_proof(binding),
        };
        (Claim { epoch: self.epoch, exporter }, resume)
    }

    /// Client: the claim has come to something, or to nothing.
    pub(crate) fn claim_over(&mut self) {
        self.claiming = false;
    }

    /// Client: the server accepted the claim.
    pub(crate) fn on_resumed(
        &mut self,
        claim: &Claim,
        answer: &Resumed,
    ) -> Result<(), PeerMisbehaved> {
        if answer.epoch != claim.epoch {
            return Err(PeerMisbehaved::WrongEpoch { got: answer.epoch, expected: claim.epoch });
        }
        let secret = self.token.newest().clone();
        let binding = self.binding(claim.epoch, self.holder, &claim.exporter);
        if !proofs_equal(&answer.proof, &secret.server_proof(binding)) {
            return Err(PeerMisbehaved::BadServerProof);
        }
        self.token.advance(secret, binding_of(self, claim));
        self.token.forget_previous();
        Ok(())
    }

    /// Client: the server refused the claim. The next one goes above the epoch
    /// that it names.
    pub(crate) fn on_refused(&mut self, refused: &Refused) {
        if refused.code == RefuseCode::STALE_EPOCH {
            self.epoch = self.epoch.max(Epoch::from_wire(refused.attached));
        }
    }

    /// Server: whether a resume is good. Changes nothing (P-14).
    ///
    /// # Errors
    ///
    /// What to refuse the client with.
    pub(crate) fn check(
        &self,
        resume: &Resume,
        exporter: &[u8; SECRET_LEN],
    ) -> Result<Secret, RefuseCode> {
        let binding = self.binding(resume.epoch, resume.holder, exporter);
        let Some(used) = self.token.check(&resume.proof, binding) else {
            return Err(if resume.holder == self.holder {
                RefuseCode::BAD_PROOF
            } else {
                RefuseCode::SUPERSEDED
            });
        };
        // The secret before the last change is kept for the holder who may not
        // have heard of the change; with any other it is outdated.
        if resume.holder != self.holder && !self.token.is_newest(&used) {
            return Err(RefuseCode::SUPERSEDED);
        }
        if resume.epoch <= self.epoch {
            return Err(RefuseCode::STALE_EPOCH);
        }
        Ok(used)
    }

    /// Server: accepts a resume, after the fence. From here on the old epoch is
    /// history and the secret has moved on. The answer goes out ahead of our
    /// table.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check): another resume may have come in between.
    pub(crate) fn grant(
        &mut self,
        resume: &Resume,
        exporter: &[u8; SECRET_LEN],
    ) -> Result<Resumed, RefuseCode> {
        let used = self.check(resume, exporter)?;
        let binding = self.binding(resume.epoch, resume.holder, exporter);
        let proof = used.server_proof(binding);
        self.token.advance(used, binding);
        self.epoch = resume.epoch;
        self.holder = resume.holder;
        Ok(Resumed { epoch: resume.epoch, proof })
    }

    /// Our table, from the positions of all live pipes.
    pub(crate) fn table(&mut self, mut positions: Vec<Position>) -> Table {
        // They make long runs.
        positions.sort_by_key(|position| (position.pipe.opener(), position.pipe.index()));
        // What was held for pipes that we had not seen comes again in the
        // peer's table.
        self.early.clear();
        Table { opened: self.opened, seen: self.seen.clone(), positions }
    }

    /// An empty table for what the peer will send.
    pub(crate) fn expect_table(&self) -> PeerTable {
        // Of our pipes it can know as many as we have opened, whatever it allows.
        let ours = self.opened.min(most_live(self.peer.max_pipes));
        PeerTable {
            us: self.side,
            opened: self.opened,
            seen: self.seen.next(),
            max_positions: self.local.max_pipes.saturating_add(ours),
            max_gaps: self.opened.min(self.peer.max_pipes),
            head: None,
            gaps: BTreeSet::new(),
            positions: BTreeMap::new(),
        }
    }

    /// Takes in what the peer's table says beyond our live pipes; each of those
    /// gets its [`PeerTable::view`] by itself. Returns control frames to send.
    pub(crate) fn on_table(&mut self, table: &PeerTable) -> Result<Vec<Frame>, PeerMisbehaved> {
        let mut replies = Vec::new();
        for position in table.positions() {
            let pipe = position.pipe;
            if pipe.opener() == self.side {
                if pipe.index() >= self.opened {
                    return Err(PeerMisbehaved::NoSuchPipe { pipe });
                }
            } else if !self.seen.contains(pipe.index()) {
                if let SendReport::Reset { code, offset } = position.send {
                    replies.extend(self.on_early_reset(pipe, code, offset)?);
                }
                if let crate::wire::RecvReport::Stopped { code } = position.recv {
                    replies.extend(self.on_early_stop(pipe, code)?);
                }
            }
        }
        Ok(replies)
    }

    /// Client: an epoch above all that were used.
    pub(super) fn next_epoch(&self) -> Epoch {
        self.epoch.max(self.early_epoch).next()
    }

    pub(super) fn binding<'a>(
        &self,
        epoch: Epoch,
        holder: HolderId,
        exporter: &'a [u8; SECRET_LEN],
    ) -> Binding<'a> {
        Binding { session: self.id, epoch, holder, exporter }
    }
}

fn binding_of<'a>(core: &SessionCore, claim: &'a Claim) -> Binding<'a> {
    core.binding(claim.epoch, core.holder, &claim.exporter)
}
