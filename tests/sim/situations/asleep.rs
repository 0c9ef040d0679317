//! Pipes that nobody uses when the session is resumed: they sleep, without a stream,
//! until somebody has something to say.

use evermux::{ReadError, Side, WriteError};
use tokio::join;

use super::actors::End;
use super::stage::{SIDES, Stage, at_every_moment};
use crate::world::{self, World};

/// More than one packet holds.
const BYTES: u64 = 5_000;

/// What the first use of a pipe is.
#[derive(Clone, Copy, Debug)]
enum Waking {
    Bytes(&'static [Side]),
    /// Nothing but ends of streams.
    Fins(&'static [Side]),
}

/// A session that was resumed while a pipe of `opener`'s had nothing to carry, and the
/// client's end and the server's.
async fn asleep(world: &World, opener: Side) -> (Stage, End, End) {
    let stage = Stage::new(world).await;
    let (mut ours, mut theirs) = stage.pipe_of(opener).await;
    for end in [&mut ours, &mut theirs] {
        end.writer.write(BYTES).await.unwrap();
    }
    for end in [&mut ours, &mut theirs] {
        end.reader.read_to(BYTES).await.unwrap();
    }
    for end in [&mut ours, &mut theirs] {
        end.writer.all_read().await.unwrap();
    }
    stage.ours.reconnect().await.unwrap();
    stage.until(|| stage.theirs.stats().resumes == 1).await;
    (stage, ours, theirs)
}

/// Says something at once, or when the other end is through.
async fn use_up(end: &mut End, bytes: u64, is_first: bool) {
    if is_first {
        return end.exchange(bytes).await;
    }
    end.reader.read_to_end().await.unwrap();
    end.writer.write(bytes).await.unwrap();
    end.writer.finish();
    end.writer.all_read().await.unwrap();
}

#[test]
fn a_pipe_that_sleeps_wakes_for_whoever_has_something_to_say_also_for_both_at_once() {
    const WHO: [&[Side]; 3] = [&[Side::Client], &[Side::Server], &SIDES];
    let wakings = WHO.into_iter().flat_map(|who| [Waking::Bytes(who), Waking::Fins(who)]);
    for (opener, waking) in SIDES.into_iter().flat_map(|o| wakings.clone().map(move |w| (o, w))) {
        let kinds = ["nothing has come", "some has come", "all has come"];
        let case = format!("{opener:?}'s pipe, woken by {waking:?}");
        at_every_moment(&case, 0.., &kinds[..1], |world, moment| async move {
            let (stage, mut ours, mut theirs) = asleep(&world, opener).await;
            let before = world.ledger.totals().delivered;
            let (who, bytes) = match waking {
                Waking::Bytes(who) => (who, BYTES),
                Waking::Fins(who) => (who, 0),
            };
            let acts = async {
                let [first, second] = SIDES.map(|side| who.contains(&side));
                join!(use_up(&mut ours, bytes, first), use_up(&mut theirs, bytes, second));
            };
            let strike = async {
                let more = world.ledger.totals().delivered - before;
                stage.cut().await;
                kinds[if more == 0 { 0 } else { 1 + usize::from(more == 2 * bytes) }]
            };
            let ((), kind) = stage.during(moment, acts, strike).await;
            drop((ours, theirs));
            stage.end().await;
            kind
        });
    }
}

#[test]
fn a_pipe_that_sleeps_is_reset_and_stopped_without_a_stream() {
    for opener in SIDES {
        let case = format!("{opener:?}'s pipe");
        at_every_moment(&case, 0.., &["struck"], |world, moment| async move {
            let (stage, mut ours, mut theirs) = asleep(&world, opener).await;
            let acts = async {
                ours.writer.reset(7);
                ours.reader.stop(8);
                let told = theirs.reader.read_to_end().await;
                assert_eq!(told, Err(ReadError::Reset { code: 7 }));
                assert_eq!(theirs.writer.error().await, WriteError::Stopped { code: 8 });
            };
            let strike = async {
                stage.cut().await;
                "struck"
            };
            let ((), kind) = stage.during(moment, acts, strike).await;
            drop((ours, theirs));
            stage.end().await;
            kind
        });
    }
}

#[test]
fn more_pipes_than_streams_are_allowed_wake_at_once() {
    /// Pipes, and the streams that each side allows at first.
    const PIPES: usize = 100;
    for (opener, waker) in SIDES.into_iter().flat_map(|o| SIDES.map(|w| (o, w))) {
        let case = format!("{opener:?}'s pipes, woken by {waker:?}");
        at_every_moment(&case, (0..).step_by(7), &["struck"], |world, moment| async move {
            let mut config = world::quick();
            config.initial_streams(2);
            let stage = Stage::with(&world, config, |_| {}).await;
            let mut ends = Vec::new();
            for _ in 0..PIPES {
                let (mut one, mut two) = stage.pipe_of(opener).await;
                one.writer.write(1).await.unwrap();
                two.reader.read_to(1).await.unwrap();
                one.writer.all_read().await.unwrap();
                ends.push(if waker == Side::Client { (one, two) } else { (two, one) });
            }
            stage.ours.reconnect().await.unwrap();
            stage.until(|| stage.theirs.stats().resumes == 1).await;
            let acts = async {
                for (waking, _) in &mut ends {
                    waking.writer.write(100).await.unwrap();
                    waking.writer.finish();
                }
                for (_, woken) in &mut ends {
                    woken.reader.read_to_end().await.unwrap();
                    woken.writer.finish();
                }
                for (waking, _) in &mut ends {
                    waking.reader.read_to_end().await.unwrap();
                }
            };
            let strike = async {
                stage.cut().await;
                "struck"
            };
            let ((), kind) = stage.during(moment, acts, strike).await;
            drop(ends);
            stage.end().await;
            kind
        });
    }
}
