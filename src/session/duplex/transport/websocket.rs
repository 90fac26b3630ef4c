//! A frame is a WebSocket message.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;

use super::{Connect, Link, LinkOptions};
use crate::session::rfc6455::{
    self, Connector, Fault, FrameError, Frames, Goodbye, Message, Opening, Role, Stream, Token,
    farewell,
};

/// Dials a WebSocket, a frame being a text message.
///
/// ```no_run
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{Session, WebSocket};
///
/// let way = WebSocket::new("wss://example.org/rpc").bearer_token("..").subprotocol("rpc.v1");
/// let session = Session::builder(JsonRpc::new()).connect(way)?;
/// # Ok::<(), sessile::session::SessionError>(())
/// ```
///
/// The URL begins with `ws://`, or with `wss://` if the feature `tls` is on. Credentials in it, as
/// in `wss://name:password@host/`, are sent as basic authentication. Looking up the name, TCP (each
/// of the host's addresses is tried, with an equal share of the time that is left), TLS and the
/// upgrade all happen on a thread of their own, and within the session's
/// [`connect_timeout`](super::super::SessionBuilder::connect_timeout). If that fails, the cause of
/// the error is a [`ConnectError`](crate::session::websocket::ConnectError).
///
/// What makes no sense among the settings is told by the first connection, as a
/// [`BuildError`](crate::pool::BuildError).
#[derive(Clone)]
#[must_use = "it does nothing until a session connects with it"]
pub struct WebSocket {
    opening: Opening,
    /// Made by the first connection, for all: TLS resumes what it knows.
    connector: Option<Arc<Connector>>,
}

impl WebSocket {
    /// To this URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self { opening: Opening::new(url.into()), connector: None }
    }

    /// Adds a header to the request that opens the connection. Its value may be a secret.
    ///
    /// Default: none. Those that the handshake itself needs are refused.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.opening.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `Authorization: Bearer ..`, in place of what the URL says.
    ///
    /// Default: none. Refused if there is a [header](Self::header) `Authorization` already.
    pub fn bearer_token(mut self, token: &str) -> Self {
        self.opening.token = Some(Token::Fixed(token.to_owned()));
        self
    }

    /// [`bearer_token`](Self::bearer_token), for tokens that expire: asked for one on each
    /// connection, on the thread that dials, and not within the time limit of that.
    ///
    /// Its error must not tell the token.
    pub fn bearer_token_from(
        mut self,
        token: impl Fn() -> anyhow::Result<String> + Send + Sync + 'static,
    ) -> Self {
        self.opening.token = Some(Token::Fresh(Arc::new(token)));
        self
    }

    /// Adds a subprotocol to those the server may choose from, in the order of preference.
    ///
    /// Default: none. If there are any, a server that chooses none of them is not spoken to.
    pub fn subprotocol(mut self, name: &str) -> Self {
        self.opening.subprotocols.push(name.to_owned());
        self
    }

    /// Who finds the addresses for a host and port, in place of the system. It runs on a thread of
    /// its own, within the time limit.
    pub fn resolver(
        mut self,
        resolver: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.opening.resolver = Some(Arc::new(resolver));
        self
    }

    /// Adds a root certificate, in DER, to trust in place of those that browsers trust.
    ///
    /// Default: those that browsers trust, as listed by the crate `webpki-roots`.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn root_certificate(mut self, der: impl Into<Vec<u8>>) -> Self {
        self.opening.roots.push(der.into().into());
        self
    }

    /// All the settings of TLS, in place of those that come from
    /// [`root_certificate`](Self::root_certificate).
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_config(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.opening.tls = Some(config);
        self
    }
}

/// Without URL, headers and token: any may be a secret.
impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").finish_non_exhaustive()
    }
}

impl Connect for WebSocket {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let connector = match &self.connector {
            Some(connector) => connector,
            None => self.connector.insert(Arc::new(self.opening.clone().build()?)),
        };
        let (stream, upgraded) = connector.connect(options.connect_timeout)?;
        messages(stream, Role::Client, &upgraded.rest, options)
    }
}

/// A TCP connection that somebody else has accepted, and on which a WebSocket is now agreed upon.
/// It cannot be made anew.
///
/// Whatever path, headers and subprotocols the client asks with, it is granted its WebSocket, and
/// no subprotocol is chosen.
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
        let (stream, rest) = rfc6455::accept(stream, options.connect_timeout)?;
        messages(stream, Role::Server, &rest, options)
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

fn messages(
    mut stream: Stream,
    role: Role,
    rest: &[u8],
    options: &LinkOptions,
) -> anyhow::Result<Box<dyn Link>> {
    stream.tcp_mut().never_wait()?;
    let max = options.max_frame;
    Ok(Box::new(Messages { frames: Frames::new(stream, role, rest, max, max) }))
}

struct Messages {
    frames: Frames,
}

impl Messages {
    /// Hands out what has been read, and answers what is not for those who call.
    fn hand_out(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            match self.frames.next() {
                Ok(Some(Message::Text(text))) => frame(text.as_bytes()),
                Ok(Some(Message::Binary(bytes))) => frame(bytes),
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
                Err(fault) => {
                    self.say_goodbye(fault.goodbye() as u16);
                    return Err(broken(fault));
                }
            }
        }
    }

    /// As far as that goes without waiting.
    fn say_goodbye(&mut self, code: u16) {
        self.frames.put_close(code);
        let _ = self.frames.flush();
    }
}

fn broken(fault: Fault) -> io::Error {
    let why = match fault {
        Fault::TooLarge { limit, .. } => format!("a frame is over the limit of {limit} bytes"),
        Fault::Malformed(what) => format!("the peer sent {what}"),
    };
    io::Error::new(ErrorKind::InvalidData, why)
}

fn io_error(error: FrameError) -> io::Error {
    match error {
        FrameError::Io(error) => error,
        FrameError::HungUp => ErrorKind::UnexpectedEof.into(),
        FrameError::Fault(fault) => broken(fault),
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

    fn close(&mut self) {
        self.say_goodbye(Goodbye::Normal as u16);
    }
}
