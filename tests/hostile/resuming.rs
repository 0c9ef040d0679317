//! Resumes.

use std::net::Ipv4Addr;

use evermux::{Identity, PeerMisbehaved, SessionConfig, SessionError, Side};
use quinn::SendStream;

use crate::raw::{Claim, Control, Dial, Peer, codes, frame, frames, header, numbers, table};
use crate::world::{
    HOLDER, OTHER_HOLDER, RawSession, World, expect, first_pipe_of, goes_on, soon, two_to_the_60,
};

#[tokio::test]
async fn a_resume_of_an_unknown_session_is_refused_with_the_reason() {
    let world = World::new().await;
    let claim = Claim { session: [0x11; 16], epoch: 2, holder: HOLDER, exporter: [0; 32] };
    let (code, reason) = world.answer_to(&claim.resume(&[0x33; 32])).await;
    // UNKNOWN_SESSION, no epoch, no words.
    assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[3, 0][..]));
}

#[tokio::test]
async fn a_captured_resume_is_worth_nothing_on_another_connection() {
    let world = World::new().await;
    let mut victim = RawSession::begin(&world).await;
    let mut pipe = victim.ten_bytes().await;
    // The victim is about to resume on a connection of its own ...
    let captured = {
        let peer = Peer::connect(world.addr).await.unwrap();
        [victim.resume(2, peer.exporter()), table(1, 0, &[(0, 10)])].concat()
    };
    // ... and others send the same bytes on theirs. Or claim to be another
    // holder; or have nothing but the public name.
    let claim = victim.claim(2, [0; 32]);
    let stranger = Claim { holder: OTHER_HOLDER, ..claim };
    let (bad_proof, superseded) = (&[4, 0][..], &[6, 0][..]);
    for (said, refusal) in [
        (captured, bad_proof),
        (claim.resume(&claim.client_proof(&victim.secret)), bad_proof),
        (claim.resume(&[0; 32]), bad_proof),
        (claim.resume(&claim.server_proof(&victim.secret)), bad_proof),
        (stranger.resume(&stranger.client_proof(&victim.secret)), superseded),
    ] {
        let (code, reason) = world.answer_to(&said).await;
        assert_eq!((code, reason.as_bytes()), (codes::REFUSED, refusal));
        goes_on(&mut pipe).await;
    }
    victim.settled().await;
    assert_eq!(world.session(victim.id).stats().epoch.get(), 1);
    // Its epoch was not used up, nor its secret.
    let (_peer, mut control) = world
        .dial_and_say(|exporter| [victim.resume(2, exporter), table(1, 0, &[(0, 40)])].concat())
        .await;
    soon("an answer", control.wait_for(frames::RESUMED)).await;
}

#[tokio::test]
async fn a_stale_epoch_is_refused_with_the_attached_one_to_who_holds_the_token() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    for epoch in [0, 1] {
        let (peer, _control) = world.dial_and_say(|exporter| session.resume(epoch, exporter)).await;
        let (code, reason) = soon("a refusal", peer.closed()).await;
        // STALE_EPOCH, 1, no words.
        assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[5, 1][..]));
    }
    session.settled().await;
    world.all_is_well().await;
}

#[tokio::test]
async fn a_resume_whose_table_never_ends_fences_nothing() {
    let world = World::impatient().await;
    let session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    let whole = table(1, 0, &[(0, 10)]);
    for cut in 0..whole.len() {
        let said = |exporter| [session.resume(2, exporter), whole[..cut].to_vec()].concat();
        if cut % 4 == 0 {
            let (peer, _control) = world.dial_and_say(said).await;
            goes_on(&mut pipe).await;
            drop(peer);
        } else if cut == whole.len() - 1 {
            // This one waits.
            let (peer, _control) = world.dial_and_say(said).await;
            let closed = soon("the end of patience", peer.closed()).await;
            assert_eq!(closed, (codes::DETACH, "no HELLO or RESUME in time".into()));
        }
    }
    goes_on(&mut pipe).await;
    let stats = world.session(session.id).stats();
    assert_eq!((stats.epoch.get(), stats.resumes), (1, 0));
    world.all_is_well().await;
}

#[tokio::test]
async fn a_table_that_no_client_can_have_costs_only_its_connection() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    let head = frame(frames::TABLE_HEAD, &[1, 0]);
    let after_head = |kind, payload: &[u8]| [&head[..], &frame(kind, payload)].concat();
    let crowd: Vec<_> = (0..1025).map(|index| (2 * index, 0)).collect();
    for (table, complaint) in [
        (frame(frames::POSITIONS, &[0, 0, 1, 10]), "sent a POSITIONS frame where it has no place"),
        (frame(frames::TABLE_END, &[0]), "sent a TABLE_END frame where it has no place"),
        // It cannot have seen pipes that were never opened, nor have opened fewer
        // than were seen.
        (frame(frames::TABLE_HEAD, &[1, 1]), "sent a TABLE_HEAD frame where it has no place"),
        (frame(frames::TABLE_HEAD, &[0, 0]), "sent a TABLE_HEAD frame where it has no place"),
        (after_head(frames::TABLE_HEAD, &[1, 0]), "sent a TABLE_HEAD frame where it has no place"),
        (after_head(frames::GAPS, &[0]), "sent a GAPS frame where it has no place"),
        (after_head(frames::TABLE_END, &[1]), "sent a TABLE_END frame where it has no place"),
        (after_head(frames::POSITIONS, &[0, 3, 1, 9]), "field \"position flags\" has a value"),
        (after_head(frames::POSITIONS, &[0, 0, 0]), "field \"position count\" has a value"),
        (after_head(frames::PING, &[1]), "sent a PING frame where it has no place"),
        (table(1025, 0, &crowd), "opened more pipes than the 1024 allowed"),
        (session.resume(2, [0; 32]), "sent a RESUME frame where it has no place"),
        ([&head[..], &[0x07], &two_to_the_60()].concat(), "claims 1152921504606846976 bytes"),
    ] {
        let (peer, _control) =
            world.dial_and_say(|exporter| [session.resume(2, exporter), table].concat()).await;
        let (code, reason) = soon("a close", peer.closed()).await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains(complaint), "{reason} is not {complaint}");
        goes_on(&mut pipe).await;
    }
    assert_eq!(world.session(session.id).stats().epoch.get(), 1);
    world.all_is_well().await;
}

#[tokio::test]
async fn a_table_with_more_gaps_than_pipes_can_be_unseen_costs_only_its_connection() {
    let world = World::with(|config| {
        let mut session = SessionConfig::default();
        session.max_pipes(1);
        config.session(session);
    })
    .await;
    let mut session = RawSession::begin(&world).await;
    // The server opens a pipe, which comes to its end, and another.
    let mut pipes = Vec::new();
    for round in [0, 1] {
        let call = header(1, 2 * round, 0, Some(b"call back"));
        let call = session.peer.stream(&call).await;
        let called = soon("a call", session.peer.connection.accept_bi()).await;
        let (mut send, recv) = called.unwrap();
        if round == 0 {
            send.write_all(&header(1, 1, 0, None)).await.unwrap();
            send.finish().unwrap();
            let done = numbers(&[1, 1, 0]);
            while soon("an ack", session.control.wait_for(frames::ACKS)).await != done {}
            session.control.say(&frame(frames::ACKS, &done)).await;
            session.settled().await;
        }
        pipes.push((call, (send, recv)));
    }
    let head = frame(frames::TABLE_HEAD, &[2, 2]);
    let said =
        |exporter| [session.resume(2, exporter), head, frame(frames::GAPS, &[0, 1])].concat();
    let (peer, _control) = world.dial_and_say(said).await;
    let closed = soon("a close", peer.closed()).await;
    assert_eq!(closed, (codes::VIOLATION, "opened more pipes than the 1 allowed".into()));
    session.settled().await;
    assert_eq!(world.session(session.id).stats().epoch.get(), 1);
    world.all_is_well().await;
}

#[tokio::test]
async fn a_table_of_offsets_that_cannot_be_ends_only_its_session_and_names_both_numbers() {
    let world = World::new().await;
    let pipe = first_pipe_of(Side::Client);
    for (table, misbehaved, reason) in [
        (
            table(1, 0, &[(0, 11)]),
            PeerMisbehaved::OffsetFromTheFuture { pipe, asked: 11, written: 10 },
            "asked pipe c0 for offset 11, but only 10 bytes were ever written",
        ),
        (
            table(1, 0, &[(0, (1 << 62) - 1)]),
            PeerMisbehaved::OffsetFromTheFuture { pipe, asked: (1 << 62) - 1, written: 10 },
            "asked pipe c0 for offset 4611686018427387903, but only 10 bytes were ever written",
        ),
        (
            table(1, 0, &[(0, 4)]),
            PeerMisbehaved::OffsetTrimmed { pipe, asked: 4, acked: 5 },
            "asked pipe c0 for offset 4, but acknowledged 5 bytes before",
        ),
        (
            table(1, 0, &[(0, 5), (1, 0)]),
            PeerMisbehaved::NoSuchPipe { pipe: first_pipe_of(Side::Server) },
            "named pipe s0, which was never opened",
        ),
        (table(1, 0, &[]), PeerMisbehaved::PipeForgotten { pipe }, "forgot pipe c0 before its end"),
    ] {
        let mut session = RawSession::begin(&world).await;
        let _pipe = session.ten_bytes().await;
        session.control.say(&frame(frames::ACKS, &[0, 0, 5])).await;
        session.settled().await;
        let (peer, _control) =
            world.dial_and_say(|exporter| [session.resume(2, exporter), table].concat()).await;
        let closed = soon("a close", peer.closed()).await;
        assert_eq!(closed, (codes::VIOLATION, reason.into()));
        let ended = soon("the end of the session", world.session(session.id).closed()).await;
        assert_eq!(ended, SessionError::PeerMisbehaved(misbehaved));
        world.all_is_well().await;
    }
    assert_eq!(world.server.stats().sessions, 1);
}

#[tokio::test]
async fn both_sides_prove_themselves_and_the_secret_moves_on() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let _pipe = session.ten_bytes().await;
    let mut echoed = 10;
    let mut links: Vec<(Peer, Control, SendStream)> = Vec::new();
    for epoch in 2..6 {
        let (peer, mut control) = world
            .dial_and_say(|exporter| {
                [session.resume(epoch, exporter), table(1, 0, &[(0, echoed)])].concat()
            })
            .await;
        let claim = session.claim(epoch, peer.exporter());
        let answer = soon("an answer", control.wait_for(frames::RESUMED)).await;
        let proof = claim.server_proof(&session.secret);
        assert_eq!(answer, [&[epoch as u8][..], &proof].concat());
        // The server's table: it has opened nothing, has seen one pipe, and has
        // read as much of it as it has given back.
        assert_eq!(control.next().await, (frames::TABLE_HEAD, vec![0, 1]));
        assert_eq!(control.next().await, (frames::POSITIONS, vec![0, 0, 1, echoed as u8]));
        assert_eq!(control.next().await, (frames::TABLE_END, vec![1]));
        // Three bytes that it has, and two that it has not.
        let again = [&header(epoch, 0, echoed - 3, None)[..], b"789", b"ab"].concat();
        let (send, mut recv) = peer.stream(&again).await;
        expect(&mut recv, &[&header(epoch, 0, echoed, None)[..], b"ab"].concat()).await;
        echoed += 2;
        session.secret = claim.next_secret(&session.secret);
        let last = links.last().map_or(&session.peer, |(peer, ..)| peer);
        assert_eq!(soon("a close", last.closed()).await, (codes::REPLACED, String::new()));
        links.push((peer, control, send));
    }
    world.all_is_well().await;
}

#[tokio::test]
async fn a_lost_answer_locks_nobody_out_and_older_secrets_do() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let oldest = session.secret;
    let _pipe = session.ten_bytes().await;
    let whole = table(1, 0, &[(0, 10)]);
    // Twice the answer is not read.
    let mut old = None;
    for epoch in [2, 3] {
        let unread = world
            .dial_and_say(|exporter| [session.resume(epoch, exporter), whole.clone()].concat())
            .await;
        // It was accepted.
        let last = old.as_ref().map_or(&session.peer, |(peer, _)| peer);
        assert_eq!(soon("a close", last.closed()).await, (codes::REPLACED, String::new()));
        old = Some(unread);
    }
    drop(old);
    // The third time it is, and then the new secret is used.
    for epoch in [4, 5] {
        let (peer, mut control) = world
            .dial_and_say(|exporter| [session.resume(epoch, exporter), whole.clone()].concat())
            .await;
        let claim = session.claim(epoch, peer.exporter());
        let answer = soon("an answer", control.wait_for(frames::RESUMED)).await;
        assert_eq!(answer[1..], claim.server_proof(&session.secret));
        session.secret = claim.next_secret(&session.secret);
    }
    session.secret = oldest;
    let (peer, _control) = world.dial_and_say(|exporter| session.resume(6, exporter)).await;
    let (code, reason) = soon("a refusal", peer.closed()).await;
    assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[4, 0][..]));
    world.all_is_well().await;
}

#[tokio::test]
async fn another_holder_takes_a_session_over_for_good() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let (second, mut control) = world
        .dial_and_say(|exporter| {
            let claim = Claim { holder: OTHER_HOLDER, ..session.claim(2, exporter) };
            let proof = claim.client_proof(&session.secret);
            [claim.resume(&proof), table(0, 0, &[])].concat()
        })
        .await;
    let closed = soon("the end of the first", session.peer.closed()).await;
    assert_eq!(closed, (codes::SUPERSEDED, String::new()));
    soon("an answer", control.wait_for(frames::TABLE_END)).await;
    // The first has the secret before the last change, and it is not for him.
    let (peer, _control) = world.dial_and_say(|exporter| session.resume(3, exporter)).await;
    let (code, reason) = soon("a refusal", peer.closed()).await;
    assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[6, 0][..]));
    let first = [&header(2, 0, 0, Some(b""))[..], b"mine"].concat();
    let (_send, mut recv) = second.stream(&first).await;
    expect(&mut recv, &[&header(2, 0, 0, None)[..], b"mine"].concat()).await;
    world.all_is_well().await;
}

#[tokio::test]
async fn a_session_is_bound_to_the_certificate_that_began_it() {
    let world = World::new().await;
    let identity = || Some(Identity::self_signed(&[]).unwrap());
    let owner = Dial { identity: identity(), ..Dial::default() };
    let session = RawSession::begin_as(&world, &owner).await;
    let mut pipe = session.ten_bytes().await;
    let owned = owner.identity.as_ref().map(Identity::fingerprint);
    assert_eq!(world.session(session.id).peer(), owned);
    for thief in [Dial::default(), Dial { identity: identity(), ..Dial::default() }] {
        let peer = thief.connect(world.addr).await.unwrap();
        let mut control = peer.open_control().await;
        let said = [session.resume(2, peer.exporter()), table(1, 0, &[(0, 10)])].concat();
        control.say(&said).await;
        let (code, reason) = soon("a refusal", peer.closed()).await;
        // WRONG_IDENTITY, no epoch, no words.
        assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[7, 0][..]));
        goes_on(&mut pipe).await;
    }
    // And the other way round: one that began without stays without.
    let anonymous = RawSession::begin(&world).await;
    for (dial, whose, refused) in [(&owner, &anonymous, true), (&owner, &session, false)] {
        let peer = dial.connect(world.addr).await.unwrap();
        let mut control = peer.open_control().await;
        let positions = if refused { &[][..] } else { &[(0, 22)] };
        let table = table(positions.len() as u64, 0, positions);
        control.say(&[whose.resume(2, peer.exporter()), table].concat()).await;
        if refused {
            let (code, reason) = soon("a refusal", peer.closed()).await;
            assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[7, 0][..]));
        } else {
            soon("an answer", control.wait_for(frames::RESUMED)).await;
        }
    }
    world.all_is_well().await;
}

/// Other systems have one address for this machine.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_guesses_proofs_is_barred_and_no_other_is() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    let guess = session.claim(2, [0; 32]).resume(&[0; 32]);
    for _ in 0..21 {
        let (code, reason) = world.answer_to(&guess).await;
        assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[4, 0][..]));
    }
    let error = Peer::connect(world.addr).await.err().expect("barred");
    assert!(error.contains("refused"), "{error}");
    // Connections that are there already go on; others come in.
    goes_on(&mut pipe).await;
    let elsewhere = Dial { from: Ipv4Addr::new(127, 0, 0, 2), ..Dial::default() };
    RawSession::begin_as(&world, &elsewhere).await.settled().await;
    world.all_is_well().await;
}
