//! Where a stream begins or ends: a TCP port or a Unix socket, as it is written
//! on the command line and on the label of a pipe.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `HOST:PORT`, `[IPV6]:PORT` or the absolute path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Tcp {
        /// A name or an IP address, without brackets. To listen: empty means
        /// the loopback addresses, `*` all addresses.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Endpoint {
    pub fn tcp(host: &str, port: u16) -> Self {
        Self::Tcp { host: host.to_owned(), port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let wrong = || format!("{text:?} is neither HOST:PORT nor the path of a socket");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(bare) => bare,
            None if host.contains([':', '/']) => return Err(wrong()),
            None => host,
        };
        if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong());
        }
        Ok(Self::tcp(host, port))
    }
}

/// What `-L` and `-R` ask for: where to listen, and where to connect to from the
/// other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub listen: Endpoint,
    pub target: Endpoint,
}

impl FromStr for Forward {
    type Err = String;

    /// As ssh has it: `[BIND:]PORT:HOST:HOSTPORT`, with the path of a Unix socket
    /// in place of either end.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not [BIND:]PORT:HOST:HOSTPORT (either end may be the path of a socket)"
            )
        };
        let fields = fields_of(text).ok_or_else(wrong)?;
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let (listen, target) = match fields[..] {
            [path, ref target @ ..] if path.starts_with('/') => (listen_at(&[path]), target),
            [port, host, ref rest @ ..]
                if host.starts_with('/') || (rest.len() == 1 && !rest[0].starts_with('/')) =>
            {
                (listen_at(&[port]), &fields[1..])
            }
            [bind, port, ref target @ ..] => (listen_at(&[bind, port]), target),
            _ => return Err(wrong()),
        };
        let target = match *target {
            [path] if path.starts_with('/') => Some(Endpoint::Unix(path.into())),
            [host, port] if !host.is_empty() && !host.starts_with('/') => {
                port.parse().ok().filter(|port| *port != 0).map(|port| Endpoint::tcp(host, port))
            }
            _ => None,
        };
        Ok(Self { listen: listen.ok_or_else(wrong)?, target: target.ok_or_else(wrong)? })
    }
}

/// Where to listen for SOCKS clients: `[BIND:]PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dynamic(pub Endpoint);

impl FromStr for Dynamic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields = fields_of(text).unwrap_or_default();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        listen_at(&fields).map(Self).ok_or_else(|| format!("{text:?} is not [BIND:]PORT"))
    }
}

/// `[PORT]`, `[BIND, PORT]` or `[PATH]`.
fn listen_at(fields: &[&str]) -> Option<Endpoint> {
    match *fields {
        [path] if path.starts_with('/') => Some(Endpoint::Unix(path.into())),
        [port] => port.parse().ok().map(|port| Endpoint::tcp("", port)),
        // ssh takes an empty address for all of them.
        ["", port] => port.parse().ok().map(|port| Endpoint::tcp("*", port)),
        [bind, port] if !bind.starts_with('/') => {
            port.parse().ok().map(|port| Endpoint::tcp(bind, port))
        }
        _ => None,
    }
}

/// Splits at colons, but not within brackets, which are taken off.
fn fields_of(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut bracketed = false;
    for c in text.chars() {
        match c {
            '[' if !bracketed => bracketed = true,
            ']' if bracketed => bracketed = false,
            ':' if !bracketed => fields.push(String::new()),
            c if c.is_whitespace() || c.is_control() => return None,
            c => fields.last_mut()?.push(c),
        }
    }
    (!bracketed).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_they_are_printed() {
        for text in ["localhost:22", "[::1]:22", "10.0.0.1:65535", "/run/a.sock", ":0", "*:80"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "host", "host:", "host:x", "::1:22", "a b:1", "relative.sock", "h:70000"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn forwards_are_read_as_ssh_reads_them() {
        let unix = |path: &str| Endpoint::Unix(path.into());
        let tcp = Endpoint::tcp;
        for (text, listen, target) in [
            ("8080:db:5432", tcp("", 8080), tcp("db", 5432)),
            ("0:db:5432", tcp("", 0), tcp("db", 5432)),
            ("127.0.0.1:8080:db:5432", tcp("127.0.0.1", 8080), tcp("db", 5432)),
            ("*:8080:db:5432", tcp("*", 8080), tcp("db", 5432)),
            (":8080:db:5432", tcp("*", 8080), tcp("db", 5432)),
            ("[::1]:8080:[2001:db8::2]:22", tcp("::1", 8080), tcp("2001:db8::2", 22)),
            ("8080:[::1]:22", tcp("", 8080), tcp("::1", 22)),
            ("8080:/run/x", tcp("", 8080), unix("/run/x")),
            ("localhost:8080:/run/x", tcp("localhost", 8080), unix("/run/x")),
            ("/tmp/a:db:5432", unix("/tmp/a"), tcp("db", 5432)),
            ("/tmp/a:/run/x", unix("/tmp/a"), unix("/run/x")),
        ] {
            assert_eq!(text.parse(), Ok(Forward { listen, target }), "{text}");
        }
        let brackets = ["[::1:8080:db:1", "::1:/run/x"];
        let others = ["", "8080", "8080:db", "8080:db:0", "a:b:c", "1:2:3:4:5", "8080::1"];
        for text in brackets.into_iter().chain(others) {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }

    #[test]
    fn dynamic_forwards_have_no_target() {
        assert_eq!("1080".parse(), Ok(Dynamic(Endpoint::tcp("", 1080))));
        assert_eq!("[::1]:1080".parse(), Ok(Dynamic(Endpoint::tcp("::1", 1080))));
        assert!("1080:db:1".parse::<Dynamic>().is_err());
    }
}
