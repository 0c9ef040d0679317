//! Full windows, full buffers, and no peace: 12, 13 and 14.

use std::time::Duration;

use evermux::{ReadError, SessionConfig, SessionError, Side, WriteError};
use tokio::join;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::actors::End;
use super::stage::{HOST, SIDES, Stage, at_every_moment};
use crate::network::Gate;
use crate::watch::Cause;
use crate::world;

/// What a pipe may keep beyond all budgets.
const SHARE: u64 = 64 << 10;

#[test]
fn situation_12_both_sides_owe_more_than_every_window_and_both_finish() {
    const BYTES: u64 = 2 * SHARE;
    let kinds = ["nothing was read", "some was read"];
    at_every_moment("both owe", (0..).step_by(5), &kinds, |world, moment| async move {
        let mut config = world::quick();
        config.stream_window(4 << 10).replay_budget(0).max_pipes(2);
        let stage = Stage::with(&world, config, |_| {}).await;
        let (mut a, mut b) = stage.pipe(Side::Client).await;
        let (mut c, mut d) = stage.pipe(Side::Server).await;
        stage.part().await;
        let acts = async {
            let ends = [&mut a, &mut b, &mut c, &mut d];
            let [a, b, c, d] = ends.map(|end| exchange_when_stuck(&stage, end, BYTES));
            join!(a, b, c, d);
        };
        let meet = async {
            let kept = |side: &Side| stage.session(*side).stats().bytes_kept;
            stage.until(|| SIDES.iter().all(|side| kept(side) == 2 * SHARE)).await;
            stage.set_gates(Gate::Open);
            world.network.delivered(HOST, moment).await;
            stage.cut().await;
            let read = SIDES.map(|side| stage.session(side).stats().bytes_read);
            let over = stage.ours.pipes().is_empty();
            (!over).then_some(kinds[usize::from(read != [0, 0])])
        };
        let ((), kind) = stage.during(0, acts, meet).await;
        stage.end().await;
        kind.flatten()
    });
}

/// Nobody reads before every window is full.
async fn exchange_when_stuck(stage: &Stage, end: &mut End, bytes: u64) {
    let End { reader, writer } = end;
    let write = async {
        writer.write(bytes).await.unwrap();
        writer.finish();
        writer.all_read().await.unwrap();
    };
    let read = async {
        stage.resumed_again().await;
        sleep(Duration::from_millis(300)).await;
        reader.read_to_end().await.unwrap();
    };
    join!(write, read);
}

#[test]
fn situation_13_dropped_again_at_every_datagram_of_the_replay_offsets_only_grow() {
    const BYTES: u64 = 300_000;
    const DROPS: u64 = 10;
    let kinds = ["while the rest is sent again"];
    at_every_moment("ten drops from here", (0..).step_by(3), &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(Side::Client).await;
        let acts = async {
            join!(one.exchange(BYTES), two.exchange(BYTES));
        };
        // That offsets never go back is what the watch looks at, each time that a
        // datagram has arrived.
        let drops = async {
            stage.cut().await;
            for number in 0..DROPS {
                stage.resumed_again().await;
                world.network.delivered(HOST, moment + number).await;
                stage.cut().await;
                assert_eq!(stage.resumes(), number + 1);
            }
            let replayed = SIDES.map(|side| stage.session(side).stats().bytes_replayed);
            let over = stage.ours.pipes().is_empty();
            (!over && replayed.iter().all(|bytes| *bytes > 0)).then_some(kinds[0])
        };
        let ((), kind) = stage.during(0, acts, drops).await;
        stage.end().await;
        kind.flatten()
    });
}

/// The byte budget of a session, and of its server.
const BUDGET: u64 = 100 << 10;

const WINDOW: u64 = 16 << 10;

/// How long the server waits for its client.
const LINGER: Duration = Duration::from_secs(30);

fn scarce() -> SessionConfig {
    let mut config = world::quick();
    config.replay_budget(BUDGET).stream_window(WINDOW);
    config
}

async fn scarce_stage(world: &world::World) -> Stage {
    Stage::with(world, scarce(), |config| {
        config.linger(LINGER);
    })
    .await
}

#[test]
fn situation_14_behind_a_stopped_reader_its_writer_waits_and_the_others_run() {
    for side in SIDES {
        let kinds = ["the window is full"];
        let case = format!("{side:?} writes");
        at_every_moment(&case, 0..25, &kinds, |world, moment| async move {
            let stage = scarce_stage(&world).await;
            let (mut stuck, mut idle) = stage.pipe(side).await;
            let (mut one, mut two) = stage.pipe(side).await;
            let session = stage.session(side);
            let kept = || session.stats().bytes_kept;
            let acts = async {
                let write = timeout(LINGER, stuck.writer.write(10 * BUDGET));
                assert!(write.await.is_err(), "there is no room for so much");
            };
            let outage = async {
                // The header has its part of the window.
                assert!(kept() <= WINDOW && kept() + 100 > WINDOW, "{} kept", kept());
                stage.part().await;
                sleep(LINGER / 3).await;
                assert_eq!(kept(), SHARE + BUDGET);
                // The others have a share of their own, and run when the link does.
                let begun = Instant::now();
                one.writer.write(SHARE).await.unwrap();
                assert_eq!(begun.elapsed(), Duration::ZERO);
                stage.set_gates(Gate::Open);
                join!(one.exchange(2 * SHARE), two.exchange(2 * SHARE));
                kinds[0]
            };
            let ((), kind) = stage.during(moment, acts, outage).await;
            let stats = stuck.writer.half.stats();
            assert_eq!((stats.kept, stats.acked), (SHARE + BUDGET, 0));
            join!(stuck.exchange(0), idle.exchange(0));
            stage.end().await;
            kind
        });
    }
}

#[test]
fn situation_14_at_the_end_of_the_linger_time_everybody_gets_one_error_and_all_memory_is_back() {
    for side in SIDES {
        let case = format!("{side:?} writes");
        at_every_moment(&case, 0..25, &[], |world, moment| async move {
            let mut stage = scarce_stage(&world).await;
            let (stuck, _idle) = stage.pipe(side).await;
            let (one, two) = stage.pipe(side).await;
            stage.pair.may_end(Cause::Forgotten);
            let told = |side| match side {
                Side::Client => SessionError::UnknownSession,
                Side::Server => SessionError::Expired { linger: LINGER },
            };
            let (here, there) = (told(side), told(side.peer()));
            // Each in a task of its own: nobody is woken with somebody else.
            let mut waiting = JoinSet::new();
            let ends = [(stuck, 10 * BUDGET, &here), (one, 0, &here), (two, 0, &there)];
            for (end, bytes, told) in ends {
                let End { mut reader, mut writer } = end;
                let error = ReadError::from(told.clone());
                waiting.spawn(async move { assert_eq!(reader.read_to(1).await, Err(error)) });
                let error = WriteError::from(told.clone());
                waiting.spawn(async move {
                    let written = writer.write(bytes).await;
                    assert!(bytes == 0 || written == Err(error.clone()), "{written:?}");
                    assert_eq!(writer.error().await, error);
                });
            }
            let session = stage.session(side).clone();
            waiting.spawn(async move {
                assert_eq!(session.accept_pipe().await.unwrap_err(), here);
            });
            let acts = waiting.join_all();
            let outage = async {
                stage.set_gates(Gate::Closed);
                let expired = stage.theirs.closed().await;
                assert_eq!(expired, told(Side::Server));
                assert_eq!(stage.server.stats().bytes_shared, 0);
                stage.set_gates(Gate::Open);
                "in between"
            };
            let (_, kind) = stage.during(moment, acts, outage).await;
            stage.nothing_left().await;
            kind
        });
    }
}
