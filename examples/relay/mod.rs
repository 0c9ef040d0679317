//! A bad network in a box: a UDP relay for examples and tests.
//!
//! The relay stands between QUIC clients and one server on loopback. Clients
//! dial [`Relay::addr`]; towards the server each client address has a socket
//! of its own, as behind a NAT. Each is a *flow*. Left alone, a relay passes
//! everything on at once; what it can imitate:
//!
//! | call | in the real world |
//! |---|---|
//! | [`Faults::loss`] | Wi-Fi at the edge of its range, an overfull router |
//! | [`Faults::duplicate`] | a link layer that repeats what it had delivered |
//! | [`Faults::reorder`] | parallel paths of different length |
//! | [`Faults::delay`] | distance: half of the round-trip time for each direction |
//! | [`Faults::jitter`] | queues that fill and drain, a busy radio cell |
//! | [`Relay::cut`] | a NAT or a firewall that lost its table; a laptop that left the network: the old connection is dead, a new one works |
//! | [`Relay::freeze`] | a tunnel, a lid that is closed, an unplugged cable: nothing passes, then all is as before |
//! | [`Relay::block`] | a firewall rule or a broken route: packets pass one way only |
//! | [`Relay::hold`] | an overfull buffer: packets of an old connection that arrive after its successor's |
//! | [`Relay::renumber`] | a NAT rebinding: same client, another public port |
//! | [`Relay::set_server`] | a server that moved or was restarted elsewhere |
//!
//! Random decisions come from a seed: in each direction the n-th datagram that
//! meets [`Faults`] has the same fate in every run. A change is in force for
//! all datagrams that leave the relay after the call.
//!
//! ECN marks and the don't-fragment bit are not carried over.
//!
//! ```ignore
//! let relay = Relay::start(server.local_addr()?, 1).await?;
//! client.dial(relay.addr()).await?;
//! relay.set_faults(Direction::ToServer, Faults { loss: 0.05, ..Faults::default() });
//! relay.cut();
//! relay.wait_until(|stats| stats.flows == 2).await; // the client dialled anew
//! ```

// Every example and test uses only a part of it.
#![allow(dead_code, unused_imports)]

mod faults;
mod flow;
mod lane;
mod pump;
mod stats;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

pub use self::faults::Faults;
use self::flow::{OwnedTask, bind_beside};
use self::pump::Pump;
pub use self::stats::{Dropped, LaneStats, RelayStats};

/// A UDP relay that can be told to misbehave; see the module.
///
/// Owns its tasks: they end when it is dropped, its ports close soon after.
/// Up to 256 flows live at a time; one more evicts the oldest, whose client
/// counts as a new one if it sends again.
pub struct Relay {
    pump: Arc<Pump>,
    addr: SocketAddr,
    _tasks: [OwnedTask; 3],
}

/// A way through the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the clients to the server.
    ToServer,
    /// From the server to the clients.
    ToClient,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];
}

impl Relay {
    /// Starts a relay to `server`, on a loopback port of the same family.
    ///
    /// # Errors
    ///
    /// If no socket can be bound.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let downstream = bind_beside(server)?;
        let addr = downstream.local_addr()?;
        let pump = Arc::new(Pump::new(downstream, server, seed));
        let tasks = [
            tokio::spawn(pump.clone().read_clients()),
            tokio::spawn(pump.clone().run_lane(Direction::ToServer)),
            tokio::spawn(pump.clone().run_lane(Direction::ToClient)),
        ];
        Ok(Self { pump, addr, _tasks: tasks.map(OwnedTask) })
    }

    /// Where clients dial.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Replaces the random faults of one direction.
    ///
    /// Datagrams under way keep the delay they were given, and later ones do
    /// not overtake them, however short the new delay is.
    pub fn set_faults(&self, direction: Direction, faults: Faults) {
        self.pump.lane(direction).faults = faults;
    }

    /// Kills every flow that exists now: its datagrams vanish in both
    /// directions, for ever, those under way included. New client addresses
    /// pass, unless they go on with the connection of such a flow: only a new
    /// connection gets through, or one that has moved to another connection id.
    pub fn cut(&self) {
        let next_id = self.pump.flows().next_id();
        for direction in Direction::BOTH {
            self.pump.lane(direction).cut_below = next_id;
        }
    }

    /// Drops everything in both directions until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.set_frozen(true);
    }

    /// Ends [`freeze`](Self::freeze); flows live on.
    pub fn thaw(&self) {
        self.set_frozen(false);
    }

    fn set_frozen(&self, frozen: bool) {
        for direction in Direction::BOTH {
            self.pump.lane(direction).frozen = frozen;
        }
    }

    /// Drops everything in one direction while `on`.
    pub fn block(&self, direction: Direction, on: bool) {
        self.pump.lane(direction).blocked = on;
    }

    /// Keeps the datagrams of every flow that exists now, in this direction,
    /// until [`release`](Self::release): up to 4,096, the rest is dropped.
    ///
    /// New client addresses pass, so that a connection can be replaced while
    /// datagrams of the old one are still under way. What a cut, a freeze or a
    /// fault drops is not kept. Called again, it also holds newer flows.
    pub fn hold(&self, direction: Direction) {
        let next_id = self.pump.flows().next_id();
        self.pump.lane(direction).hold(next_id);
    }

    /// Delivers what [`hold`](Self::hold) has kept, in order and before
    /// anything that comes later, and keeps no more.
    ///
    /// Nothing stops these datagrams now, not even a cut or a freeze since.
    /// They leave by the port that their flow had when they came. They are
    /// paced at 16 a millisecond; [`LaneStats::datagrams`] tells when they are
    /// gone.
    pub fn release(&self, direction: Direction) {
        let alarm = self.pump.lane(direction).release();
        self.pump.heed(direction, alarm);
        // The level of `held` has changed.
        self.pump.counted().notify_waiters();
    }

    /// Gives every live flow another upstream port: the server sees its client
    /// move. What the server still sends to the old port is dropped.
    ///
    /// A flow for which no socket can be bound keeps its port.
    pub fn renumber(&self) {
        let cut_below = self.pump.lane(Direction::ToServer).cut_below;
        self.pump.renumber(cut_below);
    }

    /// Sends to another server from now on, for all flows, and takes answers
    /// only from there. It must be of the same address family.
    pub fn set_server(&self, server: SocketAddr) {
        *self.pump.server() = server;
    }

    /// The counters as they are now.
    pub fn stats(&self) -> RelayStats {
        let [to_server, to_client] = Direction::BOTH.map(|way| self.pump.lane(way).stats());
        let flows = self.pump.flows();
        let (flows, renumberings) = (flows.next_id(), flows.renumberings());
        RelayStats { to_server, to_client, flows, renumberings }
    }

    /// Waits until the counters satisfy `condition`; returns them.
    ///
    /// # Cancel safety
    ///
    /// Holds nothing: may be dropped and called again.
    pub async fn wait_until(&self, mut condition: impl FnMut(&RelayStats) -> bool) -> RelayStats {
        loop {
            // Before the look at the counters, or a change right after it
            // would be missed.
            let counted = self.pump.counted().notified();
            let stats = self.stats();
            if condition(&stats) {
                return stats;
            }
            counted.await;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Readers own the pump and are owned by its table: a circle.
        self.pump.flows().close();
    }
}
