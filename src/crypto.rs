//! The three primitives that we take from the crypto provider: SHA-256,
//! HMAC-SHA-256 (RFC 2104), random bytes. The only file that names a provider
//! besides `tls.rs`.

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs as provider;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use ring as provider;

use provider::rand::SecureRandom;
use provider::{digest, hmac, rand};

/// Length of a SHA-256 output in bytes.
pub(crate) const HASH_LEN: usize = 32;

/// SHA-256 of `data`.
pub(crate) fn sha256(data: &[u8]) -> [u8; HASH_LEN] {
    to_array(digest::digest(&digest::SHA256, data).as_ref())
}

/// HMAC-SHA-256 over the concatenation of `parts`. Callers make parts of fixed
/// length, so that no two inputs run together.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    to_array(context.sign().as_ref())
}

/// `N` bytes from the provider's random generator.
///
/// # Errors
///
/// When the operating system gives none; a session cannot be made then.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    rand::SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// The operating system's random generator failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub(crate) struct NoRandomness;

fn to_array(hash: &[u8]) -> [u8; HASH_LEN] {
    let mut array = [0; HASH_LEN];
    array.copy_from_slice(hash);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_matches_rfc_4231_case_2() {
        let tag = hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(tag[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(tag[28..], [0x64, 0xec, 0x38, 0x43]);
    }
}
