//! The link: all that a client needs to reach an agent, in one line.
//!
//! ```text
//! evermux://HOST:PORT/PIN/SECRET
//! ```
//!
//! PIN is the fingerprint of the agent's key, SECRET the seed of a client key
//! that the agent lets in, both as 64 hexadecimal digits. Without a SECRET the
//! client shows a key of its own, which the agent's `--authorized` file lists.

use std::fmt;

use evermux::{Fingerprint, Identity, Target, TlsError};
use zeroize::Zeroizing;

use crate::exit::{Code, Failure};

const SCHEME: &str = "evermux://";

/// The seed of a client's key. Whoever has it can use the agent.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; Secret::LEN]>);

impl Secret {
    pub const LEN: usize = 32;

    pub fn random() -> Result<Self, Failure> {
        let mut seed = Zeroizing::new([0; Self::LEN]);
        getrandom::fill(&mut seed[..]).map_err(|error| {
            Failure::new(Code::System, format!("the system gives no random bytes: {error}"))
        })?;
        Ok(Self(seed))
    }

    /// The key that it stands for.
    pub fn identity(&self) -> Result<Identity, TlsError> {
        Identity::from_seed(&self.0)
    }

    pub fn to_hex(&self) -> Zeroizing<String> {
        let mut hex = Zeroizing::new(String::with_capacity(2 * Self::LEN));
        for byte in self.0.iter() {
            for half in [byte >> 4, byte & 0xf] {
                hex.extend(char::from_digit(half.into(), 16));
            }
        }
        hex
    }

    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut seed = Zeroizing::new([0; Self::LEN]);
        if hex.len() != 2 * Self::LEN {
            return None;
        }
        for (byte, pair) in seed.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            for &digit in pair {
                *byte = (*byte << 4) | char::from(digit).to_digit(16)? as u8;
            }
        }
        Some(Self(seed))
    }
}

/// Leaves the secret out.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where an agent is, what its key is, and how it knows its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// `HOST:PORT`.
    pub address: String,
    pub pin: Fingerprint,
    pub secret: Option<Secret>,
}

impl Link {
    /// Reads a link. The message of an error holds nothing of the text, which
    /// may be half a secret.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |what: &str| {
            let form = "evermux://HOST:PORT/PIN/SECRET, as `evermux agent` prints it";
            Failure::new(Code::Data, format!("not a link: {what} (expected {form})"))
        };
        let text = text.trim();
        let rest =
            text.strip_prefix(SCHEME).ok_or_else(|| wrong("it must begin with evermux://"))?;
        let mut parts = rest.split('/');
        let address = parts.next().unwrap_or_default();
        address.parse::<Target>().map_err(|_| wrong("its address is not HOST:PORT"))?;
        let pin = parts.next().and_then(|pin| pin.parse().ok());
        let pin = pin.ok_or_else(|| wrong("its pin is not 64 hexadecimal digits"))?;
        let secret = match parts.next() {
            None | Some("") => None,
            Some(hex) => Some(
                Secret::from_hex(hex)
                    .ok_or_else(|| wrong("its secret is not 64 hexadecimal digits"))?,
            ),
        };
        if parts.next().is_some() {
            return Err(wrong("there is more after its secret"));
        }
        Ok(Self { address: address.to_owned(), pin, secret })
    }

    /// The whole link, secret included: for stdout and files, never for a log.
    pub fn to_text(&self) -> Zeroizing<String> {
        // Room enough: growing would leave copies behind in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(160 + self.address.len()));
        text.extend([SCHEME, &self.address, "/", &self.pin.to_string()]);
        if let Some(secret) = &self.secret {
            text.extend(["/", &secret.to_hex()]);
        }
        text
    }

    /// The link with its secret left out.
    pub fn to_public_text(&self) -> String {
        let secret = if self.secret.is_some() { "/(secret)" } else { "" };
        format!("{SCHEME}{}/{}{secret}", self.address, self.pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(secret: bool) -> Link {
        Link {
            address: "[2001:db8::1]:4433".into(),
            pin: Fingerprint::from_bytes([7; 32]),
            secret: secret.then(|| Secret::random().unwrap()),
        }
    }

    #[test]
    fn what_is_printed_parses_back() {
        for link in [link(true), link(false)] {
            assert_eq!(Link::parse(&format!(" {}\n", *link.to_text())).unwrap(), link);
        }
    }

    #[test]
    fn the_secret_is_in_no_other_output() {
        let link = link(true);
        let hex = link.secret.as_ref().unwrap().to_hex();
        assert!(!format!("{link:?} {}", link.to_public_text()).contains(&**hex));
    }

    #[test]
    fn a_text_that_is_no_link_is_refused_without_repeating_it() {
        let good = link(true).to_text();
        let hex = "ab".repeat(32);
        for text in [
            "",
            "http://h:1",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{}/x", *good),
            "evermux://host/",
            &format!("evermux://:1/{hex}"),
            &format!("evermux://host:1/{}/{hex}", &hex[1..]),
        ] {
            let error = Link::parse(text).unwrap_err();
            assert_eq!(error.code, Code::Data, "{text}");
            assert!(!error.to_string().contains(&hex[..8]), "{error}");
        }
    }

    #[test]
    fn one_secret_is_one_key() {
        let secret = Secret::random().unwrap();
        let again = Secret::from_hex(&secret.to_hex()).unwrap();
        let key = |secret: &Secret| secret.identity().unwrap().fingerprint();
        assert_eq!(key(&secret), key(&again));
        assert_ne!(key(&secret), key(&Secret::random().unwrap()));
    }
}
