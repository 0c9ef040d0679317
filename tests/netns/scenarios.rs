//! What happens to the network.

use std::fmt;
use std::time::Duration;

use crate::lab::Lab;
use crate::script::Script;

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// As in life.
    Full,
    /// As short as shows whether it works.
    Short,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Wi-Fi goes, and LTE comes some time later. Nobody tells the client.
    WifiThenLte,
    /// Both are there, and LTE becomes the first choice. The application says so.
    Flip,
    /// The same, and nobody tells the client.
    FlipUntold,
    /// The same, and the application asks for a handover.
    HandOver,
    /// The NAT forgets everything; new flows get other ports.
    OtherPort,
    /// The same, and another public address.
    OtherAddress,
    /// The router is off for a while, and has forgotten everything.
    Reboot,
    /// The server cannot be reached for a while.
    Unreachable,
    /// Three packets of ten are lost for a while, each way.
    Loss,
    /// No UDP goes up for a while.
    NothingUp,
    /// No UDP comes down for a while.
    NothingDown,
    /// The server's process crashes, and another is started.
    Restart,
}

impl Scenario {
    pub const ALL: [Self; 12] = [
        Self::Flip,
        Self::FlipUntold,
        Self::HandOver,
        Self::OtherPort,
        Self::OtherAddress,
        Self::WifiThenLte,
        Self::NothingUp,
        Self::NothingDown,
        Self::Reboot,
        Self::Unreachable,
        Self::Loss,
        Self::Restart,
    ];

    /// How long it lasts; `None` if it is over as soon as it has begun.
    pub fn lasts(self, length: Length) -> Option<Duration> {
        let (full, short) = match self {
            Self::Flip
            | Self::FlipUntold
            | Self::HandOver
            | Self::OtherPort
            | Self::OtherAddress => return None,
            Self::WifiThenLte => (5, 3),
            Self::NothingUp | Self::NothingDown => (20, 3),
            Self::Reboot => (40, 4),
            Self::Unreachable => (75, 5),
            Self::Loss => (10, 3),
            Self::Restart => (1, 1),
        };
        Some(Duration::from_secs(if length == Length::Full { full } else { short }))
    }

    pub fn needs_lte(self) -> bool {
        matches!(self, Self::Flip | Self::FlipUntold | Self::HandOver)
    }

    /// What the phone's application is told to do.
    pub fn told(self) -> Option<&'static str> {
        match self {
            Self::Flip => Some("changed"),
            Self::HandOver => Some("handover"),
            _ => None,
        }
    }

    /// Whether the path is there all the time, although it is another one.
    pub fn is_instant(self) -> bool {
        self.lasts(Length::Full).is_none()
    }

    /// Begins it; the server's process is not the lab's.
    pub fn strike(self, lab: &mut Lab) -> Vec<Script> {
        match self {
            Self::WifiThenLte => vec![lab.wifi_down()],
            Self::Flip | Self::FlipUntold | Self::HandOver => vec![lab.prefer_lte()],
            Self::OtherPort => vec![lab.forget(false)],
            Self::OtherAddress => vec![lab.forget(true)],
            Self::Reboot => vec![lab.router_down(), lab.wifi_down(), lab.forget(true)],
            Self::Unreachable => vec![lab.weather("meta l4proto udp drop")],
            Self::Loss => {
                let rule = "iifname \"line\" meta l4proto udp numgen random mod 100 < 30 drop";
                vec![lab.weather(rule)]
            }
            Self::NothingUp => vec![lab.weather("oifname \"server\" meta l4proto udp drop")],
            Self::NothingDown => vec![lab.weather("iifname \"server\" meta l4proto udp drop")],
            Self::Restart => Vec::new(),
        }
    }

    /// Ends it, but for the script, with which the path is back.
    pub async fn relieve(self, lab: &Lab) -> Option<Script> {
        match self {
            Self::WifiThenLte => Some(lab.lte_up()),
            Self::Reboot => {
                lab.router_up().await;
                Some(lab.wifi_up())
            }
            Self::Unreachable | Self::Loss | Self::NothingUp | Self::NothingDown => {
                Some(lab.weather(""))
            }
            Self::Flip
            | Self::FlipUntold
            | Self::HandOver
            | Self::OtherPort
            | Self::OtherAddress
            | Self::Restart => None,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::WifiThenLte => "Wi-Fi goes, LTE comes",
            Self::Flip => "from Wi-Fi to LTE",
            Self::FlipUntold => "the same, untold",
            Self::HandOver => "the same, handed over",
            Self::OtherPort => "NAT forgets, other port",
            Self::OtherAddress => "NAT forgets, other address",
            Self::Reboot => "router reboots",
            Self::Unreachable => "server unreachable",
            Self::Loss => "30 % loss",
            Self::NothingUp => "nothing goes up",
            Self::NothingDown => "nothing comes down",
            Self::Restart => "server restarted",
        })
    }
}
