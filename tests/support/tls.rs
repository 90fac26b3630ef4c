//! An authority of the tests' own, and servers that it vouches for.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of it

use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A server's end of a connection.
pub type Tls = StreamOwned<ServerConnection, TcpStream>;

pub struct Authority {
    /// Its certificate, for those who are to trust it.
    pub root: Vec<u8>,
    /// What a server for `localhost` needs.
    pub server: Arc<ServerConfig>,
    /// The same, for servers that read files: its certificate and its key, in PEM.
    pub files: [String; 2],
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let cert = cert.signed_by(&key, &ca).unwrap();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let files = [pem("CERTIFICATE", cert.der()), pem("PRIVATE KEY", &key.serialize_der())];
        Self { root: ca.der().to_vec(), server: Arc::new(server), files }
    }

    /// Nothing is said yet.
    pub fn serve(&self, tcp: TcpStream) -> Tls {
        StreamOwned::new(ServerConnection::new(Arc::clone(&self.server)).unwrap(), tcp)
    }
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64_MIME.encode(der);
    format!("-----BEGIN {what}-----\n{text}-----END {what}-----\n")
}
