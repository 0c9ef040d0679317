//! Which dials may use up the tickets that a client has of a server.

use std::sync::Arc;

use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;

/// So many tickets of each server are kept for dials that can make the most of them:
/// half of what a connection brings. Each ticket is used once (RFC 8446 appendix C.4:
/// who sees one twice knows that it is the same client), and during a long outage one
/// dial after another goes unheard.
const RESERVE: usize = 2;

/// The tickets of a store but for the last few of each server.
#[derive(Debug)]
pub(super) struct Sparing(pub(super) Arc<ClientSessionMemoryCache>);

impl ClientSessionStore for Sparing {
    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // The newest first. Who takes one at the same moment may find too few: then it
        // does without, as it must be able to anyway.
        let mut taken: Vec<_> =
            (0..=RESERVE).map_while(|_| self.0.take_tls13_ticket(server)).collect();
        let spare = (taken.len() > RESERVE).then(|| taken.pop()).flatten();
        for kept in taken.into_iter().rev() {
            self.0.insert_tls13_ticket(server.clone(), kept);
        }
        spare
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(server, ticket);
    }

    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(server)
    }

    // TLS 1.2 is not spoken.

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
}
