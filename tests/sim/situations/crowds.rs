//! Many at once: 11 and 19.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evermux::{Client, ConnectError, Events, Limits, Session, SessionEvent, Side};
use tokio::join;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::actors::End;
use super::stage::{INSTANT, SIDES, Stage, at_every_moment};
use crate::network::{BOTH_WAYS, Conditions, Gate, SERVER};
use crate::seeds;
use crate::world::{self, World};

/// Pipes of one opener, and how many streams its peer allows at once at first.
const PIPES: u64 = 1000;
const STREAMS: u64 = 100;

/// So many bytes in each direction of each pipe, before the drop and after.
const BYTES: u64 = 100;

/// From a drop until everything was read: 2.5 s until it is noticed, and no
/// attempt that fails; what is left are round trips of 40 ms, in each of which a
/// hundred streams more are allowed.
const BACK: Duration = Duration::from_secs(4);

/// For an attempt that the drop itself has cut off.
const ATTEMPT: Duration = Duration::from_secs(5);

#[test]
fn situation_11_a_thousand_pipes_come_back_where_a_hundred_streams_are_allowed() {
    for (opener, again) in SIDES.into_iter().flat_map(|side| [(side, false), (side, true)]) {
        let kinds = ["before the resume", "few are through", "most are through"];
        let kinds = if again { &kinds[..] } else { &kinds[1..] };
        let case = format!("pipes of the {opener:?}'s, dropped again: {again}");
        at_every_moment(&case, (0..).step_by(17), kinds, |world, moment| async move {
            let mut config = world::quick();
            config.initial_streams(STREAMS).max_pipes(PIPES);
            let stage = Stage::with(&world, config, |_| {}).await;
            // To look at all of them at each datagram is most of the cost; what
            // they carry is looked at all the same.
            SIDES.iter().for_each(|side| stage.pair.forget(*side));
            let ends = half_read_pipes(&stage, opener).await;
            let before = world.ledger.totals().delivered;
            if again {
                stage.cut().await;
            }
            let acts = async {
                let mut exchanges = JoinSet::new();
                for mut end in ends {
                    exchanges.spawn(async move {
                        end.writer.write(BYTES).await.unwrap();
                        end.reader.read_to(2 * BYTES).await.unwrap();
                        end
                    });
                }
                // None ends before: QUIC allows a new stream for each that does.
                let mut ends = exchanges.join_all().await;
                ends.iter_mut().for_each(|end| end.writer.finish());
                for end in &mut ends {
                    end.reader.read_to_end().await.unwrap();
                }
            };
            let strike = async {
                let more = world.ledger.totals().delivered - before;
                let kind = match stage.resumes() {
                    0 if again => "before the resume",
                    _ if more < 2 * PIPES * BYTES => "few are through",
                    _ => "most are through",
                };
                stage.cut().await;
                (Instant::now(), kind)
            };
            let ((), struck) = stage.during(moment, acts, strike).await;
            let totals = world.ledger.totals();
            assert_eq!((totals.ends, totals.delivered), (2 * PIPES, 4 * PIPES * BYTES));
            if let Some((at, _)) = struck {
                let most = if again { BACK + ATTEMPT } else { BACK };
                assert!(at.elapsed() < most, "{:?} after the drop", at.elapsed());
            }
            let drops = u64::from(again) + u64::from(struck.is_some());
            assert!(stage.resumes() <= drops, "a link that was good was given up");
            stage.end().await;
            struck.map(|(_, kind)| kind)
        });
    }
}

/// Both ends of each pipe: some have read nothing, some a part, some all.
async fn half_read_pipes(stage: &Stage, opener: Side) -> Vec<End> {
    let mut ends: Vec<_> = (0..PIPES).map(|_| stage.open(opener)).collect();
    for end in &mut ends {
        end.writer.write(BYTES).await.unwrap();
    }
    for _ in 0..PIPES {
        let mut end = stage.accept(opener.peer()).await;
        end.writer.write(BYTES).await.unwrap();
        ends.push(end);
    }
    for (number, end) in (0..).zip(&mut ends) {
        end.reader.read_to(number % 3 * BYTES / 2).await.unwrap();
    }
    ends
}

/// Sessions, if nobody asks for more: `EVERMUX_SIM_CROWD`.
const CROWD: u64 = 60;

/// Hosts that the crowd lives on, each behind a NAT; the newcomers have another.
const HOSTS: u64 = 200;
const NEWCOMERS: u8 = 201;

const OUTAGE: Duration = Duration::from_secs(30);

/// From the end of the outage until the crowd is attached, and so is every newcomer
/// if they are not many more.
const SERVED: Duration = Duration::from_secs(5);

/// So many newcomers for each who comes back are many.
const MANY: u64 = 8;

/// Who is not served within this time never will be.
const EVER: Duration = Duration::from_secs(60);

/// Within so long of each other no more than half of the crowd begin an attempt,
/// or are back.
const AT_ONCE: Duration = Duration::from_millis(100);

/// From this attempt on jitter has drawn apart those who lost the link at once:
/// its last delay is up to 400 ms.
const DRAWN_APART: u32 = 6;

/// What everybody writes, and how much of it the server may keep for each
/// beyond the pipe's own share of 64 KiB: less than they want.
const WRITTEN: u64 = 96 << 10;
const SHARED: u64 = 16 << 10;

#[test]
fn situation_19_a_crowd_that_comes_back_at_once_is_served_and_so_are_newcomers() {
    let crowd = seeds::from_env("EVERMUX_SIM_CROWD").unwrap_or(CROWD);
    let case = format!("a crowd of {crowd}");
    at_every_moment(&case, 0..1, &["served"], |world, _| async move {
        let took = come_back(&world, crowd, crowd / 2).await;
        assert!(took.all < SERVED, "all served after {:?}", took.all);
        Some("served")
    });
}

#[test]
fn situation_19_a_crowd_that_comes_back_is_not_kept_out_by_many_more_newcomers() {
    let crowd = seeds::from_env("EVERMUX_SIM_CROWD").unwrap_or(CROWD);
    let case = format!("a crowd of {crowd} among {MANY} times as many newcomers");
    at_every_moment(&case, 0..1, &["served"], |world, _| async move {
        let took = come_back(&world, crowd, MANY * crowd).await;
        assert!(took.back < SERVED, "back after {:?}", took.back);
        Some("served")
    });
}

/// From the end of the outage on.
#[derive(Debug)]
struct Took {
    /// Until the crowd was back.
    back: Duration,
    /// Until every newcomer was served too.
    all: Duration,
}

/// A crowd loses its server in one instant, for a while, and comes back together with
/// newcomers: a quarter of the crowd is let in at a time.
async fn come_back(world: &World, crowd: u64, newcomers: u64) -> Took {
    let budget = crowd * SHARED;
    let mut limits = Limits::default();
    // Places for just those who come.
    limits
        .max_handshakes((crowd / 4) as u32)
        .max_sessions((crowd + newcomers) as u32)
        .replay_budget(budget);
    let server = world.server(world::quick(), |config| {
        config.limits(limits);
    });
    world.watch.add_server(&server, budget);
    let seen = Arc::<Mutex<Seen>>::default();
    let (mut sessions, mut ends, mut tasks) = (Vec::new(), Vec::new(), JoinSet::new());
    for number in 0..crowd {
        let client = client(world, (1 + number % HOSTS) as u8);
        let (ours, theirs) = world.session(&client, &server).await;
        let one = ours.open_pipe("").expect("room for a pipe");
        let two = theirs.accept_pipe().await.expect("a live session").expect("a pipe");
        for (session, pipe) in [(&ours, one), (&theirs, two)] {
            ends.push(End::new(pipe, session.id(), session.side(), &world.ledger));
        }
        tasks.spawn(see(ours.events(), seen.clone()));
        sessions.push((client, ours, theirs));
    }

    set_gates(world, crowd, Gate::Closed);
    for mut end in ends {
        tasks.spawn(async move { end.exchange(WRITTEN).await });
    }
    // All are told at once: nothing but jitter draws them apart.
    for (_, ours, _) in &sessions {
        let ours = ours.clone();
        tasks.spawn(async move { ours.reconnect().await.map(drop).expect("a live session") });
    }
    sleep(OUTAGE).await;
    let shared = server.stats().bytes_shared;
    assert_eq!(shared, budget, "the crowd does not want all of it");
    set_gates(world, crowd, Gate::Open);

    let open = Instant::now();
    let latecomers: JoinSet<_> =
        (0..newcomers).map(|number| newcomer(world.clone(), number)).collect();
    let all_served = async {
        let accept_all = async {
            let mut accepted = Vec::new();
            for _ in 0..newcomers {
                accepted.push(server.accept().await.expect("the server listens").accept());
            }
            accepted
        };
        let all_back = async {
            for (_, ours, theirs) in &sessions {
                while !ours.link().is_attached() || theirs.stats().resumes == 0 {
                    sleep(INSTANT).await;
                }
            }
            open.elapsed()
        };
        join!(accept_all, latecomers.join_all(), all_back)
    };
    let all_served = timeout(EVER, all_served).await;
    let (_theirs, latecomers, back) = all_served.expect("everybody is served");
    let took = Took { back, all: open.elapsed() };
    println!("{crowd} of old and {newcomers} new: {took:?}");
    {
        let seen = seen.lock().unwrap();
        let back = most_at_once(&seen.resumed);
        let numbers = seen.attempts.range(DRAWN_APART..);
        let begun = numbers.map(|(_, times)| most_at_once(times)).max().unwrap_or_default();
        println!("at once, at most: {begun} attempts, {back} back");
        assert!(begun as u64 <= crowd / 2, "{begun} of {crowd} attempts at once");
        assert!(back as u64 <= crowd / 2, "{back} of {crowd} back at once");
    }

    let ours = sessions.iter().map(|(_, ours, _)| ours.clone());
    for session in ours.chain(latecomers) {
        // Waits until what is owed was read.
        tasks.spawn(async move { session.shutdown().await.expect("nothing is owed") });
    }
    tasks.join_all().await;
    assert_eq!(world.ledger.totals().ends, 2 * crowd);
    assert_eq!(server.stats().bytes_shared, 0);
    world.watch.forget_servers();
    server.shutdown(Duration::from_secs(5)).await;
    took
}

/// When each began an attempt, by its number, and when each was back.
#[derive(Debug, Default)]
struct Seen {
    attempts: BTreeMap<u32, Vec<Instant>>,
    resumed: Vec<Instant>,
}

/// In the order of time.
fn most_at_once(times: &[Instant]) -> usize {
    let together = |(at, first): (usize, &Instant)| {
        times[at..].iter().take_while(|time| **time < *first + AT_ONCE).count()
    };
    times.iter().enumerate().map(together).max().unwrap_or_default()
}

async fn see(mut events: Events, seen: Arc<Mutex<Seen>>) {
    while let Some(event) = events.next().await {
        let (mut seen, now) = (seen.lock().unwrap(), Instant::now());
        match event {
            SessionEvent::Resuming { attempt, .. } => {
                seen.attempts.entry(attempt).or_default().push(now);
            }
            SessionEvent::Resumed { .. } => seen.resumed.push(now),
            SessionEvent::Closed { .. } => return,
            _ => {}
        }
    }
}

fn client(world: &World, host: u8) -> Client {
    world.network.pave(host, Conditions::default(), Conditions::default());
    world.client(host, world::quick(), |_| {})
}

fn set_gates(world: &World, crowd: u64, gate: Gate) {
    for host in 1..=crowd.min(HOSTS) {
        BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(host as u8, way, gate));
    }
}

/// Tries until the server has time: the first connection is nobody's to retry
/// but the application's.
async fn newcomer(world: World, number: u64) -> Session {
    let client = client(&world, NEWCOMERS);
    loop {
        match client.connect(SERVER).await {
            Ok(session) => return session,
            Err(ConnectError::Dial(_)) => sleep(Duration::from_millis(20 + number % 50)).await,
            Err(error) => panic!("{error}"),
        }
    }
}
