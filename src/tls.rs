//! Keys, certificates and trust: the only module that names rustls and rcgen.
//!
//! TLS 1.3 only, with our own choice of crypto provider: a default that some
//! other crate installs for the process changes nothing here.

mod error;
mod fingerprint;
mod tickets;
mod verify;
#[cfg(feature = "simulation")]
mod virtual_time;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as backend;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use rustls::crypto::ring as backend;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use zeroize::Zeroizing;

pub use self::error::TlsError;
pub use self::fingerprint::{Fingerprint, ParseFingerprintError};
use self::tickets::Sparing;
use self::verify::{KeyVerifier, fingerprint_of};
use crate::crypto::hmac_sha256;
use crate::environment::Environment;
use crate::wire::ALPN;

/// The exporter label (RFC 8446 section 7.5) of the keying material that binds a
/// proof to one connection.
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-evermux-resume";

/// What stands before an Ed25519 private key in PKCS#8 (RFC 8410 section 7):
/// version 0, the algorithm, and the headers of two octet strings.
#[cfg(feature = "self-signed")]
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A certificate and its private key: who a server or a client is.
///
/// Made from PEM files, or on the spot by `Identity::self_signed` for peers that
/// know each other by [`Fingerprint`]. Clones share the key, which is wiped from
/// memory when the last of them is dropped (with the provider `ring`, which keeps
/// a copy of its own, not all of it).
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    certified: Arc<CertifiedKey>,
    key: Zeroizing<PrivateKeyDer<'static>>,
    /// Of the first certificate of `certified`.
    fingerprint: Fingerprint,
}

impl Identity {
    /// Reads a certificate chain, the own certificate first, and its private key:
    /// unencrypted, PKCS#8, PKCS#1 or SEC1. Both may be in one text.
    ///
    /// # Errors
    ///
    /// [`TlsError::BadPem`], [`TlsError::NoCertificate`],
    /// [`TlsError::NoPrivateKey`] or [`TlsError::InvalidCertificate`] if the text
    /// does not hold them; [`TlsError::UnsupportedKey`] for a key of another kind
    /// than ECDSA, Ed25519 or RSA; [`TlsError::KeyMismatch`] if the key is that of
    /// another certificate.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = read_certificates(chain, "certificate chain")?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::NoPrivateKey,
            _ => TlsError::BadPem { what: "private key" },
        })?;
        Self::new(chain, Zeroizing::new(key))
    }

    /// A new ECDSA P-256 key and a certificate for it that no authority has
    /// signed. It does not expire.
    ///
    /// `names` are DNS names (`*.example.com` too) and IP addresses; peers that
    /// pin the fingerprint do not look at them, so there may be none. Store
    /// [`certificate_pem`](Self::certificate_pem) and
    /// [`private_key_pem`](Self::private_key_pem) to be the same after a restart.
    ///
    /// ```
    /// use evermux::{ClientTls, Identity, ServerTls};
    ///
    /// let server = Identity::self_signed(&["localhost"])?;
    /// let client = Identity::self_signed(&[])?;
    /// let client_tls = ClientTls::with_pin(server.fingerprint()).identity(client.clone());
    /// let server_tls = ServerTls::new(server).require_clients([client.fingerprint()]);
    /// # Ok::<(), evermux::TlsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TlsError::InvalidName`] for a name that is none, [`TlsError::Other`] if
    /// the system gives no random bytes.
    #[cfg(feature = "self-signed")]
    pub fn self_signed(names: &[&str]) -> Result<Self, TlsError> {
        use rcgen::{CertificateParams, DnType, KeyPair};
        use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
        use zeroize::Zeroize;

        for &name in names {
            // rcgen takes any ASCII; no peer would find such a name later.
            let plain = name.strip_prefix("*.").unwrap_or(name);
            ServerName::try_from(plain)
                .map_err(|_| TlsError::InvalidName { name: name.to_owned() })?;
        }
        let failed = |error: rcgen::Error| TlsError::Other(format!("no certificate made: {error}"));
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, "evermux self-signed");

        let mut pair = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&pair);
        let key = PrivatePkcs8KeyDer::from(pair.serialize_der());
        pair.zeroize();
        Self::new(vec![certificate.map_err(failed)?.into()], Zeroizing::new(key.into()))
    }

    /// The identity that a secret stands for: an Ed25519 key whose private part
    /// (RFC 8032 section 5.1.5) is `seed`, and a certificate as
    /// [`self_signed`](Self::self_signed) makes it, without names. The same seed
    /// gives the same [`Fingerprint`] everywhere.
    ///
    /// For a secret that is passed on in a text: whoever has it is this peer. Take
    /// all of its 32 bytes from the system's random generator.
    ///
    /// ```
    /// use evermux::Identity;
    ///
    /// let [here, there] = [Identity::from_seed(&[7; 32])?, Identity::from_seed(&[7; 32])?];
    /// assert_eq!(here.fingerprint(), there.fingerprint());
    /// # Ok::<(), evermux::TlsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TlsError::Other`] if the crypto provider refuses.
    #[cfg(feature = "self-signed")]
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, TlsError> {
        use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};
        use rustls::pki_types::PrivatePkcs8KeyDer;
        use zeroize::Zeroize;

        let failed = |error: rcgen::Error| TlsError::Other(format!("no certificate made: {error}"));
        let mut key = Zeroizing::new(Vec::with_capacity(ED25519_PKCS8.len() + seed.len()));
        key.extend_from_slice(&ED25519_PKCS8);
        key.extend_from_slice(seed);
        let mut params = CertificateParams::new([]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, "evermux self-signed");
        let mut pair =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(&**key), &PKCS_ED25519)
                .map_err(failed)?;
        let certificate = params.self_signed(&pair);
        pair.zeroize();
        let key = PrivatePkcs8KeyDer::from(key.to_vec());
        Self::new(vec![certificate.map_err(failed)?.into()], Zeroizing::new(key.into()))
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<PrivateKeyDer<'static>>,
    ) -> Result<Self, TlsError> {
        // Not through the provider's `load_private_key`: it would take, and not
        // wipe, a copy.
        let signer =
            backend::sign::any_supported_type(&key).map_err(|_| TlsError::UnsupportedKey)?;
        let own = chain.first().ok_or(TlsError::NoCertificate)?;
        let fingerprint = fingerprint_of(own).map_err(invalid_certificate)?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch,
            other => invalid_certificate(other),
        })?;
        Ok(Self(Arc::new(Inner { certified: Arc::new(certified), key, fingerprint })))
    }

    /// The fingerprint of the public key, for peers to pin or allow.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// The certificate chain as PEM.
    pub fn certificate_pem(&self) -> String {
        let mut pem = String::new();
        for certificate in &self.0.certified.cert {
            write_pem(&mut pem, "CERTIFICATE", certificate);
        }
        pem
    }

    /// The private key as PEM, wiped from memory when dropped. Whoever has it can
    /// pose as this identity: store it where nobody else can read it.
    pub fn private_key_pem(&self) -> Zeroizing<String> {
        let label = match &*self.0.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let der = self.0.key.secret_der();
        // More than enough: growing would leave copies behind in freed memory.
        let mut pem = Zeroizing::new(String::with_capacity(2 * der.len() + 128));
        write_pem(&mut pem, label, der);
        pem
    }
}

/// Leaves the key out.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.0.fingerprint).finish_non_exhaustive()
    }
}

/// Whom a client trusts, and who it is.
///
/// Cheap to clone. Trust comes from the constructor: an authority
/// ([`with_ca_pem`](Self::with_ca_pem)), known keys
/// ([`with_pin`](Self::with_pin)), or the operating system
/// (`ClientTls::platform`). There is no way to trust everybody.
#[derive(Clone, Debug)]
pub struct ClientTls {
    servers: Arc<dyn ServerCertVerifier>,
    identity: Option<Identity>,
}

impl ClientTls {
    /// Trusts servers whose certificate was issued by one of the authorities in
    /// `pem`, for the name that the client connects to, and has not expired.
    ///
    /// A server's self-signed certificate may stand in for its authority.
    ///
    /// # Errors
    ///
    /// [`TlsError::BadPem`], [`TlsError::NoCertificate`] or
    /// [`TlsError::InvalidCertificate`] if `pem` does not hold certificates.
    pub fn with_ca_pem(pem: &[u8]) -> Result<Self, TlsError> {
        let roots = read_roots(pem)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| TlsError::Other(error.to_string()))?;
        Ok(Self { servers: verifier, identity: None })
    }

    /// Trusts the one server that holds the key with this fingerprint.
    ///
    /// The server proves in the handshake that it holds the key. Its
    /// certificate's names, expiry and issuer are **not** checked: the key is all
    /// that counts.
    pub fn with_pin(server: Fingerprint) -> Self {
        Self::with_pins([server])
    }

    /// As [`with_pin`](Self::with_pin), with several keys: for a change of keys,
    /// or for several servers. Without any, no server is trusted.
    pub fn with_pins(servers: impl IntoIterator<Item = Fingerprint>) -> Self {
        let verifier = KeyVerifier::listed(servers, &provider());
        Self { servers: Arc::new(verifier), identity: None }
    }

    /// Trusts servers that the operating system trusts, for the name that the
    /// client connects to.
    ///
    /// # Errors
    ///
    /// [`TlsError::Other`] if the system's certificates cannot be had.
    #[cfg(feature = "platform-verifier")]
    pub fn platform() -> Result<Self, TlsError> {
        let verifier = rustls_platform_verifier::Verifier::new(provider()).map_err(|error| {
            TlsError::Other(format!("the system's trusted certificates cannot be had: {error}"))
        })?;
        Ok(Self { servers: Arc::new(verifier), identity: None })
    }

    /// Shows this identity to servers that ask for one. Without, the client is
    /// anonymous.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Two configurations with one store of session tickets, empty and their own.
    /// `early_data`: with the first, tickets may be used to send data before the
    /// handshake is complete. The second sends none, and leaves the last tickets alone.
    pub(crate) fn configs(
        &self,
        early_data: bool,
        environment: &Environment,
    ) -> Result<(ClientConfig, ClientConfig), TlsError> {
        let builder = ClientConfig::builder_with_details(provider(), time(environment))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| TlsError::Other(error.to_string()))?
            .dangerous() // Every verifier in this file checks what it says.
            .with_custom_certificate_verifier(Arc::clone(&self.servers));
        let mut config = match &self.identity {
            Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Of each server rustls keeps eight tickets, and uses each once.
        let store = Arc::new(ClientSessionMemoryCache::new(CLIENT_TICKETS));
        let mut sparing = config.clone();
        sparing.resumption = Resumption::store(Arc::new(Sparing(Arc::clone(&store))));
        config.resumption = Resumption::store(store);
        config.enable_early_data = early_data;
        Ok((config, sparing))
    }
}

/// Who a server is, and which clients it lets in.
///
/// Cheap to clone. Of `require_clients`, `require_client_ca_pem` and
/// `ask_clients` the last one called counts; without any, the server does not ask
/// clients for a certificate.
#[derive(Clone, Debug)]
pub struct ServerTls {
    identity: Identity,
    clients: Arc<dyn ClientCertVerifier>,
}

impl ServerTls {
    /// A server that lets in anybody: what clients may do is then for the
    /// application to find out.
    pub fn new(identity: Identity) -> Self {
        Self { identity, clients: WebPkiClientVerifier::no_client_auth() }
    }

    /// Lets in only clients that hold one of these keys. Names, expiry and issuer
    /// of their certificates are not checked. With an empty list, nobody comes in.
    pub fn require_clients(mut self, allowed: impl IntoIterator<Item = Fingerprint>) -> Self {
        self.clients = Arc::new(KeyVerifier::listed(allowed, &provider()));
        self
    }

    /// Lets in only clients with a certificate that was issued by one of the
    /// authorities in `pem` and has not expired.
    ///
    /// # Errors
    ///
    /// [`TlsError::BadPem`], [`TlsError::NoCertificate`] or
    /// [`TlsError::InvalidCertificate`] if `pem` does not hold certificates.
    pub fn require_client_ca_pem(mut self, pem: &[u8]) -> Result<Self, TlsError> {
        let roots = read_roots(pem)?;
        self.clients = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| TlsError::Other(error.to_string()))?;
        Ok(self)
    }

    /// Lets in anybody, but asks for a certificate. A client that shows one has
    /// proved to hold its key, whoever it may be, and its session is bound to that
    /// key.
    pub fn ask_clients(mut self) -> Self {
        self.clients = Arc::new(KeyVerifier::any_or_none(&provider()));
        self
    }

    /// A configuration with its own, empty store of session tickets, large enough
    /// for `sessions` clients. `early_data`: they allow data before the handshake is
    /// complete.
    pub(crate) fn config(
        &self,
        sessions: u32,
        early_data: bool,
        environment: &Environment,
    ) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_details(provider(), time(environment))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| TlsError::Other(error.to_string()))?
            .with_client_cert_verifier(Arc::clone(&self.clients))
            .with_cert_resolver(self.identity.resolver());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Kept in the store and taken from it on use: a ticket is good once, so that
        // early data cannot be repeated while the server lives. (Tickets that hold
        // all they need themselves would be good again and again; rustls allows them
        // no early data.)
        config.send_tls13_tickets = TICKETS_SENT;
        config.session_storage = ServerSessionMemoryCache::new(stored_tickets(sessions));
        // QUIC knows this value and none (RFC 9001 section 4.6.1).
        config.max_early_data_size = if early_data { u32::MAX } else { 0 };
        Ok(config)
    }

    /// A secret that only a holder of the private key can know and that is the
    /// same after a restart, one for each label. It changes with the key, and
    /// with the key's encoding (PKCS#8, SEC1).
    pub(crate) fn stable_key(&self, label: &[u8]) -> [u8; 32] {
        hmac_sha256(self.identity.0.key.secret_der(), &[label])
    }
}

impl Identity {
    fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.0.certified)))
    }
}

/// The fingerprint of what quinn's `Connection::peer_identity` returns: the key
/// that the peer has proved to hold. `None` for a peer that showed no
/// certificate.
pub(crate) fn peer_fingerprint(identity: Option<Box<dyn Any>>) -> Option<Fingerprint> {
    let chain = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    fingerprint_of(chain.first()?).ok()
}

/// How many tickets a client keeps, of all servers; rustls's default.
const CLIENT_TICKETS: usize = 256;

/// How many tickets a client gets on each connection: a client in trouble dials
/// each address, and dials again, and each dial takes one.
const TICKETS_SENT: usize = 4;

/// Bounds on the number of tickets that a server stores. The store forgets the
/// oldest ticket when it is full, and its client then makes a full handshake and
/// sends no early data. rustls's default is the lower bound. A slot costs some 100
/// bytes up front and 1 to 2 KiB when used: with the upper bound 6 and 128 MiB.
const STORED_TICKETS_MIN: usize = 256;
const STORED_TICKETS_MAX: usize = 65_536;

/// Every session must find the tickets of its latest connection.
fn stored_tickets(sessions: u32) -> usize {
    usize::try_from(sessions)
        .unwrap_or(usize::MAX)
        .saturating_mul(TICKETS_SENT)
        .clamp(STORED_TICKETS_MIN, STORED_TICKETS_MAX)
}

/// The clock that tells the age of tickets and certificates.
fn time(environment: &Environment) -> Arc<dyn TimeProvider> {
    #[cfg(feature = "simulation")]
    if environment.world.is_some() {
        return Arc::new(virtual_time::VirtualTime);
    }
    #[cfg(not(feature = "simulation"))]
    let _ = environment;
    Arc::new(DefaultTimeProvider)
}

/// The feature's crypto provider.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(backend::default_provider())
}

/// All certificates in `text`, of which there is at least one.
fn read_certificates(
    text: &[u8],
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::BadPem { what })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    Ok(certificates)
}

fn read_roots(text: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(text, "CA certificates")? {
        roots.add(certificate).map_err(invalid_certificate)?;
    }
    Ok(Arc::new(roots))
}

fn invalid_certificate(error: rustls::Error) -> TlsError {
    let reason = match error {
        rustls::Error::InvalidCertificate(error) => error.to_string(),
        other => other.to_string(),
    };
    TlsError::InvalidCertificate { reason }
}

/// Bytes of DER in a line of PEM: 64 digits (RFC 7468 section 2).
const PEM_LINE: usize = 48;

/// Appends `der` as PEM (RFC 7468).
fn write_pem(pem: &mut String, label: &str, der: &[u8]) {
    pem.extend(["-----BEGIN ", label, "-----\n"]);
    for line in der.chunks(PEM_LINE) {
        for group in line.chunks(3) {
            let word = [0, 1, 2].map(|i| u32::from(group.get(i).copied().unwrap_or(0)));
            let word = (word[0] << 16) | (word[1] << 8) | word[2];
            for digit in 0..4 {
                let six = (word >> (18 - 6 * digit)) & 0x3f;
                pem.push(if digit <= group.len() { base64_digit(six as i16) } else { '=' });
            }
        }
        pem.push('\n');
    }
    pem.extend(["-----END ", label, "-----\n"]);
}

/// The base64 digit of a value below 64. Arithmetic instead of a table: what is
/// encoded may be a private key, and look-ups leave traces in the cache.
fn base64_digit(value: i16) -> char {
    // Each shift gives all ones if `value` lies beyond the bound, else zero.
    let mut digit = value + i16::from(b'A');
    digit += ((25 - value) >> 8) & 6;
    digit -= ((51 - value) >> 8) & 75;
    digit -= ((61 - value) >> 8) & 15;
    digit += ((62 - value) >> 8) & 3;
    char::from(digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by openssl: Ed25519, self-signed. The hash is what the command in the
    /// documentation of `Fingerprint` prints for it.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBRDCB96ADAgECAhQ+uppsr7FXmZGYisA/qsWtR//vWzAFBgMrZXAwFzEVMBMG
A1UEAwwMZXZlcm11eCB0ZXN0MCAXDTI2MTEyMzEyMzQxNVoYDzIxMjYxMDMwMTIz
NDE1WjAXMRUwEwYDVQQDDAxldmVybXV4IHRlc3QwKjAFBgMrZXADIQBfjPfa0llf
g6Q16iv9fwV2/+QKY3xXvzGLBjRglExg16NTMFEwHQYDVR0OBBYEFAPfN/TiCBH+
J04+tCq8jCosD34mMB8GA1UdIwQYMBaAFAPfN/TiCBH+J04+tCq8jCosD34mMA8G
A1UdEwEB/wQFMAMBAf8wBQYDK2VwA0EAXoWJk6vguXEIj/MhTcqSxxVFMCp37Ji5
BeWwgSie5ESDihPLCX7B8+CnzqTEh3vw9dINax8LZgB9w6PUXUnODQ==
-----END CERTIFICATE-----
";
    const CERTIFICATE_SHA256: &str =
        "f0874adc8f326db5dfefa871e53f468311500be188c5acde9fa80175ddeae9e1";

    #[test]
    fn a_fingerprint_is_what_openssl_says() {
        let chain = read_certificates(CERTIFICATE.as_bytes(), "test").unwrap();
        let fingerprint = fingerprint_of(&chain[0]).unwrap();
        assert_eq!(fingerprint.to_string(), CERTIFICATE_SHA256);
        assert_eq!(peer_fingerprint(Some(Box::new(chain))), Some(fingerprint));
        assert_eq!(peer_fingerprint(None), None);
        assert_eq!(peer_fingerprint(Some(Box::new(Vec::<CertificateDer<'static>>::new()))), None);
    }

    #[test]
    fn pem_is_written_as_openssl_writes_it() {
        let chain = read_certificates(CERTIFICATE.as_bytes(), "test").unwrap();
        let mut written = String::new();
        write_pem(&mut written, "CERTIFICATE", &chain[0]);
        assert_eq!(written, CERTIFICATE);
    }

    #[test]
    fn base64_has_its_digits_in_order_and_pads() {
        let digits: String = (0..64).map(base64_digit).collect();
        assert_eq!(digits, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
        for (bytes, text) in [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            let mut pem = String::new();
            write_pem(&mut pem, "X", bytes.as_bytes());
            assert_eq!(pem, format!("-----BEGIN X-----\n{text}\n-----END X-----\n"));
        }
    }

    #[test]
    fn text_without_what_is_looked_for_is_refused_by_name() {
        let certificate = CERTIFICATE.as_bytes();
        let broken = CERTIFICATE.replace("-----END CERTIFICATE-----\n", "");
        let garbled = CERTIFICATE.replacen("MII", "M!I", 1);
        let no_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let ca = |text: &str| ClientTls::with_ca_pem(text.as_bytes()).unwrap_err();
        let bad = |what| TlsError::BadPem { what };
        assert_eq!(ca("no PEM"), TlsError::NoCertificate);
        assert_eq!(ca(&broken), bad("CA certificates"));
        assert_eq!(ca(&garbled), bad("CA certificates"));
        assert!(matches!(ca(no_der), TlsError::InvalidCertificate { .. }));

        let identity = |chain, key| Identity::from_pem(chain, key).unwrap_err();
        assert_eq!(identity(b"", b""), TlsError::NoCertificate);
        assert_eq!(identity(broken.as_bytes(), b""), bad("certificate chain"));
        assert_eq!(identity(certificate, certificate), TlsError::NoPrivateKey);
        let key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(identity(certificate, &key[..40]), bad("private key"));
        assert_eq!(identity(certificate, key), TlsError::UnsupportedKey);
        let encrypted = key.map(|byte| if byte == b'P' { b'Q' } else { byte });
        assert_eq!(identity(certificate, &encrypted), TlsError::NoPrivateKey);
    }

    #[test]
    fn the_ticket_store_has_room_for_every_session_within_bounds() {
        assert_eq!(stored_tickets(0), STORED_TICKETS_MIN);
        assert_eq!(stored_tickets(1_000), 4_000);
        assert_eq!(stored_tickets(u32::MAX), STORED_TICKETS_MAX);
    }

    #[cfg(feature = "self-signed")]
    mod identities {
        use super::*;

        #[test]
        fn stored_as_pem_they_come_back_the_same() {
            let made = Identity::self_signed(&["localhost", "*.example.com", "::1"]).unwrap();
            let (chain, key) = (made.certificate_pem(), made.private_key_pem());
            let read = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
            assert_eq!(read.fingerprint(), made.fingerprint());
            assert_eq!(read.certificate_pem(), chain);
            assert_eq!(read.private_key_pem(), key);
            let both = format!("{}{chain}", *key);
            assert!(Identity::from_pem(both.as_bytes(), both.as_bytes()).is_ok());

            // What a restarted server derives from the key is the same, too.
            let stable = |identity, label| ServerTls::new(identity).stable_key(label);
            assert_eq!(stable(read.clone(), b"a"), stable(made.clone(), b"a"));
            assert_ne!(stable(read, b"a"), stable(made.clone(), b"b"));
            let other = Identity::self_signed(&[]).unwrap();
            assert_ne!(stable(other, b"a"), stable(made, b"a"));
        }

        /// RFC 8032 section 7.1, test 1: its secret key and its public key.
        #[test]
        fn a_seed_is_the_private_key_of_rfc_8032() {
            let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
            let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
            let bytes = |hex: &str| *hex.parse::<Fingerprint>().unwrap().as_bytes();
            let identity = Identity::from_seed(&bytes(seed)).unwrap();
            // SubjectPublicKeyInfo, RFC 8410 section 4.
            let mut info = vec![0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
            info.extend(bytes(public));
            assert_eq!(identity.fingerprint(), Fingerprint::of_public_key(&info));
            let (chain, key) = (identity.certificate_pem(), identity.private_key_pem());
            let read = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
            assert_eq!(read.fingerprint(), identity.fingerprint());
        }

        #[test]
        fn the_key_of_another_certificate_is_refused() {
            let [one, two] = [(); 2].map(|()| Identity::self_signed(&[]).unwrap());
            let (chain, key) = (one.certificate_pem(), two.private_key_pem());
            let error = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
            assert_eq!(error, TlsError::KeyMismatch);
        }

        #[test]
        fn names_that_no_peer_could_use_are_refused() {
            for name in ["", "a b", "ä.example", "*.", "a.*.example", "-a", "http://a"] {
                let error = Identity::self_signed(&["localhost", name]).unwrap_err();
                assert_eq!(error, TlsError::InvalidName { name: name.into() });
            }
        }

        #[test]
        fn debug_output_has_no_key_in_it() {
            let identity = Identity::self_signed(&[]).unwrap();
            let text = format!("Identity {{ fingerprint: {:?}, .. }}", identity.fingerprint());
            assert_eq!(format!("{identity:?}"), text);
            assert!(format!("{:?}", ServerTls::new(identity)).contains(&text));
        }
    }
}
