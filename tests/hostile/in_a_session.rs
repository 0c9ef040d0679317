//! In a session.

use std::time::Duration;

use evermux::{SessionConfig, SessionError};
use quinn::VarInt;

use crate::raw::{self, Dial, codes, frame, frames, header, numbers, table};
use crate::world::{HOLDER, RawSession, World, expect, goes_on, now, soon, two_to_the_60};

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_in_its_session_ends_only_that() {
    let world = World::new().await;
    let ack = |entries: &[u64]| frame(frames::ACKS, &numbers(entries));
    let reset = |fields: &[u64]| frame(frames::RESET, &numbers(fields));
    let stop = |fields: &[u64]| frame(frames::STOP, &numbers(fields));
    let early: Vec<u8> = (1..=1025).flat_map(|index| reset(&[2 * index, 0, 0])).collect();
    let welcome = frame(frames::WELCOME, &[&[0; 48][..], raw::PARAMETERS].concat());
    // On the control stream. Ten bytes went to and fro on pipe c0.
    let control: Vec<(Vec<u8>, &str)> = vec![
        (ack(&[0, 0, 11]), "asked pipe c0 for offset 11, but only 10 bytes were ever written"),
        (ack(&[0, 0, 10, 0, 0, 5]), "asked pipe c0 for offset 5, but acknowledged 10 bytes before"),
        (ack(&[0, 1, 10]), "forgot pipe c0 before its end"),
        (ack(&[0, 2, 10]), "its field \"ack flags\" has a value without meaning"),
        (ack(&[8, 0, 0]), "named pipe c4, which was never opened"),
        (ack(&[1, 0, 5]), "named pipe s0, which was never opened"),
        (reset(&[1, 0, 0]), "named pipe s0, which was never opened"),
        (stop(&[1, 0, 0]), "named pipe s0, which was never opened"),
        (reset(&[0, 7, 9]), "ended pipe c0 at offset 9, below the 10 bytes read so far"),
        (stop(&[0, 7, 11]), "asked pipe c0 for offset 11, but only 10 bytes were ever written"),
        (stop(&[0, 1 << 32, 10]), "its field \"code\" has a value without meaning"),
        (early, "opened more pipes than the 1024 allowed"),
        ([reset(&[4000, 0, 0]), stop(&[4000, 0, 0])].concat(), "more pipes than the 1024 allowed"),
        (raw::hello(&HOLDER), "sent a HELLO frame where it has no place"),
        (welcome, "sent a WELCOME frame where it has no place"),
        (frame(frames::TABLE_HEAD, &[1, 0]), "sent a TABLE_HEAD frame where it has no place"),
        (vec![0x0c, 0], "sent a malformed frame: it ends in the middle of a field"),
        ([&[0x09][..], &two_to_the_60()].concat(), "claims 1152921504606846976 bytes"),
    ];
    // On a new stream.
    let long = [b'x'; 1025];
    let streams: Vec<(Vec<u8>, &str)> = vec![
        (header(1, 1, 0, Some(b"")), "named pipe s0, which was never opened"),
        (header(1, 2, 0, None), "named pipe c1, which was never opened"),
        (header(7, 2, 0, Some(b"")), "used epoch 7 on the connection of epoch 1"),
        (header(0, 2, 0, Some(b"")), "used epoch 0 on the connection of epoch 1"),
        (header(1, 0, 10, None), "opened a second stream for pipe c0 on one connection"),
        (header(1, 0, 0, Some(b"")), "opened a second stream for pipe c0 on one connection"),
        (
            header(1, 2, 9, Some(b"")),
            "continued pipe c1 at offset 9, beyond the 0 bytes read so far",
        ),
        (header(1, 2 * 2000, 0, Some(b"")), "opened more pipes than the 1024 allowed"),
        (header(1, (1 << 62) - 2, 0, Some(b"")), "opened more pipes than the 1024 allowed"),
        (header(1, 2, 0, Some(&long)), "it claims 1025 bytes, more than the 1024 allowed"),
        ([&[0x40][..], &two_to_the_60()].concat(), "claims 1152921504606846976 bytes"),
        (vec![0x77, 3, 1, 2, 0], "its field \"stream header kind\" has a value without meaning"),
        (vec![0x40, 1, 1], "sent a malformed frame: it ends in the middle of a field"),
    ];
    for (control, stream, complaint) in control
        .into_iter()
        .map(|(bytes, complaint)| (bytes, Vec::new(), complaint))
        .chain(streams.into_iter().map(|(bytes, complaint)| (Vec::new(), bytes, complaint)))
    {
        let mut session = RawSession::begin(&world).await;
        let _pipe = session.ten_bytes().await;
        session.control.say(&control).await;
        // Dropped, it would be reset, and its header lost.
        let _stream = session.peer.stream(&stream).await;
        let (code, reason) = soon("a close", session.peer.closed()).await;
        assert_eq!(code, codes::VIOLATION, "{complaint}");
        assert!(reason.contains(complaint), "{reason} is not {complaint}");
        match soon("the end of the session", world.session(session.id).closed()).await {
            SessionError::PeerMisbehaved(misbehaved) => assert_eq!(misbehaved.to_string(), reason),
            other => panic!("ended otherwise: {other}"),
        }
        world.all_is_well().await;
    }
    assert_eq!(world.server.stats().sessions, 1);
}

#[tokio::test]
async fn a_wrong_answer_on_the_servers_own_stream_is_named() {
    let world = World::new().await;
    for (answer, complaint) in [
        (header(9, 1, 0, None), "used epoch 9 on the connection of epoch 1"),
        (header(1, 3, 0, None), "named pipe s1, which was never opened"),
        (header(1, 1, 0, Some(b"")), "named pipe s0, which was never opened"),
        (header(1, 1, 5, None), "continued pipe s0 at offset 5, beyond the 0 bytes read so far"),
        (vec![0x77], "its field \"stream header kind\" has a value without meaning"),
    ] {
        let session = RawSession::begin(&world).await;
        let _pipe = session.peer.stream(&header(1, 0, 0, Some(b"call back"))).await;
        let called = soon("a call", session.peer.connection.accept_bi()).await;
        let (mut send, mut recv) = called.unwrap();
        expect(&mut recv, &header(1, 1, 0, Some(b"here"))).await;
        send.write_all(&answer).await.unwrap();
        let closed = soon("a close", session.peer.closed()).await;
        assert_eq!(closed.0, codes::VIOLATION, "{complaint}");
        assert!(closed.1.contains(complaint), "{} is not {complaint}", closed.1);
        world.all_is_well().await;
    }
}

#[tokio::test]
async fn what_may_grow_is_skipped() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    for skipped in [
        frame(0x99, &[1, 2, 3]),
        frame((1 << 62) - 1, &[7; 16 * 1024]),
        frame(frames::PONG, &raw::varint(200)),
        // Not the shortest form, and more than we know.
        vec![0x40, 0x0c, 0x80, 0, 0, 3, 7, 0xff, 0xff],
        // The end of a pipe whose stream may yet come.
        frame(frames::RESET, &[4, 0, 0]),
    ] {
        session.control.say(&skipped).await;
        session.settled().await;
        goes_on(&mut pipe).await;
    }
    world.all_is_well().await;
}

#[tokio::test]
async fn a_peer_that_never_acknowledges_an_end_runs_out_of_pipes() {
    let world = World::with(|config| {
        let mut session = SessionConfig::default();
        session.max_pipes(4);
        config.session(session);
    })
    .await;
    let session = RawSession::begin(&world).await;
    // Twice as many as allowed, and 64, may overlap (P-10).
    let mut opened = 0;
    while session.peer.connection.close_reason().is_none() && opened <= 100 {
        let (mut send, mut recv) = session.peer.stream(&header(1, 2 * opened, 0, Some(b""))).await;
        let _ = send.finish();
        let answered = soon("an end", recv.read_to_end(100)).await;
        opened += u64::from(answered.is_ok());
    }
    assert_eq!(opened, 2 * 4 + 64);
    let closed = soon("a close", session.peer.closed()).await;
    assert_eq!(closed, (codes::VIOLATION, "opened more pipes than the 4 allowed".into()));
    world.all_is_well().await;
}

#[tokio::test]
async fn a_peer_may_open_as_many_streams_as_pipes_and_32_to_overlap() {
    let world = World::with(|config| {
        let mut session = SessionConfig::default();
        session.max_pipes(8).initial_streams(1);
        config.session(session);
    })
    .await;
    let mut session = RawSession::begin(&world).await;
    let mut held = Vec::new();
    for pipe in 0..8 {
        held.push(session.peer.stream(&header(1, 2 * pipe, 0, Some(b""))).await);
        // The server gives leave for more streams before it answers.
        session.settled().await;
    }
    while let Some(stream) = now(session.peer.connection.open_bi()).await {
        held.push(stream.unwrap());
        session.settled().await;
    }
    assert_eq!(held.len(), 8 + 32, "besides the control stream");
    world.all_is_well().await;
}

#[tokio::test]
async fn a_control_stream_that_ends_costs_the_connection_and_not_the_session() {
    let world = World::new().await;
    let mut sessions = Vec::new();
    for end in 0..3 {
        let mut session = RawSession::begin(&world).await;
        let pipe = session.ten_bytes().await;
        match end {
            0 => session.control.send.finish().unwrap(),
            1 => session.control.send.reset(VarInt::from_u32(0)).unwrap(),
            _ => {
                // In the middle of a frame.
                session.control.say(&[0x0c]).await;
                session.control.send.finish().unwrap();
            }
        }
        sessions.push((session, pipe));
    }
    for (session, _pipe) in sessions {
        let closed = soon("a close", session.peer.closed()).await;
        assert_eq!(closed.0, codes::DETACH);
        let (_peer, mut control) = world
            .dial_and_say(|exporter| {
                [session.resume(2, exporter), table(1, 0, &[(0, 10)])].concat()
            })
            .await;
        soon("an answer", control.wait_for(frames::TABLE_END)).await;
    }
    world.all_is_well().await;
}

/// In a process of its own: what is measured belongs to all of it.
#[test]
fn floods_do_not_fill_the_servers_memory() {
    const ALONE: &str = "EVERMUX_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(flood());
    }
    let alone = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["floods_do_not_fill_the_servers_memory", "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
}

async fn flood() {
    let world = World::with(|config| {
        let mut session = SessionConfig::default();
        session.stream_window(256 * 1024);
        config.session(session);
    })
    .await;
    // It takes what is in flight only.
    let deaf = Dial { window: 64 * 1024, ..Dial::default() };
    RawSession::begin_as(&world, &deaf).await.settled().await;
    let before = resident();

    // Pings, with nobody who reads the pongs: held back by flow control.
    let mut session = RawSession::begin_as(&world, &deaf).await;
    let pings = frame(frames::PING, &[7]).repeat(4096);
    let mut said = 0;
    while let Ok(written) = {
        let write = session.control.send.write_all(&pings);
        tokio::time::timeout(Duration::from_millis(500), write).await
    } {
        written.unwrap();
        said += pings.len();
        assert!(said < 8 << 20, "nothing holds the flood back");
    }
    world.all_is_well().await;

    // Pipes that are given up, in both directions, before they are heard of.
    let mut churn = RawSession::begin_as(&world, &deaf).await;
    for index in 0..5_000 {
        let ends =
            [frames::RESET, frames::STOP].map(|kind| frame(kind, &numbers(&[2 * index, 0, 0])));
        churn.control.say(&ends.concat()).await;
        if index % 500 == 0 {
            churn.settled().await;
        }
    }
    churn.settled().await;
    assert_eq!(world.session(churn.id).stats().pipes, 0);

    // Streams that are given up before their header is whole; and frames, one in
    // each of many connections, that are never whole.
    for _ in 0..5_000 {
        let (mut send, _recv) = churn.peer.stream(&[0x40]).await;
        let _ = send.reset(VarInt::from_u32(0));
    }
    churn.settled().await;
    let mut truncated = Vec::new();
    for _ in 0..50 {
        let whole = frame(0x99, &[0; 16 * 1024]);
        let connection = world.dial_and_say(|_| whole[..whole.len() - 1].to_vec()).await;
        truncated.push(connection);
    }
    world.all_is_well().await;
    if let (Some(before), Some(after)) = (before, resident()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 16 << 20, "grown by {grown} bytes");
    }
}

/// The memory of this process in bytes, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}
