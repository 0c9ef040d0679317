//! What the pipes of a session share with it: budgets, counters, and the list
//! of pipes that the driver should look at.

use std::fmt;
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use super::budget::SharedBudget;
use super::shared::PipeShared;
use crate::id::Epoch;
use crate::misbehaved::PeerMisbehaved;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The side of a session that its pipes see.
#[derive(Debug)]
pub(crate) struct Host {
    /// Bytes that this session's pipes keep beyond their own share.
    pub(crate) session_budget: SharedBudget,
    /// The same for the whole server; clients have none.
    pub(crate) server_budget: Option<Arc<SharedBudget>>,
    pub(crate) totals: Totals,
    /// Wakes the driver.
    pub(crate) wake: Notify,
    /// The driver wants to be woken by the next write.
    resting: AtomicBool,
    /// The epoch of the attached connection, 0 while there is none. Cleared
    /// before the pipes are detached: a stream that comes too late is not
    /// attached any more.
    attached: AtomicU64,
    due: Mutex<Due>,
    /// So many ends are not kept waiting for others.
    ends_together: usize,
    /// Live [`Handle`]s: when there is none, nobody can use the session.
    handles: AtomicUsize,
}

/// Sums over all pipes that ever were, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) written: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) replayed: AtomicU64,
    /// Kept for replay right now.
    pub(crate) kept: AtomicU64,
}

/// Pipes that the driver should look at; each at most once in each list.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// At once: a reset, a full ack window, a stream to open or to pump.
    pub(crate) now: Vec<Arc<PipeShared>>,
    /// With the next batch of acks; ends of directions, too.
    pub(crate) later: Vec<Arc<PipeShared>>,
    /// Ends of directions that the batch acknowledges.
    pub(crate) ends: usize,
    /// A reader found the peer out.
    pub(crate) misbehaved: Option<PeerMisbehaved>,
    /// The session has ended: nobody looks any more, and what is kept here would
    /// keep its pipe, the pipe its streams, and they the connection, for ever.
    closed: bool,
}

/// Most ends that wait for each other's company, and the part of all pipes that there may
/// be: a pipe whose end is not acknowledged counts as live.
const ENDS_TOGETHER_MAX: u64 = 32;
const ENDS_TOGETHER_PART: u64 = 32;

impl Host {
    /// Of a session that may have so many live pipes of each side.
    pub(crate) fn new(
        session_limit: u64,
        server_budget: Option<Arc<SharedBudget>>,
        max_pipes: u64,
    ) -> Self {
        let together = (max_pipes / ENDS_TOGETHER_PART).clamp(1, ENDS_TOGETHER_MAX);
        Self {
            session_budget: SharedBudget::new(session_limit),
            server_budget,
            totals: Totals::default(),
            wake: Notify::new(),
            resting: AtomicBool::new(false),
            attached: AtomicU64::new(0),
            due: Mutex::new(Due::default()),
            ends_together: together as usize,
            handles: AtomicUsize::new(0),
        }
    }

    /// The connection of this epoch, or none, is the attached one from now on.
    pub(crate) fn set_attached(&self, epoch: Option<Epoch>) {
        self.attached.store(epoch.map_or(0, Epoch::get), Ordering::SeqCst);
    }

    pub(crate) fn is_attached(&self, epoch: Epoch) -> bool {
        self.attached.load(Ordering::SeqCst) == epoch.get()
    }

    /// Whether any connection is attached.
    pub(super) fn has_connection(&self) -> bool {
        self.attached.load(Ordering::SeqCst) != 0
    }

    /// Has the next write wake the driver: it looks after the link while there is
    /// traffic. Returns how many bytes were written so far; what comes later wakes.
    pub(crate) fn rest(&self) -> u64 {
        self.resting.store(true, Ordering::SeqCst);
        self.totals.written.load(Ordering::SeqCst)
    }

    /// So many bytes were written.
    pub(super) fn count_written(&self, bytes: u64) {
        // In this order, as the driver does it in the other: one of the two sees what
        // the other has done.
        self.totals.written.fetch_add(bytes, Ordering::SeqCst);
        if self.resting.load(Ordering::SeqCst) && self.resting.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Has the driver look at `pipe` at once.
    pub(crate) fn due_now(&self, pipe: Arc<PipeShared>) {
        let mut due = self.lock();
        if !due.closed {
            due.now.push(pipe);
            drop(due);
            self.wake.notify_one();
        }
    }

    /// Has the driver look at `pipe` with the next batch of acks.
    pub(crate) fn due_later(&self, pipe: Arc<PipeShared>) {
        let first = {
            let mut due = self.lock();
            if due.closed {
                return;
            }
            due.later.push(pipe);
            due.later.len() == 1
        };
        if first {
            // The driver sets its timer.
            self.wake.notify_one();
        }
    }

    /// Has the driver acknowledge the end of a pipe's direction; `pipe` unless it is due
    /// with the next batch already.
    pub(crate) fn due_at_end(&self, pipe: Option<Arc<PipeShared>>) {
        let awaited = {
            let mut due = self.lock();
            if due.closed {
                return;
            }
            due.later.extend(pipe);
            due.ends += 1;
            // The first may go at once, and so may as many as this.
            due.ends == 1 || due.ends == self.ends_together
        };
        if awaited {
            self.wake.notify_one();
        }
    }

    /// How many ends wait to be acknowledged, and whether they should wait no longer.
    pub(crate) fn ends(&self) -> (usize, bool) {
        let ends = self.lock().ends;
        (ends, ends >= self.ends_together)
    }

    /// A reader found that the peer broke the protocol.
    pub(crate) fn report(&self, misbehaved: PeerMisbehaved) {
        self.lock().misbehaved.get_or_insert(misbehaved);
        self.wake.notify_one();
    }

    /// The pipes due now; with `later`, those due with the batch as well.
    pub(crate) fn take_due(&self, later: bool) -> Due {
        let mut due = self.lock();
        Due {
            now: std::mem::take(&mut due.now),
            later: if later { std::mem::take(&mut due.later) } else { Vec::new() },
            ends: if later { std::mem::take(&mut due.ends) } else { 0 },
            misbehaved: due.misbehaved.take(),
            closed: due.closed,
        }
    }

    /// Nobody will look at pipes any more.
    pub(crate) fn close_due(&self) {
        *self.lock() = Due { closed: true, ..Due::default() };
    }

    /// Whether a batch of acks waits for its time. It may turn out to be empty: the end of a
    /// pipe that the driver was about to look at is counted, and told already.
    pub(crate) fn has_later(&self) -> bool {
        let due = self.lock();
        !due.later.is_empty() || due.ends > 0
    }

    /// Whether nobody holds the session or one of its pipes any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a session from being abandoned: each `Session` and each half of a pipe
/// in the application's hands holds one.
pub(crate) struct Handle(Arc<Host>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle(..)")
    }
}

impl Handle {
    pub(crate) fn new(host: &Arc<Host>) -> Self {
        host.handles.fetch_add(1, Ordering::AcqRel);
        Self(host.clone())
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake.notify_one();
        }
    }
}
