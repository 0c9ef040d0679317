//! The sessions of this process, for who asks over the control socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evermux::{LinkState, Session, SessionId};
use serde::{Deserialize, Serialize};

/// Every live session.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<BTreeMap<SessionId, Session>>);

impl Sessions {
    /// Lists a session until what is returned is dropped.
    pub fn list(self: &Arc<Self>, session: Session) -> Listed {
        let id = session.id();
        self.lock().insert(id, session);
        Listed { sessions: self.clone(), id }
    }

    pub fn statuses(&self) -> Vec<SessionStatus> {
        self.all().iter().map(SessionStatus::of).collect()
    }

    /// The one session whose id begins so.
    pub fn find(&self, start: &str) -> Result<Option<Session>, String> {
        let found: Vec<Session> =
            self.all().into_iter().filter(|s| s.id().to_string().starts_with(start)).collect();
        match &found[..] {
            [] => Ok(None),
            [session] => Ok(Some(session.clone())),
            _ => Err(format!("{} sessions begin with {start:?}: give more of the id", found.len())),
        }
    }

    fn all(&self) -> Vec<Session> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its session off the list when dropped.
#[derive(Debug)]
pub struct Listed {
    sessions: Arc<Sessions>,
    id: SessionId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}

/// A session at one moment. The names are those of `status --json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    pub id: String,
    /// The fingerprint of the other side's key.
    pub peer: Option<String>,
    pub link: Link,
    /// The other side's address, while attached.
    pub remote_addr: Option<String>,
    /// The number of the connection.
    pub epoch: u64,
    /// How long ago something was heard from the other side.
    pub last_contact_seconds: Option<f64>,
    /// Connections that were lost and replaced.
    pub outages: u64,
    /// Time without a connection that worked, in all.
    pub downtime_seconds: f64,
    pub round_trip_ms: Option<f64>,
    pub bytes_written: u64,
    pub bytes_read: u64,
    /// Kept until the other side has read it.
    pub replay_bytes: u64,
    /// Sent again so far.
    pub replayed_bytes: u64,
    pub pipes: Vec<PipeStatus>,
}

/// Whether a connection is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    Attached,
    Suspect,
    Detached,
    Closed,
}

/// A pipe at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct PipeStatus {
    pub id: String,
    /// What it was opened for.
    pub label: String,
    pub bytes_written: u64,
    pub bytes_read: u64,
    pub replay_bytes: u64,
}

impl SessionStatus {
    fn of(session: &Session) -> Self {
        let stats = session.stats();
        let (link, remote_addr, last_contact) = match session.link() {
            LinkState::Attached { remote_addr, last_contact, .. } => {
                (Link::Attached, Some(remote_addr), Some(last_contact))
            }
            LinkState::Suspect { remote_addr, last_contact, .. } => {
                (Link::Suspect, Some(remote_addr), Some(last_contact))
            }
            LinkState::Detached { last_contact, .. } => (Link::Detached, None, Some(last_contact)),
            _ => (Link::Closed, None, None),
        };
        let pipes = session.pipes().into_iter().map(|pipe| PipeStatus {
            id: pipe.id.to_string(),
            label: String::from_utf8_lossy(&pipe.label).escape_debug().to_string(),
            bytes_written: pipe.stats.written,
            bytes_read: pipe.stats.read,
            replay_bytes: pipe.stats.kept,
        });
        let seconds = |span: Duration| span.as_secs_f64();
        Self {
            id: session.id().to_string(),
            peer: session.peer().map(|peer| peer.to_string()),
            link,
            remote_addr: remote_addr.map(|addr| addr.to_string()),
            epoch: stats.epoch.get(),
            last_contact_seconds: last_contact.map(|at| seconds(at.elapsed())),
            outages: stats.resumes,
            downtime_seconds: seconds(stats.downtime),
            round_trip_ms: stats.rtt.map(|rtt| seconds(rtt) * 1e3),
            bytes_written: stats.bytes_written,
            bytes_read: stats.bytes_read,
            replay_bytes: stats.bytes_kept,
            replayed_bytes: stats.bytes_replayed,
            pipes: pipes.collect(),
        }
    }
}
