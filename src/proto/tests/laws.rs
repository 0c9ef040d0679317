//! What must hold after every step, whatever the schedule.
//!
//! A direction of a pipe is modelled as a log: how far the application wrote
//! and how it ended it, how far the other application read and what end it was
//! shown. The bytes themselves are a function of pipe, direction and offset, so
//! that any byte in a wrong place is seen.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::peer::{Event, Peer};
use crate::id::{Epoch, PipeId, Side};
use crate::proto::{PeerView, Pipe, ReadEnd, WriteEnd};

/// The model of a session.
#[derive(Clone, Debug)]
pub(super) struct Laws {
    /// By pipe and writer.
    logs: BTreeMap<(PipeId, Side), Log>,
    accepted: BTreeSet<PipeId>,
    capacity: [u64; 2],
    epochs: [Option<Epoch>; 2],
    pub(super) tally: Tally,
}

/// One direction of a pipe.
#[derive(Clone, Debug, Default)]
struct Log {
    written: u64,
    acked: u64,
    read: u64,
    finished: bool,
    reset: Option<u32>,
    stopped: Option<u32>,
    /// What the reader was shown, for good.
    read_end: Option<ReadEnd>,
    /// What the writer was told, for good.
    write_end: Option<WriteEnd>,
}

/// What came to pass, to know that schedules reach it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) resumed: u32,
    pub(super) accepted: u32,
    pub(super) retired: u32,
    pub(super) tombstones: u32,
    pub(super) unseen: u32,
    pub(super) replayed: u64,
    pub(super) skipped: u64,
    pub(super) refused: u32,
    pub(super) late: u64,
    pub(super) early: u32,
    pub(super) never_shown: u32,
    /// Both sides have opened a stream for a pipe at once.
    pub(super) both_opened: u32,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.resumed += other.resumed;
        self.accepted += other.accepted;
        self.retired += other.retired;
        self.tombstones += other.tombstones;
        self.unseen += other.unseen;
        self.replayed += other.replayed;
        self.skipped += other.skipped;
        self.refused += other.refused;
        self.late += other.late;
        self.early += other.early;
        self.never_shown += other.never_shown;
        self.both_opened += other.both_opened;
    }
}

impl Laws {
    pub(super) fn new(capacity: [u64; 2]) -> Self {
        Self {
            logs: BTreeMap::new(),
            accepted: BTreeSet::new(),
            capacity,
            epochs: [None; 2],
            tally: Tally::default(),
        }
    }

    /// The `len` bytes from `offset` on that `writer` writes to `pipe`.
    pub(super) fn bytes(pipe: PipeId, writer: Side, offset: u64, len: usize) -> Bytes {
        let direction = pipe.to_wire() * 2 + writer as u64;
        let byte = |offset: u64| {
            let mixed = (offset ^ direction.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ (mixed >> 29)) as u8
        };
        (offset..offset + len as u64).map(byte).collect()
    }

    // What the applications do.

    pub(super) fn on_open(&mut self, pipe: PipeId) {
        for side in [Side::Client, Side::Server] {
            let old = self.logs.insert((pipe, side), Log::default());
            assert!(old.is_none(), "{pipe} is used a second time");
        }
    }

    /// Both directions of `pipe` begin at `offset`.
    pub(super) fn shift(&mut self, pipe: PipeId, offset: u64) {
        for side in [Side::Client, Side::Server] {
            *self.log(pipe, side) =
                Log { written: offset, acked: offset, read: offset, ..Log::default() };
        }
    }

    pub(super) fn on_write(&mut self, pipe: PipeId, writer: Side, len: usize) {
        self.log(pipe, writer).written += len as u64;
    }

    pub(super) fn on_finish(&mut self, pipe: PipeId, writer: Side) {
        self.log(pipe, writer).finished = true;
    }

    pub(super) fn on_reset(&mut self, pipe: PipeId, writer: Side, code: u32) {
        self.log(pipe, writer).reset.get_or_insert(code);
    }

    pub(super) fn on_stop(&mut self, pipe: PipeId, reader: Side, code: u32) {
        self.log(pipe, reader.peer()).stopped.get_or_insert(code);
    }

    pub(super) fn on_read(&mut self, pipe: PipeId, reader: Side, bytes: &[u8]) {
        let log = self.log(pipe, reader.peer());
        assert_eq!(log.read_end, None, "{pipe} gave bytes after its end");
        let (from, to) = (log.read, log.read + bytes.len() as u64);
        assert!(to <= log.written, "{pipe} gave bytes that were never written");
        log.read = to;
        let expected = Self::bytes(pipe, reader.peer(), from, bytes.len());
        assert!(bytes == &expected[..], "{pipe} gave wrong bytes at {from}..{to}");
    }

    pub(super) fn on_read_end(&mut self, pipe: PipeId, reader: Side, end: ReadEnd) {
        let log = self.log(pipe, reader.peer());
        let shown = *log.read_end.get_or_insert(end);
        assert_eq!(shown, end, "{pipe} ended in two ways");
        match end {
            ReadEnd::Eof => {
                assert!(log.finished, "{pipe} gave EOF that nobody wrote");
                assert_eq!(log.read, log.written, "{pipe} gave EOF before its last byte");
            }
            ReadEnd::Reset { code } => assert_eq!(log.reset, Some(code), "{pipe}"),
            ReadEnd::Stopped => assert!(log.stopped.is_some(), "{pipe} stopped by nobody"),
        }
    }

    /// The client is another one now, or was put back by the test.
    pub(super) fn forget_client_epoch(&mut self) {
        self.epochs[Side::Client as usize] = None;
    }

    // What must hold.

    /// Holds one side against the logs.
    pub(super) fn observe(&mut self, peer: &mut Peer) {
        let side = peer.core.side();
        let epoch = peer.core.epoch();
        assert!(self.epochs[side as usize] <= Some(epoch), "the epoch of {side:?} went back");
        self.epochs[side as usize] = Some(epoch);
        for event in std::mem::take(&mut peer.events) {
            match event {
                Event::Accepted(pipe, label) => {
                    self.tally.accepted += 1;
                    assert_eq!(label, label_of(pipe));
                    assert!(self.accepted.insert(pipe), "{pipe} was accepted a second time");
                }
                Event::Retired(pipe) => {
                    self.tally.retired += 1;
                    self.check(side, &pipe);
                    assert!(pipe.send.end().is_some() && pipe.recv.end().is_some());
                }
                Event::View(PeerView::Gone) => self.tally.tombstones += 1,
                Event::View(PeerView::Unseen) => self.tally.unseen += 1,
                Event::View(PeerView::Live(_)) => {}
            }
        }
        self.tally.early += peer.core.early.len() as u32;
        for record in peer.pipes.values() {
            self.check(side, &record.core);
        }
    }

    /// A side has let go of its connection: nothing that was handed to it counts.
    pub(super) fn on_fence(peer: &Peer) {
        for (id, record) in &peer.pipes {
            let mut pipe = record.core.clone();
            assert!(!pipe.recv.is_told() && !pipe.is_retired(), "{id}");
            let reset_owed = !pipe.send.wants_stream() && !pipe.send.is_done();
            let stop_owed = pipe.recv.end() == Some(ReadEnd::Stopped) && !pipe.recv.is_done();
            if pipe.send.wants_stream() {
                assert_eq!(pipe.send.sent(), pipe.send.acked(), "{id}");
            }
            assert_eq!(pipe.send.poll_reset().is_some(), reset_owed, "{id}");
            assert_eq!(pipe.recv.poll_stop().is_some(), stop_owed, "{id}");
        }
    }

    fn check(&mut self, side: Side, pipe: &Pipe) {
        let id = pipe.id();
        let capacity = self.capacity[side as usize];
        let send = &pipe.send;
        let log = self.log(id, side);
        assert_eq!(send.written(), log.written, "{id}");
        assert!(send.acked() >= log.acked, "an ack of {id} was taken back");
        assert!(send.acked() <= log.read, "{id}: acked {}, read {}", send.acked(), log.read);
        log.acked = send.acked();
        assert!(send.sent() <= send.written());
        assert!(send.kept() <= capacity, "{id} keeps {} of {capacity}", send.kept());
        if send.end() != log.write_end {
            // FIN may be taken back as long as it is not acknowledged.
            assert!(matches!(log.write_end, None | Some(WriteEnd::Finished)), "{id}");
            log.write_end = send.end();
        }
        match log.write_end {
            None => assert!(!log.finished && log.reset.is_none()),
            Some(WriteEnd::Finished) => assert!(log.finished),
            Some(WriteEnd::Reset) => assert!(log.reset.is_some()),
            Some(WriteEnd::Stopped { code }) => assert_eq!(log.stopped, Some(code), "{id}"),
        }
        match log.write_end {
            None | Some(WriteEnd::Finished) => assert_eq!(send.kept(), log.written - log.acked),
            Some(WriteEnd::Reset | WriteEnd::Stopped { .. }) => assert_eq!(send.kept(), 0),
        }
        assert!(!send.is_done() || send.kept() == 0, "{id} is done and keeps bytes");
        assert_eq!(pipe.recv.read(), self.log(id, side.peer()).read, "{id}");
        if let Some(end) = pipe.recv.end() {
            self.on_read_end(id, side, end);
        }
    }

    /// Everything has ended and was told: nothing may be left of any pipe.
    pub(super) fn check_all_over(&mut self, peers: &[Peer; 2]) {
        for peer in peers {
            assert_eq!(peer.core.live_pipes(), 0, "{:?} leaks", peer.core.side());
            assert!(peer.pipes.is_empty() && peer.core.early.is_empty());
            assert_eq!(peer.core.seen.gaps().next(), None, "a pipe was never heard of");
        }
        for side in [Side::Client, Side::Server] {
            assert_eq!(
                peers[side as usize].core.opened,
                peers[side.peer() as usize].core.seen.next()
            );
        }
        self.tally.never_shown += (self.logs.len() / 2 - self.accepted.len()) as u32;
        for ((pipe, writer), log) in &self.logs {
            if log.finished && log.reset.is_none() && log.stopped.is_none() {
                assert_eq!(log.read_end, Some(ReadEnd::Eof), "{pipe} from {writer:?}");
                assert_eq!(log.write_end, Some(WriteEnd::Finished));
                assert_eq!(log.acked, log.written, "the reader has read it all");
            }
            if log.read_end == Some(ReadEnd::Eof) {
                assert_eq!(log.read, log.written);
            }
        }
    }

    /// How `writer`'s direction of `pipe` ended for each side, also after both
    /// have forgotten it.
    pub(super) fn ends(&self, pipe: PipeId, writer: Side) -> (Option<WriteEnd>, Option<ReadEnd>) {
        let log = &self.logs[&(pipe, writer)];
        (log.write_end, log.read_end)
    }

    fn log(&mut self, pipe: PipeId, writer: Side) -> &mut Log {
        self.logs.get_mut(&(pipe, writer)).expect("opened by the application")
    }
}

/// What the opener calls a pipe.
pub(super) fn label_of(pipe: PipeId) -> Bytes {
    Bytes::from(format!("pipe {pipe}"))
}
