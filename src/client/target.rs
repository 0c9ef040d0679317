//! Whom a client connects to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A server: a name or addresses, and the name that its certificate must bear.
///
/// ```
/// use evermux::Target;
///
/// let by_name: Target = "example.com:4433".parse()?;
/// let by_address = Target::from(std::net::SocketAddr::from(([127, 0, 0, 1], 4433)))
///     .server_name("localhost");
/// # Ok::<(), evermux::ParseTargetError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(super) host: Option<String>,
    pub(super) port: u16,
    pub(super) addrs: Vec<SocketAddr>,
    pub(super) server_name: String,
}

impl Target {
    /// A host, by name or IP address. Names are resolved anew at each attempt.
    pub fn new(host: &str, port: u16) -> Self {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).into(),
            Err(_) => Self {
                host: Some(host.to_owned()),
                port,
                addrs: Vec::new(),
                server_name: host.to_owned(),
            },
        }
    }

    /// Adds addresses, which are tried before those that the name has.
    pub fn addrs(mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.addrs.extend(addrs);
        self
    }

    /// The name that the server's certificate must bear. Default: the host, or
    /// the IP address. Not looked at with pinned keys.
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = name.to_owned();
        self
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self {
            host: None,
            port: addr.port(),
            addrs: vec![addr],
            server_name: addr.ip().to_string(),
        }
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    /// `host:port`, `1.2.3.4:port` or `[2001:db8::1]:port`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseTargetError { text: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        // A colon within the host needs brackets.
        if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
            return Err(error());
        }
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.addrs.first()) {
            (Some(host), _) => write!(f, "{host}:{}", self.port),
            (None, Some(addr)) => addr.fmt(f),
            (None, None) => f.write_str(&self.server_name),
        }
    }
}

/// A text that names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not HOST:PORT (an IPv6 address goes in brackets, as in [::1]:4433)")]
pub struct ParseTargetError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_people_write_them() {
        let name: Target = "example.com:4433".parse().unwrap();
        assert_eq!((name.host.as_deref(), name.port), (Some("example.com"), 4433));
        let v6: Target = "[::1]:7".parse().unwrap();
        assert_eq!(v6.addrs, ["[::1]:7".parse().unwrap()]);
        assert_eq!(v6.server_name, "::1");
        for wrong in ["", "host", "host:", ":1", "::1:7", "host:99999"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
