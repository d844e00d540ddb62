//! HTTPS as a client: whom to trust, and for which name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cli::Outcome;

/// Where systems keep the authorities that they trust.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Makes connections to one host secret.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts the authorities of a PEM file; without one, those of `SSL_CERT_FILE` or the system.
    pub(super) fn new(host: &str, authorities: Option<&Path>) -> Outcome<Self> {
        let found = || {
            std::env::var_os("SSL_CERT_FILE")
                .map(PathBuf::from)
                .or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()))
                .ok_or("https: this system names nobody to trust; pass --ca-cert")
        };
        let path = authorities.map_or_else(found, |path| Ok(path.to_owned()))?;
        let certificates: Vec<_> = CertificateDer::pem_file_iter(&path)
            .and_then(Iterator::collect)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut roots = RootCertStore::empty();
        // Bundles hold some that nobody can use any more.
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(format!("{}: no certificate", path.display()).into());
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host}: neither a name nor an address"))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(super) async fn connect(&self, stream: TcpStream) -> Outcome<TlsStream<TcpStream>> {
        Ok(self.connector.connect(self.name.clone(), stream).await?)
    }
}
