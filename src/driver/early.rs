//! The early flight of a client: what it says, and of which pipes it sends along
//! what, while the handshake is under way. What that is worth is in
//! `proto/early.rs`; what becomes of the streams, in `pipe/early.rs`.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::control::{ControlReader, ControlWriter};
use crate::id::{Epoch, PipeId};
use crate::misbehaved::PeerMisbehaved;
use crate::pipe::PipeShared;
use crate::proto::EarlyClaim;
use crate::quic::{Connection, RecvStream, SendStream};
use crate::session::SessionShared;
use crate::wire::{Frame, NONCE_LEN};

/// So many pipes may send all that one may ahead of an answer: more would be a burst
/// on a network that has just come back.
const BURST: u64 = 4;

/// Most streams of an early flight, which are mostly there for the server to say
/// something on.
const STREAMS_MAX: usize = 32;

/// A control stream on which an early claim was made, for the full claim to go on
/// with. Worth nothing if the server does not take early data.
#[derive(Debug)]
pub(crate) struct EarlyFlight {
    pub(super) claim: EarlyClaim,
    pub(super) reader: ControlReader,
    pub(super) writer: ControlWriter,
    pub(super) streams: EarlyStreams,
}

impl EarlyFlight {
    /// Claims the session on a connection whose handshake is under way, and sends
    /// along at most `most` bytes of each pipe; the attached connection, if there is
    /// one, goes on. `None` if that is of no use.
    pub(crate) fn launch(
        session: &SessionShared,
        connection: &Connection,
        nonce: [u8; NONCE_LEN],
        most: u64,
    ) -> Option<Self> {
        let mut pipes = owing_little(session, most);
        pipes.truncate(STREAMS_MAX);
        if pipes.is_empty() {
            return None;
        }
        let reads = pipes.iter().map(|pipe| (pipe.id(), pipe.stats().read)).collect();
        // First: a control stream that was opened and given up would end the connection.
        let (claim, early) = session.table().core.claim_early(nonce, reads)?;
        let (send, recv) = connection.try_open_bi()?;
        let (reader, mut writer) = (ControlReader::new(recv), ControlWriter::new(send));
        writer.queue(&Frame::Early(early));
        writer.flush_now();
        let mut streams = EarlyStreams::new(claim.epoch(), most);
        streams.open(connection, pipes);
        Some(Self { claim, reader, writer, streams })
    }
}

/// Early streams of an epoch. Their pipes let go of them when this is dropped, unless
/// the connection was attached.
#[derive(Debug)]
pub(crate) struct EarlyStreams {
    epoch: Epoch,
    /// How many bytes each may carry.
    most: u64,
    pipes: Vec<Arc<PipeShared>>,
}

impl EarlyStreams {
    pub(crate) fn new(epoch: Epoch, most: u64) -> Self {
        Self { epoch, most, pipes: Vec::new() }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Client: opens streams for these pipes, but for those that have one, as far as
    /// the server allows without being asked.
    pub(super) fn open(&mut self, connection: &Connection, pipes: Vec<Arc<PipeShared>>) {
        let opened: HashSet<PipeId> = self.pipes.iter().map(|pipe| pipe.id()).collect();
        for pipe in pipes {
            if opened.contains(&pipe.id()) {
                continue;
            }
            let Some(stream) = connection.try_open_bi() else { return };
            // Only what a peer has said could be wrong, and it has said nothing yet.
            let _ = self.attach(&pipe, stream, None, 0);
        }
    }

    /// Attaches a stream of `pipe`'s, as in [`PipeShared::attach_early`].
    pub(crate) fn attach(
        &mut self,
        pipe: &Arc<PipeShared>,
        stream: (SendStream, RecvStream),
        begun: Option<(u64, Bytes)>,
        from: u64,
    ) -> Result<(), PeerMisbehaved> {
        pipe.attach_early(self.epoch, stream, begun, from, self.most)?;
        self.pipes.push(pipe.clone());
        Ok(())
    }

    /// The peer has shown that the session is its own.
    pub(crate) fn trust(&self) {
        self.pipes.iter().for_each(|pipe| pipe.trust_early(self.epoch));
    }
}

impl Drop for EarlyStreams {
    fn drop(&mut self) {
        self.pipes.iter().for_each(|pipe| pipe.drop_early(self.epoch));
    }
}

/// Our pipes that owe at most `most` bytes, as far as that is no burst, in the order
/// in which they should have streams.
pub(super) fn owing_little(session: &SessionShared, most: u64) -> Vec<Arc<PipeShared>> {
    if most == 0 {
        return Vec::new();
    }
    let due = |pipe: Arc<PipeShared>| pipe.early_due().map(|due| (due, pipe));
    let mut pipes: Vec<(u64, Arc<PipeShared>)> =
        session.pipes().into_iter().filter_map(due).filter(|(due, _)| *due <= most).collect();
    // Interactive pipes first, as after the answer; then those that owe nothing, whose
    // streams may be what the server waits for.
    pipes.sort_by_key(|(due, pipe)| (*due == 0, *due, pipe.id()));
    let mut left = most.saturating_mul(BURST);
    pipes.retain(|(due, _)| left.checked_sub(*due).inspect(|rest| left = *rest).is_some());
    pipes.into_iter().map(|(_, pipe)| pipe).collect()
}
