//! What is said before a handshake is complete.

use evermux::{CloseCode, Identity, SessionError};
use tokio::io::AsyncWriteExt;

use crate::raw::{
    Claim, Control, Dial, Peer, RawServer, codes, frame, frames, header, hello, table, varint,
};
use crate::servers::{SECRET, begun_by, detached_by, resumed};
use crate::world::{HOLDER, OTHER_HOLDER, RawSession, World, expect, goes_on, soon};

const NONCE: [u8; 32] = [0x66; 32];

impl RawSession {
    /// `EARLY` with a right proof.
    fn early(&self, epoch: u64, nonce: [u8; 32], reads: &[(u64, u64)]) -> Vec<u8> {
        let claim = self.claim(epoch, nonce);
        claim.early(&claim.early_proof(&self.secret), reads)
    }

    /// Says `bytes` on a new connection, with a ticket of the session's first, before
    /// the handshake is complete.
    async fn say_early(&self, world: &World, bytes: &[u8]) -> (Peer, Control) {
        let (peer, accepted) = self.peer.dial_again(world.addr);
        let mut control = peer.open_control().await;
        control.say(bytes).await;
        assert!(soon("a handshake", accepted).await, "the server takes early data");
        (peer, control)
    }

    /// Resumes on a connection on which anything may have been said before that the
    /// server does not mind: its first frame is the answer.
    async fn go_on(&mut self, epoch: u64, peer: &Peer, control: &mut Control) {
        let claim = self.claim(epoch, peer.exporter());
        let resume = claim.resume(&claim.client_proof(&self.secret));
        control.say(&[resume, table(0, 0, &[])].concat()).await;
        let answer = [&varint(epoch)[..], &claim.server_proof(&self.secret)].concat();
        assert_eq!(soon("an answer", control.next()).await, (frames::RESUMED, answer));
        self.secret = claim.next_secret(&self.secret);
    }
}

#[tokio::test]
async fn an_early_claim_is_answered_and_changes_nothing_until_the_full_one_comes() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    let (peer, mut control) = session.say_early(&world, &session.early(2, NONCE, &[(0, 10)])).await;
    let reply = session.claim(2, NONCE).early_reply(&session.secret);
    let answer = soon("an answer", control.wait_for(frames::EARLY_ANSWER)).await;
    assert_eq!(answer, [&[2][..], &reply].concat());
    // Nothing is fenced, no epoch is taken.
    goes_on(&mut pipe).await;
    session.settled().await;
    let stats = world.session(session.id).stats();
    assert_eq!((stats.epoch.get(), stats.resumes), (1, 0));
    // Nor is the secret.
    let claim = session.claim(2, peer.exporter());
    let resume = claim.resume(&claim.client_proof(&session.secret));
    control.say(&[resume, table(1, 0, &[(0, 16)])].concat()).await;
    soon("an answer", control.wait_for(frames::RESUMED)).await;
    assert_eq!(soon("a close", session.peer.closed()).await.0, codes::REPLACED);
    world.all_is_well().await;
}

/// Neither refused nor counted: more often than an address may guess proofs.
#[tokio::test]
async fn an_early_claim_that_is_not_right_is_ignored_and_the_full_one_decides() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let oldest = session.secret;
    let mut epoch = 2;
    for round in 0..4 {
        let next = session.claim(epoch, NONCE);
        let proof = next.early_proof(&session.secret);
        let stranger = Claim { holder: OTHER_HOLDER, ..next };
        let stale = session.claim(epoch - 1, NONCE);
        let mut ways = vec![
            next.early(&[0; 32], &[]),
            next.early(&next.client_proof(&session.secret), &[]),
            next.early(&next.early_reply(&session.secret), &[]),
            session.claim(epoch, [0x77; 32]).early(&proof, &[]),
            session.claim(epoch + 1, NONCE).early(&proof, &[]),
            stranger.early(&stranger.early_proof(&session.secret), &[]),
            Claim { session: [0x11; 16], ..next }.early(&proof, &[]),
            stale.early(&stale.early_proof(&session.secret), &[]),
        ];
        if round > 1 {
            ways.push(next.early(&next.early_proof(&oldest), &[]));
        }
        for early in ways {
            let peer = Peer::connect(world.addr).await.unwrap();
            let mut control = peer.open_control().await;
            control.say(&early).await;
            session.go_on(epoch, &peer, &mut control).await;
            epoch += 1;
        }
    }
    world.all_is_well().await;
}

/// With or without a ticket; whoever it is that repeats it.
#[tokio::test]
async fn an_early_claim_that_was_let_in_once_is_ignored_when_it_is_repeated() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let captured = session.early(7, NONCE, &[]);
    let (peer, mut control) = session.say_early(&world, &captured).await;
    soon("an answer", control.wait_for(frames::EARLY_ANSWER)).await;
    drop((peer, control));
    // Its epoch was not taken: what follows is below it.
    for epoch in 2..5 {
        let (peer, mut control) = if epoch == 2 {
            session.say_early(&world, &captured).await
        } else {
            world.dial_and_say(|_| captured.clone()).await
        };
        session.go_on(epoch, &peer, &mut control).await;
    }
    world.all_is_well().await;
}

#[tokio::test]
async fn a_server_that_does_not_want_early_data_ignores_it_however_it_comes() {
    let world = World::with(|config| {
        config.early_data(false);
    })
    .await;
    let mut session = RawSession::begin(&world).await;
    let (peer, mut control) = world.dial_and_say(|_| session.early(2, NONCE, &[])).await;
    session.go_on(2, &peer, &mut control).await;
    world.all_is_well().await;
}

#[tokio::test]
async fn an_early_claim_is_the_first_frame_and_a_resume_follows_it() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let early = session.early(2, NONCE, &[]);
    let unexpected = |name| format!("sent a {name} frame where it has no place");
    for (said, complaint) in [
        ([&early[..], &early].concat(), unexpected("EARLY")),
        ([&early[..], &hello(&HOLDER)].concat(), unexpected("HELLO")),
        ([&early[..], &table(0, 0, &[])].concat(), unexpected("TABLE_HEAD")),
        (frame(frames::EARLY, &[0; 96]), "ends in the middle of a field".into()),
        (frame(frames::EARLY_ANSWER, &[0; 33]), unexpected("EARLY_ANSWER")),
    ] {
        let (peer, _control) = world.dial_and_say(|_| said).await;
        let (code, reason) = soon("a close", peer.closed()).await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains(&complaint), "{reason} is not {complaint}");
    }
    session.settled().await;
    assert_eq!(world.session(session.id).stats().epoch.get(), 1);
    world.all_is_well().await;
}

/// The certificate is that of the connection which the ticket comes from.
#[tokio::test]
async fn an_early_claim_from_another_identity_is_ignored() {
    let world = World::new().await;
    let owner = Dial { identity: Some(Identity::self_signed(&[]).unwrap()), ..Dial::default() };
    let session = RawSession::begin_as(&world, &owner).await;
    let other = Dial { identity: Some(Identity::self_signed(&[]).unwrap()), ..Dial::default() };
    for (dial, epoch) in [(&Dial::default(), 2), (&other, 3)] {
        let mut thief = RawSession::begin_as(&world, dial).await;
        // A stolen token, and a ticket of one's own.
        let (peer, mut control) = thief.say_early(&world, &session.early(epoch, NONCE, &[])).await;
        thief.go_on(2, &peer, &mut control).await;
    }
    let (_peer, mut control) = session.say_early(&world, &session.early(2, NONCE, &[])).await;
    soon("an answer", control.wait_for(frames::EARLY_ANSWER)).await;
    world.all_is_well().await;
}

#[tokio::test]
async fn a_repeated_early_flight_waits_for_the_full_claim_and_its_bytes_come_once() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let _pipe = session.ten_bytes().await;
    let captured = session.early(2, NONCE, &[(0, 10)]);
    let more = [&header(2, 0, 10, None)[..], b"abc"].concat();
    let (first, mut control) = session.say_early(&world, &captured).await;
    let (_send, mut recv) = first.stream(&more).await;
    expect(&mut recv, &more).await;
    soon("an answer", control.wait_for(frames::EARLY_ANSWER)).await;
    session.settled().await;
    let stats = world.session(session.id).stats();
    assert_eq!((stats.epoch.get(), stats.resumes), (1, 0));
    // The same once more: it waits for the full claim, and is skipped then. What the
    // first has brought is not taken for the streams of this connection.
    let (peer, mut control) = session.say_early(&world, &captured).await;
    let (mut send, mut recv) = peer.stream(&more).await;
    world.all_is_well().await;
    let claim = session.claim(2, peer.exporter());
    let resume = claim.resume(&claim.client_proof(&session.secret));
    control.say(&[resume, table(1, 0, &[(0, 13)])].concat()).await;
    assert_eq!(soon("an answer", control.next()).await.0, frames::RESUMED);
    send.write_all(b"def").await.unwrap();
    expect(&mut recv, &[&header(2, 0, 13, None)[..], b"def"].concat()).await;
    world.all_is_well().await;
}

/// What the application had of it before is counted once.
#[tokio::test]
async fn an_early_stream_that_was_read_becomes_the_stream_of_its_pipe() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let _pipe = session.ten_bytes().await;
    // Of what the server has sent the client has read four bytes.
    let early = session.early(2, NONCE, &[(0, 4)]);
    let (peer, mut control) = session.say_early(&world, &early).await;
    let (mut send, mut recv) = peer.stream(&[&header(2, 0, 10, None)[..], b"abc"].concat()).await;
    expect(&mut recv, &[&header(2, 0, 4, None)[..], b"456789abc"].concat()).await;
    let claim = session.claim(2, peer.exporter());
    let resume = claim.resume(&claim.client_proof(&session.secret));
    control.say(&[resume, table(1, 0, &[(0, 13)])].concat()).await;
    soon("an answer", control.wait_for(frames::RESUMED)).await;
    assert_eq!(soon("a table", control.next()).await, (frames::TABLE_HEAD, vec![0, 1]));
    assert_eq!(soon("a table", control.next()).await, (frames::POSITIONS, vec![0, 0, 1, 13]));
    send.write_all(b"def").await.unwrap();
    expect(&mut recv, b"def").await;
    world.all_is_well().await;
}

#[tokio::test]
async fn an_early_stream_of_a_new_pipe_waits_for_the_full_claim() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    let early = session.early(2, NONCE, &[(0, 10), (2, 0)]);
    let (peer, mut control) = session.say_early(&world, &early).await;
    let (_send, mut recv) = peer.stream(&[&header(2, 2, 0, Some(b"new"))[..], b"x"].concat()).await;
    soon("an answer", control.wait_for(frames::EARLY_ANSWER)).await;
    goes_on(&mut pipe).await;
    world.all_is_well().await;
    assert_eq!(world.session(session.id).pipes().len(), 1);
    let claim = session.claim(2, peer.exporter());
    let resume = claim.resume(&claim.client_proof(&session.secret));
    control.say(&[resume, table(2, 0, &[(0, 16), (2, 0)])].concat()).await;
    expect(&mut recv, &[&header(2, 2, 0, None)[..], b"x"].concat()).await;
    world.all_is_well().await;
}

#[tokio::test]
async fn an_early_stream_of_offsets_that_cannot_be_costs_only_its_connection() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let mut pipe = session.ten_bytes().await;
    for (epoch, read, start, complaint) in [
        (2, 11, 10, "asked pipe c0 for offset 11, but only 10 bytes were ever written"),
        (3, 10, 11, "continued pipe c0 at offset 11, beyond the 10 bytes read so far"),
    ] {
        let early = session.early(epoch, NONCE, &[(0, read)]);
        let (peer, _control) = session.say_early(&world, &early).await;
        let _stream = peer.stream(&header(epoch, 0, start, None)).await;
        let (code, reason) = soon("a close", peer.closed()).await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains(complaint), "{reason} is not {complaint}");
    }
    goes_on(&mut pipe).await;
    session.settled().await;
    assert_eq!(world.session(session.id).stats().epoch.get(), 1);
    world.all_is_well().await;
}

/// Its epoch may be above that of the resume: what counts is who holds the session.
#[tokio::test]
async fn of_an_early_flight_nothing_is_taken_once_another_holder_has_the_session() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let _pipe = session.ten_bytes().await;
    let opened = [&header(1, 2, 0, Some(b""))[..], b"x"].concat();
    let (_other, mut recv) = session.peer.stream(&opened).await;
    expect(&mut recv, &[&header(1, 2, 0, None)[..], b"x"].concat()).await;
    let early = session.early(7, NONCE, &[(0, 4), (2, 1)]);
    let (first, _control) = session.say_early(&world, &early).await;
    let (mut attached, mut recv) = first.stream(&header(7, 0, 10, None)).await;
    expect(&mut recv, &[&header(7, 0, 4, None)[..], b"456789"].concat()).await;
    let (peer, mut control) = world
        .dial_and_say(|exporter| {
            let claim = Claim { holder: OTHER_HOLDER, ..session.claim(2, exporter) };
            let resume = claim.resume(&claim.client_proof(&session.secret));
            [resume, table(2, 0, &[(0, 10), (2, 1)])].concat()
        })
        .await;
    soon("an answer", control.wait_for(frames::RESUMED)).await;
    // It may have been let go of already.
    let _ = attached.write_all(b"old").await;
    let _late = first.stream(&[&header(7, 2, 1, None)[..], b"old"].concat()).await;
    // By now the server has heard both.
    world.all_is_well().await;
    for (pipe, at) in [(0, 10), (2, 1)] {
        let (mut send, mut recv) = peer.stream(&header(2, pipe, at, None)).await;
        send.write_all(b"new").await.unwrap();
        expect(&mut recv, &[&header(2, pipe, at, None)[..], b"new"].concat()).await;
    }
    world.all_is_well().await;
}

/// The answer to the early claim has gone out, and the client goes on elsewhere.
#[tokio::test]
async fn an_early_flight_is_let_go_of_when_another_connection_resumes() {
    let world = World::new().await;
    let mut session = RawSession::begin(&world).await;
    let _pipe = session.ten_bytes().await;
    let early = session.early(2, NONCE, &[(0, 10)]);
    let (first, mut control) = session.say_early(&world, &early).await;
    let (_send, mut flown) = first.stream(&header(2, 0, 10, None)).await;
    soon("an answer", control.wait_for(frames::EARLY_ANSWER)).await;
    let (peer, mut second) = world
        .dial_and_say(|exporter| [session.resume(3, exporter), table(1, 0, &[(0, 10)])].concat())
        .await;
    soon("an answer", second.wait_for(frames::RESUMED)).await;
    assert!(soon("the end of a stream", flown.read_to_end(100)).await.is_err());
    // What was claimed early is outdated.
    let late = session.claim(2, first.exporter());
    let late = late.resume(&late.client_proof(&session.secret));
    control.say(&[late, table(1, 0, &[(0, 10)])].concat()).await;
    assert_eq!(soon("a refusal", first.closed()).await.0, codes::REFUSED);
    let more = [&header(3, 0, 10, None)[..], b"abc"].concat();
    let (_send, mut recv) = peer.stream(&more).await;
    expect(&mut recv, &more).await;
    (session.peer, session.control) = (peer, second);
    session.settled().await;
    world.all_is_well().await;
}

#[tokio::test]
async fn a_session_that_ends_behind_an_early_claim_is_not_known_to_the_full_one() {
    let world = World::new().await;
    let session = RawSession::begin(&world).await;
    let _pipe = session.ten_bytes().await;
    let (peer, mut control) = session.say_early(&world, &session.early(2, NONCE, &[(0, 10)])).await;
    let (_send, mut recv) = peer.stream(&header(2, 0, 10, None)).await;
    soon("an answer", control.wait_for(frames::EARLY_ANSWER)).await;
    let theirs = world.session(session.id);
    theirs.close(CloseCode::DONE, b"");
    soon("the end", theirs.closed()).await;
    control.say(&[session.resume(2, peer.exporter()), table(1, 0, &[(0, 10)])].concat()).await;
    let (code, reason) = soon("a refusal", peer.closed()).await;
    // UNKNOWN_SESSION, no epoch, no words.
    assert_eq!((code, reason.as_bytes()), (codes::REFUSED, &[3, 0][..]));
    assert!(soon("the end of a stream", recv.read_to_end(100)).await.is_err());
    world.all_is_well().await;
}

/// A client that has given its early streams up goes on above their epoch.
#[tokio::test]
async fn streams_of_an_early_claim_that_is_not_gone_on_with_are_dropped() {
    let world = World::new().await;
    for let_in in [true, false] {
        let mut session = RawSession::begin(&world).await;
        let _pipe = session.ten_bytes().await;
        let mut early = session.early(2, NONCE, &[(0, 10)]);
        if !let_in {
            // The last byte of the proof.
            let proof = early.len() - 3;
            early[proof] ^= 1;
        }
        let (peer, mut control) = session.say_early(&world, &early).await;
        let (_send, mut recv) = peer.stream(&header(2, 0, 10, None)).await;
        let _unseen = peer.stream(&header(2, 2, 0, Some(b"new"))).await;
        let claim = session.claim(5, peer.exporter());
        let resume = claim.resume(&claim.client_proof(&session.secret));
        control.say(&[resume, table(2, 0, &[(0, 10), (2, 0)])].concat()).await;
        soon("an answer", control.wait_for(frames::RESUMED)).await;
        let gone = soon("the end of a stream", recv.read_to_end(100)).await;
        assert!(gone.is_err(), "{gone:?}");
        let again = [&header(5, 0, 10, None)[..], b"abc"].concat();
        let (_send, mut recv) = peer.stream(&again).await;
        expect(&mut recv, &again).await;
        session.peer = peer;
        world.all_is_well().await;
    }
}

/// The client comes back early: what it says is checked, up to its `EARLY`.
async fn comes_back_early(server: &RawServer) -> (Peer, Control, Claim) {
    let peer = soon("a client", server.accept_early()).await;
    let mut control = soon("a stream", peer.accept_control()).await;
    let (kind, early) = soon("a claim", control.next()).await;
    assert_eq!(kind, frames::EARLY);
    let (session, mut rest) = early.split_at(16);
    let epoch = crate::raw::take_varint(&mut rest).unwrap();
    let (holder, rest) = rest.split_at(16);
    let [session, holder] = [session, holder].map(|id| id.try_into().unwrap());
    let claim = Claim { session, epoch, holder, exporter: rest[..32].try_into().unwrap() };
    assert_eq!(rest[32..64], claim.early_proof(&SECRET));
    (peer, control, claim)
}

#[tokio::test]
async fn a_client_with_a_ticket_claims_early_and_goes_on_whether_it_is_answered_or_not() {
    for answered in [false, true] {
        let server = RawServer::eager();
        let (session, _pipe) = detached_by(&server).await;
        let (peer, mut control, early) = comes_back_early(&server).await;
        if answered {
            let answer = [&varint(early.epoch)[..], &early.early_reply(&SECRET)].concat();
            control.say(&frame(frames::EARLY_ANSWER, &answer)).await;
        }
        let resume = soon("a resume", control.wait_for(frames::RESUME)).await;
        let claim = Claim { exporter: peer.exporter(), ..early };
        assert_eq!(resume[..], claim.resume(&claim.client_proof(&SECRET))[3..]);
        soon("a table", control.wait_for(frames::TABLE_END)).await;
        let answer = resumed(claim.epoch, &claim.server_proof(&SECRET));
        control.say(&[answer, table(0, 1, &[(0, 3)])].concat()).await;
        let attached = soon("a resume", session.attached()).await.unwrap();
        assert_eq!(attached.get(), claim.epoch);
    }
}

/// A server that was restarted does not know the ticket: TLS drops what came early, and
/// the client begins anew on the same connection.
#[tokio::test]
async fn a_client_whose_early_data_is_refused_resumes_all_the_same() {
    let server = RawServer::eager();
    let (session, peer, _control) = begun_by(&server).await;
    let mut pipe = session.open_pipe("").unwrap();
    pipe.write_all(b"0123456789").await.unwrap();
    server.forget_tickets();
    peer.close(codes::DETACH, b"");
    let peer = soon("a client", server.accept()).await.unwrap();
    let mut control = soon("a stream", peer.accept_control()).await;
    let (kind, resume) = soon("a claim", control.next()).await;
    assert_eq!(kind, frames::RESUME);
    let (id, holder) = (resume[..16].try_into().unwrap(), resume[17..33].try_into().unwrap());
    // The epoch before was used up by the early claim.
    let claim = Claim { session: id, epoch: 3, holder, exporter: peer.exporter() };
    assert_eq!(resume[..], claim.resume(&claim.client_proof(&SECRET))[3..]);
    soon("a table", control.wait_for(frames::TABLE_END)).await;
    let answer = resumed(claim.epoch, &claim.server_proof(&SECRET));
    control.say(&[answer, table(0, 1, &[(0, 0)])].concat()).await;
    assert_eq!(soon("a resume", session.attached()).await.unwrap().get(), claim.epoch);
    let owed = [&header(3, 0, 0, Some(b""))[..], b"0123456789"].concat();
    let (_send, mut recv) = soon("a stream", peer.connection.accept_bi()).await.unwrap();
    expect(&mut recv, &owed).await;
}

#[tokio::test]
async fn a_server_that_answers_an_early_claim_wrongly_ends_the_session() {
    let server = RawServer::eager();
    for case in 0..3 {
        let (session, _pipe) = detached_by(&server).await;
        let (peer, mut control, early) = comes_back_early(&server).await;
        let answer = |epoch, proof: [u8; 32]| {
            frame(frames::EARLY_ANSWER, &[&varint(epoch)[..], &proof].concat())
        };
        let right = answer(early.epoch, early.early_reply(&SECRET));
        let (said, complaint) = match case {
            0 => (answer(early.epoch, early.early_proof(&SECRET)), "did not prove"),
            1 => (answer(early.epoch + 1, early.early_reply(&SECRET)), "epoch"),
            _ => ([&right[..], &right].concat(), "sent a EARLY_ANSWER frame"),
        };
        control.say(&said).await;
        let (code, reason) = soon("a close", peer.closed()).await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains(complaint), "{reason} is not {complaint}");
        let ended = soon("the end", session.closed()).await;
        assert!(matches!(ended, SessionError::PeerMisbehaved(_)), "{ended}");
    }
}
