//! From a URL to a WebSocket, all within one deadline.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::head::Refusal;
use super::options::{self, Dialer, FreshToken, Resolver};
use super::proxy::Proxy;
use super::stream::{Patience, Stream, Tcp};
use super::target::Target;
use super::upgrade::{self, Upgraded};
use crate::deadline::Deadline;
use crate::session::dial;
use crate::words::Span;

/// What a connection is made from.
pub(in crate::session) struct Connector {
    pub(super) target: Target,
    pub(super) subprotocols: Vec<String>,
    pub(super) or_none: bool,
    /// As lines, each with its end.
    pub(super) headers: Vec<u8>,
    pub(super) token: Option<Arc<FreshToken>>,
    pub(super) resolver: Option<Arc<Resolver>>,
    pub(super) dialer: Option<Arc<Dialer>>,
    pub(super) proxy: Option<Proxy>,
    pub(super) quick_ack: bool,
    pub(in crate::session) binary: bool,
    pub(in crate::session) connect_timeout: Option<Duration>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Connector {
    pub(in crate::session) fn target(&self) -> &Target {
        &self.target
    }

    /// Connects, within this time, or the one that was set for the connection. Getting a token is not
    /// counted.
    pub(in crate::session) fn connect(
        &self,
        within: Duration,
    ) -> Result<(Stream, Upgraded), ConnectError> {
        let within = self.connect_timeout.unwrap_or(within);
        let headers = self.headers()?;
        let deadline = Deadline::after(within);
        let failed =
            |problem| ConnectError::new(&self.target, ConnectStep::Upgrade, problem, within);
        let mut stream = self.dial(deadline, within)?;
        let upgraded = upgrade::ask(
            &mut stream,
            &self.target,
            &self.subprotocols,
            &headers,
            &self.secrets(&headers),
        )
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
        let at = |step| move |problem| ConnectError::new(&self.target, step, problem, within);
        let tcp = match (&self.dialer, &self.proxy) {
            (Some(dialer), _) => {
                let left = deadline.remaining().unwrap_or(Duration::MAX);
                let tcp = dialer(&self.target.host, self.target.port, left);
                tcp.and_then(|tcp| self.patient(tcp, deadline))
                    .map_err(|error| at(ConnectStep::Tcp)(Problem::Io(error)))?
            }
            (None, Some(proxy)) => {
                self.reach_by(proxy, deadline).map_err(at(ConnectStep::Proxy))?
            }
            (None, None) => {
                let Target { host, port, .. } = &self.target;
                let addresses = self.look_up(host, *port, deadline);
                let addresses = addresses.map_err(Problem::Io).map_err(at(ConnectStep::LookUp))?;
                let tcp = dial::reach(&addresses, deadline);
                tcp.and_then(|tcp| self.patient(tcp, deadline))
                    .map_err(Problem::Io)
                    .map_err(at(ConnectStep::Tcp))?
            }
        };
        self.secure(tcp).map_err(Problem::Io).map_err(at(ConnectStep::Tls))
    }

    fn patient(&self, tcp: TcpStream, deadline: Deadline) -> io::Result<Tcp> {
        tcp.set_nonblocking(false)?;
        let mut tcp = Tcp::new(tcp, self.quick_ack)?;
        (tcp.reads, tcp.writes) = (Patience::until(deadline, 0), Patience::until(deadline, 0));
        Ok(tcp)
    }

    fn reach_by(&self, proxy: &Proxy, deadline: Deadline) -> Result<Tcp, Problem> {
        let Target { host, port, .. } = &self.target;
        let address = match proxy.wants_address() {
            false => None,
            true => self.look_up(host, *port, deadline).map_err(Problem::Io)?.first().copied(),
        };
        let addresses = system_look_up(&proxy.host, proxy.port, deadline);
        let tcp = addresses.and_then(|addresses| dial::reach(&addresses, deadline));
        let mut tcp = tcp.and_then(|tcp| self.patient(tcp, deadline)).map_err(Problem::Io)?;
        proxy.tunnel(&mut tcp, &self.target, address)?;
        Ok(tcp)
    }

    /// Those of the user's, as lines, with a token that is asked for now.
    pub(in crate::session) fn headers(&self) -> Result<Vec<u8>, ConnectError> {
        let mut headers = self.headers.clone();
        if let Some(token) = &self.token {
            let line = token().and_then(|token| options::bearer(&token));
            headers.extend(line.map_err(|error| ConnectError::token(&self.target, error))?);
        }
        Ok(headers)
    }

    /// What may be a secret of ours, and must not be told again where a server repeats it. What is very
    /// short cannot be kept: it is part of every other word.
    fn secrets(&self, headers: &[u8]) -> Vec<String> {
        const SHORT: usize = 4;
        let headers = String::from_utf8_lossy(headers);
        let values =
            headers.lines().filter_map(|line| line.split_once(": ")).flat_map(|(_, value)| {
                [Some(value), value.split_once(' ').map(|(_, token)| token)].into_iter().flatten()
            });
        let query = self.target.query().unwrap_or_default();
        let pairs =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(_, value)| value);
        let mut secrets: Vec<String> = values.chain(pairs).map(str::to_owned).collect();
        secrets.extend([query.to_owned(), self.target.resource()]);
        secrets.extend(self.target.password.clone());
        secrets.retain(|secret| secret.len() >= SHORT);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets
    }

    fn look_up(&self, host: &str, port: u16, by: Deadline) -> io::Result<Vec<SocketAddr>> {
        let Some(resolver) = self.resolver.clone() else { return system_look_up(host, port, by) };
        let host = host.to_owned();
        dial::look_up(move || resolver(&host, port), by)
    }

    #[cfg(feature = "tls")]
    fn secure(&self, tcp: Tcp) -> io::Result<Stream> {
        let Some(config) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        let tls = super::tls::TlsStream::connect(config, &self.target.host, tcp)?;
        Ok(Stream::Tls(Box::new(tls)))
    }

    #[cfg(not(feature = "tls"))]
    fn secure(&self, tcp: Tcp) -> io::Result<Stream> {
        Ok(Stream::Plain(tcp))
    }
}

fn system_look_up(host: &str, port: u16, by: Deadline) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let host = host.to_owned();
    dial::look_up(move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect), by)
}

/// Why no connection could be made, and at which step.
///
/// It is the [`source`](Error::source) of a [`SessionError`](crate::session::SessionError) that
/// [is about connecting](crate::session::SessionError::is_connect). It names the host, and nothing
/// else of the URL; or the address of a client that was accepted. Where a server has refused, it tells
/// what that says.
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
    /// By the server.
    Refused(Box<Refusal>),
    /// A client, by us.
    #[cfg_attr(not(all(feature = "duplex", unix)), allow(dead_code))]
    Denied {
        status: u16,
        why: String,
    },
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
    /// The TCP connection, or what was made in its place.
    Tcp,
    /// The way through a proxy, from looking up its name on.
    Proxy,
    /// The handshake of TLS.
    Tls,
    /// Going over from HTTP to WebSocket.
    Upgrade,
}

impl ConnectError {
    pub(super) fn new(
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

    /// Gives the status with which the upgrade was refused, if it was refused in HTTP: 401, say. A
    /// proxy refuses so as well, at [its step](ConnectStep::Proxy).
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match &self.problem {
            Problem::Refused(refusal) => Some(refusal.status),
            Problem::Denied { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Gives a header of the answer with which a server has refused: `Retry-After`, say. Secrets of
    /// ours that it repeats are struck out.
    #[must_use]
    pub fn http_header(&self, name: &str) -> Option<&str> {
        match &self.problem {
            Problem::Refused(refusal) => refusal.fields.get(name),
            _ => None,
        }
    }

    /// Gives how the body of the answer begins with which a server has refused: up to 1 KiB. Secrets of
    /// ours that it repeats are struck out.
    #[must_use]
    pub fn http_body(&self) -> Option<&str> {
        match &self.problem {
            Problem::Refused(refusal) => Some(&refusal.body),
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
            ConnectStep::Proxy => "finding a way through the proxy to",
            ConnectStep::Tls => "agreeing on TLS with",
            ConnectStep::Upgrade => "going over to WebSocket at",
        };
        write!(f, "{doing} {target} ")?;
        match problem {
            Problem::TimedOut(limit) => write!(f, "was not done within {} in all", Span(*limit)),
            Problem::Io(_) | Problem::Token(_) => f.write_str("failed"),
            Problem::Refused(refusal) => write!(f, "was refused with {refusal}"),
            Problem::Denied { status, why } => {
                write!(f, "was refused by us with HTTP status {status}: {why}")
            }
            Problem::Head(what) => write!(f, "failed: {what}"),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            Problem::Token(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}
