//! From a connection attempt to a new session or a returning client.

use std::sync::Arc;

use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::early::Flight;
use super::{Door, Incoming, ServerShared, refuse};
use crate::clock;
use crate::code::{LinkCode, RefuseCode};
use crate::control::{ControlError, ControlReader, ControlWriter};
use crate::driver::{Attach, Resumed};
use crate::id::{Epoch, SessionId};
use crate::misbehaved::PeerMisbehaved;
use crate::quic::{Attempt, Completion, Connection, Lost};
use crate::wire::{Frame, Hello, Resume};

/// Why nothing came of a connection.
pub(super) enum Failed {
    /// It was refused, and told so.
    Refused,
    Lost(Lost),
    Misbehaved(PeerMisbehaved),
}

impl From<PeerMisbehaved> for Failed {
    fn from(misbehaved: PeerMisbehaved) -> Self {
        Self::Misbehaved(misbehaved)
    }
}

impl From<Lost> for Failed {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// Takes one connection through its handshake and as far as its first frames go,
/// within the handshake timeout.
pub(super) async fn receive(
    server: Arc<ServerShared>,
    attempt: Attempt,
    incoming: mpsc::Sender<Incoming>,
) {
    let from = attempt.remote_addr();
    let deadline = clock::now() + server.config.handshake_timeout;
    let (connection, completion) = match attempt.accept() {
        Ok(begun) => begun,
        Err(lost) => {
            tracing::debug!(%from, %lost, "no handshake");
            return;
        }
    };
    let first_frames = first_frames(&server, &connection, completion, &incoming);
    match clock::until(deadline, first_frames).await {
        Some(Ok(())) => {}
        Some(Err(Failed::Refused)) => server.registry.count_refused(),
        Some(Err(Failed::Lost(lost))) => {
            tracing::debug!(%from, %lost, "connection lost before it had a session");
        }
        Some(Err(Failed::Misbehaved(misbehaved))) => {
            tracing::debug!(%from, %misbehaved, "closed");
            connection.close(LinkCode::Violation, misbehaved.to_string().as_bytes());
        }
        None => {
            tracing::debug!(%from, "said nothing in time");
            connection.close(LinkCode::Detach, b"no HELLO or RESUME in time");
        }
    }
}

async fn first_frames(
    server: &Arc<ServerShared>,
    connection: &Connection,
    mut completion: Completion,
    incoming: &mpsc::Sender<Incoming>,
) -> Result<(), Failed> {
    let (send, recv) = connection.accept_bi().await?;
    let (mut reader, mut writer) = (ControlReader::new(recv), ControlWriter::new(send));
    let (mut early, mut flight) = (None, None);
    loop {
        let frame = tokio::select! {
            biased;
            frame = next(connection, &mut reader) => frame?,
            failed = take_in(&mut flight, connection) => return Err(failed),
        };
        match frame {
            Frame::Early(claim) if early.is_none() => {
                early = Some(claim.epoch);
                if let Some((let_in, answer)) = Flight::let_in(server, connection, claim) {
                    flight = Some(let_in);
                    writer.queue(&Frame::EarlyAnswer(answer));
                    flush(connection, &mut writer).await?;
                }
            }
            Frame::Hello(hello) if early.is_none() => {
                // Until then it may be a repetition (P-37).
                completion.wait(connection).await?;
                begin(server, connection, reader, writer, hello, incoming);
                return Ok(());
            }
            Frame::Resume(resume) => {
                completion.wait(connection).await?;
                let claim = Claim { reader, writer, resume, early, flight };
                return resume_session(server, connection, claim).await;
            }
            Frame::Unknown(_) => {}
            frame => return Err(PeerMisbehaved::UnexpectedFrame { frame: frame.name() }.into()),
        }
    }
}

/// Takes in the streams of an early flight, if there is one.
async fn take_in(flight: &mut Option<Flight>, connection: &Connection) -> Failed {
    match flight {
        Some(flight) => flight.take_in(connection).await,
        None => std::future::pending().await,
    }
}

async fn flush(connection: &Connection, writer: &mut ControlWriter) -> Result<(), Failed> {
    match writer.flush().await {
        Ok(()) => Ok(()),
        Err(_) => Err(connection.closed().await.into()),
    }
}

async fn next(connection: &Connection, reader: &mut ControlReader) -> Result<Frame, Failed> {
    match reader.next().await {
        Ok(frame) => Ok(frame),
        Err(ControlError::Misbehaved(misbehaved)) => Err(misbehaved.into()),
        Err(ControlError::Gone) => Err(connection.closed().await.into()),
    }
}

/// A client wants a session: the application decides.
fn begin(
    server: &Arc<ServerShared>,
    connection: &Connection,
    reader: ControlReader,
    writer: ControlWriter,
    hello: Hello,
    incoming: &mpsc::Sender<Incoming>,
) {
    let mut door =
        Door { connection: connection.clone(), registry: server.registry.clone(), answered: false };
    let Some(place) = server.registry.reserve() else {
        door.refuse(RefuseCode::OVERLOADED, "the limit of sessions is reached");
        return;
    };
    let environment = &server.config.environment;
    let (Ok(id), Ok(secret)) = (environment.random(), environment.random()) else {
        door.refuse(RefuseCode::OVERLOADED, "no random bytes");
        return;
    };
    let applicant = Incoming {
        server: server.clone(),
        door,
        reader,
        writer,
        hello,
        id: SessionId::from_bytes(id),
        secret: Zeroizing::new(secret),
        peer: connection.peer_fingerprint(),
        place,
    };
    if let Err(error) = incoming.try_send(applicant) {
        // The application does not keep up, or the server shuts down.
        let mut applicant = error.into_inner();
        applicant.door.refuse(RefuseCode::OVERLOADED, "too many clients wait to be accepted");
    }
}

/// What a client that comes back has said up to its `RESUME`.
struct Claim {
    reader: ControlReader,
    writer: ControlWriter,
    resume: Resume,
    /// The epoch of its early claim.
    early: Option<Epoch>,
    /// Its early flight, if it was let in.
    flight: Option<Flight>,
}

/// A client has come back: its proof, then its table, then its session (P-14).
async fn resume_session(
    server: &Arc<ServerShared>,
    connection: &Connection,
    claim: Claim,
) -> Result<(), Failed> {
    let Claim { mut reader, writer, resume, early, flight } = claim;
    let session = resume.session;
    let turn_away = |code, attached| {
        tracing::debug!(%session, %code, "resume refused");
        refuse(connection, code, attached, "");
        Failed::Refused
    };
    let entry = server.registry.find(session);
    let entry = entry.ok_or_else(|| turn_away(RefuseCode::UNKNOWN_SESSION, 0))?;
    let exporter = connection.exporter()?;
    let checked = if connection.peer_fingerprint() == entry.session.peer {
        let table = entry.session.table();
        let checked = table.core.check(&resume, &exporter).map(|_| table.core.expect_table());
        checked.map_err(|code| (code, table.core.epoch().get()))
    } else {
        Err((RefuseCode::WRONG_IDENTITY, 0))
    };
    let mut table = checked.map_err(|(code, epoch)| {
        let proved = code == RefuseCode::STALE_EPOCH;
        if !proved {
            server.failures.add(connection.remote_addr().ip());
        }
        // The epoch is told only to who has proved to hold the token.
        turn_away(code, if proved { epoch } else { 0 })
    })?;
    while !table.on_frame(next(connection, &mut reader).await?)? {}
    let connection = connection.clone();
    let forgone = early.filter(|epoch| *epoch != resume.epoch);
    // A flight that the claim does not go on with is let go of, but not what the client
    // has opened since: that belongs to the claim, and has come before it was looked at.
    let is_its_own = flight.as_ref().is_some_and(|flight| flight.is_of(session, resume.epoch));
    let (early, begin) = flight.map(Flight::land).unzip();
    let (early, begin) = (early.filter(|_| is_its_own), begin.unwrap_or_default());
    let resumed =
        Resumed { connection, reader, writer, resume, exporter, table, early, begin, forgone };
    let attach = Box::new(Attach::Resumed(resumed));
    match entry.attaches.send(attach) {
        Ok(()) => {
            server.registry.count_resumed();
            Ok(())
        }
        // It has just ended.
        Err(gone) => {
            drop(gone);
            Err(turn_away(RefuseCode::UNKNOWN_SESSION, 0))
        }
    }
}
