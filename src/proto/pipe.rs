//! One pipe: its two halves and what the peer knows of it.

use bytes::Bytes;

use super::recv::RecvHalf;
use super::send::SendHalf;
use crate::id::{Epoch, PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::wire::{Ack, Header, HeaderKind, Position, Reset, Stop};

/// A control frame that a pipe wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    Ack(Ack),
    Reset(Reset),
    Stop(Stop),
}

/// What the peer's table says of one of our pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerView {
    /// It is live there too.
    Live(Position),
    /// The peer has seen it and is done with it: a tombstone.
    Gone,
    /// The peer has never heard of it.
    Unseen,
}

/// Both directions of a pipe.
#[derive(Clone, Debug)]
pub(crate) struct Pipe {
    id: PipeId,
    label: Bytes,
    /// Whether the peer is known to have seen a pipe that we opened. Until then
    /// its streams begin with an `Open` header.
    seen: bool,
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
}

impl Pipe {
    pub(crate) fn new(id: PipeId, label: Bytes, capacity: u64, peer_capacity: u64) -> Self {
        Self {
            id,
            label,
            seen: false,
            send: SendHalf::new(id, capacity),
            recv: RecvHalf::new(id, peer_capacity),
        }
    }

    pub(crate) fn id(&self) -> PipeId {
        self.id
    }

    pub(crate) fn label(&self) -> &Bytes {
        &self.label
    }

    /// The header of our direction on a stream of `epoch`.
    pub(crate) fn header(&self, us: Side, epoch: Epoch) -> Header {
        // Of a direction that was given up no bytes follow, and the peer may stand
        // anywhere from `acked` on: beginning at the end would be a gap to it.
        let start = if self.send.wants_stream() { self.send.sent() } else { self.send.acked() };
        self.header_at(us, epoch, start)
    }

    /// The same, where our direction begins at `start`.
    pub(crate) fn header_at(&self, us: Side, epoch: Epoch, start: u64) -> Header {
        let kind = if self.id.opener() == us && !self.seen {
            HeaderKind::Open { label: self.label.clone() }
        } else {
            HeaderKind::Continue
        };
        Header { kind, epoch, pipe: self.id, start }
    }

    /// Whether the peer has shown that it has seen a pipe that we opened: it has told
    /// us, or we had bytes or an end from it.
    pub(crate) fn is_known(&self) -> bool {
        let heard = self.recv.read() > 0 || self.recv.is_done();
        self.seen || self.send.acked() > 0 || heard
    }

    /// Whether both sides know the ends of both directions: the pipe can be
    /// forgotten.
    pub(crate) fn is_retired(&self) -> bool {
        self.send.is_done() && self.recv.is_told()
    }

    /// Whether there is anything left that only a stream can carry, in either
    /// direction. Resets, stops and acks go on the control stream.
    pub(crate) fn needs_stream(&self) -> bool {
        self.send.wants_stream() || self.recv.end().is_none()
    }

    /// Whether we should open a stream for it, where it has none on the attached
    /// connection: to announce it, or to carry what we owe. For what the peer owes,
    /// the peer does (P-27).
    pub(crate) fn calls_for_stream(&self, us: Side) -> bool {
        let unannounced = self.id.opener() == us && !self.is_known();
        unannounced && self.needs_stream() || self.send.owes_stream()
    }

    /// The next control frame to send, until there is none. An ack that is not
    /// due yet comes only if `all_acks`.
    pub(crate) fn poll_outgoing(&mut self, all_acks: bool) -> Option<Outgoing> {
        if let Some(reset) = self.send.poll_reset() {
            return Some(Outgoing::Reset(reset));
        }
        if let Some(stop) = self.recv.poll_stop() {
            return Some(Outgoing::Stop(stop));
        }
        if all_acks || self.recv.is_ack_due() {
            return self.recv.poll_ack().map(Outgoing::Ack);
        }
        None
    }

    /// The connection is gone (P-12): nothing handed to it counts.
    pub(crate) fn detach(&mut self) {
        self.send.detach();
        self.recv.detach();
    }

    /// This pipe's line in our table of a resume. Only after
    /// [`detach`](Self::detach): the offset is frozen until the next attach.
    pub(crate) fn measure(&mut self) -> Position {
        Position {
            pipe: self.id,
            read: self.recv.read(),
            recv: self.recv.report(),
            send: self.send.report(),
        }
    }

    /// What the peer's table of a resume says of this pipe.
    pub(crate) fn on_resume(&mut self, view: PeerView) -> Result<(), PeerMisbehaved> {
        match view {
            PeerView::Live(position) => {
                self.seen = true;
                self.send.on_resume(position.read, position.recv)?;
                self.recv.on_resume(position.send)
            }
            PeerView::Gone => {
                self.seen = true;
                self.send.on_gone()?;
                self.recv.on_gone()
            }
            PeerView::Unseen => {
                if self.is_known() {
                    return Err(PeerMisbehaved::PipeForgotten { pipe: self.id });
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{RecvReport, SendReport};

    fn pipe(opener: Side) -> Pipe {
        let label = Bytes::from_static(b"ssh");
        Pipe::new(PipeId::new(opener, 0).unwrap(), label, 1000, 1000)
    }

    /// P-10.
    #[test]
    fn only_its_opener_announces_a_pipe_and_only_until_the_peer_has_seen_it() {
        let position = Position {
            pipe: pipe(Side::Client).id(),
            read: 0,
            recv: RecvReport::Open,
            send: SendReport::Open,
        };
        let kind = |pipe: &Pipe| pipe.header(Side::Client, Epoch::FIRST).kind;
        let announced = HeaderKind::Open { label: Bytes::from_static(b"ssh") };
        let mut ours = pipe(Side::Client);
        assert_eq!(kind(&ours), announced);
        ours.on_resume(PeerView::Unseen).unwrap();
        assert_eq!(kind(&ours), announced);
        ours.on_resume(PeerView::Live(position)).unwrap();
        assert_eq!(kind(&ours), HeaderKind::Continue);
        assert_eq!(kind(&pipe(Side::Server)), HeaderKind::Continue);
    }

    /// P-27.
    #[test]
    fn a_pipe_that_both_sides_know_calls_for_a_stream_when_there_is_something_to_carry() {
        let us = Side::Client;
        let position = |pipe: &Pipe| Position {
            pipe: pipe.id(),
            read: 0,
            recv: RecvReport::Open,
            send: SendReport::Open,
        };
        for opener in [us, us.peer()] {
            let mut idle = pipe(opener);
            assert_eq!(idle.calls_for_stream(us), opener == us, "it is to be announced");
            idle.on_resume(PeerView::Live(position(&idle))).unwrap();
            assert!(!idle.calls_for_stream(us));
            let (mut written, mut finished, mut given_up) = (idle.clone(), idle.clone(), idle);
            written.send.write(Bytes::from_static(b"bytes"));
            finished.send.finish();
            given_up.send.reset(1);
            assert!(written.calls_for_stream(us) && finished.calls_for_stream(us));
            assert!(!given_up.calls_for_stream(us), "the control stream says it");
        }
    }

    #[test]
    fn a_pipe_that_was_given_up_in_both_directions_needs_no_stream() {
        let mut pipe = pipe(Side::Client);
        assert!(pipe.needs_stream());
        pipe.send.reset(1);
        assert!(pipe.needs_stream(), "for what the peer writes");
        let mut stopped = pipe.clone();
        stopped.recv.stop(1);
        assert!(!stopped.needs_stream());
        pipe.recv.on_reset(1, 0).unwrap();
        assert!(!pipe.needs_stream());
    }
}
