//! Servers that a client meets.

use evermux::{
    BackedPipe, ConnectError, DecodeError, DialError, LinkState, PeerMisbehaved, Session,
    SessionError, Side, TlsError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::raw::{
    self, Claim, Control, Peer, RawServer, codes, frame, frames, header, numbers, table,
};
use crate::world::{HOLDER, connect, expect, first_pipe_of, soon, two_to_the_60};

#[tokio::test]
async fn a_server_of_another_protocol_is_named_as_such() {
    let server = RawServer::new(b"h3");
    let (connected, accepted) = tokio::join!(connect(server.addr, server.pin), server.accept());
    assert_eq!(connected.unwrap_err(), DialError::Tls(TlsError::WrongProtocol).into());
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_server_that_never_answers_hello_is_not_waited_for_for_ever() {
    let server = RawServer::new(raw::ALPN);
    let silent = async { server.accept().await.unwrap().closed().await };
    let (connected, closed) =
        soon("an error", async { tokio::join!(connect(server.addr, server.pin), silent) }).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(DialError::TimedOut { .. })), "{error}");
    assert_eq!(closed.0, codes::DETACH);
}

#[tokio::test]
async fn a_server_that_answers_hello_with_nonsense_is_told_so() {
    for (answer, misbehaved) in [
        (frame(frames::WELCOME, &[1, 2, 3]), DecodeError::Truncated.into()),
        (
            [&[0x02][..], &two_to_the_60()].concat(),
            DecodeError::TooLong { claimed: 1 << 60, allowed: 16 * 1024 }.into(),
        ),
        (frame(frames::PONG, &[1]), PeerMisbehaved::UnexpectedFrame { frame: "PONG" }),
        (raw::hello(&HOLDER), PeerMisbehaved::UnexpectedFrame { frame: "HELLO" }),
    ] {
        let server = RawServer::new(raw::ALPN);
        let nonsense = async {
            let peer = server.accept().await.unwrap();
            let mut control = peer.accept_control().await;
            control.say(&answer).await;
            peer.closed().await
        };
        let (connected, (code, reason)) =
            soon("an error", async { tokio::join!(connect(server.addr, server.pin), nonsense) })
                .await;
        assert_eq!(code, codes::VIOLATION);
        assert!(reason.contains(&misbehaved.to_string()), "{reason} is not {misbehaved}");
        assert_eq!(connected.unwrap_err(), misbehaved.into());
    }
}

pub const SECRET: [u8; 32] = [0x22; 32];

/// A client's session with a raw server.
pub async fn begun_by(server: &RawServer) -> (Session, Peer, Control) {
    let begin = async {
        let peer = server.accept().await.unwrap();
        let mut control = peer.accept_control().await;
        control.wait_for(frames::HELLO).await;
        let welcome = [&[0x11; 16][..], &SECRET, raw::PARAMETERS].concat();
        control.say(&frame(frames::WELCOME, &welcome)).await;
        (peer, control)
    };
    let (connected, (peer, control)) =
        soon("a session", async { tokio::join!(connect(server.addr, server.pin), begin) }).await;
    (connected.unwrap(), peer, control)
}

/// The same: ten bytes are written on pipe c0, then the server asks for another
/// connection.
pub async fn detached_by(server: &RawServer) -> (Session, BackedPipe) {
    let (session, peer, _control) = begun_by(server).await;
    let mut pipe = session.open_pipe("").unwrap();
    pipe.write_all(b"0123456789").await.unwrap();
    peer.close(codes::DETACH, b"");
    (session, pipe)
}

/// It agrees, or has its own reasons.
#[tokio::test]
async fn a_server_that_closes_the_connection_during_a_shutdown_is_told_apart_by_its_words() {
    let (done, seven) = (1, 0x1_0007);
    for (code, text) in [(done, ""), (done, "in a hurry"), (seven, "")] {
        let server = RawServer::new(raw::ALPN);
        let (session, peer, mut control) = begun_by(&server).await;
        let shutdown = tokio::spawn({
            let session = session.clone();
            async move { session.shutdown().await }
        });
        soon("a farewell", control.wait_for(frames::CLOSE)).await;
        peer.close(codes::SESSION_CLOSED, &[&raw::varint(code)[..], text.as_bytes()].concat());
        let told = soon("the end", session.closed()).await;
        let told_by_peer = matches!(told, SessionError::PeerClosed { .. });
        assert_eq!(told_by_peer, (code, text) != (done, ""), "{told:?}");
        // There was nothing to lose: a close with DONE is as good as one's own.
        let graceful = soon("the shutdown", shutdown).await.unwrap().is_ok();
        assert_eq!(graceful, code == done, "{told:?}");
    }
}

/// The client comes back: its `RESUME`, whose proof is checked, and its table.
async fn comes_back(server: &RawServer) -> (Peer, Control, Claim) {
    let peer = soon("a client", server.accept()).await.unwrap();
    let mut control = peer.accept_control().await;
    let resume = soon("a resume", control.wait_for(frames::RESUME)).await;
    let (session, mut rest) = resume.split_at(16);
    let epoch = raw::take_varint(&mut rest).unwrap();
    let (session, holder) = (session.try_into().unwrap(), rest[..16].try_into().unwrap());
    let claim = Claim { session, epoch, holder, exporter: peer.exporter() };
    assert_eq!(rest[16..], claim.client_proof(&SECRET));
    control.wait_for(frames::TABLE_END).await;
    (peer, control, claim)
}

pub fn resumed(epoch: u64, proof: &[u8; 32]) -> Vec<u8> {
    frame(frames::RESUMED, &[&raw::varint(epoch)[..], proof].concat())
}

#[tokio::test]
async fn a_server_that_cannot_prove_itself_or_lies_about_offsets_ends_the_session() {
    let right = |claim: &Claim| resumed(claim.epoch, &claim.server_proof(&SECRET));
    type Answer<'a> = &'a dyn Fn(&Claim) -> Vec<u8>;
    let pipe = first_pipe_of(Side::Client);
    let cases: [(Answer<'_>, &str); 7] = [
        (&|claim| resumed(claim.epoch, &[0; 32]), "did not prove that it holds this session"),
        (
            // The client's own proof, reflected.
            &|claim| resumed(claim.epoch, &claim.client_proof(&SECRET)),
            "did not prove that it holds this session",
        ),
        (
            &|claim| resumed(1, &claim.server_proof(&SECRET)),
            "used epoch 1 on the connection of epoch 2",
        ),
        (&|_| table(0, 1, &[(0, 10)]), "sent a TABLE_HEAD frame where it has no place"),
        (
            &|claim| [right(claim), table(0, 1, &[(0, 11)])].concat(),
            "asked pipe c0 for offset 11, but only 10 bytes were ever written",
        ),
        (
            &|claim| [right(claim), table(0, 2, &[(0, 10)])].concat(),
            "sent a TABLE_HEAD frame where it has no place",
        ),
        (&|claim| [right(claim), table(0, 1, &[])].concat(), "forgot pipe c0 before its end"),
    ];
    for (answer, complaint) in cases {
        let server = RawServer::new(raw::ALPN);
        let (session, _pipe) = detached_by(&server).await;
        let (peer, mut control, claim) = comes_back(&server).await;
        control.say(&answer(&claim)).await;
        let closed = soon("a close", peer.closed()).await;
        assert_eq!(closed, (codes::VIOLATION, complaint.into()));
        match soon("the end of the session", session.closed()).await {
            SessionError::PeerMisbehaved(misbehaved) => {
                assert_eq!(misbehaved.to_string(), complaint);
            }
            other => panic!("ended otherwise: {other}"),
        }
    }
    assert_eq!(pipe.to_string(), "c0");
}

#[tokio::test]
async fn a_server_that_does_not_answer_a_resume_is_asked_again_above_the_epoch() {
    let server = RawServer::new(raw::ALPN);
    let (session, mut pipe) = detached_by(&server).await;
    let (silent, _control, first) = comes_back(&server).await;
    assert_eq!(soon("the end of patience", silent.closed()).await.0, codes::DETACH);
    // A refusal that names a later epoch is heeded.
    let (busy, _control, second) = comes_back(&server).await;
    assert!(second.epoch > first.epoch);
    busy.close(codes::REFUSED, &numbers(&[5, 70]));
    let (peer, mut control, third) = comes_back(&server).await;
    assert_eq!(third.epoch, 71);
    let answer = resumed(third.epoch, &third.server_proof(&SECRET));
    control.say(&[answer, table(0, 1, &[(0, 4)])].concat()).await;
    let (mut send, mut recv) = soon("a stream", peer.connection.accept_bi()).await.unwrap();
    // It went ahead of the answer (P-35).
    expect(&mut recv, &[&header(71, 0, 0, Some(b""))[..], b"0123456789"].concat()).await;
    send.write_all(&[&header(71, 0, 0, None)[..], b"thanks"].concat()).await.unwrap();
    let mut answer = [0; 6];
    soon("an answer", pipe.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"thanks");
    assert!(matches!(session.link(), LinkState::Attached { .. }));
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_session_says_so_once() {
    let server = RawServer::new(raw::ALPN);
    let (session, _pipe) = detached_by(&server).await;
    let (peer, _control, _) = comes_back(&server).await;
    peer.close(codes::REFUSED, &[3, 0]);
    let ended = soon("the end of the session", session.closed()).await;
    assert_eq!(ended, SessionError::UnknownSession);
}
