//! What takes how long, and costs how much, on a road where nothing goes wrong.

use std::time::Duration;

use evermux::{
    BackedPipe, ClientConfig, CloseCode, Events, LinkState, ReconnectPolicy, Session,
    SessionConfig, SessionError, SessionEvent,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::network::{BOTH_WAYS, Conditions, Gate};
use crate::world::{self, World};

const LATENCY: Duration = Duration::from_millis(20);

const HOUR: Duration = Duration::from_secs(3600);

/// Both sides of a session with default settings.
struct Pair {
    ours: Session,
    theirs: Session,
}

impl Pair {
    async fn new(world: &World) -> Self {
        Self::with(world, SessionConfig::default()).await
    }

    async fn with(world: &World, config: SessionConfig) -> Self {
        let road = Conditions { latency: LATENCY, ..Conditions::default() };
        world.network.pave(1, road, road);
        let server = world.server(config.clone(), |_| {});
        let client = world.client(1, config, |_| {});
        let (ours, theirs) = world.session(&client, &server).await;
        Self { ours, theirs }
    }

    async fn pipe(&self) -> (BackedPipe, BackedPipe) {
        let ours = self.ours.open_pipe("").expect("the first");
        let theirs = self.theirs.accept_pipe().await.expect("it comes").expect("a pipe");
        (ours, theirs)
    }

    async fn end(self) {
        self.ours.close(CloseCode::DONE, b"");
        tokio::join!(self.ours.closed(), self.theirs.closed());
    }
}

/// Plays once, in the same world every time.
fn play<F: Future<Output = ()>>(play: impl FnOnce(World) -> F) {
    world::run(0, false, play).result.expect("it ends well");
}

#[test]
fn what_was_read_is_acknowledged_within_the_delay_of_acks_in_both_directions() {
    play(|world| async move {
        let pair = Pair::new(&world).await;
        let (mut ours, mut theirs) = pair.pipe().await;
        // Not in the middle of the first probe.
        sleep(Duration::from_secs(1)).await;
        for up in [true, false] {
            let (from, to) = if up { (&mut ours, &mut theirs) } else { (&mut theirs, &mut ours) };
            from.writer().write_all(b"a few bytes").await.unwrap();
            to.reader().read(&mut [0; 100]).await.unwrap();
            let read_at = Instant::now();
            from.writer().wait_acked(11).await.unwrap();
            let took = read_at.elapsed();
            // They wait 25 ms for company.
            assert!(took >= LATENCY + Duration::from_millis(24), "{took:?}");
            assert!(took <= LATENCY + Duration::from_millis(30), "{took:?}");
        }
        drop((ours, theirs));
        pair.end().await;
    });
}

/// What an hour of doing nothing costs, on the wire: 28 bytes of each datagram are
/// headers of IP and UDP.
#[test]
fn an_idle_link_costs_less_than_60_kb_an_hour() {
    for pipes in [0, 3] {
        play(|world| async move {
            let pair = Pair::new(&world).await;
            let mut held = Vec::new();
            for _ in 0..pipes {
                held.push(pair.pipe().await);
            }
            sleep(Duration::from_secs(60)).await;
            let cost = || world.network.bytes() + 28 * world.network.counts().0;
            let before = cost();
            sleep(Duration::from_secs(3600)).await;
            let cost = cost() - before;
            println!("{pipes} idle pipes: {cost} bytes an hour");
            assert!((10_000..60_000).contains(&cost), "{pipes} pipes: {cost} bytes");
            drop(held);
            pair.end().await;
        });
    }
}

/// Waits for the link to be as `so` says, and says how long that took.
async fn until(session: &Session, so: impl Fn(&LinkState) -> bool) -> Duration {
    let begun = Instant::now();
    timeout(Duration::from_secs(1000), async {
        while !so(&session.link()) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never so: {session:?}"));
    begun.elapsed()
}

#[test]
fn without_keep_alive_nothing_is_sent_for_an_hour_and_then_bytes_flow_at_once() {
    for pipes in [0, 3] {
        play(|world| async move {
            let mut config = SessionConfig::default();
            config.probe_interval(None).idle_timeout(Duration::from_secs(24 * 3600));
            let pair = Pair::with(&world, config).await;
            let mut held = Vec::new();
            for _ in 0..pipes {
                let (mut ours, mut theirs) = pair.pipe().await;
                ours.writer().write_all(b"traffic").await.unwrap();
                theirs.reader().read(&mut [0; 100]).await.unwrap();
                held.push((ours, theirs));
            }
            sleep(Duration::from_secs(60)).await;
            let before = world.network.counts();
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(world.network.counts(), before, "{pipes} pipes");
            for (ours, theirs) in &mut held {
                for up in [true, false] {
                    let (from, to) =
                        if up { (&mut *ours, &mut *theirs) } else { (&mut *theirs, &mut *ours) };
                    let began = Instant::now();
                    from.writer().write_all(b"traffic").await.unwrap();
                    to.reader().read(&mut [0; 100]).await.unwrap();
                    assert!(began.elapsed() <= 2 * LATENCY, "{:?}", began.elapsed());
                }
            }
            assert_eq!((pair.ours.stats().resumes, pair.theirs.stats().resumes), (0, 0));
            drop(held);
            pair.end().await;
        });
    }
}

#[test]
fn a_silence_after_hours_without_keep_alive_is_noticed_as_any_other() {
    play(|world| async move {
        let mut config = SessionConfig::default();
        config.probe_interval(None).idle_timeout(Duration::from_secs(24 * 3600));
        let pair = Pair::with(&world, config).await;
        let (mut ours, theirs) = pair.pipe().await;
        sleep(Duration::from_secs(3600)).await;
        close_road(&world);
        ours.writer().write_all(b"traffic").await.unwrap();
        let took = until(&pair.ours, is_suspect).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, Gate::Open));
        drop((ours, theirs));
        pair.end().await;
    });
}

/// When a side last had contact, by what it tells in two places.
fn last_contact(session: &Session) -> Instant {
    let told = match session.link() {
        LinkState::Attached { last_contact, .. }
        | LinkState::Suspect { last_contact, .. }
        | LinkState::Detached { last_contact, .. } => last_contact,
        link => panic!("{link:?}"),
    };
    assert_eq!(session.stats().last_contact, told);
    told.into()
}

#[test]
fn the_last_contact_is_told_in_every_state_on_both_sides() {
    play(|world| async move {
        let road = Conditions { latency: LATENCY, ..Conditions::default() };
        world.network.pave(1, road, road);
        let server = world.server(SessionConfig::default(), |_| {});
        let client = world.client(1, SessionConfig::default(), |_| {});
        let (ours, theirs) = world.session(&client, &server).await;
        let pair = Pair { ours, theirs };
        let (mut ours, mut theirs) = pair.pipe().await;
        // Idle: as old as the last probe.
        sleep(Duration::from_secs(60)).await;
        for _ in 0..10 {
            sleep(Duration::from_millis(3_700)).await;
            for side in [&pair.ours, &pair.theirs] {
                assert!(last_contact(side).elapsed() <= Duration::from_secs(16));
            }
        }
        // In use.
        for _ in 0..20 {
            ours.writer().write_all(b"traffic").await.unwrap();
            theirs.reader().read(&mut [0; 100]).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        let at_most = Duration::from_millis(200);
        assert!(last_contact(&pair.ours).elapsed() <= at_most);
        assert!(last_contact(&pair.theirs).elapsed() <= at_most);
        // Away.
        let away = Instant::now();
        close_road(&world);
        ours.writer().write_all(b"traffic").await.unwrap();
        let near = |told: Instant| away - at_most <= told && told <= away + 2 * LATENCY;
        until(&pair.ours, is_suspect).await;
        let suspect = last_contact(&pair.ours);
        assert!(near(suspect) && near(last_contact(&pair.theirs)));
        for side in [&pair.ours, &pair.theirs] {
            until(side, |link| matches!(link, LinkState::Detached { .. })).await;
            assert!(near(last_contact(side)));
        }
        assert_eq!(last_contact(&pair.ours), suspect);
        let downtime = pair.ours.stats().downtime;
        assert_eq!(downtime, suspect.elapsed());
        // And back.
        BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, Gate::Open));
        until(&pair.ours, |link| matches!(link, LinkState::Attached { .. })).await;
        for side in [&pair.ours, &pair.theirs] {
            assert!(last_contact(side).elapsed() <= Duration::from_secs(1));
        }
        drop((ours, theirs));
        pair.end().await;
    });
}

/// Dials of a session that has nothing else left: what an outage without end costs.
#[test]
fn an_endless_outage_costs_less_and_less() {
    let mut rare = SessionConfig::default();
    rare.kick_interval(Duration::from_millis(500));
    let battery = |config: &mut ClientConfig| {
        let policy = ReconnectPolicy::exponential(Duration::from_secs(5), HOUR / 12);
        let (attempt, dials) = (Duration::from_secs(5), Duration::from_secs(5));
        config.reconnect(policy).attempt_timeout(attempt).dial_interval(dials);
    };
    let default = |config: &mut ClientConfig| {
        config.reconnect(ReconnectPolicy::default()).attempt_timeout(Duration::from_secs(10));
    };
    type Change = fn(&mut ClientConfig);
    for (name, session, change, bytes_at_last) in [
        ("default", SessionConfig::default(), default as Change, 3_000),
        ("battery", rare, battery, 200),
    ] {
        play(|world| async move {
            let road = Conditions { latency: LATENCY, ..Conditions::default() };
            world.network.pave(1, road, road);
            let server = world.server(SessionConfig::default(), |_| {});
            let client = world.client(1, session, change);
            let (ours, theirs) = world.session(&client, &server).await;
            let mut pipe = ours.open_pipe("").expect("the first");
            sleep(Duration::from_secs(60)).await;
            let cost = || (world.network.counts().0, world.network.bytes());
            close_road(&world);
            pipe.writer().write_all(b"traffic").await.unwrap();
            let (mut from, mut before) = (0, cost());
            let mut rates = Vec::new();
            for until in [10, 120, 600, 3600, 4 * 3600] {
                sleep(Duration::from_secs(until - from)).await;
                let (now, seconds) = (cost(), (until - from) as f64);
                let packets = (now.0 - before.0) as f64 / seconds;
                // Headers of IP and UDP included.
                let bytes = (now.1 - before.1) as f64 / seconds + 28.0 * packets;
                println!("{name}: up to {until} s {packets:.2} packets, {bytes:.0} bytes a second");
                rates.push(bytes);
                (from, before) = (until, now);
            }
            // Pauses are drawn: at last the rate stays what it is, but for chance.
            assert!(rates.is_sorted_by(|a, b| *a >= 0.7 * *b), "{name}: {rates:?}");
            assert!(rates.last() < Some(&f64::from(bytes_at_last)), "{name}: {rates:?}");
            drop(pipe);
            ours.close(CloseCode::DONE, b"");
            theirs.close(CloseCode::DONE, b"");
            tokio::join!(ours.closed(), theirs.closed());
        });
    }
}

/// How often a side was told, so far, that the connection has moved.
async fn moves(events: &mut Events) -> usize {
    let mut moves = 0;
    while let Ok(Some(event)) = timeout(Duration::ZERO, events.next()).await {
        match event {
            SessionEvent::Migrated { .. } => moves += 1,
            SessionEvent::Suspect { .. } | SessionEvent::Recovered { .. } => {}
            event => panic!("the connection has not only moved: {event:?}"),
        }
    }
    moves
}

/// The next probe finds out, and the server's tells the client.
#[test]
fn another_address_of_an_idle_client_is_told_once_on_each_side_at_the_next_probe() {
    play(|world| async move {
        let pair = Pair::new(&world).await;
        let held = pair.pipe().await;
        let mut told = [pair.ours.events(), pair.theirs.events()];
        for keep_old in [false, true, false] {
            sleep(Duration::from_secs(60)).await;
            world.network.renumber(1, keep_old);
            sleep(Duration::from_secs(16)).await;
            for events in &mut told {
                assert_eq!(moves(events).await, 1, "the old one still works: {keep_old}");
            }
        }
        assert!(matches!(pair.ours.link(), LinkState::Attached { .. }));
        drop(held);
        pair.end().await;
    });
}

#[test]
fn a_nat_that_changes_its_mind_all_the_time_is_asked_about_ten_times_a_second() {
    play(|world| async move {
        let pair = Pair::new(&world).await;
        let (mut ours, mut theirs) = pair.pipe().await;
        let reading = tokio::spawn(async move {
            while theirs.reader().read_chunk(100).await.is_ok_and(|chunk| chunk.is_some()) {}
        });
        let mut told = [pair.ours.events(), pair.theirs.events()];
        let mut counts = [0; 2];
        let (seconds, each) = (5, Duration::from_millis(10));
        for _ in 0..seconds * 100 {
            ours.writer().write_all(b"a key").await.unwrap();
            world.network.renumber(1, true);
            sleep(each).await;
            for (events, count) in told.iter_mut().zip(&mut counts) {
                *count += moves(events).await;
            }
        }
        assert!(
            counts.iter().all(|told| (9 * seconds..=10 * seconds + 1).contains(told)),
            "{counts:?}"
        );
        drop(ours);
        reading.await.unwrap();
        pair.end().await;
    });
}

fn is_suspect(link: &LinkState) -> bool {
    matches!(link, LinkState::Suspect { .. })
}

fn close_road(world: &World) {
    BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, Gate::Closed));
}

#[test]
fn an_outage_is_suspected_within_a_second_in_use_and_at_the_next_probe_otherwise() {
    for (idle, least, most) in [(0, 500, 1_000), (3, 500, 2_000), (60, 500, 16_000)] {
        play(|world| async move {
            let pair = Pair::new(&world).await;
            let (mut ours, theirs) = pair.pipe().await;
            // It falls asleep first, if it can.
            sleep(Duration::from_secs(60)).await;
            ours.writer().write_all(b"traffic").await.unwrap();
            sleep(Duration::from_millis(10) + Duration::from_secs(idle)).await;
            close_road(&world);
            let took = until(&pair.ours, is_suspect).await.as_millis();
            assert!((least..=most).contains(&took), "idle for {idle} s: after {took} ms");
            drop((ours, theirs));
            pair.end().await;
        });
    }
}

#[test]
fn a_moment_of_silence_is_nothing_to_worry_about() {
    play(|world| async move {
        let pair = Pair::new(&world).await;
        let (mut ours, theirs) = pair.pipe().await;
        let mut events = pair.ours.events();
        for _ in 0..30 {
            ours.writer().write_all(b"traffic").await.unwrap();
            BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, Gate::Holding));
            sleep(Duration::from_millis(250)).await;
            BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, Gate::Open));
            sleep(Duration::from_millis(730)).await;
        }
        assert!(timeout(Duration::ZERO, events.next()).await.is_err(), "somebody worried");
        drop((ours, theirs));
        pair.end().await;
    });
}

#[test]
fn without_reconnecting_a_silence_ends_nothing_and_a_lost_connection_all() {
    play(|world| async move {
        let road = Conditions { latency: LATENCY, ..Conditions::default() };
        world.network.pave(1, road, road);
        let server = world.server(SessionConfig::default(), |_| {});
        let client = world.client(1, SessionConfig::default(), |config| {
            config.reconnect(ReconnectPolicy::never());
        });
        let (ours, _theirs) = world.session(&client, &server).await;
        let mut pipe = ours.open_pipe("").expect("the first");
        for lasting in [10, 60] {
            sleep(Duration::from_secs(1)).await;
            pipe.writer().write_all(b"traffic").await.unwrap();
            close_road(&world);
            sleep(Duration::from_secs(lasting)).await;
            assert!(is_suspect(&ours.link()));
            BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, Gate::Open));
            until(&ours, |link| matches!(link, LinkState::Attached { .. })).await;
        }
        // That is no reconnecting: there is a connection all the time.
        ours.handover().await.expect("the server is there");
        close_road(&world);
        let error = ours.closed().await;
        assert!(matches!(error, SessionError::GaveUp { .. }), "{error:?}");
        assert_eq!(ours.stats().resumes, 1);
    });
}

/// Kicks and dials: often at first, then seldom; at last the connection is given up.
#[test]
fn a_suspect_link_sends_less_and_less() {
    play(|world| async move {
        let mut config = SessionConfig::default();
        config.idle_timeout(Duration::from_secs(400)).probe_timeout(Duration::from_secs(300));
        let pair = Pair::with(&world, config).await;
        let (mut ours, theirs) = pair.pipe().await;
        sleep(Duration::from_secs(1)).await;
        close_road(&world);
        let last_contact = Instant::now();
        ours.writer().write_all(b"traffic").await.unwrap();
        until(&pair.ours, is_suspect).await;
        // (until so many seconds, datagrams a second)
        for (until, least, most) in [(10, 90, 150), (120, 45, 65), (299, 2, 8)] {
            let (from, before) = (last_contact.elapsed().as_secs_f64(), world.network.counts().0);
            sleep_until(last_contact + Duration::from_secs(until)).await;
            let sent = (world.network.counts().0 - before) as f64;
            let rate = sent / (last_contact.elapsed().as_secs_f64() - from);
            assert!(
                (least as f64..most as f64).contains(&rate),
                "up to {until} s: {rate} a second"
            );
        }
        until(&pair.ours, |link| matches!(link, LinkState::Detached { .. })).await;
        let lasted = last_contact.elapsed().as_secs_f64();
        assert!((299.9..302.0).contains(&lasted), "given up after {lasted} s");
        drop((ours, theirs));
        pair.end().await;
    });
}

#[test]
fn a_farewell_that_nobody_hears_takes_a_moment_and_a_graceful_one_some() {
    for (graceful, least, most) in [(false, 900, 2_100), (true, 4_900, 6_500)] {
        play(|world| async move {
            let pair = Pair::new(&world).await;
            sleep(Duration::from_secs(1)).await;
            close_road(&world);
            let begun = Instant::now();
            if graceful {
                pair.ours.shutdown().await.expect("there was nothing to lose");
            } else {
                pair.ours.close(CloseCode::DONE, b"");
                pair.ours.closed().await;
            }
            let took = begun.elapsed().as_millis();
            assert!((least..most).contains(&took), "graceful: {graceful}, after {took} ms");
        });
    }
}
