//! The settings that the sessions of a pool share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::link::{Limits, Link, Messages};
use super::session::{Settings, WebSocketSession};
#[cfg(feature = "jupyter")]
use crate::deadline::Deadline;
use crate::manager::{CloseReason, InterruptHandle};
use crate::pool::BuildError;
use crate::session::error::{Kind, SessionError};
use crate::session::rfc6455::Connector;
#[cfg(feature = "jupyter")]
use crate::session::rfc6455::Stream;
use crate::session::{ConnectOptions, JsonRpc, Protocol};
use crate::{CreateContext, Manager};

/// Connects a [`WebSocketSession`] for each thread, and holds the settings that they share.
///
/// Cheap to clone. What may be a secret (the URL but for its host, headers, tokens) is in no `Debug`,
/// no error and no event of this crate's. See the [module](super) for an example.
#[derive(Clone)]
pub struct WebSocketManager {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    connect_timeout: Duration,
    limits: Limits,
    settings: Settings,
    protocol: Arc<dyn Protocol>,
}

impl WebSocketManager {
    /// Makes a manager for a URL, or for [`ConnectOptions`], with the default settings for sessions.
    ///
    /// # Errors
    ///
    /// As [`WebSocketBuilder::build`].
    ///
    /// ```
    /// # use sessile::session::websocket::WebSocketManager;
    /// let manager = WebSocketManager::new("ws://127.0.0.1:9000/rpc")?;
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    pub fn new(options: impl Into<ConnectOptions>) -> Result<Self, BuildError> {
        Self::builder(options).build()
    }

    /// Sets up a manager for a URL, or for [`ConnectOptions`].
    ///
    /// ```
    /// # use sessile::session::websocket::WebSocketManager;
    /// use std::time::Duration;
    ///
    /// let manager = WebSocketManager::builder("ws://127.0.0.1:9000/rpc")
    ///     .request_timeout(Duration::from_secs(5))
    ///     .build()?;
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    pub fn builder(options: impl Into<ConnectOptions>) -> WebSocketBuilder {
        WebSocketBuilder {
            options: options.into(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(1),
            keep_alive_interval: Some(Duration::from_secs(20)),
            keep_alive_timeout: Duration::from_secs(10),
            max_message_size: 16 << 20,
            max_frame_size: None,
            any_messages: false,
            max_in_flight: 1024,
            answer_capacity: 16 << 20,
            events: 1024,
            protocol: Arc::new(JsonRpc::new()),
        }
    }

    /// Connects a session, which belongs to whoever called.
    ///
    /// # Errors
    ///
    /// If there is no connection [in time](WebSocketBuilder::connect_timeout):
    /// [`is_connect`](SessionError::is_connect), with a [`ConnectError`](super::ConnectError) as its
    /// source.
    pub fn connect(&self) -> Result<WebSocketSession, SessionError> {
        let Shared { settings, protocol, .. } = &*self.shared;
        let (link, subprotocol) = self.open()?;
        Ok(WebSocketSession::new(link, Arc::clone(protocol), *settings, subprotocol))
    }

    /// The bare link, and the subprotocol that the server chose.
    pub(crate) fn open(&self) -> Result<(Link, Option<String>), SessionError> {
        let Shared { connector, connect_timeout, limits, .. } = &*self.shared;
        let connected = connector.connect(*connect_timeout);
        let (stream, upgraded) = connected.map_err(|error| Kind::Connect(error.into()))?;
        Ok((Link::new(stream, &upgraded.rest, limits), upgraded.subprotocol))
    }

    /// The headers of a request, as lines.
    #[cfg(feature = "jupyter")]
    pub(crate) fn headers(&self) -> Result<Vec<u8>, SessionError> {
        self.shared.connector.headers().map_err(|error| Kind::Connect(error.into()).into())
    }

    /// Only the connection, without the upgrade; it can be read from, and written to, until then.
    #[cfg(feature = "jupyter")]
    pub(crate) fn dial(&self, by: Deadline) -> Result<Stream, SessionError> {
        let within = by.remaining().unwrap_or(Duration::MAX);
        let dialled = self.shared.connector.dial(by, within);
        dialled.map_err(|error| Kind::Connect(error.into()).into())
    }
}

/// `create` connects; `has_broken` is true once a session can neither send nor read; `is_valid` pings;
/// the interrupt shuts the socket, so that whoever waits on it gets an error at once; `close` says
/// goodbye and waits for the peer's, for as long as
/// [`close_timeout`](WebSocketBuilder::close_timeout): a peer that does not answer makes it a close
/// that failed.
impl Manager for WebSocketManager {
    type Instance = WebSocketSession;

    fn create(&self, _: &CreateContext) -> anyhow::Result<WebSocketSession> {
        Ok(self.connect()?)
    }

    fn has_broken(&self, session: &mut WebSocketSession) -> bool {
        session.is_closed()
    }

    fn is_valid(&self, session: &mut WebSocketSession) -> anyhow::Result<()> {
        session.ping()?;
        Ok(())
    }

    fn interrupt(&self, session: &WebSocketSession) -> Option<InterruptHandle> {
        // Weak, so that the socket is closed with its session, however long this is kept.
        let socket = Arc::downgrade(session.socket());
        Some(InterruptHandle::new(move || {
            if let Some(socket) = socket.upgrade() {
                socket.shut_from_afar();
            }
        }))
    }

    fn close(&self, session: WebSocketSession, _: CloseReason) -> anyhow::Result<()> {
        Ok(session.close()?)
    }
}

impl fmt::Debug for WebSocketManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { connector, connect_timeout, limits, settings, .. } = &*self.shared;
        f.debug_struct("WebSocketManager")
            .field("url", &format_args!("{}/..", connector.target()))
            .field("connect_timeout", connect_timeout)
            .field("limits", limits)
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}

/// Sets up a [`WebSocketManager`]. Begun by [`WebSocketManager::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct WebSocketBuilder {
    options: ConnectOptions,
    connect_timeout: Duration,
    request_timeout: Duration,
    close_timeout: Duration,
    keep_alive_interval: Option<Duration>,
    keep_alive_timeout: Duration,
    max_message_size: usize,
    max_frame_size: Option<usize>,
    any_messages: bool,
    max_in_flight: usize,
    answer_capacity: usize,
    events: usize,
    protocol: Arc<dyn Protocol>,
}

impl WebSocketBuilder {
    /// Messages may be other than text, and a server may choose none of the subprotocols. For those
    /// who [`open`](WebSocketManager::open) the bare link.
    #[cfg(feature = "jupyter")]
    pub(crate) fn for_any_messages(mut self) -> Self {
        self.any_messages = true;
        self.options.or_none = true;
        self
    }

    /// Limits the time from the URL to an open WebSocket, unless the options have a
    /// [limit of their own](ConnectOptions::connect_timeout).
    ///
    /// Default: 10 s. Zero is refused by [`build`](Self::build).
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// How long a request waits for its answer, if the call does not say.
    ///
    /// Default: 30 s.
    pub fn request_timeout(mut self, time: Duration) -> Self {
        self.request_timeout = time;
        self
    }

    /// How long the close handshake may take. It runs wherever the session is closed; see
    /// [`Manager`].
    ///
    /// Default: 1 s.
    pub fn close_timeout(mut self, time: Duration) -> Self {
        self.close_timeout = time;
        self
    }

    /// After how long a silence the peer is pinged, by a thread that waits for something. A request
    /// pings sooner, when half its time is over. With `None` no such ping is sent.
    ///
    /// Default: 20 s. Zero is refused by [`build`](Self::build).
    pub fn keep_alive_interval(mut self, silence: impl Into<Option<Duration>>) -> Self {
        self.keep_alive_interval = silence.into();
        self
    }

    /// How long a peer that was pinged may remain silent before the session is broken.
    ///
    /// Default: 10 s. Zero is refused by [`build`](Self::build).
    pub fn keep_alive_timeout(mut self, time: Duration) -> Self {
        self.keep_alive_timeout = time;
        self
    }

    /// Sets the largest message, in bytes, that is read or sent. A larger one from the peer is passed
    /// over: it fails the request that it answers, if that can be told, and else nobody. Only one that
    /// is over the limit by 256 MiB and more than 16 times breaks the session.
    ///
    /// Default: 16 MiB. Zero is refused by [`build`](Self::build).
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// The largest frame, in bytes, that is read: a message may come in several.
    ///
    /// Default: as large as a message. Zero is refused by [`build`](Self::build).
    pub fn max_frame_size(mut self, bytes: usize) -> Self {
        self.max_frame_size = Some(bytes);
        self
    }

    /// How many requests may be under way in a session, those counted whose answers have come and have
    /// not been taken.
    ///
    /// Default: 1024. Zero is refused by [`build`](Self::build).
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.max_in_flight = requests;
        self
    }

    /// How many bytes of answers a session keeps that nobody has taken, and how many of events. An
    /// answer that does not fit is dropped, and its [`wait`](WebSocketSession::wait) fails with
    /// [`is_overflow`](SessionError::is_overflow).
    ///
    /// Default: 16 MiB.
    pub fn answer_capacity(mut self, bytes: usize) -> Self {
        self.answer_capacity = bytes;
        self
    }

    /// How many events a session keeps that nobody has taken. Then the oldest is dropped; see
    /// [`next_event`](WebSocketSession::next_event). With zero all are dropped, and nothing is said
    /// about it.
    ///
    /// Default: 1024.
    pub fn events(mut self, capacity: usize) -> Self {
        self.events = capacity;
        self
    }

    /// How messages look.
    ///
    /// Default: [`JsonRpc`].
    pub fn protocol(mut self, protocol: impl Protocol) -> Self {
        self.protocol = Arc::new(protocol);
        self
    }

    /// Makes the manager. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// If an option has a value that makes no sense; see there. `wss://` is refused without the feature
    /// `tls`.
    pub fn build(self) -> Result<WebSocketManager, BuildError> {
        let zero = [
            ("connect_timeout", self.connect_timeout.is_zero()),
            ("keep_alive_interval", self.keep_alive_interval == Some(Duration::ZERO)),
            ("keep_alive_timeout", self.keep_alive_timeout.is_zero()),
            ("max_message_size", self.max_message_size == 0),
            ("max_frame_size", self.max_frame_size == Some(0)),
            ("max_in_flight", self.max_in_flight == 0),
        ];
        if let Some((option, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(BuildError::new(option, "must not be zero"));
        }
        let connector = self.options.build()?;
        let binary = if connector.binary { Messages::Binary } else { Messages::Text };
        let messages = if self.any_messages { Messages::Any } else { binary };
        Ok(WebSocketManager {
            shared: Arc::new(Shared {
                connector,
                connect_timeout: self.connect_timeout,
                limits: Limits {
                    max_message_size: self.max_message_size,
                    max_frame_size: self.max_frame_size.unwrap_or(self.max_message_size),
                    messages,
                    keep_alive_interval: self.keep_alive_interval,
                    keep_alive_timeout: self.keep_alive_timeout,
                },
                settings: Settings {
                    request_timeout: self.request_timeout,
                    keep_alive_timeout: self.keep_alive_timeout,
                    close_timeout: self.close_timeout,
                    max_in_flight: self.max_in_flight,
                    max_message_size: self.max_message_size,
                    answer_capacity: self.answer_capacity,
                    events: self.events,
                },
                protocol: self.protocol,
            }),
        })
    }
}

impl fmt::Debug for WebSocketBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing of the URL: it has not been looked into.
        f.debug_struct("WebSocketBuilder").finish_non_exhaustive()
    }
}
