//! Two sides of a session and the connections between them.
//!
//! A connection carries two queues of encoded control frames, and for each pipe
//! a stream with two directions. Nothing moves by itself: each small step of the
//! transport, of either side and of either application is a call, so that a
//! schedule can put anything between any two. After each, the [`Laws`] are
//! checked.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, Bytes, BytesMut};

use super::exchange::{Attempt, Door, Grant};
use super::laws::{Laws, label_of};
use super::peer::Peer;
use crate::code::LinkCode;
use crate::id::{Epoch, HolderId, PipeId, SessionId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::proto::recv::RecvHalf;
use crate::proto::send::SendHalf;
use crate::proto::session::PipeLimit;
use crate::proto::{Pipe, ReadEnd, SessionCore, WriteEnd};
use crate::wire::{Decoder, Frame, Header, HeaderKind, Parameters, SECRET_LEN};

/// Names a connection of a [`Pair`]: the `n`-th there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(pub(super) usize);

/// What both sides of a session are made with; client first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) capacity: [u64; 2],
    pub(super) max_pipes: [u64; 2],
}

impl Default for Setup {
    fn default() -> Self {
        Self { capacity: [64 * 1024; 2], max_pipes: [1024; 2] }
    }
}

impl Setup {
    pub(super) fn core(&self, side: Side) -> SessionCore {
        let parameters = |side: Side| Parameters {
            max_pipes: self.max_pipes[side as usize],
            replay_capacity: self.capacity[side as usize],
            receive_budget: 1 << 30,
        };
        let id = SessionId::from_bytes([7; 16]);
        let (local, peer) = (parameters(side), parameters(side.peer()));
        SessionCore::new(side, id, [3; SECRET_LEN].into(), HolderId([1; 16]), local, peer)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) epoch: Epoch,
    pub(super) exporter: [u8; SECRET_LEN],
    /// Encoded frames on their way, by sender.
    pub(super) control: [VecDeque<Bytes>; 2],
    /// By receiver.
    decoders: [Decoder; 2],
    /// By pipe and by who has opened it, then by writer.
    streams: BTreeMap<(PipeId, Side), [Direction; 2]>,
    pub(super) door: Door,
    /// What is on its way is lost and nothing follows.
    pub(super) cut: bool,
    /// How the server closed it.
    pub(super) closed: Option<LinkCode>,
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct Direction {
    flight: VecDeque<u8>,
    fin: bool,
    /// Received by the transport, and not read.
    arrived: BytesMut,
    fin_arrived: bool,
    /// Its header was looked at by the acceptor.
    begun: bool,
}

/// What an application finds when it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Nothing,
    Bytes(usize),
    End(ReadEnd),
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) peers: [Peer; 2],
    pub(super) attached: [Option<LinkId>; 2],
    pub(super) links: Vec<Link>,
    pub(super) attempt: Option<Attempt>,
    pub(super) grant: Option<Grant>,
    pub(super) laws: Laws,
    /// Whether the laws are checked after each step. With very many pipes that
    /// takes too long.
    pub(super) watched: bool,
}

// Applications.
impl Pair {
    pub(super) fn peer(&mut self, side: Side) -> &mut Peer {
        &mut self.peers[side as usize]
    }

    /// A pipe as `side` keeps it.
    pub(super) fn pipe(&self, side: Side, id: PipeId) -> &Pipe {
        &self.peers[side as usize].pipes[&id].core
    }

    pub(super) fn has(&self, side: Side, id: PipeId) -> bool {
        self.peers[side as usize].pipes.contains_key(&id)
    }

    pub(super) fn open(&mut self, side: Side) -> Result<PipeId, PipeLimit> {
        let peer = self.peer(side);
        let label = label_of(PipeId::new(side, peer.core.opened).unwrap());
        let id = peer.open(label)?;
        self.laws.on_open(id);
        self.observe();
        Ok(id)
    }

    /// Writes up to `len` bytes and says how many.
    pub(super) fn write(&mut self, side: Side, id: PipeId, len: usize) -> usize {
        let send = &mut self.peers[side as usize].pipes.get_mut(&id).unwrap().core.send;
        let len = len.min(send.room() as usize);
        if send.end().is_none() {
            send.write(Laws::bytes(id, side, send.written(), len));
            self.laws.on_write(id, side, len);
        }
        self.observe();
        len
    }

    pub(super) fn finish(&mut self, side: Side, id: PipeId) {
        let send = &mut self.peers[side as usize].pipes.get_mut(&id).unwrap().core.send;
        if send.end().is_none() {
            self.laws.on_finish(id, side);
        }
        send.finish();
        self.observe();
    }

    pub(super) fn reset(&mut self, side: Side, id: PipeId, code: u32) {
        let send = &mut self.peers[side as usize].pipes.get_mut(&id).unwrap().core.send;
        send.reset(code);
        if send.end() == Some(WriteEnd::Reset) {
            self.laws.on_reset(id, side, code);
        }
        self.observe();
    }

    pub(super) fn stop(&mut self, side: Side, id: PipeId, code: u32) {
        let record = self.peers[side as usize].pipes.get_mut(&id).unwrap();
        record.core.recv.stop(code);
        record.rx = None;
        if record.core.recv.end() == Some(ReadEnd::Stopped) {
            self.laws.on_stop(id, side, code);
        }
        self.observe();
    }

    /// Reads up to `max` bytes, which are not 0.
    pub(super) fn read(&mut self, side: Side, id: PipeId, max: usize) -> Got {
        let link = self.attached[side as usize];
        let record = self.peers[side as usize].pipes.get_mut(&id).unwrap();
        if let Some(end) = record.core.recv.end() {
            self.laws.on_read_end(id, side, end);
            return Got::End(end);
        }
        let (Some(link), Some(rx)) = (link, &mut record.rx) else { return Got::Nothing };
        let Link { epoch, streams, .. } = &mut self.links[link.0];
        let stream = &mut streams.get_mut(&(id, rx.by)).unwrap()[side.peer() as usize];
        if rx.header_due {
            let mut bytes = stream.arrived.split().freeze();
            let header = Header::decode(&mut bytes).unwrap();
            stream.arrived = BytesMut::from(bytes);
            let Some(header) = header else {
                assert!(!stream.fin_arrived, "a stream without a header");
                return Got::Nothing;
            };
            let expected = Header { kind: HeaderKind::Continue, epoch: *epoch, pipe: id, ..header };
            assert_eq!(header, expected);
            rx.skip = record.core.recv.on_stream(header.start).unwrap();
            rx.header_due = false;
        }
        let skipped = stream.arrived.len().min(rx.skip as usize);
        stream.arrived.advance(skipped);
        rx.skip -= skipped as u64;
        self.laws.tally.skipped += skipped as u64;
        let bytes = stream.arrived.split_to(stream.arrived.len().min(max));
        let got = if !bytes.is_empty() {
            record.core.recv.on_read(bytes.len() as u64);
            self.laws.on_read(id, side, &bytes);
            Got::Bytes(bytes.len())
        } else if stream.fin_arrived {
            assert_eq!(rx.skip, 0, "{id} ends before bytes that were read");
            record.core.recv.on_fin();
            record.rx = None;
            Got::End(ReadEnd::Eof)
        } else {
            Got::Nothing
        };
        self.observe();
        got
    }

    /// Moves a pipe that both sides have, and that was not used, to another
    /// offset, as if so much had gone through it.
    pub(super) fn shift(&mut self, id: PipeId, offset: u64) {
        for side in [Side::Client, Side::Server] {
            let peer = self.peer(side);
            let (capacity, theirs) =
                (peer.core.local.replay_capacity, peer.core.peer.replay_capacity);
            let record = peer.pipes.get_mut(&id).unwrap();
            record.core.send = SendHalf::starting_at(id, capacity, offset);
            record.core.recv = RecvHalf::starting_at(id, theirs, offset);
        }
        self.laws.shift(id, offset);
        self.observe();
    }
}

// The attached connection.
impl Pair {
    /// A session whose first connection is attached on both sides.
    pub(super) fn new(setup: Setup) -> Self {
        let peers = [Side::Client, Side::Server].map(|side| Peer::new(setup.core(side)));
        let mut first = Link::new(Epoch::FIRST, [1; SECRET_LEN]);
        first.door = Door::Inside;
        Self {
            peers,
            attached: [Some(LinkId(0)); 2],
            links: vec![first],
            attempt: None,
            grant: None,
            laws: Laws::new(setup.capacity),
            watched: true,
        }
    }

    pub(super) fn attached(&self, side: Side) -> Option<LinkId> {
        self.attached[side as usize]
    }

    /// Whether both sides are on one connection that works.
    pub(super) fn is_healthy(&self) -> bool {
        let [client, server] = self.attached;
        client == server && client.is_some_and(|link| !self.links[link.0].cut)
    }

    /// Gives the pipe a stream, if it calls for one.
    pub(super) fn open_stream(&mut self, side: Side, id: PipeId) -> bool {
        let Some(link) = self.attached[side as usize] else { return false };
        let Some(record) = self.peers[side as usize].pipes.get_mut(&id) else { return false };
        if !record.calls_for_stream(side) {
            return false;
        }
        let Link { epoch, streams, .. } = &mut self.links[link.0];
        assert!(streams.insert((id, side), Default::default()).is_none());
        let both = streams.contains_key(&(id, side.peer()));
        self.laws.tally.both_opened += u32::from(both);
        record.attach(side, *epoch, None).unwrap();
        // The header goes out with the stream: nothing that happens to our
        // direction may keep the peer from hearing of its own.
        self.pump(side, id, 0);
        true
    }

    /// Hands up to `max` bytes to the stream.
    pub(super) fn pump(&mut self, side: Side, id: PipeId, max: usize) -> bool {
        let Some(link) = self.attached[side as usize] else { return false };
        let Some(record) = self.peers[side as usize].pipes.get_mut(&id) else { return false };
        let Some(by) = record.tx.as_ref().map(|tx| tx.by) else { return false };
        let mut out = BytesMut::new();
        let pumped = record.pump(side, max, &mut out);
        self.laws.tally.replayed += pumped.replayed;
        let Link { cut, streams, .. } = &mut self.links[link.0];
        if pumped.moved && !*cut {
            let stream = &mut streams.get_mut(&(id, by)).unwrap()[side as usize];
            stream.flight.extend(&out);
            stream.fin |= pumped.fin;
        }
        self.observe();
        pumped.moved
    }

    /// Queues what `side` has to say of its pipes.
    pub(super) fn flush(&mut self, side: Side, all_acks: bool) -> bool {
        let Some(link) = self.attached[side as usize] else { return false };
        let frames = self.peer(side).flush(all_acks);
        frames.iter().for_each(|frame| self.send(link, side, frame));
        self.observe();
        !frames.is_empty()
    }

    /// The next control frame on `link` arrives, unless its receiver would not
    /// look at it yet.
    pub(super) fn deliver_control(&mut self, link: LinkId, to: Side) -> bool {
        let busy = match (to, &self.attempt, &self.links[link.0].door) {
            (Side::Client, Some(attempt), _) if attempt.link() == link => {
                !matches!(attempt, Attempt::Asked { .. })
            }
            (Side::Server, _, Door::Inside) => self.grant.is_some(),
            (Side::Server, _, Door::Ready(..)) => true,
            _ => false,
        };
        let Link { control, decoders, .. } = &mut self.links[link.0];
        if busy {
            return false;
        }
        let Some(bytes) = control[to.peer() as usize].pop_front() else { return false };
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        let decoder = &mut decoders[to as usize];
        decoder.push(head);
        assert_eq!(decoder.next_frame(), Ok(None), "half a frame is none");
        decoder.push(tail);
        let frame = decoder.next_frame().unwrap().expect("a whole frame");
        assert_eq!(decoder.next_frame(), Ok(None), "one frame is one");
        self.on_control(link, to, frame).unwrap();
        self.observe();
        true
    }

    /// Up to `max` bytes of each stream of the pipe arrive at `to`, and FIN if there is
    /// nothing before it.
    pub(super) fn deliver_stream(
        &mut self,
        link: LinkId,
        to: Side,
        id: PipeId,
        max: usize,
    ) -> bool {
        let mut moved = false;
        for by in [Side::Client, Side::Server] {
            moved |= self.deliver_stream_of(link, to, (id, by), max);
        }
        let begun = self.begin_stream(link, to, id);
        self.observe();
        moved || begun
    }

    fn deliver_stream_of(
        &mut self,
        link: LinkId,
        to: Side,
        name: (PipeId, Side),
        max: usize,
    ) -> bool {
        let Some(stream) = self.links[link.0].streams.get_mut(&name) else { return false };
        let stream = &mut stream[to.peer() as usize];
        let bytes = stream.flight.drain(..stream.flight.len().min(max));
        let moved = bytes.len();
        stream.arrived.extend(bytes);
        let fin = moved < max && stream.fin && !stream.fin_arrived;
        stream.fin_arrived |= fin;
        if self.attached[to as usize] != Some(link) {
            self.laws.tally.late += moved as u64;
        }
        moved > 0 || fin
    }

    /// The connection dies. What has arrived stays until its receiver hears of
    /// it.
    pub(super) fn cut(&mut self, link: LinkId) {
        let link = &mut self.links[link.0];
        link.cut = true;
        link.control.iter_mut().for_each(VecDeque::clear);
        link.streams.values_mut().flatten().for_each(|stream| {
            stream.flight.clear();
            stream.fin = false;
        });
    }

    /// `side` finds that its connection is gone.
    pub(super) fn notice(&mut self, side: Side) {
        self.peer(side).fence();
        Laws::on_fence(self.peer(side));
        self.attached[side as usize] = None;
        self.observe();
    }

    /// A drop: the connection dies and both sides hear of it.
    pub(super) fn drop_link(&mut self) {
        for side in [Side::Client, Side::Server] {
            self.attached[side as usize].into_iter().for_each(|link| self.cut(link));
            self.notice(side);
        }
    }

    /// Puts bytes on a new stream for `id`, in the direction of `from`, as some
    /// other implementation might.
    pub(super) fn inject(&mut self, link: LinkId, from: Side, id: PipeId, bytes: &[u8]) {
        let stream = self.links[link.0].streams.entry((id, from)).or_default();
        stream[from as usize].flight.extend(bytes);
    }

    pub(super) fn send(&mut self, link: LinkId, from: Side, frame: &Frame) {
        let link = &mut self.links[link.0];
        if !link.cut {
            let mut bytes = BytesMut::new();
            frame.encode(&mut bytes);
            link.control[from as usize].push_back(bytes.freeze());
        }
    }

    fn on_control(&mut self, link: LinkId, to: Side, frame: Frame) -> Result<(), PeerMisbehaved> {
        if self.attached[to as usize] == Some(link) {
            let replies = self.peer(to).on_frame(frame)?;
            replies.iter().for_each(|reply| self.send(link, to, reply));
            return Ok(());
        }
        match to {
            Side::Client => self.on_answer(link, frame),
            Side::Server => self.on_claim(link, frame),
        }
    }

    /// Looks at the header of a stream that the peer of `to` has opened.
    fn begin_stream(&mut self, link: LinkId, to: Side, id: PipeId) -> bool {
        if self.attached[to as usize] != Some(link) {
            return false;
        }
        let Link { epoch, streams, .. } = &mut self.links[link.0];
        let Some(stream) = streams.get_mut(&(id, to.peer())) else { return false };
        let stream = &mut stream[to.peer() as usize];
        if stream.begun {
            return false;
        }
        let mut bytes = stream.arrived.clone().freeze();
        let Some(header) = Header::decode(&mut bytes).unwrap() else { return false };
        stream.begun = true;
        stream.arrived = BytesMut::from(bytes);
        self.peers[to as usize].on_stream(&header, *epoch).unwrap();
        true
    }

    pub(super) fn begin_streams(&mut self, link: LinkId, to: Side) {
        for id in self.links[link.0].stream_ids() {
            self.begin_stream(link, to, id);
        }
    }

    pub(super) fn observe(&mut self) {
        if self.watched {
            self.peers.iter_mut().for_each(|peer| self.laws.observe(peer));
        }
    }
}

impl Link {
    pub(super) fn new(epoch: Epoch, exporter: [u8; SECRET_LEN]) -> Self {
        Self {
            epoch,
            exporter,
            control: Default::default(),
            decoders: Default::default(),
            streams: BTreeMap::new(),
            door: Door::Outside,
            cut: false,
            closed: None,
        }
    }

    pub(super) fn stream_ids(&self) -> Vec<PipeId> {
        let mut ids: Vec<_> = self.streams.keys().map(|(id, _)| *id).collect();
        ids.dedup();
        ids
    }
}
