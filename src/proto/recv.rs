//! The receiving half of a pipe.

use crate::id::PipeId;
use crate::misbehaved::PeerMisbehaved;
use crate::wire::{Ack, RecvReport, SendReport, Stop};

/// An ack is sent at the latest when this many bytes were read since the last. Of 16, 64
/// and 256 KiB and 1 MiB it is the least with which acks are below a hundredth of the
/// packets of one pipe at 100 Mbit/s, as `tests/sim/acks.rs` measures them; the table is in
/// `src/manual/tuning.md`.
const ACK_EVERY_MAX: u64 = 256 * 1024;

/// How a direction ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadEnd {
    /// The end of the stream, after all bytes.
    Eof,
    /// The writer gave up, with its code.
    Reset { code: u32 },
    /// The reader itself gave up.
    Stopped,
}

/// ```text
///           FIN read
///   Open ──────────────▶ Eof
///    │ ╲     reset
///    │  ╲────────────▶ Reset
///    │ stop                      reset (answers the stop)
///    └──────▶ Stopped { settled: false } ──────▶ Stopped { settled: true }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Eof,
    Reset {
        code: u32,
    },
    /// `announced` on the attached connection. `settled` when the peer's
    /// answer, a reset, has come: it knows.
    Stopped {
        code: u32,
        announced: bool,
        settled: bool,
    },
}

/// How far the application has read, and how the direction ended.
#[derive(Clone, Debug)]
pub(crate) struct RecvHalf {
    pipe: PipeId,
    /// `told <= read`: the next byte that the application gets.
    read: u64,
    /// The last offset that was acknowledged to the peer.
    told: u64,
    /// The end was acknowledged to the peer.
    told_done: bool,
    /// An ack is due at once when so many bytes were read since the last.
    ack_every: u64,
    state: State,
}

impl RecvHalf {
    /// A half whose peer keeps at most `peer_capacity` bytes for replay: acks
    /// come often enough that its writer need not wait for them.
    pub(crate) fn new(pipe: PipeId, peer_capacity: u64) -> Self {
        Self::starting_at(pipe, peer_capacity, 0)
    }

    pub(crate) fn starting_at(pipe: PipeId, peer_capacity: u64, offset: u64) -> Self {
        Self {
            pipe,
            read: offset,
            told: offset,
            told_done: false,
            ack_every: (peer_capacity / 4).clamp(1, ACK_EVERY_MAX),
            state: State::Open,
        }
    }

    /// The offset of the next byte that the application gets.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// How the direction ended; `None` while there may be more.
    pub(crate) fn end(&self) -> Option<ReadEnd> {
        match self.state {
            State::Open => None,
            State::Eof => Some(ReadEnd::Eof),
            State::Reset { code } => Some(ReadEnd::Reset { code }),
            State::Stopped { .. } => Some(ReadEnd::Stopped),
        }
    }

    /// Whether both sides know the end, or will once the ack has arrived.
    pub(crate) fn is_done(&self) -> bool {
        match self.state {
            State::Open | State::Stopped { settled: false, .. } => false,
            State::Eof | State::Reset { .. } | State::Stopped { settled: true, .. } => true,
        }
    }

    /// Whether nothing is owed to the peer any more: the end was acknowledged.
    pub(crate) fn is_told(&self) -> bool {
        self.is_done() && self.told_done
    }

    /// How many bytes at the front of a stream that begins at `start` were
    /// read already.
    pub(crate) fn on_stream(&self, start: u64) -> Result<u64, PeerMisbehaved> {
        self.read.checked_sub(start).ok_or(PeerMisbehaved::Gap {
            pipe: self.pipe,
            start,
            read: self.read,
        })
    }

    /// The application took `bytes` from the stream.
    pub(crate) fn on_read(&mut self, bytes: u64) {
        self.read += bytes;
    }

    /// The application saw the end of the stream.
    pub(crate) fn on_fin(&mut self) {
        if self.state == State::Open {
            self.state = State::Eof;
        }
    }

    /// The peer's writer gave up after `offset` bytes.
    pub(crate) fn on_reset(&mut self, code: u32, offset: u64) -> Result<(), PeerMisbehaved> {
        if offset < self.read {
            let (pipe, read) = (self.pipe, self.read);
            return Err(PeerMisbehaved::EndMovedBack { pipe, end: offset, read });
        }
        match &mut self.state {
            State::Open => self.state = State::Reset { code },
            State::Stopped { settled, .. } => *settled = true,
            // Crossed with our ack of the end.
            State::Eof | State::Reset { .. } => {}
        }
        Ok(())
    }

    /// What the peer's table in a resume says of its sending half.
    pub(crate) fn on_resume(&mut self, send: SendReport) -> Result<(), PeerMisbehaved> {
        match send {
            SendReport::Open => Ok(()),
            SendReport::Reset { code, offset } => self.on_reset(code, offset),
        }
    }

    /// The peer has retired the pipe, so it has had our last ack.
    pub(crate) fn on_gone(&mut self) -> Result<(), PeerMisbehaved> {
        match &mut self.state {
            State::Open => Err(PeerMisbehaved::PipeForgotten { pipe: self.pipe }),
            State::Stopped { settled, .. } => {
                // The end came before the stop did: the peer needs no answer.
                *settled = true;
                self.told_done = true;
                Ok(())
            }
            State::Eof | State::Reset { .. } => {
                self.told_done = true;
                Ok(())
            }
        }
    }

    /// The application wants no more. No effect after an end.
    pub(crate) fn stop(&mut self, code: u32) {
        if self.state == State::Open {
            self.state = State::Stopped { code, announced: false, settled: false };
        }
    }

    /// Whether an ack should go out now and not with the next batch. An end of the stream
    /// is no reason: many pipes that carry little come to theirs.
    pub(crate) fn is_ack_due(&self) -> bool {
        let cut_short = self.is_done() && self.state != State::Eof;
        cut_short && !self.told_done || self.read - self.told >= self.ack_every
    }

    /// Whether there is an ack that the peer has not had yet.
    pub(crate) fn owes_ack(&self) -> bool {
        self.read != self.told || self.is_done() != self.told_done
    }

    /// The ack that the peer has not had yet.
    pub(crate) fn poll_ack(&mut self) -> Option<Ack> {
        let done = self.is_done();
        if !self.owes_ack() {
            return None;
        }
        self.told = self.read;
        self.told_done = done;
        Some(Ack { pipe: self.pipe, offset: self.read, done })
    }

    /// The stop that is owed and was not sent on this connection yet.
    pub(crate) fn poll_stop(&mut self) -> Option<Stop> {
        match &mut self.state {
            State::Stopped { code, announced, settled: false } if !*announced => {
                *announced = true;
                Some(Stop { pipe: self.pipe, code: *code, offset: self.read })
            }
            _ => None,
        }
    }

    /// What the table of a resume says of this half. It is an ack as well.
    pub(crate) fn report(&mut self) -> RecvReport {
        self.told = self.read;
        self.told_done = self.is_done();
        match &mut self.state {
            State::Open => RecvReport::Open,
            State::Stopped { code, announced, settled: false } => {
                *announced = true;
                RecvReport::Stopped { code: *code }
            }
            State::Eof | State::Reset { .. } | State::Stopped { .. } => RecvReport::Done,
        }
    }

    /// The connection is gone, and with it acks and stops that may not have
    /// arrived.
    pub(crate) fn detach(&mut self) {
        self.told_done = false;
        if let State::Stopped { announced, .. } = &mut self.state {
            *announced = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Side;

    fn half(peer_capacity: u64, offset: u64) -> RecvHalf {
        RecvHalf::starting_at(PipeId::new(Side::Client, 0).unwrap(), peer_capacity, offset)
    }

    /// P-21.
    #[test]
    fn an_ack_is_due_when_a_quarter_of_the_peers_capacity_or_256_kib_was_read() {
        const KIB: u64 = 1024;
        for (peer_capacity, due) in [
            (0, 1),
            (1, 1),
            (4, 1),
            (8, 2),
            (100, 25),
            (64 * KIB, 16 * KIB),
            (1024 * KIB, 256 * KIB),
            (16 * 1024 * KIB, 256 * KIB),
            (u64::MAX, 256 * KIB),
        ] {
            for offset in [0, 1 << 40] {
                let mut half = half(peer_capacity, offset);
                // Each time anew since the last ack.
                for round in 1..4 {
                    assert!(!half.is_ack_due(), "{peer_capacity} at {}", half.read());
                    half.on_read(due - 1);
                    assert!(!half.is_ack_due(), "{peer_capacity} at {}", half.read());
                    half.on_read(1);
                    assert!(half.is_ack_due(), "{peer_capacity} at {}", half.read());
                    let ack = half.poll_ack().unwrap();
                    assert_eq!((ack.offset, ack.done), (offset + round * due, false));
                }
            }
        }
    }

    #[test]
    fn the_ack_of_an_end_is_owed_on_each_connection_and_due_at_once_if_it_was_cut_short() {
        let ends: [fn(&mut RecvHalf); 3] = [
            |half| half.on_fin(),
            |half| half.on_reset(7, 100).unwrap(),
            |half| {
                half.stop(7);
                half.on_reset(7, 100).unwrap();
            },
        ];
        for (end, at_once) in ends.into_iter().zip([false, true, true]) {
            let mut half = half(1 << 20, 0);
            end(&mut half);
            for _ in 0..3 {
                assert!(half.owes_ack() && !half.is_told());
                assert_eq!(half.is_ack_due(), at_once);
                assert!(half.poll_ack().unwrap().done);
                assert!(!half.is_ack_due() && half.is_told());
                assert_eq!(half.poll_ack(), None);
                half.detach();
            }
        }
    }

    #[test]
    fn nothing_new_is_no_ack_and_a_stop_goes_out_once_on_each_connection() {
        let mut half = half(1 << 20, 0);
        assert_eq!(half.poll_ack(), None);
        half.on_read(5);
        half.stop(7);
        for _ in 0..3 {
            let stop = half.poll_stop().unwrap();
            assert_eq!((stop.code, stop.offset), (7, 5));
            assert_eq!(half.poll_stop(), None);
            half.detach();
        }
        assert!(half.poll_ack().is_some_and(|ack| ack.offset == 5 && !ack.done));
        // The peer's answer settles it.
        half.on_reset(7, 5).unwrap();
        assert_eq!(half.poll_stop(), None);
    }
}
