//! Lines over TCP.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Connect, Lines, Link, LinkOptions};
use crate::deadline::Deadline;

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
    let left = || deadline.remaining().filter(|left| !left.is_zero());
    let mut last = None;
    for found in look_up(address, within)? {
        let Some(left) = left() else { break };
        match TcpStream::connect_timeout(&found, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("connecting to {address}")),
        None if left().is_none() => bail!("connecting to {address} took longer than {within:?}"),
        None => bail!("{address} has no address"),
    }
}

fn look_up(address: &str, within: Duration) -> anyhow::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    // The system's look-up has no limit of its own. One that is given up on ends on its own thread.
    let (tell, told) = mpsc::sync_channel(1);
    let name = address.to_owned();
    thread::Builder::new().name("sessile-lookup".to_owned()).spawn(move || {
        let _ = tell.send(name.to_socket_addrs().map(Vec::from_iter));
    })?;
    let found = told.recv_timeout(within);
    let found =
        found.with_context(|| format!("looking up {address} took longer than {within:?}"))?;
    found.with_context(|| format!("looking up {address}"))
}
