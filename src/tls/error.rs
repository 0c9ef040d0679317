//! What can go wrong with keys, certificates and handshakes.

use rustls::AlertDescription as Alert;

/// Why certificates or keys cannot be used, or why a TLS handshake failed.
///
/// The peer is always the other side: the server as the client sees it, the
/// client as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The text cannot be read as PEM.
    #[error("the {what} cannot be read: expected PEM text with BEGIN and END lines")]
    BadPem {
        /// Which of the arguments it is.
        what: &'static str,
    },
    /// The text has no certificate in it.
    #[error("no certificate found: expected PEM text with a CERTIFICATE section")]
    NoCertificate,
    /// The text has no private key in it, or an encrypted one.
    #[error("no private key found: expected PEM text with an unencrypted private key")]
    NoPrivateKey,
    /// The private key is broken, or of a kind that the crypto provider does
    /// not know.
    #[error("the private key cannot be used: expected ECDSA (P-256, P-384), Ed25519 or RSA")]
    UnsupportedKey,
    /// The private key belongs to another certificate.
    #[error(
        "the private key does not belong to the certificate: the chain must begin with the key's own"
    )]
    KeyMismatch,
    /// A certificate cannot be made for this name.
    #[error("{name:?} is neither a DNS name nor an IP address")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// A certificate is broken or not meant for this use.
    #[error("the certificate cannot be used: {reason}")]
    InvalidCertificate {
        /// What is wrong with it.
        reason: String,
    },
    /// The peer's certificate was not issued by a trusted authority, or its key
    /// is not one of the pinned or allowed keys.
    #[error(
        "the peer is not trusted: check the CA certificates, or the fingerprint that is pinned or allowed"
    )]
    UntrustedPeer,
    /// The server's certificate is for other names.
    #[error(
        "the server's certificate is for another name: connect by a name it lists, or pin its fingerprint"
    )]
    WrongName,
    /// The peer's certificate has expired, or is not valid yet.
    #[error(
        "the peer's certificate has expired or is not valid yet: renew it, or set this machine's clock"
    )]
    ExpiredCertificate,
    /// The peers have no application protocol in common.
    #[error(
        "the peer is not evermux, or a version that does not fit: check the address, or upgrade"
    )]
    WrongProtocol,
    /// The server accepts only clients that show a certificate, and this one
    /// shows none.
    #[error("the server requires a client certificate: give the client an identity")]
    ClientCertificateRequired,
    /// The peer does not accept the certificate of this side.
    #[error("the peer rejects our certificate: {reason}")]
    CertificateRejected {
        /// What the peer says is wrong with it.
        reason: &'static str,
    },
    /// Anything else that TLS can complain of.
    #[error("{0}")]
    Other(String),
}

/// How rustls begins its message when it does not like a certificate.
const ABOUT_CERTIFICATE: &str = "invalid peer certificate: ";

impl TlsError {
    /// The meaning of a TLS alert, which is how a failed handshake ends a QUIC
    /// connection (RFC 9001 section 4.8). `by_peer`: the alert came from the
    /// peer; otherwise it is ours, and `reason` is rustls's message.
    pub(crate) fn from_alert(alert: u8, reason: &str, by_peer: bool) -> Self {
        let about_certificate = reason.strip_prefix(ABOUT_CERTIFICATE);
        match Alert::from(alert) {
            Alert::NoApplicationProtocol => Self::WrongProtocol,
            Alert::CertificateRequired => Self::ClientCertificateRequired,
            alert if by_peer => match rejection(alert, about_certificate.is_some()) {
                Some(reason) => Self::CertificateRejected { reason },
                // The text is the peer's: escaped, so that it cannot forge lines
                // in a log.
                None => Self::Other(format!("the peer ended the handshake: {alert:?}, {reason:?}")),
            },
            Alert::CertificateExpired => Self::ExpiredCertificate,
            Alert::UnknownCA | Alert::AccessDenied => Self::UntrustedPeer,
            // rustls has one alert for a wrong name and a broken certificate:
            // only its message tells them apart.
            Alert::BadCertificate if is_about_name(reason) => Self::WrongName,
            // An issuer of the right name with another key, or a peer that does
            // not hold the key it shows.
            Alert::DecryptError if about_certificate.is_some() => Self::UntrustedPeer,
            alert => match about_certificate {
                Some(reason) => Self::InvalidCertificate { reason: reason.to_owned() },
                None => Self::Other(format!("the TLS handshake failed: {alert:?}, {reason}")),
            },
        }
    }
}

/// What an alert from the peer says about our certificate, if anything.
fn rejection(alert: Alert, about_certificate: bool) -> Option<&'static str> {
    match alert {
        Alert::UnknownCA => Some("it was not issued by an authority that is trusted there"),
        Alert::AccessDenied => Some("its fingerprint is not allowed there"),
        Alert::CertificateExpired => Some("it has expired or is not valid yet"),
        Alert::CertificateRevoked => Some("it was revoked"),
        Alert::BadCertificate => Some("it is broken or for another name"),
        Alert::UnsupportedCertificate => Some("it is not meant for this use"),
        Alert::CertificateUnknown => Some("it is not acceptable there"),
        Alert::DecryptError if about_certificate => Some("its signature is wrong"),
        _ => None,
    }
}

/// Both forms of rustls's `NotValidForName`; other verifiers use the second.
fn is_about_name(reason: &str) -> bool {
    reason.contains("not valid for name") || reason.contains("NotValidForName")
}

#[cfg(test)]
mod tests {
    use super::*;

    // That rustls really sends these is tested in `verify.rs`.
    #[test]
    fn alerts_that_name_no_certificate_keep_their_text() {
        let ours = TlsError::from_alert(47, "peer misbehaved: InvalidKeyShare", false);
        let text = "the TLS handshake failed: IllegalParameter, peer misbehaved: InvalidKeyShare";
        assert_eq!(ours, TlsError::Other(text.into()));

        let theirs = TlsError::from_alert(40, "a\nb", true);
        let text = "the peer ended the handshake: HandshakeFailure, \"a\\nb\"";
        assert_eq!(theirs, TlsError::Other(text.into()));
        assert!(matches!(TlsError::from_alert(51, "", true), TlsError::Other(_)));
        assert!(matches!(TlsError::from_alert(255, "", false), TlsError::Other(_)));
    }

    #[test]
    fn every_alert_about_a_certificate_from_the_peer_is_a_rejection() {
        for alert in [42, 43, 44, 45, 46, 48, 49] {
            let error = TlsError::from_alert(alert, "", true);
            assert!(matches!(error, TlsError::CertificateRejected { .. }), "{alert}: {error:?}");
        }
    }

    #[test]
    fn a_certificate_of_no_use_here_says_why() {
        let reason = "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))";
        let error = TlsError::from_alert(46, reason, false);
        let reason = "Other(OtherError(CaUsedAsEndEntity))".to_owned();
        assert_eq!(error, TlsError::InvalidCertificate { reason });
    }
}
