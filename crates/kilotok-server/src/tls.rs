//! TLS for connections, from PEM files. The cryptography is `ring`: it needs a C compiler to build
//! and nothing else.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A certificate with its key, ready to take connections: TLS 1.2 and 1.3, HTTP/1.1.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads a certificate, followed by those that vouch for it, and its private key.
    ///
    /// # Errors
    /// Naming the file that cannot be read or holds nothing of its kind, or why both do not
    /// belong together.
    pub fn from_pem_files(certificate: &Path, key: &Path) -> io::Result<Self> {
        let unreadable = |path: &Path| {
            let path = path.display().to_string();
            move |error: pem::Error| io::Error::other(format!("{path}: {error}"))
        };
        let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(unreadable(certificate))?;
        if chain.is_empty() {
            return Err(io::Error::other(format!("{}: no certificate", certificate.display())));
        }
        let secret = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, secret));
        let mut config = config.map_err(|error| {
            io::Error::other(format!("{}, {}: {error}", certificate.display(), key.display()))
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}
