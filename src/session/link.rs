//! The link of a session: what state it is in, as its driver sets it and users see it.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use super::SessionShared;
use crate::error::DialError;
use crate::event::{DetachCause, Events, LinkState, SessionEvent, Watched};
use crate::id::Epoch;
use crate::pipe::PipeShared;
use crate::quic::Connection;
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

impl SessionShared {
    /// The state of the link, with the last contact as it is known now.
    pub(crate) fn link_state(&self) -> LinkState {
        let now = self.last_contact();
        let mut state = self.watched().state().clone();
        match &mut state {
            LinkState::Attached { last_contact, .. }
            | LinkState::Suspect { last_contact, .. }
            | LinkState::Detached { last_contact, .. } => *last_contact = now,
            LinkState::Closed { .. } => {}
        }
        state
    }

    fn last_contact(&self) -> std::time::Instant {
        self.table().last_contact.at.into_std()
    }

    fn attached_to(&self, remote_addr: SocketAddr, epoch: Epoch) -> LinkState {
        LinkState::Attached { epoch, remote_addr, last_contact: self.last_contact() }
    }

    /// Waits until `look` finds what it looks for: at once, or when the link has
    /// changed or the driver is through.
    ///
    /// # Cancel safety
    ///
    /// Holds nothing: may be dropped and called again.
    pub(crate) async fn until<T>(&self, look: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            // Registered before the look: nothing is missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = look(self) {
                return found;
            }
            changed.await;
        }
    }

    pub(super) fn watched(&self) -> MutexGuard<'_, Watched> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_link(&self, state: LinkState) {
        let watchers = self.watched().set(state.clone());
        if let Some(watchers) = watchers {
            // Not under the lock: whoever is woken may look at once. Only the driver
            // sets the link, so that nobody comes in between.
            watchers.send_replace(state);
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn emit(&self, event: SessionEvent) {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner).tell(event);
    }

    pub(super) fn subscribe(&self) -> Events {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner).join()
    }

    /// Fences: after this no byte of the old connection is read or counted, and
    /// every receive offset stands still until the next attach (P-12).
    pub(crate) fn fence(&self) -> Vec<Arc<PipeShared>> {
        self.host.set_attached(None);
        {
            let mut table = self.table();
            if let Some((connection, _)) = table.connection.take() {
                table.last_rtt = Some(connection.rtt());
            }
        }
        let pipes = self.pipes();
        pipes.iter().for_each(|pipe| pipe.detach());
        pipes
    }

    /// The link is down.
    pub(crate) fn set_detached(&self, epoch: Epoch, cause: DetachCause) {
        let now = self.moment();
        self.table().detached_since.get_or_insert(now);
        let (since, last_contact) = (now.at.into_std(), self.last_contact());
        tracing::info!(session = %self.id, %epoch, %cause, "detached");
        let cause_of = cause.clone();
        self.set_link(LinkState::Detached { epoch, since, last_contact, cause: cause_of });
        self.emit(SessionEvent::Detached { epoch, cause });
    }

    /// The peer has acknowledged something.
    pub(crate) fn set_heard(&self) {
        let now = self.moment();
        self.table().last_contact = now;
    }

    /// Client: the link may be down.
    pub(crate) fn set_suspect(&self, connection: &Connection, epoch: Epoch) {
        let last_contact = {
            let mut table = self.table();
            let last_contact = table.last_contact;
            table.detached_since.get_or_insert(last_contact);
            last_contact.at.into_std()
        };
        let remote_addr = connection.remote_addr();
        tracing::info!(session = %self.id, %epoch, "suspect");
        self.set_link(LinkState::Suspect { epoch, remote_addr, last_contact });
        self.emit(SessionEvent::Suspect { epoch });
    }

    /// Client: the link was not down.
    pub(crate) fn set_recovered(&self, connection: &Connection, epoch: Epoch) {
        let silence = self.table().end_outage(self.moment());
        tracing::info!(session = %self.id, %epoch, ?silence, "recovered");
        self.set_link(self.attached_to(connection.remote_addr(), epoch));
        self.emit(SessionEvent::Recovered { epoch, silence });
    }

    /// Client, in a handover: from now on pipes are opened and written for the next
    /// connection only. So the peer has seen none that our table does not name, and
    /// gets nothing on the old connection that would be lost with it.
    pub(crate) fn hold(&self) {
        {
            let mut table = self.table();
            if let Some((connection, _)) = table.connection.take() {
                table.last_rtt = Some(connection.rtt());
            }
        }
        self.pipes().iter().for_each(|pipe| pipe.hold());
    }

    pub(super) fn begin_moving(&self) {
        if !self.is_moving.swap(true, AcqRel) {
            self.read_before_moving.store(self.host.totals.read.load(Relaxed), Relaxed);
        }
    }

    /// Client: how many bytes were read since a handover was asked for.
    pub(crate) fn read_since_moving(&self) -> u64 {
        let before = self.read_before_moving.load(Relaxed);
        self.host.totals.read.load(Relaxed).saturating_sub(before)
    }

    /// Client: whether another connection is wanted although this one works.
    pub(crate) fn is_moving(&self) -> bool {
        self.is_moving.load(Acquire)
    }

    /// Client: no other connection can be had. If there is one that works, it stays.
    pub(crate) fn moving_failed(&self, error: &DialError) {
        if matches!(self.watched().state(), LinkState::Attached { .. }) {
            self.moved(Err(error.clone()));
        }
    }

    pub(super) fn moved(&self, outcome: Result<(), DialError>) {
        self.is_moving.store(false, Release);
        let waiting = std::mem::take(&mut self.table().moving);
        for waiting in waiting {
            // Who has given up does not care.
            let _ = waiting.send(outcome.clone());
        }
    }

    /// The epoch of the link, up or down; `None` once the session has ended.
    pub(super) fn link_epoch(&self) -> Option<Epoch> {
        match self.watched().state() {
            LinkState::Attached { epoch, .. }
            | LinkState::Suspect { epoch, .. }
            | LinkState::Detached { epoch, .. } => Some(*epoch),
            LinkState::Closed { .. } => None,
        }
    }

    /// A connection is the attached one: streams may be opened on it.
    pub(crate) fn set_attached(&self, connection: &Connection, epoch: Epoch) {
        // In this order: who finds the connection may attach streams of it. A pipe
        // whose stream was refused in between would have nobody to open another.
        self.host.set_attached(Some(epoch));
        let now = self.moment();
        let mut table = self.table();
        table.connection = Some((connection.clone(), epoch));
        // It has just answered.
        table.last_contact = now;
    }

    /// The session goes on.
    pub(crate) fn set_resumed(&self, connection: &Connection, epoch: Epoch, replayed: u64) {
        let downtime = {
            let mut table = self.table();
            table.resumes += 1;
            table.end_outage(self.moment())
        };
        tracing::info!(session = %self.id, %epoch, ?downtime, replayed, "resumed");
        self.set_link(self.attached_to(connection.remote_addr(), epoch));
        self.emit(SessionEvent::Resumed { epoch, downtime, replayed });
        self.moved(Ok(()));
    }

    /// Server: the same connection goes on from another address of the client.
    pub(crate) fn set_migrated(&self, epoch: Epoch, remote_addr: SocketAddr) {
        self.set_link(self.attached_to(remote_addr, epoch));
        self.tell_migrated(remote_addr);
    }

    /// The same connection goes on from another address, the client's.
    pub(crate) fn tell_migrated(&self, remote_addr: SocketAddr) {
        tracing::info!(session = %self.id, %remote_addr, "migrated");
        self.emit(SessionEvent::Migrated { remote_addr });
    }

    pub(crate) fn is_detached(&self) -> bool {
        matches!(self.watched().state(), LinkState::Detached { .. })
    }

    /// Whether another connection is needed, or might be soon.
    pub(crate) fn is_in_need(&self) -> bool {
        self.watched().state().is_in_need() || self.is_moving()
    }
}
