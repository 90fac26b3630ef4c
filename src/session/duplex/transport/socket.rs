//! Frames over sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::{Connect, Framed, Link, LinkOptions};
use crate::deadline::Deadline;
use crate::session::dial;

/// Dials a TCP address.
///
/// ```no_run
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{Session, Tcp};
///
/// let session = Session::builder(JsonRpc::new()).connect(Tcp::new("127.0.0.1:7777"))?;
/// # Ok::<(), sessile::session::SessionError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tcp {
    address: String,
}

impl Tcp {
    /// To this address, `host:port` or a `SocketAddr`.
    ///
    /// ```
    /// use std::net::{Ipv6Addr, SocketAddr};
    ///
    /// use sessile::session::duplex::Tcp;
    ///
    /// let by_name = Tcp::new("localhost:7777");
    /// let by_number = Tcp::new(SocketAddr::from((Ipv6Addr::LOCALHOST, 7777)));
    /// ```
    #[allow(clippy::needless_pass_by_value)] // a text is mostly at hand, and an address small
    pub fn new(address: impl ToString) -> Self {
        Self { address: address.to_string() }
    }
}

impl Connect for Tcp {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let stream = dial(&self.address, options.connect_timeout)?;
        Ok(frames(stream, options)?)
    }
}

/// A TCP connection that somebody else has made. It cannot be made anew.
///
/// The [module's page](super::super) has an example.
#[derive(Debug)]
pub struct TcpAccepted {
    stream: Option<TcpStream>,
}

impl TcpAccepted {
    /// This connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Some(stream) }
    }
}

impl Connect for TcpAccepted {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let stream = self.stream.take().context("it has been used already")?;
        Ok(frames(stream, options)?)
    }

    fn blocks(&self) -> bool {
        false
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

fn frames(stream: TcpStream, options: &LinkOptions) -> io::Result<Box<dyn Link>> {
    stream.set_nonblocking(true)?;
    // A frame is written as a whole: to wait for more would only delay it.
    stream.set_nodelay(true)?;
    Ok(Box::new(Framed::<_, TcpStream>::new(stream, None, options)))
}

/// Dials a Unix socket.
///
/// ```no_run
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{Session, Unix};
///
/// let session = Session::builder(JsonRpc::new()).connect(Unix::new("/run/peer.sock"))?;
/// # Ok::<(), sessile::session::SessionError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Unix {
    path: PathBuf,
}

impl Unix {
    /// At this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Connect for Unix {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let stream = UnixStream::connect(&self.path);
        let stream = stream.with_context(|| format!("connecting to {}", self.path.display()))?;
        stream.set_nonblocking(true)?;
        Ok(Box::new(Framed::<_, UnixStream>::new(stream, None, options)))
    }
}

/// Any stream of one's own, which has been connected already. It cannot be made anew.
///
/// It is set to non-blocking mode, and owned by the session. What it reads has to come from the
/// descriptor that it gives.
///
/// ```
/// use std::os::unix::net::UnixStream;
///
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{OverStream, Session};
///
/// let (ours, theirs) = UnixStream::pair()?;
/// let session = Session::builder(JsonRpc::new()).connect(OverStream::new(ours))?;
/// let peer = Session::builder(JsonRpc::new())
///     .on_request(|request| drop(request.respond("hello")))
///     .connect(OverStream::new(theirs))?;
/// assert_eq!(session.invoker().call::<String>("greet", ())?, "hello");
/// # drop(peer);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OverStream<S> {
    stream: Option<S>,
}

impl<S: Read + Write + AsFd + Send + 'static> OverStream<S> {
    /// This stream.
    pub fn new(stream: S) -> Self {
        Self { stream: Some(stream) }
    }
}

impl<S: Read + Write + AsFd + Send + 'static> Connect for OverStream<S> {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        Ok(options.framed(self.stream.take().context("it has been used already")?)?)
    }

    fn blocks(&self) -> bool {
        false
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

/// Connects to the first of a name's addresses that answers; all within this time, the look-up
/// included.
pub(super) fn dial(address: &str, within: Duration) -> anyhow::Result<TcpStream> {
    let deadline = Deadline::after(within);
    let explain = |doing: &str, error: io::Error| match error.kind() {
        ErrorKind::WouldBlock => anyhow!("{doing} {address} took longer than {within:?}"),
        _ => anyhow!(error).context(format!("{doing} {address}")),
    };
    let addresses = match address.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let name = address.to_owned();
            let find = move || name.to_socket_addrs().map(Vec::from_iter);
            dial::look_up(find, deadline).map_err(|error| explain("looking up", error))?
        }
    };
    dial::reach(&addresses, deadline).map_err(|error| explain("connecting to", error))
}
