//! TCP with TLS 1.3, by rustls: the same cryptography as QUIC's.

use std::sync::Arc;

use ::evermux::Identity;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::contender::Link;
use crate::road::{Road, Way};
use crate::{BoxError, tcp};

/// A server's certificate and key, and a client that trusts it.
pub struct Credentials {
    pub server: Arc<rustls::ServerConfig>,
    pub client: Arc<rustls::ClientConfig>,
}

impl Credentials {
    pub fn new() -> Result<Self, BoxError> {
        let identity = Identity::self_signed(&["localhost"])?;
        let cert = CertificateDer::from_pem_slice(identity.certificate_pem().as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(identity.private_key_pem().as_bytes())?;
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![cert.clone()], key)?;
        let mut roots = RootCertStore::empty();
        roots.add(cert)?;
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

pub async fn connect(way: Way) -> Result<Link, BoxError> {
    let (near, far, road) = ends(way).await?;
    Ok(Link { near: Box::new(near), far: Box::new(far), road, keep: Box::new(()) })
}

/// Both ends of a connection, near first.
pub async fn ends(
    way: Way,
) -> Result<(client::TlsStream<TcpStream>, server::TlsStream<TcpStream>, Road), BoxError> {
    let tls = Credentials::new()?;
    let ([near, far], road) = tcp::ends(way).await?;
    let (connector, acceptor) = (TlsConnector::from(tls.client), TlsAcceptor::from(tls.server));
    let name = ServerName::try_from("localhost")?;
    let (near, far) = tokio::try_join!(connector.connect(name, near), acceptor.accept(far))?;
    Ok((near, far, road))
}
