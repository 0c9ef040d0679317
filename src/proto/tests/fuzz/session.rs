//! One side of a session, its applications at work, and a peer that sends
//! anything at all: nothing panics, every bound holds, and what the peer cannot
//! do comes out as an error that ends this session.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use super::forge::Forge;
use crate::code::RefuseCode;
use crate::fuzzing::Input;
use crate::id::{Epoch, PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::proto::resume::Claim;
use crate::proto::session::most_live;
use crate::proto::tests::laws::Laws;
use crate::proto::tests::pair::Setup;
use crate::proto::tests::peer::{Event, Peer, Record};
use crate::proto::{PeerTable, Pipe, ReadEnd, SessionCore, WriteEnd};
use crate::wire::{Decoder, Frame, Header, HeaderKind, MAX_VARINT, Refused, Resume, SECRET_LEN};

/// Takes a setup of two bytes, and steps.
pub fn session(data: &[u8]) {
    let mut input = Input::new(data);
    let mut siege = Siege::new(&mut input);
    while !input.is_empty() {
        if siege.step(&mut input).is_err() {
            break;
        }
        siege.check();
    }
    // However it ended, the driver lets go of the connection.
    siege.lose();
}

struct Siege {
    /// The side that is besieged.
    peer: Peer,
    /// The token as the other side has it: it can claim, or grant, honestly.
    accomplice: SessionCore,
    /// As `peer` knows its connection, with what its control stream has brought.
    attached: Option<(Epoch, Decoder)>,
    exchange: Option<Exchange>,
    capacity: u64,
    /// Every pipe that was ever there, as it was after the step before.
    known: BTreeMap<PipeId, Marks>,
    retired: BTreeSet<PipeId>,
}

/// A resume under way.
struct Exchange {
    claim: Claim,
    resume: Resume,
    table: PeerTable,
    /// Client: the server has proved itself. Server: the claim was good.
    proved: bool,
    /// Server: the client will not hear that its claim was granted.
    answer_lost: bool,
}

/// What only grows, and what stays once it is there.
#[derive(Clone, Copy, Default)]
struct Marks {
    acked: u64,
    written: u64,
    read: u64,
    write_end: Option<WriteEnd>,
    read_end: Option<ReadEnd>,
}

/// The keying material of every connection: a captured resume is not what this
/// is about.
const EXPORTER: [u8; SECRET_LEN] = [5; SECRET_LEN];

impl Siege {
    fn new(input: &mut Input<'_>) -> Self {
        let side = input.side();
        let limits = usize::from(input.byte());
        let capacity = [1, 7, 100, 5000, 70_000][limits / 4 % 5];
        let max_pipes = 1 + limits as u64 % 4;
        let setup = Setup { capacity: [capacity; 2], max_pipes: [max_pipes; 2] };
        Self {
            peer: Peer::new(setup.core(side)),
            accomplice: setup.core(side.peer()),
            attached: Some((Epoch::FIRST, Decoder::default())),
            exchange: None,
            capacity,
            known: BTreeMap::new(),
            retired: BTreeSet::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) -> Result<(), PeerMisbehaved> {
        match input.byte() & 0x1f {
            0 => self.open(),
            1 | 2 => self.write(input),
            3 => self.with_pipe(input, |record, _| record.core.send.finish()),
            4 => self.with_pipe(input, |record, input| {
                record.core.send.reset(input.byte().into());
            }),
            5 => self.with_pipe(input, |record, input| {
                record.core.recv.stop(input.byte().into());
                record.rx = None;
            }),
            6 | 7 => self.open_stream(input),
            8 | 9 => self.pump(input),
            10 | 11 => self.flush(input.flag()),
            12 => self.lose(),
            13..=15 => return self.on_data(input),
            16 => return self.on_fin(input),
            17 => return self.on_control(input.bytes(32)),
            18..=21 => {
                let frame = Forge { us: &self.peer, input }.pipe_frame();
                return self.on_control(&encoded(&frame));
            }
            22 => {
                let frame = Forge { us: &self.peer, input }.other_frame();
                return self.on_control(&encoded(&frame));
            }
            23 | 24 => {
                let header = Forge { us: &self.peer, input }.header(self.epoch());
                return self.on_stream(header.encode());
            }
            25 => return self.on_stream(Bytes::copy_from_slice(input.bytes(32))),
            26 => self.claim(input),
            27 => return self.answer(input),
            28 => return self.resume(input),
            _ => {
                let frame = Forge { us: &self.peer, input }.table_frame();
                return self.on_table_frame(frame);
            }
        }
        Ok(())
    }

    fn side(&self) -> Side {
        self.peer.core.side()
    }

    fn epoch(&self) -> Option<Epoch> {
        self.attached.as_ref().map(|(epoch, _)| *epoch)
    }
}

// Its own applications, and its driver.
impl Siege {
    fn open(&mut self) {
        // At the limit it opens none.
        let _ = self.peer.open(Bytes::from_static(b"ours"));
    }

    fn write(&mut self, input: &mut Input<'_>) {
        let side = self.side();
        self.with_pipe(input, |record, input| {
            let id = record.core.id();
            let send = &mut record.core.send;
            let len = input.len().min(send.room() as usize);
            if send.end().is_none() {
                send.write(Laws::bytes(id, side, send.written(), len));
            }
        });
    }

    fn open_stream(&mut self, input: &mut Input<'_>) {
        let (side, Some(epoch)) = (self.side(), self.epoch()) else { return };
        self.with_pipe(input, |record, _| {
            if record.calls_for_stream(side) {
                record.attach(side, epoch, None).unwrap();
            }
        });
    }

    fn pump(&mut self, input: &mut Input<'_>) {
        let side = self.side();
        self.with_pipe(input, |record, input| {
            let from = record.core.send.sent();
            let header = record.tx.as_ref().map_or(0, |tx| tx.header.len());
            let mut out = BytesMut::new();
            record.pump(side, input.len(), &mut out);
            let header = header - record.tx.as_ref().map_or(0, |tx| tx.header.len());
            let sent = out.split_off(header);
            assert!(sent == Laws::bytes(record.core.id(), side, from, sent.len()), "wrong bytes");
        });
    }

    fn flush(&mut self, all_acks: bool) {
        if self.attached.is_some() {
            self.peer.flush(all_acks).iter().for_each(check_sent);
        }
    }

    fn lose(&mut self) {
        self.peer.fence();
        Laws::on_fence(&self.peer);
        self.attached = None;
    }

    fn with_pipe(&mut self, input: &mut Input<'_>, act: impl FnOnce(&mut Record, &mut Input<'_>)) {
        let pick = usize::from(input.byte());
        let count = self.peer.pipes.len().max(1);
        if let Some(record) = self.peer.pipes.values_mut().nth(pick % count) {
            act(record, input);
        }
    }
}

// The attached connection.
impl Siege {
    fn on_control(&mut self, bytes: &[u8]) -> Result<(), PeerMisbehaved> {
        let Some((_, control)) = &mut self.attached else { return Ok(()) };
        control.push(bytes);
        while let Some(frame) = control.next_frame()? {
            self.peer.on_frame(frame)?.iter().for_each(check_sent);
        }
        Ok(())
    }

    /// The peer opens a stream that begins with these bytes.
    fn on_stream(&mut self, mut bytes: Bytes) -> Result<(), PeerMisbehaved> {
        let Some(epoch) = self.epoch() else { return Ok(()) };
        let Some(header) = Header::decode(&mut bytes)? else { return Ok(()) };
        self.peer.on_stream(&header, epoch)?;
        if let Some(Record { core, rx: Some(rx), .. }) = self.peer.pipes.get(&header.pipe) {
            check_position(core, header.start, rx.skip);
        }
        Ok(())
    }

    /// Something comes on a stream, and is read: the header of the acceptor's
    /// direction, or bytes.
    fn on_data(&mut self, input: &mut Input<'_>) -> Result<(), PeerMisbehaved> {
        let Some(epoch) = self.epoch() else { return Ok(()) };
        let Some(pipe) = self.pick_stream(input) else { return Ok(()) };
        let header_due = |record: &Record| record.rx.as_ref().is_some_and(|rx| rx.header_due);
        let header = self.peer.pipes.get(&pipe).is_some_and(header_due).then(|| {
            let forged = Forge { us: &self.peer, input }.header_of(pipe, Some(epoch));
            Header::decode(&mut forged.encode()).unwrap().expect("a whole header")
        });
        let Some(record) = self.peer.pipes.get_mut(&pipe) else { return Ok(()) };
        let Some(rx) = &mut record.rx else { return Ok(()) };
        if let Some(header) = header {
            if header.epoch != epoch {
                let (got, expected) = (header.epoch, epoch);
                return Err(PeerMisbehaved::WrongEpoch { got, expected });
            }
            if header.kind != HeaderKind::Continue {
                return Err(PeerMisbehaved::NoSuchPipe { pipe });
            }
            rx.skip = record.core.recv.on_stream(header.start)?;
            rx.header_due = false;
            check_position(&record.core, header.start, rx.skip);
        }
        let len = input.len() as u64;
        let skipped = rx.skip.min(len);
        rx.skip -= skipped;
        record.core.recv.on_read(len - skipped);
        Ok(())
    }

    fn on_fin(&mut self, input: &mut Input<'_>) -> Result<(), PeerMisbehaved> {
        let Some(pipe) = self.pick_stream(input) else { return Ok(()) };
        let Some(record) = self.peer.pipes.get_mut(&pipe) else { return Ok(()) };
        match record.rx.take() {
            Some(rx) if rx.skip > 0 => {
                let read = record.core.recv.read();
                Err(PeerMisbehaved::EndMovedBack { pipe, end: read - rx.skip, read })
            }
            Some(rx) if !rx.header_due => {
                record.core.recv.on_fin();
                Ok(())
            }
            // A stream without a header is as good as none.
            _ => Ok(()),
        }
    }

    /// A pipe with a stream that is being read.
    fn pick_stream(&self, input: &mut Input<'_>) -> Option<PipeId> {
        let read = || self.peer.pipes.iter().filter(|(_, record)| record.rx.is_some());
        let pick = usize::from(input.byte()).checked_rem(read().count())?;
        read().nth(pick).map(|(pipe, _)| *pipe)
    }
}

// The resume exchange.
impl Siege {
    /// A client claims the session: ours, with its driver between two
    /// connections; or theirs, with a proof of any quality, for any epoch.
    fn claim(&mut self, input: &mut Input<'_>) {
        if self.side() == Side::Client {
            self.lose();
            let (claim, resume) = self.peer.core.claim(EXPORTER);
            self.peer.measure().iter().for_each(check_sent);
            let table = self.peer.core.expect_table();
            self.exchange =
                Some(Exchange { claim, resume, table, proved: false, answer_lost: false });
            return;
        }
        let attached = self.peer.core.epoch();
        let last = match input.number() {
            ahead @ 0..8 => attached.get() + ahead,
            other => other,
        };
        self.accomplice.epoch = Epoch::from_wire(last.min(MAX_VARINT - 1));
        let (claim, mut resume) = self.accomplice.claim(EXPORTER);
        let choice = input.byte();
        let forged = choice & 0xc0 == 0xc0;
        if forged {
            resume.proof[usize::from(choice & 0x1f)] ^= 1;
        }
        let before = format!("{:?}", self.peer);
        let checked = self.peer.core.check(&resume, &EXPORTER);
        let good = !forged && resume.epoch > attached;
        assert_eq!(checked.is_ok(), good, "{:?}", checked.err());
        assert_eq!(format!("{:?}", self.peer), before, "a claim changes nothing");
        if good {
            let table = self.peer.core.expect_table();
            let answer_lost = choice & 0xc0 == 0x80;
            self.exchange = Some(Exchange { claim, resume, table, proved: true, answer_lost });
        }
    }

    /// The server answers our claim: with a proof of any quality, or a refusal.
    fn answer(&mut self, input: &mut Input<'_>) -> Result<(), PeerMisbehaved> {
        let choice = input.byte();
        if self.side() == Side::Server || self.exchange.is_none() {
            return Ok(());
        }
        if choice & 3 == 3 {
            let (code, attached) = (u64::from(choice >> 2), input.number());
            let code = RefuseCode::from_wire(code);
            self.peer.core.on_refused(&Refused { code, attached, reason: Bytes::new() });
            self.exchange = None;
            return Ok(());
        }
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        if std::mem::replace(&mut exchange.proved, true) {
            // The table is due: a second answer has no place.
            return Err(PeerMisbehaved::UnexpectedFrame { frame: "RESUMED" });
        }
        let granted = self.accomplice.grant(&exchange.resume, &EXPORTER);
        let mut answer = granted.expect("an honest client is not locked out");
        let lost = choice & 3 == 2;
        if lost {
            self.exchange = None;
            return Ok(());
        }
        if choice & 0xc0 == 0xc0 {
            answer.proof[usize::from(choice & 0x1f)] ^= 1;
            let refused = self.peer.core.on_resumed(&exchange.claim, &answer);
            assert_eq!(refused, Err(PeerMisbehaved::BadServerProof));
            return refused;
        }
        self.peer.core.on_resumed(&exchange.claim, &answer)
    }

    /// A resume as it should be, with a table that may be empty and short.
    fn resume(&mut self, input: &mut Input<'_>) -> Result<(), PeerMisbehaved> {
        let mut nothing = Input::new(&[]);
        self.claim(&mut nothing);
        self.answer(&mut nothing)?;
        let frames = Forge { us: &self.peer, input }.table();
        frames.into_iter().try_for_each(|frame| self.on_table_frame(frame))
    }

    fn on_table_frame(&mut self, frame: Frame) -> Result<(), PeerMisbehaved> {
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        if !exchange.proved {
            return Err(PeerMisbehaved::UnexpectedFrame { frame: frame.name() });
        }
        let mut bytes = Decoder::default();
        bytes.push(&encoded(&frame));
        let frame = bytes.next_frame()?.expect("a whole frame");
        let complete = exchange.table.on_frame(frame);
        match (self.side(), complete) {
            (_, Ok(false)) => Ok(()),
            // The session is not touched yet: only the connection is closed.
            (Side::Server, Err(_)) => {
                self.exchange = None;
                Ok(())
            }
            (Side::Client, Err(misbehaved)) => Err(misbehaved),
            (_, Ok(true)) => self.attach(),
        }
    }

    /// The peer's table is complete.
    fn attach(&mut self) -> Result<(), PeerMisbehaved> {
        let Some(Exchange { claim, resume, table, answer_lost, .. }) = self.exchange.take() else {
            return Ok(());
        };
        if self.side() == Side::Server {
            self.lose();
            let answer = self.peer.core.grant(&resume, &EXPORTER).expect("it was good");
            check_sent(&Frame::Resumed(answer.clone()));
            if !answer_lost {
                self.accomplice.on_resumed(&claim, &answer).expect("the answer is proved");
            }
            self.peer.measure().iter().for_each(check_sent);
        }
        self.peer.apply(&table)?.iter().for_each(check_sent);
        self.attached = Some((resume.epoch, Decoder::default()));
        Ok(())
    }
}

// What must hold.
impl Siege {
    fn check(&mut self) {
        for event in std::mem::take(&mut self.peer.events) {
            match event {
                Event::Accepted(pipe, _) => {
                    let old = self.known.contains_key(&pipe) || self.retired.contains(&pipe);
                    assert!(!old, "{pipe} was accepted twice");
                }
                Event::Retired(pipe) => {
                    assert!(self.retired.insert(pipe.id()), "{} is retired twice", pipe.id());
                    assert!(pipe.send.end().is_some() && pipe.recv.end().is_some());
                    assert_eq!(pipe.send.kept(), 0);
                }
                Event::View(_) => {}
            }
        }
        self.check_tables();
        for (id, record) in &self.peer.pipes {
            assert!(!self.retired.contains(id), "{id} is back");
            self.known.entry(*id).or_default().advance(record, self.capacity);
        }
    }

    fn check_tables(&self) {
        let core = &self.peer.core;
        let allowed = core.max_peer_pipes();
        assert_eq!(core.live_pipes(), self.peer.pipes.len() as u64);
        assert!(core.live_peer_pipes() <= most_live(allowed));
        let own = self.peer.pipes.keys().filter(|id| id.opener() == core.side()).count();
        assert_eq!(core.live_own_pipes(), own as u64);
        assert!(own as u64 <= allowed);
        assert!(core.early.len() as u64 <= allowed);
        assert!(core.seen.gaps().count() as u64 <= allowed);
        if let Some(exchange) = &self.exchange {
            let positions = exchange.table.positions().count() as u64;
            assert!(positions <= allowed + core.opened.min(most_live(allowed)));
        }
    }
}

impl Marks {
    fn advance(&mut self, record: &Record, capacity: u64) {
        let (id, send, recv) = (record.core.id(), &record.core.send, &record.core.recv);
        let (before, now) = (
            *self,
            Self {
                acked: send.acked(),
                written: send.written(),
                read: recv.read(),
                write_end: send.end(),
                read_end: recv.end(),
            },
        );
        assert!(before.acked <= now.acked, "{id}: an ack was taken back");
        assert!(before.written <= now.written && before.read <= now.read, "{id} went back");
        assert!(now.acked <= send.sent() && send.sent() <= now.written, "{id}");
        assert!(send.kept() <= capacity, "{id} keeps {} of {capacity}", send.kept());
        match now.write_end {
            None | Some(WriteEnd::Finished) if send.wants_stream() => {
                assert_eq!(send.kept(), now.written - now.acked, "{id}");
            }
            _ => assert_eq!(send.kept(), 0, "{id}"),
        }
        if before.write_end != now.write_end {
            // FIN may be taken back as long as it is not acknowledged.
            assert!(matches!(before.write_end, None | Some(WriteEnd::Finished)), "{id}");
        }
        assert!(before.read_end.is_none() || before.read_end == now.read_end, "{id}");
        *self = now;
    }
}

/// A stream goes on where the application is.
fn check_position(pipe: &Pipe, start: u64, skip: u64) {
    assert_eq!(start + skip, pipe.recv.read(), "{}", pipe.id());
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    bytes
}

/// What we say is always well-formed.
fn check_sent(frame: &Frame) {
    let mut decoder = Decoder::default();
    decoder.push(&encoded(frame));
    assert_eq!(decoder.next_frame().unwrap().as_ref(), Some(frame));
}
