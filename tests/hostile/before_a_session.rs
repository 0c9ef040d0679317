//! Before there is a session.

use evermux::Limits;
use quinn::VarInt;
use tokio::task::JoinSet;

use crate::raw::{self, Dial, Peer, codes, frame, frames};
use crate::world::{HOLDER, IMPATIENT, World, connect, soon, two_to_the_60};

#[tokio::test]
async fn garbage_on_the_control_stream_is_named_as_such() {
    let world = World::new().await;
    // A known type with a payload that ends within a field.
    let (code, reason) = world.answer_to(&[0x01, 0x02, 0xaa, 0xaa]).await;
    assert_eq!(
        (code, &reason[..]),
        (codes::VIOLATION, "sent a malformed frame: it ends in the middle of a field")
    );
    // Random bytes: some length in them is absurd.
    let (code, _) = world.answer_to(&[0xff; 64]).await;
    assert_eq!(code, codes::VIOLATION);
}

#[tokio::test]
async fn a_frame_that_claims_2_to_the_60_bytes_is_refused_at_once() {
    let world = World::new().await;
    for kind in [frames::HELLO, frames::ACKS, 0x99] {
        let claim = [raw::varint(kind), two_to_the_60()].concat();
        let (code, reason) = world.answer_to(&claim).await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains("claims 1152921504606846976 bytes"), "{reason}");
    }
}

#[tokio::test]
async fn a_wrong_first_frame_is_named() {
    let world = World::new().await;
    let welcome = [&[0; 48][..], raw::PARAMETERS].concat();
    for (kind, payload, name) in [
        (frames::WELCOME, &welcome[..], "WELCOME"),
        (frames::RESUMED, &[0; 33], "RESUMED"),
        (frames::TABLE_HEAD, &[0, 0], "TABLE_HEAD"),
        (frames::GAPS, &[], "GAPS"),
        (frames::POSITIONS, &[], "POSITIONS"),
        (frames::TABLE_END, &[0], "TABLE_END"),
        (frames::ACKS, &[], "ACKS"),
        (frames::RESET, &[0, 0, 0], "RESET"),
        (frames::STOP, &[0, 0, 0], "STOP"),
        (frames::PING, &[7], "PING"),
        (frames::PONG, &[7], "PONG"),
        (frames::CLOSE, &[1], "CLOSE"),
    ] {
        let closed = world.answer_to(&frame(kind, payload)).await;
        let complaint = format!("sent a {name} frame where it has no place");
        assert_eq!(closed, (codes::VIOLATION, complaint));
    }
}

#[tokio::test]
async fn silence_is_not_waited_for_for_ever() {
    let world = World::impatient().await;
    let hello = raw::hello(&HOLDER);
    // Kept open: nothing at all; a frame that ends early, at any point; frames
    // that mean nothing. And control streams that have ended.
    let silent = Peer::connect(world.addr).await.unwrap();
    let mut waiting = vec![(silent, None)];
    for said in [&hello[..1], &hello[..2], &hello[..20], &[0x40, 0x99, 3, 1, 2, 3]] {
        let (peer, control) = world.dial_and_say(|_| said.to_vec()).await;
        waiting.push((peer, Some(control)));
    }
    for at in [1, 20] {
        let (peer, mut control) = world.dial_and_say(|_| hello[..at].to_vec()).await;
        control.send.finish().unwrap();
        waiting.push((peer, Some(control)));
        let (peer, mut control) = world.dial_and_say(|_| hello[..at].to_vec()).await;
        control.send.reset(VarInt::from_u32(0)).unwrap();
        waiting.push((peer, Some(control)));
    }
    for (peer, _control) in &waiting {
        let closed = soon("the end of patience", peer.closed()).await;
        assert_eq!(closed, (codes::DETACH, "no HELLO or RESUME in time".into()));
    }
    world.all_is_well().await;
}

#[tokio::test]
async fn connections_that_do_nothing_are_refused_beyond_a_limit_and_forgotten_in_time() {
    let world = World::with(|config| {
        let mut limits = Limits::default();
        limits.max_handshakes(8);
        config.handshake_timeout(2 * IMPATIENT).limits(limits);
    })
    .await;
    let endpoint = Dial::default().endpoint();
    let mut dials = JoinSet::new();
    for _ in 0..200 {
        dials.spawn(endpoint.connect(world.addr, "localhost").unwrap().into_future());
    }
    let mut idle = Vec::new();
    while let Some(dialled) = soon("an answer", dials.join_next()).await {
        match dialled.unwrap() {
            Ok(connection) => idle.push(connection),
            Err(quinn::ConnectionError::ConnectionClosed(close)) => {
                assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED);
            }
            Err(other) => panic!("neither connected nor refused: {other}"),
        }
    }
    // If this machine is slow, some came after the first were forgotten.
    assert!((8..100).contains(&idle.len()), "{} were let in", idle.len());
    world.all_is_well().await;
    for connection in &idle {
        soon("the end of patience", connection.closed()).await;
    }
    soon("a session", connect(world.addr, world.pin)).await.expect("there is room again");
    world.all_is_well().await;
}

#[tokio::test]
async fn a_client_of_another_protocol_is_turned_away_by_tls() {
    let world = World::new().await;
    let dial = Dial { alpn: b"h3".to_vec(), ..Dial::default() };
    let error = dial.connect(world.addr).await.err().expect("refused");
    assert!(error.contains("no application protocol") || error.contains("120"), "{error}");
    world.all_is_well().await;
}
