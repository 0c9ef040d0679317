//! A network in memory: hosts, the roads between each of them and the server, and
//! the address translation on each road.
//!
//! Every client lives on a host of its own behind a NAT of its own; the server is
//! at [`SERVER`]. A datagram takes the road of its client's host, in one of two
//! [`Way`]s, each with its own [`Conditions`]. What is under way lies in one list,
//! ordered by when it arrives; [`Network::run`] delivers it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evermux::simulation::{Socket, World};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dice::Dice;
use crate::trace::Trace;

/// Where the server listens.
pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4433);

/// What the system gives to sockets that do not ask for a port.
const PORTS: RangeInclusive<u16> = 1025..=u16::MAX;

/// What a NAT gives to sockets.
const PUBLIC_PORTS: RangeInclusive<u16> = 1..=u16::MAX;

/// Most datagrams that wait in a socket.
const INBOX_MAX: usize = 4096;

/// The address of a client's host.
pub fn host_addr(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, host).into()
}

fn host_number(addr: IpAddr) -> u8 {
    let IpAddr::V4(addr) = addr else { unreachable!("hosts have IPv4") };
    addr.octets()[3]
}

/// A direction of a road.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

pub const BOTH_WAYS: [Way; 2] = [Way::Up, Way::Down];

/// What a way does to datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub latency: Duration,
    /// Added to the latency, up to so much; more than a datagram's distance from
    /// the next reorders them.
    pub jitter: Duration,
    /// Of a thousand, how many are lost.
    pub loss: u64,
    /// Of a thousand, how many come twice.
    pub duplicate: u64,
    /// Bytes in a second.
    pub rate: u64,
    /// Bytes that wait for their turn at that rate; what comes on top is lost.
    pub queue: u64,
    /// Larger datagrams are lost.
    pub mtu: usize,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(20),
            jitter: Duration::ZERO,
            loss: 0,
            duplicate: 0,
            rate: 12_500_000,
            queue: 1 << 20,
            mtu: 1472,
        }
    }
}

/// As servers name their connections.
type ConnectionId = [u8; 8];

/// To which connection of the server's a datagram goes, after its handshake (RFC 9000
/// section 17.3).
fn connection_id(bytes: &[u8]) -> Option<ConnectionId> {
    let (first, rest) = bytes.split_first()?;
    let id = rest.first_chunk()?;
    (first & 0x80 == 0).then_some(*id)
}

/// What becomes of datagrams on a way, before its conditions matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// They are lost.
    Closed,
    /// They wait until it opens.
    Holding,
}

#[derive(Debug)]
pub struct Network {
    state: Mutex<State>,
    /// Something is under way that comes before all else.
    sooner: Notify,
    /// Something was delivered.
    pub delivery: Notify,
    /// The server was heard for the first time by a socket.
    answer: Notify,
    /// The same, for those who count.
    counted: Notify,
    pub trace: Trace,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    random: Dice,
    /// Hosts whose processes were killed and do not come back.
    buried: BTreeSet<IpAddr>,
    inboxes: BTreeMap<SocketAddr, Inbox>,
    roads: BTreeMap<IpAddr, Road>,
    /// By arrival; the number keeps those apart that arrive at once.
    under_way: BTreeMap<(Instant, u64), Datagram>,
    /// The last number that was given to anything.
    sent: u64,
    datagrams: u64,
    bytes: u64,
    delivered: u64,
    /// The last that was given out.
    port: u16,
    /// The host whose socket was the last to hear from the server at all.
    answered: u8,
    /// How long all machines have slept, while time stood still.
    asleep: Duration,
}

#[derive(Debug)]
struct Inbox {
    /// Tells this socket from an earlier one at the same address.
    generation: u64,
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
    /// Something has ever arrived.
    reached: bool,
}

#[derive(Clone, Debug)]
struct Datagram {
    number: u64,
    from: SocketAddr,
    to: SocketAddr,
    /// The client's own socket, whichever way it goes.
    client: SocketAddr,
    way: Way,
    /// Was held, and comes late, whatever became of its socket.
    late: bool,
    bytes: Vec<u8>,
}

/// One client host's way to the server and back.
#[derive(Debug)]
struct Road {
    up: Lane,
    down: Lane,
    /// The public address of each socket that has sent something.
    public: BTreeMap<SocketAddr, SocketAddr>,
    /// Whose each public address is: also earlier ones, if they still work.
    inside: BTreeMap<SocketAddr, SocketAddr>,
    /// What becomes of the datagrams of some sockets, in both ways.
    sockets: BTreeMap<SocketAddr, Gate>,
    /// The connection id that each socket has sent to last.
    ids: BTreeMap<SocketAddr, ConnectionId>,
    /// What becomes of sockets that send to these connection ids.
    connections: BTreeMap<ConnectionId, Gate>,
    /// Those that get anywhere, if not all do.
    admitted: Option<Vec<SocketAddr>>,
    /// Where the host is: part of its public addresses.
    place: u8,
    /// The last public port that was given out.
    public_port: u16,
    /// Datagrams that arrived at either end.
    delivered: u64,
}

#[derive(Debug)]
struct Lane {
    conditions: Conditions,
    gate: Gate,
    held: Vec<Datagram>,
    /// When what was sent so far will have passed, at the way's rate.
    busy_until: Instant,
}

/// Sockets that nothing reaches.
#[derive(Debug)]
pub struct Unplugged(BTreeMap<SocketAddr, Inbox>);

impl Network {
    pub fn new(mut dice: Dice, trace: Trace) -> Arc<Self> {
        let random = dice.fork();
        Arc::new(Self {
            state: Mutex::new(State {
                dice,
                random,
                inboxes: BTreeMap::new(),
                buried: BTreeSet::new(),
                roads: BTreeMap::new(),
                under_way: BTreeMap::new(),
                sent: 0,
                datagrams: 0,
                bytes: 0,
                delivered: 0,
                port: *PORTS.end(),
                answered: 0,
                asleep: Duration::ZERO,
            }),
            sooner: Notify::new(),
            delivery: Notify::new(),
            answer: Notify::new(),
            counted: Notify::new(),
            trace,
        })
    }

    /// Delivers what is sent, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            let next = self.lock().under_way.keys().next().map(|(at, _)| *at);
            match next {
                Some(at) if at <= Instant::now() => self.deliver_due(),
                Some(at) => tokio::select! {
                    biased;
                    () = self.sooner.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.sooner.notified().await,
            }
        }
    }

    /// A road with these conditions, for the client on `host`.
    pub fn pave(&self, host: u8, up: Conditions, down: Conditions) {
        self.trace.note(format_args!("road of {host}: up {up:?}, down {down:?}"));
        let lane = |conditions| Lane {
            conditions,
            gate: Gate::Open,
            held: Vec::new(),
            busy_until: Instant::now(),
        };
        let mut state = self.lock();
        match state.roads.get_mut(&host_addr(host)) {
            Some(road) => (road.up.conditions, road.down.conditions) = (up, down),
            None => {
                let road = Road {
                    up: lane(up),
                    down: lane(down),
                    public: BTreeMap::new(),
                    inside: BTreeMap::new(),
                    sockets: BTreeMap::new(),
                    ids: BTreeMap::new(),
                    connections: BTreeMap::new(),
                    admitted: None,
                    place: 0,
                    public_port: *PUBLIC_PORTS.end(),
                    delivered: 0,
                };
                state.roads.insert(host_addr(host), road);
            }
        }
    }

    /// Opens or closes a way. What was held goes on its way when it opens.
    pub fn set_gate(&self, host: u8, way: Way, gate: Gate) {
        self.trace.note(format_args!("host {host}: {way:?} {gate:?}"));
        self.with_road(host, |road| {
            let lane = road.lane(way);
            lane.gate = gate;
            if gate == Gate::Holding { Vec::new() } else { std::mem::take(&mut lane.held) }
        });
    }

    /// Opens or closes the road for the sockets that the host has now, and for later
    /// ones that try to go on with their connections; others that it makes later are
    /// free. What is under way is held too.
    pub fn set_gate_of_connections(&self, host: u8, gate: Gate) {
        self.set_gate_of_sockets(host, gate);
        if let Some(road) = self.lock().roads.get_mut(&host_addr(host)) {
            let gated = road.ids.iter().filter(|(socket, _)| road.sockets.contains_key(socket));
            road.connections.extend(gated.map(|(_, id)| (*id, gate)));
        }
    }

    /// The same for the sockets alone: their connections may go on from others.
    pub fn set_gate_of_sockets(&self, host: u8, gate: Gate) {
        self.trace.note(format_args!("host {host}: sockets of today {gate:?}"));
        let mut state = self.lock();
        let sockets: Vec<SocketAddr> =
            state.inboxes.keys().filter(|addr| addr.ip() == host_addr(host)).copied().collect();
        let State { roads, under_way, .. } = &mut *state;
        let Some(road) = roads.get_mut(&host_addr(host)) else { return };
        road.sockets.extend(sockets.iter().map(|socket| (*socket, gate)));
        if gate == Gate::Holding {
            under_way.retain(|_, datagram| {
                let free = !sockets.contains(&datagram.client);
                if !free {
                    road.lane(datagram.way).held.push(datagram.clone());
                }
                free
            });
        }
    }

    /// The sockets that the host makes from now on are heard by nobody; those that it
    /// has go on.
    pub fn admit_no_more(&self, host: u8) {
        self.trace.note(format_args!("host {host}: no more sockets"));
        let mut state = self.lock();
        let sockets: Vec<SocketAddr> =
            state.inboxes.keys().filter(|addr| addr.ip() == host_addr(host)).copied().collect();
        if let Some(road) = state.roads.get_mut(&host_addr(host)) {
            road.admitted = Some(sockets);
        }
    }

    /// Lets the sockets that are held go on. Those that were cut off in the
    /// meantime stay so, but what was held of them arrives.
    pub fn release_sockets(&self, host: u8) {
        self.trace.note(format_args!("host {host}: sockets released"));
        self.with_road(host, |road| {
            road.sockets.retain(|_, gate| *gate == Gate::Closed);
            road.connections.retain(|_, gate| *gate == Gate::Closed);
            let held = BOTH_WAYS.map(|way| std::mem::take(&mut road.lane(way).held));
            held.into_iter().flatten().map(|datagram| Datagram { late: true, ..datagram }).collect()
        });
    }

    /// All sockets of the host get new public addresses. `keep_old`: what is sent
    /// to the old ones still arrives.
    pub fn renumber(&self, host: u8, keep_old: bool) {
        self.trace.note(format_args!("host {host}: renumbered, old path kept: {keep_old}"));
        self.with_road(host, |road| {
            road.place = road.place.wrapping_add(1);
            road.public.clear();
            if !keep_old {
                road.inside.clear();
            }
            Vec::new()
        });
    }

    /// The sockets of a process that was killed: nothing that they still send
    /// gets anywhere, and their addresses are free.
    pub fn unplug(&self, ip: IpAddr) -> Unplugged {
        self.trace.note(format_args!("{ip}: killed"));
        let inboxes = std::mem::take(&mut self.lock().inboxes);
        let (unplugged, left) = inboxes.into_iter().partition(|(addr, _)| addr.ip() == ip);
        self.lock().inboxes = left;
        Unplugged(unplugged)
    }

    /// As [`unplug`](Self::unplug), and the process is not started again: what is left of
    /// it in this one, and wakes, gets no other socket.
    pub fn bury(&self, ip: IpAddr) {
        self.lock().buried.insert(ip);
        drop(self.unplug(ip));
    }

    /// The process was not killed after all: only, its address was not its own
    /// for a while.
    pub fn plug_in(&self, sockets: Unplugged) {
        self.trace.note(format_args!("plugged in: {:?}", sockets.0.keys()));
        self.lock().inboxes.extend(sockets.0);
    }

    /// How long all machines have slept.
    pub fn asleep(&self) -> Duration {
        self.lock().asleep
    }

    /// All machines sleep for so long, and their clocks with them.
    pub fn fall_asleep(&self, lasting: Duration) {
        self.trace.note(format_args!("asleep for {lasting:?}, and time stood still"));
        self.lock().asleep += lasting;
    }

    /// All gates open, no loss, good conditions: for good. Sockets that were cut
    /// off stay so.
    pub fn heal(&self, hosts: impl IntoIterator<Item = u8>) {
        for host in hosts {
            let conditions = Conditions::default();
            self.pave(host, conditions, conditions);
            self.release_sockets(host);
            BOTH_WAYS.into_iter().for_each(|way| self.set_gate(host, way, Gate::Open));
        }
    }

    /// Waits until a new socket hears from the server for the first time: a
    /// session begins or is resumed there. The host that it is on.
    pub async fn answered(&self) -> u8 {
        self.answer.notified().await;
        self.lock().answered
    }

    /// Datagrams sent and delivered.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.datagrams, state.delivered)
    }

    /// What all datagrams sent so far held, in bytes.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Waits until so many more datagrams have arrived on the road of `host`, in
    /// either way; no time passes between the last of them and the return. What
    /// becomes of those on their way then becomes of all that their receivers
    /// would have answered: so one count after the other, these are all the
    /// moments that differ.
    pub async fn delivered(&self, host: u8, datagrams: u64) {
        let so_far = || self.lock().road(host).map_or(0, |road| road.delivered);
        let goal = so_far() + datagrams;
        loop {
            // Made before the look: nothing is missed.
            let counted = self.counted.notified();
            if so_far() >= goal {
                return;
            }
            counted.await;
        }
    }

    /// Datagrams that wait at the gates of the road of `host`.
    pub fn held(&self, host: u8) -> usize {
        self.lock().road(host).map_or(0, |road| road.up.held.len() + road.down.held.len())
    }

    /// Sockets that are open.
    pub fn open_sockets(&self) -> Vec<SocketAddr> {
        self.lock().inboxes.keys().copied().collect()
    }

    fn with_road(&self, host: u8, change: impl FnOnce(&mut Road) -> Vec<Datagram>) {
        let mut state = self.lock();
        let freed = state.road(host).map(change).unwrap_or_default();
        freed.into_iter().for_each(|datagram| self.send_off(&mut state, datagram));
    }

    fn accept(&self, generation: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.inboxes.get(&from).is_none_or(|inbox| inbox.generation != generation) {
            return;
        }
        state.sent += 1;
        state.datagrams += 1;
        state.bytes += bytes.len() as u64;
        let number = state.sent;
        let (way, client) = if from == SERVER {
            match state.roads.values().find_map(|road| road.inside.get(&to)) {
                Some(client) => (Way::Down, *client),
                None => return self.lose(number, from, to, bytes, "no such address"),
            }
        } else {
            (Way::Up, from)
        };
        let Some(road) = state.roads.get_mut(&client.ip()) else {
            return self.lose(number, from, to, bytes, "no road");
        };
        if let Some(id) = connection_id(bytes).filter(|_| way == Way::Up) {
            road.ids.insert(client, id);
            if let Some(gate) = road.connections.get(&id) {
                road.sockets.insert(client, *gate);
            }
        }
        let is_open = |socket: &SocketAddr| state.inboxes.contains_key(socket);
        let from = if way == Way::Up { road.translate(from, is_open) } else { from };
        let datagram =
            Datagram { number, from, to, client, way, late: false, bytes: bytes.to_vec() };
        self.send_off(state, datagram);
    }

    fn send_off(&self, state: &mut State, datagram: Datagram) {
        let State { dice, roads, under_way, sent, .. } = state;
        let Datagram { number, from, to, way, late, ref bytes, client } = datagram;
        let lose = |why| self.lose(number, from, to, bytes, why);
        let Some(road) = roads.get_mut(&client.ip()) else { return lose("no road") };
        let of_socket = road.sockets.get(&client).filter(|_| !late).copied();
        let of_socket = of_socket.unwrap_or(Gate::Open);
        if road.admitted.as_ref().is_some_and(|admitted| !admitted.contains(&client)) {
            return lose("not admitted");
        }
        let lane = road.lane(way);
        match (lane.gate, of_socket) {
            (Gate::Closed, _) | (_, Gate::Closed) => return lose("closed"),
            (Gate::Holding, _) | (_, Gate::Holding) => return lane.held.push(datagram),
            (Gate::Open, Gate::Open) => {}
        }
        let conditions = lane.conditions;
        if bytes.len() > conditions.mtu {
            return lose("too large");
        }
        if dice.chance(conditions.loss) {
            return lose("lost");
        }
        let now = Instant::now();
        lane.busy_until = lane.busy_until.max(now);
        let nanos = |bytes: u64| Duration::from_nanos(bytes * 1_000_000_000 / conditions.rate);
        if lane.busy_until - now > nanos(conditions.queue) {
            return lose("queue full");
        }
        lane.busy_until += nanos(bytes.len() as u64);
        let copies = if dice.chance(conditions.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = dice.pick(0..conditions.jitter.as_nanos() as u64 + 1);
            let at = lane.busy_until + conditions.latency + Duration::from_nanos(jitter);
            self.trace.note(format_args!(
                "#{number} {from} > {to} {} B, there in {:?}",
                bytes.len(),
                at - now
            ));
            *sent += 1;
            let key = (at, *sent);
            if under_way.keys().next().is_none_or(|first| key < *first) {
                self.sooner.notify_one();
            }
            under_way.insert(key, datagram.clone());
        }
    }

    fn deliver_due(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = Instant::now();
        let mut wakers = Vec::new();
        while let Some(first) = state.under_way.first_entry().filter(|e| e.key().0 <= now) {
            let Datagram { number, from, to, client, way, late, bytes } = first.remove();
            let lose = |why| self.lose(number, from, to, &bytes, why);
            let Some(road) = state.roads.get_mut(&client.ip()) else { continue };
            if road.sockets.get(&client) == Some(&Gate::Closed) && !late {
                lose("cut off under way");
                continue;
            }
            let (socket, from) = match way {
                Way::Up => (to, from),
                // A mapping that is gone by now.
                Way::Down if !road.inside.contains_key(&to) => {
                    lose("address gone");
                    continue;
                }
                Way::Down => (client, from),
            };
            match state.inboxes.get_mut(&socket) {
                Some(inbox) if inbox.datagrams.len() < INBOX_MAX => {
                    state.delivered += 1;
                    if !std::mem::replace(&mut inbox.reached, true) && way == Way::Down {
                        state.answered = host_number(client.ip());
                        self.answer.notify_waiters();
                    }
                    road.delivered += 1;
                    inbox.datagrams.push_back((from, bytes));
                    wakers.extend(inbox.waker.take());
                }
                Some(_) => lose("inbox full"),
                None => lose("nobody there"),
            }
        }
        drop(guard);
        wakers.into_iter().for_each(Waker::wake);
        self.delivery.notify_one();
        self.counted.notify_waiters();
    }

    fn lose(&self, number: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8], why: &str) {
        self.trace.note(format_args!("#{number} {from} > {to} {} B, {why}", bytes.len()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn road(&mut self, host: u8) -> Option<&mut Road> {
        self.roads.get_mut(&host_addr(host))
    }

    /// An address there that no socket has.
    fn free_address(&mut self, ip: IpAddr) -> io::Result<SocketAddr> {
        let address = |port| SocketAddr::new(ip, port);
        let free = after(self.port, PORTS)
            .find(|port| !self.inboxes.contains_key(&address(*port)))
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.port = free;
        // What became of an earlier socket there is nothing to this one.
        if let Some(road) = self.roads.get_mut(&ip) {
            road.sockets.remove(&address(free));
            road.ids.remove(&address(free));
            road.public.remove(&address(free));
        }
        Ok(address(free))
    }
}

/// All ports, in turn, beginning with the one after `last`.
fn after(last: u16, ports: RangeInclusive<u16>) -> impl Iterator<Item = u16> {
    let (first, end) = ports.into_inner();
    (last..=end).skip(1).chain(first..=last)
}

impl Road {
    fn lane(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// The public address of a socket, as the NAT gives it: one that it has given to
    /// no other socket that is open.
    fn translate(
        &mut self,
        inside: SocketAddr,
        is_open: impl Fn(&SocketAddr) -> bool,
    ) -> SocketAddr {
        if let Some(public) = self.public.get(&inside) {
            return *public;
        }
        let ip = Ipv4Addr::new(198, 51, host_number(inside.ip()), self.place);
        let public = after(self.public_port, PUBLIC_PORTS)
            .map(|port| SocketAddr::new(ip.into(), port))
            .find(|public| !self.inside.get(public).is_some_and(&is_open))
            .expect("a host has as many sockets at most");
        self.public_port = public.port();
        self.public.insert(inside, public);
        self.inside.insert(public, inside);
        public
    }
}

/// The network as its sockets' owners see it.
#[derive(Debug)]
pub struct Plug(pub Arc<Network>);

impl World for Plug {
    fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Socket>> {
        let mut state = self.0.lock();
        if state.buried.contains(&local.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let addr = if local.port() == 0 { state.free_address(local.ip())? } else { local };
        if state.inboxes.contains_key(&addr) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.sent += 1;
        let generation = state.sent;
        let inbox = Inbox { generation, datagrams: VecDeque::new(), waker: None, reached: false };
        state.inboxes.insert(addr, inbox);
        Ok(Arc::new(Bound { network: self.0.clone(), addr, generation }))
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock();
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&state.random.roll().to_be_bytes()[..chunk.len()]);
        }
    }

    fn time_asleep(&self) -> Duration {
        self.0.lock().asleep
    }
}

#[derive(Debug)]
struct Bound {
    network: Arc<Network>,
    addr: SocketAddr,
    generation: u64,
}

impl Socket for Bound {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.network.accept(self.generation, self.addr, to, datagram);
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<(usize, SocketAddr)> {
        let mut state = self.network.lock();
        let inbox = state.inboxes.get_mut(&self.addr);
        // Unplugged, it hears nothing any more.
        let Some(inbox) = inbox.filter(|inbox| inbox.generation == self.generation) else {
            return Poll::Pending;
        };
        match inbox.datagrams.pop_front() {
            Some((from, bytes)) => {
                let len = bytes.len().min(buf.len());
                buf[..len].copy_from_slice(&bytes[..len]);
                Poll::Ready((len, from))
            }
            None => {
                inbox.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        let inbox = state.inboxes.get(&self.addr);
        if inbox.is_some_and(|inbox| inbox.generation == self.generation) {
            state.inboxes.remove(&self.addr);
        }
    }
}

#[test]
fn a_host_that_has_used_all_its_ports_uses_them_again() {
    let network = Network::new(Dice(0), Trace::new(false));
    network.pave(1, Conditions::default(), Conditions::default());
    let plug = Plug(network.clone());
    let public = |socket: &dyn Socket| {
        socket.send(SERVER, b"hello");
        network.lock().roads[&host_addr(1)].public[&socket.local_addr()]
    };
    let new = || plug.bind((host_addr(1), 0).into()).expect("a free port");
    let kept = new();
    let kept_public = public(&*kept);
    // What is cut off is the socket, and none that comes after it.
    let first_addr = {
        let first = new();
        public(&*first);
        network.set_gate_of_sockets(1, Gate::Closed);
        first.local_addr()
    };
    let mut again = 0;
    for _ in 0..100_000 {
        let socket = new();
        assert!(socket.local_addr().port() > 1024 && public(&*socket).port() > 0);
        assert_ne!(socket.local_addr(), kept.local_addr());
        assert_ne!(public(&*socket), kept_public);
        again += u64::from(socket.local_addr() == first_addr);
        let cut_off = network.lock().roads[&host_addr(1)].sockets.contains_key(&first_addr);
        assert_eq!(cut_off, again == 0);
    }
    assert_eq!(again, 1);
}
