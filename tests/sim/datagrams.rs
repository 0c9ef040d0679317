//! How large datagrams become, and what happens when they are too large all at once.

use std::time::Duration;

use evermux::{BackedReader, BackedWriter, Client, CloseCode, Server, Session, SessionConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::network::{BOTH_WAYS, Conditions, Gate};
use crate::world::{self, World};

const LATENCY: Duration = Duration::from_millis(25);

fn road(mtu: usize) -> Conditions {
    Conditions { latency: LATENCY, mtu, ..Conditions::default() }
}

/// A session, over which bytes go one way as fast as they can.
struct Bulk {
    ours: Session,
    theirs: Session,
    flowing: JoinSet<()>,
    _roles: (Client, Server),
}

impl Bulk {
    async fn new(world: &World, allowed: Option<u16>, mtu: usize, up: bool) -> Self {
        world.network.pave(1, road(mtu), road(mtu));
        let server = world.server(SessionConfig::default(), |_| {});
        let client = world.client(1, SessionConfig::default(), |config| {
            if let Some(bytes) = allowed {
                config.max_udp_payload(bytes);
            }
        });
        let (ours, theirs) = world.session(&client, &server).await;
        let near = ours.open_pipe("").expect("the first").into_split();
        let far = theirs.accept_pipe().await.expect("it comes").expect("a pipe").into_split();
        let (from, to) = if up { (near, far) } else { (far, near) };
        let mut flowing = JoinSet::new();
        flowing.spawn(write(from.1));
        flowing.spawn(read(to.0));
        flowing.spawn(async move {
            let _other_way = (from.0, to.1);
            std::future::pending().await
        });
        Self { ours, theirs, flowing, _roles: (client, server) }
    }

    /// As both sides have found out.
    fn sizes(&self) -> [u16; 2] {
        [&self.ours, &self.theirs].map(|side| side.stats().mtu.expect("attached"))
    }

    fn received(&self) -> u64 {
        [&self.ours, &self.theirs].map(|side| side.stats().bytes_read).into_iter().sum()
    }

    async fn end(self) {
        drop(self.flowing);
        self.ours.close(CloseCode::DONE, b"");
        tokio::join!(self.ours.closed(), self.theirs.closed());
    }
}

async fn write(mut writer: BackedWriter) {
    while writer.write_all(&[7; 64 << 10]).await.is_ok() {}
}

async fn read(mut reader: BackedReader) {
    while let Ok(Some(_)) = reader.read_chunk(1 << 20).await {}
}

#[test]
fn datagrams_become_as_large_as_the_path_and_the_client_allow_in_both_directions() {
    for (allowed, mtu, at_least, at_most) in [
        (None, 1472, 1430, 1452),
        (None, 9000, 1430, 1452),
        (Some(1200), 9000, 1200, 1200),
        (Some(6500), 9000, 6470, 6500),
        (Some(6500), 1472, 1440, 1472),
        (Some(6500), 1280, 1250, 1280),
    ] {
        for up in [true, false] {
            let play = |world: World| async move {
                let bulk = Bulk::new(&world, allowed, mtu, up).await;
                let grow = async {
                    while bulk.sizes()[usize::from(!up)] < at_least {
                        sleep(Duration::from_millis(10)).await;
                    }
                };
                let begun = Instant::now();
                timeout(Duration::from_secs(60), grow).await.unwrap_or_else(|_| {
                    panic!("{allowed:?} on {mtu}: {:?}", bulk.sizes());
                });
                println!("{allowed:?} on {mtu}, up {up}: after {:?}", begun.elapsed());
                sleep(Duration::from_secs(5)).await;
                assert!(bulk.sizes().into_iter().all(|size| size <= at_most), "{:?}", bulk.sizes());
                bulk.end().await;
            };
            world::run(0, false, play).result.expect("it ends well");
        }
    }
}

/// A sign of life is a packet, and as large as others are.
#[test]
fn large_datagrams_flow_again_as_soon_as_the_network_is_back() {
    for up in [true, false] {
        let play = |world: World| async move {
            let bulk = Bulk::new(&world, Some(6500), 9000, up).await;
            sleep(Duration::from_secs(5)).await;
            let gates = |gate| {
                BOTH_WAYS.into_iter().for_each(|way| world.network.set_gate(1, way, gate));
            };
            gates(Gate::Closed);
            sleep(Duration::from_secs(20)).await;
            gates(Gate::Open);
            let (back, had) = (Instant::now(), bulk.received());
            let flows = async {
                while bulk.received() == had {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(60), flows).await.expect("it goes on");
            let took = back.elapsed();
            println!("up {up}: the first byte after {took:?}");
            assert!(took <= Duration::from_millis(50) + 4 * LATENCY, "{took:?}");
            bulk.end().await;
        };
        world::run(0, false, play).result.expect("it ends well");
    }
}

/// As when a laptop leaves its dock for a tunnel. QUIC's packets in bulk are too large
/// from one moment to the next, and nobody says so.
#[test]
fn a_path_that_becomes_narrower_stalls_bulk_for_a_moment() {
    for (allowed, before, after) in [(None, 1472, 1300), (Some(6500), 9000, 1472)] {
        for up in [true, false] {
            let play = |world: World| async move {
                let bulk = Bulk::new(&world, allowed, before, up).await;
                sleep(Duration::from_secs(10)).await;
                world.network.pave(1, road(after), road(after));
                let narrow = Instant::now();
                let had = bulk.received();
                let flows = async {
                    while bulk.received() < had + (4 << 20) {
                        sleep(Duration::from_millis(1)).await;
                    }
                };
                timeout(Duration::from_secs(60), flows).await.expect("it goes on");
                let took = narrow.elapsed();
                println!("{before} to {after}, up {up}: 4 MiB after {took:?}");
                // 335 ms without a stall. quinn believes it after four bursts of losses.
                assert!(took < Duration::from_secs(3), "{took:?}");
                bulk.end().await;
            };
            world::run(0, false, play).result.expect("it ends well");
        }
    }
}
