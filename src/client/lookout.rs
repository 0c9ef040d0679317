//! Notices for all sessions of a client what may have taken their network from under
//! them: that the machine has slept, and, with the feature `monitor`, that the system
//! says so.
//!
//! No hook of the system's is needed: one task looks at the clocks now and then, for as
//! long as there are sessions. A sleep shows in the difference of two clocks where the
//! one that timers run on stands still meanwhile, and in a timer that fires late where
//! it goes on; late fires one too after the process alone was stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::ClientShared;
use crate::clock;
use crate::session::SessionShared;

/// So much time that nobody has looked in is a sleep. Less may be a busy machine, and
/// is noticed as any silence of the network's is.
const NAP: Duration = Duration::from_secs(3);

/// How often the sessions that have ended are forgotten, if nothing else is looked for.
const TIDY: Duration = Duration::from_secs(60);

/// Sessions that are looked after.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    charges: Mutex<Charges>,
    /// There is one more.
    pub(super) joined: Notify,
}

#[derive(Debug, Default)]
struct Charges {
    sessions: Vec<Weak<SessionShared>>,
    /// The task that looks, if there is one. It may have ended with its runtime, and the
    /// client be used on another.
    task: Option<AbortHandle>,
}

impl Lookout {
    /// Looks after a session to its end. The task, if there is none, starts on the
    /// current runtime.
    pub(super) fn look_after(client: &Arc<ClientShared>, session: &Arc<SessionShared>) {
        let mut charges = client.lookout.lock();
        charges.live();
        charges.sessions.push(Arc::downgrade(session));
        if charges.task.as_ref().is_none_or(AbortHandle::is_finished) {
            let task = tokio::spawn(keep_looking(client.clone()));
            charges.task = Some(task.abort_handle());
        }
        drop(charges);
        client.lookout.joined.notify_one();
    }

    /// All sessions that have not ended.
    #[cfg(feature = "monitor")]
    pub(super) fn sessions(&self) -> Vec<Arc<SessionShared>> {
        self.lock().live()
    }

    /// All sessions; `None` if there are none, and the task is done.
    fn sessions_left(&self) -> Option<Vec<Arc<SessionShared>>> {
        let mut charges = self.lock();
        let sessions = charges.live();
        if sessions.is_empty() {
            // While nobody can rely on it.
            charges.task = None;
            return None;
        }
        Some(sessions)
    }

    fn lock(&self) -> MutexGuard<'_, Charges> {
        self.charges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charges {
    /// The sessions that have not ended; the others are forgotten.
    fn live(&mut self) -> Vec<Arc<SessionShared>> {
        let all = self.sessions.iter().filter_map(Weak::upgrade);
        let live: Vec<_> = all.filter(|session| !session.has_ended()).collect();
        self.sessions = live.iter().map(Arc::downgrade).collect();
        live
    }
}

async fn keep_looking(client: Arc<ClientShared>) {
    let check = client.config.sleep_check;
    let interval = check.unwrap_or(TIDY);
    // Ends with this task.
    let mut company: JoinSet<()> = JoinSet::new();
    #[cfg(feature = "monitor")]
    if client.config.has_monitor() {
        company.spawn(super::network::keep_listening(client.clone()));
    }
    let environment = &client.config.environment;
    let mut last = environment.moment();
    loop {
        clock::sleep(interval).await;
        let now = environment.moment();
        let away = now.since(std::mem::replace(&mut last, now)).saturating_sub(interval);
        let Some(sessions) = client.lookout.sessions_left() else {
            return company.abort_all();
        };
        if check.is_some() && away >= NAP {
            tracing::info!(?away, "the machine has slept");
            sessions.iter().for_each(|session| session.network_changed());
        }
    }
}
