//! From a URL to a WebSocket, or from a connection that was accepted; all within one deadline.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use tungstenite::http::Uri;

use super::opening::{self, FreshToken};
use super::stream::{Patience, Stream, Tcp};
use super::upgrade::{self, Upgraded};
use crate::deadline::Deadline;
use crate::session::dial;

/// Finds the addresses of a host.
pub(in crate::session) type Resolver =
    dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Where the connection goes, taken from a URL.
pub(in crate::session) struct Target {
    pub(super) tls: bool,
    /// A name, or an address without brackets.
    host: String,
    port: u16,
    /// Host and port, as the URL writes them.
    authority: String,
    /// Path and query.
    path: String,
    /// What the URL says about who we are: it may be a secret.
    pub(super) credentials: Option<String>,
}

impl Target {
    pub(super) fn of(url: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err("must begin with ws:// or wss://"),
        };
        let authority = uri.authority().ok_or("has no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err("has no host");
        }
        let (user, authority) = match authority.as_str().rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority.as_str()),
        };
        let credentials = match user {
            Some(user) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                let plain = [&*unescape(name)?, b":", &*unescape(password)?].concat();
                Some(format!("Basic {}", BASE64.encode(&plain)))
            }
            None => None,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            tls,
            host,
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.to_owned(),
            path: path.to_owned(),
            credentials,
        })
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// Without path, query and credentials: any of them may be a secret.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "wss" } else { "ws" }, self.authority)
    }
}

/// Undoes percent-encoding.
fn unescape(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let byte = digit().zip(digit()).map(|(high, low)| (high << 4 | low) as u8);
                byte.ok_or("has a % that is followed by no number")?
            }
            byte => byte,
        });
    }
    Ok(plain)
}

/// What a connection is made from.
pub(in crate::session) struct Connector {
    pub(super) target: Target,
    pub(super) subprotocols: Vec<String>,
    pub(super) or_none: bool,
    /// As lines, each with its end.
    pub(super) headers: Vec<u8>,
    pub(super) token: Option<Arc<FreshToken>>,
    pub(super) resolver: Option<Arc<Resolver>>,
    pub(super) quick_ack: bool,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Connector {
    pub(in crate::session) fn target(&self) -> &Target {
        &self.target
    }

    /// Connects, within this time. Getting a token is not counted.
    pub(in crate::session) fn connect(
        &self,
        within: Duration,
    ) -> Result<(Stream, Upgraded), ConnectError> {
        let headers = self.headers()?;
        let deadline = Deadline::after(within);
        let failed =
            |problem| ConnectError::new(&self.target, ConnectStep::Upgrade, problem, within);
        let mut stream = self.dial(deadline, within)?;
        let upgraded = upgrade::ask(&mut stream, &self.target, &self.subprotocols, &headers)
            .map_err(failed)?;
        if upgraded.subprotocol.is_none() && !(self.subprotocols.is_empty() || self.or_none) {
            return Err(failed(Problem::Head("the server chose none of the subprotocols")));
        }
        Ok((stream, upgraded))
    }

    /// Only the connection, which is patient until the deadline; that is so far away.
    pub(in crate::session) fn dial(
        &self,
        deadline: Deadline,
        within: Duration,
    ) -> Result<Stream, ConnectError> {
        let at =
            |step| move |error| ConnectError::new(&self.target, step, Problem::Io(error), within);
        let addresses = self.look_up(deadline).map_err(at(ConnectStep::LookUp))?;
        let tcp = dial::reach(&addresses, deadline)
            .and_then(|tcp| Tcp::new(tcp, self.quick_ack))
            .map_err(at(ConnectStep::Tcp))?;
        let mut stream = self.secure(tcp, deadline).map_err(at(ConnectStep::Tls))?;
        stream.tcp_mut().reads = Patience::until(deadline, 0);
        stream.tcp_mut().writes = Patience::until(deadline, 0);
        Ok(stream)
    }

    fn headers(&self) -> Result<Vec<u8>, ConnectError> {
        let mut headers = self.headers.clone();
        if let Some(token) = &self.token {
            let line = token().and_then(|token| opening::bearer(&token));
            headers.extend(line.map_err(|error| ConnectError::token(&self.target, error))?);
        }
        Ok(headers)
    }

    fn look_up(&self, deadline: Deadline) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = (self.target.host.clone(), self.target.port);
        if self.resolver.is_none()
            && let Ok(address) = host.parse::<IpAddr>()
        {
            return Ok(vec![(address, port).into()]);
        }
        let resolver = self.resolver.clone();
        let find = move || match resolver {
            Some(resolver) => resolver(&host, port),
            None => (host.as_str(), port).to_socket_addrs().map(Iterator::collect),
        };
        dial::look_up(find, deadline)
    }

    #[cfg(feature = "tls")]
    fn secure(&self, mut tcp: Tcp, deadline: Deadline) -> io::Result<Stream> {
        let Some(config) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        (tcp.reads, tcp.writes) = (Patience::until(deadline, 0), Patience::until(deadline, 0));
        let tls = super::tls::TlsStream::connect(config, &self.target.host, tcp)?;
        Ok(Stream::Tls(Box::new(tls)))
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&self, tcp: Tcp, _: Deadline) -> io::Result<Stream> {
        Ok(Stream::Plain(tcp))
    }
}

/// Takes the server's part on a connection that somebody else has accepted, within this time.
/// `rest` came after the client's request: frames.
#[cfg(all(feature = "duplex", unix))]
pub(in crate::session) fn accept(
    tcp: std::net::TcpStream,
    within: Duration,
) -> Result<(Stream, Vec<u8>), ConnectError> {
    let deadline = Deadline::after(within);
    let client = tcp.peer_addr().map_or("a client".to_owned(), |address| address.to_string());
    let failed = |problem| ConnectError::new(&client, ConnectStep::Upgrade, problem, within);
    let tcp = tcp.set_nonblocking(false).and_then(|()| Tcp::new(tcp, false));
    let mut tcp = tcp.map_err(|error| failed(Problem::Io(error)))?;
    (tcp.reads, tcp.writes) = (Patience::until(deadline, 0), Patience::until(deadline, 0));
    let mut stream = Stream::Plain(tcp);
    let rest = upgrade::grant(&mut stream).map_err(failed)?;
    Ok((stream, rest))
}

/// Why no connection could be made, and at which step.
///
/// It is the [`source`](Error::source) of a [`SessionError`](crate::session::SessionError) that
/// [is about connecting](crate::session::SessionError::is_connect). It names the host, and nothing
/// else of the URL; or the address of a client that was accepted.
#[derive(Debug)]
pub struct ConnectError {
    target: String,
    step: ConnectStep,
    problem: Problem,
}

#[derive(Debug)]
pub(super) enum Problem {
    TimedOut(Duration),
    Io(io::Error),
    Http(u16),
    Head(&'static str),
    Token(anyhow::Error),
}

/// A step on the way to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectStep {
    /// Getting the token.
    Token,
    /// Looking up the host's name.
    LookUp,
    /// The TCP connection.
    Tcp,
    /// The handshake of TLS.
    Tls,
    /// Going over from HTTP to WebSocket.
    Upgrade,
}

impl ConnectError {
    fn new(
        target: &impl fmt::Display,
        step: ConnectStep,
        problem: Problem,
        within: Duration,
    ) -> Self {
        let problem = match problem {
            Problem::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Problem::TimedOut(within)
            }
            problem => problem,
        };
        Self { target: target.to_string(), step, problem }
    }

    fn token(target: &Target, error: anyhow::Error) -> Self {
        let (step, problem) = (ConnectStep::Token, Problem::Token(error));
        Self { target: target.to_string(), step, problem }
    }

    /// At which step.
    #[must_use]
    pub fn step(&self) -> ConnectStep {
        self.step
    }

    /// It took too long.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.problem, Problem::TimedOut(_))
    }

    /// The status that the server answered with, if it answered in HTTP and refused: 401, say.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match self.problem {
            Problem::Http(status) => Some(status),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, step, problem } = self;
        let doing = match step {
            ConnectStep::Token => "getting a token for",
            ConnectStep::LookUp => "looking up the name in",
            ConnectStep::Tcp => "connecting to",
            ConnectStep::Tls => "agreeing on TLS with",
            ConnectStep::Upgrade => "going over to WebSocket at",
        };
        write!(f, "{doing} {target} ")?;
        match problem {
            Problem::TimedOut(limit) => write!(f, "was not done within {limit:.1?} in all"),
            Problem::Io(_) | Problem::Token(_) => f.write_str("failed"),
            Problem::Http(status) => write!(f, "was refused with HTTP status {status}"),
            Problem::Head(what) => write!(f, "failed: {what}"),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            Problem::Token(error) => Some(error.as_ref()),
            Problem::TimedOut(_) | Problem::Http(_) | Problem::Head(_) => None,
        }
    }
}
