//! Servers that forget, and servers that cannot be reached: 15.

use std::time::Duration;

use evermux::{DialError, Epoch, LinkState, SessionError, SessionEvent, Side};
use tokio::join;
use tokio::time::{Instant, sleep};

use super::stage::{HOST, SIDES, Stage, at_every_moment};
use crate::network::{Gate, SERVER};
use crate::watch::Cause;
use crate::world;

/// How soon the client knows, once the new server is there, if it has not noticed that
/// the old one is gone: what it sends meets a stateless reset, and its next attempt an
/// answer. No probe and no attempt times out meanwhile.
const SOON: Duration = Duration::from_secs(2);

/// The same, if it has: the next kick comes within 40 ms, and it takes three round trips
/// to be reset, to connect and to ask. What it has dialled before is not waited for.
const AT_ONCE: Duration = Duration::from_millis(200);

#[test]
fn situation_15_the_client_of_a_server_that_was_restarted_learns_it_at_once() {
    // QUIC calls again at the latest after as long as it was silent.
    for (down, most) in [(0, SOON), (300, SOON), (10_000, AT_ONCE)] {
        let down = Duration::from_millis(down);
        let kinds = ["in full swing", "idle"];
        let case = format!("down for {down:?}");
        at_every_moment(&case, (0..60).step_by(2), &kinds, |world, moment| async move {
            let mut config = world::quick();
            // A link that is only silent is not given up before.
            config.probe_timeout(Duration::from_secs(60));
            let stage = Stage::with(&world, config.clone(), |_| {}).await;
            let (mut one, mut two) = stage.pipe(Side::Client).await;
            let acts = async {
                one.writer.write(50_000).await.unwrap();
                two.reader.read_to(50_000).await.unwrap();
                std::future::pending::<()>().await
            };
            let before = tokio::select! {
                biased;
                () = acts => unreachable!("it waits for ever"),
                () = world.network.delivered(HOST, moment) => stage.ours.stats(),
            };
            stage.pair.may_end(Cause::Forgotten);
            let (ours, pair) = stage.kill_server(two);
            sleep(down).await;
            let server = world.server(config, |_| {});
            let back = Instant::now();
            let told = SessionError::UnknownSession;
            join!(
                async { assert_eq!(one.reader.read_to(1).await, Err(told.clone().into())) },
                async { assert_eq!(one.writer.error().await, told.clone().into()) },
                async { assert_eq!(ours.accept_pipe().await.unwrap_err(), told) },
            );
            assert!(back.elapsed() < most, "told {:?} after the restart", back.elapsed());
            assert_eq!(ours.closed().await, told);
            assert_eq!(ours.stats().bytes_kept, 0);
            pair.forget(Side::Client);
            server.shutdown(Duration::from_secs(5)).await;
            Some(kinds[usize::from(before.bytes_kept == 0)])
        });
    }
}

/// Nothing that was not authenticated ends a session, however long it lasts.
#[test]
fn situation_15_a_net_that_leads_nowhere_is_tried_until_it_leads_to_the_server_again() {
    let kinds = ["in full swing"];
    at_every_moment("five minutes", (0..).step_by(3), &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(Side::Server).await;
        let acts = async {
            join!(one.exchange(50_000), two.exchange(50_000));
        };
        let nowhere = async {
            stage.set_gates(Gate::Closed);
            // Beyond QUIC's own patience, on both sides.
            sleep(Duration::from_secs(300)).await;
            assert!(SIDES.iter().all(|side| !stage.session(*side).link().is_attached()));
            stage.set_gates(Gate::Open);
            stage.one_connection(Epoch::FIRST).await;
            kinds[0]
        };
        let ((), kind) = stage.during(moment, acts, nowhere).await;
        stage.end().await;
        kind
    });
}

#[test]
fn situation_15_somebody_else_at_the_servers_address_says_nothing_that_counts() {
    let kinds = ["in full swing"];
    at_every_moment("a portal", (0..).step_by(3), &kinds, |world, moment| async move {
        let stage = Stage::new(&world).await;
        let (mut one, mut two) = stage.pipe(Side::Client).await;
        let acts = async {
            join!(one.exchange(50_000), two.exchange(50_000));
        };
        let portal = async {
            let away = world.network.unplug(SERVER.ip());
            let portal = world.impostor();
            let mut events = stage.ours.events();
            // It is asked again and again, and its answers are not believed.
            let mut answers = 0;
            while answers < 3 {
                let event = events.next().await.expect("a live session");
                let answer =
                    matches!(event, SessionEvent::Resuming { last: Some(DialError::Tls(_)), .. });
                answers += u32::from(answer);
            }
            portal.shutdown(Duration::from_secs(5)).await;
            drop(portal);
            stage.until(|| !world.network.open_sockets().contains(&SERVER)).await;
            world.network.plug_in(away);
            // On the connection that it had, which nothing has ended, or on another.
            stage.until(|| matches!(stage.ours.link(), LinkState::Attached { .. })).await;
            kinds[0]
        };
        let ((), kind) = stage.during(moment, acts, portal).await;
        stage.end().await;
        kind
    });
}
