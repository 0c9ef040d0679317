//! What goes on while the network changes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Between two keystrokes of a very quick typist.
pub const KEY_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Nothing; a byte is written the moment that the network is back.
    Idle,
    /// The phone writes a few bytes every 5 ms.
    Keys,
    /// The phone writes as fast as it can.
    Upload,
    /// The server does.
    Download,
}

impl Traffic {
    pub const ALL: [Self; 4] = [Self::Idle, Self::Keys, Self::Upload, Self::Download];

    pub fn is_bulk(self) -> bool {
        matches!(self, Self::Upload | Self::Download)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Keys => "keys",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Traffic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|traffic| traffic.name() == text);
        found.ok_or_else(|| format!("no traffic is called {text:?}"))
    }
}
