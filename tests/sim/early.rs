//! What is said before a handshake is complete (0-RTT).

use std::time::Duration;

use evermux::SessionConfig;
use tokio::time::{sleep, timeout};

use crate::network::{Conditions, Gate, SERVER, Way};
use crate::raw::{Claim, frames, hello};
use crate::world::{self, World};

const HOST: u8 = 1;

const HOLDER: [u8; 16] = [0xaa; 16];

/// Shorter than the time that a server waits for a handshake.
const A_WHILE: Duration = Duration::from_secs(5);

fn play<F: Future<Output = ()>>(play: impl FnOnce(World) -> F) {
    world::run(0, false, play).result.expect("it ends well");
}

/// P-37. A repetition comes as far as this: the server hears it, and whoever has
/// repeated it cannot answer what the server says.
#[test]
fn hello_and_resume_are_not_acted_on_before_the_handshake_is_complete() {
    play(|world| async move {
        world.network.pave(HOST, Conditions::default(), Conditions::default());
        let server = world.server(SessionConfig::default(), |_| {});
        let first = world.raw_client(HOST).await;
        let mut control = first.open_control().await;
        control.say(&hello(&HOLDER)).await;
        let session = server.accept().await.expect("it listens").accept();
        control.wait_for(frames::WELCOME).await;
        let claim = Claim {
            session: *session.id().as_bytes(),
            epoch: 2,
            holder: HOLDER,
            exporter: [0; 32],
        };
        for said in [hello(&HOLDER), claim.resume(&[0; 32])] {
            sleep(A_WHILE).await;
            world.network.set_gate(HOST, Way::Down, Gate::Closed);
            let (peer, accepted) = first.dial_again(SERVER);
            let mut control = peer.open_control().await;
            control.say(&said).await;
            let refused = server.stats().refused;
            assert!(timeout(A_WHILE, server.accept()).await.is_err(), "a session is begun");
            assert_eq!(server.stats().refused, refused, "a proof is looked at");
            world.network.set_gate(HOST, Way::Down, Gate::Open);
            assert!(accepted.await, "it was heard all the time");
            // Now it is.
            let begun = timeout(A_WHILE, server.accept()).await;
            let begun = begun.map(|incoming| incoming.expect("it listens").refuse("enough"));
            assert!(begun.is_ok() || server.stats().refused == refused + 1);
            peer.closed().await;
        }
        session.close(evermux::CloseCode::DONE, b"");
        session.closed().await;
        server.shutdown(A_WHILE).await;
    });
}
