//! What happens to the roads: faults, from dice, at random times.
//!
//! A new fault is a line in [`ODDS`] and an arm of [`Weather::strike`].

use std::collections::BTreeMap;
use std::time::Duration;

use evermux::{LinkState, Side};
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::network::{BOTH_WAYS, Conditions, Gate, Way};
use crate::world::World;

/// One blow of the weather.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing gets through in some ways, for a while.
    Blackhole,
    /// Everything waits, for a while, and then comes at once.
    Freeze,
    /// The sockets of today will never be heard again: their connections die.
    Cut,
    /// A new address; the old one may still work.
    Renumber,
    /// The connections of today become slow, so slow that a resume comes before.
    SlowPath,
    /// The connections of today die, and what was under way on them arrives
    /// later, perhaps when others have long taken their place.
    Latecomers,
    /// A claim, or the answer to it, arrives when its client has given it up and
    /// tries again, or has made it.
    Straggler,
    /// Another network: the connections of today die, and the client knows.
    Roam,
    /// Another network, perhaps, and the client's application is told by its system.
    NetworkChanged,
    /// A client's application wants another connection before it lets go of this one,
    /// which may be dead, or die meanwhile.
    Handover,
    /// Another place: other latency, loss, rate.
    Conditions,
    /// An application wants another connection.
    Reconnect,
    /// The machines were asleep: the clocks jump, or have stood still.
    Sleep,
    /// The server's host stands still: what is sent to it waits.
    ServerFreeze,
}

/// How often each comes, in relation to the others.
const ODDS: &[(Fault, u64)] = &[
    (Fault::Blackhole, 2),
    (Fault::Freeze, 1),
    (Fault::Cut, 3),
    (Fault::Renumber, 2),
    (Fault::SlowPath, 2),
    (Fault::Latecomers, 3),
    (Fault::Straggler, 2),
    (Fault::Roam, 3),
    (Fault::NetworkChanged, 2),
    (Fault::Handover, 2),
    (Fault::Conditions, 2),
    (Fault::Reconnect, 2),
    (Fault::Sleep, 1),
    (Fault::ServerFreeze, 1),
];

impl Fault {
    fn draw(dice: &mut Dice) -> Self {
        let mut left = dice.pick(0..ODDS.iter().map(|(_, odds)| odds).sum());
        let drawn = ODDS.iter().find(|(_, odds)| match left.checked_sub(*odds) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        drawn.expect("less than the sum").0
    }
}

/// Blows on the roads of some hosts.
pub struct Weather {
    pub world: World,
    pub hosts: Vec<u8>,
    pub dice: Dice,
    pub blown: BTreeMap<Fault, u64>,
}

impl Weather {
    pub fn new(world: World, hosts: Vec<u8>, dice: Dice) -> Self {
        Self { world, hosts, dice, blown: BTreeMap::new() }
    }

    /// So many faults, at random times.
    pub async fn blow(&mut self, faults: u64) {
        for _ in 0..faults {
            sleep(self.dice.pick_millis(5..10_000)).await;
            let fault = Fault::draw(&mut self.dice);
            let mut host = self.dice.choose(&self.hosts);
            match self.dice.pick(0..10) {
                0..3 => self.when_detached().await,
                3..5 => host = self.when_answered(host).await.unwrap_or(host),
                _ => {}
            }
            *self.blown.entry(fault).or_default() += 1;
            self.strike(fault, host).await;
        }
    }

    /// Waits until a client has lost its link, or for a while.
    async fn when_detached(&mut self) {
        let down = |world: &World| {
            let clients = world.watch.pairs().into_iter().filter_map(|p| p.session(Side::Client));
            clients.map(|session| session.link()).any(|link| !link.is_attached())
        };
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && !down(&self.world) {
            sleep(Duration::from_millis(5)).await;
        }
        // An attempt waits for its turn, and takes two round trips.
        sleep(Duration::from_millis(self.dice.pick(1..800))).await;
    }

    /// Sends the clients to another network, and waits until the server has
    /// answered one of them there, and a moment longer: now its claim is under
    /// way, or the answer. Or for a while.
    async fn when_answered(&mut self, host: u8) -> Option<u8> {
        let Self { world, dice, .. } = self;
        world.network.set_gate_of_connections(host, Gate::Closed);
        reconnect(world, Side::Client, dice).await;
        let host = timeout(Duration::from_secs(10), world.network.answered()).await.ok()?;
        sleep(Duration::from_millis(dice.pick_log(1..200))).await;
        Some(host)
    }

    /// Conditions of any kind; the round trip takes 10 ms or more.
    pub fn conditions(dice: &mut Dice) -> Conditions {
        let jumbo = dice.clone().chance(125);
        let mut latency = || dice.pick_millis(5..200);
        Conditions {
            latency: latency(),
            jitter: dice.choose(&[0, 0, 1, 5, 30].map(Duration::from_millis)),
            loss: dice.choose(&[0, 0, 0, 5, 20, 100]),
            duplicate: dice.choose(&[0, 0, 0, 10]),
            rate: dice.pick_log(50_000..12_500_000),
            queue: dice.pick_log(16 << 10..256 << 10),
            mtu: dice.pick(1252..1480) as usize * if jumbo { 6 } else { 1 },
        }
    }

    async fn strike(&mut self, fault: Fault, mut host: u8) {
        if fault == Fault::Straggler {
            host = self.when_answered(host).await.unwrap_or(host);
        }
        let Self { world, hosts, dice, .. } = self;
        let network = &world.network;
        let ways = dice.choose(&[&BOTH_WAYS[..], &[Way::Up], &[Way::Down]]);
        // From hardly noticed to far beyond every timeout but QUIC's own.
        let lasting = dice.pick_millis(20..45_000);
        let all = |hosts: &[u8], gate| {
            for host in hosts {
                BOTH_WAYS.into_iter().for_each(|way| network.set_gate(*host, way, gate));
            }
        };
        match fault {
            Fault::Blackhole | Fault::Freeze => {
                let gate = if fault == Fault::Freeze { Gate::Holding } else { Gate::Closed };
                ways.iter().for_each(|way| network.set_gate(host, *way, gate));
                sleep(lasting).await;
                ways.iter().for_each(|way| network.set_gate(host, *way, Gate::Open));
            }
            Fault::Cut => network.set_gate_of_connections(host, Gate::Closed),
            Fault::Renumber => network.renumber(host, dice.chance(500)),
            Fault::SlowPath => {
                network.set_gate_of_connections(host, Gate::Holding);
                sleep(lasting).await;
                network.release_sockets(host);
            }
            Fault::Latecomers => {
                network.set_gate_of_connections(host, Gate::Holding);
                sleep(dice.pick_millis(1..500)).await;
                network.set_gate_of_connections(host, Gate::Closed);
                sleep(dice.pick_millis(500..20_000)).await;
                network.release_sockets(host);
            }
            Fault::Straggler => {
                network.set_gate_of_connections(host, Gate::Holding);
                sleep(dice.pick_millis(1..500)).await;
                network.set_gate_of_connections(host, Gate::Closed);
                let _ = timeout(Duration::from_secs(20), network.answered()).await;
                sleep(Duration::from_millis(dice.pick_log(1..2_000))).await;
                network.release_sockets(host);
            }
            Fault::Roam => {
                network.set_gate_of_connections(host, Gate::Closed);
                if dice.chance(500) {
                    network.renumber(host, false);
                }
                reconnect(world, Side::Client, dice).await;
            }
            Fault::NetworkChanged => {
                match dice.pick(0..3) {
                    0 => network.renumber(host, dice.chance(500)),
                    1 => network.set_gate_of_connections(host, Gate::Closed),
                    _ => {}
                }
                for pair in world.watch.pairs() {
                    pair.session(Side::Client).iter().for_each(|session| session.network_changed());
                }
            }
            Fault::Handover => {
                if dice.chance(250) {
                    network.set_gate_of_connections(host, Gate::Closed);
                }
                for pair in world.watch.pairs() {
                    if let Some(session) = pair.session(Side::Client) {
                        // The future may be dropped: the handover goes on.
                        let _ = timeout(Duration::ZERO, session.handover()).await;
                    }
                }
                if dice.chance(250) {
                    sleep(Duration::from_millis(dice.pick_log(1..500))).await;
                    network.set_gate_of_connections(host, Gate::Closed);
                }
            }
            Fault::Conditions => {
                network.pave(host, Self::conditions(dice), Self::conditions(dice));
            }
            Fault::Reconnect => {
                let side = dice.choose(&[Side::Client, Side::Server]);
                reconnect(world, side, dice).await;
            }
            Fault::Sleep if dice.chance(500) => network.fall_asleep(lasting),
            Fault::Sleep => {
                world.trace.note(format_args!("asleep for {lasting:?}"));
                tokio::time::advance(lasting).await;
            }
            Fault::ServerFreeze => {
                all(hosts, Gate::Holding);
                sleep(lasting).await;
                all(hosts, Gate::Open);
            }
        }
    }
}

/// The applications of a side want other connections, some of them, and wait for
/// them or not for long. Nobody here holds the session meanwhile: its process may be
/// killed.
async fn reconnect(world: &World, side: Side, dice: &mut Dice) {
    for pair in world.watch.pairs() {
        let Some(session) = pair.session(side).filter(|_| dice.chance(700)) else { continue };
        let at_most = Duration::from_millis(dice.pick_log(1..2_000));
        let before = session.stats().epoch;
        // The future may be dropped: the reconnect goes on.
        let _ = timeout(Duration::ZERO, session.reconnect()).await;
        let mut link = session.watch_link();
        drop(session);
        let new = |state: &LinkState| match state {
            LinkState::Attached { epoch, .. } => *epoch > before,
            LinkState::Closed { .. } => true,
            _ => false,
        };
        let _ = timeout(at_most, link.wait_for(new)).await;
    }
}
