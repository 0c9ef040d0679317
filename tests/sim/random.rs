//! A run of anything: clients, pipes, settings, weather and ends, all from one
//! seed.
//!
//! The course of every run is the same: sessions begin, applications use pipes
//! while the weather blows, then the network is healed for good, every pipe must
//! come to its end, and every session to its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evermux::{
    CloseCode, Limits, OpenError, ReconnectPolicy, Server, Session, SessionConfig, SessionError,
    Side,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::network::{SERVER, host_addr};
use crate::pipes::Plan;
use crate::watch::{Bounds, Cause, Pair, follow};
use crate::weather::{Fault, Weather};
use crate::world::World;

/// Once the network is healed, every pipe that owes bytes moves again within
/// this time: a dead link is noticed (at most 10 s with these settings), an
/// attempt under way fails (5 s), its successor waits for its turn (2 s), and
/// quinn's loss timers, doubled meanwhile, run out.
const MOVES_AGAIN: Duration = Duration::from_secs(45);

/// Once the network is healed, all pipes are through within this time: the
/// slowest readers rest half a second after each read.
const THROUGH: Duration = Duration::from_secs(1200);

/// How long a session may take to end once both sides agree, or one of them has
/// forgotten it.
const ENDS: Duration = Duration::from_secs(60);

/// How long a session may outlive its client if its linger time is short: QUIC gives
/// the connection up after 120 s, or three PTOs, which a datagram that was held can
/// make minutes; and 30 s later the server does.
const EXPIRES: Duration = Duration::from_secs(1000);

/// How often somebody looks whether something is so that no event tells.
const GLANCE: Duration = Duration::from_millis(200);

/// What one run has seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub sessions: u64,
    pub pipes: u64,
    pub resumes: u64,
    pub faults: BTreeMap<Fault, u64>,
    /// Servers killed, clients killed, sessions closed in the middle.
    pub killed: u64,
    pub delivered: u64,
    /// Ends of streams that were seen after all of their bytes.
    pub ends: u64,
    /// Bytes that are missing, and that came twice, in those.
    pub lost: u64,
    pub doubled: u64,
    pub datagrams: u64,
}

/// What the seed decides before anything happens.
#[derive(Clone, Debug)]
struct Setup {
    clients: u64,
    /// Pipes that each side of a session opens.
    pipes: u64,
    /// Most bytes in one direction.
    most: u64,
    faults: u64,
    linger: Duration,
    server: SessionConfig,
    server_bounds: Bounds,
    server_budget: u64,
    kill_server: Option<Duration>,
    kill_client: Option<Duration>,
}

impl Setup {
    fn draw(dice: &mut Dice) -> Self {
        let (server, server_bounds) = session_config(dice);
        let crowd = dice.chance(50);
        let bulk = dice.chance(150);
        Self {
            clients: dice.choose(&[1, 1, 2, 4]),
            pipes: if crowd { 60 } else { dice.pick_log(1..12) },
            most: if bulk { 1 << 20 } else { dice.pick_log(100..100_000) },
            faults: dice.pick(0..12),
            linger: Duration::from_secs(dice.choose(&[20, 3600, 3600, 3600])),
            server,
            server_bounds,
            server_budget: dice.choose(&[0, 64 << 10, 1 << 30]),
            kill_server: dice.chance(80).then(|| dice.pick_millis(100..60_000)),
            kill_client: dice.chance(80).then(|| dice.pick_millis(100..60_000)),
        }
    }

    /// Sessions may expire while their clients are only away.
    fn linger_is_short(&self) -> bool {
        self.linger < Duration::from_secs(600)
    }
}

fn session_config(dice: &mut Dice) -> (SessionConfig, Bounds) {
    let mut config = SessionConfig::default();
    let bounds = Bounds {
        replay_capacity: dice.choose(&[1 << 10, 10 << 10, 100 << 10, 1 << 20, 16 << 20]),
        replay_budget: dice.choose(&[0, 10 << 10, 1 << 20, 64 << 20]),
    };
    config
        .max_pipes(dice.choose(&[4, 20, 1000]))
        .replay_capacity(bounds.replay_capacity)
        .replay_budget(bounds.replay_budget)
        .probe_interval(dice.pick_millis(100..5_000))
        .probe_timeout(dice.pick_millis(1000..5_000))
        .optimistic_replay(dice.choose(&[0, 1 << 10, 64 << 10, 1 << 20]))
        .stream_window(dice.choose(&[1 << 10, 10 << 10, 1 << 20, 4 << 20]))
        .initial_streams(dice.choose(&[1, 2, 8, 64]));
    (config, bounds)
}

/// Plays a whole run.
pub async fn play(world: World, seed: u64) -> Report {
    let mut dice = Dice(seed).fork();
    let setup = Arc::new(Setup::draw(&mut dice));
    world.trace.note(format_args!("{setup:?}"));
    let shared = Arc::new(Shared {
        world: world.clone(),
        setup: setup.clone(),
        healed: Healed::default(),
        on_host: Mutex::default(),
        sessions: AtomicU64::new(0),
        resumes: AtomicU64::new(0),
    });
    let hosts: Vec<u8> = (1..=setup.clients as u8).collect();
    for host in &hosts {
        let [up, down] = [(); 2].map(|()| Weather::conditions(&mut dice));
        world.network.pave(*host, up, down);
    }
    let mut server = ServerProcess::start(&shared);
    let mut clients: BTreeMap<u8, JoinSet<()>> = BTreeMap::new();
    for host in &hosts {
        let client = shared.clone().client(*host, dice.fork());
        clients.entry(*host).or_default().spawn(client);
    }

    let mut weather = Weather::new(world.clone(), hosts.clone(), dice.fork());
    let mut report = Report::default();
    let mut kills = JoinSet::new();
    for (server, at) in [(true, setup.kill_server), (false, setup.kill_client)] {
        if let Some(at) = at {
            kills.spawn(async move {
                sleep(at).await;
                server
            });
        }
    }
    {
        let mut blowing = std::pin::pin!(weather.blow(setup.faults));
        loop {
            tokio::select! {
                biased;
                Some(kill) = kills.join_next(), if !kills.is_empty() => {
                    report.killed += 1;
                    if kill.expect("sleeps only") {
                        server = server.kill_and_restart(&shared, dice.pick_millis(1..20_000)).await;
                    } else {
                        let host = dice.choose(&hosts);
                        shared.kill_client(host);
                        clients.remove(&host);
                    }
                }
                () = &mut blowing => break,
            }
        }
    }
    drop(kills);

    world.network.heal(hosts.iter().copied());
    world.trace.note(format_args!("healed"));
    let owed = world.ledger.owed();
    shared.healed.set();
    let through = async {
        for (_, mut client) in clients {
            while let Some(ended) = client.join_next().await {
                ended.expect("no panic in a client");
            }
        }
    };
    let mut through = std::pin::pin!(timeout(THROUGH, through));
    let stuck = tokio::select! {
        biased;
        in_time = &mut through => Some(in_time.is_err()),
        () = sleep(MOVES_AGAIN) => None,
    };
    let stuck = match stuck {
        Some(stuck) => stuck,
        None => {
            let still = world.ledger.owed();
            let stalled: Vec<_> =
                owed.iter().filter(|(key, at)| still.get(key) == Some(at)).collect();
            let unfinished = world.ledger.unfinished();
            assert!(
                stalled.is_empty(),
                "stalled {MOVES_AGAIN:?} after the last fault: {stalled:?}\n{unfinished}"
            );
            through.await.is_err()
        }
    };
    assert!(!stuck, "not through {THROUGH:?} after the last fault:\n{}", world.ledger.unfinished());

    server.shut_down(&shared).await;
    let totals = world.ledger.totals();
    report.sessions = shared.sessions.load(Relaxed);
    report.resumes = shared.resumes.load(Relaxed);
    report.pipes = totals.directions / 2;
    report.delivered = totals.delivered;
    report.ends = totals.ends;
    (report.lost, report.doubled) = (totals.lost, totals.doubled);
    report.faults = weather.blown;
    report.datagrams = world.network.counts().0;
    report
}

/// What all processes of a run know.
struct Shared {
    world: World,
    setup: Arc<Setup>,
    healed: Healed,
    /// The latest session of each client.
    on_host: Mutex<BTreeMap<u8, Arc<Pair>>>,
    sessions: AtomicU64,
    resumes: AtomicU64,
}

/// Whether the network is healed for good. A `watch` of tokio's would wake those
/// who wait in an order of its own, another one in each run.
#[derive(Default)]
struct Healed {
    is_set: AtomicBool,
    set: Notify,
}

impl Healed {
    fn set(&self) {
        self.is_set.store(true, Relaxed);
        self.set.notify_waiters();
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Relaxed)
    }

    async fn wait(&self) {
        let set = self.set.notified();
        if !self.is_set() {
            set.await;
        }
    }
}

/// A server and all that its application does.
struct ServerProcess {
    server: Server,
    accepting: JoinSet<()>,
}

impl ServerProcess {
    fn start(shared: &Arc<Shared>) -> Self {
        let Setup { server, linger, server_budget, .. } = &*shared.setup;
        let server = shared.world.server(server.clone(), |config| {
            let mut limits = Limits::default();
            limits.replay_budget(*server_budget);
            config.limits(limits).linger(*linger);
        });
        shared.world.watch.add_server(&server, *server_budget);
        let mut accepting = JoinSet::new();
        accepting.spawn(shared.clone().serve(server.clone()));
        Self { server, accepting }
    }

    /// As `kill -9`, and a new start after `down`.
    async fn kill_and_restart(self, shared: &Arc<Shared>, down: Duration) -> Self {
        shared.world.network.unplug(SERVER.ip());
        shared.world.watch.forget_servers();
        for pair in shared.world.watch.pairs() {
            pair.kill(Side::Server);
        }
        drop(self);
        sleep(down).await;
        Self::start(shared)
    }

    /// Waits for those sessions to expire whose clients will not come back, and
    /// shuts down.
    async fn shut_down(mut self, shared: &Shared) {
        let world = &shared.world;
        // Some go on lingering: their clients were killed.
        let lingers = |pair: &Pair| pair.is_leftover() || shared.setup.linger_is_short();
        let mut left = world.watch.pairs();
        let deadline = Instant::now() + EXPIRES;
        loop {
            left.retain(|pair| lingers(pair) && pair.session(Side::Server).is_some());
            if left.is_empty() {
                break;
            }
            let ids = left.iter().map(|pair| pair.id());
            assert!(Instant::now() < deadline, "not expired: {:?}", ids.collect::<Vec<_>>());
            sleep(Duration::from_secs(1)).await;
        }
        world.watch.pairs().iter().for_each(|pair| pair.may_end(Cause::GoingAway));
        self.server.shutdown(Duration::from_secs(5)).await;
        while let Some(ended) = self.accepting.join_next().await {
            ended.expect("no panic in the server");
        }
        let stats = self.server.stats();
        assert_eq!((stats.sessions, stats.bytes_shared), (0, 0), "left after the end: {stats:?}");
        world.watch.forget_servers();
    }
}

impl Shared {
    /// The server's application: takes every session.
    async fn serve(self: Arc<Self>, server: Server) {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                    ended.expect("no panic in a session");
                }
                incoming = server.accept() => match incoming {
                    Some(incoming) => {
                        let session = incoming.accept();
                        let pair = self.world.watch.add(&session, self.setup.server_bounds);
                        sessions.spawn(self.clone().live(session, pair));
                    }
                    None => break,
                },
            }
        }
        while let Some(ended) = sessions.join_next().await {
            ended.expect("no panic in a session");
        }
    }

    /// A client's application: a session, and another one if the server forgets
    /// the first.
    async fn client(self: Arc<Self>, host: u8, mut dice: Dice) {
        let (config, bounds) = session_config(&mut dice);
        let client = self.world.client(host, config, |config| {
            let (first, most) = (dice.pick_millis(20..200), dice.pick_millis(200..2_000));
            config.reconnect(ReconnectPolicy::exponential(first, most));
            config.early_data(dice.chance(500));
            // Of a clone: the seeds that have found something go on as they did.
            config.max_udp_payload(dice.clone().choose(&[1200, 1452, 1452, 6500]));
        });
        loop {
            let session = loop {
                match client.connect(SERVER).await {
                    Ok(session) => break session,
                    Err(error) => self.world.trace.note(format_args!("host {host}: {error}")),
                }
                sleep(Duration::from_millis(200)).await;
            };
            self.sessions.fetch_add(1, Relaxed);
            let pair = self.world.watch.add(&session, bounds);
            self.on_host.lock().unwrap().insert(host, pair.clone());
            self.clone().live(session, pair).await;
            if self.healed.is_set() || dice.chance(500) {
                return;
            }
        }
    }

    /// As `kill -9`. The server will never hear of it.
    fn kill_client(&self, host: u8) {
        self.world.network.bury(host_addr(host));
        if let Some(pair) = self.on_host.lock().unwrap().get(&host) {
            pair.kill(Side::Client);
        }
    }

    /// One side of a session, from its beginning to its end.
    async fn live(self: Arc<Self>, session: Session, pair: Arc<Pair>) {
        let (id, side) = (session.id(), session.side());
        if self.setup.linger_is_short() {
            pair.may_end(Cause::Forgotten);
        }
        let mut following = JoinSet::new();
        following.spawn(follow(session.events(), side, id, self.world.clone()));
        // Both sides roll the same dice, and so know what the other will do.
        let mut dice = Dice(u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("16 bytes")));
        let goodbye = Goodbye::draw(&mut dice);
        let [clients, servers] = [dice.fork(), dice.fork()];
        let dice = if side == Side::Client { clients } else { servers };
        tokio::select! {
            biased;
            () = self.use_pipes(&session, &pair, dice) => {}
            () = goodbye.interrupt(&session, &pair) => {}
        }
        let told = match session.close_reason() {
            Some(_) => Some(soon(&session).await),
            None => goodbye.say(session, &pair).await,
        };
        told.iter().for_each(|error| pair.ended(side, error));
        pair.forget(side);
        while let Some(resumes) = following.join_next().await {
            self.resumes.fetch_add(resumes.expect("no panic in an observer"), Relaxed);
        }
    }

    /// Opens and accepts pipes until both sides are through with all of theirs,
    /// or the session has ended and everybody here has been told.
    async fn use_pipes(&self, session: &Session, pair: &Pair, dice: Dice) {
        let side = session.side();
        let mut opening = std::pin::pin!(self.open_pipes(session, pair, dice));
        let (mut is_opening, mut is_accepting) = (true, true);
        let mut playing = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = &mut opening, if is_opening => {
                    is_opening = false;
                    pair.is_through(side);
                }
                pipe = session.accept_pipe(), if is_accepting => match pipe {
                    Ok(Some(pipe)) => {
                        pair.accepted(pipe.id());
                        let plan = Plan::from_label(&pipe.label());
                        let id = session.id();
                        self.world.trace.note(format_args!("{side:?} of {id}: accepts {}", pipe.id()));
                        playing.spawn(plan.play(pipe, false, self.world.ledger.clone(), pair.process(side)));
                    }
                    Ok(None) | Err(_) => is_accepting = false,
                },
                Some(ended) = playing.join_next(), if !playing.is_empty() => {
                    check_end(pair, side, ended.expect("no panic at a pipe"));
                }
                () = sleep(GLANCE) => {}
            }
            let all_through = || pair.are_through() && pair.live_pipes() == 0;
            if !is_opening && playing.is_empty() && (!is_accepting || all_through()) {
                return;
            }
        }
    }

    async fn open_pipes(&self, session: &Session, pair: &Pair, mut dice: Dice) {
        let mut playing = JoinSet::new();
        let rests = dice.choose(&[1, 100, 2_000]);
        let process = pair.process(session.side());
        'open: for number in 0..self.setup.pipes * 3 + 20 {
            if number >= self.setup.pipes {
                // Something goes on as long as the weather does.
                let rest = dice.pick_millis(50..3_000);
                if timeout(rest, self.healed.wait()).await.is_ok() {
                    break;
                }
            }

            let plan = Plan::new(dice.roll(), self.setup.most);
            let pipe = loop {
                match session.open_pipe(plan.label(self.setup.most)) {
                    Ok(pipe) => break pipe,
                    Err(OpenError::TooManyPipes { .. }) => sleep(GLANCE).await,
                    Err(OpenError::Session(error)) => {
                        pair.ended(session.side(), &error);
                        break 'open;
                    }
                    Err(other) => panic!("{other}"),
                }
            };
            self.world.trace.note(format_args!(
                "{:?} of {}: opens {}, directions {:?}",
                session.side(),
                session.id(),
                pipe.id(),
                plan.keys()
            ));
            playing.spawn(plan.play(pipe, true, self.world.ledger.clone(), process.clone()));
            sleep(Duration::from_millis(dice.pick(0..rests))).await;
        }
        while let Some(ended) = playing.join_next().await {
            check_end(pair, session.side(), ended.expect("no panic at a pipe"));
        }
    }
}

/// What a pipe's user was told of the session's end.
fn check_end(pair: &Pair, side: Side, ended: Option<SessionError>) {
    ended.iter().for_each(|error| pair.ended(side, error));
}

/// How a session is to end.
#[derive(Clone, Copy, Debug)]
enum Goodbye {
    /// One side closes it gracefully.
    Shutdown(Side),
    BothShutDown,
    Close(Side, CloseCode),
    /// One side drops everything.
    Abandon(Side),
    /// One side closes it while pipes are in use.
    CloseEarly(Side, CloseCode, Duration),
}

impl Goodbye {
    fn draw(dice: &mut Dice) -> Self {
        let side = dice.choose(&[Side::Client, Side::Server]);
        let code = CloseCode::application(dice.pick(1..1000) as u16);
        match dice.pick(0..12) {
            0 => Self::CloseEarly(side, code, dice.pick_millis(10..30_000)),
            1 => Self::Abandon(side),
            2 | 3 => Self::Close(side, code),
            4 | 5 => Self::BothShutDown,
            _ => Self::Shutdown(side),
        }
    }

    /// Ends the session, or waits until the other side does. What this side is
    /// told, if anybody is left to be told.
    async fn say(self, session: Session, pair: &Pair) -> Option<SessionError> {
        let side = session.side();
        match self {
            Self::Shutdown(by) if by != side => {}
            Self::Shutdown(_) | Self::BothShutDown => {
                pair.may_end(Cause::Shutdown(side));
                // Says how it went too.
                let _ = session.shutdown().await;
            }
            Self::Close(by, code) | Self::CloseEarly(by, code, _) if by == side => {
                pair.may_end(Cause::Closed(side, code));
                session.close(code, b"");
                return Some(soon(&session).await);
            }
            Self::Abandon(by) if by == side => {
                pair.may_end(Cause::Abandoned(side));
                pair.forget(side);
                return None;
            }
            _ => {}
        }
        // A goodbye that cannot reach us leaves us to the linger time, or to the
        // server's own end.
        Some(over(&session).await)
    }

    /// Ends the session in the middle of everything, if that is its fate, and
    /// waits for ever.
    async fn interrupt(self, session: &Session, pair: &Pair) {
        if let Self::CloseEarly(by, code, at) = self
            && by == session.side()
        {
            sleep(at).await;
            pair.may_end(Cause::Closed(by, code));
            session.close(code, b"");
        }
        std::future::pending().await
    }
}

/// The end of a session, which gives all memory back.
async fn over(session: &Session) -> SessionError {
    let error = session.closed().await;
    assert_eq!(session.stats().bytes_kept, 0, "kept after the end: {error}");
    error
}

/// The end of a session that is about to end.
async fn soon(session: &Session) -> SessionError {
    timeout(ENDS, over(session)).await.expect("a session that has ended is through with it")
}
