//! The sending half of a pipe.

use bytes::{Buf, Bytes};

use super::replay::ReplayBuffer;
use crate::id::PipeId;
use crate::misbehaved::PeerMisbehaved;
use crate::wire::{MAX_VARINT, RecvReport, Reset, SendReport};

/// How a direction ended for its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// FIN was written; nothing may follow.
    Finished,
    /// The writer gave up.
    Reset,
    /// The reader gave up, with its code.
    Stopped { code: u32 },
}

/// ```text
///           finish                 ack(done) at the end
///   Open ───────────▶ Finishing ─────────────────────────▶ Done
///    │                    │                                 ▲
///    │ reset, stop        │ reset, stop                     │
///    └───────────▶ Resetting ◀┘ ────────── ack(done) ───────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// FIN comes after the last byte; kept until acknowledged.
    Finishing,
    /// A reset is owed to the peer until it acknowledges it. `announced` on the
    /// attached connection, so that it is sent once on each.
    Resetting {
        code: u32,
        announced: bool,
    },
    /// The peer knows the end. Nothing is owed.
    Done,
}

/// Bytes written, what of them the peer has read, and how the direction ends.
#[derive(Clone, Debug)]
pub(crate) struct SendHalf {
    pipe: PipeId,
    /// Bytes not yet acknowledged; empty once reset.
    replay: ReplayBuffer,
    /// The most bytes that `replay` may keep.
    capacity: u64,
    /// `acked <= sent <= written`: up to here the peer's application has read.
    acked: u64,
    /// Up to here bytes were handed to the stream of the attached connection.
    sent: u64,
    /// The highest `sent` there ever was: what is sent below it is a replay.
    sent_max: u64,
    state: State,
    end: Option<WriteEnd>,
}

impl SendHalf {
    /// A half that keeps at most `capacity` bytes for replay.
    pub(crate) fn new(pipe: PipeId, capacity: u64) -> Self {
        Self::starting_at(pipe, capacity, 0)
    }

    pub(crate) fn starting_at(pipe: PipeId, capacity: u64, offset: u64) -> Self {
        Self {
            pipe,
            replay: ReplayBuffer::starting_at(offset),
            capacity,
            acked: offset,
            sent: offset,
            sent_max: offset,
            state: State::Open,
            end: None,
        }
    }

    /// Offset after the last byte written.
    pub(crate) fn written(&self) -> u64 {
        self.replay.end()
    }

    /// Up to here the peer's application has read.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    /// Up to here bytes were handed to the attached stream.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes kept for replay.
    pub(crate) fn kept(&self) -> u64 {
        self.replay.len()
    }

    /// How the direction ended; `None` while it can be written to.
    pub(crate) fn end(&self) -> Option<WriteEnd> {
        self.end
    }

    /// Whether the peer knows the end, so that nothing is owed any more.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether everything written, and the end if there is one, was taken note
    /// of by the peer's application.
    pub(crate) fn is_settled(&self) -> bool {
        match self.state {
            State::Open => self.acked == self.written(),
            State::Finishing | State::Resetting { .. } => false,
            State::Done => true,
        }
    }

    /// How many more bytes may be written now.
    pub(crate) fn room(&self) -> u64 {
        if self.end.is_some() {
            return 0;
        }
        let capacity = self.capacity.saturating_sub(self.kept());
        capacity.min(MAX_VARINT - self.written().min(MAX_VARINT))
    }

    /// Adds bytes; the caller keeps to [`room`](Self::room).
    pub(crate) fn write(&mut self, bytes: impl Buf) {
        debug_assert!(bytes.remaining() as u64 <= self.room(), "the writer keeps to the room");
        self.replay.push(bytes);
    }

    /// Ends the direction after what was written. No effect after an end.
    pub(crate) fn finish(&mut self) {
        if self.end.is_none() {
            self.end = Some(WriteEnd::Finished);
            self.state = State::Finishing;
        }
    }

    /// Gives the direction up. No effect once it was reset, stopped, or its
    /// FIN acknowledged.
    pub(crate) fn reset(&mut self, code: u32) {
        match self.state {
            State::Open | State::Finishing => self.give_up(WriteEnd::Reset, code),
            State::Resetting { .. } | State::Done => {}
        }
    }

    /// The next bytes for the attached stream, at most `max`; empty if there
    /// are none.
    pub(crate) fn unsent(&mut self, max: usize) -> Bytes {
        self.chunk_at(self.sent, max)
    }

    /// The stream took so many bytes. Returns how many of them were a replay.
    pub(crate) fn on_sent(&mut self, bytes: u64) -> u64 {
        let replayed = self.sent_max.saturating_sub(self.sent).min(bytes);
        self.sent = (self.sent + bytes).min(self.written());
        self.sent_max = self.sent_max.max(self.sent);
        replayed
    }

    /// Whether all bytes were handed to the stream.
    pub(crate) fn is_caught_up(&self) -> bool {
        match self.state {
            State::Open | State::Finishing => self.sent == self.written(),
            State::Resetting { .. } | State::Done => true,
        }
    }

    /// Whether there is anything that only a stream can carry: bytes, now or
    /// later, or FIN.
    pub(crate) fn wants_stream(&self) -> bool {
        matches!(self.state, State::Open | State::Finishing)
    }

    /// Whether there is anything by now that only a stream can carry, and that the
    /// peer has not acknowledged.
    pub(crate) fn owes_stream(&self) -> bool {
        self.wants_fin() || self.wants_stream() && self.kept() > 0
    }

    /// How many bytes will be handed to a stream for another time.
    pub(crate) fn replay_due(&self) -> u64 {
        self.sent_max.saturating_sub(self.sent)
    }

    /// Whether the stream is to end with FIN once it has all bytes.
    pub(crate) fn wants_fin(&self) -> bool {
        self.state == State::Finishing
    }

    /// The reset that is owed and was not sent on this connection yet.
    pub(crate) fn poll_reset(&mut self) -> Option<Reset> {
        let offset = self.written();
        match &mut self.state {
            State::Resetting { code, announced } if !*announced => {
                *announced = true;
                Some(Reset { pipe: self.pipe, code: *code, offset })
            }
            _ => None,
        }
    }

    /// What the table of a resume says of this half.
    pub(crate) fn report(&mut self) -> SendReport {
        let offset = self.written();
        match &mut self.state {
            State::Resetting { code, announced } => {
                *announced = true;
                SendReport::Reset { code: *code, offset }
            }
            State::Open | State::Finishing | State::Done => SendReport::Open,
        }
    }

    /// The connection is gone: whatever was handed to it may be lost.
    pub(crate) fn detach(&mut self) {
        self.sent = self.replay.start();
        if let State::Resetting { announced, .. } = &mut self.state {
            *announced = false;
        }
    }

    /// The peer's application has read up to `offset`, and has taken note of
    /// the end if `done`.
    pub(crate) fn on_ack(&mut self, offset: u64, done: bool) -> Result<(), PeerMisbehaved> {
        self.check(offset)?;
        match (self.state, done) {
            (State::Open, true) => return Err(PeerMisbehaved::PipeForgotten { pipe: self.pipe }),
            (State::Finishing, true) if offset < self.written() => {
                return Err(PeerMisbehaved::PipeForgotten { pipe: self.pipe });
            }
            (_, true) => self.state = State::Done,
            (_, false) => {}
        }
        self.acked = offset;
        self.replay.trim(offset);
        self.sent = self.sent.max(self.replay.start());
        Ok(())
    }

    /// The peer's application wants no more. It had read up to `offset`.
    pub(crate) fn on_stop(&mut self, code: u32, offset: u64) -> Result<(), PeerMisbehaved> {
        self.on_ack(offset, false)?;
        match self.state {
            // It has read every byte and only did not wait for the FIN: for
            // the writer that is success.
            State::Finishing if offset == self.written() => {
                self.give_up(WriteEnd::Finished, code);
            }
            State::Open | State::Finishing => self.give_up(WriteEnd::Stopped { code }, code),
            // The reset that the peer now waits for is on its way already, or
            // was acknowledged.
            State::Resetting { .. } | State::Done => {}
        }
        Ok(())
    }

    /// The peer's table in a resume: replay starts where the peer's
    /// application stands.
    pub(crate) fn on_resume(&mut self, read: u64, recv: RecvReport) -> Result<(), PeerMisbehaved> {
        match recv {
            RecvReport::Open => self.on_ack(read, false)?,
            RecvReport::Done => self.on_ack(read, true)?,
            RecvReport::Stopped { code } => self.on_stop(code, read)?,
        }
        self.sent = self.replay.start();
        Ok(())
    }

    /// After a resume: the stream of the new connection was begun before, and has
    /// come to `at`; what is still to be sent goes on from there. Returns how many
    /// bytes have to come first that are not kept any more.
    pub(crate) fn carry_on(&mut self, at: u64) -> u64 {
        if !self.wants_stream() {
            return 0;
        }
        let start = self.replay.start();
        self.sent = at.clamp(start, self.written());
        self.sent_max = self.sent_max.max(self.sent);
        start.saturating_sub(at)
    }

    /// Bytes from `offset` on, at most `max`; empty if there are none, or if the
    /// direction was given up.
    pub(crate) fn chunk_at(&mut self, offset: u64, max: usize) -> Bytes {
        if self.wants_stream() { self.replay.chunk_at(offset, max) } else { Bytes::new() }
    }

    /// How much of what lies before `offset` was handed to any stream before.
    pub(crate) fn sent_before(&self, offset: u64) -> u64 {
        self.sent_max.min(offset)
    }

    /// The peer has retired the pipe: it knows the end of this direction.
    pub(crate) fn on_gone(&mut self) -> Result<(), PeerMisbehaved> {
        match self.state {
            State::Open => Err(PeerMisbehaved::PipeForgotten { pipe: self.pipe }),
            State::Finishing => self.on_ack(self.written(), true),
            State::Resetting { .. } | State::Done => {
                self.state = State::Done;
                Ok(())
            }
        }
    }

    /// Lets go of all bytes: the session has ended.
    pub(crate) fn clear(&mut self) {
        self.replay.clear();
    }

    fn give_up(&mut self, end: WriteEnd, code: u32) {
        self.end = Some(end);
        self.state = State::Resetting { code, announced: false };
        self.replay.clear();
        self.sent = self.written();
        self.sent_max = self.sent;
    }

    /// An acknowledged offset neither moves back nor beyond what was written.
    fn check(&self, offset: u64) -> Result<(), PeerMisbehaved> {
        let pipe = self.pipe;
        if offset < self.acked {
            return Err(PeerMisbehaved::OffsetTrimmed { pipe, asked: offset, acked: self.acked });
        }
        if offset > self.written() {
            let written = self.written();
            return Err(PeerMisbehaved::OffsetFromTheFuture { pipe, asked: offset, written });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Side;

    const FIRST: u64 = 1 << 40;

    /// A half that wrote 100 bytes and handed 60 of them to its stream.
    fn half() -> SendHalf {
        let mut half = SendHalf::starting_at(PipeId::new(Side::Client, 0).unwrap(), 150, FIRST);
        half.write(Bytes::from(vec![1; 100]));
        assert_eq!(half.on_sent(60), 0);
        half
    }

    #[test]
    fn an_open_direction_is_settled_when_all_was_read_and_an_ended_one_when_its_end_is_known() {
        let mut open = half();
        assert!(!open.is_settled());
        open.on_ack(FIRST + 99, false).unwrap();
        assert!(!open.is_settled());
        open.on_ack(FIRST + 100, false).unwrap();
        assert!(open.is_settled());
        for end in [SendHalf::finish, |half: &mut SendHalf| half.reset(1)] {
            let mut ended = open.clone();
            end(&mut ended);
            assert!(!ended.is_settled(), "the peer has not heard of the end");
            ended.on_ack(FIRST + 100, true).unwrap();
            assert!(ended.is_settled());
        }
    }

    #[test]
    fn what_was_sent_before_a_drop_and_not_acknowledged_is_due_for_a_replay() {
        let mut half = half();
        assert_eq!(half.replay_due(), 0);
        half.on_ack(FIRST + 20, false).unwrap();
        half.detach();
        // A drop in the middle of a replay makes it no longer.
        for _ in 0..2 {
            assert_eq!(half.replay_due(), 40);
            assert_eq!((half.on_sent(10), half.replay_due()), (10, 30));
            half.detach();
        }
        // The last piece of the replay goes out together with new bytes.
        assert_eq!(half.on_sent(80), 40);
        assert_eq!((half.replay_due(), half.sent()), (0, FIRST + 100));
        assert!(half.is_caught_up());
    }

    /// P-35.
    #[test]
    fn a_stream_ahead_of_the_answer_is_gone_on_with_from_where_it_has_come_to() {
        let read = |half: &SendHalf, read: u64| {
            let mut half = half.clone();
            half.detach();
            half.on_resume(FIRST + read, RecvReport::Open).unwrap();
            half
        };
        let half = half();
        for (stream_at, peer_at, sent, filler, replay_due) in [
            (0, 0, 0, 0, 60),
            (30, 0, 30, 0, 30),
            (30, 30, 30, 0, 30),
            // The reader has more than the stream has carried, and we have it no more.
            (30, 50, 50, 20, 10),
            (100, 0, 100, 0, 0),
        ] {
            let mut half = read(&half, peer_at);
            assert_eq!(half.carry_on(FIRST + stream_at), filler);
            assert_eq!((half.sent(), half.replay_due()), (FIRST + sent, replay_due));
            assert_eq!(half.unsent(7).len() as u64, 7.min(100 - sent));
        }
        let mut given_up = half.clone();
        given_up.reset(1);
        assert_eq!(given_up.carry_on(FIRST), 0, "of a direction that was given up nothing follows");
        assert!(given_up.chunk_at(FIRST, 100).is_empty());
    }

    #[test]
    fn a_writer_has_room_for_its_capacity_less_what_is_kept_and_none_after_an_end() {
        let mut half = half();
        assert_eq!((half.kept(), half.room()), (100, 50));
        half.on_ack(FIRST + 30, false).unwrap();
        assert_eq!((half.kept(), half.room()), (70, 80));
        half.finish();
        assert_eq!((half.kept(), half.room()), (70, 0));
    }

    #[test]
    fn a_session_that_has_ended_keeps_no_bytes() {
        let mut half = half();
        half.clear();
        assert_eq!((half.kept(), half.written()), (0, FIRST + 100));
    }
}
