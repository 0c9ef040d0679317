//! The resume exchange between the sides of a [`Pair`], in steps that can be
//! interrupted anywhere; and what brings a pair to rest.

use super::pair::{Got, Link, LinkId, Pair};
use super::peer::Peer;
use crate::code::{LinkCode, RefuseCode};
use crate::id::{PipeId, Side};
use crate::misbehaved::PeerMisbehaved;
use crate::proto::PeerTable;
use crate::proto::resume::Claim;
use crate::wire::{Frame, Refused, Resume, Resumed};

/// How far a client has come with a connection at the server.
#[derive(Debug)]
pub(super) enum Door {
    Outside,
    /// The proof is good; its table comes.
    Table(Resume, PeerTable),
    Ready(Resume, PeerTable),
    Inside,
    Refused(Refused),
}

/// The client's attempt to resume.
#[derive(Debug)]
pub(super) enum Attempt {
    /// Behind the fence; the claim is made, the table is not.
    Claimed(LinkId, Claim),
    Asked {
        link: LinkId,
        claim: Claim,
        granted: Granted,
        table: PeerTable,
    },
    /// The server's table is complete, and not applied.
    Answered(LinkId, PeerTable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    NotYet,
    Yes,
}

/// The server between its fence and its next connection.
#[derive(Debug)]
pub(super) struct Grant {
    link: LinkId,
    table: PeerTable,
    /// Until it was sent, with our table behind it.
    answer: Option<Resumed>,
}

/// A client that can take the place of a pair's: another holder of its token.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) peer: Peer,
    attached: Option<LinkId>,
    attempt: Option<Attempt>,
}

impl Attempt {
    pub(super) fn link(&self) -> LinkId {
        match self {
            Self::Claimed(link, _) | Self::Asked { link, .. } | Self::Answered(link, _) => *link,
        }
    }
}

// The client's part.
impl Pair {
    /// The client fences, and claims the session on a new connection.
    pub(super) fn claim(&mut self) -> LinkId {
        self.notice(Side::Client);
        let link = LinkId(self.links.len());
        let exporter = [link.0 as u8 + 1; 32];
        let (claim, resume) = self.peer(Side::Client).core.claim(exporter);
        self.links.push(Link::new(resume.epoch, exporter));
        self.send(link, Side::Client, &Frame::Resume(resume));
        self.attempt = Some(Attempt::Claimed(link, claim));
        self.observe();
        link
    }

    /// The client sends its table after the claim.
    pub(super) fn ask(&mut self) {
        let Some(Attempt::Claimed(link, claim)) = self.attempt.take() else {
            panic!("there is a claim");
        };
        let frames = self.peer(Side::Client).measure();
        frames.iter().for_each(|frame| self.send(link, Side::Client, frame));
        let table = self.peer(Side::Client).core.expect_table();
        self.attempt = Some(Attempt::Asked { link, claim, granted: Granted::NotYet, table });
    }

    /// The client attaches, the server's table in hand.
    pub(super) fn adopt(&mut self) {
        let Some(Attempt::Answered(link, table)) = self.attempt.take() else {
            panic!("there is an answer");
        };
        self.apply(Side::Client, link, &table);
        self.laws.tally.resumed += 1;
    }

    /// The client learns that the server has refused its attempt.
    pub(super) fn hear_refusal(&mut self) -> Option<RefuseCode> {
        let link = self.attempt.as_ref()?.link();
        let Door::Refused(refused) = &self.links[link.0].door else { return None };
        let refused = Refused::from_reason(refused.to_reason().into()).unwrap();
        self.peer(Side::Client).core.on_refused(&refused);
        self.attempt = None;
        self.observe();
        Some(refused.code)
    }

    /// A frame for the client on a connection that is not attached.
    pub(super) fn on_answer(&mut self, from: LinkId, frame: Frame) -> Result<(), PeerMisbehaved> {
        let Some(Attempt::Asked { link, claim, granted, table }) = &mut self.attempt else {
            return Ok(());
        };
        let link = *link;
        if link != from {
            // Of a connection that it has fenced or given up.
            return Ok(());
        }
        match (frame, &granted) {
            (Frame::Resumed(answer), Granted::NotYet) => {
                self.peers[Side::Client as usize].core.on_resumed(claim, &answer)?;
                *granted = Granted::Yes;
            }
            (frame, Granted::Yes) => {
                if table.on_frame(frame)? {
                    self.attempt = Some(Attempt::Answered(link, table.clone()));
                }
            }
            (frame, Granted::NotYet) => panic!("{} before the answer", frame.name()),
        }
        Ok(())
    }
}

// The server's part.
impl Pair {
    /// A frame for the server on a connection that is not attached.
    pub(super) fn on_claim(&mut self, link: LinkId, frame: Frame) -> Result<(), PeerMisbehaved> {
        let core = &self.peers[Side::Server as usize].core;
        let Link { door, exporter, .. } = &mut self.links[link.0];
        match (std::mem::replace(door, Door::Outside), frame) {
            (Door::Outside, Frame::Resume(resume)) => match core.check(&resume, exporter) {
                Ok(_) => *door = Door::Table(resume, core.expect_table()),
                Err(code) => self.refuse(link, code),
            },
            (Door::Table(resume, mut table), frame) => {
                *door = if table.on_frame(frame)? {
                    Door::Ready(resume, table)
                } else {
                    Door::Table(resume, table)
                };
            }
            // It was fenced, or refused.
            (was, _) => *door = was,
        }
        Ok(())
    }

    pub(super) fn is_ready(&self, link: LinkId) -> bool {
        matches!(self.links[link.0].door, Door::Ready(..))
    }

    /// The server checks once more, fences, and grants. Its table is not
    /// measured yet.
    pub(super) fn grant(&mut self, link: LinkId) {
        assert!(self.grant.is_none(), "one after the other");
        let door = std::mem::replace(&mut self.links[link.0].door, Door::Inside);
        let Door::Ready(resume, table) = door else { panic!("the claim is complete") };
        let exporter = self.links[link.0].exporter;
        let core = &self.peer(Side::Server).core;
        if let Err(code) = core.check(&resume, &exporter) {
            self.refuse(link, code);
            return;
        }
        let takeover = resume.holder != core.holder();
        if let Some(old) = self.attached[Side::Server as usize] {
            let code = if takeover { LinkCode::Superseded } else { LinkCode::Replaced };
            self.links[old.0].closed = Some(code);
        }
        self.notice(Side::Server);
        let answer = self.peer(Side::Server).core.grant(&resume, &exporter).unwrap();
        self.grant = Some(Grant { link, table, answer: Some(answer) });
        self.observe();
    }

    /// The server's next step after [`grant`](Self::grant): it answers; then it
    /// applies the client's table and attaches.
    pub(super) fn go_on_granting(&mut self) {
        let Grant { link, table, answer } = self.grant.take().expect("it has granted");
        let Some(answer) = answer else {
            self.apply(Side::Server, link, &table);
            return;
        };
        self.send(link, Side::Server, &Frame::Resumed(answer));
        let frames = self.peer(Side::Server).measure();
        frames.iter().for_each(|frame| self.send(link, Side::Server, frame));
        self.grant = Some(Grant { link, table, answer: None });
    }

    fn refuse(&mut self, link: LinkId, code: RefuseCode) {
        let epoch = self.peer(Side::Server).core.epoch().get();
        let attached = if code == RefuseCode::STALE_EPOCH { epoch } else { 0 };
        self.links[link.0].door = Door::Refused(Refused { code, attached, reason: "no".into() });
        self.laws.tally.refused += 1;
    }

    fn apply(&mut self, side: Side, link: LinkId, table: &PeerTable) {
        let replies = self.peer(side).apply(table).unwrap();
        replies.iter().for_each(|reply| self.send(link, side, reply));
        self.attached[side as usize] = Some(link);
        self.begin_streams(link, side);
        self.observe();
    }
}

// Several steps at once.
impl Pair {
    /// The next step of the attempt that is under way; `false` if there is none
    /// that it can take.
    pub(super) fn step(&mut self) -> bool {
        if self.grant.is_some() {
            self.go_on_granting();
            return true;
        }
        match &self.attempt {
            None => false,
            Some(Attempt::Claimed(..)) => {
                self.ask();
                true
            }
            Some(Attempt::Asked { link, .. }) => {
                let link = *link;
                if self.is_ready(link) {
                    self.grant(link);
                    return true;
                }
                self.deliver_control(link, Side::Server) || self.deliver_control(link, Side::Client)
            }
            Some(Attempt::Answered(..)) => {
                self.adopt();
                true
            }
        }
    }

    /// A whole resume, without a fault.
    pub(super) fn resume(&mut self) {
        let link = self.claim();
        while self.attempt.is_some() {
            assert!(self.step(), "the resume is stuck: {:?}", self.links[link.0].door);
        }
        assert_eq!(self.attached, [Some(link); 2]);
    }

    /// Lets both sides and the transport do everything they can, with reading
    /// applications if `reading`.
    pub(super) fn settle(&mut self, reading: Reading) {
        for _ in 0..10_000 {
            if !self.sweep(reading) {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Whatever was broken is made good; every pipe is ended and read to its
    /// end. Nothing may be left of it.
    pub(super) fn heal_and_finish(&mut self) {
        while self.grant.is_some() {
            self.go_on_granting();
        }
        if !self.is_healthy() {
            self.resume();
        }
        self.settle(Reading::Yes);
        // Some pipes were accepted only now.
        for side in [Side::Client, Side::Server] {
            for id in self.peer(side).ids() {
                self.finish(side, id);
            }
        }
        self.settle(Reading::Yes);
        self.laws.check_all_over(&self.peers);
    }

    fn sweep(&mut self, reading: Reading) -> bool {
        let mut moved = false;
        for side in [Side::Client, Side::Server] {
            for id in self.peer(side).ids() {
                moved |= self.open_stream(side, id);
                while self.pump(side, id, 16 * 1024) {
                    moved = true;
                }
                if reading == Reading::Yes {
                    moved |= self.read_all(side, id) > 0;
                }
            }
            moved |= self.flush(side, true);
            if let Some(link) = self.attached(side) {
                while self.deliver_control(link, side) {
                    moved = true;
                }
                for id in self.links[link.0].stream_ids() {
                    while self.deliver_stream(link, side, id, usize::MAX) {
                        moved = true;
                    }
                }
            }
        }
        moved
    }

    /// Reads all there is; says how many bytes, and at an end one more.
    pub(super) fn read_all(&mut self, side: Side, id: PipeId) -> usize {
        let mut total = 0;
        while self.has(side, id) && self.pipe(side, id).recv.end().is_none() {
            match self.read(side, id, 4096) {
                Got::Bytes(bytes) => total += bytes,
                Got::End(_) => total += 1,
                Got::Nothing => break,
            }
        }
        total
    }

    /// Another holder of the client's token, detached.
    pub(super) fn other_holder(&self) -> Holder {
        let mut peer = self.peers[Side::Client as usize].clone();
        peer.core.holder = crate::id::HolderId([2; 16]);
        peer.fence();
        Holder { peer, attached: None, attempt: None }
    }

    /// The other holder takes the place of the client, and is given back in it.
    pub(super) fn swap_client(&mut self, holder: &mut Holder) {
        let client = Side::Client as usize;
        std::mem::swap(&mut self.peers[client], &mut holder.peer);
        std::mem::swap(&mut self.attached[client], &mut holder.attached);
        std::mem::swap(&mut self.attempt, &mut holder.attempt);
        self.laws.forget_client_epoch();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Yes,
    No,
}
