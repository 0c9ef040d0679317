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
