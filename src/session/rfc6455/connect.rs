//! From a URL to a WebSocket, all within one deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::connect_error::{ConnectError, ConnectStep, Problem};
use super::options::{self, Dialer, FreshToken, Resolver};
use super::proxy::Proxy;
use super::stream::{Patience, Stream, Tcp};
use super::target::Target;
use super::upgrade::{self, Upgraded};
use crate::deadline::Deadline;
use crate::session::dial;

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
