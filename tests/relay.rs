//! The relay that other tests trust to be a bad network.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::timeout;

use self::relay::Direction::{ToClient, ToServer};
use self::relay::{Faults, Relay};

#[path = "../examples/relay/mod.rs"]
mod relay;

/// Fails a test that waits for what never comes; no test waits for its end.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(PATIENCE, event).await.expect("did not happen")
}

async fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 2048];
    let (len, from) = soon(socket.recv_from(&mut buffer)).await.unwrap();
    (String::from_utf8(buffer[..len].to_vec()).unwrap(), from)
}

/// A server, a relay to it, and a client of the relay.
struct Net {
    relay: Relay,
    server: UdpSocket,
    client: UdpSocket,
}

impl Net {
    async fn new() -> Self {
        Self::seeded(0).await
    }

    async fn seeded(seed: u64) -> Self {
        let server = socket().await;
        let relay = Relay::start(server.local_addr().unwrap(), seed).await.unwrap();
        Self { relay, server, client: socket().await }
    }

    async fn send(&self, text: &str) {
        self.send_from(&self.client, text).await;
    }

    async fn send_from(&self, client: &UdpSocket, text: &str) {
        client.send_to(text.as_bytes(), self.relay.addr()).await.unwrap();
    }

    /// Expects `text` at the server; returns the port it came from.
    async fn arrives(&self, text: &str) -> SocketAddr {
        let (got, from) = receive(&self.server).await;
        assert_eq!(got, text);
        from
    }

    /// Passes one datagram each way; returns the flow's upstream port.
    async fn ping(&self, client: &UdpSocket, text: &str) -> SocketAddr {
        self.send_from(client, text).await;
        let upstream = self.arrives(text).await;
        self.server.send_to(text.as_bytes(), upstream).await.unwrap();
        assert_eq!(receive(client).await, (text.to_owned(), self.relay.addr()));
        upstream
    }
}

#[tokio::test]
async fn a_perfect_network_forwards_both_ways_and_counts() {
    let net = Net::new().await;
    let other = socket().await;
    let first = net.ping(&net.client, "one").await;
    let second = net.ping(&other, "three").await;

    assert_ne!(first, second, "each client has an upstream port of its own");
    let stats = net.relay.stats();
    assert_eq!((stats.flows, stats.renumberings), (2, 0));
    for lane in [stats.to_server, stats.to_client] {
        assert_eq!((lane.datagrams, lane.bytes, lane.dropped.total()), (2, 8, 0));
    }
}

#[tokio::test]
async fn works_over_ipv6() {
    let Ok(server) = UdpSocket::bind("[::1]:0").await else {
        eprintln!("skipped: no IPv6 here");
        return;
    };
    let relay = Relay::start(server.local_addr().unwrap(), 0).await.unwrap();
    let client = UdpSocket::bind("[::1]:0").await.unwrap();
    client.send_to(b"six", relay.addr()).await.unwrap();
    assert_eq!(receive(&server).await.0, "six");
}

/// Which of 200 datagrams survive half of all being lost.
async fn survivors(seed: u64) -> Vec<String> {
    let net = Net::seeded(seed).await;
    // Not counted by the dice: nothing can happen to it.
    net.ping(&net.client, "ping").await;
    net.relay.set_faults(ToServer, Faults { loss: 0.5, ..Faults::default() });
    for number in 0..200 {
        net.send(&number.to_string()).await;
    }
    let judged = net
        .relay
        .wait_until(|stats| stats.to_server.datagrams + stats.to_server.dropped.loss == 201);
    soon(judged).await;
    net.relay.set_faults(ToServer, Faults::default());
    net.send("end").await;

    let mut arrived = Vec::new();
    loop {
        match receive(&net.server).await.0 {
            end if end == "end" => return arrived,
            number => arrived.push(number),
        }
    }
}

#[tokio::test]
async fn the_seed_decides_which_datagrams_are_lost() {
    let first = survivors(7).await;
    assert!((60..140).contains(&first.len()), "{} of 200", first.len());
    assert_eq!(first, survivors(7).await);
    assert_ne!(first, survivors(8).await);
}

#[tokio::test]
async fn a_duplicate_arrives_twice() {
    let net = Net::new().await;
    net.relay.set_faults(ToServer, Faults { duplicate: 1.0, ..Faults::default() });
    net.send("twin").await;
    assert_eq!(net.arrives("twin").await, net.arrives("twin").await);
    let stats = net.relay.stats().to_server;
    assert_eq!((stats.duplicated, stats.datagrams), (1, 2));
}

#[tokio::test]
async fn a_datagram_that_is_held_back_is_overtaken() {
    let net = Net::new().await;
    let reorder_by = Duration::from_millis(300);
    net.relay.set_faults(ToServer, Faults { reorder: 1.0, reorder_by, ..Faults::default() });
    net.send("first").await;
    soon(net.relay.wait_until(|stats| stats.to_server.reordered == 1)).await;
    net.relay.set_faults(ToServer, Faults::default());
    net.send("second").await;
    net.arrives("second").await;
    net.arrives("first").await;
}

#[tokio::test]
async fn delay_and_jitter_keep_the_order_even_when_they_are_lifted() {
    let net = Net::new().await;
    let delay = Duration::from_millis(100);
    net.relay.set_faults(ToServer, Faults { delay, jitter: delay, ..Faults::default() });
    let start = Instant::now();
    for number in 0..50 {
        net.send(&number.to_string()).await;
    }
    let taken =
        net.relay.wait_until(|stats| stats.to_server.under_way + stats.to_server.datagrams == 50);
    soon(taken).await;
    net.relay.set_faults(ToServer, Faults::default());
    net.send("50").await;
    net.arrives("0").await;
    assert!(start.elapsed() >= delay);
    for number in 1..=50 {
        net.arrives(&number.to_string()).await;
    }
}

#[tokio::test]
async fn a_cut_kills_old_flows_for_ever_and_lets_new_ones_pass() {
    let net = Net::new().await;
    let upstream = net.ping(&net.client, "before").await;
    net.relay.cut();
    net.send("lost").await;
    net.server.send_to(b"lost", upstream).await.unwrap();
    let dead = net
        .relay
        .wait_until(|stats| (stats.to_server.dropped.cut, stats.to_client.dropped.cut) == (1, 1));
    soon(dead).await;

    let newcomer = socket().await;
    net.ping(&newcomer, "after").await;
}

#[tokio::test]
async fn who_goes_on_with_a_connection_from_another_address_shares_the_fate_of_its_flow() {
    let net = Net::new().await;
    let [old, fresh, other] = [&net.client, &socket().await, &socket().await];
    // After the first byte comes the connection id.
    let upstream = net.ping(old, "0-one-two- before").await;
    assert_ne!(net.ping(fresh, "0-one-two- beside").await, upstream);
    assert_eq!(net.relay.stats().flows, 1);
    net.relay.cut();
    net.send_from(fresh, "0-one-two- lost").await;
    net.send_from(&socket().await, "0-one-two- lost").await;
    soon(net.relay.wait_until(|stats| stats.to_server.dropped.cut == 2)).await;
    net.ping(other, "0-another- passes").await;
    assert_eq!(net.relay.stats().flows, 2);
}

#[tokio::test]
async fn a_cut_also_takes_datagrams_that_are_under_way() {
    let net = Net::new().await;
    let delay = Duration::from_millis(200);
    net.relay.set_faults(ToServer, Faults { delay, ..Faults::default() });
    net.send("arrives late").await;
    net.arrives("arrives late").await;
    net.send("never arrives").await;
    soon(net.relay.wait_until(|stats| stats.to_server.under_way == 1)).await;
    net.relay.cut();
    soon(net.relay.wait_until(|stats| stats.to_server.dropped.cut == 1)).await;
}

#[tokio::test]
async fn a_frozen_flow_lives_on_after_the_thaw() {
    let net = Net::new().await;
    let upstream = net.ping(&net.client, "before").await;
    net.relay.freeze();
    net.send("lost").await;
    net.server.send_to(b"lost", upstream).await.unwrap();
    let silent = net.relay.wait_until(|stats| {
        (stats.to_server.dropped.frozen, stats.to_client.dropped.frozen) == (1, 1)
    });
    soon(silent).await;
    net.relay.thaw();
    assert_eq!(net.ping(&net.client, "after").await, upstream);
}

#[tokio::test]
async fn a_block_is_one_way() {
    let net = Net::new().await;
    let upstream = net.ping(&net.client, "before").await;
    net.relay.block(ToClient, true);
    net.send("passes").await;
    net.arrives("passes").await;
    net.server.send_to(b"lost", upstream).await.unwrap();
    soon(net.relay.wait_until(|stats| stats.to_client.dropped.blocked == 1)).await;
    net.relay.block(ToClient, false);
    net.ping(&net.client, "after").await;
}

#[tokio::test]
async fn held_datagrams_of_a_cut_flow_arrive_in_order_after_its_successor() {
    let net = Net::new().await;
    let old_port = net.ping(&net.client, "before").await;
    net.relay.hold(ToServer);
    for number in 0..40 {
        net.send(&number.to_string()).await;
    }
    soon(net.relay.wait_until(|stats| stats.to_server.held == 40)).await;
    net.relay.cut();

    let successor = socket().await;
    let new_port = net.ping(&successor, "after").await;
    net.relay.release(ToServer);
    net.send_from(&successor, "last").await;
    for number in 0..40 {
        assert_eq!(net.arrives(&number.to_string()).await, old_port);
    }
    assert_eq!(net.arrives("last").await, new_port);
    assert_eq!(net.relay.stats().to_server.held, 0);
}

#[tokio::test]
async fn held_answers_reach_the_client_they_were_for() {
    let net = Net::new().await;
    let upstream = net.ping(&net.client, "before").await;
    net.relay.hold(ToClient);
    net.server.send_to(b"late", upstream).await.unwrap();
    soon(net.relay.wait_until(|stats| stats.to_client.held == 1)).await;
    net.relay.cut();
    net.relay.freeze();
    net.relay.release(ToClient);
    assert_eq!(receive(&net.client).await.0, "late");
}

#[tokio::test]
async fn the_hold_is_bounded() {
    let net = Net::new().await;
    net.ping(&net.client, "before").await;
    net.relay.hold(ToServer);
    for number in 1..=5_000_u64 {
        net.send("x").await;
        // In step, so that no socket buffer overflows instead.
        let taken = net
            .relay
            .wait_until(|stats| stats.to_server.held + stats.to_server.dropped.overflow == number);
        soon(taken).await;
    }
    let stats = net.relay.stats().to_server;
    assert_eq!((stats.held, stats.dropped.overflow), (4096, 904));
}

#[tokio::test]
async fn after_a_renumbering_the_server_sees_another_port_and_the_old_one_is_dead() {
    let net = Net::new().await;
    let old_port = net.ping(&net.client, "before").await;
    net.relay.renumber();
    let new_port = net.ping(&net.client, "after").await;
    assert_ne!(old_port, new_port);
    assert_eq!(net.relay.stats().renumberings, 1);

    net.server.send_to(b"lost", old_port).await.unwrap();
    soon(net.relay.wait_until(|stats| stats.to_client.dropped.stray == 1)).await;
    net.ping(&net.client, "still alive").await;
}

#[tokio::test]
async fn a_flow_follows_the_server_to_another_address() {
    let mut net = Net::new().await;
    let upstream = net.ping(&net.client, "before").await;
    let old_server = std::mem::replace(&mut net.server, socket().await);
    net.relay.set_server(net.server.local_addr().unwrap());
    assert_eq!(net.ping(&net.client, "after").await, upstream);

    old_server.send_to(b"lost", upstream).await.unwrap();
    soon(net.relay.wait_until(|stats| stats.to_client.dropped.stray == 1)).await;
}

#[tokio::test]
async fn outlives_a_server_and_a_client_that_are_gone() {
    let mut net = Net::new().await;
    let upstream = net.ping(&net.client, "before").await;
    // Both answer with ICMP errors from now on.
    let gone = std::mem::replace(&mut net.server, socket().await).local_addr().unwrap();
    net.relay.set_server(gone);
    for number in 2..10 {
        net.send("to nobody").await;
        soon(net.relay.wait_until(|stats| stats.to_server.datagrams >= number)).await;
    }
    net.client = socket().await;
    net.relay.set_server(net.server.local_addr().unwrap());
    for number in 2..10 {
        net.server.send_to(b"to nobody", upstream).await.unwrap();
        soon(net.relay.wait_until(|stats| stats.to_client.datagrams >= number)).await;
    }
    net.ping(&net.client, "after").await;
}

// Elsewhere a process may not open enough files.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flow_too_many_evicts_the_oldest() {
    let net = Net::new().await;
    let first = net.ping(&net.client, "first").await;
    let mut others = Vec::new();
    for _ in 0..256 {
        let client = socket().await;
        net.ping(&client, "other").await;
        others.push(client);
    }
    assert_eq!(net.relay.stats().flows, 257);
    net.ping(&others[0], "again").await;
    assert_eq!(net.relay.stats().flows, 257);
    assert_ne!(net.ping(&net.client, "first again").await, first);
    assert_eq!(net.relay.stats().flows, 258);
}

#[tokio::test]
async fn its_ports_are_free_after_the_drop() {
    let net = Net::new().await;
    let upstream = net.ping(&net.client, "before").await;
    let downstream = net.relay.addr();
    drop(net.relay);
    for addr in [upstream, downstream] {
        let free = async {
            while UdpSocket::bind(addr).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        soon(free).await;
    }
}
