//! One side of a session: the core and its pipes, with the few decisions that
//! the shell adds (when a stream is of use, when a pipe is forgotten).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::id::{Epoch, PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::proto::session::PipeLimit;
use crate::proto::{Accepted, Located, Outgoing, PeerTable, PeerView, Pipe, SessionCore};
use crate::wire::{Frame, Header};

/// A session as one side keeps it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) core: SessionCore,
    pub(super) pipes: BTreeMap<PipeId, Record>,
    /// What happened, for whoever watches.
    pub(super) events: Vec<Event>,
}

/// A pipe and its streams on the attached connection.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) core: Pipe,
    /// It had a stream on this connection, whatever became of its halves since.
    pub(super) has_stream: bool,
    /// It had one that the peer has opened.
    pub(super) has_theirs: bool,
    pub(super) tx: Option<Tx>,
    pub(super) rx: Option<Rx>,
}

/// Our direction of a stream.
#[derive(Clone, Debug)]
pub(super) struct Tx {
    /// Who has opened the stream.
    pub(super) by: Side,
    /// Until it was sent.
    pub(super) header: Bytes,
    pub(super) finished: bool,
}

/// The peer's direction of a stream.
#[derive(Clone, Debug)]
pub(super) struct Rx {
    /// Who has opened the stream.
    pub(super) by: Side,
    /// Its header comes first.
    pub(super) header_due: bool,
    /// Bytes that the application has from an earlier stream.
    pub(super) skip: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The application is shown a pipe that the peer opened.
    Accepted(PipeId, Bytes),
    Retired(Box<Pipe>),
    /// What the peer's table said of a live pipe.
    View(PeerView),
}

impl Peer {
    pub(super) fn new(core: SessionCore) -> Self {
        Self { core, pipes: BTreeMap::new(), events: Vec::new() }
    }

    pub(super) fn open(&mut self, label: Bytes) -> Result<PipeId, PipeLimit> {
        let pipe = self.core.open(label)?;
        let id = pipe.id();
        self.pipes.insert(id, Record::new(pipe));
        Ok(id)
    }

    /// A header that began a stream of the connection of `epoch`. The stream is
    /// refused if the pipe is done.
    pub(super) fn on_stream(
        &mut self,
        header: &Header,
        epoch: Epoch,
    ) -> Result<(), PeerMisbehaved> {
        let side = self.core.side();
        let id = header.pipe;
        if let Accepted::New(pipe) = self.core.on_header(header, epoch)? {
            let mut record = Record::new(*pipe);
            self.events.push(Event::Accepted(id, record.core.label().clone()));
            record.attach(side, epoch, Some(header.start))?;
            self.pipes.insert(id, record);
        } else if let Some(record) = self.pipes.get_mut(&id) {
            record.attach(side, epoch, Some(header.start))?;
        }
        Ok(())
    }

    /// A control frame of the attached connection. Returns replies.
    pub(super) fn on_frame(&mut self, frame: Frame) -> Result<Vec<Frame>, PeerMisbehaved> {
        match frame {
            Frame::Acks(acks) => {
                for ack in acks {
                    match self.find(ack.pipe)? {
                        Ok(record) => record.core.send.on_ack(ack.offset, ack.done)?,
                        Err(Located::Gone) => {}
                        Err(Located::Early) => {
                            return Err(PeerMisbehaved::NoSuchPipe { pipe: ack.pipe });
                        }
                    }
                    self.look(ack.pipe);
                }
            }
            Frame::Reset(reset) => match self.find(reset.pipe)? {
                Ok(record) => {
                    record.core.recv.on_reset(reset.code, reset.offset)?;
                    record.rx = None;
                }
                Err(Located::Gone) => {}
                Err(Located::Early) => {
                    return self.core.on_early_reset(reset.pipe, reset.code, reset.offset);
                }
            },
            Frame::Stop(stop) => match self.find(stop.pipe)? {
                Ok(record) => {
                    record.core.send.on_stop(stop.code, stop.offset)?;
                    record.tx = None;
                }
                Err(Located::Gone) => {}
                Err(Located::Early) => return self.core.on_early_stop(stop.pipe, stop.code),
            },
            Frame::Ping(number) => return Ok(vec![Frame::Pong(number)]),
            Frame::Pong(_) | Frame::Unknown(_) => {}
            frame => return Err(PeerMisbehaved::UnexpectedFrame { frame: frame.name() }),
        }
        Ok(Vec::new())
    }

    /// What all pipes have to say: with `all_acks` also what is not urgent.
    pub(super) fn flush(&mut self, all_acks: bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut acks = Vec::new();
        for id in self.ids() {
            let Some(record) = self.pipes.get_mut(&id) else { continue };
            while let Some(outgoing) = record.core.poll_outgoing(all_acks) {
                match outgoing {
                    Outgoing::Ack(ack) => acks.push(ack),
                    Outgoing::Reset(reset) => frames.push(Frame::Reset(reset)),
                    Outgoing::Stop(stop) => frames.push(Frame::Stop(stop)),
                }
            }
            self.look(id);
        }
        if !acks.is_empty() {
            frames.push(Frame::Acks(acks));
        }
        frames
    }

    /// Lets go of the attached connection.
    pub(super) fn fence(&mut self) {
        for record in self.pipes.values_mut() {
            record.core.detach();
            (record.has_stream, record.has_theirs) = (false, false);
            (record.tx, record.rx) = (None, None);
        }
    }

    /// Our table; only behind a fence.
    pub(super) fn measure(&mut self) -> Vec<Frame> {
        let positions = self.pipes.values_mut().map(|record| record.core.measure()).collect();
        self.core.table(positions).into_frames().collect()
    }

    /// Takes in the peer's table. Returns replies.
    pub(super) fn apply(&mut self, table: &PeerTable) -> Result<Vec<Frame>, PeerMisbehaved> {
        let replies = self.core.on_table(table)?;
        for (id, record) in &mut self.pipes {
            let view = table.view(*id);
            self.events.push(Event::View(view));
            record.core.on_resume(view)?;
        }
        self.ids().into_iter().for_each(|id| self.look(id));
        Ok(replies)
    }

    pub(super) fn ids(&self) -> Vec<PipeId> {
        self.pipes.keys().copied().collect()
    }

    fn find(&mut self, id: PipeId) -> Result<Result<&mut Record, Located>, PeerMisbehaved> {
        match self.pipes.get_mut(&id) {
            Some(record) => Ok(Ok(record)),
            None => self.core.locate(id).map(Err),
        }
    }

    /// Forgets a pipe that is done.
    fn look(&mut self, id: PipeId) {
        let Some(record) = self.pipes.get_mut(&id) else { return };
        if record.core.send.is_done() {
            record.tx = None;
        }
        if record.core.is_retired() {
            self.core.retire(id);
            let retired = self.pipes.remove(&id).map(|record| record.core);
            self.events.extend(retired.map(|pipe| Event::Retired(Box::new(pipe))));
        }
    }
}

impl Record {
    fn new(core: Pipe) -> Self {
        Self { core, has_stream: false, has_theirs: false, tx: None, rx: None }
    }

    /// Whether `side` opens a stream for it.
    pub(super) fn calls_for_stream(&self, side: Side) -> bool {
        !self.has_stream && self.core.calls_for_stream(side)
    }

    /// Gives the pipe a stream of this connection. `start` is where the peer's
    /// direction begins, if it was the peer that has opened it.
    pub(super) fn attach(
        &mut self,
        side: Side,
        epoch: Epoch,
        start: Option<u64>,
    ) -> Result<(), PeerMisbehaved> {
        let pipe = self.core.id();
        let theirs = start.is_some();
        if theirs && self.has_theirs {
            return Err(PeerMisbehaved::DuplicateStream { pipe });
        }
        let another = std::mem::replace(&mut self.has_stream, true);
        assert!(theirs || !another, "we open none beside another");
        self.has_theirs = theirs;
        let by = if theirs { side.peer() } else { side };
        let skip = start.map(|start| self.core.recv.on_stream(start)).transpose()?;
        if self.core.recv.end().is_none() {
            self.rx = Some(Rx { by, header_due: skip.is_none(), skip: skip.unwrap_or(0) });
        }
        // If both have opened one at once, each writes to its own.
        if !another && (!self.core.send.is_done() || !theirs) {
            let header = self.core.header(side, epoch).encode();
            self.tx = Some(Tx { by, header, finished: false });
        }
        Ok(())
    }

    /// Puts up to `max` more bytes on the stream, and FIN after the last.
    pub(super) fn pump(&mut self, side: Side, max: usize, out: &mut BytesMut) -> Pumped {
        let before = out.len();
        let send = &mut self.core.send;
        let Some(tx) = &mut self.tx else { return Pumped::default() };
        // The header of who has opened the stream announces it; the other comes with
        // the first byte.
        if tx.by == side || !send.is_caught_up() || send.wants_fin() {
            out.extend_from_slice(&std::mem::take(&mut tx.header));
        }
        // A stream may take less than it was offered.
        let offered = send.unsent(max.saturating_mul(2));
        let taken = &offered[..offered.len().min(max)];
        out.extend_from_slice(taken);
        let replayed = send.on_sent(taken.len() as u64);
        let fin = tx.header.is_empty() && send.is_caught_up() && send.wants_fin() && !tx.finished;
        tx.finished |= fin;
        Pumped { moved: out.len() > before || fin, fin, replayed }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pumped {
    /// There was anything at all.
    pub(super) moved: bool,
    pub(super) fin: bool,
    pub(super) replayed: u64,
}
