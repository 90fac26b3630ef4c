//! Lines over TCP.

use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::{Connect, Lines, Link, LinkOptions};
use crate::deadline::Deadline;
use crate::session::dial;

/// Dials a TCP address, a frame being a line.
#[derive(Clone, Debug)]
pub struct Tcp {
    address: String,
}

impl Tcp {
    /// To this address, `host:port`.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into() }
    }
}

impl Connect for Tcp {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let stream = dial(&self.address, options.connect_timeout)?;
        Ok(lines(stream, options)?)
    }
}

/// A TCP connection that somebody else has made, a frame being a line. It cannot be made anew.
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
        Ok(lines(stream, options)?)
    }

    fn blocks(&self) -> bool {
        false
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

fn lines(stream: TcpStream, options: &LinkOptions) -> io::Result<Box<dyn Link>> {
    stream.set_nonblocking(true)?;
    // A frame is written as a whole: to wait for more would only delay it.
    stream.set_nodelay(true)?;
    Ok(Box::new(Lines::<_, TcpStream>::new(stream, None, options)))
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
