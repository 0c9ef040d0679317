//! The early flight of a client that comes back (P-36): while the handshake is
//! under way its pipes go on, as far as that changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ServerShared;
use super::handshake::Failed;
use crate::driver::{Beginnings, Begun, EarlyStreams};
use crate::id::{Epoch, HolderId, PipeId, SessionId};
use crate::misbehaved::PeerMisbehaved;
use crate::quic::Connection;
use crate::session::SessionShared;
use crate::wire::{Early, EarlyAnswer};

/// An early flight that was let in. When it is dropped, its pipes let go of it.
pub(super) struct Flight {
    session: Arc<SessionShared>,
    epoch: Epoch,
    holder: HolderId,
    /// How far the client has read at least, of pipes whose early stream has not
    /// come yet.
    reads: BTreeMap<PipeId, u64>,
    streams: EarlyStreams,
    begin: Beginnings,
    /// For the full claim to look at; bounded by the client's stream limit.
    kept: Vec<Begun>,
}

impl Flight {
    /// `None`: it is ignored, and the full claim decides.
    pub(super) fn let_in(
        server: &ServerShared,
        connection: &Connection,
        early: Early,
    ) -> Option<(Self, EarlyAnswer)> {
        if !server.config.early_data {
            return None;
        }
        let session = server.registry.find(early.session)?.session;
        // That of the connection which the ticket comes from.
        if connection.peer_fingerprint() != session.peer {
            return None;
        }
        let answer = session.table().core.on_early_claim(&early)?;
        tracing::debug!(session = %session.id, epoch = %early.epoch, "early flight let in");
        let flight = Self {
            session,
            epoch: early.epoch,
            holder: early.holder,
            reads: early.reads.into_iter().collect(),
            streams: EarlyStreams::new(early.epoch, server.config.session.optimistic_replay),
            begin: Beginnings::default(),
            kept: Vec::new(),
        };
        Some((flight, answer))
    }

    /// Whether this is the session and epoch of the claim.
    pub(super) fn is_of(&self, session: SessionId, epoch: Epoch) -> bool {
        (self.session.id, self.epoch) == (session, epoch)
    }

    /// Takes in streams as they come, for ever; returns why that cannot go on.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again: no stream is lost.
    pub(super) async fn take_in(&mut self, connection: &Connection) -> Failed {
        loop {
            let begun = tokio::select! {
                biased;
                begun = self.begin.next() => begun,
                stream = connection.accept_bi() => match stream {
                    Ok(stream) => match self.begin.start(stream) {
                        Some(begun) => begun,
                        None => continue,
                    },
                    Err(lost) => return lost.into(),
                },
            };
            let taken = match begun {
                Ok(Some(begun)) => self.attach(begun),
                // Given up before its header came: the full claim says the rest.
                Ok(None) => Ok(()),
                Err(malformed) => Err(malformed.into()),
            };
            if let Err(misbehaved) = taken {
                return misbehaved.into();
            }
        }
    }

    /// A pipe that is live goes on with its early stream. Whatever else it may be is
    /// for the full claim.
    fn attach(&mut self, begun: Begun) -> Result<(), PeerMisbehaved> {
        // Held, so that no resume is accepted in between: another holder's pipes are
        // not brought on by what comes late from this one.
        let table = self.session.table();
        if self.epoch <= table.core.epoch() || self.holder != table.core.holder() {
            return Ok(());
        }
        let pipe = begun.header.pipe;
        let live = table.pipes.get(&pipe).filter(|_| begun.header.epoch == self.epoch);
        let (Some(live), Some(read)) = (live, self.reads.remove(&pipe)) else {
            self.kept.push(begun);
            return Ok(());
        };
        let written = live.stats().written;
        if read > written {
            return Err(PeerMisbehaved::OffsetFromTheFuture { pipe, asked: read, written });
        }
        let begins = Some((begun.header.start, begun.ahead));
        self.streams.attach(live, begun.stream, begins, read)?;
        self.streams.trust();
        Ok(())
    }

    /// What the session goes on with.
    pub(super) fn land(mut self) -> (EarlyStreams, Beginnings) {
        self.kept.drain(..).for_each(|begun| self.begin.keep(begun));
        (self.streams, self.begin)
    }
}
