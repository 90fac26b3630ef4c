//! A session over one stream, on which both sides call each other, and any thread may call.
//!
//! One thread owns the stream: it alone reads, routes and writes. Everybody else holds an [`Invoker`].
//!
//! ```
//! use std::net::{TcpListener, TcpStream};
//!
//! use sessile::session::JsonRpc;
//! use sessile::session::duplex::{Session, Tcp, TcpAccepted};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let dialled = Session::builder(JsonRpc::new());
//! let session = dialled.connect(Tcp::new(listener.local_addr()?.to_string()))?;
//!
//! // The other side answers what it is asked.
//! let peer = Session::builder(JsonRpc::new())
//!     .on_request(|request| drop(request.respond("hello")))
//!     .connect(TcpAccepted::new(listener.accept()?.0))?;
//!
//! let invoker = session.invoker(); // `Send + Sync + Clone`
//! let said: String = std::thread::spawn(move || invoker.call("greet", &())).join().unwrap()?;
//! assert_eq!(said, "hello");
//! # drop(peer);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - Who waits for an answer is known before a byte of the request is written.
//! - A frame is written as one; frames that are ready together are written together.
//! - An answer finds its caller by one look-up.
//! - When the connection is lost, everybody who waits is told at once. What was sent is never sent
//!   again; what is called after that goes over the next connection, if there is to be one.
//! - Everything is bounded: frames, what waits to be written, what is in flight, answers that nobody
//!   has read, requests of the peer's. At a bound there is an error, or one waits, as one chooses.
//! - A request of the peer's ends when nobody can call back on its behalf any more.
//! - A session is in a [`Registry`], which closes it with all else.
//!
//! # On the session's thread
//!
//! [`on_request`](SessionBuilder::on_request) and [`on_notification`](SessionBuilder::on_notification)
//! run there, and so must not block: a wait for an answer is an error at once. Handlers that may block
//! run on [`Workers`], by [`handlers`](SessionBuilder::handlers).

mod backoff;
mod inbox;
mod invocation;
mod invoker;
mod owner;
mod request;
mod shared;
mod transport;

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use self::invocation::Invocation;
pub use self::invoker::Invoker;
use self::owner::{Handlers, Owner, Settings};
pub use self::request::Request;
pub use self::shared::SessionStats;
use self::shared::{Limits, Phase, Shared};
#[cfg(feature = "dify")]
pub(super) use self::transport::Lines;
#[cfg(fuzzing)]
pub(crate) use self::transport::Splitter;
pub use self::transport::{ChildStdio, Connect, Link, LinkOptions, Stdio, Tcp, TcpAccepted};
#[cfg(feature = "ws")]
pub use self::transport::{WebSocket, WebSocketAccepted};
use super::error::Kind;
#[cfg(feature = "ws")]
pub use super::rfc6455::{AcceptOptions, UpgradeRequest, UpgradeResponse};
use super::{Payload, Protocol, RemoteError, SessionError};
use crate::deadline::Deadline;
use crate::loop_thread::LoopThread;
use crate::registry::Registry;
use crate::workers::Workers;

/// What happens to a call for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for room, up to its time limit.
    #[default]
    Wait,
    /// It is an error at once.
    Refuse,
}

/// What happens when the answers to an invocation are not read as fast as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// That invocation fails. All others go on.
    #[default]
    Fail,
    /// The session stops reading until the reader has caught up: the peer is held back, and with it
    /// everything else on this session.
    Pause,
}

/// A session over one stream. Dropped, it closes.
///
/// It may be used from any thread; mostly it is kept by whoever has to see to its end, and everybody
/// else has an [`Invoker`].
pub struct Session {
    shared: Arc<Shared>,
    thread: LoopThread<Owner>,
}

/// Sets up a [`Session`].
#[must_use = "a builder does nothing until `connect` is called"]
pub struct SessionBuilder {
    protocol: Box<dyn Protocol>,
    name: String,
    limits: Limits,
    settings: Settings,
    handlers: Handlers,
    drop_timeout: Duration,
    registry: Registry,
}

pub(super) fn busy() -> RemoteError {
    RemoteError::new("too much is asked for at once").with_code(RemoteError::SERVER_ERROR)
}

impl SessionBuilder {
    /// What the session is called in snapshots, and its thread. Default: `session`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long connecting may take, name look-up and upgrade included. Default: 10 s.
    pub fn connect_timeout(mut self, wait: Duration) -> Self {
        self.settings.link.connect_timeout = wait;
        self
    }

    /// How long a call waits for each answer, and for room, unless its
    /// [`Invoker`] says otherwise. Default: 60 s.
    pub fn timeout(mut self, wait: Duration) -> Self {
        self.limits.timeout = wait;
        self
    }

    /// How many bytes a frame may have, either way. Ours that is larger is an error for its caller; a
    /// peer that sends one larger has the connection closed. Default: 16 MiB.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.limits.max_frame = bytes;
        self.settings.link.max_frame = bytes;
        self
    }

    /// How many invocations there may be at once. Default: 65,536. Zero counts as one.
    pub fn max_in_flight(mut self, invocations: usize) -> Self {
        self.limits.max_in_flight = invocations.max(1);
        self
    }

    /// How many bytes of frames may wait to be written. One frame always may. Default: 16 MiB.
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_queued = bytes;
        self
    }

    /// What happens to a call for which there is no room. Default: it waits.
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.limits.when_full = policy;
        self
    }

    /// How many bytes of answers may lie unread, for each invocation. One answer always may. Default:
    /// 16 MiB.
    pub fn answers_capacity(mut self, bytes: usize) -> Self {
        self.limits.answers_capacity = bytes;
        self
    }

    /// What happens when answers are not read as fast as they come. Default: their invocation fails.
    pub fn overflow(mut self, policy: Overflow) -> Self {
        self.limits.overflow = policy;
        self
    }

    /// How many requests of the peer's there may be at once. Beyond, one is answered with an error.
    /// Default: 1024.
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.settings.max_requests = requests;
        self
    }

    /// How long the end of a request of the peer's is kept back after its answer, for those who may
    /// still call back on its behalf. Then it is said, and their calls are errors. Default: 5 min.
    pub fn hold_limit(mut self, wait: Duration) -> Self {
        self.limits.hold = wait;
        self
    }

    /// Connects again after the connection was lost: after `shortest`, and after each failure twice as
    /// late, up to `longest`. A connection that is lost sooner than the next would be made is a
    /// failure, too.
    ///
    /// What was in flight fails all the same; what is called meanwhile waits for the next connection,
    /// up to its time limit. Default: a lost connection is the end.
    pub fn reconnect(mut self, shortest: Duration, longest: Duration) -> Self {
        self.settings.reconnect = Some((shortest, longest));
        self
    }

    /// Frames that are written first on each new connection.
    pub fn greeting(mut self, frames: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.settings.greeting = frames.into_iter().collect();
        self
    }

    /// A frame that is written at the beginning and then every so often, whatever handlers do.
    pub fn heartbeat(mut self, every: Duration, frame: impl Into<Vec<u8>>) -> Self {
        self.settings.heartbeat = Some((every.max(Duration::from_millis(1)), frame.into()));
        self
    }

    /// The connection counts as lost when nothing was heard for so long. Default: never.
    pub fn silence(mut self, limit: Duration) -> Self {
        self.settings.silence = Some(limit);
        self
    }

    /// What ends a frame of ours on a stream of lines. The peer's end at a line feed, and empty lines
    /// are passed over. Default: a line feed.
    pub fn terminator(mut self, terminator: &'static str) -> Self {
        self.settings.link.terminator = terminator;
        self
    }

    /// How long what is queued may take to be written when the session is dropped, or closed by its
    /// registry. Default: 1 s.
    pub fn drop_timeout(mut self, wait: Duration) -> Self {
        self.drop_timeout = wait;
        self
    }

    /// The registry that lists the session, as an instance that its thread is using. Ordered closed
    /// there, it closes as by [`Session::close`].
    ///
    /// Default: [`Registry::global`].
    pub fn registry(mut self, registry: &Registry) -> Self {
        self.registry = registry.clone();
        self
    }

    /// Who is told of the peer's requests, on the session's thread; so it must not block.
    ///
    /// Default: each is answered with an error.
    pub fn on_request(mut self, handler: impl Fn(Request) + Send + 'static) -> Self {
        self.handlers.request = Box::new(handler);
        self
    }

    /// Has the peer's requests handled by workers, each with an instance of its own; there one may
    /// block, and call back. When their queue is full, the peer is answered with an error at once.
    ///
    /// A handler that panics, or drops the request, has answered with an error.
    pub fn handlers<T, K>(
        self,
        workers: impl Into<Arc<Workers<T, K>>>,
        handler: impl Fn(&mut T, Request) + Send + Sync + 'static,
    ) -> Self
    where
        T: 'static,
        K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
    {
        let (workers, handler) = (workers.into(), Arc::new(handler));
        self.on_request(move |request| {
            // Where both sides find it: it comes back if the work is refused.
            let kept = Arc::new(Mutex::new(Some(request)));
            let take = |kept: &Mutex<Option<Request>>| {
                kept.lock().unwrap_or_else(PoisonError::into_inner).take()
            };
            let (handler, handed) = (Arc::clone(&handler), Arc::clone(&kept));
            let work = move |instance: &mut T| {
                if let Some(request) = take(&handed) {
                    handler(instance, request);
                }
            };
            match workers.try_submit(work) {
                Ok(handle) => handle.detach(),
                Err(_) => take(&kept).into_iter().for_each(|request| request.fail(&busy())),
            }
        })
    }

    /// Who is told of what the peer tells, on the session's thread; so it must not block.
    ///
    /// Default: nobody.
    pub fn on_notification(
        mut self,
        handler: impl Fn(String, Option<Payload>) + Send + 'static,
    ) -> Self {
        self.handlers.notification = Box::new(handler);
        self
    }

    /// Starts the session's thread, and waits for the first connection.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had, or no connection could be made.
    pub fn connect(self, connector: impl Connect) -> Result<Session, SessionError> {
        let Self { protocol, name, limits, settings, handlers, drop_timeout, registry } = self;
        let failed = |error: anyhow::Error| SessionError::from(Kind::Connect(error));
        let thread = LoopThread::builder(name)
            .registry(&registry)
            .close_timeout(drop_timeout)
            .on_close(|owner: &mut Owner, _, within| owner.close(within))
            .spawn(move |local| {
                let shared = Shared::new(protocol, limits, local.handle());
                let connector = Box::new(connector);
                Ok(Owner::new(shared, local.clone(), handlers, settings, connector))
            });
        let thread = thread.map_err(failed)?;
        let shared = thread.handle().call(|owner| Arc::clone(owner.shared()));
        let shared = shared.ok().and_then(|shared| shared.join().ok());
        let ended = || failed(anyhow::anyhow!("it was closed before there was a connection"));
        let session = Session { shared: shared.ok_or_else(ended)?, thread };
        let up = |phase: &Phase| (*phase != Phase::Connecting).then_some(());
        let _ = session.shared.wait_phase(Deadline::NEVER, up);
        match session.shared.take_no_connection() {
            Some(error) => Err(failed(error)),
            None => Ok(session),
        }
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Sets up a session that speaks this protocol.
    pub fn builder(protocol: impl Protocol) -> SessionBuilder {
        const MIB: usize = 1 << 20;
        let refuse = |request: Request| {
            let error = RemoteError::new("there is no such method");
            request.fail(&error.with_code(RemoteError::METHOD_NOT_FOUND));
        };
        SessionBuilder {
            protocol: Box::new(protocol),
            name: "session".to_owned(),
            limits: Limits {
                max_frame: 16 * MIB,
                max_in_flight: 1 << 16,
                max_queued: 16 * MIB,
                answers_capacity: 16 * MIB,
                overflow: Overflow::default(),
                when_full: WhenFull::default(),
                timeout: Duration::from_secs(60),
                hold: Duration::from_secs(300),
            },
            settings: Settings {
                link: LinkOptions {
                    connect_timeout: Duration::from_secs(10),
                    max_frame: 16 * MIB,
                    terminator: "\n",
                },
                reconnect: None,
                greeting: Vec::new(),
                heartbeat: None,
                silence: None,
                max_requests: 1024,
            },
            handlers: Handlers { request: Box::new(refuse), notification: Box::new(|_, _| ()) },
            drop_timeout: Duration::from_secs(1),
            registry: Registry::global().clone(),
        }
    }

    /// Calls the peer, from any thread.
    #[must_use]
    pub fn invoker(&self) -> Invoker {
        Invoker::new(Arc::clone(&self.shared), None)
    }

    /// What it has done and seen.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.shared.stats()
    }

    /// Waits until there is a connection, no longer than this.
    ///
    /// # Errors
    ///
    /// If there was none in time, or there will be none any more.
    pub fn wait_connected(&self, wait: Duration) -> Result<(), SessionError> {
        let up = |phase: &Phase| match phase {
            Phase::Up => Some(Ok(())),
            Phase::Connecting => None,
            Phase::Down(down) => Some(Err(down.error())),
        };
        let reached = self.shared.wait_phase(Deadline::after(wait), up);
        reached.unwrap_or_else(|| Err(Kind::TimedOut { waited: wait }.into()))
    }

    /// Waits until the session is down for good: closed, or lost without another try. Says whether it
    /// came to that in time.
    #[must_use]
    pub fn wait_down(&self, wait: Duration) -> bool {
        let down = |phase: &Phase| matches!(phase, Phase::Down(_)).then_some(());
        self.shared.wait_phase(Deadline::after(wait), down).is_some()
    }

    /// Whether it is down for good.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.shared.down().is_some()
    }

    /// Takes no more calls, fails those in flight, writes what is queued, closes the connection, and
    /// ends the thread; all that within this time. Says whether it has ended.
    ///
    /// On the session's own thread it does not wait.
    pub fn close(&self, within: Duration) -> bool {
        self.thread.close(within)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("is_down", &self.is_down())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
