//! What must hold at every moment, whatever the applications and the weather do.
//!
//! [`Watch::look`] is called each time datagrams were delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use evermux::{
    CloseCode, Epoch, Events, PipeId, PipeStats, Server, Session, SessionError, SessionEvent,
    SessionId, Side,
};

use tokio::time::Instant;

use crate::ledger::Process;
use crate::trace::Trace;
use crate::world::World;

/// What a pipe may keep beyond the shared budgets (guarantees, "bounded").
const PIPE_SHARE: u64 = 64 * 1024;

/// The bounds that one side was given.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub replay_capacity: u64,
    pub replay_budget: u64,
}

/// What may end a session. Without any it lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// One side's application closes it.
    Closed(Side, CloseCode),
    /// One side's application, or both, shut it down.
    Shutdown(Side),
    /// One side drops all it has of it.
    Abandoned(Side),
    /// The server forgets it: restarted, or after the linger time.
    Forgotten,
    /// The server shuts down.
    GoingAway,
}

impl Cause {
    /// Whether `side` may be told `error` for this reason.
    fn explains(&self, side: Side, error: &SessionError) -> bool {
        let (by, with) = match self {
            Self::Closed(by, code) => (*by, *code),
            Self::Shutdown(by) => (*by, CloseCode::DONE),
            Self::Abandoned(by) => (*by, CloseCode::ABANDONED),
            Self::GoingAway => (Side::Server, CloseCode::GOING_AWAY),
            Self::Forgotten => {
                return match side {
                    Side::Client => *error == SessionError::UnknownSession,
                    Side::Server => matches!(error, SessionError::Expired { .. }),
                };
            }
        };
        match error {
            SessionError::LocallyClosed { code } => side == by && *code == with,
            SessionError::PeerClosed { code, .. } => side != by && *code == with,
            // Closed while the client was away.
            SessionError::UnknownSession => side != by && side == Side::Client,
            SessionError::Expired { .. } => side != by && side == Side::Server,
            _ => false,
        }
    }
}

/// Both sides of a session, as far as they are there.
#[derive(Debug)]
pub struct Pair {
    id: SessionId,
    causes: Mutex<Vec<Cause>>,
    sides: Mutex<[Option<Seen>; 2]>,
    /// Which sides have opened all their pipes, and are through with them.
    through: Mutex<[bool; 2]>,
    accepted: Mutex<BTreeSet<PipeId>>,
    /// Whose side was ever there.
    seen: Mutex<[bool; 2]>,
    trace: Trace,
}

/// One side, and what was seen of it.
#[derive(Debug)]
struct Seen {
    session: Session,
    process: Process,
    bounds: Bounds,
    epoch: Epoch,
    pipes: BTreeMap<PipeId, PipeStats>,
}

impl Pair {
    /// From now on the session may end in this way too.
    pub fn may_end(&self, cause: Cause) {
        self.trace.note(format_args!("session {}: {cause:?}", self.id));
        self.causes.lock().unwrap().push(cause);
    }

    /// Checks how `side` was told that the session has ended.
    pub fn ended(&self, side: Side, error: &SessionError) {
        self.process(side).end();
        let causes = self.causes.lock().unwrap();
        let explained = self.is_leftover() && Cause::Forgotten.explains(side, error)
            || causes.iter().any(|cause| cause.explains(side, error));
        assert!(explained, "{side:?} of {}: \"{error}\", but all there was is {causes:?}", self.id);
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Its client never heard of it: the connection died with the welcome on it.
    pub fn is_leftover(&self) -> bool {
        !self.seen.lock().unwrap()[index(Side::Client)]
    }

    /// The process of a side is killed: nothing will be heard of it any more.
    pub fn kill(&self, side: Side) {
        if let Some(seen) = self.sides.lock().unwrap()[index(side)].take() {
            seen.process.end();
            self.may_end(Cause::Forgotten);
        }
    }

    /// The process of a side that is there.
    pub fn process(&self, side: Side) -> Process {
        let sides = self.sides.lock().unwrap();
        sides[index(side)].as_ref().map(|seen| seen.process.clone()).unwrap_or_default()
    }

    /// Lets go of a side: it is not looked at any more, and may be abandoned.
    pub fn forget(&self, side: Side) {
        self.sides.lock().unwrap()[index(side)] = None;
    }

    /// `side` is through with the pipes that it has opened.
    pub fn is_through(&self, side: Side) {
        self.through.lock().unwrap()[index(side)] = true;
    }

    pub fn are_through(&self) -> bool {
        *self.through.lock().unwrap() == [true; 2]
    }

    /// An application was given this pipe.
    pub fn accepted(&self, pipe: PipeId) {
        assert!(self.accepted.lock().unwrap().insert(pipe), "{pipe} was accepted twice");
    }

    /// Live pipes on both sides, as far as they are known.
    pub fn live_pipes(&self) -> u64 {
        let sides = self.sides.lock().unwrap();
        sides.iter().flatten().map(|seen| seen.session.stats().pipes).sum()
    }

    /// A side of the session, if it is there.
    pub fn session(&self, side: Side) -> Option<Session> {
        self.sides.lock().unwrap()[index(side)].as_ref().map(|seen| seen.session.clone())
    }

    fn look(&self) {
        let mut sides = self.sides.lock().unwrap();
        sides.iter_mut().flatten().for_each(Seen::look);
        let [Some(client), Some(server)] = &*sides else { return };
        for (ours, theirs) in [(client, server), (server, client)] {
            for (id, pipe) in &ours.pipes {
                let Some(other) = theirs.pipes.get(id) else { continue };
                assert!(pipe.acked <= other.read, "{id}: acks for what nobody has read");
                assert!(pipe.read <= other.written, "{id}: read more than was written");
            }
        }
    }
}

impl Seen {
    fn look(&mut self) {
        let stats = self.session.stats();
        assert!(stats.epoch >= self.epoch, "the epoch went back to {}", stats.epoch);
        self.epoch = stats.epoch;
        let bound = self.bounds.replay_budget + PIPE_SHARE * stats.pipes;
        assert!(stats.bytes_kept <= bound, "{} bytes kept, {bound} allowed", stats.bytes_kept);
        let pipes = self.session.pipes().into_iter().map(|pipe| (pipe.id, pipe.stats)).collect();
        let before = std::mem::replace(&mut self.pipes, pipes);
        for (id, now) in &self.pipes {
            assert!(now.kept <= self.bounds.replay_capacity, "{id} keeps {} bytes", now.kept);
            assert!(now.acked <= now.sent && now.sent <= now.written, "{id}: {now:?}");
            let Some(before) = before.get(id) else { continue };
            let grown = now.acked >= before.acked
                && now.written >= before.written
                && now.read >= before.read;
            assert!(grown, "{id} went back: {before:?} to {now:?}");
        }
    }
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Server)
}

/// All sessions of a run.
#[derive(Debug)]
pub struct Watch {
    pairs: Mutex<BTreeMap<SessionId, Arc<Pair>>>,
    servers: Mutex<Vec<(Server, u64)>>,
    trace: Trace,
}

impl Watch {
    pub fn new(trace: Trace) -> Self {
        Self { pairs: Mutex::default(), servers: Mutex::default(), trace }
    }

    /// One side of a session is there.
    pub fn add(&self, session: &Session, bounds: Bounds) -> Arc<Pair> {
        let id = session.id();
        let mut pairs = self.pairs.lock().unwrap();
        let pair = pairs.entry(id).or_insert_with(|| {
            let trace = self.trace.clone();
            Arc::new(Pair {
                id,
                causes: Mutex::default(),
                sides: Mutex::default(),
                through: Mutex::default(),
                accepted: Mutex::default(),
                seen: Mutex::default(),
                trace,
            })
        });
        pair.seen.lock().unwrap()[index(session.side())] = true;
        pair.sides.lock().unwrap()[index(session.side())] = Some(Seen {
            session: session.clone(),
            process: Process::default(),
            bounds,
            epoch: Epoch::FIRST,
            pipes: BTreeMap::new(),
        });
        pair.clone()
    }

    /// A server whose budget is to be looked at.
    pub fn add_server(&self, server: &Server, replay_budget: u64) {
        self.servers.lock().unwrap().push((server.clone(), replay_budget));
    }

    /// Lets go of all servers: they may be dropped.
    pub fn forget_servers(&self) {
        self.servers.lock().unwrap().clear();
    }

    pub fn pairs(&self) -> Vec<Arc<Pair>> {
        self.pairs.lock().unwrap().values().cloned().collect()
    }

    pub fn look(&self) {
        self.pairs().iter().for_each(|pair| pair.look());
        for (server, bound) in &*self.servers.lock().unwrap() {
            let shared = server.stats().bytes_shared;
            assert!(shared <= *bound, "the server shares {shared} bytes, {bound} allowed");
        }
    }
}

/// Checks what a side is told of its link, to the session's end; says how many
/// times it was attached again.
pub async fn follow(mut events: Events, side: Side, id: SessionId, world: World) -> u64 {
    let (mut attached, mut resumes) = (Some(Epoch::FIRST), 0);
    let mut last = Epoch::FIRST;
    // Time asleep counts.
    let now = || (Instant::now(), world.network.asleep());
    let mut since = now();
    while let Some(event) = events.next().await {
        world.trace.note(format_args!("{side:?} of {id}: {event:?}"));
        match event {
            SessionEvent::Attached { epoch, .. } => assert_eq!(epoch, Epoch::FIRST),
            SessionEvent::Detached { epoch, .. } => {
                assert_eq!(attached, Some(epoch), "another connection was lost than was there");
                (attached, since) = (None, now());
            }
            SessionEvent::Resumed { epoch, .. } => {
                assert_eq!(attached, None, "two connections at once");
                assert!(epoch > last, "epoch {epoch} after {last}");
                (attached, last) = (Some(epoch), epoch);
                resumes += 1;
            }
            SessionEvent::Lagged { missed, .. } => panic!("{missed} events missed"),
            SessionEvent::Closed { error, .. } => {
                if let SessionError::Expired { linger } = error {
                    let away = since.0.elapsed() + (world.network.asleep() - since.1);
                    assert!(away >= linger, "expired {away:?} after its link, not {linger:?}");
                }
                return resumes;
            }
            _ => {}
        }
    }
    resumes
}
