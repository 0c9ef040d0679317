//! Trust by fingerprint instead of by authority.
//!
//! A handshake has two checks. The first decides whether the certificate is
//! acceptable: here that is a look at its key and nothing else. The second, the
//! signature over the handshake, proves that the peer holds that key: it is left
//! to rustls, with the provider's algorithms, and is never skipped.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};

use super::Fingerprint;

/// The fingerprint of the key in `certificate`.
pub(super) fn fingerprint_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    let certificate = ParsedCertificate::try_from(certificate)?;
    Ok(Fingerprint::of_public_key(&certificate.subject_public_key_info()))
}

/// Which keys are accepted.
#[derive(Clone, Debug)]
enum Keys {
    /// These only.
    Listed(Arc<[Fingerprint]>),
    /// Any, but the peer must prove that it holds it.
    Any,
}

/// Accepts a peer by its key: the verifier of both roles.
#[derive(Debug)]
pub(super) struct KeyVerifier {
    keys: Keys,
    algorithms: WebPkiSupportedAlgorithms,
    /// Server: a client that shows no certificate is turned away.
    mandatory: bool,
}

impl KeyVerifier {
    /// Accepts these keys, and no peer without a certificate.
    pub(super) fn listed(
        keys: impl IntoIterator<Item = Fingerprint>,
        provider: &CryptoProvider,
    ) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { keys: Keys::Listed(keys.into_iter().collect()), algorithms, mandatory: true }
    }

    /// Accepts any key, and clients without a certificate.
    pub(super) fn any_or_none(provider: &CryptoProvider) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { keys: Keys::Any, algorithms, mandatory: false }
    }

    fn check_key(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        // Before the match: a certificate whose key cannot be read is never
        // accepted, so that every accepted one has a fingerprint.
        let fingerprint = fingerprint_of(end_entity)?;
        match &self.keys {
            Keys::Listed(keys) if !keys.contains(&fingerprint) => {
                // Becomes the alert access_denied, which says just this.
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            Keys::Listed(_) | Keys::Any => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_key(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: clients show the certificate they have.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_key(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// QUIC has no TLS 1.2: rustls never asks.
fn no_tls12() -> Error {
    PeerIncompatible::Tls12NotOffered.into()
}

#[cfg(all(test, feature = "self-signed"))]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use rustls::quic::{ClientConnection, Connection, ServerConnection, Version};

    use super::super::{ClientTls, Identity, ServerTls, TlsError, peer_fingerprint};
    use super::*;
    use crate::environment::Environment;

    /// An authority, to issue certificates.
    struct Authority(rcgen::CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
        }

        fn tls(&self) -> ClientTls {
            ClientTls::with_ca_pem(self.pem().as_bytes()).unwrap()
        }

        fn pem(&self) -> String {
            pem("CERTIFICATE", self.0.der())
        }

        fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            change(&mut params);
            let certificate = params.signed_by(&key, &self.0).unwrap();
            let (chain, key) = (pem("CERTIFICATE", certificate.der()), key.serialize_der());
            Identity::from_pem(chain.as_bytes(), pem("PRIVATE KEY", &key).as_bytes()).unwrap()
        }
    }

    fn pem(label: &str, der: &[u8]) -> String {
        let mut pem = String::new();
        super::super::write_pem(&mut pem, label, der);
        pem
    }

    /// What each side makes of a handshake: its peer's key, or an error.
    #[derive(Debug, PartialEq)]
    struct Outcome {
        client: Result<Option<Fingerprint>, TlsError>,
        server: Result<Option<Fingerprint>, TlsError>,
    }

    /// A handshake in memory. As QUIC does, whoever fails tells the other side the
    /// alert and the reason.
    fn handshake(client: &ClientTls, server: &ServerTls) -> Outcome {
        handshake_with(
            client.configs(true, &Environment::default()).unwrap().0,
            server.config(1, true, &Environment::default()).unwrap(),
        )
    }

    fn handshake_with(client: rustls::ClientConfig, server: rustls::ServerConfig) -> Outcome {
        let name = "localhost".try_into().unwrap();
        let client = ClientConnection::new(client.into(), Version::V1, name, vec![]).unwrap();
        let server = ServerConnection::new(server.into(), Version::V1, vec![]).unwrap();
        let (mut client, mut server) = (Connection::from(client), Connection::from(server));
        for _ in 0..4 {
            if let Err((ours, theirs)) = transfer(&mut client, &mut server) {
                return Outcome { client: Err(theirs), server: Err(ours) };
            }
            if let Err((ours, theirs)) = transfer(&mut server, &mut client) {
                return Outcome { client: Err(ours), server: Err(theirs) };
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Outcome { client: Ok(peer_of(&client)), server: Ok(peer_of(&server)) }
    }

    /// The receiver's error, and what the sender hears of it.
    fn transfer(from: &mut Connection, to: &mut Connection) -> Result<(), (TlsError, TlsError)> {
        loop {
            // One encryption level at a time, as QUIC delivers them.
            let mut bytes = Vec::new();
            let keys = from.write_hs(&mut bytes);
            to.read_hs(&bytes).map_err(|error| {
                let (alert, reason) = (u8::from(to.alert().unwrap()), error.to_string());
                let told = |by_peer| TlsError::from_alert(alert, &reason, by_peer);
                (told(false), told(true))
            })?;
            if keys.is_none() {
                return Ok(());
            }
        }
    }

    fn peer_of(connection: &Connection) -> Option<Fingerprint> {
        let chain = connection.peer_certificates()?.to_vec();
        peer_fingerprint(Some(Box::new(chain)))
    }

    fn rejected(reason: &'static str) -> TlsError {
        TlsError::CertificateRejected { reason }
    }

    fn identity() -> Identity {
        Identity::self_signed(&["localhost"]).unwrap()
    }

    #[test]
    fn a_pinned_server_is_trusted_whatever_its_certificate_says() {
        let authority = Authority::new();
        let expired = authority.issue(|params| params.not_after = rcgen::date_time_ymd(1980, 1, 1));
        let nameless = Identity::self_signed(&[]).unwrap();
        for server in [expired, nameless] {
            let pins = [identity().fingerprint(), server.fingerprint()];
            let outcome = handshake(&ClientTls::with_pins(pins), &ServerTls::new(server.clone()));
            let client = Ok(Some(server.fingerprint()));
            assert_eq!(outcome, Outcome { client, server: Ok(None) });
        }
    }

    #[test]
    fn a_server_with_another_key_than_the_pinned_one_is_not_trusted() {
        for pins in [vec![], vec![identity().fingerprint()]] {
            let outcome = handshake(&ClientTls::with_pins(pins), &ServerTls::new(identity()));
            let (client, server) =
                (TlsError::UntrustedPeer, rejected("its fingerprint is not allowed there"));
            assert_eq!(outcome, Outcome { client: Err(client), server: Err(server) });
        }
    }

    // The point of the second check: a certificate is public, so that anybody can
    // show that of a pinned peer, but not sign with its key.
    #[test]
    fn a_certificate_without_its_key_is_worth_nothing() {
        use rustls::sign::{CertifiedKey, SingleCertAndKey};

        let (owner, thief) = (identity(), identity());
        let loot = |owner: &Identity, thief: &Identity| {
            let chain = owner.0.certified.cert.clone();
            let stolen = CertifiedKey::new(chain, thief.0.certified.key.clone());
            Arc::new(SingleCertAndKey::from(stolen))
        };
        let wrong = "its signature is wrong";

        let client = ClientTls::with_pin(owner.fingerprint())
            .configs(true, &Environment::default())
            .unwrap()
            .0;
        let mut server =
            ServerTls::new(thief.clone()).config(1, true, &Environment::default()).unwrap();
        server.cert_resolver = loot(&owner, &thief);
        let outcome = handshake_with(client, server);
        let (client, server) = (TlsError::UntrustedPeer, rejected(wrong));
        assert_eq!(outcome, Outcome { client: Err(client), server: Err(server) });

        let host = identity();
        for tls in [
            ServerTls::new(host.clone()).require_clients([owner.fingerprint()]),
            ServerTls::new(host.clone()).ask_clients(),
        ] {
            let mut client = ClientTls::with_pin(host.fingerprint())
                .configs(true, &Environment::default())
                .unwrap()
                .0;
            client.client_auth_cert_resolver = loot(&owner, &thief);
            let outcome =
                handshake_with(client, tls.config(1, true, &Environment::default()).unwrap());
            let (client, server) = (rejected(wrong), TlsError::UntrustedPeer);
            assert_eq!(outcome, Outcome { client: Err(client), server: Err(server) });
        }
    }

    #[test]
    fn a_server_is_trusted_by_its_authority_unless_something_is_wrong() {
        let authority = Authority::new();
        let good = authority.issue(|_| ());
        let outcome = handshake(&authority.tls(), &ServerTls::new(good.clone()));
        let client = Ok(Some(good.fingerprint()));
        assert_eq!(outcome, Outcome { client, server: Ok(None) });

        let elsewhere = authority.issue(|params| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName("other".try_into().unwrap())];
        });
        let expired = authority.issue(|params| params.not_after = rcgen::date_time_ymd(1980, 1, 1));
        let early = authority.issue(|params| params.not_before = rcgen::date_time_ymd(4095, 1, 1));
        // Has the authority's name in it, as all that rcgen makes.
        let namesake = Authority::new().issue(|_| ());
        for (server, client_error, reason) in [
            (
                identity(),
                TlsError::UntrustedPeer,
                "it was not issued by an authority that is trusted there",
            ),
            (namesake, TlsError::UntrustedPeer, "its signature is wrong"),
            (elsewhere, TlsError::WrongName, "it is broken or for another name"),
            (expired, TlsError::ExpiredCertificate, "it has expired or is not valid yet"),
            (early, TlsError::ExpiredCertificate, "it has expired or is not valid yet"),
        ] {
            let outcome = handshake(&authority.tls(), &ServerTls::new(server));
            let server = Err(rejected(reason));
            assert_eq!(outcome, Outcome { client: Err(client_error), server });
        }
    }

    #[test]
    fn a_certificate_for_another_use_is_named_as_such() {
        let authority = Authority::new();
        let for_clients = authority.issue(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        let for_issuing = authority.issue(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        for (server, complaint) in
            [(for_clients, "client auth"), (for_issuing, "CaUsedAsEndEntity")]
        {
            let outcome = handshake(&authority.tls(), &ServerTls::new(server));
            let Err(TlsError::InvalidCertificate { reason }) = &outcome.client else {
                panic!("{outcome:?}");
            };
            assert!(reason.contains(complaint), "{reason}");
            assert!(matches!(outcome.server, Err(TlsError::CertificateRejected { .. })));
        }
    }

    #[test]
    fn a_self_signed_certificate_can_be_its_own_authority() {
        let server = identity();
        let client = ClientTls::with_ca_pem(server.certificate_pem().as_bytes()).unwrap();
        assert!(handshake(&client, &ServerTls::new(server)).client.is_ok());
    }

    #[test]
    fn clients_come_in_by_their_keys() {
        let (host, friend, stranger) = (identity(), identity(), identity());
        let client = ClientTls::with_pin(host.fingerprint());
        let server = ServerTls::new(host.clone()).require_clients([friend.fingerprint()]);

        let outcome = handshake(&client.clone().identity(friend.clone()), &server);
        let host_key = Ok(Some(host.fingerprint()));
        assert_eq!(outcome, Outcome { client: host_key, server: Ok(Some(friend.fingerprint())) });

        let outcome = handshake(&client.clone().identity(stranger), &server);
        let reason = "its fingerprint is not allowed there";
        let error = Err(TlsError::UntrustedPeer);
        assert_eq!(outcome, Outcome { client: Err(rejected(reason)), server: error });

        let outcome = handshake(&client, &server);
        let required = || Err(TlsError::ClientCertificateRequired);
        assert_eq!(outcome, Outcome { client: required(), server: required() });
    }

    #[test]
    fn clients_come_in_by_their_authority() {
        let (host, authority) = (identity(), Authority::new());
        let client = ClientTls::with_pin(host.fingerprint());
        let server =
            ServerTls::new(host).require_client_ca_pem(authority.pem().as_bytes()).unwrap();

        let issued = authority.issue(|_| ());
        let outcome = handshake(&client.clone().identity(issued.clone()), &server);
        assert_eq!(outcome.server, Ok(Some(issued.fingerprint())));

        let outcome = handshake(&client.clone().identity(identity()), &server);
        assert_eq!(
            outcome.client,
            Err(rejected("it was not issued by an authority that is trusted there"))
        );
        assert_eq!(outcome.server, Err(TlsError::UntrustedPeer));

        let outcome = handshake(&client, &server);
        assert_eq!(outcome.client, Err(TlsError::ClientCertificateRequired));
    }

    #[test]
    fn clients_that_are_asked_show_what_they_have() {
        let (host, guest) = (identity(), identity());
        let client = ClientTls::with_pin(host.fingerprint());
        let server = ServerTls::new(host).ask_clients();
        let outcome = handshake(&client.clone().identity(guest.clone()), &server);
        assert_eq!(outcome.server, Ok(Some(guest.fingerprint())));
        assert_eq!(handshake(&client, &server).server, Ok(None));
    }

    #[test]
    fn a_peer_of_another_protocol_is_told_apart() {
        let host = identity();
        let (client, server) = (ClientTls::with_pin(host.fingerprint()), ServerTls::new(host));
        for protocols in [vec![b"evermux/2".to_vec()], vec![]] {
            let mut other_client = client.configs(true, &Environment::default()).unwrap().0;
            other_client.alpn_protocols = protocols.clone();
            let mut other_server = server.config(1, true, &Environment::default()).unwrap();
            other_server.alpn_protocols = protocols;
            for outcome in [
                handshake_with(
                    other_client,
                    server.config(1, true, &Environment::default()).unwrap(),
                ),
                handshake_with(
                    client.configs(true, &Environment::default()).unwrap().0,
                    other_server,
                ),
            ] {
                let wrong = || Err(TlsError::WrongProtocol);
                assert_eq!(outcome, Outcome { client: wrong(), server: wrong() });
            }
        }
    }
}
