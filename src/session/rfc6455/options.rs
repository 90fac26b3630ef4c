//! What a connection is made with, as its user sets it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tungstenite::http::header::{HeaderName, HeaderValue};

use super::connect::Connector;
use super::proxy::{self, Proxy};
use super::target::Target;
use crate::pool::BuildError;

/// Says where a connection goes and how it is made, for each kind of session that dials:
/// [`WebSocketManager`](crate::session::websocket::WebSocketManager), `duplex::WebSocket`, and the
/// `Gateway` of Jupyter kernels. A URL alone does, too.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::session::ConnectOptions;
/// use sessile::session::websocket::WebSocketManager;
///
/// let options = ConnectOptions::new("wss://example.org/rpc?version=2")
///     .bearer_token("..")
///     .subprotocol("rpc.v1")
///     .proxy_from_env()
///     .connect_timeout(Duration::from_secs(5));
/// # #[cfg(feature = "tls")]
/// let sessions = WebSocketManager::new(options)?;
/// let plain = WebSocketManager::new("ws://127.0.0.1:9000")?;
/// # Ok::<(), sessile::pool::BuildError>(())
/// ```
///
/// # The URL
///
/// It is read as browsers read it: the scheme in any case, names that are not ASCII by IDNA, spaces
/// and the like percent-encoded, a fragment left out. What is no URL is refused before anything is
/// connected, as is a port out of range. Credentials in it, as in `wss://name:password@host/`, become
/// a header `Authorization` for basic authentication. They are sent nowhere else.
///
/// # Secrets
///
/// The URL but for its host, headers and tokens may be secrets. They are in no `Debug`, no error and no
/// event of this crate's.
#[derive(Clone)]
#[must_use = "options do nothing until a session connects with them"]
pub struct ConnectOptions {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) subprotocols: Vec<String>,
    /// Whether a server may choose none of them.
    pub(crate) or_none: bool,
    token: Option<Token>,
    pub(super) resolver: Option<Arc<Resolver>>,
    pub(super) dialer: Option<Arc<Dialer>>,
    proxy: ProxyChoice,
    pub(super) quick_ack: bool,
    pub(in crate::session) binary: bool,
    pub(crate) connect_timeout: Option<Duration>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    #[cfg(feature = "tls")]
    pub(crate) roots: Vec<Vec<u8>>,
}

#[derive(Clone)]
enum Token {
    Fixed(String),
    Fresh(Arc<FreshToken>),
}

#[derive(Clone)]
enum ProxyChoice {
    None,
    Url(String),
    Environment,
}

pub(super) type FreshToken = dyn Fn() -> anyhow::Result<String> + Send + Sync;
/// Finds the addresses of a host.
pub(super) type Resolver = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;
/// Makes the stream to a host and port, within a time.
pub(super) type Dialer = dyn Fn(&str, u16, Duration) -> io::Result<TcpStream> + Send + Sync;

impl ConnectOptions {
    /// Begins with this URL, and the defaults for all else.
    ///
    /// It begins with `ws://` or, with the feature `tls`, `wss://`; that of a gateway with `http://` or
    /// `https://`. What is refused is refused where the options are used, by
    /// [`WebSocketBuilder::build`](crate::session::websocket::WebSocketBuilder::build) and its like.
    ///
    /// ```
    /// use sessile::session::ConnectOptions;
    ///
    /// let options = ConnectOptions::new("ws://127.0.0.1:9000/rpc");
    /// ```
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            subprotocols: Vec::new(),
            or_none: false,
            token: None,
            resolver: None,
            dialer: None,
            proxy: ProxyChoice::None,
            quick_ack: true,
            binary: false,
            connect_timeout: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            roots: Vec::new(),
        }
    }

    /// Adds a header to the request that opens the connection. Its value may be a secret.
    ///
    /// Default: none. What is no header, and those that the handshake itself sends, are refused.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("ws://127.0.0.1:9000").header("X-Tenant", "blue");
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds `Authorization: Bearer ..`, in place of what the URL says.
    ///
    /// Default: none. Refused if it cannot be in a header, or if there is a [header](Self::header)
    /// `Authorization` already.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("ws://127.0.0.1:9000").bearer_token("s3cret");
    /// ```
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Token::Fixed(token.into()));
        self
    }

    /// Asks for a bearer token on each connection, for tokens that expire.
    ///
    /// `token` runs on the thread that connects, and not within the time limit of that. Its error must
    /// not tell the token; it is the cause of the [`ConnectError`](crate::session::websocket::ConnectError).
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("ws://127.0.0.1:9000")
    ///     .bearer_token_from(|| Ok(std::fs::read_to_string("/run/token")?.trim().to_owned()));
    /// ```
    pub fn bearer_token_from(
        mut self,
        token: impl Fn() -> anyhow::Result<String> + Send + Sync + 'static,
    ) -> Self {
        self.token = Some(Token::Fresh(Arc::new(token)));
        self
    }

    /// Adds a subprotocol to those the server may choose from, in the order of preference.
    ///
    /// Default: none. If there are any, a server that chooses none of them is not spoken to.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options =
    ///     ConnectOptions::new("ws://127.0.0.1:9000").subprotocol("rpc.v2").subprotocol("rpc.v1");
    /// ```
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }

    /// Limits the time from the URL to an open WebSocket: looking up the name, TCP (each of the host's
    /// addresses is tried, with an equal share of the time that is left), a proxy, TLS and the upgrade
    /// together.
    ///
    /// The system's look-up cannot be stopped; it has a thread of its own, which may outlive the limit
    /// until the system gives up.
    ///
    /// Default: that of the session, 10 s. Zero is refused.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// # use std::time::Duration;
    /// let options = ConnectOptions::new("ws://127.0.0.1:9000").connect_timeout(Duration::from_secs(3));
    /// ```
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = Some(time);
        self
    }

    /// Sets who finds the addresses for a host and port, in place of the system.
    ///
    /// It runs on a thread of its own, within the time limit.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("ws://service.internal/rpc")
    ///     .resolver(|_host, port| Ok(vec![([10, 0, 0, 7], port).into()]));
    /// ```
    pub fn resolver(
        mut self,
        resolver: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Sets who makes the stream, in place of look-up, TCP and proxy: through a tunnel of one's own, or
    /// to a Unix socket. TLS and the upgrade then go over it.
    ///
    /// It is given host, port, and how much time is left, runs on the thread that connects, and has to
    /// keep to that time itself.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// # #[cfg(unix)] {
    /// use std::os::fd::OwnedFd;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let options = ConnectOptions::new("ws://localhost/v1").dialer(|_host, _port, _left| {
    ///     let stream = UnixStream::connect("/run/service.sock")?;
    ///     Ok(OwnedFd::from(stream).into())
    /// });
    /// # }
    /// ```
    pub fn dialer(
        mut self,
        dialer: impl Fn(&str, u16, Duration) -> io::Result<TcpStream> + Send + Sync + 'static,
    ) -> Self {
        self.dialer = Some(Arc::new(dialer));
        self
    }

    /// Goes through a proxy: `http://host:port` (by `CONNECT`), `socks5://host:port` (which is given an
    /// address that was looked up here), or `socks5h://host:port` (which looks up the name itself).
    ///
    /// Credentials in the URL are shown to the proxy. Default: none. What is no such URL is refused.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("ws://example.org").proxy("http://proxy.internal:3128");
    /// ```
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = ProxyChoice::Url(url.into());
        self
    }

    /// Goes through the proxy that the environment names, if it names one for this URL.
    ///
    /// Read are, in this order and in small letters before large ones, `wss_proxy`, `https_proxy` and
    /// `all_proxy` for `wss://` and `https://`; `ws_proxy`, `http_proxy` and `all_proxy` for the
    /// others; `no_proxy` names hosts, domains and `*` that are reached without. `HTTP_PROXY` is not
    /// read: in a program that serves CGI, a client can set it. They are read where the options are
    /// first used.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("ws://example.org").proxy_from_env();
    /// ```
    pub fn proxy_from_env(mut self) -> Self {
        self.proxy = ProxyChoice::Environment;
        self
    }

    /// Sets whether messages are binary ones, in place of text. Those of the peer's may be of either
    /// kind then.
    ///
    /// Default: text; a binary message of the peer's breaks the session, and is told so with code 1003.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("ws://127.0.0.1:9000").binary(true);
    /// ```
    pub fn binary(mut self, yes: bool) -> Self {
        self.binary = yes;
        self
    }

    /// Sets whether a session that has read something, and waits for more, acknowledges the first at
    /// once, where the system can do that (`TCP_QUICKACK`, on Linux).
    ///
    /// It saves 40 ms for each answer with a server that writes one in two pieces and has not set
    /// `TCP_NODELAY`. Only a session that waits on its own socket does it, not a duplex one.
    ///
    /// Default: yes.
    ///
    /// ```
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("ws://127.0.0.1:9000").quick_ack(false);
    /// ```
    pub fn quick_ack(mut self, yes: bool) -> Self {
        self.quick_ack = yes;
        self
    }

    /// Adds root certificates to trust in place of those that browsers trust: one in DER, or any number
    /// in PEM.
    ///
    /// Default: those that browsers trust, as listed by the crate `webpki-roots`. What is no
    /// certificate is refused.
    ///
    /// ```no_run
    /// # use sessile::session::ConnectOptions;
    /// let options = ConnectOptions::new("wss://service.internal")
    ///     .root_certificate(std::fs::read("/etc/ssl/internal-ca.pem")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn root_certificate(mut self, der_or_pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(der_or_pem.into());
        self
    }

    /// Sets all of TLS, in place of what comes from [`root_certificate`](Self::root_certificate): for
    /// certificates of the client's, say.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use sessile::session::{ConnectOptions, rustls};
    ///
    /// let provider = Arc::new(rustls::crypto::ring::default_provider());
    /// let config = rustls::ClientConfig::builder_with_provider(provider)
    ///     .with_safe_default_protocol_versions()?
    ///     .with_root_certificates(rustls::RootCertStore::empty())
    ///     .with_no_client_auth();
    /// let options = ConnectOptions::new("wss://service.internal").tls_config(Arc::new(config));
    /// # Ok::<(), rustls::Error>(())
    /// ```
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_config(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Looks into the settings. Nothing is connected yet.
    pub(in crate::session) fn build(self) -> Result<Connector, BuildError> {
        let target =
            Target::of(&self.url, "ws", "wss").map_err(|what| BuildError::new("url", what))?;
        if self.connect_timeout == Some(Duration::ZERO) {
            return Err(BuildError::new("connect_timeout", "must not be zero"));
        }
        let is_token = |name: &String| HeaderName::from_bytes(name.as_bytes()).is_ok();
        if !self.subprotocols.iter().all(is_token) {
            return Err(BuildError::new(
                "subprotocol",
                "must be one word, as a header has it: letters, digits and -._ for example",
            ));
        }
        let mut headers = header_lines(&self.headers)?;
        let authorized =
            self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if authorized && self.token.is_some() {
            return Err(BuildError::new(
                "bearer_token",
                "is given beside a header `Authorization`: give one of the two",
            ));
        }
        let mut token = None;
        match (self.token, &target.credentials) {
            (Some(Token::Fresh(fresh)), _) => token = Some(fresh),
            (Some(Token::Fixed(fixed)), _) => {
                let odd = "has a character that a header cannot have: visible ASCII only";
                let line = bearer(&fixed).map_err(|_| BuildError::new("bearer_token", odd))?;
                headers.extend(line);
            }
            (None, Some(credentials)) if !authorized => {
                let line = header("authorization", credentials);
                headers.extend(line.expect("base64 is fit for a header"));
            }
            (None, _) => {}
        }
        let proxy = match self.proxy {
            ProxyChoice::None => None,
            ProxyChoice::Url(url) => Some(Proxy::of(&url)),
            ProxyChoice::Environment => {
                proxy::from(&target, |name| std::env::var(name).ok()).map(|url| Proxy::of(&url))
            }
        };
        let proxy = proxy.transpose().map_err(|what| BuildError::new("proxy", what))?;
        #[cfg(not(feature = "tls"))]
        if target.tls {
            return Err(BuildError::new("url", "needs the feature `tls` for wss://"));
        }
        #[cfg(feature = "tls")]
        let tls = match self.tls {
            _ if !target.tls => None,
            Some(config) => Some(config),
            None => {
                let config = super::tls::client_config(&self.roots);
                Some(config.map_err(|what| BuildError::new("root_certificate", what))?)
            }
        };
        Ok(Connector {
            target,
            subprotocols: self.subprotocols,
            or_none: self.or_none,
            headers,
            token,
            resolver: self.resolver,
            dialer: self.dialer,
            proxy,
            quick_ack: self.quick_ack,
            binary: self.binary,
            connect_timeout: self.connect_timeout,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// Whether nothing is told to the peer about who we are.
    #[cfg(all(feature = "jupyter", unix))]
    pub(crate) fn is_anonymous(&self) -> bool {
        self.headers.is_empty() && self.token.is_none()
    }

    #[cfg(all(feature = "jupyter", unix))]
    pub(crate) fn trusts_others(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some() || !self.roots.is_empty();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Makes the configuration of TLS now, for all connections that these options will make.
    #[cfg(all(feature = "jupyter", feature = "tls"))]
    pub(crate) fn share_tls(&mut self) -> Result<(), BuildError> {
        if self.tls.is_none() {
            let config = super::tls::client_config(&self.roots);
            self.tls = Some(config.map_err(|what| BuildError::new("root_certificate", what))?);
        }
        Ok(())
    }

    #[cfg(feature = "jupyter")]
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }
}

impl From<&str> for ConnectOptions {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for ConnectOptions {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

impl From<&String> for ConnectOptions {
    fn from(url: &String) -> Self {
        Self::new(url)
    }
}

/// Without URL, headers and token: any may be a secret.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("subprotocols", &self.subprotocols)
            .field("binary", &self.binary)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// The line that shows a token.
pub(super) fn bearer(token: &str) -> anyhow::Result<Vec<u8>> {
    header("authorization", &format!("Bearer {token}"))
}

/// Headers as lines. Those that the handshake itself sends are none of a user's.
pub(super) fn header_lines(headers: &[(String, String)]) -> Result<Vec<u8>, BuildError> {
    let mut lines = Vec::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let ours = ["host", "connection", "upgrade", "content-length", "transfer-encoding"];
        if ours.contains(&&*lower) || lower.starts_with("sec-websocket-") {
            return Err(BuildError::new(
                "header",
                "is one that the handshake itself sends: leave it out",
            ));
        }
        let line = header(name, value).map_err(|_| {
            BuildError::new(
                "header",
                "is not a header: a name is one word, a value has visible ASCII only",
            )
        })?;
        lines.extend(line);
    }
    Ok(lines)
}

/// A header as a line, if it is one and will not turn out to be two.
pub(crate) fn header(name: &str, value: &str) -> anyhow::Result<Vec<u8>> {
    let name = HeaderName::from_bytes(name.as_bytes());
    let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
        anyhow::bail!("it has a character that a header cannot have");
    };
    Ok([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat())
}
