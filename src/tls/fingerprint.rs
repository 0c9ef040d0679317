//! What a key is known by.

use std::fmt;
use std::str::FromStr;

use crate::crypto::sha256;

/// The fingerprint of a public key: what pins and allow-lists are made of.
///
/// It is the SHA-256 of the certificate's SubjectPublicKeyInfo in DER, as in
/// RFC 7469. A certificate that is renewed with the same key keeps its
/// fingerprint. Written as 64 hexadecimal digits; to have them from a file:
///
/// ```text
/// openssl x509 -in server.pem -noout -pubkey \
///     | openssl pkey -pubin -outform der | sha256sum
/// ```
///
/// Fingerprints are public. Two that are equal mean the same key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The fingerprint of a DER SubjectPublicKeyInfo, outer SEQUENCE included.
    pub(super) fn of_public_key(info: &[u8]) -> Self {
        Self(sha256(info))
    }
}

/// 64 lower-case hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Reads 64 hexadecimal digits of either case, with or without `sha256:` in
/// front.
impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, ParseFingerprintError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(ParseFingerprintError(()));
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for &digit in pair {
                let value = char::from(digit).to_digit(16).ok_or(ParseFingerprintError(()))?;
                *byte = (*byte << 4) | value as u8;
            }
        }
        Ok(Self(bytes))
    }
}

/// The text is no [`Fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: expected 64 hexadecimal digits, with or without `sha256:` before them")]
pub struct ParseFingerprintError(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_displayed_parses_back() {
        let fingerprint = Fingerprint::from_bytes(std::array::from_fn(|i| (i * 37) as u8));
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(text.to_uppercase().parse(), Ok(fingerprint));
        assert_eq!(format!("sha256:{text}").parse(), Ok(fingerprint));
        assert_eq!(format!("{fingerprint:?}"), format!("Fingerprint({text})"));
    }

    #[test]
    fn text_of_another_form_is_refused() {
        let digits = "0".repeat(64);
        for text in [
            "",
            "sha256:",
            &digits[1..],
            &format!("{digits}0"),
            &format!("sha1:{}", &digits[5..]),
            &format!(" {}", &digits[1..]),
            &format!("+{}", &digits[1..]),
            &format!("g{}", &digits[1..]),
            &format!("é{}", &digits[2..]),
        ] {
            assert_eq!(text.parse::<Fingerprint>(), Err(ParseFingerprintError(())), "{text:?}");
        }
    }
}
