//! The connection moves to another socket, and its pipes with it; or the session to
//! another connection while this one still works. 16.

use std::time::Duration;

use evermux::{HandoverError, SessionEvent, Side};
use tokio::join;
use tokio::time::{Instant, sleep, timeout};

use super::stage::{HOST, SIDES, Stage, at_every_moment};
use crate::network::Gate;

const BYTES: u64 = 50_000;

/// Whether a side has been told that the connection has moved.
async fn has_migrated(mut events: evermux::Events) -> bool {
    let migrated = async {
        while let Some(event) = events.next().await {
            if let SessionEvent::Migrated { .. } = event {
                return;
            }
        }
        panic!("it never moved");
    };
    timeout(Duration::from_secs(5), migrated).await.is_ok()
}

#[test]
fn situation_16_who_says_that_the_network_has_changed_moves_the_same_connection() {
    let kinds = ["in full swing"];
    at_every_moment("moved", 0.., &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(SIDES[moment as usize % 2]).await;
        let acts = async {
            join!(one.exchange(BYTES), two.exchange(BYTES));
        };
        let moves = async {
            let events = SIDES.map(|side| stage.session(side).events());
            stage.ours.network_changed();
            // To say it twice does no harm.
            stage.ours.network_changed();
            let [ours, theirs] = events.map(has_migrated);
            assert_eq!(join!(ours, theirs), (true, true));
            kinds[0]
        };
        let ((), kind) = stage.during(moment, acts, moves).await;
        // No new connection was needed, and none is left.
        assert_eq!(stage.resumes(), 0);
        stage.until(|| world.network.open_sockets().len() == 2).await;
        stage.end().await;
        kind
    });
}

#[test]
fn situation_16_a_nat_that_forgets_is_noticed_by_the_server_and_told_on_both_sides() {
    let kinds = ["in full swing"];
    at_every_moment("renumbered", 0.., &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(SIDES[moment as usize % 2]).await;
        let acts = async {
            join!(one.exchange(BYTES), two.exchange(BYTES));
        };
        let forgets = async {
            let events = SIDES.map(|side| stage.session(side).events());
            world.network.renumber(HOST, false);
            let [ours, theirs] = events.map(has_migrated);
            assert_eq!(join!(ours, theirs), (true, true));
            kinds[0]
        };
        let ((), kind) = stage.during(moment, acts, forgets).await;
        stage.end().await;
        kind
    });
}

#[test]
fn situation_16_who_says_that_the_network_has_changed_while_detached_is_tried_at_once() {
    let kinds = ["in an outage"];
    at_every_moment("told", 0..20, &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(Side::Client).await;
        let acts = async {
            join!(one.exchange(BYTES), two.exchange(BYTES));
        };
        let told = async {
            stage.set_gates(Gate::Closed);
            // Beyond QUIC's own patience: both sides are detached, and attempts rare.
            sleep(Duration::from_secs(200 + moment)).await;
            assert!(!stage.ours.link().is_attached());
            world.network.set_gate_of_connections(HOST, Gate::Closed);
            stage.set_gates(Gate::Open);
            let back = Instant::now();
            stage.ours.network_changed();
            stage.until(|| stage.ours.link().is_attached()).await;
            // An attempt that was under way has a second before it tries again.
            assert!(back.elapsed() < Duration::from_millis(1_500), "{:?}", back.elapsed());
            kinds[0]
        };
        let ((), kind) = stage.during(moment, acts, told).await;
        stage.end().await;
        kind
    });
}

#[test]
fn situation_16_a_handover_keeps_the_old_connection_until_the_new_one_is_attached() {
    let kinds = ["in full swing"];
    at_every_moment("handed over", 0.., &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(SIDES[moment as usize % 2]).await;
        let acts = async {
            join!(one.exchange(BYTES), two.exchange(BYTES));
        };
        let hands_over = async {
            let before = stage.ours.stats().epoch;
            let opened = stage.open(Side::Client);
            let after = stage.ours.handover().await.expect("the server is there");
            assert!(after > before);
            // A pipe that was opened while it was under way is there once.
            let accepted = stage.accept(Side::Server).await;
            stage.one_connection(before).await;
            drop((opened, accepted));
            kinds[0]
        };
        let ((), kind) = stage.during(moment, acts, hands_over).await;
        assert_eq!(stage.resumes(), u64::from(kind.is_some()));
        stage.end().await;
        kind
    });
}

#[test]
fn situation_16_a_handover_that_leads_nowhere_leaves_everything_as_it_was() {
    let kinds = ["in full swing"];
    at_every_moment("nowhere", 0..20, &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(Side::Client).await;
        let acts = async {
            join!(one.exchange(BYTES), two.exchange(BYTES));
        };
        let hands_over = async {
            world.network.admit_no_more(HOST);
            let failed = stage.ours.handover().await.expect_err("nothing gets there");
            assert!(matches!(failed, HandoverError::Dial(_)), "{failed}");
            assert!(stage.ours.link().is_attached());
            let wrong = stage.theirs.handover().await;
            assert_eq!(wrong, Err(HandoverError::NotTheClient));
            kinds[0]
        };
        let ((), kind) = stage.during(moment, acts, hands_over).await;
        assert_eq!(stage.resumes(), 0);
        stage.end().await;
        kind
    });
}
