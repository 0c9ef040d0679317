//! Every bound holds, and what is bounded waits or is refused with a reason.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use evermux::{
    BackedPipe, Client, ClientConfig, ClientTls, CloseCode, ConnectError, DialError, Identity,
    LABEL_MAX, Limits, OpenError, ReadError, RefuseCode, Session, SessionConfig, WriteError,
};
use tokio::task::JoinSet;

use crate::fixture::{
    World, all_retired, attached_after, both_detached, client_config, detached, pipe, quick,
    read_range, soon, until, write_range,
};
use crate::relay::Direction;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What each pipe may keep outside of all budgets.
const SHARE: u64 = 64 * KIB;

/// Writes to `pipe` until it takes no more right now; says how much it took.
fn fill(pipe: &mut BackedPipe) -> u64 {
    let before = pipe.writer().offset();
    let mut cx = Context::from_waker(Waker::noop());
    while pin!(pipe.writer().write(&[7; 10_000])).poll(&mut cx).is_ready() {}
    pipe.writer().offset() - before
}

/// Writes whenever there is room, until `full` holds.
async fn fill_until(pipe: &mut BackedPipe, mut full: impl FnMut(&BackedPipe) -> bool) {
    until("a full buffer", || {
        fill(pipe);
        full(pipe)
    })
    .await;
}

/// Reads `bytes` bytes.
async fn take(pipe: &mut BackedPipe, bytes: u64) {
    let end = pipe.reader().offset() + bytes;
    while pipe.reader().offset() < end {
        let max = (end - pipe.reader().offset()) as usize;
        soon("bytes", pipe.reader().read_chunk(max)).await.unwrap().expect("more to come");
    }
}

#[tokio::test]
async fn the_replay_capacity_bounds_what_is_kept_and_writes_wait() {
    const CAPACITY: u64 = 100_000;
    let mut config = quick();
    config.replay_capacity(CAPACITY);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    let (mut ours, mut theirs) = pipe(&client, &server).await;
    fill_until(&mut ours, |pipe| pipe.stats().written == CAPACITY).await;
    assert_eq!(ours.stats().kept, CAPACITY);
    take(&mut theirs, 30_000).await;
    soon("an ack", ours.writer().wait_acked(30_000)).await.unwrap();
    fill_until(&mut ours, |pipe| pipe.stats().written == CAPACITY + 30_000).await;
    assert_eq!(ours.stats().kept, CAPACITY);
    // The same while detached, and after.
    both_detached(&world, &client, &server).await;
    assert_eq!((fill(&mut ours), ours.stats().kept), (0, CAPACITY));
    assert_eq!((fill(&mut theirs), fill(&mut theirs)), (CAPACITY, 0));
    let epoch = client.stats().epoch;
    world.relay.block(Direction::ToClient, false);
    attached_after(&client, epoch).await;
    assert_eq!((fill(&mut ours), ours.stats().kept), (0, CAPACITY));
    take(&mut theirs, CAPACITY).await;
    take(&mut ours, CAPACITY).await;
    until("empty buffers", || ours.stats().kept == 0 && theirs.stats().kept == 0).await;
    // A writer that waits for room is woken by it.
    fill_until(&mut ours, |pipe| pipe.stats().kept == CAPACITY).await;
    let (reader, mut writer) = ours.into_split();
    let waiting = tokio::spawn(async move { (writer.write(b"one more").await, writer) });
    take(&mut theirs, CAPACITY).await;
    let (written, writer) = soon("room", waiting).await.unwrap();
    assert_eq!(written, Ok(8));
    drop((reader, writer, theirs));
    all_retired(&client, &server).await;
}

#[tokio::test]
async fn a_session_budget_that_is_used_up_leaves_each_pipe_its_own_share() {
    const BUDGET: u64 = 128 * KIB;
    let mut config = quick();
    config.replay_capacity(MIB).replay_budget(BUDGET);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    let (mut greedy, mut greedy_there) = pipe(&client, &server).await;
    fill_until(&mut greedy, |pipe| pipe.stats().kept == BUDGET + SHARE).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let (mut ours, theirs) = pipe(&client, &server).await;
        fill_until(&mut ours, |pipe| pipe.stats().kept == SHARE).await;
        others.push((ours, theirs));
    }
    for pipe in others.iter_mut().map(|(ours, _)| ours).chain([&mut greedy]) {
        assert_eq!(fill(pipe), 0);
    }
    assert_eq!(client.stats().bytes_kept, BUDGET + 5 * SHARE);
    assert_eq!(world.server.stats().bytes_shared, 0, "a client's bytes are its own");
    // What one gives back another can have, and is woken for.
    let (ours, mut theirs) = others.pop().unwrap();
    let (_reader, mut writer) = ours.into_split();
    let waiting = tokio::spawn(async move {
        write_range(&mut writer, 1, SHARE, SHARE + BUDGET).await.unwrap();
        writer
    });
    take(&mut greedy_there, BUDGET).await;
    let mut writer = soon("what was given back", waiting).await.unwrap();
    assert_eq!(client.stats().bytes_kept, BUDGET + 5 * SHARE);
    assert_eq!(fill(&mut greedy), 0);
    // A pipe that is given up gives everything back.
    writer.reset(1);
    take(&mut greedy_there, SHARE).await;
    fill_until(&mut greedy, |pipe| pipe.stats().kept == BUDGET + SHARE).await;
    let reset = soon("the reset", async {
        loop {
            if let Err(error) = theirs.reader().read_chunk(usize::MAX).await {
                break error;
            }
        }
    });
    assert_eq!(reset.await, ReadError::Reset { code: 1 });
}

#[tokio::test]
async fn more_pipes_than_the_peer_allows_are_refused_until_one_is_done() {
    let mut config = quick();
    config.max_pipes(3);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    for (opener, acceptor) in [(&client, &server), (&server, &client)] {
        let mut pipes = Vec::new();
        for _ in 0..3 {
            pipes.push(pipe(opener, acceptor).await);
        }
        let refused = || opener.open_pipe("").unwrap_err();
        assert_eq!(refused(), OpenError::TooManyPipes { allowed: 3 });
        both_detached(&world, &client, &server).await;
        assert_eq!(refused(), OpenError::TooManyPipes { allowed: 3 });
        let epoch = client.stats().epoch;
        drop(pipes.pop());
        // Done is what both sides know to be done.
        assert_eq!(refused(), OpenError::TooManyPipes { allowed: 3 });
        world.relay.block(Direction::ToClient, false);
        attached_after(&client, epoch).await;
        until("the end of a pipe", || opener.stats().pipes == 2).await;
        pipes.push(pipe(opener, acceptor).await);
        assert_eq!(refused(), OpenError::TooManyPipes { allowed: 3 });
        drop(pipes);
        all_retired(&client, &server).await;
    }
}

#[tokio::test]
async fn more_sessions_than_the_server_allows_are_refused_as_overload() {
    let world = World::with(quick(), |server| {
        let mut limits = Limits::default();
        limits.max_sessions(1);
        server.limits(limits);
    })
    .await;
    let (first, there) = world.session().await;
    let config = client_config(world.identity.fingerprint(), quick());
    let second = Client::new(config).unwrap();
    let refused = soon("an answer", second.connect(world.relay.addr())).await.unwrap_err();
    let ConnectError::Dial(DialError::Refused { code, reason }) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(*code, RefuseCode::OVERLOADED);
    assert!(!reason.is_empty());
    assert_eq!((world.server.stats().sessions, world.server.stats().refused), (1, 1));
    // Nobody was disturbed, and an outage keeps the place.
    let epoch = first.stats().epoch;
    soon("a reconnect", first.reconnect()).await.unwrap();
    assert!(attached_after(&there, epoch).await > epoch);
    first.close(CloseCode::DONE, b"");
    until("a free place", || world.server.stats().sessions == 0).await;
    let (_second, _there) = world.session().await;
}

#[tokio::test]
async fn a_label_has_at_most_its_length() {
    let world = World::new().await;
    let (client, server) = world.session().await;
    let longest = vec![b'l'; LABEL_MAX];
    let opened = client.open_pipe(longest.clone()).unwrap();
    let accepted = soon("a pipe", server.accept_pipe()).await.unwrap().unwrap();
    assert_eq!((accepted.id(), accepted.label()), (opened.id(), Bytes::from(longest)));
    let refused = client.open_pipe(vec![b'l'; LABEL_MAX + 1]).unwrap_err();
    assert_eq!(refused, OpenError::LabelTooLong { len: LABEL_MAX + 1, max: LABEL_MAX });
    assert_eq!(client.stats().pipes, 1);
}

/// Sends back whatever comes, in every pipe, to its end.
async fn echo(session: Session) {
    let mut pipes = JoinSet::new();
    while let Ok(Some(pipe)) = session.accept_pipe().await {
        pipes.spawn(async move {
            let (mut reader, mut writer) = pipe.into_split();
            while let Some(mut chunk) = reader.read_chunk(usize::MAX).await.unwrap() {
                writer.write_chunk(&mut chunk).await.unwrap();
            }
            writer.finish();
        });
    }
}

#[tokio::test]
async fn a_thousand_pipes_over_few_streams_all_open_and_come_back() {
    const PIPES: u64 = 1_000;
    let mut config = quick();
    config.initial_streams(8);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    let echo = tokio::spawn(echo(server.clone()));
    let mut pipes = Vec::new();
    for stream in 0..PIPES {
        let mut pipe = client.open_pipe("").unwrap();
        write_range(pipe.writer(), stream, 0, 100).await.unwrap();
        pipes.push(pipe);
    }
    for (stream, pipe) in (0..).zip(&mut pipes) {
        let read = soon("the echo", read_range(pipe.reader(), stream, 0, 100)).await;
        assert_eq!(read, Ok(100));
    }
    assert_eq!((client.stats().pipes, server.stats().pipes), (PIPES, PIPES));
    let epoch = client.stats().epoch;
    world.relay.freeze();
    for (stream, pipe) in (0..).zip(&mut pipes) {
        write_range(pipe.writer(), stream, 100, 200).await.unwrap();
    }
    detached(&client).await;
    world.relay.thaw();
    attached_after(&client, epoch).await;
    world.relay.cut();
    for (stream, pipe) in (0..).zip(&mut pipes) {
        pipe.writer().finish();
        let read = soon("the echo", read_range(pipe.reader(), stream, 100, u64::MAX)).await;
        assert_eq!(read, Ok(200));
    }
    all_retired(&client, &server).await;
    client.close(CloseCode::DONE, b"");
    soon("the end", echo).await.unwrap();
}

#[tokio::test]
async fn a_stopped_reader_costs_its_capacity_and_stops_nobody_else() {
    const CAPACITY: u64 = MIB;
    let mut config = quick();
    config.replay_capacity(CAPACITY);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    let (ours, mut unread) = pipe(&client, &server).await;
    let (mut busy, mut busy_there) = pipe(&client, &server).await;
    let (_reader, mut writer) = ours.into_split();
    let stuck = tokio::spawn(async move {
        for _ in 0..10_000 {
            let mut chunk = Bytes::from(vec![7; MIB as usize]);
            writer.write_chunk(&mut chunk).await?;
        }
        Ok::<_, WriteError>(writer)
    });
    let streaming = tokio::spawn(async move {
        let written = write_range(busy.writer(), 2, 0, 20 * MIB).await;
        busy.writer().finish();
        (busy, written)
    });
    let mut offset = 0;
    for part in 1..=20 {
        let read = read_range(busy_there.reader(), 2, offset, part * MIB);
        offset = soon("the other pipe", read).await.unwrap();
        let kept = client.stats().bytes_kept;
        assert!(kept <= 2 * CAPACITY, "{kept} bytes kept");
        assert!(unread.stats().read == 0 && !stuck.is_finished());
        if part == 10 {
            soon("a reconnect", client.reconnect()).await.unwrap();
        }
    }
    assert_eq!(soon("the end", busy_there.reader().read_chunk(1)).await, Ok(None));
    let (busy, written) = soon("the end", streaming).await.unwrap();
    written.unwrap();
    until("nothing but the unread", || client.stats().bytes_kept == CAPACITY).await;
    assert_eq!(client.stats().bytes_written, 20 * MIB + CAPACITY);
    // The reader comes back to life, then gives up.
    take(&mut unread, CAPACITY / 2).await;
    until("room used again", || client.stats().bytes_written == 20 * MIB + CAPACITY * 3 / 2).await;
    assert_eq!(client.stats().bytes_kept, CAPACITY);
    unread.reader().stop(5);
    let stopped = soon("the stop", stuck).await.unwrap();
    assert_eq!(stopped.unwrap_err(), WriteError::Stopped { code: 5 });
    drop((unread, busy, busy_there));
    until("no memory", || client.stats().bytes_kept == 0).await;
}

/// Not a limit of ours: that `fill` polls once and drops relies on it.
#[tokio::test]
async fn a_write_that_is_pending_has_written_nothing() {
    let mut config = quick();
    config.replay_capacity(KIB);
    let world = World::with(config, |_| {}).await;
    let (client, server) = world.session().await;
    let (mut ours, _theirs) = pipe(&client, &server).await;
    assert_eq!(fill(&mut ours), KIB);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(pin!(ours.writer().write(b"x")).poll(&mut cx), Poll::Pending));
    assert_eq!(ours.writer().offset(), KIB);
}

#[test]
fn settings_that_cannot_be_are_refused_with_those_that_can() {
    type Change = fn(&mut ClientConfig);
    let changes: [(Change, &str); 4] = [
        (
            |config| _ = config.max_udp_payload(1199),
            "max_udp_payload is 1199, it must be between 1200 and 6500",
        ),
        (
            |config| _ = config.max_udp_payload(6501),
            "max_udp_payload is 6501, it must be between 1200 and 6500",
        ),
        (
            |config| _ = config.dial_interval(Duration::from_millis(9)),
            "dial_interval in ms is 9, it must be between 10 and",
        ),
        (
            |config| _ = config.session(SessionConfig::default().max_pipes(0).clone()),
            "max_pipes is 0, it must be between 1 and 1048576",
        ),
    ];
    let identity = Identity::self_signed(&["localhost"]).unwrap();
    for (change, complaint) in changes {
        let mut config = ClientConfig::new(ClientTls::with_pin(identity.fingerprint()));
        change(&mut config);
        let error = Client::new(config).expect_err("refused").to_string();
        assert!(error.contains(complaint), "{error}");
    }
}

/// Its route carries them, and nothing else is on the way. (The growth itself is played
/// in tests/sim/datagrams.rs.)
#[tokio::test]
async fn datagrams_become_large_to_a_loopback_address_unless_the_client_forbids() {
    for (allowed, sizes) in [(None, 6400..=6500), (Some(1300), 1280..=1300)] {
        let mut world = World::new().await;
        if let Some(bytes) = allowed {
            world.client.max_udp_payload(bytes);
        }
        let (client, server) = world.session().await;
        let (mut ours, mut theirs) = pipe(&client, &server).await;
        // Each side finds out for itself, with what it sends.
        until("datagrams that have grown", || {
            fill(&mut ours);
            fill(&mut theirs);
            let sides = [client.stats().mtu, server.stats().mtu];
            sides.into_iter().all(|mtu| mtu.is_some_and(|mtu| sizes.contains(&mtu)))
        })
        .await;
    }
}
