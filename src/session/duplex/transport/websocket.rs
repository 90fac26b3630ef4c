//! A frame is a WebSocket message.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, bail};
use tungstenite::error::Error;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, Utf8Bytes};

use super::tcp::dial;
use super::{Connect, Link, LinkOptions};
use crate::deadline::Deadline;

/// Dials a WebSocket without TLS, a frame being a text message.
#[derive(Clone)]
pub struct WebSocket {
    url: String,
}

impl WebSocket {
    /// To this address, `ws://host:port/path`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }
}

/// Without the address: it may hold a secret.
impl std::fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocket").finish_non_exhaustive()
    }
}

impl Connect for WebSocket {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let uri: tungstenite::http::Uri = self.url.parse().context("the address")?;
        if uri.scheme_str() != Some("ws") {
            bail!("the address begins with something else than `ws:`");
        }
        let host = uri.host().context("the address has no host")?;
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let deadline = Deadline::after(options.connect_timeout);
        let stream = Stream::new(dial(&address, options.connect_timeout)?, deadline)?;
        let upgraded = tungstenite::client::client_with_config(uri, stream, Some(config(options)));
        let (socket, _) = upgraded.map_err(refused)?;
        link(socket)
    }
}

/// A TCP connection that somebody else has accepted, and on which a WebSocket is now agreed upon. It
/// cannot be made anew.
#[derive(Debug)]
pub struct WebSocketAccepted {
    stream: Option<TcpStream>,
}

impl WebSocketAccepted {
    /// This connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Some(stream) }
    }
}

impl Connect for WebSocketAccepted {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let stream = self.stream.take().context("it has been used already")?;
        let stream = Stream::new(stream, Deadline::after(options.connect_timeout))?;
        let upgraded = tungstenite::accept_with_config(stream, Some(config(options)));
        link(upgraded.map_err(refused)?)
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

fn config(options: &LinkOptions) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .max_message_size(Some(options.max_frame))
        .max_frame_size(Some(options.max_frame))
}

fn refused<R: tungstenite::handshake::HandshakeRole>(error: HandshakeError<R>) -> anyhow::Error {
    match error {
        HandshakeError::Interrupted(_) => {
            anyhow::anyhow!("the peer did not answer the upgrade in time")
        }
        HandshakeError::Failure(error) => anyhow::Error::new(error).context("the upgrade"),
    }
}

fn link(mut socket: tungstenite::WebSocket<Stream>) -> anyhow::Result<Box<dyn Link>> {
    let stream = socket.get_mut();
    stream.deadline = None;
    stream.tcp.set_nonblocking(true)?;
    stream.written = 0;
    Ok(Box::new(Messages { socket, queued: 0 }))
}

/// Up to the deadline it blocks; without one it does not. A limit for each read alone would let a peer
/// take its time byte by byte.
struct Stream {
    tcp: TcpStream,
    deadline: Option<Deadline>,
    written: usize,
}

impl Stream {
    fn new(tcp: TcpStream, deadline: Deadline) -> io::Result<Self> {
        // A frame is written as a whole: to wait for more would only delay it.
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(false)?;
        Ok(Self { tcp, deadline: Some(deadline), written: 0 })
    }

    fn limit(&self, set: fn(&TcpStream, Option<Duration>) -> io::Result<()>) -> io::Result<()> {
        match self.deadline.map(|deadline| deadline.remaining()) {
            None => Ok(()),
            Some(Some(left)) if left.is_zero() => Err(ErrorKind::WouldBlock.into()),
            Some(left) => set(&self.tcp, left),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.limit(TcpStream::set_read_timeout)?;
        self.tcp.read(buf)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.limit(TcpStream::set_write_timeout)?;
        let written = self.tcp.write(buf)?;
        self.written += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Messages {
    socket: tungstenite::WebSocket<Stream>,
    /// Since all was written last: bytes of frames, headers included.
    queued: usize,
}

/// The most that a frame's header takes.
const HEADER: usize = 14;

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => ErrorKind::UnexpectedEof.into(),
        // What is wrong, without what was received.
        other => io::Error::new(ErrorKind::InvalidData, other),
    }
}

impl Link for Messages {
    fn sources(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        Ok((self.socket.get_ref().tcp.as_fd().try_clone_to_owned()?, None))
    }

    fn read(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        match self.socket.read() {
            Ok(Message::Text(text)) => frame(text.as_bytes()),
            Ok(Message::Binary(bytes)) => frame(&bytes),
            // Pings and closes are answered in there; the end comes as an error.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {}
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(io_error(error)),
        }
        Ok(true)
    }

    fn queue(&mut self, frame: &[u8]) -> io::Result<()> {
        let text = Utf8Bytes::try_from(frame.to_vec());
        let text = text.map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
        self.queued += HEADER + text.len();
        match self.socket.write(Message::Text(text)) {
            Ok(()) => Ok(()),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(io_error(error)),
        }
    }

    fn flush(&mut self) -> io::Result<usize> {
        match self.socket.flush() {
            Ok(()) => {
                self.queued = 0;
                self.socket.get_mut().written = 0;
            }
            // Also if a pong only is left, which is nobody's: one byte more to be watched for.
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                return Ok(self.queued.saturating_sub(self.socket.get_ref().written).max(1));
            }
            Err(error) => return Err(io_error(error)),
        }
        Ok(0)
    }

    fn close(&mut self) {
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
    }
}
