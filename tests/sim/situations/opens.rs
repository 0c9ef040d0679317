//! Pipes that are opened at a bad moment: 5 and 6.

use std::cell::Cell;

use evermux::Side;
use tokio::join;
use tokio::task::JoinSet;

use super::actors::End;
use super::stage::{HOST, SIDES, Stage, at_every_moment};
use crate::world::{self, World};

/// Pipes of each side, more than the streams that a new connection allows.
const PIPES: usize = 4;

/// Bytes that follow an open at once.
const FIRST: u64 = 100;

async fn stage(world: &World) -> Stage {
    let mut config = world::quick();
    config.initial_streams(PIPES as u64 / 2);
    Stage::with(world, config, |_| {}).await
}

/// Pipes with their first bytes.
async fn open(stage: &Stage, side: Side) -> Vec<End> {
    let mut opened = Vec::new();
    for _ in 0..PIPES {
        let mut end = stage.open(side);
        end.writer.write(FIRST).await.unwrap();
        opened.push(end);
    }
    opened
}

/// Uses pipes to their end, both there and where they are accepted, in whatever
/// order they come; counts those that came.
async fn use_up(stage: &Stage, opened: Vec<End>, acceptor: Side, came: &Cell<usize>) {
    let mut using = JoinSet::new();
    for mut end in opened {
        using.spawn(async move { end.exchange(0).await });
    }
    for _ in 0..PIPES {
        let mut end = stage.accept(acceptor).await;
        came.set(came.get() + 1);
        using.spawn(async move {
            end.reader.read_to(FIRST).await.unwrap();
            end.exchange(FIRST).await;
        });
    }
    using.join_all().await;
}

#[test]
fn situation_05_a_pipe_opened_just_before_the_drop_is_accepted_once_with_its_first_bytes() {
    for opener in SIDES {
        let kinds = ["the peer has seen none", "the peer has seen some", "the peer has seen all"];
        let case = format!("{opener:?} opens");
        at_every_moment(&case, 0.., &kinds, |world, moment| async move {
            let stage = stage(&world).await;
            let came = Cell::new(0);
            let opened = open(&stage, opener).await;
            let acts = use_up(&stage, opened, opener.peer(), &came);
            let strike = async {
                stage.cut().await;
                match came.get() {
                    0 => kinds[0],
                    PIPES => kinds[2],
                    _ => kinds[1],
                }
            };
            let ((), kind) = stage.during(moment, acts, strike).await;
            stage.no_more_pipes(opener.peer()).await;
            stage.end().await;
            kind
        });
    }
}

#[test]
fn situation_06_pipes_opened_on_both_sides_during_a_resume_are_opens_not_errors() {
    // The resume succeeds, or is cut off right behind the opens.
    for cut in [false, true] {
        let kinds = ["neither is through", "the server is through", "both are through"];
        let case = format!("cut off: {cut}");
        at_every_moment(&case, 0..25, &kinds, |world, moment| async move {
            let stage = stage(&world).await;
            stage.cut().await;
            world.network.delivered(HOST, moment).await;
            let through = SIDES.map(|side| stage.session(side).stats().resumes);
            let (one, two) = (open(&stage, Side::Client).await, open(&stage, Side::Server).await);
            if cut {
                stage.cut().await;
            }
            let came = Cell::new(0);
            join!(
                use_up(&stage, one, Side::Server, &came),
                use_up(&stage, two, Side::Client, &came)
            );
            join!(stage.no_more_pipes(Side::Client), stage.no_more_pipes(Side::Server));
            stage.end().await;
            Some(match through {
                [0, 0] => kinds[0],
                [0, _] => kinds[1],
                _ => kinds[2],
            })
        });
    }
}
