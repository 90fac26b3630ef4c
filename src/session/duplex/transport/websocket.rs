//! A frame is a WebSocket message.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use std::time::Duration;

use anyhow::Context;

use super::{Connect, Link, LinkOptions, Oversized};
use crate::session::ConnectOptions;
use crate::session::rfc6455::{
    AcceptOptions, Connector, Fault, FrameError, Frames, Goodbye, Message, Role, Stream, Upgraded,
    farewell,
};

/// Dials a WebSocket, a frame being a message.
///
/// ```no_run
/// use sessile::session::duplex::{Session, WebSocket};
/// use sessile::session::{ConnectOptions, JsonRpc};
///
/// let options =
///     ConnectOptions::new("wss://example.org/rpc").bearer_token("..").subprotocol("rpc.v1");
/// let session = Session::builder(JsonRpc::new()).connect(WebSocket::new(options))?;
/// # Ok::<(), sessile::session::SessionError>(())
/// ```
///
/// All of connecting happens on a thread of its own, and within the session's
/// [`connect_timeout`](super::super::SessionBuilder::connect_timeout), unless the options have one. If
/// it fails, the cause of the error is a [`ConnectError`](crate::session::websocket::ConnectError).
///
/// What makes no sense among the options is told before anything is connected, as a
/// [`BuildError`](crate::pool::BuildError).
#[derive(Clone)]
#[must_use = "it does nothing until a session connects with it"]
pub struct WebSocket {
    options: ConnectOptions,
    /// Made by the first connection, for all: TLS resumes what it knows.
    connector: Option<Arc<Connector>>,
}

impl WebSocket {
    /// Dials this URL, or as these options say.
    pub fn new(options: impl Into<ConnectOptions>) -> Self {
        Self { options: options.into(), connector: None }
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Connect for WebSocket {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let connector = match &self.connector {
            Some(connector) => connector,
            None => self.connector.insert(Arc::new(self.options.clone().build()?)),
        };
        let (stream, upgraded) = connector.connect(options.connect_timeout)?;
        messages(stream, Role::Client, connector.binary, &upgraded.rest, options)
    }
}

/// A connection that somebody else has accepted, and on which a WebSocket is now agreed upon. It cannot
/// be made anew.
///
/// ```no_run
/// use std::net::TcpListener;
///
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{AcceptOptions, Session, WebSocketAccepted};
///
/// let options = AcceptOptions::new().allow_origin("http://localhost:5173").subprotocol("rpc.v1");
/// let (tcp, _) = TcpListener::bind("127.0.0.1:9000")?.accept()?;
/// let session = Session::builder(JsonRpc::new())
///     .on_request(|request| drop(request.respond("hello")))
///     .connect(WebSocketAccepted::with(tcp, &options))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WebSocketAccepted {
    stream: Option<TcpStream>,
    options: AcceptOptions,
}

impl WebSocketAccepted {
    /// Takes this connection, with the default [`AcceptOptions`]: any path, no browser's web page, and
    /// no subprotocol.
    ///
    /// A Unix socket is one too, as `TcpStream::from(OwnedFd::from(unix_stream))`.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self::with(stream, &AcceptOptions::new())
    }

    /// Takes this connection, and lets its client in as these options say.
    #[must_use]
    pub fn with(stream: TcpStream, options: &AcceptOptions) -> Self {
        Self { stream: Some(stream), options: options.clone() }
    }
}

impl Connect for WebSocketAccepted {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let stream = self.stream.take().context("it has been used already")?;
        let Upgraded { stream, rest, .. } = self.options.accept(stream, options.connect_timeout)?;
        messages(stream, Role::Server, self.options.is_binary(), &rest, options)
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

/// A connection on which a WebSocket is agreed upon already, with what was read after that.
pub(in crate::session::duplex) struct Agreed {
    stream: Option<(Stream, Vec<u8>)>,
    binary: bool,
}

impl Agreed {
    pub(in crate::session::duplex) fn new(stream: Stream, rest: Vec<u8>, binary: bool) -> Self {
        Self { stream: Some((stream, rest)), binary }
    }
}

impl Connect for Agreed {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let (stream, rest) = self.stream.take().context("it has been used already")?;
        messages(stream, Role::Server, self.binary, &rest, options)
    }

    fn blocks(&self) -> bool {
        false
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

fn messages(
    mut stream: Stream,
    role: Role,
    binary: bool,
    rest: &[u8],
    options: &LinkOptions,
) -> anyhow::Result<Box<dyn Link>> {
    stream.tcp_mut().never_wait()?;
    let max = options.max_message_size;
    let frames = Frames::new(stream, role, rest, max, max);
    Ok(Box::new(Messages { frames, binary, oversized: Vec::new() }))
}

struct Messages {
    frames: Frames,
    /// Whether ours are binary. The peer's may be either then, else only text.
    binary: bool,
    /// Since the last read.
    oversized: Vec<Oversized>,
}

impl Messages {
    /// Hands out what has been read, and answers what is not for those who call.
    fn hand_out(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            match self.frames.next() {
                Ok(Some(Message::Text(text))) => frame(text.as_bytes()),
                Ok(Some(Message::Binary(bytes))) if self.binary => frame(bytes),
                Ok(Some(Message::Binary(_))) => return Err(self.fault(&Fault::Binary)),
                Ok(Some(Message::TooLarge { size, head, tail })) => {
                    let (head, tail) = (head.to_vec(), tail.to_vec());
                    self.oversized.push(Oversized { size, head, tail, ..Oversized::default() });
                }
                Ok(Some(Message::Ping(of))) => {
                    let of = of.to_vec();
                    self.frames.put_pong(&of);
                }
                Ok(Some(Message::Pong(_))) => {}
                Ok(Some(Message::Close { code, reason })) => {
                    let code = code.unwrap_or(Goodbye::Normal as u16);
                    let why = farewell(code, reason);
                    self.say_goodbye(code); // it is repeated
                    return Err(io::Error::new(ErrorKind::ConnectionAborted, why));
                }
                Ok(None) => return Ok(()),
                Err(fault) => return Err(self.fault(&fault)),
            }
        }
    }

    fn fault(&mut self, fault: &Fault) -> io::Error {
        self.say_goodbye(fault.goodbye() as u16);
        broken(fault)
    }

    /// As far as that goes without waiting.
    fn say_goodbye(&mut self, code: u16) {
        self.frames.put_close(code);
        let _ = self.frames.flush();
    }
}

fn broken(fault: &Fault) -> io::Error {
    let why = match fault {
        Fault::TooLarge { limit, .. } => format!("a frame is over the limit of {limit} bytes"),
        fault => format!("the peer sent {}", fault.what()),
    };
    io::Error::new(ErrorKind::InvalidData, why)
}

const HUNG_UP: &str = "the peer has closed it without a close frame";

fn io_error(error: FrameError) -> io::Error {
    match error {
        FrameError::Io(error) => error,
        // There is no half of a WebSocket that could still listen.
        FrameError::HungUp => io::Error::new(ErrorKind::ConnectionAborted, HUNG_UP),
        FrameError::Fault(fault) => broken(&fault),
    }
}

impl Link for Messages {
    fn sources(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        Ok((self.frames.stream().tcp().as_fd().try_clone_to_owned()?, None))
    }

    /// The poller knows of what is in the socket. It does not know of what came with the upgrade,
    /// nor of what TLS has read and not handed out; so that nothing stays there unseen, all of it
    /// is handed out here, or it is said that there may be more.
    fn read(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        self.hand_out(frame)?;
        let more = match self.frames.fill() {
            Ok(more) => more,
            Err(error) if error.would_block() => false,
            Err(error) => return Err(io_error(error)),
        };
        self.hand_out(frame)?;
        Ok(more)
    }

    fn queue(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.binary {
            self.frames.put_binary(frame);
            return Ok(());
        }
        let text = std::str::from_utf8(frame);
        let text = text.map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
        self.frames.put_text(text);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<usize> {
        match self.frames.flush() {
            Ok(()) => Ok(0),
            // One byte more to be watched for, if only TLS has something left.
            Err(error) if error.would_block() => Ok(self.frames.unwritten().max(1)),
            Err(error) => Err(io_error(error)),
        }
    }

    fn take_oversized(&mut self) -> Vec<Oversized> {
        std::mem::take(&mut self.oversized)
    }

    fn ping(&mut self) -> bool {
        self.frames.put_ping(b"");
        true
    }

    fn close(&mut self, _within: Duration) {
        self.say_goodbye(Goodbye::Normal as u16);
    }
}
