//! Has the sessions of a client move when the system says that the network has changed.
//!
//! A move, not a handover, also where both networks can be used: our sockets belong to no
//! interface, so what the old connection sends takes the system's new way whatever we do,
//! and there is no old way to go on with meanwhile. A move asks at once whether the new
//! one leads anywhere, with a dial beside it; a handover would add a handshake, and the
//! replay of all that was under way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::ClientShared;
use crate::event::LinkState;
use crate::monitor::{Monitor, Route};
use crate::session::SessionShared;

/// Listens for as long as the lookout looks. Without a monitor all is as before: a
/// change is noticed by its silence.
pub(super) async fn keep_listening(client: Arc<ClientShared>) {
    let mut monitor = match Monitor::start() {
        Ok(monitor) => monitor,
        Err(error) => return tracing::warn!(%error, "no network monitor"),
    };
    let mut routes = BTreeMap::new();
    loop {
        let changed = tokio::select! {
            biased;
            // Its route is looked up before anything changes.
            () = client.lookout.joined.notified() => false,
            changed = monitor.changed() => match changed {
                Ok(()) => true,
                Err(error) => return tracing::warn!(%error, "no network monitor any more"),
            },
        };
        let sessions = client.lookout.sessions();
        let moved = look_up(&mut routes, &sessions);
        for session in sessions.iter().filter(|_| changed) {
            // Without a peer it waits for any network at all.
            if peer(session).is_none_or(|addr| moved.get(&addr) == Some(&true)) {
                tracing::debug!(session = %session.id, "the network has changed");
                session.network_changed();
            }
        }
    }
}

/// Looks up the routes to the peers of all sessions, and says which are others than
/// before.
fn look_up(
    routes: &mut BTreeMap<IpAddr, Route>,
    sessions: &[Arc<SessionShared>],
) -> BTreeMap<IpAddr, bool> {
    let peers = sessions.iter().filter_map(|session| peer(session));
    let present: BTreeMap<_, _> = peers.map(|addr| (addr, Route::to(addr))).collect();
    let moved = |(addr, route): (&IpAddr, &Route)| {
        (*addr, routes.get(addr).is_none_or(|earlier| route.is_another_than(earlier)))
    };
    let moved = present.iter().map(moved).collect();
    *routes = present;
    moved
}

/// The address of the server that a session is attached to.
fn peer(session: &SessionShared) -> Option<IpAddr> {
    match session.link_state() {
        LinkState::Attached { remote_addr, .. } | LinkState::Suspect { remote_addr, .. } => {
            Some(remote_addr.ip())
        }
        _ => None,
    }
}
