//! Identity and trust: with its `verify` module, the only place that names
//! rustls and rcgen.

mod verify;

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, client::WebPkiServerVerifier, client::danger::ServerCertVerifier};
use zeroize::Zeroize;

use crate::crypto::{HASH_LEN, hmac_sha256, sha256};
use crate::wire::ALPN;
use verify::{ClientPins, ServerPins};

/// Label of the keying material that resume proofs are bound to (RFC 8446
/// section 7.5).
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-evermux-resume";

/// TLS tickets kept for each session: rustls hands out two on each connection,
/// and a client that comes back uses one.
const TICKETS_PER_SESSION: usize = 2;

/// Most TLS tickets kept, whatever the limit of sessions: some 100 MB.
const TICKETS_MAX: usize = 100_000;

/// What can be wrong with certificates, keys and TLS handshakes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM text could not be read.
    #[error("cannot read the PEM text of the {what}: {reason}")]
    BadPem {
        /// What was expected.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A PEM text holds no certificate.
    #[error("the PEM text holds no certificate")]
    NoCertificate,
    /// The private key does not belong to the certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The peer's certificate is not one that we trust.
    #[error(
        "the peer's certificate is not trusted: it was not issued by a trusted authority, \
         or its key is not the pinned one"
    )]
    UntrustedPeer,
    /// The peer's certificate was issued for another name.
    #[error("the peer's certificate was issued for another name")]
    WrongName,
    /// The peer's certificate has expired, or the clock is wrong.
    #[error("the peer's certificate has expired or is not valid yet (is the clock right?)")]
    ExpiredCertificate,
    /// The peer speaks another protocol, or another version of ours.
    #[error("the peer is no evermux server of this protocol version")]
    WrongProtocol,
    /// The server wants a client certificate and was shown none.
    #[error("the server wants a client certificate: set an identity")]
    ClientCertificateRequired,
    /// The peer does not trust our certificate.
    #[error("the peer does not trust our certificate")]
    RejectedByPeer,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl TlsError {
    /// From a TLS alert (RFC 8446 section 6), by us or by the peer.
    pub(crate) fn from_alert(alert: u8, reason: &str, by_peer: bool) -> Self {
        match (alert, by_peer) {
            (120, _) => Self::WrongProtocol,
            (116, true) => Self::ClientCertificateRequired,
            (42..=46 | 48 | 49, true) => Self::RejectedByPeer,
            (42 | 46 | 50 | 51, false) if reason.contains("not valid for name") => Self::WrongName,
            (45, false) => Self::ExpiredCertificate,
            (42 | 46, false) if reason.contains("xpired") || reason.contains("ValidYet") => {
                Self::ExpiredCertificate
            }
            (42 | 43 | 44 | 46 | 48 | 49, false) => Self::UntrustedPeer,
            _ => Self::Other(format!("TLS alert {alert}: {reason}")),
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InconsistentKeys(_) => Self::KeyMismatch,
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            other => Self::Other(other.to_string()),
        }
    }
}

/// The hash of a public key: SHA-256 over the SubjectPublicKeyInfo of a
/// certificate, as in RFC 7469.
///
/// Written as 64 hexadecimal digits. It stays the same when a certificate is
/// renewed with the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; HASH_LEN]);

impl Fingerprint {
    /// The fingerprint made of these bytes.
    pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the fingerprint.
    pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }

    fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        Ok(Self(sha256(&parsed.subject_public_key_info())))
    }
}

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

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    /// 64 hexadecimal digits, with or without `sha256:` in front.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let mut bytes = [0; HASH_LEN];
        if digits.len() != 2 * HASH_LEN {
            return Err(ParseFingerprintError);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or(ParseFingerprintError);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

/// A text that is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: 64 hexadecimal digits are wanted, after an optional \"sha256:\"")]
pub struct ParseFingerprintError;

/// A certificate and its private key: who one is.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<KeyBytes>,
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

/// A private key in DER; zeroized when dropped.
struct KeyBytes(PrivateKeyDer<'static>);

impl Drop for KeyBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Identity {
    /// From PEM texts: a certificate chain, the end entity's first, and its
    /// private key (PKCS #8, PKCS #1 or SEC1).
    ///
    /// # Errors
    ///
    /// The texts cannot be read, or do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(chain, "certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::BadPem { what: "private key", reason: error.to_string() })?;
        Self::new(chain, key)
    }

    /// A new key (ECDSA P-256) with a certificate for these names, signed by
    /// itself. The peer trusts it by its [fingerprint](Self::fingerprint).
    ///
    /// # Errors
    ///
    /// A name cannot stand in a certificate.
    #[cfg(feature = "self-signed")]
    pub fn self_signed(names: &[&str]) -> Result<Self, TlsError> {
        let other = |error: rcgen::Error| TlsError::Other(error.to_string());
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).map_err(other)?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        Self::new(vec![made.cert.der().clone()], key)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let key = Arc::new(KeyBytes(key));
        let certified = CertifiedKey::from_der(chain.clone(), key.0.clone_key(), &provider())?;
        let end_entity = chain.first().ok_or(TlsError::NoCertificate)?;
        let fingerprint = Fingerprint::of(end_entity)?;
        Ok(Self { chain, key, certified: Arc::new(certified), fingerprint })
    }

    /// The hash of the public key, by which a peer can trust it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificate chain in DER, the end entity's first.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(|certificate| certificate.as_ref())
    }
}

/// Whom a client trusts, and who it is.
#[derive(Clone, Debug)]
pub struct ClientTls {
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<Identity>,
}

impl ClientTls {
    /// Trusts servers whose certificate was issued, for the target's name, by
    /// one of these authorities (PEM).
    ///
    /// # Errors
    ///
    /// The text cannot be read or holds no certificate.
    pub fn with_ca_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let roots = roots(pem)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| TlsError::Other(error.to_string()))?;
        Ok(Self { verifier, identity: None })
    }

    /// Trusts the server that holds this key, whatever its certificate says: its
    /// name and dates are not looked at.
    pub fn with_pin(pin: Fingerprint) -> Self {
        Self::with_pins([pin])
    }

    /// As [`with_pin`](Self::with_pin), with several keys: for a server whose
    /// key is about to change.
    pub fn with_pins(pins: impl IntoIterator<Item = Fingerprint>) -> Self {
        let verifier = Arc::new(ServerPins::new(pins.into_iter().collect(), provider()));
        Self { verifier, identity: None }
    }

    /// Trusts what the operating system trusts.
    ///
    /// # Errors
    ///
    /// The system's certificates cannot be read.
    #[cfg(feature = "platform-verifier")]
    pub fn platform() -> Result<Self, TlsError> {
        let verifier = Arc::new(rustls_platform_verifier::Verifier::new(provider())?);
        Ok(Self { verifier, identity: None })
    }

    /// Shows the server this certificate, if it asks for one.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    pub(crate) fn config(&self) -> Result<rustls::ClientConfig, TlsError> {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone());
        let mut config = match &self.identity {
            Some(identity) => builder.with_client_cert_resolver(resolver(identity)),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

/// Who a server is, and which clients it lets in.
#[derive(Clone, Debug)]
pub struct ServerTls {
    identity: Identity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl ServerTls {
    /// A server with this identity that lets every client in.
    pub fn new(identity: Identity) -> Self {
        Self { identity, clients: None }
    }

    /// Lets clients in that hold one of these keys.
    pub fn require_clients(mut self, allowed: impl IntoIterator<Item = Fingerprint>) -> Self {
        let allowed = Some(allowed.into_iter().collect());
        self.clients = Some(Arc::new(ClientPins::new(allowed, provider())));
        self
    }

    /// Lets clients in whose certificate was issued by one of these authorities
    /// (PEM).
    ///
    /// # Errors
    ///
    /// The text cannot be read or holds no certificate.
    pub fn require_client_ca_pem(mut self, pem: &[u8]) -> Result<Self, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(pem)?, provider())
            .build()
            .map_err(|error| TlsError::Other(error.to_string()))?;
        self.clients = Some(verifier);
        Ok(self)
    }

    /// Lets every client in, and asks for a certificate: a session is bound to
    /// the key that its client has shown, and
    /// [`Incoming::peer`](crate::Incoming::peer) tells it.
    pub fn ask_clients(mut self) -> Self {
        self.clients = Some(Arc::new(ClientPins::new(None, provider())));
        self
    }

    pub(crate) fn config(&self, sessions: u32) -> Result<rustls::ServerConfig, TlsError> {
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match &self.clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(resolver(&self.identity));
        config.alpn_protocols = vec![ALPN.to_vec()];
        let tickets = (sessions as usize).saturating_mul(TICKETS_PER_SESSION).min(TICKETS_MAX);
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(tickets);
        Ok(config)
    }

    /// A secret for `label` that is as stable as the private key it is derived
    /// from.
    pub(crate) fn stable_key(&self, label: &[u8]) -> [u8; HASH_LEN] {
        hmac_sha256(self.identity.key.0.secret_der(), &[label])
    }
}

/// The key that a peer has proved to hold, from what QUIC knows of it.
pub(crate) fn peer_fingerprint(identity: Option<Box<dyn Any>>) -> Option<Fingerprint> {
    let chain = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Fingerprint::of(chain.first()?).ok()
}

/// The crypto provider that this crate was built with; never a process-wide
/// default, which others may have set.
fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

fn resolver(identity: &Identity) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(identity.certified.clone()))
}

fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "certificate authority")? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| TlsError::BadPem { what, reason: error.to_string() })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_round_trip_as_text() {
        let fingerprint = Fingerprint::from_bytes(std::array::from_fn(|i| i as u8 * 7));
        let text = fingerprint.to_string();
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(format!("sha256:{}", text.to_uppercase()).parse(), Ok(fingerprint));
        for wrong in ["", "00", &text[1..], &format!("{}é", &text[2..])] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(ParseFingerprintError));
        }
    }

    #[test]
    fn unreadable_pem_is_told_apart() {
        assert_eq!(ClientTls::with_ca_pem(b"").unwrap_err(), TlsError::NoCertificate);
        let error = Identity::from_pem(b"nonsense", b"").unwrap_err();
        assert_eq!(error, TlsError::NoCertificate);
    }

    #[cfg(feature = "self-signed")]
    #[test]
    fn an_identity_keeps_its_key_to_itself_and_derives_stable_secrets() {
        let identity = Identity::self_signed(&["localhost"]).unwrap();
        assert!(!format!("{identity:?}").contains("key"));
        let server = ServerTls::new(identity.clone());
        assert_eq!(server.stable_key(b"a"), ServerTls::new(identity).stable_key(b"a"));
        assert_ne!(server.stable_key(b"a"), server.stable_key(b"b"));
    }
}
