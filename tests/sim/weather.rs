//! What happens to the roads: faults, from dice, at random times.
//!
//! A new fault is a new arm of [`Fault::draw`] and of [`Weather::strike`].

use std::collections::BTreeMap;
use std::time::Duration;

use evermux::Side;
use tokio::time::{Instant, sleep};

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
    /// Another place: other latency, loss, rate.
    Conditions,
    /// An application wants another connection.
    Reconnect,
    /// The clocks jump: the machines were asleep.
    Sleep,
    /// The server's host stands still: what is sent to it waits.
    ServerFreeze,
}

impl Fault {
    fn draw(dice: &mut Dice) -> Self {
        use Fault::{
            Blackhole, Conditions, Cut, Freeze, Reconnect, Renumber, ServerFreeze, Sleep, SlowPath,
        };
        dice.choose(&[
            Blackhole,
            Blackhole,
            Freeze,
            Cut,
            Cut,
            Cut,
            Renumber,
            Renumber,
            SlowPath,
            SlowPath,
            Conditions,
            Conditions,
            Reconnect,
            Reconnect,
            Sleep,
            ServerFreeze,
        ])
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
            *self.blown.entry(fault).or_default() += 1;
            self.strike(fault).await;
        }
    }

    /// Conditions of any kind; the round trip takes 10 ms or more.
    pub fn conditions(dice: &mut Dice) -> Conditions {
        let mut latency = || dice.pick_millis(5..200);
        Conditions {
            latency: latency(),
            jitter: dice.choose(&[0, 0, 1, 5, 30].map(Duration::from_millis)),
            loss: dice.choose(&[0, 0, 0, 5, 20, 100]),
            duplicate: dice.choose(&[0, 0, 0, 10]),
            rate: dice.pick_log(50_000..12_500_000),
            queue: dice.pick_log(16 << 10..256 << 10),
            mtu: dice.pick(1252..1480) as usize,
        }
    }

    async fn strike(&mut self, fault: Fault) {
        let Self { world, hosts, dice, .. } = self;
        let network = &world.network;
        let host = dice.choose(hosts);
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
            Fault::Cut => network.set_gate_of_sockets(host, Gate::Closed),
            Fault::Renumber => network.renumber(host, dice.chance(500)),
            Fault::SlowPath => {
                network.set_gate_of_sockets(host, Gate::Holding);
                sleep(lasting).await;
                network.release_sockets(host);
            }
            Fault::Conditions => {
                network.pave(host, Self::conditions(dice), Self::conditions(dice));
            }
            Fault::Reconnect => {
                let side = dice.choose(&[Side::Client, Side::Server]);
                for pair in world.watch.pairs() {
                    if let Some(session) = pair.session(side).filter(|_| dice.chance(500)) {
                        // The future may be dropped: the reconnect goes on.
                        let at_most = Instant::now() + dice.pick_millis(1..2_000);
                        let _ = tokio::time::timeout_at(at_most, session.reconnect()).await;
                    }
                }
            }
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
