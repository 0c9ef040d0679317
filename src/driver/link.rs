//! An attached connection: control frames, streams, probes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::begin::{Beginnings, Begun};
use super::liveness::{Liveness, Signs, Verdict};
use super::{Driver, LinkEnd};
use crate::clock::{self, Instant, sleep_until};
use crate::code::CloseCode;
use crate::control::{ControlError, ControlReader, ControlWriter};
use crate::error::SessionError;
use crate::id::{Epoch, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::pipe::{Host, PipeShared, Wants};
use crate::proto::{Accepted, Located, Outgoing};
use crate::quic::{Connection, Dialler, RecvStream, SendStream};
use crate::wire::{ACK_ENTRIES_MAX, Ack, Close, DecodeError, Frame};

/// How long an ack that is not urgent waits for company. QUIC delays its own as
/// long by default (RFC 9000 section 18.2, max_ack_delay). The ack of an end waits only if
/// others went so shortly before: pipes that come to their ends one after the other cost
/// a packet for each otherwise.
const ACK_DELAY: Duration = Duration::from_millis(25);

/// Without an ack for so long what the server has sent is probably lost.
const VIGIL: Duration = Duration::from_millis(500);

/// A network that has changed goes on changing for a while: what is said within this
/// time is one.
const SETTLES: Duration = Duration::from_millis(100);

/// Free streams that the peer is kept supplied with.
const STREAM_HEADROOM: u64 = 32;

/// How often QUIC is told that somebody waits for small things. It heeds that for ten
/// seconds.
const PROMPT_INTERVAL: Duration = Duration::from_secs(1);

/// An attached connection.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    /// Client: the socket, kept for the farewell.
    pub(super) dialler: Option<Dialler>,
    reader: ControlReader,
    writer: ControlWriter,
    /// Replays under way, one task for each pipe that has something to catch up
    /// with, and streams that linger. Dropped with the link.
    pumps: JoinSet<()>,
    /// Streams whose header is not complete.
    pub(super) begin: Beginnings,
    /// Server: the epoch of an early claim that the client has not gone on with. Its
    /// streams are dropped.
    pub(super) forgone: Option<Epoch>,
    /// Pipes that wait for a stream: the peer's limit allows no more now.
    opening: VecDeque<Arc<PipeShared>>,
    /// Pipes of our own for which the peer may open streams: those that were live
    /// before this connection.
    pub(super) asleep: u64,
    /// How many streams the peer may have open.
    streams: u64,
    /// The peer's address, as it was last looked at.
    remote_addr: SocketAddr,
    /// Server: until when it is not looked at again.
    settled_at: Instant,
    /// Server: how often the client was seen at another address.
    moves: u64,
    /// Acknowledgements of QUIC's that had come at the last look.
    heard: u64,
    acks_due: Option<Instant>,
    /// Until when the next ends are acknowledged together.
    ends_due: Instant,
    /// Server: when to look whether acks come, and how many had come before.
    vigil: Option<(Instant, u64)>,
    pub(super) liveness: Liveness,
    /// When QUIC was last told that somebody waits for small things.
    prompt_at: Option<Instant>,
    /// When the socket has changed, until something is heard on the new one.
    moved_at: Option<Instant>,
    /// Everything is settled and `Close` was sent: until when the peer may
    /// confirm it.
    close_due: Option<Instant>,
}

impl Link {
    pub(super) fn new(
        connection: Connection,
        epoch: Epoch,
        reader: ControlReader,
        writer: ControlWriter,
        streams: u64,
    ) -> Self {
        let now = clock::now();
        Self {
            remote_addr: connection.remote_addr(),
            settled_at: now,
            moves: 0,
            heard: connection.acks_received(),
            connection,
            epoch,
            dialler: None,
            reader,
            writer,
            pumps: JoinSet::new(),
            begin: Beginnings::default(),
            forgone: None,
            opening: VecDeque::new(),
            asleep: 0,
            streams,
            acks_due: None,
            ends_due: now,
            vigil: None,
            liveness: Liveness::new(now),
            prompt_at: None,
            moved_at: None,
            close_due: None,
        }
    }

    /// Has `pipe` get a stream in its turn.
    pub(super) fn open(&mut self, pipe: Arc<PipeShared>) {
        self.opening.push_back(pipe);
    }

    /// Queues a control frame.
    pub(super) fn queue(&mut self, frame: &Frame) {
        self.writer.queue(frame);
    }

    /// Lets the peer have so many pipes of its own and some more, and a stream for each
    /// that may need one.
    pub(super) fn expect_streams(&mut self, pipes: u64, max_pipes: u64) {
        // The control stream is one; the headroom lets streams overlap whose
        // pipes are done while QUIC still waits for their last packets.
        let others = self.asleep + 1 + STREAM_HEADROOM;
        let most = max_pipes + others;
        let wanted = (pipes + others).min(most);
        if wanted > self.streams {
            self.streams = wanted.max(self.streams * 2).min(most);
            self.connection.set_max_streams(self.streams);
        }
    }

    /// Tells the peer that the session is closed, and waits until it has closed
    /// the connection.
    pub(super) async fn say_goodbye(&mut self, close: Close) {
        self.writer.queue(&Frame::Close(close));
        if self.writer.flush().await.is_ok() {
            self.connection.closed().await;
        }
    }

    /// Server: looks now and then whether what is sent arrives. The client finds out
    /// that the network is away, and that it is back; but its first sign of life
    /// must not meet a window that is full.
    fn keep_vigil(&mut self, host: &Host) {
        if self.vigil.is_some() {
            return;
        }
        host.rest();
        if host.totals.kept.load(Relaxed) > 0 {
            self.vigil = Some((clock::now() + VIGIL, self.connection.acks_received()));
        }
    }

    fn end_vigil(&mut self, now: Instant) {
        if let Some((_, acks)) = self.vigil.take_if(|(due, _)| *due <= now)
            && self.connection.acks_received() == acks
        {
            self.connection.expect_loss();
        }
    }

    /// Server: when the client's address is to be looked at, if it is another one. A NAT
    /// that changes its mind with every packet must not have us ask after each.
    fn move_due(&self) -> Option<Instant> {
        let moved = self.connection.remote_addr() != self.remote_addr;
        (moved && !self.writer.is_backed_up()).then_some(self.settled_at)
    }

    /// Somebody waits for small things; QUIC is told now and then.
    fn be_prompt(&mut self) {
        let now = clock::now();
        if self.prompt_at.is_none_or(|told| now >= told + PROMPT_INTERVAL) {
            self.prompt_at = Some(now);
            self.connection.keep_queue_short();
        }
    }

    /// Has QUIC send something now, whatever its timers and windows say.
    fn kick(&mut self) {
        self.connection.expect_loss();
        if let Some(dialler) = &mut self.dialler {
            dialler.kick(&self.connection);
        }
    }

    /// Client: has what is sent go out from a fresh socket too.
    fn try_beside(&self) {
        let tried = self.dialler.as_ref().map_or(Ok(()), Dialler::try_beside);
        if let Err(error) = tried {
            tracing::debug!(%error, "no fresh socket: the old one alone is tried");
        }
    }

    fn pump(&mut self, pipe: Arc<PipeShared>) {
        let epoch = self.epoch;
        self.pumps.spawn(async move {
            std::future::poll_fn(|cx| pipe.poll_pump(cx, epoch)).await;
        });
    }
}

impl Driver {
    /// Runs an attached connection until it is over.
    pub(super) async fn run_attached(&mut self, link: &mut Link) -> LinkEnd {
        let shared = self.shared.clone();
        // What came while nothing was attached.
        shared.host.wake.notify_one();
        loop {
            if let Err(end) = self.after_step(link) {
                return end;
            }
            match shared.side {
                Side::Client => {
                    let (now, pipes) = (clock::now(), self.has_pipes());
                    link.liveness.notice_traffic(now, &self.config, &shared.host, pipes);
                }
                Side::Server => link.keep_vigil(&shared.host),
            }
            let timer = self.next_timer(link);
            let step = tokio::select! {
                biased;
                lost = link.connection.closed() => Err(LinkEnd::Lost(lost)),
                () = sleep_until(timer) => self.on_timer(link),
                () = shared.host.wake.notified() => self.on_wake(link),
                flushed = link.writer.flush(), if !link.writer.is_empty() => {
                    if flushed.is_err() {
                        // The stream is gone, and with it the connection.
                        Err(LinkEnd::Lost(control_gone(link).await))
                    } else {
                        // What was due while it was backed up.
                        shared.host.wake.notify_one();
                        Ok(())
                    }
                }
                frame = link.reader.next(), if !link.writer.is_backed_up() => match frame {
                    Ok(frame) => self.on_frame(link, frame),
                    Err(ControlError::Misbehaved(misbehaved)) => Err(misbehaved.into()),
                    Err(ControlError::Gone) => {
                        Err(LinkEnd::Lost(control_gone(link).await))
                    }
                },
                Some(_) = link.pumps.join_next(), if !link.pumps.is_empty() => Ok(()),
                begun = link.begin.next() => self.on_begun(link, begun),
                stream = link.connection.open_bi(), if !link.opening.is_empty() => match stream {
                    Ok(stream) => self.on_opened(link, stream),
                    Err(lost) => Err(LinkEnd::Lost(lost)),
                },
                stream = link.connection.accept_bi() => match stream {
                    Ok(stream) => match link.begin.start(stream) {
                        Some(begun) => self.on_begun(link, begun),
                        None => Ok(()),
                    },
                    Err(lost) => Err(LinkEnd::Lost(lost)),
                },
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Looks after things that any step may have changed.
    fn after_step(&mut self, link: &mut Link) -> Result<(), LinkEnd> {
        let (now, heard) = (clock::now(), link.connection.acks_received());
        if std::mem::replace(&mut link.heard, heard) != heard {
            self.shared.set_heard();
        }
        if self.shared.side == Side::Server && link.move_due().is_some_and(|due| due <= now) {
            self.follow(link, now);
        }
        if self.draining && link.close_due.is_none() {
            let settled = self.shared.table().pipes.values().all(|pipe| pipe.is_settled());
            if settled {
                link.close_due = Some(now + super::CLOSE_PATIENCE);
                self.close_sent = true;
                // What was read here is told first: afterwards nobody listens.
                self.send_acks(link);
                let close = Close { code: CloseCode::DONE, reason: Bytes::new() };
                link.writer.queue(&Frame::Close(close));
                // Without pipes the next probe would be far: on a connection that is
                // dead, nobody would hear of the end.
                link.liveness.insist(now);
            }
        }
        Ok(())
    }

    /// Server: the client is at another address, by its own doing or that of a NAT. What
    /// was sent to the old one is probably lost, and the client may know nothing of it:
    /// asks at once, which tells it (P-29).
    fn follow(&mut self, link: &mut Link, now: Instant) {
        link.remote_addr = link.connection.remote_addr();
        link.settled_at = now + SETTLES;
        self.shared.set_migrated(link.epoch, link.remote_addr);
        link.connection.expect_loss();
        link.moves += 1;
        self.ask(link, link.moves);
    }

    /// Sends a probe, which re-agrees all offsets.
    fn ask(&mut self, link: &mut Link, number: u64) {
        self.send_acks(link);
        link.writer.queue(&Frame::Ping(number));
    }

    fn on_wake(&mut self, link: &mut Link) -> Result<(), LinkEnd> {
        // If the role is gone, the session lives as long as this link.
        if let Ok(attach) = self.attaches.try_recv() {
            return Err(LinkEnd::Attach(attach));
        }
        if let Some(end) = self.take_requests(Some(link.epoch)) {
            return Err(end);
        }
        if std::mem::take(&mut self.network_changed) {
            self.migrate(link);
        }
        if link.writer.is_backed_up() {
            // The pipes stay due, each once, until the peer takes what it has.
            return Ok(());
        }
        let due = self.shared.host.take_due(false);
        if let Some(misbehaved) = due.misbehaved {
            return Err(misbehaved.into());
        }
        if link.acks_due.is_none() && self.shared.host.has_later() {
            link.acks_due = Some(clock::now() + ACK_DELAY);
        }
        self.visit(link, &due.now, false);
        let (ends, enough) = self.shared.host.ends();
        if enough || ends > 0 && clock::now() >= link.ends_due {
            self.send_acks(link);
        }
        Ok(())
    }

    /// Sends what these pipes have to say, and does what they want done.
    fn visit(&mut self, link: &mut Link, pipes: &[Arc<PipeShared>], later: bool) {
        let mut acks = Vec::new();
        let mut outgoing = Vec::new();
        for pipe in pipes {
            let wants = pipe.visit(later, &mut outgoing);
            for frame in outgoing.drain(..) {
                match frame {
                    Outgoing::Ack(ack) => acks.push(ack),
                    Outgoing::Reset(reset) => link.writer.queue(&Frame::Reset(reset)),
                    Outgoing::Stop(stop) => link.writer.queue(&Frame::Stop(stop)),
                }
            }
            self.serve(link, pipe, wants);
        }
        for acks in acks.chunks(ACK_ENTRIES_MAX) {
            link.writer.queue(&Frame::Acks(acks.to_vec()));
        }
    }

    /// Does what a pipe wants done.
    pub(super) fn serve(&self, link: &mut Link, pipe: &Arc<PipeShared>, wants: Wants) {
        if wants.promptness {
            link.be_prompt();
        }
        if wants.stream {
            link.open(pipe.clone());
        }
        if wants.pump {
            link.pump(pipe.clone());
        }
        if wants.release
            && let Some(stream) = pipe.release()
        {
            link.pumps.spawn(stream.linger());
        }
        if wants.retire {
            self.shared.retire(pipe.id());
        }
    }

    fn next_timer(&self, link: &Link) -> Option<Instant> {
        let probe = (self.shared.side == Side::Client).then(|| link.liveness.deadline()).flatten();
        // Acks wait while the peer does not take what was queued before.
        let acks = link.acks_due.filter(|_| !link.writer.is_backed_up());
        let vigil = link.vigil.map(|(due, _)| due);
        let moved = (self.shared.side == Side::Server).then(|| link.move_due()).flatten();
        [acks, probe, vigil, moved, link.close_due].into_iter().flatten().min()
    }

    fn on_timer(&mut self, link: &mut Link) -> Result<(), LinkEnd> {
        let now = clock::now();
        if link.close_due.is_some_and(|due| due <= now) {
            return Err(LinkEnd::Ended(super::closed()));
        }
        if link.acks_due.is_some_and(|due| due <= now) {
            self.send_acks(link);
        }
        if self.shared.side == Side::Client {
            self.look_after(link)?;
        }
        link.end_vigil(now);
        Ok(())
    }

    /// Client: looks whether the server can be reached.
    pub(super) fn look_after(&mut self, link: &mut Link) -> Result<(), LinkEnd> {
        let pipes = self.has_pipes();
        let signs = Signs::of(&link.connection);
        match link.liveness.look(clock::now(), &self.config, signs, pipes) {
            Verdict::Wait => {}
            Verdict::Probe(number) => self.ask(link, number),
            Verdict::Suspect => self.shared.set_suspect(&link.connection, link.epoch),
            Verdict::Kick => link.kick(),
            Verdict::KickBeside => {
                link.try_beside();
                link.kick();
            }
            Verdict::Recovered => {
                link.moved_at = None;
                if let Some(dialler) = &link.dialler {
                    dialler.settle();
                }
                self.shared.set_recovered(&link.connection, link.epoch);
            }
            Verdict::Dead => return Err(LinkEnd::Unresponsive),
        }
        Ok(())
    }

    fn has_pipes(&self) -> bool {
        self.shared.table().core.live_pipes() > 0
    }

    /// Client: the network is another one. Moves to a fresh socket, and looks
    /// whether the server can be reached from there.
    fn migrate(&mut self, link: &mut Link) {
        let now = clock::now();
        let Some(dialler) = &mut link.dialler else { return };
        if link.moved_at.is_some_and(|moved_at| now < moved_at + SETTLES) {
            return;
        }
        if let Err(error) = dialler.migrate() {
            tracing::debug!(%error, "no fresh socket: the old one stays");
        }
        link.moved_at = Some(now);
        if link.liveness.is_suspect() {
            self.shared.anew.notify_one();
        }
        let number = link.liveness.moved(now, Signs::of(&link.connection));
        self.shared.set_suspect(&link.connection, link.epoch);
        self.ask(link, number);
    }

    /// Sends all acks that are due in any way.
    fn send_acks(&mut self, link: &mut Link) {
        link.acks_due = None;
        let due = self.shared.host.take_due(true);
        if let Some(misbehaved) = due.misbehaved {
            self.shared.host.report(misbehaved);
        }
        if due.ends > 0 {
            link.ends_due = clock::now() + ACK_DELAY;
        }
        self.visit(link, &due.now, false);
        self.visit(link, &due.later, true);
    }

    fn on_frame(&mut self, link: &mut Link, frame: Frame) -> Result<(), LinkEnd> {
        self.confirmed = true;
        if link.liveness.is_suspect() {
            self.look_after(link)?;
        }
        match frame {
            Frame::Acks(acks) => {
                for ack in acks {
                    self.on_ack(link, ack)?;
                }
            }
            Frame::Reset(reset) => match self.locate(reset.pipe)? {
                Ok(pipe) => pipe.on_reset(reset.code, reset.offset)?,
                Err(Located::Gone) => {}
                Err(Located::Early) => {
                    let mut table = self.shared.table();
                    let replies =
                        table.core.on_early_reset(reset.pipe, reset.code, reset.offset)?;
                    replies.iter().for_each(|reply| link.writer.queue(reply));
                }
            },
            Frame::Stop(stop) => match self.locate(stop.pipe)? {
                Ok(pipe) => pipe.on_stop(stop.code, stop.offset)?,
                Err(Located::Gone) => {}
                Err(Located::Early) => {
                    let replies = self.shared.table().core.on_early_stop(stop.pipe, stop.code)?;
                    replies.iter().for_each(|reply| link.writer.queue(reply));
                }
            },
            Frame::Ping(number) => {
                // The client asks when it has heard nothing for a while, the server when it
                // hears us from another address: by this we learn of it.
                link.connection.expect_loss();
                if self.shared.side == Side::Client {
                    self.shared.tell_migrated(link.remote_addr);
                }
                self.send_acks(link);
                link.writer.queue(&Frame::Pong(number));
            }
            Frame::Pong(number) => link.liveness.on_pong(number),
            Frame::Close(close) => {
                return Err(LinkEnd::Ended(SessionError::PeerClosed {
                    code: close.code,
                    reason: close.reason,
                }));
            }
            Frame::Unknown(kind) => tracing::debug!(kind, "skipped a frame of unknown type"),
            frame => return Err(PeerMisbehaved::UnexpectedFrame { frame: frame.name() }.into()),
        }
        Ok(())
    }

    fn on_ack(&mut self, link: &mut Link, ack: Ack) -> Result<(), PeerMisbehaved> {
        match self.locate(ack.pipe)? {
            Ok(pipe) => {
                let wants = pipe.on_ack(ack.offset, ack.done)?;
                self.serve(link, &pipe, wants);
                Ok(())
            }
            Err(Located::Gone) => Ok(()),
            // Nothing was ever written to it.
            Err(Located::Early) => Err(PeerMisbehaved::NoSuchPipe { pipe: ack.pipe }),
        }
    }

    /// The live pipe of that name, or what became of it.
    fn locate(
        &self,
        id: crate::PipeId,
    ) -> Result<Result<Arc<PipeShared>, Located>, PeerMisbehaved> {
        match self.shared.pipe(id) {
            Some(pipe) => Ok(Ok(pipe)),
            None => self.shared.table().core.locate(id).map(Err),
        }
    }

    /// A stream for the pipe that waits longest.
    fn on_opened(
        &mut self,
        link: &mut Link,
        stream: (SendStream, RecvStream),
    ) -> Result<(), LinkEnd> {
        while let Some(pipe) = link.opening.pop_front() {
            if pipe.is_opening() {
                pipe.attach(link.epoch, stream, None)?;
                let wants = pipe.look();
                self.serve(link, &pipe, wants);
                break;
            }
        }
        Ok(())
    }

    /// The header of a stream that the peer has opened has come.
    fn on_begun(
        &mut self,
        link: &mut Link,
        begun: Result<Option<Begun>, DecodeError>,
    ) -> Result<(), LinkEnd> {
        self.confirmed = true;
        let Some(Begun { stream, header, ahead }) = begun.map_err(PeerMisbehaved::from)? else {
            // Given up before its header came: the control stream says so.
            return Ok(());
        };
        if link.forgone == Some(header.epoch) {
            return Ok(());
        }
        let (accepted, live, max) = {
            let mut table = self.shared.table();
            let accepted = table.core.on_header(&header, link.epoch)?;
            (accepted, table.core.live_peer_pipes(), table.core.max_peer_pipes())
        };
        let pipe = match accepted {
            Accepted::New(core) => {
                let pipe = PipeShared::new(*core, self.shared.side, self.shared.host.clone());
                link.expect_streams(live, max);
                pipe.attach(link.epoch, stream, Some((header.start, ahead)))?;
                self.shared.arrive(pipe.clone());
                pipe
            }
            Accepted::Known => match self.shared.pipe(header.pipe) {
                Some(pipe) => {
                    pipe.attach(link.epoch, stream, Some((header.start, ahead)))?;
                    pipe
                }
                // Done: dropping the stream refuses it, the tables say the rest.
                None => return Ok(()),
            },
        };
        self.visit(link, &[pipe], false);
        Ok(())
    }
}

/// The peer ended the control stream: it is about to end the connection, or
/// breaks the protocol.
async fn control_gone(link: &Link) -> crate::quic::Lost {
    match clock::until(clock::now() + super::GOODBYE, link.connection.closed()).await {
        Some(lost) => lost,
        None => crate::quic::Lost::Transport("the peer ended the control stream".into()),
    }
}
