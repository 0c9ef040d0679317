//! Where situations are played: a server, a client, and one session between them,
//! watched from both sides.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use evermux::{Client, Epoch, Server, ServerConfig, Session, SessionConfig, Side};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::actors::End;
use crate::network::{BOTH_WAYS, Conditions, Gate, SERVER};
use crate::seeds;
use crate::watch::{Bounds, Cause, Pair, follow};
use crate::world::{self, World};

/// Where the client is.
pub const HOST: u8 = 1;

pub const SIDES: [Side; 2] = [Side::Client, Side::Server];

/// How often somebody looks whether something is so that no event tells.
const GLANCE: Duration = Duration::from_millis(5);

/// Long enough for everybody to do what there is to do, and shorter than any
/// timer or road.
pub const INSTANT: Duration = Duration::from_millis(1);

/// Once the network lets them, both sides come to an end of what they do within
/// this time: a dead link is noticed, an attempt fails, the next one does not.
const PATIENCE: Duration = Duration::from_secs(60);

/// No situation takes so long; a run that is stuck would go on probing its link
/// for a whole virtual day.
const ENOUGH: Duration = Duration::from_secs(1200);

/// No situation has so many moments: if it is never over before the moment comes,
/// then only the fault has it go on.
const TOO_MANY: u64 = 1000;

/// Plays a situation once for each moment, until `play` gives `None`: it was all
/// over before the moment came. What it gives else is what the moment was good
/// for; `kinds` are those that must be among them, so that the sweep is known to
/// have met the situation.
pub fn at_every_moment<F, Fut>(
    case: &str,
    moments: impl IntoIterator<Item = u64>,
    kinds: &[&'static str],
    play: F,
) where
    F: Fn(World, u64) -> Fut,
    Fut: Future<Output = Option<&'static str>>,
{
    let (play, mut met) = (&play, BTreeMap::<_, u64>::new());
    for moment in moments {
        assert!(moment < TOO_MANY, "{case}: never over, whatever the moment");
        let run = |readable| {
            world::run(moment, readable, |world| async move {
                let in_time = timeout(ENOUGH, play(world.clone(), moment)).await;
                in_time.unwrap_or_else(|_| panic!("stuck:\n{}", world.ledger.unfinished()))
            })
        };
        match run(false).result {
            Ok(Some(kind)) => *met.entry(kind).or_default() += 1,
            Ok(None) => break,
            Err(reason) => {
                // The test's own thread has its name.
                let name = std::thread::current().name().unwrap_or("situation").to_owned();
                let course = seeds::course(&name.replace("::", "-"), &reason, run(true));
                panic!("{name}, {case}, moment and seed {moment}: {course}");
            }
        }
    }
    println!("{case}: {met:?}");
    for kind in kinds {
        assert!(met.contains_key(kind), "{case}: no moment was \"{kind}\", only {met:?}");
    }
}

/// A session, as both sides have it, and all that is around it.
pub struct Stage {
    pub world: World,
    pub server: Server,
    /// The client's side of the session.
    pub ours: Session,
    /// The server's.
    pub theirs: Session,
    pub pair: Arc<Pair>,
    _client: Client,
    following: JoinSet<u64>,
}

impl Stage {
    /// A session with settings that notice a dead link quickly.
    pub async fn new(world: &World) -> Self {
        Self::with(world, world::quick(), |_| {}).await
    }

    /// A session with these settings on both sides.
    pub async fn with(
        world: &World,
        session: SessionConfig,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        world.network.pave(HOST, Conditions::default(), Conditions::default());
        let server = world.server(session.clone(), change);
        let client = world.client(HOST, session, |_| {});
        let (ours, theirs) = world.session(&client, &server).await;
        // The largest that any situation has, which are the defaults.
        let bounds = Bounds { replay_capacity: 16 << 20, replay_budget: 64 << 20 };
        let mut following = JoinSet::new();
        let [pair, _] = [&ours, &theirs].map(|session| {
            following.spawn(follow(session.events(), session.side(), session.id(), world.clone()));
            world.watch.add(session, bounds)
        });
        Self { world: world.clone(), server, ours, theirs, pair, _client: client, following }
    }

    pub fn session(&self, side: Side) -> &Session {
        match side {
            Side::Client => &self.ours,
            Side::Server => &self.theirs,
        }
    }

    pub fn open(&self, side: Side) -> End {
        let session = self.session(side);
        let pipe = session.open_pipe("").expect("room for another pipe");
        End::new(pipe, session.id(), side, &self.world.ledger)
    }

    /// The next pipe that the other side has opened.
    pub async fn accept(&self, side: Side) -> End {
        let session = self.session(side);
        let pipe = session.accept_pipe().await.expect("a live session").expect("a pipe");
        self.pair.accepted(pipe.id());
        End::new(pipe, session.id(), side, &self.world.ledger)
    }

    /// A pipe of `opener`'s that both sides have: the end of `opener` first.
    pub async fn pipe(&self, opener: Side) -> (End, End) {
        let opened = self.open(opener);
        let accepted = self.accept(opener.peer()).await;
        (opened, accepted)
    }

    /// The same: the client's end first.
    pub async fn pipe_of(&self, opener: Side) -> (End, End) {
        let (opened, accepted) = self.pipe(opener).await;
        match opener {
            Side::Client => (opened, accepted),
            Side::Server => (accepted, opened),
        }
    }

    /// No pipe is left for `side` to accept.
    pub async fn no_more_pipes(&self, side: Side) {
        let more = timeout(Duration::from_secs(20), self.accept(side)).await;
        assert!(more.is_err(), "a pipe that nobody opened: {more:?}");
    }

    /// The connections of today die, with all that is under way on them; returns
    /// once what has arrived was taken note of.
    pub async fn cut(&self) {
        self.world.network.set_gate_of_connections(HOST, Gate::Closed);
        sleep(INSTANT).await;
    }

    /// Nothing gets through, or everything does.
    pub fn set_gates(&self, gate: Gate) {
        BOTH_WAYS.into_iter().for_each(|way| self.world.network.set_gate(HOST, way, gate));
    }

    /// Nothing gets through, and both sides know that they are detached.
    pub async fn part(&self) {
        self.set_gates(Gate::Closed);
        for side in SIDES {
            // It begins at once, and goes on.
            let _ = timeout(INSTANT, self.session(side).reconnect()).await;
            assert!(!self.session(side).link().is_attached());
        }
    }

    /// Plays `acts`, and `strike` as well from when so many more datagrams have
    /// arrived; `None` if the acts were over by then.
    pub async fn during<T, K>(
        &self,
        moment: u64,
        acts: impl Future<Output = T>,
        strike: impl Future<Output = K>,
    ) -> (T, Option<K>) {
        let mut acts = pin!(acts);
        // In this order: also before moment 0 the acts have begun.
        tokio::select! {
            biased;
            value = &mut acts => return (value, None),
            () = self.world.network.delivered(HOST, moment) => {}
        }
        let (value, kind) = tokio::join!(acts, strike);
        (value, Some(kind))
    }

    /// How many times the client has come back.
    pub fn resumes(&self) -> u64 {
        self.ours.stats().resumes
    }

    /// The server's process is killed, with its end of a pipe; what is left is
    /// the client's.
    pub fn kill_server(self, end: End) -> (Session, Arc<Pair>) {
        self.world.network.unplug(SERVER.ip());
        self.pair.kill(Side::Server);
        drop(end);
        (self.ours, self.pair)
    }

    /// Waits until the client has come back once more.
    pub async fn resumed_again(&self) {
        let before = self.resumes();
        self.until(|| self.resumes() > before).await;
    }

    /// Waits until both sides have gone on over one connection, newer than that
    /// of `before`, and the others are gone.
    pub async fn one_connection(&self, before: Epoch) {
        let is_one = || {
            let [ours, theirs] = SIDES.map(|side| self.session(side).stats().epoch);
            let attached = SIDES.iter().all(|side| self.session(*side).link().is_attached());
            attached && ours == theirs && ours > before
        };
        self.until(is_one).await;
        // QUIC holds a closed connection's socket for three PTOs.
        self.until(|| self.world.network.open_sockets().len() == 2).await;
        let stats = self.server.stats();
        assert_eq!((stats.sessions, stats.detached), (1, 0));
        assert!(is_one(), "the last connection is gone too");
    }

    /// Waits until neither side has a pipe left.
    pub async fn without_pipes(&self) {
        self.until(|| SIDES.iter().all(|side| self.session(*side).pipes().is_empty())).await;
    }

    /// Waits until something is so, which must not take long.
    pub async fn until(&self, so: impl Fn() -> bool) {
        let waiting = async {
            while !so() {
                sleep(GLANCE).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            let [ours, theirs] = SIDES.map(|side| self.session(side));
            panic!("never so: {ours:?} {:?}, {theirs:?} {:?}", ours.pipes(), theirs.pipes());
        }
    }

    /// The end of a session whose pipes are all done: nothing may be left.
    pub async fn end(mut self) {
        self.without_pipes().await;
        self.pair.may_end(Cause::Shutdown(Side::Client));
        self.ours.shutdown().await.expect("nothing is owed");
        let told = [self.ours.closed().await, self.theirs.closed().await];
        SIDES.iter().zip(&told).for_each(|(side, error)| self.pair.ended(*side, error));
        self.nothing_left().await;
    }

    /// After the session's end, by whatever cause: all memory is back.
    pub async fn nothing_left(&mut self) {
        for side in SIDES {
            assert_eq!(self.session(side).stats().bytes_kept, 0, "{side:?} keeps bytes");
            self.pair.forget(side);
        }
        let stats = self.server.stats();
        assert_eq!((stats.sessions, stats.bytes_shared), (0, 0), "left: {stats:?}");
        while let Some(followed) = self.following.join_next().await {
            followed.expect("no panic in an observer");
        }
        self.server.shutdown(Duration::from_secs(5)).await;
    }
}
