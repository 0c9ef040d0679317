//! QUIC without evermux: peers that say what a test wants.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use evermux::Fingerprint;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// A QUIC client that trusts everybody.
pub struct RawClient {
    pub connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl RawClient {
    pub async fn connect(addr: SocketAddr, alpn: &[u8]) -> Result<Self, String> {
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider())))
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())
            .map_err(|error| error.to_string())?;
        let connection = endpoint
            .connect_with(quinn::ClientConfig::new(Arc::new(crypto)), addr, "localhost")
            .map_err(|error| error.to_string())?
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self { connection, _endpoint: endpoint })
    }

    /// The application code and reason with which the server closes.
    pub async fn closed(&self) -> (u64, String) {
        match self.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
            }
            other => panic!("not closed by the application: {other}"),
        }
    }
}

/// A QUIC server that does nothing by itself.
pub fn server(alpn: &[u8]) -> (SocketAddr, Fingerprint, quinn::Endpoint) {
    let identity = evermux::Identity::self_signed(&["localhost"]).unwrap();
    let pem = |text: &str| text.as_bytes().to_vec();
    let (cert, key) = (pem(&identity.certificate_pem()), pem(&identity.private_key_pem()));
    use rustls::pki_types::pem::PemObject;
    let chain = vec![CertificateDer::from_pem_slice(&cert).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    (endpoint.local_addr().unwrap(), identity.fingerprint(), endpoint)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

/// Trusts any certificate: the tests are about what comes after.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
