//! Streams of a connection that is not attached yet.
//!
//! A client need not wait for the answer to its resume: it opens streams for its
//! pipes right behind it, and sends along what little it owes (P-27). Bytes have
//! their places by their offsets alone, so what the other side has read already is
//! skipped there, and nothing is at stake if the resume fails: then the streams are
//! let go of, and the same bytes are sent another time.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::shared::{PipeShared, State, wake};
use super::streams::{CHUNK_MAX, Rx, Tx};
use crate::id::Epoch;
use crate::misbehaved::PeerMisbehaved;
use crate::quic::{RecvStream, SendStream};
use crate::sync::atomic::Ordering::Relaxed;

/// A pipe's streams on a connection that may become the attached one.
pub(super) struct Early {
    pub(super) epoch: Epoch,
    tx: Tx,
    pub(super) rx: Option<Rx>,
    /// Where our direction begins on its stream, and how far it has come.
    start: u64,
    sent: u64,
    /// How many bytes it may carry before its connection is attached.
    most: u64,
    /// The peer has shown that the session is its own: it may be read from.
    pub(super) trusted: bool,
}

impl PipeShared {
    /// How many bytes an early stream would have to carry; `None` if the pipe has no
    /// use for one, or if it is not ours to open.
    pub(crate) fn early_due(&self) -> Option<u64> {
        let state = self.lock();
        let useful = state.ended.is_none() && state.core.needs_stream();
        (useful && self.id.opener() == self.side).then(|| state.core.send.kept())
    }

    /// Takes streams of a connection that is not attached yet, and hands over the
    /// header and up to `most` bytes: from `from` on, which is where the peer's
    /// application stands as far as is known. `begun` is as in
    /// [`attach`](Self::attach). Of early streams those of the highest epoch count.
    pub(crate) fn attach_early(
        &self,
        epoch: Epoch,
        stream: (SendStream, RecvStream),
        begun: Option<(u64, Bytes)>,
        from: u64,
        most: u64,
    ) -> Result<(), PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let is_late = state.early.as_ref().is_some_and(|early| early.epoch > epoch);
        if state.ended.is_some() || is_late {
            return Ok(());
        }
        let (send, recv) = stream;
        let rx = Rx::new(recv, epoch, begun, &state.core)?;
        let rx = state.core.recv.end().is_none().then_some(rx);
        // What was acknowledged in the meantime was read.
        let start = from.max(state.core.send.acked());
        // Bulk goes on from where the reader stands when the connection is attached,
        // which may be far from here: an acceptor's header waits for its first byte.
        let opener = self.id.opener() == self.side;
        let bulk = state.core.send.written().saturating_sub(start) > most;
        let most = if bulk && !opener { 0 } else { most };
        let header = state.core.header_at(self.side, epoch, start).encode();
        let tx = Tx::new(send, epoch, opener, header);
        tx.stream.set_priority(state.rank());
        let early = Early { epoch, tx, rx, start, sent: start, most, trusted: false };
        state.early = Some(Box::new(early));
        self.carry_early(state);
        Ok(())
    }

    /// Hands to the early stream what it may carry and has not had yet. What it does
    /// not take follows when its connection is attached.
    pub(super) fn carry_early(&self, state: &mut State) {
        let through = |early: &Early| early.tx.finished || early.tx.gone;
        let Some(early) = state.early.as_mut().filter(|early| !through(early)) else { return };
        let opener = self.id.opener() == self.side;
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let left = early.most.saturating_sub(early.sent - early.start).min(CHUNK_MAX as u64);
            let chunk = state.core.send.chunk_at(early.sent, left as usize);
            let through = chunk.is_empty();
            let all = early.sent == state.core.send.written();
            let fin = through && all && state.core.send.wants_fin();
            if through && !fin && (early.tx.header.is_empty() || !opener) {
                return;
            }
            match early.tx.poll_write(&mut cx, chunk) {
                Poll::Ready(Ok(taken)) => early.sent += taken as u64,
                Poll::Ready(Err(_)) => {
                    // The other direction may go on.
                    early.tx.gone = true;
                    return;
                }
                Poll::Pending => return,
            }
            if fin {
                early.tx.stream.finish();
                early.tx.finished = true;
                return;
            }
        }
    }

    /// The peer has shown on the connection of `epoch` that the session is its own:
    /// the application may have what comes there. Not of a pipe that the peer may
    /// not have seen: with bytes of it in hand, its table, which came before them,
    /// would look like that of somebody who has forgotten it.
    pub(crate) fn trust_early(&self, epoch: Epoch) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let known = self.id.opener() != self.side || state.core.is_known();
        if let Some(early) = state.early.as_mut().filter(|early| early.epoch == epoch && known) {
            early.trusted = true;
            wake(&mut state.reader);
        }
    }

    /// Lets go of early streams of `epoch`: nothing came of their connection.
    pub(crate) fn drop_early(&self, epoch: Epoch) {
        self.lock().early.take_if(|early| early.epoch == epoch);
    }

    /// Lets go of early streams of whatever epoch: their holder is not that of the
    /// session any more.
    pub(crate) fn drop_any_early(&self) {
        self.lock().early = None;
    }

    /// The resume of `epoch` was accepted: its early streams are the pipe's streams
    /// from now on, earlier ones are let go of, and later ones wait for their own: this
    /// may be one that was held up on its way. Returns how many bytes they have carried
    /// for another time.
    pub(super) fn promote(&self, state: &mut State, epoch: Epoch) -> u64 {
        let due = state.early.take_if(|early| early.epoch <= epoch);
        let Some(early) = due.filter(|early| early.epoch == epoch) else {
            return 0;
        };
        let Early { mut tx, rx, mut start, mut sent, .. } = *early;
        let opener = self.id.opener() == self.side;
        if !opener && tx.header == state.core.header_at(self.side, epoch, start).encode() {
            // Nothing of it has gone out: it need not begin where it would have.
            (start, sent) = (state.core.send.acked(), state.core.send.acked());
            tx.header = state.core.header_at(self.side, epoch, start).encode();
        }
        let send = &mut state.core.send;
        let replayed = send.sent_before(sent).saturating_sub(start);
        tx.filler = send.carry_on(sent);
        state.replayed += replayed;
        self.host.totals.replayed.fetch_add(replayed, Relaxed);
        state.epoch = Some(epoch);
        state.theirs = !opener;
        state.opening = false;
        state.rx = rx.filter(|_| state.core.recv.end().is_none());
        state.tx = Some(tx);
        replayed
    }
}
