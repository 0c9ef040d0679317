//! Frames and headers from the fuzzer's choices. Half of them name pipes that
//! there are, and offsets near those that matter: what is wrong by far is
//! refused at once.

use bytes::Bytes;

use crate::code::CloseCode;
use crate::fuzzing::Input;
use crate::id::{Epoch, PipeId, Side};
use crate::proto::tests::peer::Peer;
use crate::wire::{
    Ack, Close, Frame, Gaps, Header, HeaderKind, Position, Positions, RecvReport, Reset,
    SendReport, Stop, TableEnd, TableHead,
};

/// Makes what a peer might send to `us`.
pub(super) struct Forge<'a, 'b> {
    pub(super) us: &'a Peer,
    pub(super) input: &'a mut Input<'b>,
}

impl Forge<'_, '_> {
    /// A frame about pipes.
    pub(super) fn pipe_frame(&mut self) -> Frame {
        let choice = self.input.byte();
        if choice & 3 < 2 {
            let entries = 1 + choice as usize / 4 % 4;
            return Frame::Acks((0..entries).map(|_| self.ack()).collect());
        }
        let pipe = self.pipe();
        let code = u32::from(self.input.byte());
        if choice & 3 == 2 {
            Frame::Reset(Reset { pipe, code, offset: self.recv_offset(pipe) })
        } else {
            Frame::Stop(Stop { pipe, code, offset: self.send_offset(pipe) })
        }
    }

    /// A frame of any other kind: few of them have a place.
    pub(super) fn other_frame(&mut self) -> Frame {
        let number = self.input.number();
        match self.input.byte() % 5 {
            0 => Frame::Ping(number),
            1 => Frame::Pong(number),
            2 => Frame::Unknown(0x100 + number % 0x100),
            3 => {
                let code = CloseCode::from_wire(number);
                Frame::Close(Close { code, reason: Bytes::new() })
            }
            _ => self.table_frame(),
        }
    }

    pub(super) fn table_frame(&mut self) -> Frame {
        let choice = self.input.byte();
        let entries = choice as usize / 8 % 8;
        match choice % 8 {
            0 | 1 => Frame::TableHead(self.table_head()),
            2 => Frame::Gaps(Gaps((0..entries).map(|_| self.input.number()).collect())),
            3..=5 => Frame::Positions(Positions((0..entries).map(|_| self.position()).collect())),
            6 => Frame::TableEnd(TableEnd { pipes: entries as u64 }),
            _ => self.other_frame(),
        }
    }

    /// A whole table, of the right shape.
    pub(super) fn table(&mut self) -> Vec<Frame> {
        let choice = usize::from(self.input.byte());
        let head = self.table_head();
        // Each of our pipes, but for those that are left out.
        let live = self.us.ids().into_iter().enumerate();
        let kept = live.filter(|(at, _)| choice >> (at % 8) & 1 == 0);
        let positions: Vec<Position> = kept.map(|(_, pipe)| self.position_of(pipe)).collect();
        let pipes = positions.len() as u64;
        vec![
            Frame::TableHead(head),
            Frame::Positions(Positions(positions)),
            Frame::TableEnd(TableEnd { pipes }),
        ]
    }

    /// The header of a new stream, mostly for the connection of `epoch`.
    pub(super) fn header(&mut self, epoch: Option<Epoch>) -> Header {
        let pipe = self.pipe();
        self.header_of(pipe, epoch)
    }

    pub(super) fn header_of(&mut self, pipe: PipeId, epoch: Option<Epoch>) -> Header {
        let choice = self.input.byte();
        let seen = self.us.pipes.contains_key(&pipe);
        let kind = if seen != (choice & 1 == 1) {
            HeaderKind::Continue
        } else {
            HeaderKind::Open { label: Bytes::from_static(b"theirs") }
        };
        let epoch = match (choice >> 4, epoch) {
            (0..15, Some(epoch)) => epoch,
            _ => Epoch::from_wire(self.input.number()),
        };
        Header { kind, epoch, pipe, start: self.recv_offset(pipe) }
    }

    /// A pipe that there is, or might be next, or any.
    fn pipe(&mut self) -> PipeId {
        let choice = self.input.byte();
        let theirs = self.us.core.side().peer();
        match choice >> 6 {
            0 | 1 => {
                let ids = self.us.ids();
                let pick = usize::from(choice).checked_rem(ids.len());
                pick.and_then(|pick| ids.get(pick).copied())
                    .unwrap_or(id(theirs, self.us.core.seen.next()))
            }
            2 => id(theirs, self.us.core.seen.next() + u64::from(choice & 7)),
            _ => PipeId::from_wire(self.input.number()),
        }
    }

    fn ack(&mut self) -> Ack {
        let pipe = self.pipe();
        Ack { pipe, offset: self.send_offset(pipe), done: self.input.flag() }
    }

    fn position(&mut self) -> Position {
        let pipe = self.pipe();
        self.position_of(pipe)
    }

    fn position_of(&mut self, pipe: PipeId) -> Position {
        let choice = self.input.byte();
        let code = u32::from(choice >> 4);
        let recv = match choice & 3 {
            0 | 1 => RecvReport::Open,
            2 => RecvReport::Done,
            _ => RecvReport::Stopped { code },
        };
        let send = match choice >> 2 & 3 {
            0..3 => SendReport::Open,
            _ => SendReport::Reset { code, offset: self.recv_offset(pipe) },
        };
        Position { pipe, read: self.send_offset(pipe), recv, send }
    }

    fn table_head(&mut self) -> TableHead {
        let choice = self.input.byte();
        let core = &self.us.core;
        let (opened, seen) = (core.seen.next(), core.opened);
        match choice >> 6 {
            0 | 1 => TableHead { opened: opened + u64::from(choice & 7), seen },
            2 => TableHead { opened, seen: seen.saturating_sub(u64::from(choice & 7)) },
            _ => TableHead { opened: self.input.number(), seen: self.input.number() },
        }
    }

    /// An offset in the direction that we send.
    fn send_offset(&mut self, pipe: PipeId) -> u64 {
        let send = self.us.pipes.get(&pipe).map(|record| &record.core.send);
        let (low, high) = send.map_or((0, 0), |send| (send.acked(), send.written()));
        self.offset(low, high)
    }

    /// An offset in the direction that we receive.
    fn recv_offset(&mut self, pipe: PipeId) -> u64 {
        let read = self.us.pipes.get(&pipe).map_or(0, |record| record.core.recv.read());
        self.offset(read, read)
    }

    fn offset(&mut self, low: u64, high: u64) -> u64 {
        let choice = self.input.byte();
        let by = u64::from(choice & 0x3f);
        match choice >> 6 {
            0 => (low + by).min(high),
            1 => high - by.min(high - low),
            2 => (high + by).saturating_sub(16),
            _ => self.input.number(),
        }
    }
}

fn id(opener: Side, index: u64) -> PipeId {
    PipeId::new(opener, index.min(PipeId::MAX_INDEX)).expect("not above the largest")
}
