//! One direction of the relay: gates, dice, the delay line and the hold.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::faults::{Dice, Fate, Faults};
use super::flow::FlowId;
use super::stats::LaneStats;

/// The way of a datagram through the relay.
///
/// Owns its socket, so that it can be sent when its flow is long gone.
#[derive(Clone)]
pub(super) struct Route {
    /// The flow it belongs to.
    pub(super) flow: FlowId,
    /// The socket it leaves by.
    pub(super) socket: Arc<UdpSocket>,
    /// Where it goes; `None` is the server, wherever that is by then.
    pub(super) client: Option<SocketAddr>,
}

/// The datagrams of one direction and all that is to happen to them:
///
/// ```text
/// enter -> gate -> dice -+---------------------> hold? -> send
///                        |                         ^
///                        +-> delay line -> gate ---+
///                              ^
///                  release ----+   (skips gate and hold)
/// ```
///
/// Datagrams leave under the lock of their lane: a change that a caller makes
/// is in force when the call returns, and nobody overtakes.
pub(super) struct Lane {
    pub(super) faults: Faults,
    pub(super) frozen: bool,
    pub(super) blocked: bool,
    /// Flows below this number are dead.
    pub(super) cut_below: FlowId,
    /// All but the levels, which the queues themselves tell.
    counters: LaneStats,
    /// Flows below this number are held; 0 if none is.
    hold_below: FlowId,
    held: VecDeque<Datagram>,
    /// Datagrams under way, the first due on top.
    line: BinaryHeap<Reverse<Waiting>>,
    /// When the last datagram in line is due that nobody may overtake. While
    /// it is there, even those without a delay queue behind it.
    back_of_line: Option<Instant>,
    /// Datagrams ever put in line: keeps those that are due at once in order.
    entered_line: u64,
    dice: Dice,
}

/// What a lane wants of its task after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// Nothing new.
    Unchanged,
    /// Something is due earlier than what the task waits for.
    Earlier,
}

impl Lane {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            faults: Faults::default(),
            frozen: false,
            blocked: false,
            cut_below: 0,
            counters: LaneStats::default(),
            hold_below: 0,
            held: VecDeque::new(),
            line: BinaryHeap::new(),
            back_of_line: None,
            entered_line: 0,
            dice: Dice::new(seed),
        }
    }

    pub(super) fn stats(&self) -> LaneStats {
        let [under_way, held] = [self.line.len(), self.held.len()].map(|len| len as u64);
        LaneStats { under_way, held, ..self.counters }
    }

    /// Takes a datagram that has just arrived.
    pub(super) fn enter(&mut self, route: &Route, data: &[u8], server: SocketAddr) -> Alarm {
        if !self.gate_is_open(route.flow) {
            return Alarm::Unchanged;
        }
        // The dice rest on a perfect network: how many datagrams passed before
        // the first fault is chance, and must not change whom it hits.
        let fate = if self.faults.is_none() { Fate::PASS } else { self.dice.throw(&self.faults) };
        let Fate::Arrives { twice, delay, aside } = fate else {
            self.counters.dropped.loss += 1;
            return Alarm::Unchanged;
        };
        self.counters.duplicated += u64::from(twice);
        self.counters.reordered += u64::from(aside.is_some());
        let copies = if twice { 2 } else { 1 };

        let direct = delay.is_zero() && aside.is_none() && self.back_of_line.is_none();
        if direct {
            for _ in 0..copies {
                self.leave(route, data, server);
            }
            return Alarm::Unchanged;
        }
        let mut alarm = Alarm::Unchanged;
        let now = Instant::now();
        for _ in 0..copies {
            if self.line.len() >= LINE_LIMIT {
                self.counters.dropped.overflow += 1;
                continue;
            }
            let datagram = Datagram { route: route.clone(), data: data.into() };
            let due = match aside {
                Some(aside) => now + delay + aside,
                None => self.queue_up(now + delay),
            };
            if self.put_in_line(datagram, due, false) == Alarm::Earlier {
                alarm = Alarm::Earlier;
            }
        }
        alarm
    }

    /// Sends what is due, up to a batch, and says when the next is due.
    pub(super) fn send_due(&mut self, server: SocketAddr) -> Option<Instant> {
        let now = Instant::now();
        for _ in 0..SEND_BATCH {
            let Some(first) = self.line.peek_mut() else { break };
            if first.0.due > now {
                break;
            }
            let Reverse(Waiting { datagram, released, .. }) = PeekMut::pop(first);
            if released {
                self.send(&datagram.route, &datagram.data, server);
            } else if self.gate_is_open(datagram.route.flow) {
                self.leave(&datagram.route, &datagram.data, server);
            }
        }
        let next = self.line.peek().map(|Reverse(first)| first.due);
        // Not while a batch that is due is left: the way is free for direct
        // datagrams only if nobody can be overtaken any more.
        let rest_is_later = next.is_none_or(|due| due > now);
        if rest_is_later && self.back_of_line.is_some_and(|back| back <= now) {
            self.back_of_line = None;
        }
        next
    }

    /// Holds the datagrams of all flows below `next_id` from now on.
    pub(super) fn hold(&mut self, next_id: FlowId) {
        self.hold_below = next_id;
    }

    /// Counts a datagram that belongs to no flow's route.
    pub(super) fn drop_stray(&mut self) {
        self.counters.dropped.stray += 1;
    }

    /// Counts a datagram whose flow could not be opened.
    pub(super) fn drop_unsent(&mut self) {
        self.counters.dropped.unsent += 1;
    }

    /// Ends the hold and puts what it has in line, paced.
    pub(super) fn release(&mut self) -> Alarm {
        self.hold_below = 0;
        let mut alarm = Alarm::Unchanged;
        let mut due = Instant::now();
        for (index, datagram) in std::mem::take(&mut self.held).into_iter().enumerate() {
            if index > 0 && index.is_multiple_of(RELEASE_BURST) {
                due += RELEASE_PACE;
            }
            let due = self.queue_up(due);
            if self.put_in_line(datagram, due, true) == Alarm::Earlier {
                alarm = Alarm::Earlier;
            }
        }
        alarm
    }

    /// Whether datagrams of `flow` get through now; counts it if not.
    fn gate_is_open(&mut self, flow: FlowId) -> bool {
        let dropped = &mut self.counters.dropped;
        let reason = if flow < self.cut_below {
            &mut dropped.cut
        } else if self.frozen {
            &mut dropped.frozen
        } else if self.blocked {
            &mut dropped.blocked
        } else {
            return true;
        };
        *reason += 1;
        false
    }

    /// Sends a datagram, unless its flow is held.
    fn leave(&mut self, route: &Route, data: &[u8], server: SocketAddr) {
        if route.flow >= self.hold_below {
            self.send(route, data, server);
        } else if self.held.len() < HOLD_LIMIT {
            self.held.push_back(Datagram { route: route.clone(), data: data.into() });
        } else {
            self.counters.dropped.overflow += 1;
        }
    }

    fn send(&mut self, route: &Route, data: &[u8], server: SocketAddr) {
        let to = route.client.unwrap_or(server);
        // Past tokio, whose `try_send_to` refuses until the reactor has first
        // looked at a socket: the first datagram of each flow would be lost.
        match SockRef::from(&*route.socket).send_to(data, &to.into()) {
            Ok(_) => {
                self.counters.datagrams += 1;
                self.counters.bytes += data.len() as u64;
            }
            // Full buffers and unreachable peers: a network drops and goes on.
            Err(_) => self.counters.dropped.unsent += 1,
        }
    }

    /// The first moment from `due` on that overtakes nobody in line.
    fn queue_up(&mut self, due: Instant) -> Instant {
        let due = self.back_of_line.map_or(due, |back| due.max(back));
        self.back_of_line = Some(due);
        due
    }

    fn put_in_line(&mut self, datagram: Datagram, due: Instant, released: bool) -> Alarm {
        let earlier = self.line.peek().is_none_or(|Reverse(first)| due < first.due);
        let number = self.entered_line;
        self.entered_line += 1;
        self.line.push(Reverse(Waiting { due, number, released, datagram }));
        if earlier { Alarm::Earlier } else { Alarm::Unchanged }
    }
}

struct Datagram {
    route: Route,
    data: Box<[u8]>,
}

/// A datagram in the delay line, ordered by `(due, number)`.
struct Waiting {
    due: Instant,
    number: u64,
    /// Comes from a hold: no gate and no hold stops it any more.
    released: bool,
    datagram: Datagram,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

/// Datagrams under way at a time: 600 ms at 300 Mbit/s, and at most 20 MB with
/// the datagrams that QUIC sends.
const LINE_LIMIT: usize = 16_384;

/// Datagrams held at a time: a QUIC window or two, about 5 MB.
const HOLD_LIMIT: usize = 4_096;

/// Released datagrams that leave together. With [`RELEASE_PACE`] about
/// 150 Mbit/s: all at once they would overflow the receiver's socket buffer
/// (212,992 bytes by default on Linux, some ninety full datagrams).
const RELEASE_BURST: usize = 16;
const RELEASE_PACE: Duration = Duration::from_millis(1);

/// Delayed datagrams sent without a pause: leaves room for other tasks.
const SEND_BATCH: usize = 64;
