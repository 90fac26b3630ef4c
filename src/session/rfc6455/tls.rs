//! TLS, by rustls.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore};

use super::stream::{Patience, Tcp};

/// So much is read from the socket at once: a record of the largest size, and the head of another.
/// rustls by itself asks for 4 KiB.
const READ: usize = 17 << 10;

/// Not rustls' own stream: that one reads nothing while something is left to be written, and two
/// such peers could wait for each other until the deadline.
///
/// Dropped, it says that this is the end, if that can be said at once.
pub(crate) struct TlsStream {
    tls: Connection,
    tcp: BufReader<Tcp>,
}

impl TlsStream {
    /// Shakes hands; as patient as `tcp` is.
    pub(super) fn connect(config: &Arc<ClientConfig>, host: &str, tcp: Tcp) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Self::shake_hands(tls.into(), tcp)
    }

    /// The same, as the server.
    #[cfg(all(feature = "duplex", unix))]
    pub(super) fn accept(config: &Arc<rustls::ServerConfig>, tcp: Tcp) -> io::Result<Self> {
        let tls = rustls::ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        Self::shake_hands(tls.into(), tcp)
    }

    fn shake_hands(tls: Connection, tcp: Tcp) -> io::Result<Self> {
        let mut stream = Self { tls, tcp: BufReader::with_capacity(READ, tcp) };
        while stream.tls.is_handshaking() {
            stream.flush()?;
            if stream.tls.is_handshaking() && stream.pull()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        stream.flush()?;
        Ok(stream)
    }

    pub(super) fn tcp(&self) -> &Tcp {
        self.tcp.get_ref()
    }

    pub(super) fn tcp_mut(&mut self) -> &mut Tcp {
        self.tcp.get_mut()
    }

    /// What rustls has not been given yet may hold a record, and so may the socket. What it has
    /// been given is read before that: see [`read`](Self::read).
    pub(super) fn is_drained(&self) -> bool {
        self.tcp.buffer().is_empty() && self.tcp().drained
    }

    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Reads from the socket what there is.
    fn pull(&mut self) -> io::Result<usize> {
        let got = self.tls.read_tls(&mut self.tcp)?;
        if let Err(error) = self.tls.process_new_packets() {
            // The peer is told why, if it can be told at once.
            self.write_at_once();
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(got)
    }

    fn write_at_once(&mut self) {
        let tcp = self.tcp.get_mut();
        tcp.writes = Patience::ONE_LOOK;
        let _ = self.tls.write_tls(tcp);
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        self.tls.send_close_notify();
        self.write_at_once();
    }
}

impl Read for TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            // An end of the stream is told by the reader, in the next turn.
            self.pull()?;
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.flush()?; // so that there is room for more
        let taken = self.tls.writer().write(buf)?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            if self.tls.write_tls(self.tcp.get_mut())? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

/// Trusts the roots given, in DER or PEM, or, if there are none, those that browsers trust.
pub(super) fn client_config(roots: &[Vec<u8>]) -> Result<Arc<ClientConfig>, &'static str> {
    const PEM: &[u8] = b"-----BEGIN";
    let mut trusted = RootCertStore::empty();
    for root in roots {
        let certificates = if root.windows(PEM.len()).any(|begin| begin == PEM) {
            let all = CertificateDer::pem_slice_iter(root).collect::<Result<Vec<_>, _>>();
            all.ok().filter(|all| !all.is_empty()).ok_or("holds no certificate in its PEM")?
        } else {
            vec![CertificateDer::from(root.clone())]
        };
        for certificate in certificates {
            trusted.add(certificate).map_err(|_| "is not a certificate that can be trusted")?;
        }
    }
    if roots.is_empty() {
        trusted.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    // The provider is named, since a process may have more than one.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| "finds no version of TLS")?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
