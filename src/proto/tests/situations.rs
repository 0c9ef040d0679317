//! Situations that must end well, by number, where the exact order of events
//! is the point. "Drop" means that the connection dies with everything that was
//! on its way.

use bytes::Bytes;

use super::exchange::Reading;
use super::pair::{Got, LinkId, Pair, Setup};
use crate::id::{Epoch, PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::proto::{ReadEnd, WriteEnd};
use crate::wire::{Header, HeaderKind, MAX_VARINT};

const CLIENT: Side = Side::Client;
const SERVER: Side = Side::Server;
const SIDES: [Side; 2] = [CLIENT, SERVER];
const ALL: usize = usize::MAX;

/// A pair with a pipe of `opener`'s that both sides have.
fn pair_with_pipe(opener: Side) -> (Pair, PipeId) {
    let mut pair = Pair::new(Setup::default());
    let id = pair.open(opener).unwrap();
    pair.settle(Reading::Yes);
    assert!(pair.has(opener.peer(), id));
    (pair, id)
}

/// `side` writes so much and hands it to the transport, which holds it.
fn write_and_hold(pair: &mut Pair, side: Side, id: PipeId, len: usize) {
    assert_eq!(pair.write(side, id, len), len);
    // If the pipe has slept since a resume.
    pair.open_stream(side, id);
    assert!(pair.pump(side, id, ALL));
}

fn ends(pair: &Pair, writer: Side, id: PipeId) -> (Option<WriteEnd>, Option<ReadEnd>) {
    (pair.pipe(writer, id).send.end(), pair.pipe(writer.peer(), id).recv.end())
}

#[test]
fn situation_01_what_the_old_connection_still_brings_after_the_resume_is_never_counted() {
    for opener in SIDES {
        let (mut pair, id) = pair_with_pipe(opener);
        let old = LinkId(0);
        for side in SIDES {
            write_and_hold(&mut pair, side, id, 1000);
            // A part was received and not read, a part was read.
            assert!(pair.deliver_stream(old, side.peer(), id, 500));
            assert_eq!(pair.read(side.peer(), id, 300), Got::Bytes(300));
            pair.flush(side.peer(), true);
        }
        pair.resume();
        let before = format!("{:?}", pair.peers);
        for side in SIDES {
            assert!(pair.deliver_control(old, side), "an ack was held");
            assert!(pair.deliver_stream(old, side, id, ALL), "bytes were held");
            assert_eq!(pair.read(side, id, ALL), Got::Nothing);
        }
        assert_eq!(format!("{:?}", pair.peers), before);
        pair.settle(Reading::Yes);
        for side in SIDES {
            assert_eq!(pair.pipe(side, id).recv.read(), 1000);
        }
        assert_eq!(pair.laws.tally.replayed, 2 * 700);
        pair.heal_and_finish();
    }
}

#[test]
fn situation_01_a_stream_header_of_the_old_epoch_opens_nothing() {
    let (mut pair, _) = pair_with_pipe(CLIENT);
    pair.resume();
    let header = |epoch, index| Header {
        kind: HeaderKind::Open { label: Bytes::new() },
        epoch,
        pipe: PipeId::new(CLIENT, index).unwrap(),
        start: 0,
    };
    let now = pair.peer(SERVER).core.epoch();
    let before = format!("{:?}", pair.peer(SERVER));
    // Of a pipe that is not known yet, and of one that is.
    for index in [1, 0] {
        for got in [Epoch::FIRST, now.next()] {
            assert_eq!(
                pair.peer(SERVER).on_stream(&header(got, index), now),
                Err(PeerMisbehaved::WrongEpoch { got, expected: now })
            );
        }
    }
    assert_eq!(format!("{:?}", pair.peer(SERVER)), before);
}

#[test]
fn situation_01_what_the_server_reads_until_its_fence_does_not_come_again() {
    let (mut pair, id) = pair_with_pipe(CLIENT);
    write_and_hold(&mut pair, CLIENT, id, 1000);
    // The client has fenced and measured; the old connection still delivers.
    let new = pair.claim();
    pair.ask();
    assert!(pair.deliver_stream(LinkId(0), SERVER, id, 600));
    assert_eq!(pair.read(SERVER, id, 400), Got::Bytes(400));
    while !pair.is_ready(new) {
        assert!(pair.deliver_control(new, SERVER));
    }
    assert_eq!(pair.read(SERVER, id, 100), Got::Bytes(100));
    pair.grant(new);
    assert_eq!(pair.read(SERVER, id, 100), Got::Nothing, "fenced");
    while pair.attempt.is_some() {
        assert!(pair.step());
    }
    assert_eq!(pair.pipe(CLIENT, id).send.acked(), 500);
    pair.settle(Reading::Yes);
    assert_eq!(pair.laws.tally.replayed, 500);
    pair.heal_and_finish();
}

#[test]
fn situation_02_a_lost_last_ack_gives_the_application_nothing_twice() {
    for sent in [true, false] {
        let (mut pair, id) = pair_with_pipe(SERVER);
        write_and_hold(&mut pair, CLIENT, id, 5000);
        assert!(pair.deliver_stream(LinkId(0), SERVER, id, ALL));
        assert_eq!(pair.read(SERVER, id, ALL), Got::Bytes(5000));
        if sent {
            assert!(pair.flush(SERVER, true));
        }
        pair.drop_link();
        assert_eq!(pair.pipe(CLIENT, id).send.acked(), 0);
        pair.resume();
        assert_eq!(pair.pipe(CLIENT, id).send.acked(), 5000);
        pair.settle(Reading::No);
        assert_eq!(pair.read(SERVER, id, ALL), Got::Nothing);
        assert_eq!(pair.laws.tally.replayed, 0);
        pair.heal_and_finish();
    }
}

#[test]
fn situation_03_fin_before_the_drop_is_read_once_after_all_bytes() {
    // How far FIN has come when the connection dies.
    for stage in 0..5 {
        for opener in SIDES {
            let (mut pair, id) = pair_with_pipe(opener);
            let link = LinkId(0);
            pair.write(CLIENT, id, 300);
            pair.finish(CLIENT, id);
            if stage > 0 {
                assert!(pair.pump(CLIENT, id, ALL));
            }
            if stage > 1 {
                assert!(pair.deliver_stream(link, SERVER, id, ALL));
                assert_eq!(pair.read(SERVER, id, 200), Got::Bytes(200));
            }
            if stage > 2 {
                assert_eq!(pair.read(SERVER, id, ALL), Got::Bytes(100));
                assert_eq!(pair.read(SERVER, id, ALL), Got::End(ReadEnd::Eof));
            }
            if stage > 3 {
                assert!(!pair.flush(SERVER, false), "the end goes with a batch");
                assert!(pair.flush(SERVER, true));
            }
            pair.drop_link();
            assert!(!pair.pipe(CLIENT, id).send.is_done(), "its ack was lost");
            pair.resume();
            // The other direction is as open as it was.
            assert_eq!(pair.write(SERVER, id, 100), 100);
            pair.settle(Reading::Yes);
            assert_eq!(pair.read(SERVER, id, ALL), Got::End(ReadEnd::Eof));
            assert_eq!(pair.pipe(SERVER, id).recv.read(), 300);
            assert_eq!(pair.pipe(CLIENT, id).recv.read(), 100);
            assert!(pair.pipe(CLIENT, id).send.is_done());
            assert_eq!(pair.pipe(SERVER, id).send.end(), None);
            pair.heal_and_finish();
        }
    }
}

#[test]
fn situation_04_a_pipe_that_one_side_has_forgotten_is_answered_from_its_tombstone() {
    for opener in SIDES {
        for forgetful in SIDES {
            let (mut pair, id) = pair_with_pipe(opener);
            for side in SIDES {
                pair.write(side, id, 200);
                pair.finish(side, id);
                pair.pump(side, id, ALL);
            }
            for side in SIDES {
                assert!(pair.deliver_stream(LinkId(0), side, id, ALL));
                assert_eq!(pair.read_all(side, id), 200 + 1);
            }
            // One side has the other's ack, and is done once it has sent its own,
            // which is lost.
            assert!(pair.flush(forgetful.peer(), true));
            assert!(pair.deliver_control(LinkId(0), forgetful));
            assert!(pair.flush(forgetful, true));
            assert!(!pair.has(forgetful, id) && pair.has(forgetful.peer(), id));
            pair.drop_link();
            // Any number of times, with the answer lost in between.
            for _ in 0..3 {
                pair.claim();
                while pair.attached(SERVER).is_none() {
                    assert!(pair.step());
                }
                pair.drop_link();
            }
            pair.resume();
            assert!(!pair.has(forgetful.peer(), id), "it heard that the pipe is done");
            assert_eq!(pair.laws.tally.retired, 2);
            pair.heal_and_finish();
        }
    }
}

#[test]
fn situation_05_a_pipe_opened_just_before_the_drop_is_accepted_once_with_its_first_bytes() {
    let header = 20;
    for opener in SIDES {
        // How much of its stream the peer has seen: from nothing to all.
        for seen in [None, Some(0), Some(1), Some(header), Some(header + 30), Some(ALL)] {
            let mut pair = Pair::new(Setup::default());
            let id = pair.open(opener).unwrap();
            pair.write(opener, id, 100);
            if let Some(seen) = seen {
                assert!(pair.open_stream(opener, id));
                assert!(pair.pump(opener, id, ALL));
                pair.deliver_stream(LinkId(0), opener.peer(), id, seen);
            }
            let known = pair.has(opener.peer(), id);
            assert_eq!(known, seen.is_some_and(|seen| seen >= header));
            if known {
                pair.read_all(opener.peer(), id);
            }
            pair.drop_link();
            pair.resume();
            pair.settle(Reading::Yes);
            assert_eq!(pair.pipe(opener.peer(), id).recv.read(), 100);
            assert_eq!(pair.laws.tally.accepted, 1);
            pair.heal_and_finish();
        }
    }
}

#[test]
fn situation_06_pipes_opened_on_both_sides_during_a_resume_are_opens_not_errors() {
    let (mut pair, old) = pair_with_pipe(CLIENT);
    pair.drop_link();
    pair.claim();
    let mut ids = vec![old];
    loop {
        for side in SIDES {
            let id = pair.open(side).unwrap();
            ids.push(id);
            pair.write(side, id, 10);
            // No more than the side can do by now.
            pair.open_stream(side, id);
            pair.pump(side, id, ALL);
        }
        if !pair.step() {
            break;
        }
    }
    assert!(pair.is_healthy() && ids.len() > 20, "{}", ids.len());
    pair.settle(Reading::Yes);
    for id in &ids[1..] {
        assert_eq!(pair.pipe(id.opener().peer(), *id).recv.read(), 10);
    }
    assert_eq!(pair.laws.tally.accepted as usize, ids.len());
    pair.heal_and_finish();
}

#[test]
fn situation_06_a_pipe_given_up_in_both_directions_before_it_was_seen_is_never_shown() {
    for opener in SIDES {
        for dropped in [true, false] {
            let (mut pair, _) = pair_with_pipe(CLIENT);
            pair.drop_link();
            let id = pair.open(opener).unwrap();
            pair.write(opener, id, 100);
            pair.reset(opener, id, 5);
            pair.stop(opener, id, 6);
            pair.resume();
            if dropped {
                // With the answers to both ends.
                pair.drop_link();
                pair.resume();
            }
            pair.settle(Reading::Yes);
            assert!(!pair.has(opener, id) && !pair.has(opener.peer(), id));
            assert_eq!(pair.laws.tally.accepted, 1, "only the other pipe");
            pair.heal_and_finish();
        }
    }
}

/// What the writer of a direction does, what its reader does without having
/// heard of it, and how the direction ends for each.
const CROSSINGS: &[(&[Act], &[Act], WriteEnd, ReadEnd)] = {
    use Act::{Finish, ReadAll, Reset, Stop};
    const FINISHED: WriteEnd = WriteEnd::Finished;
    const STOPPED: WriteEnd = WriteEnd::Stopped { code: 2 };
    &[
        (&[Finish], &[], FINISHED, ReadEnd::Eof),
        (&[Reset], &[], WriteEnd::Reset, ReadEnd::Reset { code: 1 }),
        (&[Finish, Reset], &[], WriteEnd::Reset, ReadEnd::Reset { code: 1 }),
        (&[], &[Stop], STOPPED, ReadEnd::Stopped),
        (&[Finish], &[Stop], STOPPED, ReadEnd::Stopped),
        (&[Reset], &[Stop], WriteEnd::Reset, ReadEnd::Stopped),
        (&[Finish, Reset], &[Stop], WriteEnd::Reset, ReadEnd::Stopped),
        // The reader has all the bytes; whether also FIN is not known to it.
        (&[], &[ReadAll, Stop], STOPPED, ReadEnd::Stopped),
        (&[Finish], &[ReadAll, Stop], FINISHED, ReadEnd::Stopped),
        (&[Reset], &[ReadAll, Stop], WriteEnd::Reset, ReadEnd::Stopped),
    ]
};

#[derive(Clone, Copy, Debug)]
enum Act {
    Finish,
    Reset,
    Stop,
    ReadAll,
}

impl Act {
    fn run(self, pair: &mut Pair, side: Side, id: PipeId) {
        match self {
            Self::Finish => pair.finish(side, id),
            Self::Reset => pair.reset(side, id, 1),
            Self::Stop => pair.stop(side, id, 2),
            Self::ReadAll => {
                pair.read_all(side, id);
            }
        }
    }
}

#[test]
fn situation_07_ends_that_cross_at_the_drop_come_to_one_state_and_free_everything() {
    // Both directions of one pipe, each with a crossing of its own; and who has
    // sent its frames before the drop, and who has had the other's.
    for (one, first) in CROSSINGS.iter().enumerate() {
        for (two, second) in CROSSINGS.iter().enumerate() {
            for traffic in 0..16 {
                let case = format!("crossings {one} and {two}, traffic {traffic:04b}");
                crossing(&case, first, second, traffic);
            }
        }
    }
}

type Crossing = (&'static [Act], &'static [Act], WriteEnd, ReadEnd);

fn crossing(case: &str, first: &Crossing, second: &Crossing, traffic: u8) {
    let (mut pair, id) = pair_with_pipe(CLIENT);
    for side in SIDES {
        write_and_hold(&mut pair, side, id, 100);
        assert!(pair.deliver_stream(LinkId(0), side.peer(), id, ALL));
    }
    for (writer, crossing) in SIDES.into_iter().zip([first, second]) {
        crossing.1.iter().for_each(|act| act.run(&mut pair, writer.peer(), id));
        crossing.0.iter().for_each(|act| act.run(&mut pair, writer, id));
    }
    for (bit, side) in SIDES.into_iter().enumerate() {
        if traffic >> bit & 1 == 1 {
            pair.pump(side, id, ALL);
            pair.flush(side, true);
        }
    }
    for (bit, side) in SIDES.into_iter().enumerate() {
        if traffic >> (bit + 2) & 1 == 1 {
            pair.deliver_stream(LinkId(0), side, id, ALL);
            while pair.deliver_control(LinkId(0), side) {}
        }
    }
    pair.drop_link();
    let logs = pair.laws.clone();
    pair.resume();
    pair.settle(Reading::Yes);
    for (writer, crossing) in SIDES.into_iter().zip([first, second]) {
        let ended = pair.laws.ends(id, writer);
        assert_eq!(ended, (Some(crossing.2), Some(crossing.3)), "{case}, {writer:?} writes");
    }
    for side in SIDES {
        assert!(!pair.has(side, id), "{case}: {side:?} has it still; before: {logs:?}");
    }
    pair.heal_and_finish();
}

#[test]
fn situation_07_a_reset_after_the_reader_had_the_end_changes_nothing_for_the_reader() {
    let (mut pair, id) = pair_with_pipe(CLIENT);
    pair.write(CLIENT, id, 10);
    pair.finish(CLIENT, id);
    pair.pump(CLIENT, id, ALL);
    pair.deliver_stream(LinkId(0), SERVER, id, ALL);
    assert_eq!(pair.read_all(SERVER, id), 10 + 1);
    pair.reset(CLIENT, id, 9);
    pair.drop_link();
    pair.resume();
    pair.settle(Reading::Yes);
    assert_eq!(ends(&pair, CLIENT, id), (Some(WriteEnd::Reset), Some(ReadEnd::Eof)));
    assert!(pair.pipe(CLIENT, id).send.is_done());
    pair.heal_and_finish();
}

#[test]
fn situation_07_a_direction_that_was_reset_does_not_stop_the_other_at_the_next_resume() {
    // Before the reset is acknowledged, and after.
    for acknowledged in [false, true] {
        for opener in SIDES {
            let (mut pair, id) = pair_with_pipe(opener);
            for side in SIDES {
                write_and_hold(&mut pair, side, id, 100);
            }
            assert!(pair.deliver_stream(LinkId(0), opener.peer(), id, 40));
            assert_eq!(pair.read(opener.peer(), id, ALL), Got::Bytes(40));
            pair.reset(opener, id, 1);
            if acknowledged {
                assert!(pair.flush(opener, true));
                assert!(pair.deliver_control(LinkId(0), opener.peer()));
                assert!(pair.flush(opener.peer(), true));
                assert!(pair.deliver_control(LinkId(0), opener));
            }
            assert_eq!(pair.pipe(opener, id).send.is_done(), acknowledged);
            pair.drop_link();
            pair.resume();
            pair.settle(Reading::Yes);
            assert_eq!(pair.pipe(opener, id).recv.read(), 100);
            pair.heal_and_finish();
        }
    }
}

#[test]
fn situation_07_the_header_of_a_pipe_that_was_reset_with_bytes_unsent_is_no_gap() {
    for opener in SIDES {
        let mut pair = Pair::new(Setup::default());
        let id = pair.open(opener).unwrap();
        pair.write(opener, id, 100);
        pair.reset(opener, id, 1);
        // The stream comes first, and the reset behind it.
        assert!(pair.open_stream(opener, id));
        assert!(pair.deliver_stream(LinkId(0), opener.peer(), id, ALL));
        pair.settle(Reading::Yes);
        let expected = (Some(WriteEnd::Reset), Some(ReadEnd::Reset { code: 1 }));
        assert_eq!(ends(&pair, opener, id), expected);
        pair.heal_and_finish();
    }
}

#[test]
fn situation_17_what_the_server_drops_while_detached_the_client_learns_at_the_resume() {
    for opener in SIDES {
        let (mut pair, id) = pair_with_pipe(opener);
        for side in SIDES {
            write_and_hold(&mut pair, side, id, 100);
            assert!(pair.deliver_stream(LinkId(0), side.peer(), id, 60));
        }
        assert_eq!(pair.read(CLIENT, id, 50), Got::Bytes(50));
        pair.drop_link();
        pair.reset(SERVER, id, 7);
        pair.stop(SERVER, id, 8);
        assert_eq!(pair.pipe(SERVER, id).send.kept(), 0);
        assert_eq!(pair.pipe(CLIENT, id).send.kept(), 100);
        pair.resume();
        // The tables are enough: no stream, no other frame has come yet.
        assert_eq!(pair.read(CLIENT, id, ALL), Got::End(ReadEnd::Reset { code: 7 }));
        assert_eq!(pair.pipe(CLIENT, id).send.end(), Some(WriteEnd::Stopped { code: 8 }));
        assert_eq!(pair.pipe(CLIENT, id).send.kept(), 0);
        pair.settle(Reading::No);
        assert!(!pair.has(CLIENT, id) && !pair.has(SERVER, id));
        pair.heal_and_finish();
    }
}

#[test]
fn situation_17_what_is_dropped_between_the_tables_is_not_forgotten() {
    // After each step of the resume in turn, until it is over.
    for steps in 0.. {
        let (mut pair, id) = pair_with_pipe(CLIENT);
        write_and_hold(&mut pair, CLIENT, id, 100);
        pair.drop_link();
        pair.claim();
        if !(0..steps).all(|_| pair.step()) {
            assert!(steps > 10, "{steps}");
            break;
        }
        for side in SIDES {
            pair.reset(side, id, 7);
            pair.stop(side, id, 8);
        }
        while pair.step() {}
        pair.settle(Reading::No);
        assert!(!pair.has(CLIENT, id) && !pair.has(SERVER, id), "after {steps} steps");
        pair.heal_and_finish();
    }
}

#[test]
fn situation_18_a_fin_at_offset_0_and_an_empty_pipe_survive_a_drop() {
    for opener in SIDES {
        for seen in [true, false] {
            let mut pair = Pair::new(Setup::default());
            let empty = pair.open(opener).unwrap();
            let ended = pair.open(opener).unwrap();
            assert_eq!(pair.write(opener, ended, 0), 0);
            pair.finish(opener, ended);
            if seen {
                pair.settle(Reading::No);
            }
            pair.drop_link();
            assert_eq!(pair.write(opener, empty, 0), 0);
            pair.resume();
            pair.settle(Reading::Yes);
            let reader = opener.peer();
            assert_eq!(pair.read(reader, ended, ALL), Got::End(ReadEnd::Eof));
            assert_eq!(pair.read(reader, empty, ALL), Got::Nothing);
            assert_eq!(pair.pipe(reader, empty).recv.end(), None);
            pair.write(opener, empty, 1);
            pair.settle(Reading::Yes);
            assert_eq!(pair.pipe(reader, empty).recv.read(), 1);
            pair.heal_and_finish();
        }
    }
}

#[test]
fn situation_18_offsets_near_the_largest_are_resumed_and_never_passed() {
    for opener in SIDES {
        let (mut pair, id) = pair_with_pipe(opener);
        pair.shift(id, MAX_VARINT - 5000);
        pair.drop_link();
        pair.resume();
        pair.settle(Reading::No);
        let link = pair.attached(CLIENT).unwrap();
        for side in SIDES {
            write_and_hold(&mut pair, side, id, 3000);
            assert!(pair.deliver_stream(link, side.peer(), id, 2000));
            assert_eq!(pair.read(side.peer(), id, 1000), Got::Bytes(1000));
        }
        pair.drop_link();
        for side in SIDES {
            assert_eq!(pair.write(side, id, ALL), 2000, "up to the largest offset");
            assert_eq!(pair.write(side, id, ALL), 0);
        }
        pair.resume();
        pair.settle(Reading::Yes);
        for side in SIDES {
            assert_eq!(pair.pipe(side, id).recv.read(), MAX_VARINT);
            assert_eq!(pair.pipe(side, id).send.acked(), MAX_VARINT);
        }
        pair.finish(CLIENT, id);
        pair.reset(SERVER, id, 1);
        pair.drop_link();
        pair.resume();
        pair.heal_and_finish();
    }
}
