//! All sessions of a server, by id.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::AttachSender;
use crate::id::SessionId;
use crate::session::SessionShared;
use crate::stats::ServerStats;

/// Who is there, and how many may be.
#[derive(Debug)]
pub(super) struct Registry {
    max_sessions: u32,
    places: Mutex<Places>,
    begun: AtomicU64,
    resumed: AtomicU64,
    refused: AtomicU64,
    expired: AtomicU64,
}

#[derive(Debug, Default)]
struct Places {
    sessions: BTreeMap<SessionId, Entry>,
    /// Kept for clients that the application has not answered yet.
    reserved: usize,
}

/// A session and the way to its driver.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) session: Arc<SessionShared>,
    pub(super) attaches: Arc<AttachSender>,
}

impl Registry {
    pub(super) fn new(max_sessions: u32) -> Self {
        Self {
            max_sessions,
            places: Mutex::default(),
            begun: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        }
    }

    /// A place for one more session, if there is one.
    pub(super) fn reserve(self: &Arc<Self>) -> Option<Place> {
        let mut places = self.lock();
        if places.sessions.len() + places.reserved >= self.max_sessions as usize {
            return None;
        }
        places.reserved += 1;
        Some(Place { registry: self.clone() })
    }

    pub(super) fn find(&self, id: SessionId) -> Option<Entry> {
        self.lock().sessions.get(&id).cloned()
    }

    pub(super) fn sessions(&self) -> Vec<Arc<SessionShared>> {
        self.lock().sessions.values().map(|entry| entry.session.clone()).collect()
    }

    pub(super) fn remove(&self, id: SessionId, expired: bool) {
        self.lock().sessions.remove(&id);
        if expired {
            self.expired.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn count_resumed(&self) {
        self.resumed.fetch_add(1, Relaxed);
    }

    pub(super) fn counts(&self) -> ServerStats {
        ServerStats {
            begun: self.begun.load(Relaxed),
            resumed: self.resumed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            expired: self.expired.load(Relaxed),
            ..ServerStats::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for a session that may yet begin; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    registry: Arc<Registry>,
}

impl Place {
    /// The session begins.
    pub(super) fn fill(self, entry: Entry) {
        self.registry.begun.fetch_add(1, Relaxed);
        self.registry.lock().sessions.insert(entry.session.id, entry);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.lock().reserved -= 1;
    }
}
