//! The situations of the design that must end well, end to end over real UDP,
//! by their numbers; and what the session itself promises around an outage.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use evermux::{
    BackedPipe, BackedReader, BackedWriter, Client, ClientConfig, ClientTls, CloseCode,
    ConnectError, DetachCause, DialError, Epoch, Events, Identity, LinkState, ReadError,
    ReconnectPolicy, Server, ServerConfig, ServerTls, Session, SessionError, SessionEvent, Target,
    TlsError, WriteError,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::fixture::{
    Dice, World, all_retired, attached_after, both_detached, client_config, detached, event, pipe,
    quick, read_range, soon, until, write_range,
};
use crate::relay::{Direction, Relay};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Reads exactly the bytes `from..to` of `stream`.
async fn read_exactly(reader: &mut BackedReader, stream: u64, from: u64, to: u64) {
    let read = soon("the bytes", read_range(reader, stream, from, to)).await;
    assert_eq!(read, Ok(to), "stream {stream}");
}

/// Reads the bytes of `stream` from `from` on, and the end at `to`.
async fn read_to_end(reader: &mut BackedReader, stream: u64, from: u64, to: u64) {
    let read = soon("the end", read_range(reader, stream, from, u64::MAX)).await;
    assert_eq!(read, Ok(to), "stream {stream}");
}

/// Writes bytes that there is room for, whatever the link does.
async fn write_now(writer: &mut BackedWriter, stream: u64, from: u64, to: u64) {
    let written = soon("room for the bytes", write_range(writer, stream, from, to)).await;
    assert_eq!(written, Ok(()), "stream {stream}");
}

/// The last connection is dead, the next will work, and it is there.
async fn cut(world: &World, client: &Session) {
    let epoch = client.stats().epoch;
    world.relay.cut();
    attached_after(client, epoch).await;
}

#[tokio::test]
async fn situation_01_late_packets_of_the_old_connection_are_never_counted() {
    for direction in [Direction::ToServer, Direction::ToClient] {
        let world = World::new().await;
        let (client, server) = world.session().await;
        let (mut ours, mut theirs) = pipe(&client, &server).await;
        let (writer, reader) = match direction {
            Direction::ToServer => (ours.writer(), theirs.reader()),
            Direction::ToClient => (theirs.writer(), ours.reader()),
        };
        write_now(writer, 1, 0, 10_000).await;
        read_exactly(reader, 1, 0, 10_000).await;

        world.relay.hold(direction);
        write_now(writer, 1, 10_000, 400_000).await;
        let held = |relay: &Relay| match direction {
            Direction::ToServer => relay.stats().to_server.held,
            Direction::ToClient => relay.stats().to_client.held,
        };
        soon("a flight of bytes", world.relay.wait_until(|_| held(&world.relay) >= 8)).await;
        let resumed = soon("a reconnect", client.reconnect()).await.unwrap();
        // Some new bytes, all the old ones, some new bytes.
        read_exactly(reader, 1, 10_000, 50_000).await;
        let late = held(&world.relay);
        let passed = world.relay.stats();
        world.relay.release(direction);
        let sent = |stats: &crate::relay::RelayStats| {
            stats.to_server.datagrams + stats.to_client.datagrams
        };
        soon("the late packets", world.relay.wait_until(|s| sent(s) >= sent(&passed) + late)).await;
        write_now(writer, 1, 400_000, 500_000).await;
        writer.finish();
        read_to_end(reader, 1, 50_000, 500_000).await;
        assert_eq!(client.stats().epoch, resumed, "the late packets disturbed nobody");
        assert_eq!(reader.stats().read, 500_000);
        drop((ours, theirs));
        all_retired(&client, &server).await;
    }
}

#[tokio::test]
async fn situation_02_the_last_ack_is_lost_and_nothing_is_read_twice() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let (mut ours, mut theirs) = pipe(&client, &server).await;
    world.relay.block(Direction::ToServer, true);
    // No more than fits a first flight: not even QUIC's acks get through.
    write_now(theirs.writer(), 2, 0, 8_000).await;
    read_exactly(ours.reader(), 2, 0, 8_000).await;
    world.relay.cut();
    assert_eq!(theirs.writer().acked(), 0, "the ack is lost");
    let epoch = client.stats().epoch;
    world.relay.block(Direction::ToServer, false);
    attached_after(&client, epoch).await;
    soon("what the ack said", theirs.writer().wait_acked(8_000)).await.unwrap();
    assert_eq!(theirs.stats().replayed, 0, "it was read");
    write_now(theirs.writer(), 2, 8_000, 9_000).await;
    theirs.writer().finish();
    read_to_end(ours.reader(), 2, 8_000, 9_000).await;
}

#[tokio::test]
async fn situation_03_fin_before_the_drop_is_read_once_and_the_other_direction_stays_open() {
    for lost in [Direction::ToServer, Direction::ToClient] {
        let world = World::new().await;
        let (client, server) = world.session().await;
        let (mut ours, mut theirs) = pipe(&client, &server).await;
        // Either the FIN is lost or the ack of it.
        world.relay.block(lost, true);
        write_now(ours.writer(), 3, 0, 8_000).await;
        ours.writer().finish();
        if lost == Direction::ToClient {
            read_to_end(theirs.reader(), 3, 0, 8_000).await;
        } else {
            let blocked = |relay: &Relay| relay.stats().to_server.dropped.blocked;
            soon("the loss", world.relay.wait_until(|_| blocked(&world.relay) >= 6)).await;
        }
        let epoch = client.stats().epoch;
        world.relay.cut();
        world.relay.block(lost, false);
        attached_after(&client, epoch).await;
        if lost == Direction::ToServer {
            read_to_end(theirs.reader(), 3, 0, 8_000).await;
        }
        soon("the ack", ours.writer().wait_acked(8_000)).await.unwrap();
        assert_eq!(theirs.reader().read_chunk(1).await, Ok(None), "the end is where it was");
        assert_eq!(ours.writer().write(b"x").await, Err(WriteError::Finished));
        write_now(theirs.writer(), 4, 0, 100_000).await;
        theirs.writer().finish();
        read_to_end(ours.reader(), 4, 0, 100_000).await;
        all_retired(&client, &server).await;
    }
}

#[tokio::test]
async fn situation_04_the_ack_of_both_fins_is_lost_and_a_tombstone_answers() {
    for lost in [Direction::ToServer, Direction::ToClient] {
        let world = World::new().await;
        let (client, server) = world.session().await;
        let (ours, theirs) = pipe(&client, &server).await;
        // `last` sees the end of the stream last, and its ack is lost.
        let (mut last, mut first, forgetful, remembering) = match lost {
            Direction::ToServer => (ours, theirs, &client, &server),
            Direction::ToClient => (theirs, ours, &server, &client),
        };
        write_now(last.writer(), 1, 0, 1_000).await;
        last.writer().finish();
        read_to_end(first.reader(), 1, 0, 1_000).await;
        write_now(first.writer(), 2, 0, 1_000).await;
        first.writer().finish();
        read_exactly(last.reader(), 2, 0, 1_000).await;
        soon("an ack", first.writer().wait_acked(1_000)).await.unwrap();
        world.relay.block(lost, true);
        read_to_end(last.reader(), 2, 1_000, 1_000).await;
        until("the tombstone", || forgetful.stats().pipes == 0).await;
        assert_eq!(remembering.stats().pipes, 1, "the last ack is lost");
        let epoch = client.stats().epoch;
        world.relay.cut();
        world.relay.block(lost, false);
        attached_after(&client, epoch).await;
        all_retired(&client, &server).await;
        assert_eq!(first.reader().read_chunk(1).await, Ok(None), "no reset");
        assert_eq!(first.writer().wait_acked(1_000).await, Ok(()));
        assert_eq!(last.reader().read_chunk(1).await, Ok(None));
    }
}

#[tokio::test]
async fn situation_05_a_pipe_opened_just_before_the_drop_is_accepted_exactly_once() {
    enum Seen {
        /// The acceptor has the pipe in its hands.
        Accepted,
        /// The opener's packets are lost.
        Lost,
        /// They arrive after the resume.
        Late,
    }
    for opener in [Direction::ToServer, Direction::ToClient] {
        for seen in [Seen::Accepted, Seen::Lost, Seen::Late] {
            let world = World::new().await;
            let (client, server) = world.session().await;
            let (from, to) = match opener {
                Direction::ToServer => (&client, &server),
                Direction::ToClient => (&server, &client),
            };
            match seen {
                Seen::Accepted => {}
                Seen::Lost => world.relay.block(opener, true),
                Seen::Late => world.relay.hold(opener),
            }
            let mut opened = from.open_pipe("the label").unwrap();
            write_now(opened.writer(), 5, 0, 5_000).await;
            let early = match seen {
                Seen::Accepted => Some(soon("the pipe", to.accept_pipe()).await.unwrap().unwrap()),
                Seen::Lost | Seen::Late => {
                    let gone = |stats: &crate::relay::RelayStats| {
                        let [a, b] = [stats.to_server, stats.to_client];
                        a.dropped.blocked + b.dropped.blocked + a.held + b.held
                    };
                    soon("the loss", world.relay.wait_until(|stats| gone(stats) >= 4)).await;
                    None
                }
            };
            let epoch = client.stats().epoch;
            match seen {
                Seen::Accepted => world.relay.cut(),
                Seen::Lost => {
                    world.relay.cut();
                    world.relay.block(opener, false);
                }
                Seen::Late => {
                    soon("a reconnect", client.reconnect()).await.unwrap();
                    world.relay.release(opener);
                }
            }
            attached_after(&client, epoch).await;
            let mut accepted = match early {
                Some(accepted) => accepted,
                None => soon("the pipe", to.accept_pipe()).await.unwrap().unwrap(),
            };
            assert_eq!((accepted.id(), &accepted.label()[..]), (opened.id(), &b"the label"[..]));
            opened.writer().finish();
            read_to_end(accepted.reader(), 5, 0, 5_000).await;
            write_now(accepted.writer(), 6, 0, 5_000).await;
            accepted.writer().finish();
            read_to_end(opened.reader(), 6, 0, 5_000).await;
            all_retired(&client, &server).await;
            // Nothing else was in the queue.
            let next = from.open_pipe("the next").unwrap();
            let accepted = soon("the next pipe", to.accept_pipe()).await.unwrap().unwrap();
            assert_eq!(accepted.id(), next.id());
        }
    }
}

#[tokio::test]
async fn situation_06_both_sides_open_pipes_during_the_outage() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    both_detached(&world, &client, &server).await;
    let epoch = client.stats().epoch;
    let open = |session: &Session| -> Vec<BackedPipe> {
        (0..20_u8).map(|number| session.open_pipe(vec![number; 3]).unwrap()).collect()
    };
    let (mut ours, mut theirs) = (open(&client), open(&server));
    for (stream, pipe) in (0..).zip(&mut ours).chain((100..).zip(&mut theirs)) {
        write_now(pipe.writer(), stream, 0, 3_000).await;
        pipe.writer().finish();
    }
    world.relay.block(Direction::ToClient, false);
    attached_after(&client, epoch).await;
    for (acceptor, opened, streams) in [(&server, &ours, 0_u64), (&client, &theirs, 100)] {
        for _ in opened {
            let mut pipe = soon("a pipe", acceptor.accept_pipe()).await.unwrap().unwrap();
            let index = pipe.id().index();
            assert_eq!(pipe.label(), vec![index as u8; 3]);
            assert_eq!(pipe.id(), opened[index as usize].id());
            read_to_end(pipe.reader(), streams + index, 0, 3_000).await;
            pipe.writer().finish();
        }
    }
    for pipe in ours.iter_mut().chain(&mut theirs) {
        read_to_end(pipe.reader(), 0, 0, 0).await;
    }
    all_retired(&client, &server).await;
}

/// What a writer does as the link goes down.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrote {
    More,
    Fin,
    Reset,
    Nothing,
}

/// What its reader does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reads {
    On,
    Stops,
    Leaves,
}

/// One direction of a pipe: 100 bytes were read, what comes then crosses.
struct Crossing {
    wrote: Wrote,
    reads: Reads,
    writer: Option<BackedWriter>,
    reader: Option<BackedReader>,
}

impl Crossing {
    async fn act(&mut self) {
        let writer = self.writer.as_mut().expect("not yet dropped");
        write_now(writer, 7, 100, 150).await;
        match self.wrote {
            Wrote::More => {}
            Wrote::Fin => writer.finish(),
            Wrote::Reset => writer.reset(77),
            Wrote::Nothing => self.writer = None,
        }
        match self.reads {
            Reads::On => {}
            Reads::Stops => self.reader.as_mut().expect("not yet dropped").stop(99),
            Reads::Leaves => self.reader = None,
        }
    }

    async fn judge(mut self) {
        let what = format!("{:?} against {:?}", self.wrote, self.reads);
        if let Some(reader) = &mut self.reader {
            let end = soon(&what, read_range(reader, 7, 100, 150)).await;
            let expected = match (self.reads, self.wrote) {
                (Reads::Stops, _) => Err(ReadError::Stopped),
                (_, Wrote::More | Wrote::Fin) => Ok(150),
                (_, Wrote::Reset) => Err(ReadError::Reset { code: 77 }),
                (_, Wrote::Nothing) => Err(ReadError::Reset { code: 0 }),
            };
            assert_eq!(end, expected, "{what}: the reader");
            if (self.reads, self.wrote) == (Reads::On, Wrote::Fin) {
                assert_eq!(soon(&what, reader.read_chunk(1)).await, Ok(None), "{what}");
            }
        }
        if let Some(writer) = &mut self.writer {
            let end = soon(&what, writer.wait_acked(150)).await;
            let expected = match (self.wrote, self.reads) {
                (Wrote::Reset, _) => Err(WriteError::Finished),
                (_, Reads::On) => Ok(()),
                (_, Reads::Stops) => Err(WriteError::Stopped { code: 99 }),
                (_, Reads::Leaves) => Err(WriteError::Stopped { code: 0 }),
            };
            assert_eq!(end, expected, "{what}: the writer");
        }
    }
}

#[tokio::test]
async fn situation_07_ends_that_cross_at_the_drop_give_one_end_state_each() {
    let ends: Vec<(Wrote, Reads)> = [Wrote::More, Wrote::Fin, Wrote::Reset, Wrote::Nothing]
        .into_iter()
        .flat_map(|wrote| [Reads::On, Reads::Stops, Reads::Leaves].map(|reads| (wrote, reads)))
        .collect();
    for drop_by_reconnect in [false, true] {
        let world = World::new().await;
        let (client, server) = world.session().await;
        let mut crossings = Vec::new();
        for there in &ends {
            for back in &ends {
                let (ours, theirs) = pipe(&client, &server).await;
                let (our_reader, our_writer) = ours.into_split();
                let (their_reader, their_writer) = theirs.into_split();
                let directions =
                    [(there, our_writer, their_reader), (back, their_writer, our_reader)];
                for ((wrote, reads), mut writer, mut reader) in directions {
                    write_now(&mut writer, 7, 0, 100).await;
                    read_exactly(&mut reader, 7, 0, 100).await;
                    let (writer, reader) = (Some(writer), Some(reader));
                    crossings.push(Crossing { wrote: *wrote, reads: *reads, writer, reader });
                }
            }
        }
        let epoch = client.stats().epoch;
        if !drop_by_reconnect {
            world.relay.freeze();
            detached(&client).await;
        }
        for crossing in &mut crossings {
            crossing.act().await;
        }
        if drop_by_reconnect {
            soon("a reconnect", client.reconnect()).await.unwrap();
        } else {
            world.relay.thaw();
            attached_after(&client, epoch).await;
        }
        for crossing in crossings {
            crossing.judge().await;
        }
        all_retired(&client, &server).await;
        assert_eq!((client.stats().bytes_kept, server.stats().bytes_kept), (0, 0));
        assert_eq!(world.server.stats().bytes_shared, 0);
    }
}

#[tokio::test]
async fn situation_08_lost_answers_to_a_resume_do_not_lock_the_client_out() {
    let mut world = World::new().await;
    world.client.attempt_timeout(Duration::from_millis(500));
    let (client, server) = world.session().await;
    let (mut ours, mut theirs) = pipe(&client, &server).await;
    write_now(ours.writer(), 8, 0, 200_000).await;
    let (mut here, mut there) = (client.events(), server.events());
    let epoch = client.stats().epoch;
    world.relay.cut();
    for lost in 1..=2 {
        // The server has decided, its answer has not left yet.
        let resumed = event(&mut there, as_resumed).await;
        world.relay.block(Direction::ToClient, true);
        let next = event(&mut here, |event| match event {
            SessionEvent::Resuming { attempt, .. } if *attempt > lost => Some(()),
            SessionEvent::Resumed { .. } => panic!("the answer got through"),
            _ => None,
        });
        next.await;
        assert!(resumed > epoch && !client.link().is_attached());
        world.relay.block(Direction::ToClient, false);
    }
    let healed = attached_after(&client, epoch).await;
    write_now(ours.writer(), 8, 200_000, 300_000).await;
    ours.writer().finish();
    read_to_end(theirs.reader(), 8, 0, 300_000).await;
    assert_eq!(server.stats().epoch, healed, "one live connection, the same on both sides");
    assert!(healed.get() >= epoch.get() + 3, "each attempt has an epoch of its own");
    let stats = world.server.stats();
    assert_eq!((stats.sessions, stats.detached), (1, 0));
}

#[tokio::test]
async fn situation_12_both_sides_owe_more_than_every_window_and_both_finish() {
    let mut config = quick();
    config.stream_window(8 * KIB).replay_capacity(192 * KIB).replay_budget(256 * KIB);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    let mut ends = Vec::new();
    for _ in 0..4 {
        let (ours, theirs) = pipe(&client, &server).await;
        ends.extend([ours.into_split(), theirs.into_split()]);
    }
    both_detached(&world, &client, &server).await;
    let epoch = client.stats().epoch;
    let mut work = JoinSet::new();
    for (stream, (mut reader, mut writer)) in (0..).zip(ends) {
        work.spawn(async move {
            write_now(&mut writer, stream, 0, 300 * KIB).await;
            writer.finish();
        });
        // The other end of the same pipe has the number beside it.
        work.spawn(async move { read_to_end(&mut reader, stream ^ 1, 0, 300 * KIB).await });
    }
    // Four pipes each: 64 KiB of their own and what the budget gives.
    until("full buffers", || {
        [&client, &server].iter().all(|session| session.stats().bytes_kept == 512 * KIB)
    })
    .await;
    world.relay.block(Direction::ToClient, false);
    attached_after(&client, epoch).await;
    while let Some(done) = soon("progress", work.join_next()).await {
        done.unwrap();
    }
    all_retired(&client, &server).await;
}

#[tokio::test]
async fn situation_13_drops_during_the_replay_only_let_offsets_grow() {
    let mut dice = Dice(13);
    let world = World::new().await;
    let (client, server) = world.session().await;
    let (mut ours, theirs) = pipe(&client, &server).await;
    let (mut reader, _their_writer) = theirs.into_split();
    world.relay.freeze();
    detached(&client).await;
    write_now(ours.writer(), 13, 0, 12 * MIB).await;
    ours.writer().finish();
    world.relay.thaw();
    let reading = tokio::spawn(async move {
        read_to_end(&mut reader, 13, 0, 12 * MIB).await;
        reader
    });
    let (mut drops, mut acked, mut epoch) = (0, 0, client.stats().epoch);
    while drops < 20 && !reading.is_finished() {
        epoch = attached_after(&client, epoch).await;
        let sent = world.relay.stats().to_server.datagrams + dice.pick(1..60);
        soon("replay", world.relay.wait_until(|stats| stats.to_server.datagrams >= sent)).await;
        match drops % 7 {
            3 => world.relay.cut(),
            5 => {
                world.relay.freeze();
                detached(&client).await;
                world.relay.thaw();
            }
            _ => {
                let again = client.clone();
                tokio::spawn(async move { again.reconnect().await });
            }
        }
        drops += 1;
        let now = ours.writer().acked();
        assert!(now >= acked, "an offset went back from {acked} to {now}");
        acked = now;
    }
    let reader = soon("the end", reading).await.unwrap();
    assert!(drops >= 10, "the replay was over after {drops} drops");
    assert_eq!(reader.offset(), 12 * MIB);
    soon("the ack", ours.writer().wait_acked(12 * MIB)).await.unwrap();
    assert!(ours.stats().replayed > 0);
}

#[tokio::test]
async fn situation_14_a_full_budget_stops_one_pipe_and_expiry_gives_all_memory_back() {
    let mut config = quick();
    // The server notices the outage by the idle timeout only.
    config.idle_timeout(Duration::from_millis(1_500)).replay_capacity(MIB);
    let linger = Duration::from_millis(300);
    let world = World::with(config, |server| {
        let mut limits = evermux::Limits::default();
        limits.replay_budget(256 * KIB);
        server.limits(limits).linger(linger);
    })
    .await;
    let (client, server) = world.session().await;
    let (_unread, full) = pipe(&client, &server).await;
    let (mut ours, mut theirs) = pipe(&client, &server).await;
    let (_idle_ours, idle) = pipe(&client, &server).await;
    let mut waiting = Waiters::of(&server, full, idle);
    until("a full budget", || world.server.stats().bytes_shared == 256 * KIB).await;
    // The other pipe has its own 64 KiB.
    let running = tokio::spawn(async move {
        write_now(theirs.writer(), 2, 0, MIB).await;
        soon("its acks", theirs.writer().wait_acked(MIB)).await.unwrap();
        theirs
    });
    read_exactly(ours.reader(), 2, 0, MIB).await;
    let mut theirs = soon("the other pipe", running).await.unwrap();
    assert_eq!(world.server.stats().bytes_shared, 256 * KIB);

    world.relay.freeze();
    detached(&server).await;
    write_now(theirs.writer(), 2, MIB, MIB + 64 * KIB).await;
    let expired = SessionError::Expired { linger };
    waiting.all_get(&expired).await;
    let write = soon("an error", theirs.writer().write(b"x")).await;
    assert_eq!(write, Err(WriteError::Session(expired.clone())));
    assert_eq!(server.close_reason(), Some(expired));
    let stats = world.server.stats();
    assert_eq!((stats.sessions, stats.bytes_shared, stats.expired), (0, 0, 1));
    assert_eq!(server.stats().bytes_kept, 0);
    world.relay.thaw();
    assert_eq!(soon("the news", client.closed()).await, SessionError::UnknownSession);
}

/// Everybody who can wait for something in a session, and the error each gets.
struct Waiters(JoinSet<(&'static str, SessionError)>);

impl Waiters {
    /// `full` is written to until it takes no more, `idle` is read from.
    fn of(session: &Session, full: BackedPipe, idle: BackedPipe) -> Self {
        let mut tasks = JoinSet::new();
        let (mut reader, mut writer) = idle.into_split();
        tasks.spawn(async move {
            match reader.read_chunk(1).await {
                Err(ReadError::Session(error)) => ("read", error),
                other => panic!("read gave {other:?}"),
            }
        });
        tasks.spawn(async move {
            writer.write_all(b"unread").await.unwrap();
            match writer.wait_acked(6).await {
                Err(WriteError::Session(error)) => ("wait_acked", error),
                other => panic!("wait_acked gave {other:?}"),
            }
        });
        let (full_reader, mut full_writer) = full.into_split();
        tasks.spawn(async move {
            let written = write_range(&mut full_writer, 14, 0, u64::MAX).await;
            drop(full_reader);
            match written {
                Err(WriteError::Session(error)) => ("write", error),
                other => panic!("write gave {other:?}"),
            }
        });
        let accepting = session.clone();
        tasks.spawn(async move {
            match accepting.accept_pipe().await {
                Err(error) => ("accept_pipe", error),
                Ok(None) => ("accept_pipe", accepting.close_reason().unwrap()),
                other => panic!("accept_pipe gave {other:?}"),
            }
        });
        let closed = session.clone();
        tasks.spawn(async move { ("closed", closed.closed().await) });
        Self(tasks)
    }

    async fn all_get(&mut self, expected: &SessionError) {
        while let Some(waiter) = soon("an error for everybody", self.0.join_next()).await {
            let (what, error) = waiter.unwrap();
            assert_eq!(&error, expected, "{what}");
        }
    }

    /// What everybody gets, which must be the same.
    async fn error(&mut self) -> SessionError {
        let first = soon("an error", self.0.join_next()).await.expect("somebody waits");
        let (_, error) = first.unwrap();
        self.all_get(&error).await;
        error
    }
}

/// A server on a runtime of its own, which can die like a process.
fn server_process(local: SocketAddr, identity: &Identity) -> Option<(Runtime, Server)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let within = runtime.enter();
    let server = Server::bind(local, ServerConfig::new(ServerTls::new(identity.clone())));
    drop(within);
    match server {
        Ok(server) => Some((runtime, server)),
        Err(_) => {
            runtime.shutdown_background();
            None
        }
    }
}

#[tokio::test]
async fn situation_15_a_restarted_server_ends_the_session_at_once() {
    let mut took = Duration::MAX;
    // QUIC's timers follow the load of the machine: the best of three counts.
    for _ in 0..3 {
        took = took.min(news_of_a_restart().await);
        if took < Duration::from_secs(2) {
            return;
        }
    }
    panic!("the news took {took:?} at best");
}

/// Restarts a server under a busy client; how long until the client knows.
async fn news_of_a_restart() -> Duration {
    let identity = Identity::self_signed(&["localhost"]).unwrap();
    let (process, server) =
        server_process((Ipv4Addr::LOCALHOST, 0).into(), &identity).expect("a socket");
    let local = server.local_addr().unwrap();
    let relay = Relay::start(local, 15).await.unwrap();
    let client = ClientConfig::new(ClientTls::with_pin(identity.fingerprint()));
    let client = Client::new(client).unwrap();
    let (session, there) = tokio::join!(client.connect(relay.addr()), async {
        server.accept().await.unwrap().accept()
    });
    let session = session.unwrap();
    let (ours, theirs) = pipe(&session, &there).await;
    let (idle_ours, idle_theirs) = pipe(&session, &there).await;
    let mut waiting = Waiters::of(&session, ours, idle_ours);
    until("a busy link", || there.stats().pipes == 2 && session.stats().bytes_written > MIB).await;

    // Its last words, if it had any, reach nobody.
    let mut events = session.events();
    relay.freeze();
    process.shutdown_background();
    drop((theirs, idle_theirs, there, server));
    let mut restarted = None;
    until("a free port", || {
        restarted = server_process(local, &identity);
        restarted.is_some()
    })
    .await;
    relay.thaw();
    let since = Instant::now();
    waiting.all_get(&SessionError::UnknownSession).await;
    let took = since.elapsed();
    let cause = event(&mut events, |event| match event {
        SessionEvent::Detached { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert_eq!(cause.await, DetachCause::PeerReset, "no timeout was needed");
    let (process, server) = restarted.unwrap();
    assert_eq!(server.stats().refused, 1);
    drop(server);
    process.shutdown_background();
    took
}

#[tokio::test]
async fn situation_15_an_unreachable_server_is_retried_and_the_session_lives() {
    let mut world = World::new().await;
    world.client.attempt_timeout(Duration::from_millis(200));
    let (client, server) = world.session().await;
    let (mut ours, mut theirs) = pipe(&client, &server).await;
    let mut events = client.events();
    let epoch = client.stats().epoch;
    world.relay.freeze();
    let last = event(&mut events, |event| match event {
        SessionEvent::Resuming { attempt: 5, last, .. } => Some(last.clone()),
        _ => None,
    })
    .await;
    assert!(matches!(last, Some(DialError::TimedOut { .. })), "{last:?}");
    world.relay.thaw();
    attached_after(&client, epoch).await;
    write_now(ours.writer(), 15, 0, 1_000).await;
    read_exactly(theirs.reader(), 15, 0, 1_000).await;
}

#[tokio::test]
async fn situation_17_a_pipe_dropped_while_detached_is_a_reset_after_the_resume() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let (mut ours, mut theirs) = pipe(&client, &server).await;
    let (kept_ours, kept_theirs) = pipe(&client, &server).await;
    write_now(theirs.writer(), 17, 0, 1_000).await;
    read_exactly(ours.reader(), 17, 0, 1_000).await;
    both_detached(&world, &client, &server).await;
    let epoch = client.stats().epoch;
    write_now(theirs.writer(), 17, 1_000, 2_000).await;
    drop(theirs);
    world.relay.block(Direction::ToClient, false);
    attached_after(&client, epoch).await;
    let read = soon("the reset", read_range(ours.reader(), 17, 1_000, u64::MAX)).await;
    assert_eq!(read, Err(ReadError::Reset { code: 0 }));
    let written = soon("the stop", ours.writer().wait_acked(1)).await;
    // Nothing was written: it is the stop that is waited for.
    assert_eq!(written, Err(WriteError::Stopped { code: 0 }));
    until("the end of one pipe", || client.stats().pipes == 1 && server.stats().pipes == 1).await;
    drop((kept_ours, kept_theirs));
    all_retired(&client, &server).await;
}

#[tokio::test]
async fn situation_18_empty_pipes_and_empty_writes_come_through_a_drop() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let (mut unused, mut unused_there) = pipe(&client, &server).await;
    let (mut ended, mut ended_there) = pipe(&client, &server).await;
    let (mut ends, mut ends_there) = pipe(&client, &server).await;
    let (mut nothing, mut nothing_there) = pipe(&server, &client).await;

    world.relay.freeze();
    ended.writer().finish();
    detached(&client).await;
    ends_there.writer().finish();
    let opened = client.open_pipe("").unwrap();
    for _ in 0..3 {
        assert_eq!(soon("an empty write", nothing.writer().write(&[])).await, Ok(0));
        let mut empty = Bytes::new();
        soon("an empty chunk", nothing_there.writer().write_chunk(&mut empty)).await.unwrap();
    }
    assert_eq!(nothing.reader().read(&mut []).await, Ok(Some(0)));
    let epoch = client.stats().epoch;
    world.relay.thaw();
    attached_after(&client, epoch).await;

    read_to_end(ended_there.reader(), 0, 0, 0).await;
    read_to_end(ends.reader(), 0, 0, 0).await;
    let opened_there = soon("the pipe", server.accept_pipe()).await.unwrap().unwrap();
    assert_eq!(opened_there.id(), opened.id());
    cut(&world, &client).await;
    for (stream, from, to) in
        [(1, unused.writer(), unused_there.reader()), (2, nothing.writer(), nothing_there.reader())]
    {
        write_now(from, stream, 0, 1).await;
        from.finish();
        read_to_end(to, stream, 0, 1).await;
    }
    write_now(ended_there.writer(), 3, 0, 1).await;
    read_exactly(ended.reader(), 3, 0, 1).await;
    drop((unused, unused_there, ended, ended_there, ends, ends_there));
    drop((nothing, nothing_there, opened, opened_there));
    all_retired(&client, &server).await;
}

fn as_resumed(event: &SessionEvent) -> Option<Epoch> {
    match event {
        SessionEvent::Resumed { epoch, .. } => Some(*epoch),
        _ => None,
    }
}

/// The events so far, after the next one that `last` accepts.
async fn events_up_to(
    events: &mut Events,
    last: impl Fn(&SessionEvent) -> bool,
) -> Vec<SessionEvent> {
    let mut seen = Vec::new();
    loop {
        let next = soon("an event", events.next()).await.expect("the session lives");
        let done = last(&next);
        seen.push(next);
        if done {
            return seen;
        }
    }
}

#[tokio::test]
async fn reconnects_at_the_same_time_are_one() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let mut there = server.events();
    let before = client.stats().epoch;
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let session = client.clone();
        calls.spawn(async move { session.reconnect().await });
    }
    let mut epochs = Vec::new();
    while let Some(epoch) = soon("a reconnect", calls.join_next()).await {
        epochs.push(epoch.unwrap().unwrap());
    }
    assert_eq!(epochs, vec![epochs[0]; 8]);
    assert_eq!(epochs[0].get(), before.get() + 1);
    assert_eq!((client.stats().resumes, server.stats().resumes), (1, 1));
    // A call on the server asks the client to come back.
    let again = soon("a reconnect", server.reconnect()).await.unwrap();
    assert_eq!(again.get(), before.get() + 2);
    attached_after(&client, epochs[0]).await;
    let seen = events_up_to(&mut there, |event| as_resumed(event) == Some(again)).await;
    let detached = seen.iter().filter(|event| matches!(event, SessionEvent::Detached { .. }));
    assert_eq!(detached.count(), 2, "{seen:?}");
}

#[tokio::test]
async fn an_outage_is_told_in_order_and_once() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let _pipes = pipe(&client, &server).await;
    let (mut here, mut there) = (client.events(), server.events());
    for round in 0..3 {
        let epoch = client.stats().epoch;
        let since = Instant::now();
        world.relay.freeze();
        detached(&client).await;
        assert!(matches!(client.link(), LinkState::Detached { cause: DetachCause::TimedOut, .. }));
        let down = client.stats().downtime;
        until("time without a link", || client.stats().downtime > down).await;
        world.relay.thaw();
        let resumed = attached_after(&client, epoch).await;
        let outage = since.elapsed();
        let seen = events_up_to(&mut here, |event| as_resumed(event).is_some()).await;
        // A machine under load may be silent for a moment, and suspected in vain.
        let recovered = |event: &SessionEvent| matches!(event, SessionEvent::Recovered { .. });
        let begins = seen.iter().rposition(recovered).map_or(0, |last| last + 1);
        let seen = &seen[begins..];
        // It is given up while it is suspect already, and a new one is on its way.
        assert!(matches!(&seen[0], SessionEvent::Suspect { epoch: of, .. } if *of == epoch));
        let (last, attempts) = seen[1..].split_last().unwrap();
        let (lost, attempts): (Vec<_>, Vec<_>) =
            attempts.iter().partition(|event| is_detached(event, epoch));
        assert!(lost.len() == 1 && !attempts.is_empty(), "round {round}: {seen:?}");
        for (number, attempt) in (1..).zip(attempts) {
            let SessionEvent::Resuming { attempt, last, .. } = attempt else {
                panic!("round {round}: {seen:?}");
            };
            assert_eq!((*attempt, last.is_some()), (number, number > 1));
        }
        let SessionEvent::Resumed { epoch: new, downtime, .. } = last else {
            panic!("round {round}: {seen:?}");
        };
        assert_eq!(*new, resumed);
        // It counts from the last sign of life, which was a probe's answer.
        let most = outage + Duration::from_secs(1);
        assert!(*downtime <= most, "{downtime:?} of {outage:?}");
        let seen = events_up_to(&mut there, |event| as_resumed(event).is_some()).await;
        assert!(is_detached(&seen[0], epoch) && seen.len() == 2, "{seen:?}");
    }
    client.close(CloseCode::DONE, b"");
    let seen = events_up_to(&mut here, |event| matches!(event, SessionEvent::Closed { .. })).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
}

fn is_detached(event: &SessionEvent, of: Epoch) -> bool {
    matches!(event, SessionEvent::Detached { epoch, .. } if *epoch == of)
}

#[tokio::test]
async fn giving_up_tells_everybody_who_waits() {
    let mut config = quick();
    config.replay_capacity(64 * KIB);
    let mut world = World::with(config, |_| {}).await;
    // Beyond the time for which a silent link is hoped for.
    let limit = Duration::from_millis(1_500);
    world.client.attempt_timeout(Duration::from_millis(150)).reconnect(
        ReconnectPolicy::exponential(Duration::from_millis(10), Duration::from_millis(50))
            .give_up_after(limit),
    );
    let (client, server) = world.session().await;
    let (full, _full_there) = pipe(&client, &server).await;
    let (idle, _idle_there) = pipe(&client, &server).await;
    let mut waiting = Waiters::of(&client, full, idle);
    until("a full buffer", || client.stats().bytes_kept >= 64 * KIB).await;
    world.relay.freeze();
    detached(&client).await;
    let attached = tokio::spawn({
        let client = client.clone();
        async move { client.attached().await }
    });
    let error = waiting.error().await;
    let SessionError::GaveUp { outage, last } = &error else {
        panic!("{error:?}");
    };
    assert!(*outage >= limit && *outage < limit + Duration::from_secs(2), "{outage:?}");
    assert!(matches!(last, DialError::TimedOut { .. } | DialError::Lost { .. }), "{last:?}");
    assert_eq!(soon("an error", attached).await.unwrap(), Err(error.clone()));
    assert_eq!(client.reconnect().await, Err(error.clone()));
    assert_eq!(client.shutdown().await, Err(error.clone()));
    assert_eq!(client.open_pipe("").unwrap_err(), error.into());
    assert_eq!(client.stats().bytes_kept, 0);
}

#[tokio::test]
async fn close_ends_both_sides_once_with_its_code() {
    for (closed_by_server, detached_first) in [(false, false), (true, false), (false, true)] {
        let mut config = quick();
        config.replay_capacity(64 * KIB);
        let world = World::with(config, |_| {}).await;
        let (client, server) = world.session().await;
        let (full, _full_there) = pipe(&client, &server).await;
        let (idle, _idle_there) = pipe(&client, &server).await;
        let (full_there, _full_here) = pipe(&server, &client).await;
        let (idle_there, _idle_here) = pipe(&server, &client).await;
        let mut here = Waiters::of(&client, full, idle);
        let mut there = Waiters::of(&server, full_there, idle_there);
        until("full buffers", || {
            [&client, &server].iter().all(|session| session.stats().bytes_kept >= 64 * KIB)
        })
        .await;
        let code = CloseCode::application(7);
        let local = SessionError::LocallyClosed { code };
        let far = SessionError::PeerClosed { code, reason: Bytes::from_static(b"enough") };
        if detached_first {
            world.relay.freeze();
            detached(&client).await;
        }
        let (closing, local_waiters, far_waiters) = match closed_by_server {
            false => (&client, &mut here, &mut there),
            true => (&server, &mut there, &mut here),
        };
        closing.close(code, b"enough");
        closing.close(CloseCode::application(8), b"again");
        local_waiters.all_get(&local).await;
        closing.close(CloseCode::application(9), b"and again");
        assert_eq!(closing.closed().await, local);
        assert_eq!(closing.open_pipe("").unwrap_err(), local.into());
        if detached_first {
            // Nobody can be told, and nobody waits for that.
            continue;
        }
        far_waiters.all_get(&far).await;
        assert_eq!(world.server.stats().sessions, 0);
    }
}

#[tokio::test]
async fn a_close_in_the_middle_of_an_upload_reaches_the_peer() {
    // More is under way than the congestion window takes: CONNECTION_CLOSE must
    // not wait behind it.
    for far_writes_too in [false, true] {
        let world = World::new().await;
        let (client, server) = world.session().await;
        let (mut ours, mut theirs) = pipe(&client, &server).await;
        write_now(ours.writer(), 1, 0, 2 * MIB).await;
        if far_writes_too {
            write_now(theirs.writer(), 2, 0, 2 * MIB).await;
        }
        let code = CloseCode::application(1);
        client.close(code, b"");
        let far = SessionError::PeerClosed { code, reason: Bytes::new() };
        assert_eq!(soon("the news", server.closed()).await, far);
    }
    let world = World::new().await;
    let (client, server) = world.session().await;
    let (_ours, mut theirs) = pipe(&client, &server).await;
    write_now(theirs.writer(), 1, 0, 2 * MIB).await;
    world.server.shutdown(Duration::from_secs(5)).await;
    let far = SessionError::PeerClosed { code: CloseCode::GOING_AWAY, reason: Bytes::new() };
    assert_eq!(soon("the news", client.closed()).await, far);
    assert!(soon("the end", world.server.accept()).await.is_none());

    let world = World::new().await;
    let (client, server) = world.session().await;
    let (mut ours, theirs) = pipe(&client, &server).await;
    write_now(ours.writer(), 1, 0, 2 * MIB).await;
    drop((ours, client));
    let far = SessionError::PeerClosed { code: CloseCode::ABANDONED, reason: Bytes::new() };
    assert_eq!(soon("the news", server.closed()).await, far);
    drop(theirs);
}

#[tokio::test]
async fn a_runtime_that_goes_away_ends_its_sessions_for_everybody_who_waits() {
    let identity = Identity::self_signed(&["localhost"]).unwrap();
    let (process, server) =
        server_process((Ipv4Addr::LOCALHOST, 0).into(), &identity).expect("a socket");
    let client = Client::new(client_config(identity.fingerprint(), quick())).unwrap();
    let (session, there) = tokio::join!(client.connect(server.local_addr().unwrap()), async {
        server.accept().await.unwrap().accept()
    });
    let session = session.unwrap();
    let (full, _full_here) = pipe(&there, &session).await;
    let (idle, _idle_here) = pipe(&there, &session).await;
    let mut waiting = Waiters::of(&there, full, idle);
    until("a full buffer", || there.stats().bytes_kept >= 2 * MIB).await;
    process.shutdown_background();
    let ended = SessionError::LocallyClosed { code: CloseCode::GOING_AWAY };
    waiting.all_get(&ended).await;
    assert_eq!(there.stats().bytes_kept, 0);
    assert_eq!(server.stats().sessions, 0);
}

/// What the other side says is what everybody is told, also if this side was about to
/// say something nicer.
#[tokio::test]
async fn a_close_that_comes_during_a_shutdown_is_told_as_it_was_said() {
    let enough = (CloseCode::application(7), &b""[..]);
    for (code, reason) in [enough, (CloseCode::DONE, b"in a hurry"), (CloseCode::DONE, b"")] {
        let world = World::new().await;
        let (client, server) = world.session().await;
        let (mut ours, _theirs) = pipe(&client, &server).await;
        // Not read over there: the shutdown goes on waiting.
        write_now(ours.writer(), 1, 0, 1_000).await;
        let shutdown = tokio::spawn({
            let client = client.clone();
            async move { client.shutdown().await }
        });
        until("the shutdown", || client.open_pipe("").is_err()).await;
        server.close(code, reason);
        let told = soon("the end", client.closed()).await;
        let reason = Bytes::from_static(reason);
        let expected = SessionError::PeerClosed { code, reason };
        assert_eq!(told, expected);
        // Bytes were lost, and that is not hidden.
        assert_eq!(soon("the shutdown", shutdown).await.unwrap(), Err(expected));
    }
}

/// The runtime of a session's task may end before those who wait for the session.
#[test]
fn nobody_waits_for_a_session_whose_runtime_is_gone() {
    let make = || tokio::runtime::Runtime::new().unwrap();
    let (sessions, waiters) = (make(), make());
    let (world, client, mut ours, _theirs) = sessions.block_on(async {
        let world = World::new().await;
        let (client, server) = world.session().await;
        let (ours, theirs) = pipe(&client, &server).await;
        (world, client, ours, theirs)
    });
    waiters.block_on(async {
        let read = ours.reader().read_chunk(100);
        let (ended, read) = tokio::join!(client.closed(), async {
            tokio::task::spawn_blocking(move || sessions.shutdown_background()).await.unwrap();
            soon("the end", read).await
        });
        assert_eq!(read, Err(ended.into()));
    });
    drop(world);
}

#[tokio::test]
async fn shutdown_waits_through_an_outage_until_everything_is_read() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let (mut ours, mut theirs) = pipe(&client, &server).await;
    write_now(ours.writer(), 1, 0, 50_000).await;
    world.relay.freeze();
    detached(&client).await;
    write_now(ours.writer(), 1, 50_000, 300_000).await;
    ours.writer().finish();
    let epoch = client.stats().epoch;
    let shutdown = tokio::spawn({
        let client = client.clone();
        async move { client.shutdown().await }
    });
    until("the shutdown", || client.open_pipe("").is_err()).await;
    world.relay.thaw();
    attached_after(&client, epoch).await;
    read_exactly(theirs.reader(), 1, 0, 300_000).await;
    soon("the acks", ours.writer().wait_acked(300_000)).await.unwrap();
    assert!(!shutdown.is_finished() && client.close_reason().is_none(), "the FIN was not seen");
    assert_eq!(theirs.reader().read_chunk(1).await, Ok(None));
    soon("the shutdown", shutdown).await.unwrap().unwrap();
    let done = SessionError::PeerClosed { code: CloseCode::DONE, reason: Bytes::new() };
    assert_eq!(soon("the close", server.closed()).await, done);
    assert!(soon("the end", server.accept_pipe()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_cannot_be_had_is_named_with_the_reason() {
    let world = World::new().await;
    let connect = async |config: ClientConfig, target: Target| -> DialError {
        let client = Client::new(config).unwrap();
        match soon("an error", client.connect(target)).await {
            Err(ConnectError::Dial(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let stranger = Identity::self_signed(&["localhost"]).unwrap();
    let wrong_pin = client_config(stranger.fingerprint(), quick());
    let error = connect(wrong_pin, world.relay.addr().into()).await;
    assert_eq!(error, DialError::Tls(TlsError::UntrustedPeer));

    let error = connect(world.client.clone(), Target::new("no-such-host.invalid", 1)).await;
    assert!(
        matches!(&error, DialError::Resolve { host, .. } if host == "no-such-host.invalid"),
        "{error:?}"
    );

    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut config = world.client.clone();
    let waited = Duration::from_millis(300);
    config.attempt_timeout(waited);
    let error = connect(config, nobody.into()).await;
    let DialError::TimedOut { target, waited: took } = error else { panic!("{error:?}") };
    assert_eq!((target, took >= waited), (nobody.to_string(), true));

    let begun = world.server.stats();
    assert_eq!((begun.sessions, begun.begun), (0, 0));
}

#[tokio::test]
async fn a_client_behind_another_port_goes_on_in_the_same_epoch() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let (mut ours, mut theirs) = pipe(&client, &server).await;
    let mut there = server.events();
    let epoch = client.stats().epoch;
    let mut offset = 0;
    let mut addrs = Vec::new();
    for _ in 0..3 {
        world.relay.renumber();
        write_now(ours.writer(), 1, offset, offset + 100_000).await;
        read_exactly(theirs.reader(), 1, offset, offset + 100_000).await;
        write_now(theirs.writer(), 2, offset, offset + 100_000).await;
        read_exactly(ours.reader(), 2, offset, offset + 100_000).await;
        offset += 100_000;
        let addr = event(&mut there, |event| match event {
            SessionEvent::Migrated { remote_addr, .. } => Some(*remote_addr),
            SessionEvent::Detached { .. } => panic!("{event:?}"),
            _ => None,
        });
        addrs.push(addr.await);
        assert!(matches!(
            server.link(),
            LinkState::Attached { remote_addr, .. } if Some(&remote_addr) == addrs.last()
        ));
    }
    addrs.dedup();
    assert_eq!(addrs.len(), 3, "each time another port");
    assert_eq!((client.stats().epoch, server.stats().epoch), (epoch, epoch));
}
