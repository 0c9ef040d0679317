//! Which targets pipes may reach, and where reverse listeners may listen. What
//! is not allowed is denied.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

/// One `--allow`: `HOST:PORT` with `*` for any host or port, `loopback` for all
/// TCP ports of this machine's loopback addresses, `none`, `any`, or the path of a
/// Unix socket (a `*` at its end stands for the rest).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    None,
    /// All of TCP, and every socket.
    Any,
    Loopback,
    Tcp {
        /// `None` for any.
        host: Option<String>,
        /// `None` for any.
        port: Option<u16>,
    },
    Unix(String),
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not HOST:PORT (* for any), loopback, any, none, or the path of a socket"
            )
        };
        match text {
            "none" => return Ok(Self::None),
            "any" => return Ok(Self::Any),
            "loopback" => return Ok(Self::Loopback),
            path if path.starts_with('/') => return Ok(Self::Unix(path.into())),
            _ => {}
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare.unwrap_or(host) {
            "" => return Err(wrong()),
            "*" => None,
            host => Some(host.to_owned()),
        };
        let port = match port {
            "*" => None,
            port => Some(port.parse().map_err(|_| wrong())?),
        };
        Ok(Self::Tcp { host, port })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Any => f.write_str("any"),
            Self::Loopback => f.write_str("loopback"),
            Self::Tcp { host, port } => {
                match host.as_deref() {
                    Some(host) if host.contains(':') => write!(f, "[{host}]:")?,
                    host => write!(f, "{}:", host.unwrap_or("*"))?,
                }
                match port {
                    Some(port) => write!(f, "{port}"),
                    None => f.write_str("*"),
                }
            }
            Self::Unix(path) => f.write_str(path),
        }
    }
}

impl Pattern {
    fn allows_tcp(&self, host: &str, addr: SocketAddr) -> bool {
        match self {
            Self::None | Self::Unix(_) => false,
            Self::Any => true,
            Self::Loopback => addr.ip().to_canonical().is_loopback(),
            Self::Tcp { host: allowed, port } => {
                port.is_none_or(|port| port == addr.port())
                    && allowed.as_deref().is_none_or(|allowed| match allowed.parse::<IpAddr>() {
                        // An address is what counts, under whatever name.
                        Ok(ip) => ip.to_canonical() == addr.ip().to_canonical(),
                        Err(_) => allowed.eq_ignore_ascii_case(host),
                    })
            }
        }
    }

    fn allows_unix(&self, path: &Path) -> bool {
        // No detours: `/run/allowed/../other` is not below `/run/allowed/`.
        let plain = path.components().all(|part| part != std::path::Component::ParentDir);
        match self {
            Self::Any => true,
            Self::Unix(allowed) => match allowed.strip_suffix('*') {
                Some(start) => plain && path.to_str().is_some_and(|path| path.starts_with(start)),
                None => path == Path::new(allowed),
            },
            _ => false,
        }
    }
}

/// What one kind of request may reach.
#[derive(Clone, Debug)]
pub struct Policy(Vec<Pattern>);

impl Policy {
    /// These, or loopback if there are none.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        if patterns.is_empty() { Self(vec![Pattern::Loopback]) } else { Self(patterns) }
    }

    /// Whether `addr`, which was asked for as `host`, may be used.
    pub fn allows_tcp(&self, host: &str, addr: SocketAddr) -> bool {
        self.0.iter().any(|pattern| pattern.allows_tcp(host, addr))
    }

    pub fn allows_unix(&self, path: &Path) -> bool {
        self.0.iter().any(|pattern| pattern.allows_unix(path))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(Pattern::to_string).collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(patterns: &[&str]) -> Policy {
        Policy::new(patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
    }

    fn allows(policy: &Policy, host: &str, addr: &str) -> bool {
        policy.allows_tcp(host, addr.parse().unwrap())
    }

    #[test]
    fn without_a_word_only_loopback_is_allowed() {
        let policy = policy(&[]);
        for addr in ["127.0.0.1:22", "127.9.9.9:1", "[::1]:80", "[::ffff:127.0.0.1]:5"] {
            assert!(allows(&policy, "localhost", addr), "{addr}");
        }
        // A name that says loopback and resolves to something else is not it.
        for addr in ["10.0.0.1:22", "0.0.0.0:22", "[::]:22", "[::ffff:10.0.0.1]:5"] {
            assert!(!allows(&policy, "localhost", addr), "{addr}");
        }
        assert!(!policy.allows_unix(Path::new("/run/x")));
    }

    #[test]
    fn an_allowed_host_or_address_with_its_port_is_allowed_and_nothing_else() {
        let policy = policy(&["db.internal:5432", "10.0.0.7:*", "*:443", "[2001:db8::1]:22"]);
        assert!(allows(&policy, "DB.internal", "10.1.1.1:5432"));
        assert!(!allows(&policy, "db.internal", "10.1.1.1:5433"));
        assert!(!allows(&policy, "other", "10.1.1.1:5432"));
        assert!(allows(&policy, "whatever", "10.0.0.7:9"));
        assert!(allows(&policy, "x", "1.2.3.4:443"));
        assert!(allows(&policy, "x", "[2001:db8::1]:22"));
        assert!(!allows(&policy, "localhost", "127.0.0.1:22"), "a list replaces the default");
        assert!(!allows(&self::policy(&["none"]), "localhost", "127.0.0.1:22"));
    }

    #[test]
    fn sockets_are_allowed_by_path_without_detours() {
        let policy = policy(&["/run/a.sock", "/run/app/*"]);
        for path in ["/run/a.sock", "/run/app/x"] {
            assert!(policy.allows_unix(Path::new(path)), "{path}");
        }
        for path in ["/run/b.sock", "/run/app/../a", "/run/appx", "/run"] {
            assert!(!policy.allows_unix(Path::new(path)), "{path}");
        }
        assert!(!allows(&policy, "localhost", "127.0.0.1:22"));
    }

    #[test]
    fn patterns_are_read_as_they_are_printed() {
        for text in ["none", "any", "loopback", "*:443", "a.b:*", "[::1]:22", "/run/*"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for text in ["", "host", ":22", "host:x"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
