//! Peers that are no evermux, or break its protocol: each is told why, and nobody
//! else notices.

mod raw;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use evermux::{
    Client, ClientConfig, ClientTls, ConnectError, DialError, Fingerprint, Identity, Server,
    ServerConfig, ServerTls, Session, TlsError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use raw::RawClient;

/// Codes of CONNECTION_CLOSE, as in the manual (P-30).
const VIOLATION: u64 = 4;
const REFUSED: u64 = 5;
const DETACH: u64 = 6;

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

/// An echo server with a patient client, who must never notice anything.
struct World {
    addr: SocketAddr,
    bystander: Session,
}

impl World {
    async fn new() -> Self {
        let identity = Identity::self_signed(&["localhost"]).unwrap();
        let pin = identity.fingerprint();
        let mut config = ServerConfig::new(ServerTls::new(identity));
        config.handshake_timeout(Duration::from_millis(500));
        let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), config).unwrap();
        let addr = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                tokio::spawn(echo(incoming.accept()));
            }
        });
        let bystander = connect(addr, pin).await.unwrap();
        let world = Self { addr, bystander };
        world.all_is_well().await;
        world
    }

    /// The bystander's session goes on, on the same connection.
    async fn all_is_well(&self) {
        let mut pipe = self.bystander.open_pipe("").unwrap();
        pipe.write_all(b"still there?").await.unwrap();
        pipe.shutdown().await.unwrap();
        let mut answer = Vec::new();
        soon("an echo", pipe.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"still there?");
        assert_eq!(self.bystander.stats().resumes, 0);
    }

    /// What the server says to a client whose control stream begins with
    /// `bytes`.
    async fn answer_to(&self, bytes: &[u8]) -> (u64, String) {
        let client = RawClient::connect(self.addr, b"evermux/1").await.unwrap();
        let (mut send, _recv) = client.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let closed = soon("a close", client.closed()).await;
        self.all_is_well().await;
        closed
    }
}

async fn echo(session: Session) {
    while let Ok(Some(mut pipe)) = session.accept_pipe().await {
        let mut bytes = Vec::new();
        if pipe.read_to_end(&mut bytes).await.is_ok() && pipe.write_all(&bytes).await.is_ok() {
            pipe.writer().finish();
        }
    }
}

async fn connect(addr: SocketAddr, pin: Fingerprint) -> Result<Session, ConnectError> {
    let mut config = ClientConfig::new(ClientTls::with_pin(pin));
    config.attempt_timeout(Duration::from_secs(2));
    Client::new(config).unwrap().connect(addr).await
}

#[tokio::test]
async fn garbage_on_the_control_stream_is_named_as_such() {
    let world = World::new().await;
    // A known type with a payload that ends within a field.
    let (code, reason) = world.answer_to(&[0x01, 0x02, 0xaa, 0xaa]).await;
    assert_eq!(
        (code, &reason[..]),
        (VIOLATION, "sent a malformed frame: it ends in the middle of a field")
    );
    // Random bytes: some length in them is absurd.
    let (code, _) = world.answer_to(&[0xff; 64]).await;
    assert_eq!(code, VIOLATION);
}

#[tokio::test]
async fn a_frame_that_claims_2_to_the_60_bytes_is_refused_at_once() {
    let world = World::new().await;
    let mut frame = vec![0x09];
    frame.extend((1u64 << 60 | 3 << 62).to_be_bytes());
    let (code, reason) = world.answer_to(&frame).await;
    assert_eq!(code, VIOLATION);
    assert!(reason.contains("claims 1152921504606846976 bytes"), "{reason}");
}

#[tokio::test]
async fn a_wrong_first_frame_is_named() {
    let world = World::new().await;
    let (code, reason) = world.answer_to(&[0x0c, 1, 7]).await;
    assert_eq!((code, &reason[..]), (VIOLATION, "sent a PING frame where it has no place"));
}

#[tokio::test]
async fn unknown_frames_are_skipped_and_silence_is_not_waited_for_for_ever() {
    let world = World::new().await;
    let (code, reason) = world.answer_to(&[0x40, 0x99, 3, 1, 2, 3]).await;
    assert_eq!((code, &reason[..]), (DETACH, "no HELLO or RESUME in time"));
}

#[tokio::test]
async fn a_resume_of_an_unknown_session_is_refused_with_the_reason() {
    let world = World::new().await;
    let mut frame = vec![0x03, 0x40, 65];
    frame.extend([0x11; 16]);
    frame.push(2);
    frame.extend([0xaa; 16]);
    frame.extend([0x33; 32]);
    let (code, reason) = world.answer_to(&frame).await;
    // UNKNOWN_SESSION, no epoch, no words.
    assert_eq!((code, reason.as_bytes()), (REFUSED, &[3, 0][..]));
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_in_its_session_ends_only_that() {
    // A session of its own, and then: an ack for a pipe that never was; a stream
    // of a pipe that only the server could have opened; an old epoch.
    let hello = [&[0x01, 26][..], &[0xaa; 16], &[0x44, 0, 0x81, 0, 0, 0, 0x88, 0, 0, 0]].concat();
    let world = World::new().await;
    for (control, stream, complaint) in [
        (&[0x09, 3, 1, 0, 5][..], &[][..], "named pipe s0, which was never opened"),
        (&[], &[0x40, 3, 1, 1, 0], "named pipe s0, which was never opened"),
        (&[], &[0x40, 3, 7, 0, 0], "used epoch 7 on the connection of epoch 1"),
        (&[], &[0x40, 3, 1, 0, 9], "continued pipe c0 at offset 9, beyond the 0 bytes read so far"),
        (&[], &[0x77, 3, 1, 0, 0], "sent a malformed frame"),
        (&hello[..], &[], "sent a HELLO frame where it has no place"),
    ] {
        let client = RawClient::connect(world.addr, b"evermux/1").await.unwrap();
        let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
        send.write_all(&hello).await.unwrap();
        let mut welcome = [0; 60];
        soon("a welcome", recv.read_exact(&mut welcome)).await.unwrap();
        assert_eq!(welcome[..2], [0x02, 58]);
        send.write_all(control).await.unwrap();
        // Dropped, it would be reset, and its header lost.
        let (mut pipe, _back) = client.connection.open_bi().await.unwrap();
        pipe.write_all(stream).await.unwrap();
        let closed = soon("a close", client.closed()).await;
        assert_eq!(closed.0, VIOLATION, "{complaint}");
        assert!(closed.1.contains(complaint), "{} is not {complaint}", closed.1);
        world.all_is_well().await;
    }
}

#[tokio::test]
async fn a_client_of_another_protocol_is_turned_away_by_tls() {
    let world = World::new().await;
    let error = RawClient::connect(world.addr, b"h3").await.err().expect("refused");
    assert!(error.contains("no application protocol") || error.contains("120"), "{error}");
    world.all_is_well().await;
}

#[tokio::test]
async fn a_server_of_another_protocol_is_named_as_such() {
    let (addr, pin, endpoint) = raw::server(b"h3");
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            // Fails in the handshake, which is the point.
            let _ = incoming.await;
        }
    });
    let error = soon("an error", connect(addr, pin)).await.unwrap_err();
    assert_eq!(error, DialError::Tls(TlsError::WrongProtocol).into());
}

#[tokio::test]
async fn a_server_that_never_answers_hello_is_not_waited_for_for_ever() {
    let (addr, pin, endpoint) = raw::server(b"evermux/1");
    let silent = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        connection.closed().await
    });
    let error = soon("an error", connect(addr, pin)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(DialError::TimedOut { .. })), "{error}");
    soon("the end of the connection", silent).await.unwrap();
}
