//! From HTTP to WebSocket, on the server's side: who is let in, and how.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::StatusCode;
use tungstenite::http::header::HeaderName;

use super::connect_error::{ConnectError, ConnectStep, Problem};
use super::head::{self, Asked};
use super::options::header_lines;
use super::stream::{Patience, Stream, Tcp};
use crate::deadline::Deadline;

/// Says how WebSocket clients are let in: by
/// [`WebSocketAccepted::with`](crate::session::duplex::WebSocketAccepted::with).
///
/// A browser tells in `Origin` which web page it connects for. Any page may connect to any server that
/// the browser reaches, those on this very machine among them, and so a request with an `Origin` is
/// refused unless that is [allowed](Self::allow_origin). Clients that are no browsers send none.
///
/// ```
/// use sessile::session::duplex::{AcceptOptions, UpgradeResponse};
///
/// let options = AcceptOptions::new()
///     .allow_origin("https://app.example.org")
///     .subprotocol("rpc.v1")
///     .on_upgrade(|request| match request.path() {
///         "/rpc" => UpgradeResponse::accept(),
///         _ => UpgradeResponse::refuse(404, "there is nothing but /rpc"),
///     });
/// ```
#[derive(Clone, Default)]
#[must_use = "options do nothing until a client is accepted with them"]
pub struct AcceptOptions {
    origins: Vec<String>,
    any_origin: bool,
    subprotocols: Vec<String>,
    decide: Option<Arc<Decide>>,
    binary: bool,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
}

type Decide = dyn Fn(&UpgradeRequest) -> UpgradeResponse + Send + Sync;

impl AcceptOptions {
    /// Begins with the defaults: whatever the path, no origin, no subprotocol, no TLS.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets in browsers whose page comes from here: scheme, host and, unless it is the usual one, port,
    /// as in `https://app.example.org`.
    ///
    /// Default: none.
    ///
    /// ```
    /// # use sessile::session::duplex::AcceptOptions;
    /// let options = AcceptOptions::new().allow_origin("http://localhost:5173");
    /// ```
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }

    /// Lets in browsers whatever their page: for services that are meant for everybody, or whose
    /// [`on_upgrade`](Self::on_upgrade) decides by itself.
    ///
    /// ```
    /// # use sessile::session::duplex::AcceptOptions;
    /// let options = AcceptOptions::new().allow_any_origin();
    /// ```
    pub fn allow_any_origin(mut self) -> Self {
        self.any_origin = true;
        self
    }

    /// Adds a subprotocol that is spoken here. Of those that a client asks for, the first that is
    /// spoken here is chosen, unless [`on_upgrade`](Self::on_upgrade) chooses another.
    ///
    /// Default: none. Browsers hang up if they have asked for some and none is chosen.
    ///
    /// ```
    /// # use sessile::session::duplex::AcceptOptions;
    /// let options = AcceptOptions::new().subprotocol("rpc.v2").subprotocol("rpc.v1");
    /// ```
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }

    /// Sets who looks at the head of each request, and accepts it or refuses. It is asked after the
    /// origin was let in.
    ///
    /// It runs on the thread that connects, within the time limit of that. If it panics, the client is
    /// answered with status 500.
    ///
    /// ```
    /// # use sessile::session::duplex::{AcceptOptions, UpgradeResponse};
    /// let options = AcceptOptions::new().on_upgrade(|request| {
    ///     if request.header("authorization") == Some("Bearer s3cret") {
    ///         UpgradeResponse::accept().header("X-Served-By", "sessile")
    ///     } else {
    ///         UpgradeResponse::refuse(401, "who are you?").header("WWW-Authenticate", "Bearer")
    ///     }
    /// });
    /// ```
    pub fn on_upgrade(
        mut self,
        decide: impl Fn(&UpgradeRequest) -> UpgradeResponse + Send + Sync + 'static,
    ) -> Self {
        self.decide = Some(Arc::new(decide));
        self
    }

    /// Sets whether messages are binary ones, in place of text. Those of the client's may be of either
    /// kind then.
    ///
    /// Default: text; a binary message of the client's ends the session, and is told so with code 1003.
    ///
    /// ```
    /// # use sessile::session::duplex::AcceptOptions;
    /// let options = AcceptOptions::new().binary(true);
    /// ```
    pub fn binary(mut self, yes: bool) -> Self {
        self.binary = yes;
        self
    }

    /// Agrees on TLS before anything else, as the server.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use sessile::session::duplex::AcceptOptions;
    /// use sessile::session::rustls;
    /// use sessile::session::rustls::pki_types::pem::PemObject;
    /// use sessile::session::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    ///
    /// let chain = CertificateDer::pem_file_iter("server.pem")?.collect::<Result<_, _>>()?;
    /// let key = PrivateKeyDer::from_pem_file("server.key")?;
    /// let provider = Arc::new(rustls::crypto::ring::default_provider());
    /// let config = rustls::ServerConfig::builder_with_provider(provider)
    ///     .with_safe_default_protocol_versions()?
    ///     .with_no_client_auth()
    ///     .with_single_cert(chain, key)?;
    /// let options = AcceptOptions::new().tls_config(Arc::new(config));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_config(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Whether messages are binary ones.
    pub(in crate::session) fn is_binary(&self) -> bool {
        self.binary
    }

    /// The same, which let in nobody, and say why.
    pub(in crate::session) fn refusing(&self, status: u16, why: &'static str) -> Self {
        let refuse = move |_: &UpgradeRequest| UpgradeResponse::refuse(status, why);
        self.clone().allow_any_origin().on_upgrade(refuse)
    }

    /// Takes the server's part on a connection that somebody else has accepted, within this time.
    pub(in crate::session) fn accept(
        &self,
        tcp: TcpStream,
        within: Duration,
    ) -> Result<Upgraded, ConnectError> {
        let deadline = Deadline::after(within);
        let peer = tcp.peer_addr().ok();
        let client = peer.map_or("a client".to_owned(), |address| address.to_string());
        let at = |step| {
            let client = &client;
            move |problem| ConnectError::new(client, step, problem, within)
        };
        let tcp = tcp.set_nonblocking(false).and_then(|()| Tcp::new(tcp, false));
        let mut tcp = tcp.map_err(Problem::Io).map_err(at(ConnectStep::Tcp))?;
        (tcp.reads, tcp.writes) = (Patience::until(deadline, 0), Patience::until(deadline, 0));
        let mut stream = self.secure(tcp).map_err(Problem::Io).map_err(at(ConnectStep::Tls))?;
        let (request, rest) = self.grant(&mut stream, peer).map_err(at(ConnectStep::Upgrade))?;
        Ok(Upgraded { stream, request, rest })
    }

    fn secure(&self, tcp: Tcp) -> std::io::Result<Stream> {
        #[cfg(feature = "tls")]
        if let Some(config) = &self.tls {
            let tls = super::tls::TlsStream::accept(config, tcp)?;
            return Ok(Stream::Tls(Box::new(tls)));
        }
        Ok(Stream::Plain(tcp))
    }

    fn grant(
        &self,
        stream: &mut Stream,
        peer: Option<SocketAddr>,
    ) -> Result<(UpgradeRequest, Vec<u8>), Problem> {
        let (asked, rest) = match head::read_request(stream) {
            Err(Problem::Head(what)) => {
                let bad = UpgradeResponse::refuse(400, what);
                return Err(send_refusal(stream, bad).unwrap_or(Problem::Head(what)));
            }
            asked => asked?,
        };
        let request = UpgradeRequest { asked, peer };
        let (subprotocol, mut response) = match self.decide(&request) {
            response @ UpgradeResponse { refused: None, .. } => {
                (self.choose(&request, &response), response)
            }
            refused => (None, refused),
        };
        let key = request.header("sec-websocket-key").unwrap_or_default();
        let is_word = |name: &String| HeaderName::from_bytes(name.as_bytes()).is_ok();
        let lines = header_lines(&response.headers).unwrap_or_else(|_| {
            response = UpgradeResponse::refuse(500, "`on_upgrade` adds what is no header");
            Vec::new()
        });
        if !subprotocol.iter().all(is_word) {
            response = UpgradeResponse::refuse(500, "`on_upgrade` chooses what is no subprotocol");
        }
        if response.refused.is_some() {
            let problem = send_refusal(stream, response);
            return Err(problem.expect("it is one"));
        }
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            derive_accept_key(key.as_bytes())
        );
        if let Some(name) = subprotocol {
            head += &format!("Sec-WebSocket-Protocol: {name}\r\n");
        }
        let head = [head.as_bytes(), &lines, b"\r\n"].concat();
        stream.write_all(&head).and_then(|()| stream.flush()).map_err(Problem::Io)?;
        Ok((request, rest))
    }

    /// First whether it asks for a WebSocket at all, then for whom, then what the user says.
    fn decide(&self, request: &UpgradeRequest) -> UpgradeResponse {
        let fields = &request.asked.fields;
        let wants =
            fields.has_item("upgrade", "websocket") && fields.has_item("connection", "upgrade");
        if !wants || request.asked.method != "GET" {
            return UpgradeResponse::refuse(400, "it does not ask for a WebSocket");
        }
        if fields.get("sec-websocket-version") != Some("13") {
            let refusal = UpgradeResponse::refuse(400, "it asks for another version than 13");
            return refusal.handshake_header("Sec-WebSocket-Version", "13");
        }
        let key = fields.get("sec-websocket-key").unwrap_or_default();
        if BASE64.decode(key.as_bytes()).map_or(0, |key| key.len()) != 16 {
            return UpgradeResponse::refuse(400, "its Sec-WebSocket-Key is none");
        }
        if let Some(origin) = request.origin()
            && !self.any_origin
            && !self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
        {
            return UpgradeResponse::refuse(403, "its Origin is not allowed");
        }
        let Some(decide) = &self.decide else { return UpgradeResponse::accept() };
        let decided = catch_unwind(AssertUnwindSafe(|| decide(request)));
        decided.unwrap_or_else(|_| UpgradeResponse::refuse(500, "`on_upgrade` panicked"))
    }

    fn choose(&self, request: &UpgradeRequest, response: &UpgradeResponse) -> Option<String> {
        if let Some(chosen) = &response.subprotocol {
            return Some(chosen.clone());
        }
        let spoken = |asked: &&str| self.subprotocols.iter().any(|name| name == asked);
        request.subprotocols().find(spoken).map(str::to_owned)
    }
}

/// Tells the client, as far as that goes, and gives what the session's user is told.
fn send_refusal(stream: &mut Stream, response: UpgradeResponse) -> Option<Problem> {
    let (status, why) = response.refused?;
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let head = format!(
        "HTTP/1.1 {status} {}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n",
        phrase.unwrap_or("Refused"),
        why.len()
    );
    let handshake = response.handshake.map(|(name, value)| format!("{name}: {value}\r\n"));
    let lines = header_lines(&response.headers).unwrap_or_default();
    let handshake = handshake.unwrap_or_default();
    let whole = [head.as_bytes(), handshake.as_bytes(), &lines, b"\r\n", why.as_bytes()].concat();
    if stream.write_all(&whole).and_then(|()| stream.flush()).is_ok() {
        // A close that throws away what the client still sends would take the answer with it.
        let tcp = stream.tcp_mut();
        tcp.socket().shut_writing();
        tcp.reads = tcp.reads.at_most(super::upgrade::EXPLAIN);
        let mut chunk = [0; 4096];
        for _ in 0..64 {
            if !matches!(tcp.read(&mut chunk), Ok(1..)) {
                break;
            }
        }
    }
    Some(Problem::Denied { status, why })
}

/// Nothing of what is allowed.
impl fmt::Debug for AcceptOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptOptions")
            .field("origins", &self.origins)
            .field("any_origin", &self.any_origin)
            .field("subprotocols", &self.subprotocols)
            .field("binary", &self.binary)
            .finish_non_exhaustive()
    }
}

/// A connection on which a WebSocket is agreed upon.
pub(in crate::session) struct Upgraded {
    pub(in crate::session) stream: Stream,
    pub(in crate::session) request: UpgradeRequest,
    /// What came after the client's request: frames.
    pub(in crate::session) rest: Vec<u8>,
}

/// The head of a request that asks for a WebSocket, as [`AcceptOptions::on_upgrade`] is given it, and as
/// a server's [`Client`](crate::session::duplex::Client::upgrade) has it.
///
/// ```
/// use sessile::session::duplex::{AcceptOptions, UpgradeRequest, UpgradeResponse};
///
/// fn decide(request: &UpgradeRequest) -> UpgradeResponse {
///     let tenant = request.query().and_then(|query| query.strip_prefix("tenant="));
///     match (request.path(), tenant) {
///         ("/rpc", Some("blue" | "green")) => UpgradeResponse::accept(),
///         _ => UpgradeResponse::refuse(404, "no such tenant"),
///     }
/// }
///
/// let options = AcceptOptions::new().on_upgrade(decide);
/// ```
pub struct UpgradeRequest {
    asked: Asked,
    peer: Option<SocketAddr>,
}

impl UpgradeRequest {
    /// Gives the path, as it was sent: percent-encoded, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.asked.resource.split_once('?').map_or(&*self.asked.resource, |(path, _)| path)
    }

    /// Gives the query, as it was sent, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.asked.resource.split_once('?').map(|(_, query)| query)
    }

    /// Gives the first header of this name, in whatever case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.asked.fields.get(name)
    }

    /// Gives all headers, in the order in which they came.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.asked.fields.iter()
    }

    /// Gives the web page's origin, which browsers tell.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.header("origin")
    }

    /// Gives the subprotocols that the client asks for, in the order of its preference.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        self.asked.fields.items("sec-websocket-protocol")
    }

    /// Gives the client's address, unless it is connected by something else than TCP.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }
}

/// Without headers and query: any may be a secret.
impl fmt::Debug for UpgradeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeRequest")
            .field("path", &self.path())
            .field("origin", &self.origin())
            .field("peer_addr", &self.peer)
            .finish_non_exhaustive()
    }
}

/// What [`AcceptOptions::on_upgrade`] answers.
///
/// ```
/// use sessile::session::duplex::UpgradeResponse;
///
/// let yes = UpgradeResponse::accept().subprotocol("rpc.v1");
/// let no = UpgradeResponse::refuse(503, "try again").header("Retry-After", "5");
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it is returned"]
pub struct UpgradeResponse {
    refused: Option<(u16, String)>,
    subprotocol: Option<String>,
    headers: Vec<(String, String)>,
    /// One that only a refusal of our own sends.
    handshake: Option<(&'static str, &'static str)>,
}

impl UpgradeResponse {
    /// Lets the client in.
    pub fn accept() -> Self {
        Self { refused: None, subprotocol: None, headers: Vec::new(), handshake: None }
    }

    /// Refuses the client, with this status and, as the body, these words. A status that is no refusal,
    /// such as 200, becomes 500.
    pub fn refuse(status: u16, why: impl Into<String>) -> Self {
        let status = if (300..600).contains(&status) { status } else { 500 };
        Self { refused: Some((status, why.into())), ..Self::accept() }
    }

    /// Chooses a subprotocol: one of those that the client [asks for](UpgradeRequest::subprotocols).
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocol = Some(name.into());
        self
    }

    /// Adds a header to the answer. What is no header, and what the handshake itself sends, makes it a
    /// refusal with status 500.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn handshake_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.handshake = Some((name, value));
        self
    }
}
