//! What the driver does with a pipe: attach and detach its streams, pump what
//! they have not had yet, and pass on what the peer says of it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::shared::{PipeShared, State, park, wake};
use super::streams::{CHUNK_MAX, Rx, Tx};
use crate::error::SessionError;
use crate::id::Epoch;
use crate::misbehaved::PeerMisbehaved;
use crate::proto::{Outgoing, PeerView};
use crate::quic::{RecvStream, SendStream, StreamGone};
use crate::sync::atomic::Ordering::Relaxed;
use crate::wire::Position;

/// Chunks that a replay hands over before it lets other tasks run.
const PUMP_BATCH: usize = 16;

/// What the driver should do about a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Open a stream for it.
    pub(crate) stream: bool,
    /// Run [`PipeShared::poll_pump`].
    pub(crate) pump: bool,
    /// Take the stream that [`PipeShared::release`] gives, and let it linger.
    pub(crate) release: bool,
    /// Forget it.
    pub(crate) retire: bool,
    /// Somebody waits for small things that it carries.
    pub(crate) promptness: bool,
}

impl PipeShared {
    /// Attaches the streams of a new connection. `begun` says where the peer's
    /// direction starts and what came with its header, if it was the peer that has
    /// opened them.
    pub(crate) fn attach(
        self: &Arc<Self>,
        epoch: Epoch,
        stream: (SendStream, RecvStream),
        begun: Option<(u64, Bytes)>,
    ) -> Result<(), PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (send, recv) = stream;
        if state.ended.is_some() || !self.host.is_attached(epoch) {
            return Ok(());
        }
        // Not before: a stream that comes too late leaves the pipe in its place
        // in the queue for the next.
        state.opening = false;
        let theirs = begun.is_some();
        let another = state.epoch == Some(epoch);
        if theirs && another && state.theirs {
            return Err(PeerMisbehaved::DuplicateStream { pipe: self.id });
        }
        if another && !theirs {
            // Opened by the driver and by `open_pipe` at once, or there is one of the
            // peer's by now: one is enough.
            return Ok(());
        }
        state.epoch = Some(epoch);
        state.theirs = theirs;
        let rx = Rx::new(recv, epoch, begun, &state.core)?;
        if state.core.recv.end().is_none() {
            state.rx = Some(rx);
            wake(&mut state.reader);
        }
        if another || theirs && state.core.send.is_done() {
            // If both have opened one at once, each writes to its own (P-27).
            return Ok(());
        }
        // Interactive pipes come back before bulk does.
        send.set_priority(state.rank());
        let header = state.core.header(self.side, epoch).encode();
        let mut tx = Tx::new(send, epoch, !theirs, header);
        tx.releasing = state.core.send.is_done();
        state.tx = Some(tx);
        // The header of who has opened the stream announces it, so it goes out at
        // once. The other comes with its first byte.
        if !theirs || !state.core.send.is_caught_up() || state.core.send.wants_fin() {
            self.start_pump(state);
        }
        Ok(())
    }

    /// Lets go of the streams: nothing that is still in them counts.
    pub(crate) fn detach(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.tx = None;
        state.rx = None;
        state.epoch = None;
        state.theirs = false;
        state.opening = false;
        state.core.detach();
        wake(&mut state.writer);
        wake(&mut state.reader);
    }

    /// In a handover: nothing more is written to the connection that is about to be let
    /// go of. What it has already goes on, and it is read from still.
    pub(crate) fn hold(&self) {
        let mut guard = self.lock();
        if let Some(tx) = &mut guard.tx {
            tx.gone = true;
            wake(&mut tx.pump);
        }
        // There is room in the buffer, perhaps.
        wake(&mut guard.writer);
    }

    /// Hands what the stream has not had yet to it; ready when it has caught
    /// up, or is of no use any more.
    pub(crate) fn poll_pump(self: &Arc<Self>, cx: &mut Context<'_>, epoch: Epoch) -> Poll<()> {
        let mut guard = self.lock();
        let state = &mut *guard;
        for _ in 0..PUMP_BATCH {
            let Some(tx) = state.tx.as_mut().filter(|tx| tx.epoch == epoch && !tx.gone) else {
                return Poll::Ready(());
            };
            let chunk = state.core.send.unsent(CHUNK_MAX);
            if chunk.is_empty() && tx.is_positioned() {
                if state.core.send.wants_fin() && !tx.finished {
                    tx.stream.finish();
                    tx.finished = true;
                }
                tx.pumping = false;
                if tx.releasing {
                    self.mark_now(state);
                    return Poll::Ready(());
                }
                // It may have waited for room in the buffer; now the stream
                // takes its bytes too.
                wake(&mut state.writer);
                return Poll::Ready(());
            }
            match tx.poll_write(cx, chunk) {
                Poll::Pending => {
                    park(&mut tx.pump, cx);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(taken)) => {
                    let replayed = state.core.send.on_sent(taken as u64);
                    state.replayed += replayed;
                    self.host.totals.replayed.fetch_add(replayed, Relaxed);
                }
                Poll::Ready(Err(StreamGone)) => {
                    tx.gone = true;
                    tx.pumping = false;
                    if tx.releasing {
                        self.mark_now(state);
                    }
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes the control frames that are to be sent, and says what else is to
    /// be done. `later`: this is the batch of acks.
    pub(crate) fn visit(&self, later: bool, outgoing: &mut Vec<Outgoing>) -> Wants {
        let mut guard = self.lock();
        let state = &mut *guard;
        if later {
            state.due_later = false;
        } else {
            state.due_now = false;
        }
        while let Some(frame) = state.core.poll_outgoing(later) {
            outgoing.push(frame);
        }
        self.wants(state)
    }

    /// What is to be done, without taking frames.
    pub(crate) fn look(&self) -> Wants {
        let mut guard = self.lock();
        self.wants(&mut guard)
    }

    fn wants(&self, state: &mut State) -> Wants {
        let pump = state.tx.as_mut().is_some_and(|tx| std::mem::take(&mut tx.pump_due));
        let stream = state.epoch.is_none()
            && !state.opening
            && state.ended.is_none()
            && state.core.calls_for_stream(self.side);
        state.opening |= stream;
        let release = state.tx.as_ref().is_some_and(Tx::is_released);
        // A stream whose header must still get through is the driver's to end.
        let through = state.tx.as_ref().is_none_or(|tx| !tx.releasing || release);
        let retire = through && state.core.is_retired();
        Wants { stream, pump, release, retire, promptness: false }
    }

    /// Whether a stream should still be opened for it, which it waits for.
    pub(crate) fn is_opening(&self) -> bool {
        let mut state = self.lock();
        // If it was acknowledged meanwhile, the next bytes call again.
        let calls = state.ended.is_none() && state.core.calls_for_stream(self.side);
        state.opening &= calls;
        state.opening
    }

    /// Whether a stream is of use right behind a claim.
    pub(crate) fn calls_for_stream(&self) -> bool {
        let state = self.lock();
        state.ended.is_none() && state.core.calls_for_stream(self.side)
    }

    pub(crate) fn on_ack(&self, offset: u64, done: bool) -> Result<Wants, PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let before = state.core.send.sent();
        state.core.send.on_ack(offset, done)?;
        if let Some(tx) = &mut state.tx {
            // Read on the connection before, after it was measured (P-12): a pump is
            // under way.
            tx.filler += state.core.send.sent() - before;
        }
        self.after_ack(state);
        let promptness = state.manner.is_interactive();
        Ok(Wants { promptness, ..self.wants(state) })
    }

    pub(crate) fn on_stop(self: &Arc<Self>, code: u32, offset: u64) -> Result<(), PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.send.on_stop(code, offset)?;
        self.let_go_of_tx(state);
        self.after_ack(state);
        self.mark_now(state);
        Ok(())
    }

    pub(crate) fn on_reset(self: &Arc<Self>, code: u32, offset: u64) -> Result<(), PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.recv.on_reset(code, offset)?;
        self.let_go_of_rx(state);
        wake(&mut state.reader);
        self.mark_now(state);
        Ok(())
    }

    /// This pipe's line in our table; only while detached.
    pub(crate) fn measure(&self) -> Position {
        self.lock().core.measure()
    }

    /// Takes in what the peer's table says of this pipe, in the resume of `epoch`.
    /// Returns how many bytes are sent again.
    pub(crate) fn on_resume(
        self: &Arc<Self>,
        view: PeerView,
        epoch: Epoch,
    ) -> Result<u64, PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.on_resume(view)?;
        let replayed = self.promote(state, epoch);
        self.after_ack(state);
        self.start_pump(state);
        wake(&mut state.reader);
        // Frames that the table has given rise to, or that came after it was
        // measured; and what was read after that, in a handover.
        self.mark_now(state);
        if state.core.recv.owes_ack() {
            self.mark_later(state);
        }
        Ok(replayed + state.core.send.replay_due())
    }

    /// Whether everything written was read by the peer's application.
    pub(crate) fn is_settled(&self) -> bool {
        self.lock().core.send.is_settled()
    }

    /// The session has ended: everybody who waits is told, all memory comes
    /// back.
    pub(crate) fn end(&self, error: &Arc<SessionError>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.ended.get_or_insert_with(|| error.clone());
        state.tx = None;
        state.rx = None;
        state.early = None;
        state.core.send.clear();
        self.settle(state);
        wake(&mut state.writer);
        wake(&mut state.reader);
    }

    /// Marks the pipe as looked at while nothing could be sent: it can be due
    /// again.
    pub(crate) fn clear_due(&self) {
        let mut state = self.lock();
        state.due_now = false;
        state.due_later = false;
    }

    fn after_ack(&self, state: &mut State) {
        if state.core.send.is_done() {
            self.let_go_of_tx(state);
        }
        if state.manner.on_ack(state.core.send.kept()) {
            state.set_rank();
        }
        self.settle(state);
        wake(&mut state.writer);
    }

    /// Our direction has no more use for its stream. If the peer's direction
    /// goes on, and it was we who opened the stream, then its header must still
    /// get through: dropping it would reset it, and the peer would never learn
    /// whose stream it was.
    pub(super) fn let_go_of_tx(&self, state: &mut State) {
        let expects = state.core.recv.end().is_none();
        if let Some(tx) = &mut state.tx {
            wake(&mut tx.pump);
        }
        match &mut state.tx {
            Some(tx) if tx.announces && expects && !tx.finished => tx.releasing = true,
            // Finished, it lingers by itself; dropped, it would be reset.
            Some(tx) if tx.announces && expects => {}
            tx => *tx = None,
        }
    }

    /// Nothing more is to be read.
    pub(super) fn let_go_of_rx(&self, state: &mut State) {
        state.rx = None;
        if let Some(early) = &mut state.early {
            early.rx = None;
        }
    }

    /// The stream that is to linger, once its header is out.
    pub(crate) fn release(&self) -> Option<SendStream> {
        let mut guard = self.lock();
        let released = guard.tx.take_if(|tx| tx.is_released());
        released.map(|tx| tx.stream)
    }

    /// Both directions are done, and the peer knows.
    pub(crate) fn let_go_of_streams(&self) {
        let mut state = self.lock();
        state.tx = None;
        state.rx = None;
        state.early = None;
    }

    /// Runs the pump as far as it goes, and leaves the rest to the driver.
    pub(super) fn start_pump(self: &Arc<Self>, state: &mut State) {
        let Some(tx) = &mut state.tx else { return };
        if tx.pumping || tx.gone {
            return;
        }
        // All but the rarest pumps (a FIN, a header) are through at once.
        let mut cx = Context::from_waker(Waker::noop());
        if state.core.send.is_caught_up() {
            let position_left = !tx.is_positioned();
            if position_left && !matches!(tx.poll_write(&mut cx, Bytes::new()), Poll::Ready(Ok(_)))
            {
                self.hand_pump_over(state);
                return;
            }
            if state.core.send.wants_fin() && !tx.finished {
                tx.stream.finish();
                tx.finished = true;
            }
            return;
        }
        self.hand_pump_over(state);
    }

    fn hand_pump_over(self: &Arc<Self>, state: &mut State) {
        if let Some(tx) = &mut state.tx {
            tx.pumping = true;
            tx.pump_due = true;
        }
        self.mark_now(state);
    }
}
