//! What comes late, or not at all: packets of an old connection, acks, answers.
//! 1, 2, 8 and 16.

use std::time::Duration;

use evermux::{Epoch, Side};
use tokio::join;
use tokio::time::{sleep, timeout};

use super::actors::End;
use super::stage::{HOST, SIDES, Stage, at_every_moment};
use crate::network::{Gate, Way};
use crate::world;

/// So many bytes in each direction: many round trips of traffic.
const BYTES: u64 = 100_000;

/// Datagrams after which the exchange of so many bytes is in full swing.
const IN_FULL_SWING: u64 = 40;

async fn exchange(one: &mut End, two: &mut End) {
    join!(one.exchange(BYTES), two.exchange(BYTES));
}

#[test]
fn situation_01_what_the_old_connection_still_brings_after_the_resume_is_never_counted() {
    let kinds = ["while the rest is sent again"];
    at_every_moment("released", 0.., &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(SIDES[moment as usize % 2]).await;
        let network = &world.network;
        let acts = exchange(&mut one, &mut two);
        let hold = async {
            network.set_gate_of_connections(HOST, Gate::Holding);
            assert_eq!(stage.ours.reconnect().await.unwrap().get(), 2);
            assert!(network.held(HOST) > 0);
            network.delivered(HOST, moment).await;
            network.release_sockets(HOST);
            let left = !stage.ours.pipes().is_empty();
            left.then_some(kinds[0])
        };
        let ((), kind) = stage.during(IN_FULL_SWING, acts, hold).await;
        stage.end().await;
        kind.flatten()
    });
}

#[test]
fn situation_02_a_lost_last_ack_gives_the_application_nothing_twice() {
    const FEW: u64 = 5_000;
    for (writer, acks, along) in
        [(Side::Client, Way::Down, 0), (Side::Client, Way::Down, FEW), (Side::Server, Way::Up, FEW)]
    {
        let kinds = ["the ack is lost", "the ack has gone"];
        let case = format!("{writer:?} writes, {along} bytes go along with a resume");
        at_every_moment(&case, 0.., &kinds, |world, moment| async move {
            let mut config = world::quick();
            config.optimistic_replay(along);
            let stage = Stage::with(&world, config, |_| {}).await;
            let (mut from, mut to) = stage.pipe(writer).await;
            from.writer.write(FEW).await.unwrap();
            let acts = async {
                to.reader.read_to(FEW).await.unwrap();
                from.writer.all_read().await.unwrap();
            };
            let lose = async {
                world.network.set_gate(HOST, acks, Gate::Closed);
                // Time for all data to come, and for acks to be sent.
                sleep(Duration::from_millis(300)).await;
                let stats = stage.session(writer).pipes()[0].stats;
                let read = stage.session(writer.peer()).pipes()[0].stats.read;
                assert_eq!(read, FEW);
                stage.cut().await;
                world.network.set_gate(HOST, acks, Gate::Open);
                kinds[usize::from(stats.acked == FEW)]
            };
            let ((), kind) = stage.during(moment, acts, lose).await;
            // The tables of the resume tell: nothing is even sent again, but for what
            // did not wait for them.
            let along = if writer == Side::Client { along } else { 0 };
            assert!([0, along].contains(&from.writer.half.stats().replayed));
            let more = timeout(Duration::from_secs(20), to.reader.read_to(FEW + 1)).await;
            assert!(more.is_err(), "{more:?}");
            from.writer.write(1).await.unwrap();
            to.reader.read_to(FEW + 1).await.unwrap();
            join!(from.exchange(0), to.exchange(0));
            stage.end().await;
            kind
        });
    }
}

#[test]
fn situation_08_the_answer_to_a_resume_is_lost_and_the_client_resumes_again() {
    // The secret moves on with each resume that the server grants: one lost answer
    // is not like many.
    for losses in [1, 2, 5] {
        let kinds = ["before the server heard", "the answer is lost"];
        let case = format!("{losses} lost");
        at_every_moment(&case, 0.., &kinds, |world, moment| async move {
            let stage = Stage::new(&world).await;
            let (mut one, mut two) = stage.pipe(Side::Client).await;
            one.writer.write(3_000).await.unwrap();
            two.writer.write(3_000).await.unwrap();
            let mut kind = None;
            stage.cut().await;
            for _ in 0..losses {
                world.network.delivered(HOST, moment).await;
                stage.cut().await;
                let granted = stage.theirs.stats().epoch > Epoch::FIRST;
                let answered = stage.resumes() > 0;
                kind = (!answered).then_some(kinds[usize::from(granted)]);
            }
            let last = stage.theirs.stats().epoch;
            join!(one.reader.read_to(3_000), two.reader.read_to(3_000)).0.unwrap();
            stage.one_connection(last).await;
            join!(one.exchange(3_000), two.exchange(3_000));
            stage.end().await;
            kind
        });
    }
}

#[test]
fn situation_16_the_old_path_was_only_slow_and_comes_back_during_the_resume() {
    let kinds = ["before the server knows", "before the client knows", "after the resume"];
    at_every_moment("released", 0..30, &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(SIDES[moment as usize % 2]).await;
        let acts = exchange(&mut one, &mut two);
        let slow = async {
            // The client finds out by itself; only the new connection delivers.
            world.network.set_gate_of_connections(HOST, Gate::Holding);
            world.network.delivered(HOST, moment).await;
            let known = SIDES.map(|side| stage.session(side).stats().resumes);
            world.network.release_sockets(HOST);
            match known {
                [0, 0] => kinds[0],
                [0, _] => kinds[1],
                _ => kinds[2],
            }
        };
        let ((), kind) = stage.during(IN_FULL_SWING, acts, slow).await;
        stage.until(|| world.network.open_sockets().len() == 2).await;
        stage.end().await;
        kind
    });
}

#[test]
fn situation_16_a_migration_and_a_resume_both_succeed_and_one_connection_is_left() {
    for old_path_lives in [true, false] {
        let kinds = ["before the migration", "after the migration"];
        let case = format!("the old path lives: {old_path_lives}");
        at_every_moment(&case, 0.., &kinds, |world, moment| async move {
            let stage = Stage::new(&world).await;
            let (mut one, mut two) = stage.pipe(SIDES[moment as usize % 2]).await;
            let mut link = stage.theirs.watch_link();
            let acts = exchange(&mut one, &mut two);
            let roam = async {
                link.mark_unchanged();
                world.network.renumber(HOST, old_path_lives);
                world.network.delivered(HOST, moment).await;
                let migrated = link.has_changed().unwrap();
                let over = stage.ours.pipes().is_empty();
                assert_eq!(stage.ours.reconnect().await.unwrap().get(), 2);
                (!over).then_some(kinds[usize::from(migrated)])
            };
            let ((), kind) = stage.during(IN_FULL_SWING, acts, roam).await;
            stage.one_connection(Epoch::FIRST).await;
            stage.end().await;
            kind.flatten()
        });
    }
}
