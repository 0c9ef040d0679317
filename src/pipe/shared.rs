//! What both halves of a pipe and the driver share: one lock, two waker slots.
//!
//! The data path goes through here without a task or channel in between:
//! a write puts its chunk in the replay buffer and hands the same chunk to the
//! QUIC stream; a read takes from the QUIC stream. The driver attaches and
//! detaches the streams, under the same lock: a read or write that is under way
//! ends first, so that a fence is final (P-12).

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;

use super::early::Early;
use super::host::Host;
use super::manner::Manner;
use super::streams::{CHUNK_MAX, Rx, Tx};
use crate::error::{ReadError, SessionError, WriteError};
use crate::id::{Epoch, PipeId, Side};
use crate::proto::{COALESCE_BELOW, Pipe, ReadEnd, WriteEnd, shared_part};
use crate::quic::StreamGone;
use crate::stats::PipeStats;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Mutex, MutexGuard};

/// A pipe, as its halves and the driver see it.
pub(crate) struct PipeShared {
    pub(super) id: PipeId,
    pub(super) side: Side,
    pub(super) host: Arc<Host>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) core: Pipe,
    /// The streams of the attached connection; `None` while there is none, and
    /// for a direction that has no more use for one.
    pub(super) tx: Option<Tx>,
    pub(super) rx: Option<Rx>,
    /// Those of a connection that may become the attached one. Boxed: they are rare.
    pub(super) early: Option<Box<Early>>,
    /// The connection whose stream the pipe had, whatever became of its halves since.
    pub(super) epoch: Option<Epoch>,
    /// One that the peer has opened was among them: there is one at most.
    pub(super) theirs: bool,
    pub(super) writer: Option<Waker>,
    pub(super) reader: Option<Waker>,
    /// The session has ended, and how.
    pub(super) ended: Option<Arc<SessionError>>,
    /// What the shared budgets have granted; at least the shared part of
    /// what is kept.
    pub(super) charged: u64,
    /// What `Totals::kept` knows of this pipe.
    pub(super) counted: u64,
    /// What the application has set.
    pub(super) priority: i32,
    pub(super) manner: Manner,
    pub(super) replayed: u64,
    /// In the driver's lists already.
    pub(super) due_now: bool,
    pub(super) due_later: bool,
    /// In the driver's queue for a stream already.
    pub(super) opening: bool,
}

/// Only the name: what a pipe carries has no place in a log.
impl fmt::Debug for PipeShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("id", &self.id).finish_non_exhaustive()
    }
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
                early: None,
                epoch: None,
                theirs: false,
                writer: None,
                reader: None,
                ended: None,
                charged: 0,
                counted: 0,
                priority: 0,
                manner: Manner::default(),
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

    /// Writes bytes from the front of `bytes`, and says how many.
    pub(crate) fn poll_write(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        bytes: impl Buf + Clone,
    ) -> Poll<Result<usize, WriteError>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check_writable()?;
        if !bytes.has_remaining() {
            return Poll::Ready(Ok(0));
        }
        let room = self.reserve(state, bytes.remaining() as u64, cx.waker());
        if room == 0 {
            park(&mut state.writer, cx);
            return Poll::Pending;
        }
        let taken = match &mut state.tx {
            Some(tx) if !tx.pumping && !tx.gone => {
                let chunk = bytes.clone().copy_to_bytes(room);
                // A short one is copied once more by the buffer: the stream has this one
                // for itself, and nobody need count who else does.
                let shared = (room >= COALESCE_BELOW).then(|| chunk.clone());
                match tx.poll_write(cx, chunk) {
                    Poll::Ready(Ok(taken)) => {
                        // Nothing else can be unsent, so these are the bytes that
                        // the stream took.
                        match shared {
                            Some(chunk) => state.core.send.write(keep(&chunk, taken)),
                            None => state.core.send.write(bytes.take(taken)),
                        }
                        state.core.send.on_sent(taken as u64);
                        taken
                    }
                    Poll::Ready(Err(StreamGone)) => {
                        tx.gone = true;
                        state.core.send.write(bytes.take(room));
                        room
                    }
                    Poll::Pending => {
                        park(&mut state.writer, cx);
                        self.settle(state);
                        return Poll::Pending;
                    }
                }
            }
            _ => {
                state.core.send.write(bytes.take(room));
                room
            }
        };
        if state.manner.on_write(state.core.send.kept()) {
            state.set_rank();
        }
        self.carry_early(state);
        self.call_for_stream(state);
        self.settle(state);
        self.host.count_written(taken as u64);
        Poll::Ready(Ok(taken))
    }

    /// Ends our direction after what was written.
    pub(crate) fn finish(self: &Arc<Self>) {
        let mut guard = self.lock();
        guard.core.send.finish();
        self.start_pump(&mut guard);
        self.carry_early(&mut guard);
        self.call_for_stream(&mut guard);
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
        state.set_rank();
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
            let with_len = |chunk: Bytes| {
                let len = chunk.len();
                (chunk, len)
            };
            Poll::Ready(Ok(chunk.map(with_len)))
        })
    }

    /// The way of every read: `take` gets the stream where the application left
    /// off, and says what it took and how many bytes that was.
    fn poll_with<T>(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut Rx, &mut Context<'_>) -> Poll<Result<Option<(T, usize)>, StreamGone>>,
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
        let mut taken = Rx::poll_take(&mut state.rx, cx, &state.core, &mut take);
        if taken.is_pending()
            && let Some(early) = state.early.as_mut().filter(|early| early.trusted)
        {
            taken = Rx::poll_take(&mut early.rx, cx, &state.core, &mut take);
        }
        match ready!(taken) {
            Ok(Some((value, len))) => {
                state.core.recv.on_read(len as u64);
                self.host.totals.read.fetch_add(len as u64, Relaxed);
                if state.core.recv.is_ack_due() {
                    self.mark_now(state);
                } else {
                    self.mark_later(state);
                }
                Poll::Ready(Ok(Some(value)))
            }
            Ok(None) => {
                state.core.recv.on_fin();
                self.let_go_of_rx(state);
                self.mark_end(state);
                Poll::Ready(Ok(None))
            }
            Err(misbehaved) => {
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
        self.let_go_of_rx(state);
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

    /// Has the driver open a stream, if the pipe has slept since the last resume.
    fn call_for_stream(self: &Arc<Self>, state: &mut State) {
        // While nothing is attached, the next attach looks at every pipe.
        if state.epoch.is_none() && !state.opening && self.host.has_connection() {
            self.mark_now(state);
        }
    }

    pub(super) fn mark_now(self: &Arc<Self>, state: &mut State) {
        if !state.due_now && state.ended.is_none() {
            state.due_now = true;
            self.host.due_now(self.clone());
        }
    }

    pub(super) fn mark_later(self: &Arc<Self>, state: &mut State) {
        if !state.due_later && state.ended.is_none() {
            state.due_later = true;
            self.host.due_later(self.clone());
        }
    }

    fn mark_end(self: &Arc<Self>, state: &mut State) {
        if state.ended.is_none() {
            let listed = std::mem::replace(&mut state.due_later, true);
            self.host.due_at_end((!listed).then(|| self.clone()));
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
        // With some room of its own the pipe need not wait for more.
        let waiter = (needed == wanted).then_some((self.key(), waker));
        let server = self.host.server_budget.as_deref();
        let granted = self.host.session_budget.take(server, needed, waiter);
        state.charged += granted;
        (wanted - (needed - granted)) as usize
    }

    /// Brings the budgets and totals in line with what is kept.
    pub(super) fn settle(&self, state: &mut State) {
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

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held would be a defect; going on with the state
        // as it is cannot corrupt memory, and the checks of the core stay.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The priority of its streams.
    pub(super) fn rank(&self) -> i32 {
        self.manner.rank(self.priority)
    }

    /// Tells the stream, once the rank has changed.
    pub(super) fn set_rank(&self) {
        if let Some(tx) = &self.tx {
            tx.stream.set_priority(self.rank());
        }
    }

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

pub(super) fn park(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

pub(super) fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}
