//! A peer that breaks the protocol, by a fault or on purpose: each way with its
//! error, and the bounds that hold whatever it sends.

use bytes::Bytes;

use super::exchange::Reading;
use super::laws::Laws;
use super::pair::{Got, LinkId, Pair, Setup};
use super::peer::Peer;
use crate::id::{Epoch, PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::proto::recv::RecvHalf;
use crate::proto::{PeerTable, ReadEnd};
use crate::wire::{
    Ack, Frame, Gaps, Header, HeaderKind, POSITION_ENTRIES_MAX, Position, Positions, RecvReport,
    Reset, SendReport, Stop, TableEnd, TableHead,
};

const CLIENT: Side = Side::Client;
const SERVER: Side = Side::Server;
const SIDES: [Side; 2] = [CLIENT, SERVER];

pub(super) fn id(opener: Side, index: u64) -> PipeId {
    PipeId::new(opener, index).unwrap()
}

/// A server with a pipe of the client's, which wrote 100 bytes, 50 of which the
/// client has acknowledged; and read 40 of the client's.
pub(super) fn server() -> (Peer, PipeId) {
    let mut pair = Pair::new(Setup { max_pipes: [4; 2], ..Setup::default() });
    let pipe = pair.open(CLIENT).unwrap();
    pair.write(CLIENT, pipe, 40);
    pair.settle(Reading::Yes);
    pair.write(SERVER, pipe, 50);
    pair.settle(Reading::Yes);
    pair.write(SERVER, pipe, 50);
    pair.settle(Reading::No);
    let server = pair.peer(SERVER).clone();
    let half = &server.pipes[&pipe].core;
    assert_eq!((half.send.acked(), half.send.written(), half.recv.read()), (50, 100, 40));
    (server, pipe)
}

fn position(pipe: PipeId, read: u64) -> Position {
    Position { pipe, read, recv: RecvReport::Open, send: SendReport::Open }
}

/// A client's table, as the server takes it in.
fn table(server: &Peer, frames: Vec<Frame>) -> Result<PeerTable, PeerMisbehaved> {
    let mut table = server.core.expect_table();
    for frame in frames {
        if table.on_frame(frame)? {
            return Ok(table);
        }
    }
    panic!("the table is complete");
}

/// What a server makes of a client's table that is well-formed.
fn resume(
    server: &mut Peer,
    opened: u64,
    positions: Vec<Position>,
) -> Result<Vec<Frame>, PeerMisbehaved> {
    server.fence();
    server.measure();
    let pipes = positions.len() as u64;
    let frames = vec![
        Frame::TableHead(TableHead { opened, seen: 0 }),
        Frame::Positions(Positions(positions)),
        Frame::TableEnd(TableEnd { pipes }),
    ];
    let table = table(server, frames)?;
    server.apply(&table)
}

#[test]
fn a_sequence_number_from_the_future_is_refused_naming_both_numbers() {
    let (server, pipe) = server();
    let expected = PeerMisbehaved::OffsetFromTheFuture { pipe, asked: 101, written: 100 };
    let text = expected.to_string();
    assert!(text.contains("101") && text.contains("100") && text.contains("c0"), "{text}");
    let ack = Frame::Acks(vec![Ack { pipe, offset: 101, done: false }]);
    assert_eq!(server.clone().on_frame(ack).unwrap_err(), expected);
    let stop = Frame::Stop(Stop { pipe, code: 0, offset: 101 });
    assert_eq!(server.clone().on_frame(stop).unwrap_err(), expected);
    for recv in [RecvReport::Open, RecvReport::Stopped { code: 1 }] {
        let position = Position { recv, ..position(pipe, 101) };
        assert_eq!(resume(&mut server.clone(), 1, vec![position]).unwrap_err(), expected);
    }
    assert!(resume(&mut server.clone(), 1, vec![position(pipe, 100)]).is_ok());
}

#[test]
fn a_sequence_number_that_was_trimmed_is_refused_naming_both_numbers() {
    let (server, pipe) = server();
    let expected = PeerMisbehaved::OffsetTrimmed { pipe, asked: 49, acked: 50 };
    let text = expected.to_string();
    assert!(text.contains("49") && text.contains("50") && text.contains("c0"), "{text}");
    let ack = Frame::Acks(vec![Ack { pipe, offset: 49, done: false }]);
    assert_eq!(server.clone().on_frame(ack).unwrap_err(), expected);
    let stop = Frame::Stop(Stop { pipe, code: 0, offset: 49 });
    assert_eq!(server.clone().on_frame(stop).unwrap_err(), expected);
    assert_eq!(resume(&mut server.clone(), 1, vec![position(pipe, 49)]).unwrap_err(), expected);
    assert!(resume(&mut server.clone(), 1, vec![position(pipe, 50)]).is_ok());
}

#[test]
fn an_end_that_nobody_wrote_is_not_taken_for_one() {
    let (server, pipe) = server();
    let forgotten = PeerMisbehaved::PipeForgotten { pipe };
    let done = |offset| Frame::Acks(vec![Ack { pipe, offset, done: true }]);
    // The direction is open.
    assert_eq!(server.clone().on_frame(done(100)).unwrap_err(), forgotten);
    let report = Position { recv: RecvReport::Done, ..position(pipe, 100) };
    assert_eq!(resume(&mut server.clone(), 1, vec![report]).unwrap_err(), forgotten);
    // The client has opened it, and says no more about it.
    assert_eq!(resume(&mut server.clone(), 1, vec![]).unwrap_err(), forgotten);
    // It has an end, and bytes before it that were not read.
    let mut finished = server.clone();
    finished.pipes.get_mut(&pipe).unwrap().core.send.finish();
    assert_eq!(finished.clone().on_frame(done(99)).unwrap_err(), forgotten);
    assert!(finished.clone().on_frame(done(100)).is_ok());
    // Our direction is done, and theirs still open.
    assert_eq!(resume(&mut finished, 1, vec![]).unwrap_err(), forgotten);
}

#[test]
fn a_pipe_that_the_peer_had_seen_cannot_become_unseen() {
    let mut pair = Pair::new(Setup::default());
    let pipe = pair.open(SERVER).unwrap();
    pair.write(SERVER, pipe, 10);
    let unseen = pair.peer(SERVER).clone();
    assert_eq!(resume(&mut unseen.clone(), 0, vec![]).err(), None);
    // By a table, an ack, a byte, an end: each of them shows it.
    let mut by_table = unseen.clone();
    let frames = vec![
        Frame::TableHead(TableHead { opened: 0, seen: 1 }),
        Frame::Positions(Positions(vec![position(pipe, 0)])),
        Frame::TableEnd(TableEnd { pipes: 1 }),
    ];
    let seen = table(&by_table, frames).unwrap();
    by_table.apply(&seen).unwrap();
    let mut by_ack = unseen.clone();
    by_ack.on_frame(Frame::Acks(vec![Ack { pipe, offset: 1, done: false }])).unwrap();
    let mut by_byte = unseen.clone();
    by_byte.pipes.get_mut(&pipe).unwrap().core.recv.on_read(1);
    let mut by_fin = unseen.clone();
    by_fin.pipes.get_mut(&pipe).unwrap().core.recv.on_fin();
    let mut by_reset = unseen.clone();
    by_reset.on_frame(Frame::Reset(Reset { pipe, code: 0, offset: 0 })).unwrap();
    for server in [by_table, by_ack, by_byte, by_fin, by_reset] {
        let refused = resume(&mut server.clone(), 0, vec![]).err();
        assert_eq!(refused, Some(PeerMisbehaved::PipeForgotten { pipe }), "{server:?}");
    }
}

#[test]
fn a_peer_cannot_have_opened_fewer_pipes_than_were_seen() {
    let (server, pipe) = server();
    let misplaced = PeerMisbehaved::UnexpectedFrame { frame: "TABLE_HEAD" };
    assert_eq!(resume(&mut server.clone(), 0, vec![position(pipe, 50)]).unwrap_err(), misplaced);
    assert!(resume(&mut server.clone(), 1, vec![position(pipe, 50)]).is_ok());
}

#[test]
fn the_lower_limit_of_pipes_counts_for_both_sides() {
    for max_pipes in [[2, 5], [5, 2]] {
        let mut pair = Pair::new(Setup { max_pipes, ..Setup::default() });
        for side in SIDES {
            assert!(pair.open(side).is_ok() && pair.open(side).is_ok());
            assert_eq!(pair.open(side).unwrap_err().allowed, 2);
            assert_eq!(pair.peer(side).core.max_peer_pipes(), 2);
        }
        pair.settle(Reading::Yes);
        pair.heal_and_finish();
    }
}

#[test]
fn an_end_below_what_was_read_is_refused() {
    let (server, pipe) = server();
    let expected = PeerMisbehaved::EndMovedBack { pipe, end: 39, read: 40 };
    let reset = Frame::Reset(Reset { pipe, code: 0, offset: 39 });
    assert_eq!(server.clone().on_frame(reset).unwrap_err(), expected);
    let send = SendReport::Reset { code: 0, offset: 39 };
    let report = Position { send, ..position(pipe, 50) };
    assert_eq!(resume(&mut server.clone(), 1, vec![report]).unwrap_err(), expected);
}

#[test]
fn a_stream_that_begins_before_what_was_read_gives_only_what_is_new() {
    // Another implementation may begin where it likes, below what it was told.
    for start in [0, 1, 99, 100] {
        let mut pair = Pair::new(Setup::default());
        let pipe = pair.open(CLIENT).unwrap();
        pair.write(CLIENT, pipe, 100);
        pair.settle(Reading::Yes);
        pair.write(CLIENT, pipe, 50);
        pair.resume();
        let link = pair.attached(CLIENT).unwrap();
        let epoch = pair.peer(CLIENT).core.epoch();
        let header = Header { kind: HeaderKind::Continue, epoch, pipe, start };
        let bytes = Laws::bytes(pipe, CLIENT, start, 150 - start as usize);
        pair.inject(link, CLIENT, pipe, &[&header.encode()[..], &bytes].concat());
        // In pieces, so that the skip goes over several.
        while pair.deliver_stream(link, SERVER, pipe, 30) {
            pair.read_all(SERVER, pipe);
        }
        assert_eq!(pair.pipe(SERVER, pipe).recv.read(), 150);
        assert_eq!(pair.laws.tally.skipped, 100 - start);
    }
}

#[test]
fn a_stream_that_begins_beyond_what_was_read_is_a_gap() {
    let pipe = id(SERVER, 0);
    let recv = RecvHalf::starting_at(pipe, 1000, 100);
    assert_eq!(recv.on_stream(100), Ok(0));
    let gap = PeerMisbehaved::Gap { pipe, start: 101, read: 100 };
    assert_eq!(recv.on_stream(101), Err(gap.clone()));
    assert!(gap.to_string().contains("101") && gap.to_string().contains("100"));
    // Also at the very beginning.
    let mut server = server().0;
    let kind = HeaderKind::Open { label: Bytes::new() };
    let header = Header { kind, epoch: Epoch::FIRST, pipe: id(CLIENT, 1), start: 1 };
    let gap = PeerMisbehaved::Gap { pipe: id(CLIENT, 1), start: 1, read: 0 };
    assert_eq!(server.on_stream(&header, Epoch::FIRST), Err(gap));
}

#[test]
fn a_pipe_has_one_stream_of_the_peers_on_one_connection_and_only_its_opener_announces_it() {
    let (mut server, pipe) = server();
    let ours = server.open(Bytes::new()).unwrap();
    let header = |pipe, kind| Header { kind, epoch: Epoch::FIRST, pipe, start: 0 };
    let open = || HeaderKind::Open { label: Bytes::new() };
    for (pipe, kind, expected) in [
        (pipe, HeaderKind::Continue, PeerMisbehaved::DuplicateStream { pipe }),
        (pipe, open(), PeerMisbehaved::DuplicateStream { pipe }),
        (ours, open(), PeerMisbehaved::NoSuchPipe { pipe: ours }),
        (id(SERVER, 1), HeaderKind::Continue, PeerMisbehaved::NoSuchPipe { pipe: id(SERVER, 1) }),
        (id(CLIENT, 5), HeaderKind::Continue, PeerMisbehaved::NoSuchPipe { pipe: id(CLIENT, 5) }),
    ] {
        let got = server.on_stream(&header(pipe, kind), Epoch::FIRST);
        assert_eq!(got, Err(expected));
    }
    let mut again = || server.on_stream(&header(ours, HeaderKind::Continue), Epoch::FIRST);
    assert_eq!(again(), Ok(()));
    assert_eq!(again(), Err(PeerMisbehaved::DuplicateStream { pipe: ours }));
}

#[test]
fn frames_about_pipes_that_cannot_be_known_are_refused() {
    let (mut server, _) = server();
    for pipe in [id(SERVER, 0), id(SERVER, PipeId::MAX_INDEX)] {
        for frame in [
            Frame::Acks(vec![Ack { pipe, offset: 0, done: false }]),
            Frame::Reset(Reset { pipe, code: 0, offset: 0 }),
            Frame::Stop(Stop { pipe, code: 0, offset: 0 }),
        ] {
            assert_eq!(server.on_frame(frame), Err(PeerMisbehaved::NoSuchPipe { pipe }));
        }
    }
    // Nothing was ever written to a pipe whose stream has not come.
    let pipe = id(CLIENT, 1);
    let ack = Frame::Acks(vec![Ack { pipe, offset: 0, done: false }]);
    assert_eq!(server.on_frame(ack), Err(PeerMisbehaved::NoSuchPipe { pipe }));
    let unopened = vec![position(id(CLIENT, 0), 50), position(id(SERVER, 0), 0)];
    let refused = resume(&mut server, 1, unopened);
    assert_eq!(refused, Err(PeerMisbehaved::NoSuchPipe { pipe: id(SERVER, 0) }));
}

#[test]
fn ends_that_come_before_their_stream_are_bounded() {
    let setup = Setup { max_pipes: [3; 2], ..Setup::default() };
    let mut server = Peer::new(setup.core(SERVER));
    let stop = |index| Frame::Stop(Stop { pipe: id(CLIENT, index), code: 0, offset: 0 });
    for index in [5, 9, PipeId::MAX_INDEX] {
        assert_eq!(server.on_frame(stop(index)), Ok(vec![]));
    }
    let too_many = PeerMisbehaved::TooManyPipes { allowed: 3 };
    assert_eq!(server.on_frame(stop(1)), Err(too_many.clone()));
    // Both ends of a pipe make it seen: not so far ahead of all others.
    let pipe = id(CLIENT, PipeId::MAX_INDEX);
    let reset = Frame::Reset(Reset { pipe, code: 0, offset: 0 });
    assert_eq!(server.on_frame(reset), Err(too_many.clone()));
    let kind = HeaderKind::Open { label: Bytes::new() };
    let header = |index| Header {
        kind: kind.clone(),
        epoch: Epoch::FIRST,
        pipe: id(CLIENT, index),
        start: 0,
    };
    assert_eq!(server.on_stream(&header(4), Epoch::FIRST), Err(too_many));
    assert_eq!(server.on_stream(&header(3), Epoch::FIRST), Ok(()));
}

#[test]
fn a_stream_that_overtakes_the_last_ack_of_an_older_pipe_is_not_over_the_limit() {
    // Control frames and streams are not ordered among each other: the opener
    // is done with a pipe when it has sent its last ack, and opens the next.
    for opener in SIDES {
        let setup = Setup { max_pipes: [1; 2], ..Setup::default() };
        let mut pair = Pair::new(setup);
        let link = LinkId(0);
        for round in 1..20 {
            let pipe = pair.open(opener).unwrap();
            for side in SIDES {
                assert!(pair.open(opener).is_err(), "one is allowed");
                pair.open_stream(side, pipe);
                pair.deliver_stream(link, opener.peer(), pipe, usize::MAX);
            }
            for side in SIDES {
                pair.finish(side, pipe);
                pair.pump(side, pipe, 1);
                pair.deliver_stream(link, side.peer(), pipe, usize::MAX);
                assert_eq!(pair.read(side.peer(), pipe, 1), Got::End(ReadEnd::Eof));
            }
            assert!(pair.flush(opener.peer(), true));
            assert!(pair.deliver_control(link, opener));
            // Its ack does not arrive for now.
            assert!(pair.flush(opener, true));
            assert!(!pair.has(opener, pipe) && pair.has(opener.peer(), pipe));
            assert_eq!(pair.laws.tally.accepted, round);
        }
        // Nor when all of them are in a table.
        let late = pair.peer(opener.peer()).core.live_pipes();
        assert_eq!(late, 19);
        pair.drop_link();
        pair.resume();
        pair.heal_and_finish();
    }
}

#[test]
fn a_peer_that_never_acknowledges_an_end_is_bounded_all_the_same() {
    let setup = Setup { max_pipes: [4; 2], ..Setup::default() };
    let mut server = Peer::new(setup.core(SERVER));
    let kind = HeaderKind::Open { label: Bytes::new() };
    let refused = (0..1000).find_map(|index| {
        let pipe = id(CLIENT, index);
        let header = Header { kind: kind.clone(), epoch: Epoch::FIRST, pipe, start: 0 };
        server.on_stream(&header, Epoch::FIRST).err().map(|error| (index, error))
    });
    // P-10: twice the limit and 64.
    assert_eq!(refused, Some((2 * 4 + 64, PeerMisbehaved::TooManyPipes { allowed: 4 })));
    assert_eq!(server.core.live_peer_pipes(), 2 * 4 + 64);
}

#[test]
fn the_table_of_a_thousand_pipes_comes_in_frames_and_every_pipe_goes_on() {
    let mut pair = Pair::new(Setup::default());
    pair.watched = false;
    let ids: Vec<PipeId> = (0..1000).map(|_| pair.open(CLIENT).unwrap()).collect();
    pair.settle(Reading::No);
    pair.drop_link();
    let link = pair.claim();
    pair.ask();
    let frames = &pair.links[link.0].control[CLIENT as usize];
    let positions = 1000usize.div_ceil(POSITION_ENTRIES_MAX);
    assert_eq!(frames.len(), 1 + 1 + positions + 1, "RESUME, TABLE_HEAD, positions, TABLE_END");
    let bytes: usize = frames.iter().map(Bytes::len).sum();
    assert!(bytes <= 16 * 1024, "{bytes} bytes for 1,000 idle pipes");
    while pair.step() {}
    for id in &ids {
        assert_eq!(pair.write(SERVER, *id, 1), 1);
    }
    pair.settle(Reading::Yes);
    assert!(ids.iter().all(|id| pair.pipe(CLIENT, *id).recv.read() == 1));
    pair.watched = true;
    pair.drop_link();
}

#[test]
fn a_hostile_table_is_an_error_at_the_first_frame_that_is_wrong() {
    let setup = Setup { max_pipes: [10; 2], ..Setup::default() };
    let mut server = Peer::new(setup.core(SERVER));
    for _ in 0..5 {
        server.open(Bytes::new()).unwrap();
    }
    let head = |seen| Frame::TableHead(TableHead { opened: u64::MAX, seen });
    let gaps = |indices: std::ops::Range<u64>| Frame::Gaps(Gaps(indices.collect()));
    let end = |pipes| Frame::TableEnd(TableEnd { pipes });
    let positions = |indices: std::ops::Range<u64>| {
        Frame::Positions(Positions(indices.map(|i| position(id(CLIENT, i), 0)).collect()))
    };
    let misplaced = |frame| PeerMisbehaved::UnexpectedFrame { frame };
    let too_many = |allowed| PeerMisbehaved::TooManyPipes { allowed };
    for (frames, expected) in [
        (vec![gaps(0..1)], misplaced("GAPS")),
        (vec![positions(0..1)], misplaced("POSITIONS")),
        (vec![end(0)], misplaced("TABLE_END")),
        (vec![head(0), head(0)], misplaced("TABLE_HEAD")),
        (vec![head(6)], misplaced("TABLE_HEAD")),
        (vec![head(1 << 61)], misplaced("TABLE_HEAD")),
        (vec![head(3), gaps(2..4)], misplaced("GAPS")),
        (vec![head(0), gaps(0..1)], misplaced("GAPS")),
        (vec![head(0), positions(0..3), end(2)], misplaced("TABLE_END")),
        (vec![head(0), positions(0..3), end(4)], misplaced("TABLE_END")),
        (vec![head(0), positions(0..3), positions(0..3), end(6)], misplaced("TABLE_END")),
        (vec![head(0), Frame::Ping(1)], misplaced("PING")),
        (vec![head(0), Frame::Acks(vec![])], misplaced("ACKS")),
        // As many as may be live on both sides, and no more.
        (vec![head(0), positions(0..15), positions(15..16)], too_many(15)),
    ] {
        let refused = table(&server, frames.clone()).unwrap_err();
        assert_eq!(refused, expected, "{frames:?}");
    }
    assert!(table(&server, vec![head(5), gaps(0..5), Frame::Unknown(99), end(0)]).is_ok());
    assert!(table(&server, vec![head(0), positions(0..15), end(15)]).is_ok());
}

#[test]
fn a_table_has_no_more_gaps_than_pipes_of_ours_may_be_live() {
    let mut server = Peer::new(Setup { max_pipes: [2; 2], ..Setup::default() }.core(SERVER));
    // All of these came and went: the client has seen them.
    for _ in 0..5 {
        let pipe = server.core.open(Bytes::new()).unwrap();
        server.core.retire(pipe.id());
    }
    let frames = |gaps: &[u64]| {
        let head = TableHead { opened: 0, seen: 5 };
        let end = TableEnd { pipes: 0 };
        vec![Frame::TableHead(head), Frame::Gaps(Gaps(gaps.to_vec())), Frame::TableEnd(end)]
    };
    assert!(table(&server, frames(&[3, 4])).is_ok());
    assert!(table(&server, frames(&[3, 4, 3])).is_ok(), "one that is told twice is one");
    let refused = table(&server, frames(&[2, 3, 4])).unwrap_err();
    assert_eq!(refused, PeerMisbehaved::TooManyPipes { allowed: 2 });
}

#[test]
fn a_table_is_bounded_by_what_we_did_whatever_the_peer_allows() {
    // The peer says that we may open as many pipes as there are ids.
    let setup = Setup { max_pipes: [1 << 61, 10], ..Setup::default() };
    let server = Peer::new(setup.core(SERVER));
    let head = Frame::TableHead(TableHead { opened: 1 << 61, seen: 0 });
    for opener in SIDES {
        let positions = (0..11).map(|index| position(id(opener, index), 0)).collect();
        let frames = vec![head.clone(), Frame::Positions(Positions(positions))];
        let refused = table(&server, frames).unwrap_err();
        assert!(matches!(refused, PeerMisbehaved::TooManyPipes { .. }), "{refused}");
    }
}
