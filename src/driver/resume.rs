//! From a new connection to an attached one: the I/O of the resume exchange.
//! What is said in it, and why in this order, is in `proto/resume.rs`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::begin::Beginnings;
use super::early::{EarlyFlight, EarlyStreams, owing_little};
use super::link::Link;
use super::{Driver, GOODBYE, LinkEnd};
use crate::clock::{self, Instant};
use crate::code::{LinkCode, RefuseCode};
use crate::control::{ControlError, ControlReader, ControlWriter};
use crate::error::{DialError, SessionError};
use crate::event::DetachCause;
use crate::id::Epoch;
use crate::misbehaved::PeerMisbehaved;
use crate::pipe::PipeShared;
use crate::proto::PeerTable;
use crate::quic::{Connection, Dialler, Lost};
use crate::wire::{Frame, Refused, Resume, SECRET_LEN};

/// A handover goes on reading from the old connection if no more than so many bytes
/// came while the new one was dialled, which takes a round trip: what fits into the
/// first flight of a connection (RFC 9002 section 7.2).
const READ_ON_MAX: u64 = 12_000;

/// A new connection is answered a little before the old one if it happened to be dialled
/// as the network came back: the answer to the old one's next kick is under way then.
/// To wait for it saves a resume, and the replay of all that was under way. So long at
/// most, and no longer than kicks are apart once they are rarer.
const HEAR_OUT_MAX: Duration = Duration::from_millis(50);

/// A new connection for a session, brought by its role.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it travels in a box")]
pub(crate) enum Attach {
    /// Server: a client has come back. Its proof was checked and its table read
    /// before the session was bothered.
    Resumed(Resumed),
    /// Client: a connection was dialled.
    Dialled(Dialled),
    /// Client: no more attempts.
    GiveUp(SessionError),
}

/// A client's claim, complete.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) connection: Connection,
    pub(crate) reader: ControlReader,
    pub(crate) writer: ControlWriter,
    pub(crate) resume: Resume,
    pub(crate) exporter: [u8; SECRET_LEN],
    pub(crate) table: PeerTable,
    /// The streams of its early flight that were let in.
    pub(crate) early: Option<EarlyStreams>,
    /// Others that it has opened so far.
    pub(crate) begin: Beginnings,
    /// The epoch of an early claim that it has not gone on with.
    pub(crate) forgone: Option<Epoch>,
}

/// A connection to the server, with nothing said on it yet but what was early.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    pub(crate) dialler: Dialler,
    /// The server's TLS has taken it; what has become of it is not known yet.
    pub(crate) early: Option<EarlyFlight>,
    /// When the attempt is over.
    pub(crate) deadline: Instant,
    /// Told whether the attempt came to anything, if it did not end the session.
    pub(crate) outcome: oneshot::Sender<Result<(), DialError>>,
}

/// A claim that the server has answered.
struct Claimed {
    epoch: Epoch,
    reader: ControlReader,
    writer: ControlWriter,
    table: PeerTable,
    /// Those that were opened before the answer came.
    streams: EarlyStreams,
}

/// Why a claim came to nothing.
enum ClaimFailed {
    /// May be tried again.
    Retry(DialError),
    Final(SessionError),
}

impl From<PeerMisbehaved> for ClaimFailed {
    fn from(misbehaved: PeerMisbehaved) -> Self {
        Self::Final(misbehaved.into())
    }
}

impl Driver {
    /// Makes a new connection the attached one, if all goes well.
    ///
    /// # Errors
    ///
    /// The session ends.
    pub(super) async fn attach(
        &mut self,
        link: &mut Option<Box<Link>>,
        attach: Attach,
    ) -> Result<(), SessionError> {
        match attach {
            Attach::Resumed(resumed) => self.attach_resumed(link, resumed).await,
            Attach::Dialled(dialled) => self.attach_dialled(link, dialled).await,
            Attach::GiveUp(error) => Err(error),
        }
    }

    /// Server: check again, fence, measure, answer (P-14).
    async fn attach_resumed(
        &mut self,
        link: &mut Option<Box<Link>>,
        resumed: Resumed,
    ) -> Result<(), SessionError> {
        let Resumed { connection, reader, mut writer, resume, exporter, table, .. } = resumed;
        let early = resumed.early;
        // Another resume may have been accepted since the first check.
        let checked = {
            let session = self.shared.table();
            let checked = session.core.check(&resume, &exporter);
            checked.map(|_| resume.holder != session.core.holder()).map_err(|code| Refused {
                code,
                attached: session.core.epoch().get(),
                reason: Bytes::new(),
            })
        };
        let takeover = match checked {
            Ok(takeover) => takeover,
            Err(refused) => {
                connection.close(LinkCode::Refused, &refused.to_reason());
                return Ok(());
            }
        };
        let code = if takeover { LinkCode::Superseded } else { LinkCode::Replaced };
        self.fence(link, DetachCause::Replaced, code);
        let granted = {
            let mut session = self.shared.table();
            session.core.grant(&resume, &exporter)
        };
        let Ok(granted) = granted else {
            // Checked above, and only this task grants.
            connection.close(LinkCode::Detach, b"");
            return Ok(());
        };
        if takeover {
            // An early flight of the former holder may have an epoch above this one.
            self.shared.pipes().iter().for_each(|pipe| pipe.drop_any_early());
        } else if early.is_none() {
            // What went ahead with this epoch has come on another connection: that is
            // a repetition, and its streams are not those of the client.
            self.shared.pipes().iter().for_each(|pipe| pipe.drop_early(resume.epoch));
        }
        writer.queue(&Frame::Resumed(granted));
        for frame in self.measure() {
            writer.queue(&frame);
        }
        self.confirmed = true;
        let streams = self.config.initial_stream_limit();
        let mut new = Link::new(connection, resume.epoch, reader, writer, streams);
        new.begin = resumed.begin;
        new.forgone = resumed.forgone;
        let adopted = self.adopt(link.insert(Box::new(new)), &table);
        // They are the streams of their pipes by now, or of no use.
        drop(early);
        adopted
    }

    /// Client: fence, measure, claim; attach when the answer is good. A connection
    /// that is attached still was suspect; if it has recovered, it stays.
    ///
    /// In a handover it works, and is let go of only when the new one is there: until
    /// then it is read from. That is as good as a fence: where the server stands was
    /// measured behind its own, and what it sends from our measured offsets on is
    /// skipped as far as it was read meanwhile (P-12). If that would be much, it would
    /// only fill the new connection while its window is small: then it is fenced now.
    async fn attach_dialled(
        &mut self,
        link: &mut Option<Box<Link>>,
        dialled: Dialled,
    ) -> Result<(), SessionError> {
        let Dialled { connection, dialler, early, deadline, outcome } = dialled;
        let mut works = false;
        if let Some(old) = link {
            if old.liveness.is_suspect() && !self.shared.is_moving() {
                let patience = (2 * self.config.kick_interval).min(HEAR_OUT_MAX);
                let answered = async {
                    tokio::select! {
                        biased;
                        _ = old.connection.closed() => {}
                        () = old.connection.revived() => {}
                    }
                };
                clock::until(clock::now() + patience, answered).await;
            }
            // Was it only slow? Then it has won.
            let _ = self.look_after(old);
            works = !old.liveness.is_suspect();
            if works && !self.shared.is_moving() {
                connection.close(LinkCode::Detach, b"");
                let _ = outcome.send(Ok(()));
                return Ok(());
            }
        }
        works &= self.shared.read_since_moving() <= READ_ON_MAX;
        if works {
            self.shared.hold();
        } else {
            self.fence(link, DetachCause::TimedOut, LinkCode::Replaced);
        }
        let (shared, most) = (self.shared.clone(), self.config.optimistic_replay);
        let (claimed, ended) = {
            let claim = claim(&shared, &connection, early, most);
            let mut claimed = pin!(clock::until(deadline, claim));
            tokio::select! {
                biased;
                error = wait_for_end(self) => {
                    // What came early may be why. The server hears of it on the connection
                    // that it takes for the session's: as soon as that is this one.
                    let soon = clock::now() + GOODBYE;
                    (clock::until(soon, &mut claimed).await.flatten(), Some(error))
                }
                claimed = &mut claimed => (claimed, None),
            }
        };
        if let Some(error) = ended {
            if let Some(Ok(Claimed { epoch, reader, writer, .. })) = claimed {
                self.fence(link, DetachCause::Replaced, LinkCode::Replaced);
                let streams = self.config.initial_stream_limit();
                let new = Link::new(connection, epoch, reader, writer, streams);
                let new = link.insert(Box::new(new));
                new.dialler = Some(dialler);
            } else {
                let (code, reason) = self.last_words(&error);
                connection.close(code, &reason);
            }
            return Err(error);
        }
        // After a handover there is still one to fence.
        let cause = if matches!(claimed, Some(Ok(_))) {
            DetachCause::Replaced
        } else {
            DetachCause::TimedOut
        };
        if works {
            self.fence(link, cause, LinkCode::Replaced);
        }
        let failed = match claimed {
            Some(Ok(Claimed { epoch, reader, writer, table, streams: _early })) => {
                let streams = self.config.initial_stream_limit();
                let mut new = Link::new(connection, epoch, reader, writer, streams);
                new.dialler = Some(dialler);
                self.adopt(link.insert(Box::new(new)), &table)?;
                self.shared.table().core.claim_over();
                // The role may be gone; the session goes on.
                let _ = outcome.send(Ok(()));
                return Ok(());
            }
            Some(Err(ClaimFailed::Final(error))) => {
                if let SessionError::PeerMisbehaved(misbehaved) = &error {
                    connection.close(LinkCode::Violation, misbehaved.to_string().as_bytes());
                }
                // What we wanted to close is not there any more: as good.
                return Err(match error {
                    SessionError::UnknownSession if self.close_sent => super::closed(),
                    error => error,
                });
            }
            Some(Err(ClaimFailed::Retry(error))) => error,
            None => {
                DialError::Lost { reason: "the server did not answer the resume in time".into() }
            }
        };
        self.shared.table().core.claim_over();
        connection.close(LinkCode::Detach, b"");
        let _ = outcome.send(Err(failed));
        Ok(())
    }

    /// Our table; only behind a fence.
    fn measure(&self) -> Vec<Frame> {
        measure(&self.shared)
    }

    /// Both tables are known: every pipe goes on where its reader stands.
    fn adopt(&mut self, link: &mut Link, table: &PeerTable) -> Result<(), SessionError> {
        let epoch = link.epoch;
        let replies = self.shared.table().core.on_table(table)?;
        replies.iter().for_each(|reply| link.queue(reply));
        let mut replayed = 0;
        let pipes = self.shared.pipes();
        for pipe in &pipes {
            replayed += pipe.on_resume(table.view(pipe.id()), epoch)?;
        }
        let (theirs, ours, max) = {
            let core = &self.shared.table().core;
            (core.live_peer_pipes(), core.live_own_pipes(), core.max_peer_pipes())
        };
        link.asleep = ours;
        link.expect_streams(theirs, max);
        self.shared.set_attached(&link.connection, epoch);
        // Those opened while the exchange was under way are looked at when they
        // are due.
        let mut pipes: Vec<(u64, Arc<PipeShared>)> =
            pipes.into_iter().map(|pipe| (pipe.stats().kept, pipe)).collect();
        // Small ones first: interactive pipes do not wait for bulk.
        pipes.sort_by_key(|(kept, pipe)| (*kept, pipe.id()));
        for (_, pipe) in pipes {
            let wants = pipe.look();
            self.serve(link, &pipe, wants);
        }
        self.shared.set_resumed(&link.connection, epoch, replayed);
        Ok(())
    }
}

/// Says who we are and where we stand, and reads where the server stands.
async fn claim(
    shared: &crate::session::SessionShared,
    connection: &Connection,
    early: Option<EarlyFlight>,
    most: u64,
) -> Result<Claimed, ClaimFailed> {
    let lost = |lost: Lost| lost_while_claiming(shared, lost);
    let (flown, mut reader, mut writer) = match early {
        Some(EarlyFlight { claim, reader, writer, streams }) => {
            (Some((claim, streams)), reader, writer)
        }
        None => {
            let (send, recv) = connection.open_bi().await.map_err(lost)?;
            (None, ControlReader::new(recv), ControlWriter::new(send))
        }
    };
    let (mut early, streams) = flown.unzip();
    let exporter = connection.exporter().map_err(lost)?;
    let (claim, resume) = {
        let core = &mut shared.table().core;
        match early.as_ref().filter(|early| core.is_latest(early)) {
            Some(early) => core.claim_as(early.epoch(), exporter),
            // A later flight, on another connection, has taken the pipes with it.
            None => core.claim(exporter),
        }
    };
    let epoch = resume.epoch;
    writer.queue(&Frame::Resume(resume));
    for frame in measure(shared) {
        writer.queue(&frame);
    }
    let streams = streams.filter(|streams| streams.epoch() == epoch);
    let mut streams = streams.unwrap_or_else(|| EarlyStreams::new(epoch, most));
    // What little is owed goes right behind the claim, if it has not gone ahead.
    // For what the server owes on others, it opens streams itself.
    let mut owing = owing_little(shared, most);
    owing.retain(|pipe| pipe.calls_for_stream());
    streams.open(connection, owing);
    let mut table = shared.table().core.expect_table();
    let mut answered = false;
    loop {
        // A table larger than a window is written while the answer is read.
        let frame = tokio::select! {
            biased;
            flushed = writer.flush(), if !writer.is_empty() => match flushed {
                Ok(()) => continue,
                Err(_) => Err(ControlError::Gone),
            },
            frame = reader.next() => frame,
        };
        match frame {
            Ok(Frame::Resumed(answer)) if !answered => {
                shared.table().core.on_resumed(&claim, &answer)?;
                answered = true;
            }
            Ok(frame) if answered => {
                if table.on_frame(frame)? {
                    return Ok(Claimed { epoch, reader, writer, table, streams });
                }
            }
            Ok(Frame::Unknown(_)) => {}
            Ok(frame) => match (frame, early.take()) {
                // It comes first, or not at all.
                (Frame::EarlyAnswer(answer), Some(early)) => {
                    early.on_answer(&answer)?;
                    if answer.epoch == epoch {
                        streams.trust();
                    }
                }
                (frame, _) => {
                    return Err(PeerMisbehaved::UnexpectedFrame { frame: frame.name() }.into());
                }
            },
            Err(ControlError::Misbehaved(misbehaved)) => return Err(misbehaved.into()),
            Err(ControlError::Gone) => return Err(lost(connection.closed().await)),
        }
    }
}

fn measure(shared: &crate::session::SessionShared) -> Vec<Frame> {
    let positions = shared.pipes().iter().map(|pipe| pipe.measure()).collect();
    shared.table().core.table(positions).into_frames().collect()
}

fn on_refused(shared: &crate::session::SessionShared, refused: &Refused) -> ClaimFailed {
    let epoch = {
        let mut table = shared.table();
        table.core.on_refused(refused);
        table.core.epoch()
    };
    match refused.code {
        RefuseCode::UNKNOWN_SESSION => ClaimFailed::Final(SessionError::UnknownSession),
        RefuseCode::SUPERSEDED => ClaimFailed::Final(SessionError::Superseded { epoch }),
        code if code.is_retryable() => {
            let reason = String::from_utf8_lossy(&refused.reason).into_owned();
            ClaimFailed::Retry(DialError::Refused { code, reason })
        }
        code => ClaimFailed::Final(SessionError::Refused { code }),
    }
}

/// The connection ended in the middle of the exchange. What the server has said
/// on purpose counts; anything else may have been an accident.
fn lost_while_claiming(shared: &crate::session::SessionShared, lost: Lost) -> ClaimFailed {
    match lost {
        Lost::Closed { code: LinkCode::Refused, reason } => match Refused::from_reason(reason) {
            Ok(refused) => on_refused(shared, &refused),
            Err(malformed) => ClaimFailed::Final(PeerMisbehaved::from(malformed).into()),
        },
        Lost::Closed { code: LinkCode::SessionClosed, reason } => {
            let close = crate::wire::Close::from_reason(reason);
            ClaimFailed::Final(SessionError::PeerClosed { code: close.code, reason: close.reason })
        }
        Lost::Closed { code: LinkCode::Violation, reason } => {
            let reason = String::from_utf8_lossy(&reason).into_owned();
            ClaimFailed::Final(SessionError::RejectedByPeer { reason })
        }
        Lost::Closed { code: LinkCode::Superseded, .. } => {
            let epoch = shared.table().core.epoch();
            ClaimFailed::Final(SessionError::Superseded { epoch })
        }
        other => ClaimFailed::Retry(DialError::Lost { reason: other.to_string() }),
    }
}

/// Ready when the application ends the session.
async fn wait_for_end(driver: &mut Driver) -> SessionError {
    let shared = driver.shared.clone();
    loop {
        // Checked first: the wake-up may have been taken by somebody else.
        if let Some(LinkEnd::Ended(error)) = driver.take_requests(None) {
            return error;
        }
        shared.host.wake.notified().await;
        driver.look_at_due();
    }
}
