//! Anything at all from the peer: no panic, and every bound holds.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::hostile::{id, server};
use super::pair::Setup;
use super::peer::Peer;
use crate::id::{Epoch, PipeId, Side};
use crate::proto::send::SendHalf;
use crate::wire::{
    Ack, Decoder, Frame, Gaps, Header, HeaderKind, MAX_VARINT, Position, Positions, RecvReport,
    Reset, SendReport, Stop, TableEnd, TableHead,
};

const CLIENT: Side = Side::Client;
const SERVER: Side = Side::Server;

fn any_id() -> impl Strategy<Value = PipeId> {
    let index = prop_oneof![9 => 0u64..5, 1 => Just(PipeId::MAX_INDEX), 1 => 0u64..2000];
    (prop_oneof![Just(CLIENT), Just(SERVER)], index).prop_map(|(side, index)| id(side, index))
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..8,
        2 => 30u64..60,
        1 => 95u64..105,
        1 => Just(MAX_VARINT),
        1 => 0u64..=MAX_VARINT,
    ]
}

fn any_position() -> impl Strategy<Value = Position> {
    let recv = prop_oneof![
        Just(RecvReport::Open),
        Just(RecvReport::Done),
        any::<u32>().prop_map(|code| RecvReport::Stopped { code }),
    ];
    let send = prop_oneof![
        Just(SendReport::Open),
        (any::<u32>(), any_number()).prop_map(|(code, offset)| SendReport::Reset { code, offset }),
    ];
    (any_id(), any_number(), recv, send).prop_map(|(pipe, read, recv, send)| Position {
        pipe,
        read,
        recv,
        send,
    })
}

fn table_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any_number(), any_number())
            .prop_map(|(opened, seen)| Frame::TableHead(TableHead { opened, seen })),
        prop::collection::vec(any_number(), 0..8).prop_map(|gaps| Frame::Gaps(Gaps(gaps))),
        prop::collection::vec(any_position(), 0..8)
            .prop_map(|positions| Frame::Positions(Positions(positions))),
        any_number().prop_map(|pipes| Frame::TableEnd(TableEnd { pipes })),
        Just(Frame::Ping(1)),
    ]
}

fn pipe_frame() -> impl Strategy<Value = Frame> {
    let ack = (any_id(), any_number(), any::<bool>()).prop_map(|(pipe, offset, done)| Ack {
        pipe,
        offset,
        done,
    });
    prop_oneof![
        prop::collection::vec(ack, 0..4).prop_map(Frame::Acks),
        (any_id(), any::<u32>(), any_number())
            .prop_map(|(pipe, code, offset)| Frame::Reset(Reset { pipe, code, offset })),
        (any_id(), any::<u32>(), any_number()).prop_map(|(pipe, code, offset)| Frame::Stop(Stop {
            pipe,
            code,
            offset
        })),
    ]
}

/// What a hostile client does.
#[derive(Clone, Debug)]
enum Attack {
    Frame(Frame),
    Stream(Header),
    Table(Vec<Position>, u64),
    /// Nothing: the server's application ends what it has.
    Ended,
}

fn attack() -> impl Strategy<Value = Attack> {
    let kind = prop_oneof![
        Just(HeaderKind::Continue),
        Just(HeaderKind::Open { label: Bytes::from_static(b"x") })
    ];
    let header = (kind, 1u64..3, any_id(), any_number()).prop_map(|(kind, epoch, pipe, start)| {
        Header { kind, epoch: Epoch::from_wire(epoch), pipe, start }
    });
    prop_oneof![
        8 => pipe_frame().prop_map(Attack::Frame),
        2 => table_frame().prop_map(Attack::Frame),
        4 => header.prop_map(Attack::Stream),
        2 => (prop::collection::vec(any_position(), 0..5), 0u64..3)
            .prop_map(|(positions, seen)| Attack::Table(positions, seen)),
        1 => Just(Attack::Ended),
    ]
}

impl Peer {
    /// Takes an attack as it would a frame from the network. What was refused
    /// would end the session; here it goes on, for the next one.
    fn suffer(&mut self, attack: Attack) {
        let outcome = match attack {
            Attack::Frame(frame) => {
                let mut bytes = BytesMut::new();
                frame.encode(&mut bytes);
                let mut decoder = Decoder::default();
                decoder.push(&bytes);
                let frame = decoder.next_frame().unwrap().unwrap();
                self.on_frame(frame).map(|_| ())
            }
            Attack::Stream(header) => self.on_stream(&header, Epoch::FIRST),
            Attack::Table(positions, seen) => {
                self.fence();
                self.measure();
                let mut table = self.core.expect_table();
                let pipes = positions.len() as u64;
                [
                    Frame::TableHead(TableHead { opened: 0, seen }),
                    Frame::Positions(Positions(positions)),
                    Frame::TableEnd(TableEnd { pipes }),
                ]
                .into_iter()
                .try_for_each(|frame| table.on_frame(frame).map(|_| ()))
                .and_then(|()| self.apply(&table).map(|_| ()))
            }
            Attack::Ended => {
                for record in self.pipes.values_mut() {
                    record.core.send.finish();
                    record.core.recv.stop(1);
                }
                Ok(())
            }
        };
        // Whatever came of it, the answers can be made.
        drop(outcome);
        for pipe in self.ids() {
            let mut out = BytesMut::new();
            let record = self.pipes.get_mut(&pipe).unwrap();
            record.pump(SERVER, 16, &mut out);
            assert!(record.core.send.acked() <= record.core.send.written());
            assert!(record.core.send.kept() <= 64 * 1024);
        }
        self.flush(true);
        assert!(self.core.early.len() as u64 <= self.core.max_peer_pipes());
        assert!(self.core.seen.gaps().count() as u64 <= self.core.max_peer_pipes());
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn no_sequence_of_frames_headers_and_tables_panics_a_session(
        attacks in prop::collection::vec(attack(), 1..60)
    ) {
        let mut server = server().0;
        server.open(Bytes::new()).unwrap();
        attacks.into_iter().for_each(|attack| server.suffer(attack));
    }

    #[test]
    fn no_sequence_of_frames_panics_a_table_or_makes_it_grow_beyond_its_bounds(
        frames in prop::collection::vec(table_frame(), 1..60)
    ) {
        let setup = Setup { max_pipes: [3; 2], ..Setup::default() };
        let mut server = Peer::new(setup.core(SERVER));
        server.open(Bytes::new()).unwrap();
        let mut table = server.core.expect_table();
        for frame in frames {
            match table.on_frame(frame) {
                Ok(complete) if !complete => {}
                // What is refused ends the session.
                Ok(_) | Err(_) => break,
            }
            // Three of the client's, and what we have opened.
            prop_assert!(table.positions().count() <= 4);
            for pipe in [id(CLIENT, 0), id(SERVER, 0), id(SERVER, PipeId::MAX_INDEX)] {
                table.view(pipe);
            }
        }
        let _ = server.apply(&table);
    }

    #[test]
    fn a_half_takes_or_refuses_any_ack_and_stays_within_its_bounds(
        first in prop_oneof![Just(0), Just(MAX_VARINT - 200)],
        acks in prop::collection::vec((any_number(), any::<bool>(), any::<bool>()), 1..20),
        finish in any::<bool>(),
    ) {
        let mut send = SendHalf::starting_at(id(CLIENT, 0), 1000, first);
        send.write(Bytes::from(vec![0; 100]));
        if finish {
            send.finish();
        }
        for (offset, done, stop) in acks {
            let before = (send.acked(), send.kept(), send.end());
            let offset = first.saturating_add(offset).min(MAX_VARINT);
            let taken =
                if stop { send.on_stop(1, offset) } else { send.on_ack(offset, done) };
            if taken.is_err() {
                prop_assert_eq!((send.acked(), send.kept(), send.end()), before);
            }
            prop_assert!(before.0 <= send.acked() && send.acked() <= first + 100);
            prop_assert!(send.sent() <= send.written());
        }
    }
}
