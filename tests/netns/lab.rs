//! A small internet: five hosts, each in its own network namespace.
//!
//! ```text
//!          wlan      lan        wan      home
//!        ┌──────────────── home ─────────────┐           server  eth
//!  phone ┤                                   net ══ line ══──────────── server
//!        └──────────────── cell ─────────────┘
//!          lte       lan        wan      cell
//! ```
//!
//! `home` and `cell` are NAT routers. All that passes through `net` is 10 ms under way,
//! and 100 Mbit/s at most.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::process::Command as TokioCommand;

use crate::hosts::Host;
use crate::script::{Script, ip, run};

/// How long each way takes through the middle of the network.
pub const DELAY: Duration = Duration::from_millis(10);

/// The TUN device of the long line.
pub const LINE: &str = "line";

pub const SERVER_ADDR: &str = "192.0.2.2:4433";

/// Where a host stands.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Phone,
    Home,
    Cell,
    Net,
    Server,
}

impl Place {
    const ALL: [Self; 5] = [Self::Phone, Self::Home, Self::Cell, Self::Net, Self::Server];

    fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Home => "home",
            Self::Cell => "cell",
            Self::Net => "net",
            Self::Server => "server",
        }
    }
}

/// A NAT router.
#[derive(Clone, Copy, Debug)]
pub enum Router {
    Home,
    Cell,
}

impl Router {
    fn place(self) -> Place {
        match self {
            Self::Home => Place::Home,
            Self::Cell => Place::Cell,
        }
    }

    /// Its public network; it has the addresses .2 and .3.
    fn network(self) -> &'static str {
        match self {
            Self::Home => "198.51.100",
            Self::Cell => "203.0.113",
        }
    }

    /// What is behind it; it is .1, the phone .2.
    fn lan(self) -> &'static str {
        match self {
            Self::Home => "192.168.1",
            Self::Cell => "10.64.0",
        }
    }
}

/// What a router does, with all that it has known forgotten.
///
/// `snat` is what `masquerade` does, with an address that can be chosen. Each
/// generation has its own conntrack zone, so that no flow of one before is found, and
/// its own ports. What it does not know it drops without a word.
fn nat(router: Router, generation: u16, host: u8) -> String {
    let network = router.network();
    let first = 20_000 + generation % 40 * 1_000;
    let last = first + 999;
    format!(
        "flush ruleset
        table ip nat {{
            chain generation {{
                type filter hook prerouting priority raw
                ct zone set {}
            }}
            chain translate {{
                type nat hook postrouting priority srcnat
                oifname \"wan\" ip protocol udp snat to {network}.{host}:{first}-{last} random
            }}
            chain strangers {{
                type filter hook input priority filter
                meta l4proto udp drop
            }}
        }}",
        generation + 1
    )
}

/// The namespaces of one lab, which go when it is dropped.
pub struct Lab {
    name: String,
    /// Of both routers' memories, past ones included.
    generation: u16,
    /// Which public address `home` uses.
    home_host: u8,
    line: Option<Host>,
}

impl Lab {
    /// Builds one with a way over Wi-Fi, and none over LTE yet.
    pub async fn build() -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let mut lab = Self { name, generation: 0, home_host: 2, line: None };
        for place in Place::ALL {
            ip(&["netns", "add", &lab.namespace(place)]).expect("namespaces were checked for");
            // Answers come by other ways than questions.
            let sysctls = "echo 1 > ip_forward; echo 0 | tee conf/*/rp_filter > /dev/null";
            let shell = format!("cd /proc/sys/net/ipv4 && {sysctls}");
            ip(&["netns", "exec", &lab.namespace(place), "sh", "-c", &shell]).expect("sysctls");
        }
        let wire = |(index, a, a_place, b, b_place)| {
            let (a_place, b_place) = (lab.namespace(a_place), lab.namespace(b_place));
            // The kernel takes a device whose index is its peer's, in the other namespace,
            // for one without a peer, and is slow to notice when it comes up.
            let other = index + 100;
            format!(
                "link add {a} index {index} netns {a_place} type veth \
                 peer name {b} index {other} netns {b_place}\n"
            )
        };
        let wires = [
            (11, "wlan", Place::Phone, "lan", Place::Home),
            (12, "lte", Place::Phone, "lan", Place::Cell),
            (13, "wan", Place::Home, "home", Place::Net),
            (14, "wan", Place::Cell, "cell", Place::Net),
            (15, "eth", Place::Server, "server", Place::Net),
        ];
        Script::start("ip -batch -", &wires.map(wire).concat()).run().await;
        lab.ip(
            Place::Phone,
            "addr add 192.168.1.2/24 dev wlan
             addr add 10.64.0.2/24 dev lte
             link set wlan up
             link set lte up
             route add default via 192.168.1.1 dev wlan metric 100",
        )
        .run()
        .await;
        for router in [Router::Home, Router::Cell] {
            let (network, lan) = (router.network(), router.lan());
            let script = format!(
                "addr add {lan}.1/24 dev lan
                 addr add {network}.2/24 dev wan
                 addr add {network}.3/24 dev wan
                 link set lan up
                 link set wan up
                 route add default via {network}.1"
            );
            lab.ip(router.place(), &script).run().await;
            lab.nft(router.place(), &nat(router, 0, 2)).run().await;
        }
        lab.ip(
            Place::Server,
            "addr add 192.0.2.2/24 dev eth
             link set eth up
             route add default via 192.0.2.1",
        )
        .run()
        .await;
        lab.line = Some(Host::line(&lab).await);
        // What comes from outside goes into the line, and what comes out of it on its way.
        lab.ip(
            Place::Net,
            "addr add 198.51.100.1/24 dev home
             addr add 203.0.113.1/24 dev cell
             addr add 192.0.2.1/24 dev server
             link set home up
             link set cell up
             link set server up
             link set line up
             route add default dev line table 100
             rule add iif home lookup 100
             rule add iif cell lookup 100
             rule add iif server lookup 100",
        )
        .run()
        .await;
        let shape = ["home", "cell", "server"]
            .map(|device| format!("qdisc add dev {device} root tbf {RATE}\n"))
            .concat();
        Script::start(&format!("tc -n {} -batch -", lab.namespace(Place::Net)), &shape).run().await;
        lab
    }

    pub fn namespace(&self, place: Place) -> String {
        format!("{}-{}", self.name, place.name())
    }

    /// A script of `ip` in a namespace.
    fn ip(&self, place: Place, lines: &str) -> Script {
        Script::start(&format!("ip -n {} -batch -", self.namespace(place)), lines)
    }

    /// A transaction of `nft` in a namespace.
    fn nft(&self, place: Place, rules: &str) -> Script {
        Script::start(&format!("ip netns exec {} nft -f -", self.namespace(place)), rules)
    }

    /// As it is when a station has lost its access point: without its routes, and with
    /// nothing left of what it knew about neighbours.
    pub fn wifi_down(&self) -> Script {
        self.ip(Place::Phone, "link set wlan down")
    }

    /// LTE, as the second choice beside Wi-Fi.
    pub fn lte_up(&self) -> Script {
        self.ip(Place::Phone, "route add default via 10.64.0.1 dev lte metric 200")
    }

    /// LTE becomes the first choice.
    pub fn prefer_lte(&self) -> Script {
        self.ip(Place::Phone, "route add default via 10.64.0.1 dev lte metric 50")
    }

    /// The Wi-Fi router forgets all flows; new ones get other ports, and another
    /// public address if it is to be `readdressed`.
    pub fn forget(&mut self, readdressed: bool) -> Script {
        self.generation += 1;
        if readdressed {
            self.home_host = if self.home_host == 2 { 3 } else { 2 };
        }
        self.nft(Place::Home, &nat(Router::Home, self.generation, self.home_host))
    }

    /// The phone is a station of its access point again, and has been given a route.
    pub fn wifi_up(&self) -> Script {
        self.ip(Place::Phone, "route add default via 192.168.1.1 dev wlan metric 100")
    }

    pub fn router_down(&self) -> Script {
        self.ip(Place::Home, "link set lan down\nlink set wan down")
    }

    /// The router is back, and the phone finds it; nothing is sent yet.
    pub async fn router_up(&self) {
        let router = "link set wan up\nroute add default via 198.51.100.1\nlink set lan up";
        self.ip(Place::Home, router).run().await;
        self.ip(Place::Phone, "link set wlan up").run().await;
        let ends = [
            (Place::Phone, "wlan"),
            (Place::Home, "lan"),
            (Place::Home, "wan"),
            (Place::Net, "home"),
        ];
        for (place, device) in ends {
            self.carrier(place, device).await;
        }
    }

    /// Waits until the kernel has noticed that a device has a carrier. A question sent
    /// before may find nobody who can answer, and the kernel asks again after a second.
    async fn carrier(&self, place: Place, device: &str) {
        let deadline = Instant::now() + CARRIER;
        loop {
            let show = ["-n", &self.namespace(place), "-o", "link", "show", device];
            let output = TokioCommand::new("ip").args(show).output().await.expect("it is there");
            if String::from_utf8_lossy(&output.stdout).contains("state UP") {
                return;
            }
            assert!(Instant::now() < deadline, "{device} has no carrier");
        }
    }

    /// What becomes of packets in the middle of the network, in the words of nftables.
    pub fn weather(&self, rules: &str) -> Script {
        let table = format!(
            "flush ruleset
            table ip weather {{
                chain forward {{
                    type filter hook forward priority filter
                    {rules}
                }}
            }}"
        );
        self.nft(Place::Net, &table)
    }
}

/// Each lab's namespaces begin with this and the process that made them.
const PREFIX: &str = "evermux-";

/// How long a device may take until it has a carrier.
const CARRIER: Duration = Duration::from_secs(10);

/// What waits for longer than 30 ms at this rate is lost, as
/// in a router.
const RATE: &str = "rate 100mbit burst 64kb latency 30ms";

impl Drop for Lab {
    fn drop(&mut self) {
        for place in Place::ALL {
            // May be the rest of a lab that could not be built.
            let _ = ip(&["netns", "del", &self.namespace(place)]);
        }
    }
}

/// Why there can be no lab on this machine, if there cannot.
pub fn missing() -> Option<String> {
    // A namespace that is made for this and goes at once tells of root and of the kernel.
    let trial = format!("{PREFIX}{}-trial", std::process::id());
    let rules =
        "add table ip trial; add chain ip trial nat { type nat hook postrouting priority srcnat; }";
    let tried = run("tc", &["-V"])
        .and_then(|()| ip(&["netns", "add", &trial]))
        .and_then(|()| ip(&["netns", "exec", &trial, "nft", rules]))
        .and_then(|()| ip(&["-n", &trial, "tuntap", "add", "dev", LINE, "mode", "tun"]));
    let _ = ip(&["netns", "del", &trial]);
    tried.err().map(|error| error.trim().to_owned())
}

/// Removes what an earlier run has left behind that was killed.
pub fn sweep() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let process = rest.split('-').next().unwrap_or_default();
        if !std::path::Path::new("/proc").join(process).exists() {
            let _ = ip(&["netns", "del", name]);
        }
    }
}
