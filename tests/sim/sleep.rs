//! Machines that sleep: that nobody tells us, that the time counts all the same, and how
//! soon bytes flow afterwards.

use std::time::Duration;

use evermux::{
    BackedPipe, CloseCode, LinkState, ReconnectPolicy, Server, Session, SessionConfig,
    SessionError, SessionEvent,
};
use tokio::time::{Instant, sleep, timeout};

use crate::network::{BOTH_WAYS, Conditions, Gate};
use crate::world::{self, World};

const ROUND_TRIP: Duration = Duration::from_millis(50);

/// How often a client looks whether it has slept, by default.
const LOOK: Duration = Duration::from_secs(2);

const HOUR: Duration = Duration::from_secs(3600);

/// Both sides of a session; the server lingers for an hour, the client gives up after
/// two, and waits for long between its attempts.
struct Pair {
    world: World,
    ours: Session,
    theirs: Session,
    _server: Server,
}

impl Pair {
    async fn new(world: &World) -> Self {
        let road = Conditions { latency: ROUND_TRIP / 2, ..Conditions::default() };
        world.network.pave(1, road, road);
        let server = world.server(SessionConfig::default(), |config| {
            config.linger(HOUR);
        });
        let client = world.client(1, SessionConfig::default(), |config| {
            let policy = ReconnectPolicy::exponential(HOUR / 60, HOUR / 60);
            config.reconnect(policy.give_up_after(2 * HOUR));
        });
        let (ours, theirs) = world.session(&client, &server).await;
        Self { world: world.clone(), ours, theirs, _server: server }
    }

    async fn pipe(&self) -> (BackedPipe, BackedPipe) {
        let ours = self.ours.open_pipe("").expect("the first");
        let theirs = self.theirs.accept_pipe().await.expect("it comes").expect("a pipe");
        // Nobody has used it for a while.
        sleep(Duration::from_secs(60)).await;
        (ours, theirs)
    }

    fn set_gates(&self, gate: Gate) {
        BOTH_WAYS.into_iter().for_each(|way| self.world.network.set_gate(1, way, gate));
    }

    /// Nothing gets through until both sides have given their connection up.
    async fn part(&self) {
        self.set_gates(Gate::Closed);
        let parted = || [&self.ours, &self.theirs].iter().all(|side| !side.link().is_attached());
        while !parted() {
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn end(self) {
        self.ours.close(CloseCode::DONE, b"");
        tokio::join!(self.ours.closed(), self.theirs.closed());
    }
}

/// Plays twice, in the same world, which takes the same course.
fn play<F: Future<Output = ()>>(play: impl Fn(World) -> F) {
    let courses = [(); 2].map(|()| {
        let outcome = world::run(0, false, &play);
        outcome.result.expect("it ends well");
        outcome.hash
    });
    assert_eq!(courses[0], courses[1]);
}

/// How long until what the server writes now is read; the client itself says nothing.
async fn first_byte(ours: &mut BackedPipe, theirs: &mut BackedPipe) -> Duration {
    let woke = Instant::now();
    theirs.writer().write_all(b"while you were away").await.expect("room for it");
    timeout(2 * HOUR, ours.reader().read(&mut [0; 100])).await.expect("it comes").expect("bytes");
    woke.elapsed()
}

#[test]
fn after_a_sleep_in_which_the_nat_forgot_the_server_reaches_the_client_within_seconds() {
    // Time stands still, as it does on Linux and macOS, or jumps, as on Windows.
    for jumps in [false, true] {
        play(|world| async move {
            let pair = Pair::new(&world).await;
            let (mut ours, mut theirs) = pair.pipe().await;
            let asleep = Duration::from_secs(20);
            world.network.renumber(1, false);
            if jumps {
                tokio::time::advance(asleep).await;
            } else {
                world.network.fall_asleep(asleep);
            }
            let took = first_byte(&mut ours, &mut theirs).await;
            let bar = LOOK + 2 * ROUND_TRIP + Duration::from_millis(50);
            assert!(took <= bar, "clocks jump: {jumps}, after {took:?}");
            assert_eq!(pair.ours.stats().resumes, 0, "it was the same connection");
            drop((ours, theirs));
            pair.end().await;
        });
    }
}

#[test]
fn a_short_nap_is_none() {
    play(|world| async move {
        let pair = Pair::new(&world).await;
        let held = pair.pipe().await;
        let mut events = pair.ours.events();
        for _ in 0..10 {
            world.network.fall_asleep(Duration::from_secs(2));
            sleep(Duration::from_secs(10)).await;
        }
        assert!(timeout(Duration::ZERO, events.next()).await.is_err(), "somebody worried");
        drop(held);
        pair.end().await;
    });
}

#[test]
fn who_wakes_without_a_connection_tries_at_once_and_counts_the_time_asleep() {
    play(|world| async move {
        let pair = Pair::new(&world).await;
        let (mut ours, mut theirs) = pair.pipe().await;
        let mut events = pair.ours.events();
        pair.part().await;
        // Attempts are a minute apart by now.
        sleep(Duration::from_secs(300)).await;
        let asleep = HOUR / 2;
        world.network.fall_asleep(asleep);
        pair.set_gates(Gate::Open);
        let took = first_byte(&mut ours, &mut theirs).await;
        // An attempt under way goes on for up to a second.
        let bar = LOOK + Duration::from_secs(1) + 4 * ROUND_TRIP;
        assert!(took <= bar, "{took:?}");
        let downtime = loop {
            match events.next().await.expect("the session lives") {
                SessionEvent::Resumed { downtime, .. } => break downtime,
                _ => continue,
            }
        };
        let away = Duration::from_secs(300)..Duration::from_secs(600);
        assert!(away.contains(&(downtime - asleep)), "{downtime:?}");
        assert_eq!(pair.ours.stats().downtime, downtime);
        drop((ours, theirs));
        pair.end().await;
    });
}

#[test]
fn who_wakes_after_the_outage_limit_tries_once_more_and_gives_up() {
    // At some of these moments an attempt is under way.
    let moments = (0..40).step_by(3).map(Duration::from_secs);
    for (asleep, moment) in moments.map(|moment| (3 * HOUR, moment)).chain([(HOUR, LOOK)]) {
        play(|world| async move {
            let pair = Pair::new(&world).await;
            let held = pair.pipe().await;
            pair.part().await;
            sleep(moment).await;
            world.network.fall_asleep(asleep);
            let woke = Instant::now();
            let mut events = pair.ours.events();
            let error = pair.ours.closed().await;
            let SessionError::GaveUp { outage, .. } = error else { panic!("{error:?}") };
            assert!(outage >= 2 * HOUR, "{outage:?}");
            if asleep > 2 * HOUR {
                // An attempt takes five seconds here.
                assert!(woke.elapsed() <= LOOK + Duration::from_secs(10), "{:?}", woke.elapsed());
            } else {
                assert!(woke.elapsed() > HOUR / 2, "{:?}", woke.elapsed());
            }
            let mut attempts = 0;
            while let Ok(Some(event)) = timeout(Duration::ZERO, events.next()).await {
                attempts += u32::from(matches!(event, SessionEvent::Resuming { .. }));
            }
            assert!(attempts > 0, "it has not even tried");
            pair.theirs.closed().await;
            drop(held);
        });
    }
}

#[test]
fn a_server_that_slept_counts_it_as_linger_time() {
    // (asleep, whether the session is over soon)
    for (asleep, over) in [(HOUR / 3, false), (HOUR, true)] {
        play(|world| async move {
            let pair = Pair::new(&world).await;
            let held = pair.pipe().await;
            pair.part().await;
            let began = Instant::now();
            world.network.fall_asleep(asleep);
            let ended = timeout(Duration::from_secs(61), pair.theirs.closed()).await;
            assert_eq!(ended.is_ok(), over, "{asleep:?} asleep: {ended:?}");
            if !over {
                assert!(matches!(pair.theirs.link(), LinkState::Detached { .. }));
            }
            let error = pair.theirs.closed().await;
            assert_eq!(error, SessionError::Expired { linger: HOUR });
            let lingered = began.elapsed() + asleep;
            let minute = Duration::from_secs(60);
            assert!((HOUR - minute..HOUR + 2 * minute).contains(&lingered), "{lingered:?}");
            pair.ours.close(CloseCode::DONE, b"");
            pair.ours.closed().await;
            drop(held);
        });
    }
}
