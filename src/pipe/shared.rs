//! What both halves of a pipe and the driver share: one lock, two waker slots.
//!
//! The data path goes through here without a task or channel in between:
//! a write puts its chunk in the replay buffer and hands the same chunk to the
//! QUIC stream; a read takes from the QUIC stream. The driver attaches and
//! detaches the streams, under the same lock: a read or write that is under way
//! ends first, so that a fence is final (P-12).

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::ReadBuf;

use super::host::Host;
use crate::error::{ReadError, SessionError, WriteError};
use crate::id::{Epoch, PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::proto::{Outgoing, PeerView, Pipe, ReadEnd, WriteEnd, shared_part};
use crate::quic::{RecvStream, SendStream, StreamGone};
use crate::stats::PipeStats;
use crate::wire::{Header, HeaderKind, Position};

/// Most bytes that one poll copies from the application, or hands to QUIC in a
/// replay: large enough that its overhead is nothing, small enough that the
/// copy is no waste when QUIC takes only a part.
const CHUNK_MAX: usize = 64 * 1024;

/// Chunks that a replay hands over before it lets other tasks run.
const PUMP_BATCH: usize = 16;

/// A replay larger than this gives way to the other pipes until it is through:
/// interactive pipes come before bulk.
const BULK_REPLAY: u64 = 64 * 1024;

/// A pipe, as its halves and the driver see it.
#[derive(Debug)]
pub(crate) struct PipeShared {
    id: PipeId,
    side: Side,
    host: Arc<Host>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    core: Pipe,
    /// The streams of the attached connection; `None` while there is none, and
    /// for a direction that has no more use for one.
    tx: Option<Tx>,
    rx: Option<Rx>,
    /// The connection whose stream the pipe had: one on each, whatever became
    /// of its halves since.
    epoch: Option<Epoch>,
    writer: Option<Waker>,
    reader: Option<Waker>,
    /// The session has ended, and how.
    ended: Option<Arc<SessionError>>,
    /// What the shared budgets have granted; at least the shared part of
    /// what is kept.
    charged: u64,
    /// What `Totals::kept` knows of this pipe.
    counted: u64,
    priority: i32,
    replayed: u64,
    /// In the driver's lists already.
    due_now: bool,
    due_later: bool,
    /// In the driver's queue for a stream already.
    opening: bool,
}

#[derive(Debug)]
struct Tx {
    stream: SendStream,
    epoch: Epoch,
    /// What is left of the header.
    header: Bytes,
    /// Bytes in the replay buffer wait for the stream. Until it has caught up,
    /// writes go to the buffer only.
    pumping: bool,
    /// The driver is to run the pump.
    pump_due: bool,
    /// FIN was handed over.
    finished: bool,
    /// The stream takes no more; the control stream or the end of the
    /// connection tells why. As good as detached.
    gone: bool,
}

#[derive(Debug)]
struct Rx {
    stream: RecvStream,
    epoch: Epoch,
    /// The header, as far as it has come; `None` once it is read.
    header: Option<BytesMut>,
    /// Bytes that came in one chunk with the header.
    ahead: Bytes,
    /// Bytes to skip: the application has them from an earlier stream.
    skip: u64,
}

/// What the driver should do about a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Open a stream for it.
    pub(crate) stream: bool,
    /// Run [`PipeShared::poll_pump`].
    pub(crate) pump: bool,
    /// Forget it.
    pub(crate) retire: bool,
}

impl PipeShared {
    pub(crate) fn new(core: Pipe, side: Side, host: Arc<Host>) -> Arc<Self> {
        Arc::new(Self {
            id: core.id(),
            side,
            host,
            state: Mutex::new(State {
                core,
                tx: None,
                rx: None,
                epoch: None,
                writer: None,
                reader: None,
                ended: None,
                charged: 0,
                counted: 0,
                priority: 0,
                replayed: 0,
                due_now: false,
                due_later: false,
                opening: false,
            }),
        })
    }

    pub(crate) fn id(&self) -> PipeId {
        self.id
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    pub(crate) fn label(&self) -> Bytes {
        self.lock().core.label().clone()
    }

    pub(crate) fn stats(&self) -> PipeStats {
        let state = self.lock();
        let send = &state.core.send;
        PipeStats {
            written: send.written(),
            sent: send.sent(),
            acked: send.acked(),
            kept: send.kept(),
            replayed: state.replayed,
            read: state.core.recv.read(),
        }
    }

    // The writer.

    /// Writes up to `len` bytes, which `chunk` supplies: given how many to
    /// take, the chunk of that length.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        chunk: impl FnOnce(usize) -> Bytes,
    ) -> Poll<Result<usize, WriteError>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check_writable()?;
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        let room = self.reserve(state, len as u64, cx.waker());
        if room == 0 {
            park(&mut state.writer, cx);
            return Poll::Pending;
        }
        let chunk = chunk(room);
        let taken = match &mut state.tx {
            Some(tx) if !tx.pumping && !tx.gone => match tx.poll_write(cx, &chunk) {
                Poll::Ready(Ok(taken)) => {
                    // Nothing else can be unsent, so these are the bytes that
                    // the stream took.
                    state.core.send.write(keep(&chunk, taken));
                    state.core.send.on_sent(taken as u64);
                    taken
                }
                Poll::Ready(Err(StreamGone)) => {
                    tx.gone = true;
                    state.core.send.write(chunk);
                    room
                }
                Poll::Pending => {
                    park(&mut state.writer, cx);
                    self.settle(state);
                    return Poll::Pending;
                }
            },
            _ => {
                state.core.send.write(chunk);
                room
            }
        };
        self.settle(state);
        self.host.totals.written.fetch_add(taken as u64, Relaxed);
        Poll::Ready(Ok(taken))
    }

    /// Ends our direction after what was written.
    pub(crate) fn finish(self: &Arc<Self>) {
        let mut guard = self.lock();
        guard.core.send.finish();
        self.start_pump(&mut guard);
    }

    /// Gives our direction up.
    pub(crate) fn reset(self: &Arc<Self>, code: u32) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.send.reset(code);
        // The stream stays until the peer has acknowledged the reset: it may be
        // what carries the pipe's header.
        self.settle(state);
        self.mark_now(state);
    }

    /// Resets our direction if it has no end yet: the writer was dropped.
    pub(crate) fn abandon_writer(self: &Arc<Self>) {
        let open = self.lock().core.send.end().is_none();
        if open {
            self.reset(0);
        }
        self.lock().writer = None;
        self.host.session_budget.forget(self.key());
        if let Some(budget) = &self.host.server_budget {
            budget.forget(self.key());
        }
    }

    /// Ready once the peer's application has read up to `offset`.
    pub(crate) fn poll_acked(
        &self,
        cx: &mut Context<'_>,
        offset: u64,
    ) -> Poll<Result<(), WriteError>> {
        let mut state = self.lock();
        if state.core.send.acked() >= offset {
            return Poll::Ready(Ok(()));
        }
        match state.core.send.end() {
            Some(WriteEnd::Finished) | None => {}
            Some(WriteEnd::Reset) => return Poll::Ready(Err(WriteError::Finished)),
            Some(WriteEnd::Stopped { code }) => {
                return Poll::Ready(Err(WriteError::Stopped { code }));
            }
        }
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(SessionError::clone(error).into()));
        }
        park(&mut state.writer, cx);
        Poll::Pending
    }

    pub(crate) fn set_priority(&self, priority: i32) {
        let mut state = self.lock();
        state.priority = priority;
        if let Some(tx) = &state.tx {
            tx.stream.set_priority(priority);
        }
    }

    // The reader.

    /// Reads into `buf`; nothing filled means the end of the stream.
    pub(crate) fn poll_read(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), ReadError>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_with(cx, |rx, cx| {
            let taken = rx.ahead.len().min(buf.remaining());
            if taken > 0 {
                buf.put_slice(&rx.ahead.split_to(taken));
                return Poll::Ready(Ok(Some(((), taken))));
            }
            let read = ready!(rx.stream.poll_read(cx, buf.initialize_unfilled()))?;
            buf.advance(read);
            Poll::Ready(Ok((read > 0).then_some(((), read))))
        })
        .map_ok(|_| ())
    }

    /// The next chunk, of at most `max` bytes; `None` at the end of the stream.
    pub(crate) fn poll_read_chunk(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        let max = max.max(1);
        self.poll_with(cx, |rx, cx| {
            let taken = rx.ahead.len().min(max);
            let chunk = if taken > 0 {
                Some(rx.ahead.split_to(taken))
            } else {
                ready!(rx.stream.poll_read_chunk(cx, max))?
            };
            Poll::Ready(Ok(chunk.map(|chunk| (chunk.clone(), chunk.len()))))
        })
    }

    /// The way of every read: `take` gets the stream where the application left
    /// off, and says what it took and how many bytes that was.
    fn poll_with<T>(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Rx, &mut Context<'_>) -> Poll<Result<Option<(T, usize)>, StreamGone>>,
    ) -> Poll<Result<Option<T>, ReadError>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        match state.core.recv.end() {
            None => {}
            Some(ReadEnd::Eof) => return Poll::Ready(Ok(None)),
            Some(ReadEnd::Reset { code }) => return Poll::Ready(Err(ReadError::Reset { code })),
            Some(ReadEnd::Stopped) => return Poll::Ready(Err(ReadError::Stopped)),
        }
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(SessionError::clone(error).into()));
        }
        // Registered in any case: the driver wakes us on every detach.
        park(&mut state.reader, cx);
        let Some(rx) = &mut state.rx else {
            return Poll::Pending;
        };
        let taken = match ready!(rx.poll_position(cx, &state.core)) {
            Ok(()) => ready!(take(rx, cx)).map_err(RxFailed::from),
            Err(failed) => Err(failed),
        };
        match taken {
            Ok(Some((value, len))) => {
                state.core.recv.on_read(len as u64);
                self.host.totals.read.fetch_add(len as u64, Relaxed);
                if state.core.recv.is_ack_due() {
                    self.mark_now(state);
                } else if !state.due_later {
                    state.due_later = true;
                    self.host.due_later(self.clone());
                }
                Poll::Ready(Ok(Some(value)))
            }
            Ok(None) => {
                state.core.recv.on_fin();
                state.rx = None;
                self.mark_now(state);
                Poll::Ready(Ok(None))
            }
            Err(RxFailed::Gone) => {
                state.rx = None;
                Poll::Pending
            }
            Err(RxFailed::Misbehaved(misbehaved)) => {
                state.rx = None;
                self.host.report(misbehaved);
                Poll::Pending
            }
        }
    }

    /// Wants no more.
    pub(crate) fn stop(self: &Arc<Self>, code: u32) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.recv.stop(code);
        state.rx = None;
        self.mark_now(state);
    }

    /// Stops the peer's direction if its end was not seen: the reader was
    /// dropped.
    pub(crate) fn abandon_reader(self: &Arc<Self>) {
        if self.lock().core.recv.end().is_none() {
            // An end that is there already counts as seen: a reader that knew
            // from the content that it was through has read everything.
            let mut cx = Context::from_waker(Waker::noop());
            let end = self.poll_with(&mut cx, |rx, cx| {
                if !rx.ahead.is_empty() {
                    return Poll::Pending;
                }
                match ready!(rx.stream.poll_read_chunk(cx, 1))? {
                    // A byte that nobody read: it is not counted.
                    Some(_) => Poll::Ready(Err(StreamGone)),
                    None => Poll::Ready(Ok(None::<((), usize)>)),
                }
            });
            if !matches!(end, Poll::Ready(Ok(None))) {
                self.stop(0);
            }
        }
        self.lock().reader = None;
    }

    // The driver.

    /// Attaches the streams of a new connection. `begun` says where the peer's
    /// direction starts and what came with its header, if that was read.
    pub(crate) fn attach(
        self: &Arc<Self>,
        epoch: Epoch,
        stream: (SendStream, RecvStream),
        begun: Option<(u64, Bytes)>,
    ) -> Result<(), PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (send, recv) = stream;
        state.opening = false;
        if state.ended.is_some() || !self.host.is_attached(epoch) {
            return Ok(());
        }
        if state.epoch == Some(epoch) {
            if begun.is_some() {
                return Err(PeerMisbehaved::DuplicateStream { pipe: self.id });
            }
            // Opened by the driver and by `open_pipe` at once: one is enough.
            return Ok(());
        }
        state.epoch = Some(epoch);
        let (header, ahead, skip) = match begun {
            Some((start, ahead)) => (None, ahead, state.core.recv.on_stream(start)?),
            None => (Some(BytesMut::new()), Bytes::new(), 0),
        };
        if state.core.recv.end().is_none() {
            state.rx = Some(Rx { stream: recv, epoch, header, ahead, skip });
            wake(&mut state.reader);
        }
        if state.core.send.is_done() && self.id.opener() != self.side {
            return Ok(());
        }
        let owed = state.core.send.written() - state.core.send.sent();
        let bulk = owed > BULK_REPLAY;
        send.set_priority(if bulk { state.priority.saturating_sub(1) } else { state.priority });
        state.tx = Some(Tx {
            stream: send,
            epoch,
            header: state.core.header(self.side, epoch).encode(),
            pumping: false,
            pump_due: false,
            finished: false,
            gone: false,
        });
        // The opener's header announces the stream, so it goes out at once. The
        // acceptor's comes with its first byte.
        if self.id.opener() == self.side
            || !state.core.send.is_caught_up()
            || state.core.send.wants_fin()
        {
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
        state.opening = false;
        state.core.detach();
        wake(&mut state.writer);
        wake(&mut state.reader);
    }

    /// Hands what the stream has not had yet to it; ready when it has caught
    /// up, or is of no use any more.
    pub(crate) fn poll_pump(&self, cx: &mut Context<'_>, epoch: Epoch) -> Poll<()> {
        let mut guard = self.lock();
        let state = &mut *guard;
        for _ in 0..PUMP_BATCH {
            let Some(tx) = state.tx.as_mut().filter(|tx| tx.epoch == epoch && !tx.gone) else {
                return Poll::Ready(());
            };
            let chunk = state.core.send.unsent(CHUNK_MAX);
            if chunk.is_empty() && tx.header.is_empty() {
                if state.core.send.wants_fin() && !tx.finished {
                    tx.stream.finish();
                    tx.finished = true;
                }
                tx.pumping = false;
                tx.stream.set_priority(state.priority);
                // It may have waited for room in the buffer; now the stream
                // takes its bytes too.
                wake(&mut state.writer);
                return Poll::Ready(());
            }
            match ready!(tx.poll_write(cx, &chunk)) {
                Ok(taken) => {
                    let replayed = state.core.send.on_sent(taken as u64);
                    state.replayed += replayed;
                    self.host.totals.replayed.fetch_add(replayed, Relaxed);
                }
                Err(StreamGone) => tx.gone = true,
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
        let stream = self.id.opener() == self.side
            && state.epoch.is_none()
            && !state.opening
            && state.ended.is_none()
            && state.core.needs_stream();
        state.opening |= stream;
        Wants { stream, pump, retire: state.core.is_retired() }
    }

    /// Whether a stream should still be opened for it.
    pub(crate) fn is_opening(&self) -> bool {
        let state = self.lock();
        state.opening && state.ended.is_none() && state.core.needs_stream()
    }

    pub(crate) fn on_ack(&self, offset: u64, done: bool) -> Result<Wants, PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.send.on_ack(offset, done)?;
        self.after_ack(state);
        Ok(self.wants(state))
    }

    pub(crate) fn on_stop(self: &Arc<Self>, code: u32, offset: u64) -> Result<(), PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.send.on_stop(code, offset)?;
        // Whatever it still holds, nobody wants. Its header got through, or the
        // peer could not have named the pipe.
        state.tx = None;
        self.after_ack(state);
        self.mark_now(state);
        Ok(())
    }

    pub(crate) fn on_reset(self: &Arc<Self>, code: u32, offset: u64) -> Result<(), PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.recv.on_reset(code, offset)?;
        state.rx = None;
        wake(&mut state.reader);
        self.mark_now(state);
        Ok(())
    }

    /// This pipe's line in our table; only while detached.
    pub(crate) fn measure(&self) -> Position {
        self.lock().core.measure()
    }

    /// Takes in what the peer's table says of this pipe. Returns how many bytes
    /// will be sent again.
    pub(crate) fn on_resume(self: &Arc<Self>, view: PeerView) -> Result<u64, PeerMisbehaved> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.core.on_resume(view)?;
        self.after_ack(state);
        wake(&mut state.reader);
        // Frames that the table has given rise to, or that came after it was
        // measured.
        self.mark_now(state);
        Ok(state.core.send.replay_due())
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
            state.tx = None;
        }
        self.settle(state);
        wake(&mut state.writer);
    }

    /// Runs the pump as far as it goes, and leaves the rest to the driver.
    fn start_pump(self: &Arc<Self>, state: &mut State) {
        let Some(tx) = &mut state.tx else { return };
        if tx.pumping || tx.gone {
            return;
        }
        // All but the rarest pumps (a FIN, a header) are through at once.
        let mut cx = Context::from_waker(Waker::noop());
        if state.core.send.is_caught_up() {
            let header_left = !tx.header.is_empty();
            if header_left && !matches!(tx.poll_write(&mut cx, &Bytes::new()), Poll::Ready(Ok(_))) {
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

    fn mark_now(self: &Arc<Self>, state: &mut State) {
        if !state.due_now && state.ended.is_none() {
            state.due_now = true;
            self.host.due_now(self.clone());
        }
    }

    /// How many of `wanted` bytes may be written now, by the pipe's capacity
    /// and the shared budgets. Charges the budgets; [`settle`](Self::settle)
    /// gives back what was not used.
    fn reserve(&self, state: &mut State, wanted: u64, waker: &Waker) -> usize {
        let wanted = wanted.min(state.core.send.room());
        let needed = shared_part(state.core.send.kept() + wanted).saturating_sub(state.charged);
        if needed == 0 {
            return wanted as usize;
        }
        let mut granted = self.host.session_budget.take(needed, self.key(), waker);
        if let Some(server) = &self.host.server_budget {
            let by_server = server.take(granted, self.key(), waker);
            self.host.session_budget.give_back(granted - by_server);
            granted = by_server;
        }
        state.charged += granted;
        (wanted - (needed - granted)) as usize
    }

    /// Brings the budgets and totals in line with what is kept.
    fn settle(&self, state: &mut State) {
        let kept = state.core.send.kept();
        let surplus = state.charged - shared_part(kept);
        if surplus > 0 {
            state.charged -= surplus;
            self.host.session_budget.give_back(surplus);
            if let Some(server) = &self.host.server_budget {
                server.give_back(surplus);
            }
        }
        self.host.totals.kept.fetch_add(kept.wrapping_sub(state.counted), Relaxed);
        state.counted = kept;
    }

    /// This pipe's name among the waiters of a budget.
    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held would be a defect; going on with the state
        // as it is cannot corrupt memory, and the checks of the core stay.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_writable(&self) -> Result<(), WriteError> {
        match self.core.send.end() {
            Some(WriteEnd::Finished | WriteEnd::Reset) => return Err(WriteError::Finished),
            Some(WriteEnd::Stopped { code }) => return Err(WriteError::Stopped { code }),
            None => {}
        }
        match &self.ended {
            Some(error) => Err(SessionError::clone(error).into()),
            None => Ok(()),
        }
    }
}

impl Tx {
    /// Hands over what is left of the header and then bytes of `chunk`; says
    /// how many of the latter were taken (0 only if there are none).
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &Bytes,
    ) -> Poll<Result<usize, StreamGone>> {
        while !self.header.is_empty() {
            let mut chunks = [self.header.clone(), chunk.clone()];
            let taken = ready!(self.stream.poll_write(cx, &mut chunks))?;
            let of_header = taken.min(self.header.len());
            self.header.advance(of_header);
            if taken > of_header {
                return Poll::Ready(Ok(taken - of_header));
            }
        }
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.stream.poll_write(cx, &mut [chunk.clone()])
    }
}

/// Why a receive stream is of no use any more.
enum RxFailed {
    Gone,
    Misbehaved(PeerMisbehaved),
}

impl From<StreamGone> for RxFailed {
    fn from(_: StreamGone) -> Self {
        Self::Gone
    }
}

impl Rx {
    /// Brings the stream to where the application left off: past the header,
    /// past what it has read before.
    fn poll_position(&mut self, cx: &mut Context<'_>, core: &Pipe) -> Poll<Result<(), RxFailed>> {
        while let Some(header) = &mut self.header {
            let Some(chunk) = ready!(self.stream.poll_read_chunk(cx, CHUNK_MAX))? else {
                return Poll::Ready(Err(RxFailed::Gone));
            };
            let mut bytes = if header.is_empty() {
                chunk
            } else {
                header.extend_from_slice(&chunk);
                header.split().freeze()
            };
            match Header::decode(&mut bytes) {
                Ok(Some(header)) => {
                    self.skip = match self.check(&header, core) {
                        Ok(skip) => skip,
                        Err(misbehaved) => {
                            return Poll::Ready(Err(RxFailed::Misbehaved(misbehaved)));
                        }
                    };
                    self.header = None;
                    self.ahead = bytes;
                }
                Ok(None) => header.extend_from_slice(&bytes),
                Err(malformed) => {
                    return Poll::Ready(Err(RxFailed::Misbehaved(malformed.into())));
                }
            }
        }
        while self.skip > 0 {
            if self.ahead.is_empty() {
                let max = usize::try_from(self.skip).unwrap_or(CHUNK_MAX).min(CHUNK_MAX);
                match ready!(self.stream.poll_read_chunk(cx, max))? {
                    Some(chunk) => self.ahead = chunk,
                    None => {
                        let read = core.recv.read();
                        let end = read - self.skip;
                        let pipe = core.id();
                        return Poll::Ready(Err(RxFailed::Misbehaved(
                            PeerMisbehaved::EndMovedBack { pipe, end, read },
                        )));
                    }
                }
            }
            let skipped = self.skip.min(self.ahead.len() as u64);
            self.ahead.advance(skipped as usize);
            self.skip -= skipped;
        }
        Poll::Ready(Ok(()))
    }

    /// The header of the acceptor's direction. Returns how many bytes to skip.
    fn check(&self, header: &Header, core: &Pipe) -> Result<u64, PeerMisbehaved> {
        if header.epoch != self.epoch {
            return Err(PeerMisbehaved::WrongEpoch { got: header.epoch, expected: self.epoch });
        }
        if header.pipe != core.id() || header.kind != HeaderKind::Continue {
            return Err(PeerMisbehaved::NoSuchPipe { pipe: header.pipe });
        }
        core.recv.on_stream(header.start)
    }
}

/// The first `taken` bytes of `chunk`, to be kept. Where that is the lesser part,
/// it is copied: a slice would keep all of the chunk's memory alive. Larger
/// chunks are the application's own, which it writes to their end.
fn keep(chunk: &Bytes, taken: usize) -> Bytes {
    if taken * 2 < chunk.len() && chunk.len() <= CHUNK_MAX {
        Bytes::copy_from_slice(&chunk[..taken])
    } else {
        chunk.slice(..taken)
    }
}

fn park(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}
